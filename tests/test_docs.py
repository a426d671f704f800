"""The documents keep their promises: no feature row lost, a done row names its test, links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def feature_rows() -> list[list[str]]:
    """The cells (number, feature, command, test, state, source) of every row of docs/features.md."""
    lines = (ROOT / "docs" / "features.md").read_text(encoding="utf-8").splitlines()
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines if re.match(r"\| \d+ \|", line)
    ]


def test_every_feature_has_its_row_and_a_state() -> None:
    rows = feature_rows()
    assert [int(row[0]) for row in rows] == list(range(1, 131))
    assert {len(row) for row in rows} == {6}
    assert {row[4] for row in rows} <= {"owed", "done", "explained"}


def test_done_features_name_tests_that_exist() -> None:
    for number, _, command, test, state, _ in feature_rows():
        if state == "done":
            assert command and test, f"row {number} is done but names no command or no test"
            for name in re.findall(r"test_\w+\.py", test):
                assert (ROOT / "tests" / name).is_file(), f"row {number} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_local_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []
