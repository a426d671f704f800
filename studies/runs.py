"""What studies of many trainings share: runs of one thread, some at a time, trained once, scored alike, reported."""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

import disk
from errors import UserError, shown, tell
from games.schedule import schedule_of
from generation.checkpoint import CheckpointStore
from generation.version import code_version
from metrics.lines import GENERATOR
from settings import TrainConfig, as_dict
from settings.command_line import parse_config
from settings.files import read_saved
from settings.resume import resume_differences
from tools import evaluate
from tools.common import positive
from tools.table import DASH, Clock, generated_lines, scripts, spread

ROOT = Path(__file__).resolve().parent.parent
POLL = 2.0  # seconds between looks at what runs
LAST_WORDS = 2**14  # bytes of a log that are looked at for what a run said last
OF_REFERENCE = "of the reference images"  # labels, as a protocol says that they were given
# What the scores of every study say, None for what is not said; a study adds what it has chosen.
USUAL = {
    "fakes": GENERATOR, "seed": 0, "truncation": None, "truncation_layers": None, "labels": None, "extractor": None,
    "extractor_sha256": None, "n_real": None, "split": None,
}  # fmt: skip
ENDLESS = 100_000_000  # steps of a run that its seconds end
STOP = 15  # SIGTERM: the run saves and ends with 128 + 15


@dataclass(frozen=True)
class Training:
    """One run of a study.

    flags: the words that start it, but for its name and folders; n_steps: its length in steps, None for one that ends
    after `seconds` of training; scoring: flags of tools.evaluate; protocol: what its scores must say beside USUAL;
    scores: their names, all of which a line must have.
    """

    script: str
    name: str
    runs_dir: Path
    flags: tuple[str, ...]
    n_steps: int | None = None
    seconds: float | None = None
    scoring: tuple[str, ...] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    scores: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it stands."""
        return self.runs_dir / self.name

    @property
    def log(self) -> Path:
        """What it says."""
        return self.runs_dir / f"{self.name}.log"

    def config(self) -> TrainConfig:
        """Its settings; UserError."""
        datasets, defaults = scripts()[f"{self.script}.py"]
        return parse_config(self.script, datasets, defaults, self.flags).config()

    def steps(self) -> list[int]:
        """Steps of its checkpoints."""
        return CheckpointStore(self.folder / "checkpoints").steps()

    @cached_property
    def _clock(self) -> Clock:
        return Clock(self.folder, schedule_of(self.config()).images)

    def clock(self) -> list[tuple[int, float]]:
        """(step, seconds of training) along it."""
        return self._clock.read()

    def due(self) -> bool:
        """Whether it has been trained as long as it should."""
        clock = self.clock() if self.seconds is not None else []
        return bool(clock) and clock[-1][1] >= self.seconds

    def done(self) -> bool:
        """Whether it is trained to its end, and saved."""
        steps = self.steps()
        return self.n_steps in steps if self.seconds is None else bool(steps) and self.due()

    def end(self) -> int:
        """The step that is scored: its last one."""
        return self.n_steps if self.seconds is None else self.steps()[-1]

    def check(self) -> None:
        """UserError where a run of that name has other settings."""
        if not self.steps():
            return
        saved = read_saved(self.folder / "config.json")
        lines = [line for kind in resume_differences(saved, as_dict(self.config())) for line in kind]
        # None: still to be settled by the run itself
        if other := [line for line in lines if not line.endswith("-> None")]:
            raise UserError(
                f"{self.folder} was trained otherwise ({other[0]}): remove it, or choose another --runs_dir"
            )

    def command(self, extra: Sequence[str] = ()) -> list[str]:
        """What starts it, or lets it go on."""
        place = [f"--log_name={self.name}", f"--runs_dir={self.runs_dir}", "--resume=auto"]
        return [sys.executable, f"{self.script}.py", *self.flags, *place, *extra]

    def lines_along(self) -> list[dict[str, Any]]:
        """The scores of all its steps that were taken as all are, and are all there; the newest last."""
        wanted = USUAL | dict(self.protocol)
        return [
            line
            for line in generated_lines(self.folder)
            if all(line["protocol"].get(name) == value for name, value in wanted.items())
            # null: a score that is not finite
            and all(isinstance(line.get(name, ""), int | float | None) for name in self.scores)
        ]

    def lines(self) -> list[dict[str, Any]]:
        """Those of its last step."""
        step = self.end()
        return [line for line in self.lines_along() if line["step"] == step]

    def codes(self) -> list[str]:
        """The versions of the code that it was scored by, the newest last."""
        return [line["protocol"].get("code") for line in self.lines()]

    def trained_by(self) -> set[str]:
        """The versions of the code that it was trained by, as far as its log says so."""
        with suppress(disk.Unreadable), disk.open_regular(self.log) as lines:
            found = (re.match(rb"version (\S+): ", line) for line in lines)
            return {match[1].decode(errors="replace") for match in found if match}
        return set()


# -- training ------------------------------------------------------------------------------------------------------


def train_all(runs: Sequence[Training], jobs: int, extra: Sequence[str] = ()) -> list[str]:
    """Train what is not finished, `jobs` at a time, each in a process of one thread; what went wrong, a line a run.

    When this process is stopped, so are they: they save, and go on the next time.
    """
    waiting = [run for run in runs if not run.done()]
    if waiting:
        waiting[0].runs_dir.mkdir(parents=True, exist_ok=True)
        print(
            f"{len(waiting)} runs to train, {jobs} at a time; each says how far it is in its .log", flush=True
        )
    n, failures = len(waiting), []
    working: dict[str, tuple[Training, subprocess.Popen]] = {}
    stopped: set[str] = set()  # told once: a second signal would kill them
    try:
        while waiting or working:
            while waiting and len(working) < jobs:
                run = waiting.pop(0)
                working[run.name] = run, _start(run, extra)
            time.sleep(POLL)
            for name, (run, process) in list(working.items()):
                if process.poll() is not None:
                    del working[name]
                    failure = _failure(run, process.returncode)
                    failures += [failure] if failure else []
                    said = failure or f"{name} is trained"
                    print(f"{said} ({n - len(waiting) - len(working)} of {n})", flush=True)
                elif name not in stopped and run.due():
                    stopped.add(name)
                    process.send_signal(STOP)
    finally:
        for name, (_, process) in working.items():
            if name not in stopped:
                process.send_signal(STOP)
        for _, process in working.values():
            process.wait()
    return failures


def _start(run: Training, extra: Sequence[str]) -> subprocess.Popen:
    """Begin or go on, in a process of its own."""
    command = run.command(extra)
    with open(run.log, "ab") as output:
        output.write(f"version {code_version()}: {' '.join(command[1:])}\n".encode())
        output.flush()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)


def _failure(run: Training, code: int) -> str | None:
    """What is to be said of a run that has ended, None where it ended as it should."""
    if code in (0, 128 + STOP) and run.done():
        return None
    with disk.open_regular(run.log) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_WORDS))
        *_, last = ("nothing", *file.read().decode(errors="replace").strip().splitlines())
    return f"{run.name} ended with exit code {code} ({shown(last)}), see {run.log}"


# -- scores --------------------------------------------------------------------------------------------------------


def common_code(runs: Sequence[Training]) -> str | None:
    """The newest version of the code that all of these were scored by, None without one."""
    codes = [run.codes() for run in runs]
    return (
        next((code for code in reversed(codes[0]) if all(code in c for c in codes)), None) if codes else None
    )


def score_all(runs: Sequence[Training]) -> list[str]:
    """Have tools.evaluate score the finished ones, all by one version of the code; what went wrong, a line a run."""
    finished = [run for run in runs if run.done()]
    if common_code(finished) is not None:
        return []
    failures = []
    for i, run in enumerate(finished):
        if code_version() not in run.codes():
            print(f"scoring {run.name} ({i + 1} of {len(finished)})", flush=True)
            if evaluate.main([str(run.folder), *run.scoring]):
                failures.append(f"{run.folder} could not be scored, see above")
    return failures


def scores_of(runs: Sequence[Training]) -> list[dict[str, Any] | None]:
    """The score of each run by one version of the code, None for one that is not finished or not scored by it."""
    lines = [run.lines() if run.done() else [] for run in runs]
    scored = [run for run, found in zip(runs, lines, strict=True) if found]
    code = common_code(scored) or code_version()
    return [
        next((line for line in reversed(found) if line["protocol"].get("code") == code), None)
        for found in lines
    ]


# -- reports -------------------------------------------------------------------------------------------------------


def spread_in(values: Sequence[float | None], form: str) -> str:
    """Mean and the sample's deviation over seeds in a format, a dash for the deviation of one, and for all where one is
    None: not finite."""
    if None in values:
        return DASH
    mean, deviation = spread(values)
    return f"{mean:{form}} ± {DASH if deviation is None else f'{deviation:{form}}'}"


def finished(
    runs: Mapping[tuple[str, int], Training], rows: Iterable[str]
) -> tuple[dict[tuple[str, int], dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """(scores by row and seed, those of its seeds by row) of what is finished and scored; UserError for nothing."""
    lines = dict(zip(runs, scores_of(list(runs.values())), strict=True))
    there = {key: line for key, line in lines.items() if line is not None}
    if not there:
        raise UserError("no run is finished and scored: leave --report_only out")
    return there, {
        row: found for row in rows if (found := [line for (r, _), line in there.items() if r == row])
    }


def scored_table(
    head: str,
    rows: Mapping[str, tuple[str, str]],
    columns: Sequence[tuple[str, str, str]],
    more: tuple[str, Callable[[Sequence[Mapping[str, Any]]], str]],
    scores: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[str]:
    """A line a row over its seeds. rows: name -> (paper, flags); columns: score, title, format; more: the title of a
    last column and what stands there."""
    titles = [head, "paper", "n", *(title for _, title, _ in columns), more[0], "flags"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row, found in scores.items():
        paper, flags = rows[row]
        cells = [spread_in([line[score] for line in found], form) for score, _, form in columns]
        link = f"[{paper}](https://arxiv.org/abs/{paper})"
        lines.append(f"| {' | '.join([row, link, str(len(found)), *cells, more[1](found), f'`{flags}`'])} |")
    return lines


def measured_by(runs: Sequence[Training], lines: Sequence[Mapping[str, Any]]) -> str:
    """Which code, machine and reader the scores are of; that several versions trained the runs is a line of its own."""
    about = lines[0]["protocol"]
    versions = sorted(set().union(*(run.trained_by() for run in runs)))
    trained = ", ".join(versions)
    reader = about.get("extractor_sha256")
    by = "" if reader is None else f"; read by {about['extractor']} {reader[:16]}…"
    begun = f"Trained by version {trained}; scored" if trained else "Scored"
    mixed = "\n\nSeveral versions of the code trained these runs: their rows may differ by that, too."
    text = f"{begun} by version {about['code']}, torch {about['torch']}, {about['device']}{by}."
    return text + (mixed if len(versions) > 1 else "")


def last_samples(run: Training, side: int) -> Image.Image | None:
    """The last picture of a run's samples, averaged weights before raw ones, as a square; None where there is none."""
    folder = run.folder / "samples"
    files = [file for name in ("ema", "raw") for file in sorted(folder.glob(f"step-*-{name}.png"))[-1:]]
    if not files:
        return None
    return Image.open(files[0]).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def save_picture(picture: Image.Image, out: Path, name: str, colours: int = 64) -> str:
    """Write a picture into images/ beside the report in so many colours; its line of Markdown."""
    folder = out.parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with disk.replacing(folder / f"{name}.png") as file:
        picture.quantize(colours, dither=Image.Dither.NONE).save(file, optimize=True)
    return f"![{name.replace('_', ' ')}](images/{name}.png)"


def write_report(lines: Sequence[str], out: Path) -> None:
    """The report as a file; UserError where it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        disk.put(out, "\n".join(lines).rstrip() + "\n")
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    print(f"wrote {out}")


def finish(failures: Sequence[str]) -> int:
    """The exit code, once what is there is reported; each failure is a line."""
    for failure in failures:
        tell(f"error: {failure}")
    return 2 if failures else 0


def add_study_flags(parser: argparse.ArgumentParser, name: str) -> None:
    """--jobs, --runs_dir, --report_only and --out of the study of that name."""
    cores = os.cpu_count() or 1
    parser.add_argument("--jobs", type=positive, default=cores, help="runs at a time [one a core]")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs") / name, help=f"[runs/{name}]")
    parser.add_argument("--report_only", action="store_true", help="train nothing")
    about = f"the report, its pictures in images/ beside it [docs/{name}.md]"
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / f"{name}.md", help=about)
