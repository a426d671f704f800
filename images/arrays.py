"""Pictures as arrays (H, W, C): .npy, and those PNG and TIFF files whose bits or channels no mode of Pillow's holds."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from images.headers import TIFF_STARTS, BadImage, file_of

SUFFIX, NPY, PNG = ".npy", b"\x93NUMPY", b"\x89PNG\r\n\x1a\n"
MAX_CHANNELS = 64
FEW = 16  # an axis of an array is of channels up to here, where its shape alone must tell
MAX_VALUES = 2**27  # of one picture: with its copies a GiB at most
NOT_FINITE = "floating-point image with NaN or infinite pixels"
FULL = (0.0, 65535.0)  # of 16 bits
# of 8, 10, 12, 14 and 16 bits, which cameras and scanners have, whatever they are stored in
BITS = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
WIDTH, HEIGHT, BITS_EACH, COMPRESSION, PHOTOMETRIC, SAMPLES = 256, 257, 258, 259, 262, 277
PLANES, PREDICTOR, TILE_WIDTH, EXTRA, FORMAT = 284, 317, 322, 338, 339  # tags of TIFF
STRIPS, STRIP_BYTES, ROWS, TILE_HEIGHT, TILES, TILE_BYTES = 273, 279, 278, 323, 324, 325
ALPHA = (1, 2)  # of EXTRA: multiplied into the colours or not
_COLOURS = (2, 4, 6)  # of PNG: with several samples a pixel, of which Pillow drops the lower 8 bits of 16
_CODES = {1: ("H", 2), 2: ("L", 4)}

Scale = tuple[float, float]  # the values that become 0 and 255


# -- scales --------------------------------------------------------------------------------------------------------


def scale_of_set(low: float, high: float, floating: bool) -> Scale:
    """The scale for all pictures of a set, whose values run from low to high.

    Whole numbers: 0 to the most that 8, 10, 12, 14 or 16 bits hold, the fewest that do; floats: 0 to 1, -1 to 1, or, if
    the values use more than half of it, 0 to 255. Any others, as with numbers below 0, by what there is.
    """
    if not floating:
        top = next((top for top in BITS if high <= top), None)
        return (low, high) if low < 0 or top is None else (0.0, top)
    if low >= -1 and high <= 1:
        return (0.0 if low >= 0 else -1.0), 1.0
    return (0.0, 255.0) if low >= 0 and 127.5 < high <= 255 else (low, high)


def scale_alone(low: float, high: float, floating: bool) -> Scale:
    """The scale of a picture without a set: 16 bits in full, floats of 0 to 1 or 0 to 255, else its own range."""
    tops = (1.0, 255.0) if floating else (65535.0,)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    return (low, high) if top is None else (0.0, top)


def to_bytes(values: np.ndarray, scale: Scale) -> np.ndarray:
    """uint8 of values of any number type; what lies beyond the scale is 0 or 255. uint8 stays, bool is 0 and 255.

    BadImage for NaN and infinite pixels.
    """
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BadImage(NOT_FINITE)
    low, high = scale
    # as these were always rounded: by the factor, not by a quotient
    steps = np.rint((np.asarray(values, dtype=np.float64) - low) * (255 / (high - low or 1.0)))
    return steps.clip(0, 255).astype(np.uint8)


def is_deep(values: np.ndarray) -> bool:
    """Whether the values need a scale."""
    return values.dtype not in (np.dtype(np.uint8), np.dtype(np.bool_))


def extremes(values: np.ndarray) -> tuple[float, float]:
    """(least, greatest). BadImage for NaN and infinite pixels."""
    low, high = float(values.min()), float(values.max())  # NaN if any is
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadImage(NOT_FINITE)
    return low, high


# -- .npy ----------------------------------------------------------------------------------------------------------


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype, bool]:
    """(shape, type, whether columns come first) of a .npy, the file then stands at its values. BadImage."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError("a version for other things than numbers")
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, kind = read(file)
    except Exception as error:  # numpy evaluates a dictionary, and raises whatever that raises
        raise BadImage(f"damaged: no .npy ({' '.join(str(error).split())[:100]})") from None
    if kind.kind not in "buif" or kind.itemsize > 8:
        raise BadImage(f"an array of {str(kind)[:40]}: numbers of up to 64 bits are needed")
    if 0 in shape or any(not 0 < side < 2**40 for side in shape):
        raise BadImage(f"an array of shape {shape}: there are no pixels")
    return shape, kind, fortran


def channels_last(values: np.ndarray) -> np.ndarray:
    """(..., H, W, C) of (..., H, W, C) or (..., C, H, W): C is the smaller of the two, of equals the last."""
    return values if values.shape[-1] <= values.shape[-3] else np.moveaxis(values, -3, -1)


def npy_array(data: bytes, channels: int | None = None) -> np.ndarray:
    """(H, W, C) of one picture's .npy: (H, W), (H, W, C) or (C, H, W). BadImage.

    channels: which axis they are where one end alone has that length, None as in channels_last.
    """
    file = io.BytesIO(data)
    shape, kind, fortran = read_header(file)
    if len(shape) not in (2, 3):
        raise BadImage(f"an array of shape {shape}: (H, W), (H, W, C) or (C, H, W) is needed")
    n = int(np.prod([int(side) for side in shape], dtype=object))
    if n > MAX_VALUES:
        raise BadImage(f"an array of {n:,} values: {MAX_VALUES:,} at most")
    if len(data) - file.tell() != n * kind.itemsize:
        raise BadImage(f"damaged: {len(data) - file.tell()} bytes of values, not {n * kind.itemsize}")
    values = np.frombuffer(data, kind, n, file.tell()).reshape(shape, order="F" if fortran else "C")
    values = values.astype(kind.newbyteorder("="), copy=False)
    if values.ndim == 2:
        return values[..., None]
    ends = [values.shape[0] == channels, values.shape[-1] == channels]
    if sum(ends) == 1:
        return values if ends[1] else np.moveaxis(values, 0, -1)
    return channels_last(values)


# -- PNG and TIFF --------------------------------------------------------------------------------------------------


def is_wide_png(data: bytes) -> bool:
    """Whether it is a PNG of 16 bits with colour or alpha."""
    return data[:8] == PNG and len(data) > 26 and data[24] == 16 and data[25] in _COLOURS


def png_array(data: bytes) -> np.ndarray:
    """uint16 (H, W, C) of a PNG of 16 bits, 2 to 4 samples a pixel. BadImage, and what zlib raises for a damaged one.

    torchvision's reader dies of damaged files, and Pillow's has 8 bits of each sample.
    """
    chunks = dict[bytes, list[bytes]]()
    at = len(PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">L", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind in (b"IHDR", b"IDAT"):
            if data[at + 8 + length : at + 12 + length] != zlib.crc32(kind + body).to_bytes(4, "big"):
                raise BadImage(f"damaged: a wrong checksum of its {kind.decode()}")
            chunks.setdefault(kind, []).append(body)
        at += 12 + length
    if len(chunks.get(b"IHDR", [b""])[0]) != 13:
        raise BadImage("damaged: no whole header")
    width, height, _, colours, *_, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"][0])
    n = {2: 3, 4: 2, 6: 4}[colours]
    if interlaced:
        raise BadImage("an interlaced PNG of 16 bits: save it without")
    if not 0 < width * height * n <= MAX_VALUES // 4:
        raise BadImage(f"{width} x {height} pixels of 16 bits: {MAX_VALUES // 4:,} values at most")
    row = 1 + 2 * n * width
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(b"".join(chunks.get(b"IDAT", [])), row * height + 1)
    if len(raw) != row * height:
        raise BadImage("damaged: truncated")
    rows = np.frombuffer(raw, np.uint8).reshape(height, row)
    pixels = unfiltered(rows[:, 0], rows[:, 1:].reshape(height, width, 2 * n))
    return np.ascontiguousarray(pixels).view(">u2").astype(np.uint16)


def unfiltered(kinds: np.ndarray, differences: np.ndarray) -> np.ndarray:
    """uint8 (H, W, B) of PNG's filtered rows, B bytes a pixel; kinds (H,): the filter of each row. BadImage.

    A pixel follows from those left, above and above left of it: all on one diagonal at once, so that no time goes into
    a loop over pixels.
    """
    if kinds.size and kinds.max() > 4:
        raise BadImage(f"damaged: a filter {kinds.max()} of its rows")
    height, width, n_bytes = differences.shape
    # one row and one column of zeros before the others, wide enough for sums
    found = np.zeros((height + 1, width + 1, n_bytes), np.int16)
    for d in range(height + width - 1):
        y = np.arange(max(0, d - width + 1), min(height, d + 1))
        x = d - y
        left, above, corner = found[y + 1, x], found[y, x + 1], found[y, x]
        ahead = left + above - corner
        far = [abs(ahead - neighbour) for neighbour in (left, above, corner)]
        nearest = np.where(
            (far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], above, corner)
        )
        guesses = (np.zeros_like(left), left, above, (left + above) >> 1, nearest)
        guess = np.choose(kinds[y][:, None], guesses)
        found[y + 1, x + 1] = (differences[y, x] + guess) & 255
    return found[1:, 1:].astype(np.uint8)


def tiff_tags(data: bytes) -> ImageFileDirectory_v2:
    """The first directory of a TIFF. BadImage for too large tables; what Pillow raises for damaged ones."""
    file = file_of(data)
    tags = ImageFileDirectory_v2(file.read(16) if data[2:4] in (b"+\0", b"\0+") else file.read(8))
    file.seek(tags.next)
    tags.load(file)
    return tags


def _numbers(value: object) -> list[int]:
    """The values of a tag, be it one or several."""
    return [int(v) for v in value] if isinstance(value, Sequence) else [int(value)]


def tiff_samples(data: bytes) -> tuple[int, int]:
    """(samples a pixel, bits of each, 0 where they differ) of a TIFF's first page."""
    tags = tiff_tags(data)
    bits = set(_numbers(tags.get(BITS_EACH, 1)))
    return int(tags.get(SAMPLES, 1)), bits.pop() if len(bits) == 1 else 0


def tiff_pages(data: bytes) -> int:
    """How many pictures a TIFF holds that are grey and of one size, counted to MAX_CHANNELS + 1; 1 for all others."""
    image = Image.open(file_of(data), formats=("TIFF",))
    first, n = (image.mode, image.size), 1
    if first[0] not in ("L", "F") and not first[0].startswith("I"):
        return 1
    while n <= MAX_CHANNELS:
        try:
            image.seek(n)
        except EOFError:
            break
        if (image.mode, image.size) != first:
            return 1
        n += 1
    return n


def stacked_pages(data: bytes, n: int) -> np.ndarray:
    """(H, W, n) of the pages of a TIFF. BadImage for too many values; what Pillow raises."""
    image = Image.open(file_of(data), formats=("TIFF",))
    check_size(image.width, image.height, n)
    pages = []
    for i in range(n):
        image.seek(i)
        pages.append(np.asarray(image))
    return np.stack(pages, axis=2)


def check_size(width: int, height: int, n: int) -> None:
    """BadImage for more values than there may be."""
    if n > MAX_CHANNELS:
        raise BadImage(f"{n} channels: {MAX_CHANNELS} at most")
    if width * height * n > MAX_VALUES:
        raise BadImage(f"{width} x {height} pixels of {n} channels: {MAX_VALUES:,} values at most")


def tiff_array(data: bytes) -> np.ndarray:
    """(H, W, C) of a TIFF's first page with any number of samples a pixel.

    Pillow unpacks them as one grey picture C times as wide, or one for each plane: a directory that says so is put
    behind the file. Differences of neighbours, if they were stored, are summed here. BadImage for what is none of it.
    """
    tags = tiff_tags(data)
    tiled = TILES in tags
    places, lengths = (TILES, TILE_BYTES) if tiled else (STRIPS, STRIP_BYTES)
    needed = (WIDTH, HEIGHT, places, lengths, *((TILE_WIDTH, TILE_HEIGHT) if tiled else ()))
    if missing := [tag for tag in needed if tag not in tags]:
        raise BadImage(f"damaged: a TIFF without its tag {missing[0]}")
    width, height, n = int(tags[WIDTH]), int(tags[HEIGHT]), int(tags.get(SAMPLES, 1))
    check_size(width, height, n)
    bits, kinds = set(_numbers(tags.get(BITS_EACH, 1))), set(_numbers(tags.get(FORMAT, 1)))
    predictor = int(tags.get(PREDICTOR, 1))
    if data[2:4] in (b"+\0", b"\0+"):
        raise BadImage("a BigTIFF of several channels: save it as plain TIFF or .npy")
    if len(bits) != 1 or len(kinds) != 1 or not bits <= {8, 16, 32, 64} or predictor not in (1, 2):
        raise BadImage("a TIFF of channels that differ, or are packed in a rare way: save it as .npy")
    planar = int(tags.get(PLANES, 1)) == 2 and n > 1
    found = {
        COMPRESSION: [int(tags.get(COMPRESSION, 1))],
        BITS_EACH: [*bits],
        FORMAT: [*kinds],
        HEIGHT: [height],
        **({TILE_HEIGHT: [int(tags[TILE_HEIGHT])]} if tiled else {ROWS: [int(tags.get(ROWS, height))]}),
    }
    across = 1 if planar else n
    found[WIDTH] = [width * across]
    if tiled:
        found[TILE_WIDTH] = [int(tags[TILE_WIDTH]) * across]
    offsets, counts = _numbers(tags[places]), _numbers(tags[lengths])
    each = len(offsets) // (n if planar else 1)
    planes = []
    for i in range(n if planar else 1):
        part = slice(i * each, (i + 1) * each)
        planes.append(_grey(data, found | {places: offsets[part], lengths: counts[part]}))
    values = np.stack(planes, axis=2) if planar else planes[0].reshape(height, width, n)
    return _summed(values, int(tags[TILE_WIDTH]) if tiled else width) if predictor == 2 else values


def _summed(values: np.ndarray, tile: int) -> np.ndarray:
    """What differences along the rows of each tile (H, W, C) stand for, modulo the type."""
    parts = [
        values[:, x : x + tile].cumsum(axis=1, dtype=values.dtype) for x in range(0, values.shape[1], tile)
    ]
    return np.concatenate(parts, axis=1)


def _grey(data: bytes, tags: dict[int, list[int]]) -> np.ndarray:
    """(H, W) of the grey picture that these tags describe, in its own number type."""
    order = "<" if data[:2] == b"II" else ">"
    tags = dict(sorted((tags | {PHOTOMETRIC: [1], SAMPLES: [1]}).items()))
    start = len(data) + len(data) % 2
    behind = start + 2 + 12 * len(tags) + 4
    entries, values = struct.pack(order + "H", len(tags)), b""
    for tag, numbers in tags.items():
        short = tag in (COMPRESSION, BITS_EACH, FORMAT, PHOTOMETRIC, SAMPLES)
        code, size = _CODES[1 if short else 2]
        packed = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        entries += struct.pack(order + "HHL", tag, 3 if short else 4, len(numbers))
        if len(packed) > 4:
            entries += struct.pack(order + "L", behind + len(values))
            values += packed
        else:
            entries += packed.ljust(4, b"\0")
    # the same start, but for the place of the first directory
    whole = data[:4] + struct.pack(order + "L", start) + data[8:] + b"\0" * (len(data) % 2)
    image = Image.open(io.BytesIO(whole + entries + b"\0" * 4 + values), formats=("TIFF",))
    pixels = np.asarray(image)
    (bits,), (kind,) = tags[BITS_EACH], tags[FORMAT]
    wanted = np.dtype(f"{ {2: 'i', 3: 'f'}.get(kind, 'u') }{bits // 8}".replace(" ", ""))
    return pixels.astype(wanted, copy=False)


# -- whatever it is ------------------------------------------------------------------------------------------------


def channels_in(data: bytes) -> int | None:
    """How many channels a file has that Pillow's modes do not hold, None for all other files. BadImage."""
    if data[:6] == NPY:
        shape, *_ = read_header(io.BytesIO(data[: 2**16]))
        return 1 if len(shape) == 2 else min(shape[0], shape[-1])
    if data[:4] not in TIFF_STARTS:
        return None
    n, bits = tiff_samples(data)
    if n == 2 and any(kind in ALPHA for kind in _numbers(tiff_tags(data).get(EXTRA, 0))):
        return 1
    if n not in (1, 3, 4) or bits > 8 and n > 1:
        return n
    pages = tiff_pages(data) if n == 1 else 1
    return pages if 1 < pages <= MAX_CHANNELS else None


def is_beyond_pillow(data: bytes, n: int | None) -> bool:
    """Whether it is a TIFF whose header Pillow does not read as a picture; n: its channels_in."""
    if n is None or data[:4] not in TIFF_STARTS:
        return False
    return n not in (1, 3, 4) or n == 1 and tiff_samples(data)[1] != 8  # 1: grey with alpha


def array_of(data: bytes, channels: int, scale: Scale | None) -> np.ndarray | None:
    """The picture as (H, W, C) in its own numbers where Pillow would not give all of it, None where it does. BadImage.

    channels: how many are wanted: grey pages are a stack where there are as many. scale: None and that of all 16 bits
    leave to Pillow what it reads by the upper 8 of 16.
    """
    if data[:6] == NPY:
        return npy_array(data, channels)
    by_half = scale in (None, FULL)
    if is_wide_png(data):
        return None if by_half else png_array(data)
    if data[:4] not in TIFF_STARTS:
        return None
    n, bits = tiff_samples(data)
    if n == 1:
        return stacked_pages(data, channels) if channels > 1 and tiff_pages(data) == channels else None
    if n in (3, 4) and (bits <= 8 or bits == 16 and by_half):
        return None
    if n == 2 and bits == 8 and channels != 2:  # grey with alpha
        return None
    return tiff_array(data)
