"""Kernel distance between two sets of features. arXiv:1801.01401."""

import numpy as np
import torch
from torch import Tensor

SEED = 2020  # of the draw of subsets: torch-fidelity's, and so are number and size
SUBSETS, SUBSET = 100, 1000


def subset_size(n: int) -> int:
    """Size of the subsets of n images: 1000, or half of fewer than 2000, so that none is the whole set."""
    return min(SUBSET, n // 2)


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """KID of features (N, d) and (M, d): mean and deviation of the squared MMD over 100 subsets of `subset_size`.

    In float64, where the features are. ValueError: fewer than 4 of either.
    """
    size = subset_size(min(len(real), len(fake)))
    if size < 2:
        raise ValueError(f"the kernel distance needs 4 images of each kind, got {len(real)} and {len(fake)}")
    draw = np.random.RandomState(SEED)

    def subset(features: Tensor) -> Tensor:
        index = torch.from_numpy(draw.choice(len(features), size, replace=False))
        return features[index.to(features.device)].double()

    # of each pair the fakes are drawn first
    values = torch.stack([_squared_mmd(subset(fake), subset(real)) for _ in range(SUBSETS)])
    return float(values.mean()), float(values.std(correction=0))


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared MMD of x (n, d) and y (n, d) by the kernel (x.y / d + 1)^3. arXiv:1801.01401 eq. 4."""
    n, d = x.shape
    one = x.new_ones(())
    # in place: the passes over a kernel cost as much as its product
    within_x, within_y, between = (
        torch.addmm(one, a, b.T, alpha=1 / d).pow_(3) for a, b in ((x, x), (y, y), (x, y))
    )
    off_diagonal = sum(k.sum() - k.diagonal().sum() for k in (within_x, within_y))
    return off_diagonal / (n * (n - 1)) - 2 * between.mean()
