"""What every layout of foreign weights needs: networks found in files, tensors taken by name, what becomes of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from generation.importing.files import Content
from generation.importing.parts import Array, Budget, Record, Stored

MAX_DEPTH = 32  # of modules in modules
MAX_MODULES, MAX_NAME = 4000, 300
MAX_FLOATS = 2**30  # of all networks together: 4 GiB, several times the largest that is published
MAX_NETWORKS = 32  # of a file
SHOWN = 12
MAPPING_LR = (
    0.01  # of StyleGAN's mappings, which the published networks multiply into weights as they are used
)
PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"

Tensors = dict[str, Tensor]
Attributes = dict[str, Any]


class NotThis(ValueError):
    """Content that is of no layout that is known, or of a kind of network that is not made here; why."""


@dataclass
class Network:
    """A network of a file: tensors still there, by dotted name; attributes of its modules, by dotted path."""

    tensors: dict[str, Stored | Array]
    attributes: dict[str, Attributes] = field(default_factory=dict)

    def attribute(self, path: str, name: str, default: Any) -> Any:
        """What a module of the network says of itself, the default where it says nothing."""
        return self.attributes.get(path, {}).get(name, default)


@dataclass
class Imported:
    """Networks of one of our models: what builds them, G's weights by set (the one to sample from first), those of D;
    unused: names of the file that have no place here."""

    title: str
    model: str
    build_g: dict[str, Any]
    sets: dict[str, Tensors]
    build_d: dict[str, Any] | None = None
    D: Tensors | None = None
    notes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


class Taker:
    """Takes a network's tensors one by one, as float32; what is asked for must be there, what is left is known."""

    def __init__(self, network: Network, title: str) -> None:
        self.network, self.title, self.left = network, title, dict(network.tensors)

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def __call__(self, name: str, *axes: int) -> Tensor:
        """The tensor of a name, with its axes in another order if given; NotThis where it is missing or another."""
        found = self.left.pop(name, None)
        if found is None:
            raise NotThis(f"{self.title} has no {name}")
        if len(axes) not in (0, len(found.shape)):
            raise NotThis(f"{self.title} {name} has shape {found.shape}")
        tensor = as_float(found, f"{self.title} {name}")
        return tensor.permute(axes).contiguous() if axes else tensor

    def shape(self, name: str, n_axes: int) -> tuple[int, ...]:
        """The sizes of a tensor that has so many axes; NotThis."""
        found = self.network.tensors.get(name)
        if found is None or len(found.shape) != n_axes:
            raise NotThis(f"{self.title} has no {name} of {n_axes} axes")
        return found.shape

    def drop(self, *endings: str) -> None:
        """Forget constants that are made anew."""
        self.left = {name: x for name, x in self.left.items() if not name.endswith(endings)}

    def unused(self) -> list[str]:
        """What is left, by its name."""
        return [f"{self.title} {name}" for name in self.left]


def as_float(found: Stored | Array, name: str) -> Tensor:
    """The numbers as float32; NotThis for what is none or not finite."""
    if not found.dtype.is_floating_point:
        raise NotThis(f"{name} is of {found.dtype}".replace("torch.", ""))
    tensor = found.tensor().to(torch.float32)
    if not bool(torch.isfinite(tensor).all()):
        raise NotThis(f"{name} holds NaN or infinity")
    return tensor


def refuse_bombs(content: Content, networks: list[Network]) -> None:
    """NotThis for a network whose tensors have more bytes than the file: one storage under many names; for arrays
    that were never filled."""
    for network in networks:
        for name, x in network.tensors.items():
            if isinstance(x, Array) and x.kind is None:
                raise NotThis(f"{name} is an array without content")
        total = sum(math.prod(x.shape) * x.dtype.itemsize for x in network.tensors.values())
        if total > content.n_bytes:
            raise NotThis(f"tensors of {total:,} bytes in a file of {content.n_bytes:,}")


def refuse_much(networks: list[Network]) -> None:
    """NotThis for networks that together are too large to be held as float32, each with its own copy."""
    total = sum(math.prod(x.shape) for network in networks for x in network.tensors.values())
    if total > MAX_FLOATS:
        raise NotThis(f"networks of {total:,} numbers, of at most {MAX_FLOATS:,} that are read")


def told(value: Any) -> str:
    """A setting of a file, in a message; of what is no plain value, its type."""
    plain = value is None or isinstance(value, str | int | float)
    return f"{value!r:.20}" if plain else type(value).__name__


# -- networks in what was read -----------------------------------------------------------------------------------------


def state_of(value: Any) -> Attributes | None:
    """The attributes of a module that was pickled as an object, plainly or as official ones are, else None."""
    if not isinstance(value, Record):
        return None
    state = value.state
    if value.name == PERSISTENT and value.args:
        state = entries(value.args[0]).get("state")
    if isinstance(state, dict) and isinstance(state.get("_modules"), dict):
        return state
    return None


def entries(value: Any) -> dict:
    """The entries of a dictionary, or of a record of a kind of dictionary; none for anything else."""
    value = value.items if isinstance(value, Record) else value
    return value if isinstance(value, dict) else {}


def network_of(value: Any, budget: Budget) -> Network | None:
    """A network that was pickled as an object, as a dictionary of tensors, or as one of TensorFlow's; None for none.
    What is shared within a file counts in its budget wherever it is met."""
    if state_of(value) is not None:
        return _of_object(value, budget)
    if isinstance(value, dict):
        budget.name(len(value))
    if isinstance(value, dict) and not any(isinstance(x, dict | Record) for x in value.values()):
        tensors = {
            name: x for name, x in value.items() if isinstance(name, str) and isinstance(x, Stored | Array)
        }
        return Network({_plain(name): x for name, x in tensors.items()}) if tensors else None
    return _of_tensorflow(value, budget) if isinstance(value, Record) else None


def _plain(name: str) -> str:
    return name.removeprefix("module.")  # of a network trained in parallel


def _of_object(value: Record, budget: Budget) -> Network:
    network, waiting = Network({}), [("", value)]
    while waiting:
        path, module = waiting.pop()
        state = state_of(module)
        if state is None or path.count(".") > MAX_DEPTH or len(network.attributes) > MAX_MODULES:
            if module is None:
                continue
            raise NotThis("modules within modules without an end")
        prefix = f"{path}." if path else ""
        network.attributes[path] = state
        for kind in ("_parameters", "_buffers"):
            for name, x in _items(state.get(kind), len(prefix), budget):
                if isinstance(x, Stored | Array):
                    network.tensors[prefix + name] = x
        waiting += [(prefix + name, child) for name, child in _items(state["_modules"], len(prefix), budget)]
    return network


def _items(value: Any, n_before: int, budget: Budget) -> list[tuple[str, Any]]:
    """The items that are parts of a module, under names that get n_before letters more."""
    if not isinstance(value, dict):
        return []
    budget.name(len(value), len(value) * n_before)
    found = [(name, x) for name, x in value.items() if is_name(name) and "." not in name]
    budget.name(0, sum(len(name) for name, _ in found))
    return found


def is_name(value: Any) -> bool:
    """Whether a key is a word of a length that names have."""
    return isinstance(value, str) and len(value) <= MAX_NAME


def _of_tensorflow(value: Record, budget: Budget, depth: int = 0) -> Network | None:
    """The variables of a Network of dnnlib or tfutil and of its components, without the scope that some names have."""
    state = value.state
    if not isinstance(state, dict) or not isinstance(state.get("variables"), list) or depth > 2:
        return None
    parts = entries(state.get("components"))
    budget.name(1 + len(state["variables"]) + len(parts))
    pairs = [pair for pair in state["variables"] if isinstance(pair, tuple | list) and len(pair) == 2]
    tensors = {name: x for name, x in pairs if is_name(name) and isinstance(x, Array)}
    network = Network(tensors, {"": entries(state.get("static_kwargs"))})
    for name, part in list(parts.items())[:MAX_NETWORKS]:
        found = (
            _of_tensorflow(part, budget, depth + 1) if isinstance(part, Record) and is_name(name) else None
        )
        if found is not None:
            scope = f"G_{name}/"
            budget.name(len(found.tensors), len(found.tensors) * len(scope))
            network.tensors |= {scope + key.removeprefix(scope): x for key, x in found.tensors.items()}
            network.attributes[name] = found.attributes[""]
    return network


def networks_of(value: Any) -> dict[str, Network]:
    """The networks of a file by their name there; of a tuple of three, which TensorFlow's are, G, D, Gs."""
    if isinstance(value, tuple | list) and len(value) == 3:
        value = dict(zip(("G", "D", "Gs"), value, strict=True))
    budget = Budget(0)
    whole = network_of(value, budget)
    if whole is not None:
        return {"": whole}
    named = [
        (name, x) for name, x in entries(value).items() if is_name(name) and isinstance(x, dict | Record)
    ]
    found = {name: network_of(x, budget) for name, x in named[:MAX_NETWORKS]}
    return {name: network for name, network in found.items() if network is not None}


def keys_seen(value: Any) -> str:
    """The first names in a file, for a message: those of its networks, else those of its content."""
    if isinstance(value, tuple | list):
        inside = ", ".join(_kind(x) for x in value[:SHOWN])
        return f"a list of {len(value)}: {inside}"
    budget = Budget(0)
    network = network_of(value, budget)
    if network is not None:
        return ", ".join(list(network.tensors)[:SHOWN])
    first = list(entries(value).items())[:SHOWN]
    if not first:
        return _kind(value)
    inside = next((net for net in (network_of(x, budget) for _, x in first) if net is not None), None)
    more = f" with {', '.join(list(inside.tensors)[:SHOWN])}" if inside is not None else ""
    return ", ".join(str(name)[:80] for name, _ in first) + more


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Record) else type(value).__name__


# -- what layouts have in common ---------------------------------------------------------------------------------------


# What modelling/styles.py multiplies the biases of a mapping network with as it uses them: where that changes, so does
# this number, and no other.
MAPPING_BIAS_SCALE = 1.0


def mapping(layers: list[tuple[Tensor, Tensor]], lr: float, gain: float) -> Tensors:
    """Dense layers (weight, bias) of a mapping network, which are used `lr` times as large, as ours.

    gain: of what comes after the bias, and is part of our weights.
    """
    found = {}
    for i, (weight, bias) in enumerate(layers):
        found[f"layers.{i}.weight"] = weight * lr
        found[f"layers.{i}.bias"] = bias * (lr * gain / MAPPING_BIAS_SCALE)
    return found


def sets_of(found: dict[str, Network], averaged: str, raw: str) -> dict[str, str]:
    """Name of a weight set -> that of a G in the file: the averaged one first, then the raw one; without either, the
    first there is."""
    named = {"ema": averaged, "raw": raw}
    return {name: given for name, given in named.items() if given in found} or {"ema": next(iter(found))}


def imported(
    title: str,
    model: str,
    found: dict[str, Network],
    names: tuple[str, str],
    make: Callable[[Taker], tuple[dict[str, Any], Tensors]],
) -> Imported:
    """The weight sets of the Gs found; names: of the averaged and of the raw one; make: settings and tensors of one."""
    sets, unused = {}, []
    for name, given in sets_of(found, *names).items():
        take = Taker(found[given], given or names[1])
        build, sets[name] = make(take)
        unused += take.unused()
    return Imported(title, model, build, sets, unused=unused)


def with_discriminator(
    result: Imported,
    D: Network | None,
    make: Callable[[Taker], tuple[dict[str, Any], Tensors]],
    title: str = "D",
) -> Imported:
    """The result with D beside its Gs, where the file has one; make: its settings and tensors."""
    if D is not None:
        take = Taker(D, title)
        result.build_d, result.D = make(take)
        result.unused += take.unused()
    return result


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    """Tensors by longer names."""
    return {f"{prefix}{name}": x for name, x in tensors.items()}


def counted(network: Network, name: str, first: int = 0) -> int:
    """How many of a name with {} for first, first + 1, ... there are."""
    n = 0
    while name.format(first + n) in network.tensors:
        n += 1
    return n


def channel_settings(sizes: list[int], widths: list[int]) -> dict[str, int]:
    """channel_base and channel_max with which maps of these sizes have these channels; NotThis without any."""
    most = max(widths)
    narrow = [size * width for size, width in zip(sizes, widths, strict=True) if width < most]
    base = max(narrow, default=most * sizes[-1])
    if [min(base // size, most) for size in sizes] != widths:
        listed = ", ".join(f"{width} at {size} px" for size, width in zip(sizes, widths, strict=True))
        raise NotThis(f"channels that no channel_base gives: {listed}")
    return {"channel_base": base, "channel_max": most}
