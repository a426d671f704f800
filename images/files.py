"""Picture files of a folder or archive as a source for the cache."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np

from errors import shown
from images.archives import Files, Stamp
from images.arrays import Scale
from images.cache import PLAIN, Source, say
from images.decoding import CROPS, BadImage, Chunk, Fit, Member, Shape, decode_all
from images.layout import Layout, read_layout
from images.naming import UNREAD
from images.scan import header_of, range_of_set, range_text

LOOKED_EACH = 8


class FileSource:
    """Images of a folder or archive as a source for the cache.

    crop: a row of CROPS; scale: what becomes 0 and 255 of more than 8 bits, None for what the values of all pictures
    ask for; half: see Fit.
    """

    def __init__(
        self,
        files: Files,
        name: str,
        crop: str = "centre",
        scale: Scale | None = None,
        half: str | None = None,
    ) -> None:
        self.files, self.name, self.where = files, name, files.where
        self.crop, self.given, self.scale, self.half = crop, scale, None, half
        usual = crop == "centre" and scale is None
        self.how = PLAIN if usual else f"{crop}, {scale}"

    @property
    def n_images(self) -> int | None:
        """Number of image files where it is known before reading."""
        return self.files.n_images

    def stamp(self) -> list[Stamp]:
        """Names, sizes, times."""
        return self.files.stamp()

    def chunks(self, shape: Shape) -> Iterator[Chunk]:
        """Decoded images; raises UserError on a damaged or hostile archive."""
        if (found := range_of_set(self.files, shape[2])) is not None:
            self.scale = found.scale if self.given is None else self.given
            say(f"{self.where}: {range_text(found, self.scale)}")
        elif self.given is not None:
            say(f"note: no picture of {self.where} has more than 8 bits: --value_range changes nothing")
        members, colours = self.files.members(), Counter[bool]()
        if shape[2] == 1 and self.files.first_alone:
            members = counting_colours(members, colours)
        yield from decode_all(members, shape, Fit(self.crop, self.scale, self.half))
        if colours[True]:
            say(
                f"warning: of {colours.total():,} pictures looked at all over {self.where}, {colours[True]:,} are in "
                "colour and become grey: --img_channels 3 keeps the colours"
            )
        yield Chunk([], np.empty((0, *shape), np.uint8), self.files.problems)

    def layout(self, names: list[str]) -> Layout:
        """Splits and labels by folders and label lists; says what was found."""
        layout = read_layout(names, self.files.texts, self.files.sides, self.files.by_dot)
        layout.notes += unread_notes(self.files)
        if strays := sorted(self.files.strays):
            some = ", ".join(shown(name, 80) for name in strays[:3]) + (", ..." if len(strays) > 3 else "")
            layout.notes.append(
                f"warning: left out, since beside picture files: {len(strays):,} .npy, {some} (a folder of their own "
                "makes them a set)"
            )
        if self.files.ignored:
            counts = ", ".join(
                f"{n:,} {shown(suffix, 40)}" for suffix, n in self.files.ignored.most_common(5)
            )
            layout.notes.append(f"{self.where}: files that are no images ignored: {counts}")
        kind = "no labels" if layout.labels is None else f"{len(layout.label_names)} labels"
        splits = ", ".join(f"{split} {b - a:,}" for split, (a, b) in layout.splits.items())
        layout.notes.append(f"{self.where}: {splits} images, {kind}")
        return layout


def unread_notes(files: Files) -> list[str]:
    """A warning for each kind of pictures that are not read here."""
    left = {suffix: n for suffix, n in files.ignored.items() if suffix in UNREAD}
    return [
        f"warning: {n:,} files in {shown(suffix)} are not read here: {UNREAD[suffix]}"
        for suffix, n in left.items()
    ]


def counting_colours(members: Iterable[Member], counts: Counter[bool]) -> Iterator[Member]:
    """The members; `counts` tells of one in LOOKED_EACH whether it has several channels."""
    for i, member in enumerate(members):
        if i % LOOKED_EACH == 0 and isinstance(member.data, bytes):
            with suppress(BadImage):  # which is told when it is decoded
                counts[header_of(member.data).channels > 1] += 1
        yield member


def fitting_of(crop: str, scale: Scale | None) -> str:
    """How image files were brought to a size and to 8 bits, for protocols."""
    return CROPS[crop].text + ("" if scale is None else f", values {scale[0]:g} to {scale[1]:g} as 0 to 255")


def with_fit(source: Source | None, crop: str, scale: Scale | None) -> Source | None:
    """A data set's own source, its picture files brought to their size as the settings say."""
    return FileSource(source.files, source.name, crop, scale) if isinstance(source, FileSource) else source
