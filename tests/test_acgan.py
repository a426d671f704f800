"""AC-GAN: its terms on hand numbers, their weights in the loss, what penalties see, and that D learns classes."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from games.acgan import ACGAN, class_loss, share_told
from games.noise_to_image import Inputs, NoiseToImage
from games.task import Draws, Micro
from losses import METHODS
from modelling import MODELS
from modelling.conditioning import CLASS_HEADS, DOutput
from settings import TrainConfig
from tests.running import run
from training.loop import Loop

ln = math.log
CLASSIFIERS = [name for name, head in CLASS_HEADS.items() if head.classifies]
# As shares 4 : 1 : 1, 1 : 1 : 2 and 1 : 1 : 1; the last sample's largest is the first of equals.
LOGITS = torch.tensor([[ln(4), 0, 0], [0, 0, ln(2)], [0, 0, 0]])
WEIGHTS = "--ac_weight_d 2 --ac_weight_fake 0.5 --ac_weight_g 0.25"


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def lines(folder: Path, name: str = "a") -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def ac(command: str, folder: Path, head: str = "ac") -> Loop:
    """A run with labels whose D classifies."""
    return run(f"--log_name a --conditional --condition_d {head} --log_interval 1 {command}", folder)


# Terms


def test_classes_by_hand() -> None:
    """-log of the asked class's share: 4/6, 1/4 and 1/3; two of three are told."""
    y = torch.tensor([0, 1, 0])
    assert class_loss(LOGITS, y).item() == pytest.approx((ln(6 / 4) + ln(4) + ln(3)) / 3)
    assert share_told(LOGITS, y).item() == pytest.approx(2 / 3)
    assert share_told(LOGITS, torch.tensor([1, 1, 2])).item() == 0


def test_attributes_by_hand() -> None:
    """As many yes-or-no questions: -log of 4/5 or 1/5 for a logit of ln 4, and so on; a logit of 0 says no."""
    logits = torch.tensor([[ln(4), -ln(4), 0.0], [ln(2), ln(4), -ln(2)]])
    y = torch.tensor([[1.0, 0, 1], [0, 1, 1]])
    expected = (ln(5 / 4) + ln(5 / 4) + ln(2) + ln(3) + ln(5 / 4) + ln(3)) / 6
    assert class_loss(logits, y).item() == pytest.approx(expected)
    assert share_told(logits, y).item() == pytest.approx(3 / 6)
    assert class_loss(logits, y.to(torch.uint8)).item() == pytest.approx(expected)
    assert class_loss(logits.double(), y).dtype == torch.float64


@pytest.mark.parametrize("y", [torch.tensor([0, 1, 0]), torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 0]])])
def test_direction_of_the_gradients(y: Tensor) -> None:
    """Raises what was asked for, lowers the rest; accuracy has no gradient of use."""
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(class_loss(logits, y), logits)
    asked = F.one_hot(y, 3).bool() if y.dim() == 1 else y.bool()
    assert (gradient[asked] < 0).all() and (gradient[~asked] > 0).all()
    assert class_loss(torch.full((2, 3), 1e3), torch.tensor([0, 1])).isfinite()
    assert not share_told(logits.detach(), y).requires_grad


def bare_task(**weights: float) -> ACGAN:
    """The game's terms alone, without networks."""
    task = ACGAN.__new__(ACGAN)
    task.config = TrainConfig(conditional=True, condition_d="ac", **weights)
    return task


def test_terms_and_their_weights() -> None:
    task, y = bare_task(ac_weight_d=2.0, ac_weight_fake=0.5, ac_weight_g=0.25), torch.tensor([0, 1, 0])
    real, fake = DOutput(torch.zeros(3), LOGITS), DOutput(torch.zeros(3), -LOGITS)
    micro = SimpleNamespace(y=y)
    of_d, of_g = task.d_terms(micro, real, fake), task.g_terms(micro, fake)
    assert {name: weight for name, (weight, _) in of_d.items()} == {
        "class/d_real": 2, "class/accuracy_real": 0, "class/d_fake": 0.5,
    }  # fmt: skip
    assert {name: weight for name, (weight, _) in of_g.items()} == {"class/g": 0.25, "class/accuracy_fake": 0}
    assert_close(of_d["class/d_real"][1], class_loss(LOGITS, y))
    assert_close(of_d["class/d_fake"][1], class_loss(-LOGITS, y))
    assert_close(of_g["class/g"][1], class_loss(-LOGITS, y))
    assert_close(of_d["class/accuracy_real"][1], share_told(LOGITS, y))
    assert_close(of_g["class/accuracy_fake"][1], share_told(-LOGITS, y))


def test_a_weight_of_zero_leaves_the_classes_of_fakes_out() -> None:
    task = bare_task(ac_weight_d=1.0, ac_weight_fake=0.0, ac_weight_g=1.0)
    micro = SimpleNamespace(y=torch.tensor([0, 1, 0]))
    terms = task.d_terms(micro, DOutput(torch.zeros(3), LOGITS), DOutput(torch.zeros(3), None))
    assert terms.keys() == {"class/d_real", "class/accuracy_real"}


# In a run


@pytest.mark.parametrize("head", CLASSIFIERS)
def test_two_steps_of_every_classifier(tmp_path: Path, head: str) -> None:
    loop = ac("--n_steps 2", tmp_path, head)
    assert isinstance(loop.task, ACGAN) and loop.step == 2
    assert all(bool(torch.isfinite(p).all()) for n in loop.task.networks.values() for p in n.parameters())
    logged = lines(tmp_path)[-1]
    assert {"class/d_real", "class/accuracy_real", "class/g", "class/accuracy_fake"} <= logged.keys()
    assert "class/d_fake" not in logged
    assert logged["class/d_real"] == pytest.approx(ln(10), rel=0.3)  # ten classes and no knowledge yet
    saved = json.loads((tmp_path / "a" / "config.json").read_text())
    weights = [saved[name] for name in ("ac_weight_d", "ac_weight_fake", "ac_weight_g")]
    assert weights == [1, 0, 1]


@pytest.mark.parametrize("head", ["projection", "concat"])
def test_other_ways_play_the_ordinary_game(tmp_path: Path, head: str) -> None:
    loop = ac("--n_steps 1", tmp_path, head)
    assert type(loop.task) is NoiseToImage
    assert not [name for name in lines(tmp_path)[-1] if name.startswith("class")]
    assert json.loads((tmp_path / "a" / "config.json").read_text())["ac_weight_d"] is None


def step_of(loop: Loop, step: int = 0) -> Inputs:
    """What the phases of a step are offered."""
    first = loop.schedule.images(step)
    draws = Draws(loop.shard, loop.device, loop.config.seed, loop.attempt, step, first=first)
    return loop.task.inputs(Micro(draws, step, 0))


@pytest.mark.parametrize("head", CLASSIFIERS)
@pytest.mark.parametrize("method", ["gan", "hinge", "rpgan"])
def test_losses_equal_their_sums_by_hand(tmp_path: Path, float64: None, head: str, method: str) -> None:
    """The method's loss on the logits plus each cross entropy with its weight, for D and for G."""
    bare = "--norm_d none --norm_g none --lr 0 --n_steps 1"
    loop = ac(f"{bare} --method {method} {WEIGHTS}", tmp_path, head)
    micro, row, table = step_of(loop), lines(tmp_path)[-1], METHODS[method]
    x_real, y = micro.real
    G, D = loop.task.G, loop.task.D
    real, fake = D(x_real, y), D(G(micro.z, y), y)
    classes = {"real": F.cross_entropy(real.classes, y), "fake": F.cross_entropy(fake.classes, y)}
    loss_d, stats = loop.task.d_loss(micro)
    assert_close(loss_d, table.d(real.logit, fake.logit) + 2 * classes["real"] + 0.5 * classes["fake"])
    loss_g, _ = loop.task.g_loss(micro)
    assert_close(loss_g, table.g(real.logit, fake.logit) + 0.25 * classes["fake"])
    # what is logged: the game's own loss, and each term without its weight
    expected = {
        "loss/d": table.d(real.logit, fake.logit),
        "loss/g": table.g(real.logit, fake.logit),
        "class/d_real": classes["real"],
        "class/d_fake": classes["fake"],
        "class/g": classes["fake"],
        "class/accuracy_real": share_told(real.classes, y),
        "class/accuracy_fake": share_told(fake.classes, y),
        "d/real": real.logit.mean(),
        "d/fake": fake.logit.mean(),
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value.item(), rel=1e-9), name
    assert not any(value.requires_grad for value in stats.values())


def test_k_plus_1_is_one_cross_entropy_in_the_run(tmp_path: Path, float64: None) -> None:
    """At weight 1 D's loss is cross entropy over ten classes and one of fakes, whose logit is 0."""
    loop = ac("--norm_d none --norm_g none --lr 0 --n_steps 1", tmp_path, "k_plus_1")
    micro = step_of(loop)
    x_real, y = micro.real
    real, fake = (loop.task.D(x, y).classes for x in (x_real, loop.task.G(micro.z, y)))
    real, fake = (torch.cat([classes, torch.zeros(8, 1)], 1) for classes in (real, fake))
    expected = F.cross_entropy(real, y) + F.cross_entropy(fake, torch.full_like(y, 10))
    assert_close(loop.task.d_loss(micro)[0], expected)


def test_each_weight_moves_its_own_network(tmp_path: Path) -> None:
    """Gradient norms of one step, at three times one weight: of D by the first two, of G by the last."""
    norms = []
    for weight in ("d 1", "d 3", "fake 3", "g 3"):  # 1 is the default
        ac(f"--overwrite --lr 0 --n_steps 1 --ac_weight_{weight}", tmp_path)
        norms.append([lines(tmp_path)[-1][f"grad_norm/{side}"] for side in ("d", "g")])
    changed = [
        [value != pytest.approx(one, rel=1e-4) for value, one in zip(n, norms[0], strict=True)] for n in norms
    ]
    assert changed == [[False, False], [True, False], [True, False], [False, True]]


@pytest.mark.parametrize("head", CLASSIFIERS)
@pytest.mark.parametrize("penalty", ["gp", "r1"])
def test_penalties_see_the_logit_only(tmp_path: Path, float64: None, head: str, penalty: str) -> None:
    """A run's penalty equals that of the bare logit, written out, and no weight of classes changes it."""
    game = {"gp": "--method wgan-gp", "r1": "--r1_weight 1"}[penalty]
    values = []
    for weights in ("", "--ac_weight_d 9 --ac_weight_g 9"):
        loop = ac(f"--overwrite {game} --norm_g none --lr 0 --n_steps 1 {weights}", tmp_path, head)
        values.append(lines(tmp_path)[-1][f"penalty/{penalty}"])
    micro = step_of(loop)
    x_real, y = micro.real
    x_fake = loop.task.G(micro.z, y).detach()
    between = x_fake + micro.uniform("gp", (1, 1, 1)) * (x_real - x_fake)
    x = (between if penalty == "gp" else x_real).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loop.task.D(x, y).logit.sum(), x)
    norms = torch.stack([(g**2).sum().sqrt() for g in gradient])
    expected = {"gp": ((norms - 1) ** 2).mean(), "r1": (norms**2).mean() / 2}[penalty].item()
    assert values == [pytest.approx(expected, rel=1e-9)] * 2


@pytest.mark.parametrize(
    "flags", ["--method wgan-gp", "--r1_weight 1 --penalty_interval r1=2", "--r1_weight 1"]
)
def test_gradient_penalties_train_beside_classes(tmp_path: Path, flags: str) -> None:
    loop = ac(f"--n_steps 4 --ema {flags}", tmp_path)
    assert all(bool(torch.isfinite(p).all()) for n in loop.task.networks.values() for p in n.parameters())
    assert lines(tmp_path)[-1]["skipped_steps"] == 0


@pytest.mark.parametrize("head", CLASSIFIERS)
def test_classes_are_learnt(tmp_path: Path, head: str) -> None:
    """Two epochs from chance: D tells most digits, and many of G's are told as what was asked of it."""
    command = (
        "--condition_g cbn --batch_size 32 --n_steps 100 --lr 2e-3 --g_kwargs width=8 --d_kwargs width=8"
    )
    ac(command, tmp_path, head)
    rows = lines(tmp_path)
    assert rows[0]["class/accuracy_real"] < 0.3 and rows[0]["class/accuracy_fake"] < 0.3

    def at_the_end(name: str) -> float:
        return sum(row[name] for row in rows[-10:]) / 10

    assert at_the_end("class/accuracy_real") > 0.8 and at_the_end("class/d_real") < 0.8
    assert at_the_end("class/accuracy_fake") > 0.25


def test_who_can_classify() -> None:
    assert CLASSIFIERS == ["ac", "k_plus_1"]
    assert all(set(CLASSIFIERS) <= set(MODELS[model].conditions_d) for model in ("dcgan", "simple_cnn"))
