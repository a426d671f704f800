"""Which batch belongs to a step, and how many images were seen before it: --batch_by_size of a growing run."""

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from errors import UserError
from games.growing import Growth, growth_of
from settings import TrainConfig
from settings.section import is_auto


def size_name(height: int) -> str:
    """How --batch_by_size and --lr_by_size name a height in px: by the power of two that it is or lies above."""
    return str(1 << height.bit_length() - 1)


@dataclass(frozen=True)
class Part:
    """A stretch of a run in batches of one size: its first step, and the images seen before it."""

    step: int
    images: int
    batch_size: int


@dataclass(frozen=True)
class Schedule:
    """The parts of a run, in their order; the first begins at step 0, the last has no end."""

    parts: tuple[Part, ...]

    @cached_property
    def _steps(self) -> list[int]:
        return [part.step for part in self.parts]

    @cached_property
    def _images(self) -> list[int]:
        return [part.images for part in self.parts]

    def batch_size(self, step: int) -> int:
        """Images of a step's global batch."""
        return self.parts[bisect_right(self._steps, step) - 1].batch_size

    def images(self, step: int) -> int:
        """Images seen before a step; the number of the first image of its batch."""
        part = self.parts[bisect_right(self._steps, step) - 1]
        return part.images + (step - part.step) * part.batch_size

    def step(self, images: float) -> int:
        """The first step before which so many images were seen."""
        part = self.parts[max(bisect_right(self._images, images) - 1, 0)]
        return part.step + math.ceil((images - part.images) / part.batch_size)

    @property
    def batch_sizes(self) -> list[int]:
        """Those of the run, in their order, each once; the last one is of the full size."""
        found = dict.fromkeys(part.batch_size for part in reversed(self.parts))
        return list(reversed(found))


def schedule_of(config: TrainConfig) -> Schedule:
    """The batches of a run: of one size, or of one for each size in px that it grows to; UserError for sizes that it
    never has."""
    growth = growth_of(config)
    if growth is None:
        return Schedule((Part(0, 0, config.batch_size),))
    names = [size_name(size) for size in growth.sizes]
    check_sizes(config, names)
    parts: list[Part] = []
    step = images = 0
    for i, name in enumerate(names):
        part = Part(step, images, config.batch_by_size.get(name, config.batch_size))
        n = 0 if i == growth.doublings else _steps_at(growth, i, images, part.batch_size)
        if i == growth.doublings or n:
            joins = parts and parts[-1].batch_size == part.batch_size
            parts += [] if joins else [part]
        step, images = step + n, images + n * part.batch_size
    return Schedule(tuple(parts))


def _steps_at(growth: Growth, i: int, images: int, batch_size: int) -> int:
    """Steps from `images` on in which the networks stand at the i-th size, or a smaller one."""
    n = max(math.ceil((growth.end(i) - images) / batch_size), 0)
    # its own arithmetic decides where the two round apart
    while n and growth.sizes.index(growth.stage(images + (n - 1) * batch_size)[0]) > i:
        n -= 1
    while growth.sizes.index(growth.stage(images + n * batch_size)[0]) <= i:
        n += 1
    return n


def check_sizes(config: TrainConfig, names: list[str]) -> None:
    """UserError for a size named by the settings below the last one, which the run passes by."""
    for setting in ("batch_by_size", "lr_by_size"):
        for name in getattr(config, setting):
            if int(name) < int(names[-1]) and name not in names:
                raise UserError(f"--{setting} {name}: the run's sizes are {', '.join(names)} px")


def check_batches(schedule: Schedule, config: TrainConfig, n_images: int) -> None:
    """UserError for a batch of a smaller size, or one that auto stands for, that the data cannot fill."""
    if is_auto(config.asked.get("batch_size")) and config.batch_size > n_images:
        raise UserError(
            f"auto's batch of {config.batch_size} is larger than the data ({n_images:,} images): give --batch_size, at "
            f"most {n_images}"
        )
    largest = max(schedule.batch_sizes)
    if largest > max(n_images, config.batch_size):
        raise UserError(
            f"--batch_by_size: a batch of {largest} is larger than the data ({n_images:,} images): lower it, or give "
            "--batch_size alone, which holds for all sizes"
        )
