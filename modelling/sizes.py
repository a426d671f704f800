"""Sizes of images: which a network makes, or translates, and the nearest to one that it does not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from errors import UserError
from modelling.layers import Size, as_size, check_number, image_shape, size_text

Shape = tuple[int, int]  # (H, W)

STARTS = range(4, 8)  # of the shorter side of the smallest map: with fewer pixels it would be one level less


def doubled(start: int, n: int) -> int:
    """A side doubled n times."""
    return start << n


def image_levels(
    model: str, img_size: Size, doublings: Sequence[int], starts: Sequence[int] = STARTS
) -> list[Shape]:
    """All (H, W) from the smallest maps to the image: (4, 4), (8, 8), ... for a square of 4 * 2^k px.

    model: its name, for the message; doublings: the numbers k of them that it knows; starts: what the shorter side of
    the smallest map can be. ValueError that names the nearest possible size unless img_size is one.
    """
    h, w = image_shape(img_size)
    for k in doublings:
        if h % 2**k == w % 2**k == 0 and min(h, w) >> k in starts:
            return [(h >> i, w >> i) for i in reversed(range(k + 1))]
    nearest = nearest_size(img_size, doublings, starts)
    raise UserError(
        f"{model} makes h0 * 2^k x w0 * 2^k px with {starts[0]} <= min(h0, w0) <= {starts[-1]} and "
        f"{counts_text(doublings)}, not {size_text(img_size)}: the nearest is --img_size {size_text(nearest)}"
    )


def counts_text(doublings: Sequence[int]) -> str:
    """Numbers of doublings, for messages."""
    low, high = doublings[0], doublings[-1]
    return f"k = {low}" if low == high else f"k from {low} to {high}"


def nearest_size(
    img_size: Size,
    doublings: Sequence[int],
    starts: Sequence[int] = STARTS,
    sides: Sequence[Callable[[int, int], int]] = (doubled,),
) -> Size:
    """The possible size with the least |H - h| + |W - w|, of several the most similar in shape, then the largest.

    sides: how an axis grows, start and number of doublings -> its side. A square for a square.
    """
    h, w = image_shape(img_size)

    def around(side: int, k: int) -> dict[int, int]:
        """Sides near this one, with the start of each."""
        near = {max((side >> k) + d, starts[0]) for d in (-1, 0, 1)} | {starts[-1]}
        return {form(start, k): start for form in sides for start in near}

    found = []
    for k in doublings:
        tall, wide = around(h, k), around(w, k)
        found += [
            (a, b) for a in tall for b in wide if min(tall[a], wide[b]) in starts and (h != w or a == b)
        ]
    return as_size(
        min(found, key=lambda s: (abs(s[0] - h) + abs(s[1] - w), abs(s[0] * w - s[1] * h), -s[0] * s[1]))
    )


def squares(levels: Sequence[Shape]) -> list[int]:
    """Sides of the levels, 4, 8, ... px, had the image been a square of 4 * 2^k: by these, channels are chosen."""
    return [4 << k for k in range(len(levels))]


def level_channels(levels: Sequence[Shape], channel_base: int, channel_max: int) -> list[int]:
    """Channels of the maps of each level: channel_base over the side in `squares`, at most channel_max.

    ValueError for settings that leave none.
    """
    sides = squares(levels)
    check_number("channel_base", channel_base, sides[-1], whole=True)
    check_number("channel_max", channel_max, 1, whole=True)
    return [min(channel_base // side, channel_max) for side in sides]


def half_levels(n_levels: int, n_half: int) -> list[bool]:
    """Which levels may compute in half precision: the n_half highest, never the lowest of all."""
    check_number("n_half", n_half, 0, whole=True)
    return [k >= max(n_levels - n_half, 1) for k in range(n_levels)]


# Of networks that are convolutional from end to end


@dataclass(frozen=True)
class Sides:
    """Which sides of an image a network takes: multiples of a number of px, from a least one on."""

    multiple: int
    least: int

    def __str__(self) -> str:
        return f"multiples of {self.multiple}, from {self.least} on"

    def fits(self, height: int, width: int) -> bool:
        """Whether it takes an image of this size."""
        return height % self.multiple == width % self.multiple == 0 and min(height, width) >= self.least

    def nearest(self, height: int, width: int) -> Shape:
        """The size that it takes with the least |H - h| + |W - w|, of several the largest."""
        first = -(-self.least // self.multiple)
        return tuple(
            self.multiple * max((side + self.multiple // 2) // self.multiple, first)
            for side in (height, width)
        )

    def check(self, model: str, img_size: Size) -> None:
        """UserError that names the nearest size unless it takes this one."""
        shape = image_shape(img_size)
        if not self.fits(*shape):
            raise UserError(
                f"{model} takes sides of {self}, not {size_text(as_size(img_size))}: "
                f"the nearest is --img_size {size_text(as_size(self.nearest(*shape)))}"
            )


def check_source(a: Tensor, source_channels: int, sides: Sides) -> None:
    """ValueError unless a is (N, source_channels, H, W) of sides that fit."""
    if a.dim() != 4 or a.shape[1] != source_channels or not sides.fits(*a.shape[2:]):
        raise ValueError(
            f"G takes images of shape (N, {source_channels}, H, W), H and W {sides}, not {tuple(a.shape)}"
        )
