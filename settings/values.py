"""Settings by name as plain dictionaries: read and checked one by one, laid over each other."""

from collections.abc import Iterable, Mapping
from typing import Any

from errors import UserError, did_you_mean
from settings.section import brief, read_value
from settings.sections import FIELDS
from settings.sections.loss import fold_weights, weight_names


def read_settings(settings: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """Settings in their own types, weights of penalties folded; UserError for unknown names, types and choices.

    source: where they stand, for the message; "" for arguments and flags.
    """
    known, found = [*FIELDS, *weight_names()], {}
    for name in settings:
        if not isinstance(name, str):
            raise UserError(f"{f'{source}: ' if source else ''}{brief(name)} is no name of a setting")
    for name, value in fold_weights(settings).items():
        try:
            if name not in FIELDS:
                meant = did_you_mean(name, known) or f"; known: {', '.join(known)}"
                raise UserError(f"unknown setting {brief(name)}{meant}")
            found[name] = read_value(FIELDS[name], value)
        except UserError as error:
            if not source:
                raise
            raise UserError(f"{source}: {error}") from None
    return found


def without(names: Iterable[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings less those of the names."""
    names = set(names)
    return {name: value for name, value in settings.items() if name not in names}


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of all layers, the later one wins; mappings are joined key by key."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            joins = isinstance(value, dict) and isinstance(merged.get(name), dict)
            merged[name] = merged[name] | value if joins else value
    return merged
