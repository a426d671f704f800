"""Batches of real images as a pure function of the step: gathered from a memmap or from device memory."""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from errors import UserError
from modelling.layers import Size, as_size, image_shape
from ops.rng import generator

MAX_SHARE_OF_DEVICE = 0.25
DATA_DEVICES = ("auto", "cpu", "device")


@dataclass(frozen=True)
class ImageData:
    """Decoded images of one split.

    images: uint8 (N, H, W, C), or float (N, 1, 1, 2) for points of the plane; labels: int64 (N,) classes, uint8 (N, K)
    multi-hot attributes, or None;
    fingerprint: hash of pixels and labels; files: names in the same order, empty for embedded images;
    path, offset: the file that images is a memmap of and the byte where its first pixel stands, or None; fitting: how
    pictures were brought to this size, None for images that are as they were given; scale: what became 0 and 255 of
    pictures of more than 8 bits.
    """

    images: np.ndarray | Tensor
    labels: np.ndarray | None
    label_names: tuple[str, ...]
    fingerprint: str
    name: str
    files: Sequence[str] = ()
    path: Path | None = None
    offset: int = 0
    fitting: str | None = None
    scale: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def without_labels(self) -> "ImageData":
        """The same images."""
        return replace(self, labels=None)

    @property
    def multi_hot(self) -> bool:
        """Whether an image can have several labels at once."""
        return self.labels is not None and self.labels.ndim == 2

    @property
    def n_labels(self) -> int:
        """Number of classes or attributes, 0 without labels."""
        return 0 if self.labels is None else len(self.label_names)

    @property
    def img_size(self) -> Size:
        """Side of a square in pixels, else (height, width)."""
        return as_size(tuple(self.images.shape[1:3]))

    @property
    def img_channels(self) -> int:
        """1 for grey, 3 for colour, 4 with alpha, any number for arrays; 2 for points."""
        return self.images.shape[3]


def images_of(data: ImageData, index: Tensor | slice = slice(None)) -> Tensor:
    """uint8 images (n, C, H, W) in memory, all or those of an index."""
    images = data.images[index.numpy() if isinstance(index, Tensor) else index]
    # (n, H, W, C) -> (n, C, H, W)
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Shard:
    """Which samples of each global batch are this process's.

    A batch is cut into `accumulate` contiguous micro-batches, and process r takes the r-th contiguous block of each.
    UserError for a batch that cannot be shared out so.
    """

    batch_size: int
    n_processes: int = 1
    process: int = 0
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: give at least 1")
        if self.batch_size % (self.n_processes * self.accumulate):
            raise UserError(
                f"--batch_size {self.batch_size} (over all processes) is not divisible by {self.n_processes} processes "
                f"x --accumulate {self.accumulate} = {self.n_processes * self.accumulate}"
            )

    def of(self, batch_size: int) -> "Shard":
        """The same process's share of a batch of another size; UserError."""
        return self if batch_size == self.batch_size else replace(self, batch_size=batch_size)

    @property
    def n(self) -> int:
        """Samples of a micro-batch in one process."""
        return self.batch_size // (self.n_processes * self.accumulate)

    def block(self, j: int, share: int = 1) -> slice:
        """This process's part of micro-batch j within the global batch, or within one of 1/share of its size."""
        n = self.n // share
        first = (j * self.n_processes + self.process) * n
        return slice(first, first + n)


class Batches:
    """Serves the global batch that starts at a given image number, cut for processes and micro-batches.

    Image number i is image permutation(seed, i // N)[i % N]: each epoch shows every image once. flip mirrors each image
    with probability one half; crop_size: of the piece that is cut out of each at random, None for the whole. Raises
    UserError for a batch larger than the data and for `data_device="device"` without enough memory.
    """

    def __init__(
        self,
        data: ImageData,
        shard: Shard,
        seed: int,
        flip: bool,
        device: torch.device | str,
        data_device: str = "auto",
        channels_last: bool = False,
        crop_size: Size | None = None,
    ) -> None:
        if shard.batch_size > len(data):
            raise UserError(
                f"--batch_size {shard.batch_size} is larger than the data ({len(data):,} images): lower it"
            )
        self.shard, self.n_images, self.seed, self.flip = shard, len(data), seed, flip
        self.device, self.channels_last = torch.device(device), channels_last
        size = image_shape(data.img_size)
        self.crop_size = size if crop_size is None else image_shape(crop_size)
        # how many places there are for a piece, down and across
        self.places = tuple(whole - piece + 1 for whole, piece in zip(size, self.crop_size, strict=True))
        if min(self.places) < 1:
            raise ValueError(f"pieces of {self.crop_size} cannot be cut out of images of {size}")
        images = torch.as_tensor(data.images)
        on_device = goes_to_device(images, self.device, data_device)
        self.images = copied(images, self.device) if on_device else images
        self.in_place = on_device or self.device.type == "cpu"  # gathered where they are needed
        labels = None if data.labels is None else torch.as_tensor(data.labels)
        self.labels = labels.to(self.images.device) if labels is not None else None
        self.permutations: dict[int, Tensor] = {}
        self.stream: tuple[str, ...] = ()
        self.file = announced_file(data, self.images)
        self.first_byte, self.row_bytes = data.offset, images[0].numel()

    def another(self, stream: str) -> "Batches":
        """The same images, held once, in an order and with flips of their own: a function of seed and stream."""
        found = copy.copy(self)
        found.stream, found.permutations = (stream,), {}
        return found

    def permutation(self, epoch: int) -> Tensor:
        """Order of the images in an epoch, int32 (N,); two are held, since a batch may straddle epochs."""
        if epoch not in self.permutations:
            rng = generator(self.seed, *self.stream, "permutation", epoch)
            self.permutations[epoch] = torch.randperm(self.n_images, generator=rng, dtype=torch.int32)
            for old in sorted(self.permutations, key=lambda e: abs(e - epoch))[2:]:
                del self.permutations[old]
        return self.permutations[epoch]

    def indices(self, start: int, n: int) -> Tensor:
        """Which images stand at the numbers start .. start + n - 1, int32 (n,)."""
        parts = []
        while n > 0:
            epoch, at = divmod(start, self.n_images)
            part = self.permutation(epoch)[at : at + n]
            parts.append(part)
            start, n = start + len(part), n - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def micro(self, start_image: int, j: int = 0, shard: Shard | None = None) -> tuple[Tensor, Tensor | None]:
        """This process's slice of micro-batch j of the global batch that starts at image number start_image.

        shard: of a batch of another size than usual. Returns x (n, C, H, W) in [-1, 1] and y, int64 (n,) classes, or
        (n, K) multi-hot, or None; both on the device, x and multi-hot y of the default dtype.
        """
        shard = self.shard if shard is None else shard
        block = shard.block(j)
        y = self.labels_of(start_image, block)
        return to_input(self.pixels(start_image, block, shard.batch_size), self.channels_last), y

    def pixels(self, start_image: int, block: slice, batch_size: int) -> Tensor:
        """The images of a block of the global batch, cut and mirrored, (n, H, W, C) on the device, as they are held."""
        x = self.gather(self.indices(start_image + block.start, block.stop - block.start))
        if max(self.places) > 1:
            x = cropped(x, self.corners(start_image, batch_size)[block], self.crop_size)
        return mirrored(x, self.flips(start_image, batch_size)[block]) if self.flip else x

    def labels_of(self, start_image: int, block: slice) -> Tensor | None:
        """Labels of the images of a block alone, None without labels."""
        if self.labels is None:
            return None
        return self.labels_at(self.indices(start_image + block.start, block.stop - block.start))

    def gather(self, indices: Tensor) -> Tensor:
        """Rows of the images, (n, H, W, C) on the device, in the type they are held in."""
        if self.in_place:
            return self.images.index_select(0, indices.to(self.images.device, non_blocking=True))
        # page-locked memory lets the copy run while the host goes on; torch reuses it only afterwards
        pinned = self.device.type == "cuda"
        shape = (len(indices), *self.images.shape[1:])
        rows = torch.empty(shape, dtype=self.images.dtype, pin_memory=pinned)
        torch.index_select(self.images, 0, indices, out=rows)
        return rows.to(self.device, non_blocking=True)

    def flips(self, start_image: int, batch_size: int) -> Tensor:
        """Which images of the global batch are mirrored, bool (B,)."""
        return (
            torch.rand(
                batch_size,
                generator=generator(self.seed, *self.stream, "flip", start_image),
                dtype=torch.float32,
            )
            < 0.5
        )

    def corners(self, start_image: int, batch_size: int) -> Tensor:
        """Top and left of the piece that is cut out of each image of the global batch, int64 (B, 2)."""
        source = generator(self.seed, *self.stream, "crop", start_image)
        return torch.stack([torch.randint(n, (batch_size,), generator=source) for n in self.places], dim=1)

    def labels_at(self, indices: Tensor) -> Tensor:
        """Labels of the images at these indices, on the device; multi-hot ones in the default dtype."""
        assert self.labels is not None, "images without labels"
        y = self.labels.index_select(0, indices.to(self.labels.device)).to(self.device, non_blocking=True)
        return y if y.ndim == 1 else y.to(torch.get_default_dtype())

    def announce(self, start_image: int, shard: Shard | None = None) -> None:
        """Tell the kernel which rows of the memmap come next, so that it fetches them meanwhile."""
        if self.file is None:
            return
        shard = self.shard if shard is None else shard
        for j in range(shard.accumulate):
            for row in self.indices(start_image + shard.block(j).start, shard.n).tolist():
                offset = self.first_byte + row * self.row_bytes
                os.posix_fadvise(self.file.fileno(), offset, self.row_bytes, os.POSIX_FADV_WILLNEED)


def announced_file(data: ImageData, images: Tensor) -> BinaryIO | None:
    """The memmap's file, open, where announcing reads to the kernel is possible and of use."""
    if data.path is None or images.device.type != "cpu" or not hasattr(os, "posix_fadvise"):
        return None
    return data.path.open("rb")


def goes_to_device(images: Tensor, device: torch.device, data_device: str) -> bool:
    """Whether device memory is to hold the images; auto: on CUDA, when a quarter of what is free suffices."""
    if data_device not in DATA_DEVICES:
        raise UserError(f"--data_device {data_device}: choose one of {', '.join(DATA_DEVICES)}")
    if device.type == "cpu" or data_device == "cpu":
        return False
    if data_device == "device":
        return True
    return device.type == "cuda" and images.nbytes <= MAX_SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]


def copied(images: Tensor, device: torch.device) -> Tensor:
    """All images in device memory, copied piecewise; raises UserError when they do not fit."""
    try:
        target = torch.empty(images.shape, dtype=images.dtype, device=device)
        for start in range(0, len(images), 4096):
            target[start : start + 4096] = images[start : start + 4096].to(device)
        return target
    except torch.OutOfMemoryError:
        size = images.nbytes / 2**30
        raise UserError(
            f"--data_device device: {size:.1f} GiB of images do not fit on {device}; use auto or cpu"
        ) from None


def cropped(x: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """x (n, H, W, C) cut to (h, w), each from its own top and left on; corners (n, 2), on the CPU."""
    height, width = size
    pairs = zip(x, corners.tolist(), strict=True)
    return torch.stack([image[top : top + height, left : left + width] for image, (top, left) in pairs])


def mirrored(x: Tensor, flips: Tensor) -> Tensor:
    """x (n, H, W, C) with the rows marked in flips (n,), on the CPU, turned left to right."""
    # both versions and a gather of whole rows: on a CPU 4x faster than torch.where, on CUDA no sync
    n = len(x)
    rows = torch.arange(n) + n * flips
    return torch.cat((x, x.flip(2))).index_select(0, rows.to(x.device, non_blocking=True))


def to_input(x: Tensor, channels_last: bool) -> Tensor:
    """uint8 (n, H, W, C) -> default dtype (n, C, H, W) in [-1, 1]; channels_last keeps memory order.

    Points are in that range already.
    """
    x = x.permute(0, 3, 1, 2)
    if x.is_floating_point():
        return x.to(torch.get_default_dtype())
    memory_format = torch.preserve_format if channels_last else torch.contiguous_format
    # 255 / 127.5 is exactly 2: white is exactly 1 in every float type
    return x.to(torch.get_default_dtype(), memory_format=memory_format).div_(127.5).sub_(1)
