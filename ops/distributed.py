"""Means over the batch of all processes, differentiable to any order."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx


class _AllReduceSum(torch.autograd.Function):
    """Sum of x over all processes.

    Every process's sum depends on every process's x, and the loss of the whole run is the sum of all
    processes' losses, so the backward is the same sum of the incoming gradients. Applying itself there
    makes it differentiable again. The backward is a collective: all processes must build equal graphs.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        """Sum of a fresh copy of x, since all_reduce writes in place."""
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        """Sum of the processes' incoming gradients."""
        return _AllReduceSum.apply(grad)


def n_processes() -> int:
    """Number of processes that train together; 1 without an initialised process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_mean(x: Tensor, dim: int | None = None) -> Tensor:
    """Mean of x over all its elements (dim None) or over `dim`, and over all processes.

    Each process must hold as many elements as the others. Gradients are right to every order once the
    processes' parameter gradients are averaged, with no other factor. Eager code only.
    """
    local = x.mean() if dim is None else x.mean(dim)
    world = n_processes()
    return local if world == 1 else _AllReduceSum.apply(local) / world
