"""Translate pictures by a trained run of pix2pix, CycleGAN or SRGAN.

    python -m tools.translate RUN --data photos/ --out translated/           all pictures of a folder or archive
    python -m tools.translate RUN --data photo.jpg --out translated/         a single one
    python -m tools.translate RUN --data photos.zip --out pairs/ --side_by_side
    python -m tools.translate RUN --data paintings/ --out photos/ --direction BtoA
    python -m tools.translate RUN --data photos/ --out translated/ --scale_to 256
    python -m tools.translate RUN --data facades/val --out painted/ --half right   of pairs side by side

RUN is a run's folder or its generator/ folder alone. Pictures have any size and stay as large, or become as many times
larger as the network makes them. What the network draws, such as pix2pix's dropout, is a function of --seed and of the
picture's number. photos/cats/a.jpg is written as translated/cats/a.png; where a.png stands beside a.jpg, the second of
them is written as a.png.png. Pictures go through one by one. One that cannot be read is named at the end, with the
reason.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from errors import UserError, blaming_user, cli, shown, tell
from generation.pictures import in_colour
from generation.translator import TILE, Translator, load_translator
from images.archives import Files, open_files
from images.arrays import SUFFIX, Scale
from images.decoding import SUFFIXES, BadImage, Fit, Member, decode, only_bombs_warn, read_member
from images.files import unread_notes
from images.pairing import WIDE
from images.scan import header_of, is_scale
from tools import tool_parser
from tools.common import (
    add_device_flag,
    add_generator_flags,
    make_folder,
    positive,
    save_image,
    warn,
    whole,
)
from training.device import choose_device
from training.guards import memory_told

LISTED = 20  # pictures that could not be read


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.translate", __doc__)
    add_generator_flags(p)
    about = "pictures to translate: a folder, .zip, .tar or .tar.gz, or a single file"
    p.add_argument("--data", required=True, metavar="PATH", help=about)
    p.add_argument("--out", required=True, metavar="DIR", help="folder that the translations are written to")
    about = "write over what stands in it; without, it must be empty"
    p.add_argument("--overwrite", action="store_true", help=about)
    about = "write each picture beside its translation"
    p.add_argument("--side_by_side", action="store_true", help=about)
    about = (
        "of files that hold a pair side by side: the half that is translated (default: pictures are whole)"
    )
    p.add_argument("--half", choices=("left", "right"), help=about)
    about = "of a run that knows both (default: the run's own)"
    p.add_argument("--direction", choices=("AtoB", "BtoA"), help=about)
    about = "px of the shorter side to which pictures are brought first (default: they stay as they are)"
    p.add_argument("--scale_to", type=positive, metavar="PX", help=about)
    about = f"px a side, above which a picture goes through in parts that overlap; fewer need less memory [{TILE}]"
    p.add_argument("--tile", type=positive, default=TILE, metavar="PX", help=about)
    p.add_argument("--seed", type=whole, default=0, help="what a network draws is a function of it [0]")
    add_device_flag(p)
    return p


# -- what is read and written ----------------------------------------------------------------------------------------


def check_places(data: Path, out: Path, overwrite: bool, flag: str = "--data") -> None:
    """UserError for an --out that is no folder, that holds something, or that lies among the pictures of a flag."""
    if out.suffix.lower() in SUFFIXES or (out.exists() and not out.is_dir()):
        raise UserError(f"--out {out}: name a folder, in which each picture has a file of its own")
    if data.is_file() and out.resolve() == data.resolve().parent:
        raise UserError(f"--out {out} is where {flag} {data} stands: choose another folder")
    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise UserError(f"--out {out} lies in {flag} {data}, whose pictures are read: choose another folder")
    try:
        held = not overwrite and out.is_dir() and next(out.iterdir(), None)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None
    if held:
        raise UserError(
            f"--out {out} is not empty: choose another folder, or give --overwrite to write over it"
        )


class Pictures:
    """The pictures at a path, one after the other; n: how many there are, None where only reading tells."""

    def __init__(self, path: Path) -> None:
        is_single = path.suffix.lower() in SUFFIXES - {SUFFIX} and path.is_file()
        self.files: Files | None = None if is_single else open_files(path)
        self.path = path

    @property
    def n(self) -> int | None:
        """Known after the first."""
        return 1 if self.files is None else self.files.n_images

    @property
    def notes(self) -> list[str]:
        """After the last: what was passed over, a line each."""
        return [] if self.files is None else unread_notes(self.files)

    def __iter__(self) -> Iterator[Member]:
        """In a fixed order. UserError for a damaged archive, and where there are none."""
        yield from [Member(self.path.name, self.path)] if self.files is None else self.files.members()


class Stems:
    """Where translations are written: the pictures' names without suffix, but where that is taken already."""

    def __init__(self, *taken: str) -> None:
        """taken: what else the folder holds."""
        self.taken = set(taken)

    def of(self, name: str) -> str:
        """For the next picture; two names that differ in case alone are one on some systems."""
        plain = str(PurePosixPath(name).with_suffix(""))
        candidates = itertools.chain((plain, name), (f"{name}_{i}" for i in itertools.count(2)))
        stem = next(c for c in candidates if c.casefold() not in self.taken)
        self.taken.add(stem.casefold())
        return stem


def read_picture(
    member: Member, channels: int, scale_to: int | None, scale: Scale | None, most: int, half: str | None
) -> Tensor:
    """uint8 (C, h, w) as the network takes it, upright, with transparency on white.

    scale_to: px of the shorter side, None for the picture's own; scale: what becomes 0 and 255 of more than 8 bits,
    None for its own values; most: pixels; half: "left" or "right", None for all of it. BadImage.
    """
    data = read_member(member)
    header = header_of(data)
    shape = header.height, header.width if half is None else header.width // 2
    factor = 1 if scale_to is None else scale_to / max(1, min(shape))
    height, width = (max(1, round(side * factor)) for side in shape)
    if height * width > most:
        raise BadImage(
            f"too large: its translation, of a picture of {height} x {width} px, has too many pixels"
        )
    with only_bombs_warn():
        pixels = decode(data, (height, width, channels), Fit("stretch", scale, half))
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def beside(x: Tensor, found: Tensor) -> Tensor:
    """A picture, brought to the height of its translation, on the left of it; in colour where either is."""
    if len(x) != len(found) or len(x) not in (1, 3):
        x, found = in_colour(x[None])[0], in_colour(found[None])[0]
    if x.shape != found.shape:
        large = F.interpolate(x[None].float(), tuple(found.shape[1:]), mode="bicubic", align_corners=False)
        x = large[0].round().clamp(0, 255).to(torch.uint8)
    return torch.cat([x, found], dim=2)


def scale_of(translator: Translator, direction: str | None) -> Scale | None:
    """What became 0 and 255 of the run's own pictures of more than 8 bits that are translated in a direction; None
    where there were none."""
    scales = translator.about["data"].get("scales")
    direction = translator.directions[0] if direction is None else direction
    scale = scales.get(direction) if isinstance(scales, dict) else None
    return tuple(scale) if is_scale(scale) else None


# -- the whole -------------------------------------------------------------------------------------------------------


def translate_all(args: argparse.Namespace, translator: Translator, pictures: Pictures, out: Path) -> int:
    """Translate and write one picture after the other; how many. UserError where none could be read."""
    G, stems, scale = translator.network(args.direction), Stems(), scale_of(translator, args.direction)
    most = (Image.MAX_IMAGE_PIXELS or 2**27) // G.factor**2
    n_written, n_bad, n_wide, bad = 0, 0, 0, []
    make_folder(out)
    with tqdm(desc="translating", unit="img", leave=False, disable=None) as bar:
        for number, member in enumerate(pictures):
            bar.total = pictures.n
            bar.update()
            stem = out / stems.of(member.name)
            try:
                x = read_picture(member, G.source_channels, args.scale_to, scale, most, args.half)
            except BadImage as error:
                n_bad += 1
                bad += [f"{shown(member.name)}: {error}"] if n_bad <= LISTED else []
                continue
            n_wide += x.shape[2] >= WIDE * x.shape[1]
            found = translator.translate([x], args.direction, args.seed, first=number, tile=args.tile)[0]
            stem.parent.mkdir(parents=True, exist_ok=True)
            save_image(beside(x, found) if args.side_by_side else found, stem)
            n_written += 1
    if not n_written:
        what = "its picture cannot" if n_bad == 1 else f"none of its {n_bad:,} pictures can"
        raise UserError(f"--data {args.data}: {what} be read: {bad[0]}")
    for note in pictures.notes:
        tell(note)
    if n_wide == n_written and args.half is None:
        tell(
            "note: all pictures are about twice as wide as high: --half left, or right, is for pairs side by side"
        )
    for line in bad:
        warn(line)
    if n_bad:
        first = f", the first {LISTED} are listed" if n_bad > LISTED else ""
        warn(f"{n_bad:,} of {n_written + n_bad:,} pictures could not be read{first}")
    return n_written


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Load the networks, translate, write."""
    args = parser().parse_args(argv)
    data, out = Path(args.data).expanduser(), Path(args.out).expanduser()
    check_places(data, out, args.overwrite)
    translator = load_translator(args.run, args.weights, choose_device(args.device), args.checkpoint)
    translator.network(args.direction)
    pictures, about = Pictures(data), translator.about
    print(
        f"{about['model']}, step {about['step']}, {about['chosen']} weights, batch norm: {about['batch_norm']}"
    )
    try:
        with blaming_user(), memory_told(lambda: "for a picture: take a smaller --tile or --scale_to"):
            n = translate_all(args, translator, pictures, out)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None
    print(f"wrote {n:,} pictures to {out}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
