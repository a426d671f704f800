"""Score a trained generator: how far its images are from the data, what they show, and how that was measured.

    python -m tools.evaluate RUN                                                 Inception, where its weights are
    python -m tools.evaluate RUN --extractor mnist-cnn                           an offline network in its place
    python -m tools.evaluate RUN --extractor mnist-cnn --balanced --metrics fid intra_fid
    python -m tools.evaluate RUN --extractor mnist-cnn --fakes test              the floor: real images as fakes
    python -m tools.evaluate RUN --extractor mnist-cnn --fakes noise             the ceiling
    torchrun --standalone --nproc_per_node 2 -m tools.evaluate RUN --n_fake 50000      on several processes alike

RUN is a run's folder or its generator/ folder alone. N fakes are compared with as many reals, or --n_real. Prints a
table and appends one JSON line, with the whole protocol, to scores.jsonl in the run's folder, or in a generator/
folder that stands alone. Two scores can be compared when their protocols are equal, extractor's checksum included;
scores of other networks than the published Inception carry their name: fid[mnist-cnn].

Metrics:
{METRICS}
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import disk
from errors import UserError, blaming_user, cli, shown
from generation.evaluation import FEW, Evaluator, PointEvaluator
from generation.extractors import OPENERS
from generation.generator import load_generator
from generation.indexed import IndexedImages, chosen_images, noise_images
from generation.protocol import GENERATOR
from generation.sampling import with_truncation
from generation.views import view_of
from images.layout import SPLIT_ORDER
from images.sources import DATASETS, ImageData, load_dataset
from metrics.score import METRICS
from ops.distributed import process
from tools.common import (
    add_generator_flags,
    add_machine_flags,
    add_truncation_flags,
    append_line,
    positive,
    scores_file,
    together,
    tool_parser,
    warn,
    whole,
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "\n".join(
        f"  {name:<10} {row.help}{'' if row.default else ' (only if named)'}" for name, row in METRICS.items()
    )
    p = tool_parser("tools.evaluate", (__doc__ or "").format(METRICS=about))
    add_generator_flags(p)
    about = "network that reads the images (default: inception where its weights are, else the data's own, else lite0)"
    p.add_argument("--extractor", choices=tuple(OPENERS), help=about)
    about = "file of its weights (default: as shipped, trained by tools.train_classifier, or downloaded once)"
    p.add_argument("--metric_weights", type=Path, metavar="PATH", help=about)
    about = "scores to compute (default: all that the extractor and the data allow, but intra_fid)"
    p.add_argument("--metrics", nargs="+", choices=tuple(METRICS), metavar="NAME", help=about)
    about = "number of fakes [10000]; under torchrun say --n_fake, since --n could be one of its own"
    p.add_argument("--n", "--n_fake", type=positive, default=FEW, help=about)
    p.add_argument("--n_real", type=positive, help="number of reals (default: as many as fakes)")
    about = "of the reals (default: that of the training)"
    p.add_argument("--split", choices=(*SPLIT_ORDER, "all"), help=about)
    about = (
        f"what is scored: {GENERATOR}, a split of the data ({', '.join(SPLIT_ORDER)}), uniform noise, or a folder or "
        f"archive of images [{GENERATOR}]"
    )
    p.add_argument("--fakes", default=GENERATOR, metavar=f"{GENERATOR}|test|train|noise|PATH", help=about)
    about = "fakes of a generator of classes take turns through them (default: the labels of the reference)"
    p.add_argument("--balanced", action="store_true", help=about)
    add_truncation_flags(p)
    p.add_argument("--seed", type=whole, default=0, help="fakes are a function of it [0]")
    p.add_argument("--data_root", help="where the data set's files stand (default: as in training)")
    p.add_argument("--data", help="folder or archive of images in place of them (default: as in training)")
    add_machine_flags(p)
    return p


def places_of(run: str) -> dict[str, Any]:
    """Where a run's config.json says that its data stand; nothing for a generator/ folder alone."""
    try:
        saved = disk.read_json(scores_file(run).with_name("config.json"), dict[str, Any])
    except disk.Unreadable:
        return {}
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
        is_main=process() == 0,
    )


def load_fakes(args: argparse.Namespace, config: dict[str, Any], data: ImageData) -> IndexedImages | None:
    """What --fakes names in place of the generator's images, None for those; UserError for too few."""
    if args.fakes == GENERATOR:
        return None
    if args.balanced or args.truncation is not None:
        raise UserError(f"--fakes {args.fakes}: --balanced and --truncation are for a generator's")
    if args.fakes == "noise":
        return noise_images(data, args.n, args.seed)
    if args.fakes in SPLIT_ORDER:
        others, kind = run_images(args, config, args.fakes), f"reals: {data.name} {args.fakes}"
    else:
        others, kind = run_images(args, config, "all", args.fakes), f"reals: {Path(args.fakes).name}"
    n_real = args.n if args.n_real is None else args.n_real
    if args.split == "all" and args.fakes in SPLIT_ORDER:
        warn(f"--split all holds {args.fakes} too: some fakes are among the reference")
    kind = f"{kind}, {others.fingerprint}"
    return chosen_images(others, data, args.n, n_real, kind, f"--fakes {args.fakes}")


# How people read a score, by its name without the extractor's; in any other case four digits.
SCORE_FORMATS = {
    "fid": "{:.3f}",
    "intra_fid": "{:.3f}",
    "classes": "{}",
    "kl_uniform": "{:.4f} nats",
    "kl_data": "{:.4f} nats",
    "class_accuracy": "{:.1%}",
}
TITLES = {
    "classes": "classes shown",
    "kl_uniform": "KL to uniform",
    "kl_data": "KL to data",
    "class_accuracy": "read as asked",
}
N_LISTED = 20  # classes shown one by one


def score_text(name: str, value: Any, result: dict[str, Any]) -> str:
    """One score as text, with its deviation where it has one."""
    if isinstance(value, list):
        each = [f"{i}: {'-' if v is None else f'{v:.3g}'}" for i, v in enumerate(value[:N_LISTED])]
        return "  ".join(each) + (" ..." if len(value) > N_LISTED else "")
    stem, bracket, rest = name.partition("[")
    text = SCORE_FORMATS.get(stem, "{:.4f}").format(value)
    if stem == "classes":
        text += f" of {len(result['shares'])}"
    deviation = result.get(f"{stem}_std{bracket}{rest}")
    return text if deviation is None else f"{text} +- {deviation:.4f}"


def score_table(result: dict[str, Any]) -> str:
    """A line of scores.jsonl as lines for people."""
    about = result["protocol"]
    what = f"{about['weights']} weights" if about["fakes"] == GENERATOR else about["fakes"]
    reference = about["reference"]
    if "split" in about:
        reference = f"{about['n_real']} reals of {reference} {about['split']}"
    head = f"step {about['step']}, {what}, seed {about['seed']}: {about['n_fake']} fakes, {reference}"
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


def make_evaluator(
    args: argparse.Namespace, config: dict[str, Any], device: str
) -> Evaluator | PointEvaluator:
    """What scores the run as the flags want it."""
    view, usual = view_of(config["dataset"]), parser().parse_args([args.run])
    if given := [name for name in view.unfit if getattr(args, name) != getattr(usual, name)]:
        raise UserError(
            f"--{given[0]}: the points of {config['dataset']} are held against its mixture; leave the flag out"
        )
    reader = view.reader(args.extractor, args.metric_weights, args.cache_dir, device)
    held = config["data"]
    split = args.split or held.get("split", "train")
    data = run_images(args, config, split)
    evaluator = view.evaluator(
        reader,
        data,
        config,
        n_fake=args.n,
        n_real=args.n_real,
        split=split,
        metrics=args.metrics,
        seed=args.seed,
        balanced=args.balanced,
        fakes=load_fakes(args, config, data),
        cache_dir=args.cache_dir,
    )
    if split == held.get("split") and data.fingerprint != held.get("fingerprint"):
        warn("the reference is not the data that the run was trained on")
    return evaluator


def evaluate(args: argparse.Namespace, device: str) -> None:
    """Load generator, extractor and reference, score, print and append."""
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


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, join the other processes, evaluate."""
    args = parser().parse_args(argv)
    with together(args.device) as device, blaming_user():
        evaluate(args, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
