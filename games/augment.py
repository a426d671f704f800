"""Augmentation of everything D sees, and the adaptation of its strength. arXiv:2006.06676."""

from typing import Protocol

import torch
from torch import Tensor

from augmentation import AUGMENTATIONS, PIPES, pipe_rows
from augmentation.ada import COLOURED, next_p
from games.schedule import Schedule
from ops.distributed import global_mean
from settings import TrainConfig


class Random(Protocol):
    """Where draws come from: (n, *shape) for a purpose."""

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """From U[0, 1)."""
        ...

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """From N(0, 1)."""
        ...


class Augmenter:
    """Augments images by the rows of AUGMENTATIONS that the config names, in their order.

    The strength p of adaptive ones follows the mean sign of D's logits for reals: above the target
    D has begun to know its training images by heart, or p follows a schedule. It stays on the device; nothing is read
    back.
    """

    def __init__(self, config: TrainConfig, device: torch.device, schedule: Schedule) -> None:
        self.config, self.schedule = config, schedule
        self.rows = {}
        for name in config.augment:
            self.rows |= pipe_rows(config.ada_pipe) if name == "ada" else {name: AUGMENTATIONS[name]}
        self.adaptive = any(row.adaptive for row in self.rows.values())
        self.p = torch.full((), config.ada_p, device=device)
        self.curve = config.curve("ada_p")
        self.signs = torch.zeros((), device=device)  # summed since p last moved

    def __call__(self, x: Tensor, source: Random, purpose: str) -> Tensor:
        """x (n, C, H, W), augmented; `purpose` keeps the draws of one use apart from those of another."""
        for name, row in self.rows.items():
            u = source.uniform(f"{name}/{purpose}/uniform", (row.n_uniform,))
            n = source.normal(f"{name}/{purpose}/normal", (row.n_normals(x.shape[1:]),))
            x = row.fn(x, u, n, self.p) if row.adaptive else row.fn(x, u, n)
        return x

    def begin_step(self, step: int) -> None:
        """Set p, where it has a schedule."""
        if self.curve is not None:
            self.p.fill_(self.curve(self.schedule.images(step)))

    def follow(self, sign: Tensor) -> None:
        """Take note of the mean sign of D's logits for a micro-batch of reals."""
        if self.adaptive and self.config.ada_interval:
            self.signs += torch.nan_to_num(global_mean(sign)) / self.config.accumulate

    def end_step(self, step: int) -> None:
        """Move p, every --ada_interval steps, never with 0."""
        interval = self.config.ada_interval
        if not (self.adaptive and interval) or (step + 1) % interval:
            return
        images = self.schedule.images(step + 1) - self.schedule.images(step + 1 - interval)
        target, kimg = self.config.ada_target, self.config.ada_kimg
        self.p.copy_(next_p(self.p, self.signs / interval, target=target, images=images, kimg=kimg))
        self.signs.zero_()

    def left_out(self, img_channels: int) -> list[str]:
        """A line where images of so many channels have no colours to transform."""
        if not ("ada" in self.rows and "color" in PIPES[self.config.ada_pipe]) or img_channels in COLOURED:
            return []
        return [
            f"note: ada's colour transforms are for 1 or 3 channels, and leave out images of {img_channels}"
        ]

    def stats(self) -> dict[str, Tensor]:
        """For the log."""
        return {"augment/p": self.p} if self.adaptive else {}

    def state_dict(self) -> dict[str, Tensor]:
        """p and the signs since it moved."""
        return {"p": self.p, "signs": self.signs} if self.adaptive else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what state_dict gave; {} is of a run that had nothing to adapt."""
        if self.adaptive and state:
            self.p.copy_(state["p"])
            self.signs.copy_(state["signs"])
