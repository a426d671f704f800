"""The study of the classic methods: its rows, its table by hand, and the way from the command to a report."""

import json
from pathlib import Path

import pytest
from PIL import Image

from errors import UserError
from studies import classic


def test_every_row_is_legal(tmp_path: Path) -> None:
    names = set()
    for method in classic.METHODS:
        run = classic.training(method, 1, 2000, tmp_path, "cpu")
        config = run.config()
        assert (config.n_steps, config.seed, config.batch_size, config.ema) == (2000, 1, 32, True)
        assert config.model == "dcgan" and run.name.replace("-", "").isalnum()
        names.add(run.name)
    assert len(names) == len(classic.METHODS)


def finished(folder: Path, method: str, seed: int, fid: float, **more: float) -> None:
    """The traces of a run that was trained for 4 steps and scored."""
    run = classic.training(method, seed, 4, folder, "cpu")
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
        "fakes": "generator",
        "seed": 0,
    }
    scores = {f"fid[{classic.EXTRACTOR}]": fid, f"recall[{classic.EXTRACTOR}]": 0.5, "classes": 9}
    scores |= {"kl_uniform": 0.25, "confidence": 0.75} | more
    # the newest is of `--metrics fid` alone, and none of the study's
    alone = {"step": 4, f"fid[{classic.EXTRACTOR}]": 1.0}
    lines = [{"step": 4, **scores, "protocol": about}, alone | {"protocol": about}]
    (run.folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_report_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of one method, one of another: 20 and 23 are 21.5 +- 2.1."""
    monkeypatch.setattr("studies.runs.Training.check", lambda run: None)
    finished(tmp_path / "runs", "gan", 0, 20.0)
    finished(tmp_path / "runs", "gan", 1, 23.0)
    finished(tmp_path / "runs", "labels, projected", 0, 8.0, class_accuracy=0.987)
    runs = {
        (m, s): classic.training(m, s, 4, tmp_path / "runs", "cpu")
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


def test_what_is_missing_is_said_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader's weights, and the data; after trainings that all failed their failures are what is said."""

    def no_weights(name: str) -> None:
        raise UserError(f"no weights of {name}")

    words = ["--runs_dir", str(tmp_path / "none"), "--out", str(tmp_path / "c.md"), "--methods", "gan"]
    words += ["--data_root", str(tmp_path / "nowhere")]
    trained: list[int] = []
    monkeypatch.setattr(
        classic, "train_all", lambda runs, *_: trained.append(len(runs)) or ["gan-0 ended: x"]
    )
    monkeypatch.setattr(classic, "open_extractor", no_weights)
    assert classic.main(words) == 2 and "no weights of mnist-cnn" in capsys.readouterr().err
    monkeypatch.setattr(classic, "open_extractor", lambda name: None)
    (tmp_path / "nowhere").touch()  # and no folder can be made there
    assert classic.main(words) == 2 and "nowhere" in capsys.readouterr().err and trained == []
    monkeypatch.setattr(classic, "load_dataset", lambda *a, **k: None)
    assert classic.main(words) == 2 and trained == [3]
    assert capsys.readouterr().err.strip().splitlines() == ["error: gan-0 ended: x"]
    assert not (tmp_path / "c.md").exists()


def test_nothing_to_report_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--report_only", "--runs_dir", str(tmp_path / "none"), "--out", str(tmp_path / "c.md")]
    assert classic.main(words) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "error: no run is finished and scored: leave --report_only out"
    )
