"""A fully connected GAN of three hidden layers for images of any size and shape, known from mode-collapse studies.

LeakyReLU 0.2 in both networks, torch's initial weights with biases 0, no norm unless asked for: the pair of
xyfJASON's VEEGAN study after arXiv:1705.07761.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modelling.layers import (
    Size,
    as_size,
    batch_statistics,
    check_choice,
    check_images,
    check_latents,
    check_number,
    hidden_block,
    image_shape,
    noise_stds,
)

N_HIDDEN = 3
FEATURE_NORMS = {"none": None, "batch": nn.BatchNorm1d}


def linear(n_in: int, n_out: int) -> nn.Linear:
    """torch's default weights with a bias of 0."""
    layer = nn.Linear(n_in, n_out)
    nn.init.zeros_(layer.bias)
    return layer


def norm_of(name: str, width: int) -> nn.Module | None:
    """Norm over a feature vector; ValueError lists the known."""
    check_choice("norm of mlp", name, FEATURE_NORMS)
    factory = FEATURE_NORMS[name]
    return None if factory is None else factory(width)


def hidden_layers(n_in: int, width: int, norms: Sequence[str]) -> nn.Sequential:
    """As many fully connected layers as `norms`, each of `width` with its norm and LeakyReLU."""
    dims = [n_in] + [width] * len(norms)
    return nn.Sequential(
        *(
            hidden_block(linear(n_in, n_out), norm_of(norm, n_out), "leaky_relu")
            for (n_in, n_out), norm in zip(itertools.pairwise(dims), norms, strict=True)
        )
    )


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, img_channels, H, W) in [-1, 1].

    width is the size of each hidden layer; norm is "none" or "batch". ValueError for settings out of range.
    """

    def __init__(
        self, *, img_size: Size, img_channels: int, z_dim: int, norm: str = "none", width: int = 256
    ) -> None:
        super().__init__()
        for name, value in {"img_channels": img_channels, "z_dim": z_dim, "width": width}.items():
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels, self.z_dim = as_size(img_size), img_channels, z_dim
        self.blocks = hidden_layers(z_dim, width, [norm] * N_HIDDEN)
        self.to_image = linear(width, img_channels * math.prod(image_shape(img_size)))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """y is ignored. ValueError unless z is (N, z_dim)."""
        check_latents(z, self.z_dim)
        x = torch.tanh(self.to_image(self.blocks(z)))
        return x.unflatten(1, (self.img_channels, *image_shape(self.img_size)))  # (N, CHW) -> (N, C, H, W)


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) -> logits (N,).

    norm "batch" acts after every hidden layer but the first. dropout acts after every hidden layer; noise_std
    is added in training at the inputs of the layers noise_layers, 0 being the image; minibatch_stddev and
    minibatch_discrimination (a number of kernels) show the last layer how samples differ. ValueError for
    settings out of range.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        norm: str = "none",
        width: int = 256,
        activation: str = "leaky_relu",
        dropout: float = 0.0,
        noise_std: float = 0.0,
        noise_layers: int | Sequence[int] = (0,),
        minibatch_stddev: bool = False,
        minibatch_discrimination: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {"img_channels": img_channels, "width": width}.items():
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        dims = [img_channels * math.prod(image_shape(img_size))] + [width] * N_HIDDEN
        norms = ["none"] + [norm] * (N_HIDDEN - 1)
        stds = noise_stds(noise_std, noise_layers, N_HIDDEN)
        blocks = []
        for i, (n_in, n_out) in enumerate(itertools.pairwise(dims)):
            after = norm_of(norms[i], n_out)
            layer = linear(n_in, n_out)
            blocks.append(hidden_block(layer, after, activation, dropout=dropout, noise_std=stds[i]))
        self.blocks = nn.Sequential(*blocks)
        self.statistics, n_last = batch_statistics(width, 1, minibatch_stddev, minibatch_discrimination)
        self.to_logit = linear(n_last, 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """y is ignored. ValueError unless x has the network's shape."""
        check_images(x, self.img_channels, self.img_size)
        return self.to_logit(self.statistics(self.blocks(x.flatten(1)))).squeeze(1)  # (N, 1) -> (N,)
