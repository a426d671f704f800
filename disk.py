"""The one place that writes files, and the first look at every file that is read.

What is written appears whole or not at all; what is read is a regular file of bounded size, and json is what its reader
expects. Standard library, msgspec and filelock only.
"""

import contextlib
import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import filelock
import msgspec

from errors import UserError, shown

T = TypeVar("T")
AnyPath = str | os.PathLike[str]

JSON_LIMIT = 64 * 2**20  # bytes
LOCK, OWNER = "run.lock", "run.owner"  # in a run's folder: held by its process, and who that is
_TEMPORARY = re.compile(r"tmp-(?P<host>.+?)-(?P<pid>\d+)-.+")


class Unreadable(UserError):
    """A file that cannot be used: absent, no regular file, too large, or not what it should be."""


class Busy(UserError):
    """A folder that another process owns."""


# -- writing -------------------------------------------------------------------------------------------------------


def _host() -> str:
    """This machine's name as part of a file's."""
    return re.sub(r"[^\w.]", "_", socket.gethostname())[:32] or "host"


def temporary_of(path: AnyPath) -> Path:
    """Where this process writes what is to become `path`: beside it, so that a rename is enough."""
    path = Path(path)
    return path.with_name(f"tmp-{_host()}-{os.getpid()}-{path.name}")


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of an unfinished file."""
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def replacing(path: AnyPath) -> Iterator[Path]:
    """A file to write in place of `path`, which it replaces when the block ends well; else it is removed.

    Readers see the old file or the new one, after a power cut too. Its mode is that of any new file, whatever the
    writer made of it. OSError from the disk.
    """
    path = Path(path)
    temporary = temporary_of(path)
    try:
        with open(temporary, "wb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        yield temporary
        os.chmod(temporary, mode)
        settle(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def settle(temporary: Path, path: Path) -> None:
    """Rename a finished file to `path`, and wait until the disk has both its bytes and its name."""
    with open(temporary, "rb+") as file:  # Windows flushes what is open for writing alone
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename inside folder durable, where the system can open folders and sync them."""
    if os.name != "posix":
        return
    with contextlib.suppress(
        OSError
    ):  # some network file systems do not; the file itself is written all the same
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def put(path: AnyPath, content: str | bytes) -> None:
    """Write a whole file, text as UTF-8; OSError from the disk, which keeps what stood there."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def append_line(path: AnyPath, line: str) -> None:
    """Add a line, or leave the file as it was and raise OSError; what a kill left of a last line goes first."""
    data = line.encode() + b"\n"
    with open(path, "ab+", buffering=0) as file:
        start = _end_of_lines(file)
        file.truncate(start)
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(start)
            raise


def _end_of_lines(file: Any) -> int:
    """Bytes up to and with the last newline of an open file."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 4096)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def remove_stale(folder: AnyPath, *, owned: bool = False) -> None:
    """Remove the unfinished files that killed processes left in a folder; for a folder that may be missing, too.

    owned: nobody else writes there now (the caller holds its lock), so that all unfinished files go; else those of dead
    processes of this machine, and of this process's number, which then belonged to one before it.
    """
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            match = _TEMPORARY.fullmatch(entry.name)
            if match and (owned or match["host"] == _host() and not _lives(int(match["pid"]))):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _lives(pid: int) -> bool:
    """Whether another process of this number runs on this machine; True where that cannot be known."""
    if pid == os.getpid():
        return False
    if os.name != "posix":  # os.kill would end it there
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


# -- owning --------------------------------------------------------------------------------------------------------


@contextmanager
def locked(folder: AnyPath) -> Iterator[None]:
    """Own an existing folder; freed at the end of the block, or by the death of the process. Busy where it is owned."""
    folder = Path(folder)
    lock = filelock.FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise Busy(
            f"{folder} is in use by {_owner(folder)}: wait for it, stop it, or choose another name"
        ) from None
    try:
        put(folder / OWNER, f"{socket.gethostname()} {os.getpid()}\n")
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def _owner(folder: Path) -> str:
    """Who owns a folder, for people."""
    try:
        host, pid = read_text(folder / OWNER, 1000).split()
        return f"process {shown(pid)} on {shown(host)}"
    except (Unreadable, ValueError):
        return "another process"


# -- reading -------------------------------------------------------------------------------------------------------


def read_bytes(path: AnyPath, limit: int) -> bytes:
    """A regular file's content of at most `limit` bytes; nothing waits for a device or a pipe. Unreadable."""
    where = shown(str(path))
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise Unreadable(f"{where} is no regular file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1) if about.st_size <= limit else None
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unreadable(f"{where} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"{where} cannot be read: {error}") from None  # a NUL in its name
    if data is None or len(data) > limit:
        raise Unreadable(f"{where} is larger than {limit:,} bytes")
    return data


def read_text(path: AnyPath, limit: int) -> str:
    """As read_bytes, as UTF-8 text with or without a byte-order mark."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"{shown(str(path))} is no UTF-8 text (byte {error.start})") from None


def decode_json(data: str | bytes, kind: type[T], name: str) -> T:
    """Json as the type that its reader expects (a msgspec.Struct, a dataclass, dict[str, int], ...); Unreadable."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else shown(str(error))
        raise Unreadable(f"{shown(name)} is damaged: {reason}") from None


def read_json(path: AnyPath, kind: type[T], limit: int = JSON_LIMIT) -> T:
    """A json file as the type that its reader expects; Unreadable in one line, whatever it holds."""
    return decode_json(read_bytes(path, limit), kind, str(path))
