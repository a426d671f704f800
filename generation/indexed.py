"""Images by index: of a data set, of a generator, or noise, each a function of its index alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError, tell
from generation.latents import latents
from generation.sampling import draws_noise, render
from images.batches import ImageData, images_of
from metrics.lines import GENERATOR
from ops.rng import generator, key


@dataclass(frozen=True)
class IndexedImages:
    """n images by index, each a function of its index alone up to float rounding.

    chunk(start, stop): uint8 (stop - start, C, H, W) on the CPU, READ_AT_ONCE of them from a multiple of it on; y: the
    class (n,) of each or that it was asked for, None without; kind: what they are, for the protocol; source: the
    fingerprint of the data set whose draw they end, None for others.
    """

    n: int
    chunk: Callable[[int, int], Tensor]
    y: Tensor | None = None
    kind: str = GENERATOR
    source: str | None = None


def reference_index(data: ImageData, n: int) -> Tensor:
    """Which n images are the reference: a fixed draw without order, so that no class folder is left out."""
    return _draw(data)[:n].sort().values


def opposite_index(data: ImageData, n: int) -> Tensor:
    """The last n of the same draw: no image of the reference, as long as both find room."""
    return _draw(data)[-n:].sort().values


def _draw(data: ImageData) -> Tensor:
    return torch.randperm(len(data), generator=generator(0, "reference"))


def real_images(data: ImageData, index: Tensor, kind: str, labelled: bool = True) -> IndexedImages:
    """Those of a data set, with their classes where it has any; labelled: False leaves these out."""
    y = None
    if labelled and data.labels is not None and not data.multi_hot:
        y = torch.from_numpy(data.labels[index.numpy()]).long()
    return IndexedImages(len(index), lambda start, stop: images_of(data, index[start:stop]), y, kind)


def chosen_images(others: ImageData, reference: ImageData, n: int, kind: str, what: str) -> IndexedImages:
    """n images of a data set in place of a generator's, apart from the reference's as far as both find room.

    what: how messages call the set. UserError for too few.
    """
    if not 0 < n <= len(others):
        raise UserError(f"--n {n}: {what} has {len(others)} images; choose 1 to {len(others)}")
    labelled = others.label_names == reference.label_names
    images = real_images(others, opposite_index(others, n), kind, labelled=labelled)
    return replace(images, source=others.fingerprint)


def noise_images(data: ImageData, n: int, seed: int) -> IndexedImages:
    """As large as those of a data set, every value uniform in 0 .. 255."""
    # (H, W, C) -> (C, H, W)
    height, width, channels = data.images.shape[1:]
    shape = (channels, height, width)

    def chunk(start: int, stop: int) -> Tensor:
        source = generator(seed, "noise images", start)
        return torch.randint(0, 256, (stop - start, *shape), generator=source, dtype=torch.uint8)

    return IndexedImages(n, chunk, kind="uniform noise")


def generated(
    G: nn.Module, n: int, seed: int, y: Tensor | None, threshold: float | None = None, **how: Any
) -> IndexedImages:
    """The samples of indices 0 .. n - 1, as tools.sample draws them, but with random noise in the layers.

    What G draws by itself, that noise included, is a function of the seed and the chunk, so that scores are of what G
    was trained to make, and repeat. y: labels (n,) or (n, K); threshold: see generation.latents.latents; how: see
    generation.sampling.generate.
    """
    how = {"noise": "repeatable"} | how if draws_noise(G) else how

    def chunk(start: int, stop: int) -> Tensor:
        torch.manual_seed(
            key(seed, "evaluation", start)
        )  # of layer noise and what a generator draws by itself
        z = latents(seed, start, stop - start, G.z_dim, threshold)
        return render(G, z, None if y is None else y[start:stop], **how)

    return IndexedImages(n, chunk, y)


def same_labels(data: ImageData, config: dict[str, Any]) -> bool:
    """Whether the labels of a data set are those that a generator knows: by name, or as many where it names none, as
    imported ones do."""
    names = list(config["label_names"])
    alike = list(data.label_names) == names if names else data.n_labels == config["n_labels"]
    return alike and data.labels is not None and data.multi_hot == bool(config["multi_hot"])


def labels_for(data: ImageData, n: int, config: dict[str, Any], balanced: bool) -> Tensor | None:
    """Labels of n fakes: those of the reference images (all over again for more fakes), or the classes in turn.

    None for a generator without labels. ValueError for balanced ones of a generator that has no classes, and for labels
    of the reference that are missing or others, which balanced ones have nothing to do with.
    """
    n_labels, names = config["n_labels"], config["label_names"]
    if balanced and not n_labels:
        raise UserError("--balanced: this generator was trained without --conditional")
    if balanced and config["multi_hot"]:
        raise UserError(
            "--balanced: this generator knows attributes, of which an image has several; leave it out"
        )
    if not n_labels:
        return None
    if balanced:
        return torch.arange(n) % n_labels
    if data.labels is None:
        known, way = f"{n_labels} classes", "--balanced"
        if config["multi_hot"]:
            known, way = f"{n_labels} attributes", "name labelled images with --data"
        raise UserError(f"this generator knows {known} and the reference has none: {way}")
    if not same_labels(data, config):
        known = ", ".join(data.label_names)
        differ = f"the labels of the reference ({known}) are not the generator's ({', '.join(names)})"
        if not names:
            differ = f"the reference has {data.n_labels} labels and this generator knows {n_labels}"
        raise UserError(f"{differ}; check --data and --data_root")
    if not names:
        tell("note: this generator's classes have no names: its k-th is taken for the k-th of the reference")
    index = reference_index(data, n)
    y = torch.from_numpy(data.labels[index[torch.arange(n) % len(index)].numpy()])
    return y.to(torch.get_default_dtype()) if config["multi_hot"] else y.long()
