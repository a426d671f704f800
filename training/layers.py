"""The weights of a network by layer: how large their gradients are, and how their values are spread."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.optimizers import as_stored

BINS = 30  # of a histogram: what TensorBoard shows

Layers = Mapping[str, nn.Parameter]


def layers_of(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of more than one dimension by the name of the module that has them, or by their own where that has
    several or is the network itself."""
    found = {}
    for name, weight in network.named_parameters():
        if weight.dim() > 1:
            path = name.split(".")
            if "parametrizations" in path:  # MODULE.parametrizations.NAME.original
                at = path.index("parametrizations")
                path = [*path[:at], path[at + 1]]
            found[".".join(path)] = weight
    owners = {name: name.rpartition(".")[0] for name in found}
    n_of = Counter(owners.values())
    return {
        owners[name] if owners[name] and n_of[owners[name]] == 1 else name: w for name, w in found.items()
    }


def is_measured(due: Callable[[int], bool], step: int, interval: int) -> bool:
    """Whether what is due at this step, counted from 0, is so for the first time since a multiple of `interval` steps
    was complete; never for an interval of 0."""
    if not interval or step + 1 < interval:
        return False
    return not any(map(due, range((step + 1) // interval * interval - 1, step)))


@torch.no_grad()
def layer_gradients(label: str, layers: Layers) -> dict[str, Tensor]:
    """Mean and maximum of the absolute gradient of each layer, for the log; scalars on the device. What has no gradient
    is absent."""
    named = {name: as_stored(weight.grad) for name, weight in layers.items() if weight.grad is not None}
    if not named:
        return {}
    grads = list(named.values())
    found = {}
    for name, grad, total, most in zip(
        named, grads, torch._foreach_norm(grads, 1), torch._foreach_norm(grads, math.inf), strict=True
    ):
        found[f"layer_grad_mean/{label}/{name}"] = total / grad.numel()
        found[f"layer_grad_max/{label}/{name}"] = most
    return found


@dataclass(frozen=True)
class Histogram:
    """How often values lie in equal parts of [low, high]; of all of them the sum, also of their squares."""

    low: float
    high: float
    total: float
    squares: float
    counts: list[float]


@torch.no_grad()
def weight_histograms(layers: Layers) -> dict[str, Histogram]:
    """The values of each layer; one that is not finite is absent. Waits for the device once."""

    def row(weight: Tensor) -> Tensor:
        x = as_stored(weight.detach()).float()
        low, high = x.aminmax()
        # bounds that are numbers of the host would each be waited for
        counts = torch.histc((x - low) / (high - low).clamp(min=1e-30), BINS, 0, 1)
        return torch.cat([torch.stack([low, high, x.sum(), x.square().sum()]), counts])

    if not layers:
        return {}
    rows = torch.stack([row(weight) for weight in layers.values()]).tolist()
    return {
        name: Histogram(*numbers, counts)
        for name, (*numbers, counts) in zip(layers, ([*r[:4], r[4:]] for r in rows), strict=True)
        if all(map(math.isfinite, numbers))
    }
