"""One image file -> uint8 pixels of the wanted size: right for every odd format, or a reason why not."""

import functools
import math
import multiprocessing
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.synchronize import Lock
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from disk import Unreadable, read_bytes
from errors import shown
from images.headers import BadImage, check_scans, file_of, n_scans, upright
from signals import serve_parent

# Pillow tries only these: some of its other readers start programs (EPS) or are little tested
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"]
)
MAX_FILE_BYTES = 64 * 2**20
CHUNK_FILES = 64
CHUNK_BYTES = 32 * 2**20
# Bytes of memory for one image, at most; and those above which images are decoded one at a time, whatever the number of
# workers: together they need no more than MAX_COST + workers * LARGE_COST.
MAX_COST, LARGE_COST = 2**30, 2**28
# Bytes a pixel, of the decoder's own buffers, of Pillow's image and of its copy in another mode.
COSTS, USUAL_COST = {"WEBP": 20, "TIFF": 16}, 8
COEFFICIENT_BYTES = 2  # of a JPEG of several scans, which is held whole, at its full size
BAND_PIXELS = 2**20  # converted at a time

Shape = tuple[int, int, int]  # height, width, channels


@dataclass(frozen=True)
class Member:
    """An image file: its name with folders, and its bytes, its path, or the reason why it has none."""

    name: str
    data: bytes | Path | BadImage


@dataclass(frozen=True)
class Chunk:
    """Decoded neighbours: pixels (n, H, W, C) uint8 of the n good names, and (name, reason) of the others."""

    names: list[str]
    pixels: np.ndarray
    problems: list[tuple[str, str]]


def is_html(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a web page (or other XML)."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def grey_scale(image: Image.Image) -> tuple[float, float]:
    """(start, factor) that turn grey of any number type into 0..255.

    16 bits / 257; floats in [0, 1] x 255; wider ones by their range. BadImage for NaN and infinite pixels.
    """
    low, high, floating = np.inf, -np.inf, False
    for band in bands(image):
        values = np.asarray(band)
        # a minimum with NaN is NaN, but Python's own would lose it
        low, high = np.minimum(low, values.min()), np.maximum(high, values.max())
        floating = np.issubdtype(values.dtype, np.floating)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadImage("floating-point image with NaN or infinite pixels")
    low, high = float(low), float(high)
    scales = (1.0, 255.0) if floating else (65535.0,)
    span = next((scale for scale in scales if low >= 0 and high <= scale), None)
    return 0.0 if span else low, 255 / (span or (high - low) or 1.0)


def bands(image: Image.Image) -> Iterator[Image.Image]:
    """The image in pieces of whole rows, from the top, each a copy; itself if it is small."""
    rows = max(1, BAND_PIXELS // image.width)
    if rows >= image.height:
        yield image
        return
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def to_plain(image: Image.Image, channels: int) -> Image.Image:
    """Any Pillow mode -> L or RGB: 16-bit and float scaled, alpha (also a palette's) composited on white."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and "transparency" not in image.info:
        return image
    scale = grey_scale(image) if image.mode.startswith(("I", "F")) else None
    if image.width * image.height <= BAND_PIXELS:
        return plain_band(image, mode, scale)
    plain, top = Image.new(mode, image.size), 0
    for band in bands(image):
        plain.paste(plain_band(band, mode, scale), (0, top))
        top += band.height
    return plain


def plain_band(image: Image.Image, mode: str, scale: tuple[float, float] | None) -> Image.Image:
    """As to_plain; scale: (start, factor) of greys of many bits, for the whole image."""
    if scale is not None:
        start, factor = scale
        values = np.asarray(np.asarray(image), dtype=np.float64)
        image = Image.fromarray(np.rint((values - start) * factor).astype(np.uint8))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


def centre_box(size: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """Largest centred box (left, top, right, bottom) with the aspect of height x width; size is (w, h)."""
    w, h = size
    if w * height > h * width:
        box_w, box_h = max(1, round(h * width / height)), h
    else:
        box_w, box_h = w, max(1, round(w * height / width))
    left, top = (w - box_w) // 2, (h - box_h) // 2
    return left, top, left + box_w, top + box_h


class PlainJpeg(JpegImageFile):
    """The first picture of a JPEG; resolution and further pictures, kept in tables of their own, are left alone."""

    def _read_dpi_from_exif(self) -> None:
        pass


def open_image(data: bytes) -> Image.Image:
    """The bytes as a Pillow image, its header read; raises BadImage with the reason."""
    if not data:
        raise BadImage("empty file")
    file = file_of(data)
    try:
        is_jpeg = data[:3] == b"\xff\xd8\xff"
        image = PlainJpeg(file) if is_jpeg else Image.open(file, formats=FORMATS)
    except (UnidentifiedImageError, SyntaxError):
        reason = (
            "a web page saved as an image" if is_html(data[:64]) else "no image format that is known here"
        )
        raise BadImage(reason) from None
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
        raise BadImage("a decompression bomb: more pixels than Pillow's limit")
    return image


def cost_of(image: Image.Image, data: bytes, reach: int) -> int:
    """Bytes of memory that an opened image will need; prepares a JPEG to be decoded at about `reach` a side.

    BadImage for a JPEG of too many scans.
    """
    coefficients = 0
    if isinstance(image, PlainJpeg):
        scans = n_scans(data)
        check_scans(scans, image.width * image.height)
        if scans > 1 or image.info.get("progressive"):
            coefficients = COEFFICIENT_BYTES * image.layers * image.width * image.height
        # lets JPEG skip frequencies that the resize would drop anyway; only far above the target, so unseen
        image.draft(None, (reach, reach))
    return COSTS.get(image.format, USUAL_COST) * image.width * image.height + coefficients


@functools.cache
def one_large() -> Lock:
    """Held while a large image is decoded; made before the workers, which share it then."""
    return multiprocessing.get_context("fork" if sys.platform == "linux" else None).Lock()


def decode(data: bytes, shape: Shape) -> np.ndarray:
    """Image file -> uint8 (H, W, C): upright, centre-cropped to the aspect, resized with antialiasing.

    Raises BadImage with the reason: truncated, empty, a web page, a decompression bomb, too many scans, too large.
    """
    height, width, channels = shape
    try:
        image = open_image(data)
        # the longer side both ways, since EXIF may yet turn the image
        cost = cost_of(image, data, 4 * max(height, width))
        if cost > MAX_COST:
            raise BadImage(f"{cost >> 20:,} MiB of memory would be needed, of {MAX_COST >> 20:,} at most")
        with one_large() if cost > LARGE_COST else nullcontext():
            image = to_plain(upright(image), channels)
            box = centre_box(image.size, height, width)
            if box != (0, 0, width, height) or image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.LANCZOS, box=box)
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage("a decompression bomb: more pixels than Pillow's limit") from None
    except MemoryError:
        raise BadImage("more memory would be needed than there is") from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged files
        reason = shown(" ".join(str(error).split()), 120)
        raise BadImage(f"damaged: {reason}" if reason else f"damaged: {type(error).__name__}") from None
    return np.asarray(image).reshape(shape)


def read_member(member: Member) -> bytes:
    """The member's bytes, read from disk where it is a path; raises BadImage."""
    if isinstance(member.data, BadImage):
        raise member.data
    if isinstance(member.data, bytes):
        return member.data
    try:
        return read_bytes(member.data, MAX_FILE_BYTES)
    except Unreadable as error:
        reason = error.for_command_line.removeprefix(shown(str(member.data))).strip().removeprefix("is ")
        raise BadImage(reason) from None


def decode_chunk(members: list[Member], shape: Shape) -> Chunk:
    """Decode neighbours one by one; what runs in a worker."""
    names, pixels, problems = [], [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd EXIF and palettes: nothing a user could act on
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for member in members:
            try:
                pixels.append(decode(read_member(member), shape))
                names.append(member.name)
            except BadImage as error:
                problems.append((member.name, str(error)))
    return Chunk(names, np.stack(pixels) if pixels else np.empty((0, *shape), np.uint8), problems)


def in_chunks(members: Iterable[Member], image_bytes: int) -> Iterator[list[Member]]:
    """Neighbours in lists of at most CHUNK_FILES, and, before and after decoding, about CHUNK_BYTES."""
    n_files = max(1, min(CHUNK_FILES, CHUNK_BYTES // image_bytes))
    chunk, n_bytes = [], 0
    for member in members:
        chunk.append(member)
        n_bytes += len(member.data) if isinstance(member.data, bytes) else 0
        if len(chunk) == n_files or n_bytes > CHUNK_BYTES:
            yield chunk
            chunk, n_bytes = [], 0
    if chunk:
        yield chunk


def n_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(workers: int) -> Iterator[Executor]:
    """Processes that end with the block, however it ends, and with this process, however it dies.

    Threads where starting a process would import the user's script again.
    """
    if sys.platform != "linux" or not hasattr(os, "fork"):
        with ThreadPoolExecutor(workers) as pool:
            yield pool
        return
    lifeline, held = os.pipe()
    with open(held, "wb", closefd=True) as life:
        pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("fork"), initializer=serve_parent, initargs=(lifeline, held)
        )
        try:
            yield pool
        except BaseException:
            life.close()  # what is being decoded is not waited for
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            os.close(lifeline)


def decoded_in_order(
    pool: Executor, work: Callable[..., Chunk], chunks: Iterable[list[Member]], shape: Shape, ahead: int
) -> Iterator[Chunk]:
    """Map over the chunks in order with at most `ahead` of them in memory."""
    pending: deque[Future[Chunk]] = deque()
    for chunk in chunks:
        pending.append(pool.submit(work, chunk, shape))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def decode_all(members: Iterable[Member], shape: Shape) -> Iterator[Chunk]:
    """Decode in the order given, on all cores; a handful of images stays in this process."""
    chunks = in_chunks(members, math.prod(shape))
    head = list(islice(chunks, 4))
    workers = min(n_cores(), 32)
    if len(head) < 4 or workers == 1:
        for chunk in chain(head, chunks):
            yield decode_chunk(chunk, shape)
        return
    one_large()
    with worker_pool(workers) as pool:
        yield from decoded_in_order(pool, decode_chunk, chain(head, chunks), shape, ahead=3 * workers)
