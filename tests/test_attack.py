"""The attacks: a few of them through the command, and a broken toolkit is noticed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

import studies.attacks.runs
from generation.checkpoint import CheckpointStore, load_checkpoint
from studies import attack
from studies.attacks import archives, disks, interruptions, pickles, tampering, texts
from studies.attacks.children import adopt_orphans
from studies.attacks.runs import N_STEPS, Case, Lab, differences, leavings
from tests.running import ROOT
from training.pictures import regular_distance

linux = pytest.mark.skipif(sys.platform != "linux", reason="fork, /proc and process groups")
MOMENTS = {"step": torch.tensor(1.0), "exp_avg": torch.ones(2, 3), "exp_avg_sq": torch.ones(2, 3)}
STATE = {
    "step": N_STEPS,
    "attempt": 0,
    "networks": {"G": {"weight": torch.arange(6.0).reshape(2, 3)}, "D": {"weight": torch.ones(3, 2)}},
    "ema": {"ema": {"weight": torch.ones(2, 3)}},
    "optimizers": {"G": {"state": {0: MOMENTS}, "param_groups": [{"params": [0], "lr": 1e-3}]}},
    "task": {},
    "loop": {"updates": 3},
}
LINES = [{"step": step, "loss/d": 1.5, "img_per_s": 10.0 * step} for step in (20, 40)]


def finished(folder: Path) -> Path:
    """What comparisons look at of a finished run."""
    CheckpointStore(folder / "checkpoints").save(STATE, N_STEPS)
    for name in ("metrics.jsonl", "scores.jsonl"):
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in LINES))
    for name in ("samples/step-00000040-raw.png", "generator/raw.safetensors"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"bytes")
    return folder


def one_bit(folder: Path) -> None:
    state = load_checkpoint(folder / "checkpoints" / f"step-{N_STEPS:08d}.pt")
    state["optimizers"]["G"]["state"][0]["exp_avg"][1, 2] += 2**-23
    CheckpointStore(folder / "checkpoints").save(state, N_STEPS)


def half_a_line(folder: Path) -> None:
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 4')


def a_line_twice(folder: Path) -> None:
    with open(folder / "scores.jsonl", "a") as file:
        file.write(f"{json.dumps(LINES[-1])}\n")


def another_picture(folder: Path) -> None:
    (folder / "samples" / "step-00000040-raw.png").write_bytes(b"other")


def no_weights(folder: Path) -> None:
    (folder / "generator" / "raw.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (one_bit, "differs in 1 places, optimizers/G/state/0/exp_avg"),
        (half_a_line, "metrics.jsonl: the last line is not whole"),
        (a_line_twice, "scores.jsonl differs"),
        (another_picture, "samples/step-00000040-raw.png differs"),
        (no_weights, "generator/raw.safetensors is missing"),
    ],
)
def test_what_a_run_has_lost_is_found(tmp_path: Path, spoil, said: str) -> None:
    one, other = finished(tmp_path / "one"), finished(tmp_path / "other")
    text = (other / "metrics.jsonl").read_text()
    (other / "metrics.jsonl").write_text(text.replace("200.0", "7.0"))  # speeds may differ
    assert differences(one, other) == []
    spoil(one)
    (found,) = differences(one, other)
    assert said in found


def test_leavings_are_found(tmp_path: Path) -> None:
    one, other = (finished(tmp_path / name / "runs" / "run").parent.parent for name in ("one", "other"))
    (one / "runs" / "run" / "checkpoints" / "step-00000033.pt").write_bytes(b"of a stop")
    assert leavings(one, other) == []
    (one / "cache").mkdir()
    (one / "cache" / "tmp-7-rows").write_bytes(b"")
    (one / "runs" / "run-aside").mkdir()
    assert leavings(one, other) == ["left behind: cache/tmp-7-rows", "left behind: runs/run-aside"]


def test_attacks_are_functions_of_their_seed() -> None:
    whole = archives.whole_archives()
    text = json.dumps({"weights": ["ema"], "build": {"width": 8}, "model": "dcgan"})
    for i in range(40):
        made = []
        for _ in range(2):
            rng = random.Random(i)
            about, data, must = tampering.tampered(STATE, rng)
            made.append((about, data, must, archives.fuzzed(whole, rng), texts.json_text(text, rng)))
        assert all(one == other for one, other in zip(*made, strict=True)), made[0][0]
    assert (STATE["step"], len(STATE)) == (N_STEPS, 7)  # each is made of a copy


def test_whole_archives_are_read(tmp_path: Path) -> None:
    for i, data in enumerate(archives.whole_archives()):
        file = tmp_path / str(i)
        file.write_bytes(data)
        assert archives.read(file, tmp_path / "cache").endswith(" images")


def test_every_phase_is_aimed_at() -> None:
    operations = ["cache/tmp-1.npy", "runs/run", "runs/run/metrics.jsonl", "runs/run/checkpoints/tmp-7.pt"]
    rng = random.Random(0)
    found = {interruptions.aimed(operations, rng) for _ in range(100)}
    assert found == {("decoding", 1), ("starting", 2), ("logging", 3), ("saving", 4)}


def test_trouble_lasts_from_one_operation_to_another() -> None:
    what = []
    trouble = disks.Trouble(2, 4, lambda: what.append("full"), lambda: what.append("free"))
    for count, path in enumerate("abcdef", 1):
        trouble(count, path)
    assert (what, trouble.touched()) == (["full", "free"], ["b", "c"])


def test_time_is_shared_out() -> None:
    one, two = (attack.Kind("g", name, print, 5, share) for name, share in (("one", 1.0), ("two", 3.0)))
    tallies = {one: attack.Tally(), two: attack.Tally()}
    jobs = attack.jobs_of([one, two], tallies, Namespace(minutes=1.0))
    for _ in range(40):
        kind, index = next(jobs)
        assert index == tallies[kind].begun
        tallies[kind].begun += 1
        tallies[kind].spent += 4.0
    assert (tallies[one].begun, tallies[two].begun) == (10, 30)
    counted = list(attack.jobs_of([one, two], tallies, Namespace(minutes=None, full=False, times=2)))
    assert counted == [(one, 0), (two, 0), (one, 1), (two, 1)]


def mistreated(folder: Path) -> dict[str, list[str]]:
    """What is said of commands that behave badly, by what they do; in a process of its own, whose children they are."""
    studies.attacks.runs.GRACE_S = 1.0  # in which one that sleeps would not be gone, nor in 15
    adopt_orphans()
    lab = Lab(folder / "lab")

    def leave_a_sleeper() -> int:
        if os.fork() == 0:
            os.setsid()
            time.sleep(60)
        return 0

    def fall() -> int:
        raise KeyError("traceback")

    def forge() -> int:
        print("error: \x1b[31mred")
        return 2

    def refuse_twice() -> int:
        print("error: one\nerror: two")
        return 2

    def crash() -> int:
        os.kill(os.getpid(), signal.SIGSEGV)
        return 0

    def devour() -> int:
        held = [bytearray(os.urandom(1) * (1 << 28)) for _ in range(8)]
        time.sleep(60)
        return len(held)

    said = {}
    for program in (leave_a_sleeper, fall, forge, refuse_twice, crash, devour, lambda: 0):
        case = Case(lab, folder / program.__name__.strip("<>"))
        (child,) = case.run(["x"], program=program)
        case.check_refusal(child, may_pass=False)
        said[program.__name__] = case.problems
    return said


@linux
def test_what_a_command_does_wrong_is_found(tmp_path: Path) -> None:
    program = (
        "import json, pathlib, sys; from tests.test_attack import mistreated; "
        "print(json.dumps(mistreated(pathlib.Path(sys.argv[1]))))"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = {name: "; ".join(problems) for name, problems in json.loads(done.stdout).items()}
    assert "left running: process" in said["leave_a_sleeper"]
    assert said["fall"] == "traceback; exit 70 in place of 2"
    assert said["forge"] == "control characters in the output"
    assert said["refuse_twice"] == "exit 2 with 2 lines of error"
    assert said["crash"] == "exit -11 in place of 2"
    assert said["devour"].startswith("exit -9 in place of 2; took ")
    assert said["<lambda>"] == "exit 0 in place of 2: taken without a word"


@linux
def test_a_few_attacks_by_the_command(tmp_path: Path) -> None:
    words = ["--times", "1", "--only", "disk", "archives", "tamper", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "studies.attack", *words],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|")[1:5] for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    held = {title.strip(): (int(tried), int(held), int(failed)) for title, tried, held, failed in rows}
    assert held["fuzzed archives"] == (archives.AT_ONCE, archives.AT_ONCE, 0)
    assert held["weights of others"] == (pickles.AT_ONCE, pickles.AT_ONCE, 0)
    assert len(held) == 8 and set(list(held.values())[:5]) == {(1, 1, 0)}
    assert list((tmp_path / "out").iterdir()) == []


def test_a_struck_run_has_pictures_where_its_twin_has() -> None:
    """It is as long as it may be: they are further apart in longer ones."""
    interval = 10
    assert f"--sample_interval {interval} " in studies.attacks.runs.TINY
    long = interruptions.LONG_ENOUGH
    distances = [regular_distance(interval, n) for n in (N_STEPS, long, long + 1)]
    assert distances == [interval, interval, 2 * interval]
