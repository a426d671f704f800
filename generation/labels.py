"""Labels of samples: classes in turn or one class, attributes of training images, named ones set."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from errors import UserError
from ops.rng import generator as seeded

LABEL_EXAMPLES = 512


def label_examples(labels: np.ndarray, seed: int) -> list[str]:
    """Attributes (N, K) of up to 512 images, one drawn from each of as many equal stretches: a string of 0 and 1 each.

    Whole rows, since attributes drawn one by one make faces that do not exist: bald, with bangs.
    """
    n = min(LABEL_EXAMPLES, len(labels))
    edges = np.arange(n + 1) * len(labels) // n
    within = torch.rand(n, generator=seeded(seed, "label examples"), dtype=torch.float64).numpy()
    index = edges[:-1] + (within * np.diff(edges)).astype(np.int64)
    return ["".join("1" if value > 0 else "0" for value in row) for row in np.asarray(labels[index])]


def read_label_examples(examples: list[str] | str | None, n_labels: int) -> Tensor:
    """What label_examples wrote, as zeros and ones (n, n_labels); UserError for anything else.

    A string is the form of older folders: the bits of each row packed into bytes, in hex.
    """
    try:
        if isinstance(examples, str):
            examples = [f"{int(row, 16):0{4 * len(row)}b}"[:n_labels] for row in examples.split()]
        bits = np.frombuffer("".join(examples).encode("ascii"), np.uint8) - ord("0")
        if not 0 < len(examples) <= LABEL_EXAMPLES or {len(row) for row in examples} != {n_labels}:
            raise ValueError
        if bits.max(initial=0) > 1:
            raise ValueError
    except (ValueError, TypeError):
        raise UserError(f"label_examples are no rows of {n_labels} labels") from None
    # (n * n_labels) -> (n, n_labels)
    return torch.from_numpy(bits.reshape(-1, n_labels)).to(torch.get_default_dtype())


def label_rows(labels: dict, n: int, seed: int) -> Tensor | None:
    """(n,) class indices 0, 1, 2, ... round robin, or (n, K) attributes of training images; None without labels.

    Attributes go through label_examples in an order drawn by the seed: those of an index depend on nothing else.
    """
    if not labels["n_labels"]:
        return None
    if not labels["multi_hot"]:
        return torch.arange(n) % labels["n_labels"]
    examples = read_label_examples(labels["label_examples"], labels["n_labels"])
    order = torch.randperm(len(examples), generator=seeded(seed, "attributes"))
    return examples[order[torch.arange(n) % len(examples)]]


def sample_labels(
    config: dict[str, Any],
    n: int,
    seed: int,
    classes: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
) -> Tensor | None:
    """Labels of indices 0 .. n - 1 by generator config: (n,) int64, (n, K) attributes, None without labels.

    classes: the one class of all images by name or index, None to go through all in turn. attributes: names of those
    that all images have, or with a minus have not; the others are of training images, and the same whichever are
    named. Raises UserError for what the model does not know.
    """
    if not config["n_labels"]:
        given = [
            f"{flag} {' '.join(v)}" for flag, v in (("--class", classes), ("--attributes", attributes)) if v
        ]
        if given:
            raise UserError(f"{given[0]}: this generator was trained without --conditional")
        return None
    y = label_rows(config, n, seed)
    names = list(config["label_names"])
    if config["multi_hot"]:
        if classes:
            raise UserError(
                f"--class {' '.join(classes)}: this generator knows attributes, of which an image has several; "
                "name them with --attributes"
            )
        for index, value in _attribute_values(attributes or (), names).items():
            y[:, index] = value
        return y
    if attributes:
        raise UserError(
            f"--attributes {','.join(attributes)}: this generator knows classes, one an image; name it with --class"
        )
    if not classes:
        return y
    if len(classes) > 1:
        raise UserError(f"--class {' '.join(classes)}: an image shows one class; give one")
    return torch.full_like(y, _class_index(classes[0], names, config["n_labels"]))


def _attribute_values(given: Sequence[str], names: list[str]) -> dict[int, int]:
    """Index -> 1 or 0 of attributes given by name, with a minus for 0."""
    values: dict[int, int] = {}
    for text in given:
        name = text.removeprefix("-")
        if name not in names:
            raise UserError(
                f"--attributes {text}: {name!r} is not one of {len(names)} attributes: {', '.join(names)}"
            )
        index = names.index(name)
        if index in values:
            raise UserError(f"--attributes {','.join(given)}: {name} is given twice")
        values[index] = int(text == name)
    return values


def _class_index(text: str, names: list[str], n_labels: int) -> int:
    """Index of a class given by name or by number; a name wins, since digits are named by their numbers."""
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < n_labels:
        return int(text)
    known = ", ".join(names) if names else f"0 to {n_labels - 1}"
    raise UserError(f"--class {text}: the label must be one of {n_labels} classes: {known}")
