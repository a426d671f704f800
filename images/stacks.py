"""The pictures in a .npy: one, or a stack (N, H, W), (N, H, W, C) or (N, C, H, W) of which each is a member."""

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from disk import Unreadable, open_regular
from images.arrays import FEW, SUFFIX, channels_last, read_header
from images.decoding import MAX_FILE_BYTES, BadImage, Member

MAX_STACKED = 1_500_000


def is_stack(shape: tuple[int, ...], alone: bool) -> bool:
    """Whether an array of this shape holds several pictures.

    alone: it is all there is, and of three axes the first counts pictures; elsewhere where neither end is of channels.
    """
    return len(shape) == 4 or len(shape) == 3 and (alone or min(shape[0], shape[2]) > FEW)


def members_of(name: str, file: BinaryIO, size: int, alone: bool = False) -> Iterator[Member]:
    """The pictures of an open .npy of `size` bytes, those of a stack under its name: cats.npy as cats/000000.npy.

    A stack is read row by row, however large the file; what is no array of pictures is a member with the reason.
    """
    try:
        shape, kind, fortran = read_header(file)
        start, n_bytes = file.tell(), math.prod(shape) * kind.itemsize
        if size - start != n_bytes:
            raise BadImage(f"damaged: {size - start:,} bytes of values, not {n_bytes:,}")
        if not is_stack(shape, alone):
            file.seek(0)
            yield Member(
                name,
                file.read() if size <= MAX_FILE_BYTES else BadImage(f"larger than {MAX_FILE_BYTES:,} bytes"),
            )
            return
        if fortran or shape[0] > MAX_STACKED or n_bytes // shape[0] > MAX_FILE_BYTES:
            raise BadImage(f"a stack of shape {shape} that is too large, or has its columns first")
    except BadImage as error:
        yield Member(name, error)
        return
    stem = "" if alone else name[: -len(SUFFIX)] + "/"
    for i in range(shape[0]):
        row = np.frombuffer(file.read(n_bytes // shape[0]), kind).reshape(shape[1:])
        yield Member(f"{stem}{i:06d}{SUFFIX}", npy_bytes(row if row.ndim == 2 else channels_last(row)))


def npy_bytes(values: np.ndarray) -> bytes:
    """The array as a .npy."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values))
    return buffer.getvalue()


def members_of_file(name: str, path: Path, alone: bool = False) -> Iterator[Member]:
    """As members_of, of a file; a picture alone stays where it is."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            yield from members_of(name, file, size, alone)
    except (Unreadable, OSError) as error:
        yield Member(name, BadImage(f"cannot be read: {getattr(error, 'strerror', None) or error}"))
