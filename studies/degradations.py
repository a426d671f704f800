"""The degradation study: whether each score says that real pictures, made worse step by step, get worse.

    python -m studies.degradations --data cifar10 --data celeba                      then the table in docs/metrics.md
    python -m studies.degradations --data cifar10 cifar10.tar.gz --extractor inception --n 5000
    python -m studies.degradations --data flowers my/photos --img_size 64 --picture

NAME is a data set, or any word for a folder or archive of one's own, PATH. One half of the pictures is the reference,
the other is degraded: blurred, noisy, stored as JPEG, its patches shuffled, and where there are classes without some of
them. As it is the other half is the floor of every score, and uniform noise the ceiling. What is scored is kept in
--runs_dir, and not scored again.
"""

import signals

if __name__ == "__main__":
    signals.as_command()  # before imports that take seconds

import argparse
import io
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.functional import gaussian_blur

import disk
from errors import UserError, blaming_user, cli, shown
from generation.comparison import UNLABELLED, first_shape
from generation.evaluation import FEW, Evaluator
from generation.extractors import OPENERS, open_extractor
from generation.indexed import IndexedImages, noise_images, opposite_index, real_images
from generation.pictures import picture_table, to_grid, to_picture
from generation.protocol import append_score
from generation.version import code_version
from images.batches import ImageData
from images.cache import cache_folder
from images.sources import DATASETS, load_dataset
from metrics.features import Extractor
from metrics.lines import read_lines
from metrics.score import METRICS
from modelling.layers import as_size
from ops.rng import generator
from settings.command_line import size
from studies.runs import ROOT, save_picture
from tools import tool_parser
from tools.common import add_machine_flags, positive
from training.device import choose_device

BEGIN, END = "<!-- degradations: written by the study -->", "<!-- degradations: end -->"
# Rows of METRICS that need nothing but features, and their scores, whether low or high ones are good.
SCORED = ("fid", "kid", "mind", "pr", "dc")
BETTER = {
    "fid": "low", "fd": "low", "kid": "low", "mind": "low", "precision": "high", "recall": "high", "density": "high",
    "coverage": "high",
}  # fmt: skip
KEPT = (0.9, 0.7, 0.5, 0.3)  # of the classes
SHARE = 0.95  # of what the smallest level has room for: classes are not all of one size
N_SHOWN = 4  # pictures of a level
GRID_SHIFT = 4  # px


# -- degradations --------------------------------------------------------------------------------------------------


def blurred(images: Tensor, sigma: float, source: torch.Generator) -> Tensor:
    """uint8 (N, C, H, W) through a Gaussian of sigma px."""
    reach = min(math.ceil(3 * sigma), min(images.shape[2:]) - 1)
    return gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)


def noisy(images: Tensor, deviation: float, source: torch.Generator) -> Tensor:
    """uint8 (N, C, H, W) with Gaussian noise of so many grey levels."""
    noise = torch.randn(images.shape, generator=source)
    return (images + deviation * noise).round().clamp(0, 255).to(torch.uint8)


def stored(images: Tensor, quality: float, source: torch.Generator) -> Tensor:
    """uint8 (N, 1 or 3, H, W) as JPEG files of a quality hold them, in blocks of 8 px whose borders lie half a block
    from those of the pictures' own files: along the same borders a second rounding can add nothing, or much."""
    found = []
    # torch pads no integers by reflection
    for image in pad(images.float(), [GRID_SHIFT] * 4, mode="reflect").to(torch.uint8):
        file = io.BytesIO()
        to_picture(image).save(file, "JPEG", quality=int(quality))
        # (H, W[, C]) -> (C, H, W)
        pixels = torch.from_numpy(np.array(Image.open(file)))
        found.append(pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1))
    return torch.stack(found)[:, :, GRID_SHIFT:-GRID_SHIFT, GRID_SHIFT:-GRID_SHIFT]


def shuffled(images: Tensor, across: float, source: torch.Generator) -> Tensor:
    """uint8 (N, C, H, W) cut into `across` x `across` patches, each image's in an order of its own; what is left at the
    border stays."""
    n, channels, height, width = images.shape
    k = int(across)
    h, w = height // k, width // k
    # (N, C, k h, k w) -> (N, k k, C, h, w)
    patches = images[:, :, : k * h, : k * w].reshape(n, channels, k, h, k, w).permute(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(n, k * k, channels, h, w)
    order = torch.rand(n, k * k, generator=source).argsort(1)
    patches = patches[torch.arange(n)[:, None], order].reshape(n, k, k, channels, h, w)
    found = images.clone()
    # (N, k, k, C, h, w) -> (N, C, k h, k w)
    found[:, :, : k * h, : k * w] = patches.permute(0, 3, 1, 4, 2, 5).reshape(n, channels, k * h, k * w)
    return found


@dataclass(frozen=True)
class Series:
    """A way to make pictures worse: degrade(images, level, source) at each of its levels, which grow worse; of_side:
    levels are of pictures of 32 px and grow with the side."""

    degrade: Callable[[Tensor, float, torch.Generator], Tensor]
    levels: tuple[float, ...]
    label: str
    of_side: bool = False


SERIES = {
    "blur": Series(blurred, (0.5, 1, 2, 4), "sigma {0:g} px", of_side=True),
    "noise": Series(noisy, (8, 16, 32, 64), "{0:g} grey levels"),
    "JPEG": Series(stored, (50, 25, 10, 5), "quality {0:g}"),
    "patches": Series(shuffled, (2, 4, 8), "{0:g} x {0:g} shuffled"),
}
CLASSES = "classes"


@dataclass(frozen=True)
class Step:
    """A row of the table: one level of a series, or the floor or the ceiling of all."""

    series: str
    label: str
    images: IndexedImages


def degraded(images: IndexedImages, name: str, level: float, label: str) -> IndexedImages:
    """Other images at a level of a series."""

    def chunk(start: int, stop: int) -> Tensor:
        source = generator(0, f"degradation {name} {level:g}", start)
        return SERIES[name].degrade(images.chunk(start, stop), level, source)

    return replace(images, chunk=chunk, y=None, kind=f"{images.kind}, {name}: {label}")


def some_classes(data: ImageData, n: int, kept: int) -> IndexedImages:
    """n images of the first `kept` classes, none of them of the reference; UserError where there are fewer."""
    others = opposite_index(data, len(data) - n)
    mixed = others[torch.randperm(len(others), generator=generator(0, "some classes"))]
    chosen = mixed[torch.from_numpy(data.labels[mixed.numpy()] < kept)][:n]
    if len(chosen) < n:
        raise UserError(
            f"--n {n}: {kept} classes of {data.name} have {len(chosen)} images beside the reference"
        )
    return real_images(data, chosen.sort().values, f"reals: {data.name}, {kept} classes", labelled=False)


def has_classes(data: ImageData) -> bool:
    """Whether images have one class each, of several."""
    return data.labels is not None and not data.multi_hot and data.n_labels > 2


def most_images(data: ImageData) -> int:
    """How many images a half can have, so that the fewest classes have as many."""
    share = min(1.0, KEPT[-1]) if has_classes(data) else 1.0
    return int(len(data) * share / (1 + share) * (SHARE if share < 1 else 1))


def steps_of(data: ImageData, n: int) -> list[Step]:
    """Every row: the floor, the series from mild to severe, the ceiling."""
    floor = real_images(data, opposite_index(data, n), f"reals: {data.name}", labelled=False)
    steps = [Step("none", "the other half as it is", floor)]
    for name, row in SERIES.items():
        scale = min(data.images.shape[1:3]) / 32 if row.of_side else 1
        for level in row.levels:
            label = row.label.format(level * scale)
            steps.append(Step(name, label, degraded(floor, name, level * scale, label)))
    if has_classes(data):
        for share in KEPT:
            kept = math.ceil(share * data.n_labels)
            label = f"{data.n_labels - kept} of {data.n_labels} missing"
            steps.append(Step(CLASSES, label, some_classes(data, n, kept)))
    return [*steps, Step("noise alone", "uniform", noise_images(data, n, seed=0))]


# -- scores --------------------------------------------------------------------------------------------------------


def load_data(name: str, path: str | None, args: argparse.Namespace) -> ImageData:
    """All images of a data set, or of a folder or archive under any name; UserError."""
    row = DATASETS.get(name)
    if row is not None and row.kind != "images":
        raise UserError(f"--data {name}: {name} is of points, not of images")
    if row is None and path is None:
        raise UserError(f"--data {name}: name its folder or archive too, or one of {', '.join(DATASETS)}")
    if row is None:
        height, width, channels = first_shape(Path(path).expanduser())
        side = as_size((height, width))
    else:
        side, channels = row.img_size, row.img_channels
    return load_dataset(
        name,
        img_size=side if args.img_size is None else args.img_size,
        img_channels=channels,
        split="all",
        data=path,
        data_root=args.data_root,
        cache_dir=args.cache_dir,
    )


def score_steps(
    reader: Extractor, data: ImageData, steps: Sequence[Step], n: int, file: Path, cache: Path
) -> list[dict[str, Any]]:
    """A line of scores a step; what `file` holds of the same protocol and code is not scored again."""
    evaluator = Evaluator(
        reader,
        data,
        UNLABELLED,
        n_fake=n,
        n_real=n,
        split="all",
        metrics=[name for name in SCORED if name in METRICS],
        fakes=steps[0].images,
        cache_dir=cache,
    )
    wanted = {
        "n_fake": n,
        "n_real": n,
        "data_fingerprint": data.fingerprint,
        "extractor_sha256": reader.checksum,
    }
    wanted |= {"size": list(data.images.shape[1:])}
    kept = kept_lines(file, wanted)
    for found in kept.values():  # the newest version of the code comes first
        if all(step.images.kind in found for step in steps):
            return [found[step.images.kind] for step in steps]
    found = kept.get(code_version(), {})
    for i, step in enumerate(steps):
        if step.images.kind not in found:
            print(f"{data.name}, {step.series}: {step.label} ({i + 1} of {len(steps)})", flush=True)
            evaluator.fakes = step.images
            found[step.images.kind] = evaluator.score(step=0)
            append_score(file, found[step.images.kind])
    return [found[step.images.kind] for step in steps]


def kept_lines(file: Path, wanted: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Version of the code -> what was scored -> its line, of the lines of a file that are of a protocol; the version of
    the last line comes first."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for line in reversed(read_lines(file) if file.exists() else []):
        about = line.get("protocol")
        if isinstance(about, dict) and wanted.items() <= about.items():
            found.setdefault(str(about.get("code")), {}).setdefault(str(about.get("fakes")), line)
    return found


def values_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a line, without the extractor's name."""
    found = {name.partition("[")[0]: value for name, value in line.items()}
    return {name: found[name] for name in BETTER if name in found}


def is_monotone(values: Sequence[float], better: str) -> bool:
    """Whether a score never gets better, and gets worse over all."""
    worse = values if better == "low" else [-v for v in values]
    return all(a <= b for a, b in pairwise(worse)) and worse[0] < worse[-1]


# -- report --------------------------------------------------------------------------------------------------------


def section(data: ImageData, reader: Extractor, steps: Sequence[Step], lines: Sequence[dict]) -> list[str]:
    """The table of a data set, and which scores follow each series."""
    scores = [values_of(line) for line in lines]
    names = list(scores[0])
    about = lines[0]["protocol"]
    text = [
        f"### {data.name}, read by {reader.name}",
        "",
        f"{about['n_real']:,} reference pictures of {' x '.join(map(str, about['size']))}, {about['n_fake']:,} others "
        f"a row; `{reader.name}` {reader.checksum[:16]}…, version {about['code']}.",
        "",
        f"| series | level | {' | '.join(names)} |",
        "|---" * (2 + len(names)) + "|",
    ]
    text += [
        f"| {step.series} | {step.label} | {' | '.join(f'{found[name]:.4g}' for name in names)} |"
        for step, found in zip(steps, scores, strict=True)
    ]
    text += ["", "Never better and worse in the end, from the floor to the last level:", ""]
    text += [f"| series | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for series in dict.fromkeys(step.series for step in steps[1:-1]):
        way = [scores[0], *(s for step, s in zip(steps, scores, strict=True) if step.series == series)]
        cells = ["yes" if is_monotone([s[name] for s in way], BETTER[name]) else "no" for name in names]
        text.append(f"| {series} | {' | '.join(cells)} |")
    return [*text, ""]


def picture_of(steps: Sequence[Step]) -> Image.Image:
    """The same pictures at every level: a row a series, from none to the last level."""
    shown_steps = {step.series: [] for step in steps[1:-1]}
    for step in steps[1:-1]:
        shown_steps[step.series].append(step)

    def cell(step: Step) -> Image.Image:
        grid = to_grid(step.images.chunk(0, N_SHOWN), N_SHOWN // 2)
        return grid.resize((grid.width * 2, grid.height * 2), Image.Resampling.NEAREST)

    rows = [(name, [cell(step) for step in (steps[0], *group)]) for name, group in shown_steps.items()]
    n = max(len(row) for _, row in rows)
    return picture_table(["as it is", *(f"level {i}" for i in range(1, n))], rows)


def around_marks(out: Path) -> tuple[str, str]:
    """What stands until the first mark of a file, and from the second one on; a new file has these alone. UserError
    where there are none."""
    text = disk.read_text(out, disk.JSON_LIMIT) if out.exists() else f"{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"--out {out} has no lines {BEGIN} and {END} to write between")
    return before + begin, end + after


def write_between(lines: Sequence[str], out: Path) -> None:
    """Put lines between the two marks of a file; UserError."""
    before, after = around_marks(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        disk.put(out, "\n".join([before, "", *lines, after]))
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    print(f"wrote {out}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("studies.degradations", __doc__)
    about = "a data set, or any name, and where its images stand; once for each"
    p.add_argument("--data", nargs="+", action="append", required=True, metavar=("NAME", "PATH"), help=about)
    p.add_argument("--extractor", default="lite0", choices=tuple(OPENERS), help="[lite0]")
    p.add_argument("--metric_weights", type=Path, metavar="PATH", help="file of its weights")
    about = f"pictures of each half [{FEW}, or as many as there are]"
    p.add_argument("--n", type=positive, help=about)
    about = "side, or HEIGHTxWIDTH (default: the data set's, or that of the first image)"
    p.add_argument("--img_size", type=size, metavar="PX", help=about)
    p.add_argument("--data_root", default="data", help="where data sets stand or are downloaded to [data]")
    p.add_argument("--runs_dir", type=Path, default=Path("runs/degradations"), help="[runs/degradations]")
    about = "also draw the levels, images/degradations_NAME.png beside --out: mind whose pictures they are"
    p.add_argument("--picture", action="store_true", help=about)
    about = "file with the marks between which the table is written [docs/metrics.md]"
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "metrics.md", help=about)
    add_machine_flags(p)
    return p


def planned(args: argparse.Namespace, name: str, path: str | None) -> tuple[ImageData, int]:
    """A data set, and how many of its images a half has; UserError."""
    data = replace(load_data(name, path, args), name=name)
    most = most_images(data)
    n = min(FEW, most) if args.n is None else args.n
    if n > most:
        raise UserError(f"--n {n}: {name} has {len(data)} images, room for halves of {most}")
    return data, n


def study(args: argparse.Namespace, data: ImageData, n: int, reader: Extractor) -> list[str]:
    """The section of one data set."""
    steps, name = steps_of(data, n), data.name
    args.runs_dir.mkdir(parents=True, exist_ok=True)
    file = args.runs_dir / f"{name}.jsonl"
    lines = score_steps(reader, data, steps, n, file, cache_folder(args.cache_dir))
    text = section(data, reader, steps, lines)
    if args.picture:
        text += [save_picture(picture_of(steps), args.out, f"degradations_{name}"), ""]
    return text


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Degrade, score what is not scored yet, write the table."""
    args = parser().parse_args(argv)
    for given in args.data:
        if len(given) > 2 or Path(given[0]).name != given[0]:
            raise UserError(
                f"--data {shown(' '.join(given))}: give a plain NAME and, where it needs one, a PATH"
            )
    around_marks(args.out)
    with blaming_user():
        reader = open_extractor(
            args.extractor, args.metric_weights, args.cache_dir, choose_device(args.device)
        )
        # what is missing is said now, not after hours
        sets = [planned(args, given[0], (given[1:] or [None])[0]) for given in args.data]
        sections = [study(args, data, n, reader) for data, n in sets]
    write_between([line for lines in sections for line in lines], args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
