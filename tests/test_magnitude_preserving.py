"""Magnitude-preserving layers by what they are for: mean squares stay 1, gradients leave a weight's length alone."""

import math
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from ops.magnitude_preserving import (
    EPS,
    MPConv2d,
    MPFourier,
    MPLinear,
    Normalised,
    mp_cat,
    mp_lrelu,
    mp_silu,
    mp_sum,
    normalised,
    renormalise,
)
from tests.running import run
from training.loop import Loop


@pytest.fixture(autouse=True)
def float64() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.default_generator.manual_seed(0)
    yield
    torch.set_default_dtype(before)


LAYERS = {
    "linear": lambda: (MPLinear(24, 6), (24,)),
    "linear, centred": lambda: (MPLinear(24, 6, centred=True), (24,)),
    "conv": lambda: (MPConv2d(8, 6, 3), (8, 5, 5)),
    "groups": lambda: (MPConv2d(8, 6, 3, groups=2, centred=True), (8, 5, 5)),
    "point": lambda: (MPConv2d(8, 6, 1), (8, 3, 3)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_mean_squares_stay_one_whatever_the_weights(layer: str) -> None:
    """Exactly, of the layer's matrix: each row within has a length of 1 - EPS at most, and of the gain with one."""
    net, shape = LAYERS[layer]()
    for size in (1.0, 1e2):
        with torch.no_grad():
            net.weight.mul_(size)
        # outputs in the middle of the maps see no edge
        middle = (slice(None), *[slice(shape[-1] // 2, shape[-1] // 2 + 1)] * (len(shape) - 1))
        eye = torch.eye(math.prod(shape)).view(-1, *shape)
        rows = net(eye)[(slice(None), *middle)].flatten(1)  # (inputs, outputs)
        torch.testing.assert_close(rows.square().sum(0), torch.ones(6), rtol=0, atol=4e-4)
        torch.testing.assert_close(net(eye, gain=0.5), net(eye) / 2)
    if net.centred:
        ones = torch.ones(1, *shape)
        assert net(ones)[(slice(None), *middle)].abs().max() < 1e-12


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_leave_the_length_of_a_row_alone(layer: str) -> None:
    net, shape = LAYERS[layer]()
    (net(torch.randn(7, *shape)).pow(3)).sum().backward()
    along = (net.weight.grad * net.weight).flatten(1).sum(1)
    lengths = net.weight.grad.flatten(1).norm(dim=1) * net.weight.flatten(1).norm(dim=1)
    assert (along.abs() < 3 * EPS * lengths).all() and (lengths > 0).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_renormalising_changes_the_weight_and_no_output(layer: str) -> None:
    net, shape = LAYERS[layer]()
    with torch.no_grad():
        net.weight.mul_(torch.rand(6).view(-1, *[1] * (net.weight.dim() - 1)) * 9 + 1)
    x, before = torch.randn(2, *shape), net.weight.detach().clone()
    expected = net(x)
    renormalise(nn.Sequential(net))
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        net.weight.detach().flatten(1).square().mean(1), torch.ones(6), rtol=0, atol=1e-3
    )
    assert (net.weight - before).abs().max() > 0.1
    renormalise(net)  # the second time finds weights that EPS counts for
    once = net.weight.detach().clone()
    renormalise(net)
    torch.testing.assert_close(net.weight.detach(), once, rtol=0, atol=1e-6)
    net.requires_grad_(False).weight.mul_(3)
    renormalise(net)
    torch.testing.assert_close(net.weight, 3 * once, rtol=0, atol=1e-5)  # a frozen one stands still


def test_rows_of_zeros_stay_and_rows_of_one_number_cannot_be_centred() -> None:
    w = torch.zeros(2, 3, requires_grad=True)
    normalised(w).sum().backward()
    assert not normalised(w).any() and w.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"\(4, 1\) would be 0"):
        MPLinear(1, 4, centred=True)


def quadrature(f: object) -> tuple[float, float]:
    """Mean and mean square of f(x), x ~ N(0, 1)."""
    x = torch.linspace(-12, 12, 240_001)
    p = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    y = f(x)
    return float((p * y).sum()), float((p * y * y).sum())


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_activations(slope: float) -> None:
    assert quadrature(lambda x: mp_lrelu(x, slope))[1] == pytest.approx(1, abs=1e-6)
    mean, square = quadrature(lambda x: mp_lrelu(x, slope, centred=True))
    assert square - mean**2 == pytest.approx(1, abs=1e-6)
    assert quadrature(mp_silu)[1] == pytest.approx(1, abs=2e-3)


def test_the_published_gains() -> None:
    x = torch.tensor([1.0])
    assert 1 / mp_lrelu(x).item() == pytest.approx(0.7211, abs=1e-4)
    assert mp_lrelu(x, centred=True).item() == pytest.approx(1.5465, abs=1e-4)


def mean_square(x: Tensor) -> float:
    return x.square().mean().item()


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_sums_and_concatenations(t: float) -> None:
    a, b = torch.randn(4000, 30), torch.randn(4000, 10)
    assert mean_square(mp_sum(a[:, :10], b, t)) == pytest.approx(1, abs=0.02)
    joined = mp_cat(a, b, t)
    assert mean_square(joined) == pytest.approx(1, abs=0.02)
    # b's share of the sum of squares, which is what a layer behind sees
    share = joined[:, 30:].square().sum().item() / joined.square().sum().item()
    assert share == pytest.approx(t**2 / (t**2 + (1 - t) ** 2), abs=0.02)


def test_fourier_features() -> None:
    features = MPFourier(512)(torch.linspace(-3, 3, 64))
    assert features.shape == (64, 512) and mean_square(features) == pytest.approx(1, abs=0.02)


MODEL = """
from math import prod
import torch
from torch import nn
from modelling.layers import image_shape
from ops.magnitude_preserving import MPLinear, mp_lrelu


class Generator(nn.Module):
    def __init__(self, *, img_size, img_channels, z_dim, width=4):
        super().__init__()
        self.img_size, self.img_channels, self.z_dim = img_size, img_channels, z_dim
        self.shape = (img_channels, *image_shape(img_size))
        self.last = MPLinear(z_dim, prod(self.shape))

    def forward(self, z, y=None):
        return torch.tanh(self.last(z)).unflatten(1, self.shape)


class Discriminator(nn.Module):
    def __init__(self, *, img_size, img_channels, width=4):
        super().__init__()
        self.img_size, self.img_channels = img_size, img_channels
        self.first = MPLinear(img_channels * prod(image_shape(img_size)), width)
        self.last = MPLinear(width, 1)

    def forward(self, x, y=None):
        return self.last(mp_lrelu(self.first(x.flatten(1)))).squeeze(1)
"""


def test_training_keeps_weights_at_their_length(tmp_path: Path) -> None:
    """After every step, lazy ones included; the average's are shorter, and act as if they were not."""
    (tmp_path / "mp.py").write_text(MODEL)
    norms: dict[int, float] = {}

    def look(step: int, _: object) -> None:
        layers = [m for n in networks for m in n.module.modules() if isinstance(m, Normalised)]
        squares = torch.cat([m.weight.detach().square().mean(1) for m in layers])
        norms[step] = (squares - 1).abs().max().item()

    networks: list = []
    plain = Loop.run_step

    def run_step(self: Loop) -> None:
        networks[:] = self.networks.values()
        plain(self)

    with patch.object(Loop, "run_step", run_step):
        command = f"--model {tmp_path}/mp.py --n_steps 4 --lr 0.3 --r1_weight 1 --penalty_interval r1=2 --ema"
        run(f"--log_name a {command}", tmp_path, on_step=look)
    assert list(norms) == [1, 2, 3, 4] and all(value < 10 * EPS for value in norms.values())
