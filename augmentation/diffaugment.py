"""Differentiable augmentation, drawn for each sample: colour, translation, cutout. arXiv:2006.10738."""

import torch
from torch import Tensor

from augmentation.draws import check_draws, take
from ops.precision import upcast

N_COLOR, N_TRANSLATION, N_CUTOUT = 3, 2, 2  # even draws a sample
MAX_SHIFT = 0.125  # of the image's width and height
CUTOUT = 0.5  # likewise


def color(x: Tensor, u: Tensor, n: Tensor) -> Tensor:
    """Brightness + U(-.5, .5), then saturation x U(0, 2), then contrast x U(.5, 1.5); x (N, C, H, W) in [-1, 1].

    Saturation scales what differs from a pixel's mean over channels, contrast what differs from the image's mean.
    u (N, N_COLOR), n (N, 0); computed in full precision, in x's dtype. ValueError for other shapes.
    """
    check_draws(x, u, n, N_COLOR, 0)
    out = upcast(x)
    brightness, saturation, contrast = u.to(out.dtype)[:, :, None, None, None].unbind(1)  # each (N, 1, 1, 1)
    out = out + (brightness - 0.5)
    grey = out.mean(1, keepdim=True)
    out = grey + (out - grey) * (2 * saturation)
    mean = out.mean((1, 2, 3), keepdim=True)
    return (mean + (out - mean) * (contrast + 0.5)).to(x.dtype)


def _whole(u: Tensor, count: int) -> Tensor:
    """0 to count - 1, each as likely, from u (N,) even in [0, 1)."""
    return (upcast(u) * count).floor().long().clamp(max=count - 1)  # u just below 1 may round up to count


def translation(x: Tensor, u: Tensor, n: Tensor) -> Tensor:
    """Shift x (N, C, H, W) by whole pixels, up to 1/8 of its size to every side; zeros come in.

    u (N, N_TRANSLATION): along x, along y; n (N, 0). ValueError for other shapes.
    """
    check_draws(x, u, n, N_TRANSLATION, 0)
    sources, inside = [], []
    for draw, size in zip(u.unbind(1), (x.shape[3], x.shape[2]), strict=True):
        most = int(size * MAX_SHIFT + 0.5)
        shift = _whole(draw, 2 * most + 1) - most
        source = torch.arange(size, device=x.device) - shift[:, None]  # (N, size)
        sources.append(source.clamp(0, size - 1))
        inside.append((source >= 0) & (source < size))
    moved = take(x, sources[1][:, :, None] * x.shape[3] + sources[0][:, None])
    return moved * (inside[1][:, :, None] & inside[0][:, None])[:, None]


def cutout(x: Tensor, u: Tensor, n: Tensor) -> Tensor:
    """Set a patch of x (N, C, H, W) to zero, half as high and half as wide, its centre anywhere in the image.

    u (N, N_CUTOUT): along x, along y; n (N, 0). ValueError for other shapes.
    """
    check_draws(x, u, n, N_CUTOUT, 0)
    covered = []
    for draw, size in zip(u.unbind(1), (x.shape[3], x.shape[2]), strict=True):
        length = int(size * CUTOUT + 0.5)
        # The centre of an odd patch is a pixel, of an even one an edge: there is one more of these.
        first = _whole(draw, size + 1 - length % 2) - length // 2
        offset = torch.arange(size, device=x.device) - first[:, None]  # (N, size)
        covered.append((offset >= 0) & (offset < length))
    return x * ~(covered[1][:, :, None] & covered[0][:, None])[:, None]
