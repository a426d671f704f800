"""What `train` gives back: a run that can be looked at and sampled from."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.testing import assert_close

import gan_mnist
from generation import load_generator, sample
from settings import TrainConfig
from training import train
from training.claim import make_next
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
    little = TrainConfig(
        z_dim=8, n_steps=3, batch_size=8, loggers=(), runs_dir=str(tmp_path), d_kwargs={"width": 4}
    )
    other = train(little, images=images, G=Plain("g"))
    assert other.generator()[1]["dataset"] == "own"


# -- one process, many runs ----------------------------------------------------------------------------------------

SHORT = {"z_dim": 8, "n_steps": 3, "batch_size": 8, "log_interval": 1, "loggers": (), "device": "cpu"}


def own_images() -> torch.Tensor:
    return torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Net(nn.Sequential):
    img_size, img_channels, z_dim = 16, 1, 8

    def forward(self, x: torch.Tensor, y: None = None) -> torch.Tensor:
        return super().forward(x)


def own_networks() -> tuple[nn.Module, nn.Module]:
    G = Net(nn.Linear(8, 256), nn.Tanh(), nn.Unflatten(1, (1, 16, 16)))
    D = Net(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))
    return G, D


def test_what_a_user_has_frozen_stays_and_is_given_back(tmp_path: Path) -> None:
    G, D = own_networks()
    first, last = D[1], D[3]
    first.weight.requires_grad_(False)
    kept, moved = first.weight.clone(), last.weight.clone()
    train(TrainConfig(runs_dir=str(tmp_path), **SHORT), images=own_images(), G=G, D=D)
    assert torch.equal(first.weight, kept) and not torch.equal(last.weight, moved)
    assert not first.weight.requires_grad
    assert all(p.requires_grad for p in (*G.parameters(), last.weight, last.bias))


def test_values_of_a_step_are_its_own(tmp_path: Path) -> None:
    seen = []
    train(
        TrainConfig(runs_dir=str(tmp_path), **SHORT),
        images=own_images(),
        on_step=lambda step, values: seen.append(values),
    )
    assert len({id(values) for values in seen}) == len(seen) == SHORT["n_steps"]
    assert len({float(values["loss/d"]) for values in seen}) > 1


def test_runs_of_two_threads_take_turns(tmp_path: Path) -> None:
    """Each computes what it computes alone: torch's generators and switches are the process's."""
    config = TrainConfig(runs_dir=str(tmp_path), **SHORT | {"n_steps": 20, "d_kwargs": {"dropout": 0.5}})
    hook, losses = threading.excepthook, []

    def last_loss() -> None:
        losses.append(train(config, images=own_images()).metrics[-1]["loss/d"])

    last_loss()
    threads = [threading.Thread(target=last_loss) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(losses) == 3 and len(set(losses)) == 1
    assert len(list(tmp_path.iterdir())) == 3 and threading.excepthook is hook


def test_a_run_within_a_run_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(runs_dir=str(tmp_path), **SHORT)
    with pytest.raises(ValueError, match="a run trains already in this thread"):
        train(config, images=own_images(), on_step=lambda step, values: train(config, images=own_images()))
    assert train(config, images=own_images()).step == SHORT["n_steps"]


def test_states_of_before_stand_after_a_run_and_after_a_refusal(tmp_path: Path) -> None:
    with torch.no_grad():
        train(TrainConfig(runs_dir=str(tmp_path), mixed_precision="bf16", **SHORT), images=own_images())
    assert Accelerator(cpu=True).mixed_precision == "no"
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="batch_size"):
        train(TrainConfig(runs_dir=str(tmp_path), **SHORT | {"batch_size": 999}), images=own_images())
    train(TrainConfig(runs_dir=str(tmp_path), **SHORT), images=own_images())
    assert torch.equal(torch.get_rng_state(), before)
    assert len(list(tmp_path.iterdir())) == 2  # a refused run leaves no folder


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"img_size": 32}, "img_size 32: the images have 16"),
        ({"dataset": "ring8", "model": "mlp"}, "dataset: images were given"),
        ({"data": "/nowhere.zip"}, "data: images were given"),
    ],
)
def test_settings_that_deny_own_images(tmp_path: Path, given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        train(TrainConfig(runs_dir=str(tmp_path), **SHORT | given), images=own_images())
    assert not list(tmp_path.iterdir())


def test_a_named_run_goes_on_under_another_name(tmp_path: Path) -> None:
    first = train(TrainConfig(runs_dir=str(tmp_path), log_name="a", **SHORT), images=own_images())
    more = TrainConfig(runs_dir=str(tmp_path), log_name="b", n_steps=6)
    second = train(more, images=own_images(), resume=first.folder)
    assert second.folder.name == "b" and second.step == 6
    assert not (first.folder / "checkpoints" / "step-00000006.pt").exists()


# -- networks of a file ------------------------------------------------------------------------------------------------

MINE = """
from torch import nn
class Generator(nn.Module):
    def __init__(self, *, img_size, img_channels, z_dim):
        super().__init__()
        self.img_size, self.img_channels, self.z_dim = img_size, img_channels, z_dim
        self.layer = nn.Linear(z_dim, img_channels * img_size**2)
    def forward(self, z, y=None):
        return self.layer(z).tanh().view(-1, self.img_channels, self.img_size, self.img_size)
class Discriminator(nn.Module):
    def __init__(self, *, img_size, img_channels):
        super().__init__()
        self.img_size, self.img_channels = img_size, img_channels
        self.layer = nn.Linear(img_channels * img_size**2, 1)
    def forward(self, x, y=None):
        return self.layer(x.flatten(1))[:, 0]
"""
OF_DIGITS = "--dataset digits --img_size 16 --batch_size 8 --device cpu --loggers"


def test_a_model_file_is_kept_with_the_run_and_with_its_forks(tmp_path: Path) -> None:
    """It may go once the run has begun: the run is sampled, resumed, forked and begun anew by its own copy."""
    (file := tmp_path / "mine.py").write_text(MINE)
    runs = f"--runs_dir {tmp_path / 'runs'}"

    def command(words: str) -> int:
        return gan_mnist.main(f"{runs} {words}".split())

    assert command(f"{OF_DIGITS} --model {file} --log_name a --n_steps 2") == 0
    file.unlink()
    first = tmp_path / "runs" / "a"
    assert command("--log_name a --resume --n_steps 4") == 0
    assert command(f"--resume {first} --log_name b --n_steps 6") == 0
    for name, step in (("a", 4), ("b", 6)):
        G, about = load_generator(tmp_path / "runs" / name)
        assert about["step"] == step and sample(G, about, n=2).shape == (2, 1, 16, 16)
    before = (first / "model.py").read_text()
    again = f"--config {first / 'config.json'} --model {first / 'model.py'} --log_name a --overwrite"
    assert command(f"{again} --n_steps 3") == 0
    assert (first / "model.py").read_text() == before == MINE
    assert load_generator(first)[1]["step"] == 3


def test_unnamed_runs_that_start_together_take_folders_of_their_own(tmp_path: Path) -> None:
    """The folder is made in the moment in which it is chosen."""
    made = {make_next(tmp_path / "runs", "a-b-c").name for _ in range(3)}
    (tmp_path / "runs" / "a-b-c-004").write_text("a file")
    assert made == {f"a-b-c-00{i}" for i in (1, 2, 3)}
    assert make_next(tmp_path / "runs", "a-b-c").name == "a-b-c-005"
