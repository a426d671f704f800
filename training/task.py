"""A task owns the networks and says what each phase of a step computes; the loop does the rest."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from augmentation.instance_noise import noise_scale
from losses import METHODS, PENALTIES, PenaltyContext
from modelling.layers import set_noise_scale
from ops.precision import full
from training.config import TrainConfig
from training.data import Batches
from training.rng import generator

Stats = dict[str, Tensor]


@dataclass(frozen=True)
class Phase:
    """One backward and one optimiser step of one network.

    trains: its name in task.networks; loss: micro-batch -> (scalar, logged values);
    due: step -> whether the phase runs in it; interval: n > 1 for a lazy penalty, whose loss is scaled by n.
    """

    name: str
    trains: str
    loss: Callable[["Micro"], tuple[Tensor, Stats]]
    due: Callable[[int], bool]
    interval: int = 1


class Draws:
    """Random numbers of one step: drawn on the CPU for the global batch, sliced, so that processes agree."""

    def __init__(self, batches: Batches, *key: Any) -> None:
        self.batches, self.key = batches, key
        self._drawn: dict[str, Tensor] = {}

    def _rows(self, purpose: str, j: int, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        if purpose not in self._drawn:
            self._drawn[purpose] = draw(generator(*self.key, purpose))
        return self._drawn[purpose][self.batches.block(j)].to(self.batches.device, non_blocking=True)

    def normal(self, purpose: str, j: int, shape: tuple[int, ...]) -> Tensor:
        """(n, *shape) from N(0, 1)."""
        size = (self.batches.batch_size, *shape)
        return self._rows(purpose, j, lambda source: torch.randn(size, generator=source))

    def uniform(self, purpose: str, j: int, shape: tuple[int, ...]) -> Tensor:
        """(n, *shape) from U[0, 1)."""
        size = (self.batches.batch_size, *shape)
        return self._rows(purpose, j, lambda source: torch.rand(size, generator=source))


class Micro:
    """What one micro-batch offers to the phases of a step; made on demand, the same for all of them."""

    def __init__(
        self, batches: Batches, draws: Draws, step: int, j: int, z_dim: int, keep_graph: bool
    ) -> None:
        self.batches, self.draws, self.step, self.j, self.z_dim = batches, draws, step, j, z_dim
        self.keep_graph = keep_graph  # G trains on these latents right after D: one forward of G serves both
        self.x_fake: Tensor | None = None
        self._real: tuple[Tensor, Tensor | None] | None = None

    @property
    def real(self) -> tuple[Tensor, Tensor | None]:
        """(x (n, C, H, W) in [-1, 1], y or None)."""
        if self._real is None:
            self._real = self.batches.micro(self.step * self.batches.batch_size, self.j)
        return self._real

    @property
    def z(self) -> Tensor:
        """(n, z_dim) latents."""
        return self.draws.normal("z", self.j, (self.z_dim,))

    @property
    def y(self) -> Tensor | None:
        """Labels of the reals and of the fakes alike, so that a point between the two has one too."""
        return self.real[1]

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """(n, *shape) from U[0, 1), for penalties."""
        return self.draws.uniform(purpose, self.j, shape)


@contextmanager
def trainable(network: nn.Module) -> Iterator[None]:
    """Let a frozen network's forward record its graph."""
    frozen = [p for p in network.parameters() if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    yield
    for p in frozen:
        p.requires_grad_(False)


def every(n: int) -> Callable[[int], bool]:
    """Due at the last step of each n, so that n updates of D come before one of G."""
    return lambda step: (step + 1) % n == 0


def warm_schedule(n: int) -> Callable[[int], bool]:
    """WGAN's schedule: 100 steps of D before each of the first 25 updates of G and before each 500th, else n.

    The original code's counts, as a closed form of the step (arXiv:1701.07875).
    """
    first, later = 25 * 100 + 475 * n, 100 + 499 * n  # steps in 500 updates of G

    def due(step: int) -> bool:
        t = step + 1
        if t <= 25 * 100:
            return t % 100 == 0
        if t <= first:
            return (t - 25 * 100) % n == 0
        t = (t - first - 1) % later + 1
        return t == 100 or (t > 100 and (t - 100) % n == 0)

    return due


class Task:
    """Networks, phases and whatever state is no function of the step. Subclasses are games."""

    networks: dict[str, nn.Module]
    phases: list[Phase]
    averaged: str = "G"  # the network an EMA is kept of
    clip: dict[str, float]  # network -> bound of its weights after each step

    def begin_step(self, step: int) -> None:
        """Set what depends on the step alone."""

    def state_dict(self) -> dict[str, Any]:
        """State that is no function of the step, in plain containers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict gave."""


class NoiseToImage(Task):
    """The ordinary game: D tells images from G(z), with any row of METHODS and PENALTIES."""

    def __init__(
        self,
        config: TrainConfig,
        G: nn.Module,
        D: nn.Module,
        *,
        forward_g: Callable | None = None,
        forward_d: Callable | None = None,
        autocast: Callable[[], AbstractContextManager],
        half: bool,
    ) -> None:
        """forward_g, forward_d: compiled forms for passes without penalty; half: forwards run in fp16 or bf16."""
        self.config, self.G, self.D = config, G, D
        self.forward_g = G if forward_g is None else forward_g
        self.forward_d = D if forward_d is None else forward_d
        self.autocast = autocast
        self.method = METHODS[config.method]
        self.networks = {"D": D, "G": G}
        # Penalties may look at the loss's own forward only where that is plain and in full precision.
        self.reuse_logits = not half and forward_d is None
        active = config.penalties()
        self.weights = {name: weight for name, (weight, _) in active.items()}
        self.every_step = {
            side: [name for name, (_, n) in active.items() if n == 1 and PENALTIES[name].side == side]
            for side in ("d", "g")
        }
        clip = config.weight_clip if config.weight_clip is not None else self.method.weight_clip
        self.clip = {} if clip is None else {"D": clip}
        self.g_due = (warm_schedule if config.critic_warmup else every)(config.train_g_interval)
        self.phases = [Phase("d", "D", self.d_loss, every(1))]
        for name, (_, n) in active.items():
            if n > 1:
                side = PENALTIES[name].side.upper()
                self.phases.append(Phase(name, side, self._lazy(name), every(n), interval=n))
        self.phases.append(Phase("g", "G", self.g_loss, self.g_due))

    def begin_step(self, step: int) -> None:
        """Anneal D's instance noise."""
        set_noise_scale(self.D, noise_scale(step, self.config.instance_noise_steps))

    def _generate(self, micro: Micro) -> Tensor:
        with self.autocast():
            return full(self.forward_g(micro.z, micro.y))

    def _judge(self, x: Tensor, y: Tensor | None) -> Tensor:
        with self.autocast():
            return full(self.forward_d(x, y))

    def _fake_for_d(self, micro: Micro) -> Tensor:
        """Fakes cut off from G; where G trains next on the same latents its graph is kept for it."""
        if micro.keep_graph:
            with trainable(self.G):
                micro.x_fake = self._generate(micro)
            return micro.x_fake.detach()
        with torch.no_grad():
            return self._generate(micro)

    def _context(self, micro: Micro, x_real: Tensor, x_fake: Tensor, **logits: Tensor) -> PenaltyContext:
        return PenaltyContext(
            D=lambda x: self.D(x, micro.y),
            G=self.G,
            x_real=x_real,
            x_fake=x_fake,
            y=micro.y,
            uniform=micro.uniform,
            **logits,
        )

    def d_loss(self, micro: Micro) -> tuple[Tensor, Stats]:
        """Loss of D, with D's penalties of interval 1."""
        x_fake = self._fake_for_d(micro)
        x_real = micro.real[0]
        if self.reuse_logits and "r1" in self.every_step["d"]:
            x_real = x_real.detach().requires_grad_()
        d_real, d_fake = self._judge(x_real, micro.y), self._judge(x_fake, micro.y)
        if self.config.label_smoothing:
            loss = self.method.d_smooth(d_real, d_fake, self.config.label_smoothing)
        else:
            loss = self.method.d(d_real, d_fake)
        stats = {"loss/d": loss.detach(), "d/real": d_real.detach().mean(), "d/fake": d_fake.detach().mean()}
        logits = {"d_real": d_real, "d_fake": d_fake} if self.reuse_logits else {}
        context = self._context(micro, x_real, x_fake, **logits)
        return self._penalised("d", loss, stats, context)

    def _penalised(
        self, side: str, loss: Tensor, stats: Stats, context: PenaltyContext
    ) -> tuple[Tensor, Stats]:
        """The loss with its side's penalties of interval 1."""
        for name in self.every_step[side]:
            value = PENALTIES[name].fn(context)
            stats[f"penalty/{name}"] = value.detach()
            loss = loss + self.weights[name] * value
        return loss, stats

    def _lazy(self, name: str) -> Callable[[Micro], tuple[Tensor, Stats]]:
        def loss(micro: Micro) -> tuple[Tensor, Stats]:
            with torch.no_grad():
                x_fake = self._generate(micro) if micro.x_fake is None else micro.x_fake.detach()
            value = PENALTIES[name].fn(self._context(micro, micro.real[0], x_fake))
            return self.weights[name] * value, {f"penalty/{name}": value.detach()}

        return loss

    def g_loss(self, micro: Micro) -> tuple[Tensor, Stats]:
        """Loss of G, on the fakes D has just seen."""
        x_fake = self._generate(micro) if micro.x_fake is None else micro.x_fake
        micro.x_fake = None
        d_fake = self._judge(x_fake, micro.y)
        d_real = None
        if self.method.g_needs_real:
            with torch.no_grad():
                d_real = self._judge(*micro.real)
        loss = self.method.g(d_real, d_fake)
        stats = {"loss/g": loss.detach()}
        if not self.every_step["g"]:
            return loss, stats
        return self._penalised("g", loss, stats, self._context(micro, micro.real[0], x_fake))
