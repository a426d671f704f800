"""Draw images from a trained generator.

    python -m tools.sample RUN --n 64 --out grid.png            one picture
    python -m tools.sample RUN --n 1000 --out samples/          single files 000000.png ..., of other channels .npy
    python -m tools.sample RUN --n 16 --class 3 --out threes.png
    python -m tools.sample RUN --attributes Smiling,-Male --out smiling.png
    python -m tools.sample RUN --truncation 0.7 --out grid.png

RUN is a run's folder or its generator/ folder alone. Image i depends on --seed, i and its labels only, so that
`--n 1` gives the first image of `--n 64`, and `--attributes Smiling` and `--attributes -Smiling` give pairs that
differ in that attribute alone: the others are those of a training image.

--truncation gives variety away for quality. Models with styles: psi, how far a style stands from the mean style, 1 for
no change. All others: the threshold of latents; entries beyond it in absolute value are drawn anew, and so are the
latents that batch norm's statistics are measured with (arXiv:1809.11096).
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

import disk
from errors import UserError, blaming_user, cli
from generation.drawing import check_n, draw_samples
from generation.generator import load_generator
from generation.labels import sample_labels
from generation.pictures import shown_in_colour
from generation.sampling import with_truncation
from generation.views import View, view_of
from tools import tool_parser
from tools.common import (
    add_device_flag,
    add_generator_flags,
    add_label_flags,
    add_truncation_flags,
    make_folder,
    parse_with_attributes,
    positive,
    save_image,
    whole,
)
from training.device import choose_device


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.sample", __doc__)
    add_generator_flags(p)
    p.add_argument("--n", type=positive, default=64, help="number of images [64]")
    p.add_argument("--out", required=True, help="NAME.png for one grid, DIR/ for single files")
    add_label_flags(p)
    about = "latents are a function of it and of an image's index [0]"
    p.add_argument("--seed", type=whole, default=0, help=about)
    about = "pixels of the grid a pixel of an image, to look at small ones [up to 4, for a width of 512]"
    p.add_argument("--scale", type=positive, help=about)
    add_truncation_flags(p)
    add_device_flag(p)
    return p


def columns(n: int, config: dict[str, Any], classes: list[str] | None) -> int:
    """Columns of the grid: one a class where they take turns and fit, else a square."""
    turns = config["n_labels"] and not config["multi_hot"] and not classes
    return config["n_labels"] if turns and config["n_labels"] <= min(n, 16) else math.ceil(math.sqrt(n))


def enlarged(sheet: Image.Image, scale: int | None) -> Image.Image:
    """A grid with each pixel as a square of `scale`; None: a whole number up to 4 that makes it at least 512 wide."""
    scale = min(4, math.ceil(512 / sheet.width)) if scale is None else scale
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)


def write(
    drawn: Tensor, view: View, out: Path, as_files: bool, n_columns: int, scale: int | None = None
) -> str:
    """Write what was drawn as one picture or as single files, with channels that no picture holds as arrays (H, W, C);
    return what to tell the user."""
    note = shown_in_colour(drawn.shape[1]) if view.single else ""
    try:
        if as_files:
            make_folder(out)
            for i, x in enumerate(drawn):
                save_image(x, out / f"{i:06d}")
            arrays = f" as .npy, which hold all {drawn.shape[1]} channels" if note else ""
            return f"wrote {len(drawn)} images to {out}/{arrays}"
        make_folder(out.parent)
        sheet = view.sheet(drawn, n_columns)
        if len(drawn) > 1 and view.single:  # not one image alone, nor a scatter plot
            sheet = enlarged(sheet, scale)
        with disk.replacing(out) as file:
            sheet.save(file)
        return f"wrote {view.of.format(n=len(drawn))} to {out}" + (f": {note}" if note else "")
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Load the generator, draw, write."""
    args = parse_with_attributes(parser(), argv)
    out = Path(args.out)
    is_folder = args.out.endswith("/") or out.is_dir() or not out.suffix
    if not is_folder and out.suffix.lower() != ".png":
        raise UserError(f"--out {args.out}: NAME.png writes one grid, DIR/ single files")
    G, config = load_generator(args.run, args.weights, choose_device(args.device), args.checkpoint)
    check_n(config, args.n)
    y = sample_labels(config, args.n, args.seed, args.classes, args.attributes)
    G, how = with_truncation(G, config, args.truncation, args.truncation_layers)
    view = view_of(config["dataset"])
    if is_folder and not view.single:
        raise UserError(f"--out {args.out}: points are drawn as one scatter plot; give NAME.png")
    with blaming_user():
        drawn = draw_samples(G, config, args.n, args.seed, y, **how)
    about = f"{config['model']}, step {config['step']}, {config['chosen']} weights"
    if args.truncation is not None:
        about += f", truncation {args.truncation:g}"
    print(f"{about}, batch norm: {config['batch_norm']}")
    print(write(drawn, view, out, is_folder, columns(args.n, config, args.classes), args.scale))
    return 0


if __name__ == "__main__":
    sys.exit(main())
