"""Labels from the command line on: every allowed pair of ways for every model and kind of labels, and refusals."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from images.sources import DIGITS
from modelling import CONDITIONS, MODELS, build_discriminator, build_generator, own_settings
from modelling.conditioning import CLASS_HEADS, CONDITIONAL_NORMS
from settings import as_dict
from tests.running import SMALL, drive, request, run, small, state
from tests.test_training import refused

PAIRS = [
    (model, of_g, of_d)
    for model, row in MODELS.items()
    for of_g in row.conditions_g
    for of_d in row.conditions_d
]
SEEING = [model for model, row in MODELS.items() if row.conditions_g]
ONE_CLASS = [name for name, head in CLASS_HEADS.items() if head.one_class]


def smallest(model: str) -> int:
    """The least size in px that the model makes, of 16 and 32."""
    g, d = SMALL[model]
    for size in (16, 32):
        image = {"img_size": size, "img_channels": 1}
        try:
            with torch.device("meta"):
                build_generator(model, z_dim=8, **image, **g), build_discriminator(model, **image, **d)
        except ValueError:
            continue
        return size
    raise AssertionError(f"a small {model} makes neither 16 nor 32 px")


def narrow(model: str) -> str:
    """Flags of a small one of the model, at its smallest size, with labels."""
    return f"{small(model)} --img_size {smallest(model)} --conditional"


def write_images(folder: Path, names: list[str]) -> Path:
    """Digits of 8x8 px by these names."""
    for picture, name in zip(np.load(DIGITS)["images"], names, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((picture * (255 / picture.max())).astype(np.uint8)).save(folder / name)
    return folder


def write_classes(folder: Path, n: int, each: int = 6) -> Path:
    """n folders of images, a class each."""
    return write_images(folder, [f"class{k}/{i}.png" for k in range(n) for i in range(each)])


def write_attributes(folder: Path, attributes: list[str], n: int = 16) -> Path:
    """Images with a list as CelebA's: sample i has attribute k where its bit k is set."""
    names = [f"{i:06d}.jpg" for i in range(1, n + 1)]
    rows = [
        " ".join([name, *("1" if i >> k & 1 else "-1" for k in range(len(attributes)))])
        for i, name in enumerate(names)
    ]
    write_images(folder, names)
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(n), " ".join(attributes), *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of six images."""
    return write_classes(tmp_path_factory.mktemp("classes"), 3)


@pytest.fixture(scope="module")
def attributes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 images with three attributes, some with none and some with all."""
    return write_attributes(tmp_path_factory.mktemp("faces"), ["Bald", "Smiling", "Young"])


def last_line(folder: Path, name: str = "a") -> dict[str, float]:
    return json.loads((folder / name / "metrics.jsonl").read_text().splitlines()[-1])


def trained(folder: Path, name: str) -> bool:
    """Whether a run's last line says that both networks learnt from numbers."""
    row = last_line(folder, name)
    norms = [row["grad_norm/d"], row["grad_norm/g"]]
    return row["skipped_steps"] == 0 and all(math.isfinite(norm) and norm > 0 for norm in norms)


# Every pair


def is_sampled(model: str, of_d: str) -> bool:
    """Whether a pair's run makes pictures and generator/: they know nothing of D, so one way of D's shows them all."""
    return of_d == MODELS[model].conditions_d[0]


@pytest.mark.parametrize(("model", "of_g", "of_d"), PAIRS)
def test_two_steps_with_classes(tmp_path: Path, classes: Path, model: str, of_g: str, of_d: str) -> None:
    command = f"{narrow(model)} --condition_g {of_g} --condition_d {of_d} --data {classes}"
    loop = run(
        f"--log_name a {command} --n_steps 2 --log_interval 1", tmp_path, sampled=is_sampled(model, of_d)
    )
    assert loop.step == 2 and trained(tmp_path, "a")
    assert ("class/d_real" in last_line(tmp_path)) == (of_d in CLASS_HEADS and CLASS_HEADS[of_d].classifies)


@pytest.mark.parametrize(("model", "of_g", "of_d"), [pair for pair in PAIRS if pair[2] not in ONE_CLASS])
def test_two_steps_with_attributes(
    tmp_path: Path, attributes: Path, model: str, of_g: str, of_d: str
) -> None:
    command = f"{narrow(model)} --condition_g {of_g} --condition_d {of_d} --data {attributes}"
    sampled = is_sampled(model, of_d)
    loop = run(f"--log_name a {command} --n_steps 2 --log_interval 1", tmp_path, sampled=sampled)
    assert loop.step == 2 and trained(tmp_path, "a")
    about = loop.task.about
    assert about["multi_hot"] and about["label_names"] == ["Bald", "Smiling", "Young"]
    if sampled:
        saved = json.loads((tmp_path / "a" / "generator" / "config.json").read_text())
        assert saved["multi_hot"] and saved["label_names"] == ["Bald", "Smiling", "Young"]


def test_two_processes_train_every_pair(tmp_path: Path, classes: Path) -> None:
    """One launch for all of them, two steps each."""
    commands = [
        f"--log_name {'-'.join(pair)} {narrow(pair[0])} --condition_g {pair[1]} --condition_d {pair[2]} "
        f"--data {classes} --n_steps 2 --log_interval 1"
        for pair in PAIRS
    ]
    output = drive(commands, tmp_path, processes=2, sampled=False)
    assert output.count("processes: 2, global batch: 8") == len(PAIRS)
    for pair in PAIRS:
        name = "-".join(pair)
        assert trained(tmp_path, name), name
        assert state(tmp_path, name, 2)["step"] == 2


@pytest.mark.parametrize("model", SEEING)
def test_labels_alone_choose_the_models_pair(model: str) -> None:
    """--conditional without a word is the first of each row, settled by its name; a norm of G only where none is it."""
    row, config = MODELS[model], request(narrow(model)).config()
    assert (config.condition_g, config.condition_d) == (row.conditions_g[0], row.conditions_d[0])
    has_norm = "norm" in own_settings(row.Generator) and config.condition_g not in CONDITIONAL_NORMS
    assert (config.norm_g is not None) == has_norm
    bare = request(small(model)).config()
    assert bare.condition_g is bare.condition_d is bare.ac_weight_d is None
    assert (bare.norm_g is not None) == ("norm" in own_settings(row.Generator))


@pytest.mark.parametrize("model", MODELS)
def test_spectral_norm_is_the_models_unless_said(model: str) -> None:
    row = MODELS[model]
    for side in ("g", "d"):
        name = f"spectral_norm_{side}"
        for flag, expected in (("", side in row.spectral_norm), (f"--{name}", True), (f"--no-{name}", False)):
            assert getattr(request(f"{small(model)} {flag}").config(), name) is expected


# Refusals: one line on stderr, exit code 2


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("--condition_g cbn", "--condition_g cbn needs --conditional"),
        ("--condition_d ac", "--condition_d ac needs --conditional"),
        ("--condition_d concat", "--condition_d concat needs --conditional"),
        ("--ac_weight_d 1", "--ac_weight_d 1.0 needs --conditional"),
        ("--ac_weight_fake 0", "--ac_weight_fake 0.0 needs --conditional"),
        ("--ac_weight_g 1", "--ac_weight_g 1.0 needs --conditional"),
        ("--conditional --ac_weight_d 1", "--ac_weight_d: only --condition_d ac, k_plus_1 classify"),
        ("--conditional --condition_d projection --ac_weight_fake 1", "--ac_weight_fake: only"),
        ("--conditional --condition_d concat --ac_weight_g 0", "--ac_weight_g: only"),
        (
            "--conditional --condition_d ac --ac_weight_g -1",
            "--ac_weight_g -1.0 must be a number of at least 0",
        ),
        ("--conditional --condition_d ac --ac_weight_d nan", "--ac_weight_d nan must be a number"),
        (
            "--conditional --condition_g cbn --norm_g batch",
            "--condition_g cbn is the norm of G: leave out --norm_g",
        ),
        ("--conditional --condition_g cin --norm_g none", "--condition_g cin is the norm of G"),
        ("--conditional --condition_g cbn --g_kwargs norm=layer", "--condition_g cbn is the norm of G"),
        ("--conditional --condition_g film", "invalid choice: 'film'"),
        ("--conditional --condition_d film", "invalid choice: 'film'"),
        ("--conditional --condition_g mapping", "dcgan's G sees labels by concat, cbn, cin"),
        ("--model mlp --conditional --condition_g cin", "--condition_g cin: mlp's G sees labels by concat"),
        ("--model mlp --conditional --condition_d ac", "--condition_d ac: mlp's D sees labels by concat"),
        ("--model stylegan2 --conditional --condition_d ac", "stylegan2's D sees labels by projection"),
        ("--model veegan --conditional", "veegan sees no labels: leave --conditional out"),
        ("--model veegan --conditional --condition_g cin", "veegan sees no labels"),
        ("--conditional --g_kwargs condition=cbn", "no setting 'condition'"),
        ("--ortho_weight -1", "--ortho_weight -1.0 must be a number of at least 0"),
    ],
)
def test_settings_of_labels_that_cannot_work(
    tmp_path: Path, capsys: pytest.CaptureFixture, command: str, words: str
) -> None:
    assert words in refused(f"--log_name a {command} --n_steps 1", tmp_path, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", SEEING)
def test_ways_a_model_does_not_know_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture, model: str
) -> None:
    for side in ("g", "d"):
        known = getattr(MODELS[model], f"conditions_{side}")
        for wrong in [way for way in CONDITIONS[side] if way not in known]:
            error = refused(f"{narrow(model)} --condition_{side} {wrong} --n_steps 1", tmp_path, capsys)
            assert error.endswith(
                f"--condition_{side} {wrong}: {model}'s {side.upper()} sees labels by {', '.join(known)}"
            )


@pytest.mark.parametrize(
    "model",
    [
        model
        for model in SEEING
        if MODELS[model].conditions_g[0] in CONDITIONAL_NORMS
        and "norm" in own_settings(MODELS[model].Generator)
    ],
)
def test_a_norm_beside_the_models_own_way_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture, model: str
) -> None:
    """Without a word on the way, too: the flag would say nothing."""
    for flag in ("--norm_g none", f"{narrow(model)} --g_kwargs norm=none"):
        error = refused(f"{narrow(model)} {flag} --n_steps 1", tmp_path, capsys)
        assert f"{MODELS[model].conditions_g[0]} is the norm of G: leave out --norm_g" in error


@pytest.mark.parametrize("folders", ["", "class0/"])
def test_data_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture, folders: str) -> None:
    """A single class folder says nothing either, and is a folder of images."""
    images = write_images(tmp_path / "images", [f"{folders}{i}.png" for i in range(16)])
    error = refused(f"--log_name a --conditional --data {images} --n_steps 1", tmp_path, capsys)
    assert "--conditional needs labels, and " in error and "has none (two class folders or more" in error
    assert all(way in error for way in ("dataset.json", "metadata.csv or .jsonl", ".cls or .json beside"))
    assert not (tmp_path / "a").exists()
    assert run(f"--log_name a --data {images} --n_steps 1", tmp_path).step == 1


@pytest.mark.parametrize(
    "model", [model for model, row in MODELS.items() if set(ONE_CLASS) & set(row.conditions_d)]
)
def test_one_class_each_and_attributes(
    tmp_path: Path, capsys: pytest.CaptureFixture, attributes: Path, model: str
) -> None:
    for way in ONE_CLASS:
        error = refused(
            f"--log_name a {narrow(model)} --condition_d {way} --data {attributes}", tmp_path, capsys
        )
        assert (
            f"--condition_d {way} needs images of one class each" in error
            and "--condition_d ac takes them" in error
        )
    assert not (tmp_path / "a").exists()


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("kind", ["classes", "attributes"])
def test_resume_with_another_number_of_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture, kind: str
) -> None:
    """Refused by that number, before weights of another shape or other pixels are the matter; nothing is changed."""
    if kind == "classes":
        three, four = write_classes(tmp_path / "3", 3), write_classes(tmp_path / "4", 4)
    else:
        three = write_attributes(tmp_path / "3", ["Bald", "Smiling", "Young"])
        four = write_attributes(tmp_path / "4", ["Bald", "Male", "Smiling", "Young"])
    command = "--conditional --condition_g cbn --condition_d projection"
    run(f"--log_name a {command} --data {three} --n_steps 1", tmp_path)
    before = files(tmp_path / "a")
    capsys.readouterr()
    error = refused(f"--log_name a --resume --data {four} --n_steps 2", tmp_path, capsys)
    assert "the checkpoint knows 3 labels and " in error and "has 4: give its own data" in error
    assert files(tmp_path / "a") == before
    assert run("--log_name a --resume --n_steps 2", tmp_path).step == 2


@pytest.mark.parametrize(
    ("flags", "change"),
    [
        ("--condition_g cin", "condition_g: cbn -> cin"),
        ("--condition_d projection --ac_weight_d 1", "--ac_weight_d"),
        ("--ac_weight_g 0.1", "ac_weight_g: 1.0 -> 0.1"),
        ("--no-conditional", "conditional: True -> False"),
        ("--spectral_norm_d", "spectral_norm_d: False -> True"),
    ],
)
def test_resume_in_another_way(
    tmp_path: Path, capsys: pytest.CaptureFixture, flags: str, change: str
) -> None:
    run("--log_name a --conditional --condition_g cbn --condition_d ac --n_steps 1", tmp_path)
    capsys.readouterr()
    assert change in refused(f"--log_name a --resume --n_steps 2 {flags}", tmp_path, capsys)


def test_resume_may_repeat_what_was_settled(tmp_path: Path) -> None:
    command = "--conditional --condition_g cbn --condition_d ac"
    run(f"--log_name a {command} --n_steps 1", tmp_path)
    assert run(f"--log_name a --resume --n_steps 2 {command} --ac_weight_fake 0", tmp_path).step == 2


def test_a_run_from_before_the_ways_resumes(tmp_path: Path) -> None:
    """What was not written down is what the model did: concat on both sides, spectral norm as it was said."""
    run("--log_name a --conditional --n_steps 2 --checkpoint_interval 1", tmp_path)
    config = tmp_path / "a" / "config.json"
    younger = ("condition_g", "condition_d", "ac_weight_d", "ac_weight_fake", "ac_weight_g", "ortho_weight")
    old = {name: value for name, value in json.loads(config.read_text()).items() if name not in younger}
    assert old["spectral_norm_d"] is False
    config.write_text(json.dumps(old))
    assert run("--log_name a --resume --n_steps 3", tmp_path).step == 3


@pytest.mark.parametrize(
    "way", ["--condition_d projection", "--condition_d concat", "--condition_d k_plus_1"]
)
def test_a_runs_config_serves_another_way(tmp_path: Path, way: str) -> None:
    """Weights of one way mean nothing to another that is asked for; those of a method are derived anew."""
    first = request("--conditional --condition_g cbn --condition_d ac").config()
    file = tmp_path / "config.json"
    file.write_text(json.dumps(as_dict(first)))
    assert request(f"--config {file}").config() == first
    other = request(f"--config {file} {way}").config()
    assert other == request(f"--conditional --condition_g cbn {way}").config()
    assert request(f"--config {file} --condition_g concat").config().norm_g == "batch"
    assert request(f"--config {file} --method wgan-gp").config().ac_weight_g == 0.1
    said = "--conditional --condition_g cbn --condition_d ac --ac_weight_d 3 --ac_weight_g 2"
    file.write_text(json.dumps(as_dict(request(said).config())))
    assert request(f"--config {file} {way}").config() == other
    again = request(f"--config {file} --method wgan-gp").config()
    assert (again.ac_weight_d, again.ac_weight_fake, again.ac_weight_g) == (3, 0, 2)
