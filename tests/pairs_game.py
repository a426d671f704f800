"""A game of another shape than noise to image, as a stranger would add one: two arrays of images, four networks, no
latents and no labels; in this file and two rows (GAMES, MODELS) alone."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from games.task import Micro, Phase, Place, Sheet, Stats, Task, every, network_rates, total
from generation.pictures import to_grid
from images.batches import Batches, ImageData, Shard, to_input
from images.sources import load_dataset
from losses import METHODS
from metrics.features import to_uint8
from ops.rng import key
from settings import TrainConfig

POOL = 6  # fakes that D is shown again
CYCLE, IDENTITY = 10.0, 5.0


class Generator(nn.Module):
    """Image to image, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, *, img_size: int, img_channels: int, z_dim: int = 1, width: int = 8) -> None:
        super().__init__()
        self.inner, self.outer = (
            nn.Conv2d(img_channels, width, 3, padding=1),
            nn.Conv2d(width, img_channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.outer(F.silu(self.inner(x))))


class Discriminator(nn.Module):
    """A map of logits (N, 1, H/4, W/4)."""

    def __init__(self, *, img_size: int, img_channels: int, width: int = 8) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(img_channels, width, 4, 2, 1), nn.Conv2d(width, 1, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(F.silu(self.inner(x)))


@dataclass
class Sides:
    """What the phases see of a micro-batch: images of both sides, and the fakes of either once G has made them."""

    a: Tensor
    b: Tensor
    fakes: dict[str, Tensor] = field(default_factory=dict)


class Pairs(Task):
    """Unpaired translation between two sets of unequal size, with cycles, identities and a pool of fakes."""

    averaged = ("G_AB", "G_BA")
    unfit = (
        "penalty", "penalty_weights", "augment", "spectral_norm_g", "spectral_norm_d", "label_smoothing", "weight_clip",
        "critic_warmup", "norm_g", "norm_d", "z_dim", "conditional", "instance_noise_steps",
    )  # fmt: skip

    @classmethod
    def networks_of(cls, config: TrainConfig) -> dict[str, nn.Module]:
        """Two generators and two discriminators."""
        sizes = {"img_size": config.img_size, "img_channels": 1}
        made = {name: Generator(**sizes, **config.g_kwargs) for name in ("G_AB", "G_BA")}
        return made | {name: Discriminator(**sizes, **config.d_kwargs) for name in ("D_A", "D_B")}

    @classmethod
    def rehearse(cls, config: TrainConfig, shard: Shard, own: dict, images: Any = None) -> None:
        with torch.device("meta"):
            networks, x = cls.networks_of(config), torch.empty(shard.n, 1, config.img_size, config.img_size)
            networks["D_B"](networks["G_AB"](x))

    @classmethod
    def load(
        cls, config: TrainConfig, is_main: bool, images: Any = None, labels: Any = None
    ) -> list[ImageData]:
        sizes = {"img_size": config.img_size, "img_channels": 1, "is_main": is_main}
        return [load_dataset(config.dataset, split=split, **sizes) for split in ("train", "test")]

    def __init__(
        self, config: TrainConfig, place: Place, data: list[ImageData], own: dict[str, nn.Module]
    ) -> None:
        self.config, self.place, self.data = config, place, data
        self.batches = [
            Batches(side.without_labels(), place.shard, key(config.seed, name), config.flip, place.device)
            for name, side in zip("AB", data, strict=True)
        ]
        torch.manual_seed(key(config.seed, "weights"))
        self.networks = {n: place.settle(net, config) for n, net in self.networks_of(config).items()}
        self.method, self.clip = METHODS[config.method], {}
        self.judges = ("D_A", "D_B")
        self.rates = network_rates(config, self.networks, of_d=self.judges)
        self.phases = [
            Phase("g", ("G_AB", "G_BA"), self.g_loss, every(1)),
            Phase("d_a", ("D_A",), partial(self.d_loss, "a"), every(1)),
            Phase("d_b", ("D_B",), partial(self.d_loss, "b"), every(1)),
        ]
        shape = (POOL, 1, config.img_size, config.img_size)
        self.pool = {side: torch.zeros(shape, device=place.device) for side in "ab"}
        self.running = list(self.pool.values())

    @property
    def identity(self) -> dict[str, Any]:
        names, prints = ("+".join(getattr(d, what) for d in self.data) for what in ("name", "fingerprint"))
        return {"name": names, "fingerprint": prints, "n_labels": 0}

    def announce(self, step: int) -> None:
        for batches in self.batches:
            batches.announce(step * self.config.batch_size)

    def inputs(self, micro: Micro) -> Sides:
        a, b = (batches.micro(micro.start, micro.j)[0] for batches in self.batches)
        return Sides(a, b)

    def g_loss(self, sides: Sides) -> tuple[Tensor, Stats]:
        """Both generators: fooling, cycles, identities."""
        G_AB, G_BA, D_A, D_B = self.networks.values()
        with self.place.autocast():
            fake_b, fake_a = G_AB(sides.a), G_BA(sides.b)
            fooling = self.method.g(None, D_B(fake_b)) + self.method.g(None, D_A(fake_a))
            cycle = F.l1_loss(G_BA(fake_b), sides.a) + F.l1_loss(G_AB(fake_a), sides.b)
            same = F.l1_loss(G_AB(sides.b), sides.b) + F.l1_loss(G_BA(sides.a), sides.a)
        sides.fakes = {"a": fake_a.detach(), "b": fake_b.detach()}
        stats = {"loss/g": fooling.detach()}
        return total(fooling, {"cycle": (CYCLE, cycle), "identity": (IDENTITY, same)}, stats), stats

    def d_loss(self, side: str, sides: Sides) -> tuple[Tensor, Stats]:
        """One discriminator, on reals and on fakes that came some steps ago."""
        D, pool, fake = self.networks[f"D_{side.upper()}"], self.pool[side], sides.fakes[side]
        shown = torch.cat([pool[: len(fake) // 2].clone(), fake[len(fake) // 2 :]])
        pool.copy_(torch.cat([fake, pool])[:POOL])
        loss = self.method.d(D(getattr(sides, side)), D(shown))
        return loss, {f"loss/d_{side}": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        return {"pool": dict(self.pool)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for side, images in state["pool"].items():
            self.pool[side].copy_(images)

    def reals(self) -> Image.Image:
        first = [b.gather(b.indices(0, 8)).permute(0, 3, 1, 2) for b in self.batches]
        return to_grid(torch.cat(first).cpu(), 8)

    def preview(self, weights: nn.Module) -> Sheet:
        a = to_input(self.batches[0].gather(self.batches[0].indices(0, 8)), False)
        with torch.no_grad():
            return Sheet(to_grid(to_uint8(torch.cat([a, weights["G_AB"](a)]).cpu()), 8), {})
