"""What a section of settings is: a frozen dataclass whose fields are also flags, with bounds and rules of its own."""

import math
import numbers
import os
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar

from errors import UserError, did_you_mean, shown


@dataclass(frozen=True)
class Flag:
    """What is known of a setting beside its type and its default.

    choices() gives the legal words, looked up when they are needed, and `accepts` says what is legal beside them.
    least, above, most, below: bounds of a number, or of each of several. auto(side in px, processes, batch size) is the
    number that `auto` stands for. signed: whether a float may be negative. path: whether it names a file or folder.
    read: makes the value of a setting of no simple type. usual: shown by --help. at_resume: whether another value is
    "refused", "noticed" or "free". shown: whether it is a flag at all.
    """

    help: str
    choices: Callable[[], Iterable[str]] | None = None
    accepts: Callable[[str], bool] | None = None
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    auto: Callable[[int, int, int], float] | None = None
    signed: bool = False
    path: bool = False
    read: Callable[[Any], Any] | None = None
    usual: bool = False
    at_resume: str = "refused"
    shown: bool = True


MAX_WHOLE = 2**63 - 1
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def brief(value: Any) -> str:
    """A value for a message, whatever its size and depth."""
    try:
        return shown(_SHORT.repr(value), 200)
    except ValueError:  # a number of thousands of digits
        return f"a {type(value).__name__} of many digits"


def flag(default: Any, help: str, **known: Any) -> Any:
    """A dataclass field that is also a command line flag; `known` as in Flag. default: a type makes it, e.g. dict."""
    how = {"default_factory": default} if isinstance(default, type) else {"default": default}
    return field(metadata={"flag": Flag(help, **known)}, **how)


def of(f: Field) -> Flag:
    """What is known of a field."""
    return f.metadata["flag"]


def default_of(f: Field) -> Any:
    """A field's default, made anew where it is made by a function."""
    return f.default if f.default_factory is MISSING else f.default_factory()


def may_be_none(f: Field) -> bool:
    """Whether None, which means derived or absent, is a legal value."""
    return types.NoneType in typing.get_args(f.type)


def takes_many(f: Field) -> bool:
    """Whether a setting is a list of values."""
    return typing.get_origin(f.type) is tuple


def takes_pairs(f: Field) -> bool:
    """Whether a setting is of the form KEY=VALUE ..."""
    return typing.get_origin(f.type) is dict


def scalar_type(f: Field) -> type:
    """int for `int | None`, float for `tuple[float, ...]`, and so on."""
    hint = f.type
    if typing.get_origin(hint) in (types.UnionType, typing.Union, tuple):
        return typing.get_args(hint)[0]
    return hint


def is_auto(value: Any) -> bool:
    """Whether a number is still to be settled."""
    return value == "auto" or isinstance(value, tuple) and "auto" in value


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """UserError that lists the choices of a flag unless the value is among them."""
    choices = list(choices)
    if value not in choices:
        known = ", ".join(choices)
        raise UserError(
            f"--{name}: invalid choice: {brief(value)} is not one of {known}{did_you_mean(str(value)[:100], choices)}"
        )


def read_value(f: Field, value: Any) -> Any:
    """A setting in its own type: lists as tuples, 1 as 1.0; UserError for another type or a word that is no choice."""
    if value is None and may_be_none(f):
        return None
    if of(f).read is not None:
        return of(f).read(value)
    if takes_pairs(f):
        if not isinstance(value, Mapping):
            raise UserError(f"--{f.name} must be a mapping, not {brief(value)}")
        for name in value:
            if not isinstance(name, str):
                raise UserError(f"--{f.name}: {brief(name)} is no name")
        return dict(value)
    several = isinstance(value, list | tuple)
    if several and not takes_many(f):
        raise UserError(f"--{f.name} takes one value, not {brief(value)}")
    items = tuple(_read_item(f, item) for item in (value if several else (value,)))
    return items if takes_many(f) else items[0]


def read_number(name: str, value: Any, *, auto: bool = False) -> Any:
    """A float, also of text ("2e-4", which YAML takes for a word), or "auto" where that is known; UserError."""
    if auto and value == "auto":
        return value
    if isinstance(value, numbers.Real | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise UserError(f"--{name} must be float{' or auto' if auto else ''}, not {brief(value)}")


def _read_item(f: Field, item: Any) -> Any:
    """One value of a scalar type, one of the choices."""
    base, about = scalar_type(f), of(f)
    if base is float:
        return read_number(f.name, item, auto=about.auto is not None)
    if item == "auto" and about.auto is not None:
        return item
    if base is int and isinstance(item, numbers.Integral) and not isinstance(item, bool):
        item = int(item)
    if base is str and isinstance(item, os.PathLike):
        item = os.fspath(item)
    if not isinstance(item, base) or (base is int and isinstance(item, bool)):
        raise UserError(
            f"--{f.name} must be {base.__name__}{' or auto' if about.auto else ''}, not {brief(item)}"
        )
    if base is int and abs(item) > MAX_WHOLE:
        raise UserError(f"--{f.name} must be below 2^63, not {brief(item)}")
    if base is str and not item and about.path:
        raise UserError(f"--{f.name} is empty: name a file or folder, or leave it out")
    if base is str and "\0" in item:
        raise UserError(f"--{f.name} {brief(item)} holds a NUL character")
    if about.choices is not None and not (about.accepts is not None and about.accepts(item)):
        one_of(f.name, item, about.choices())
    return item


def check_weight(name: str, value: float) -> None:
    """UserError unless a float is finite and not negative."""
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"--{name} {value} must be a number of at least 0")


def check_bounds(f: Field, value: Any) -> None:
    """UserError for a number out of the bounds of its flag."""
    about = of(f)
    for number in value if isinstance(value, tuple) else (value,):
        if number is None or isinstance(number, str | bool):
            continue
        if scalar_type(f) is float and not about.signed:
            check_weight(f.name, number)
        for bound, words, holds in (
            (about.least, "at least", lambda a, b: a >= b),
            (about.above, "above", lambda a, b: a > b),
            (about.most, "at most", lambda a, b: a <= b),
            (about.below, "below", lambda a, b: a < b),
        ):
            if bound is not None and not holds(number, bound):
                raise UserError(f"--{f.name} {number} must be {words} {bound}")


class Section:
    """Base of the sections: values are read and checked when one is made, so that none holds what cannot work."""

    title: ClassVar[str]

    def __post_init__(self) -> None:
        known = [f for f in fields(self) if "flag" in f.metadata]
        for f in known:
            object.__setattr__(self, f.name, read_value(f, getattr(self, f.name)))
        for f in known:
            check_bounds(f, getattr(self, f.name))
        self.check()

    def check(self) -> None:
        """The rules between this section's own settings; raises UserError."""
