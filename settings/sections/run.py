"""What a run is called, where it stands, how long it is, and what it writes along the way."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from errors import UserError
from settings.section import Section, brief, flag

LOGGERS = {"tensorboard": "tensorboard", "wandb": "wandb"}  # name: module that must be importable
AUTO_IMAGES = 25_000_000
MAX_NAME = 200  # bytes: of the 255 of a file system, some are for what is put around a name


@dataclass(frozen=True)
class RunSettings(Section):
    """The run itself."""

    title: ClassVar[str] = "run"

    log_name: str | None = flag(
        None,
        "name of the folder runs/NAME (default: dataset-model-method-NNN)",
        usual=True,
        at_resume="free",
    )
    runs_dir: str = flag("runs", "where runs stand", at_resume="free", path=True)
    overwrite: bool = flag(
        False, "delete what stands in the named run folder and start anew", usual=True, at_resume="free"
    )
    seed: int = flag(0, "all weights, batches and noise are functions of it", usual=True)
    deterministic: bool = flag(False, "bit-equal repeats on CUDA too (slower)")
    device: str = flag(
        "auto",
        "where to compute",
        choices=lambda: ("auto", "cpu", "cuda", "mps"),
        usual=True,
        at_resume="free",
    )
    n_steps: int = flag(
        20_000,
        "main updates of D, each on a fresh batch, or auto",
        least=1,
        auto=lambda side, processes, batch_size: AUTO_IMAGES // batch_size,
        usual=True,
        at_resume="free",
    )
    dry_run: bool = flag(
        False,
        "build all, measure a few steps, say time, memory and disk, and stop",
        usual=True,
        at_resume="free",
    )

    def check(self) -> None:
        """A name is a folder's."""
        name = self.log_name
        if name is None:
            return
        plain = Path(name).name == name and name not in ("", "..") and "\\" not in name and name.isprintable()
        if not plain or len(name.encode()) > MAX_NAME:
            raise UserError(
                f"--log_name {brief(name)} must be a plain folder name of at most {MAX_NAME} bytes; "
                "--runs_dir says where runs stand"
            )


@dataclass(frozen=True)
class OutputSettings(Section):
    """What is written, and how often."""

    title: ClassVar[str] = "output"

    loggers: tuple[str, ...] = flag(
        ("tensorboard",),
        "trackers; give none to switch off",
        choices=lambda: LOGGERS,
        at_resume="free",
    )
    log_interval: int = flag(50, "steps between logged scalars", least=1, at_resume="free")
    health_interval: int = flag(
        200, "steps between logged sizes of gradients by layer, 0 for none", least=0, at_resume="free"
    )
    sample_interval: int = flag(
        500,
        "steps between sample grids, of which at most 200 are made; before them at 0, 16, 32, 64",
        least=1,
        usual=True,
        at_resume="free",
    )
    checkpoint_interval: int = flag(1000, "steps between checkpoints", least=1, usual=True, at_resume="free")
    keep_checkpoints: int = flag(3, "checkpoints kept beside the best, at least 2", at_resume="free")

    def check(self) -> None:
        """One checkpoint is none when it is damaged."""
        if self.keep_checkpoints < 2:
            raise UserError(
                f"--keep_checkpoints {self.keep_checkpoints}: at least 2, the newest may be the damaged one"
            )
