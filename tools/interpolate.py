"""Let the images of a trained generator flow into each other.

    python -m tools.interpolate RUN --out walk.webp                          from seed to seed, and back to the first
    python -m tools.interpolate RUN --seeds 3,17,40 --out walk.mp4
    python -m tools.interpolate RUN --seeds 3,17 --out strip.png             the way as one picture
    python -m tools.interpolate RUN --grid 4x2 --seconds 10 --out walks.webp   several walks at once
    python -m tools.interpolate RUN --walk random --out walk.gif
    python -m tools.interpolate RUN --walk circle --out circle.webp
    python -m tools.interpolate RUN --class 3 7 8 --out threes_to_eights.webp
    python -m tools.interpolate RUN --attributes -Smiling --to_attributes Smiling --out smile.webp
    python -m tools.interpolate RUN --no-loop --out frames/                  000000.png, 000001.png, ...

RUN is a run's folder or its generator/ folder alone. seeds: from the first image of each seed to that of the next; the
cells of a grid go from the second to the second, and so on. random: a smooth way that --seed chooses. circle: round the
origin of latent space, through the images of --seed and of the one after.

--space w moves styles in straight lines, as models with styles do by default; --space z moves latents: along an arc,
which keeps their length (slerp), or in a straight line (--between lerp). Of several --class as many seeds are passed as
there are classes, or one, whose latent then shows all of them; so with --to_attributes, the attributes at the end.
Points move in one scatter plot. .mp4 needs PyAV: pip install av.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError, blaming_user, cli
from generation.animation import check_animation
from generation.generator import load_generator
from generation.labels import sample_labels
from generation.latents import latents
from generation.motion import (
    Motion,
    check_between_classes,
    drawn_frames,
    through_labels,
    through_latents,
    through_styles,
)
from generation.pictures import GAP, SIDE, picture_table
from generation.sampling import with_truncation
from generation.views import N_POINTS, View, view_of
from generation.walks import BETWEEN, along, circle, moments, random_walk
from modelling import STYLED
from tools import tool_parser
from tools.common import (
    add_device_flag,
    add_generator_flags,
    add_label_flags,
    add_truncation_flags,
    check_sides,
    enlarged,
    finite,
    grid_size,
    join_value,
    positive,
    save_picture,
    seed_list,
    sheet_size,
    whole,
    words,
)
from tools.frames import is_still, save_animation, sheets
from training.device import choose_device

N_SEEDS = 4  # that are passed where none are named
MAX_POINTS = 20_000  # images that are passed, all together
HARMONIC_S = 4.0  # seconds of a random walk a harmonic
FEWER = "take fewer --seconds or --fps, a smaller --grid or --scale"
STEPS = 10  # of a strip: its usual seeds stand in every third column


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.interpolate", __doc__)
    add_generator_flags(p)
    about = (
        "NAME.webp, NAME.gif or NAME.mp4, DIR/ for frames as PNG, NAME.png or NAME.jpg for a strip of the way"
    )
    p.add_argument("--out", required=True, help=about)
    p.add_argument("--walk", choices=tuple(WALKS), default="seeds", help="which way [seeds]")
    about = f"seeds to go through: 3,17,40 [{N_SEEDS} from --seed on]"
    p.add_argument("--seeds", type=seed_list, metavar="LIST", help=about)
    p.add_argument("--seed", type=whole, help="ways are a function of it [0]")
    about = "what moves [w, the style, where there are any, else z, the latent]"
    p.add_argument("--space", choices=("z", "w"), help=about)
    about = "how, between two seeds [slerp in z, lerp in w]"
    p.add_argument("--between", choices=tuple(BETWEEN), help=about)
    about = "end at the start, so that it plays for ever [animations do, strips do not]"
    p.add_argument("--loop", action=argparse.BooleanOptionalAction, help=about)
    p.add_argument("--grid", type=grid_size, metavar="COLUMNSxROWS", help="so many walks at once [1x1]")
    add_label_flags(p)
    about = "attributes at the end of the way; those named by --attributes are at its start"
    p.add_argument("--to_attributes", type=words, action="extend", metavar="NAME,-NAME", help=about)
    p.add_argument("--seconds", type=finite, default=6.0, help="how long it takes [6]")
    p.add_argument("--fps", type=finite, default=20.0, help="frames a second [20]")
    p.add_argument("--steps", type=positive, default=STEPS, help=f"images of a strip, in columns [{STEPS}]")
    about = "pixels of a frame a pixel of an image [up to 4, for a width of 512]"
    p.add_argument("--scale", type=positive, help=about)
    add_truncation_flags(p)
    add_device_flag(p)
    return p


# -- where the way goes ----------------------------------------------------------------------------------------------


def seeds_of(args: argparse.Namespace, n_labels_passed: int, n: int) -> list[int]:
    """The seeds to go through in n frames: those listed, or some from --seed on; one where labels change. UserError."""
    if args.seeds is None:
        first = args.seed or 0
        return [first] if n_labels_passed > 1 else list(range(first, first + min(N_SEEDS, n)))
    k = len(args.seeds)
    if k == 1 and n_labels_passed == 1:
        raise UserError(
            f"--seeds {args.seeds[0]}: a way needs two seeds, or --walk circle or random of one --seed"
        )
    if n_labels_passed > 1 and k not in (1, n_labels_passed):
        raise UserError(
            f"--seeds lists {k}, and the labels are {n_labels_passed}: give as many seeds as labels, or one"
        )
    if k > n:
        raise UserError(f"--seeds: {n} frames for {k} seeds: give more --seconds, or of a strip --steps")
    return args.seeds


def labels_passed(args: argparse.Namespace, config: dict[str, Any], cells: int, seed: int) -> Tensor | None:
    """Labels to go through, (k, cells) or (k, cells, n_labels), k 1 where they stay; None without. UserError."""
    classes = args.classes or []
    if len(classes) == 1 and "," in classes[0] and classes[0] not in config["label_names"]:
        classes = words(classes[0])
    if args.to_attributes:
        named = {name.removeprefix("-") for name in args.to_attributes}
        start = [name for name in args.attributes or () if name.removeprefix("-") not in named]
        given = [(None, args.attributes), (None, start + args.to_attributes)]
    else:
        given = [([name], args.attributes) for name in classes] or [(None, args.attributes)]
    found = [sample_labels(config, cells, seed, *label) for label in given]
    return None if found[0] is None else torch.stack(found)


def check_space(args: argparse.Namespace, config: dict[str, Any]) -> str:
    """What moves, "z" or "w"; UserError for what does not fit."""
    if args.walk != "seeds":
        for flag in ("seeds", "space", "between"):
            if getattr(args, flag) is not None:
                raise UserError(
                    f"--{flag} is of --walk seeds: --walk {args.walk} moves the latents of one --seed"
                )
        return "z"
    if args.seeds is not None and args.seed is not None:
        raise UserError("--seed and --seeds: give one of them")
    if args.space == "w" and not config["styles"]:
        raise UserError(f"--space w: {config['model']} has no styles; {STYLED} have")
    space = args.space or ("w" if config["styles"] else "z")
    if space == "w" and args.between == "slerp":
        raise UserError("--between slerp: styles go in straight lines; give --space z, or leave it out")
    return space


def check_free(args: argparse.Namespace, threshold: float | None) -> None:
    """UserError for latents that are to stay within a threshold on a way that does not."""
    if threshold is not None:
        raise UserError(
            f"--truncation: of models without styles it is for the latents of seeds, and --walk {args.walk} leaves its "
            "threshold: take --walk seeds"
        )


def seeds_motion(
    args: argparse.Namespace,
    G: nn.Module,
    config: dict[str, Any],
    cells: int,
    n: int,
    closed: bool,
    threshold: float | None,
) -> Motion:
    """From seed to seed."""
    space = check_space(args, config)
    first = args.seeds[0] if args.seeds else args.seed or 0
    y = labels_passed(args, config, cells, first)
    seeds = seeds_of(args, 1 if y is None else len(y), n)
    if len(seeds) * cells > MAX_POINTS:
        raise UserError(
            f"--seeds: {len(seeds):,} for {cells:,} walks at once are more than {MAX_POINTS:,} images: list fewer, or "
            "take a smaller --grid"
        )
    z = torch.stack([latents(seed, 0, cells, G.z_dim, threshold) for seed in seeds])
    if space == "w":
        n = len(z) if y is None else max(len(z), len(y))
        z, y = (None if x is None else x.expand(n, *x.shape[1:]) for x in (z, y))
        return through_styles(G, z, y, closed)
    between = BETWEEN[args.between or "slerp"]
    return through_latents(
        lambda t: along(z, t, closed, between), through_labels(y, config["n_labels"], closed)
    )


def circle_motion(
    args: argparse.Namespace,
    G: nn.Module,
    config: dict[str, Any],
    cells: int,
    n: int,
    closed: bool,
    threshold: float | None,
) -> Motion:
    """Round the origin."""
    check_space(args, config)
    check_free(args, threshold)
    if args.loop is False:
        raise UserError("--no-loop: a circle ends where it starts; leave it out, or take --walk random")
    seed = args.seed or 0
    a, b = (latents(s, 0, cells, G.z_dim) for s in (seed, seed + 1))
    y = labels_passed(args, config, cells, seed)
    return through_latents(lambda t: circle(a, b, t), through_labels(y, config["n_labels"], closed))


def random_motion(
    args: argparse.Namespace,
    G: nn.Module,
    config: dict[str, Any],
    cells: int,
    n: int,
    closed: bool,
    threshold: float | None,
) -> Motion:
    """A smooth way at random."""
    check_space(args, config)
    check_free(args, threshold)
    seed, harmonics = args.seed or 0, max(1, round(args.seconds / HARMONIC_S))
    y = labels_passed(args, config, cells, seed)
    return through_latents(
        lambda t: random_walk(seed, 0, cells, G.z_dim, t, closed, harmonics),
        through_labels(y, config["n_labels"], closed),
    )


WALKS = {"seeds": seeds_motion, "random": random_motion, "circle": circle_motion}


# -- what is written -------------------------------------------------------------------------------------------------


def write_strip(
    drawn: Iterator[Tensor],
    t: Tensor,
    view: View,
    out: Path,
    cells: int,
    size: tuple[int, int],
    scale: int | None,
) -> str:
    """One picture: a row a walk, a column a moment; of points a scatter plot a moment. What it is, for people."""
    advice = "take fewer --steps or a smaller --grid"
    if not view.single:
        check_sides(out, len(t) * (SIDE + GAP), SIDE, advice)
        plots = [view.sheet(points, 1) for points in drawn]
        save_picture(picture_table([f"{float(v):.2f}" for v in t], [("", plots)]), out)
        return f"{len(t)} scatter plots"
    check_sides(out, *sheet_size(cells * len(t), len(t), size, scale), advice)
    images = torch.stack(list(drawn), 1).flatten(0, 1)  # (cells, steps, C, H, W) -> (cells * steps, C, H, W)
    save_picture(enlarged(view.sheet(images, len(t)), scale), out)
    return f"a strip of {len(t)} steps"


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Load the generator, go the way, write what is seen."""
    argv = join_value(sys.argv[1:] if argv is None else argv, "--attributes")
    args = parser().parse_args(join_value(argv, "--to_attributes"))
    as_strip = is_still(args.out)
    n = args.steps if as_strip else round(min(max(0, args.seconds * args.fps), 1e9))
    G, config = load_generator(args.run, args.weights, choose_device(args.device), args.checkpoint)
    view = view_of(config["dataset"])
    if args.grid and not view.single:
        raise UserError("--grid: points move in one scatter plot; leave it out")
    columns, rows = args.grid or (1, 1)
    cells = columns * rows if view.single else N_POINTS
    closed = args.walk == "circle" or (not as_strip if args.loop is None else args.loop)
    size = sheet_size(cells, columns, G.img_size, args.scale) if view.single else (SIDE, SIDE)
    if not as_strip:
        check_animation(args.out, n, size, args.fps, FEWER)
    with blaming_user():
        G, how = with_truncation(G, config, args.truncation, args.truncation_layers)
        motion = WALKS[args.walk](args, G, config, cells, n, closed, how.pop("threshold", None))
        if args.classes:
            check_between_classes(G, motion)
        t = moments(n, closed)
        drawn = drawn_frames(G, config, motion, t, cells, args.seed or 0, **how)
        if as_strip:
            written = write_strip(drawn, t, view, Path(args.out), cells, G.img_size, args.scale)
        else:
            save_animation(sheets(drawn, n, view, columns, args.scale), args.out, args.fps)
            written = f"{n} frames, {n / args.fps:.3g} s,"
    print(
        f"{config['model']}, step {config['step']}, {config['chosen']} weights: wrote {written} to {args.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
