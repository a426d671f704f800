"""The protocol of scores: what a line says, what it is judged by, how lines are written and cut."""

import json
import math
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from generation import version
from generation.protocol import append_score, cut_lines, score_line
from metrics.lines import best_by, best_scores, protocol_key
from tests.running import full_disk


def test_a_line_says_what_how_where_and_when() -> None:
    line = score_line(7, {"fid": 2.0, "is": 3.0}, {"n_fake": 5}, torch.device("cpu"), ("is", "high"))
    assert [*line] == ["step", "fid", "is", "protocol", "date"] and line["step"] == 7 and line["fid"] == 2.0
    about = line["protocol"]
    assert about["n_fake"] == 5 and about["step"] == 7 and about["best_by"] == ["is", "high"]
    assert (
        about["code"] and about["torch"] == torch.__version__ and about["threads"] == torch.get_num_threads()
    )
    assert about["device"].startswith("cpu (") and line["date"].endswith("+00:00")
    assert best_by(line) == ("is", "high") and best_by(json.loads(json.dumps(line))) == ("is", "high")
    assert "best_by" not in score_line(7, {}, {}, torch.device("cpu"))["protocol"]


def test_lines_of_before_they_said_so_are_judged_by_their_frechet_distance() -> None:
    assert best_by({"step": 1, "kid[a]": 0.0, "fid[a]": 1.0, "protocol": {}}) == ("fid[a]", "low")
    with pytest.raises(StopIteration):
        best_by({"step": 1, "kid[a]": 0.0, "protocol": {}})


def test_lines_compare_by_what_moves_a_score() -> None:
    """Neither machine nor code nor the step; a field that one lacks is None."""
    about = {"n_fake": 5, "n_real": 5, "seed": 0, "device": "a", "code": "x", "step": 1}
    assert protocol_key({"protocol": about}) == protocol_key(
        {"protocol": about | {"device": "b", "code": "y", "step": 2}}
    )
    assert protocol_key({"protocol": about}) != protocol_key({"protocol": about | {"seed": 1}})
    assert protocol_key({"protocol": about}) == protocol_key({"protocol": about | {"truncation": None}})
    # scores of before were of constant noise; of a generator without any the key is the old one, which runs remember
    assert protocol_key({"protocol": about}) == protocol_key({"protocol": about | {"layer_noise": None}})
    assert protocol_key({"protocol": about}) != protocol_key({"protocol": about | {"layer_noise": "random"}})
    # and so are the settings of the score that decides, which a Frechet distance has none of
    plain, kernel = ({"protocol": about | {"best_by_settings": s}} for s in (None, "100 subsets of 1000"))
    other = {"protocol": about | {"best_by_settings": "100 subsets of 400"}}
    assert (
        protocol_key({"protocol": about}) == protocol_key(plain)
        and len({protocol_key(line) for line in (plain, kernel, other)}) == 3
    )
    assert len(json.loads(protocol_key({"protocol": about}))) == 13


def test_lines_that_hold_no_number_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "scores.jsonl"
    for value in (4.0, math.inf, math.nan, "much", None, [1.0], 3.0):
        append_score(file, {"step": int(value) if value in (3.0, 4.0) else 9, "fid": value, "protocol": {}})
    assert best_scores(file) == [(2, 3)]
    lines = [json.loads(text) for text in file.read_text().splitlines()]  # no NaN, no infinity: JSON
    assert [line["fid"] for line in lines] == [4.0, None, None, "much", None, [1.0], 3.0]


def test_lines_after_a_step_are_cut(tmp_path: Path) -> None:
    file = tmp_path / "scores.jsonl"
    file.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n[1]\n{"half')
    cut_lines(file, 4)
    assert file.read_text() == '{"step": 2}\n{"step": 4}\n' and [*tmp_path.iterdir()] == [file]


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_lines_are_cut_on_a_full_disk_or_all_stay(tmp_path: Path) -> None:
    (inside := tmp_path / "a").mkdir()
    ordered, mixed = inside / "metrics.jsonl", inside / "scores.jsonl"
    ordered.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n')
    mixed.write_text(before := '{"step": 6}\n{"step": 2}\n')
    with full_disk():
        cut_lines(ordered, 4)
        with pytest.raises(OSError, match="large"):
            cut_lines(mixed, 4)
    assert ordered.read_text() == '{"step": 2}\n{"step": 4}\n' and mixed.read_text() == before
    assert len(list(inside.iterdir())) == 2
    cut_lines(mixed, 4)
    assert mixed.read_text() == '{"step": 2}\n'


def test_version_is_of_code_not_of_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a study writes into docs/ leaves the version as it was, so that the next scores stand in one table with the
    last; a changed module, or a shipped reader's weights, does not, and each change has a name of its own."""

    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    files = [tmp_path / name for name in ("ops/taps.py", "assets/reader.safetensors", "docs/metrics.md")]
    for file in files:
        file.parent.mkdir()
        file.write_text("one")
    git("init", "-q"), git("add", "."), git("commit", "-q", "-m", "all")
    monkeypatch.setattr(version, "CODE_ROOT", tmp_path)
    found = []
    module, reader, report = files
    for file, text in (
        (None, ""),
        (report, "two"),
        (reader, "two"),
        (module, "two"),
        (module, "six"),
        (module, "two"),
    ):
        if file is not None:
            file.write_text(text)
        version.code_version.cache_clear()
        found.append(version.code_version())
        if file not in (None, report):
            file.write_text("one")
    monkeypatch.undo()
    version.code_version.cache_clear()
    clean, of_report, *dirty, again = found
    assert of_report == clean and "dirty" not in clean and len({*dirty}) == 3 and again == dirty[1]
    assert all(re.fullmatch(f"{clean}-dirty-[0-9a-f]{{8}}", name) for name in dirty)
