"""A first look at a set: sizes and channels of some of its pictures, and the values of all of more than 8 bits."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from errors import shown
from images import arrays
from images.archives import Files
from images.cache import Progress
from images.decoding import (
    BadImage,
    Member,
    on_all_cores,
    only_bombs_warn,
    open_image,
    ranges_of_chunk,
    read_member,
    reasons,
)
from images.headers import SIDEWAYS, TIFF_STARTS, orientation

LOOKED_AT = 256  # pictures, for size and channels
HEAD = 32  # bytes, of which most formats say how many bits they have
GREY_MODES = ("1", "L", "I", "F")  # of Pillow, and what begins so: LA, I;16


@dataclass(frozen=True)
class Header:
    """What a picture says of itself: height and width as it is shown; channels: 1 for grey and 3 for colour, with
    alpha or without, or the number of an array's or a stack's; mode: Pillow's, or array."""

    height: int
    width: int
    channels: int
    mode: str


def header_of(data: bytes) -> Header:
    """The header of an image file. BadImage."""
    with reasons(), only_bombs_warn():
        n = arrays.channels_in(data)
        if data[:6] == arrays.NPY:
            height, width, n = arrays.npy_array(data).shape
            return Header(height, width, n, "array")
        if arrays.is_beyond_pillow(data, n):
            tags = arrays.tiff_tags(data)
            return Header(int(tags[arrays.HEIGHT]), int(tags[arrays.WIDTH]), n, "LA" if n == 1 else "array")
        image = open_image(data)
        height, width = image.height, image.width
        if orientation(image) in SIDEWAYS:
            height, width = width, height
        return Header(height, width, 1 if image.mode.startswith(GREY_MODES) else 3, image.mode)


@dataclass(frozen=True)
class Sample:
    """The headers of some pictures of a set, and why the first of the others could not be read."""

    headers: list[Header]
    reason: str | None = None

    @property
    def channels(self) -> int:
        """Channels that bear all of them: 3 where any is in colour, the most of arrays and stacks; 1 without any."""
        return max((header.channels for header in self.headers), default=1)

    @property
    def has_alpha(self) -> bool:
        """Whether any has transparency."""
        return any(header.mode in ("RGBA", "LA", "PA") for header in self.headers)

    def share_of(self, upright: bool) -> float:
        """The share that is higher than wide, or wider than high."""
        counts = Counter((h.height > h.width) - (h.height < h.width) for h in self.headers)
        return counts[1 if upright else -1] / max(1, len(self.headers))


def sample_of(files: Files, n: int = LOOKED_AT) -> Sample:
    """The headers of up to n pictures, from all over a folder or .zip, else the first; UserError for a damaged set."""
    headers, reason = [], None
    for member in files.some(n):
        try:
            headers.append(header_of(read_member(member)))
        except BadImage as error:
            reason = reason or shown(f"{member.name}: {error}")
    if not headers and reason is None:
        next(files.members(), None)  # says what there is in place of pictures
    return Sample(headers, reason)


def may_be_deep(name: str, head: bytes) -> bool:
    """Whether a picture that begins so may have more than 8 bits: a TIFF or a .npy must be read to tell."""
    if head[:8] == arrays.PNG:
        return head[24:25] == b"\x10"
    return head[:4] in TIFF_STARTS or head[:6] == arrays.NPY or head[:2] in (b"P2", b"P3", b"P5", b"P6")


def scan(files: Files) -> Iterator[tuple[str, bytes | BadImage]]:
    """(name, its first bytes or why there are none) of every picture, with progress. UserError."""
    progress = Progress(f"looking at {files.where}", None)
    try:
        for member in files.members(HEAD):
            yield member.name, member.data
            progress.total = files.n_images
            progress.update(1)
    finally:
        progress.close()


@dataclass(frozen=True)
class Range:
    """The least and the greatest value of n pictures of more than 8 bits; floating: whether any are floats."""

    n: int
    low: float
    high: float
    floating: bool

    @property
    def scale(self) -> arrays.Scale:
        """What becomes 0 and 255."""
        return arrays.scale_of_set(self.low, self.high, self.floating)


def range_of_set(files: Files, channels: int) -> Range | None:
    """The values of all pictures of more than 8 bits, None where there are none; with progress. UserError."""
    deep = {name for name, head in scan(files) if isinstance(head, bytes) and may_be_deep(name, head)}
    if not deep:
        return None
    progress = Progress(f"values in {files.where}", len(deep))

    def wanted() -> Iterator[Member]:
        for member in files.members():
            # those of a stack have names of their own
            if member.name in deep or member.name.endswith(arrays.SUFFIX):
                progress.update(1)
                yield member

    found = []
    try:
        for part in on_all_cores(partial(ranges_of_chunk, channels=channels), wanted(), 2**16):
            found += part
    finally:
        progress.close()
    if not found:
        return None
    lows, highs, floats = zip(*found, strict=True)
    return Range(len(found), min(lows), max(highs), any(floats))


def range_text(found: Range, scale: arrays.Scale) -> str:
    """What was found, and what becomes of it."""
    low, high = (f"{value:,.6g}" for value in (found.low, found.high))
    start, end = (f"{value:,.6g}" for value in scale)
    return (
        f"{found.n:,} pictures of more than 8 bits, values {low} to {high}: {start} to {end} become 0 to 255 in all of "
        "them (--value_range LO HI chooses others)"
    )


def is_scale(value: object) -> bool:
    """Whether these are two finite numbers, the second the greater."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(isinstance(v, int | float) and math.isfinite(v) for v in value) and value[0] < value[1]
