"""Archives, pictures and folders made to do harm: one line each, within bounds of memory and time."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from studies.attacks.archives import pictures
from studies.attacks.runs import Case, Lab

GB = 10**9
ESCAPES = "\x1b[31mred\x1b[0m\r\nerror: forged\x07"


@dataclass(frozen=True)
class Hostile:
    """One of them: build(folder) makes it inside an empty folder and gives what --data is told; must: is refused."""

    build: Callable[[Path], Path]
    must: bool = False


Table = dict[str, Hostile]


def entering(table: Table) -> Callable[..., Callable]:
    """A decorator hostile(name, must) that enters a builder into the table."""

    def hostile(name: str, must: bool = False) -> Callable[[Callable], Callable]:
        def enter(build: Callable[[Path], Path]) -> Callable[[Path], Path]:
            assert name not in table, name
            table[name] = Hostile(build, must)
            return build

        return enter

    return hostile


@cache
def good() -> dict[str, bytes]:
    """Pictures that are as they should be."""
    return pictures()


def put(folder: Path, name: str, data: bytes) -> Path:
    """A file of these bytes."""
    file = folder / name
    file.write_bytes(data)
    return file


def among_good(folder: Path) -> Path:
    """A folder with good pictures in it."""
    inner = folder / "pictures"
    for name, data in good().items():
        (inner / name).parent.mkdir(parents=True, exist_ok=True)
        (inner / name).write_bytes(data)
    return inner


def attack(table: Table, lab: Lab, case: Case, rng: random.Random, index: int) -> None:
    """One of the table, given to a training; the first ones are of all sorts."""
    name = random.Random(0).sample(sorted(table), len(table))[index % len(table)]
    row = table[name]
    folder = case.scratch / "data"
    folder.mkdir()
    case.notes.append(name)
    data = row.build(folder)
    argv = case.command("--data", str(data), n_steps=1)
    # the scores of so few pictures are not what is looked at here
    for flag in ("--eval_interval", "--eval_n", "--extractor"):
        place = argv.index(flag)
        del argv[place : place + 2]
    (child,) = case.run(argv)
    case.check_refusal(child, may_pass=not row.must)
