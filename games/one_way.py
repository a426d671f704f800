"""Games of one G, which makes side B of side A, against one D."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from games.task import Stats, total, trainable
from games.translation import PairBatch, Translation, Way
from settings import TrainConfig


class OneWay(Translation):
    """G makes B of A; D tells that from B itself."""

    averaged = ("G",)
    unfit: ClassVar = (*Translation.unfit, "pool_size")

    @classmethod
    def ways_of(cls, config: TrainConfig) -> dict[str, Way]:
        """The direction that is asked for: sides have changed their places where it is BtoA."""
        return {config.direction: Way("G", "a", "b")}

    @classmethod
    def networks_of(cls, config: TrainConfig) -> dict[str, nn.Module]:
        """D and G."""
        shapes = cls.shapes_of(config)
        return {
            "D": cls.built(config, "d", shapes["a"], shapes["b"]),
            "G": cls.built(config, "g", shapes["a"], shapes["b"]),
        }

    def generate(self, sides: PairBatch) -> Tensor:
        """B as G makes it of A."""
        (way,) = self.ways.values()
        return self.translate(way, sides.real[way.source])

    def fakes_for_d(self, name: str, sides: PairBatch) -> Tensor:
        """Cut off from G; where G trains next on the same pictures its graph is kept for it."""
        if "b" not in sides.fake:
            if sides.keep_graph:
                with trainable(self.networks["G"]):
                    sides.fake["b"] = self.generate(sides)
            else:
                with torch.no_grad():
                    sides.fake["b"] = self.generate(sides)
        return sides.fake["b"].detach()

    def g_loss(self, sides: PairBatch) -> tuple[Tensor, Stats]:
        """Fooling D, and what else holds G to the target."""
        x_fake = sides.fake["b"] if sides.keep_graph and self.plays else self.generate(sides)
        fooling = self.fooling("D", sides, x_fake) if self.plays else torch.zeros((), device=self.device)
        stats: Stats = {"loss/g": fooling.detach()}
        terms = self.weighed(**self.content(x_fake, sides.real["b"])) | self.g_penalties(sides)
        loss = total(self.weights["adversarial"] * fooling, terms, stats)
        sides.fake["b"] = x_fake.detach()
        return loss, stats

    def content(self, x_fake: Tensor, x_real: Tensor) -> dict[str, Tensor]:
        """Distances to the target, by term."""
        raise NotImplementedError

    def shown(
        self, weights: nn.Module, real: Mapping[str, Tensor], fake: Mapping[str, Tensor]
    ) -> list[tuple[str, Tensor]]:
        """Input, output, target."""
        return [("input", real["a"]), ("output", fake["b"]), ("target", real["b"])]
