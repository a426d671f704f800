"""Images that are at hand in Python, as a data set: tensors, arrays, or a torch Dataset."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from errors import UserError, tell
from images.arrays import MAX_CHANNELS
from images.batches import ImageData
from images.cache import fingerprint

OWN = "own"  # the name of such data
CHANNELS = (1, 3)  # by which the axis of channels is known wherever it stands
ALPHA = 4
QUANTISED = 64  # images at a time
MAX_CLASSES = 1_000_000
SPARSE = (1000, 10)  # class numbers below the one, or below the other times the number of images, are taken

Images = Tensor | np.ndarray | Dataset | Sequence | ImageData


def as_image_data(
    images: Images, labels: Tensor | np.ndarray | Sequence | None = None, name: str = OWN
) -> ImageData:
    """Own images as the trainer holds them: uint8 (N, H, W, C), any C up to 64, all of one size.

    images: a tensor (N, C, H, W); an array (N, H, W, C) or (N, C, H, W); or a torch Dataset, or list, of images, each a
    tensor (C, H, W), an array or a PIL image, or of (image, label). They are uint8, or floating point in [-1, 1], which
    is quantised: round(127.5 x + 127.5). labels: whole numbers (N,), classes from 0 on, or 0s and 1s (N, K), attributes
    that may be there together; None for none, or those of the Dataset. Of an array whose axes could be read both ways
    channels are the axis of length 1 or 3, else the shorter one. uint8 arrays with channels last are taken as
    they are, not copied; so is ImageData, which keeps its name. ValueError that names what does not fit.
    """
    if isinstance(images, ImageData):
        if labels is not None:
            raise UserError("labels: ImageData holds its own, or none: leave them out")
        return images
    if isinstance(images, Tensor | np.ndarray):
        pixels = as_pixels(images, "images")
    else:
        pixels, found = from_items(images)
        if found is not None and labels is not None:
            raise UserError("labels: the images come with labels of their own: leave one of both out")
        labels = found if labels is None else labels
    rows, label_names = (None, ()) if labels is None else as_labels(labels, len(pixels))
    return ImageData(pixels, rows, label_names, fingerprint(pixels, rows, label_names), name)


# Images


def as_pixels(images: Tensor | np.ndarray, what: str) -> np.ndarray:
    """uint8 (N, H, W, C) of a tensor (N, C, H, W), or of an array of either order. UserError for anything else."""
    shape = tuple(images.shape)
    if len(shape) != 4:
        raise UserError(f"{what} of shape {shape}: four axes are needed, {wanted_shape(images)}")
    if 0 in shape:
        raise UserError(f"{what} of shape {shape}: there are no images")
    x = channels_first(images, what)
    if (reason := misplaced(x)) is not None:
        raise UserError(f"{what} of shape {shape}: {reason}, {wanted_shape(images)}")
    x = x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
    if x.is_floating_point():
        x = quantised(x, what)
    elif x.dtype != torch.uint8:
        raise UserError(f"{what} of type {images.dtype}: give uint8, or floating point in [-1, 1]")
    return np.ascontiguousarray(x.numpy())


def channels_first(images: Tensor | np.ndarray, what: str) -> Tensor:
    """(..., C, H, W) on the CPU of a tensor, or of an array of either order. UserError for what torch cannot hold."""
    if isinstance(images, Tensor):
        return images.detach().cpu()
    if images.dtype.kind not in "buif":
        raise UserError(f"{what} of type {images.dtype}: give uint8, or floating point in [-1, 1]")
    x = torch.from_numpy(np.require(native(images), requirements=("C", "W")))
    if x.dim() < 3:
        return x
    last = x.shape[-1] in CHANNELS or x.shape[-3] not in CHANNELS and x.shape[-1] <= x.shape[-3]
    # (..., H, W, C) -> (..., C, H, W)
    return x.movedim(-1, -3) if last else x


def misplaced(x: Tensor) -> str | None:
    """Why a tensor (..., C, H, W) can be no images, None where it can."""
    channels, width = x.shape[-3], x.shape[-1]
    if channels > MAX_CHANNELS:
        return f"up to {MAX_CHANNELS} channels are possible, 1 or 3 are usual"
    if width in (*CHANNELS, ALPHA) and channels > width:
        return "1 or 3 channels are usual, and here the last axis seems to have them"
    return None


def native(array: np.ndarray) -> np.ndarray:
    """In this machine's byte order, and long doubles as doubles: what torch can hold. Others are not copied."""
    kind = array.dtype.newbyteorder("=")
    return array.astype(np.float64 if kind == np.longdouble else kind, copy=False)


def wanted_shape(images: Tensor | np.ndarray) -> str:
    """The axes that images have to have, for messages."""
    return "(N, C, H, W)" if isinstance(images, Tensor) else "(N, H, W, C) or (N, C, H, W)"


def quantised(images: Tensor, what: str) -> Tensor:
    """uint8 of images in [-1, 1], round(127.5 x + 127.5). UserError for values out of range, and NaN."""
    out = torch.empty(images.shape, dtype=torch.uint8)
    least = float("inf")
    for start in range(0, len(images), QUANTISED):
        part = images[start : start + QUANTISED].to(torch.float32)
        low, high = part.min().item(), part.max().item()
        if not (low >= -1 and high <= 1):  # NaN is neither
            raise UserError(f"{what}: values from {low:.4g} to {high:.4g}; floating point is in [-1, 1]")
        least = min(least, low)
        out[start : start + QUANTISED] = part.mul(127.5).add_(127.5).round_().to(torch.uint8)
    if least >= 0:
        tell(
            f"warning: {what} have no value below 0, the middle grey: those in [0, 1] are to be given as 2 x - 1"
        )
    return out


# Datasets


def from_items(items: Dataset | Sequence) -> tuple[np.ndarray, list[object] | None]:
    """(uint8 (N, H, W, C), labels or None) of images that come one by one. UserError for what is no image."""
    if isinstance(items, DataLoader):
        raise UserError("images: a DataLoader has batches: give its Dataset")
    if not isinstance(items, Dataset | list | tuple):
        kinds = "a tensor (N, C, H, W), an array, or a torch Dataset or list of images"
        raise UserError(f"images of type {type(items).__name__}: give {kinds}")
    pictures: list[np.ndarray | Tensor] = []
    labels: list[object] = []
    for i, item in enumerate(each(items)):
        image, *label = item if isinstance(item, tuple | list) else (item,)
        if len(label) > 1:
            raise UserError(
                f"images: item {i} has {len(item)} parts; give an image, or an image and its label"
            )
        pictures.append(as_picture(image, i))
        if pictures[i].shape != pictures[0].shape or pictures[i].dtype != pictures[0].dtype:
            first, other = (f"{tuple(p.shape)} of {p.dtype}" for p in (pictures[0], pictures[i]))
            raise UserError(f"images: item 0 is {first}, item {i} is {other}: all must be alike")
        labels += label
    if not pictures:
        raise UserError("images: there are none")
    if labels and len(labels) != len(pictures):
        raise UserError(f"images: {len(labels)} of {len(pictures)} items have a label: all or none")
    return as_pixels(torch.stack(pictures), "images"), labels or None


def each(items: Dataset | Sequence) -> Iterable[object]:
    """One after the other: a Dataset need not end its own iteration."""
    return (items[i] for i in range(len(items))) if hasattr(items, "__len__") else items


def as_picture(image: object, i: int) -> Tensor:
    """Item i as a tensor (C, H, W): from a tensor, an array (H, W), (H, W, C) or (C, H, W), or a PIL image."""
    if isinstance(image, Image.Image):
        image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    if not isinstance(image, Tensor | np.ndarray):
        raise UserError(f"images: item {i} is a {type(image).__name__}: give tensors, arrays or PIL images")
    if isinstance(image, np.ndarray):
        image = np.array(image[..., None] if image.ndim == 2 else image)  # a Dataset may use its memory again
    x = channels_first(image, f"images: item {i}")
    if x.dim() != 3 or misplaced(x) is not None:
        raise UserError(
            f"images: item {i} of shape {tuple(x.shape)}: (1, H, W) or (3, H, W) is needed, or (C, H, W)"
        )
    return x


# Labels


def as_labels(labels: Tensor | np.ndarray | Sequence, n: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """(int64 (n,) classes or uint8 (n, K) attributes, their names). UserError for others."""
    try:
        if isinstance(labels, np.ndarray) and labels.ndim and labels.dtype.kind in "buif":
            rows = native(labels)
        else:
            rows = torch.stack([torch.as_tensor(row) for row in labels]).detach().cpu().numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"labels: whole numbers (N,) or 0s and 1s (N, K) are needed: {error}") from None
    if len(rows) != n:
        raise UserError(f"labels: there are {len(rows)} for {n} images")
    if rows.ndim == 2 and rows.shape[1] and np.isin(rows, (0, 1)).all():
        return rows.astype(np.uint8), tuple(str(k) for k in range(rows.shape[1]))
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or rows.min() < 0:
        given = f"shape {rows.shape} of {rows.dtype}" + (f" from {rows.min()} on" if rows.size else "")
        raise UserError(f"labels of {given}: whole numbers (N,) from 0 on, or 0s and 1s (N, K), are needed")
    largest, bound = int(rows.max()), min(max(SPARSE[0], SPARSE[1] * n), MAX_CLASSES)
    if largest >= bound:
        raise UserError(
            f"labels: a class {largest} among {n} images: classes are numbered from 0 on, here below {bound}; "
            "np.unique(labels, return_inverse=True)[1] numbers them so"
        )
    return rows.astype(np.int64), tuple(str(k) for k in range(largest + 1))
