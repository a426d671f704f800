"""Scores of a generator with everything that is needed to measure the same again."""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from errors import tell
from generation.sampling import generate, latents, render
from generation.version import code_version
from images.batches import ImageData, images_of
from images.cache import cache_dirs, cache_folder
from metrics.features import (
    CHUNK,
    EXTRACTORS,
    Extractor,
    Reading,
    extract,
    load_extractor,
    load_reading,
    read,
    reading_file,
    save_reading,
    weights_file,
)
from metrics.fidelity import library
from metrics.inception import N_BYTES, NAME, SHA256, download, find_inception, load_inception
from metrics.mixture import MIXTURES, mixture_scores
from metrics.score import METRICS, Sets, check_classes, score
from ops.distributed import agree, from_main, gather_rows, n_processes, process
from ops.precision import repeatable
from ops.rng import generator, key
from training.logs import GENERATOR

FEW = 10_000


class Interrupted(ValueError):
    """A score given up because the run is to stop."""


# -- extractors ----------------------------------------------------------------------------------------------------


def _open_inception(given: Path | None, cache_dir: str | None, device: str | torch.device) -> Extractor:
    def find() -> Path:
        folders = [weights_file(folder, NAME).parent for folder in cache_dirs(cache_dir)]
        if (found := find_inception(folders)) is not None:
            return found
        with tqdm(desc=NAME, total=N_BYTES, unit="B", unit_scale=True, leave=False, disable=None) as bar:
            return download(weights_file(cache_folder(cache_dir), NAME).parent, bar.update)

    file = from_main(find) if given is None else given
    extractor = agree(lambda: load_inception(file, trusted=given is not None, device=device))
    if extractor.name != NAME:
        tell(
            f"warning: {file} is not the published network (sha256 {extractor.checksum}, that one has {SHA256}): "
            f"its scores are named [{extractor.name}] and cannot be compared with published ones"
        )
    return extractor


def _open_classifier(
    name: str, given: Path | None, cache_dir: str | None, device: str | torch.device
) -> Extractor:
    files = [weights_file(folder, name) for folder in cache_dirs(cache_dir)] if given is None else [given]
    file = next((file for file in files if file.is_file()), files[0])
    return agree(lambda: load_extractor(name, file, device))


# Name -> (the file that the user gave or None, cache folder, device) -> the loaded network.
OPENERS: dict[str, Callable[[Path | None, str | None, str | torch.device], Extractor]] = {
    NAME: _open_inception,
    **{name: partial(_open_classifier, name) for name in EXTRACTORS},
}


# -- images by index -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """n images by index, each a function of its index alone up to float rounding.

    chunk(start, stop): uint8 (stop - start, C, H, W) on the CPU, of whole CHUNKs; y: the class (n,) of each or that it
    was asked for, None without; kind: what they are, for the protocol.
    """

    n: int
    chunk: Callable[[int, int], Tensor]
    y: Tensor | None = None
    kind: str = GENERATOR


def reference_index(data: ImageData, n: int) -> Tensor:
    """Which n images are the reference: a fixed draw without order, so that no class folder is left out."""
    return _draw(data)[:n].sort().values


def opposite_index(data: ImageData, n: int) -> Tensor:
    """The last n of the same draw: no image of the reference, as long as both find room."""
    return _draw(data)[-n:].sort().values


def _draw(data: ImageData) -> Tensor:
    return torch.randperm(len(data), generator=generator(0, "reference"))


def real_images(data: ImageData, index: Tensor, kind: str, labelled: bool = True) -> Images:
    """Those of a data set, with their classes where it has any; labelled: False leaves these out."""
    y = None
    if labelled and data.labels is not None and not data.multi_hot:
        y = torch.from_numpy(data.labels[index.numpy()]).long()
    return Images(len(index), lambda start, stop: images_of(data, index[start:stop]), y, kind)


def noise_images(data: ImageData, n: int, seed: int) -> Images:
    """As large as those of a data set, every value uniform in 0 .. 255."""
    # (H, W, C) -> (C, H, W)
    height, width, channels = data.images.shape[1:]
    shape = (channels, height, width)

    def chunk(start: int, stop: int) -> Tensor:
        source = generator(seed, "noise images", start)
        return torch.randint(0, 256, (stop - start, *shape), generator=source, dtype=torch.uint8)

    return Images(n, chunk, kind="uniform noise")


def generated(
    G: nn.Module, n: int, seed: int, y: Tensor | None, threshold: float | None = None, **how: Any
) -> Images:
    """The samples of indices 0 .. n - 1, as tools.sample draws them; y: labels (n,) or (n, K).

    threshold: see generation.sampling.latents; how: see generation.sampling.generate.
    """

    def chunk(start: int, stop: int) -> Tensor:
        torch.manual_seed(key(seed, "evaluation", start))  # of what a generator draws by itself
        z = latents(seed, start, stop - start, G.z_dim, threshold)
        return render(G, z, None if y is None else y[start:stop], **how)

    return Images(n, chunk, y)


def labels_for(data: ImageData, n: int, config: dict[str, Any], balanced: bool) -> Tensor | None:
    """Labels of n fakes: those of the reference images (all over again for more fakes), or the classes in turn.

    None for a generator without labels. ValueError for balanced ones of a generator that has no classes.
    """
    if balanced and not config["n_labels"]:
        raise ValueError("--balanced: this generator was trained without --conditional")
    if balanced and config["multi_hot"]:
        raise ValueError(
            "--balanced: this generator knows attributes, of which an image has several; leave it out"
        )
    if not config["n_labels"]:
        return None
    if list(data.label_names) != list(config["label_names"]):
        raise ValueError(
            f"the labels of the reference ({', '.join(data.label_names) or 'none'}) are not the generator's "
            f"({', '.join(config['label_names'])}); check --data and --data_root"
        )
    if balanced:
        return torch.arange(n) % config["n_labels"]
    index = reference_index(data, n)
    y = torch.from_numpy(data.labels[index[torch.arange(n) % len(index)].numpy()])
    return y.to(torch.get_default_dtype()) if config["multi_hot"] else y.long()


# -- reading them --------------------------------------------------------------------------------------------------


@contextmanager
def undisturbed(G: nn.Module | None, device: torch.device) -> Iterator[None]:
    """G in eval mode, float32 without TF32 and no gradients inside; afterwards modes, switches and torch's global
    generators are as before."""
    modes = [] if G is None else [(module, module.training) for module in G.modules()]
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.inference_mode(),
        torch.autocast(device.type, enabled=False),
        repeatable(),
    ):
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, training in modes:
                module.training = training


def read_images(
    extractor: Extractor, images: Images, what: str, interrupted: Callable[[], bool]
) -> tuple[Tensor, Tensor] | None:
    """Features (n, d) and logits (n, K) in the order of the images, on the main process; None on the others.

    Chunk c is computed whole by process c % W, so that no number depends on W. Failures are those of all processes;
    Interrupted once interrupted() says so.
    """
    world = n_processes()
    starts = range(0, images.n, CHUNK)

    def own() -> tuple[Tensor, int]:
        pairs = []
        quiet = None if process() == 0 else True  # None: where stderr is no terminal
        with tqdm(total=images.n, desc=what, unit="img", leave=False, disable=quiet) as bar:
            for start in starts[process() :: world]:
                if interrupted():
                    raise Interrupted("a signal came")
                stop = min(start + CHUNK, images.n)
                pairs.append(extract(extractor, [images.chunk(start, stop)]))
                bar.update((stop - start) * world)
        if not pairs:  # fewer chunks than processes
            return torch.empty(0), 0
        features, logits = (torch.cat(part) for part in zip(*pairs, strict=True))
        return torch.cat([features, logits], dim=1), features.shape[1]

    rows, n_features = agree(own)
    sizes = [min(CHUNK, images.n - start) for start in starts]
    width, dtype = from_main(lambda: (rows.shape[1], rows.dtype))  # a process without a chunk knows neither
    counts = [sum(sizes[i::world]) for i in range(world)]
    parts = gather_rows(rows.reshape(len(rows), width).to(dtype), counts)
    if parts is None:
        return None
    chunks = [iter(part.split(sizes[i::world])) for i, part in enumerate(parts)]
    ordered = torch.cat([next(chunks[c % world]) for c in range(len(sizes))])
    return ordered[:, :n_features].contiguous(), ordered[:, n_features:].contiguous()


# -- scores --------------------------------------------------------------------------------------------------------


def now() -> str:
    """The date of a score."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def surroundings(device: torch.device) -> dict[str, str]:
    """What a protocol says of code and machine."""
    cuda = device.type == "cuda"
    return {
        "code": code_version(),
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if cuda else f"{device.type} ({platform.machine()})",
        "threads": torch.get_num_threads(),
    }


class Evaluator:
    """Scores of one generator after another, or of other images, against one reference by one extractor.

    All processes of a group make one and call it together. data: the reference, of which n_real images (None: n_fake)
    are drawn; config: generator/config.json, whose labels the fakes are asked for, balanced: with classes in turn;
    split: the name of the reference's split; metrics: rows of METRICS, None for all that are computed by default and
    can be; fakes: images in place of a generator's; cache_dir: where readings of reals are kept.
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
        fakes: Images | None = None,
        cache_dir: Path,
    ) -> None:
        self.extractor, self.data, self.config, self.cache_dir = extractor, data, config, cache_dir
        self.n_fake, self.n_real = n_fake, n_fake if n_real is None else n_real
        self.split, self.seed, self.balanced, self.fakes = split, seed, balanced, fakes
        self._check_reference()
        labels = labels_for(data, n_fake, config, balanced) if fakes is None else fakes.y
        self.labels = labels
        self.y = labels if labels is not None and labels.dim() == 1 else None
        self.reals = real_images(data, reference_index(data, self.n_real), "reference")
        self.metrics = self._choose(metrics)
        if "intra_fid" in self.metrics:
            check_classes(self.reals.y, self.y, data.label_names)
        self.keeps_features = any("features" in METRICS[name].needs for name in self.metrics)
        code_version()  # that which runs now, though the checkout may move on
        self.interrupted: Callable[[], bool] = lambda: False  # asked between chunks of images
        self.real: Reading | None = None  # on the main process, from the first score on
        if (n := min(n_fake, self.n_real)) < FEW:
            tell(f"warning: {n} images are below {FEW}: fid rises as n falls; compare only with equal n")

    def _check_reference(self) -> None:
        if self.data.img_channels == 2:
            raise ValueError(
                f"{self.data.name}: its samples are points of the plane, and extractors read images"
            )
        given = min(self.n_fake, self.n_real)
        if given < 2:
            raise ValueError(f"{given} images: a covariance needs at least 2")
        if len(self.data) < self.n_real:
            raise ValueError(
                f"{self.n_real} reals are asked for, but the reference, {self.data.name} {self.split}, has "
                f"{len(self.data)} images: lower --n_real (by default --n; in training --eval_n)"
            )

    def _choose(self, asked: Sequence[str] | None) -> list[str]:
        """Rows of METRICS to compute; ValueError for one that was asked for and cannot be, or for no torch-fidelity."""
        classes, names = tuple(self.extractor.classes), tuple(self.data.label_names)
        lacks: dict[str, str] = {}
        if not classes:
            lacks["names"] = f"{self.extractor.name} reads no classes that have names"
        if self.reals.y is None or self.y is None:
            lacks["classes"] = "it needs one class an image, of reals and fakes"
        if not classes or classes != names:
            lacks["asked"] = f"{self.extractor.name} reads ({', '.join(classes)}), not ({', '.join(names)})"
        chosen = []
        for name in [n for n, row in METRICS.items() if row.default] if asked is None else asked:
            missing = [lacks[need] for need in sorted(METRICS[name].needs) if need in lacks]
            if missing and asked is not None:
                raise ValueError(f"--metrics {name}: {missing[0]}")
            if not missing:
                chosen.append(name)
        if any("library" in METRICS[name].needs for name in chosen):
            library("metric_kid")
        return chosen

    @property
    def better(self) -> str:
        """Whether the first of the metrics, which decides what is best, should be "low" or "high"."""
        return METRICS[self.metrics[0]].better

    def _read_reals(self) -> None:
        """The reference, from the cache where it is whole."""
        shape = tuple(self.data.images.shape[1:])
        identity = {"data": self.data.fingerprint, "n": self.n_real, "shape": shape, "draw": "reference"}
        file = reading_file(self.extractor, identity, self.cache_dir)
        if process() == 0 and self.real is None:
            self.real = load_reading(file, self.keeps_features)
        if from_main(lambda: self.real is not None):
            return
        with undisturbed(None, self.extractor.device):
            rows = read_images(self.extractor, self.reals, "reals", self.interrupted)

        def keep() -> None:
            self.real = read(*rows)
            try:
                save_reading(file, self.real, self.keeps_features)
            except OSError:
                return  # costs only time, the next time

        from_main(keep)

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
        about = {
            "weights": weights,
            "truncation": how.get("truncation") if threshold is None else threshold,
            "truncation_layers": how.get("truncation_layers"),
            "batch_norm": batch_norm,
            "step": step,
        }

        def line() -> dict[str, Any]:
            real, fake = replace(self.real, y=self.reals.y), read(*rows, self.y)
            found = score(self.metrics, Sets(self.extractor, real, fake, tuple(self.data.label_names)))
            about["best_by"] = [next(iter(found)), self.better]
            return {"step": step, **found, "protocol": self._protocol(images) | about, "date": now()}

        return from_main(line)

    def _protocol(self, images: Images) -> dict[str, Any]:
        """Everything that a reader needs to measure the same again, but for what is known of G."""
        data, device = self.data, self.extractor.device
        labels = "balanced: the classes in turn" if self.balanced else "of the reference images"
        return {
            "fakes": images.kind,
            "n_real": self.n_real,
            "n_fake": self.n_fake,
            "reference": data.name,
            "split": self.split,
            "data_fingerprint": data.fingerprint,
            "size": list(data.images.shape[1:]),
            "crop": "as in training: the data set's own cache",
            "resize": self.extractor.module.resize,
            "extractor": self.extractor.name,
            "extractor_sha256": self.extractor.checksum,
            "extractor_accuracy": self.extractor.metadata.get("accuracy"),
            "quantised": "round and clamp to uint8",
            "settings": {name: row.settings for name in self.metrics if (row := METRICS[name]).settings},
            "labels": labels if self.fakes is None and self.labels is not None else None,
            "seed": self.seed,
        } | surroundings(device)


class PointEvaluator:
    """Scores of generators of points, against the mixture that the data are drawn from; a family of Evaluator.

    n_fake points are drawn as tools.sample draws them. ValueError for fewer than one.
    """

    better = "low"

    def __init__(self, data: ImageData, config: dict[str, Any], *, n_fake: int, seed: int = 0) -> None:
        if n_fake < 1:
            raise ValueError(f"{n_fake} points: give at least 1")
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
            return {"step": step, **found, "protocol": about | surroundings(device), "date": now()}

        about = {
            "fakes": GENERATOR,
            "n_fake": self.n_fake,
            "reference": f"{self.data.name}: the mixture itself",
            "data_fingerprint": self.data.fingerprint,
            "labels": None if self.labels is None else "of the data",
            "seed": self.seed,
            "weights": weights,
            "batch_norm": batch_norm,
            "step": step,
            "best_by": ["jsd", self.better],
        }
        return from_main(line)
