"""Draw images from a trained generator.

    python -m tools.sample RUN --n 64 --out grid.png            one picture
    python -m tools.sample RUN --n 1000 --out samples/          single files 000000.png ...
    python -m tools.sample RUN --n 16 --class 3 --out threes.png
    python -m tools.sample RUN --class Smiling Eyeglasses --out faces.png
    python -m tools.sample RUN --truncation 0.7 --out grid.png        models with styles: nearer to the mean style

RUN is a run's folder or its generator/ folder alone. Image i depends on --seed, i and its class only, so that
`--n 1` gives the first image of `--n 64`.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelling import MODELS, STYLED
from tools.common import add_device_flag, add_generator_flags, finite, make_parser, positive
from training.device import choose_device
from training.errors import UserError, blaming_user, cli
from training.generator import load_generator
from training.sampling import sample, sample_labels, to_grid, to_picture


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = make_parser("tools.sample", __doc__)
    add_generator_flags(p)
    p.add_argument("--n", type=positive, default=64, help="number of images [64]")
    p.add_argument("--out", required=True, help="NAME.png for one grid, DIR/ for single files")
    about = "class, or attributes that show together, by name or number (default: all classes, as they come)"
    p.add_argument("--class", dest="classes", nargs="+", metavar="CLASS", help=about)
    about = "latents are a function of it and of an image's index [0]"
    p.add_argument("--seed", type=int, default=0, help=about)
    about = "psi of the truncation trick, 0 for the mean style alone (models with styles) [1]"
    p.add_argument("--truncation", type=finite, default=1.0, help=about)
    about = "only the first so many layers are truncated (default: all)"
    p.add_argument("--truncation_layers", type=positive, help=about)
    add_device_flag(p)
    return p


def truncation(args: argparse.Namespace, model: str) -> dict[str, Any]:
    """What the flags add to G's arguments; UserError for a model without styles."""
    if args.truncation == 1:
        if args.truncation_layers is not None:
            raise UserError("--truncation_layers needs --truncation")
        return {}
    if not MODELS[model].styles:
        raise UserError(f"--truncation: {model} has no styles; {STYLED} have")
    return {"truncation": args.truncation, "truncation_layers": args.truncation_layers}


def columns(n: int, config: dict, classes: list[str] | None) -> int:
    """Columns of the grid: one a class where they take turns and fit, else a square."""
    turns = config["n_labels"] and not classes
    return config["n_labels"] if turns and config["n_labels"] <= min(n, 16) else math.ceil(math.sqrt(n))


def write(images: Tensor, out: Path, as_grid: bool, n_columns: int) -> str:
    """Write uint8 images (n, C, H, W) as one grid or as single files; return what to tell the user."""
    try:
        if not as_grid:
            out.mkdir(parents=True, exist_ok=True)
            for i, x in enumerate(images):
                to_picture(x).save(out / f"{i:06d}.png")
            return f"wrote {len(images)} images to {out}/"
        out.parent.mkdir(parents=True, exist_ok=True)
        to_grid(images, n_columns).save(out)
        return f"wrote a grid of {len(images)} images to {out}"
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Load the generator, draw, write."""
    args = parser().parse_args(argv)
    out = Path(args.out)
    is_folder = args.out.endswith("/") or out.is_dir() or not out.suffix
    if not is_folder and out.suffix.lower() != ".png":
        raise UserError(f"--out {args.out}: NAME.png writes one grid, DIR/ single files")
    G, config = load_generator(args.run, args.weights, choose_device(args.device))
    y = sample_labels(config, args.n, args.seed, args.classes)
    how = truncation(args, config["model"])
    with blaming_user():
        images = torch.cat(list(sample(G, args.n, args.seed, y, **how)))
    about = f"{config['model']}, step {config['step']}, {config['chosen']} weights"
    print(f"{about}, batch norm: {config['batch_norm']}")
    print(write(images, out, not is_folder, columns(args.n, config, args.classes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
