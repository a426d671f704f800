"""Games of two sides of pictures: losses by hand, the pool, penalties, augmentation, refusals, whole runs."""

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import softplus
from torch.testing import assert_close

import gan_pairs
from errors import UserError
from games import GAMES, game_of
from games.one_way import OneWay
from games.penalties import Penalties
from games.pool import Pool
from games.srgan import low_resolution
from games.task import Draws, Micro, Place
from games.translation import PairBatch, Translation
from generation.translator import Translator, load_translator
from images.batches import Shard
from losses import PENALTIES
from metrics.features import to_uint8
from metrics.lite0 import load_lite0
from modelling import MODELS as MODELS_TABLE
from modelling.layers import standing_statistics
from ops.rng import generator
from settings import TrainConfig
from settings.sections.loss import weight_name
from tests.running import differing, full, leaves, request, run, small, state, write_pairs
from tests.test_tools import refused
from training.run import train

BICUBIC = Image.Resampling.BICUBIC
SIZES = {"pix2pix": 16, "cyclegan": 16, "srgan": 32}
MODELS = list(SIZES)
PLAIN = [name for name, row in PENALTIES.items() if not {"z", "generate", "ws"} & set(row.asks)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pairs to train on and two to validate, of 24 px."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "noise")


def flags_of(model: str, pairs: Path, **of_g: object) -> str:
    """A narrow one of the model, at its least size, on the pairs."""
    return f"{small(model, **of_g)} --data {pairs} --img_size {SIZES[model]}"


@pytest.fixture(scope="module")
def play(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Translation]:
    """(model, flags) -> the game, built as a run builds it."""
    folder = tmp_path_factory.mktemp("games")

    def made(model: str, flags: str = "", shard: Shard | None = None) -> Translation:
        config = request(full(f"{flags_of(model, pairs)} --batch_size 4 {flags}", folder)).config()
        row = game_of(config)
        row.refuse_unfit(config)
        config = row.looked_at(config, None, fresh=False)
        shard = Shard(config.batch_size, accumulate=config.accumulate) if shard is None else shard
        return row(config, Place(torch.device("cpu"), shard), row.load(config, True), {})

    return made


def micro(batch_size: int, step: int = 0, j: int = 0, **shard: int) -> Micro:
    """A micro-batch of a step."""
    share = Shard(batch_size, **shard)
    return Micro(Draws(share, torch.device("cpu"), 0, 0, step, first=step * batch_size), step, j)


def inputs(task: Translation, step: int = 0) -> PairBatch:
    return task.inputs(micro(task.config.batch_size, step, accumulate=task.config.accumulate))


def phase(task: Translation, name: str, sides: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and logged values of a phase."""
    (found,) = [p for p in task.phases if p.name == name]
    return found.loss(sides)


# -- losses by hand --------------------------------------------------------------------------------------------------

# Of logits of reals and fakes: half of D's sum, all of G's. arXiv:1611.07004 section 3.3, arXiv:1703.10593 section 4
HAND: dict[str, tuple[Callable, Callable]] = {
    "gan": (
        lambda real, fake: (softplus(-real).mean() + softplus(fake).mean()) / 2,
        lambda real, fake: softplus(-fake).mean(),
    ),
    "lsgan": (
        lambda real, fake: ((real - 1).square().mean() + fake.square().mean()) / 2,
        lambda real, fake: (fake - 1).square().mean(),
    ),
    "hinge": (
        lambda real, fake: (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2,
        lambda real, fake: -fake.mean(),
    ),
    "ragan": (
        lambda real, fake: (softplus(fake.mean() - real).mean() + softplus(fake - real.mean()).mean()) / 2,
        lambda real, fake: softplus(real.mean() - fake).mean() + softplus(real - fake.mean()).mean(),
    ),
}


@pytest.mark.parametrize("method", HAND)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_pix2pix_by_hand(play: Callable, method: str, accumulate: int) -> None:
    """D sees picture and source; G's L1 counts 100 times unless told otherwise."""
    of_d, of_g = HAND[method]
    for weights, (adversarial, l1) in (
        ("", (1, 100)),
        ("--term_weights l1=7 adversarial=3", (3, 7)),
    ):
        task = play("pix2pix", f"--method {method} --accumulate {accumulate} {weights}")
        sides, G, D = inputs(task), task.networks["G"], task.networks["D"]
        a, b = sides.real["a"], sides.real["b"]
        assert_close(a, -b)  # partners, which write_pairs made so
        fake = G(a)
        d_real, d_fake = D(b, a), D(fake, a)
        loss, stats = phase(task, "d", sides)
        assert_close(loss, of_d(d_real, d_fake))
        assert_close(stats["loss/d"], loss.detach())
        loss, stats = phase(task, "g", sides)
        assert_close(stats["l1"], (fake - b).abs().mean().detach())
        assert_close(stats["loss/g"], of_g(d_real, d_fake).detach())
        assert_close(loss, adversarial * of_g(d_real, d_fake) + l1 * (fake - b).abs().mean())
        (own,) = torch.autograd.grad(of_d(d_real, d_fake), D.to_logits.bias, retain_graph=True)
        (given,) = torch.autograd.grad(phase(task, "d", inputs(task))[0], D.to_logits.bias)
        assert_close(given, own)


@pytest.mark.parametrize("method", HAND)
@pytest.mark.parametrize(
    ("weights", "adversarial", "cycled", "identity"),
    [("", 1, 10, 5), ("--term_weights adversarial=3 cycle=2 identity=0", 3, 2, 0)],
)
def test_cyclegan_by_hand(
    play: Callable, method: str, weights: str, adversarial: float, cycled: float, identity: float
) -> None:
    """Two games, ways back 10 times both, pictures that stay as they are 5 times both."""
    of_d, of_g = HAND[method]
    task = play("cyclegan", f"--method {method} --pool_size 0 {weights}")
    sides, nets = inputs(task), task.networks
    a, b = sides.real["a"], sides.real["b"]
    assert not torch.equal(a, -b)  # no partners
    fake_b, fake_a = nets["G_AB"](a), nets["G_BA"](b)
    cycle = (nets["G_BA"](fake_b) - a).abs().mean() + (nets["G_AB"](fake_a) - b).abs().mean()
    same = (nets["G_AB"](b) - b).abs().mean() + (nets["G_BA"](a) - a).abs().mean()
    fooling = of_g(nets["D_B"](b), nets["D_B"](fake_b)) + of_g(nets["D_A"](a), nets["D_A"](fake_a))
    loss, stats = phase(task, "g", sides)
    assert_close(loss, adversarial * fooling + cycled * cycle + identity * same)
    assert_close(stats["loss/g"], fooling.detach())
    assert ("identity" in stats) == bool(identity)
    loss, stats = phase(task, "d", sides)
    halves = [of_d(nets["D_A"](a), nets["D_A"](fake_a)), of_d(nets["D_B"](b), nets["D_B"](fake_b))]
    assert_close(loss, halves[0] + halves[1])
    assert_close(stats["loss/d"], loss.detach())
    assert not any(sides.fake[side].requires_grad for side in ("a", "b", "a/shown", "b/shown"))


def test_cyclegans_d_sees_earlier_fakes(play: Callable) -> None:
    """A pool of 6: the fakes themselves for one step and a half, then some of before; the same for every phase."""
    task = play("cyclegan", "--pool_size 6 --penalty r2 --penalty_interval r2=1 --norm_d none")
    before: dict[str, list[Tensor]] = {"a": [], "b": []}
    old = Counter()
    for step in range(6):
        sides = inputs(task, step)
        phase(task, "g", sides)
        for name, side in (("D_A", "a"), ("D_B", "b")):
            shown = task.fakes_for_d(name, sides)
            assert task.fakes_for_d(name, sides) is shown
            for fake, seen in zip(sides.fake[side], shown, strict=True):
                if not torch.equal(fake, seen):
                    old[side] += 1
                    assert any(torch.equal(seen, x) for x in before[side])
                before[side].append(fake)
        assert step > 0 or not old
        loss, _ = phase(task, "d", sides)
        assert loss.isfinite()
    assert all(2 <= old[side] <= 16 for side in "ab")
    pool = task.state_dict()["pool"]
    for side in "ab":
        kept = pool[f"D_{side.upper()}"]
        assert kept["n"] == 6 and all(any(torch.equal(x, y) for y in before[side]) for x in kept["images"])


def test_srgan_by_hand(play: Callable) -> None:
    """0.005 of the game, L1, and a tenth of the mean distance of the maps of three sizes."""
    task = play("srgan", "--factor 2")
    sides, G, D = inputs(task), task.networks["G"], task.networks["D"]
    small_one, b = sides.real["a"], sides.real["b"]
    assert small_one.shape[2:] == (16, 16)
    assert_close(small_one, low_resolution(b, 2))
    fake = G(small_one)
    d_real, d_fake = D(b), D(fake)
    lite0 = load_lite0().module.network
    of_maps = [(x - y).abs().mean() for x, y in zip(lite0.maps(fake), lite0.maps(b), strict=True)][:3]
    loss, _ = phase(task, "d", sides)
    assert_close(loss, HAND["gan"][0](d_real, d_fake))
    loss, stats = phase(task, "g", sides)
    features = sum(of_maps) / 3
    assert_close(stats["features"], features.detach())
    assert_close(loss, 0.005 * softplus(-d_fake).mean() + (fake - b).abs().mean() + 0.1 * features)
    (by_pixels,) = torch.autograd.grad(loss, G.to_image.weight)
    assert by_pixels.isfinite().all() and by_pixels.any()


def test_g_alone_is_a_game_without_d(play: Callable, pairs: Path, tmp_path: Path) -> None:
    """Where fooling weighs nothing L1 is all of the loss, D stays as it began, and the run resumes."""
    flags = "--term_weights adversarial=0 features=0 --penalty r1 --penalty_interval r1=2"
    task = play("srgan", f"--factor 2 {flags}")
    sides = inputs(task)
    assert [p.name for p in task.phases] == ["g"]
    loss, stats = phase(task, "g", sides)
    assert "features" not in stats and stats["loss/g"] == 0
    assert_close(loss, (task.networks["G"](sides.real["a"]) - sides.real["b"]).abs().mean())
    flags = f"{flags_of('srgan', pairs)} --batch_size 2 {flags} --norm_g none"
    assert call(f"{flags} --log_name whole --n_steps 4", tmp_path) == 0
    assert call(f"{flags} --log_name part --n_steps 2", tmp_path) == 0
    assert call("--log_name part --resume --n_steps 4", tmp_path) == 0
    saved, before = state(tmp_path, "whole", 4), state(tmp_path, "part", 2)
    assert differing(saved, state(tmp_path, "part", 4)) == []
    assert differing(saved, before, ("networks",)) != []
    assert not any(name.startswith("/D/") for name in differing(saved, before, ("networks",)))


def test_another_game_is_one_file_and_one_row(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class with a term of its own trains, is scored, resumes and translates as the others do."""

    class Squares(OneWay):
        """G is held to the target by squares; D sees pictures alone."""

        pairings = ("paired",)
        usual_terms = {"adversarial": 1.0, "squares": 5.0}
        unfit = (*OneWay.unfit, "factor")

        def content(self, x_fake: Tensor, x_real: Tensor) -> dict[str, Tensor]:
            return {"squares": F.mse_loss(x_fake, x_real)}

    monkeypatch.setitem(GAMES, "squares", Squares)
    monkeypatch.setitem(MODELS_TABLE, "squares", MODELS_TABLE["pix2pix"])
    flags = small("pix2pix").replace("pix2pix", "squares") + f" --data {pairs} --img_size 16 --batch_size 2"
    flags += " --eval_interval 2 --metrics l1 --r1_weight 1"
    assert call(f"{flags} --log_name whole --n_steps 4", tmp_path) == 0
    assert call(f"{flags} --log_name part --n_steps 2", tmp_path) == 0
    assert call("--log_name part --resume --n_steps 4", tmp_path) == 0
    assert differing(state(tmp_path, "whole", 4), state(tmp_path, "part", 4)) == []
    assert '"squares"' in (tmp_path / "whole" / "metrics.jsonl").read_text()
    x = torch.zeros(1, 3, 21, 16, dtype=torch.uint8)
    assert load_translator(tmp_path / "whole").translate(x).shape == x.shape


def test_low_resolution_is_pillows(pairs: Path) -> None:
    """Within a level of Pillow's bicubic reduction of each picture; whole levels."""
    with Image.open(pairs / "trainB" / "000.png") as picture:
        whole, reduced = (np.asarray(p, np.float32) for p in (picture, picture.resize((6, 6), BICUBIC)))
    x, wanted = (torch.from_numpy(pixels).permute(2, 0, 1) for pixels in (whole, reduced))
    found = low_resolution(x[None] / 127.5 - 1, 4)[0].add(1).mul(127.5)
    assert_close(found, found.round(), rtol=0, atol=1e-4)
    assert (found - wanted).abs().max() <= 1.01


@pytest.mark.parametrize(
    ("model", "flags", "n_g", "n_d"),
    [
        ("pix2pix", "", 1, 3),
        ("pix2pix", "--accumulate 2", 2, 3),
        ("pix2pix", "--r1_weight 1", 1, 3),
        ("srgan", "--term_weights features=0", 1, 3),
        ("cyclegan", "", 6, 6),
        ("cyclegan", "--term_weights identity=0", 4, 6),
        ("cyclegan", "--term_weights cycle=0", 4, 6),
        ("cyclegan", "--term_weights adversarial=0", 6, 0),
        ("pix2pix", "--term_weights adversarial=0", 1, 0),
    ],
)
def test_forwards_of_a_step(play: Callable, model: str, flags: str, n_g: int, n_d: int) -> None:
    """G makes a picture once for D and itself where they see one micro-batch, and R1 takes the loss's own forward."""
    task, calls = play(model, flags), Counter()
    for name, network in task.networks.items():
        network.register_forward_hook(lambda *_, kind=name[0]: calls.update(kind))
    sides = inputs(task)
    for found in task.phases:
        found.loss(sides)[0].backward()
    assert calls == Counter({"G": n_g, "D": n_d})


@pytest.mark.parametrize("model", MODELS)
def test_each_phase_moves_its_own_networks(play: Callable, model: str) -> None:
    """Its loss has a gradient by every parameter that it trains; d's has none by G."""
    task = play(model)
    sides, params = inputs(task), {n: list(net.parameters()) for n, net in task.networks.items()}
    for found in task.phases:
        trained = [p for name in found.trains for p in params[name]]
        loss, _ = found.loss(sides)
        grads = torch.autograd.grad(loss, [p for ps in params.values() for p in ps], allow_unused=True)
        by = {id(p): g for p, g in zip((p for ps in params.values() for p in ps), grads, strict=True)}
        assert all(by[id(p)] is not None for p in trained)
        if found.name == "d":
            assert all(by[id(p)] is None for name in task.averaged for p in params[name])


# -- the pool --------------------------------------------------------------------------------------------------------


def twin(size: int, fakes: list[int], draws: list[list[float]], pool: list[int]) -> list[int]:
    """Which fake D is shown in place of each, by Python alone; the pool is a list."""
    shown = []
    for fake, (swap, place) in zip(fakes, draws, strict=True):
        if size == 0:
            shown.append(fake)
        elif len(pool) < size:
            pool.append(fake)
            shown.append(fake)
        elif swap < 0.5:
            at = int(place * size)
            shown.append(pool[at])
            pool[at] = fake
        else:
            shown.append(fake)
    return shown


def numbered(first: int, n: int) -> Tensor:
    """Fakes that say their number."""
    return torch.arange(first, first + n, dtype=torch.float32).view(n, 1, 1, 1).expand(n, 2, 3, 3)


@pytest.mark.parametrize("size", [0, 1, 5, 8, 50])
@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_pool_against_its_twin(
    monkeypatch: pytest.MonkeyPatch, size: int, processes: int, accumulate: int
) -> None:
    """Every process has the same pool, and is shown its own part."""
    pools = [Pool(size, (2, 3, 3), torch.device("cpu")) for _ in range(processes)]
    known: list[int] = []
    n = 8 // accumulate
    for step in range(20):
        draws = torch.rand(8, 2, generator=generator(0, 0, step, "pool/b"))
        for j in range(accumulate):
            first = 8 * step + j * n
            wanted = twin(size, list(range(first, first + n)), draws[j * n : (j + 1) * n].tolist(), known)
            seen = []
            monkeypatch.setattr("games.pool.all_rows", lambda _, first=first: numbered(first, n))
            for r, pool in enumerate(pools):
                own = micro(8, step, j, n_processes=processes, process=r, accumulate=accumulate)
                fakes = numbered(first, n).chunk(processes)[r].clone().requires_grad_()
                shown = pool.exchanged(fakes, own, "b")
                assert not shown.requires_grad and shown.shape == fakes.shape
                seen += shown[:, 1, 2, 0].int().tolist()
            assert seen == wanted
            for pool in pools:
                assert pool.n == len(known)
                assert pool.images[: pool.n, 0, 0, 0].int().tolist() == known
                assert not pool.images[pool.n :].any()


def test_pool_exchanges_half_everywhere() -> None:
    pool = Pool(10, (1,), torch.device("cpu"))
    old, kept = 0, Counter()
    for step in range(200):
        fakes = torch.arange(10.0).view(10, 1) + 10 * step
        shown = pool.exchanged(fakes, micro(10, step), "a")
        old += int((shown != fakes).sum())
        kept.update((pool.images[:, 0] >= 10 * step).nonzero().flatten().tolist())
    assert (
        900 < old < 1090
    )  # a half of 1990: 3 standard deviations are 67; one exchanged twice in a step is new
    assert len(kept) == 10 and min(kept.values()) > 50


def test_pool_keeps_nothing_that_is_not_finite() -> None:
    """Nor does a spoilt step move what stands there."""
    pool = Pool(4, (1,), torch.device("cpu"))
    for step in range(30):
        fakes = torch.arange(1.0, 5).view(4, 1) + 4 * step
        if step % 3 == 0:
            fakes[random.Random(step).randrange(4)] = float("nan") if step % 2 else float("inf")
        shown = pool.exchanged(fakes, micro(4, step), "a")
        assert pool.images.isfinite().all()
        assert all(not x.isnan().any() or i in fakes.isnan().nonzero()[:, 0] for i, x in enumerate(shown))
    again = Pool(4, (1,), torch.device("cpu"))
    again.load_state_dict(pool.state_dict())
    assert again.n == pool.n == 4 and torch.equal(again.images, pool.images)
    again.images.zero_()
    assert pool.images.any()


# -- penalties and augmentation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_every_penalty_moves_its_network(play: Callable, model: str) -> None:
    """Each step and lazily: a finite value, and another gradient than without."""
    assert len(PLAIN) == 13

    def moved(task: Translation, side: str) -> list[Tensor]:
        sides, lazy = inputs(task), any(p.interval > 1 for p in task.phases)
        found = {p.name: p.loss(sides) for p in task.phases}
        stats = {key: value for _, of_one in found.values() for key, value in of_one.items()}
        values.append({k: v for k, v in stats.items() if k.startswith("penalty/")})
        params = [
            p for n in (task.judges if side == "d" else task.averaged) for p in task.networks[n].parameters()
        ]
        losses = [loss for name, (loss, _) in found.items() if not lazy or name not in "dg"]
        return torch.autograd.grad(sum(losses), params, allow_unused=True)

    for name in PLAIN:
        values: list[dict[str, Tensor]] = []
        side, weight = PENALTIES[name].side, f"--{weight_name(name)} 10"
        n_networks = 2 if model == "cyclegan" else 1
        norm = "--norm_d none " if PENALTIES[name].gradient else ""
        norm += "--term_weights features=0" if model == "srgan" else ""
        without = moved(play(model, norm), side)
        active = moved(play(model, f"{norm} {weight} --penalty_interval {name}=1"), side)
        lazy = moved(play(model, f"{norm} {weight} --penalty_interval {name}=2"), side)
        phases = [
            p for p in play(model, f"{norm} {weight} --penalty_interval {name}=2").phases if p.interval > 1
        ]
        assert [p.interval for p in phases] == [2] * n_networks and phases[0].due(3) and not phases[0].due(4)
        assert not values[0] and len(values[1]) == len(values[2]) == n_networks, name
        assert all(v.isfinite() and v != 0 for held in values[1:] for v in held.values()), name
        differs = [a is not None and not torch.equal(a, w) for a, w in zip(active, without, strict=True)]
        assert sum(differs) >= n_networks, name
        by_weight = [g for g in lazy if g is not None and g.any()]
        assert len(by_weight) >= n_networks and all(g.isfinite().all() for g in by_weight), name


@pytest.mark.parametrize("model", ["pix2pix", "cyclegan"])
def test_r1_is_of_the_picture_as_it_is(play: Callable, model: str) -> None:
    """Its gradient goes through the augmentation to the picture alone, not to its source."""
    task = play(model, "--penalty r1 --augment translation")
    sides = inputs(task)
    name = "D" if model == "pix2pix" else "D_B"
    x = sides.real["b"].clone().requires_grad_()
    d_real = task.judge(name, sides, "d-real", x, sides.real["a"])
    (grad,) = torch.autograd.grad(d_real.sum(), x)
    wanted = grad.square().flatten(1).sum(1).mean() / 2
    assert wanted > 0 and (grad == 0).all(1).flatten(1).any()  # what was moved out counts for nothing
    _, stats = phase(task, "d", sides)
    assert_close(stats["penalty/r1" + ("" if name == "D" else "_d_b")], wanted)


@pytest.mark.parametrize("model", ["pix2pix", "cyclegan"])
def test_penalties_see_augmented_pictures(play: Callable, model: str) -> None:
    """R2's own forward is of pictures as D sees them, with draws of its own."""
    task = play(model, "--penalty r2 --augment translation cutout")  # a pool of 50 shows the fakes themselves
    sides, name = inputs(task), "D" if model == "pix2pix" else "D_B"
    _, stats = phase(task, "d", sides)
    x = task.fakes_for_d(name, sides).clone().requires_grad_()
    (grad,) = torch.autograd.grad(task.judge(name, sides, "penalty", x, sides.real["a"]).sum(), x)
    assert (grad == 0).all(1).flatten(1).any()
    found = stats["penalty/r2" + ("" if name == "D" else "_d_b")]
    assert_close(found, grad.square().flatten(1).sum(1).mean() / 2)


@pytest.mark.parametrize("model", ["pix2pix", "cyclegan"])
def test_adas_strength_follows_each_d(play: Callable, model: str) -> None:
    """By the mean sign of its logits of reals over the micro-batches: up by 4 images of 100 where all are known."""
    task = play(model, "--augment ada --ada_p 0.5 --ada_kimg 0.1 --ada_interval 1 --accumulate 2")
    with torch.no_grad():
        for name in task.judges:
            task.networks[name].to_logits.bias.fill_(100)  # real, whatever it sees
    for j in range(2):
        phase(task, "d", task.inputs(micro(4, 0, j, accumulate=2)))
    assert all(float(augmenter.signs) == 1 for augmenter in task.augmenters.values())
    task.end_step(0)
    assert all(float(a.p) == pytest.approx(0.5 + 4 / 100) for a in task.augmenters.values())


class Compare(nn.Module):
    """A D that sees how a picture differs from its source."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        self.seen.append(x.detach())
        return self.weight * (x - source).abs().flatten(1).mean(1)


def comparing(task: Translation) -> Compare:
    """The D of a game of pix2pix from now on."""
    task.networks["D"] = task.forwards["D"] = found = Compare()
    return found


@pytest.mark.parametrize("penalty", ["cr", "bcr"])
def test_consistency_moves_picture_and_source_alike(play: Callable, penalty: str) -> None:
    """Of a picture that is its own source nothing comes, however both are moved; of another something does."""
    task = play("pix2pix", f"--penalty {penalty} --norm_d none")
    D, sides = comparing(task), inputs(task)
    a = sides.real["a"]
    ((_, value),) = task.penalty_terms([penalty], "D", sides, a, a).values()
    assert value == 0 and not torch.equal(D.seen[0], D.seen[1])
    ((_, value),) = task.penalty_terms([penalty], "D", sides, sides.real["b"], a).values()
    assert value > 0


def test_consistency_compares_under_one_augmentation(play: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is moved nothing is left: both logits are of the same draws, and not the loss's own."""
    monkeypatch.setattr("losses.mirrored_and_shifted", lambda x, u: x)
    for model in ("pix2pix", "cyclegan"):
        task = play(model, "--penalty bcr --augment translation cutout")
        _, stats = phase(task, "d", inputs(task))
        found = [value for name, value in stats.items() if name.startswith("penalty/")]
        assert found and not any(found)


@pytest.mark.parametrize(
    "how", ["translation", "cutout", "ada --ada_p 1", "translation cutout ada --ada_p 0.8"]
)
def test_augmentation_moves_picture_and_source_alike(play: Callable, how: str) -> None:
    task = play("pix2pix", f"--augment {how}")
    D, sides = comparing(task), inputs(task)
    a = sides.real["a"]
    for purpose in ("d-real", "d-fake", "g-fake"):
        assert_close(task.judge("D", sides, purpose, a, a), torch.zeros(4))
    assert not any(torch.equal(x, a) for x in D.seen)
    assert not torch.equal(D.seen[0], D.seen[1])  # draws of their own
    task.end_step(3)
    assert ("augment/p/d" in task.stats(3)) == ("ada" in how)


def test_running_means_are_of_each_network(play: Callable) -> None:
    task = play("cyclegan", "--penalty lecam")
    phase(task, "d", inputs(task))
    means = [float(v) for name in ("D_A", "D_B") for v in task.penalties[name].means.values()]
    assert len({*means}) == 4 and 0 not in means
    assert not task.penalties["G_AB"].means and isinstance(task.penalties["D_A"], Penalties)
    assert task.state_dict()["penalties"]["D_A"].keys() == {"lecam_real", "lecam_fake"}


# -- refusals --------------------------------------------------------------------------------------------------------

REFUSED = [
    ("pix2pix", "--conditional", "pix2pix sees no labels"),
    ("pix2pix", "--z_dim 8", "--z_dim: pix2pix does not know it; leave the flag out"),
    ("pix2pix", "--term_weights cycle=1", "--term_weights cycle: the terms of pix2pix are adversarial, l1"),
    ("cyclegan", "--term_weights l1=1", "the terms of cyclegan are adversarial, cycle, identity"),
    ("pix2pix", "--term_weights l1=-1", "--term_weights l1 -1.0 must be a number of at least 0"),
    ("pix2pix", "--term_weights adversarial=0 l1=0", "--term_weights: all terms weigh 0"),
    ("pix2pix", "--pairing unpaired", "--pairing unpaired: pix2pix takes paired, grey; leave the flag out"),
    ("cyclegan", "--pairing grey", "--pairing grey: cyclegan takes unpaired, paired"),
    (
        "pix2pix",
        "--pairing grey --direction BtoA",
        "--direction BtoA: the grey of a picture needs no network",
    ),
    ("cyclegan", "--direction BtoA", "--direction: cyclegan learns both"),
    ("pix2pix", "--img_size 18", "the nearest is --img_size 20"),
    ("cyclegan", "--img_size 22", "the nearest is --img_size 24"),
    ("srgan", "--factor 4 --img_size 30", "the nearest is --img_size 32"),
    ("srgan", "--factor 3", "factor of srgan"),
    ("pix2pix", "--load_size 12", "--load_size 12 must be at least 16"),
    ("pix2pix", "--factor 2", "--factor: pix2pix makes pictures as large as those it is given"),
    ("pix2pix", "--pool_size 5", "--pool_size: pix2pix does not know it"),
    ("srgan", "--direction BtoA", "--direction: srgan does not know it"),
    (
        "srgan",
        "--g_kwargs factor=2 --factor 2",
        "--factor and --g_kwargs factor= are the same setting: give one",
    ),
    ("pix2pix", "--augment color", "--augment color would colour a picture and its source alike"),
    ("pix2pix", "--penalty zcr_d", "--penalty zcr_d moves latents, and pix2pix has none; leave it out"),
    ("cyclegan", "--penalty zcr_g", "--penalty zcr_g moves latents, and cyclegan has none"),
    ("srgan", "--penalty path_length", "have styles, not srgan"),
    ("cyclegan", "--source_channels 1", "--term_weights identity=0, or --source_channels 3"),
    ("pix2pix", "--split test", "--split"),
]


@pytest.mark.parametrize(("model", "flags", "why"), REFUSED, ids=[f"{m} {f}" for m, f, _ in REFUSED])
def test_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], pairs: Path, tmp_path: Path, model: str, flags: str, why: str
) -> None:
    given = f"{flags_of(model, pairs)} --loggers --n_steps 1 --runs_dir {tmp_path}"
    if "--g_kwargs" in flags:
        given = given.replace("--g_kwargs", "--g_kwargs factor=2")
        flags = flags.replace("--g_kwargs factor=2 ", "")
    assert why in refused(capsys, gan_pairs.main, *given.split(), *flags.split())
    assert not [*tmp_path.iterdir()]


def test_data_that_are_no_pairs_are_refused(
    capsys: pytest.CaptureFixture[str], pairs: Path, tmp_path: Path
) -> None:
    given = f"{small('pix2pix')} --img_size 16 --loggers --n_steps 1 --runs_dir {tmp_path / 'runs'}".split()
    assert "name them with --data" in refused(capsys, gan_pairs.main, *given)
    lonely = write_pairs(tmp_path / "lonely", n=3)
    (lonely / "trainB" / "001.png").unlink()
    assert "1 of 5 pictures of A have no partner in B: trainA/001.png" in refused(
        capsys, gan_pairs.main, *given, "--data", lonely
    )
    for file in [*(lonely / "trainB").iterdir(), *(lonely / "valB").iterdir()]:
        file.unlink()
    assert "none of side B" in refused(capsys, gan_pairs.main, *given, "--data", lonely)
    assert "--data_b is side B: name side A with --data" in refused(
        capsys, gan_pairs.main, *given, "--data_b", pairs
    )
    assert not (tmp_path / "runs").exists()


def test_channels_that_do_not_fit_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Known by a look at the pictures alone, before any is decoded."""
    np.save(tmp_path / "four.npy", np.zeros((5, 32, 32, 4), dtype=np.uint8))
    given = f"{small('srgan')} --img_size 32 --loggers --n_steps 1 --data {tmp_path}/four.npy --batch_size 2"
    given = [*given.split(), "--runs_dir", str(tmp_path / "runs")]
    why = "features are read of 1 or 3 channels, not 4; --term_weights features=0 does without"
    assert why in refused(capsys, gan_pairs.main, *given)
    assert not (tmp_path / "runs").exists()
    assert gan_pairs.main([*given, "--term_weights", "features=0"]) == 0


def test_own_networks_and_images_are_refused(pairs: Path, tmp_path: Path) -> None:
    settings = {"model": "pix2pix", "img_size": 16, "n_steps": 1, "runs_dir": str(tmp_path), "loggers": ()}
    with pytest.raises(UserError, match="G, D: pix2pix builds its own networks for pictures that data names"):
        train(TrainConfig(**settings, data=str(pairs)), G=Compare(), D=Compare())
    with pytest.raises(UserError, match="data"):
        train(TrainConfig(**settings), images=torch.zeros(9, 3, 16, 16, dtype=torch.uint8))
    assert not [*tmp_path.iterdir()]


# -- whole runs ------------------------------------------------------------------------------------------------------


def call(command: str, folder: Path) -> int:
    return gan_pairs.main(f"{command} --runs_dir {folder} --loggers --device cpu".split())


def assert_alike(x: Tensor, y: Tensor) -> None:
    """uint8 pictures that differ by rounding alone."""
    assert_close(x.int(), y.int(), rtol=0, atol=1)


def own_picture(saved: dict, network: str, found: Translator, direction: str, x: Tensor) -> Tensor:
    """What the network of a checkpoint makes of uint8 pictures."""
    G = type(found.network(direction))(**found.about["translates"][direction]["build"]).eval()
    G.load_state_dict(saved["networks"][network])
    with torch.no_grad():
        return to_uint8(G(x / 127.5 - 1))


# Rows and columns of the previews: (pictures, rows); 16 px a picture, of srgan 32
SHOWN = {"pix2pix": 3, "cyclegan": 6, "srgan": 4}


@pytest.mark.parametrize("model", MODELS)
def test_a_run_from_the_command_line(pairs: Path, tmp_path: Path, model: str) -> None:
    """Pictures, scores, the best checkpoint, averages, generator/; gone on with, it is as if never stopped."""
    pairing, norm = ("--pairing paired" if model == "cyclegan" else ""), "--norm_g none"
    flags = (
        f"{flags_of(model, pairs)} --batch_size 2 --sample_interval 2 --eval_interval 1 {pairing} {norm} "
        "--metrics psnr l1 ssim --log_interval 1 --pool_size 3 --lr 1e-3"
    )
    if model != "cyclegan":
        flags = flags.replace("--pool_size 3", "")
    assert call(f"{flags} --log_name whole --n_steps 4 --checkpoint_interval 4", tmp_path) == 0
    assert call(f"{flags} --log_name part --n_steps 2", tmp_path) == 0
    assert call("--log_name part --resume --n_steps 4", tmp_path) == 0
    saved = state(tmp_path, "whole", 4)
    assert differing(saved, state(tmp_path, "part", 4)) == []

    folder, ways = tmp_path / "whole", ["AtoB", "BtoA"] if model == "cyclegan" else ["AtoB"]
    names = {f"step-{step:08d}-{which}.png" for step in (0, 2, 4) for which in ("ema", "raw")}
    assert {file.name for file in (folder / "samples").iterdir()} == names | {"real.png"}
    sizes = {}
    for name in (*sorted(names), "real.png"):
        with Image.open(folder / "samples" / name) as picture:
            sizes[name] = picture.size
    width, height = sizes[sorted(names)[0]]
    assert len({sizes[name] for name in names}) == 1
    assert width >= 2 * SIZES[model] and height >= SHOWN[model] * SIZES[model]
    assert sizes["real.png"][0] >= 8 * SIZES[model] and sizes["real.png"][1] >= 2 * SIZES[model]

    lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    scores = [name + back for back in ("", " BtoA")[: len(ways)] for name in ("psnr", "l1", "ssim")]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert [k for k in line if k not in ("step", "protocol", "date")] == scores
        assert line["protocol"]["best_by"] == ["psnr", "high"] and line["protocol"]["weights"] == "ema"
    best = max(lines, key=lambda line: line["psnr"])["step"]
    assert (folder / "checkpoints" / f"step-{best:08d}.pt").is_file()

    found = load_translator(folder, weights="raw")
    assert list(found.directions) == ways and found.about["step"] == 4
    averaged = ["G_AB", "G_BA"] if model == "cyclegan" else ["G"]
    for direction, network in zip(ways, averaged, strict=True):
        side = SIZES[model] // found.network(direction).factor
        x = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
        made = found.translate(x, direction)
        assert_alike(made, own_picture(saved, network, found, direction, x))
        assert made.shape == (2, 3, SIZES[model], SIZES[model])
    ema = load_translator(folder)
    assert ema.about["chosen"] == "ema"
    for direction, network in zip(ways, averaged, strict=True):
        prefix = f"{network}." if len(averaged) == 2 else ""
        held, raw = ema.network(direction).state_dict(), found.network(direction).state_dict()
        assert all(torch.equal(v, saved["ema"]["ema"][prefix + k]) for k, v in held.items())
        assert any(not torch.equal(v, raw[k]) for k, v in held.items())


def test_unpaired_sides_are_scored_as_sets(pairs: Path, tmp_path: Path) -> None:
    flags = f"{flags_of('cyclegan', pairs)} --batch_size 2 --eval_interval 1 --extractor digits-cnn"
    assert call(f"{flags} --log_name a --n_steps 1 --img_channels 1 --source_channels 1", tmp_path) == 0
    (line,) = [json.loads(text) for text in (tmp_path / "a" / "scores.jsonl").read_text().splitlines()]
    assert [k for k in line if k not in ("step", "protocol", "date")] == [
        "fid[digits-cnn]",
        "fid[digits-cnn] BtoA",
    ]


def test_a_dry_run_leaves_nothing(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = f"{flags_of('cyclegan', pairs)} --batch_size 2 --n_steps 50 --dry_run"
    assert call(f"{flags} --log_name a", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "dry run: nothing was kept" in printed and "for 50 steps" in printed
    assert not [*tmp_path.iterdir()]


def test_directions_are_each_others_mirror(play: Callable) -> None:
    """What is A in one is B in the other; grey makes its own source; alone has none."""
    there, back = inputs(play("pix2pix")), inputs(play("pix2pix", "--direction BtoA"))
    assert torch.equal(there.real["a"], back.real["b"]) and torch.equal(there.real["b"], back.real["a"])
    grey = inputs(play("pix2pix", "--pairing grey"))
    r, g, b = grey.real["b"].add(1).mul(127.5).round().unbind(1)
    wanted = (0.299 * r + 0.587 * g + 0.114 * b)[:, None]
    assert_close(grey.real["a"].add(1).mul(127.5), wanted, rtol=0, atol=0.51)


@pytest.mark.parametrize(("flags", "channels"), [("--pairing grey", 1), ("--direction BtoA", 3)])
def test_other_sources_reach_the_generator(pairs: Path, tmp_path: Path, flags: str, channels: int) -> None:
    loop = run(f"{flags_of('pix2pix', pairs)} --log_name a --batch_size 2 --n_steps 1 {flags}", tmp_path)
    found = load_translator(tmp_path / "a")
    assert found.directions == (("BtoA",) if "BtoA" in flags else ("AtoB",))
    x = torch.randint(0, 256, (2, channels, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        wanted = to_uint8(loop.task.networks["G"].eval()(x / 127.5 - 1))
    assert_alike(found.translate(x), wanted)
    assert wanted.shape == (2, 3, 16, 16)


@pytest.mark.parametrize("model", MODELS)
def test_half_precision(pairs: Path, tmp_path: Path, model: str) -> None:
    """bf16 rounds what is learnt; penalties stay finite, in full precision."""
    ends = {}
    for precision in ("no", "bf16"):
        run(
            f"{flags_of(model, pairs)} --log_name {precision} --mixed_precision {precision} --batch_size 2 --n_steps 2 "
            "--log_interval 1 --penalty r1 lecam",
            tmp_path,
            sampled=False,
        )
        ends[precision] = leaves(state(tmp_path, precision, 2)["networks"])
        lines = (tmp_path / precision / "metrics.jsonl").read_text().splitlines()
        values = json.loads(lines[-1])
        assert values["skipped_steps"] == 0
        assert sum(k.startswith("penalty/") for k in values) == (4 if model == "cyclegan" else 2)
        assert all(v is not None and abs(v) < 1e4 for v in values.values())
    same = [torch.equal(v, ends["no"][k]) for k, v in ends["bf16"].items()]
    assert not any(v.dtype == torch.bfloat16 for v in ends["bf16"].values()) and not all(same)


@pytest.mark.parametrize("model", MODELS)
def test_standing_statistics_make_pictures_independent(pairs: Path, tmp_path: Path, model: str) -> None:
    """Batch norm measured by training pictures: one is translated alike alone and among others; not as in training."""
    loop = run(
        f"{flags_of(model, pairs)} --log_name a --batch_size 4 --n_steps 2 --norm_g batch --lr 1e-2 --ema",
        tmp_path,
    )
    found = load_translator(tmp_path / "a")
    G = found.network()
    side = SIZES[model] // G.factor
    x = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    together, alone = found.translate(x), torch.cat([found.translate(x[i : i + 1]) for i in range(3)])
    assert_alike(together, alone)
    with torch.no_grad():
        assert_alike(to_uint8(G(x / 127.5 - 1)), together)
        statistics = {k: v for k, v in G.state_dict().items() if k.endswith(("running_mean", "running_var"))}
    name = "G_AB" if model == "cyclegan" else "G"
    own = copy.deepcopy(loop.emas["ema"][0].module)
    own = own[name] if model == "cyclegan" else own
    kept = {k: v.clone() for k, v in own.state_dict().items() if k in statistics}
    assert statistics and any(not torch.equal(v, kept[k]) for k, v in statistics.items())
    every = Shard(len(loop.task.data.train))
    a, _ = loop.task.both(*loop.task.batches.micro(0, 0, every))
    standing_statistics(own, a.split(4))
    assert_close({k: own.state_dict()[k] for k in statistics}, statistics)


def test_a_run_starts_from_another(pairs: Path, tmp_path: Path) -> None:
    """--init_from: both generators and both D's, by their names."""
    flags = f"{flags_of('cyclegan', pairs)} --batch_size 2 --n_steps 1"
    run(f"{flags} --log_name first", tmp_path)
    run(
        f"{flags} --log_name second --lr 0 --seed 9 --init_from {tmp_path / 'first'}", tmp_path, sampled=False
    )
    one, other = (leaves(state(tmp_path, name, 1)["networks"]) for name in ("first", "second"))
    assert all(torch.equal(v, other[k]) for k, v in one.items())


@pytest.mark.gpu
@pytest.mark.parametrize("model", MODELS)
def test_on_cuda(pairs: Path, tmp_path: Path, model: str) -> None:
    """bf16 for three steps; the first losses in float32 are the CPU's."""
    seen = {}
    for device in ("cpu", "cuda"):
        run(
            f"{flags_of(model, pairs)} --log_name {device} --device {device} --batch_size 4 --n_steps 1 --no-tf32 "
            "--log_interval 1 --penalty r1",
            tmp_path,
            sampled=False,
        )
        (line,) = (tmp_path / device / "metrics.jsonl").read_text().splitlines()
        seen[device] = {
            k: v for k, v in json.loads(line).items() if k.startswith(("loss/", "penalty/", "l1", "cycle"))
        }
    assert seen["cuda"] == pytest.approx(seen["cpu"], rel=1e-4, abs=1e-5)
    flags = "--device cuda --mixed_precision bf16 --batch_size 4 --n_steps 3 --penalty r1 lecam --ema"
    loop = run(f"{flags_of(model, pairs)} --log_name half {flags}", tmp_path)
    assert float(loop.skipped) == 0
    assert all(p.isfinite().all() for network in loop.task.networks.values() for p in network.parameters())
    found = load_translator(tmp_path / "half", device="cuda")
    side = SIZES[model] // found.network().factor
    made = found.translate(torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8))
    assert made.shape == (2, 3, SIZES[model], SIZES[model])
