"""Archives with a few bytes changed: what opening and decoding them may answer, and nothing else.

python -m tests.fuzzing 10000
"""

import io
import random
import resource
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

from PIL import Image

from errors import UserError
from images import tars
from images.archives import open_files
from images.decoding import decode_chunk
from images.layout import read_layout

KINDS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "tif": "TIFF", "webp": "WEBP", "bmp": "BMP", "ppm": "PPM"}
EXTREMES = [0, 1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**63, 2**64 - 1]
LIST = b"2\nBald Young\n" + b"".join(f"{i}.{end} 1 -1\r\n".encode() for i, end in enumerate(KINDS))


def files() -> dict[str, bytes]:
    """A small image of every kind, under names of every length, and a label list."""
    found = {"list_attr_celeba.txt": LIST}
    for i, (end, kind) in enumerate(KINDS.items()):
        buffer = io.BytesIO()
        exif = (
            {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"} if end == "jpg" else {}
        )
        Image.effect_noise((12, 9), 60).convert("RGB").save(buffer, kind, **exif)
        found[f"{'a' * (1 + 40 * i)}/é{i}/{i}.{end}"] = buffer.getvalue()
    return found


def archives() -> dict[str, bytes]:
    """The files as a zip of either kind, and as tars of both ways to hold long names."""
    made = {}
    for name, method in (("stored.zip", zipfile.ZIP_STORED), ("deflated.zip", zipfile.ZIP_DEFLATED)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for member, data in files().items():
                archive.writestr(member, data)
        made[name] = buffer.getvalue()
    for name, kind, mode in (
        ("gnu.tar", tarfile.GNU_FORMAT, "w"),
        ("pax.tar", tarfile.PAX_FORMAT, "w"),
        ("gnu.tgz", tarfile.GNU_FORMAT, "w:gz"),
        ("pax.tar.xz", tarfile.PAX_FORMAT, "w:xz"),
        ("pax.tar.bz2", tarfile.PAX_FORMAT, "w:bz2"),
    ):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode, format=kind) as archive:
            for member, data in files().items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        made[name] = buffer.getvalue()
    return made


def with_checksum(block: bytes) -> bytes:
    """A tar's header whose checksum fits what it says."""
    total = sum(block[:148]) + 256 + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four changes: flips, cuts, pieces moved, numbers, headers whose checksum still fits."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(content))
        end = min(len(content), at + rng.choice((1, 4, 40, 600)))
        match rng.randrange(7):
            case 0:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                del content[at:end]
            case 2:
                to = rng.randrange(len(content))
                content[to:to] = content[at:end]
            case 3:
                content = content[: max(600, at)]
            case 4:
                number = rng.choice(EXTREMES).to_bytes(8, rng.choice(("big", "little")))
                content[at : at + rng.choice((2, 4, 8))] = number[: rng.choice((2, 4, 8))]
            case 5:  # a field of a zip's lists
                places = [i for i in range(len(content) - 4) if content[i : i + 2] == b"PK"] or [at]
                at = rng.choice(places) + rng.randrange(4, 46)
                content[at : at + 4] = rng.choice(EXTREMES).to_bytes(8, "little")[:4]
            case 6:  # a field of a tar's header
                at = at // tars.BLOCK * tars.BLOCK
                block = bytes(content[at : at + tars.BLOCK])
                if tars.is_header(block):
                    kind = rng.choice(b"LKxXgSDMV0123456789\0").to_bytes()
                    size = rng.choice(
                        (b"%011o\0" % rng.choice(EXTREMES[:9]), b"\x80" + rng.randbytes(11), block[124:136])
                    )
                    content[at : at + tars.BLOCK] = with_checksum(
                        block[:124] + size + block[136:156] + kind + block[157:]
                    )
    return bytes(content)


def outcome(path: Path) -> str:
    """What came of an archive, in a word; anything but UserError is raised."""
    try:
        found = open_files(path)
        chunk = decode_chunk(list(found.members()), (8, 8, 3))
        read_layout(chunk.names, found.texts) if chunk.names else None
    except UserError as error:
        assert str(error).isprintable(), error
        return "refused"
    assert all(reason.isprintable() for _, reason in chunk.problems), chunk.problems
    return "some files left out" if chunk.problems or len(chunk.names) < len(KINDS) else "read whole"


def main(n: int, seed: int = 0) -> None:
    """Count the outcomes of n archives, and say what the worst cost."""
    rng, made, counts, slowest = random.Random(seed), archives(), Counter(), (0.0, "")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(n):
            name = rng.choice(list(made))
            path = Path(folder) / name
            path.write_bytes(mutated(made[name], rng))
            start = time.process_time()
            try:
                counts[outcome(path)] += 1
            except Exception as error:
                counts[f"{type(error).__name__}: {error}"[:100]] += 1
                Path(f"/tmp/fuzz-{i}-{name}").write_bytes(path.read_bytes())
            slowest = max(slowest, (time.process_time() - start, f"{i} {name}"))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(dict(counts), f"slowest {slowest[0]:.2f} s ({slowest[1]}), {grown >> 10} MiB more memory")


if __name__ == "__main__":
    main(int(sys.argv[1]))
