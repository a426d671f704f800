"""Games of two sides of pictures, A and B: what pix2pix, CycleGAN and super-resolution have in common.

A game says which networks there are (`networks_of`), what each of them makes of which side (`ways`), which side each
discriminator judges (`judges`), and what its phases compute. arXiv:1611.07004 and arXiv:1703.10593 take D's loss half
and G's whole, so that under lsgan and ragan, whose formulas are halved, D's stays as it is and G's counts twice.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from errors import UserError, tell
from games.augment import Augmenter
from games.penalties import Penalties
from games.pictures import flip_note, shape_in_words
from games.schedule import schedule_of
from games.task import (
    Micro,
    Phase,
    Place,
    Scorer,
    Sheet,
    Stats,
    Task,
    Terms,
    direction_terms,
    every,
    is_logged,
    network_beta2,
    network_rates,
    saturation,
    total,
)
from games.validation import TranslationScorer, Validation, rows_of_pictures
from generation.sampling import undisturbed
from generation.state import check_finite
from generation.translator import export_translator, translating_copy, translator_batch_norm
from images.batches import ImageData, Shard
from images.pairing import Found, find_pairs
from images.pairs import PairBatches, Pairs, channels_of, load_pairs, loaded_shape
from losses import METHODS, PENALTIES, PenaltyContext
from metrics.features import to_uint8
from metrics.health import sample_health
from modelling import find_model
from modelling.layers import image_shape
from modelling.san import SplitHead, find_head
from ops.distributed import from_main
from ops.precision import twice_differentiable, upcast
from ops.rng import key
from ops.spectral_norm import apply_spectral_norm
from settings import TrainConfig
from settings.derive import with_derived

SHOWN = 8  # pictures of a preview
MEASURED = 32  # training pictures by which batch norm is measured anew
USUAL_CHANNELS = 3  # until pictures have been looked at
Shape = tuple[int, int, int]  # (C, H, W)


class Way(NamedTuple):
    """What a network translates: from one side, "a" or "b", to the other."""

    network: str
    source: str
    target: str


def suffix(name: str, among: Collection[str]) -> str:
    """What tells a network's penalties from those of the others of its side: _d_a, nothing where it is alone."""
    return "" if len(among) == 1 else f"_{name}".lower()


class PairBatch:
    """What one micro-batch offers to the phases of a step: pictures (n, C, H, W) in [-1, 1] of both sides, and fakes.

    fake: of either side, once they are made; keep_graph: whether G trains on these right after D.
    """

    def __init__(self, micro: Micro, a: Tensor, b: Tensor, keep_graph: bool) -> None:
        self.micro, self.keep_graph = micro, keep_graph
        self.real = {"a": a, "b": b}
        self.fake: dict[str, Tensor] = {}


class Translation(Task):
    """A game of two sides of pictures.

    pairings: how they can belong together, the first unless another is asked for; usual_terms: weights of the terms of
    G's loss; judges: discriminator -> the side that it judges; conditions: whether D is shown the source too.
    """

    pairings: ClassVar[tuple[str, ...]]
    usual_terms: ClassVar[Mapping[str, float]]
    judges: ClassVar[Mapping[str, str]] = {"D": "b"}
    conditions: ClassVar[bool] = False
    unfit = (
        "z_dim", "conditional", "spectral_norm_g", "instance_noise_steps", "critic_warmup", "split", "freeze_d",
        "data_root", "fresh_reals",
    )  # fmt: skip

    # -- before the run ----------------------------------------------------------------------------------------------

    @classmethod
    def refuse_unfit(cls, config: TrainConfig) -> None:
        """Settings, pairings, terms and penalties that mean nothing here; UserError."""
        super().refuse_unfit(config)
        if config.data is None:
            raise UserError(f"--model {config.model} trains on pictures of your own: name them with --data")
        if config.pairing is not None and config.pairing not in cls.pairings:
            raise UserError(
                f"--pairing {config.pairing}: {config.model} takes {', '.join(cls.pairings)}; leave the flag out"
            )
        if cls.pairing_of(config) == "grey" and config.direction != "AtoB":
            raise UserError("--direction BtoA: the grey of a picture needs no network; leave the flag out")
        for name in config.term_weights:
            if name not in cls.usual_terms:
                raise UserError(
                    f"--term_weights {name}: the terms of {config.model} are {', '.join(cls.usual_terms)}"
                )
        if not any(cls.weights_of(config).values()):
            raise UserError("--term_weights: all terms weigh 0, of which nothing is learned: leave one above")
        for name in config.penalties():
            if {"z", "generate"} & set(PENALTIES[name].asks):
                raise UserError(f"--penalty {name} moves latents, and {config.model} has none; leave it out")
        if cls.conditions and "color" in config.augment:
            raise UserError(
                "--augment color would colour a picture and its source alike, as if they were one: translation, cutout "
                "and ada do not"
            )

    @classmethod
    def pairing_of(cls, config: TrainConfig) -> str:
        """How the sides belong together."""
        return cls.pairings[0] if config.pairing is None else config.pairing

    @classmethod
    def weights_of(cls, config: TrainConfig) -> dict[str, float]:
        """Weights of the terms of G's loss."""
        return {**cls.usual_terms, **config.term_weights}

    @classmethod
    def shapes_of(cls, config: TrainConfig) -> dict[str, Shape]:
        """(C, H, W) of the pictures of each side, as far as they are known."""
        height, width = image_shape(config.img_size)
        usual = 1 if cls.pairing_of(config) == "grey" else USUAL_CHANNELS
        a, b = config.source_channels, config.img_channels
        return {
            "a": (usual if a is None else a, height, width),
            "b": (USUAL_CHANNELS if b is None else b, height, width),
        }

    @classmethod
    def ways_of(cls, config: TrainConfig) -> dict[str, Way]:
        """What is translated, by direction; the first one decides what is best."""
        raise NotImplementedError

    @classmethod
    def networks_of(cls, config: TrainConfig) -> dict[str, nn.Module]:
        """The networks by name."""
        raise NotImplementedError

    @classmethod
    def looked_at(cls, config: TrainConfig, images: ImageData | None, *, fresh: bool) -> TrainConfig:
        """With the channels of the pictures, where none are asked for; UserError for those that do not fit."""

        def look() -> tuple[int, int]:
            return channels_of(cls.found(config))

        found = dict(zip(("source_channels", "img_channels"), from_main(look), strict=True))
        config = with_derived(config, {name: n for name, n in found.items() if getattr(config, name) is None})
        cls.check_channels(config)
        if fresh:
            tell(flip_note(config))
        return config

    @classmethod
    def check_channels(cls, config: TrainConfig) -> None:
        """UserError where a term of G's loss cannot be computed of pictures with so many channels."""

    @classmethod
    def found(cls, config: TrainConfig) -> Found:
        """What stands at --data; UserError."""
        second = None if config.data_b is None else Path(config.data_b).expanduser()
        return find_pairs(Path(config.data).expanduser(), second, cls.pairing_of(config), config.direction)

    @classmethod
    def rehearse(
        cls, config: TrainConfig, shard: Shard, own: dict[str, nn.Module], images: ImageData | None = None
    ) -> None:
        """Build all networks and run one micro-batch on the meta device; ValueError for what does not fit."""
        if own or images is not None:
            what = ", ".join([*own, *(["images"] if images is not None else [])])
            raise UserError(f"{what}: {config.model} builds its own networks for pictures that --data names")
        shapes = cls.shapes_of(config)
        with torch.device("meta"):
            networks = cls.networks_of(config)
            x = {side: torch.empty(shard.n, *shape) for side, shape in shapes.items()}
            for way in cls.ways_of(config).values():
                networks[way.network](x[way.source])
            for name, side in cls.judges.items():
                networks[name](*cls.judged(x[side], x["a"]))
            if config.san:
                cls.heads_of(config, networks, shard.n)

    @classmethod
    def heads_of(cls, config: TrainConfig, networks: Mapping[str, nn.Module], n: int) -> dict[str, str]:
        """The last layer of each D that is given n pictures, by name, which --san splits; UserError."""
        shapes = cls.shapes_of(config)
        x = {side: torch.empty(n, *shape, device="meta") for side, shape in shapes.items()}
        return {
            name: find_head(networks[name], *cls.judged(x[side], x["a"])) for name, side in cls.judges.items()
        }

    @classmethod
    def load(cls, config: TrainConfig, is_main: bool, images: ImageData | None = None) -> Pairs:
        """Both sides, cut or resized alike, in training and validation parts."""
        shapes = cls.shapes_of(config)
        return load_pairs(
            cls.found(config),
            img_size=config.img_size,
            load_size=loaded_shape(config.img_size, config.load_size),
            img_channels=(shapes["a"][0], shapes["b"][0]),
            crop=config.crop,
            value_range=config.value_range,
            cache_dir=config.cache_dir,
            is_main=is_main,
        )

    def __init__(self, config: TrainConfig, place: Place, data: Pairs, own: dict[str, nn.Module]) -> None:
        self.config, self.place, self.data, self.device = config, place, data, place.device
        self.schedule, self.ways = schedule_of(config), self.ways_of(config)
        where = {
            "device": place.device,
            "data_device": config.data_device,
            "channels_last": config.channels_last,
        }
        self.batches = PairBatches(
            data.train, place.shard, config.seed, config.flip, img_size=config.img_size, **where
        )
        self.validation = PairBatches(data.val, None, config.seed, False, **where)
        torch.manual_seed(key(config.seed, "weights"))
        self.networks = {name: place.settle(net, config) for name, net in self.networks_of(config).items()}
        heads = self.heads_of(config, self.networks, place.shard.n) if config.san else {}
        self.heads = {name: SplitHead(self.networks[name], layer) for name, layer in heads.items()}
        self.forwards = {
            name: network if place.compiled is None else place.compiled(network)
            for name, network in self.networks.items()
        }
        self.method, self.weights = METHODS[config.method], self.weights_of(config)
        # of D's loss, penalties included: they weigh as elsewhere
        self.share = 1.0 if self.method.halved else 0.5
        clip = config.weight_clip if config.weight_clip is not None else self.method.weight_clip
        self.clip = {} if clip is None else dict.fromkeys(self.judges, clip)
        # Penalties may look at the loss's own forward only where that is plain and in full precision.
        self.reuse_logits = not place.half and place.compiled is None and not config.san
        self.augmenters = {
            name: Augmenter(config, self.device, self.schedule) for name in self.judges if config.augment
        }
        # one for each network: their running means are their own
        self.penalties = {name: Penalties(config, self.device, "d") for name in self.judges}
        self.penalties |= {name: Penalties(config, self.device, "g") for name in self.averaged}
        self.running = [x for penalties in self.penalties.values() for x in penalties.running]
        self.ranges = {f"augmentation.{name}.p": (0.0, 1.0) for name in self.augmenters}
        self.rates = network_rates(config, self.networks, of_d=self.judges)
        self.beta2 = network_beta2(config, self.networks, of_d=self.judges)
        self.g_due = every(config.train_g_interval)
        self.phases = list(self.phases_of())

    @property
    def plays(self) -> bool:
        """Whether there is a game at all, or G learns by its other terms alone: then D stays as it began."""
        return self.weights["adversarial"] > 0

    def phases_of(self) -> Iterator[Phase]:
        """The phases in their order: d's and g's."""
        yield from self.d_phases()
        # Lazy ones after g: the graph that d keeps of G for g must meet G's weights unchanged.
        yield from self.g_phases()

    def d_phases(self) -> Iterator[Phase]:
        """d and its lazy penalties; none where there is no game."""
        if self.plays:
            yield Phase("d", tuple(self.judges), self.d_loss, every(1))
            yield from self.lazy_phases("d", self.judges, self.lazy_d_loss)

    def g_phases(self) -> Iterator[Phase]:
        """g and its lazy penalties."""
        yield Phase("g", self.averaged, self.g_loss, self.g_due)
        yield from self.lazy_phases("g", self.averaged, self.lazy_g_loss)

    def lazy_phases(self, side: str, names: Collection[str], loss: Callable) -> Iterator[Phase]:
        """One for each lazy penalty of each network of a side."""
        updates = 1 if side == "d" else self.config.train_g_interval
        for name in names:
            for penalty, n in self.penalties[name].lazy.items():
                title = penalty + suffix(name, names)
                yield Phase(title, (name,), partial(loss, penalty, name), every(n * updates), interval=n)

    @property
    def identity(self) -> dict[str, Any]:
        """Name and fingerprint of the pictures of both sides."""
        return {"name": self.data.train.name, "fingerprint": self.data.train.fingerprint, "n_labels": 0}

    def describe(self) -> list[str]:
        """Parameters, what D judges, terms of G's loss, pictures."""
        shapes = self.shapes_of(self.config)
        sides = " -> ".join(shape_in_words((h, w), c) for c, h, w in (shapes["a"], shapes["b"]))
        fields = {getattr(self.networks[name], "receptive_field", None) for name in self.judges} - {None}
        return [
            *super().describe(),
            *(f"D judges patches of {field} x {field} px" for field in fields),
            f"terms of G's loss: {', '.join(f'{name} {weight:g}' for name, weight in self.weights.items())}",
            f"data: {self.data.train.name}, {self.pairing_of(self.config)}, {sides}",
        ]

    # -- a step ------------------------------------------------------------------------------------------------------

    def announce(self, step: int) -> None:
        """Have the rows of a coming step fetched."""
        self.batches.announce(self.schedule.images(step))

    def inputs(self, micro: Micro) -> PairBatch:
        """Pictures of both sides."""
        a, b = self.batches.micro(micro.start, micro.j, micro.draws.shard)
        keep_graph = self.config.accumulate == 1 and self.g_due(micro.step)
        return PairBatch(micro, *self.both(a, b), keep_graph)

    @classmethod
    def source_of(cls, a: Tensor | None, b: Tensor, factor: int) -> Tensor:
        """What side A is to the networks: its own pictures, or what is made of those of B; factor: of G."""
        return a

    def both(self, a: Tensor | None, b: Tensor) -> tuple[Tensor, Tensor]:
        """The sides as the networks see them."""
        return self.source_of(a, b, self.networks[self.averaged[0]].factor), b

    def translate(self, way: Way, x: Tensor) -> Tensor:
        """What a way's network makes of pictures."""
        with self.place.autocast():
            return upcast(self.forwards[way.network](x))

    @classmethod
    def judged(cls, x: Tensor, source: Tensor | None) -> tuple[Tensor, ...]:
        """What a D is called with."""
        return (x, source) if cls.conditions else (x,)

    def judge(
        self,
        name: str,
        sides: PairBatch,
        purpose: str,
        x: Tensor,
        source: Tensor | None,
        *,
        double_backward: bool = False,
    ) -> Tensor:
        """A D's logits of augmented pictures; `purpose` keeps the draws of one use apart from those of another.

        double_backward: what comes out can be differentiated twice.
        """
        seen = self._augmented(name, sides, purpose, x, source)
        with self.place.autocast(), twice_differentiable() if double_backward else nullcontext():
            return upcast(self.forwards[name](*seen))

    def _augmented(
        self, name: str, sides: PairBatch, purpose: str, x: Tensor, source: Tensor | None
    ) -> tuple[Tensor, ...]:
        """What a D is called with: a picture and its source are moved alike."""
        if name not in self.augmenters:
            return self.judged(x, source)
        if not self.conditions:
            return (self.augmenters[name](x, sides.micro, f"{name}/{purpose}"),)
        joined = self.augmenters[name](torch.cat([x, source], 1), sides.micro, f"{name}/{purpose}")
        return joined.split([x.shape[1], source.shape[1]], 1)

    def told_apart(self, name: str, sides: PairBatch, x_fake: Tensor) -> tuple[Tensor, Stats]:
        """Loss of one D, half of its sum, on reals and on fakes that are cut off from G, with its penalties of interval
        1."""
        x_real, source, label = sides.real[self.judges[name]], sides.real["a"], name.lower()
        names = self.penalties[name].every_step["d"]
        share_forward = self.reuse_logits and "r1" in names
        if share_forward:
            x_real = x_real.detach().requires_grad_()
        with self.heads[name].splitting() if self.heads else nullcontext() as directed:
            d_real = self.judge(name, sides, "d-real", x_real, source, double_backward=share_forward)
            d_fake = self.judge(name, sides, "d-fake", x_fake, source)
        loss = self.method.of_d(d_real, d_fake, self.config.label_smoothing)
        sign = d_real.detach().sign().mean()  # near 1: D knows its training pictures
        if name in self.augmenters:
            self.augmenters[name].follow(sign)
        stats = {f"{label}/real": d_real.detach().mean(), f"{label}/fake": d_fake.detach().mean()}
        stats |= {f"{label}/real_sign": sign, "loss/d": self.share * loss.detach()}
        if is_logged(self.config, sides.micro.step):
            stats |= saturation(self.method, d_real, d_fake, label)
        logits = {"d_real": d_real, "d_fake": d_fake} if self.reuse_logits else {}
        terms = {f"{k}{suffix(name, self.judges)}": term for k, term in direction_terms(directed).items()}
        terms |= self.penalty_terms(names, name, sides, x_real, x_fake, **logits)
        return self.share * total(loss, terms, stats), stats

    def d_loss(self, sides: PairBatch) -> tuple[Tensor, Stats]:
        """Sum of the losses of all D, which have no weights in common."""
        found = [self.told_apart(name, sides, self.fakes_for_d(name, sides)) for name in self.judges]
        stats = {key: value for _, of_one in found for key, value in of_one.items()}
        stats["loss/d"] = sum(of_one["loss/d"] for _, of_one in found)
        return sum(loss for loss, _ in found), stats

    def fakes_for_d(self, name: str, sides: PairBatch) -> Tensor:
        """What a D is shown as fakes, cut off from G."""
        raise NotImplementedError

    def g_loss(self, sides: PairBatch) -> tuple[Tensor, Stats]:
        """Loss of all G together."""
        raise NotImplementedError

    def fooling(self, name: str, sides: PairBatch, x_fake: Tensor) -> Tensor:
        """G's part of the game with one D."""
        source, d_real = sides.real["a"], None
        if self.method.g_needs_real:
            with torch.no_grad():
                d_real = self.judge(name, sides, "g-real", sides.real[self.judges[name]], source)
        loss = self.method.g(d_real, self.judge(name, sides, "g-fake", x_fake, source))
        return 2 * loss if self.method.halved else loss

    def weighed(self, **values: Tensor) -> Terms:
        """Terms of G's loss with their weights."""
        return {name: (self.weights[name], value) for name, value in values.items()}

    def lazy_d_loss(self, penalty: str, name: str, sides: PairBatch) -> tuple[Tensor, Stats]:
        """One penalty of one D alone, in a phase of its own."""
        stats: Stats = {}
        x_fake = None
        if PENALTIES[penalty].fakes:
            with torch.no_grad():
                x_fake = self.fakes_for_d(name, sides)
        terms = self.penalty_terms([penalty], name, sides, sides.real[self.judges[name]], x_fake)
        return self.share * total(torch.zeros((), device=self.device), terms, stats), stats

    def lazy_g_loss(self, penalty: str, name: str, sides: PairBatch) -> tuple[Tensor, Stats]:
        """One penalty of one G alone."""
        stats: Stats = {}
        return total(torch.zeros((), device=self.device), self._of_g([penalty], name, sides), stats), stats

    def g_penalties(self, sides: PairBatch) -> Terms:
        """Penalties of interval 1 of every G."""
        terms: Terms = {}
        for name in self.averaged:
            terms |= self._of_g(self.penalties[name].every_step["g"], name, sides)
        return terms

    def _of_g(self, names: list[str], name: str, sides: PairBatch) -> Terms:
        """Penalties on the weights of one G."""
        context = PenaltyContext(
            D=lambda x: x,
            G=self.networks[name],
            x_real=sides.real["b"],
            x_fake=None,
            uniform=sides.micro.uniform,
        )
        return self.penalties[name].terms(
            names, sides.micro.step, lambda _: context, suffix(name, self.averaged)
        )

    def penalty_terms(
        self,
        names: list[str],
        name: str,
        sides: PairBatch,
        x_real: Tensor,
        x_fake: Tensor | None,
        **logits: Tensor,
    ) -> Terms:
        """Penalties of one D, which sees each picture beside its source; those that move pictures move both."""
        penalties, source = self.penalties[name], sides.real["a"] if self.conditions else None

        def plain(x: Tensor, source: Tensor | None) -> Tensor:
            with twice_differentiable():
                return self.networks[name](*self._augmented(name, sides, "penalty", x, source))

        def context(penalty: str) -> PenaltyContext:
            known, beside = logits, source
            D, joined = partial(plain, source=source), (lambda x: x)
            if PENALTIES[penalty].compares and name in self.augmenters:
                known = {}  # what is compared with logits of other draws would differ by these
            if PENALTIES[penalty].moves and beside is not None:
                widths = [x_real.shape[1], beside.shape[1]]
                D = lambda x: plain(*x.split(widths, 1))  # noqa: E731
                joined = lambda x: None if x is None else torch.cat([x, beside], 1)  # noqa: E731
            return PenaltyContext(
                D=D,
                G=None,
                x_real=joined(x_real),
                x_fake=joined(x_fake),
                uniform=lambda purpose, shape: sides.micro.uniform(f"{name}/{purpose}", shape),
                normal=lambda purpose, shape: sides.micro.normal(f"{name}/{purpose}", shape),
                **known,
                **penalties.means_of(penalty, sides.micro),
            )

        return penalties.terms(names, sides.micro.step, context, suffix(name, self.judges))

    def begin_step(self, step: int) -> None:
        """Set the augmentation's strength."""
        for augmenter in self.augmenters.values():
            augmenter.begin_step(step)

    def end_step(self, step: int) -> None:
        """Adapt the augmentation."""
        for augmenter in self.augmenters.values():
            augmenter.end_step(step)

    def stats(self, step: int) -> Stats:
        """Running means and augmentation."""
        values: Stats = {}
        for name, penalties in self.penalties.items():
            values |= {f"state/{name.lower()}/{mean}": value for mean, value in penalties.means.items()}
        for name, augmenter in self.augmenters.items():
            values |= {f"{key}/{name.lower()}": value for key, value in augmenter.stats().items()}
        return values

    def state_dict(self) -> dict[str, Any]:
        """Running means of penalties, and the augmentation's."""
        return {
            "penalties": {name: penalties.state_dict() for name, penalties in self.penalties.items()},
            "augmentation": {name: augmenter.state_dict() for name, augmenter in self.augmenters.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict gave."""
        for part, holders in (("penalties", self.penalties), ("augmentation", self.augmenters)):
            for name, of_one in state.get(part, {}).items():
                holders[name].load_state_dict(of_one)

    # -- beside training ---------------------------------------------------------------------------------------------

    def reals(self) -> Image.Image:
        """The first pictures of both sides as training sees them."""
        a, b = self.both(*self.batches.micro(0, 0, Shard(min(SHOWN, len(self.data.train)))))
        return rows_of_pictures([("A", a), ("B", b)])

    def for_sampling(self, weights: nn.Module) -> nn.Module:
        """A copy in eval mode, its batch norm measured anew by training pictures; NotFinite."""
        measured = translator_batch_norm(weights) != "none"
        G = translating_copy(weights, self._measured_by if measured else None, self.config.seed)
        check_finite(G)
        return G

    @cached_property
    def _measured_by(self) -> dict[str, list[Tensor]]:
        """The first training pictures that each G is given, in batches as in training."""
        n = min(MEASURED, len(self.data.train))
        real = dict(zip("ab", self.both(*self.batches.micro(0, 0, Shard(n))), strict=True))
        return {way.network: list(real[way.source].split(self.place.shard.n)) for way in self.ways.values()}

    def preview(self, weights: nn.Module) -> Sheet:
        """The first validation pictures: what goes in, what comes out, what should, and what comes back."""
        a, b = self.both(*self.validation.in_order(0, min(SHOWN, len(self.data.val))))
        real = {"a": a, "b": b}
        networks = {self.averaged[0]: weights} if len(self.averaged) == 1 else weights
        with undisturbed(weights, self.device):
            torch.manual_seed(key(self.config.seed, "preview"))
            fake = {way.target: networks[way.network](real[way.source]) for way in self.ways.values()}
            picture = rows_of_pictures(self.shown(weights, real, fake))
        health = {}
        for way in self.ways.values():
            found = sample_health(*(to_uint8(x[way.target]).cpu() for x in (real, fake)))
            health |= {f"{name}{suffix(way.network, self.averaged)}": value for name, value in found.items()}
        return Sheet(picture, health)

    def shown(
        self, weights: nn.Module, real: Mapping[str, Tensor], fake: Mapping[str, Tensor]
    ) -> list[tuple[str, Tensor]]:
        """Rows of a preview, a title and pictures (n, C, H, W), of both sides and of what is made like each of them."""
        raise NotImplementedError

    @property
    def about(self) -> dict[str, Any]:
        """generator/config.json: how to rebuild each G, and on what they were trained."""
        config, shapes, train = self.config, self.shapes_of(self.config), self.data.train
        sides = {"a": train.a or train.b, "b": train.b}
        translates = {
            name: {
                "network": way.network,
                "build": self.build_of(config, "g", shapes[way.source], shapes[way.target]),
            }
            for name, way in self.ways.items()
        }
        return {
            "model": config.model,
            "build": {},
            "translates": translates,
            "dataset": train.name,
            "img_size": config.img_size,
            "multi_hot": False,
            "seed": config.seed,
            "data": {
                "name": train.name,
                "files": Path(config.data).name,
                "fingerprint": train.fingerprint,
                "n_images": len(train),
                "crop": config.crop,
                "load_size": config.load_size,
                "value_range": config.value_range or None,
                # of pictures that are translated
                "scales": {name: sides[way.source].scale for name, way in self.ways.items()},
                "pairing": self.pairing_of(config),
                "direction": config.direction,
            },
        }

    def export(self, folder: Path, weight_sets: Mapping[str, nn.Module], step: int) -> None:
        """Write generator/ with every weight set."""
        export_translator(folder, self.about, weight_sets, step)

    @classmethod
    def build_of(cls, config: TrainConfig, side: str, source: Shape, target: Shape) -> dict[str, Any]:
        """Arguments of a network of the model's row: `side` "g" makes the target of the source, "d" judges the target,
        beside the source where it is shown that."""
        found: dict[str, Any] = {"img_size": config.img_size, "img_channels": target[0]}
        if side == "g" or cls.conditions:
            found["source_channels"] = source[0]
        norm = getattr(config, f"norm_{side}")
        return found | getattr(config, f"{side}_kwargs") | ({} if norm is None else {"norm": norm})

    @classmethod
    def built(cls, config: TrainConfig, side: str, source: Shape, target: Shape) -> nn.Module:
        """A network of the model's row."""
        made = find_model(config.model).network(side)(**cls.build_of(config, side, source, target))
        return apply_spectral_norm(made) if getattr(config, f"spectral_norm_{side}") else made

    def scorer(self, interrupted: Callable[[], bool]) -> Scorer:
        """The validation part: each way's pictures against their targets."""
        sides = {"a": self.data.val.a, "b": self.data.val.b}
        ways = [
            Validation(
                network=None if len(self.averaged) == 1 else way.network,
                sources=partial(self._validation, way),
                n_sources=len(sides[way.source] or self.data.val),
                targets=sides[way.target],
                source_fingerprint=None if sides[way.source] is None else sides[way.source].fingerprint,
            )
            for way in self.ways.values()
        ]
        paired = self.pairing_of(self.config) != "unpaired"
        return TranslationScorer(
            self.config, self.about, ways, paired=paired, device=self.device, interrupted=interrupted
        )

    def _validation(self, way: Way, start: int, stop: int) -> Tensor:
        """Pictures [start, stop) of the validation part, as a way's G is given them."""
        both = self.both(*self.validation.in_order(start, stop - start))
        return dict(zip("ab", both, strict=True))[way.source]
