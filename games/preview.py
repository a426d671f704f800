"""Pictures and scores of a generator along its training."""

from typing import Any

import torch
from PIL import Image
from torch import nn

from generation.evaluation import Evaluator, PointEvaluator
from generation.generator import batch_norm_of
from generation.views import View
from images.batches import Batches


class Preview:
    """Pictures of fixed latents and of the first reals."""

    def __init__(self, view: View, about: dict[str, Any], z_dim: int, seed: int, batches: Batches) -> None:
        self.view, self.batches = view, batches
        self.z, self.y = view.latents(z_dim, about, seed)

    def _first_reals(self) -> torch.Tensor:
        """The first images (n, H, W, C) that training sees."""
        return self.batches.gather(self.batches.indices(0, self.view.n_reals)).cpu()

    def reals(self) -> Image.Image:
        """The first images as training sees them."""
        return self.view.reals(self._first_reals())

    def picture(self, G: nn.Module) -> Image.Image:
        """What a sampling copy makes of the fixed latents."""
        return self.view.picture(G, self.z, self.y, self._first_reals)


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
