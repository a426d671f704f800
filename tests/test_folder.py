"""One process owns a run's folder, from its start to its end and over every accident in between."""

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import disk
import gan_mnist
from metrics.classifiers import DigitCNN
from metrics.features import save_extractor, save_tensors
from settings import TrainConfig
from signals import Stopped
from tests.running import ROOT, differing, full, full_disk, run, state
from tools import evaluate, sample
from training import train
from training.folder import Plan, is_occupied, plan_of
from training.run import run_plan, run_planned

SHORT = {
    "dataset": "digits", "img_size": 16, "z_dim": 8, "batch_size": 8, "loggers": (), "device": "cpu",
    "g_kwargs": {"width": 4}, "d_kwargs": {"width": 4}, "n_steps": 2,
}  # fmt: skip


def refused(command: str, folder: Path, capsys: pytest.CaptureFixture) -> str:
    """The one line of a refused command."""
    assert gan_mnist.main(shlex.split(full(command, folder))) == 2
    text = capsys.readouterr().err.strip()
    assert text.startswith("error: ") and "\n" not in text, text
    return text


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def steps_of(file: Path) -> list[int]:
    """The steps of a .jsonl's lines, all of which are whole."""
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


# -- two processes -------------------------------------------------------------------------------------------------

OWNER = """
import sys
from training import folder, run
from tests.running import cheap, request

def stand(step, values):
    if step == 2:
        print("stands", flush=True)
        sys.stdin.readline()

with cheap():
    run.run_plan(folder.planned(request(sys.argv[1])), on_step=stand)
"""


@contextmanager
def running(command: str, folder: Path) -> Iterator[subprocess.Popen]:
    """A run that stands still at step 2 until it is given a line; killed at the end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, full(command, folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
    )  # fmt: skip
    try:
        for line in process.stdout:
            if line == "stands\n":
                break
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(not hasattr(os, "kill"), reason="a process that is killed")
def test_a_live_run_is_left_alone_and_a_killed_one_is_taken_up(
    tmp_path: Path, capsys: pytest.CaptureFixture, weights: Path
) -> None:
    """Whatever would write there is refused in one line; what only reads goes on; what a kill leaves is removed."""
    command = "--log_name a --n_steps 4 --checkpoint_interval 1"
    checkpoint = tmp_path / "a" / "checkpoints" / "step-00000001.pt"
    with running(command, tmp_path) as owner:
        before = {name: (tmp_path / "a" / name).read_bytes() for name in names(tmp_path / "a")}
        assert checkpoint.exists()
        for again in (
            "--log_name a", "--log_name a --overwrite", "--log_name a --resume", f"{command} --resume auto",
            f"--resume {checkpoint}", f"--resume {tmp_path / 'a'}",
        ):  # fmt: skip
            said = refused(again, tmp_path, capsys)
            assert f"{tmp_path / 'a'} is in use by process {owner.pid} on " in said
        assert {name: (tmp_path / "a" / name).read_bytes() for name in names(tmp_path / "a")} == before

        assert sample.main([str(tmp_path / "a"), "--n", "1", "--out", str(tmp_path / "x.png")]) == 0
        how = ["--extractor", "digits-cnn", "--metric_weights", str(weights), "--n", "64", "--device", "cpu"]
        assert evaluate.main([str(tmp_path / "a"), *how]) == 0
        assert (tmp_path / "a" / "scores.jsonl").exists()
        assert run(f"--resume {checkpoint} --log_name b --n_steps 1", tmp_path).step == 1

        owner.kill()
        owner.wait()
    for place in (".", "checkpoints", "generator", "samples"):
        (tmp_path / "a" / place / "tmp-elsewhere-1-1x0123abcd-half").write_bytes(b"half")
    assert run(f"{command} --resume auto", tmp_path).step == 4
    assert not [name for name in names(tmp_path / "a") if "tmp-" in name or "lock" in name]
    run("--log_name whole --n_steps 4", tmp_path)
    assert differing(state(tmp_path, "whole", 4), state(tmp_path, "a", 4)) == []


def test_a_name_is_refused_before_data_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("games.noise_to_image.load_dataset", lambda *_, **__: pytest.fail("read"))
    (tmp_path / "a").mkdir()
    with disk.locked(tmp_path / "a"):
        said = refused("--log_name a", tmp_path, capsys)
    assert f"process {os.getpid()} on " in said and not list((tmp_path / "a").iterdir())


def test_runs_of_two_threads_that_saw_the_name_free_take_turns(tmp_path: Path) -> None:
    """Nothing deadlocks: the folder is locked when the process is the run's alone; the second finds it taken."""
    plans = [plan_of(TrainConfig(runs_dir=str(tmp_path), log_name="a", **SHORT), None) for _ in range(2)]
    ended: list[str] = []

    def start(plan: Plan) -> None:
        try:
            ended.append(f"trained {run_plan(plan).step}")
        except ValueError as error:
            ended.append(str(error))

    threads = [threading.Thread(target=start, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended[0] == "trained 2" and "is not empty" in ended[1], ended


# -- folders that were left ----------------------------------------------------------------------------------------


def test_a_folder_with_nothing_but_what_owning_leaves_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / disk.LOCK).write_text("elsewhere 1\n")
    disk.temporary_of(tmp_path / "a" / "config.json").write_text("{")
    run("--log_name a --n_steps 1", tmp_path)
    assert not [name for name in names(tmp_path / "a") if "tmp-" in name or disk.LOCK in name]


def test_the_longest_name_can_be_overwritten_and_a_longer_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    name = "n" * 200
    for _ in range(2):
        assert run(f"--log_name {name} --n_steps 1 --overwrite", tmp_path).step == 1
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert "at most 200 bytes" in refused(f"--log_name {name}n", tmp_path, capsys)


def test_a_run_starts_behind_a_link_and_deletes_nothing_there(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (behind := tmp_path / "scratch").mkdir()
    (tmp_path / "a").symlink_to(behind)
    command = (
        f"{full('--log_name x', tmp_path)[: -len('--log_name x')]} --log_name a --n_steps 1 --resume auto"
    )
    for _ in range(2):
        assert run(command, tmp_path).step == 1
    assert "is a link" in refused("--log_name a --overwrite", tmp_path, capsys)
    assert (behind / "config.json").exists() and (tmp_path / "a").is_symlink()


def test_a_refused_run_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    refused(
        "--log_name a --eval_interval 1 --metric_weights nowhere --extractor digits-cnn", tmp_path, capsys
    )
    refused("--eval_interval 1 --metric_weights nowhere --extractor digits-cnn", tmp_path, capsys)
    assert not list(tmp_path.iterdir())


def old_run(folder: Path) -> Path:
    """A run with a checkpoint and a file of its own."""
    run("--log_name a --n_steps 1", folder)
    (folder / "a" / "old").touch()
    return folder / "a"


def test_a_refused_overwrite_leaves_the_old_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    old = old_run(tmp_path)
    bad = "--eval_interval 1 --metric_weights nowhere --extractor digits-cnn"
    refused(f"--log_name a --overwrite {bad}", tmp_path, capsys)
    assert (old / "old").exists() and (old / "checkpoints" / "step-00000001.pt").exists()


class Killed(BaseException):
    """As SIGKILL: nothing after it is done."""


@pytest.mark.parametrize("place", ["os.rename", "training.claim.RunFolder._own", "shutil.rmtree", "disk.put"])
def test_overwrite_killed_at_any_moment_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    old_run(tmp_path)
    module, _, name = place.rpartition(".")

    def killed(*given: object, **options: object) -> None:
        raise Killed

    def left(self: object, **options: object) -> None:
        """A killed process frees its lock and tidies nothing."""
        self._lock.close()

    with monkeypatch.context() as patched:
        patched.setattr("training.claim.RunFolder.free", left)
        if name == "_own":  # the second: of the new folder
            own, calls = __import__("training.claim").claim.RunFolder._own, []
            patched.setattr(
                place, lambda self: calls.append(1) or (killed() if len(calls) > 1 else own(self))
            )
        else:
            patched.setattr(place, killed)
        with pytest.raises(Killed):
            run("--log_name a --n_steps 2 --overwrite", tmp_path)
    assert run("--log_name a --n_steps 2 --overwrite", tmp_path).step == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and not (tmp_path / "a" / "old").exists()


# -- --resume auto -------------------------------------------------------------------------------------------------


def test_one_command_starts_goes_on_and_ends(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Of a requeue loop: nothing there, killed before the first checkpoint, after it, at the end."""
    command = "--log_name a --n_steps 4 --checkpoint_interval 2 --log_interval 1 --resume auto"

    def kill(at: int) -> Callable:
        return lambda step, values: (_ for _ in ()).throw(Killed) if step == at else None

    tiny = full("--log_name x", tmp_path)[: -len("--log_name x")]  # a whole command, as a loop repeats it
    with pytest.raises(Killed):
        run(f"{tiny} {command}", tmp_path, kill(1))
    assert not (tmp_path / "a" / "checkpoints").exists() and (tmp_path / "a" / "config.json").exists()
    (tmp_path / "a" / "left").touch()
    with pytest.raises(Killed):
        run(f"{tiny} {command}", tmp_path, kill(3))
    assert not (tmp_path / "a" / "left").exists()  # begun anew
    capsys.readouterr()
    for _ in range(2):
        assert gan_mnist.main(shlex.split(f"{tiny} --runs_dir {tmp_path} {command}")) == 0
    assert "resumed at step 2" in (said := capsys.readouterr().out) and "resumed at step 4" in said
    assert steps_of(tmp_path / "a" / "metrics.jsonl") == [1, 2, 3, 4]
    whole = run(f"{tiny} --log_name whole --n_steps 4", tmp_path)
    assert differing(state(tmp_path, "a", 4), whole.state_dict()) == []
    refused_line = refused(f"{tiny} {command} --lr 1 --batch_size 4", tmp_path, capsys).splitlines()[-1]
    assert "another run's settings" in refused_line


def test_auto_goes_on_with_a_run_that_ended_after_it_was_planned(tmp_path: Path) -> None:
    """Runs that are started together take turns, and none puts another one's aside."""
    config = TrainConfig(runs_dir=str(tmp_path), log_name="a", **SHORT)
    plan = plan_of(config, "auto")  # nothing is there
    ended: list[object] = []

    def start() -> None:
        try:
            ended.append(train(config, resume="auto").step)
        except ValueError as error:
            ended.append(error)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == [2, 2, 2]
    with pytest.raises(ValueError, match="another run was in"):
        run_plan(plan)
    plans = [plan, plan_of(config, "auto")]
    assert run_planned(lambda: plans.pop(0)).step == 2 and not plans
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_auto_of_another_time_goes_on_with_its_own_number(tmp_path: Path) -> None:
    """The whole command, and the whole config from Python, of a run for which auto stood for another weight."""
    config = TrainConfig(runs_dir=str(tmp_path), log_name="a", **SHORT, penalty_weights={"r1": "auto"})
    train(config)
    file = tmp_path / "a" / "config.json"
    saved = json.loads(file.read_text())
    assert saved["asked"]["penalty_weights"] == {"r1": "auto"}
    file.write_text(json.dumps(saved | {"penalty_weights": {"r1": 3.0}}))
    assert plan_of(config, "latest").config.penalty_weights == {"r1": 3.0}
    assert train(replace(config, n_steps=3), resume="auto").step == 3
    saved = json.loads(file.read_text())
    assert saved["penalty_weights"] == {"r1": 3.0} and saved["asked"]["penalty_weights"] == {"r1": "auto"}


def test_a_folder_that_is_made_while_it_is_looked_at_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process makes it between any two questions about it."""
    folder, is_dir, exists = tmp_path / "a", Path.is_dir, Path.exists

    def then_made(ask: Callable[[Path], bool]) -> Callable[[Path], bool]:
        def asked(path: Path) -> bool:
            found = ask(path)
            folder.mkdir(exist_ok=True)
            return found

        return asked

    monkeypatch.setattr(Path, "is_dir", then_made(is_dir))
    monkeypatch.setattr(Path, "exists", then_made(exists))
    assert not is_occupied(folder)
    (tmp_path / "file").touch(), (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert is_occupied(tmp_path / "file") and is_occupied(tmp_path / "gone") and is_occupied(tmp_path)


def test_ctrl_c_names_the_folder(tmp_path: Path) -> None:
    def stop(step: int, values: dict) -> None:
        raise Stopped(signal.SIGINT)

    config = TrainConfig(runs_dir=str(tmp_path), log_name="a", **SHORT)
    with pytest.raises(KeyboardInterrupt, match=f"stopped; {tmp_path / 'a'} can be resumed"):
        train(config, resume="auto", on_step=stop)


def test_auto_from_python(tmp_path: Path) -> None:
    config = TrainConfig(runs_dir=str(tmp_path), log_name="a", **SHORT)
    for _ in range(2):
        assert train(config, resume="auto").step == 2
    with pytest.raises(ValueError, match="resume auto needs log_name"):
        train(TrainConfig(runs_dir=str(tmp_path), **SHORT), resume="auto")


def test_auto_deletes_no_photos_and_keeps_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "precious.jpg").touch()
    said = refused("--log_name photos --resume auto --dataset digits --img_size 16", tmp_path, capsys)
    assert "is no run" in said and (tmp_path / "photos" / "precious.jpg").exists()
    assert "leave it out" in refused("--log_name a --resume auto --overwrite", tmp_path, capsys)
    old = old_run(tmp_path)
    checkpoint = old / "checkpoints" / "step-00000001.pt"
    checkpoint.write_bytes(half := checkpoint.read_bytes()[:-9])
    command = "--dataset digits --img_size 16 --z_dim 8 --batch_size 8 --log_name a --n_steps 2 --loggers"
    assert run(f"{command} --resume auto", tmp_path).step == 2
    assert "can be read: it is now" in capsys.readouterr().err
    assert (tmp_path / "a.old-1" / "checkpoints" / checkpoint.name).read_bytes() == half


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, b"", b"[1]", b'{"lr": 1}', b"\xff"])
def test_settings_that_are_gone_are_the_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture, content: bytes | None
) -> None:
    run("--log_name a --n_steps 1 --lr 1e-3", tmp_path)
    file = tmp_path / "a" / "config.json"
    before = file.read_bytes()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert run("--log_name a --resume --n_steps 2", tmp_path).config.lr == 1e-3
    warning = capsys.readouterr().err.strip()
    assert str(file) in warning and "settings are those of" in warning and "\n" not in warning
    assert json.loads(file.read_bytes()) == json.loads(before) | {
        "n_steps": 2, "asked": json.loads(before)["asked"] | {"n_steps": 2}
    }  # fmt: skip


# -- what is removed, and what a full disk does ----------------------------------------------------------------------


def test_a_folder_that_is_removed_is_whole_again_at_the_next_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """With TensorBoard, metrics, settings and the copy of the model's file; the run is resumed as any other."""
    (model := tmp_path / "mine.py").write_text("from modelling.dcgan import Discriminator, Generator\n")
    command = f"--log_name a --model {model} --loggers tensorboard --log_interval 1 --checkpoint_interval 2"
    command += " --sample_interval 2"

    def remove(step: int, values: dict) -> None:
        if step == 3:
            shutil.rmtree(tmp_path / "a")

    run(f"{command} --n_steps 6", tmp_path, remove)
    said = capsys.readouterr()
    assert said.err.count("was removed during the run") == 1 and "written again" in said.out
    found = names(tmp_path / "a")
    assert {"config.json", "model.py", "metrics.jsonl", "generator/config.json"} <= found
    assert steps_of(tmp_path / "a" / "metrics.jsonl") == logged(tmp_path / "a") == [5, 6]
    assert run("--log_name a --resume --n_steps 7", tmp_path).step == 7


def test_a_folder_that_another_run_took_meanwhile_is_left_alone(tmp_path: Path) -> None:
    def take(step: int, values: dict) -> None:
        if step == 1:
            shutil.rmtree(tmp_path / "a")
            (tmp_path / "a").mkdir()
            held.enter_context(disk.locked(tmp_path / "a"))

    with ExitStack() as held, pytest.raises(ValueError, match="is in use by process"):
        run("--log_name a --n_steps 2 --checkpoint_interval 2", tmp_path, take)
    assert not (tmp_path / "a" / "checkpoints").exists()


def logged(folder: Path) -> list[int]:
    """The steps that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [event.step for event in EventAccumulator(str(folder)).Reload().Scalars("loss/d")]


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_all_that_is_written_goes_on_when_there_is_room_again(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The disk takes no byte from the end of step 2 to that of step 4."""
    with ExitStack() as full:

        def fill(step: int, values: dict) -> None:
            if step == 3:
                full.enter_context(full_disk())
            if step == 5:
                full.close()

        command = "--log_name a --loggers tensorboard --log_interval 1 --sample_interval 1"
        run(f"{command} --checkpoint_interval 1 --n_steps 6", tmp_path, fill)
    said = capsys.readouterr()
    for what in ("metrics.jsonl", "tracker", "sample grid"):
        assert said.err.count(f"warning: {what} of") == said.out.count(f"note: {what} of") == 1, what
    folder = tmp_path / "a"
    assert steps_of(folder / "metrics.jsonl") == logged(folder) == [1, 2, 5, 6]
    assert not [name for name in names(folder) if "tmp-" in name]
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {f"step-0000000{i}.pt" for i in (2, 5, 6)}
    assert all(p.stat().st_size for p in (folder / "samples").iterdir())


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk_at_the_start_or_in_a_tool_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, weights: Path
) -> None:
    run("--log_name a --n_steps 4 --checkpoint_interval 2 --log_interval 1", tmp_path)
    folder = tmp_path / "a"
    scores = folder / "scores.jsonl"
    disk.put(scores, "".join(json.dumps({"step": step}) + "\n" for step in (2, 4, 1)))
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    how = ["--extractor", "digits-cnn", "--metric_weights", str(weights), "--n", "64", "--device", "cpu"]
    capsys.readouterr()
    with full_disk():
        said = refused("--log_name a --resume --n_steps 5", tmp_path, capsys)
        assert "cannot write to" in said and "large" in said
        refused("--log_name b --n_steps 5", tmp_path, capsys)
        for out in ("one.png", "many/"):
            assert sample.main([str(folder), "--n", "2", "--out", str(tmp_path / out)]) == 2
            assert capsys.readouterr().err.startswith(f"error: --out {tmp_path / out.rstrip('/')}")
        assert evaluate.main([str(folder), *how]) == 0
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"warning: {scores} cannot be")
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    assert {p.name for p in tmp_path.iterdir()} == {"a", "many"} and not list((tmp_path / "many").iterdir())
    checkpoint = folder / "checkpoints" / "step-00000002.pt"
    assert run(f"--resume {checkpoint} --n_steps 3 --log_interval 1", tmp_path).step == 3
    assert steps_of(scores) == [2, 1] and steps_of(folder / "metrics.jsonl") == [1, 2, 3]


# -- what is shared ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_every_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        run("--log_name a --n_steps 1 --loggers tensorboard", tmp_path)
        save_extractor(tmp_path / "cache" / "x.safetensors", DigitCNN(), {})
        save_tensors(tmp_path / "cache" / "y.safetensors", {"n": torch.tensor(1)})
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names(tmp_path)}
    assert set(modes.values()) == {0o640} and len(modes) > 8, modes


def test_what_is_shared_says_nothing_of_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture, weights: Path
) -> None:
    """Neither where the images nor where the networks' file stand; tools find them by the run, or are told."""
    (photos := tmp_path / "secret" / "photos").mkdir(parents=True)
    for i in range(16):
        Image.new("L", (16, 16), 10 * i).save(photos / f"{i}.png")
    (model := tmp_path / "secret" / "mine.py").write_text(
        "from modelling.dcgan import Discriminator, Generator\n"
    )
    where = (
        f"--data {photos} --data_root {tmp_path}/secret --cache_dir {tmp_path}/secret/cache --model {model}"
    )
    run(f"--log_name a --n_steps 1 {where}", tmp_path)
    (shared := tmp_path / "shared").mkdir()
    shutil.copytree(tmp_path / "a" / "generator", shared / "generator")
    shutil.copy(tmp_path / "a" / "model.py", shared)
    for name in names(shared):
        content = (shared / name).read_bytes()
        assert not [
            word for word in (str(tmp_path), "secret", str(Path.home())) if word.encode() in content
        ], name
    how = ["--extractor", "digits-cnn", "--metric_weights", str(weights), "--n", "16", "--device", "cpu"]
    how += ["--cache_dir", str(tmp_path / "cache")]
    assert evaluate.main([str(tmp_path / "a"), *how]) == 0
    capsys.readouterr()
    assert evaluate.main([str(shared / "generator"), *how]) == 2
    assert "was trained on photos: name a folder or archive with --data" in capsys.readouterr().err
    assert evaluate.main([str(shared / "generator"), *how, "--data", str(photos)]) == 0
    assert "not the data" not in capsys.readouterr().err


@pytest.mark.parametrize("inside", ["generator", "checkpoints", "samples"])
def test_a_folder_inside_of_a_run_names_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture, inside: str
) -> None:
    (tmp_path / "a" / inside).mkdir(parents=True)
    (tmp_path / "a" / "config.json").write_text('{"method": "gan", "model": "dcgan", "n_steps": 2}')
    (tmp_path / "a" / inside / "config.json").write_text('{"format": 1, "model": "dcgan"}')
    assert gan_mnist.main(["--resume", str(tmp_path / "a" / inside)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"--resume {tmp_path / 'a'} goes on" in said
