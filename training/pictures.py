"""Pictures of points, drawn with Pillow alone."""

from collections.abc import Sequence

from PIL import Image, ImageDraw
from torch import Tensor

from metrics.mixture import NEAR, Mixture

SIDE = 320  # px
FINER = 2  # drawn larger and reduced, for smooth edges
EXTENT = 1.1  # of the plane to either side of 0
WHITE, LINE, REAL, FAKE = (255, 255, 255), (205, 205, 205), (120, 144, 172), (217, 83, 25)


def _dots(draw: ImageDraw.ImageDraw, points: Tensor, colour: tuple[int, int, int], radius: float) -> None:
    scale = SIDE * FINER / (2 * EXTENT)
    for x, y in points.clamp(-EXTENT, EXTENT).tolist():
        left, top = (x + EXTENT) * scale, (EXTENT - y) * scale
        draw.ellipse([left - radius, top - radius, left + radius, top + radius], fill=colour)


def scatter(mixture: Mixture, real: Tensor | None, fake: Tensor | None) -> Image.Image:
    """Reals (N, 2) in blue below fakes (N, 2) in orange; a circle of 3 standard deviations around each mode.

    Points beyond the frame are drawn on it.
    """
    picture = Image.new("RGB", (SIDE * FINER, SIDE * FINER), WHITE)
    draw = ImageDraw.Draw(picture)
    scale = SIDE * FINER / (2 * EXTENT)
    for x, y in mixture.centres:
        left, top, r = (x + EXTENT) * scale, (EXTENT - y) * scale, NEAR * mixture.std * scale
        draw.ellipse([left - r, top - r, left + r, top + r], outline=LINE, width=FINER)
    for points, colour in ((real, REAL), (fake, FAKE)):
        if points is not None:
            _dots(draw, points, colour, radius=1.5 * FINER)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def side_by_side(pictures: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Pictures of one height from left to right on white."""
    width = sum(p.width for p in pictures) + gap * (len(pictures) - 1)
    strip = Image.new("RGB", (width, max(p.height for p in pictures)), WHITE)
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width + gap
    return strip
