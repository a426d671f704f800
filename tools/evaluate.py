"""Score a trained generator: how far its images are from the data, what they show, and how that was measured.

    python -m tools.evaluate RUN                                                 Inception, where its weights are
    python -m tools.evaluate RUN --extractor mnist-cnn                           an offline network in its place
    python -m tools.evaluate RUN --extractor mnist-cnn --balanced --metrics fid intra_fid
    python -m tools.evaluate RUN --extractor mnist-cnn --fakes test              the floor: real images as fakes
    python -m tools.evaluate RUN --extractor mnist-cnn --fakes noise             the ceiling
    python -m tools.evaluate --reals PHOTOS --fakes PICTURES --extractor lite0         two folders or archives, no run
    torchrun --standalone --nproc_per_node 2 -m tools.evaluate RUN --n_fake 50000      on several processes alike
    python -m tools.evaluate RUN --metrics ssim fid                              a run that translates pictures

RUN is a run's folder or its generator/ folder alone. N fakes are compared with as many reals, or --n_real. Prints a
table and appends one JSON line, with the whole protocol, to scores.jsonl in the run's folder, or in a generator/
folder that stands alone; of two folders, which are cut to the shape of their first fake, nothing is kept. Two scores
can be compared when their protocols are equal, extractor's checksum included; scores of other networks than the
published Inception carry their name: fid[mnist-cnn].

A run that translates pictures is scored on its validation part, each picture against its target where pictures are
paired; of CycleGAN's two directions the scores of the second say so: fid[lite0] BtoA.

Metrics:
{METRICS}
  of pairs of pictures:
{PAIRWISE}
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from errors import UserError, blaming_user, cli, shown
from generation.comparison import compared, has_colour
from generation.evaluation import FEW, Evaluator, PointEvaluator
from generation.extractors import OPENERS
from generation.generator import find_generator, load_generator, read_config
from generation.indexed import IndexedImages, chosen_images, noise_images
from generation.neighbours import check_place, save_strip
from generation.sampling import with_truncation
from generation.views import view_of
from images.archives import open_files
from images.layout import SPLIT_ORDER
from images.scan import sample_of
from images.sources import DATASETS, ImageData, load_dataset
from metrics.lines import GENERATED, GENERATOR
from metrics.pairwise import PAIRWISE
from metrics.score import METRICS
from ops.distributed import from_main, process
from settings.command_line import size
from tools import tool_parser
from tools.common import (
    add_generator_flags,
    add_machine_flags,
    add_truncation_flags,
    append_line,
    positive,
    scores_file,
    together,
    warn,
    whole,
)
from tools.validation import UNFIT, run_settings, score_translations

# Flags that mean something for a run alone, and those for two folders alone.
OF_RUNS = (
    "weights", "checkpoint", "split", "balanced", "truncation", "truncation_layers", "seed", "data_root", "data",
    "data_b",
)  # fmt: skip
OF_FOLDERS = ("reals", "img_size")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "\n".join(
        f"  {name:<12} {row.help}{'' if row.default else ' (only if named)'}" for name, row in METRICS.items()
    )
    of_pairs = "\n".join(f"  {name:<12} {row.help}" for name, row in PAIRWISE.items())
    p = tool_parser("tools.evaluate", (__doc__ or "").format(METRICS=about, PAIRWISE=of_pairs))
    add_generator_flags(p, nargs="?")
    about = "a folder or archive of images, in place of RUN: what --fakes PATH is held against"
    p.add_argument("--reals", metavar="PATH", help=about)
    about = "network that reads the images (default: inception where its weights are, else the data's own, else lite0)"
    p.add_argument("--extractor", choices=tuple(OPENERS), help=about)
    about = "file of its weights (default: as shipped, trained by tools.train_classifier, or downloaded once)"
    p.add_argument("--metric_weights", type=Path, metavar="PATH", help=about)
    about = "scores to compute (default: all that the extractor and the data allow, but those that are only if named)"
    p.add_argument("--metrics", nargs="+", choices=(*METRICS, *PAIRWISE), metavar="NAME", help=about)
    about = (
        f"number of fakes [{FEW}, or all of --fakes where these are fewer; of --reals all]; under torchrun say "
        "--n_fake, since --n could be one of its own"
    )
    p.add_argument("--n", "--n_fake", type=positive, help=about)
    about = "number of reals (default: as many as fakes, or all where there are fewer)"
    p.add_argument("--n_real", type=positive, help=about)
    about = "of the reals (default: that of the training)"
    p.add_argument("--split", choices=(*SPLIT_ORDER, "all"), help=about)
    about = (
        f"what is scored: {GENERATOR}, a split of the data ({', '.join(SPLIT_ORDER)}), uniform noise, or a folder or "
        f"archive of images [{GENERATOR}]"
    )
    p.add_argument("--fakes", default=GENERATOR, metavar=f"{GENERATOR}|test|train|noise|PATH", help=about)
    about = "fakes of a generator of classes take turns through them (default: the labels of the reference)"
    p.add_argument("--balanced", action="store_true", help=about)
    about = "draw the fakes most like copies above the training images that they are nearest to; adds memorisation"
    p.add_argument("--neighbours", type=Path, metavar="FILE.png", help=about)
    about = "of --reals and --fakes: a side, or HEIGHTxWIDTH (default: that of the first fake)"
    p.add_argument("--img_size", type=size, metavar="PX", help=about)
    add_truncation_flags(p)
    p.add_argument("--seed", type=whole, default=0, help="fakes are a function of it [0]")
    p.add_argument("--data_root", help="where the data set's files stand (default: as in training)")
    p.add_argument("--data", help="folder or archive of images in place of them (default: as in training)")
    about = "of a run that translates pictures: those of side B, where --data has side A alone"
    p.add_argument("--data_b", metavar="PATH", help=about)
    add_machine_flags(p)
    return p


def places_of(run: str) -> dict[str, Any]:
    """Where a run's config.json says that its data stand; nothing for a generator/ folder alone."""
    saved = run_settings(run)
    return {name: saved[name] for name in ("data", "data_root") if isinstance(saved.get(name), str)}


def run_images(
    args: argparse.Namespace, config: dict[str, Any], split: str, data: str | None = None
) -> ImageData:
    """A split of the run's data set at its size, or of the images at `data`.

    --data_root and --data win over what the run's config.json remembers, which a generator/ alone is without.
    """
    held = config["data"]
    places = held | places_of(args.run)
    remembered = places.get("data") if args.data is None else args.data
    if remembered is None and (held.get("files") or config["dataset"] not in DATASETS):
        what = held.get("files") or "images given in Python"
        raise UserError(f"{args.run} was trained on {shown(what)}: name a folder or archive with --data")
    return load_dataset(
        config["dataset"],
        img_size=config["build"]["img_size"],
        img_channels=config["build"]["img_channels"],
        split=split,
        data_root=places.get("data_root") if args.data_root is None else args.data_root,
        data=remembered if data is None else data,
        cache_dir=args.cache_dir,
        crop=held.get("crop", "centre"),
        # other images are read by the scale that the run's have
        value_range=held.get("value_range" if data is None and args.data is None else "scale"),
        is_main=process() == 0,
    )


def load_fakes(
    args: argparse.Namespace, config: dict[str, Any], data: ImageData, split: str
) -> IndexedImages | None:
    """What --fakes names in place of the generator's images, None for those; UserError for too few.

    split: of the reference.
    """
    if args.fakes == GENERATOR:
        return None
    if args.balanced or args.truncation is not None:
        raise UserError(f"--fakes {args.fakes}: --balanced and --truncation are for a generator's")
    if args.fakes == "noise":
        return noise_images(data, args.n or FEW, args.seed)
    if args.fakes in SPLIT_ORDER:
        others, kind = run_images(args, config, args.fakes), f"reals: {data.name} {args.fakes}"
    else:
        others, kind = run_images(args, config, "all", args.fakes), f"reals: {Path(args.fakes).name}"
        warn_of_colour(Path(args.fakes).expanduser(), data)
    if split == "all" and args.fakes in SPLIT_ORDER:
        warn(f"the reference, --split all, holds {args.fakes} too: some fakes are among it")
    n = min(FEW, len(others)) if args.n is None else args.n
    kind = f"{kind}, {others.fingerprint}"
    return chosen_images(others, data, n, kind, f"--fakes {args.fakes}")


def warn_of_colour(path: Path, data: ImageData) -> None:
    """Say where the files show colour and the reference none, or the other way round."""
    try:
        coloured = has_colour(path)
    except UserError:  # arrays
        coloured = sample_of(open_files(path)).channels in (3, 4)
    if coloured == has_colour(data):
        return
    if data.img_channels == 1:
        warn(f"{path} is in colour and read in grey, as the reference is")
    else:
        kinds = ("in colour", "grey") if coloured else ("grey", "in colour")
        warn(f"{path} is {kinds[0]}, the reference is {kinds[1]}: scores tell that first of all")


# How people read a score, by its name without the extractor's; in any other case four digits.
SCORE_FORMATS = {
    "fid": "{:.3f}",
    "intra_fid": "{:.3f}",
    "classes": "{}",
    "kl_uniform": "{:.4f} nats",
    "kl_data": "{:.4f} nats",
    "class_accuracy": "{:.1%}",
    "authpct": "{:.1f} %",
    "duplicates": "{:.1%}",
    "psnr": "{:.2f} dB",
}
TITLES = {
    "classes": "classes shown",
    "kl_uniform": "KL to uniform",
    "kl_data": "KL to data",
    "class_accuracy": "read as asked",
}
MANY_COPIES = 0.1  # of the fakes
N_LISTED = 20  # classes shown one by one


def score_text(name: str, value: Any, result: dict[str, Any]) -> str:
    """One score as text, with its deviation where it has one."""
    if isinstance(value, list):
        each = [f"{i}: {'-' if v is None else f'{v:.3g}'}" for i, v in enumerate(value[:N_LISTED])]
        return "  ".join(each) + (" ..." if len(value) > N_LISTED else "")
    plain, space, way = name.partition(" ")
    stem, bracket, rest = plain.partition("[")
    text = SCORE_FORMATS.get(stem, "{:.4f}").format(value)
    if stem == "classes":
        text += f" of {len(result[f'shares{space}{way}'])}"
    deviation = result.get(f"{stem}_std{bracket}{rest}{space}{way}")
    return text if deviation is None else f"{text} +- {deviation:.4f}"


def score_table(result: dict[str, Any]) -> str:
    """A line of scores.jsonl as lines for people."""
    about = result["protocol"]
    what = f"{about['weights']} weights" if about["fakes"] in GENERATED else shown(about["fakes"])
    reference = shown(about["reference"])
    if "split" in about:
        reference = f"{about['n_real']} reals of {reference}"
        reference += f" {about['split']}" if "step" in about else f", {' x '.join(map(str, about['size']))}"
    if "step" in about:
        what = f"step {about['step']}, {what}, seed {about['seed']}"
    head = f"{what}: {about['n_fake']} fakes, {reference}"
    notes = [f"{about['extractor']} {about['extractor_sha256'][:16]}"] if "extractor" in about else []
    for name in ("truncation", "batch_norm", "labels"):
        if about.get(name) is not None:
            notes.append(f"{name.replace('_', ' ')}{': ' if name == 'batch_norm' else ' '}{about[name]}")
    scores = {k: v for k, v in result.items() if k not in ("step", "protocol", "date") and "_std" not in k}
    width = max(len(TITLES.get(name, name)) for name in scores)
    rows = [
        f"{TITLES.get(name, name):<{width}}  {score_text(name, value, result)}"
        for name, value in scores.items()
    ]
    return "\n".join([head, ", ".join(notes), *rows])


def given_of(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Those of the flags that say something else than when they are left out."""
    usual = parser().parse_args([])
    return [name for name in names if getattr(args, name) != getattr(usual, name)]


def make_evaluator(
    args: argparse.Namespace, config: dict[str, Any], device: str
) -> Evaluator | PointEvaluator:
    """What scores the run as the flags want it."""
    view = view_of(config["dataset"])
    if given := given_of(args, view.unfit):
        raise UserError(
            f"--{given[0]}: the points of {config['dataset']} are held against its mixture; leave the flag out"
        )
    reader = view.reader(args.extractor, args.metric_weights, args.cache_dir, device)
    held = config["data"]
    split = args.split or held.get("split", "train")
    data = run_images(args, config, split)
    fakes = load_fakes(args, config, data, split)
    evaluator = view.evaluator(
        reader,
        data,
        config,
        n_fake=args.n or FEW if fakes is None else fakes.n,
        n_real=args.n_real,
        split=split,
        metrics=args.metrics,
        seed=args.seed,
        balanced=args.balanced,
        fakes=fakes,
        cache_dir=args.cache_dir,
        neighbours=args.neighbours is not None,
    )
    if split == held.get("split") and data.fingerprint != held.get("fingerprint"):
        warn("the reference is not the data that the run was trained on")
    return evaluator


def compare_folders(args: argparse.Namespace, device: str) -> None:
    """Score the images of --fakes against those of --reals, and print."""
    if given := given_of(args, OF_RUNS):
        raise UserError(f"--{given[0]} is for a run, and --reals and --fakes name images; leave the flag out")
    if args.fakes == GENERATOR:
        raise UserError(f"--reals {args.reals}: name the images to hold against them with --fakes PATH")
    found, picture = compared(
        args.reals,
        args.fakes,
        args.extractor,
        metrics=args.metrics,
        n=args.n,
        n_real=args.n_real,
        img_size=args.img_size,
        metric_weights=args.metric_weights,
        cache_dir=args.cache_dir,
        device=device,
        draw=args.neighbours is not None,
    )
    if process() == 0:
        print(score_table(found))
        show_copies(found, picture, args.neighbours)


def evaluate(args: argparse.Namespace, device: str) -> None:
    """Load generator, extractor and reference, score, print and append."""
    if given := given_of(args, OF_FOLDERS):
        raise UserError(f"--{given[0]} is for two folders of images, without a RUN; leave the flag out")
    if read_config(find_generator(args.run))["translates"] is not None:
        if given := given_of(args, UNFIT):
            raise UserError(
                f"--{given[0]}: a run that translates pictures is scored on its validation part; leave it out"
            )
        line, beside = score_translations(args, device)
        if process() == 0:
            print(score_table(line))
            for text in beside:
                print(text)
            append_line(scores_file(args.run), line)
        return
    if args.data_b is not None:
        raise UserError("--data_b is for a run that translates pictures; leave it out")
    G, config = load_generator(args.run, args.weights, device, args.checkpoint)
    G, how = with_truncation(G, config, args.truncation, args.truncation_layers)
    evaluator = make_evaluator(args, config, device)
    of_generator = {"weights": config["chosen"], "batch_norm": config["batch_norm"]}
    if args.fakes != GENERATOR:
        of_generator = {}
    line = evaluator.score(G, step=config["step"], **of_generator, **how)
    if process() == 0:
        print(score_table(line))
        append_line(scores_file(args.run), line)
        show_copies(line, None if args.neighbours is None else evaluator.picture, args.neighbours)


def show_copies(line: dict[str, Any], picture: Image.Image | None, file: Path | None) -> None:
    """Write the strip of neighbours; say where many fakes are as near to one training image as copies are."""
    if picture is not None and file is not None:
        save_strip(picture, file)
        print(f"wrote {file}")
    share = next((value for name, value in line.items() if name.partition("[")[0] == "duplicates"), 0.0)
    if share > MANY_COPIES:
        repeats = ": the generator repeats what it was trained on"
        warn(
            f"{share:.0%} of the fakes are as near to one training image as copies are (of new ones at most 1%)"
            f"{repeats if line['protocol']['fakes'] == GENERATOR else ''}; {file or '--neighbours FILE.png'} shows them"
        )


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, join the other processes, evaluate."""
    args = parser().parse_args(argv)
    if args.neighbours is not None and args.neighbours.suffix.lower() != ".png":
        raise UserError(f"--neighbours {args.neighbours}: a picture is written: give FILE.png")
    if args.run is None and args.reals is None:
        raise UserError("name a RUN, or two folders of images: --reals PATH --fakes PATH")
    with together(args.device) as device, blaming_user():
        if args.neighbours is not None:
            from_main(lambda: check_place(args.neighbours))
        (compare_folders if args.run is None else evaluate)(args, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
