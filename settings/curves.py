"""Values as closed forms of the images seen, and how people write them: 2e-4:5e-5:20000, .01:100:1400:inverse_sqrt."""

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from errors import UserError, shown
from settings.section import MAX_WHOLE, brief, one_of

FORMS = "FROM:TO:KIMG, FROM:TO:KIMG:linear, VALUE:RAMP_KIMG:KIMG:inverse_sqrt, or VALUE alone, which stays"


def constant(n: float, value: float) -> float:
    """The value, whatever n."""
    return value


def linear(n: float, a: float, b: float, kimg: float) -> float:
    """From a to b along a line over the first `kimg` thousand images, then b."""
    done = min(n, 1000 * kimg) / (1000 * kimg)
    return a * (1 - done) + b * done  # both ends to the last bit


def cosine(n: float, a: float, b: float, kimg: float) -> float:
    """From a to b along half a cosine over the first T = 1000 `kimg` images, then b.

    b + (a - b) (1 + cos(pi min(n, T) / T)) / 2, as of arXiv:2501.05441.
    """
    rest = (1 + math.cos(math.pi * min(n, 1000 * kimg) / (1000 * kimg))) / 2
    return a * rest + b * (1 - rest)


def inverse_sqrt(n: float, value: float, ramp_kimg: float, kimg: float) -> float:
    """From 0 to `value` along a line over the ramp, and in proportion to 1 / sqrt(n) from n = `kimg` thousand on.

    value min(n / ramp, 1) / sqrt(max(n / reference, 1)), the reference being EDM2's batches times batch size.
    arXiv:2312.02696 section 2.
    """
    ramp = min(n / (1000 * ramp_kimg), 1.0) if ramp_kimg else 1.0
    return value * ramp / math.sqrt(max(n / (1000 * kimg), 1.0))


# Name -> value after n images. The numbers that follow n are written in this order, the shape's name behind them.
SHAPES: dict[str, Callable[..., float]] = {
    "cosine": cosine,
    "linear": linear,
    "inverse_sqrt": inverse_sqrt,
}


@dataclass(frozen=True)
class Curve:
    """A value by images seen; numbers: those of its shape, "constant" or one of SHAPES."""

    shape: str
    numbers: tuple[float, ...]

    def __call__(self, n: float) -> float:
        """The value after n images."""
        return SHAPES.get(self.shape, constant)(n, *self.numbers)

    @property
    def values(self) -> tuple[float, ...]:
        """The greatest and the least that it nears, or one of both."""
        return self.numbers[: 2 if self.shape in ("cosine", "linear") else 1]

    @property
    def images(self) -> float:
        """After so many it has come to its end, or falls; 0 for a constant."""
        return 1000 * max(self.numbers[len(self.values) :], default=0.0)

    def __str__(self) -> str:
        """As it is written, in one way for equal curves."""
        shape = [] if self.shape in ("constant", "cosine") else [self.shape]
        return ":".join([*(repr(number).removesuffix(".0") for number in self.numbers), *shape])


def read_curve(name: str, text: Any) -> Curve:
    """A curve from its text, or from a number; UserError that names what it is the schedule of."""
    if isinstance(text, bool) or not isinstance(text, numbers.Real | str):
        raise UserError(f"--schedule {name}={brief(text)}: give {FORMS}")
    given = f"--schedule {name}={brief(text) if len(str(text)) > 80 else text}"
    parts, shape = str(text).split(":"), "cosine"
    if len(parts) == 4:
        *parts, shape = parts
        one_of(f"schedule {name}", shape, SHAPES)
    if len(parts) not in (1, 3):
        raise UserError(f"{given}: give {FORMS}")
    found = []
    for part in parts:
        try:
            found.append(float(part))
        except ValueError:
            raise UserError(f"{given}: {brief(part)} is no number; give {FORMS}") from None
    if not all(math.isfinite(number) and number >= 0 for number in found):
        raise UserError(f"{given}: numbers must be finite and at least 0")
    if len(found) == 1:
        return Curve("constant", tuple(found))
    if not 0 < 1000 * found[2] < MAX_WHOLE or (shape == "inverse_sqrt" and 1000 * found[1] >= MAX_WHOLE):
        raise UserError(f"{given}: lengths are thousands of images, above 0 and below 2^63 / 1000")
    return Curve(shape, tuple(found))


def read_schedule(value: Any) -> dict[str, str]:
    """What is read of a mapping of names to curves: each as Curve writes it; UserError."""
    if not isinstance(value, Mapping):
        raise UserError(
            f"--schedule takes NAME=FROM:TO:KIMG ..., e.g. lr=2e-4:5e-5:20000, not {brief(value)}"
        )
    for name in value:
        if not isinstance(name, str):
            raise UserError(f"--schedule: {brief(name)} is no name")
    return {name: str(read_curve(shown(name, 80), text)) for name, text in value.items()}
