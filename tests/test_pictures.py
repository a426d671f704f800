"""Curves drawn with Pillow."""

import math

import numpy as np
import pytest
from PIL import Image

from generation.pictures import COLOURS, WHITE, curves


def columns(picture: Image.Image, colour: tuple[int, int, int]) -> dict[int, list[int]]:
    """Column -> rows, below the legend, of the pixels of about that colour."""
    near = np.abs(np.asarray(picture).astype(int) - colour).sum(2) < 130  # greys are farther
    near[:20] = False
    return {int(x): np.flatnonzero(near[:, x]).tolist() for x in np.flatnonzero(near.any(0))}


def test_lines_go_where_their_values_are() -> None:
    picture = curves({"up": ([0, 1], [-1, 3]), "flat": ([0, 1], [1, 1])}, "step", "loss", size=(300, 200))
    assert picture.size == (300, 200) and picture.mode == "RGB"
    up, flat = columns(picture, COLOURS[0]), columns(picture, COLOURS[1])
    assert min(up) < 60 and max(up) > 270
    assert np.mean(up[max(up) - 5]) < 60 < 140 < np.mean(up[min(up) + 5])
    heights = [np.mean(rows) for rows in flat.values()]
    assert max(heights) - min(heights) <= 1  # half way up: 1 is the middle of -1 and 3
    assert heights[0] == pytest.approx((np.mean(up[max(up)]) + np.mean(up[min(up)])) / 2, abs=3)


def test_points_that_are_not_finite_are_gaps() -> None:
    whole = columns(curves({"a": (range(5), [1] * 5), "b": ([0, 4], [0, 2])}), COLOURS[0])
    broken = columns(
        curves({"a": (range(5), [1, 1, math.nan, 1, math.inf]), "b": ([0, 4], [0, 2])}), COLOURS[0]
    )
    assert 0.2 < len(broken) / len(whole) < 0.35  # of four pieces the first stays
    with pytest.raises(ValueError, match="curves of a: there is no finite point"):
        curves({"a": ([0], [math.nan])})


def test_equal_values_and_more_lines_than_colours() -> None:
    picture = curves({str(i): ([0, 1], [2, 2]) for i in range(len(COLOURS) + 1)})
    assert picture.getpixel((2, 2)) == WHITE
    assert columns(picture, COLOURS[0])  # the last is on top, in the first colour again


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError):
        curves({"a": ([0, 1], [1])})
