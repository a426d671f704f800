"""The degradation study: what each series does to pictures, by hand; which rows there are; what is written where."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from generation.indexed import reference_index
from images.batches import ImageData, images_of
from images.sources import load_dataset
from metrics.classifiers import DigitCNN
from metrics.features import save_extractor
from ops.rng import generator
from studies import degradations
from studies.degradations import (
    BEGIN,
    END,
    SERIES,
    blurred,
    is_monotone,
    most_images,
    noisy,
    shuffled,
    some_classes,
    steps_of,
    stored,
    write_between,
)


@pytest.fixture(scope="module")
def data() -> ImageData:
    """All 1,797 digits at 32 px."""
    return load_dataset("digits", img_size=32, img_channels=1, split="all")


def source() -> torch.Generator:
    return generator(0, "test")


def test_blur_by_hand() -> None:
    """A white pixel becomes the Gaussian's samples, to rounding; what is even stays."""
    image = torch.zeros(1, 1, 31, 31, dtype=torch.uint8)
    image[..., 15, 15] = 255
    found = blurred(image, 1.5, source())[0, 0].numpy()
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    assert np.abs(found[10:21, 10:21] - 255 * np.outer(weights, weights)).max() <= 0.51
    even = torch.full((2, 3, 16, 16), 77, dtype=torch.uint8)
    assert torch.equal(blurred(even, 40.0, source()), even)


def test_noise_by_hand() -> None:
    grey = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)
    found = noisy(grey, 10, source()).double() - 128
    assert abs(float(found.mean())) < 0.2 and abs(float(found.std()) - 10) < 0.2
    assert torch.equal(noisy(grey, 0, source()), grey)
    ends = noisy(
        torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).repeat(1, 1, 40, 40), 50, source()
    )
    assert int(ends[0].min()) == 0 and 0.4 < float((ends[0] == 0).double().mean()) < 0.6
    assert int(ends[1].max()) == 255


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """(H, W, C) as a file of Pillow's holds it."""
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
        file := io.BytesIO(), "JPEG", quality=quality
    )
    return np.asarray(Image.open(file)).reshape(pixels.shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels: int) -> None:
    """Of the picture with 4 mirrored pixels around it, which are cut off again."""
    images = torch.randint(0, 256, (2, channels, 24, 16), generator=source(), dtype=torch.uint8)
    found = stored(images, 30, source())
    assert found.shape == images.shape
    for image, ours in zip(images, found, strict=True):
        wide = np.pad(image.permute(1, 2, 0).numpy(), ((4, 4), (4, 4), (0, 0)), mode="reflect")
        assert np.array_equal(ours.permute(1, 2, 0).numpy(), as_jpeg(wide, 30)[4:-4, 4:-4])


def test_jpeg_does_not_meet_the_blocks_of_a_files_own(data: ImageData) -> None:
    """What a file of quality 75 holds loses nothing by that quality again in the same blocks, but in those of `stored`,
    and the more the lower the quality."""
    images = images_of(data, slice(64))
    pixels = [as_jpeg(image.permute(1, 2, 0).numpy(), 75) for image in images]
    files = torch.stack([torch.from_numpy(p.copy()).permute(2, 0, 1) for p in pixels])

    def lost(quality: int) -> float:
        return float((stored(files, quality, source()).double() - files).square().mean())

    again = np.mean([(as_jpeg(p, 75) - p.astype(float)) ** 2 for p in pixels])
    assert again < 0.1 * lost(75) and lost(75) < lost(50) < lost(25) < lost(10) < lost(5)


def test_patches_are_moved_whole() -> None:
    """Each patch of a numbered image is found again once, in an order of each image's own; the rest stays."""
    image = torch.arange(3 * 10 * 9).remainder(256).to(torch.uint8).view(1, 3, 10, 9).repeat(40, 1, 1, 1)
    found = shuffled(image, 3, source())
    assert torch.equal(found[:, :, 9:], image[:, :, 9:])  # the tenth row

    def patches(images: Tensor) -> list[list[bytes]]:
        return [
            [x[:, i : i + 3, j : j + 3].numpy().tobytes() for i in (0, 3, 6) for j in (0, 3, 6)]
            for x in images
        ]

    before, after = patches(image), patches(found)
    assert all(sorted(a) == sorted(b) for a, b in zip(before, after, strict=True))
    assert len({tuple(order) for order in after}) > 30
    assert torch.equal(shuffled(image, 1, source()), image)


def test_levels_grow_worse(data: ImageData) -> None:
    """The mean change of a pixel rises along each series, at each size alike for the blur."""
    images = images_of(data, torch.arange(100))
    for name in ("blur", "noise", "JPEG"):
        row = SERIES[name]
        change = [
            (row.degrade(images, level, source()).int() - images).abs().double().mean()
            for level in row.levels
        ]
        assert all(a < b for a, b in zip(change, change[1:], strict=False)), name
    assert SERIES["patches"].levels == (2, 4, 8)
    small = load_dataset("digits", img_size=16, img_channels=1, split="all")
    labels = [step.label for step in steps_of(small, 100) if step.series == "blur"]
    assert labels == ["sigma 0.25 px", "sigma 0.5 px", "sigma 1 px", "sigma 2 px"]


def test_rows_hold_other_pictures_than_the_reference(data: ImageData) -> None:
    """Of all rows; those of fewer classes hold these alone; each chunk is a function of its start."""
    n = 300
    assert n <= most_images(data) < len(data) // 2
    reference = {image.numpy().tobytes() for image in images_of(data, reference_index(data, n))}
    steps = steps_of(data, n)
    assert [step.series for step in steps].count("classes") == 4 and len(steps) == 1 + 3 * 4 + 3 + 4 + 1
    assert len({step.images.kind for step in steps}) == len(steps)
    for step in steps:
        assert step.images.n == n
        images = torch.cat([step.images.chunk(0, 256), step.images.chunk(256, n)])
        assert images.shape == (n, 1, 32, 32) and images.dtype == torch.uint8
        assert torch.equal(images[256:], step.images.chunk(256, n))
    floor = [image.numpy().tobytes() for image in steps[0].images.chunk(0, n)]
    assert len(reference.intersection(floor)) <= 2  # the set itself holds an image twice
    few = some_classes(data, n, 3)
    by_pixels = {image.tobytes(): int(y) for image, y in zip(data.images, data.labels, strict=True)}
    classes = [by_pixels[image.permute(1, 2, 0).numpy().tobytes()] for image in few.chunk(0, n)]
    assert set(classes) == {0, 1, 2}
    with pytest.raises(ValueError, match="3 classes of digits have"):
        some_classes(data, 900, 3)
    assert not degradations.has_classes(data.without_labels())
    assert most_images(replace(data, labels=None)) == len(data) // 2


def test_monotone_by_hand() -> None:
    assert is_monotone([1, 1, 2], "low") and not is_monotone([1, 3, 2], "low")
    assert is_monotone([0.9, 0.5, 0.5], "high") and not is_monotone([0.5, 0.5], "high")
    assert not is_monotone([0.5, 0.6, 0.1], "high")


def test_the_rest_of_the_file_stays(tmp_path: Path) -> None:
    out = tmp_path / "m.md"
    out.write_text(f"# Mine\n\n{BEGIN}\nold\n{END}\n\nthe end\n")
    write_between(["new", ""], out)
    assert out.read_text() == f"# Mine\n\n{BEGIN}\n\nnew\n\n{END}\n\nthe end\n"
    write_between(["newer", ""], out)
    assert out.read_text() == f"# Mine\n\n{BEGIN}\n\nnewer\n\n{END}\n\nthe end\n"
    out.write_text("no marks")
    with pytest.raises(ValueError, match="has no lines"):
        write_between([], out)
    assert out.read_text() == "no marks"


def test_what_is_missing_is_said_before_scoring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report without marks, and the second data set."""
    monkeypatch.setattr(degradations, "study", lambda *_: pytest.fail("scored"))
    out = tmp_path / "m.md"
    out.write_text("no marks")
    words = ["--data", "digits", "--n", "40", "--device", "cpu", "--out", str(out)]
    words += [
        "--extractor",
        "digits-cnn",
        "--runs_dir",
        str(tmp_path / "runs"),
        "--cache_dir",
        str(tmp_path / "cache"),
    ]
    assert degradations.main(words) == 2 and "has no lines" in capsys.readouterr().err
    out.unlink()
    more = ["--data", "mine", str(tmp_path / "nowhere")]
    assert degradations.main([*words, *more]) == 2 and "nowhere" in capsys.readouterr().err


def test_the_study_scores_once_and_writes_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    save_extractor(tmp_path / "reader.safetensors", DigitCNN(), {"extractor": "digits-cnn"})
    monkeypatch.setattr(degradations, "SCORED", ("fid", "pr"))
    words = [
        "--data", "digits", "--extractor", "digits-cnn", "--metric_weights", tmp_path / "reader.safetensors", "--n", 40,
        "--cache_dir", tmp_path / "cache", "--runs_dir", tmp_path / "runs", "--out", tmp_path / "m.md",
        "--device", "cpu",
    ]  # fmt: skip
    words = [str(word) for word in words]
    assert degradations.main([*words, "--picture"]) == 0
    text = (tmp_path / "m.md").read_text()
    kept = (tmp_path / "runs" / "digits.jsonl").read_text().splitlines()
    assert len(kept) == 21 and "| blur | sigma 4 px | " in text and "| classes | 7 of 10 missing | " in text
    ceiling = next(line for line in text.splitlines() if line.startswith("| noise alone | uniform | "))
    floor = next(line for line in text.splitlines() if line.startswith("| none | the other half as it is | "))
    assert float(ceiling.split(" | ")[2]) > 3 * float(floor.split(" | ")[2])
    assert "| classes | yes |" in text
    with Image.open(tmp_path / "images" / "degradations_digits.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 16)) > 8
    # a row that is lost is scored again, and it alone
    (tmp_path / "runs" / "digits.jsonl").write_text("\n".join([*kept[:5], *kept[6:]]) + "\n{half\n")
    (tmp_path / "m.md").unlink()
    assert degradations.main(words) == 0
    assert (tmp_path / "m.md").read_text() == text.replace(text[text.index("![") : text.index(END)], "")
    again = (tmp_path / "runs" / "digits.jsonl").read_text().splitlines()
    assert (
        len(again) == len(kept) + 1
        and json.loads(again[-1])["protocol"]["fakes"] == json.loads(kept[5])["protocol"]["fakes"]
    )


def test_what_the_study_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_extractor(tmp_path / "reader.safetensors", DigitCNN(), {"extractor": "digits-cnn"})
    words = [
        "--extractor",
        "digits-cnn",
        "--metric_weights",
        str(tmp_path / "reader.safetensors"),
        "--device",
        "cpu",
    ]
    words += [
        "--runs_dir",
        str(tmp_path / "runs"),
        "--cache_dir",
        str(tmp_path / "cache"),
        "--out",
        str(tmp_path / "m"),
    ]
    for given, said in (
        (["--data", "ring8"], "ring8 is of points"),
        (["--data", "mine"], "name its folder or archive too, or one of mnist"),
        (["--data", "mine", str(tmp_path / "nowhere")], "nowhere"),
        (["--data", "a/b", str(tmp_path)], "give a plain NAME"),
        (["--data", "a", "b", "c"], "give a plain NAME"),
        (["--data", "digits", "--n", "900"], "--n 900: digits has 1797 images, room for halves of"),
        ([], "--data"),
    ):
        capsys.readouterr()
        assert degradations.main([*given, *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("error: ") and said in lines[-1], lines
