"""Draw images from a trained generator.

    python -m tools.sample RUN --n 64 --out grid.png            one picture: .png, .jpg or .webp
    python -m tools.sample RUN --grid 8x4 --scale 4 --out grid.png
    python -m tools.sample RUN --seeds 3,17,100-131 --out chosen.png
    python -m tools.sample RUN --n 10000 --out samples/         single files 000000.png ..., of other channels .npy
    python -m tools.sample RUN --n 1000 --out samples/ --format jpg
    python -m tools.sample RUN --n 16 --class 3 --out threes.png
    python -m tools.sample RUN --attributes Smiling,-Male --out smiling.png
    python -m tools.sample RUN --truncation 0.7 --out grid.png
    python -m tools.sample RUN --seeds 3,17 --save_latents two.npz --out two.png
    python -m tools.sample RUN --latents two.npz --out two.png

RUN is a run's folder or its generator/ folder alone. Image i depends on --seed, i and its labels only, so that
`--n 1` gives the first image of `--n 64`, and `--attributes Smiling` and `--attributes -Smiling` give pairs that
differ in that attribute alone: the others are those of a training image. --seeds draws that first image of each seed
listed. Single files are written as they are drawn, however many they are.

--save_latents writes the arrays z (n, z_dim), y (labels, where there are any) and w (n, n_layers, w_dim; of models with
styles, before truncation). --latents draws from such a file, from w where it has one, else from z.

--truncation gives variety away for quality. Models with styles: psi, how far a style stands from the mean style, 1 for
no change. All others: the threshold of latents; entries beyond it in absolute value are drawn anew, and so are the
latents that batch norm's statistics are measured with (arXiv:1809.11096); those of --latents stay as they are.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from errors import UserError, blaming_user, cli
from generation.codes import (
    FILE_LIMIT,
    Codes,
    codes_of_seeds,
    labels_of_seeds,
    read_codes,
    seeded_codes,
    with_styles,
    write_codes,
)
from generation.drawing import check_n, draw_chunks
from generation.generator import load_generator
from generation.labels import sample_labels
from generation.pictures import shown_in_colour, square_columns
from generation.sampling import undisturbed, with_truncation
from generation.views import View, view_of
from tools import tool_parser
from tools.common import (
    PICTURES,
    add_device_flag,
    add_generator_flags,
    add_label_flags,
    add_truncation_flags,
    check_sides,
    enlarged,
    grid_size,
    make_folder,
    parse_with_attributes,
    picture_path,
    positive,
    save_image,
    save_picture,
    seed_list,
    sheet_size,
    whole,
)
from training.device import choose_device

N = 64  # images, where nothing says how many
MAX_FILES = 1_000_000  # whose numbers have six digits
LATENTS = ".npz"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.sample", __doc__)
    add_generator_flags(p)
    p.add_argument("--n", type=positive, help=f"number of images [{N}, or as the flags below say]")
    about = "NAME.png, NAME.jpg or NAME.webp for one grid, DIR/ for single files"
    p.add_argument("--out", required=True, help=about)
    about = "of single files [png]"
    p.add_argument("--format", choices=[suffix[1:] for suffix in PICTURES], help=about)
    add_label_flags(p)
    about = "latents are a function of it and of an image's index [0]"
    p.add_argument("--seed", type=whole, help=about)
    about = "one image a seed, as --seed gives first: 3,17,100-131"
    p.add_argument("--seeds", type=seed_list, metavar="LIST", help=about)
    about = "draw from the latents, or styles, of a file that --save_latents wrote"
    p.add_argument("--latents", type=Path, metavar=f"FILE{LATENTS}", help=about)
    about = "write the latents, labels and styles of what is drawn"
    p.add_argument("--save_latents", type=Path, metavar=f"FILE{LATENTS}", help=about)
    about = "of the one picture (default: a column a class, else a square)"
    p.add_argument("--grid", type=grid_size, metavar="COLUMNSxROWS", help=about)
    about = "pixels of the grid a pixel of an image, to look at small ones [up to 4, for a width of 512]"
    p.add_argument("--scale", type=positive, help=about)
    add_truncation_flags(p)
    add_device_flag(p)
    return p


# -- what is asked -------------------------------------------------------------------------------------------------


def check_flags(args: argparse.Namespace, as_files: bool) -> None:
    """UserError for flags that do not go together."""
    if as_files and args.grid:
        raise UserError(
            f"--grid is of one picture, and --out {args.out} is a folder: give NAME.png, or leave it out"
        )
    if not as_files and args.format:
        raise UserError(
            f"--format is of single files, and --out {args.out} is one picture: its suffix says how"
        )
    sources = [flag for flag in ("--seed", "--seeds", "--latents") if getattr(args, flag[2:]) is not None]
    if len(sources) > 1:
        raise UserError(f"{' and '.join(sources)}: give one of them")
    for flag, path in (("--latents", args.latents), ("--save_latents", args.save_latents)):
        if path is not None and path.suffix.lower() != LATENTS:
            raise UserError(f"{flag} {path}: give FILE{LATENTS}")


def number_of(args: argparse.Namespace, codes: Codes | None) -> int:
    """How many images are asked for; UserError where two flags say it and differ. codes: of --latents."""
    said = {
        "--n": args.n,
        "--grid": args.grid and args.grid[0] * args.grid[1],
        "--seeds": args.seeds and len(args.seeds),
        "--latents": codes and len(codes),
    }
    said = {flag: n for flag, n in said.items() if n is not None}
    if len(set(said.values())) > 1:
        words = " and ".join(f"{flag} ({n:,} image{'s' if n > 1 else ''})" for flag, n in said.items())
        raise UserError(f"{words} do not fit: leave one out, or make them equal")
    return next(iter(said.values()), N)


def columns(n: int, config: dict[str, Any], args: argparse.Namespace) -> int:
    """Columns of the grid: as asked, one a class where they take turns and fit, else a square."""
    if args.grid:
        return args.grid[0]
    turns = config["n_labels"] and not config["multi_hot"]
    turns = turns and not (args.classes or args.seeds or args.latents)
    return square_columns(n, config["n_labels"] if turns else 0)


def codes_asked(
    args: argparse.Namespace,
    G: nn.Module,
    config: dict[str, Any],
    n: int,
    given: Codes | None,
    threshold: float | None,
) -> Iterator[Codes]:
    """What is drawn from, up to 64 at a time; given: of --latents. UserError for labels that G does not know."""
    named = args.classes, args.attributes
    if given is None and args.seeds is not None:
        return codes_of_seeds(G, args.seeds, labels_of_seeds(config, args.seeds, *named), threshold)
    if given is None:
        seed = args.seed or 0
        return seeded_codes(G, n, seed, sample_labels(config, n, seed, *named), threshold)
    if given.w is not None and any(named):
        raise UserError(
            f"--latents {args.latents} holds styles, which a label no longer changes: leave it out"
        )
    if any(named) or given.y is None:
        given = replace(given, y=sample_labels(config, n, 0, *named))
    return given.chunks()


def check_size(n: int, G: nn.Module, config: dict[str, Any]) -> None:
    """UserError where the codes of n images, kept in memory until then, are more than a file of them may hold."""
    one = 4 * (G.z_dim + config["n_labels"])  # bytes
    if config["styles"]:
        one += 4 * G.n_layers * G.w_dim
    if n * one > FILE_LIMIT:
        raise UserError(
            f"--save_latents: --n {n} are more than a file may hold: at most {FILE_LIMIT // one:,}"
        )


def recorded(
    codes: Iterable[Codes], G: nn.Module, config: dict[str, Any], parts: list[Codes]
) -> Iterator[Codes]:
    """The codes as they come, kept in `parts`, with styles where G has any."""
    for part in codes:
        parts.append(with_styles(G, part) if config["styles"] else part)
        yield parts[-1]


# -- what is written -----------------------------------------------------------------------------------------------


def write_files(chunks: Iterable[Tensor], n: int, out: Path, kind: str) -> str:
    """Write images as they come; what to tell the user. UserError from the disk."""
    i, note = 0, ""
    try:
        make_folder(out)
        with tqdm(total=n, desc="drawing", unit="img", leave=False, disable=None) as bar:
            for chunk in chunks:
                for x in chunk:
                    save_image(x, out / f"{i:06d}", f".{kind}")
                    i += 1
                bar.update(len(chunk))
                if shown_in_colour(chunk.shape[1]):
                    note = f" as .npy, which hold all {chunk.shape[1]} channels"
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None
    return f"wrote {n} images to {out}/{note}"


def write_sheet(drawn: Tensor, view: View, out: Path, n_columns: int, scale: int | None) -> str:
    """Write what was drawn as one picture; what to tell the user. UserError from the disk."""
    note = shown_in_colour(drawn.shape[1]) if view.single else ""
    sheet = view.sheet(drawn, n_columns)
    if len(drawn) > 1 and view.single:  # not one image alone, nor a scatter plot
        sheet = enlarged(sheet, scale)
    save_picture(sheet, out)
    return f"wrote {view.of.format(n=len(drawn))} to {out}" + (f": {note}" if note else "")


def write_parts(file: Path, parts: Sequence[Codes]) -> str:
    """Write --save_latents; what to tell the user. UserError from the disk."""
    try:
        make_folder(file.parent)
        n = write_codes(file, parts)
    except OSError as error:
        raise UserError(f"--save_latents {file}: {error.strerror or error}") from None
    return f"wrote what {n} images are drawn from to {file}"


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Load the generator, draw, write."""
    args = parse_with_attributes(parser(), argv)
    out = Path(args.out)
    as_files = args.out.endswith("/") or out.is_dir() or not out.suffix
    if not as_files:
        picture_path(args.out, "one grid, DIR/ writes single files")
    check_flags(args, as_files)
    G, config = load_generator(args.run, args.weights, choose_device(args.device), args.checkpoint)
    given = None if args.latents is None else read_codes(args.latents, G, config)
    n, view = number_of(args, given), view_of(config["dataset"])
    n_columns = columns(n, config, args)
    if as_files and not view.single:
        raise UserError(f"--out {args.out}: points are drawn as one scatter plot; give NAME.png")
    if as_files and n > MAX_FILES:
        raise UserError(f"--n {n}: at most {MAX_FILES:,} files at a time; another --seed gives others")
    if not as_files:
        check_n(config, n)
        if view.single:
            advice = "draw fewer, take a smaller --scale, or give DIR/ for single files"
            check_sides(out, *sheet_size(n, n_columns, G.img_size, args.scale), advice)
    if args.save_latents is not None:
        check_size(n, G, config)
    G, how = with_truncation(G, config, args.truncation, args.truncation_layers)
    codes, parts = codes_asked(args, G, config, n, given, how.pop("threshold", None)), []
    about = f"{config['model']}, step {config['step']}, {config['chosen']} weights"
    if args.truncation is not None:
        about += f", truncation {args.truncation:g}"
    print(f"{about}, batch norm: {config['batch_norm']}")
    with blaming_user(), undisturbed(G, next(G.parameters()).device):
        if args.save_latents is not None:
            codes = recorded(codes, G, config, parts)
        chunks = draw_chunks(G, config, codes, args.seed or 0, **how)
        if as_files:
            print(write_files(chunks, n, out, args.format or "png"))
        else:
            print(write_sheet(torch.cat(list(chunks)), view, out, n_columns, args.scale))
    if args.save_latents is not None:
        print(write_parts(args.save_latents, parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
