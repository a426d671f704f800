"""Launched processes meet before anything is planned, all leave with the first that fails, and end together.

Each process holds one connection to the main one. The system closes it when a process dies, however that happens: so
nobody asks whether the others live, nothing is sent while a run trains, and one that decodes for hours, or is stopped
by Ctrl-Z, counts as alive. A thread a connection waits for news; where another process has failed and this one sits in
a collective that will never end, that thread ends it.
"""

import os
import secrets
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from errors import UserError, of_one_process
from ops.distributed import PeerFailed
from ops.launched import Launched
from training.links import TOKEN_BYTES, Link, accepted, linked, listener

T = TypeVar("T")

WAIT = 30.0  # seconds until a line says for whom a process waits, and between such lines
STORE = 30  # seconds that torch's store may take to answer
LOOK = 0.2  # seconds between two looks for others
GRACE = 10.0  # seconds that a process has to end by itself once another one has failed: to close its logs
STOP_GRACE = 30.0  # ... once another one was told to stop
SETTLE = 0.5  # seconds in which a mistake of another process may turn out to be the main one's too
ECHO = 1.5  # seconds in which an error may turn out to follow from another process's end


class Left(SystemExit):
    """Another process failed and has said why: this one ends without a word, with the same exit code."""


@dataclass(frozen=True)
class Failure:
    """What ends all processes: the rank that failed, the exit code, the line where there is one.

    turn: of how many a process trained or scored when it failed; None for a process that has gone for good.
    """

    rank: int
    code: int
    text: str | None
    turn: int | None

    @property
    def grace(self) -> float:
        """Seconds that the others have to end by themselves."""
        return STOP_GRACE if self.text is None and self.code != 1 else GRACE


def failure_of(error: BaseException, rank: int, turn: int) -> Failure:
    """How an exception ends a process."""
    if isinstance(error, UserError):
        return Failure(rank, error.exit_code, error.for_command_line, turn)
    if isinstance(error, SystemExit):
        return Failure(
            rank, error.code if isinstance(error.code, int) else int(error.code is not None), None, turn
        )
    return Failure(rank, 130 if isinstance(error, KeyboardInterrupt) else 1, None, turn)


class Peers:
    """The other processes, as this one knows them.

    links: by rank, to all others on the main process, to the main one elsewhere.
    """

    def __init__(self, mine: Launched) -> None:
        self.mine, self.is_main = mine, mine.rank == 0
        self.links: dict[int, Link] = {}
        self.names = {mine.rank: f"rank {mine.rank} ({socket.gethostname()}, pid {os.getpid()})"}
        self.changed = threading.Condition()  # of all below
        self.first: Failure | None = None
        self.gone: set[int] = set()
        self.done: dict[int, int] = {}  # rank -> the last turn that it has ended
        self.values: deque[tuple[str | None, Any]] = deque()  # refusal or value, from the main process
        self.met = self.inside = False
        self.turn = 0
        self.refused: str | None = None

    # -- meeting -----------------------------------------------------------------------------------------------

    def meet(self, limit: float | None = None) -> None:
        """Wait until all are here, or `limit` seconds; a line says for whom, now and then. UserError, Left."""
        self.began = self.said = time.monotonic()
        if self.is_main:
            self._gather(limit)
        else:
            self._come()

    def _gather(self, limit: float | None) -> None:
        self.store = self._host()  # held: others, and torch's groups, meet there too
        token = secrets.token_bytes(TOKEN_BYTES)
        with listener(self.mine.address) as server:
            self.store.set(self._key(), f"{server.getsockname()[1]} {token.hex()}")
            server.settimeout(LOOK)
            while missing := self._missing():
                with suppress(TimeoutError):
                    if (link := accepted(server, token)) is not None:
                        threading.Thread(target=self._serve, args=[link], daemon=True).start()
                if limit is not None and time.monotonic() > self.began + limit:
                    return
                if self._wait_is_long():
                    for link in list(self.links.values()):
                        link.send("missing", missing)
                    self._say_missing(missing)
        self._tell_all("all")

    def _missing(self) -> list[int]:
        """Who is not here yet; nobody is missing from then on."""
        with self.changed:
            missing = [rank for rank in range(1, self.mine.world_size) if rank not in self.links]
            self.met = not missing
            return missing

    def _say_missing(self, missing: list[int]) -> None:
        n = len(missing)
        listed = ", ".join(map(str, missing[:8])) + (", ..." if n > 8 else "")
        what = f"{n} more process{'es' if n > 1 else ''} (rank{'s' if n > 1 else ''} {listed})"
        self._say(f"waiting for {what} at {self.mine.place}")

    def _say(self, text: str) -> None:
        """A line from each process; under torchrun, where all share a terminal, from the first of each host."""
        if not self.mine.by_agent or self.is_main or self.mine.local_rank == 0:
            print(text, file=sys.stderr, flush=True)

    def _wait_is_long(self) -> bool:
        """Whether it is time for another line."""
        if time.monotonic() < self.said + WAIT:
            return False
        self.said = time.monotonic()
        return True

    def _key(self) -> str:
        return f"peers/{self.mine.attempt}"

    def _host(self) -> Any:
        """The store at the meeting place: torchrun's, or one of this process's own."""
        address, port = self.mine.address, self.mine.port
        if self.mine.by_agent:
            return store_at(address, port)
        try:
            store = store_at("localhost", port, is_master=True)
        except RuntimeError:
            raise of_one_process(
                f"MASTER_PORT {port} cannot be had on this host: does another run hold it? choose another"
            ) from None
        while True:
            try:
                socket.create_connection((address, port), WAIT).close()
                return store
            except OSError as error:
                self._refuse_unknown_host(error)
                if not isinstance(error, socket.gaierror):
                    raise of_one_process(
                        f"MASTER_ADDR {address}: this process, which is rank 0, is not reached there "
                        f"({error.strerror or error}); give the address of its host"
                    ) from None
            time.sleep(LOOK)

    def _refuse_unknown_host(self, error: Exception) -> None:
        """UserError for a name that is not known after a while: names of hosts that start may come late."""
        if isinstance(error, socket.gaierror) and time.monotonic() > self.began + WAIT:
            raise of_one_process(
                f"MASTER_ADDR {self.mine.address}: {error.strerror}; give the address of rank 0's host"
            )

    def _come(self) -> None:
        """Find the main process, and wait with it for the others."""
        while True:
            try:
                link = linked(self.mine.address, *self._door())
            except (OSError, RuntimeError) as error:  # the latter is torch's
                self._refuse_unknown_host(error)
                self._look_again()
                continue
            with self.changed:
                self.links = {0: link}
                self.names[0] = f"rank 0 (at {self.mine.address})"
            link.send("here", self.mine.rank, self.mine.world_size, self.names[self.mine.rank])
            threading.Thread(target=self._listen, args=[0, link], daemon=True).start()
            with self.changed:
                self.changed.wait_for(lambda: self.met or self.first or self.refused or 0 in self.gone)
                if self.refused is not None:
                    raise of_one_process(self.refused)
                if self.first is not None:
                    raise Left(self.first.code)
                if self.met:
                    return
                self.gone.clear()  # the main process was started anew
            self._look_again()

    def _look_again(self) -> None:
        if self._wait_is_long():
            self._say(f"waiting for rank 0 at {self.mine.place}")
        time.sleep(LOOK)

    def _door(self) -> tuple[int, bytes]:
        """The port at which the main process listens, and its token; OSError or RuntimeError while there is none."""
        # torch prints the stack of each attempt that fails: knock first
        socket.create_connection((self.mine.address, self.mine.port), WAIT).close()
        store = store_at(self.mine.address, self.mine.port)
        while not store.check([self._key()]):
            self._look_again()
        text = store.get(self._key()).decode()
        return int(text.split()[0]), bytes.fromhex(text.split()[1])

    # -- news --------------------------------------------------------------------------------------------------

    def _serve(self, link: Link) -> None:
        """On the main process: take in one that has come, and listen to it."""
        message = link.receive()
        if message is None:
            return
        _, rank, world_size, name = message
        with self.changed:
            wrong = None
            if self.first is not None:
                link.send("first", self.first)
            elif world_size != self.mine.world_size:
                wrong = f"WORLD_SIZE {world_size} must be {self.mine.world_size}, as for rank 0"
            elif rank in self.links:
                wrong = f"RANK {rank} is taken by {self.names[rank]}: each process needs its own"
            if wrong is not None:
                link.send("refused", wrong)
                return
            self.links[rank], self.names[rank] = link, name
            self.gone.discard(rank)  # it was started anew
            self.changed.notify_all()
        self._listen(rank, link)

    def _listen(self, rank: int, link: Link) -> None:
        """Take what another process sends, until it has gone."""
        while (message := link.receive()) is not None:
            self._take(rank, *message)
        with self.changed:
            if not self.met:
                self.links.pop(rank, None)
            self.gone.add(rank)
            self.changed.notify_all()
            lost = self.met and self.inside and not self._over() and self.done.get(rank, 0) < self.turn
        if lost:
            self._lost(rank)

    def _take(self, rank: int, kind: str, value: Any = None) -> None:
        if kind == "failed":
            self._judge(value)
        elif kind == "first":
            self._end_with(value)
        elif kind == "missing":
            self._say_missing(value)
        else:
            with self.changed:
                if kind == "value":
                    self.values.append(value)
                elif kind == "done":
                    self.done[rank] = value
                elif kind == "refused":
                    self.refused = value
                elif kind == "all":
                    self.met = True
                self.changed.notify_all()

    def _lost(self, rank: int) -> None:
        """A process has gone without a word: say so, and end."""
        text = f"{self.names[rank]} ended without a word (killed, or out of memory): all processes end"
        if self.is_main or self.mine.rank == 1 or self.mine.local_rank == 0:
            print(f"error: {text}", file=sys.stderr, flush=True)
        self._judge(Failure(rank, 1, text, None))

    def _judge(self, failure: Failure) -> None:
        """A process failed: the first whose news come ends all. What the main one finds wrong as well, it says."""
        if not self.is_main:
            self._end_with(failure)
            return
        with self.changed:
            if failure.rank != 0 and failure.text is not None and failure.turn is not None:
                self.changed.wait_for(self._over, SETTLE)
            if not self._over():
                self._tell_all("first", failure)
                self._end_with(failure)

    def _tell_all(self, *message: Any) -> None:
        for link in list(self.links.values()):
            link.send(*message)

    def _over(self) -> bool:
        """Whether a failure is known that concerns this turn."""
        return self.first is not None and self.first.turn in (None, self.turn)

    def _end_with(self, failure: Failure) -> None:
        """Remember why all end, and see to it that this process does."""
        with self.changed:
            if self._over():
                return
            self.first = failure
            self.changed.notify_all()
            if failure.rank != self.mine.rank and self.inside:
                self._end_soon(failure)

    def _end_soon(self, failure: Failure) -> None:
        """End this process from outside where it does not leave by itself: it waits for one that never comes."""
        threading.Thread(target=self._end_late, args=[failure, self.turn], daemon=True).start()

    def _end_late(self, failure: Failure, turn: int) -> None:
        with self.changed:
            if self.changed.wait_for(lambda: not self.inside or self.turn != turn, failure.grace):
                return
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(failure.code)

    # -- a turn ------------------------------------------------------------------------------------------------

    @contextmanager
    def turns(self) -> Iterator[None]:
        """What all do together, from its beginning to its end: all end it, or all leave with the first that fails.

        Its exception is raised on the process that failed, and on those that found the same wrong; Left on the others.
        """
        if self.inside:  # a run within
            yield
            return
        with self.changed:
            self.turn += 1
            self.inside = True
            if self._over():  # it may find the same wrong
                self._end_soon(self.first)
        try:
            for rank in self.gone:
                raise UserError(f"{self.names[rank]} has ended: there is nobody to go on with")
            yield
            self._wait_for_all()
        except BaseException as error:
            if self._is_said_by(error):
                raise
            raise Left(self.first.code) from None
        finally:
            with self.changed:
                self.inside = False
                self.changed.notify_all()

    def _is_said_by(self, error: BaseException) -> bool:
        """Whether the error is what ends all, once that is known: this process is to say it, with its rank."""
        if isinstance(error, Left):
            return True
        mine = failure_of(error, self.mine.rank, self.turn)
        with self.changed:
            if isinstance(error, Exception) and not isinstance(error, UserError):
                self.changed.wait_for(self._over, GRACE if isinstance(error, PeerFailed) else ECHO)
        if self.is_main:
            self._judge(mine)
        else:
            self.links[0].send("failed", mine)
        with self.changed:
            if not self.changed.wait_for(self._over, GRACE):
                self.first = mine
        if self.first == mine:
            _mark(error, self.mine.rank)
            return True
        known = isinstance(error, UserError | SystemExit | KeyboardInterrupt)
        return known and (self.first.code, self.first.text) == (mine.code, mine.text)

    def _leave_if_over(self) -> None:
        with self.changed:
            if self._over():
                raise Left(self.first.code)

    def _wait_for_all(self) -> None:
        """Nobody leaves a turn while another one is in it: the main one may still write, and holds the store."""
        with self.changed:
            others = list(self.links)
        if self.is_main:
            self._wait_for(lambda: all(self.done.get(rank, 0) >= self.turn for rank in others))
            self._tell_all("done", self.turn)
        else:
            self.links[0].send("done", self.turn)
            self._wait_for(lambda: self.done.get(0, 0) >= self.turn)

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds; Left where a process fails meanwhile."""
        with self.changed:
            self.changed.wait_for(lambda: self._over() or condition())
        self._leave_if_over()

    def from_main(self, action: Callable[[], T]) -> T:
        """What action() gives on the main process, which alone runs it, on all; its UserError is that of all.

        For what comes before there is a process group.
        """
        if self.is_main:
            try:
                value = action()
            except UserError as error:
                self._tell_all("value", (error.for_command_line, None))
                raise
            self._tell_all("value", (None, value))
            return value
        with self.changed:
            self.changed.wait_for(lambda: self.values or self._over())
            if not self.values:
                raise Left(self.first.code)
            refusal, value = self.values.popleft()
        if refusal is not None:
            raise UserError(refusal)
        return value


def store_at(address: str, port: int, *, is_master: bool = False) -> Any:
    """torch's store at a place, or there from now on; RuntimeError."""
    from torch.distributed import TCPStore

    timeout = timedelta(seconds=STORE)
    return TCPStore(
        address, port, is_master=is_master, wait_for_workers=False, multi_tenant=is_master, timeout=timeout
    )


def _mark(error: BaseException, rank: int) -> None:
    """Name the process that failed in what it says; the main one needs no name."""
    if rank == 0:
        return
    if isinstance(error, UserError):
        error.args, error.alone = (f"rank {rank}: {error.for_command_line}",), True
    else:
        error.add_note(f"on rank {rank}")
