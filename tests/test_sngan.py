"""SNGAN's residual blocks and its two families: values, counts, shapes, labels, gradients of both orders."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from modelling.conditioning import ConditionalNorm, norm_factory
from modelling.resnet import DownBlock, UpBlock, activate, init_glorot, sum_pool, upsample


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


# Blocks


def norms_of(kind: str) -> object:
    """Norms as G gives them to its blocks: plain ones, none, or those of three labels."""
    return norm_factory("none" if kind == "none" else "batch", "cbn", 3 if kind == "cbn" else 0)


def normed(norm: nn.Module | None, x: Tensor, rows: Tensor) -> Tensor:
    """The norm of a block written out, by its kind."""
    if norm is None:
        return x
    return norm(x, rows) if isinstance(norm, ConditionalNorm) else norm(x)


def draw_parameters(net: nn.Module) -> nn.Module:
    """The network in float64, no parameter at a special value."""
    for p in net.double().parameters():
        nn.init.normal_(p, std=0.5)
    return net


@pytest.mark.parametrize("kind", ["none", "batch", "cbn"])
def test_up_block_is_its_formula(kind: str) -> None:
    block = draw_parameters(UpBlock(3, 5, norms_of(kind)))
    x, rows = torch.randn(4, 3, 4, 6).double(), F.one_hot(torch.tensor([0, 2, 1, 2]), 3).double()
    as_it_came = x.clone()

    def repeat(maps: Tensor) -> Tensor:
        return maps.repeat_interleave(2, 2).repeat_interleave(2, 3)

    h = block.conv1(repeat(normed(block.norm1, x, rows).clamp(min=0)))
    h = block.conv2(normed(block.norm2, h, rows).clamp(min=0))
    expected = h + block.shortcut(repeat(x))
    assert expected.shape == (4, 5, 8, 12)
    assert_close(block(x, rows), expected)
    assert torch.equal(x, as_it_came)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("c_out", "down", "c_hidden"), [(3, False, None), (5, False, 4), (3, True, 3), (5, True, None)]
)
def test_down_block_is_its_formula(first: bool, c_out: int, down: bool, c_hidden: int | None) -> None:
    block = draw_parameters(DownBlock(3, c_out, down=down, first=first, c_hidden=c_hidden))
    assert block.conv1.out_channels == (c_out if c_hidden is None else c_hidden)
    x = torch.randn(2, 3, 4, 6).double()
    as_it_came = x.clone()

    def pool(maps: Tensor) -> Tensor:
        return maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5)) if down else maps

    h = block.conv2(block.conv1(x if first else x.clamp(min=0)).clamp(min=0))
    shortcut = x if (c_out, down) == (3, False) else block.shortcut(x)
    assert_close(block(x), pool(h + shortcut))
    assert torch.equal(x, as_it_came)


def test_a_plain_shortcut_has_no_parameters() -> None:
    assert list(DownBlock(3, 3, down=False).shortcut.parameters()) == []


@pytest.mark.parametrize("block", [UpBlock(2, 2, lambda channels: None), DownBlock(2, 2, down=True)])
def test_shortcuts_see_negatives(block: nn.Module) -> None:
    """With silent 3x3 convolutions a block passes on what a ReLU in place would have cut."""
    for conv in (block.conv1, block.conv2):
        nn.init.zeros_(conv.weight), nn.init.zeros_(conv.bias)
    nn.init.dirac_(block.shortcut.weight), nn.init.zeros_(block.shortcut.bias)
    out = block(torch.full((1, 2, 4, 4), -1.0))
    assert_close(out, torch.full_like(out, -1.0))


def test_activation_changes_only_what_is_new() -> None:
    x = torch.tensor([[[[-1.0]], [[2.0]]]])
    assert_close(activate(None, x, None), x.clamp(min=0))
    assert_close(activate(nn.Identity(), x, None), x.clamp(min=0))
    assert float(x.min()) == -1
    assert_close(activate(nn.InstanceNorm2d(2).eval(), x.expand(1, 2, 1, 3), None), torch.zeros(1, 2, 1, 3))


def test_pools() -> None:
    x = torch.arange(8.0).view(1, 2, 2, 2)
    assert_close(sum_pool(x), torch.tensor([[6.0, 22.0]]))
    assert sum_pool(torch.ones(1, 1, 64, 64, dtype=torch.bfloat16) * 1.0078125).item() == 4096 * 1.0078125
    assert upsample(x)[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


def test_initial_weights() -> None:
    """Uniform of variance gain^2 2 / (fan_in + fan_out)."""
    net = nn.ModuleList([UpBlock(32, 64, norms_of("batch")), DownBlock(64, 32, down=True)])
    net.extend([nn.Linear(64, 96), nn.Conv2d(32, 64, 3)])
    init_glorot(net)
    up, down, linear, output = net
    fans = {
        **{conv.weight: (9 * 96, 2) for conv in (up.conv1, down.conv1)},
        **{conv.weight: (9 * n, 2) for conv, n in ((up.conv2, 128), (down.conv2, 64))},
        **{conv.weight: (96, 1) for conv in (up.shortcut, down.shortcut)},
        linear.weight: (160, 1),
        output.weight: (9 * 96, 1),
    }
    for weight, (fans_in_and_out, gain_squared) in fans.items():
        weight = weight.detach()
        bound = (6 * gain_squared / fans_in_and_out) ** 0.5
        assert 0.99 * bound < float(weight.abs().max()) <= bound
        assert_close(float(weight.std()), bound / 3**0.5, rtol=0.05, atol=0)
    assert not any(p.any() for name, p in net.named_parameters() if "bias" in name)
