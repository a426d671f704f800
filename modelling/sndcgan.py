"""SNGAN's standard CNN, also known as SNDCGAN, for images of 32 to 64 px and rectangles. arXiv:1802.05957 table 3.

The spectral norm of D is applied from outside. Sizes other than 32 and 48 px, which the paper does not have, follow its
rule: the first map is an eighth of the image. Initial weights, on which it is silent, are DCGAN's.
"""

import itertools
import math

import torch
from torch import Tensor, nn

from modelling.conditioning import Conditioned, DOutput, Heads, norm_factory, rows_of
from modelling.layers import (
    Size,
    as_size,
    check_images,
    check_latents,
    check_number,
    has_shift,
    hidden_block,
    init_normal,
)
from modelling.sizes import image_levels

DOUBLINGS = (3,)
STARTS = range(4, 9)  # 8: the paper's rule at 64 px


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, img_channels, H, W) in [-1, 1].

    width is the number of channels before the last layer; each of the three steps towards the first map, of
    H / 8 x W / 8, doubles it. Deconvolutions have a bias where no norm brings one. ValueError for sizes that it does
    not make, which names the nearest, and for settings out of range.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        z_dim: int,
        n_labels: int = 0,
        condition: str = "cbn",
        norm: str = "batch",
        width: int = 64,
    ) -> None:
        super().__init__()
        self.first = image_levels("sndcgan", img_size, DOUBLINGS, STARTS)[0]
        for name, value in (("img_channels", img_channels), ("z_dim", z_dim), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.z_dim, self.n_labels = z_dim, n_labels
        norms = norm_factory(norm, condition, n_labels)
        self.start = nn.Linear(z_dim, 8 * width * math.prod(self.first))
        self.blocks = Conditioned()
        for c_in, c_out in itertools.pairwise([8 * width, 4 * width, 2 * width, width]):
            after = norms(c_out)
            up = nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=not has_shift(after))
            self.blocks.append(hidden_block(up, after, "relu", sequence=Conditioned))
        self.to_image = nn.Conv2d(width, img_channels, 3, padding=1)
        init_normal(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError unless z is (N, z_dim) and, with n_labels, y fits."""
        check_latents(z, self.z_dim)
        rows = rows_of(y, z.shape[0], self.n_labels)
        h = self.start(z).unflatten(1, (-1, *self.first))  # (N, C * h0 * w0) -> (N, C, h0, w0)
        return torch.tanh(self.to_image(self.blocks(h, rows)))


def convolution(c_in: int, c_out: int, *, halve: bool = False) -> nn.Sequential:
    """Convolution and LeakyReLU with the paper's slope of 0.1; kernel 4 where the size is halved, else 3."""
    conv = nn.Conv2d(c_in, c_out, 4, 2, 1) if halve else nn.Conv2d(c_in, c_out, 3, padding=1)
    return nn.Sequential(conv, nn.LeakyReLU(0.1, inplace=True))


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) -> logits (N,), or what the heads make of them.

    width is the number of channels at full size; each halving of the size doubles it. n_labels and condition: see
    conditioning.py. ValueError as in G.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        n_labels: int = 0,
        condition: str = "projection",
        width: int = 64,
    ) -> None:
        super().__init__()
        self.first = image_levels("sndcgan", img_size, DOUBLINGS, STARTS)[0]
        for name, value in (("img_channels", img_channels), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        channels = [img_channels, width, 2 * width, 4 * width]
        self.blocks = nn.Sequential()
        for c_in, c_out in itertools.pairwise(channels):
            self.blocks.extend([convolution(c_in, c_out), convolution(c_out, c_out, halve=True)])
        self.blocks.append(convolution(4 * width, 8 * width))
        n_features = 8 * width * math.prod(self.first)
        self.heads = Heads(
            lambda n, bias: nn.Linear(n_features, n, bias=bias), n_labels, condition, bias=True
        )
        init_normal(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | DOutput:
        """ValueError unless x has the network's shape and, with n_labels, y fits."""
        check_images(x, self.img_channels, self.img_size)
        return self.heads(self.blocks(x).flatten(1), y)  # (N, C, H, W) -> (N, C * H * W)
