"""Means over the batch of all processes, differentiable to any order; steps that all take together or not at all."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

T = TypeVar("T")
BYTES_AT_ONCE = 64 * 2**20  # that travel between processes in one message


class PeerFailed(RuntimeError):
    """Another process failed in what all do together; it says why."""


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


def process() -> int:
    """Number of this process, 0 for the main one."""
    return dist.get_rank() if n_processes() > 1 else 0


def agree(action: Callable[[], T]) -> T:
    """action() here, returned once it has succeeded on every process; where one fails, all raise, and none waits.

    A ValueError of one, or a plain kind of it, is one of all, which names the process where it is not the main one;
    anything else is PeerFailed for those that did not fail.
    """
    if n_processes() == 1:
        return action()
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:  # raised below, when the others know
        failure = error
    told: list[tuple[type[Exception], tuple[str, ...]] | None] = [None] * n_processes()
    takes_text = type(failure).__init__ is ValueError.__init__  # alone, as raise below gives it
    if failure is not None and takes_text and process() > 0:
        failure.args = (f"rank {process()}: {' '.join(map(str, failure.args))}",)
    kind = type(failure) if takes_text else PeerFailed
    mine = None if failure is None else (kind, tuple(map(str, failure.args)))
    dist.all_gather_object(told, mine)
    if failure is not None:
        raise failure
    for kind, texts in (failed for failed in told if failed is not None):
        raise kind(*texts)
    return result


def from_main(action: Callable[[], T]) -> T:
    """What action() gives on the main process, which alone runs it, on all; its failure is the failure of all."""
    if n_processes() == 1:
        return action()
    held = [agree(lambda: action() if process() == 0 else None)]
    dist.broadcast_object_list(held)
    return held[0]


def tensors_from_main(action: Callable[[], T]) -> T:
    """As from_main, for containers of tensors on the CPU, whose bytes travel in bundles: no second copy of all."""
    if n_processes() == 1:
        return action()
    value = None

    def outline() -> Any:
        nonlocal value
        value = _map_tensors(action(), _dense)
        return _map_tensors(value, lambda x: x.to("meta"))

    shapes = from_main(outline)
    if process() != 0:
        value = _map_tensors(shapes, lambda x: torch.empty_like(x, device="cpu"))
    tensors: list[Tensor] = []
    _map_tensors(value, tensors.append)
    for parts in _bundles(tensors):
        _broadcast_bytes(parts)
    return value


def _map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Nested dicts, lists and tuples with change(x) in place of each tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {k: _map_tensors(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map_tensors(v, change) for v in value)
    return value


def _dense(x: Tensor) -> Tensor:
    """x, or a copy of one with gaps. The order in memory stays: fused optimisers take parameters and moments as they
    lie, so that moments in another order than their parameters would be wrong without a word."""
    return x if torch.empty_like(x, device="meta").stride() == x.stride() else x.contiguous()


def _bundles(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """All bytes of the tensors, as views of them: lists of at most BYTES_AT_ONCE each."""
    bundle: list[Tensor] = []
    size = 0
    for tensor in tensors:
        for part in (
            tensor.detach().as_strided((tensor.numel(),), (1,)).view(torch.uint8).split(BYTES_AT_ONCE)
        ):
            if bundle and size + len(part) > BYTES_AT_ONCE:
                yield bundle
                bundle, size = [], 0
            bundle.append(part)
            size += len(part)
    if bundle:
        yield bundle


def _broadcast_bytes(parts: list[Tensor]) -> None:
    """Fill the parts of all processes with those of the main one."""
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    whole = torch.cat(parts).to(device)
    dist.broadcast(whole, 0)
    if process() != 0:
        for part, sent in zip(parts, whole.cpu().split([len(p) for p in parts]), strict=True):
            part.copy_(sent)


def gather_rows(rows: Tensor, counts: Sequence[int]) -> list[Tensor] | None:
    """The rows (counts[r], d) of every process r, on the CPU of the main process; None on the others."""
    if n_processes() == 1:
        return [rows.cpu()]
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    padded = rows.new_zeros(max(counts), rows.shape[1], device=device)
    padded[: len(rows)] = rows
    held = [torch.empty_like(padded) for _ in counts] if process() == 0 else None
    dist.gather(padded, held)
    if held is None:
        return None
    return [part[:n].cpu() for part, n in zip(held, counts, strict=True)]


def all_rows(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all processes one after the other, (W n, ...), on every one; detached. As many of each."""
    rows = rows.detach()
    if n_processes() == 1:
        return rows
    held = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(n_processes())]
    dist.all_gather(held, rows.contiguous())
    return torch.cat(held)


def global_mean(x: Tensor, dim: int | None = None) -> Tensor:
    """Mean of x over all its elements (dim None) or over `dim`, and over all processes.

    Each process must hold as many elements as the others. Gradients are right to every order once the
    processes' parameter gradients are averaged, with no other factor. Eager code only.
    """
    local = x.mean() if dim is None else x.mean(dim)
    world = n_processes()
    return local if world == 1 else _AllReduceSum.apply(local) / world
