"""Transforms of batches of images: batch in, batch out; all that is random comes in through their arguments."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from augmentation import ada, diffaugment


@dataclass(frozen=True)
class Augmentation:
    """fn(x, u, n), adaptive fn(x, u, n, p): x (N, C, H, W), draws u (N, n_uniform) in [0, 1), n (N, n_normal)."""

    fn: Callable[..., Tensor]
    n_uniform: int
    n_normal: int
    adaptive: bool


AUGMENTATIONS = {
    "ada": Augmentation(ada.ada, ada.N_UNIFORM, ada.N_NORMAL, adaptive=True),
    "color": Augmentation(diffaugment.color, diffaugment.N_COLOR, 0, adaptive=False),
    "translation": Augmentation(diffaugment.translation, diffaugment.N_TRANSLATION, 0, adaptive=False),
    "cutout": Augmentation(diffaugment.cutout, diffaugment.N_CUTOUT, 0, adaptive=False),
}
