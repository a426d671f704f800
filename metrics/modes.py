"""Which classes a set of images shows, read by a classifier."""

import torch
from torch import Tensor


def class_shares(logits: Tensor) -> Tensor:
    """Share of the images (N, K) whose largest logit is each class: (K,), float64, sums to 1.

    ValueError: no images, or a logit that is not finite (its class would be arbitrary).
    """
    _check(logits)
    counts = torch.bincount(logits.argmax(dim=1).cpu(), minlength=logits.shape[1])
    return counts.double() / len(logits)


def n_modes(share: Tensor, at_least: float = 0.01) -> int:
    """Number of classes with at least this share of the images, and with at least one image."""
    return int(((share >= at_least) & (share > 0)).sum())


def kl_divergence(share: Tensor, reference: Tensor) -> float:
    """KL(share || reference) in nats, 0 log 0 = 0; inf where the reference lacks a class that is shown."""
    # xlogy(p, p) - xlogy(p, q): p log p - p log q with both limits right.
    return float((torch.xlogy(share, share) - torch.xlogy(share, reference)).sum().clamp(min=0))


def kl_to_uniform(share: Tensor) -> float:
    """KL(share || uniform) in nats: 0 for a uniform share, log K for a single class."""
    return kl_divergence(share, torch.full_like(share, 1 / len(share)))


def mean_confidence(logits: Tensor) -> float:
    """Mean over the images (N, K) of the probability of their most likely class."""
    _check(logits)
    return float(logits.double().softmax(dim=1).amax(dim=1).mean())


def _check(logits: Tensor) -> None:
    """Refuse logits from which no class can be read."""
    if logits.ndim != 2 or len(logits) == 0:
        raise ValueError(f"logits must be (N, K) of at least one image, got shape {tuple(logits.shape)}")
    if not torch.isfinite(logits).all():
        raise ValueError("logits are not finite")
