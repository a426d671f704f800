"""Pictures and scores of a generator along its training."""

from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from games.task import Sheet
from generation.evaluation import Evaluator, PointEvaluator
from generation.generator import batch_norm_of
from generation.views import View
from images.batches import Batches
from metrics.health import compared, sample_numbers


class Preview:
    """Pictures of fixed latents and of the first reals."""

    def __init__(self, view: View, about: dict[str, Any], z_dim: int, seed: int, batches: Batches) -> None:
        self.view, self.batches = view, batches
        self.z, self.y = view.latents(z_dim, about, seed)
        # attributes are none
        self.classes = self.y if self.y is not None and self.y.dim() == 1 else None

    def _data(self, indices: Tensor) -> Tensor:
        """Images, or points, of the data as samples are."""
        return self.view.samples(self.batches.gather(indices).cpu())

    def _first_reals(self) -> Tensor:
        """The first that training sees."""
        return self._data(self.batches.indices(0, self.view.n_reals))

    def reals(self) -> Image.Image:
        """The first images as training sees them."""
        return self.view.reals(self._first_reals())

    @cached_property
    def _numbers_of_reals(self) -> dict[str, float | None]:
        """What samples are held against: the first that training sees, of each class that is shown as many as of it."""
        if self.classes is None:
            return sample_numbers(self._first_reals())
        order = self.batches.permutation(0)
        y = self.batches.labels_at(order).cpu()
        shown = [
            order[y == label][:n] for label, n in zip(*self.classes.unique(return_counts=True), strict=True)
        ]
        indices = torch.cat(shown)
        return sample_numbers(self._data(indices), self.batches.labels_at(indices).cpu())

    def sheet(self, G: nn.Module) -> Sheet:
        """What a sampling copy makes of the fixed latents; NotFinite."""
        drawn = self.view.made(G, self.z, self.y)
        picture = self.view.picture(drawn, self._first_reals)
        return Sheet(picture, compared(self._numbers_of_reals, sample_numbers(drawn, self.classes)))


class GeneratorScorer:
    """Scores of a generator's weight sets: of sampling copies, so that a score can be taken again from disk."""

    def __init__(self, evaluator: Evaluator | PointEvaluator) -> None:
        self.evaluator = evaluator

    @property
    def better(self) -> str:
        """Whether the deciding score should be "low" or "high"."""
        return self.evaluator.better

    def score(self, G: nn.Module, *, step: int, weights: str) -> dict[str, Any]:
        """One line of scores.jsonl, equal on all processes; ValueError, on all, where there is none."""
        return self.evaluator.score(G, step=step, weights=weights, batch_norm=batch_norm_of(G))

    def seconds(self, G: nn.Module) -> float:
        """About how long a score takes, its reference read."""
        return self.evaluator.seconds(G)
