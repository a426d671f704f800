"""What a pickle is read as: names, records, and tensors and arrays that are still in the file; bounds of reading."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_OPERATIONS = 500_000
MAX_NAMES = 2**23  # bytes of the names of tensors and modules, each with NAMED for its place
NAMED = 50
MAX_TEXT = 16 * 2**20  # bytes of a text, a program's source among them; of all texts four times as many


@dataclass(frozen=True)
class Name:
    """A class or function by its module and name; nothing of it is there."""

    full: str


@dataclass(eq=False)
class Record:
    """What an unknown class or function would have been made of; inert."""

    name: str
    args: tuple = ()
    state: Any = None
    items: dict | list = field(default_factory=dict)


@dataclass(eq=False)
class Storage:
    """Numbers of a file, read(start, stop) in bytes when they are needed."""

    dtype: torch.dtype
    n: int
    read: Callable[[int, int], memoryview | bytes] | None = None


@dataclass(eq=False)
class Stored:
    """A tensor of a file: where it lies in its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Of its numbers."""
        return self.storage.dtype

    def tensor(self) -> Tensor:
        """A copy of its own; ValueError unless each element has a place of its own, without gaps."""
        n, size = math.prod(self.shape), self.dtype.itemsize
        if self.storage.read is None:
            raise ValueError("a tensor whose numbers are missing")
        flat = torch.empty(n, dtype=self.dtype)
        if n:
            data = self.storage.read(self.offset * size, (self.offset + n) * size)
            flat.view(torch.uint8).numpy()[:] = np.frombuffer(data, np.uint8, n * size)
        return flat.as_strided(self.shape, self.stride).contiguous() if n else flat.view(self.shape)


@dataclass(eq=False)
class Array:
    """A numpy array of a file."""

    shape: tuple[int, ...] = ()
    kind: np.dtype | None = None
    fortran: bool = False
    data: memoryview | bytes = b""

    @property
    def dtype(self) -> torch.dtype:
        """Of its numbers; ValueError for those that torch has not."""
        return torch.from_numpy(np.empty(0, self.kind.newbyteorder("="))).dtype

    def tensor(self) -> Tensor:
        """A copy of its own; ValueError for numbers that are not all there."""
        if self.kind is None:
            raise ValueError("an array without content")
        flat = np.frombuffer(self.data, self.kind, math.prod(self.shape))
        order = "F" if self.fortran else "C"
        whole = flat.reshape(self.shape, order=order).astype(self.kind.newbyteorder("="), order="C")
        return torch.from_numpy(np.ascontiguousarray(whole).reshape(self.shape))


@dataclass(eq=False)
class Kind:
    """A numpy dtype on its way: its code, and "<" or ">" when it is built."""

    code: str
    order: str = "<"

    def dtype(self) -> np.dtype:
        """ValueError for anything but plain numbers."""
        if self.code not in ("b1", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8"):
            raise ValueError(f"an array of {self.code!r:.20}")
        return np.dtype(self.code).newbyteorder(self.order if self.order in "<>" else "=")


class Budget:
    """What all pickles of one file may take together, and the names that they know nothing of."""

    def __init__(self, n_bytes: int) -> None:
        self.operations, self.text, self.made = MAX_OPERATIONS, 4 * MAX_TEXT, n_bytes + 2**24
        self.names = MAX_NAMES
        self.inert: dict[str, None] = {}

    def operate(self) -> None:
        """One operation more."""
        self.operations -= 1
        if self.operations < 0:
            raise ValueError(f"more than {MAX_OPERATIONS:,} operations")

    def read_text(self, n: int) -> None:
        """A text of n bytes."""
        self.text -= n
        if n > MAX_TEXT or self.text < 0:
            raise ValueError(f"texts of more than {MAX_TEXT:,} bytes")

    def make(self, n: int) -> None:
        """n bytes made of what is there already."""
        self.made -= n
        if self.made < 0:
            raise ValueError("more content than the file has bytes")

    def name(self, n: int, length: int = 0) -> None:
        """n names of tensors or modules, together of a length."""
        self.names -= NAMED * n + length
        if self.names < 0:
            raise ValueError("more names of tensors and modules than networks have")
