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


MAX_ASSIGNED = 16  # codes: the best assignment takes time and memory of 2^n


def confusion(code: Tensor, label: Tensor, n: int) -> Tensor:
    """How often code i (N,) and label j (N,) come together: (n, n) int64. ValueError for others than 0 to n - 1."""
    if code.shape != label.shape or code.dim() != 1 or len(code) == 0:
        raise ValueError(f"as many codes as labels are needed: {tuple(code.shape)} and {tuple(label.shape)}")
    both = torch.stack([code, label])
    if int(both.min()) < 0 or int(both.max()) >= n:
        raise ValueError(f"codes and labels must be 0 to {n - 1}, not {int(both.min())} to {int(both.max())}")
    return torch.bincount(n * code + label, minlength=n * n).view(n, n)


def best_assignment(counts: Tensor) -> list[int]:
    """The one-to-one assignment of rows to columns of counts (n, n) with the largest sum: row i's column.

    Exact, by the best sum of the first rows over each set of columns. ValueError above MAX_ASSIGNED rows.
    """
    rows = counts.tolist()
    n = len(rows)
    if n > MAX_ASSIGNED:
        raise ValueError(f"{n} codes: at most {MAX_ASSIGNED} are assigned")
    best, last = [0] * (1 << n), [0] * (1 << n)
    for taken in range(1, 1 << n):
        row = rows[taken.bit_count() - 1]
        free = [j for j in range(n) if taken >> j & 1]
        best[taken], last[taken] = max((best[taken ^ 1 << j] + row[j], j) for j in free)
    assignment, taken = [0] * n, (1 << n) - 1
    for i in reversed(range(n)):
        assignment[i] = last[taken]
        taken ^= 1 << last[taken]
    return assignment


def assignment_accuracy(code: Tensor, label: Tensor, n: int) -> tuple[float, list[int]]:
    """Share of samples whose label (N,) is the one that the best one-to-one assignment gives their code (N,).

    Also the assignment: code i's label. n: of codes and of labels. The measure of unsupervised classification; chance
    is about 1 / n. ValueError as confusion and best_assignment.
    """
    counts = confusion(code, label, n)
    assignment = best_assignment(counts)
    return int(counts[torch.arange(n), assignment].sum()) / len(code), assignment
