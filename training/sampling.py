"""Images of a trained generator, each a function of the seed and its index alone."""

from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.utils import make_grid

from metrics.features import to_uint8
from training.errors import UserError
from training.generator import CHUNK, label_rows
from training.rng import generator


def latents(seed: int, start: int, n: int, z_dim: int) -> Tensor:
    """Latents (n, z_dim) of the indices [start, start + n): one row each, whatever stands beside it."""
    return torch.stack(
        [torch.randn(z_dim, generator=generator(seed, "sample", i)) for i in range(start, start + n)]
    )


def sample_labels(
    config: dict[str, Any], n: int, seed: int, classes: list[str] | None = None
) -> Tensor | None:
    """Labels of indices 0 .. n - 1 by generator config: (n,) int64, (n, K) attributes, None without labels.

    classes: names or indices; one class, or the attributes that are present together. None goes through the
    classes in turn, or draws attributes as often as the data shows them. Raises UserError for what the model
    does not know.
    """
    n_labels, names = config["n_labels"], list(config["label_names"])
    if not n_labels:
        if classes:
            raise UserError(f"--class {' '.join(classes)}: this generator was trained without --conditional")
        return None
    if not classes:
        return label_rows(config, n, seed)
    chosen = torch.tensor([_class_index(text, names, n_labels) for text in classes])
    if config["multi_hot"]:
        return torch.zeros(n_labels).index_fill(0, chosen, 1).repeat(n, 1)
    if len(chosen) > 1:
        raise UserError(f"--class {' '.join(classes)}: an image shows one class; give one")
    return chosen.repeat(n)


def _class_index(text: str, names: list[str], n_labels: int) -> int:
    """Index of a class given by name or by number; a name wins, since digits are named by their numbers."""
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < n_labels:
        return int(text)
    known = ", ".join(names) if names else f"0 to {n_labels - 1}"
    raise UserError(f"--class {text} is not one of {n_labels} classes: {known}")


@torch.inference_mode()
def render(G: nn.Module, z: Tensor, y: Tensor | None, **how: Any) -> Tensor:
    """uint8 images (n, C, H, W) on the CPU of latents (n, z_dim), computed in fixed chunks; G is in eval mode.

    how: what G's forward takes beside latents and labels, such as truncation.
    """
    param = next(G.parameters())
    images = []
    for start in range(0, len(z), CHUNK):
        part = slice(start, start + CHUNK)
        labels = None if y is None else y[part].to(param.device)
        images.append(to_uint8(G(z[part].to(param), labels, **how)).cpu())
    return torch.cat(images)


def sample(G: nn.Module, n: int, seed: int, y: Tensor | None = None, **how: Any) -> Iterator[Tensor]:
    """uint8 images (<= 64, C, H, W) of indices 0 .. n - 1 on the CPU; G is in eval mode.

    An image depends on (seed, its index, its label); n moves it by no more than float rounding. how: see render.
    """
    for start in range(0, n, CHUNK):
        z = latents(seed, start, min(CHUNK, n - start), G.z_dim)
        yield render(G, z, None if y is None else y[start : start + CHUNK], **how)


def to_picture(image: Tensor) -> Image.Image:
    """uint8 (1 or 3, H, W) -> a picture."""
    return Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())


def to_grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 (n, C, H, W) -> one picture, row by row."""
    return to_picture(make_grid(images, nrow=columns, padding=2))
