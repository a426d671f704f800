"""SimpleCNN, the convolutional pair of xyfJASON's CIFAR-10 study, for 32 px and whatever else is 8 h0 x 8 w0.

Transposed convolutions 1024-512-256 in G and convolutions 256-512-1024 in D, all with a bias; batch norm in G
after every hidden layer, in D after every hidden layer but the first.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modelling.conditioning import DOutput, Heads, norm_factory, rows_of, up_blocks
from modelling.layers import (
    Size,
    as_size,
    batch_statistics,
    check_images,
    check_latents,
    check_number,
    down_blocks,
    init_normal,
)
from modelling.sizes import image_levels

DOUBLINGS = (3,)


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, img_channels, H, W) in [-1, 1].

    width is the number of channels before the last layer. ValueError for sizes that it does not make, which
    names the nearest, and for settings out of range.
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
        width: int = 256,
    ) -> None:
        super().__init__()
        levels = image_levels("simple_cnn", img_size, DOUBLINGS)
        for name, value in (("img_channels", img_channels), ("z_dim", z_dim), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.z_dim, self.n_labels = z_dim, n_labels
        norms = norm_factory(norm, condition, n_labels)
        self.blocks = up_blocks([z_dim, 4 * width, 2 * width, width], norms, levels[0], bias=True)
        self.to_image = nn.ConvTranspose2d(width, img_channels, 4, 2, 1)
        init_normal(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError unless z is (N, z_dim) and, with n_labels, y fits."""
        check_latents(z, self.z_dim)
        rows = rows_of(y, z.shape[0], self.n_labels)
        return torch.tanh(self.to_image(self.blocks(z[:, :, None, None], rows)))


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) -> logits (N,).

    width is the number of channels after the first layer; the other settings are those of dcgan's. ValueError
    as in G.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        n_labels: int = 0,
        condition: str = "projection",
        norm: str = "batch",
        width: int = 256,
        activation: str = "leaky_relu",
        dropout: float = 0.0,
        noise_std: float = 0.0,
        noise_layers: int | Sequence[int] = (0,),
        minibatch_stddev: bool = False,
        minibatch_discrimination: int = 0,
    ) -> None:
        super().__init__()
        levels = image_levels("simple_cnn", img_size, DOUBLINGS)
        for name, value in (("img_channels", img_channels), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.blocks = down_blocks(
            [img_channels, width, 2 * width, 4 * width],
            ["none", norm, norm],
            activation,
            dropout=dropout,
            noise_std=noise_std,
            noise_layers=noise_layers,
            bias=True,
        )
        self.statistics, c_last = batch_statistics(
            4 * width, math.prod(levels[0]), minibatch_stddev, minibatch_discrimination
        )
        self.heads = Heads(
            lambda n, bias: nn.Conv2d(c_last, n, levels[0], bias=bias), n_labels, condition, bias=True
        )
        init_normal(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | DOutput:
        """ValueError unless x has the network's shape and, with n_labels, y fits."""
        check_images(x, self.img_channels, self.img_size)
        return self.heads(self.statistics(self.blocks(x)), y)
