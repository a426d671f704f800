"""Modulated convolution: both forms against a plain loop over samples, to the second derivative, and in few bits."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from ops.modulated_conv import demodulation, grouped_pays, modulated_conv2d
from ops.resample import TAPS_121, TAPS_1331
from ops.upfirdn2d import upfirdn2d_reference

# N, C, O, H, W, kernel, settings
CASES = [
    (3, 4, 5, 6, 7, 3, {}),
    (2, 3, 6, 5, 4, 3, {"demodulate": False}),
    (2, 5, 3, 4, 6, 1, {"demodulate": False}),
    (2, 5, 3, 4, 6, 1, {}),
    (2, 3, 4, 5, 6, 3, {"up_taps": TAPS_1331}),
    (3, 2, 3, 4, 3, 3, {"up_taps": TAPS_121, "gain": 1.5}),
    (1, 2, 3, 4, 3, 1, {"up_taps": TAPS_1331}),
    (2, 3, 2, 7, 5, 5, {"gain": 0.5}),
]
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


def inputs(n: int, c: int, o: int, h: int, w: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, s in float64."""
    shapes = ((n, c, h, w), (o, c, k, k), (n, c))
    return tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)


def plain_loop(
    x: Tensor,
    weight: Tensor,
    s: Tensor,
    *,
    demodulate: bool = True,
    up_taps: tuple[float, ...] | None = None,
    gain: float = 1.0,
) -> Tensor:
    """One sample after the other, equations 1 and 3 as printed."""
    outputs = []
    for n in range(len(x)):
        w = torch.stack([s[n, c] * weight[:, c] for c in range(weight.shape[1])], 1)
        if demodulate:
            w = torch.stack([w_o / torch.sqrt((w_o**2).sum() + 1e-8) for w_o in w])
        y = x[n : n + 1]
        outputs.append(
            gain * (F.conv2d(y, w, padding=w.shape[2] // 2) if up_taps is None else up(y, w, up_taps))
        )
    return torch.cat(outputs)


def up(x: Tensor, w: Tensor, taps: tuple[float, ...]) -> Tensor:
    """Zeros after each pixel, the kernel turned by 180 degrees, the filter with gain 2 an axis, then the middle."""
    k, n_taps = w.shape[2], len(taps)
    spread = torch.stack([x, torch.zeros_like(x)], 4).flatten(3)
    spread = torch.stack([spread, torch.zeros_like(spread)], 3).flatten(2, 3)  # (N, C, 2 H, 2 W)
    doubled = tuple(2 * tap for tap in taps)
    wide = F.conv2d(spread, w.flip(2, 3), padding=k - 1)
    wide = upfirdn2d_reference(wide, doubled, doubled, pad=n_taps - 1)
    start = k // 2 + n_taps // 2 - 1
    return wide[:, :, start : start + spread.shape[2], start : start + spread.shape[3]]


def orders(y: Tensor, leaves: tuple[Tensor, ...]) -> list[Tensor]:
    """The value, the gradients of a curved loss, and the gradients of these gradients' squares."""
    first = torch.autograd.grad((y.sin() * (1 + y)).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    return [y, *first, *second]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", CASES)
def test_both_forms_equal_a_loop_over_samples_to_second_order(
    case: tuple, layout: torch.memory_format, grouped: bool
) -> None:
    *shape, settings = case
    leaves = inputs(*shape)
    expected = orders(plain_loop(*leaves, **settings), leaves)
    leaves = tuple(
        (v.detach().to(memory_format=layout) if v.dim() == 4 else v.detach()).requires_grad_() for v in leaves
    )
    actual = orders(modulated_conv2d(*leaves, grouped=grouped, **settings), leaves)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, **EXACT)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("up_taps", [None, TAPS_1331])
@pytest.mark.parametrize("kernel", [1, 3])
def test_gradients_against_finite_differences(grouped: bool, up_taps: tuple | None, kernel: int) -> None:
    leaves = inputs(2, 2, 2, 3, 2, kernel)

    def f(x: Tensor, weight: Tensor, s: Tensor) -> Tensor:
        return modulated_conv2d(x, weight, s, up_taps=up_taps, grouped=grouped)

    assert torch.autograd.gradcheck(f, leaves)
    assert torch.autograd.gradgradcheck(f, leaves)


def test_demodulated_output_has_unit_variance() -> None:
    x, weight = torch.randn(16, 64, 16, 16), 7 * torch.randn(32, 64, 3, 3)
    s = torch.randn(16, 64).exp()
    inner = modulated_conv2d(x, weight, s)[:, :, 1:-1, 1:-1]
    assert_close(inner.std((2, 3)).mean(), torch.tensor(1.0), rtol=0.03, atol=0)
    plain = modulated_conv2d(x, weight, s, demodulate=False)[:, :, 1:-1, 1:-1]
    assert plain.std() > 100


@pytest.mark.parametrize("grouped", [False, True])
def test_demodulation_undoes_the_scale_of_a_style(grouped: bool) -> None:
    x, weight, s = inputs(3, 4, 5, 6, 6, 3)
    scale = torch.tensor([0.5, 1.0, 300.0], dtype=torch.float64)
    y = modulated_conv2d(x, weight, s, grouped=grouped)
    assert_close(modulated_conv2d(x, weight, s * scale[:, None], grouped=grouped), y, rtol=1e-7, atol=1e-7)
    unmodulated = modulated_conv2d(x, weight, s, grouped=grouped, demodulate=False)
    scaled = modulated_conv2d(x, weight, s * scale[:, None], grouped=grouped, demodulate=False)
    assert_close(scaled, unmodulated * scale[:, None, None, None], **EXACT)


def test_demodulation_is_the_norm_of_each_weight_and_finite_at_zero() -> None:
    _, weight, s = inputs(2, 3, 4, 5, 5, 3)
    per_sample = s[:, None, :, None, None] * weight
    expected = 1 / (per_sample.square().sum((2, 3, 4)) + 1e-8).sqrt()
    assert_close(demodulation(weight, s), expected, **EXACT)
    assert_close(demodulation(weight, torch.zeros_like(s)), torch.full_like(expected, 1e4), **EXACT)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"up_taps": TAPS_1331}])
def test_huge_styles_and_weights_do_not_overflow_half_precision(
    settings: dict, dtype: torch.dtype, grouped: bool
) -> None:
    x, weight, s = torch.randn(2, 64, 8, 8), 1e4 * torch.randn(8, 64, 3, 3), 3e4 * torch.randn(2, 64)
    leaves = [v.requires_grad_() for v in (x.clamp(-4, 4) * 90, weight, s)]
    expected = modulated_conv2d(*leaves, **settings)
    y = modulated_conv2d(leaves[0].to(dtype), leaves[1], leaves[2], grouped=grouped, **settings)
    assert y.dtype == dtype
    close = {
        "rtol": 0.03,
        "atol": (0.01 if dtype == torch.float16 else 0.08) * float(expected.detach().std()),
    }
    assert_close(y.float(), expected, **close)
    wanted = torch.autograd.grad(expected.square().mean(), leaves)
    for got, want in zip(torch.autograd.grad(y.float().square().mean(), leaves), wanted, strict=True):
        assert got.isfinite().all()
        assert F.cosine_similarity(got.flatten().double(), want.flatten().double(), 0) > 0.99


@pytest.mark.parametrize("grouped", [False, True])
def test_half_precision_keeps_the_eps_of_small_weights(grouped: bool) -> None:
    x, weight, s = torch.randn(2, 64, 8, 8), 2e-3 * torch.randn(8, 64, 3, 3), 2e-3 * torch.randn(2, 64)
    expected = modulated_conv2d(x, weight, s)
    assert 0.3 < expected.std() < 0.9  # without eps it is 1
    y = modulated_conv2d(x.half(), weight, s, grouped=grouped)
    assert_close(y.float(), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("grouped", [False, True])
def test_half_precision_without_demodulation_keeps_scale_and_gradients_of_zero_styles(grouped: bool) -> None:
    x, weight, s = torch.randn(2, 512, 4, 4), torch.randn(3, 512, 1, 1), torch.randn(2, 512)
    s[1] = 0
    settings = {"demodulate": False, "gain": 512**-0.5, "grouped": grouped}
    y = modulated_conv2d(x.half(), weight, s, **settings)
    assert_close(y.float(), modulated_conv2d(x, weight, s, **settings), rtol=0.02, atol=0.02)
    assert y[1].abs().max() == 0


def test_autocast_does_not_change_the_type() -> None:
    x, weight, s = (v.float() for v in inputs(2, 3, 4, 5, 5, 3))
    expected = modulated_conv2d(x, weight, s)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = modulated_conv2d(x, weight, s)
        assert modulated_conv2d(x.bfloat16(), weight, s).dtype == torch.bfloat16
    assert y.dtype == torch.float32 and torch.equal(y, expected)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_channels_last_stays(grouped: bool, kernel: int) -> None:
    x, weight, s = inputs(2, 4, 5, 6, 6, kernel)
    x, weight = x.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)
    y = modulated_conv2d(x, weight, s, grouped=grouped)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_meta_device_and_choice_of_form() -> None:
    x, weight, s = (v.to("meta") for v in inputs(2, 4, 5, 6, 6, 3))
    assert modulated_conv2d(x, weight, s, up_taps=TAPS_1331).shape == (2, 5, 12, 12)
    assert modulated_conv2d(x, weight, s, grouped=True).shape == (2, 5, 6, 6)
    assert not grouped_pays(torch.randn(2, 4, 64, 64), torch.randn(4, 4, 3, 3), False)


@pytest.mark.parametrize(
    ("x", "weight", "s", "message"),
    [
        ((2, 3, 4, 4), (5, 4, 3, 3), (2, 3), r"\(2, 3, 4, 4\), \(5, 4, 3, 3\)"),
        ((2, 3, 4), (5, 3, 3, 3), (2, 3), r"\(2, 3, 4\), \(5, 3, 3, 3\)"),
        ((2, 3, 4, 4), (5, 3, 2, 2), (2, 3), r"odd, not that of weight \(5, 3, 2, 2\)"),
        ((2, 3, 4, 4), (5, 3, 3, 1), (2, 3), r"square and odd, not that of weight \(5, 3, 3, 1\)"),
        ((2, 3, 4, 4), (5, 3, 3, 3), (2, 5), r"\(2, 3\) for x \(2, 3, 4, 4\), not \(2, 5\)"),
        ((2, 3, 4, 4), (5, 3, 3, 3), (1, 3), r"\(2, 3\) for x \(2, 3, 4, 4\), not \(1, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(x: tuple, weight: tuple, s: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        modulated_conv2d(torch.zeros(x), torch.zeros(weight), torch.zeros(s))
