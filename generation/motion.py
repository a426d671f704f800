"""Images in motion: codes as a function of the moment, and what a generator makes of them, frame by frame."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError, shown
from generation.codes import Codes, images_from
from generation.latents import DRAWN_AT_ONCE
from generation.sampling import undisturbed
from generation.views import view_of
from generation.walks import Between, along, lerp
from ops.rng import key

Way = Callable[[Tensor], Tensor]  # moments (n,) -> (n, cells, ...)
Motion = Callable[
    [Tensor], Codes
]  # moments (n,) -> codes of n * cells images, the cells of a moment side by side


def through_latents(way: Way, labels: Way | None = None) -> Motion:
    """Latents that go a way (n, cells, z_dim), under labels that go one; None for a generator without."""

    def at(t: Tensor) -> Codes:
        return Codes(way(t).flatten(0, 1), None if labels is None else labels(t).flatten(0, 1))

    return at


def through_styles(
    G: nn.Module, z: Tensor, y: Tensor | None, closed: bool, between: Between = lerp
) -> Motion:
    """Styles that go through those of latents z (k, cells, z_dim) under labels y (k, cells, ...); G in eval mode."""
    param = next(G.parameters())
    labels = None if y is None else y.flatten(0, 1).to(param.device)
    with torch.inference_mode():
        w = G.styles(z.flatten(0, 1).to(param), labels).cpu().unflatten(0, z.shape[:2])
    return lambda t: Codes(None, None, along(w, t, closed, between).flatten(0, 1))


def through_labels(y: Tensor | None, n_labels: int, closed: bool) -> Way | None:
    """The way of labels through y (k, cells) or (k, cells, n_labels); None without.

    One alone stays as it is. Between classes go weights of both, which every G turns into a vector of length 1, as it
    does with several attributes.
    """
    if y is None:
        return None
    if len(y) > 1 and y.dim() == 2:
        y = F.one_hot(y, n_labels).to(torch.get_default_dtype())
    return lambda t: along(y, t, closed)


def check_between_classes(G: nn.Module, motion: Motion) -> None:
    """UserError for a G, of a user's own, that takes classes by number alone: nothing stands between two."""
    try:
        with undisturbed(G, next(G.parameters()).device):
            images_from(G, motion(torch.zeros(1)))
    except Exception as error:  # whatever its layers say to weights in place of a number
        reason = shown(str(error).split("\n")[0], 100)
        raise UserError(
            f"--class: {type(G).__name__} takes no weights of several classes, which stand between two ({reason}): "
            "give one --class"
        ) from None


def drawn_frames(
    G: nn.Module, about: Mapping[str, Any], motion: Motion, t: Tensor, cells: int, seed: int, **how: Any
) -> Iterator[Tensor]:
    """uint8 images (cells, C, H, W), or points (cells, 2), of each moment in t; how: truncation of with_truncation.

    seed: of what a generator draws by itself, which is the same in every frame where it draws alike each time.
    """
    view, at_once = view_of(about["dataset"]), max(1, DRAWN_AT_ONCE // cells)
    for part in t.split(at_once):
        with undisturbed(G, next(G.parameters()).device):
            torch.manual_seed(key(seed, "sample"))
            drawn = view.shown(images_from(G, motion(part), **how))
        yield from drawn.unflatten(0, (len(part), cells))
