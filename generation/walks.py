"""Ways through latent space: between given points, round a circle, at random; tensors in, tensors out.

All walks are of moments t in [0, 1]. A closed one is at its start again at t = 1, so that the frames at
`moments(n, True)` loop without a halt.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ops.rng import generator as seeded

PARALLEL = 1e-6  # sine of an angle below which two vectors span no plane

Between = Callable[[Tensor, Tensor, float | Tensor], Tensor]


def lerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """a + t (b - a), exact at both ends; t: a number, or a tensor that broadcasts against a and b, as (n, 1)."""
    return a * (1 - t) + b * t


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """From a to b along the arc between their directions, over the last axis; t as for lerp.

    a sin((1 - t) o) / sin o + b sin(t o) / sin o with the angle o between a and b (Shoemake 1985): of two vectors of
    one length all between have it. Where they are parallel, or one is 0, that is lerp; where they are opposite, the arc
    goes by way of an axis at a right angle to a, the same each time. Computed in double precision.
    """
    kind = torch.result_type(a, b)
    a, b, t = a.double(), b.double(), torch.as_tensor(t, dtype=torch.float64, device=a.device)
    length_a, length_b = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (a, b))
    u, v = (x / torch.where(length == 0, 1, length) for x, length in ((a, length_a), (b, length_b)))
    # of unit vectors: the angle by both half chords, which is exact near 0 and near pi alike
    apart, together = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (u - v, u + v))
    angle = 2 * torch.atan2(apart, together)
    sine = torch.sin(angle)
    flat = (sine < PARALLEL) | (length_a == 0) | (length_b == 0)
    along = (a * torch.sin((1 - t) * angle) + b * torch.sin(t * angle)) / torch.where(flat, 1, sine)
    way_round = (u * torch.cos(t * math.pi) + _across(u) * torch.sin(t * math.pi)) * lerp(
        length_a, length_b, t
    )
    opposite = flat & (apart > 1) & (length_a > 0) & (length_b > 0)
    return torch.where(opposite, way_round, torch.where(flat, lerp(a, b, t), along)).to(kind)


def _across(u: Tensor) -> Tensor:
    """Unit vectors at right angles to unit vectors u: the axis that u is least along, made so. One axis alone: u."""
    if u.shape[-1] == 1:
        return u
    axis = torch.zeros_like(u).scatter_(-1, u.abs().argmin(-1, keepdim=True), 1.0)
    across = axis - (axis * u).sum(-1, keepdim=True) * u
    return across / torch.linalg.vector_norm(across, dim=-1, keepdim=True).clamp(min=1e-12)


BETWEEN: dict[str, Between] = {"lerp": lerp, "slerp": slerp}


def moments(n: int, closed: bool) -> Tensor:
    """n moments (n,) in equal steps from 0, float64: of a closed walk to before 1, of an open one to 1."""
    return torch.arange(n, dtype=torch.float64) / max(1, n if closed else n - 1)


def along(points: Tensor, t: Tensor, closed: bool, between: Between = lerp) -> Tensor:
    """Where a walk through points (k, ...) is at moments t (n,): (n, ...); each leg takes as long as any other.

    closed: it goes on from the last point to the first.
    """
    k = len(points)
    if k == 1:
        return points.expand(len(t), *points.shape[1:])
    legs = k if closed else k - 1
    where = t * legs
    leg = where.floor().clamp(0, legs - 1).long()
    share = (where - leg).to(points.dtype).view(-1, *[1] * (points.dim() - 1))
    return between(points[leg], points[(leg + 1) % k], share)


def circle(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """cos(2 pi t) a + sin(2 pi t) b for a, b (..., dim) and moments t (n,): (n, ..., dim), closed.

    Of independent a, b ~ N(0, 1) each point is distributed as they are.
    """
    angle = (2 * math.pi * t).to(a.dtype).view(-1, *[1] * a.dim())
    return torch.cos(angle) * a + torch.sin(angle) * b


def random_walk(seed: int, first: int, n: int, dim: int, t: Tensor, closed: bool, harmonics: int) -> Tensor:
    """Smooth random ways (len(t), n, dim), one each of the indices [first, first + n), at moments t.

    Sums of `harmonics` sines and cosines with normal weights, scaled so that z ~ N(0, 1) at every moment; more of them
    go farther. An open walk is the first half of a closed one of twice as many. Each is a function of the seed and its
    index alone.
    """
    n_waves = harmonics if closed else 2 * harmonics
    ways = [torch.randn(2, n_waves, dim, generator=seeded(seed, "walk", i)) for i in range(first, first + n)]
    weights = torch.stack(ways, 2).to(torch.float64)  # (2, n_waves, n, dim)
    turns = (t if closed else t / 2)[:, None] * torch.arange(1, n_waves + 1)  # (len(t), n_waves)
    waves = torch.stack([torch.cos(2 * math.pi * turns), torch.sin(2 * math.pi * turns)]) / math.sqrt(n_waves)
    return torch.einsum("stk,skid->tid", waves, weights).float()
