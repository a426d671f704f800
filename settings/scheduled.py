"""Which values a schedule may move, what else would say the same, and when that is of use: one table, and penalties."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from errors import UserError, did_you_mean, shown
from losses import PENALTIES
from settings.curves import read_curve
from settings.section import default_of
from settings.sections import FIELDS
from settings.sections.loss import weight_name
from settings.values import without


def _always(config: Any) -> bool:
    return True


@dataclass(frozen=True)
class Scheduled:
    """A value that may move.

    instead: settings that say the same in another way; on(config): whether it is of use, `needs` what it is not without
    and `controls` the settings that switch it; most, below: bounds of its values.
    """

    instead: tuple[str, ...]
    on: Callable[[Any], bool] = _always
    needs: str = ""
    controls: tuple[str, ...] = ()
    most: float | None = None
    below: float | None = None


RATES = ("lr", "lr_d", "lr_g")
VALUES: dict[str, Scheduled] = {
    "lr": Scheduled(
        ("lr", "lr_by_size", "lr_decay_from"),
        lambda config: any(config.follows("lr", side) == "lr" for side in "dg"),
        "a network without a rate of its own, and both have one: give --schedule lr_d=... lr_g=... instead",
        ("lr_d", "lr_g", "schedule"),
    ),
    "lr_d": Scheduled(("lr_d",)),
    "lr_g": Scheduled(("lr_g",)),
    "beta2": Scheduled(
        ("beta2",),
        lambda config: config.optimizer in ("Adam", "AdamW"),
        "--optimizer Adam or AdamW",
        ("optimizer",),
        below=1,
    ),
    "ema_halflife": Scheduled(
        ("ema_halflife", "ema_decay", "ema_rampup"), lambda config: config.ema, "--ema", ("ema",)
    ),
    "ada_p": Scheduled(
        ("ada_p",),
        lambda config: "ada" in config.augment and config.ada_interval == 0,
        "--augment ada --ada_interval 0, where nothing else steers it",
        ("augment", "ada_interval"),
        most=1,
    ),
}


def row_of(name: str) -> Scheduled:
    """What is known of a value that may move; of a penalty's name its weight. UserError for another name."""
    if name in VALUES:
        return VALUES[name]
    if name in PENALTIES:
        return Scheduled(
            (weight_name(name),),
            lambda config: name in config.penalties(),
            f"the penalty: add --penalty {name}",
            ("penalty", "method"),
        )
    known = [*VALUES, *PENALTIES]
    flags = {flag: penalty for penalty, row in PENALTIES.items() for flag in (weight_name(penalty), row.also)}
    meant = f"; did you mean {flags[name]}?" if name in flags else did_you_mean(name[:100], known)
    raise UserError(f"--schedule {shown(name, 80)}: known are {', '.join(known)}{meant}")


def _names_in(settings: Mapping[str, Any]) -> set[str]:
    """The settings given, each penalty's weight by its own name."""
    weights = settings.get("penalty_weights") or {}
    return {*settings, *(weight_name(name) for name in weights if name in PENALTIES)} - {"penalty_weights"}


def refuse_said_twice(config: Any, given: Collection[str]) -> None:
    """UserError for one of the given settings that says otherwise what a schedule says."""
    for name in config.schedule:
        if found := [setting for setting in row_of(name).instead if setting in given]:
            raise UserError(f"--{found[0]} and --schedule {name} are two ways to say the same: give one")


def check_schedule(config: Any) -> None:
    """UserError for a schedule of an unknown name, beyond its bounds, of no use, or beside another way to say it."""
    for name, text in config.schedule.items():
        row = row_of(name)
        for value in read_curve(name, text).values:
            if (row.most is not None and value > row.most) or (row.below is not None and value >= row.below):
                bound = f"at most {row.most}" if row.below is None else f"below {row.below}"
                raise UserError(f"--schedule {name}={text}: {value:g} must be {bound}")
        if not row.on(config):
            raise UserError(f"--schedule {name} needs {row.needs}")
    unlike = {f: getattr(config, f) for f in FIELDS if getattr(config, f) != default_of(FIELDS[f])}
    refuse_said_twice(config, _names_in(unlike))


def less_scheduled(above: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings less those that the ones above schedule, and less the schedules of what these say plainly.

    A penalty that was there by its weight stays active without it.
    """
    kept, plain = dict(settings), _names_in(above)
    gone = {setting for name in above.get("schedule", {}) for setting in row_of(name).instead}
    kept = without(gone, kept)
    weights = kept.get("penalty_weights") or {}
    if moving := [
        name for name, weight in weights.items() if weight_name(name) in gone and weight is not None
    ]:
        kept["penalty_weights"] = without(moving, weights)
        kept["penalty"] = tuple(dict.fromkeys((*kept.get("penalty", ()), *moving)))
    return _scheduling(kept, lambda name: not plain & set(row_of(name).instead))


def less_idle_schedules(above: Collection[str], settings: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Settings less the schedules that those above switch off in the config that all make."""
    return _scheduling(
        settings, lambda name: not set(row_of(name).controls) & set(above) or row_of(name).on(config)
    )


def _scheduling(settings: Mapping[str, Any], wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Settings with those of their schedules alone that are wanted."""
    if "schedule" not in settings:
        return dict(settings)
    schedule = {name: text for name, text in settings["schedule"].items() if wanted(name)}
    return {**settings, "schedule": schedule}
