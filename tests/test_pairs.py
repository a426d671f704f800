"""Pictures of two sides: where they are found, who is whose partner, and batches that cut and mirror both alike."""

import io
import os
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from errors import UserError
from images.batches import Shard
from images.decoding import BadImage, Fit, decode
from images.pairing import Found, find_pairs, held_out
from images.pairs import PairBatches, Pairs, channels_of, load_pairs, luma

SIZE = 12
Pictures = Mapping[str, np.ndarray]


def coded(i: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """(H, W, 3) whose pixels say number, column and row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.full_like(rows, i), columns, rows], axis=2).astype(np.uint8)


def partner(i: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """The negative of `coded`."""
    return 255 - coded(i, height, width)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pack(place: Path, kind: str, pictures: Mapping[str, np.ndarray | bytes]) -> Path:
    """The pictures as a folder, or as an archive of this suffix."""
    files = {n: p if isinstance(p, bytes) else png(p) for n, p in pictures.items()}
    if kind == "folder":
        for name, data in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
        return place
    path = place.with_name(place.name + kind)
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if kind.endswith("gz") else "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def loaded(found: Found, **how: object) -> Pairs:
    return load_pairs(found, **({"img_size": SIZE, "img_channels": (3, 3)} | how))


def paired_set(place: Path, n: int, size: int = SIZE) -> Pairs:
    """n pairs to train on, which bear the numbers 0 .. n - 1, and two to validate."""
    sides = {"A": coded, "B": partner}
    pictures = {f"train{s}/{i:03d}.png": make(i, size, size) for s, make in sides.items() for i in range(n)}
    pictures |= {
        f"val{s}/{i:03d}.png": make(200 + i, size, size) for s, make in sides.items() for i in range(2)
    }
    return loaded(find_pairs(pack(place, "folder", pictures)), load_size=size)


def bytes_of(x: Tensor) -> np.ndarray:
    """(n, C, H, W) in [-1, 1] -> uint8 (n, H, W, C)."""
    return x.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def numbers(x: Tensor) -> list[int]:
    """Which coded pictures these are."""
    return bytes_of(x)[:, 0, 0, 0].tolist()


# -- finding -------------------------------------------------------------------------------------------------------


def beside(i: int) -> np.ndarray:
    return np.concatenate([coded(i), partner(i)], axis=1)


def both(name: str, i: int, a: str = ".png", b: str = ".png") -> Pictures:
    return {name.replace("?", "A") + a: coded(i), name.replace("?", "B") + b: partner(i)}


FORMS: dict[str, Callable[[int, str], Pictures]] = {
    "side by side": lambda i, split: {f"{split}/{i}.png": beside(i)},
    "trainA": lambda i, split: both(f"{split}?/{i}", i),
    "train_a": lambda i, split: {n.lower(): p for n, p in both(f"{split}_?/{i}", i).items()},
    "train/A": lambda i, split: both(f"{split}/?/{i}", i),
    "A/train": lambda i, split: both(f"?/{split}/{i}", i),
    "nested": lambda i, split: both(f"sets/b/{split}?/photos/{i}", i),
    "suffixes": lambda i, split: both(f"{split}?/{i}", i, ".png", ".jpeg"),
}


@pytest.mark.parametrize("kind", ["folder", ".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pairs(form: str, kind: str, tmp_path: Path) -> None:
    """The partner of a picture is its negative, in every form and packing, and either way round."""
    pictures: dict[str, np.ndarray] = {}
    for i, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"]):
        pictures |= FORMS[form](i, split)
    path = pack(tmp_path / "set", kind, dict(reversed(pictures.items())))
    pairs = loaded(find_pairs(path))
    for split, expected in ((pairs.train, [0, 1, 2, 3]), (pairs.val, [4, 5])):
        a, b = PairBatches(split, None, 0, True, "cpu").in_order(0, len(expected))
        assert numbers(a) == expected and len(split.a) == len(split.b) == len(split)
        np.testing.assert_array_equal(bytes_of(a), np.stack([coded(i) for i in expected]))
        assert torch.equal(b, -a)
    turned = loaded(find_pairs(path, direction="BtoA"))
    assert turned.train.a.fingerprint == pairs.train.b.fingerprint
    assert turned.train.b.fingerprint == pairs.train.a.fingerprint


@pytest.mark.parametrize("kinds", [("folder", ".zip"), (".tar", "folder")])
def test_two_paths(kinds: tuple[str, str], tmp_path: Path) -> None:
    """Each side a folder or an archive of its own, with folders of its own above the pictures."""
    a = pack(
        tmp_path / "photos",
        kinds[0],
        {f"x/{s}/{i}.png": coded(i) for i, s in enumerate(["train", "val"] * 2)},
    )
    b = pack(
        tmp_path / "maps", kinds[1], {f"{s}/{i}.png": partner(i) for i, s in enumerate(["train", "val"] * 2)}
    )
    found = find_pairs(a, b)
    assert found.name == "photos+maps"
    for split, expected in ((loaded(found).train, [0, 2]), (loaded(found).val, [1, 3])):
        x, y = PairBatches(split, None, 0, False, "cpu").in_order(0, 2)
        assert numbers(x) == expected and torch.equal(y, -x)


def test_without_folders_of_splits_a_tenth_is_held_out(tmp_path: Path) -> None:
    """By the pair's name: the same pairs whatever else is there, at least one, never all."""
    names = [f"picture {i}" for i in range(1000)]
    held = held_out(names)
    assert 70 < len(held) < 130 and held_out(names[:500]) == held & set(names[:500])
    assert [len(held_out(some)) for some in (names[:2], sorted(held)[:2], sorted(held)[2:5])] == [1, 1, 1]
    pictures: dict[str, np.ndarray] = {}
    for i in range(30):
        pictures |= both(f"?/{i}", i, ".png", ".bmp")
    pairs = loaded(find_pairs(pack(tmp_path / "set", "folder", pictures)))
    expected = sorted(int(key) for key in held_out(map(str, range(30))))
    for split in (pairs.train, pairs.val):
        a, b = PairBatches(split, None, 0, False, "cpu").in_order(0, len(split))
        assert torch.equal(b, -a) and (sorted(numbers(a)) == expected) == (split is pairs.val)
    assert len(pairs.train) + len(pairs.val) == 30


def test_test_is_for_validation_where_there_is_no_val(tmp_path: Path) -> None:
    pictures = {f"{s}/{i}.png": beside(i) for i, s in enumerate(["train", "train", "test"])}
    found = find_pairs(pack(tmp_path / "set", "folder", pictures))
    assert [sorted(found.sides[0].splits[s]) for s in ("train", "val")] == [
        ["train/0.png", "train/1.png"],
        ["test/2.png"],
    ]
    both_there = find_pairs(pack(tmp_path / "more", "folder", pictures | {"val/3.png": beside(3)}))
    assert list(both_there.sides[1].splits["val"]) == ["val/3.png"]
    assert any("that of test is left alone" in note for note in both_there.notes)


def test_one_side_in_folders_of_sides(tmp_path: Path) -> None:
    """A set of two sides as pictures of one: its test pictures are none to train on."""
    names = ["trainA/0", "trainB/1", "trainB/0", "testA/4", "testB/5"]
    path = pack(tmp_path / "set", "folder", {f"{name}.png": coded(i) for i, name in enumerate(names)})
    side = find_pairs(path, pairing="alone").sides[1]
    assert sorted(side.splits["train"]) == ["trainA/0.png", "trainB/0.png", "trainB/1.png"]
    assert sorted(side.splits["val"]) == ["testA/4.png", "testB/5.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    for side, make in (("A", coded), ("B", partner)):
        (tmp_path / side).mkdir()
        for i in range(2):
            (tmp_path / side / os.fsdecode(b"\xff%d.png" % i)).write_bytes(png(make(i)))
    pairs = loaded(find_pairs(tmp_path))
    assert len(pairs.train) == len(pairs.val) == 1
    assert torch.equal(*(x.abs() for x in PairBatches(pairs.train, None, 0, False, "cpu").in_order(0, 1)))


def refusal(path: Path, *more: object, **how: object) -> str:
    """The one line that tells what is wrong."""
    with pytest.raises(UserError) as caught:
        loaded(find_pairs(path, *more), **how)
    text = caught.value.for_command_line
    assert "\n" not in text
    return text


SET = {f"train{s}/{i}.png": coded(i) for s in "AB" for i in range(6)}


def without(*names: str) -> Pictures:
    return {name: p for name, p in SET.items() if name not in names}


REFUSED = {
    "partner": (
        without("trainB/1.png", "trainB/2.png", "trainB/3.png", "trainB/5.png", "trainA/0.png"),
        r"^4 of 5 pictures of A have no partner in B: trainA/1.png, trainA/2.png, trainA/3.png, ...; "
        r"1 of 2 pictures of B have no partner in A: trainB/0.png \(",
    ),
    "other split": (SET | {"valA/7.png": coded(7), "testB/7.png": coded(7)}, "A have no partner in B: valA/7.png; 1"),
    "empty": (
        without(*(f"trainB/{i}.png" for i in range(6))),
        "has 6 pictures of side A, such as trainA/0.png, and none of side B: put them into folders named so",
    ),
    "name twice": (
        SET | {"trainB/1.bmp": coded(1)},
        "names that stand for several pictures of B: 1, such as trainB/1.bmp, trainB/1.png: rename",
    ),
    "shapes": (
        SET | {"trainB/1.png": coded(1, 10, 12), "trainB/4.png": coded(4, 13, 12), "trainA/2.png": coded(2, 24, 24)},
        r"2 of 6 pairs have sides of other shapes: 1, 4 \(the first: 12 high, 12 wide and 10 high, 12 wide\)",
    ),
    "nothing": (
        {f"{i}.png": coded(i) for i in range(3)},
        r"no folders of two sides, .* \(12 high, 12 wide\) .*--data_b",
    ),
    "one": ({"A/0.png": coded(0), "B/0.png": coded(0)}, "has 1 picture of side A, by name: at least 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_with_pairs_is_one_line(case: str, tmp_path: Path) -> None:
    pictures, text = REFUSED[case]
    assert re.search(text, refusal(pack(tmp_path / "set", "folder", pictures)))


def test_arguments_that_cannot_be(tmp_path: Path) -> None:
    path = pack(tmp_path / "set", ".zip", SET)
    assert "--pairing sided: choose one of paired, unpaired, grey, alone" in refusal(path, None, "sided")
    assert "--direction AB: choose one of AtoB, BtoA" in refusal(path, None, "paired", "AB")
    assert "--data_b" in refusal(path, path, "grey")
    assert "--load_size 8: pieces of --img_size 12" in refusal(path, load_size=8)
    assert "--crop round" in refusal(path, crop="round")
    assert "--value_range" in refusal(path, value_range=(2, 1))
    assert "are the pictures of" in refusal(path, None, "grey", img_channels=(1, 1))
    (tmp_path / "empty").mkdir()
    assert "empty holds no images" in refusal(path, tmp_path / "empty")


# -- decoding ------------------------------------------------------------------------------------------------------


def test_halves_keep_to_themselves() -> None:
    """Each half is resized alone: nothing of the other one rings into it, of odd widths, low ones, turned ones."""
    for height, width in ((20, 41), (7, 40), (30, 31)):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[:, width // 2 :] = 255
        for half, level in (("left", 0), ("right", 255)):
            assert (decode(png(pixels), (16, 16, 3), Fit("stretch", half=half)) == level).all()
        turned = io.BytesIO()
        exif = Image.Exif()
        exif[274] = 6  # shown turned by a quarter to the right
        Image.fromarray(np.rot90(pixels).copy()).save(turned, "PNG", exif=exif)
        assert (decode(turned.getvalue(), (16, 16, 3), Fit("stretch", half="left")) == 0).all()
    with pytest.raises(BadImage, match="20 high, 20 wide: no two pictures side by side"):
        decode(png(coded(0, 20, 20)), (8, 8, 3), Fit(half="left"))


@pytest.mark.parametrize("kind", ["folder", ".tar"])
def test_what_cannot_be_read_is_left_out_with_its_partner(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures: dict[str, np.ndarray | bytes] = {}
    for i in range(24):
        pictures |= both(f"train?/{i:02d}", i)
    pictures |= both("val?/0", 0) | {"trainA/03.png": b"no picture", "trainB/17.png": b""}
    found = find_pairs(pack(tmp_path / "set", kind, pictures))
    pairs = loaded(found)
    said = capsys.readouterr().err
    assert "trainA/03.png" in said and "warning: 2 pairs of" in said
    assert "24 pairs to train, 1 to validate" in said and "(train) are left out" in said
    expected = [i for i in range(24) if i not in (3, 17)]
    a, b = PairBatches(pairs.train, None, 0, False, "cpu").in_order(0, 22)
    assert numbers(a) == expected and torch.equal(b, -a) and len(pairs.train.a) == len(pairs.train.b) == 22
    # what the others open, which decode nothing
    assert loaded(found, is_main=False).train.fingerprint == pairs.train.fingerprint


def test_stacks_of_unequal_length(tmp_path: Path) -> None:
    """Rows of one number are partners; the one that has none is left out."""
    for side, make, lengths in (("A", coded, (5, 3)), ("B", partner, (4, 3))):
        (tmp_path / side).mkdir()
        for k, n in enumerate(lengths):
            np.save(tmp_path / side / f"stack{k}.npy", np.stack([make(10 * k + i) for i in range(n)]))
    found = find_pairs(tmp_path)
    pairs = loaded(found)
    rows = []
    for split in (pairs.train, pairs.val):
        a, b = PairBatches(split, None, 0, False, "cpu").in_order(0, len(split))
        assert torch.equal(b, -a)
        rows += numbers(a)
    assert sorted(rows) == [0, 1, 2, 3, 10, 11, 12]


def test_suffixes_do_not_change_the_order(tmp_path: Path) -> None:
    """1.png comes before 1.q.png, and 1.tif behind 1.q.tif."""
    pictures: dict[str, np.ndarray] = {}
    for i, stem in enumerate(("1", "1.q", "1-2", "1.z")):
        for split in ("train", "val"):
            pictures |= both(f"{split}?/{stem}", i, ".png", ".tif")
    train = loaded(find_pairs(pack(tmp_path / "set", ".zip", pictures))).train
    a, b = PairBatches(train, None, 0, False, "cpu").in_order(0, 4)
    assert torch.equal(b, -a)


def test_whole_files_and_their_halves_are_no_one_cache(tmp_path: Path) -> None:
    pictures = {f"{split}/{i}.png": beside(i) for split in ("train", "val") for i in (0, 1)}
    path = pack(tmp_path / "set", "folder", pictures)
    found = (find_pairs(path, None, pairing) for pairing in ("paired", "alone"))
    halves, whole = (loaded(each, crop="stretch").train.b for each in found)
    assert halves.files == whole.files and not np.array_equal(halves.images, whole.images)


def test_training_is_loaded_larger_and_validation_whole(tmp_path: Path) -> None:
    two = [np.concatenate([side(i, 40, 60) for side in (coded, partner)], axis=1) for i in range(2)]
    pictures = {f"{split}/{i}.png": two[i] for split in ("train", "val") for i in range(2)}
    found = find_pairs(pack(tmp_path / "set", "folder", pictures))
    pairs = loaded(found, img_size=(8, 12), load_size=(10, 15), crop="stretch")
    assert pairs.train.a.images.shape == pairs.train.b.images.shape == (2, 10, 15, 3)
    assert pairs.val.a.images.shape == (2, 8, 12, 3)
    whole = Image.fromarray(coded(0, 40, 60)).resize((12, 8), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(pairs.val.a.images[0], np.asarray(whole))
    x, _ = PairBatches(pairs.train, Shard(2), 0, False, "cpu", img_size=(8, 12)).micro(0)
    assert x.shape == (2, 3, 8, 12)


def test_validation_has_the_scale_of_training(tmp_path: Path) -> None:
    """One value is one level in both parts, whatever the largest of each part is; each side has its own scale."""
    value = {"trainA": (4000, 1000), "valA": (1000, 500), "trainB": (60000, 1000), "valB": (1000, 500)}
    for name, values in value.items():
        for i in range(3):
            pixels = np.full((SIZE, SIZE), values[min(i, 1)], np.uint16)
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    pairs = load_pairs(find_pairs(tmp_path), img_size=SIZE, img_channels=(1, 1), cache_dir=tmp_path / "cache")
    for side, most in (("a", 4095), ("b", 65535)):
        train, val = (getattr(part, side) for part in (pairs.train, pairs.val))
        assert train.scale == val.scale == (0, most)
        assert np.unique(train.images[1]) == np.unique(val.images[0]) == round(1000 * 255 / most)


def test_fingerprints_are_of_the_pixels_of_both_sides(tmp_path: Path) -> None:
    prints = set()
    for k, changed in enumerate(({}, {"trainA/2.png": coded(9)}, {"trainB/2.png": coded(9)})):
        pairs = loaded(find_pairs(pack(tmp_path / f"set{k}", "folder", SET | changed)))
        prints.add((pairs.train.fingerprint, pairs.val.fingerprint))
    assert len(prints) == 3
    packed = loaded(find_pairs(pack(tmp_path / "again", ".tar.gz", SET)))
    assert (packed.train.fingerprint, packed.val.fingerprint) in prints


def test_each_side_has_its_own_channels(tmp_path: Path) -> None:
    """A grey and B in colour; and 5 channels of arrays beside as many pictures, in folders and in stacks."""
    grey = {f"A/{i}.png": coded(i)[..., 0] for i in range(3)} | {f"B/{i}.png": partner(i) for i in range(3)}
    found = find_pairs(pack(tmp_path / "grey", ".zip", grey))
    assert channels_of(found) == (1, 3)
    pairs = loaded(found, img_channels=(1, 3))
    assert pairs.train.a.images.shape[3] == 1 and pairs.train.b.images.shape[3] == 3
    many = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 5), dtype=np.uint8)
    np.save(tmp_path / "many.npy", many)
    pictures = pack(tmp_path / "pictures", "folder", {f"{i:06d}.png": coded(i) for i in range(4)})
    arrays: dict[str, np.ndarray | bytes] = {f"B/{i:06d}.png": coded(i) for i in range(4)}
    for i in range(4):
        buffer = io.BytesIO()
        np.save(buffer, many[i])
        arrays[f"A/{i:06d}.npy"] = buffer.getvalue()
    found = find_pairs(tmp_path / "many.npy", pictures), find_pairs(pack(tmp_path / "arrays", ".tar", arrays))
    for each in found:
        assert channels_of(each) == (5, 3)
        train = loaded(each, img_channels=(5, 3)).train
        assert len(train) == 3
        for row, picture in zip(train.a.images, train.b.images, strict=True):
            np.testing.assert_array_equal(row, many[picture[0, 0, 0]])


# -- batches -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """11 pairs of 16 px."""
    return paired_set(tmp_path_factory.mktemp("pairs") / "set", 11, 16)


def test_partners_are_cut_and_mirrored_alike(large: Pairs) -> None:
    """Each batch against what the pixels themselves say: number, place and mirror; B is A's negative in all of them."""
    batches = PairBatches(large.train, Shard(5), 3, True, "cpu", img_size=SIZE)
    seen, places, mirrors = [], set(), []
    for start in range(0, 11 * 20, 5):
        a, b = batches.micro(start)
        assert torch.equal(b, -a)
        for x in bytes_of(a):
            mirrored = bool(x[0, 0, 1] > x[0, 1, 1])
            left, top = x[..., 1].min(), x[..., 2].min()
            piece = coded(x[0, 0, 0], 16, 16)[top : top + SIZE, left : left + SIZE]
            np.testing.assert_array_equal(x, piece[:, ::-1] if mirrored else piece)
            seen.append(int(x[0, 0, 0]))
            places.add((int(left), int(top)))
            mirrors.append(mirrored)
    assert all(sorted(seen[e : e + 11]) == list(range(11)) for e in range(0, 220, 11))
    assert len({tuple(seen[e : e + 11]) for e in range(0, 220, 11)}) == 20
    # all 25 places and both ways
    assert places == {(left, top) for left in range(5) for top in range(5)} and 80 < sum(mirrors) < 140
    one = bytes_of(batches.micro(0)[0])
    assert len({(x[..., 1].min(), x[..., 2].min()) for x in one}) > 1


@pytest.mark.parametrize("pairing", ["paired", "unpaired", "grey", "alone"])
def test_slices_over_processes_and_micro_batches_are_the_whole(pairing: str, tmp_path: Path) -> None:
    pictures = {
        f"{s}/{i}.png": coded(i + k, 16, 16) for k, s in ((0, "trainA"), (90, "trainB")) for i in range(13)
    }
    path = pack(tmp_path / "set", "folder", pictures | {"valA/0.png": coded(0), "valB/0.png": coded(1)})
    train = loaded(
        find_pairs(path, None, pairing), load_size=16, img_channels=(1 if pairing == "grey" else 3, 3)
    ).train

    def batches(shard: Shard, seed: int = 0) -> PairBatches:
        return PairBatches(train, shard, seed, True, "cpu", channels_last=True, img_size=SIZE)

    whole = batches(Shard(12)).micro(24)
    assert (whole[0] is None) == (pairing == "alone")
    parts = [batches(Shard(12, 2, r, 3)).micro(24, j) for j in range(3) for r in range(2)]
    smaller = [batches(Shard(4, 2, r)).micro(24, 0, Shard(12, 2, r)) for r in range(2)]
    for side in (0, 1) if whole[0] is not None else (1,):
        assert torch.equal(torch.cat([p[side] for p in parts]), whole[side])
        assert torch.equal(torch.cat([p[side] for p in smaller]), whole[side])
        assert not torch.equal(batches(Shard(12), 1).micro(24)[side], whole[side])
        assert not torch.equal(batches(Shard(12)).micro(12)[side], whole[side])
        assert torch.equal(batches(Shard(12)).micro(24)[side], whole[side])
        assert whole[side].is_contiguous(memory_format=torch.channels_last)
    batches(Shard(12, accumulate=2)).announce(24)


@pytest.mark.parametrize("kind", ["folder", ".zip"])
def test_unpaired_sides_go_their_own_ways(kind: str, tmp_path: Path) -> None:
    """Unequal numbers: epochs, mirrors and places of each side are its own."""
    sizes = {"trainA": 7, "trainB": 4, "testA": 2, "testB": 1}
    pictures = {
        f"{folder}/{folder}{i}.png": coded(i, 16, 16) for folder, n in sizes.items() for i in range(n)
    }
    found = find_pairs(pack(tmp_path / "set", kind, pictures), pairing="unpaired")
    pairs = loaded(found, load_size=16)
    assert [len(side) for split in (pairs.train, pairs.val) for side in split.there] == [7, 4, 2, 1]
    assert (
        len(pairs.train) == 7
        and "set: side A: 7 pictures to train, 2 to validate; side B: 4" in found.notes[-1]
    )
    batches = PairBatches(pairs.train, Shard(4), 0, True, "cpu", img_size=SIZE)
    rows = [[bytes_of(x) for x in batches.micro(start)] for start in range(0, 28, 4)]
    a, b = (np.concatenate(side) for side in zip(*rows, strict=True))
    assert all(sorted(a[e : e + 7, 0, 0, 0]) == list(range(7)) for e in range(0, 28, 7))
    assert all(sorted(b[e : e + 4, 0, 0, 0]) == list(range(4)) for e in range(0, 28, 4))
    mirrors, places = (
        [x[:, 0, 0, 1] > x[:, 0, 1, 1] for x in (a, b)],
        [x[..., 1:].min((1, 2)).sum(1) for x in (a, b)],
    )
    for one, other in (mirrors, places):
        assert 0 < (one == other).sum() < len(a)
    a, b = PairBatches(pairs.val, None, 0, True, "cpu").in_order(1, 3)
    assert numbers(a) == [1, 0, 1] and numbers(b) == [0, 0, 0]
    with pytest.raises(UserError, match=r"batch_size 5 is larger than the data \(4 images\)"):
        PairBatches(pairs.train, Shard(5), 0, False, "cpu")


def test_the_same_name_of_unpaired_sides_is_no_partner(tmp_path: Path) -> None:
    """The two sides of one set in two orders."""
    found = find_pairs(pack(tmp_path / "set", "folder", SET), pairing="unpaired")
    batches = PairBatches(loaded(found).train, Shard(5), 0, False, "cpu")
    orders = [[numbers(x) for x in batches.micro(start)] for start in range(0, 50, 5)]
    assert sum(a == b for a, b in orders) < 5


def test_in_order_takes_the_centre(large: Pairs) -> None:
    a, b = PairBatches(large.train, None, 0, True, "cpu", img_size=SIZE).in_order(9, 3)
    expected = np.stack([coded(i, 16, 16)[2:14, 2:14] for i in (9, 10, 0)])
    np.testing.assert_array_equal(bytes_of(a), expected)
    assert torch.equal(b, -a)


def test_grey_is_pillow_s(tmp_path: Path) -> None:
    """Of each colour within 1 of 255; made after cutting and mirroring, so that both are of one piece."""
    colours = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    expected = np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in colours]).astype(int)
    assert abs(luma(torch.from_numpy(colours))[..., 0].numpy().astype(int) - expected).max() <= 1
    path = pack(tmp_path / "set", ".zip", {f"{i}.png": colours[i % 4] for i in range(12)})
    found = find_pairs(path, pairing="grey")
    assert channels_of(found) == (1, 3)
    train = loaded(found, img_channels=(1, 3), img_size=16, load_size=20).train
    assert train.a is None
    batches = PairBatches(train, Shard(8), 0, True, "cpu", img_size=16)
    for grey, colour in (batches.micro(8), batches.in_order(0, 3)):
        assert grey.shape == (len(colour), 1, 16, 16)
        for x, y in zip(bytes_of(grey), bytes_of(colour), strict=True):
            assert (
                abs(x[..., 0].astype(int) - np.asarray(Image.fromarray(y).convert("L")).astype(int)).max()
                <= 1
            )
    turned = find_pairs(path, pairing="grey", direction="BtoA")
    assert channels_of(turned) == (3, 1)
    train = loaded(turned, img_channels=(3, 1), img_size=16, load_size=20).train
    again = PairBatches(train, Shard(8), 0, True, "cpu", img_size=16).micro(8)
    assert all(torch.equal(x, y) for x, y in zip(again, reversed(batches.micro(8)), strict=True))


def test_alone_has_no_source(tmp_path: Path) -> None:
    path = pack(tmp_path / "set", "folder", {f"cats/{i}.png": coded(i) for i in range(5)})
    found = find_pairs(path, pairing="alone")
    assert channels_of(found) == (3, 3)
    batches = PairBatches(loaded(found).train, Shard(2), 0, False, "cpu")
    assert batches.micro(0)[0] is None and batches.micro(0)[1].shape == (2, 3, SIZE, SIZE)
    assert batches.in_order(0, 1)[0] is None


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu(large: Pairs) -> None:
    """Held there or copied, the batches are the same."""
    here = PairBatches(large.train, Shard(6), 0, True, "cpu", img_size=SIZE).micro(6)
    for place in ("cpu", "device"):
        there = PairBatches(large.train, Shard(6), 0, True, "cuda", place, img_size=SIZE).micro(6)
        assert all(torch.equal(x, y.cpu()) for x, y in zip(here, there, strict=True))
