"""A first look at own pictures before networks are built: their channels, and what to say of them."""

from pathlib import Path

from augmentation.ada import COLOURED
from errors import UserError, shown, tell
from images.archives import open_files
from images.batches import ImageData
from images.scan import Sample, sample_of
from images.sources import DATASETS
from modelling.layers import Size, image_shape
from ops.distributed import from_main
from settings import TrainConfig
from settings.derive import with_derived

MOSTLY = 0.5  # a share of the pictures


def with_channels(config: TrainConfig, *, fresh: bool) -> TrainConfig:
    """The settings of a run on own pictures with the channels that these have; says what may be amiss. UserError."""
    if config.data is None:
        return config

    def look() -> tuple[Sample, bool]:
        files = open_files(Path(config.data).expanduser())
        return sample_of(files), files.first_alone

    sample, first_alone = from_main(look)
    for line in orientation_note(sample, config.img_size):
        tell(line)
    if fresh:
        tell(flip_note(config))
    if config.img_channels is None and DATASETS[config.dataset].of_data:
        if not sample.headers:
            raise UserError(f"--data {shown(config.data)}: no picture can be read: {sample.reason}")
        config = with_derived(config, {"img_channels": sample.channels})
        if fresh and sample.has_alpha and sample.channels in COLOURED:
            tell("note: pictures have transparency, which is put on white; --img_channels 4 has it learned")
    if fresh and not first_alone:  # else they are counted all over, when they are read
        for line in channels_note(sample, channels_of(config, None)):
            tell(line)
    return config


def channels_note(sample: Sample, used: int) -> list[str]:
    """A warning where pictures have more channels than are used."""
    n = sum(header.channels > used for header in sample.headers)
    if not n:
        return []
    what = "and become grey" if used == 1 else f"of which {used} are used"
    return [
        f"warning: of {len(sample.headers):,} pictures looked at, {n:,} have up to {sample.channels} channels, {what}: "
        f"--img_channels {sample.channels} keeps them"
    ]


def flip_note(config: TrainConfig) -> str:
    """Whether pictures are mirrored, which is right for some sets alone."""
    now, other = ("", "--no-flip switches it off") if config.flip else ("not ", "--flip switches it on")
    return (
        f"note: the pictures of {config.name_of_data} are {now}mirrored at random, {other}: right where left and right "
        "may be swapped, as in faces and landscapes, wrong for letters, digits and maps"
    )


def orientation_note(sample: Sample, img_size: Size) -> list[str]:
    """A warning where the size lies and most pictures stand, or the other way round."""
    height, width = image_shape(img_size)
    share = sample.share_of(upright=height < width)
    if height == width or share <= MOSTLY:
        return []
    kind = "higher than wide" if height < width else "wider than high"
    return [
        f"warning: --img_size {height}x{width} is {height} high, {width} wide, and {share:.0%} of the pictures are "
        f"{kind}: --img_size {width}x{height} may be meant"
    ]


def channels_of(config: TrainConfig, images: ImageData | None) -> int:
    """Of the images that a run trains on."""
    if images is not None:
        return images.img_channels
    return DATASETS[config.dataset].img_channels if config.img_channels is None else config.img_channels


def shape_in_words(img_size: Size, channels: int) -> str:
    """A size that nobody takes for another: height first in figures, in words where it is no square."""
    height, width = image_shape(img_size)
    if height == width:
        return f"{height}x{width}x{channels}"
    return f"{height} high, {width} wide, {channels} channel{'s' * (channels > 1)}"
