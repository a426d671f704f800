"""FastGAN's networks for images of h0 2^k x w0 2^k px, 4 <= min(h0, w0) < 8, k from 2 to 8. arXiv:2101.04775.

The generator is that of arXiv:2111.01007, without a tanh at its end. Deviations: in eval mode no noise is added, so
that an image follows from its latents alone; the skip excitation pools to the size of the smallest map, 4 x 4 of
squares; D sees images of one size, and the decoders that hold its maps to the image (section 3.2) are left out.
Spectral norm of all layers is applied from outside.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelling.conditioning import Conditioned, TakesRows, call, norm_factory, rows_of
from modelling.layers import (
    PixelNorm,
    Size,
    as_size,
    check_choice,
    check_images,
    check_latents,
    check_number,
    init_normal,
)
from modelling.resnet import repeat_pixels
from modelling.sizes import Shape, image_levels, squares

DOUBLINGS = range(2, 9)
# By the side of a square, in units of the width: channels of G's maps, and of D's in units of its own.
G_CHANNELS = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 1 / 2, 512: 1 / 4, 1024: 1 / 8}
D_CHANNELS = {4: 16, 8: 16, 16: 8, 32: 4, 64: 2, 128: 1, 256: 1 / 2, 512: 1 / 4}
EXCITED = {64: 4, 128: 8, 256: 16}  # side of G's maps -> side of those that gate their channels
REACH = 3  # so many halvings lie between maps of D, of which the larger gates the smaller


def channels_of(table: dict[int, float], side: int, width: int) -> int:
    """Channels of maps of this side, at least one."""
    return max(int(table[side] * width), 1)


class Noise(nn.Module):
    """Add one map of N(0, 1) for all channels, times a learnt number that starts at 0; the identity in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape and type."""
        if not self.training:
            return x
        n, _, height, width = x.shape
        noise = torch.randn(n, 1, height, width, device=x.device, dtype=x.dtype)
        return x + self.strength.to(x.dtype) * noise


class Gated(TakesRows, nn.Module):
    """layer, noise if asked, norm, gated linear unit: half of the layer's channels gate the others."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None, *, noise: bool = False) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm
        self.noise = Noise() if noise else None

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """(N, C, H, W), (N, n_labels) -> half as many channels as the layer gives."""
        x = self.layer(x)
        if self.noise is not None:
            x = self.noise(x)
        return F.glu(x if self.norm is None else call(self.norm, x, rows), dim=1)


class UpBlock(TakesRows, nn.Module):
    """Pixels repeated, then a gated 3x3; with noise two of them."""

    def __init__(
        self, c_in: int, c_out: int, norms: Callable[[int], nn.Module | None], *, lite: bool
    ) -> None:
        super().__init__()
        self.layers = Conditioned(
            *(
                Gated(nn.Conv2d(c, 2 * c_out, 3, padding=1, bias=False), norms(2 * c_out), noise=not lite)
                for c in ((c_in,) if lite else (c_in, c_out))
            )
        )

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, 2H, 2W)."""
        return self.layers(repeat_pixels(x), rows)


class SkipExcitation(nn.Module):
    """Gates for the channels of one map, of another that is far from it. arXiv:2101.04775 eq. 1.

    pool: how many pixels of its maps, in each direction, become one; kernel: what is left of them.
    """

    def __init__(self, c_in: int, c_out: int, pool: int, kernel: Shape) -> None:
        super().__init__()
        self.pool = pool
        self.gather = nn.Conv2d(c_in, c_out, kernel, bias=False)
        self.gate = nn.Conv2d(c_out, c_out, 1, bias=False)

    def forward(self, source: Tensor, x: Tensor) -> Tensor:
        """(N, c_in, h, w), (N, c_out, H, W) -> the latter, its channels times numbers in (0, 1)."""
        pooled = F.avg_pool2d(source, self.pool) if self.pool > 1 else source
        return x * torch.sigmoid(self.gate(F.silu(self.gather(pooled))))


class Generator(nn.Module):
    """z (N, z_dim), brought to a mean square of 1 -> images (N, img_channels, H, W), about [-1, 1].

    width is the unit of channels, 16 at 4 px down to 1 at 128 px and half as many from there on; the papers' is 128.
    lite: one convolution a size in place of two, and no noise. n_labels and condition: see conditioning.py. ValueError
    for sizes that it does not make, which names the nearest, and for settings out of range.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        z_dim: int,
        n_labels: int = 0,
        condition: str = "cbn",
        width: int = 128,
        lite: bool = True,
    ) -> None:
        super().__init__()
        levels = image_levels("fastgan", img_size, DOUBLINGS)
        for name, value in (("img_channels", img_channels), ("z_dim", z_dim), ("width", width)):
            check_number(name, value, 1, whole=True)
        check_choice("lite", lite, (True, False))
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.z_dim, self.n_labels = z_dim, n_labels
        sides, first = squares(levels), levels[0]
        channels = [channels_of(G_CHANNELS, side, width) for side in sides]
        norms = norm_factory("batch", condition, n_labels)
        self.scale = PixelNorm()
        start = nn.ConvTranspose2d(z_dim, 2 * channels[0], first, bias=False)
        self.start = Gated(start, norms(2 * channels[0]))
        self.blocks = nn.ModuleList(UpBlock(*pair, norms, lite=lite) for pair in itertools.pairwise(channels))
        self.sources = {sides.index(side): sides.index(EXCITED[side]) for side in EXCITED if side in sides}
        self.excite = nn.ModuleDict(
            {
                str(i): SkipExcitation(channels[source], channels[i], 1 << source, first)
                for i, source in self.sources.items()
            }
        )
        self.to_image = nn.Conv2d(channels[-1], img_channels, 3, padding=1, bias=False)
        init_normal(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError unless z is (N, z_dim) and, with n_labels, y fits."""
        check_latents(z, self.z_dim)
        rows = rows_of(y, z.shape[0], self.n_labels)
        maps = [self.start(self.scale(z)[:, :, None, None], rows)]  # (N, z_dim) -> (N, C, h0, w0)
        for i, block in enumerate(self.blocks, start=1):
            x = block(maps[-1], rows)
            if i in self.sources:
                x = self.excite[str(i)](maps[self.sources[i]], x)
            maps.append(x)
        return self.to_image(maps[-1])


def normed(layer: nn.Conv2d) -> list[nn.Module]:
    """A layer of D, norm, leaky ReLU."""
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.LeakyReLU(0.2, inplace=True)]


class DownBlock(nn.Module):
    """The mean of (4x4 with stride 2, 3x3) and (average pool, 1x1), each with norm and leaky ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *normed(nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False)),
            *normed(nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)),
        )
        self.direct = nn.Sequential(nn.AvgPool2d(2), *normed(nn.Conv2d(c_in, c_out, 1, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H / 2, W / 2)."""
        return (self.main(x) + self.direct(x)) / 2


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) -> a map of logits (N, 1, h0 + 1, w0 + 1): 5 x 5 of squares.

    A convolution and blocks that halve the size down to maps of 2 h0 x 2 w0, in which a map gates the channels of the
    one that is an eighth of its size; then 1x1, and one of h0 x w0. width is the unit of channels: 16 at 8 px, half as
    many at each larger size. ValueError as in G.
    """

    def __init__(self, *, img_size: Size, img_channels: int, width: int = 64) -> None:
        super().__init__()
        levels = image_levels("fastgan", img_size, DOUBLINGS)
        for name, value in (("img_channels", img_channels), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        first, sides = levels[0], squares(levels)[-2:0:-1]  # half of the image's, ... 8
        channels = [channels_of(D_CHANNELS, side, width) for side in sides]
        self.from_image = nn.Conv2d(img_channels, channels[0], 4, 2, 1, bias=False)
        self.blocks = nn.ModuleList(DownBlock(*pair) for pair in itertools.pairwise(channels))
        self.excite = nn.ModuleList(
            SkipExcitation(channels[i], channels[i + REACH], sides[i] // 4, first)
            for i in range(len(sides) - REACH)
        )
        c_last = channels_of(D_CHANNELS, 4, width)
        self.last = nn.Sequential(
            *normed(nn.Conv2d(channels[-1], c_last, 1, bias=False)), nn.Conv2d(c_last, 1, first, bias=False)
        )
        init_normal(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError unless x has the network's shape."""
        check_images(x, self.img_channels, self.img_size)
        maps = [F.leaky_relu(self.from_image(x), 0.2, inplace=True)]
        for i, block in enumerate(self.blocks, start=1):
            x = block(maps[-1])
            if i >= REACH:
                x = self.excite[i - REACH](maps[i - REACH], x)
            maps.append(x)
        return self.last(maps[-1])
