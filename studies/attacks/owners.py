"""Several runs at once, and commands that meet a run that is alive."""

import random
import signal
import socket
import time

from studies.attacks.children import GRACE_S, HANG_S, kill_group, wait
from studies.attacks.interruptions import RESUME
from studies.attacks.runs import N_STEPS, Case, Lab, differences

LONG = 100_000  # steps that nobody waits for


def unnamed(lab: Lab, case: Case, rng: random.Random) -> None:
    """2, 4 or 8 runs at once without names: as many folders, each equal to a run alone."""
    n = rng.choice([2, 4, 8])
    case.notes.append(f"{n} at once")
    children = [case.launch(case.command(name=None))[0] for _ in range(n)]
    wait(children)
    case.settle(children)
    case.check_end(children)
    folders = sorted((case.scratch / "runs").iterdir())
    if len(folders) != n:
        case.fail(f"{len(folders)} folders of {n} runs")
    for folder in folders:
        for text in differences(folder, lab.twin(1).folder):
            case.fail(f"{folder.name}: {text}")


def same_name(lab: Lab, case: Case, rng: random.Random) -> None:
    """The same name 2 to 4 times at once: one trains, the others are refused in one line."""
    n, words = rng.choice([2, 3, 4]), rng.choice([(), RESUME, ("--overwrite",)])
    case.notes.append(f"{n} at once, {' '.join(words) or 'no flag'}")
    children = []
    for _ in range(n):
        children += case.launch(case.command(*words, n_steps=LONG))
        time.sleep(rng.choice([0, 0, 0.01, 0.1]))
    # losers end by themselves, the winner trains on until it is stopped
    wait(children, HANG_S, look=lambda: _trains_alone(case, children), strike=lambda: _stop(children))
    case.settle(children)
    winners = [child for child in children if child.code == 128 + signal.SIGTERM]
    if len(winners) != 1:
        case.fail(f"{len(winners)} of {n} trained")
    for child in children:
        if child not in winners:
            case.check_refusal(child, may_pass=False)


def _trains_alone(case: Case, children: list) -> bool:
    """All but one have ended, and that one has written something; or a minute and a half is over."""
    left = [child for child in children if child.code is None]
    trains = (case.folder / "metrics.jsonl").exists() and any((case.folder / "checkpoints").glob("step-*.pt"))
    return (len(left) <= 1 and trains) or time.monotonic() - children[0].began > 90


def _stop(children: list) -> None:
    for child in children:
        if child.code is None:
            kill_group(child.group, signal.SIGTERM)


def live(lab: Lab, case: Case, rng: random.Random) -> None:
    """A run that is alive is asked for again: refused in one line that names host and process; it goes on unharmed."""
    words = rng.choice([("--resume",), RESUME, ("--overwrite",), ()])
    case.notes.append(" ".join(words) or "no flag")
    first = case.launch(case.command(n_steps=LONG))
    wait_for = case.folder / "checkpoints"
    asked: list = []

    def ask() -> None:
        asked.extend(case.launch(case.command(*words, n_steps=LONG)))
        wait(asked)
        end = time.monotonic() + GRACE_S
        while newest() < N_STEPS // 4 and time.monotonic() < end:
            time.sleep(0.02)
        kill_group(first[0].group, signal.SIGTERM)

    def newest() -> int:
        return max((int(file.stem[5:]) for file in wait_for.glob("step-*.pt")), default=0)

    wait(first, HANG_S, look=lambda: wait_for.is_dir() and any(wait_for.glob("step-*.pt")), strike=ask)
    case.settle([*first, *asked])
    if first[0].code != 128 + signal.SIGTERM:
        case.fail(f"the run ended with {first[0].code} in place of 143")
    for child in asked:
        case.check_refusal(child, may_pass=False)
        if words and not (str(first[0].pid) in child.text and socket.gethostname() in child.text):
            case.fail("the refusal does not name host and process")
    if newest() < N_STEPS // 4:
        case.fail("the run did not go on")
