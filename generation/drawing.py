"""Samples of a trained generator, whatever it makes: images or points."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError
from generation.codes import Codes, codes_of_seeds, images_from, labels_of_seeds, seeded_codes
from generation.labels import sample_labels
from generation.sampling import undisturbed, with_truncation
from generation.views import view_of
from modelling.layers import image_shape
from ops.memory import memory_of, size_in_words
from ops.rng import key


def draw_chunks(
    G: nn.Module, about: Mapping[str, Any], codes: Iterable[Codes], seed: int, **how: Any
) -> Iterator[Tensor]:
    """uint8 images (n, C, H, W), or points (n, 2), of each of the codes; within `undisturbed`.

    seed: of what a generator draws by itself; how: truncation of with_truncation.
    """
    view = view_of(about["dataset"])
    torch.manual_seed(key(seed, "sample"))
    for part in codes:
        yield view.shown(images_from(G, part, **how))


def check_n(about: Mapping[str, Any], n: int) -> None:
    """UserError for a number of samples that cannot stand in memory side by side."""
    height, width = image_shape(about.get("img_size") or 1)
    labels = 4 * about["n_labels"] if about["multi_hot"] else 8  # bytes
    needed, room = n * (height * width + labels), memory_of("cpu")
    if room is not None and needed > room:
        raise UserError(
            f"--n {n}: so many take at least {size_in_words(needed)}, and there are {size_in_words(room)} of memory: "
            "draw fewer"
        )


def sample(
    G: nn.Module,
    about: Mapping[str, Any],
    n: int = 64,
    seed: int = 0,
    *,
    seeds: Sequence[int] | None = None,
    label: str | int | None = None,
    attributes: Sequence[str] | None = None,
    truncation: float | None = None,
    truncation_layers: int | None = None,
) -> Tensor:
    """n images of a generator: uint8 (n, C, H, W) on the CPU, as `tools.sample` writes them; points: float (n, 2).

    G, about: of load_generator. Image i depends on the seed, i and its labels alone. seeds: one image of each, the
    first that it gives, in place of n and seed. label: the class of all by name or number, None to go through all
    classes in turn. attributes: names of those that all have, or, with a minus, have not; the others are those of
    training images. truncation: psi of models with styles (of the first truncation_layers layers), a threshold of
    latents for others. ValueError for what the generator does not know.
    """
    if n < 1 or seeds is not None and not len(seeds):
        raise UserError(f"--n {n}: give at least 1" if n < 1 else "--seeds: give at least one")
    classes = None if label is None else [str(label)]
    check_n(about, n if seeds is None else len(seeds))
    if seeds is None:
        y = sample_labels(about, n, seed, classes, attributes)
    else:
        y = labels_of_seeds(about, seeds, classes, attributes)
    G, how = with_truncation(G, about, truncation, truncation_layers)
    threshold = how.pop("threshold", None)
    codes = (
        seeded_codes(G, n, seed, y, threshold) if seeds is None else codes_of_seeds(G, seeds, y, threshold)
    )
    with undisturbed(G, next(G.parameters()).device):
        found = torch.cat(list(draw_chunks(G, about, codes, seed, **how)))
    return found.clone()  # torch lets nobody write into what was made in inference mode
