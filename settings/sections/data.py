"""Which images, where they are and at what size, and what D sees of them."""

from dataclasses import dataclass
from typing import Any, ClassVar

from augmentation import AUGMENTATIONS, PIPES
from errors import UserError, shown
from images.arrays import MAX_CHANNELS
from images.decoding import CROPS
from images.scan import is_scale
from images.sources import DATASETS, parse_size, set_name
from modelling.layers import Size
from settings.section import Section, brief, flag


def kind_of(dataset: str) -> str:
    """What samples of a data set are: a row of KINDS."""
    return DATASETS[dataset].kind


def read_size(value: Any) -> Size:
    """A size from 64, "160x128" or [160, 128]; UserError."""
    try:
        return parse_size("x".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
    except ValueError as error:
        raise UserError(f"--img_size {brief(value)}: {shown(str(error))}") from None


@dataclass(frozen=True)
class DataSettings(Section):
    """The images."""

    title: ClassVar[str] = "data"

    dataset: str = flag("mnist", "which images", choices=lambda: DATASETS, usual=True)
    data: str | None = flag(
        None,
        "folder, .zip, .tar, .tar.gz or .npy of images in place of the dataset's own",
        usual=True,
        at_resume="free",
        path=True,
    )
    data_name: str | None = flag(None, "what they are called", at_resume="free", shown=False)
    split: str = flag("train", "which part to train on", choices=lambda: ("train", "val", "test", "all"))
    data_root: str = flag(
        "data",
        "where the dataset's own files stand or are downloaded to",
        usual=True,
        at_resume="free",
        path=True,
    )
    cache_dir: str | None = flag(
        None, "where decoded images are kept (default: the user's cache folder)", at_resume="free", path=True
    )
    data_device: str = flag(
        "auto",
        "where images stay in training",
        choices=lambda: ("auto", "cpu", "device"),
        at_resume="noticed",
    )
    img_size: int | tuple[int, int] | None = flag(
        None, "pixels: 64, or HEIGHTxWIDTH (default: the dataset's)", read=read_size, usual=True
    )
    img_channels: int | None = flag(
        None,
        "1 grey, 3 colour, 4 with alpha, or those of arrays (default: the dataset's; of gan_folder.py the pictures')",
        least=1,
        most=MAX_CHANNELS,
    )
    crop: str = flag(
        "centre",
        "how pictures of another aspect are fitted",
        choices=lambda: CROPS,
        usual=True,
    )
    value_range: tuple[float, ...] = flag(
        (), "LO HI: what becomes black and white of more than 8 bits (default: by all pictures)", signed=True
    )
    flip: bool = flag(False, "mirror each image with probability one half", usual=True)

    def check(self) -> None:
        """A range is two numbers."""
        if self.value_range and not is_scale(self.value_range):
            given = " ".join(f"{value:g}" for value in self.value_range)
            raise UserError(f"--value_range {given}: give two numbers, the smaller first")

    @property
    def name_of_data(self) -> str:
        """What the images are called in names of runs, protocols and generator/."""
        if self.data is None:
            return self.dataset
        return set_name(self.data) if self.data_name is None else self.data_name


@dataclass(frozen=True)
class AugmentationSettings(Section):
    """What happens to reals and fakes alike before D."""

    title: ClassVar[str] = "augmentation"

    augment: tuple[str, ...] = flag(
        (), "what D sees of reals and fakes alike", choices=lambda: AUGMENTATIONS, usual=True
    )
    ada_pipe: str = flag(
        "bgc", "ada's transforms: one kind, or the first letters of several", choices=lambda: PIPES
    )
    ada_p: float = flag(0.0, "ada's strength at the start, in [0, 1]", most=1)
    ada_target: float = flag(
        0.6, "mean sign of D's logits for reals that ada's strength is steered to", most=1
    )
    ada_interval: int = flag(4, "steps between moves of ada's strength; 0: it stays as --ada_p says", least=0)
    ada_kimg: float = flag(500.0, "thousands of images in which it can go from 0 to 1", above=0)

    def check(self) -> None:
        """Each augmentation once."""
        if len(set(self.augment)) < len(self.augment):
            raise UserError(f"--augment {' '.join(self.augment)}: each once")
