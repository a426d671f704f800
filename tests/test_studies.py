"""What studies share: which runs count as done, how long they train, which scores stand in one report."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import gan_ring8
from generation.version import code_version
from studies.runs import (
    Training,
    _failure,
    common_code,
    measured_by,
    score_all,
    scores_of,
    spread_in,
    train_all,
)
from tests.running import ROOT

STEPS = 10
FLAGS = ("--preset=ring8-gan", "--seed=0", "--device=cpu", "--loggers", "--log_interval=5")
PROTOCOL = {"n_fake": 10_000, "weights": "raw"}


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study looks at its runs every other second, which is long beside those of a few steps."""
    monkeypatch.setattr("studies.runs.POLL", 0.1)


def training(folder: Path, name: str = "a", *more: str, **how: Any) -> Training:
    """A short run of points."""
    flags = (*FLAGS, f"--n_steps={STEPS}", *more)
    return Training(
        "gan_ring8", name, folder, flags, STEPS, scoring=("--device=cpu",), protocol=PROTOCOL, **how
    )


def scored(run: Training, *abouts: dict[str, Any]) -> None:
    """Make it a finished run with these scores."""
    run.folder.mkdir(parents=True)
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / f"step-{STEPS:08d}.pt").touch()
    lines = [
        json.dumps(
            {
                "step": about.get("step", STEPS),
                "jsd": float(i),
                "protocol": PROTOCOL | {"fakes": "generator", "seed": 0, "step": STEPS} | about,
            }
        )
        for i, about in enumerate(abouts)
    ]
    (run.folder / "scores.jsonl").write_text("\n".join([*lines, '{"half', "[1]"]))


def test_only_scores_taken_alike_count(tmp_path: Path) -> None:
    """Half a line, other fakes, fewer of them, another step, reader, split, truncation, seed, ...: none is the run's
    score, nor is the newest one of another metric alone."""
    run = training(tmp_path)
    others = [
        {"fakes": "noise"}, {"n_fake": 5}, {"step": 1}, {"extractor": "lite0"}, {"weights": "ema"}, {"seed": 1},
        {"truncation": 0.7}, {"truncation_layers": 2}, {"split": "test"}, {"labels": "balanced"}, {"n_real": 5},
        {"extractor_sha256": "ab"},
    ]  # fmt: skip
    scored(run, {"code": "v"}, *({"code": "v"} | other for other in others))
    about = PROTOCOL | {"fakes": "generator", "seed": 0, "step": STEPS, "code": "v"}
    with open(run.folder / "scores.jsonl", "a") as file:
        for scores in ({"fid": 1.0}, {"jsd": "low"}):
            file.write("\n" + json.dumps({"step": STEPS, "protocol": about} | scores))
    run = replace(run, scores=("jsd",))
    assert [line["jsd"] for line in run.lines()] == [0.0] and run.codes() == ["v"]
    images = replace(run, protocol={**PROTOCOL, "split": "test"})
    assert [line["protocol"]["split"] for line in images.lines()] == ["test"]
    # what is not finite is a score too, which is not scored again
    with open(run.folder / "scores.jsonl", "a") as file:
        file.write("\n" + json.dumps({"step": STEPS, "protocol": about, "jsd": None}))
    assert [line["jsd"] for line in run.lines()] == [0.0, None] and spread_in([1.0, None], ".1f") == "–"


def test_runs_of_several_versions_are_said(tmp_path: Path) -> None:
    """Whatever else stands in the logs, and however long they are."""
    runs = [training(tmp_path, name) for name in "ab"]
    about = PROTOCOL | {"code": "v9", "torch": "2", "device": "cpu"}
    for run, version in zip(runs, ("v1", "v2"), strict=True):
        run.log.write_bytes(f"version {version}: gan_ring8.py\n".encode() + b"\xff\rstep 1" * 1000 + b"\n")
    said = measured_by(runs, [{"protocol": about}])
    assert said.startswith(
        "Trained by version v1, v2; scored by version v9, torch 2, cpu.\n\nSeveral versions of "
    )
    assert "\n" not in measured_by(runs[:1], [{"protocol": about}])


def test_a_report_is_of_one_version(tmp_path: Path) -> None:
    """The newest one that all have; the run that lacks it has no score; nothing is scored anew where one is common."""
    a, b, c = (training(tmp_path, name) for name in "abc")
    scored(a, {"code": "v1"}, {"code": "v2"}, {"code": "v3"})
    scored(b, {"code": "v1"}, {"code": "v2"})
    scored(c, {"code": "v3"})
    assert common_code([a, b]) == "v2" and common_code([a, b, c]) is None and common_code([]) is None
    assert [line["jsd"] for line in scores_of([a, b])] == [1.0, 1.0]
    assert score_all([a, b]) == []  # these folders hold no generator to score
    assert scores_of([a, b, training(tmp_path, "d")])[2] is None


def test_all_are_scored_anew_by_one_version(tmp_path: Path) -> None:
    run = training(tmp_path)
    assert gan_ring8.main(run.command()[2:]) == 0 and run.done()
    assert score_all([run]) == [] and run.codes() == [code_version()]
    other = training(tmp_path, "b")
    scored(other, {"code": "old"})
    said = score_all([run, other])
    assert len(said) == 1 and "b could not be scored" in said[0] and run.codes() == [code_version()]


def test_runs_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    run = training(tmp_path)
    assert gan_ring8.main(run.command()[2:]) == 0
    run.check()
    replace(
        run, flags=(*run.flags, "--n_steps=20", "--log_interval=7")
    ).check()  # a run may go on, and be looked at
    with pytest.raises(ValueError, match=r"a was trained otherwise \(lr: 0.0003 -> 0.1\): remove it"):
        replace(run, flags=(*run.flags, "--lr=0.1")).check()


def test_a_failed_run_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    good = training(tmp_path, "b")
    said = train_all([training(tmp_path, "a", "--batch_size=none"), good], 1)
    assert len(said) == 1 and "a ended with exit code 2" in said[0] and str(tmp_path / "a.log") in said[0]
    assert good.done() and good.trained_by() == {code_version()}


def test_the_last_words_of_a_long_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training(tmp_path)
    monkeypatch.setattr("disk.JSON_LIMIT", 10)
    run.log.write_bytes(b"version v1: a\n" + b"\xff step\r\n" * 10_000 + b"error: \x1b[2J no disk\n")
    assert r"a ended with exit code 2 (error: \x1b[2J no disk), see " in _failure(run, 2)
    run.log.write_bytes(b"")
    assert "(nothing)" in _failure(run, 1)


def test_a_look_costs_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings are read once, and each line of metrics.jsonl."""
    run = replace(training(tmp_path), n_steps=None, seconds=100.0)
    run.folder.mkdir()
    parsed: list[int] = []
    config = run.config()
    monkeypatch.setattr(Training, "config", lambda _: parsed.append(1) or config)
    for step in (1, 2, 3):
        with open(run.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": step, "img_per_s": config.batch_size / 40}) + "\n")
        assert run.due() == (step == 3) and run.clock()[-1] == (step, 40.0 * step)
    assert parsed == [1]


def test_a_budget_in_seconds_ends_a_run_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    """It is training time as metrics.jsonl has it; the run is saved, scored at its last step, and resumed."""
    run = replace(training(tmp_path, "a", "--n_steps=1000000"), n_steps=None, seconds=0.5)
    assert not run.done()
    assert train_all([run], 1) == []
    assert run.done() and run.end() == run.steps()[-1] < 1_000_000
    first = run.end()
    assert 0.5 <= run.clock()[-1][1] < 60
    longer = replace(run, seconds=run.clock()[-1][1] + 0.5)
    assert not longer.done()
    assert train_all([longer], 1) == [] and longer.end() > first
    assert train_all([longer], 1) == []


def test_a_stopped_study_stops_its_runs(tmp_path: Path) -> None:
    """The child saves and is gone; SIGTERM reaches the study alone."""
    code = (
        "import sys\nfrom pathlib import Path\nimport signals\nsignals.as_command()\n"
        "from studies.runs import Training, train_all\n"
        f"run = Training('gan_ring8', 'a', Path(sys.argv[1]), {(*FLAGS, '--n_steps=1000000')!r}, 1000000)\n"
        "train_all([run], 1)\n"
    )
    study = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    metrics = tmp_path / "a" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < until:
        time.sleep(0.1)
    study.send_signal(signal.SIGTERM)
    assert study.wait(60) == 128 + signal.SIGTERM
    assert "saved" in (tmp_path / "a.log").read_text() or Training("gan_ring8", "a", tmp_path, FLAGS).steps()
    locks = list((tmp_path / "a").glob("run.lock"))
    assert locks == []


def test_spread_in_a_format() -> None:
    assert spread_in([0.5, 0.7], ".1%") == "60.0% ± 14.1%" and spread_in([3.0], ".2f") == "3.00 ± –"
