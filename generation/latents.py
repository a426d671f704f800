"""Latents of samples, each a function of the seed and its index alone, and their truncation."""

import torch
from torch import Tensor

from ops.rng import generator as seeded

# Latents that G is given at a time: images round by it, so that no other setting moves them.
DRAWN_AT_ONCE = 64
MIN_THRESHOLD = 0.01  # below it all latents are one


def latents(seed: int, start: int, n: int, z_dim: int, threshold: float | None = None) -> Tensor:
    """Latents (n, z_dim) of the indices [start, start + n): one row each, whatever stands beside it.

    threshold: entries beyond it in absolute value are drawn anew, by the same draw at every threshold; None for none.
    """
    return torch.stack(
        [_latent(seeded(seed, "sample", i), z_dim, threshold) for i in range(start, start + n)]
    )


def _latent(source: torch.Generator, z_dim: int, threshold: float | None) -> Tensor:
    z = torch.randn(z_dim, generator=source)
    return z if threshold is None else truncate_latents(z, torch.rand(z_dim, generator=source), threshold)


def truncate_latents(z: Tensor, u: Tensor, threshold: float) -> Tensor:
    """z with entries beyond +-threshold drawn anew from N(0, 1) between them, by u uniform in [0, 1) of the same shape.

    So all entries follow N(0, 1) between the thresholds, and those that do already stay. arXiv:1809.11096 3.1.
    """
    below = torch.special.ndtr(torch.tensor(-threshold, dtype=torch.float64))
    anew = torch.special.ndtri(below + u.double() * (1 - 2 * below)).to(z.dtype).clamp(-threshold, threshold)
    return torch.where(z.abs() > threshold, anew, z)
