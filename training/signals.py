"""Stop signals: taken note of while a run trains, obeyed between steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")


class Signals:
    """The stop signal that this process has received, None before one."""

    def __init__(self, *, fatal: bool = True) -> None:
        """fatal: a second signal kills the process, as if there were no handler; else it is handled as before."""
        self.received: int | None = None
        self.fatal, self.previous = fatal, {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Take note of signals inside; where they exist, and in the main thread, which alone can handle them."""
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        if threading.current_thread() is not threading.main_thread():
            numbers = []
        self.previous = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in self.previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL if self.fatal else self.previous[number])
