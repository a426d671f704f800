"""Which network reads images: those that are shipped, how others are named, and what is taken where none is named."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from errors import UserError
from generation import extractors
from generation.comparison import compare
from generation.extractors import OPENERS, open_extractor, usual_extractor
from images.batches import images_of
from images.sources import DATASETS, load_dataset
from metrics.features import EXTRACTORS, extract, load_extractor, shipped_file, weights_file
from metrics.inception import FILE
from settings.section import of
from settings.sections import FIELDS
from tests.running import ROOT, run

SHIPPED = [name for name, row in EXTRACTORS.items() if row.shipped is not None]


@pytest.fixture
def no_inception(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder without Inception's weights, and none of torch.hub's; where they would stand."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "classifiers" / FILE


def changed(tmp_path: Path) -> Path:
    """A digits-cnn of other weights than those that are shipped."""
    state = load_file(shipped_file("digits-cnn"))
    save_file(state | {"head.bias": state["head.bias"] + 1}, tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_what_their_row_and_the_readme_say(name: str) -> None:
    file, row = shipped_file(name), EXTRACTORS[name]
    extractor = load_extractor(name, file)
    assert file.stat().st_size <= 1e6 and extractor.name == name and extractor.checksum == row.shipped
    assert open_extractor(name).checksum == row.shipped and row.dataset in DATASETS
    said = (ROOT / "assets" / "README.md").read_text(encoding="utf-8")
    accuracy = float(extractor.metadata["accuracy"])
    assert row.shipped in said and f"{accuracy:.2%}".replace("%", " %") in said and row.make in said
    assert extractor.metadata["torch"].split("+")[0] in said and accuracy > 0.97
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert ignored.index("!/assets/*.safetensors") > ignored.index("*.safetensors")


def test_the_digits_are_read_as_well_as_is_said() -> None:
    extractor = open_extractor("digits-cnn")
    data = load_dataset("digits", img_size=32, img_channels=1, split="test")
    _, logits = extract(extractor, [images_of(data, slice(None))])
    right = (logits.argmax(1) == torch.from_numpy(data.labels)).double().mean()
    assert f"{float(right):.4f}" == extractor.metadata["accuracy"]


def test_other_weights_name_their_scores(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = changed(tmp_path)
    named = f"digits-cnn:{load_extractor('digits-cnn', file).checksum[:8]}"
    real, fake = torch.randint(0, 256, (2, 20, 1, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
    found = compare(real, fake, "digits-cnn", metric_weights=file, metrics=["fid"], cache_dir=str(tmp_path))
    assert f"fid[{named}]" in found and found["protocol"]["extractor"] == named
    assert f"scores are named [{named}] and cannot be compared" in capsys.readouterr().err
    # a network of which no weights are published keeps its plain name
    folder = tmp_path / "cifar.safetensors"
    save_file(EXTRACTORS["cifar10-cnn"].build({}).state_dict(), folder)
    assert open_extractor("cifar10-cnn", folder).name == "cifar10-cnn" and capsys.readouterr().err == ""


def test_weights_of_the_former_network_are_refused_in_one_line(tmp_path: Path) -> None:
    """Two convolutions and 544,522 parameters, as tools.train_classifier wrote them before."""
    state: dict[str, Tensor] = load_file(shipped_file("digits-cnn"))
    old = {k: v for k, v in state.items() if "conv3" not in k} | {"dense.weight": torch.zeros(128, 4096)}
    save_file(old, tmp_path / "old.safetensors", {"extractor": "mnist-cnn"})
    with pytest.raises(ValueError) as refusal:
        open_extractor("mnist-cnn", tmp_path / "old.safetensors")
    said = str(refusal.value)
    assert "does not hold the weights of mnist-cnn: " in said and "conv3.weight is missing" in said
    assert "`python -m tools.train_classifier --dataset mnist` makes them anew" in said and "\n" not in said


def test_a_shipped_file_that_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = changed(tmp_path)
    monkeypatch.setattr(extractors, "shipped_file", lambda name: file)
    with pytest.raises(UserError, match="mine.safetensors is not as it was shipped"):
        open_extractor("digits-cnn")


def test_a_shipped_file_that_is_missing_or_damaged_comes_with_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that trains one writes to the cache, which is not read."""
    file = tmp_path / "digits-cnn.safetensors"
    monkeypatch.setattr(extractors, "shipped_file", lambda name: file)
    for fault in ("is missing", "is not as it was shipped"):
        with pytest.raises(
            UserError, match=f"{fault}.*: get the checkout again, or give .*weights FILE"
        ) as told:
            open_extractor("digits-cnn")
        assert "train_classifier" not in str(told.value)
        file.write_bytes(b"no weights")


def test_what_was_trained_before_is_said_to_be_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Once, where it is not what is shipped."""
    file = weights_file(tmp_path, "digits-cnn")
    file.parent.mkdir()
    changed(tmp_path).rename(file)
    for _ in range(2):
        open_extractor("digits-cnn", cache_dir=str(tmp_path))
    said = capsys.readouterr().err
    assert said == (
        f"note: {file} is not read any more, digits-cnn is shipped: --metric_weights {file} reads with it\n"
    )
    (other := tmp_path / "b").mkdir()
    same = weights_file(other, "digits-cnn")
    same.parent.mkdir()
    same.write_bytes(shipped_file("digits-cnn").read_bytes())
    open_extractor("digits-cnn", cache_dir=str(other))
    assert capsys.readouterr().err == ""


def test_without_a_name_it_is_inception_or_the_data_sets_own_or_lite0(
    no_inception: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cache = str(tmp_path)
    for dataset, name in (
        ("mnist", "mnist-cnn"), ("digits", "digits-cnn"), ("stacked-mnist", "stacked-mnist-cnn"),
        ("cifar10", "lite0"), ("own", "lite0"), (None, "lite0"),
    ):  # fmt: skip
        assert usual_extractor(dataset, cache_dir=cache) == name
        said = capsys.readouterr().err
        assert (
            said.count("\n") == 1 and f"read by {name}" in said and "--extractor inception downloads" in said
        )
        assert "96 MB" in said
        assert usual_extractor(dataset, "weights.pth", cache) == "inception"  # whose weights were named
    assert open_extractor(None, cache_dir=cache, dataset="digits").name == "digits-cnn"
    no_inception.parent.mkdir()
    no_inception.touch()
    capsys.readouterr()
    assert usual_extractor("digits", cache_dir=cache) == "inception" and capsys.readouterr().err == ""


def test_comparing_in_python_chooses_too(no_inception: Path, tmp_path: Path) -> None:
    data = load_dataset("digits", img_size=16, img_channels=1)
    pixels = images_of(data, slice(0, 40))
    for real, name in ((data, "digits-cnn"), (pixels, "lite0")):
        found = compare(real, pixels, n=20, n_real=20, metrics=["dc"], cache_dir=str(tmp_path))
        assert f"density[{name}]" in found


def test_a_run_keeps_the_network_that_it_began_with(
    no_inception: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Though Inception's weights have come meanwhile, which a new run takes."""
    scored = f"--eval_interval 1 --eval_n 20 --cache_dir {tmp_path}"
    run(f"--log_name a --n_steps 1 {scored}", tmp_path)
    assert capsys.readouterr().err.count("images are read by digits-cnn") == 1
    saved = json.loads((tmp_path / "a" / "config.json").read_text())
    assert saved["extractor"] == "digits-cnn" and "extractor" not in saved["asked"]
    no_inception.parent.mkdir(exist_ok=True)
    no_inception.write_bytes(b"no weights: reading them is refused")
    run("--log_name a --resume --n_steps 2", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "a" / "scores.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and all("fid[digits-cnn]" in line for line in lines)
    again = json.loads((tmp_path / "a" / "config.json").read_text())
    assert again["extractor"] == "digits-cnn" and "extractor" not in again["asked"]
    with pytest.raises(ValueError, match=f"{re.escape(FILE)} is not the published file"):
        run(f"--log_name b --n_steps 1 {scored}", tmp_path)
    run("--log_name plain --n_steps 1", tmp_path)  # without scores nothing is chosen
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["extractor"] is None


def test_flags_and_openers_know_the_same_networks() -> None:
    assert set(of(FIELDS["extractor"]).choices()) == set(OPENERS)
    with pytest.raises(UserError, match="choose one of inception, lite0, mnist-cnn, .*dinov2-b"):
        open_extractor("vgg")
