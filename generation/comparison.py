"""Scores between two sets of images, wherever they come from: the way from Python to what tools.evaluate measures."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from errors import UserError, shown, tell
from generation.evaluation import Evaluator
from generation.extractors import open_extractor
from generation.generator import check_device
from generation.indexed import chosen_images
from generation.neighbours import save_strip
from images.archives import open_files
from images.batches import ImageData
from images.cache import cache_folder
from images.decoding import Shape, open_image, read_member
from images.headers import upright
from images.own import as_image_data
from images.sources import load_dataset
from modelling.layers import Size, as_size
from ops.distributed import process

# A folder or archive, images in memory, or a torch Dataset of them.
ImageSet = str | os.PathLike[str] | Tensor | np.ndarray | torch.utils.data.Dataset | ImageData

UNLABELLED = {"n_labels": 0, "multi_hot": False, "label_names": []}
LOOKED_AT = 16  # images, for colour
GREY_MODES = ("1", "L", "I", "F")  # and what begins so: LA, I;16


def first_images(path: Path) -> Iterator[Image.Image]:
    """The images of a folder or archive as they are shown, what cannot be read left out. UserError without any."""
    reason, n = "it holds no images", 0
    for member in open_files(path).members():
        try:
            # upright: EXIF may turn it, and with it height and width
            image = upright(open_image(read_member(member)))
        except Exception as error:  # Pillow's readers raise almost anything on damaged files
            reason = shown(f"{member.name}: {' '.join(str(error).split()) or type(error).__name__}")
            continue
        n += 1
        yield image
    if not n:
        raise UserError(f"{path}: {reason}")


def first_shape(path: Path) -> Shape:
    """(H, W, C) of the first image that can be read in a folder or archive; grey where it is. UserError without any."""
    image = next(first_images(path))
    return image.height, image.width, 1 if image.mode.startswith(GREY_MODES) else 3


def without_colour(path: Path) -> bool:
    """Whether the first images are grey, in whatever form they are stored."""
    images = (np.asarray(image.convert("RGB")) for image in islice(first_images(path), LOOKED_AT))
    return all((pixels == pixels[..., :1]).all() for pixels in images)


def common_channels(paths: Mapping[str, Path], found: Mapping[str, int]) -> int:
    """1 or 3, as files of both sets have them; grey ones may be stored in colour. UserError for grey against colour."""
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    coloured = next(name for name, channels in found.items() if channels == 3)
    if not without_colour(paths[coloured]):
        grey = next(name for name in found if name != coloured)
        raise UserError(
            f"--{coloured}s {paths[coloured]} is in colour, --{grey}s {paths[grey]} is grey: scores would tell that "
            "first of all; store both alike"
        )
    tell(f"note: the images of {paths[coloured]} are grey, stored in colour; both sets are read in grey")
    return 1


def load_sets(
    real: ImageSet, fake: ImageSet, img_size: Size | None, cache_dir: str | None
) -> tuple[ImageData, ImageData]:
    """Both sets, files decoded to one shape: see compare."""
    given = {"real": real, "fake": fake}
    paths = {
        name: Path(which).expanduser()
        for name, which in given.items()
        if isinstance(which, str | os.PathLike)
    }
    held = {name: in_memory(which, name) for name, which in given.items() if name not in paths}
    shapes = [tuple(held[name].images.shape[1:]) for name in ("fake", "real") if name in held]
    if paths:
        firsts = {name: first_shape(path) for name, path in paths.items()}
        height, width, channels = shapes[0] if shapes else firsts["fake"]
        if not shapes:
            channels = common_channels(paths, {name: shape[2] for name, shape in firsts.items()})
        size = as_size((height, width)) if img_size is None else img_size
    for name, path in paths.items():
        data = load_dataset(
            "folder",
            img_size=size,
            img_channels=channels,
            split="all",
            data=path,
            cache_dir=cache_dir,
            is_main=process() == 0,
        )
        held[name] = replace(data, name=path.name)
    return held["real"], held["fake"]


def in_memory(given: ImageSet, name: str) -> ImageData:
    """Tensors, arrays or a torch Dataset as ImageData, which stays as it is."""
    try:
        return as_image_data(given, name=name)
    except UserError as error:
        raise UserError(f"--{name}: {error}") from None


def compare(
    real: ImageSet,
    fake: ImageSet,
    extractor: str | None = None,
    *,
    metrics: Sequence[str] | None = None,
    n: int | None = None,
    n_real: int | None = None,
    img_size: Size | None = None,
    metric_weights: str | os.PathLike[str] | None = None,
    cache_dir: str | None = None,
    device: str | torch.device = "cpu",
    neighbours: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """How far one set of images is from another: the scores by name, and under "protocol" how they were measured.

    real, fake: folder, .zip or .tar(.gz); uint8 or float images (N, C, H, W), floats in [-1, 1]; a torch Dataset; or
    ImageData. Image files are cut to the largest centred piece of one shape and resized to it: img_size, else that of
    the images in memory on the other side, else that of the first fake; images in memory stay as they are. Grey files
    against files in colour are refused, unless these hold no colour.
    extractor: the network that reads them, None for Inception where its weights are, else the reader shipped for the
    data set, else lite0; its file in metric_weights or where it is shipped or tools.train_classifier wrote it.
    metrics: rows of METRICS, None for all that can be computed. n, n_real: how many of each, a fixed draw; None for all
    fakes, and as many reals as fakes or all; what fakes may be copies of are all reals unless n_real is given.
    neighbours: the PNG to draw the fakes in that are most like copies. Says so on stderr where images are few. All
    processes of a group call it together. ValueError with what does not fit.
    """
    check_device(device)
    reals, fakes = load_sets(real, fake, img_size, cache_dir)
    n = len(fakes) if n is None else n
    kind = f"images of {fakes.name}, {fakes.fingerprint}"
    evaluator = Evaluator(
        open_extractor(
            extractor,
            None if metric_weights is None else Path(metric_weights),
            cache_dir,
            device,
            dataset=reals.name if isinstance(real, ImageData) else None,
        ),
        reals,
        UNLABELLED,
        n_fake=n,
        n_real=n_real,
        split="all",
        metrics=[metrics] if isinstance(metrics, str) else metrics,
        fakes=chosen_images(fakes, reals, n, kind, "fake"),
        cache_dir=cache_folder(cache_dir),
        neighbours=neighbours is not None,
    )
    line = evaluator.score(step=0)
    if evaluator.picture is not None:
        save_strip(evaluator.picture, Path(neighbours))
    about = {k: v for k, v in line["protocol"].items() if k != "step"}
    return {k: v for k, v in line.items() if k not in ("step", "date")} | {"protocol": about}
