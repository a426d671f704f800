"""docs/flags.md, made from the settings: `python -m settings.reference > docs/flags.md`; a test holds it to them."""

from collections.abc import Iterator
from dataclasses import Field, fields
from typing import Any

from losses import PENALTIES
from settings.files import shown
from settings.help import OTHERS
from settings.section import default_of, of, scalar_type, takes_many, takes_pairs
from settings.sections import SECTIONS
from settings.sections.loss import weight_name

HEAD = """# Flags

Every flag of the training scripts, by the section of settings that owns it. This page is made by
`python -m settings.reference > docs/flags.md`; a test holds it to the code. `python gan_mnist.py --help` shows those
most used, `--help_all` all of them with that script's own defaults, `--list_presets` the recipes of papers.

- *Default* is the setting's own. A script has some of its own (its data set and size), and so has a preset: flags win
  over `--config FILE`, that over `--preset`, that over the script. The settled values are printed and saved
  in `config.json`.
- A flag that is on or off has a `--no-` form: `--no-flip`.
- *At resume*: *kept* means that another value is refused where a run goes on, *said* that it is taken with a notice,
  *free* that it is taken.
- The same names are fields of `TrainConfig` in Python: `TrainConfig(lr=1e-4, ema=True)`."""
AT_RESUME = {"refused": "kept", "noticed": "said", "free": "free"}
KINDS = {bool: "on/off", int: "whole number", float: "number", str: "name"}


def cell(text: str) -> str:
    """A text as it may stand in a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def value_of(f: Field) -> str:
    """What a setting takes: its choices, or the kind and the bounds of a number."""
    about = of(f)
    if about.choices is not None:
        kind = ", ".join(f"`{choice}`" for choice in about.choices())
    elif takes_pairs(f):
        return "KEY=VALUE ..."
    else:
        kind = "path" if about.path else KINDS[scalar_type(f)]
    if f.name == "img_size":
        kind = "px, or HEIGHTxWIDTH"
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (("from", about.least), ("above", about.above), ("to", about.most), ("below", about.below))
        if bound is not None
    ]  # fmt: skip
    kind += f" {' '.join(bounds)}" if bounds else ""
    return kind + (", or `auto`" if about.auto else "") + (" ..." if takes_many(f) else "")


def default_shown(f: Field) -> str:
    """A setting's own default; "" where there is none, or where it is derived, as its help says."""
    value: Any = default_of(f)
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value in (None, (), "") or takes_pairs(f) else f"`{shown(f.name, value)}`"


def rows(section: type) -> Iterator[tuple[str, str, str, str, str]]:
    """(flag, what it takes, default, at resume, what it does) of a section."""
    for f in fields(section):
        if not of(f).shown:
            continue
        yield f"`--{f.name}`", value_of(f), default_shown(f), AT_RESUME[of(f).at_resume], of(f).help
        if f.name == "penalty":
            for name, row in PENALTIES.items():
                flags = ", ".join(f"`--{flag}`" for flag in (weight_name(name), row.also) if flag)
                takes = "number" + (", or `auto`" if row.auto else "")
                about = f"the weight of `{name}`, which it enables; {row.weight:g} by `--penalty` alone"
                yield flags, takes, "", "kept", about + (f"; {row.help}" if row.help else "")
    if section is SECTIONS[0]:
        for name, takes, text in OTHERS:
            yield f"`--{name}`", takes, "", "", text


def page() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD]
    for section in SECTIONS:
        table = ["| flag | takes | default | at resume | what it does |", "|---|---|---|---|---|"]
        table += [f"| {' | '.join(cell(text) for text in row)} |" for row in rows(section)]
        parts.append(f"## {section.title.capitalize()}\n\n" + "\n".join(table))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
