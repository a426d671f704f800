"""Pictures and scores of the validation part of two sides, along the training of what translates between them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from generation.extractors import open_extractor
from generation.generator import batch_norm_of
from generation.pictures import in_colour, picture_table, to_picture
from generation.translation_scores import TranslationEvaluator
from images.batches import ImageData
from images.cache import cache_folder
from metrics.features import to_uint8
from metrics.pairwise import PAIRWISE
from settings import TrainConfig

Validation = tuple[
    str, Callable[[int, int], Tensor], ImageData
]  # network, its sources [start, stop), their targets


def rows_of_pictures(rows: list[tuple[str, Tensor]]) -> Image.Image:
    """A table of pictures (n, C, H, W) in [-1, 1] with the rows' titles; of smaller ones pixels are repeated."""
    height = max(x.shape[2] for _, x in rows)

    def drawn(x: Tensor) -> list[Image.Image]:
        times = height // x.shape[2]
        large = in_colour(to_uint8(x).cpu()).repeat_interleave(times, 2).repeat_interleave(times, 3)
        return [to_picture(picture) for picture in large]

    return picture_table([""] * len(rows[0][1]), [(title, drawn(x)) for title, x in rows])


class TranslationScorer:
    """Scores of all ways, by direction; the first way's first metric says what is best."""

    def __init__(
        self,
        config: TrainConfig,
        about: dict[str, Any],
        ways: Mapping[str, Validation],
        *,
        paired: bool,
        device: torch.device,
        interrupted: Callable[[], bool],
    ) -> None:
        reader = None
        if any(name not in PAIRWISE for name in config.metrics):
            weights = None if config.metric_weights is None else Path(config.metric_weights)
            reader = open_extractor(config.extractor, weights, config.cache_dir, device)
        self.several = len(ways) > 1
        self.evaluators = {
            name: (
                network,
                TranslationEvaluator(
                    reader,
                    sources=sources,
                    targets=targets,
                    paired=paired,
                    about=about,
                    metrics=config.metrics,
                    n=config.eval_n,
                    cache_dir=cache_folder(config.cache_dir),
                    interrupted=interrupted,
                ),
            )
            for name, (network, sources, targets) in ways.items()
        }

    @property
    def better(self) -> str:
        """Whether the deciding score should be "low" or "high"."""
        return next(iter(self.evaluators.values()))[1].better

    def _network(self, name: str, weights: nn.Module) -> nn.Module:
        return weights[name] if self.several else weights

    def score(self, weights: nn.Module, *, step: int, **about: Any) -> dict[str, Any]:
        """One line of scores.jsonl, equal on all processes: of further ways each score says which."""
        line: dict[str, Any] = {}
        for way, (network, evaluator) in self.evaluators.items():
            G = self._network(network, weights)
            found = evaluator.score(G, step=step, batch_norm=batch_norm_of(G), **about)
            own = {name: value for name, value in found.items() if name not in ("step", "protocol", "date")}
            line = line | {f"{name} {way}": value for name, value in own.items()} if line else found
        return line

    def seconds(self, weights: nn.Module) -> float:
        """About how long a score takes."""
        return sum(e.seconds(self._network(name, weights)) for name, e in self.evaluators.values())
