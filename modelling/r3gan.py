"""R3GAN: residual networks without normalisation, of bottlenecks with grouped convolutions. arXiv:2501.05441.

A branch's last weights start at 0 and its others small by the depth, so that both networks start as linear maps and
need no norm (arXiv:1901.09321); no noise, no mapping of latents, no tanh. Its game is `--method rpgan --penalty r1 r2`.

Deviations: images of any size h0 2^k x w0 2^k with 4 <= min(h0, w0) < 8, where the paper has h0 = w0 = 4; several
labels at once (attributes) are rows of length 1; penalties compute in full precision, as for all models.

Low precision is explicit: autocast says which type, n_half says how many of the highest resolutions take it, and
everything else computes in full precision, whatever autocast says.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError
from modelling.conditioning import rows_of
from modelling.layers import Size, as_size, check_images, check_latents, check_number
from modelling.sizes import half_levels, image_levels, level_channels
from ops.precision import autocast_type, upcast, without_autocast
from ops.resample import TAPS_1331, downsample, upsample

SLOPE = 0.2  # of LeakyReLU
BRANCH_GAIN = math.sqrt(2 / (1 + SLOPE**2))  # of initial weights before a LeakyReLU
DOUBLINGS = range(1, 13)
MAX_BLOCKS = MAX_EXPANSION = 65  # a resolution, and a block, has fewer


class Conv(nn.Conv2d):
    """A convolution that computes in the type of what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H', W')."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return self._conv_forward(x, self.weight.to(x.dtype), bias)


def n_groups(channels: int, group_size: int) -> int:
    """Groups of so many channels each, one where there are fewer; UserError where they do not come out even."""
    if channels > group_size and channels % group_size:
        raise UserError(
            f"channel_base and channel_max make {channels} channels inside a block, which cannot be cut into groups of "
            f"{group_size}: choose powers of two, or another group_size"
        )
    return max(channels // group_size, 1)


class Bottleneck(nn.Module):
    """x + C(lrelu(B(lrelu(A x + p)) + q)): 1x1 to `expansion` times the channels, 3x3 in groups, 1x1 back."""

    def __init__(self, channels: int, expansion: int, group_size: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.widen = Conv(channels, inner, 1)
        self.mix = Conv(inner, inner, 3, padding=1, groups=n_groups(inner, group_size))
        self.narrow = Conv(inner, channels, 1, bias=False)
        self.narrow.spectral_norm = False  # it starts at 0, which has no norm to be divided by

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape and type."""
        y = F.leaky_relu_(self.widen(x), SLOPE)
        return x + self.narrow(F.leaky_relu_(self.mix(y), SLOPE))


@dataclass(frozen=True)
class Blocks:
    """What the blocks of a network are like, n_blocks of them a resolution; UserError for settings out of range."""

    n_blocks: int
    expansion: int
    group_size: int

    def __post_init__(self) -> None:
        for name, high in (("n_blocks", MAX_BLOCKS), ("expansion", MAX_EXPANSION), ("group_size", math.inf)):
            check_number(name, getattr(self, name), 1, high, whole=True)

    def make(self, channels: int) -> list[Bottleneck]:
        """Those of one resolution."""
        return [Bottleneck(channels, self.expansion, self.group_size) for _ in range(self.n_blocks)]


class UpLevel(nn.Module):
    """A resolution of G: a 1x1 where the width changes, upsampling by 2, blocks; the smallest has blocks alone.

    c_in: channels of the resolution below, None for the smallest; half: whether it computes in autocast's type.
    """

    def __init__(self, c_in: int | None, c_out: int, blocks: Blocks, half: bool) -> None:
        super().__init__()
        self.half, self.doubles = half, c_in is not None
        self.change = Conv(c_in, c_out, 1, bias=False) if c_in not in (None, c_out) else nn.Identity()
        self.blocks = nn.Sequential(*blocks.make(c_out))

    def forward(self, x: Tensor, low: torch.dtype | None) -> Tensor:
        """(N, c_in, h, w) -> (N, c_out, 2h, 2w); low: the type of half precision, None for full."""
        x = cast(x, low if self.half else None)
        return self.blocks(upsample(self.change(x), TAPS_1331) if self.doubles else x)


class DownLevel(nn.Module):
    """A resolution of D: blocks, downsampling by 2, a 1x1 where the width changes; the smallest has blocks alone.

    c_image: channels of the images that the highest resolution begins with, None for maps; c_out: of the resolution
    below, None for the smallest; half: whether it computes in autocast's type.
    """

    def __init__(self, c_image: int | None, c_in: int, c_out: int | None, blocks: Blocks, half: bool) -> None:
        super().__init__()
        self.half, self.halves = half, c_out is not None
        self.from_image = nn.Identity() if c_image is None else Conv(c_image, c_in, 1, bias=False)
        self.blocks = nn.Sequential(*blocks.make(c_in))
        self.change = Conv(c_in, c_out, 1, bias=False) if c_out not in (None, c_in) else nn.Identity()

    def forward(self, x: Tensor, low: torch.dtype | None) -> Tensor:
        """(N, c_in, h, w) -> (N, c_out, h / 2, w / 2); low: the type of half precision, None for full."""
        x = self.blocks(self.from_image(cast(x, low if self.half else None)))
        return self.change(downsample(x, TAPS_1331)) if self.halves else x


def cast(x: Tensor, low: torch.dtype | None) -> Tensor:
    """x in the type of half precision, in full precision where that is None."""
    return upcast(x) if low is None else x.to(low)


@torch.no_grad()
def init_fixup(net: nn.Module) -> None:
    """N(0, gain^2 / fan_in), gain 1 outside of branches; in them BRANCH_GAIN / L^(1/4) of L branches, and 0 for the
    last; biases 0. arXiv:1901.09321 section 3, for branches of m = 3 layers: L^(-1 / (2 m - 2))."""
    branches = [module for module in net.modules() if isinstance(module, Bottleneck)]
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.normal_(0, fan_in(module) ** -0.5)
            if module.bias is not None:
                module.bias.zero_()
    for branch in branches:
        for conv in (branch.widen, branch.mix):
            conv.weight.mul_(BRANCH_GAIN * len(branches) ** -0.25)
        branch.narrow.weight.zero_()


def fan_in(layer: nn.Module) -> int:
    """Numbers that each output is a sum of."""
    return layer.weight[0].numel()


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, img_channels, H, W), unbounded.

    channel_base over the side of a square image of that level, at most channel_max, is the width there; group_size:
    channels of a group of the 3x3. n_blocks: a resolution; expansion: of a block's inner width. n_half: of the highest
    resolutions, computed in half precision under autocast, never the smallest. With n_labels a row of labels becomes
    embed_dim numbers beside z. UserError for a size that it does not make, which names the nearest, and for settings
    out of range.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        z_dim: int,
        n_labels: int = 0,
        channel_base: int = 24576,
        channel_max: int = 768,
        group_size: int = 16,
        n_blocks: int = 2,
        expansion: int = 2,
        embed_dim: int = 64,
        n_half: int = 4,
    ) -> None:
        super().__init__()
        levels = image_levels("r3gan", img_size, DOUBLINGS)
        for name, value in (("img_channels", img_channels), ("z_dim", z_dim), ("embed_dim", embed_dim)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.z_dim, self.n_labels = z_dim, n_labels
        channels = level_channels(levels, channel_base, channel_max)
        halves, blocks = half_levels(len(levels), n_half), Blocks(n_blocks, expansion, group_size)
        self.embedding = nn.Linear(n_labels, embed_dim, bias=False) if n_labels else None
        self.start = nn.Linear(z_dim + (embed_dim if n_labels else 0), channels[0], bias=False)
        # with an axis for samples, so that it takes a memory layout, which all maps then have
        self.basis = nn.Parameter(torch.randn(1, channels[0], *levels[0]))
        below = (None, *channels)
        self.levels = nn.ModuleList(
            UpLevel(*pair, blocks, half) for *pair, half in zip(below, channels, halves, strict=False)
        )
        self.to_image = Conv(channels[-1], img_channels, 1, bias=False)
        init_fixup(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError unless z is (N, z_dim) and, with n_labels, y fits; y is ignored without."""
        check_latents(z, self.z_dim)
        rows, low = rows_of(y, len(z), self.n_labels), autocast_type(z)
        with without_autocast(z):
            z = upcast(z)
            if rows is not None:
                z = torch.cat([z, self.embedding(rows)], 1)
            x = self.start(z)[:, :, None, None] * self.basis  # (N, C) -> (N, C, h0, w0)
            for level in self.levels:
                x = level(x, low)
            return upcast(self.to_image(x))


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) -> logits (N,).

    With n_labels the logit is the inner product of D's features and a linear embedding of the labels
    (arXiv:1802.05637). The rest as for Generator.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        n_labels: int = 0,
        channel_base: int = 24576,
        channel_max: int = 768,
        group_size: int = 16,
        n_blocks: int = 2,
        expansion: int = 2,
        n_half: int = 4,
    ) -> None:
        super().__init__()
        levels = image_levels("r3gan", img_size, DOUBLINGS)
        check_number("img_channels", img_channels, 1, whole=True)
        self.img_size, self.img_channels, self.n_labels = as_size(img_size), img_channels, n_labels
        channels = level_channels(levels, channel_base, channel_max)
        halves, blocks = half_levels(len(levels), n_half), Blocks(n_blocks, expansion, group_size)
        self.levels = nn.ModuleList()
        for k in reversed(range(len(levels))):
            c_image = img_channels if k == len(levels) - 1 else None
            c_out = channels[k - 1] if k else None
            self.levels.append(DownLevel(c_image, channels[k], c_out, blocks, halves[k]))
        features = channels[0]
        self.pool = Conv(features, features, levels[0], groups=features, bias=False)
        self.head = nn.Linear(features, features if n_labels else 1, bias=False)
        self.embedding = nn.Linear(n_labels, features, bias=False) if n_labels else None
        init_fixup(self)
        if n_labels:
            with torch.no_grad():  # so that the inner product is as large as one feature
                self.embedding.weight.mul_(features**-0.5)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError for shapes and labels that do not fit; y is ignored without n_labels."""
        check_images(x, self.img_channels, self.img_size)
        rows, low = rows_of(y, len(x), self.n_labels), autocast_type(x)
        with without_autocast(x):
            for level in self.levels:
                x = level(x, low)
            features = self.head(self.pool(upcast(x)).flatten(1))  # (N, C, 1, 1) -> (N, C)
            return features.squeeze(1) if rows is None else (features * self.embedding(rows)).sum(1)
