"""How samples compare with data at a glance: diversity, brightness, contrast and colour of a few dozen pictures.

These are no scores: they are of the pictures that a run shows along its training, cheap enough to be taken each time,
and say that something is wrong, not how good samples are. All take uint8 images (n, C, H, W), whose 0 .. 255 stand for
-1 .. 1, floats in [-1, 1] of the same shape, or points (n, d), and give numbers of Python.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

COLUMNS = 2**16  # elements of each sample that are compared at once, so that large images fit
# A ratio to less than this, about a level of 8 bits in units of [-1, 1], is one to rounding
LEAST = 0.01
COLOURED = (3, 4)  # channels of images whose first three are red, green and blue


def _values(x: Tensor) -> Tensor:
    """In float64, uint8 brought to [-1, 1]."""
    return x.double() / 127.5 - 1 if x.dtype == torch.uint8 else x.double()


def mean_distance(x: Tensor) -> float | None:
    """Mean over all pairs of the root mean square difference of their elements, x (n, ...); None for fewer than two."""
    if len(x) < 2:
        return None
    flat = x.flatten(1)
    products = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)
    for part in flat.split(COLUMNS, dim=1):
        part = _values(part)
        part = part - part.mean(0)  # the same distances, and less is cancelled
        products += part @ part.T
    squares = products.diagonal()
    squared = (squares[:, None] + squares - 2 * products).clamp(min=0) / flat.shape[1]
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return float(squared[i, j].sqrt().mean())


def mean_distance_within(x: Tensor, y: Tensor) -> float | None:
    """mean_distance within each class, averaged over those that occur twice, y (n,) classes; None without any."""
    found = [mean_distance(x[y == label]) for label in y.unique()]
    found = [distance for distance in found if distance is not None]
    return sum(found) / len(found) if found else None


def brightness(x: Tensor) -> float:
    """Mean of all colours, in [-1, 1]; transparency is none."""
    return float(torch.stack([_colours(image).mean() for image in x]).mean())


def contrast(x: Tensor) -> float:
    """Standard deviation over the pixels of an image of the mean of their colours, mean over images, in [0, 1]."""
    return float(torch.stack([_colours(image).mean(0).std(correction=0) for image in x]).mean())


def colourfulness(x: Tensor) -> float | None:
    """Standard deviation over red, green and blue of a pixel, mean over all pixels; None for images without these.

    0 for grey; what is mixed with its own grey in shares 1 - s and s has 1 - s of it.
    """
    if x.shape[1] not in COLOURED:
        return None
    return float(torch.stack([_colours(image).std(0, correction=0).mean() for image in x]).mean())


def _colours(image: Tensor) -> Tensor:
    """(C, H, W) -> its colours, (3, H, W) of RGB with or without transparency, in float64."""
    return _values(image[:3] if len(image) in COLOURED else image)


def sample_numbers(x: Tensor, y: Tensor | None = None) -> dict[str, float | None]:
    """What there is to compare of samples, by name, y (n,) classes; None for what has no meaning for them."""
    if not len(x):
        return {}
    found = {"diversity": mean_distance(x)}
    if y is not None:
        found["diversity_within"] = mean_distance_within(x, y)
    if x.dim() == 4:
        found |= {"brightness": brightness(x), "contrast": contrast(x), "colourfulness": colourfulness(x)}
    return found


def compared(real: Mapping[str, float | None], fake: Mapping[str, float | None]) -> dict[str, float]:
    """sample_numbers of fakes against those of reals, which may be fewer or more; what has no meaning is absent.

    diversity, diversity_within, contrast, colourfulness: ratios, 1 as the reals; brightness: the difference, in units
    of [-1, 1].
    """
    found = {}
    for name in real.keys() & fake.keys():
        of_real, of_fake = real[name], fake[name]
        if of_real is None or of_fake is None:
            continue
        if name == "brightness":
            found[name] = of_fake - of_real
        elif of_real >= LEAST:
            found[name] = of_fake / of_real
    return dict(sorted(found.items()))


def sample_health(
    real: Tensor, fake: Tensor, y_real: Tensor | None = None, y_fake: Tensor | None = None
) -> dict[str, float]:
    """`compared` of reals (n, ...) and fakes (m, ...), of classes y_real (n,) and y_fake (m,) where both are given.

    ValueError for samples of different shapes, or none.
    """
    if real.shape[1:] != fake.shape[1:] or not len(real) or not len(fake):
        raise ValueError(
            f"samples of one shape are compared, not {tuple(real.shape)} with {tuple(fake.shape)}"
        )
    return compared(sample_numbers(real, y_real), sample_numbers(fake, y_fake))
