"""The files of a folder, .zip or .tar(.gz): read once, in memory; nothing is extracted or followed."""

import bz2
import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from errors import UserError
from images.decoding import MAX_FILE_BYTES, SUFFIXES, BadImage, Member, is_html

MAX_EXPANSION = 100  # images hardly compress: more than this times the archive's size is an attack
MIN_TOTAL_BYTES = 2**30  # below this no expansion is worth refusing
TEXTS = re.compile(r"list_(attr|eval_partition)\w*\.(txt|csv)", re.IGNORECASE)
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
UNPACK: dict[bytes, Callable[[Path], BinaryIO]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
)

Stamp = tuple[str, int, int]  # name, bytes, time of change in ns


def stamp_of(path: Path, name: str) -> Stamp:
    """What tells a changed file from an unchanged one."""
    status = path.stat()
    return name, status.st_size, status.st_mtime_ns


def checked_name(name: str, archive: Path) -> str:
    """A member's name with forward slashes; raises UserError if it points outside of the archive."""
    plain = name.replace("\\", "/")
    if plain.startswith("/") or re.match("[A-Za-z]:", plain) or ".." in plain.split("/"):
        raise UserError(
            f"{archive}: member {name!r} points outside the archive; refused, repack it with plain names"
        )
    return str(PurePosixPath(plain))


class Files:
    """Image members and label texts under one path, sorted out by name alone; subclasses read them.

    After `members` ran through, `texts` holds the label lists by base name, `problems` what is listed but
    is no image (macOS's ._ files), `ignored` the other files counted by suffix.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_images: int | None = None  # known after listing, None where only reading tells
        self.texts: dict[str, str] = {}
        self.problems: list[tuple[str, str]] = []
        self.ignored: Counter[str] = Counter()

    def texts_beside(self) -> list[Path]:
        """Label lists in the same folder as the path: CelebA's stand beside its images."""
        folder = self.path.absolute().parent
        try:
            return sorted(p for p in folder.iterdir() if TEXTS.fullmatch(p.name) and p.is_file())
        except OSError:  # a folder that may be passed through but not listed
            return []

    def wanted(self, name: str) -> bool:
        """Whether this name is an image's or a label list's; keeps count of the others."""
        path = PurePosixPath(name)
        if path.name.startswith("._"):
            self.problems.append((name, "macOS resource fork, not an image"))
        elif path.name.startswith(".") or "__MACOSX" in path.parts:
            return False
        elif path.suffix.lower() in SUFFIXES or TEXTS.fullmatch(path.name):
            return True
        else:
            self.ignored[path.suffix.lower() or path.name] += 1
        return False

    def kept_text(self, name: str, data: bytes) -> bool:
        """Keep a label list by its base name; False for anything else."""
        base = PurePosixPath(name).name
        if TEXTS.fullmatch(base):
            self.texts.setdefault(base, data.decode("utf-8-sig", errors="replace"))
            return True
        return False

    def stamp(self) -> list[Stamp]:
        """Names, sizes and times of what `members` reads."""
        return [
            stamp_of(self.path, self.path.name),
            *(stamp_of(p, f"../{p.name}") for p in self.texts_beside()),
        ]

    def read(self) -> Iterator[Member]:
        """The images in a fixed order, texts put aside; subclasses."""
        raise AssertionError

    def members(self) -> Iterator[Member]:
        """The images in a fixed order; lists inside win over those beside. Raises UserError on damage."""
        n_read = 0
        try:
            for member in self.read():
                yield member
                n_read += 1
        except DAMAGE as error:
            text = str(error) or type(error).__name__
            raise UserError(
                f"{self.path} is damaged or incomplete after {n_read:,} images ({text}): get it again"
            ) from error
        if not self.texts:
            for path in self.texts_beside():
                self.kept_text(path.name, path.read_bytes())


class Folder(Files):
    """A folder with images at any depth."""

    def listing(self) -> list[str]:
        """Every file below, sorted, as posix paths; links to folders are followed, each folder once."""
        seen, found = set(), []
        for base, folders, files in os.walk(self.path, followlinks=True):
            real = os.path.realpath(base)
            folders[:] = [] if real in seen else [f for f in folders if not f.startswith(".")]
            if real not in seen:
                relative = Path(base).relative_to(self.path)
                found += [(relative / f).as_posix() for f in files]
            seen.add(real)
        return sorted(found)

    def wanted_names(self) -> list[str]:
        """Names of images and label lists."""
        self.problems, self.ignored = [], Counter()
        return [name for name in self.listing() if self.wanted(name)]

    def stamp(self) -> list[Stamp]:
        names = self.wanted_names()
        stamps = []
        for name in names:
            try:
                stamps.append(stamp_of(self.path / name, name))
            except OSError:  # a dangling link: the scan will list it
                stamps.append((name, -1, 0))
        return stamps + [stamp_of(p, f"../{p.name}") for p in self.texts_beside()]

    def read(self) -> Iterator[Member]:
        names = self.wanted_names()
        self.n_images = len(names)
        for name in names:
            if TEXTS.fullmatch(PurePosixPath(name).name):
                self.kept_text(name, (self.path / name).read_bytes())
            else:
                yield Member(name, self.path / name)


class ZipArchive(Files):
    """A .zip, read by name."""

    def checked(self, archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
        """Wanted (name, entry), sorted; links, passwords, paths outside and bombs are refused first."""
        entries, total = [], 0
        for info in archive.infolist():
            name = checked_name(info.filename, self.path)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise UserError(
                    f"{self.path}: member {name!r} is a link; refused, repack it with plain files"
                )
            if info.is_dir() or not self.wanted(name):
                continue
            if info.flag_bits & 1:
                raise UserError(f"{self.path} is protected by a password: unpack it and give the folder")
            total += info.file_size
            entries.append((name, info))
        check_total(self.path, total)
        return sorted(entries, key=lambda entry: entry[0])

    def read_entry(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | BadImage:
        """The entry's bytes, or why not; never more than the cap, whatever its header promises."""
        try:
            with archive.open(info) as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            return BadImage(f"damaged in the archive: {error}")
        return data if len(data) <= MAX_FILE_BYTES else BadImage(f"larger than {MAX_FILE_BYTES >> 20} MiB")

    def read(self) -> Iterator[Member]:
        with zipfile.ZipFile(self.path) as archive:
            entries = self.checked(archive)
            self.n_images = len(entries)
            for name, info in entries:
                data = self.read_entry(archive, info)
                if isinstance(data, BadImage) or not self.kept_text(name, data):
                    yield Member(name, data)


class TarArchive(Files):
    """A .tar, packed or not: a stream, since a .gz cannot be read out of order without unpacking it again."""

    def read(self) -> Iterator[Member]:
        total = 0
        with open_packed(self.path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for info in archive:
                archive.members = []  # tarfile keeps every header otherwise: 200 MB for CelebA
                name = checked_name(info.name, self.path)
                if info.issym() or info.islnk() or info.isdev():
                    raise UserError(
                        f"{self.path}: member {name!r} is a link or device; refused, repack with plain files"
                    )
                total += info.size
                check_total(self.path, total)
                if not info.isfile() or not self.wanted(name):
                    continue
                data = self.read_entry(archive, info)
                if isinstance(data, BadImage) or not self.kept_text(name, data):
                    yield Member(name, data)
            # tarfile takes a damaged header for the end; reading on also makes gzip compare its checksum
            while rest := stream.read(2**20):
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("unreadable header")

    def read_entry(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes | BadImage:
        """The entry's bytes, or why not."""
        if info.size > MAX_FILE_BYTES:
            return BadImage(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        file = archive.extractfile(info)
        assert file is not None  # a regular file
        return file.read()


def check_total(path: Path, total: int) -> None:
    """Refuse an archive that unpacks to far more than images can."""
    if total > max(MIN_TOTAL_BYTES, MAX_EXPANSION * path.stat().st_size):
        raise UserError(
            f"{path} unpacks to more than {MAX_EXPANSION} times its size: refused as a decompression bomb"
        )


def open_packed(path: Path) -> BinaryIO:
    """The file's bytes, unpacked if it is a .gz, .bz2 or .xz."""
    with path.open("rb") as file:
        start = file.read(2)
    return UNPACK.get(start, lambda p: p.open("rb"))(path)


def open_archive(path: Path) -> Files:
    """The archive at path, its kind told by its first bytes. Raises UserError for anything else."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise UserError(f"{path} is an empty file")
    if is_html(head):
        raise UserError(
            f"{path} is a web page, not an archive: a server (often Google Drive over its quota) sent a page "
            "instead of the file; delete it, download it again in a browser and give that file"
        )
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return ZipArchive(path)
    if head[:2] in UNPACK or tarfile.is_tarfile(path):
        return TarArchive(path)
    raise UserError(f"{path} is neither a .zip nor a .tar, .tar.gz of images (nor a folder)")


def open_files(path: Path) -> Files:
    """A folder, .zip or .tar(.gz) of images; a folder that holds just one archive stands for the archive.

    Raises UserError when nothing is there, nothing is in it, or it is something else.
    """
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder; --data takes a folder, .zip, .tar or .tar.gz of images"
        )
    if not path.is_dir():
        return open_archive(path)
    folder = Folder(path)
    names = folder.listing()
    if any(PurePosixPath(name).suffix.lower() in SUFFIXES for name in names):
        return folder
    archives = [name for name in names if name.lower().endswith(ARCHIVE_SUFFIXES)]
    if len(archives) == 1:
        return open_archive(path / archives[0])
    if archives:
        raise UserError(f"{path} holds no images but several archives: give one of {', '.join(archives[:5])}")
    raise UserError(
        f"{path} holds no images ({len(names)} files; images end in {' '.join(sorted(SUFFIXES))})"
    )
