"""The average of weights: values, buffers, skipped steps, the ramp of its decay; power functions, after the fact."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ema import (
    EMA,
    decay_at,
    decay_from_halflife,
    exponent_of,
    power_decay,
    profile_products,
    reconstruct,
    width_of,
)
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


# -- power functions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "exponent"),
    [
        (0.010, 96.995), (0.025, 36.987), (0.05, 16.972), (0.075, 10.289), (0.10, 6.937), (0.15, 3.558),
        (0.20, 1.826), (0.25, 0.720),
    ],
)  # fmt: skip
def test_exponents_of_widths(width: float, exponent: float) -> None:
    assert exponent_of(width) == pytest.approx(exponent, abs=5e-4)
    assert width_of(exponent_of(width)) == pytest.approx(width, rel=1e-13)


def test_a_width_is_the_deviation_of_its_profile() -> None:
    """Of p(tau) = 3 tau^2 on [0, 1]: mean 3/4, mean of squares 3/5, so sqrt(3/5 - 9/16)."""
    assert width_of(2) == pytest.approx((3 / 5 - 9 / 16) ** 0.5)
    assert width_of(0) == pytest.approx(12**-0.5)  # of the plain mean


@pytest.mark.parametrize("width", [0.0, -0.1, 0.0009, 0.29, float("nan"), float("inf")])
def test_widths_that_no_average_has_are_refused(width: float) -> None:
    with pytest.raises(ValueError, match=r"must be from 0.001 to 0.28"):
        exponent_of(width)


def test_power_average_weighs_each_moment_by_its_power() -> None:
    """After batches of uneven sizes the weights of the k-th count (t_k^(g+1) - t_(k-1)^(g+1)) / t^(g+1)."""
    times, g = (32, 48, 56, 120), 1.5
    weights, held = [3.0, -1.0, 4.0, 2.0], 100.0
    for (before, at), weight in zip(itertools.pairwise((0, *times)), weights, strict=True):
        decay = power_decay(at, at - before, g)
        held = decay * held + (1 - decay) * weight
    shares = [(at**2.5 - before**2.5) / 120**2.5 for before, at in itertools.pairwise((0, *times))]
    assert held == pytest.approx(sum(s * w for s, w in zip(shares, weights, strict=True)))


def test_inner_products_are_integrals() -> None:
    places = [(1.0, 1.5), (0.4, 6.937), (1.0, 16.972), (0.9, 0.0)]
    tau = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    p = torch.stack([torch.where(tau <= t, (g + 1) * tau**g / t ** (g + 1), 0) for t, g in places])
    assert_close(profile_products(places, places), p @ p.T / 1_000_000, rtol=2e-5, atol=0)
    far = [(1000 * t, g) for t, g in places]  # in other units
    assert_close(profile_products(far, far) * 1000, profile_products(places, places))


def test_reconstruction_by_hand() -> None:
    """p = 1 for p* = 2 tau on [0, 1]: |p* - p|^2 = 4/3 - 2 + 1 = 1/3, of |p*|^2 = 4/3 a quarter."""
    shares, off = reconstruct([(1.0, 0.0)], (1.0, 1.0))
    assert shares == [pytest.approx(1)] and off == pytest.approx(0.5)


def walked(n_snapshots: int, widths: tuple[float, ...]) -> tuple[dict, dict]:
    """(averages of a random walk by width, those of .05 and .10 at each snapshot by (t, exponent))."""
    source = torch.Generator().manual_seed(0)
    weights = torch.randn(200, generator=source, dtype=torch.float64)
    averages, snapshots = {width: torch.zeros_like(weights) for width in widths}, {}
    for step in range(1, 2049):
        weights += 0.01 * torch.randn(200, generator=source, dtype=torch.float64)
        for width, average in averages.items():
            average.lerp_(weights, 1 - power_decay(32 * step, 32, exponent_of(width)))
        if step % (2048 // n_snapshots) == 0:
            snapshots |= {(32 * step, exponent_of(w)): averages[w].clone() for w in (0.05, 0.1)}
    return averages, snapshots


def test_an_average_that_nobody_kept_comes_of_snapshots() -> None:
    averages, snapshots = walked(32, (0.05, 0.1, 0.03, 0.075, 0.15))
    for width, bound in ((0.075, 1e-4), (0.15, 1e-4), (0.03, 1e-3)):
        shares, off = reconstruct(list(snapshots), (32 * 2048, exponent_of(width)))
        made = sum(share * x for share, x in zip(shares, snapshots.values(), strict=True))
        assert (made - averages[width]).norm() < bound * averages[width].norm()
        assert sum(shares) == pytest.approx(1) and off < 0.02


def test_what_was_kept_comes_back() -> None:
    places = [(t, exponent_of(w)) for t in range(100, 1700, 100) for w in (0.05, 0.1)]
    for i in (0, 9, 30, 31):
        shares, off = reconstruct(places, places[i])
        assert_close(torch.tensor(shares), torch.eye(len(places))[i], atol=1e-8, rtol=0)
        assert off < 1e-6


def test_more_snapshots_are_nearer() -> None:
    goal = (3200.0, exponent_of(0.15))
    errors = []
    for n in (1, 2, 4, 8, 16, 32, 64):
        places = [(3200 * (i + 1) / n, exponent_of(w)) for i in range(n) for w in (0.05, 0.1)]
        errors.append(reconstruct(places, goal)[1])
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.2 and errors[-1] < 1e-3
