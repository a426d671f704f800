"""Averages of a generator's weights at any width, after training: of a run that kept snapshots (--ema_power 0.05 0.1).

    python -m tools.ema RUN                                                 what was kept, and which widths come of it
    python -m tools.ema RUN --std 0.07                                      adds the weight set ema-std-0.07 to RUN
    python -m tools.sample RUN --weights ema-std-0.07 --out grid.png        which every other command takes from there
    python -m tools.ema RUN --std 0.07 --step 20000 --out generator/        or writes it alone, as it was at that step
    python -m tools.ema RUN --std 0.03 0.05 0.1 0.15 0.2 --strip FILE.png   the same latents at each width
    python -m tools.ema RUN --search fid[lite0]                             scores widths; the best becomes a weight set

A width is the standard deviation of what an average looks back on, as a share of all images seen: small is young. The
search takes the widths of --std, by default eleven from .02 to .25, then two more beside the best, on equal latents and
reals. Each score is a line of scores.jsonl, with its protocol; one that stands there is not taken again. Metrics and
networks are those of tools.evaluate, jsd for points.
"""

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

import disk
from ema import LEAST_WIDTH, MOST_WIDTH
from errors import UserError, blaming_user, cli, shown
from generation.drawing import sample
from generation.generator import (
    MODEL_FILE,
    add_weights,
    export_generator,
    find_generator,
    find_model_file,
    read_config,
)
from generation.pictures import picture_table, table_cell
from generation.snapshots import Snapshot, read_snapshots, reconstructed, run_of, shares_of
from generation.views import view_of
from ops.memory import size_in_words
from tools import tool_parser
from tools.common import (
    add_machine_flags,
    picture_path,
    positive,
    save_picture,
    whole,
)
from tools.ema_search import Search
from training.device import choose_device

SEARCHED = (0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25)
LISTED = (0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25)
SEARCHED_OFF = 0.2  # of a profile: what comes no nearer is left out unless it is asked for
N_STRIP = 8  # samples of each width


def width(text: str) -> float:
    """argparse type: a width that averages can have."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not LEAST_WIDTH <= value <= MOST_WIDTH:
        raise argparse.ArgumentTypeError(
            f"{shown(text, 50)} must be from {LEAST_WIDTH:g} to {MOST_WIDTH:g}, a share of the images seen"
        )
    return value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.ema", __doc__)
    p.add_argument("run", metavar="RUN", help="runs/NAME of a run that was trained with --ema_power")
    p.add_argument("--std", type=width, nargs="+", metavar="WIDTH", help="widths, such as 0.07")
    p.add_argument("--step", type=positive, help="that of a snapshot (default: the last)")
    about = (
        "write a generator/ folder of these weight sets alone, new or empty (default: add them to RUN's own)"
    )
    p.add_argument("--out", type=Path, metavar="DIR", help=about)
    about = f"draw the same {N_STRIP} samples at each width, and write no weights"
    p.add_argument("--strip", metavar="FILE.png", help=about)
    p.add_argument(
        "--search", metavar="METRIC[NETWORK]", help="score widths, and write the best, e.g. fid[lite0]"
    )
    p.add_argument("--chart", metavar="FILE.png", help="of --search: the scores over the widths")
    p.add_argument("--n", type=positive, help="of --search: number of fakes [as tools.evaluate]")
    p.add_argument(
        "--metric_weights", type=Path, metavar="PATH", help="of --search: file of the network's weights"
    )
    p.add_argument("--data", help="of --search: folder or archive of the images (default: as in training)")
    p.add_argument(
        "--data_root", help="of --search: where the data set's files stand (default: as in training)"
    )
    p.add_argument("--seed", type=whole, default=0, help="samples are a function of it [0]")
    add_machine_flags(p)
    return p


OF_SEARCH = ("chart", "n", "metric_weights", "data", "data_root")


def check_asked(args: argparse.Namespace) -> None:
    """UserError for flags that do not go together, and places that cannot be written."""
    if args.search is None:
        for name in OF_SEARCH:
            if getattr(args, name) is not None:
                raise UserError(f"--{name} is of --search METRIC[NETWORK]: leave it out, or add that")
    elif args.strip is not None:
        raise UserError("--strip draws and --search scores: give one of them")
    if args.strip is not None and (args.std is None or args.out is not None):
        raise UserError("--strip FILE.png needs --std WIDTH ..., and writes no weights: leave --out out")
    if args.out is not None:
        if args.std is None and args.search is None:
            raise UserError(f"--out {args.out}: say which widths with --std")
        if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
            raise UserError(f"--out {shown(str(args.out))} is not empty: choose a new folder")
    for name in ("strip", "chart"):
        if (text := getattr(args, name)) is not None:
            setattr(args, name, picture_path(text, flag=name))


# -- what there is -----------------------------------------------------------------------------------------------------


def describe(snapshots: Sequence[Snapshot]) -> str:
    """What was kept, and how near other widths come, for people."""
    kept = sorted({w for s in snapshots for w in s.widths})
    n_bytes = sum(s.file.stat().st_size for s in snapshots)
    lines = [
        f"{len(snapshots)} snapshots of averages of {', '.join(map(str, kept))}, steps {snapshots[0].step} to "
        f"{snapshots[-1].step} ({snapshots[-1].images:,} images), {size_in_words(n_bytes)}",
        "width  its profile is off by",
    ]
    return "\n".join(
        [*lines, *(f"{w:<5g}  {shares_of(snapshots, w)[1]:.2%}" for w in sorted({*LISTED, *kept}))]
    )


# -- weight sets -------------------------------------------------------------------------------------------------------


def check_idle(args: argparse.Namespace) -> None:
    """UserError where weight sets are to go into the generator/ of a run that trains, which writes it anew."""
    if args.out is not None:
        return
    try:
        disk.refuse_owned(run_of(find_generator(args.run)))
    except disk.Busy as error:
        raise UserError(f"{error.for_command_line}; or write elsewhere with --out DIR") from None


def write_sets(args: argparse.Namespace, found: Sequence[tuple[nn.Module, dict[str, Any]]]) -> None:
    """Add weight sets to the run's generator/, or write one of these alone; UserError."""
    folder = find_generator(args.run)
    check_idle(args)
    try:
        if args.out is None:
            for network, about in found:
                add_weights(folder, about["chosen"], network, about)
        else:
            about = found[-1][1]
            export_generator(args.out, exported(about), {a["chosen"]: n for n, a in found}, about["step"])
            if (file := find_model_file(folder, about)) is not None:
                shutil.copyfile(file, args.out / MODEL_FILE)
    except OSError as error:
        raise UserError(
            f"{error.filename or args.out or folder} cannot be written: {error.strerror or error}"
        ) from None
    names = ", ".join(about["chosen"] for _, about in found)
    where = f"--weights NAME of {args.run}" if args.out is None else f"{args.out}/"
    print(f"step {found[-1][1]['step']}: wrote {names}: {where}")


def exported(about: dict[str, Any]) -> dict[str, Any]:
    """What config.json of a generator/ says, but for what is its own."""
    return {
        name: value for name, value in about.items() if name not in ("chosen", "styles", "weights", "step")
    }


# -- pictures ----------------------------------------------------------------------------------------------------------


def strip(found: Sequence[tuple[float, nn.Module, dict[str, Any]]], seed: int) -> Image.Image:
    """The same samples of each width: a row a width; scatter plots side by side."""
    view, rows = view_of(found[0][2]["dataset"]), []
    for at, G, about in found:
        if view.single:
            rows.append((f"std {at:g}", [table_cell(x) for x in sample(G, about, N_STRIP, seed)]))
        else:
            rows.append((f"std {at:g}", [view.sheet(sample(G, about, view.n_reals, seed), 1)]))
    if view.single:
        return picture_table([""] * N_STRIP, rows)
    return picture_table([title for title, _ in rows], [("", [cells[0] for _, cells in rows])])


# -- the search --------------------------------------------------------------------------------------------------------


def search(args: argparse.Namespace, about: dict[str, Any], device: str) -> None:
    """Score widths, say which is best, draw the chart, write the best as a weight set."""
    check_idle(args)  # now, not after hours of scores
    snapshots = read_snapshots(run_of(find_generator(args.run)), args.step)
    fit = [w for w in args.std or SEARCHED if args.std or shares_of(snapshots, w)[1] < SEARCHED_OFF]
    if not fit:
        raise UserError(f"{args.run}: too few snapshots for widths to search among: name some with --std")
    found = Search(args, about, device)
    found.score(fit)
    if args.std is None:
        found.score(found.beside_best())
    best = found.best()
    line = found.lines[best]
    print(
        f"best: std {best:g}, {found.name} {line[found.name]:.4g}, of {len(found.lines)} widths at step {line['step']}"
    )
    if best in (min(found.lines), max(found.lines)) and len(found.lines) > 1:
        print("note: the best is at the end of what was scored: look beyond it with --std")
    if args.chart is not None:
        save_picture(found.chart(), args.chart, "chart")
        print(f"wrote {args.chart}")
    _, G, known = next(reconstructed(args.run, [best], args.step, device))
    write_sets(args, [(G, known)])


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line; list, write, draw or search."""
    args = parser().parse_args(argv)
    check_asked(args)
    folder = find_generator(args.run)
    about = read_config(folder)
    if args.std is None and args.search is None:
        print(describe(read_snapshots(run_of(folder), args.step)))
        return 0
    if about["translates"] is not None and (args.strip or args.search):
        raise UserError(
            f"{args.run} translates pictures: add widths with --std alone, and give them to tools.translate and "
            "tools.evaluate with --weights"
        )
    device = choose_device(args.device)
    with blaming_user():
        if args.search is not None:
            search(args, about, device)
            return 0
        found = list(reconstructed(args.run, list(dict.fromkeys(args.std)), args.step, device))
        if args.strip is None:
            write_sets(args, [(network, known) for _, network, known in found])
        else:
            save_picture(strip(found, args.seed), args.strip, "strip")
            print(f"step {found[-1][2]['step']}, seed {args.seed}: wrote {args.strip}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
