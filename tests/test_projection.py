"""Projection: losses worked by hand, codes of a generator's own pictures found again, what the command writes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

from errors import NotFinite, UserError
from generation.codes import Codes, images_from, joined, read_codes, seeded_codes
from generation.generator import load_generator
from generation.labels import label_examples, sample_labels
from generation.likeness import as_written, noise_loss, perceptual_loss, perceptual_maps, pyramid_loss
from generation.projection import PULL_Z, LatentSpace, StyleSpace, n_told, project, rate_at
from metrics.features import to_uint8
from metrics.lite0 import load_lite0
from modelling import MODELS, build_generator
from pretrained.lite0 import Lite0
from tests.running import SMALL
from tests.test_tools import export, refused
from tools import project as command
from tools import sample

MUST_REACH = 30  # dB, of what the generator made itself


def generator(model: str, n_labels: int = 0, channels: int = 3, **settings: object) -> tuple[nn.Module, dict]:
    """A narrow one with weights by chance that draws pictures in contrast, and what is known of it."""
    torch.manual_seed(1)
    kind = {
        "img_size": settings.pop("img_size", 32),
        "img_channels": channels,
        "z_dim": 10,
        "n_labels": n_labels,
    }
    G = build_generator(model, **kind, **SMALL[model][0] | settings)
    for name, p in G.named_parameters():
        nn.init.normal_(p, std=0.1 if name.endswith("bias") else 0.5 if model == "dcgan" else 1)
    about = {"model": model, "styles": MODELS[model].styles, "n_labels": n_labels, "multi_hot": False}
    about |= {"label_names": [], "dataset": "photos"}
    return G.eval().requires_grad_(False), about


def own_pictures(G: nn.Module, about: dict, n: int) -> torch.Tensor:
    """uint8, of a seed that projection does not begin with."""
    return to_uint8(images_from(G, joined(list(seeded_codes(G, n, 99, sample_labels(about, n, 99)))))).clone()


# Losses


def test_pyramid_by_hand() -> None:
    """A checkerboard of +-1 against 0: error 1 at 8 px, gone at 4."""
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert_close(pyramid_loss(board[None, None], torch.zeros(1, 1, 8, 8)), torch.tensor([0.5]))
    assert_close(pyramid_loss(torch.ones(2, 3, 16, 32), torch.zeros(2, 3, 16, 32)), torch.ones(2))


def test_what_a_file_cuts_off_is_no_error() -> None:
    """Beyond white where the target is white; not where it is grey, whose gradient leads back."""
    x = torch.tensor([3.0, 3.0, -2.0, 0.5]).view(1, 1, 2, 2).requires_grad_()
    seen = as_written(x, torch.tensor([1.0, 0.0, -1.0, 1.0]).view(1, 1, 2, 2))
    assert_close(seen.flatten(), torch.tensor([1.0, 3.0, -1.0, 0.5]))
    seen.sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 0, 1]


def test_white_noise_follows_itself_least() -> None:
    white = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    stripes = (torch.arange(64) % 2 * 2.0 - 1).expand(1, 1, 64, 64)
    assert noise_loss([white]) < 0.1
    assert_close(noise_loss([torch.ones(1, 1, 8, 8)]), torch.tensor([2.0]))
    assert_close(noise_loss([stripes]), torch.tensor([2.0]))  # at 64 px along both axes, then gone


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_pictures_of_any_channels_are_read(channels: int) -> None:
    torch.manual_seed(0)
    lite0 = Lite0().fused()
    x = torch.rand(2, channels, 28, 36).requires_grad_()
    maps = perceptual_maps(lite0, x)
    assert [tuple(m.shape) for m in maps] == [(2, 16, 42, 54), (2, 24, 21, 27), (2, 40, 11, 14)]
    assert_close(maps[0].norm(dim=1), torch.ones(2, 42, 54))
    assert_close(perceptual_loss(maps, maps), torch.zeros(2))
    perceptual_loss(maps, [m.detach().flip(0) for m in maps]).sum().backward()
    assert x.grad.abs().sum() > 0


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine() -> None:
    assert_close([rate_at(t) for t in (0.0, 0.025, 0.05, 0.5, 0.75, 1.0)], [0.0, 0.5, 1.0, 1.0, 0.5, 0.0])


def test_styles_are_sought_where_they_are_white() -> None:
    """The candidates' coordinates have mean 0 and variance 1, and lead back to their styles."""
    G, about = generator("stylegan2")
    candidates = next(seeded_codes(G, 64, 5))
    space = StyleSpace(G, about, candidates, seed=0)
    point = space.candidates.point[1:]
    assert_close(space.styles(space.candidates)[1:], G.styles(candidates.z), atol=1e-3, rtol=1e-3)
    assert space.candidates.point[0].abs().max() == 0
    assert point.mean(0).abs().max() < 0.6 and 0.5 < point.var(0).mean() < 1.5


# What is found


@pytest.mark.parametrize(
    ("model", "n_labels", "channels", "space"),
    [
        ("stylegan2", 0, 3, "w"), ("stylegan2", 3, 1, None), ("stylegan", 0, 4, None), ("dcgan", 0, 3, None),
        ("dcgan", 3, 1, None), ("progressive_gan", 0, 2, None),
    ],
)  # fmt: skip
def test_own_pictures_are_found_again(model: str, n_labels: int, channels: int, space: str | None) -> None:
    G, about = generator(model, n_labels, channels)
    targets = own_pictures(G, about, 2)
    assert targets.float().std() > 20  # there is something to find
    told = []
    found = project(G, about, targets, space=space, steps=120, watch=lambda *now: told.append(now))
    assert found.psnr.min() >= MUST_REACH, found.psnr
    assert [step for step, *_ in told] == list(range(1, n_told(120) + 1))
    assert told[0][2].mean() < found.psnr.mean()
    assert_close(to_uint8(images_from(G, found.codes)), found.images, atol=1, rtol=0)
    if space == "w":
        assert_close(found.codes.w[:, 0], found.codes.w[:, -1])


def test_attributes_are_sought_unless_given() -> None:
    """256 starts have few of the 2^12 rows; those that were given stay."""
    G, about = generator("dcgan", 12)
    rows = (torch.rand(600, 12, generator=torch.Generator().manual_seed(0)) < 0.3).numpy()
    about |= {"multi_hot": True, "label_examples": label_examples(rows, 0)}
    targets = own_pictures(G, about, 2)
    found = project(G, about, targets, steps=240)
    assert found.psnr.min() >= MUST_REACH, found.psnr
    assert found.codes.y.min() >= 0 and found.codes.y.max() <= 1
    assert_close(to_uint8(images_from(G, found.codes)), found.images, atol=1, rtol=0)
    given = torch.ones(256, 12)
    assert torch.equal(project(G, about, targets[:1], y=given, steps=5).codes.y, given[:1])


def test_a_picture_does_not_depend_on_its_neighbours_nor_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    G, about = generator("dcgan")
    targets = own_pictures(G, about, 3)
    both = project(G, about, targets, steps=10)
    monkeypatch.setattr("generation.projection.PIXELS_AT_ONCE", 3 * 32 * 32)
    alone = project(G, about, targets[1:2], steps=10)
    assert_close(alone.codes.z, both.codes.z[1:2], atol=1e-3, rtol=1e-3)
    assert torch.equal(alone.codes.z, project(G, about, targets[1:2], steps=10).codes.z)
    assert not torch.equal(alone.codes.z, project(G, about, targets[1:2], steps=10, seed=1).codes.z)


def test_noise_is_sought_and_stays_white() -> None:
    """Of a picture with noise of its own: mean 0, variance 1, and the images are those of styles and noise."""
    G, about = generator("stylegan2")
    for name, p in G.named_parameters():
        if name.endswith("strength"):
            nn.init.constant_(p, 0.5)
    torch.manual_seed(5)
    own = [torch.randn(1, 1, *maps.shape) for maps in G.constant_noises]
    target = to_uint8(G.synthesis(G.styles(torch.randn(1, 10)), noise=own))
    plain, noisy = (project(G, about, target, noise=noise, steps=80) for noise in (False, True))
    assert noisy.psnr > plain.psnr + 2
    assert [tuple(m.shape[2:]) for m in noisy.noises] == [tuple(m.shape) for m in G.constant_noises]
    for maps in noisy.noises:
        assert_close(maps.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
        assert_close(maps.square().mean(), torch.tensor(1.0), atol=1e-4, rtol=0)
    assert noise_loss([noisy.noises[-1]]) < 0.15
    again = to_uint8(G.synthesis(noisy.codes.w, noise=noisy.noises))
    assert_close(again, noisy.images, atol=1, rtol=0)


def test_pictures_are_compared_by_a_network_too() -> None:
    G, about = generator("dcgan")
    targets = own_pictures(G, about, 1)
    lite0 = load_lite0().module.network
    assert project(G, about, targets, lite0=lite0, steps=60).psnr >= MUST_REACH


def test_latents_keep_their_length() -> None:
    """A picture that G cannot make: z goes where it likes least, yet not out of its shell."""
    G, about = generator("dcgan")
    target = torch.randint(
        0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    z = project(G, about, target, steps=60).codes.z
    assert 0.5 < z.square().mean() < 3
    at = LatentSpace(G, Codes(torch.tensor([[1.0, -1.0], [2.0, 0.0]]))).candidates
    assert_close(LatentSpace(G, Codes(at.point)).pull(at), PULL_Z * torch.tensor([0.0, 1.0]))


def test_what_cannot_be_sought() -> None:
    G, about = generator("dcgan")
    x = own_pictures(G, about, 1)
    for kind, text in (({"space": "w"}, "space w: dcgan has no styles"), ({"noise": True}, "adds no noise")):
        with pytest.raises(UserError, match=text):
            project(G, about, x, **kind)
    points = build_generator("mlp", img_size=1, img_channels=2, z_dim=4).eval()
    with pytest.raises(UserError, match="makes points of a plane"):
        project(points, about | {"model": "mlp", "dataset": "ring8"}, x)
    G, about = generator("stylegan2")
    nn.init.constant_(G.mapping.layers[0].bias, float("nan"))
    with pytest.raises(NotFinite, match="styles are not finite"):
        project(G, about, x)


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of classes."""
    return export(tmp_path_factory.mktemp("runs") / "digits", 3, ("a", "b", "c"))


def test_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures of another size, with transparency, in grey, of one name: batch, files, latents that draw the same."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 4), dtype=np.uint8)
    (tmp_path / "more").mkdir()
    targets = [tmp_path / "a.png", tmp_path / "more" / "a.webp", tmp_path / "projected.jpg"]
    Image.fromarray(pixels).save(targets[0])
    Image.fromarray(pixels[..., 0]).save(targets[1])
    Image.fromarray(pixels[..., :3]).save(targets[2])
    out = tmp_path / "out"
    argv = [str(run), "--target", *map(str, targets), "--out", str(out), "--steps", "5", "--class", "b"]
    assert command.main(argv) == 0
    assert capsys.readouterr().out.count("PSNR") == 3
    names = {"a.png", "a.webp.png", "projected.jpg.png", "projected.png", "way.webp", "latents.npz"}
    assert {file.name for file in out.iterdir()} == names
    G, about = load_generator(run)
    assert read_codes(out / "latents.npz", G, about).y.tolist() == [1, 1, 1]
    assert (
        sample.main([str(run), "--latents", str(out / "latents.npz"), "--out", str(tmp_path / "same/")]) == 0
    )
    for i, name in enumerate(("a.png", "a.webp.png", "projected.jpg.png")):
        found, same = (
            np.array(Image.open(file)).astype(int) for file in (out / name, tmp_path / f"same/{i:06d}.png")
        )
        assert found.shape == (16, 16) and np.abs(found - same).max() <= 1
    with Image.open(out / "way.webp") as film, Image.open(out / "projected.png") as sheet:
        assert 1 < film.n_frames <= n_told(5) + 1 and sheet.width > 2 * 128
    assert "is not empty" in refused(capsys, command.main, *argv)
    assert command.main([*argv, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ("--target none.png --out new", "--target none.png"),
        ("--target . --out new", "--target ."),
        ("--target page.png --out new", "a web page saved as an image"),
        ("--target page.png --out .", "--out . is where --target page.png stands"),
        ("--target page.png --out x.png", "name a folder"),
        ("--target page.png --out new --space w", "dcgan has no styles"),
        ("--target page.png --out new --class d", "--class d"),
        ("--target page.png --out new --steps 1000000", "--steps 1000000: at most 100,000"),
        ("--target page.png --out new --seed 1e99", "--seed"),
    ],
)
def test_command_refuses(
    run: Path,
    flags: str,
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("page.png").write_text("<html>")
    assert text in refused(capsys, command.main, run, *flags.split())
    assert not Path("new").exists()
