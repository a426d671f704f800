"""Frechet distance between Gaussians fitted to two sets of features. arXiv:1706.08500."""

import torch
from torch import Tensor

ROWS = 2**13  # of features that are float64 at a time
WELL_CONDITIONED = 1e-7  # smallest over largest pivot: rounding then moves a root by 1e-9 of the largest


def gaussian_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) over N - 1 of features (N, d), in float64 where these are.

    ValueError: not a matrix, fewer than 2 rows, or a value that is not finite.
    """
    if features.ndim != 2:
        raise ValueError(f"features must be a matrix (N, d), got shape {tuple(features.shape)}")
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 images, got {len(features)}")
    features = features.detach()
    bad = int((~torch.isfinite(features)).any(dim=1).sum())
    if bad:
        raise ValueError(f"{bad} of {len(features)} images have features that are not finite")
    mean = torch.stack([rows.double().sum(dim=0) for rows in features.split(ROWS)]).sum(dim=0) / len(features)
    scatter = mean.new_zeros(len(mean), len(mean))
    for rows in features.split(ROWS):
        centred = rows.double() - mean
        scatter.addmm_(centred.T, centred)
    return mean, scatter / (len(features) - 1)


def frechet_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), in float64, where the statistics are. arXiv:1706.08500 eq. 6.

    Never below 0, which rounding could make it. ValueError: shapes that disagree, or a statistic that is not finite.
    """
    mean_1, cov_1, mean_2, cov_2 = (t.detach().double() for t in (mean_1, cov_1, mean_2, cov_2))
    if mean_1.shape != mean_2.shape or cov_1.shape != cov_2.shape:
        raise ValueError(f"features of {tuple(mean_1.shape)} and {tuple(mean_2.shape)} cannot be compared")
    if not all(torch.isfinite(t).all() for t in (mean_1, cov_1, mean_2, cov_2)):
        raise ValueError("the statistics of the features are not finite")
    trace = cov_1.trace() + cov_2.trace() - 2 * _trace_of_root(cov_1, cov_2)
    return float(((mean_1 - mean_2).square().sum() + trace).clamp(min=0))


def _trace_of_root(cov_1: Tensor, cov_2: Tensor) -> Tensor:
    """tr (S1 S2)^(1/2): with S = F F^T of each the sum of the singular values of F1^T F2.

    Their squares are the eigenvalues of a symmetric matrix, which take a third of the time; but squaring turns rounding
    errors of 1e-16 in the null space of a singular covariance into 1e-8, so that is for well-conditioned ones alone.
    """
    (factor_1, good_1), (factor_2, good_2) = _factor(cov_1), _factor(cov_2)
    product = factor_1.T @ factor_2
    if good_1 and good_2:
        return torch.linalg.eigvalsh(product @ product.T).clamp(min=0).sqrt().sum()
    return torch.linalg.svdvals(product).sum()


def _factor(matrix: Tensor) -> tuple[Tensor, bool]:
    """(F (d, d) with F F^T a positive semi-definite matrix, whether that is well-conditioned).

    Cholesky's factor, which takes a hundredth of the time, or of a singular matrix the symmetric root.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not failed:
        pivots = factor.diagonal().square()
        return factor, bool(pivots.min() > WELL_CONDITIONED * pivots.max())
    values, vectors = torch.linalg.eigh(matrix)
    # Rounding makes eigenvalues of a singular covariance slightly negative.
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T, False
