"""Archives whose bytes are flipped, cut, spliced and padded: read, or refused in one line."""

import gzip
import io
import random
import signal
import tarfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from errors import UserError
from images.sources import load_dataset
from studies.attacks.children import LIMIT_MB, LIMIT_S, memory_of
from studies.attacks.runs import Case, Lab

AT_ONCE = 100  # archives a child
FAILED = "failed:"
ATTRIBUTES = "3\nBald Smiling\na/0.png 1 -1\na/1.png -1 -1\nb/2.png 1 1\n"


def pictures() -> dict[str, bytes]:
    """Small pictures of every format that is read, by name."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 10, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    text = PngImagePlugin.PngInfo()
    text.add_text("about", "x" * 300, zip=True)
    forms = {
        "a/0.png": (image, {"pnginfo": text}),
        "a/1.png": (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), {}),
        "b/2.png": (image.quantize(8), {}),
        "b/3.jpg": (image, {"progressive": True}),
        "b/4.jpg": (image.convert("CMYK"), {}),
        "c/5.gif": (image, {"save_all": True, "append_images": [image.rotate(90)]}),
        "c/6.webp": (image, {}),
        "c/7.bmp": (image, {}),
        "c/8.tif": (image, {"compression": "tiff_lzw"}),
        "c/9.ppm": (image, {}),
    }
    found = {}
    for name, (picture, options) in forms.items():
        buffer = io.BytesIO()
        kind = {"jpg": "jpeg", "tif": "tiff"}.get(name[-3:], name.rpartition(".")[2])
        picture.save(buffer, kind, **options)
        found[name] = buffer.getvalue()
    return found


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A .zip of some files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A .tar of some files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def whole_archives() -> list[bytes]:
    """One archive of each kind."""
    files = pictures() | {"list_attr_celeba.txt": ATTRIBUTES.encode(), "about.md": b"a text\n" * 20}
    long = files | {f"{'folder/' * 30}{i}.png": files["a/0.png"] for i in range(3)}
    plain = {name: data for name, data in files.items() if name.endswith("png")}
    return [
        zipped(files),
        zipped(long, zipfile.ZIP_DEFLATED),
        zipped(plain, zipfile.ZIP_BZIP2),
        zipped(plain, zipfile.ZIP_LZMA),
        tarred(files),
        tarred(long, tarfile.PAX_FORMAT),
        tarred(long, tarfile.GNU_FORMAT),
        tarred(plain, tarfile.USTAR_FORMAT),
    ]


# -- ways to spoil bytes: (bytes, another archive's, rng) -> bytes -----------------------------------------------------


def flipped(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, all over or within one stretch."""
    changed = bytearray(data)
    start, span = (
        (0, len(data)) if rng.random() < 0.4 else (rng.randrange(len(data)), rng.choice([16, 100, 600]))
    )
    for _ in range(rng.choice([1, 2, 5, 30, 200])):
        place = min(start + rng.randrange(span), len(data) - 1)
        changed[place] = rng.choice([0, 255, changed[place] ^ 1 << rng.randrange(8), rng.randrange(256)])
    return bytes(changed)


def at_the_end(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Bytes changed where a .zip has its table of contents."""
    tail = max(len(data) // 4, 30)
    return data[:-tail] + flipped(data[-tail:], other, rng)


def cut(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """An end, a start or a stretch is missing."""
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return rng.choice([data[:a], data[b:], data[:a] + data[b:]])


def spliced(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The start of one archive and the end of another, or one within the other."""
    a, b = rng.randrange(len(data)), rng.randrange(len(other))
    return rng.choice([data[:a] + other[b:], data[:a] + other + data[a:], data + other])


def repeated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A stretch stands there many times."""
    a = rng.randrange(len(data))
    return data[:a] + data[a : a + rng.choice([1, 46, 512, 2000])] * rng.choice([2, 20, 300]) + data[a:]


def extreme(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A number of 2, 4 or 8 bytes, or the digits of a tar header, as large as they can be."""
    width = rng.choice([2, 4, 8, 12])
    a = rng.randrange(max(len(data) - width, 1))
    if width == 12:  # the field of the size in the header of a tar's member
        a = 512 * rng.randrange(len(data) // 512 + 1) + 124
    value = rng.choice(
        [b"\xff" * width, b"\x7f" + b"\xff" * (width - 1), b"7" * width, b"\x80" + b"\0" * (width - 1)]
    )
    return data[:a] + value + data[a + width :]


def with_checksums(data: bytes) -> bytes:
    """A tar whose headers have the right sums, so that what is wrong in them is believed."""
    changed = bytearray(data)
    for start in range(0, len(changed) - 511, 512):
        header = changed[start : start + 512]
        if header[257:262] == b"ustar":
            header[148:156] = b" " * 8
            changed[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return bytes(changed)


SPOILERS: tuple[Callable[[bytes, bytes, random.Random], bytes], ...] = (
    flipped, flipped, at_the_end, at_the_end, cut, spliced, repeated, extreme, extreme,
)  # fmt: skip


def fuzzed(whole: list[bytes], rng: random.Random) -> bytes:
    """One archive with other bytes, sometimes packed afterwards."""
    data, other = rng.choice(whole), rng.choice(whole)
    for _ in range(rng.choice([1, 1, 2, 4])):
        data = rng.choice(SPOILERS)(data, other, rng) or b"\0"
    if rng.random() < 0.5:
        data = with_checksums(data)
    if rng.random() < 0.2:
        data = gzip.compress(data, 1, mtime=0)
        if rng.random() < 0.3:
            data = flipped(data, other, rng)
    return data


def read(file: Path, cache: Path) -> str:
    """What becomes of an archive: how many images it has, or the line that refuses it."""
    try:
        data = load_dataset("celeba", img_size=8, img_channels=3, data=file, split="all", cache_dir=cache)
        return f"{len(data.images)} images"
    except UserError as error:
        return " ".join(error.for_command_line.split())


def batch(whole: list[bytes], seed: int, folder: Path) -> int:
    """Read AT_ONCE fuzzed archives in this process; a file stays where something went wrong. The exit code."""
    failed, rng = 0, random.Random(seed)
    cache = folder / "cache"
    for i in range(AT_ONCE):
        file = folder / f"archive-{i:03d}"
        file.write_bytes(fuzzed(whole, rng))
        print(f"archive {i}")
        signal.alarm(int(LIMIT_S))  # ends the process: what hangs in native code too
        began = time.monotonic()
        whole_still = False
        try:
            print(read(file, cache))
            whole_still = True
        except Exception:
            traceback.print_exc()
        signal.alarm(0)
        seconds, megabytes = time.monotonic() - began, memory_of(0)
        if not whole_still or seconds > LIMIT_S or megabytes > LIMIT_MB:
            print(f"{FAILED} {file.name}: {seconds:.0f} s, {megabytes:.0f} MB")
            failed += 1
            continue
        file.unlink()
        for left in cache.glob("*"):
            left.unlink()
    return int(failed > 0)


def fuzz(lab: Lab, case: Case, rng: random.Random) -> None:
    """A hundred fuzzed archives through the reader of images."""
    whole = lab.kept.setdefault("archives", whole_archives())
    seed = rng.randrange(1 << 32)
    argv = ["-m", "studies.attacks.archives", f"batch({seed})"]
    (child,) = case.run(argv, seconds=AT_ONCE * LIMIT_S, program=lambda: batch(whole, seed, case.scratch))
    begun = sum(line.startswith("archive ") and line[8:].isdecimal() for line in child.text.splitlines())
    case.tried = max(begun, 1)
    case.check_end([child])
    case.failed = child.text.count(f"\n{FAILED} ") or None
    # of one archive, not of all of them
    child.seconds /= case.tried
