"""Datasets from files of every kind, the cache, and batches as a function of the step."""

import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import disk
from errors import UserError
from images import archives, cache, decoding
from images import sources as data_module
from images.batches import DATA_DEVICES, Batches, ImageData, Shard
from images.decoding import BadImage, decode
from images.layout import parse_table, read_layout
from images.sources import DATASETS, load_dataset
from modelling import build_discriminator, build_generator

ROOT = Path(__file__).resolve().parent.parent
HTML = b"\n<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colour(value: int | tuple[int, ...], size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    """A PNG of one colour."""
    return encoded(Image.new(mode, size, value))


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """Files with their folders below a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """A tar, packed as its suffix says, in the order of the dict."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    """A zip in the order of the dict."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


WRITERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": write_folder,
    "a.zip": write_zip,
    "a.tar": write_tar,
    "a.tar.gz": write_tar,
}


def load(path: Path, tmp_path: Path, **changes: object) -> ImageData:
    """The images of a folder or archive at 8x8x3 through a cache of the test's own."""
    how = {"img_size": 8, "img_channels": 3, "cache_dir": tmp_path / "cache", "data": path}
    return load_dataset("celeba", **(how | changes))


def greys(n: int) -> dict[str, bytes]:
    """n images, the i-th of grey value i."""
    return {f"{i:03d}.png": colour((i, i, i)) for i in range(n)}


# ---------------------------------------------------------------------------- one image


def half_transparent(mode: str) -> bytes:
    """Left half opaque black, right half fully transparent black, in a mode with alpha."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (4, 0, 8, 8))
    if mode == "P":
        palette = Image.new("P", (8, 8), 0)
        palette.putpalette([0, 0, 0, 0, 0, 0])
        palette.paste(1, (4, 0, 8, 8))
        return encoded(palette, transparency=1)
    return encoded(image.convert(mode))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_composited_on_white(mode: str, channels: int) -> None:
    pixels = decode(half_transparent(mode), (8, 8, channels))
    assert pixels.shape == (8, 8, channels)
    assert (pixels[:, :4] == 0).all()
    assert (pixels[:, 4:] == 255).all()


def ramp(dtype: str, top: float) -> np.ndarray:
    """An 8x8 ramp from 0 to top."""
    return np.linspace(0, top, 64).reshape(8, 8).astype(dtype)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (ramp("uint16", 65535), "PNG"),
        (ramp("uint16", 65535), "TIFF"),
        (ramp("int32", 65535), "TIFF"),
        (ramp("float32", 1), "TIFF"),
        (ramp("float32", 255), "TIFF"),
        (ramp("float32", 9) * 1000 - 100, "TIFF"),
    ],
)
def test_deep_images_keep_their_greys(array: np.ndarray, kind: str) -> None:
    pixels = decode(encoded(Image.fromarray(array), kind), (8, 8, 1))
    expected = np.linspace(0, 255, 64).reshape(8, 8, 1)
    np.testing.assert_allclose(pixels, expected, atol=0.51)


def test_16_bit_darkness_is_not_stretched() -> None:
    pixels = decode(encoded(Image.fromarray(np.full((8, 8), 257 * 20, np.uint16))), (8, 8, 3))
    assert (pixels == 20).all()


@pytest.mark.parametrize("value", [7.0, 1e6, -3.0])
def test_float_image_of_one_value_is_no_division_by_zero(value: float) -> None:
    pixels = decode(encoded(Image.fromarray(np.full((8, 8), value, np.float32)), "TIFF"), (8, 8, 1))
    assert (pixels == (7 if value == 7 else 0)).all()


def test_float_image_with_nan_is_refused() -> None:
    with pytest.raises(BadImage, match="NaN"):
        decode(encoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"), (8, 8, 1))


def test_cmyk_palette_and_bilevel() -> None:
    cmyk = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    np.testing.assert_allclose(decode(cmyk, (8, 8, 3))[0, 0], (255, 0, 0), atol=3)
    palette = encoded(Image.new("RGB", (8, 8), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE))
    np.testing.assert_allclose(decode(palette, (8, 8, 3))[0, 0], (10, 200, 30), atol=1)
    assert (decode(colour(1, mode="1"), (8, 8, 1)) == 255).all()


def test_grey_and_colour_become_what_the_model_takes() -> None:
    assert (decode(colour(99, mode="L"), (8, 8, 3)) == 99).all()
    assert (decode(colour((255, 0, 0)), (8, 8, 1)) == 76).all()  # Rec. 601


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (16, 8), (255, 0, 0))
    image.paste((0, 0, 255), (8, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is the right side of the sensor's image
    pixels = decode(encoded(image, exif=exif), (16, 8, 3))
    assert (pixels[2, :, 0] > 250).all()
    assert (pixels[-2, :, 2] > 250).all()


def test_centre_crop_and_antialiasing() -> None:
    wide = Image.new("RGB", (32, 8), (0, 255, 0))
    wide.paste((255, 0, 0), (12, 0, 20, 8))
    assert (decode(encoded(wide), (8, 8, 3)) == (255, 0, 0)).all()
    board = np.indices((64, 64)).sum(0) % 2 * 255
    small = decode(encoded(Image.fromarray(board.astype(np.uint8))), (8, 8, 1))
    np.testing.assert_allclose(small, 127.5, atol=8)  # without antialiasing it is all black or all white


def striped(height: int, width: int) -> Image.Image:
    """Red is the row, green the column, so that a pixel says where it comes from."""
    row, column = np.indices((height, width))
    return Image.fromarray(np.stack([row, column, 0 * row], 2).astype(np.uint8))


@pytest.mark.parametrize(
    ("of", "to", "top", "left"),
    [
        ((24, 10), (10, 10), 7, 0),  # the square of a portrait
        ((24, 10), (20, 10), 2, 0),  # the whole width, 2 rows less above and below
        ((24, 10), (24, 6), 0, 2),
        ((10, 24), (10, 20), 0, 2),
        ((10, 24), (5, 12), 0, 0),
    ],
)
def test_rectangles_are_the_largest_centred_piece(
    of: tuple[int, int], to: tuple[int, int], top: int, left: int
) -> None:
    pixels = decode(encoded(striped(*of)), (*to, 3)).astype(int)
    scale = (of[0] - 2 * top) // to[0]
    row, column = np.indices(to) * scale + (scale - 1) / 2  # centres of the pixels in the piece
    np.testing.assert_allclose(pixels[..., 0], row + top, atol=0.5 if scale > 1 else 0)
    np.testing.assert_allclose(pixels[..., 1], column + left, atol=0.5 if scale > 1 else 0)


def test_rectangles_of_a_celeba_face_keep_its_whole_height() -> None:
    assert decoding.centre_box((178, 218), 64, 64) == (0, 20, 178, 198)
    assert decoding.centre_box((178, 218), 160, 128) == (2, 0, 176, 218)  # 218 * 128 / 160 = 174.4
    assert decoding.centre_box((178, 218), 128, 160) == (0, 38, 178, 180)


def test_turned_rectangle_is_as_sharp_as_an_upright_one() -> None:
    noise = Image.effect_noise((256, 1024), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 270 degrees for the viewer
    turned = encoded(noise.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=100, exif=exif)
    upright = decode(encoded(noise, "JPEG", quality=100), (128, 8, 3)).astype(int)
    np.testing.assert_allclose(decode(turned, (128, 8, 3)), upright, atol=2)


def test_image_of_the_right_size_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert (decode(encoded(Image.fromarray(pixels)), (8, 8, 3)) == pixels).all()


def test_bad_images_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")
    for data, reason in [
        (b"", "empty"),
        (HTML, "web page"),
        (b"nonsense", "no image format"),
        (jpeg[: len(jpeg) // 2], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "no image format"),
    ]:
        with pytest.raises(BadImage, match=reason):
            decode(data, (8, 8, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    chunk = decoding.decode_chunk([decoding.Member("bomb.jpg", jpeg)], (8, 8, 3))
    assert chunk.problems[0][0] == "bomb.jpg"
    assert "decompression bomb" in chunk.problems[0][1]


# ---------------------------------------------------------------------------- folders and archives


@pytest.mark.parametrize("kind", WRITERS)
def test_same_images_whatever_holds_them(kind: str, tmp_path: Path) -> None:
    names = ["train/dog/1.png", "train/cat/2.PNG", "test/cat/3.png", "train/cat/1.png", "test/dog/9.png"]
    files = {f"set/{name}": colour((i, 0, 0)) for i, name in enumerate(names)} | {"set/readme.txt": b"hello"}
    path = WRITERS[kind](tmp_path / kind, files)
    train, test, both = (load(path, tmp_path, split=s) for s in ("train", "test", "all"))
    assert train.label_names == ("cat", "dog")
    assert (
        train.fitting == "the largest centred piece of the aspect, resized by Lanczos where the size differs"
    )
    assert [f.removeprefix("set/") for f in train.files] == [
        "train/cat/1.png",
        "train/cat/2.PNG",
        "train/dog/1.png",
    ]
    assert train.images[:, 0, 0, 0].tolist() == [3, 1, 0]
    assert train.labels.tolist() == [0, 0, 1]
    assert test.images[:, 0, 0, 0].tolist() == [2, 4]
    assert test.labels.tolist() == [0, 1]
    assert both.images[:, 0, 0, 0].tolist() == [3, 1, 0, 2, 4]
    assert (train.n_labels, train.multi_hot, len(both)) == (2, False, 5)
    assert len({train.fingerprint, test.fingerprint, both.fingerprint}) == 3
    assert train.fingerprint == load(WRITERS["folder"](tmp_path / "again", files), tmp_path).fingerprint


def test_flat_folder_has_no_labels_and_no_test_split(tmp_path: Path) -> None:
    data = load(write_folder(tmp_path / "flat", greys(3)), tmp_path)
    assert (data.labels, data.n_labels, data.multi_hot) == (None, 0, False)
    with pytest.raises(UserError, match="no split 'test'; it has train, all"):
        load(tmp_path / "flat", tmp_path, split="test")


ATTRIBUTES = "3\nBald Smiling Young\n000001.jpg -1  1  1\n000002.jpg  1 -1 -1\n000003.jpg -1 -1  1\n"


@pytest.mark.parametrize("kind", WRITERS)
def test_celeba_like_archive_uses_the_folder_that_the_list_matches(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = {f"faces/img_align_celeba/{i:06d}.jpg": colour((i, i, i)) for i in (3, 1, 2)}
    files |= {
        "faces/img_align_celeba_178x218/000001.jpg": colour((9, 9, 9)),
        "faces/list_attr_celeba.txt": ATTRIBUTES.encode(),
    }
    data = load(WRITERS[kind](tmp_path / kind, files), tmp_path)
    assert data.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert data.labels.tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 1]]
    assert (data.label_names, data.multi_hot, data.n_labels) == (("Bald", "Smiling", "Young"), True, 3)
    assert "using the 3 images of img_align_celeba" in capsys.readouterr().err


def test_lists_as_published_and_as_csv_read_alike() -> None:
    csv = "image_id,Bald,Smiling,Young\n000001.jpg,-1,1,1\n000002.jpg,1,-1,-1\n000003.jpg,-1,-1,1\n"
    assert parse_table(csv) == parse_table(ATTRIBUTES)
    assert parse_table("000001.jpg 0\n000002.jpg 2\n")[1] == {"000001.jpg": [0], "000002.jpg": [2]}
    with pytest.raises(ValueError, match="differ"):
        parse_table("2\nA B\n1.jpg 1 1\n2.jpg 1\n")


def test_partition_list_gives_celebas_splits() -> None:
    names = [f"{i:06d}.jpg" for i in (1, 2, 3)]
    texts = {
        "list_attr_celeba.txt": ATTRIBUTES,
        "list_eval_partition.txt": "000001.jpg 2\n000002.jpg 0\n000003.jpg 1\n",
    }
    layout = read_layout(names, texts)
    assert layout.order == [1, 2, 0]
    assert layout.splits == {"train": (0, 1), "val": (1, 2), "test": (2, 3)}
    assert layout.labels.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]


def test_list_that_names_few_images_is_left_out() -> None:
    layout = read_layout(
        [f"x{i}.jpg" for i in range(9)] + ["000001.jpg"], {"list_attr_celeba.txt": ATTRIBUTES}
    )
    assert layout.labels is None
    assert len(layout.order) == 10
    assert any("names 1 of 10" in note for note in layout.notes)


def test_class_named_train_is_no_split() -> None:
    layout = read_layout(["car/1.png", "train/1.png"], {})
    assert layout.label_names == ("car", "train")
    assert layout.splits == {"train": (0, 2)}


def test_celeba_root_as_torchvision_lays_it_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "celeba").mkdir(parents=True)
    files = {f"img_align_celeba/{i:06d}.jpg": colour((i, i, i), (178, 218)) for i in (1, 2, 3)}
    write_zip(root / "celeba" / "img_align_celeba.zip", files)
    (root / "celeba" / "list_attr_celeba.txt").write_text(ATTRIBUTES)
    packed = load(None, tmp_path, data_root=root, img_size=32)
    write_folder(root / "celeba", files)
    unpacked = load(None, tmp_path, data_root=root, img_size=32)
    assert packed.fingerprint == unpacked.fingerprint
    assert packed.images.shape == (3, 32, 32, 3)
    assert packed.n_labels == 3


# ---------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "name", ["../out.png", "/etc/out.png", "a/../../out.png", "C:/out.png", "..\\out.png"]
)
@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz"])
def test_members_that_point_outside_are_refused(name: str, kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / kind, greys(3) | {name: colour(0)})
    with pytest.raises(UserError, match="points outside the archive"):
        load(path, tmp_path)
    assert not list((tmp_path / "cache").glob("*.npy"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("link.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(UserError, match="link or device"):
        load(tmp_path / "a.tar", tmp_path)


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("link.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="is a link"):
        load(tmp_path / "a.zip", tmp_path)


@pytest.mark.parametrize("kind", WRITERS)
def test_images_over_the_cap_are_listed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A whole image that any viewer shows, just above the cap; one that has just as many bytes is taken."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    noise = encoded(Image.fromarray(pixels))
    path = WRITERS[kind](tmp_path / kind, greys(12) | {"huge.png": noise + b"\0", "large.png": noise})
    for module in (archives, decoding):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", len(noise))
    data = load(path, tmp_path)
    assert len(data) == 13 and "large.png" in data.files and "huge.png" not in data.files
    assert "huge.png: larger than" in capsys.readouterr().err


def test_no_more_of_a_zips_member_is_unpacked_than_the_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its header promises."""
    path = write_zip(tmp_path / "a.zip", greys(12) | {"huge.png": bytes(10_000)})
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 5_000)
    asked, read = [], zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: asked.append(n) or read(self, n))
    load(path, tmp_path)
    assert len(asked) == 13 and all(n is not None and 0 < n <= 5_001 for n in asked)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_bombs_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = WRITERS[kind](tmp_path / kind, greys(12) | {"huge.png": bytes(10_000)})
    monkeypatch.setattr(archives, "MIN_TOTAL_BYTES", 100)
    monkeypatch.setattr(archives, "MAX_EXPANSION", 0.1)
    with pytest.raises(UserError, match="decompression bomb"):
        load(path, tmp_path, img_size=9)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    import gzip

    for content, reason in [
        (b"", "empty file"),
        (HTML, "web page, not an archive.*Google Drive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "neither"),
        (gzip.compress(b"\0\0\x08\x01" + bytes(5000)), "damaged or incomplete"),
    ]:
        (tmp_path / "celeba.zip").write_bytes(content)
        with pytest.raises(UserError, match=reason) as caught:
            load(tmp_path / "celeba.zip", tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_half_an_archive_is_refused(kind: str, keep: float, tmp_path: Path) -> None:
    noise = {f"{i}.png": encoded(Image.effect_noise((32, 32), 80)) for i in range(40)}
    path = WRITERS[kind](tmp_path / kind, noise)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(UserError, match="damaged or incomplete"):
        load(path, tmp_path)


def test_a_damaged_header_in_the_middle_of_a_tar_is_not_its_end(tmp_path: Path) -> None:
    noise = {f"{i}.png": encoded(Image.effect_noise((32, 32), 80)) for i in range(40)}
    path = write_tar(tmp_path / "a.tar", noise)
    content = bytearray(path.read_bytes())
    at = content.index(b"20.png")
    content[at : at + 4] = b"\xff\xfe\xfd\xfc"
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or incomplete after 20 images"):
        load(path, tmp_path)


def test_missing_and_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no such file or folder"):
        load(tmp_path / "nowhere", tmp_path)
    with pytest.raises(UserError, match="holds no images"):
        load(tmp_path / "empty", tmp_path)
    with pytest.raises(UserError, match="holds no images"):
        load(write_zip(tmp_path / "a.zip", {"readme.txt": b"hello"}), tmp_path)


def test_folder_that_holds_one_archive_stands_for_it(tmp_path: Path) -> None:
    (tmp_path / "down").mkdir()
    write_zip(tmp_path / "down" / "a.zip", greys(3))
    assert len(load(tmp_path / "down", tmp_path)) == 3
    write_zip(tmp_path / "down" / "b.zip", greys(3))
    with pytest.raises(UserError, match=r"give one of a\.zip, b\.zip"):
        load(tmp_path / "down", tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("mnist", {"img_size": 64}, "img_size 64: mnist can be 28, 32"),
        ("digits", {"img_size": 28}, "img_size 28: digits can be 16, 32"),
        ("celeba", {"img_size": 31}, r"img_size 31: celeba can be 32\.\.256"),
        (
            "celeba",
            {"img_size": (300, 200)},
            r"300x200: celeba can be 32\.\.256 a side; the nearest is 256x200$",
        ),
        ("cifar10", {"img_size": (32, 64)}, "img_size 32x64: cifar10 can be 32 a side; the nearest is 32$"),
        (
            "mnist",
            {"img_size": (16, 40)},
            "img_size 16x40: mnist can be 28, 32 a side; the nearest is 28x32$",
        ),
        ("celeba", {"img_size": (2, 64), "data": "."}, r"images of data can be 4\.\.1024 a side; .* 4x64$"),
        ("celeba", {"img_size": (64, 64, 3)}, "give one number, or height and width"),
        ("celeba", {"img_size": 0}, "at least 1"),
        ("cifar100", {}, f"choose one of {', '.join(DATASETS)}"),
        ("digits", {"img_channels": 2}, "1 .*or 3"),
        ("digits", {"split": "trian"}, "choose one of train, val, test, all"),
        ("digits", {"split": "val"}, "digits has no split 'val'; it has train, test, all"),
    ],
)
def test_wrong_requests_name_what_is_legal(
    name: str, changes: dict[str, object], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        load_dataset(name, **({"img_size": 32, "img_channels": 1, "cache_dir": tmp_path} | changes))


@pytest.mark.parametrize(
    ("text", "size"),
    [("64", 64), ("64x64", 64), ("160x128", (160, 128)), (" 8X16 ", (8, 16)), ("0064", 64)],
)
def test_sizes_as_text(text: str, size: int | tuple[int, int]) -> None:
    assert data_module.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "x", "64x", "x64", "64 x 64", "64,32", "-64", "6.4", "8x8x3", "1e2", "0", "0x8"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="64 for a square, or 160x128 for height x width|at least 1"):
        data_module.parse_size(text)


@pytest.mark.parametrize(
    ("model", "size", "reason"),
    [
        (
            "dcgan",
            (157, 128),
            "k from 2 to 6, not 157x128: the nearest is img_size 160x128$",
        ),
        ("dcgan", (16, 41), "not 16x41: the nearest is img_size 16x40$"),
        (
            "simple_cnn",
            (32, 60),
            "simple_cnn makes .* and k = 3, not 32x60: the nearest is img_size 32x64$",
        ),
        ("mlp", (32, 0), "img_size 0 must be a whole number, at least 1"),
    ],
)
def test_models_refuse_what_their_strides_do_not_make(model: str, size: tuple[int, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_generator(model, img_size=size, img_channels=1, z_dim=4)
    with pytest.raises(ValueError, match=reason):
        build_discriminator(model, img_size=size, img_channels=1)


def test_mlp_makes_rectangles() -> None:
    G = build_generator("mlp", img_size=(6, 4), img_channels=2, z_dim=3)
    D = build_discriminator("mlp", img_size=[6, 4], img_channels=2)
    assert G.img_size == D.img_size == (6, 4)
    x = G(torch.zeros(5, 3))
    assert x.shape == (5, 2, 6, 4) and D(x).shape == (5,)
    with pytest.raises(ValueError, match=r"\(N, 2, 6, 4\), not \(5, 2, 4, 6\)"):
        D(x.transpose(2, 3))


# ---------------------------------------------------------------------------- the scan


def test_few_bad_images_are_listed_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    jpeg = encoded(Image.effect_noise((64, 64), 50), "JPEG")
    bad = {"bad/cut.jpg": jpeg[:500], "bad/zero.png": b"", "bad/page.jpg": HTML}
    resource_forks = {f"__MACOSX/._{i:03d}.png": b"\0\5\x16\7" for i in range(40)}
    good = {f"good/{name}": data for name, data in greys(40).items()}
    data = load(write_folder(tmp_path / "mixed", good | bad | resource_forks), tmp_path)
    assert data.images[:, 0, 0, 0].tolist() == list(range(40))
    said = capsys.readouterr().err
    assert "43 files" in said
    for name, reason in [
        ("cut.jpg", "truncated"),
        ("zero.png", "empty"),
        ("page.jpg", "web page"),
        ("._000.png", "macOS"),
    ]:
        assert any(name in line and reason in line for line in said.splitlines())
    assert data.labels is None


def test_many_bad_images_are_an_error(tmp_path: Path) -> None:
    files = greys(8) | {"x.jpg": HTML, "y.jpg": b""}
    with pytest.raises(UserError, match=r"2 of 10 images .* more than 10%.*x\.jpg: a web page"):
        load(write_folder(tmp_path / "bad", files), tmp_path)
    assert not list((tmp_path / "cache").glob("*"))


def test_damaged_member_of_a_zip_is_one_bad_image(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", greys(20))
    content = bytearray(path.read_bytes())
    content[content.index(b"IHDR") + 20] ^= 255
    path.write_bytes(content)
    assert len(load(path, tmp_path)) == 19


# ---------------------------------------------------------------------------- the cache


def test_cache_is_read_again_and_built_anew_when_a_file_changes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", greys(4))
    first = load(folder, tmp_path)
    built = first.path.stat().st_mtime_ns
    assert load(folder, tmp_path).path.stat().st_mtime_ns == built
    os.utime(folder / "001.png", ns=(1, 1))
    touched = load(folder, tmp_path)
    assert touched.path != first.path
    assert touched.fingerprint == first.fingerprint
    (folder / "001.png").write_bytes(colour((77, 77, 77)))
    changed = load(folder, tmp_path)
    assert changed.images[1, 0, 0, 0] == 77
    assert changed.fingerprint != first.fingerprint
    assert load(folder, tmp_path, img_size=16).images.shape == (4, 16, 16, 3)
    assert not list((tmp_path / "cache").glob("tmp-*"))


@pytest.mark.parametrize("kind", WRITERS)
def test_cache_is_built_anew_when_a_list_beside_the_images_changes(kind: str, tmp_path: Path) -> None:
    """Same pixels with other labels: other data, by its fingerprint too."""
    (tmp_path / "set").mkdir()
    path = WRITERS[kind](tmp_path / "set" / f"img_align_celeba{kind.removeprefix('folder')[1:]}", greys(2))
    beside = tmp_path / "set" / "list_attr_celeba.txt"
    found = []
    for values in ("1 -1", "-1 1"):
        rows = [f"{i:03d}.png {value}" for i, value in enumerate(values.split())]
        beside.write_text("\n".join(["2", "Bald", *rows]) + "\n")
        os.utime(beside, ns=(len(found), len(found)))
        found.append(load(path, tmp_path))
    first, second = found
    assert first.labels.tolist() == [[1], [0]] and second.labels.tolist() == [[0], [1]]
    assert (first.images == second.images).all() and first.fingerprint != second.fingerprint


def test_caches_of_squares_and_rectangles_stand_apart(tmp_path: Path) -> None:
    files = {"a.png": encoded(striped(24, 10)), "b.png": encoded(striped(24, 10))}
    folder = write_folder(tmp_path / "set", files)
    square, high, wide = (load(folder, tmp_path, img_size=size) for size in (10, (20, 10), (10, 20)))
    assert [data.images.shape for data in (square, high, wide)] == [
        (2, 10, 10, 3),
        (2, 20, 10, 3),
        (2, 10, 20, 3),
    ]
    assert [data.img_size for data in (square, high, wide)] == [10, (20, 10), (10, 20)]
    assert square.images[0, 0, 0].tolist() == [7, 0, 0] and high.images[0, 0, 0].tolist() == [2, 0, 0]
    assert len({data.path for data in (square, high, wide)}) == 3
    assert [load(folder, tmp_path, img_size=size).path for size in ((10, 10), [20, 10])] == [
        square.path,
        high.path,
    ]


def test_names_of_caches_stay(tmp_path: Path) -> None:
    class Some:
        name = "some"

        def stamp(self) -> list[tuple[str, int, int]]:
            return [("a.png", 1, 2)]

    assert cache.stem_of(Some(), (8, 8, 3)) == "some-8x8x3-e2ef66ce5c16a558"  # else every user decodes anew


def test_leftovers_of_killed_builds_go_at_the_next_start(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", greys(4))
    load(folder, tmp_path)
    host = disk.temporary_of("x").name.split(f"-{os.getpid()}-")[0]
    killed, living = (
        tmp_path / "cache" / f"{host}-{pid}-1x0123abcd-x.rows" for pid in (2**22 + 1, os.getppid())
    )
    killed.write_bytes(b"half"), living.write_bytes(b"half")
    load(folder, tmp_path)  # nothing is to be decoded
    assert (killed.exists(), living.exists()) == (False, True)


def test_threads_that_decode_the_same_images_at_once_all_get_them(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", greys(64))
    with ThreadPoolExecutor(3) as pool:
        loaded = list(pool.map(lambda _: load(folder, tmp_path).images, range(3)))
    assert all((images == loaded[0]).all() for images in loaded)
    assert not [p for p in (tmp_path / "cache").iterdir() if disk.is_temporary(p.name)]


def test_an_unfinished_picture_is_no_image(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", greys(4))
    disk.temporary_of(folder / "000001.png").write_bytes(b"half")
    assert len(load(folder, tmp_path).images) == 4


def test_cache_is_keyed_by_code_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "set", greys(4))
    first = load(folder, tmp_path)
    monkeypatch.setattr(cache, "CODE_VERSION", cache.CODE_VERSION + 1)
    assert load(folder, tmp_path).path != first.path


def test_damaged_cache_is_built_again(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", greys(4))
    first = load(folder, tmp_path)
    fingerprint, path = first.fingerprint, first.path
    path.write_bytes(path.read_bytes()[:300])
    again = load(folder, tmp_path)
    assert again.fingerprint == fingerprint
    assert len(again) == 4


def test_cache_goes_elsewhere_when_its_folder_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "cache").write_text("a file in the folder's place, since root may write anywhere")
    data = load(write_folder(tmp_path / "set", greys(4)), tmp_path)
    assert data.path.is_relative_to(tmp_path / "temporary")
    assert "cannot be written to" in capsys.readouterr().err


def test_full_disk_names_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_rows", full)
    with pytest.raises(UserError, match="cache_dir"):
        load(write_folder(tmp_path / "set", greys(4)), tmp_path)


def test_default_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.default_cache_dir() == Path("/somewhere/gan-toolkit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.default_cache_dir() == Path.home() / ".cache" / "gan-toolkit"


WAIT = """
import sys
from pathlib import Path
from images.sources import load_dataset
print("waiting", flush=True)
folder, cache = sys.argv[1:]
data = load_dataset("celeba", img_size=8, img_channels=3, data=folder, cache_dir=cache, is_main=False)
print(len(data), data.fingerprint)
"""


def test_other_processes_wait_for_the_main_one(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", greys(4))
    command = [sys.executable, "-c", WAIT, str(folder), str(tmp_path / "cache")]
    waiter = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert waiter.stdout.readline().strip() == "waiting"
        assert waiter.poll() is None
        data = load(folder, tmp_path)
        answer, _ = waiter.communicate(timeout=60)
    finally:
        waiter.kill()
    assert answer.split() == ["4", data.fingerprint]


def test_large_set_is_decoded_in_a_pool_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "CHUNK_FILES", 8)
    monkeypatch.setattr(decoding, "n_cores", lambda: 2)
    files = dict(sorted(greys(100).items(), reverse=True))
    data = load(write_tar(tmp_path / "a.tar.gz", files), tmp_path)
    assert data.images[:, 0, 0, 0].tolist() == list(range(100))


def test_plain_progress_lines_when_stderr_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(cache.Progress, "every_s", -1.0)
    progress = cache.Progress("decoding x", 10)
    progress.update(4)
    progress.close()
    assert "decoding x: 4 of 10 images" in capsys.readouterr().err


# ---------------------------------------------------------------------------- named datasets


def test_digits() -> None:
    train, test = (load_dataset("digits", img_size=32, img_channels=1, split=s) for s in ("train", "test"))
    assert train.images.shape == (1497, 32, 32, 1)
    assert test.images.shape == (300, 32, 32, 1)
    assert load_dataset("digits", img_size=16, img_channels=3, split="all").images.shape == (1797, 16, 16, 3)
    assert set(train.labels.tolist()) == set(test.labels.tolist()) == set(range(10))
    assert train.fitting == "8 x 8 px, bicubic to 28 x 28 px, zeros around them to 32 x 32"
    assert not train.images[:, [0, 1, 30, 31]].any() and train.images[:, 2].any()
    assert (train.images.min(), train.images.max()) == (0, 255)
    assert (
        train.fingerprint
        == load_dataset("digits", img_size=32, img_channels=1).fingerprint
        != test.fingerprint
    )


def test_rectangles_of_digits_are_padded() -> None:
    square, high = (load_dataset("digits", img_size=size, img_channels=1) for size in (16, (32, 16)))
    assert high.img_size == (32, 16)
    assert (high.images[:, 8:24] == square.images).all() and high.images.sum() == square.images.sum()


def write_idx(path: Path, array: np.ndarray) -> None:
    """MNIST's file format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path) -> np.ndarray:
    """A small MNIST of random pixels as torchvision expects it; returns the training images."""
    rng = np.random.default_rng(0)
    for part, n in (("t10k", 4), ("train", 6)):
        pixels = rng.integers(0, 256, (n, 28, 28))
        write_idx(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", pixels)
        write_idx(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", np.arange(n))
    return pixels


def test_mnist_is_padded_to_32_or_left_at_28(tmp_path: Path) -> None:
    pixels = write_mnist(tmp_path)
    how = {"data_root": tmp_path, "cache_dir": tmp_path / "cache"}
    data = load_dataset("mnist", img_size=32, img_channels=1, **how)
    assert data.images.shape == (6, 32, 32, 1)
    assert (data.images[:, 2:30, 2:30, 0] == pixels).all()
    assert data.images.sum() == pixels.sum() and data.fitting == "28 x 28 px, zeros around them to 32 x 32"
    as_it_is = load_dataset("mnist", img_size=28, img_channels=3, **how)
    assert (as_it_is.images == pixels[..., None]).all() and as_it_is.fitting is None
    test = load_dataset("mnist", img_size=28, img_channels=1, split="test", **how)
    assert test.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [28, 32])
def test_stacked_mnist_is_made_of_three_digits_an_image(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path)
    monkeypatch.setattr(data_module, "STACKED", {"train": 50, "test": 20})
    monkeypatch.setattr(data_module, "ROWS", 16)
    how = {"img_size": size, "data_root": tmp_path}
    for split, n in (("train", 50), ("test", 20)):
        digits = load_dataset("mnist", img_channels=1, split=split, cache_dir=tmp_path / "a", **how)
        stacked, again = (
            load_dataset("stacked-mnist", img_channels=3, split=split, cache_dir=tmp_path / c, **how)
            for c in "ab"
        )
        assert stacked.images.shape == (n, size, size, 3) and stacked.fingerprint == again.fingerprint
        assert stacked.label_names[123] == "123" and len(stacked.label_names) == 1000
        shown = {image.tobytes(): label for image, label in zip(digits.images, digits.labels, strict=True)}
        for image, label in zip(stacked.images, stacked.labels, strict=True):
            assert "".join(str(shown[image[..., i].tobytes()]) for i in range(3)) == f"{label:03d}"
        assert len(set(stacked.labels.tolist())) > n // 4
    with pytest.raises(UserError, match="cannot be grey"):
        load_dataset("stacked-mnist", img_channels=1, cache_dir=tmp_path / "a", **how)


def test_damaged_mnist_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"mnist: files in .*MNIST/raw are damaged"):
        load_dataset("mnist", img_size=28, img_channels=1, data_root=tmp_path, cache_dir=tmp_path / "cache")


def test_cifar10_to_grey_weighs_colours() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in rgb])[..., None]
    assert (data_module.fitted(rgb, (4, 4, 1)) == grey).all()


@pytest.mark.parametrize("name", ["mnist", "stacked-mnist", "cifar10", "celeba"])
def test_failed_download_gives_one_line_with_the_steps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(root: Path) -> None:
        raise OSError("<urlopen error [Errno -2]\nName or service not known>")

    row = DATASETS[name]
    monkeypatch.setitem(DATASETS, name, data_module.Dataset(**(vars(row) | {"download": fails})))
    with pytest.raises(UserError) as caught:
        load_dataset(
            name, img_size=row.img_size, img_channels=row.img_channels, data_root=tmp_path, cache_dir=tmp_path
        )
    text = caught.value.for_command_line
    assert "\n" not in text
    for part in (str(tmp_path), "Name or service not known", "By hand", "--data_root", "--data"):
        assert part in text


def test_celeba_without_gdown_names_it_and_the_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install gdown.*img_align_celeba\.zip.*list_attr_celeba\.txt"):
        load_dataset("celeba", img_size=64, img_channels=3, data_root=tmp_path, cache_dir=tmp_path)


def test_celeba_zip_that_is_a_web_page(tmp_path: Path) -> None:
    files = {"celeba/img_align_celeba.zip": HTML, "celeba/list_attr_celeba.txt": ATTRIBUTES.encode()}
    write_folder(tmp_path, files)
    with pytest.raises(UserError, match=r"web page, not an archive.*By hand: download img_align_celeba\.zip"):
        load_dataset("celeba", img_size=64, img_channels=3, data_root=tmp_path, cache_dir=tmp_path)


@pytest.mark.parametrize("name", DATASETS)
def test_every_row_has_defaults_that_are_legal(name: str) -> None:
    row = DATASETS[name]
    assert row.img_size in row.img_sizes
    assert row.img_channels in (1, 2, 3)
    assert (row.find is None) == (row.download is None) == (row.make is not None)


# ---------------------------------------------------------------------------- batches


def numbered(n: int, labels: np.ndarray | None = None) -> ImageData:
    """n images of 2x3x1 whose left column is their number and whose other columns are 0."""
    pixels = np.zeros((n, 2, 3, 1), dtype=np.uint8)
    pixels[:, :, 0, 0] = np.arange(n)[:, None]
    return ImageData(pixels, labels, tuple("abcdefgh") if labels is not None else (), "", "numbered")


def numbers(x: torch.Tensor) -> list[int]:
    """Which numbered images these are, mirrored or not."""
    return ((x + 1) * 127.5).round().amax((1, 2, 3)).int().tolist()


def test_every_epoch_shows_every_image_once() -> None:
    batches = Batches(numbered(10), Shard(4), 0, False, "cpu")
    seen = [n for step in range(10) for n in numbers(batches.micro(4 * step)[0])]
    epochs = [seen[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len(batches.permutations) <= 2


def test_batch_is_a_function_of_the_position_alone() -> None:
    walked, jumped = (Batches(numbered(10), Shard(4), 7, True, "cpu") for _ in range(2))
    for step in range(8):
        walked.micro(4 * step)
    assert torch.equal(walked.micro(32)[0], jumped.micro(32)[0])
    assert not torch.equal(jumped.micro(32)[0], Batches(numbered(10), Shard(4), 8, True, "cpu").micro(32)[0])


@pytest.mark.parametrize(("n_processes", "accumulate"), [(2, 1), (1, 3), (2, 3)])
def test_slices_of_processes_and_micro_batches_make_the_global_batch(
    n_processes: int, accumulate: int
) -> None:
    data = numbered(20, np.arange(20, dtype=np.int64) % 8)
    x, y = Batches(data, Shard(12), 0, True, "cpu").micro(12)
    shared = [
        Batches(data, Shard(12, n_processes, r, accumulate), 0, True, "cpu") for r in range(n_processes)
    ]
    parts = [batches.micro(12, j) for j in range(accumulate) for batches in shared]
    assert torch.equal(torch.cat([part[0] for part in parts]), x)
    assert torch.equal(torch.cat([part[1] for part in parts]), y)


def test_order_follows_the_seed_in_every_epoch() -> None:
    orders = [
        tuple(numbers(Batches(numbered(20), Shard(20), seed, False, "cpu").micro(20 * epoch)[0]))
        for seed in (0, 1)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 6


def test_flips_follow_the_seed_and_the_batch() -> None:
    """Which places of a batch are mirrored, whatever images stand there; none of them is all black."""
    data = replace(numbered(40), images=numbered(41).images[1:])

    def mirrored(seed: int, start: int) -> tuple[int, ...]:
        x, _ = Batches(data, Shard(40), seed, True, "cpu").micro(start)
        return tuple(i for i, image in enumerate(x) if image[0, 0, 0] == -1)

    seen = {mirrored(seed, start) for seed in (0, 1) for start in (0, 40)}
    assert len(seen) == 4 and all(5 < len(places) < 35 for places in seen)


def test_pixels_are_normalised_and_flips_are_drawn_for_each_image() -> None:
    data = numbered(250)
    plain, flipped = (Batches(data, Shard(250), 0, flip, "cpu").micro(0)[0] for flip in (False, True))
    assert plain.shape == (250, 1, 2, 3)
    assert plain.dtype == torch.get_default_dtype()
    assert plain.min() == -1
    assert numbers(plain) == numbers(flipped)
    mirrored = (flipped == plain.flip(3)).all((1, 2, 3)) & (flipped != plain).any(3).any(2).any(1)
    kept = (flipped == plain).all((1, 2, 3))
    assert bool((mirrored | kept).all())
    assert 90 < int(mirrored.sum()) < 160


def test_white_is_one_black_is_minus_one_in_double() -> None:
    pixels = np.array([0, 255, 51], dtype=np.uint8).reshape(3, 1, 1, 1)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        labels = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.uint8)
        x, y = Batches(ImageData(pixels, labels, ("a", "b"), "", "x"), Shard(3), 0, False, "cpu").micro(0)
    finally:
        torch.set_default_dtype(default)
    assert sorted(x.flatten().tolist()) == pytest.approx([-1, -0.6, 1], abs=1e-15)
    assert {x.min().item(), x.max().item()} == {-1.0, 1.0}
    assert (x.dtype, y.dtype, y.shape) == (torch.float64, torch.float64, (3, 2))


def test_channels_last_keeps_memory_order_and_values() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 4, 5, 3), dtype=np.uint8)
    data = ImageData(pixels, None, (), "", "noise")
    (first, _), (second, no_labels) = (
        Batches(data, Shard(4), 0, True, "cpu", channels_last=c).micro(0) for c in (False, True)
    )
    assert first.is_contiguous()
    assert second.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, second)
    assert no_labels is None


@pytest.mark.parametrize(
    ("batch_size", "n_processes", "accumulate", "reason"),
    [
        (0, 1, 1, "batch_size 0: give at least 1"),
        (-4, 1, 1, "batch_size -4"),
        (11, 1, 1, r"larger than the data \(10 images\)"),
        (8, 3, 1, "not divisible by 3 processes"),
        (8, 2, 3, "accumulate 3 = 6"),
    ],
)
def test_wrong_batch_sizes_are_refused(
    batch_size: int, n_processes: int, accumulate: int, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        Batches(numbered(10), Shard(batch_size, n_processes, 0, accumulate), 0, False, "cpu")


def test_images_stay_where_they_are_told_to() -> None:
    """The meta device stands for one with memory of its own; `auto` fills that of CUDA alone."""
    places = {
        place: Batches(numbered(10), Shard(2), 0, False, "meta", place).images.device.type
        for place in DATA_DEVICES
    }
    assert places == {"auto": "cpu", "cpu": "cpu", "device": "meta"}
    assert Batches(numbered(10), Shard(2), 0, False, "cpu", "device").images.device.type == "cpu"


def test_unknown_data_device_is_refused() -> None:
    with pytest.raises(UserError, match="choose one of auto, cpu, device"):
        Batches(numbered(10), Shard(2), 0, False, "cpu", data_device="disk")


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no posix_fadvise here")
def test_announced_bytes_are_those_of_the_next_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{split}/{name}": png for split in ("train", "test") for name, png in greys(20).items()}
    data = load(write_folder(tmp_path / "set", files), tmp_path, split="test")
    batches = Batches(data, Shard(8, accumulate=2), 0, False, "cpu")
    calls = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda fd, offset, length, advice: calls.append((offset, length))
    )
    batches.announce(16)
    content = data.path.read_bytes()
    announced = [content[offset : offset + length] for offset, length in calls]
    rows = [data.images[i].tobytes() for i in batches.indices(16, 8).tolist()]
    assert announced == rows
    Batches(numbered(10), Shard(2), 0, False, "cpu").announce(0)
    assert len(calls) == 8


@pytest.mark.gpu
@pytest.mark.parametrize("data_device", ["auto", "cpu", "device"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_cuda_serves_the_same_batches(data_device: str, channels_last: bool) -> None:
    data = numbered(50, np.arange(50, dtype=np.int64) % 8)
    expected = Batches(data, Shard(20), 0, True, "cpu", channels_last=channels_last)
    batches = Batches(data, Shard(20), 0, True, "cuda", data_device, channels_last)
    for start in (0, 40):
        (x, y), (x_cpu, y_cpu) = batches.micro(start), expected.micro(start)
        assert x.device.type == y.device.type == "cuda"
        torch.testing.assert_close(x.cpu(), x_cpu)
        assert torch.equal(y.cpu(), y_cpu)


def test_cifar10s_own_python_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 20, 3, 32, 32), dtype=np.uint8)
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        rows = {"data": pixels[i].reshape(20, 3072), "labels": [(i + k) % 10 for k in range(20)]}
        (folder / name).write_bytes(pickle.dumps(rows))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)  # the genuine files' checksums
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    wanted = {"img_size": 32, "img_channels": 3, "data_root": tmp_path, "cache_dir": tmp_path / "cache"}
    train, test = (load_dataset("cifar10", split=split, **wanted) for split in ("train", "test"))
    assert len(train) == 100 and len(test) == 20 and list(train.label_names) == names
    assert np.array_equal(train.images[20], pixels[1, 0].transpose(1, 2, 0))
    assert np.array_equal(test.images[5], pixels[5, 5].transpose(1, 2, 0)) and test.labels[5] == 0
