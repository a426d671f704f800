"""The reader of foreign files: what it reads is what was written, and nothing of a file is ever executed."""

import pickle
import random
import resource
from collections import OrderedDict

import numpy as np
import pytest
import torch

from disk import Unreadable
from errors import UserError
from generation.importing import layout, weights
from generation.importing.files import read_foreign
from generation.importing.weights import import_weights
from studies.attacks import pickles
from tests import foreign
from tools import import_weights as tool

FLOATS = {
    name: torch.arange(6.0).view(2, 3).to(getattr(torch, name)) for name in ("float16", "bfloat16", "float64")
}


def content() -> dict:
    """Tensors and arrays in every layout that weights have."""
    tensors = OrderedDict(
        FLOATS,
        turned=torch.randn(3, 4).t(),
        parameter=torch.nn.Parameter(torch.randn(5)),
        part=torch.randn(4, 4)[1:3],
        number=torch.tensor(3.0),
        none=torch.zeros(0, 3),
        counts=torch.arange(4),
    )
    return {"tensors": tensors, "plain": (1, -(2**70), 2.5, None, True, "\u20ac", [b"bytes"], {3: "x"})}


ARRAYS = {
    "f8": np.random.default_rng(0).normal(size=(2, 3)),
    "f4": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big-endian": np.arange(5, dtype=">f4"),
    "long": np.arange(2000, dtype=np.float32),
    "number": np.array(2.5),
}


@pytest.mark.parametrize("form", ["zip", "older", 2, 3, 4, 5])
def test_what_is_read_is_what_was_written(tmp_path, form) -> None:
    path, wanted = tmp_path / "a", content()
    if isinstance(form, int):
        path.write_bytes(pickle.dumps(wanted | {"arrays": ARRAYS, "scalar": np.float32(1.5)}, form))
    else:
        torch.save(wanted, path, _use_new_zipfile_serialization=form == "zip")
    found = read_foreign(path).value
    for name, x in wanted["tensors"].items():
        assert torch.equal(found["tensors"][name].tensor(), x.detach()), name
        assert found["tensors"][name].tensor().dtype == x.dtype
    plain = found["plain"]
    assert plain[:6] == wanted["plain"][:6] and bytes(plain[6][0]) == b"bytes" and plain[7] == {3: "x"}
    if isinstance(form, int):
        assert found["scalar"] == 1.5
        for name, x in ARRAYS.items():
            assert np.array_equal(found["arrays"][name].tensor().numpy(), x), name


def test_a_call_is_a_name(tmp_path, capsys) -> None:
    """The same bytes make a file appear in the hands of pickle; here the weights beside the call are read, and it is
    named."""
    canary, rng = tmp_path / pickles.CANARY, random.Random(1)
    data = pickle.dumps({"a": 1}, 2)
    while not canary.exists():
        try:
            pickle.loads(pickles.called(data, canary, rng))
        except Exception:
            continue
    canary.unlink()
    whole = pickle.dumps({"G_ema": pickles.small_weights()}, 2)
    assert whole.startswith(b"\x80\x02")
    line = pickles.text(f"touch {canary}")
    path = tmp_path / "a.pkl"
    for how in range(5):
        path.write_bytes(b"\x80\x02" + pickles.call("posix", "system", line, how) + b"0" + whole[2:])
        assert tool.main([str(path), "--out", str(tmp_path / f"out{how}")]) == 0
        assert "not called, only named in the file: posix.system" in capsys.readouterr().err
        assert not canary.exists()


def test_two_hundred_spoilt_files(tmp_path) -> None:
    """None is executed, each is imported or refused in one line, in little memory."""
    rng, canary = random.Random(0), tmp_path / pickles.CANARY
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made, done = set(), {"imported": 0, "refused": 0}
    for i in range(200):
        about, data = pickles.spoilt(pickles.whole_files(), canary, rng)
        made.add(about)
        path = tmp_path / f"{i}.pkl"
        path.write_bytes(data)
        try:
            import_weights([path])
            done["imported"] += 1
        except UserError as error:
            line = error.for_command_line
            assert "\n" not in line and path.name in line and len(line) < 1500, (about, line)
            done["refused"] += 1
        assert not canary.exists(), about
        path.unlink()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6 < 1.5  # GB
    assert {"called", "renamed", "operated", "flipped", "cut"} <= made and len(made) > 15
    assert min(done.values()) > 10


# What refuses those that a bound of their own is there for.
REFUSED_BY = {
    "a deep tuple in the list of storages": "a list of storages that is none",
    "a storage that is not listed": "storages that are not listed",
    "keys that hash alike": "a key that is neither",
    "a memo whose numbers hash alike": "a number out of range",
    "keys of tuples": "a key that is neither",
    "modules that share parameters": "more names of tensors and modules",
    "components that share variables": "more names of tensors and modules",
    "an array without content": "synthesis.b4.const is an array without content",
    "a text in many arrays": "more content than the file has bytes",
    "wide layers in a small file": "not the tensors of its layout",
    "a filter that is a number": "another blur",
    "a level of detail without numbers": "a level of detail of shape",
    "a setting of lists in lists": "a mapping that learns at list of the rate",
}


@pytest.mark.parametrize("name", sorted(pickles.BOMBS))
def test_bombs(tmp_path, name) -> None:
    """Each is refused in one line, by what is wrong with it or by what it is not."""
    path = tmp_path / "a.pkl"
    path.write_bytes(pickles.BOMBS[name]())
    with pytest.raises(UserError, match=REFUSED_BY.get(name)) as caught:
        import_weights([path])
    assert "\n" not in caught.value.for_command_line and "a.pkl" in caught.value.for_command_line


def test_wide_layers_take_no_memory(tmp_path, monkeypatch) -> None:
    """Where the mean style is missing, no network is built with memory; the mapping is, once its tensors fit."""
    made = []
    build = weights.build_generator
    monkeypatch.setattr(weights, "build_generator", lambda *a, **k: made.append(build(*a, **k)) or made[-1])
    path = tmp_path / "a.pkl"
    path.write_bytes(pickles.wide(64))
    with pytest.raises(UserError, match="not the tensors of its layout"):
        import_weights([path])
    small = {name: x.numpy() for name, x in pickles.small_weights().items() if name != "mapping.w_avg"}
    path.write_bytes(pickle.dumps({"G_ema": small}, 2))
    found = import_weights([path])
    assert found.sets["ema"]["mapping.w_avg"].shape == (4,)
    with_memory = [{name for name, x in G.state_dict().items() if not x.is_meta} for G in made]
    assert with_memory[0] == set()
    assert with_memory[1] and all(name.startswith("mapping.") for name in with_memory[1])


def test_what_goes_wrong_in_a_layout_is_a_line(tmp_path) -> None:
    """A mapping of labels whose mean style is missing has none that could be measured."""
    small = {name: x.numpy() for name, x in pickles.small_weights().items() if name != "mapping.w_avg"}
    small["mapping.embed.weight"] = np.ones((4, 3), np.float32)
    small["mapping.embed.bias"] = np.ones(4, np.float32)
    small["mapping.fc0.weight"] = np.ones((4, 8), np.float32)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"G_ema": small}, 2))
    with pytest.raises(UserError, match="networks that cannot be read") as caught:
        import_weights([path])
    assert "\n" not in caught.value.for_command_line


def test_networks_are_bounded_together(tmp_path, monkeypatch) -> None:
    """The numbers of all networks count, each network's again where they share them."""
    path = tmp_path / "a.pkl"
    path.write_bytes(pickles.whole_files()[0])  # G_ema and G of the same tensors
    n = 2 * sum(x.numel() for x in pickles.small_weights().values())
    monkeypatch.setattr(layout, "MAX_FLOATS", n)
    assert list(import_weights([path]).sets) == ["ema", "raw"]
    monkeypatch.setattr(layout, "MAX_FLOATS", n - 1)
    with pytest.raises(UserError, match=f"networks of {n:,} numbers, of at most {n - 1:,}"):
        import_weights([path])


def test_keys(tmp_path) -> None:
    """Words and numbers are as they were; a few of them together are a text."""
    path = tmp_path / "a.pkl"
    wanted = {"a": 1, 3: 2, -(2**60) + 1: 3, 0.5: 4, None: 5, True: 6, b"x": 7}
    path.write_bytes(pickle.dumps(wanted | {(1, ("a", 2)): 8}, 4))
    assert read_foreign(path).value == wanted | {"(1, (a, 2))": 8}
    for key in (2**60, -(2**60), 1e300, float("nan"), (1, (2, (3,)))):
        path.write_bytes(pickle.dumps({key: 1}, 4))
        with pytest.raises(Unreadable, match="a key that is neither"):
            read_foreign(path)


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "cut off"),
        (b"PK\x03\x04" + bytes(40), "no zip ends there"),
        (b"\x80\x02cos\nsystem\n.", "no layout that is known"),
        (b"\x80\x02\x82\x01.", "operation"),
        (b"\x80\x05\x97.", "operation"),
        (b"\x80\x02K\x01K\x01R.", "a call of what is no name"),
        (b"\x80\x02K\x01Q.", "a reference"),
        (b"\x80\x02h\x05.", "nothing was kept"),
        (b"\x80\x02t.", "a group without a beginning"),
        (b"\x80\x02].", "no layout that is known"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, data, words) -> None:
    path = tmp_path / "a\nb.pkl"
    path.write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        import_weights([path])
    assert "\n" not in caught.value.for_command_line


def test_absent_files_and_folders(tmp_path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(Unreadable):
            read_foreign(path)


def test_an_unknown_layout_lists_what_it_saw(tmp_path, capsys) -> None:
    path = tmp_path / "a.pt"
    torch.save({"generator": {"body.0.w": torch.zeros(2), "body.1.w": torch.zeros(2)}, "steps": 3}, path)
    assert tool.main([str(path), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "It holds generator, steps with body.0.w, body.1.w" in line and "BigGAN-PyTorch" in line
    with foreign.made_up("networks.Thing") as (thing,):
        path.write_bytes(pickle.dumps([thing(), thing()], 4))
    assert tool.main([str(path), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "networks.Thing" in line and not (tmp_path / "out").exists()
