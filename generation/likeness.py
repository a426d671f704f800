"""How near pictures are to a target, differentiable: over a pyramid, by the maps of a network; how white noise is."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrained.lite0 import Lite0

N_SIZES = 3  # of maps that are compared
LEAST_READ = 64  # px that images are enlarged to for the network
SMALLEST = 4  # px of an image's shorter side in the pyramid
SMALLEST_NOISE = 8


def as_written(x: Tensor, target: Tensor) -> Tensor:
    """Images (n, C, H, W) with what is beyond -1 and 1 as a file would hold it where the target is black or white too;
    elsewhere they stay, so that there is a way back."""
    alike = (x > 1) & (target >= 1) | (x < -1) & (target <= -1)
    return torch.where(alike, target, x)


def pyramid_loss(found: Tensor, target: Tensor) -> Tensor:
    """Mean squared error (n,) of images (n, C, H, W), averaged over all sizes from theirs down by halves to 4 px."""
    losses = [(found - target).square().flatten(1).mean(1)]
    while min(found.shape[2:]) >= 2 * SMALLEST:
        found, target = F.avg_pool2d(found, 2), F.avg_pool2d(target, 2)
        losses.append((found - target).square().flatten(1).mean(1))
    return torch.stack(losses).mean(0)


def perceptual_maps(lite0: Lite0, x: Tensor) -> list[Tensor]:
    """Lite0's maps of images (n, C, H, W), each position's features of length 1. Of 2 channels the first is read, of 4
    and more the first 3."""
    x = x if x.shape[1] in (1, 3) else x[:, : 1 if x.shape[1] == 2 else 3]
    factor = math.ceil(LEAST_READ / min(x.shape[2:]))
    if factor > 1:
        x = F.interpolate(x, scale_factor=factor, mode="bilinear")
    return [F.normalize(maps, dim=1) for maps in lite0.maps(x, N_SIZES)]


def perceptual_loss(found: list[Tensor], target: list[Tensor]) -> Tensor:
    """Mean over positions, then sizes, of the squared distance of features, (n,). arXiv:1801.03924 eq. 1."""
    each = [(a - b).square().sum(1).flatten(1).mean(1) for a, b in zip(found, target, strict=True)]
    return torch.stack(each).mean(0)


def noise_loss(noises: list[Tensor]) -> Tensor:
    """How noise (n, 1, h, w) follows itself, (n,): squared mean product with itself moved by a pixel, at all sizes from
    its own down by halves to 8 px. arXiv:1912.04958 appendix D."""
    total = noises[0].new_zeros(len(noises[0]))
    for maps in noises:
        while True:
            for axis in (2, 3):
                total = total + (maps * maps.roll(1, axis)).mean((1, 2, 3)).square()
            if min(maps.shape[2:]) < 2 * SMALLEST_NOISE:
                break
            maps = 2 * F.avg_pool2d(maps, 2)  # of unit variance again
    return total
