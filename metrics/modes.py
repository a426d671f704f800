"""Which classes a set of images shows, read by a classifier."""

import torch
from torch import Tensor


def class_shares(logits: Tensor) -> Tensor:
    """Share of the images (N, K) whose largest logit is each class: (K,), float64, sums to 1 but for K = 0.

    ValueError: no images, or a logit that is not finite (its class would be arbitrary).
    """
    _check(logits)
    if logits.shape[1] == 0:
        return torch.zeros(0, dtype=torch.float64)
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


def confusion(code: Tensor, label: Tensor, n: int) -> Tensor:
    """How often code i (N,) and label j (N,) come together: (n, n) int64. ValueError for others than 0 to n - 1."""
    if code.shape != label.shape or code.dim() != 1 or len(code) == 0:
        raise ValueError(f"as many codes as labels are needed: {tuple(code.shape)} and {tuple(label.shape)}")
    both = torch.stack([code, label])
    if int(both.min()) < 0 or int(both.max()) >= n:
        raise ValueError(f"codes and labels must be 0 to {n - 1}, not {int(both.min())} to {int(both.max())}")
    return torch.bincount(n * code + label, minlength=n * n).view(n, n)


def best_assignment(counts: Tensor) -> list[int]:
    """The one-to-one assignment of rows to columns of counts (n, n) with the largest sum: row i's column."""
    import networkx  # where it is needed: it takes long to import

    n = len(counts)
    graph = networkx.Graph()
    graph.add_weighted_edges_from((i, n + j, int(counts[i, j])) for i, j in counts.nonzero().tolist())
    column = {min(pair): max(pair) - n for pair in networkx.max_weight_matching(graph)}
    # rows that win nothing take what is left
    left = iter(sorted(set(range(n)) - set(column.values())))
    return [column[i] if i in column else next(left) for i in range(n)]


def assignment_accuracy(code: Tensor, label: Tensor, n: int) -> tuple[float, list[int]]:
    """Share of samples whose label (N,) is the one that the best one-to-one assignment gives their code (N,).

    Also the assignment: code i's label. n: of codes and of labels. The measure of unsupervised classification; chance
    is about 1 / n. ValueError as confusion.
    """
    counts = confusion(code, label, n)
    assignment = best_assignment(counts)
    return int(counts[torch.arange(n), assignment].sum()) / len(code), assignment
