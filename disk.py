"""The one place that writes files, and the first look at every file that is read.

What is written appears whole or not at all; what is read is a regular file of bounded size, and json is what its reader
expects. Standard library and msgspec only.
"""

import contextlib
import errno
import itertools
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from errors import UserError, shown, tell

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # everything else
    msvcrt = None

T = TypeVar("T")
AnyPath = str | os.PathLike[str]

JSON_LIMIT = 64 * 2**20  # bytes
ABANDONED = 86400.0  # seconds
LOCK = "run.lock"  # in a run's folder: held by its process, whose host and number it says
TRIES = 20  # hundredths of a second
_LOCKED_BYTE = 2**30  # far behind what the file holds: Windows lets nobody read what is locked
MAX_NAME = 255  # bytes, of a file system
_TEMPORARY = re.compile(r"tmp-(?P<host>[A-Za-z0-9_.]{1,48})-(?P<pid>[1-9]\d*)-\d+x[0-9a-f]{8}-.+", re.DOTALL)


class Unreadable(UserError):
    """A file that cannot be used: absent, no regular file, too large, or not what it should be."""


class Busy(UserError):
    """A folder that another process owns."""


# -- writing -------------------------------------------------------------------------------------------------------


def _host() -> str:
    """As part of a file's name: this machine's, and where Linux says so the space in which its processes are numbered,
    for containers may share the former."""
    host = re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname())[:32] or "host"
    try:
        return host + "." + re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))[:15]
    except OSError:
        return host


_unfinished: set[str] = set()  # names of files that this process writes, or has written
_numbers = itertools.count(1)


def temporary_of(path: AnyPath) -> Path:
    """Where this process writes what is to become `path`: beside it, so that a rename is enough.

    A new name each time: threads write the same file at once, and so do containers whose hosts and numbers are equal.
    """
    path = Path(path)
    start = f"tmp-{_host()}-{os.getpid()}-{next(_numbers)}x{os.urandom(4).hex()}-"
    name = os.fsencode(path.name)[-(MAX_NAME - len(start)) :].decode(errors="ignore")  # with its suffix
    temporary = path.with_name(start + name)
    _unfinished.add(temporary.name)
    return temporary


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of an unfinished file."""
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def replacing(path: AnyPath, *, durable: bool = True) -> Iterator[Path]:
    """A file to write in place of `path`, which it replaces when the block ends well; else it is removed.

    Readers see the old file or the new one; after a power cut too, unless durable is False: thousands of pictures need
    not wait for the disk. Its mode is that of any new file, whatever the writer made of it. OSError from the
    disk.
    """
    path = Path(path)
    temporary = temporary_of(path)
    try:
        with open(temporary, "wb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        yield temporary
        os.chmod(temporary, mode)
        settle(temporary, path, durable=durable)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary.name)


def settle(temporary: Path, path: Path, *, durable: bool = True) -> None:
    """Rename a finished file to `path`; durable: wait until the disk has both its bytes and its name."""
    if durable:
        with open(temporary, "rb+") as file:  # Windows flushes what is open for writing alone
            os.fsync(file.fileno())
    os.replace(temporary, path)
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename inside folder durable, where the system can open folders and sync them."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # some network file systems do not; the file is written all the same
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def put(path: AnyPath, content: str | bytes) -> None:
    """Write a whole file, text as UTF-8; OSError from the disk, which keeps what stood there."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def append(path: AnyPath, data: bytes) -> None:
    """Add bytes to a file, all of them, or leave it as it was and raise OSError."""
    with open(path, "ab", buffering=0) as file:
        _add(file, data, file.seek(0, os.SEEK_END))


def append_line(path: AnyPath, line: str) -> None:
    """As append, a line; what a kill left of a last line goes first."""
    with open(path, "ab+", buffering=0) as file:
        end = _end_of_lines(file)
        file.truncate(end)
        _add(file, line.encode() + b"\n", end)


def _add(file: Any, data: bytes, end: int) -> None:
    """Write all of data at the end of an unbuffered file, or nothing."""
    try:
        while data:
            data = data[file.write(data) :]
    except OSError:
        file.truncate(end)
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
    processes of this machine, those with this process's number that it has not written itself, and those of other
    machines (containers, which are gone) to which nothing was added for a day.
    """
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            match = _TEMPORARY.fullmatch(entry.name)
            with contextlib.suppress(OSError):
                if match and (owned or _is_left(match, entry)):
                    os.unlink(entry.path)


def _is_left(match: re.Match[str], entry: os.DirEntry) -> bool:
    """Whether whoever wrote an unfinished file is no more."""
    if match["host"] == _host():
        return entry.name not in _unfinished and not _lives(int(match["pid"]))
    return time.time() - entry.stat().st_mtime > ABANDONED


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


_held: set[int] = set()  # the descriptors of this process's locks


def _leave_locks() -> None:
    """In a forked child: a worker that outlives the run must not hold its folder."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks)


@contextmanager
def locked(folder: AnyPath) -> Iterator[Callable[[], bool]]:
    """Own an existing folder; freed at the end of the block, or by the death of the process. Busy where it is owned.

    Gives what says whether the folder is still the one that was locked: it may be removed meanwhile. Where the file
    system has no locks that is said, and nobody is kept out. OSError where nothing can be written.
    """
    file = Path(folder) / LOCK
    descriptor = _acquire(file)
    _held.add(descriptor)
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds, without saying whose it is
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{socket.gethostname()} {os.getpid()}\n".encode())
        stable = _is_at(descriptor, file)
        yield lambda: not stable or _is_at(descriptor, file)
    finally:
        if descriptor in _held:  # not in a forked child
            # while it is held, so that nobody can hold what is removed; Windows keeps it, empty
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
                if _is_at(descriptor, file):
                    file.unlink()
            _held.discard(descriptor)
            os.close(descriptor)


def refuse_owned(folder: AnyPath) -> None:
    """Busy where another process owns the folder and says so; only looks: nothing is written or removed."""
    file = Path(folder) / LOCK
    owner, lives = _owner(file)
    if not lives:
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(file, os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            _try_lock(descriptor)
        except (BlockingIOError, PermissionError):
            raise _busy(file, owner) from None
        finally:
            os.close(descriptor)


def _busy(file: Path, owner: str) -> Busy:
    return Busy(f"{file.parent} is in use by {owner}: wait for it, stop it, or choose another name")


def _acquire(file: Path) -> int:
    """The descriptor of a file that this process alone has locked, and that is still there; Busy, OSError."""
    for last in (*[False] * TRIES, True):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _try_lock(descriptor)
            # else its owner has just removed it; some file systems number a file anew each time
            if last or _is_at(descriptor, file):
                return descriptor
        except (BlockingIOError, PermissionError):
            owner, lives = _owner(file)
            if last or lives:  # else it is about to say so, over the name of a dead one
                os.close(descriptor)
                raise _busy(file, owner) from None
        except OSError as error:
            tell(f"warning: {file.parent} cannot be locked ({error.strerror}): start no second run in it")
            return descriptor
        os.close(descriptor)
        time.sleep(0.01)
    raise AssertionError("the last try ends")


def _try_lock(descriptor: int) -> None:
    """Lock an open file until it is closed; BlockingIOError or PermissionError where another process has, OSError where
    there are no locks."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _is_at(descriptor: int, file: Path) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except OSError:
        return False


def _owner(file: Path) -> tuple[str, bool]:
    """Who holds a lock, for people, and whether that is a living process, as far as it can be known here."""
    try:
        host, pid = read_text(file, 1000).split()
        lives = host != socket.gethostname() or int(pid) == os.getpid() or _lives(int(pid))
    except (Unreadable, ValueError):
        return "another process", False
    return f"process {shown(pid)} on {shown(host)}", lives


# -- reading -------------------------------------------------------------------------------------------------------


def open_regular(path: AnyPath) -> BinaryIO:
    """A regular file, open for reading; nothing waits for a device or a pipe. Unreadable."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return open(descriptor, "rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        reason = getattr(error, "strerror", None) or error
        raise Unreadable(f"{shown(str(path))} cannot be read: {reason}") from None
    os.close(descriptor)
    raise Unreadable(f"{shown(str(path))} is no regular file")


def read_bytes(path: AnyPath, limit: int) -> bytes:
    """A regular file's content of at most `limit` bytes; nothing waits for a device or a pipe. Unreadable."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(limit, size or limit) + 1) if size <= limit else None
    except OSError as error:
        raise Unreadable(f"{shown(str(path))} cannot be read: {error.strerror or error}") from None
    if data is None or len(data) > limit:
        raise Unreadable(f"{shown(str(path))} is larger than {limit:,} bytes")
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
