"""The mode-collapse study: which methods catch every mode of a ring of Gaussians and every digit of MNIST.

    python -m studies.mode_collapse                                the whole study, then docs/mode_collapse.md
    python -m studies.mode_collapse --part ring8 --methods gan wgan-gp --seeds 0
    python -m studies.mode_collapse --report_only                  tables and pictures of the runs that are there

Runs stand in --runs_dir and are one thread each, --jobs at a time; what is finished is not run again, what was stopped
goes on. Settings are the presets ring8-METHOD and mnist-modes-METHOD. On MNIST the source's 10,000 updates of G take
hours a run: the default is 2,000, and two seeds.
"""

import signals

if __name__ == "__main__":
    signals.as_command()  # before imports that take seconds

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from errors import blaming_user, cli
from generation.charts import histogram, picture
from generation.checkpoint import load_checkpoint
from generation.extractors import open_extractor
from generation.pictures import WHITE, picture_table
from images.sources import load_dataset
from losses import METHODS as LOSSES
from metrics.features import EXTRACTORS
from settings.presets import PRESETS
from studies.runs import (
    Training,
    add_study_flags,
    finish,
    measured_by,
    save_picture,
    score_all,
    scores_of,
    spread_in,
    train_all,
    write_report,
)
from tools import tool_parser
from tools.common import positive

TITLE = "# Which methods catch every mode"
HEAD = """Written by `python -m studies.mode_collapse` (its `--help` says how): the study of xyfJASON's README, which
shows pictures, counted. Small fully connected networks, batches of 256, five updates of D for one of G, no average of
G; 10,000 samples of the last step a run; mean ± the sample's standard deviation over the seeds, a dash for one; one
thread a run. What follows from it stands in [results.md](results.md)."""
# How every run is scored: the defaults of tools.evaluate.
PROTOCOL = {"n_fake": 10_000, "weights": "raw"}
SHARPER = 1.5  # times the px of a chart, in the report
SHOWN_SIDE = 160  # px of a picture in the report


@dataclass(frozen=True)
class Part:
    """A half of the study: script, stem of its presets, steps that are shown, and what its scores say.

    n_steps, seeds: what is trained unless something else is asked for; counted: the score that counts modes with at
    least 1 % of the samples, of n_modes; columns: (score, title, format); extractor: None for points.
    """

    script: str
    stem: str
    n_steps: int
    seeds: tuple[int, ...]
    shown: tuple[int, ...]
    title: str
    about: str
    counted: str
    n_modes: int
    columns: tuple[tuple[str, str, str], ...]
    extractor: str | None = None


PARTS = {
    "ring8": Part(
        "gan_ring8", "ring8-", 25_000, (0, 1, 2), (1000, 2000, 3000, 4000, 5000, 25_000), "Ring8",
        "Eight Gaussians on a ring, a sample within 3 standard deviations of a centre is of high quality (98.9 % of a "
        "perfect sampler's are); KL of the high-quality samples' modes from uniform, JSD of all samples from a perfect "
        "sampler's, in nats.",
        "modes_1pct", 8,
        (
            ("modes", "modes with any", ".1f"), ("modes_1pct", "modes with 1 %", ".1f"),
            ("high_quality", "high quality", ".1%"), ("kl_uniform", "KL to uniform", ".3f"), ("jsd", "JSD", ".3f"),
        ),
    ),
    "mnist": Part(
        "gan_mnist", "mnist-modes-", 10_000, (0, 1), (1000, 2000, 5000, 25_000, 50_000), "MNIST, 28 px",
        "Digits read by `mnist-cnn`; KL in nats.", "classes", 10,
        (
            ("classes", "digits with 1 %", ".1f"), ("kl_data", "KL to data", ".3f"),
            ("confidence", "confidence", ".3f"), ("fid[mnist-cnn]", "`fid[mnist-cnn]`", ".1f"),
        ),
        extractor="mnist-cnn",
    ),
}  # fmt: skip
METHODS = tuple(name.removeprefix("ring8-") for name in PRESETS if name.startswith("ring8-"))


@dataclass(frozen=True)
class MethodRun:
    """One training of the study."""

    part: str
    method: str
    seed: int
    n_steps: int
    runs_dir: Path

    @property
    def training(self) -> Training:
        """How it is trained and scored."""
        part = PARTS[self.part]
        reader, about = [], PROTOCOL
        if part.extractor is not None:
            reader = [f"--extractor={part.extractor}"]
            about = about | {
                "n_real": 10_000,
                "split": "train",
                "extractor": part.extractor,
                "extractor_sha256": EXTRACTORS[part.extractor].shipped,
            }
        return Training(
            part.script,
            f"{self.part}-{self.method}-{self.seed}",
            self.runs_dir,
            (
                f"--preset={part.stem}{self.method}",
                f"--seed={self.seed}",
                f"--n_steps={self.n_steps}",
                "--device=cpu",
            ),
            self.n_steps,
            scoring=("--device=cpu", *reader),
            protocol=about,
            scores=(part.counted, *(name for name, *_ in part.columns)),
        )


@dataclass(frozen=True)
class Scored:
    """A run and its score."""

    run: MethodRun
    line: dict[str, Any]


# -- report --------------------------------------------------------------------------------------------------------


def settings_of(part: str, method: str) -> str:
    """What sets a method's preset apart from that of `gan`."""
    own, plain = (PRESETS[f"{PARTS[part].stem}{name}"].settings for name in (method, "gan"))
    rows = [
        f"{k}={v}" for k, v in own.items() if method == "gan" and k.startswith("beta") or v != plain.get(k)
    ]
    return ", ".join(rows)


def row_of(part: str, method: str, scores: Sequence[dict[str, Any]], complete: int) -> str:
    """A line of the table of a part; complete: how many of the scores count every mode."""
    columns = PARTS[part].columns
    cells = [spread_in([score[name] for score in scores], form) for name, _, form in columns]
    counted = f"{complete} of {len(scores)}"
    return f"| {' | '.join([method, counted, *cells, settings_of(part, method)])} |"


def table_of(part: str, runs: Sequence[Scored]) -> list[str]:
    """The table of a part, and which methods are complete in how many seeds."""
    row = PARTS[part]
    scores = {m: [scored.line for scored in runs if scored.run.method == m] for m in METHODS}
    scores = {m: found for m, found in scores.items() if found}
    titles = [
        "method",
        f"all {row.n_modes} in",
        *(title for _, title, _ in row.columns),
        "settings beside gan's",
    ]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    complete = {m: sum(s[row.counted] == row.n_modes for s in found) for m, found in scores.items()}
    lines += [row_of(part, method, found, complete[method]) for method, found in scores.items()]
    groups = {
        "In every seed": [m for m, n in complete.items() if n == len(scores[m])],
        "In some": [f"{m} ({n} of {len(scores[m])})" for m, n in complete.items() if 0 < n < len(scores[m])],
        "In none": [m for m, n in complete.items() if n == 0],
    }
    said = " ".join(f"{text}: {', '.join(names) or 'no method'}." for text, names in groups.items())
    return [*lines, "", f"All {row.n_modes}, each with at least 1 % of the samples. {said}"]


def samples_of(run: MethodRun, step: int) -> Image.Image:
    """The run's own picture of a step; white where it has none."""
    file = run.training.folder / "samples" / f"step-{step:08d}-raw.png"
    if file.is_file():
        return Image.open(file).convert("RGB").resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return Image.new("RGB", (SHOWN_SIDE, SHOWN_SIDE), WHITE)


def pictures_of(part: str, runs: Sequence[MethodRun]) -> Image.Image:
    """A row a method, a column a step, of the first seed."""
    first = [run for run in runs if run.seed == runs[0].seed]
    interval = PRESETS[f"{PARTS[part].stem}gan"].settings["train_g_interval"]
    steps = [step for step in PARTS[part].shown if step < first[0].n_steps] + [first[0].n_steps]
    titles = [f"{step // interval:,} updates of G" for step in steps]
    return picture_table(titles, [(run.method, [samples_of(run, step) for step in steps]) for run in first])


def weights_of(run: MethodRun) -> Tensor:
    """All weights of D's layers at the end, biases left out."""
    state = load_checkpoint(run.training.folder / "checkpoints" / f"step-{run.n_steps:08d}.pt")["networks"][
        "D"
    ]
    return torch.cat([w.flatten() for w in state.values() if w.dim() > 1])


def histograms(runs: Sequence[MethodRun]) -> tuple[Image.Image, list[str]] | None:
    """Weights of D under clipping and under the gradient penalty, and a line on each; None without both runs."""
    found = {run.method: run for run in runs if run.seed == runs[0].seed}
    if not {"wgan", "wgan-gp"} <= found.keys():
        return None
    clip = LOSSES["wgan"].weight_clip
    rows, lines = [], []
    for method, limit in (("wgan", 1.5 * clip), ("wgan-gp", 0.3)):
        weights = weights_of(found[method])
        at_bound, beyond = (float((weights.abs() >= bound).float().mean()) for bound in (0.9 * clip, limit))
        chart = histogram(weights, limit, label=f"weights of D, {method}", size=(420, 200))
        rows.append((method, [picture(chart, SHARPER)]))
        lines.append(
            f"- {method}: standard deviation {float(weights.std()):.4f}, {at_bound:.1%} at or beyond ±{0.9 * clip:g}, "
            f"{beyond:.1%} beyond the picture."
        )
    return picture_table([""], rows), lines


def section(part: str, scored: Sequence[Scored], out: Path) -> list[str]:
    """A part's heading, what was done, table and pictures."""
    row, runs = PARTS[part], [one.run for one in scored]
    lengths = PRESETS[f"{row.stem}gan"].settings
    g_steps = runs[0].n_steps // lengths["train_g_interval"]
    whole = lengths["n_steps"] // lengths["train_g_interval"]
    short = "" if g_steps == whole else f", shortened from {whole:,}"
    seeds = ", ".join(str(s) for s in sorted({run.seed for run in runs}))
    command = f"`python {row.script}.py --preset {row.stem}METHOD --seed SEED --n_steps {runs[0].n_steps}`"
    lines = [
        f"## {row.title}",
        "",
        f"{command}: {g_steps:,} updates of G{short}; seeds {seeds}. {row.about}",
        "",
    ]
    lines += [measured_by([run.training for run in runs], [one.line for one in scored]), ""]
    lines += [*table_of(part, scored), "", f"Samples along training, seed {runs[0].seed}.", ""]
    lines += [save_picture(pictures_of(part, runs), out, f"mode_collapse_{part}"), ""]
    if part == "ring8" and (weights := histograms(runs)) is not None:
        lines += ["### Weights of D, clipped and penalised", "", *weights[1], ""]
        lines += [save_picture(weights[0], out, "mode_collapse_weights"), ""]
    return lines


def report(runs: Sequence[MethodRun], out: Path) -> None:
    """Write the report of what is finished and scored by one version of the code, and its pictures."""
    lines = [TITLE, "", HEAD, ""]
    for part in PARTS:
        wanted = [run for run in runs if run.part == part]
        found = zip(wanted, scores_of([run.training for run in wanted]), strict=True)
        if there := [Scored(run, line) for run, line in found if line is not None]:
            lines += section(part, there, out)
    write_report(lines, out)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("studies.mode_collapse", __doc__)
    p.add_argument("--part", nargs="+", default=tuple(PARTS), choices=tuple(PARTS), help="which half [both]")
    p.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help="[all]")
    p.add_argument("--seeds", nargs="+", type=int, help="[0 1 2, on MNIST 0 1]")
    about = "length of the runs of MNIST, five a step of G (multiples of 1000; the source's: 50000) [10000]"
    p.add_argument("--mnist_steps", type=positive, default=PARTS["mnist"].n_steps, help=about)
    p.add_argument("--data_root", default="data", help="where MNIST stands or is downloaded to [data]")
    add_study_flags(p, "mode_collapse")
    return p


def planned(
    args: argparse.Namespace, parts: Sequence[str], methods: Sequence[str], seeds: Sequence[int] | None
) -> list[MethodRun]:
    """The runs of these, all methods of a seed before the next seed; seeds: None for those of each part."""
    lengths = {part: row.n_steps for part, row in PARTS.items()} | {"mnist": args.mnist_steps}
    return [
        MethodRun(part, method, seed, lengths[part], args.runs_dir.absolute())
        for part in parts
        for seed in (PARTS[part].seeds if seeds is None else seeds)
        for method in methods
    ]


def seeds_there(runs_dir: Path) -> list[int]:
    """Seeds of the runs that stand there: the report is of all that is finished, whatever was asked for now."""
    found = (re.search(r"-(\d+)$", folder.name) for folder in runs_dir.glob("*") if folder.is_dir())
    return sorted({int(match[1]) for match in found if match})


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, then score and report."""
    args = parser().parse_args(argv)
    runs = [run.training for run in planned(args, args.part, args.methods, args.seeds)]
    for run in runs:
        run.check()
    failures = []
    if not args.report_only:
        with blaming_user():  # what is missing is said now, not after hours
            for name in {PARTS[part].extractor for part in args.part} - {None}:
                open_extractor(name)
            if "mnist" in args.part:
                load_dataset("mnist", img_size=28, img_channels=1, data_root=args.data_root)
        failures = train_all(runs, args.jobs, [f"--data_root={Path(args.data_root).absolute()}"])
    every = planned(args, tuple(PARTS), METHODS, seeds_there(args.runs_dir))
    for part in PARTS:
        failures += score_all([run.training for run in every if run.part == part])
    report(every, args.out)
    return finish(failures)


if __name__ == "__main__":
    sys.exit(main())
