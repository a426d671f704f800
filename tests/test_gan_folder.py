"""gan_folder.py and --data of the other scripts: the set's own name, channels, notes, resumes of old and new runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gan_celeba
import gan_folder
import gan_mnist
from generation import compare
from generation.views import view_of
from images.sources import load_dataset
from settings import TrainConfig
from settings.command_line import parse_config
from tests.running import ROOT
from tools import evaluate, sample
from training import train

SMALL = (
    "--model dcgan --img_size 16 --z_dim 8 --batch_size 8 --g_kwargs width=4 --d_kwargs width=4 --loggers "
    "--device cpu "
)


def write(folder: Path, mode: str = "RGB", size: tuple[int, int] = (24, 16), classes: str = "ab") -> Path:
    """Eight pictures of noise in each class."""
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
            Image.fromarray(pixels, "RGBA").convert(mode).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A script in this process with a cache and runs of its own."""
    monkeypatch.setattr("generation.generator.STANDING_LATENTS", 8)

    def called(script: object, flags: str, *words: str) -> int:
        places = ["--runs_dir", str(tmp_path / "runs"), "--cache_dir", str(tmp_path / "cache")]
        return script.main([*flags.split(), *words, *places])

    return called


def read(file: Path) -> dict:
    return json.loads(file.read_text())


@pytest.mark.parametrize("script", [gan_folder, gan_celeba])
def test_own_pictures_bear_their_own_name(
    script: object, call, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """In the run's folder, on the terminal, in generator/ and in config.json."""
    data = write(tmp_path / "Meine Muscheln é")
    assert call(script, f"{SMALL} --n_steps 2 --crop pad", "--data", str(data)) == 0
    run = tmp_path / "runs" / "Meine_Muscheln_é-dcgan-gan-001"
    about, config = read(run / "generator" / "config.json"), read(run / "config.json")
    assert about["dataset"] == about["data"]["name"] == config["data_name"] == "Meine_Muscheln_é"
    assert about["data"]["crop"] == config["crop"] == "pad" and str(tmp_path) not in json.dumps(about)
    out, err = capsys.readouterr()
    assert "data: Meine_Muscheln_é, 16 images of 16x16x3" in out and "celeba" not in run.name
    mirrored = "not mirrored at random, --flip" if script is gan_folder else "mirrored at random, --no-flip"
    assert err.count("mirrored at random") == 1 and mirrored in err
    assert config["flip"] == (script is gan_celeba)


@pytest.mark.parametrize(
    ("mode", "flags", "channels"),
    [
        ("L", "", 1),
        ("RGB", "", 3),
        ("RGBA", "", 3),
        ("RGBA", "--img_channels 4", 4),
        ("RGB", "--img_channels 1", 1),
    ],
)
def test_channels_are_those_of_the_pictures(
    mode: str, flags: str, channels: int, call, tmp_path: Path, capsys
) -> None:
    data = write(tmp_path / "set", mode)
    assert call(gan_folder, f"{SMALL} --n_steps 1 --log_name a --data {data} {flags}") == 0
    run = tmp_path / "runs" / "a"
    assert read(run / "generator" / "config.json")["build"]["img_channels"] == channels
    assert read(run / "config.json")["img_channels"] == channels
    assert ("--img_channels 4 has it learned" in capsys.readouterr().err) == (mode == "RGBA" and not flags)
    assert call(gan_folder, f"--resume {run} --n_steps 2") == 0
    sheet = Image.open(run / "samples" / "real.png")
    assert sheet.mode == "RGB"


def test_arrays_of_five_channels_train_resume_sample_and_have_no_scores(call, tmp_path: Path, capsys) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (16, 20, 20, 5), dtype=np.uint16)
    np.save(tmp_path / "cells.npy", values)
    whole = f"{SMALL} --n_steps 4 --data {tmp_path / 'cells.npy'}"
    assert call(gan_folder, f"{whole} --log_name whole") == 0
    assert call(gan_folder, f"{whole} --log_name half".replace("steps 4", "steps 2")) == 0
    assert call(gan_folder, f"--resume {tmp_path / 'runs' / 'half'} --n_steps 4") == 0
    states = [
        torch.load(tmp_path / "runs" / name / "checkpoints" / "step-00000004.pt", weights_only=True)
        for name in ("whole", "half")
    ]
    for name, tensors in states[0]["networks"].items():
        assert all(torch.equal(value, states[1]["networks"][name][key]) for key, value in tensors.items())
    about = read(tmp_path / "runs" / "half" / "generator" / "config.json")
    assert about["data"]["scale"] == [0, 4095] and about["build"]["img_channels"] == 5
    capsys.readouterr()
    assert call(gan_folder, f"{whole} --eval_interval 2 --extractor lite0") == 2
    assert "cells: its images have 5 channels, and extractors read 1 (grey) or 3" in capsys.readouterr().err
    assert call(gan_folder, f"{whole} --augment ada") == 0
    assert "leave out images of 5" in capsys.readouterr().out


@pytest.mark.parametrize("channels", [2, 5])
def test_samples_of_other_channels_are_arrays_that_are_read_again(
    channels: int, call, tmp_path: Path
) -> None:
    """Nothing is lost in a folder, and a grid says what it shows."""
    drawn = torch.randint(0, 256, (8, channels, 16, 16), dtype=torch.uint8)
    told = sample.write_files(iter([drawn]), 8, tmp_path / "drawn", "png")
    assert f"all {channels} channels" in told and len(list((tmp_path / "drawn").iterdir())) == 8
    told = sample.write_sheet(drawn, view_of("cells"), tmp_path / "grid.png", 3, None)
    assert told.endswith(
        "as red and green" if channels == 2 else "the first 3 of 5 channels as red, green and blue"
    )
    flags = f"{SMALL} --n_steps 1 --log_name a --data {tmp_path / 'drawn'}"
    assert call(gan_folder, flags) == 0
    assert read(tmp_path / "runs" / "a" / "config.json")["img_channels"] == channels
    data = load_dataset(
        "drawn", img_size=16, img_channels=channels, data=tmp_path / "drawn", cache_dir=tmp_path / "cache"
    )
    np.testing.assert_array_equal(data.images, drawn.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "npy"])
def test_colours_that_become_grey_are_told_once(kind: str, call, tmp_path: Path, capsys) -> None:
    """In a line; nothing of grey pictures, and nothing where the colours are kept."""
    data = write(tmp_path / "photos")
    if kind == "npy":
        data = tmp_path / "photos.npy"
        np.save(data, np.random.default_rng(0).integers(0, 256, (16, 16, 24, 3), np.uint8))
    elif kind != "folder":
        data = Path(shutil.make_archive(str(tmp_path / "packed"), kind, data))
    assert call(gan_mnist, f"{SMALL} --n_steps 1 --log_name a --data {data}") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "--img_channels 3 keeps" in line]
    assert len(lines) == 1 and "become grey" in lines[0]
    assert call(gan_mnist, f"{SMALL} --n_steps 1 --log_name b --img_channels 3 --data {data}") == 0
    assert "become grey" not in capsys.readouterr().err


def test_that_a_batch_too_large_is_autos_is_said(call, tmp_path: Path, capsys) -> None:
    flags = f"{SMALL} --batch_size auto --n_steps 1 --data {write(tmp_path / 'photos')}"
    assert call(gan_folder, flags) == 2
    words = "auto's batch of 32 is larger than the data (16 images): give --batch_size, at most 16"
    assert words in capsys.readouterr().err


def test_an_old_run_goes_on_under_its_old_name(call, tmp_path: Path) -> None:
    """Runs from before own pictures had names, crops and channels: as they had it."""
    data = write(tmp_path / "photos")
    assert call(gan_celeba, f"{SMALL} --n_steps 2 --log_name old --data {data}") == 0
    run = tmp_path / "runs" / "old"
    saved = read(run / "config.json")
    for young in ("data_name", "img_channels", "crop", "value_range"):
        del saved[young]
    (run / "config.json").write_text(json.dumps(saved))
    assert call(gan_celeba, f"--resume {run} --n_steps 3") == 0
    now = read(run / "config.json")
    assert now["data_name"] == "celeba" == read(run / "generator" / "config.json")["dataset"]
    assert (now["crop"], now["img_channels"], now["value_range"], now["flip"]) == ("centre", None, [], True)
    assert call(gan_celeba, f"--resume {run} --n_steps 4 --crop pad") == 2


def test_no_recipe_mirrors_own_pictures() -> None:
    """Only who owns them says so; on a data set that its authors mirrored the recipe does."""
    for flags, flip in (("", False), ("--flip", True), ("--dataset celeba", True)):
        words = f"--data x --preset stylegan2 {flags}".split()
        assert parse_config("gan_folder", ("folder",), {}, words).config().flip == flip


def test_a_moved_set_keeps_its_name_at_a_resume(call, tmp_path: Path) -> None:
    data = write(tmp_path / "photos")
    assert call(gan_folder, f"{SMALL} --n_steps 1 --log_name a --data {data}") == 0
    data.rename(tmp_path / "elsewhere")
    assert (
        call(gan_folder, f"--resume {tmp_path / 'runs' / 'a'} --n_steps 2 --data {tmp_path / 'elsewhere'}")
        == 0
    )
    assert read(tmp_path / "runs" / "a" / "generator" / "config.json")["dataset"] == "photos"


@pytest.mark.parametrize(
    ("size", "shape", "warned"),
    [((16, 24), (16, 24), True), ((24, 16), (16, 24), False), ((16, 24), (16, 16), False)],
)
def test_lying_sizes_for_standing_pictures_are_told_of(
    size: tuple, shape: tuple, warned: bool, call, tmp_path: Path, capsys
) -> None:
    data = write(tmp_path / "set", size=size)
    flags = SMALL.replace("dcgan", "mlp").replace("size 16", f"size {shape[0]}x{shape[1]}")
    assert call(gan_folder, f"{flags} --n_steps 1 --data {data}") == 0
    out, err = capsys.readouterr()
    assert (
        "16 high, 24 wide, and 100% of the pictures are higher than wide: --img_size 24x16" in err
    ) == warned
    assert ("images of 16 high, 24 wide, 3 channels" in out) == (shape[0] != shape[1])


def test_the_path_and_the_strays_are_named_where_there_are_no_classes(call, tmp_path: Path, capsys) -> None:
    data = write(tmp_path / "set")
    for file in list((data / "a").iterdir()):
        file.rename(data / f"stray{file.name}")
    assert call(gan_folder, f"{SMALL} --conditional --data {data}") == 2
    said = capsys.readouterr().err
    assert f"{data} has none (8 of 16 pictures stand beside the 1 folders, such as stray0.png" in said


@pytest.mark.parametrize(
    "flags", [["--data", ""], ["--data="], ["--log_name", ""], ["--cache_dir", ""], ["--runs_dir="]]
)
def test_empty_words_are_refused(flags: list[str], capsys: pytest.CaptureFixture) -> None:
    assert gan_folder.main(flags) == 2
    said = capsys.readouterr().err
    assert f"{flags[0].removesuffix('=')} is empty" in said and said.count("\n") == 1


def test_empty_paths_are_refused_from_python_and_by_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="^data is empty"):
        TrainConfig(dataset="folder", data="")
    assert sample.main(["runs/x", "--out", ""]) == 2 and "--out is empty" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_pictures_one_line_says_how_to_name_them(call, capsys: pytest.CaptureFixture) -> None:
    assert call(gan_folder, f"{SMALL} --n_steps 1") == 2
    assert "name a folder, .zip, .tar, .tar.gz or .npy of images with --data" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--crop pad", "--value_range 0 9", "--img_channels 4"])
def test_pictures_of_one_size_take_no_crop(flag: str, call, capsys: pytest.CaptureFixture) -> None:
    assert call(gan_folder, f"{SMALL} --n_steps 1 --dataset digits {flag}") == 2
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and ("1 (grey) or 3 (colour)" if "channels" in flag else flag.split()[0]) in said
    )


@pytest.mark.parametrize("text", ["5", "5 5", "9 2", "1 2 3", "0 nan", "0 inf"])
def test_wrong_ranges_are_one_line(text: str, capsys: pytest.CaptureFixture) -> None:
    assert gan_folder.main(f"--data x --value_range {text}".split()) == 2
    assert "give two numbers, the smaller first" in capsys.readouterr().err


def test_own_tensors_bring_their_channels_and_size(tmp_path: Path) -> None:
    x = torch.randint(0, 256, (8, 5, 16, 16), dtype=torch.uint8)
    how = {
        "n_steps": 1,
        "batch_size": 4,
        "z_dim": 4,
        "g_kwargs": {"width": 4},
        "d_kwargs": {"width": 4},
        "loggers": (),
    }
    run = train(TrainConfig(runs_dir=str(tmp_path), device="cpu", **how), images=x)
    assert run.networks["G"].img_channels == 5
    for name, value in (("img_channels", 3), ("crop", "pad")):
        with pytest.raises(ValueError, match=name):
            train(TrainConfig(runs_dir=str(tmp_path), **how, **{name: value}), images=x)


def test_the_crop_of_a_run_is_that_of_its_scores(call, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = write(tmp_path / "set")
    assert call(gan_folder, f"{SMALL} --n_steps 1 --log_name a --crop stretch --data {data}") == 0
    run = tmp_path / "runs" / "a"
    flags = f"--n 8 --extractor lite0 --metrics fid --device cpu --cache_dir {tmp_path / 'cache'}"
    assert evaluate.main([str(run), *flags.split()]) == 0
    assert "not the data" not in capsys.readouterr().err
    line = json.loads((run / "scores.jsonl").read_text().splitlines()[-1])
    assert line["protocol"]["reference"] == "set" and "stretched to the aspect" in line["protocol"]["crop"]


def test_folders_of_many_channels_cannot_be_compared(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((6, 16, 16, 5), np.uint8))
    with pytest.raises(ValueError, match="its images have 5 channels, and extractors read 1 .grey. or 3"):
        compare(tmp_path / "a.npy", tmp_path / "a.npy", "lite0", cache_dir=str(tmp_path / "cache"))


def test_names_show_on_a_terminal_of_ascii(tmp_path: Path) -> None:
    """Escaped, not a traceback after the folder was made."""
    data = write(tmp_path / "Kätzchen")
    flags = f"{SMALL} --n_steps 1 --runs_dir {tmp_path / 'runs'} --cache_dir {tmp_path / 'cache'}".split()
    done = subprocess.run(
        [sys.executable, "gan_folder.py", *flags, "--data", str(data)],
        cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert "K\\xe4tzchen" in done.stdout
