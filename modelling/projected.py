"""The discriminator of Projected GANs: small ones on the maps of a network trained by others. arXiv:2111.01007.

The network is EfficientNet-Lite0, the paper's usual choice. Its maps of 1/4, 1/8, 1/16 and 1/32 of the image are mixed
by convolutions that stay as they are drawn, over channels and then, from the smallest up, over scales (section 3.2);
four heads judge what comes out. Deviations: images of other sizes than multiples of 32 px are enlarged to these; the
convolutions over scales come before the doubling of the maps, which gives the same numbers at a quarter of the work.
"""

import copy
import itertools
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError
from modelling.conditioning import label_vectors
from modelling.layers import Size, as_size, check_choice, check_images, check_number, image_shape
from ops.precision import without_autocast
from pretrained.lite0 import MISSING, NAME, find_lite0, read_lite0

RESOLUTION = 224  # px that Lite0 was trained at
MAX_RESOLUTION = 1024
STEP = 32  # px that one place of its smallest maps stands for
MAPS = (24, 40, 112, 320)  # channels at 1/4, 1/8, 1/16, 1/32 of the image
# In units of the width, 64 in the paper: what channels are mixed to, what comes of the scales, and the heads' maps.
MIXED, SCALED = (1, 2, 4, 8), (1, 1, 2, 4)
HEADS = ((1, 1, 2, 4, 8), (1, 2, 4, 8), (2, 4, 8), (4, 8))
LAST_KERNEL = 4
EMBEDDING, JUDGED = 128, 64  # of labels, and channels that meet them


def frozen(module: nn.Module, *, saved: bool) -> nn.Module:
    """The module with buffers in place of its parameters: never trained; saved: part of the state dict.

    Its layers take no spectral norm.
    """
    for part in module.modules():
        part.spectral_norm = False
        for name, p in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, p.detach(), persistent=saved)
    return module


class Reader(nn.Module):
    """Lite0 with the weights of its package, which are no part of the state dict: `sha256` says which they are.

    ValueError where the package is not installed, or holds other bytes.
    """

    name = NAME

    def __init__(self) -> None:
        super().__init__()
        if (file := find_lite0()) is None:
            raise UserError(f"D sees by {NAME}, with {MISSING}")
        network, self.sha256 = _lite0(file, torch.get_default_dtype())
        self.network = copy.deepcopy(network).to(torch.get_default_device())

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 1 or 3, H, W) in [-1, 1] -> maps of MAPS channels, 1/4, 1/8, 1/16 and 1/32 of its size."""
        return self.network.maps(x.contiguous(memory_format=torch.channels_last))[1:]


@cache
def _lite0(file: Path, dtype: torch.dtype) -> tuple[nn.Module, str]:
    """(the frozen network, sha256 of its file); read once a process, since networks are built for checks too."""
    with torch.device("cpu"):  # also where networks are built on the device that computes nothing
        network, sha256 = read_lite0()
        network = network.to(dtype).fused()
    for unused in ("_conv_head", "_bn1", "_fc"):
        delattr(network, unused)
    return frozen(network, saved=False).to(memory_format=torch.channels_last), sha256


def readers_of(network: nn.Module) -> dict[str, str]:
    """The networks trained by others that a network sees by: name -> sha256 of their weights."""
    return {module.name: module.sha256 for module in network.modules() if isinstance(module, Reader)}


class Mixing(nn.Module):
    """Lite0's maps -> four, twice as large, of which each knows those that are smaller: fixed and random.

    Its buffers are drawn as torch draws weights of convolutions.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        mixed, scaled = ([n * width for n in units] for units in (MIXED, SCALED))
        channels = nn.ModuleList(itertools.starmap(_pointwise, zip(MAPS, mixed, strict=True)))
        scales = nn.ModuleList(itertools.starmap(_pointwise, zip(mixed, scaled, strict=True)))
        self.channels, self.scales = frozen(channels, saved=True), frozen(scales, saved=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """(N, c, H, W) from the largest maps to the smallest -> as many, (N, c', 2H, 2W)."""
        found: list[Tensor] = []
        for x, channels, scales in reversed(list(zip(maps, self.channels, self.scales, strict=True))):
            x = channels(x)
            x = scales(x + found[0] if found else x)
            doubled = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            found.insert(0, doubled)
        return found


def _pointwise(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 1)


def halving(c_in: int, c_out: int, separable: bool) -> nn.Sequential:
    """A convolution, norm and leaky ReLU that halve the size; separable: 3x3 of each channel alone, 1x1, pooled."""
    norm, activation = nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2, inplace=True)
    if not separable:
        return nn.Sequential(nn.Conv2d(c_in, c_out, 4, 2, 1), norm, activation)
    alone = nn.Conv2d(c_in, c_in, 3, padding=1, groups=c_in, bias=False)
    return nn.Sequential(alone, nn.Conv2d(c_in, c_out, 1, bias=False), norm, activation, nn.AvgPool2d(2))


class Head(nn.Module):
    """Maps (N, channels[0], H, W) -> logits (N, n) of all places of what is 2^-k of them.

    With labels the last maps have 64 channels, whose products with what an embedding says of the labels are the logits.
    """

    def __init__(self, channels: list[int], kernel: tuple[int, int], separable: bool, n_labels: int) -> None:
        super().__init__()
        self.n_labels = n_labels
        self.blocks = nn.Sequential(*(halving(*pair, separable) for pair in itertools.pairwise(channels)))
        self.last = nn.Conv2d(channels[-1], JUDGED if n_labels else 1, kernel, bias=False)
        if n_labels:
            self.table = nn.Parameter(torch.randn(n_labels, EMBEDDING))
            self.of_labels = nn.Linear(EMBEDDING, JUDGED)
            self.of_labels.spectral_norm = False

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        """ValueError for labels that are missing or do not fit."""
        x = self.last(self.blocks(x)).flatten(2)  # (N, C, H, W) -> (N, C, n)
        if not self.n_labels:
            return x.flatten(1)
        rows = label_vectors(y, len(x), self.n_labels)
        with without_autocast(rows):
            wanted = F.leaky_relu(self.of_labels(rows @ self.table), 0.2)
        return (x * wanted.to(x.dtype)[:, :, None]).sum(1) / JUDGED**0.5  # (N, C, n) -> (N, n)


class Discriminator(nn.Module):
    """Images (N, 1 or 3, H, W) -> logits (N, n) of all places of the four heads; grey is repeated to 3 channels.

    resolution: of images whose shorter side is less, that is brought to it, a multiple of 32 px. width: the unit of
    channels of heads and mixing, the paper's is 64. separable: heads of fewer numbers, as the paper has for StyleGAN2's
    G. Lite0's and the mixing's numbers are never trained; the latter are in the state dict. ValueError for other
    channels, for settings out of range, and where Lite0 is not installed.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        n_labels: int = 0,
        width: int = 64,
        resolution: int = RESOLUTION,
        separable: bool = False,
    ) -> None:
        super().__init__()
        check_number("img_channels", img_channels, 1, whole=True)
        if img_channels not in (1, 3):
            raise UserError(
                f"--img_channels {img_channels}: this discriminator sees by {NAME}, which reads 3 channels, or 1 "
                "repeated: train with 1 or 3"
            )
        check_number("width", width, 1, whole=True)
        check_choice("separable", separable, (True, False))
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.read_at = enlarged(image_shape(img_size), resolution)
        self.reader, self.mixing = Reader(), Mixing(width)
        kernel = tuple(min(LAST_KERNEL, side // STEP) for side in self.read_at)
        self.heads = nn.ModuleList(
            Head([n * width for n in channels], kernel, separable, n_labels) for channels in HEADS
        )

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError unless x has the network's shape and, with n_labels, y fits."""
        check_images(x, self.img_channels, self.img_size)
        if tuple(x.shape[2:]) != self.read_at:
            x = F.interpolate(x, self.read_at, mode="bilinear")
        maps = self.mixing(self.reader(x))
        return torch.cat([head(x, y) for head, x in zip(self.heads, maps, strict=True)], 1)


def enlarged(shape: tuple[int, int], resolution: int) -> tuple[int, int]:
    """Multiples of 32 that sides become: as they are or up to the next, and the shorter one at least `resolution`."""
    check_number("resolution", resolution, STEP, MAX_RESOLUTION + 1, whole=True)
    if resolution % STEP:
        raise UserError(f"--resolution {resolution} must be a multiple of {STEP}")
    least = min(shape)
    wanted = max(resolution, least)
    return tuple(-(-side * wanted // (least * STEP)) * STEP for side in shape)
