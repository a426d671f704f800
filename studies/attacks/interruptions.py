"""Runs that are killed, stopped and started again: what is lost, what is left, and how they end."""

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from studies.attacks.children import Child, Watcher, catches, kill_group, wait
from studies.attacks.runs import N_STEPS, Case, Lab, differences

RESUME = ("--resume", "auto")
FRESH_SHARE = 0.1  # of the commands on one process that start Python anew
TORCHRUN_SHARE = 0.04  # of those on two: half a minute each
MAX_STRIKES = 3  # in one run, before it is let alone
LONG_ENOUGH = (
    2000  # steps of a run that is to be struck: of a longer one pictures are further apart than the twin's
)
TRIES = 4  # in which a run that is let alone must end
# What a run does while it works on a file, by the file's path; the first that fits.
PHASES = {
    "scoring": re.compile(r"statistics|scores\.jsonl"),
    "decoding": re.compile(r"^cache|^xdg"),
    "saving": re.compile(r"checkpoints"),
    "exporting": re.compile(r"generator"),
    "drawing": re.compile(r"samples"),
    "logging": re.compile(r"metrics\.jsonl|tfevents"),
    "starting": re.compile(r""),
}


def phase_of(path: str) -> str:
    """What a run does that works on this file."""
    return next(name for name, pattern in PHASES.items() if pattern.search(path))


def aimed(operations: Sequence[str], rng: random.Random) -> tuple[str, int]:
    """(phase, number of a file operation in it), every phase as likely as another."""
    by_phase: dict[str, list[int]] = {}
    for i, path in enumerate(operations):
        by_phase.setdefault(phase_of(path), []).append(i + 1)
    phase = rng.choice(sorted(by_phase))
    return phase, rng.choice(by_phase[phase])


def at_operation(number: int, strike: int, whole_group: bool) -> Watcher:
    """A watcher that sends the signal to its own process, or its group, before one file operation."""

    def watch(count: int, path: str) -> None:
        if count == number:
            if whole_group:
                os.killpg(0, strike)
            else:
                os.kill(os.getpid(), strike)

    return watch


def struck(case: Case, argv: Sequence[str], number: int, processes: int, rng: random.Random) -> list[Child]:
    """Run the command and send it the signal once: at a random moment, or at one of its file operations."""
    twin = case.lab.twin(processes)
    whole_group = processes > 1 or rng.random() < 0.5
    fresh = rng.random() < (FRESH_SHARE if processes == 1 else TORCHRUN_SHARE)
    if fresh:
        # the first moments are the interpreter's own; imports take some times as long as the run
        moment = rng.uniform(max(0.5, 0.3 * twin.seconds), (5 if processes == 1 else 10) * twin.seconds)
        children = case.launch(argv, processes, fresh=True)
        note = f"started anew, after {moment:.2f} s"
    elif rng.random() < 0.5:
        moment = rng.uniform(0.02, twin.seconds)
        children = case.launch(argv, processes)
        note = f"after {moment:.3f} s"
    else:
        phase, operation = aimed(twin.operations, rng)
        children = case.launch(argv, processes, watcher=at_operation(operation, number, whole_group))
        moment, note = None, f"at file operation {operation}, {phase}"
    case.notes.append(f"{signal.Signals(number).name} to {'all' if whole_group else 'the process'} {note}")
    if moment is None:
        wait(children)
    else:
        due = partial(_is_due, children, number, moment, 0.5 * twin.seconds)
        wait(children, look=due, strike=partial(_send, children[0], number, whole_group))
    case.settle(children)
    return children


def _is_due(children: Sequence[Child], number: int, moment: float, patience: float) -> bool:
    """Whether the moment has come, and the command its first line, in which it takes care of signals.

    One that takes care of none is waited for with some patience alone.
    """
    passed = time.monotonic() - children[0].began
    if passed < moment:
        return False
    return passed > moment + patience or all(catches(child.pid, number) for child in children)


def _send(child: Child, number: int, whole_group: bool) -> None:
    if whole_group:
        kill_group(child.group, number)
    else:
        with suppress(ProcessLookupError):
            os.kill(child.pid, number)


def check_stopped(case: Case, child: Child, number: int, launched: bool) -> None:
    """A stopped command says so by its exit code: 128 + n, or that it has died of SIGKILL; 0 where it was done."""
    if launched or child.code == 0:  # a launcher has codes of its own
        return
    wanted = -number if number == signal.SIGKILL else 128 + number
    if (
        child.code == -number and f"step {N_STEPS} of {N_STEPS} after" in child.text
    ):  # the interpreter's own end
        return
    if child.code != wanted:
        last = (child.text.strip().splitlines() or [""])[-1]
        case.fail(f"exit {child.code} after {signal.Signals(number).name}, wanted {wanted}: {last[:160]}")


def finish(case: Case, argv: Sequence[str], processes: int) -> None:
    """Repeat the command until it ends with 0, which must not take many times."""
    for _ in range(TRIES):
        children = case.run(argv, processes)
        if all(child.code == 0 for child in children):
            return
        if any(child.code == 2 for child in children):
            break
    case.check_end(children)


def interrupt(lab: Lab, case: Case, rng: random.Random, number: int, processes: int) -> None:
    """A requeue loop: the same command, struck up to three times, then let alone; equal to the uninterrupted run."""
    argv = case.command(*RESUME)
    case.tried = 0
    for _ in range(rng.randint(1, MAX_STRIKES)):
        children = struck(case, argv, number, processes, rng)
        for child in children:
            check_stopped(case, child, number, "torch.distributed.run" in child.argv)
        if children[0].code == 0:
            break
        case.tried += 1
        if case.problems:
            break
    finish(case, argv, processes)
    case.check_equal(lab.twin(processes))


def kill_one(lab: Lab, case: Case, rng: random.Random) -> None:
    """SIGKILL on one process."""
    interrupt(lab, case, rng, signal.SIGKILL, 1)


def kill_two(lab: Lab, case: Case, rng: random.Random) -> None:
    """SIGKILL on two processes."""
    interrupt(lab, case, rng, signal.SIGKILL, 2)


def stop_by(number: int, lab: Lab, case: Case, rng: random.Random) -> None:
    """A signal that can be caught, on one process three times in four, else on two."""
    interrupt(lab, case, rng, number, 1 if rng.random() < 0.75 else 2)


def kill_overwriting(lab: Lab, case: Case, rng: random.Random) -> None:
    """SIGKILL or SIGTERM while a finished run is overwritten; the same command then does what it was to do."""
    twin = lab.twin(1)
    shutil.copytree(twin.folder, case.folder)
    argv = case.command("--overwrite")
    number = rng.choice([signal.SIGKILL, signal.SIGTERM])
    # deleting a run takes one operation a file: the first ones are those of the deletion, behind the decoding
    operation = rng.randint(1, 60)
    case.notes.append(f"{signal.Signals(number).name} at file operation {operation}")
    children = case.launch(argv, watcher=at_operation(operation, number, False))
    wait(children)
    case.settle(children)
    check_stopped(case, children[0], number, False)
    finish(case, argv, 1)
    case.check_equal(twin)


def lost_peer(lab: Lab, case: Case, rng: random.Random) -> None:
    """One of two processes is killed while both train: the other one ends by itself; the run goes on from there."""
    argv = case.command(*RESUME, n_steps=LONG_ENOUGH)
    children = case.launch(argv, 2)
    metrics, victim = case.folder / "metrics.jsonl", rng.randrange(2)
    case.notes.append(f"SIGKILL to process {victim} of 2")
    pid = children[victim].pid
    wait(children, look=metrics.exists, strike=lambda: (time.sleep(rng.uniform(0, 0.3)), os.kill(pid, 9)))
    close_problems = len(case.problems)
    case.settle(children)
    # a peer that vanishes is nobody's mistake: what the other one says is its own matter, its end is not
    case.problems[close_problems:] = [text for text in case.problems[close_problems:] if text != "traceback"]
    if children[1 - victim].code == 0:
        case.fail("the other process ended as if all were well")
    steps = sorted((case.folder / "checkpoints").glob("step-*.pt"))
    last = int(steps[-1].stem[5:]) if steps else 0
    finish(case, case.command(*RESUME, n_steps=max(N_STEPS, last + 1)), 2)
    if last < N_STEPS:
        for text in differences(case.folder, lab.twin(2).folder):
            case.fail(text)
