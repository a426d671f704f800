"""The door to a trained generator from Python: load_generator, sample, compare; and what importing it costs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.utils import make_grid

from errors import UserError
from generation import compare, load_generator, sample
from generation.comparison import first_shape
from generation.generator import export_generator, file_sha256
from generation.indexed import opposite_index
from generation.pictures import to_grid, to_picture
from images.batches import images_of
from images.own import as_image_data
from images.sources import load_dataset
from tests.running import ROOT
from tests.test_tools import export
from tools import evaluate
from tools import sample as sample_tool

HEAVY = (
    "torchvision",
    "accelerate",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "torch_fidelity",
    "scipy",
    "networkx",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: plain, of ten classes, of three attributes, with styles."""
    folder = tmp_path_factory.mktemp("runs")
    export(folder / "plain")
    export(folder / "labelled", 10, tuple("0123456789"))
    export(folder / "faces", 3, ("Bald", "Smiling", "Young"), multi_hot=True)
    export(folder / "styled", model="stylegan2")
    return folder


def test_light_modules_import_nothing_heavy() -> None:
    """All files of these folders, one after the other in a new process: the first that does is named."""
    names = []
    for module in ("errors", "ops", "losses", "ema", "pretrained", "metrics", "modelling", "generation"):
        names += [module, *(f"{module}.{file.stem}" for file in sorted((ROOT / module).glob("[!_]*.py")))]
    names = [*(name for name in names if "triton" not in name), "images.own"]
    assert len(names) > 40
    code = (
        f"import importlib, sys, torch\nheavy = set({HEAVY}) - set(sys.modules)\n"
        f"for name in {names}:\n"
        "    importlib.import_module(name)\n"
        "    if found := sorted(heavy & set(sys.modules)): sys.exit(f'{name} imports {found}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# -- sample ----------------------------------------------------------------------------------------


def written(run: Path, out: Path, *flags: str) -> torch.Tensor:
    """The single files of tools.sample, (n, 1, H, W)."""
    assert sample_tool.main([str(run), "--n", "6", "--out", f"{out}/", "--device", "cpu", *flags]) == 0
    files = sorted(out.iterdir())
    return torch.stack([torch.from_numpy(np.asarray(Image.open(file)).copy()) for file in files])[:, None]


@pytest.mark.parametrize(
    ("name", "how", "flags"),
    [
        ("plain", {}, ""),
        ("plain", {"seed": 3, "truncation": 0.5}, "--seed 3 --truncation 0.5"),
        ("labelled", {}, ""),
        ("labelled", {"label": 3}, "--class 3"),
        ("labelled", {"label": "7"}, "--class 7"),
        ("faces", {"attributes": ["Smiling", "-Bald"]}, "--attributes Smiling,-Bald"),
        ("styled", {"truncation": 0.5, "truncation_layers": 2}, "--truncation 0.5 --truncation_layers 2"),
    ],
)
def test_samples_are_those_of_the_command(
    runs: Path, tmp_path: Path, name: str, how: dict, flags: str
) -> None:
    G, about = load_generator(runs / name)
    x = sample(G, about, n=6, **how)
    assert x.dtype == torch.uint8 and x.shape == (6, 1, 16, 16)
    assert torch.equal(x, written(runs / name, tmp_path / "out", *flags.split()))
    x[0] = 0  # a tensor like any other


def test_samples_leave_training_alone(runs: Path) -> None:
    """A G in training mode is sampled in eval mode, its own noise follows the seed, and torch's generators stay."""

    class Noisy(nn.Module):
        z_dim = 4

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5))

        def forward(self, z: torch.Tensor, y: None = None) -> torch.Tensor:
            """Images of latents and noise."""
            x = self.layers(z)
            return (x + torch.randn_like(x)).tanh().view(-1, 1, 8, 8)

    _, about = load_generator(runs / "plain")
    G = Noisy().train()
    before = torch.random.get_rng_state()
    first = sample(G, about, n=70, seed=1)
    assert torch.equal(before, torch.random.get_rng_state()) and G.training and G.layers[1].training
    torch.manual_seed(7)
    assert torch.equal(sample(G, about, n=70, seed=1), first)
    assert not torch.equal(sample(G, about, n=70, seed=2), first)


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("plain", {"n": 0}, "n 0: give at least 1"),
        ("plain", {"label": 3}, "class 3: this generator was trained without"),
        ("labelled", {"label": "x"}, "class x: the label must be one of 10 classes: 0, 1, 2"),
        ("labelled", {"attributes": ["Bald"]}, "attributes Bald: .* knows classes"),
        ("faces", {"attributes": ["-Smile"]}, "attributes -Smile: 'Smile' is not one of 3 attributes: Bald"),
        ("plain", {"truncation": float("nan")}, "truncation nan: give a finite number"),
        ("plain", {"truncation": 0.0}, "truncation 0: for dcgan it is the threshold"),
        ("plain", {"truncation_layers": 2}, "truncation_layers needs"),
    ],
)
def test_samples_that_cannot_be_had(runs: Path, name: str, how: dict, words: str) -> None:
    G, about = load_generator(runs / name)
    with pytest.raises(ValueError, match=words):
        sample(G, about, **{"n": 2} | how)


@pytest.mark.parametrize(
    ("n", "channels", "columns"), [(1, 1, 4), (3, 1, 8), (7, 3, 3), (8, 3, 4), (2, 1, 1)]
)
def test_grids_are_torchvisions(n: int, channels: int, columns: int) -> None:
    images = torch.randint(0, 256, (n, channels, 5, 6), dtype=torch.uint8)
    expected = to_picture(make_grid(images, nrow=columns, padding=2))
    found = to_grid(images, columns)
    # torchvision's own grid of one grey image has three channels, too
    assert found.mode == expected.mode == "RGB" and np.array_equal(np.asarray(found), np.asarray(expected))


# -- load ------------------------------------------------------------------------------------------


def test_a_checkpoint_may_be_a_number(runs: Path) -> None:
    with pytest.raises(UserError, match="checkpoint 3: .* has checkpoints of none"):
        load_generator(runs / "plain", checkpoint=3)


def test_an_unknown_model_is_said(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "plain" / "generator", tmp_path / "generator")
    config = json.loads((tmp_path / "generator" / "config.json").read_text())
    (tmp_path / "generator" / "config.json").write_text(json.dumps(config | {"model": "vqgan"}))
    with pytest.raises(UserError, match="is of the model vqgan, which is none of dcgan, "):
        load_generator(tmp_path)


OWN = '''"""Own networks."""
import torch
from torch import nn

class Generator(nn.Module):
    def __init__(self, img_size, img_channels, z_dim):
        super().__init__()
        self.img_size, self.img_channels, self.z_dim = img_size, img_channels, z_dim
        self.layer = nn.Linear(z_dim, img_channels * img_size**2)

    def forward(self, z, y=None):
        return self.layer(z).tanh().view(len(z), self.img_channels, self.img_size, self.img_size)

class Discriminator(nn.Module):
    def __init__(self, img_size, img_channels):
        super().__init__()
        self.img_size, self.img_channels = img_size, img_channels
        self.layer = nn.Linear(img_channels * img_size**2, 1)

    def forward(self, x, y=None):
        return self.layer(x.flatten(1)).squeeze(1)
'''


class Own(nn.Module):
    """The Generator above."""

    def __init__(self, side: int = 8) -> None:
        super().__init__()
        self.z_dim, self.side = 4, side
        self.layer = nn.Linear(4, side**2)

    def forward(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """Images (N, 1, side, side)."""
        return self.layer(z).tanh().view(len(z), 1, self.side, self.side)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A run whose networks come from a file, which stands beside its generator/."""
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "model.py"
    file.write_text(OWN)
    config = {
        "model": "mine.py",
        "model_file": {"name": "mine.py", "sha256": file_sha256(file)},
        "build": {"img_size": 8, "img_channels": 1, "z_dim": 4, "n_labels": 0},
        "dataset": "digits", "n_labels": 0, "multi_hot": False, "label_names": [], "seed": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    export_generator(tmp_path / "run" / "generator", config, {"raw": Own()}, step=5)
    return tmp_path / "run"


def test_networks_of_a_file_are_found_beside_the_run(own: Path, tmp_path: Path) -> None:
    for path in (own, own / "generator"):
        G, about = load_generator(path)
        assert type(G).__name__ == "Generator" and about["model"] == "mine.py" and not about["styles"]
        assert sample(G, about, n=3).shape == (3, 1, 8, 8)
    expected = sample(G, about, n=6)
    assert torch.equal(expected, written(own, tmp_path / "out"))
    shutil.copytree(own / "generator", tmp_path / "shared")  # without the file: it is put there, or named
    with pytest.raises(
        UserError, match=r"there is no .*model.py: the mine.py that .*shared was trained with"
    ):
        load_generator(tmp_path / "shared")
    G, about = load_generator(tmp_path / "shared", model_file=own / "model.py")
    assert torch.equal(sample(G, about, n=6), expected)
    shutil.copy(own / "model.py", tmp_path / "shared" / "model.py")
    assert torch.equal(sample(*load_generator(tmp_path / "shared"), n=6), expected)


def test_another_file_in_its_place_is_refused_unless_named(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sample(*load_generator(own), n=2)
    (own / "model.py").write_text(OWN + "\n# a line more\n")
    with pytest.raises(
        UserError, match=r"model.py is another file than the mine.py that .* was trained with"
    ):
        load_generator(own)
    capsys.readouterr()
    assert sample_tool.main([str(own), "--out", str(tmp_path / "x.png"), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "is another file" in said
    assert torch.equal(sample(*load_generator(own, model_file=own / "model.py"), n=2), before)
    assert "warning: " in (said := capsys.readouterr().err) and "is not the mine.py that" in said
    (own / "model.py").write_text(OWN.replace("self.layer = ", "self.other = "))
    with pytest.raises(
        UserError, match=r"raw.safetensors does not fit G .*give the networks of the training"
    ):
        load_generator(own, model_file=own / "model.py")
    with pytest.raises(UserError, match="model_file .*nowhere.py: there is no such file"):
        load_generator(own, model_file=tmp_path / "nowhere.py")


def test_a_model_of_the_toolkit_needs_no_file(runs: Path) -> None:
    with pytest.raises(UserError, match="model_file x.py: .* is of the model dcgan, which needs no file"):
        load_generator(runs / "plain", model_file="x.py")


def test_weights_are_loaded_into_an_own_instance(own: Path, tmp_path: Path) -> None:
    expected = sample(*load_generator(own), n=3)
    config = json.loads((own / "generator" / "config.json").read_text())
    given = {k: v for k, v in config.items() if k != "model_file"} | {"model": None}
    (own / "generator" / "config.json").write_text(json.dumps(given))
    with pytest.raises(UserError, match=r"were given as objects in Python: load_generator\(..., G=\)"):
        load_generator(own)
    instance = Own()
    G, about = load_generator(own, G=instance)
    assert G is instance and not G.training and not next(G.parameters()).requires_grad and about["step"] == 5
    assert torch.equal(sample(G, about, n=3), expected)
    with pytest.raises(UserError, match=r"raw.safetensors does not fit G .*shape"):
        load_generator(own, G=Own(side=9))


def test_damaged_weights_of_a_run_are_said_in_one_line(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "plain", tmp_path / "run")
    (tmp_path / "run" / "generator" / "ema.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="ema.safetensors is damaged"):
        load_generator(tmp_path / "run")
    save_file({"a": torch.zeros(1)}, tmp_path / "run" / "generator" / "ema.safetensors", {"step": "1"})
    with pytest.raises(UserError, match="ema.safetensors is damaged .*resume the run"):
        load_generator(tmp_path / "run")


# -- compare ---------------------------------------------------------------------------------------


def pictures(folder: Path, images: torch.Tensor) -> Path:
    """The images as files of a new folder."""
    folder.mkdir()
    for i, image in enumerate(images):
        to_picture(image).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    """100 digits (N, 1, 16, 16)."""
    data = load_dataset("digits", img_size=16, img_channels=1)
    return images_of(data, opposite_index(data, 100))


def test_folders_are_compared_as_the_command_does(
    runs: Path, weights: Path, digits: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the last digit, all that can be computed, other counts of reals and fakes, with the same warning."""
    real, fake = pictures(tmp_path / "real", digits[:60]), pictures(tmp_path / "fake", 255 - digits[60:])
    found = compare(
        real, str(fake), "digits-cnn", n=30, n_real=50, metric_weights=weights, cache_dir=str(tmp_path / "a")
    )
    assert "30 images are below 10000" in capsys.readouterr().err
    flags = ["--data", real, "--split", "all", "--fakes", fake, "--n", 30, "--n_real", 50, "--device", "cpu"]
    flags += ["--extractor", "digits-cnn", "--metric_weights", weights, "--cache_dir", tmp_path / "b"]
    assert evaluate.main([str(runs / "plain"), *map(str, flags)]) == 0
    line = json.loads((runs / "plain" / "scores.jsonl").read_text().splitlines()[-1])
    assert found["fid[digits-cnn]"] > 0 and {"kid[digits-cnn]", "classes"} <= found.keys()
    scores = {k: v for k, v in line.items() if k not in ("step", "date", "protocol")}
    assert {k: None if v == float("inf") else v for k, v in found.items() if k != "protocol"} == scores
    other = {"step", "weights", "fakes", "reference", "batch_norm"}
    ours, theirs = (
        {k: v for k, v in p.items() if k not in other} for p in (found["protocol"], line["protocol"])
    )
    assert ours == theirs and ours["size"] == [16, 16, 1]
    assert found["protocol"]["reference"] == "real" and found["protocol"]["fakes"].startswith(
        "images of fake, "
    )


def test_tensors_arrays_and_image_data_are_folders(
    weights: Path, digits: torch.Tensor, tmp_path: Path
) -> None:
    """All by default: 40 fakes against 40 of 60 reals, whatever holds them."""
    real, fake = digits[:60], 255 - digits[60:]
    how = {
        "extractor": "digits-cnn",
        "metric_weights": weights,
        "metrics": "fid",
        "cache_dir": str(tmp_path / "c"),
    }
    folders = pictures(tmp_path / "real", real), pictures(tmp_path / "fake", fake)
    shutil.make_archive(str(tmp_path / "fakes"), "zip", folders[1])
    scores = [
        compare(*pair, **how)
        for pair in (
            folders,
            (folders[0], tmp_path / "fakes.zip"),
            (real, fake),
            (real.numpy(), folders[1]),
            (folders[0], fake.float() / 127.5 - 1),
            (as_image_data(real), torch.utils.data.TensorDataset(fake)),
        )
    ]
    values = [found["fid[digits-cnn]"] for found in scores]
    assert values[0] > 0 and values == values[:1] * len(values)
    assert all((found["protocol"]["n_real"], found["protocol"]["n_fake"]) == (40, 40) for found in scores)
    crops = [found["protocol"]["crop"] for found in scores]
    assert crops[2] == crops[5] == "as they are" and "Lanczos" in crops[0] and crops[0] == crops[4]
    same = compare(real, real, **how)
    assert 0 <= same["fid[digits-cnn]"] < 1e-9


def test_files_take_the_shape_of_the_fakes_or_of_what_is_asked_for(
    weights: Path, digits: torch.Tensor, tmp_path: Path
) -> None:
    how = {
        "extractor": "digits-cnn",
        "metric_weights": weights,
        "metrics": ["fid"],
        "cache_dir": str(tmp_path / "c"),
    }
    real = pictures(tmp_path / "real", digits[:40].expand(-1, 3, -1, -1))  # in colour
    tall = pictures(tmp_path / "tall", digits[60:, :, :, 2:14])
    assert first_shape(real) == (16, 16, 3) and first_shape(tall) == (16, 12, 1)
    turned = Image.new("RGB", (30, 20))
    turned.getexif()[0x0112] = 6  # a quarter turn
    (tmp_path / "turned").mkdir()
    turned.save(tmp_path / "turned" / "b.jpg", exif=turned.getexif())
    whole = (tmp_path / "turned" / "b.jpg").read_bytes()
    (tmp_path / "turned" / "a.jpg").write_bytes(whole[: len(whole) // 2])  # passed over
    assert first_shape(tmp_path / "turned") == (30, 20, 3)
    for sets, size, expected in (
        ((real, tall), None, [16, 12, 1]),  # grey, stored in colour
        ((tall, real), None, [16, 16, 1]),
        ((real, tall), (20, 10), [20, 10, 1]),
        ((real, digits[60:]), None, [16, 16, 1]),
        ((digits[:40], tall), None, [16, 16, 1]),
        ((digits[:40], tall), 16, [16, 16, 1]),
    ):
        assert compare(*sets, **how, img_size=size)["protocol"]["size"] == expected


def test_what_cannot_be_compared(weights: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    tint = digits.expand(-1, 3, -1, -1).clone()
    tint[:, 0] = 255 - tint[:, 0]
    colour, grey = pictures(tmp_path / "colour", tint[:40]), pictures(tmp_path / "grey", digits[:40])
    how = {"extractor": "digits-cnn", "metric_weights": weights, "cache_dir": str(tmp_path / "c")}
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"<html>")
    for given, more, words in (
        ((digits, digits), {"extractor": "vgg"}, "extractor vgg: choose one of inception, lite0, mnist-cnn"),
        ((digits, digits), {"metric_weights": tmp_path / "no"}, "no weights of digits-cnn at .* give .*metric_weights"),
        ((digits, digits), {"metrics": ["fie"]}, "metrics fie: choose among fid, kid"),
        ((digits, digits), {"metrics": []}, "metrics: name at least one of fid, kid"),
        ((digits, digits), {"metrics": ["accuracy"]}, "metrics accuracy: digits-cnn reads"),
        ((digits, digits), {"n": 101}, "n 101: fake has 100 images"),
        ((digits, digits), {"n_real": 101}, "101 reals are asked for, but .* has 100 images: lower .*n_real"),
        ((digits, digits[:1]), {}, "fid needs at least 2 reals and 2 fakes, there are 1 and 1: give more or"),
        ((digits[:1], digits), {"metrics": ["pr"]}, "pr needs at least 4 reals and 4 fakes, there are 1 and 100"),
        ((digits[0], digits), {}, r"real: images of shape \(1, 16, 16\): four axes"),
        ((digits, digits.int()), {}, "fake: images of type torch.int32"),
        ((digits, tint), {}, r"real has images of shape \(16, 16, 1\), fake of \(16, 16, 3\)"),
        ((digits, digits[:, :, 2:]), {}, r"real has images of shape \(16, 16, 1\), fake of \(14, 16, 1\)"),
        ((digits, grey), {"img_size": 32}, "^img_size 32: the images of real are 16 x 16 in memory and stay so"),
        ((grey, digits), {"img_size": (16, 20)}, "the images of fake are 16 x 16 in memory and stay so; leave"),
        ((colour, digits), {}, "^reals .*colour is in colour, fake is grey"),
        ((grey, tint), {}, "^fake is in colour, reals .*grey is grey"),
        ((digits, tmp_path / "nowhere"), {}, "nowhere: no such file or folder; fakes takes a folder"),
        ((digits[:40], tmp_path / "empty"), {}, "empty"),
        ((tmp_path / "empty", tmp_path / "empty"), {}, "empty holds no images"),
        ((digits, digits), {"device": "gpu"}, "device gpu"),
        ((tmp_path / "broken", tmp_path / "broken"), {}, "broken: a.png: a web page saved as an image"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            compare(*given, **how | more)
