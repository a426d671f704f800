"""Convolutions with kernels of 4 and stride 2 of maps so small that weights are most of the work: as matrix products.

On a CPU a convolution brings its weights into another order first, and their gradient back out of it. For the innermost
layers of a U-Net, millions of weights on a few positions, that is the larger part of their time. The references are
torch's own, which larger maps and other devices get. Positions are the products' rows: as columns, two to eight of them
take five times as long.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

MOST = 64  # positions of the smaller maps, over the batch


def pays(x: Tensor, n_positions: int) -> bool:
    """Whether a product is faster for x (N, C, H, W), whose samples have so many positions; never in a graph that is
    written for maps of any size."""
    return not torch.compiler.is_exporting() and x.device.type == "cpu" and len(x) * n_positions <= MOST


def halved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv2d(x, weight, bias, stride=2, padding=1) of even sides; weight (C', C, 4, 4)."""
    n, _, height, width = x.shape
    n_positions = height // 2 * (width // 2)
    if not pays(x, n_positions):
        return F.conv2d(x, weight, bias, 2, 1)
    patches = F.unfold(x, 4, padding=1, stride=2).view(n, -1, 16, n_positions)  # (N, C, 16, L)
    patches = patches.permute(0, 3, 2, 1) if taps_first(weight) else patches.permute(0, 3, 1, 2)
    y = patches.reshape(n * n_positions, -1) @ as_matrix(weight).t()  # (N * L, C')
    y = y.view(n, height // 2, width // 2, -1).permute(0, 3, 1, 2)
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


def doubled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv_transpose2d(x, weight, bias, stride=2, padding=1); weight (C, C', 4, 4)."""
    n, c, height, width = x.shape
    if not pays(x, height * width):
        return F.conv_transpose2d(x, weight, bias, 2, 1)
    patches = x.permute(0, 2, 3, 1).reshape(-1, c) @ as_matrix(weight)  # (N * L, 16 * C')
    if taps_first(weight):
        patches = patches.view(n, height * width, 16, -1).permute(0, 3, 2, 1)  # (N, C', 16, L)
    else:
        patches = patches.view(n, height * width, -1, 16).permute(0, 2, 3, 1)
    y = F.fold(patches.flatten(1, 2), (2 * height, 2 * width), 4, padding=1, stride=2)
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


def taps_first(weight: Tensor) -> bool:
    """Whether the 16 taps of (A, B, 4, 4) stand before B in memory, as in channels_last."""
    return not weight.is_contiguous()


def as_matrix(weight: Tensor) -> Tensor:
    """(A, B, 4, 4) -> (A, 16 * B), a view."""
    return (weight.permute(0, 2, 3, 1) if taps_first(weight) else weight).flatten(1)
