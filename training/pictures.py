"""What is written beside training: pictures of what the game makes, into samples/ and the trackers."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from PIL import Image
from torch import nn

import disk
from games.task import Task
from training.layers import Histogram, layers_of, weight_histograms
from training.logs import RunLog

FIRST = 16  # before it nothing is to be seen that step 0 does not show
MAX_REGULAR = 200  # pictures of a weight set at equal distances; those of the first steps come on top


def picture_due(step: int, interval: int, n_steps: int) -> bool:
    """Whether a run of n_steps makes pictures at this step: at 0, at powers of two from FIRST on, then every
    `interval` steps, or every so many intervals that there are no more than MAX_REGULAR; it makes some at its end too.
    """
    distance = regular_distance(interval, n_steps)
    return step % distance == 0 or (FIRST <= step < distance and step & (step - 1) == 0)


def regular_distance(interval: int, n_steps: int) -> int:
    """Steps between the pictures at equal distances."""
    return interval * -(-n_steps // (MAX_REGULAR * interval))


def pictures_after(step: int, interval: int, n_steps: int) -> int:
    """How often a run of n_steps makes pictures after this step, at its end too."""
    distance = regular_distance(interval, n_steps)
    early = sum(step < 2**k <= n_steps for k in range(FIRST.bit_length() - 1, (distance - 1).bit_length()))
    at_end = step < n_steps and not picture_due(n_steps, interval, n_steps)
    return early + n_steps // distance - step // distance + at_end


class Pictures:
    """Previews of every weight set, samples/step-00001000-ema.png, and samples/real.png; for trackers that show such,
    histograms of weights."""

    def __init__(self, task: Task, log: RunLog) -> None:
        self.task, self.log = task, log
        self.folder = log.folder / "samples"

    def previews(self, step: int, weight_sets: Mapping[str, nn.Module]) -> None:
        """One picture a weight set as it is sampled from, after the first step also its numbers; NotFinite.

        OSError of the first that could not be written, once all else was: pictures, histograms, numbers."""
        if not self.log.main:
            return
        failures: list[OSError] = []

        def attempt(write: Callable[[], None]) -> None:
            try:
                write()
            except OSError as error:
                failures.append(error)

        attempt(partial(self.log.histograms, self._weights, step))
        for name, network in weight_sets.items():
            sheet = self.task.preview(network)
            if sheet is None:
                break
            if step:
                self.log.note({f"samples/{name}/{key}": value for key, value in sheet.health.items()})
            attempt(partial(self._keep, sheet.picture, f"step-{step:08d}-{name}", name, step))
        if failures:
            raise failures[0]

    def reals(self, step: int) -> None:
        """The first images as training sees them; trackers are shown them where a run begins."""
        if not self.log.main:
            return
        if (picture := self.task.reals()) is not None:
            self._keep(picture, "real", None if step else "real", step)

    def _keep(self, picture: Image.Image, file: str, title: str | None, step: int) -> None:
        """Write a picture and, under a title, show it to the trackers."""
        self.folder.mkdir(exist_ok=True)
        with disk.replacing(self.folder / f"{file}.png", durable=False) as temporary:
            picture.save(temporary)
        if title is not None:
            self.log.images(f"samples/{title}", np.asarray(picture.convert("RGB")), step)

    def _weights(self) -> dict[str, Histogram]:
        """Of the layers of all networks as they are trained."""
        named = {
            f"weights/{name.lower()}/{layer}": weight
            for name, network in self.task.networks.items()
            for layer, weight in layers_of(network).items()
        }
        return weight_histograms(named)
