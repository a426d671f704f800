"""tools.evaluate and tools.translate on runs of pix2pix, CycleGAN and SRGAN as training leaves them."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from games.srgan import low_resolution
from generation import load_translator
from generation.pictures import to_picture
from generation.translation_scores import TranslationEvaluator
from metrics.pairwise import PAIRWISE
from settings import TrainConfig
from tests.test_tools import refused
from tests.test_translator import files_in, picture, pixels
from tools import evaluate, translate
from training.run import Run, train

SMALL_D = {"width": 4, "n_layers": 1}
SETTINGS = {
    "pix2pix": {"g_kwargs": {"width": 4, "depth": 4}, "d_kwargs": SMALL_D},
    "grey": {"model": "pix2pix", "pairing": "grey", "g_kwargs": {"width": 4, "depth": 4}, "d_kwargs": SMALL_D},
    "cyclegan": {"pairing": "unpaired", "g_kwargs": {"width": 4, "n_blocks": 1}, "d_kwargs": SMALL_D},
    "srgan": {
        "g_kwargs": {"width": 4, "n_blocks": 1}, "d_kwargs": {"width": 4}, "img_size": 32, "factor": 2,
        "term_weights": {"features": 0},
    },
}  # fmt: skip


def write_pictures(folder: Path, images: Tensor) -> None:
    """Pictures as files of a folder."""
    folder.mkdir(parents=True)
    for i, x in enumerate(images):
        to_picture(x).save(folder / f"{i:03d}.png")


def small_run(name: str, data: Path, folder: Path) -> Run:
    """A run of one step in folder / name."""
    common = {
        "dataset": "folder",
        "img_size": 16,
        "batch_size": 2,
        "n_steps": 1,
        "model": name,
        "log_name": name,
    }
    places = {"data": str(data), "runs_dir": str(folder), "cache_dir": str(folder / "cache")}
    return train(TrainConfig(**{**common, **places, **SETTINGS[name]}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets of pictures: grey ones of two sides, sides/trainA, ... of 16 px, and unlike/, with more of A than of B to
    validate; grey ones of 32 px in large/train and large/val, and in colour."""
    base = tmp_path_factory.mktemp("pairs")
    x = torch.stack([picture(16, 16, 1, seed=i) for i in range(24)])
    for side, images in (("A", x), ("B", 255 - x)):
        write_pictures(base / "sides" / f"train{side}", images[:4])
        write_pictures(base / "sides" / f"val{side}", images[4:10])
    shutil.copytree(base / "sides", base / "unlike")
    shutil.rmtree(base / "unlike" / "valA")
    write_pictures(base / "unlike" / "valA", x[10:19])
    for name, channels in (("large", 1), ("colour", 3)):
        images = torch.stack([picture(32, 32, channels, seed=i) for i in range(8)])
        write_pictures(base / name / "train", images[:4])
        write_pictures(base / name / "val", images)
    return base


DATA = {"pix2pix": "sides", "grey": "colour", "cyclegan": "unlike", "srgan": "large"}


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Run]:
    """A run of each."""
    return {name: small_run(name, folder / data, folder / "runs") for name, data in DATA.items()}


def score(folder: Path, name: str, *flags: object) -> dict:
    """The line that tools.evaluate appends."""
    run = folder / "runs" / name
    words = [
        run,
        "--device",
        "cpu",
        "--cache_dir",
        folder / "runs" / "cache",
        "--extractor",
        "digits-cnn",
        *flags,
    ]
    assert evaluate.main([str(word) for word in words]) == 0
    return json.loads((run / "scores.jsonl").read_text().splitlines()[-1])


def read(folder: Path) -> Tensor:
    """uint8 (n, C, H, W) of the pictures of a folder."""
    return torch.stack([pixels(file) for file in sorted(folder.iterdir())])


def by_hand(folder: Path, name: str, n: int) -> tuple[Tensor, Tensor]:
    """The first n validation pictures of a run's target side, and what its network makes of their sources."""
    translator = load_translator(folder / "runs" / name)
    if name == "pix2pix":
        sources, targets = read(folder / "sides" / "valA"), read(folder / "sides" / "valB")
    else:
        targets = read(folder / DATA[name] / "val")
        if name == "srgan":
            small = low_resolution(targets / 127.5 - 1, 2)
            sources = small.mul(127.5).add(127.5).round().to(torch.uint8)
        else:
            half = [
                Image.fromarray(x.permute(1, 2, 0).numpy()).resize((16, 16), Image.LANCZOS)
                for x in targets[:n]
            ]
            targets = torch.stack([torch.from_numpy(np.array(x)).permute(2, 0, 1) for x in half])
            sources = torch.stack([torch.from_numpy(np.array(x.convert("L")))[None] for x in half])
    return targets[:n], translator.translate(sources[:n])


@pytest.mark.parametrize("name", ["pix2pix", "grey", "srgan"])
def test_pairs_are_scored_against_their_targets(folder: Path, runs: dict[str, Run], name: str) -> None:
    flags = ["--metrics", "l1", "psnr", "ssim"] if name == "grey" else []
    line = score(folder, name, "--n", 6, *flags)
    targets, fakes = by_hand(folder, name, 6)
    for metric, row in PAIRWISE.items():
        assert line[metric] == pytest.approx(float(row.compute(targets, fakes).mean()), rel=1e-6), metric
    about = line["protocol"]
    usual = ["step", "l1", "psnr", "ssim", *([] if flags else ["fid[digits-cnn]"]), "protocol", "date"]
    assert list(line) == usual and about["best_by"] == ["l1", "low"]
    assert about["n_fake"] == 6 and about["split"] == "val" and about["weights"] == "raw"
    assert about["pairing"] == {"pix2pix": "paired", "srgan": "alone"}.get(name, name)


@pytest.mark.parametrize("name", ["pix2pix", "grey", "srgan"])
def test_a_score_of_training_is_that_of_the_command(folder: Path, runs: dict[str, Run], name: str) -> None:
    """Of the loop's own network and pictures, and of those in generator/ and of the command."""
    task = runs[name].loop.task
    way = next(iter(task.ways.values()))
    evaluator = TranslationEvaluator(
        None,
        sources=partial(task._validation, way),
        targets=task.data.val.b,
        paired=True,
        about=task.about,
        metrics=["psnr", "l1"],
        n=12,
        cache_dir=folder,
    )
    line = evaluator.score(task.for_sampling(task.average_of()), step=1, weights="raw")
    found = score(folder, name, "--metrics", "psnr", "l1", "--n", 12)
    assert (line["l1"], line["psnr"]) == (found["l1"], found["psnr"])


def test_both_directions_are_scored(folder: Path, runs: dict[str, Run]) -> None:
    """9 pictures of A and 6 of B."""
    line = score(folder, "cyclegan")
    about = line["protocol"]
    assert [k for k in line if k.startswith("fid")] == ["fid[digits-cnn]", "fid[digits-cnn] BtoA"]
    assert (about["n_fake"], about["n_real"]) == (9, 6)
    assert (about["BtoA"]["n_fake"], about["BtoA"]["n_real"]) == (6, 9)
    assert about["BtoA"]["data_fingerprint"] == about["source_fingerprint"]


def test_scores_are_shown(folder: Path, runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    score(folder, "cyclegan", "--metrics", "kid", "fid")
    said = capsys.readouterr().out
    assert "step 1, raw weights, seed 0: 9 fakes, 6 reals of unlike val" in said
    assert (
        len([line for line in said.splitlines() if line.startswith("kid[digits-cnn]") and "+-" in line]) == 2
    )
    score(folder, "pix2pix", "--metrics", "psnr")
    assert " dB" in capsys.readouterr().out


def test_what_nobody_had_to_learn_stands_beside(
    folder: Path, runs: dict[str, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """The identity of x against 255 - x, and the mean of the training's pictures of side B, by hand."""
    score(folder, "pix2pix", "--metrics", "l1")
    said = capsys.readouterr().out
    a, b = (read(folder / "sides" / f"val{side}").double() for side in "AB")
    mean = read(folder / "sides" / "trainB").double().mean(0).round()
    for title, x in (("the source as it is", a), ("the mean of the training's pictures", mean.expand_as(b))):
        assert f"{title}: l1 {float((x - b).abs().mean() / 255):.4g}, psnr" in said
    score(folder, "cyclegan", "--metrics", "fid")
    assert "as it is" not in capsys.readouterr().out


def test_other_pictures_are_scored(
    folder: Path, runs: dict[str, Run], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own = score(folder, "pix2pix", "--metrics", "l1")
    capsys.readouterr()
    a, b = (tmp_path / side for side in "AB")
    for side, path in (("A", a), ("B", b)):
        for split in ("train", "val"):
            shutil.copytree(folder / "sides" / f"{split}{side}", path / split)
    line = score(folder, "pix2pix", "--metrics", "l1", "--data", a, "--data_b", b)
    assert line["l1"] == own["l1"] and "not those that the run" not in capsys.readouterr().err
    (b / "train" / "000.png").write_bytes((b / "train" / "001.png").read_bytes())
    score(folder, "pix2pix", "--metrics", "l1", "--data", a, "--data_b", b)
    assert "warning: the pictures are not those that the run was trained on" in capsys.readouterr().err


def test_a_generator_alone_says_how_pictures_were_loaded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """16 bits, pieces cut out: the pictures are known again, and each direction has the scale of its sources."""
    for side, most in (("A", 1000), ("B", 60000)):
        for split in ("train", "val"):
            place = tmp_path / "deep" / f"{split}{side}"
            place.mkdir(parents=True)
            for i in range(3):
                x = np.random.default_rng(i).integers(0, most, (20, 20)).astype(np.uint16)
                Image.fromarray(x).save(place / f"{i}.png")
    config = TrainConfig(
        dataset="folder", model="cyclegan", data=str(tmp_path / "deep"), img_size=16, load_size=18, batch_size=2,
        n_steps=1, log_name="deep", runs_dir=str(tmp_path / "runs"), cache_dir=str(folder / "runs" / "cache"),
        **SETTINGS["cyclegan"],
    )  # fmt: skip
    train(config)
    alone = shutil.copytree(tmp_path / "runs" / "deep" / "generator", tmp_path / "generator")
    found = load_translator(alone)
    assert translate.scale_of(found, None) == translate.scale_of(found, "AtoB") == (0, 1023)
    assert translate.scale_of(found, "BtoA") == (0, 65535)
    argv = [alone, "--data", tmp_path / "deep", "--extractor", "digits-cnn", "--device", "cpu"]
    capsys.readouterr()
    assert evaluate.main([str(word) for word in argv]) == 0
    assert "not those that the run" not in capsys.readouterr().err


def test_what_cannot_be_scored_is_one_line(
    folder: Path, runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "runs"
    shutil.copytree(run / "pix2pix" / "generator", tmp_path / "generator")
    for argv, words in (
        (
            (run / "pix2pix", "--fakes", "noise"),
            "--fakes: a run that translates pictures is scored on its validation",
        ),
        ((run / "pix2pix", "--truncation", "1"), "--truncation: a run that translates"),
        ((run / "cyclegan", "--metrics", "l1"), "--metrics l1: it holds a translation against its target"),
        ((run / "pix2pix", "--metrics", "memorisation"), "it looks for copies of training images"),
        ((tmp_path, "--metrics", "l1"), "was trained on sides: name them, or others, with --data"),
        ((run / "pix2pix", "--data", tmp_path / "no"), "no: no such file or folder"),
        ((run / "pix2pix", "--reals", tmp_path), "--reals is for two folders"),
        (("--reals", run, "--fakes", run, "--data_b", run), "--data_b is for a run"),
    ):
        assert words in refused(capsys, evaluate.main, *argv, "--device", "cpu")


@pytest.mark.parametrize(
    ("name", "size"), [("pix2pix", (37, 50)), ("cyclegan", (37, 50)), ("srgan", (20, 33))]
)
def test_pictures_of_any_size_are_translated(
    folder: Path, runs: dict[str, Run], name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """In one piece and in tiles; the noise of pix2pix follows the seed."""
    to_picture(picture(*size)).save(tmp_path / "x.png")
    found = []
    for number, flags in enumerate((["--seed", "1"], ["--seed", "1"], ["--seed", "2"], ["--tile", "24"])):
        argv = [
            folder / "runs" / name,
            "--data",
            tmp_path / "x.png",
            "--out",
            tmp_path / str(number),
            "--device",
            "cpu",
        ]
        assert translate.main([str(word) for word in (*argv, *flags)]) == 0
        assert files_in(tmp_path / str(number)) == ["x.png"]
        found.append(pixels(tmp_path / str(number) / "x.png"))
    factor = 2 if name == "srgan" else 1
    assert {x.shape for x in found} == {(1, size[0] * factor, size[1] * factor)}
    assert torch.equal(found[0], found[1])
