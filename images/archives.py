"""The files of a folder, .zip or .tar(.gz): read once, in memory; nothing is extracted or followed."""

import io
import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from disk import is_temporary, open_regular, read_bytes
from errors import UserError, shown
from images import tars
from images.decoding import MAX_FILE_BYTES, SUFFIXES, BadImage, Member, is_html

MAX_EXPANSION = 100  # images hardly compress: more than this times the archive's size is an attack
MIN_TOTAL_BYTES = 2**30  # below this no expansion is worth refusing
MAX_MEMBERS = 1_500_000  # of an archive: their names are held in memory; ImageNet has 1.3 million
MAX_DIRECTORY = 2**27  # bytes of a .zip's list of members, 90 for each of them
LEAST_ENTRY, ENTRY_START = 46, b"PK\x01\x02"  # bytes of a member in that list, and how each begins
MAX_NAMES = 2**26  # characters of all names together: twice what ImageNet has
# Files that are no images are passed over: so many, or so many an image.
MAX_OTHERS, OTHERS_EACH = 100_000, 10
MAX_TEXT_BYTES = 2**26  # label lists together; CelebA's is 27 MB
TEXTS = re.compile(r"list_(attr|eval_partition)\w*\.(txt|csv)", re.IGNORECASE)
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")

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
            f"{shown(str(archive))}: member {shown(name)} points outside the archive; refused, "
            "repack it with plain names"
        )
    return str(PurePosixPath(plain))


class Files:
    """Image members and label texts under one path, sorted out by name alone; subclasses read them.

    After `members` ran through, `texts` holds the label lists by base name, `problems` what is listed but
    is no image (macOS's ._ files), `ignored` the other files counted by suffix.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, shown(str(path))
        self.n_images: int | None = None  # known after listing, None where only reading tells
        self.texts: dict[str, str] = {}
        self.text_bytes = self.n_wanted = self.n_others = self.n_characters = 0
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
        elif path.name.startswith(".") or is_temporary(path.name) or "__MACOSX" in path.parts:
            return False
        elif path.suffix.lower() in SUFFIXES or is_text(name):
            return True
        else:
            self.ignored[path.suffix.lower() or path.name] += 1
        return False

    def wanted_member(self, name: str) -> bool:
        """As wanted, for the next name of an archive; Refused where names or other files are too many."""
        if self.wanted(name):
            self.n_wanted += 1
            self.n_characters += len(name)
            if self.n_characters > MAX_NAMES:
                raise tars.Refused(f"has names of more than {MAX_NAMES:,} characters together")
            return True
        self.n_others += 1
        if self.n_others > max(MAX_OTHERS, OTHERS_EACH * self.n_wanted):
            raise tars.Refused(f"has {self.n_others:,} files that are no images: take the images out of it")
        return False

    def keep_text(self, name: str, data: bytes) -> None:
        """Keep a label list by its base name; UserError for lists too large to be any."""
        self.text_bytes += len(data)
        if self.text_bytes > MAX_TEXT_BYTES:
            raise UserError(f"{self.where}: label lists of more than {MAX_TEXT_BYTES >> 20} MiB")
        self.texts.setdefault(PurePosixPath(name).name, data.decode("utf-8-sig", errors="replace"))

    def sorted_out(self, name: str, data: bytes | BadImage) -> Iterator[Member]:
        """The member as an image, or none where it is a label list, which is kept."""
        if isinstance(data, bytes) and is_text(name):
            self.keep_text(name, data)
        else:
            yield Member(name, data)

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
        self.texts, self.problems, self.ignored = {}, [], Counter()
        self.text_bytes = self.n_wanted = self.n_others = self.n_characters = 0
        try:
            for member in self.read():
                yield member
                n_read += 1
        except UserError:
            raise
        except tars.Refused as error:
            raise UserError(f"{self.where} {error}; refused") from error
        except Exception as error:  # the readers of damaged archives raise almost anything
            text = shown(str(error), 120) or type(error).__name__
            raise UserError(
                f"{self.where} is damaged or incomplete after {n_read:,} images ({text}): get it again"
            ) from error
        if not self.texts:
            for path in self.texts_beside():
                self.keep_text(path.name, read_bytes(path, MAX_TEXT_BYTES))


class Folder(Files):
    """A folder with images at any depth."""

    def listing(self) -> list[str]:
        """Every file below, sorted, as posix paths; links to folders are followed, each folder once.

        UserError for a folder that cannot be listed: its images would be missing without a word.
        """
        seen, found = set(), []
        for base, folders, files in os.walk(self.path, followlinks=True, onerror=refuse_unlisted):
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
            if is_text(name):
                self.keep_text(name, read_bytes(self.path / name, MAX_TEXT_BYTES))
            else:
                yield Member(tars.text_of(os.fsencode(name)), self.path / name)


class Careful(io.BufferedReader):
    """A .zip of which no long list of members is read: zipfile takes the list's size from the file, and holds all."""

    def read(self, n: int | None = -1, /) -> bytes:
        """As any file's; UserError for more than a list of MAX_MEMBERS members needs."""
        data = super().read(n if n is not None and 0 <= n <= MAX_DIRECTORY else MAX_DIRECTORY + 1)
        # no member's content is that long: what is, is the list
        long = len(data) > MAX_MEMBERS * LEAST_ENTRY and data.count(ENTRY_START) > MAX_MEMBERS
        if long or len(data) > MAX_DIRECTORY:
            raise tars.Refused(f"has more than {MAX_MEMBERS:,} members: unpack it and give the folder")
        return data


class ZipArchive(Files):
    """A .zip, read by name."""

    def checked(self, archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
        """Wanted (name, entry), sorted; links, passwords, paths outside and bombs are refused first."""
        entries, total = [], 0
        for info in archive.infolist():
            name = checked_name(info.filename, self.path)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise UserError(
                    f"{self.where}: member {shown(name)} is a link; refused, repack it with plain files"
                )
            if info.filename.endswith("/") or not self.wanted_member(name):
                continue
            if info.flag_bits & 1:
                raise UserError(f"{self.where} is protected by a password: unpack it and give the folder")
            total += info.file_size
            entries.append((name, info))
        check_total(self.path, total)
        return sorted(entries, key=lambda entry: entry[0])

    def read_entry(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | BadImage:
        """The entry's bytes, or why not; never more than the cap, whatever its header promises."""
        try:
            with archive.open(info) as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except Exception as error:  # zipfile and its decompressors raise almost anything on damage
            return BadImage(f"damaged in the archive: {shown(str(error), 120) or type(error).__name__}")
        return data if len(data) <= MAX_FILE_BYTES else BadImage(f"larger than {MAX_FILE_BYTES >> 20} MiB")

    def read(self) -> Iterator[Member]:
        with Careful(open_regular(self.path).detach()) as file, zipfile.ZipFile(file) as archive:
            entries = self.checked(archive)
            self.n_images = len(entries)
            for name, info in entries:
                yield from self.sorted_out(name, self.read_entry(archive, info))


class TarArchive(Files):
    """A .tar, packed or not: a stream, since a .gz cannot be read out of order without unpacking it again."""

    def read(self) -> Iterator[Member]:
        with open_regular(self.path) as file, tars.unpacked(file) as stream:
            archive = tars.Tar(stream, most_bytes(self.path))
            for n_members, entry in enumerate(archive):
                if n_members == MAX_MEMBERS:
                    raise tars.Refused(
                        f"has more than {MAX_MEMBERS:,} members: unpack it and give the folder"
                    )
                name = checked_name(entry.name, self.path)
                if entry.is_link_or_device:
                    raise UserError(
                        f"{self.where}: member {shown(name)} is a link or device; refused, "
                        "repack with plain files"
                    )
                if not entry.is_file or not self.wanted_member(name):
                    continue
                large = entry.size > MAX_FILE_BYTES
                data = BadImage(f"larger than {MAX_FILE_BYTES >> 20} MiB") if large else archive.read()
                yield from self.sorted_out(name, data)


def is_text(name: str) -> bool:
    """Whether this is the name of a label list."""
    return TEXTS.fullmatch(PurePosixPath(name).name) is not None


def refuse_unlisted(error: OSError) -> None:
    """UserError for a folder that cannot be listed."""
    raise UserError(
        f"the folder {shown(str(error.filename))} cannot be listed ({error.strerror}): give yourself the right to "
        "read it, or take it away"
    )


def most_bytes(path: Path) -> int:
    """How much an archive may unpack to: far more than images can."""
    return int(max(MIN_TOTAL_BYTES, MAX_EXPANSION * path.stat().st_size))


def check_total(path: Path, total: int) -> None:
    """Refuse an archive that says it unpacks to too much."""
    if total > most_bytes(path):
        where = shown(str(path))
        raise UserError(
            f"{where} unpacks to more than {MAX_EXPANSION} times its size: refused as a decompression bomb"
        )


def open_archive(path: Path) -> Files:
    """The archive at path, its kind told by its first bytes. Raises UserError for anything else."""
    where = shown(str(path))
    with open_regular(path) as file:
        head = file.read(tars.BLOCK)
    if not head:
        raise UserError(f"{where} is an empty file")
    if is_html(head):
        raise UserError(
            f"{where} is a web page, not an archive: a server (often Google Drive over its quota) sent a page "
            "instead of the file; delete it, download it again in a browser and give that file"
        )
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return ZipArchive(path)
    if head[:2] in tars.UNPACK or tars.is_header(head):
        return TarArchive(path)
    raise UserError(f"{where} is neither a .zip nor a .tar, .tar.gz of images (nor a folder)")


def open_files(path: Path) -> Files:
    """A folder, .zip or .tar(.gz) of images; a folder that holds just one archive stands for the archive.

    Raises UserError when nothing is there, nothing is in it, or it is something else.
    """
    where = shown(str(path))
    try:
        about = path.stat()
    except FileNotFoundError:
        raise UserError(
            f"{where}: no such file or folder; --data takes a folder, .zip, .tar or .tar.gz of images"
        ) from None
    except (OSError, ValueError) as error:  # no permission, links in a circle, a name too long or with a NUL
        raise UserError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISDIR(about.st_mode):
        return open_archive(path)
    folder = Folder(path)
    names = folder.listing()
    if any(PurePosixPath(name).suffix.lower() in SUFFIXES for name in names):
        return folder
    archives = [name for name in names if name.lower().endswith(ARCHIVE_SUFFIXES)]
    if len(archives) == 1:
        return open_archive(path / archives[0])
    if archives:
        several = shown(", ".join(archives[:5]))
        raise UserError(f"{where} holds no images but several archives: give one of {several}")
    raise UserError(
        f"{where} holds no images ({len(names)} files; images end in {' '.join(sorted(SUFFIXES))})"
    )
