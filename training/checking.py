"""Whether a loaded checkpoint can be gone on from: compared with this run's own state before anything is touched."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from games.task import Task
from generation.checkpoint import Misfit
from generation.schema import CheckpointState, converted
from generation.state import check_shapes, tensor_bytes
from tensorfile import fault_of, faults_of, in_one_line, is_plain
from training.optimizers import optimizer_faults

Ranges = Mapping[str, tuple[float, float]]


def size_limit(expected: Mapping[str, Any]) -> int:
    """Bytes beyond which a file is no checkpoint of a run of this state: moments, averages and doubles included."""
    return 8 * tensor_bytes(expected) + 2**26


def check_state(
    state: Mapping[str, Any], expected: Mapping[str, Any], optimizers: Mapping[str, Optimizer], task: Task
) -> None:
    """Misfit unless a run whose own state is `expected` can load this one; UserError where it is of other data.

    Nothing is touched. Floats may be of another width, as torch copies them; what older versions did not write may be
    missing.
    """
    converted(state, CheckpointState, "state")
    task.check_resumed(state["data"])
    networks = state["networks"]
    if odd := in_one_line(_odd_tensors(networks, "networks")):
        raise Misfit(odd)
    if lines := check_shapes(networks, expected["networks"]):
        raise Misfit(f"another architecture: {'; '.join(lines)}")
    reason = in_one_line(
        chain(
            _by_name(networks, expected["networks"], "networks"),
            _names(state["ema"], expected["ema"], "ema"),
            _by_name(state["ema"], expected["ema"], "ema"),
            _names(state["optimizers"], optimizers, "optimizers"),
            *(
                optimizer_faults(state["optimizers"][name], own, f"optimizers.{name}")
                for name, own in optimizers.items()
                if name in state["optimizers"]
            ),
            _slow_faults(state.get("lookahead", {}), expected["lookahead"], "lookahead"),
            _shared_moments(state["optimizers"], "optimizers"),
            _task_faults(state["task"], expected["task"], task.ranges),
            _scaler_faults(state.get("scaler"), expected["scaler"]),
        )
    )
    if reason:
        raise Misfit(reason)


def _odd_tensors(groups: Mapping[str, Mapping[str, Any]], where: str) -> Iterator[str]:
    """Entries that are no plain tensors."""
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            if not (isinstance(tensor, Tensor) and is_plain(tensor)):
                yield f"{where}.{group}.{name} is no plain dense tensor on the CPU"


def _names(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> Iterator[str]:
    """Names that only one side has."""
    yield from (f"{where}.{name} is missing" for name in wanted if name not in found)
    yield from (f"{where}.{name:.100} is not expected" for name in found if name not in wanted)


def _by_name(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> Iterator[str]:
    """Faults of the tensors of each network."""
    for name in wanted:
        if name in found:
            yield from faults_of(found[name], wanted[name], f"{where}.{name}")


def _slow_faults(found: Any, wanted: Mapping[str, Any], where: str) -> Iterator[str]:
    """Faults of Lookahead's slow weights, which an older run may lack."""
    if not isinstance(found, Mapping) or not all(isinstance(slow, Mapping) for slow in found.values()):
        yield f"{where} is no slow weights by network"
    elif found:
        yield from _names(found, wanted, where)
        yield from _by_name(found, wanted, where)


def _shared_moments(found: Mapping[str, Any], where: str) -> Iterator[str]:
    """Moments that are one in memory: each step would move them several times."""
    seen: set[int] = set()
    for name, optimizer in found.items():
        for index, moments in optimizer["state"].items():
            for key, value in moments.items():
                if isinstance(value, Tensor) and is_plain(value) and value.numel():
                    place = value.untyped_storage().data_ptr()
                    if place in seen:
                        yield f"{where}.{name}.state.{index}.{key} shares its memory with another moment"
                    seen.add(place)


def _scaler_faults(found: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None) -> Iterator[str]:
    """Faults of a loss scale, where there is one on both sides."""
    if not found or wanted is None:
        return
    for name in wanted:
        value = found.get(name)
        if type(value) not in (int, float) or not 0 <= value < 2**63:
            yield f"scaler.{name} is no number of at least 0"


def _task_faults(found: Any, wanted: Any, ranges: Ranges, where: str = "task") -> Iterator[str]:
    """Faults of a game's state, which is nested as the game likes; parts that are empty or missing are of an older run.

    ranges: dotted name -> (least, most) of numbers and of all elements of tensors.
    """
    if isinstance(wanted, Mapping):
        if not isinstance(found, Mapping):
            yield f"{where} is a {type(found).__name__}, not entries by name"
            return
        for name in found:
            if name not in wanted:
                yield f"{where}.{str(name):.100} is not expected"
            else:
                yield from _task_faults(found[name], wanted[name], ranges, f"{where}.{name}")
        if found and where != "task":
            yield from (f"{where}.{name} is missing" for name in wanted if name not in found)
        return
    fault = _leaf_fault(found, wanted)
    if fault is None and (limits := ranges.get(where.removeprefix("task."))):
        values = torch.as_tensor(found)
        if not bool(((values >= limits[0]) & (values <= limits[1])).all()):
            fault = f"is not within {limits[0]:g} and {limits[1]:g}"
    if fault is not None:
        yield f"{where} {fault}"


def _leaf_fault(found: Any, wanted: Any) -> str | None:
    """What is wrong with a tensor, a number, a word or a list of a game's state."""
    if isinstance(wanted, Tensor):
        return fault_of(found, wanted)
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        return (
            None
            if type(found) is type(wanted)
            else f"is a {type(found).__name__}, not {type(wanted).__name__}"
        )
    if type(found) not in (int, float) or (isinstance(wanted, int) and type(found) is float):
        return f"is a {type(found).__name__}, not {type(wanted).__name__}"
    return None if abs(found) < 2**63 else "is not finite, or too large"
