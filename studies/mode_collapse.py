"""The mode-collapse study: which methods catch every mode of a ring of Gaussians and every digit of MNIST.

    python -m studies.mode_collapse                                the whole study, then docs/mode_collapse.md
    python -m studies.mode_collapse --part ring8 --methods gan wgan-gp --seeds 0
    python -m studies.mode_collapse --report_only                  tables and pictures of the runs that are there

Runs stand in --runs_dir and are one thread each, --jobs at a time; what is finished is not run again, what was stopped
goes on. Settings are the presets ring8-METHOD and mnist-modes-METHOD. MNIST needs `python -m tools.train_classifier
--dataset mnist` first.
"""

import signals

if __name__ == "__main__":
    signals.as_command()  # before imports that take seconds

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import disk
from errors import UserError, blaming_user, cli
from generation.checkpoint import CheckpointStore, load_checkpoint
from generation.extractors import OPENERS
from generation.pictures import WHITE, histogram, picture_table
from losses import METHODS as LOSSES
from settings.files import from_dict
from settings.presets import PRESETS
from settings.resume import FREE_ON_RESUME
from settings.values import read_settings
from tools import evaluate, tool_parser
from tools.common import positive

ROOT = Path(__file__).resolve().parent.parent


TITLE = "# Which methods catch every mode"
HEAD = """Written by `python -m studies.mode_collapse` (its `--help` says how): the study of xyfJASON's README, which
shows pictures, counted. Small fully connected networks, batches of 256, five updates of D for one of G, no average of
G; 10,000 samples of the last step a run; mean ± standard deviation (of the population) over the seeds; one thread a
run. What follows from it stands in [results.md](results.md)."""
# How every run is scored: the defaults of tools.evaluate.
PROTOCOL = {"fakes": "generator", "n_fake": 10_000, "weights": "raw", "seed": 0}
SHOWN_SIDE = 160  # px of a picture in the report


@dataclass(frozen=True)
class Part:
    """A half of the study: script, stem of its presets, steps that are shown, and what its scores say.

    counted: the score that counts modes with at least 1 % of the samples, of n_modes; columns: (score, title, format);
    extractor: None for points.
    """

    script: str
    stem: str
    shown: tuple[int, ...]
    title: str
    about: str
    counted: str
    n_modes: int
    columns: tuple[tuple[str, str, str], ...]
    extractor: str | None = None


PARTS = {
    "ring8": Part(
        "gan_ring8", "ring8-", (1000, 2000, 3000, 4000, 5000, 25_000), "Ring8",
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
        "gan_mnist", "mnist-modes-", (1000, 2000, 5000, 25_000, 50_000), "MNIST, 28 px",
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
class Run:
    """One training of the study."""

    part: str
    method: str
    seed: int
    n_steps: int
    runs_dir: Path

    @property
    def name(self) -> str:
        """Its folder's."""
        return f"{self.part}-{self.method}-{self.seed}"

    @property
    def folder(self) -> Path:
        """Where it stands."""
        return self.runs_dir / self.name

    def steps(self) -> list[int]:
        """Steps of its checkpoints."""
        return CheckpointStore(self.folder / "checkpoints").steps()

    def score(self) -> dict[str, Any] | None:
        """The newest score of its last step that was taken as all are, None without one."""
        wanted = PROTOCOL | {"extractor": PARTS[self.part].extractor, "step": self.n_steps}
        file = self.folder / "scores.jsonl"
        for text in reversed(file.read_text().splitlines() if file.is_file() else []):
            try:
                line = json.loads(text)
                about = line["protocol"]
                if all(about.get(name) == value for name, value in wanted.items()):
                    return line
            except (ValueError, KeyError, AttributeError, TypeError):  # half a line, or another's
                continue
        return None

    def check(self) -> None:
        """UserError where a run of that name has other settings."""
        if not self.steps():
            return
        script = PARTS[self.part].script
        wanted = read_settings(
            PRESETS[f"{PARTS[self.part].stem}{self.method}"].settings | {"seed": self.seed}, script
        )
        held = from_dict(json.loads((self.folder / "config.json").read_text()))
        if other := [
            k for k, v in wanted.items() if k not in FREE_ON_RESUME and held[k] != v and v is not None
        ]:
            raise UserError(
                f"{self.folder} was trained with another {other[0]} ({held[other[0]]}): remove it, or choose another "
                "--runs_dir"
            )

    def command(self, extra: Sequence[str]) -> list[str]:
        """What starts it, or lets it go on."""
        part = PARTS[self.part]
        start = [f"--preset={part.stem}{self.method}", f"--seed={self.seed}", f"--n_steps={self.n_steps}"]
        how = ["--resume"] if self.steps() else [*start, "--overwrite", "--device=cpu", *extra]
        return [
            sys.executable, f"{part.script}.py", f"--log_name={self.name}", f"--runs_dir={self.runs_dir}", *how,
        ]  # fmt: skip


def train(run: Run, extra: Sequence[str]) -> str | None:
    """Train to the end in a process of one thread, its output in NAME.log; what went wrong, or None."""
    log = run.runs_dir / f"{run.name}.log"
    with open(log, "a") as output:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            run.command(extra), cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    if done.returncode == 0:
        return None
    lines = log.read_text().strip().splitlines()
    return f"{run.name} ended with exit code {done.returncode} ({lines[-1] if lines else 'no output'}), see {log}"


def train_all(runs: Sequence[Run], jobs: int, extra: Sequence[str]) -> None:
    """Train what is not finished, `jobs` at a time; UserError when one fails, after the others."""
    left = [run for run in runs if run.n_steps not in run.steps()]
    if not left:
        return
    runs[0].runs_dir.mkdir(parents=True, exist_ok=True)
    failures = []
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(left), unit="run", disable=None) as bar:
        for failure in pool.map(lambda run: train(run, extra), left):
            bar.update()
            failures += [failure] if failure else []
    if failures:
        raise UserError("; ".join(failures))


def score_all(runs: Sequence[Run]) -> None:
    """Have tools.evaluate score what has no score of its last step yet, 10,000 samples each."""
    for run in runs:
        if run.n_steps in run.steps() and run.score() is None:
            reader = [] if PARTS[run.part].extractor is None else [f"--extractor={PARTS[run.part].extractor}"]
            if evaluate.main([str(run.folder), "--device=cpu", *reader]):
                raise UserError(f"{run.folder} could not be scored, see above")


# -- report --------------------------------------------------------------------------------------------------------


def mean_and_deviation(values: Sequence[float], form: str) -> str:
    """Mean +- deviation (of the population) over seeds."""
    mean = sum(values) / len(values)
    deviation = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
    return f"{mean:{form}} ± {deviation:{form}}"


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
    cells = [mean_and_deviation([score[name] for score in scores], form) for name, _, form in columns]
    counted = f"{complete} of {len(scores)}"
    return f"| {' | '.join([method, counted, *cells, settings_of(part, method)])} |"


def table_of(part: str, runs: Sequence[Run]) -> list[str]:
    """The table of a part, and which methods are complete in how many seeds."""
    row = PARTS[part]
    scores = {m: [s for r in runs if r.method == m and (s := r.score()) is not None] for m in METHODS}
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


def samples_of(run: Run, step: int) -> Image.Image:
    """The run's own picture of a step; white where it has none."""
    file = run.folder / "samples" / f"step-{step:08d}-raw.png"
    if file.is_file():
        return Image.open(file).convert("RGB").resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return Image.new("RGB", (SHOWN_SIDE, SHOWN_SIDE), WHITE)


def pictures_of(part: str, runs: Sequence[Run]) -> Image.Image:
    """A row a method, a column a step, of the first seed."""
    first = [run for run in runs if run.seed == runs[0].seed and run.steps()]
    interval = PRESETS[f"{PARTS[part].stem}gan"].settings["train_g_interval"]
    steps = [step for step in PARTS[part].shown if step < first[0].n_steps] + [first[0].n_steps]
    titles = [f"{step // interval:,} updates of G" for step in steps]
    return picture_table(titles, [(run.method, [samples_of(run, step) for step in steps]) for run in first])


def weights_of(run: Run) -> Tensor:
    """All weights of D's layers at the end, biases left out."""
    state = load_checkpoint(run.folder / "checkpoints" / f"step-{run.n_steps:08d}.pt")["networks"]["D"]
    return torch.cat([w.flatten() for w in state.values() if w.dim() > 1])


def histograms(runs: Sequence[Run]) -> tuple[Image.Image, list[str]] | None:
    """Weights of D under clipping and under the gradient penalty, and a line on each; None without both runs."""
    found = {run.method: run for run in runs if run.seed == runs[0].seed and run.n_steps in run.steps()}
    if not {"wgan", "wgan-gp"} <= found.keys():
        return None
    clip = LOSSES["wgan"].weight_clip
    rows, lines = [], []
    for method, limit in (("wgan", 1.5 * clip), ("wgan-gp", 0.3)):
        weights = weights_of(found[method])
        at_bound = float((weights.abs() >= 0.9 * clip).float().mean())
        rows.append((f"{method}, -{limit:g} to {limit:g}", [histogram(weights, limit)]))
        lines.append(
            f"- {method}: standard deviation {float(weights.std()):.4f}, {at_bound:.1%} at or beyond ±{0.9 * clip:g}."
        )
    return picture_table([""], rows), lines


def save_picture(picture: Image.Image, out: Path, name: str) -> str:
    """Write a picture into images/ beside the report in few colours; its line of Markdown."""
    folder = out.parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with disk.replacing(folder / f"{name}.png") as file:
        picture.quantize(64, dither=Image.Dither.NONE).save(file, optimize=True)
    return f"![{name.replace('_', ' ')}](images/{name}.png)"


def measured_by(runs: Sequence[Run]) -> str:
    """Which code, machine and classifier the scores are of."""
    abouts = [run.score()["protocol"] for run in runs]
    codes = ", ".join(sorted({about["code"] for about in abouts}))
    reader = abouts[0].get("extractor_sha256")
    by = "" if reader is None else f"; classifier {reader[:16]}…"
    return f"Scored by version {codes}, torch {abouts[0]['torch']}, {abouts[0]['device']}{by}."


def section(part: str, runs: Sequence[Run], out: Path) -> list[str]:
    """A part's heading, what was done, table and pictures."""
    row = PARTS[part]
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
    lines += [measured_by(runs), ""]
    lines += [*table_of(part, runs), "", f"Samples along training, seed {runs[0].seed}.", ""]
    lines += [save_picture(pictures_of(part, runs), out, f"mode_collapse_{part}"), ""]
    if part == "ring8" and (weights := histograms(runs)) is not None:
        lines += ["### Weights of D, clipped and penalised", "", *weights[1], ""]
        lines += [save_picture(weights[0], out, "mode_collapse_weights"), ""]
    return lines


def report(runs: Sequence[Run], out: Path) -> None:
    """Write the report and its pictures."""
    lines = [TITLE, "", HEAD, ""]
    for part in PARTS:
        if there := [run for run in runs if run.part == part]:
            lines += section(part, there, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    disk.put(out, "\n".join(lines).rstrip() + "\n")
    print(f"wrote {out}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("studies.mode_collapse", __doc__)
    p.add_argument("--part", nargs="+", default=tuple(PARTS), choices=tuple(PARTS), help="which half [both]")
    p.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help="[all]")
    p.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="[0 1 2]")
    about = "length of the runs of MNIST, whose 50000 take hours (multiples of 1000; default: the preset's)"
    p.add_argument("--mnist_steps", type=positive, help=about)
    p.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="runs at a time [one a core]")
    p.add_argument("--runs_dir", type=Path, default=Path("runs/mode_collapse"), help="[runs/mode_collapse]")
    p.add_argument("--data_root", default="data", help="where MNIST stands or is downloaded to [data]")
    p.add_argument("--report_only", action="store_true", help="train nothing")
    about = "the report, its pictures in images/ beside it [docs/mode_collapse.md]"
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "mode_collapse.md", help=about)
    return p


def planned(
    args: argparse.Namespace, parts: Sequence[str], methods: Sequence[str], seeds: Sequence[int]
) -> list[Run]:
    """The runs of these, all methods of a seed before the next seed."""
    lengths = {part: PRESETS[f"{row.stem}gan"].settings["n_steps"] for part, row in PARTS.items()}
    lengths["mnist"] = args.mnist_steps or lengths["mnist"]
    return [
        Run(part, method, seed, lengths[part], args.runs_dir.absolute())
        for part in parts
        for seed in seeds
        for method in methods
    ]


def seeds_there(runs_dir: Path) -> list[int]:
    """Seeds of the runs that stand there: the report is of all that is finished, whatever was asked for now."""
    found = (re.search(r"-(\d+)$", folder.name) for folder in runs_dir.glob("*") if folder.is_dir())
    return sorted({int(match[1]) for match in found if match})


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, then report."""
    args = parser().parse_args(argv)
    runs = planned(args, args.part, args.methods, args.seeds)
    for name in {PARTS[part].extractor for part in args.part} - {None}:
        with blaming_user():
            OPENERS[name](None, None, "cpu")  # missing weights are said now, not after hours
    for run in runs:
        run.check()
    if not args.report_only:
        train_all(runs, args.jobs, [f"--data_root={Path(args.data_root).absolute()}"])
    every = planned(args, tuple(PARTS), METHODS, seeds_there(args.runs_dir))
    score_all(runs)
    report([run for run in every if run.score() is not None], args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
