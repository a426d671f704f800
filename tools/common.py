"""What several commands share: flags, processes, truncation, warnings."""

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

import disk
from errors import UserError, shown, tell
from generation.generator import find_generator
from generation.hub import PREFIX, is_hub_name
from generation.pictures import GRID_GAP, shown_in_colour, to_picture
from generation.protocol import append_score
from modelling.layers import image_shape
from ops.launched import world_size
from settings.section import MAX_WHOLE
from training.device import choose_device
from training.processes import join_group, leave_group, peers

MAX_SEEDS = 100_000  # of a list


def whole(text: str) -> int:
    """argparse type: a whole number that torch can hold."""
    try:
        value = int(text)
    except ValueError:  # thousands of digits too
        value = None
    if value is None or abs(value) > MAX_WHOLE:
        raise argparse.ArgumentTypeError(f"{shown(text, 50)} must be a whole number below 2^63")
    return value


def positive(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= MAX_WHOLE:
        raise argparse.ArgumentTypeError(f"{shown(text, 50)} must be a whole number of at least 1")
    return value


def seed_list(text: str) -> list[int]:
    """argparse type: whole numbers and ranges with commas between, as 3,17,100-131."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(-?\d{1,19})(?:-(\d{1,19}))?\s*", part)
        first = int(found[1]) if found else 0
        last = int(found[2]) if found and found[2] else first
        if found is None or last < first or max(abs(first), last) > MAX_WHOLE:
            raise argparse.ArgumentTypeError(
                f"{shown(part, 50)!r} must be a seed, or a range such as 100-131"
            )
        if len(seeds) + last - first + 1 > MAX_SEEDS:
            raise argparse.ArgumentTypeError(f"{shown(text, 50)} lists more than {MAX_SEEDS:,} seeds")
        seeds += range(first, last + 1)
    return seeds


def grid_size(text: str) -> tuple[int, int]:
    """argparse type: (columns, rows) of COLUMNSxROWS, as 8x4."""
    found = re.fullmatch(r"(\d{1,5})[xX\u00d7](\d{1,5})", text.strip())
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if min(size) < 1:
        raise argparse.ArgumentTypeError(f"{shown(text, 50)} must be columns x rows, as 8x4")
    return size


def finite(text: str) -> float:
    """argparse type: a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{shown(text, 50)} must be a finite number")
    return value


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """--device."""
    choices = ("auto", "cpu", "cuda", "mps")
    parser.add_argument("--device", default="auto", choices=choices, help="where to compute [auto]")


def add_generator_flags(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """RUN, --weights and --checkpoint; nargs "?" where RUN may be absent."""
    parser.add_argument(
        "run", metavar="RUN", nargs=nargs, help="runs/NAME, a generator/ folder or hf:user/name"
    )
    parser.add_argument(
        "--weights", help="ema, raw or ema-DECAY (default: the averaged ones where the run has any)"
    )
    about = "of a kept checkpoint: its step, or best for that of the best score (default: the newest weights)"
    parser.add_argument("--checkpoint", metavar="STEP|best", help=about)


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """--cache_dir and --device."""
    parser.add_argument(
        "--cache_dir", help="where images and classifiers are kept (default: the user's cache)"
    )
    add_device_flag(parser)


def words(text: str) -> list[str]:
    """argparse type: names with commas between."""
    return [word.strip() for word in text.split(",")]


def join_value(argv: Sequence[str], flag: str) -> list[str]:
    """`flag=WORD` for `flag WORD`, since argparse takes a WORD that starts with a minus for another flag."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == flag and not word.startswith("--"):
            joined[-1] = f"{flag}={word}"
        else:
            joined.append(word)
    return joined


def add_label_flags(parser: argparse.ArgumentParser) -> None:
    """--class and --attributes; the parser is for parse_with_attributes."""
    about = "class by name or number (default: all classes in turn)"
    parser.add_argument("--class", dest="classes", nargs="+", metavar="CLASS", help=about)
    about = "attributes that all have, or with a minus have not, commas between (default: as in the data)"
    parser.add_argument("--attributes", type=words, action="extend", metavar="NAME,-NAME", help=about)


def parse_with_attributes(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """parser.parse_args(argv), where the value of --attributes may start with a minus."""
    return parser.parse_args(join_value(sys.argv[1:] if argv is None else argv, "--attributes"))


def add_truncation_flags(parser: argparse.ArgumentParser) -> None:
    """--truncation and --truncation_layers, for generation.sampling.with_truncation."""
    about = "psi of models with styles, 0 for the mean style alone; threshold of latents for others [none]"
    parser.add_argument("--truncation", type=finite, help=about)
    about = "only the first so many layers are truncated (models with styles; default: all)"
    parser.add_argument("--truncation_layers", type=positive, help=about)


@contextmanager
def together(asked: str) -> Iterator[str]:
    """The device of this process, and a process group with the others where a launcher started several."""
    if world_size() == 1:
        yield choose_device(asked)
        return
    try:
        with peers().turns():
            yield join_group(choose_device(asked))
    finally:
        leave_group()


def warn(text: str) -> None:
    """One line on stderr, from the first process alone; the command goes on."""
    tell(f"warning: {text}")


def make_folder(folder: Path) -> None:
    """A folder to write pictures in, without what killed commands left there; OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    disk.remove_stale(folder)


# How a picture is written, by its suffix: WebP keeps every pixel as PNG does, JPEG the colours of each.
PICTURES: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "lossless": True},
}
MOST_SIDE = {"PNG": 2**15, "JPEG": 2**16 - 1 - 36, "WEBP": 2**14 - 1}  # px; viewers open no larger ones


def picture_path(text: str, otherwise: str = "", flag: str = "out") -> Path:
    """--out of a command that writes one picture, or another flag; UserError for a suffix that is none of PICTURES, or
    for a folder.

    otherwise: what the picture is, and what else the command writes.
    """
    out = Path(text)
    if out.suffix.lower() not in PICTURES or text.endswith("/") or out.is_dir():
        names = "NAME.png, NAME.jpg or NAME.webp"
        advice = f"{names} writes {otherwise}" if otherwise else f"give {names}"
        raise UserError(f"--{flag} {text}: {advice}")
    return out


def check_sides(out: Path, width: int, height: int, advice: str) -> None:
    """UserError for a picture of more px than its format has or than can be opened, before it is drawn."""
    kind = PICTURES[out.suffix.lower()]["format"]
    pixels = Image.MAX_IMAGE_PIXELS or 2**27
    if max(width, height) > MOST_SIDE[kind] or width * height > pixels:
        raise UserError(
            f"--out {out}: the picture would have {width:,} x {height:,} px; {kind} takes up to {MOST_SIDE[kind]:,} a "
            f"side, and {pixels:,} in all can be opened: {advice}"
        )


def sheet_size(n: int, n_columns: int, size: int | tuple[int, int], scale: int | None) -> tuple[int, int]:
    """(width, height) of the enlarged grid of n images; size: of an image, px or (height, width)."""
    height, width = image_shape(size)
    n_columns = min(n, n_columns)
    whole = [
        GRID_GAP + count * (side + GRID_GAP)
        for count, side in ((n_columns, width), (math.ceil(n / n_columns), height))
    ]
    factor = usual_scale(whole[0]) if scale is None else scale
    return factor * whole[0], factor * whole[1]


def enlarged(sheet: Image.Image, scale: int | None) -> Image.Image:
    """A grid with each pixel as a square of `scale`; None: see usual_scale."""
    scale = usual_scale(sheet.width) if scale is None else scale
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)


def usual_scale(width: int) -> int:
    """The whole number up to 4 that makes a grid at least 512 px wide."""
    return min(4, math.ceil(512 / width))


def save_picture(sheet: Image.Image, out: Path, flag: str = "out") -> None:
    """Write a picture as its suffix says, whole or not at all, in a folder that is made; UserError that names the flag
    which says where."""
    how = PICTURES[out.suffix.lower()]
    try:
        make_folder(out.parent)
        with disk.replacing(out) as file:
            for_format(sheet, how["format"]).save(file, **how)
    except OSError as error:
        raise UserError(f"--{flag} {out}: {error.strerror or error}") from None


def for_format(picture: Image.Image, kind: str) -> Image.Image:
    """A picture as a format can hold it: a JPEG has no transparency, and gets white behind it."""
    if kind != "JPEG" or picture.mode in ("L", "RGB"):
        return picture
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def save_image(x: Tensor, stem: Path, suffix: str = ".png") -> None:
    """Write a uint8 image (C, H, W) as stem.png, or of another suffix of PICTURES; with channels that no picture holds
    as stem.npy (H, W, C); OSError."""
    is_array = shown_in_colour(len(x)) != ""
    with disk.replacing(stem.with_name(stem.name + (".npy" if is_array else suffix)), durable=False) as file:
        if is_array:
            np.save(file, np.ascontiguousarray(x.permute(1, 2, 0).numpy()))
        else:
            how = PICTURES[suffix]
            for_format(to_picture(x), how["format"]).save(file, **how)


def scores_file(run: str) -> Path:
    """scores.jsonl of the run; inside the generator/ folder where that stands alone; of hf:user/name in the working
    folder, since the cache is not ours to write to."""
    if is_hub_name(run):
        return Path(f"{title_of(run).replace('/', '-')}-scores.jsonl")
    folder = find_generator(run)
    is_run = folder.name == "generator" and (folder.resolve().parent / "config.json").is_file()
    return (folder.parent if is_run or folder != Path(run) else folder) / "scores.jsonl"


def title_of(run: str) -> str:
    """What a run is called: its folder's name, or that of the hub."""
    if is_hub_name(run):
        return run.removeprefix(PREFIX).partition("@")[0]
    folder = Path(run).resolve()
    return folder.parent.name if folder.name == "generator" else folder.name


def append_line(file: Path, line: dict[str, Any]) -> None:
    """Add one JSON line; a folder that cannot be written to costs only the line."""
    try:
        append_score(file, line)
        print(f"appended to {file}")
    except OSError as error:
        warn(f"{file} cannot be written: {error.strerror}")
