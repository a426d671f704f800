"""What happens beside training: pictures of fixed latents, and the generator folder."""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from generation.generator import export_generator, sampling_copy
from generation.labels import label_rows
from generation.pictures import scatter, to_grid
from generation.sampling import generate, render
from metrics.mixture import MIXTURES
from ops.rng import generator
from training.loop import Loop

COLUMNS = 8
POINTS = 1000  # in a scatter plot


def grid_latents(z_dim: int, labels: dict[str, Any], seed: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """64 fixed latents; with classes one row a class and the same latents down each column; 1000 for points."""
    source = generator(seed, "grid")
    n_labels = labels["n_labels"]
    if labels["dataset"] in MIXTURES:
        return torch.randn(POINTS, z_dim, generator=source), label_rows(labels, POINTS, seed)
    if n_labels and not labels["multi_hot"]:
        rows = min(n_labels, 10)
        z = torch.randn(COLUMNS, z_dim, generator=source).repeat(rows, 1)
        return z, torch.arange(rows).repeat_interleave(COLUMNS)
    z = torch.randn(COLUMNS * 8, z_dim, generator=source)
    return z, label_rows(labels, len(z), seed)


class Previews:
    """Sample grids (scatter plots of points), raw and averaged, into samples/ and the trackers; and the generator
    folder after checkpoints."""

    def __init__(self, loop: Loop, generator_config: dict[str, Any]) -> None:
        self.loop, self.config = loop, generator_config
        self.seed = loop.config.seed
        G = loop.task.networks[loop.task.averaged]
        self.z, self.y = grid_latents(G.z_dim, generator_config, self.seed)
        self.folder = loop.log.folder / "samples"
        self.mixture = MIXTURES.get(generator_config["dataset"])

    def picture(self, network: nn.Module) -> Image.Image:
        """What a network makes of the fixed latents."""
        G = sampling_copy(network, self.config, self.seed)
        if self.mixture is not None:
            return scatter(self.mixture, self._points(), generate(G, self.z, self.y).flatten(1))
        return to_grid(render(G, self.z, self.y), COLUMNS)

    def _points(self) -> torch.Tensor:
        """The first reals that training sees, (1000, 2)."""
        batches = self.loop.batches
        return batches.gather(batches.indices(0, POINTS)).cpu().flatten(1)

    def grids(self, step: int) -> None:
        """One picture a weight set: samples/step-00001000-ema.png."""
        if not self.loop.log.main:
            return
        self.folder.mkdir(exist_ok=True)
        for name, network in self.loop.sources().items():
            picture = self.picture(network)
            temporary = self.folder / "tmp.png"  # a full disk leaves no empty picture behind
            picture.save(temporary)
            os.replace(temporary, self.folder / f"step-{step:08d}-{name}.png")
            self.loop.log.images(f"samples/{name}", np.asarray(picture.convert("RGB")), step)

    def reals(self) -> None:
        """The first images as training sees them: samples/real.png."""
        if not self.loop.log.main:
            return
        self.folder.mkdir(exist_ok=True)
        if self.mixture is not None:
            scatter(self.mixture, self._points(), None).save(self.folder / "real.png")
            return
        batches = self.loop.batches
        images = batches.gather(batches.indices(0, COLUMNS * 8)).cpu().permute(0, 3, 1, 2)
        to_grid(images, COLUMNS).save(self.folder / "real.png")

    def export(self, loop: Loop) -> None:
        """Write generator/ with every weight set."""
        networks = {
            name: sampling_copy(network, self.config, self.seed)
            for name, network in self.loop.sources().items()
        }
        export_generator(loop.log.folder / "generator", self.config, networks, loop.step)
