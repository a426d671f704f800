"""How samples of each kind of data are drawn, shown and scored: images as grids, by an extractor; points of the plane
as scatter plots, against the mixture that they are drawn from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from generation.evaluation import Evaluator, PointEvaluator
from generation.extractors import open_extractor
from generation.labels import label_rows
from generation.pictures import scatter, to_grid
from generation.sampling import generate, render
from images.batches import ImageData
from images.cache import cache_folder
from images.sources import DATASETS
from metrics.features import Extractor, to_uint8
from metrics.mixture import MIXTURES
from ops.rng import generator

COLUMNS = 8
N_POINTS = 1000  # of a scatter plot


class ImageView:
    """Grids of 64; with classes one row a class and the same latents down each column."""

    n_reals = 64
    of, single = "a grid of {n} images", True  # what a sheet is of; whether samples can be files of their own
    unfit: tuple[str, ...] = ()  # flags of tools.evaluate that mean nothing

    def __init__(self, dataset: str) -> None:
        """dataset: any name, that of the data set's row or of a user's own images."""
        self.dataset = dataset

    def latents(self, z_dim: int, about: dict[str, Any], seed: int) -> tuple[Tensor, Tensor | None]:
        """The fixed latents (n, z_dim) and labels of previews."""
        source, n_labels = generator(seed, "grid"), about["n_labels"]
        if n_labels and not about["multi_hot"]:
            rows = min(n_labels, 10)
            z = torch.randn(COLUMNS, z_dim, generator=source).repeat(rows, 1)
            return z, torch.arange(rows).repeat_interleave(COLUMNS)
        z = torch.randn(COLUMNS * 8, z_dim, generator=source)
        return z, label_rows(about, len(z), seed)

    def made(self, G: nn.Module, z: Tensor, y: Tensor | None) -> Tensor:
        """What a sampling copy makes of the latents, uint8 (n, C, H, W)."""
        return render(G, z, y)

    def picture(self, drawn: Tensor, reals: Callable[[], Tensor]) -> Image.Image:
        """What was made of the latents."""
        return to_grid(drawn, COLUMNS)

    def sheet(self, drawn: Tensor, columns: int) -> Image.Image:
        """What was drawn as one picture."""
        return to_grid(drawn, columns)

    def samples(self, x: Tensor) -> Tensor:
        """Images (n, H, W, C) of the data as samples are, (n, C, H, W)."""
        return x.permute(0, 3, 1, 2)

    def reals(self, x: Tensor) -> Image.Image:
        """uint8 images (n, C, H, W) as a grid."""
        return to_grid(x, COLUMNS)

    def shown(self, x: Tensor) -> Tensor:
        """What a generator made (n, C, H, W) as it is written: uint8."""
        return to_uint8(x)

    def reader(
        self,
        extractor: str | None,
        weights: str | Path | None,
        cache_dir: str | None,
        device: str | torch.device,
    ) -> Extractor:
        """What scores are read by, None: what is usual; ValueError where its weights are missing."""
        given = None if weights is None else Path(weights)
        return open_extractor(extractor, given, cache_dir, device, dataset=self.dataset)

    def evaluator(
        self, reader: Extractor, data: ImageData, about: dict[str, Any], *, cache_dir: str | None, **how: Any
    ) -> Evaluator:
        """Scores by an extractor; how: of Evaluator. ValueError for what is missing."""
        return Evaluator(reader, data, about, cache_dir=cache_folder(cache_dir), **how)


class PointView:
    """Scatter plots of 1000 points beside as many reals."""

    n_reals = N_POINTS
    of, single = "a scatter plot of {n} points", False
    unfit = (
        "extractor", "metric_weights", "metrics", "n_real", "split", "fakes", "balanced", "truncation", "neighbours",
    )  # fmt: skip

    def __init__(self, dataset: str) -> None:
        self.mixture = MIXTURES[dataset]

    def latents(self, z_dim: int, about: dict[str, Any], seed: int) -> tuple[Tensor, Tensor | None]:
        """The fixed latents (1000, z_dim) and labels of previews."""
        z = torch.randn(self.n_reals, z_dim, generator=generator(seed, "grid"))
        return z, label_rows(about, self.n_reals, seed)

    def made(self, G: nn.Module, z: Tensor, y: Tensor | None) -> Tensor:
        """What a sampling copy makes of the latents, (n, 2)."""
        return generate(G, z, y).flatten(1)

    def picture(self, drawn: Tensor, reals: Callable[[], Tensor]) -> Image.Image:
        """What was made of the latents over what reals() gives, (n, 2)."""
        return scatter(self.mixture, reals(), drawn)

    def sheet(self, drawn: Tensor, columns: int) -> Image.Image:
        """What was drawn as one picture."""
        return scatter(self.mixture, None, drawn)

    def samples(self, x: Tensor) -> Tensor:
        """Points (n, 1, 1, 2) of the data as samples are, (n, 2)."""
        return x.flatten(1)

    def reals(self, x: Tensor) -> Image.Image:
        """Points (n, 2) alone."""
        return scatter(self.mixture, x, None)

    def shown(self, x: Tensor) -> Tensor:
        """What a generator made (n, 1, 1, 2) as it is written: points (n, 2)."""
        return x.flatten(1)

    def reader(self, *of_images: Any) -> None:
        """Nothing reads points."""

    def evaluator(
        self,
        reader: None,
        data: ImageData,
        about: dict[str, Any],
        *,
        n_fake: int,
        seed: int = 0,
        **of_images: Any,
    ) -> PointEvaluator:
        """Scores against the mixture; what belongs to images alone is not looked at."""
        return PointEvaluator(data, about, n_fake=n_fake, seed=seed)


View = ImageView | PointView
VIEWS: dict[str, type[View]] = {"images": ImageView, "points": PointView}


def view_of(dataset: str) -> View:
    """How samples of a model trained on this data set are drawn and scored."""
    return VIEWS[DATASETS[dataset].kind if dataset in DATASETS else "images"](dataset)
