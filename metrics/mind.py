"""MIND: how far two sets of features are apart along random directions. arXiv:2605.06797."""

import torch
from torch import Tensor

from ops.rng import generator

DIRECTIONS = 1000
CELLS = 2**22  # of the projections held at a time


def projected_distance(real: Tensor, fake: Tensor, n_directions: int = DIRECTIONS) -> float:
    """3 d times the mean squared difference of projections of features (N, d) and (M, d), sorted along each direction.

    That is 3 d times the squared 2-Wasserstein distance in one dimension, averaged over random unit directions. Of the
    larger set as many rows are taken as of the other, by a fixed draw, as the directions are. In float64.
    """
    n, d = min(len(real), len(fake)), real.shape[1]
    normal = torch.randn(n_directions, d, dtype=torch.float64, generator=generator(0, "mind", d))
    directions = (normal / normal.norm(dim=1, keepdim=True)).to(real.device)
    real, fake = (_rows(features, n).double() for features in (real, fake))
    total = torch.zeros((), dtype=torch.float64, device=real.device)
    for part in directions.split(max(1, CELLS // n)):
        # (directions, n): as contiguous rows they sort fastest
        x, y = ((part @ features.T).sort(1).values for features in (real, fake))
        total += (x - y).square().mean(1).sum()
    return 3 * d * float(total) / n_directions


def _rows(features: Tensor, n: int) -> Tensor:
    """n of the rows: all, or a fixed draw."""
    if len(features) == n:
        return features
    index = torch.randperm(len(features), generator=generator(0, "mind", "rows"))[:n].sort().values
    return features[index.to(features.device)]
