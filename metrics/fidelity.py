"""The Inception Score, by torch-fidelity. arXiv:1606.03498."""

import importlib
from types import ModuleType

from torch import Tensor

SEED = 2020  # of the order of the images: torch-fidelity's default
IS_SPLITS = 10


def library(module: str) -> ModuleType:
    """A module of torch-fidelity; ValueError where it is not installed."""
    try:
        return importlib.import_module(f"torch_fidelity.{module}")
    except ImportError as error:
        raise ValueError(
            f"this score needs torch-fidelity ({error}): pip install 'torch-fidelity>=0.4,<0.5'"
        ) from None


def n_splits(n: int) -> int:
    """Number of splits of n images: 10, or so many that each has 2: of one image alone the score is 1."""
    return min(IS_SPLITS, n // 2)


def inception_score(logits: Tensor) -> tuple[float, float | None]:
    """Mean and deviation over `n_splits` shuffled splits of exp mean KL(p(y|x) || p(y)) of logits (N, K).

    The deviation of one split is None. ValueError: fewer than 2 images.
    """
    splits = n_splits(len(logits))
    if splits < 1:
        raise ValueError(f"the Inception Score needs 2 images, got {len(logits)}")
    found = library("metric_isc").isc_features_to_metric(logits.cpu(), splits, True, SEED)
    return found["inception_score_mean"], found["inception_score_std"] if splits > 1 else None
