"""Labels in files: dataset.json, metadata.csv and .jsonl of image folders, and .cls or .json beside single images."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from errors import shown

SIDES = (".cls", ".json")
DATASET, METADATA = "dataset.json", ("metadata.csv", "metadata.jsonl")
MAX_LINE, MAX_ROWS = 2**16, 1_500_000  # characters and lines
MAX_CLASSES = 100_000
FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "name")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "cls", "category", "target", "fine_label")
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}(\.0*)?")

Value = int | str | tuple[int, ...]  # a class by number or name, or attributes, 0 or 1 each


def key_of_sample(name: str) -> str:
    """What the files of one sample have in common: the name up to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def stem_of_sample(name: str) -> str:
    """The name without its suffix."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.rpartition(".")[0]


def is_side(name: str) -> bool:
    """Whether this is the name of a file that may hold the label of the image beside it."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SIDES and path.name.lower() != DATASET


def side_label(name: str, data: bytes) -> str | None:
    """The label in a .cls, or a .json that has one, as text; None where there is none."""
    try:
        text = data.decode("utf-8-sig").strip()
        if name.lower().endswith(".json"):
            content = json.loads(text)
            found = [content[c] for c in LABEL_COLUMNS if c in content] if isinstance(content, dict) else []
            text = str(found[0]) if found and isinstance(found[0], str | int) else ""
    except (ValueError, RecursionError):
        return None
    return text if 0 < len(text) <= 200 and "\n" not in text else None


def as_value(given: Any) -> Value | None:
    """A label as it stands in a file: whole numbers, also as text or 3.0, words, rows of 0 and 1; None for none."""
    if isinstance(given, list | tuple):
        numbers = tuple(given)
        is_row = (
            all(v in (0, 1) for v in numbers if isinstance(v, int | float)) and 0 < len(numbers) <= 10_000
        )
        return (
            tuple(int(v) for v in numbers)
            if is_row and all(isinstance(v, int | float) for v in numbers)
            else None
        )
    if isinstance(given, float) and given.is_integer() and abs(given) < 1e9:
        return int(given)
    if isinstance(given, int):
        return int(given) if abs(given) < 10**9 else None
    if not isinstance(given, str) or not given.strip() or len(given) > 200:
        return None
    word = given.strip()
    return int(float(word)) if _WHOLE.fullmatch(word) else word


def read_dataset_json(text: str) -> dict[str, Value] | None:
    """Label by file name of a dataset.json, {"labels": [[name, label], ...]}; None for null labels. ValueError."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(content, dict) or "labels" not in content:
        raise ValueError('it has no "labels"')
    rows = content["labels"]
    if rows is None:
        return None
    if isinstance(rows, dict):
        rows = list(rows.items())
    if not isinstance(rows, list) or len(rows) > MAX_ROWS:
        raise ValueError('"labels" is no list of [file name, label]')
    found: dict[str, Value] = {}
    for at, row in enumerate(rows, 1):
        name = row[0] if isinstance(row, list | tuple) and len(row) == 2 else None
        value = as_value(row[1]) if isinstance(name, str) else None
        if value is None:
            raise ValueError(f"row {at} is no [file name, label]")
        found[_plain(name)] = value
    return found


def read_metadata(text: str, is_json: bool) -> dict[str, Value] | None:
    """Label by file name of a metadata.csv or .jsonl; None without a column of labels. ValueError names the line."""
    found: dict[str, Value] = {}
    columns: tuple[str, str] | None = None
    for at, row in _rows(text, is_json):
        if at > MAX_ROWS:
            raise ValueError("too many lines")
        known = {str(key).strip().lower(): key for key in row if key is not None}
        if columns is None:
            file = next((c for c in FILE_COLUMNS if c in known), None)
            label = next((c for c in LABEL_COLUMNS if c in known), None)
            if file is None:
                raise ValueError(f"no column {FILE_COLUMNS[0]}")
            if label is None:
                return None
            columns = file, label
        file, label = (row.get(known.get(c, "")) for c in columns)
        value = as_value(label)
        if not isinstance(file, str) or not file.strip():
            raise ValueError(f"line {at} names no file")
        if value is not None:  # a row without a label
            found[_plain(file.strip())] = value
    if columns is None:
        raise ValueError("it is empty")
    return found


def _rows(text: str, is_json: bool) -> Sequence[tuple[int, Mapping[str, Any]]]:
    """(line, row) one after the other."""
    if not is_json:
        try:
            yield from enumerate(csv.DictReader(io.StringIO(text)), 2)
        except csv.Error as error:
            raise ValueError(str(error)) from None
        return
    for at, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"line {at} is no JSON") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {at} is no row of names and values")
        yield at, row


def _plain(name: str) -> str:
    """A name within the set with forward slashes."""
    return str(PurePosixPath(name.replace("\\", "/")))


def labels_in(
    texts: Mapping[str, str],
    sides: Mapping[str, str],
    names: Sequence[str],
    notes: list[str],
    by_dot: bool = False,
) -> dict[str, Value] | None:
    """Label by image name of whatever file says any: dataset.json, metadata, files beside images, in this order.

    None where none does; {} where a dataset.json says that there are none. notes: what cannot be read is told there.
    by_dot: see labels_beside.
    """
    found: dict[str, Value] = {}
    said = False
    for kinds in ((DATASET,), METADATA):
        for text_name in sorted(texts):
            path = PurePosixPath(text_name)
            if path.name.lower() not in kinds:
                continue
            try:
                if path.name.lower() == DATASET:
                    rows, said = read_dataset_json(texts[text_name]), True
                else:
                    rows = read_metadata(texts[text_name], path.name.lower().endswith(".jsonl"))
            except ValueError as error:
                notes.append(f"warning: {shown(text_name)} cannot be read ({shown(str(error))}): left out")
                continue
            folder = "" if path.parent == PurePosixPath(".") else f"{path.parent}/"
            found |= {folder + name: value for name, value in (rows or {}).items()}
        if found or said:
            return found
    if sides:
        found = labels_beside(sides, names, notes, by_dot)
    return found or None


def labels_beside(
    sides: Mapping[str, str], names: Sequence[str], notes: list[str], by_dot: bool
) -> dict[str, Value]:
    """Label by image name of the files beside images, whose text is in `sides` by their names.

    1.cls and 1.png.cls are of 1.png. by_dot: or of that with its name up to the first dot, as WebDataset has it;
    files of one such name that differ are left out, which `notes` says.
    """
    by_stem: dict[str, str] = {}
    by_key: dict[str, set[str]] = {}
    for side in sorted(sides):
        by_stem.setdefault(stem_of_sample(side), sides[side])
        by_key.setdefault(key_of_sample(side), set()).add(sides[side])
    found: dict[str, Value] = {}
    unclear = []
    for name in names:
        text = by_stem.get(stem_of_sample(name), by_stem.get(name))
        others = by_key.get(key_of_sample(name), set())
        if text is None and by_dot and len(others) == 1:
            (text,) = others
        elif text is None and by_dot and others:
            unclear.append(name)
        if (value := as_value(text)) is not None:
            found[name] = value
    if unclear:
        notes.append(
            f"warning: {len(unclear):,} images, such as {shown(unclear[0], 80)}, share the name before the first dot "
            "with files of different labels: left without"
        )
    return found


def as_labels(values: Sequence[Value]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(int64 (N,) classes or uint8 (N, K) attributes, their names). ValueError for kinds that do not fit together.

    Numbers from 0 on are the classes' own, which keeps those that no image is of; words, and numbers that are far
    apart, are numbered in their order.
    """
    kinds = {type(value) for value in values}
    if kinds == {tuple}:
        if len({len(value) for value in values}) > 1:
            raise ValueError("rows of attributes differ in length")
        rows = np.array(values, dtype=np.uint8)
        return rows, tuple(str(k) for k in range(rows.shape[1]))
    if tuple in kinds:
        raise ValueError("some labels are classes, others rows of attributes")
    if kinds == {int} and min(values) >= 0 and max(values) < min(MAX_CLASSES, max(1000, 2 * len(values))):
        return np.array(values, dtype=np.int64), tuple(str(k) for k in range(max(values) + 1))
    names = sorted(set(values), key=lambda v: (isinstance(v, str), v))
    if len(names) > MAX_CLASSES:
        raise ValueError(f"{len(names):,} different labels")
    number = {name: k for k, name in enumerate(names)}
    return np.array([number[v] for v in values], dtype=np.int64), tuple(str(name) for name in names)
