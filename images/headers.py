"""What an image file says of itself, looked at before a decoder acts on it: scans, sizes of tables, which way is up.

Pillow bounds the pixels of an image, but not how often a progressive JPEG may go over them, how many strips a TIFF may
name, or how many tiny parts a file may have.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

ORIENTATION, TILE_WIDTH, TILE_HEIGHT = 274, 322, 323  # TIFF's tags, EXIF's too
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# libjpeg's own progressive script has 10 scans, and those that optimisers find have a few more; 64 coefficients sent
# one by one would be 64. Each goes over all pixels.
MAX_SCANS = 100
MAX_SCANNED = 2**30  # pixels times scans: 10 scans of Pillow's largest image are 0.9e9
MAX_NUMBERS = 2**18  # in a TIFF's tags: a row's or a tile's place, and its bytes
MAX_TILE = 2**24  # pixels
SMALL = 2**16  # bytes of a file that cannot do harm by many parts
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_START = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"iCCP",
)  # of PNG: words and profiles, of which Pillow refuses long ones
MAX_TEXT, MAX_TEXTS = 2**18, 2**22  # bytes of one, unpacked, and of all; what is longer is taken out
# What other files are, that a name may call images: where its bytes stand, what they are, and how it is called.
OTHERS = (
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"heic", b"heix", b"heim", b"hevc", b"mif1", b"msf1")),
    *((4, b"ftyp" + brand, "AVIF") for brand in (b"avif", b"avis")),
    (0, b"\xff\x0a", "JPEG XL"), (4, b"JXL \r\n", "JPEG XL"), (4, b"jP  \r\n", "JPEG 2000"),
    (0, b"8BPS", "Photoshop"), (128, b"DICM", "DICOM"), (0, b"%PDF", "PDF"), (4, b"ftyp", "film"),
)  # fmt: skip
_SCAN = b"\xff\xda"
_MARKER = re.compile(
    rb"\xff([^\x00\x01\xff\xd0-\xd8])"
)  # those with a length; JPEG data has 00 behind each ff
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_XMP_KEY = b"XML:com.adobe.xmp\0"
_PLAIN_KINDS = (1, 2, 6, 7)  # of a tag's values: bytes and text, which stay as they are
_NUMBERS = {1: "B", 3: "H", 4: "L", 16: "Q"}


class BadImage(ValueError):
    """An image that cannot be used; its text is the reason."""


class Frugal(io.BytesIO):
    """A file in memory of which no reader takes more than it needs to, in parts that are not too small. BadImage."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads_left = 20_000 + len(data) // 256
        self.bytes_left = 2**20 + 4 * len(data)

    def read(self, n: int | None = -1, /) -> bytes:
        """As any file's."""
        data = super().read(n)
        self.reads_left -= 1
        self.bytes_left -= len(data)
        if min(self.reads_left, self.bytes_left) < 0:
            raise BadImage("damaged: far more parts than an image has")
        return data


def foreign(data: bytes) -> str | None:
    """What a file is that is not read here, None where nothing is known of it."""
    return next((kind for at, start, kind in OTHERS if data[at : at + len(start)] == start), None)


def without_long_texts(data: bytes) -> bytes:
    """A PNG without texts and profiles that are longer than any reader takes; itself where there are none.

    Of an XMP text the way the picture is turned stays.
    """
    if not any(kind in data for kind in TEXT_CHUNKS):
        return data
    kept, at, total, changed = [data[:8]], 8, 0, False
    while at + 8 <= len(data):
        (length,), kind = struct.unpack_from(">L", data, at), data[at + 4 : at + 8]
        whole = data[at : at + 12 + length]
        at += 12 + length
        if kind in TEXT_CHUNKS:
            text, is_whole = _unpacked_text(kind, whole[8:-4])
            total += len(text)
            if not is_whole or total > MAX_TEXTS:
                changed = True
                turned = _XMP.search(text) if whole[8:].startswith(_XMP_KEY) else None
                whole = b"" if turned is None else _text_chunk(turned[0])
        kept.append(whole)
        if kind == b"IEND":
            break
    return b"".join(kept) if changed else data


def _unpacked_text(kind: bytes, content: bytes) -> tuple[bytes, bool]:
    """(the beginning of a text or profile, unpacked; whether that is all of it)."""
    keyword, _, rest = content.partition(b"\0")
    packed = kind in (b"zTXt", b"iCCP") or kind == b"iTXt" and rest[:1] == b"\1"
    if kind == b"iTXt":  # two bytes of packing, the language and the keyword in it
        rest = b"\0".join(rest[2:].split(b"\0", 2)[2:])
    if not packed:
        return rest[:MAX_TEXT], len(rest) <= MAX_TEXT
    try:
        text = zlib.decompressobj().decompress(rest if kind == b"iTXt" else rest[1:], MAX_TEXT + 1)
    except zlib.error:
        return b"", True  # left to the reader
    return text[:MAX_TEXT], len(text) <= MAX_TEXT


def _text_chunk(text: bytes) -> bytes:
    """An XMP chunk of this text alone."""
    content = b"iTXt" + _XMP_KEY + b"\0\0\0\0" + text
    return struct.pack(">L", len(content) - 4) + content + struct.pack(">L", zlib.crc32(content))


def file_of(data: bytes) -> io.BytesIO:
    """The bytes as a file for Pillow. BadImage for a TIFF whose tables or tiles are too large."""
    if data[:8] == PNG_START:
        data = without_long_texts(data)
    if data[:4] in TIFF_STARTS:
        check_tiff(data)
    elif len(data) < SMALL:
        return io.BytesIO(data)
    return Frugal(data)


def n_scans(data: bytes) -> int:
    """How often a JPEG's data go over its pixels, counted to MAX_SCANS + 1."""
    n = data.count(_SCAN)  # too many where a thumbnail, a profile or a film behind the picture has them too
    if n <= MAX_SCANS // 10:
        return n
    n, at = 0, 2
    while n <= MAX_SCANS and (found := _MARKER.search(data, at)):
        if found[1] == b"\xd9":  # the end
            break
        n += found[1] == _SCAN[1:]
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return n


def check_scans(scans: int, n_pixels: int) -> None:
    """BadImage for a JPEG that takes many times the time of one of its size."""
    if scans > MAX_SCANS or scans * n_pixels > MAX_SCANNED:
        many = f"more than {MAX_SCANS}" if scans > MAX_SCANS else f"{scans}"
        raise BadImage(f"a JPEG of {many} scans; about 10 are usual: save it anew")


def directory(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(tag, kind of its values, their number, the 4 or 8 bytes of its value or place) of a TIFF's first directory.

    Ends where the data do.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    where, count, entry = ("Q", "Q", "HHQ8s") if big else ("L", "H", "HHL4s")
    try:
        (at,) = struct.unpack_from(order + where, data, 8 if big else 4)
        (n,) = struct.unpack_from(order + count, data, at)
        at += struct.calcsize(order + count)
        for _ in range(n):
            yield struct.unpack_from(order + entry, data, at)
            at += struct.calcsize(order + entry)
    except struct.error:
        return


def small_number(data: bytes, kind: int, count: int, value: bytes) -> int | None:
    """The one whole number that stands in the tag itself, None for anything else."""
    code = _NUMBERS.get(kind)
    if count != 1 or code is None or struct.calcsize("<" + code) > len(value):
        return None
    return struct.unpack_from(("<" if data[:2] == b"II" else ">") + code, value)[0]


def check_tiff(data: bytes) -> None:
    """BadImage for a TIFF whose first directory asks for more memory than its picture."""
    n_numbers, sides = 0, {TILE_WIDTH: 0, TILE_HEIGHT: 0}
    for tag, kind, count, value in directory(data):
        n_numbers += 0 if kind in _PLAIN_KINDS else count
        if tag in sides:
            sides[tag] = small_number(data, kind, count, value) or 0
    if n_numbers > MAX_NUMBERS or sides[TILE_WIDTH] * sides[TILE_HEIGHT] > MAX_TILE:
        raise BadImage("a TIFF with far too many strips, or too large tiles: save it anew")


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF or XMP data say that it is to be shown; itself where they say nothing.

    Only the one tag is read: Pillow's reader makes a Python object of each number in them.
    """
    image.load()  # PNG may have them behind the pixels
    return turned(image, orientation(image))


def turned(image: Image.Image, how: int | None) -> Image.Image:
    """The image turned as EXIF's number says; itself for None and numbers that say nothing."""
    method = TURNS.get(how)
    return image if method is None else image.transpose(method)


SIDEWAYS = (5, 6, 7, 8)  # EXIF's numbers of pictures that are shown turned by a quarter


def orientation(image: Image.Image) -> int | None:
    """EXIF's number for the way an opened image is turned, 1 to 8 where it is one; None where nothing says so."""
    exif = image.info.get("exif")
    raw = image.info.get("Raw profile type exif")
    if exif is None and isinstance(raw, str):
        exif = bytes.fromhex("".join(raw.split("\n")[3:]))
    if isinstance(exif, bytes):
        data = exif
        while data.startswith(b"Exif\0\0"):
            data = data[6:]
        for tag, *about in directory(data):
            if tag == ORIENTATION:
                return small_number(data, *about)
    elif hasattr(image, "tag_v2") and ORIENTATION in image.tag_v2:
        return image.tag_v2[ORIENTATION]
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp")
    if xmp:
        found = _XMP.search(xmp.encode(errors="replace") if isinstance(xmp, str) else xmp)
        return int(found[1]) if found else None
    return None
