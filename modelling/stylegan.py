"""StyleGAN for images of h0 2^k x w0 2^k px, 4 <= min(h0, w0) < 8, k from 1 to 8, grown from 2 h0 x 2 w0.

arXiv:1812.04948, where h0 = w0 = 4. Deviations: the
mapping normalises latents and embedded labels separately (see modelling/styles.py); the standard deviation over the
minibatch is taken over groups of 4 samples; the constant input, free in every pixel, has no bias after it.

Convolutions and filters see zeros around the maps, as in the authors' published code. Growing is as in
modelling/progressive_gan.py, with the first two sizes trained from the start.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelling.conditioning import label_vectors, without_zero_rows
from modelling.equalised import EqualisedConv2d, EqualisedLinear
from modelling.growing import Stage
from modelling.layers import Size, as_size, check_number
from modelling.progressive_gan import (
    DOUBLINGS,
    GAIN,
    DoublingConv2d,
    DownBlock,
    Trunk,
    blend,
    check_switches,
    convolved_and_halved,
    doubled_and_convolved,
    enlarged,
    lrelu,
    stage_of,
)
from modelling.sizes import Shape, image_levels, level_channels
from modelling.styles import (
    Mapping,
    check_mixing,
    check_synthesis,
    noise_maps,
    styled_images,
    styles_of,
)
from ops.precision import upcast
from ops.resample import TAPS_121, blur

# Weights that were trained with borders as StyleGAN2 has them make other images.
REVISIONS = ("convolutions and filters see zeros around the maps",)


def adain(x: Tensor, style: Tensor, eps: float = 1e-8) -> Tensor:
    """Each map to mean 0 and variance 1, then its own scale and shift; x (N, C, H, W), style (N, 2 C). Eq. 1.

    style holds scale - 1, so that it may start at 0, then the shift. In full precision.
    """
    scale, shift = upcast(style)[:, :, None, None].chunk(2, 1)  # (N, 2 C) -> 2 x (N, C, 1, 1)
    # A group a map: the instance norm that keeps channels_last, in half the time of torch's own.
    normalised = F.group_norm(upcast(x), x.shape[1], eps=eps)
    return torch.addcmul(shift, normalised, scale + 1).to(x.dtype)


class BlurredDoublingConv2d(EqualisedConv2d):
    """x (N, c_in, H, W) -> (N, c_out, 2H, 2W): repeat pixels, convolve 3x3, filter with [1, 2, 1]; then the bias."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, gain=GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, 2H, 2W)."""
        x = blur(doubled_and_convolved(x, self.scaled_weight(), None), TAPS_121)
        return x.add_(self.bias[:, None, None].to(x.dtype))


class BlurredDownBlock(nn.Module):
    """Maps (N, c_in, H, W) -> (N, c_out, H/2, W/2): convolve, filter with [1, 2, 1], convolve, average 2x2 pixels."""

    def __init__(self, c_in: int, c_out: int, *, equalised: bool = True) -> None:
        super().__init__()
        self.conv0 = EqualisedConv2d(c_in, c_in, 3, gain=GAIN, equalised=equalised)
        self.conv1 = EqualisedConv2d(c_in, c_out, 3, gain=GAIN, equalised=equalised)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H/2, W/2)."""
        x = blur(lrelu(self.conv0(x)), TAPS_121)
        return lrelu(convolved_and_halved(x, self.conv1.scaled_weight(), self.conv1.bias))


class Noise(nn.Module):
    """Add one map of noise to all maps, each with its own strength, 0 at the start. x (N, c, *shape)."""

    constant: Tensor

    def __init__(self, c: int, shape: Shape) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(c))
        self.register_buffer("constant", torch.randn(shape))

    def forward(self, x: Tensor, noise: str | Tensor) -> Tensor:
        """Same shape and type, x itself changed in place; noise: see styles.noise_maps."""
        maps = noise_maps(x, noise, self.constant, x.dtype)
        return x if maps is None else x.addcmul_(maps, self.strength[:, None, None].to(x.dtype))


class StyledLayer(nn.Module):
    """Maps x and w (N, w_dim) -> maps of c_out: conv, noise, leaky ReLU, style. conv None leaves x as it is."""

    def __init__(self, conv: nn.Module | None, c_out: int, shape: Shape, w_dim: int, noise: bool) -> None:
        super().__init__()
        self.conv = conv
        self.noise = Noise(c_out, shape) if noise else None
        self.to_style = EqualisedLinear(w_dim, 2 * c_out)

    def forward(self, x: Tensor, w: Tensor, noise: str | Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H', W')."""
        # What follows works in place, a sixth of the time of G on a CPU: not on the constant, which is a parameter.
        x = x.clone() if self.conv is None else self.conv(x)
        if self.noise is not None:
            x = self.noise(x, noise)
        return adain(lrelu(x), self.to_style(w))


class SynthesisBlock(nn.Module):
    """Maps of one size and two styles -> maps of c_out and twice the size; c_in None: of a constant of that size."""

    def __init__(
        self, c_in: int | None, c_out: int, shape: Shape, w_dim: int, *, noise: bool, blur: bool
    ) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.ones(c_out, *shape)) if c_in is None else None
        up = BlurredDoublingConv2d if blur else DoublingConv2d
        first = None if c_in is None else up(c_in, c_out)
        second = EqualisedConv2d(c_out, c_out, 3, gain=GAIN)
        self.layer0 = StyledLayer(first, c_out, shape, w_dim, noise)
        self.layer1 = StyledLayer(second, c_out, shape, w_dim, noise)

    def forward(self, x: Tensor | None, ws: Tensor, noises: Sequence[str | Tensor]) -> Tensor:
        """ws (N, 2, w_dim); noises: of both layers; x None for the block with the constant."""
        if self.constant is not None:
            x = self.constant.expand(ws.shape[0], -1, -1, -1)
        x = self.layer0(x, ws[:, 0], noises[0])
        return self.layer1(x, ws[:, 1], noises[1])


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, img_channels, H, W), unbounded: H = stage.size in training, img_size in eval mode.

    mixing: the share of samples with two styles, in the trainer's hands through z_mix and u. noise False leaves the
    layers' noise out. channel_base / size, at most channel_max, is the number of channels of the maps of each size,
    which is counted from 4 px for the smallest, whatever they are. ValueError for sizes that it does not make, which
    names the nearest, and for settings out of range.
    """

    revisions = REVISIONS

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
        channel_base: int = 16384,
        channel_max: int = 512,
        blur: bool = True,
    ) -> None:
        super().__init__()
        levels = image_levels("stylegan", img_size, DOUBLINGS)
        counts = {"img_channels": img_channels, "z_dim": z_dim, "w_dim": w_dim}
        for name, value in (counts | {"mapping_layers": mapping_layers}).items():
            check_number(name, value, 1, whole=True)
        check_number("n_labels", n_labels, 0, whole=True)
        check_mixing(mixing)
        check_switches(noise=noise, blur=blur)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.z_dim, self.w_dim = z_dim, w_dim
        self.n_labels, self.mixing, self.layer_noise = n_labels, mixing, noise
        self.stage = stage_of(levels[1:])
        self.mapping = Mapping(z_dim, w_dim, mapping_layers, n_labels=n_labels)
        widths = level_channels(levels, channel_base, channel_max)
        channels = itertools.pairwise([None, *widths])
        self.blocks = nn.ModuleList(
            SynthesisBlock(c_in, c_out, shape, w_dim, noise=noise, blur=blur)
            for shape, (c_in, c_out) in zip(levels, channels, strict=True)
        )
        self.to_image = nn.ModuleList(
            EqualisedConv2d(c, img_channels, 1) for c in widths[1:]
        )  # from the first stage on

    @property
    def n_layers(self) -> int:
        """Number of styles of an image at the present stage."""
        return 2 * (self.stage.sizes.index(self.stage.size) + 2)

    @property
    def constant_noises(self) -> list[Tensor]:
        """The constant noise (h, w) of each layer in turn at the present stage, none without noise."""
        layers = [layer for block in self.blocks for layer in (block.layer0, block.layer1)]
        return [layer.noise.constant for layer in layers[: self.n_layers] if self.layer_noise]

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
        """Styles (N, n_layers, w_dim) -> images.

        noise: one of styles.NOISES, None for "random" in training and "constant" in eval mode; or maps (N or 1, 1, h,
        w), one a layer, see constant_noises. double_backward is ignored: one form serves all orders of gradient.
        ValueError for other shapes and kinds of noise.
        """
        noises = check_synthesis(self, ws, noise, self.n_layers)
        k = self.stage.sizes.index(self.stage.size)
        before = x = None
        for i, block in enumerate(self.blocks[: k + 2]):
            before, x = x, block(x, ws[:, 2 * i : 2 * i + 2], noises[2 * i : 2 * i + 2])
        image = self.to_image[k](x)
        if self.stage.fading:
            image = blend(enlarged(self.to_image[k - 1](before), self.stage.size), image, self.stage)
        return image if self.training else enlarged(image, self.stage.sizes[-1])

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


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) of H = stage.size px -> logits (N,).

    With n_labels there is a logit a label; D's is the sum of those of y over the root of their number, and of all for a
    sample without any label.
    minibatch_stddev shows the last block how samples differ; blur filters before sizes are halved. The rest and errors
    as for Generator.
    """

    revisions = REVISIONS

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        n_labels: int = 0,
        channel_base: int = 16384,
        channel_max: int = 512,
        minibatch_stddev: bool = True,
        blur: bool = True,
    ) -> None:
        super().__init__()
        levels = image_levels("stylegan", img_size, DOUBLINGS)
        check_number("img_channels", img_channels, 1, whole=True)
        check_number("n_labels", n_labels, 0, whole=True)
        check_switches(minibatch_stddev=minibatch_stddev, blur=blur)
        self.img_size, self.img_channels, self.n_labels = as_size(img_size), img_channels, n_labels
        self.trunk = Trunk(
            levels,
            first=1,
            img_channels=img_channels,
            channel_base=channel_base,
            channel_max=channel_max,
            n_out=max(n_labels, 1),
            minibatch_stddev=minibatch_stddev,
            block=BlurredDownBlock if blur else DownBlock,
        )

    @property
    def stage(self) -> Stage:
        """The size that D works at now."""
        return self.trunk.stage

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError unless x has the shape of the stage and, with n_labels, y fits."""
        logits = self.trunk(x)
        if not self.n_labels:
            return logits.squeeze(1)  # (N, 1) -> (N,)
        rows = without_zero_rows(label_vectors(y, len(x), self.n_labels), self.n_labels**-0.5)
        return (logits * rows.to(logits.dtype)).sum(1)  # (N, n_labels) -> (N,)
