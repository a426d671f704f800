"""Turn the weights of other programs into a generator/ folder that can be sampled, scored and trained on.

    python -m tools.import_weights network-snapshot.pkl --out generator/      official StyleGAN2-ADA, StyleGAN2 of
                                                                             StyleGAN3's repository, StyleGAN, ProGAN
    python -m tools.import_weights stylegan2.pt --out generator/              rosinality's StyleGAN2: g, d, g_ema
    python -m tools.import_weights G_ema.pth D.pth --out generator/           BigGAN-PyTorch, a file a network

    python -m tools.sample generator/ --n 64 --out grid.png
    python gan_folder.py --data photos/ --init_from generator/ ...            with the flags that are printed

Nothing in a file is executed: a reader of its own takes tensors and plain containers, and leaves all else as names.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from errors import cli, printable
from generation.importing.layout import Imported
from generation.importing.weights import import_weights, write_generator
from modelling import find_model
from modelling.layers import size_text
from tools import tool_parser
from tools.common import warn

SHOWN = 5
OF_FLAGS = {"img_size": "img_size", "z_dim": "z_dim"}
NOT_KWARGS = {*OF_FLAGS, "img_channels", "n_labels", "condition", "spectral_norm"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.import_weights", __doc__)
    p.add_argument(
        "files", metavar="FILE", nargs="+", help="a file of weights, or several that belong together"
    )
    p.add_argument(
        "--out", required=True, metavar="DIR", help="the folder to write, which must be new or empty"
    )
    return p


def of_networks(build: dict[str, Any]) -> str:
    """Settings of a network as KEY=VALUE ..."""
    own = {name: value for name, value in build.items() if name not in NOT_KWARGS and value is not None}
    unset = [name for name, value in build.items() if name not in NOT_KWARGS and value is None]
    pairs = [f"{name}={str(value).replace(' ', '')}" for name, value in own.items()]
    return " ".join([*pairs, *(f"{name}=none" for name in unset)])


def training_flags(result: Imported, out: str) -> str:
    """The flags with which a run starts from the folder."""
    build = result.build_g
    words = [
        f"--model {result.model} --init_from {shlex.quote(out)} --img_size {size_text(build['img_size'])}"
    ]
    words.append(f"--z_dim {build['z_dim']}")
    if find_model(result.model).grows_from is not None:  # these are grown
        words.append("--no_grow")
    if build.get("n_labels"):
        words.append("--conditional")
    for side, given in (("g", build), ("d", result.build_d or {})):
        if given.get("spectral_norm") is False:
            words.append(f"--no-spectral_norm_{side}")
    words.append(f"--g_kwargs {of_networks(build)}")
    if result.build_d is not None:
        words.append(f"--d_kwargs {of_networks(result.build_d)}")
    return " ".join(words)


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Read, check, write, say what was done."""
    args = parser().parse_args(argv)
    result = import_weights(args.files)
    write_generator(result, args.out, [Path(file).name for file in args.files])
    for note in result.notes:
        warn(note)
    if result.unused:
        more = ", ..." if len(result.unused) > SHOWN else ""
        warn(f"{len(result.unused)} tensors have no place here: {', '.join(result.unused[:SHOWN])}{more}")
    build = result.build_g
    labels = f", {build['n_labels']} classes" if build.get("n_labels") else ""
    sets = ", ".join([*result.sets, *(["D"] if result.D is not None else [])])
    about = f"{result.title} of {size_text(build['img_size'])} px, {build['img_channels']} channels{labels}: {sets}"
    print(printable(f"{about}\nwrote {args.out}; to train from it: {training_flags(result, args.out)}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
