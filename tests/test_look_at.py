"""tools.look_at: what is said of a set of images, and the command to start with."""

import io
import math
import re
import shlex
import shutil
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from images import cache, decoding, survey
from images.archives import open_files
from images.decoding import BadImage, Member
from images.survey import (
    ImageFacts,
    Survey,
    facts_of,
    look_closer,
    near_pairs,
    read_facts,
    spread_over,
)
from modelling.layers import image_shape
from modelling.sizes import image_levels
from modelling.stylegan2 import DOUBLINGS
from settings import PRESETS
from settings.command_line import parse_config
from settings.presets import Preset
from tools import look_at

NARROW = {"g_kwargs": {"width": 4}, "d_kwargs": {"width": 4}}
TINY = Preset(None, {"model": "dcgan", "batch_size": 12, "n_steps": 300, **NARROW}, "")


@pytest.fixture(autouse=True)
def presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes that are advised, small ones."""
    for name in (look_at.PRESET_OF_LITTLE, look_at.PRESET):
        monkeypatch.setitem(PRESETS, name, TINY)


def smooth(seed: int, height: int = 64, width: int = 64) -> Image.Image:
    """A picture of a few random blots."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write(folder: Path, pictures: dict[str, Image.Image], **how: object) -> Path:
    for name, picture in pictures.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file, **how)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes in two splits, with copies, a near copy, and what cannot be read."""
    pictures = {f"train/cat/{i}.png": smooth(i, 60, 80) for i in range(6)}
    pictures |= {f"train/dog/{i}.png": smooth(10 + i, 80, 60) for i in range(3)}
    pictures |= {f"test/cat/{i}.png": smooth(20 + i, 80, 60) for i in range(2)}
    folder = write(tmp_path / "my photos", pictures)
    smooth(0, 60, 80).resize((400, 300)).save(folder / "train" / "cat" / "large.jpg", quality=60)
    shutil.copy(folder / "train" / "dog" / "0.png", folder / "train" / "dog" / "again.png")
    shutil.copy(folder / "train" / "dog" / "0.png", folder / "test" / "dog.png")
    (folder / "test" / "dog").mkdir()
    (folder / "test" / "dog.png").rename(folder / "test" / "dog" / "same.png")
    (folder / "train" / "cat" / "empty.jpg").write_bytes(b"")
    (folder / "train" / "cat" / "page.jpg").write_bytes(b"<html>over quota</html>")
    data = (folder / "train" / "cat" / "1.png").read_bytes()
    (folder / "train" / "cat" / "half.png").write_bytes(data[: len(data) // 2])
    return folder


def packed(folder: Path, kind: str) -> Path:
    """The folder as it is, or in an archive."""
    if kind == "folder":
        return folder
    out = folder.with_suffix(f".{kind}")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(folder))
    else:
        with tarfile.open(out, "w:gz") as archive:
            for file in files:
                archive.add(file, file.relative_to(folder))
    return out


def looked(capsys: pytest.CaptureFixture[str], *argv: object) -> list[str]:
    """The lines of a command that succeeds."""
    assert look_at.main([str(word) for word in argv]) == 0
    return capsys.readouterr().out.splitlines()


# -- headers -------------------------------------------------------------------------------------------------------


def bytes_of(picture: Image.Image, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


def turned(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = number
    return exif


LYING = Image.new("RGB", (50, 30))
ARRAY = io.BytesIO()
np.save(ARRAY, np.zeros((7, 9, 5), np.uint16))
HEADERS = {
    "jpeg": (bytes_of(LYING, "JPEG"), (30, 50, "RGB", 8, False)),
    "turned": (bytes_of(LYING, "JPEG", exif=turned(6)), (50, 30, "RGB", 8, True)),
    "upside down": (bytes_of(LYING, "JPEG", exif=turned(3)), (30, 50, "RGB", 8, True)),
    "upright": (bytes_of(LYING, "JPEG", exif=turned(1)), (30, 50, "RGB", 8, False)),
    "long profile": (bytes_of(LYING, "JPEG", icc_profile=bytes(200_000)), (30, 50, "RGB", 8, False)),
    "grey": (bytes_of(LYING.convert("L"), "PNG"), (30, 50, "L", 8, False)),
    "alpha": (bytes_of(LYING.convert("RGBA"), "PNG"), (30, 50, "RGBA", 8, False)),
    "palette": (bytes_of(LYING.convert("P"), "GIF"), (30, 50, "P", 8, False)),
    "one bit": (bytes_of(LYING.convert("1"), "PNG"), (30, 50, "1", 1, False)),
    "16 bits": (bytes_of(Image.fromarray(np.zeros((30, 50), np.uint16)), "PNG"), (30, 50, "I;16", 16, False)),
    "tiff": (
        bytes_of(Image.fromarray(np.zeros((300, 500), np.uint16)), "TIFF"),
        (300, 500, "I;16", 16, False),
    ),
    "float": (bytes_of(Image.fromarray(np.zeros((30, 50), np.float32)), "TIFF"), (30, 50, "F", 32, False)),
    "webp": (bytes_of(smooth(0, 300, 500), "WEBP", lossless=True), (300, 500, "RGB", 8, False)),
    "bmp": (bytes_of(LYING, "BMP"), (30, 50, "RGB", 8, False)),
    "ppm": (bytes_of(LYING, "PPM"), (30, 50, "RGB", 8, False)),
    "array": (ARRAY.getvalue(), (7, 9, "array of 5", 16, False)),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_say_what_was_written(kind: str, tmp_path: Path) -> None:
    """Of a file that is at hand, and of one of which no more is read than is needed."""
    data, expected = HEADERS[kind]
    file = tmp_path / "a.png"
    file.write_bytes(data)
    for given in (data, file):
        header = facts_of(Member("a.png", given))
        assert isinstance(header, ImageFacts), header
        assert (header.height, header.width, header.mode, header.bits, header.turned) == expected
        assert header.n_bytes == len(data)


def test_of_a_large_picture_the_beginning_alone_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8))
    write(tmp_path, {"a.png": noise, "b.jpg": noise})
    monkeypatch.setattr(survey, "read_member", lambda member: pytest.fail("read whole"))
    for name in ("a.png", "b.jpg"):
        assert (tmp_path / name).stat().st_size > survey.HEAD_BYTES
        header = facts_of(Member(name, tmp_path / name))
        assert (header.height, header.width) == (400, 500)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<!doctype html>", "a web page saved as an image"),
        (b"\xff\xd8\xff\xe0 no more", "damaged: Truncated"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "damaged: "),
        (bytes_of(LYING, "JPEG")[:100], "damaged"),
    ],
)
def test_what_is_no_image_is_given_with_its_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    for given in (content, file):
        found = facts_of(Member("a.jpg", given))
        assert isinstance(found, BadImage) and re.match(reason, str(found))
    missing = facts_of(Member("b.jpg", tmp_path / "b.jpg"))
    assert isinstance(missing, BadImage)


def test_many_files_are_read_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = {f"{i:03d}.png": Image.new("L", (8 + i % 3, 8), i % 7 * 30) for i in range(200)}
    files = open_files(write(tmp_path, pictures))
    alone = read_facts(files)
    monkeypatch.setattr(survey, "FEW_CHUNKS", 2)
    monkeypatch.setattr(decoding, "n_cores", lambda: 2)
    pools: list[int] = []
    pool = decoding.worker_pool
    monkeypatch.setattr(decoding, "worker_pool", lambda workers: pools.append(workers) or pool(workers))
    together = read_facts(files)
    assert (
        pools == [2, 2] and together.headers == alone.headers and list(together.headers) == sorted(pictures)
    )
    # pictures of one grey and width have the same bytes: 21 kinds of 200 files
    assert together.copies == alone.copies and sum(map(len, alone.copies)) == 200 and len(alone.copies) == 21
    assert Counter(h.width for h in alone.headers.values()) == {8: 67, 9: 67, 10: 66}


# -- duplicates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_a_folder_and_its_archives_are_the_same_set(photos: Path, kind: str) -> None:
    files = open_files(packed(photos, kind))
    found = read_facts(files)
    assert dict(found.problems) == {
        "train/cat/empty.jpg": "empty file",
        "train/cat/page.jpg": "a web page saved as an image",
    }
    assert found.copies == [["test/dog/same.png", "train/dog/0.png", "train/dog/again.png"]]
    look_closer(found, files, list(found.headers), (48, 48, 3))
    assert found.problems[-1][0] == "train/cat/half.png" and "truncated" in found.problems[-1][1]
    assert found.alike == [("train/cat/0.png", "train/cat/large.jpg")]
    assert "train/cat/half.png" not in found.headers and len(found.sampled) == len(found.headers) == 14
    assert found.thumbnails.shape == (14, 48, 48, 3) and found.n_hashed >= 14


def test_only_files_as_long_as_another_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {f"{i}.bmp": Image.new("L", (8, 8 + i)) for i in range(5)})
    write(tmp_path, {"5.bmp": Image.new("L", (8, 12)), "6.bmp": Image.new("L", (8, 12), 9)})
    hashed: list[str] = []
    digests = survey.digests_of
    monkeypatch.setattr(
        survey, "digests_of", lambda members: hashed.extend(m.name for m in members) or digests(members)
    )
    found = read_facts(open_files(tmp_path))
    assert hashed == ["4.bmp", "5.bmp", "6.bmp"] and found.copies == [["4.bmp", "5.bmp"]]
    assert found.n_hashed == 7
    monkeypatch.setattr(survey, "HASHED_BYTES", 2 * found.headers["4.bmp"].n_bytes)
    assert read_facts(open_files(tmp_path)).n_hashed == 6


def test_pictures_that_look_alike(tmp_path: Path) -> None:
    """Compressed, resized, a little lighter; not others, nor mirrored ones."""
    pictures = [smooth(i) for i in range(30)]
    changed = [
        Image.open(io.BytesIO(bytes_of(pictures[0], "JPEG", quality=30))),
        pictures[1].resize((32, 32), Image.Resampling.BOX).resize((64, 64)),
        pictures[2].point(lambda v: min(255, v + 5)),
        pictures[3].crop((1, 1, 64, 64)).resize((64, 64)),
        pictures[4].transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    ]
    x = np.stack([np.asarray(picture) for picture in pictures + changed])
    assert near_pairs(x) == [(0, 30), (1, 31), (2, 32), (3, 33)]
    assert near_pairs(x[:1]) == near_pairs(x[:0]) == []


def test_flat_pictures_are_alike_where_they_are_equal() -> None:
    x = np.zeros((4, 16, 16, 3), np.uint8) + np.array([10, 10, 11, 10], np.uint8)[:, None, None, None]
    assert near_pairs(x) == [(0, 1), (0, 3)]


def test_near_pairs_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handwritten digits, in which some are alike; the nearest earlier one, and in pieces as at once."""
    with np.load(Path(survey.__file__).parent.parent / "assets" / "digits.npz") as file:
        small = file["images"][:300]
    x = np.repeat(small.repeat(2, 1).repeat(2, 2)[..., None], 3, axis=3)  # 16 px: what is compared
    grey = x[..., 0].reshape(300, -1).astype(np.float64)
    expected = []
    for j in range(300):
        found = []
        for i in range(j):
            apart = math.sqrt(((grey[i] - grey[j]) ** 2).mean())
            if apart <= survey.ALIKE * min(grey[i].std(), grey[j].std()):
                found.append((apart, i))
        if found:
            expected.append((min(found)[1], j))
    assert len(expected) < 10
    assert near_pairs(x) == expected
    monkeypatch.setattr(survey, "COMPARED", 7)
    assert near_pairs(x) == expected
    monkeypatch.setattr(survey, "ALIKE", 0.5)
    assert len(near_pairs(x)) > 100


def test_evenly() -> None:
    assert spread_over("abcdefgh", 4) == ["a", "c", "e", "g"]
    assert spread_over("abc", 4) == ["a", "b", "c"]


# -- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "device", "bears", "start"),
    [
        ([(28, 28)] * 4, "cpu", 32, 32),  # a seventh larger
        ([(20, 20)] * 4, "cpu", 32, 32),  # nothing smaller
        ([(112, 112)] * 4, "cpu", 128, 64),
        ([(300, 300)] * 4, "cuda", 256, 256),
        ([(1100, 1100)] * 4, "cuda", 1024, 256),
        ([(600, 600)] * 3 + [(40, 40)], "cuda", 512, 256),  # one of four is enlarged
        ([(600, 600)] * 2 + [(40, 40)] * 2, "cpu", 32, 32),
        ([(500, 520)] * 4, "cpu", 512, 64),  # nearly square
        ([(600, 400)] * 2 + [(400, 600)] * 2, "cpu", 256, 64),  # both ways up
        ([(1000, 750)] * 4, "cpu", (1024, 768), (64, 48)),  # 4:3
        ([(218, 178)] * 4, "cpu", (160, 128), (80, 64)),
        ([(1080, 1920)] * 4, "cuda", (320, 576), (160, 288)),
        ([(2000, 500)] * 4, "cpu", (768, 256), (96, 32)),
    ],
)
def test_the_size_that_pictures_bear_and_the_one_to_start_with(
    shapes: list, device: str, bears: object, start: object
) -> None:
    assert look_at.sizes_for(shapes, device) == (bears, start)


@pytest.mark.parametrize(
    "aspect", [0.3, 0.5, 9 / 16, 0.6, 2 / 3, 0.75, 0.8, 1.2, 1.25, 1.4, 1.5, 16 / 9, 2.0, 3.5]
)
def test_rectangles_are_sizes_that_the_network_makes(aspect: float) -> None:
    sizes = look_at.rectangles(aspect)
    assert len(sizes) >= 3
    for size in sizes:
        height, width = image_shape(size)
        assert (
            image_levels("stylegan2", size, DOUBLINGS)[-1] == (height, width) and max(height, width) <= 1024
        )
        if 0.5 <= aspect <= 2:
            assert height / width == pytest.approx(aspect, rel=0.06)


# -- the command ---------------------------------------------------------------------------------------------------


def test_what_is_said_of_a_set(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = looked(capsys, photos, "--no_timing")
    assert lines[0] == f"{photos}: 14 images, {lines[0].split(', ')[1]}"
    assert "splits: train 11, test 3" in lines
    assert "2 classes: cat 9, dog 5; the largest has 1.8 times the smallest" in lines
    assert "sizes: smallest 60 high, 80 wide; median 80 high, 60 wide; largest 300 high, 400 wide" in lines
    assert "shapes: 50% lying, 50% upright" in lines
    assert "colours: RGB of 8 bits 14" in lines
    at = lines.index("cannot be read, and left out: 3 files")
    assert lines[at + 1] == "  train/cat/empty.jpg: empty file"
    assert lines[at + 2] == "  train/cat/page.jpg: a web page saved as an image"
    assert lines[at + 3].startswith("  train/cat/half.png: damaged: ")
    assert lines[at + 4] == (
        "same bytes: 2 copies: train/dog/0.png = test/dog/same.png, train/dog/again.png = test/dog/same.png; "
        "1 pictures stand in more than one split: scores against these flatter"
    )
    assert lines[at + 5] == "look alike: 1: train/cat/large.jpg ~ train/cat/0.png"
    assert "  --conditional to draw by class" in lines
    assert any(line.startswith("  --flip if a mirrored picture") for line in lines)


def test_the_command_is_one(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its flags are read by the parser of the scripts."""
    lines = looked(capsys, photos, "--no_timing")
    python, script, *flags = shlex.split(lines[lines.index("start with") + 1])
    assert (python, script) == ("python", "gan_folder.py")
    config = parse_config("gan_folder", ("celeba",), {}, flags).config()
    assert (config.data, config.log_name, config.img_size) == (str(photos), "my_photos", 64)
    assert (config.model, config.batch_size) == ("dcgan", 8)  # of 11 for training
    light = look_at.Advice({**look_at.LIGHT, "img_size": 64}).command("a.zip")
    config = parse_config("gan_folder", ("celeba",), {}, shlex.split(light)[2:]).config()
    assert {name: getattr(config, name) for name in look_at.LIGHT} == look_at.LIGHT


@pytest.mark.parametrize(
    ("n_train", "preset"),
    [(100, look_at.PRESET_OF_LITTLE), (5000, look_at.PRESET_OF_LITTLE), (5001, look_at.PRESET)],
)
def test_little_data_have_a_recipe_of_their_own(n_train: int, preset: str) -> None:
    found = Survey("photos", {"a.png": ImageFacts(100, 100, "RGB", 8, False, 9)})
    _, (advice, light) = look_at.advise(found, n_train, "cpu")
    assert (advice.preset, light.preset) == (preset, None)


@pytest.mark.parametrize(
    ("n_train", "own", "batch"),
    [
        (20, "auto", 20),
        (22, "auto", 20),
        (100, "auto", None),
        (11, 12, 8),
        (12, 12, None),
        (3, 12, 2),
        (1, 12, 1),
    ],
)
def test_the_batch_fits_the_set(n_train: int, own: object, batch: int | None, monkeypatch) -> None:
    """auto's is 32 at 32 px: of fours, of pairs below, or none where the recipe's fits."""
    tiny = Preset(None, TINY.settings | {"batch_size": own}, "")
    monkeypatch.setitem(PRESETS, look_at.PRESET_OF_LITTLE, tiny)
    found = Survey("photos", {"a.png": ImageFacts(32, 32, "RGB", 8, False, 9)})
    _, (advice, light) = look_at.advise(found, n_train, "cpu")
    assert advice.settings.get("batch_size") == batch
    assert light.settings["batch_size"] == (64 if n_train > 64 else n_train - n_train % 4 or batch)


def test_presets_mirror_nothing_here(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mirrors = Preset(None, TINY.settings | {"flip": True}, "")
    monkeypatch.setitem(PRESETS, look_at.PRESET_OF_LITTLE, mirrors)
    lines = looked(capsys, photos, "--no_timing")
    assert any(line.startswith("  --flip if a mirrored picture") for line in lines)
    assert "--no-flip" not in "".join(lines)


def test_the_time_is_measured(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Where it is long, a lighter command follows; nothing else is printed, nor left behind."""
    before = sorted(tmp_path.rglob("*"))
    lines = looked(capsys, photos, "--device", "cpu")
    (line,) = [line for line in lines if "on this machine" in line]
    assert line.endswith("a few steps of 8 pictures")
    monkeypatch.setattr(look_at, "SLOW_S", 0.0)
    lines = looked(capsys, photos, "--device", "cpu")
    (line,) = [line for line in lines if "on this machine" in line]
    assert re.match(
        r"  about \d+ (s|min) on this machine \(cpu\), an estimate from a few steps of 4 pictures$", line
    )
    assert "or, lighter" not in lines and not any("dry run" in line for line in lines)
    monkeypatch.setattr(look_at, "TOO_LONG_S", 0.0)
    monkeypatch.setattr(look_at, "LIGHT", look_at.LIGHT | {"n_steps": 10, "batch_size": 4})
    lines = looked(capsys, photos, "--device", "cpu")
    assert len([line for line in lines if "on this machine" in line]) == 2
    assert "--model dcgan --batch_size 4 --lr 0.0002" in lines[lines.index("or, lighter") + 1]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_time_that_cannot_be_measured_is_a_line(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Preset(None, TINY.settings | {"g_kwargs": {"no_such": 1}}, "")
    monkeypatch.setitem(PRESETS, look_at.PRESET_OF_LITTLE, broken)
    lines = looked(capsys, photos)
    assert any("its time could not be measured: " in line and "no_such" in line for line in lines)


def test_the_sheet_has_a_row_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colours = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}
    pictures = {
        f"{name}/{i:02d}.png": Image.new("RGB", (40, 40), colours[name])
        for name, n in (("blue", 20), ("green", 3), ("red", 9))
        for i in range(n)
    }
    folder, out = write(tmp_path / "flat", pictures), tmp_path / "new" / "sheet.png"
    lines = looked(capsys, folder, "--no_timing", "--out", out)
    assert f"wrote 19 pictures to {out}" in lines  # 8, 3, 8
    sheet = np.asarray(Image.open(out))
    for colour, n in (((0, 0, 250), 8), ((0, 250, 0), 3), ((250, 0, 0), 8)):
        rows, columns = np.nonzero((sheet == colour).all(axis=2))
        assert len(rows) == n * look_at.TILE**2 and rows.max() - rows.min() == look_at.TILE - 1


def test_a_sheet_without_classes_is_drawn_from_all_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And of what is decoded it is said of how many that is."""
    pictures = {f"{i:03d}.png": Image.new("L", (40, 60), i) for i in range(250)}
    monkeypatch.setattr(survey, "MAX_SAMPLED", 10)
    out = tmp_path / "sheet.png"
    lines = looked(capsys, write(tmp_path / "grey", pictures), "--no_timing", "--out", out)
    assert f"wrote 96 pictures to {out}" in lines
    assert any(re.match(r"look alike \(of \d+ that were decoded\): 0", line) for line in lines)
    greys = set(np.asarray(Image.open(out).convert("L"))[20:-60].flatten().tolist())
    assert len(greys & {i * 250 // 96 for i in range(96)}) == 96


def test_progress_is_shown(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache.Progress, "every_s", -1.0)
    assert look_at.main([str(photos), "--no_timing"]) == 0
    said = capsys.readouterr().err
    assert f"looking at {photos}: 16 of 17 images" in said and f"decoding some of {photos}: " in said


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["", "--no_timing"], "is empty"),
        ([" "], "DATA is empty"),
        (["{}", "--out", ""], "is empty"),
        (["{}", "--out", "sheet.gif"], "give NAME.png, NAME.jpg or NAME.webp"),
        (["{}/nowhere"], "no such file or folder"),
        (["{}/bad"], "holds no image that can be read (the first: a.png: empty file)"),
        (["{}/none"], "holds no images"),
        (["{}", "--no_timing", "--out", "{}/bad/a.png/sheet.png"], "sheet.png: "),
    ],
)
def test_refused(argv: list[str], words: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bad", "none"):
        (photos / name).mkdir()
    (photos / "bad" / "a.png").write_bytes(b"")
    capsys.readouterr()
    code = look_at.main([word.format(photos) for word in argv])
    assert code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and words in last


def test_names_from_files_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a", {"good.png": smooth(0), "other.png": smooth(1)})
    (tmp_path / "a" / "bad\x1b[31m.png").write_bytes(b"")
    text = "\n".join(looked(capsys, tmp_path / "a", "--no_timing"))
    assert "\x1b" not in text and "bad\\x1b[31m.png: empty file" in text


def test_a_set_of_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = looked(
        capsys, write(tmp_path, {"a.png": smooth(0, 70, 70)}), "--no_timing", "--out", tmp_path / "s.png"
    )
    assert "sizes: all 70 x 70 px" in lines and "splits: train 1" in lines


# -- channels and values of their own --------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_first", [True, False])
def test_sets_of_many_channels(
    channels_first: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for i in range(12):
        pixels = rng.integers(0, 4000, (24, 20, 6), np.uint16)
        np.save(tmp_path / "set" / f"{i}.npy", np.moveaxis(pixels, -1, 0) if channels_first else pixels)
    timed = []
    monkeypatch.setattr(look_at, "measured", lambda _, channels, __: timed.append(channels) or (1.0, 4))
    assert look_at.main([str(tmp_path / "set"), "--out", str(tmp_path / "sheet.png"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "all 24 high, 20 wide" in said and "array of 6 of 16 bits 12" in said
    assert "0 to 4,095 become 0 to 255" in said and "cannot be read: none" in said
    assert timed == [6] and Image.open(tmp_path / "sheet.png").mode == "RGB"


def test_a_set_of_which_nothing_is_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "set", {f"{i}.png": smooth(i) for i in range(3)})
    for file in (tmp_path / "set").iterdir():
        file.write_bytes(file.read_bytes()[:200])
    assert look_at.main([str(tmp_path / "set"), "--no_timing"]) == 2
    assert "no image that can be decoded, of 3 that were tried (the first: 0.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "width", "said"),
    [
        (["trainA/a.png", "trainB/a.png"], 64, "folders A and B may be pairs"),
        (["a.png", "b.png"], 128, "pictures about twice as wide as high may be pairs"),
        (["a.png", "b.png"], 96, None),
        (["A/a.png", "C/a.png"], 64, None),
    ],
)
def test_what_may_be_pairs_is_said(
    names: list[str], width: int, said: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "x", {name: smooth(i, 64, width) for i, name in enumerate(names)})
    assert look_at.main([str(tmp_path / "x"), "--no_timing"]) == 0
    out = capsys.readouterr().out
    assert ("may be pairs" in out) == (said is not None)
    if said is not None:
        assert (
            f"{said}, for pix2pix" in out and f"python gan_pairs.py --data {tmp_path / 'x'} --img_size" in out
        )
