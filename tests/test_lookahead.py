"""Lookahead-minimax: its moves by hand, what it leaves alone, and in runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from generation.checkpoint import Misfit
from images.batches import Batches
from tests.running import differing, leaves, run, state
from training.lookahead import Lookahead
from training.network import Network


def network(*values: float) -> Network:
    """Of a single row of weights."""
    module = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([values]))
    return Network(module, torch.optim.SGD(module.parameters(), 1.0))


def weights(networks: dict[str, Network]) -> list[list[float]]:
    return [n.module.weight[0].tolist() for n in networks.values()]


def step(networks: dict[str, Network]) -> None:
    """Every weight of D grows by 1, of G by 4."""
    with torch.no_grad():
        for name, n in networks.items():
            n.module.weight += {"D": 1.0, "G": 4.0}[name]


def test_half_of_the_way_back_every_so_many_steps() -> None:
    networks = {"D": network(0.0, 10.0), "G": network(0.0)}
    lookahead = Lookahead((2,), networks)
    seen = []
    for i in range(1, 5):
        step(networks)
        lookahead.after(i)
        seen.append(weights(networks))
    assert seen == [
        [[1.0, 11.0], [4.0]],
        [[1.0, 11.0], [4.0]],  # from 2, 12 and 8 half of the way to 0, 10 and 0
        [[2.0, 12.0], [8.0]],
        [[2.0, 12.0], [8.0]],
    ]


def test_an_outer_level_holds_the_inner_one() -> None:
    """Steps of 1: the inner slow weights are 1 after 2 steps and 2 after 4, where the outer ones go to 1."""
    networks = {"D": network(0.0)}
    lookahead = Lookahead((2, 4), networks)
    seen = []
    for i in range(1, 9):
        step(networks)
        lookahead.after(i)
        seen += weights(networks)[0]
    # then from 1: 2, 3 -> 2, 3, 4 -> 3, outer (1 + 3) / 2
    assert seen == [1.0, 1.0, 2.0, 1.0, 2.0, 2.0, 3.0, 2.0]
    assert [float(slow["D"][0]) for slow in lookahead.slow] == [2.0, 2.0]


def test_state_and_a_state_without_slow_weights() -> None:
    networks = {"D": network(0.0)}
    lookahead = Lookahead((2, 4), networks)
    step(networks), step(networks)
    lookahead.after(2)
    saved = {name: {k: v.clone() for k, v in slow.items()} for name, slow in lookahead.state_dict().items()}
    assert {name: float(slow["weight"]) for name, slow in saved.items()} == {"0/D": 1.0, "1/D": 0.0}
    other = Lookahead((2, 4), {"D": network(7.0)})
    other.load_state_dict(saved)
    assert differing(other.state_dict(), saved, parts=("0/D", "1/D")) == []
    other.load_state_dict({})
    assert [float(slow["D"][0]) for slow in other.slow] == [7.0, 7.0]


def test_frozen_weights_and_buffers_are_left_alone() -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    module[0].requires_grad_(False)
    n = Network(module, torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 1.0))
    lookahead = Lookahead((1,), {"D": n})
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor += 1
    lookahead.after(1)
    assert list(lookahead.state_dict()["0/D"]) == ["1.weight", "1.bias"]
    assert module[1].bias.item() == 0.5 and float(module[1].running_mean) == 1


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Numbers of the steps whose images are not finite."""
    bad: set[int] = set()
    plain = Batches.micro

    def micro(self: Batches, start: int, *args: object) -> tuple:
        x, y = plain(self, start, *args)
        return (x * float("nan") if start // self.shard.batch_size in bad else x), y

    monkeypatch.setattr(Batches, "micro", micro)
    return bad


def test_a_run_moves_all_networks_and_no_moments(tmp_path: Path) -> None:
    """After two steps the weights are half of the way from the first ones to those of a run without it."""
    common = "--n_steps 2 --checkpoint_interval 1 --norm_g none --norm_d none --ema --ema_decay 0.5"
    made = {}
    for name, more in (("with", "--lookahead 2"), ("without", "")):
        made[name] = run(f"--log_name {name} {common} {more}", tmp_path)
    with_, without = (state(tmp_path, name, 2) for name in made)
    start = run(f"--log_name start {common} --lr 0", tmp_path).state_dict()
    for key, value in leaves(without["networks"]).items():
        half = torch.lerp(leaves(start["networks"])[key].cpu(), value, 0.5)
        torch.testing.assert_close(leaves(with_["networks"])[key], half, msg=key)
    assert differing(with_, without, parts=("optimizers", "ema")) == []
    assert "lookahead" in with_ and not without["lookahead"]


def test_a_skipped_step_counts(tmp_path: Path, poisoned: set[int]) -> None:
    """Weights that a step leaves as they were go back in it all the same, and stay finite."""
    poisoned.add(1)
    common = "--n_steps 2 --norm_g none --norm_d none --lookahead 2"
    loop = run(f"--log_name a {common}", tmp_path)
    assert float(loop.skipped) > 0
    slow = loop.lookahead.state_dict()
    for name, n in loop.networks.items():
        for key, p in zip(n.names, n.params, strict=True):
            assert p.isfinite().all() and torch.equal(p, slow[f"0/{name}"][key])


def test_starts_from_what_it_is_given(tmp_path: Path) -> None:
    """Slow weights are those that training starts with, not what the networks were built with."""
    plain = "--norm_g none --norm_d none"
    run(f"--log_name source --n_steps 3 --lr 0.01 {plain}", tmp_path)
    run(f"--log_name a --n_steps 2 --lr 0 --init_from {tmp_path}/source --lookahead 2 {plain}", tmp_path)
    a, source = (state(tmp_path, name, step) for name, step in (("a", 2), ("source", 3)))
    assert differing(a, source, parts=("networks",)) == []


def test_a_checkpoint_without_slow_weights_goes_on(tmp_path: Path) -> None:
    """They begin as the weights of the checkpoint; those of another run are refused."""
    loop = run("--log_name a --n_steps 3 --lookahead 2", tmp_path)
    own = loop.state_dict()
    check = loop.state_check(own)
    older = {key: value for key, value in own.items() if key != "lookahead"}
    check(older), check(own)
    loop.load_state_dict(older)
    for name, slow in loop.lookahead.slow[0].items():
        assert all(map(torch.equal, slow, loop.networks[name].params))
    wrong = {name: {key: value[:0] for key, value in slow.items()} for name, slow in own["lookahead"].items()}
    for bad, words in (
        ({"0/D": own["lookahead"]["0/D"]}, "lookahead.0/G is missing"),
        (own["lookahead"] | {"1/D": {}}, "lookahead.1/D is not expected"),
        (wrong, r"lookahead\.0/D\..* has shape"),
        ([1.0], "lookahead is no slow weights"),
        ({"0/D": 3}, "lookahead is no slow weights"),
    ):
        with pytest.raises(Misfit, match=words):
            check(older | {"lookahead": bad})
