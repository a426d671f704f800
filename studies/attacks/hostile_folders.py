"""Pictures and folders made to do harm."""

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from PIL import Image

from studies.attacks.hostile import ESCAPES, GB, Table, among_good, entering, good, put

TABLE: Table = {}
hostile = entering(TABLE)

# -- pictures ------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, *more: bytes, n_rows: int = 0, colour: int = 0) -> bytes:
    """A PNG that declares a size; n_rows: rows of zeros that are there."""
    row = 1 + width * depth * {0: 1, 2: 3, 6: 4}[colour] // 8
    packer, packed = zlib.compressobj(9), b""
    zeros = bytes(row * max(1, (1 << 20) // row))
    left = row * n_rows
    while left > 0:
        packed += packer.compress(zeros[:left])
        left -= len(zeros)
    packed += packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@cache
def scans(n: int) -> bytes:
    """A progressive JPEG whose last scan stands there n times."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((1500, 1500)).save(buffer, "jpeg", progressive=True)
    data = buffer.getvalue()
    start = data.rfind(b"\xff\xda")
    return data[:start] + data[start:-2] * n + data[-2:]


def gif(n: int) -> bytes:
    """A GIF of n frames."""
    frame = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    return b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + frame * n + b";"


def tiff(*entries: bytes, following: int = 0) -> bytes:
    """A TIFF with one directory of these entries."""
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(entries))
        + b"".join(entries)
        + struct.pack("<I", following)
    )


def bmp() -> bytes:
    """A BMP that declares 2**31 pixels a side."""
    return b"BM" + bytes(8) + struct.pack("<IIiiHHI", 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0) + bytes(60)


@cache
def with_bomb(kind: bytes) -> bytes:
    """A PNG with a packed chunk of that kind that unpacks to 1 GB."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 24)) for _ in range(60)) + packer.flush()
    return png(8, 8, 8, chunk(kind, b"a\0\0" + packed), n_rows=8)


def pictured(name: str, data: Callable[[], bytes]) -> Callable[[Path], Path]:
    """A builder of a folder with one such picture among good ones."""

    def build(folder: Path) -> Path:
        inner = among_good(folder)
        (inner / name).write_bytes(data())
        return inner

    return build


_wide = [
    struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, 10**9), (257, 10**9), (258, 16), (262, 1))
]
for _label, _name, _data in (
    ("picture: a PNG of 60,000 x 60,000", "x.png", lambda: png(60_000, 60_000, 1)),
    ("picture: a PNG of 2**31 a side", "x.png", lambda: png(2**31 - 1, 2**31 - 1, 16)),
    ("picture: a small PNG of 9,400 x 9,400, 16 bits", "x.png", lambda: png(9400, 9400, 16, n_rows=9400)),
    ("picture: a small PNG of 9,400 x 9,400, RGBA", "x.png", lambda: png(9400, 9400, 8, n_rows=9400, colour=6)),
    ("picture: a PNG with a text of 1 GB", "x.png", lambda: with_bomb(b"zTXt")),
    ("picture: a PNG with a profile of 1 GB", "x.png", lambda: with_bomb(b"iCCP")),
    ("picture: a PNG with a chunk of 2 GB", "x.png", lambda: png(8, 8, 8, b"\x7f\xff\xff\xfftEXt", n_rows=8)),
    ("picture: a PNG with 200,000 chunks", "x.png", lambda: png(8, 8, 8, chunk(b"tEXt", b"a\0b") * 200_000, n_rows=8)),
    ("picture: a JPEG with 300 scans", "x.jpg", lambda: scans(300)),
    ("picture: a JPEG with 5,000 scans", "x.jpg", lambda: scans(5000)),
    ("picture: a JPEG of comments", "x.jpg", lambda: b"\xff\xd8" + b"\xff\xfe\xff\xff" + bytes(65533) * 3),
    ("picture: a GIF with 300,000 frames", "x.gif", lambda: gif(300_000)),
    ("picture: a GIF of 65,535 a side", "x.gif", lambda: gif(3).replace(b"\1\0\1\0", b"\xff\xff\xff\xff")),
    ("picture: a TIFF of 10**9 a side", "x.tif", lambda: tiff(*_wide)),
    ("picture: a TIFF that follows itself", "x.tif", lambda: tiff(*_wide, following=8)),
    ("picture: a TIFF with a tag of 4 GB", "x.tif", lambda: tiff(struct.pack("<HHII", 270, 2, 2**32 - 1, 8))),
    ("picture: a BMP of 2**31 a side", "x.bmp", bmp),
    ("picture: a PPM of 10**9 a side", "x.ppm", lambda: b"P6 999999999 999999999 255\n" + bytes(100)),
    ("picture: a PPM of a number of 10**6 digits", "x.ppm", lambda: b"P6 " + b"9" * 10**6),
    ("picture: a WEBP of nothing", "x.webp", lambda: b"RIFF\xff\xff\xff\xffWEBPVP8X\xff\xff\xff\xff" + bytes(50)),
    ("picture: a program", "x.png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop"),
    ("picture: a web page", "x.png", lambda: b"<!DOCTYPE html><svg/>"),
):  # fmt: skip
    hostile(_label)(pictured(_name, _data))


# -- folders -------------------------------------------------------------------------------------------------------


def with_entry(make: Callable[[Path], None]) -> Callable[[Path], Path]:
    """A builder of a folder with something odd among good pictures."""

    def build(folder: Path) -> Path:
        inner = among_good(folder)
        make(inner)
        return inner

    return build


def _socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        here = os.getcwd()
        os.chdir(folder)  # a socket's path is short
        try:
            s.bind("x.png")
        finally:
            os.chdir(here)


def _sparse_file(folder: Path) -> None:
    put(folder, "x.png", good()["a/0.png"])
    os.truncate(folder / "x.png", 50 * GB)


def _deep(folder: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(folder)
        for _i in range(1500):
            os.mkdir("deeper")
            os.chdir("deeper")
        Path("x.png").write_bytes(good()["a/0.png"])
    finally:
        os.chdir(here)


def _escaped(folder: Path) -> None:
    for name in (f"{ESCAPES.replace('/', '')}.png", "\udcff\udcfe.png", "-rf.png", "a" * 240 + ".png"):
        (folder / name).write_bytes(b"no picture")


LIST = "list_attr_celeba.txt"


def _loops(folder: Path) -> None:
    for i in range(5):
        (folder / f"loop-{i}").symlink_to(folder, target_is_directory=True)
        (folder / "a" / f"up-{i}").symlink_to("..", target_is_directory=True)


for _label, _make in (
    ("folder: a FIFO as a picture", lambda folder: os.mkfifo(folder / "x.png")),
    ("folder: a FIFO as a list", lambda folder: os.mkfifo(folder / LIST)),
    ("folder: a link to /dev/zero", lambda folder: (folder / "x.png").symlink_to("/dev/zero")),
    ("folder: a list that is /dev/zero", lambda folder: (folder / LIST).symlink_to("/dev/zero")),
    ("folder: a list beside it that is /dev/zero", lambda folder: (folder.parent / LIST).symlink_to("/dev/zero")),
    ("folder: a dataset.json that is /dev/zero", lambda folder: (folder / "dataset.json").symlink_to("/dev/zero")),
    ("folder: a link to itself", lambda folder: (folder / "x.png").symlink_to("x.png")),
    ("folder: links in circles", _loops),
    ("folder: a link to the root", lambda folder: (folder / "root").symlink_to("/proc/self", target_is_directory=True)),
    ("folder: a link to nothing", lambda folder: (folder / "x.png").symlink_to("nothing")),
    ("folder: a socket", _socket),
    ("folder: a folder named as a picture", lambda folder: (folder / "x.png").mkdir()),
    ("folder: a picture of 50 GB", _sparse_file),
    ("folder: 1,500 folders deep", _deep),
    ("folder: names with escapes", _escaped),
    ("folder: a file without rights", lambda folder: put(folder, "x.png", b"x").chmod(0)),
):  # fmt: skip
    hostile(_label)(with_entry(_make))


@hostile("folder: 50,000 empty pictures", must=True)
def _(folder: Path) -> Path:
    for i in range(50_000):
        os.close(os.open(folder / f"{i}.png", os.O_CREAT | os.O_WRONLY))
    return folder


@hostile("folder: nothing in it", must=True)
def _(folder: Path) -> Path:
    return folder


@hostile("data: /dev/zero", must=True)
def _(folder: Path) -> Path:
    return Path("/dev/zero")


@hostile("data: a FIFO", must=True)
def _(folder: Path) -> Path:
    os.mkfifo(folder / "x.zip")
    return folder / "x.zip"


@hostile("data: a file of text", must=True)
def _(folder: Path) -> Path:
    return put(folder, "x.zip", b"hello")


@hostile("data: a folder with only a FIFO named as an archive", must=True)
def _(folder: Path) -> Path:
    os.mkfifo(folder / "x.zip")
    return folder
