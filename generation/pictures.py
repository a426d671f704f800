"""Grids, scatter plots, histograms and tables of pictures, drawn with Pillow alone."""

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metrics.mixture import NEAR, Mixture

SIDE = 320  # px
FINER = 2  # drawn larger and reduced, for smooth edges
EXTENT = 1.1  # of the plane to either side of 0
GAP, LINE_HEIGHT = 4, 16
WHITE, LINE, INK = (255, 255, 255), (205, 205, 205), (60, 60, 60)
REAL, FAKE = (120, 144, 172), (217, 83, 25)
GRID_GAP = 2  # px


def to_picture(image: Tensor) -> Image.Image:
    """uint8 (1 or 3, H, W) -> a picture."""
    return Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())


def to_grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 (n, 1 or 3, H, W) -> one picture in colour, row by row, 2 px of black around each; one alone as it is."""
    n, _, height, width = images.shape
    images = images.expand(-1, 3, -1, -1)
    if n == 1:
        return to_picture(images[0])
    columns = min(columns, n)
    down, right = height + GRID_GAP, width + GRID_GAP
    whole = images.new_zeros(3, GRID_GAP + down * math.ceil(n / columns), GRID_GAP + right * columns)
    for i, image in enumerate(images):
        top, left = GRID_GAP + down * (i // columns), GRID_GAP + right * (i % columns)
        whole[:, top : top + height, left : left + width] = image
    return to_picture(whole)


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


def picture_table(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Image.Image]]], margin: int = 0
) -> Image.Image:
    """Pictures of one size in rows, the rows' titles left of them, in `margin` px or more, the columns' above."""
    font = ImageFont.load_default()
    width, height = rows[0][1][0].size
    left = max(margin, 8 + math.ceil(max(font.getlength(title) for title, _ in rows)))
    size = (left + (width + GAP) * len(columns), LINE_HEIGHT + (height + GAP) * len(rows))
    whole = Image.new("RGB", size, WHITE)
    pen = ImageDraw.Draw(whole)
    for j, title in enumerate(columns):
        pen.text((left + j * (width + GAP) + width // 2, 0), title, fill=INK, font=font, anchor="ma")
    for i, (title, pictures) in enumerate(rows):
        top = LINE_HEIGHT + i * (height + GAP)
        pen.text((4, top + height // 2), title, fill=INK, font=font, anchor="lm")
        for j, picture in enumerate(pictures):
            whole.paste(picture, (left + j * (width + GAP), top))
    return whole


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other on white."""
    size = (max(picture.width for picture in pictures), sum(picture.height for picture in pictures))
    whole, top = Image.new("RGB", size, WHITE), 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def histogram(values: Tensor, limit: float, n_bins: int = 80) -> Image.Image:
    """How often values occur between -limit and limit, the highest bar as high as the picture; what is beyond is in the
    outermost bars."""
    counts = torch.histc(values.flatten().float().clamp(-limit, limit), n_bins, -limit, limit)
    picture = Image.new("RGB", (SIDE, SIDE // 2), WHITE)
    pen, width = ImageDraw.Draw(picture), SIDE / n_bins
    for i, share in enumerate((counts / counts.max()).tolist()):
        if share > 0:
            box = [i * width, (1 - share) * (SIDE // 2 - 1), (i + 1) * width - 1, SIDE // 2 - 1]
            pen.rectangle(box, fill=REAL)
    pen.line([0, SIDE // 2 - 1, SIDE, SIDE // 2 - 1], fill=LINE)
    return picture
