"""Stacked MNIST: how many of its 1000 modes R3GAN and DCGAN with three losses show after equal times.

    python -m studies.stacked_mnist                                two hours a run, then docs/stacked_mnist.md
    python -m studies.stacked_mnist --rows r3gan-tiny wgan-gp --seeds 0 1 --seconds 3600
    python -m studies.stacked_mnist --report_only                  table and picture of the runs that are there

Runs stand in --runs_dir and are one thread each, --jobs at a time; what is finished is not run again, what was stopped
goes on. Seconds are of training: scores, pictures and checkpoints take none of them. The digit in each channel is read
by the mnist-cnn that comes with the code.
"""

import signals

if __name__ == "__main__":
    signals.as_command()  # before imports that take seconds

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from errors import UserError, blaming_user, cli
from generation.extractors import open_extractor
from generation.pictures import picture_table
from images.sources import load_dataset
from metrics.features import EXTRACTORS
from studies.runs import (
    ENDLESS,
    Training,
    add_study_flags,
    finish,
    finished,
    last_samples,
    measured_by,
    save_picture,
    score_all,
    scored_table,
    scores_of,
    train_all,
    write_report,
)
from tools import tool_parser
from tools.common import finite, whole
from tools.table import span

_DCGAN = "--model dcgan --batch_size 64 --z_dim 100 --ema --g_kwargs width=32 --d_kwargs width=32"
# Row -> (paper, flags). DCGAN is half as wide as its default, as in studies.cifar10, with rates as in studies.classic.
ROWS = {
    "r3gan-tiny": ("2501.05441", "--preset r3gan-tiny"),
    "gan": ("1406.2661", f"{_DCGAN} --method gan --lr 2e-4 --beta1 0.5"),
    "wgan-gp": ("1704.00028", f"{_DCGAN} --method wgan-gp --lr 2e-4 --beta1 0 --beta2 0.9"),
    "gan + R1": ("1801.04406", f"{_DCGAN} --method gan --r1_weight 1 --lr 2e-4 --beta1 0.5"),
}
EXTRACTOR = "stacked-mnist-cnn"
N = 26_000  # samples, as in arXiv:1712.04086: 26 a mode
# Score, title, format.
COLUMNS = (
    ("classes", "modes of 1000", ".1f"),
    ("kl_data", "KL to data", ".3f"),
    ("kl_uniform", "KL to uniform", ".3f"),
    ("confidence", "confidence", ".3f"),
)
TITLE = "# Stacked MNIST at equal times"
HEAD = f"""Written by `python -m studies.stacked_mnist` (its `--help` says how): `python gan_mnist.py --dataset
stacked-mnist` and the flags of the row, 32x32 in colour, averaged weights of the last step, {N:,} samples; a mode
counts from one sample on; KL in nats; mean ± the sample's standard deviation over the seeds, one thread a run. What
follows from it stands in [results.md](results.md)."""
SHOWN_SIDE = 264  # px of a run's samples


def training(row: str, seed: int, seconds: float, runs_dir: Path) -> Training:
    """One run of the study."""
    # seconds are counted up to a line of the log
    common = f"--dataset stacked-mnist --seed {seed} --n_steps {ENDLESS} --device cpu --log_interval 10"
    quiet = "--loggers --sample_interval 1000000 --keep_checkpoints 2"
    name = row.replace(" + ", "-")
    return Training(
        "gan_mnist",
        f"{name}-{seed}",
        runs_dir,
        tuple(f"{ROWS[row][1]} {common} {quiet}".split()),
        seconds=seconds,
        scoring=("--device=cpu", f"--extractor={EXTRACTOR}", f"--n={N}", "--metrics", "modes"),
        protocol={
            "n_fake": N,
            "n_real": N,
            "split": "train",
            "extractor": EXTRACTOR,
            "extractor_sha256": EXTRACTORS[EXTRACTOR].shipped,
            "weights": "ema",
        },
        scores=tuple(score for score, *_ in COLUMNS),
    )


def table(scores: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A line a row; scores: of its seeds."""
    steps = ("steps", lambda found: span([line["step"] for line in found]))
    return scored_table("row", ROWS, COLUMNS, steps, scores)


def report(runs: Mapping[tuple[str, int], Training], seconds: float, out: Path) -> None:
    """Table and picture of what is finished and scored by one version of the code."""
    there, scores = finished(runs, ROWS)
    seeds = sorted({seed for _, seed in there})
    text = [TITLE, "", HEAD, ""]
    text += [f"{seconds:g} seconds of training a run, seeds {', '.join(map(str, seeds))}.", ""]
    text += [measured_by([runs[key] for key in there], list(there.values())), "", *table(scores), ""]
    firsts = {
        row: next(run for (r, s), run in runs.items() if r == row and (r, s) in there) for row in scores
    }
    shown = {row: picture for row, run in firsts.items() if (picture := last_samples(run, SHOWN_SIDE))}
    if shown:
        picture = picture_table(list(shown), [("", list(shown.values()))])
        text += [
            "Samples of the last step, of the first seed.",
            "",
            save_picture(picture, out, "stacked_mnist"),
        ]
    write_report(text, out)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("studies.stacked_mnist", __doc__)
    p.add_argument(
        "--rows",
        nargs="+",
        default=tuple(ROWS),
        choices=tuple(ROWS),
        metavar="ROW",
        help=f"among {', '.join(ROWS)} [all]",
    )
    p.add_argument("--seeds", nargs="+", type=whole, default=(0,), help="[0]")
    about = "training of a run, in seconds of one thread [7200]"
    p.add_argument("--seconds", type=finite, default=7200.0, help=about)
    p.add_argument("--data_root", default="data", help="where MNIST stands or is downloaded to [data]")
    add_study_flags(p, "stacked_mnist")
    return p


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, then score and report."""
    args = parser().parse_args(argv)
    if args.seconds <= 0:
        raise UserError(f"--seconds {args.seconds:g} must be above 0")
    place = args.runs_dir.absolute()
    runs = {(row, seed): training(row, seed, args.seconds, place) for seed in args.seeds for row in args.rows}
    trainings, failures = list(runs.values()), []
    for run in trainings:
        run.check()
    if not args.report_only:
        root = Path(args.data_root).absolute()
        with blaming_user():  # what is missing is said now, not after hours
            open_extractor(EXTRACTOR)
            load_dataset("stacked-mnist", img_size=32, img_channels=3, data_root=root)
        failures = train_all(trainings, args.jobs, [f"--data_root={root}"])
    failures += score_all(trainings)
    if any(scores_of(trainings)) or not failures:
        report(runs, args.seconds, args.out)
    return finish(failures)


if __name__ == "__main__":
    sys.exit(main())
