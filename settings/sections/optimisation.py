"""How weights move: batches, optimisers, averages, precision."""

from dataclasses import dataclass
from typing import ClassVar

from errors import UserError
from settings.section import Section, flag, is_auto

OPTIMIZERS = ("Adam", "AdamW", "RMSprop", "SGD")


def auto_batch_size(side: int, processes: int, batch_size: int) -> int:
    """StyleGAN2-ADA's choice, in groups of 4 a process, which minibatch standard deviation and half batches need."""
    return max(min(processes * min(4096 // side, 32), 64) // (4 * processes), 1) * 4 * processes


@dataclass(frozen=True)
class OptimisationSettings(Section):
    """Batches and optimisers."""

    title: ClassVar[str] = "optimisation"

    batch_size: int = flag(
        64,
        "global batch over all processes and micro-batches, or auto",
        least=1,
        auto=auto_batch_size,
        usual=True,
    )
    accumulate: int = flag(1, "micro-batches a global batch is cut into", least=1, at_resume="noticed")
    optimizer: str = flag("Adam", "of both networks", choices=lambda: OPTIMIZERS, usual=True)
    lr: float = flag(
        2e-4,
        "learning rate of both networks, or auto",
        auto=lambda side, processes, batch_size: 0.0025 if side < 1024 else 0.002,
        usual=True,
        at_resume="noticed",
    )
    lr_d: float | None = flag(None, "learning rate of D (default: --lr)", at_resume="noticed")
    lr_g: float | None = flag(None, "learning rate of G (default: --lr)", at_resume="noticed")
    beta1: float = flag(0.5, "Adam and AdamW; momentum of SGD", below=1, usual=True)
    beta2: float = flag(0.999, "Adam and AdamW", below=1, usual=True)
    weight_decay: float = flag(0.0, "decoupled for AdamW")
    lr_decay_from: int | None = flag(
        None, "learning rates fall linearly from this step to 0 at the end", least=0
    )

    def check(self) -> None:
        """Micro-batches are of one size."""
        if not is_auto(self.batch_size) and self.batch_size % self.accumulate:
            raise UserError(
                f"--batch_size {self.batch_size} is not divisible by --accumulate {self.accumulate}"
            )


@dataclass(frozen=True)
class EmaSettings(Section):
    """The averaged copies of G."""

    title: ClassVar[str] = "ema"

    ema: bool = flag(False, "keep an averaged copy of G and sample from it", usual=True)
    ema_decay: tuple[float, ...] = flag((0.999,), "per update of G; several make several copies", below=1)
    ema_halflife: tuple[float, ...] = flag(
        (),
        "half-life in images, or auto, in place of --ema_decay",
        above=0,
        auto=lambda side, processes, batch_size: batch_size * 10_000 / 32,
    )
    ema_rampup: float | None = flag(None, "the half-life is at most this share of the images seen so far")
    ema_warmup: int = flag(0, "updates of G during which the copy is plain", least=0)

    def check(self) -> None:
        """Copies differ, and there is one."""
        values = self.ema_halflife or self.ema_decay
        if self.ema and len(set(values)) != max(len(values), 1):
            raise UserError(f"--ema_decay {' '.join(map(str, values))}: at least one value, each once")


@dataclass(frozen=True)
class PrecisionSettings(Section):
    """Numbers and their layout."""

    title: ClassVar[str] = "precision"

    mixed_precision: str | None = flag(
        None,
        "of the forwards (default: the launcher's)",
        choices=lambda: ("no", "fp16", "bf16"),
        usual=True,
        at_resume="noticed",
    )
    channels_last: bool = flag(True, "memory layout of images and weights")
    tf32: bool = flag(True, "TF32 matrix products on CUDA")
    sync_bn: bool = flag(False, "batch statistics over all processes (CUDA)")
