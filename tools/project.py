"""Find the code by which a trained generator comes nearest to a picture.

    python -m tools.project RUN --target photo.jpg --out projected/
    python -m tools.project RUN --target a.png b.png c.webp --out projected/    several at once
    python -m tools.project RUN --target photo.jpg --space w --out projected/   one style for all layers
    python -m tools.project RUN --target photo.jpg --noise --out projected/     the layers' noise too
    python -m tools.project RUN --target three.png --class 3 --out projected/
    python -m tools.sample RUN --latents projected/latents.npz --out same.png

RUN is a run's folder or its generator/ folder alone. Pictures have any size and format; they are cropped and resized as
those of the training. By gradient descent from the best of many random codes: with styles, one for each layer (w+),
which comes nearer, or one for all (w), which is nearer to what the generator makes by itself; without styles, the
latent. Unless named, the class is that of the start that went best; attributes are sought, as weights from 0 to 1.

DIR/ holds projected.png (each picture beside what was found, and its PSNR), photo.png (what was found), way.webp (how
it was found), latents.npz (for tools.sample --latents; z, or w with styles) and with --noise noise.npz: noise_0,
noise_1, ..., for G.synthesis(w, noise=[...]) in Python.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import disk
from errors import UserError, blaming_user, cli, shown
from generation.animation import write_animation
from generation.codes import write_codes
from generation.extractors import open_extractor
from generation.generator import load_generator
from generation.labels import sample_labels
from generation.pictures import picture_table, table_cell, to_grid
from generation.projection import N_CANDIDATES, N_STEPS, SPACES, Projection, check_space, n_told, project
from images.decoding import CROPS, BadImage, Fit, Member, decode, only_bombs_warn, read_member
from images.scan import is_scale
from modelling.layers import image_shape
from pretrained.lite0 import NAME as LITE0
from tools import tool_parser
from tools.common import (
    add_device_flag,
    add_generator_flags,
    add_label_flags,
    enlarged,
    make_folder,
    parse_with_attributes,
    positive,
    save_image,
    save_picture,
    whole,
)
from tools.translate import Stems, check_places
from training.device import choose_device

MAX_TARGETS, MAX_STEPS = 64, 100_000
N_FRAMES, FPS, HOLD_S = 60, 15.0, 1.5  # of the way
MOST_PAIRS = 4  # in a row of a frame
LEAST_SIDE = 128  # px of an image in projected.png


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.project", __doc__)
    add_generator_flags(p)
    p.add_argument("--target", required=True, nargs="+", type=Path, metavar="FILE", help="pictures")
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for what is found")
    about = "write over what stands in it; without, it must be empty"
    p.add_argument("--overwrite", action="store_true", help=about)
    about = "w+ has a style for each layer, w one for all (models with styles) [w+]"
    p.add_argument("--space", choices=SPACES, help=about)
    about = "seek the noise of the layers too (models with styles)"
    p.add_argument("--noise", action="store_true", help=about)
    p.add_argument("--steps", type=positive, default=N_STEPS, help=f"of the descent [{N_STEPS}]")
    add_label_flags(p)
    p.add_argument("--seed", type=whole, default=0, help="where it begins is a function of it [0]")
    add_device_flag(p)
    return p


def fit_of(config: dict[str, Any]) -> Fit:
    """How pictures of the training were cropped, and what became 0 and 255 of those of more than 8 bits."""
    data = config.get("data") if isinstance(config.get("data"), dict) else {}
    crop, scale = data.get("crop"), data.get("scale")
    return Fit(crop if crop in CROPS else "centre", tuple(scale) if is_scale(scale) else None)


def read_target(path: Path, shape: tuple[int, int, int], fit: Fit) -> Tensor:
    """uint8 (C, H, W) of a picture file; UserError with the reason why not."""
    try:
        with only_bombs_warn():
            pixels = decode(read_member(Member(path.name, path)), shape, fit)
    except BadImage as error:
        raise UserError(f"--target {shown(str(path))}: {error}") from None
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


class Way:
    """What project tells after each step: a bar, and some of the images as frames."""

    def __init__(self, targets: Tensor, n_steps: int) -> None:
        self.targets, self.frames = targets, []
        self.every = max(1, n_steps // N_FRAMES)
        self.bar = tqdm(total=n_steps, desc="projecting", unit="step", leave=False, disable=None)

    def __call__(self, step: int, images: Tensor, psnr: Tensor) -> None:
        """See projection.Watch."""
        self.bar.update()
        self.bar.set_postfix_str(f"PSNR {' '.join(f'{value:.1f}' for value in psnr[:8].tolist())} dB")
        if step % self.every == 1 or self.every == 1:
            self.frames.append(images)

    def pictures(self, last: Tensor) -> list[Image.Image]:
        """Frames, each with every target on the left of its image."""
        columns = 2 * min(len(self.targets), MOST_PAIRS)
        pairs = (torch.stack([self.targets, x], 1).flatten(0, 1) for x in (*self.frames, last))
        return [enlarged(to_grid(x, columns), None) for x in pairs]


def write(out: Path, names: Sequence[str], targets: Tensor, found: Projection, way: Way) -> None:
    """Write all that DIR/ holds; OSError."""
    make_folder(out)
    rows = [
        (f"{shown(name, 40)}: {db:.1f} dB", [table_cell(a, LEAST_SIDE), table_cell(b, LEAST_SIDE)])
        for name, a, b, db in zip(names, targets, found.images, found.psnr.tolist(), strict=True)
    ]
    save_picture(picture_table(["target", "found"], rows), out / "projected.png")
    for stem, x in zip(names, found.images, strict=True):
        save_image(x, out / stem)
    write_animation(way.pictures(found.images), out / "way.webp", FPS, HOLD_S)
    write_codes(out / "latents.npz", [found.codes])
    if found.noises:
        with disk.replacing(out / "noise.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, **{f"noise_{i}": maps.numpy() for i, maps in enumerate(found.noises)})


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Load the generator, read the pictures, descend, write."""
    args = parse_with_attributes(parser(), argv)
    if len(args.target) > MAX_TARGETS:
        raise UserError(f"--target: {len(args.target)} pictures; at most {MAX_TARGETS} at a time")
    if args.steps > MAX_STEPS:
        raise UserError(f"--steps {args.steps}: at most {MAX_STEPS:,}")
    for path in args.target:
        check_places(path, args.out, args.overwrite, "--target")
    G, config = load_generator(args.run, args.weights, choose_device(args.device), args.checkpoint)
    check_space(G, config, args.space, args.noise)
    named = args.classes or args.attributes
    y = sample_labels(config, N_CANDIDATES, args.seed, args.classes, args.attributes) if named else None
    shape = (*image_shape(G.img_size), G.img_channels)
    targets = torch.stack([read_target(path, shape, fit_of(config)) for path in args.target])
    stems = Stems("projected")
    names = [stems.of(path.name) for path in args.target]
    began, way = time.monotonic(), Way(targets, n_told(args.steps))
    print(f"{config['model']}, step {config['step']}, {config['chosen']} weights")
    with blaming_user():
        lite0 = open_extractor(LITE0, device=choose_device(args.device)).module.network
        found = project(
            G, config, targets, lite0=lite0, space=args.space, noise=args.noise, y=y, steps=args.steps,
            seed=args.seed, watch=way,
        )  # fmt: skip
    way.bar.close()
    for path, db in zip(args.target, found.psnr.tolist(), strict=True):
        print(f"{shown(str(path))}: PSNR {db:.1f} dB")
    try:
        write(args.out, names, targets, found, way)
    except OSError as error:
        raise UserError(f"--out {args.out}: {error.strerror or error}") from None
    print(f"wrote projected.png, way.webp and latents.npz to {args.out}/, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
