"""What attacks have in common: a tiny run, its uninterrupted twin, and what must be equal between two runs."""

import json
import os
import random
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from generation.checkpoint import CheckpointError, load_checkpoint
from studies.attacks.children import (
    GRACE_S,
    LIMIT_MB,
    LIMIT_S,
    ROOT,
    Child,
    Watcher,
    close,
    orphans,
    start,
    wait,
)

N_IMAGES = 320  # enough for several decoding processes
N_STEPS = 40
TIMED = {"img_per_s", "date"}  # values of a line that no repeat gives again
STATE = ("step", "attempt", "networks", "ema", "optimizers", "task", "loop")
TINY = (
    "--device cpu --dataset digits --img_size 16 --z_dim 8 --batch_size 8 --norm_g none --norm_d batch "
    "--g_kwargs width=8 --d_kwargs width=8 --ema --extractor digits-cnn "
    "--log_interval 5 --sample_interval 10 --checkpoint_interval 7 --eval_interval 20 --eval_n 64"
)
# torchrun's own, that of Python's tempfile as it tries a folder, and the steps at which a run happened to be stopped
FREE = re.compile(r"^tmp/torchelastic_|^tmp/[a-z0-9_]{8}$|checkpoints/step-\d{8,}\.pt$")
TRACEBACK = "Traceback (most recent call last)"
# A frame of the toolkit's own: torchrun, too, ends so when it is stopped before it has begun.
OURS = re.compile(rf'File "{re.escape(str(ROOT))}/(?!\.venv/)')
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass
class Twin:
    """An uninterrupted run: its folder, seconds, and the paths of its file operations, relative to its scratch."""

    folder: Path
    seconds: float
    operations: list[str]


@dataclass
class Lab:
    """What is made once and shared by all attacks."""

    folder: Path
    twins: dict[int, Twin] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data = self.folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        with np.load(ROOT / "assets" / "digits.npz") as file:
            for i, image in enumerate(file["images"][:N_IMAGES]):
                Image.fromarray(image).resize((24, 24)).save(self.data / f"{i:04d}.png")

    def command(
        self, scratch: Path, *words: str, name: str | None = "run", n_steps: int = N_STEPS
    ) -> list[str]:
        """The tiny run, its folder and caches inside scratch."""
        places = {"data": self.data, "cache_dir": scratch / "cache", "runs_dir": scratch / "runs"}
        named = [] if name is None else ["--log_name", name]
        flags = [text for key, value in places.items() for text in (f"--{key}", str(value))]
        return ["gan_mnist.py", *shlex.split(TINY), "--n_steps", str(n_steps), *flags, *named, *words]

    def twin(self, processes: int) -> Twin:
        """The uninterrupted run on so many processes; made at the first call."""
        if processes not in self.twins:
            scratch = self.folder / f"twin-{processes}"
            case = Case(self, scratch)
            file = self.folder / f"operations-{processes}"
            file.write_text("")
            children = case.run(case.command(), processes, watcher=_recorder(file))
            case.check_end(children)
            if case.problems:
                shown = "\n".join(child.shown for child in children)
                raise RuntimeError(f"the uninterrupted run failed: {case.problems}\n{shown}")
            operations = [os.path.relpath(line, scratch) for line in file.read_text().splitlines()]
            self.twins[processes] = Twin(scratch / "runs" / "run", children[0].seconds, operations)
        return self.twins[processes]


def _recorder(file: Path) -> Watcher:
    """A watcher that writes down every path."""
    opened: list[int] = []

    def record(count: int, path: str) -> None:
        if not opened:
            opened.append(os.open(file, os.O_WRONLY | os.O_APPEND))
        os.write(opened[0], f"{path}\n".encode())

    return record


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Case:
    """One attack: its scratch folder, the commands it has run, and what went wrong."""

    def __init__(self, lab: Lab, scratch: Path) -> None:
        self.lab, self.scratch = lab, scratch
        self.children: list[Child] = []
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.tried = 1
        self.failed: int | None = None  # of those tried; None: one where there is a problem
        scratch.mkdir(parents=True, exist_ok=True)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.scratch / "runs" / "run"

    def command(self, *words: str, **options: Any) -> list[str]:
        """The tiny run in this scratch folder."""
        return self.lab.command(self.scratch, *words, **options)

    def fail(self, text: str) -> None:
        """Something did not hold."""
        self.problems.append(text)

    def launch(
        self,
        argv: Sequence[str],
        processes: int = 1,
        *,
        fresh: bool = False,
        watcher: Watcher | None = None,
        prepare: Callable[[], None] | None = None,
        program: Callable[[], int] | None = None,
    ) -> list[Child]:
        """Start the command on one or two processes of one group; fresh: by torchrun where there are two."""
        if processes == 1:
            found = [
                start(argv, self.scratch, fresh=fresh, watcher=watcher, prepare=prepare, program=program)
            ]
        elif fresh:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
            found = [start([*launcher, *argv], self.scratch, fresh=True)]
        else:
            found = []
            about = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
            about |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
            for rank in range(processes):
                own = about | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                group = found[0].group if found else 0
                watching = watcher if rank == 0 else None
                found.append(
                    start(argv, self.scratch, environment=own, group=group, watcher=watching, prepare=prepare)
                )
        self.children += found
        return found

    def run(
        self, argv: Sequence[str], processes: int = 1, seconds: float = 180.0, **options: Any
    ) -> list[Child]:
        """Start the command and wait for its end; what it leaves running is a problem."""
        found = self.launch(argv, processes, **options)
        wait(found, seconds)
        self.settle(found)
        return found

    def settle(self, children: Sequence[Child]) -> None:
        """After the end of commands: nothing of them may be left; no traceback, no hang, no wild output."""
        close(children)
        for text in orphans(GRACE_S):
            self.fail(f"left running: {text}")
        for child in children:
            if child.timed_out:
                self.fail("did not end")
            if TRACEBACK in child.text and OURS.search(child.text):
                self.fail("traceback")
            if CONTROL.search(child.text):
                self.fail("control characters in the output")

    def check_end(self, children: Sequence[Child]) -> None:
        """All ended with 0."""
        for child in children:
            if child.code:
                last = child.text.strip().splitlines()[-1:] or [""]
                self.fail(f"exit {child.code}: {last[0][:200]}")

    def check_mild(self, child: Child) -> None:
        """The command has gone on, or has given up in one line."""
        if child.code == 2 and len(child.errors()) == 1:
            return
        self.check_end([child])

    def check_refusal(self, child: Child, *, may_pass: bool) -> None:
        """The command has refused what it was given: exit 2, one line; or, where it may, gone on. Within bounds.

        Its time is that of processors, since others use them too.
        """
        if child.code == 2:
            if len(child.errors()) != 1:
                self.fail(f"exit 2 with {len(child.errors())} lines of error")
        elif child.code != 0 or not may_pass:
            self.fail(f"exit {child.code} in place of 2" + ("" if child.code else ": taken without a word"))
        if child.busy > LIMIT_S:
            self.fail(f"took {child.busy:.0f} s")
        if child.megabytes > LIMIT_MB:
            self.fail(f"took {child.megabytes:.0f} MB")

    def check_equal(self, twin: Twin) -> None:
        """The run equals the uninterrupted one, and nothing temporary is left anywhere."""
        for text in differences(self.folder, twin.folder):
            self.fail(text)
        for text in leavings(self.scratch, twin.folder.parent.parent):
            self.fail(text)


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl without what depends on time; ValueError for one that is no whole line."""
    text = file.read_text()
    if text and not text.endswith("\n"):
        raise ValueError("the last line is not whole")
    return [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in text.splitlines()]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested containers with its path."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in items:
            yield from leaves(child, f"{path}/{key}")
    else:
        yield path, value


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


def state_differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Where two checkpoints' states are not equal to the last bit."""
    left, right = ({k: v for part in STATE for k, v in leaves(s.get(part), part)} for s in (a, b))
    return [
        k
        for k in left.keys() | right.keys()
        if k not in left or k not in right or not same(left[k], right[k])
    ]


def differences(folder: Path, twin: Path, n_steps: int = N_STEPS) -> list[str]:
    """In what a run differs from its uninterrupted twin, a line each; speeds and dates aside."""
    found = []
    name = f"checkpoints/step-{n_steps:08d}.pt"
    try:
        names = state_differences(load_checkpoint(folder / name), load_checkpoint(twin / name))
        found += [f"{name} differs in {len(names)} places, {names[0]}"] if names else []
    except CheckpointError as error:
        found.append(str(error))
    for name in ("metrics.jsonl", "scores.jsonl"):
        try:
            if (lines := lines_of(folder / name)) != (wanted := lines_of(twin / name)):
                steps, others = ([line.get("step") for line in each] for each in (lines, wanted))
                found.append(f"{name} differs: steps {steps}, wanted {others}")
        except (OSError, ValueError) as error:
            found.append(f"{name}: {error}")
    for part in ("samples", "generator"):
        names = {file.name for file in (twin / part).glob("*")} | {
            file.name for file in (folder / part).glob("*")
        }
        for name in sorted(names):
            one, other = folder / part / name, twin / part / name
            if not one.is_file() or not other.is_file():
                found.append(f"{part}/{name} is {'missing' if other.is_file() else 'too much'}")
            elif one.read_bytes() != other.read_bytes():
                found.append(f"{part}/{name} differs")
    return found


def listing(folder: Path) -> set[str]:
    """Names in a run's scratch folder that do not depend on time or on which steps were saved; locks are left out."""
    names = set()
    for base, folders, files in os.walk(folder):
        for name in [*files, *(f for f in folders if not os.listdir(Path(base) / f))]:
            path = os.path.relpath(Path(base) / name, folder)
            if path.endswith(".lock") or FREE.search(path):
                continue
            names.add(re.sub(r"events\.out\.tfevents\..*", "events", path))
    return names


def leavings(scratch: Path, twin: Path) -> list[str]:
    """Files of a finished run that the uninterrupted one does not have: temporary ones, mostly."""
    extra = sorted(name for name in listing(scratch) - listing(twin) if not (twin / name).is_dir())
    return [f"left behind: {name}" for name in extra[:5]] + (
        [f"and {len(extra) - 5} more"] if extra[5:] else []
    )


def preload(lab: Lab) -> None:
    """Import here what a run imports on its way, so that no child has to."""
    file = lab.folder / "modules"
    case = Case(lab, lab.folder / "preload")

    def at_exit() -> None:
        original = os._exit

        def leave(code: int) -> None:
            file.write_text("\n".join(sys.modules))
            original(code)

        os._exit = leave

    case.run(case.command(n_steps=1), prepare=at_exit)
    for name in file.read_text().splitlines():
        if name not in sys.modules and not name.startswith("__"):
            try:
                __import__(name)
            except Exception:  # made on the way, or by another name
                continue
    shutil.rmtree(case.scratch)


def scratch_random(seed: int, title: str, index: int) -> random.Random:
    """The randomness of one attack, a function of the seed, its kind and its number."""
    return random.Random(f"{seed}/{title}/{index}")
