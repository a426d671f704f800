"""Scores of a set of images against a reference, from what one extractor reads in them."""

from collections.abc import Iterable

import torch
from torch import Tensor

from metrics.features import Extractor, Statistics, extract, statistics
from metrics.frechet import frechet_distance
from metrics.modes import kl_divergence, kl_to_uniform, mean_confidence, n_modes

Score = float | int | list[float] | list[float | None] | None


def class_accuracy(logits: Tensor, asked: Tensor) -> tuple[float, list[float | None]]:
    """Share of the images (N, K) whose largest logit is the class asked for (N,): of all, and of each class.

    None for a class that no image was asked for. ValueError: labels that do not fit the logits.
    """
    asked = asked.to(logits.device)
    if tuple(asked.shape) != (len(logits),) or asked.is_floating_point() or len(logits) == 0:
        given = f"{asked.dtype} {tuple(asked.shape)}"
        raise ValueError(f"({len(logits)},) classes, one an image, are needed, not {given}")
    n_classes = logits.shape[1]
    if int(asked.min()) < 0 or int(asked.max()) >= n_classes:
        raise ValueError(
            f"classes {int(asked.min())} to {int(asked.max())}: the extractor knows 0 to {n_classes - 1}"
        )
    right = (logits.argmax(1) == asked).double()
    counts = torch.bincount(asked, minlength=n_classes).tolist()
    hits = torch.bincount(asked, right, minlength=n_classes).tolist()
    each = [hit / count if count else None for hit, count in zip(hits, counts, strict=True)]
    return float(right.mean()), each


def score(
    extractor: Extractor, fakes: Iterable[Tensor], reference: Statistics, asked: Tensor | None = None
) -> dict[str, Score]:
    """fid[extractor], number of classes shown, shares, KL to uniform and to the data, mean confidence, accuracies.

    fakes: uint8 batches (n, C, H, W); asked: the class (N,) each should show, as the extractor numbers them, for
    class_accuracy and class_accuracies, which are None without. KLs are in nats. ValueError: fewer than 2 images, or
    features that are not finite.
    """
    features, logits = extract(extractor, fakes)
    found = statistics(features, logits)
    accuracy, accuracies = (None, None) if asked is None else class_accuracy(logits, asked)
    return {
        f"fid[{extractor.name}]": frechet_distance(
            reference.mean, reference.covariance, found.mean, found.covariance
        ),
        "classes": n_modes(found.shares, extractor.mode_share),
        "kl_uniform": kl_to_uniform(found.shares),
        "kl_data": kl_divergence(found.shares, reference.shares),
        "confidence": mean_confidence(logits),
        "shares": found.shares.tolist(),
        "class_accuracy": accuracy,
        "class_accuracies": accuracies,
    }
