"""Commands of the toolkit in forked children, watched from outside: time, memory, output, what they leave behind.

Importing torch takes seconds, so this process imports everything once and forks a child a command; `fresh` ones are
started anew, imports and all. Linux only: fork, /proc, subreaper.
"""

import atexit
import ctypes
import os
import resource
import runpy
import select
import shlex
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_S = 20.0  # of a command that is to refuse a file
LIMIT_MB = 1500.0
GRACE_S = 15.0  # in which whatever a command has started must be gone
HANG_S = 180.0
WATCHED_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
PR_SET_CHILD_SUBREAPER, PR_SET_NAME = 36, 15

# Called in a child before each of its file operations inside a folder: (how many so far, path).
Watcher = Callable[[int, str], None]


def adopt_orphans() -> None:
    """Become the parent of whatever a child leaves behind, so that it can be found."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def watch_operations(folder: Path, watcher: Watcher) -> None:
    """Have this process call `watcher` before it opens for writing, renames, removes or makes anything in a folder."""
    own, prefix, count, busy = os.getpid(), str(folder), 0, False

    def hook(event: str, args: tuple) -> None:
        nonlocal count, busy
        if event not in WATCHED_EVENTS or busy or os.getpid() != own:
            return
        if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        path = os.fsdecode(args[0]) if isinstance(args[0], str | bytes | os.PathLike) else ""
        if not os.path.abspath(path).startswith(prefix):
            return
        count, busy = count + 1, True
        try:
            watcher(count, path)
        finally:
            busy = False

    sys.addaudithook(hook)


STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU, signal.SIGINT)


@dataclass
class Child:
    """A command that runs, or has ended: exit code (negative: the signal it died of), seconds, megabytes at most."""

    argv: tuple[str, ...]
    pid: int
    group: int
    pipe: int
    began: float
    code: int | None = None
    seconds: float = 0.0
    busy: float = 0.0  # seconds of processors, its children's too
    megabytes: float = 0.0
    timed_out: bool = False
    output: bytes = field(default=b"", repr=False)

    @property
    def text(self) -> str:
        """stdout and stderr together."""
        return self.output.decode(errors="replace")

    @property
    def shown(self) -> str:
        """The command, its end and its output, for a report."""
        about = f"exit {self.code}, {self.seconds:.1f} s, {self.megabytes:.0f} MB"
        return f"$ {shlex.join(self.argv)}\n[{about}]\n{self.text}\n"

    def errors(self) -> list[str]:
        """The lines that refuse something."""
        return [line for line in self.text.splitlines() if line.startswith("error:")]


def start(
    argv: Sequence[str],
    scratch: Path,
    *,
    environment: Mapping[str, str] | None = None,
    fresh: bool = False,
    group: int = 0,
    watcher: Watcher | None = None,
    prepare: Callable[[], None] | None = None,
    program: Callable[[], int] | None = None,
) -> Child:
    """Start a command, `script.py ...` or `-m module ...`, in a scratch folder of its own.

    fresh: as a new process of Python; group: process group to join, 0 for one of its own; watcher: see
    watch_operations; prepare: called in the child first; program: what the child does in place of the command, its
    exit code. All three need a child that is not fresh.
    """
    read, write = os.pipe()
    os.set_blocking(read, False)
    sys.stdout.flush(), sys.stderr.flush()
    began = time.monotonic()
    # until the child has put away its parent's handlers, which would drop them
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    pid = os.fork()
    if pid == 0:
        _become(argv, scratch, environment or {}, fresh, group, watcher, prepare, program, write, mask)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(write)
    group = group or pid
    with suppress(OSError):  # it has ended, or runs another program by now
        os.setpgid(pid, group)  # in both, whoever is first
    return Child(tuple(argv), pid, group, read, began)


def _become(
    argv: Sequence[str],
    scratch: Path,
    environment: Mapping[str, str],
    fresh: bool,
    group: int,
    watcher: Watcher | None,
    prepare: Callable[[], None] | None,
    program: Callable[[], int] | None,
    output: int,
    mask: set[signal.Signals],
) -> None:
    """What the child does; never returns."""
    code = 70
    try:
        os.setpgid(0, group)
        # of SIGINT too, whose usual handler would print where this file stood
        for number in STOPS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1), os.dup2(output, 2)
        os.closerange(3, 256)
        temporary = scratch / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        os.environ.update(environment_of(scratch) | environment)
        os.chdir(ROOT)
        if fresh:
            os.execv(sys.executable, [sys.executable, *argv])
        tempfile.tempdir = None
        # so that a line is there when the child is killed, as on a terminal
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        if prepare is not None:
            prepare()
        if watcher is not None:
            watch_operations(scratch, watcher)
        code = _run(argv) if program is None else program()
        threading._shutdown()  # as the interpreter ends: threads, then what asked to be called
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush(), sys.stderr.flush()
        finally:
            os._exit(code)


def environment_of(scratch: Path) -> dict[str, str]:
    """What every command is told: one thread, and where temporary and cached files go."""
    return {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(scratch / "tmp"),
        "XDG_CACHE_HOME": str(scratch / "xdg"),
    }


def _run(argv: Sequence[str]) -> int:
    """Run the program in this process as Python would; its exit code."""
    is_module = argv[0] == "-m"
    sys.argv = list(argv[1:] if is_module else argv)
    try:
        if is_module:
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(ROOT / argv[0]), run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def memory_of(pid: int) -> float:
    """Megabytes that a process holds now, 0 for one that is gone."""
    try:
        return int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    except (OSError, IndexError):
        return 0.0


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal now, or needs none: SIGKILL, or it is gone."""
    if number == signal.SIGKILL:
        return True
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith(("SigCgt:", "SigBlk:")))
    if len(masks) < 2:
        return True  # it has ended
    bit = 1 << (number - 1)
    return bool(int(masks["SigCgt"], 16) & bit) and not int(masks["SigBlk"], 16) & bit


def wait(
    children: Sequence[Child],
    seconds: float = HANG_S,
    *,
    strike: Callable[[], None] | None = None,
    look: Callable[[], bool] | None = None,
) -> bool:
    """Wait until all have ended; those that take longer than `seconds`, or far too much memory, are killed.

    strike is called once, as soon as look() is true; whether it was.
    """
    struck = False
    while True:
        for child in children:
            _drain(child)
            if child.code is None:
                _reap(child)
        left = [child for child in children if child.code is None]
        if not left:
            break
        now = time.monotonic()
        if strike is not None and not struck and look():
            strike()
            struck = True
        for child in left:
            if now - child.began > seconds or memory_of(child.pid) > 1.3 * LIMIT_MB:
                child.timed_out = now - child.began > seconds
                child.megabytes = max(child.megabytes, memory_of(child.pid))
                kill_group(child.group, signal.SIGKILL)
        _sleep([child.pipe for child in left], 0.002 if strike is not None and not struck else 0.02)
    return struck


def _sleep(pipes: list[int], seconds: float) -> None:
    select.select(pipes, [], [], seconds)


def _drain(child: Child) -> None:
    try:
        while data := os.read(child.pipe, 1 << 16):
            child.output = (child.output + data)[-(1 << 20) :]
    except OSError:
        pass


def _reap(child: Child) -> None:
    pid, status, usage = os.wait4(child.pid, os.WNOHANG)
    if pid:
        child.code = os.waitstatus_to_exitcode(status)
        child.seconds = time.monotonic() - child.began
        child.busy = usage.ru_utime + usage.ru_stime
        child.megabytes = max(child.megabytes, usage.ru_maxrss / 1000)
        _drain(child)


def kill_group(group: int, number: int) -> None:
    """Send a signal to a process group; one that is gone is none."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def own_children() -> list[int]:
    """Processes whose parent is this one and that have not ended; those that have are reaped."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid():
            if state == "Z":
                with suppress(ChildProcessError):
                    os.waitpid(int(folder.name), os.WNOHANG)
            else:
                found.append(int(folder.name))
    return found


def orphans(grace: float = GRACE_S) -> list[str]:
    """Command lines of what ended commands have left running after the grace; it is killed. Call it with none running.

    Needs adopt_orphans.
    """
    until = time.monotonic() + grace
    while (left := own_children()) and time.monotonic() < until:
        time.sleep(0.02)
    texts = []
    for pid in left:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        texts.append(
            f"process {pid}, {memory_of(pid):.0f} MB: {b' '.join(words).decode(errors='replace')[:120]}"
        )
        os.kill(pid, signal.SIGKILL)
    for _ in range(100):
        if not own_children():
            break
        time.sleep(0.02)
    return texts


def close(children: Sequence[Child]) -> None:
    """Give the pipes back."""
    for child in children:
        _drain(child)
        os.close(child.pipe)
