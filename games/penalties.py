"""The active penalties of a run and the running means that they keep: what all games have of them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from games.course import Course
from games.task import Micro, Terms
from losses import MEAN_DECAY, PENALTIES, PenaltyContext, StyleContext
from settings import TrainConfig


class Penalties:
    """The penalties that the settings ask for of these sides, "d" and "g", with weights, intervals and means.

    every_step: names by side, "d" or "g", of those in each step's main phase; lazy: name -> interval of those with a
    phase of their own. means: by name, as a checkpoint holds them; running: tensors that move within a phase.
    """

    def __init__(self, config: TrainConfig, device: torch.device, sides: str = "dg") -> None:
        self.accumulate, self.course = config.accumulate, Course(config)
        active = {name: how for name, how in config.penalties().items() if PENALTIES[name].side in sides}
        self.weights = {name: weight for name, (weight, _) in active.items()}
        self.every_step = {
            side: [name for name, (_, n) in active.items() if n == 1 and PENALTIES[name].side == side]
            for side in ("d", "g")
        }
        self.lazy = {name: n for name, (_, n) in active.items() if n > 1}
        self.means = {name: torch.zeros((), device=device) for p in active for name in mean_names(p).values()}
        # in this step's micro-batches so far
        self.seen = {name: mean.clone() for name, mean in self.means.items()}
        self.running = [*self.means.values(), *self.seen.values()]

    def terms(
        self,
        names: list[str],
        step: int,
        context: Callable[[str], PenaltyContext | StyleContext],
        suffix: str = "",
    ) -> Terms:
        """Weight at a step and value of the penalties of these names; context(name): what each is given."""
        return {
            f"penalty/{name}{suffix}": (self.weight(name, step), PENALTIES[name](context(name)))
            for name in names
        }

    def weight(self, name: str, step: int) -> float:
        """A penalty's, which may move."""
        return self.course.value(name, step) if name in self.course.curves else self.weights[name]

    def means_of(self, penalty: str, micro: Micro) -> dict[str, Any]:
        """A penalty's running means by parameter, and `follow`, which moves them; {} for one that has none."""
        names = mean_names(penalty)
        if not names:
            return {}

        def follow(*values: Tensor) -> None:
            for name, value in zip(names.values(), values, strict=True):
                self._follow(name, value, micro)

        return {parameter: self.means[name] for parameter, name in names.items()} | {"follow": follow}

    def _follow(self, name: str, value: Tensor, micro: Micro) -> None:
        """Move a running mean, once a step, by its mean over the micro-batches."""
        mean, seen = self.means[name], self.seen[name]
        seen += value / self.accumulate
        if micro.j == self.accumulate - 1:
            mean.lerp_(seen, 1 - MEAN_DECAY)
            seen.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """The running means."""
        return dict(self.means)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what state_dict gave; an older run may lack some."""
        for name, value in state.items():
            self.means[name].copy_(value)


def mean_names(penalty: str) -> dict[str, str]:
    """Names in the state by parameter: path_length of `mean`, lecam_real of `mean_real`."""
    return {name: penalty + name.removeprefix("mean") for name in PENALTIES[penalty].means}
