"""Exponential moving average of a network's weights."""

import copy

import torch
from torch import Tensor, nn


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
