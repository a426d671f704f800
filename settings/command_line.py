"""From a command line to a config: flags made from the sections, and the layers they are laid over."""

import argparse
import ast
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass
from functools import cached_property, partial
from typing import Any

from errors import Parser, UserError, shown, tell
from images.sources import DATASETS, parse_size
from losses import PENALTIES
from modelling import is_file_name
from modelling.layers import NORMS
from settings.dependents import ALTERNATIVES, refuse_idle, switched_off, without_said_otherwise
from settings.derive import settled
from settings.files import has_auto, read_config_file
from settings.help import all_flags, known_presets, preset_list, short_help
from settings.legacy import FLAGS as LEGACY_FLAGS
from settings.legacy import add_legacy_flags, translated
from settings.presets import PRESETS
from settings.scheduled import less_idle_schedules, refuse_said_twice
from settings.section import of, one_of, scalar_type, takes_many, takes_pairs
from settings.sections import FIELDS
from settings.sections.data import kind_of
from settings.sections.loss import weight_name
from settings.train_config import TrainConfig
from settings.values import layered, read_settings, without

# Words of --resume: go on with --log_name, or start it where there is nothing to go on with.
LATEST, AUTO = "latest", "auto"
WORDS = {"true": True, "false": False, "none": None}


def key_value(text: str) -> tuple[str, Any]:
    """argparse type of KEY=VALUE: a Python literal, true, false, none, or else a word; norm=none is a norm's name."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    if key == "norm" and value in NORMS:
        return key, value
    if value.lower() in WORDS:
        return key, WORDS[value.lower()]
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # of hundreds of brackets
        return key, value


def size(text: str) -> Any:
    """argparse type of --img_size."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def auto_or(kind: type) -> Callable[[str], Any]:
    """argparse type: a number, or `auto` for what follows from image size, processes and batch."""

    def parse(text: str) -> Any:
        try:
            return text if text == "auto" else kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{shown(text, 50)} must be {kind.__name__} or auto") from None

    return parse


class Show(argparse.Action):
    """A flag that prints a text and ends."""

    def __init__(self, *given: Any, text: Callable[[], str], **options: Any) -> None:
        super().__init__(*given, nargs=0, **options)
        self.text = text

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        print(self.text())
        parser.exit()


def options_of(f: Field) -> dict[str, Any]:
    """What add_argument is told of a setting; its choices are looked up later, with those of files."""
    if scalar_type(f) is bool:
        # a flag that says `no` has no opposite
        return {"action": "store_true" if f.name.startswith("no_") else argparse.BooleanOptionalAction}
    if takes_pairs(f):
        return {"type": key_value, "nargs": "+"}
    if f.name == "img_size":
        return {"type": size}
    kind = scalar_type(f)
    many = {"nargs": "*"} if takes_many(f) else {}
    return {"type": kind if of(f).auto is None else auto_or(kind)} | many


def make_parser(
    script: str, description: str | None, datasets: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> Parser:
    """argparse of a script; nothing has a default, so that only what was typed comes out."""
    parser = Parser(
        prog=f"{script}.py", allow_abbrev=False, argument_default=argparse.SUPPRESS, add_help=False
    )
    defaults = {"dataset": datasets[0], **(defaults or {})}
    texts = {
        ("-h", "--help"): partial(short_help, script, description, defaults),
        ("--help_all",): partial(all_flags, script, defaults),
        ("--list_presets",): partial(preset_list, script, defaults),
    }
    for names, text in texts.items():
        parser.add_argument(*names, action=Show, text=text, dest="shown")
    for f in FIELDS.values():
        if of(f).shown:
            parser.add_argument(f"--{f.name}", dest=f.name, **options_of(f))
    for name, row in PENALTIES.items():
        also = () if row.also is None else (f"--{row.also}",)
        kind = float if row.auto is None else auto_or(float)
        parser.add_argument(f"--{weight_name(name)}", *also, dest=weight_name(name), type=kind)
    parser.add_argument("--preset")
    parser.add_argument("--config")
    parser.add_argument("--resume", nargs="?", const=LATEST)
    add_legacy_flags(parser)
    return parser


def laid(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """One layer over another; what the upper one switches off, or says in another way, is dropped from the lower."""
    lower = without_said_otherwise(upper, lower)
    both = TrainConfig.unchecked(layered(lower, upper))
    kept = less_idle_schedules(upper.keys(), without(switched_off(upper, both), lower), both)
    return layered(kept, upper)


def passed_over(lower: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Names of the settings for which a resumed run has a value of its own; its number for auto is no other value."""
    return [
        name
        for name, value in lower.items()
        if not (name not in base or has_auto(value) or is_file_name(value))
        and layered({name: value}, {name: base[name]}) != {name: value}
    ]


def script_defaults(
    defaults: Mapping[str, Any], datasets: Sequence[str], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The script's, less those of its own data sets where another one is given."""
    theirs = given.get("dataset", datasets[0]) not in datasets
    settings = read_settings({"dataset": datasets[0], **defaults})
    return without(("img_size", "flip"), settings) if theirs else settings


@dataclass(frozen=True)
class Request:
    """What the command line asked for, in layers of which a later one wins, and where to resume from."""

    script: str
    defaults: dict[str, Any]  # the script's
    lower: dict[str, Any]  # --config over --preset
    flags: dict[str, Any]
    typed: frozenset[str]  # names of the flags
    old: dict[str, Any]  # the oldest command's flags
    preset: str | None
    resume: str | None

    @property
    def given(self) -> dict[str, Any]:
        """The settings given: flags > --config > --preset."""
        return layered(self.lower, self.flags)

    def config(self, base: Mapping[str, Any] | None = None) -> TrainConfig:
        """The settled config; `base`, what was asked of a resumed run, wins over all but flags. UserError."""
        if base is None:
            return self._fresh
        own = ", ".join(name for name in passed_over(self.lower, base) if name not in self.flags)
        if own:
            tell(f"note: the run keeps its own {own}: at --resume flags alone win, not --preset and --config")
        return self._settled(laid(self.lower, base))

    @cached_property
    def _fresh(self) -> TrainConfig:
        return self._settled(laid(self.defaults, self.lower))

    def _settled(self, lower: Mapping[str, Any]) -> TrainConfig:
        merged = laid(lower, self.flags)
        merged |= translated(self.old, merged, self.typed, self.script)
        config = TrainConfig(**merged)
        refuse_idle(config, self.typed)
        refuse_said_twice(config, self.typed)
        for pair in ALTERNATIVES:
            if self.typed.issuperset(pair):
                raise UserError(f"--{pair[0]} and --{pair[1]} are two ways to say the same: give one")
        return settled(config)


def in_proportion(preset: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A preset whose rates fall for the same share of a run that is asked to be of another length."""
    length, start, asked = preset.get("n_steps"), preset.get("lr_decay_from"), above.get("n_steps")
    if start and "lr_decay_from" not in above and isinstance(asked, int) and isinstance(length, int):
        return dict(preset) | {"lr_decay_from": start * asked // length}
    return dict(preset)


def parse_config(
    script: str,
    datasets: Sequence[str],
    defaults: Mapping[str, Any],
    argv: Sequence[str] | None = None,
    description: str | None = None,
) -> Request:
    """Read a command line; datasets: the script's own, its default first. UserError for what cannot be read."""
    parser = make_parser(script, description, datasets, defaults)
    typed = vars(parser.parse_args(sys.argv[1:] if argv is None else argv))
    preset, file, resume = (typed.pop(name, None) for name in ("preset", "config", "resume"))
    old = {name: typed.pop(name) for name in LEGACY_FLAGS if name in typed}
    pairs = {
        name: dict(value) for name, value in typed.items() if name in FIELDS and takes_pairs(FIELDS[name])
    }
    kind = kind_of(datasets[0])
    alike = [*datasets, *(name for name in DATASETS if name not in datasets and kind_of(name) == kind)]
    one_of("dataset", typed.get("dataset", datasets[0]), alike)
    flags = read_settings(typed | pairs)
    from_preset, from_file = {}, {}
    if preset is not None:
        one_of("preset", preset, known_presets(script, {"dataset": datasets[0], **defaults}))
        from_preset = read_settings(PRESETS[preset].settings, f"preset {preset}")
    if file is not None:
        from_file = read_config_file(file)
        one_of("dataset", from_file.get("dataset", datasets[0]), alike)
    from_preset = in_proportion(from_preset, from_file | flags)
    if DATASETS[{"dataset": datasets[0], **from_file, **flags}["dataset"]].of_data:
        # whether left and right may be swapped in own pictures, no recipe knows
        from_preset = without(("flip",), from_preset)
    lower = laid(from_preset, from_file)
    return Request(
        script=script,
        defaults=script_defaults(defaults, datasets, lower | flags),
        lower=lower,
        flags=flags,
        typed=frozenset(typed),
        old=old,
        preset=preset,
        resume=resume,
    )
