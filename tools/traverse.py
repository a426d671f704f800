"""See what the codes of a trained InfoGAN do, and how well its category tells the digit.

    python -m tools.traverse RUN --out traversal.png
    python -m tools.traverse RUN --out traversal.png --rows 5 --range 2
    python -m tools.traverse RUN --out traversal.png --extractor mnist-cnn --n 10000

One picture with a block a code. category: a column a category, a row a sample of noise and other codes. c1, c2, ...: a
column a value from -RANGE to RANGE, a row a sample, their categories in turn. With --extractor the classifier reads N
samples, and the best one-to-one assignment of categories to its classes says how many it would name rightly.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from errors import UserError, blaming_user, cli
from generation.extractors import open_extractor
from generation.generator import load_generator
from generation.latents import DRAWN_AT_ONCE, latents
from generation.pictures import picture_blocks, table_cell
from generation.protocol import score_line
from generation.sampling import render
from metrics.features import EXTRACTORS, Extractor, extract, to_uint8
from metrics.lines import GENERATOR
from metrics.modes import assignment_accuracy, confusion
from modelling.infogan import Generator
from tools import tool_parser
from tools.common import (
    add_generator_flags,
    add_machine_flags,
    append_line,
    finite,
    picture_path,
    positive,
    save_picture,
    scores_file,
    whole,
)
from training.device import choose_device

RANGES = {"uniform": 1.0, "normal": 2.0}  # by G's prior
N_VALUES = 9  # columns of a continuous code

Block = tuple[str, list[str], Tensor]  # title, names of the columns, uint8 images (rows, columns, C, H, W)


def traversals(G: Generator, z: Tensor, limit: float) -> Iterator[Block]:
    """A block a code from latents (rows, z_dim)."""
    noise, category, continuous = G.codes(z)
    rows = len(z)
    names = [str(i) for i in range(G.n_categories)]
    each = torch.arange(G.n_categories, device=z.device)
    yield "category", names, columns_of(G, noise, each.expand(rows, -1), continuous[:, None])
    category = torch.arange(rows, device=z.device) % G.n_categories
    values = torch.linspace(-limit, limit, N_VALUES, device=z.device, dtype=z.dtype)
    for i in range(G.n_continuous):
        moved = continuous[:, None].repeat(1, N_VALUES, 1)  # (rows, columns, n_continuous)
        moved[:, :, i] = values
        names = [f"{v:.2g}" for v in values.tolist()]
        yield f"c{i + 1}", names, columns_of(G, noise, category[:, None].expand(-1, N_VALUES), moved)


def columns_of(G: Generator, noise: Tensor, category: Tensor, continuous: Tensor) -> Tensor:
    """uint8 images (rows, columns, C, H, W) of noise (rows, n) that all columns of a row share.

    category: (rows, columns); continuous: (rows, columns or 1, n_continuous).
    """
    rows, columns = category.shape
    noise = noise[:, None].expand(-1, columns, -1)
    continuous = continuous.expand(-1, columns, -1)
    images = G.decode(noise.flatten(0, 1), category.flatten(), continuous.flatten(0, 1))
    return to_uint8(images).cpu().unflatten(0, (rows, columns))


def draw(blocks: Sequence[Block]) -> Image.Image:
    """The blocks below each other, each under its title and the names of its columns."""
    return picture_blocks(
        [(title, names, [[*map(table_cell, row)] for row in images]) for title, names, images in blocks]
    )


def read_samples(G: Generator, extractor: Extractor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Categories (n,) asked of G and the extractor's logits (n, K), of the samples 0 to n - 1."""
    asked: list[Tensor] = []

    def images() -> Iterator[Tensor]:
        for start in range(0, n, DRAWN_AT_ONCE):
            z = latents(seed, start, min(DRAWN_AT_ONCE, n - start), G.z_dim)
            asked.append(G.codes(z)[1])
            yield render(G, z, None)

    _, logits = extract(extractor, images())
    return torch.cat(asked), logits.cpu()


def assignment_report(category: Tensor, logits: Tensor, n_categories: int) -> tuple[float, str]:
    """Accuracy of the best assignment; that and how often each category shows each class, as text."""
    seen, n_classes = logits.argmax(1), logits.shape[1]
    n = max(n_categories, n_classes)
    accuracy, assignment = assignment_accuracy(category, seen, n)
    counts = confusion(category, seen, n)[:n_categories, :n_classes]
    lines = [
        f"category tells the class: {accuracy:.2%}, by the best of one-to-one assignments",
        "category -> class  " + "".join(f"{j:>6}" for j in range(n_classes)),
    ]
    for i, row in enumerate(counts.tolist()):
        to = str(assignment[i]) if assignment[i] < n_classes else "-"
        lines.append(f"{i:>8} -> {to:<7}" + "".join(f"{count:>6}" for count in row))
    return accuracy, "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.traverse", __doc__)
    add_generator_flags(p)
    p.add_argument("--out", required=True, help="NAME.png, NAME.jpg or NAME.webp")
    p.add_argument("--rows", type=positive, default=10, help="samples in each block [10]")
    about = "continuous codes go from minus this to this [1 for uniform codes, 2 for normal ones]"
    p.add_argument("--range", dest="limit", metavar="RANGE", type=finite, help=about)
    p.add_argument(
        "--extractor", choices=tuple(EXTRACTORS), help="classifier that reads samples (default: none)"
    )
    p.add_argument(
        "--metric_weights",
        type=Path,
        metavar="PATH",
        help="its file (default: as tools.train_classifier wrote it)",
    )
    p.add_argument("--n", type=positive, default=10_000, help="samples that it reads [10000]")
    p.add_argument("--seed", type=whole, default=0, help="samples are a function of it [0]")
    add_machine_flags(p)
    return p


@cli
@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    """Load the generator, draw the picture, read samples where asked."""
    args = parser().parse_args(argv)
    out = picture_path(args.out)
    if args.limit is not None and args.limit <= 0:
        raise UserError(f"--range {args.limit:g} must be above 0")
    device = choose_device(args.device)
    G, config = load_generator(args.run, args.weights, device, args.checkpoint)
    if not isinstance(G, Generator):
        raise UserError(f"{args.run}: {config['model']} has no codes; --model infogan has")
    extractor = None
    if args.extractor is not None:
        with blaming_user():
            extractor = open_extractor(args.extractor, args.metric_weights, args.cache_dir, device)
    z = latents(args.seed, 0, args.rows, G.z_dim).to(next(G.parameters()))
    with blaming_user():
        blocks = list(traversals(G, z, RANGES[G.prior] if args.limit is None else args.limit))
    save_picture(draw(blocks), out)
    print(
        f"{config['model']}, step {config['step']}, {config['chosen']} weights, seed {args.seed}: wrote {out}"
    )
    if extractor is not None:
        with blaming_user():
            category, logits = read_samples(G, extractor, args.n, args.seed)
            accuracy, text = assignment_report(category, logits, G.n_categories)
        print(f"{args.n} samples read by {extractor.name} {extractor.checksum[:16]}\n{text}")
        about = {
            "fakes": GENERATOR,
            "n_fake": args.n,
            "extractor": extractor.name,
            "extractor_sha256": extractor.checksum,
            "weights": config["chosen"],
            "batch_norm": config["batch_norm"],
            "seed": args.seed,
        }
        line = score_line(config["step"], {"category_accuracy": accuracy}, about, torch.device(device))
        append_line(scores_file(args.run), line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
