"""Averages of a network's weights: exponential, of power functions, and of any width after the fact."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from errors import UserError


class EMA:
    """An averaged copy of a network: parameters are averaged, buffers copied.

    Buffers are batch norm's statistics and spectral norm's vectors; averaging the latter would shrink them.
    `module` is the averaged network, its state dict the whole state.
    """

    def __init__(self, module: nn.Module) -> None:
        """Start from a deep copy of `module`."""
        self.module = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float, ok: Tensor | None = None) -> None:
        """Move towards `module` by 1 - decay.

        `ok`, a flag of one element on the network's device, leaves everything untouched where it is 0:
        for steps that the guard skipped, without waiting for the device.
        """
        keep = None if ok is None else ok.bool().reshape(())
        averaged, current = list(self.module.parameters()), [p.detach() for p in module.parameters()]
        if keep is not None:
            # A lerp by 0 would still carry a non-finite weight over, so the target is chosen first.
            current = [torch.where(keep, c, a) for a, c in zip(averaged, current, strict=True)]
        if averaged:
            torch._foreach_lerp_(averaged, current, 1 - decay)
        for a, c in zip(self.module.buffers(), module.buffers(), strict=True):
            a.copy_(c if keep is None else torch.where(keep, c, a))


def decay_at(n_updates: int, *, decay: float, warmup: int) -> float:
    """Decay of the update that follows `n_updates` earlier ones.

    0, a plain copy, during the first `warmup` updates; then (1 + n) / (10 + n) until that reaches `decay`.
    """
    if n_updates < warmup:
        return 0.0
    return min(decay, (1 + n_updates) / (10 + n_updates))


def decay_from_halflife(images: float, halflife: float) -> float:
    """Decay of an update made after `images` images, for a half-life in images; half-life 0 is a copy."""
    if halflife < 0:
        raise ValueError(f"EMA half-life {halflife} is negative; it is counted in images, 0 for none")
    return 0.5 ** (images / halflife) if halflife > 0 else 0.0


# -- power functions, and averages after the fact: arXiv:2312.02696 section 3 and appendix C ---------------------------
#
# An average of exponent g at t weighs the weights of the moment tau by p(tau) = (g + 1) tau^g / t^(g+1), 0 <= tau <= t.
# Times are counted in images seen. What is kept while the weights stand still, from one update to the next, is exact.

# beyond lies the plain mean of all weights, sqrt(1/12) = .2887, where g = 0
LEAST_WIDTH, MOST_WIDTH = 0.001, 0.28

Place = tuple[float, float]  # an average: (t in images, exponent)


def power_decay(images: float, increment: float, exponent: float) -> float:
    """Decay (1 - d/t)^(g+1) of the update after `images` t, of which `increment` d came since the last one; eq. 2.

    0, a plain copy, at the first update, where d = t.
    """
    return (1 - increment / images) ** (exponent + 1)


def width_of(exponent: float) -> float:
    """sigma_rel: the standard deviation of the profile as a share of t, sqrt((g + 1) / ((g + 2)^2 (g + 3)))."""
    return math.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3)))


def exponent_of(width: float) -> float:
    """The exponent g of a width sigma_rel: the largest root of g^3 + 7 g^2 + (16 - s) g + 12 - s, s = width^-2.

    UserError for a width below .001 or above .28.
    """
    if not LEAST_WIDTH <= width <= MOST_WIDTH:
        raise UserError(
            f"EMA width {width:g} must be from {LEAST_WIDTH:g} to {MOST_WIDTH:g}, a share of the images seen"
        )
    s = width**-2
    g, last = s**0.5, math.inf  # above the root, from where Newton's steps only fall
    while g < last:
        last, g = g, g - (((g + 7) * g + 16 - s) * g + 12 - s) / ((3 * g + 14) * g + 16 - s)
    return last


def profile_products(a: Sequence[Place], b: Sequence[Place]) -> Tensor:
    """Integrals of p_a p_b over all times, float64 (len(a), len(b)).

    (g_a + 1) (g_b + 1) (t_a / t_b)^k / ((g_a + g_b + 1) max(t_a, t_b)), k = g_b where t_a < t_b, else -g_a.
    """
    t_a, g_a = torch.tensor(a, dtype=torch.float64).T[:, :, None]
    t_b, g_b = torch.tensor(b, dtype=torch.float64).T[:, None, :]
    k = torch.where(t_a < t_b, g_b, -g_a)
    return (g_a + 1) * (g_b + 1) * (t_a / t_b) ** k / ((g_a + g_b + 1) * torch.maximum(t_a, t_b))


def reconstruct(snapshots: Sequence[Place], target: Place) -> tuple[list[float], float]:
    """(what each snapshot counts in an average that nobody kept, how far off its profile is).

    The profile is the combination of the snapshots' that is nearest to the target's in L2, its sum brought to 1; its
    error is relative to the target's norm, 0 for a target that is one of the snapshots. Solved in float64.
    """
    unit = target[0]
    places = [(t / unit, g) for t, g in snapshots]
    goal = [(1.0, target[1])]
    a, b = profile_products(places, places), profile_products(places, goal)[:, 0]
    x = torch.linalg.pinv(a, rtol=1e-14, hermitian=True) @ b
    x = x / x.sum()
    norm = profile_products(goal, goal)[0, 0]
    off = (norm - 2 * (b @ x) + x @ a @ x) / norm
    return x.tolist(), math.sqrt(max(float(off), 0.0))
