"""Each illness is found in numbers made by hand, healthy runs of every method are accused of nothing."""

import math
import shlex
from pathlib import Path

import pytest

from errors import UserError
from generation.diagnosis import diagnose
from generation.findings import FINDINGS
from generation.look import Look, levels_of, loss_range
from generation.record import Record, Series
from losses import METHODS
from settings.command_line import parse_config

STEPS = list(range(100, 4100, 100))
FINE = {"diversity": 0.95, "contrast": 1.0, "brightness": 0.02, "colourfulness": 0.9, "roughness": 1.1}
RATE = {"lr/d": 2e-4, "lr/g": 2e-4}
EVEN = {
    "d/real": 0.6,
    "d/fake": -0.6,
    "d/real_sign": 0.4,
    "grad_norm/d": 2.0,
    "grad_norm/g": 1.5,
    "skipped_steps": 0,
}


def way(start: float, end: float) -> list[float]:
    """Values from start to end, one a step."""
    return [start + (end - start) * i / (len(STEPS) - 1) for i in range(len(STEPS))]


def at_steps(values: float | list[float]) -> Series:
    """A series of one value, or of one a step."""
    return Series(STEPS, values if isinstance(values, list) else [values] * len(STEPS))


def record(
    method: str = "gan",
    samples: dict | None = FINE,
    *,
    n_images: int | None = None,
    scores: tuple = (),
    settings: dict | None = None,
    **series: float | list[float],
) -> Record:
    """A run of STEPS with these numbers, constant or one a step; names as d__real for d/real."""
    level, least = loss_range(method, 0.0)
    usual = {"loss/d": level / 2 if least is not None else -0.5, "loss/g": 1.0} | EVEN | RATE
    every = {
        k: at_steps(v) for k, v in (usual | {k.replace("__", "/"): v for k, v in series.items()}).items()
    }
    about = {} if n_images is None else {"data": {"n_images": n_images}}
    settings = {"method": method, "batch_size": 32} | (settings or {})
    found = Record(Path("runs/none"), settings, series=every, about=about, scores=list(scores))
    if samples is not None:
        found.samples = {"raw": {}}
        found.sample_series = {"raw": {k: at_steps(v) for k, v in samples.items()}}
    return found


def names(run: Record) -> list[str]:
    """What is found."""
    return [finding.name for finding in diagnose(run)]


FAINT = [(-1) ** i * 1e-3 for i in range(40)]  # now above 0, now below
NOISE = FINE | {"roughness": 3.0}
SCORES = tuple(
    {"step": step, "fid": value, "protocol": {"fakes": "generator"}}
    for step, value in ((1000, 40.0), (2000, 20.0), (3000, 31.0), (4000, 44.0))
)
SICK = {
    "rate of D": ("rate-zero", record(lr__d=0.0)),
    "rate of G": ("rate-zero", record(lr__g=0.0, loss__d=1e-6)),
    "NaN": ("diverging", record(loss__d=[math.nan if i % 5 == 0 else 1.0 for i in range(40)])),
    "skipped": ("diverging", record(skipped_steps=way(0, 200))),
    "huge": ("diverging", record("wgan", loss__d=way(0, -1e7))),
    "jump": ("diverging", record(samples=FINE | {"diversity": 0.1}, grad_norm__g=[1.0] * 25 + [1e5] * 15)),
    "won": ("vanishing-gradient", record(samples=NOISE, loss__d=1e-4, d__real=9.0, d__fake=-9.0)),
    "won hinge": ("vanishing-gradient", record("hinge", FINE | {"contrast": 0.2}, loss__d=0.0, d__real=4.0)),
    "won smooth": (
        "vanishing-gradient",
        record(samples=NOISE, loss__d=0.326, d__real=2.2, d__fake=-9.0, settings={"label_smoothing": 0.1}),
    ),
    "lost": ("d-lost", record(samples=NOISE, loss__d=1.386, d__real=FAINT, d__fake=0.0)),
    "lost late": (
        "d-lost",
        record("lsgan", FINE | {"diversity": 0.1}, d__real=way(1, 0.5)[:20] + FAINT[20:], d__fake=0.0),
    ),
    "too fast": ("d-lost", record("wgan", lr__d=5e-3, lr__g=5e-3, d__real=[1.0] * 10 + FAINT[10:], d__fake=0.0)),
    "alike": ("mode-collapse", record(samples=FINE | {"diversity": way(0.9, 0.1)})),
    "alike from the start": ("mode-collapse", record(samples=FINE | {"diversity": 0.2})),
    "few modes": ("mode-collapse", record(samples={"modes": 1 / 8, "near": 0.9}, settings={"dataset": "ring8"})),
    "by heart": ("overfitting", record(n_images=50, d__real_sign=1.0, d__real=way(1, 6), d__fake=way(-1, -6))),
    "worse": ("overfitting", record(d__real_sign=0.97, scores=SCORES)),
    "pale": ("washed-out", record(samples=FINE | {"colourfulness": 0.4})),
    "flat": ("washed-out", record(samples=FINE | {"contrast": 0.4, "diversity": 0.4})),
    "dark": ("washed-out", record(samples=FINE | {"brightness": -0.4})),
    "noise": ("unlearned", record(samples=FINE | {"roughness": 3.2})),
}  # fmt: skip


@pytest.mark.parametrize("name", SICK)
def test_an_illness_is_found_with_numbers_and_advice(name: str) -> None:
    expected, run = SICK[name]
    first, *_ = diagnose(run)
    assert first.name == expected and first.is_ill
    assert first.evidence and all(any(c.isdigit() for c in line) for line in first.evidence)
    assert first.sure in ("sure", "likely") and first.stop and first.meaning


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"d__real": way(3, 0.02), "d__fake": way(-3, -0.02)},  # level at the end, with good samples
        {
            "d__real": way(0.5, 4),
            "d__fake": way(-0.5, -4),
            "d__real_sign": way(0.2, 0.97),
        },  # D far ahead of a good G
        {"grad_norm__g": way(0.001, 5.0)},
        {"skipped_steps": [90.0] * 40},  # fp16's first ones
    ],
    ids=["even", "level", "ahead", "waking", "fp16"],
)
def test_healthy_runs_of_every_method_are_accused_of_nothing(method: str, numbers: dict) -> None:
    assert names(record(method, **numbers)) == ["healthy"]
    assert names(record(method, {"modes": 1.0, "near": 0.5}, settings={"dataset": "ring8"}, **numbers)) == [
        "healthy"
    ]


def test_a_good_generator_at_the_end_of_its_training_is_healthy() -> None:
    """D's loss next to its least, though the samples are like the data; a rate that falls to 0 at the end."""
    assert names(record(loss__d=1e-3, d__real=8.0, d__fake=-8.0)) == ["healthy"]
    assert names(record(lr__d=way(2e-4, 0), lr__g=way(2e-4, 0))) == ["healthy"]


def test_one_step_that_was_not_finite_is_history() -> None:
    once = [1.0] * 300
    once[100] = math.nan
    run = record()
    run.series["loss/d"] = Series(list(range(10, 3010, 10)), once)
    assert names(run) == ["healthy"]
    run.series["loss/d"] = Series(list(range(10, 3010, 10)), [*once[:-1], math.nan])
    assert names(run) == ["diverging"]


def test_the_checkpoint_to_take_is_named() -> None:
    (finding,) = diagnose(record(samples=FINE | {"diversity": way(0.2, 0.9)[:20] + [0.1] * 20}))
    assert finding.stop.startswith("Samples were most varied at step 2,000.")
    assert diagnose(SICK["NaN"][1])[0].stop.startswith("It began by step 100. Stop")


def test_many_images_seen_often_are_not_known_by_heart() -> None:
    passes = {"d__real_sign": 0.95, "d__real": way(1, 6), "d__fake": way(-1, -6)}
    assert names(record(n_images=50_000, **passes)) == ["healthy"]
    assert names(record(n_images=50, d__real_sign=0.4)) == ["healthy"]


@pytest.mark.parametrize("method", METHODS)
def test_a_sign_counts_where_0_is_the_middle(method: str) -> None:
    """For gan and hinge; lsgan's reals are above 0 all the while, and wgan's may stand anywhere."""
    assert Look(record(method)).signed == (method in ("gan", "gan-saturating", "hinge"))
    run = record(method, n_images=50, d__real_sign=1.0, d__real=way(1, 4), d__fake=way(-1, -4))
    assert names(run) == (["overfitting"] if Look(run).signed else ["healthy"])
    assert names(record(method, n_images=50, d__real_sign=1.0, scores=SCORES)) == ["overfitting"]


def test_the_young_and_the_silent_get_no_verdict() -> None:
    young = record()
    young.series = {k: Series(v.steps[:4], v.values[:4]) for k, v in young.series.items()}
    young.sample_series = {}
    assert names(young) == ["too-early"]
    assert names(Record(Path("runs/none"))) == ["unknown"]


def test_curves_alone_give_a_guarded_verdict() -> None:
    (finding,) = diagnose(record(samples=None))
    assert (finding.name, finding.sure) == ("healthy", "perhaps")
    won = diagnose(record(samples=None, loss__d=1e-4, d__real=9.0, d__fake=-9.0))
    assert (won[0].name, won[0].sure) == ("vanishing-gradient", "likely")


def test_advice_leaves_out_what_the_run_has() -> None:
    sick = FINE | {"diversity": 0.1}
    flags = lambda **settings: " ".join(diagnose(record(samples=sick, settings=settings))[0].advice)  # noqa: E731
    assert "--penalty r1" in flags() and "--spectral_norm_d" in flags()
    assert "--penalty r1" not in flags(penalty_weights={"r1": 1.0}) and "--penalty r1" not in flags(
        penalty=["gp"]
    )
    assert "--spectral_norm_d" not in flags(spectral_norm_d=True)
    strong = record(samples=sick | {"roughness": 3.0}, loss__d=1e-4, lr__d=2e-3)
    assert diagnose(strong)[0].advice[0].startswith("--lr_d 0.0002: D's rate is 10 times G's")
    first = diagnose(SICK["too fast"][1])[0].advice[0]
    assert first == "--lr 5e-05: the rate of D, 0.005, is 100 times that of arXiv:1701.07875"


@pytest.mark.parametrize(
    "remedy", [r for row in FINDINGS.values() for r in row.remedies], ids=lambda r: r.flag
)
def test_every_flag_that_is_advised_can_be_typed(remedy: object) -> None:
    words = shlex.split(remedy.flag)
    try:
        config = parse_config("gan_mnist", ("digits",), {"dataset": "digits"}, words).config()
    except UserError as error:
        pytest.fail(f"{remedy.flag}: {error}")
    assert config is not None


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_measured_between_their_best_and_a_blind_d(method: str) -> None:
    """By the formulas: 2 ln 2, 2, 1/4, ln 2 where D cannot tell; 0 is the least, or there is none."""
    level, least = loss_range(method, 0.0)
    by_hand = {"gan": 2 * math.log(2), "gan-saturating": 2 * math.log(2), "hinge": 2, "lsgan": 0.25}
    expected = by_hand.get(method, 0 if method.startswith("wgan") else math.log(2))
    assert level == pytest.approx(expected)
    assert least is None if method.startswith("wgan") else least == pytest.approx(0, abs=1e-6)


def test_label_smoothing_moves_the_least_loss() -> None:
    """With the target 0.9 the best D gives reals 0.9: the entropy of that."""
    _, least = loss_range("gan", 0.1)
    assert least == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1), abs=1e-6)
    (level,) = levels_of(record(settings={"label_smoothing": 0.1})).values()
    assert level == pytest.approx(1.376, abs=1e-3)  # as docs/reading_a_run.md has it


def test_settings_that_are_no_settings_do_no_harm() -> None:
    odd = {
        "penalty": 3,
        "d_kwargs": [1],
        "augment": 7,
        "train_g_interval": "x",
        "label_smoothing": "y",
        "model": None,
    }
    for _, run in SICK.values():
        run = Record(run.path, run.settings | odd, series=run.series, about=run.about, samples=run.samples)
        run.sample_series = {"raw": {"diversity": Series(STEPS, [0.1] * 40)}}
        assert diagnose(run)
    assert names(record(settings={"method": ["gan"]}))


def test_veegans_reals_stand_below_its_fakes() -> None:
    """Its D learns to call fakes real, with their latents."""
    run = record(settings={"model": "veegan"}, d__real=-0.6, d__fake=0.6)
    assert Look(run).gap.values[0] == pytest.approx(1.2) and names(run) == ["healthy"]
