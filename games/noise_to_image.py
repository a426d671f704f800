"""The ordinary game: D tells images from G(z), with any row of METHODS and PENALTIES."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from augmentation.instance_noise import noise_scale
from errors import UserError
from games.augment import Augmenter
from games.build import build_networks, generator_config, head_of, rehearsed
from games.growing import at_stage, growth_of
from games.penalties import Penalties
from games.pictures import channels_of, shape_in_words, with_channels
from games.preview import GeneratorScorer, Preview
from games.schedule import check_batches, schedule_of
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
    trainable,
    warm_schedule,
)
from generation.evaluation import check_judge
from generation.generator import export_generator, sampling_copy
from generation.state import check_finite
from generation.views import view_of
from images.batches import Batches, ImageData, Shard
from images.sources import load_dataset
from losses import METHODS, PENALTIES, PenaltyContext, StyleContext
from modelling import check_revision, find_model, model_of, revisions_of
from modelling.conditioning import DOutput, as_output
from modelling.growing import set_stage
from modelling.layers import Size, as_size, image_shape, set_noise_scale, size_text
from modelling.projected import readers_of
from modelling.san import SplitHead
from ops.precision import twice_differentiable, upcast
from settings import TrainConfig

# Under which draws of the augmentation a penalty on one kind of images alone sees these: those of D's loss
_DRAWN_AS = {"x_real": "d-real", "x_fake": "d-fake"}


class Inputs:
    """What one micro-batch offers to the phases of a step: made on demand, the same for all of them.

    x_fake: G's images, kept with their graph where G trains on the same latents right after D.
    """

    def __init__(self, micro: Micro, batches: Batches, z_dim: int, keep_graph: bool = False) -> None:
        self.micro, self.batches, self.z_dim, self.keep_graph = micro, batches, z_dim, keep_graph
        self.x_fake: Tensor | None = None
        self._real: tuple[Tensor, Tensor | None] | None = None

    @property
    def real(self) -> tuple[Tensor, Tensor | None]:
        """(x (n, C, H, W) in [-1, 1], y or None)."""
        if self._real is None:
            self._real = self.batches.micro(self.micro.start, self.micro.j, self.micro.draws.shard)
        return self._real

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """(n, *shape) from U[0, 1)."""
        return self.micro.uniform(purpose, shape)

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """(n, *shape) from N(0, 1)."""
        return self.micro.normal(purpose, shape)

    @property
    def z(self) -> Tensor:
        """(n, z_dim) latents."""
        return self.normal("z", (self.z_dim,))

    @property
    def y(self) -> Tensor | None:
        """Labels of the reals and of the fakes alike, so that a point between the two has one too."""
        if self.micro.share == 1:
            return self.real[1]
        return self.batches.labels_of(self.micro.start, self.micro.block)

    def part(self, share: int) -> "Inputs":
        """Those of a micro-batch of 1/share as many samples."""
        return Inputs(self.micro.part(share), self.batches, self.z_dim)


class NoiseToImage(Task):
    """The ordinary game: D tells images from G(z), with any row of METHODS and PENALTIES."""

    averaged = ("G",)
    ranges = {"augmentation.p": (0.0, 1.0), "penalties.path_length": (0.0, math.inf)}

    # -- before the run ----------------------------------------------------------------------------------------------

    @classmethod
    def looked_at(cls, config: TrainConfig, images: ImageData | None, *, fresh: bool) -> TrainConfig:
        """With the channels of own pictures, where none are asked for."""
        if images is None:
            config = with_channels(config, fresh=fresh)
        return config

    @classmethod
    def rehearse(
        cls, config: TrainConfig, shard: Shard, own: dict[str, nn.Module], images: ImageData | None = None
    ) -> None:
        """Build both networks and run one micro-batch on the meta device; ValueError for what does not fit."""
        G, D = rehearsed(config, shard, own, channels_of(config, images), images)
        if config.eval_interval is not None and config.metric_weights is None:
            check_judge(config.extractor, readers_of(D))
        cls.check(config, G, D)

    @classmethod
    def check(cls, config: TrainConfig, G: nn.Module, D: nn.Module) -> None:
        """UserError for settings, or networks, that the game cannot be played with."""

    @classmethod
    def load(cls, config: TrainConfig, is_main: bool, images: ImageData | None = None) -> ImageData:
        """The data set at the run's size, or own images."""
        if images is not None:
            return images
        return load_dataset(
            config.name_of_data,
            img_size=config.img_size,
            img_channels=channels_of(config, None),
            split=config.split,
            data_root=config.data_root,
            data=config.data,
            cache_dir=config.cache_dir,
            crop=config.crop,
            value_range=config.value_range or None,
            is_main=is_main,
        )

    def __init__(self, config: TrainConfig, place: Place, data: ImageData, own: dict[str, nn.Module]) -> None:
        self.config, self.place, self.data, self.device = config, place, data, place.device
        self.schedule = schedule_of(config)
        check_batches(self.schedule, config, len(data))
        self.batches = Batches(
            data if config.conditional else data.without_labels(),
            place.shard,
            config.seed,
            flip=config.flip,
            device=place.device,
            data_device=config.data_device,
            channels_last=config.channels_last,
        )
        self.G, self.D, build = build_networks(config, place, data, own)
        self.about = generator_config(config, data, build, own)
        self.about["revision"] = len(revisions_of(self.G))
        if readers := readers_of(self.D):
            self.about["readers_of_d"] = readers
        self.view = view_of(self.about["dataset"])
        self.head = self._head() if config.san else None
        self.forward_g, self.forward_d = (
            network if place.compiled is None else place.compiled(network) for network in (self.G, self.D)
        )
        self.networks = {"D": self.D, "G": self.G}
        self.model = model_of(self.G, self.D) if own else find_model(config.model)
        self.method, self.growth = METHODS[config.method], growth_of(config)
        self.fresh = self.batches.another("fresh") if config.fresh_reals else None
        # Penalties may look at the loss's own forward only where that is plain and in full precision.
        self.reuse_logits = not place.half and place.compiled is None and not config.san
        self.augmenter = Augmenter(config, self.device, self.schedule) if config.augment else None
        clip = config.weight_clip if config.weight_clip is not None else self.method.weight_clip
        self.clip = {} if clip is None else {"D": clip}
        self._list_phases()
        self.rates = network_rates(config, self.networks)
        self.beta2 = network_beta2(config, self.networks)

    def _head(self) -> SplitHead:
        """D's last layer, which the loss of D splits."""
        n_labels = self.data.n_labels if self.config.conditional else 0
        name = head_of(self.D, self.place.shard.n, n_labels, bool(self.data.multi_hot))
        return SplitHead(self.D, name)

    def _list_phases(self) -> None:
        """d, its lazy penalties, g, its lazy penalties; and the running means that penalties keep."""
        config = self.config
        self.penalties = Penalties(config, self.device)
        self.running = self.penalties.running
        self.g_due = (warm_schedule if config.critic_warmup else every)(config.train_g_interval)
        self.phases = [Phase("d", ("D",), self.d_loss, every(1)), *self._lazy_phases("d")]
        # After g: the graph that d keeps of G for g must meet G's weights unchanged.
        self.phases += [Phase("g", ("G",), self.g_loss, self.g_due), *self._lazy_phases("g")]

    def _lazy_phases(self, side: str) -> list[Phase]:
        # steps from one update of the network to the next
        updates = 1 if side == "d" else self.config.train_g_interval
        return [
            Phase(name, (side.upper(),), partial(self.lazy_loss, name), every(n * updates), interval=n)
            for name, n in self.penalties.lazy.items()
            if PENALTIES[name].side == side
        ]

    def _zero(self) -> Tensor:
        return torch.zeros((), device=self.device)

    @property
    def identity(self) -> dict[str, Any]:
        """Name and fingerprint of the images, how many labels the networks see, their revisions, and what D sees by."""
        return {
            "name": self.data.name,
            "fingerprint": self.data.fingerprint,
            "n_labels": self.data.n_labels if self.config.conditional else 0,
            "revisions": {name: len(revisions_of(network)) for name, network in self.networks.items()},
            "readers": readers_of(self.D),
        }

    def describe(self) -> list[str]:
        """Parameters, images, growth."""
        sizes = shape_in_words(self.data.img_size, self.data.img_channels)
        lines = [*super().describe(), f"data: {self.data.name}, {len(self.data):,} images of {sizes}"]
        for name, sha256 in readers_of(self.D).items():
            grey = "; it reads 3 channels: grey is repeated" if self.data.img_channels == 1 else ""
            lines.append(f"D sees by {name} ({sha256[:8]}), which is not trained{grey}")
        if self.growth is not None:
            height, width = image_shape(self.config.img_size)
            first = as_size((self.growth.first, width * self.growth.first // height))
            last = as_size((height, width))
            full_size = self.schedule.step(self.growth.faded_in)
            lines.append(
                f"growing: {size_text(first)} to {size_text(last)} px, at full size from step {full_size}"
            )
        if self.augmenter is not None:
            lines += self.augmenter.left_out(self.data.img_channels)
        return lines

    def check_resumed(self, saved: dict[str, Any]) -> list[str]:
        """As every game; and attributes had another scale once."""
        notes = super().check_resumed(saved)
        for name, network in self.networks.items():
            check_revision(network, saved.get("revisions", {}).get(name, 0), "--resume: the checkpoint")
        if (before := saved.get("readers", {})) != (now := readers_of(self.D)):
            raise UserError(
                f"--resume: the checkpoint's D sees by {before}, and this one by {now}: its heads know other maps"
            )
        if self.config.conditional and self.data.multi_hot and "n_labels" not in saved:
            notes.append(
                "warning: the run is from before attributes were rows of length 1: its networks knew another scale"
            )
        return notes

    # -- a step ------------------------------------------------------------------------------------------------------

    def announce(self, step: int) -> None:
        """Have the rows of a coming step fetched."""
        shard = self.place.shard.of(self.schedule.batch_size(step))
        for batches in (self.batches, *([] if self.fresh is None else [self.fresh])):
            batches.announce(self.schedule.images(step), shard)

    def inputs(self, micro: Micro) -> Inputs:
        """Reals, labels and latents; one forward of G serves D and G where G is due and sees the batch in one go."""
        shared = self.fresh is None or self.fresh.labels is None
        keep_graph = shared and self.config.accumulate == 1 and self.g_due(micro.step)
        return Inputs(micro, self.batches, self.G.z_dim, keep_graph)

    def begin_step(self, step: int) -> None:
        """Set the augmentation's strength."""
        if self.augmenter is not None:
            self.augmenter.begin_step(step)

    def at_step(self, step: int, network: nn.Module) -> None:
        """Anneal D's instance noise, and grow."""
        # only D has noise layers, and this is a walk over its modules at each step
        if network is self.D and self.config.instance_noise_steps is not None:
            set_noise_scale(network, noise_scale(step, self.config.instance_noise_steps))
        if self.growth is not None:
            set_stage(network, *self._stage(step))

    def _stage(self, step: int) -> tuple[int, float]:
        return self.growth.stage(self.schedule.images(step))

    def size_at(self, step: int) -> Size | None:
        """The stage's, where the networks grow."""
        return None if self.growth is None else self._stage(step)[0]

    def new_stage(self, step: int) -> bool:
        """At the start and at the end of each fade: Adam's moments belong to another function then."""
        if self.growth is None or step == 0:
            return False
        (size, alpha), (last_size, last_alpha) = self._stage(step), self._stage(step - 1)
        return size != last_size or (alpha < 1) != (last_alpha < 1)

    def end_step(self, step: int) -> None:
        """Adapt the augmentation."""
        if self.augmenter is not None:
            self.augmenter.end_step(step)

    def stats(self, step: int) -> Stats:
        """Path length, augmentation and stage."""
        values = {f"state/{name}": value for name, value in self.penalties.means.items()}
        if self.augmenter is not None:
            values |= self.augmenter.stats()
        if self.growth is not None:
            size, alpha = self._stage(step)
            values |= {"growing/size": self._zero() + size, "growing/alpha": self._zero() + alpha}
        return values

    def state_dict(self) -> dict[str, Any]:
        """Running means of penalties, and the augmentation's."""
        augmentation = {} if self.augmenter is None else self.augmenter.state_dict()
        return {"penalties": self.penalties.state_dict(), "augmentation": augmentation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict gave."""
        self.penalties.load_state_dict(state.get("penalties", {}))
        if self.augmenter is not None:
            self.augmenter.load_state_dict(state.get("augmentation", {}))

    def _mixing(self, batch: Inputs) -> dict[str, Tensor]:
        """Second latents and draws for style mixing, where the model mixes."""
        if not self.model.styles or not self.G.mixing:
            return {}
        return {"z_mix": batch.normal("z-mix", (batch.z_dim,)), "u": batch.uniform("mixing", (2,))}

    def reals_of(self, batch: Inputs) -> Tensor:
        """Reals as big, and as far faded, as G's images are at this step."""
        x = batch.real[0]
        return x if self.growth is None else at_stage(x, *self._stage(batch.micro.step))

    def generate(self, batch: Inputs) -> Tensor:
        """G's images of the micro-batch's latents."""
        with self.place.autocast():
            return upcast(self.forward_g(batch.z, batch.y, **self._mixing(batch)))

    def judge(self, batch: Inputs, purpose: str, x: Tensor, double_backward: bool = False) -> DOutput:
        """D's view of augmented images; `purpose` keeps the draws of one use apart from those of another.

        double_backward: what comes out can be differentiated twice.
        """
        x = self._augmented(x, batch, purpose)
        with self.place.autocast(), twice_differentiable() if double_backward else nullcontext():
            logit, classes = as_output(self.forward_d(x, batch.y))
        return DOutput(upcast(logit), None if classes is None else upcast(classes))

    def _augmented(self, x: Tensor, batch: Inputs, purpose: str) -> Tensor:
        return x if self.augmenter is None else self.augmenter(x, batch, purpose)

    def plain_logit(self, batch: Inputs, purpose: str, x: Tensor) -> Tensor:
        """The logit alone, for penalties: in full precision, not compiled."""
        with twice_differentiable():
            return as_output(self.D(self._augmented(x, batch, purpose), batch.y)).logit

    def plain_images(self, batch: Inputs, z: Tensor) -> Tensor:
        """G's images of latents under the micro-batch's labels, for penalties: in full precision, not compiled, and
        with constant layer noise, so that equal latents give equal images."""
        noise = {"noise": "constant"} if self.model.styles else {}
        return self.G(z, batch.y, **self._mixing(batch), **noise)

    def fakes_for_d(self, batch: Inputs) -> Tensor:
        """Fakes cut off from G; where G trains next on the same latents its graph is kept for it."""
        if batch.keep_graph:
            with trainable(self.G):
                batch.x_fake = self.generate(batch)
            return batch.x_fake.detach()
        with torch.no_grad():
            return self.generate(batch)

    def inputs_of_g(self, batch: Inputs) -> Inputs:
        """What G's phase sees of a micro-batch: with --fresh_reals other reals than D has just learnt from, and where
        these have labels other fakes, of the same latents under these labels."""
        if self.fresh is None:
            return batch
        other = Inputs(batch.micro, self.fresh, batch.z_dim)
        if self.fresh.labels is None:
            other.x_fake, batch.x_fake = batch.x_fake, None
        return other

    def fakes_for_g(self, batch: Inputs) -> Tensor:
        """Fakes with their graph, those that D has just seen where they were kept."""
        x_fake = self.generate(batch) if batch.x_fake is None else batch.x_fake
        batch.x_fake = None
        return x_fake

    def d_loss(self, batch: Inputs) -> tuple[Tensor, Stats]:
        """Loss of D, with D's penalties of interval 1."""
        x_fake, x_real = self.fakes_for_d(batch), self.reals_of(batch)
        # by images that ask for a gradient they share the loss's forward, and its draws
        share_r1, share_r2 = (
            self.reuse_logits and name in self.penalties.every_step["d"] for name in ("r1", "r2")
        )
        x_real = x_real.detach().requires_grad_() if share_r1 else x_real
        x_fake = x_fake.detach().requires_grad_() if share_r2 else x_fake
        with nullcontext() if self.head is None else self.head.splitting() as directed:
            real = self.judge(batch, "d-real", x_real, double_backward=share_r1)
            fake = self.judge(batch, "d-fake", x_fake, double_backward=share_r2)
        d_real, d_fake = real.logit, fake.logit
        loss = self.method.of_d(d_real, d_fake, self.config.label_smoothing)
        sign = d_real.detach().sign().mean()  # near 1: D knows its training images
        if self.augmenter is not None:
            self.augmenter.follow(sign)
        stats = {"loss/d": loss.detach(), "d/real": d_real.detach().mean(), "d/fake": d_fake.detach().mean()}
        stats["d/real_sign"] = sign
        if is_logged(self.config, batch.micro.step):
            stats |= saturation(self.method, d_real, d_fake)
        reused = {"d_real": d_real, "d_fake": d_fake} if self.reuse_logits else {}
        terms = self.d_terms(batch, real, fake) | direction_terms(directed)
        terms |= self.penalty_terms(
            self.penalties.every_step["d"], "d-penalty", batch, x_real, x_fake, **reused
        )
        return total(loss, terms, stats), stats

    def g_loss(self, batch: Inputs) -> tuple[Tensor, Stats]:
        """Loss of G, on the fakes D has just seen, with G's penalties of interval 1."""
        batch = self.inputs_of_g(batch)
        x_fake = self.fakes_for_g(batch)
        fake = self.judge(batch, "g-fake", x_fake)
        d_real = None
        if self.method.g_needs_real:
            with torch.no_grad():
                d_real = self.judge(batch, "g-real", self.reals_of(batch)).logit
        loss = self.method.g(d_real, fake.logit)
        stats = {"loss/g": loss.detach()}
        terms = self.g_terms(batch, fake)
        if names := self.penalties.every_step["g"]:
            terms |= self.penalty_terms(names, "g-penalty", batch, self.reals_of(batch), x_fake)
        return total(loss, terms, stats), stats

    def lazy_loss(self, name: str, batch: Inputs) -> tuple[Tensor, Stats]:
        """One penalty alone, in a phase of its own."""
        x_real = x_fake = None
        if not PENALTIES[name].styles:
            x_real = self.reals_of(batch)
            if PENALTIES[name].fakes:
                with torch.no_grad():
                    x_fake = self.generate(batch) if batch.x_fake is None else batch.x_fake.detach()
        stats: Stats = {}
        return total(self._zero(), self.penalty_terms([name], name, batch, x_real, x_fake), stats), stats

    def d_terms(self, batch: Inputs, real: DOutput, fake: DOutput) -> Terms:
        """Further terms of D's loss, by name: weight and value."""
        return {}

    def g_terms(self, batch: Inputs, fake: DOutput) -> Terms:
        """Further terms of G's loss."""
        return {}

    def penalty_terms(
        self,
        names: list[str],
        purpose: str,
        batch: Inputs,
        x_real: Tensor | None,
        x_fake: Tensor | None,
        **logits: Tensor,
    ) -> Terms:
        """Weight and value of the penalties of these names; logits: d_real, d_fake where they may be reused."""

        def context(name: str) -> PenaltyContext | StyleContext:
            row = PENALTIES[name]
            if row.styles:
                return self._style_context(name, batch)
            # what is compared with logits of other draws would differ by these
            known = {} if row.compares and self.augmenter is not None else logits
            seen = [drawn for name, drawn in _DRAWN_AS.items() if name in row.asks]
            drawn = seen[0] if purpose == "d-penalty" and len(seen) == 1 else purpose
            return PenaltyContext(
                D=partial(self.plain_logit, batch, drawn),
                G=self.G,
                x_real=x_real,
                x_fake=x_fake,
                uniform=batch.uniform,
                normal=batch.normal,
                y=batch.y,
                z=batch.z if "z" in row.asks else None,
                generate=partial(self.plain_images, batch),
                **known,
                **self.penalties.means_of(name, batch.micro),
            )

        return self.penalties.terms(names, batch.micro.step, context)

    def _style_context(self, name: str, batch: Inputs) -> StyleContext:
        """Of half a batch, as the second derivative through G costs (arXiv:1912.04958 appendix B)."""
        half = batch.part(2)
        ws = self.G.styles(half.z, half.y, **self._mixing(half))
        return StyleContext(
            ws=ws,
            x=self.G.synthesis(ws, double_backward=True),
            normal=half.normal,
            **self.penalties.means_of(name, batch.micro),
        )

    # -- beside training ---------------------------------------------------------------------------------------------

    def reals(self) -> Image.Image:
        """The first images as training sees them."""
        return self._preview.reals()

    def for_sampling(self, weights: nn.Module) -> nn.Module:
        """A sampling copy; NotFinite where its weights, or its statistics of batch norm, are not."""
        G = sampling_copy(weights, self.about, self.config.seed)
        check_finite(G)
        return G

    def preview(self, G: nn.Module) -> Sheet:
        """What a generator makes of fixed latents."""
        return self._preview.sheet(G)

    @cached_property
    def _preview(self) -> Preview:
        return Preview(self.view, self.about, self.G.z_dim, self.config.seed, self.batches)

    def export(self, folder: Path, weight_sets: Mapping[str, nn.Module], step: int) -> None:
        """Write generator/ with every weight set."""
        export_generator(folder, self.about, weight_sets, step)

    def scorer(self, interrupted: Callable[[], bool]) -> Scorer:
        """Images by an extractor against the data, points against their mixture."""
        config = self.config
        reader = self.view.reader(config.extractor, config.metric_weights, config.cache_dir, self.device)
        evaluator = self.view.evaluator(
            reader,
            self.data,
            self.about,
            n_fake=config.eval_n,
            split=config.split,
            metrics=config.metrics,
            cache_dir=config.cache_dir,
            interrupted=interrupted,
        )
        return GeneratorScorer(evaluator)
