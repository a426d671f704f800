"""SRGAN: a residual generator that enlarges images 2, 4 or 8 times, and its discriminator. arXiv:1609.04802.

Deviation: what the network makes is added to its source, enlarged by cubic interpolation, as in arXiv:1511.04587, so
that it begins as that and learns what is missing; `skip=False` is the paper's, whose images end in tanh here. Where the
paper is silent: initial weights are DCGAN's; a parametric ReLU has one slope for all channels; a layer has a bias where
no norm brings a shift. The discriminator gives a logit.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError
from modelling.layers import (
    Size,
    as_size,
    check_choice,
    check_images,
    check_number,
    has_shift,
    hidden_block,
    image_shape,
    init_normal,
    norm_layer,
    size_text,
)
from modelling.sizes import Sides, check_source

FACTORS = (2, 4, 8)
LEAST = 17  # px of a side: the last norm of D sees more than one position


def normed_convolution(channels: int, norm: str) -> nn.Sequential:
    """3x3 of as many channels, and the norm."""
    after = norm_layer(norm, channels)
    return hidden_block(nn.Conv2d(channels, channels, 3, padding=1, bias=not has_shift(after)), after, None)


class ResidualBlock(nn.Module):
    """x + (3x3, norm, PReLU, 3x3, norm)(x)."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            normed_convolution(channels, norm), nn.PReLU(), normed_convolution(channels, norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x + self.layers(x)


def doubling(channels: int) -> nn.Sequential:
    """(N, C, H, W) -> (N, C, 2H, 2W): 3x3 to four times as many channels, which become 2x2 pixels, PReLU."""
    return nn.Sequential(nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2), nn.PReLU())


class Generator(nn.Module):
    """Small images (N, img_channels, H / factor, W / factor) -> images (N, img_channels, H, W), about [-1, 1].

    img_size is that of the large ones. n_blocks residual blocks of `width` channels work at the small size, which may
    be any from 2 px on (`sides`). skip: its output is added to the enlarged source. ValueError for sizes that the
    factor does not divide, which names the nearest, and for settings out of range.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        factor: int = 4,
        n_blocks: int = 16,
        norm: str = "batch",
        width: int = 64,
        skip: bool = True,
    ) -> None:
        super().__init__()
        check_choice("skip", skip, (True, False))
        check_number("factor", factor, 1, whole=True)
        check_choice("factor of srgan", factor, FACTORS)
        for name, value in (("img_channels", img_channels), ("n_blocks", n_blocks), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.sides = Sides(1, 2)  # a norm sees more than one position
        Sides(factor, self.sides.least * factor).check(f"srgan of factor {factor}", img_size)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.source_channels, self.factor, self.skip = img_channels, factor, skip
        self.start = nn.Sequential(nn.Conv2d(img_channels, width, 9, padding=4), nn.PReLU())
        blocks = (ResidualBlock(width, norm) for _ in range(n_blocks))
        self.trunk = nn.Sequential(*blocks, normed_convolution(width, norm))
        self.ups = nn.Sequential(*(doubling(width) for _ in range(int(math.log2(factor)))))
        self.to_image = nn.Conv2d(width, img_channels, 9, padding=4)
        init_normal(self)

    def forward(self, a: Tensor) -> Tensor:
        """ValueError unless a has the network's channels and sides that fit."""
        check_source(a, self.source_channels, self.sides)
        h = self.start(a)
        x = self.to_image(self.ups(h + self.trunk(h)))
        if not self.skip:
            return torch.tanh(x)
        # by its size: a factor goes through floats, which graphs for any size cannot follow
        return x + F.interpolate(a, x.shape[2:], mode="bicubic", align_corners=False)


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) -> logits (N,).

    Pairs of 3x3 of `width` channels, doubled a pair, of which the second halves the size; then a hidden layer of 16
    times the width. norm is not on the first layer. ValueError for images below 17 px and settings out of range.
    """

    def __init__(self, *, img_size: Size, img_channels: int, norm: str = "batch", width: int = 64) -> None:
        super().__init__()
        for name, value in (("img_channels", img_channels), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        shape = image_shape(img_size)
        if min(shape) < LEAST:
            raise UserError(
                f"srgan's D takes sides of at least {LEAST} px, not {size_text(self.img_size)}: "
                "give a larger --img_size"
            )
        channels = [img_channels, *(width << i // 2 for i in range(8))]
        blocks = []
        for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
            after = norm_layer(norm, c_out) if i else None
            convolution = nn.Conv2d(c_in, c_out, 3, 1 + i % 2, 1, bias=not has_shift(after))
            blocks.append(hidden_block(convolution, after, "leaky_relu"))
        self.blocks = nn.Sequential(*blocks)
        n_positions = math.prod(-(-side // 16) for side in shape)  # each halving keeps what is over
        self.hidden = hidden_block(nn.Linear(8 * width * n_positions, 16 * width), None, "leaky_relu")
        self.to_logit = nn.Linear(16 * width, 1)
        init_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """ValueError unless x has the network's shape."""
        check_images(x, self.img_channels, self.img_size)
        return self.to_logit(self.hidden(self.blocks(x).flatten(1))).squeeze(1)  # (N, 1) -> (N,)
