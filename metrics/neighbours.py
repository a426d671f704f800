"""Scores from distances between features: precision and recall, density and coverage, copies of the training set.

Of each distance products in float32, of features around their mean, give bounds at half the cost of float64; what these
leave open is decided by differences in float64. So a common offset moves no score, nor does the device.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ops.precision import repeatable

PR_NEIGHBOURS, DC_NEIGHBOURS = 3, 5  # as published
CELLS = 2**24  # of a matrix of distances held at a time: 50,000 x 50,000 would be 10 GB
SPARE = 8  # candidates beside the nearest
TIE = 1e-10  # squared distances that differ by less, relative to either, are equal
COPY_NEIGHBOURS = 5  # what is near to one training image alone is a copy, what is near to as many is not
COPY_SHARE = 0.01  # of the training images, that may be as near to one other alone
COPY_RATIO = (
    2 / 3
)  # of the nearest distance to that of the fifth, which a copy is below whatever the others are


def _pieces(n: int, width: int) -> Iterator[slice]:
    """0 .. n - 1 in slices of as many rows of this width as CELLS holds, at least one."""
    rows = max(1, CELLS // max(1, width))
    return (slice(start, min(start + rows, n)) for start in range(0, n, rows))


def _squared(x: Tensor, i: Tensor, y: Tensor, j: Tensor) -> Tensor:
    """|x_i - y_j|^2 of pairs (n,) of rows of x (N, d) and y (M, d), in float64."""
    squared = torch.empty(len(i), dtype=torch.float64, device=x.device)
    for s in _pieces(len(i), 4 * x.shape[1]):
        squared[s] = (x[i[s]].double() - y[j[s]].double()).square().sum(1)
    return squared


class _Bounds:
    """Lower bounds of scale times the squared distances between rows (n, d) and points (m, d).

    |x|^2 + |y|^2 - 2 x.y around the points' mean, less the largest rounding error of its products in a dtype; what it
    is below the distance by is at most `slack` (|x|^2 + |y|^2).
    """

    def __init__(self, rows: Tensor, points: Tensor, dtype: torch.dtype) -> None:
        # of float rounding: of the products, of the features around their mean, and of the sums
        unit = torch.finfo(dtype).eps / 2 * (points.shape[1] + 16)
        self.slack, self.dtype = 2 * unit, dtype
        self._centre = self._mean(points)
        largest = max(float(self._norms(x).max()) for x in (rows, points))
        self.scale = 1 / largest if largest > 0 else 1.0  # no feature is too large or small for the dtype
        self._points, self.norms = self._near(points)
        self._rows, self.row_norms = (self._points, self.norms) if rows is points else self._near(rows)
        self._below = ((1 - unit) * self.norms).to(dtype)
        self.row_below = (1 - unit) * self.row_norms

    @staticmethod
    def _mean(points: Tensor) -> Tensor:
        parts = [points[s].double().sum(0) for s in _pieces(len(points), 4 * points.shape[1])]
        return torch.stack(parts).sum(0) / len(points)

    def _norms(self, x: Tensor) -> Tensor:
        return torch.cat(
            [(x[s].double() - self._centre).square().sum(1) for s in _pieces(len(x), 4 * x.shape[1])]
        )

    def _near(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rows around the mean, scaled, and their squared norms in float64."""
        near, norms = torch.empty_like(x, dtype=self.dtype), torch.empty_like(x[:, 0], dtype=torch.float64)
        for s in _pieces(len(x), 4 * x.shape[1]):
            near[s] = (x[s].double() - self._centre) * self.scale**0.5
            norms[s] = near[s].double().square().sum(1)
        return near, norms

    def below(self, rows: slice) -> Tensor:
        """The bounds (n, m) of some rows, less those rows' `row_below`."""
        return torch.addmm(self._below, self._rows[rows], self._points.T, alpha=-2)


def nearest(
    rows: Tensor, points: Tensor, k: int, own: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Squared distances (n, k), ascending, in float64, of rows (n, d) to their k nearest points (m, d), and which.

    own: (n,), the point that each row is itself and that does not count; dtype: of the first bounds.
    """
    m = len(points) - (own is not None)
    n_candidates = min(k + SPARE, m)
    squared = torch.empty(len(rows), k, dtype=torch.float64, device=rows.device)
    index = torch.empty(len(rows), k, dtype=torch.int64, device=rows.device)
    bounds = _Bounds(rows, points, dtype)
    unsure = []
    for s in _pieces(len(rows), len(points)):
        below = bounds.below(s)
        if own is not None:
            below.scatter_(1, own[s, None], torch.inf)
        least, candidates = below.topk(n_candidates, largest=False)
        which = torch.arange(s.start, s.stop, device=rows.device)
        found = torch.stack([_squared(rows, which, points, column) for column in candidates.T], 1)
        squared[s], order = found.topk(k, largest=False)
        index[s] = candidates.gather(1, order)
        if n_candidates < m:
            # no other point is nearer than this
            others = (least[:, -1].double() + bounds.row_below[s]) / bounds.scale
            unsure.append((squared[s, -1] > others.clamp(min=0)).nonzero().flatten() + s.start)
    left = torch.cat(unsure) if unsure else index.new_empty(0)
    if len(left) and dtype != torch.float64:
        del bounds
        again = nearest(rows[left], points, k, None if own is None else own[left], torch.float64)
        squared[left], index[left] = again
    return squared, index


def _others(points: Tensor, k: int) -> Tensor:
    """Squared distances (n, k) of each point to its k nearest other ones."""
    return nearest(points, points, k, torch.arange(len(points), device=points.device))[0]


def _within(
    centres: Tensor, squared: Tensor, points: Tensor, closed: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (ball, point), a part at a time, of balls of squared radii (n,) and the points that lie in them."""
    limits = squared * (1 + TIE if closed else 1 - TIE)
    bounds = _Bounds(centres, points, torch.float32)
    for s in _pieces(len(centres), len(points)):
        below = bounds.below(s)
        limit = limits[s] * bounds.scale - bounds.row_below[s]
        # float32's own rounding of the limit is far within the slack
        ball, point = (below <= limit.to(below.dtype)[:, None]).nonzero(as_tuple=True)
        slack = bounds.slack * (bounds.row_norms[s][ball] + bounds.norms[point])
        inside = below[ball, point].double() + slack < limit[ball]
        ball = ball + s.start
        unsure = (~inside).nonzero().flatten()
        exact, limit = _squared(centres, ball[unsure], points, point[unsure]), limits[ball[unsure]]
        inside[unsure] = exact <= limit if closed else exact < limit
        yield ball[inside], point[inside]


def _reached(centres: Tensor, points: Tensor, k: int) -> float:
    """Share of points no further from some centre than its k-th nearest other centre is."""
    found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for _, point in _within(centres, _others(centres, k)[:, -1], points, closed=True):
        found[point] = True
    return float(found.double().mean())


def precision_recall(real: Tensor, fake: Tensor, k: int = PR_NEIGHBOURS) -> tuple[float, float]:
    """Share of fakes (M, d) within reach of a real, and of reals (N, d) of a fake: closed balls to the k-th neighbour.

    arXiv:1904.06991 eq. 1 and 2. ValueError: k images or fewer of a kind.
    """
    n = min(len(real), len(fake))
    if n <= k:
        raise ValueError(f"precision and recall need more than {k} images of each kind, got {n}")
    with repeatable(), torch.no_grad():
        return _reached(real, fake, k), _reached(fake, real, k)


def density_coverage(real: Tensor, fake: Tensor, k: int = DC_NEIGHBOURS) -> tuple[float, float]:
    """(density, coverage) of fakes (M, d) over reals (N, d), by the balls that reach to a real's k-th other real.

    Density: the balls a fake lies in, over k, averaged over the fakes; about 1 where fakes are like reals, and it may
    be more. Coverage: the share of balls that hold a fake. Balls are open. arXiv:2002.09797. ValueError: k reals or
    fewer.
    """
    if len(real) <= k:
        raise ValueError(f"density and coverage need more than {k} reals, got {len(real)}")
    inside, covered = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    with repeatable(), torch.no_grad():
        for ball, _ in _within(real, _others(real, k)[:, -1], fake, closed=False):
            inside += len(ball)
            covered[ball] = True
    return inside / (k * len(fake)), float(covered.double().mean())


@dataclass(frozen=True)
class Originals:
    """Of each fake (M,) its nearest training image: which it is, how far away, and how far that is from its own nearest
    other one; ratio: of that distance to the one of the fake's fifth nearest training image; limit: what the ratio of a
    copy is at most."""

    index: Tensor
    distance: Tensor
    own: Tensor
    ratio: Tensor
    limit: float

    @property
    def authentic(self) -> float:
        """Share of fakes further from their nearest training image than that is from its own. arXiv:2102.08921 4.3."""
        return float((self.distance > self.own * (1 + TIE)).double().mean())

    @property
    def duplicates(self) -> float:
        """Share of fakes as near to one training image alone as a copy is; at most about 1 % of new images are."""
        return float((self.ratio <= self.limit).double().mean())


def _alone(distances: Tensor) -> Tensor:
    """The nearest of distances (n, k), ascending, over the last; 0 where the nearest is 0."""
    return torch.where(distances[:, 0] > 0, distances[:, 0] / distances[:, -1], 0.0)


def originals(real: Tensor, fake: Tensor) -> Originals:
    """The training images (N, d) that fakes (M, d) are nearest to.

    A copy is near to one training image and far from the others: its ratio is at most two thirds, and at most that of
    the hundredth part of the training images, equal ones left out, to the others of them. In pixels a third of the
    distance to the second nearest is usual, arXiv:2310.02664; features of few dimensions need their own limit.
    ValueError: COPY_NEIGHBOURS training images or fewer.
    """
    if len(real) <= COPY_NEIGHBOURS:
        least = COPY_NEIGHBOURS + 1
        raise ValueError(
            f"copies are told by distances to {COPY_NEIGHBOURS} training images: {least} are needed, got {len(real)}"
        )
    with repeatable(), torch.no_grad():
        own = _others(real, COPY_NEIGHBOURS).sqrt()
        squared, index = nearest(fake, real, COPY_NEIGHBOURS)
    distances, index = squared.sqrt(), index[:, 0]
    usual = _alone(own[own[:, 0] > 0])
    limit = min(COPY_RATIO, float(usual.quantile(COPY_SHARE))) if len(usual) else COPY_RATIO
    return Originals(index, distances[:, 0], own[index, 0], _alone(distances), limit)
