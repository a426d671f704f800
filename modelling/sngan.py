"""SNGAN's residual networks for images of h0 2^k x w0 2^k px, 4 <= min(h0, w0) < 8, k from 3 to 5: 32 to 224.

Labels by conditional norm and projection. arXiv:1802.05957 tables 4 and 6, arXiv:1802.05637; 64 px, which the papers do
not have, are those of the authors' published code, where D's last block halves the size too, and k alone decides which
table is taken. The spectral norm of D is applied from outside. D's last layer has no bias at 32 px, and G's last norm
does not see labels.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelling.conditioning import PLAIN_NORMS, Conditioned, DOutput, Heads, norm_factory, rows_of
from modelling.layers import Size, as_size, check_images, check_latents, check_number, norm_layer
from modelling.resnet import ResidualDownBlock, ResidualUpBlock, activate, init_glorot, sum_pool
from modelling.sizes import image_levels, squares

# By the side of a square of 4 * 2^k px, in units of the width: channels of G's maps of 4, 8, ... px, and of the outputs
# of D's blocks.
G_CHANNELS = {32: (4, 4, 4, 4), 64: (16, 8, 4, 2, 1), 128: (16, 16, 8, 4, 2, 1)}
D_CHANNELS = {32: (2, 2, 2, 2), 64: (1, 2, 4, 8, 16), 128: (1, 2, 4, 8, 16, 16)}
D_HALVINGS = {32: 2, 64: 5, 128: 5}  # so many of D's blocks, the first ones, halve the size
DOUBLINGS = range(3, 6)
SQRT2 = math.sqrt(2)  # gain of the initial weights next to a ReLU


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, img_channels, H, W) in [-1, 1].

    width is the unit of channels: 4 of them everywhere at 32 px, else 16 at 4 px down to 1 next to the image. The
    papers' is 64. ValueError for sizes that it does not make, which names the nearest, and for settings out of range.
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
        levels = image_levels("sngan", img_size, DOUBLINGS)
        square = squares(levels)[-1]
        for name, value in (("img_channels", img_channels), ("z_dim", z_dim), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.z_dim, self.n_labels, self.first = z_dim, n_labels, levels[0]
        channels = [n * width for n in G_CHANNELS[square]]
        norms = norm_factory(norm, condition, n_labels)
        self.start = nn.Linear(z_dim, channels[0] * math.prod(self.first))
        self.blocks = Conditioned(*(ResidualUpBlock(*pair, norms) for pair in itertools.pairwise(channels)))
        self.norm = norm_layer(PLAIN_NORMS[condition] if n_labels else norm, channels[-1])
        self.to_image = nn.Conv2d(channels[-1], img_channels, 3, padding=1)
        init_glorot(self, SQRT2)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError unless z is (N, z_dim) and, with n_labels, y fits."""
        check_latents(z, self.z_dim)
        rows = rows_of(y, z.shape[0], self.n_labels)
        h = self.blocks(
            self.start(z).unflatten(1, (-1, *self.first)), rows
        )  # (N, C * h0 * w0) -> (N, C, h0, w0)
        return torch.tanh(self.to_image(activate(self.norm, h, None)))


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) -> logits (N,), or what the heads make of them.

    width is the unit of channels: 2 of them everywhere at 32 px, else 1 after the first block up to 16 after the
    last. The papers' is 64. n_labels and condition: see conditioning.py. ValueError as in G.
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
        levels = image_levels("sngan", img_size, DOUBLINGS)
        square = squares(levels)[-1]
        for name, value in (("img_channels", img_channels), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        c_first, *others = (n * width for n in D_CHANNELS[square])
        self.blocks = nn.Sequential(ResidualDownBlock(img_channels, c_first, down=True, first=True))
        for i, (c_in, c_out) in enumerate(itertools.pairwise([c_first, *others]), start=1):
            self.blocks.append(ResidualDownBlock(c_in, c_out, down=i < D_HALVINGS[square], c_hidden=c_in))
        bias = square > 32
        if bias:
            self.revisions = ("a bias in its last layer, and at 64 px a last block that halves the size",)
        self.heads = Heads(lambda n, bias: nn.Linear(c_out, n, bias=bias), n_labels, condition, bias=bias)
        init_glorot(self, SQRT2)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | DOutput:
        """ValueError unless x has the network's shape and, with n_labels, y fits."""
        check_images(x, self.img_channels, self.img_size)
        return self.heads(sum_pool(F.relu(self.blocks(x), inplace=True)), y)
