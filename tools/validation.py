"""What tools.evaluate does with a run that translates pictures: scores of its validation part, of each direction."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

import disk
from errors import UserError, shown
from games import GAMES
from games.translation import Translation
from generation.extractors import open_extractor
from generation.hub import is_hub_name
from generation.translation_scores import (
    Sources,
    TranslationEvaluator,
    both_ways,
    check_metrics,
    floors,
    mean_picture,
    unchanged,
)
from generation.translator import Translator, load_translator
from images.batches import ImageData
from images.cache import cache_folder
from images.pairing import find_pairs
from images.pairs import PairBatches, Pairs, PairSplit, load_pairs, loaded_shape
from images.scan import is_scale
from metrics.pairwise import PAIRWISE
from modelling.layers import image_shape
from ops.distributed import process
from tools.common import scores_file, warn

UNPAIRED = "unpaired"
# Flags of tools.evaluate that mean nothing there.
UNFIT = (
    "split", "balanced", "fakes", "n_real", "neighbours", "truncation", "truncation_layers", "data_root",
)  # fmt: skip


def run_settings(run: str) -> dict[str, Any]:
    """A run's config.json; nothing for a generator/ folder alone and for what was shared."""
    if is_hub_name(run):
        return {}
    try:
        return disk.read_json(scores_file(run).with_name("config.json"), dict[str, Any])
    except disk.Unreadable:
        return {}


def word_of(settings: Mapping[str, Any], name: str) -> str | None:
    """A setting where it is text."""
    return settings[name] if isinstance(settings.get(name), str) else None


def run_pairs(args: argparse.Namespace, translator: Translator) -> Pairs:
    """Both sides of the run's pictures, as in its training, or those of --data and --data_b. UserError."""
    about, saved = translator.about, run_settings(args.run)
    held, G = about["data"], translator.network()
    data, data_b = args.data, args.data_b
    if data is None:
        data, data_b = word_of(saved, "data"), word_of(saved, "data_b") if data_b is None else data_b
    if data is None:
        what = shown(str(held.get("files") or held.get("name") or "pictures"))
        raise UserError(f"{args.run} was trained on {what}: name them, or others, with --data, and --data_b")
    places = (None if path is None else Path(path).expanduser() for path in (data, data_b))
    found = find_pairs(*places, word_of(held, "pairing") or "paired", word_of(held, "direction") or "AtoB")
    load_size = held.get("load_size")
    fits = type(load_size) is int and load_size >= min(image_shape(about["img_size"]))
    return load_pairs(
        found,
        img_size=about["img_size"],
        img_channels=(G.source_channels, G.img_channels),
        load_size=loaded_shape(about["img_size"], load_size if fits else None),
        crop=word_of(held, "crop") or "centre",
        value_range=held["value_range"] if is_scale(held.get("value_range")) else (),
        cache_dir=args.cache_dir,
        is_main=process() == 0,
    )


def sources_of(val: PairSplit, side: int, game: type[Translation], factor: int, device: str) -> Sources:
    """What validation pictures [start, stop) are translated from: those of a side, as the game has them."""
    batches = PairBatches(val, None, 0, False, device)

    def sources(start: int, stop: int) -> Tensor:
        a, b = batches.in_order(start, stop - start)
        return b if side else game.source_of(a, b, factor)

    return sources


def floor_lines(sources: Sources, train: ImageData, val: ImageData) -> list[str]:
    """What translations that nobody had to learn score on the validation part: of a source as it is, and of the mean of
    the training's targets for all."""
    metrics = [name for name, row in PAIRWISE.items() if row.least <= min(val.images.shape[1:3])]
    height, width, channels = val.images.shape[1:]
    mean = unchanged(mean_picture(train)[None], height, width, channels)[0]
    titles = {"identity": "the source as it is", "mean": "the mean of the training's pictures"}
    return [
        f"{titles[name]}: {', '.join(f'{metric} {value:.4g}' for metric, value in values.items())}"
        for name, values in floors(sources, val, mean, metrics).items()
    ]


def score_translations(args: argparse.Namespace, device: str) -> tuple[dict[str, Any], list[str]]:
    """A line of scores of the run's networks, equal on all processes: the first direction decides; and lines of what it
    is to be held against, where pictures have partners. UserError."""
    translator = load_translator(args.run, args.weights, device, args.checkpoint)
    about, game = translator.about, GAMES[translator.about["model"]]
    if args.metrics is not None:
        check_metrics(args.metrics, word_of(about["data"], "pairing") != UNPAIRED)
    pairs = run_pairs(args, translator)
    if pairs.train.fingerprint != about["data"].get("fingerprint"):
        warn("the pictures are not those that the run was trained on")
    reader = None
    if args.metrics is None or any(name not in PAIRWISE for name in args.metrics):
        reader = open_extractor(args.extractor, args.metric_weights, args.cache_dir, device)
    lines = []
    for number, G in enumerate(translator.networks.values()):
        source, target = ("a", "b") if number == 0 else ("b", "a")
        given = getattr(pairs.val, source)
        evaluator = TranslationEvaluator(
            reader,
            sources=sources_of(pairs.val, number, game, G.factor, device),
            targets=getattr(pairs.val, target),
            paired=pairs.val.pairing != UNPAIRED,
            about=about,
            metrics=args.metrics,
            cache_dir=cache_folder(args.cache_dir),
            n=args.n,
            n_sources=None if given is None else len(given),
            source_fingerprint=None if given is None else given.fingerprint,
            seed=args.seed,
        )
        said = {"weights": about["chosen"], "batch_norm": about["batch_norm"]}
        lines.append(evaluator.score(G, step=about["step"], **said))
    beside = []
    if pairs.val.pairing != UNPAIRED and process() == 0:
        beside = floor_lines(evaluator.sources, getattr(pairs.train, target), evaluator.targets)
    return (lines[0] if len(lines) == 1 else both_ways(*lines)), beside
