"""Scores of a set of images against a reference, from what one extractor reads in them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errors import UserError
from metrics.features import Extractor, Reading
from metrics.fidelity import inception_score, kernel_distance, precision_recall
from metrics.frechet import frechet_distance, gaussian_statistics
from metrics.modes import kl_divergence, kl_to_uniform, mean_confidence, n_modes
from metrics.neighbours import density_coverage

Score = float | int | list[float] | list[float | None] | None

# Scores made with the published network have plain names, all others carry their extractor's.
PLAIN = "inception"


@dataclass(frozen=True)
class Sets:
    """What all scores are computed from: an extractor's readings of reals and fakes; classes: names of their y."""

    extractor: Extractor
    real: Reading
    fake: Reading
    classes: tuple[str, ...] = ()


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


def check_classes(real: Tensor, fake: Tensor, classes: Sequence[str]) -> None:
    """ValueError for a class (of y (N,), by name) with fewer than 2 images among the reals or the fakes."""
    for kind, y in (("reals", real), ("fakes", fake)):
        counts = torch.bincount(y, minlength=len(classes)).tolist()
        few = [f"{name} {n}" for name, n in zip(classes, counts, strict=True) if n < 2]
        if few:
            raise UserError(
                f"intra_fid needs at least 2 images of every class; of the {kind} there are: {', '.join(few)}; "
                "score more images, or --balanced fakes, or leave intra_fid out"
            )


def _fid(sets: Sets) -> dict[str, Score]:
    real, fake = sets.real.statistics, sets.fake.statistics
    return {sets.extractor.distance: frechet_distance(real.mean, real.covariance, fake.mean, fake.covariance)}


def _kid(sets: Sets) -> dict[str, Score]:
    mean, deviation = kernel_distance(sets.real.features, sets.fake.features)
    return {"kid": mean, "kid_std": deviation}


def _is(sets: Sets) -> dict[str, Score]:
    mean, deviation = inception_score(sets.fake.logits)
    return {"is": mean, "is_std": deviation}


def _pr(sets: Sets) -> dict[str, Score]:
    precision, recall = precision_recall(sets.real.features, sets.fake.features)
    return {"precision": precision, "recall": recall}


def _dc(sets: Sets) -> dict[str, Score]:
    density, coverage = density_coverage(sets.real.features, sets.fake.features)
    return {"density": density, "coverage": coverage}


def _intra_fid(sets: Sets) -> dict[str, Score]:
    check_classes(sets.real.y, sets.fake.y, sets.classes)
    each = []
    for i in range(len(sets.classes)):
        real, fake = (
            gaussian_statistics(reading.features[reading.y == i]) for reading in (sets.real, sets.fake)
        )
        each.append(frechet_distance(*real, *fake))
    return {"intra_fid": sum(each) / len(each), "intra_fids": each}


def _modes(sets: Sets) -> dict[str, Score]:
    shares = sets.fake.statistics.shares
    return {
        "classes": n_modes(shares, sets.extractor.mode_share),
        "kl_uniform": kl_to_uniform(shares),
        "kl_data": kl_divergence(shares, sets.real.statistics.shares),
        "confidence": mean_confidence(sets.fake.logits),
        "shares": shares.tolist(),
    }


def _accuracy(sets: Sets) -> dict[str, Score]:
    accuracy, each = class_accuracy(sets.fake.logits, sets.fake.y)
    return {"class_accuracy": accuracy, "class_accuracies": each}


@dataclass(frozen=True)
class Metric:
    """A row of METRICS.

    compute: the score by its names; better: "low" or "high"; needs: what the sets must hold beside statistics:
    "features" of the reals, "classes" of all images, the extractor's "logits", or "names" of them, or that those are
    the names of the classes "asked" for, or the "library" torch-fidelity; own_name: whether its names say
    by themselves that a classifier has read them; default: whether tools.evaluate computes it unasked; settings: for
    the protocol.
    """

    compute: Callable[[Sets], dict[str, Score]]
    better: str
    help: str
    needs: frozenset[str] = frozenset()
    own_name: bool = False
    default: bool = True
    settings: str = ""


METRICS: dict[str, Metric] = {
    "fid": Metric(_fid, "low", "Frechet distance of the features, arXiv:1706.08500"),
    "kid": Metric(
        _kid, "low", "kernel distance of the features, arXiv:1801.01401", frozenset({"features", "library"}),
        settings="100 subsets of 1000, or of all where there are fewer",
    ),
    "is": Metric(
        _is, "high", "Inception Score, arXiv:1606.03498", frozenset({"library", "logits"}),
        settings="10 splits, shuffled",
    ),
    "pr": Metric(
        _pr, "high", "precision and recall, arXiv:1904.06991", frozenset({"features", "library"}),
        settings="k = 3, of the extractor's features",
    ),
    "dc": Metric(_dc, "high", "density and coverage, arXiv:2002.09797", frozenset({"features"}), settings="k = 5"),
    "modes": Metric(
        _modes, "high", "classes shown, their shares, KL in nats", frozenset({"names"}), own_name=True
    ),
    "accuracy": Metric(
        _accuracy, "high", "share read as the class asked for", frozenset({"classes", "asked"}), own_name=True
    ),
    "intra_fid": Metric(
        _intra_fid, "low", "Frechet distance of each class, and their mean",
        frozenset({"features", "classes"}), default=False,
    ),
}  # fmt: skip


def score(names: Sequence[str], sets: Sets) -> dict[str, Score]:
    """The scores of the rows of METRICS asked for: `fid` and so on, of other networks than the published `fid[NAME]`.

    ValueError: too few images for one of them.
    """
    suffix = "" if sets.extractor.name == PLAIN else f"[{sets.extractor.name}]"
    found: dict[str, Score] = {}
    for name in names:
        row = METRICS[name]
        found |= {
            key if row.own_name else f"{key}{suffix}": value for key, value in row.compute(sets).items()
        }
    return found
