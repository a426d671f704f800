"""Schedules: closed forms, how they are written and refused, and what a run uses at each step."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from errors import UserError
from games import noise_to_image, translation
from games.course import Course
from games.schedule import schedule_of
from generation.record import Record, Series
from settings import TrainConfig
from settings.curves import read_curve
from settings.files import as_dict, base_of
from settings.presets import PRESETS, Preset
from settings.resume import resume_differences
from tests.running import request, run, small, write_pairs
from tools import report_page, schedules
from training import loop as training_loop
from training.averages import make_averages
from training.network import Network
from training.optimizers import make_optimizer

# kimg of EDM2's S at 512 px: 70,000 batches of 2048, of which the ramp is 10 million images
EDM2 = "0.01:10000:143360:inverse_sqrt"


@pytest.mark.parametrize(
    ("text", "n", "value"),
    [
        ("2e-4:5e-5:20000", 0, 2e-4),
        ("2e-4:5e-5:20000", 5e6, 5e-5 + 1.5e-4 * (1 + 0.5**0.5) / 2),
        ("2e-4:5e-5:20000", 10e6, 1.25e-4),
        ("2e-4:5e-5:20000:cosine", 15e6, 5e-5 + 1.5e-4 * (1 - 0.5**0.5) / 2),
        ("2e-4:5e-5:20000", 20e6, 5e-5),
        ("2e-4:5e-5:20000", 9e9, 5e-5),
        ("0:0.55:20", 10_000, 0.275),
        (".9:.99:4:linear", 1000, 0.9225),
        (".9:.99:4:linear", 4000, 0.99),
        (".9:.99:4:linear", 4001, 0.99),
        (EDM2, 0, 0.0),
        (EDM2, 5e6, 0.005),
        (EDM2, 50e6, 0.01),
        (EDM2, 4 * 143_360_000, 0.005),
        ("1:100:25:inverse_sqrt", 50_000, 0.5 / 2**0.5),  # still on the ramp when it begins to fall
        ("3:0:1:inverse_sqrt", 0, 3.0),
        ("3:0:1:inverse_sqrt", 9000, 1.0),
        ("0.3", 10**9, 0.3),
        (0.3, 0, 0.3),
    ],
)
def test_closed_forms(text: str | float, n: float, value: float) -> None:
    assert read_curve("x", text)(n) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("shape", ["", ":linear"])
@pytest.mark.parametrize(("a", "b"), [(2e-4, 5e-5), (0.0, 0.55), (0.1, 0.3), (150.0, 15.0), (1 / 3, 1 / 3)])
def test_ends_are_exact_and_the_way_is_one_way(a: float, b: float, shape: str) -> None:
    curve = read_curve("x", f"{a!r}:{b!r}:7{shape}")
    way = [curve(n) for n in range(0, 7001, 100)]
    assert (way[0], way[-1], curve(8000)) == (a, b, b)
    assert a == b or way == sorted(way, reverse=a > b) and len(set(way)) == len(way)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2e-4:5e-5:20000", "0.0002:5e-05:20000"),
        ("2e-4:5e-5:2e4:cosine", "0.0002:5e-05:20000"),
        ("1:0.1:.5:linear", "1:0.1:0.5:linear"),
        ("1e-2:10000:140000:inverse_sqrt", "0.01:10000:140000:inverse_sqrt"),
        (3, "3"),
    ],
)
def test_equal_curves_are_written_alike(text: str | int, written: str) -> None:
    assert str(read_curve("x", text)) == written and str(read_curve("x", written)) == written


ADA = "--augment ada --ada_interval 0"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("lr=1:2", "give FROM:TO:KIMG"),
        ("lr=1:2:3:4:5", "give FROM:TO:KIMG"),
        ("lr=1:2:3:cosin", "not one of cosine, linear, inverse_sqrt; did you mean cosine"),
        ("lr=1:2:-3", "at least 0"),
        ("lr=1:2:0", "above 0"),
        ("lr=1:0:0:inverse_sqrt", "above 0"),
        ("lr=1:2:1e300", "below 2^63"),
        ("lr=nan", "finite"),
        ("lr=-1:0:3", "at least 0"),
        ("lr=fast:0:3", "'fast' is no number"),
        ("lr=none", "give FROM:TO:KIMG"),
        ("lr=true", "give FROM:TO:KIMG"),
        ("speed=1", "--schedule speed: known are lr, lr_d, lr_g, beta2, ema_halflife, ada_p, gp, "),
        ("gamma=1 --penalty r1", "did you mean r1"),
        ("r2_weight=1 --penalty r2", "did you mean r2"),
        ("r1=2:.2:9", "add --penalty r1"),
        ("ema_halflife=0:9:9", "needs --ema"),
        ("ada_p=0:.5:9 --augment ada", "--ada_interval 0"),
        ("ada_p=0:.5:9 --augment color", "--augment ada"),
        (f"ada_p=0:1.5:9 {ADA}", "1.5 must be at most 1"),
        ("beta2=.9:1:9", "1 must be below 1"),
        ("beta2=.9 --optimizer SGD", "--optimizer Adam or AdamW"),
        ("lr=1:0:9 --lr 2e-4", "--lr and --schedule lr are two ways to say the same: give one"),
        ("lr=1:0:9 --lr_decay_from 2", "give one"),
        ("lr_d=1:0:9 lr_g=1 --lr_decay_from 2", "--lr_decay_from bends no rate"),
        ("lr=1:0:9 --lr_d 1 --lr_g 2", "both have one: give --schedule lr_d=... lr_g=... instead"),
        ("lr=1:0:9 lr_d=1 --lr_g 2", "both have one"),
        ("lr=1:0:9 --preset mnist-infogan", "both have one"),
        ("r1=1:0:9 --penalty r1 --gamma 2", "--r1_weight and --schedule r1 are two"),
        ("ema_halflife=0:9:9 --ema --ema_rampup 0.05", "give one"),
        (f"ada_p=0:.5:9 {ADA} --ada_p .2", "give one"),
    ],
)
def test_refused_in_one_line(flags: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        request(f"--schedule {flags}").config()
    text = error.value.for_command_line
    assert words in text and "\n" not in text and "schedule" in text


def test_settings_in_python_and_files(tmp_path: Path) -> None:
    """YAML would take 1:0:20 for a number to the base of 60."""
    file = tmp_path / "c.yaml"
    file.write_text("ema: true\nschedule:\n  lr: 1:0:20\n  beta2: 0.9\n  ema_halflife: 0:30:50.5\n")
    given = {"lr": "1:0:20", "beta2": 0.9, "ema_halflife": "0:30:50.5"}
    config = request(f"--config {file}").config()
    assert config.schedule == TrainConfig(ema=True, schedule=given).schedule
    assert config.schedule == {"lr": "1:0:20", "beta2": "0.9", "ema_halflife": "0:30:50.5"}
    file.write_text(json.dumps(as_dict(config)))
    assert request(f"--config {file}").config().schedule == config.schedule
    file.write_text("schedule: {lr: 1:0:20}\nlr: 1e-3\n")
    with pytest.raises(UserError, match="give one"):
        request(f"--config {file}").config()


PRESET = {
    "penalty": ("r1", "r2"), "ema": True, "augment": ("ada",), "ada_interval": 0,
    "schedule": {"lr": "2e-4:5e-5:9", "r1": "2:.2:9", "ema_halflife": "0:9000:9", "ada_p": "0:.3:9"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("", {"lr", "r1", "ema_halflife", "ada_p"}),
        ("--schedule beta2=.9", {"lr", "r1", "ema_halflife", "ada_p", "beta2"}),
        ("--lr 1e-3", {"r1", "ema_halflife", "ada_p"}),
        ("--lr_decay_from 5", {"r1", "ema_halflife", "ada_p"}),
        ("--lr_d 1e-3", {"lr", "r1", "ema_halflife", "ada_p"}),
        ("--lr_d 1e-3 --lr_g 1e-3", {"r1", "ema_halflife", "ada_p"}),
        ("--schedule lr_d=1 lr_g=2", {"lr_d", "lr_g", "r1", "ema_halflife", "ada_p"}),
        ("--r1_weight 1", {"lr", "ema_halflife", "ada_p"}),
        ("--penalty r2", {"lr", "ema_halflife", "ada_p"}),
        ("--no-ema", {"lr", "r1", "ada_p"}),
        ("--ema_decay 0.9", {"lr", "r1", "ada_p"}),
        ("--augment color", {"lr", "r1", "ema_halflife"}),
        ("--ada_interval 4", {"lr", "r1", "ema_halflife"}),
        ("--ada_p 0.2", {"lr", "r1", "ema_halflife"}),
    ],
)
def test_a_flag_takes_a_presets_schedule_back(
    flags: str, names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "moving", Preset(None, PRESET, "here"))
    assert request(f"--preset moving {flags}").config().schedule.keys() == names


def test_a_schedule_takes_a_presets_value_back(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {
        "lr": 1e-3,
        "lr_decay_from": 9,
        "r1_weight": 3.0,
        "r2_weight": 2.0,
        "ema": True,
        "ema_rampup": 0.05,
    }
    monkeypatch.setitem(PRESETS, "plain", Preset(None, plain | {"ema_halflife": (9.0,)}, "here"))
    flags = "--schedule lr=1e-2:0:9 ema_halflife=0:9:9 r1=1:0:9"
    config = request(f"--preset plain {flags}").config()
    assert (config.lr_decay_from, config.ema_halflife, config.ema_rampup) == (None, (), None)
    assert config.penalty_weights == {"r2": 2.0} and set(config.penalties()) == {"r1", "r2"}


def test_what_bends_both_rates_still_bends_the_one_without_a_schedule() -> None:
    """Of a preset as well; where both have one, there is nothing left for it."""
    for flags in (
        "--n_steps 9 --lr_decay_from 3 --lr 2 --schedule lr_d=1:0:9",
        "--preset r --schedule lr_d=1:0:9",
    ):
        with pytest.MonkeyPatch.context() as patched:
            patched.setitem(PRESETS, "r", Preset(None, {"n_steps": 9, "lr_decay_from": 3, "lr": 2.0}, "here"))
            config = request(flags).config()
            both = request("--preset r --schedule lr_d=1:0:9 lr_g=3").config()
        course = Course(config)
        assert [course.rate_factor("g", step) for step in (3, 6)] == [1, 0.5]
        assert course.rate_factor("d", 6) == course.value("lr_d", 6)
        assert both.lr_decay_from is None


def test_which_schedule_a_rate_follows() -> None:
    both = TrainConfig(schedule={"lr": 1, "lr_d": 2, "beta2": 0.5}, beta2_g=0.9)
    assert [both.follows("lr", side) for side in "dg"] == ["lr_d", "lr"]
    assert [both.follows("beta2", side) for side in "dg"] == ["beta2", None]
    own = TrainConfig(schedule={"lr": 1}, lr_g=3.0)
    assert [own.follows("lr", side) for side in "dg"] == ["lr", None]
    assert (Course(own).base_rate("g", 3.0), Course(own).rate_factor("g", 5)) == (3.0, 1.0)


@pytest.mark.parametrize(
    ("old", "new", "refused", "noticed"),
    [
        ("lr=1:0:9", "lr=1:0:8", [], ["schedule.lr: 1:0:9 -> 1:0:8"]),
        ("lr=1:0:9", "lr=1:0:9:cosine", [], []),
        ("r1=1:0:9", "r1=1:0:8", ["schedule.r1: 1:0:9 -> 1:0:8"], []),
        ("beta2=.9", "lr_d=1", ["schedule.beta2: 0.9 -> (absent)"], ["schedule.lr_d: (absent) -> 1"]),
    ],
)
def test_what_may_change_at_a_resume(old: str, new: str, refused: list[str], noticed: list[str]) -> None:
    """Rates may, as without schedules."""
    saved, now = (as_dict(request(f"--penalty r1 --schedule {text}").config()) for text in (old, new))
    assert resume_differences(saved, now) == (refused, noticed)
    assert base_of({k: v for k, v in saved.items() if k != "schedule"} | {"asked": {}})["schedule"] == {}


# -- in a run ------------------------------------------------------------------------------------------------------


def cosine(a: float, b: float, share: float) -> float:
    return b + (a - b) * (1 + math.cos(math.pi * min(share, 1))) / 2


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "a" / "metrics.jsonl").read_text().splitlines()]


def spied(monkeypatch: pytest.MonkeyPatch) -> tuple[list, list]:
    """(groups of each optimiser's step as (lr, betas), (name, weight) of each term) of the runs that follow."""
    stepped, weighed = [], []
    step_where, total = training_loop.step_where, noise_to_image.total

    def step(optimizer: torch.optim.Optimizer, *given: Any) -> None:
        stepped.append([(group["lr"], group["betas"]) for group in optimizer.param_groups])
        step_where(optimizer, *given)

    def added(loss: torch.Tensor, terms: dict, stats: dict) -> torch.Tensor:
        weighed.extend((name, weight) for name, (weight, _) in terms.items())
        return total(loss, terms, stats)

    monkeypatch.setattr(training_loop, "step_where", step)
    monkeypatch.setattr(noise_to_image, "total", added)
    monkeypatch.setattr(translation, "total", added)
    return stepped, weighed


def test_a_run_uses_what_its_schedules_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 8; a lazy r1 at interval 2 corrects D's Adam by c = 2/3, of moved rates too."""
    stepped, weighed = spied(monkeypatch)
    moving = "lr=1e-3:1e-4:.04 lr_g=2e-3:0:.032:linear beta2=.9:.99:.032 r1=2:.2:.032:linear r2=1:.1:.016 "
    run(
        f"--log_name a --n_steps 6 --log_interval 1 --penalty r1 r2 --penalty_interval r1=2 --beta1 0.5 --ema {ADA} "
        f"--schedule {moving} ema_halflife=0:100:.032 ada_p=0:.5:.016",
        tmp_path,
        sampled=False,
    )
    rows = lines(tmp_path)
    d = [(2 / 3 * cosine(1e-3, 1e-4, 8 * i / 40), cosine(0.9, 0.99, i / 4) ** (2 / 3)) for i in range(6)]
    g = [(2e-3 * max(1 - i / 4, 0), cosine(0.9, 0.99, i / 4)) for i in range(6)]
    due = [network for i in range(6) for network in ([d[i], d[i], g[i]] if i % 2 else [d[i], g[i]])]
    assert [lr for ((lr, _),) in stepped] == pytest.approx([lr for lr, _ in due])
    assert [betas[1] for ((_, betas),) in stepped] == pytest.approx([beta2 for _, beta2 in due])
    assert {betas[0] for ((_, betas),) in stepped} == {0.5 ** (2 / 3), 0.5}
    r1 = [2 - 1.8 * min(i / 4, 1) for i in (1, 3, 5)]
    assert [weight for name, weight in weighed if name == "penalty/r1"] == pytest.approx(r1)
    r2 = [cosine(1, 0.1, i / 2) for i in range(6)]
    assert [weight for name, weight in weighed if name == "penalty/r2"] == pytest.approx(r2)
    assert [row["lr/d"] for row in rows] == pytest.approx([lr for lr, _ in d])
    assert [row["lr/g"] for row in rows] == pytest.approx([lr for lr, _ in g])
    assert [row["schedule/beta2"] for row in rows] == pytest.approx([beta2 for _, beta2 in g])
    assert [row["schedule/r2"] for row in rows] == pytest.approx(r2)
    assert [row["augment/p"] for row in rows] == pytest.approx([cosine(0, 0.5, i / 2) for i in range(6)])
    halflives = [cosine(0, 100, i / 4) for i in range(6)]
    assert [row["schedule/ema_halflife"] for row in rows] == pytest.approx(halflives)
    assert not {"schedule/lr", "schedule/lr_g", "schedule/ada_p"} & rows[0].keys()


def test_decays_follow_the_scheduled_halflife() -> None:
    """A plain copy at half-life 0; else half of what was, in that many images."""
    config = TrainConfig(ema=True, batch_size=8, schedule={"ema_halflife": "0:80:.04:linear"})
    clock = [0, 0, 0]
    averages = make_averages(config, nn.Linear(1, 1), lambda: tuple(clock), schedule_of(config).images)
    assert list(averages) == ["ema"]
    decays = []
    for step in range(7):
        clock[:] = step, step, step
        decays.append(averages["ema"][1]())
    assert decays == pytest.approx([0.0, *(0.5 ** (8 / min(16 * step, 80)) for step in range(1, 7))])


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_fused_adam_takes_another_beta2_at_each_step(name: str) -> None:
    module = nn.Linear(1, 1, bias=False).double()
    config = TrainConfig(optimizer=name, beta1=0.0)
    network = Network(module, make_optimizer(config, module, 1.0, 0.999, torch.device("cpu"), 0.5), 0.5)
    assert network.optimizer.defaults["fused"]
    second = 0.0
    for grad, beta2 in ((1.0, 0.25), (2.0, 0.81), (3.0, 0.0)):
        network.set_rates(0.1, beta2)
        module.weight.grad = torch.full((1, 1), grad, dtype=torch.float64)
        network.optimizer.step()
        second = beta2**0.5 * second + (1 - beta2**0.5) * grad**2
        assert float(network.optimizer.state[module.weight]["exp_avg_sq"]) == pytest.approx(second)
    assert network.optimizer.param_groups[0]["lr"] == 1.0 * 0.5 * 0.1


def test_the_older_flags_give_the_same_bits() -> None:
    """--lr_by_size and --lr_decay_from, alone and together, against the formula they always had."""
    sizes = {"8": 3e-4, "16": 7e-4}
    grown = {
        "model": "progressive_gan",
        "img_size": 16,
        "batch_size": 8,
        "stable_kimg": 0.016,
        "fade_kimg": 0.016,
    }
    for settings in ({"lr_decay_from": 3}, {"lr_by_size": sizes}, {"lr_decay_from": 3, "lr_by_size": sizes}):
        config = TrainConfig(n_steps=13, lr=1.1e-3, **grown, **settings)
        course = Course(config)
        for step in range(13):
            size = next(px for px, end in ((4, 2), (8, 6), (16, 99)) if step < end)
            factor = config.lr_by_size.get(str(size), config.lr) / config.lr
            if config.lr_decay_from is not None and step > 3:
                factor *= (13 - step) / (13 - 3)
            assert course.rate_factor("d", step) == course.rate_factor("g", step) == factor
    assert course.base_rate("d", 1.1e-3) == 1.1e-3


def test_batches_that_change_count_as_images() -> None:
    settings = {"model": "progressive_gan", "img_size": 8, "batch_size": 2, "batch_by_size": {"4": 8}}
    config = TrainConfig(
        **settings, n_steps=20, stable_kimg=0.016, fade_kimg=0.016, schedule={"lr": "1:0:.02:linear"}
    )
    factors = [Course(config).rate_factor("d", step) for step in range(5)]
    assert factors == pytest.approx([1, 0.6, 0.2, 0.1, 0])  # after 0, 8, 16, 18 and 20 images


def test_networks_of_pictures_of_pictures_follow_their_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, weighed = spied(monkeypatch)
    data = write_pairs(tmp_path / "pairs", n=4)
    run(
        f"--log_name a {small('cyclegan')} --data {data} --batch_size 2 --n_steps 3 --log_interval 1 {ADA} "
        "--penalty r1 --schedule lr_d=1:0:.004:linear lr_g=2:0:.004:linear r1=4:0:.004:linear ada_p=0:1:.004:linear",
        tmp_path,
        sampled=False,
    )
    rows = lines(tmp_path)
    for name, values in {
        **dict.fromkeys(("lr/d_a", "lr/d_b"), [1, 0.5, 0]),
        **dict.fromkeys(("lr/g_ab", "lr/g_ba"), [2, 1, 0]),
        **dict.fromkeys(("augment/p/d_a", "augment/p/d_b"), [0, 0.5, 1]),
        "schedule/r1": [4, 2, 0],
    }.items():
        assert [row[name] for row in rows] == values, name
    assert [weight for name, weight in weighed if name == "penalty/r1_d_a"] == [4, 2, 0]


def test_a_schedule_longer_than_the_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--log_name a --n_steps 2 --schedule lr=1e-3:0:.032 beta2=.9:.99:.01", tmp_path, sampled=False)
    printed = capsys.readouterr().out
    notes = [line for line in printed.splitlines() if line.startswith("note: --schedule")]
    told = "goes on for 0.032 thousand images, and the run has 0.016: it ends at 0.0005"
    assert len(notes) == 1 and "lr=0.001:0:0.032" in notes[0] and told in notes[0]


def test_a_run_that_is_given_up_names_the_rates_in_use(tmp_path: Path) -> None:
    """From 0 up to what no network stands."""
    with pytest.raises(UserError, match=r"lr of D 1e\+30, lr of G 1e\+30"):
        run(
            "--log_name a --n_steps 30 --log_interval 1 --schedule lr=0:1e30:.016:linear",
            tmp_path,
            sampled=False,
        )


# -- pictures ------------------------------------------------------------------------------------------------------


def test_schedules_are_drawn_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.png"
    flags = ["--penalty", "r1", "--schedule", "lr=1:0:9", "beta2=.9:.99:9", "r1=1:0:9", "--n_steps", "200"]
    assert schedules.main(["--out", str(out), *flags]) == 0
    size = Image.open(out).size
    assert size[0] == 3 * schedules.SIZE[0] * 1.5 and size[1] == schedules.SIZE[1] * 1.5
    assert schedules.main(["--out", str(out), "--n_steps", "200"]) == 2
    assert "nothing moves" in capsys.readouterr().err
    drawn = ["--out", str(out), "--log_name", "digits"]  # which is a preset's name, too
    assert schedules.main([*drawn, "--preset=celeba-dcgan", "--schedule", "lr=1:0:9"]) == 0
    assert schedules.main([*drawn, "--preset", "nothing"]) == 2
    assert "'nothing' is not one of mnist-dcgan" in capsys.readouterr().err
    config = request("--lr_decay_from 100 --n_steps 200 --lr_d 3 --lr 2").config()
    ((_, rates),) = schedules.lines_of(Course(config))
    assert rates["lr/d"][1][::50] == [3, 3, 3, 1.5] and rates["lr/g"][1][::50] == [2, 2, 2, 1]


def test_a_report_has_a_chart_of_each(tmp_path: Path) -> None:
    series = {name: Series([1, 2], [0.0, 1.0]) for name in ("lr/d", "schedule/r1", "schedule/beta2")}
    record = Record(tmp_path, series=series)
    page = report_page.stability_charts(record)
    assert "r1, as scheduled" in page and "beta2, as scheduled" in page
    assert "schedule" not in report_page.other_charts(record)
