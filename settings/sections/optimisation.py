"""How weights move: batches, optimisers, averages, precision."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from ema import LEAST_WIDTH, MOST_WIDTH
from errors import UserError
from settings.curves import Curve, read_curve, read_schedule
from settings.section import MAX_WHOLE, Section, brief, flag, is_auto, read_number

OPTIMIZERS = ("Adam", "AdamW", "RMSprop", "SGD")


def by_size(setting: str, kind: type) -> Callable[[Any], dict[str, Any]]:
    """What reads SIZE=VALUE ... of a setting: sizes in px, values above 0; UserError."""

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise UserError(f"--{setting} takes SIZE=VALUE ..., e.g. 64=32, not {brief(value)}")
        found = {}
        for size, number in value.items():
            if not (str(size).isascii() and str(size).isdigit() and 0 < int(str(size)[:9]) == int(size)):
                raise UserError(f"--{setting} {brief(size)}: a size in px is needed, e.g. 64=32")
            if kind is int and (not isinstance(number, int) or isinstance(number, bool)):
                raise UserError(f"--{setting} {size} must be a whole number, not {brief(number)}")
            if not 0 < read_number(f"{setting} {size}", number) < math.inf or (
                kind is int and number > MAX_WHOLE
            ):
                raise UserError(f"--{setting} {size} {brief(number)} must be above 0")
            found[str(int(size))] = kind(number)
        return found

    return read


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
    batch_by_size: dict[str, int] = flag(
        dict,
        "of a growing model: other batches at smaller heights, PX=N ..., e.g. 4=128 8=64; 5 or 6 px count as 4",
        read=by_size("batch_by_size", int),
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
    lr_by_size: dict[str, float] = flag(
        dict,
        "of a growing model: --lr at other sizes, PX=RATE ..., e.g. 128=.0015; --lr_d and --lr_g change by as much",
        read=by_size("lr_by_size", float),
        at_resume="noticed",
    )
    beta1: float = flag(0.5, "Adam and AdamW; momentum of SGD", below=1, usual=True)
    beta2: float = flag(0.999, "Adam and AdamW", below=1, usual=True)
    beta2_g: float | None = flag(None, "beta2 of G (default: --beta2)", below=1)
    weight_decay: float = flag(0.0, "decoupled for AdamW")
    lr_decay_from: int | None = flag(
        None, "learning rates fall linearly from this step to 0 at the end", least=0
    )
    schedule: dict[str, str] = flag(
        dict,
        "values that move with the images seen, NAME=FROM:TO:KIMG ..., e.g. lr=2e-4:5e-5:20000 r1=2:.2:20000: half "
        "a cosine over so many thousand images, then TO. FROM:TO:KIMG:linear is a line; "
        "VALUE:RAMP_KIMG:KIMG:inverse_sqrt rises from 0 over RAMP_KIMG and falls as 1/sqrt(images) from KIMG on; VALUE "
        "alone stays. NAME: lr, lr_d, lr_g, beta2, ema_halflife, ada_p, or an active penalty, whose weight it is. It "
        "takes the place of that setting's own flag",
        read=read_schedule,
    )

    lookahead: tuple[int, ...] = flag(
        (),
        "K [K2]: every K steps all networks go half of the way back to where they were after the last K; likewise "
        "every K2",
        least=2,
    )

    def curve(self, name: str) -> Curve | None:
        """What a value follows, None where it has no schedule."""
        return read_curve(name, self.schedule[name]) if name in self.schedule else None

    def follows(self, setting: str, side: str) -> str | None:
        """Whose schedule lr, or beta2, of a side follows: its own, else that of both where no plain one is its own."""
        own = f"{setting}_{side}"
        if own in self.schedule:
            return own
        return setting if setting in self.schedule and getattr(self, own, None) is None else None

    def check(self) -> None:
        """Micro-batches are of one size; there is a rate that changes with the size; lookaheads hold each other."""
        if len(self.lookahead) > 2 or any(b <= a or b % a for a, b in pairwise(self.lookahead)):
            raise UserError(
                f"--lookahead {' '.join(map(str, self.lookahead))}: one number of steps, or a second that is a "
                "multiple of it, e.g. 5 5000"
            )
        if self.lr_by_size and self.lr == 0:
            raise UserError("--lr_by_size is held against --lr, which must be above 0")
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
    ema_power: tuple[float, ...] = flag(
        (),
        "keep copies averaged by power functions of these widths (0.05 0.1), of which tools.ema makes others later",
        least=LEAST_WIDTH,
        most=MOST_WIDTH,
    )
    ema_snapshot_kimg: float | None = flag(
        None,
        "thousands of images between snapshots of them (default: 32 a run)",
        least=0.001,
        at_resume="free",
    )

    def check(self) -> None:
        """Copies differ, and there is one."""
        if len(set(self.ema_power)) != len(self.ema_power):
            raise UserError(f"--ema_power {' '.join(map(str, self.ema_power))}: each width once")
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
