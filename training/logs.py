"""What a run shows and writes: progress, metrics.jsonl, trackers, the best score's step."""

import json
import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from safetensors import SafetensorError
from tqdm import tqdm

from generation.protocol import append_score, best_scores, cut_lines

PLAIN_SECONDS = 10.0  # between lines when stderr is no terminal


class RunLog:
    """Main-process output of one run folder; on other processes every method does nothing."""

    def __init__(self, folder: Path, accelerator: Accelerator, n_steps: int, batch_size: int) -> None:
        self.folder, self.accelerator, self.main = folder, accelerator, accelerator.is_main_process
        self.n_steps, self.batch_size = n_steps, batch_size
        self.latest: dict[str, float] = {}
        self._warned: set[str] = set()
        self._bar: tqdm | None = None
        self._excepthook = threading.excepthook
        self._mark = self._line_mark = self._began = (time.monotonic(), 0)

    def start(self, step: int) -> None:
        """Clocks and the bar begin here; called when training does."""
        self._mark = self._line_mark = self._began = (time.monotonic(), step)
        self._excepthook, threading.excepthook = threading.excepthook, self._thread_failed
        if self.main and step < self.n_steps and sys.stderr.isatty():
            self._bar = tqdm(total=self.n_steps, initial=step, unit="it", dynamic_ncols=True)

    def say(self, text: str) -> None:
        """One line for the user."""
        if self.main:
            if self._bar is not None:
                self._bar.clear()
            print(text, file=sys.stderr if text.startswith(("warning", "error")) else sys.stdout, flush=True)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Append to metrics.jsonl and to the trackers, with the speed since the last call."""
        now = time.monotonic()
        then, at = self._mark
        values = {**values, "img_per_s": (step - at) * self.batch_size / max(now - then, 1e-9)}
        self._mark = (now, step)
        self.latest = values
        if not self.main:
            return
        # NaN is no JSON: a reader of the file sees null
        finite = {k: (v if math.isfinite(v) else None) for k, v in values.items()}
        self.attempt("metrics.jsonl", lambda: self._append(json.dumps({"step": step, **finite})))
        self.attempt("tracker", lambda: self.accelerator.log(values, step=step))

    def _append(self, line: str) -> None:
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(line + "\n")

    def attempt(self, what: str, write: Callable[[], None]) -> None:
        """Write beside the training; a full disk is a warning, the run goes on."""
        try:
            write()
        except (OSError, SafetensorError) as error:  # the latter is safetensors' form of a failed write
            self._warn_once(what, error)

    def _warn_once(self, what: str, error: BaseException | None) -> None:
        reason = getattr(error, "strerror", None) or error
        if what not in self._warned:
            text = f"{what} of {self.folder} not written: {reason}; training goes on, free some space (said once)"
            self.say(f"warning: {text}")
        self._warned.add(what)

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """TensorBoard writes from a thread of its own: a full disk there is no traceback either."""
        if isinstance(failure.exc_value, OSError):
            self._warn_once("tracker", failure.exc_value)
        else:
            self._excepthook(failure)

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
        speed = (step - at) / max(now - then, 1e-9)
        left = (self.n_steps - step) / max(speed, 1e-9)
        self._line_mark = (now, step)
        print(
            f"step {step}/{self.n_steps}  {speed:.1f} it/s  {speed * self.batch_size:.0f} img/s  "
            f"{_clock(left)} left  {self._losses()}",
            flush=True,
        )

    def _losses(self) -> str:
        shown = {"loss/d": "D", "loss/g": "G"}
        return "  ".join(f"{text} {self.latest[k]:.4g}" for k, text in shown.items() if k in self.latest)

    def images(self, name: str, grid: np.ndarray, step: int) -> None:
        """A (H, W, C) uint8 picture for the trackers."""
        for tracker in self.accelerator.trackers if self.main else ():
            if hasattr(tracker, "log_images"):
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({name: grid[None] if options else [grid]}, step=step, **options)

    def cut(self, step: int) -> None:
        """Forget the lines after `step`, which are about to be computed again."""
        self._mark = self._line_mark = (time.monotonic(), step)
        for name in ("metrics.jsonl", "scores.jsonl") if self.main else ():
            if (path := self.folder / name).is_file():
                cut_lines(path, step)

    def pause(self, seconds: float) -> None:
        """Leave that much out of the speed of training."""
        for name in ("_mark", "_line_mark"):
            then, step = getattr(self, name)
            setattr(self, name, (then + seconds, step))

    def score(self, line: dict[str, Any]) -> None:
        """Append a line to scores.jsonl and its numbers to the trackers."""
        if not self.main:
            return
        append_score(self.folder / "scores.jsonl", line)
        numbers = {f"score/{k}": v for k, v in line.items() if isinstance(v, float | int) and k != "step"}
        self.accelerator.log(numbers, step=line["step"])

    def best_steps(self) -> set[int]:
        """The steps of the best scores in scores.jsonl, in every way they were taken: their checkpoints stay."""
        return {step for _, step in best_scores(self.folder / "scores.jsonl")}

    def close(self, step: int) -> None:
        """End the bar, flush the trackers, say where things are."""
        if self._bar is not None:
            self._bar.close()
        for tracker in self.accelerator.trackers if self.main else ():
            self.attempt("tracker", tracker.finish)
        threading.excepthook = self._excepthook
        began, start = self._began
        seconds = time.monotonic() - began
        speed = (step - start) * self.batch_size / max(seconds, 1e-9)
        self.say(
            f"step {step} of {self.n_steps} after {seconds:.0f} s ({speed:.0f} img/s); results in {self.folder}"
        )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
