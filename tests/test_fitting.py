"""How pictures come to one size, to their channels and to 8 bits: crops, alpha, one scale for many bits, arrays."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from errors import UserError
from generation.pictures import in_colour, to_grid, to_picture
from images.arrays import png_array, scale_of_set, to_bytes
from images.batches import ImageData
from images.decoding import CROPS, BadImage, Fit, Member, decode, decode_chunk
from images.scan import header_of
from images.sources import load_dataset, set_name
from tests.test_data import WRITERS, colour, encoded, striped, write_folder


def load(path: Path, tmp_path: Path, **changes: object) -> ImageData:
    """The images of a set through a cache of the test's own, 4x4 grey."""
    how = {"img_size": 4, "img_channels": 1, "cache_dir": tmp_path / "cache", "data": path}
    return load_dataset(set_name(path), **(how | changes))


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


# -- crops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crop", "of", "to", "rows", "columns"),
    [
        ("centre", (24, 10), (10, 10), (7, 17), (0, 10)),
        ("top", (24, 10), (10, 10), (0, 10), (0, 10)),
        ("top", (10, 24), (10, 10), (0, 10), (7, 17)),
    ],
)
def test_crops_take_their_piece(crop: str, of: tuple, to: tuple, rows: tuple, columns: tuple) -> None:
    pixels = decode(encoded(striped(*of)), (*to, 3), Fit(crop))
    row, column = np.meshgrid(range(*rows), range(*columns), indexing="ij")
    assert (pixels[..., 0] == row).all() and (pixels[..., 1] == column).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pad_keeps_the_whole_picture_with_black_or_nothing_around_it(channels: int) -> None:
    pixels = decode(colour((255, 255, 255), (10, 30)), (12, 12, channels), Fit("pad"))
    assert (pixels[:, 4:8] == 255).all()
    assert not pixels[:, :4].any() and not pixels[:, 8:].any()


def test_stretch_takes_all_of_it() -> None:
    pixels = decode(encoded(striped(20, 40)), (20, 20, 3), Fit("stretch")).astype(int)
    row, column = np.indices((20, 20))
    np.testing.assert_allclose(pixels[..., 0], row, atol=1)
    np.testing.assert_allclose(pixels[..., 1], 2 * column + 0.5, atol=1)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", [(7, 7), (3, 200), (200, 3), (1, 1)])
def test_every_crop_makes_every_size(crop: str, size: tuple[int, int]) -> None:
    assert (decode(colour((9, 9, 9), size), (5, 8, 3), Fit(crop)) == 9).any()
    square = decode(encoded(striped(8, 8)), (8, 8, 3), Fit(crop))
    assert (square == decode(encoded(striped(8, 8)), (8, 8, 3))).all()


def test_crops_have_caches_and_protocols_of_their_own(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"a.png": encoded(striped(24, 10))})
    found = {crop: load(folder, tmp_path, img_size=10, img_channels=3, crop=crop) for crop in CROPS}
    assert (
        len({data.path for data in found.values()}) == len({data.fingerprint for data in found.values()}) == 4
    )
    assert len({data.fitting for data in found.values()}) == 4
    again = load(folder, tmp_path, img_size=10, img_channels=3)
    assert (again.path, again.fitting) == (found["centre"].path, found["centre"].fitting)
    with pytest.raises(UserError, match="choose one of centre, top, pad, stretch"):
        load(folder, tmp_path, crop="middle")


# -- channels --------------------------------------------------------------------------------------------------------


def test_rgba_is_learned_as_such_where_it_is_asked_for() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    assert (decode(encoded(Image.fromarray(pixels)), (8, 8, 4)) == pixels).all()
    opaque = decode(colour((1, 2, 3)), (8, 8, 4))
    assert (opaque == (1, 2, 3, 255)).all()
    both = decode(encoded(Image.fromarray(pixels[..., :2], "LA")), (8, 8, 2))
    assert (both == pixels[..., :2]).all()


def test_colours_behind_transparency_do_not_leak_where_it_is_resized() -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 255))
    image.paste((0, 255, 0, 0), (0, 0, 8, 16))  # transparent green beside red
    pixels = decode(encoded(image), (4, 4, 4))
    assert (pixels[..., 1][pixels[..., 3] > 0] == 0).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_lab_and_other_modes_become_any_channels(channels: int) -> None:
    rgb = Image.new("RGB", (8, 8), (200, 30, 40))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(rgb, *profiles, outputMode="LAB")
    wanted = decode(encoded(rgb), (8, 8, channels))
    np.testing.assert_allclose(decode(encoded(lab, "TIFF"), (8, 8, channels)), wanted, atol=3)
    for mode in ("CMYK", "YCbCr", "P"):
        # Pillow 12.3 cannot read what it writes in YCbCr uncompressed
        kind, how = ("TIFF", {"compression": "tiff_lzw"}) if mode != "P" else ("PNG", {})
        np.testing.assert_allclose(
            decode(encoded(rgb.convert(mode), kind, **how), (8, 8, channels)), wanted, atol=60
        )


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_arrays_of_n_channels(n: int) -> None:
    pixels = np.random.default_rng(n).integers(0, 256, (12, 12, n), dtype=np.uint8)
    for form in (pixels, np.moveaxis(pixels, 2, 0), np.asfortranarray(pixels)):
        assert (decode(npy(form), (12, 12, n)) == pixels).all()
        assert header_of(npy(form)).channels == n
    if n > 4:
        with pytest.raises(BadImage, match=f"{n} channels, where 3 are read: --img_channels"):
            decode(npy(pixels), (12, 12, 3))


def test_a_picture_among_arrays_of_many_channels_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = {f"{i}.npy": npy(np.full((4, 4, 5), i, np.uint8)) for i in range(12)} | {"x.png": colour(0)}
    data = load(write_folder(tmp_path / "set", files), tmp_path, img_channels=5)
    assert len(data) == 12 and "x.png: a picture of Pillow's mode RGB, where 5" in capsys.readouterr().err
    with pytest.raises(UserError, match="choose 1 .*, 3 .*, 4 .* up to 64"):
        load(tmp_path / "set", tmp_path, img_channels=65)


def test_what_is_shown_of_channels() -> None:
    """Hand-worked: grey repeated, alpha over white, the first of others as red, green and blue."""
    assert in_colour(torch.full((2, 1, 1, 1), 7, dtype=torch.uint8)).flatten().tolist() == [7] * 6
    rgba = torch.tensor([[200, 100, 0, 51]], dtype=torch.uint8).reshape(1, 4, 1, 1)
    assert in_colour(rgba).flatten().tolist() == [244, 224, 204]  # a fifth of the colour, four of white
    two = torch.tensor([[3, 4]], dtype=torch.uint8).reshape(1, 2, 1, 1)
    assert in_colour(two).flatten().tolist() == [3, 4, 0]
    five = torch.arange(5, dtype=torch.uint8).reshape(1, 5, 1, 1)
    assert in_colour(five).flatten().tolist() == [0, 1, 2]
    assert to_picture(rgba[0]).mode == "RGBA" and to_picture(five[0]).mode == "RGB"
    assert to_grid(five.expand(3, -1, 4, 4), 2).size == (14, 14)


# -- many bits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "floating", "scale"),
    [
        (0, 255, False, (0, 255)),  # in 32 bits
        (0, 256, False, (0, 1023)),
        (3, 4095, False, (0, 4095)),
        (0, 9000, False, (0, 16383)),
        (0, 40000, False, (0, 65535)),
        (0, 65536, False, (0, 65536)),
        (-1000, 3000, False, (-1000, 3000)),
        (0, 0.5, True, (0, 1)),
        (-0.7, 1, True, (-1, 1)),
        (0, 255, True, (0, 255)),
        (0, 37.5, True, (0, 37.5)),
        (-3, 12, True, (-3, 12)),
    ],
)
def test_the_scale_of_a_set(low: float, high: float, floating: bool, scale: tuple) -> None:
    assert scale_of_set(low, high, floating) == scale


def test_values_by_a_scale() -> None:
    values = np.array([-5, 0, 52, 100, 300], np.int32)
    assert to_bytes(values, (0, 100)).tolist() == [0, 0, 133, 255, 255]
    assert to_bytes(np.array([True, False]), (5, 6)).tolist() == [255, 0]
    assert to_bytes(np.array([1, 2], np.uint8), (5, 6)).tolist() == [1, 2]


DEEP = {
    "int32 of 8 bits": (np.int32, "TIFF", 255, 255),
    "12 bits in 16": (np.uint16, "PNG", 4095, 4095),
    "12 bits in a TIFF": (np.uint16, "TIFF", 4000, 4095),
    "16 bits": (np.uint16, "PNG", 65535, 65535),
    "floats": (np.float32, "TIFF", 37.5, 37.5),
    "arrays": (np.int16, None, 900, 1023),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", DEEP)
def test_one_scale_for_the_whole_set(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Picture i is of one value, (i + 1) / 6 of the greatest: its share of the scale stays, whatever its own range."""
    dtype, format, top, end = DEEP[name]
    values = [np.full((4, 4), top * (i + 1) / 6).astype(dtype) for i in range(6)]
    suffix = {"TIFF": "tif", "PNG": "png", None: "npy"}[format]
    files = {
        f"{i}.{suffix}": npy(v) if format is None else encoded(Image.fromarray(v), format)
        for i, v in enumerate(values)
    }
    data = load(WRITERS[kind](tmp_path / kind, files), tmp_path)
    start = top / 6 if name == "floats" else 0  # their own range, which begins with the first picture
    expected = [(float(v[0, 0]) - start) / (end - start) * 255 for v in values]
    np.testing.assert_allclose(data.images[:, 0, 0, 0], expected, atol=0.51)
    said = capsys.readouterr().err
    assert "6 pictures of more than 8 bits" in said and said.count("become 0 to 255") == 1
    assert data.scale == pytest.approx((start, end)) and f"to {end:g} as 0 to 255" in data.fitting


def test_a_given_range_wins_and_is_part_of_the_key(tmp_path: Path) -> None:
    values = [np.full((4, 4), v, np.uint16) for v in (0, 500, 1000, 2000)]
    folder = write_folder(
        tmp_path / "set", {f"{i}.png": encoded(Image.fromarray(v)) for i, v in enumerate(values)}
    )
    found, given = load(folder, tmp_path), load(folder, tmp_path, value_range=(0, 1000))
    assert given.images[:, 0, 0, 0].tolist() == [0, 128, 255, 255]
    assert found.scale == (0, 4095) and given.scale == (0, 1000) and found.path != given.path
    assert load(folder, tmp_path, value_range=[0, 1000]).path == given.path
    for wrong in ((1, 0), (0, 0), (0,), (0, float("nan")), "ab", (0, None)):
        with pytest.raises(UserError, match="give two numbers, the smaller first"):
            load(folder, tmp_path, value_range=wrong)


def test_pictures_of_8_bits_among_deep_ones_stay(tmp_path: Path) -> None:
    files = {
        "a.png": encoded(Image.fromarray(np.full((4, 4), 4095, np.uint16))),
        "b.png": colour(100, (4, 4), "L"),
    }
    assert load(write_folder(tmp_path / "set", files), tmp_path).images[:, 0, 0, 0].tolist() == [255, 100]


def test_pictures_of_8_bits_are_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor need a scale, which is said where one is given."""
    folder = write_folder(tmp_path / "set", {"a.png": colour(100, (4, 4), "L")})
    monkeypatch.setattr("images.scan.ranges_of_chunk", lambda *given, **how: pytest.fail("values were read"))
    assert load(folder, tmp_path).scale is None


def test_nan_is_listed_and_does_not_spoil_the_scale(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    files = {f"{i}.npy": npy(np.full((4, 4), i, np.float32)) for i in range(12)} | {
        "x.npy": npy(np.full((4, 4), np.nan))
    }
    data = load(write_folder(tmp_path / "set", files), tmp_path)
    assert (
        len(data) == 12
        and data.scale == (0, 11)
        and "x.npy: floating-point image with NaN" in capsys.readouterr().err
    )


# -- files that Pillow reads in part ---------------------------------------------------------------------------------


def filtered(kind: int, row: bytes, above: bytes, n: int) -> bytes:
    """A row as PNG 1.2 section 6 filters it, byte by byte; n: bytes a pixel."""
    out = bytearray()
    for i, value in enumerate(row):
        a, b, c = (row[i - n] if i >= n else 0), above[i], (above[i - n] if i >= n else 0)
        p = a + b - c
        paeth = min((a, b, c), key=lambda v: abs(p - v))  # of equals the first
        out.append((value - (0, a, b, (a + b) // 2, paeth)[kind]) & 255)
    return bytes(out)


def png16(values: np.ndarray, filters: Sequence[int] = (0,)) -> bytes:
    """A PNG of uint16 (H, W, 2, 3 or 4), written from the format's definition; filters: of its rows in turn."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, n = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[n], 0, 0, 0)
    rows = [row.astype(">u2").tobytes() for row in values]
    lines = b""
    for i, row in enumerate(rows):
        kind = filters[i % len(filters)]
        lines += bytes([kind]) + filtered(kind, row, rows[i - 1] if i else bytes(len(row)), 2 * n)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def tiff(
    values: np.ndarray,
    *,
    order: str = "<",
    planar: bool = False,
    deflate: bool = False,
    differences: bool = False,
    rows: int = 5,
    alpha: bool = False,
) -> bytes:
    """A TIFF of (H, W, C), written from TIFF 6.0: strips of `rows` rows, each plane's after the other's if planar."""
    height, width, n = values.shape
    kind = values.dtype.newbyteorder(order)
    if differences:
        values = np.diff(values, axis=1, prepend=np.zeros_like(values[:, :1]))
    planes = [values[..., i : i + 1] for i in range(n)] if planar else [values]
    strips = [p[top : top + rows].astype(kind).tobytes() for p in planes for top in range(0, height, rows)]
    strips = [zlib.compress(strip) if deflate else strip for strip in strips]
    body, offsets = b"", []
    for strip in strips:
        offsets.append(8 + len(body))
        body += strip
    code = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [8 * values.dtype.itemsize] * n),
        259: (3, [8 if deflate else 1]),
        262: (3, [2 if n in (3, 4) else 1]), 273: (4, offsets), 277: (3, [n]), 278: (4, [rows]),
        279: (4, [len(strip) for strip in strips]), 284: (3, [2 if planar else 1]),
        317: (3, [2 if differences else 1]), 339: (3, [code] * n),
    }  # fmt: skip
    if n == 4 or alpha:
        tags[338] = (3, [2])
    place = 8 + len(body) + len(body) % 2
    entries, behind = b"", b""
    for tag, (size, numbers) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}{'HL'[size == 4]}", *numbers)
        entries += struct.pack(order + "HHL", tag, size, len(numbers))
        if len(packed) > 4:
            entries += struct.pack(order + "L", place + 2 + 12 * len(tags) + 4 + len(behind))
            behind += packed
        else:
            entries += packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", place)
    return (
        head
        + body.ljust(place - 8, b"\0")
        + struct.pack(order + "H", len(tags))
        + entries
        + bytes(4)
        + behind
    )


FORMS = [
    {},
    {"order": ">"},
    {"planar": True},
    {"planar": True, "order": ">", "rows": 100},
    {"deflate": True},
    {"deflate": True, "differences": True},
    {"deflate": True, "differences": True, "planar": True, "order": ">"},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(map(str, form)) or "plain")
@pytest.mark.parametrize(
    ("n", "dtype", "top"), [(5, "uint8", 255), (2, "uint16", 4000), (6, "uint16", 60000), (3, "uint16", 4000)]
)
def test_tiffs_of_n_channels(form: dict, n: int, dtype: str, top: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(n)
    values = [rng.integers(0, top, (12, 12, n), endpoint=True).astype(dtype) for _ in range(3)]
    values[0][0, 0] = top
    files = {f"{i}.tif": tiff(v, **form) for i, v in enumerate(values)}
    data = load(write_folder(tmp_path / "set", files), tmp_path, img_size=12, img_channels=n)
    end = {"uint8": 255, "uint16": 4095 if top < 4096 else 65535}[dtype]
    np.testing.assert_allclose(data.images, np.stack(values) / end * 255, atol=0.51)
    assert header_of(files["0.tif"]).channels == n


@pytest.mark.parametrize("dtype", ["float32", "int32", "int16"])
def test_tiffs_of_other_numbers(dtype: str, tmp_path: Path) -> None:
    values = (np.random.default_rng(0).random((12, 12, 5)) * 2000 - 500).astype(dtype)
    data = load(
        write_folder(tmp_path / "set", {"a.tif": tiff(values)}), tmp_path, img_size=12, img_channels=5
    )
    low, high = values.min(), values.max()
    np.testing.assert_allclose(
        data.images[0], (values - float(low)) / (float(high) - float(low)) * 255, atol=0.51
    )


def test_pages_of_a_tiff_are_channels_where_there_are_as_many(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (5, 12, 12), dtype=np.uint16)
    pages = [Image.fromarray(page) for page in values]
    stack = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert header_of(stack).channels == 5
    folder = write_folder(tmp_path / "set", {"a.tif": stack})
    data = load(folder, tmp_path, img_size=12, img_channels=5)
    np.testing.assert_allclose(data.images[0], np.moveaxis(values, 0, 2) / 1023 * 255, atol=0.51)
    first = load(folder, tmp_path, img_size=12)
    assert first.images.shape == (1, 12, 12, 1)


@pytest.mark.parametrize("filters", [(0,), (1,), (2,), (3,), (4,), (0, 1, 2, 3, 4, 4, 3)], ids=str)
@pytest.mark.parametrize("n", [2, 3, 4])
def test_pngs_of_16_bits_in_colour_keep_their_lower_half(n: int, filters: tuple, tmp_path: Path) -> None:
    """12 bits in 16 would be 16 levels by their upper half."""
    values = [np.random.default_rng(i).integers(0, 4096, (12, 12, n), dtype=np.uint16) for i in range(3)]
    values[0][0, 0] = 4095
    folder = write_folder(tmp_path / "set", {f"{i}.png": png16(v, filters) for i, v in enumerate(values)})
    data = load(folder, tmp_path, img_size=12, img_channels=n)
    np.testing.assert_allclose(data.images, np.stack(values) / 4095 * 255, atol=0.51)


@pytest.mark.parametrize("make", [png16, tiff])
def test_16_bits_in_colour_that_use_them_all_are_as_before(make: object, tmp_path: Path) -> None:
    """By the upper half: pictures of runs that are under way do not move by a level."""
    values = np.random.default_rng(0).integers(0, 65536, (12, 12, 3), dtype=np.uint16)
    data = load(
        write_folder(tmp_path / "set", {"a.img.png": make(values)}), tmp_path, img_size=12, img_channels=3
    )
    assert (data.images[0] == values >> 8).all()


def test_filters_of_png_are_undone_as_pillow_undoes_them() -> None:
    """A picture whose upper bytes Pillow reads too."""
    values = np.random.default_rng(0).integers(0, 65536, (9, 23, 4), dtype=np.uint16)
    whole = png16(values, (4, 3, 1, 2))
    assert (png_array(whole) == values).all()
    assert (np.asarray(Image.open(io.BytesIO(whole))) == values >> 8).all()


@pytest.mark.parametrize("place", range(8, 400, 7))
def test_damaged_pngs_of_16_bits_are_one_line(place: int) -> None:
    whole = bytearray(png16(np.random.default_rng(0).integers(0, 4096, (8, 8, 3), dtype=np.uint16), (4,)))
    whole[place % len(whole)] ^= 0xFF
    chunk = decode_chunk([Member("x.png", bytes(whole))], (8, 8, 3), Fit(scale=(0, 4095)))
    assert len(chunk.names) + len(chunk.problems) == 1 and all(
        reason.isprintable() for _, reason in chunk.problems
    )
    for cut in (whole[:place], whole[:20], whole[: len(whole) - 20]):
        assert decode_chunk([Member("x.png", bytes(cut))], (8, 8, 3), Fit(scale=(0, 4095))).problems


@pytest.mark.parametrize("place", range(0, 180, 3))
def test_mutated_tiffs_of_many_channels_are_one_line(place: int) -> None:
    whole = bytearray(tiff(np.zeros((6, 6, 5), np.uint16), rows=6))
    start = struct.unpack("<L", whole[4:8])[0]
    whole[(start + place) % len(whole)] ^= 0xFF
    try:
        decode(bytes(whole), (6, 6, 5), Fit(scale=(0, 4095)))
    except BadImage as error:
        assert str(error).isprintable()


@pytest.mark.parametrize("packed", ["raw", "tiff_lzw"])
def test_grey_tiffs_with_alpha_are_grey(packed: str) -> None:
    picture = Image.new("LA", (6, 4), (100, 255))
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF", compression=packed)
    header = header_of(buffer.getvalue())
    assert (header.height, header.width, header.channels, header.mode) == (4, 6, 1, "LA")
    assert (decode(buffer.getvalue(), (4, 6, 1)) == 100).all()


def test_grey_tiffs_of_16_bits_with_alpha_are_grey() -> None:
    values = np.stack([np.full((6, 7), 1000), np.full((6, 7), 65535)], axis=2).astype(np.uint16)
    data = tiff(values, alpha=True)
    header = header_of(data)
    assert (header.height, header.width, header.channels, header.mode) == (6, 7, 1, "LA")
    assert (decode(data, (6, 7, 1), Fit(scale=(0.0, 2000.0))) == 128).all()
    assert header_of(tiff(values)).channels == 2
