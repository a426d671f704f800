"""What is read is what it should be, or one line: tampered checkpoints, generators, classifiers, settings, numbers."""

import copy
import json
import math
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from errors import UserError
from generation import checkpoint
from generation.checkpoint import CheckpointError, load_checkpoint
from generation.generator import load_generator
from metrics.features import Reading, Statistics, load_extractor, load_reading, read, save_reading
from metrics.lines import best_step
from settings.files import read_config_file
from studies.attacks.tampering import at, places
from tensorfile import read_safetensors, read_torch
from tests.running import ROOT, request, run, small, write_pairs
from tools import sample as sample_tool
from training.folder import planned
from training.loop import Loop
from training.optimizers import optimizer_faults
from training.run import restore

# -- ways to tamper ------------------------------------------------------------------------------------------------


def with_entry(content: Any, way: tuple, value: Any) -> Any:
    """The content with another entry there; `...` for none."""
    if not way:
        return value
    changed = copy.copy(content)
    if value is ... and len(way) == 1:
        del changed[way[0]]
    else:
        changed[way[0]] = value if len(way) == 1 else with_entry(content[way[0]], way[1:], value)
    return changed


# Tensors that can take no other's place, by what was done to them.
OF_TENSORS: dict[str, Callable[[Tensor], Any]] = {
    "more rows": lambda t: torch.zeros(*t.shape, 2),
    "fewer": lambda t: torch.zeros(0),
    "int8": lambda t: t.to(torch.int8),
    "complex": lambda t: t.to(torch.complex64),
    "bool": lambda t: t.bool(),
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "nan": lambda t: torch.full_like(t, math.nan) if t.is_floating_point() else t.to(torch.float32),
    "inf": lambda t: torch.full_like(t, math.inf) if t.is_floating_point() else "x",
    "list": lambda t: t.tolist(),
    "word": lambda t: "x",
    "none": lambda t: None,
    "missing": lambda t: ...,
}
OF_OTHERS = (..., None, "x", -1, 2.5, True, math.nan, 10**18, 10**30, [], {}, [[]], {1: 2}, torch.zeros(2))


def tampered(state: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what was done, state) for every entry that is read of a checkpoint, and every way to spoil it."""
    free = {"config", "versions", "compiled"}  # for people
    seen: set[tuple] = set()
    for way in places(state):
        if way[0] in free:
            continue
        value = at(state, way)
        kind = (
            way[0],
            len(way),
            way[-1] if isinstance(way[-1], str) and way[:2] != ("loop", "values") else "",
            type(value),
            getattr(value, "ndim", 0),
        )
        if kind in seen:
            continue  # one of many layers, or of the numbers that are logged
        seen.add(kind)
        if isinstance(value, Tensor):
            for name, change in OF_TENSORS.items():
                new = change(value)
                if new is not None or value is not None:
                    yield f"{'.'.join(map(str, way))}: {name}", with_entry(state, way, new)
        else:
            for new in OF_OTHERS:
                if type(new) is not type(value) or new != value:
                    yield f"{'.'.join(map(str, way))}: {new!r:.20}", with_entry(state, way, new)


def write_checkpoint(state: Any, path: Path) -> None:
    """A checkpoint with a valid checksum, whatever is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint._write(state, path)


def one_line(error: BaseException) -> str:
    """The message of a refusal."""
    assert isinstance(error, UserError), repr(error)
    text = " ".join(error.for_command_line.split())
    assert len(text) < 2000, text
    return text


# -- checkpoints ---------------------------------------------------------------------------------------------------

KINDS = {
    "plain": "--ema --augment ada",
    "styled": f"{small('stylegan2')} --path_length_weight 2",
    "sgd": "--optimizer SGD --model mlp --g_kwargs width=4 --d_kwargs width=4",
    "pairs": f"{small('cyclegan')} --img_size 16 --data {{pairs}} --augment ada --pool_size 3",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loop]:
    """Short runs by name, all in one folder."""
    folder = tmp_path_factory.mktemp("runs")
    pairs = write_pairs(tmp_path_factory.mktemp("data"), n=8)
    commands = {
        name: f"--log_name {name} --n_steps 2 {flags.format(pairs=pairs)}" for name, flags in KINDS.items()
    }
    return {name: run(command, folder) for name, command in commands.items()}


def saved_by(loop: Loop) -> dict[str, Any]:
    """What the last checkpoint of a run holds."""
    return load_checkpoint(loop.store.path(2))


def benign(what: str, loop: Loop, state: dict[str, Any]) -> None:
    """What is let pass can be loaded and trained on."""
    before = copy.deepcopy(loop.state_dict())
    loop.load_state_dict(copy.deepcopy(state))
    loop.run_step()
    loop.step = 2
    loop.load_state_dict(before)


def check(loop: Loop, state: dict) -> None:
    """UserError for what the loop cannot go on from."""
    loop.state_check(loop.state_dict())(state)


@pytest.mark.parametrize("name", KINDS)
def test_a_tampered_state_is_refused_or_does_no_harm(runs: dict[str, Loop], name: str) -> None:
    loop = runs[name]
    state = saved_by(loop)
    checked = loop.state_check(loop.state_dict())
    checked(state)
    n = passed = 0
    for what, changed in tampered(state):
        n += 1
        try:
            checked(changed)
        except Exception as error:
            one_line(error)
        else:
            passed += 1
            if changed["step"] == 2 and name != "styled":  # whose steps take long
                benign(what, loop, changed)
    assert n > 300 and passed < n / 10, (n, passed)
    print(f"{name}: {n} states, {passed} let pass")


@pytest.mark.parametrize(
    ("way", "value", "words"),
    [
        (
            ("optimizers", "G", "state", 0, "exp_avg"),
            torch.zeros(3),
            r"G\.state\.0\.exp_avg has shape \(3,\)",
        ),
        (("optimizers", "D", "state", 0, "exp_avg_sq"), torch.tensor([math.nan]), "has shape"),
        (("optimizers", "D", "state", 10**6), {}, "of none of"),
        (("optimizers", "D", "param_groups"), [], r"param_groups are 0, not 1"),
        (("step",), 2.5, "Expected int, got float - at state.step"),
        (("attempt",), True, "Expected int, got bool"),
        (("task", "augmentation", "p"), torch.tensor(7.0), "is not within 0 and 1"),
        (("task", "augmentation", "p"), "x", "is a str, not a tensor"),
        (("loop", "scores"), [["x"]], "scores"),
        (("ema", "ema"), ..., "ema.ema is missing"),
        (("networks", "G"), {}, "another architecture"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    runs: dict[str, Loop], way: tuple, value: Any, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        check(runs["plain"], with_entry(saved_by(runs["plain"]), way, value))


@pytest.mark.parametrize(
    ("way", "value", "words"),
    [
        (("augmentation", "D_A", "p"), torch.tensor(7.0), r"D_A\.p is not within 0 and 1"),
        (("pool", "D_B", "n"), 4, r"D_B\.n is not within 0 and 3"),
        (("pool", "D_B", "n"), -1, r"D_B\.n is not within 0 and 3"),
    ],
)
def test_what_a_game_of_pairs_keeps_has_bounds(
    runs: dict[str, Loop], way: tuple, value: Any, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        check(runs["pairs"], with_entry(saved_by(runs["pairs"]), ("task", *way), value))


@pytest.mark.parametrize("key", ["exp_avg_sq", "step"])
def test_what_cannot_be_negative_is_not(runs: dict[str, Loop], key: str) -> None:
    state = saved_by(runs["plain"])
    way = ("optimizers", "D", "state", 0, key)
    with pytest.raises(UserError, match=rf"optimizers\.D\.state\.0\.{key} is negative"):
        check(runs["plain"], with_entry(state, way, -1 - at(state, way)))
    momentum = (*way[:-1], "exp_avg")
    check(runs["plain"], with_entry(state, momentum, -at(state, momentum)))


def test_a_negative_mean_of_squares_of_rmsprop_is_refused() -> None:
    p = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.RMSprop([p])
    p.sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    assert not list(optimizer_faults(state, optimizer, "D"))
    state["state"][0]["square_avg"] = torch.tensor([0.1, -1e-9, 0.1])
    assert list(optimizer_faults(state, optimizer, "D")) == ["D.state.0.square_avg is negative"]


def test_older_runs_without_younger_entries_go_on(runs: dict[str, Loop]) -> None:
    state = saved_by(runs["plain"])
    for way in (("compiled",), ("config",), ("versions",), ("loop", "scores"), ("data", "n_labels"), ("scaler",),
                ("task", "penalties"), ("task", "augmentation"), ("optimizers", "G", "param_groups", 0, "lr_scale"),
                ("optimizers", "G", "param_groups", 0, "fused"), ("optimizers", "G", "state", 0)):  # fmt: skip
        check(runs["plain"], with_entry(state, way, ...))
    wide = {k: v.double() if v.is_floating_point() else v for k, v in state["networks"]["G"].items()}
    check(runs["plain"], with_entry(state, ("networks", "G"), wide))


def test_a_damaged_newest_checkpoint_is_passed_over(
    runs: dict[str, Loop], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = runs["plain"]
    state = saved_by(loop)
    folder = tmp_path / "run"
    monkeypatch.setattr(loop, "store", checkpoint.CheckpointStore(folder / "checkpoints"))
    write_checkpoint(with_entry(state, ("step",), 1), folder / "checkpoints" / "step-00000001.pt")
    bad = with_entry(state, ("optimizers", "G", "state", 0, "exp_avg"), torch.zeros(3))
    write_checkpoint(bad, folder / "checkpoints" / "step-00000002.pt")
    with pytest.raises(CheckpointError, match="exp_avg has shape"):
        restore(loop, folder / "checkpoints" / "step-00000002.pt")
    restore(loop, folder)
    assert loop.step == 1 and "passed over: " in capsys.readouterr().err
    loop.load_state_dict(state)


# -- files of torch ------------------------------------------------------------------------------------------------


def torch_zip(
    path: Path, pickle: bytes | None, *, method: int = zipfile.ZIP_STORED, footer: bool = False
) -> Path:
    """What torch.save writes of {"a": four zeros}, with another pickle."""
    torch.save({"a": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", method) as new:
        for name, data in records.items():
            new.writestr(name, pickle if pickle is not None and name.endswith("/data.pkl") else data)
    return path


def calling(function: str, argument: bytes) -> bytes:
    """A pickle of a function's result."""
    return b"\x80\x02c" + function.encode() + b"\n" + argument + b"\x85R."


def long(number: int) -> bytes:
    """A whole number in a pickle."""
    data = number.to_bytes(9, "little")
    return b"\x8a\x09" + data


PICKLES = {
    "an array of any size": calling("torch\nTensor", long(10**12)),
    "bytes of any size": calling("__builtin__\nbytearray", long(10**11)),
    "a storage of any size": calling("torch.storage\nUntypedStorage", long(10**12)),
    "code": calling("os\nsystem", b"X\x02\0\0\0ls"),
    "an encoding": calling("_codecs\nencode", b"X\x01\0\0\0a"),
    "a device that is not there": calling("torch\ndevice", b"X\x06\0\0\0cuda:9"),
    "half": b"\x80\x02}q\0X\x05",
    "nothing": b"",
    "end": b".",
    "no such op": b"\x80\x02\xff.",
    "a memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "no memo": b"\x80\x02h\x05.",
    "a long word": b"\x80\x02X\xff\xff\xff\xffabc.",
    "depth": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "depth of tuples": b"\x80\x02N" + b"\x85" * 20_000 + b".",
    "marks": b"\x80\x02" + b"(" * 20_000 + b".",
    "a list as a name": b"\x80\x02}]Ns.",
    "itself": b"\x80\x02]q\0h\0a.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_takes_no_more_than_it_has(tmp_path: Path, name: str) -> None:
    path = torch_zip(tmp_path / "a.pt", PICKLES[name])
    try:
        read_torch(path)
    except Exception as error:
        one_line(error)
    data = path.read_bytes()
    digest = checkpoint.hashlib.sha256(data).digest()
    path.write_bytes(data + checkpoint.MAGIC + digest)
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(path, lambda state: checkpoint_form(state))
    one_line(refusal.value)


def checkpoint_form(state: Any) -> None:
    """As sampling reads it."""
    from generation.schema import SampledState, converted

    converted(state, SampledState, "state")


def test_records_are_stored_and_as_long_as_they_say(tmp_path: Path) -> None:
    assert read_torch(torch_zip(tmp_path / "good.pt", None))["a"].tolist() == [0] * 4
    with pytest.raises(UserError, match="packed"):
        read_torch(torch_zip(tmp_path / "packed.pt", None, method=zipfile.ZIP_DEFLATED))
    data = torch_zip(tmp_path / "long.pt", None).read_bytes()
    at_record = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    long_record = data[: at_record + 20] + struct.pack("<2L", 2**31, 2**31) + data[at_record + 28 :]
    (tmp_path / "long.pt").write_bytes(long_record)
    with pytest.raises(UserError, match="exceed the file"):
        read_torch(tmp_path / "long.pt")
    # torch finds a record in any case of letters, and would read one anew for each
    letters = torch_zip(tmp_path / "letters.pt", None).read_bytes().replace(b"data/0", b"data/a")
    (tmp_path / "letters.pt").write_bytes(letters)
    with pytest.raises(UserError, match="without a number"):
        read_torch(tmp_path / "letters.pt")
    with pytest.raises(UserError, match="no regular file"):
        read_torch("/dev/zero" if Path("/dev/zero").exists() else tmp_path)


def test_a_large_checkpoint_is_compared_with_the_run_first(runs: dict[str, Loop], tmp_path: Path) -> None:
    with open(tmp_path / "step-00000001.pt", "wb") as file:
        file.truncate(10**12)  # a hole
    with pytest.raises(CheckpointError, match="larger than"):
        restore(runs["plain"], tmp_path / "step-00000001.pt")


# -- generator/ ----------------------------------------------------------------------------------------------------

JSON_VALUES = (..., None, "x", -1, 2.5, True, 10**12, 10**30, [], {}, [[]], {"a": {}}, "../x", "a\nb\x1b[31m")
READ = (
    "model",
    "build",
    "weights",
    "multi_hot",
    "n_labels",
    "dataset",
    "label_names",
    "seed",
    "z_dim",
    "img_size",
)


@pytest.fixture
def generator(runs: dict[str, Loop], tmp_path: Path) -> Path:
    """A copy of a run's generator/."""
    return Path(shutil.copytree(runs["plain"].store.folder.parent / "generator", tmp_path / "generator"))


def refused_or_sampled(folder: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """The exit code of tools.sample; one line where it refuses."""
    code = sample_tool.main([str(folder), "--n", "1", "--out", f"{folder}/x.png", "--device", "cpu"])
    err = capsys.readouterr().err
    assert code == 0 or (
        code == 2 and err.startswith("error: ") and err.count("\n") == 1 and "\x1b" not in err
    ), err
    return code


def test_tampered_generator_configs_are_one_line(generator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = generator / "config.json"
    about = json.loads(file.read_text())
    codes = []
    for way in [*((name,) for name in READ if name in about), *(("build", name) for name in about["build"])]:
        for value in JSON_VALUES if len(way) == 1 else JSON_VALUES[::3]:
            if way != ("seed",) or not isinstance(value, int):
                file.write_text(json.dumps(with_entry(about, way, value)))
                codes.append(refused_or_sampled(generator, capsys))
    texts = (
        "",
        "{",
        "[]",
        "1",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"seed": ' + "9" * 5000 + "}",
        "\0",
        '"\ud800"',
    )
    for text in texts:
        file.write_bytes(text.encode(errors="surrogatepass"))
        codes.append(refused_or_sampled(generator, capsys))
    assert len(codes) > 150 and codes.count(2) > 0.7 * len(codes), (len(codes), codes.count(2))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 99}, r"newer version \(format 99, this one reads up to 1\)"),
        ({"format": "1"}, "format"),
        ({"weights": []}, "weights"),
        ({"weights": ["../../ema"]}, "weights"),
        ({"build": {"img_size": 16, "img_channels": 1, "z_dim": 2 * 10**9, "width": 4}}, "is damaged|can be built"),
        ({"build": {"img_size": 16, "img_channels": 1, "z_dim": 8, "width": 0x7FFFFFFF}}, "is damaged|built|fails"),
        ({"model": "stylegan2", "build": {"img_size": 16, "img_channels": 1, "z_dim": 8, "mapping_layers": 10**9}},
         "mapping_layers"),
        ({"multi_hot": True, "n_labels": 2, "label_examples": ["012"]}, "label_examples"),
        ({"multi_hot": True, "n_labels": 2, "label_examples": ["0x"]}, "label_examples"),
        ({"multi_hot": True, "n_labels": 2}, "label_examples"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_generator_is_said(generator: Path, changes: dict, words: str) -> None:
    file = generator / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=words):
        load_generator(generator)


def test_a_younger_entry_of_a_generator_is_left_alone(generator: Path) -> None:
    file = generator / "config.json"
    about = {
        k: v for k, v in json.loads(file.read_text()).items() if k not in ("format", "batch_norm", "seed")
    }
    file.write_text(json.dumps(about | {"colour": {"space": "P3"}}))
    found = load_generator(generator)[1]
    assert found["colour"] == {"space": "P3"} and found["seed"] == 0


def test_tampered_weights_are_one_line(generator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = generator / "ema.safetensors"
    state, whole = load_file(file), file.read_bytes()
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    for what in ("int8", "bool", "nan", "inf", "fewer", "more rows"):
        save_file(state | {name: OF_TENSORS[what](state[name])}, file, {"step": "2"})
        assert refused_or_sampled(generator, capsys) == 2, what
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, file, {"step": "2"})
    assert refused_or_sampled(generator, capsys) == 0  # of another width
    for metadata in ({}, {"step": "x"}, {"step": "-1"}, {"step": "9" * 5000}, None):
        save_file(state, file, metadata)
        assert refused_or_sampled(generator, capsys) == 2, metadata
    header = struct.pack("<Q", 2**40)
    for data in (
        b"",
        whole[:7],
        whole[:100],
        whole[:-1],
        header + whole[8:],
        struct.pack("<Q", 100) + b"{" * 100,
    ):
        file.write_bytes(data)
        assert refused_or_sampled(generator, capsys) == 2
    with open(file, "r+b") as opened:
        opened.truncate(10**12)
    assert refused_or_sampled(generator, capsys) == 2


def test_a_checkpoint_is_sampled_or_refused(runs: dict[str, Loop], generator: Path, capsys: Any) -> None:
    state, path = saved_by(runs["plain"]), generator.parent / "checkpoints" / "step-00000002.pt"
    argv = [str(generator), "--n", "1", "--out", f"{generator}/x.png", "--device", "cpu", "--checkpoint", "2"]
    name = next(k for k, v in state["ema"]["ema"].items() if v.is_floating_point())
    weight = ("ema", "ema", name)
    for way, value, code in (
        ((), state, 0), ((), [1], 2), (("ema",), {}, 2), (("ema",), [], 2), (("step",), "2", 2), (weight, ..., 2),
        *((weight, change(at(state, weight)), 2) for what, change in OF_TENSORS.items()),
    ):  # fmt: skip
        write_checkpoint(with_entry(state, way, value), path)
        assert sample_tool.main(argv) == code, (way, value)
        assert code == 0 or capsys.readouterr().err.count("\n") == 1


def test_scores_of_others_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "scores.jsonl"
    good = {"step": 4, "fid": 2.0, "protocol": {}}
    odd = [good | {"step": step, "fid": 0.5} for step in ("x", None, 1.5, -1, True, [1])]
    odd += [good | {"fid": value} for value in ("x", None, [], {})] + [
        good | {"protocol": p} for p in ([], 1, "x")
    ]
    lines = [json.dumps(line) for line in (*odd, good)] + ["[" * 10_000, "{", "9" * 5000, "\0", "[]", "1"]
    file.write_text("\n".join(lines))
    assert best_step(file) == 4


# -- classifiers and statistics ------------------------------------------------------------------------------------


def test_tampered_classifiers_are_refused(weights: Path, tmp_path: Path) -> None:
    state, file = load_file(weights), tmp_path / "digits-cnn.safetensors"
    name = next(iter(state))
    for what in ("int8", "bool", "nan", "inf", "fewer", "more rows"):
        save_file(state | {name: OF_TENSORS[what](state[name])}, file, {"extractor": "digits-cnn"})
        with pytest.raises(ValueError, match="does not hold the weights"):
            load_extractor("digits-cnn", file)
    about = {"extractor": "folder-cnn", "classes": '["a", "b"]', "img_size": "32"}
    for change in ({"classes": "[" * 100_000}, {"classes": "[1, 2]"}, {"classes": "{}"}, {"img_size": "9" * 5000},
                   {"img_size": "1000000000"}, {"img_size": "-1"}, {"classes": "[]"}):  # fmt: skip
        save_file(state, file, about | change)
        with pytest.raises(ValueError, match="does not hold the weights") as refusal:
            load_extractor("folder-cnn", file)
        assert "\n" not in str(refusal.value)


def test_statistics_that_no_images_give_are_computed_anew(tmp_path: Path) -> None:
    file = tmp_path / "s.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        good = read(torch.randn(5, 8), torch.randn(5, 3))  # fewer images than features: a singular covariance
    save_reading(file, good, with_features=True)
    found = load_reading(file, with_features=True)
    assert found is not None and torch.equal(found.statistics.covariance, good.statistics.covariance)
    held = {name: getattr(good.statistics, name) for name in ("mean", "covariance", "shares")}
    skew = held["covariance"].clone()
    skew[0, 1] += 1
    for name, value in (
        ("covariance", -held["covariance"]), ("covariance", skew), ("covariance", held["covariance"] - torch.eye(8)),
        ("covariance", held["covariance"] * math.nan), ("covariance", held["covariance"].int()),
        ("covariance", held["covariance"][:4]), ("mean", held["mean"] * math.inf), ("mean", held["mean"][:4]),
        ("shares", -held["shares"]), ("shares", held["shares"] + 1), ("n", 1), ("n", -3),
    ):  # fmt: skip
        changed = {"n": 5} | held | {name: value}
        save_reading(file, Reading(Statistics(**changed)), with_features=False)
        assert load_reading(file, with_features=False) is None, name
    save_reading(file, good, with_features=False)
    tensors, metadata = read_safetensors(file)
    save_file(tensors | {"mean": tensors["mean"] + 1}, file, metadata)
    assert load_reading(file, with_features=False) is None  # not as it was written


# -- settings and numbers ------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAMLS = {
    "laughs": LAUGHS,
    "merges": "a: &a {lr: 1}\nb: &b {<<: [*a, *a]}\n",
    "depth": "lr: " + "[" * 100_000,
    "depth of blocks": "".join(" " * i + "a:\n" for i in range(300)),
    "json depth": '{"a":' * 1000 + "1" + "}" * 1000,
    "twice": "lr: 1.0\nlr: 2.0\n",
    "digits": "n_steps: " + "9" * 5000,
    "hex digits": "n_steps: 0x" + "f" * 5000,
    "a float of digits": "lr: 0x" + "f" * 5000,
    "out of range": "n_steps: 10000000000000000000000",
    "a date": "lr: 2001-99-99",
    "a stamp": "lr: !!timestamp x",
    "an integer": "n_steps: !!int x",
    "a switch": "ema: !!bool x",
    "code": "lr: !!python/object/apply:os.system [ls]",
    "no name": "1: 2",
    "null": "~: 2",
    "a list as a name": "[1, 2]: 3",
    "names": "g_kwargs: {1: 2}",
    "nothing": "",
    "a word": "x",
    "nul": "data: \"a\\0b\"",
    "size": "# " + "x" * 2**19,
    "a mapping": "lr: {a: 1}",
    "nested": "batch_size: [[[[1]]]]",
}  # fmt: skip


@pytest.mark.parametrize("name", YAMLS)
def test_settings_files_are_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.yaml").write_text(YAMLS[name])
    with pytest.raises(UserError) as refusal:
        read_config_file(str(tmp_path / "a.yaml"))
    one_line(refusal.value)


def test_tampered_run_configs_are_one_line(runs: dict[str, Loop], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs["plain"].store.folder.parent, tmp_path / "a"))
    file = folder / "config.json"
    saved = json.loads(file.read_text())
    for way in (
        ("model",),
        ("z_dim",),
        ("lr",),
        ("g_kwargs",),
        ("asked", "img_size"),
        ("asked",),
        ("augment",),
    ):
        for value in JSON_VALUES:
            file.write_text(json.dumps(with_entry(saved, way, value)))
            refused_resume(tmp_path)
    for text in ("", "{", "[]", "[" * 100_000, '{"lr": ' + "9" * 5000 + "}", "\0"):
        file.write_text(text)
        plan = planned(request(f"--resume --log_name a --runs_dir {tmp_path}"))
        assert plan.config.z_dim == saved["z_dim"]  # of the checkpoint


def refused_resume(runs_dir: Path) -> None:
    """A resume that is planned, or refused in one line."""
    try:
        planned(request(f"--resume --log_name a --runs_dir {runs_dir}"))
    except Exception as error:
        one_line(error)


@pytest.mark.parametrize(
    "flags",
    [
        "--z_dim 2000000000", "--g_kwargs width=2147483647", "--z_dim 1000000000000", "--batch_size 1000000000000",
        "--img_size 65536 --g_kwargs width=1 --d_kwargs width=1", f"--n_steps {'9' * 5000}", f"--lr {'9' * 5000}x",
        "--g_kwargs width=1e400", f"--g_kwargs width={'9' * 5000}", f"--g_kwargs width={'(' * 5000}",
        f"--log_name {'x' * 256}", "--log_name 'a\nb'", "--log_name ../x", "--log_name 'a\\b'", f"--seed {10**30}",
    ],
)  # fmt: skip
def test_numbers_and_names_out_of_bounds_are_one_line(tmp_path: Path, flags: str) -> None:
    with pytest.raises(UserError) as refusal:
        run(f"--log_name a {flags}", tmp_path)
    one_line(refusal.value)
    assert not any(tmp_path.iterdir())


def test_a_name_with_a_nul_is_refused() -> None:
    with pytest.raises(UserError, match="NUL"):
        request("--log_name a\0b").config()


@pytest.mark.parametrize("flags", [["--n", str(10**12)], ["--seed", "9" * 5000], ["--n", "9" * 5000]])
def test_numbers_of_tools_are_one_line(generator: Path, flags: list[str], capsys: Any) -> None:
    assert sample_tool.main([str(generator), "--out", f"{generator}/x.png", "--device", "cpu", *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- in a process of its own ---------------------------------------------------------------------------------------

LOOSE = """
import sys, pathlib, torch
sys.path[:0] = [{root!r}]
from tests.running import run, request
from training.run import restore
loop = run("--log_name a --n_steps 1", pathlib.Path(sys.argv[1]))
for path in sys.argv[2:]:
    try:
        restore(loop, pathlib.Path(path))
        loop.run_step()
    except Exception as error:
        print(type(error).__name__)
"""


def test_nothing_crashes_in_native_code(runs: dict[str, Loop], tmp_path: Path) -> None:
    state = saved_by(runs["plain"])
    state = {**state, "ema": {}, "task": {"penalties": {}, "augmentation": {}}}
    files = []
    for part in ("exp_avg", "exp_avg_sq", "step"):
        way = ("optimizers", "G", "state", 0, part)
        for i, change in enumerate(OF_TENSORS.values()):
            files.append(tmp_path / f"{part}-{i}.pt")
            write_checkpoint(with_entry(state, way, change(at(state, way))), files[-1])
    done = subprocess.run(
        [sys.executable, "-c", LOOSE.format(root=str(ROOT)), str(tmp_path), *map(str, files)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    names = [line for line in done.stdout.splitlines() if line.endswith("Error")]
    assert names == ["CheckpointError"] * len(files), done.stdout
