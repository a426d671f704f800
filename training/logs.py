"""What a run shows and writes: progress, metrics.jsonl, trackers, the best score's step."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from tqdm import tqdm

import disk
from generation.protocol import append_score, cut_lines
from generation.snapshots import drop_snapshots
from metrics.lines import best_scores
from training.layers import Histogram

PLAIN_SECONDS = 10.0  # between lines when stderr is no terminal


class RunLog:
    """Main-process output of one run folder; on other processes every method does nothing.

    images_before: step -> images seen before it.
    """

    def __init__(
        self, folder: Path, accelerator: Accelerator, n_steps: int, images_before: Callable[[int], int]
    ) -> None:
        self.folder, self.accelerator, self.main = folder, accelerator, accelerator.is_main_process
        self.n_steps, self.images_before = n_steps, images_before
        self.latest: dict[str, float] = {}
        self.noted: dict[str, float] = {}  # of this step, not written yet
        self.skipped = 0  # updates, as far as the loop has read it from the device
        self.took: dict[str, float] = {}  # seconds of what is done beside training, the last time
        self._failing: set[str] = set()  # what could not be written the last time
        self._bar: tqdm | None = None
        self._mark = self._line_mark = self._began = (time.monotonic(), 0)

    def start(self, step: int) -> None:
        """Clocks and the bar begin here; called when training does."""
        self._mark = self._line_mark = self._began = (time.monotonic(), step)
        if self.main and step < self.n_steps and sys.stderr.isatty():
            self._bar = tqdm(total=self.n_steps, initial=step, unit="it", dynamic_ncols=True)

    def say(self, text: str) -> None:
        """One line for the user."""
        if self.main:
            if self._bar is not None:
                self._bar.clear()
            print(text, file=sys.stderr if text.startswith(("warning", "error")) else sys.stdout, flush=True)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say what goes on beside training: on the bar, or in a line where it took long the last time."""
        if not self.main:
            yield
            return
        began = time.monotonic()
        if self._bar is not None:
            self._bar.set_description_str(what)
        elif self.took.get(what, 0) >= PLAIN_SECONDS:
            print(f"{what} ({self.took[what]:.0f} s the last time)", flush=True)
        try:
            yield
        finally:
            self.took[what] = time.monotonic() - began
            if self._bar is not None:
                self._bar.set_description_str("")

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Append to metrics.jsonl and to the trackers, with the speed since the last call."""
        now = time.monotonic()
        then, at = self._mark
        values = {**values, "img_per_s": self._seen(at, step) / max(now - then, 1e-9)}
        self._mark = (now, step)
        self.latest = values
        self.beside(values, step)

    def note(self, values: dict[str, float]) -> None:
        """Hold values for the line of this step."""
        self.noted |= values

    def beside(self, values: dict[str, float], step: int) -> None:
        """Append values, and what was noted, to metrics.jsonl and to the trackers; nothing without any."""
        values, self.noted = values | self.noted, {}
        if not self.main or not values:
            return
        # NaN is no JSON: a reader of the file sees null
        finite = {k: (v if math.isfinite(v) else None) for k, v in values.items()}
        line = json.dumps({"step": step, **finite})
        self.attempt("metrics.jsonl", lambda: disk.append_line(self.folder / "metrics.jsonl", line))
        self.attempt("tracker", lambda: self.accelerator.log(values, step=step))

    def attempt(self, what: str, write: Callable[[], None]) -> None:
        """Write beside the training: a full disk is a warning, and a note when there is room again."""
        try:
            write()
        except OSError as error:
            if what not in self._failing:
                self._failing.add(what)
                reason = error.strerror or error
                self.say(
                    f"warning: {what} of {self.folder} not written: {reason}; training goes on (said once)"
                )
        else:
            if what in self._failing:
                self._failing.remove(what)
                self.say(f"note: {what} of {self.folder} is written again")

    def tick(self, step: int) -> None:
        """Move the bar, or print a plain line now and then."""
        if not self.main:
            return
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(self._losses(), refresh=False)
            return
        now, (then, at) = time.monotonic(), self._line_mark
        if now - then < PLAIN_SECONDS and step != self.n_steps:
            return
        took = max(now - then, 1e-9)
        speed = (step - at) / took
        left = (self.n_steps - step) / max(speed, 1e-9)
        self._line_mark = (now, step)
        print(
            f"step {step}/{self.n_steps}  {speed:.1f} it/s  {self._seen(at, step) / took:.0f} img/s  "
            f"{_clock(left)} left  {self._losses()}",
            flush=True,
        )

    def _seen(self, since: int, step: int) -> int:
        return self.images_before(step) - self.images_before(since)

    def _losses(self) -> str:
        shown = {"loss/d": "D", "loss/g": "G", "l1": "L1", "cycle": "cycle"}
        return "  ".join(f"{text} {self.latest[k]:.4g}" for k, text in shown.items() if k in self.latest)

    def images(self, name: str, grid: np.ndarray, step: int) -> None:
        """A (H, W, C) uint8 picture for the trackers."""
        for tracker in self.accelerator.trackers if self.main else ():
            if hasattr(tracker, "log_images"):
                tracker.log_images({name: [grid]}, step=step)

    def histograms(self, take: Callable[[], dict[str, Histogram]], step: int) -> None:
        """What take() gives, for trackers that show such."""
        trackers = [t for t in self.accelerator.trackers if hasattr(t, "log_histograms")] if self.main else []
        if trackers:
            values = take()
            for tracker in trackers:
                tracker.log_histograms(values, step=step)

    def cut(self, step: int) -> None:
        """Forget the lines and snapshots after `step`, which are about to be computed again."""
        self.noted = {}
        self._mark = self._line_mark = (time.monotonic(), step)
        for name in ("metrics.jsonl", "scores.jsonl") if self.main else ():
            if (path := self.folder / name).is_file():
                self.attempt(f"the cut of {name}", partial(cut_lines, path, step))
        if self.main:
            self.attempt("the cut of snapshots", partial(drop_snapshots, self.folder, step))
        for tracker in self.accelerator.trackers if self.main else ():
            if hasattr(tracker, "purge"):
                self.attempt("tracker", partial(tracker.purge, step + 1))

    def pause(self, seconds: float) -> None:
        """Leave that much out of the speed of training."""
        for name in ("_mark", "_line_mark"):
            then, step = getattr(self, name)
            setattr(self, name, (then + seconds, step))

    def score(self, line: dict[str, Any]) -> None:
        """Append a line to scores.jsonl, unless a run that was killed right afterwards has, and its numbers to the
        trackers."""
        if not self.main:
            return
        self.attempt("scores.jsonl", lambda: append_score(self.folder / "scores.jsonl", line, once=True))
        numbers = {f"score/{k}": v for k, v in line.items() if isinstance(v, float | int) and k != "step"}
        self.attempt("tracker", lambda: self.accelerator.log(numbers, step=line["step"]))

    def best_steps(self) -> set[int]:
        """The steps of the best scores in scores.jsonl, in every way they were taken: their checkpoints stay."""
        return {step for _, step in best_scores(self.folder / "scores.jsonl")}

    def close(self, step: int) -> None:
        """End the bar, flush the trackers, say where things are."""
        if self._bar is not None:
            self._bar.close()
        for tracker in self.accelerator.trackers if self.main else ():
            self.attempt("tracker", tracker.finish)
        began, start = self._began
        seconds = time.monotonic() - began
        speed = self._seen(start, step) / max(seconds, 1e-9)
        skipped = f"{self.skipped} updates skipped; " if self.skipped else ""
        self.say(
            f"step {step} of {self.n_steps} after {seconds:.0f} s ({speed:.0f} img/s); {skipped}"
            f"results in {self.folder}"
        )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
