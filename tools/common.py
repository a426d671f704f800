"""What several commands share: flags, the cache folder, images as tensors, the version of the code."""

import argparse
import hashlib
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metrics.features import weights_file
from training.cache import cache_dirs, is_writable
from training.data import ImageData
from training.errors import Parser, UserError

ROOT = Path(__file__).resolve().parent.parent


def positive(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number of at least 1")
    return value


def finite(text: str) -> float:
    """argparse type: a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} must be a finite number")
    return value


def make_parser(module: str, doc: str | None) -> Parser:
    """A parser that refuses abbreviations and prints the module's own text as its help."""
    return Parser(
        prog=f"python -m {module}",
        description=doc,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """--device."""
    choices = ("auto", "cpu", "cuda", "mps")
    parser.add_argument("--device", default="auto", choices=choices, help="where to compute [auto]")


def add_generator_flags(parser: argparse.ArgumentParser) -> None:
    """RUN and --weights."""
    parser.add_argument("run", metavar="RUN", help="runs/NAME or a generator/ folder")
    parser.add_argument(
        "--weights", help="ema, raw or ema-DECAY (default: the averaged ones where the run has any)"
    )


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


def cache_folder(cache_dir: str | None) -> Path:
    """The cache folder that can be written to, as for decoded images; UserError where there is none."""
    folders = cache_dirs(cache_dir)
    for folder in folders:
        if is_writable(folder):
            return folder
    first, second = folders
    raise UserError(f"neither {first} nor {second} can be written to: give --cache_dir a folder of yours")


def find_weights(name: str, cache_dir: str | None) -> Path:
    """The extractor's weights in whichever cache folder holds them; else where they should stand."""
    files = [weights_file(folder, name) for folder in cache_dirs(cache_dir)]
    return next((file for file in files if file.is_file()), files[0])


def images_of(data: ImageData, index: Tensor | slice = slice(None)) -> Tensor:
    """uint8 images (n, C, H, W) in memory, all or those of an index."""
    images = data.images[index.numpy() if isinstance(index, Tensor) else index]
    # (n, H, W, C) -> (n, C, H, W)
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous()


def warn(text: str) -> None:
    """One line on stderr; the command goes on."""
    print(f"warning: {text}", file=sys.stderr)


def code_version() -> str:
    """`git describe` of this checkout; outside git a hash over its Python files."""
    if (ROOT / ".git").exists():
        try:
            command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--tags"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass  # no git here, or no commit yet: the hash says the same
    digest = hashlib.sha256()
    for file in sorted(ROOT.rglob("*.py")):
        if not any(part.startswith(".") for part in file.relative_to(ROOT).parts):
            digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()[:16]}"
