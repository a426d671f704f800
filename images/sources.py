"""Datasets: digits, MNIST and stacks of it, CIFAR-10, CelebA, points of the plane, any folder or archive of images."""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from errors import UserError, shown
from images.archives import Stamp, open_files, stamp_of
from images.arrays import MAX_CHANNELS, Scale
from images.batches import Batches, ImageData
from images.cache import ROWS, Source, Table, fingerprint, load_table, say
from images.decoding import CROPS, Chunk, Shape
from images.files import FileSource, fitting_of, with_fit
from images.layout import CELEBA_FOLDER, SPLIT_ORDER, Layout
from images.naming import set_stem
from images.points import load_points
from images.scan import is_scale
from metrics.mixture import MIXTURES
from modelling.layers import Size, as_size, image_shape, size_text
from ops.rng import generator

__all__ = ["DATASETS", "Batches", "Dataset", "ImageData", "load_dataset", "parse_size", "set_name"]

DIGITS = Path(__file__).resolve().parent.parent / "assets" / "digits.npz"
DIGITS_TRAIN = 1497  # the first of the 1,797; the last 300 are the test split
FREE_SIZES = range(4, 1025)  # heights and widths of images that are resized anyway
MNIST_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
MNIST_BY_HAND = (
    f"put {', '.join(MNIST_FILES)} (or their .gz) from https://ossci-datasets.s3.amazonaws.com/mnist/ "
    "into {root}/MNIST/raw"
)
STACKED = {"train": 128_000, "test": 26_000}  # images drawn for Stacked MNIST
CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
MAX_SET_NAME = 80  # bytes
CELEBA_TEXTS = ("list_attr_celeba.txt", "list_eval_partition.txt")


class ArraySource:
    """Images that a library decodes: read(train) -> (uint8 (N, h, w) or (N, h, w, C), classes (N,))."""

    n_images: int | None = None

    def __init__(
        self,
        name: str,
        folder: Path,
        files: Sequence[str],
        label_names: Sequence[str],
        read: Callable[[bool], tuple[np.ndarray, np.ndarray]],
    ) -> None:
        self.name, self.where, self.folder, self.files = name, str(folder), folder, files
        self.label_names, self.read = tuple(label_names), read
        self.labels: list[np.ndarray] = []

    def stamp(self) -> list[Stamp]:
        """Names, sizes, times."""
        return [stamp_of(self.folder / file, file) for file in self.files]

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images and int64 classes of train or test; raises UserError when the files are damaged."""
        try:
            images, labels = self.read(split == "train")
        except Exception as error:  # whatever the reader stumbles over in damaged files
            raise UserError(
                f"{self.name}: files in {self.where} are damaged ({error}): get them again"
            ) from error
        return images, np.asarray(labels, dtype=np.int64)

    def chunks(self, shape: Shape) -> Iterator[Chunk]:
        """Train, then test; raises UserError when the files are damaged."""
        self.labels = []
        for split in ("train", "test"):
            images, labels = self.arrays(split)
            self.labels.append(labels)
            names = [f"{split}/{i:05d}" for i in range(len(images))]
            yield Chunk(names, fitted(images, shape), [])

    def layout(self, names: list[str]) -> Layout:
        """Two splits with classes."""
        n_train = len(self.labels[0])
        splits = {"train": (0, n_train), "test": (n_train, len(names))}
        return Layout(list(range(len(names))), splits, np.concatenate(self.labels), self.label_names)


class StackedSource:
    """Stacked MNIST: three digits drawn at random as the red, green and blue of an image. arXiv:1712.04086.

    Class 100 a + 10 b + c shows the digits a, b, c; images of either split hold digits of that split of MNIST.
    """

    name = "stacked-mnist"

    def __init__(self, digits: ArraySource) -> None:
        self.digits, self.where = digits, digits.where
        self.n_images = sum(STACKED.values())
        self.labels: list[np.ndarray] = []

    def stamp(self) -> list[object]:
        """Names, sizes, times of MNIST's files, and how many images are drawn."""
        return [*self.digits.stamp(), *STACKED.items()]

    def chunks(self, shape: Shape) -> Iterator[Chunk]:
        """Train, then test, a few thousand at a time; raises UserError when MNIST's files are damaged."""
        if shape[2] != 3:
            raise UserError("stacked-mnist has a digit in each of 3 channels; it cannot be grey")
        self.labels = []
        for split, n in STACKED.items():
            images, classes = self.digits.arrays(split)
            source = generator(0, self.name, split)
            drawn = torch.randint(len(images), (n, 3), generator=source).numpy()
            self.labels.append(classes[drawn] @ np.array([100, 10, 1]))
            for start in range(0, n, ROWS):
                index = drawn[start : start + ROWS]
                names = [f"{split}/{start + i:06d}" for i in range(len(index))]
                # (n, 3, h, w) -> (n, h, w, 3)
                yield Chunk(names, fitted(np.moveaxis(images[index], 1, -1), shape), [])

    def layout(self, names: list[str]) -> Layout:
        """Two splits with 1000 classes."""
        splits = {"train": (0, STACKED["train"]), "test": (STACKED["train"], len(names))}
        classes = tuple(f"{i:03d}" for i in range(1000))
        return Layout(list(range(len(names))), splits, np.concatenate(self.labels), classes)


def padding(height: int, width: int, shape: Shape) -> str | None:
    """What `fitted` does to images of a size, None where they have the shape's already."""
    size = f"{shape[0]} x {shape[1]}"
    return None if (height, width) == shape[:2] else f"{height} x {width} px, zeros around them to {size}"


def fitted(images: np.ndarray, shape: Shape) -> np.ndarray:
    """uint8 (N, h, w[, c]) -> (N, H, W, C): zeros around what is smaller, grey repeated, colours weighed."""
    height, width, channels = shape
    images = images if images.ndim == 4 else images[..., None]
    if images.shape[3] == 3 and channels == 1:
        red, green, blue = (images[..., i].astype(np.uint32) for i in range(3))
        # Rec. 601
        grey = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
        images = grey.astype(np.uint8)[..., None]
    top, left = (height - images.shape[1]) // 2, (width - images.shape[2]) // 2
    below, right = height - images.shape[1] - top, width - images.shape[2] - left
    images = np.pad(images, ((0, 0), (top, below), (left, right), (0, 0)))
    return np.broadcast_to(images, (*images.shape[:3], channels)).copy()


def load_digits(shape: Shape, split: str) -> ImageData:
    """The embedded 8x8 digits, enlarged smoothly; train: the first 1,497, test: the last 300, or all.

    They stay as wide as high: a rectangle is black on either side of them.
    """
    with np.load(DIGITS) as file:
        small, labels = file["images"], file["labels"].astype(np.int64)
    inner = min(shape[:2]) * 7 // 8  # a margin as MNIST's, since the strokes reach the border
    large = [
        np.asarray(Image.fromarray(image).resize((inner, inner), Image.Resampling.BICUBIC)) for image in small
    ]
    ranges = {"train": (0, DIGITS_TRAIN), "test": (DIGITS_TRAIN, len(labels)), "all": (0, len(labels))}
    start, stop = in_split(ranges, split, "digits")
    images, labels = fitted(np.stack(large), shape)[start:stop], labels[start:stop]
    names = tuple(str(digit) for digit in range(10))
    how = f"8 x 8 px, bicubic to {padding(inner, inner, shape)}"
    return ImageData(images, labels, names, fingerprint(images, labels, names), "digits", fitting=how)


def find_mnist(root: Path) -> ArraySource | None:
    """MNIST's four unpacked files under root/MNIST/raw, None while they are not there."""
    folder = root / "MNIST" / "raw"
    if not all((folder / file).is_file() for file in MNIST_FILES):
        return None

    def read(train: bool) -> tuple[np.ndarray, np.ndarray]:
        from torchvision.datasets import MNIST

        mnist = MNIST(root, train=train)
        return mnist.data.numpy(), mnist.targets.numpy()

    return ArraySource("mnist", folder, MNIST_FILES, [str(i) for i in range(10)], read)


def download_mnist(root: Path) -> None:
    """Get MNIST through torchvision, which also unpacks .gz files that are there."""
    from torchvision.datasets import MNIST

    MNIST(root, download=True)


def find_stacked_mnist(root: Path) -> Source | None:
    """Stacked MNIST from MNIST's files under root, None while they are not there."""
    digits = find_mnist(root)
    return None if digits is None else StackedSource(digits)


def find_cifar10(root: Path) -> Source | None:
    """CIFAR-10's python files under root/cifar-10-batches-py, None while they are not there."""
    folder = root / "cifar-10-batches-py"
    if not all((folder / file).is_file() for file in CIFAR10_FILES):
        return None
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

    def read(train: bool) -> tuple[np.ndarray, np.ndarray]:
        from torchvision.datasets import CIFAR10

        cifar10 = CIFAR10(root, train=train)
        return cifar10.data, np.array(cifar10.targets)

    return ArraySource("cifar10", folder, CIFAR10_FILES, names, read)


def download_cifar10(root: Path) -> None:
    """Get CIFAR-10 through torchvision, which also unpacks cifar-10-python.tar.gz if it is there."""
    from torchvision.datasets import CIFAR10

    CIFAR10(root, download=True)


def find_celeba(root: Path) -> Source | None:
    """CelebA under root/celeba or root: the .zip or folder img_align_celeba and list_attr_celeba.txt."""
    for folder in (root / "celeba", root):
        if not (folder / CELEBA_TEXTS[0]).is_file():
            continue
        for images in (folder / CELEBA_FOLDER, folder / f"{CELEBA_FOLDER}.zip"):
            if images.is_dir() or (images.is_file() and images.stat().st_size):
                return FileSource(open_files(images), "celeba")
    return None


def download_celeba(root: Path) -> None:
    """Get CelebA's images and lists from Google Drive by torchvision's ids and checksums."""
    if importlib.util.find_spec("gdown") is None:
        raise RuntimeError("downloading it from Google Drive needs the package gdown: pip install gdown")
    from torchvision.datasets import CelebA
    from torchvision.datasets.utils import download_file_from_google_drive

    for file_id, md5, filename in CelebA.file_list:
        if filename in (f"{CELEBA_FOLDER}.zip", *CELEBA_TEXTS):
            download_file_from_google_drive(file_id, str(root / "celeba"), filename, md5)


@dataclass(frozen=True)
class Kind:
    """What the samples of a data set are.

    channels: how many they can have, those of --data aside; without: settings that mean nothing for them, each with the
    reason, {dataset} filled in.
    """

    channels: tuple[int, ...]
    without: Mapping[str, str] = field(default_factory=dict)


_NO_IMAGES = "{dataset} is of points, not of images"
_OF_MIXTURE = "the points of {dataset} are held against its mixture"
KINDS = {
    "images": Kind((1, 3)),
    "points": Kind(
        (2,),
        {"data": "{dataset} is drawn, not read"}
        | dict.fromkeys(("flip", "augment", "crop", "img_channels", "value_range"), _NO_IMAGES)
        | dict.fromkeys(("extractor", "metric_weights", "metrics"), _OF_MIXTURE),
    ),
}


@dataclass(frozen=True)
class Dataset:
    """A row of the table: defaults, legal sizes, and how to find its files and get them.

    img_sizes: legal heights and widths; find(root): the source,
    or None while files are missing; download(root): may raise anything; by_hand: what to do when that failed,
    {root} filled in. make(shape, split): the images of a data set that needs no files, find is None then; kind: a row
    of KINDS, and of VIEWS in generation/views.py, which says how samples are drawn and scored. of_data: its images are
    those of --data, in their own channels.
    """

    img_size: int
    img_channels: int
    img_sizes: Sequence[int]
    find: Callable[[Path], Source | None] | None = None
    download: Callable[[Path], None] | None = None
    by_hand: str = ""
    make: Callable[[Shape, str], ImageData] | None = None
    kind: str = "images"
    side: int | None = None
    of_data: bool = False

    @property
    def of_pictures(self) -> bool:
        """Whether its own images are picture files of any size, which are cropped."""
        return self.find is not None and self.side is None


def needs_data(shape: Shape, split: str) -> ImageData:
    """UserError: there are no images but those that are named."""
    raise UserError("--dataset folder: name a folder, .zip, .tar, .tar.gz or .npy of images with --data")


DATASETS = {
    "mnist": Dataset(32, 1, (28, 32), find_mnist, download_mnist, MNIST_BY_HAND, side=28),
    "stacked-mnist": Dataset(32, 3, (28, 32), find_stacked_mnist, download_mnist, MNIST_BY_HAND, side=28),
    "digits": Dataset(32, 1, (16, 32), make=load_digits),
    "cifar10": Dataset(
        32, 3, (32,), find_cifar10, download_cifar10,
        "put cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html into {root}",
        side=32,
    ),
    "celeba": Dataset(
        64, 3, range(32, 257), find_celeba, download_celeba,
        f"download {CELEBA_FOLDER}.zip (1.3 GB) and {CELEBA_TEXTS[0]} in a browser from "
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (Drive over its quota: again after 24 hours) "
        f"and put both into {{root}}/celeba, as {{root}}/celeba/{CELEBA_FOLDER}.zip and "
        f"{{root}}/celeba/{CELEBA_TEXTS[0]} (or unpacked: {{root}}/celeba/{CELEBA_FOLDER}/000001.jpg ...)",
    ),
    "folder": Dataset(64, 3, FREE_SIZES, make=needs_data, of_data=True),
    **{
        name: Dataset(1, 2, (1,), make=lambda _, split, name=name: load_points(name, split), kind="points")
        for name in MIXTURES
    },
}  # fmt: skip


def parse_size(text: str) -> Size:
    """Size from its text: "64" and "64x64" -> 64, "160x128" -> (160, 128), height first.

    ValueError for anything else.
    """
    match = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no size: give 64 for a square, or 160x128 for height x width")
    return as_size([int(side) for side in match.groups(match[1])])


def sizes_text(sizes: Sequence[int]) -> str:
    """Legal sizes for a message."""
    return f"{sizes[0]}..{sizes[-1]}" if isinstance(sizes, range) else ", ".join(map(str, sizes))


def legal_shape(img_size: Size, sizes: Sequence[int], whose: str) -> tuple[int, int]:
    """(H, W) of a size; raises UserError that names the nearest unless both are among the legal sides."""
    sides = image_shape(img_size)
    if not all(side in sizes for side in sides):
        nearest = as_size([min(sizes, key=lambda size, side=side: abs(size - side)) for side in sides])
        raise UserError(
            f"--img_size {size_text(img_size)}: {whose} can be {sizes_text(sizes)}"
            f"{'' if isinstance(img_size, int) else ' a side'}; the nearest is {size_text(nearest)}"
        )
    return sides


def in_split(splits: dict[str, tuple[int, int]], split: str, name: str) -> tuple[int, int]:
    """[start, stop) of a split; raises UserError naming those that are there."""
    if split not in splits:
        raise UserError(f"{name} has no split {split!r}; it has {', '.join(splits)}")
    return splits[split]


def set_name(path: str | Path) -> str:
    """What a set of own images is called: by its folder or archive, in letters, digits, dots and hyphens.

    Never as a row of DATASETS is, whose images others know.
    """
    stem = set_stem(os.path.basename(os.path.abspath(Path(path).expanduser())))
    safe = stem.encode()[:MAX_SET_NAME].decode(errors="ignore") or "images"
    return f"{safe}-files" if safe.lower() in DATASETS else safe


def selected(table: Table, split: str, name: str, fitting: str | None) -> ImageData:
    """One split of an open cache; fitting: see ImageData."""
    start, stop = in_split(table.splits | {"all": (0, len(table.images))}, split, name)
    return ImageData(
        images=table.images[start:stop],
        labels=None if table.labels is None else table.labels[start:stop],
        label_names=table.label_names,
        fingerprint=table.fingerprints[split],
        name=name,
        files=table.files[start:stop],
        path=table.path,
        offset=table.images.offset + start * table.images[0].nbytes,
        fitting=fitting,
        scale=table.scale,
    )


def obtain(name: str, root: Path, is_main: bool) -> Callable[[], Source | None]:
    """How to find a dataset's files under root, after the main process made sure that they are there.

    Raises UserError with the manual steps when they are missing or broken and cannot be downloaded.
    """
    row = DATASETS[name]
    assert row.find is not None

    def find() -> Source | None:
        try:
            return row.find(root)
        except UserError as error:
            if not is_main:  # half a download; the main process will say what is wrong
                return None
            raise UserError(
                f"{name}: {error.for_command_line}. By hand: {row.by_hand.format(root=root)}"
            ) from error

    if not is_main or find() is not None:
        return find
    if row.download is None:
        raise UserError(f"{name} is not in {root.absolute()}. By hand: {row.by_hand.format(root=root)}")
    say(f"{name} is not in {root}: downloading")
    try:
        row.download(root)
        failure = None if find() is not None else "the download left no usable files"
    except UserError:
        raise
    except Exception as error:  # no network, quota, no permission, a wrong checksum, ...
        failure = " ".join(str(error).split()) or type(error).__name__
    if failure:
        raise UserError(
            f"{name} is not in {root.absolute()} and could not be downloaded ({failure}). By hand: "
            f"{row.by_hand.format(root=root)}; or name another place with --data_root, or any folder, "
            ".zip or .tar.gz of images with --data"
        )
    return find


def load_dataset(
    name: str,
    *,
    img_size: Size,
    img_channels: int,
    split: str = "train",
    data_root: str | Path | None = None,
    data: str | Path | None = None,
    cache_dir: str | Path | None = None,
    crop: str = "centre",
    value_range: Scale | None = None,
    is_main: bool = True,
) -> ImageData:
    """A dataset's images of a size, a square's side or (H, W), decoded once and cached.

    Image files are cut to the largest centred piece of that aspect, or as another crop says, a row of CROPS, and
    resized; what is no file of its own is padded. Pictures of more than 8 bits are read by one scale: value_range
    becomes 0 to 255, None for what the values of all of them ask for. split: "train", "test", "val" where there is one,
    or "all"; data_root: where the dataset's own files stand or are downloaded to (None: ./data); data: a folder or
    archive of images in place of them, which then bear any name, and have any number of channels; cache_dir: None is
    the user's cache folder. Only the main process downloads and builds, the others wait. Raises UserError.
    """
    row = DATASETS.get(name)
    if row is None and data is None:
        raise UserError(f"--dataset {name}: choose one of {', '.join(DATASETS)}")
    kind = KINDS["images" if row is None else row.kind]
    if data is not None and "data" in kind.without:
        raise UserError(f"--data {data}: {kind.without['data'].format(dataset=name)}; leave the flag out")
    if data is None:
        sides = legal_shape(img_size, row.img_sizes, name)
    else:
        sides = legal_shape(img_size, FREE_SIZES, "images of --data")
    check_channels(img_channels, kind, data is not None)
    value_range = check_fit(crop, value_range)
    if split not in (*SPLIT_ORDER, "all"):
        raise UserError(f"split {split!r}: choose one of {', '.join(SPLIT_ORDER)}, all")
    shape = (*sides, img_channels)
    if data is not None:
        if not str(data):
            raise UserError("--data is empty: name a folder or archive of images, or leave it out")
        source = FileSource(open_files(Path(data).expanduser()), name, crop, value_range)
        table = load_table(lambda: source, shape, cache_dir, is_main)
    elif row.make is not None:
        return row.make(shape, split)
    else:
        find = obtain(name, Path("data" if data_root is None else data_root).expanduser(), is_main)
        table = load_table(lambda: with_fit(find(), crop, value_range), shape, cache_dir, is_main)
    cut = data is not None or row.of_pictures
    return selected(
        table, split, name, fitting_of(crop, table.scale) if cut else padding(row.side, row.side, shape)
    )


def check_fit(crop: str, value_range: Scale | Sequence[float] | None) -> Scale | None:
    """The scale as two floats; UserError for a crop that nobody knows, and for what is no scale."""
    if not isinstance(crop, str) or crop not in CROPS:
        raise UserError(f"--crop {shown(str(crop), 80)}: choose one of {', '.join(CROPS)}")
    if value_range is not None and not is_scale(value_range):
        raise UserError(f"--value_range {shown(str(value_range), 80)}: give two numbers, the smaller first")
    return None if value_range is None else (float(value_range[0]), float(value_range[1]))


def check_channels(img_channels: int, kind: Kind, own: bool) -> None:
    """UserError for a number of channels that the samples cannot have; own: they are picture files of any kind."""
    if img_channels in kind.channels or own and 1 <= img_channels <= MAX_CHANNELS:
        return
    if own:
        raise UserError(
            f"--img_channels {img_channels}: choose 1 (grey), 3 (colour), 4 (with alpha), up to {MAX_CHANNELS}"
        )
    raise UserError(f"{img_channels} image channels: choose 1 (grey) or 3 (colour)")
