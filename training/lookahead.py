"""Lookahead-minimax: now and then all networks go half of the way back to where they were. arXiv:2006.14567."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from training.network import Network

SHARE = 0.5  # of the way from the slow weights to the fast ones


class Lookahead:
    """Slow copies of all trained weights, a level for each of `intervals`, in steps: the innermost comes first.

    Every so many steps the slow weights of a level go SHARE of the way to the fast ones, which take their place, for
    all networks at once; a level's slow weights are the fast ones of the level around it, and take the place of those
    within. Buffers and the optimisers' moments stay those of the fast weights, and so does an average of a network,
    which has had its update of the step by then. Steps that were skipped count as others.
    """

    def __init__(self, intervals: Sequence[int], networks: Mapping[str, Network]) -> None:
        self.intervals, self.networks = tuple(intervals), networks
        # by level and network, in the order of its parameters
        self.slow: list[dict[str, list[Tensor]]] = [
            {name: [p.detach().clone() for p in network.params] for name, network in networks.items()}
            for _ in self.intervals
        ]

    @torch.no_grad()
    def begin(self) -> None:
        """The slow weights are the fast ones: before the first step, or where a checkpoint has none."""
        for slow in self.slow:
            for name, network in self.networks.items():
                torch._foreach_copy_(slow[name], network.params)

    @torch.no_grad()
    def after(self, step: int) -> None:
        """What follows the step that is the `step`-th of the run: nothing, or a move of the levels that are due."""
        for level, interval in enumerate(self.intervals):
            if step % interval:
                continue
            for name, network in self.networks.items():
                slow = self.slow[level][name]
                torch._foreach_lerp_(slow, [p.detach() for p in network.params], SHARE)
                for inner in [network.params, *(within[name] for within in self.slow[:level])]:
                    torch._foreach_copy_(inner, slow)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The slow weights by level, then by network and name of the parameter."""
        return {
            f"{level}/{name}": dict(zip(network.names, slow[name], strict=True))
            for level, slow in enumerate(self.slow)
            for name, network in self.networks.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restore what state_dict gave; {} of a run without slow weights, which begin as the fast ones."""
        if not state:
            self.begin()
            return
        for level, slow in enumerate(self.slow):
            for name, network in self.networks.items():
                for tensor, key in zip(slow[name], network.names, strict=True):
                    tensor.copy_(state[f"{level}/{name}"][key])
