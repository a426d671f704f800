"""Files of other programs: torch's zip, torch's older form, and plain pickles, all read by Machine alone."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from disk import Unreadable, open_regular, read_bytes
from errors import shown
from generation.importing.parts import Budget, Name, Storage
from generation.importing.pickles import Machine
from tensorfile import record_bytes, records_of, zip_pickle

PICKLE_LIMIT = 2**30  # bytes of a file without a directory, which is read whole
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch's older form
STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Content:
    """What a file holds: plain containers of tensors, arrays and records; n_bytes of the file; the names that would
    have been called."""

    path: Path
    value: Any
    n_bytes: int
    inert: list[str]


def read_foreign(path: str | os.PathLike[str]) -> Content:
    """What a file of another program holds; Unreadable in one line for what is none, or means no good."""
    path = Path(path)
    try:
        with open_regular(path) as file:
            n_bytes = os.fstat(file.fileno()).st_size
            is_zip = file.read(2) == b"PK"
        budget = Budget(n_bytes)
        value = _of_zip(path, n_bytes, budget) if is_zip else _of_pickle(path, budget)
    except Unreadable:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes of numbers, texts and types
        reason = shown(str(error) or type(error).__name__, 200)
        raise Unreadable(f"{shown(str(path))} holds no weights that can be read: {reason}") from None
    return Content(path, value, n_bytes, list(budget.inert))


def _of_zip(path: Path, n_bytes: int, budget: Budget) -> Any:
    with open_regular(path) as file:
        records = records_of(file, n_bytes)
        pickle = zip_pickle(file, records)
        order = next((record for name, record in records.items() if name.endswith(b"/byteorder")), None)
        if order is not None and record_bytes(file, order) != b"little":
            raise ValueError("numbers in the order of another kind of machine")
    places = {name.rpartition(b"/data/")[2].decode(): at for name, at in records.items() if b"/data/" in name}

    def storage(number: Any) -> Storage:
        key, dtype, n = storage_of(number)
        if places[key][1] != n * dtype.itemsize:
            raise ValueError(f"a storage of {n:,} numbers in {places[key][1]:,} bytes")

        def read(start: int, stop: int) -> bytes:
            with open_regular(path) as file:
                return record_bytes(file, places[key], start, stop)

        return Storage(dtype, n, read)

    return Machine(memoryview(pickle), budget, persistent=storage, nested=_nested(budget)).load()


def _of_pickle(path: Path, budget: Budget) -> Any:
    data = memoryview(read_bytes(path, PICKLE_LIMIT))
    return _of_data(data, budget, nested=_nested(budget))


def _of_data(data: memoryview, budget: Budget, nested: Callable[[Any], Storage] | None) -> Any:
    """A plain pickle, or one of torch's older form: four pickles, then the numbers of the storages."""
    machine = Machine(data, budget, nested=nested)
    value = machine.load()
    if value != MAGIC or type(value) is not int:
        return value
    at = machine.at
    for check in (lambda found: found == PROTOCOL, _little):
        machine = Machine(data, budget, at)
        if not check(machine.load()):
            raise ValueError("another version of torch's older form")
        at = machine.at
    storages: dict[str, Storage] = {}

    def storage(number: Any) -> Storage | Name:
        if isinstance(number, tuple) and len(number) == 4 and number[0] == "module":
            return number[1]  # a class, with its source behind it
        key, dtype, n = storage_of(number)
        return storages.setdefault(key, Storage(dtype, n))

    machine = Machine(data, budget, at, storage, nested)
    value = machine.load()
    keys = Machine(data, budget, machine.at)
    listed = keys.load()
    # a look-up hashes what is listed, which for tuples in tuples ends the process
    if not isinstance(listed, list) or not all(isinstance(key, str) for key in listed):
        raise ValueError("a list of storages that is none")
    if len(listed) != len(storages) or set(listed) != set(storages):
        raise ValueError("storages that are not listed")
    for key in listed:
        held = storages[key]
        n = keys.count(8)
        if n != held.n:
            raise ValueError(f"a storage of {held.n:,} numbers that has {n:,}")
        numbers = keys.take(n * held.dtype.itemsize)
        held.read = lambda start, stop, numbers=numbers: numbers[start:stop]
    return value


def _little(system: Any) -> bool:
    return isinstance(system, dict) and system.get("little_endian") is True


def _nested(budget: Budget) -> Callable[[Any], Storage]:
    """Reads the files of torch, of its older form, that plain pickles hold for each storage; there is none in them."""

    def read(data: memoryview | bytes) -> Storage:
        value = _of_data(memoryview(data), budget, None)
        if not isinstance(value, Storage):
            raise ValueError("a storage that is none")
        return value

    return read


def storage_of(number: Any) -> tuple[str, torch.dtype, int]:
    """(key, type, count) of a persistent id ("storage", type, key, device, count, ...); ValueError."""
    if not isinstance(number, tuple) or not 5 <= len(number) <= 6 or number[0] != "storage":
        raise ValueError("a reference to what is no storage")
    kind, key, n = number[1], number[2], number[4]
    name = kind.full if isinstance(kind, Name) else ""
    dtype = STORAGES.get(name.removeprefix("torch.").removeprefix("cuda.").removesuffix("Storage"))
    if dtype is None or not isinstance(key, str) or type(n) is not int or not 0 <= n < 2**40:
        raise ValueError(f"a storage of type {shown(name, 50)}")
    if len(number) == 6 and number[5] is not None:
        raise ValueError("a storage within another")
    return key, dtype, n
