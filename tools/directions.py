"""See the directions in which the images of a trained generator change most, or in which a label comes and goes.

    python -m tools.directions RUN --out strips.png                              the first five, a block each
    python -m tools.directions RUN --n_directions 10 --rows 1 --strength 2 --out strips.png
    python -m tools.directions RUN --layers 0 4 --out coarse.png                 of the coarse styles alone
    python -m tools.directions RUN --direction 2 --out slider.webp               there and back along one of them
    python -m tools.directions RUN --toward Smiling Young --out strips.png       of a generator that knows labels
    python -m tools.directions RUN --toward Smiling --out slider.mp4

RUN is a run's folder or its generator/ folder alone. The directions are read from the weights of the first layers
(SeFa, arXiv:2007.06600), of styles where the model has any, else of latents; each with its share of the change that all
directions together make. A picture has a block a direction: a row a sample, a column a strength, 0 in the middle. A
strength of 1 is a standard deviation; of --toward, all the way from without the label to with it: with styles along
the mean difference of styles, else by the weight of the label itself. An animation goes to the strength, back, to its
opposite, and back. Points move in one scatter plot. .mp4 needs PyAV: pip install av.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError, blaming_user, cli
from generation.animation import animation_kind, check_animation
from generation.codes import Codes, joined, seeded_codes, with_styles
from generation.directions import Directions, find_directions, label_directions, moved
from generation.generator import load_generator
from generation.labels import sample_labels
from generation.motion import drawn_frames
from generation.pictures import picture_blocks, table_cell
from generation.sampling import with_truncation
from generation.views import N_POINTS, view_of
from generation.walks import moments
from modelling.styles import truncated_styles
from tools import tool_parser
from tools.common import (
    add_device_flag,
    add_generator_flags,
    add_label_flags,
    add_truncation_flags,
    check_sides,
    finite,
    parse_with_attributes,
    positive,
    save_picture,
    sheet_size,
    whole,
)
from tools.frames import is_still, save_animation, sheets
from training.device import choose_device

N_DIRECTIONS, N_ROWS = 5, 3
STRENGTH, ALL_THE_WAY = 3.0, 1.0
HALF = 3  # columns of a picture to either side of 0
N_COLUMNS = 2 * HALF + 1
MOST_COLUMNS = 8  # of a frame
N_FRAMES, FPS = 80, 20.0  # of an animation
MAX_STRENGTH = 100.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.directions", __doc__)
    add_generator_flags(p)
    about = "NAME.png or NAME.jpg for strips; NAME.webp, NAME.gif, NAME.mp4 or DIR/ of frames for a slider"
    p.add_argument("--out", required=True, help=about)
    about = f"directions in the picture, or to choose --direction from [{N_DIRECTIONS}]"
    p.add_argument("--n_directions", type=positive, help=about)
    about = "labels to go towards instead: names of attributes, or classes by name or number"
    p.add_argument("--toward", nargs="+", metavar="LABEL", help=about)
    about = f"how far, to either side [{STRENGTH:g} standard deviations, {ALL_THE_WAY:g} towards a label]"
    p.add_argument("--strength", type=finite, help=about)
    about = "styles that are looked at and moved (models with styles; default: all)"
    p.add_argument("--layers", type=whole, nargs=2, metavar=("FIRST", "END"), help=about)
    about = "number of the direction, or of the label, that an animation shows [1]"
    p.add_argument("--direction", type=positive, help=about)
    p.add_argument("--rows", type=positive, help=f"samples that are moved [{N_ROWS}]")
    add_label_flags(p)
    p.add_argument("--seed", type=whole, default=0, help="samples are a function of it [0]")
    add_truncation_flags(p)
    add_device_flag(p)
    return p


def chosen(args: argparse.Namespace, G: nn.Module, config: dict[str, Any]) -> Directions:
    """What is to be shown; UserError for what the generator does not have."""
    layers = None if args.layers is None else tuple(args.layers)
    if args.toward:
        if args.n_directions:
            raise UserError(
                "--n_directions and --toward: the labels named are the directions; give one of them"
            )
        return label_directions(G, config, args.toward, layers)
    dim = G.w_dim if config["styles"] else G.z_dim
    n = args.n_directions or min(dim, max(N_DIRECTIONS, args.direction or 0))
    return find_directions(G, config, n, layers)


def titles(directions: Directions) -> list[str]:
    """A line a direction."""
    if directions.shares is None:
        return [f"to {name}" for name in directions.names]
    return [f"{name}: {share:.1%}" for name, share in zip(directions.names, directions.shares, strict=True)]


def check_size(
    args: argparse.Namespace, G: nn.Module, config: dict[str, Any], n: int, as_strips: bool
) -> None:
    """UserError for pictures that would be too large, before anything is drawn. n: directions in a picture."""
    if not view_of(config["dataset"]).single:
        if args.rows:
            raise UserError("--rows: points move in one scatter plot; leave it out")
        return
    rows = args.rows or N_ROWS
    if as_strips:
        size = sheet_size(n * rows * N_COLUMNS, N_COLUMNS, G.img_size, None)
        check_sides(Path(args.out), *size, "take fewer --rows or --n_directions")
    else:
        size = sheet_size(rows, min(rows, MOST_COLUMNS), G.img_size, None)
        check_animation(args.out, N_FRAMES, size, FPS, "take fewer --rows")


def samples(args: argparse.Namespace, G: nn.Module, config: dict[str, Any], how: dict[str, Any]) -> Codes:
    """What is moved: of images as many as rows, of points a cloud; how: of with_truncation, done here."""
    n = (args.rows or N_ROWS) if view_of(config["dataset"]).single else N_POINTS
    y = sample_labels(config, n, args.seed, args.classes, args.attributes)
    codes = joined(list(seeded_codes(G, n, args.seed, y, how.get("threshold"))))
    if "truncation" not in how:
        return codes
    codes = with_styles(G, codes)
    psi, layers = how["truncation"], how["truncation_layers"]
    return replace(codes, w=truncated_styles(codes.w, G.mapping.w_avg.cpu(), psi, layers))


def frames_of(
    G: nn.Module, config: dict[str, Any], codes: Codes, directions: Directions, i: int, s: Tensor, seed: int
) -> Iterator[Tensor]:
    """What codes of n images become at strengths s of direction i: uint8 (n, C, H, W), or points, of each."""
    alone = torch.eye(len(directions.vectors))[i]

    def at(s: Tensor) -> Codes:
        return joined([moved(G, config, codes, directions, strength * alone) for strength in s])

    return drawn_frames(G, config, at, s, len(codes), seed)


def write_strips(
    args: argparse.Namespace,
    G: nn.Module,
    config: dict[str, Any],
    codes: Codes,
    directions: Directions,
    most: float,
) -> str:
    """A block a direction; what was written, for people."""
    view, names = view_of(config["dataset"]), titles(directions)
    s = most * torch.arange(-HALF, HALF + 1) / HALF
    columns = [f"{v:+.2g}" if v else "0" for v in s.tolist()]
    blocks = []
    for i, name in enumerate(names):
        drawn = frames_of(G, config, codes, directions, i, s, args.seed)
        cells = [[*map(table_cell, x)] if view.single else [view.sheet(x, 1)] for x in drawn]
        blocks.append((name, columns, [*zip(*cells, strict=True)]))
    save_picture(picture_blocks(blocks), Path(args.out))
    return f"{len(names)} direction{'s' if len(names) > 1 else ''}"


def write_slider(
    args: argparse.Namespace,
    G: nn.Module,
    config: dict[str, Any],
    codes: Codes,
    directions: Directions,
    most: float,
) -> str:
    """There and back along one direction; what was written, for people."""
    i, view = (args.direction or 1) - 1, view_of(config["dataset"])
    if i >= len(directions.names):
        raise UserError(f"--direction {i + 1}: there are 1 to {len(directions.names)}")
    columns = min(len(codes), MOST_COLUMNS)
    s = most * torch.sin(2 * torch.pi * moments(N_FRAMES, closed=True)).float()
    drawn = frames_of(G, config, codes, directions, i, s, args.seed)
    save_animation(sheets(drawn, N_FRAMES, view, columns, None), args.out, FPS)
    return f"{N_FRAMES} frames of direction {titles(directions)[i]}"


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Load the generator, find its directions, draw, write."""
    args = parse_with_attributes(parser(), argv)
    as_strips = is_still(args.out)
    if not as_strips:
        animation_kind(args.out)
    elif args.direction:
        raise UserError(f"--direction is of an animation, and --out {args.out} shows all: give NAME.webp")
    most = args.strength if args.strength is not None else ALL_THE_WAY if args.toward else STRENGTH
    if not 0 < most <= MAX_STRENGTH:
        raise UserError(f"--strength {most:g} must be above 0 and at most {MAX_STRENGTH:g}")
    G, config = load_generator(args.run, args.weights, choose_device(args.device), args.checkpoint)
    with blaming_user():
        directions = chosen(args, G, config)
        check_size(args, G, config, len(directions.names), as_strips)
        G, how = with_truncation(G, config, args.truncation, args.truncation_layers)
        write = write_strips if as_strips else write_slider
        written = write(args, G, config, samples(args, G, config, how), directions, most)
    print(
        f"{config['model']}, step {config['step']}, {config['chosen']} weights: wrote {written} to {args.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
