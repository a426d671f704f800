"""Values that follow from others: what stands in a settled config in place of None and auto."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from images.sources import DATASETS, set_name
from losses import METHODS, PENALTIES
from modelling import find_model, own_settings
from modelling.conditioning import CONDITIONAL_NORMS
from modelling.layers import image_shape
from ops.launched import world_size
from settings.section import is_auto, of
from settings.sections import FIELDS
from settings.sections.loss import weight_name
from settings.sections.model import AC_WEIGHTS
from settings.train_config import TrainConfig

# What words for the networks' setting channel_base stand for, by the longer side in px. auto: StyleGAN2's whole width
# from 512 px on, half below, as in arXiv:2006.06676's code. narrow: 32 channels at the full size, twice as many at half
# of it, and so on, as the whole width has at 1024 px.
CHANNEL_BASES: dict[str, Callable[[int], int]] = {
    "auto": lambda side: 32768 if side >= 512 else 16384,
    "narrow": lambda side: 32 * side,
}
KIMG = 600.0  # arXiv:1710.10196 appendix A.1: CelebA-HQ's; 800 for LSUN


def settled(config: TrainConfig) -> TrainConfig:
    """The config with the values that follow from others in place of None and auto, from what was asked; UserError.

    D has no norm under a penalty on its gradients, which are per sample, nor under spectral norm. What follows from
    the number of processes takes it from the launcher.
    """
    asked = TrainConfig(**config.asked)
    values: dict[str, Any] = {}
    for derive in (_numbers, _networks, _labels, _norms):
        values |= derive(replace(asked, **values))
    changed = {name: value for name, value in values.items() if getattr(asked, name) != value}
    found = with_derived(asked, changed)
    found.check_all()
    return found


def with_derived(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The config with values that nobody asked for: what was asked stays as it is."""
    return replace(config, **values, derived=config.derived | values)


def _numbers(config: TrainConfig) -> dict[str, Any]:
    """Image size, what own images are called, and the numbers that auto stands for."""
    img_size = DATASETS[config.dataset].img_size if config.img_size is None else config.img_size
    side, processes = max(image_shape(img_size)), world_size()
    found: dict[str, Any] = {"img_size": img_size}
    if config.data is not None and config.data_name is None:
        found["data_name"] = set_name(config.data)
    own = auto_batch_size(side, processes)  # whatever batch is given, as in arXiv:2006.06676's code
    batch_size = own if is_auto(config.batch_size) else config.batch_size
    if is_auto(config.batch_size):
        found["batch_size"] = batch_size
    for name, f in FIELDS.items():
        value = getattr(config, name)
        if name not in found and of(f).auto is not None and is_auto(value):
            # the length is one in images, of batches as they are
            number = of(f).auto(side, processes, batch_size if name == "n_steps" else own)
            found[name] = tuple(number if v == "auto" else v for v in value) if value != "auto" else number
    weights = {
        name: PENALTIES[name].auto(side, processes, own) if weight == "auto" else weight
        for name, weight in config.penalty_weights.items()
    }
    for name in ("g_kwargs", "d_kwargs"):
        given = getattr(config, name)
        if isinstance(word := given.get("channel_base"), str) and word in CHANNEL_BASES:
            found[name] = given | {"channel_base": CHANNEL_BASES[word](side)}
    return found | {"penalty_weights": weights}


def auto_batch_size(side: int, processes: int) -> int:
    """The batch that auto stands for."""
    return of(FIELDS["batch_size"]).auto(side, processes, 1)


def kept_batch(config: TrainConfig) -> str | None:
    """A warning where numbers that auto stands for are of another batch than the given one."""
    weights = config.asked.get("penalty_weights", {})
    names = [weight_name(name) for name, weight in weights.items() if weight == "auto"]
    names += ["ema_halflife"] if is_auto(config.asked.get("ema_halflife")) else []
    own = auto_batch_size(max(image_shape(config.img_size)), world_size())
    if not names or is_auto(config.asked.get("batch_size")) or config.batch_size == own:
        return None
    flags = " and ".join(f"--{name} auto" for name in names)
    return f"warning: {flags} are for auto's own batch of {own}: --batch_size {config.batch_size} is kept"


def _networks(config: TrainConfig) -> dict[str, Any]:
    """Growing, and spectral norm as the model has it."""
    model, found = find_model(config.model), {}
    if model.grows_from is not None and not config.no_grow:
        found = {name: KIMG for name in ("stable_kimg", "fade_kimg") if getattr(config, name) is None}
    for side in ("g", "d"):
        if getattr(config, f"spectral_norm_{side}") is None:
            found[f"spectral_norm_{side}"] = side in model.spectral_norm
    return found


def _labels(config: TrainConfig) -> dict[str, Any]:
    """How the networks of a conditional run see labels, and the weights of their classification."""
    if not config.conditional:
        return {}
    found = {f"condition_{side}": config.seen_by(side) for side in ("g", "d")}
    if config.classifies():
        usual = dict(zip(AC_WEIGHTS, (1.0, 0.0, METHODS[config.method].ac_weight_g), strict=True))
        found |= {name: weight for name, weight in usual.items() if getattr(config, name) is None}
    return found


def _norms(config: TrainConfig) -> dict[str, Any]:
    """The norms of networks that have one to choose."""
    model, found = find_model(config.model), {}
    bare = {"g": False, "d": config.spectral_norm_d or config.penalised()}
    for side, network in (("g", model.Generator), ("d", model.Discriminator)):
        known = own_settings(network)
        said = getattr(config, f"norm_{side}") is not None or "norm" in getattr(config, f"{side}_kwargs")
        by_label = side == "g" and config.condition_g in CONDITIONAL_NORMS
        if "norm" in known and not said and not by_label:
            found[f"norm_{side}"] = "none" if bare[side] else known["norm"].default
    return found
