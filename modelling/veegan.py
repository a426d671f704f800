"""VEEGAN's three fully connected networks, for images of any size or points of the plane. arXiv:1705.07761.

Sizes, LeakyReLU 0.2 and batch norm are those of xyfJASON's study, not the paper's. D has no norm after its first layer,
as mlp's: there the mean of what it sees would be lost.
"""

import math

import torch
from torch import Tensor, nn

from modelling import mlp
from modelling.layers import Size, as_size, check_images, check_latents, check_number, image_shape


class Generator(mlp.Generator):
    """z (N, z_dim) -> images (N, img_channels, H, W) in [-1, 1]: mlp's, with batch norm unless told otherwise."""

    def __init__(
        self, *, img_size: Size, img_channels: int, z_dim: int, norm: str = "batch", width: int = 256
    ) -> None:
        super().__init__(img_size=img_size, img_channels=img_channels, z_dim=z_dim, norm=norm, width=width)
        self.norm, self.width = norm, width

    def reconstructor(self) -> "Reconstructor":
        """A new network the other way, of the same width and norm."""
        return Reconstructor(
            img_size=self.img_size,
            img_channels=self.img_channels,
            z_dim=self.z_dim,
            norm=self.norm,
            width=self.width,
        )


class Reconstructor(nn.Module):
    """Images (N, img_channels, H, W) -> the latents (N, z_dim) that G might have made them of."""

    def __init__(self, *, img_size: Size, img_channels: int, z_dim: int, norm: str, width: int) -> None:
        super().__init__()
        self.img_size, self.img_channels = as_size(img_size), img_channels
        n_in = img_channels * math.prod(image_shape(img_size))
        self.blocks = mlp.hidden_layers(n_in, width, [norm] * mlp.N_HIDDEN)
        self.to_z = mlp.linear(width, z_dim)

    def forward(self, x: Tensor) -> Tensor:
        """ValueError unless x has the network's shape."""
        check_images(x, self.img_channels, self.img_size)
        return self.to_z(self.blocks(x.flatten(1)))  # (N, C, H, W) -> (N, C * H * W)


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) and latents (N, z_dim) -> logits (N,).

    norm "batch" acts after every hidden layer but the first. ValueError for settings out of range.
    """

    def __init__(
        self, *, img_size: Size, img_channels: int, z_dim: int, norm: str = "batch", width: int = 256
    ) -> None:
        super().__init__()
        for name, value in {"img_channels": img_channels, "z_dim": z_dim, "width": width}.items():
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels, self.z_dim = as_size(img_size), img_channels, z_dim
        n_in = img_channels * math.prod(image_shape(img_size)) + z_dim
        self.blocks = mlp.hidden_layers(n_in, width, ["none"] + [norm] * (mlp.N_HIDDEN - 1))
        self.to_logit = mlp.linear(width, 1)

    def forward(self, x: Tensor, y: Tensor | None = None, *, z: Tensor | None = None) -> Tensor:
        """y is ignored; z: None for its mean, 0. ValueError unless x and z have their shapes and as many rows."""
        check_images(x, self.img_channels, self.img_size)
        z = x.new_zeros(len(x), self.z_dim) if z is None else z
        check_latents(z, self.z_dim)
        if len(z) != len(x):
            raise ValueError(f"pairs need as many images as latents: {tuple(x.shape)} and {tuple(z.shape)}")
        return self.to_logit(self.blocks(torch.cat([x.flatten(1), z], 1))).squeeze(1)  # (N, 1) -> (N,)
