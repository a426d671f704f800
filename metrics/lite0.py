"""EfficientNet-Lite0 as an extractor: pooled features of its last maps, and its logits."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metrics.classifiers import check_pixels
from metrics.features import Extractor
from pretrained.lite0 import NAME, SHA256, Lite0, read_lite0
from pretrained.weights import named_for

SIZE = 112  # pixels that are read: half of what it was trained at, a quarter of the work
N_IMAGES = 16  # at a time: what the caches of a processor hold


class Lite0Reader(nn.Module):
    """Lite0 as an extractor: 1280 features, 1000 logits."""

    resize = f"bicubic with antialias to {SIZE} x {SIZE}, clamped to 0 to 255, grey repeated; (x - 127) / 128"

    def __init__(self, network: Lite0) -> None:
        super().__init__()
        # benchmarks/evaluation.py says what fusing, and channels last in memory, gain
        self.network = network.fused().to(memory_format=torch.channels_last)

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (N, 1 or 3, H, W) -> (N, 1 or 3, 112, 112) in [-1, 1], rectangles squeezed; ValueError for others."""
        check_pixels(images)
        x = images.contiguous().to(self.network._fc.weight.dtype)  # resized faster so
        x = F.interpolate(x, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 255)
        return x / 127.5 - 1

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, 1 or 3, H, W) -> features (N, 1280), logits (N, 1000)."""
        parts = [self.network(self.prepare(part)) for part in images.split(N_IMAGES)]
        features, logits = zip(*parts, strict=True)
        return torch.cat(features), torch.cat(logits)


def load_lite0(given: Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """The network with the weights of its package, or of the file that the user names, in eval mode.

    Its checksum is that of the file; for other weights than the published it is named for them, `lite0:3f2a1b9c`.
    ValueError as read_lite0.
    """
    network, found = read_lite0(given)
    module = Lite0Reader(network)
    return Extractor(named_for(NAME, found, SHA256), module.eval().to(device), found, {})
