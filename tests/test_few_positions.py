"""Convolutions as matrix products: torch's own in value, gradients and second gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from modelling import unet
from ops import few_positions
from ops.few_positions import doubled, halved

PAIRS = {
    "halved": (halved, lambda x, w, b: F.conv2d(x, w, b, 2, 1), (4, 3)),
    "doubled": (doubled, lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1), (3, 4)),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sides", [(2, 2), (2, 6), (4, 2)])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", PAIRS)
def test_products_are_convolutions(
    name: str, n: int, sides: tuple[int, int], layout: torch.memory_format, bias: bool
) -> None:
    ours, theirs, channels = PAIRS[name]
    x = torch.randn(n, 3, *sides, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    w = torch.randn(*channels, 4, 4, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    b = torch.randn(4, dtype=torch.float64, requires_grad=True) if bias else None
    inputs = [x, w] if b is None else [x, w, b]

    def looked_at(form: object) -> list[Tensor]:
        y = form(x, w, b)
        first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        return [y, *first, *second]

    assert_close(looked_at(ours), looked_at(theirs), rtol=0, atol=1e-11)
    assert torch.autograd.grad(ours(x, w, b).sum(), w)[0].stride() == w.stride()  # nothing turns it round


def test_larger_maps_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(few_positions, "as_matrix", lambda w: seen.append(w.shape) or w.flatten(1))
    w = torch.randn(2, 2, 4, 4)
    for form, most in ((halved, 16), (doubled, 8)):
        form(torch.randn(1, 2, most, most), w, None)
        form(torch.randn(1, 2, most + 2, most), w, None)
        form(torch.randn(2, 2, most, most), w, None)
    assert len(seen) == 2


def test_a_unet_is_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    G = unet.Generator(img_size=64, img_channels=3, width=2, dropout=0.0).double()
    a = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with_products = torch.autograd.grad(G(a).square().sum(), list(G.parameters()))
    monkeypatch.setattr(few_positions, "MOST", 0)
    without = torch.autograd.grad(G(a).square().sum(), list(G.parameters()))
    assert_close(with_products, without, rtol=1e-9, atol=1e-9)
    with torch.autocast("cpu", torch.bfloat16):
        assert G.float()(a.float()).dtype == torch.bfloat16
    monkeypatch.undo()
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(G(a.float()).float(), G.double()(a).float(), rtol=0, atol=0.2)
