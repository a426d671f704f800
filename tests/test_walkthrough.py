"""docs/walkthrough.ipynb and the README's Python run as they stand, at a few steps; what is committed came of it."""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from losses import METHODS, PENALTIES
from tests.running import ROOT

FILE = ROOT / "docs" / "walkthrough.ipynb"
CELLS = json.loads(FILE.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
MAX_BYTES = 1_000_000
FEW_STEPS = 8


def source(cell: dict) -> str:
    """A cell's text."""
    return "".join(cell["source"])


def shows_a_picture(text: str) -> bool:
    """Whether a cell ends with a picture."""
    return text.splitlines()[-1].startswith(("show(", "picture(", "stack(", "pair.resize("))


def values_of(text: str, namespace: dict) -> object:
    """Run a cell as a notebook does; what its last line is, if that is an expression."""
    *first, last = text.splitlines(keepends=True)
    if not shows_a_picture(text):
        exec(compile(text, FILE.name, "exec"), namespace)
        return None
    exec(compile("".join(first), FILE.name, "exec"), namespace)
    return eval(last, namespace)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to run in; rows that are added to tables go again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    before = [(table, dict(table)) for table in (METHODS, PENALTIES)]
    yield tmp_path
    for table, rows in before:
        table.clear()
        table.update(rows)


def test_every_cell_runs(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("N_STEPS", str(FEW_STEPS))
    namespace: dict = {"__name__": "__main__"}
    pictures = 0
    for cell in CODE:
        found = values_of(source(cell), namespace)
        if shows_a_picture(source(cell)):
            assert isinstance(found, Image.Image) and min(found.size) > 50
            pictures += 1
    assert pictures >= 8 and namespace["run"].step == FEW_STEPS and len(namespace["signs"]) == FEW_STEPS
    said = capsys.readouterr().out
    assert "the same weights to the last bit: True" in said and "the first ten again: True" in said
    assert {path.name for path in scratch.iterdir()} == {"runs"}


def test_committed_outputs_are_whole_and_of_no_machine() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text) < MAX_BYTES
    assert not re.search(r"(?<![\w.:/])/(home|root|tmp|work|usr|Users|mnt)\b", text)
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    for cell in CODE:
        outputs = cell["outputs"]
        assert not [output for output in outputs if output["output_type"] == "error"]
        found = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
        assert len(found) == shows_a_picture(source(cell)), source(cell)
        assert all(Image.open(io.BytesIO(base64.b64decode(png))).format == "PNG" for png in found)
        assert bool(outputs) or "print(" not in source(cell)


def test_links_of_the_text_lead_to_files() -> None:
    text = "\n".join(source(cell) for cell in CELLS if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#\s]+)\)", text)
    assert links and [link for link in links if not (FILE.parent / link).exists()] == []


def test_the_readmes_python_runs(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(scratch / "cache"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    few = re.sub(r"n_steps=\d+", "n_steps=2", block)
    assert few != block
    namespace: dict = {}
    exec(compile(few, "README.md", "exec"), namespace)
    assert namespace["first"].step == namespace["second"].step == 2
    assert "fid[digits-cnn]" in capsys.readouterr().out
