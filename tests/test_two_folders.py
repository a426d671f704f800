"""tools.evaluate --reals A --fakes B: two folders of images, held against a computation by hand."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from errors import UserError
from generation.comparison import compare
from metrics.classifiers import DigitCNN
from tools import evaluate

N_REAL, N_FAKE = 400, 300


def picture_folder(folder: Path, n: int, seed: int, *, high: int = 256, mode: str = "L") -> Path:
    """n pictures of uniform noise below `high`, 16 x 16."""
    folder.mkdir()
    draws = np.random.default_rng(seed)
    shape = (16, 16) if mode == "L" else (16, 16, 3)
    for i in range(n):
        Image.fromarray(draws.integers(0, high, shape, dtype=np.uint8)).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Reals, and darker fakes."""
    place = tmp_path_factory.mktemp("pictures")
    return picture_folder(place / "reals", N_REAL, 0), picture_folder(place / "fakes", N_FAKE, 1, high=200)


def flags(weights: Path, tmp_path: Path, *more: object) -> list[str]:
    given = (
        "--extractor",
        "digits-cnn",
        "--metric_weights",
        weights,
        "--device",
        "cpu",
        "--cache_dir",
        tmp_path,
    )
    return [str(word) for word in (*given, *more)]


def moments(folder: Path, weights: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of what the bare network makes of the files, as Pillow reads them."""
    network = DigitCNN()
    network.load_state_dict(load_file(weights))
    pixels = np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())])
    with torch.inference_mode():
        features = network.eval()(torch.from_numpy(pixels)[:, None])[0].double().numpy()
    return features.mean(axis=0), np.cov(features, rowvar=False)


def scores_in(text: str) -> dict[str, float]:
    """The scores of a printed table that are one number."""
    rows = [
        line.split() for line in text.splitlines() if line.startswith(("fid", "kid", "precision", "recall"))
    ]
    return {row[0]: float(row[1]) for row in rows}


def test_two_folders_by_hand(
    folders: tuple[Path, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """|m1 - m2|^2 + tr(S1 + S2) - 2 sum of the roots of the eigenvalues of S1 S2, of all fakes and of as many reals as
    there are fakes, or of all."""
    reals, fakes = folders
    code = evaluate.main(
        ["--reals", str(reals), "--fakes", str(fakes), *flags(weights, tmp_path, "--n_real", N_REAL)]
    )
    said = capsys.readouterr()
    assert code == 0 and "300 images are below 10000" in said.err
    (mean_1, cov_1), (mean_2, cov_2) = (moments(folder, weights) for folder in folders)
    roots = np.sqrt(np.linalg.eigvals(cov_1 @ cov_2).real.clip(min=0)).sum()
    by_hand = ((mean_1 - mean_2) ** 2).sum() + np.trace(cov_1) + np.trace(cov_2) - 2 * roots
    found = scores_in(said.out)["fid[digits-cnn]"]
    assert (
        by_hand > 0.01 and abs(found - by_hand) < 6e-4
    )  # three decimals are printed, rounding noise of null spaces
    assert "300 fakes, 400 reals of reals, 16 x 16 x 1" in said.out
    assert not [*reals.rglob("scores.jsonl"), *fakes.rglob("scores.jsonl")]


def test_a_set_against_itself_and_by_flags(
    folders: tuple[Path, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reals, fakes = map(str, folders)
    assert (
        evaluate.main(
            ["--reals", reals, "--fakes", reals, *flags(weights, tmp_path, "--metrics", "fid", "pr")]
        )
        == 0
    )
    found = scores_in(capsys.readouterr().out)
    assert abs(found["fid[digits-cnn]"]) < 1e-3
    assert found["precision[digits-cnn]"] == found["recall[digits-cnn]"] == 1
    how = flags(weights, tmp_path, "--metrics", "fid", "--n", 50, "--n_real", 60, "--img_size", "20x12")
    assert evaluate.main(["--reals", reals, "--fakes", fakes, *how]) == 0
    assert "50 fakes, 60 reals of reals, 20 x 12 x 1" in capsys.readouterr().out


def test_copies_among_the_fakes_are_drawn_and_said(
    folders: tuple[Path, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the fakes are files of the reals, none of which are left out."""
    mixed = picture_folder(tmp_path / "mixed", 20, 4)
    for file in sorted(folders[0].iterdir())[-20:]:
        (mixed / f"copy-{file.name}").write_bytes(file.read_bytes())
    strip = tmp_path / "new" / "strip.png"
    how = flags(weights, tmp_path / "cache", "--metrics", "memorisation", "--neighbours", strip)
    assert evaluate.main(["--reals", str(folders[0]), "--fakes", str(mixed), *how]) == 0
    said = capsys.readouterr()
    share = float(re.search(r"duplicates\[digits-cnn\] +([\d.]+)%", said.out)[1])
    assert 50 <= share < 60 and f"{strip} shows them" in said.err and f"wrote {strip}" in said.out
    with Image.open(strip) as picture:
        assert picture.width > 16 * 64


def test_fakes_that_are_training_images_are_told(
    folders: tuple[Path, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where copies are sought the reference is all images, else as many as fakes."""
    same = ["--reals", folders[0], "--fakes", folders[0]]
    for metrics, n, words in (
        (["fid", "memorisation"], 10, "warning: 10 fakes are among the reference of 400 images"),
        (["fid"], 10, None),
        (["fid"], 210, "warning: 20 fakes are among the reference of 210 images"),
    ):
        how = flags(weights, tmp_path / "cache", "--n", n, "--metrics", *metrics)
        assert evaluate.main([*map(str, same), *how]) == 0
        said = capsys.readouterr().err
        assert said.count("among the reference") == (words is not None) and (words or "") in said
        assert "the generator repeats" not in said
    # what is refused is refused before anything else is said
    how = flags(weights, tmp_path / "cache", "--n_real", 2**63 - 1)
    assert evaluate.main([*map(str, same), *how]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_grey_stored_in_colour_is_grey(
    folders: tuple[Path, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As torchvision's save_image stores it, on either side."""
    for folder in ("grey", "colour"):
        (tmp_path / folder).mkdir()
    for file in sorted(folders[1].iterdir())[:20]:
        for folder, mode in (("grey", "L"), ("colour", "RGB")):
            Image.open(file).convert(mode).save(tmp_path / folder / file.name)
    found = []
    for pair in ((folders[0], tmp_path / "grey"), (folders[0], tmp_path / "colour")):
        how = flags(weights, tmp_path / "cache", "--metrics", "fid", "--n", 20)
        assert evaluate.main(["--reals", str(pair[0]), "--fakes", str(pair[1]), *how]) == 0
        said = capsys.readouterr()
        assert ("are grey, stored in colour; both sets are read in grey" in said.err) == (
            pair[1].name == "colour"
        )
        assert "16 x 16 x 1" in said.out
        found.append(scores_in(said.out))
    assert found[0] == found[1]


def test_a_set_of_grey_and_colour_is_in_colour(
    folders: tuple[Path, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the first file is, on either side."""
    mixed = picture_folder(tmp_path / "mixed", 20, 2, mode="RGB")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(mixed / "000.png")
    colour = picture_folder(tmp_path / "colour", 20, 3, mode="RGB")
    for pair in ((mixed, colour), (colour, mixed)):
        how = flags(weights, tmp_path / "cache", "--metrics", "fid")
        assert evaluate.main(["--reals", str(pair[0]), "--fakes", str(pair[1]), *how]) == 0
        said = capsys.readouterr()
        assert "16 x 16 x 3" in said.out and "are grey" not in said.err
    how = flags(weights, tmp_path / "cache", "--metrics", "fid")
    assert evaluate.main(["--reals", str(mixed), "--fakes", str(folders[1]), *how]) == 2
    assert "mixed is in colour, --fakes" in capsys.readouterr().err


def test_large_pictures_are_made_smaller_unless_a_size_is_asked_for(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "large").mkdir()
    for i in range(3):
        Image.fromarray(np.full((600, 2048), i, np.uint8)).save(tmp_path / "large" / f"{i}.png")
    given = ["--reals", str(tmp_path / "large"), "--fakes", str(tmp_path / "large")]
    how = flags(weights, tmp_path / "cache")
    assert evaluate.main([*given, *how]) == 0
    said = capsys.readouterr()
    assert (
        "300 x 1024 x 1" in said.out and "large is 600 x 2048: both sets are read at 300 x 1024" in said.err
    )
    assert "3 images are too few for kid, pr, dc: left out" in said.err and "fid[digits-cnn]" in said.out
    assert evaluate.main([*given, *how, "--img_size", "8x16"]) == 0
    said = capsys.readouterr()
    assert "8 x 16 x 1" in said.out and "both sets are read" not in said.err


def test_a_name_is_printed_without_what_a_terminal_obeys(
    folders: tuple[Path, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = [picture_folder(tmp_path / f"{name}\x1b[31m", 5, 3) for name in "ab"]
    how = flags(weights, tmp_path / "cache", "--metrics", "fid")
    assert evaluate.main(["--reals", str(odd[0]), "--fakes", str(odd[1]), *how]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and out.count("\\x1b[31m") == 2


def test_the_place_of_the_strip_is_tried_first(
    folders: tuple[Path, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is read before; and a strip that fails later costs no score."""
    given = ["--reals", str(folders[0]), "--fakes", str(folders[1])]
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for place in (tmp_path / "file" / "near.png", tmp_path / "folder.png"):
        how = flags(weights, tmp_path / "cache", "--metrics", "fid", "--neighbours", place)
        assert evaluate.main([*given, *how]) == 2
        said = capsys.readouterr()
        assert f"--neighbours {place} cannot be written" in said.err and said.err.count("\n") == 1
        with pytest.raises(UserError, match="neighbours .* cannot be written"):
            compare(*folders, "digits-cnn", neighbours=place, cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
    how = flags(weights, tmp_path / "cache", "--metrics", "fid", "--neighbours", tmp_path / "new" / "a.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("PIL.Image.Image.save", full)
        assert evaluate.main([*given, *how]) == 2
    said = capsys.readouterr()
    assert "fid[digits-cnn]" in said.out and "wrote" not in said.out and "No space left" in said.err
    assert not list((tmp_path / "new").iterdir())


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_two_folders_refuse(
    folders: tuple[Path, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2."""
    reals, fakes = folders
    one = picture_folder(tmp_path / "one", 1, 3)
    colour = picture_folder(tmp_path / "colour", 20, 2, mode="RGB")
    (tmp_path / "empty").mkdir()
    for given, words in (
        ([], "name a RUN, or two folders of images: --reals PATH --fakes PATH"),
        (["--fakes", fakes], "name a RUN, or two folders"),
        (["--reals", reals], "name the images to hold against them with --fakes PATH"),
        (
            ["runs/a", "--reals", reals, "--fakes", fakes],
            "--reals is for two folders of images, without a RUN",
        ),
        (["--reals", reals, "--fakes", one], "fid needs at least 2 reals and 2 fakes"),
        (["--reals", one, "--fakes", fakes], "fid needs at least 2 reals and 2 fakes"),
        (["--reals", reals, "--fakes", colour], "colour is in colour, --reals"),
        (["--reals", colour, "--fakes", fakes], "store both alike"),
        (["--reals", reals, "--fakes", tmp_path / "empty"], "empty holds no images"),
        (["--reals", tmp_path / "nowhere", "--fakes", fakes], "or folder; --reals takes a folder"),
        (
            ["--reals", reals, "--fakes", fakes, "--n", 301],
            f"--n 301: --fakes {fakes} has 300 images; choose 1 to 300",
        ),
        (["--reals", reals, "--fakes", fakes, "--n_real", 401], "401 reals are asked for, but"),
        (
            ["--reals", reals, "--fakes", fakes, "--n", 3, "--metrics", "pr"],
            "pr needs at least 4 reals and 4 fakes",
        ),
        (["runs/a", "--img_size", 8], "--img_size is for two folders of images, without a RUN"),
        (["--reals", reals, "--fakes", fakes, "--balanced"], "--balanced is for a run"),
        (["--reals", reals, "--fakes", fakes, "--split", "test"], "--split is for a run"),
        (["--reals", reals, "--fakes", fakes, "--img_size", "big"], "'big' is no size"),
    ):
        capsys.readouterr()
        assert evaluate.main([*map(str, given), *flags(weights, tmp_path / "cache")]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert said[-1].startswith("error: ") and words in said[-1], said
