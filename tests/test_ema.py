"""The average of weights: values, buffers, skipped steps, the ramp of its decay."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ema import EMA, decay_at, decay_from_halflife
from ops.spectral_norm import apply_spectral_norm, iterate_spectral_norm


def filled(value: float) -> nn.Module:
    """Linear and batch norm with every parameter and running statistic at `value`."""
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        for tensor in [*net.parameters(), net[1].running_mean, net[1].running_var]:
            tensor.fill_(value)
    net[1].num_batches_tracked.fill_(int(value))
    return net


def states_equal(a: nn.Module, b: nn.Module) -> bool:
    """Bit for bit."""
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_parameters_are_averaged_and_buffers_copied() -> None:
    ema, net = EMA(filled(1.0)), filled(3.0)
    ema.update(net, 0.75)
    assert_close(ema.module[0].weight, torch.full((3, 2), 1.5))  # .75 * 1 + .25 * 3
    assert_close(ema.module[1].bias, torch.full((3,), 1.5))
    assert_close(ema.module[1].running_mean, torch.full((3,), 3.0))
    assert ema.module[1].num_batches_tracked.item() == 3
    ema.update(net, 0.75)
    assert_close(ema.module[0].weight, torch.full((3, 2), 1.875))  # .75 * 1.5 + .25 * 3


def test_copy_is_independent_and_frozen() -> None:
    net = filled(1.0)
    ema = EMA(net)
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert all(p.requires_grad for p in net.parameters())
    ema.update(filled(2.0), 0.0)
    assert states_equal(ema.module, filled(2.0)) and states_equal(net, filled(1.0))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("poison", [5.0, float("nan")])
def test_flag_of_a_skipped_step_leaves_everything(device: str, poison: float) -> None:
    ema, net = EMA(filled(1.0).to(device)), filled(3.0).to(device)
    with torch.no_grad():
        net[0].weight.fill_(poison)
    before = copy.deepcopy(ema.module)
    ema.update(net, 0.5, ok=torch.tensor(0.0, device=device))
    assert states_equal(ema.module, before)
    ema.update(filled(3.0).to(device), 0.5, ok=torch.ones(1, device=device))
    assert_close(ema.module[0].weight, torch.full((3, 2), 2.0, device=device))
    assert ema.module[1].num_batches_tracked.item() == 3


def test_spectral_norm_vectors_are_copied() -> None:
    net = apply_spectral_norm(nn.Sequential(nn.Linear(4, 3)))
    ema = EMA(net)
    with torch.no_grad():
        net[0].parametrizations.weight.original.add_(torch.randn(3, 4))
    iterate_spectral_norm(net, 3)
    ema.update(net, 0.9)
    assert torch.equal(ema.module[0].parametrizations.weight[0].u, net[0].parametrizations.weight[0].u)


def test_state_dict_round_trip() -> None:
    ema = EMA(filled(1.0))
    ema.update(filled(4.0), 0.9)
    other = EMA(filled(0.0))
    other.module.load_state_dict(ema.module.state_dict())
    assert states_equal(other.module, ema.module)


def test_decay_ramps() -> None:
    assert decay_at(99, decay=0.999, warmup=100) == 0.0
    assert decay_at(100, decay=0.999, warmup=100) == pytest.approx(101 / 110)
    assert decay_at(0, decay=0.999, warmup=0) == pytest.approx(0.1)
    assert decay_at(10**6, decay=0.999, warmup=100) == 0.999


def test_decay_from_halflife() -> None:
    assert decay_from_halflife(500, 500) == pytest.approx(0.5)
    assert decay_from_halflife(32, 10_000) ** (10_000 / 32) == pytest.approx(0.5)
    assert decay_from_halflife(32, 0) == 0.0
    with pytest.raises(ValueError, match="half-life -1"):
        decay_from_halflife(32, -1)
