"""One image file -> uint8 pixels of the wanted size: right for every odd format, or a reason why not."""

import functools
import math
import multiprocessing
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from multiprocessing.synchronize import Lock
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from disk import Unreadable, read_bytes
from errors import shown
from images.arrays import Scale, array_of, is_deep, scale_alone, to_bytes
from images.arrays import extremes as extremes_of
from images.headers import BadImage, check_scans, file_of, foreign, n_scans, orientation, turned, upright
from signals import serve_parent

# Pillow tries only these: some of its other readers start programs (EPS) or are little tested
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".npy"]
)
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's, by channels; others are held as a grey image each
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
NO_SCALE = (0.0, 0.0)  # nobody's: for reading values as they are

Shape = tuple[int, int, int]  # height, width, channels
T = TypeVar("T")


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


def extremes(image: Image.Image) -> tuple[float, float, bool]:
    """(least, greatest, whether they are floats) of a grey image. BadImage for NaN and infinite pixels."""
    low, high, floating = np.inf, -np.inf, False
    for band in bands(image):
        values = np.asarray(band)
        least, most = extremes_of(values)
        low, high = min(low, least), max(high, most)
        floating = np.issubdtype(values.dtype, np.floating)
    return low, high, floating


def bands(image: Image.Image) -> Iterator[Image.Image]:
    """The image in pieces of whole rows, from the top, each a copy; itself if it is small."""
    rows = max(1, BAND_PIXELS // image.width)
    if rows >= image.height:
        yield image
        return
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def is_grey_of_many_bits(image: Image.Image) -> bool:
    """Whether Pillow holds it as numbers beyond 0 .. 255."""
    return image.mode.startswith(("I", "F"))


def to_plain(image: Image.Image, channels: int, scale: Scale | None = None) -> Image.Image:
    """Any Pillow mode -> that of 1 to 4 channels: many bits scaled; 1 and 3 have alpha, also a palette's, put on white.

    scale: of greys of many bits; None: that of this image alone.
    """
    mode = MODES[channels]
    if image.mode == mode and "transparency" not in image.info:
        return image
    if is_grey_of_many_bits(image) and scale is None:
        scale = scale_alone(*extremes(image))
    if image.width * image.height <= BAND_PIXELS:
        return plain_band(image, mode, scale)
    plain, top = Image.new(mode, image.size), 0
    for band in bands(image):
        plain.paste(plain_band(band, mode, scale), (0, top))
        top += band.height
    return plain


def plain_band(image: Image.Image, mode: str, scale: Scale | None) -> Image.Image:
    """As to_plain; scale: of greys of many bits, for the whole image."""
    if is_grey_of_many_bits(image):
        assert scale is not None, "of the whole image"
        image = Image.fromarray(to_bytes(np.asarray(image), scale))
    elif image.mode == "LAB":  # which Pillow turns into RGB alone
        image = image.convert("RGBA").convert("RGB")
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if mode not in ("RGBA", "LA"):
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
    return image.convert(mode)


Box = tuple[int, int, int, int]  # left, top, right, bottom


def centre_box(size: tuple[int, int], height: int, width: int) -> Box:
    """Largest centred box with the aspect of height x width; size is (w, h)."""
    w, h = size
    if w * height > h * width:
        box_w, box_h = max(1, round(h * width / height)), h
    else:
        box_w, box_h = w, max(1, round(w * height / width))
    left, top = (w - box_w) // 2, (h - box_h) // 2
    return left, top, left + box_w, top + box_h


def top_box(size: tuple[int, int], height: int, width: int) -> Box:
    """As centre_box, but from the top on."""
    left, top, right, bottom = centre_box(size, height, width)
    return left, 0, right, bottom - top


def whole_box(size: tuple[int, int], height: int, width: int) -> Box:
    """All of it."""
    return 0, 0, *size


@dataclass(frozen=True)
class Crop:
    """A way to bring pictures to one shape: the box that is taken, whether it keeps its aspect by zeros (black, or
    transparent) around it, and how a protocol says it."""

    box: Callable[[tuple[int, int], int, int], Box]
    padded: bool
    text: str


_RESIZED = "resized by Lanczos where the size differs"
CROPS: Mapping[str, Crop] = {
    "centre": Crop(centre_box, False, f"the largest centred piece of the aspect, {_RESIZED}"),
    "top": Crop(top_box, False, f"the largest piece of the aspect from the top, centred across, {_RESIZED}"),
    "pad": Crop(whole_box, True, f"the whole picture, zeros around it to the aspect, {_RESIZED}"),
    "stretch": Crop(whole_box, False, f"the whole picture, stretched to the aspect, {_RESIZED}"),
}


@dataclass(frozen=True)
class Fit:
    """How pictures are brought to one shape and to 8 bits: a row of CROPS, and the values that become 0 and 255 where
    there are more than 8 bits; None: those of each picture alone. half: "left" or "right" of two pictures that stand
    side by side in a file, None for the whole."""

    crop: str = "centre"
    scale: Scale | None = None
    half: str | None = None


def half_of(image: Image.Image, half: str) -> Image.Image:
    """The left or the right one of two pictures side by side; a column in the middle is nobody's. BadImage."""
    width = image.width // 2
    if image.width <= image.height:
        raise BadImage(f"{image.height} high, {image.width} wide: no two pictures side by side")
    left = {"left": 0, "right": image.width - width}[half]
    return image.crop((left, 0, left + width, image.height))


def placed(image: Image.Image, height: int, width: int, fit: Fit) -> Image.Image:
    """The image, or a half of it, at a size, antialiased."""
    crop = CROPS[fit.crop]
    if fit.half is not None:
        image = half_of(image, fit.half)
    box = crop.box(image.size, height, width)
    w, h = width, height
    if crop.padded:
        factor = min(width / image.width, height / image.height)
        w, h = (
            max(1, min(most, round(side * factor)))
            for most, side in zip((width, height), image.size, strict=True)
        )
    if box != (0, 0, w, h) or image.size != (w, h):
        image = image.resize((w, h), Image.Resampling.LANCZOS, box=box)
    if (w, h) == (width, height):
        return image
    whole = Image.new(image.mode, (width, height), 0)
    whole.paste(image, ((width - w) // 2, (height - h) // 2))
    return whole


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
        reason = "no image format that is known here"
        if is_html(data[:64]):
            reason = "a web page saved as an image"
        elif (kind := foreign(data)) is not None:
            reason = f"{kind}, whatever its name says, which is not read here: save it as JPEG or PNG"
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


def of_array(values: np.ndarray, channels: int, fit: Fit, turn: int | None) -> list[Image.Image]:
    """(H, W, C) of any number type as one image of 1 to 4 channels, or a grey one for each of more. BadImage."""
    scale = fit.scale
    if is_deep(values) and scale is None:
        scale = scale_alone(*extremes_of(values), np.issubdtype(values.dtype, np.floating))
    pixels = to_bytes(values, scale or (0.0, 255.0))
    if pixels.shape[2] in MODES and channels in MODES:
        plain = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        image = Image.fromarray(np.ascontiguousarray(plain), MODES[pixels.shape[2]])
        return [turned(to_plain(image, channels), turn)]
    if pixels.shape[2] != channels:
        raise BadImage(f"{pixels.shape[2]} channels, where {channels} are read: --img_channels says how many")
    return [turned(Image.fromarray(np.ascontiguousarray(pixels[..., i])), turn) for i in range(channels)]


def by_pillow(data: bytes, shape: Shape, fit: Fit) -> Image.Image:
    """The image upright, in its mode and at its size; raises BadImage and what Pillow raises."""
    height, width, channels = shape
    image = open_image(data)
    if channels not in MODES:
        raise BadImage(
            f"a picture of Pillow's mode {image.mode}, where {channels} channels are read: --img_channels says how many"
        )
    # the longer side both ways, since EXIF may yet turn the image
    reach = 4 * max(height, width) * (1 if fit.half is None else 2)
    cost = checked_cost(image, data, reach)
    with one_large() if cost > LARGE_COST else nullcontext():
        return placed(to_plain(upright(image), channels, fit.scale), height, width, fit)


def checked_cost(image: Image.Image, data: bytes, reach: int) -> int:
    """As cost_of; BadImage for more than there may be."""
    cost = cost_of(image, data, reach)
    if cost > MAX_COST:
        raise BadImage(f"{cost >> 20:,} MiB of memory would be needed, of {MAX_COST >> 20:,} at most")
    return cost


def turn_of(data: bytes) -> int | None:
    """EXIF's number for the way a picture that is read as an array is turned."""
    try:
        return orientation(open_image(data))
    except BadImage:  # of modes that Pillow does not have
        return None


def decode(data: bytes, shape: Shape, fit: Fit | None = None) -> np.ndarray:
    """Image file -> uint8 (H, W, C): upright, in 8 bits, cropped as `fit` says, resized with antialiasing.

    Raises BadImage with the reason: truncated, empty, a web page, a decompression bomb, too many scans, too large.
    """
    fit = Fit() if fit is None else fit
    with reasons():
        values = array_of(data, shape[2], fit.scale)
        if values is None:
            return np.asarray(by_pillow(data, shape, fit)).reshape(shape)
        images = of_array(values, shape[2], fit, turn_of(data))
        parts = [np.asarray(placed(image, *shape[:2], fit)) for image in images]
    return parts[0].reshape(shape) if len(parts) == 1 else np.stack(parts, axis=2)


def range_of(data: bytes, channels: int) -> tuple[float, float, bool] | None:
    """(least, greatest, whether they are floats) of a file of more than 8 bits, None for all others. BadImage."""
    with reasons():
        values = array_of(data, channels, NO_SCALE)
        if values is not None:
            return (*extremes_of(values), values.dtype.kind == "f") if is_deep(values) else None
        image = open_image(data)
        if not is_grey_of_many_bits(image):
            return None
        cost = checked_cost(image, data, max(image.size))
        with one_large() if cost > LARGE_COST else nullcontext():
            return extremes(image)


@contextmanager
def reasons() -> Iterator[None]:
    """Whatever a decoder raises, as BadImage."""
    try:
        yield
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage("a decompression bomb: more pixels than Pillow's limit") from None
    except MemoryError:
        raise BadImage("more memory would be needed than there is") from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged files
        reason = shown(" ".join(str(error).split()), 120)
        raise BadImage(f"damaged: {reason}" if reason else f"damaged: {type(error).__name__}") from None


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


@contextmanager
def only_bombs_warn() -> Iterator[None]:
    """Pillow's warnings: bombs are errors; odd EXIF and palettes are nothing that a user could act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def ranges_of_chunk(members: list[Member], channels: int) -> list[tuple[float, float, bool]]:
    """range_of neighbours, those of 8 bits and what cannot be read left out; what runs in a worker."""
    found = []
    with only_bombs_warn():
        for member in members:
            with suppress(BadImage):
                found.append(range_of(read_member(member), channels))
    return [values for values in found if values is not None]


def decode_chunk(members: list[Member], shape: Shape, fit: Fit | None = None) -> Chunk:
    """Decode neighbours one by one; what runs in a worker."""
    names, pixels, problems = [], [], []
    with only_bombs_warn():
        for member in members:
            try:
                pixels.append(decode(read_member(member), shape, fit))
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


def in_order(
    pool: Executor, work: Callable[..., T], chunks: Iterable[list[Member]], ahead: int
) -> Iterator[T]:
    """Map over the chunks in order with at most `ahead` of them in memory."""
    pending: deque[Future[T]] = deque()
    for chunk in chunks:
        pending.append(pool.submit(work, chunk))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def on_all_cores(
    work: Callable[[list[Member]], T], members: Iterable[Member], image_bytes: int, few: int = 4
) -> Iterator[T]:
    """What work makes of neighbours, in the order given; less than `few` chunks of them stay in this process."""
    chunks = in_chunks(members, image_bytes)
    head = list(islice(chunks, few))
    workers = min(n_cores(), 32)
    if len(head) < few or workers == 1:
        for chunk in chain(head, chunks):
            yield work(chunk)
        return
    one_large()
    with worker_pool(workers) as pool:
        yield from in_order(pool, work, chain(head, chunks), ahead=3 * workers)


def decode_all(members: Iterable[Member], shape: Shape, fit: Fit | None = None) -> Iterator[Chunk]:
    """Decode in the order given, on all cores."""
    how = {} if fit is None else {"fit": fit}
    yield from on_all_cores(partial(decode_chunk, shape=shape, **how), members, math.prod(shape))
