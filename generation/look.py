"""A run's record as a diagnosis sees it: medians of late, D's lead over G, samples beside the data."""

import math
import statistics
from dataclasses import dataclass, field
from functools import cached_property

import torch

from generation.record import Record, Series
from losses import METHODS

# Fakes as varied as less than this share of the data, after their own contrast: healthy ones stand at 0.8 to 1.1
COLLAPSED, NARROW = 0.4, 0.55
MODES_MISSED = 0.8  # of a mixture: with at least a tenth of their share
PALE, GLARING = 0.6, 1.7  # contrast or colour, of the data's
TINTED = 0.25  # of [-1, 1]: an eighth of all there is
NOISE, SMOOTH = 2.0, 0.4  # roughness, of the data's: white noise on photographs is at 3 and more


def median(values: list[float]) -> float:
    """NaN of none."""
    return statistics.median(values) if values else math.nan


def _loss_at(method: str, real: float, fake: float, smoothing: float = 0.0) -> float:
    """D's loss of one logit of each."""
    row = METHODS[method]
    return float(row.of_d(torch.tensor([real]), torch.tensor([fake]), smoothing if row.d_smooth else 0.0))


def loss_range(method: str, smoothing: float) -> tuple[float, float | None]:
    """(D's loss where it cannot tell, its least; None where that has no bound), for scalars."""
    corners = [_loss_at(method, 30.0, -30.0, smoothing), _loss_at(method, 1.0, 0.0, smoothing)]
    if smoothing:
        corners.append(_loss_at(method, math.log((1 - smoothing) / smoothing), -30.0, smoothing))
    blind = min(
        _loss_at(method, c / 20, c / 20, smoothing) for c in range(-20, 21)
    )  # lsgan's D says 1/2 then, that of others 0
    return blind, None if min(corners) < -1 else min(corners)


def levels_of(record: Record) -> dict[str, float]:
    """Name -> where a loss stands when D cannot tell, for a chart; {} where that says nothing."""
    look = Look(record)
    if look.method is None or math.isnan(look.won):
        return {}
    smoothing = record.settings.get("label_smoothing")
    level, _ = loss_range(
        look.method, smoothing if isinstance(smoothing, float) and 0 < smoothing < 0.5 else 0.0
    )
    return {"loss/d where D cannot tell": level}


@dataclass
class Look:
    """A record as the rules see it."""

    record: Record
    step: int = field(init=False)

    def __post_init__(self) -> None:
        self.step = self.record.step

    @cached_property
    def method(self) -> str | None:
        """The loss, None where it is not one of the table."""
        method = self.record.settings.get("method")
        return method if isinstance(method, str) and method in METHODS else None

    def series(self, name: str) -> Series:
        """A logged one, empty where there is none."""
        return self.record.series.get(name, Series([], []))

    def late(self, name: str) -> float:
        """The median of its last quarter; NaN without any."""
        return median(self.series(name).last_part())

    @cached_property
    def gap(self) -> Series:
        """d/real less d/fake, of several D of the first."""
        d = next((name.removesuffix("/real") for name in self.record.series if name.endswith("/real")), "d")
        real, fake = self.series(f"{d}/real"), self.series(f"{d}/fake")
        known = dict(zip(fake.steps, fake.values, strict=True))
        at = [(s, v - known[s]) for s, v in zip(real.steps, real.values, strict=True) if s in known]
        # VEEGAN's D learns to call fakes, with their latents, real
        sign = -1 if self.record.settings.get("model") == "veegan" else 1
        return Series([s for s, _ in at], [sign * v for _, v in at])

    @cached_property
    def gap_then(self) -> float:
        """The widest gap that lasted: the greatest median of ten parts."""
        parts = [
            self.gap.finite[i * len(self.gap.finite) // 10 : (i + 1) * len(self.gap.finite) // 10]
            for i in range(10)
        ]
        return max((median(part) for part in parts if part), default=math.nan)

    @cached_property
    def share_right(self) -> float:
        """In what share of the last third's lines reals stand above fakes."""
        last = self.gap.last_part(1 / 3)
        return sum(value > 0 for value in last) / len(last) if last else math.nan

    @cached_property
    def won(self) -> float:
        """Where D's loss stands of late: 0 is as good as can be, 1 where it cannot tell; NaN without such a scale."""
        if self.method is None or self.record.translates:
            return math.nan
        smoothing = self.record.settings.get("label_smoothing")
        level, least = loss_range(
            self.method, smoothing if isinstance(smoothing, float) and 0 < smoothing < 0.5 else 0.0
        )
        return math.nan if least is None else (self.late("loss/d") - least) / (level - least)

    @cached_property
    def signed(self) -> bool:
        """Whether a logit of 0 is where D cannot tell, so that its sign says something: not of wgan and ragan, whose
        logits may all be moved, nor of lsgan, whose D says 1/2 there."""
        if self.method is None:
            return False
        level, _ = loss_range(self.method, 0.0)
        return (
            math.isclose(_loss_at(self.method, 0.0, 0.0), level)
            and _loss_at(self.method, 9.0, 9.0) > level + 1
        )

    @cached_property
    def of_samples(self) -> dict[str, Series]:
        """Numbers of the samples of the weights that are looked at first."""
        name = self.record.weight_set
        return {} if name is None else self.record.sample_series.get(name, {})

    def sample(self, name: str) -> float:
        """A number of the last samples, the median of up to three; NaN without any."""
        series = self.of_samples.get(name)
        return math.nan if series is None else median(series.finite[-3:])

    @cached_property
    def variety(self) -> float:
        """How varied samples are beside the data, each after its contrast, so that pale ones are not called alike."""
        diversity, contrast = self.sample("diversity"), self.sample("contrast")
        return diversity if math.isnan(contrast) else diversity / min(max(contrast, 0.05), 1.0)

    @cached_property
    def off(self) -> list[str]:
        """In what the samples differ from the data in tone, in words with numbers."""
        found = []
        for name, word in (("contrast", "contrast"), ("colourfulness", "colour")):
            value = self.sample(name)
            if value < PALE or value > GLARING:
                found.append(f"{word} {value:.0%} of the data's")
        brightness = self.sample("brightness")
        if abs(brightness) > TINTED:
            found.append(
                f"{'brighter' if brightness > 0 else 'darker'} than the data by {abs(brightness):.2f} of [-1, 1]"
            )
        return found

    @cached_property
    def unlike(self) -> list[str]:
        """In what they are no pictures of this kind: noise, blurs, points that are nowhere near a mode."""
        found, rough, near = [], self.sample("roughness"), self.sample("near")
        if rough > NOISE:
            found.append(f"rougher than the data by a factor of {rough:.1f}: noise")
        if rough < SMOOTH:
            found.append(f"smoother than the data by a factor of {1 / max(rough, 1e-3):.1f}: blurs")
        if near < 0.1:
            found.append(f"{near:.0%} of the points are near a mode")
        return found

    @property
    def fine(self) -> bool | None:
        """Whether the samples vary and look like the data; None where there are none to look at."""
        if not self.of_samples:
            return None
        return not (self.off or self.unlike or self.variety < NARROW or self.sample("modes") < MODES_MISSED)

    @property
    def at(self) -> str:
        """The last step, for people."""
        return f"at step {self.step:,}"

    @property
    def lately(self) -> str:
        """Since when the late values are, for people."""
        steps = self.series("loss/d").steps or [self.step]
        return f"since step {steps[-max(math.ceil(len(steps) / 4), min(5, len(steps)))]:,}"
