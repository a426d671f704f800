"""Decoded images as one uint8 .npy: built by the main process, awaited by the others, read as a memmap."""

import errno
import io
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

import disk
from disk import read_json
from errors import UserError, printable, shown
from images.archives import LINK
from images.decoding import Chunk, Shape
from images.layout import Layout

CODE_VERSION = 2  # raise it when decoding or layout change, so that older caches are built anew
PLAIN = "centre crop"  # how pictures of 8 bits are brought to a shape by default
APP = "gan-toolkit"
MAX_BAD_SHARE = 0.1
HOPELESS = 10_000  # problems after which nothing more is decoded, where there are fewer good images
LISTED = 20  # problems printed; the .json beside the cache has all
ROWS = 4096  # images copied or hashed at a time
SAMPLES, SAMPLE_BYTES = 64, 2**16  # pieces of a cache's pixels that are compared when it is opened: 4 MB
META_LIMIT = 2**29  # bytes of the .json, which has all names


class Source(Protocol):
    """Where images come from before they are decoded.

    One of picture files also says `how` they are brought to a shape, which is part of the cache's key, PLAIN where it
    says nothing; and, after the last chunk, as `scale`, what became 0 and 255 of more than 8 bits.
    """

    name: str
    where: str
    n_images: int | None

    def stamp(self) -> object:
        """What changes when the images change; its repr enters the cache's key."""

    def chunks(self, shape: Shape) -> Iterator[Chunk]:
        """Decoded images in a fixed order."""

    def layout(self, names: list[str]) -> Layout:
        """What the names mean, asked after the last chunk."""


@dataclass(frozen=True)
class Table:
    """An open cache: images (N, H, W, C) as a memmap, labels, and [start, stop) of each split."""

    path: Path
    images: np.ndarray
    labels: np.ndarray | None
    label_names: tuple[str, ...]
    files: list[str]
    splits: dict[str, tuple[int, int]]
    fingerprints: dict[str, str]
    n_problems: int
    scale: tuple[float, float] | None = None


@dataclass(frozen=True)
class Meta:
    """What the .json beside a cache's pixels says of them: see Table; sample: of `sampled`; scale: see Source."""

    files: list[str]
    splits: dict[str, tuple[int, int]]
    label_names: tuple[str, ...]
    fingerprints: dict[str, str]
    problems: list[tuple[str, str]]
    sample: str
    scale: tuple[float, float] | None = None


def say(text: str) -> None:
    """One line for the user, apart from what a command prints as its result."""
    print(printable(text), file=sys.stderr, flush=True)


class Progress:
    """A bar on a terminal, else a plain line every few seconds."""

    every_s = 5.0

    def __init__(self, what: str, total: int | None) -> None:
        self.what, self.total, self.done = what, total, 0
        self.start = self.last = time.monotonic()
        self.bar = tqdm(desc=what, total=total, unit="img", leave=False) if sys.stderr.isatty() else None

    def update(self, n: int) -> None:
        """n more are done."""
        self.done += n
        if self.bar is not None:
            self.bar.update(n)
        elif time.monotonic() - self.last > self.every_s:
            self.last = time.monotonic()
            of = f" of {self.total:,}" if self.total else ""
            say(f"{self.what}: {self.done:,}{of} images, {self.done / (self.last - self.start):,.0f} img/s")

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


def default_cache_dir() -> Path:
    """gan-toolkit under the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / APP


def temporary_dir() -> Path:
    """The user's own folder for caches where all others can make folders of any name, too."""
    user = getattr(os, "getuid", lambda: "user")()
    return Path(tempfile.gettempdir()) / f"{APP}-{user}"


def is_ours(path: Path, private: bool = False) -> bool:
    """Whether nobody but this user and root can have written a file, or can put others' files into a folder.

    The user's own group may, as new files are made so in many places. Root, the only user of many a container, takes
    what others own. private: nobody else at all, and no link. False where there is nothing, True where nothing has an
    owner.
    """
    try:
        about = path.lstat() if private else path.stat()
    except OSError:
        return False
    if not hasattr(os, "getuid"):
        return True
    user, mode = os.getuid(), about.st_mode
    if private:
        return stat.S_ISDIR(mode) and about.st_uid == user and not mode & (stat.S_IWGRP | stat.S_IWOTH)
    owned = user == 0 or about.st_uid in (user, 0)
    group = mode & stat.S_IWGRP and about.st_gid != os.getegid()
    keeps_owners = stat.S_ISDIR(mode) and mode & stat.S_ISVTX  # as /tmp does
    return bool(owned and not group and (keeps_owners or not mode & stat.S_IWOTH))


def trusted_folder(folder: Path) -> bool:
    """Whether what this user finds in a cache folder is this user's."""
    return is_ours(folder, private=folder == temporary_dir())


def close_to_others(folder: Path) -> None:
    """Take everybody else's rights to a folder of this user's; others' folders, and links, stay as they are."""
    about = folder.lstat()
    if hasattr(os, "getuid") and stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid():
        folder.chmod(0o700)


def is_writable(folder: Path) -> bool:
    """Whether files of ours can be made in the folder, which is made if it can, the temporary one for us alone."""
    private = folder == temporary_dir()
    try:
        folder.mkdir(0o700 if private else 0o777, parents=True, exist_ok=True)
        if private:
            close_to_others(folder)
        with tempfile.TemporaryFile(dir=folder):
            return trusted_folder(folder)
    except OSError:
        return False


def cache_dirs(cache_dir: str | Path | None) -> list[Path]:
    """Where caches may stand, best first: the one asked for, and a temporary folder of the user's own."""
    return [default_cache_dir() if cache_dir is None else Path(cache_dir), temporary_dir()]


def usable_folder(folders: list[Path]) -> Path:
    """The first that can be written to and that others cannot; UserError where there is none."""
    for folder in folders:
        if is_writable(folder):
            return folder
    first, second = folders
    raise UserError(
        f"neither {first} nor {second} can be written to by you, and by nobody else: give --cache_dir a folder of yours"
    )


def cache_folder(cache_dir: str | None) -> Path:
    """The cache folder that can be written to, as for decoded images; UserError where there is none."""
    return usable_folder(cache_dirs(cache_dir))


def stem_of(source: Source, shape: Shape) -> str:
    """The cache's name without suffix: source, size and a key of everything that its pixels depend on."""
    what = repr((CODE_VERSION, source.name, source.stamp(), getattr(source, "how", PLAIN), shape))
    height, width, channels = shape
    return f"{source.name}-{height}x{width}x{channels}-{blake2b(what.encode(), digest_size=8).hexdigest()}"


def npy_header(shape: tuple[int, ...]) -> bytes:
    """The header of a uint8 .npy: numpy pads it, so that its length is the same for any number of images."""
    buffer = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def open_table(folder: Path, stem: str, loud: bool = True) -> Table | None:
    """The cache if it is there and whole; None if it is to be built (again), which is said where loud."""
    path = folder / f"{stem}.npy"
    if not path.exists():
        return None
    try:
        return whole_table(folder, stem)
    except (OSError, ValueError, MemoryError, SyntaxError) as error:  # SyntaxError: from a damaged header
        reason = error.for_command_line if isinstance(error, UserError) else str(error)
        if loud:
            say(f"warning: decoded images in {path} cannot be used ({shown(reason)}): they are decoded again")
        return None


def whole_table(folder: Path, stem: str) -> Table:
    """The cache, its parts fitting together; ValueError or OSError with the reason where they do not."""
    path, labels_path, meta_path = (folder / f"{stem}.{kind}" for kind in ("npy", "labels.npy", "json"))
    if not trusted_folder(folder):
        raise ValueError("others may change its folder")
    meta = read_json(meta_path, Meta, META_LIMIT)
    for file in (path, meta_path, *([labels_path] if meta.label_names else [])):
        if not (file.is_file() and is_ours(file)):
            raise ValueError(f"{file.name} is missing, of another user, or others may change it")
    # "c": torch wants writable memory; a stray write would stay in this process
    images = np.lib.format.open_memmap(path, mode="c")
    labels = np.array(np.lib.format.open_memmap(labels_path, mode="r")) if meta.label_names else None
    n = len(images)
    ranges = sorted(meta.splits.values())
    if images.dtype != np.uint8 or images.ndim != 4 or len(meta.files) != n:
        raise ValueError("names and pixels differ in number")
    # one after the other, from the first image to the last
    if [0, *(stop for _, stop in ranges)] != [*(start for start, _ in ranges), n]:
        raise ValueError("its splits are no parts of it")
    if meta.fingerprints.keys() != {*meta.splits, "all"}:
        raise ValueError("a split has no fingerprint")
    if labels is not None and not labels_fit(labels, n, len(meta.label_names)):
        raise ValueError("labels and images do not fit")
    if sampled(images, labels) != meta.sample:
        raise ValueError("its pixels or labels have changed")
    return Table(
        path,
        images,
        labels,
        meta.label_names,
        meta.files,
        meta.splits,
        meta.fingerprints,
        len(meta.problems),
        meta.scale,
    )


def labels_fit(labels: np.ndarray, n: int, n_names: int) -> bool:
    """Whether these are int64 (n,) classes with a name each, or uint8 (n, K) with K names."""
    if labels.ndim == 1:
        return labels.dtype == np.int64 and len(labels) == n and 0 <= labels.min() <= labels.max() < n_names
    return labels.dtype == np.uint8 and labels.shape == (n, n_names) and labels.max() <= 1


def sampled(images: np.ndarray, labels: np.ndarray | None) -> str:
    """Hash of labels and of pieces of the pixels, from both ends and between: milliseconds, whatever their number."""
    digest = blake2b(repr((images.shape, None if labels is None else labels.shape)).encode(), digest_size=16)
    pixels = images.reshape(-1)
    last = max(0, len(pixels) - SAMPLE_BYTES)
    for start in sorted({i * last // (SAMPLES - 1) for i in range(SAMPLES)}):
        digest.update(np.ascontiguousarray(pixels[start : start + SAMPLE_BYTES]).data)
    if labels is not None:
        digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()


def write_rows(source: Source, shape: Shape, path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Decode everything into a .npy at path in the source's order; returns good names and (name, reason)."""
    names: list[str] = []
    problems: list[tuple[str, str]] = []
    progress = Progress(f"decoding {source.where}", None)
    try:
        with path.open("wb") as file:
            file.write(npy_header((0, *shape)))
            for chunk in source.chunks(shape):
                file.write(chunk.pixels.data if chunk.pixels.flags.c_contiguous else chunk.pixels.tobytes())
                names += chunk.names
                problems += chunk.problems
                progress.total = source.n_images
                progress.update(len(chunk.names) + len(chunk.problems))
                if len(problems) > HOPELESS and n_damaged(problems) > len(names):
                    break
            file.seek(0)
            file.write(npy_header((len(names), *shape)))
    finally:
        progress.close()
    return names, problems


def n_damaged(problems: list[tuple[str, str]]) -> int:
    """How many are images; macOS adds a ._ file to each, which is listed, but says nothing about it, nor do links."""
    return sum(not reason.startswith(("macOS", LINK)) for _, reason in problems)


def check_problems(source: Source, n_good: int, problems: list[tuple[str, str]]) -> None:
    """List what cannot be used; raise UserError when nothing is left or too much is missing."""
    if not n_good and not problems:
        raise UserError(f"{source.where} holds no images")
    lines = [f"  {shown(name)}: {shown(reason)}" for name, reason in problems[:LISTED]]
    if len(problems) > LISTED:
        lines.append(f"  ... and {len(problems) - LISTED:,} more")
    if problems:
        say(
            "\n".join(
                [
                    f"warning: {len(problems):,} files of {source.where} cannot be used and are left out:",
                    *lines,
                ]
            )
        )
    n_bad = n_damaged(problems)
    if not n_good or n_bad > MAX_BAD_SHARE * (n_good + n_bad):
        name, reason = next((p for p in problems if n_damaged([p])), problems[0])
        raise UserError(
            f"{n_bad:,} of {n_good + n_bad:,} images of {source.where} are unreadable, more than "
            f"{MAX_BAD_SHARE:.0%} (the first: {shown(name)}: {shown(reason)}): mend or remove them"
        )


def reorder(path: Path, order: list[int], target: Path) -> None:
    """Write the rows of the .npy at path in another order, or only some of them."""
    images = np.load(path, mmap_mode="r")
    with target.open("wb") as file:
        file.write(npy_header((len(order), *images.shape[1:])))
        for start in range(0, len(order), ROWS):
            file.write(images[order[start : start + ROWS]].data)


def fingerprint(images: np.ndarray, labels: np.ndarray | None, label_names: tuple[str, ...]) -> str:
    """Hash of pixels and labels: equal wherever and whenever the same images were decoded."""
    digest = blake2b(repr((images.shape, label_names)).encode(), digest_size=16)
    for start in range(0, len(images), ROWS):
        digest.update(np.ascontiguousarray(images[start : start + ROWS]).data)
    if labels is not None:
        digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()


def fingerprints_of(path: Path, layout: Layout) -> dict[str, str]:
    """Fingerprint of each split and of all together."""
    images = np.load(path, mmap_mode="r")
    ranges = layout.splits if len(layout.splits) == 1 else layout.splits | {"all": (0, len(images))}
    prints = {
        name: fingerprint(
            images[a:b], None if layout.labels is None else layout.labels[a:b], layout.label_names
        )
        for name, (a, b) in ranges.items()
    }
    return prints if "all" in prints else prints | {"all": next(iter(prints.values()))}


def build(source: Source, shape: Shape, folder: Path, stem: str) -> None:
    """Decode the source into the cache `stem`, under temporary names; the images' rename is the commit."""
    temporary = [disk.temporary_of(folder / f"{stem}.{kind}") for kind in ("rows", "npy")]
    rows, images = temporary
    try:
        names, problems = write_rows(source, shape, rows)
        check_problems(source, len(names), problems)
        layout = source.layout(names)
        for note in layout.notes:
            say(note)
        if layout.order == list(range(len(names))):
            images = rows
        else:
            reorder(rows, layout.order, images)
        about = {
            "files": [names[i] for i in layout.order],
            "splits": layout.splits,
            "label_names": layout.label_names,
            "fingerprints": fingerprints_of(images, layout),
            "problems": problems,
            "sample": sampled(np.load(images, mmap_mode="r"), layout.labels),
            "scale": getattr(source, "scale", None),
        }
        disk.put(folder / f"{stem}.json", json.dumps(about))
        if layout.labels is not None:
            # a file, as np.save gives a name its own suffix
            with disk.replacing(folder / f"{stem}.labels.npy") as labels, labels.open("wb") as file:
                np.save(file, layout.labels)
        disk.settle(images, folder / f"{stem}.npy")
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def build_or_blame(source: Source, shape: Shape, folders: list[Path], stem: str) -> Path:
    """Build in the first folder that can be written to; returns it. Raises UserError on a full disk."""
    folder = usable_folder(folders)
    if folder != folders[0]:
        open_to_others = folders[0].is_dir() and not trusted_folder(folders[0])
        reason = "can be changed by others" if open_to_others else "cannot be written to"
        say(f"warning: {folders[0]} {reason}; decoded images are kept in {folder}")
    try:
        build(source, shape, folder, stem)
    except BrokenProcessPool:
        raise UserError(f"a process that decoded {source.where} was killed: is the memory full?") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason = shown(error.strerror or str(error))
            raise UserError(
                f"decoded images cannot be kept in {folder} ({reason}): give another --cache_dir"
            ) from error
        free = shutil.disk_usage(folder).free / 2**30
        raise UserError(
            f"no space for decoded images in {folder} ({free:.1f} GiB free): give another --cache_dir"
        ) from error
    return folder


def load_table(
    find: Callable[[], Source | None], shape: Shape, cache_dir: str | Path | None, is_main: bool
) -> Table:
    """The decoded images of a source; the main process builds what is missing, the others wait however long.

    find: gives the source, or None while it is not there yet; asked again at each look, because the main
    process may still be downloading.
    """
    folders = cache_dirs(cache_dir)
    for folder in folders if is_main else ():
        disk.remove_stale(folder)  # of builds that were killed
    while True:
        source = find()
        if source is not None:
            stem = stem_of(source, shape)
            for folder in folders:
                if (table := open_table(folder, stem, loud=is_main)) is not None:
                    return table
            if is_main:
                table = open_table(build_or_blame(source, shape, folders, stem), stem)
                assert table is not None
                return table
        assert not is_main, "the main process brings its source"
        time.sleep(0.2)
