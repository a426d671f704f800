"""What is logged of a network's layers: their gradients, how their weights are spread; and that it changes nothing."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from games.task import every, warm_schedule
from ops.spectral_norm import apply_spectral_norm
from tests.running import differing, run, small, state, write_pairs
from training.layers import BINS, is_measured, layer_gradients, layers_of, weight_histograms

BARE = "--norm_g none --norm_d none"


def rows(folder: Path, name: str) -> list[dict[str, float]]:
    """The lines of a run without its speed."""
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "img_per_s"} for line in lines]


def of_layers(row: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in row.items() if k.startswith("layer_grad")}


class Several(nn.Module):
    """Two weights in one module, one of its own, and vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.const = nn.Parameter(torch.zeros(1, 2, 4, 4))
        self.pair = nn.MultiheadAttention(4, 1)
        self.blocks = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))


def test_layers_are_named_by_their_modules() -> None:
    found = layers_of(apply_spectral_norm(Several()))
    assert set(found) == {"const", "pair", "pair.out_proj", "blocks.0"}
    assert found["blocks.0"].shape == (3, 2, 1, 1)


def test_two_weights_of_one_module_keep_their_names() -> None:
    module = nn.Bilinear(2, 3, 4)
    module.second = nn.Parameter(torch.zeros(2, 2))
    assert set(layers_of(nn.ModuleDict({"a": module}))) == {"a.weight", "a.second"}
    assert set(layers_of(module)) == {"weight", "second"}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_by_hand(layout: torch.memory_format) -> None:
    conv, idle = nn.Conv2d(2, 2, 2), nn.Linear(2, 2)
    conv.weight.grad = torch.zeros(2, 2, 2, 2).contiguous(memory_format=layout)
    conv.weight.grad[0, 1, 0, 1], conv.weight.grad[1, 0, 1, 1] = -6.0, 2.0
    found = layer_gradients("d", layers_of(nn.ModuleDict({"conv": conv, "idle": idle})))
    assert found == {"layer_grad_mean/d/conv": 8 / 16, "layer_grad_max/d/conv": 6.0}
    assert layer_gradients("d", {}) == {}


def test_a_gradient_that_is_not_finite_is_seen() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.grad = torch.tensor([[1.0, math.nan], [0.0, 2.0]])
    assert all(map(math.isnan, map(float, layer_gradients("g", {"a": layer.weight}).values())))


@pytest.mark.parametrize("due", [every(1), every(5), every(7), warm_schedule(5)])
@pytest.mark.parametrize("interval", [1, 10, 33])
def test_each_interval_is_measured_once_at_the_first_update_after_it(due: object, interval: int) -> None:
    owed, expected = False, []
    for step in range(3000):
        owed |= (step + 1) % interval == 0
        if owed and due(step):
            expected.append(step)
            owed = False
    assert [s for s in range(3000) if due(s) and is_measured(due, s, interval)] == expected != []
    assert not any(is_measured(due, s, 0) for s in range(30))


def test_histograms_are_numpys() -> None:
    x = torch.randn(7, 5, 3, 3)
    found = weight_histograms({"a": nn.Parameter(x), "b": nn.Parameter(torch.full((2, 2), 3.0))})
    counts, edges = np.histogram(x.numpy(), BINS)
    assert (
        sum(abs(a - b) for a, b in zip(found["a"].counts, counts, strict=True)) <= 2
    )  # at edges, by rounding
    assert (found["a"].low, found["a"].high) == pytest.approx((edges[0], edges[-1]))
    assert found["a"].total == pytest.approx(float(x.double().sum()), abs=1e-3)
    assert found["a"].squares == pytest.approx(float(x.double().square().sum()), rel=1e-5)
    assert (found["b"].low, found["b"].high, sum(found["b"].counts)) == (3, 3, 4)
    assert weight_histograms({"a": nn.Parameter(torch.tensor([[1.0, math.inf]]))}) == {}
    assert weight_histograms({}) == {}


def test_what_is_logged_is_the_whole_gradient_of_the_ordinary_update(tmp_path: Path) -> None:
    """Steps of plain SGD are the gradient, of all micro-batches; penalties with updates of their own are not in it."""
    command = f"{BARE} --optimizer SGD --beta1 0 --lr 0.5 --health_interval 1 --log_interval 1 --accumulate 2"
    command = f"{command} --checkpoint_interval 1 --n_steps 2"
    loop = run(f"--log_name a {command}", tmp_path, dtype=torch.float64, sampled=False)
    run(
        f"--log_name b {command} --r1_weight 9 --penalty_interval r1=2",
        tmp_path,
        dtype=torch.float64,
        sampled=False,
    )
    moved = {}
    for net, network in loop.networks.items():
        names = {id(weight): name for name, weight in network.module.named_parameters()}
        for layer, weight in network.layers.items():
            first, second = (
                state(tmp_path, "a", step)["networks"][net][names[id(weight)]] for step in (1, 2)
            )
            change = (second - first).abs() / 0.5
            moved[f"layer_grad_mean/{net.lower()}/{layer}"] = float(change.mean())
            moved[f"layer_grad_max/{net.lower()}/{layer}"] = float(change.max())
    plain, lazy = ([of_layers(row) for row in rows(tmp_path, name)] for name in "ab")
    assert len(plain) == 2 and plain[1] == pytest.approx(moved, rel=1e-9)
    assert "grad_norm/r1" in rows(tmp_path, "b")[1] and lazy[0] == plain[0] and lazy[1] != plain[1]
    assert all(lazy[1][name] == value for name, value in plain[1].items() if "/d/" in name)


def test_health_changes_nothing_and_is_the_same_after_a_resume(tmp_path: Path) -> None:
    """G is updated every third step: its gradients are of the first update after a due step, in a line of their own."""
    command = "--train_g_interval 3 --log_interval 5 --sample_interval 4 --checkpoint_interval 5 --ema"
    run(f"--log_name with {command} --n_steps 10 --health_interval 4", tmp_path)
    run(f"--log_name without {command} --n_steps 10 --health_interval 0", tmp_path)
    assert differing(state(tmp_path, "with", 10), state(tmp_path, "without", 10)) == []
    whole, plain = rows(tmp_path, "with"), rows(tmp_path, "without")
    measured = {row["step"]: {name.split("/")[1] for name in of_layers(row)} for row in whole}
    assert measured == {4: {"d"}, 5: set(), 6: {"g"}, 8: {"d"}, 9: {"g"}, 10: set()}
    left = [{k: v for k, v in row.items() if k not in of_layers(row)} for row in whole]
    assert [row for row in left if len(row) > 1] == plain
    assert [row["step"] for row in plain if "samples/ema/diversity" in row] == [4, 8, 10]
    run(f"--log_name again {command} --n_steps 5 --health_interval 4", tmp_path)
    run("--log_name again --resume --n_steps 10", tmp_path)
    again = rows(tmp_path, "again")
    # there it ended, with a picture
    again[1] = {k: v for k, v in again[1].items() if not k.startswith("samples")}
    assert again == whole


@pytest.mark.parametrize(
    "command", [small("cyclegan"), small("infogan"), small("veegan"), small("stylegan2")]
)
def test_every_network_of_a_game_is_measured(command: str, tmp_path: Path) -> None:
    data = f"--data {write_pairs(tmp_path / 'pairs')} --batch_size 2" if "cyclegan" in command else ""
    loop = run(f"--log_name a {command} {data} --n_steps 1 --health_interval 1", tmp_path, sampled=False)
    found = {tuple(name.split("/")[1:]) for name in of_layers(rows(tmp_path, "a")[0])}
    assert found == {(n.lower(), layer) for n, network in loop.networks.items() for layer in network.layers}
