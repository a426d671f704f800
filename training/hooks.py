"""What happens beside training: sample grids of fixed latents, and the generator folder."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.utils import make_grid

from training.batches import to_input
from training.generator import export_generator, label_rows, sampling_copy
from training.loop import Loop
from training.rng import generator

COLUMNS = 8
CHUNK = 64


def grid_latents(z_dim: int, labels: dict[str, Any], seed: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """64 fixed latents; with classes one row a class and the same latents down each column."""
    source = generator(seed, "grid")
    n_labels = labels["n_labels"]
    if n_labels and not labels["multi_hot"]:
        rows = min(n_labels, 10)
        z = torch.randn(COLUMNS, z_dim, generator=source).repeat(rows, 1)
        return z, torch.arange(rows).repeat_interleave(COLUMNS)
    z = torch.randn(COLUMNS * 8, z_dim, generator=source)
    return z, label_rows(labels, len(z), seed)


@torch.no_grad()
def generate(G: nn.Module, z: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
    """Images of all latents, in fixed chunks, on the CPU: (n, C, H, W) in [-1, 1]."""
    param = next(G.parameters())
    chunks = []
    for i in range(0, len(z), CHUNK):
        labels = None if y is None else y[i : i + CHUNK].to(param.device)
        chunks.append(G(z[i : i + CHUNK].to(param), labels).cpu())
    return torch.cat(chunks)


def to_grid(images: torch.Tensor, columns: int = COLUMNS) -> Image.Image:
    """(n, C, H, W) in [-1, 1] -> one picture."""
    grid = make_grid(
        images.float().clamp(-1, 1), nrow=columns, padding=2, normalize=True, value_range=(-1, 1)
    )
    return Image.fromarray(grid.mul(255).round().byte().permute(1, 2, 0).numpy())


class Previews:
    """Sample grids, raw and averaged, into samples/ and the trackers; and the generator folder after checkpoints."""

    def __init__(self, loop: Loop, generator_config: dict[str, Any]) -> None:
        self.loop, self.config = loop, generator_config
        self.seed = loop.config.seed
        G = loop.task.networks[loop.task.averaged]
        self.z, self.y = grid_latents(G.z_dim, generator_config, self.seed)
        self.folder = loop.log.folder / "samples"

    def sources(self) -> dict[str, nn.Module]:
        """Averages first, then the raw network."""
        loop = self.loop
        return {name: ema.module for name, (ema, _) in loop.emas.items()} | {
            "raw": loop.task.networks[loop.task.averaged]
        }

    def grids(self, step: int) -> None:
        """One picture a weight set: samples/step-00001000-ema.png."""
        if not self.loop.log.main:
            return
        self.folder.mkdir(exist_ok=True)
        for name, network in self.sources().items():
            images = generate(sampling_copy(network, self.config, self.seed), self.z, self.y)
            picture = to_grid(images)
            picture.save(self.folder / f"step-{step:08d}-{name}.png")
            self.loop.log.images(f"samples/{name}", np.asarray(picture), step)

    def reals(self) -> None:
        """The first images as training sees them: samples/real.png."""
        if not self.loop.log.main:
            return
        self.folder.mkdir(exist_ok=True)
        batches = self.loop.batches
        images = to_input(batches.gather(batches.indices(0, COLUMNS * 8)), False)
        to_grid(images.cpu()).save(self.folder / "real.png")

    def export(self, loop: Loop) -> None:
        """Write generator/ with every weight set."""
        networks = {
            name: sampling_copy(network, self.config, self.seed) for name, network in self.sources().items()
        }
        export_generator(loop.log.folder / "generator", self.config, networks, loop.step)
