"""`--dry_run`: a run that is built whole, measured on a few steps of each size, and leaves nothing behind."""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from errors import NotFinite
from games.task import Task
from modelling.layers import Size, size_text
from ops.distributed import from_main
from ops.memory import memory_of, size_in_words
from training.claim import RunFolder
from training.folder import Plan
from training.guards import Diverged
from training.loop import Loop
from training.outlook import COUNTED, Disk, Left, duration, free_space, moment, warnings_of

SOON = 1000  # steps among which the first one is chosen
ROUNDS = 3  # of each phase at each size; the first one prepares the others
PATIENCE_S = 20.0  # of a size, after which only what has not run yet is still measured


@dataclass(frozen=True)
class Forecast:
    """What a run will take: time left, bytes on disk, and peaks of memory in bytes, None where they are not known."""

    left: Left
    disk: Disk
    memory: int | None
    device_memory: int | None

    @property
    def seconds(self) -> float:
        """Of the whole rest of the run, without what its first score takes."""
        return self.left.seconds


@contextmanager
def unclaimed(plan: Plan) -> Iterator[RunFolder]:
    """A folder for the run that goes with the block; the plan's own is neither owned nor made."""
    folder = RunFolder(plan)
    with tempfile.TemporaryDirectory(prefix="gan-toolkit-dry-") as path:
        folder.path = Path(path)
        yield folder


def spans(task: Task, start: int, stop: int) -> list[range]:
    """The steps from start to stop, cut where the size changes."""
    found = []
    while start < stop:
        size, low, high = task.size_at(start), start, stop
        while low < high - 1:  # the last step of the size is low or beyond
            middle = (low + high) // 2
            low, high = (middle, high) if task.size_at(middle) == size else (low, middle)
        found.append(range(start, high))
        start = high
    return found


def rehearsed_steps(task: Task, steps: range) -> list[int]:
    """A few of these steps, in which each phase runs ROUNDS times, if it does so often; first one with most phases."""
    grows = task.size_at(steps.start) is not None
    inside = steps[len(steps) // 2 :] if grows else steps  # beyond the fade
    fullest = max(inside[:SOON], key=lambda step: sum(phase.due(step) for phase in task.phases))
    due = [list(islice(filter(phase.due, inside[:COUNTED]), ROUNDS)) for phase in task.phases]
    found = [fullest]
    for k in range(ROUNDS):
        found += sorted({of_phase[k] for of_phase in due if len(of_phase) > k} - set(found))
    return found


def rehearse(loop: Loop) -> Left:
    """Take a few steps of each size that is left; what follows for all. The loop is of no use afterwards."""
    start = loop.step
    for steps in spans(loop.task, start, loop.config.n_steps):
        take_steps(loop, steps)
    return loop.outlook.left(start)


def forecast(loop: Loop) -> Forecast:
    """rehearse, with a picture, a checkpoint and a part of a score."""
    start = loop.step
    rehearse(loop)
    if start < loop.config.n_steps:
        try:
            for hook in loop.hooks:
                loop.write_beside(hook)
            loop.save()
            if loop.scores is not None:
                loop.log.took["scores"] = loop.scores.seconds(loop.samplers())
        except (Diverged, NotFinite):
            pass  # steps that do not follow each other may; their times are none the worse
    on_cuda = loop.device.type == "cuda"
    return Forecast(
        loop.outlook.left(start),
        loop.outlook.disk(),
        peak_memory(),
        torch.cuda.max_memory_reserved(loop.device) if on_cuda else None,
    )


def take_steps(loop: Loop, steps: range) -> None:
    """Take a few of the steps, all of one size; all processes take the same ones."""
    began, ran = time.monotonic(), set()
    size = loop.task.size_at(steps.start)
    if size is not None:
        loop.log.say(f"measuring at {size_text(size)} px")
    for step in rehearsed_steps(loop.task, steps):
        due = {phase.name for phase in loop.task.phases if phase.due(step)}
        if due <= ran and from_main(lambda: time.monotonic() - began > PATIENCE_S):
            continue
        loop.step = step
        loop.run_step()
        ran |= due
    if loop.device.type == "cuda":
        torch.cuda.synchronize(loop.device)
    elif loop.device.type == "mps":
        torch.mps.synchronize()
    loop.outlook.settle()


def peak_memory() -> int | None:
    """Bytes of memory that this process has held at most; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


def lines_of(found: Forecast, loop: Loop, plan: Plan) -> list[str]:
    """What was found, for people."""
    config, left = loop.config, found.left
    if not left.steps:
        return [f"dry run: the run has its {config.n_steps:,} steps, nothing is left to do"]
    lines = ["dry run: nothing was kept but decoded images"]
    lines += [size_line(loop, size, *took) for size, took in left.sizes.items()]
    beside = ", ".join(f"{what} {duration(seconds)}" for what, seconds in left.beside.items() if seconds)
    text = f"time: about {duration(left.seconds)} for {left.steps:,} steps"
    text += f" ({beside} of it)" if beside else ""
    if left.lacking:
        text += f", without {' and '.join(left.lacking)}, which come on top"
    lines.append(f"{text}; begun now it ends {moment(left.seconds)}")
    lines.append(f"memory: {memory_words(found, loop.device)}")
    folder = plan.folder or Path(config.runs_dir)
    free = free_space(folder)
    room = "" if free is None else f"; {size_in_words(free)} are free where {folder} stands"
    disk = found.disk
    lines.append(
        f"disk: about {disk.words()}, generator/ {size_in_words(disk.generator)}, pictures "
        f"{size_in_words(disk.pictures)}, logs {size_in_words(disk.logs)}{room}"
    )
    return lines + warnings_of(left, disk, folder, loop.device)


def size_line(loop: Loop, size: Size | None, steps: int, seconds: float) -> str:
    """Seconds of a step, and of its parts."""
    of_step = seconds / steps
    where = "a step" if size is None else f"a step at {size_text(size)} px"
    parts = ", ".join(f"{part} {took:.3g} s" for part, took in loop.outlook.costs[size].items())
    of_size = next(
        span for span in spans(loop.task, 0, loop.config.n_steps) if loop.task.size_at(span.start) == size
    )
    speed = loop.schedule.batch_size(of_size.start) / of_step
    return f"{where}: {of_step:.3g} s, {speed:,.3g} img/s ({parts}); {steps:,} steps, {duration(seconds)}"


def memory_words(found: Forecast, device: torch.device) -> str:
    """Peaks, and what there is."""
    known = []
    for what, held, there in (
        ("RAM", found.memory, memory_of("cpu")),
        ("GPU memory", found.device_memory, memory_of(device.type)),
    ):
        if held is not None:
            of = "" if there is None else f" of {size_in_words(there)}"
            known.append(f"{size_in_words(held)}{of} of {what} at most")
    return ", ".join(known) or "not known here"
