"""Scores of a set of images against a reference, from what one extractor reads in them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from errors import UserError
from metrics.features import Extractor, Reading
from metrics.fidelity import inception_score, n_splits
from metrics.frechet import frechet_distance, gaussian_statistics
from metrics.kernel import SUBSETS, kernel_distance, subset_size
from metrics.mind import DIRECTIONS, projected_distance
from metrics.modes import kl_divergence, kl_to_uniform, mean_confidence, n_modes
from metrics.neighbours import (
    COPY_NEIGHBOURS,
    DC_NEIGHBOURS,
    PR_NEIGHBOURS,
    Originals,
    density_coverage,
    originals,
    precision_recall,
)

Score = float | int | list[float] | list[float | None] | None

# Scores made with the published network have plain names, all others carry their extractor's.
PLAIN = "inception"


@dataclass(frozen=True)
class Sets:
    """What all scores are computed from: an extractor's readings of reals and fakes; classes: names of their y.

    known: of the images that fakes may be copies of, None where nothing looks for them.
    """

    extractor: Extractor
    real: Reading
    fake: Reading
    classes: tuple[str, ...] = ()
    known: Reading | None = None

    @cached_property
    def originals(self) -> Originals:
        """The known image that each fake is nearest to."""
        assert self.known is not None and self.known.features is not None, "the images that are copied"
        return originals(self.known.features, self.fake.features)


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


def check_sizes(names: Sequence[str], n_real: int, n_fake: int, n_known: int) -> None:
    """UserError for a metric that needs more images than there are; n_known: of which fakes may be copies."""
    for name in names:
        least = METRICS[name].least
        if min(n_real, n_fake) < least:
            raise UserError(
                f"{name} needs at least {least} reals and {least} fakes, there are {n_real} and {n_fake}: give more "
                "or choose other --metrics"
            )
        if n_known < (least := METRICS[name].least_known):
            raise UserError(
                f"{name} needs at least {least} training images, there are {n_known}: raise --n_real, or choose other "
                "--metrics, without --neighbours"
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


def _mind(sets: Sets) -> dict[str, Score]:
    return {"mind": projected_distance(sets.real.features, sets.fake.features)}


def _memorisation(sets: Sets) -> dict[str, Score]:
    return {"authpct": 100 * sets.originals.authentic, "duplicates": sets.originals.duplicates}


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
    the names of the classes "asked" for, the "training" images, or the "library" torch-fidelity; least: how many reals,
    and how many fakes, it needs, 2 for a covariance, which is kept of every set; least_known: how many images that
    fakes may be copies of; own_name: whether its names say by
    themselves that a classifier has read them; default: whether tools.evaluate computes it unasked; settings: for the
    protocol, of the numbers of reals and fakes.
    """

    compute: Callable[[Sets], dict[str, Score]]
    better: str
    help: str
    needs: frozenset[str] = frozenset()
    least: int = 2
    least_known: int = 0
    own_name: bool = False
    default: bool = True
    settings: Callable[[int, int], str] | None = None


def _kid_settings(n_real: int, n_fake: int) -> str:
    size = subset_size(min(n_real, n_fake))
    return f"{SUBSETS} subsets of {size}; deviation: over them, divided by n"


def _is_settings(n_real: int, n_fake: int) -> str:
    return f"{n_splits(n_fake)} splits, shuffled; deviation: over them, divided by n"


METRICS: dict[str, Metric] = {
    "fid": Metric(_fid, "low", "Frechet distance of the features, arXiv:1706.08500"),
    # two images a subset: its unbiased estimate divides by n (n - 1)
    "kid": Metric(
        _kid, "low", "kernel distance of the features, arXiv:1801.01401", frozenset({"features"}), least=4,
        settings=_kid_settings,
    ),
    "is": Metric(
        _is, "high", "Inception Score, arXiv:1606.03498", frozenset({"library", "logits"}),
        settings=_is_settings,
    ),
    # a k-th neighbour beside the image itself
    "pr": Metric(
        _pr, "high", "precision and recall, arXiv:1904.06991", frozenset({"features"}), least=PR_NEIGHBOURS + 1,
        settings=lambda *_: f"k = {PR_NEIGHBOURS}, of the extractor's features; closed balls",
    ),
    "dc": Metric(
        _dc, "high", "density and coverage, arXiv:2002.09797", frozenset({"features"}), least=DC_NEIGHBOURS + 1,
        settings=lambda *_: f"k = {DC_NEIGHBOURS}; open balls",
    ),
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
    "mind": Metric(
        _mind, "low", "distance along random directions, arXiv:2605.06797", frozenset({"features"}), default=False,
        settings=lambda *n: f"{DIRECTIONS} directions, {min(n)} images of each kind",
    ),
    "memorisation": Metric(
        _memorisation, "high", "copies of training images; percent that are none, arXiv:2102.08921",
        frozenset({"features", "training"}), least_known=COPY_NEIGHBOURS + 1, default=False,
        settings=lambda n_known, _: f"against {n_known} training images; 1st over {COPY_NEIGHBOURS}th nearest",
    ),
}  # fmt: skip


def score_name(stem: str, extractor: Extractor) -> str:
    """How lines of scores call a score by an extractor: `fid` and so on, of other networks than the published
    `fid[NAME]`."""
    return stem if extractor.name == PLAIN else f"{stem}[{extractor.name}]"


def score(names: Sequence[str], sets: Sets) -> dict[str, Score]:
    """The scores of the rows of METRICS asked for, as score_name calls them.

    ValueError: too few images for one of them.
    """
    found: dict[str, Score] = {}
    for name in names:
        row = METRICS[name]
        found |= {
            key if row.own_name else score_name(key, sets.extractor): value
            for key, value in row.compute(sets).items()
        }
    return found
