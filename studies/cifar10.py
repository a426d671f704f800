"""The CIFAR-10 study: the rows of xyfJASON's two tables beside their published scores, and small models at equal times.

    python -m studies.cifar10                                          both parts, an hour of training a run
    python -m studies.cifar10 --part tables --rows cifar10-gan cifar10-wgan-gp --seeds 0 --seconds 600
    python -m studies.cifar10 --part equal --seconds 3600
    python -m studies.cifar10 --part tables --n_steps 200000 --device cuda --jobs 1 --extractor inception --n 50000

Runs stand in --runs_dir and are one thread each, --jobs at a time; what is finished is not run again, what was stopped
goes on. Seconds are of training: scores, pictures and checkpoints take none of them. The last command is the source's
protocol and length, for a GPU. The report is docs/cifar10.md.
"""

import signals

if __name__ == "__main__":
    signals.as_command()  # before imports that take seconds

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from errors import UserError, blaming_user, cli
from generation.charts import curves, picture
from generation.extractors import OPENERS, open_extractor
from generation.pictures import picture_table, stack
from images.sources import load_dataset
from metrics.score import score_name
from settings.presets import PRESETS
from studies.runs import (
    ENDLESS,
    OF_REFERENCE,
    Training,
    add_study_flags,
    finish,
    last_samples,
    measured_by,
    save_picture,
    score_all,
    scores_of,
    spread_in,
    train_all,
    write_report,
)
from tools import tool_parser
from tools.common import add_machine_flags, finite, positive
from tools.table import DASH, span
from training.device import choose_device

TITLE = "# CIFAR-10: the published rows, and small models at equal times"
HEAD = """Written by `python -m studies.cifar10` (its `--help` says how). Scores are of the last step a run, mean ± the
sample's standard deviation over n seeds, a dash for one. What follows from it stands in [results.md](results.md)."""
SIDE = 274  # px of a grid in the report, 8 x 8 images of 32 px
GRIDS_A_LINE = 4
SHARPER = 1.5  # times the px of a chart, in the report
N_LEGS = 6  # scores along the runs of equal times


@dataclass(frozen=True)
class Published:
    """A row of the source's tables: 50,000 samples of 40,000 updates of G against the training set, one run."""

    title: str
    fid: float | None = None
    intra_fid: float | None = None
    inception: tuple[float, float] | None = None


# xyfJASON/GANs-Implementations, July 2023; Inception Score with its deviation over splits.
TABLES: dict[str, dict[str, Published]] = {
    "Unconditional": {
        "cifar10-gan": Published("DCGAN", 24.7311, inception=(7.0339, 0.0861)),
        "cifar10-gan-r1": Published("DCGAN + R1", 24.1535, inception=(7.0188, 0.1089)),
        "cifar10-wgan": Published("WGAN", 49.9169, inception=(5.6852, 0.0649)),
        "cifar10-wgan-gp": Published("WGAN-GP", 28.7963, inception=(6.7241, 0.0784)),
        "cifar10-sngan": Published("SNGAN", 24.9151, inception=(6.8838, 0.0667)),
        "cifar10-sngan-hinge": Published("SNGAN, hinge", 28.5197, inception=(6.7429, 0.0818)),
        "cifar10-lsgan": Published("LSGAN", 28.4850, inception=(6.7465, 0.0911)),
    },
    "Conditional": {
        "cifar10-cgan": Published("CGAN", 22.7190, 44.0456, (7.6483, 0.0805)),
        "cifar10-cgan-cbn": Published("CGAN, conditional batch norm", 23.7573, 45.7831, (7.8448, 0.0574)),
        "cifar10-acgan": Published("ACGAN", 19.9154, 49.9892, (7.9903, 0.1038)),
        "cifar10-sngan-projection": Published("SNGAN, projection"),
    },
}
PUBLISHED = {name: row for table in TABLES.values() for name, row in table.items()}

# Recipes as narrow as a thread of a CPU wants: each sees thousands of batches within an hour. What differs from
# the papers' is said with each.
SMALL: dict[str, tuple[str, ...]] = {
    # arXiv:1511.06434, half as wide as the model's default
    "dcgan": (
        "--model=dcgan", "--method=gan", "--batch_size=64", "--lr=2e-4", "--beta1=0.5",
        "--g_kwargs", "width=32", "--d_kwargs", "width=32",
    ),
    # arXiv:1802.05957's ResNet at an eighth of its width; two updates of D for one of G, not five, so that G moves
    # often enough, and constant rates, since the number of steps is not known beforehand
    "sngan": (
        "--model=sngan", "--method=hinge", "--batch_size=64", "--lr=2e-4", "--beta1=0", "--beta2=0.9",
        "--train_g_interval=2", "--g_kwargs", "width=8", "--d_kwargs", "width=8",
    ),
    # cifar10-stylegan2-ada with 32 channels at 32 px and 64 below (there 512), batches of 32, an average over 20,000
    # images (there 500,000, of 100 million), and without ADA, whose p stays at 0 in so short a run
    "stylegan2": (
        "--model=stylegan2", "--method=gan", "--batch_size=32", "--lr=2.5e-3", "--beta1=0", "--beta2=0.99",
        "--z_dim=128", "--r1_weight=0.01", "--penalty_interval", "r1=16", "--ema", "--ema_halflife=20000",
        "--g_kwargs", "channel_base=1024", "channel_max=64", "w_dim=128", "mapping_layers=2", "mixing=0.0",
        "--d_kwargs", "channel_base=1024", "channel_max=64",
    ),
    # arXiv:2501.05441 with an eighth of the width at 4 px and a 48th at 32 px, half of the depth, and batches of 32
    "r3gan-tiny": ("--preset=r3gan-tiny",),
}  # fmt: skip
PARTS = ("tables", "equal")


@dataclass(frozen=True)
class RowRun:
    """One training of the study: of a row of the tables or of a small model."""

    row: str
    seed: int
    training: Training


def names_of(args: argparse.Namespace, *, labelled: bool) -> list[str]:
    """How lines of scores call the scores of a row of the tables, the Frechet distance first."""
    stems = [
        args.reader.distance,
        *(["is"] if args.reader.has_logits else []),
        *(["intra_fid"] if labelled else []),
    ]
    return [score_name(stem, args.reader) for stem in stems]


def planned(args: argparse.Namespace, part: str) -> list[RowRun]:
    """The runs of a part, all rows of a seed before the next seed."""
    rows = [row for row in args.rows if row in (PUBLISHED if part == "tables" else SMALL)]
    return [RowRun(row, seed, training_of(args, part, row, seed)) for seed in args.seeds for row in rows]


def training_of(args: argparse.Namespace, part: str, row: str, seed: int) -> Training:
    """How a run is trained and scored."""
    by_steps = part == "tables" and args.n_steps is not None
    n_steps = args.n_steps if by_steps else ENDLESS
    start = [f"--preset={row}"] if part == "tables" else SMALL[row]
    conditional = part == "tables" and row in TABLES["Conditional"]
    names = names_of(args, labelled=conditional)[: None if part == "tables" else 1]
    metrics = ["fid", *(name.partition("[")[0] for name in names[1:])]
    # seconds are counted up to a line of the log; a step of 512 images takes seconds on one thread
    interval = 50 if by_steps else 1 if part == "tables" else 10
    flags = [
        "--n_steps",
        str(n_steps),
        "--seed",
        str(seed),
        "--device",
        args.device,
        f"--log_interval={interval}",
    ]
    flags += ["--loggers", "--sample_interval=1000000", "--keep_checkpoints=2"]
    reader = [
        f"--extractor={args.extractor}",
        f"--n={args.n}",
        f"--device={args.device}",
        "--metrics",
        *metrics,
    ]
    if args.metric_weights is not None:
        reader += [f"--metric_weights={args.metric_weights}"]
    if args.cache_dir is not None:
        reader += [f"--cache_dir={args.cache_dir}"]
    run = Training(
        "gan_cifar10",
        f"{part}-{row}-{seed}",
        args.runs_dir.absolute(),
        (*start, *flags),
        n_steps if by_steps else None,
        None if by_steps else args.seconds,
        scoring=(*reader,),
        scores=tuple(names),
    )
    about = {
        "n_fake": args.n,
        "n_real": args.n_real,
        "split": "train",
        "extractor": args.reader.name,
        "extractor_sha256": args.reader.checksum,
        "weights": "ema" if run.config().ema else "raw",
        "labels": OF_REFERENCE if conditional else None,
    }
    return replace(run, protocol=about)


# -- runs of equal times -------------------------------------------------------------------------------------------


def scores_along(run: Training, name: str) -> list[tuple[float, float, str]]:
    """(seconds of training, score, version of the code) of every score of a run that was taken as all are."""
    clock = dict(run.clock())
    found = []
    for line in run.lines_along():
        seconds = max((s for step, s in clock.items() if step <= line["step"]), default=None)
        if seconds is not None and isinstance(line.get(name), int | float):
            found.append((seconds, float(line[name]), str(line["protocol"].get("code"))))
    return found


def train_in_legs(runs: Sequence[Training], args: argparse.Namespace, extra: Sequence[str]) -> list[str]:
    """Train to each sixth of the seconds in turn and score there; what went wrong, a line a run."""
    (name, *_), failures = names_of(args, labelled=False), []
    for leg in range(1, N_LEGS + 1):
        until = args.seconds * leg / N_LEGS
        left = [
            replace(run, seconds=until)
            for run in runs
            if max((seconds for seconds, *_ in scores_along(run, name)), default=0) < until
        ]
        failed = train_all(left, args.jobs, extra)
        failures += [*failed, *score_all(left)]
        runs = [run for run in runs if not any(said.startswith(f"{run.name} ended") for said in failed)]
    return failures


def at_legs(run: Training, name: str, code: str) -> list[tuple[float, float] | None]:
    """(seconds, score) at the end of each leg by one version of the code, None where there is none."""
    along = [(seconds, value) for seconds, value, by in scores_along(run, name) if by == code]
    targets = [run.seconds * leg / N_LEGS for leg in range(1, N_LEGS + 2)]
    return [
        next(((s, v) for s, v in along if target <= s < after), None)
        for target, after in zip(targets, targets[1:], strict=False)
    ]


def curve_picture(
    points: Mapping[str, Sequence[Sequence[tuple[float, float] | None]]], name: str
) -> Image.Image:
    """Mean and range over seeds of a score over seconds; points: of each row, of each seed, at each leg."""
    lines, bands = {}, {}
    for row, seeds in points.items():
        legs = [[point for point in leg if point is not None] for leg in zip(*seeds, strict=True)]
        legs = [leg for leg in legs if leg]
        if legs:
            x = [sum(s for s, _ in leg) / len(leg) for leg in legs]
            lines[row] = x, [sum(v for _, v in leg) / len(leg) for leg in legs]
            bands[row] = x, [min(v for _, v in leg) for leg in legs], [max(v for _, v in leg) for leg in legs]
    figure = curves(lines, "seconds of training on one thread", name, size=(560, 320), bands=bands)
    return picture(figure, SHARPER)


# -- report --------------------------------------------------------------------------------------------------------


def row_cells(runs: Sequence[RowRun], lines: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """n, scores, steps and hours of the runs of a row."""
    hours = [clock[-1][1] / 3600 for run in runs if (clock := run.training.clock())]
    scores = [spread_in([line.get(name) for line in lines], ".2f") for name in names]
    mean = f"{sum(hours) / len(hours):.2f}" if hours else DASH
    return [str(len(lines)), *scores, span([line["step"] for line in lines]), mean]


def found_by_row(runs: Sequence[RowRun]) -> dict[str, tuple[list[RowRun], list[dict[str, Any]]]]:
    """The finished runs of each row, with their scores by one version of the code."""
    scores = scores_of([run.training for run in runs])
    found: dict[str, tuple[list[RowRun], list[dict[str, Any]]]] = {}
    for run, line in zip(runs, scores, strict=True):
        if line is not None:
            of_row = found.setdefault(run.row, ([], []))
            of_row[0].append(run)
            of_row[1].append(line)
    return found


def budget_of(args: argparse.Namespace, part: str) -> str:
    """How long the runs are, for people."""
    if part == "tables" and args.n_steps is not None:
        return f"{args.n_steps:,} steps a run (the source's: {PRESETS['cifar10-gan'].settings['n_steps']:,})"
    return f"{args.seconds:g} seconds of training a run on one thread"


def tables_section(
    args: argparse.Namespace, found: Mapping[str, tuple[list[RowRun], list[dict]]]
) -> list[str]:
    """The source's two tables with what was reached here."""
    first = next(iter(found.values()))
    lines = [
        "## The source's tables",
        "",
        f"`python gan_cifar10.py --preset ROW --seed SEED`; {budget_of(args, 'tables')}, {args.n:,} samples a score. "
        "Published: 50,000 samples of 200,000 steps, by Inception; another network's scores are not comparable with "
        "those, only with each other.",
        "",
        measured_by([run.training for runs, _ in found.values() for run in runs], first[1]),
        "",
    ]
    for title, table in TABLES.items():
        if not (there := [row for row in table if row in found]):
            continue
        names = names_of(args, labelled=title == "Conditional")
        heads = [f"{title.lower()}: row", "published FID", "published IS"]
        heads += ["published intra-FID"] if title == "Conditional" else []
        heads += ["n", *(f"`{name}`" for name in names), "steps", "hours"]
        lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for row in there:
            about = table[row]
            cells = [f"{about.title}, `{row}`", DASH if about.fid is None else f"{about.fid:.4f}"]
            cells += [DASH if about.inception is None else "{:.4f} ± {:.4f}".format(*about.inception)]
            if title == "Conditional":
                cells += [DASH if about.intra_fid is None else f"{about.intra_fid:.4f}"]
            lines.append(f"| {' | '.join([*cells, *row_cells(*found[row], names)])} |")
        lines.append("")
    shown = {row: picture for row in found if (picture := last_samples(found[row][0][0].training, SIDE))}
    if shown:
        lines += ["Samples of the last step, of the first seed.", ""]
        lines += [save_picture(grid_table(shown), args.out, "cifar10_tables"), ""]
    return lines


def grid_table(shown: Mapping[str, Image.Image]) -> Image.Image:
    """Pictures of one size beside each other, GRIDS_A_LINE in a line, with their names above."""
    names = list(shown)
    lines = [names[at : at + GRIDS_A_LINE] for at in range(0, len(names), GRIDS_A_LINE)]
    return stack([picture_table(line, [("", [shown[name] for name in line])]) for line in lines])


def equal_section(
    args: argparse.Namespace, found: Mapping[str, tuple[list[RowRun], list[dict]]]
) -> list[str]:
    """The small models at equal times, and the picture of their curves."""
    name, *_ = names_of(args, labelled=False)
    lines = [
        "## Equal times",
        "",
        f"Small models, {budget_of(args, 'equal')}, {args.n:,} samples a score.",
        "",
        measured_by(
            [run.training for runs, _ in found.values() for run in runs], next(iter(found.values()))[1]
        ),
        "",
        f"| model | n | `{name}` | steps | hours | `python gan_cifar10.py ...` |",
        "|---|---|---|---|---|---|",
    ]
    for row, (runs, scores) in found.items():
        lines.append(f"| {' | '.join([row, *row_cells(runs, scores, [name])])} | `{' '.join(SMALL[row])}` |")
    every = [run.training for runs, _ in found.values() for run in runs]
    codes = Counter(code for run in every for *_, code in scores_along(run, name))
    code = codes.most_common(1)[0][0]
    points = {row: [at_legs(run.training, name, code) for run in runs] for row, (runs, _) in found.items()}
    lines.append("")
    if not any(point for seeds in points.values() for legs in seeds for point in legs):
        return lines  # each score came later than the leg after its own
    lines += [f"`{name}` over seconds: the mean, and the range of the seeds.", ""]
    return [*lines, save_picture(curve_picture(points, name), args.out, "cifar10_equal_times"), ""]


def report(args: argparse.Namespace, runs: Mapping[str, Sequence[RowRun]]) -> None:
    """Write the report of what is finished."""
    lines = [TITLE, "", HEAD, ""]
    for part, of_part in (("tables", tables_section), ("equal", equal_section)):
        if found := found_by_row(runs.get(part, [])):
            lines += of_part(args, found)
    write_report(lines, args.out)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("studies.cifar10", __doc__)
    p.add_argument("--part", nargs="+", default=PARTS, choices=PARTS, help="[both]")
    rows = (*PUBLISHED, *SMALL)
    p.add_argument(
        "--rows", nargs="+", default=rows, choices=rows, metavar="ROW", help=f"among {', '.join(rows)} [all]"
    )
    p.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="[0 1 2]")
    about = "training of a run, in seconds of one thread [3600]"
    p.add_argument("--seconds", type=finite, default=3600.0, help=about)
    about = "length of the runs of the tables in steps, in place of --seconds (the source's: 200000)"
    p.add_argument("--n_steps", type=positive, help=about)
    p.add_argument("--extractor", default="lite0", choices=tuple(OPENERS), help="reads the samples [lite0]")
    p.add_argument("--metric_weights", type=Path, metavar="PATH", help="file of its weights")
    p.add_argument("--n", type=positive, default=10_000, help="samples a score [10000; the source: 50000]")
    p.add_argument(
        "--data", metavar="PATH", help="folder or archive of CIFAR-10's images in place of its own files"
    )
    p.add_argument("--data_root", default="data", help="where CIFAR-10 stands or is downloaded to [data]")
    add_machine_flags(p)
    add_study_flags(p, "cifar10")
    return p


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, then score and report."""
    args = parser().parse_args(argv)
    if args.seconds <= 0:
        raise UserError(f"--seconds {args.seconds:g} must be above 0")
    args.device = choose_device(args.device)
    places = {"data_root": Path(args.data_root).absolute(), "cache_dir": args.cache_dir}
    places["data"] = None if args.data is None else Path(args.data).absolute()
    with blaming_user():  # what is missing is said now, not after hours
        args.reader = open_extractor(args.extractor, args.metric_weights, args.cache_dir, "cpu")
        args.n_real = min(args.n, len(load_dataset("cifar10", img_size=32, img_channels=3, **places)))
    runs = {part: planned(args, part) for part in args.part}
    for run in [run for of_part in runs.values() for run in of_part]:
        run.training.check()
    extra = [f"--{name}={place}" for name, place in places.items() if place is not None]
    failures = []
    for part, of_part in runs.items():
        trainings = [run.training for run in of_part]
        if part == "equal" and not args.report_only:
            failures += train_in_legs(trainings, args, extra)
        elif not args.report_only:
            failures += train_all(trainings, args.jobs, extra)
        failures += score_all(trainings)
    report(args, runs)
    return finish(failures)


if __name__ == "__main__":
    sys.exit(main())
