"""pix2pix's U-Net: an image through ever smaller maps and back, with skips between maps of a size. arXiv:1611.07004.

Deviations, the first two as in the authors' code: dropout acts not in the first three layers of the way up but in those
after the innermost that have the most channels, three of them at 256 px; where the norm brings a shift, no layer but
the last has a bias, not even those without a norm. The default norm is instance norm, which batch norm is in the
paper's batches of one picture, in training and sampling.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError
from modelling.layers import (
    Size,
    as_size,
    check_choice,
    check_number,
    has_shift,
    hidden_block,
    image_shape,
    init_normal,
    norm_layer,
    size_text,
    widths,
)
from modelling.sizes import Sides, check_source
from ops.few_positions import doubled, halved

MOST = 8  # halvings unless told otherwise: 256 px to one
INNERMOST = 8  # px of the shorter side to which fewer lead
N_DROPOUT = 3


def usual_depth(img_size: Size) -> int:
    """As many halvings as both sides allow, at most MOST; UserError where they end above INNERMOST px before that."""
    h, w = image_shape(img_size)
    depth = next(k for k in reversed(range(MOST + 1)) if h % 2**k == w % 2**k == 0)
    if depth == MOST or (depth and min(h, w) >> depth <= INNERMOST):
        return depth
    multiple = 2 ** min(max(min(h, w).bit_length() - 3, 1), MOST)
    nearest = as_size(Sides(multiple, multiple).nearest(h, w))
    raise UserError(
        f"unet halves the sides 1 to {MOST} times, until the shorter is at most {INNERMOST} px, which "
        f"{size_text(as_size(img_size))} does not allow: the nearest is --img_size "
        f"{size_text(nearest)}, or give --g_kwargs depth="
    )


class Halving(nn.Conv2d):
    """4x4, stride 2."""

    def __init__(self, c_in: int, c_out: int, bias: bool) -> None:
        super().__init__(c_in, c_out, 4, 2, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/2, W/2)."""
        return halved(x, self.weight, self.bias)


class Doubling(nn.ConvTranspose2d):
    """4x4, stride 2."""

    def __init__(self, c_in: int, c_out: int, bias: bool = True) -> None:
        super().__init__(c_in, c_out, 4, 2, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', 2H, 2W)."""
        return doubled(x, self.weight, self.bias)


class Dropout(nn.Dropout):
    """Dropout that acts in eval mode too where `sampling` is on: the only noise that pix2pix's G has."""

    def __init__(self, p: float, sampling: bool) -> None:
        super().__init__(p)
        self.sampling = sampling

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type."""
        return F.dropout(x, self.p, self.training or self.sampling)


class Generator(nn.Module):
    """Images (N, source_channels, H, W) -> images (N, img_channels, H, W) in [-1, 1].

    source_channels: img_channels unless given; depth: halvings, see usual_depth; width: channels after the first layer,
    doubled a level, up to 8 times. dropout: of the blocks up with the most channels, the innermost left out, at most
    three, none below depth 6; sampling_dropout: in eval mode too. It takes any sides that 2^depth divides (`sides`).
    ValueError for sizes that it does not make, which names the nearest, and for settings out of range.
    """

    factor = 1

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        source_channels: int | None = None,
        depth: int | None = None,
        norm: str = "instance",
        width: int = 64,
        dropout: float = 0.5,
        sampling_dropout: bool = True,
    ) -> None:
        super().__init__()
        source_channels = img_channels if source_channels is None else source_channels
        depth = usual_depth(img_size) if depth is None else depth
        check_number("depth", depth, 1, 13, whole=True)
        for name, value in (
            ("img_channels", img_channels), ("source_channels", source_channels), ("width", width),
        ):  # fmt: skip
            check_number(name, value, 1, whole=True)
        check_number("dropout", dropout, 0, 1)
        check_choice("sampling_dropout", sampling_dropout, (True, False))
        self.sides = Sides(2**depth, 2**depth)
        self.sides.check(f"unet of depth {depth}", img_size)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.source_channels = source_channels
        channels = [source_channels, *widths(width, depth)]
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        bias = not has_shift(norm_layer(norm, 1))
        for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
            outermost, innermost = i == 0, i == depth - 1
            after = None if outermost or innermost else norm_layer(norm, c_out)
            down = Halving(c_in, c_out, bias)
            self.downs.append(hidden_block(down, after, "relu" if innermost else "leaky_relu"))
        for i in range(depth - 1):  # from the innermost: outputs have the channels of the skip
            c_in, c_out = channels[depth - i], channels[depth - i - 1]
            up = Doubling(c_in if i == 0 else 2 * c_in, c_out, bias)
            self.ups.append(hidden_block(up, norm_layer(norm, c_out), None))
            if dropout and 0 < i <= N_DROPOUT and c_out == 8 * width:
                self.ups[-1].add_module("dropout", Dropout(dropout, sampling_dropout))
        self.to_image = Doubling(width if depth == 1 else 2 * width, img_channels)
        init_normal(self)

    def forward(self, a: Tensor) -> Tensor:
        """ValueError unless a has the network's channels and sides that fit."""
        check_source(a, self.source_channels, self.sides)
        maps, h = [], a
        for down in self.downs:
            h = down(h)
            maps.append(h)
        h = maps.pop()
        for up in self.ups:  # ReLU of a skip that went through LeakyReLU is that of the skip
            h = F.relu(torch.cat([maps.pop(), up(h)], 1), inplace=True)
        return torch.tanh(self.to_image(h))
