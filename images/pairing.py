"""What two sides of pictures there are under one path or two, which is training's and validation's, and who is whose
partner."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from statistics import median

from errors import UserError, shown
from images.archives import LINK, Files, open_files
from images.arrays import SUFFIX
from images.files import unread_notes
from images.labels import stem_of_sample
from images.layout import SPLIT_ORDER, SPLITS, say_left_out, strip_root, take_splits
from images.naming import is_text, stray_arrays
from images.scan import sample_of, scan
from images.sources import set_name

PAIRINGS = ("paired", "unpaired", "grey", "alone")
DIRECTIONS = ("AtoB", "BtoA")
TENTH = 10  # one picture in so many is held out where no folder says which
WIDE = 1.8  # times as wide as high: most files of pairs side by side are, and photographs are not
LOOKED_AT = 32  # pictures, for whether they are pairs side by side
NAMED = 3  # pictures that a message names
# trainA, test_b, A: a folder of one side, with or without the name of a split
_SIDE = re.compile(r"(?:([a-z]+?)[-_. ]?)?([ab])", re.IGNORECASE)

Paths = Mapping[
    str, tuple[str, ...]
]  # by the name of a file, what its place tells of it: folders and base name


@dataclass(frozen=True)
class Side:
    """The pictures of one side.

    letter: A or B; splits: train and val, each with the keys of its files by their names: partners have one key, and
    pictures are shown in the keys' order; half: of each file, left or right, None for all of it.
    """

    letter: str
    files: Files
    splits: Mapping[str, Mapping[str, str]]
    half: str | None = None

    def part(self, split: str, without: frozenset[str] = frozenset()) -> Files:
        """The files of a split, but for those of some keys."""
        names = {name for name, key in self.splits[split].items() if key not in without}
        return self.files.part(names.__contains__, f"{self.files.where} ({split}, {self.letter})")

    def key(self, split: str, name: str) -> str:
        """Of a picture, which may be one of a stack: cats/000007.npy of cats.npy."""
        keys = self.splits[split]
        if name in keys:
            return keys[name]
        stack, _, number = name.rpartition("/")
        return f"{keys[stack + SUFFIX]}/{number}"


@dataclass(frozen=True)
class Found:
    """What there is to learn a translation from.

    sides: source and target; None for one that is no file's: the grey of the other, or what `alone` does not need;
    name: of the set; notes: lines for the user.
    """

    pairing: str
    name: str
    sides: tuple[Side | None, Side | None]
    notes: Sequence[str] = ()

    @property
    def there(self) -> list[Side]:
        """The sides that are files."""
        return [side for side in self.sides if side is not None]

    @property
    def where(self) -> str:
        """The path, or both."""
        return " and ".join(dict.fromkeys(side.files.where for side in self.there))


def find_pairs(
    data: Path, data_b: Path | None = None, pairing: str = "paired", direction: str = "AtoB"
) -> Found:
    """The pictures of both sides, by names alone, but for a look at a few where they may stand side by side.

    data: a folder or archive with pairs side by side, A on the left, or with folders A and B (trainA and testB, train/A
    and val/B, A/train, ...), or with side A alone where data_b has side B. pairing: paired, whose partners bear one
    name; unpaired; grey, where B is all the pictures and A their grey; alone, where B is all the pictures and A is
    nothing. direction: BtoA has B as the source. Validation is by the folders val, else test, else a tenth by a hash of
    the names. UserError for partners that are missing, a side that is empty, two pictures of one name on a side.
    """
    for flag, given, known in (("pairing", pairing, PAIRINGS), ("direction", direction, DIRECTIONS)):
        if given not in known:
            raise UserError(f"--{flag} {shown(str(given), 80)}: choose one of {', '.join(known)}")
    notes: list[str] = []
    one_side = pairing in ("grey", "alone")
    if one_side and data_b is not None:
        raise UserError(f"--data_b {shown(str(data_b))}: {pairing} has pictures of one side, those of --data")
    name = set_name(data) if data_b is None else f"{set_name(data)}+{set_name(data_b)}"
    files, names = listed(data, notes)
    if one_side:
        sides = None, all_of_it("B", files, names, notes)
    elif data_b is not None:
        sides = all_of_it("A", files, names, notes), all_of_it("B", *listed(data_b, notes), notes)
    else:
        sides = sides_in(files, names, pairing, notes)
    if pairing == "paired" and sides[0].half is None:
        sides = joined(*sides)
    sides = tuple(None if side is None else with_validation(side, notes) for side in sides)
    notes.append(f"{name}: {summary(pairing, sides)}")
    return Found(pairing, name, sides if direction == "AtoB" else sides[::-1], list(dict.fromkeys(notes)))


# -- which side ------------------------------------------------------------------------------------------------------


def listed(path: Path, notes: list[str]) -> tuple[Files, list[str]]:
    """A folder or archive, and the names of all pictures in it. UserError where there are none."""
    files = open_files(Path(path).expanduser())
    pictures = files.part(lambda name: not is_text(name))
    names = [name for name, _ in scan(pictures)]
    notes += unread_notes(pictures)
    if links := [name for name, reason in pictures.problems if reason.startswith(LINK)]:
        notes.append(
            f"warning: {files.where}: links are not followed and left out: {len(links):,}, {some_of(links)}"
        )
    if not names:
        raise UserError(f"{files.where} holds no images")
    return files, names


def paths_of(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The folders and the base name of each."""
    return {name: tuple(name.split("/")) for name in names}


def side_named(folder: str) -> tuple[str | None, str] | None:
    """(split or None, A or B) of a folder that is a side by its name; None for others."""
    found = _SIDE.fullmatch(folder)
    if found is None:
        return None
    word, letter = (found[1] or "").lower(), found[2].upper()
    return (SPLITS.get(word), letter) if word in ("", *SPLITS) else None


def by_side(names: list[str]) -> dict[str, tuple[str | None, str, tuple[str, ...]]]:
    """(split, A or B, path without the folder that says so) of what stands in a side's folder."""
    full = [tuple(name.split("/")) for name in names]
    # a folder in which all stand is no side, but where there is no other
    for paths in (strip_root(full), full):
        found = {}
        for name, path in zip(names, paths, strict=True):
            k = next((k for k, folder in enumerate(path[:-1]) if side_named(folder) is not None), None)
            if k is not None:
                found[name] = (*side_named(path[k]), path[:k] + path[k + 1 :])
        if found:
            return found
    return {}


def all_of_it(letter: str, files: Files, names: list[str], notes: list[str]) -> Side:
    """A side that is all pictures of a path, in folders of sides or not."""
    found = by_side(names)
    if len(found) < len(names):
        return side_of(letter, files, split_paths(paths_of(names), notes))
    given = {name: split for name, (split, _, _) in found.items()}
    return side_of(letter, files, split_paths({name: found[name][2] for name in names}, notes, given))


def sides_in(files: Files, names: list[str], pairing: str, notes: list[str]) -> tuple[Side, Side]:
    """Both sides under one path: of folders A and B, or side by side. UserError."""
    found = by_side(names)
    if not found:
        return side_by_side(files, names, pairing, notes)
    say_left_out([name for name in names if name not in found], "the folders A and B", notes)
    given = {name: split for name, (split, _, _) in found.items()}
    paths = {letter: {n: path for n, (_, its, path) in found.items() if its == letter} for letter in "AB"}
    for full, empty in ("AB", "BA"):
        if not paths[empty]:
            raise UserError(
                f"{files.where} has {len(paths[full]):,} pictures of side {full}, such as "
                f"{shown(next(iter(paths[full])), 80)}, and none of side {empty}: put them into folders named so, as "
                "trainA and trainB"
            )
    return tuple(side_of(letter, files, split_paths(paths[letter], notes, given)) for letter in "AB")


def side_by_side(files: Files, names: list[str], pairing: str, notes: list[str]) -> tuple[Side, Side]:
    """Both sides of files that each show two pictures, A on the left; UserError where they are not wide enough."""
    headers = sample_of(files.part(set(names).__contains__), LOOKED_AT).headers
    if not headers or median(header.width / header.height for header in headers) < WIDE:
        seen = f", and its pictures ({headers[0].height} high, {headers[0].width} wide) are none side by side"
        raise UserError(
            f"{files.where} has no folders of two sides, as trainA and trainB{seen if headers else ''}: --pairing "
            f"{pairing} needs two, or the folder of side B as --data_b"
        )
    splits = split_paths(paths_of(names), notes)
    notes.append(
        f"{files.where}: each file is taken for two pictures side by side, A on the left, B on the right"
    )
    return side_of("A", files, splits, "left"), side_of("B", files, splits, "right")


def side_of(letter: str, files: Files, splits: Mapping[str, Paths], half: str | None = None) -> Side:
    """A side of files by split; keys are their places below the folders that all share. Arrays beside more pictures
    are left out."""
    keys = {}
    for split, paths in splits.items():
        strays = stray_arrays(list(paths))
        kept = [name for name in paths if name not in strays]
        places = strip_root([paths[name] for name in kept])
        keys[split] = {name: "/".join(place) for name, place in zip(kept, places, strict=True)}
    return Side(letter, files, keys, half)


# -- which split -----------------------------------------------------------------------------------------------------


def split_paths(
    paths: Paths, notes: list[str], given: Mapping[str, str | None] | None = None
) -> dict[str, dict[str, tuple[str, ...]]]:
    """The paths by split, without its folder: as given by name, where any are, or by folders named so."""
    names = list(paths)
    split_of, below = [(given or {}).get(name) for name in names], list(paths.values())
    if not any(split_of):
        split_of, below = take_splits(below)
    say_left_out(
        [name for name, split in zip(names, split_of, strict=True) if split is None], "the splits", notes
    )
    splits = defaultdict(dict)
    for name, split, path in zip(names, split_of, below, strict=True):
        if split is not None:
            splits[split][name] = path
    return {split: splits[split] for split in SPLIT_ORDER if split in splits}


def with_validation(side: Side, notes: list[str]) -> Side:
    """The side with train and val alone: val is the folder of that name, else test, else a tenth of all pictures.
    UserError for a single picture."""
    splits = side.splits
    held = splits.get("val") or splits.get("test")
    if "train" in splits and held:
        if len(splits) == len(SPLIT_ORDER):
            notes.append(f"{side.files.where}: validation is by the folder val; that of test is left alone")
        return replace(side, splits={"train": splits["train"], "val": held})
    every = {name: key for keys in splits.values() for name, key in keys.items()}
    if len(set(every.values())) < 2:
        raise UserError(
            f"{side.files.where} has 1 picture of side {side.letter}, by name: at least 2 are "
            "needed, one to validate"
        )
    out = held_out(every.values())
    notes.append(
        f"{side.files.where} has no folder for validation: a tenth of all, chosen by name, is kept for it"
    )
    parts = {"train": False, "val": True}
    return replace(
        side,
        splits={
            s: {n: key for n, key in every.items() if (key in out) == is_val} for s, is_val in parts.items()
        },
    )


def held_out(keys: Iterable[str]) -> set[str]:
    """About a tenth of the keys, each by a hash of its own: one more picture moves no other. At least one, not all."""
    ranks = {
        key: int.from_bytes(blake2b(key.encode(errors="backslashreplace"), digest_size=8).digest(), "big")
        for key in keys
    }
    found = {key for key, rank in ranks.items() if rank % TENTH == 0}
    return found if 0 < len(found) < len(ranks) else {min(ranks, key=ranks.__getitem__)}


# -- partners --------------------------------------------------------------------------------------------------------


def joined(a: Side, b: Side) -> tuple[Side, Side]:
    """Both sides with keys that partners share, their places without suffix. UserError for a picture that has no
    partner, or several."""
    a, b = (replace(side, splits={split: stems(side, split) for split in side.splits}) for side in (a, b))
    lacking = []
    for one, other in ((a, b), (b, a)):
        there = {(split, key) for split, keys in other.splits.items() for key in keys.values()}
        every = [(split, key, name) for split, keys in one.splits.items() for name, key in keys.items()]
        if alone := sorted(name for split, key, name in every if (split, key) not in there):
            lacking.append(
                f"{len(alone):,} of {len(every):,} pictures of {one.letter} have no partner in {other.letter}: "
                f"{some_of(alone)}"
            )
    if lacking:
        found = any(set(a.splits[split].values()) & set(b.splits[split].values()) for split in a.splits)
        advice = (
            ""
            if found
            else "; two sets without partners are for --model cyclegan, whose --pairing is unpaired"
        )
        raise UserError(
            f"{'; '.join(lacking)} (partners bear one name, in folders of one split): mend or remove them{advice}"
        )
    return a, b


def stems(side: Side, split: str) -> dict[str, str]:
    """The keys of a split without suffixes; UserError where two are one."""
    keys = {name: stem_of_sample(key) for name, key in side.splits[split].items()}
    if twice := [key for key, n in Counter(keys.values()).items() if n > 1]:
        names = sorted(name for name, key in keys.items() if key == twice[0])
        raise UserError(
            f"names that stand for several pictures of {side.letter}: {len(twice):,}, such as {some_of(names)}: rename "
            "or remove all but one of each"
        )
    return keys


def some_of(names: Sequence[str]) -> str:
    """The first names of several."""
    return ", ".join(shown(name, 80) for name in names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def summary(pairing: str, sides: Iterable[Side | None]) -> str:
    """How many pictures there are."""
    counts = {side.letter: [len(side.splits[split]) for split in ("train", "val")] for side in sides if side}
    if pairing == "unpaired":
        return "; ".join(
            f"side {x}: {n:,} pictures to train, {m:,} to validate" for x, (n, m) in counts.items()
        )
    n, m = counts["B"]
    return f"{n:,} {'pairs' if pairing == 'paired' else 'pictures'} to train, {m:,} to validate"
