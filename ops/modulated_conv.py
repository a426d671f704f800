"""Convolution with a weight that each sample scales by its own style. arXiv:1912.04958 section 2.2, eq. 1-3.

Two forms of the same function. The ordinary one scales the maps that go in by the style and those that come out by
the demodulation, so that all samples share one convolution; the factors of the demodulation are a matrix product and
no weight per sample is ever built. The grouped form builds the weights, and no scaled maps.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.precision import upcast, without_autocast
from ops.resample import conv_up, upsample

EPS = 1e-8  # inside the root of eq. 3
_SMALLEST = 1e-6  # stands in for a largest value of 0


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    s: Tensor,
    *,
    demodulate: bool = True,
    up_taps: tuple[float, ...] | None = None,
    grouped: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Convolve sample n of x (N, C, H, W) with gain w_n, w_n[o, c] = s[n, c] weight[o, c]; (N, O, H', W').

    weight (O, C, k, k), k odd; s (N, C). demodulate: divide w_n[o] by its norm, eq. 3. up_taps: None keeps the size;
    a filter doubles it, see resample.conv_up. grouped: the other form, see grouped_pays. Works in x's type and
    with autocast off; with x in half precision nothing on the way exceeds the result by much, however large s and
    weight are. ValueError for shapes that do not fit. arXiv:1912.04958 eq. 1-3.
    """
    _check_shapes(x, weight, s)
    with without_autocast(x):
        s, weight, undone = _brought_to_one(upcast(s), upcast(weight), x.dtype)
        if demodulate:
            # eq. 3 is the same for any scale of s and weight but for eps, which is scaled alike.
            factor = gain * demodulation(weight, s, EPS if undone is None else EPS / undone.square())
        else:
            factor = gain if undone is None else gain * undone
        if grouped:
            w = s[:, None, :, None, None] * weight  # (N, O, C, k, k)
            w = w * (factor[:, :, None, None, None] if isinstance(factor, Tensor) else factor)
            return _grouped(x, w.to(x.dtype), up_taps)
        x = x * s.to(x.dtype)[:, :, None, None]
        if not isinstance(factor, Tensor):
            return _conv(x, (weight * factor).to(x.dtype), up_taps)
        return _conv(x, weight.to(x.dtype), up_taps) * factor.to(x.dtype)[:, :, None, None]


def demodulation(weight: Tensor, s: Tensor, eps: float | Tensor = EPS) -> Tensor:
    """1 / the norm of each sample's weight of each output, (N, O): (sum_c s^2 sum_k weight^2 + eps)^(-1/2).

    weight (O, C, k, k), s (N, C), eps: one for all or (N, O). arXiv:1912.04958 eq. 3.
    """
    return (s.square() @ weight.square().sum((2, 3)).t() + eps).rsqrt()


def grouped_pays(x: Tensor, weight: Tensor, up: bool) -> bool:
    """Whether gradients of gradients are expected to cost less in the grouped form.

    On a CPU never: with the gradient of a whole network coming in, 1.2 to 2 times dearer at all of 64 to 256 channels
    and 32 to 128 px. Elsewhere where a sample's maps outweigh its weights.
    """
    o, c = weight.shape[:2]
    positions = x.shape[2] * x.shape[3]
    return x.is_cuda and weight.numel() <= c * positions + o * positions * (4 if up else 1)


def _brought_to_one(s: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    """s, weight and None for the wider types; else both so small that no sum overflows, and the factor (N, O) lost.

    The largest of a sample's s becomes 1 and that of an output's weight (C k^2)^(-1/2): a sum over C k^2 stays below
    (C k^2)^(1/2) times the largest x, and ordinary weights stay clear of the numbers too small for float16. Any
    other constants would give the same result, so that no gradient flows through these.
    """
    if dtype not in (torch.float16, torch.bfloat16):
        return s, weight, None
    of_s = s.detach().abs().amax(1, keepdim=True).clamp(min=_SMALLEST)  # (N, 1)
    largest = weight.detach().abs().amax((1, 2, 3), keepdim=True)  # (O, 1, 1, 1)
    of_weight = (largest * weight[0].numel() ** 0.5).clamp(min=_SMALLEST)
    return s / of_s, weight / of_weight, of_s * of_weight.view(1, -1)


def _conv(x: Tensor, weight: Tensor, up_taps: tuple[float, ...] | None, groups: int = 1) -> Tensor:
    if up_taps is None:
        return F.conv2d(x, weight, padding=weight.shape[2] // 2, groups=groups)
    return conv_up(x, weight, up_taps, groups)


def _grouped(x: Tensor, w: Tensor, up_taps: tuple[float, ...] | None) -> Tensor:
    """x (N, C, H, W), w (N, O, C, k, k) -> (N, O, H', W'): one convolution of N groups, in x's memory format."""
    n = x.shape[0]
    if w.shape[3] == 1:
        y = _products(x, w[..., 0, 0])
        return y if up_taps is None else upsample(y, up_taps)
    layout = (
        torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    )
    joined = x.reshape(1, -1, *x.shape[2:])  # (N, C, H, W) -> (1, N C, H, W)
    w = w.contiguous().flatten(0, 1)  # (N, O, C, k, k) -> (N O, C, k, k)
    y = _conv(joined, w, up_taps, n)
    return y.view(n, -1, *y.shape[2:]).contiguous(memory_format=layout)


def _products(x: Tensor, w: Tensor) -> Tensor:
    """A convolution of kernel 1 as one matrix product a sample: x (N, C, H, W), w (N, O, C) -> (N, O, H, W)."""
    if x.is_contiguous(memory_format=torch.channels_last):
        rows = x.permute(0, 2, 3, 1).flatten(1, 2)  # (N, H W, C)
        return (rows @ w.transpose(1, 2)).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
    return (w @ x.flatten(2)).unflatten(2, x.shape[2:])


def _check_shapes(x: Tensor, weight: Tensor, s: Tensor) -> None:
    if x.dim() != 4 or weight.dim() != 4 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"x (N, C, H, W) and weight (O, C, k, k) do not fit: {tuple(x.shape)}, {tuple(weight.shape)}"
        )
    if weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        raise ValueError(f"the kernel must be square and odd, not that of weight {tuple(weight.shape)}")
    if tuple(s.shape) != tuple(x.shape[:2]):
        raise ValueError(
            f"s must be (N, C), {tuple(x.shape[:2])} for x {tuple(x.shape)}, not {tuple(s.shape)}"
        )
