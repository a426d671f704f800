"""Scores of a network that translates pictures: of each translation against its target, and of all of them together."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError
from generation.evaluation import CHANNELS, Evaluator, seconds_of
from generation.indexed import IndexedImages
from generation.protocol import image_protocol, score_line
from generation.reading import read_images, read_rows
from generation.sampling import undisturbed
from generation.translator import translate
from images.batches import ImageData, images_of
from metrics.features import READ_AT_ONCE, Extractor, to_uint8
from metrics.lines import TRANSLATIONS
from metrics.pairwise import PAIRWISE, pair_scores
from metrics.score import METRICS, Score
from ops.distributed import from_main

Sources = Callable[[int, int], Tensor]  # start, stop -> (stop - start, C, h, w), uint8 or in [-1, 1]

TIMED = 4  # translations from which the time of all is told
BACK = "BtoA"  # of two directions in one line, that whose scores say so
UNLABELLED = {"n_labels": 0, "multi_hot": False, "label_names": [], "data": {"split": "train"}}
USUAL = {True: ("l1", "psnr", "ssim", "fid"), False: ("fid",)}  # of pairs, of sides without partners
# Of a row of METRICS, what translations are without.
LACKING = {
    "classes": "translations have no classes",
    "asked": "translations have no classes",
    "training": "it looks for copies of training images, and translations are of those of validation",
}


def check_metrics(names: Sequence[str], paired: bool) -> None:
    """UserError for a name that is of neither table, or that cannot be computed of translations."""
    known = {
        **(PAIRWISE if paired else {}),
        **{n: r for n, r in METRICS.items() if not r.needs & LACKING.keys()},
    }
    if not names:
        raise UserError(f"--metrics: name at least one of {', '.join(known)}")
    for name in names:
        if name in known:
            continue
        reason = "it is no score"
        if name in PAIRWISE:
            reason = "it holds a translation against its target, and these pictures have no partners"
        elif name in METRICS:
            reason = LACKING[min(METRICS[name].needs & LACKING.keys())]
        raise UserError(f"--metrics {name}: {reason}: choose among {', '.join(known)}")


class TranslationEvaluator:
    """Scores of one network after another on the validation part, by rows of PAIRWISE and METRICS; the first decides.

    All processes of a group make one and call it together. reader: the network that reads pictures, None where no
    metric needs one; sources: inputs by their numbers; n_sources: how many there are, None for as many as targets; n:
    how many of them are translated at most, None for all; targets: what translations are held against, all of them; the
    i-th is the partner of the i-th source where they are paired; about: generator/config.json; metrics: None for USUAL
    ones that the pictures bear; source_fingerprint: of the sources, for the protocol; seed: of what networks draw;
    cache_dir, interrupted: as of Evaluator. UserError, before anything is computed, for metrics that do not fit.
    """

    def __init__(
        self,
        reader: Extractor | None,
        *,
        sources: Sources,
        targets: ImageData,
        paired: bool,
        about: Mapping[str, Any],
        metrics: Sequence[str] | None = None,
        cache_dir: Path,
        interrupted: Callable[[], bool] = lambda: False,
        n: int | None = None,
        n_sources: int | None = None,
        split: str = "val",
        source_fingerprint: str | None = None,
        seed: int = 0,
    ) -> None:
        self.sources, self.targets, self.interrupted = sources, targets.without_labels(), interrupted
        there = len(targets) if n_sources is None or paired else n_sources
        self.n = there if n is None else min(n, there)
        if self.n < 1:
            raise UserError(f"--n {n}: give at least 1")
        least = min(targets.images.shape[1:3])
        self.metrics = self._usual(paired, least) if metrics is None else list(metrics)
        self.reader, self.split, self.seed = reader, split, seed
        self.said = {
            "pairing": about.get("data", {}).get("pairing"),
            "source_fingerprint": source_fingerprint,
        }
        check_metrics(self.metrics, paired)
        self.pairwise = [name for name in self.metrics if name in PAIRWISE]
        for name in self.pairwise:
            if least < (wanted := PAIRWISE[name].least):
                height, width = targets.images.shape[1:3]
                raise UserError(
                    f"--metrics {name}: it needs {wanted} px a side, the images have {height} x {width}"
                )
        of_sets = [name for name in self.metrics if name in METRICS]
        self.evaluator = self._evaluator(of_sets, cache_dir) if of_sets else None
        self.G: nn.Module | None = None  # while it is scored
        self._values: dict[int, Tensor] = {}  # of PAIRWISE, by the number of a chunk's first image

    def _usual(self, paired: bool, least: int) -> list[str]:
        """Those of USUAL that pictures of so many px a side bear; of sides without partners all, so that a refusal says
        what they lack."""
        few, odd = min(self.n, len(self.targets)), self.targets.img_channels not in CHANNELS

        def bear(name: str) -> bool:
            if name in PAIRWISE:
                return PAIRWISE[name].least <= least
            return not paired or (few >= METRICS[name].least and not odd)

        return list(filter(bear, USUAL[paired]))

    def _evaluator(self, metrics: list[str], cache_dir: Path) -> Evaluator:
        """What scores the translations as a set; UserError."""
        if self.reader is None:
            raise UserError(
                f"--metrics {metrics[0]}: a network must read the pictures: --extractor chooses one"
            )
        if (channels := self.targets.img_channels) not in CHANNELS:
            kinds = "1 (grey) or 3 (colour)"
            raise UserError(
                f"--metrics {metrics[0]}: pictures have {channels} channels, and extractors read {kinds}"
            )
        return Evaluator(
            self.reader, self.targets, UNLABELLED, n_fake=self.n, n_real=len(self.targets), split=self.split,
            metrics=metrics, seed=self.seed, fakes=IndexedImages(self.n, self._chunk, kind=TRANSLATIONS),
            cache_dir=cache_dir, interrupted=self.interrupted,
        )  # fmt: skip

    @property
    def better(self) -> str:
        """Whether the first of the metrics, which decides what is best, should be "low" or "high"."""
        return (PAIRWISE | METRICS)[self.metrics[0]].better

    def _chunk(self, start: int, stop: int) -> Tensor:
        """Translations start .. stop - 1, uint8 (n, C, H, W); their values by PAIRWISE are kept."""
        assert self.G is not None, "a network that is scored"
        found = torch.stack(translate(self.G, self.sources(start, stop), seed=self.seed, first=start))
        target = images_of(self.targets, slice(start, stop)) if self.pairwise else None
        height, width, channels = self.targets.images.shape[1:]
        if found.shape[1:] != (channels, height, width):
            raise ValueError(
                f"translations are {tuple(found.shape[1:])}, targets {(channels, height, width)} (C, H, W)"
            )
        if target is not None:
            device = next(self.G.parameters()).device
            values = pair_scores(self.pairwise, target.to(device), found.to(device))
            self._values[start] = torch.stack([*values.values()], dim=1)
        return found

    def _pair_values(self, start: int, stop: int) -> Tensor:
        """(n, number of pairwise metrics) of a chunk, which is translated unless it has been."""
        if start not in self._values:
            self._chunk(start, stop)
        return self._values.pop(start)

    def score(
        self, G: nn.Module, *, step: int, weights: str | None = None, batch_norm: str | None = None
    ) -> dict[str, Any]:
        """One line of scores.jsonl, equal on all processes: step, scores, protocol, date.

        G: a translating copy; weights, batch_norm: what the protocol says of it. ValueError, on all processes, for
        translations that are not finite.
        """
        self.G, self._values = G, {}
        try:
            line: dict[str, Any] = {}
            if self.evaluator is not None:
                line = self.evaluator.score(step=step, weights=weights, batch_norm=batch_norm)
            rows = None
            if self.pairwise:
                rows = read_rows(self.n, self._pair_values, "pairs", self.interrupted)
        finally:
            self.G, self._values = None, {}
        device = next(G.parameters()).device

        def whole() -> dict[str, Any]:
            means = [] if rows is None else rows.mean(0).tolist()
            scores: dict[str, Score] = dict(zip(self.pairwise, means, strict=True))
            of_sets = {k: v for k, v in line.items() if k not in ("step", "protocol", "date")}
            first = self.metrics[0] in PAIRWISE
            scores = scores | of_sets if first else of_sets | scores
            about = self._protocol(line.get("protocol", {}), weights, batch_norm)
            judged = (self.metrics[0] if first else next(iter(of_sets)), self.better)
            return score_line(step, scores, about, device, judged)

        return from_main(whole)

    def _protocol(
        self, of_sets: Mapping[str, Any], weights: str | None, batch_norm: str | None
    ) -> dict[str, Any]:
        """What is to be said of the translations; of_sets: what Evaluator says."""
        about = dict(of_sets)
        if self.evaluator is None:
            about = image_protocol(
                None, self.targets, fakes=TRANSLATIONS, n_fake=self.n, n_real=len(self.targets), split=self.split,
                settings={}, labels=None, seed=self.seed,
            ) | {"weights": weights, "batch_norm": batch_norm}  # fmt: skip
        settings = {name: PAIRWISE[name].settings for name in self.pairwise} | about["settings"]
        about |= {"settings": settings, "best_by_settings": settings.get(self.metrics[0])}
        return about | {name: value for name, value in self.said.items() if value is not None}

    def seconds(self, G: nn.Module) -> float:
        """About how long translations take to be made and read for a score, from a few of them."""
        n = min(TIMED, self.n)
        images = IndexedImages(n, self._chunk)

        def action() -> None:
            if self.evaluator is not None:
                read_images(self.evaluator.extractor, images, "fakes", lambda: False)
            else:
                read_rows(n, self._pair_values, "pairs", lambda: False)

        self.G = G
        try:
            with undisturbed(G, next(G.parameters()).device):
                took = min(seconds_of(action) for _ in range(2))  # once to prepare
        finally:
            self.G, self._values = None, {}
        return took * self.n / n


def both_ways(line: Mapping[str, Any], back: Mapping[str, Any]) -> dict[str, Any]:
    """A line of scores of one direction with those of the other, whose names end in BtoA; its protocol says what of the
    other's is unlike its own."""
    aside = ("step", "protocol", "date")
    other = {f"{name} {BACK}": value for name, value in back.items() if name not in aside}
    about = dict(line["protocol"])
    unlike = {k: v for k, v in back["protocol"].items() if about.get(k) != v}
    scores = {k: v for k, v in line.items() if k not in aside}
    return {"step": line["step"], **scores, **other, "protocol": about | {BACK: unlike}, "date": line["date"]}


# -- what any network must be better than ----------------------------------------------------------------------------


def mean_picture(data: ImageData) -> Tensor:
    """The mean of all images, uint8 (C, H, W)."""
    total = torch.zeros(data.img_channels, *data.images.shape[1:3], dtype=torch.float64)
    for start in range(0, len(data), READ_AT_ONCE):
        total += images_of(data, slice(start, start + READ_AT_ONCE)).double().sum(0)
    return (total / len(data)).round().to(torch.uint8)


def unchanged(x: Tensor, height: int, width: int, channels: int) -> Tensor | None:
    """Sources (n, C, h, w) as translations of that shape, uint8: enlarged by cubic interpolation, grey also as colour;
    None where colour would have to become something else."""
    x = to_uint8(x) if x.is_floating_point() else x
    if x.shape[1] == 1:
        x = x.expand(-1, channels, -1, -1)
    if x.shape[1] != channels:
        return None
    if tuple(x.shape[2:]) != (height, width):
        x = F.interpolate(x.double(), (height, width), mode="bicubic", align_corners=False)
        x = x.round().clamp(0, 255).to(torch.uint8)
    return x


def floors(
    sources: Sources, targets: ImageData, mean: Tensor, metrics: Sequence[str] = tuple(PAIRWISE)
) -> dict[str, dict[str, float]]:
    """Scores by PAIRWISE of translations that nobody had to learn: "identity", the source itself where it can be one,
    and "mean", the same mean picture (C, H, W) for all, see mean_picture."""
    totals: dict[str, Tensor] = {}
    height, width, channels = targets.images.shape[1:]
    for start in range(0, len(targets), READ_AT_ONCE):
        stop = min(start + READ_AT_ONCE, len(targets))
        target = images_of(targets, slice(start, stop))
        same = unchanged(sources(start, stop).cpu(), height, width, channels)
        for name, fake in (("identity", same), ("mean", mean.expand_as(target))):
            if fake is not None:
                values = torch.stack([*pair_scores(metrics, target, fake).values()], dim=1).sum(0)
                totals[name] = totals.get(name, 0) + values
    return {
        name: dict(zip(metrics, (total / len(targets)).tolist(), strict=True))
        for name, total in totals.items()
    }
