"""Scores from nearest neighbours in the space of features: density and coverage. arXiv:2002.09797."""

import torch
from torch import Tensor

DC_ROWS = 1000  # of a matrix of distances held at a time: 50,000 x 50,000 would be 10 GB


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """(density, coverage) of fakes (M, d) over reals (N, d), by the balls that reach to a real's k-th other real.

    Density: the balls a fake lies in, over k, averaged over the fakes; about 1 where fakes are like reals, and it may
    be more. Coverage: the share of balls that hold a fake. Balls are open. ValueError: k reals or fewer.
    """
    if len(real) <= k:
        raise ValueError(f"density and coverage need more than {k} reals, got {len(real)}")
    inside = torch.zeros((), dtype=torch.int64, device=real.device)
    covered = torch.zeros_like(inside)
    for rows in real.split(DC_ROWS):
        # the smallest is the distance to itself
        radii = torch.cdist(rows, real).topk(k + 1, dim=1, largest=False).values[:, -1]
        within = torch.cdist(rows, fake) < radii[:, None]
        inside += within.sum()
        covered += within.any(dim=1).sum()
    return int(inside) / (k * len(fake)), int(covered) / len(real)
