"""What several commands share: flags, processes, truncation, warnings."""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import disk
from errors import shown, tell
from generation.generator import find_generator
from generation.pictures import shown_in_colour, to_picture
from generation.protocol import append_score
from ops.launched import world_size
from settings.section import MAX_WHOLE
from training.device import choose_device
from training.processes import join_group, leave_group, peers


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
    parser.add_argument("run", metavar="RUN", nargs=nargs, help="runs/NAME or a generator/ folder")
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


def save_image(x: Tensor, stem: Path) -> None:
    """Write a uint8 image (C, H, W) as stem.png, with channels that no picture holds as stem.npy (H, W, C); OSError."""
    is_array = shown_in_colour(len(x)) != ""
    with disk.replacing(stem.with_name(stem.name + (".npy" if is_array else ".png")), durable=False) as file:
        if is_array:
            np.save(file, np.ascontiguousarray(x.permute(1, 2, 0).numpy()))
        else:
            to_picture(x).save(file)


def scores_file(run: str) -> Path:
    """scores.jsonl of the run; inside the generator/ folder where that stands alone."""
    folder = find_generator(run)
    is_run = folder.name == "generator" and (folder.resolve().parent / "config.json").is_file()
    return (folder.parent if is_run or folder != Path(run) else folder) / "scores.jsonl"


def title_of(run: str) -> str:
    """What a run is called: its folder's name, or that of the hub."""
    if run.startswith("hf:"):
        return run.removeprefix("hf:").partition("@")[0]
    folder = Path(run).resolve()
    return folder.parent.name if folder.name == "generator" else folder.name


def append_line(file: Path, line: dict[str, Any]) -> None:
    """Add one JSON line; a folder that cannot be written to costs only the line."""
    try:
        append_score(file, line)
        print(f"appended to {file}")
    except OSError as error:
        warn(f"{file} cannot be written: {error.strerror}")
