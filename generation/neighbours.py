"""A strip of the fakes that are most like copies, each above the training image that it is nearest to."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from PIL import Image
from torch import Tensor

import disk
from errors import UserError
from generation.indexed import IndexedImages
from generation.pictures import in_colour, picture_table, to_picture
from metrics.features import READ_AT_ONCE
from metrics.neighbours import Originals

COLUMNS = 16
SIDE = 64  # px, at least, of a picture


def likest(found: Originals, n: int) -> list[int]:
    """The fakes that are nearest to one training image alone, in that order, one a training image."""
    shown: dict[int, int] = {}
    index = found.index.tolist()
    for fake in found.ratio.argsort(stable=True).tolist():
        shown.setdefault(index[fake], fake)
        if len(shown) == n:
            break
    return list(shown.values())


def chosen(images: IndexedImages, index: list[int]) -> list[Tensor]:
    """Images (C, H, W) by index, drawn in the chunks in which they are scored."""
    chunks: dict[int, Tensor] = {}
    for start in sorted({i - i % READ_AT_ONCE for i in index}):
        whole = images.chunk(start, min(start + READ_AT_ONCE, images.n))
        chunks |= {i: whole[i - start].clone() for i in index if 0 <= i - start < len(whole)}
    return [chunks[i] for i in index]


def neighbour_picture(found: Originals, fakes: IndexedImages, known: IndexedImages) -> Image.Image:
    """The fakes most like copies above their training images; titles: the distance between them over that of the
    fake to its fifth nearest training image."""
    index = likest(found, COLUMNS)
    pairs = [chosen(fakes, index), chosen(known, [int(found.index[i]) for i in index])]
    rows = [[_enlarged(image) for image in images] for images in pairs]
    titles = [f"{ratio:.2g}" for ratio in found.ratio[index].tolist()]
    return picture_table(titles, [("fake", rows[0]), ("training", rows[1])])


def check_place(file: Path) -> None:
    """Make the folder of a strip to come; UserError where it could not be written."""
    with _blaming(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with TemporaryFile(dir=file.parent):
            pass


@contextmanager
def _blaming(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"--neighbours {file} cannot be written: {error.strerror or error}") from None


def save_strip(picture: Image.Image, file: Path) -> None:
    """Write the strip as a PNG; UserError where it cannot be written."""
    with _blaming(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        disk.remove_stale(file.parent)
        with disk.replacing(file) as temporary:
            picture.save(temporary, "PNG")


def _enlarged(image: Tensor) -> Image.Image:
    """In colour, every pixel repeated so often that the shorter side is SIDE or more."""
    times = -(-SIDE // min(image.shape[1:]))
    large = in_colour(image[None])[0].repeat_interleave(times, 1).repeat_interleave(times, 2)
    return to_picture(large)
