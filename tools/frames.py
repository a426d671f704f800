"""What commands that write animations share: frames with a bar, and their file."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from errors import UserError
from generation.animation import WRITERS, write_animation
from tools.common import PICTURES, enlarged

if TYPE_CHECKING:  # it reads scores too, which takes long to import
    from generation.views import View


def is_still(out: str) -> bool:
    """Whether a picture that does not move is meant, by its suffix."""
    return not out.endswith("/") and Path(out).suffix.lower() in PICTURES.keys() - WRITERS.keys()


def sheets(
    drawn: Iterable[Tensor], n: int, view: "View", columns: int, scale: int | None
) -> Iterator[Image.Image]:
    """A frame each of n, enlarged; a bar says how far they are."""
    for images in tqdm(drawn, desc="drawing", unit="frame", total=n, leave=False, disable=None):
        sheet = view.sheet(images, columns)
        yield enlarged(sheet, scale) if view.single else sheet


def save_animation(frames: Iterable[Image.Image], out: str | Path, fps: float, hold: float = 0) -> int:
    """As write_animation, how many frames were written; UserError from the disk too."""
    try:
        return write_animation(frames, out, fps, hold)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None
