"""See what the styles of a trained StyleGAN or StyleGAN2 do.

    python -m tools.styles RUN --show truncation --out truncation.png
    python -m tools.styles RUN --show mixing --layers 0 4 --out mixing.png
    python -m tools.styles RUN --show mixing --seeds 3,17 --column_seeds 40,100-103 --out chosen.png
    python -m tools.styles RUN --show noise --out noise.png

truncation: a row a latent, a column a psi (--psi). mixing: the first row and the first column are images of their own;
a cell has the row's styles but for the layers from FIRST to before END, which are the column's. noise: a row a latent;
without noise, with the constant one, twice with a fresh one, and where 16 fresh ones differ (white: most).

--seeds takes the first image of each seed, as tools.sample --seeds draws it, a row each.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError, cli
from generation.codes import Codes, codes_of_seeds, images_from, labels_of_seeds, seeded_codes, with_styles
from generation.generator import load_generator
from generation.labels import sample_labels
from generation.pictures import to_grid
from metrics.features import to_uint8
from modelling import STYLED
from modelling.styles import truncated_styles
from tools import tool_parser
from tools.common import (
    add_device_flag,
    add_generator_flags,
    add_label_flags,
    check_sides,
    finite,
    parse_with_attributes,
    picture_path,
    positive,
    save_picture,
    seed_list,
    sheet_size,
    whole,
)
from training.device import choose_device

PSI = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0, -0.5, -1.0)
ROWS = 6
N_NOISES, N_KINDS = 16, 5  # fresh noises, columns of their table

Picture = tuple[Tensor, int]  # uint8 images (n, C, H, W), columns of the grid


def truncation_sweep(G: nn.Module, ws: Tensor, lent: Tensor | None, args: argparse.Namespace) -> Picture:
    """A column a psi."""
    columns = [drawn(G, truncated_styles(ws, G.mapping.w_avg, psi, None)) for psi in args.psi]
    return to_uint8(torch.stack(columns, 1).flatten(0, 1)), len(columns)


def mixing_table(G: nn.Module, ws: Tensor, lent: Tensor | None, args: argparse.Namespace) -> Picture:
    """Rows have the styles ws but for the layers [first, end), which are those that the columns lend."""
    first, end = args.layers or (0, G.n_layers // 3)
    if not 0 <= first < end <= G.n_layers:
        raise UserError(f"--layers {first} {end}: this generator has the layers 0 to {G.n_layers}")
    n = len(lent)
    columns, rows = drawn(G, lent), drawn(G, ws)
    cells = [torch.ones_like(columns[:1]), columns]  # a blank corner, then the columns' own images
    for i in range(len(ws)):
        mixed = ws[i].repeat(n, 1, 1)  # (n, n_layers, w_dim)
        mixed[:, first:end] = lent[:, first:end]
        cells += [rows[i : i + 1], drawn(G, mixed)]
    return to_uint8(torch.cat(cells)), n + 1


def drawn(G: nn.Module, ws: Tensor) -> Tensor:
    """Images of styles, (n, C, H, W) on the CPU."""
    return images_from(G, Codes(None, None, ws))


def noise_table(G: nn.Module, ws: Tensor, lent: Tensor | None, args: argparse.Namespace) -> Picture:
    """Without, constant, random, random, and the deviation over random ones."""
    torch.manual_seed(args.seed or 0)
    kinds = [G.synthesis(ws, noise=kind) for kind in ("none", "constant", "random", "random")]
    deviation = torch.stack([G.synthesis(ws, noise="random") for _ in range(N_NOISES)]).std(0)
    deviation = deviation.mean(1, keepdim=True).expand_as(kinds[0])
    kinds.append(2 * deviation / deviation.max().clamp(min=1e-8) - 1)
    return to_uint8(torch.stack(kinds, 1).flatten(0, 1)), len(kinds)


TABLES: dict[str, Callable[[nn.Module, Tensor, Tensor | None, argparse.Namespace], Picture]] = {
    "truncation": truncation_sweep,
    "mixing": mixing_table,
    "noise": noise_table,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.styles", __doc__)
    add_generator_flags(p)
    p.add_argument("--show", required=True, choices=tuple(TABLES), help="which picture")
    p.add_argument("--out", required=True, help="NAME.png, NAME.jpg or NAME.webp")
    about = f"latents, and columns of the mixing table [{ROWS}, or as many as --seeds]"
    p.add_argument("--rows", type=positive, help=about)
    p.add_argument("--psi", type=finite, nargs="+", default=PSI, help="of the truncation sweep")
    about = "styles that the mixing table's columns lend (default: the coarsest third)"
    p.add_argument("--layers", type=whole, nargs=2, metavar=("FIRST", "END"), help=about)
    add_label_flags(p)
    p.add_argument("--seed", type=whole, help="latents are a function of it [0]")
    p.add_argument("--seeds", type=seed_list, metavar="LIST", help="a row each: 3,17,100-131")
    about = "of the mixing table, a column each [as --seeds]"
    p.add_argument("--column_seeds", type=seed_list, metavar="LIST", help=about)
    add_device_flag(p)
    return p


def check_flags(args: argparse.Namespace) -> None:
    """UserError for flags that do not go together."""
    if args.column_seeds and (args.show != "mixing" or args.seeds is None):
        what = "needs --seeds, of the rows" if args.show == "mixing" else "is of --show mixing"
        raise UserError(f"--column_seeds {what}")
    for flag in ("seed", "rows"):
        if args.seeds is not None and getattr(args, flag) is not None:
            raise UserError(f"--{flag} and --seeds: give one of them")


def styles_asked(
    G: nn.Module, config: dict[str, Any], args: argparse.Namespace
) -> tuple[Tensor, Tensor | None]:
    """Styles of the rows and, for the mixing table, of the columns, (n, n_layers, w_dim)."""
    named = args.classes, args.attributes
    if args.seeds is None:
        rows, seed = args.rows or ROWS, args.seed or 0
        n = 2 * rows if args.show == "mixing" else rows
        parts = seeded_codes(G, n, seed, sample_labels(config, n, seed, *named))
    else:
        rows = len(args.seeds)
        seeds = args.seeds + (args.column_seeds or args.seeds if args.show == "mixing" else [])
        parts = codes_of_seeds(G, seeds, labels_of_seeds(config, seeds, *named))
    w = torch.cat([with_styles(G, part).w for part in parts]).to(next(G.parameters()).device)
    return w[:rows], w[rows:] if args.show == "mixing" else None


def check_table(out: Path, args: argparse.Namespace, size: tuple[int, int]) -> None:
    """UserError for a table that is too large to be opened; size: (height, width) of an image."""
    n = len(args.seeds) if args.seeds else args.rows or ROWS
    rows, columns = n, N_KINDS if args.show == "noise" else len(args.psi)
    if args.show == "mixing":
        rows, columns = n + 1, 1 + len(args.column_seeds or args.seeds or range(n))
    check_sides(out, *sheet_size(rows * columns, columns, size, 1), "take fewer --rows or seeds")


@cli
@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    """Load the generator, draw the picture, write it."""
    args = parse_with_attributes(parser(), argv)
    out = picture_path(args.out)
    check_flags(args)
    G, config = load_generator(args.run, args.weights, choose_device(args.device), args.checkpoint)
    if not config["styles"]:
        raise UserError(f"{args.run}: {config['model']} has no styles; {STYLED} have")
    check_table(out, args, G.img_size)
    rows, lent = styles_asked(G, config, args)
    images, columns = TABLES[args.show](G, rows, lent, args)
    save_picture(to_grid(images.cpu(), columns), out)
    print(f"{config['model']}, step {config['step']}, {config['chosen']} weights: wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
