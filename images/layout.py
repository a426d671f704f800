"""What the names in a folder or archive mean: splits, classes, CelebA's attributes."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from errors import shown

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


def take_splits(paths: Sequence[tuple[str, ...]]) -> tuple[list[str], list[tuple[str, ...]]]:
    """(split of each, path without it), where the top folders are all named train, val or test."""
    paths = strip_root(paths)
    tops = {path[0].lower() if len(path) > 1 else "" for path in paths}
    if len(tops) > 1 and tops <= SPLITS.keys():
        return [SPLITS[path[0].lower()] for path in paths], strip_root([path[1:] for path in paths])
    return ["train"] * len(paths), paths


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
        if name.lower().startswith(start):
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


def attribute_layout(names: Sequence[str], texts: Mapping[str, str], notes: list[str]) -> Layout | None:
    """The folder that the attributes list describes best, its rows as uint8 {0, 1}; None without a list."""
    header, table = find_table(texts, "list_attr", notes)
    split_of, paths = take_splits([tuple(name.split("/")) for name in names])
    base = [path[-1] for path in paths]
    listed = [i for i in range(len(names)) if base[i] in table]
    if not table:
        return None
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
    order, splits = ordered_by_split(used, names, split_of)
    labels = np.array([table[base[i]] for i in order], dtype=np.int64) > 0
    label_names = header or tuple(f"attribute {k}" for k in range(labels.shape[1]))
    return Layout(order, splits, labels.astype(np.uint8), label_names, notes)


def class_layout(names: Sequence[str], notes: list[str]) -> Layout:
    """Splits by top folders named train, val, test; classes by the folders below."""
    used = list(range(len(names)))
    aligned = [i for i in used if CELEBA_FOLDER in names[i].split("/")[:-1]]
    if 0 < len(aligned) < len(names):  # CelebA without its list: other folders repeat its images
        notes.append(f"using the {len(aligned):,} images of {CELEBA_FOLDER} of {len(names):,}")
        used = aligned
    split_of, paths = take_splits([tuple(names[i].split("/")) for i in used])
    by_index = dict(zip(used, split_of, strict=True))
    order, splits = ordered_by_split(used, names, [by_index.get(i, "train") for i in range(len(names))])
    tops = {i: path[0] for i, path in zip(used, paths, strict=True) if len(path) > 1}
    classes = tuple(sorted(set(tops.values())))
    if len(tops) < len(used) or len(classes) < 2:
        return Layout(order, splits, notes=notes)
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number[tops[i]] for i in order], dtype=np.int64)
    return Layout(order, splits, labels, classes, notes)


def read_layout(names: Sequence[str], texts: Mapping[str, str]) -> Layout:
    """Splits and labels of names ("train/cat/1.jpg"); texts: CelebA's lists by base name."""
    notes: list[str] = []
    return attribute_layout(names, texts, notes) or class_layout(names, notes)
