"""What --help, --help_all and --list_presets print."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields
from typing import Any

from losses import PENALTIES
from modelling import MODELS, find_model
from settings.files import shown
from settings.presets import PRESETS, Preset
from settings.section import of, scalar_type, takes_many, takes_pairs
from settings.sections import FIELDS, SECTIONS
from settings.sections.data import kind_of
from settings.sections.loss import weight_name
from settings.sections.pairs import PairSettings
from settings.train_config import TrainConfig

WIDTH = 110
COLUMN = 28  # where the texts begin
USUAL_WEIGHTS = ("r1",)  # penalties whose weight --help shows
OF_LATENTS = {"z_dim", "conditional", "dataset", "data_root", "penalty"}  # of less use, or none, for pairs
PRESET = "settings of a paper or of a source; flags win over it"
# Beside the settings: flag, what it takes, text; of the section of the run.
OTHERS = (
    ("preset", "NAME", f"{PRESET} (--list_presets)"),
    (
        "config",
        "FILE",
        "YAML or JSON of settings, e.g. a run's config.json; flags win over it, it over --preset",
    ),
    (
        "resume",
        "[auto|PATH]",
        "go on from the latest checkpoint of --log_name, or from PATH; auto: start the run where there is none",
    ),
)


def known_presets(script: str, defaults: Mapping[str, Any]) -> list[str]:
    """Names of the presets a script takes; defaults: its own. Those of no script are recipes for images of latents."""
    model = find_model(defaults.get("model", TrainConfig.model))
    of_all = kind_of(defaults["dataset"]) == "images" and model.latents
    return [name for name, row in PRESETS.items() if row.script == script or (row.script is None and of_all)]


def short_help(script: str, description: str | None, defaults: Mapping[str, Any]) -> str:
    """The script's examples, and the flags used most with the script's own defaults."""
    lines = [*(description or "").strip().splitlines(), ""]
    lines += [f"The flags used most, with {script}.py's defaults in []; --no-flip is the opposite of --flip:"]
    of_latents = find_model(TrainConfig(**defaults).model).latents
    others = {f.name for f in fields(PairSettings)} if of_latents else OF_LATENTS
    weights = USUAL_WEIGHTS if of_latents else ()
    for title, entries in _sections(defaults, lambda f: of(f).usual and f.name not in others, weights):
        lines += [f"{title}:", *entries]
    n_flags = sum(of(f).shown for f in FIELDS.values()) + len(PENALTIES) + len(OTHERS)
    lines += [
        "",
        f"--help_all shows all {n_flags} flags, --list_presets the recipes of papers for {script}.py.",
    ]
    return "\n".join(lines)


def all_flags(script: str, defaults: Mapping[str, Any]) -> str:
    """Every flag, by section."""
    lines = [f"All flags of {script}.py, with its defaults in []; on/off flags have a --no- form."]
    for title, entries in _sections(defaults, lambda f: of(f).shown, tuple(PENALTIES)):
        lines += ["", f"{title}:", *entries]
    return "\n".join(lines)


def _sections(
    defaults: Mapping[str, Any], wanted: Any, weights: tuple[str, ...]
) -> Iterator[tuple[str, list[str]]]:
    """(title, lines) of each section that has a wanted field, or a weight of these penalties."""
    config = TrainConfig(**defaults)
    for section in SECTIONS:
        lines = []
        for f in fields(section):
            if wanted(f):
                lines += _flag_lines(f, getattr(config, f.name))
            if f.name == "penalty":
                lines += [line for penalty in weights for line in _weight_lines(penalty)]
        if section is SECTIONS[0]:
            lines += [line for name, takes, text in OTHERS for line in _entry(f"--{name} {takes}", text)]
        if lines:
            yield section.title, lines


def _entry(head: str, text: str) -> list[str]:
    """A flag and its text, which begins in a column of its own and goes on below."""
    gap = " " * COLUMN
    if len(head) > COLUMN - 3:
        return [f"  {head}", *textwrap.wrap(text, WIDTH, initial_indent=gap, subsequent_indent=gap)]
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"  {head}".ljust(COLUMN), subsequent_indent=gap, break_on_hyphens=False
    )


def _flag_lines(f: Field, default: Any) -> list[str]:
    """A setting with what it takes, its choices and its default."""
    about, kind = of(f), scalar_type(f)
    takes = {bool: "", int: " N", float: " X", str: " NAME"}.get(kind, " ...")
    if takes_pairs(f):
        takes = " KEY=VALUE ..."
    elif f.name == "img_size":
        takes = " SIZE"
    elif takes_many(f):
        takes += " ..."
    text = about.help
    if about.choices is not None:
        choices = about.choices()
        if f.name == "dataset":
            choices = [name for name in choices if kind_of(name) == kind_of(default)]
        if f.name == "model":
            choices = [name for name in choices if MODELS[name].latents == find_model(default).latents]
        text += f": {', '.join(choices)}"
    if not (default is None or default is False or default == () or takes_pairs(f)):
        text += f" [{'on' if default is True else shown(f.name, default)}]"
    return _entry(f"--{f.name}{takes}", text)


def _weight_lines(penalty: str) -> list[str]:
    row = PENALTIES[penalty]
    names = ", ".join(f"--{name}" for name in (weight_name(penalty), row.also) if name)
    text = f"enables {penalty} with this weight{', or auto' if row.auto else ''}; {row.weight:g} by --penalty alone"
    text += f"; {row.help}" if row.help else ""
    return _entry(f"{names} X", text)


def preset_list(script: str, defaults: Mapping[str, Any]) -> str:
    """The presets a script takes: source, published score, length, and every setting."""
    lines = [f"Presets of {script}.py (--preset NAME): source; published score; length; settings."]
    for name in known_presets(script, defaults):
        row = PRESETS[name]
        about = [row.source, row.score or "no score published for it", _length(row, defaults)]
        lines += ["", name, *_indented("; ".join(about)), *_indented(_settings(row))]
    others = [name for name in PRESETS if name not in known_presets(script, defaults)]
    lines += ["", *textwrap.wrap(f"Of other scripts: {', '.join(others)}", WIDTH, break_on_hyphens=False)]
    return "\n".join(lines)


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)


def _length(row: Preset, defaults: Mapping[str, Any]) -> str:
    """n_steps times batch in images."""
    settings = {
        "n_steps": TrainConfig.n_steps,
        "batch_size": TrainConfig.batch_size,
        **defaults,
        **row.settings,
    }
    n_steps, batch_size = settings["n_steps"], settings["batch_size"]
    if "auto" in (n_steps, batch_size):
        return f"n_steps {n_steps}, batch_size {batch_size}"
    if settings.get("batch_by_size"):
        return f"{n_steps:,} steps, of {batch_size} at full size"
    return f"{n_steps:,} steps of {batch_size}: {n_steps * batch_size / 1e6:,.3g} million images"


def _settings(row: Preset) -> str:
    words = []
    for name, value in row.settings.items():
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{name}")
        elif value is not None:
            text = shown(name, value)
            words.append(f"--{name} {text.replace(',', ' ') if isinstance(value, Mapping) else text}")
    return "  ".join(words).replace("  --", "\n--").replace(" ", "\xa0").replace("\n", "  ")
