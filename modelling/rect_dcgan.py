"""DCGAN whose kernels follow the shape of its images, as IliaZenkov/DCGAN-Rectangular-GANHacks2 has it for 157x128 px.

k transposed convolutions of stride 2 lead from s0 px to the side of an axis: kernels of 4 to s0 2^k, kernels of 5,
which make 2 s + 1 of s, and 2 s - 1 in the last layer, to (s0 + 1) 2^k - 3. k is 2 to 6, the lesser s0 4 to 7; the
source's 157x128 are k = 5 from 4x4 with kernels of 5x4. In G a dense layer with a bias makes the smallest maps, which
have neither norm nor activation. No other layer of either network has a bias, D no norm. Spectral norm comes from
outside, as published on all layers but G's dense one and D's last.

What the source's notebook does by mistake is not repeated: a LeakyReLU on D's logit, noise in proportion to each pixel,
initial weights for D's convolutions alone, a target below 1 for G, reals scaled beyond the range of tanh.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from errors import UserError
from modelling.layers import (
    Size,
    as_size,
    check_images,
    check_latents,
    check_number,
    has_shift,
    hidden_block,
    image_shape,
    init_normal,
    noise_stds,
    norm_layer,
    size_text,
    widths,
)
from modelling.sizes import STARTS, Shape, counts_text, doubled, nearest_size

DOUBLINGS = range(2, 7)


def doubled_by_five(start: int, n: int) -> int:
    """The side that n transposed convolutions with kernels of 5 make."""
    return ((start + 1) << n) - 3


SIDES = {4: doubled, 5: doubled_by_five}  # by the kernel along an axis


def plan(img_size: Size) -> tuple[Shape, Shape, int]:
    """((H, W) of the smallest maps, kernel, number of doublings); ValueError for other sizes that names the nearest."""
    shape = image_shape(img_size)
    for k in DOUBLINGS:
        kernel = tuple(5 if side % 2 else 4 for side in shape)
        start = tuple((side + 3 >> k) - 1 if side % 2 else side >> k for side in shape)
        makes = tuple(SIDES[n](s0, k) for n, s0 in zip(kernel, start, strict=True))
        if makes == shape and min(start) in STARTS:
            return start, kernel, k
    nearest = size_text(nearest_size(img_size, DOUBLINGS, sides=tuple(SIDES.values())))
    raise UserError(
        f"rect_dcgan makes sides of s0 * 2^k or (s0 + 1) * 2^k - 3 px with {STARTS[0]} <= the lesser s0 <= "
        f"{STARTS[-1]} and {counts_text(DOUBLINGS)}, not {size_text(as_size(img_size))}: "
        f"the nearest is --img_size {nearest}"
    )


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, img_channels, H, W) in [-1, 1].

    width is the number of channels before the last layer; each step towards the smallest maps doubles it, up to 8
    times. ValueError for sizes that it does not make, which names the nearest, and for settings out of range.
    """

    def __init__(
        self, *, img_size: Size, img_channels: int, z_dim: int, norm: str = "batch", width: int = 64
    ) -> None:
        super().__init__()
        self.first, kernel, n_up = plan(img_size)
        for name, value in (("img_channels", img_channels), ("z_dim", z_dim), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels, self.z_dim = as_size(img_size), img_channels, z_dim
        channels = widths(width, n_up)[::-1]
        self.start = nn.Linear(z_dim, channels[0] * math.prod(self.first))
        self.start.spectral_norm = False
        self.blocks = nn.Sequential()
        for c_in, c_out in itertools.pairwise(channels):
            after = norm_layer(norm, c_out)
            up = nn.ConvTranspose2d(c_in, c_out, kernel, 2, 1, bias=not has_shift(after))
            self.blocks.append(hidden_block(up, after, "relu"))
        cropped = tuple(n - 3 for n in kernel)
        self.to_image = nn.ConvTranspose2d(width, img_channels, kernel, 2, cropped, bias=False)
        init_normal(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """y is ignored. ValueError unless z is (N, z_dim)."""
        check_latents(z, self.z_dim)
        h = self.start(z).unflatten(1, (-1, *self.first))  # (N, C * h0 * w0) -> (N, C, h0, w0)
        return torch.tanh(self.to_image(self.blocks(h)))


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) -> logits (N,).

    width is the number of channels after the first layer; each halving of the size doubles it, up to 8 times. dropout
    acts after every hidden layer; noise_std is added in training at the inputs of the convolutions noise_layers, 0
    being the image. ValueError as in G.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        width: int = 64,
        dropout: float = 0.0,
        noise_std: float = 0.0,
        noise_layers: int | Sequence[int] = (0,),
    ) -> None:
        super().__init__()
        first, _, n_down = plan(img_size)
        for name, value in (("img_channels", img_channels), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        channels = [img_channels, *widths(width, n_down)]
        stds = noise_stds(noise_std, noise_layers, n_down)
        self.blocks = nn.Sequential()
        for (c_in, c_out), std in zip(itertools.pairwise(channels), stds, strict=True):
            down = nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False)
            self.blocks.append(hidden_block(down, None, "leaky_relu", dropout=dropout, noise_std=std))
        self.to_logit = nn.Conv2d(channels[-1], 1, first, bias=False)
        self.to_logit.spectral_norm = False
        init_normal(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """y is ignored. ValueError unless x has the network's shape."""
        check_images(x, self.img_channels, self.img_size)
        return self.to_logit(self.blocks(x)).flatten()  # (N, 1, 1, 1) -> (N,)
