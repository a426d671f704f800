"""Listed seeds, grids, latents to and from files, and files as they are drawn: tools.sample on tiny generators."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from errors import UserError
from generation import codes as codes_module
from generation.codes import Codes, codes_of_seeds, images_from, joined, read_codes, with_styles, write_codes
from generation.drawing import sample as sample_images
from generation.generator import load_generator
from generation.latents import latents
from tests.test_tools import export_kinds, refused
from tools import sample
from tools.common import seed_list

KINDS = ("plain", "labelled", "faces", "styled")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each kind: without labels, with classes, with attributes, with classes and styles; a wide one."""
    return export_kinds(tmp_path_factory.mktemp("runs"))


def files_of(folder: Path) -> np.ndarray:
    """The pictures of a folder, (n, H, W)."""
    return np.stack(
        [np.asarray(Image.open(file).convert("L")) for file in sorted(folder.glob("*.png"))]
    ).astype(int)


def draw(run: Path, out: Path, *flags: object) -> np.ndarray:
    """What tools.sample writes as single files."""
    assert sample.main([str(run), "--out", f"{out}/", *map(str, flags)]) == 0
    return files_of(out)


@pytest.mark.parametrize("text", ["3,17,100-131", " 3 , 17,100-131"])
def test_seed_list(text: str) -> None:
    assert seed_list(text) == [3, 17, *range(100, 132)]
    assert seed_list("-4,7-7") == [-4, 7]


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_of_a_seed_is_its_first_at_any_batch(kind: str, runs: Path, tmp_path: Path) -> None:
    """Seeds beside each other, over the edge of a batch of 64, are as each alone."""
    seeds = [*range(200, 263), 5, 9]
    together = draw(runs / kind, tmp_path / "all", "--seeds", "200-262,5,9")
    assert len(together) == 65
    for place in (0, 62, 63, 64):
        alone = draw(runs / kind, tmp_path / str(place), "--seed", seeds[place], "--n", 1)
        assert np.abs(together[place] - alone[0]).max() <= 1
    assert np.abs(together[63] - together[64]).max() > 1


def test_one_label_for_all_seeds(runs: Path, tmp_path: Path) -> None:
    flags = ("--class", 7)
    together = draw(runs / "labelled", tmp_path / "all", "--seeds", "4,8", *flags)
    alone = draw(runs / "labelled", tmp_path / "alone", "--seed", 8, "--n", 1, *flags)
    assert np.abs(together[1] - alone[0]).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp"])
def test_grids_of_all_kinds(suffix: str, runs: Path, tmp_path: Path) -> None:
    """--grid says how many, --scale how large; PNG and WebP keep every pixel."""
    out, exact = tmp_path / f"new/grid.{suffix}", tmp_path / "exact.png"
    for file in (out, exact):
        assert sample.main([str(runs / "wide"), "--grid", "4x3", "--scale", "3", "--out", str(file)]) == 0
    with Image.open(out) as found, Image.open(exact) as wanted:
        assert found.size == wanted.size == (3 * (2 + 4 * 34), 3 * (2 + 3 * 18))
        assert found.format == {"png": "PNG", "webp": "WEBP"}.get(suffix, "JPEG")
        apart = np.abs(np.asarray(found.convert("RGB")).astype(int) - np.asarray(wanted.convert("RGB")))
    assert apart.max() == 0 if suffix in ("png", "webp") else apart.mean() < 6


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_single_files_of_other_kinds(suffix: str, runs: Path, tmp_path: Path) -> None:
    exact = draw(runs / "plain", tmp_path / "png", "--n", 3)
    assert sample.main([str(runs / "plain"), "--n", "3", "--out", f"{tmp_path}/x/", "--format", suffix]) == 0
    files = sorted((tmp_path / "x").iterdir())
    assert [file.name for file in files] == [f"{i:06d}.{suffix}" for i in range(3)]
    found = np.stack([np.asarray(Image.open(file).convert("L")) for file in files])
    assert np.abs(found - exact).mean() < 6


def test_files_are_written_as_they_are_drawn(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more than a batch of 64 at a time, and each on the disk before the next is drawn."""
    seen = []

    def watched(G: torch.nn.Module, codes: Codes, **how: object) -> torch.Tensor:
        seen.append((len(codes), len(list((tmp_path / "x").glob("*.png")))))
        return images_from(G, codes, **how)

    monkeypatch.setattr("generation.drawing.images_from", watched)
    assert len(draw(runs / "plain", tmp_path / "x", "--n", 150)) == 150
    assert seen == [(64, 0), (64, 64), (22, 128)]


@pytest.mark.parametrize("kind", [*KINDS, "wide"])
def test_latents_draw_the_same_images(kind: str, runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "codes.npz"
    flags = ("--truncation", "0.7") if kind in ("styled", "plain") else ()
    first = draw(runs / kind, tmp_path / "a", "--seeds", "3,5-69", "--save_latents", file, *flags)
    again = draw(runs / kind, tmp_path / "b", "--latents", file, *flags)
    assert len(first) == 66 and np.abs(first - again).max() <= 1
    with np.load(file) as arrays:
        assert set(arrays) == {"z"} | ({"y"} if kind not in ("plain", "wide") else set()) | (
            {"w"} if kind == "styled" else set()
        )
        assert arrays["z"].shape == (66, 9) and arrays["z"].dtype == np.float32
        if not flags:
            assert np.array_equal(arrays["z"][:1], latents(3, 0, 1, 9).numpy())
        if kind == "styled":
            assert arrays["w"].shape == (66, 6, 8)


def test_a_label_over_that_of_the_file(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "codes.npz"
    draw(runs / "labelled", tmp_path / "a", "--seed", 4, "--n", 3, "--save_latents", file)
    found = draw(runs / "labelled", tmp_path / "b", "--latents", file, "--class", 7)
    assert (
        np.abs(found - draw(runs / "labelled", tmp_path / "c", "--seed", 4, "--n", 3, "--class", 7)).max()
        <= 1
    )


def test_styles_alone_are_enough(runs: Path, tmp_path: Path) -> None:
    """w (n, w_dim), as other programs have it, goes to all layers."""
    G, about = load_generator(runs / "styled")
    codes = with_styles(G, next(codes_of_seeds(G, [3, 4], torch.tensor([1, 2]))))
    np.savez(tmp_path / "w.npz", w=codes.w[:, 0].double().numpy())
    found = read_codes(tmp_path / "w.npz", G, about)
    assert found.z is None and torch.equal(found.w, codes.w)
    torch.testing.assert_close(images_from(G, found), images_from(G, codes_of(codes)), atol=1e-5, rtol=0)


def codes_of(codes: Codes) -> Codes:
    """The same without styles."""
    return Codes(codes.z, codes.y)


def test_seeds_in_python(runs: Path, tmp_path: Path) -> None:
    G, about = load_generator(runs / "labelled")
    found = sample_images(G, about, seeds=[3, 17], label=4)[:, 0].int().numpy()
    assert np.abs(found - draw(runs / "labelled", tmp_path / "a", "--seeds", "3,17", "--class", 4)).max() <= 1
    with pytest.raises(UserError, match="at least one"):
        sample_images(G, about, seeds=[])


def test_codes_join_and_slice() -> None:
    z, y = torch.randn(70, 4), torch.arange(70)
    parts = list(Codes(z, y).chunks())
    assert [len(part) for part in parts] == [64, 6]
    whole = joined(parts)
    assert torch.equal(whole.z, z) and torch.equal(whole.y, y) and whole.w is None


def written(file: Path, **arrays: np.ndarray) -> Path:
    """A .npz of these arrays."""
    np.savez(file, **arrays)
    return file


def damaged(file: Path) -> list[tuple[Path, str]]:
    """Files that are refused by a labelled generator of z_dim 9, and the word that says why."""
    z, y = np.zeros((3, 9), np.float32), np.zeros(3, np.int64)
    whole = written(file / "whole.npz", z=z, y=y).read_bytes()
    (file / "cut.npz").write_bytes(whole[:-40])
    (file / "text.npz").write_text("no archive")
    (file / "flipped.npz").write_bytes(whole[:150] + bytes([whole[150] ^ 255]) + whole[151:])
    lying = io.BytesIO()
    np.lib.format.write_array_header_1_0(lying, {"descr": "<f4", "fortran_order": False, "shape": (2**38, 9)})
    with zipfile.ZipFile(file / "lying.npz", "w") as archive:
        archive.writestr("z.npy", lying.getvalue() + b"\0" * 36)
    (file / "folder.npz").mkdir()
    return [
        (file / "cut.npz", "is no .npz"),
        (file / "text.npz", "is no .npz"),
        (file / "flipped.npz", "is no .npz"),
        (file / "lying.npz", "other bytes"),
        (file / "folder.npz", "regular file"),
        (file / "none.npz", "cannot be read"),
        (written(file / "wide.npz", z=np.zeros((3, 8)), y=y), "takes (n, 9)"),
        (written(file / "deep.npz", z=np.zeros((3, 9, 1)), y=y), "takes (n, 9)"),
        (written(file / "styles.npz", w=np.zeros((3, 6, 8))), "has no w"),
        (written(file / "empty.npz", other=z), "neither"),
        (written(file / "nan.npz", z=z * np.nan), "NaN"),
        (written(file / "uneven.npz", z=z, y=y[:2]), "as many each"),
        (written(file / "class.npz", z=z, y=y + 10), "other classes"),
        (written(file / "half.npz", z=z, y=y + 0.5), "other classes"),
        (written(file / "words.npz", z=np.array([["a"] * 9])), "numbers"),
        (written(file / "objects.npz", z=np.array([[{}] * 9])), "is no .npz"),
    ]


def test_files_that_do_not_fit(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, word in damaged(tmp_path):
        line = refused(capsys, sample.main, runs / "labelled", "--latents", file, "--out", tmp_path / "x.png")
        assert word in line and file.name in line
    assert not (tmp_path / "x.png").exists()


def test_too_large_a_file(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    G, about = load_generator(runs / "plain")
    write_codes(tmp_path / "a.npz", [Codes(torch.zeros(30, 9))])
    monkeypatch.setattr(codes_module, "FILE_LIMIT", 1000)
    with pytest.raises(UserError, match="more than 1,000 bytes"):
        read_codes(tmp_path / "a.npz", G, about)


def test_codes_that_no_file_holds_are_refused_before_they_are_drawn(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """9 latents of 4 bytes an image: 27 images are 972 bytes, 28 are 1,008."""
    monkeypatch.setattr(sample, "FILE_LIMIT", 1000)
    words = ["--save_latents", tmp_path / "a.npz", "--out", tmp_path / "x.png"]
    line = refused(capsys, sample.main, runs / "plain", "--n", 28, *words)
    assert "--save_latents: --n 28" in line and "at most 27" in line and not list(tmp_path.iterdir())
    assert sample.main([str(word) for word in (runs / "plain", "--n", 27, *words)]) == 0


def test_sample_refuses_what_does_not_go_together(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = ("--out", tmp_path / "x.png"), ("--out", f"{tmp_path}/x/")
    file = tmp_path / "a.npz"
    write_codes(file, [Codes(torch.zeros(3, 9))])

    def line(*flags: object, run: str = "plain") -> str:
        return refused(capsys, sample.main, runs / run, *flags)

    assert "--n (10 images) and --grid (32 images)" in line(*out, "--n", 10, "--grid", "8x4")
    assert "--grid (4 images) and --seeds (1 image)" in line(*out, "--seeds", 3, "--grid", "2x2")
    assert "--n (1 image) and --latents (3 images)" in line(*out, "--n", 1, "--latents", file)
    assert "--seed and --seeds" in line(*out, "--seed", 3, "--seeds", "3,4")
    assert "--seeds and --latents" in line(*out, "--latents", file, "--seeds", "3,4")
    assert "columns x rows" in line(*out, "--grid", "8")
    assert "columns x rows" in line(*out, "--grid", "0x4")
    assert "--grid is of one picture" in line(*folder, "--grid", "2x2")
    assert "--format is of single files" in line(*out, "--format", "jpg")
    assert "FILE.npz" in line(*out, "--save_latents", tmp_path / "a.pt")
    for text in ("3-1", "x", "1,,2", "1.5", "9" * 30, ""):
        assert "--seeds" in line(*out, "--seeds", text)
    assert "more than 100,000 seeds" in line(*out, "--seeds", "0-999999999999")
    assert "more than 100,000 seeds" in line(*out, "--seeds", ",".join(["0-99999"] * 2))
    # what nobody could open, or would wait for
    assert "PNG takes up to 32,768 a side" in line(*out, "--grid", "99999x1")
    assert "can be opened" in line(*out, "--n", 10**6)
    assert "fewer" in line(*out, "--n", 10**15)
    assert "px; WEBP" in line("--out", tmp_path / "x.webp", "--n", 1000, "--scale", 40)
    assert "1,000,000 files" in line(*folder, "--n", 10**6 + 1)
    styled = tmp_path / "w.npz"
    np.savez(styled, w=np.zeros((2, 8)))
    assert "a label no longer changes" in line(*out, "--latents", styled, "--class", 3, run="styled")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz", "w.npz"]
