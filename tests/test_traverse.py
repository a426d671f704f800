"""Traversals of codes: what varies along rows and columns, sizes, the assignment of categories to classes, refusals."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from metrics.classifiers import DigitCNN
from metrics.features import load_extractor, save_extractor
from metrics.modes import assignment_accuracy, best_assignment, confusion
from modelling import build_generator
from modelling.infogan import Generator
from tests.running import run, small
from tools import traverse


def generator(**settings: object) -> Generator:
    torch.default_generator.manual_seed(0)
    image = {"img_size": 8, "img_channels": 1, "z_dim": 12, "width": 4, "n_categories": 3}
    return build_generator("infogan", **image | settings).eval()


# Assignment


def test_assignment_by_brute_force_on_four_codes() -> None:
    source = torch.Generator().manual_seed(0)
    for _ in range(50):
        counts = torch.randint(0, 20, (4, 4), generator=source)
        found = best_assignment(counts)
        assert sorted(found) == [0, 1, 2, 3]
        best = max(sum(int(counts[i, p[i]]) for i in range(4)) for p in itertools.permutations(range(4)))
        assert sum(int(counts[i, found[i]]) for i in range(4)) == best


def test_assignment_is_not_greedy() -> None:
    """The largest entry, 10, is given up: 9 + 9 is more than 10 + 0."""
    assert best_assignment(torch.tensor([[10, 9], [9, 0]])) == [1, 0]


def test_assignment_of_many_codes_and_of_none() -> None:
    """A shuffled diagonal of 300 is found beneath noise; rows that win nothing take the columns that are left."""
    source = torch.Generator().manual_seed(0)
    order = torch.randperm(300, generator=source)
    counts = torch.randint(0, 2, (300, 300), generator=source) * (
        torch.rand(300, 300, generator=source) < 0.05
    )
    counts[torch.arange(300), order] = 300
    assert best_assignment(counts) == order.tolist()
    assert sorted(best_assignment(torch.zeros(17, 17, dtype=torch.long))) == list(range(17))
    assert best_assignment(torch.tensor([[0, 0, 0], [5, 0, 0], [4, 0, 0]])) == [1, 0, 2]


def test_accuracy_by_hand() -> None:
    code = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    label = torch.tensor([1, 1, 0, 0, 0, 0, 2, 2])
    assert confusion(code, label, 3).tolist() == [[1, 2, 0], [2, 0, 0], [1, 0, 2]]
    assert assignment_accuracy(code, label, 3) == (6 / 8, [1, 0, 2])
    ten = torch.arange(1000) % 10
    assert assignment_accuracy(ten, (ten * 3 + 1) % 10, 10) == (1.0, [(3 * i + 1) % 10 for i in range(10)])
    assert assignment_accuracy(ten, torch.zeros_like(ten), 10)[0] == 0.1


def test_codes_that_cannot_be_counted() -> None:
    two = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="must be 0 to 1, not 0 to 2"):
        confusion(two, torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match=r"as many codes as labels are needed: \(2,\) and \(3,\)"):
        confusion(two, torch.zeros(3, dtype=torch.long), 2)


# Pictures


@torch.no_grad()
def test_one_code_moves_along_a_row() -> None:
    """Columns differ in one code alone, rows in noise and in the codes that are fixed along them."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    class Spy(Generator):
        def decode(self, noise: Tensor, category: Tensor, continuous: Tensor) -> Tensor:
            seen.append((noise, category, continuous))
            return super().decode(noise, category, continuous)

    G = generator()
    G.__class__ = Spy
    z = torch.randn(4, 12)
    blocks = list(traverse.traversals(G, z, 2.0))
    assert [(title, tuple(images.shape)) for title, _, images in blocks] == [
        ("category", (4, 3, 1, 8, 8)), ("c1", (4, 9, 1, 8, 8)), ("c2", (4, 9, 1, 8, 8)),
    ]  # fmt: skip
    assert blocks[0][1] == ["0", "1", "2"]
    assert blocks[1][1] == blocks[2][1] == ["-2", "-1.5", "-1", "-0.5", "0", "0.5", "1", "1.5", "2"]
    noise, _, own = G.codes(z)
    for (given, category, continuous), columns in zip(seen, (3, 9, 9), strict=True):
        assert torch.equal(given.view(4, columns, -1), noise[:, None].expand(-1, columns, -1))
        assert category.shape == (4 * columns,) and continuous.shape == (4 * columns, 2)
    assert seen[0][1].view(4, 3).tolist() == [[0, 1, 2]] * 4
    assert torch.equal(seen[0][2].view(4, 3, 2), own[:, None].expand(-1, 3, -1))
    for i in (0, 1):
        assert seen[1 + i][1].view(4, 9)[:, 0].tolist() == [0, 1, 2, 0]
        moved = seen[1 + i][2].view(4, 9, 2)
        assert_close(moved[2, :, i], torch.linspace(-2, 2, 9))
        assert torch.equal(moved[:, :, 1 - i], own[:, None, 1 - i].expand(-1, 9))
    assert all((images[:, 0] != images[:, -1]).any() for _, _, images in blocks)


def test_picture_holds_every_image_where_it_belongs() -> None:
    """8 px drawn six times as large, 64 px of titles, a line of 16 px above each block, 4 px between images."""
    first = torch.arange(6, dtype=torch.uint8).view(2, 3, 1, 1, 1).expand(-1, -1, 1, 8, 8) * 20
    second = torch.full((2, 2, 1, 8, 8), 200, dtype=torch.uint8)
    picture = traverse.draw([("category", ["0", "1", "2"], first), ("c1", ["-1", "1"], second)])
    assert picture.size == (64 + 3 * 52, 2 * (16 + 2 * 52))
    for i, j in itertools.product(range(2), range(3)):
        for x, y in ((0, 0), (47, 47)):
            assert picture.getpixel((64 + 52 * j + x, 16 + 52 * i + y)) == (20 * (3 * i + j),) * 3
    assert picture.getpixel((64 + 52 + 10, 120 + 16 + 10)) == (200, 200, 200)
    assert picture.getpixel((64 + 50, 40)) == (255, 255, 255)  # between two images
    title = picture.crop((0, 16, 64, 64)).convert("L")
    assert title.getextrema()[0] < 100


def test_colours_stay() -> None:
    red = torch.zeros(1, 1, 3, 64, 64, dtype=torch.uint8)
    red[:, :, 0] = 255
    picture = traverse.draw([("category", ["0"], red)])
    assert picture.size == (64 + 68, 16 + 68) and picture.getpixel((80, 50)) == (255, 0, 0)


# What a classifier reads


class Brightness(nn.Module):
    """Tells three levels of grey, in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        level = images.double().flatten(1).mean(1, keepdim=True)
        return level, -(level - torch.tensor([255.0, 0.0, 128.0])).abs()


def painted() -> Generator:
    """One whose category is the image's grey: black, mid-grey, white."""

    class Painter(Generator):
        def decode(self, noise: Tensor, category: Tensor, continuous: Tensor) -> Tensor:
            return (category.float() - 1).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)

    G = generator()
    G.__class__ = Painter
    return G


def test_categories_are_read_in_samples(tmp_path: Path) -> None:
    save_extractor(tmp_path / "a.safetensors", DigitCNN(), {})
    extractor = replace(load_extractor("digits-cnn", tmp_path / "a.safetensors"), module=Brightness())
    category, logits = traverse.read_samples(painted(), extractor, 150, seed=0)
    assert category.shape == (150,) and logits.shape == (150, 3)
    counts = torch.bincount(category, minlength=3)
    assert (counts > 25).all()
    accuracy, said = traverse.assignment_report(category, logits, 3)
    text = said.splitlines()
    assert accuracy == 1
    assert text[0].startswith("category tells the class: 100.00%")
    assert [line.split()[2] for line in text[2:]] == ["1", "2", "0"]  # black, mid-grey, white
    assert text[2].split() == ["0", "->", "1", "0", str(int(counts[0])), "0"]


def test_more_categories_than_classes() -> None:
    """Two categories show class 0: one of them is assigned, the other stands without a class."""
    logits = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    accuracy, text = traverse.assignment_report(torch.tensor([0, 0, 1, 2]), logits, 3)
    assert accuracy == 0.75
    assert text.startswith("category tells the class: 75.00%")
    assert [line.split()[2] for line in text.splitlines()[2:]] == ["0", "-", "1"]


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run(f"--log_name a {small('infogan')} --n_steps 2 --ema", folder)
    run("--log_name plain --n_steps 1", folder)
    return folder


def test_command(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights, out = tmp_path / "digits-cnn.safetensors", tmp_path / "new" / "traversal.png"
    save_extractor(weights, DigitCNN(), {"extractor": "digits-cnn"})
    argv = [str(trained / "a"), "--out", str(out), "--rows", "4", "--extractor", "digits-cnn"]
    assert traverse.main([*argv, "--metric_weights", str(weights), "--n", "100"]) == 0
    side = 16 * math.ceil(48 / 16) + 4
    with Image.open(out) as picture:
        assert picture.size == (64 + 9 * side, 3 * (16 + 4 * side))
    said = capsys.readouterr().out
    assert "infogan, step 2, ema weights, seed 0: wrote" in said and "100 samples read by digits-cnn" in said
    assert "category tells the class: " in said
    line = json.loads((trained / "a" / "scores.jsonl").read_text())
    assert f"category tells the class: {line['category_accuracy']:.2%}" in said
    assert line["protocol"]["n_fake"] == 100 and len(line["protocol"]["extractor_sha256"]) == 64
    total = sum(
        int(n)
        for line in said.splitlines()
        if "-> " in line and "class " not in line
        for n in line.split()[3:]
    )
    assert total == 100


def test_the_picture_is_a_function_of_the_seed(trained: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.png" for name in ("one", "again", "other")]
    for file, seed in zip(files, ("0", "0", "1"), strict=True):
        assert traverse.main([str(trained / "a"), "--out", str(file), "--rows", "2", "--seed", seed]) == 0
    one, again, other = (file.read_bytes() for file in files)
    assert one == again != other


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("plain", "", "dcgan has no codes; --model infogan has"),
        ("a", "--range 0", "--range 0 must be above 0"),
        ("a", "--range nan", "nan must be a finite number"),
        ("a", "--rows 0", "0 must be a whole number of at least 1"),
        ("a", "--extractor digits-cnn --metric_weights nothing", "no weights of digits-cnn at nothing"),
        ("absent", "", "does not exist"),
    ],
)
def test_refusals(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, flags: str, words: str
) -> None:
    out = tmp_path / "a.png"
    assert traverse.main([str(trained / name), "--out", str(out), *flags.split()]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and len(error.splitlines()) == 1 and not out.exists()


def test_other_files_than_pictures_are_refused(trained: Path, capsys: pytest.CaptureFixture) -> None:
    assert traverse.main([str(trained / "a"), "--out", "a.gif"]) == 2
    assert "give NAME.png" in capsys.readouterr().err
