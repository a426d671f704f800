"""Points of a plane as a data set: images of one pixel whose two channels are x and y."""

import numpy as np

from errors import UserError
from images.batches import ImageData
from images.cache import fingerprint
from metrics.mixture import MIXTURES
from ops.rng import generator

# Fixed points a mode, as many as in xyfJASON's study; a split is a draw of its own.
N_EACH = {"train": 400, "test": 400}


def load_points(name: str, split: str) -> ImageData:
    """The fixed points of a mixture, float32 (N, 1, 1, 2), labelled with their mode; UserError for another split."""
    if split not in N_EACH:
        raise UserError(f"{name} has no split {split!r}; it has {', '.join(N_EACH)}")
    points, modes = MIXTURES[name].sample(N_EACH[split], generator(0, name, split))
    images, labels = points.numpy().reshape(-1, 1, 1, 2), modes.numpy().astype(np.int64)
    names = tuple(str(i) for i in range(len(MIXTURES[name].centres)))
    return ImageData(images, labels, names, fingerprint(images, labels, names), name)
