"""What a game is: networks, phases, and what the loop and the hooks may ask of them.

A step of training, in order, with the function that does each (L: class Loop of training/loop.py, where what has no
file stands too):

    iterate_spectral_norm(network)          one power iteration of every network         ops/spectral_norm.py
    task.begin_step(step)                   ADA's strength, where it has a schedule      games/augment.py
    task.at_step(step, network)             instance noise, stage of growth              the game
    task.new_stage(step)                    the optimisers start afresh where a fade begins or ends
    L._set_rates(step)                      learning rates and beta2, which may move     games/course.py
    Draws, Micro                            random numbers of the global batch, sliced   here
    task.inputs(micro)                      images, labels, latents of a micro-batch     the game, images/batches.py
    task.announce(step + 1)                 the kernel fetches the next rows meanwhile
    for phase in task.phases, if due:
        L._run_phase
            network.train_only(...)         every parameter outside phase.trains frozen
            seed_layer_noise(...)           dropout and noise layers, by (seed, attempt, step, phase, process)
            for each micro-batch:
                phase.loss(inputs)          -> scalar, logged values                     the game
                    total(loss, terms, stats)   loss, further terms, penalties: one sum  here; their weights may
                                                move                                     games/penalties.py
                backward                    of the loss times phase.interval / number of micro-batches
            L._reduce                       mean of gradients and statistics over processes
            L._unscale                      gradients without the scale of fp16
            L._measure_layers               now and then their sizes by layer, for the log   training/layers.py
            L._apply                        one optimiser step, none where gradient or loss is not finite  optimizers.py
            L._keep_finite                  then running statistics and means go back too
            clip                            where the method bounds weights
            Normalised.renormalise          where layers keep magnitudes                 ops/magnitude_preserving.py
        L._average                          after the last main phase that trains task.averaged   ema.py
    Lookahead.after(step + 1)               now and then half of the way back            training/lookahead.py
    task.end_step(step)                     ADA's strength                               games/augment.py

A game with other arrays of images and other networks is a file in this folder and a row in GAMES (games/__init__.py).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from errors import UserError
from games.course import at_first, side_of
from images.batches import ImageData, Shard
from losses import Method, wgan_d
from modelling import model_title
from modelling.layers import Size
from ops.precision import upcast
from ops.rng import generator
from settings import TrainConfig

Stats = dict[str, Tensor]
Terms = dict[str, tuple[float, Tensor]]  # name: (weight, value)


@dataclass(frozen=True)
class Phase:
    """One backward and one optimiser step of one network, or of several together.

    trains: their names in task.networks; loss: what task.inputs gave for a micro-batch -> (scalar, logged values);
    due: step -> whether the phase runs in it; interval: n > 1 for a lazy penalty, whose loss is scaled by n.
    """

    name: str
    trains: tuple[str, ...]
    loss: Callable[[Any], tuple[Tensor, Stats]]
    due: Callable[[int], bool]
    interval: int = 1


@dataclass(frozen=True)
class Place:
    """Where a game computes: the device, this process's share of each batch, and how forwards run.

    autocast: a fresh context for each forward; half: forwards run in fp16 or bf16; compiled: module -> its compiled
    form, None for eager forwards.
    """

    device: torch.device
    shard: Shard
    autocast: Callable[[], AbstractContextManager] = nullcontext
    half: bool = False
    compiled: Callable[[nn.Module], Callable] | None = None

    def settle(self, network: nn.Module, config: TrainConfig) -> nn.Module:
        """The network on the device in the run's memory layout, with synchronised batch norm where asked."""
        if config.sync_bn and self.device.type == "cuda" and self.shard.n_processes > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        return network.to(self.device, memory_format=layout)


class Draws:
    """Random numbers of one step: drawn on the CPU for the global batch, sliced, so that processes agree.

    shard: this process's share of that step's batch; first: the number of the batch's first image.
    """

    def __init__(self, shard: Shard, device: torch.device, *key: Any, first: int) -> None:
        self.shard, self.device, self.key, self.first = shard, device, key, first
        self._drawn: dict[str, Tensor] = {}

    def rows(self, draw: Callable, purpose: str, j: int, shape: tuple[int, ...], share: int) -> Tensor:
        """(n, *shape) of draw(size, generator=...): this process's rows of micro-batch j of batch_size / share."""
        if purpose not in self._drawn:
            size = (self.shard.batch_size // share, *shape)
            self._drawn[purpose] = draw(size, generator=generator(*self.key, purpose))
        return self._drawn[purpose][self.shard.block(j, share)].to(self.device, non_blocking=True)


@dataclass(frozen=True)
class Micro:
    """Micro-batch j of a step: which samples it is of, and their random draws.

    share: 2 for half as many samples, with draws of their own.
    """

    draws: Draws
    step: int
    j: int
    share: int = 1

    @property
    def start(self) -> int:
        """Number of the first image of the step's global batch."""
        return self.draws.first

    @property
    def block(self) -> slice:
        """This process's samples within the global batch, or within one of 1/share of its size."""
        return self.draws.shard.block(self.j, self.share)

    def part(self, share: int) -> "Micro":
        """A micro-batch of 1/share as many samples."""
        return Micro(self.draws, self.step, self.j, share)

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """(n, *shape) from U[0, 1)."""
        return self._rows(torch.rand, purpose, shape)

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """(n, *shape) from N(0, 1)."""
        return self._rows(torch.randn, purpose, shape)

    def _rows(self, draw: Callable, purpose: str, shape: tuple[int, ...]) -> Tensor:
        name = purpose if self.share == 1 else f"{purpose}/{self.share}"
        return self.draws.rows(draw, name, self.j, shape, self.share)


def total(loss: Tensor, terms: Terms, stats: Stats) -> Tensor:
    """The loss with its terms, each logged under its name."""
    for name, (weight, value) in terms.items():
        stats[name] = value.detach()
        loss = loss + weight * value
    return loss


def direction_terms(directed: list[Tensor] | None) -> Terms:
    """SAN's term of D's loss: that of Wasserstein on what a SplitHead gave of reals and of fakes, {} without one."""
    return {} if directed is None else {"san/direction": (1.0, wgan_d(*map(upcast, directed)))}


def is_logged(config: TrainConfig, step: int) -> bool:
    """Whether the values of a step, counted from 0, are read: every log_interval steps, and at the end."""
    return (step + 1) % config.log_interval == 0 or step + 1 == config.n_steps


def saturation(method: Method, d_real: Tensor, d_fake: Tensor, label: str = "d") -> Stats:
    """Shares of D's reals and fakes in a step where its sigmoid is flat, for the log; {} for a loss without one."""
    shares = method.saturated(d_real, d_fake)
    return (
        {} if shares is None else {f"{label}/real_saturated": shares[0], f"{label}/fake_saturated": shares[1]}
    )


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


class Sheet(NamedTuple):
    """What a weight set makes of inputs that stay the same, and how that compares with the data, by name."""

    picture: Image.Image
    health: dict[str, float]


class Scorer(Protocol):
    """What scores along a run ask: one line of scores.jsonl of a weight set for sampling; better: "low" or "high"."""

    better: str

    def score(self, network: nn.Module, *, step: int, weights: str) -> dict[str, Any]:
        """The line, equal on all processes; ValueError, on all, where there is none, NotFinite of them for samples."""
        ...

    def seconds(self, network: nn.Module) -> float:
        """About how long a score takes, from a few samples; NotFinite."""
        ...


class Task:
    """A game: its networks and phases, and whatever state is no function of the step. Subclasses are games.

    networks: by name; phases: in the order in which they run; rates: learning rate by network; averaged: the networks
    that an EMA is kept of and that samples are made by; judges: those that learn with D, the others learn with G;
    beta2: Adam's of networks that have one of their own; clip:
    network -> bound of its weights after each step; running:
    tensors of the state that move within a phase and are put back where its step is skipped; ranges: dotted name in
    state_dict() -> (least, most) that a checkpoint may hold there. unfit: settings that mean nothing to the game, and
    are refused where they are asked for.
    """

    unfit: Collection[str] = ()

    networks: dict[str, nn.Module]
    phases: list[Phase]
    rates: dict[str, float]
    averaged: tuple[str, ...]
    judges: Collection[str] = ("D",)
    clip: dict[str, float]
    beta2: Mapping[str, float] = {}
    running: Sequence[Tensor] = ()
    ranges: Mapping[str, tuple[float, float]] = {}

    # -- before the run ----------------------------------------------------------------------------------------------

    @classmethod
    def refuse_unfit(cls, config: TrainConfig) -> None:
        """UserError for settings asked for that mean nothing to the game."""
        given = [name for name in config.unlike_defaults() if name in cls.unfit and name in config.asked]
        for name in given:
            raise UserError(f"--{name}: {model_title(config.model)} does not know it; leave the flag out")

    @classmethod
    def looked_at(cls, config: TrainConfig, images: ImageData | None, *, fresh: bool) -> TrainConfig:
        """The settings with what follows from the data, after a first look at them; fresh: whether a run begins, and
        advice on it is of use. Of all processes together; UserError."""
        return config

    @classmethod
    def rehearse(
        cls, config: TrainConfig, shard: Shard, own: dict[str, nn.Module], images: ImageData | None = None
    ) -> None:
        """Refuse what does not fit, before data are read: build the networks and run a micro-batch on the meta device.

        own: networks given as instances, by name; images: own ones in place of a data set's. ValueError.
        """

    @classmethod
    def load(cls, config: TrainConfig, is_main: bool, images: ImageData | None = None) -> Any:
        """What the game trains on; the main process decodes, the others wait. images: own ones in place of a data
        set's. ValueError."""
        raise NotImplementedError

    def __init__(self, config: TrainConfig, place: Place, data: Any, own: dict[str, nn.Module]) -> None:
        """Build the networks, or take those given, and list the phases; writes nothing. ValueError."""
        raise NotImplementedError

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint says of the data: name, fingerprint, n_labels. A resumed run must have the same."""
        raise NotImplementedError

    def describe(self) -> list[str]:
        """Lines about data and networks for the start of a run."""
        return [
            f"{name}: {sum(p.numel() for p in network.parameters()):,} parameters"
            for name, network in self.networks.items()
        ]

    def check_resumed(self, saved: dict[str, Any]) -> list[str]:
        """Notes on a checkpoint's `identity`; UserError where it is of other data."""
        now = self.identity
        if (before := saved.get("n_labels", now["n_labels"])) != now["n_labels"]:
            raise UserError(
                f"--resume: the checkpoint knows {before} labels and {now['name']} has {now['n_labels']}: "
                "give its own data"
            )
        if saved["fingerprint"] != now["fingerprint"]:
            raise UserError(
                f"--resume: the images are not those of the run ({saved['name']} {saved['fingerprint']}, "
                f"now {now['name']} {now['fingerprint']})"
            )
        return []

    # -- a step ------------------------------------------------------------------------------------------------------

    def announce(self, step: int) -> None:
        """Have the data of a coming step fetched meanwhile."""

    def inputs(self, micro: Micro) -> Any:
        """What the phases' losses are given for a micro-batch."""
        return micro

    def begin_step(self, step: int) -> None:
        """Set what depends on the step alone, in the state."""

    def at_step(self, step: int, network: nn.Module) -> None:
        """Set what depends on the step alone, in one of the networks or in an average."""

    def size_at(self, step: int) -> Size | None:
        """The size in px that is trained at a step, where it changes along the run; it never falls."""
        return None

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

    # -- beside training ---------------------------------------------------------------------------------------------

    def average_of(self) -> nn.Module:
        """What an EMA is kept of, and a weight set is of: the averaged network, or several by name."""
        if len(self.averaged) == 1:
            return self.networks[self.averaged[0]]
        return nn.ModuleDict({name: self.networks[name] for name in self.averaged})

    def reals(self) -> Image.Image | None:
        """The first images as training sees them."""
        return None

    def for_sampling(self, weights: nn.Module) -> nn.Module:
        """A weight set as it is sampled from, made once a step and given to all that follows; NotFinite where it has
        diverged."""
        return weights

    def preview(self, weights: nn.Module) -> Sheet | None:
        """What a weight set makes of inputs that stay the same through the whole run; NotFinite."""
        return None

    def export(self, folder: Path, weight_sets: Mapping[str, nn.Module], step: int) -> None:
        """Write the generator/ folder: what a user samples from and shares; the first of the weight sets is its
        default."""

    def scorer(self, interrupted: Callable[[], bool]) -> Scorer:
        """What scores along the run are taken by; UserError where the game has none, ValueError for what is missing.

        interrupted: asked now and then; True gives a score up.
        """
        raise UserError(f"--eval_interval: {type(self).__name__} has no scores; leave the flag out")


def network_rates(
    config: TrainConfig, names: Iterable[str], of_d: Iterable[str] = ("D",)
) -> dict[str, float]:
    """Learning rates by network, as they begin: those of `of_d` learn with D, the others with G."""
    return {name: at_first(config, "lr", side_of(name in of_d)) for name in names}


def network_beta2(
    config: TrainConfig, names: Iterable[str], of_d: Iterable[str] = ("D",)
) -> dict[str, float]:
    """Adam's beta2 by network, as network_rates has the rates."""
    return {name: at_first(config, "beta2", side_of(name in of_d)) for name in names}
