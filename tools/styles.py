"""See what the styles of a trained StyleGAN or StyleGAN2 do.

    python -m tools.styles RUN --show truncation --out truncation.png
    python -m tools.styles RUN --show mixing --layers 0 4 --out mixing.png
    python -m tools.styles RUN --show noise --out noise.png

truncation: a row a latent, a column a psi (--psi). mixing: the first row and the first column are images of their own;
a cell has the row's styles but for the layers from FIRST to before END, which are the column's. noise: a row a latent;
without noise, with the constant one, twice with a fresh one, and where 16 fresh ones differ (white: most).
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from errors import UserError, cli
from generation.generator import load_generator
from generation.labels import sample_labels
from generation.latents import latents
from generation.pictures import to_grid
from metrics.features import to_uint8
from modelling import STYLED
from modelling.styles import truncated_styles
from tools import tool_parser
from tools.common import (
    add_device_flag,
    add_generator_flags,
    add_label_flags,
    finite,
    parse_with_attributes,
    picture_path,
    positive,
    save_picture,
    whole,
)
from training.device import choose_device

PSI = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0, -0.5, -1.0)
N_NOISES = 16

Picture = tuple[Tensor, int]  # uint8 images (n, C, H, W), columns of the grid


def truncation_sweep(G: nn.Module, ws: Tensor, args: argparse.Namespace) -> Picture:
    """A column a psi."""
    columns = [G.synthesis(truncated_styles(ws, G.mapping.w_avg, psi, None)) for psi in args.psi]
    return to_uint8(torch.stack(columns, 1).flatten(0, 1)), len(columns)


def mixing_table(G: nn.Module, ws: Tensor, args: argparse.Namespace) -> Picture:
    """Rows lend all layers but [first, end), columns those."""
    first, end = args.layers or (0, G.n_layers // 3)
    if not 0 <= first < end <= G.n_layers:
        raise UserError(f"--layers {first} {end}: this generator has the layers 0 to {G.n_layers}")
    n = len(ws) // 2
    rows, columns = ws[:n], ws[n : 2 * n]
    own = G.synthesis(torch.cat([columns, rows]))
    cells = [torch.ones_like(own[:1]), own[:n]]  # a blank corner, then the columns' own images
    for i in range(n):
        mixed = rows[i].repeat(n, 1, 1)  # (n, n_layers, w_dim)
        mixed[:, first:end] = columns[:, first:end]
        cells += [own[n + i : n + i + 1], G.synthesis(mixed)]
    return to_uint8(torch.cat(cells)), n + 1


def noise_table(G: nn.Module, ws: Tensor, args: argparse.Namespace) -> Picture:
    """Without, constant, random, random, and the deviation over random ones."""
    torch.manual_seed(args.seed)
    kinds = [G.synthesis(ws, noise=kind) for kind in ("none", "constant", "random", "random")]
    deviation = torch.stack([G.synthesis(ws, noise="random") for _ in range(N_NOISES)]).std(0)
    deviation = deviation.mean(1, keepdim=True).expand_as(kinds[0])
    kinds.append(2 * deviation / deviation.max().clamp(min=1e-8) - 1)
    return to_uint8(torch.stack(kinds, 1).flatten(0, 1)), len(kinds)


TABLES: dict[str, Callable[[nn.Module, Tensor, argparse.Namespace], Picture]] = {
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
    p.add_argument("--rows", type=positive, default=6, help="latents, and columns of the mixing table [6]")
    p.add_argument("--psi", type=finite, nargs="+", default=PSI, help="of the truncation sweep")
    about = "styles that the mixing table's columns lend (default: the coarsest third)"
    p.add_argument("--layers", type=whole, nargs=2, metavar=("FIRST", "END"), help=about)
    add_label_flags(p)
    p.add_argument("--seed", type=whole, default=0, help="latents are a function of it [0]")
    add_device_flag(p)
    return p


@cli
@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    """Load the generator, draw the picture, write it."""
    args = parse_with_attributes(parser(), argv)
    out = picture_path(args.out)
    G, config = load_generator(args.run, args.weights, choose_device(args.device), args.checkpoint)
    if not config["styles"]:
        raise UserError(f"{args.run}: {config['model']} has no styles; {STYLED} have")
    n = 2 * args.rows if args.show == "mixing" else args.rows
    param = next(G.parameters())
    y = sample_labels(config, n, args.seed, args.classes, args.attributes)
    z = latents(args.seed, 0, n, G.z_dim).to(param)
    ws = G.styles(z, None if y is None else y.to(param.device))
    images, columns = TABLES[args.show](G, ws, args)
    save_picture(to_grid(images.cpu(), columns), out)
    print(f"{config['model']}, step {config['step']}, {config['chosen']} weights: wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
