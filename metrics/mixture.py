"""Mixtures of Gaussians in the plane, and how well a set of points covers their modes."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from errors import NotFinite
from metrics.modes import kl_divergence, kl_to_uniform

NEAR = 3.0  # standard deviations within which a point belongs to a mode; 98.89 % of a perfect sampler's do


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one standard deviation and equal weight at `centres`, (x, y) each; the box is [-1, 1]^2."""

    centres: tuple[tuple[float, float], ...]
    std: float

    def sample(self, n_each: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (n_each * modes, 2) in float32 and the mode (n_each * modes,) each was drawn from."""
        modes = torch.arange(len(self.centres)).repeat_interleave(n_each)
        centres = torch.tensor(self.centres, dtype=torch.float64)[modes]
        noise = torch.randn(len(modes), 2, generator=source, dtype=torch.float64)
        return (centres + self.std * noise).float(), modes


def ring(n: int, radius: float, std: float) -> Mixture:
    """n modes at equal angles on a circle, the first on the right."""
    angles = [2 * math.pi * i / n for i in range(n)]
    return Mixture(tuple((radius * math.cos(a), radius * math.sin(a)) for a in angles), std)


def grid(n: int, spacing: float, std: float) -> Mixture:
    """n x n modes on a square grid around 0, row by row from below."""
    steps = [spacing * (i - (n - 1) / 2) for i in range(n)]
    return Mixture(tuple((x, y) for y, x in itertools.product(steps, steps)), std)


MIXTURES = {
    # radius 10 and std 0.5 in a box of 15, the ring of xyfJASON's study: wider than the literature's 1 and 0.01
    "ring8": ring(8, 2 / 3, 1 / 30),
    # spacing 2 and std 0.05 (arXiv:1705.07761, arXiv:1712.04086) in a box of 5
    "grid25": grid(5, 0.4, 0.01),
}


def check_points(points: Tensor) -> None:
    """NotFinite where one of the points (N, 2) is."""
    if bad := int((~torch.isfinite(points)).any(1).sum()):
        raise NotFinite(f"{bad} of {len(points)} points are not finite")


def nearest_modes(points: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Index (N,) of the nearest centre of points (N, 2), and how many standard deviations away it is, float64.

    ValueError: not (N, 2), no point, or one that is not finite.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"points (N, 2) are needed, not {tuple(points.shape)}")
    check_points(points)
    centres = torch.tensor(mixture.centres, dtype=torch.float64)
    distances, modes = (points.cpu().double()[:, None] - centres).norm(dim=2).min(1)
    return modes, distances / mixture.std


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """Jensen-Shannon divergence of two distributions (K,) in nats: 0 for equal ones, log 2 for disjoint ones."""
    middle = (p + q) / 2
    return (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2


def mixture_scores(points: Tensor, mixture: Mixture) -> dict[str, float | int | list[float]]:
    """How points (N, 2) cover a mixture; divergences in nats. ValueError as nearest_modes.

    A point is of high quality within 3 standard deviations of a centre (98.89 % of a perfect sampler's are, in two
    dimensions). modes: those with at least one such point (arXiv:1705.07761, arXiv:1712.04086); modes_1pct: with at
    least 1 % of all points; shares: of the high-quality points, by mode; kl_uniform: of these from uniform, log K for
    no such point; jsd: of all points, counted by mode and beside all modes, from what a perfect sampler gives.
    """
    modes, deviations = nearest_modes(points, mixture)
    n_modes = len(mixture.centres)
    near = deviations < NEAR
    counts = torch.bincount(modes[near], minlength=n_modes).double()
    n_near = int(near.sum())
    shares = counts / max(n_near, 1)
    inside = 1 - math.exp(-(NEAR**2) / 2)
    perfect = torch.tensor([inside / n_modes] * n_modes + [1 - inside], dtype=torch.float64)
    found = torch.cat([counts, torch.tensor([len(points) - n_near]).double()]) / len(points)
    return {
        "jsd": jensen_shannon(found, perfect),
        "modes": int((counts > 0).sum()),
        "modes_1pct": int((counts >= 0.01 * len(points)).sum()),
        "high_quality": n_near / len(points),
        "kl_uniform": kl_to_uniform(shares) if n_near else math.log(n_modes),
        "shares": shares.tolist(),
    }
