"""Scores of a generator with everything that is needed to measure the same again."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from errors import UserError, tell
from generation.indexed import (
    IndexedImages,
    generated,
    labels_for,
    real_images,
    reference_index,
    same_labels,
)
from generation.latents import latents
from generation.neighbours import neighbour_picture
from generation.protocol import image_protocol, point_protocol, score_line
from generation.reading import read_images
from generation.sampling import draws_noise, generate, undisturbed
from generation.version import code_version
from images.batches import ImageData
from metrics.dinov2 import DINOV2
from metrics.features import (
    EXTRACTORS,
    Extractor,
    Reading,
    load_reading,
    read,
    reading_file,
    save_reading,
    scoring_device,
)
from metrics.fidelity import library
from metrics.inception import NAME as INCEPTION
from metrics.mixture import MIXTURES, mixture_scores
from metrics.score import METRICS, Metric, Sets, check_classes, check_sizes, score
from ops.distributed import from_main
from pretrained.lite0 import NAME as LITE0

FEW = 10_000
CHANNELS = (1, 3)  # of images that extractors read
TIMED = 64  # fakes from which the time of all is told
OTHERS = (INCEPTION, *EXTRACTORS, *DINOV2, LITE0)
MOST = 10_000_000  # of Inception they are 120 GB of features


def check_count(n_fake: int) -> None:
    """UserError for more fakes than any machine scores."""
    if n_fake > MOST:
        raise UserError(f"{n_fake} fakes: at most {MOST} are scored; lower --n, --eval_n in training")


def seconds_of(action: Callable[[], object]) -> float:
    """How long an action takes."""
    began = time.monotonic()
    action()
    return time.monotonic() - began


def check_judge(extractor: str, readers: Mapping[str, str]) -> None:
    """UserError where a generator's scores would be read by a network that its D sees by, one of `readers`."""
    if extractor in readers:
        raise UserError(
            f"--extractor {extractor}: the D of this run sees by {extractor}, and G is trained to please it, so that a "
            f"score would say nothing: read with another, {', '.join(n for n in OTHERS if n not in readers)}"
        )


class Evaluator:
    """Scores of one generator after another, or of other images, against one reference by one extractor.

    All processes of a group make one and call it together. data: the reference, of which n_real images are drawn, None
    for as many as fakes, or all; what fakes may be copies of are all its images, or n_real where that is given; config:
    generator/config.json, whose labels the fakes are asked for, balanced: with classes in turn; split: the name of the
    reference's split; metrics: rows of METRICS, None for all that are computed by default and can be; fakes: images in
    place of a generator's; cache_dir: where readings of reals are kept; neighbours: draw the fakes that are most like
    copies, as `picture`; interrupted: asked between chunks of images, True gives the score up.
    ValueError, before anything is computed: too few images, metrics or labels that do not fit.
    """

    def __init__(
        self,
        extractor: Extractor,
        data: ImageData,
        config: dict[str, Any],
        *,
        n_fake: int,
        n_real: int | None = None,
        split: str = "train",
        metrics: Sequence[str] | None = None,
        seed: int = 0,
        balanced: bool = False,
        fakes: IndexedImages | None = None,
        cache_dir: Path,
        neighbours: bool = False,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.extractor, self.data, self.config, self.cache_dir = extractor, data, config, cache_dir
        self.n_fake, self.n_real = n_fake, min(n_fake, len(data)) if n_real is None else n_real
        self.n_known = len(data) if n_real is None else n_real
        check_count(n_fake)
        self.split, self.seed, self.balanced, self.fakes = split, seed, balanced, fakes
        self._check_reference()
        if fakes is None:
            check_judge(extractor.name, config.get("readers_of_d", {}))
        labels = labels_for(data, n_fake, config, balanced) if fakes is None else fakes.y
        self.labels = labels
        # those of classes in turn may be others than the reference's
        known = labels is not None and (fakes is not None or same_labels(data, config))
        self.y = labels if known and labels.dim() == 1 else None
        self.reals = real_images(data, reference_index(data, self.n_real), "reference")
        self.neighbours = neighbours
        self.metrics = self._fitting(self._choose(metrics), asked=metrics is not None)
        if "intra_fid" in self.metrics:
            check_classes(self.reals.y, self.y, data.label_names)
        needed = frozenset().union(*(METRICS[name].needs for name in self.metrics))
        self.keeps_features, self.looks_for_copies = "features" in needed, "training" in needed
        code_version()  # that which runs now, though the checkout may move on
        self.interrupted = interrupted
        self._say_overlap()
        # on the main process, from the first score on
        self.picture: Image.Image | None = None
        self.real: Reading | None = None
        self.known: Reading | None = None
        if (n := min(n_fake, self.n_real)) < FEW:
            tell(f"warning: {n} images are below {FEW}: fid rises as n falls; compare only with equal n")

    def _check_reference(self) -> None:
        if torch.as_tensor(self.data.images[:1]).is_floating_point():
            raise UserError(
                f"{self.data.name}: its samples are points of the plane, and extractors read images"
            )
        if (channels := self.data.img_channels) not in CHANNELS:
            raise UserError(
                f"{self.data.name}: its images have {channels} channels, and extractors read 1 (grey) or 3 (colour)"
            )
        if len(self.data) < self.n_real:
            raise UserError(
                f"{self.n_real} reals are asked for, but the reference, {self.data.name} {self.split}, has "
                f"{len(self.data)} images: lower --n_real, or leave it out"
            )

    def _say_overlap(self) -> None:
        if self.fakes is None or self.fakes.source != self.data.fingerprint:
            return
        n = self.n_known if self.looks_for_copies else self.n_real
        if (n_both := self.n_fake + n - len(self.data)) > 0:
            tell(
                f"warning: {n_both} fakes are among the reference of {n} images: lower --n and --n_real to less than "
                "half of the images"
            )

    def _choose(self, asked: Sequence[str] | None) -> list[str]:
        """Rows of METRICS to compute; ValueError for one that is unknown or cannot be, or without torch-fidelity."""
        classes, names = tuple(self.extractor.classes), tuple(self.data.label_names)
        lacks: dict[str, str] = {}
        if not self.extractor.has_logits:
            lacks["logits"] = f"{self.extractor.name} has features alone and reads no classes"
        if not classes:
            lacks["names"] = f"{self.extractor.name} reads no classes that have names"
        if self.reals.y is None or self.y is None:
            lacks["classes"] = "it needs one class an image, of reals and fakes"
        if self.split not in (held := self.config.get("data", {}).get("split", self.split), "all"):
            lacks["training"] = (
                f"it looks for copies of the images of the training, {held}: leave --split out"
            )
        if not classes or classes != names:
            lacks["asked"] = f"{self.extractor.name} reads ({', '.join(classes)}), not ({', '.join(names)})"
        if asked is not None and not asked:
            raise UserError(f"--metrics: name at least one of {', '.join(METRICS)}")
        names = [n for n, row in METRICS.items() if row.default] if asked is None else [*asked]
        if self.neighbours and "memorisation" not in names:
            names.append("memorisation")
        chosen = []
        for name in names:
            if name not in METRICS:
                raise UserError(f"--metrics {name}: choose among {', '.join(METRICS)}")
            missing = [lacks[need] for need in sorted(METRICS[name].needs) if need in lacks]
            if missing and (asked is not None or not METRICS[name].default):
                raise UserError(f"--metrics {name}: {missing[0]}")
            if not missing:
                chosen.append(name)
        if any("library" in METRICS[name].needs for name in chosen):
            library("metric_isc")
        return chosen

    def _fitting(self, names: list[str], *, asked: bool) -> list[str]:
        """Those that there are images enough for, which says what else is left out unless all were asked for; UserError
        for too few."""
        n = min(self.n_fake, self.n_real)
        fit = [name for name in names if asked or METRICS[name].least <= n] or names
        check_sizes(fit, self.n_real, self.n_fake, self.n_known)
        if out := [name for name in names if name not in fit]:
            tell(f"note: {n} images are too few for {', '.join(out)}: left out")
        return fit

    @property
    def better(self) -> str:
        """Whether the first of the metrics, which decides what is best, should be "low" or "high"."""
        return METRICS[self.metrics[0]].better

    def _read_reals(self) -> None:
        """The reference, and what fakes may be copies of."""
        if from_main(lambda: self.real is not None):
            return
        real = known = self._reading_of(self.reals, self.keeps_features)
        if self.n_known != self.n_real and self.looks_for_copies:
            images = real_images(self.data, reference_index(self.data, self.n_known), "training images")
            known = self._reading_of(images, True)
        # together: a failure between them leaves neither
        self.real, self.known = real, known

    def _reading_of(self, reals: IndexedImages, with_features: bool) -> Reading | None:
        """What the extractor reads in reals, on the main process, from the cache where that is whole."""
        shape = tuple(self.data.images.shape[1:])
        identity = {"data": self.data.fingerprint, "n": reals.n, "shape": shape, "draw": "reference"}
        file = reading_file(self.extractor, identity, self.cache_dir)
        kept: list[Reading] = []

        def is_cached() -> bool:
            held = load_reading(file, with_features, scoring_device(self.extractor))
            kept.extend([] if held is None else [held])
            return held is not None

        if from_main(is_cached):
            return kept[0] if kept else None
        with undisturbed(None, self.extractor.device):
            rows = read_images(self.extractor, reals, reals.kind, self.interrupted)

        def keep() -> None:
            kept.append(read(*rows))
            with contextlib.suppress(OSError):  # costs only time, the next time
                save_reading(file, kept[0], with_features)

        from_main(keep)
        return kept[0] if kept else None

    def score(
        self,
        G: nn.Module | None = None,
        *,
        step: int,
        weights: str | None = None,
        batch_norm: str | None = None,
        threshold: float | None = None,
        **how: Any,
    ) -> dict[str, Any]:
        """One line of scores.jsonl, equal on all processes: step, scores, protocol, date.

        G: a sampling copy in eval mode, None where other images were given to the constructor; weights, batch_norm:
        what the protocol says of it; threshold, how: truncation, see `generated`. ValueError, on all processes, for
        images or features that are not finite.
        """
        images = self.fakes
        if images is None:
            assert G is not None, "a generator, or the images in its place"
            images = generated(G, self.n_fake, self.seed, self.labels, threshold, **how)
        self._read_reals()
        with undisturbed(G, self.extractor.device):
            rows = read_images(self.extractor, images, "fakes", self.interrupted)
        of_generator = {
            "weights": weights,
            "truncation": how.get("truncation") if threshold is None else threshold,
            "truncation_layers": how.get("truncation_layers"),
            "batch_norm": batch_norm,
            "layer_noise": "random" if G is not None and self.fakes is None and draws_noise(G) else None,
        }

        def line() -> dict[str, Any]:
            real, fake = replace(self.real, y=self.reals.y), read(*rows, self.y)
            sets = Sets(self.extractor, real, fake, tuple(self.data.label_names), self.known)
            found = score(self.metrics, sets)
            if self.neighbours:
                known = real_images(self.data, reference_index(self.data, self.n_known), "training images")
                with undisturbed(G, self.extractor.device):
                    self.picture = neighbour_picture(sets.originals, images, known)
            judged = (next(iter(found)), self.better)
            about = self._protocol(images) | of_generator
            return score_line(step, found, about, self.extractor.device, judged)

        return from_main(line)

    def seconds(self, G: nn.Module) -> float:
        """About how long fakes take to be drawn and read for a score, from a few of them; of the reference, read once,
        and of the scores themselves it says nothing."""
        n = min(TIMED, self.n_fake)
        images = generated(G, n, self.seed, None if self.labels is None else self.labels[:n])
        with undisturbed(G, self.extractor.device):
            # once to prepare
            took = [
                seconds_of(lambda: read_images(self.extractor, images, "fakes", lambda: False))
                for _ in range(2)
            ]
        return min(took) * self.n_fake / n

    def _protocol(self, images: IndexedImages) -> dict[str, Any]:
        """What is to be said of an evaluation of these images, but for what is known of G."""
        settings = {name: self._settings(METRICS[name]) for name in self.metrics if METRICS[name].settings}
        labels = "balanced: the classes in turn" if self.balanced else "of the reference images"
        return image_protocol(
            self.extractor,
            self.data,
            fakes=images.kind,
            n_fake=self.n_fake,
            n_real=self.n_real,
            split=self.split,
            settings=settings,
            labels=labels if self.fakes is None and self.labels is not None else None,
            seed=self.seed,
        ) | {"best_by_settings": settings.get(self.metrics[0])}

    def _settings(self, row: Metric) -> str:
        assert row.settings is not None
        return row.settings(self.n_known if "training" in row.needs else self.n_real, self.n_fake)


class PointEvaluator:
    """Scores of generators of points, against the mixture that the data are drawn from; a family of Evaluator.

    n_fake points are drawn as tools.sample draws them. ValueError for fewer than one.
    """

    better = "low"

    def __init__(self, data: ImageData, config: dict[str, Any], *, n_fake: int, seed: int = 0) -> None:
        if n_fake < 1:
            raise UserError(f"{n_fake} points: give at least 1")
        check_count(n_fake)
        self.data, self.n_fake, self.seed = data, n_fake, seed
        self.mixture = MIXTURES[data.name]
        if n_fake < FEW:
            tell(
                f"warning: {n_fake} points are below {FEW}: rare modes may be missed; compare only with equal n"
            )
        self.labels = labels_for(data, n_fake, config, balanced=False)

    def score(
        self, G: nn.Module, *, step: int, weights: str | None = None, batch_norm: str | None = None
    ) -> dict[str, Any]:
        """One line of scores.jsonl, equal on all processes; ValueError for points that are not finite."""
        device = next(G.parameters()).device

        def line() -> dict[str, Any]:
            with undisturbed(G, device):
                z = latents(self.seed, 0, self.n_fake, G.z_dim)
                points = generate(G, z, self.labels).flatten(1)
            found = mixture_scores(points, self.mixture)
            return score_line(step, found, about, device, ("jsd", self.better))

        labels = None if self.labels is None else "of the data"
        about = point_protocol(self.data, n_fake=self.n_fake, labels=labels, seed=self.seed)
        about |= {"weights": weights, "batch_norm": batch_norm}
        return from_main(line)

    def seconds(self, G: nn.Module) -> float:
        """How long a score takes."""
        return seconds_of(lambda: self.score(G, step=0))
