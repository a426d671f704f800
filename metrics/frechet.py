"""Frechet distance between Gaussians fitted to two sets of features. arXiv:1706.08500."""

import torch
from torch import Tensor


def gaussian_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) over N - 1 of features (N, d), in float64 on the CPU.

    ValueError: not a matrix, fewer than 2 rows, or a value that is not finite.
    """
    if features.ndim != 2:
        raise ValueError(f"features must be a matrix (N, d), got shape {tuple(features.shape)}")
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 images, got {len(features)}")
    features = features.detach().cpu().double()
    bad = int((~torch.isfinite(features)).any(dim=1).sum())
    if bad:
        raise ValueError(f"{bad} of {len(features)} images have features that are not finite")
    mean = features.mean(dim=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), computed in float64. arXiv:1706.08500 eq. 6.

    ValueError: shapes that disagree, or a statistic that is not finite.
    """
    mean_1, cov_1, mean_2, cov_2 = (t.detach().cpu().double() for t in (mean_1, cov_1, mean_2, cov_2))
    if mean_1.shape != mean_2.shape or cov_1.shape != cov_2.shape:
        raise ValueError(f"features of {tuple(mean_1.shape)} and {tuple(mean_2.shape)} cannot be compared")
    if not all(torch.isfinite(t).all() for t in (mean_1, cov_1, mean_2, cov_2)):
        raise ValueError("the statistics of the features are not finite")
    # tr (S1 S2)^(1/2) is the sum of the singular values of S1^(1/2) S2^(1/2): the square roots of the
    # eigenvalues of S1^(1/2) S2 S1^(1/2), without squaring the matrix first, which would turn rounding
    # errors of 1e-16 in the null space of a singular covariance into 1e-8.
    cross = torch.linalg.svdvals(_symmetric_sqrt(cov_1) @ _symmetric_sqrt(cov_2)).sum()
    trace = cov_1.trace() + cov_2.trace() - 2 * cross
    return float((mean_1 - mean_2).square().sum() + trace)


def _symmetric_sqrt(matrix: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite matrix (d, d)."""
    values, vectors = torch.linalg.eigh(matrix)
    # Rounding makes eigenvalues of a singular covariance slightly negative.
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
