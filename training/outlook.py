"""How long a run takes and what it writes, as its own first steps say: one line after FIRST_STEPS of them."""

import random
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from games.schedule import schedule_of
from games.task import Task
from generation.snapshots import power_name
from generation.state import tensor_bytes
from modelling.layers import Size, size_text
from ops.memory import size_in_words
from settings import TrainConfig
from training.averages import n_snapshots
from training.layers import layers_of
from training.logs import RunLog
from training.pictures import pictures_after

FIRST_STEPS = 20  # measured on a CPU
MOST_STEPS = 64  # on a GPU, where the first run of a phase is no measure: until each ran twice, or so many
ROUGH_S = 60.0  # after which steps that take long are a first measure
MONTH_S = 30 * 24 * 3600.0
COUNTED = 20_000  # steps; of more than these so many are counted in their place
REST = "rest"  # of a step: its data, averages, augmentation
# Bytes of a logged number in metrics.jsonl and in TensorBoard's file, and numbers logged beside a phase's own two.
LINE_BYTES, EVENT_BYTES, BESIDE = 30, 80, 8
# The same of numbers whose names are long, those of layers and of samples; numbers of a layer, of a weight set's
# samples; bytes of a layer's histogram.
LONG, OF_LAYER, OF_SAMPLES, HISTOGRAM_BYTES = 2, 2, 5, 620
EVENTS = {"cuda": torch.cuda.Event, "mps": torch.mps.Event}


class Laps:
    """Seconds of the parts of steps as they are computed; on a GPU between events, for which nothing waits."""

    def __init__(self, device: torch.device) -> None:
        self.event = EVENTS.get(device.type)
        self.steps: list[list[tuple[str, Any]]] = []
        self.began = time.monotonic()

    def begin(self) -> None:
        """A step begins."""
        self.steps.append([])
        self.mark("")

    def mark(self, part: str) -> None:
        """A part of the step has ended."""
        if self.event is None:
            stamp: Any = time.monotonic()
        else:
            stamp = self.event(enable_timing=True)
            stamp.record()
        self.steps[-1].append((part, stamp))

    def passed(self) -> bool:
        """Whether the device has come to the end of the last step; asks, and does not wait."""
        return self.event is None or self.steps[-1][-1][1].query()

    def _between(self, a: Any, b: Any) -> float:
        return b - a if self.event is None else a.elapsed_time(b) / 1000

    def seconds(self) -> dict[str, list[float]]:
        """Part -> its seconds in each step that had it."""
        found: dict[str, list[float]] = {}
        for marks in self.steps:
            of_step: dict[str, float] = {}
            for (_, a), (part, b) in zip(marks, marks[1:], strict=False):
                of_step[part] = of_step.get(part, 0.0) + self._between(a, b)
            for part, seconds in of_step.items():
                found.setdefault(part, []).append(seconds)
        return found

    def costs(self) -> dict[str, float]:
        """Part -> its seconds: the median, without the first where there are others, which were prepared by it."""
        return {part: statistics.median(all_[1:] or all_) for part, all_ in self.seconds().items()}


@dataclass(frozen=True)
class Disk:
    """Bytes that a whole run writes: a checkpoint, how many stay, generator/, pictures, logs, a snapshot of
    averages, how many there will be."""

    checkpoint: int
    n_kept: int
    generator: int
    pictures: int
    logs: int
    snapshot: int = 0
    n_snapshots: int = 0

    @property
    def total(self) -> int:
        """All that stands there at the end."""
        kept = self.n_kept * self.checkpoint + self.n_snapshots * self.snapshot
        return kept + self.generator + self.pictures + self.logs

    def words(self) -> str:
        """For people."""
        of_one = size_in_words(self.checkpoint)
        several = f"{self.n_kept} checkpoints of {of_one}" if self.n_kept > 1 else f"a checkpoint of {of_one}"
        if self.n_snapshots:
            several += f", {self.n_snapshots} snapshots of averages of {size_in_words(self.snapshot)}"
        return f"{size_in_words(self.total)} of disk ({several})"


@dataclass(frozen=True)
class Left:
    """What is left of a run, in seconds.

    sizes: size -> (steps, their seconds), of those that were measured; beside: what is done between steps; unmeasured:
    steps at sizes that were not reached yet; lacking: phases that have not run yet, and scores before the first one.
    """

    sizes: dict[Size | None, tuple[int, float]]
    beside: dict[str, float]
    unmeasured: int = 0
    lacking: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Those that are counted."""
        return sum(steps for steps, _ in self.sizes.values())

    @property
    def seconds(self) -> float:
        """Of all that is counted."""
        return sum(seconds for _, seconds in self.sizes.values()) + sum(self.beside.values())


class Outlook:
    """Measures the first steps of a run, and of each size where it grows; says what follows for the rest.

    Takes the time, and nothing else: no number of a run depends on it, and no tensor is read. weights: what a
    checkpoint holds of weights, averages and moments.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        log: RunLog,
        device: torch.device,
        weights: Callable[[], dict[str, Any]],
    ) -> None:
        self.config, self.task, self.log, self.device, self.weights = config, task, log, device, weights
        self.costs: dict[Size | None, dict[str, float]] = {}  # by size: part -> seconds
        self.laps: Laps | None = None
        self.size: Size | None = None
        self.said_rough = self.without_scores = False

    # -- measuring -------------------------------------------------------------------------------------------------

    def begin(self, step: int) -> None:
        """A step begins; the first one of all, and of a size that was not measured, begins a measure on the main
        process, which alone tells."""
        if not self.log.main:
            return
        size = self.task.size_at(step)
        if size not in self.costs and (self.laps is None or size != self.size):
            self.size, self.laps = size, Laps(self.device)
        if self.laps is not None:
            self.laps.begin()

    def lap(self, part: str) -> None:
        """A part of the step has ended."""
        if self.laps is not None:
            self.laps.mark(part)

    def settle(self) -> None:
        """Take what was measured of this size, if anything was."""
        if self.laps is not None:
            self.costs[self.size], self.laps = self.laps.costs(), None

    def after(self, step: int) -> None:
        """Say what is to be said after so many steps of the run."""
        if not self.log.main or step >= self.config.n_steps:
            return
        if self.laps is not None:
            if self._enough() and self.laps.passed():
                self.settle()
                self._say(step)
            elif not self.said_rough and self._slow() and self.laps.passed():
                self.said_rough, self.costs[self.size] = True, self.laps.costs()
                self._say(step, "a first ")
                del self.costs[self.size]
        elif self.without_scores and "scores" in self.log.took:
            self._say(step)

    def _enough(self) -> bool:
        n = len(self.laps.steps)
        if self.device.type == "cpu" or n < FIRST_STEPS:
            return n >= FIRST_STEPS
        ran = Counter(part for marks in self.laps.steps for part, _ in marks)
        return n >= MOST_STEPS or all(ran[phase.name] > 1 for phase in self.task.phases)

    def _slow(self) -> bool:
        return len(self.laps.steps) > 1 and time.monotonic() - self.laps.began > ROUGH_S

    # -- what follows ----------------------------------------------------------------------------------------------

    def left(self, step: int) -> Left:
        """What is left after so many steps, as far as it was measured."""
        n = self.config.n_steps - step
        steps = range(step, self.config.n_steps)
        seconds, counts, lacking = Counter(), Counter(), set()
        for at in steps if n <= COUNTED else random.Random(0).sample(steps, COUNTED):
            size = self.task.size_at(at)
            counts[size] += 1
            if (costs := self.costs.get(size)) is None:
                continue
            due = [phase.name for phase in self.task.phases if phase.due(at)]
            seconds[size] += costs[REST] + sum(costs.get(name, 0.0) for name in due)
            lacking |= set(due) - costs.keys()
        each = n / max(counts.total(), 1)  # steps that one of them stands for
        sizes = {
            size: (round(each * counts[size]), each * seconds[size]) for size in counts if size in self.costs
        }
        known = sum(steps for steps, _ in sizes.values())
        beside = self._beside(step)
        missing = [phase.name for phase in self.task.phases if phase.name in lacking]
        missing += ["scores"] if self.without_scores else []
        return Left(sizes, beside, n - known, tuple(missing))

    def _beside(self, step: int) -> dict[str, float]:
        """Seconds of pictures, checkpoints and scores to come; scores are absent until the first one was taken."""
        config, took = self.config, self.log.took
        picture = took.get("sample grid", 0.0)
        found = {
            "pictures": picture * pictures_after(step, config.sample_interval, config.n_steps),
            # weights are prepared for its generator/ as for a picture
            "checkpoints": took.get("checkpoint", picture) * self._times(step, config.checkpoint_interval),
        }
        self.without_scores = config.eval_interval is not None and "scores" not in took
        if config.eval_interval is not None and not self.without_scores:
            found["scores"] = took["scores"] * self._times(step, config.eval_interval)
        return found

    def _times(self, step: int, interval: int) -> int:
        """How often what is done every `interval` steps, and at the end, comes after so many steps."""
        n = self.config.n_steps
        return n // interval - step // interval + (n % interval > 0)

    def disk(self) -> Disk:
        """What the whole run writes."""
        config, weights = self.config, self.weights()
        n_sets = 1 + len(weights["ema"])
        averaged = {name: weights["networks"][name] for name in self.task.averaged}
        n_kept = min(config.keep_checkpoints, self._times(0, config.checkpoint_interval))
        n_logs = self._times(0, config.log_interval)
        sizes = [file.stat().st_size for file in (self.log.folder / "samples").glob("step-*.png")]
        picture = statistics.mean(sizes) if sizes else 0.0
        tracked = "tensorboard" in config.loggers
        n_values = 2 * len(self.task.phases) + BESIDE
        n_times = 1 + pictures_after(0, config.sample_interval, config.n_steps)
        n_pictures = n_sets * n_times
        n_layers = sum(len(layers_of(network)) for network in self.task.networks.values())
        n_healths = config.n_steps // config.health_interval if config.health_interval else 0
        n_long = n_healths * n_layers * OF_LAYER + n_pictures * OF_SAMPLES
        number = LINE_BYTES + EVENT_BYTES * tracked
        return Disk(
            checkpoint=tensor_bytes(weights),
            n_kept=n_kept + (config.eval_interval is not None),  # the best one stays
            generator=n_sets * tensor_bytes(averaged),
            pictures=round(picture * n_pictures * (1 + tracked)),
            snapshot=tensor_bytes({w: weights["ema"].get(power_name(w), {}) for w in config.ema_power}),
            n_snapshots=n_snapshots(config, schedule_of(config).images) if config.ema_power else 0,
            logs=(n_logs * n_values + LONG * n_long) * number
            + n_times * n_layers * HISTOGRAM_BYTES * tracked,
        )

    # -- words -----------------------------------------------------------------------------------------------------

    def _say(self, step: int, how: str = "") -> None:
        left, disk = self.left(step), self.disk()
        text = f"{how}estimate: about {duration(left.seconds)} for the {left.steps:,} steps left"
        if left.unmeasured:
            text += f" at {size_text(self.size)} px; {left.unmeasured:,} at larger sizes come on top"
            text += " (--dry_run measures all)"
        else:
            text += f", the last one {moment(left.seconds)}"
        if left.lacking:
            text += f", without {' and '.join(left.lacking)}, not measured yet"
        self.log.say(f"{text}; {disk.words()}")
        for line in warnings_of(left, disk, self.log.folder, self.device):
            self.log.say(line)


def warnings_of(left: Left, disk: Disk, folder: Path, device: torch.device) -> list[str]:
    """Lines on a run that lasts longer than a month, or has no room."""
    lines = []
    if left.seconds > MONTH_S:
        lines.append(
            f"warning: on this machine ({device.type}) the run takes about {duration(left.seconds)}: take fewer "
            "--n_steps, a smaller --img_size, a smaller --model or width (--g_kwargs, --d_kwargs), or a faster machine"
        )
    free = free_space(folder)
    if free is not None and disk.total > free:
        lines.append(
            f"warning: the run writes about {size_in_words(disk.total)}, and {size_in_words(free)} are free where "
            f"{folder} stands: free some space, or give another --runs_dir"
        )
    return lines


def free_space(folder: Path) -> int | None:
    """Bytes free where a folder stands or will stand; None where that is not known."""
    there = next((place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir()), None)
    try:
        return None if there is None else shutil.disk_usage(there).free
    except OSError:
        return None


def duration(seconds: float) -> str:
    """45 s, 12 min, 3 h 20 min, 2 days 4 h, 5 months, 3.2 years."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if seconds < 99.5:
        return f"{max(seconds, 1):.0f} s"
    if minutes < 99.5:
        return f"{minutes:.0f} min"
    if hours < 24:
        return f"{int(hours)} h {int(minutes % 60):02d} min"
    if days < 60:
        return f"{int(days)} day{'s' if days >= 2 else ''} {int(hours % 24)} h"
    if days < 700:
        return f"{days / 30.4:.0f} months"
    return f"{days / 365.25:,.1f} years"


def moment(seconds: float) -> str:
    """On Sat 28 Nov 2026, 06:10: so many seconds from now."""
    try:
        return f"on {datetime.now() + timedelta(seconds=seconds):%a %d %b %Y, %H:%M}"
    except OverflowError:
        return "after the year 9999"
