"""CycleGAN's generator, residual blocks between two halvings and two doublings, and its patches. arXiv:1703.10593.

As in the authors' code a block has no activation after its sum, and a layer before a norm has a bias where the norm
brings no shift: theirs is instance norm without gain and shift.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelling import patchgan
from modelling.layers import (
    Size,
    as_size,
    check_number,
    has_shift,
    hidden_block,
    image_shape,
    init_normal,
    norm_layer,
)
from modelling.sizes import Sides, check_source

SIDES = Sides(4, 8)  # so that a block sees at least 2 px, which can be mirrored


def reflected_axis(x: Tensor, n: int, dim: int) -> Tensor:
    """x with n more entries at both ends of an axis, mirrored at the outermost, which is not repeated."""
    size = x.shape[dim]
    before, after = x.narrow(dim, 1, n).flip(dim), x.narrow(dim, size - 1 - n, n).flip(dim)
    return torch.cat([before, x, after], dim)


class Reflect(nn.Module):
    """(N, C, H, W) -> (N, C, H + 2n, W + 2n), mirrored at the outermost pixels.

    torch's own has no gradient on CUDA that repeats bit for bit, and refuses it where that is asked for.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        """Same type."""
        if x.is_cuda and torch.are_deterministic_algorithms_enabled():
            return reflected_axis(reflected_axis(x, self.n, 2), self.n, 3)
        return F.pad(x, [self.n] * 4, mode="reflect")


class ResidualBlock(nn.Module):
    """x + (mirror, 3x3, norm, ReLU, mirror, 3x3, norm)(x)."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        first, second = norm_layer(norm, channels), norm_layer(norm, channels)
        bias = not has_shift(first)
        self.layers = nn.Sequential(
            Reflect(1),
            hidden_block(nn.Conv2d(channels, channels, 3, bias=bias), first, "relu"),
            Reflect(1),
            hidden_block(nn.Conv2d(channels, channels, 3, bias=bias), second, None),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x + self.layers(x)


def usual_blocks(img_size: Size) -> int:
    """Residual blocks as published: 9 from 256 px of the shorter side on, 6 below."""
    return 9 if min(image_shape(img_size)) >= 256 else 6


class Generator(nn.Module):
    """Images (N, source_channels, H, W) -> images (N, img_channels, H, W) in [-1, 1].

    source_channels: img_channels unless given; n_blocks: see usual_blocks; width: channels after the first layer, of
    which the blocks have four times as many. It takes any sides that 4 divides, from 8 px on (`sides`). ValueError for
    sizes that it does not make, which names the nearest, and for settings out of range.
    """

    factor = 1

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        source_channels: int | None = None,
        n_blocks: int | None = None,
        norm: str = "plain_instance",
        width: int = 64,
    ) -> None:
        super().__init__()
        source_channels = img_channels if source_channels is None else source_channels
        n_blocks = usual_blocks(img_size) if n_blocks is None else n_blocks
        for name, value in (
            ("img_channels", img_channels), ("source_channels", source_channels), ("n_blocks", n_blocks),
            ("width", width),
        ):  # fmt: skip
            check_number(name, value, 1, whole=True)
        self.sides = SIDES
        self.sides.check("resnet_translator", img_size)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.source_channels = source_channels
        bias = not has_shift(norm_layer(norm, 1))
        w1, w2, w4 = width, 2 * width, 4 * width

        def hidden(layer: nn.Module, channels: int) -> nn.Sequential:
            return hidden_block(layer, norm_layer(norm, channels), "relu")

        self.layers = nn.Sequential(
            Reflect(3),
            hidden(nn.Conv2d(source_channels, w1, 7, bias=bias), w1),
            hidden(nn.Conv2d(w1, w2, 3, 2, 1, bias=bias), w2),
            hidden(nn.Conv2d(w2, w4, 3, 2, 1, bias=bias), w4),
            *(ResidualBlock(w4, norm) for _ in range(n_blocks)),
            hidden(nn.ConvTranspose2d(w4, w2, 3, 2, 1, 1, bias=bias), w2),
            hidden(nn.ConvTranspose2d(w2, w1, 3, 2, 1, 1, bias=bias), w1),
            Reflect(3),
            nn.Conv2d(w1, img_channels, 7),
        )
        init_normal(self)

    def forward(self, a: Tensor) -> Tensor:
        """ValueError unless a has the network's channels and sides that fit."""
        check_source(a, self.source_channels, self.sides)
        return torch.tanh(self.layers(a))


class Discriminator(patchgan.Discriminator):
    """patchgan's of one set of images, with the generator's norm."""

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        source_channels: int = 0,
        n_layers: int = 3,
        norm: str = "plain_instance",
        width: int = 64,
        last_kernel: int = 4,
    ) -> None:
        super().__init__(
            img_size=img_size, img_channels=img_channels, source_channels=source_channels, n_layers=n_layers,
            norm=norm, width=width, last_kernel=last_kernel,
        )  # fmt: skip
