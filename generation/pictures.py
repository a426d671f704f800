"""Grids, scatter plots, histograms, curves and tables of pictures, drawn with Pillow alone."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

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
# Of curves, in turn
COLOURS = (FAKE, (31, 104, 178), (46, 145, 75), (133, 81, 158), (214, 158, 0), (90, 90, 90))

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


def _dots(draw: ImageDraw.ImageDraw, points: Tensor, colour: tuple[int, int, int], radius: float) -> None:
    scale = SIDE * FINER / (2 * EXTENT)
    for x, y in points.clamp(-EXTENT, EXTENT).tolist():
        left, top = (x + EXTENT) * scale, (EXTENT - y) * scale
        draw.ellipse([left - radius, top - radius, left + radius, top + radius], fill=colour)


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


def table_cell(image: Tensor) -> Image.Image:
    """uint8 (C, H, W) as a picture for a table, each pixel a square where it would be smaller than 48 px."""
    scale = math.ceil(LEAST_SIDE / min(image.shape[1:]))
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


def histogram(values: Tensor, limit: float, n_bins: int = 80) -> Image.Image:
    """How often values occur between -limit and limit, the highest bar as high as the picture; what is beyond is not
    drawn."""
    counts = torch.histc(values.flatten().float(), n_bins, -limit, limit)
    picture = Image.new("RGB", (SIDE, SIDE // 2), WHITE)
    pen, width = ImageDraw.Draw(picture), SIDE / n_bins
    for i, share in enumerate((counts / counts.max().clamp(min=1)).tolist()):
        if share > 0:
            box = [i * width, (1 - share) * (SIDE // 2 - 1), (i + 1) * width - 1, SIDE // 2 - 1]
            pen.rectangle(box, fill=REAL)
    pen.line([0, SIDE // 2 - 1, SIDE, SIDE // 2 - 1], fill=LINE)
    return picture


def _outline(x: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[tuple[float, float]]:
    """The corners of a band, there along its lower side and back along the upper one."""
    return [*zip(x, low, strict=True), *reversed([*zip(x, high, strict=True)])]


def _draw_legend(pen: ImageDraw.ImageDraw, left: int, names: Iterable[str]) -> None:
    """A stroke of its colour before each name, in a line at the top."""
    font, at = ImageFont.load_default(), left
    for name, colour in zip(names, itertools.cycle(COLOURS)):
        pen.line([at, LINE_HEIGHT // 2, at + 12, LINE_HEIGHT // 2], fill=colour, width=3)
        pen.text((at + 16, 0), name, fill=INK, font=font)
        at += 28 + math.ceil(font.getlength(name))


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str = "",
    y_label: str = "",
    size: tuple[int, int] = (480, 260),
    bands: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]] | None = None,
) -> Image.Image:
    """Lines (x, y) by name over common axes, which are labelled with their least and greatest values; a legend above.

    Points that are not finite are gaps. size: (width, height) in px; bands: (x, low, high), all finite, shaded behind
    the lines of their names. ValueError without any finite point.
    """
    bands = bands or {}
    points = {
        name: [(float(x), float(y)) for x, y in zip(*line, strict=True)] for name, line in series.items()
    }
    shown = [point for line in points.values() for point in line if all(map(math.isfinite, point))]
    if not shown:
        raise ValueError(f"curves of {', '.join(series) or 'nothing'}: there is no finite point")
    shown += [
        (float(x), float(y))
        for x_all, *sides in bands.values()
        for side in sides
        for x, y in zip(x_all, side, strict=True)
    ]
    (x_min, x_max), (y_min, y_max) = ((min(values), max(values)) for values in zip(*shown, strict=True))
    font, (width, height) = ImageFont.load_default(), size
    ticks = [f"{y:.4g}" for y in (y_min, y_max)]
    left = 12 + math.ceil(max(font.getlength(tick) for tick in ticks))
    right, top, bottom = width - 12, 2 * LINE_HEIGHT + GAP, height - LINE_HEIGHT - GAP

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_min) / (x_max - x_min or 1)
        up = (y - y_min) / (y_max - y_min) if y_max > y_min else 0.5
        return left + across * (right - left), bottom - up * (bottom - top)

    picture = Image.new("RGB", (width * FINER, height * FINER), WHITE)
    pen = ImageDraw.Draw(picture)
    pen.rectangle([n * FINER for n in (left, top, right, bottom)], outline=LINE, width=FINER)
    if y_min < 0 < y_max:
        pen.line([n * FINER for n in (*place(x_min, 0), *place(x_max, 0))], fill=LINE, width=FINER)
    for name, colour in zip(points, itertools.cycle(COLOURS)):
        if name in bands:
            around = [n * FINER for point in _outline(*bands[name]) for n in place(*point)]
            pen.polygon(around, fill=tuple((c + 3 * 255) // 4 for c in colour))
    for line, colour in zip(points.values(), itertools.cycle(COLOURS)):
        for is_finite, part in itertools.groupby(line, lambda point: all(map(math.isfinite, point))):
            if is_finite:
                way = [n * FINER for point in part for n in place(*point)]
                pen.line(way, fill=colour, width=2 * FINER, joint="curve")
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(picture)
    _draw_legend(pen, left, series)
    for where, text, anchor in (
        ((left, LINE_HEIGHT), y_label, "la"), ((left - 6, top), ticks[1], "ra"), ((left - 6, bottom), ticks[0], "rd"),
        ((left, bottom + GAP), f"{x_min:.4g}", "la"), ((right, bottom + GAP), f"{x_max:.4g}", "ra"),
        (((left + right) // 2, bottom + GAP), x_label, "ma"),
    ):  # fmt: skip
        pen.text(where, text, fill=INK, font=font, anchor=anchor)
    return picture
