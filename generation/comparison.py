"""Scores between two sets of images, wherever they come from: the way from Python to what tools.evaluate measures."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from errors import UserError, shown, tell
from generation.evaluation import CHANNELS, Evaluator
from generation.extractors import open_extractor
from generation.generator import check_device
from generation.indexed import chosen_images
from generation.neighbours import check_place, save_strip
from images.archives import open_files
from images.batches import ImageData
from images.cache import cache_folder
from images.decoding import Shape, open_image, read_member
from images.headers import upright
from images.own import as_image_data
from images.scan import sample_of
from images.sources import load_dataset, set_name
from modelling.layers import Size, as_size
from ops.distributed import from_main, process

# A folder or archive, images in memory, or a torch Dataset of them.
ImageSet = str | os.PathLike[str] | Tensor | np.ndarray | torch.utils.data.Dataset | ImageData

UNLABELLED = {"n_labels": 0, "multi_hot": False, "label_names": []}
LOOKED_AT = 64  # images, for colour
LARGEST = 1024  # px a side, where no size is asked for


def first_images(path: Path, some: int | None = None) -> Iterator[Image.Image]:
    """The images of a folder or archive as they are shown, what cannot be read left out. UserError without any.

    some: so many from all over the set, None for all in their order.
    """
    reason, n = "it holds no images", 0
    files = open_files(path)
    for member in files.members() if some is None else files.some(some):
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


def first_size(path: Path) -> tuple[int, int]:
    """(H, W) of the first image that can be read in a folder or archive. UserError without any."""
    image = next(first_images(path))
    return image.height, image.width


def stored_channels(path: Path) -> int:
    """3 where any of some images is stored in colour, else 1. UserError for arrays and stacks of others, and without
    any that can be read."""
    sample = sample_of(open_files(path), LOOKED_AT)
    if not sample.headers:
        raise UserError(f"{path}: {sample.reason or 'it holds no images'}")
    if sample.channels not in CHANNELS:
        raise UserError(
            f"{path}: its images have {sample.channels} channels, and extractors read 1 (grey) or 3 (colour)"
        )
    return sample.channels


def first_shape(path: Path) -> Shape:
    """(H, W) of the first image that can be read, and the channels of the first images. UserError without any."""
    return *first_size(path), stored_channels(path)


def has_colour(given: Path | ImageData) -> bool:
    """Whether any of the first images shows colour, in whatever form they are stored."""
    if isinstance(given, Path):
        images = (np.asarray(image.convert("RGB")) for image in first_images(given, LOOKED_AT))
    else:
        images = (np.asarray(image) for image in given.images[:LOOKED_AT])
    return any((pixels != pixels[..., :1]).any() for pixels in images)


def common_channels(sets: Mapping[str, Path | ImageData]) -> int:
    """1 or 3, as the files are to be read: grey may be stored in colour. UserError for grey against colour."""
    found = {
        name: stored_channels(which) if isinstance(which, Path) else which.img_channels
        for name, which in sets.items()
    }
    if sorted(found.values()) != [1, 3]:
        return max(found.values())
    grey, coloured = sorted(found, key=found.__getitem__)
    which = sets[coloured]
    if has_colour(which):
        told = {name: told_of(name, x) for name, x in sets.items()}
        raise UserError(
            f"{told[coloured]} is in colour, {told[grey]} is grey: scores would tell that first of all; store both "
            "alike"
        )
    if not isinstance(which, Path):  # it stays as it is
        return 3
    tell(f"note: the images of {which} are grey, stored in colour; both sets are read in grey")
    return 1


def common_size(path: Path) -> tuple[int, int]:
    """(H, W) to read files at: of the first image, made smaller where it is larger than sets are."""
    height, width = first_size(path)
    if (longer := max(height, width)) <= LARGEST:
        return height, width
    size = max(1, round(height * LARGEST / longer)), max(1, round(width * LARGEST / longer))
    tell(
        f"note: the first image of {path} is {height} x {width}: both sets are read at {size[0]} x {size[1]}, "
        "--img_size chooses another size"
    )
    return size


def told_of(name: str, given: ImageSet) -> str:
    """How messages call a set."""
    return f"--{name}s {given}" if isinstance(given, str | os.PathLike) else f"--{name}"


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Mistakes in a set of files by the flag that gave it."""
    try:
        yield
    except UserError as error:
        raise UserError(error.for_command_line.replace("--data", f"--{name}s")) from None


def load_sets(
    real: ImageSet, fake: ImageSet, img_size: Size | None, cache_dir: str | None
) -> tuple[ImageData, ImageData]:
    """Both sets, files decoded to one shape: see compare."""
    given = {"fake": fake, "real": real}
    paths = {
        name: Path(which).expanduser()
        for name, which in given.items()
        if isinstance(which, str | os.PathLike)
    }
    held = {name: in_memory(which, name) for name, which in given.items() if name not in paths}
    shapes = {name: tuple(data.images.shape[1:]) for name, data in held.items()}
    if len(set(shapes.values())) == 2:
        raise UserError(
            f"--real has images of shape {shapes['real']}, --fake of {shapes['fake']} (H, W, C): scores would tell "
            "that first of all; make both alike"
        )
    for name, shape in shapes.items():
        if img_size is not None and as_size(img_size) != as_size(shape[:2]):
            raise UserError(
                f"--img_size {img_size}: the images of --{name} are {shape[0]} x {shape[1]} in memory and stay so; "
                "leave it out"
            )
    if paths:
        for name, path in paths.items():
            with naming(name):
                stored_channels(path)
                first_size(path)
        channels = common_channels({**held, **paths})
        size = img_size
        if size is None:
            size = as_size(shapes[next(iter(held))][:2] if held else common_size(paths["fake"]))
    for name, path in paths.items():
        with naming(name):
            data = load_dataset(
                set_name(path),
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
    the images in memory on the other side, else that of the first fake, up to 1024 px a side; images in memory stay as
    they are, and must be of one shape, and of img_size where that is given. Grey against colour, as the first images of
    each set tell, is refused, unless what is stored in colour shows none.
    extractor: the network that reads them, None for Inception where its weights are, else the reader shipped for the
    data set, else lite0; its file in metric_weights or where it is shipped or tools.train_classifier wrote it.
    metrics: rows of METRICS, None for all that can be computed. n, n_real: how many of each, a fixed draw; None for all
    fakes, and as many reals as fakes or all; what fakes may be copies of are all reals unless n_real is given.
    neighbours: the PNG to draw the fakes in that are most like copies. Says so on stderr where images are few. All
    processes of a group call it together. ValueError with what does not fit.
    """
    if neighbours is not None:
        from_main(lambda: check_place(Path(neighbours)))
    found, picture = compared(
        real, fake, extractor, metrics=metrics, n=n, n_real=n_real, img_size=img_size, metric_weights=metric_weights,
        cache_dir=cache_dir, device=device, draw=neighbours is not None,
    )  # fmt: skip
    if picture is not None:
        save_strip(picture, Path(neighbours))
    return found


def compared(
    real: ImageSet,
    fake: ImageSet,
    extractor: str | None,
    *,
    metrics: Sequence[str] | None,
    n: int | None,
    n_real: int | None,
    img_size: Size | None,
    metric_weights: str | os.PathLike[str] | None,
    cache_dir: str | None,
    device: str | torch.device,
    draw: bool,
) -> tuple[dict[str, Any], Image.Image | None]:
    """What compare returns, and the strip of neighbours on the main process where it is to be drawn."""
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
        fakes=chosen_images(fakes, reals, n, kind, told_of("fake", fake)),
        cache_dir=cache_folder(cache_dir),
        neighbours=draw,
    )
    line = evaluator.score(step=0)
    about = {k: v for k, v in line["protocol"].items() if k != "step"}
    found = {k: v for k, v in line.items() if k not in ("step", "date")} | {"protocol": about}
    return found, evaluator.picture
