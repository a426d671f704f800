"""What is written beside training: pictures of what the game makes, into samples/ and the trackers."""

import numpy as np

import disk
from games.task import Task
from training.logs import RunLog
from training.loop import WeightSets


class Pictures:
    """Previews of every weight set, samples/step-00001000-ema.png, and samples/real.png."""

    def __init__(self, task: Task, log: RunLog) -> None:
        self.task, self.log = task, log
        self.folder = log.folder / "samples"

    def previews(self, step: int, weight_sets: WeightSets) -> None:
        """One picture a weight set."""
        if not self.log.main:
            return
        self.folder.mkdir(exist_ok=True)
        for name, network in weight_sets.items():
            picture = self.task.preview(network)
            if picture is None:
                return
            with disk.replacing(self.folder / f"step-{step:08d}-{name}.png", durable=False) as temporary:
                picture.save(temporary)
            self.log.images(f"samples/{name}", np.asarray(picture.convert("RGB")), step)

    def reals(self) -> None:
        """The first images as training sees them."""
        if not self.log.main:
            return
        self.folder.mkdir(exist_ok=True)
        if (picture := self.task.reals()) is not None:
            with disk.replacing(self.folder / "real.png", durable=False) as temporary:
                picture.save(temporary)
