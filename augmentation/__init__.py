"""Transforms of batches of images: batch in, batch out; all that is random comes in through their arguments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from torch import Tensor

from augmentation import ada, corruption, diffaugment


@dataclass(frozen=True)
class Augmentation:
    """fn(x, u, n), adaptive fn(x, u, n, p): x (N, C, H, W), draws u (N, n_uniform) in [0, 1), n (N, n_normal).

    per_value: how many more normal draws it takes for each value of an image.
    """

    fn: Callable[..., Tensor]
    n_uniform: int
    n_normal: int
    adaptive: bool
    per_value: int = 0

    def n_normals(self, image: Sequence[int]) -> int:
        """Normal draws of an image (C, H, W)."""
        return self.n_normal + self.per_value * prod(image)


AUGMENTATIONS = {
    "ada": Augmentation(ada.ada, ada.N_UNIFORM, ada.N_NORMAL, adaptive=True),
    "color": Augmentation(diffaugment.color, diffaugment.N_COLOR, 0, adaptive=False),
    "translation": Augmentation(diffaugment.translation, diffaugment.N_TRANSLATION, 0, adaptive=False),
    "cutout": Augmentation(diffaugment.cutout, diffaugment.N_CUTOUT, 0, adaptive=False),
}

# ADA's transforms in their order: those of ada.GROUPS, carried out together, and each of these
CORRUPTIONS = {
    "filter": Augmentation(
        corruption.band_filter, corruption.N_FILTER, corruption.N_FILTER_NORMAL, adaptive=True
    ),
    "noise": Augmentation(
        corruption.noise, corruption.N_NOISE, corruption.N_NOISE_NORMAL, adaptive=True, per_value=1
    ),
    "cutout": Augmentation(corruption.cutout, corruption.N_CUTOUT, 0, adaptive=True),
}
_IN_ORDER = (*ada.GROUPS, *CORRUPTIONS)
# The pipes of arXiv:2006.06676 by the names of its code: one kind of transform, or the first so many kinds; and that of
# arXiv:2501.05441.
PIPES: dict[str, tuple[str, ...]] = (
    {name: (name,) for name in _IN_ORDER}
    | {"".join(name[0] for name in _IN_ORDER[:n]): _IN_ORDER[:n] for n in range(2, len(_IN_ORDER) + 1)}
    | {"r3gan": (*ada.GROUPS, "cutout")}
)
COLOUR_SHARES = {"r3gan": 0.5}  # of p: a pipe's colours change so often, in others as often as all else


def pipe_rows(pipe: str) -> dict[str, Augmentation]:
    """The augmentations of one of ADA's PIPES by name, in their order."""
    kinds, share = PIPES[pipe], COLOUR_SHARES.get(pipe, 1.0)
    groups = tuple(name for name in kinds if name in ada.GROUPS)
    row, rows = AUGMENTATIONS["ada"], {}
    if groups:
        whole = len(groups) == len(ada.GROUPS) and share == 1
        rows["ada"] = row if whole else replace(row, fn=partial(row.fn, groups=groups, colour_share=share))
    return rows | {f"ada-{name}": CORRUPTIONS[name] for name in kinds if name in CORRUPTIONS}
