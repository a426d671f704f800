"""What `train` gives back: a run that can be looked at and sampled from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from generation import load_generator, sample
from settings import TrainConfig
from training import train
from training.run import Run


class Plain(nn.Module):
    """A linear map, as G or as D."""

    img_size, img_channels, z_dim = 16, 1, 8

    def __init__(self, side: str) -> None:
        super().__init__()
        self.is_g = side == "g"
        self.layer = nn.Linear(8, 256) if self.is_g else nn.Linear(256, 1)

    def forward(self, x: torch.Tensor, y: None = None) -> torch.Tensor:
        out = self.layer(x.flatten(1))
        return out.tanh().view(-1, 1, 16, 16) if self.is_g else out.flatten()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Three steps of little."""
    return TrainConfig(
        dataset="digits", img_size=16, z_dim=8, n_steps=3, batch_size=8, log_interval=1, loggers=(), ema=True,
        runs_dir=str(tmp_path_factory.mktemp("runs")), g_kwargs={"width": 4}, d_kwargs={"width": 4},
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(config: TrainConfig) -> Run:
    """It, trained."""
    return train(config)


def test_a_run_shows_its_curves(run: Run) -> None:
    steps, values = run.curve("loss/d")
    assert steps == [1, 2, 3] and values == [line["loss/d"] for line in run.metrics]
    with pytest.raises(ValueError, match="name loss: logged are d/fake, .*loss/d, loss/g"):
        run.curve("loss")
    assert "Loop object" not in repr(run) and run.folder.name in repr(run)


@pytest.mark.parametrize("weights", [None, "raw"])
def test_a_run_is_sampled_from_as_its_folder_is(run: Run, weights: str | None) -> None:
    (ours, about), (theirs, known) = run.generator(weights), load_generator(run.folder, weights)
    assert about == known and about["chosen"] == (weights or "ema") and about["step"] == 3
    assert torch.equal(sample(ours, about, 4), sample(theirs, known, 4))


def test_a_run_of_own_networks_is_sampled_from(config: TrainConfig, tmp_path: Path) -> None:
    """Training goes on with the run's own G: it is not put into eval mode."""
    run = train(replace(config, g_kwargs={}, d_kwargs={}), G=Plain("g"), D=Plain("d"))
    G, about = run.generator("raw")
    assert run.networks["G"].training and not G.training
    assert_close(G.state_dict(), run.networks["G"].state_dict(), rtol=0, atol=0)
    assert sample(G, about, 4).shape == (4, 1, 16, 16)
    images = torch.stack([torch.full((1, 16, 16), 20 * i, dtype=torch.uint8) for i in range(9)])
    other = train(replace(config, g_kwargs={}, d_kwargs={}), images=images, G=Plain("g"))
    assert other.generator()[1]["dataset"] == "own"
