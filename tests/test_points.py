"""Points of the plane as data: batches, training, pictures, scores, refusals."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gan_ring8
from errors import UserError
from generation.pictures import FAKE, REAL, scatter
from images.batches import Batches, Shard
from images.sources import load_dataset
from metrics.mixture import MIXTURES, mixture_scores
from settings.command_line import parse_config
from settings.presets import PRESETS
from tests.running import differing, state
from tools import evaluate, sample

QUICK = "--n_steps 10 --batch_size 16 --loggers --log_interval 5 --sample_interval 10 --device cpu"


def ring8(command: str, folder: Path) -> None:
    assert gan_ring8.main(shlex.split(f"{command} --runs_dir {folder}")) == 0


def refusal(capsys: pytest.CaptureFixture[str], main, command: str) -> str:
    """The one line on stderr of a refused command."""
    assert main(shlex.split(command)) == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", MIXTURES)
def test_points_are_images_of_one_pixel(name: str) -> None:
    train, test, again = (
        load_dataset(name, img_size=1, img_channels=2, split=split) for split in ("train", "test", "train")
    )
    n_modes = len(MIXTURES[name].centres)
    assert train.images.shape == (400 * n_modes, 1, 1, 2) and train.images.dtype == np.float32
    assert (np.bincount(train.labels) == 400).all() and train.n_labels == n_modes
    assert (train.images == again.images).all() and train.fingerprint == again.fingerprint
    assert (train.images != test.images).mean() > 0.99 and train.fingerprint != test.fingerprint
    found = mixture_scores(torch.from_numpy(train.images).flatten(1), MIXTURES[name])
    assert found["modes_1pct"] == n_modes and found["high_quality"] > 0.98


def test_batches_are_the_points_themselves() -> None:
    data = load_dataset("ring8", img_size=1, img_channels=2)
    batches = Batches(data, Shard(8), seed=0, flip=False, device="cpu", channels_last=True)
    x, y = batches.micro(0)
    index = batches.indices(0, 8)
    assert x.shape == (8, 2, 1, 1)
    assert torch.equal(x.flatten(1), torch.from_numpy(data.images)[index].flatten(1))
    assert torch.equal(y, torch.from_numpy(data.labels)[index])


def test_points_are_as_precise_as_training() -> None:
    """In float64 the same values: neither rounded again nor scaled as bytes are."""
    data = load_dataset("grid25", img_size=1, img_channels=2)
    batches = Batches(data, Shard(8), seed=0, flip=False, device="cpu")
    single, _ = batches.micro(16)
    torch.set_default_dtype(torch.float64)
    try:
        double, _ = batches.micro(16)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert torch.equal(double, single.double()) and 0 < float(double.abs().max()) <= 1


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("ring8-")])
def test_every_preset_trains(preset: str, tmp_path: Path) -> None:
    """Ten steps, two of G; a scatter plot of both; every parameter of D and G has moved."""
    ring8(f"--preset {preset} --log_name a {QUICK} --checkpoint_interval 5", tmp_path)
    first, last = (state(tmp_path, "a", step)["networks"] for step in (5, 10))
    for name in last:
        moved = [
            k for k, v in last[name].items() if v.is_floating_point() and not torch.equal(v, first[name][k])
        ]
        assert len(moved) >= 7, name  # where only differences count, D's last bias has no gradient
    with Image.open(tmp_path / "a" / "samples" / "step-00000010-raw.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 16)}
        assert picture.size == (320, 320) and {REAL, FAKE} <= colours


def test_resume_and_labels_and_grid(tmp_path: Path) -> None:
    """A conditional run on the grid, ten steps against five and five."""
    command = (
        f"--dataset grid25 --conditional --ema {QUICK} --checkpoint_interval 5 --eval_interval 5 --eval_n 100"
    )
    ring8(f"--log_name a {command}", tmp_path)
    whole, scores = state(tmp_path, "a", 10), (tmp_path / "a" / "scores.jsonl").read_text()
    (tmp_path / "a" / "checkpoints" / "step-00000010.pt").unlink()
    ring8("--log_name a --resume", tmp_path)
    assert differing(whole, state(tmp_path, "a", 10)) == []
    texts = (scores, (tmp_path / "a" / "scores.jsonl").read_text())
    lines = [[json.loads(line) for line in text.splitlines()] for text in texts]
    assert len(lines[0]) == 2
    for one, other in zip(*lines, strict=True):
        assert {k: v for k, v in one.items() if k != "date"} == {
            k: v for k, v in other.items() if k != "date"
        }
    assert lines[0][0]["protocol"]["labels"] == "of the data" and len(lines[0][0]["shares"]) == 25


def test_tools_draw_and_score_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ring8(f"--log_name a {QUICK}", tmp_path)
    capsys.readouterr()
    run = tmp_path / "a"
    assert sample.main([str(run), "--n", "50", "--out", str(tmp_path / "a.png")]) == 0
    assert evaluate.main([str(run), "--n", "100"]) == 0
    said = capsys.readouterr().out
    assert (
        "scatter plot of 50 points" in said and "ring8: the mixture itself" in said and "modes_1pct" in said
    )
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (320, 320)
    line = json.loads((run / "scores.jsonl").read_text())
    assert line["protocol"]["n_fake"] == 100 and line["protocol"]["best_by"] == ["jsd", "low"]
    for flags in (
        "--extractor mnist-cnn", "--fakes test", "--metrics fid", "--n_real 5", "--balanced", "--metric_weights x",
        "--split test", "--neighbours a.png",
    ):  # fmt: skip
        words = refusal(capsys, evaluate.main, f"{run} {flags}")
        assert f"{flags.split()[0]}: the points of ring8 are held against its mixture" in words
    assert "one scatter plot" in refusal(capsys, sample.main, f"{run} --out {tmp_path / 'dir'}/")


def test_dots_stand_where_the_points_are() -> None:
    picture = scatter(MIXTURES["ring8"], torch.tensor([[-1.0, 1.0]]), torch.tensor([[1.0, -1.0], [9.0, 9.0]]))
    near, far = (round(320 * (1.1 + v) / 2.2) for v in (-1, 1))
    for place, colour in ((near, REAL), (far, FAKE)):  # reduced pictures swing a little around edges
        assert max(abs(a - b) for a, b in zip(picture.getpixel((place, place)), colour, strict=True)) < 12
    assert picture.getpixel((319, 0)) != (255, 255, 255)  # beyond the frame


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--flip", "--flip: ring8 is of points"),
        ("--augment color", "--augment color: ring8 is of points"),
        ("--eval_interval 5 --extractor mnist-cnn", "--extractor: the points of ring8"),
        ("--model dcgan", "dcgan makes"),
        ("--img_size 32", "ring8 can be 1"),
        ("--data somewhere", "ring8 is drawn, not read"),
        ("--split val", "ring8 has no split 'val'"),
    ],
)
def test_refusals(flags: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(
        capsys, gan_ring8.main, f"{flags} --log_name a --n_steps 5 --runs_dir {tmp_path} --device cpu"
    )
    assert words in line and not (tmp_path / "a").exists()


def test_points_have_two_channels() -> None:
    with pytest.raises(UserError, match="3 image channels"):
        load_dataset("ring8", img_size=1, img_channels=3)
    config = parse_config("gan_ring8", ("ring8", "grid25"), gan_ring8.DEFAULTS, []).config()
    assert (config.dataset, config.img_size, config.model, config.z_dim) == ("ring8", 1, "mlp", 32)
