"""Progressive growing as a function of the images seen: which size, how far faded in. arXiv:1710.10196 section 2."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modelling import find_model
from modelling.layers import image_shape
from settings import TrainConfig


@dataclass(frozen=True)
class Growth:
    """From `first` to `last` px, heights, by doublings; each size is first faded in, then trained as it is.

    fade, stable: images spent so. The first size has no fade.
    """

    first: int
    last: int
    fade: float
    stable: float

    def stage(self, images_seen: int) -> tuple[int, float]:
        """(height in px, weight alpha in [0, 1] of its newest layers)."""
        since = images_seen - self.stable
        if since < 0 or self.first == self.last:
            return self.first, 1.0
        n, within = (
            divmod(since, self.fade + self.stable) if self.fade + self.stable else (self.doublings, 0.0)
        )
        if n >= self.doublings:
            return self.last, 1.0
        return self.first << (int(n) + 1), min(within / self.fade, 1.0) if self.fade else 1.0

    @property
    def doublings(self) -> int:
        """Sizes after the first."""
        return (self.last // self.first).bit_length() - 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """In px, from the first to the last."""
        return tuple(self.first << i for i in range(self.doublings + 1))

    @property
    def faded_in(self) -> float:
        """Images until the last size is faded in."""
        return self.doublings * (self.stable + self.fade)

    def end(self, i: int) -> float:
        """Images after which the i-th size, which is not the last, gives way to the next."""
        return self.stable + i * (self.stable + self.fade)


def at_stage(x: Tensor, size: int, alpha: float) -> Tensor:
    """Images (N, C, H, W) box-downsampled to a height of `size`, cross-faded with their next smaller size as G's."""
    x = F.avg_pool2d(x, x.shape[2] // size) if x.shape[2] > size else x
    if alpha == 1:
        return x
    coarse = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="nearest")
    return torch.lerp(coarse, x, alpha)


def growth_of(config: TrainConfig) -> Growth | None:
    """How the networks of a run grow; None where they do not. Networks that are given grow where the model does."""
    first = find_model(config.model).grows_from
    if first is None or config.no_grow:
        return None
    height, width = image_shape(config.img_size)
    # from the least of the sizes that are not below `first`
    doublings = max((min(height, width) // first).bit_length() - 1, 0)
    return Growth(height >> doublings, height, 1000 * config.fade_kimg, 1000 * config.stable_kimg)
