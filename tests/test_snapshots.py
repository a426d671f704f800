"""Snapshots of power-function averages: when they are kept, what comes of them, resumed runs, files of anybody."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from errors import UserError
from generation import load_generator
from generation.snapshots import (
    combined,
    drop_snapshots,
    read_snapshots,
    reconstructed,
    shares_of,
    snapshot_files,
)
from modelling.growing import Stage
from settings import TrainConfig
from tests.running import differing, run, small, state
from training.averages import n_snapshots, snapshot_due

EACH_TWO = "--ema_snapshot_kimg 0.016"  # steps, of 8 images


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 64 steps with a snapshot every two, and one that kept another width meanwhile."""
    folder = tmp_path_factory.mktemp("runs")
    run("--log_name a --n_steps 64 --lr 2e-3 --ema_power 0.05 0.1", folder)
    run("--log_name b --n_steps 64 --lr 2e-3 --ema_power 0.075", folder, sampled=False)
    return folder


def refusal(path: Path, *widths: float, step: int | None = None) -> str:
    with pytest.raises(UserError) as found:
        list(reconstructed(path, widths or [0.07], step))
    assert "\n" not in str(found.value)
    return str(found.value)


# -- when --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kimg", "n_steps"), [(None, 1000), (None, 5), (0.1, 77), (0.02, 10), (9.0, 10)])
def test_snapshots_that_are_due_are_counted(kimg: float | None, n_steps: int) -> None:
    config = TrainConfig(n_steps=n_steps, batch_size=32, ema_power=(0.1,), ema_snapshot_kimg=kimg)
    due = snapshot_due(config, lambda step: 32 * step)
    steps = {step for step in range(n_steps + 1) if due(step)} | {n_steps}
    assert n_snapshots(config, lambda step: 32 * step) == len(steps)
    assert 0 not in steps and (kimg is not None or len(steps) == min(32, n_steps))


def test_a_snapshot_says_its_moment(tmp_path: Path) -> None:
    """G is updated at steps 3, 6 and 9: nothing is there after step 2, and nothing new after step 8."""
    run(
        f"--log_name a --n_steps 10 --train_g_interval 3 --ema_power 0.1 0.05 {EACH_TWO}",
        tmp_path,
        sampled=False,
    )
    found = snapshot_files(tmp_path / "a")
    assert list(found) == [4, 6, 8, 10]
    snapshots = read_snapshots(tmp_path / "a")
    assert [(s.step, s.images) for s in snapshots] == [(4, 24), (8, 48), (10, 72)]
    assert snapshots[0].widths == (0.1, 0.05)
    held = state(tmp_path, "a", 10)["ema"]
    assert list(held) == ["ema-power-0.1", "ema-power-0.05"]
    for name, x in load_file(found[10]).items():
        width, _, key = name.partition("/")
        assert torch.equal(x, held[f"ema-power-{width}"][key])


def test_they_are_weight_sets_like_others(trained: Path) -> None:
    about = json.loads((trained / "a" / "generator" / "config.json").read_text())
    assert about["weights"] == ["ema-power-0.05", "ema-power-0.1", "raw"]
    assert (trained / "a" / "samples" / "step-00000064-ema-power-0.1.png").is_file()
    G, about = load_generator(trained / "a", "ema-power-0.1")
    assert about["chosen"] == "ema-power-0.1"


def test_power_averages_begin_with_the_run(tmp_path: Path) -> None:
    """The first update is a copy; weights at 8 and 16 images count (1/2)^(g+1) and the rest."""
    loop = run("--log_name a --n_steps 1 --ema_power 0.2 --ema --ema_decay 0.5", tmp_path, sampled=False)
    assert list(loop.emas) == ["ema", "ema-power-0.2"]
    decay = loop.emas["ema-power-0.2"][1]
    assert decay() == pytest.approx(0.5**2.8262, rel=1e-4)  # of the step that would follow
    first = loop.emas["ema-power-0.2"][0].module.state_dict()
    for name, x in loop.averaged.state_dict().items():
        assert torch.equal(first[name], x)


# -- what comes of them ------------------------------------------------------------------------------------------------


def test_an_average_of_a_run_that_nobody_kept(trained: Path) -> None:
    """Held against that of the same training, which kept it: 1e-4, where .05 and .1 are far from it."""
    kept = state(trained, "b", 64)["ema"]["ema-power-0.075"]
    both = state(trained, "a", 64)
    G, _ = load_generator(trained / "a")
    names = [name for name, _ in G.named_parameters()]
    for name, x in state(trained, "b", 64)["networks"]["G"].items():
        assert torch.equal(x, both["networks"]["G"][name])
    snapshots = read_snapshots(trained / "a")
    shares, off = shares_of(snapshots, 0.075)
    (made,) = combined(snapshots, [shares], G)
    flat = lambda tensors: torch.cat([tensors[name].flatten() for name in names])  # noqa: E731
    far = [(flat(x) - flat(kept)).norm() / flat(kept).norm() for x in both["ema"].values()]
    assert (flat(made) - flat(kept)).norm() < 1e-4 * flat(kept).norm() and off < 2e-3
    assert min(far) > 2e-3
    for name in kept.keys() - set(names):  # buffers are those of the step
        assert torch.equal(made[name], kept[name])


@pytest.mark.parametrize("step", [2, 40, None])
def test_what_was_kept_comes_back(trained: Path, step: int | None) -> None:
    found = list(reconstructed(trained / "a", [0.05, 0.1], step))
    assert [(width, about["step"]) for width, _, about in found] == [(w, step or 64) for w in (0.05, 0.1)]
    tensors = load_file(snapshot_files(trained / "a")[step or 64])
    for width, G, about in found:
        assert about["chosen"] == f"ema-std-{width}"
        for name, p in G.named_parameters():
            assert_close(p, tensors[f"{width}/{name}"], rtol=1e-6, atol=1e-7)


def test_a_growing_network_stands_at_its_steps_stage(tmp_path: Path) -> None:
    flags = f"{small('progressive_gan')} --stable_kimg 0.032 --fade_kimg 0.032 {EACH_TWO}"
    run(f"--log_name a --n_steps 20 --ema_power 0.05 0.1 {flags}", tmp_path)
    for step, size in ((4, 4), (20, 16)):
        ((_, G, about),) = reconstructed(tmp_path / "a", [0.1], step)
        assert about["step"] == step
        assert {int(m.get_extra_state()[0]) for m in G.modules() if isinstance(m, Stage)} == {size}


# -- runs that go on ---------------------------------------------------------------------------------------------------


def test_a_resumed_run_keeps_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    flags = f"--log_name a --ema_power 0.05 0.1 {EACH_TWO} --checkpoint_interval 5 --keep_checkpoints 9"
    run(f"{flags} --n_steps 12", tmp_path, sampled=False)
    folder = tmp_path / "a"
    before = {step: load_file(file) for step, file in snapshot_files(folder).items()}
    assert list(before) == [2, 4, 6, 8, 10, 12]
    seen: list[list[int]] = []
    run(
        f"--resume {folder / 'checkpoints' / 'step-00000005.pt'}",
        tmp_path,
        lambda step, _: seen.append(list(snapshot_files(folder))),
        sampled=False,
    )
    assert seen[0] == [2, 4]  # later ones went before the first step
    after = {step: load_file(file) for step, file in snapshot_files(folder).items()}
    assert differing(before, after, tuple(before)) == []


def test_a_longer_run_goes_on_with_its_own_distance(tmp_path: Path) -> None:
    run("--log_name a --ema_power 0.1 --n_steps 4", tmp_path, sampled=False)
    run("--log_name a --resume --n_steps 64 --ema_snapshot_kimg 0.16", tmp_path, sampled=False)
    assert list(snapshot_files(tmp_path / "a")) == [1, 2, 3, 4, 20, 40, 60, 64]


def test_a_folder_without_any_is_nothing_to_cut(tmp_path: Path) -> None:
    drop_snapshots(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


# -- files of anybody --------------------------------------------------------------------------------------------------


def rewritten(change: Callable[[dict, dict], None]) -> Callable[[Path], None]:
    """A change of a file's tensors and metadata."""

    def change_file(file: Path) -> None:
        tensors = load_file(file)
        about = {"step": str(int(file.stem[5:])), "images": str(8 * int(file.stem[5:])), "widths": "0.05 0.1"}
        change(tensors, about)
        save_file(tensors, file, about)

    return change_file


def poison(tensors: dict, about: dict) -> None:
    next(x for x in tensors.values() if x.is_floating_point()).view(-1)[0] = float("nan")


TAMPERED = {
    "cut off": (lambda file: file.write_bytes(file.read_bytes()[:-9]), "no whole safetensors"),
    "empty": (lambda file: file.write_bytes(b""), "no safetensors"),
    "text": (lambda file: file.write_text("x" * 99), "no safetensors|no whole"),
    "another step": (rewritten(lambda t, a: a.update(step="3")), "does not say its step"),
    "no step": (rewritten(lambda t, a: a.pop("step")), "damaged"),
    "no images": (rewritten(lambda t, a: a.update(images="0")), "does not say"),
    "images beyond all": (rewritten(lambda t, a: a.update(images="9" * 30)), "does not say"),
    "images of digits": (rewritten(lambda t, a: a.update(images="9" * 9999)), "damaged"),
    "fewer images": (rewritten(lambda t, a: a.update(images="9")), "fewer images"),
    "no width": (rewritten(lambda t, a: a.update(widths="nan")), "its widths are none"),
    "a width twice": (rewritten(lambda t, a: a.update(widths="0.1 0.1")), "its widths are none"),
    "a width that is not there": (rewritten(lambda t, a: a.update(widths="0.07")), "is missing"),
    "not finite": (rewritten(poison), "NaN"),
    "another shape": (rewritten(lambda t, a: t.update({next(iter(t)): torch.zeros(3, 5, 7)})), "shape"),
    "one too few": (rewritten(lambda t, a: t.pop(next(iter(t)))), "missing"),
    "one too many": (rewritten(lambda t, a: t.update({"0.05/x": torch.zeros(3)})), "not expected"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_damaged_snapshots_are_named_in_one_line(trained: Path, tmp_path: Path, how: str) -> None:
    for name in ("generator", "ema"):
        shutil.copytree(trained / "a" / name, tmp_path / "a" / name)
    change, says = TAMPERED[how]
    file = snapshot_files(tmp_path / "a")[62]
    change(file)
    text = refusal(tmp_path / "a")
    assert re.search(says, text) and file.name in text and "remove it" in text
    file.unlink()
    assert len(list(reconstructed(tmp_path / "a", [0.07]))) == 1


def test_what_is_missing_is_said(trained: Path, tmp_path: Path) -> None:
    assert "snapshots of steps 2, 4, 6, ..., 60, 62, 64" in refusal(trained / "a", step=63)
    assert "profile would be off by 60%" in refusal(trained / "a", 0.2, step=2)
    assert "from 0.001 to 0.28" in refusal(trained / "a", 0.3)
    shutil.copytree(trained / "a" / "generator", tmp_path / "generator")
    assert "train with ema_power 0.05 0.1" in refusal(tmp_path / "generator")
