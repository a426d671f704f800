"""Pictures of two sides for translation: decoded into the cache, and batches of both, cut and mirrored alike."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from errors import UserError
from images.archives import Stamp
from images.arrays import MAX_CHANNELS, Scale
from images.batches import Batches, ImageData, Shard, cropped, to_input
from images.cache import load_table, say
from images.decoding import Chunk, Shape, on_all_cores
from images.files import FileSource, fitting_of
from images.layout import Layout
from images.pairing import Found, Side, some_of
from images.scan import sample_of
from images.sources import FREE_SIZES, check_fit, legal_shape, selected
from images.survey import ImageFacts, all_facts
from modelling.layers import Size, as_size, image_shape, size_text
from ops.rng import key

ALIKE = 0.02  # by which the aspects of partners may differ: both were rounded to whole pixels
COLOURS = 3


def channels_of(found: Found) -> tuple[int, int]:
    """(source's, target's) by a look at some pictures: 1 for grey, 3 for colour, the number of an array's; the grey of
    the other side has 1, and `alone` takes both from its one side. UserError where none can be read."""
    seen = [None if side is None else channels_of_side(side) for side in found.sides]
    other = max(n for n in seen if n is not None)
    return tuple((1 if found.pairing == "grey" else other) if n is None else n for n in seen)


def channels_of_side(side: Side) -> int:
    """As in the pictures of training."""
    sample = sample_of(side.part("train"))
    if not sample.headers:
        raise UserError(f"{side.files.where}: no picture of side {side.letter} can be read: {sample.reason}")
    return sample.channels


# -- decoding --------------------------------------------------------------------------------------------------------


class SideSource(FileSource):
    """One split of a side as a source for the cache, in the order of its keys.

    check: called before anything is decoded; without: keys whose pictures are left out.
    """

    def __init__(
        self,
        side: Side,
        split: str,
        name: str,
        crop: str,
        scale: Scale | None,
        check: Callable[[], None],
        without: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(side.part(split, without), f"{name}-{split}-{side.letter}", crop, scale, side.half)
        self.side, self.split, self.check, self.without = side, split, check, without

    def stamp(self) -> list[Stamp | str]:
        """Names, sizes, times; which half, and which pictures in which order."""
        keys = sorted(self.side.splits[self.split].items())
        digest = blake2b(repr((keys, sorted(self.without))).encode(errors="backslashreplace"), digest_size=8)
        return [*super().stamp(), str(self.half), digest.hexdigest()]

    def chunks(self, shape: Shape) -> Iterator[Chunk]:
        """Decoded pictures; raises UserError also for partners of other shapes."""
        self.check()
        yield from super().chunks(shape)

    def layout(self, names: list[str]) -> Layout:
        """One split in the order of the keys."""
        keys = [self.side.key(self.split, name) for name in names]
        order = sorted(
            (i for i in range(len(names)) if keys[i] not in self.without), key=lambda i: (keys[i], names[i])
        )
        return Layout(order, {self.split: (0, len(order))})


def check_aspects(found: Found) -> None:
    """UserError where partners differ in aspect: they would be cut or stretched unlike each other."""
    if found.pairing != "paired" or found.there[0].half is not None:
        return
    unlike, n_pairs = [], 0
    for split in found.there[0].splits:
        one, other = (shapes_of(side, split) for side in found.there)
        pairs = [(k, one[k], other[k]) for k in sorted(one.keys() & other.keys())]
        unlike += [p for p in pairs if abs(p[1][0] * p[2][1] - p[2][0] * p[1][1]) > ALIKE * p[1][0] * p[2][1]]
        n_pairs += len(pairs)
    if unlike:
        unlike.sort()
        _, *sides = unlike[0]
        first = " and ".join(f"{height} high, {width} wide" for height, width in sides)
        raise UserError(
            f"{len(unlike):,} of {n_pairs:,} pairs have sides of other shapes: {some_of([p[0] for p in unlike])} (the "
            f"first: {first}): cut both to the same piece"
        )


def shapes_of(side: Side, split: str) -> dict[str, tuple[int, int]]:
    """Height and width of the pictures that can be read, by their keys."""
    return {
        side.key(split, member.name): (facts.height, facts.width)
        for part in on_all_cores(all_facts, side.part(split).members(), 2**16)
        for member, facts in part
        if isinstance(facts, ImageFacts)
    }


# -- loading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairSplit:
    """Training or validation: images of source and target, one as long as the other and in one order where paired.

    None: no images of its own, see Found; fingerprint: of both sides' pixels.
    """

    name: str
    pairing: str
    a: ImageData | None
    b: ImageData | None

    @property
    def there(self) -> list[ImageData]:
        """The sides that have images."""
        return [side for side in (self.a, self.b) if side is not None]

    @property
    def fingerprint(self) -> str:
        """Hash of the pixels of both."""
        parts = (self.pairing, *(None if side is None else side.fingerprint for side in (self.a, self.b)))
        return blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        """Images of the longer side."""
        return max(map(len, self.there))


@dataclass(frozen=True)
class Pairs:
    """Both splits of a set."""

    train: PairSplit
    val: PairSplit


def load_pairs(
    found: Found,
    *,
    img_size: Size,
    img_channels: tuple[int, int],
    load_size: Size | None = None,
    crop: str = "centre",
    value_range: Scale | Sequence[float] = (),
    cache_dir: str | Path | None = None,
    is_main: bool = True,
) -> Pairs:
    """The pictures of both sides, decoded once and cached.

    Those of training have load_size (None: img_size), of which pieces of img_size are cut later; those of validation
    have img_size at once, and the scale of training's. crop: a row of CROPS, by which pictures are brought to their
    size; value_range: as of load_dataset, of both sides; img_channels: of source and target. Partners of a picture that
    cannot be read are left out. Only the main process decodes, the others wait. UserError.
    """
    size = legal_shape(img_size, FREE_SIZES, "images")
    load = size if load_size is None else image_shape(load_size)
    if not all(low <= high and high in FREE_SIZES for low, high in zip(size, load, strict=True)):
        raise UserError(
            f"--load_size {size_text(as_size(load))}: pieces of --img_size {size_text(img_size)} are cut out of it, "
            f"so it must be at least that, and at most {FREE_SIZES[-1]}"
        )
    check_pair_channels(found, img_channels)
    scale = check_fit(crop, value_range or None)
    if is_main:
        for note in found.notes:
            say(note)
    check = cache(partial(check_aspects, found))

    def load_side(i: int, split: str, like: ImageData | None, without: frozenset[str]) -> ImageData | None:
        if (side := found.sides[i]) is None:
            return None
        known = scale if like is None or like.scale is None else like.scale
        source = SideSource(side, split, found.name, crop, known, check, without)
        shape = (*(load if split == "train" else size), img_channels[i])
        table = load_table(lambda: source, shape, cache_dir, is_main)
        return selected(table, split, found.name, fitting_of(crop, table.scale))

    def load_split(split: str, likes: Sequence[ImageData | None] = (None, None)) -> PairSplit:
        a, b = (load_side(i, split, likes[i], frozenset()) for i in (0, 1))
        if found.pairing == "paired" and (alone := without_partner(found, split, a, b)):
            if is_main:
                what = f"warning: {len(alone):,} pairs of {found.where} ({split}) are left out"
                say(f"{what}, one picture of which is missing or cannot be read")
            a, b = (load_side(i, split, likes[i], alone) for i in (0, 1))
            assert not without_partner(found, split, a, b), "they were left out"
        return PairSplit(found.name, found.pairing, a, b)

    train = load_split("train")
    return Pairs(train, load_split("val", (train.a, train.b)))


def loaded_shape(img_size: Size, load_size: int | None) -> tuple[int, int] | None:
    """(H, W) that pictures are brought to before pieces of img_size are cut out, its shorter side load_size; None where
    that is None."""
    sides = image_shape(img_size)
    return None if load_size is None else tuple(round(side * load_size / min(sides)) for side in sides)


def without_partner(found: Found, split: str, a: ImageData, b: ImageData) -> frozenset[str]:
    """Keys that one side alone has."""
    sides = zip(found.sides, (a, b), strict=True)
    one, other = ([side.key(split, name) for name in data.files] for side, data in sides)
    alone = frozenset(one) ^ frozenset(other)
    assert alone or one == other, "partners stand in one order"
    return alone


def check_pair_channels(found: Found, img_channels: tuple[int, int]) -> None:
    """UserError for numbers of channels that the sides cannot have."""
    for n, side in zip(img_channels, found.sides, strict=True):
        if not 1 <= n <= MAX_CHANNELS:
            raise UserError(
                f"{n} image channels: choose 1 (grey), 3 (colour), 4 (with alpha), up to {MAX_CHANNELS}"
            )
        if found.pairing == "grey" and n != (1 if side is None else COLOURS):
            raise UserError(
                f"--pairing grey: of pictures in colour are the channels {COLOURS} and their grey's 1, not "
                f"{img_channels[0]} and {img_channels[1]}: are the pictures of {found.where} in colour?"
            )


# -- batches ---------------------------------------------------------------------------------------------------------


class PairBatches:
    """Batches of source and target as a pure function of (seed, image number), cut for processes and micro-batches.

    Partners are shown together, mirrored together and cut at one place. Unpaired sides each have an order of their own
    over all their pictures, and mirrors and places of their own. img_size: of the pieces that are cut out at random
    (None: the pictures' own); shard None: for in_order alone. UserError as of Batches.
    """

    def __init__(
        self,
        split: PairSplit,
        shard: Shard | None,
        seed: int,
        flip: bool,
        device: torch.device | str,
        data_device: str = "auto",
        channels_last: bool = False,
        img_size: Size | None = None,
    ) -> None:
        self.split, self.pairing, self.channels_last = split, split.pairing, channels_last
        self.shard = Shard(1) if shard is None else shard
        seeds = (seed, key(seed, "target") if split.pairing == "unpaired" else seed)
        self.sides = [
            None
            if data is None
            else Batches(data, self.shard, own_seed, flip, device, data_device, channels_last, img_size)
            for data, own_seed in zip((split.a, split.b), seeds, strict=True)
        ]

    def micro(
        self, start: int, j: int = 0, shard: Shard | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(a, b) of this process in micro-batch j of the global batch that starts at image number start.

        shard: of a batch of another size than usual. (n, C, H, W) in [-1, 1] on the device, of the default dtype; None
        for what `alone` does not have.
        """
        shard = self.shard if shard is None else shard
        block = shard.block(j)
        return self.both(
            [None if s is None else s.pixels(start, block, shard.batch_size) for s in self.sides]
        )

    def in_order(self, first: int, n: int) -> tuple[Tensor | None, Tensor | None]:
        """(a, b) as the files stand, from number `first` on, the shorter side again from its start; unmirrored, the
        centre where they are larger than img_size, as those of validation are not."""
        return self.both([None if s is None else rows_in_order(s, first, n) for s in self.sides])

    def both(self, pixels: Sequence[Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
        """uint8 (n, H, W, C) of the sides as input for networks; one that is the grey of the other is made of it."""
        a, b = pixels
        if self.pairing == "grey":
            a, b = (luma(b) if a is None else a), (luma(a) if b is None else b)
        return tuple(None if x is None else to_input(x, self.channels_last) for x in (a, b))

    def announce(self, start: int, shard: Shard | None = None) -> None:
        """Have the pictures of a coming batch fetched."""
        for side in self.sides:
            if side is not None:
                side.announce(start, shard)


def rows_in_order(batches: Batches, first: int, n: int) -> Tensor:
    """Images first .. first + n - 1, again from the start after the last: (n, h, w, C), cut at the centre."""
    x = batches.gather(torch.arange(first, first + n) % batches.n_images)
    centre = torch.tensor([(places - 1) // 2 for places in batches.places])
    return cropped(x, centre.expand(n, 2), batches.crop_size)


def luma(x: Tensor) -> Tensor:
    """uint8 (n, H, W, 3) -> (n, H, W, 1): the grey of a colour by ITU-R BT.601, rounded, in Pillow's fixed point."""
    red, green, blue = x.to(torch.int32).unbind(-1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(torch.uint8)[..., None]
