"""Scores of images against what each of them should be: mean absolute difference, PSNR and SSIM.

All take uint8 or floating-point images x and y (N, C, H, W) with values 0 to 255, and give one float64 value an image,
so that the score of a set is their mean, in whatever chunks it is computed. ValueError for images of other shapes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from errors import UserError

MOST = 255.0  # of a pixel
PSNR_CAP = 100.0  # dB, of images that are equal: infinity would be the mean of any set with one such pair
# Of SSIM, section III-C of the paper.
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64, on the CPU where the device has none; ValueError that names both shapes."""
    if x.dim() != 4 or x.shape != y.shape:
        raise ValueError(
            f"images (N, C, H, W) of one shape are compared, not {tuple(x.shape)} with {tuple(y.shape)}"
        )
    x, y = (a.cpu() if a.device.type == "mps" else a for a in (x, y))
    return x.double(), y.double()


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean of |x - y| / 255, (N,): 0 for equal images, 1 for black against white."""
    x, y = _checked(x, y)
    return (x - y).abs().flatten(1).mean(1) / MOST


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """10 log10(255^2 / mean of (x - y)^2) in dB, (N,); at most 100, which is what equal images have."""
    x, y = _checked(x, y)
    error = (x - y).square().flatten(1).mean(1)
    return (10 * torch.log10(MOST**2 / error)).clamp(max=PSNR_CAP)


def _window(like: Tensor) -> Tensor:
    """The normalised Gaussian window along one axis, (WINDOW,)."""
    at = torch.arange(WINDOW, dtype=like.dtype, device=like.device) - WINDOW // 2
    weights = (-at.square() / (2 * SIGMA**2)).exp()
    return weights / weights.sum()


def _blurred(x: Tensor) -> Tensor:
    """Local means by the window where it lies inside, (N, C, H, W) -> (N, C, H - 10, W - 10)."""
    n, c, height, width = x.shape
    window = _window(x)
    x = F.conv2d(x.reshape(n * c, 1, height, width), window.view(1, 1, -1, 1))
    return F.conv2d(x, window.view(1, 1, 1, -1)).unflatten(0, (n, c))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity, (N,): at most 1, which equal images have. Wang et al. 2004, eq. 13.

    Gaussian window of 11 px, sigma 1.5, K1 = 0.01, K2 = 0.03, where it lies inside the image; the mean over positions
    and channels, each seen by itself. UserError for images below 11 px a side.
    """
    x, y = _checked(x, y)
    if min(x.shape[2:]) < WINDOW:
        raise UserError(
            f"ssim: its window has {WINDOW} px a side, and the images are {_size(x)}: leave it out"
        )
    mean_x, mean_y, xx, yy, xy = (_blurred(a) for a in (x, y, x * x, y * y, x * y))
    c1, c2 = (K1 * MOST) ** 2, (K2 * MOST) ** 2
    covariance = xy - mean_x * mean_y
    variances = xx - mean_x.square() + yy - mean_y.square()
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).flatten(1).mean(1)


def _size(x: Tensor) -> str:
    return " x ".join(map(str, x.shape[2:]))


@dataclass(frozen=True)
class PairMetric:
    """A row of PAIRWISE: images, what they should be -> one value each; better: "low" or "high"; least: px a side;
    settings: for the protocol."""

    compute: Callable[[Tensor, Tensor], Tensor]
    better: str
    help: str
    settings: str
    least: int = 1


PAIRWISE: dict[str, PairMetric] = {
    "l1": PairMetric(l1, "low", "mean absolute difference from the target, 0 to 1", "mean of |x - y| / 255"),
    "psnr": PairMetric(
        psnr, "high", "peak signal-to-noise ratio to the target, dB",
        f"mean over images of 10 log10(255^2 / MSE), each at most {PSNR_CAP:g}",
    ),
    "ssim": PairMetric(
        ssim, "high", "structural similarity to the target, Wang et al. 2004",
        f"Gaussian window of {WINDOW}, sigma {SIGMA:g}, K1 {K1:g}, K2 {K2:g}, inside the image; mean over channels",
        least=WINDOW,
    ),
}  # fmt: skip


def pair_scores(names: Sequence[str], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The rows of PAIRWISE asked for, one value an image each."""
    return {name: PAIRWISE[name].compute(x, y) for name in names}
