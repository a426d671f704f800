"""Directions: eigenvectors worked by hand, layers found in every model, moves that do what they say, the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

from errors import UserError
from generation.codes import Codes, images_from, seeded_codes
from generation.directions import (
    factorise,
    find_directions,
    first_layers,
    label_directions,
    moved,
    sampled_styles,
)
from generation.generator import load_generator
from generation.labels import sample_labels
from generation.latents import latents
from modelling import MODELS, build_generator
from tests.running import SMALL
from tests.test_tools import export, refused
from tools import directions

OF_LATENTS = [name for name, row in MODELS.items() if row.latents]
SIZES = {"rect_dcgan": (48, 32)}


def generator(model: str, n_labels: int = 0, multi_hot: bool = False) -> tuple[nn.Module, dict]:
    """A narrow one with weights by chance, and what is known of it."""
    torch.manual_seed(0)
    size = SIZES.get(model, 32)
    G = build_generator(model, img_size=size, img_channels=3, z_dim=21, n_labels=n_labels, **SMALL[model][0])
    for p in G.parameters():
        nn.init.normal_(p, std=0.3)
    about = {"model": model, "styles": MODELS[model].styles, "n_labels": n_labels, "multi_hot": multi_hot}
    names = [f"class {i}" for i in range(n_labels)]
    examples = ["10101", "01010"] if multi_hot else None
    about |= {"label_names": names, "label_examples": examples, "dataset": "photos"}
    return G.eval().requires_grad_(False), about


# Found in weights


def test_eigenvectors_by_hand() -> None:
    """A = diag(1, 2) R with R a turn by atan(3/4): A^T A = R^T diag(1, 4) R has the rows of R as eigenvectors."""
    turn = torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
    a = torch.diag(torch.tensor([1.0, 2.0])) @ turn
    vectors, shares = factorise(a.T @ a, 2)
    assert_close(vectors, torch.tensor([[-0.6, 0.8], [0.8, 0.6]], dtype=torch.float64))
    assert_close(shares, torch.tensor([0.8, 0.2], dtype=torch.float64))


class Linear(nn.Module):
    """z (N, 3) -> images (N, 1, 1, 2), by a matrix behind a permutation and a scale."""

    z_dim, img_size, img_channels = 3, (1, 2), 1

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.layer, self.after = nn.Linear(3, 2), nn.Linear(2, 2)
        self.layer.weight.data = weight

    def forward(self, z: torch.Tensor, y: None = None) -> torch.Tensor:
        return self.after(self.layer(2 * z.flip(1)))[:, None, None]


def test_a_matrix_worked_by_hand() -> None:
    """Reads (2 z3, 2 z2, 2 z1): the second row of the matrix, 3 long, reads z1 alone, the first, 1 long, z3."""
    G = Linear(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -3.0]])).requires_grad_(False)
    found = find_directions(G, {"model": "own", "styles": False, "n_labels": 0, "multi_hot": False}, 3)
    assert_close(found.vectors[:2], torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    assert_close(found.shares, torch.tensor([0.9, 0.1, 0.0]))


@pytest.mark.parametrize("n_labels", [0, 5])
@pytest.mark.parametrize("model", OF_LATENTS)
def test_every_model_has_directions(model: str, n_labels: int) -> None:
    """Of length 1, at right angles, in falling order, the same each time; a first step along one is no chance."""
    if n_labels and not MODELS[model].conditions_g:
        pytest.skip("sees no labels")
    G, about = generator(model, n_labels)
    found = find_directions(G, about, 4)
    assert_close(found.vectors @ found.vectors.T, torch.eye(4), atol=1e-5, rtol=0)
    assert (found.vectors.gather(1, found.vectors.abs().argmax(1, keepdim=True)) > 0).all()
    assert (found.shares.diff() <= 1e-6).all() and 0 < found.shares.sum() <= 1 + 1e-6
    assert torch.equal(found.vectors, find_directions(G, about, 4).vectors)
    with torch.inference_mode():
        assert torch.equal(found.vectors, find_directions(G, about, 4).vectors)
    codes = next(seeded_codes(G, 2, 0, sample_labels(about, 2, 0)))
    still, there = (moved(G, about, codes, found, torch.tensor([s, 0, 0, 0])) for s in (0.0, 3.0))
    x = images_from(G, codes)
    assert_close(images_from(G, still), x)
    assert (images_from(G, there) - x).abs().amax((1, 2, 3)).min() > 1e-4


def test_styles_are_those_of_the_affine_layers() -> None:
    """A^T A is the sum over all layers that read w of their own weights'."""
    G, about = generator("stylegan2")
    weights = [m.weight * m.scale for name, m in G.named_modules() if name.endswith("affine")]
    gram = sum(w.double().T @ w.double() for w in weights)
    assert len(weights) == len(first_layers(G, about)) > G.n_layers - 1
    vectors, shares = factorise(gram, 3)
    found = find_directions(G, about, 3)
    assert_close(found.vectors, vectors.float(), atol=1e-4, rtol=0)
    assert_close(found.shares, shares.float())


def test_layers_are_looked_at_and_moved_alone() -> None:
    G, about = generator("stylegan2")
    first = G.blocks[0].convs[0].affine
    found = find_directions(G, about, 2, (0, 1))
    vectors, _ = factorise((first.weight.T @ first.weight).double(), 2)
    assert_close(found.vectors, vectors.float(), atol=1e-4, rtol=0)
    codes = Codes(latents(0, 0, 2, G.z_dim))
    w = G.styles(codes.z)
    there = moved(G, about, codes, found, torch.tensor([2.0, 0.0])).w
    assert_close(there[:, 0] - w[:, 0], (2 * found.units[0] * found.vectors[0]).expand(2, -1))
    assert torch.equal(there[:, 1:], w[:, 1:])
    std = sampled_styles(G, about).var(0).mean().sqrt()
    assert_close(found.units[0], std)


def test_a_category_is_no_direction() -> None:
    """InfoGAN's first entries choose by their largest: nothing that a step could follow."""
    G, about = generator("infogan")
    n_noise = G.z_dim - G.n_categories - G.n_continuous
    found = find_directions(G, about, 5)
    assert found.vectors[:, n_noise : n_noise + G.n_categories].abs().max() < 1e-6


# Towards labels


def test_towards_a_label_is_the_difference_of_means() -> None:
    G, about = generator("stylegan2", 5, multi_hot=True)
    found = label_directions(G, about, ["class 1", "class 3"])
    assert found.space == "w" and found.names == ("class 1", "class 3")
    rows = torch.tensor([[1, 0, 1, 0, 1], [0, 1, 0, 1, 0]]).float().repeat(512, 1)
    order = sample_labels(about, 2, 0)[0]  # which of both examples comes first
    rows = rows if torch.equal(order, rows[0]) else rows.flip(0)
    z = latents(0, 0, 1024, G.z_dim)
    has, lacks = rows.clone(), rows.clone()
    has[:, 3], lacks[:, 3] = 1, 0
    wanted = (G.styles(z, has)[:, 0] - G.styles(z, lacks)[:, 0]).mean(0)
    assert_close(found.vectors[1] * found.units[1], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", ["dcgan", "progressive_gan", "biggan"])
def test_all_the_way_to_a_class_is_that_class(model: str) -> None:
    G, about = generator(model, 5)
    found = label_directions(G, about, ["class 2", "4"])
    own, other = (Codes(latents(0, 0, 3, G.z_dim), torch.tensor(y)) for y in ([0, 1, 2], [4, 4, 4]))
    there = moved(G, about, own, found, torch.tensor([0.0, 1.0]))
    assert_close(images_from(G, there), images_from(G, other))


def test_all_the_way_to_an_attribute() -> None:
    G, about = generator("dcgan", 5, multi_hot=True)
    found = label_directions(G, about, ["class 1"])
    y = torch.tensor([[1.0, 0, 0, 0, 1]])
    there = moved(G, about, Codes(latents(0, 0, 1, G.z_dim), y), found, torch.tensor([1.0]))
    assert torch.equal(there.y, torch.tensor([[1.0, 1, 0, 0, 1]]))


def test_what_a_generator_does_not_have() -> None:
    G, about = generator("dcgan")
    for ask, text in (
        (lambda: find_directions(G, about, 22), "n_directions 22: this generator has 1 to 21"),
        (lambda: find_directions(G, about, 2, (0, 1)), "dcgan has no styles"),
        (lambda: label_directions(G, about, ["Smiling"]), "trained without conditional"),
    ):
        with pytest.raises(UserError, match=text):
            ask()
    G, about = generator("stylegan2", 5)
    with pytest.raises(UserError, match="layers 2 99: this generator has the layers 0 to"):
        find_directions(G, about, 2, (2, 99))
    with pytest.raises(UserError, match="toward 5: not one of 5 classes: class 0, class 1"):
        label_directions(G, about, ["5"])


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of classes with styles."""
    return export(tmp_path_factory.mktemp("runs") / "styled", 3, ("a", "b", "c"), model="stylegan2")


def test_command(run: Path, tmp_path: Path) -> None:
    argv = [str(run), "--n_directions", "2", "--rows", "2", "--class", "b", "--out"]
    assert directions.main([*argv, str(tmp_path / "strips.png")]) == 0
    with Image.open(tmp_path / "strips.png") as sheet:
        # two blocks of a line of names, two rows of 48 px; a column of titles, seven of 48 px; 4 px between
        assert sheet.size == (64 + 7 * 52, 2 * (16 + 2 * 52))
        middle = sheet.crop((64 + 3 * 52, 16, 64 + 3 * 52 + 48, 64))
    G, about = load_generator(run)
    own = images_from(G, Codes(latents(0, 0, 1, G.z_dim), torch.tensor([1])))[0, 0]
    shown = torch.from_numpy(np.array(middle.convert("L")))[1::3, 1::3].int()
    assert (shown - (own.clamp(-1, 1) * 127.5 + 127.5)).abs().max() <= 1
    assert (
        directions.main([str(run), "--toward", "c", "--truncation", "0.5", "--out", str(tmp_path / "c.jpg")])
        == 0
    )


@pytest.mark.parametrize("flags", ["--direction 2", "--toward c"])
def test_a_slider_goes_there_and_back(flags: str, tmp_path: Path) -> None:
    run = export(tmp_path / "run", 3, ("a", "b", "c"))
    argv = [str(run), *flags.split(), "--rows", "2", "--out", str(tmp_path / "frames/")]
    assert directions.main(argv) == 0
    frames = [np.array(Image.open(file)).astype(int) for file in sorted((tmp_path / "frames").iterdir())]
    assert len(frames) == 80 and frames[0].shape == (18 * 4 + 8, 2 * 18 * 4 + 8, 3)
    for i in (5, 20, 33):  # to the strength and back, to its opposite and back: sin(x) = sin(pi - x)
        assert np.abs(frames[i] - frames[40 - i]).max() <= 1
    assert np.abs(frames[20] - frames[60]).max() > 4 < np.abs(frames[20] - frames[0]).max()
    assert np.abs(frames[79] - frames[0]).mean() < 2 * np.abs(frames[1] - frames[0]).mean() + 1


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ("--out x.png --direction 2", "--direction is of an animation"),
        ("--out x.webp --direction 9", "--direction 9: there are 1 to 8"),
        ("--out x.png --strength 0", "--strength 0 must be above 0"),
        ("--out x.png --toward a --n_directions 2", "give one of them"),
        ("--out x.png --rows 9999999", "--rows"),
        ("--out x.bmp", "x.bmp"),
    ],
)
def test_command_refuses(run: Path, flags: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert text in refused(capsys, directions.main, run, *flags.split())
