"""Animated WebP, frame by frame: each a still picture of Pillow's, in the container of Google's specification.

https://developers.google.com/speed/webp/docs/riff_container. Pillow's own animations hold all frames in memory, take
twice as long and build frames on each other, which drift away from the pictures until the next one that stands alone.
"""

import io
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from PIL import Image

STILL = {"format": "WEBP", "quality": 85, "method": 0, "icc_profile": "", "exif": b""}
ANIMATED = 2  # flag of VP8X
NO_BLENDING = 2  # flag of ANMF: a frame replaces what was there
MAX_SIDE, MAX_DURATION, MAX_SIZE = 2**14 - 1, 2**24 - 1, 2**32 - 10


def write_webp(frames: Iterable[tuple[Image.Image, int]], file: BinaryIO) -> None:
    """Write (picture, milliseconds that it is shown) as an animation that plays for ever; pictures of one size.

    One after the other; those that follow each other and are the same to the byte become one that is shown longer.
    file: can be sought in. ValueError without frames, for sides above 16383 px and for files above 4 GiB.
    """
    payload, (width, height), shown = b"", (0, 0), 0
    for frame, ms in frames:
        if not payload:
            width, height = frame.size
            file.write(_head(width, height))
        after = _payload(frame)
        if payload == after and shown + ms <= MAX_DURATION:
            shown += ms
            continue
        if payload:
            file.write(_frame(payload, width, height, shown))
        payload, shown = after, ms
    if not payload:
        raise ValueError("an animation needs a frame")
    file.write(_frame(payload, width, height, shown))
    size = file.tell() - 8
    if size > MAX_SIZE:
        raise ValueError("the animation is above 4 GiB")
    file.seek(4)
    file.write(struct.pack("<I", size))


def _head(width: int, height: int) -> bytes:
    """All that stands before the first frame; the size of the file is still 0."""
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width} x {height} px are too many for WebP: {MAX_SIDE} a side")
    canvas = struct.pack("<B3x", ANIMATED) + _u24(width - 1) + _u24(height - 1)
    for_ever = struct.pack("<IH", 0, 0)  # background, and how often
    return b"RIFF\0\0\0\0WEBP" + _chunk(b"VP8X", canvas) + _chunk(b"ANIM", for_ever)


def _payload(frame: Image.Image) -> bytes:
    """The chunk of a still picture that holds it, with its head."""
    buffer = io.BytesIO()
    frame.save(buffer, **STILL)
    return next(whole for name, whole in _chunks(buffer.getvalue()) if name in (b"VP8 ", b"VP8L"))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, the chunk with its head and padding) of a RIFF file."""
    at = 12
    while at < len(data):
        end = at + 8 + struct.unpack_from("<I", data, at + 4)[0]
        end += end % 2
        yield data[at : at + 4], data[at:end]
        at = end


def _frame(payload: bytes, width: int, height: int, ms: int) -> bytes:
    head = _u24(0) + _u24(0) + _u24(width - 1) + _u24(height - 1) + _u24(min(ms, MAX_DURATION))
    return _chunk(b"ANMF", head + struct.pack("<B", NO_BLENDING) + payload)


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _u24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]
