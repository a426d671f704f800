"""The study of the classic methods: its rows, its table by hand, and the way from the command to a report."""

import json
from pathlib import Path

import pytest
from PIL import Image

from studies import classic


def test_every_row_is_legal(tmp_path: Path) -> None:
    names = set()
    for method in classic.METHODS:
        run = classic.training(method, 1, 2000, tmp_path)
        config = run.config()
        assert (config.n_steps, config.seed, config.batch_size, config.ema) == (2000, 1, 32, True)
        assert config.model == "dcgan" and run.name.replace("-", "").isalnum()
        names.add(run.name)
    assert len(names) == len(classic.METHODS)


def finished(folder: Path, method: str, seed: int, fid: float, **more: float) -> None:
    """The traces of a run that was trained for 4 steps and scored."""
    run = classic.training(method, seed, 4, folder)
    (run.folder / "checkpoints").mkdir(parents=True)
    (run.folder / "checkpoints" / "step-00000004.pt").touch()
    (run.folder / "samples").mkdir()
    Image.new("L", (64, 64), 90 * seed).save(run.folder / "samples" / "step-00000004-ema.png")
    about = {
        **run.protocol,
        "step": 4,
        "code": "abc",
        "torch": "2",
        "device": "cpu",
        "extractor_sha256": "0" * 64,
    }
    scores = {f"fid[{classic.EXTRACTOR}]": fid, f"recall[{classic.EXTRACTOR}]": 0.5, "classes": 9}
    scores |= {"kl_uniform": 0.25, "confidence": 0.75} | more
    (run.folder / "scores.jsonl").write_text(json.dumps({"step": 4, **scores, "protocol": about}) + "\n")


def test_the_report_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of one method, one of another: 20 and 23 are 21.5 +- 2.1."""
    monkeypatch.setattr("studies.runs.Training.check", lambda run: None)
    finished(tmp_path / "runs", "gan", 0, 20.0)
    finished(tmp_path / "runs", "gan", 1, 23.0)
    finished(tmp_path / "runs", "labels, projected", 0, 8.0, class_accuracy=0.987)
    runs = {
        (m, s): classic.training(m, s, 4, tmp_path / "runs")
        for m in ("gan", "labels, projected")
        for s in (0, 1)
    }
    classic.report(runs, 4, tmp_path / "classic.md")
    rows = [line for line in (tmp_path / "classic.md").read_text().splitlines() if line.startswith("| ")]
    gan, labels = rows[1:]
    assert gan.startswith(
        "| gan | [1406.2661](https://arxiv.org/abs/1406.2661) | 2 | 21.5 ± 2.1 | 0.500 ± 0.000 | "
    )
    assert "| 1 | 8.0 ± – |" in labels and "| 98.7% ± – |" in labels
    assert "4 steps of 32, seeds 0, 1." in (tmp_path / "classic.md").read_text()
    # a row of two pictures: only gan has both seeds
    with Image.open(tmp_path / "images" / "classic_mnist.png") as picture:
        assert picture.width > 2 * classic.SHOWN_SIDE and picture.height < 2 * classic.SHOWN_SIDE


def test_nothing_to_report_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--report_only", "--runs_dir", str(tmp_path / "none"), "--out", str(tmp_path / "c.md")]
    assert classic.main(words) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "error: no run is finished and scored: leave --report_only out"
    )
