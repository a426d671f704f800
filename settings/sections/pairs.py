"""What games of two sides of pictures need beside the others: pix2pix, CycleGAN, super-resolution."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from errors import UserError
from images.arrays import MAX_CHANNELS
from images.pairing import DIRECTIONS, PAIRINGS
from settings.section import Section, brief, check_weight, flag, read_number


def read_terms(value: Any) -> dict[str, float]:
    """Weights by term, as numbers of at least 0; UserError."""
    if not isinstance(value, Mapping):
        raise UserError(f"--term_weights takes NAME=WEIGHT ..., e.g. l1=100, not {brief(value)}")
    found = {str(name): read_number(f"term_weights {name}", weight) for name, weight in value.items()}
    for name, weight in found.items():
        check_weight(f"term_weights {name}", weight)
    return found


@dataclass(frozen=True)
class PairSettings(Section):
    """Two sides of pictures, and what holds them together."""

    title: ClassVar[str] = "pairs"

    data_b: str | None = flag(
        None,
        "pictures of side B, where --data has those of side A",
        at_resume="free",
        path=True,
        usual=True,
    )
    pairing: str | None = flag(
        None,
        "how sides belong together; grey: A is that of B; alone: no A (default: the model's)",
        choices=lambda: PAIRINGS,
        usual=True,
    )
    direction: str = flag("AtoB", "which side is made of which", choices=lambda: DIRECTIONS, usual=True)
    load_size: int | None = flag(
        None,
        "shorter side of pictures in px, of which --img_size is cut out at random",
        least=1,
        usual=True,
    )
    source_channels: int | None = flag(
        None, "channels of the side that is translated (default: the pictures')", least=1, most=MAX_CHANNELS
    )
    factor: int | None = flag(
        None, "super-resolution: how many times larger pictures become (default: 4)", least=2
    )
    term_weights: dict[str, float] = flag(
        dict,
        "weights of terms of G's loss, e.g. l1=10, cycle=10 identity=0",
        read=read_terms,
        usual=True,
    )
    pool_size: int = flag(
        50, "cyclegan: so many fakes are kept, and half of those that D sees are of these", least=0
    )
