"""Lines of scores.jsonl: which compare, what each is judged by, which is the best; read without torch."""

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from disk import JSON_LIMIT, Unreadable, decode_json, read_bytes

GENERATOR = "generator"  # what a protocol says of fakes that are a generator's
TRANSLATIONS = "translations of the validation part"  # and that are made of pictures
GENERATED = (GENERATOR, TRANSLATIONS)
# What two scores must share to be compared.
COMPARABLE = (
    "best_by", "n_fake", "n_real", "data_fingerprint", "split", "size", "labels", "weights", "truncation",
    "truncation_layers", "batch_norm", "seed", "extractor_sha256",
)  # fmt: skip
# And what was said later: without it a key is as it was, which checkpoints hold.
COMPARABLE_TOO = ("layer_noise", "best_by_settings", "source_fingerprint")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a .jsonl; what a kill left of one, or what is none, is passed over. Unreadable for no file."""
    found = []
    for text in read_bytes(path, JSON_LIMIT).splitlines():
        with contextlib.suppress(Unreadable):
            found.append(decode_json(text, dict[str, Any], path.name))
    return found


def protocol_key(line: Mapping[str, Any]) -> str:
    """Equal for two lines of scores.jsonl whose scores can be compared."""
    about = line.get("protocol", {})
    later = [[name, about[name]] for name in COMPARABLE_TOO if about.get(name) is not None]
    return json.dumps([about.get(name) for name in COMPARABLE] + later)


def best_by(line: Mapping[str, Any]) -> tuple[str, str]:
    """Name of the score that a line is judged by, and whether it should be "low" or "high".

    Lines of before scores said so had a Frechet distance. StopIteration for a line without either.
    """
    name, better = line["protocol"].get("best_by") or (next(k for k in line if k.startswith("fid")), "low")
    return name, better


def best_lines(lines: Iterable[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """(how many, the best) of every group of comparable scores of generated images.

    A score counts by what its protocol says that it is judged by. The group that grew last comes last.
    """
    # (name, protocol) -> count, best value, its step, its line
    found: dict[tuple[str, str], tuple[int, float, int, Mapping[str, Any]]] = {}
    for line in lines:
        try:
            whole = {"protocol": {}, **line}
            step, key, (name, better) = whole["step"], protocol_key(whole), best_by(whole)
            value = whole[name] if better == "low" else -whole[name]
            counts = math.isfinite(value) and whole["protocol"].get("fakes", GENERATOR) in GENERATED
            counts = counts and type(step) is int and step >= 0
        # another's line
        except (ValueError, KeyError, AttributeError, TypeError, StopIteration, OverflowError):
            continue
        if counts:
            count, *best = found.pop((name, key), (0, math.inf, -1, {}))
            # on a tie the earlier step, and of it the earlier line
            found[name, key] = (count + 1, *min(tuple(best), (value, step, line), key=lambda row: row[:2]))
    return [(count, line) for count, _, _, line in found.values()]


def best_line(lines: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The best of those taken most often in the same way, of equal numbers the newest way; None without any."""
    found = best_lines(lines)
    most = max((count for count, _ in found), default=0)
    return next((line for count, line in reversed(found) if count == most), None)


def best_scores(path: Path) -> list[tuple[int, int]]:
    """(how many, step of the best) of every group of comparable scores in a scores.jsonl, as best_lines has them."""
    return [(count, line["step"]) for count, line in best_lines(read_lines(path) if path.exists() else ())]


def best_step(path: Path) -> int | None:
    """The step with the best score among those taken most often in the same way, along training; None without any."""
    line = best_line(read_lines(path) if path.exists() else ())
    return None if line is None else line["step"]
