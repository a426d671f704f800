"""Images of a trained generator, each a function of the seed and its index alone."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.utils import make_grid

from errors import UserError
from generation.generator import CHUNK, label_rows, truncate_latents
from metrics.features import to_uint8
from ops.rng import generator


def latents(seed: int, start: int, n: int, z_dim: int, threshold: float | None = None) -> Tensor:
    """Latents (n, z_dim) of the indices [start, start + n): one row each, whatever stands beside it.

    threshold: entries beyond it in absolute value are drawn anew, by the same draw at every threshold; None for none.
    """
    return torch.stack(
        [_latent(generator(seed, "sample", i), z_dim, threshold) for i in range(start, start + n)]
    )


def _latent(source: torch.Generator, z_dim: int, threshold: float | None) -> Tensor:
    z = torch.randn(z_dim, generator=source)
    return z if threshold is None else truncate_latents(z, torch.rand(z_dim, generator=source), threshold)


def sample_labels(
    config: dict[str, Any],
    n: int,
    seed: int,
    classes: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
) -> Tensor | None:
    """Labels of indices 0 .. n - 1 by generator config: (n,) int64, (n, K) attributes, None without labels.

    classes: the one class of all images by name or index, None to go through all in turn. attributes: names of those
    that all images have, or with a minus have not; the others are of training images, and the same whichever are
    named. Raises UserError for what the model does not know.
    """
    if not config["n_labels"]:
        given = [
            f"{flag} {' '.join(v)}" for flag, v in (("--class", classes), ("--attributes", attributes)) if v
        ]
        if given:
            raise UserError(f"{given[0]}: this generator was trained without --conditional")
        return None
    y = label_rows(config, n, seed)
    names = list(config["label_names"])
    if config["multi_hot"]:
        if classes:
            raise UserError(
                f"--class {' '.join(classes)}: this generator knows attributes, of which an image has several; "
                "name them with --attributes"
            )
        for index, value in _attribute_values(attributes or (), names).items():
            y[:, index] = value
        return y
    if attributes:
        raise UserError(
            f"--attributes {','.join(attributes)}: this generator knows classes, one an image; name it with --class"
        )
    if not classes:
        return y
    if len(classes) > 1:
        raise UserError(f"--class {' '.join(classes)}: an image shows one class; give one")
    return torch.full_like(y, _class_index(classes[0], names, config["n_labels"]))


def _attribute_values(given: Sequence[str], names: list[str]) -> dict[int, int]:
    """Index -> 1 or 0 of attributes given by name, with a minus for 0."""
    values: dict[int, int] = {}
    for text in given:
        name = text.removeprefix("-")
        if name not in names:
            raise UserError(
                f"--attributes {text}: {name!r} is not one of {len(names)} attributes: {', '.join(names)}"
            )
        index = names.index(name)
        if index in values:
            raise UserError(f"--attributes {','.join(given)}: {name} is given twice")
        values[index] = int(text == name)
    return values


def _class_index(text: str, names: list[str], n_labels: int) -> int:
    """Index of a class given by name or by number; a name wins, since digits are named by their numbers."""
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < n_labels:
        return int(text)
    known = ", ".join(names) if names else f"0 to {n_labels - 1}"
    raise UserError(f"--class {text} is not one of {n_labels} classes: {known}")


@torch.inference_mode()
def generate(G: nn.Module, z: Tensor, y: Tensor | None, **how: Any) -> Tensor:
    """What G makes of latents (n, z_dim), (n, C, H, W) on the CPU, computed in fixed chunks; G is in eval mode.

    how: what G's forward takes beside latents and labels, such as truncation.
    """
    param = next(G.parameters())
    images = []
    for start in range(0, len(z), CHUNK):
        part = slice(start, start + CHUNK)
        labels = None if y is None else y[part].to(param.device)
        images.append(G(z[part].to(param), labels, **how).cpu())
    return torch.cat(images)


def render(G: nn.Module, z: Tensor, y: Tensor | None, **how: Any) -> Tensor:
    """uint8 images (n, C, H, W) on the CPU of latents (n, z_dim); G and `how` as for generate."""
    return to_uint8(generate(G, z, y, **how))


def sample(
    G: nn.Module, n: int, seed: int, y: Tensor | None = None, *, threshold: float | None = None, **how: Any
) -> Iterator[Tensor]:
    """uint8 images (<= 64, C, H, W) of indices 0 .. n - 1 on the CPU; G is in eval mode.

    An image depends on (seed, its index, its label); n moves it by no more than float rounding. threshold: see
    latents; how: see render.
    """
    for start in range(0, n, CHUNK):
        z = latents(seed, start, min(CHUNK, n - start), G.z_dim, threshold)
        yield render(G, z, None if y is None else y[start : start + CHUNK], **how)


def to_picture(image: Tensor) -> Image.Image:
    """uint8 (1 or 3, H, W) -> a picture."""
    return Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())


def to_grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 (n, C, H, W) -> one picture, row by row."""
    return to_picture(make_grid(images, nrow=columns, padding=2))
