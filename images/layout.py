"""What the names in a folder or archive mean: splits, classes, labels of files that say them, CelebA's attributes."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from errors import shown
from images.labels import as_labels, labels_in

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
SPLIT_ORDER = ("train", "val", "test")
# train2017, val_256, test-images: what is put behind the name of a split, and makes no class of it
_SPLIT = re.compile(r"([a-z]+?)(?:[-_. ]*(?:set|data|dataset|images?|imgs?|split|[0-9]+(?:px|x[0-9]+)?))*")
FEW_STRAYS = 0.25  # of all pictures: more of them beside the folders are no strays
CELEBA_FOLDER = "img_align_celeba"
MAX_LINE, MAX_ROWS = 2**16, 1_500_000  # characters and lines of a list
WHOLE = re.compile(r"[+-]?[0-9]{1,10}")


@dataclass
class Layout:
    """Which images are used, in which order, with which labels.

    order: indices into the names, split by split; splits: [start, stop) of each within the order;
    labels: int64 (N,) classes or uint8 (N, K) attributes in that order, or None; notes: lines for the user.
    """

    order: list[int]
    splits: dict[str, tuple[int, int]]
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def strip_root(paths: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Drop the leading folders that all paths share."""
    depth = 0
    while len({path[depth] for path in paths}) == 1 and all(len(path) > depth + 1 for path in paths):
        depth += 1
    return [path[depth:] for path in paths]


def split_named(folder: str) -> str | None:
    """The split that a folder is by its name, None for other folders."""
    found = _SPLIT.fullmatch(folder.lower())
    return None if found is None else SPLITS.get(found[1])


def take_splits(paths: Sequence[tuple[str, ...]]) -> tuple[list[str | None], list[tuple[str, ...]]]:
    """(split of each, None for what stands beside the splits; path without it): by top folders named so.

    They count where all folders are splits, where there are train and another one, or where train holds folders of
    classes; else all is train.
    """
    paths = strip_root(paths)
    tops = {path[0]: split_named(path[0]) for path in paths if len(path) > 1}
    n_beside = sum(len(path) == 1 for path in paths)
    known = {split for split in tops.values() if split is not None}
    alone = None not in tops.values() and (len(tops) > 1 or 0 < n_beside <= FEW_STRAYS * len(paths))
    if known and (alone or "train" in known and (len(known) > 1 or holds_classes(paths, tops))):
        split_of = [tops[path[0]] if len(path) > 1 else None for path in paths]
        below = iter(strip_root([path[1:] for path, split in zip(paths, split_of, strict=True) if split]))
        return split_of, [next(below) if split else path for path, split in zip(paths, split_of, strict=True)]
    return ["train"] * len(paths), paths


def holds_classes(paths: Sequence[tuple[str, ...]], tops: Mapping[str, str | None]) -> bool:
    """Whether the top folders of splits have folders of classes, and are no classes themselves, as trains among
    vehicles would be, each kind with folders of its own."""
    inside = [path[1:] for path in paths if len(path) > 1 and tops[path[0]] is not None]
    own = {path[0] for path in strip_root(inside) if len(path) > 1}
    others = {path[1] for path in paths if len(path) > 2 and tops[path[0]] is None}
    return classes_of(strip_root(inside)) is not None and not (others and others.isdisjoint(own))


def say_left_out(left: Sequence[str], beside: str, notes: list[str]) -> None:
    """Name what stands where no picture of the set should."""
    if left:
        some = ", ".join(shown(name, 80) for name in left[:3]) + (", ..." if len(left) > 3 else "")
        what = "1 picture" if len(left) == 1 else f"{len(left):,} pictures"
        notes.append(f"warning: left out, since beside {beside}: {what}, {some}")


def parse_table(text: str) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """(column names, row of numbers by file name) of CelebA's lists, as published or as .csv.

    Raises ValueError that names the line where rows are not whole numbers of 32 bits, differ in length, have no
    numbers, or name a file again; and for more lines, or longer ones, than such a list can have.
    """
    header: list[str] = []
    table: dict[str, list[int]] = {}
    width, counted = None, False
    for at, line in enumerate(io.StringIO(text, newline=None), 1):
        where = f"line {at}"
        if len(line) > MAX_LINE or len(table) > MAX_ROWS:
            raise ValueError(f"{where}: too long a line, or too many of them")
        words = line.replace(",", " ").split()
        if not words:
            continue
        if not (counted or header or table) and len(words) == 1 and words[0].isdigit():  # how many follow
            counted = True
        elif not (header or table) and "." not in words[0]:
            header = words
        else:
            name, *values = words
            if name in table:
                raise ValueError(f"{where} names {shown(name, 80)} again")
            if not values or width not in (None, len(values)):
                raise ValueError(
                    f"rows differ in length: {where} has {len(values)} numbers, not {width or 'some'}"
                )
            width = len(values)
            table[name] = [whole(value, where) for value in values]
    if len(header) - 1 == width:  # a .csv names the file column too
        header = header[1:]
    if not table or header and len(header) != width:
        raise ValueError(f"rows differ in length: {len(header)} column names, {width or 'no'} numbers a row")
    return tuple(header), table


def whole(text: str, where: str) -> int:
    """The whole number that a word is; ValueError for others, and for those of more than 32 bits."""
    if not WHOLE.fullmatch(text) or not -(2**31) <= (value := int(text)) < 2**31:
        raise ValueError(f"{where}: {shown(text, 40)!r} is no whole number of 32 bits")
    return value


def find_table(
    texts: Mapping[str, str], start: str, notes: list[str]
) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """The first readable list whose name begins with start; empty when there is none."""
    for name in sorted(texts):
        if PurePosixPath(name).name.lower().startswith(start):
            try:
                return parse_table(texts[name])
            except ValueError as error:
                notes.append(f"warning: {shown(name)} is not in CelebA's format ({error}): left out")
    return (), {}


def best_folder(folders: Sequence[tuple[str, ...]], counted: Iterable[int]) -> tuple[str, ...]:
    """The folder with most of the counted images; of equals, the larger, then the first by name."""
    matches, sizes = Counter(folders[i] for i in counted), Counter(folders)
    return min(sizes, key=lambda folder: (-matches[folder], -sizes[folder], folder))


def ordered_by_split(
    used: Iterable[int], names: Sequence[str], split_of: Sequence[str]
) -> tuple[list[int], dict[str, tuple[int, int]]]:
    """Indices sorted by split, then by name, and where each split begins and ends."""
    order = sorted(used, key=lambda i: (SPLIT_ORDER.index(split_of[i]), names[i]))
    counts = Counter(split_of[i] for i in order)
    splits, start = {}, 0
    for split in SPLIT_ORDER:
        if counts[split]:
            splits[split] = (start, start + counts[split])
            start += counts[split]
    return order, splits


def listed_as(base: Sequence[str], table: Mapping[str, object]) -> list[str]:
    """The names by which a list knows files: theirs, or where it knows none, with another suffix: 1.jpg for 1.png."""
    if any(name in table for name in base):
        return list(base)
    by_stem = {PurePosixPath(name).stem: name for name in table}
    return [by_stem.get(PurePosixPath(name).stem, name) for name in base]


def attribute_layout(names: Sequence[str], texts: Mapping[str, str], notes: list[str]) -> Layout | None:
    """The folder that the attributes list describes best, its rows as uint8 {0, 1}; None without a list."""
    header, table = find_table(texts, "list_attr", notes)
    split_of, paths = take_splits([tuple(name.split("/")) for name in names])
    if not table:
        return None
    base = listed_as([path[-1] for path in paths], table)
    listed = [i for i in range(len(names)) if base[i] in table]
    folders = [path[:-1] for path in paths]
    folder = best_folder(folders, listed)
    there = [i for i in range(len(names)) if folders[i] == folder]
    used = [i for i in there if base[i] in table]
    if 2 * len(used) < len(there):
        notes.append(f"warning: the attributes list names {len(used):,} of {len(there):,} images: left out")
        return None
    if len(there) < len(names):
        where = shown("/".join(folder)) or "the top folder"
        notes.append(
            f"using the {len(there):,} images of {where}; {len(names) - len(there):,} others left out"
        )
    if len(used) < len(there):
        notes.append(
            f"warning: {len(there) - len(used):,} images have no row in the attributes list: left out"
        )
    _, partition = find_table(texts, "list_eval_partition", notes)
    if partition:
        parts = dict(enumerate(SPLIT_ORDER))
        known = [parts.get(partition.get(name, [-1])[0]) for name in base]
        split_of = [split or "train" for split in known]
        if missing := sum(known[i] is None for i in used):
            notes.append(
                f"warning: {missing:,} images have no split in the partition list: taken for training"
            )
    order, splits = ordered_by_split(used, names, [split or "train" for split in split_of])
    labels = np.array([table[base[i]] for i in order], dtype=np.int64) > 0
    label_names = header or tuple(f"attribute {k}" for k in range(labels.shape[1]))
    return Layout(order, splits, labels.astype(np.uint8), label_names, notes)


def labelled_layout(
    names: Sequence[str], texts: Mapping[str, str], sides: Mapping[str, str], notes: list[str], by_dot: bool
) -> Layout | None:
    """Labels as files beside the images say them, splits by folders; None where no file does, or hardly any image is
    named."""
    labels = labels_in(texts, sides, names, notes, by_dot)
    if labels is None:
        return None
    split_of, _ = take_splits([tuple(name.split("/")) for name in names])
    inside = [i for i in range(len(names)) if split_of[i] is not None]
    used = [i for i in inside if names[i] in labels]
    if labels and 2 * len(used) < len(inside):
        notes.append(f"warning: the files of labels name {len(used):,} of {len(inside):,} images: left out")
        return None
    say_left_out([names[i] for i in range(len(names)) if split_of[i] is None], "the splits", notes)
    if not labels:
        return Layout(*ordered_by_split(inside, names, [split or "" for split in split_of]), notes=notes)
    if len(used) < len(inside):
        notes.append(
            f"warning: {len(inside) - len(used):,} images have no label in the files of labels: left out"
        )
    order, splits = ordered_by_split(used, names, [split or "" for split in split_of])
    try:
        found, label_names = as_labels([labels[names[i]] for i in order])
    except ValueError as error:
        notes.append(f"warning: labels cannot be used: {error}")
        return Layout(order, splits, notes=notes)
    return Layout(order, splits, found, label_names, notes)


def classes_of(paths: Sequence[tuple[str, ...]]) -> dict[int, str] | None:
    """Class by index, where the top folders are classes; a few pictures beside them have none. None for no classes."""
    inside = [i for i, path in enumerate(paths) if len(path) > 1]
    n_beside = len(paths) - len(inside)
    if not inside or n_beside > FEW_STRAYS * len(paths):
        return None
    if len({paths[i][0] for i in inside}) > 1:
        return {i: paths[i][0] for i in inside}
    if not n_beside:
        return None
    # pictures beside the one folder in which the classes are
    found = classes_of(strip_root([paths[i] for i in inside]))
    return None if found is None else {inside[i]: name for i, name in found.items()}


def class_layout(names: Sequence[str], notes: list[str]) -> Layout:
    """Splits by top folders named train, val, test; classes by the folders below."""
    used = list(range(len(names)))
    aligned = [i for i in used if CELEBA_FOLDER in names[i].split("/")[:-1]]
    if 0 < len(aligned) < len(names):  # CelebA without its list: other folders repeat its images
        notes.append(f"using the {len(aligned):,} images of {CELEBA_FOLDER} of {len(names):,}")
        used = aligned
    found, paths = take_splits([tuple(names[i].split("/")) for i in used])
    split_of = dict(zip(used, found, strict=True))
    say_left_out([names[i] for i in used if split_of[i] is None], "the splits", notes)
    inside = [(i, path) for i, path in zip(used, paths, strict=True) if split_of[i] is not None]
    used = [i for i, _ in inside]
    by_place = classes_of([path for _, path in inside])
    if by_place is not None:
        tops = {used[k]: name for k, name in by_place.items()}
        say_left_out([names[i] for i in used if i not in tops], "the folders of classes", notes)
        used = [i for i in used if i in tops]
    order, splits = ordered_by_split(used, names, [split_of.get(i) or "train" for i in range(len(names))])
    if by_place is None:
        return Layout(order, splits, notes=notes)
    classes = tuple(sorted(set(tops.values())))
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number[tops[i]] for i in order], dtype=np.int64)
    return Layout(order, splits, labels, classes, notes)


def read_layout(
    names: Sequence[str],
    texts: Mapping[str, str],
    sides: Mapping[str, str] | None = None,
    by_dot: bool = False,
) -> Layout:
    """Splits and labels of names ("train/cat/1.jpg"); the others: label lists and labels, see archives.Files."""
    notes: list[str] = []
    return (
        attribute_layout(names, texts, notes)
        or labelled_layout(names, texts, sides or {}, notes, by_dot)
        or class_layout(names, notes)
    )


def why_unlabelled(names: Sequence[str]) -> str | None:
    """What keeps folders from being classes, as far as names of images tell; None where there are no folders."""
    _, paths = take_splits([tuple(name.split("/")) for name in names])
    tops = {path[0] for path in paths if len(path) > 1}
    beside = [name for name, path in zip(names, paths, strict=True) if len(path) == 1]
    if not tops or not beside:
        return None
    return (
        f"{len(beside):,} of {len(names):,} pictures stand beside the {len(tops)} folders, such as "
        f"{shown(beside[0], 80)}: take them away, or put them into one"
    )
