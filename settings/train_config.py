"""TrainConfig: all settings of a run by flat names, valid from its construction on."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from errors import UserError
from losses import PENALTIES
from modelling import find_model
from modelling.layers import image_shape
from settings.dependents import refuse_idle
from settings.scheduled import check_schedule
from settings.section import default_of, is_auto
from settings.sections import FIELDS, SECTIONS
from settings.sections.data import AugmentationSettings, DataSettings, kind_of
from settings.sections.evaluation import EvaluationSettings
from settings.sections.loss import LossSettings
from settings.sections.model import GrowingSettings, ModelSettings, names_where
from settings.sections.optimisation import EmaSettings, OptimisationSettings, PrecisionSettings
from settings.sections.pairs import PairSettings
from settings.sections.run import OutputSettings, RunSettings
from settings.values import read_settings


@dataclass(frozen=True, init=False, repr=False)
class TrainConfig(
    RunSettings, DataSettings, PairSettings, AugmentationSettings, ModelSettings, GrowingSettings, LossSettings,
    OptimisationSettings, EmaSettings, PrecisionSettings, EvaluationSettings, OutputSettings,
):  # fmt: skip
    """All settings: TrainConfig(lr=1e-4, ema=True, r1_weight=10). None means: derived, see the help text.

    ValueError for an unknown name, a wrong type, and what cannot work together. `settled` makes one in which the
    derived values stand; `asked` then still holds what was given by name, and `derived` what took the place of None
    and auto. A value that `dataclasses.replace` changes counts as asked; what was derived from the old one stands until
    the config is settled anew, and is no reason to refuse the change.
    """

    title: ClassVar[str] = "all"

    asked: dict[str, Any] = field(default_factory=dict, compare=False)
    derived: dict[str, Any] = field(default_factory=dict, compare=False)

    def __init__(
        self,
        *,
        asked: dict[str, Any] | None = None,
        derived: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        given = read_settings(settings)
        if "penalty_weights" in given:
            weights = given["penalty_weights"]
            given["penalty_weights"] = {name: w for name, w in weights.items() if w is not None}
        values = {name: default_of(f) for name, f in FIELDS.items()} | given
        derived = {name: value for name, value in (derived or {}).items() if values[name] == value}
        if asked is None:
            asked = given
        else:
            usual = {name: default_of(f) for name, f in FIELDS.items()} | asked
            changed = {n: v for n, v in values.items() if n not in derived and v != usual[n]}
            asked = asked | changed
        for name, value in (values | {"asked": asked, "derived": derived}).items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __repr__(self) -> str:
        return f"TrainConfig({', '.join(f'{n}={getattr(self, n)!r}' for n in self.unlike_defaults())})"

    def __hash__(self) -> int:
        """Of the values, of mappings their keys: dictionaries have no hash."""
        values = (getattr(self, name) for name in FIELDS)
        return hash(tuple(frozenset(value) if isinstance(value, dict) else value for value in values))

    @classmethod
    def unchecked(cls, settings: dict[str, Any]) -> "TrainConfig":
        """One whose settings may not fit together, to ask which of them are of use."""
        config = object.__new__(cls)
        values = {name: default_of(f) for name, f in FIELDS.items()} | settings
        for name, value in (values | {"asked": settings, "derived": {}}).items():
            object.__setattr__(config, name, value)
        return config

    def unlike_defaults(self) -> list[str]:
        """Names of the settings that differ from their defaults."""
        return [name for name, f in FIELDS.items() if getattr(self, name) != default_of(f)]

    def penalised(self) -> bool:
        """Whether a penalty differentiates D, in which batch norm would mix the samples' gradients."""
        return any(PENALTIES[name].gradient for name in self.penalties())

    def check(self) -> None:
        """All rules, of what was asked: derived values may be left over from before a change."""
        # a resumed run's model is the copy of a file that may be gone
        old = self.derived.keys() - {"model"}
        values = {name: getattr(self, name) for name in FIELDS if name not in old}
        TrainConfig.unchecked(
            values | {name: self.asked[name] for name in old & self.asked.keys()}
        ).check_all()

    def check_all(self) -> None:
        """The sections' rules, those between switches and dependents, and those between sections; raises UserError."""
        for section in SECTIONS:
            section.check(self)
        if self.ada_interval == 0 and self.ada_p == 0 and "ada_p" not in self.schedule:
            raise UserError(
                "--ada_interval 0 keeps ada's strength at 0, which is no augmentation: add --ada_p, or --schedule ada_p"
            )
        check_schedule(self)
        refuse_idle(self, self.unlike_defaults())
        self._check_length()
        self._check_sides()
        if self.ema_halflife and self.ema_decay != TrainConfig.ema_decay:
            raise UserError("--ema_decay and --ema_halflife are two ways to say the same: give one")
        if self.sync_bn and self.penalised() and "batch" in (self.norm_d, self.d_kwargs.get("norm")):
            raise UserError("--sync_bn has no second derivative: no batch norm in D under a gradient penalty")
        self._check_lookahead()
        for name in self.penalties():
            if PENALTIES[name].moves and kind_of(self.dataset) != "images":
                raise UserError(f"--penalty {name} mirrors and shifts images, and {self.dataset} has points")
            if PENALTIES[name].styles and not find_model(self.model).styles:
                raise UserError(
                    f"--penalty {name} measures the way from styles to images: {names_where('styles')} have styles, "
                    f"not {self.model}"
                )

    def _check_lookahead(self) -> None:
        """Networks go back after an update of G, and before the run ends."""
        if self.lookahead and self.lookahead[0] % self.train_g_interval:
            raise UserError(
                f"--lookahead {self.lookahead[0]}: networks go back after an update of G, which --train_g_interval "
                f"{self.train_g_interval} gives it every so many steps: give a multiple of that"
            )
        if self.lookahead and self.critic_warmup:
            raise UserError(
                "--lookahead goes back after an update of G, of which --critic_warmup has few: leave one out"
            )
        if self.lookahead and not is_auto(self.n_steps) and self.lookahead[-1] > self.n_steps:
            raise UserError(
                f"--lookahead {self.lookahead[-1]} must be at most --n_steps {self.n_steps}, or left out"
            )

    def _check_length(self) -> None:
        """A run is long enough for G to be updated, and for its rates to fall."""
        if is_auto(self.n_steps):
            return
        if self.n_steps < (first := 100 if self.critic_warmup else self.train_g_interval):
            raise UserError(
                f"--n_steps {self.n_steps}: G is updated at step {first} for the first time: give more"
            )
        if self.lr_decay_from is not None and self.lr_decay_from >= self.n_steps:
            raise UserError(
                f"--lr_decay_from {self.lr_decay_from} must be below --n_steps {self.n_steps}, or left out"
            )

    def _check_sides(self) -> None:
        """A second side stands beside a first; what is cut out is no larger than what it is cut out of."""
        if self.data_b is not None and self.data is None:
            raise UserError("--data_b is side B: name side A with --data")
        side = None if self.img_size is None else min(image_shape(self.img_size))
        if side is not None and self.load_size is not None and self.load_size < side:
            raise UserError(
                f"--load_size {self.load_size} must be at least {side}, the shorter side of --img_size, which is cut "
                "out of it"
            )
