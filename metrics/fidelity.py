"""torch-fidelity's functions of features. arXiv:1801.01401, arXiv:1606.03498, arXiv:1904.06991."""

import importlib
from types import ModuleType

from torch import Tensor

SEED = 2020  # of KID's subsets and of the order of the Inception Score's splits: torch-fidelity's default
KID_SUBSETS, KID_SUBSET = 100, 1000
IS_SPLITS = 10
PR_NEIGHBOURS = 3
PR_ROWS = 2500  # of a matrix of distances held at a time


def library(module: str) -> ModuleType:
    """A module of torch-fidelity; ValueError where it is not installed."""
    try:
        return importlib.import_module(f"torch_fidelity.{module}")
    except ImportError as error:
        raise ValueError(
            f"this score needs torch-fidelity ({error}): pip install 'torch-fidelity>=0.4,<0.5'"
        ) from None


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """KID: mean and deviation of the unbiased squared MMD, kernel (x.y / d + 1)^3, over 100 subsets of at most 1000."""
    found = library("metric_kid").kid_features_to_metric(
        fake,
        real,
        kid_subsets=KID_SUBSETS,
        kid_subset_size=min(KID_SUBSET, len(real), len(fake)),
        rng_seed=SEED,
        verbose=False,
    )
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]


def inception_score(logits: Tensor) -> tuple[float, float]:
    """Mean and deviation over 10 shuffled splits of exp mean KL(p(y|x) || p(y)) of logits (N, K)."""
    found = library("metric_isc").isc_features_to_metric(logits, min(IS_SPLITS, len(logits)), True, SEED)
    return found["inception_score_mean"], found["inception_score_std"]


def precision_recall(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Share of fakes within reach of a real, and of reals of a fake: no further than its third neighbour of its kind.

    ValueError: 3 images or fewer of a kind.
    """
    n = min(len(real), len(fake))
    if n <= PR_NEIGHBOURS:
        raise ValueError(f"precision and recall need more than {PR_NEIGHBOURS} images of each kind, got {n}")
    found = library("metric_prc").prc_features_to_metric(
        fake, real, prc_neighborhood=PR_NEIGHBOURS, prc_batch_size=PR_ROWS, save_cpu_ram=True, verbose=False
    )
    return found["precision"], found["recall"]
