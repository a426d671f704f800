"""Scores of a set of images against a reference, from what one extractor reads in them."""

from collections.abc import Iterable

from torch import Tensor

from metrics.features import Extractor, Statistics, extract, statistics
from metrics.frechet import frechet_distance
from metrics.modes import kl_divergence, kl_to_uniform, mean_confidence, n_modes

Score = float | int | list[float]


def score(extractor: Extractor, fakes: Iterable[Tensor], reference: Statistics) -> dict[str, Score]:
    """fid[extractor], classes with at least 1 %, shares, KL to uniform and to the data, mean confidence.

    fakes: uint8 batches (n, C, H, W). KLs are in nats. ValueError: fewer than 2 images, or features that are
    not finite.
    """
    features, logits = extract(extractor, fakes)
    found = statistics(features, logits)
    return {
        f"fid[{extractor.name}]": frechet_distance(
            reference.mean, reference.covariance, found.mean, found.covariance
        ),
        "classes": n_modes(found.shares),
        "kl_uniform": kl_to_uniform(found.shares),
        "kl_data": kl_divergence(found.shares, reference.shares),
        "confidence": mean_confidence(logits),
        "shares": found.shares.tolist(),
    }
