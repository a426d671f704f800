"""Archives, pictures and folders made to do harm: one line each, within bounds of memory and time."""

import bz2
import gzip
import io
import os
import random
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from studies.attacks.archives import ATTRIBUTES, pictures, tarred, zipped
from studies.attacks.children import LIMIT_S
from studies.attacks.runs import Case, Lab

GB = 10**9
ESCAPES = "\x1b[31mred\x1b[0m\r\nerror: forged\x07"


@dataclass(frozen=True)
class Hostile:
    """One of them: build(folder) makes it inside an empty folder and gives what --data is told; must: is refused."""

    build: Callable[[Path], Path]
    must: bool = False


TABLE: dict[str, Hostile] = {}


def hostile(name: str, must: bool = False) -> Callable[[Callable], Callable]:
    """Enter a builder into the table."""

    def enter(build: Callable[[Path], Path]) -> Callable[[Path], Path]:
        assert name not in TABLE, name
        TABLE[name] = Hostile(build, must)
        return build

    return enter


@cache
def good() -> dict[str, bytes]:
    """Pictures that are as they should be."""
    return pictures()


def put(folder: Path, name: str, data: bytes) -> Path:
    """A file of these bytes."""
    file = folder / name
    file.write_bytes(data)
    return file


def among_good(folder: Path) -> Path:
    """A folder with good pictures in it."""
    inner = folder / "pictures"
    for name, data in good().items():
        (inner / name).parent.mkdir(parents=True, exist_ok=True)
        (inner / name).write_bytes(data)
    return inner


# -- .zip ----------------------------------------------------------------------------------------------------------


def patched_zip(data: bytes, change: Callable[[bytearray, int], None], which: bytes = b"PK\x01\x02") -> bytes:
    """A .zip with every entry of its table of contents (or every local header) changed: change(bytes, its place)."""
    changed, place = bytearray(data), 0
    while (place := changed.find(which, place)) >= 0:
        change(changed, place)
        place += 4
    return bytes(changed)


def field(offset: int, form: str, value: int) -> Callable[[bytearray, int], None]:
    """A change that writes a number at an offset of an entry."""
    return lambda data, place: struct.pack_into(form, data, place + offset, value)


def named_zip(*names: str) -> Callable[[Path], Path]:
    """A builder of a .zip whose members have these names beside good ones."""
    return lambda folder: put(folder, "x.zip", zipped(good() | dict.fromkeys(names, good()["a/0.png"])))


for _label, _names, _must in (
    ("zip: absolute names", ("/etc/cron.d/x.png",), True),
    ("zip: names with ..", ("../../x.png", "a/../../../y.png"), True),
    ("zip: names with backslashes", ("..\\..\\x.png",), True),
    ("zip: names of drives", ("C:\\windows\\x.png",), True),
    ("zip: names with escapes", (f"a/{ESCAPES}.png", f"{ESCAPES}/x.txt"), False),
    ("zip: bad names with escapes", (f"../{ESCAPES}.png",), True),
    ("zip: very long names", ("a" * 60_000 + ".png", "b/" * 30_000 + "x.png"), False),
    ("zip: file and folder of one name", ("d.png", "d.png/e.png"), False),
    ("zip: names of devices", ("CON.png", "a/NUL.png", "\u202egnp.exe.png"), False),
):
    hostile(_label, _must)(named_zip(*_names))


@hostile("zip: duplicate members")
def _(folder: Path) -> Path:
    file = put(folder, "x.zip", zipped(good()))
    with zipfile.ZipFile(file, "a") as archive:
        for _i in range(20):
            info = zipfile.ZipInfo("a/0.png")
            archive.NameToInfo.pop("a/0.png", None)
            archive.writestr(info, good()["a/1.png"])
    return file


@hostile("zip: a member of 2 GB that is small when packed", must=True)
def _(folder: Path) -> Path:
    data = zipped({"x.png": bytes(64 << 20)}, zipfile.ZIP_DEFLATED)
    return put(folder, "x.zip", patched_zip(data, field(24, "<I", 2 * GB)))


@hostile("zip: members that are larger than they say")
def _(folder: Path) -> Path:
    data = zipped({f"{i}.png": bytes(80 << 20) for i in range(2)}, zipfile.ZIP_DEFLATED)
    return put(folder, "x.zip", patched_zip(data, field(24, "<I", 100)))


@hostile("zip: 30,000 members that overlap", must=True)
def _(folder: Path) -> Path:
    data = bytearray(zipped({"x.png": bytes(1 << 20)}, zipfile.ZIP_DEFLATED))
    start = data.find(b"PK\x01\x02")
    end = data.find(b"PK\x05\x06")
    entry, n = bytes(data[start:end]), 30_000
    close = bytearray(data[end:])
    struct.pack_into("<HHI", close, 8, n, n, len(entry) * n)
    return put(folder, "x.zip", bytes(data[:start]) + entry * n + bytes(close))


@hostile("zip: declared as 2**62 bytes")
def _(folder: Path) -> Path:
    data = zipped(good())
    data = patched_zip(data, field(24, "<I", 0xFFFFFFFE))
    return put(folder, "x.zip", data)


@hostile("zip: protected by a password", must=True)
def _(folder: Path) -> Path:
    data = patched_zip(zipped(good()), field(8, "<H", 1))
    return put(folder, "x.zip", patched_zip(data, field(6, "<H", 1), b"PK\x03\x04"))


@hostile("zip: an unknown method of compression", must=True)
def _(folder: Path) -> Path:
    data = patched_zip(zipped(good()), field(10, "<H", 98))
    return put(folder, "x.zip", patched_zip(data, field(8, "<H", 98), b"PK\x03\x04"))


@hostile("zip: deflate64", must=True)
def _(folder: Path) -> Path:
    data = patched_zip(zipped(good()), field(10, "<H", 9))
    return put(folder, "x.zip", patched_zip(data, field(8, "<H", 9), b"PK\x03\x04"))


@hostile("zip: a link", must=True)
def _(folder: Path) -> Path:
    file = put(folder, "x.zip", zipped(good()))
    with zipfile.ZipFile(file, "a") as archive:
        info = zipfile.ZipInfo("link.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return file


@hostile("zip: 200,000 empty members")
def _(folder: Path) -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(65_000):
            archive.writestr(zipfile.ZipInfo(f"{i}.png"), b"")
    return put(folder, "x.zip", buffer.getvalue())


@hostile("zip: zips in a zip")
def _(folder: Path) -> Path:
    data = zipped(good())
    for _i in range(50):
        data = zipped({"inner.zip": data})
    return put(folder, "x.zip", data)


@hostile("zip: nothing in it", must=True)
def _(folder: Path) -> Path:
    return put(folder, "x.zip", zipped({}))


@hostile("zip: behind a program")
def _(folder: Path) -> Path:
    return put(folder, "x.zip", b"\x7fELF" + bytes(5000) + zipped(good()))


@hostile("zip: no table of contents", must=True)
def _(folder: Path) -> Path:
    data = zipped(good())
    return put(folder, "x.zip", data[: data.find(b"PK\x01\x02")])


@hostile("zip: a second end in its comment")
def _(folder: Path) -> Path:
    data = bytearray(zipped(good()))
    struct.pack_into("<H", data, len(data) - 2, 60_000)
    return put(
        folder, "x.zip", bytes(data) + (b"PK\x05\x06" + bytes(18)) * (60_000 // 22) + bytes(60_000 % 22)
    )


@hostile("zip: wrong sums", must=True)
def _(folder: Path) -> Path:
    return put(folder, "x.zip", patched_zip(zipped(good()), field(16, "<I", 12345)))


@hostile("zip: names that are empty")
def _(folder: Path) -> Path:
    return put(folder, "x.zip", patched_zip(zipped(good()), field(28, "<H", 0)))


@hostile("zip: names in no encoding")
def _(folder: Path) -> Path:
    data = zipped(good() | {"ffffff.png": good()["a/0.png"]})
    return put(
        folder,
        "x.zip",
        patched_zip(data.replace(b"ffffff", b"\xff\xfe\xff\xc0\x80\xff"), field(8, "<H", 1 << 11)),
    )


@hostile("zip: names with zero bytes")
def _(folder: Path) -> Path:
    data = zipped(good() | {"ffffff.png": good()["a/0.png"]})
    return put(folder, "x.zip", data.replace(b"ffffff", b"ff\0\0ff"))


@hostile("zip: extra fields that are no fields")
def _(folder: Path) -> Path:
    data = zipped({f"{'e' * 40}{i}.png": good()["a/0.png"] for i in range(5)})

    def change(changed: bytearray, place: int) -> None:
        struct.pack_into(
            "<HH", changed, place + 28, 10, struct.unpack_from("<H", changed, place + 28)[0] - 10
        )

    return put(folder, "x.zip", patched_zip(data, change))


# -- label lists ---------------------------------------------------------------------------------------------------


def listed(lists: dict[str, bytes]) -> Callable[[Path], Path]:
    """A builder of a .zip with label lists beside good pictures."""
    return lambda folder: put(folder, "x.zip", zipped(good() | lists, zipfile.ZIP_DEFLATED))


for _label, _lists in (
    ("list: a number of 40 digits", {"list_attr_celeba.txt": ATTRIBUTES.replace("-1", "9" * 40).encode()}),
    (
        "list: a number of 5,000 digits",
        {"list_attr_celeba.txt": ATTRIBUTES.replace("-1", "9" * 5000).encode()},
    ),
    ("list: a partition without its column", {"list_eval_partition.txt": b"a/0.png\na/1.png\n"}),
    ("list: no columns", {"list_attr_celeba.txt": b"3\n\na/0.png\na/1.png\n"}),
    ("list: no text", {"list_attr_celeba.txt": random.Random(0).randbytes(5000)}),
    ("list: names with escapes", {"list_attr_celeba.txt": f"1\n{ESCAPES}\na/0.png 1\n".encode()}),
    ("list: a million columns", {"list_attr_celeba.txt": b"1\n" + b"a " * 10**6 + b"\na/0.png 1\n"}),
    ("list: 60 MB of lines", {"list_attr_celeba.txt": b"3\nBald Smiling\n" + b"a/0.png 1 -1\n" * 4_500_000}),
    (
        "list: dataset.json nested 100,000 deep",
        {"dataset.json": b'{"labels": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"},
    ),
    (
        "list: dataset.json of other things",
        {"dataset.json": b'{"labels": [["a/0.png", 1e999], ["../x", "y"], 3, null]}'},
    ),
):
    hostile(_label)(listed(_lists))


# -- .tar ----------------------------------------------------------------------------------------------------------


def header(name: str, size: int, kind: bytes = b"0", link: str = "", raw_size: bytes | None = None) -> bytes:
    """A header of 512 bytes that declares what is asked; raw_size: the field's 12 bytes as they are."""
    block = bytearray(512)
    block[0 : len(name)] = name.encode()
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136] = raw_size or b"%011o\0" % size
    block[136:148], block[148:156], block[156:157] = b"%011o\0" % 0, b" " * 8, kind
    block[157 : 157 + len(link)] = link.encode()
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    """Bytes filled up to whole blocks of 512."""
    return data + bytes(-len(data) % 512)


def sparse(folder: Path, start: bytes, n_bytes: int) -> Path:
    """A .tar that begins so and goes on with zeros that take no space on a disk."""
    file = put(folder, "x.tar", start)
    os.truncate(file, len(start) + n_bytes)
    return file


def zeros_packed(start: bytes, n_bytes: int) -> bytes:
    """gzip of `start` and then zeros, packed once and repeated."""
    part = gzip.compress(bytes(16 << 20), 9)
    return gzip.compress(start) + part * (n_bytes >> 24)


BIG = 1_500_000_000
for _label, _kind, _name in (
    ("tar: a long name of 1.5 GB", b"L", "././@LongLink"),
    ("tar: a long link of 1.5 GB", b"K", "././@LongLink"),
    ("tar: a pax header of 1.5 GB", b"x", "PaxHeader"),
    ("tar: a global pax header of 1.5 GB", b"g", "PaxHeader"),
):
    hostile(_label, must=True)(
        lambda folder, kind=_kind, name=_name: sparse(folder, header(name, BIG, kind), BIG)
    )
    hostile(f"{_label}, packed", must=True)(
        lambda folder, kind=_kind, name=_name: put(
            folder, "x.tar.gz", zeros_packed(header(name, BIG, kind), BIG)
        )
    )


def pax(records: dict[str, str]) -> bytes:
    """A pax header with these records."""
    text = b""
    for key, value in records.items():
        rest = f" {key}={value}\n".encode()
        length = len(rest) + len(str(len(rest) + len(str(len(rest)))))
        text += str(length).encode() + rest
    return header("PaxHeader", len(text), b"x") + padded(text)


def one_file(prefix: bytes, name: str = "x.png") -> bytes:
    """A member behind a prefix, and good ones."""
    data = good()["a/0.png"]
    return prefix + header(name, len(data)) + padded(data) + tarred(good())


for _label, _records, _must in (
    ("tar: a pax size of 10**30", {"size": "1" + "0" * 30}, True),
    ("tar: a pax size of -1", {"size": "-1"}, True),
    ("tar: a pax size that is no number", {"size": "x"}, False),
    ("tar: a pax path with escapes", {"path": f"{ESCAPES.replace(chr(10), '')}.png"}, False),
    ("tar: a pax path outside", {"path": "../../x.png"}, True),
    ("tar: a pax path of 1 MB", {"path": "a/" * 500_000 + "x.png"}, False),
    ("tar: a pax header of 300,000 records", {f"k{i}": "v" for i in range(300_000)}, False),
    ("tar: a sparse file of 10 TB", {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1" + "0" * 13,
                                     "GNU.sparse.name": "y.png"}, False),
):  # fmt: skip
    hostile(_label, _must)(lambda folder, records=_records: put(folder, "x.tar", one_file(pax(records))))

for _label, _block in (
    ("tar: a member of 2**60 bytes", header("x.png", 0, raw_size=b"\x80" + (1 << 60).to_bytes(11, "big"))),
    ("tar: a member of -1 bytes", header("x.png", 0, raw_size=b"\xff" * 12)),
    ("tar: a link", header("x.png", 0, b"2", "/etc/passwd")),
    ("tar: a hard link to nothing", header("x.png", 0, b"1", "nothing.png")),
    ("tar: a device", header("x.png", 0, b"3")),
    ("tar: a FIFO", header("x.png", 0, b"6")),
    ("tar: an absolute name", header("/etc/x.png", 0)),
    ("tar: a name with ..", header("../../x.png", 0)),
):
    # a hard link names a member that stands in the archive, or does not: both are read or refused
    hostile(_label, must="hard" not in _label)(
        lambda folder, block=_block: put(folder, "x.tar", block + tarred(good()))
    )


@hostile("tar: 20,000 headers of long names in a row")
def _(folder: Path) -> Path:
    name = header("././@LongLink", 5, b"L") + padded(b"name\0")
    return put(folder, "x.tar", one_file(name * 20_000))


@hostile("tar: 20,000 pax headers in a row")
def _(folder: Path) -> Path:
    return put(folder, "x.tar", one_file(pax({"comment": "x"}) * 20_000))


@hostile("tar: 300,000 empty members, packed")
def _(folder: Path) -> Path:
    part = gzip.compress(b"".join(header(f"{i:04d}.png", 0) for i in range(1000)))
    return put(folder, "x.tar.gz", part * 300)


@hostile("tar: a picture of 4 GB, packed", must=True)
def _(folder: Path) -> Path:
    return put(folder, "x.tar.gz", zeros_packed(header("x.png", 4 * GB), 4 * GB))


@hostile("tar: 4 GB behind its end, packed")
def _(folder: Path) -> Path:
    return put(folder, "x.tar.gz", zeros_packed(tarred(good()), 4 * GB))


@hostile("tar: packed 50 times")
def _(folder: Path) -> Path:
    data = tarred(good())
    for _i in range(50):
        data = gzip.compress(data)
    return put(folder, "x.tar.gz", data)


@hostile("tar: a dictionary of 4 GB (xz)")
def _(folder: Path) -> Path:
    # magic, stream flags, their sum; a block whose filter is LZMA2 with the largest dictionary
    flags = b"\0\x04"
    block = b"\x02\0\x21\x01\x28\0\0\0"
    data = (
        b"\xfd7zXZ\0"
        + flags
        + struct.pack("<I", zlib.crc32(flags))
        + block
        + struct.pack("<I", zlib.crc32(block))
    )
    return put(folder, "x.tar.xz", data + bytes(2000))


@hostile("tar: 1 GB of zeros (bz2)", must=True)
def _(folder: Path) -> Path:
    part = bz2.compress(bytes(16 << 20))
    return put(folder, "x.tar.bz2", bz2.compress(header("x.png", GB)) + part * 60)


@hostile("tar: nothing in it", must=True)
def _(folder: Path) -> Path:
    return put(folder, "x.tar", bytes(10240))


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
    from PIL import Image

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
    ("picture: a PNG with a text of 1 GB", "x.png", lambda: png(8, 8, 8, chunk(b"zTXt", b"a\0\0" + _bomb()), n_rows=8)),
    ("picture: a PNG with a profile of 1 GB", "x.png", lambda: png(8, 8, 8, chunk(b"iCCP", b"a\0\0" + _bomb()), n_rows=8)),
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
    ("picture: a BMP of 2**31 a side", "x.bmp", lambda: b"BM" + bytes(8) + struct.pack("<IIiiHHI", 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0) + bytes(60)),
    ("picture: a PPM of 10**9 a side", "x.ppm", lambda: b"P6 999999999 999999999 255\n" + bytes(100)),
    ("picture: a PPM of a number of 10**6 digits", "x.ppm", lambda: b"P6 " + b"9" * 10**6),
    ("picture: a WEBP of nothing", "x.webp", lambda: b"RIFF\xff\xff\xff\xffWEBPVP8X\xff\xff\xff\xff" + bytes(50)),
    ("picture: a program", "x.png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop"),
    ("picture: a web page", "x.png", lambda: b"<!DOCTYPE html><svg/>"),
):  # fmt: skip
    hostile(_label)(pictured(_name, _data))


@cache
def _bomb() -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 24)) for _ in range(60)) + packer.flush()


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


def _loops(folder: Path) -> None:
    for i in range(5):
        (folder / f"loop-{i}").symlink_to(folder, target_is_directory=True)
        (folder / "a" / f"up-{i}").symlink_to("..", target_is_directory=True)


for _label, _make in (
    ("folder: a FIFO as a picture", lambda folder: os.mkfifo(folder / "x.png")),
    ("folder: a FIFO as a list", lambda folder: os.mkfifo(folder / "list_attr_celeba.txt")),
    ("folder: a link to /dev/zero", lambda folder: (folder / "x.png").symlink_to("/dev/zero")),
    ("folder: a list that is /dev/zero", lambda folder: (folder / "list_attr_celeba.txt").symlink_to("/dev/zero")),
    ("folder: a list beside it that is /dev/zero", lambda folder: (folder.parent / "list_attr_celeba.txt").symlink_to("/dev/zero")),
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


NAMES = tuple(TABLE)


def attack(lab: Lab, case: Case, rng: random.Random, index: int) -> None:
    """One of the table, given to a training."""
    name = NAMES[index % len(NAMES)]
    row = TABLE[name]
    folder = case.scratch / "data"
    folder.mkdir()
    case.notes.append(name)
    data = row.build(folder)
    argv = case.command("--data", str(data), n_steps=1)
    # the scores of so few pictures are not what is looked at here
    for flag in ("--eval_interval", "--eval_n", "--extractor", "--metric_weights"):
        place = argv.index(flag)
        del argv[place : place + 2]
    (child,) = case.run(argv, seconds=3 * LIMIT_S)
    case.check_refusal(child, may_pass=not row.must)
