"""Residual blocks of SNGAN, SA-GAN and BigGAN, with their pooling and initial weights. arXiv:1802.05957 appendix B."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelling.conditioning import TakesRows, call
from ops.precision import upcast


def repeat_pixels(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 2H, 2W), every pixel repeated."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def sum_pool(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C), summed over positions in full precision."""
    return upcast(x).sum((2, 3))


def activate(norm: nn.Module | None, x: Tensor, rows: Tensor | None) -> Tensor:
    """relu(norm(x)), the norm with the label rows if it takes them; x itself never changes."""
    h = x if norm is None else call(norm, x, rows)
    return F.relu(h, inplace=h is not x)


class ResidualUpBlock(TakesRows, nn.Module):
    """(norm, ReLU, upsampling, 3x3, norm, ReLU, 3x3) + (upsampling, 1x1) of maps and label rows.

    norms: channels -> norm or None, see norm_factory.
    """

    def __init__(self, c_in: int, c_out: int, norms: Callable[[int], nn.Module | None]) -> None:
        super().__init__()
        self.norm1, self.conv1 = norms(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2, self.conv2 = norms(c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """(N, c_in, H, W), (N, n_labels) -> (N, c_out, 2H, 2W)."""
        h = self.conv1(repeat_pixels(activate(self.norm1, x, rows)))
        h = self.conv2(activate(self.norm2, h, rows))
        return h + repeat_pixels(self.shortcut(x))  # 1x1 first: the same at a quarter of the work


class ResidualDownBlock(nn.Module):
    """(ReLU, 3x3, ReLU, 3x3, pooling) + (pooling, 1x1), where pooling, if `down`, averages 2x2 pixels.

    Of an odd side the last row, or column, is averaged alone.

    first: without the first ReLU, for images. The shortcut has its 1x1 where size or channels change. c_hidden:
    channels between the two 3x3, c_out by default.
    """

    def __init__(
        self, c_in: int, c_out: int, *, down: bool, first: bool = False, c_hidden: int | None = None
    ) -> None:
        super().__init__()
        c_hidden = c_out if c_hidden is None else c_hidden
        self.first = first
        self.conv1 = nn.Conv2d(c_in, c_hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(c_hidden, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if down or c_in != c_out else nn.Identity()
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H, W), or half that size, rounded up."""
        h = self.conv1(x if self.first else F.relu(x))  # not in place: the shortcut sees x with its negatives
        h = self.conv2(F.relu(h, inplace=True))
        return self.pool(h) + self.shortcut(self.pool(x))


@torch.no_grad()
def init_glorot(net: nn.Module, gain: float = 1.0) -> None:
    """Glorot's uniform weights, `gain` times as large in the 3x3 of blocks; biases 0."""
    blocks = [module for module in net.modules() if isinstance(module, ResidualUpBlock | ResidualDownBlock)]
    inner = {conv for block in blocks for conv in (block.conv1, block.conv2)}
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight, gain if module in inner else 1)
            if module.bias is not None:
                module.bias.zero_()
