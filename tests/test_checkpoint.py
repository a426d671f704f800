"""Checkpoints: nothing is lost by a kill, a full disk or a damaged byte, and nothing else is loaded."""

import enum
import errno
import json
import os
import stat
import subprocess
import sys
from collections import OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from errors import UserError
from generation import checkpoint
from generation.checkpoint import (
    FOOTER_BYTES,
    CheckpointError,
    CheckpointStore,
    NonFiniteError,
    load_checkpoint,
)
from generation.state import check_shapes, difference, non_finite, plain, tensor_bytes

ROOT = Path(__file__).resolve().parents[1]


def small_state(step: int = 0, n: int = 1000) -> dict:
    """A state whose tensors say which step it is of."""
    return {"networks": {"G": {"w": torch.full((n,), float(step))}}, "ema": {}, "step": step}


def saved(folder: Path, *steps: int, keep: int = 3) -> CheckpointStore:
    """A store with one checkpoint for each step."""
    store = CheckpointStore(folder, keep)
    for step in steps:
        assert store.save(small_state(step), step) == store.path(step)
    return store


def flip(path: Path, offset: int) -> None:
    """Change one bit of the byte at offset."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def run_python(code: str, *args: str) -> subprocess.CompletedProcess:
    """Run a script in its own process, from the root of the repository."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code, *args], env=env, capture_output=True, text=True)


# --- content


class Colour(str, enum.Enum):  # noqa: UP042 - the older form is the one str() gets wrong
    RED = "red"


def test_round_trip_of_a_training_state(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    opt = torch.optim.Adam(net.parameters(), betas=(0.5, 0.999))
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    opt.step()
    state = {
        "networks": {"G": net.state_dict()},
        "ema": {"0.999": net.state_dict()},
        "optimizers": {"G": opt.state_dict()},
        "task": {"pool": [torch.arange(3)], "p": 0.25, "half": torch.ones(2, dtype=torch.bfloat16)},
        "big": 2**70,
        "none": None,
        "flag": True,
    }
    store = CheckpointStore(tmp_path / "runs" / "x")
    loaded = load_checkpoint(store.save(state, 7))
    torch.testing.assert_close(loaded, plain(state), rtol=0, atol=0)
    assert loaded["networks"]["G"]["0.weight"].stride() == net[0].weight.stride()
    assert not loaded["networks"]["G"]["0.weight"].requires_grad
    opt.load_state_dict(loaded["optimizers"]["G"])
    net.load_state_dict(loaded["networks"]["G"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Path("a") / "b", os.path.join("a", "b")),
        (torch.__version__, str(torch.__version__)),
        (Colour.RED, "red"),
        (torch.Size([2, 3]), (2, 3)),
        (namedtuple("Pair", "a b")(1, Path("x")), (1, "x")),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (deque([1, 2]), [1, 2]),
        (frozenset({1}), {1}),
        (defaultdict(list, a=[np.int8(1)]), {"a": [1]}),
        (OrderedDict(a=1), {"a": 1}),
        ({Path("k"): 1, (1, 2): 2, 3: 3}, {"k": 1, (1, 2): 2, 3: 3}),
        (torch.float16, torch.float16),
    ],
)
def test_plain_gives_base_types_that_survive_the_disk(
    tmp_path: Path, given: object, expected: object
) -> None:
    converted = plain(given)
    assert converted == expected
    assert type(converted) is type(expected)
    store = CheckpointStore(tmp_path)
    assert load_checkpoint(store.save({"x": given}, 0)) == {"x": expected}


def test_plain_turns_arrays_into_tensors_and_names_what_it_refuses() -> None:
    torch.testing.assert_close(plain({"a": np.arange(4.0)[::-2]})["a"], torch.tensor([3.0, 1.0]).double())
    with pytest.raises(TypeError, match=r"state\.config\.0: a object"):
        plain({"config": [object()]})


def test_a_view_does_not_drag_its_storage_along(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    path = store.save({"x": torch.zeros(1_000_000)[:10]}, 0)
    assert path.stat().st_size < 10_000
    shared = torch.zeros(100)
    assert tensor_bytes({"a": shared, "b": [shared, torch.zeros(5)]}) == 420


# --- damage


@pytest.mark.parametrize("where", [0, 1, 0.25, 0.5, 0.9, -FOOTER_BYTES - 1, -FOOTER_BYTES, -33, -32, -1])
def test_a_flipped_bit_is_detected_and_the_previous_one_used(tmp_path: Path, where: float, capsys) -> None:
    store = saved(tmp_path, 1, 2)
    newest = store.path(2)
    flip(newest, int(where * newest.stat().st_size) if isinstance(where, float) else where)
    with pytest.raises(CheckpointError):
        load_checkpoint(newest)
    state, path = store.latest()
    assert (state["step"], path) == (1, store.path(1))
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert newest.name in err


@pytest.mark.parametrize("n_bytes", [0, 1, FOOTER_BYTES, FOOTER_BYTES + 1, 1000, -FOOTER_BYTES, -1])
def test_a_truncated_file_is_detected(tmp_path: Path, n_bytes: int) -> None:
    store = saved(tmp_path, 1, 2)
    data = store.path(2).read_bytes()
    store.path(2).write_bytes(data[:n_bytes])
    with pytest.raises(CheckpointError, match="truncated" if n_bytes not in (0, 1) else "not a checkpoint"):
        load_checkpoint(store.path(2))
    assert store.latest()[0]["step"] == 1


def test_what_is_no_checkpoint_is_said_so(tmp_path: Path) -> None:
    assert issubclass(CheckpointError, UserError)
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="no regular file"):
        load_checkpoint(tmp_path)
    (tmp_path / "page.pt").write_text("<html>" * 100)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "page.pt")
    torch.save({"a": 1}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="another program"):
        load_checkpoint(tmp_path / "foreign.pt")


def test_a_whole_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    checkpoint._write({"config": Path("x")}, store.path(3))
    with pytest.raises(CheckpointError, match="no plain container"):
        load_checkpoint(store.path(3))
    assert store.latest() is None


def test_the_newest_whole_one_is_found_without_being_loaded(tmp_path: Path, monkeypatch) -> None:
    store = saved(tmp_path, 1, 2)
    store.path(3).write_bytes(store.path(2).read_bytes()[:-1])
    store.path(4).mkdir()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    assert store.newest_whole() == store.path(2)


def test_nothing_there(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "absent")
    assert store.newest_whole() is None
    assert store.steps() == []
    assert store.latest() is None
    assert not (tmp_path / "absent").exists()


# --- order of writing and pruning


def test_keeps_the_last_k_and_the_protected(tmp_path: Path) -> None:
    store = saved(tmp_path, 1, 2, 3, keep=2)
    assert store.steps() == [2, 3]
    store.save(small_state(4), 4, protect={2})
    assert store.steps() == [2, 3, 4]
    store.save(small_state(5), 5, protect={2})
    assert store.steps() == [2, 4, 5]
    store.save(small_state(10**8), 10**8)
    assert store.steps() == [5, 10**8]
    assert store.latest()[0]["step"] == 10**8


@pytest.mark.parametrize("keep", [1, 0, -1])
def test_keeping_fewer_than_two_is_refused(tmp_path: Path, keep: int) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        CheckpointStore(tmp_path, keep)


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_old_ones_go_only_after_the_new_one_is_in_place(
    tmp_path: Path, call: str, monkeypatch, capsys
) -> None:
    store = saved(tmp_path, 1, 2, keep=2)

    def fail(*_: object) -> None:
        assert store.steps() == [1, 2]
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        assert store.save(small_state(3), 3) is None
    assert "Input/output error" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["step-00000001.pt", "step-00000002.pt"]
    assert store.latest()[0]["step"] == 2

    unlinked = []
    monkeypatch.setattr(store, "_unlink", lambda path: unlinked.append((path.name, store.steps())))
    store.save(small_state(3), 3)
    assert unlinked == [("step-00000001.pt", [1, 2, 3])]


def test_the_file_and_then_its_name_are_on_the_disk_before_a_save_is_done(
    tmp_path: Path, monkeypatch
) -> None:
    done = []
    replace, sync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("name") or replace(*paths))

    def spy(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    saved(tmp_path, 1)
    assert done == ["file", "name", "folder"]


def test_a_run_that_went_back_gives_up_its_later_checkpoints(tmp_path: Path, capsys) -> None:
    store = saved(tmp_path, 20, 40, 60)
    assert store.save(small_state(25), 25) is not None
    assert store.steps() == [20, 25]
    assert "40, 60" in capsys.readouterr().err
    assert store.latest()[0]["step"] == 25


def test_superseded_checkpoints_stay_on_disk_until_the_next_one_is_in_place(
    tmp_path: Path, monkeypatch
) -> None:
    store = saved(tmp_path, 20, 40, 60)
    store.supersede(20)
    assert store.steps() == [20]
    assert store.latest()[0]["step"] == 20
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        assert store.save(small_state(30), 30) is None
    assert sorted(os.listdir(tmp_path)) == [
        "step-00000020.pt",
        "superseded-00000040.pt",
        "superseded-00000060.pt",
    ]
    assert load_checkpoint(tmp_path / "superseded-00000060.pt")["step"] == 60
    store.save(small_state(30), 30)
    assert sorted(os.listdir(tmp_path)) == ["step-00000020.pt", "step-00000030.pt"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = saved(tmp_path, 1, 2)
    store.save({**small_state(2), "attempt": 1}, 2)
    assert store.steps() == [1, 2]
    assert store.latest()[0]["attempt"] == 1


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch) -> None:
    store = saved(tmp_path, 1)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.save(small_state(2), 2)
    assert os.listdir(tmp_path) == ["step-00000001.pt"]


# --- disk


def test_too_little_free_space_is_a_warning_before_anything_is_written(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    store = saved(tmp_path, 1)
    state = small_state(2, n=1_000_000)
    usage = type(checkpoint.shutil.disk_usage(tmp_path))
    n_bytes = tensor_bytes(state)
    free = 1.1 * n_bytes
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage(10**9, 10**9, free))
    monkeypatch.setattr(checkpoint, "_write", lambda *_: pytest.fail("written all the same"))
    assert store.save(state, 2) is None
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{free / 1e6:.1f} MB free" in err
    assert f"{1.2 * n_bytes / 1e6:.1f} MB needed" in err
    assert store.latest()[0]["step"] == 1


def test_torchs_own_form_of_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch, capsys) -> None:
    store = saved(tmp_path, 1)

    def full(*_: object) -> None:
        raise RuntimeError(
            "[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0\nframe #0: ..."
        )

    monkeypatch.setattr(torch, "save", full)
    assert store.save(small_state(2), 2) is None
    assert capsys.readouterr().err.count("\n") == 1
    assert os.listdir(tmp_path) == ["step-00000001.pt"]


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert CheckpointStore(tmp_path / "file").save(small_state(), 0) is None
    assert "warning: checkpoint of step 0 not written" in capsys.readouterr().err


SIZE_LIMITED = """
import resource, signal, sys, torch
from generation.checkpoint import CheckpointStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = CheckpointStore(sys.argv[1], keep=2)
def state(step):
    return {"networks": {"G": {str(i): torch.full((n,), float(step)) for i in range(8)}}, "step": step}

n = 1000
for step in (1, 2):
    assert store.save(state(step), step)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
n = 50_000
assert store.save(state(3), 3) is None
assert store.save(state(4), 4) is None
n = 1000
assert store.latest()[0]["step"] == 2
assert store.save(state(5), 5)
print(store.steps(), store.latest()[0]["step"])
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_file_size_limit_is_a_warning_and_the_old_ones_load(tmp_path: Path) -> None:
    done = run_python(SIZE_LIMITED, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[2, 5] 5\n"
    *lines, again = done.stderr.splitlines()
    assert len(lines) == 2
    assert all("File too large" in line and " free" in line for line in lines)
    assert "again, as of step 5" in again
    assert sorted(os.listdir(tmp_path)) == ["step-00000002.pt", "step-00000005.pt"]


# --- finite weights


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64]
)
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    net = nn.BatchNorm1d(4).state_dict()
    bad = torch.zeros(2, 3, dtype=dtype)
    bad[1, 2] = value
    state = {
        "networks": {"G": {**net, "empty": torch.zeros(0)}, "D": {"w": bad}},
        "ema": {"0.999": {"running_mean": bad}},
        "optimizers": {"D": bad},
        "step": 3,
    }
    assert non_finite(state) == ["networks.D.w", "ema.0.999.running_mean"]
    store = saved(tmp_path, 1)
    with pytest.raises(NonFiniteError, match=r"step 3: NaN or infinity in networks\.D\.w") as caught:
        store.save(state, 3)
    assert caught.value.names == ["networks.D.w", "ema.0.999.running_mean"]
    assert isinstance(caught.value, ValueError)
    assert os.listdir(tmp_path) == ["step-00000001.pt"]


def test_finite_weights_pass() -> None:
    largest = torch.tensor([torch.finfo(torch.float32).max] * 4)
    assert non_finite({"networks": {"G": {"w": largest}}, "ema": {"a": [-largest]}}) == []
    assert non_finite({"step": 1}) == []


# --- what differs


def test_difference_reads_like_a_sentence() -> None:
    old = {
        "model": "dcgan",
        "betas": (0.5, 0.9),
        "g_kwargs": {"dim": 64},
        "gone": None,
        "n": 1,
        "x": float("nan"),
    }
    new = {"model": "mlp", "betas": [0.5, 0.9], "g_kwargs": {"dim": 32, "k": 3}, "n": "1", "x": float("nan")}
    assert difference(old, new) == [
        "model: dcgan -> mlp",
        "g_kwargs.dim: 64 -> 32",
        "g_kwargs.k: (absent) -> 3",
        "gone: None -> (absent)",
        "n: 1 -> '1'",
    ]
    assert difference(old, dict(old)) == []


def test_check_shapes_names_what_does_not_fit() -> None:
    small, large = nn.Linear(2, 3), nn.Linear(2, 4)
    before = [p.clone() for p in small.parameters()]
    assert check_shapes({"G": small.state_dict()}, {"G": nn.Linear(2, 3)}) == []
    lines = check_shapes({"G": large.state_dict()}, {"G": small})
    assert lines == ["G.weight: (4, 2) -> (3, 2)", "G.bias: (4,) -> (3,)"]
    torch.testing.assert_close(before, list(small.parameters()), rtol=0, atol=0)
    assert check_shapes({"G": {}}, {"G": {}, "D": large}) == [
        "D.weight: (absent) -> (4, 2)",
        "D.bias: (absent) -> (4,)",
    ]
    deep = nn.Sequential(*(nn.Linear(2, 2) for _ in range(6)))
    lines = check_shapes({"G": deep.state_dict()}, {"G": small.state_dict()})
    assert len(lines) == 6
    assert lines[-1] == "and 9 more, 14 differences in all"


# --- kills

KILLS = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
import disk
from generation.checkpoint import CheckpointStore

def save_for_ever(folder, pipe):
    store = CheckpointStore(folder, keep=2)
    for step in range(10**6):
        weights = {"w": torch.full((200_000,), float(step))}
        store.save({"networks": {"G": weights}, "step": step}, step)
        os.write(pipe, step.to_bytes(8, "little"))

def announced(pipe):
    data = b"".join(iter(lambda: os.read(pipe, 1 << 16), b""))
    return int.from_bytes(data[-8:], "little") if data else -1

def trial(folder, delay):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        save_for_ever(folder, write)
    os.close(write)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    last = announced(read)
    os.close(read)
    half = len(list(folder.glob("tmp-*")))
    store = CheckpointStore(folder, keep=2)
    disk.remove_stale(folder)
    found = store.latest()
    step = found[0]["step"] if found else -1
    same = found is None or bool((found[0]["networks"]["G"]["w"] == step).all())
    left = [name for name in os.listdir(folder) if not name.startswith("step-")]
    return {"announced": last, "found": step, "same": same, "half": half, "left": left}

torch.set_num_threads(1)
random.seed(int(sys.argv[3]))
for i in range(int(sys.argv[2])):
    folder = Path(sys.argv[1], str(i))
    folder.mkdir()
    print(json.dumps(trial(folder, random.uniform(0.02, 0.15))))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("n", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_the_last_announced_one_or_a_later(tmp_path: Path, n: int) -> None:
    done = run_python(KILLS, str(tmp_path), str(n), "0")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no checkpoint had to be passed over
    trials = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(trials) == n
    for trial in trials:
        assert trial["found"] >= trial["announced"], trial
        assert trial["same"], trial
        assert trial["left"] == [], trial
    assert max(trial["announced"] for trial in trials) > 0
