"""Mixtures of Gaussians and their scores, by hand and against a perfect sampler."""

import math

import pytest
import torch
from torch.testing import assert_close

from metrics.mixture import MIXTURES, jensen_shannon, mixture_scores, nearest_modes
from ops.rng import generator

RING8, GRID25 = MIXTURES["ring8"], MIXTURES["grid25"]


def test_centres_by_hand() -> None:
    """The source's ring in a box of 15, the literature's grid in a box of 5."""
    ring, grid = (15 * torch.tensor(RING8.centres), 5 * torch.tensor(GRID25.centres))
    assert_close(ring.norm(dim=1), torch.full((8,), 10.0))
    assert_close(ring[:3], torch.tensor([[10, 0], [10 / math.sqrt(2)] * 2, [0, 10]]), atol=1e-5, rtol=0)
    assert 15 * RING8.std == 0.5 and 5 * GRID25.std == 0.05
    assert_close(grid[[0, 1, 5, 24]], torch.tensor([[-4.0, -4], [-2, -4], [-4, -2], [4, 4]]))


@pytest.mark.parametrize("name", MIXTURES)
def test_a_perfect_sampler(name: str) -> None:
    """98.89 % within 3 standard deviations, every mode, no divergence."""
    mixture = MIXTURES[name]
    points, modes = mixture.sample(200_000 // len(mixture.centres), generator(0, "perfect"))
    found = mixture_scores(points, mixture)
    assert abs(found["high_quality"] - (1 - math.exp(-4.5))) < 1e-3
    assert found["modes"] == found["modes_1pct"] == len(mixture.centres)
    assert found["kl_uniform"] < 1e-3 and found["jsd"] < 1e-3
    assert (nearest_modes(points, mixture)[0] == modes).float().mean() > 0.9999


def test_one_mode_by_hand() -> None:
    """All points at one centre: KL log 8; JSD of (1, 0, ...) from (q, ..., q, 1 - 8 q), q the share of a mode."""
    found = mixture_scores(torch.tensor([RING8.centres[3]] * 10), RING8)
    assert found["modes"] == found["modes_1pct"] == 1 and found["high_quality"] == 1
    assert found["shares"] == [0, 0, 0, 1, 0, 0, 0, 0]
    assert math.isclose(found["kl_uniform"], math.log(8))
    q = (1 - math.exp(-4.5)) / 8
    expected = (-math.log((1 + q) / 2) + q * math.log(2 * q / (1 + q)) + (1 - q) * math.log(2)) / 2
    assert math.isclose(found["jsd"], expected)


def test_no_mode() -> None:
    found = mixture_scores(torch.zeros(7, 2), RING8)
    assert found["modes"] == 0 and found["high_quality"] == 0
    assert math.isclose(found["kl_uniform"], math.log(8)) and 0.6 < found["jsd"] < math.log(2)


def test_one_point_is_a_mode_and_one_percent_is_another_measure() -> None:
    points = torch.tensor([RING8.centres[0]] * 199 + [RING8.centres[1]])
    found = mixture_scores(points, RING8)
    assert (found["modes"], found["modes_1pct"]) == (2, 1)


def test_one_percent_is_of_all_points_near_a_mode_or_not() -> None:
    """3 of 400 points are no mode, though they are more than 1 % of the 200 near one."""
    points = torch.tensor([RING8.centres[0]] * 197 + [RING8.centres[1]] * 3 + [(0.0, 0.0)] * 200)
    found = mixture_scores(points, RING8)
    assert (found["modes"], found["modes_1pct"], found["high_quality"]) == (2, 1, 0.5)


def test_rotation_permutes_the_shares() -> None:
    points = torch.tensor([RING8.centres[0]] * 6 + [RING8.centres[2]] * 3 + [(0.0, 0.0)])
    half = math.sqrt(0.5)
    turned = points @ torch.tensor([[half, half], [-half, half]])  # by 45 degrees
    one, other = mixture_scores(points, RING8), mixture_scores(turned, RING8)
    assert other["shares"] == [one["shares"][-1], *one["shares"][:-1]]
    assert math.isclose(one["jsd"], other["jsd"]) and one["high_quality"] == other["high_quality"] == 0.9


def test_three_standard_deviations_are_the_border() -> None:
    x, y = RING8.centres[0]
    points = torch.tensor([(x + 2.99 * RING8.std, y), (x, y - 3.01 * RING8.std)])
    assert mixture_scores(points, RING8)["high_quality"] == 0.5
    assert_close(nearest_modes(points, RING8)[1], torch.tensor([2.99, 3.01]).double(), atol=1e-4, rtol=0)


def test_jensen_shannon_by_hand() -> None:
    p, q = torch.tensor([1.0, 0]).double(), torch.tensor([0.5, 0.5]).double()
    assert jensen_shannon(p, p) == 0
    assert math.isclose(jensen_shannon(p, 1 - p), math.log(2))
    expected = (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    assert math.isclose(jensen_shannon(p, q), expected) and math.isclose(jensen_shannon(q, p), expected)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (torch.zeros(3, 3), r"\(N, 2\)"),
        (torch.zeros(0, 2), r"\(N, 2\)"),
        (torch.tensor([[0.0, 1], [math.nan, 0], [math.inf, 0]]), "2 of 3 points are not finite"),
    ],
)
def test_refusals(points: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mixture_scores(points, RING8)
