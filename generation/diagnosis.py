"""What is wrong with a run, in plain words: from the numbers that it has logged and the samples that it has drawn.

    for finding in diagnose(read_record(Path("runs/NAME"))): print(finding.title, finding.evidence, finding.advice)

Rules of thumb with their reasons beside them, not proofs; thresholds are relative to where each method's losses stand
when D cannot tell (METHODS at equal logits). A run is called healthy where no rule finds anything, and a young one gets
no verdict. D far ahead, or level with G, is no illness while the samples vary and look like the data: many good
runs end so.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from generation.findings import FINDINGS, Finding, Remedy
from generation.record import Record, Series
from losses import METHODS
from metrics.lines import best_line
from metrics.mixture import MIXTURES

# Nothing is said of learning before: Adam's averages alone take 1,000 updates, and every G begins with one picture
LEAST_STEPS, LEAST_LINES = 500, 8
# D has won: of the way from its best loss (0) to where it cannot tell (1); with a sigmoid D is 97 % sure then
WON = 0.05
# D has lost: of the widest gap between reals and fakes that it once had; beneath that, noise of a batch decides
BLIND_GAP, BLIND_SIGN = 0.02, 0.8
# Fakes as varied as less than this share of the data, after their own contrast: healthy ones stand at 0.8 to 1.1
COLLAPSED, NARROW = 0.4, 0.55
MODES_MISSED = 0.8  # of a mixture: with at least a tenth of their share
PALE, GLARING = 0.6, 1.7  # contrast or colour, of the data's
TINTED = 0.25  # of [-1, 1]: an eighth of all there is
NOISE, SMOOTH = 2.0, 0.4  # roughness, of the data's: white noise on photographs is at 3 and more
KNOWN = 0.9  # mean sign of D on reals: 95 % of them are called real
FEW_TIMES = 100  # passes over the data, from which on D can know it by heart
GAP_GROWS = 1.5  # times what the gap was in the middle third before
WORSE = 1.15  # times the best score: beyond what two drawings of 10,000 samples differ by
SKIPPED = 0.01  # of updates; fp16 skips about one in 2,000 when well (2^x after 2,000 good ones)
EXPLODED = 1e4  # a loss of D beyond is no game any more, and the training itself stops at 1e6
JUMPED = 100.0  # times the median gradient norm of the first half
LONG = 1e3  # a gradient that is long for any network
TOO_FAST = 20.0  # times the rate of the method's paper
# Rates of the papers that named the methods, and which those are
RATES = {
    "gan": (2e-4, "1511.06434"), "gan-saturating": (2e-4, "1511.06434"), "wgan": (5e-5, "1701.07875"),
    "wgan-gp": (1e-4, "1704.00028"), "hinge": (2e-4, "1802.05957"), "lsgan": (1e-3, "1611.04076"),
    "ragan": (2e-4, "1807.00734"), "rpgan": (2e-4, "1807.00734"),
}  # fmt: skip


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else math.nan


def _loss_range(method: str, smoothing: float) -> tuple[float, float | None]:
    """(D's loss where it cannot tell, its least; None where that has no bound), for scalars."""
    row = METHODS[method]

    def loss(real: float, fake: float) -> float:
        return float(row.of_d(torch.tensor([real]), torch.tensor([fake]), smoothing if row.d_smooth else 0.0))

    corners = [loss(30.0, -30.0), loss(1.0, 0.0)]
    if smoothing and row.d_smooth:
        corners.append(loss(math.log((1 - smoothing) / smoothing), -30.0))
    blind = min(loss(c / 20, c / 20) for c in range(-20, 21))  # lsgan's D says 1/2 then, that of others 0
    return blind, None if min(corners) < -1 else min(corners)


def levels_of(record: Record) -> dict[str, float]:
    """Name -> where a loss stands when D cannot tell, for a chart; {} where that says nothing."""
    look = Look(record)
    if look.method is None or math.isnan(look.won):
        return {}
    smoothing = record.settings.get("label_smoothing")
    level, _ = _loss_range(
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
        return _median(self.series(name).last_part())

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
        return max((_median(part) for part in parts if part), default=math.nan)

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
        level, least = _loss_range(
            self.method, smoothing if isinstance(smoothing, float) and 0 < smoothing < 0.5 else 0.0
        )
        return math.nan if least is None else (self.late("loss/d") - least) / (level - least)

    @cached_property
    def of_samples(self) -> dict[str, Series]:
        """Numbers of the samples of the weights that are looked at first."""
        name = self.record.weight_set
        return {} if name is None else self.record.sample_series.get(name, {})

    def sample(self, name: str) -> float:
        """A number of the last samples, the median of up to three; NaN without any."""
        series = self.of_samples.get(name)
        return math.nan if series is None else _median(series.finite[-3:])

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


# -- rules: Look -> Finding or None, the causes before what follows from them ----------------------------------------


def _found(look: Look, name: str, sure: str, evidence: list[str], first: list[str] | None = None) -> Finding:
    """A finding with what the run does not have yet of its advice; first: what comes before."""
    row = FINDINGS[name]
    settings = look.record.settings
    advice = [f"{r.flag}: {r.why}" for r in row.remedies if not _has(r, settings)]
    return Finding(name, sure, tuple(evidence), (*(first or ()), *advice), row.stop)


def _has(remedy: Remedy, settings: Mapping[str, Any]) -> bool:
    """Whether the settings have it already; a damaged config.json has nothing."""
    try:
        return remedy.has(settings)
    except (TypeError, AttributeError):
        return False


def _rate_text(look: Look) -> list[str]:
    """What to do about a rate that is far beyond the paper's."""
    rate, source = RATES.get(look.method or "", (math.inf, ""))
    high = {
        name: look.late(f"lr/{name}") for name in ("d", "g") if look.late(f"lr/{name}") >= TOO_FAST * rate
    }
    if not high:
        return []
    name, value = next(iter(high.items()))
    return [
        f"--lr {rate:g}: the rate of {name.upper()}, {value:g}, is {value / rate:.0f} times that of arXiv:{source}"
    ]


def rate_zero(look: Look) -> Finding | None:
    """A network whose rate was 0 all along; one that has fallen to 0 at its end is meant so."""
    zero = [n for n in ("d", "g") if (s := look.series(f"lr/{n}")).finite and max(s.finite) == 0]
    if not zero:
        return None
    evidence = [f"lr/{n} is 0 from step {look.series(f'lr/{n}').steps[0]:,} to {look.step:,}" for n in zero]
    rate, _ = RATES.get(look.method or "", (2e-4, ""))
    first = [f"--lr_{n} {rate:g}: leave the 0 out, or give a rate" for n in zero]
    return _found(look, "rate-zero", "sure", evidence, first)


def diverging(look: Look) -> Finding | None:
    """Losses that are not finite or explode, updates left out, gradients that jump."""
    evidence, certain = [], True
    for name in ("loss/d", "loss/g"):
        series = look.series(name)
        bad = [s for s, v in zip(series.steps, series.values, strict=True) if not math.isfinite(v)]
        if bad:
            evidence.append(
                f"{name} is not finite in {len(bad)} of {len(series)} lines, first at step {bad[0]:,}"
            )
        elif abs(late := look.late(name)) > EXPLODED:
            evidence.append(f"{name} stands at {late:.3g} {look.at}")
    skipped = look.series("skipped_steps")
    if skipped.finite and skipped.finite[-1] > SKIPPED * max(look.step, 1):
        first = next(s for s, v in zip(skipped.steps, skipped.values, strict=True) if v > 0)
        evidence.append(
            f"{skipped.finite[-1]:,.0f} updates left out in {look.step:,} steps, the first by step {first:,}"
        )
    for name in ("grad_norm/d", "grad_norm/g"):
        values = look.series(name).finite
        before, late = _median(values[: len(values) // 2]), look.late(name)
        if late > max(JUMPED * before, LONG) and look.fine is not True:
            certain = bool(evidence)
            evidence.append(f"{name} went from {before:.3g} to {late:.3g}")
    if not evidence:
        return None
    rate = look.late("lr/d")
    half = [] if not rate > 0 else [f"--lr {rate / 2:.2g}: half the rate"]
    return _found(look, "diverging", "sure" if certain else "likely", evidence, _rate_text(look) or half)


def d_lost(look: Look) -> Finding | None:
    """Reals and fakes get the same logit, and not because the samples are good."""
    late = _median(look.gap.last_part())
    peak = look.gap_then
    if math.isnan(late) or peak <= 0 and look.fine:
        return None
    never = peak <= 0
    shrunk = late < BLIND_GAP * peak and look.share_right < BLIND_SIGN
    too_fast = _rate_text(look)
    # a good G makes D blind too: then a rate that no paper has is needed to say that it is not so
    if not (never or shrunk) or look.fine and not too_fast:
        return None
    evidence = [
        f"d/real stands above d/fake in {look.share_right:.0%} of the last third of the lines: a coin gives 50 %",
        f"the gap between them is {late:.2g} {look.at}" + ("" if never else f", and was {peak:.2g}"),
    ]
    evidence += look.unlike + look.off
    sure = "sure" if look.fine is False else "likely" if too_fast else "perhaps"
    return _found(look, "d-lost", sure, evidence, too_fast)


def overfitting(look: Look) -> Finding | None:
    """D is sure of the reals, ever surer, and has seen them often or scores get worse."""
    sign, values = _median(look.series("d/real_sign").last_part()), look.gap.finite
    if not sign >= KNOWN or look.record.translates:
        return None
    third = len(values) // 3
    before, late = _median(values[third // 2 : third + third // 2]), _median(look.gap.last_part())
    grows = late > GAP_GROWS * before > 0
    passes = _passes(look.record)
    worse = _worse_score(look.record)
    if not (worse or (passes or 0) >= FEW_TIMES and (grows or look.fine is False or look.won < 2 * WON)):
        return None
    evidence = [f"d/real_sign is {sign:.2f} of late: D calls {(1 + sign) / 2:.0%} of the reals real"]
    if grows:
        evidence.append(f"the gap between d/real and d/fake has grown from {before:.3g} to {late:.3g}")
    if passes:
        evidence.append(f"D has seen each of the {look.record.n_images:,} images {passes:,.0f} times")
    evidence += [worse] if worse else []
    return _found(look, "overfitting", "sure" if len(evidence) > 2 else "likely", evidence)


def _passes(record: Record) -> float | None:
    """How often D has seen each image, None where that is not known."""
    batch = record.settings.get("batch_size")
    return record.step * batch / record.n_images if record.n_images and isinstance(batch, int) else None


def _worse_score(record: Record) -> str | None:
    """What says that the score has got worse for good: the last two are far from a best one of before."""
    best = best_line(record.scores)
    if best is None:
        return None
    protocol = best.get("protocol", {})
    name, better = protocol.get("best_by") or (next((k for k in best if k.startswith("fid")), None), "low")
    later = [
        line[name]
        for line in record.scores
        if line["step"] > best["step"] and isinstance(line.get(name), int | float)
    ]
    if len(later) < 2 or better != "low" or not best[name] > 0 or min(later[-2:]) < WORSE * best[name]:
        return None
    return f"{name} was {best[name]:.4g} at step {best['step']:,} and is {later[-1]:.4g}"


def vanishing(look: Look) -> Finding | None:
    """D's loss is next to its least, and the samples are not the data's."""
    if not look.won < WON or look.fine:
        return None
    evidence = [
        f"loss/d is {look.late('loss/d'):.3g} of late, {max(look.won, 0):.1%} of the way from its least to where D "
        "cannot tell",
        f"D's mean logit is {look.late('d/real'):.3g} on reals and {look.late('d/fake'):.3g} on fakes",
    ]
    norms = look.series("grad_norm/g").finite
    early, late = _median(norms[: max(len(norms) // 4, 1)]), look.late("grad_norm/g")
    if late < 0.1 * early:
        evidence.append(f"grad_norm/g has faded from {early:.3g} to {late:.3g}")
    rates = look.late("lr/d"), look.late("lr/g")
    first = []
    if rates[0] >= 4 * rates[1] > 0:
        first = [f"--lr_d {rates[1]:g}: D's rate is {rates[0] / rates[1]:.0f} times G's"]
    elif (look.record.settings.get("train_g_interval") or 1) != 1:
        first = ["--train_g_interval 1: G is updated as often as D"]
    return _found(
        look,
        "vanishing-gradient",
        "sure" if look.fine is False else "likely",
        evidence + look.unlike + look.off,
        first,
    )


def mode_collapse(look: Look) -> Finding | None:
    """Samples are alike though the latents differ, or modes of a mixture have none."""
    modes, mixture = look.sample("modes"), MIXTURES.get(look.record.dataset)
    if modes < MODES_MISSED and mixture is not None and not look.unlike:
        n = len(mixture.centres)
        evidence = [f"the samples show {round(modes * n)} of {n} modes {look.at}"]
        return _found(look, "mode-collapse", "sure" if modes <= 0.5 else "likely", evidence)
    if mixture is not None or not look.variety < NARROW:
        return None
    best = max(look.of_samples["diversity"].finite)
    fell = best > 1.5 * look.sample("diversity")
    if look.variety > COLLAPSED and not fell:
        return None
    evidence = [
        f"two samples differ by {look.variety:.0%} of what two images of the data do, after their contrast"
    ]
    if fell:
        evidence.append(f"diversity was {best:.2f} before and is {look.sample('diversity'):.2f}")
    return _found(look, "mode-collapse", "sure" if look.variety < COLLAPSED else "likely", evidence)


def washed_out(look: Look) -> Finding | None:
    """Tones and colours that are not the data's, of samples that vary."""
    if not look.off or look.unlike:
        return None
    return _found(look, "washed-out", "sure" if len(look.off) > 1 else "likely", look.off)


def unlearned(look: Look) -> Finding | None:
    """Noise or blurs, and nothing else that was found."""
    return _found(look, "unlearned", "likely", look.unlike + look.off) if look.unlike else None


RULES: tuple[Callable[[Look], Finding | None], ...] = (
    rate_zero, diverging, d_lost, overfitting, vanishing, mode_collapse, washed_out, unlearned,
)  # fmt: skip
AT_ONCE = (rate_zero, diverging)  # which show in a young run too, and explain all else


def diagnose(record: Record) -> list[Finding]:
    """What is found, the cause before what comes of it; one that says so where nothing is, or where it is too early."""
    look = Look(record)
    for rule in AT_ONCE:
        if (finding := rule(look)) is not None:
            return [finding]
    if not record.series and not look.of_samples:
        return [Finding("unknown", "sure", tuple(record.problems[:3]))]
    lines = len(look.series("loss/d"))
    if look.step < LEAST_STEPS or record.series and lines < LEAST_LINES:
        seen = (
            f"{look.step:,} steps and {lines} logged lines; a verdict takes {LEAST_STEPS:,} and {LEAST_LINES}"
        )
        return [Finding("too-early", "sure", (seen,))]
    found = [finding for rule in RULES if (finding := rule(look)) is not None]
    # noise that D tells from data with ease is one illness, not three
    if any(finding.name in ("d-lost", "vanishing-gradient", "overfitting") for finding in found):
        found = [finding for finding in found if finding.name not in ("washed-out", "unlearned")]
    return found or [_healthy(look)]


def _healthy(look: Look) -> Finding:
    """What was looked at and found in order."""
    evidence = []
    if not math.isnan(look.won):
        evidence.append(
            f"loss/d is {look.late('loss/d'):.3g} of late, {look.won:.0%} of the way to where D cannot tell"
        )
    elif look.gap.finite:
        evidence.append(f"d/real stands {_median(look.gap.last_part()):.3g} above d/fake of late")
    if (skipped := look.series("skipped_steps").finite) and skipped[-1] == 0:
        evidence.append("no update was left out")
    for name, text in (
        ("diversity", "samples are as varied as {:.0%} of the data"), ("contrast", "contrast {:.0%} of the data's"),
        ("colourfulness", "colour {:.0%} of the data's"), ("modes", "{:.0%} of the modes have samples"),
    ):  # fmt: skip
        if not math.isnan(value := look.sample(name)):
            evidence.append(text.format(value))
    if look.fine is None:
        evidence.append("there are no samples to look at: of the curves alone")
    return _found(look, "healthy", "likely" if look.fine else "perhaps", evidence)
