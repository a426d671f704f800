"""VEEGAN: its losses on hand numbers, whom each phase trains, R in checkpoints, points of the plane, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.testing import assert_close

import gan_ring8
from games.noise_to_image import Inputs
from games.task import Place
from games.veegan import VEEGAN
from images.batches import ImageData, Shard
from modelling import build_discriminator, build_generator, mlp
from modelling.veegan import Reconstructor
from settings import TrainConfig, settled
from tests.running import run, small, state
from tests.test_training import lines, refused

COMMAND = f"--log_name a {small('veegan')} --log_interval 1"


def networks(**settings: object) -> tuple[nn.Module, nn.Module]:
    image = {"img_size": (3, 2), "img_channels": 2, "z_dim": 5, "width": 4} | settings
    return build_generator("veegan", **image), build_discriminator("veegan", **image)


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# Networks


def test_counts_by_hand() -> None:
    """256-256-256 on 28 px and 100 latents; batch norm after each hidden layer, but D's first."""
    image = {"img_size": 28, "img_channels": 1, "z_dim": 100}
    G, D = build_generator("veegan", **image), build_discriminator("veegan", **image)
    two, norm = 2 * (256 * 256 + 256), 2 * 256
    assert n_parameters(G) == 100 * 256 + 256 + two + 3 * norm + 256 * 784 + 784
    assert n_parameters(G.reconstructor()) == 784 * 256 + 256 + two + 3 * norm + 256 * 100 + 100
    assert n_parameters(D) == (784 + 100) * 256 + 256 + two + 2 * norm + 256 + 1


def test_reconstructor_mirrors_g() -> None:
    G, _ = networks(norm="none", width=7)
    R = G.reconstructor()
    assert R(G(torch.randn(4, 5))).shape == (4, 5)
    assert R.to_z.in_features == 7 and not any(isinstance(m, nn.BatchNorm1d) for m in R.modules())
    R(torch.randn(4, 2, 3, 2)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in R.parameters())
    with pytest.raises(ValueError, match=r"\(N, 2, 3, 2\), not \(4, 2, 2, 3\)"):
        R(torch.randn(4, 2, 2, 3))


def test_d_sees_both_of_a_pair() -> None:
    _, D = networks(norm="none")
    x, z = torch.randn(4, 2, 3, 2), torch.randn(4, 5)
    assert D(x, z=z).shape == (4,)
    assert (D(x, z=z) != D(-x, z=z)).all() and (D(x, z=z) != D(x, z=-z)).all()
    assert torch.equal(D(x), D(x, z=torch.zeros(4, 5)))
    with pytest.raises(ValueError, match="as many images as latents"):
        D(x, z=z[:3])
    with pytest.raises(ValueError, match=r"\(N, 5\), not \(4, 6\)"):
        D(x, z=torch.randn(4, 6))


# Losses


class Plain(nn.Module):
    """A network given by a function, with a weight that it does not use."""

    def __init__(self, fn: Callable[..., Tensor]) -> None:
        super().__init__()
        self.fn, self.unused = fn, nn.Parameter(torch.zeros(1))
        self.z_dim = 2

    def forward(self, *given: Tensor, z: Tensor | None = None) -> Tensor:
        return self.fn(given[0]) if z is None else self.fn(given[0], z)

    def reconstructor(self) -> "Plain":
        return Plain(lambda x: x.flatten(1) / 2 + 1)


class OneBatch:
    """A micro-batch of two reals and latents, whose noise is 0.5 throughout."""

    z, z_dim, y = torch.tensor([[1.0, -1.0], [0.0, 2.0]]), 2, None
    real = (torch.tensor([[0.2, 0.4], [-0.6, 0.0]]).view(2, 2, 1, 1), None)
    keep_graph, x_fake = False, None
    micro = SimpleNamespace(step=1)  # which is not logged

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        return torch.full((2, *shape), 0.5)


def test_losses_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """G(z) = z / 4, R(x) = x / 2 + 1, D(x, z) = sum of x + 3 sum of z."""
    G = Plain(lambda z: (z / 4).view(2, 2, 1, 1))
    D = Plain(lambda x, z: x.flatten(1).sum(1) + 3 * z.sum(1))
    data = ImageData(np.zeros((2, 28, 28, 1), np.uint8), None, (), "", "none")
    place = Place(torch.device("cpu"), Shard(2))
    # These are functions of two numbers, not networks for images.
    for check in ("check_contract", "check_values"):
        monkeypatch.setattr(f"games.build.{check}", lambda G, D, **asked: None)
    config = settled(TrainConfig(model="veegan", method="gan", batch_size=2, img_size=28))
    task = VEEGAN(config, place, data, {"G": G, "D": D})
    batch: Inputs = OneBatch()  # type: ignore[assignment]
    loss, stats = task.d_loss(batch)
    fake = [0 + 3 * 0, 0.5 + 3 * 2]  # sums of z / 4, then of z
    real = [0.6 + 3 * (0.1 + 0.2 + 2 + 1), -0.6 + 3 * (-0.3 + 0 + 2 + 1)]  # R(x) + 0.5 is x / 2 + 1.5 twice
    on_fake, on_real = softplus(-torch.tensor(fake)).mean(), softplus(torch.tensor(real)).mean()
    assert_close(loss, (on_fake + on_real) / 2)
    assert_close(stats["d/real"], torch.tensor(real).mean())
    assert_close(stats["d/fake"], torch.tensor(fake).mean())
    loss, stats = task.g_loss(batch)
    again = torch.tensor([[1 / 8 + 1, -1 / 8 + 1], [1.0, 2 / 8 + 1]])
    error = ((again - batch.z) ** 2).sum() / 4
    assert_close(stats["reconstruction"], error)
    assert_close(loss, torch.tensor(fake).mean() + error)


# Runs


def test_each_phase_changes_what_it_trains(tmp_path: Path) -> None:
    """d moves D alone; g moves G and R."""
    loop = run(f"{COMMAND} --n_steps 2 --train_g_interval 2", tmp_path)
    assert {p.name: p.trains for p in loop.task.phases} == {"d": ("D",), "g": ("G", "R")}
    assert list(loop.networks) == ["D", "G", "R"]

    def weights() -> dict[str, list[Tensor]]:
        return {n: [p.detach().clone() for p in w.params] for n, w in loop.networks.items()}

    moved = []
    for _ in range(2):
        before = weights()
        loop.run_step()
        now = weights()
        moved.append(
            {n for n in now if any(not torch.equal(a, b) for a, b in zip(now[n], before[n], strict=True))}
        )
    assert moved == [{"D"}, {"D", "G", "R"}]
    assert all((a != b).any() for a, b in zip(now["R"], before["R"], strict=True) if a.dim() == 2)


def test_r_learns_with_g_and_is_kept(tmp_path: Path) -> None:
    loop = run(f"{COMMAND} --n_steps 60 --lr_g 2e-3 --lr_d 1e-4", tmp_path)
    assert isinstance(loop.task.R, Reconstructor)
    logged = lines(tmp_path)
    assert logged[-1]["lr/r"] == logged[-1]["lr/g"] == 2e-3
    assert {"loss/d", "loss/g", "d/real", "d/fake", "reconstruction", "grad_norm/g"} <= logged[-1].keys()
    assert logged[-1]["reconstruction"] < 0.9 * logged[0]["reconstruction"]
    saved = state(tmp_path, "a", 60)
    assert saved["networks"].keys() == saved["optimizers"].keys() == {"D", "G", "R"}
    assert torch.equal(saved["networks"]["R"]["to_z.weight"], loop.task.R.to_z.weight)


def test_points_of_the_plane(tmp_path: Path) -> None:
    words = f"--runs_dir {tmp_path} --log_name a --model veegan --n_steps 2 --batch_size 8 --loggers --log_interval 1"
    assert gan_ring8.main(words.split()) == 0
    assert (
        json.loads((tmp_path / "a" / "generator" / "config.json").read_text())["build"]["img_channels"] == 2
    )
    assert torch.isfinite(torch.tensor(lines(tmp_path)[-1]["loss/g"]))


def test_bf16(tmp_path: Path) -> None:
    run(f"{COMMAND} --n_steps 2 --mixed_precision bf16", tmp_path)
    assert torch.isfinite(torch.tensor(lines(tmp_path)[-1]["loss/g"]))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--method wgan", "--method wgan is not for --model veegan, whose game is its own: leave it out"),
        ("--r1_weight 10", "--penalty r1 is not for --model veegan"),
        ("--penalty drift", "--penalty drift is not for --model veegan"),
        ("--label_smoothing 0.1", "--label_smoothing is not for --model veegan"),
        ("--conditional", "veegan sees no labels: leave --conditional out"),
        ("--augment color", "--augment is not for --model veegan"),
        ("--sync_bn", "--sync_bn is not for --model veegan"),
        ("--norm_g instance", "unknown norm of mlp 'instance': choose from none, batch"),
    ],
)
def test_what_the_game_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture, flags: str, words: str
) -> None:
    assert words in refused(f"{COMMAND} --n_steps 1 {flags}", tmp_path, capsys)
    assert not list(tmp_path.iterdir())


def test_mlps_layers_are_shared() -> None:
    """The same hidden layers as mlp's, by name and shape: its weights fit."""
    G, _ = networks(norm="none")
    plain = mlp.Generator(img_size=(3, 2), img_channels=2, z_dim=5, width=4)
    assert {k: v.shape for k, v in G.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
