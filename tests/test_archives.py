"""Files from strangers: archives, images, lists and caches that ask for too much, lie, or are no files at all."""

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from errors import UserError
from images import archives, tars
from images.archives import open_files
from images.batches import ImageData
from images.decoding import BadImage, Member
from images.sources import load_dataset
from tests import fuzzing

ROOT = Path(__file__).resolve().parent.parent
GREY = fuzzing.files()  # a small image of every kind
PNG = next(data for name, data in GREY.items() if name.endswith(".png"))
JPEG = next(data for name, data in GREY.items() if name.endswith(".jpg"))


def load(path: Path, tmp_path: Path) -> ImageData:
    """The images at 8x8 through a cache of the test's own."""
    return load_dataset("celeba", img_size=8, img_channels=3, data=path, cache_dir=tmp_path / "cache")


def header(name: str, kind: bytes, size: int) -> bytes:
    """A tar's header."""
    block = tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)
    length = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    return fuzzing.with_checksum(block[:124] + length + block[136:156] + kind + block[157:])


def padded(data: bytes) -> bytes:
    """With zeros up to a whole block."""
    return data + bytes(-len(data) % tars.BLOCK)


def member(name: str, data: bytes) -> bytes:
    """A regular file in a tar."""
    return header(name, b"0", len(data)) + padded(data)


def pax(text: str) -> bytes:
    """A pax header of one record."""
    record = text.encode() + b"\n"
    length = next(n for n in range(9999) if n == len(f"{n} ") + len(record))
    return header("pax", b"x", length) + padded(f"{length} ".encode() + record)


def members_of(path: Path) -> list[Member]:
    """All of an archive."""
    return list(open_files(path).members())


# ---------------------------------------------------------------------------- tar

HOSTILE_TARS: dict[str, tuple[bytes, str]] = {
    "long name": (header("L", b"L", 1_500_000_000), "header of 1,500,000,000 bytes"),
    "pax": (header("x", b"x", 1_500_000_000), "header of 1,500,000,000 bytes"),
    "binary size": (header("x", b"x", 2**70), "header of 1,180,591"),
    "solaris pax": (header("x", b"X", 2**33), "header of"),
    "chain": ((header("L", b"L", 2) + padded(b"a\0")) * 5000, "headers before"),
    "globals": ((header("g", b"g", 2) + padded(b"a\0")) * 5000, "headers before"),
    "sparse": (header("a.png", b"S", 10), "sparse"),
    "pax sparse": (pax("GNU.sparse.major=1") + member("a.png", PNG), "sparse"),
    "pax negative": (pax("size=-512") + member("a.png", PNG), "pax header"),
    "pax digits": (pax("size=" + "9" * 6000) + member("a.png", PNG), "pax header"),
    "pax length": (header("x", b"x", 9) + padded(b"99999 a=b"), "pax header"),
    "huge member": (header("a.png", b"0", 2**60), "unexpected end of data"),
    "huge other": (header("a.bin", b"0", 2**60), "unexpected end of data"),
    "long pax name": (pax("path=" + "a" * 5000) + member("a.png", PNG), "name of more than"),
    "minus": (header("a.png", b"0", 9).replace(b"00000000011", b"-0000000011"), "neither"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_TARS)
def test_tars_that_ask_for_too_much_are_refused_unread(case: str, tmp_path: Path) -> None:
    content, reason = HOSTILE_TARS[case]
    path = tmp_path / "a.tar"
    path.write_bytes(content + bytes(1024))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=reason) as caught:
            members_of(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert str(caught.value).isprintable()


def test_tars_of_every_writer_are_read_as_tarfile_reads_them(tmp_path: Path) -> None:
    names = [
        "a.png",
        "b" * 99 + ".png",
        "/".join(["c" * 60] * 3) + ".png",
        "é/ü.png",
        "d/" + "e" * 200 + ".png",
    ]
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for mode in ("w", "w:gz", "w:bz2", "w:xz"):
            path = tmp_path / f"{kind}.tar"
            with tarfile.open(path, mode, format=kind) as archive:
                for i, name in enumerate(names):
                    if kind == tarfile.USTAR_FORMAT and len(name) > 99 and name.startswith(("d", "b")):
                        continue  # that format has no place for them
                    info = tarfile.TarInfo(name)
                    info.size, info.mtime = 500 * i, 1.5
                    archive.addfile(info, io.BytesIO(bytes([i]) * info.size))
            with tarfile.open(path) as archive:
                expected = [(info.name, archive.extractfile(info).read()) for info in archive]
            assert [(m.name, m.data) for m in members_of(path)] == expected


def test_streams_of_several_parts_and_padding_are_one(tmp_path: Path) -> None:
    content = member("a.png", PNG) + bytes(1024)
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        path = tmp_path / "a.tar"
        path.write_bytes(pack(content[:700]) + pack(content[700:]) + bytes(512))
        assert [m.data for m in members_of(path)] == [PNG]
        path.write_bytes(pack(content)[:-5])
        with pytest.raises(UserError, match="damaged or incomplete"):
            members_of(path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_bombs_are_left_once_they_are_too_large(
    pack: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MIN_TOTAL_BYTES", 2**18)
    monkeypatch.setattr(archives, "MAX_EXPANSION", 1)
    for bomb in (
        member("a.png", PNG) + bytes(2**20),  # zeros behind the end
        header("a.bin", b"0", 2**20) + bytes(2**20),  # what is passed over
        member("a.png", PNG) * 400,
    ):
        (tmp_path / "a.tar").write_bytes(pack(bomb))
        with pytest.raises(UserError, match="bomb"):
            members_of(tmp_path / "a.tar")


def test_an_xz_that_wants_a_huge_dictionary_is_refused(tmp_path: Path) -> None:
    compressor = lzma.LZMACompressor(filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**16}])
    small = compressor.compress(member("a.png", PNG)) + compressor.flush()
    # the block's header: its size, flags, filter, bytes of properties, dictionary
    block = small[12:16] + bytes([36]) + small[17:20]  # 36: 1 GiB
    path = tmp_path / "a.tar.xz"
    path.write_bytes(small[:12] + block + struct.pack("<I", zlib.crc32(block)) + small[24:])
    with pytest.raises(UserError, match="emory"):
        members_of(path)


def test_archives_of_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(21):
            archive.writestr(f"{i}.png", b"")
    (tmp_path / "a.tar").write_bytes(b"".join(member(f"{i}.png", b"") for i in range(21)))
    for name in ("a.zip", "a.tar"):
        with pytest.raises(UserError, match="more than 20 members"):
            members_of(tmp_path / name)


def test_archives_of_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_OTHERS", 20)
    images = b"".join(member(f"{i}.png", PNG) + member(f"{i}.json", b"{}") * 9 for i in range(5))
    (tmp_path / "a.tar").write_bytes(images)
    assert len(members_of(tmp_path / "a.tar")) == 5
    (tmp_path / "a.tar").write_bytes(images + member("a.json", b"{}") * 6)
    with pytest.raises(UserError, match="51 files that are no images"):
        members_of(tmp_path / "a.tar")
    monkeypatch.setattr(archives, "MAX_NAMES", 24)
    with pytest.raises(UserError, match="names of more than 24 characters"):
        members_of(tmp_path / "a.tar")


# ---------------------------------------------------------------------------- zip


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_a_zips_list_is_refused_before_it_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_DIRECTORY", 2**20)
    content = zipped({"a.png": PNG})
    at = content.index(b"PK\5\6")
    end = bytearray(content[at:])
    end[12:16] = struct.pack("<I", 2**28)  # a list of 256 MiB, in a file that has as much
    path = tmp_path / "a.zip"
    with path.open("wb") as file:
        file.write(content[:at])
        file.seek(2**28 + 100)
        file.write(end)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="more than 1,500,000 members"):
            members_of(path)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_members_that_share_their_bytes_count_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file of many members, all of them the same bytes that unpack to much."""
    monkeypatch.setattr(archives, "MIN_TOTAL_BYTES", 2**20)
    content = zipped({"a.png": bytes(2**19)}, zipfile.ZIP_DEFLATED)
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entry, last = content[start:end], bytearray(content[end:])
    last[8:12] = struct.pack("<HH", 50, 50)
    last[12:16] = struct.pack("<I", 50 * len(entry))
    (tmp_path / "a.zip").write_bytes(content[:start] + entry * 50 + last)
    with pytest.raises(UserError, match="bomb"):
        members_of(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\xc3\xa9", b"\xff\xff"),  # no UTF-8, though it says so
        (struct.pack("<I", len(PNG)), struct.pack("<I", 5)),  # less than there is
        (struct.pack("<I", len(PNG)), struct.pack("<I", 2**31)),
        (b"PK\1\2", b"PK\1\2" + bytes(20)),
    ],
)
def test_zips_that_lie_are_one_line_or_a_problem(old: bytes, new: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"é.png": PNG}).replace(old, new))
    try:
        (found,) = members_of(path)
        assert isinstance(found.data, BadImage)
    except UserError as error:
        assert str(error).isprintable()


def test_an_empty_name_in_a_zip_is_passed_over(tmp_path: Path) -> None:
    content = bytearray(zipped({"a": b"", "b.png": PNG}))
    at = content.index(b"PK\1\2")
    content[at + 28 : at + 32] = struct.pack("<HH", 0, 1)  # a name of no bytes, and an extra field of one
    (tmp_path / "a.zip").write_bytes(content)
    try:
        assert [m.name for m in members_of(tmp_path / "a.zip")] == ["b.png"]
    except UserError as error:
        assert str(error).isprintable()


# ---------------------------------------------------------------------------- fuzzing


def test_changed_archives_are_refused_or_read(tmp_path: Path) -> None:
    """Some of what `python -m tests.fuzzing 10000` tries."""
    rng, made = random.Random(1), fuzzing.archives()
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
        assert fuzzing.outcome(tmp_path / name) == "read whole"
    found = set()
    for _ in range(150):
        name = rng.choice(list(made))
        (tmp_path / name).write_bytes(fuzzing.mutated(made[name], rng))
        found.add(fuzzing.outcome(tmp_path / name))
    assert found == {"read whole", "refused", "some files left out"}
