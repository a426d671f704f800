"""Grids, scatter plots and tables of pictures, drawn with Pillow alone; charts are charts.py's."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metrics.mixture import NEAR, Mixture, check_points

SIDE = 320  # px
FINER = 2  # drawn larger and reduced, for smooth edges
EXTENT = 1.1  # of the plane to either side of 0
GAP, LINE_HEIGHT = 4, 16
WHITE, LINE, INK = (255, 255, 255), (205, 205, 205), (60, 60, 60)
REAL, FAKE = (120, 144, 172), (217, 83, 25)
GRID_GAP = 2  # px
MARGIN = 64  # px of the titles' column of blocks
LEAST_SIDE = 48  # px of an image in a table: smaller ones are drawn larger

# Title, names of the columns, rows of pictures
Block = tuple[str, Sequence[str], Sequence[Sequence[Image.Image]]]


def to_picture(image: Tensor) -> Image.Image:
    """uint8 (C, H, W) -> a picture: grey, in colour, of 4 channels with transparency; of any others as in_colour."""
    if len(image) not in (1, 3, 4):
        image = in_colour(image[None])[0]
    return Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())


def in_colour(images: Tensor) -> Tensor:
    """uint8 (n, C, H, W) -> (n, 3, H, W): grey repeated; of 4 channels the last is how far the colours cover white; of
    2, and of 5 and more, the first are shown as red, green and blue."""
    channels = images.shape[1]
    if channels == 1:
        return images.expand(-1, 3, -1, -1)
    if channels == 4:
        share = images[:, 3:].float() / 255
        return (images[:, :3] * share + 255 * (1 - share)).round().to(torch.uint8)
    if channels == 2:
        return torch.cat([images, torch.zeros_like(images[:, :1])], dim=1)
    return images[:, :3]


def shown_in_colour(channels: int) -> str:
    """Which channels in_colour shows of so many, for people; "" for pictures of usual kinds."""
    if channels in (1, 3, 4):
        return ""
    return (
        "both channels as red and green"
        if channels == 2
        else f"the first 3 of {channels} channels as red, green and blue"
    )


def square_columns(n: int, n_classes: int = 0) -> int:
    """Columns of a grid of n: one a class where that many take turns, up to 16 and n, else as for a square."""
    return n_classes if 1 <= n_classes <= min(n, 16) else math.ceil(math.sqrt(n))


def to_grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 (n, C, H, W) -> one picture in colour, row by row, 2 px of black around each; one alone without.

    What is not grey or RGB is shown as in_colour.
    """
    n, _, height, width = images.shape
    images = in_colour(images)
    if n == 1:
        return to_picture(images[0])
    columns = min(columns, n)
    down, right = height + GRID_GAP, width + GRID_GAP
    whole = images.new_zeros(3, GRID_GAP + down * math.ceil(n / columns), GRID_GAP + right * columns)
    for i, image in enumerate(images):
        top, left = GRID_GAP + down * (i // columns), GRID_GAP + right * (i % columns)
        whole[:, top : top + height, left : left + width] = image
    return to_picture(whole)


def from_grid(picture: Image.Image, size: tuple[int, int]) -> Tensor:
    """The images of a grid, uint8 (n, 3, H, W), of (height, width) px each: what to_grid made a picture of.

    Black ones at the end, which fill its last row, are left out. ValueError for a picture of another size.
    """
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    (height, width), (h, w) = size, pixels.shape[1:]
    if (h, w) == (height, width):
        return pixels[None]
    if (h - GRID_GAP) % (height + GRID_GAP) or (w - GRID_GAP) % (width + GRID_GAP) or min(h, w) <= GRID_GAP:
        raise ValueError(f"a picture of {w} x {h} px is no grid of images of {width} x {height}")
    tiles = (
        pixels[:, GRID_GAP:, GRID_GAP:]
        .unfold(1, height, height + GRID_GAP)
        .unfold(2, width, width + GRID_GAP)
    )
    images = tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)  # (C, rows, columns, H, W) -> (n, C, H, W)
    n = len(images)
    while n > 1 and not images[n - 1].any():
        n -= 1
    return images[:n].contiguous()


def _dots(draw: ImageDraw.ImageDraw, points: Tensor, colour: tuple[int, int, int], radius: float) -> None:
    scale = SIDE * FINER / (2 * EXTENT)
    for x, y in points.clamp(-EXTENT, EXTENT).tolist():
        left, top = (x + EXTENT) * scale, (EXTENT - y) * scale
        draw.ellipse([left - radius, top - radius, left + radius, top + radius], fill=colour)


def place_in_scatter(
    points: Sequence[tuple[float, float]], length: float
) -> tuple[list[tuple[float, float]], float]:
    """Where points (x, y) of the plane stand in a scatter plot, (column, row) in px, and how long a length is there."""
    scale = SIDE / (2 * EXTENT)
    return [((x + EXTENT) * scale, (EXTENT - y) * scale) for x, y in points], length * scale


def scatter(mixture: Mixture, real: Tensor | None, fake: Tensor | None) -> Image.Image:
    """Reals (N, 2) in blue below fakes (N, 2) in orange; a circle of 3 standard deviations around each mode.

    Points beyond the frame are drawn on it; NotFinite for those that are nowhere.
    """
    picture = Image.new("RGB", (SIDE * FINER, SIDE * FINER), WHITE)
    draw = ImageDraw.Draw(picture)
    scale = SIDE * FINER / (2 * EXTENT)
    for x, y in mixture.centres:
        left, top, r = (x + EXTENT) * scale, (EXTENT - y) * scale, NEAR * mixture.std * scale
        draw.ellipse([left - r, top - r, left + r, top + r], outline=LINE, width=FINER)
    for points, colour in ((real, REAL), (fake, FAKE)):
        if points is not None:
            check_points(points)
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


def table_cell(image: Tensor, least: int = LEAST_SIDE) -> Image.Image:
    """uint8 (C, H, W) as a picture for a table, each pixel a square where it would be smaller than `least` px."""
    scale = math.ceil(least / min(image.shape[1:]))
    picture = to_picture(image)
    return picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.NEAREST)


def picture_blocks(blocks: Sequence[Block]) -> Image.Image:
    """Tables below each other, each with its title left of its first row and the names of its columns above."""
    return stack(
        [
            picture_table(columns, [("" if i else title, row) for i, row in enumerate(rows)], MARGIN)
            for title, columns, rows in blocks
        ]
    )


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other on white."""
    size = (max(picture.width for picture in pictures), sum(picture.height for picture in pictures))
    whole, top = Image.new("RGB", size, WHITE), 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole
