"""One image file -> uint8 pixels of the wanted size: right for every odd format, or a reason why not."""

import io
import multiprocessing
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from signals import serve_parent

# Pillow tries only these: some of its other readers start programs (EPS) or are little tested
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"]
)
MAX_FILE_BYTES = 64 * 2**20
CHUNK_FILES = 64
CHUNK_BYTES = 32 * 2**20

Shape = tuple[int, int, int]  # height, width, channels


class BadImage(ValueError):
    """An image that cannot be used; its text is the reason."""


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


def to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """Grey of any number type -> uint8: 16-bit / 257; floats in [0, 1] x 255; wider ones by their range."""
    values = np.asarray(pixels, dtype=np.float64)
    if not np.isfinite(values).all():
        raise BadImage("floating-point image with NaN or infinite pixels")
    low, high = float(values.min()), float(values.max())
    scales = (1.0, 255.0) if np.issubdtype(pixels.dtype, np.floating) else (65535.0,)
    span = next((scale for scale in scales if low >= 0 and high <= scale), None)
    start = 0.0 if span else low
    return np.rint((values - start) * (255 / (span or (high - low) or 1.0))).astype(np.uint8)


def to_plain(image: Image.Image, channels: int) -> Image.Image:
    """Any Pillow mode -> L or RGB: 16-bit and float scaled, alpha (also a palette's) composited on white."""
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(to_8_bit(np.asarray(image)))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("L" if channels == 1 else "RGB")


def centre_box(size: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """Largest centred box (left, top, right, bottom) with the aspect of height x width; size is (w, h)."""
    w, h = size
    if w * height > h * width:
        box_w, box_h = max(1, round(h * width / height)), h
    else:
        box_w, box_h = w, max(1, round(w * height / width))
    left, top = (w - box_w) // 2, (h - box_h) // 2
    return left, top, left + box_w, top + box_h


def open_image(data: bytes) -> Image.Image:
    """The bytes as a Pillow image, its header read; raises BadImage with the reason."""
    if not data:
        raise BadImage("empty file")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        reason = (
            "a web page saved as an image" if is_html(data[:64]) else "no image format that is known here"
        )
        raise BadImage(reason) from None


def decode(data: bytes, shape: Shape) -> np.ndarray:
    """Image file -> uint8 (H, W, C): upright, centre-cropped to the aspect, resized with antialiasing.

    Raises BadImage with the reason: truncated, empty, a web page, a decompression bomb.
    """
    height, width, channels = shape
    try:
        image = open_image(data)
        # lets JPEG skip frequencies that the resize would drop anyway; only far above the target, so unseen
        reach = 4 * max(height, width)  # the longer side both ways, since EXIF may yet turn the image
        image.draft(None, (reach, reach))
        image = to_plain(ImageOps.exif_transpose(image), channels)
        box = centre_box(image.size, height, width)
        if box != (0, 0, width, height) or image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.LANCZOS, box=box)
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage("a decompression bomb: more pixels than Pillow's limit") from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged files
        reason = " ".join(str(error).split())[:120]
        raise BadImage(f"damaged: {reason}" if reason else f"damaged: {type(error).__name__}") from None
    return np.asarray(image).reshape(shape)


def read_member(member: Member) -> bytes:
    """The member's bytes, read from disk where it is a path; raises BadImage."""
    if isinstance(member.data, BadImage):
        raise member.data
    if isinstance(member.data, bytes):
        return member.data
    try:
        if member.data.stat().st_size > MAX_FILE_BYTES:
            raise BadImage(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        return member.data.read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror}") from None


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


def in_chunks(members: Iterable[Member]) -> Iterator[list[Member]]:
    """Neighbours in lists of at most CHUNK_FILES and, give or take one file, CHUNK_BYTES."""
    chunk, n_bytes = [], 0
    for member in members:
        chunk.append(member)
        n_bytes += len(member.data) if isinstance(member.data, bytes) else 0
        if len(chunk) == CHUNK_FILES or n_bytes > CHUNK_BYTES:
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
    chunks = in_chunks(members)
    head = list(islice(chunks, 4))
    workers = min(n_cores(), 32)
    if len(head) < 4 or workers == 1:
        for chunk in chain(head, chunks):
            yield decode_chunk(chunk, shape)
        return
    with worker_pool(workers) as pool:
        yield from decoded_in_order(pool, decode_chunk, chain(head, chunks), shape, ahead=3 * workers)
