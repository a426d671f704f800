"""Attacks on the toolkit: kills, signals, several owners, full disks, tampered files, hostile archives; and who held.

    python -m studies.attack                                 ten minutes of all kinds
    python -m studies.attack --minutes 1 --seed 3
    python -m studies.attack --full                          the counts of docs/reliability.md, an hour or two
    python -m studies.attack --only tamper archives --times 20

Attack number i of a kind is a function of --seed and i. A failed one keeps its files in --out, with the commands, their
output and what was wrong. Exit code 1 if any failed. On Linux.
"""

import argparse
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from errors import UserError, cli
from studies.attacks import (
    archives,
    disks,
    hostile,
    hostile_archives,
    hostile_folders,
    interruptions,
    owners,
    pickles,
    tampering,
    texts,
)  # fmt: skip
from studies.attacks.children import adopt_orphans, kill_group, orphans, own_children
from studies.attacks.runs import Case, Lab, preload, scratch_random
from tools import tool_parser
from tools.common import finite, positive


@dataclass(frozen=True)
class Kind:
    """A row of the table.

    attack(lab, case, rng), with `index` where it goes through a list; times: how many are tried with --full; share: of
    the time with --minutes.
    """

    group: str
    title: str
    attack: Callable[..., None]
    times: int
    share: float = 1.0
    numbered: bool = False


def _signal(name: str, times: int) -> Kind:
    number = getattr(signal, f"SIG{name}")
    return Kind("signals", f"SIG{name}, 1 or 2 processes", partial(interruptions.stop_by, number), times)


HOSTILE = hostile_archives.TABLE | hostile_folders.TABLE
KINDS = (
    Kind("kill", "SIGKILL, 1 process", interruptions.kill_one, 140, 3.0),
    Kind("kill", "SIGKILL, 2 processes", interruptions.kill_two, 60, 2.0),
    Kind("kill", "SIGKILL, 1 of 2 processes", interruptions.lost_peer, 10),
    Kind("kill", "killed while overwriting", interruptions.kill_overwriting, 40),
    _signal("TERM", 40),
    _signal("HUP", 40),
    _signal("INT", 40),
    _signal("XCPU", 10),
    _signal("USR1", 10),
    Kind("owners", "2, 4, 8 runs at once, no names", owners.unnamed, 9),
    Kind("owners", "one name, 2 to 4 at once", owners.same_name, 20),
    Kind("owners", "a live run asked for again", owners.live, 20),
    Kind("disk", "disk full for a moment", disks.full, 40),
    Kind("disk", "folders not writable for a moment", disks.not_writable, 20),
    Kind("disk", "run folder deleted", disks.deleted, 20),
    Kind("tamper", "checkpoints, valid checksum", tampering.checkpoints, 200, 2.0),
    Kind("tamper", "json, caches, statistics", texts.texts, 100, 1.5),
    Kind("tamper", "weights of others", pickles.fuzz, 200 // pickles.AT_ONCE),
    Kind("archives", "fuzzed archives", archives.fuzz, 10_000 // archives.AT_ONCE, 1.5),
    Kind("archives", "hostile archives, folders", partial(hostile.attack, HOSTILE), len(HOSTILE), 2.0, numbered=True),
)  # fmt: skip
GROUPS = tuple(dict.fromkeys(kind.group for kind in KINDS))


@dataclass
class Tally:
    """What has become of the attacks of one kind."""

    begun: int = 0
    tried: int = 0
    failed: int = 0
    spent: float = 0.0
    seconds: float = 0.0
    megabytes: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, result: dict[str, Any]) -> None:
        """Count one attack."""
        self.tried += max(result["tried"], result["failed"])
        self.failed += result["failed"]
        self.spent += result["spent"]
        self.seconds = max(self.seconds, result["seconds"])
        self.megabytes = max(self.megabytes, result["megabytes"])
        if result["failed"]:
            self.failures.append(f"{result['kept']}: {shown(result['problems'])}")


def shown(problems: Sequence[str]) -> str:
    """The first problems in one line."""
    return " ".join("; ".join(text[-200:] for text in problems[:3]).split())


def perform(lab: Lab, kind: Kind, index: int, seed: int, out: Path) -> dict[str, Any]:
    """Make one attack; what came of it. The files of one that failed stay in `out`."""
    name = f"{KINDS.index(kind):02d}-{index:04d}"
    case = Case(lab, lab.folder / "scratch" / name)
    began = time.monotonic()
    try:
        numbered = {"index": index} if kind.numbered else {}
        kind.attack(lab, case, scratch_random(seed, kind.title, index), **numbered)
    except Exception:  # of the attack itself: no less a failure
        case.fail(f"the attack broke down: {traceback.format_exc()}")
        orphans(0)
    problems = list(dict.fromkeys(case.problems))
    failed = (case.failed or 1) if problems else 0
    kept = out / name
    if problems:
        (case.scratch / "report.txt").write_text(report(kind, index, seed, case, problems), errors="replace")
        shutil.move(case.scratch, kept)
    else:
        subprocess.run(["rm", "-rf", str(case.scratch)], check=True)  # deeper than shutil.rmtree can go
    return {
        "tried": case.tried,
        "failed": failed,
        "spent": time.monotonic() - began,
        "seconds": max((child.seconds for child in case.children), default=0.0),
        "megabytes": max((child.megabytes for child in case.children), default=0.0),
        "problems": problems,
        "notes": case.notes,
        "kept": str(kept),
    }


def report(kind: Kind, index: int, seed: int, case: Case, problems: Sequence[str]) -> str:
    """What a failed attack was, what was wrong, and every command with its output."""
    lines = [
        f"{kind.title}, number {index}, seed {seed}",
        *case.notes,
        "",
        "What did not hold:",
        *problems,
        "",
    ]
    return "\n".join([*lines, *(child.shown for child in case.children)])


# -- two attacks at a time -----------------------------------------------------------------------------------------


class Worker:
    """A process that makes one attack after another; it is the parent, or the adopter, of all that they start."""

    def __init__(self, lab: Lab, seed: int, out: Path) -> None:
        self.job: tuple[Kind, int] | None = None
        self.socket, theirs = socket.socketpair()
        sys.stdout.flush(), sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self.socket.close()
            _serve(theirs, lab, seed, out)
        theirs.close()

    def give(self, kind: Kind, index: int) -> None:
        """Have it make an attack."""
        self.job = (kind, index)
        self.socket.sendall(f"{KINDS.index(kind)} {index}\n".encode())

    def take(self) -> dict[str, Any]:
        """What came of it; a worker that has died is a failure too."""
        data = b""
        while not data.endswith(b"\n"):
            if not (more := self.socket.recv(1 << 16)):
                problem = "the attack ended its own process"
                return {"tried": 1, "failed": 1, "spent": 0.0, "seconds": 0.0, "megabytes": 0.0, "kept": "lost",
                        "problems": [problem], "notes": []}  # fmt: skip
            data += more
        self.job = None
        return json.loads(data)

    def end(self) -> None:
        """End it, and all that it has started."""
        self.socket.close()
        os.kill(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)


def _serve(jobs: socket.socket, lab: Lab, seed: int, out: Path) -> None:
    """What a worker does; never returns."""

    def leave(*_: Any) -> None:
        for pid in own_children():
            kill_group(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    try:
        adopt_orphans()
        disks.own_mounts()
        for line in jobs.makefile():
            number, index = map(int, line.split())
            result = perform(lab, KINDS[number], index, seed, out)
            jobs.sendall(f"{json.dumps(result)}\n".encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def jobs_of(
    kinds: Sequence[Kind], tallies: dict[Kind, Tally], args: argparse.Namespace
) -> Iterator[tuple[Kind, int]]:
    """Which attack comes next: of every kind in turn so many, or whatever had least of its share of the time."""
    if args.minutes is None:
        wanted = {kind: kind.times if args.full else args.times for kind in kinds}
        for index in range(max(wanted.values())):
            yield from ((kind, index) for kind in kinds if index < wanted[kind])
        return
    until = time.monotonic() + 60 * args.minutes
    while time.monotonic() < until:
        # one that has just begun counts as the usual one of its kind
        def used(kind: Kind) -> float:
            tally = tallies[kind]
            return max(tally.spent, 3.0 * tally.begun) / kind.share

        kind = min(kinds, key=used)
        yield kind, tallies[kind].begun


def attack_all(lab: Lab, kinds: Sequence[Kind], args: argparse.Namespace, out: Path) -> dict[Kind, Tally]:
    """Make the attacks, --jobs at a time; failures are said as they come."""
    tallies = {kind: Tally() for kind in kinds}
    jobs = jobs_of(kinds, tallies, args)
    workers: list[Worker] = []
    try:
        while True:
            idle = [worker for worker in workers if worker.job is None]
            if not idle and len(workers) < args.jobs:
                workers.append(Worker(lab, args.seed, out))
                idle = workers[-1:]
            if idle and (job := next(jobs, None)) is not None:
                tallies[job[0]].begun += 1
                idle[0].give(*job)
                continue
            busy = [worker for worker in workers if worker.job is not None]
            if not busy:
                return tallies
            for ready in select.select([worker.socket for worker in busy], [], [])[0]:
                worker = next(w for w in busy if w.socket is ready)
                kind, index = worker.job
                result = worker.take()
                tallies[kind].add(result)
                tell_result(kind, index, result, args.verbose)
                if worker.job is not None:  # it has died
                    workers.remove(worker)
                    os.waitpid(worker.pid, 0)
    finally:
        for worker in workers:
            worker.end()


def tell_result(kind: Kind, index: int, result: dict[str, Any], verbose: bool) -> None:
    """A line for a failure; for every attack if asked."""
    if not result["failed"] and not verbose:
        return
    what = shown(result["problems"]) if result["failed"] else "held"
    print(f"{kind.title} {index} ({', '.join(result['notes'])[:200]!r}): {what}", flush=True)


def table(tallies: dict[Kind, Tally]) -> str:
    """The rows of docs/reliability.md."""
    lines = [
        "| attack | tried | held | failed | slowest command, s | most memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {kind.title} | {t.tried:,} | {t.tried - t.failed:,} | {t.failed:,} | {t.seconds:.1f} | {t.megabytes:,.0f} |"
        for kind, t in tallies.items()
        if t.begun
    ]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("studies.attack", __doc__)
    how = p.add_mutually_exclusive_group()
    how.add_argument("--minutes", type=finite, help="time for all kinds together, preparation aside [10]")
    how.add_argument("--times", type=positive, help="attacks of each kind, in place of a time")
    how.add_argument("--full", action="store_true", help="as many of each as docs/reliability.md has")
    p.add_argument(
        "--seed", type=int, default=0, help="all attacks are functions of it and of their number [0]"
    )
    p.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="these groups of attacks alone")
    p.add_argument("--jobs", type=positive, default=min(2, os.cpu_count() or 1), help="attacks at a time [2]")
    p.add_argument("--out", type=Path, help="where failed attacks keep their files [a temporary folder]")
    p.add_argument("--verbose", action="store_true", help="a line for every attack")
    return p


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, attack, print the table."""
    args = parser().parse_args(argv)
    if sys.platform != "linux":
        raise UserError("studies.attack needs Linux: fork, /proc and process groups")
    if not args.full and args.times is None and args.minutes is None:
        args.minutes = 10.0
    torch.set_num_threads(1)
    out = Path(tempfile.mkdtemp(prefix="gan-attack-")) if args.out is None else args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="work-", dir=out))
    kinds = [kind for kind in KINDS if kind.group in args.only]
    try:
        adopt_orphans()
        lab = Lab(work)
        preload(lab)
        for n in (1, 2) if {"kill", "signals"} & set(args.only) else (1,):
            print(
                f"uninterrupted, {n} process{'es' if n > 1 else ''}: {lab.twin(n).seconds:.1f} s", flush=True
            )
        if "tamper" in args.only:
            texts.one_step(lab)
        tallies = attack_all(lab, kinds, args, out)
    finally:
        subprocess.run(["rm", "-rf", str(work)], check=False)
    print(table(tallies))
    failures = [text for tally in tallies.values() for text in tally.failures]
    if failures:
        print(f"\n{len(failures)} attacks did not hold; each folder has a report.txt:", *failures, sep="\n")
    elif args.out is None:
        shutil.rmtree(out)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
