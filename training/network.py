"""A network with what the loop needs of it, and the weight sets of a step as they are sampled from."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modelling import running_statistics
from ops.magnitude_preserving import Normalised
from ops.rng import key
from ops.spectral_norm import has_spectral_norm
from training.layers import layers_of

WeightSets = Mapping[str, nn.Module]  # to sample from: averages first, then "raw"


def seed_layer_noise(*parts: Any) -> None:
    """Re-seed torch's default generators (dropout, noise layers); microseconds, unlike torch.manual_seed."""
    number = key(*parts)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)


def overwrite(tensor: Tensor, value: Tensor) -> None:
    """Copy in place unseen by autograd: the graph of G that is kept for its own phase has saved the running
    statistics too, although its backward in training does not read them."""
    tensor.data.copy_(value)


class Network:
    """A network with what the loop needs of it, gathered once; lazy: that of its optimiser, see make_optimizer."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, lazy: float = 1.0) -> None:
        self.module, self.optimizer, self.lazy = module, optimizer, lazy
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        # what a user has frozen stays so
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.names, self.params = list(trained), list(trained.values())
        self.layers = layers_of(module)
        self.normalised = [
            m for m in module.modules() if isinstance(m, Normalised) and m.weight.requires_grad
        ]
        self.statistics = running_statistics(module)
        self.spectral_norm = has_spectral_norm(module)
        self.bad_run = torch.zeros((), device=self.params[0].device)  # steps skipped in a row
        self.tried = 0  # steps, skipped or not, since the run began or went on

    def set_rates(self, factor: float, beta2: float | None) -> None:
        """Learning rates of the next step: the optimiser's first ones times `factor`; and Adam's beta2, None for the
        one it has."""
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
            if beta2 is not None:
                group["betas"] = (group["betas"][0], beta2**self.lazy)

    def train_only(self, yes: bool) -> None:
        """Freeze or free every parameter."""
        if self.params[0].requires_grad != yes:
            for p in self.params:
                p.requires_grad_(yes)


class Samplers(Mapping[str, nn.Module]):
    """Weight sets as they are sampled from: each made when it is first asked for, then shared.

    make: (name, weight set) -> its copy for sampling.
    """

    def __init__(self, weight_sets: WeightSets, make: Callable[[str, nn.Module], nn.Module]) -> None:
        self.weight_sets, self.make = weight_sets, make
        self.made: dict[int, nn.Module] = {}  # by the network: before the first step all sets may be one

    def __getitem__(self, name: str) -> nn.Module:
        network = self.weight_sets[name]
        if id(network) not in self.made:
            self.made[id(network)] = self.make(name, network)
        return self.made[id(network)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weight_sets)

    def __len__(self) -> int:
        return len(self.weight_sets)
