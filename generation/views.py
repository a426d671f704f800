"""How samples of each kind of data are drawn and scored: images as grids, by an extractor; points of the plane as
scatter plots, against the mixture that they are drawn from."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from generation.evaluation import OPENERS, Evaluator, PointEvaluator
from generation.generator import label_rows
from generation.pictures import scatter
from generation.sampling import generate, render, to_grid
from images.cache import cache_folder
from images.sources import DATASETS
from metrics.inception import NAME as INCEPTION
from metrics.mixture import MIXTURES
from ops.rng import generator

COLUMNS = 8


class ImageView:
    """Grids of 64; with classes one row a class and the same latents down each column."""

    n_reals = 64

    def __init__(self, dataset: str) -> None:
        """dataset: any name, that of the data set's row or of a user's own images."""

    def latents(self, z_dim: int, about: dict[str, Any], seed: int) -> tuple[Tensor, Tensor | None]:
        """The fixed latents (n, z_dim) and labels of previews."""
        source, n_labels = generator(seed, "grid"), about["n_labels"]
        if n_labels and not about["multi_hot"]:
            rows = min(n_labels, 10)
            z = torch.randn(COLUMNS, z_dim, generator=source).repeat(rows, 1)
            return z, torch.arange(rows).repeat_interleave(COLUMNS)
        z = torch.randn(COLUMNS * 8, z_dim, generator=source)
        return z, label_rows(about, len(z), seed)

    def picture(self, G: nn.Module, z: Tensor, y: Tensor | None, reals: Tensor) -> Image.Image:
        """What a sampling copy makes of the latents."""
        return to_grid(render(G, z, y), COLUMNS)

    def reals(self, x: Tensor) -> Image.Image:
        """uint8 images (n, H, W, C) as a grid."""
        return to_grid(x.permute(0, 3, 1, 2), COLUMNS)

    def evaluator(
        self,
        data: Any,
        about: dict[str, Any],
        device: torch.device,
        *,
        n_fake: int,
        split: str,
        extractor: str | None,
        metric_weights: str | None,
        metrics: Sequence[str] | None,
        cache_dir: str | None,
        interrupted: Callable[[], bool],
    ) -> Evaluator:
        """Scores by an extractor; ValueError for what is missing."""
        given = None if metric_weights is None else Path(metric_weights)
        evaluator = Evaluator(
            OPENERS[extractor or INCEPTION](given, cache_dir, device),
            data,
            about,
            n_fake=n_fake,
            split=split,
            metrics=metrics,
            cache_dir=cache_folder(cache_dir),
        )
        evaluator.interrupted = interrupted
        return evaluator


class PointView:
    """Scatter plots of 1000 points beside as many reals."""

    n_reals = 1000

    def __init__(self, dataset: str) -> None:
        self.mixture = MIXTURES[dataset]

    def latents(self, z_dim: int, about: dict[str, Any], seed: int) -> tuple[Tensor, Tensor | None]:
        """The fixed latents (1000, z_dim) and labels of previews."""
        z = torch.randn(self.n_reals, z_dim, generator=generator(seed, "grid"))
        return z, label_rows(about, self.n_reals, seed)

    def picture(self, G: nn.Module, z: Tensor, y: Tensor | None, reals: Tensor) -> Image.Image:
        """What a sampling copy makes of the latents, over reals (n, 1, 1, 2)."""
        return scatter(self.mixture, reals.flatten(1), generate(G, z, y).flatten(1))

    def reals(self, x: Tensor) -> Image.Image:
        """Points (n, 1, 1, 2) alone."""
        return scatter(self.mixture, x.flatten(1), None)

    def evaluator(
        self, data: Any, about: dict[str, Any], device: torch.device, *, n_fake: int, **of_images: Any
    ) -> PointEvaluator:
        """Scores against the mixture; what belongs to images alone is not looked at."""
        return PointEvaluator(data, about, n_fake=n_fake)


View = ImageView | PointView
VIEWS: dict[str, type[View]] = {"images": ImageView, "points": PointView}


def view_of(dataset: str) -> View:
    """How samples of a model trained on this data set are drawn and scored."""
    return VIEWS[DATASETS[dataset].kind if dataset in DATASETS else "images"](dataset)
