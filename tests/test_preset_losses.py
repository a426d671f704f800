"""The first steps of some presets are those of commit 27ab034; a change that moves them says so.

stylegan2's are of since its mapping learns as published.
"""

import json
from pathlib import Path

import pytest

from tests.preset_losses import all_presets, differences, first_steps, write_images

KEPT = json.loads(Path(__file__).with_name("preset_losses.json").read_text())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("presets") / "images"
    write_images(folder)
    return folder


@pytest.mark.parametrize("name", KEPT)
def test_first_steps_are_what_they_were(name: str, images: Path, tmp_path: Path) -> None:
    """To 1e-3: another processor rounds otherwise. To the last digit on one machine: `tests/preset_losses.py`."""
    found = first_steps(name, all_presets(), images, tmp_path)["steps"]
    assert len(found) == len(KEPT[name])
    for step, kept in zip(found, KEPT[name], strict=True):
        assert {key: step[key] for key in kept} == pytest.approx(kept, rel=1e-3, abs=1e-6)


def test_differences_are_found() -> None:
    one = {"steps": [{"step": 1, "loss/d": 1.0}], "weights": "a"}
    other = {"steps": [{"step": 1, "loss/d": 1.5}], "weights": "b"}
    assert differences({"x": one}, {"x": one}) == ["x: 1 values and all weights equal"]
    assert differences({"x": one}, {"x": other}) == [
        "x: step 1 loss/d: 1.0 -> 1.5; weights after the last step"
    ]
    assert differences({"x": one}, {"y": one}) == ["x: only before", "y: only after"]
