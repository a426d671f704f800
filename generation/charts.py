"""Curves and histograms as Matplotlib figures of one style: SVG text for a page, a picture for a document or notebook.

    figure = curves({"loss/d": (steps, values)}, "step", "loss")
    svg(figure)         text without dates and paths, equal for equal figures; its colours follow the page's
    picture(figure)     the same as a Pillow image

Matplotlib is imported when a figure is made, not before: the start of every command counts.
"""

import io
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = tuple[Sequence[float], Sequence[float]]
Band = tuple[Sequence[float], Sequence[float], Sequence[float]]

# Okabe and Ito's colours, told apart by nearly everybody (https://jfly.uni-koeln.de/color/); yellow, which is faint on
# white, is left out. In this order neighbours differ in lightness too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c6670")
STYLES = ("-", "--", ":")  # of lines, once all colours are in use
INK, FAINT, PAPER = "#3b4148", "#c9ced4", "#ffffff"
INCH = 72  # px of a figure's size, which are points of its SVG
POINTS = 400  # columns of an envelope: more than a chart has pixels on a phone
MAX_VALUES = 100_000  # of a tensor that a small histogram is made of
LEGEND_ROWS = 6  # names below each other at most, in two columns
# What CSS calls a colour; a page that says nothing gets the colour itself.
VARIABLES = {INK: "ink", FAINT: "faint", PAPER: "paper"} | {c: f"line-{i}" for i, c in enumerate(COLOURS)}


@cache
def _style() -> dict[str, Any]:
    """rcParams of all figures."""
    return {
        "font.family": ["DejaVu Sans"], "font.size": 10, "text.color": INK, "text.parse_math": False,
        "axes.edgecolor": FAINT, "axes.labelcolor": INK, "axes.facecolor": "none", "axes.grid": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.formatter.useoffset": False,
        "axes.formatter.limits": (-3, 6), "axes.unicode_minus": False, "grid.color": FAINT, "grid.linewidth": 0.5,
        "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
        "lines.linewidth": 1.4, "legend.frameon": False, "legend.fontsize": 9, "figure.facecolor": "none",
        "svg.fonttype": "none", "svg.hashsalt": "chart", "path.simplify": True,
    }  # fmt: skip


@contextmanager
def _styled() -> Iterator[None]:
    """This style and no other, whatever the user's matplotlibrc says; nothing of it stays."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise UserError("charts need Matplotlib: pip install -r requirements.txt") from None

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_style())
        yield


@contextmanager
def _axes(size: tuple[int, int], x_label: str, y_label: str) -> Iterator[tuple["Figure", "Axes"]]:
    """An empty chart of so many px; what is drawn within is of this style."""
    with _styled():
        from matplotlib.figure import Figure  # without pyplot, which keeps every figure and asks for a screen

        figure = Figure((size[0] / INCH, size[1] / INCH), dpi=INCH, layout="constrained")
        axes = figure.add_subplot()
        axes.set(xlabel=x_label, ylabel=y_label)
        yield figure, axes


def envelope(x: Sequence[float], y: Sequence[float], columns: int = POINTS) -> Line:
    """(x, y) of the least and the greatest value in each of so many equal parts of the x axis, in their order; what is
    not finite is kept where a part has nothing else, as a gap. Short series come back whole."""
    if len(x) <= 2 * columns:
        return x, y
    low, width = min(x), (max(x) - min(x)) / columns or 1
    parts: dict[int, list[int]] = {}
    for i, at in enumerate(x):
        parts.setdefault(min(int((at - low) / width), columns - 1), []).append(i)
    kept: list[int] = []
    for _, part in sorted(parts.items()):
        finite = [i for i in part if math.isfinite(y[i])]
        kept += (
            sorted({min(finite, key=y.__getitem__), max(finite, key=y.__getitem__)}) if finite else part[:1]
        )
    return [x[i] for i in kept], [y[i] for i in kept]


def _in_order(series: Mapping[str, Line]) -> dict[str, tuple[list[float], list[float]]]:
    """Lines as floats; ValueError for unequal lengths, and where no point is finite."""
    lines = {name: ([float(v) for v in x], [float(v) for v in y]) for name, (x, y) in series.items()}
    for name, (x, y) in lines.items():
        if len(x) != len(y):
            raise ValueError(f"curves of {name}: {len(x)} places and {len(y)} values")
    if not any(
        math.isfinite(a) and math.isfinite(b) for line in lines.values() for a, b in zip(*line, strict=True)
    ):
        raise ValueError(f"curves of {', '.join(series) or 'nothing'}: there is no finite point")
    return lines


def curves(
    series: Mapping[str, Line],
    x_label: str = "",
    y_label: str = "",
    size: tuple[int, int] = (480, 260),
    bands: Mapping[str, Band] | None = None,
    *,
    log: bool = False,
    levels: Mapping[str, float] | None = None,
) -> "Figure":
    """Lines (x, y) by name over common axes, a legend above.

    Points that are not finite are gaps. size: (width, height) in px; bands: (x, low, high), shaded behind the lines of
    their names; log: a logarithmic y axis, on which what is not above 0 is a gap; levels: (name, y) of thin dashed
    lines. ValueError for unequal lengths, and without any finite point.
    """
    lines = _in_order(series)
    with _axes(size, x_label, y_label) as (figure, axes):
        looks = itertools.product(STYLES, COLOURS)
        for (name, (x, y)), (style, colour) in zip(lines.items(), itertools.cycle(looks)):
            at, values = envelope(x, y)
            axes.plot(
                at,
                values,
                style,
                color=colour,
                label=name,
                marker="o" if len(at) == 1 else None,
                markersize=3,
            )
            if name in (bands or {}):
                axes.fill_between(*bands[name], color=colour, alpha=0.2, linewidth=0)
        for name, level in (levels or {}).items():
            axes.axhline(level, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.annotate(name, (1, level), xycoords=("axes fraction", "data"), xytext=(-2, 2),
                          textcoords="offset points", ha="right", va="bottom", fontsize=8)  # fmt: skip
        if log and any(v > 0 and math.isfinite(v) for _, y in lines.values() for v in y):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(lambda value, _: "")
        _legend(figure, [name for name in lines if name])
    return figure


def _legend(figure: "Figure", names: Sequence[str]) -> None:
    """Names above the chart, in two columns where they are many; the last ones are left out where they are too many."""
    if not names:
        return
    shown = names[: 2 * LEGEND_ROWS]
    handles, labels = figure.axes[0].get_legend_handles_labels()
    chosen = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label in shown]
    longest = max(map(len, shown))
    columns = 1 if longest > 34 else 2 if len(shown) > 3 or longest > 16 else len(shown)
    figure.legend(
        *zip(*chosen, strict=True), loc="outside upper left", ncols=columns, handlelength=1.6, borderpad=0
    )


def histogram(
    values: Tensor, limit: float, n_bins: int = 80, label: str = "", size: tuple[int, int] = (320, 160)
) -> "Figure":
    """Share of the values in each of n_bins equal parts from -limit to limit; what is beyond is not drawn, and counts.

    label: below the axis; size: (width, height) in px.
    """
    counts = torch.histc(values.flatten().float(), n_bins, -limit, limit)
    edges = torch.linspace(-limit, limit, n_bins + 1).tolist()
    with _axes(size, label, "share") as (figure, axes):
        axes.stairs((counts / max(values.numel(), 1)).tolist(), edges, fill=True, color=COLOURS[0])
        axes.set_xlim(-limit, limit)
    return figure


def histograms(
    layers: Mapping[str, Tensor], columns: int = 4, n_bins: int = 60, tile: tuple[int, int] = (150, 96)
) -> "Figure":
    """A small histogram of each of these tensors, every one over its own range up to its 99.9th percentile.

    tile: (width, height) in px of each. ValueError without any.
    """
    if not layers:
        raise ValueError("histograms of nothing")
    columns, rows = min(columns, len(layers)), math.ceil(len(layers) / min(columns, len(layers)))
    with _styled():
        from matplotlib.figure import Figure

        figure = Figure((tile[0] * columns / INCH, tile[1] * rows / INCH), dpi=INCH, layout="constrained")
        places = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, (name, values) in itertools.zip_longest(places, layers.items(), fillvalue=("", None)):
            axes.set_yticks([])
            axes.spines[["left"]].set_visible(False)
            if values is None:
                axes.set_axis_off()
                continue
            values = values.flatten()[:: max(1, values.numel() // MAX_VALUES)].float()
            limit = float(values.abs().nan_to_num(0, 0, 0).quantile(0.999)) or 1.0
            counts = torch.histc(values, n_bins, -limit, limit).tolist()
            axes.stairs(
                counts, torch.linspace(-limit, limit, n_bins + 1).tolist(), fill=True, color=COLOURS[0]
            )
            axes.set_title(name if len(name) < 26 else "…" + name[-24:], fontsize=7)
            axes.set_xticks([-limit, 0, limit], [f"{-limit:.2g}", "0", f"{limit:.2g}"], fontsize=7)
            axes.grid(False)
    return figure


def picture(figure: "Figure", scale: float = 1.0) -> Image.Image:
    """A figure on white as RGB, `scale` times its size in px."""
    file = io.BytesIO()
    with _styled():
        figure.savefig(file, format="png", dpi=INCH * scale, facecolor=PAPER, metadata={"Software": None})
    return Image.open(file).convert("RGB")


def svg(figure: "Figure", title: str = "") -> str:
    """A figure as an <svg> element that fills the width it is given and says its title to those who do not see it.

    Equal figures give equal texts. Colours are CSS variables (--ink, --faint, --paper, --line-0, ...) with the usual
    ones for pages that do not set them, so that a dark page can have light lines.
    """
    file = io.StringIO()
    with _styled():
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    text = re.sub(
        r'<g id="[^"]*"', "<g", text
    )  # several stand in one page: what nothing refers to needs no name
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: _variable(found[0]), text)
    text = re.sub(r"'DejaVu Sans'(?:, [^;\"]*)?", "sans-serif", text)
    head = f'<svg role="img" aria-label="{escape(title)}" class="chart" '
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"|\Z', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return re.sub(r">\s+<", "><", head + text.removeprefix("<svg ")).strip()


def _variable(colour: str) -> str:
    """A colour of the style as the page may have it."""
    return f"var(--{VARIABLES[colour]}, {colour})" if colour in VARIABLES else colour
