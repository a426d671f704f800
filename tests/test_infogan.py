"""InfoGAN: codes made of latents, counts of both architectures, Q's terms on hand numbers, whom phases train."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from errors import UserError
from games import game_of
from games.infogan import InfoGAN, continuous_loss, information
from generation.generator import load_generator
from images.batches import Shard
from losses import METHODS
from modelling import build_discriminator, build_generator
from modelling.conditioning import DOutput
from modelling.infogan import ARCHITECTURES, Discriminator, Generator
from settings.command_line import parse_config
from tests.running import run, small, state
from tests.test_training import finite, lines, refused
from training.loop import Loop

COMMAND = f"--log_name a {small('infogan')} --log_interval 1"
JOINT = (
    "--log_name a --model infogan --img_size 32 --log_interval 1 --g_kwargs width=4 n_categories=3 prior=normal "
    "architecture=conv --d_kwargs width=4 n_categories=3 architecture=conv joint=true"
)
LN = math.log


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# Networks


def test_counts_of_the_papers_layers_by_hand() -> None:
    """28 px and 62 + 10 + 2 latents; two numbers a feature for a batch norm, no bias before it."""
    image = {"img_size": 28, "img_channels": 1}
    G, D = build_generator("infogan", z_dim=74, **image), build_discriminator("infogan", **image)
    maps = 7 * 7 * 128
    of_g = 74 * 1024 + 2 * 1024 + 1024 * maps + 2 * maps + 128 * 64 * 16 + 2 * 64 + 64 * 16 + 1
    trunk = 64 * 16 + 64 * 128 * 16 + 2 * 128 + maps * 1024 + 2 * 1024
    of_q = 1024 * 128 + 2 * 128 + 128 * 12 + 12
    assert n_parameters(G) == of_g
    assert n_parameters(D) == trunk + 1024 + 1 + of_q


def test_counts_of_the_convolutions_by_hand() -> None:
    """32 px and 100 + 10 + 2 latents, widths 64 * [4, 2, 1], no norm, biases throughout."""
    settings = {"img_size": 32, "img_channels": 1, "architecture": "conv", "norm": "none"}
    G = build_generator("infogan", z_dim=112, prior="normal", **settings)
    D = build_discriminator("infogan", **settings)
    of_g = 112 * 256 * 16 + 256 + 256 * 128 * 16 + 128 + 128 * 64 * 16 + 64 + 64 * 16 + 1
    of_d = 64 * 16 + 64 + 64 * 128 * 16 + 128 + 128 * 256 * 16 + 256 + 256 * 16 * (1 + 10 + 2) + 13
    assert (n_parameters(G), n_parameters(D)) == (of_g, of_d)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_both_architectures_learn_in_all_parameters(architecture: str, norm: str) -> None:
    torch.default_generator.manual_seed(0)
    settings = {"img_size": 32, "img_channels": 1, "width": 4, "architecture": architecture, "norm": norm}
    G, D = build_generator("infogan", z_dim=14, **settings), build_discriminator("infogan", **settings)
    logit, read = D(G(torch.randn(8, 14)))
    assert logit.shape == (8,) and read.shape == (8, 12)
    (logit.square().sum() + read.square().sum()).backward()
    for net in (G, D):
        assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == (norm == "batch")
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_logit_and_codes_share_the_trunk_alone() -> None:
    D = build_discriminator("infogan", img_size=8, img_channels=1, width=4)
    D(torch.randn(4, 1, 8, 8)).logit.sum().backward()
    assert all(p.grad is None for p in D.to_codes.parameters())
    assert all(p.grad is not None for p in D.trunk.parameters())


def generator(**settings: object) -> Generator:
    image = {"img_size": 8, "img_channels": 1, "z_dim": 20, "width": 4}
    return build_generator("infogan", **image | settings)


@pytest.mark.parametrize("prior", ["uniform", "normal"])
def test_codes_of_normals(prior: str) -> None:
    """Categories come up alike; uniform codes have variance 1/3 and the quantiles of their normals."""
    z = torch.randn(40_000, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise, category, continuous = generator(prior=prior).codes(z)
    assert noise.shape == (40_000, 8) and category.dtype == torch.int64 and continuous.shape == (40_000, 2)
    shares = torch.bincount(category, minlength=10) / len(z)
    assert shares.sum() == 1 and (shares - 0.1).abs().max() < 0.006  # four standard deviations
    assert torch.equal(category, z[:, 8:18].argmax(1))
    if prior == "normal":
        assert torch.equal(noise, z[:, :8]) and torch.equal(continuous, z[:, 18:])
        return
    for made, given in ((noise, z[:, :8]), (continuous, z[:, 18:])):
        assert made.abs().max() < 1
        assert_close(made, 2 * torch.special.ndtr(given) - 1)
        assert made.var().item() == pytest.approx(1 / 3, abs=0.01) and abs(made.mean()) < 0.02


def test_decoding_the_codes_is_the_image() -> None:
    G, z = generator().eval(), torch.randn(4, 20)
    noise, category, continuous = G.codes(z)
    assert torch.equal(G.decode(noise, category, continuous), G(z))
    other = G.decode(noise, (category + 1) % 10, continuous)
    assert (other != G(z)).flatten(1).any(1).all()
    assert (G.decode(noise, category, -continuous) != G(z)).flatten(1).any(1).all()
    scaled = z.clone()
    scaled[:, 8:18] *= 3  # entries of the category say which is largest, nothing else
    assert torch.equal(G(scaled), G(z))


def test_codes_may_be_categories_alone() -> None:
    G = generator(n_continuous=0, n_categories=4)
    noise, category, continuous = G.codes(torch.randn(5, 20))
    assert noise.shape == (5, 16) and continuous.shape == (5, 0) and category.max() < 4
    D = build_discriminator("infogan", img_size=8, img_channels=1, width=4, n_continuous=0, n_categories=4)
    assert D(G(torch.randn(5, 20))).classes.shape == (5, 4)


def test_sizes() -> None:
    assert generator(img_size=(12, 8))(torch.randn(3, 20)).shape == (3, 1, 12, 8)
    with pytest.raises(ValueError, match="sides that 4 divides, not 30: the nearest is img_size 32"):
        generator(img_size=30)
    with pytest.raises(
        ValueError, match="architecture conv makes .* and k = 3, not 28: the nearest is img_size 32"
    ):
        generator(img_size=28, architecture="conv")
    with pytest.raises(ValueError, match=r"z_dim 12 .* must be above n_categories 10 \+ n_continuous 2"):
        generator(z_dim=12)
    assert generator(z_dim=13).codes(torch.randn(2, 13))[0].shape == (2, 1)
    with pytest.raises(ValueError, match="unknown prior of infogan 'gauss': choose from uniform, normal"):
        generator(prior="gauss")


# Q's terms


def test_continuous_loss_by_hand() -> None:
    """Half of 1 + 4 and of 0 + 9, mean 7; the density's own logarithm less its constant."""
    mean, code = torch.tensor([[1.0, 0.0], [0.5, -1.0]]), torch.tensor([[0.0, 2.0], [0.5, 2.0]])
    assert continuous_loss(mean, code).item() == (5 / 2 + 9 / 2) / 2
    density = torch.distributions.Normal(mean, 1).log_prob(code).sum(1).mean()
    assert continuous_loss(mean, code).item() == pytest.approx(-density.item() - LN(2 * math.pi))
    # as for any two codes
    assert continuous_loss(mean, code).item() == nn.functional.mse_loss(mean, code).item()
    assert continuous_loss(torch.zeros(3, 0), torch.zeros(3, 0)).item() == 0


class Given:
    """A task's parts without networks: three categories, one code; z is (category entries, code)."""

    def __init__(self, joint: bool = False) -> None:
        self.task = InfoGAN.__new__(InfoGAN)
        self.task.D = SimpleNamespace(
            n_categories=3, n_continuous=1, category_weight=2.0, continuous_weight=0.1, joint=joint
        )
        self.task.G = SimpleNamespace(codes=lambda z: (None, z[:, :3].argmax(1), z[:, 3:]))
        self.batch = SimpleNamespace(z=torch.tensor([[9.0, 0, 0, 0.5], [0, 0, 9.0, -1.0]]))


def test_terms_by_hand() -> None:
    """Shares 4/6 and 2/4 of the right categories 0 and 2, of which one is told; means 1 and -1."""
    given = Given()
    read = torch.tensor([[LN(4), 0, 0, 1.0], [0, LN(2.5), LN(3.5), -1.0]])
    read[1, :3] = torch.tensor([LN(1), LN(3), LN(4)])
    terms = given.task.d_terms(given.batch, DOutput(torch.zeros(2)), DOutput(torch.zeros(2), read))
    error = (LN(6 / 4) + LN(8 / 4)) / 2
    values = {name: (weight, value.item()) for name, (weight, value) in terms.items()}
    assert values["category/d"] == (2.0, pytest.approx(error))
    assert values["continuous/d"] == (0.1, pytest.approx(0.25 / 2 / 2))
    assert values["category/information_d"] == (0.0, pytest.approx(LN(3) - error))
    assert values["category/accuracy_d"] == (0.0, 1.0)
    assert given.task.g_terms(given.batch, DOutput(torch.zeros(2), read)).keys() == {
        name.replace("_d", "_g").replace("/d", "/g") for name in values
    }


def test_a_q_that_knows_nothing_gives_no_information() -> None:
    """A uniform Q: cross entropy is the entropy ln n, the bound 0; a certain and right one: all of ln n."""
    given = Given()
    terms = given.task.g_terms(given.batch, DOutput(torch.zeros(2), torch.zeros(2, 4)))
    assert terms["category/g"][1].item() == pytest.approx(LN(3))
    assert terms["category/information_g"][1].item() == pytest.approx(0, abs=1e-6)
    sure = torch.tensor([[50.0, 0, 0, 0.5], [0, 0, 50.0, -1.0]])
    terms = given.task.g_terms(given.batch, DOutput(torch.zeros(2), sure))
    assert terms["category/information_g"][1].item() == pytest.approx(LN(3))
    assert terms["continuous/g"][1].item() == 0
    assert information(torch.tensor(0.0), 10).item() == pytest.approx(LN(10))


def test_joint_terms_stand_in_neither_loss() -> None:
    given, fake = Given(joint=True), DOutput(torch.zeros(2), torch.zeros(2, 4))
    assert given.task.d_terms(given.batch, fake, fake) == given.task.g_terms(given.batch, fake) == {}


# Runs


def moved(loop: Loop) -> dict[str, set[str]]:
    """Phase -> the names of the networks that it changed, in one step."""
    found: dict[str, set[str]] = {}
    plain = loop._run_phase

    def spy(phase: object, *rest: object) -> None:
        before = {n: [p.detach().clone() for p in w.params] for n, w in loop.networks.items()}
        plain(phase, *rest)
        found[phase.name] = {
            n for n, w in loop.networks.items()
            if any(not torch.equal(a, b) for a, b in zip(w.params, before[n], strict=True))
        }  # fmt: skip

    loop._run_phase = spy
    loop.run_step()
    loop._run_phase = plain
    return found


def test_each_phase_changes_what_it_trains(tmp_path: Path) -> None:
    assert moved(run(f"{COMMAND} --n_steps 1", tmp_path)) == {"d": {"D"}, "g": {"G"}}
    loop = run(f"{JOINT} --n_steps 2 --train_g_interval 2 --overwrite", tmp_path)
    assert moved(loop) == {"d": {"D"}}
    assert moved(loop) == {"d": {"D"}, "g": {"G"}, "info": {"G", "D"}}


def test_the_joint_phase_reads_codes_alone(tmp_path: Path) -> None:
    """Its gradient reaches Q's head and not the logit's; in the other form Q's head learns in D's phase."""
    loop, seen = run(f"{JOINT} --n_steps 1", tmp_path), {}
    apply = loop._apply

    def spy(active: list, grads: list[Tensor], loss: Tensor) -> tuple[Tensor, Tensor]:
        names = "".join(n for n, w in loop.networks.items() if w in active)
        seen[names] = {k for k, p in loop.networks["D"].module.named_parameters() if p.grad is not None}
        return apply(active, grads, loss)

    loop._apply = spy
    loop.run_step()
    assert not any(name.startswith("to_logit") for name in seen["DG"])
    assert any(name.startswith("to_codes") for name in seen["DG"])
    assert any(name.startswith("to_logit") for name in seen["D"])
    assert not any(name.startswith("to_codes") for name in seen["D"])


def test_the_average_moves_once_a_step(tmp_path: Path) -> None:
    """Two phases of a step train G: the average follows after the second one alone."""
    loop = run(f"{JOINT} --n_steps 3 --ema", tmp_path)
    assert loop.updates == 3
    (ema, decay), G = loop.emas["ema"], loop.networks["G"].module
    before, share = [p.clone() for p in ema.module.parameters()], 1 - decay()
    loop.run_step()
    assert loop.updates == 4 and 0 < share < 1
    for old, averaged, now in zip(before, ema.module.parameters(), G.parameters(), strict=True):
        torch.testing.assert_close(averaged, old + share * (now - old))


@pytest.mark.parametrize("command", [COMMAND, JOINT])
def test_codes_are_learnt(tmp_path: Path, command: str) -> None:
    """Q tells of the category after some steps; that is logged in nats."""
    run(f"{command} --n_steps 200 --batch_size 16 --lr 2e-3", tmp_path)
    logged = lines(tmp_path)
    name = next(k for k in logged[-1] if k.startswith("category/information_") and not k.endswith("_d"))
    assert abs(logged[0][name]) < 0.3
    assert 0.6 < sum(row[name] for row in logged[-20:]) / 20 <= LN(3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("command", [COMMAND, JOINT])
def test_every_method(tmp_path: Path, command: str, method: str) -> None:
    loop = run(f"{command} --n_steps 1 --method {method} --mixed_precision bf16 --penalty r1", tmp_path)
    assert loop.step == 1 and finite(loop)


def test_samples_and_resume_need_nothing_new(tmp_path: Path) -> None:
    run(f"{COMMAND} --n_steps 4 --ema --checkpoint_interval 2", tmp_path)
    G, config = load_generator(tmp_path / "a")
    assert isinstance(G, Generator) and config["chosen"] == "ema" and G.n_categories == 3
    assert run("--log_name a --resume --n_steps 6", tmp_path).step == 6
    assert state(tmp_path, "a", 6)["config"]["g_kwargs"] == {"width": 4, "n_categories": 3}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--conditional", "infogan sees no labels: leave --conditional out"),
        (
            "--g_kwargs n_categories=4",
            "--g_kwargs n_categories=4 n_continuous=2 but --d_kwargs n_categories=3",
        ),
        ("--d_kwargs n_continuous=1", "both networks need the same codes"),
        ("--z_dim 5", "--z_dim 5 is the length of noise and codes together"),
        ("--img_size 18", "sides that 4 divides"),
        ("--norm_g layer", "unknown norm of infogan 'layer'"),
    ],
)
def test_what_cannot_work(tmp_path: Path, capsys: pytest.CaptureFixture, flags: str, words: str) -> None:
    assert words in refused(f"{COMMAND} --n_steps 1 {flags}", tmp_path, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("preset", "noise", "joint", "norm"),
    [("mnist-infogan", 62, False, "batch"), ("mnist-infogan-joint", 100, True, "none")],
)
def test_presets(preset: str, noise: int, joint: bool, norm: str) -> None:
    """Both are rehearsed in full, and leave as much noise as their sources have."""
    config = parse_config("gan_mnist", ("mnist",), {}, ["--preset", preset]).config()
    game_of(config).rehearse(config, Shard(config.batch_size), {})
    assert (config.norm_g, config.norm_d) == (norm, norm)
    assert config.z_dim - 12 == noise and config.d_kwargs.get("joint", False) == joint
    assert config.n_steps // config.train_g_interval == (10_000 if joint else 5000)
    assert Discriminator(img_size=32, img_channels=1, **config.d_kwargs).joint == joint


def test_penalties_of_moved_latents_are_refused(tmp_path) -> None:
    """Some latents are codes: what they choose must not stay the same."""
    for penalty in ("zcr_d", "zcr_g"):
        with pytest.raises(
            UserError, match=f"penalty {penalty} moves latents, and some of infogan's are codes"
        ):
            run(f"{COMMAND} --n_steps 1 --{penalty}_weight 1", tmp_path)
    assert not (tmp_path / "a").exists()
