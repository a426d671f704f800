"""One table of many runs: a row a setting, with mean and deviation of its scores over seeds.

    python -m tools.table runs/*
    python -m tools.table runs/* --metrics fid recall --at best --csv runs.csv
    python -m tools.table runs/* --extractor lite0 --at 20000

Runs that differ in nothing but their seed, name and places are one row; the deviation is the sample's, a dash for one
run. Of a row only the runs of its furthest scored step count, except with --at best. Reads config.json, scores.jsonl
and metrics.jsonl alone. Scores of one table are of one protocol and one version of the code: others are refused.
"""

import argparse
import ast
import contextlib
import csv
import io
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import msgspec

import disk
from errors import UserError, cli, shown, tell
from metrics.lines import GENERATED, best_line, read_lines
from tools import tool_parser

# Not settings and protocol: those import torch, which takes longer than all that is done here, and is asked only of
# runs whose batch follows the size.

ROOT = Path(__file__).resolve().parent.parent
CONFIG_LIMIT = 4 * 2**20  # bytes
INFINITE = 1e100  # numbers from here on are as good as infinite: their sums and squares are
# Settings that say where, how often and how long something is looked at, and not what is trained; and the seed.
NO_SETTING = {
    "log_name", "runs_dir", "overwrite", "device", "seed", "data", "data_b", "data_root", "cache_dir", "data_device",
    "loggers", "log_interval", "health_interval", "sample_interval", "checkpoint_interval", "keep_checkpoints",
    "eval_interval", "eval_n", "extractor", "metric_weights", "metrics", "data_name", "dry_run", "ema_snapshot_kimg",
}  # fmt: skip
# Of these, what says when --eval_patience ends a run: settings of one that has it.
OF_PATIENCE = {"eval_interval", "eval_n", "extractor", "metric_weights", "metrics"}
OF_PICTURES = {"pix2pix", "cyclegan", "srgan"}  # models without latents, which a script of their own trains
OF_OWN_DATA = ("img_size", "flip")  # what a script says of its own data sets alone
# What a protocol says of a model or a machine, in which the rows of a table may differ; those of one row only in the
# latter.
OF_MACHINE = {"step", "device", "torch", "threads", "best_by", "extractor_accuracy"}
OF_MODEL = {"weights", "labels", "batch_norm", "layer_noise"}
DASH = "–"


# -- what stands in a run's folder ---------------------------------------------------------------------------------


Step = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Tick(msgspec.Struct):
    """What is read of a line of metrics.jsonl."""

    step: Step
    img_per_s: float | None = None


class Line(msgspec.Struct):
    """What must be in a line of scores.jsonl."""

    step: Step
    protocol: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run and the line of scores.jsonl that stands for it; clock: (step, seconds of training) along it.

    asked: what was asked of it, None for one of before that was written down.
    """

    path: Path
    settings: dict[str, Any]
    asked: dict[str, Any] | None
    line: dict[str, Any]
    clock: list[tuple[int, float]]

    @property
    def protocol(self) -> dict[str, Any]:
        """How it was scored."""
        return self.line["protocol"]

    @property
    def steps(self) -> int:
        """How far it was trained, as far as is known."""
        return max(self.line["step"], self.clock[-1][0] if self.clock else 0)

    @property
    def img_per_s(self) -> float | None:
        """Images of the data that D saw a second of training."""
        steps, seconds = self.clock[-1] if self.clock else (0, 0.0)
        return images_before(self.settings)(steps) / seconds if seconds else None

    def score(self, name: str) -> float | None:
        """A score by its name; None where it is not there or not finite."""
        value = self.line.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number and abs(value) < INFINITE else None


def images_before(config: Mapping[str, Any]) -> Callable[[int], int] | None:
    """step -> images seen before it, of a run's config.json; None where that does not say. UserError."""
    batch_size = config.get("batch_size")
    if not (isinstance(batch_size, int) and 0 < batch_size < 2**32):
        return None
    if config.get("batch_by_size"):
        from games.schedule import schedule_of
        from settings import TrainConfig
        from settings.files import from_dict

        return schedule_of(TrainConfig(**from_dict(config))).images
    return lambda step: step * batch_size


@dataclass
class Clock:
    """(step, seconds of training until then) of every line of a run's metrics.jsonl, which holds its speed.

    Scores, pictures and checkpoints take no time of it.
    """

    run: Path
    images_before: Callable[[int], int]
    ticks: list[tuple[int, float]] = field(default_factory=list)
    _read: int = 0  # bytes
    _last: bytes = b""  # the line that ends there

    def read(self) -> list[tuple[int, float]]:
        """All until now, of which only what is new is read; from the start where the file was cut. Unreadable."""
        file = self.run / "metrics.jsonl"
        if not file.exists():
            self.ticks, self._read, self._last = [], 0, b""
            return self.ticks
        with disk.open_regular(file) as lines:
            lines.seek(self._read - len(self._last))
            if lines.read(len(self._last)) != self._last:
                lines.seek(0)
                self.ticks, self._read, self._last = [], 0, b""
            for line in lines:
                if line.endswith(b"\n"):  # else the run is writing it
                    self._read += len(line)
                    self._last = line
                    self._add(line)
        return self.ticks

    def _add(self, line: bytes) -> None:
        with contextlib.suppress(disk.Unreadable):  # half a line, as a kill leaves it
            tick = disk.decode_json(line, Tick, "metrics.jsonl")
            before, seconds = self.ticks[-1] if self.ticks else (0, 0.0)
            if tick.step > before and 1 / INFINITE < (tick.img_per_s or 0) < INFINITE:
                images = self.images_before(tick.step) - self.images_before(before)
                seconds += images / tick.img_per_s
                self.ticks.append((tick.step, seconds))


def generated_lines(run: Path, extractor: str | None = None) -> list[dict[str, Any]]:
    """The scores of a run's own images, by one extractor or by any, in the order in which they were taken."""
    found = []
    file = run / "scores.jsonl"
    for line in read_lines(file) if file.exists() else ():
        try:
            about = msgspec.convert(line, Line).protocol
        except msgspec.ValidationError:
            continue  # another's line
        if about.get("fakes") in GENERATED and extractor in (None, about.get("extractor")):
            found.append(line)
    return found


def holds(line: Mapping[str, Any], wanted: Iterable[str]) -> bool:
    """Whether a line has all scores wanted by name, with or without an extractor's."""
    names = {*line, *(name.partition("[")[0] for name in line)}
    return names.issuperset(wanted)


def line_at(
    lines: Sequence[dict[str, Any]], at: str | int, wanted: Sequence[str] = ()
) -> dict[str, Any] | None:
    """The line that stands for a run: of its last scored step, of the best one, or of a step. Of several it is the
    newest that holds the wanted scores, where none does the newest, or the best one."""
    found = best_line(lines) if at == "best" else None
    if at == "last":
        at = max((line["step"] for line in lines), default=0)
    elif at == "best":
        if found is None or holds(found, wanted):
            return found
        at = found["step"]
    there = [line for line in reversed(lines) if line["step"] == at]
    return next((line for line in there if holds(line, wanted)), found or next(iter(there), None))


def read_run(path: Path, extractor: str | None, at: str | int, wanted: Sequence[str] = ()) -> Run | None:
    """A run with its score, a wanted one where it has it; None, which is said, for what is no run or has none.
    UserError."""
    try:
        config = disk.read_json(path / "config.json", dict[str, Any], CONFIG_LIMIT)
        line = line_at(generated_lines(path, extractor), at, wanted)
        counted = images_before(config)
        clock = [] if counted is None else Clock(path, counted).read()
    except UserError as error:
        tell(f"warning: {shown(str(path))} is left out: {error.for_command_line}")
        return None
    if line is None:
        by = f" by {extractor}" if extractor else ""
        where = "" if at == "last" else f" at step {at}" if at != "best" else " that says which step is best"
        tell(
            f"warning: {shown(str(path))} is left out: no score of its images{by}{where}; "
            f"python -m tools.evaluate {shown(str(path))} takes one"
        )
        return None
    asked = config.pop("asked", None)
    return Run(path, config, asked if isinstance(asked, dict) else None, line, clock)


# -- settings as flags ---------------------------------------------------------------------------------------------


@cache
def scripts() -> dict[str, tuple[tuple[str, ...], dict[str, Any]]]:
    """File -> (its data sets, its defaults) of the training scripts, read and not imported.

    Files of that name without `main = script_main(name, datasets, defaults, ...)` are somebody's own.
    """
    found = {}
    for file in sorted(ROOT.glob("gan_*.py")):
        with contextlib.suppress(OSError, SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            if (said := said_by(ast.parse(file.read_bytes()))) is not None:
                found[file.name] = said
    return found


def said_by(script: ast.Module) -> tuple[tuple[str, ...], dict[str, Any]] | None:
    """The data sets and defaults of a script, None for another kind of file; ValueError for what is no literal."""
    values = {
        target.id: node.value
        for node in script.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    match values.get("main"):
        case ast.Call(func=ast.Name(id="script_main"), args=[_, datasets, defaults, *_]):
            given = [values.get(a.id, a) if isinstance(a, ast.Name) else a for a in (datasets, defaults)]
            match tuple(map(ast.literal_eval, given)):
                case (str(), *_) as names, dict() as settings:
                    return names, settings
    return None


def script_of(asked: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The script that trains on the data set that was asked for, and what it takes for granted then."""
    for name, (datasets, defaults) in scripts().items():
        usual = {"dataset": datasets[0], **defaults}
        if (asked.get("model") in OF_PICTURES) != (usual.get("model") in OF_PICTURES):
            continue
        # another script takes less for granted on data that are not its own
        if asked.get("dataset") in datasets and usual.keys() <= asked.keys():
            return name, usual
    name = "gan_mnist.py"  # any of images
    datasets, defaults = scripts()[name]
    return name, {"dataset": datasets[0]} | {k: v for k, v in defaults.items() if k not in OF_OWN_DATA}


def word(value: Any) -> str:
    """A value as KEY=VALUE takes it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value)


def flag_words(name: str, value: Any) -> list[str]:
    """A saved setting as the flags that ask for it."""
    if value is None:
        return []
    if isinstance(value, bool):
        off = [] if name.startswith("no_") else [f"--no-{name}"]  # a flag that says `no` has no opposite
        return [f"--{name}"] if value else off
    if name == "penalty_weights" and isinstance(value, dict):
        names = {penalty: f"{penalty}_weight" for penalty in value} | {"drift": "drift_penalty"}
        return [text for penalty, weight in value.items() for text in flag_words(names[penalty], weight)]
    if isinstance(value, dict):
        return [f"--{name}", *(f"{key}={word(one)}" for key, one in value.items())] if value else []
    if name == "img_size" and isinstance(value, list | tuple):
        return [f"--{name}", "x".join(map(word, value))]
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(word, value)]
    return [f"--{name}={value}"] if str(value).startswith("-") else [f"--{name}", word(value)]


def no_setting(settings: Mapping[str, Any]) -> set[str]:
    """NO_SETTING, less what ends a run of these settings."""
    return NO_SETTING - (set() if settings.get("eval_patience") is None else OF_PATIENCE)


def command_of(asked: Mapping[str, Any]) -> str:
    """The command that makes such a run, without its seed: what was asked beside what its script takes for granted."""
    script, usual = script_of(asked)
    free = no_setting(asked) - {"data", "data_b"}
    names = [name for name in asked if name not in free and asked[name] != usual.get(name)]
    words = [text for name in names for text in flag_words(name, asked[name])]
    return shlex.join(["python", script, *words])


def key_of(value: Any) -> str:
    """Equal for equal values."""
    return json.dumps(value, sort_keys=True)


def setting_of(run: Run) -> str:
    """Equal for runs of one row."""
    return key_of(kept_of(run))


def kept_of(run: Run) -> dict[str, Any]:
    """What is trained, of a run's settings."""
    free = no_setting(run.settings)
    return {k: v for k, v in run.settings.items() if k not in free}


def titles_of(firsts: Sequence[Run]) -> list[str]:
    """What sets each of these runs apart from the others, in flags."""
    kept = [kept_of(run) for run in firsts]
    names = dict.fromkeys(name for settings in kept for name in settings)
    unlike = [name for name in names if len({key_of(settings.get(name)) for settings in kept}) > 1]
    if len(firsts) == 1:
        unlike = ["model", "method", "penalty", "penalty_weights"]
    unknown = any(run.asked is None for run in firsts)
    titles = [titled(run.asked or {}, unlike) or "as the script does" for run in firsts]
    if unknown or len(set(titles)) < len(titles):  # asked alike, by versions with other defaults
        titles = [titled(settings, unlike) for settings in kept]
    if len(firsts) == 1:
        titles = [titled(kept[0], unlike)]
    return titles


def titled(settings: Mapping[str, Any], names: Iterable[str]) -> str:
    """Some settings as flags; none of an empty list."""
    given = [(name, settings.get(name)) for name in names]
    return shlex.join([text for name, value in given if value != [] for text in flag_words(name, value)])


# -- what may stand in one table -----------------------------------------------------------------------------------


def flat_protocol(about: Mapping[str, Any], free: set[str]) -> dict[str, Any]:
    """What must be equal: a protocol less what is free, with the settings of each metric by its name."""
    flat = {name: value for name, value in about.items() if name not in free | {"settings"}}
    settings = about.get("settings")
    return flat | {f"settings of {k}": v for k, v in (settings if isinstance(settings, dict) else {}).items()}


def refuse_mixture(runs: Sequence[Run], free: set[str]) -> None:
    """UserError that names the first two values of what is not equal in all protocols."""
    first = flat_protocol(runs[0].protocol, free)
    for run in runs[1:]:
        other = flat_protocol(run.protocol, free)
        for name in dict.fromkeys((*first, *other)):
            one, two = first.get(name), other.get(name)
            taken_by_one = name.startswith("settings of ") and None in (one, two)
            if key_of(one) != key_of(two) and not taken_by_one:
                raise UserError(
                    f"{shown(name, 60)} is {shown(word(one), 60)} of {shown(str(runs[0].path))} and "
                    f"{shown(word(two), 60)} of {shown(str(run.path))}: one table holds scores of one protocol "
                    "and one version of the code. Choose with --extractor or --at, leave runs out, or score them anew "
                    "with python -m tools.evaluate RUN"
                )


def rows_of(runs: Sequence[Run], at: str | int) -> list[list[Run]]:
    """The runs by setting, each seed once, of a row only those that were scored last at its furthest step where `at` is
    "last"; UserError for what cannot stand in one table."""
    refuse_mixture(runs, OF_MACHINE | OF_MODEL)
    rows: dict[str, list[Run]] = {}
    for run in runs:
        row = rows.setdefault(setting_of(run), [])
        twin = next((other for other in row if other.settings.get("seed") == run.settings.get("seed")), None)
        if twin is None:
            row.append(run)
        else:
            tell(
                f"warning: {shown(str(run.path))} is left out: {shown(str(twin.path))} has the same setting and seed"
            )
    for row in rows.values():
        refuse_mixture(row, OF_MACHINE)
    return [furthest(row) if at == "last" else row for row in rows.values()]


def furthest(row: Sequence[Run]) -> list[Run]:
    """The runs of the furthest scored step; the others are said."""
    step = max(run.line["step"] for run in row)
    for run in row:
        if run.line["step"] != step:
            tell(
                f"warning: {shown(str(run.path))} is left out: its last score is of step {run.line['step']:,}, others "
                f"of its setting have one of step {step:,}; train and score it on, or choose with --at"
            )
    return [run for run in row if run.line["step"] == step]


# -- the table -----------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and the sample's deviation (over n - 1), None for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def spread_text(values: Sequence[float]) -> str:
    """Mean and deviation for people, a dash for the deviation of one value."""
    mean, deviation = spread(values)
    return f"{mean:.4g} ± {DASH if deviation is None else f'{deviation:.2g}'}"


def score_names(runs: Sequence[Run], wanted: Sequence[str] | None) -> list[str]:
    """Names of the scores that are one number, of all runs or those wanted by name, with or without an extractor's;
    UserError."""
    names = dict.fromkeys(name for run in runs for name in run.line if run.score(name) is not None)
    names = [name for name in names if name != "step" and "_std" not in name]
    if wanted is None:
        return names
    chosen = [[name for name in names if one in (name, name.partition("[")[0])] for one in wanted]
    if missing := [one for one, found in zip(wanted, chosen, strict=True) if not found]:
        had = ", ".join(shown(name) for name in names)
        raise UserError(f"--metrics {shown(missing[0])}: the runs have {had or 'no scores'}")
    return [name for found in chosen for name in found]


def span(values: Sequence[int]) -> str:
    """Whole numbers for people: one, or from the least to the greatest."""
    least, most = min(values), max(values)
    return f"{least:,}" if least == most else f"{least:,}{DASH}{most:,}"


@dataclass(frozen=True)
class Row:
    """A row of the table; scores: their values over seeds, None for one that not all of them have; command: None where
    it is not known."""

    title: str
    seeds: list[Any]
    step: list[int]
    scores: dict[str, list[float] | None]
    steps: list[int]
    hours: list[float]
    img_per_s: list[float]
    command: str | None

    @classmethod
    def of(cls, runs: Sequence[Run], title: str, names: Sequence[str]) -> "Row":
        """The runs of one setting."""
        scores = {name: [run.score(name) for run in runs] for name in names}
        asked = next((run.asked for run in runs if run.asked is not None), None)
        return cls(
            title,
            [run.settings.get("seed") for run in runs],
            [run.line["step"] for run in runs],
            {name: None if None in values else values for name, values in scores.items()},
            [run.steps for run in runs],
            [run.clock[-1][1] / 3600 for run in runs if run.clock],
            [speed for run in runs if (speed := run.img_per_s)],
            None if asked is None else command_of({"dataset": runs[0].settings.get("dataset")} | asked),
        )

    def cells(self) -> list[str]:
        """For people."""
        scores = [DASH if values is None else spread_text(values) for values in self.scores.values()]
        hours, speed = (statistics.fmean(v) if v else None for v in (self.hours, self.img_per_s))
        return [
            f"`{self.title}`", str(len(self.seeds)), span(self.step), *scores, span(self.steps),
            DASH if hours is None else f"{hours:.3g}", DASH if speed is None else f"{speed:,.0f}",
        ]  # fmt: skip

    def record(self) -> dict[str, Any]:
        """For programs: every number as it is, the means of steps, hours and speed."""
        found: dict[str, Any] = {"setting": self.title, "n": len(self.seeds)}
        found |= {"seeds": " ".join(map(str, self.seeds)), "step": statistics.fmean(self.step)}
        for name, values in self.scores.items():
            found |= dict(
                zip((name, f"{name} deviation"), spread(values) if values else (None, None), strict=True)
            )
        numbers = {"steps": self.steps, "hours": self.hours, "img_per_s": self.img_per_s}
        found |= {name: statistics.fmean(values) if values else None for name, values in numbers.items()}
        return found | {"command": self.command}


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    head, *cells = ([shown(cell, 10_000).replace("|", "\\|") for cell in row] for row in (titles, *rows))
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in cells)]


def table_text(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """The table, how its scores were taken, and the command of each row."""
    scores = [f"`{name}`" for name in rows[0].scores]
    titles = ["setting", "n", "step", *scores, "steps", "hours", "img/s"]
    reals = f" against {about['n_real']} reals of {about.get('reference')}" if "n_real" in about else ""
    by = f" by {about['extractor']} {str(about.get('extractor_sha256'))[:16]}" if "extractor" in about else ""
    how = f"Scores of {about.get('n_fake')} fakes{reals}{by}, version {about.get('code')}"
    return "\n".join(
        [
            *markdown(titles, (row.cells() for row in rows)),
            "",
            f"{shown(how)}; mean ± the sample's deviation over n seeds.",
            "",
            *markdown(
                ["setting", "seeds", "command, with `--seed SEED`"],
                (
                    [
                        f"`{row.title}`",
                        ", ".join(map(word, row.seeds)),
                        DASH if row.command is None else f"`{row.command}`",
                    ]
                    for row in rows
                ),
            ),
        ]
    )


def csv_text(rows: Sequence[Row]) -> str:
    """The rows as CSV."""
    records = [row.record() for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def make_rows(
    paths: Iterable[Path], extractor: str | None, at: str | int, metrics: Sequence[str] | None
) -> tuple[list[Row], dict[str, Any]]:
    """The rows of a table of these runs, and the protocol of its scores; UserError."""
    places = {path.resolve(): path for path in paths}
    runs = [
        run for path in places.values() if (run := read_run(path, extractor, at, metrics or ())) is not None
    ]
    if not runs:
        raise UserError("none of these is a run with such scores: name folders of runs, as runs/*")
    groups = rows_of(runs, at)
    names = score_names([run for group in groups for run in group], metrics)
    titles = titles_of([group[0] for group in groups])
    rows = [Row.of(group, title, names) for group, title in zip(groups, titles, strict=True)]
    return rows, runs[0].protocol


def step_or_word(text: str) -> str | int:
    """argparse type of --at."""
    if text in ("last", "best"):
        return text
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return int(text)
    raise argparse.ArgumentTypeError(f"{shown(text, 50)} must be last, best or a step")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.table", __doc__)
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    p.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="scores to show, as fid or fid[lite0] (default: all)"
    )
    about = "which score of a run: of its last scored step, of its best one, or of this step [last]"
    p.add_argument("--at", type=step_or_word, default="last", metavar="last|best|STEP", help=about)
    p.add_argument("--extractor", metavar="NAME", help="scores by this network alone (default: the newest)")
    p.add_argument("--csv", type=Path, metavar="FILE", help="write the table there too, with all digits")
    return p


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Read, refuse what does not belong together, print."""
    args = parser().parse_args(argv)
    rows, about = make_rows(args.runs, args.extractor, args.at, args.metrics)
    print(table_text(rows, about))
    if args.csv is not None:
        try:
            disk.put(args.csv, csv_text(rows))
            tell(f"wrote {args.csv}")
        except OSError as error:
            raise UserError(f"--csv {shown(str(args.csv))} cannot be written: {error.strerror}") from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
