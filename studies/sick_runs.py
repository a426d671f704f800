"""Runs made sick on purpose, and healthy ones: does tools.report name each of them rightly?

    python -m studies.sick_runs                                    about 15 minutes on two cores, then docs/sick_runs.md
    python -m studies.sick_runs --cases lr-zero ring8-wgan-gp      some of them
    python -m studies.sick_runs --report_only                      what the diagnosis says of the runs that are there

Runs stand in --runs_dir and are one thread each, --jobs at a time; what is finished is not run again, what was stopped
goes on. They are small: the embedded digits at 16 px, and rings of Gaussians. Nothing is downloaded.
"""

import signals

if __name__ == "__main__":
    signals.as_command()  # before imports that take seconds

import argparse
import colorsys
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import disk
from errors import cli
from generation.charts import curves, picture
from generation.diagnosis import diagnose
from generation.findings import FINDINGS, Finding
from generation.pictures import WHITE, picture_table
from generation.record import Record, read_record
from images.batches import images_of
from images.sources import load_dataset
from studies.runs import Training, add_study_flags, finish, save_picture, train_all, write_report
from tools import tool_parser
from tools.table import markdown

TITLE = "# Runs made sick on purpose: is each named rightly?"
HEAD = """Written by `python -m studies.sick_runs` (its `--help` says how). Small runs of one seed and one thread
are spoiled in a known way, and `tools.report` is asked what is wrong with them, from logged numbers and samples alone;
healthy ones, of several methods, must not be accused. What the findings mean stands in
[reading_a_run.md](reading_a_run.md)."""
SIDE = 16  # px
SHOWN = ("digits", "ring8-wgan-gp", "coloured")  # of the healthy ones, in the picture
TILE = (300, 190)  # px of a chart in the picture
FEW = 50  # pictures of the run that learns them by heart
PALE = 0.4  # of the colour is left
N_STEPS = 2000
# A narrow DCGAN on the digits, which learns within a minute or two of one core
DCGAN = (
    "--dataset=digits", f"--img_size={SIDE}", "--z_dim=32", "--model=dcgan", "--g_kwargs", "width=16", "--d_kwargs",
    "width=16", "--batch_size=32", f"--n_steps={N_STEPS}",
)  # fmt: skip
PLACE = ("--device=cpu", "--log_interval=20", "--sample_interval=100", "--checkpoint_interval=1000")
# D takes the logarithm of a number that a batch now and then makes negative
BROKEN_MODEL = '''"""DCGAN whose D is not finite for one batch in ten or so."""

import torch

from modelling import dcgan

Generator = dcgan.Generator


class Discriminator(dcgan.Discriminator):
    """Its logit is NaN where the digits of the batch's mean fall so: the logarithm of a negative number."""

    def forward(self, x, y=None):
        mean = x.detach().mean()
        return super().forward(x, y) + 0 * torch.log(torch.frac(mean.abs() * 1e3) - 0.05)
'''


@dataclass(frozen=True)
class Case:
    """A run, what was done to it, and what the diagnosis should find: the name of a row of FINDINGS.

    data: the folder of pictures that is made for it; copied: the case of whose finished run this is a copy.
    """

    about: str
    expected: str
    script: str = "gan_mnist"
    flags: tuple[str, ...] = ()
    n_steps: int = N_STEPS
    data: str | None = None
    model: str | None = None
    copied: str | None = None


def ring8(method: str, n_steps: int) -> tuple[str, ...]:
    """Flags of a run on the ring of eight Gaussians."""
    return f"--preset=ring8-{method}", f"--n_steps={n_steps}"


CASES = {
    "wgan-100": Case(
        "wgan at 100 times its rate, 5e-5", "d-lost",
        flags=(*DCGAN, "--method=wgan", "--optimizer=RMSprop", "--lr=5e-3", "--train_g_interval=5"),
    ),
    "lr-zero": Case("`--lr_d 0`", "rate-zero", flags=(*DCGAN, "--lr_d=0")),
    "ring8-gan": Case("plain gan on Ring8", "mode-collapse", "gan_ring8", ring8("gan", 6000), 6000),
    "pale": Case(f"samples of the coloured digits, their colour times {PALE:g}", "washed-out", copied="coloured"),
    "strong-d": Case(
        "gan-saturating, D's rate ten times G's", "vanishing-gradient",
        flags=(*DCGAN[:-1], "--n_steps=1000", "--method=gan-saturating", "--lr_d=2e-3"), n_steps=1000,
    ),
    "fifty": Case(
        f"{FEW} pictures, no augmentation", "overfitting", "gan_folder",
        flags=(*DCGAN[1:], "--method=gan", "--no-flip"), data="fifty",
    ),
    "nan-steps": Case("D is NaN now and then", "diverging", flags=DCGAN, model="nan_steps.py"),
    "digits": Case(
        "dcgan, gan with R1, average", "healthy", flags=(*DCGAN, "--r1_weight=0.1", "--ema", "--ema_decay=0.99"),
    ),
    "ring8-wgan-gp": Case("Ring8, wgan-gp", "healthy", "gan_ring8", ring8("wgan-gp", 6000), 6000),
    "coloured": Case(
        "digits in colour, dcgan with R1", "healthy", "gan_folder",
        flags=(*DCGAN[1:], "--method=gan", "--r1_weight=0.1", "--no-flip"), data="coloured",
    ),
    "digits-wgan-gp": Case(
        "wgan-gp", "healthy",
        flags=(*DCGAN, "--method=wgan-gp", "--train_g_interval=2", "--beta1=0", "--beta2=0.9"),
    ),
    "digits-hinge": Case(
        "hinge with spectral norm", "healthy", flags=(*DCGAN, "--method=hinge", "--spectral_norm_d"),
    ),
    "digits-lsgan": Case("lsgan", "healthy", flags=(*DCGAN, "--method=lsgan")),
    "digits-ragan": Case("ragan with R1", "healthy", flags=(*DCGAN, "--method=ragan", "--r1_weight=0.1")),
    "ring8-sngan": Case("Ring8, spectral norm", "healthy", "gan_ring8", ring8("sngan", 6000), 6000),
    "ring8-gan-r1": Case("Ring8, R1", "healthy", "gan_ring8", ring8("gan-r1", 6000), 6000),
}  # fmt: skip


# -- what is trained -----------------------------------------------------------------------------------------------


def training_of(name: str, runs_dir: Path) -> Training:
    """How a case is trained."""
    case = CASES[name]
    flags = [*case.flags, *PLACE]
    if case.data is not None:
        flags += [f"--data={runs_dir / 'data' / case.data}", "--split=train"]
    if case.model is not None:
        flags = [flag for flag in flags if not flag.startswith("--model=")] + [
            f"--model={runs_dir / case.model}"
        ]
    return Training(case.script, name, runs_dir, tuple(flags), case.n_steps)


def digits() -> np.ndarray:
    """The embedded training digits, uint8 (n, H, W)."""
    return images_of(load_dataset("digits", img_size=SIDE, img_channels=1))[:, 0].numpy()


def write_folder(folder: Path, pictures: Sequence[np.ndarray]) -> None:
    """Pictures as 0000.png and so on; one that is whole stays."""
    if folder.is_dir() and len(list(folder.glob("*.png"))) == len(pictures):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(pictures):
        with disk.replacing(folder / f"{i:04d}.png", durable=False) as file:
            Image.fromarray(pixels).save(file, "png")


def coloured(grey: np.ndarray) -> list[np.ndarray]:
    """Each digit in a colour of its own on black, the hues all around the circle."""
    hues = np.random.default_rng(0).random(len(grey))
    inks = np.array([colorsys.hsv_to_rgb(hue, 0.8, 1.0) for hue in hues])
    return [(digit[..., None] * ink).astype(np.uint8) for digit, ink in zip(grey, inks, strict=True)]


def paler(picture: Image.Image, share: float = PALE) -> Image.Image:
    """A picture with that share of its colour: every pixel so far from its own grey (ITU-R 601)."""
    grey = np.asarray(picture.convert("L"), dtype=float)[..., None]
    pixels = np.asarray(picture.convert("RGB"), dtype=float)
    return Image.fromarray((grey + share * (pixels - grey)).round().astype(np.uint8))


def copy_paler(run: Path, copy: Path) -> None:
    """A finished run's copy whose samples are paler; its lines say nothing of the samples, which are looked at anew."""
    if copy.is_dir():
        return
    shutil.copytree(
        run, copy, ignore=shutil.ignore_patterns("checkpoints", "generator", "events.*", disk.LOCK)
    )
    for file in (copy / "samples").glob("step-*.png"):
        with Image.open(file) as picture:
            pale = paler(picture)
        pale.save(file)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if not k.startswith("samples/")} for line in lines]
    disk.put(copy / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))


# -- what is found -------------------------------------------------------------------------------------------------


def row_of(name: str, findings: Sequence[Finding]) -> list[str]:
    """A row of the table: what was done, what should be found, what was."""
    case, first = CASES[name], findings[0]
    right = "yes" if first.name == case.expected else "**no**"
    found = "; ".join(f"{finding.title} ({finding.sure})" for finding in findings)
    return [name, case.about, FINDINGS[case.expected].title, right, found, "; ".join(first.evidence)]


def pictures_of(record: Record) -> list[Image.Image]:
    """Losses, D on reals and fakes, and the last samples of a run."""
    drawn = []
    for names in (("loss/d", "loss/g"), ("d/real", "d/fake")):
        there = {name: record.series[name] for name in names if name in record.series}
        chart = curves({name: (one.steps, one.values) for name, one in there.items()}, size=TILE)
        drawn.append(picture(chart))
    samples = record.samples[record.weight_set]
    last, tile = record.picture(samples[max(samples)]), Image.new("RGB", TILE, WHITE)
    last = last.resize(
        (TILE[1], TILE[1]), Image.Resampling.LANCZOS if last.width > TILE[1] else Image.Resampling.NEAREST
    )
    tile.paste(last, ((TILE[0] - TILE[1]) // 2, 0))
    return [*drawn, tile]


def report(names: Sequence[str], place: Path, out: Path) -> list[str]:
    """Look at the runs that are there, and write the report; those that were named wrongly, a line each."""
    there = [name for name in names if (place / name / "metrics.jsonl").is_file()]
    records = {name: read_record(place / name) for name in there}
    found = {name: diagnose(record) for name, record in records.items()}
    table = markdown(
        ["run", "what was done", "to be found", "right", "found", "evidence"],
        [row_of(name, findings) for name, findings in found.items()],
    )
    wrong = [name for name, findings in found.items() if findings[0].name != CASES[name].expected]
    said = f"{len(there) - len(wrong)} of {len(there)} are named rightly."
    lines = [TITLE, "", HEAD, "", *table, "", said, ""]
    shown = [name for name in there if CASES[name].expected != "healthy" or name in SHOWN]
    if shown:
        rows = [(name, pictures_of(records[name])) for name in shown]
        whole = picture_table(["losses", "D's mean logit on reals and fakes", "last samples"], rows)
        lines += [save_picture(whole, out, "sick_runs", colours=256), ""]
    write_report(lines, out)
    print(said)
    return [f"{name} was found to be {found[name][0].name}, not {CASES[name].expected}" for name in wrong]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("studies.sick_runs", __doc__)
    p.add_argument("--cases", nargs="+", default=tuple(CASES), choices=tuple(CASES), help="[all]")
    add_study_flags(p, "sick_runs")
    return p


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, then look at all of them."""
    args = parser().parse_args(argv)
    place = args.runs_dir.absolute()
    wanted = dict.fromkeys(CASES[name].copied or name for name in args.cases)
    runs = [training_of(name, place) for name in wanted]
    place.mkdir(parents=True, exist_ok=True)
    grey = digits()
    write_folder(place / "data" / "fifty", grey[:FEW])
    write_folder(place / "data" / "coloured", coloured(grey))
    disk.put(place / "nan_steps.py", BROKEN_MODEL)
    for run in runs:
        run.check()
    failures = [] if args.report_only else train_all(runs, args.jobs)
    for name in args.cases:
        if (source := CASES[name].copied) is not None and training_of(source, place).done():
            copy_paler(place / source, place / name)
    failures += report(args.cases, place, args.out)
    return finish(failures)


if __name__ == "__main__":
    sys.exit(main())
