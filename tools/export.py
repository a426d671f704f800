"""Write a trained generator as ONNX, or as a page that samples in the browser.

    python -m tools.export RUN --onnx model.onnx            for onnxruntime and whatever reads ONNX
    python -m tools.export RUN --page docs/demo             index.html and all it needs, for GitHub Pages
    python -m http.server --directory docs/demo             ... or to look at it: http://localhost:8000
    python -m tools.export RUN --onnx BtoA.onnx --direction BtoA

RUN is a run's folder or its generator/ folder alone. The file is held against the generator through onnxruntime before
it is kept: images of batches of 1 and 5 differ by at most 1e-4. Its inputs are float32: z (N, z_dim), y (N, labels)
with a 1 for the class or each attribute, truncation (1,) of models with styles; of runs that translate x (N, C, H, W)
in [-1, 1]. Its output is image (N, C, H, W) in [-1, 1]. Noise of StyleGAN's layers is the constant one, pix2pix's
dropout is off. What the file is of stands in its metadata.

The page needs onnxruntime-web, 14 MB of files that are copied beside it: they are downloaded once, checked and cached,
or taken from --ort.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from errors import UserError, cli
from generation.generator import load_generator, opened
from generation.onnx_file import Graph, need_onnx, sampling_graph, translating_graph, write_onnx
from generation.sampling import with_truncation
from generation.translator import load_translator
from tools import tool_parser
from tools.card import LICENCES
from tools.common import add_generator_flags, add_truncation_flags, make_folder
from tools.static_page import ort_files, write_page


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.export", __doc__)
    add_generator_flags(p)
    p.add_argument("--onnx", metavar="FILE.onnx", help="write one file")
    p.add_argument("--page", metavar="DIR", help="write a page that samples in the browser")
    about = "write over what stands there; without, FILE must not exist and DIR be empty"
    p.add_argument("--overwrite", action="store_true", help=about)
    about = "of a run that translates both ways (default: of FILE the run's own, of the page both)"
    p.add_argument("--direction", choices=("AtoB", "BtoA"), help=about)
    add_truncation_flags(p)
    about = "of the weights, for the file's metadata and the page [none told]"
    p.add_argument("--license", choices=tuple(LICENCES), help=about)
    about = "npm package onnxruntime-web, a folder or .tgz (default: downloaded once)"
    p.add_argument("--ort", metavar="PATH", help=about)
    p.add_argument("--cache_dir", help="where onnxruntime-web is kept (default: the user's cache)")
    return p


def check_places(args: argparse.Namespace) -> None:
    """UserError for flags without an output, and for outputs that are no such file or folder, or that are there."""
    if args.onnx is None and args.page is None:
        raise UserError("give --onnx FILE.onnx or --page DIR, or both")
    if args.page is None and (args.ort is not None or args.cache_dir is not None):
        raise UserError("--ort and --cache_dir are for --page DIR: give that too, or leave them out")
    if args.onnx is not None:
        file = Path(args.onnx)
        if file.suffix.lower() != ".onnx" or file.is_dir():
            raise UserError(f"--onnx {file}: name a file that ends in .onnx")
        if file.exists() and not args.overwrite:
            raise UserError(f"--onnx {file} exists: choose another name, or give --overwrite to replace it")
    if args.page is not None:
        folder = Path(args.page)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--page {folder} is no folder: name one for the page")
        if folder.is_dir() and any(folder.iterdir()) and not args.overwrite:
            raise UserError(
                f"--page {folder} is not empty: choose another folder, or give --overwrite to write over it"
            )


def graphs_of(args: argparse.Namespace) -> tuple[dict[str, Graph], dict]:
    """(graphs by the names of their files on a page, the run's own direction first, what is known of the run)."""
    if opened(args.run, args.weights)[1]["translates"] is None:
        if args.direction is not None:
            raise UserError(
                f"--direction {args.direction}: {args.run} makes pictures of noise, not of pictures"
            )
        G, about = load_generator(args.run, args.weights, "cpu", args.checkpoint)
        G, _ = with_truncation(G, about, args.truncation, args.truncation_layers)
        how = {"truncation": args.truncation, "truncation_layers": args.truncation_layers}
        return {"model.onnx": sampling_graph(G, about, license=args.license, **how)}, about
    if args.truncation is not None or args.truncation_layers is not None:
        raise UserError(f"--truncation: {args.run} translates pictures and has no latents; leave it out")
    translator = load_translator(args.run, args.weights, "cpu", args.checkpoint)
    wanted = translator.directions if args.direction is None else (args.direction,)
    graphs = {f"{d}.onnx": translating_graph(translator, d, license=args.license) for d in wanted}
    return graphs, translator.about


def told(graph: Graph) -> str:
    """What a graph takes, in one line, and what it leaves out."""
    card, names = graph.card, []
    for name, shape in graph.shapes.items():
        if name == "x" and card["dynamic"]:
            shape = (shape[0], "H", "W")
        names.append(f"{name} ({', '.join(map(str, shape if name in graph.fixed else ('N', *shape)))})")
    text = ", ".join(names)
    if graph.sides is not None:
        height, width = graph.shapes["x"][1:]
        sides = f"sides {graph.sides}" if card["dynamic"] else f"{height} x {width} px alone"
        return f"{card['direction']}: {text}, {sides}{'; dropout off' if card['noise'] == 'none' else ''}"
    return text + ("; noise of the layers constant" if card["noise"] == "constant" else "")


def write(args: argparse.Namespace) -> None:
    """Write what is asked for, and say what it is."""
    ort = None if args.page is None else ort_files(args.ort, args.cache_dir)
    graphs, about = graphs_of(args)
    print(
        f"{about['model']}, step {about['step']}, {about['chosen']} weights, batch norm: {about['batch_norm']}"
    )
    if args.onnx is not None:
        file, graph = Path(args.onnx), next(iter(graphs.values()))
        make_folder(file.parent)
        found = write_onnx(graph, file)
        print(
            f"wrote {file} ({file.stat().st_size / 1e6:,.1f} MB, opset {graph.card['opset']}): {told(graph)}"
        )
        print(f"largest difference from the generator's images: {found:.1e}")
    if ort is not None:
        folder = Path(args.page)
        found = write_page(folder, graphs, about, ort)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"wrote {folder}/ ({size / 1e6:,.1f} MB): {'; '.join(map(told, graphs.values()))}")
        print(f"largest difference from the generator's images: {found:.1e}")
        print(f"to look at it: python -m http.server --directory {folder}, then http://localhost:8000")


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Load the generator, write, check."""
    args = parser().parse_args(argv)
    check_places(args)
    need_onnx()
    try:
        write(args)
    except OSError as error:
        place = args.onnx if args.page is None else args.page
        raise UserError(f"{place}: {error.strerror or error}") from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
