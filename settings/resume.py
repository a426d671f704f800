"""What a resumed run may change, and what it writes down as asked."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from settings.derive import settled
from settings.files import as_dict, asked_of, base_of, from_dict, readable
from settings.scheduled import RATES
from settings.section import default_of, is_auto, of
from settings.sections import FIELDS
from settings.sections.loss import unfold_weights
from settings.train_config import TrainConfig

FREE_ON_RESUME = {name for name, f in FIELDS.items() if of(f).at_resume == "free"}
NOTICED_ON_RESUME = {name for name, f in FIELDS.items() if of(f).at_resume == "noticed"}
NOTICED_ON_RESUME |= {f"schedule.{name}" for name in RATES if name in NOTICED_ON_RESUME}


def resume_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(refused, noticed) lines `name: old -> new` between a run's saved config and what is settled now.

    A setting younger than the run stands at its default, or at what follows for it.
    """
    old, new = (_flat(values) for values in (as_dict(settled(TrainConfig(**from_dict(old)))), new))
    refused, noticed = [], []
    for name, before in old.items():
        if name not in FREE_ON_RESUME:
            for line in _changes(name, before, new[name]):
                said = {name, line.partition(":")[0]} & NOTICED_ON_RESUME
                (noticed if said else refused).append(line)
    return refused, noticed


def as_first_asked(config: TrainConfig, saved: Mapping[str, Any]) -> TrainConfig:
    """The config of a resumed run, in which what it took from base_of(saved) is asked as it was at first: `auto`."""
    base, first = base_of(saved), asked_of(saved)
    asked = _put_back(config.asked, base, first)
    usual = {name: default_of(f) for name, f in FIELDS.items()} | asked
    settled_as = {name: getattr(config, name) for name in FIELDS}
    derived = {name: value for name, value in settled_as.items() if value != usual[name]}
    return replace(config, asked=asked, derived=derived)


def less_same_auto(given: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings given at a resume, less each number left to `auto` that was so at first: it stays what it was then,
    whatever auto stands for by now or for another number of processes."""
    return _less_same_auto(given, asked_of(saved))


def _less_same_auto(given: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in given.items():
        if isinstance(value, dict):
            found[name] = _less_same_auto(value, first.get(name) or {})
        elif not (is_auto(value) and value == first.get(name)):
            found[name] = value
    return found


def _put_back(asked: Mapping[str, Any], base: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, with the first value, or none, of all that is as in the base; mappings by key."""
    found = {}
    for name, value in asked.items():
        if name not in base or (value != base[name] and not isinstance(value, dict)):
            found[name] = value
        elif isinstance(value, dict):
            found[name] = _put_back(value, base[name], first.get(name, {}))
        elif name in first:
            found[name] = first[name]
    return found


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as flags name them, sizes as people write them."""
    flat = unfold_weights({name: values[name] for name in FIELDS})
    return {name: readable(name, value) for name, value in flat.items()}


def _changes(name: str, old: Any, new: Any) -> list[str]:
    """`name: old -> new`, of mappings by key; nothing where both are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys((*old, *new))
        return [
            line
            for k in keys
            for line in _changes(f"{name}.{k}", old.get(k, "(absent)"), new.get(k, "(absent)"))
        ]
    return [] if old == new else [f"{name}: {old} -> {new}"]
