"""Tar streams, packed or not, read front to back: every size is checked before anything of that size is read."""

import bz2
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

BLOCK = 512
PACKED_BYTES = 2**14  # of a packed file, read at a time
MAX_NAME = 1024  # bytes: longer paths do not even fit on all systems
MAX_RECORD = 2**20  # bytes of a pax header: a name, times, and now and then an attribute of 64 KiB
MAX_HEADERS = 8  # long names and pax headers before one member: 3 are usual at most
MAX_DICTIONARY = 2**28  # bytes of memory for an .xz: `xz -9` needs a quarter of it
REGULAR, FOLDER = (b"0", b"\0", b"7"), b"5"
HARD_LINK, SYMBOLIC_LINK = b"1", b"2"
LINKS_AND_DEVICES = b"12346"
LONG_NAME, LONG_LINK, SPARSE, PAX, SOLARIS_PAX, GLOBAL_PAX = b"L", b"K", b"S", b"x", b"X", b"g"
_OCTAL = re.compile(rb"[0-7]*")


class Damaged(ValueError):
    """A stream that is no whole tar."""


class Refused(ValueError):
    """A tar that asks for too much, or is of a kind that is not read here; its text is the reason."""


class Inflate:
    """Unpacks a .gz as bz2's and lzma's decompressors do theirs."""

    def __init__(self) -> None:
        self.inner = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most max_length bytes; what was not used of data is in `rest`."""
        return self.inner.decompress(data, max_length)

    @property
    def rest(self) -> bytes:
        """What the last call left of its data, to be given again."""
        return self.inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        """Whether the stream has ended, its checksum being right."""
        return self.inner.eof

    @property
    def unused_data(self) -> bytes:
        """What came after the end."""
        return self.inner.unused_data


UNPACK: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": Inflate,
    b"BZ": bz2.BZ2Decompressor,
    b"\xfd7": lambda: lzma.LZMADecompressor(memlimit=MAX_DICTIONARY),
}


class Unpacked(io.RawIOBase):
    """The content of a .gz, .bz2 or .xz of one stream or several; no more of it is unpacked than is asked for."""

    def __init__(self, file: BinaryIO, new: Callable[[], Any]) -> None:
        self.file, self.new = file, new
        self.decoder, self.pending = new(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill some of the buffer; EOFError where the file ends within a stream."""
        while not self.decoder.eof or self._next_stream():
            data = self.decoder.decompress(self.pending, len(buffer))
            self.pending = getattr(self.decoder, "rest", b"")
            if data:
                buffer[: len(data)] = data
                return len(data)
            if not self.decoder.eof and not self.pending:
                self.pending = self.file.read(PACKED_BYTES)
                if not self.pending:
                    raise EOFError("it ends too early")
        return 0

    def _next_stream(self) -> bool:
        """Go on with the stream behind this one, after zeros if there are any; False at the end of the file."""
        rest = self.decoder.unused_data.lstrip(b"\0")
        while not rest:
            piece = self.file.read(PACKED_BYTES)
            if not piece:
                return False
            rest = piece.lstrip(b"\0")
        self.decoder, self.pending = self.new(), rest
        return True


def unpacked(file: BinaryIO) -> BinaryIO:
    """What an open file holds, unpacked if it is a .gz, .bz2 or .xz."""
    new = UNPACK.get(file.read(2))
    file.seek(0)
    return file if new is None else io.BufferedReader(Unpacked(file, new), 2**17)


@dataclass(frozen=True)
class Entry:
    """A member of a tar: its name, the letter of its kind, its bytes, and where a link leads."""

    name: str
    kind: bytes
    size: int
    link: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.kind in REGULAR

    @property
    def is_link_or_device(self) -> bool:
        """Whether it names something else than a file or folder of its own."""
        return self.kind in LINKS_AND_DEVICES


def text_of(name: bytes) -> str:
    """A name as text; bytes that are no UTF-8 are escaped."""
    return name.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def number(field: bytes) -> int:
    """A number of a header: octal digits, or, with the first bit set, binary. Damaged."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if not _OCTAL.fullmatch(digits):
        raise Damaged("unreadable header")
    return int(digits or b"0", 8)


def parse_header(block: bytes) -> Entry:
    """The member that 512 bytes describe; Damaged if their checksum is wrong."""
    found = number(block[148:156])
    total = sum(block) - sum(block[148:156]) + 256
    # some writers took bytes for signed
    if found != total and found != total - 256 * sum(b > 127 for b in block[:148] + block[156:]):
        raise Damaged("unreadable header")
    name, kind = block[:100].split(b"\0", 1)[0], block[156:157]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    if kind == b"\0" and name.endswith(b"/"):  # as tar wrote folders before it had a letter for them
        kind = FOLDER
    return Entry(text_of(name), kind, number(block[124:136]), text_of(block[157:257]))


def is_header(block: bytes) -> bool:
    """Whether a file that begins with this is a tar."""
    try:
        return len(block) == BLOCK and block.strip(b"\0") != b"" and parse_header(block) is not None
    except Damaged:
        return False


def pax_records(data: bytes) -> dict[bytes, bytes]:
    """Keys and values of a pax header, "length key=value" each. Damaged."""
    records, at = {}, 0
    while at < len(data) and data[at]:
        digits = data[at : at + 8].split(b" ", 1)[0]
        if not re.fullmatch(rb"\d{1,7}", digits):
            raise Damaged("unreadable pax header")
        end = at + int(digits)
        key, equals, value = data[at + len(digits) + 1 : end].partition(b"=")
        if not equals or not value.endswith(b"\n") or end > len(data):
            raise Damaged("unreadable pax header")
        records[key] = value[:-1]
        at = end
    return records


class Tar:
    """The members of a tar one after the other, and, until the next is asked for, the content of each.

    limit: bytes of the stream. Damaged, Refused, and what unpacking raises.
    """

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.stream, self.limit, self.n_read = stream, limit, 0
        self.size = self.padded = 0  # bytes of the current member, and those of it that are not read yet

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry
            self._skip(self.padded)
        # a damaged packed stream shows at its end
        while rest := self._piece(2**20):
            if rest.strip(b"\0"):
                raise Damaged("unreadable header")

    def read(self, n: int | None = None) -> bytes:
        """The content of the current member, or its first n bytes."""
        n = self.size if n is None else min(n, self.size)
        data = self._exactly(n)
        self.padded -= n
        return data

    def _next(self) -> Entry | None:
        """The next member with what the headers before it say of it; None at the end."""
        name, size, link = None, None, None
        for _ in range(MAX_HEADERS + 1):
            block = self._piece(BLOCK)
            if not block.strip(b"\0") and len(block) in (0, BLOCK):
                return None
            if len(block) < BLOCK:
                raise Damaged("truncated header")
            entry = parse_header(block)
            self._enter(entry.size)
            if entry.kind == SPARSE:
                raise Refused("has a sparse file: repack it without --sparse")
            if entry.kind == LONG_NAME:
                name = self._record(MAX_NAME + 1)
            elif entry.kind in (PAX, SOLARIS_PAX):
                records = pax_records(self._record(MAX_RECORD))
                if any(key.startswith(b"GNU.sparse") for key in records):
                    raise Refused("has a sparse file: repack it without --sparse")
                name, size = records.get(b"path", name), records.get(b"size", size)
                link = records.get(b"linkpath", link)
            elif entry.kind == LONG_LINK:
                link = self._record(MAX_NAME + 1)
            elif entry.kind != GLOBAL_PAX:
                return self._described(entry, name, size, link)
            self._skip(self.padded)
        raise Refused(f"has more than {MAX_HEADERS} headers before a member")

    def _described(self, entry: Entry, name: bytes | None, size: bytes | None, link: bytes | None) -> Entry:
        """A member under its long name and with its large size; kinds without content have none."""
        plain = entry.name if name is None else text_of(name)
        if len(plain) > MAX_NAME:
            raise Refused(f"has a name of more than {MAX_NAME} characters")
        n_bytes = entry.size
        if size is not None:
            if not re.fullmatch(rb"\d{1,19}", size):
                raise Damaged("unreadable pax header")
            n_bytes = int(size)
        self._enter(0 if entry.kind in FOLDER + LINKS_AND_DEVICES else n_bytes)
        return Entry(plain, entry.kind, self.size, entry.link if link is None else text_of(link))

    def _enter(self, size: int) -> None:
        """Stand before `size` bytes of content."""
        self.size, self.padded = size, -(-size // BLOCK) * BLOCK

    def _record(self, limit: int) -> bytes:
        """The content of a header about the next member."""
        if self.size > limit:
            raise Refused(f"has a header of {self.size:,} bytes, where {limit:,} are the most")
        return self.read()

    def _exactly(self, n: int) -> bytes:
        data = self._piece(n)
        if len(data) < n:
            raise Damaged("unexpected end of data")
        return data

    def _skip(self, n: int) -> None:
        while n > 0:
            n -= len(self._exactly(min(n, 2**16)))

    def _piece(self, n: int) -> bytes:
        """The next n bytes, fewer at the end."""
        data = self.stream.read(n)
        self.n_read += len(data)
        if self.n_read > self.limit:
            raise Refused(f"unpacks to more than {self.limit:,} bytes: a decompression bomb")
        return data
