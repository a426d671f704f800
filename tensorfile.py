"""The first look at every file of tensors that is read, torch's zip and safetensors from anybody, and at what is in it.

Both are measured before they are read: no more memory is taken than the file has bytes, whatever it says of itself.
"""

import math
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file, safe_open
from torch import Tensor

from disk import AnyPath, Unreadable
from errors import shown

SHOWN_FAULTS = 3
HEADER_LIMIT = 8 * 2**20  # bytes of a safetensors header, of a zip's directory, and of a pickle

# What torch.save writes of plain containers. torch's own list of what is harmless is longer, and can be asked for
# arrays of any size.
_CALLED = {
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "collections OrderedDict", "torch device",
    "__builtin__ set", "__builtin__ complex",
}  # fmt: skip
_NAMED = re.compile(r"torch (?:\w+Storage|b?float\d+\w*|u?int\d+|complex\d+|bool)")
# Opcodes of a pickle with arguments of a fixed length, many in one match.
_FIXED = re.compile(rb"(?:[Raesu(tN)\]}Q\x85-\x89]|[Khq\x80].|M..|[Jjr].{4}|G.{8}){1,200}", re.DOTALL)


def size_of(path: AnyPath) -> int:
    """Bytes of a regular file; Unreadable for what is absent or none, without opening it."""
    where = shown(str(path))
    try:
        about = os.stat(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise Unreadable(f"{where} cannot be read: {reason}") from None
    if not stat.S_ISREG(about.st_mode):
        raise Unreadable(f"{where} is no regular file")
    return about.st_size


def _reason(error: Exception) -> str:
    """The first line of what a library says, of a length for people."""
    lines = str(error).strip().split("\n", 1)
    return shown(lines[0], 200) or type(error).__name__


# -- torch's zip ---------------------------------------------------------------------------------------------------


def read_torch(path: AnyPath, footer: int = 0) -> Any:
    """What torch.save wrote of plain containers and tensors, on the CPU; Unreadable in one line for anything else.

    footer: bytes behind the zip that are not its own.
    """
    n_bytes = size_of(path) - footer
    try:
        with open(path, "rb") as file:
            _check_pickle(_pickle_of(file, n_bytes))
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise Unreadable(f"{shown(str(path))} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever struct, the unpickler, and torch make of what they meet
        raise Unreadable(
            f"{shown(str(path))} holds no tensors that torch {torch.__version__} can read: {_reason(error)}"
        ) from None


def _pickle_of(file: BinaryIO, n_bytes: int) -> bytes:
    """The pickle inside a zip; ValueError as records_of."""
    return zip_pickle(file, records_of(file, n_bytes))


def records_of(file: BinaryIO, n_bytes: int) -> dict[bytes, tuple[int, int]]:
    """Name in small letters -> (where it begins, bytes) of the records of torch's zip, none of which is packed;
    ValueError unless they are as long as they say and fit the file."""
    file.seek(max(n_bytes - 22, 0))
    end = file.read(22)
    if len(end) < 22 or end[:4] != b"PK\5\6" or end[20:] != b"\0\0":
        raise ValueError("no zip ends there")
    n_records, length, start = struct.unpack("<H2L", end[10:20])
    if n_records == 0xFFFF or start == 0xFFFFFFFF or length == 0xFFFFFFFF:
        n_records, length, start = _zip64_end(file, n_bytes)
    if length > HEADER_LIMIT or start + length > n_bytes or n_records * 46 > length:
        raise ValueError(f"a directory of {length:,} bytes")
    file.seek(start)
    found, total = {}, 0
    for name, size, offset in _records(file.read(length), n_records):
        if name in found or (total := total + size) > n_bytes or offset + 30 + size > n_bytes:
            raise ValueError("records that overlap or exceed the file")
        if b"/data/" in name and not name.rpartition(b"/data/")[2].isdigit():
            raise ValueError(
                "a tensor's record without a number"
            )  # letters could be read again in other cases
        found[name] = (offset, size)
    return found


def zip_pickle(file: BinaryIO, records: Mapping[bytes, tuple[int, int]]) -> bytes:
    """The one pickle among the records; ValueError."""
    pickles = [name for name in records if name.endswith(b"/data.pkl")]
    if len(pickles) != 1 or records[pickles[0]][1] > HEADER_LIMIT:
        raise ValueError("no single pickle of a moderate size")
    return record_bytes(file, records[pickles[0]])


def record_bytes(file: BinaryIO, record: tuple[int, int], start: int = 0, stop: int | None = None) -> bytes:
    """Bytes start to stop of a record, None for its end; fewer where the file ends before it does."""
    offset, size = record
    file.seek(offset)
    n_name, n_extra = struct.unpack("<2H", file.read(30)[26:])
    file.seek(n_name + n_extra + start, os.SEEK_CUR)
    return file.read((size if stop is None else min(stop, size)) - start)


def _zip64_end(file: BinaryIO, n_bytes: int) -> tuple[int, int, int]:
    """(records, length, start) of a large zip's directory."""
    file.seek(n_bytes - 42)
    mark, start = struct.unpack("<4s4xQ4x", file.read(20))
    if mark != b"PK\6\7" or start > n_bytes:
        raise ValueError("no zip ends there")
    file.seek(start)
    return struct.unpack("<3Q", file.read(56)[32:])


def _records(directory: bytes, n_records: int) -> Iterator[tuple[bytes, int, int]]:
    """(name in small letters, bytes, offset) of each stored record; ValueError for one that is packed."""
    at = 0
    for _ in range(n_records):
        mark, method, packed, size, n_name, n_extra, n_comment, offset = struct.unpack(
            "<4s6xH8x2L3H8xL", directory[at : at + 46]
        )
        name, extra = directory[at + 46 : at + 46 + n_name], directory[at + 46 + n_name :][:n_extra]
        if 0xFFFFFFFF in (packed, size, offset):
            wide = iter(_wide(extra))
            size, packed, offset = (
                next(wide) if value == 0xFFFFFFFF else value for value in (size, packed, offset)
            )
        if mark != b"PK\1\2" or method != 0 or packed != size:
            raise ValueError("a packed or damaged record")
        yield name.lower(), size, offset  # torch finds records in whatever case
        at += 46 + n_name + n_extra + n_comment


def _wide(extra: bytes) -> tuple[int, ...]:
    """The 64-bit numbers of a record too large for 32 bits."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack("<2H", extra[at : at + 4])
        if kind == 1:
            return struct.unpack(f"<{length // 8}Q", extra[at + 4 : at + 4 + length // 8 * 8])
        at += 4 + length
    return ()


def _check_pickle(data: bytes) -> None:
    """ValueError for a pickle with anything that plain containers and tensors do not need."""
    at = 0
    while True:
        found = _FIXED.match(data, at)
        at = found.end() if found else at
        op = data[at : at + 1]
        if op == b"X":
            at += 5 + int.from_bytes(data[at + 1 : at + 5], "little")
        elif op == b"\x8a":
            at += 2 + data[at + 1]
        elif op == b"c":
            end = data.index(b"\n", data.index(b"\n", at) + 1)
            name = data[at + 1 : end].decode().replace("\n", " ")
            if name not in _CALLED and not _NAMED.fullmatch(name):
                raise ValueError(f"it holds a {name.replace(' ', '.')}, no plain container or tensor")
            at = end + 1
        elif op == b".":
            return
        elif not found:
            raise ValueError(f"its pickle has an operation {op!r} that plain containers do not need")


# -- safetensors ---------------------------------------------------------------------------------------------------


def read_metadata(path: AnyPath) -> dict[str, str]:
    """What a safetensors file says of itself, its tensors unread; Unreadable in one line for anything else."""
    n_bytes, where = size_of(path), shown(str(path))
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if n_bytes < 8 or length > min(n_bytes - 8, HEADER_LIMIT):
        raise Unreadable(f"{where} is no safetensors file, or it is cut off")
    try:
        with safe_open(path, "pt") as opened:
            return opened.metadata() or {}
    except Exception as error:  # safetensors and the system each have their own
        raise Unreadable(f"{where} is no whole safetensors file: {_reason(error)}") from None


def read_safetensors(path: AnyPath) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors by name, metadata) of a safetensors file; Unreadable in one line for anything else."""
    metadata = read_metadata(path)
    try:
        return load_file(path), metadata
    except Exception as error:
        raise Unreadable(f"{shown(str(path))} is no whole safetensors file: {_reason(error)}") from None


# -- what is in them ------------------------------------------------------------------------------------------------


def is_finite(tensor: Tensor) -> bool:
    """Whether a plain tensor holds neither NaN nor infinity; waits for its device."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.numel() == 0:
        return True
    if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64):
        # A sum of squares carries NaN and infinity in one pass over the memory, on this thread alone: torch's pool
        # would be woken for each tensor. Large finite values exceed it all the same.
        flat = tensor.detach().numpy().ravel(order="K")
        with np.errstate(all="ignore"):
            if np.dot(flat, flat) < math.inf:
                return True
    return bool(torch.isfinite(tensor).all())


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
    """Whether a tensor is strided and dense, on the CPU, and a leaf without gradient, lazy conjugation or hooks."""
    return (
        type(tensor) is Tensor
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg())
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
        return "is no plain dense tensor on the CPU"
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
