"""What a checkpoint holds: plain containers and finite tensors; and how two states or settings differ."""

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from errors import NotFinite

SHOWN_DIFFERENCES = 5


def _compact(tensor: Tensor) -> Tensor:
    """The tensor without its graph, and without the rest of a larger storage that it is a view of."""
    tensor = tensor.detach()
    # torch.save writes whole storages: a slice of a big buffer would drag the buffer along.
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def plain(obj: Any, name: str = "state") -> Any:
    """The same content in types that torch.load(weights_only=True) accepts; tensors are not copied.

    Paths become str; subclasses of str, int, float, dict and tuple their base; numpy scalars Python
    numbers, arrays tensors; deques lists. Raises TypeError naming the place of anything else.
    """
    if obj is None or type(obj) in (bool, int, float, complex, str, torch.dtype, torch.device):
        return obj
    if isinstance(obj, Tensor):
        return _compact(obj)
    if isinstance(obj, np.ndarray):
        return torch.from_numpy(np.array(obj, order="C"))
    if isinstance(obj, np.generic):
        return plain(obj.item(), name)
    if isinstance(obj, str):
        return str.__str__(obj)  # str() of a str-valued Enum member would give its name
    if isinstance(obj, PurePath):
        return str(obj)
    if isinstance(obj, Mapping):
        return {plain(k, f"key {k!r} of {name}"): plain(v, f"{name}.{k}") for k, v in obj.items()}
    for kind, types in ((tuple, tuple), (set, (set, frozenset)), (list, (list, deque))):
        if isinstance(obj, types):
            return kind(plain(item, f"{name}.{i}") for i, item in enumerate(obj))
    for kind in (int, float):
        if isinstance(obj, kind):
            return kind(obj)
    raise TypeError(f"{name}: a {type(obj).__name__} cannot be kept in a checkpoint, use plain containers")


def _tensors(obj: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor) of every tensor inside nested containers."""
    if isinstance(obj, Tensor):
        yield name, obj
    elif isinstance(obj, Mapping):
        for key, value in obj.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(obj, (list, tuple)):
        for i, value in enumerate(obj):
            yield from _tensors(value, f"{name}.{i}")


def _extremes_are_finite(values: Tensor) -> Tensor:
    """Whether all values are finite, as a flag on their device.

    The extremes carry NaN and infinity, and need no mask as large as the tensor: 10x isfinite().
    """
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:  # which numpy does not know
        array = values.numpy()  # on this thread alone: torch's pool would spin on while the file is written
        with np.errstate(invalid="ignore"):
            return torch.tensor(bool(np.isfinite(array.min()) and np.isfinite(array.max())))
    return torch.stack(torch.aminmax(values)).isfinite().all()


@torch.no_grad()
def non_finite(state: Mapping[str, Any]) -> list[str]:
    """Names of the tensors under `networks` and `ema`, buffers included, that hold NaN or infinity.

    Waits once for each device.
    """
    names: dict[torch.device, list[str]] = {}
    flags: dict[torch.device, list[Tensor]] = {}
    parts = {key: state[key] for key in ("networks", "ema") if key in state}
    for name, tensor in _tensors(parts, ""):
        if tensor.numel() == 0 or not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        finite = _extremes_are_finite(values.detach())
        names.setdefault(tensor.device, []).append(name)
        flags.setdefault(tensor.device, []).append(finite)
    return [
        name
        for device in names
        for name, finite in zip(names[device], torch.stack(flags[device]).tolist(), strict=True)
        if not finite
    ]


def check_finite(G: nn.Module) -> None:
    """NotFinite for a generator, or several, with weights or statistics that samples cannot be made of."""
    if bad := non_finite({"networks": {"G": G.state_dict()}}):
        raise NotFinite(f"a generator for sampling is not finite: {bad[0].removeprefix('networks.G.')}")


def tensor_bytes(state: Mapping[str, Any]) -> int:
    """Bytes of all tensors of a state, a shared storage counted once as torch.save does."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for _, t in _tensors(state, "")}
    return sum(storages.values())


def _equal(old: Any, new: Any) -> bool:
    """Equal settings: a list equals a tuple of the same items (JSON knows lists only), NaN equals NaN."""
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        return len(old) == len(new) and all(_equal(a, b) for a, b in zip(old, new, strict=True))
    return bool(old == new) or repr(old) == repr(new)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two settings, a line each: 'model: dcgan -> mlp', nested ones as 'a.b: 1 -> 2'."""
    absent = object()
    lines = []
    for key in [*old, *(key for key in new if key not in old)]:
        a, b = old.get(key, absent), new.get(key, absent)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += [f"{key}.{line}" for line in difference(a, b)]
        elif a is absent or b is absent or not _equal(a, b):
            before, after = ("(absent)" if v is absent else str(v) for v in (a, b))
            if before == after:  # '1' and 1 read alike
                before, after = repr(a), repr(b)
            lines.append(f"{key}: {before} -> {after}")
    return lines


def _shapes(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """{name: shape} of a state dict; an entry that is no tensor gives its type's name."""
    return {k: tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for k, v in state_dict.items()}


def check_shapes(
    state_networks: Mapping[str, Mapping[str, Any]],
    networks: Mapping[str, nn.Module | Mapping[str, Any]],
) -> list[str]:
    """Where a checkpoint's networks differ in names or shapes from these ones (modules or state dicts).

    Empty when every weight fits; else the first five differences, a line each, and how many more. Nothing
    is copied.
    """
    built = {n: net.state_dict() if isinstance(net, nn.Module) else net for n, net in networks.items()}
    # A network that only one side has shows as its tensors.
    names = [*state_networks, *(n for n in built if n not in state_networks)]
    saved_shapes, built_shapes = (
        {n: _shapes(side.get(n, {})) for n in names} for side in (state_networks, built)
    )
    lines = difference(saved_shapes, built_shapes)
    shown = lines[:SHOWN_DIFFERENCES]
    if len(lines) > len(shown):
        shown.append(f"and {len(lines) - len(shown)} more, {len(lines)} differences in all")
    return shown
