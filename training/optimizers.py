"""Optimisers of networks, and a step that is taken only where its gradients are finite."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from modelling import param_groups
from settings import TrainConfig


def _adam(
    kind: type[torch.optim.Optimizer],
    groups: list[dict],
    lr: float,
    config: TrainConfig,
    lazy: float,
    fused: bool,
) -> torch.optim.Optimizer:
    betas = (config.beta1**lazy, config.beta2**lazy)
    return kind(groups, lr * lazy, betas, weight_decay=config.weight_decay, fused=fused)


def _rmsprop(
    groups: list[dict], lr: float, config: TrainConfig, lazy: float, fused: bool
) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(groups, lr, weight_decay=config.weight_decay)  # it has no fused form


def _sgd(
    groups: list[dict], lr: float, config: TrainConfig, lazy: float, fused: bool
) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr, momentum=config.beta1, weight_decay=config.weight_decay, fused=fused)


# Name of --optimizer -> (groups, rate, settings, lazy, fused) -> the optimiser.
MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": partial(_adam, torch.optim.Adam),
    "AdamW": partial(_adam, torch.optim.AdamW),
    "RMSprop": _rmsprop,
    "SGD": _sgd,
}


def make_optimizer(
    config: TrainConfig, network: nn.Module, lr: float, device: torch.device, lazy: float
) -> torch.optim.Optimizer:
    """The optimiser of one network, fused where torch has it; each group of parameters with the network's own scale.

    lazy: c = 1 / (1 + sum 1/n_i) over its lazy phases; Adam's lr and betas are corrected for their extra steps
    (arXiv:1912.04958, appendix B).
    """
    floats = all(p.is_floating_point() for p in network.parameters())
    fused = device.type in ("cpu", "cuda", "mps") and floats
    groups = [g | {"params": [p for p in g["params"] if p.requires_grad]} for g in param_groups(network)]
    groups = [group for group in groups if group["params"]]
    optimizer = MAKERS[config.optimizer](groups, lr, config, lazy, fused)
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
