"""The commands beside training, as a user calls them, on the embedded digits."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import disk
from generation.evaluation import Evaluator
from generation.generator import export_generator, sampling_copy
from generation.indexed import reference_index
from generation.labels import label_examples
from generation.latents import latents
from generation.sampling import sample_chunks
from images.batches import images_of
from images.sources import load_dataset
from metrics.features import extract, load_extractor, to_uint8
from modelling import build_generator, revisions_of, running_statistics
from tests.running import SMALL
from tools import evaluate, sample, styles, train_classifier

N = 96  # images a test scores


def export(
    run: Path,
    n_labels: int = 0,
    names: tuple[str, ...] = (),
    multi_hot: bool = False,
    model: str = "dcgan",
    img_size: int | tuple[int, int] = 16,
) -> Path:
    """A run folder with a small untrained generator of 16 px digits, raw and averaged."""
    build = {"img_size": img_size, "img_channels": 1, "z_dim": 9, "n_labels": n_labels}
    build |= {"width": 8} if model in ("dcgan", "mlp") else SMALL[model][0]
    data = load_dataset("digits", img_size=img_size, img_channels=1)
    source = {"name": "digits", "fingerprint": data.fingerprint, "split": "train", "data": None}
    config = {
        "model": model,
        "build": build,
        "dataset": "digits",
        "n_labels": n_labels,
        "multi_hot": multi_hot,
        "label_names": list(names),
        "seed": 0,
        "data": source,
    }
    if multi_hot:
        attributes = torch.rand(200, n_labels, generator=torch.Generator().manual_seed(0)) < 0.5
        config["label_examples"] = label_examples(attributes.numpy(), seed=0)
    networks = {}
    for seed, name in enumerate(("ema", "raw")):
        torch.manual_seed(seed)
        G = build_generator(model, **build)
        for part, p in G.named_parameters():  # a mapping network's count a hundredth
            nn.init.normal_(p, std=20 if part.startswith("mapping") else 0.2)
        for moved in running_statistics(G):
            nn.init.normal_(moved)
        networks[name] = sampling_copy(G, config)
    config["revision"] = len(revisions_of(G))
    export_generator(run / "generator", config, networks, step=7)
    (run / "config.json").write_text("{}")
    return run


def export_kinds(folder: Path) -> Path:
    """A run of each kind: without labels, with classes, with attributes, with classes and styles; a wide one."""
    names = tuple("0123456789")
    export(folder / "plain")
    export(folder / "labelled", 10, names)
    export(folder / "faces", 3, ("Bald", "Smiling", "Young"), multi_hot=True)
    export(folder / "styled", 10, names, model="stylegan2")
    export(folder / "wide", model="rect_dcgan", img_size=(16, 32))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unlabelled run."""
    return export(tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with ten classes."""
    return export(tmp_path_factory.mktemp("runs") / "labelled", 10, tuple("0123456789"))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three attributes."""
    names = ("Bald", "Smiling", "Young")
    return export(tmp_path_factory.mktemp("runs") / "faces", 3, names, multi_hot=True)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits-cnn as its tool writes it, after one epoch."""
    file = tmp_path_factory.mktemp("classifier") / "digits-cnn.safetensors"
    assert train_classifier.main(["--dataset", "digits", "--epochs", "1", "--out", str(file)]) == 0
    return file


def refused(capsys: pytest.CaptureFixture[str], main: object, *argv: object) -> str:
    """The one line a command prints when it refuses, with exit code 2."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in argv])
    except SystemExit as leaving:  # argparse
        code = leaving.code
    assert code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ") and len(lines) == 1 or ": error: " in lines[-1]
    return lines[-1]


def score_of(run: Path, weights: Path, *flags: object) -> dict:
    """The line that tools.evaluate appends."""
    argv = [str(run), "--extractor", "digits-cnn", "--metric_weights", str(weights), "--n", str(N)]
    assert evaluate.main([*argv, *map(str, flags)]) == 0
    return json.loads((run / "scores.jsonl").read_text().splitlines()[-1])


# -- classifier ------------------------------------------------------------------------------------


def test_classifier_learns_and_says_where_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--dataset", "digits", "--cache_dir", str(tmp_path)]
    assert train_classifier.main([*argv, "--epochs", "3"]) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "classifiers" / "digits-cnn.safetensors"
    named = load_extractor("digits-cnn", file).name
    assert (
        f"--extractor digits-cnn --metric_weights {file} reads with it; its scores are named [{named}]"
        in printed
    )
    assert re.fullmatch("digits-cnn:[0-9a-f]{8}", named)
    assert float(printed.split("test accuracy ")[1].split("%")[0]) > 80


def test_classifier_is_a_function_of_its_seed(learned: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)  # what a caller did before must not matter
    state = torch.random.get_rng_state()
    for seed, name in ((0, "same"), (1, "other")):
        argv = ["--dataset", "digits", "--epochs", "1", "--seed", str(seed), "--out", str(tmp_path / name)]
        assert train_classifier.main([*argv[:-1], argv[-1] + ".safetensors"]) == 0
    read = [
        load_extractor("digits-cnn", f).checksum
        for f in (learned, *(tmp_path / f"{n}.safetensors" for n in ("same", "other")))
    ]
    assert read[0] == read[1] != read[2]
    assert torch.equal(state, torch.random.get_rng_state())


def test_classifier_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = train_classifier.main
    assert "mnist, digits, cifar10, folder" in refused(capsys, main, "--dataset", "svhn").replace("'", "")
    assert "at least 1" in refused(capsys, main, "--dataset", "digits", "--epochs", 0)
    assert "unrecognized" in refused(capsys, main, "--dataset", "digits", "--epoch", 1)
    assert ".safetensors" in refused(capsys, main, "--dataset", "digits", "--epochs", 1, "--out", "x.pt")


COLOURS = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 60, 40)}


def squares(folder: Path, n: int, split: str = "", colours: dict = COLOURS) -> Path:
    """n images of 20 x 20 a colour: noise with a square of it, in a folder named for it."""
    rng = np.random.default_rng(len(split))
    for name, colour in colours.items():
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            y, x = rng.integers(0, 11, 2)
            pixels[y : y + 9, x : x + 9] = colour
            Image.fromarray(pixels).save(folder / split / name / f"{i:03d}.png")
    return folder


def folder_classifier(data: Path, tmp_path: Path, *flags: object) -> list[str]:
    """The command line of a classifier of a folder at 16 px."""
    words = (
        "--dataset",
        "folder",
        "--data",
        data,
        "--img_size",
        16,
        "--cache_dir",
        tmp_path / "cache",
        *flags,
    )
    return [str(word) for word in words]


@pytest.mark.parametrize("has_test", [True, False])
def test_folder_classifier_learns_colours(
    has_test: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = squares(tmp_path / "data", 40, "train" if has_test else "")
    if has_test:
        squares(data, 5, "test")
    assert train_classifier.main(folder_classifier(data, tmp_path, "--epochs", 12)) == 0
    printed = capsys.readouterr().out
    n_train, n_test = (120, 15) if has_test else (108, 12)
    assert f"folder-cnn: {n_train} images, {n_test} to test, 12 epochs" in printed
    assert (f"no test split: {n_test} images, a tenth of each class, are held out" in printed) is not has_test
    assert float(printed.split("test accuracy ")[1].split("%")[0]) > 90
    reader = load_extractor("folder-cnn", tmp_path / "cache" / "classifiers" / "folder-cnn.safetensors")
    assert reader.classes == tuple(COLOURS) and reader.module.size == 16
    unseen = load_dataset(
        "folder", img_size=20, img_channels=3, data=squares(tmp_path / "new", 9), cache_dir=tmp_path / "c"
    )
    features, logits = extract(reader, [images_of(unseen)])  # other noise, of another size
    assert features.shape == (27, 256)
    assert (logits.argmax(1).numpy() == unseen.labels).mean() > 0.8


def test_held_out_images_are_a_tenth_of_each_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 29)[torch.randperm(89)]
    train, test = train_classifier.hold_out(labels, 3)
    assert torch.equal(torch.cat([train, test]).sort().values, torch.arange(89))
    assert torch.bincount(labels[test]).tolist() == [5, 1, 2]
    again, other = (train_classifier.hold_out(labels, seed)[1] for seed in (3, 4))
    assert torch.equal(test, again) and not torch.equal(test, other)


def test_small_folders_get_more_epochs() -> None:
    recipe = replace(train_classifier.RECIPES["folder"], epochs=10, batch_size=128, min_steps=500)
    assert train_classifier.with_enough_steps(recipe, 60).epochs == 500
    assert train_classifier.with_enough_steps(recipe, 128 * 7 + 1).epochs == 72
    assert train_classifier.with_enough_steps(recipe, 128 * 100).epochs == 10


def test_one_step_is_enough_to_write_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = squares(tmp_path / "data", 10)
    assert train_classifier.main(folder_classifier(data, tmp_path, "--epochs", 1)) == 0
    assert "doubtful" in capsys.readouterr().err


def test_classifier_refuses_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(data: Path, *flags: object) -> str:
        capsys.readouterr()
        assert train_classifier.main(folder_classifier(data, tmp_path, *flags)) == 2
        # after what was found
        return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("error: ")

    colours = squares(tmp_path / "colours", 10)
    one = squares(tmp_path / "one", 10, colours={"red": COLOURS["red"]})
    assert f"{one} has no classes: give at least two folders" in line(one)
    assert "has no classes" in line(colours / "red")
    few = squares(squares(tmp_path / "few", 9, "train"), 10, "test")
    assert "too few images to train on of: blue 9, green 9, red 9; 10 of each class" in line(few)
    missing = squares(
        squares(tmp_path / "missing", 10, "train"), 3, "test", COLOURS | {"pink": (250, 180, 180)}
    )
    assert "too few images to train on of: pink 0;" in line(missing)
    faces = squares(tmp_path / "faces", 10, colours={"all": (0, 0, 0)})
    rows = "".join(f"{i:03d}.png 1 -1\n" for i in range(10))
    (faces / "list_attr_celeba.txt").write_text(f"10\nBald Young\n{rows}")
    assert "has attributes, of which an image has several" in line(faces)
    assert "--img_size 15: choose 16 to 256" in line(colours, "--img_size", 15)
    assert "no such file or folder" in line(tmp_path / "nowhere")
    main = train_classifier.main
    assert "--data" in refused(capsys, main, "--dataset", "folder")
    assert "cifar10-cnn reads 32 px" in refused(capsys, main, "--dataset", "cifar10", "--img_size", 32)
    other = ("--dataset", "cifar10", "--data", colours, "--cache_dir", tmp_path / "cache")
    assert main([str(word) for word in other]) == 2
    assert "(blue, green, red) are not those of cifar10-cnn: take --dataset folder" in capsys.readouterr().err


# -- evaluate --------------------------------------------------------------------------------------


def test_what_a_killed_tool_left_goes(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    written = disk.temporary_of("000001.png").name
    left = tmp_path / "out" / written.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")
    left.write_bytes(b"half")
    long = "n" * 236 + ".png"
    for out in ("out/", f"out/{long}"):
        assert sample.main([str(run), "--n", "1", "--out", f"{tmp_path}/{out}"]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"000000.png", long}


def test_evaluate_writes_score_and_protocol(
    run: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = score_of(run, weights)
    printed = capsys.readouterr()
    assert "fid[digits-cnn]" in printed.out and "fid rises as n falls" in printed.err
    assert sum(line["shares"]) == pytest.approx(1) and len(line["shares"]) == 10
    assert line["fid[digits-cnn]"] > 0 and 0 < line["confidence"] <= 1 and line["kl_uniform"] >= 0
    about = line["protocol"]
    assert (about["n_real"], about["n_fake"], about["split"], about["size"]) == (N, N, "train", [16, 16, 1])
    assert (about["weights"], about["step"], about["seed"], about["truncation"]) == ("ema", 7, 0, None)
    assert "standing statistics" in about["batch_norm"] and len(about["extractor_sha256"]) == 64
    assert about["code"] and about["torch"] == torch.__version__ and about["device"]


def test_evaluate_repeats_to_the_last_digit(run: Path, weights: Path, tmp_path: Path) -> None:
    first, again = score_of(run, weights), score_of(run, weights, "--cache_dir", tmp_path)
    first.pop("date"), again.pop("date")
    assert first == again
    for flags in (("--seed", 1), ("--weights", "raw"), ("--split", "test")):
        assert score_of(run, weights, *flags)["fid[digits-cnn]"] != first["fid[digits-cnn]"]


def test_evaluate_stands_beside_a_lone_generator(run: Path, weights: Path, tmp_path: Path) -> None:
    lone = tmp_path / "shared"
    lone.mkdir()
    for file in (run / "generator").iterdir():
        (lone / file.name).write_bytes(file.read_bytes())
    alone, whole = score_of(lone, weights), score_of(run, weights)
    assert alone["fid[digits-cnn]"] == whole["fid[digits-cnn]"]
    assert evaluate.scores_file(str(run / "generator")) == run / "scores.jsonl"


class Replay(nn.Module):
    """A generator that has learned the reference by heart, or nothing but noise."""

    z_dim = 4

    def __init__(self, images: torch.Tensor | None) -> None:
        super().__init__()
        self.images, self.at, self.dummy = images, 0, nn.Parameter(torch.zeros(1))

    def forward(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """The next images, in [-1, 1]."""
        if self.images is None:
            return torch.rand(len(z), 1, 16, 16, generator=torch.Generator().manual_seed(self.at)) * 2 - 1
        self.at += len(z)
        return self.images[self.at - len(z) : self.at].float() / 127.5 - 1


def test_evaluate_gives_zero_for_the_reals_and_much_more_for_noise(
    run: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_dataset("digits", img_size=16, img_channels=1)
    index = reference_index(data, N)
    _, config = evaluate.load_generator(run)
    scores = []
    for images in (images_of(data, index), None):
        monkeypatch.setattr(evaluate, "load_generator", lambda *_, images=images: (Replay(images), config))
        scores.append(score_of(run, weights))
    real, noise = scores
    assert abs(real["fid[digits-cnn]"]) < 1e-9 and real["kl_data"] == 0
    assert noise["fid[digits-cnn]"] > 1 and noise["fid[digits-cnn]"] > 1e6 * abs(real["fid[digits-cnn]"])


def test_rectangles_are_scored_and_drawn(weights: Path, tmp_path: Path) -> None:
    run = export(tmp_path / "high", model="mlp", img_size=(32, 16))
    line = score_of(run, weights)
    assert line["protocol"]["size"] == [32, 16, 1] and line["fid[digits-cnn]"] > 0
    for out in ("grid.png", "single/"):
        assert sample.main([str(run), "--n", "6", "--out", f"{tmp_path}/{out}", "--scale", "1"]) == 0
    with Image.open(tmp_path / "grid.png") as grid, Image.open(tmp_path / "single" / "000000.png") as one:
        assert grid.size == (3 * 18 + 2, 2 * 34 + 2) and one.size == (16, 32)


class Obedient(nn.Module):
    """A generator that shows a real image of the class it is asked for, but a 7 in place of each 1."""

    z_dim = 4

    def __init__(self) -> None:
        super().__init__()
        data = load_dataset("digits", img_size=16, img_channels=1)
        images = images_of(data)
        self.examples = [images[torch.from_numpy(data.labels) == (7 if i == 1 else i)] for i in range(10)]
        self.dummy, self.asked = nn.Parameter(torch.zeros(1)), []

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Images in [-1, 1]; y are kept."""
        self.asked += y.tolist()
        return torch.stack([self.examples[i][n] for n, i in enumerate(y.tolist())]).float() / 127.5 - 1


@pytest.fixture
def obedient(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> Obedient:
    """The generator that `labelled` then loads."""
    G, (_, config) = Obedient(), evaluate.load_generator(labelled)
    monkeypatch.setattr(evaluate, "load_generator", lambda *_: (G, config))
    return G


def test_evaluate_asks_for_the_labels_of_the_reference(
    labelled: Path, obedient: Obedient, weights: Path
) -> None:
    line = score_of(labelled, weights)
    data = load_dataset("digits", img_size=16, img_channels=1)
    assert obedient.asked == data.labels[reference_index(data, N).numpy()].tolist()
    assert line["protocol"]["labels"] == "of the reference images"


def test_evaluate_asks_for_as_many_of_each_class(
    labelled: Path, obedient: Obedient, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = score_of(labelled, weights, "--balanced")
    assert "labels balanced" in capsys.readouterr().out
    assert obedient.asked == [i % 10 for i in range(N)]
    assert line["protocol"]["labels"] == "balanced: the classes in turn"


def test_evaluate_counts_what_is_read_as_asked(
    labelled: Path, obedient: Obedient, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = score_of(labelled, weights, "--balanced")
    each = line["class_accuracies"]
    assert len(each) == 10 and each[1] < 0.2 and sum(each) - each[1] > 8 * 0.8
    counts = [len(range(i, N, 10)) for i in range(10)]
    mean = sum(share * count for share, count in zip(each, counts, strict=True)) / N
    assert line["class_accuracy"] == pytest.approx(mean, abs=1e-12)
    assert re.search(rf"read as asked +{100 * mean:.1f}%", capsys.readouterr().out)


def test_evaluate_asks_only_for_classes_that_the_extractor_reads(
    run: Path, labelled: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = score_of(run, weights)
    assert "class_accuracy" not in line and "class_accuracies" not in line
    assert line["protocol"]["labels"] is None and "read as asked" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "classes", [tuple("1234567890"), tuple("01234"), ()], ids=["other order", "fewer", "none"]
)
def test_read_as_asked_needs_an_extractor_of_the_same_classes(
    labelled: Path, weights: Path, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    data, (_, config) = load_dataset("digits", img_size=16, img_channels=1), evaluate.load_generator(labelled)
    same = load_extractor("digits-cnn", weights)
    other = replace(same, classes=classes)
    asked = [
        Evaluator(extractor, data, config, n_fake=N, cache_dir=tmp_path).metrics
        for extractor in (same, other)
    ]
    assert "accuracy" in asked[0] and "accuracy" not in asked[1]
    assert ("modes" in asked[1]) == bool(classes)
    with pytest.raises(ValueError, match="metrics accuracy: digits-cnn reads"):
        Evaluator(other, data, config, n_fake=N, cache_dir=tmp_path, metrics=["accuracy"])


def test_evaluate_refuses_labels_that_do_not_fit(
    run: Path,
    faces: Path,
    labelled: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line each, before anything is drawn."""
    given = ("--extractor", "digits-cnn", "--metric_weights", weights, "--n", N)
    assert "without --conditional" in refused(capsys, evaluate.main, run, *given, "--balanced")
    assert "--balanced: this generator knows attributes" in refused(
        capsys, evaluate.main, faces, *given, "--balanced"
    )
    fewer = export(tmp_path / "fewer", 3, ("0", "1", "2"))
    for where, names in ((fewer, "0, 1, 2"), (faces, "Bald, Smiling, Young")):
        line = refused(capsys, evaluate.main, where, *given)
        assert f"(0, 1, 2, 3, 4, 5, 6, 7, 8, 9) are not the generator's ({names}); check --data" in line
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    for i in range(N):
        Image.fromarray(np.full((16, 16), i, np.uint8)).save(unlabelled / f"{i}.png")
    given = (*given, "--data", unlabelled, "--cache_dir", tmp_path / "cache")
    score_of(run, weights, *given[-4:])  # says what it found there, once
    for where, knows, way in (
        (labelled, "10 classes", "--balanced"),
        (faces, "3 attributes", "name labelled images with --data"),
    ):
        line = refused(capsys, evaluate.main, where, *given)
        assert line == f"error: this generator knows {knows} and the reference has none: {way}"


def test_weights_of_other_label_counts_are_refused(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = export(tmp_path / "other", 3, ("0", "1", "2")) / "generator"
    (other / "ema.safetensors").write_bytes((labelled / "generator" / "ema.safetensors").read_bytes())
    line = refused(capsys, sample.main, other, "--out", tmp_path / "x.png")
    assert "ema.safetensors is damaged" in line and "has shape" in line


def test_evaluate_refuses(
    run: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--extractor", "digits-cnn", "--metric_weights", weights)
    assert "does not exist" in refused(capsys, evaluate.main, tmp_path / "none", *given)
    assert "is no run" in refused(capsys, evaluate.main, tmp_path, *given)
    assert "has 1497 images" in refused(capsys, evaluate.main, run, *given, "--n_real", 1498)
    assert "at least 2" in refused(capsys, evaluate.main, run, *given, "--n", 1)
    assert "ema, raw" in refused(capsys, evaluate.main, run, *given, "--weights", "ema-0.5")
    assert "mnist-cnn" in refused(capsys, evaluate.main, run, "--extractor", "vgg")
    untrained = ("--extractor", "cifar10-cnn", "--cache_dir", tmp_path)
    assert "train_classifier --dataset cifar10" in refused(capsys, evaluate.main, run, *untrained, "--n", N)
    assert "--data" in refused(capsys, evaluate.main, run, *given, "--data", tmp_path / "none", "--n", N)


# -- sample ----------------------------------------------------------------------------------------


def test_sample_writes_a_grid_or_single_files(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample.main([str(run), "--n", "6", "--out", str(tmp_path / "new" / "grid.png")]) == 0
    assert "ema weights, batch norm: standing statistics" in capsys.readouterr().out
    with Image.open(tmp_path / "new" / "grid.png") as grid:  # four times as large, to be seen
        assert grid.size == (4 * (3 * 18 + 2), 4 * (2 * 18 + 2))
        small = grid.resize((3 * 18 + 2, 2 * 18 + 2), Image.Resampling.NEAREST)
        assert small.resize(grid.size, Image.Resampling.NEAREST).tobytes() == grid.tobytes()
    for _ in range(2):  # writing over the same names is fine
        assert sample.main([str(run / "generator"), "--n", "3", "--out", str(tmp_path / "single")]) == 0
    names = sorted(file.name for file in (tmp_path / "single").iterdir())
    assert names == ["000000.png", "000001.png", "000002.png"]
    with Image.open(tmp_path / "single" / names[0]) as image:
        assert image.size == (16, 16) and image.mode == "L"


def test_a_sample_depends_on_seed_and_index_only(run: Path) -> None:
    G, _ = evaluate.load_generator(run)
    seen: list[torch.Tensor] = []
    G.register_forward_hook(lambda _module, _args, x: seen.append(x))
    many, one = torch.cat(list(sample_chunks(G, 70, seed=5))), torch.cat(list(sample_chunks(G, 1, seed=5)))
    assert many.shape == (70, 1, 16, 16) and [len(x) for x in seen] == [64, 6, 1]
    torch.testing.assert_close(seen[0][:1], seen[2], atol=1e-5, rtol=0)
    assert int((many[:1].int() - one.int()).abs().max()) <= 1
    assert torch.equal(latents(5, 0, 70, 9)[33:40], latents(5, 33, 7, 9))
    assert not torch.equal(latents(5, 0, 4, 9), latents(6, 0, 4, 9))


def pixels(folder: Path) -> np.ndarray:
    """The images of a folder as (n, H, W) integers."""
    return np.stack([np.asarray(Image.open(file)).astype(int) for file in sorted(folder.iterdir())])


@pytest.mark.parametrize("kind", ["run", "labelled", "faces"])
def test_sample_follows_its_seed(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Every image, whatever labels there are; the seed is 0 unless said."""
    trained = request.getfixturevalue(kind)
    plain, zero, one = (
        drawn(trained, tmp_path / str(i), *flags)
        for i, flags in enumerate(([], ["--seed", "0"], ["--seed", "1"]))
    )
    assert np.array_equal(plain, zero) and (plain != one).any((1, 2)).all()


def test_sample_takes_a_class_by_name_or_number(labelled: Path, tmp_path: Path) -> None:
    for name, flags in {"turns": [], "threes": ["--class", "3"], "again": ["--class", "3"]}.items():
        assert sample.main([str(labelled), "--n", "14", "--out", str(tmp_path / name), *flags]) == 0
    turns, threes, again = (pixels(tmp_path / name) for name in ("turns", "threes", "again"))
    assert np.array_equal(threes, again)
    same = [i for i in range(14) if np.abs(turns[i] - threes[i]).max() <= 1]
    assert same == [3, 13]


def drawn(run: Path, out: Path, *flags: str) -> np.ndarray:
    """What tools.sample writes with the flags, (n, H, W)."""
    assert sample.main([str(run), "--n", "8", "--out", str(out), *flags]) == 0
    return pixels(out)


def test_sample_gives_pairs_that_differ_in_one_attribute(faces: Path, tmp_path: Path) -> None:
    """A face as drawn is one of its pair: nothing else moves with the attribute."""
    plain, there, gone = (
        drawn(faces, tmp_path / str(i), *flags)
        for i, flags in enumerate(([], ["--attributes", "Smiling"], ["--attributes", "-Smiling"]))
    )
    is_there, is_gone = (np.abs(plain - other).max((1, 2)) <= 1 for other in (there, gone))
    assert (is_there != is_gone).all() and is_there.any() and is_gone.any()


def test_sample_takes_attributes(faces: Path, tmp_path: Path) -> None:
    """A value that starts with a minus is no flag."""
    forms = (
        ["--attributes", "-Young,Bald"],
        ["--attributes=-Young,Bald"],
        ["--attributes", "Bald, -Young"],
        ["--attributes", "-Young", "--attributes", "Bald"],
    )
    found = [drawn(faces, tmp_path / str(i), *flags) for i, flags in enumerate(forms)]
    assert all(np.array_equal(found[0], other) for other in found[1:])
    other = drawn(faces, tmp_path / "other", "--attributes", "-Bald,Young")
    assert not np.array_equal(found[0], other)


def test_sample_refuses_attributes(
    faces: Path, run: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "x.png")

    def line(where: Path, *flags: object) -> str:
        return refused(capsys, sample.main, where, *out, *flags)

    assert "Bald, Smiling, Young" in line(faces, "--attributes", "-Smile")
    assert "Smiling is given twice" in line(faces, "--attributes", "Smiling,-Smiling")
    assert "Smiling is given twice" in line(faces, "--attributes", "Smiling", "--attributes", "Smiling")
    assert "expected one argument" in line(faces, "--attributes", "--n", 3)
    assert "expected one argument" in line(faces, "--attributes")
    assert "name them with --attributes" in line(faces, "--class", "Smiling")
    assert "name it with --class" in line(labelled, "--attributes", "-3")
    assert "without --conditional" in line(run, "--attributes", "-Smiling")
    assert not (tmp_path / "x.png").exists()


def test_grids_have_a_column_a_class(
    labelled: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where all classes fit; attributes and one class make squares."""
    out = tmp_path / "grid.png"
    for where, n, flags, size in (
        (labelled, 30, [], (10, 3)),
        (labelled, 9, [], (3, 3)),
        (labelled, 30, ["--class", "3"], (6, 5)),
        (faces, 16, [], (4, 4)),
    ):
        assert sample.main([str(where), "--n", str(n), "--out", str(out), "--scale", "1", *flags]) == 0
        with Image.open(out) as grid:
            assert grid.size == tuple(18 * side + 2 for side in size)


def test_sample_refuses(
    run: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "x.png")
    assert "does not exist" in refused(capsys, sample.main, tmp_path / "none", *out)
    assert "is no run" in refused(capsys, sample.main, tmp_path, *out)
    assert "without --conditional" in refused(capsys, sample.main, run, *out, "--class", 3)
    assert "0, 1, 2" in refused(capsys, sample.main, labelled, *out, "--class", 10)
    assert "one class" in refused(capsys, sample.main, labelled, *out, "--class", 1, 2)
    assert "at least 1" in refused(capsys, sample.main, run, *out, "--n", 0)
    assert "grid" in refused(capsys, sample.main, run, "--out", "x.gif")
    (tmp_path / "file").write_text("")
    assert "--out" in refused(capsys, sample.main, run, "--out", tmp_path / "file" / "x.png")
    assert "--out" in refused(capsys, sample.main, run, "--out", str(tmp_path / "file") + "/")
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("command", [["gan_mnist.py"], ["-m", "tools.sample"], ["gan_ring8.py", "--help"]])
def test_a_python_without_torch_is_told_how_to_get_it(command: list[str]) -> None:
    """The first thing that people meet who have not activated the environment."""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-S", *command], capture_output=True, text=True, cwd=root)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "no torch" in done.stderr and "activate" in done.stderr


def test_names_that_a_terminal_cannot_show_are_escaped(tmp_path: Path) -> None:
    """Of a tool that is started as a module, on a terminal that shows some of them."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.sample", str(tmp_path / "\u0645\u1ee7\u20ac"), "--out", "x.png"],
        capture_output=True, cwd=Path(__file__).resolve().parent.parent,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"error: ")
    assert rb"\u0645\u1ee7" in done.stderr and b"does not exist" in done.stderr


@pytest.fixture(scope="module")
def styled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StyleGAN2 of ten classes."""
    names = tuple("0123456789")
    return export(tmp_path_factory.mktemp("runs") / "styled", 10, names, model="stylegan2")


def cells(file: Path, columns: int) -> np.ndarray:
    """The 16 px images of a grid, (rows, columns, 16, 16)."""
    with Image.open(file) as grid:
        pixels = np.asarray(grid.convert("L"))
    rows = (pixels.shape[0] - 2) // 18
    return np.stack(
        [
            [pixels[2 + 18 * i : 18 + 18 * i, 2 + 18 * j : 18 + 18 * j] for j in range(columns)]
            for i in range(rows)
        ]
    )


def test_truncation_brings_samples_to_the_mean(styled: Path, tmp_path: Path, capsys) -> None:
    for name, flags in {
        "one": [],
        "none": ["--truncation", "0"],
        "late": ["--truncation_layers", "2"],
    }.items():
        extra = [*flags, *(["--truncation", "0"] if name == "late" else [])]
        words = [str(styled), "--n", "4", "--class", "3", "--out", str(tmp_path / name), *extra]
        assert sample.main(words) == 0
    one, none, late = (pixels(tmp_path / name) for name in ("one", "none", "late"))
    assert "batch norm: none" in capsys.readouterr().out
    assert (none == none[0]).all() and not (one == one[0]).all() and not (late == late[0]).all()
    assert not np.array_equal(one, late)
    assert np.array_equal(one, drawn(styled, tmp_path / "1", "--class", "3", "--truncation", "1")[:4])


def test_truncation_of_latents(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without styles: what G makes of truncated latents with statistics of such; out of reach nothing changes."""
    thresholds = (None, 20.0, 1.0, 0.5)
    plain, wide, one, half = (
        drawn(run, tmp_path / str(i), *(["--truncation", str(t)] if t else []))
        for i, t in enumerate(thresholds)
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if "step 7" in line]
    assert ["truncation" in line for line in lines] == [False, True, True, True]
    assert "ema weights, truncation 0.5, batch norm: standing statistics over 512" in lines[-1]
    assert np.array_equal(plain, wide) and not np.array_equal(plain, one) and not np.array_equal(one, half)
    G, config = evaluate.load_generator(run)
    expected = to_uint8(sampling_copy(G, config, 0, 0.5)(latents(0, 0, 8, 9, 0.5)))
    assert np.array_equal(half, expected[:, 0].numpy().astype(int))


def test_truncation_refuses(styled: Path, run: Path, tmp_path: Path, capsys) -> None:
    out = ("--out", tmp_path / "x.png")
    assert "finite" in refused(capsys, sample.main, styled, *out, "--truncation", "nan")
    assert "needs --truncation" in refused(capsys, sample.main, styled, *out, "--truncation_layers", 2)
    words = (styled, *out, "--truncation", 0.5, "--truncation_layers", 99)
    assert "6" in refused(capsys, sample.main, *words)
    for threshold in (0, -1, 0.009):
        line = refused(capsys, sample.main, run, *out, "--truncation", threshold)
        assert f"--truncation {threshold}: " in line and "at least 0.01" in line and "stylegan2" in line
    words = (run, *out, "--truncation", 0.5, "--truncation_layers", 2)
    assert "dcgan has no styles" in refused(capsys, sample.main, *words)


def test_truncation_sweep(styled: Path, tmp_path: Path) -> None:
    """The column of psi 0 shows one image, that of psi 1 what tools.sample draws."""
    out, plain = tmp_path / "sweep.png", tmp_path / "plain.png"
    flags = [str(styled), "--class", "3"]
    assert (
        styles.main([*flags, "--show", "truncation", "--psi", "1", "0", "--rows", "4", "--out", str(out)])
        == 0
    )
    assert sample.main([*flags, "--n", "4", "--out", str(plain), "--scale", "1"]) == 0
    sweep = cells(out, 2)
    assert (sweep[:, 1] == sweep[0, 1]).all()
    assert np.array_equal(sweep[:, 0], cells(plain, 2).reshape(4, 16, 16))


def test_mixing_table(styled: Path, tmp_path: Path) -> None:
    """With all layers lent a cell is its column's image, with none but one it is neither's."""
    tables = {}
    for name, layers in {"all": ("0", "6"), "one": ("1", "2")}.items():
        out = tmp_path / f"{name}.png"
        words = [str(styled), "--show", "mixing", "--rows", "3", "--class", "3", "--layers", *layers]
        assert styles.main([*words, "--out", str(out)]) == 0
        tables[name] = cells(out, 4)
    assert all(np.array_equal(tables["all"][0, 1:], tables["all"][i, 1:]) for i in (1, 2, 3))
    cell, row, column = (tables["one"][at].astype(int) for at in ((2, 3), (2, 0), (0, 3)))
    assert np.abs(cell - row).max() > 0 and np.abs(cell - column).max() > 0


def test_mixing_table_of_listed_seeds(styled: Path, tmp_path: Path) -> None:
    """Rows and columns are the images that tools.sample draws of the seeds; without columns each seed meets each."""
    words = [str(styled), "--class", "3"]
    for name, flags, rows, columns in (
        ("a", ["--seeds", "3,17", "--column_seeds", "40-42"], "3,17", "40-42"),
        ("b", ["--seeds", "5,9", "--layers", "0", "6"], "5,9", "5,9"),
    ):
        out = tmp_path / f"{name}.webp"
        assert styles.main([*words, "--show", "mixing", *flags, "--out", str(out)]) == 0
        own = {}
        for seeds in (rows, columns):
            assert sample.main([*words, "--seeds", seeds, "--out", f"{tmp_path}/{name}{seeds}/"]) == 0
            own[seeds] = pixels(tmp_path / f"{name}{seeds}")
        table = cells(out, 1 + len(own[columns])).astype(int)
        assert table.shape[:2] == (1 + len(own[rows]), 1 + len(own[columns]))
        assert np.abs(table[1:, 0] - own[rows]).max() <= 1 and np.abs(table[0, 1:] - own[columns]).max() <= 1
    assert np.abs(table[1:, 1:] - table[0, 1:]).max() <= 1  # all layers are the columns'


def test_rows_of_listed_seeds(styled: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep.png"
    words = [str(styled), "--class", "3", "--seeds", "3,17"]
    assert styles.main([*words, "--show", "truncation", "--psi", "1", "0", "--out", str(out)]) == 0
    assert sample.main([*words, "--out", f"{tmp_path}/own/"]) == 0
    assert np.abs(cells(out, 2)[:, 0].astype(int) - pixels(tmp_path / "own")).max() <= 1


def test_noise_table(styled: Path, tmp_path: Path) -> None:
    out = tmp_path / "noise.png"
    assert styles.main([str(styled), "--show", "noise", "--rows", "2", "--out", str(out)]) == 0
    none, constant, first, second, deviation = cells(out, 5).swapaxes(0, 1).astype(int)
    assert all((a != b).any() for a, b in ((none, constant), (constant, first), (first, second)))
    assert deviation.max() == 255


def test_styles_refuses(styled: Path, run: Path, tmp_path: Path, capsys) -> None:
    out = ("--out", tmp_path / "x.png")
    assert "dcgan has no styles" in refused(capsys, styles.main, run, "--show", "noise", *out)
    assert "layers 0 to 6" in refused(capsys, styles.main, styled, "--show", "mixing", "--layers", 3, 7, *out)
    assert "NAME.png" in refused(capsys, styles.main, styled, "--show", "noise", "--out", "x.gif")
    mixing, noise = (styled, "--show", "mixing", *out), (styled, "--show", "noise", *out)
    assert "needs --seeds" in refused(capsys, styles.main, *mixing, "--column_seeds", "3")
    assert "--show mixing" in refused(capsys, styles.main, *noise, "--seeds", "3", "--column_seeds", "3")
    assert "--rows and --seeds" in refused(capsys, styles.main, *noise, "--seeds", "3", "--rows", 2)
    assert "--seed and --seeds" in refused(capsys, styles.main, *noise, "--seeds", "3", "--seed", 2)
    assert "fewer --rows" in refused(capsys, styles.main, *mixing, "--rows", 10**7)
    assert "fewer --rows" in refused(capsys, styles.main, *mixing, "--seeds", "0-9999")


def test_styles_takes_attributes(tmp_path: Path) -> None:
    run = export(tmp_path / "run", 3, ("Bald", "Smiling", "Young"), multi_hot=True, model="stylegan2")
    shown = []
    for words in ([], ["--attributes", "-Smiling,Bald"]):
        out = tmp_path / f"{len(shown)}.png"
        flags = ["--show", "truncation", "--psi", "1", "--rows", "4", "--out", str(out)]
        assert styles.main([str(run), *flags, *words]) == 0
        single = drawn(run, tmp_path / f"{len(shown)}", *words)[:4]
        assert np.array_equal(cells(out, 1).reshape(4, 16, 16), single)
        shown.append(single)
    assert not np.array_equal(*shown)
