"""Super-resolution: pictures two or four times as large as their source, which is made of them. arXiv:1609.04802.

Deviations: the features of the content loss are Lite0's, whose weights come with a package, in place of VGG's, which
are a download; pixels are held by L1 as in arXiv:1809.00219; low resolutions are rounded to 8 bits, as files are.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError
from games.one_way import OneWay
from games.translation import Shape
from generation.evaluation import CHANNELS
from metrics.lite0 import load_lite0
from pretrained.lite0 import Lite0, find_lite0
from settings import TrainConfig

FACTOR = 4
N_MAPS = 3  # of Lite0's sizes, those of 1/2, 1/4 and 1/8
WITHOUT = "--term_weights features=0 does without"


def low_resolution(x: Tensor, factor: int) -> Tensor:
    """Pictures (N, C, H, W) in [-1, 1] at 1/factor of their size: bicubic, antialiased, rounded to 8 bits."""
    height, width = x.shape[2] // factor, x.shape[3] // factor
    small = F.interpolate(x, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return small.mul(127.5).add(127.5).round().clamp(0, 255).div(127.5).sub(1)


class SRGAN(OneWay):
    """D sees pictures alone; G is held to the target by L1 and by features."""

    pairings: ClassVar = ("alone",)
    usual_terms: ClassVar = {"adversarial": 0.005, "l1": 1.0, "features": 0.1}
    unfit: ClassVar = (*OneWay.unfit, "direction", "source_channels", "data_b")

    @classmethod
    def factor_of(cls, config: TrainConfig) -> int:
        """How many times larger pictures become."""
        if config.factor is not None and "factor" in config.g_kwargs:
            raise UserError("--factor and --g_kwargs factor= are the same setting: give one")
        return config.g_kwargs.get("factor", FACTOR) if config.factor is None else config.factor

    @classmethod
    def refuse_unfit(cls, config: TrainConfig) -> None:
        """As every translation; and features that nothing is there to read."""
        super().refuse_unfit(config)
        if cls.weights_of(config)["features"] and find_lite0() is None:
            raise UserError(
                f"the features of --model srgan are read by a package that is not installed; {WITHOUT}"
            )

    @classmethod
    def check_channels(cls, config: TrainConfig) -> None:
        """UserError where features cannot be read of the pictures."""
        channels = cls.shapes_of(config)["b"][0]
        if cls.weights_of(config)["features"] and channels not in CHANNELS:
            raise UserError(f"features are read of 1 or 3 channels, not {channels}; {WITHOUT}")

    @classmethod
    def shapes_of(cls, config: TrainConfig) -> dict[str, Shape]:
        """The source is a small target."""
        channels, height, width = super().shapes_of(config)["b"]
        factor = cls.factor_of(config)
        return {"a": (channels, height // factor, width // factor), "b": (channels, height, width)}

    @classmethod
    def build_of(cls, config: TrainConfig, side: str, source: Shape, target: Shape) -> dict[str, Any]:
        """With the factor."""
        found = super().build_of(config, side, source, target)
        found.pop("source_channels", None)
        return found | ({"factor": cls.factor_of(config)} if side == "g" else {})

    @classmethod
    def source_of(cls, a: Tensor | None, b: Tensor, factor: int) -> Tensor:
        """The low resolution, made on the device."""
        return low_resolution(b, factor)

    @cached_property
    def lite0(self) -> Lite0:
        """The network whose maps are compared: frozen, of the run's floats."""
        return load_lite0(device=self.device).module.network.to(torch.get_default_dtype())

    def content(self, x_fake: Tensor, x_real: Tensor) -> dict[str, Tensor]:
        """L1 of pixels, and of Lite0's maps of three sizes, averaged."""
        found = {"l1": F.l1_loss(x_fake, x_real)}
        if self.weights["features"]:
            with torch.no_grad():
                wanted = self.lite0.maps(x_real, N_MAPS)
            found["features"] = sum(map(F.l1_loss, self.lite0.maps(x_fake, N_MAPS), wanted)) / N_MAPS
        return found

    def shown(
        self, weights: nn.Module, real: Mapping[str, Tensor], fake: Mapping[str, Tensor]
    ) -> list[tuple[str, Tensor]]:
        """Beside bicubic enlarging, which costs nothing."""
        a, b = real["a"], real["b"]
        bicubic = F.interpolate(a, b.shape[2:], mode="bicubic", align_corners=False).clamp(-1, 1)
        return [("input", a), ("bicubic", bicubic), ("output", fake["b"]), ("target", b)]
