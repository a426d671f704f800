"""StyleGAN2 with the settings of StyleGAN2-ADA. arXiv:1912.04958, arXiv:2006.06676.

Deviations: images of any size h0 2^k x w0 2^k with 4 <= min(h0, w0) < 8, where the papers have h0 = w0
= 4; groups of the minibatch standard deviation are consecutive samples. The gain of sqrt(2) after LeakyReLU and the
sqrt(1/2) of a residual sum are multiplied into weights and biases as these are used, since LeakyReLU commutes with
them: the same function with fewer passes over the maps.

conv_clamp limits what a layer gives out, times the gain of a residual path but not LeakyReLU's, as in the authors'
published code.

Low precision is explicit: autocast says which type, n_half says how many of the highest resolutions take it, and
everything else computes in full precision, whatever autocast says.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelling.conditioning import check_labels
from modelling.equalised import Equalised, EqualisedConv2d, EqualisedLinear
from modelling.layers import (
    MinibatchStdDev,
    Size,
    as_size,
    check_choice,
    check_images,
    check_number,
)
from modelling.sizes import half_levels, image_levels, level_channels
from modelling.styles import (
    Mapping,
    check_mixing,
    check_synthesis,
    noise_maps,
    styled_images,
    styles_of,
)
from ops.modulated_conv import grouped_pays, modulated_conv2d
from ops.precision import autocast_type, upcast, without_autocast
from ops.resample import TAPS_1331, conv_down, downsample, upsample

GAIN = math.sqrt(2)  # of LeakyReLU
DOUBLINGS = range(1, 13)


def _clamped(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)


def _activated(x: Tensor, limit: float | None) -> Tensor:
    """LeakyReLU and clamp of a convolution's output, which nothing else reads: in place, 1 to 3 % of a step."""
    return _clamped(F.leaky_relu_(x, 0.2), limit)


def _check_clamp(conv_clamp: float | None) -> None:
    if conv_clamp is not None:
        check_number("conv_clamp", conv_clamp, 1e-3)


# Blocks of G


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias, LeakyReLU: maps (N, c_in, h, w), style (N, w_dim) -> (N, c_out, *shape).

    up: doubles the size. noise: adds one map of noise with a learnt strength that starts at 0.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        w_dim: int,
        shape: tuple[int, int],
        *,
        up: bool,
        noise: bool,
        clamp: float | None,
    ) -> None:
        super().__init__()
        self.clamp = clamp
        self.up_taps = TAPS_1331 if up else None
        self.affine = EqualisedLinear(w_dim, c_in, bias=1.0)
        # Its scale cancels in the demodulation. With `up` it lies as the transposed convolution reads it, which saves
        # three copies a step.
        self.weight = nn.Parameter(torch.randn(*((c_in, c_out) if up else (c_out, c_in)), 3, 3))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.strength = nn.Parameter(torch.zeros(())) if noise else None
        self.register_buffer("noise", torch.randn(shape) if noise else None)

    def forward(self, x: Tensor, w: Tensor, noise: str | Tensor, double_backward: bool) -> Tensor:
        """noise: see styles.noise_maps; double_backward: see Generator.synthesis."""
        up = self.up_taps is not None
        weight = self.weight.transpose(0, 1) if up else self.weight
        grouped = double_backward and grouped_pays(x, weight, up)
        x = modulated_conv2d(x, weight, self.affine(w), up_taps=self.up_taps, grouped=grouped, gain=GAIN)
        maps = None if self.strength is None else noise_maps(x, noise, self.noise, self.strength.dtype)
        if maps is not None:
            x.add_((maps * (self.strength * GAIN)).to(x.dtype))
        x.add_((self.bias * GAIN).to(x.dtype)[:, None, None])
        return _activated(x, self.clamp)


class ToImage(nn.Module):
    """Modulated 1x1 convolution without demodulation, and bias: maps -> (N, img_channels, h, w)."""

    def __init__(self, c_in: int, img_channels: int, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp, self.scale = clamp, 1 / math.sqrt(c_in)
        self.affine = EqualisedLinear(w_dim, c_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(img_channels, c_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """In full precision whatever x is."""
        s = self.affine(w)  # grouped: for a kernel of 1 and few outputs the faster form to every order
        y = modulated_conv2d(x, self.weight, s, demodulate=False, grouped=True, gain=self.scale)
        return upcast(_clamped(y + self.bias.to(y.dtype)[:, None, None], self.clamp))


class SynthesisBlock(nn.Module):
    """One level of G: maps of the level below and the image so far -> maps and image of this level.

    The first level starts from a learnt constant and has one convolution, the others two. Styles: one for each
    convolution, and the one after these for the image.
    """

    def __init__(
        self,
        c_in: int | None,
        c_out: int,
        img_channels: int,
        w_dim: int,
        shape: tuple[int, int],
        *,
        to_image: bool,
        half: bool,
        noise: bool,
        clamp: float | None,
    ) -> None:
        """c_in: None for the first level."""
        super().__init__()
        self.half = half
        self.const = nn.Parameter(torch.randn(c_out, *shape)) if c_in is None else None
        given = [] if c_in is None else [(c_in, True)]
        self.convs = nn.ModuleList(
            StyledConv(c, c_out, w_dim, shape, up=up, noise=noise, clamp=clamp)
            for c, up in [*given, (c_out, False)]
        )
        self.to_image = ToImage(c_out, img_channels, w_dim, clamp) if to_image else None

    def forward(
        self,
        x: Tensor | None,
        image: Tensor | None,
        styles: list[Tensor],
        low: torch.dtype | None,
        noises: Sequence[str | Tensor],
        double_backward: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """styles: len(convs) + 1 of (N, w_dim); low: the type of half precision, None for full; noises: one of each
        convolution."""
        if self.const is not None:
            x = self.const.expand(styles[0].shape[0], -1, -1, -1)
        x = x.to(low) if self.half and low is not None else upcast(x)
        for conv, w, noise in zip(self.convs, styles, noises, strict=False):
            x = conv(x, w, noise, double_backward)
        if image is not None:
            image = upsample(image, TAPS_1331)
        if self.to_image is not None:
            rgb = self.to_image(x, styles[-1])
            image = rgb if image is None else image + rgb
        return x, image


class Generator(nn.Module):
    """z (N, z_dim), y -> images (N, img_channels, H, W), about [-1, 1]: no tanh.

    img_size: side or (H, W). channel_base: of level_channels. mixing: the probability that two styles are mixed, 0 for
    never. noise: False leaves it out. architecture: "skip" sums images of all levels, "orig" makes one at the end.
    conv_clamp: limit of the absolute values of what a layer gives out; None for none. n_half: how many of the
    highest resolutions compute in autocast's type. ValueError for sizes it cannot make, which names the nearest, and
    for settings out of range.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        z_dim: int,
        n_labels: int = 0,
        w_dim: int = 512,
        mapping_layers: int = 8,
        mixing: float = 0.9,
        noise: bool = True,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: str = "skip",
        conv_clamp: float | None = 256.0,
        n_half: int = 4,
    ) -> None:
        super().__init__()
        levels = image_levels("stylegan2", img_size, DOUBLINGS)
        counts = {
            "img_channels": img_channels,
            "z_dim": z_dim,
            "w_dim": w_dim,
            "mapping_layers": mapping_layers,
        }
        for name, value in counts.items():
            check_number(name, value, 1, whole=True)
        check_number("n_labels", n_labels, 0, whole=True)
        check_mixing(mixing)
        check_choice("noise", noise, (True, False))
        check_choice("architecture", architecture, ("skip", "orig"))
        _check_clamp(conv_clamp)
        self.img_size, self.img_channels, self.z_dim = as_size(img_size), img_channels, z_dim
        self.w_dim, self.mixing, self.layer_noise = w_dim, mixing, noise
        channels = level_channels(levels, channel_base, channel_max)
        halves = half_levels(len(levels), n_half)
        self.mapping = Mapping(z_dim, w_dim, mapping_layers, n_labels=n_labels, bias_gain=GAIN)
        shared = {"noise": noise, "clamp": conv_clamp}
        self.blocks = nn.ModuleList()
        for k, shape in enumerate(levels):
            to_image = architecture == "skip" or k == len(levels) - 1
            widths = (channels[k - 1] if k else None, channels[k], img_channels, w_dim)
            self.blocks.append(SynthesisBlock(*widths, shape, to_image=to_image, half=halves[k], **shared))

    @property
    def n_layers(self) -> int:
        """Number of style inputs: one a convolution and one for the last image."""
        return 2 * len(self.blocks)

    @property
    def constant_noises(self) -> list[Tensor]:
        """The constant noise (h, w) of each layer in turn, none without noise."""
        return [conv.noise for block in self.blocks for conv in block.convs if self.layer_noise]

    def styles(
        self, z: Tensor, y: Tensor | None = None, z_mix: Tensor | None = None, u: Tensor | None = None
    ) -> Tensor:
        """ws (N, n_layers, w_dim); see styles_of."""
        return styles_of(self, z, y, z_mix, u)

    def synthesis(
        self,
        ws: Tensor,
        *,
        noise: str | Sequence[Tensor] | None = None,
        double_backward: bool = False,
    ) -> Tensor:
        """Images (N, img_channels, H, W) from ws (N, n_layers, w_dim).

        noise: one of styles.NOISES, None for "random" in training and "constant" in eval mode; or maps (N or 1, 1, h,
        w), one a layer, see constant_noises.
        double_backward: the gradient will be differentiated again, choose the form of each convolution for that; the
        images are the same. ValueError for other noise and shapes.
        """
        noises = check_synthesis(self, ws, noise, self.n_layers - 1)
        low = autocast_type(ws)
        with without_autocast(ws):
            styles = upcast(ws).unbind(1)
            x = image = None
            i = 0
            for block in self.blocks:
                n = len(block.convs)
                x, image = block(x, image, styles[i : i + n + 1], low, noises[i : i + n], double_backward)
                i += n
        return image

    def forward(
        self,
        z: Tensor,
        y: Tensor | None = None,
        z_mix: Tensor | None = None,
        u: Tensor | None = None,
        *,
        truncation: float = 1.0,
        truncation_layers: int | None = None,
        noise: str | None = None,
    ) -> Tensor:
        """Images of the styles of z, y, z_mix and u, noise as for synthesis.

        truncation: psi, draws the styles of the first truncation_layers layers (None: all) towards their mean.
        ValueError in training mode unless 1, and for numbers out of range.
        """
        how = {"truncation": truncation, "truncation_layers": truncation_layers, "noise": noise}
        return styled_images(self, z, y, z_mix, u, **how)


# Blocks of D


class ActivatedConv(Equalised):
    """Convolution, bias, LeakyReLU with gain: (N, c_in, H, W) -> (N, c_out, H, W), or half the size with `down`."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        down: bool = False,
        gain: float = 1.0,
        clamp: float | None = None,
    ) -> None:
        """gain: of the output, beside LeakyReLU's own, and of the clamp."""
        super().__init__((c_out, c_in, kernel, kernel), gain * GAIN, 0.0, True)
        self.gain, self.down = gain * GAIN, down
        self.clamp = None if clamp is None else clamp * gain

    def forward(self, x: Tensor) -> Tensor:
        """In x's type."""
        weight, bias = self.scaled_weight().to(x.dtype), (self.bias * self.gain).to(x.dtype)
        if self.down:
            x = conv_down(x, weight, TAPS_1331).add_(bias[:, None, None])
        else:
            x = F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)
        return _activated(x, self.clamp)


class DiscriminatorBlock(nn.Module):
    """One level of D: (N, c_in, H, W) -> (N, c_out, H / 2, W / 2), with a residual path or without.

    from_image: the number of channels of images that the block begins with, None for maps.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        from_image: int | None,
        residual: bool,
        half: bool,
        clamp: float | None,
    ) -> None:
        super().__init__()
        self.half = half
        gain = math.sqrt(0.5) if residual else 1.0  # keeps the variance of the sum
        self.from_image = ActivatedConv(from_image, c_in, 1, clamp=clamp) if from_image is not None else None
        self.conv0 = ActivatedConv(c_in, c_in, 3, clamp=clamp)
        self.conv1 = ActivatedConv(c_in, c_out, 3, down=True, gain=gain, clamp=clamp)
        self.shortcut = EqualisedConv2d(c_in, c_out, 1, gain=gain, bias=None) if residual else None

    def forward(self, x: Tensor, low: torch.dtype | None) -> Tensor:
        """low: the type of half precision, None for full."""
        x = x.to(low) if self.half and low is not None else upcast(x)
        if self.from_image is not None:
            x = self.from_image(x)
        y = self.conv1(self.conv0(x))
        if self.shortcut is None:
            return y
        small = downsample(x, TAPS_1331)
        return y + F.conv2d(small, self.shortcut.scaled_weight().to(x.dtype))


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) -> logits (N,).

    With n_labels the logit is the inner product of D's features and mapped labels (arXiv:1802.05637), over the root
    of their number. group_size: of the minibatch standard deviation. mapping_layers: of the labels' mapping. The
    rest as for Generator; architecture: "resnet" or "orig", without residual paths.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        n_labels: int = 0,
        mapping_layers: int = 8,
        group_size: int = 4,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: str = "resnet",
        conv_clamp: float | None = 256.0,
        n_half: int = 4,
    ) -> None:
        super().__init__()
        levels = image_levels("stylegan2", img_size, DOUBLINGS)
        counts = {"img_channels": img_channels, "group_size": group_size, "mapping_layers": mapping_layers}
        for name, value in counts.items():
            check_number(name, value, 1, whole=True)
        check_number("n_labels", n_labels, 0, whole=True)
        check_choice("architecture", architecture, ("resnet", "orig"))
        _check_clamp(conv_clamp)
        self.img_size, self.img_channels, self.n_labels = as_size(img_size), img_channels, n_labels
        channels = level_channels(levels, channel_base, channel_max)
        halves = half_levels(len(levels), n_half)
        shared = {"residual": architecture == "resnet", "clamp": conv_clamp}
        self.blocks = nn.ModuleList()
        for k in reversed(range(1, len(levels))):
            from_image = img_channels if k == len(levels) - 1 else None
            block = DiscriminatorBlock(
                channels[k], channels[k - 1], from_image=from_image, half=halves[k], **shared
            )
            self.blocks.append(block)
        features = channels[0]
        self.stddev = MinibatchStdDev(group_size)
        self.conv = ActivatedConv(features + 1, features, 3, clamp=conv_clamp)
        self.hidden = EqualisedLinear(features * math.prod(levels[0]), features)
        of_labels = {"n_labels": n_labels, "w_avg_beta": None, "bias_gain": GAIN}
        self.mapping = Mapping(0, features, mapping_layers, **of_labels) if n_labels else None
        self.out = EqualisedLinear(features, features if n_labels else 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError for shapes and labels that do not fit; y is ignored without n_labels."""
        check_images(x, self.img_channels, self.img_size)
        low = autocast_type(x)
        with without_autocast(x):
            for block in self.blocks:
                x = block(x, low)
            features = self._features(upcast(x))
            if self.mapping is None:
                return features.squeeze(1)
            check_labels(y, len(x), self.n_labels)
            labels = self.mapping(None, y)
            return (features * labels).sum(1) / math.sqrt(features.shape[1])

    def _features(self, x: Tensor) -> Tensor:
        """From the smallest maps, in full precision."""
        x = self.conv(self.stddev(x)).flatten(1)
        return self.out(F.leaky_relu(self.hidden(x), 0.2) * GAIN)
