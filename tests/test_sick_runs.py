"""The study of runs made sick: what is trained, what is made for it, what its report says."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from generation.findings import FINDINGS
from studies import sick_runs
from studies.sick_runs import CASES, coloured, copy_paler, paler, row_of, training_of, write_folder
from tests.test_record import images, write_run
from tests.test_report import lines


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.copied is None])
def test_every_case_is_a_legal_run(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    assert case.expected in FINDINGS
    (tmp_path / "nan_steps.py").write_text(sick_runs.BROKEN_MODEL)
    config = training_of(name, tmp_path).config()
    assert config.n_steps == case.n_steps and config.log_interval == 20


def test_copies_are_of_cases() -> None:
    assert [case.copied for case in CASES.values() if case.copied] == ["coloured"]
    sick = {case.expected for case in CASES.values()} - {"healthy"}
    assert sick == set(FINDINGS) - {"healthy", "too-early", "unknown", "unlearned"}


def test_paler_by_hand() -> None:
    """Pure red has the grey 76 (ITU-R 601): a fifth of the way from it to red is (112, 61, 61); grey stays."""
    picture = Image.new("RGB", (2, 1), (255, 0, 0))
    picture.putpixel((1, 0), (90, 90, 90))
    made = paler(picture, 0.2)
    assert made.getpixel((0, 0)) == (112, 61, 61) and made.getpixel((1, 0)) == (90, 90, 90)


def test_pictures_are_written_once(tmp_path: Path) -> None:
    grey = np.full((3, 4, 4), 200, np.uint8)
    colours = coloured(grey)
    assert len({tuple(picture[0, 0]) for picture in colours}) == 3 and colours[0].shape == (4, 4, 3)
    write_folder(tmp_path / "a", colours)
    before = [file.stat().st_mtime_ns for file in sorted((tmp_path / "a").iterdir())]
    write_folder(tmp_path / "a", colours)
    assert [file.stat().st_mtime_ns for file in sorted((tmp_path / "a").iterdir())] == before and len(
        before
    ) == 3


def test_a_paler_copy_is_found_to_be_washed_out(tmp_path: Path) -> None:
    """And the report says which were named rightly, and which not."""
    x = images(16, 3)
    write_run(
        tmp_path / "coloured", lines(**{"samples/raw/colourfulness": 1.0}), {"img_channels": 3},
        reals=x, step_0_raw=x, step_2000_raw=x,
    )  # fmt: skip
    copy_paler(tmp_path / "coloured", tmp_path / "pale")
    copied = [json.loads(line) for line in (tmp_path / "pale" / "metrics.jsonl").read_text().splitlines()]
    assert not any("samples" in name for line in copied for name in line) and copied[0]["loss/d"] == 1.2
    out = tmp_path / "docs" / "sick_runs.md"
    assert sick_runs.report(["pale", "coloured", "digits"], tmp_path, out) == []
    text = out.read_text()
    assert (
        "2 of 2 are named rightly." in text
        and "colour 4" in text
        and (out.parent / "images/sick_runs.png").is_file()
    )


def test_a_wrong_name_is_said() -> None:
    from generation.findings import Finding

    row = row_of("digits", [Finding("mode-collapse", "sure", ("two of three",))])
    assert row[3] == "**no**" and row[0] == "digits" and row[-1] == "two of three"
