"""Scores along a run: when, of what, what they decide, and that a stopped run goes on with them."""

import json
import signal
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from errors import UserError
from games.preview import GeneratorScorer
from tests.running import cheap, full, request, run, state
from tests.test_config import refusal
from tools import evaluate, sample
from training.folder import planned
from training.loop import Loop, Stopped
from training.run import run_plan
from training.scores import Scores


def scored(weights: Path, every: int = 2) -> str:
    """Flags for scores of 64 images."""
    return f"--eval_interval {every} --eval_n 64 --extractor digits-cnn --metric_weights {weights}"


def lines_of(folder: Path) -> list[dict]:
    """scores.jsonl without dates."""
    texts = (folder / "scores.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(text).items() if k != "date"} for text in texts]


class Given:
    """An evaluator whose scores are given beforehand, None for a failure, and what is special of them; by the step."""

    def __init__(
        self, values: dict[int, float | None], better: str = "low", special: dict[int, dict] | None = None
    ):
        self.values, self.better, self.special = values, better, special or {}

    def score(self, G, *, step: int, weights: str, batch_norm: str) -> dict:
        if self.values[step] is None:
            raise ValueError("features that\nare not finite")
        about = {"fakes": "generator", "best_by": ["x", self.better], "n_fake": 1} | self.special.get(
            step, {}
        )
        return {"step": step, about["best_by"][0]: self.values[step], "protocol": about}


def with_scores(folder: Path, evaluator: Given, patience: int | None = None, steps: int = 8) -> Loop:
    """A run whose evaluations are given; a checkpoint is due at its end alone."""
    loop = run(f"--log_name a --n_steps 1 --overwrite {'--ema'}", folder)
    loop.config = loop.config.__class__(**(vars(loop.config) | {"n_steps": steps}))
    loop.scores = Scores(GeneratorScorer(evaluator), loop.log, interval=2, patience=patience)
    loop.run()
    return loop


def test_best_is_kept_and_loaded_again(tmp_path: Path, weights: Path) -> None:
    """A line every two steps and at the end; the best from disk gives its line again, to the last digit."""
    run(
        f"--log_name a --n_steps 9 --ema --keep_checkpoints 2 {scored(weights)} --metrics fid modes kid",
        tmp_path,
    )
    found = lines_of(tmp_path / "a")
    assert [line["step"] for line in found] == [2, 4, 6, 8, 9]
    assert {line["protocol"]["weights"] for line in found} == {"ema"}
    best = min(found, key=lambda line: line["fid[digits-cnn]"])
    names = {file.name for file in (tmp_path / "a" / "checkpoints").iterdir()}
    assert f"step-{best['step']:08d}.pt" in names and "step-00000009.pt" in names
    more = ["--metrics", "fid", "modes", "kid", "--n", "64", "--extractor", "digits-cnn", "--device", "cpu"]
    command = [str(tmp_path / "a"), "--checkpoint", "best", "--metric_weights", str(weights), *more]
    with cheap():  # as the run measured its batch norm
        assert evaluate.main(command) == 0
    assert lines_of(tmp_path / "a")[-1] == best
    assert sample.main([str(tmp_path / "a"), "--checkpoint", "best", "--out", str(tmp_path / "x.png")]) == 0


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_a_run_is_scored_against_its_own_split(tmp_path: Path, weights: Path, split: str) -> None:
    run(f"--log_name a --n_steps 1 --split {split} {scored(weights)}", tmp_path)
    (line,) = lines_of(tmp_path / "a")
    assert (line["protocol"]["split"], line["protocol"]["reference"]) == (split, "digits")


def test_more_fakes_than_reals_are_held_against_all(tmp_path: Path, weights: Path) -> None:
    run(f"--log_name a --n_steps 1 --split test {scored(weights)} --eval_n 310", tmp_path)
    (line,) = lines_of(tmp_path / "a")
    assert (line["protocol"]["n_fake"], line["protocol"]["n_real"]) == (310, 300)


def test_a_resumed_run_has_the_same_scores(tmp_path: Path, weights: Path) -> None:
    """Stopped at step 5 after an evaluation that its checkpoint knows of; lines after the checkpoint are cut."""
    command = f"--n_steps 8 --checkpoint_interval 5 {scored(weights)}"
    run(f"--log_name whole {command}", tmp_path)
    run(f"--log_name a {command}", tmp_path)
    whole = lines_of(tmp_path / "whole")
    assert lines_of(tmp_path / "a") == whole
    for step in (6, 8):  # what a run killed at step 7 would lack
        (tmp_path / "a" / "checkpoints" / f"step-{step:08d}.pt").unlink(missing_ok=True)
    loop = run("--log_name a --resume", tmp_path)
    assert lines_of(tmp_path / "a") == whole
    assert loop.scores.state_dict() == state(tmp_path, "whole", 8)["loop"]["scores"]
    assert [row[0] for row in loop.scores.history] == [2, 4, 6, 8]


def test_trackers_get_the_numbers(tmp_path: Path, weights: Path) -> None:
    run(f"--log_name a --n_steps 2 --loggers tensorboard {scored(weights)} --metrics fid is", tmp_path)
    events = EventAccumulator(str(tmp_path / "a"))
    events.Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("score/")}
    assert tags == {"score/fid[digits-cnn]", "score/is[digits-cnn]", "score/is_std[digits-cnn]"}
    (value,) = events.Scalars("score/fid[digits-cnn]")
    assert value.step == 2 and value.value == pytest.approx(lines_of(tmp_path / "a")[0]["fid[digits-cnn]"])


def test_patience_ends_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """5, 3, 4, 6: after two without a better one; step 4's checkpoint stays and step 8's is written."""
    loop = with_scores(tmp_path, Given({2: 5.0, 4: 3.0, 6: 4.0, 8: 6.0}), patience=2, steps=20)
    assert loop.step == 8 and loop.scores.best() == 4
    assert {4, 8} <= set(loop.store.steps())
    said = capsys.readouterr().out
    assert "x 3 of ema weights, the best so far" in said and "x 6 of ema weights, best at step 4" in said
    assert (
        reason := "nothing better in 2 score(s) in a row: ended at step 8, the best is that of step 4"
    ) in said
    loop.run()  # nothing is trained on
    assert loop.step == 8 and reason in capsys.readouterr().out


def test_equal_scores_are_no_gain(tmp_path: Path) -> None:
    loop = with_scores(tmp_path, Given({2: 3.0, 4: 3.0, 6: 1.0, 8: 1.0, 10: 1.0}), patience=2, steps=20)
    assert loop.step == 10 and loop.scores.best() == 6


def test_higher_may_be_better(tmp_path: Path) -> None:
    loop = with_scores(tmp_path, Given({2: 1.0, 4: 3.0, 6: 3.0, 8: 2.0}, better="high"))
    assert loop.scores.best() == 4 and not loop.scores.exhausted()
    assert loop.log.best_steps() == {4}


@pytest.mark.parametrize("special", [{"n_fake": 2}, {"best_by": ["y", "low"]}])
def test_other_protocols_are_not_compared(special: dict, tmp_path: Path) -> None:
    """Scores of fewer samples, or others, before a resume are no better ones."""
    given = Given({2: 1.0, 4: 5.0, 6: 4.0, 8: 6.0}, special=dict.fromkeys((4, 6, 8), special))
    loop = with_scores(tmp_path, given)
    assert loop.scores.best() == 6 and loop.log.best_steps() == {2, 6}


def test_a_late_evaluation_is_made_once(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores asked for when a run goes on: that of the step where it stands is in the checkpoint at once."""
    run("--log_name a --n_steps 4", tmp_path)
    resume = f"--log_name a --resume --n_steps 6 {scored(weights)}"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "_run_to_end", lambda loop: (_ for _ in ()).throw(KeyboardInterrupt))
        run(resume, tmp_path)  # killed after it
    run(resume, tmp_path)
    assert [line["step"] for line in lines_of(tmp_path / "a")] == [4, 6]


def test_a_failed_evaluation_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = with_scores(tmp_path, Given({2: 5.0, 4: None, 6: 4.0, 8: 6.0}))
    line = "warning: evaluation at step 4 failed: features that are not finite; training goes on\n"
    assert line in capsys.readouterr().err
    assert loop.step == 8 and [row[0] for row in loop.scores.history] == [2, 6, 8]


def test_a_signal_ends_an_evaluation(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stopped evaluation is made when the run goes on, which ends like one that was never stopped."""
    command = f"--n_steps 4 --eval_n 300 {scored(weights).replace('--eval_n 64', '')}"
    run(f"--log_name whole {command}", tmp_path)
    evaluated = Loop._evaluate

    def stopping(loop: Loop, step: int) -> bool:
        loop.signals.received = signal.SIGTERM
        return evaluated(loop, step)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Loop, "_evaluate", stopping)
        run(f"--log_name a {command}", tmp_path)
    assert not (tmp_path / "a" / "scores.jsonl").exists() or lines_of(tmp_path / "a") == []
    run("--log_name a --resume", tmp_path)
    assert lines_of(tmp_path / "a") == lines_of(tmp_path / "whole")


@pytest.mark.parametrize("end", ["signal", "kill"])
def test_a_late_evaluation_that_ends_with_the_run_is_one_line(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A signal comes while the score is written, or a kill before a checkpoint knows of it."""
    run("--log_name a --n_steps 4", tmp_path)
    resume = f"--log_name a --resume --n_steps 6 {scored(weights)}"
    evaluated, error = Loop._evaluate, Stopped if end == "signal" else KeyboardInterrupt

    def ending(loop: Loop, step: int) -> bool:
        best = evaluated(loop, step)
        if end == "kill":
            raise KeyboardInterrupt
        loop.signals.received = signal.SIGTERM
        return best

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(Loop, "_evaluate", ending)
        run(resume, tmp_path)
    assert [line["step"] for line in lines_of(tmp_path / "a")] == [4]
    assert state(tmp_path, "a", 4)["loop"]["scores"] != [] or end == "kill"
    loop = run(resume, tmp_path)
    assert [line["step"] for line in lines_of(tmp_path / "a")] == [4, 6]
    assert [row[0] for row in loop.scores.history] == [4, 6]


def test_a_pause_is_no_training_time(tmp_path: Path) -> None:
    loop = run("--log_name a --n_steps 1", tmp_path)
    (before, at), _ = loop.log._mark, None
    loop.log.pause(7.0)
    assert loop.log._mark == (before + 7.0, at)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--eval_n 5", "--eval_n needs --eval_interval"),
        ("--extractor mnist-cnn", "--extractor needs --eval_interval"),
        ("--eval_interval 0", "--eval_interval 0 must be at least 1"),
        ("--eval_interval 5 --eval_n 1", "--eval_n 1 must be at least 2"),
        ("--eval_interval 5 --eval_patience 0", "--eval_patience 0 must be at least 1"),
        ("--eval_interval 5 --metrics fid fid", "--metrics fid fid: at least one, each once"),
    ],
)
def test_flags_that_do_not_fit(flags: str, words: str) -> None:
    assert words in refusal(flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--eval_n 64 --extractor digits-cnn --metric_weights absent", "absent"),
        ("--eval_n 3 --extractor digits-cnn --metrics fid kid", "kid needs at least 4 reals .* 3 and 3"),
        ("--eval_n 64 --extractor digits-cnn --metrics accuracy", "^metrics accuracy"),
    ],
)
def test_refused_before_the_run_has_a_folder(flags: str, words: str, tmp_path: Path, weights: Path) -> None:
    if "metric_weights" not in flags:
        flags += f" --metric_weights {weights}"
    with pytest.raises(UserError, match=words):
        run(f"--log_name a --n_steps 2 --eval_interval 2 {flags}", tmp_path)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("which", "words"),
    [("best", "has no scores yet"), ("7", "has checkpoints of steps 2"), ("x", "has checkpoints of steps 2")],
)
def test_checkpoints_that_are_not_there(
    which: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_plan(planned(request(full("--log_name a --n_steps 2", tmp_path))))
    capsys.readouterr()
    command = [str(tmp_path / "a"), "--out", str(tmp_path / "a.png"), "--checkpoint", which]
    assert sample.main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said


def test_the_best_checkpoint_may_be_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_scores(tmp_path, Given({2: 5.0, 4: 3.0, 6: 4.0, 8: 6.0}))
    (tmp_path / "a" / "checkpoints" / "step-00000004.pt").unlink()
    capsys.readouterr()
    assert sample.main([str(tmp_path / "a"), "--checkpoint", "best", "--out", str(tmp_path / "a.png")]) == 2
    assert "is of step 4, which has no checkpoint\n" in capsys.readouterr().err
