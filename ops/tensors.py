"""Tensors of unknown origin against those that are expected: type, shape, layout in memory, finite values."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

SHOWN_FAULTS = 3


def is_finite(tensor: Tensor) -> bool:
    """Whether a plain tensor holds neither NaN nor infinity; waits for its device."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.numel() == 0:
        return True
    # A sum carries NaN and infinity in one pass over the memory; large finite values can exceed it all the same.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def is_dense(tensor: Tensor) -> bool:
    """Whether each element has a place of its own in memory and no place is left between, in any order of axes."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is strided and dense, on the CPU, of real numbers, and a leaf without gradient or hooks."""
    return (
        type(tensor) is Tensor
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_quantized or tensor.is_nested or tensor.is_complex() or tensor.is_neg())
        and not tensor.requires_grad
        and is_dense(tensor)
    )


def same_kind(found: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether values of one type may be copied into the other: floats of any width, else the same type."""
    return found == wanted or (found.is_floating_point and wanted.is_floating_point)


def fault_of(found: Any, wanted: Tensor) -> str | None:
    """What keeps a value from taking the place of a tensor, in a few words; None for nothing."""
    if not isinstance(found, Tensor):
        return f"is a {type(found).__name__}, not a tensor"
    if not is_plain(found):
        return "is no plain dense tensor of real numbers on the CPU"
    if found.shape != wanted.shape:
        return f"has shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
    if not same_kind(found.dtype, wanted.dtype):
        return f"is of {found.dtype}, not {wanted.dtype}".replace("torch.", "")
    return None if is_finite(found) else "holds NaN or infinity"


def faults_of(found: Any, wanted: Mapping[str, Tensor], where: str = "") -> Iterator[str]:
    """`NAME what is wrong`, for tensors by name that should be as those wanted: the same names, none besides."""
    prefix = f"{where}." if where else ""
    if not isinstance(found, Mapping):
        yield f"{where or 'content'} is a {type(found).__name__}, not tensors by name"
        return
    for name, tensor in wanted.items():
        if name not in found:
            yield f"{prefix}{name} is missing"
        elif (fault := fault_of(found[name], tensor)) is not None:
            yield f"{prefix}{name} {fault}"
    for name in found:
        if name not in wanted:
            yield f"{prefix}{str(name)[:100] if isinstance(name, str) else type(name).__name__} is not expected"


def in_one_line(faults: Iterator[str]) -> str:
    """The first three of them, and whether there are more; "" for none. No more of them are looked for."""
    found = []
    for fault in faults:
        if len(found) == SHOWN_FAULTS:
            return f"{'; '.join(found)}; and more"
        found.append(fault)
    return "; ".join(found)
