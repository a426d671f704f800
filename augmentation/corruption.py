"""ADA's other transforms: octave bands of an image amplified, noise, cutout. arXiv:2006.06676 appendix B.

Samples to which nothing happens come back to the last bit. All compute in full precision, in x's dtype, and are
differentiable in x to any order; u is even in [0, 1), n normal, one row a sample; ValueError for other shapes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from augmentation.ada import reflect
from augmentation.draws import check_draws
from ops.precision import upcast, without_autocast

AMPLIFY_STD = 1.0  # of a band's gain, in powers of two
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # of pictures, lowest octave first: about 1/f
NOISE_STD = 0.1  # of the noise's own deviation; images span [-1, 1]
CUTOUT = 0.5  # of the image's width and height

# |H|^2 / 2 of the wavelet sym2 (4 taps, 2 vanishing moments): low pass; with signs turned about, high pass. Their sum
# is the identity.
_LOW = tuple(tap / 32 for tap in (-1, 0, 9, 16, 9, 0, -1))
_HIGH = tuple(tap / 32 for tap in (1, 0, -9, 16, -9, 0, 1))


def _spread(taps: tuple[float, ...], factor: int) -> tuple[float, ...]:
    """taps(z^factor): zeros between the taps."""
    return tuple(v for tap in taps for v in (tap, *[0.0] * (factor - 1)))[: factor * (len(taps) - 1) + 1]


def _times(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    """Filter a after filter b."""
    product = [0.0] * (len(a) + len(b) - 1)
    for i, tap in enumerate(a):
        for j, other in enumerate(b):
            product[i + j] += tap * other
    return tuple(product)


def _bands() -> tuple[tuple[float, ...], ...]:
    """Filters of the four octave bands, lowest first, of equal odd length: symmetric, and their sum is the identity."""
    low: tuple[float, ...] = (1.0,)
    found = []
    for factor in (1, 2, 4):
        found.insert(0, _times(low, _spread(_HIGH, factor)))
        low = _times(low, _spread(_LOW, factor))
    longest = len(low)
    sides = [(longest - len(band)) // 2 for band in (low, *found)]
    return tuple(
        (0.0,) * side + band + (0.0,) * side for side, band in zip(sides, (low, *found), strict=True)
    )


BANDS = _bands()
N_FILTER, N_NOISE, N_CUTOUT = len(BANDS), 1, 3  # even draws a sample
N_FILTER_NORMAL, N_NOISE_NORMAL = len(BANDS), 1  # normal ones; noise takes one more a value of the image


def _on(numbers: tuple, like: Tensor) -> Tensor:
    """A tensor of the type and on the device of another, which nothing waits for."""
    return torch.tensor(numbers, dtype=like.dtype).to(like.device, non_blocking=True)


def gains(u: Tensor, n: Tensor, p: Tensor | float) -> Tensor:
    """(N, 4) gains of the bands: each amplified by 2^N(0, 1) with probability p, at equal expected power of the image.

    After each amplification all gains are scaled so that pictures of BAND_POWER keep their power.
    """
    power = _on(BAND_POWER, n)
    total = torch.ones_like(n)
    for band in range(len(BANDS)):
        gain = torch.ones_like(n)
        gain[:, band] = torch.where(u[:, band] < p, (AMPLIFY_STD * n[:, band]).exp2(), 1.0)
        total = total * gain / (power * gain.square()).sum(1, keepdim=True).sqrt()
    return total


def band_filter(x: Tensor, u: Tensor, n: Tensor, p: Tensor) -> Tensor:
    """x (N, C, H, W) with its octave bands amplified apart, the edges mirrored. u (N, 4): switches; n (N, 4): gains."""
    check_draws(x, u, n, N_FILTER, N_FILTER_NORMAL)
    if x.device.type == "cpu" and not p > 0:
        return x
    with without_autocast(x):
        out = upcast(x)
        u, n = u.to(out), n.to(out)
        # (N, length); not matmul, which TF32 would round
        taps = (gains(u, n, p)[:, :, None] * _on(BANDS, out)).sum(1)
        height, width = x.shape[2:]
        margin = taps.shape[1] // 2
        rows, columns = (
            reflect(torch.arange(-margin, s + margin, device=x.device), s) for s in (height, width)
        )
        # each sample has a filter of its own: a convolution in N C groups
        taps = taps.repeat_interleave(x.shape[1], 0)[:, None, :, None]  # (N C, 1, length, 1)
        filtered = out.index_select(2, rows).index_select(3, columns).flatten(0, 1)[None]
        filtered = F.conv2d(filtered, taps, groups=len(taps))
        filtered = F.conv2d(filtered, taps.transpose(2, 3), groups=len(taps))[0].view_as(out)
        applied = (u < p).any(1)[:, None, None, None]
        return torch.where(applied, filtered, out).to(x.dtype)


def noise(x: Tensor, u: Tensor, n: Tensor, p: Tensor) -> Tensor:
    """x (N, C, H, W) with noise of deviation |N(0, 0.1)| with probability p.

    u (N, 1): the switch; n (N, 1 + C H W): the deviation, and the noise.
    """
    check_draws(x, u, n, N_NOISE, N_NOISE_NORMAL + x[0].numel())
    if x.device.type == "cpu" and not p > 0:
        return x
    out = upcast(x)
    n = n.to(out)
    std = (NOISE_STD * n[:, 0].abs())[:, None, None, None]
    noisy = out + std * n[:, 1:].reshape(out.shape)
    return torch.where((u < p)[:, :, None, None], noisy, out).to(x.dtype)


def cutout(x: Tensor, u: Tensor, n: Tensor, p: Tensor) -> Tensor:
    """x (N, C, H, W) with a patch half as high and half as wide set to 0 with probability p, its centre anywhere.

    u (N, 3): the switch, the centre along x, along y, as shares of the image; n (N, 0).
    """
    check_draws(x, u, n, N_CUTOUT, 0)
    if x.device.type == "cpu" and not p > 0:
        return x
    u = upcast(u)
    covered = (u[:, 0] < p)[:, None, None]
    for centre, size, axis in ((u[:, 1], x.shape[3], 1), (u[:, 2], x.shape[2], 2)):
        middles = (torch.arange(size, device=x.device, dtype=u.dtype) + 0.5) / size
        covered = covered & ((middles - centre[:, None]).abs() < CUTOUT / 2).unsqueeze(axis)
    return torch.where(covered[:, None], torch.zeros_like(x), x)
