"""How forwards are computed: full precision for what half precision ruins, repeatable, differentiable twice."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def upcast(x: Tensor) -> Tensor:
    """Lift float16 and bfloat16 to float32 and leave every other type, float64 included, as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Context in which x's device computes in the types it is given; the meta device has no autocast, nor has a graph
    that is exported, in which each context would be a graph of its own."""
    without = x.is_meta or torch.compiler.is_exporting()
    return nullcontext() if without else torch.autocast(x.device.type, enabled=False)


def autocast_type(x: Tensor) -> torch.dtype | None:
    """The type that autocast has for x's device, None where it is off."""
    kind = x.device.type
    if x.is_meta or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def twice_differentiable() -> AbstractContextManager:
    """Context whose forwards take the form of attention that has a second derivative; backwards may come after it."""
    return sdpa_kernel(SDPBackend.MATH)


@contextmanager
def repeatable() -> Iterator[None]:
    """Context without TF32 and with cuDNN's deterministic algorithms, whatever switches the process has set."""
    held = {
        (torch.backends.cuda.matmul, "allow_tf32"): False,
        (torch.backends.cudnn, "allow_tf32"): False,
        (torch.backends.cudnn, "benchmark"): False,
        (torch.backends.cudnn, "deterministic"): True,
    }
    before = {place: getattr(*place) for place in held}
    try:
        for place, value in held.items():
            setattr(*place, value)
        yield
    finally:
        for place, value in before.items():
            setattr(*place, value)
