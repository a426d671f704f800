"""DCGAN for images of h0 2^k x w0 2^k px, 4 <= min(h0, w0) < 8, k from 2 to 6: 16 to 448. arXiv:1511.06434.

Deviations: widths follow the image size (h0 x w0 maps, 4x4 for powers of 2, of width * 2^(k - 1) channels); kernels are
4 with stride 2, which spread evenly where the paper's 5 leave a checkerboard; D ends in a convolution over the whole of
the smallest map and gives a logit. As in the paper G's output and D's first layer carry no batch norm: with it there, D
does not see the images' mean colour and samples come out washed.
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

DOUBLINGS = range(2, 7)


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, img_channels, H, W) in [-1, 1].

    width is the number of channels before the last layer; each step towards the smallest map doubles it.
    Hidden layers have a bias where no norm brings one. ValueError for sizes that it does not make, which names the
    nearest, and for settings out of range.
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
        levels = image_levels("dcgan", img_size, DOUBLINGS)
        for name, value in (("img_channels", img_channels), ("z_dim", z_dim), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.z_dim, self.n_labels = z_dim, n_labels
        n_up = len(levels) - 1  # hidden blocks, at all levels but the image's
        channels = [z_dim, *(width << i for i in reversed(range(n_up)))]
        self.blocks = up_blocks(channels, norm_factory(norm, condition, n_labels), levels[0])
        self.to_image = nn.ConvTranspose2d(width, img_channels, 4, 2, 1, bias=False)
        init_normal(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError unless z is (N, z_dim) and, with n_labels, y fits."""
        check_latents(z, self.z_dim)
        rows = rows_of(y, z.shape[0], self.n_labels)
        return torch.tanh(self.to_image(self.blocks(z[:, :, None, None], rows)))


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) -> logits (N,).

    width is the number of channels after the first layer; each halving of the size doubles it. dropout acts
    after every hidden layer. noise_std is added in training at the inputs of the convolutions noise_layers,
    0 being the image. minibatch_stddev and minibatch_discrimination (a number of kernels) show the last layer
    how samples differ. n_labels and condition: see conditioning.py, here as in G, where a conditional norm replaces
    `norm`. ValueError as in G.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        n_labels: int = 0,
        condition: str = "projection",
        norm: str = "batch",
        width: int = 64,
        activation: str = "leaky_relu",
        dropout: float = 0.0,
        noise_std: float = 0.0,
        noise_layers: int | Sequence[int] = (0,),
        minibatch_stddev: bool = False,
        minibatch_discrimination: int = 0,
    ) -> None:
        super().__init__()
        levels = image_levels("dcgan", img_size, DOUBLINGS)
        for name, value in (("img_channels", img_channels), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        n_down = len(levels) - 1
        channels = [img_channels, *(width << i for i in range(n_down))]
        norms = ["none"] + [norm] * (n_down - 1)
        self.blocks = down_blocks(
            channels, norms, activation, dropout=dropout, noise_std=noise_std, noise_layers=noise_layers
        )
        self.statistics, c_last = batch_statistics(
            channels[-1], math.prod(levels[0]), minibatch_stddev, minibatch_discrimination
        )
        self.heads = Heads(
            lambda n, bias: nn.Conv2d(c_last, n, levels[0], bias=bias), n_labels, condition, bias=False
        )
        init_normal(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | DOutput:
        """ValueError unless x has the network's shape and, with n_labels, y fits."""
        check_images(x, self.img_channels, self.img_size)
        return self.heads(self.statistics(self.blocks(x)), y)
