"""What is in a folder or archive of images: headers of all files, hashes and thumbnails of some."""

import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from disk import open_regular
from errors import UserError, shown
from images import arrays
from images.archives import Files
from images.cache import Progress
from images.decoding import (
    BadImage,
    Fit,
    Member,
    Shape,
    decode_all,
    in_chunks,
    on_all_cores,
    only_bombs_warn,
    open_image,
    read_member,
    reasons,
)
from images.headers import SIDEWAYS, TIFF_STARTS, orientation

HEAD_BYTES = 2**16  # in which most headers stand; a file whose header does not is read whole
FEW_CHUNKS = 16  # of files, below which there are no workers
COMPARED = 256  # pictures that are compared with all others at a time
MAX_SAMPLED, LEAST_SAMPLED = 2048, 64  # images that are decoded
SAMPLED_PIXELS = 5e8  # of all of them, about
HASHED_BYTES = 2 * 2**30  # of files that are read for their hash
SIGNATURE = 16  # px a side of the grey picture in which near duplicates are looked for
ALIKE = 0.15  # of the contrast: pictures that differ by less are alike
BITS_TAG = 258  # TIFF's
MODE_BITS = {"1": 1, "I": 32, "F": 32, "I;16": 16, "I;16B": 16, "I;16L": 16}  # by Pillow's mode; 8 elsewhere


@dataclass(frozen=True)
class ImageFacts:
    """What an image file says of itself: height and width as it is shown, mode, bits of a value, whether EXIF turns it.

    n_bytes: of the file; digest: of its bytes, None where they were not read.
    """

    height: int
    width: int
    mode: str
    bits: int
    turned: bool
    n_bytes: int
    digest: bytes | None = None


def facts_in(data: bytes) -> tuple[int, int, str, int, bool]:
    """(height, width, mode, bits, whether EXIF turns it) of an image file, of which the first bytes may be enough.

    BadImage, and whatever Pillow raises.
    """
    if data.startswith(arrays.NPY):
        return array_facts(data)
    if arrays.is_beyond_pillow(data, n := arrays.channels_in(data)):
        tags = arrays.tiff_tags(data)
        bits = arrays.tiff_samples(data)[1]
        return int(tags[arrays.HEIGHT]), int(tags[arrays.WIDTH]), f"array of {n}", bits, False
    image = open_image(data)
    bits = MODE_BITS.get(image.mode, 8)
    if image.format == "PNG":
        bits = data[24]
    elif hasattr(image, "tag_v2"):
        bits = max(image.tag_v2.get(BITS_TAG, (bits,)))
    turn = orientation(image)
    height, width = image.height, image.width
    if turn in SIDEWAYS:
        height, width = width, height
    return height, width, image.mode, bits, turn is not None and turn != 1


def array_facts(data: bytes) -> tuple[int, int, str, int, bool]:
    """As facts_in, of a .npy with one picture (H, W), (H, W, C) or (C, H, W)."""
    shape, kind, _ = arrays.read_header(io.BytesIO(data))
    if len(shape) not in (2, 3):
        raise BadImage(f"an array of shape {shape}, no picture")
    shape = (*shape, 1) if len(shape) == 2 else shape
    height, width, n = shape if shape[-1] <= shape[0] else (*shape[1:], shape[0])
    return height, width, f"array of {n}", 8 * kind.itemsize, False


def facts_of(member: Member) -> ImageFacts | BadImage:
    """The header of an image of a folder or archive, or why it cannot be read."""
    try:
        if isinstance(member.data, Path):
            return of_path(member, member.data)
        data = read_member(member)
        return ImageFacts(*safely(data), len(data), digest_of(data))
    except BadImage as error:
        return error


def of_path(member: Member, path: Path) -> ImageFacts:
    """As facts_of, reading no more than is needed. BadImage."""
    try:
        with open_regular(path) as file:
            head, n_bytes = file.read(HEAD_BYTES), file.seek(0, io.SEEK_END)
    except (OSError, ValueError):
        read_member(member)  # says what is wrong
        raise
    # the pages of a TIFF stand anywhere
    if n_bytes > len(head):
        try:
            if head[:4] in TIFF_STARTS:
                raise BadImage("known by the whole file alone")
            return ImageFacts(*safely(head), n_bytes)
        except BadImage:
            head = read_member(member)
    return ImageFacts(*safely(head), n_bytes)


def safely(data: bytes) -> tuple[int, int, str, int, bool]:
    """facts_in, with BadImage for all that can be wrong."""
    with reasons():
        return facts_in(data)


def digest_of(data: bytes) -> bytes:
    """A hash of a file's bytes."""
    return blake2b(data, digest_size=16).digest()


def all_facts(members: Sequence[Member]) -> list[tuple[Member, ImageFacts | BadImage]]:
    """Each with its facts_of; what runs in a worker."""
    with only_bombs_warn():
        return [(member, facts_of(member)) for member in members]


def digests_of(members: Sequence[Member]) -> list[tuple[Member, bytes]]:
    """Each that can be read with the hash of its file; what runs in a worker."""
    found = []
    for member in members:
        with suppress(BadImage):
            found.append((member, digest_of(read_member(member))))
    return found


@dataclass
class Survey:
    """What was found.

    headers: by name, in the order of the names, of all images that can be read; problems: (name, reason) of the others;
    copies: groups of names with the same bytes, among n_hashed files; alike: pairs of names that look the same, among
    the images whose thumbnails are held, uint8 (n, H, W, C) by the order of `sampled`.
    """

    where: str
    headers: dict[str, ImageFacts] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    copies: list[list[str]] = field(default_factory=list)
    n_hashed: int = 0
    sampled: list[str] = field(default_factory=list)
    thumbnails: np.ndarray | None = None
    alike: list[tuple[str, str]] = field(default_factory=list)

    @property
    def n_bytes(self) -> int:
        """Of all images."""
        return sum(header.n_bytes for header in self.headers.values())

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of each, as it is shown."""
        return [(header.height, header.width) for header in self.headers.values()]


def read_facts(files: Files) -> Survey:
    """Headers of all images, and groups of files with the same bytes; says how far it is. UserError."""
    found = Survey(files.where)
    progress = Progress(f"looking at {files.where}", None)
    paths: dict[str, Member] = {}
    try:
        # what an archive has is at hand: workers would have to be sent it
        if files.path.is_dir():
            parts = on_all_cores(all_facts, files.members(), image_bytes=1, few=FEW_CHUNKS)
        else:
            parts = map(all_facts, in_chunks(files.members(), 1))
        for member, header in chain.from_iterable(parts):
            if isinstance(header, BadImage):
                found.problems.append((member.name, str(header)))
            else:
                found.headers[member.name] = header
                if isinstance(member.data, Path):
                    paths[member.name] = member
            progress.total = files.n_images
            progress.update(1)
    finally:
        progress.close()
    found.problems += files.problems
    if not found.headers:
        raise none_left(found, "that can be read")
    find_copies(found, paths)
    return found


def none_left(found: Survey, what: str) -> UserError:
    """That there is no image, and what is wrong with the first."""
    first = f" (the first: {shown(': '.join(found.problems[0]))})" if found.problems else ""
    return UserError(f"{found.where} holds no image {what}{first}")


def find_copies(found: Survey, paths: dict[str, Member]) -> None:
    """Fill in the groups of files with the same bytes; of a folder only files as long as another one are read."""
    digests = {name: h.digest for name, h in found.headers.items() if h.digest is not None}
    n_hashed = len(digests)
    if paths:
        lengths = Counter(found.headers[name].n_bytes for name in paths)
        candidates, left = [], HASHED_BYTES
        for name in sorted(paths, key=lambda name: found.headers[name].n_bytes):
            n_bytes = found.headers[name].n_bytes
            if lengths[n_bytes] > 1 and n_bytes <= left:
                candidates.append(name)
                left -= n_bytes
        parts = on_all_cores(digests_of, (paths[name] for name in candidates), image_bytes=1, few=FEW_CHUNKS)
        digests |= {member.name: digest for member, digest in chain.from_iterable(parts)}
        alone = sum(lengths[found.headers[name].n_bytes] == 1 for name in paths)
        n_hashed += len(candidates) + alone
    groups: dict[bytes, list[str]] = {}
    for name in found.headers:
        if name in digests:
            groups.setdefault(digests[name], []).append(name)
    found.copies = [names for names in groups.values() if len(names) > 1]
    found.n_hashed = n_hashed


def spread_over(names: Sequence[str], n: int) -> list[str]:
    """n of the names at equal distances, or all."""
    return list(names) if len(names) <= n else [names[i * len(names) // n] for i in range(n)]


def sample_size(found: Survey) -> int:
    """How many images can be decoded within seconds."""
    pixels = sum(h * w for h, w in found.shapes) / len(found.headers)
    return int(min(MAX_SAMPLED, max(LEAST_SAMPLED, SAMPLED_PIXELS / max(pixels, 1))))


def look_closer(
    found: Survey, files: Files, names: Sequence[str], shape: Shape, fit: Fit | None = None
) -> None:
    """Decode these images at a small size; what cannot be joins the problems; say which look the same.

    UserError, also where none can be decoded.
    """
    wanted, chosen = set(names), []
    progress = Progress(f"decoding some of {files.where}", len(wanted))

    def members() -> Iterator[Member]:
        left = len(wanted)
        for member in files.members():
            if member.name in wanted:
                yield member
                left -= 1
            if not left:
                return

    kept: list[np.ndarray] = []
    try:
        for chunk in decode_all(members(), shape, fit):
            chosen += chunk.names
            kept.append(chunk.pixels)
            found.problems += chunk.problems
            progress.update(len(chunk.names) + len(chunk.problems))
    finally:
        progress.close()
    for name, _ in found.problems:
        found.headers.pop(name, None)
    if not chosen:
        raise none_left(found, f"that can be decoded, of {len(wanted):,} that were tried")
    found.sampled = chosen
    found.thumbnails = np.concatenate(kept) if kept else np.empty((0, *shape), np.uint8)
    same = {name: i for i, group in enumerate(found.copies) for name in group}
    found.alike = [
        (chosen[a], chosen[b])
        for a, b in near_pairs(found.thumbnails)
        if same.get(chosen[a], -1) != same.get(chosen[b], -2)
    ]


def signatures(thumbnails: np.ndarray) -> np.ndarray:
    """uint8 (n, H, W, C) -> float32 (n, SIGNATURE^2): the mean grey of each part of the picture."""
    greys = [
        Image.fromarray(x).convert("L")
        if x.shape[2] == 3
        else Image.fromarray(x.mean(axis=2).astype(np.uint8))
        for x in thumbnails
    ]
    small = [np.asarray(grey.resize((SIGNATURE, SIGNATURE), Image.Resampling.BOX)) for grey in greys]
    return np.stack(small).reshape(len(small), -1).astype(np.float32)


def near_pairs(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """(i, j), i < j, of pictures whose signatures differ by less than ALIKE of the lesser contrast of the two; each j
    once, with its nearest i.

    Difference and contrast: root mean squares. Pictures of one colour are alike where they are equal.
    """
    if len(thumbnails) < 2:
        return []
    x = signatures(thumbnails).astype(np.float64)
    contrast = x.std(axis=1)
    squares = (x**2).sum(axis=1)
    pairs = []
    for start in range(0, len(x), COMPARED):
        rows = slice(start, start + COMPARED)
        apart = (squares[rows, None] + squares[None] - 2 * x[rows] @ x.T).clip(min=0) / x.shape[1]
        bound = ALIKE * np.minimum(contrast[rows, None], contrast[None])
        # what is left of rounding, where both are of one colour
        apart = np.where(np.sqrt(apart) <= bound + 1e-3, apart, np.inf)
        apart[np.arange(len(x))[None] >= np.arange(len(x))[rows, None]] = np.inf
        nearest = apart.argmin(axis=1)
        pairs += [(int(i), start + k) for k, i in enumerate(nearest) if math.isfinite(apart[k, i])]
    return pairs
