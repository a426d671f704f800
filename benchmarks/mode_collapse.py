"""The mode-collapse study: which methods catch every mode of a ring of Gaussians and every digit of MNIST.

    python -m benchmarks.mode_collapse                                the whole study, then docs/mode_collapse.md
    python -m benchmarks.mode_collapse --part ring8 --methods gan wgan-gp --seeds 0
    python -m benchmarks.mode_collapse --report_only                  tables and pictures of the runs that are there

Runs stand in --runs_dir and are one thread each, --jobs at a time; what is finished is not run again, what was stopped
goes on. Settings are the presets ring8-METHOD and mnist-modes-METHOD. MNIST needs `python -m tools.train_classifier
--dataset mnist` first.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from tools.common import make_parser, positive
from training.checkpoint import CheckpointStore
from training.errors import UserError, cli
from training.presets import PRESETS

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Part:
    """A half of the study: its script, the stem of its presets, and the steps that are shown."""

    script: str
    stem: str
    shown: tuple[int, ...]


PARTS = {
    "ring8": Part("gan_ring8", "ring8-", (1000, 2000, 3000, 4000, 5000, 25_000)),
    "mnist": Part("gan_mnist", "mnist-modes-", (5000, 10_000, 50_000)),
}
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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = make_parser("benchmarks.mode_collapse", __doc__)
    p.add_argument("--part", nargs="+", default=tuple(PARTS), choices=tuple(PARTS), help="which half [both]")
    p.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help="[all]")
    p.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="[0 1 2]")
    about = "length of the runs of MNIST, whose 50000 take hours (multiples of 1000; default: the preset's)"
    p.add_argument("--mnist_steps", type=positive, help=about)
    p.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="runs at a time [one a core]")
    p.add_argument("--runs_dir", type=Path, default=Path("runs/mode_collapse"), help="[runs/mode_collapse]")
    p.add_argument("--data_root", default="data", help="where MNIST stands or is downloaded to [data]")
    p.add_argument("--report_only", action="store_true", help="train nothing")
    return p


def planned(args: argparse.Namespace) -> list[Run]:
    """The runs asked for, all methods of a seed before the next seed."""
    lengths = {part: PRESETS[f"{row.stem}gan"].settings["n_steps"] for part, row in PARTS.items()}
    lengths["mnist"] = args.mnist_steps or lengths["mnist"]
    return [
        Run(part, method, seed, lengths[part], args.runs_dir.absolute())
        for part in args.part
        for seed in args.seeds
        for method in args.methods
    ]


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, then report."""
    args = parser().parse_args(argv)
    runs = planned(args)
    if not args.report_only:
        train_all(runs, args.jobs, [f"--data_root={Path(args.data_root).absolute()}"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
