"""InfoGAN: a part of the latents is a code that a head Q beside D's logit reads back. arXiv:1606.03657.

Two architectures. "paper", of the authors' MNIST network: fully connected layers and two convolutions, for sides that 4
divides. "conv", of xyfJASON's: convolutions alone, for 32 px and whatever else is 8 h0 x 8 w0.

Deviations: latents come in as normals, as everywhere here, and G makes codes of them (Generator.codes). Images end in
tanh, not in the authors' sigmoid. LeakyReLU is 0.2. Layers before a batch norm have no bias in "paper". xyfJASON's two
heads for codes are one of as many outputs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError
from modelling import mlp
from modelling.conditioning import DOutput, norm_factory, up_blocks
from modelling.layers import (
    Size,
    as_size,
    check_choice,
    check_images,
    check_latents,
    check_number,
    down_blocks,
    has_shift,
    hidden_block,
    image_shape,
    init_normal,
    norm_layer,
    size_text,
)
from modelling.sizes import Shape, image_levels

N_CATEGORIES, N_CONTINUOUS = 10, 2
# Of noise and continuous codes, made of normals.
PRIORS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": lambda z: torch.erf(z / math.sqrt(2)),  # 2 Phi(z) - 1: uniform in (-1, 1)
    "normal": lambda z: z,
}


def check_codes(n_categories: int, n_continuous: int) -> None:
    """ValueError for counts of codes out of range."""
    check_number("n_categories", n_categories, 2, whole=True)
    check_number("n_continuous", n_continuous, 0, whole=True)


def dense(n_in: int, n_out: int, norm: str, activation: str) -> nn.Sequential:
    """Fully connected layer, norm of the features, activation."""
    after = mlp.norm_of(norm, n_out)
    return hidden_block(nn.Linear(n_in, n_out, bias=not has_shift(after)), after, activation)


def quarter(img_size: Size) -> tuple[int, int]:
    """(H / 4, W / 4). ValueError unless 4 divides both."""
    height, width = image_shape(img_size)
    if height % 4 or width % 4:
        nearest = as_size([4 * max(round(side / 4), 1) for side in (height, width)])
        raise UserError(
            f"infogan's architecture paper makes sides that 4 divides, not {size_text(as_size(img_size))}: "
            f"the nearest is --img_size {size_text(nearest)}"
        )
    return height // 4, width // 4


def paper_generator(n_in: int, img_size: Size, img_channels: int, norm: str, width: int) -> nn.Sequential:
    """(N, n_in) -> (N, img_channels, H, W): two dense layers, two transposed convolutions."""
    height, width_4 = quarter(img_size)
    after = norm_layer(norm, width)
    return nn.Sequential(
        dense(n_in, 16 * width, norm, "relu"),
        dense(16 * width, 2 * width * height * width_4, norm, "relu"),
        nn.Unflatten(1, (2 * width, height, width_4)),
        hidden_block(nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=not has_shift(after)), after, "relu"),
        nn.ConvTranspose2d(width, img_channels, 4, 2, 1),
    )


def conv_levels(img_size: Size) -> list[Shape]:
    """Those of three doublings; ValueError for other sizes."""
    return image_levels("infogan's architecture conv", img_size, (3,))


def conv_generator(n_in: int, img_size: Size, img_channels: int, norm: str, width: int) -> nn.Sequential:
    """(N, n_in) -> (N, img_channels, H, W): four transposed convolutions."""
    norms, first = norm_factory(norm, None, 0), conv_levels(img_size)[0]
    return nn.Sequential(
        nn.Unflatten(1, (n_in, 1, 1)),
        up_blocks([n_in, 4 * width, 2 * width, width], norms, first, bias=True),
        nn.ConvTranspose2d(width, img_channels, 4, 2, 1),
    )


def paper_discriminator(
    img_size: Size, img_channels: int, norm: str, width: int, n_codes: int
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Images -> features, features -> (N, 1), features -> (N, n_codes) through a dense layer of their own."""
    height, width_4 = quarter(img_size)
    trunk = nn.Sequential(
        down_blocks(
            [img_channels, width, 2 * width], ["none", norm], "leaky_relu",
            dropout=0.0, noise_std=0.0, noise_layers=0,
        ),
        nn.Flatten(),
        dense(2 * width * height * width_4, 16 * width, norm, "leaky_relu"),
    )  # fmt: skip
    to_codes = nn.Sequential(dense(16 * width, 2 * width, norm, "leaky_relu"), nn.Linear(2 * width, n_codes))
    return trunk, nn.Linear(16 * width, 1), to_codes


def conv_discriminator(
    img_size: Size, img_channels: int, norm: str, width: int, n_codes: int
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Images -> the smallest maps, and from these (N, 1) and (N, n_codes) by one convolution each."""
    first = conv_levels(img_size)[0]
    channels = [img_channels, width, 2 * width, 4 * width]
    trunk = down_blocks(
        channels, ["none", norm, norm], "leaky_relu", dropout=0.0, noise_std=0.0, noise_layers=0, bias=True
    )
    heads = [nn.Sequential(nn.Conv2d(4 * width, n, first), nn.Flatten()) for n in (1, n_codes)]
    return trunk, *heads


@dataclass(frozen=True)
class Architecture:
    """How the layers of both networks are made."""

    generator: Callable[[int, Size, int, str, int], nn.Module]
    discriminator: Callable[[Size, int, str, int, int], tuple[nn.Module, nn.Module, nn.Module]]


ARCHITECTURES = {
    "paper": Architecture(paper_generator, paper_discriminator),
    "conv": Architecture(conv_generator, conv_discriminator),
}


def check_layers(architecture: str, norm: str, img_channels: int, width: int) -> None:
    """ValueError for settings of the layers that are unknown or out of range."""
    check_choice("architecture of infogan", architecture, ARCHITECTURES)
    check_choice("norm of infogan", norm, mlp.FEATURE_NORMS)
    for name, value in (("img_channels", img_channels), ("width", width)):
        check_number(name, value, 1, whole=True)


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, img_channels, H, W) in [-1, 1].

    z is (noise, n_categories entries of which the largest is the category, n_continuous codes). prior: noise and
    continuous codes are "uniform" in (-1, 1) or "normal". norm is "batch" or "none"; width is the number of channels
    before the last layer. ValueError for settings out of range and a z_dim that leaves no noise.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        z_dim: int,
        n_categories: int = N_CATEGORIES,
        n_continuous: int = N_CONTINUOUS,
        prior: str = "uniform",
        architecture: str = "paper",
        norm: str = "batch",
        width: int = 64,
    ) -> None:
        super().__init__()
        check_codes(n_categories, n_continuous)
        check_choice("prior of infogan", prior, PRIORS)
        check_layers(architecture, norm, img_channels, width)
        if z_dim <= n_categories + n_continuous:
            raise UserError(
                f"--z_dim {z_dim} is the length of noise and codes together and must be above n_categories "
                f"{n_categories} + n_continuous {n_continuous}"
            )
        self.img_size, self.img_channels, self.z_dim = as_size(img_size), img_channels, z_dim
        self.n_categories, self.n_continuous, self.prior = n_categories, n_continuous, prior
        self.layers = ARCHITECTURES[architecture].generator(z_dim, img_size, img_channels, norm, width)
        init_normal(self)

    def codes(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normals z (N, z_dim) -> noise (N, n_noise), category (N,) int64, continuous (N, n_continuous)."""
        check_latents(z, self.z_dim)
        n_noise = self.z_dim - self.n_categories - self.n_continuous
        noise, entries, continuous = z.split([n_noise, self.n_categories, self.n_continuous], 1)
        prior = PRIORS[self.prior]
        return prior(noise), entries.argmax(1), prior(continuous)

    def decode(self, noise: Tensor, category: Tensor, continuous: Tensor) -> Tensor:
        """The images of codes as `codes` gives them."""
        one_hot = F.one_hot(category, self.n_categories).to(noise.dtype)
        return torch.tanh(self.layers(torch.cat([noise, one_hot, continuous], 1)))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """y is ignored. ValueError unless z is (N, z_dim)."""
        return self.decode(*self.codes(z))


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) -> DOutput of logits (N,) and Q's reading (N, n_categories + n_continuous).

    The reading is logits of the category, then means of the continuous codes. category_weight, continuous_weight: of
    its errors in the losses of the game; joint: in a step of their own for G and D together, not in the losses of
    either. norm "batch" acts after every hidden layer but the first; width is the number of channels after the first.
    ValueError for settings out of range.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        n_categories: int = N_CATEGORIES,
        n_continuous: int = N_CONTINUOUS,
        category_weight: float = 1.0,
        continuous_weight: float = 1.0,
        joint: bool = False,
        architecture: str = "paper",
        norm: str = "batch",
        width: int = 64,
    ) -> None:
        super().__init__()
        check_codes(n_categories, n_continuous)
        check_layers(architecture, norm, img_channels, width)
        check_choice("joint", joint, (True, False))
        for name, value in (("category_weight", category_weight), ("continuous_weight", continuous_weight)):
            check_number(name, value, 0)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.n_categories, self.n_continuous = n_categories, n_continuous
        self.category_weight, self.continuous_weight, self.joint = category_weight, continuous_weight, joint
        self.trunk, self.to_logit, self.to_codes = ARCHITECTURES[architecture].discriminator(
            img_size, img_channels, norm, width, n_categories + n_continuous
        )
        init_normal(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> DOutput:
        """y is ignored. ValueError unless x has the network's shape."""
        check_images(x, self.img_channels, self.img_size)
        features = self.trunk(x)
        return DOutput(self.to_logit(features).squeeze(1), self.to_codes(features))  # (N, 1) -> (N,)
