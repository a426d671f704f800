"""Optimisers of networks, and a step that is taken only where its gradients are finite."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from modelling import param_groups
from settings import TrainConfig
from tensorfile import fault_of, faults_of


def as_stored(x: Tensor) -> Tensor:
    """A view of x in the order of its memory where that is channels_last, on a CPU: else norms take five times as long
    there, and fused steps copy each gradient first."""
    last = x.dim() == 4 and x.device.type == "cpu" and not x.is_contiguous()
    return x.permute(0, 2, 3, 1) if last else x


class _AsStored:
    """An Adam whose kernel is given all as stored; its state has the parameters' shapes."""

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        found = super()._init_group(group, *lists)
        for tensors in lists:
            tensors[:] = map(as_stored, tensors)
        return found


class Adam(_AsStored, torch.optim.Adam):
    """torch's, see as_stored."""


class AdamW(_AsStored, torch.optim.AdamW):
    """torch's, see as_stored."""


def _adam(
    kind: type[torch.optim.Optimizer],
    groups: list[dict],
    lr: float,
    beta2: float,
    config: TrainConfig,
    lazy: float,
    fused: bool,
) -> torch.optim.Optimizer:
    betas = (config.beta1**lazy, beta2**lazy)
    return kind(groups, lr * lazy, betas, weight_decay=config.weight_decay, fused=fused)


def _rmsprop(
    groups: list[dict], lr: float, beta2: float, config: TrainConfig, lazy: float, fused: bool
) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(groups, lr, weight_decay=config.weight_decay)  # it has no fused form


def _sgd(
    groups: list[dict], lr: float, beta2: float, config: TrainConfig, lazy: float, fused: bool
) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr, momentum=config.beta1, weight_decay=config.weight_decay, fused=fused)


# Name of --optimizer -> (groups, rate, beta2, settings, lazy, fused) -> the optimiser.
MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": partial(_adam, Adam),
    "AdamW": partial(_adam, AdamW),
    "RMSprop": _rmsprop,
    "SGD": _sgd,
}


def make_optimizer(
    config: TrainConfig, network: nn.Module, lr: float, beta2: float, device: torch.device, lazy: float
) -> torch.optim.Optimizer:
    """The optimiser of one network, fused where torch has it; each group of parameters with the network's own scale.

    lazy: c = 1 / (1 + sum 1/n_i) over its lazy phases; Adam's lr and betas are corrected for their extra steps
    (arXiv:1912.04958, appendix B).
    """
    floats = all(p.is_floating_point() for p in network.parameters())
    fused = device.type in ("cpu", "cuda", "mps") and floats
    groups = [g | {"params": [p for p in g["params"] if p.requires_grad]} for g in param_groups(network)]
    groups = [group for group in groups if group["params"]]
    optimizer = MAKERS[config.optimizer](groups, lr, beta2, config, lazy, fused)
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_scale"]
    forget(optimizer)
    return optimizer


def forget(optimizer: torch.optim.Optimizer) -> None:
    """Bring an optimiser's state back to where it starts."""
    optimizer.state.clear()
    if isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"]:
        for group in optimizer.param_groups:
            # a first step that is skipped would otherwise leave an unset buffer behind
            for p in group["params"]:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


def step_where(
    optimizer: torch.optim.Optimizer, params: list[Tensor], ok: Tensor, scaler: torch.amp.GradScaler | None
) -> None:
    """Step an optimiser where the flag is 1, in the way that waits least for the device.

    ok: on the device of params; scaler: of fp16, which judges by itself, None for none.
    """
    if scaler is not None:
        scaler.step(optimizer)
    elif ok.device.type == "cpu":
        if ok:
            optimizer.step()
    elif optimizer.defaults.get("fused"):
        # the fused kernel leaves everything untouched: no wait for the device
        optimizer.found_inf = (~ok).float()
        optimizer.step()
    else:
        _step_or_leave(optimizer, params, ok)


@torch.no_grad()
def _step_or_leave(optimizer: torch.optim.Optimizer, params: list[Tensor], ok: Tensor) -> None:
    """Step an optimiser that has no fused form, and put everything back where the flag ok is 0: no wait."""
    on_device = [s for state in optimizer.state.values() for s in state.values()]
    tensors = params + [s for s in on_device if torch.is_tensor(s) and s.device == ok.device]
    before = [t.clone() for t in tensors]
    for p in params:
        if p.grad is not None:  # state that this very step creates starts from 0
            p.grad.copy_(torch.where(ok, p.grad, 0))
    optimizer.step()
    for tensor, old in zip(tensors, before, strict=True):
        tensor.copy_(torch.where(ok, tensor, old))


# -- saved state -----------------------------------------------------------------------------------------------------

# how torch computes a step: not saved by older versions of it, and not the same on every machine
_HOW = {"foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"}


def merged_biases(found: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> bool:
    """Whether a saved state is of a version with one rate for weights and biases of StyleGAN2's mapping."""
    return _order_then(found["param_groups"], optimizer.state_dict()["param_groups"]) is not None


def _order_then(then: list[Any], now: list[Any]) -> list[int] | None:
    """The parameters of today, by number, in the order of such a version; None for other states."""
    if (len(then), len(now)) != (2, 3):
        return None
    full, weights, biases = (group["params"] for group in now)
    order = [*full, *chain.from_iterable(zip(weights, biases, strict=False))]
    groups = [list(range(len(full))), list(range(len(full), len(order)))]
    fits = len(weights) == len(biases) and [group.get("params") for group in then] == groups
    return order if fits else None


def regrouped(found: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> Mapping[str, Any]:
    """A saved state in the groups of this optimiser, where it is of a version that had them otherwise."""
    now = optimizer.state_dict()["param_groups"]
    order = _order_then(found["param_groups"], now)
    if order is None:
        return found
    full, mapping = found["param_groups"]
    groups = [full, *(mapping | {name: group[name] for name in ("params", "lr_scale")} for group in now[1:])]
    known = dict(enumerate(order))
    state = {known.get(index, index): moments for index, moments in found["state"].items()}
    return {"state": state, "param_groups": groups}


# moments of squares: a root is taken of them
_SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "square_avg"}


def optimizer_faults(found: Mapping[str, Any], optimizer: torch.optim.Optimizer, where: str) -> Iterator[str]:
    """What keeps the saved state of an optimiser, a `state` and `param_groups`, from being loaded into this one.

    torch compares numbers of parameters only: moments of another shape crash its fused steps.
    """
    found = regrouped(found, optimizer)
    groups, wanted = found["param_groups"], optimizer.state_dict()["param_groups"]
    if len(groups) != len(wanted):
        yield f"{where}.param_groups are {len(groups)}, not {len(wanted)}"
        return
    for i, (group, own) in enumerate(zip(groups, wanted, strict=True)):
        yield from _group_faults(group, own, f"{where}.param_groups.{i}")
    example = _example_state(optimizer)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if isinstance(optimizer, torch.optim.SGD) and example:  # its fused step takes all buffers or none
        for index in set(range(len(params))) - found["state"].keys():
            yield f"{where}.state.{index} is missing"
    for index, state in found["state"].items():
        name = f"{where}.state.{index}"
        if not 0 <= index < len(params):
            yield f"{name} is of none of {len(params)} parameters"
            continue
        state = {key: value for key, value in state.items() if value is not None or key in example}
        likes = {key: params[index] if value.dim() else value for key, value in example.items()}
        yield from faults_of(state, likes, name)
        for key in (key for key, value in example.items() if value.dim() == 0 or key in _SQUARES):
            if fault_of(state.get(key), likes[key]) is None and (state[key] < 0).any():
                yield f"{name}.{key} is negative"


def _group_faults(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> Iterator[str]:
    """What is wrong with a group's parameters, its rate and the like."""
    params = found.get("params")
    if not (isinstance(params, list) and all(type(i) is int for i in params) and params == wanted["params"]):
        yield f"{where}.params are not those of this network"
    for name in {**wanted, **found}:
        if name == "params" or (name not in found and name in {*_HOW, "lr_scale"}):
            continue
        value, own = found.get(name), wanted.get(name)
        if isinstance(own, tuple):
            fits = isinstance(value, tuple | list) and len(value) == len(own)
            fits = fits and all(_is_number(v) and v < 1 for v in value)
        elif own is None or isinstance(own, bool):
            fits = value is own or name == "fused" and isinstance(value, bool | None)
            fits = fits or (name not in wanted and (value is None or _is_number(value)))
        else:
            fits = _is_number(value)
        if not fits:
            yield f"{where}.{name:.100} is no such setting"


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number of at least 0."""
    return type(value) in (int, float) and 0 <= value < 2**63 and math.isfinite(value)


def _example_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser of this kind keeps of one parameter, a vector."""
    p = torch.zeros(2, requires_grad=True)
    p.grad = torch.zeros(2)
    known = inspect.signature(type(optimizer)).parameters
    other = type(optimizer)([p], **{k: v for k, v in optimizer.defaults.items() if k in known})
    other.step()
    return {name: value for name, value in other.state[p].items() if value is not None}


def load_moments(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load an optimiser's state, each moment in its parameter's memory layout.

    Fused kernels go through both as they lie in memory: moments of another layout than channels_last parameters would
    be added to the wrong ones, without a word.
    """
    optimizer.load_state_dict(regrouped(saved, optimizer))
    for param, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == param.shape and value.stride() != param.stride():
                moments[name] = torch.empty_like(param, dtype=value.dtype).copy_(value)
