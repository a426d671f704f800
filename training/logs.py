"""What a run shows and writes: progress, metrics.jsonl, trackers, the best score's step."""

import json
import math
import os
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
        shown = {"loss/d": "D", "loss/g": "G", "img_per_s": "img/s"}
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


GENERATOR = "generator"  # what a protocol says of fakes that are a generator's
# What two scores must share to be compared.
COMPARABLE = (
    "best_by", "n_fake", "n_real", "data_fingerprint", "split", "size", "labels", "weights", "truncation",
    "truncation_layers", "batch_norm", "seed", "extractor_sha256",
)  # fmt: skip


def protocol_key(line: dict[str, Any]) -> str:
    """Equal for two lines of scores.jsonl whose scores can be compared."""
    about = line.get("protocol", {})
    return json.dumps([about.get(name) for name in COMPARABLE])


def best_scores(path: Path) -> list[tuple[int, int]]:
    """(how many, step of the best) for every group of comparable scores of generated images in a scores.jsonl.

    A score counts by what its protocol says that it is judged by. The group that grew last comes last.
    """
    # (name, protocol) -> count, best value, its step
    found: dict[tuple[str, str], tuple[int, float, int]] = {}
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
            about, step, key = line.get("protocol", {}), line["step"], protocol_key(line)
            # lines of before scores said by what they are judged had a Frechet distance
            name, better = about.get("best_by") or (next(k for k in line if k.startswith("fid")), "low")
            value = line[name] if better == "low" else -line[name]
        except (ValueError, KeyError, AttributeError, TypeError, StopIteration):  # half a line, or another's
            continue
        if about.get("fakes", GENERATOR) == GENERATOR and math.isfinite(value):
            count, *best = found.pop((name, key), (0, math.inf, -1))
            found[name, key] = (count + 1, *min(tuple(best), (value, step)))
    return [(count, step) for count, _, step in found.values()]


def best_step(path: Path) -> int | None:
    """The step with the best score among those taken most often in the same way, along training; None without any."""
    found = best_scores(path)
    most = max((count for count, _ in found), default=0)
    return next((step for count, step in reversed(found) if count == most), None)


def append_score(file: Path, line: dict[str, Any]) -> None:
    """Add a line to scores.jsonl; OSError where that cannot be written."""
    # JSON has no infinity: KL to data is infinite where a class appears that the reference lacks.
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(plain) + "\n")


def cut_lines(path: Path, step: int) -> None:
    """Drop the lines of a .jsonl that are later than `step`."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # the half line of a killed process
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
