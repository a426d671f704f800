"""The classic methods side by side: DCGAN on MNIST with each loss and penalty, at equal steps, over seeds.

    python -m studies.classic                                      three seeds of 2,000 steps, then docs/classic.md
    python -m studies.classic --methods gan wgan-gp --seeds 0 1 2 3 4 --n_steps 20000
    python -m studies.classic --report_only                        table and picture of the runs that are there

Runs stand in --runs_dir and are one thread each, --jobs at a time; what is finished is not run again, what was stopped
goes on. Digits are read by the mnist-cnn that comes with the code.
"""

import signals

if __name__ == "__main__":
    signals.as_command()  # before imports that take seconds

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from errors import blaming_user, cli
from generation.extractors import open_extractor
from generation.pictures import picture_table
from images.sources import load_dataset
from metrics.features import EXTRACTORS
from studies.runs import (
    OF_REFERENCE,
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
    spread_in,
    train_all,
    write_report,
)
from tools import tool_parser
from tools.common import add_device_flag, positive, whole
from training.device import choose_device

# Method -> (paper, flags beside those of every run): rates as the papers and the source have them for DCGAN.
METHODS = {
    "gan": ("1406.2661", "--method gan --lr 2e-4 --beta1 0.5 --beta2 0.999"),
    "gan + R1": ("1801.04406", "--method gan --r1_weight 1 --lr 2e-4 --beta1 0.5 --beta2 0.999"),
    "lsgan": ("1611.04076", "--method lsgan --lr 2e-4 --beta1 0.5 --beta2 0.999"),
    "hinge + spectral norm": (
        "1802.05957", "--method hinge --spectral_norm_d --lr 2e-4 --beta1 0.5 --beta2 0.999",
    ),
    "ragan": ("1807.00734", "--method ragan --lr 2e-4 --beta1 0.5 --beta2 0.999"),
    "wgan-gp": ("1704.00028", "--method wgan-gp --lr 2e-4 --beta1 0 --beta2 0.9"),
    "wgan": ("1701.07875", "--method wgan --optimizer RMSprop --lr 2e-4 --train_g_interval 2"),
    "labels, concatenated": ("1411.1784", "--conditional --lr 2e-4 --beta1 0.5 --beta2 0.999"),
    "labels, projected": (
        "1802.05637", "--conditional --condition_g cbn --condition_d projection --lr 2e-4 --beta1 0.5 --beta2 0.999",
    ),
}  # fmt: skip
EVERY = "--model dcgan --batch_size 32 --ema"
EXTRACTOR = "mnist-cnn"
# Score, title, format.
COLUMNS = (
    (f"fid[{EXTRACTOR}]", f"`fid[{EXTRACTOR}]`", ".1f"),
    (f"recall[{EXTRACTOR}]", "recall", ".3f"),
    ("classes", "classes with >= 1 %", ".1f"),
    ("kl_uniform", "KL to uniform", ".3f"),
    ("confidence", "confidence", ".3f"),
)
TITLE = "# Classic methods on MNIST"
HEAD = f"""Written by `python -m studies.classic` (its `--help` says how): `python gan_mnist.py {EVERY}`
and the flags of the row, 32x32, averaged weights of the last step, 10,000 fakes against 10,000 training images; mean ±
the sample's standard deviation over the seeds, one thread a run. At so few steps the table says how fast a method
begins, no more."""
SHOWN_SIDE = 176  # px of a run's samples


def training(method: str, seed: int, n_steps: int, runs_dir: Path, device: str) -> Training:
    """One run of the study."""
    labelled = "--conditional" in METHODS[method][1]
    words = f"{EVERY} {METHODS[method][1]} --seed {seed} --n_steps {n_steps} --device {device}"
    name = (
        "".join(c if c.isalnum() or c == "-" else "-" for c in method).replace("---", "-").replace("--", "-")
    )
    return Training(
        "gan_mnist",
        f"{name}-{seed}",
        runs_dir,
        tuple(words.split()),
        n_steps,
        scoring=(f"--device={device}", f"--extractor={EXTRACTOR}"),
        protocol={
            "n_fake": 10_000,
            "n_real": 10_000,
            "split": "train",
            "extractor": EXTRACTOR,
            "extractor_sha256": EXTRACTORS[EXTRACTOR].shipped,
            "weights": "ema",
            "labels": OF_REFERENCE if labelled else None,
        },
        scores=(*(name for name, *_ in COLUMNS), *(["class_accuracy"] if labelled else [])),
    )


def read_as_asked(found: Sequence[Mapping[str, Any]]) -> str:
    """Of runs with labels, how many samples are of the label asked for."""
    asked = [line["class_accuracy"] for line in found if "class_accuracy" in line]
    return spread_in(asked, ".1%") if asked else ""


def table(scores: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A row a method; scores: of its seeds."""
    return scored_table("method", METHODS, COLUMNS, ("read as asked", read_as_asked), scores)


def report(runs: Mapping[tuple[str, int], Training], n_steps: int, out: Path) -> None:
    """Table and picture of what is finished and scored by one version of the code."""
    there, scores = finished(runs, METHODS)
    seeds = sorted({seed for _, seed in there})
    shown = [
        (m, [last_samples(runs[m, seed], SHOWN_SIDE) for seed in seeds])
        for m in scores
        if all((m, s) in there for s in seeds)
    ]
    text = [TITLE, "", HEAD, "", f"{n_steps:,} steps of 32, seeds {', '.join(map(str, seeds))}.", ""]
    text += [measured_by([runs[key] for key in there], list(there.values())), "", *table(scores), ""]
    if shown:
        picture = picture_table([f"seed {seed}" for seed in seeds], shown)
        text += ["Samples of the last step.", "", save_picture(picture, out, "classic_mnist")]
    write_report(text, out)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("studies.classic", __doc__)
    p.add_argument(
        "--methods", nargs="+", default=tuple(METHODS), choices=tuple(METHODS), metavar="NAME", help="[all]"
    )
    p.add_argument("--seeds", nargs="+", type=whole, default=(0, 1, 2), help="[0 1 2]")
    p.add_argument("--n_steps", type=positive, default=2000, help="length of each run [2000]")
    p.add_argument("--data_root", default="data", help="where MNIST stands or is downloaded to [data]")
    add_device_flag(p)
    add_study_flags(p, "classic")
    return p


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, then score and report."""
    args = parser().parse_args(argv)
    args.device = choose_device(args.device)
    runs = {
        (method, seed): training(method, seed, args.n_steps, args.runs_dir.absolute(), args.device)
        for seed in args.seeds
        for method in args.methods
    }
    for run in runs.values():
        run.check()
    trainings, failures = list(runs.values()), []
    if not args.report_only:
        with blaming_user():  # what is missing is said now, not after hours
            open_extractor(EXTRACTOR)
            load_dataset("mnist", img_size=32, img_channels=1, data_root=args.data_root)
        failures = train_all(trainings, args.jobs, [f"--data_root={Path(args.data_root).absolute()}"])
    failures += score_all(trainings)
    if any(scores_of(trainings)) or not failures:
        report(runs, args.n_steps, args.out)
    return finish(failures)


if __name__ == "__main__":
    sys.exit(main())
