"""Images, lists, caches and folders of strangers: bounded memory and time, one line, no escape codes."""

import io
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from errors import UserError
from images import cache, decoding, headers
from images.archives import Folder, open_files
from images.batches import ImageData
from images.decoding import BadImage, Member, decode, decode_chunk
from images.layout import parse_table, read_layout
from images.sources import load_dataset
from tests.fuzzing import archives

ROOT = Path(__file__).resolve().parent.parent
posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs owners and FIFOs")


def load(path: Path, tmp_path: Path) -> ImageData:
    """The images at 8x8 through a cache of the test's own."""
    return load_dataset("celeba", img_size=8, img_channels=3, data=path, cache_dir=tmp_path / "cache")


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def folder_of(path: Path, n: int = 30) -> Path:
    """A folder of n grey images, and what is in it already."""
    path.mkdir(exist_ok=True)
    for i in range(n):
        (path / f"{i:02d}.png").write_bytes(encoded(Image.new("L", (8, 8), i)))
    return path


# ---------------------------------------------------------------------------- images


def scans(n: int) -> bytes:
    """A progressive JPEG whose last scan comes n times."""
    data = encoded(Image.effect_noise((64, 64), 50), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : data.rindex(b"\xff\xd9")]
    return data[: data.rindex(b"\xff\xda")] + last * n + b"\xff\xd9"


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(n_strips: int, tile: int = 0) -> bytes:
    """The head of a TIFF of 8 x 8 whose tables name so many strips, or tiles of a size."""
    tags = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, 8), (325, 4, 1, 64)] if tile else []
    tags += [] if tile else [(273, 4, n_strips, 200), (278, 4, 1, 1), (279, 4, n_strips, 200)]
    entries = b"".join(struct.pack("<HHLL", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4 + 4 * n_strips + 200)


PNG = encoded(Image.new("L", (8, 8), 9))
SMALL_JPEG = encoded(Image.new("L", (8, 8), 9), "JPEG")
HOSTILE = {
    "300 scans": (scans(300), "more than 100 scans"),
    "strips": (tiff(300_000), "too many strips"),
    "tiles": (tiff(1, tile=2**15), "too large tiles"),
    "png chunks": (PNG[:33] + chunk(b"teXt", b"") * 30_000 + PNG[33:], "far more parts"),
    "jpeg comments": (SMALL_JPEG[:2] + b"\xff\xfe\0\2" * 100_000 + SMALL_JPEG[2:], "far more parts"),
    "jpeg junk": (SMALL_JPEG[:20] + bytes(500_000) + SMALL_JPEG[20:], "far more parts"),
    "gif comments": (
        b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"!\xfe" + b"\1a" * 100_000 + bytes(100),
        "far more parts",
    ),
    "gif canvas": (b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\1\0\0;", "bomb"),
    "ppm": (b"P6 99999999999999999999 8 255\n", "damaged|no image"),
    "ppm line": (b"P5 1 500000000 255\n", "bomb"),
    "webp canvas": (b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\2\0\0\0\xff\xff\0\xff\xff\0", "damaged|no image|bomb"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_images_that_ask_for_too_much_have_a_reason(case: str) -> None:
    data, reason = HOSTILE[case]
    found = decode_chunk([Member("x", data)], (8, 8, 3))
    assert len(found.problems) == 1, "decoded"
    with pytest.raises(BadImage, match=reason):
        raise BadImage(found.problems[0][1])


def test_scans_are_those_of_the_picture_alone() -> None:
    """Not those of a thumbnail, of bytes that look so, or of what a phone puts behind the picture."""
    picture = scans(1)
    n = headers.n_scans(picture)
    assert 5 < n <= 10 and headers.n_scans(scans(50)) == n + 49
    comment = b"\xff\xfe" + struct.pack(">H", 402) + b"\xff\xda" * 200
    odd = picture[:2] + comment + picture[2:] + b"\xff\xda" * 500
    assert headers.n_scans(odd) == n and decode(odd, (8, 8, 1)).shape == (8, 8, 1)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_turned_images_are_upright_as_pillow_has_them(kind: str, turn: int) -> None:
    picture = Image.effect_noise((9, 5), 90)
    exif = Image.Exif()
    exif[headers.ORIENTATION] = turn
    data = encoded(picture, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    found = headers.upright(decoding.open_image(data))
    assert found.size == expected.size and (np.asarray(found) == np.asarray(expected)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "CMYK", "1", "I;16", "F", "I"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pieces_are_as_the_whole(mode: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 21, 4), dtype=np.uint8)
    deep = noise[..., 0].astype({"I;16": np.uint16, "F": np.float32, "I": np.int32}.get(mode, np.uint8))
    image = Image.fromarray(deep * 7) if mode in ("I;16", "F", "I") else Image.fromarray(noise).convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes(range(256))
    assert image.mode == mode
    whole = np.asarray(decoding.to_plain(image, channels))
    monkeypatch.setattr(decoding, "BAND_PIXELS", 50)
    assert (np.asarray(decoding.to_plain(image, channels)) == whole).all()


MEMORY = """
import sys
from images.decoding import decode
def peak():  # not ru_maxrss, which begins with what the parent had
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
decode(open(sys.argv[1], "rb").read(), (8, 8, 3))
before = peak()
decode(open(sys.argv[2], "rb").read(), (8, 8, 3))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_deep_images_are_decoded_in_eight_bytes_a_pixel(tmp_path: Path) -> None:
    side = 3000
    for name, size in (("small", 8), ("large", side)):
        rows = zlib.compress(bytes(size * (2 * size + 1)))
        about = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 16, 0, 0, 0, 0))
        (tmp_path / name).write_bytes(PNG[:8] + about + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    command = [sys.executable, "-c", MEMORY, tmp_path / "small", tmp_path / "large"]
    grown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert int(grown) << 10 < 10 * side**2  # 32 bytes a pixel before


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data, held = encoded(Image.new("RGB", (100, 100))), []
    lock = decoding.one_large()

    def look(image: Image.Image) -> Image.Image:
        free = lock.acquire(block=False)
        if free:
            lock.release()
        held.append(not free)
        return image

    monkeypatch.setattr(decoding, "upright", look)
    monkeypatch.setattr(decoding, "LARGE_COST", 8 * 100 * 100 - 1)
    decode(data, (8, 8, 3))
    decode(encoded(Image.new("RGB", (99, 99))), (8, 8, 3))
    assert held == [True, False]
    monkeypatch.setattr(decoding, "MAX_COST", 8 * 100 * 100 - 1)
    with pytest.raises(BadImage, match="memory would be needed"):
        decode(data, (8, 8, 3))


def test_chunks_of_large_images_are_small() -> None:
    members = [Member(str(i), b"") for i in range(200)]
    assert [len(chunk) for chunk in decoding.in_chunks(members, 64 * 64 * 3)] == [64, 64, 64, 8]
    assert {len(chunk) for chunk in decoding.in_chunks(members, 1024 * 1024 * 3)} == {10}


def test_decoding_ends_early_where_nothing_is_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "HOPELESS", 10)
    monkeypatch.setattr(decoding, "CHUNK_FILES", 4)
    monkeypatch.setattr(decoding, "n_cores", lambda: 1)
    folder = folder_of(tmp_path / "set", 2)
    for i in range(50):
        (folder / f"x{i:02d}.png").write_bytes(b"")
    with pytest.raises(UserError, match="14 of 16 images"):
        load(folder, tmp_path)


# ---------------------------------------------------------------------------- files that are none


@posix
def test_only_regular_files_are_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = folder_of(tmp_path / "set", 60)
    os.mkfifo(folder / "fifo.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "self.png").symlink_to("self.png")
    (folder / "round").symlink_to(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.png"))
        assert len(load(folder, tmp_path)) == 60
    said = capsys.readouterr().err
    for name, reason in (
        ("fifo", "no regular file"),
        ("zero", "no regular file"),
        ("socket", "cannot be read"),
    ):
        assert f"{name}.png: {reason}" in said
    for name in ("gone", "self"):
        assert f"{name}.png: cannot be read" in said


@posix
@pytest.mark.parametrize("kind", ["fifo", "zero"])
@pytest.mark.parametrize("place", ["data", "nested", "list", "list beside"])
def test_what_is_no_file_is_refused_wherever_it_stands(kind: str, place: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    name = {"data": "a.tar.gz", "nested": "a.zip", "list": "list_attr_celeba.txt", "list beside": "b.png"}[
        place
    ]
    if kind == "fifo":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    if place == "list":
        folder_of(folder)
    with pytest.raises(UserError, match=r"no regular file|no image|unreadable"):
        load(folder / name if place == "data" else folder, tmp_path)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "set")
    (folder / "cat").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> object:
        if os.path.basename(path) == "cat":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"folder .*cat cannot be listed \(Permission denied\)"):
        load(folder, tmp_path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "loop"])
def test_paths_that_are_none_are_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="cannot be read") as caught:
        open_files(tmp_path / name)
    assert str(caught.value).isprintable()


# ---------------------------------------------------------------------------- names

ODD = "a\x1b[31m\nwarning: all is lost\u202e.png"


@posix
def test_names_are_printed_escaped(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = folder_of(tmp_path / "set\x1b[2J", 60)
    (folder / ODD).write_bytes(b"no image")
    (folder / "x.\x1b[1m").write_bytes(b"")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(PNG)
    data = load(folder, tmp_path)
    assert r"\xff.png" in data.files
    said = capsys.readouterr().err
    assert all(line.isprintable() for line in said.splitlines())
    assert r"a\x1b[31m\nwarning: all is lost\u202e.png: no image format" in said and r"x1b[1m" in said
    assert len(load(folder, tmp_path)) == 61 and "again" not in capsys.readouterr().err


def test_names_in_errors_are_printed_escaped(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(f"../{ODD}", b"")
    with pytest.raises(UserError, match="outside the archive") as caught:
        load(tmp_path / "a.zip", tmp_path)
    assert caught.value.for_command_line.isprintable()
    assert UserError("no \x1b[31m name").for_command_line == r"no \x1b[31m name"


# ---------------------------------------------------------------------------- caches


def rebuilt(data: ImageData, tmp_path: Path, capsys: pytest.CaptureFixture) -> bool:
    """Whether the images are decoded again, with a warning, to what they were."""
    capsys.readouterr()
    again = load(tmp_path / "set", tmp_path)
    assert again.fingerprint == data.fingerprint
    assert (np.asarray(again.images[:, 0, 0, 0]) == range(30)).all()
    return "decoded again" in capsys.readouterr().err


@pytest.mark.parametrize("at", [0, 0.2, 0.5, 0.999])
def test_pixels_that_changed_are_decoded_again(
    at: float, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = load(folder_of(tmp_path / "set"), tmp_path)
    assert not rebuilt(data, tmp_path, capsys)
    with data.path.open("rb+") as file:
        file.seek(data.offset + int(at * data.images.nbytes))
        file.write(b"\xee")
    assert rebuilt(data, tmp_path, capsys) and not rebuilt(data, tmp_path, capsys)


def test_a_bounded_part_of_the_pixels_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((10_000, 10, 10, 3), np.uint8)
    monkeypatch.setattr(cache, "SAMPLE_BYTES", 30)
    before = cache.sampled(images, None)
    seen = []
    for at in range(0, images.size, 10):
        images.reshape(-1)[at] = 1
        seen.append(cache.sampled(images, None) != before)
        images.reshape(-1)[at] = 0
        if len(seen) == 10:
            break
    assert seen == [True] * 3 + [False] * 7
    images[-1, -1, -1, -1] = 1
    assert cache.sampled(images, None) != before
    assert cache.sampled(images[:-1], None) != before != cache.sampled(images, np.arange(10_000))


DAMAGE = {
    "no json": None,
    "empty": {},
    "list": [],
    "files": {"files": ["a"]},
    "file type": {"files": [1] * 30},
    "splits": {"splits": {"train": [0, 31]}},
    "split type": {"splits": {"train": [0.5, 30]}},
    "gap": {"splits": {"train": [0, 10], "test": [12, 30]}},
    "fingerprints": {"fingerprints": {}},
    "names": {"label_names": ["a", "b"]},
    "problems": {"problems": ["x"]},
    "sample": {"sample": "0"},
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_said_of_pixels_is_checked(case: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = load(folder_of(tmp_path / "set"), tmp_path)
    meta = data.path.with_suffix(".json")
    change = DAMAGE[case]
    if change is None:
        meta.unlink()
    else:
        meta.write_text(json.dumps(json.loads(meta.read_text()) | change if change else change))
    assert rebuilt(data, tmp_path, capsys)


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"PK\3\4", np.arange(60).astype(object), np.arange(60) + 5]
)
def test_labels_that_changed_are_made_again(
    content: bytes | np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a", "b"):
        folder_of(folder / name)
    data = load(folder, tmp_path)
    labels = data.path.with_suffix(".labels.npy")
    labels.write_bytes(content) if isinstance(content, bytes) else np.save(labels, content, allow_pickle=True)
    again = load(folder, tmp_path)
    assert "decoded again" in capsys.readouterr().err and again.labels.tolist() == [0] * 30 + [1] * 30


@posix
def test_a_temporary_cache_is_this_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "cache").write_text("no folder, so that the temporary one is taken")
    data = load(folder_of(tmp_path / "set"), tmp_path)
    own = data.path.parent
    assert stat.S_IMODE(own.stat().st_mode) == 0o700 and not rebuilt(data, tmp_path, capsys)
    own.chmod(0o777)
    assert rebuilt(data, tmp_path, capsys) and stat.S_IMODE(own.stat().st_mode) == 0o700
    own.rename(tmp_path / "elsewhere")
    own.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="by you, and by nobody else"):
        load(tmp_path / "set", tmp_path)


@posix
def test_a_cache_that_others_may_change_is_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = load(folder_of(tmp_path / "set"), tmp_path)
    data.path.chmod(0o666)
    assert rebuilt(data, tmp_path, capsys)
    data.path.parent.chmod(0o777)
    capsys.readouterr()
    elsewhere = load(tmp_path / "set", tmp_path)
    assert (
        elsewhere.path.parent == cache.temporary_dir()
        and "can be changed by others" in capsys.readouterr().err
    )
    data.path.parent.chmod(0o1777)  # as /tmp: nobody can take the place of another's file
    assert load(tmp_path / "set", tmp_path).path.parent == data.path.parent


@posix
def test_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"")
    owner = (tmp_path / "a").stat().st_uid
    assert cache.is_ours(tmp_path / "a")
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert cache.is_ours(tmp_path / "a") == (owner == 0)  # root may do everything anyway
    monkeypatch.setattr(os, "stat", os.stat)
    assert not cache.is_ours(tmp_path, private=True)
    assert not cache.is_ours(tmp_path / "absent")


# ---------------------------------------------------------------------------- label lists

LISTS = {
    "40 digits": ("1.jpg " + "9" * 40, "line 1: '9{40}' is no whole number"),
    "no column": ("1.jpg\n2.jpg\n", "line 1 has 0 numbers"),
    "no row": ("Bald Young\n", "differ"),
    "empty": ("", "differ"),
    "again": ("1.jpg 1\n2.jpg 1\n1.jpg 1\n", r"line 3 names 1\.jpg again"),
    "short": ("A B\n1.jpg 1 1\n2.jpg 1\n", "line 3 has 1 numbers, not 2"),
    "names": ("A B C\n1.jpg 1\n", "3 column names, 1 numbers"),
    "words": ("1.jpg yes\n", "line 1: 'yes'"),
    "digits of elsewhere": ("1.jpg \u0663\n", "no whole number"),
    "nul": ("1.jpg 1\0\n", r"line 1: '1\\\\x00'"),
    "float": ("1.jpg 1.5\n", "no whole number"),
    "line": ("1.jpg " + "1 " * 50_000, "too long a line"),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_name_the_line_that_is_wrong(case: str) -> None:
    text, reason = LISTS[case]
    with pytest.raises(ValueError, match=reason) as caught:
        parse_table(text)
    assert str(caught.value).isprintable()
    layout = read_layout(["1.jpg", "2.jpg"], {"list_attr.txt": text})
    assert layout.labels is None and layout.notes[0].startswith(
        "warning: list_attr.txt is not in CelebA's format"
    )


def test_lists_of_any_line_end_read_alike() -> None:
    rows = ["2", "A B", "1.jpg 1 -1", "2.jpg -1 1"]
    for end in ("\n", "\r\n", "\r"):
        assert parse_table(end.join(rows)) == (("A", "B"), {"1.jpg": [1, -1], "2.jpg": [-1, 1]})


def test_partition_list_without_some_images_or_its_column() -> None:
    attributes = "A\n1.jpg 1\n2.jpg 1\n3.jpg 1\n"
    texts = {"list_attr.txt": attributes, "list_eval_partition.txt": "1.jpg 2\n2.jpg 7\n"}
    layout = read_layout(["1.jpg", "2.jpg", "3.jpg"], texts)
    assert layout.splits == {"train": (0, 2), "test": (2, 3)}
    assert any("2 images have no split" in note for note in layout.notes)
    layout = read_layout(["1.jpg", "2.jpg", "3.jpg"], texts | {"list_eval_partition.txt": "1.jpg\n2.jpg\n"})
    assert layout.splits == {"train": (0, 3)} and "has 0 numbers" in layout.notes[0]


def test_lists_larger_than_any_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from images import archives as module

    monkeypatch.setattr(module, "MAX_TEXT_BYTES", 100)
    for name, data in archives().items():
        path = tmp_path / name
        path.write_bytes(data)
        if name.endswith(("zip", "tar", "tgz")):
            monkeypatch.setattr(module, "MAX_TEXT_BYTES", 20)
            with pytest.raises(UserError, match="label lists of more than"):
                list(open_files(path).members())
    folder = folder_of(tmp_path / "set")
    (folder / "list_attr_celeba.txt").write_text("1.jpg 1\n" * 20)
    with pytest.raises(UserError, match="larger than 20 bytes"):
        list(Folder(folder).members())
