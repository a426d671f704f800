"""The CIFAR-10 study: its rows, the small models, scores at equal times, and what its report says."""

import json
import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from metrics.classifiers import DigitCNN
from metrics.features import Extractor, save_extractor
from modelling import build_generator, own_settings
from settings.presets import PRESETS
from studies import cifar10
from studies.cifar10 import PUBLISHED, SMALL, TABLES, at_legs, planned, scores_along
from studies.runs import Training


def arguments(tmp_path: Path, *more: str) -> Namespace:
    """The command line, as main completes it."""
    args = cifar10.parser().parse_args(["--device", "cpu", "--runs_dir", str(tmp_path / "runs"), *more])
    args.reader, args.n_real = reader(args.extractor), args.n
    return args


def reader(name: str, **how: object) -> Extractor:
    """An extractor as the study sees one."""
    return Extractor(name, nn.Identity(), "ab" * 32, {}, **how)


def finished(
    run: Training, values: dict[int, float], *, code: str = "v", seconds_a_step: float = 1.0
) -> None:
    """Make a run's folder with a score `fid[lite0]` at each of these steps, and with its clock."""
    (run.folder / "checkpoints").mkdir(parents=True)
    (run.folder / "checkpoints" / f"step-{max(values):08d}.pt").touch()
    about = dict(run.protocol) | {
        "fakes": "generator",
        "seed": 0,
        "code": code,
        "torch": "2",
        "device": "cpu",
    }
    more = {"is[lite0]": 2.0, "intra_fid[lite0]": None}
    lines = [
        {"step": step, "fid[lite0]": value, **more, "protocol": about | {"step": step}}
        for step, value in values.items()
    ]
    (run.folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    speed = run.config().batch_size / seconds_a_step
    ticks = [{"step": step, "img_per_s": speed} for step in range(1, max(values) + 1)]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(tick) + "\n" for tick in ticks))


def test_rows_are_presets_with_the_scores_that_they_quote() -> None:
    assert len(PUBLISHED) == 7 + 4
    for name, row in PUBLISHED.items():
        preset = PRESETS[name]
        assert preset.script == "gan_cifar10" and preset.settings["n_steps"] == 200_000
        assert bool(preset.settings.get("conditional")) == (name in TABLES["Conditional"])
        if row.fid is None:
            assert preset.score == ""
        else:
            quoted = [float(number) for number in re.findall(r"\d+\.\d+", preset.score)]
            ours = [number for number in (row.fid, row.intra_fid) if number is not None]
            assert quoted == pytest.approx(ours, abs=0.00501)


def test_small_models_are_small_and_legal(tmp_path: Path) -> None:
    for run in planned(arguments(tmp_path, "--rows", *SMALL, "--seeds", "0"), "equal"):
        config = run.training.config()
        assert run.row in (
            config.model,
            f"{config.model}-tiny",
        ) and config.g_kwargs.keys() <= own_settings_of(config.model)
        G = build_generator(
            config.model, img_size=32, img_channels=3, z_dim=config.z_dim, n_labels=0, **config.g_kwargs
        )
        assert sum(p.numel() for p in G.parameters()) < 1_500_000


def own_settings_of(model: str) -> set[str]:
    from modelling import MODELS

    return set(own_settings(MODELS[model].Generator))


def test_which_runs_there_are(tmp_path: Path) -> None:
    args = arguments(
        tmp_path, "--rows", "cifar10-gan", "cifar10-cgan", "dcgan", "--seeds", "3", "4", "--n_steps", "70"
    )
    names = [run.training.name for part in cifar10.PARTS for run in planned(args, part)]
    assert names == [
        "tables-cifar10-gan-3", "tables-cifar10-cgan-3", "tables-cifar10-gan-4", "tables-cifar10-cgan-4",
        "equal-dcgan-3", "equal-dcgan-4",
    ]  # fmt: skip
    gan, cgan, *_ = (run.training for run in planned(args, "tables"))
    assert gan.n_steps == 70 and gan.seconds is None and gan.config().n_steps == 70
    assert "intra_fid" in cgan.scoring and "intra_fid" not in gan.scoring
    (small, _) = (run.training for run in planned(args, "equal"))
    assert small.n_steps is None and small.seconds == 3600


def test_scores_are_called_as_the_reader_is(tmp_path: Path) -> None:
    """The published Inception has plain names; DINOv2's Frechet distance is fd, and it reads no classes."""
    args = arguments(tmp_path, "--rows", "cifar10-gan", "cifar10-cgan", "stylegan2", "--seeds", "0")
    for one, scores in (
        (reader("inception"), [("fid", "is"), ("fid", "is", "intra_fid"), ("fid",)]),
        (reader("cnn:1a"), [("fid[cnn:1a]", "is[cnn:1a]"), ("fid[cnn:1a]", "is[cnn:1a]", "intra_fid[cnn:1a]"),
                            ("fid[cnn:1a]",)]),
        (reader("dinov2-b", distance="fd", has_logits=False),
         [("fd[dinov2-b]",), ("fd[dinov2-b]", "intra_fid[dinov2-b]"), ("fd[dinov2-b]",)]),
    ):  # fmt: skip
        args.reader = one
        trainings = [run.training for part in cifar10.PARTS for run in planned(args, part)]
        assert [run.scores for run in trainings] == scores
        asked = [run.scoring[run.scoring.index("--metrics") + 1 :] for run in trainings]
        logits = ("is",) if one.has_logits else ()
        assert asked == [("fid", *logits), ("fid", *logits, "intra_fid"), ("fid",)]
        assert all(run.protocol["extractor_sha256"] == one.checksum for run in trainings)
        assert [run.protocol["weights"] for run in trainings] == ["raw", "raw", "ema"]
        assert [bool(run.protocol["labels"]) for run in trainings] == [False, True, False]


def test_scores_at_equal_times_by_hand(tmp_path: Path) -> None:
    """Twelve steps of a second each in six legs of two; of a leg without a score there is no point; another version's
    and other samples are none."""
    args = arguments(tmp_path, "--seconds", "12", "--rows", "dcgan", "--seeds", "0")
    (run,) = planned(args, "equal")
    training = run.training
    finished(training, {2: 9.0, 4: 8.0, 7: 7.0, 12: 5.0})
    with open(training.folder / "scores.jsonl", "a") as file:
        for about in ({"n_fake": 3, "code": "v"}, {"code": "w"}):
            line = {"step": 9, "fid[lite0]": 1.0}
            line["protocol"] = dict(training.protocol) | {"fakes": "generator", "seed": 0} | about
            file.write(json.dumps(line) + "\n")
    along = scores_along(training, "fid[lite0]")
    assert [(s, v, c) for s, v, c in along] == [
        (2, 9, "v"), (4, 8, "v"), (7, 7, "v"), (12, 5, "v"), (9, 1, "w")
    ]  # fmt: skip
    assert at_legs(training, "fid[lite0]", "v") == [(2, 9), (4, 8), (7, 7), None, None, (12, 5)]
    assert training.done() and not replace(training, seconds=12.5).done()


def test_the_report_by_hand(tmp_path: Path) -> None:
    """Published beside ours, mean and the sample's deviation of two seeds, the budget that was had, and the curves."""
    args = arguments(
        tmp_path, "--seconds", "12", "--seeds", "0", "1", "--out", str(tmp_path / "docs" / "c.md")
    )
    runs = {part: planned(args, part) for part in cifar10.PARTS}
    for part, row, values in (
        ("tables", "cifar10-gan", (30.0, 34.0)), ("tables", "cifar10-acgan", (20.0,)),
        ("equal", "dcgan", (50.0, 60.0)), ("equal", "stylegan2", (40.0, 44.0)),
    ):  # fmt: skip
        for run, value in zip([run for run in runs[part] if run.row == row], values, strict=False):
            finished(run.training, {2: 2 * value, 6: 1.5 * value, 12: value})
    samples = next(run for run in runs["tables"] if run.row == "cifar10-acgan").training.folder / "samples"
    samples.mkdir()
    for name, colour in (
        ("step-00000006-ema", "red"),
        ("step-00000012-ema", "blue"),
        ("step-00000012-raw", "red"),
    ):
        Image.new("RGB", (64, 64), colour).save(samples / f"{name}.png")
    cifar10.report(args, runs)
    text = args.out.read_text()
    with Image.open(
        tmp_path / "docs" / "images" / "cifar10_tables.png"
    ) as grids:  # the last average's, of one row
        assert grids.width >= cifar10.SIDE <= grids.height < 2 * cifar10.SIDE
        assert grids.convert("RGB").getpixel((grids.width // 2, grids.height // 2)) == (0, 0, 255)
    gan = "| DCGAN, `cifar10-gan` | 24.7311 | 7.0339 ± 0.0861 | 2 | 32.00 ± 2.83 | 2.00 ± 0.00 | 12 | 0.00 |"
    acgan = "| ACGAN, `cifar10-acgan` | 19.9154 | 7.9903 ± 0.1038 | 49.9892 | 1 | "
    acgan += "20.00 ± – | 2.00 ± – | – | 12 | 0.00 |"
    assert gan in text and acgan in text and "WGAN-GP" not in text
    assert "12 seconds of training a run" in text and "10,000 samples" in text
    assert "| dcgan | 2 | 55.00 ± 7.07 | 12 | 0.00 | `--model=dcgan" in text and "sngan" not in text
    with Image.open(tmp_path / "docs" / "images" / "cifar10_equal_times.png") as picture:
        assert picture.size == (840, 480)


def test_a_report_without_a_score_in_time(tmp_path: Path) -> None:
    """The only score comes three legs after the last one: a row, and no curve."""
    args = arguments(
        tmp_path, "--seconds", "12", "--seeds", "0", "--rows", "dcgan", "--out", str(tmp_path / "c.md")
    )
    (run,) = planned(args, "equal")
    finished(run.training, {18: 5.0})
    cifar10.report(args, {"equal": [run]})
    assert "| dcgan | 1 | 5.00 ± – | 18 |" in args.out.read_text() and not (tmp_path / "images").exists()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures of noise in the folders of two of CIFAR-10's classes."""
    folder = tmp_path_factory.mktemp("cifar10")
    source = torch.Generator().manual_seed(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for i in range(30):
            pixels = torch.randint(0, 256, (32, 32, 3), generator=source, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / name / f"{i}.png")
    return folder


def test_the_command_trains_in_legs_scores_and_goes_on(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two legs of a tiny model in a process of its own, or one where the machine is so slow that the first is both;
    again, nothing is trained or scored."""
    save_extractor(tmp_path / "reader.safetensors", DigitCNN(), {"extractor": "digits-cnn"})
    tiny = ("--model=dcgan", "--batch_size=4", "--g_kwargs", "width=4", "--d_kwargs", "width=4")
    monkeypatch.setattr(cifar10, "SMALL", {"dcgan": tiny})
    monkeypatch.setattr(cifar10, "N_LEGS", 2)
    monkeypatch.setattr("studies.runs.POLL", 0.1)
    words = [
        "--part", "equal", "--rows", "dcgan", "--seeds", "0", "--seconds", "2", "--n", "40", "--device", "cpu",
        "--extractor", "digits-cnn", "--metric_weights", tmp_path / "reader.safetensors", "--data", pictures,
        "--cache_dir", tmp_path / "cache", "--runs_dir", tmp_path / "runs", "--out", tmp_path / "c.md",
    ]  # fmt: skip
    words = [str(word) for word in words]
    assert cifar10.main(words) == 0
    scores = (tmp_path / "runs" / "equal-dcgan-0" / "scores.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in scores]
    assert 1 <= len(steps) <= 2 and steps[0] > 0 and steps == sorted(set(steps))
    ticks = [json.loads(line) for line in (tmp_path / "runs" / "equal-dcgan-0" / "metrics.jsonl").open()]
    assert ticks[-1]["step"] <= steps[-1]  # it is stopped between two lines of its log
    ticks = [tick for tick in ticks if "img_per_s" in tick]  # not those of samples and layers alone
    last = zip([0, *(tick["step"] for tick in ticks)], ticks, strict=False)
    assert sum(4 * (tick["step"] - before) / tick["img_per_s"] for before, tick in last) >= 2
    assert "| dcgan | 1 | " in (tmp_path / "c.md").read_text()
    log = (tmp_path / "runs" / "equal-dcgan-0.log").read_text()
    assert cifar10.main(words) == 0
    assert (tmp_path / "runs" / "equal-dcgan-0" / "scores.jsonl").read_text().splitlines() == scores
    assert (tmp_path / "runs" / "equal-dcgan-0.log").read_text() == log
    capsys.readouterr()
    assert cifar10.main([*words, "--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err.splitlines()[-1]
    assert cifar10.main([*words, "--seconds", "0"]) == 2
