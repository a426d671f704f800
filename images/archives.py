"""The files of a folder, .zip or .tar(.gz): read once, in memory; nothing is extracted or followed."""

import io
import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import islice
from pathlib import Path, PurePosixPath

from disk import Unreadable, is_temporary, open_regular, read_bytes
from errors import UserError, shown
from images import arrays, tars
from images.decoding import MAX_FILE_BYTES, SUFFIXES, BadImage, Member, is_html
from images.labels import is_side, side_label
from images.layout import CELEBA_FOLDER
from images.naming import (
    MAX_SIDE_BYTES,
    TEXTS,
    UNREAD,
    is_archive,
    is_junk,
    is_text,
    leads_inside,
    stray_arrays,
)
from images.stacks import members_of, members_of_file
from images.zips import packing_of, zip_name

MAX_EXPANSION = 100  # images hardly compress: more than this times the archive's size is an attack
MIN_TOTAL_BYTES = 2**30  # below this no expansion is worth refusing
MAX_MEMBERS = 1_500_000  # of an archive: their names are held in memory; ImageNet has 1.3 million
MAX_DIRECTORY = 2**27  # bytes of a .zip's list of members, 90 for each of them
LEAST_ENTRY, ENTRY_START = 46, b"PK\x01\x02"  # bytes of a member in that list, and how each begins
MAX_NAMES = 2**26  # characters of all names together: twice what ImageNet has
# Files that are no images are passed over: so many, or so many an image.
MAX_OTHERS, OTHERS_EACH = 100_000, 10
MAX_TEXT_BYTES = 2**26  # label lists together; CelebA's is 27 MB
LINK = "a link"  # begins the reason why a member was left out that is no picture of its own

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

    After `members` ran through, `texts` holds the label lists by name (those beside the path by base name), `sides` the
    labels that stand beside single images, by name, `problems` what is listed but is no image
    (macOS's ._ files), `ignored` the other files counted by suffix, of which `examples` has the first, `strays` the
    .npy that are left out beside other pictures.
    """

    # whether `some` gives the first, so that what comes later is not known before all is read
    first_alone = False
    by_dot = False  # whether files of a name up to the first dot are one sample, as in WebDataset's tars

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, shown(str(path))
        self.n_images: int | None = None  # known after listing, None where only reading tells
        self.chosen: Callable[[str], bool] | None = None
        self._clear()

    def _clear(self) -> None:
        self.texts: dict[str, str] = {}
        self.sides: dict[str, str] = {}
        self.text_bytes = self.n_wanted = self.n_others = self.n_characters = 0
        self.problems: list[tuple[str, str]] = []
        self.ignored: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.strays: set[str] = set()

    def part(self, chosen: Callable[[str], bool], where: str | None = None) -> "Files":
        """Of the same files those alone whose names are chosen, read anew; where: what messages call them.

        No .npy is a stray there: it was chosen.
        """
        part = copy(self)
        part.chosen, part.n_images = chosen, None
        part.where = self.where if where is None else where
        part._clear()
        return part

    def is_chosen(self, name: str) -> bool:
        """Whether a file of this name belongs to the part, if this is one."""
        return self.chosen is None or self.chosen(name)

    def strays_among(self, names: Sequence[str]) -> set[str]:
        """The .npy that are left out beside other pictures."""
        return stray_arrays(names) if self.chosen is None else set()

    def texts_beside(self) -> list[Path]:
        """CelebA's lists in the same folder as its images, and as nobody else's."""
        if not self.path.absolute().name.startswith(CELEBA_FOLDER):
            return []
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
        elif path.name.startswith(".") or is_temporary(path.name) or any(map(is_junk, path.parts[:-1])):
            return False
        elif path.suffix.lower() in SUFFIXES or is_text(name):
            return True
        else:
            self.ignore(name)
        return False

    def ignore(self, name: str) -> None:
        """Count a file that is no image."""
        path = PurePosixPath(name)
        suffix = path.suffix.lower() or path.name
        self.ignored[suffix] += 1
        self.examples.setdefault(suffix, name)

    def wanted_member(self, name: str) -> bool:
        """As wanted, for the next name of an archive; Refused where names or other files are too many."""
        if not self.is_chosen(name):
            return False
        wanted = self.wanted(name)
        if wanted:
            self.n_characters += len(name)
            if self.n_characters > MAX_NAMES:
                raise tars.Refused(f"has names of more than {MAX_NAMES:,} characters together")
        if wanted and not is_side(name):
            self.n_wanted += 1
            return True
        self.n_others += 1
        if self.n_others > max(MAX_OTHERS, OTHERS_EACH * self.n_wanted):
            raise tars.Refused(f"has {self.n_others:,} files that are no images: take the images out of it")
        return wanted

    def leave_link(self, name: str, target: str) -> None:
        """List a link that is not followed."""
        if (
            self.is_chosen(name)
            and PurePosixPath(name).suffix.lower() in SUFFIXES
            and len(self.problems) < MAX_MEMBERS
        ):
            self.problems.append((name, f"{LINK} to {shown(target, 80)}"))

    def keep_text(self, name: str, data: bytes) -> None:
        """Keep a label list, or what a file beside an image says; UserError for lists too large to be any."""
        if is_side(name):
            label = side_label(name, data)
            if label is None or len(self.sides) >= MAX_MEMBERS:
                self.ignore(name)
            else:
                self.sides[name] = label
            return
        self.text_bytes += len(data)
        if self.text_bytes > MAX_TEXT_BYTES:
            raise UserError(f"{self.where}: label lists of more than {MAX_TEXT_BYTES >> 20} MiB")
        self.texts.setdefault(name, data.decode("utf-8-sig", errors="replace"))

    def sorted_out(self, name: str, data: bytes | BadImage, whole: bool) -> Iterator[Member]:
        """The member as an image, or several of a stack, or none where it is a label list, which is kept.

        whole: it is not only its first bytes.
        """
        if is_side(name) and (isinstance(data, BadImage) or len(data) > MAX_SIDE_BYTES):
            self.ignore(name)
        elif is_text(name) and isinstance(data, bytes):
            self.keep_text(name, data)
        elif whole and isinstance(data, bytes) and name.lower().endswith(arrays.SUFFIX):
            yield from members_of(name, io.BytesIO(data), len(data))
        else:
            yield Member(name, data)

    def stamp(self) -> list[Stamp]:
        """Names, sizes and times of what `members` reads."""
        return [
            stamp_of(self.path, self.path.name),
            *(stamp_of(p, f"../{p.name}") for p in self.texts_beside()),
        ]

    def read(self, limit: int | None) -> Iterator[Member]:
        """The images in a fixed order, or the first `limit` bytes of each, texts put aside; subclasses."""
        raise AssertionError

    def some(self, n: int) -> Iterator[Member]:
        """Up to n images from all over the set where that is cheap, else the first. Raises UserError on damage."""
        yield from islice(self.members(), n)

    def nothing(self) -> UserError:
        """That there are no images, and what there is."""
        inside = {suffix: name for suffix, name in self.examples.items() if is_archive(name)}
        if inside:
            n, first = sum(self.ignored[suffix] for suffix in inside), next(iter(inside.values()))
            return UserError(
                f"{self.where} holds no images but archives inside ({n:,}, such as {shown(first, 80)}): unpack "
                "it, and give one of them or, with theirs unpacked too, the folder"
            )
        for suffix, n in self.ignored.most_common():
            if suffix in UNREAD:
                return UserError(
                    f"{self.where} holds no images that are read here, but {n:,} in {shown(suffix)}: {UNREAD[suffix]}"
                )
        return UserError(f"{self.where} holds no images{self.others()}")

    def others(self) -> str:
        """The commonest files that are no images, in brackets."""
        counts = ", ".join(f"{n:,} {shown(suffix, 40)}" for suffix, n in self.ignored.most_common(5))
        return f" (but {counts})" if counts else ""

    def members(self, limit: int | None = None) -> Iterator[Member]:
        """The images in a fixed order; lists inside win over those beside. limit: bytes of each that are read, None for
        all. Raises UserError on damage, and where there are none."""
        n_read = 0
        self._clear()
        try:
            for member in self.read(limit):
                yield member
                n_read += 1
            if not n_read and not self.problems:
                raise self.nothing()
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
            # what macOS puts there is listed with what it puts beside the others
            folders[:] = [] if real in seen else [f for f in folders if not is_junk(f) or f == "__MACOSX"]
            if real not in seen:
                relative = Path(base).relative_to(self.path)
                found += [(relative / f).as_posix() for f in files]
            seen.add(real)
        return sorted(found)

    def wanted_names(self) -> list[str]:
        """Names of images and label lists."""
        self.problems, self.ignored, self.examples = [], Counter(), {}
        names = [name for name in self.listing() if self.is_chosen(plain_name(name)) and self.wanted(name)]
        self.strays = self.strays_among([name for name in names if not is_text(name)])
        return [name for name in names if name not in self.strays]

    def stamp(self) -> list[Stamp]:
        names = self.wanted_names()
        stamps = []
        for name in names:
            try:
                stamps.append(stamp_of(self.path / name, name))
            except OSError:  # a dangling link: the scan will list it
                stamps.append((name, -1, 0))
        return stamps + [stamp_of(p, f"../{p.name}") for p in self.texts_beside()]

    def some(self, n: int) -> Iterator[Member]:
        names = [name for name in self.wanted_names() if not is_text(name)]
        for name in evenly(names, n):
            yield from islice(self._member(name, None), -(-n // min(n, len(names))))

    def read(self, limit: int | None) -> Iterator[Member]:
        names = self.wanted_names()
        self.n_images = sum(not is_text(name) for name in names)
        for name in names:
            if is_text(name):
                self._keep(name)
            else:
                yield from self._member(name, limit)

    def _keep(self, name: str) -> None:
        """Keep a label list; one that cannot be read is a problem of its own, what is too large for one is no list."""
        try:
            self.keep_text(plain_name(name), read_bytes(self.path / name, most_text(name)))
        except Unreadable as error:
            if not is_side(name):
                raise error
            self.ignore(name)

    def _member(self, name: str, limit: int | None) -> Iterator[Member]:
        """An image as its path, or its first bytes where that is asked for; those of a stack one by one."""
        path, plain = self.path / name, plain_name(name)
        if limit is not None:
            yield Member(plain, head_of(path, limit))
        elif name.lower().endswith(arrays.SUFFIX):
            yield from members_of_file(plain, path)
        else:
            yield Member(plain, path)


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
        """Wanted (name, entry), sorted; passwords, other packings, paths outside and bombs are refused first, and links
        that lead outside; other links are left out."""
        entries, total = [], 0
        for info in archive.infolist():
            name = checked_name(zip_name(info), self.path)
            if stat.S_ISLNK(info.external_attr >> 16):
                target = self.read_entry(archive, info, tars.MAX_NAME)
                if not isinstance(target, bytes) or not leads_inside(name, tars.text_of(target)):
                    raise UserError(
                        f"{self.where}: member {shown(name)} is a link; refused, repack it with plain files"
                    )
                self.leave_link(name, tars.text_of(target))
                continue
            if info.filename.endswith("/") or not self.wanted_member(name):
                continue
            if info.flag_bits & 1:
                raise UserError(f"{self.where} is protected by a password: unpack it and give the folder")
            if (how := packing_of(info)) is not None:
                raise UserError(
                    f"{self.where} is packed by {how}, which Python does not unpack: repack it by deflate, as `zip -r` "
                    "does, or unpack it and give the folder"
                )
            total += info.file_size
            entries.append((name, info))
        check_total(self.path, total)
        self.strays = self.strays_among([name for name, _ in entries if not is_text(name)])
        kept = [entry for entry in entries if entry[0] not in self.strays]
        return sorted(kept, key=lambda entry: entry[0])

    def read_entry(
        self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int | None = None
    ) -> bytes | BadImage:
        """The entry's bytes, or its first `limit`, or why not; no more than the cap, whatever its header promises."""
        try:
            with archive.open(info) as file:
                data = file.read(MAX_FILE_BYTES + 1) if limit is None else file.read1(limit)
        except Exception as error:  # zipfile and its decompressors raise almost anything on damage
            return BadImage(f"damaged in the archive: {shown(str(error), 120) or type(error).__name__}")
        return data if len(data) <= MAX_FILE_BYTES else BadImage(f"larger than {MAX_FILE_BYTES >> 20} MiB")

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        with Careful(open_regular(self.path).detach()) as file, zipfile.ZipFile(file) as archive:
            yield archive

    def read(self, limit: int | None) -> Iterator[Member]:
        with self._open() as archive:
            entries = self.checked(archive)
            self.n_images = sum(not is_text(name) for name, _ in entries)
            for name, info in entries:
                data = self.read_entry(archive, info, None if is_text(name) else limit)
                yield from self.sorted_out(name, data, limit is None)

    def some(self, n: int) -> Iterator[Member]:
        try:
            with self._open() as archive:
                entries = [entry for entry in self.checked(archive) if not is_text(entry[0])]
                for name, info in evenly(entries, n):
                    yield from self.sorted_out(name, self.read_entry(archive, info), True)
        except UserError:
            raise
        except Exception:  # whatever zipfile raises: it is told where all of the archive is read
            return


class TarArchive(Files):
    """A .tar, packed or not: a stream, since a .gz cannot be read out of order without unpacking it again."""

    first_alone = by_dot = True

    def read(self, limit: int | None) -> Iterator[Member]:
        seen: set[str] = set()
        looked = False
        with open_regular(self.path) as file, tars.unpacked(file) as stream:
            archive = tars.Tar(stream, most_bytes(self.path))
            for n_members, entry in enumerate(archive):
                if n_members == MAX_MEMBERS:
                    raise tars.Refused(
                        f"has more than {MAX_MEMBERS:,} members: unpack it and give the folder"
                    )
                name = checked_name(entry.name, self.path)
                if entry.is_link_or_device:
                    if not self.harmless(entry, name, seen):
                        raise UserError(
                            f"{self.where}: member {shown(name)} is a link or device; refused, "
                            "repack with plain files"
                        )
                    self.leave_link(name, entry.link)
                    continue
                seen.add(name)
                if not entry.is_file or not self.wanted_member(name):
                    continue
                if name.lower().endswith(arrays.SUFFIX):
                    looked = looked or self.look_for_strays()
                    if name in self.strays:
                        continue
                large = entry.size > MAX_FILE_BYTES
                part = None if is_text(name) else limit
                data = BadImage(f"larger than {MAX_FILE_BYTES >> 20} MiB") if large else archive.read(part)
                yield from self.sorted_out(name, data, part is None)

    def look_for_strays(self) -> bool:
        """Find the .npy that are left out, by the names of all members."""
        other = Files(self.path)
        with open_regular(self.path) as file, tars.unpacked(file) as stream:
            members = islice(tars.Tar(stream, most_bytes(self.path)), MAX_MEMBERS)
            names = [checked_name(entry.name, self.path) for entry in members if entry.is_file]
        self.strays = self.strays_among([name for name in names if other.wanted(name) and not is_text(name)])
        return True

    def harmless(self, entry: tars.Entry, name: str, seen: set[str]) -> bool:
        """Whether a member is a link to another one, which can be left out: it is not followed in any case."""
        if entry.kind == tars.HARD_LINK:
            return entry.link.replace("\\", "/").removeprefix("./") in seen
        return entry.kind == tars.SYMBOLIC_LINK and leads_inside(name, entry.link)


class Stack(Files):
    """A .npy of pictures of one shape."""

    def read(self, limit: int | None) -> Iterator[Member]:
        members = members_of_file(self.path.name, self.path, alone=True)
        yield from (member for member in members if self.is_chosen(member.name))


def plain_name(name: str) -> str:
    """A file's name as text, whatever its bytes are."""
    return tars.text_of(os.fsencode(name))


def evenly(items: Sequence, n: int) -> Sequence:
    """n items from all over the sequence, or all there are."""
    return items if len(items) <= n else [items[i * len(items) // n] for i in range(n)]


def head_of(path: Path, limit: int) -> bytes | BadImage:
    """The first bytes of a file, or why there are none."""
    try:
        with open_regular(path) as file:
            return file.read(limit)
    except (Unreadable, OSError) as error:
        return BadImage(shown(str(error), 120))


def most_text(name: str) -> int:
    """Bytes that a file of labels may have."""
    return MAX_SIDE_BYTES if is_side(name) else MAX_TEXT_BYTES


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
    if head[:6] == arrays.NPY:
        return Stack(path)
    raise UserError(f"{where} is neither a .zip nor a .tar, .tar.gz, .npy of images (nor a folder)")


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
    archives = [name for name in names if is_archive(name)]
    if len(archives) == 1:
        return open_archive(path / archives[0])
    if archives:
        several = shown(", ".join(archives[:5]))
        raise UserError(f"{where} holds no images but several archives: give one of {several}")
    folder.wanted_names()
    if any(suffix in UNREAD for suffix in folder.ignored):
        raise folder.nothing()
    raise UserError(
        f"{where} holds no images ({len(names)} files; images end in {' '.join(sorted(SUFFIXES))})"
    )
