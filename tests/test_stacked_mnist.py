"""The study of Stacked MNIST: its rows, its table by hand, and what is said before training."""

import json
from pathlib import Path

import pytest
from PIL import Image

from errors import UserError
from studies import stacked_mnist
from studies.stacked_mnist import ROWS, training


def test_every_row_is_legal(tmp_path: Path) -> None:
    """With an average, on Stacked MNIST, and ended by its seconds."""
    for row in ROWS:
        run = training(row, 1, 60.0, tmp_path)
        config = run.config()
        assert (config.dataset, config.seed, config.ema, config.img_size) == ("stacked-mnist", 1, True, 32)
        assert (run.n_steps, run.seconds) == (None, 60) and run.name.replace("-", "").isalnum()
    assert len({training(row, 0, 60.0, tmp_path).name for row in ROWS}) == len(ROWS)


def finished(folder: Path, row: str, seed: int, modes: int, kl: float) -> None:
    """The traces of a run that was trained for 4 steps and scored."""
    run = training(row, seed, 2.0, folder)
    (run.folder / "checkpoints").mkdir(parents=True)
    (run.folder / "checkpoints" / "step-00000004.pt").touch()
    (run.folder / "metrics.jsonl").write_text(json.dumps({"step": 4, "img_per_s": 64.0}) + "\n")
    (run.folder / "samples").mkdir()
    Image.new("RGB", (64, 64)).save(run.folder / "samples" / "step-00000004-ema.png")
    about = {
        **run.protocol, "step": 4, "code": "abc", "torch": "2", "device": "cpu", "fakes": "generator", "seed": 0,
    }  # fmt: skip
    line = {
        "step": 4,
        "classes": modes,
        "kl_data": kl,
        "kl_uniform": kl,
        "confidence": 0.75,
        "protocol": about,
    }
    (run.folder / "scores.jsonl").write_text(json.dumps(line) + "\n")


def test_the_report_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of a row, one of another: 990 and 1000 modes are 995 +- 7.1."""
    monkeypatch.setattr("studies.runs.Training.done", lambda run: run.folder.is_dir())
    finished(tmp_path / "runs", "r3gan-tiny", 0, 990, 0.1)
    finished(tmp_path / "runs", "r3gan-tiny", 1, 1000, 0.2)
    finished(tmp_path / "runs", "gan + R1", 0, 600, 1.5)
    runs = {(row, s): training(row, s, 2.0, tmp_path / "runs") for row in ROWS for s in (0, 1)}
    stacked_mnist.report(runs, 2.0, tmp_path / "stacked.md")
    text = (tmp_path / "stacked.md").read_text()
    _, r3gan, r1 = [line for line in text.splitlines() if line.startswith("| ")]
    link = "[2501.05441](https://arxiv.org/abs/2501.05441)"
    assert r3gan.startswith(f"| r3gan-tiny | {link} | 2 | 995.0 ± 7.1 | 0.150 ± 0.071 | ")
    assert "| 1 | 600.0 ± – | 1.500 ± – |" in r1 and "2 seconds of training a run, seeds 0, 1." in text
    with Image.open(tmp_path / "images" / "stacked_mnist.png") as picture:
        assert picture.width > 2 * stacked_mnist.SHOWN_SIDE


def test_what_is_missing_is_said_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_weights(name: str) -> None:
        raise UserError(f"no weights of {name}")

    trained: list[int] = []
    monkeypatch.setattr(stacked_mnist, "train_all", lambda runs, *_: trained.append(len(runs)) or [])
    monkeypatch.setattr(stacked_mnist, "open_extractor", no_weights)
    words = ["--runs_dir", str(tmp_path / "none"), "--out", str(tmp_path / "s.md"), "--rows", "gan"]
    assert stacked_mnist.main(words) == 2
    assert "no weights of stacked-mnist-cnn" in capsys.readouterr().err and trained == []
    assert stacked_mnist.main([*words, "--seconds", "0"]) == 2
    assert "--seconds 0 must be above 0" in capsys.readouterr().err
    assert stacked_mnist.main([*words, "--report_only"]) == 2
    assert "no run is finished and scored" in capsys.readouterr().err
