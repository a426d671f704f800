"""A task owns the networks and says what each phase of a step computes; the loop does the rest."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from augmentation.instance_noise import noise_scale
from games.augment import Augmenter
from games.growing import at_stage
from images.sources import Batches
from losses import METHODS, PATH_LENGTH_DECAY, PENALTIES, PenaltyContext, StyleContext
from modelling import find_model
from modelling.conditioning import DOutput, as_output
from modelling.growing import set_stage
from modelling.layers import set_noise_scale
from ops.attention import twice_differentiable
from ops.precision import full
from ops.rng import generator
from settings.config import TrainConfig

Stats = dict[str, Tensor]
Terms = dict[str, tuple[float, Tensor]]  # name: (weight, value)


@dataclass(frozen=True)
class Phase:
    """One backward and one optimiser step of one network, or of several together.

    trains: their names in task.networks; loss: micro-batch -> (scalar, logged values);
    due: step -> whether the phase runs in it; interval: n > 1 for a lazy penalty, whose loss is scaled by n.
    """

    name: str
    trains: tuple[str, ...]
    loss: Callable[["Micro"], tuple[Tensor, Stats]]
    due: Callable[[int], bool]
    interval: int = 1


class Draws:
    """Random numbers of one step: drawn on the CPU for the global batch, sliced, so that processes agree."""

    def __init__(self, batches: Batches, *key: Any) -> None:
        self.batches, self.key = batches, key
        self._drawn: dict[str, Tensor] = {}

    def rows(self, draw: Callable, purpose: str, j: int, shape: tuple[int, ...], share: int) -> Tensor:
        """(n, *shape) of draw(size, generator=...): this process's rows of micro-batch j of batch_size / share."""
        if purpose not in self._drawn:
            size = (self.batches.batch_size // share, *shape)
            self._drawn[purpose] = draw(size, generator=generator(*self.key, purpose))
        return self._drawn[purpose][self.batches.block(j, share)].to(self.batches.device, non_blocking=True)


class Micro:
    """What one micro-batch offers to the phases of a step; made on demand, the same for all of them.

    share: 2 for half as many samples, with draws of their own.
    """

    def __init__(
        self,
        batches: Batches,
        draws: Draws,
        step: int,
        j: int,
        z_dim: int,
        keep_graph: bool = False,
        share: int = 1,
    ) -> None:
        self.batches, self.draws, self.step, self.j, self.z_dim = batches, draws, step, j, z_dim
        self.keep_graph = keep_graph  # G trains on these latents right after D: one forward of G serves both
        self.share = share
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
        return self.normal("z", (self.z_dim,))

    @property
    def y(self) -> Tensor | None:
        """Labels of the reals and of the fakes alike, so that a point between the two has one too."""
        if self.share == 1:
            return self.real[1]
        start = self.step * self.batches.batch_size
        return self.batches.labels_of(start, self.batches.block(self.j, self.share))

    def part(self, share: int) -> "Micro":
        """A micro-batch of 1/share as many samples."""
        return Micro(self.batches, self.draws, self.step, self.j, self.z_dim, share=share)

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """(n, *shape) from U[0, 1)."""
        return self._rows(torch.rand, purpose, shape)

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """(n, *shape) from N(0, 1)."""
        return self._rows(torch.randn, purpose, shape)

    def _rows(self, draw: Callable, purpose: str, shape: tuple[int, ...]) -> Tensor:
        name = purpose if self.share == 1 else f"{purpose}/{self.share}"
        return self.draws.rows(draw, name, self.j, shape, self.share)


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
    """Networks, phases and whatever state is no function of the step. Subclasses are games.

    running: tensors of that state which move within a phase and are put back where its step is skipped.
    """

    networks: dict[str, nn.Module]
    phases: list[Phase]
    averaged: str = "G"  # the network an EMA is kept of
    clip: dict[str, float]  # network -> bound of its weights after each step
    running: Sequence[Tensor] = ()

    def at_step(self, step: int, network: nn.Module) -> None:
        """Set what depends on the step alone, in one of the networks or in an average of one."""

    def new_stage(self, step: int) -> bool:
        """Whether the optimisers start afresh at this step."""
        return False

    def end_step(self, step: int) -> None:
        """Update the state that follows the step's statistics."""

    def stats(self, step: int) -> Stats:
        """What the state and the step alone say, for the log."""
        return {}

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
        self.model = find_model(config.model)
        self.growth = config.growth()
        self.device = next(G.parameters()).device
        self.state = {name: self._zero() for name in active if PENALTIES[name].styles}
        self.seen = {name: self._zero() for name in self.state}  # in this step's micro-batches so far
        self.running = [*self.state.values(), *self.seen.values()]
        self.augmenter = Augmenter(config, self.device)
        self.weights = {name: weight for name, (weight, _) in active.items()}
        self.every_step = {
            side: [name for name, (_, n) in active.items() if n == 1 and PENALTIES[name].side == side]
            for side in ("d", "g")
        }
        clip = config.weight_clip if config.weight_clip is not None else self.method.weight_clip
        self.clip = {} if clip is None else {"D": clip}
        self.g_due = (warm_schedule if config.critic_warmup else every)(config.train_g_interval)
        lazy = {name: n for name, (_, n) in active.items() if n > 1}
        self.phases = [Phase("d", ("D",), self.d_loss, every(1)), *self._lazy_phases("d", lazy)]
        # After g: the graph that d keeps of G for g must meet G's weights unchanged.
        self.phases += [Phase("g", ("G",), self.g_loss, self.g_due), *self._lazy_phases("g", lazy)]

    @classmethod
    def check(cls, config: TrainConfig, G: nn.Module, D: nn.Module) -> None:
        """UserError for settings, or networks, that the game cannot be played with."""

    def _lazy_phases(self, side: str, lazy: dict[str, int]) -> list[Phase]:
        updates = (
            1 if side == "d" else self.config.train_g_interval
        )  # steps from one of the network to the next
        return [
            Phase(name, (side.upper(),), self._lazy(name), every(n * updates), interval=n)
            for name, n in lazy.items()
            if PENALTIES[name].side == side
        ]

    def _zero(self) -> Tensor:
        return torch.zeros((), device=self.device)

    def at_step(self, step: int, network: nn.Module) -> None:
        """Anneal D's instance noise, and grow."""
        if network is self.D:  # the only one with noise layers, and a walk over its modules at each step
            set_noise_scale(network, noise_scale(step, self.config.instance_noise_steps))
        if self.growth is not None:
            set_stage(network, *self._stage(step))

    def _stage(self, step: int) -> tuple[int, float]:
        return self.growth.stage(step * self.config.batch_size)

    def new_stage(self, step: int) -> bool:
        """At the start and at the end of each fade: Adam's moments belong to another function then."""
        if self.growth is None or step == 0:
            return False
        (size, alpha), (last_size, last_alpha) = self._stage(step), self._stage(step - 1)
        return size != last_size or (alpha < 1) != (last_alpha < 1)

    def end_step(self, step: int) -> None:
        """Adapt the augmentation."""
        self.augmenter.end_step(step)

    def stats(self, step: int) -> Stats:
        """Path length, augmentation and stage."""
        values = {f"state/{name}": value for name, value in self.state.items()} | self.augmenter.stats()
        if self.growth is not None:
            size, alpha = self._stage(step)
            values |= {"growing/size": self._zero() + size, "growing/alpha": self._zero() + alpha}
        return values

    def state_dict(self) -> dict[str, Any]:
        """Running means of penalties, and the augmentation's."""
        return {"penalties": dict(self.state), "augmentation": self.augmenter.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict gave."""
        for name, value in state.get("penalties", {}).items():
            self.state[name].copy_(value)
        self.augmenter.load_state_dict(state.get("augmentation", {}))

    def _mixing(self, micro: Micro) -> dict[str, Tensor]:
        """Second latents and draws for style mixing, where the model mixes."""
        if not self.model.styles or not self.G.mixing:
            return {}
        return {"z_mix": micro.normal("z-mix", (micro.z_dim,)), "u": micro.uniform("mixing", (2,))}

    def _real(self, micro: Micro) -> Tensor:
        """Reals as big, and as far faded, as G's images are at this step."""
        x = micro.real[0]
        return x if self.growth is None else at_stage(x, *self._stage(micro.step))

    def _generate(self, micro: Micro) -> Tensor:
        with self.autocast():
            return full(self.forward_g(micro.z, micro.y, **self._mixing(micro)))

    def _judge(self, micro: Micro, purpose: str, x: Tensor, twice: bool = False) -> DOutput:
        """D's view of augmented images; `purpose` keeps the draws of one use apart from those of another.

        twice: what comes out can be differentiated twice.
        """
        x = self.augmenter(x, micro, purpose)
        with self.autocast(), twice_differentiable() if twice else nullcontext():
            logit, classes = as_output(self.forward_d(x, micro.y))
        return DOutput(full(logit), None if classes is None else full(classes))

    def _logit(self, micro: Micro, purpose: str, x: Tensor) -> Tensor:
        """The logit alone, for penalties: in full precision, not compiled."""
        with twice_differentiable():
            return as_output(self.D(self.augmenter(x, micro, purpose), micro.y)).logit

    def _fake_for_d(self, micro: Micro) -> Tensor:
        """Fakes cut off from G; where G trains next on the same latents its graph is kept for it."""
        if micro.keep_graph:
            with trainable(self.G):
                micro.x_fake = self._generate(micro)
            return micro.x_fake.detach()
        with torch.no_grad():
            return self._generate(micro)

    def _context(
        self, micro: Micro, purpose: str, x_real: Tensor, x_fake: Tensor | None, **logits: Tensor
    ) -> PenaltyContext:
        return PenaltyContext(
            D=partial(self._logit, micro, purpose),
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
        x_real = self._real(micro)
        share_forward = self.reuse_logits and "r1" in self.every_step["d"]
        if share_forward:
            x_real = x_real.detach().requires_grad_()
        real = self._judge(micro, "d-real", x_real, twice=share_forward)
        fake = self._judge(micro, "d-fake", x_fake)
        d_real, d_fake = real.logit, fake.logit
        sign = d_real.detach().sign().mean()  # near 1: D knows its training images
        self.augmenter.follow(sign)
        if self.config.label_smoothing:
            loss = self.method.d_smooth(d_real, d_fake, self.config.label_smoothing)
        else:
            loss = self.method.d(d_real, d_fake)
        stats = {"loss/d": loss.detach(), "d/real": d_real.detach().mean(), "d/fake": d_fake.detach().mean()}
        stats["d/real_sign"] = sign
        loss = self._with_terms(loss, stats, self.d_terms(micro, real, fake))
        logits = {"d_real": d_real, "d_fake": d_fake} if self.reuse_logits else {}
        context = self._context(micro, "d-penalty", x_real, x_fake, **logits)
        return self._penalised("d", micro, loss, stats, context)

    def d_terms(self, micro: Micro, real: DOutput, fake: DOutput) -> Terms:
        """Further terms of D's loss, by name: weight and value."""
        return {}

    def g_terms(self, micro: Micro, fake: DOutput) -> Terms:
        """Further terms of G's loss."""
        return {}

    def _with_terms(self, loss: Tensor, stats: Stats, terms: Terms) -> Tensor:
        for name, (weight, value) in terms.items():
            stats[name] = value.detach()
            loss = loss + weight * value
        return loss

    def _penalised(
        self, side: str, micro: Micro, loss: Tensor, stats: Stats, context: PenaltyContext
    ) -> tuple[Tensor, Stats]:
        """The loss with its side's penalties of interval 1."""
        for name in self.every_step[side]:
            styles = PENALTIES[name].styles
            value = PENALTIES[name](self._style_context(name, micro) if styles else context)
            stats[f"penalty/{name}"] = value.detach()
            loss = loss + self.weights[name] * value
        return loss, stats

    def _lazy(self, name: str) -> Callable[[Micro], tuple[Tensor, Stats]]:
        def loss(micro: Micro) -> tuple[Tensor, Stats]:
            if PENALTIES[name].styles:
                context = self._style_context(name, micro)
            else:
                x_fake = self._fake_for_penalty(micro) if PENALTIES[name].fakes else None
                context = self._context(micro, name, self._real(micro), x_fake)
            value = PENALTIES[name](context)
            return self.weights[name] * value, {f"penalty/{name}": value.detach()}

        return loss

    def _fake_for_penalty(self, micro: Micro) -> Tensor:
        with torch.no_grad():
            return self._generate(micro) if micro.x_fake is None else micro.x_fake.detach()

    def _style_context(self, name: str, micro: Micro) -> StyleContext:
        """Of half a batch, as the second derivative through G costs (arXiv:1912.04958 appendix B)."""
        half = micro.part(2)
        ws = self.G.styles(half.z, half.y, **self._mixing(half))
        return StyleContext(
            ws=ws,
            x=self.G.synthesis(ws, twice=True),
            normal=half.normal,
            mean=self.state[name],
            follow=lambda value: self._follow(name, value, micro),
        )

    def _follow(self, name: str, value: Tensor, micro: Micro) -> None:
        """Move a penalty's running mean, once a step, by its mean over the micro-batches."""
        mean, seen = self.state[name], self.seen[name]
        seen += value / self.config.accumulate
        if micro.j == self.config.accumulate - 1:
            mean.lerp_(seen, 1 - PATH_LENGTH_DECAY)
            seen.zero_()

    def g_loss(self, micro: Micro) -> tuple[Tensor, Stats]:
        """Loss of G, on the fakes D has just seen."""
        x_fake = self._generate(micro) if micro.x_fake is None else micro.x_fake
        micro.x_fake = None
        fake = self._judge(micro, "g-fake", x_fake)
        d_real = None
        if self.method.g_needs_real:
            with torch.no_grad():
                d_real = self._judge(micro, "g-real", self._real(micro)).logit
        loss = self.method.g(d_real, fake.logit)
        stats = {"loss/g": loss.detach()}
        loss = self._with_terms(loss, stats, self.g_terms(micro, fake))
        if not self.every_step["g"]:
            return loss, stats
        context = self._context(micro, "g-penalty", self._real(micro), x_fake)
        return self._penalised("g", micro, loss, stats, context)
