"""Pictures and scores of the validation part of two sides, along the training of what translates between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from generation.extractors import open_extractor
from generation.pictures import in_colour, picture_table, to_picture
from generation.translation_scores import TranslationEvaluator, both_ways
from generation.translator import translator_batch_norm
from images.batches import ImageData
from images.cache import cache_folder
from metrics.features import to_uint8
from metrics.pairwise import PAIRWISE
from settings import TrainConfig


def rows_of_pictures(rows: list[tuple[str, Tensor]]) -> Image.Image:
    """A table of pictures (n, C, H, W) in [-1, 1] with the rows' titles; of smaller ones pixels are repeated."""
    height = max(x.shape[2] for _, x in rows)

    def drawn(x: Tensor) -> list[Image.Image]:
        times = height // x.shape[2]
        large = in_colour(to_uint8(x).cpu()).repeat_interleave(times, 2).repeat_interleave(times, 3)
        return [to_picture(picture) for picture in large]

    return picture_table([""] * len(rows[0][1]), [(title, drawn(x)) for title, x in rows])


@dataclass(frozen=True)
class Validation:
    """The validation part as a way's network is given it: sources [start, stop), how many, and their targets.

    source_fingerprint: of sources that are files, None for what is made of the targets; network: its name in a weight
    set of several, None for a set that is the network.
    """

    network: str | None
    sources: Callable[[int, int], Tensor]
    n_sources: int
    targets: ImageData
    source_fingerprint: str | None


class TranslationScorer:
    """Scores of all ways, one or two; the first way's first metric says what is best."""

    def __init__(
        self,
        config: TrainConfig,
        about: dict[str, Any],
        ways: Sequence[Validation],
        *,
        paired: bool,
        device: torch.device,
        interrupted: Callable[[], bool],
    ) -> None:
        metrics = config.metrics if "metrics" in config.asked else None
        reader = None
        if metrics is None or not PAIRWISE.keys() >= set(metrics):
            weights = None if config.metric_weights is None else Path(config.metric_weights)
            reader = open_extractor(config.extractor, weights, config.cache_dir, device)
        self.ways = ways
        self.evaluators = [
            TranslationEvaluator(
                reader,
                sources=way.sources,
                n_sources=way.n_sources,
                source_fingerprint=way.source_fingerprint,
                targets=way.targets,
                paired=paired,
                about=about,
                metrics=metrics,
                n=config.eval_n,
                cache_dir=cache_folder(config.cache_dir),
                interrupted=interrupted,
            )
            for way in ways
        ]

    @property
    def better(self) -> str:
        """Whether the deciding score should be "low" or "high"."""
        return self.evaluators[0].better

    def _networks(self, weights: nn.Module) -> list[nn.Module]:
        return [weights if way.network is None else weights[way.network] for way in self.ways]

    def score(self, network: nn.Module, *, step: int, weights: str) -> dict[str, Any]:
        """One line of scores.jsonl, equal on all processes."""
        lines = [
            evaluator.score(G, step=step, weights=weights, batch_norm=translator_batch_norm(G))
            for evaluator, G in zip(self.evaluators, self._networks(network), strict=True)
        ]
        return lines[0] if len(lines) == 1 else both_ways(*lines)

    def seconds(self, network: nn.Module) -> float:
        """About how long a score takes."""
        return sum(e.seconds(G) for e, G in zip(self.evaluators, self._networks(network), strict=True))
