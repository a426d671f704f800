"""Attention of one head without a scale. arXiv:1706.03762.

torch chooses among several forms by device, type and shape, and only the plain one, `math`, has a second derivative:
`twice_differentiable` in ops/precision.py makes it take that.
On a CPU that one it is for SA-GAN, whose queries are a quarter as long as its values. Zeros at the end of queries and
keys would let the fused form in, which does not pay: for 1024 queries and 256 keys the forward takes 0.5 to 0.9 of the
time, but with the backward 1.1 to 1.4 times, and in bfloat16 7 times.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T) v, each query's weights over the keys: (N, L, d), (N, M, d), (N, M, c) -> (N, L, c).

    Without 1 / sqrt(d), as in arXiv:1805.08318 eq. 1. ValueError for shapes that do not fit.
    """
    _check_shapes(q, k, v)
    heads = (x[:, None] for x in (q, k, v))  # fused forms want an axis of heads
    return F.scaled_dot_product_attention(*heads, scale=1.0)[:, 0]


def attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same function written out; differentiable to any order."""
    _check_shapes(q, k, v)
    return torch.softmax(q @ k.transpose(1, 2), 2) @ v


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    fits = q.dim() == k.dim() == v.dim() == 3 and q.shape[::2] == k.shape[::2]
    if not fits or k.shape[:2] != v.shape[:2]:
        given = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"q (N, L, d), k (N, M, d) and v (N, M, c) do not fit: {given}")
