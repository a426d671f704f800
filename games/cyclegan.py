"""CycleGAN: two sets of pictures without partners, and a way from each to the other and back. arXiv:1703.10593.

As in the authors' code G's come first in a step, D's see fakes of a pool of 50, and a picture that is of the target
side already is to stay as it is (section 5.2).
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError, tell
from games.pool import Pool
from games.task import Phase, Place, Stats, total
from games.translation import PairBatch, Translation, Way
from images.batches import ImageData
from images.pairs import Pairs
from settings import TrainConfig

WAYS = {"AtoB": Way("G_AB", "a", "b"), "BtoA": Way("G_BA", "b", "a")}


class CycleGAN(Translation):
    """G_AB and G_BA against D_B and D_A, held together by the ways back."""

    pairings: ClassVar = ("unpaired", "paired")
    usual_terms: ClassVar = {"adversarial": 1.0, "cycle": 10.0, "identity": 5.0}
    averaged = ("G_AB", "G_BA")
    judges: ClassVar = {"D_A": "a", "D_B": "b"}
    unfit: ClassVar = (*Translation.unfit, "direction", "factor")

    @classmethod
    def refuse_unfit(cls, config: TrainConfig) -> None:
        """As every translation; UserError for a direction, since both are learned."""
        if "direction" in config.asked and config.direction != TrainConfig.direction:
            raise UserError("--direction: cyclegan learns both; leave it out, and give it to tools.translate")
        super().refuse_unfit(config)

    @classmethod
    def looked_at(cls, config: TrainConfig, images: ImageData | None, *, fresh: bool) -> TrainConfig:
        """As every translation; says that the paper has another loss."""
        config = super().looked_at(config, images, fresh=fresh)
        if fresh and "method" not in config.asked:
            tell(
                f"note: --method {config.method}; the paper's is lsgan, --preset cyclegan has all of its settings"
            )
        return config

    @classmethod
    def ways_of(cls, config: TrainConfig) -> dict[str, Way]:
        """Both."""
        return WAYS

    @classmethod
    def networks_of(cls, config: TrainConfig) -> dict[str, nn.Module]:
        """Two generators and two discriminators."""
        shapes = cls.shapes_of(config)
        made = {
            way.network: cls.built(config, "g", shapes[way.source], shapes[way.target])
            for way in WAYS.values()
        }
        return made | {
            name: cls.built(config, "d", shapes[side], shapes[side]) for name, side in cls.judges.items()
        }

    @classmethod
    def check_channels(cls, config: TrainConfig) -> None:
        """UserError where a picture of one side cannot stay as it is on the other."""
        a, b = (shape[0] for shape in cls.shapes_of(config).values())
        if a != b and config.term_weights.get("identity", cls.usual_terms["identity"]):
            raise UserError(
                f"the sides have {a} and {b} channels, and an identity needs the same: --term_weights identity=0, or "
                f"--source_channels {b}"
            )

    def __init__(self, config: TrainConfig, place: Place, data: Pairs, own: dict[str, nn.Module]) -> None:
        super().__init__(config, place, data, own)
        shapes = self.shapes_of(config)
        self.pools = {
            name: Pool(config.pool_size, shapes[side], place.device) for name, side in self.judges.items()
        }
        self.ranges |= {f"pool.{name}.n": (0, config.pool_size) for name in self.pools}

    def phases_of(self) -> Iterator[Phase]:
        """g, then d, which sees what g has made."""
        yield from self.g_phases()
        yield from self.d_phases()

    def g_loss(self, sides: PairBatch) -> tuple[Tensor, Stats]:
        """Both generators: fooling, ways back, identities."""
        real, found, fooling = sides.real, {}, torch.zeros((), device=self.device)
        fake = {way.target: self.translate(way, real[way.source]) for way in WAYS.values()}
        if self.plays:
            fooling = sum(self.fooling(name, sides, fake[side]) for name, side in self.judges.items())
        if self.weights["cycle"]:
            back = (F.l1_loss(self.translate(w, fake[w.source]), real[w.target]) for w in WAYS.values())
            found["cycle"] = sum(back)
        if self.weights["identity"]:
            same = (F.l1_loss(self.translate(w, real[w.target]), real[w.target]) for w in WAYS.values())
            found["identity"] = sum(same)
        stats: Stats = {"loss/g": fooling.detach()}
        loss = total(
            self.weights["adversarial"] * fooling, self.weighed(**found) | self.g_penalties(sides), stats
        )
        sides.fake = {side: x.detach() for side, x in fake.items()}
        return loss, stats

    def fakes_for_d(self, name: str, sides: PairBatch) -> Tensor:
        """Of earlier steps too; the same for all phases of a step."""
        side = self.judges[name]
        if f"{side}/shown" not in sides.fake:
            if side not in sides.fake:
                way = next(way for way in WAYS.values() if way.target == side)
                with torch.no_grad():
                    sides.fake[side] = self.translate(way, sides.real[way.source])
            sides.fake[f"{side}/shown"] = self.pools[name].exchanged(sides.fake[side], sides.micro, side)
        return sides.fake[f"{side}/shown"]

    def state_dict(self) -> dict[str, Any]:
        """As every translation; and the pools."""
        return super().state_dict() | {"pool": {name: pool.state_dict() for name, pool in self.pools.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict gave."""
        super().load_state_dict(state)
        for name, pool in state.get("pool", {}).items():
            self.pools[name].load_state_dict(pool)

    def shown(
        self, weights: nn.Module, real: Mapping[str, Tensor], fake: Mapping[str, Tensor]
    ) -> list[tuple[str, Tensor]]:
        """Both ways: there and back."""
        there = [("A", real["a"]), ("A to B", fake["b"]), ("and back", weights["G_BA"](fake["b"]))]
        return [*there, ("B", real["b"]), ("B to A", fake["a"]), ("and back", weights["G_AB"](fake["a"]))]
