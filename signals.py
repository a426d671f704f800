"""Stop signals: what is done when a process is told to end.

A command obeys them from its first line on (`as_command`): one line on stderr, everything temporary removed, exit code
128 + the signal's number. While a run trains they are noted, and obeyed between steps (`Signals.noted`); that alone
happens to Python callers, whose own handlers are put back. Standard library only.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TextIO

NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGXCPU", "SIGUSR1")
# Never an order to hurry: closing terminals send the one several times, the kernel the other every second.
REPEATED = ("SIGHUP", "SIGXCPU")
# One order may arrive twice: `timeout` signals its child and the child's group, launchers pass on what a group had.
ECHO_S = 1.0
GRACE_S = 10.0  # from a stop to the end of a process that does not come to obey it
# What `accelerate launch` sets for every process that it starts, and people alone do not.
ACCELERATE_SETS = {"ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"}

_came: dict[int, float] = {}  # signal -> when its handler first ran
_is_command = False
_leaving: int | None = None  # the exit code, once a stop is being obeyed


def name_of(number: int) -> str:
    """SIGTERM of 15, ..."""
    return signal.Signals(number).name


class Stopped(SystemExit):
    """A stop signal was obeyed; the exit code is 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class Signals:
    """The stop signal that a run has received, None before one."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Take note of stop signals inside; in the main thread, which alone can handle them.

        A second one, after ECHO_S, kills a command as if there were no handler, and is handled as before elsewhere.
        """
        global _leaving
        numbers = stop_signals() if threading.current_thread() is threading.main_thread() else []
        if not _is_command:
            _came.clear()
        self._previous = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield
        except Stopped as stop:
            if _is_command:
                _leaving = stop.code
            raise
        finally:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if _is_second(number, _came):
            signal.signal(number, signal.SIG_DFL if _is_command else self._previous[number])
            signal.raise_signal(number)
        elif self.received is None:
            self.received = number


def stop_signals() -> list[int]:
    """The stop signals that exist here, but for ignored ones: nohup wants them so, or a shell that went on.

    torchrun hears those too, passes them on, and kills what does not end: under it they count.
    """
    kept = (None,) if _under_torchrun() else (None, signal.SIG_IGN)
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) not in kept]


def _is_second(number: int, came: dict[int, float]) -> bool:
    """Whether this one came well after another of its kind, noted in `came`: someone insists."""
    now = time.monotonic()
    since = now - came.setdefault(number, now)
    return since >= ECHO_S and name_of(number) not in REPEATED


# -- commands ------------------------------------------------------------------------------------------------------


def as_command() -> None:
    """Make this process a command: stop signals end it, it follows its launcher, and outlives a lost terminal.

    Called before the imports that take seconds; again, or in another thread than the main one, it does nothing.
    """
    global _is_command
    if _is_command or threading.current_thread() is not threading.main_thread():
        return
    _is_command = True
    sys.stdout, sys.stderr = (None if s is None else _Lasting(s) for s in (sys.stdout, sys.stderr))
    atexit.register(_leave)  # as the first one, so that it runs last
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_be_no_command)
    orders, told = socket.socketpair()
    told.setblocking(False)
    threading.Thread(target=_watch, args=(orders, told), name="stop signals", daemon=True).start()
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    for number in stop_signals():
        signal.signal(number, _end)
    _follow_launcher()


def _end(number: int, frame: FrameType | None) -> None:
    """Leave by way of every finally and with block."""
    if _is_second(number, _came):
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    if _leaving is None:
        _begin_leaving(number)
        if _is_importing(frame):
            _exit(_leaving)
        raise Stopped(number)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: native code aborts there over an exception, or drops it."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _begin_leaving(number: int) -> None:
    """Say so, once; what breaks on the way out has nothing to say."""
    global _leaving
    _leaving = 128 + number
    sys.excepthook = sys.unraisablehook = threading.excepthook = _say_nothing
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):
            os.write(2, f"stopped by {name_of(number)}\n".encode())


def _say_nothing(*args: object) -> None:
    """In place of a traceback."""


def _leave() -> None:
    """The end of a command that was stopped: its code, whatever became of the exception on its way."""
    if _leaving is not None:
        _exit(_leaving)


def _exit(code: int) -> NoReturn:
    """End without the interpreter's own end, which half-imported libraries and native threads may crash."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _watch(orders: socket.socket, told: socket.socket) -> None:
    """A thread's work: end a process that does not come to obey, for it waits in native code or swallowed Stopped.

    orders gives the number of each signal in the moment it comes; told is its other end, kept open here.
    """
    came: dict[int, float] = {}  # its own: the handler may run much later
    until: float | None = None
    last = 0
    while True:
        orders.settimeout(None if until is None else max(0.01, until - time.monotonic()))
        try:
            number = orders.recv(1)[0]
        except TimeoutError:
            if _leaving is None:
                _begin_leaving(last)
            os._exit(128 + last)
        if number not in stop_signals():
            continue
        last = number
        # the handler itself is quicker, where the main thread can run it
        patience = 1.0 if _is_second(number, came) else GRACE_S if signal.getsignal(number) is _end else None
        if patience is not None:
            until = min(time.monotonic() + patience, until or float("inf"))


def _be_no_command() -> None:
    """In a forked child: no handlers of its parent's, nor their messages."""
    global _is_command, _leaving
    _is_command, _leaving = False, None
    signal.set_wakeup_fd(-1)
    for number in stop_signals():
        if getattr(signal.getsignal(number), "__module__", None) == __name__:
            signal.signal(number, signal.SIG_DFL)


class _Lasting:
    """A stream that outlives its terminal, pipe or disk: what cannot be written is dropped, the process goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As the stream's."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As the stream's."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


# -- launchers and parents -----------------------------------------------------------------------------------------


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def has_launcher() -> bool:
    """Whether torchrun or `accelerate launch` started this process."""
    return _under_torchrun() or os.environ.keys() >= ACCELERATE_SETS


def _follow_launcher() -> None:
    """Stop when the launcher dies: accelerate's dies of a signal without telling the process it started."""
    if has_launcher() and sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def serve_parent(lifeline: int, other_end: int) -> None:
    """Make this forked worker its parent's: stop signals concern the parent, and its death ends the worker.

    lifeline: the end to read of a pipe into which the parent writes nothing; other_end: the worker's copy of the end
    that the parent keeps open as long as workers are wanted. The parent's SIGTERM to the worker still ends it.
    """
    os.close(other_end)
    for number in stop_signals():
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)

    def wait() -> None:
        os.read(lifeline, 1)
        os._exit(0)  # whatever the worker does, with all that it holds

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
