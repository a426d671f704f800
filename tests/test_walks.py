"""Ways through latent space: values worked by hand, lengths, closedness, and that indices depend on nothing else."""

import math

import pytest
import torch
from torch import Tensor

from generation.walks import along, circle, lerp, moments, random_walk, slerp

X, Y = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
HALF, ROOT = 0.5, math.sqrt(0.5)


@pytest.mark.parametrize(
    ("a", "b", "t", "wanted"),
    [
        (X, Y, 0.5, [ROOT, ROOT, 0]),
        (X, Y, 1 / 3, [math.cos(math.pi / 6), HALF, 0]),
        (2 * X, 4 * Y, 0.5, [2 * ROOT, 4 * ROOT, 0]),  # no normalisation: the formula as it stands
        (X, 3 * X, 0.25, [1.5, 0, 0]),  # parallel: lerp
        (X, X, 0.7, [1, 0, 0]),
        (X, -X, 0.5, [0, 1, 0]),  # opposite: by way of the axis that is least in it
        (X, -X, 1.0, [-1, 0, 0]),
        (X, -3 * X, 0.5, [0, 2, 0]),
        (0 * X, Y, 0.25, [0, 0.25, 0]),
        (X, Y, 0.0, [1, 0, 0]),
        (X, Y, 1.0, [0, 1, 0]),
    ],
)
def test_slerp_by_hand(a: Tensor, b: Tensor, t: float, wanted: list[float]) -> None:
    torch.testing.assert_close(slerp(a, b, t), torch.tensor(wanted, dtype=a.dtype), atol=1e-6, rtol=0)
    torch.testing.assert_close(slerp(a, b, torch.tensor(t)), slerp(a, b, t))


def test_slerp_keeps_lengths_and_goes_at_an_even_pace() -> None:
    a, b = torch.randn(2, 5, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None, None]
    way = slerp(a, b, t)
    assert way.shape == (9, 5, 64)
    torch.testing.assert_close(way.norm(dim=-1), torch.ones(9, 5, dtype=torch.float64))
    steps = (way[1:] - way[:-1]).norm(dim=-1)
    torch.testing.assert_close(steps, steps[:1].expand(8, 5))


@pytest.mark.parametrize("angle", [1e-9, 1e-7, 1e-5, math.pi - 1e-5, math.pi - 1e-7, math.pi - 1e-9])
def test_slerp_is_safe_near_the_ends(angle: float) -> None:
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    b = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    way = slerp(a, b, torch.linspace(0, 1, 5, dtype=torch.float64)[:, None])
    torch.testing.assert_close(way.norm(dim=-1), torch.ones(5, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(way[[0, -1]], torch.stack([a, b]), atol=1e-6, rtol=0)


def test_lerp_broadcasts_and_meets_its_ends() -> None:
    a, b = torch.randn(2, 3, 4)
    assert torch.equal(lerp(a, b, 0.0), a) and torch.equal(lerp(a, b, 1.0), b)
    torch.testing.assert_close(lerp(a, b, torch.tensor([[0.0], [0.5], [1.0]]))[1], (a[1] + b[1]) / 2)


def test_moments_leave_the_end_of_a_loop_to_its_start() -> None:
    assert moments(4, True).tolist() == [0, 0.25, 0.5, 0.75]
    assert moments(5, False).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert moments(1, False).tolist() == [0]


def test_along_passes_every_point_and_closes() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 3.0]])
    t = torch.tensor([0, 1 / 3, 0.5, 2 / 3, 5 / 6, 1], dtype=torch.float64)
    closed = [[0, 0], [1, 0], [1, 1.5], [1, 3], [0.5, 1.5], [0, 0]]
    torch.testing.assert_close(along(points, t, True), torch.tensor(closed, dtype=torch.float32))
    open_way = along(points, torch.tensor([0, 0.25, 0.5, 1.0]), False)
    torch.testing.assert_close(open_way, torch.tensor([[0, 0], [0.5, 0], [1, 0], [1, 3]]))
    assert torch.equal(along(points[:1], t, True), points[:1].expand(6, 2))


def test_circle_is_one() -> None:
    a, b = torch.randn(2, 3, 8, dtype=torch.float64)
    way = circle(a, b, torch.tensor([0, 0.25, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(way, torch.stack([a, b, -a, a]))


@pytest.mark.parametrize("closed", [True, False])
def test_random_walk(closed: bool) -> None:
    t = moments(60, closed)
    way = random_walk(3, 0, 4, 500, t, closed, 2)
    assert way.shape == (60, 4, 500) and way.dtype == torch.float32
    assert abs(way.std(dim=-1) - 1).max() < 0.2  # of 500 normal numbers each, +-0.03
    steps = (way[1:] - way[:-1]).norm(dim=-1)
    back = (way[0] - way[-1]).norm(dim=-1)
    assert (back < 1.5 * steps.max()).all() == closed
    assert steps.max() < 0.3 * way.norm(dim=-1).min()  # smooth
    assert torch.equal(way[:, 2:3], random_walk(3, 2, 1, 500, t, closed, 2))  # whatever stands beside it
    assert not torch.equal(way, random_walk(4, 0, 4, 500, t, closed, 2))
