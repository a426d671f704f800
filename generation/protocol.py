"""The protocol of scores: what a line of scores.jsonl says, and how lines are kept; metrics.lines compares them.

A line is {"step", the scores by name, "protocol": everything that is needed to measure the same again, "date"}.
"""

import json
import math
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import disk
from generation.version import code_version
from images.batches import ImageData
from metrics.features import Extractor
from metrics.lines import GENERATOR, read_lines

# -- what a line says ----------------------------------------------------------------------------------------------


def image_protocol(
    extractor: Extractor | None,
    data: ImageData,
    *,
    fakes: str,
    n_fake: int,
    n_real: int,
    split: str,
    settings: Mapping[str, str],
    labels: str | None,
    seed: int,
) -> dict[str, Any]:
    """What is to be said of n_fake images held against n_real of `data`, as an extractor reads them.

    extractor: None where nothing but their pixels is compared; fakes: what they are; split: the part of the data;
    settings: of each metric that has any; labels: how fakes were given theirs, None without.
    """
    read_by = {} if extractor is None else _reader_protocol(extractor)
    return {
        "fakes": fakes,
        "n_real": n_real,
        "n_fake": n_fake,
        "reference": data.name,
        "split": split,
        "data_fingerprint": data.fingerprint,
        "size": list(data.images.shape[1:]),
        "crop": "as they are" if data.fitting is None else data.fitting,
        **read_by,
        "quantised": "round and clamp to uint8",
        "settings": dict(settings),
        "labels": labels,
        "seed": seed,
    }


def _reader_protocol(extractor: Extractor) -> dict[str, Any]:
    """What is to be said of the network that reads the images."""
    return {
        "resize": extractor.module.resize,
        "extractor": extractor.name,
        "extractor_sha256": extractor.checksum,
        "extractor_accuracy": extractor.metadata.get("accuracy"),
    }


def point_protocol(data: ImageData, *, n_fake: int, labels: str | None, seed: int) -> dict[str, Any]:
    """What is to be said of n_fake points of the plane held against the mixture that the data are drawn from."""
    return {
        "fakes": GENERATOR,
        "n_fake": n_fake,
        "reference": f"{data.name}: the mixture itself",
        "data_fingerprint": data.fingerprint,
        "labels": labels,
        "seed": seed,
    }


def now() -> str:
    """The date of a score."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def surroundings(device: torch.device) -> dict[str, str | int]:
    """What a protocol says of code and machine."""
    cuda = device.type == "cuda"
    return {
        "code": code_version(),
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if cuda else f"{device.type} ({platform.machine()})",
        "threads": torch.get_num_threads(),
    }


def score_line(
    step: int,
    scores: Mapping[str, Any],
    protocol: Mapping[str, Any],
    device: torch.device,
    best_by: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """A line of scores.jsonl; protocol: what is known beside step, date, code and machine.

    best_by: name of the score that says which step is the best, and whether that should be "low" or "high"; None for
    lines that say nothing of it.
    """
    judged = {} if best_by is None else {"best_by": list(best_by)}
    about = {**protocol, "step": step} | judged | surroundings(device)
    return {"step": step, **scores, "protocol": about, "date": now()}


# -- how lines are kept --------------------------------------------------------------------------------------------


def append_score(file: Path, line: Mapping[str, Any], *, once: bool = False) -> None:
    """Add a line to scores.jsonl; once: not where the same line stands there, its date aside. OSError where it cannot
    be written."""
    # JSON has no infinity: KL to data is infinite where a class appears that the reference lacks.
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
    text = json.dumps(plain)
    if once and file.is_file():
        undated = [{**found, "date": None} for found in read_lines(file)]
        if {**json.loads(text), "date": None} in undated:
            return
    disk.append_line(file, text)


def cut_lines(path: Path, step: int) -> None:
    """Drop the lines of a .jsonl that are later than `step`; OSError where the disk does not take it, and all stay.

    Lines in the order of their steps are cut where they stand, which needs no space.
    """
    data = path.read_bytes()
    kept = b"".join(line for line in data.splitlines(keepends=True) if _is_until(line, step))
    if data.startswith(kept):
        os.truncate(path, len(kept))
    else:
        disk.put(path, kept)


def _is_until(line: bytes, step: int) -> bool:
    """Whether a line is whole, and of a step up to this one."""
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError, IndexError):  # half a line, or another's
        return False
