"""Settings that mean something only while another one switches them on: one table of switches and their dependents."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from errors import UserError
from images.sources import DATASETS, KINDS
from losses import METHODS
from modelling import MODELS, find_model, own_settings
from modelling.conditioning import CLASS_HEADS
from settings.scheduled import less_scheduled
from settings.sections.data import kind_of
from settings.sections.model import AC_WEIGHTS, names_where
from settings.values import without


@dataclass(frozen=True)
class Dependents:
    """Settings `names`, of use where on(config); says(name, config): the refusal elsewhere.

    controls: the settings that switch; a flag that switches off takes what presets and files say of the names with it,
    with resets any flag of them does.
    """

    names: tuple[str, ...]
    on: Callable[[Any], bool]
    says: Callable[[str, Any], str]
    controls: tuple[str, ...]
    resets: bool = False


def _needs(switch: str) -> Callable[[str, Any], str]:
    return lambda name, config: f"--{name} needs {switch}"


def _no_classes(name: str, config: Any) -> str:
    able = ", ".join(n for n, row in CLASS_HEADS.items() if row.classifies)
    return f"--{name}: only --condition_d {able} classify"


def _grows(config: Any) -> bool:
    return find_model(config.model).grows_from is not None


def _no_growth(name: str, config: Any) -> str:
    why = "nothing grows with --no_grow"
    if not _grows(config):
        why = f"{config.model} does not grow ({names_where('grows_from')} do)"
    return f"--{name} {getattr(config, name)}: {why}; leave the flag out"


def _translates(config: Any) -> bool:
    return not find_model(config.model).latents


def _no_translation(name: str, config: Any) -> str:
    able = ", ".join(model for model, row in MODELS.items() if not row.latents)
    return f"--{name}: {config.model} makes pictures of latents ({able} make them of pictures); leave the flag out"


def _no_reals(name: str, config: Any) -> str:
    able = ", ".join(method for method, row in METHODS.items() if row.g_needs_real)
    return (
        f"--{name}: the loss of G by --method {config.method} sees no reals ({able} do); leave the flag out"
    )


def _of_pictures(dataset: str) -> bool:
    return DATASETS[dataset].of_pictures or DATASETS[dataset].of_data


def _none_of_kind(name: str, config: Any, why: str) -> str:
    value = getattr(config, name)
    given = {"augment": lambda: " " + " ".join(value), "data": lambda: f" {value}"}.get(name, str)()
    return f"--{name}{given}: {why.format(dataset=config.dataset)}; leave the flag out"


DEPENDENTS = (
    Dependents(
        ("condition_g", "condition_d", *AC_WEIGHTS),
        lambda config: config.conditional,
        lambda name, config: f"--{name} {getattr(config, name)} needs --conditional",
        ("conditional",),
    ),
    # weights of another way to see labels mean nothing
    Dependents(AC_WEIGHTS, lambda config: config.classifies(), _no_classes, ("condition_d",), resets=True),
    Dependents(
        ("no_grow",),
        _grows,
        lambda name, config: f"--no_grow: {config.model} never grows; leave the flag out",
        ("model",),
    ),
    Dependents(
        ("stable_kimg", "fade_kimg", "batch_by_size", "lr_by_size"),
        lambda config: _grows(config) and not config.no_grow,
        _no_growth,
        ("model", "no_grow"),
    ),
    Dependents(
        (
            "data_b",
            "pairing",
            "direction",
            "load_size",
            "source_channels",
            "factor",
            "term_weights",
            "pool_size",
        ),
        _translates,
        _no_translation,
        ("model",),
    ),
    Dependents(
        ("factor",),
        lambda config: "factor" in own_settings(find_model(config.model).Generator),
        lambda name, config: (
            f"--factor: {config.model} makes pictures as large as those it is given; leave it out"
        ),
        ("model",),
    ),
    Dependents(
        ("fresh_reals",),
        lambda config: METHODS[config.method].g_needs_real,
        _no_reals,
        ("method",),
    ),
    Dependents(
        ("lr_by_size", "lr_decay_from"),
        lambda config: any(config.follows("lr", side) is None for side in "dg"),
        lambda name, config: f"--{name} bends no rate: both networks' have a --schedule; leave the flag out",
        ("schedule",),
    ),
    Dependents(
        ("ema_decay", "ema_halflife", "ema_rampup", "ema_warmup"),
        lambda config: config.ema,
        _needs("--ema"),
        ("ema",),
    ),
    Dependents(
        ("ema_rampup",),
        lambda config: bool(config.ema_halflife),
        lambda name, config: "--ema_rampup limits a half-life: add --ema_halflife",
        ("ema_halflife", "ema_decay"),
    ),
    Dependents(
        ("ema_snapshot_kimg",),
        lambda config: bool(config.ema_power),
        _needs("--ema_power"),
        ("ema_power",),
    ),
    Dependents(
        ("ada_pipe", "ada_p", "ada_target", "ada_interval", "ada_kimg"),
        lambda config: "ada" in config.augment,
        _needs("--augment ada"),
        ("augment",),
    ),
    Dependents(
        ("ada_target", "ada_kimg"),
        lambda config: config.ada_interval != 0,
        lambda name, config: f"--{name}: nothing steers ada's strength with --ada_interval 0; leave one out",
        ("ada_interval",),
    ),
    Dependents(
        ("eval_n", "extractor", "metric_weights", "metrics", "eval_patience"),
        lambda config: config.eval_interval is not None,
        _needs("--eval_interval"),
        ("eval_interval",),
    ),
    *(
        Dependents(
            tuple(row.without),
            lambda config, kind=kind: kind_of(config.dataset) != kind,
            lambda name, config, row=row: _none_of_kind(name, config, row.without[name]),
            ("dataset",),
        )
        for kind, row in KINDS.items()
    ),
    Dependents(
        ("crop", "value_range"),
        lambda config: config.data is not None or _of_pictures(config.dataset),
        lambda name, config: (
            f"--{name}: the images of {config.dataset} are of one size, in 8 bits; leave the flag out"
        ),
        ("data", "dataset"),
    ),
)
# Two ways to say the same: where one is given, what lower layers say of the other is dropped.
ALTERNATIVES = (("ema_decay", "ema_halflife"),)
# A value for all sizes and both networks, and those that lower layers say of single ones: the latter are dropped.
OF_SINGLE = {
    "batch_size": ("batch_by_size",),
    "lr": ("lr_by_size", "lr_d", "lr_g"),
    "beta2": ("beta2_g",),
}


def refuse_idle(config: Any, given: Collection[str]) -> None:
    """UserError for the first of the given settings that is of no use in this config."""
    for row in DEPENDENTS:
        names = [name for name in row.names if name in given]
        if names and not row.on(config):
            raise UserError(row.says(names[0], config))


def without_idle(settings: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Settings less those that are of no use in the config they make."""
    return without((name for row in DEPENDENTS if not row.on(config) for name in row.names), settings)


def without_said_otherwise(above: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings less those that the ones above say in another way: `ema_halflife`, or `norm=` in d_kwargs for norm_d."""
    kept = without((name for pair in ALTERNATIVES if set(pair) & set(above) for name in pair), settings)
    kept = less_scheduled(above, kept)
    kept = without((name for every, names in OF_SINGLE.items() if every in above for name in names), kept)
    for side in ("g", "d"):
        norm, own = f"norm_{side}", f"{side}_kwargs"
        if "norm" in above.get(own, {}):
            kept.pop(norm, None)
        if above.get(norm) is not None and own in kept:
            kept[own] = without(("norm",), kept[own])
    return kept


def _maybe_on(row: Dependents, config: Any) -> bool:
    """Whether it is on, as far as a layer can tell: the file of a model may be named by a later one."""
    try:
        return row.on(config)
    except UserError:
        return True


def switched_off(above: Collection[str], config: Any) -> set[str]:
    """Names that are of no use beneath these settings, which switch them off in the config that all make."""
    return {
        name
        for row in DEPENDENTS
        if set(row.controls) & set(above) and (row.resets or not _maybe_on(row, config))
        for name in row.names
    }
