"""The game's loss and its penalties; the flags of penalties' weights are made from the rows of PENALTIES."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from errors import UserError
from losses import METHODS, PENALTIES, wgan_d
from settings.section import Section, brief, check_weight, flag, one_of, read_number


def weight_name(penalty: str) -> str:
    """Name of the setting that is a penalty's weight: `r1_weight` of r1."""
    return PENALTIES[penalty].weight_name or f"{penalty}_weight"


def weight_names() -> dict[str, str]:
    """Setting -> penalty, of all rows there are now."""
    return {weight_name(penalty): penalty for penalty in PENALTIES}


def fold_weights(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with `r1_weight: 10`, or `gamma: 10`, as `penalty_weights: {r1: 10}`.

    None is kept, it takes back a weight below. UserError for both names of one weight.
    """
    names = weight_names()
    for penalty, row in PENALTIES.items():
        if row.also is not None:
            names[row.also] = penalty
            if settings.keys() >= {row.also, weight_name(penalty)}:
                raise UserError(f"--{row.also} and --{weight_name(penalty)} are the same setting: give one")
    folded = {name: value for name, value in settings.items() if name not in names}
    weights = {names[name]: value for name, value in settings.items() if name in names}
    if weights:
        folded["penalty_weights"] = dict(folded.get("penalty_weights") or {}) | weights
    return folded


def unfold_weights(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse for people: every penalty's weight under its own name, None where none was given."""
    weights = settings["penalty_weights"]
    flat = {name: weights.get(penalty) for name, penalty in weight_names().items()}
    return {k: v for k, v in settings.items() if k != "penalty_weights"} | flat


def read_weights(value: Any) -> dict[str, Any]:
    """Weights by penalty, as numbers, `auto` where a row knows it, or None; UserError."""
    if not isinstance(value, Mapping):
        raise UserError(f"--penalty_weights must be a mapping of penalties to numbers, not {brief(value)}")
    for name in value:
        one_of("penalty_weights", name, PENALTIES)
    return {
        name: None if w is None else read_number(weight_name(name), w, auto=PENALTIES[name].auto is not None)
        for name, w in value.items()
    }


@dataclass(frozen=True)
class LossSettings(Section):
    """The loss; penalty_weights: penalty -> weight given, which enables it too."""

    title: ClassVar[str] = "loss"

    method: str = flag("gan", "loss", choices=lambda: METHODS, usual=True)
    penalty: tuple[str, ...] = flag((), "penalties to add", choices=lambda: PENALTIES, usual=True)
    penalty_weights: dict[str, float] = flag(
        dict, "weights of penalties; a weight given enables its penalty", read=read_weights, shown=False
    )
    penalty_interval: dict[str, int] = flag(dict, "lazy penalties, NAME=STEPS ..., e.g. r1=16")
    ac_weight_d: float | None = flag(
        None, "weight of the classes of reals in D's loss (--condition_d ac, k_plus_1; default: 1)"
    )
    ac_weight_fake: float | None = flag(
        None,
        "weight of the classes of fakes in D's loss (default: 0; 1 as in the paper lets G's classes drift)",
    )
    ac_weight_g: float | None = flag(
        None, "weight of the classes of fakes in G's loss (default: 1, with wgan-gp 0.1)"
    )
    label_smoothing: float = flag(0.0, "one-sided: the target of reals is 1 minus this")
    san: bool = flag(False, "D's last layer as a direction and a scale, with a loss for each: SAN")
    weight_clip: float | None = flag(None, "clamp D's weights to +- this (default: the method's)")
    fresh_reals: bool = flag(
        False, "G's loss sees other reals than D's (--method ragan, rpgan), with labels fakes of these too"
    )
    train_g_interval: int = flag(1, "G is updated every so many steps", least=1, usual=True)
    critic_warmup: bool = flag(False, "100 steps of D per update of G for its first 25 and each 500th")

    def penalties(self) -> dict[str, tuple[float, int]]:
        """Name -> (weight, interval) of every active penalty, in the table's order."""
        given = {name: weight for name, weight in self.penalty_weights.items() if weight is not None}
        wanted = {*self.penalty, *METHODS[self.method].penalties, *given}
        return {
            name: (given.get(name, row.weight), self.penalty_interval.get(name, row.interval))
            for name, row in PENALTIES.items()
            if name in wanted
        }

    def check(self) -> None:
        """Weights, intervals and label smoothing."""
        for name, weight in self.penalty_weights.items():
            if weight is not None and weight != "auto":
                check_weight(weight_name(name), weight)
        if self.weight_clip == 0:
            raise UserError("--weight_clip 0 would set every weight of D to 0")
        if self.label_smoothing:
            able = [name for name, row in METHODS.items() if row.d_smooth is not None]
            if self.method not in able:
                raise UserError(f"--label_smoothing works with --method {', '.join(able)}, not {self.method}")
            if self.label_smoothing >= 0.5:
                raise UserError(f"--label_smoothing {self.label_smoothing} must be below 0.5 (0.1 is usual)")
        if self.san and METHODS[self.method].d is wgan_d:
            raise UserError(
                f"--san: all of {self.method}'s loss is that of a direction already: leave the flag out, or give "
                "--method hinge"
            )
        self._check_intervals()
        weigh = {name for name, (weight, _) in self.penalties().items() if weight != 0}
        if weigh >= {"cr", "bcr"}:
            raise UserError(
                "--penalty cr bcr: bcr holds cr, whose term of reals would count twice: give one of them"
            )
        for name in weigh & {penalty for penalty, row in PENALTIES.items() if row.approximates in weigh}:
            raise UserError(
                f"--penalty {PENALTIES[name].approximates} {name}: these are one term, which would count twice: give "
                "one of them"
            )

    def _check_intervals(self) -> None:
        active = self.penalties()
        for name, interval in self.penalty_interval.items():
            if name not in PENALTIES:
                raise UserError(f"--penalty_interval {name}: known penalties are {', '.join(PENALTIES)}")
            if not isinstance(interval, int) or isinstance(interval, bool) or interval < 1:
                raise UserError(f"--penalty_interval {name}={interval}: a whole number of steps, at least 1")
            if name not in active:
                raise UserError(
                    f"--penalty_interval {name}={interval}, but {name} is not active; add --penalty {name}"
                )
