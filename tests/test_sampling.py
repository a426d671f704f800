"""Labels and latents of samples: functions of the seed and the index, with the attributes of real images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from training.errors import UserError
from training.generator import label_examples, label_rows, load_generator, read_label_examples


def attributes(n: int, n_labels: int) -> np.ndarray:
    """Rows (n, n_labels) of which each spells its own number in bits."""
    return ((np.arange(n)[:, None] >> np.arange(n_labels)) & 1).astype(np.uint8)


def numbers(rows: torch.Tensor) -> list[int]:
    """What `attributes` spelt."""
    return (rows.long() << torch.arange(rows.shape[1])).sum(1).tolist()


def labels_of(n: int = 5000, n_labels: int = 13) -> dict:
    """The part of a generator's config that labels are drawn from."""
    examples = label_examples(attributes(n, n_labels), seed=3)
    return {"n_labels": n_labels, "multi_hot": True, "label_examples": examples}


@pytest.mark.parametrize("n", [1, 7, 512, 513, 5000])
def test_label_examples_are_rows_of_the_data_spread_evenly(n: int) -> None:
    text = label_examples(attributes(n, 13), seed=3)
    kept = numbers(read_label_examples(text, 13))
    assert len(kept) == min(n, 512) and len(set(kept)) == len(kept) and text.count(" ") == len(kept) - 1
    stretch = n / len(kept)
    assert all(i * stretch - 1 < number < (i + 1) * stretch for i, number in enumerate(kept))
    assert text == label_examples(attributes(n, 13), seed=3)


def test_label_examples_follow_the_seed_and_are_short() -> None:
    faces = np.random.default_rng(0).integers(0, 2, (5000, 40), dtype=np.uint8)
    assert label_examples(faces, seed=3) != label_examples(faces, seed=4)
    assert len(label_examples(faces, seed=3)) == 512 * 11 - 1


def test_attributes_of_samples_are_those_of_real_images() -> None:
    """5 bits of which just one is set: drawn one by one they would seldom come out so."""
    labels = {
        "n_labels": 5, "multi_hot": True,
        "label_examples": label_examples(np.eye(5, dtype=np.uint8)[np.arange(900) % 5], seed=0),
    }  # fmt: skip
    rows = label_rows(labels, 1000, seed=1)
    assert rows.shape == (1000, 5) and rows.dtype == torch.get_default_dtype() and (rows.sum(1) == 1).all()
    assert (rows.mean(0) > 0.1).all()


def test_attributes_of_an_index_depend_on_the_seed_alone() -> None:
    labels = labels_of()
    rows = label_rows(labels, 600, seed=1)
    assert torch.equal(label_rows(labels, 3, seed=1), rows[:3])
    assert len(set(numbers(rows[:512]))) == 512 and torch.equal(rows[512:], rows[:88])
    assert numbers(rows[:5]) != sorted(numbers(rows[:5]))
    assert not torch.equal(label_rows(labels, 600, seed=2), rows)


@pytest.mark.parametrize("text", ["", "zz", "00 11 22", 5])
def test_damaged_label_examples_are_refused_in_one_line(text: object, tmp_path: Path) -> None:
    config = {"weights": ["raw"], "build": {}, "multi_hot": True, "n_labels": 13, "label_examples": text}
    (tmp_path / "raw.safetensors").write_bytes(b"")
    for held in (config, {k: v for k, v in config.items() if k != "label_examples"}):
        (tmp_path / "config.json").write_text(json.dumps(held))
        with pytest.raises(UserError, match="config.json is damaged .*resume the run"):
            load_generator(tmp_path)
