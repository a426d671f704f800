"""Charts by Matplotlib: what is drawn where, as text that is equal each time, and as a picture."""

import math
import re
from xml.etree import ElementTree

import matplotlib
import pytest
import torch

from generation.charts import COLOURS, POINTS, curves, envelope, histogram, histograms, picture, svg


def lines_of(figure: object) -> dict[str, tuple[list, list]]:
    """Name -> (x, y) of a figure's lines."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines
    }


def test_lines_hold_their_points_and_gaps() -> None:
    figure = curves(
        {"a": (range(4), [1, math.nan, 3, math.inf]), "b": ([0, 3], [-1, 2])}, "step", "loss", (300, 200)
    )
    x, y = lines_of(figure)["a"]
    assert x == [0, 1, 2, 3] and y[0] == 1 and math.isnan(y[1]) and y[2] == 3
    assert figure.axes[0].get_xlabel() == "step" and figure.axes[0].get_ylabel() == "loss"
    assert picture(figure).size == (300, 200) and picture(figure, 2).size == (600, 400)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="curves of a: there is no finite point"):
        curves({"a": ([0], [math.nan])})
    with pytest.raises(ValueError, match="curves of nothing"):
        curves({})
    with pytest.raises(ValueError, match="curves of a: 2 places and 1 values"):
        curves({"a": ([0, 1], [1])})
    with pytest.raises(ValueError, match="histograms of nothing"):
        histograms({})


def test_an_envelope_keeps_every_peak_and_every_dip() -> None:
    """Of long series the least and the greatest of each part stay, in order; short ones are whole."""
    values = [math.sin(i) for i in range(20_000)]
    values[1234], values[15_678] = 50.0, -60.0
    x, y = envelope(range(20_000), values)
    assert len(x) <= 2 * POINTS and x == sorted(x)
    assert max(y) == 50 and x[y.index(50.0)] == 1234 and min(y) == -60 and x[y.index(-60.0)] == 15_678
    assert all(y[i] == values[at] for i, at in enumerate(x))
    assert envelope([1, 2], [3, 4]) == ([1, 2], [3, 4])


def test_an_envelope_shows_where_nothing_is_finite() -> None:
    values = [0.0] * 4000 + [math.nan] * 2000 + [1.0] * 4000
    x, y = envelope(range(10_000), values)
    gap = [value for at, value in zip(x, y, strict=True) if 4100 < at < 5900]
    assert gap and all(map(math.isnan, gap))


def test_more_lines_than_colours_differ_in_stroke() -> None:
    figure = curves({str(i): ([0, 1], [i, i]) for i in range(len(COLOURS) + 2)})
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len(set(looks)) == len(looks) and looks[0][0] == looks[len(COLOURS)][0]


def test_bands_lie_around_their_lines() -> None:
    figure = curves({"a": ([0, 1], [2, 2])}, bands={"a": ([0, 1], [1, 1], [3, 3])})
    (band,) = figure.axes[0].collections
    ys = band.get_paths()[0].vertices[:, 1]
    assert ys.min() == 1 and ys.max() == 3
    assert not curves({"a": ([0, 1], [2, 2])}).axes[0].collections


def test_svg_is_equal_each_time_and_of_no_machine() -> None:
    """Well-formed, no date, no path, no size of its own; names are text, mathematics or not."""

    def draw() -> str:
        series = {"loss/$x$ <b>&": ([0, 1, 2], [1, 10, 1000])}
        return svg(curves(series, "step", levels={"half": 5.0}, log=True), 'of "a" <b>')

    text = draw()
    assert text == draw()
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == 'of "a" <b>' and root.get("role") == "img"
    assert root.get("width") is None and root.get("height") is None and root.get("viewBox")
    shown = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "loss/$x$ <b>&" in shown and "half" in shown and "10" in shown and "1000" in shown
    assert not re.search(r"\d{4}-\d\d-\d\d|/(home|root|tmp|work|usr)\b|matplotlib", text)
    assert f"var(--line-0, {COLOURS[0]})" in text and "mathdefault" not in text


def test_the_users_style_is_neither_taken_nor_touched() -> None:
    usual = svg(curves({"a": ([0, 1], [1, 2])}))
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30}):
        assert svg(curves({"a": ([0, 1], [1, 2])})) == usual
        assert matplotlib.rcParams["lines.linewidth"] == 9 and matplotlib.rcParams["text.parse_math"]


def test_bars_are_shares_of_all_values() -> None:
    """75 and 25 of 200 values within the limits, 100 beyond: 37.5 % and 12.5 %."""
    values = torch.tensor([0.01] * 75 + [-0.99] * 25 + [-5.0] * 50 + [1.01] * 50)
    (bars,) = histogram(values, 1.0, n_bins=4).axes[0].patches
    heights, edges, _ = bars.get_data()
    assert list(heights) == [0.125, 0, 0.375, 0] and list(edges) == [-1, -0.5, 0, 0.5, 1]


def test_a_small_histogram_a_layer() -> None:
    layers = {f"layer{i}": torch.full((3, 3), float(i)) for i in range(5)} | {
        "odd": torch.tensor([math.nan, 1.0])
    }
    figure = histograms(layers, columns=4)
    assert [axes.get_title() for axes in figure.axes] == [*layers, "", ""]
    assert svg(figure).startswith("<svg")
