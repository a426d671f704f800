"""Animations as other programs see them: frames, times, colours, sizes; and what is refused."""

import io
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from errors import UserError
from generation.animation import write_animation


def frames(n: int, size: tuple[int, int] = (37, 24)) -> Iterator[Image.Image]:
    """Pictures in which a red square moves on blue, each other than the last."""
    for i in range(n):
        pixels = np.full((size[1], size[0], 3), (20, 40, 160), np.uint8)
        pixels[4:12, 2 * i : 2 * i + 8] = (220, 30, 40)
        yield Image.fromarray(pixels)


def opened(file: Path) -> tuple[list[np.ndarray], list[int], int]:
    """The frames of an animation in colour, their milliseconds, and how often it plays (0: for ever)."""
    with Image.open(file) as found:
        pictures, shown = [], []
        for i in range(found.n_frames):
            found.seek(i)
            found.load()
            pictures.append(np.asarray(found.convert("RGB")))
            shown.append(found.info["duration"])
        return pictures, shown, found.info["loop"]


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_one_frame_and_equal_ones(suffix: str, tmp_path: Path) -> None:
    """Frames that are the same are shown as one, as long as they would be."""
    still = next(frames(1))
    assert write_animation([still], tmp_path / f"one{suffix}", 10) == 1
    with Image.open(tmp_path / f"one{suffix}") as found:
        assert getattr(found, "n_frames", 1) == 1 and found.size == still.size
    assert write_animation([still, still, *frames(3)], tmp_path / f"five{suffix}", 10, hold=0.5) == 5
    pictures, shown, _ = opened(tmp_path / f"five{suffix}")
    assert len(pictures) == 3 and shown == [300, 100, 600]


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_what_is_written_is_what_is_shown(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"new/a{suffix}"
    assert write_animation(frames(7), file, 30, hold=1) == 7
    pictures, shown, loop = opened(file)
    assert len(pictures) == 7 and loop == 0
    assert abs(sum(shown) - 7 / 30 * 1000 - 1000) <= 5 and shown[-1] > 1000
    for found, made in zip(pictures, frames(7), strict=True):
        assert np.abs(found.astype(int) - np.asarray(made)).mean() < 4
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_mp4_has_all_frames_of_an_even_size_in_true_colours(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    file = tmp_path / "a.mp4"
    assert write_animation(frames(7, (37, 25)), file, 12.5, hold=0.4) == 7
    with av.open(str(file)) as found:
        stream = found.streams.video[0]
        assert (
            stream.codec.name == "h264" and stream.pix_fmt == "yuv420p" and float(stream.average_rate) == 12.5
        )
        pictures = [frame.to_ndarray(format="rgb24") for frame in found.decode(stream)]
    assert len(pictures) == 12 and pictures[0].shape == (26, 38, 3)
    for found, made in zip(pictures, frames(7, (37, 25)), strict=False):
        assert np.abs(found[:25, :37].astype(int) - np.asarray(made)).mean() < 6
    assert np.abs(pictures[3][25].astype(int) - pictures[3][24]).max() < 12  # no dark edge


def test_webp_is_as_its_specification_says(tmp_path: Path) -> None:
    """Chunk by chunk, with sizes that add up; each frame is what Pillow makes of it as a still picture."""
    file = tmp_path / "a.webp"
    write_animation(frames(3), file, 24)
    data = file.read_bytes()
    assert (
        data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") == len(data) - 8 and data[8:12] == b"WEBP"
    )
    at, found = 12, []
    while at < len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append((data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    assert at == len(data) and [name for name, _ in found] == [b"VP8X", b"ANIM", *[b"ANMF"] * 3]
    assert found[0][1] == bytes([2, 0, 0, 0, 36, 0, 0, 23, 0, 0]) and found[1][1] == bytes(6)
    for (_, chunk), made, ms in zip(found[2:], frames(3), (42, 41, 42), strict=True):
        assert chunk[:16] == bytes([0, 0, 0, 0, 0, 0, 36, 0, 0, 23, 0, 0, ms, 0, 0, 2])
        still = io.BytesIO()
        made.save(still, format="WEBP", quality=85, method=0)
        assert chunk[16:] == still.getvalue()[12:]


def test_webp_comes_one_by_one(tmp_path: Path) -> None:
    """No frame waits for the last."""
    alive: list[weakref.ref] = []

    def watched() -> Iterator[Image.Image]:
        for frame in frames(9):
            assert sum(old() is not None for old in alive) <= 3
            alive.append(weakref.ref(frame))
            yield frame

    assert write_animation(watched(), tmp_path / "a.webp", 24) == 9


def test_frames_of_a_folder_are_exact_and_come_one_by_one(tmp_path: Path) -> None:
    done = []

    def watched() -> Iterator[Image.Image]:
        for frame in frames(4):
            done.append(len(list((tmp_path / "f").glob("*.png"))))
            yield frame

    assert write_animation(watched(), f"{tmp_path / 'f'}/", 24, hold=2) == 4
    assert done == [0, 1, 2, 3]
    names = sorted(file.name for file in (tmp_path / "f").iterdir())
    assert names == [f"{i:06d}.png" for i in range(4)]
    for name, made in zip(names, frames(4), strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "f" / name)), np.asarray(made))
    with pytest.raises(UserError, match="holds frames already"):
        write_animation(frames(2), tmp_path / "f", 24)


def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.webp"
    for given, out, fps, word in (
        (frames(2), tmp_path / "a.avi", 24, "NAME.webp, NAME.gif, NAME.mp4"),
        (iter(()), file, 24, "no frames"),
        (frames(2), file, 0, "0.1 to 120"),
        (frames(2), file, float("nan"), "0.1 to 120"),
        ([*frames(1), *frames(1, (9, 20))], file, 24, "one size"),
    ):
        with pytest.raises(UserError, match=word):
            write_animation(given, out, fps)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install av, or give .*a\.webp"):
        write_animation(frames(2), tmp_path / "a.mp4", 24)
    assert list(tmp_path.iterdir()) == []
