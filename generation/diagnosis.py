"""What is wrong with a run, in plain words: from the numbers that it has logged and the samples that it has drawn.

    for finding in diagnose(read_record(Path("runs/NAME"))): print(finding.title, finding.evidence, finding.advice)

Rules of thumb with their reasons beside them, not proofs; thresholds are relative to where each method's losses stand
when D cannot tell (METHODS at equal logits). A run is called healthy where no rule finds anything, and a young one gets
no verdict. D far ahead, or level with G, is no illness while the samples vary and look like the data: many good
runs end so.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from generation.findings import FINDINGS, Finding, Remedy
from generation.look import COLLAPSED, MODES_MISSED, NARROW, Look, median
from generation.record import Record
from metrics.lines import best_line
from metrics.mixture import MIXTURES

# Nothing is said of learning before: Adam's averages alone take 1,000 updates, and every G begins with one picture
LEAST_STEPS, LEAST_LINES = 500, 8
# D has won: of the way from its best loss (0) to where it cannot tell (1); with a sigmoid D is 97 % sure then
WON = 0.05
# D has lost: of the widest gap between reals and fakes that it once had; beneath that, noise of a batch decides
BLIND_GAP, BLIND_SIGN = 0.02, 0.8
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


# -- rules: Look -> Finding or None, the causes before what follows from them ----------------------------------------


def _found(
    look: Look, name: str, sure: str, evidence: list[str], first: list[str] | None = None, keep: str = ""
) -> Finding:
    """A finding with what the run does not have yet of its advice; first: what comes before; keep: which checkpoint."""
    row, settings = FINDINGS[name], look.record.settings
    advice = [f"{r.flag}: {r.why}" for r in row.remedies if not _has(r, settings)]
    return Finding(name, sure, tuple(evidence), (*(first or ()), *advice), f"{keep} {row.stop}".strip())


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
    """Losses that are not finite or explode, updates left out, gradients that jump: now, and not once long ago."""
    evidence, began = [], []
    for name in ("loss/d", "loss/g"):
        series = look.series(name)
        bad = [s for s, v in zip(series.steps, series.values, strict=True) if not math.isfinite(v)]
        if bad and (len(bad) > SKIPPED * len(series) or bad[-1] in series.steps[-3:]):
            began.append(bad[0])
            evidence.append(
                f"{name} is not finite in {len(bad)} of {len(series)} lines, first at step {bad[0]:,}"
            )
        elif abs(late := look.late(name)) > EXPLODED:
            evidence.append(f"{name} stands at {late:.3g} {look.at}")
    skipped = look.series("skipped_steps")
    middle = len(skipped) // 2  # fp16 leaves some out while its scale finds its level
    if skipped and skipped.values[-1] - skipped.values[middle] > SKIPPED * (
        look.step - skipped.steps[middle]
    ):
        began.append(next(s for s, v in zip(skipped.steps, skipped.values, strict=True) if v > 0))
        left_out = f"{skipped.values[-1]:,.0f} updates left out in {look.step:,} steps"
        evidence.append(f"{left_out}, the first by step {began[-1]:,}")
    certain = bool(evidence)
    for name in ("grad_norm/d", "grad_norm/g"):
        values = look.series(name).finite
        before, late = median(values[: len(values) // 2]), look.late(name)
        if late > max(JUMPED * before, LONG) and look.fine is not True:
            evidence.append(f"{name} went from {before:.3g} to {late:.3g} {look.at}")
    if not evidence:
        return None
    rate = look.late("lr/d")
    first = _rate_text(look) or ([f"--lr {rate / 2:.2g}: half the rate"] if rate > 0 else [])
    keep = f"It began by step {min(began):,}." if began else ""
    return _found(look, "diverging", "sure" if certain else "likely", evidence, first, keep)


def d_lost(look: Look) -> Finding | None:
    """Reals and fakes get the same logit, and not because the samples are good."""
    late = median(look.gap.last_part())
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
    """D is sure of the reals, ever surer, and has seen them often; or scores get worse all the while.

    Where the sign of a logit says nothing (wgan, lsgan, ragan) it takes both often seen images and worse scores.
    """
    sign, values = median(look.series("d/real_sign").last_part()), look.gap.finite
    if look.record.translates or look.signed and not sign >= KNOWN:
        return None
    third = len(values) // 3
    before, late = median(values[third // 2 : third + third // 2]), median(look.gap.last_part())
    grows = late > GAP_GROWS * before > 0
    passes, worse = _passes(look.record), _worse_score(look.record)
    often = (passes or 0) >= FEW_TIMES
    surer = grows or look.fine is False or look.won < 2 * WON
    if not (worse or often and surer) if look.signed else not (worse and often):
        return None
    evidence = []
    if look.signed:
        evidence.append(
            f"d/real_sign is {sign:.2f} {look.lately}: D calls {(1 + sign) / 2:.0%} of the reals real"
        )
    if grows:
        evidence.append(f"the gap between d/real and d/fake has grown from {before:.3g} to {late:.3g}")
    if passes:
        evidence.append(f"D has seen each of the {look.record.n_images:,} images {passes:,.0f} times")
    evidence += [worse] if worse else []
    scoreless = "There are no scores yet: --eval_interval, or tools.evaluate, takes them."
    keep = "" if look.record.scores else scoreless
    return _found(look, "overfitting", "sure" if len(evidence) > 2 else "likely", evidence, keep=keep)


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
        f"loss/d is {look.late('loss/d'):.3g} {look.lately}, {max(look.won, 0):.1%} of the way from its least "
        "to where D cannot tell",
        f"D's mean logit is {look.late('d/real'):.3g} on reals and {look.late('d/fake'):.3g} on fakes",
    ]
    norms = look.series("grad_norm/g").finite
    early, late = median(norms[: max(len(norms) // 4, 1)]), look.late("grad_norm/g")
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
    diversity = look.of_samples["diversity"]
    best = max(diversity.finite)
    fell, there = best > 1.5 * look.sample("diversity"), diversity.steps[diversity.values.index(best)]
    if look.variety > COLLAPSED and not fell:
        return None
    evidence = [
        f"two samples differ by {look.variety:.0%} of what two images of the data do, after their contrast"
    ]
    if fell:
        evidence.append(f"diversity was {best:.2f} at step {there:,} and is {look.sample('diversity'):.2f}")
    keep = f"Samples were most varied at step {there:,}." if fell else ""
    return _found(
        look, "mode-collapse", "sure" if look.variety < COLLAPSED else "likely", evidence, keep=keep
    )


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
            f"loss/d is {look.late('loss/d'):.3g} {look.lately}, {look.won:.0%} of the way to where D cannot tell"
        )
    elif look.gap.finite:
        evidence.append(f"d/real stands {median(look.gap.last_part()):.3g} above d/fake {look.lately}")
    if (skipped := look.series("skipped_steps").finite) and skipped[-1] == 0:
        evidence.append("no update was left out")
    for name, text in (
        ("diversity", "samples {:.0%} as varied as the data"), ("contrast", "contrast {:.0%} of the data's"),
        ("colourfulness", "colour {:.0%} of the data's"), ("modes", "{:.0%} of the modes have samples"),
    ):  # fmt: skip
        if not math.isnan(value := look.sample(name)):
            evidence.append(text.format(value))
    if look.fine is None:
        evidence.append("there are no samples to look at: of the curves alone")
    return _found(look, "healthy", "likely" if look.fine else "perhaps", evidence)
