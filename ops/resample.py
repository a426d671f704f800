"""Blurring, resampling by 2 and their fusions with a convolution, by low-pass filters. arXiv:1912.04958 appendix B."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.upfirdn2d import upfirdn2d

TAPS_1331 = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
TAPS_121 = (1 / 4, 1 / 2, 1 / 4)

Taps = tuple[float, ...]


def blur(x: Tensor, taps: Taps) -> Tensor:
    """Filter along both axes; the shape stays, zeros around. An even filter shifts by half a pixel."""
    before, after = len(taps) // 2, (len(taps) - 1) // 2
    return upfirdn2d(x, taps, taps, pad=(before, after, before, after))


def upsample(x: Tensor, taps: Taps, factor: int = 2) -> Tensor:
    """(N, C, H, W) -> (N, C, factor H, factor W), interpolated by the filter; means are kept."""
    before, after = (len(taps) + factor - 1) // 2, (len(taps) - factor) // 2
    taps = _times(taps, factor)
    return upfirdn2d(x, taps, taps, up=factor, pad=(before, after, before, after))


def downsample(x: Tensor, taps: Taps, factor: int = 2) -> Tensor:
    """(N, C, H, W) -> (N, C, H // factor, W // factor), filtered before pixels are left out."""
    before, after = (len(taps) - factor + 1) // 2, (len(taps) - factor) // 2
    return upfirdn2d(x, taps, taps, down=factor, pad=(before, after, before, after))


def conv_up(x: Tensor, weight: Tensor, taps: Taps, groups: int = 1) -> Tensor:
    """Upsampling by 2 and a convolution in one: (N, C, H, W) -> (N, O, 2H, 2W).

    weight (O, C / groups, k, k), k odd. The transposed convolution applies the kernel turned by 180 degrees: away from
    the border the result is conv2d(upsample(x, taps), weight.flip(2, 3)). Raises ValueError for another weight.
    """
    k = _check(x, weight, groups)
    if k == 1:  # at a quarter of the cost before the new pixels exist
        return upsample(F.conv2d(x, weight, groups=groups), taps)
    o, c = weight.shape[:2]
    # (O, C / g, k, k) -> (C, O / g, k, k)
    kernel = weight.unflatten(0, (groups, o // groups)).transpose(1, 2).reshape(groups * c, o // groups, k, k)
    out = F.conv_transpose2d(x, kernel, stride=2, groups=groups)
    before, after = k // 2 + (len(taps) + 1) // 2 - (k - 1), k // 2 + (len(taps) - 2) // 2 - (k - 2)
    taps = _times(taps, 2)
    return upfirdn2d(out, taps, taps, pad=(before, after, before, after))


def conv_down(x: Tensor, weight: Tensor, taps: Taps, groups: int = 1) -> Tensor:
    """A filter, then a convolution with stride 2: (N, C, H, W) -> (N, O, H // 2, W // 2).

    weight (O, C / groups, k, k), k odd: what conv2d(blur) gives at every second pixel. Raises ValueError for another
    weight.
    """
    k = _check(x, weight, groups)
    if k == 1:
        return F.conv2d(downsample(x, taps), weight, groups=groups)
    before, after = k // 2 + (len(taps) - 1) // 2, k // 2 + (len(taps) - 2) // 2
    x = upfirdn2d(x, taps, taps, pad=(before, after, before, after))
    return F.conv2d(x, weight, stride=2, groups=groups)


def _times(taps: Taps, gain: float) -> Taps:
    """The taps with a gain."""
    return tuple(gain * tap for tap in taps)


def _check(x: Tensor, weight: Tensor, groups: int) -> int:
    """The kernel's size; ValueError unless it is odd, square, of x's channels and, without autocast, of its dtype."""
    shapes = f"a kernel of {tuple(weight.shape)} in {groups} groups on an input of {tuple(x.shape)}"
    fits = (
        weight.ndim == x.ndim == 4
        and weight.shape[1] * groups == x.shape[1]
        and weight.shape[0] % groups == 0
    )
    if not fits or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        raise ValueError(f"{shapes}: expected (O, C / groups, k, k) with k odd")
    if x.dtype != weight.dtype and not x.is_meta and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"{shapes}: {weight.dtype} and {x.dtype}, give one dtype or use autocast")
    return weight.shape[2]
