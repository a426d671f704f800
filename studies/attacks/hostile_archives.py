"""Archives made to do harm."""

import bz2
import gzip
import io
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from studies.attacks.archives import ATTRIBUTES, tarred, zipped
from studies.attacks.hostile import ESCAPES, GB, Table, entering, good, put

TABLE: Table = {}
hostile = entering(TABLE)

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


def packed_by(method: int, folder: Path) -> Path:
    """A zip that says its first member is packed by a method of this number."""
    data = patched_zip(zipped(good()), field(10, "<H", method))
    return put(folder, "x.zip", patched_zip(data, field(8, "<H", method), b"PK\x03\x04"))


hostile("zip: an unknown method of compression", must=True)(partial(packed_by, 98))
hostile("zip: deflate64", must=True)(partial(packed_by, 9))


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


SPARSE = {"major": "1", "minor": "0", "realsize": "1" + "0" * 13, "name": "y.png"}
SPARSE = {f"GNU.sparse.{key}": value for key, value in SPARSE.items()}
for _label, _records, _must in (
    ("tar: a pax size of 10**30", {"size": "1" + "0" * 30}, True),
    ("tar: a pax size of -1", {"size": "-1"}, True),
    ("tar: a pax size that is no number", {"size": "x"}, False),
    ("tar: a pax path with escapes", {"path": f"{ESCAPES.replace(chr(10), '')}.png"}, False),
    ("tar: a pax path outside", {"path": "../../x.png"}, True),
    ("tar: a pax path of 1 MB", {"path": "a/" * 500_000 + "x.png"}, False),
    ("tar: a pax header of 300,000 records", {f"k{i}": "v" for i in range(300_000)}, False),
    ("tar: a sparse file of 10 TB", SPARSE, False),
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
