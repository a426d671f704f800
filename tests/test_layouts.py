"""Folders and archives as people have them: labels in files, splits, strays, thumbnails, names, links, other files."""

import io
import json
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from errors import UserError
from images.archives import open_files
from images.batches import ImageData
from images.labels import as_labels, as_value, side_label
from images.layout import read_layout, why_unlabelled
from images.naming import leads_inside
from images.scan import LOOKED_AT, sample_of, scan
from images.sources import DATASETS, load_dataset, set_name
from tests.fuzzing import archives, mutated
from tests.test_data import WRITERS, colour, encoded, write_folder, write_tar, write_zip
from tools import look_at


def load(path: Path, tmp_path: Path, **changes: object) -> ImageData:
    """The images of a set at 8x8x3 through a cache of the test's own."""
    how = {"img_size": 8, "img_channels": 3, "cache_dir": tmp_path / "cache", "data": path}
    return load_dataset(set_name(path), **(how | changes))


def pictures(*names: str) -> dict[str, bytes]:
    """A picture of its own grey for each name."""
    return {name: colour((i, i, i)) for i, name in enumerate(names)}


def by_name(data: ImageData) -> dict[str, str]:
    """Class by file."""
    return {Path(name).name: data.label_names[k] for name, k in zip(data.files, data.labels, strict=True)}


# -- labels in files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
def test_dataset_json_says_the_classes(kind: str, tmp_path: Path) -> None:
    """Not the folders 00000 and 00001, into which pictures are dealt."""
    names = [f"0000{i % 2}/img{i:08d}.png" for i in range(6)]
    labels = [[name, i // 2] for i, name in enumerate(names)]
    path = WRITERS[kind](
        tmp_path / kind, pictures(*names) | {"dataset.json": json.dumps({"labels": labels}).encode()}
    )
    data = load(path, tmp_path)
    assert data.label_names == ("0", "1", "2")
    assert by_name(data) == {f"img{i:08d}.png": str(i // 2) for i in range(6)}


@pytest.mark.parametrize("kind", WRITERS)
def test_dataset_json_without_labels_makes_no_classes_of_folders(kind: str, tmp_path: Path) -> None:
    files = pictures("00000/a.png", "00001/b.png") | {"dataset.json": b'{"labels": null}'}
    assert load(WRITERS[kind](tmp_path / kind, files), tmp_path).labels is None


def test_dataset_json_may_hold_rows_of_attributes(tmp_path: Path) -> None:
    rows = {"labels": [["a.png", [1, 0, 1]], ["b.png", [0, 0, 1]]]}
    data = load(
        write_folder(
            tmp_path / "set", pictures("a.png", "b.png") | {"dataset.json": json.dumps(rows).encode()}
        ),
        tmp_path,
    )
    assert data.multi_hot and data.labels.tolist() == [[1, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("kind", WRITERS)
def test_metadata_of_image_folders_in_each_split(kind: str, tmp_path: Path) -> None:
    files = pictures(*(f"{split}/{i}.png" for split in ("train", "test") for i in range(4)))
    files["train/metadata.csv"] = b"file_name,text,label\n" + b"".join(
        b"%d.png,words,%d\n" % (i, i % 2) for i in range(4)
    )
    rows = ({"file_name": f"{i}.png", "label": i // 2} for i in range(4))
    files["test/metadata.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
    path = WRITERS[kind](tmp_path / kind, files)
    train, test = load(path, tmp_path), load(path, tmp_path, split="test")
    assert by_name(train) == {"0.png": "0", "1.png": "1", "2.png": "0", "3.png": "1"}
    assert by_name(test) == {"0.png": "0", "1.png": "0", "2.png": "1", "3.png": "1"}


def test_metadata_with_names_of_classes_and_subfolders(tmp_path: Path) -> None:
    rows = b"label,file_name\ncat,x/1.png\ndog,y\\2.png\ncat,x/3.png\n"
    files = pictures("x/1.png", "y/2.png", "x/3.png") | {"metadata.csv": rows}
    data = load(write_folder(tmp_path / "set", files), tmp_path)
    assert by_name(data) == {"1.png": "cat", "2.png": "dog", "3.png": "cat"}


def test_metadata_of_captions_leaves_folders_what_they_are(tmp_path: Path) -> None:
    files = pictures("x/1.png", "y/2.png") | {
        "metadata.csv": b"file_name,text\nx/1.png,a cat\ny/2.png,a dog\n"
    }
    assert load(write_folder(tmp_path / "set", files), tmp_path).label_names == ("x", "y")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("side", ["cls", "json"])
def test_labels_beside_the_members_of_a_webdataset(kind: str, side: str, tmp_path: Path) -> None:
    files = {}
    for i in range(6):
        files |= {f"{i:05d}.png": colour((i, i, i)), f"{i:05d}.txt": b"a caption"}
        files[f"{i:05d}.{side}"] = (
            b"%d\n" % (i % 3) if side == "cls" else json.dumps({"label": i % 3}).encode()
        )
    data = load(WRITERS[kind](tmp_path / kind, files), tmp_path)
    assert by_name(data) == {f"{i:05d}.png": str(i % 3) for i in range(6)}


def test_labels_that_name_hardly_any_image_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = pictures("x/1.png", "y/2.png", "y/3.png") | {"dataset.json": b'{"labels": [["x/1.png", 4]]}'}
    assert load(write_folder(tmp_path / "set", files), tmp_path).label_names == ("x", "y")
    assert "name 1 of 3 images: left out" in capsys.readouterr().err


def test_images_without_a_label_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = json.dumps({"labels": [["a.png", 0], ["b.png", 1]]}).encode()
    data = load(
        write_folder(tmp_path / "set", pictures("a.png", "b.png", "c.png") | {"dataset.json": rows}), tmp_path
    )
    assert len(data) == 2 and "1 images have no label" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "{",
        '{"labels": 3}',
        '{"labels": [["a.png"]]}',
        '{"labels": [["a.png", null]]}',
        "[" * 100_000,
        '{"a": 1}',
    ],
)
def test_damaged_lists_are_a_line_and_no_labels(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = pictures("a.png", "b.png") | {"dataset.json": text.encode()}
    assert load(write_folder(tmp_path / "set", files), tmp_path).labels is None
    assert "dataset.json cannot be read" in capsys.readouterr().err


def test_json_files_of_other_things_are_no_labels(tmp_path: Path) -> None:
    files = pictures("a.png", "b.png") | {
        "a.json": b'{"shapes": []}',
        "b.json": b"[" * 90_000,
        "annotations.json": b"{}",
    }
    data = load(write_folder(tmp_path / "set", files), tmp_path)
    assert data.labels is None and len(data) == 2
    assert side_label("a.json", b"[" * 60_000) is None and side_label("a.cls", b"\xff\xfe") is None


def test_values_of_labels() -> None:
    given = [3, "3", "3.0", 3.0, " cat ", "", None, [1, 0], [1, 2], [], True, "a" * 201, 10**12]
    assert [as_value(v) for v in given] == [3, 3, 3, 3, "cat", None, None, (1, 0), None, None, 1, None, None]


def test_numbers_keep_classes_that_no_image_is_of() -> None:
    assert as_labels([0, 2, 5])[1] == ("0", "1", "2", "3", "4", "5")
    labels, names = as_labels(["b", 7, "a"])
    assert labels.tolist() == [2, 0, 1] and names == ("7", "a", "b")
    labels, names = as_labels([10**8, -1])
    assert labels.tolist() == [1, 0] and names == ("-1", "100000000")
    with pytest.raises(ValueError, match="others rows"):
        as_labels([1, (1, 0)])


# -- splits, strays, classes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train2017", "val2017"), {"train", "val"}),
        (("train_256", "test-images"), {"train", "test"}),
        (("Training", "Validation Set"), {"train", "val"}),
        (("trainset", "testset"), {"train", "test"}),
    ],
)
def test_splits_with_something_behind_their_names(folders: tuple[str, ...], splits: set[str]) -> None:
    layout = read_layout(
        [f"set/{folder}/{c}/{i}.png" for folder in folders for c in "ab" for i in range(2)], {}
    )
    assert layout.splits.keys() == splits and layout.label_names == ("a", "b")


@pytest.mark.parametrize("folders", [("train_station", "test_tube"), ("trainer", "valley"), ("car", "train")])
def test_classes_that_begin_like_splits_stay_classes(folders: tuple[str, str]) -> None:
    layout = read_layout([f"{folder}/{i}.png" for folder in folders for i in range(3)], {})
    assert layout.splits == {"train": (0, 6)} and layout.label_names == tuple(sorted(folders))


def test_a_picture_beside_splits_is_named_and_left_out() -> None:
    names = [f"{split}/{c}/{i}.png" for split in ("train", "test") for c in ("cat", "dog") for i in range(5)]
    layout = read_layout(["cover.png", *names], {})
    assert layout.splits == {"train": (0, 10), "test": (10, 20)} and layout.label_names == ("cat", "dog")
    assert 0 not in layout.order and any("cover.png" in note for note in layout.notes)


def test_what_is_no_split_is_left_out_beside_splits() -> None:
    names = [f"{top}/{i}.png" for top in ("train", "test", "unlabeled") for i in range(3)]
    layout = read_layout(names, {})
    assert layout.splits == {"train": (0, 3), "test": (3, 6)} and layout.labels is None
    assert any("3 pictures" in note and "unlabeled/0.png" in note for note in layout.notes)


@pytest.mark.parametrize("root", ["", "set/"])
def test_a_stray_picture_leaves_the_classes(root: str) -> None:
    names = [f"{root}{c}/{i}.png" for c in "xy" for i in range(4)]
    layout = read_layout(["Screenshot.png", *names], {})
    assert layout.label_names == ("x", "y") and len(layout.order) == 8
    assert any("Screenshot.png" in note for note in layout.notes)


def test_many_pictures_beside_folders_are_no_strays() -> None:
    names = ["x/1.png", "y/1.png", *(f"{i}.png" for i in range(4))]
    layout = read_layout(names, {})
    assert layout.labels is None and len(layout.order) == 6
    assert why_unlabelled(names).startswith("4 of 6 pictures stand beside the 2 folders, such as 0.png")


@pytest.mark.parametrize("kind", WRITERS)
def test_folders_of_systems_are_passed_over(kind: str, tmp_path: Path) -> None:
    names = [
        "cats/1.png",
        "dogs/2.png",
        "@eaDir/1.png/SYNOPHOTO_THUMB_XL.png",
        "cats/.ipynb_checkpoints/1.png",
    ]
    names += ["#recycle/3.png", ".thumbnails/4.png", "$RECYCLE.BIN/5.png", "cats/@eaDir/6.png"]
    data = load(WRITERS[kind](tmp_path / kind, pictures(*names)), tmp_path)
    assert data.label_names == ("cats", "dogs") and len(data) == 2


def test_lists_of_celeba_beside_other_folders_are_not_theirs(tmp_path: Path) -> None:
    names = [f"{c}/{i:06d}.jpg" for c in ("rose", "tulip") for i in (1, 2)]
    write_folder(tmp_path / "flowers", pictures(*names))
    write_folder(tmp_path / "img_align_celeba", pictures("000001.jpg", "000002.jpg"))
    (tmp_path / "list_attr_celeba.txt").write_text("2\nBald\n000001.jpg 1\n000002.jpg -1\n")
    assert load(tmp_path / "flowers", tmp_path).label_names == ("rose", "tulip")
    assert load(tmp_path / "img_align_celeba", tmp_path).label_names == ("Bald",)


def test_a_list_of_jpgs_knows_the_same_pictures_as_png(tmp_path: Path) -> None:
    files = pictures("faces/000001.png", "faces/000002.png")
    files["list_attr_celeba.txt"] = b"2\nBald Young\n000001.jpg 1 -1\n000002.jpg -1 1\n"
    data = load(write_folder(tmp_path / "set", files), tmp_path)
    assert data.labels.tolist() == [[1, 0], [0, 1]] and len(data) == 2


# -- archives --------------------------------------------------------------------------------------------------------


def test_names_in_utf8_without_the_flag_are_as_written(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", pictures("Kaetzchen_X/1.png", "Hunde_X/2.png"))
    path.write_bytes(path.read_bytes().replace(b"_X/", "é/".encode()))
    assert load(path, tmp_path).label_names == ("Hundeé", "Kaetzchené")
    old = write_zip(tmp_path / "b.zip", pictures("K_/1.png", "H/2.png"))
    old.write_bytes(old.read_bytes().replace(b"K_/", b"K\x82/"))  # cp437
    assert load(old, tmp_path).label_names == ("H", "Ké")


@pytest.mark.parametrize(("method", "name"), [(9, "deflate64"), (98, "PPMd"), (55, "method 55")])
def test_packings_that_python_lacks_are_named(method: int, name: str, tmp_path: Path) -> None:
    content = bytearray(write_zip(tmp_path / "a.zip", pictures("1.png")).read_bytes())
    for start, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(start) + at] = method
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match=f"packed by {name}.*repack"):
        load(tmp_path / "a.zip", tmp_path)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"part0.zip": b"x", "part1.zip": b"x"}, r"archives inside \(2, such as part0.zip\): unpack"),
        ({"1.heic": b"x", "2.HEIC": b"x", "notes.txt": b"x"}, r"2 in \.heic: save them as JPEG or PNG"),
        ({"1.avif": b"x"}, r"1 in \.avif: save them"),
        ({"1.dcm": b"x"}, r"1 in \.dcm: save the arrays"),
        ({"readme.txt": b"x"}, r"holds no images \(but 1 \.txt\)"),
    ],
)
def test_what_stands_in_place_of_images_is_named(kind: str, files: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        load(WRITERS[kind](tmp_path / kind, files), tmp_path)


def test_pictures_in_other_formats_are_told_of_beside_images(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    load(write_folder(tmp_path / "set", pictures("1.png") | {"2.heic": b"x", "3.heic": b"x"}), tmp_path)
    assert "2 files in .heic are not read here: save them" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"2 in \.heic"):
        (tmp_path / "set" / "1.png").unlink()
        load(tmp_path / "set", tmp_path)


def test_a_heic_called_jpg_is_named(tmp_path: Path) -> None:
    heic = b"\0\0\0\x18ftypheic" + bytes(40)
    with pytest.raises(UserError, match="HEIC, whatever its name says"):
        load(write_folder(tmp_path / "set", {"1.jpg": heic}), tmp_path)


def linked(path: Path, kind: bytes, target: str) -> Path:
    """A tar of five pictures in set/ and a link of this kind among them."""
    write_tar(path, pictures(*(f"set/{i}.png" for i in range(5))))
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("set/5.png")
        info.type, info.linkname = kind, target
        tar.addfile(info)
    return path


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.LNKTYPE, "set/0.png"),
        (tarfile.SYMTYPE, "0.png"),
        (tarfile.SYMTYPE, "../set/0.png"),
        (tarfile.SYMTYPE, f"{'deep/' * 30}0.png"),  # as a header of its own
    ],
)
def test_links_within_a_tar_are_left_out_alone(
    kind: bytes, target: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = load(linked(tmp_path / "a.tar", kind, target), tmp_path)
    assert len(data) == 5 and "set/5.png: a link to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "set/6.png"),
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "../../x.png"),
        (tarfile.SYMTYPE, f"../{'a/' * 60}{'../' * 70}x.png"),
    ],
)
def test_links_that_lead_elsewhere_are_refused(kind: bytes, target: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="link or device"):
        load(linked(tmp_path / "a.tar", kind, target), tmp_path)


def test_links_within_a_zip_are_left_out_alone(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", pictures("a/1.png"))
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("a/2.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "1.png")
    assert len(load(path, tmp_path)) == 1


def test_where_links_lead() -> None:
    inside = ["x.png", "../b/x.png", "./x.png", "c/../x.png"]
    outside = ["", "/x.png", "../../x.png", "C:/x.png", "c/../../../x.png"]
    assert [leads_inside("a/l.png", target) for target in inside + outside] == [True] * 4 + [False] * 5


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "iCCP"])
def test_png_with_long_texts_and_profiles(kind: str, tmp_path: Path) -> None:
    import zlib

    long, plain = b"x" * (2 << 20), colour((1, 2, 3))
    body = {
        "tEXt": b"Comment\0" + long,
        "zTXt": b"Comment\0\0" + zlib.compress(long),
        "iTXt": b"XML:com.adobe.xmp\0\0\0\0\0" + b'tiff:Orientation="6"' + long,
        "iCCP": b"profile\0\0" + zlib.compress(long),
    }[kind]
    chunk = kind.encode() + body
    whole = len(body).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    data = load(write_folder(tmp_path / "set", {"1.png": plain[:33] + whole + plain[33:]}), tmp_path)
    assert (data.images == (1, 2, 3)).all()


def test_a_long_xmp_text_still_says_which_way_is_up(tmp_path: Path) -> None:
    import zlib

    image = Image.new("RGB", (16, 8), (255, 0, 0))
    image.paste((0, 0, 255), (8, 0, 16, 8))
    plain = encoded(image)
    chunk = b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + b'tiff:Orientation="6"' + b" " * (2 << 20)
    whole = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    write_folder(tmp_path / "set", {"1.png": plain[:33] + whole + plain[33:]})
    data = load(tmp_path / "set", tmp_path, img_size=(16, 8))
    assert (data.images[0, 1] == (255, 0, 0)).all() and (data.images[0, -2] == (0, 0, 255)).all()


# -- the set's name, and the first look ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/photos/", "photos"),
        ("my photos.tar.gz", "my_photos"),
        ("a/b/FFHQ-256.ZIP", "FFHQ-256"),
        ("Kätzchen", "Kätzchen"),
        ("x.npy", "x"),
        ("...", "images"),
        ("/", "images"),
        ("a;b|c\n", "a_b_c"),
        ("mnist", "mnist-files"),
        ("Ring8.zip", "Ring8-files"),
        ("folder", "folder-files"),
        ("v1.5", "v1.5"),
    ],
)
def test_a_set_is_called_by_its_folder_or_archive(path: str, name: str) -> None:
    assert set_name(path) == name and name.lower() not in DATASETS


def test_names_of_sets_fit_into_names_of_files() -> None:
    name = set_name("ä" * 300)
    assert len(name.encode()) <= 90 and name == "ä" * len(name)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_first_look_sees_all_files_and_some_headers(kind: str, tmp_path: Path) -> None:
    files = {f"{i:04d}.png": colour(i % 256, (6, 10), "L") for i in range(300)} | {"0100.jpg": b"no image"}
    path = WRITERS[kind](tmp_path / kind, files)
    seen = dict(scan(open_files(path)))
    assert seen.keys() == files.keys() and all(seen[name] == files[name][:32] for name in files)
    sample = sample_of(open_files(path))
    assert len(sample.headers) in (LOOKED_AT, LOOKED_AT - 1) and sample.channels == 1
    assert {(h.height, h.width) for h in sample.headers} == {(10, 6)} and sample.share_of(upright=True) == 1


def test_a_first_look_at_damaged_archives_is_one_line_at_most(tmp_path: Path) -> None:
    rng, made = random.Random(5), archives()
    for i in range(150):
        name = rng.choice(list(made))
        path = tmp_path / f"{i}-{name}"
        path.write_bytes(mutated(made[name], rng))
        for look in (sample_of, lambda files: list(scan(files))):
            try:
                look(open_files(path))
            except UserError as error:
                assert str(error).isprintable()


def test_a_first_look_turns_pictures_as_they_are_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "1.jpg": encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif),
        "2.png": colour(0, (20, 10), "RGBA"),
    }
    sample = sample_of(open_files(write_folder(tmp_path / "set", files)))
    assert [(h.height, h.width, h.channels) for h in sample.headers] == [(20, 10, 3), (10, 20, 3)]
    assert sample.has_alpha and sample.share_of(upright=True) == sample.share_of(upright=False) == 0.5


def test_a_stack_of_arrays_is_a_set(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    for form in (pixels, np.moveaxis(pixels, 3, 1)):
        np.save(tmp_path / "stack.npy", form)
        data = load(tmp_path / "stack.npy", tmp_path)
        assert (data.images == pixels).all() and data.name == "stack"
    greys = pixels[..., 0]
    np.save(tmp_path / "grey.npy", greys)
    assert (load(tmp_path / "grey.npy", tmp_path, img_channels=1).images[..., 0] == greys).all()


@pytest.mark.parametrize("kind", WRITERS)
def test_stacks_are_classes_and_arrays_pictures(kind: str, tmp_path: Path) -> None:
    rng, files = np.random.default_rng(0), {}
    for name, shape in (("cat.npy", (18, 20, 20)), ("dog.npy", (3, 3, 20, 20)), ("bird/1.npy", (20, 20, 3))):
        buffer = io.BytesIO()
        np.save(buffer, rng.integers(0, 256, shape, dtype=np.uint8))
        files[name] = buffer.getvalue()
    data = load(WRITERS[kind](tmp_path / kind, files), tmp_path)
    assert data.label_names == ("bird", "cat", "dog") and np.bincount(data.labels).tolist() == [1, 18, 3]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x93NUMPY\x01\x00\x04\x00{}} ", "no .npy"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 9000, "no .npy"),
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((4, 4), np.complex64), "numbers of up to 64 bits"),
        (np.array([["a"]]), "numbers of up to 64 bits"),
        (np.array([[None]]), "numbers of up to 64 bits"),
    ],
)
def test_arrays_that_are_no_pictures_have_a_reason(content: object, reason: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    if isinstance(content, np.ndarray):
        np.save(buffer, content, allow_pickle=True)
    else:
        buffer.write(content)
    with pytest.raises(UserError, match=reason):
        load(write_folder(tmp_path / "set", {"1.npy": buffer.getvalue()}), tmp_path)
    buffer.seek(0)
    (tmp_path / "alone.npy").write_bytes(buffer.read())
    with pytest.raises(UserError, match=reason):
        load(tmp_path / "alone.npy", tmp_path)


def test_an_array_cut_short_is_damaged(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((9, 8, 8, 3), np.uint8))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-5])
    with pytest.raises(UserError, match="damaged: 1,723 bytes of values, not 1,728"):
        load(tmp_path / "a.npy", tmp_path)


# -- arrays beside pictures ----------------------------------------------------------------------------------------


def npy(*shape: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(shape, np.uint8))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", WRITERS)
def test_arrays_beside_as_many_pictures_are_no_pictures(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = pictures("a.png", "b.png", "c.png") | {"a_latents.npy": npy(3, 18, 512)}
    data = load(WRITERS[kind](tmp_path / kind, files), tmp_path)
    assert sorted(data.files) == ["a.png", "b.png", "c.png"]
    assert "beside picture files: 1 .npy, a_latents.npy" in capsys.readouterr().err


@pytest.mark.parametrize("kind", WRITERS)
def test_arrays_with_fewer_pictures_are_the_set(kind: str, tmp_path: Path) -> None:
    files = pictures("a.png") | {"b.npy": npy(9, 9, 3), "c.npy": npy(9, 9, 3)}
    assert len(load(WRITERS[kind](tmp_path / kind, files), tmp_path).images) == 3


def test_pictures_of_other_channels_are_named_with_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = pictures("odd.png") | {f"{i}.npy": npy(9, 9, 6) for i in range(20)}
    load(write_folder(tmp_path / "set", files), tmp_path, img_channels=6)
    said = capsys.readouterr().err
    assert "odd.png" in said and "--img_channels" in said


# -- names with dots -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
def test_labels_beside_images_with_dots_in_their_names(kind: str, tmp_path: Path) -> None:
    names = [f"scan.{i:03d}" for i in range(6)]
    files = pictures(*(f"{name}.png" for name in names))
    files |= {f"{name}.cls": str(i % 2).encode() for i, name in enumerate(names)}
    data = load(WRITERS[kind](tmp_path / kind, files), tmp_path)
    assert by_name(data) == {f"{name}.png": str(i % 2) for i, name in enumerate(names)}


def test_labels_of_whole_names_beside_images(tmp_path: Path) -> None:
    files = pictures("a.1.png", "a.2.png") | {"a.1.png.cls": b"x", "a.2.png.cls": b"y"}
    data = load(write_folder(tmp_path / "set", files), tmp_path)
    assert by_name(data) == {"a.1.png": "x", "a.2.png": "y"}


def test_names_to_the_first_dot_join_samples_of_tars_alone() -> None:
    names, sides = ["a.left.png", "a.right.png", "b.left.png"], {"a.cls": "1", "b.cls": "0"}
    assert read_layout(names, {}, sides).labels is None
    assert read_layout(names, {}, sides, by_dot=True).labels.tolist() == [1, 1, 0]
    unclear = read_layout(names, {}, {"a.x.cls": "1", "a.y.cls": "0", "b.cls": "0"}, by_dot=True)
    assert unclear.labels is None
    assert "2 images, such as a.left.png, share the name before the first dot" in unclear.notes[0]


def test_train_with_classes_and_another_folder() -> None:
    names = [f"{top}/{i}.png" for top in ("train/cat", "train/dog", "unlabeled") for i in range(4)]
    layout = read_layout(names, {})
    assert layout.label_names == ("cat", "dog") and layout.splits == {"train": (0, 8)}
    assert any("beside the splits: 4 pictures" in note and "unlabeled/0.png" in note for note in layout.notes)


def test_trains_among_vehicles_are_a_class() -> None:
    flat = [f"{top}/{i}.png" for top in ("train", "bus", "car") for i in range(4)]
    assert read_layout(flat, {}).label_names == ("bus", "car", "train")
    deep = [f"{top}/{i}.png" for top in ("train/steam", "train/ice", "bus/red", "bus/blue") for i in range(4)]
    assert read_layout(deep, {}).label_names == ("bus", "train")


def test_colours_behind_the_grey_pictures_of_a_tar_are_not_lost_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a tar the first pictures alone tell how many channels there are."""
    greys = {f"a/{i:03}.png": colour(i % 256, mode="L") for i in range(LOOKED_AT)}
    colours = {f"b/{i:03}.png": colour((255, 0, 0)) for i in range(20)}
    path = write_tar(tmp_path / "set.tar", greys | colours)
    assert sample_of(open_files(path)).channels == 1
    load(path, tmp_path, img_channels=1)
    assert "3 are in colour and become grey: --img_channels 3" in capsys.readouterr().err
    load(write_tar(tmp_path / "grey.tar", greys), tmp_path, img_channels=1)
    assert "in colour" not in capsys.readouterr().err
    assert look_at.main([str(path), "--no_timing"]) == 0
    assert "--img_channels 3 keeps the colours of 20 pictures" in capsys.readouterr().out
