"""The contract of games: one with two arrays and four networks needs no line outside its file and its rows."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import games.task
from games import GAMES
from games.task import Task, total
from modelling import MODELS, Model
from tests.pairs_game import Discriminator, Generator, Pairs
from tests.running import differing, state
from training.launch import script_main
from training.loop import Loop

FLAGS = (
    "--img_size 16 --device cpu --batch_size 8 --loggers --log_interval 1 --sample_interval 4 --ema "
    "--g_kwargs width=4 --method lsgan --lr 1e-3 --lr_d 5e-4"
)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """The script of the game, as gan_mnist.py is one of the ordinary game."""
    monkeypatch.setitem(GAMES, "pairs", Pairs)
    monkeypatch.setitem(MODELS, "pairs", Model(Generator, Discriminator, (), (), latents=False))
    main = script_main("gan_test_pairs", ("digits",), {"model": "pairs"}, "A script of its own.")
    return lambda command: main([*command.split(), "--runs_dir", str(tmp_path)])


def test_two_arrays_and_four_networks_train(play: Callable[[str], int], tmp_path: Path) -> None:
    assert play(f"{FLAGS} --log_name a --n_steps 8 --accumulate 2") == 0
    saved = state(tmp_path, "a", 8)
    assert list(saved["networks"]) == ["G_AB", "G_BA", "D_A", "D_B"] == list(saved["optimizers"])
    assert {name.split(".")[0] for name in saved["ema"]["ema"]} == {"G_AB", "G_BA"}
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["cycle"] < lines[0]["cycle"] and lines[-1]["skipped_steps"] == 0
    rates = {name: lines[0][f"lr/{name.lower()}"] for name in saved["networks"]}
    assert rates == {"G_AB": 1e-3, "G_BA": 1e-3, "D_A": 5e-4, "D_B": 5e-4}
    assert saved["task"]["pool"]["a"].abs().sum() > 0
    for name in ("real", "step-00000004-ema", "step-00000008-raw"):
        with Image.open(tmp_path / "a" / "samples" / f"{name}.png") as picture:
            assert picture.size == (8 * 18 + 2, 2 * 18 + 2)


def test_it_resumes_bit_for_bit(play: Callable[[str], int], tmp_path: Path) -> None:
    assert play(f"{FLAGS} --log_name whole --n_steps 6") == 0
    assert play(f"{FLAGS} --log_name part --n_steps 3") == 0
    assert play("--log_name part --resume --n_steps 6") == 0
    assert differing(state(tmp_path, "whole", 6), state(tmp_path, "part", 6)) == []


def test_a_game_without_scores_says_so(
    play: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert play(f"{FLAGS} --log_name a --n_steps 1 --eval_interval 1") == 2
    assert "--eval_interval: Pairs has no scores; leave the flag out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", ["--penalty r1", "--r1_weight 1", "--augment color", "--z_dim 3", "--norm_d none"]
)
def test_what_a_game_does_not_know_is_refused(
    play: Callable[[str], int], capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: str
) -> None:
    assert play(f"{FLAGS} --log_name a --n_steps 1 {flags}") == 2
    assert ": pairs does not know it; leave the flag out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_total_is_the_loss_and_its_weighted_terms() -> None:
    stats: dict[str, torch.Tensor] = {}
    one, two = torch.tensor(3.0, requires_grad=True), torch.tensor(5.0)
    loss = total(torch.tensor(1.0), {"one": (2.0, one), "two": (0.0, two)}, stats)
    assert loss.item() == 7 and {name: value.item() for name, value in stats.items()} == {"one": 3, "two": 5}
    assert loss.requires_grad and not stats["one"].requires_grad


def test_the_listing_of_a_step_names_what_is_there() -> None:
    """What readers start from: each `task.NAME` in it is a method of Task, each `L.NAME` one of the loop."""
    named = re.findall(r"\b(task|L)\.(\w+)", games.task.__doc__)
    assert len(named) > 10
    assert [n for kind, n in named if kind == "L" and not hasattr(Loop, n)] == []
    known = {*dir(Task), *Task.__annotations__}
    assert [n for kind, n in named if kind == "task" and n not in known] == []
