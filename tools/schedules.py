"""A picture of all that moves along a run, before it is trained: rates, beta2, weights of penalties, averages.

    python -m tools.schedules --out schedules.png --preset r3gan-tiny
    python -m tools.schedules --out schedules.png --schedule lr=2e-4:5e-5:500 --n_steps 9000
    python -m tools.schedules --out schedules.png --config runs/NAME/config.json

All flags but --out are those of a training script for images. Rates are those before the correction for lazy penalties.
"""

import sys
from collections.abc import Iterator, Sequence

from PIL import Image

from errors import Parser, UserError, cli, tell
from games.course import Course, at_first
from generation.charts import Line, curves, picture
from images.sources import DATASETS
from settings.command_line import parse_config
from settings.presets import PRESETS
from settings.scheduled import RATES
from settings.section import one_of
from tools import tool_parser
from tools.common import picture_path, save_picture

POINTS = 500  # steps that are looked at
COLUMNS = 3  # of charts
SIZE = (300, 220)  # px of a chart


def lines_of(course: Course) -> Iterator[tuple[str, dict[str, Line]]]:
    """(what it is, lines by name over thousands of images) of all that moves."""
    config = course.config
    steps = sorted({config.n_steps * i // POINTS for i in range(POINTS)} | {config.n_steps - 1})
    at = [course.schedule.images(step) / 1000 for step in steps]
    rates = {}
    for side in "dg":
        base = course.base_rate(side, at_first(config, "lr", side))
        rates[f"lr/{side}"] = (at, [base * course.rate_factor(side, step) for step in steps])
    if any(len(set(values)) > 1 for _, values in rates.values()) or set(course.curves) & set(RATES):
        same = rates["lr/d"] == rates["lr/g"]
        yield "learning rate", {"": rates["lr/d"]} if same else rates
    for name in course.curves:
        if name not in RATES:
            yield name, {"": (at, [course.value(name, step) for step in steps])}


def drawn(course: Course) -> Image.Image:
    """The charts beside each other; UserError where nothing moves."""
    tiles = [picture(curves(lines, "thousand images", what, SIZE), 1.5) for what, lines in lines_of(course)]
    if not tiles:
        raise UserError("nothing moves in this run: add --schedule, or --lr_decay_from")
    columns = min(COLUMNS, len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * width, len(rows) * height), "white")
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            sheet.paste(tile, (x * width, y * height))
    return sheet


def parser() -> Parser:
    """What is said beside the flags of training."""
    p = tool_parser("tools.schedules", __doc__)
    p.add_argument(
        "--out", default="schedules.png", metavar="FILE.png", help="the picture (default: schedules.png)"
    )
    return p


def script_of(flags: Sequence[str]) -> str:
    """The training script of these flags: that of their preset, where it has one of its own; UserError."""
    p = Parser(add_help=False, allow_abbrev=False)
    p.add_argument("--preset")
    preset = p.parse_known_args(flags)[0].preset
    if preset is not None:
        one_of("preset", preset, PRESETS)
    return (None if preset is None else PRESETS[preset].script) or "gan_folder"


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags, draw, write."""
    args, flags = parser().parse_known_args(argv)
    out = picture_path(args.out)
    config = parse_config(script_of(flags), ["folder", *DATASETS], {}, flags, __doc__).config()
    course = Course(config)
    for note in course.notes():
        tell(note)
    save_picture(drawn(course), out)
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
