"""A video of training from pictures made by hand: order, sizes, damage, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_animation import opened
from tests.test_tools import refused
from tools import progress_video
from tools.progress_video import BAR, GAP

STEPS = (0, 16, 1000, 2000)
SHADES = {"raw": 40, "ema": 120}  # plus 10 a step


def write(run: Path, name: str, shade: int, size: tuple[int, int] = (40, 30), mode: str = "L") -> None:
    """A plain picture of samples/."""
    (run / "samples").mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).convert(mode).save(run / "samples" / f"{name}.png")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four steps of raw and averaged weights, and training images."""
    for i, step in enumerate(STEPS):
        for name, shade in SHADES.items():
            write(tmp_path / "run", f"step-{step:08d}-{name}", shade + 10 * i)
    write(tmp_path / "run", "real", 230)
    return tmp_path / "run"


def frames(run: Path, out: Path, *flags: object) -> list[np.ndarray]:
    """The frames, in grey as integers."""
    assert progress_video.main([str(run), "--out", f"{out}/", *map(str, flags)]) == 0
    return [np.asarray(Image.open(file).convert("L")).astype(int) for file in sorted(out.glob("*.png"))]


def shades(frame: np.ndarray, n: int) -> list[int]:
    """What stands in the middle of each of n panels."""
    width = (frame.shape[1] - GAP) // n
    return [int(frame[BAR + (frame.shape[0] - BAR) // 2, GAP + width // 2 + i * width]) for i in range(n)]


def test_raw_and_averaged_stand_side_by_side_in_order(run: Path, tmp_path: Path) -> None:
    seen = frames(run, tmp_path / "a")
    assert [shades(frame, 2) for frame in seen] == [[40 + 10 * i, 120 + 10 * i] for i in range(4)]
    assert seen[0].shape == (BAR + 4 * 30 + GAP, GAP + 2 * (4 * 40 + GAP))  # enlarged
    bars = [(frame[BAR - 6] < 200).sum() for frame in seen]  # a line as long as training had gone
    assert bars == sorted(bars) and bars[-1] >= 2 * bars[2] - 4 and bars[-1] > seen[0].shape[1] - 3 * GAP
    assert len({frame[:BAR, :100].tobytes() for frame in seen}) == 4  # the step is written


def test_every_average_that_a_run_can_keep_is_found(tmp_path: Path) -> None:
    """Of --ema_halflife 1e16 as well."""
    for step in (0, 10):
        for name in ("ema-0.999", "ema-1e+16"):
            write(tmp_path / "run", f"step-{step:08d}-{name}", 90)
    assert [shades(frame, 2) for frame in frames(tmp_path / "run", tmp_path / "a")] == [[90, 90]] * 2


def test_weights_are_chosen_and_reals_stand_still(run: Path, tmp_path: Path) -> None:
    seen = frames(run, tmp_path / "a", "--weights", "real", "ema")
    assert [shades(frame, 2) for frame in seen] == [[230, 120 + 10 * i] for i in range(4)]
    (run / "generator").mkdir()
    assert len(frames(run / "generator", tmp_path / "b")) == 4


def test_the_last_frame_is_held(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.webp"
    assert progress_video.main([str(run), "--out", str(out), "--fps", "5", "--hold", "1.5"]) == 0
    pictures, shown, loop = opened(out)
    assert len(pictures) == 4 and shown == [200, 200, 200, 1700] and loop == 0


def test_damaged_pictures_are_left_out_and_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of a step leaves its place white, both leave the step out."""
    samples = run / "samples"
    noise = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    Image.fromarray(noise).save(samples / "step-00000016-raw.png")
    whole = (samples / "step-00000016-raw.png").read_bytes()
    (samples / "step-00000016-raw.png").write_bytes(whole[: len(whole) // 2])
    for name in ("ema", "raw"):
        (samples / f"step-00001000-{name}.png").write_text("no picture")
    (samples / "notes.txt").write_text("")
    seen = frames(run, tmp_path / "a")
    assert [shades(frame, 2) for frame in seen] == [[40, 120], [255, 130], [70, 150]]
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 3 and all(line.startswith("warning: step-") for line in warned)


def test_sizes_may_change(tmp_path: Path) -> None:
    """As when a network grows: small pictures are enlarged to the largest, in the middle."""
    for step, side in ((0, 10), (5, 20), (9, 47)):
        write(tmp_path, f"step-{step:08d}-raw", 100 + step, (side, side), "RGB")
    seen = frames(tmp_path, tmp_path / "a")
    assert len({frame.shape for frame in seen}) == 1
    assert [shades(frame, 1) for frame in seen] == [[100], [105], [109]]
    panel = seen[0][BAR : BAR + 4 * 47, GAP : GAP + 4 * 47]
    assert (panel == 100).sum() == (4 * 47 // 10 * 10) ** 2


def test_frames_stay_within_their_limit(tmp_path: Path) -> None:
    for name in ("raw", "ema"):
        write(tmp_path, f"step-00000000-{name}", 90, (900, 300))
    for limit in (100, 640, 1280):
        seen = frames(tmp_path, tmp_path / str(limit), "--size", limit)
        assert limit - 4 <= max(seen[0].shape) <= limit and shades(seen[0], 2) == [90, 90]


def test_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "x.webp")

    def line(*flags: object, where: Path = run) -> str:
        return refused(capsys, progress_video.main, where, *flags)

    assert "does not exist" in line(*out, where=tmp_path / "none")
    assert "has no samples/" in line(*out, where=tmp_path)
    assert "--weights ema-0.9: " in line(*out, "--weights", "ema-0.9")
    assert "do not change" in line(*out, "--weights", "real")
    assert "NAME.webp" in line("--out", "x.png")
    assert "64 to 4,096" in line(*out, "--size", 5000)
    assert "0.1 to 120" in line(*out, "--fps", 0)
    assert "0 to 60 seconds" in line(*out, "--hold", 1e9)
    (run / "samples" / "real.png").unlink()
    assert "of the weights real" in line(*out, "--weights", "real", "raw")
    for file in (run / "samples").iterdir():
        file.write_bytes(b"")
    assert "no picture of the weights raw can be read" in line(*out)
    for file in (run / "samples").iterdir():
        file.unlink()
    assert "holds no pictures of training" in line(*out)
    assert not (tmp_path / "x.webp").exists()
