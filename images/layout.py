"""What the names in a folder or archive mean: splits, classes, CelebA's attributes."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

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

    Raises ValueError when rows are not whole numbers or differ in length.
    """
    rows = [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]
    if rows and len(rows[0]) == 1 and rows[0][0].isdigit():  # the count on the first line
        rows = rows[1:]
    header: list[str] = []
    if rows and "." not in rows[0][0]:
        header, rows = rows[0], rows[1:]
    if rows and len(header) == len(rows[0]):  # a .csv names the file column too
        header = header[1:]
    table = {row[0]: [int(value) for value in row[1:]] for row in rows}
    widths = {len(values) for values in table.values()} | ({len(header)} if header else set())
    if len(widths) != 1:
        raise ValueError("rows differ in length")
    return tuple(header), table


def find_table(
    texts: Mapping[str, str], start: str, notes: list[str]
) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """The first readable list whose name begins with start; empty when there is none."""
    for name in sorted(texts):
        if name.lower().startswith(start):
            try:
                return parse_table(texts[name])
            except (ValueError, IndexError) as error:
                notes.append(f"warning: {name} is not in CelebA's format ({error}): left out")
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
        where = "/".join(folder) or "the top folder"
        notes.append(
            f"using the {len(there):,} images of {where}; {len(names) - len(there):,} others left out"
        )
    if len(used) < len(there):
        notes.append(
            f"warning: {len(there) - len(used):,} images have no row in the attributes list: left out"
        )
    _, partition = find_table(texts, "list_eval_partition", notes)
    if partition:
        parts = {str(i): split for i, split in enumerate(SPLIT_ORDER)}
        split_of = [parts.get(str(partition.get(b, [0])[0]), "train") for b in base]
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
