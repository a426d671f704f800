"""Look at a set of images before training on it: what is in it, and the command to start with.

    python -m tools.look_at photos/
    python -m tools.look_at photos.zip --out sheet.png      also a contact sheet, drawn evenly from the classes
    python -m tools.look_at photos.zip --no_timing          without measuring how long training takes here

Names and headers are those of all files. Pictures are decoded, compared and drawn of some, evenly from all over a large
set, and it is said of how many. The time is an estimate from a few real steps, with noise in place of pictures.
"""

import math
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from errors import UserError, cli, printable, shown
from generation.pictures import in_colour, picture_table, to_picture
from images.archives import open_files
from images.decoding import Fit
from images.layout import Layout
from images.pairing import WIDE, by_side
from images.scan import GREY_MODES, range_of_set, range_text, sample_of
from images.sources import FileSource, set_name
from images.survey import Survey, look_closer, read_facts, sample_size, spread_over
from modelling.layers import Size, as_size, image_shape, size_text
from ops.memory import size_in_words
from settings import PRESETS, TrainConfig, settled
from settings.derive import auto_batch_size
from settings.section import is_auto
from tools import tool_parser
from tools.common import add_device_flag, picture_path, save_picture
from training.device import choose_device
from training.outlook import MONTH_S, duration
from training.run import seconds_for

SCRIPT = "gan_folder.py"
LISTED = 5  # of a kind, before "and N more"
# Of the sheet: classes at most, pictures of each, their longer side in px.
SHEET_ROWS, SHEET_COLUMNS, TILE = 12, 8, 96
IMAGE_SIDES = (1024, 512, 256, 128, 64, 32)  # that networks are made for
ENLARGED, MOST = 1.15, 0.75  # a picture bears a size that enlarges it by no more, a set one that so many bear
START = {"cpu": 64}  # px a side to begin with, however large the pictures are
START_ELSEWHERE = 256
LYING = 0.15  # of the median picture that a square leaves away, from which on a rectangle is better
# The smallest maps of StyleGAN2's rectangles.
BASES = [(h, w) for h in range(4, 13) for w in range(4, 13) if 4 <= min(h, w) < 8]
# Up to so many pictures the recipe for little data, else StyleGAN2-ADA's own.
LITTLE, PRESET_OF_LITTLE, PRESET = 5000, "small-data", "stylegan2-auto"
# What a machine bears that those would take too long on.
LIGHT = {"model": "dcgan", "batch_size": 64, "lr": 2e-4, "beta1": 0.5, "beta2": 0.999, "ema": True}
LIGHT |= {"n_steps": 50_000}
LIGHT_SIDE = 64
TOO_LONG_S = 7 * 24 * 3600.0
# On a CPU a step of so many pictures is measured first; a batch takes as much longer as it is larger, nearly so where
# that step takes more seconds than this.
MEASURED, SLOW_S = 4, 3.0


@dataclass(frozen=True)
class Advice:
    """A command to start with, and what it asks for."""

    settings: dict[str, Any]
    preset: str | None = None

    def command(self, data: str) -> str:
        """To be typed."""
        words = [f"python {SCRIPT}", "--data", shlex.quote(data)]
        if self.preset is not None:
            words += ["--preset", self.preset]
        for name, value in self.settings.items():
            text = (
                size_text(value)
                if name == "img_size"
                else f"{value:g}"
                if isinstance(value, float)
                else value
            )
            words.append(f"--{name}" if value is True else f"--{name} {text}")
        return " ".join([*words, "--log_name", shlex.quote(set_name(data))])


def parser() -> Any:
    """The command line."""
    p = tool_parser("tools.look_at", __doc__)
    p.add_argument("data", metavar="DATA", help="folder, .zip, .tar or .tar.gz of images")
    p.add_argument("--out", metavar="NAME.png", help="write a contact sheet, also as .jpg or .webp")
    p.add_argument("--no_timing", action="store_true", help="do not measure how long training takes here")
    add_device_flag(p)
    return p


# -- what is in it -------------------------------------------------------------------------------------------------


def first_few(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(shown(name, 80) for name in names[:LISTED]) + more


def shape_words(shape: tuple[int, int]) -> str:
    """(height, width), for people."""
    height, width = shape
    return f"{height} x {width} px" if height == width else f"{height} high, {width} wide"


def size_lines(found: Survey) -> list[str]:
    """Sizes and which way up."""
    shapes = sorted(found.shapes, key=lambda shape: (math.prod(shape), shape))
    if shapes[0] == shapes[-1]:
        sizes = f"all {shape_words(shapes[0])}"
    else:
        sizes = "; ".join(
            f"{what} {shape_words(shapes[i])}"
            for what, i in (("smallest", 0), ("median", len(shapes) // 2), ("largest", -1))
        )
    ways = Counter("upright" if h > w else "lying" if h < w else "square" for h, w in shapes)
    shares = ", ".join(f"{n / len(shapes):.0%} {way}" for way, n in ways.most_common())
    turned = sum(header.turned for header in found.headers.values())
    return [
        f"sizes: {sizes}",
        f"shapes: {shares}" + (f"; {turned:,} of them turned upright by their EXIF data" if turned else ""),
    ]


def mode_line(found: Survey) -> str:
    """Colours and bits."""
    modes = Counter((header.mode, header.bits) for header in found.headers.values())
    several = ", ".join(f"{mode} of {bits} bits {n:,}" for (mode, bits), n in modes.most_common())
    return f"colours: {several}"


def label_lines(layout: Layout) -> list[str]:
    """Splits, and classes or attributes with their counts in all splits."""
    splits = ", ".join(f"{split} {b - a:,}" for split, (a, b) in layout.splits.items())
    lines = [f"splits: {splits}"]
    if layout.labels is None:
        return [*lines, "classes: none (folders of pictures become classes)"]
    classes = layout.labels.ndim == 1
    counts = (
        np.bincount(layout.labels, minlength=len(layout.label_names))
        if classes
        else layout.labels.sum(axis=0)
    )
    rows = sorted(zip(layout.label_names, counts.tolist(), strict=True), key=lambda row: -row[1])
    told = [f"{shown(name, 40)} {n:,}" for name, n in rows]
    if len(told) > 3 * LISTED:
        told = [*told[: 2 * LISTED], f"... {len(told) - 3 * LISTED} others ...", *told[-LISTED:]]
    most, least = rows[0][1], rows[-1][1]
    uneven = ""
    if classes and most > least:
        uneven = (
            f"; the largest has {most / least:.1f} times the smallest" if least else "; some have no picture"
        )
    what = "classes" if classes else "attributes"
    return [*lines, f"{len(rows):,} {what}: {', '.join(told)}{uneven}"]


def problem_lines(found: Survey) -> list[str]:
    """What cannot be read."""
    decoded = (
        "" if len(found.sampled) == len(found.headers) else f" (of {len(found.sampled):,} that were decoded)"
    )
    if not found.problems:
        return [f"cannot be read: none{decoded}"]
    lines = [f"  {shown(name)}: {shown(reason)}" for name, reason in found.problems[: 2 * LISTED]]
    more = len(found.problems) - len(lines)
    lines += [f"  ... and {more:,} more"] if more else []
    return [f"cannot be read, and left out: {len(found.problems):,} files", *lines]


def double_lines(found: Survey, layout: Layout, names: Sequence[str]) -> list[str]:
    """What is there twice; names: of all pictures, which the layout counts by."""
    hashed = "" if found.n_hashed >= len(found.headers) else f" (of {found.n_hashed:,} files)"
    pairs = [f"{shown(b, 80)} = {shown(group[0], 80)}" for group in found.copies for b in group[1:]]
    line = f"same bytes{hashed}: {len(pairs):,} copies" + (f": {first_few(pairs)}" if pairs else "")
    split_of = {names[layout.order[i]]: split for split, (a, b) in layout.splits.items() for i in range(a, b)}
    if across := sum(len({split_of.get(name) for name in group} - {None}) > 1 for group in found.copies):
        line += f"; {across:,} pictures stand in more than one split: scores against these flatter"
    decoded = (
        "" if len(found.sampled) == len(found.headers) else f" (of {len(found.sampled):,} that were decoded)"
    )
    alike = [f"{shown(b, 80)} ~ {shown(a, 80)}" for a, b in found.alike]
    return [line, f"look alike{decoded}: {len(alike):,}" + (f": {first_few(alike)}" if alike else "")]


def write_sheet(found: Survey, layout: Layout, names: Sequence[str], out: Path) -> str:
    """The contact sheet: a row a class, or rows of all; what to tell."""
    at = {name: i for i, name in enumerate(found.sampled)}
    rows = [
        (title, [at[name] for name in group if name in at][:SHEET_COLUMNS])
        for title, group in sheet_rows(layout, names)
    ]
    blank = Image.new("RGB", tile_of(found)[::-1], (255, 255, 255))
    drawn = [
        (shown(title, 24), [picture_of(found, i) for i in row] + [blank] * (SHEET_COLUMNS - len(row)))
        for title, row in rows
        if row
    ]
    save_picture(picture_table([""] * SHEET_COLUMNS, drawn), out)
    return f"wrote {sum(len(row) for _, row in rows):,} pictures to {out}"


def sheet_rows(layout: Layout, names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(title, names of pictures) of each row; names: of all pictures, which the layout counts by."""
    ordered = [names[i] for i in layout.order]
    if layout.labels is None or layout.labels.ndim > 1:
        chosen = spread_over(ordered, SHEET_ROWS * SHEET_COLUMNS)
        return [("", chosen[i : i + SHEET_COLUMNS]) for i in range(0, len(chosen), SHEET_COLUMNS)]
    of_class: dict[int, list[str]] = {}
    for name, label in zip(ordered, layout.labels.tolist(), strict=True):
        of_class.setdefault(label, []).append(name)
    return [
        (layout.label_names[k], spread_over(of_class[k], SHEET_COLUMNS))
        for k in sorted(of_class)[:SHEET_ROWS]
    ]


def picture_of(found: Survey, i: int) -> Image.Image:
    """Picture i of those that were decoded."""
    return to_picture(in_colour(torch.from_numpy(found.thumbnails[i]).permute(2, 0, 1)[None])[0])


def tile_of(found: Survey) -> tuple[int, int]:
    """(height, width) of a small picture of the median shape."""
    ratio = math.exp(median(math.log(h / w) for h, w in found.shapes))
    h, w = min(1.0, ratio), min(1.0, 1 / ratio)
    return max(16, round(TILE * h)), max(16, round(TILE * w))


# -- what to do ----------------------------------------------------------------------------------------------------


def share_that_bears(shapes: Sequence[tuple[int, int]], size: Size) -> float:
    """The share of pictures that are hardly enlarged when their largest piece of the aspect becomes this size."""
    height, width = image_shape(size)
    return sum(ENLARGED * min(h / height, w / width) >= 1 for h, w in shapes) / len(shapes)


def largest(shapes: Sequence[tuple[int, int]], sizes: Sequence[Size]) -> Size:
    """The first of the sizes, largest first, that most pictures bear; the last where none is."""
    return next((size for size in sizes if share_that_bears(shapes, size) >= MOST), sizes[-1])


def usual_aspect(shapes: Sequence[tuple[int, int]]) -> float | None:
    """Height by width of a rectangle for these pictures; None where squares do."""
    upright, lying = (sum(h > w for h, w in shapes), sum(h < w for h, w in shapes))
    ratio = math.exp(median(math.log(h / w) for h, w in shapes))
    agree = max(upright, lying) >= MOST * len(shapes)
    return ratio if agree and min(ratio, 1 / ratio) <= 1 - LYING else None


def rectangles(aspect: float) -> list[Size]:
    """Sizes of StyleGAN2's of about this aspect, largest first."""
    h, w = min(BASES, key=lambda base: (round(abs(math.log(base[0] / base[1] / aspect)), 2), sum(base)))
    return [as_size((h << k, w << k)) for k in range(8, 1, -1) if max(h, w) << k <= IMAGE_SIDES[0]]


def sizes_for(shapes: Sequence[tuple[int, int]], device: str) -> tuple[Size, Size]:
    """(the largest size that most pictures bear, the one to start with)."""
    aspect = usual_aspect(shapes)
    sizes = list(IMAGE_SIDES) if aspect is None else rectangles(aspect)
    most = START.get(device, START_ELSEWHERE)
    first = [size for size in sizes if math.prod(image_shape(size)) <= 1.6 * most**2]
    return largest(shapes, sizes), largest(shapes, first)


def advise(found: Survey, n_train: int, device: str) -> tuple[Size, list[Advice]]:
    """The largest size that most pictures bear, and commands to start with, the light one last."""
    bears, size = sizes_for(found.shapes, device)
    preset = PRESET_OF_LITTLE if n_train <= LITTLE else PRESET
    side = min(LIGHT_SIDE, largest(found.shapes, IMAGE_SIDES))
    first, light = {"img_size": size}, {**LIGHT, "img_size": side}
    return bears, [
        Advice(first | batch_that_fits({**PRESETS[preset].settings, **first}, n_train), preset),
        Advice(light | batch_that_fits(light, n_train)),
    ]


def batch_that_fits(recipe: Mapping[str, Any], n_train: int) -> dict[str, int]:
    """The batch for a set that a recipe's own is larger than: of fours, which D's groups are of, or, below, of pairs;
    nothing where its own fits."""
    batch = recipe["batch_size"]
    if is_auto(batch):
        batch = auto_batch_size(max(image_shape(recipe["img_size"])), 1)
    return (
        {} if batch <= n_train else {"batch_size": n_train - n_train % 4 or n_train - n_train % 2 or n_train}
    )


def advice_lines(layout: Layout, bears: Size, advice: Advice) -> list[str]:
    """What to think of beside the command."""
    lines, size = [], advice.settings["img_size"]
    if size != bears:
        lines.append(f"  most pictures bear --img_size {size_text(bears)}; the smaller size trains sooner")
    if not isinstance(size, int):
        height, width = size
        lines.append(
            f"  --img_size {size_text(size)}: {height} high, {width} wide, as most pictures; a square cuts them"
        )
    lines.append(
        "  --flip if a mirrored picture could be one of these (faces, shells, views; not texts, digits, maps)"
    )
    if layout.labels is not None:
        what = "class" if layout.labels.ndim == 1 else "attribute"
        lines.append(f"  --conditional to draw by {what}")
    if "train" not in layout.splits:
        lines.append(f"  --split {next(iter(layout.splits))}: there is no part for training")
    return lines


def measured(advice: Advice, channels: int, device: str) -> tuple[float, int]:
    """(seconds of the whole run on this machine, pictures of each of the few steps that say so). UserError.

    A part of a batch alone is measured where that takes long.
    """
    preset = {} if advice.preset is None else PRESETS[advice.preset].settings
    settings = {**preset, **advice.settings, "device": device}
    config = settled(TrainConfig(**settings))

    def seconds_with(batch: int) -> float:
        shape = (max(batch, MEASURED), *image_shape(config.img_size), channels)
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        return seconds_for(TrainConfig(**settings | {"batch_size": batch, "n_steps": config.n_steps}), noise)

    if device == "cpu" and config.batch_size > MEASURED:
        seconds = seconds_with(MEASURED)
        if seconds > SLOW_S * config.n_steps:
            return seconds * config.batch_size / MEASURED, MEASURED
    return seconds_with(config.batch_size), config.batch_size


def pair_lines(found: Survey, names: Sequence[str], data: str) -> list[str]:
    """Of what may be pairs: folders of two sides, or pictures twice as wide as high."""
    sides = {letter for _, letter, _ in by_side(list(names)).values()} == {"A", "B"}
    if not sides and (not found.shapes or median(w / h for h, w in found.shapes) < WIDE):
        return []
    what = "folders A and B" if sides else "pictures about twice as wide as high"
    command = f"python gan_pairs.py --data {shlex.quote(data)} --img_size 128 --log_name pairs"
    return [f"{what} may be pairs, for pix2pix or --model cyclegan (docs/pairs.md):", f"  {command}"]


def say_advice(args: Any, found: Survey, layout: Layout, channels: int) -> None:
    """The command to start with and its time; another one where that is too long."""
    device = choose_device(args.device)
    start, stop = layout.splits.get("train") or next(iter(layout.splits.values()))
    bears, advices = advise(found, stop - start, device)
    colours = sum(not header.mode.startswith((*GREY_MODES, "array")) for header in found.headers.values())
    if channels == 1 and colours:
        print(f"--img_channels 3 keeps the colours of {colours:,} pictures: the first ones are grey")
    print("start with")
    print(f"  {printable(advices[0].command(args.data))}")
    for line in advice_lines(layout, bears, advices[0]):
        print(line)
    if args.no_timing:
        return
    print("how long that takes: a few real steps are trained to say so", flush=True)
    for advice in advices:
        if advice is not advices[0]:
            print(f"or, lighter\n  {printable(advice.command(args.data))}", flush=True)
        try:
            seconds, n = measured(advice, channels, device)
        except (UserError, KeyError) as error:
            print(f"  its time could not be measured: {error}")
            break
        warning = "; far too long for this machine" if seconds > MONTH_S else ""
        how = f"an estimate from a few steps of {n} pictures"
        print(f"  about {duration(seconds)} on this machine ({device}), {how}{warning}")
        if seconds <= TOO_LONG_S or advice is advices[-1]:
            break


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Read, tell, draw, advise."""
    args = parser().parse_args(argv)
    for flag, value in (("DATA", args.data), ("--out", args.out)):
        if value is not None and not value.strip():
            raise UserError(f"{flag} is empty: name {'a .png' if flag == '--out' else 'a folder or archive'}")
    out = None if args.out is None else picture_path(args.out)
    files = open_files(Path(args.data).expanduser())
    channels = sample_of(files).channels
    found = read_facts(files)
    names = list(found.headers)
    source = FileSource(files, set_name(args.data))
    layout = source.layout(names)
    wanted = dict.fromkeys(spread_over(names, sample_size(found)))
    if out is not None:
        wanted |= dict.fromkeys(name for _, row in sheet_rows(layout, names) for name in row)
    deep = any(header.bits > 8 or header.mode.startswith("array") for header in found.headers.values())
    values = range_of_set(files, channels) if deep else None
    fit = Fit(scale=None if values is None else values.scale)
    look_closer(found, files, list(wanted), (*tile_of(found), 3 if channels == 1 else channels), fit)
    if len(found.headers) < len(names):  # some are damaged beyond their headers
        names = list(found.headers)
        layout = source.layout(names)
    print(f"{found.where}: {len(found.headers):,} images, {size_in_words(found.n_bytes)}")
    *notes, _ = layout.notes  # the last one counts, as the lines below do
    for line in (
        *label_lines(layout), *size_lines(found), mode_line(found),
        *([] if values is None else [range_text(values, values.scale)]), *notes, *problem_lines(found),
        *double_lines(found, layout, names),
    ):  # fmt: skip
        print(printable(line))
    if out is not None:
        print(write_sheet(found, layout, names, out))
    for line in pair_lines(found, names, args.data):
        print(printable(line))
    say_advice(args, found, layout, channels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
