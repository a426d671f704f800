"""DINOv2 as an extractor: the Frechet distance of its features ranks GANs as people do. arXiv:2304.07193, 2306.04675.

The network is timm's, the weights are the user's, from Meta's page: dinov2_vitb14_pretrain.pth and its larger sister,
Apache-2.0. The published scores are those of `dinov2-l`; `dinov2-b` costs a third of it.
"""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError
from metrics.classifiers import check_pixels
from metrics.features import Extractor
from pretrained.weights import filled, foreign, named_for, read_state, sha256_of

PACKAGE = "timm"
SIZE, PATCH = 224, 14  # pixels
N_PATCHES = SIZE // PATCH  # a side
TRAINED = 37  # patches a side of the published position embedding
OFFSET = 0.1  # patches, which the published code adds before it divides
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, pixels in [0, 1]
N_IMAGES = 16  # at a time


@dataclass(frozen=True)
class Variant:
    """timm's name of a network, its published file, that file's sha256, and what is said to timm beside the name."""

    network: str
    file: str
    sha256: str
    how: dict[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The network without weights: (N, 3, 224, 224) -> the class token (N, d) behind the last norm."""
        import timm  # where it is needed: it is not in requirements.txt, and takes long to import

        return timm.create_model(self.network, pretrained=False, num_classes=0, img_size=SIZE, **self.how)


URL = "https://dl.fbaipublicfiles.com/dinov2"
DINOV2 = {
    "dinov2-b": Variant(
        "vit_base_patch14_dinov2", "dinov2_vitb14/dinov2_vitb14_pretrain.pth",
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    ),
    "dinov2-l": Variant(
        "vit_large_patch14_dinov2", "dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    ),
}  # fmt: skip


class Dinov2Reader(nn.Module):
    """A vision transformer as an extractor: its class token as features, no logits."""

    resize = f"bicubic with antialias to {SIZE} x {SIZE}, clamped to 0 to 255, grey repeated; normalised as ImageNet is"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1))

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (N, 1 or 3, H, W) -> (N, 3, 224, 224) as ImageNet is normalised; ValueError for others."""
        check_pixels(images)
        x = images.to(self.mean.dtype)
        x = F.interpolate(x, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 255)
        return (x / 255 - self.mean) / self.deviation

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, 1 or 3, H, W) -> features (N, d), logits (N, 0)."""
        features = torch.cat([self.network(self.prepare(part)) for part in images.split(N_IMAGES)])
        return features, features.new_empty(len(features), 0)


def resized_positions(positions: Tensor) -> Tensor:
    """The published position embedding (1, 1 + 37 * 37, d) for 16 x 16 patches: (1, 1 + 16 * 16, d).

    Bicubic without antialias, the class token's own kept, at the scale (16 + 0.1) / 37 of the published code.
    """
    token, grid = positions[:, :1], positions[:, 1:]
    # (1, 37 * 37, d) -> (1, d, 37, 37) and back
    grid = grid.unflatten(1, (TRAINED, TRAINED)).permute(0, 3, 1, 2)
    scale = (N_PATCHES + OFFSET) / TRAINED
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([token, grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def fitted_state(state: dict[str, Tensor], file: Path, name: str) -> dict[str, Tensor]:
    """The published tensors as the network of 224 px takes them; ValueError without their position embedding."""
    positions = state.get("pos_embed")
    if positions is None or positions.dim() != 3 or positions.shape[:2] != (1, 1 + TRAINED**2):
        shape = None if positions is None else tuple(positions.shape)
        raise foreign(file, name, f"pos_embed should be (1, {1 + TRAINED**2}, ...), not {shape}")
    rest = {k: v for k, v in state.items() if k != "mask_token"}  # of the training alone
    return rest | {"pos_embed": resized_positions(positions.float())}


def load_dinov2(name: str, given: Path | None, device: str | torch.device = "cpu") -> Extractor:
    """The named row of DINOV2 with the weights of a file, in eval mode; its checksum is that of the file.

    For other weights than the published it is named for them, `dinov2-b:3f2a1b9c`. ValueError: no timm, no file, or one
    of other shapes.
    """
    row = DINOV2[name]
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(
            f"{name} needs the networks of a package that is not installed: pip install {PACKAGE}; "
            "or choose another --extractor"
        )
    if given is None:
        raise UserError(
            f"{name} needs its weights: download {URL}/{row.file} and name it with --metric_weights"
        )
    found = sha256_of(given)
    state = fitted_state(read_state(given, name, found == row.sha256), given, name)
    module = Dinov2Reader(filled(row.build, state, given, name))
    module = module.requires_grad_(False).eval().to(device)
    return Extractor(named_for(name, found, row.sha256), module, found, {}, distance="fd", has_logits=False)
