"""Progressive GAN for images of h0 2^k x w0 2^k px, 4 <= min(h0, w0) < 8, k from 1 to 8, grown from h0 x w0.

arXiv:1710.10196, where h0 = w0 = 4. Deviations: one image layer (toRGB, fromRGB) a size is kept through the whole
training; the standard deviation over the minibatch is taken over groups of 4 samples, as in the authors' published
code, where the paper takes the whole batch. `equalised=False` trains the plain weights, whose scale is then in the
initial values.

In training a network works at the size of its stage; G in eval mode repeats pixels up to img_size, so that pictures and
scores are of one size throughout. Parameters of later sizes get no gradient.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelling.equalised import EqualisedConv2d, EqualisedLinear
from modelling.growing import Stage
from modelling.layers import (
    MinibatchStdDev,
    PixelNorm,
    Size,
    as_size,
    check_choice,
    check_images,
    check_latents,
    check_number,
)
from modelling.sizes import Shape, image_levels, level_channels

DOUBLINGS = range(1, 9)
GAIN = math.sqrt(2)  # of layers before a leaky ReLU
FOLD_FROM = 16  # px; on smaller maps making the larger kernel costs more than it saves


def stage_of(levels: Sequence[Shape]) -> Stage:
    """A stage of these (H, W), which are known by their heights."""
    return Stage(tuple(height for height, _ in levels))


def check_switches(**switches: bool) -> None:
    """ValueError unless each is True or False."""
    for name, value in switches.items():
        check_choice(name, value, (True, False))


def lrelu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2, in place: for outputs of convolutions, which do not look at them again."""
    return F.leaky_relu(x, 0.2, inplace=True)


def enlarged(x: Tensor, height: int) -> Tensor:
    """Images (N, C, H, W) with each pixel repeated up to a height that H divides."""
    factor = height // x.shape[-2]
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="nearest")


def blend(low: Tensor, high: Tensor, stage: Stage) -> Tensor:
    """What goes through the newest layers, `high`, faded in with the stage's alpha over what goes around them."""
    return torch.lerp(low, high, stage.alpha.to(high.dtype))


def widened(weight: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 4, 4): the sum of the kernel and its copies moved by a pixel down, right, and both."""
    padded = F.pad(weight, (1, 1, 1, 1))
    rows = padded[:, :, 1:] + padded[:, :, :-1]
    return rows[..., 1:] + rows[..., :-1]


def doubling_kernel(weight: Tensor) -> Tensor:
    """(c_out, c_in, 3, 3) -> (c_in, c_out, 4, 4), for a transposed convolution of stride 2 and padding 1.

    It does what doubling the size by repeating pixels and then convolving with `weight` does: all pixels that read
    the same value share the sum of the taps. 16 products where those take 36, and no enlarged copy.
    """
    return widened(weight.flip(2, 3)).transpose(0, 1)


def doubled_and_convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, c_in, H, W) -> (N, c_out, 2H, 2W): repeat pixels, convolve with (c_out, c_in, 3, 3), zeros around."""
    if min(x.shape[2:]) < FOLD_FROM:
        return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    return F.conv_transpose2d(x, doubling_kernel(weight), bias, stride=2, padding=1)


def convolved_and_halved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(N, c_in, H, W) -> (N, c_out, H/2, W/2): convolve with weight (c_out, c_in, 3, 3), average 2x2 pixels."""
    if min(x.shape[2:]) < 2 * FOLD_FROM:
        return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)
    return F.conv2d(x, widened(weight) / 4, bias, stride=2, padding=1)  # 16 products where that takes 36


class DoublingConv2d(EqualisedConv2d):
    """x (N, c_in, H, W) -> (N, c_out, 2H, 2W): repeat pixels, then convolve 3x3."""

    def __init__(self, c_in: int, c_out: int, *, equalised: bool = True) -> None:
        super().__init__(c_in, c_out, 3, gain=GAIN, equalised=equalised)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, 2H, 2W)."""
        return doubled_and_convolved(x, self.scaled_weight(), self.bias)


class FirstBlock(nn.Module):
    """z (N, z_dim) -> maps (N, c_out, *shape): dense with a bias a map, then a convolution."""

    def __init__(self, z_dim: int, c_out: int, shape: Shape, *, equalised: bool, pixel_norm: bool) -> None:
        super().__init__()
        self.shape, n = shape, math.prod(shape)
        # The paper's layer is a convolution over 4x4 positions, whose fan-in counts all of them: gain / 4.
        self.dense = EqualisedLinear(
            z_dim, c_out * n, gain=GAIN / math.sqrt(n), bias=None, equalised=equalised
        )
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.conv = EqualisedConv2d(c_out, c_out, 3, gain=GAIN, equalised=equalised)
        self.norm = PixelNorm() if pixel_norm else nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        """(N, z_dim) -> (N, c_out, *shape)."""
        x = self.dense(z).unflatten(1, (-1, *self.shape))  # (N, c * h0 * w0) -> (N, c, h0, w0)
        x = x + self.bias[:, None, None]
        x = self.norm(lrelu(x))
        return self.norm(lrelu(self.conv(x)))


class UpBlock(nn.Module):
    """Maps (N, c_in, H, W) -> (N, c_out, 2H, 2W): repeat pixels, convolve twice."""

    def __init__(self, c_in: int, c_out: int, *, equalised: bool, pixel_norm: bool) -> None:
        super().__init__()
        self.conv0 = DoublingConv2d(c_in, c_out, equalised=equalised)
        self.conv1 = EqualisedConv2d(c_out, c_out, 3, gain=GAIN, equalised=equalised)
        self.norm = PixelNorm() if pixel_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, 2H, 2W)."""
        return self.norm(lrelu(self.conv1(self.norm(lrelu(self.conv0(x))))))


class DownBlock(nn.Module):
    """Maps (N, c_in, H, W) -> (N, c_out, H/2, W/2): convolve twice, average 2x2 pixels."""

    def __init__(self, c_in: int, c_out: int, *, equalised: bool) -> None:
        super().__init__()
        self.conv0 = EqualisedConv2d(c_in, c_in, 3, gain=GAIN, equalised=equalised)
        self.conv1 = EqualisedConv2d(c_in, c_out, 3, gain=GAIN, equalised=equalised)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H/2, W/2)."""
        return F.avg_pool2d(lrelu(self.conv1(lrelu(self.conv0(x)))), 2)


class LastBlock(nn.Module):
    """Maps (N, c, *shape) -> logits (N, n_out): standard deviation over the batch, a convolution, two dense layers."""

    def __init__(self, c: int, shape: Shape, n_out: int, *, equalised: bool, minibatch_stddev: bool) -> None:
        super().__init__()
        self.statistics = MinibatchStdDev() if minibatch_stddev else nn.Identity()
        c_in = c + (MinibatchStdDev.n_maps if minibatch_stddev else 0)
        self.conv = EqualisedConv2d(c_in, c, 3, gain=GAIN, equalised=equalised)
        self.dense = EqualisedLinear(c * math.prod(shape), c, gain=GAIN, equalised=equalised)
        self.to_logits = EqualisedLinear(c, n_out, equalised=equalised)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c, *shape) -> (N, n_out)."""
        x = lrelu(self.conv(self.statistics(x)))
        return self.to_logits(lrelu(self.dense(x.flatten(1))))  # (N, c, h0, w0) -> (N, c * h0 * w0)


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, img_channels, H, W), unbounded: H = stage.size in training, img_size in eval mode.

    channel_base / size, at most channel_max, is the number of channels of the maps of each size, which is counted from
    4 px for the smallest, whatever they are. ValueError for sizes that it does not make, which names the nearest, and
    for settings out of range.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        z_dim: int,
        channel_base: int = 16384,
        channel_max: int = 512,
        equalised: bool = True,
        pixel_norm: bool = True,
    ) -> None:
        super().__init__()
        levels = image_levels("progressive_gan", img_size, DOUBLINGS)
        check_number("img_channels", img_channels, 1, whole=True)
        check_switches(equalised=equalised, pixel_norm=pixel_norm)
        check_number("z_dim", z_dim, 1, whole=True)
        self.img_size, self.img_channels, self.z_dim = as_size(img_size), img_channels, z_dim
        self.stage = stage_of(levels)
        widths = level_channels(levels, channel_base, channel_max)
        options = {"equalised": equalised, "pixel_norm": pixel_norm}
        self.normalise = PixelNorm()
        self.first = FirstBlock(z_dim, widths[0], levels[0], **options)
        pairs = itertools.pairwise(widths)
        self.blocks = nn.ModuleList(UpBlock(c_in, c_out, **options) for c_in, c_out in pairs)
        self.to_image = nn.ModuleList(
            EqualisedConv2d(c, img_channels, 1, equalised=equalised) for c in widths
        )

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """y is ignored. ValueError unless z is (N, z_dim)."""
        check_latents(z, self.z_dim)
        k = self.stage.sizes.index(self.stage.size)
        x = self.first(self.normalise(z))
        before = x
        for block in self.blocks[:k]:
            before, x = x, block(x)
        image = self.to_image[k](x)
        if self.stage.fading:
            image = blend(enlarged(self.to_image[k - 1](before), self.stage.size), image, self.stage)
        return image if self.training else enlarged(image, self.stage.sizes[-1])


class Trunk(nn.Module):
    """D of a growing GAN without its labels: images of the stage's size -> (N, n_out).

    levels are the (H, W) of its maps, of which the stages begin at number `first`. block makes the layers from one
    size to half of it, from their channels.
    """

    def __init__(
        self,
        levels: Sequence[Shape],
        *,
        first: int,
        img_channels: int,
        channel_base: int,
        channel_max: int,
        n_out: int = 1,
        equalised: bool = True,
        minibatch_stddev: bool = True,
        block: type[nn.Module] = DownBlock,
    ) -> None:
        super().__init__()
        self.img_channels, self.shapes = img_channels, levels[first:]
        self.stage = stage_of(self.shapes)
        widths = level_channels(levels, channel_base, channel_max)
        pairs = itertools.pairwise(widths)
        self.blocks = nn.ModuleList(block(c_in, c_out, equalised=equalised) for c_out, c_in in pairs)
        self.from_image = nn.ModuleList(
            EqualisedConv2d(img_channels, c, 1, gain=GAIN, equalised=equalised) for c in widths[first:]
        )
        self.last = LastBlock(
            widths[0], levels[0], n_out, equalised=equalised, minibatch_stddev=minibatch_stddev
        )

    def forward(self, x: Tensor) -> Tensor:
        """ValueError unless x is of the stage's size."""
        k = self.stage.sizes.index(self.stage.size)
        check_images(x, self.img_channels, self.shapes[k])
        h = lrelu(self.from_image[k](x))
        n_blocks = (
            k + len(self.blocks) - len(self.stage.sizes) + 1
        )  # those between this size and the smallest maps
        for i in reversed(range(n_blocks)):
            h = self.blocks[i](h)
            if self.stage.fading and i == n_blocks - 1:
                h = blend(lrelu(self.from_image[k - 1](F.avg_pool2d(x, 2))), h, self.stage)
        return self.last(h)


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) of H = stage.size px -> logits (N,).

    minibatch_stddev shows the last block how samples differ. The rest and errors as for Generator.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        channel_base: int = 16384,
        channel_max: int = 512,
        equalised: bool = True,
        minibatch_stddev: bool = True,
    ) -> None:
        super().__init__()
        levels = image_levels("progressive_gan", img_size, DOUBLINGS)
        check_number("img_channels", img_channels, 1, whole=True)
        check_switches(equalised=equalised, minibatch_stddev=minibatch_stddev)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.trunk = Trunk(
            levels,
            first=0,
            img_channels=img_channels,
            channel_base=channel_base,
            channel_max=channel_max,
            equalised=equalised,
            minibatch_stddev=minibatch_stddev,
        )

    @property
    def stage(self) -> Stage:
        """The size that D works at now."""
        return self.trunk.stage

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """y is ignored. ValueError unless x has the shape of the stage."""
        return self.trunk(x).squeeze(1)  # (N, 1) -> (N,)
