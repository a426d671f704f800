"""tools.ema: lists, weight sets in a run and alone, strips, the search by a score, refusals."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import disk
import gan_ring8
from generation import load_generator, load_translator
from generation.snapshots import reconstructed
from metrics.lines import read_lines
from tests.running import run, small, write_pairs
from tools import ema


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of images, and one of points."""
    folder = tmp_path_factory.mktemp("runs")
    run("--log_name a --n_steps 16 --lr 2e-3 --ema_power 0.05 0.1", folder)
    quick = "--n_steps 32 --batch_size 16 --loggers --log_interval 32 --sample_interval 32 --device cpu"
    assert (
        gan_ring8.main(shlex.split(f"{quick} --ema_power 0.05 0.1 --log_name ring --runs_dir {folder}")) == 0
    )
    return folder


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]):
    """What a command prints, and of a refused one its line."""

    def said(command: str, code: int = 0) -> str:
        capsys.readouterr()
        assert ema.main([*shlex.split(command), "--device", "cpu"]) == code
        out, err = capsys.readouterr()
        assert not code or "\n" not in err.strip()
        return err if code else out

    return said


def test_what_was_kept_is_listed(folder: Path, said) -> None:
    text = said(str(folder / "a"))
    assert "16 snapshots of averages of 0.05, 0.1, steps 1 to 16 (128 images)" in text
    assert "0.05   0.00%" in text


def test_a_width_becomes_a_weight_set(folder: Path, said) -> None:
    said(f"{folder / 'a'} --std 0.07 0.12")
    said(f"{folder / 'a'} --std 0.07 --step 12")  # in place of the first
    about = json.loads((folder / "a" / "generator" / "config.json").read_text())
    assert about["weights"] == ["ema-power-0.05", "ema-power-0.1", "raw", "ema-std-0.07", "ema-std-0.12"]
    G, about = load_generator(folder / "a", "ema-std-0.07")
    assert (about["step"], about["chosen"]) == (12, "ema-std-0.07")
    assert about["batch_norm"] == "standing statistics over 512 latents"
    ((_, expected, _),) = reconstructed(folder / "a", [0.07], 12)
    for a, b in zip(G.state_dict().values(), expected.state_dict().values(), strict=True):
        assert_close(a, b)
    assert load_generator(folder / "a", "ema-std-0.12")[1]["step"] == 16
    assert load_generator(folder / "a")[1]["chosen"] == "ema-power-0.05"  # as before


def test_a_generator_of_its_own(folder: Path, tmp_path: Path, said) -> None:
    said(f"{folder / 'a'} --std 0.2 0.06 --out {tmp_path / 'g'}")
    G, about = load_generator(tmp_path / "g")
    assert (about["weights"], about["chosen"], about["step"]) == (
        ["ema-std-0.2", "ema-std-0.06"],
        "ema-std-0.2",
        16,
    )
    ((_, expected, _),) = reconstructed(folder / "a", [0.2])
    z = torch.randn(2, G.z_dim)
    assert_close(G(z), expected(z))
    assert "is not empty" in said(f"{folder / 'a'} --std 0.2 --out {tmp_path / 'g'}", 2)


def test_strips_of_images_and_points(folder: Path, tmp_path: Path, said) -> None:
    said(f"{folder / 'a'} --std 0.03 0.2 --strip {tmp_path / 'a.png'}")
    picture = Image.open(tmp_path / "a.png")
    assert picture.width > 8 * 48 and 2 * 48 < picture.height < 3 * 60
    said(f"{folder / 'ring'} --std 0.05 0.1 --strip {tmp_path / 'b.png'}")
    assert Image.open(tmp_path / "b.png").width > 2 * 320


def test_the_search_scores_widths_and_writes_the_best(folder: Path, tmp_path: Path, said) -> None:
    command = f"{folder / 'ring'} --search jsd --n 200"
    text = said(f"{command} --chart {tmp_path / 'c.png'}")
    lines = read_lines(folder / "ring" / "scores.jsonl")
    found = {line["protocol"]["weights"]: line["jsd"] for line in lines}
    best = min(found, key=lambda name: (found[name], float(name.removeprefix("ema-std-"))))
    assert len(lines) == len(found) in (12, 13)
    assert f"best: std {best.removeprefix('ema-std-')}, jsd {found[best]:.4g}, of {len(found)} widths" in text
    G, about = load_generator(folder / "ring", best)
    assert about["chosen"] == best and Image.open(tmp_path / "c.png").width > 400
    assert said(command).splitlines()[:-1] == text.splitlines()[:-2]  # from the lines, but for the first
    assert read_lines(folder / "ring" / "scores.jsonl") == lines
    assert "best: std 0.1," in said(f"{command} --std 0.1")


def test_images_are_scored_by_a_network(folder: Path, said) -> None:
    text = said(f"{folder / 'a'} --search fid[digits-cnn] --n 16 --std 0.05 0.1 --step 8")
    assert "fid[digits-cnn]" in text and "of 2 widths at step 8" in text


def test_a_run_that_trains_is_left_alone(
    folder: Path, tmp_path: Path, said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before anything is scored."""
    monkeypatch.setattr(ema, "Search", lambda *_: pytest.fail("scored"))
    with disk.locked(folder / "a"):
        assert "--out DIR" in said(f"{folder / 'a'} --std 0.07", 2)
        assert "--out DIR" in said(f"{folder / 'a'} --search fid[digits-cnn] --n 16", 2)
        said(f"{folder / 'a'} --std 0.07 --out {tmp_path / 'g'}")


def test_networks_that_translate(tmp_path: Path, said) -> None:
    flags = f"{small('cyclegan')} --data {write_pairs(tmp_path / 'pairs')} --batch_size 2 --pool_size 2"
    run(f"--log_name a --n_steps 8 {flags} --ema_power 0.05 0.1", tmp_path)
    said(f"{tmp_path / 'a'} --std 0.07")
    translator = load_translator(tmp_path / "a", "ema-std-0.07")
    assert translator.directions == ("AtoB", "BtoA") and translator.about["step"] == 8
    ((_, networks, _),) = reconstructed(tmp_path / "a", [0.07])
    for way, name in zip(translator.directions, networks, strict=True):
        for a, b in zip(translator.network(way).parameters(), networks[name].parameters(), strict=True):
            assert_close(a, b)
    assert "translates pictures" in said(f"{tmp_path / 'a'} --std 0.07 --strip {tmp_path / 's.png'}", 2)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--std 0.5", "from 0.001 to 0.28"),
        ("--std nan", "from 0.001 to 0.28"),
        ("--step 7 --std 0.03 --strip a.gif", "--strip a.gif"),
        ("--strip a.png", "--std"),
        ("--out b", "--std"),
        ("--n 5", "--search"),
        ("--chart a.png", "--search"),
        ("--search foo", "no metric foo"),
        ("--search fid[foo]", "no network foo"),
        ("--search fid[", "METRIC"),
        ("--search fid --strip a.png --std 0.1", "give one"),
        ("--step 99", "snapshots of steps 1, 2, 3"),
    ],
)
def test_refusals(folder: Path, said, flags: str, says: str) -> None:
    assert says in said(f"{folder / 'a'} {flags}", 2)
