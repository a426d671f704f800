"""Walks as tools.interpolate writes them: what they pass, where they end, how long they are, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from errors import UserError
from generation.generator import load_generator
from generation.latents import latents
from generation.motion import (
    check_between_classes,
    drawn_frames,
    through_labels,
    through_latents,
    through_styles,
)
from generation.walks import along, moments, slerp
from tests.test_animation import opened
from tests.test_codes import draw
from tests.test_points import QUICK, ring8
from tests.test_tools import export_kinds, refused
from tools import interpolate, sample

SIDE = 16


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs without labels, with classes, attributes, classes and styles, and of wide images."""
    return export_kinds(tmp_path_factory.mktemp("runs"))


def walk(run: Path, out: Path, *flags: object) -> list[np.ndarray]:
    """The frames of a walk at their own size, (H, W) each, in grey, as integers."""
    words = [str(run), "--out", f"{out}/", "--scale", "1", *map(str, flags)]
    assert interpolate.main(words) == 0
    return [np.asarray(Image.open(file).convert("L")).astype(int) for file in sorted(out.glob("*.png"))]


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two pictures are the same but for rounding."""
    return a.shape == b.shape and np.abs(a - b).max() <= 1


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("plain", ()),
        ("plain", ("--between", "lerp")),
        ("plain", ("--truncation", 0.5)),
        ("labelled", ("--class", 3)),
        ("faces", ("--attributes", "Smiling,-Bald")),
        ("styled", ()),
        ("styled", ("--space", "z", "--truncation", 0.7)),
        ("styled", ("--truncation", 0.7)),
        ("wide", ()),
    ],
)
def test_a_walk_passes_the_images_of_its_seeds(
    name: str, flags: tuple[object, ...], runs: Path, tmp_path: Path
) -> None:
    """A third of a closed way each: frames 0, 4 and 8 of 12 are what tools.sample draws; open ones end at the last."""
    kept = [flag for flag in flags if flag not in ("--between", "lerp", "--space", "z")]
    seen = walk(runs / name, tmp_path / "a", "--seeds", "3,17,40", "--seconds", 1, "--fps", 12, *flags)
    assert len(seen) == 12
    if name == "faces":  # attributes that are not named stay those of the first seed
        assert close(seen[0], draw(runs / name, tmp_path / "f", "--seed", 3, "--n", 1, *kept)[0])
    else:
        drawn = draw(runs / name, tmp_path / "s", "--seeds", "3,17,40", *kept)
        assert all(close(seen[4 * i], drawn[i]) for i in range(3))
        ways = ("--seeds", "3,17,40", "--seconds", 1, "--fps", 5, "--no-loop")
        there = walk(runs / name, tmp_path / "o", *ways, *flags)
        assert all(close(there[2 * i], drawn[i]) for i in range(3))
    assert len({frame.tobytes() for frame in seen}) == 12


def test_frames_are_the_same_at_any_batch(runs: Path) -> None:
    """Frame by frame, many walks at once or one alone, the images are the same."""
    G, about = load_generator(runs / "labelled")
    z = torch.stack([latents(seed, 0, 7, G.z_dim) for seed in (3, 17)])
    y = torch.tensor([[i % 10 for i in range(7)]])
    t = moments(30, True)

    def frames(cells: slice) -> torch.Tensor:
        motion = through_latents(
            lambda t: along(z[:, cells], t, True, slerp), through_labels(y[:, cells], 10, True)
        )
        return torch.stack(list(drawn_frames(G, about, motion, t, len(range(7)[cells]), 0)))

    together, alone = frames(slice(0, 7)), frames(slice(4, 5))
    assert together.shape == (30, 7, 1, SIDE, SIDE) and together.dtype == torch.uint8
    assert (together[:, 4].int() - alone[:, 0].int()).abs().max() <= 1


def test_styles_go_in_straight_lines(runs: Path) -> None:
    """Half way between two seeds stands the mean of their styles."""
    G, _ = load_generator(runs / "styled")
    z = torch.stack([latents(seed, 0, 2, G.z_dim) for seed in (3, 17)])
    y = torch.tensor([[1, 2], [1, 2]])
    found = through_styles(G, z, y, False)(torch.tensor([0.5])).w
    torch.testing.assert_close(found, (G.styles(z[0], y[0]) + G.styles(z[1], y[1])) / 2, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["labelled", "styled"])
@pytest.mark.parametrize("listed", [("3", "7", "8"), ("3,7,8",)])
def test_one_latent_goes_through_classes(
    name: str, listed: tuple[str, ...], runs: Path, tmp_path: Path
) -> None:
    seen = walk(runs / name, tmp_path / "a", "--class", *listed, "--seed", 5, "--seconds", 1, "--fps", 6)
    for i, label in enumerate((3, 7, 8)):
        assert close(
            seen[2 * i], draw(runs / name, tmp_path / str(i), "--seed", 5, "--n", 1, "--class", label)[0]
        )
    assert not close(seen[0], seen[2]) and not close(seen[1], seen[0]) and not close(seen[1], seen[2])


def test_seeds_and_classes_together(runs: Path, tmp_path: Path) -> None:
    seen = walk(
        runs / "labelled",
        tmp_path / "a",
        "--class",
        3,
        7,
        "--seeds",
        "5,6",
        "--seconds",
        1,
        "--fps",
        4,
        "--space",
        "z",
    )
    for i, (seed, label) in enumerate(((5, 3), (6, 7))):
        flags = ("--seed", seed, "--n", 1, "--class", label)
        assert close(seen[2 * i], draw(runs / "labelled", tmp_path / str(i), *flags)[0])


def test_attributes_at_the_start_and_at_the_end(runs: Path, tmp_path: Path) -> None:
    flags = ("--attributes", "-Smiling,Young", "--to_attributes", "Smiling", "--seed", 5)
    seen = walk(runs / "faces", tmp_path / "a", *flags, "--no-loop", "--seconds", 1, "--fps", 3)
    for i, label in ((0, "-Smiling,Young"), (2, "Smiling,Young")):
        flags = ("--seed", 5, "--n", 1, "--attributes", label)
        assert close(seen[i], draw(runs / "faces", tmp_path / str(i), *flags)[0])
    assert not close(seen[0], seen[2])


def test_a_circle_passes_two_seeds(runs: Path, tmp_path: Path) -> None:
    seen = walk(runs / "plain", tmp_path / "a", "--walk", "circle", "--seed", 5, "--seconds", 1, "--fps", 8)
    drawn = draw(runs / "plain", tmp_path / "s", "--seeds", "5,6")
    assert close(seen[0], drawn[0]) and close(seen[2], drawn[1]) and not close(seen[4], seen[0])


@pytest.mark.parametrize("kind", ["seeds", "random", "circle"])
@pytest.mark.parametrize("name", ["plain", "styled"])
def test_closed_walks_close(kind: str, name: str, runs: Path, tmp_path: Path) -> None:
    """The step over the end is no larger than the others; a walk is a function of its seed."""
    flags = ("--walk", kind, "--seed", 5, "--seconds", 2, "--fps", 24)
    seen = walk(runs / name, tmp_path / "a", *flags)
    steps = [np.abs(a - b).mean() for a, b in zip(seen, seen[1:] + seen[:1], strict=True)]
    assert steps[-1] <= 1.5 * max(steps[:-1]) and max(steps) > 0
    again = walk(runs / name, tmp_path / "b", *flags)
    assert all(np.array_equal(a, b) for a, b in zip(seen, again, strict=True))


@pytest.mark.parametrize("suffix", ["webp", "gif", "mp4"])
def test_animations_of_several_walks(suffix: str, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / f"walks.{suffix}"
    words = [
        str(runs / "wide"),
        "--grid",
        "3x2",
        "--seconds",
        "1",
        "--fps",
        "10",
        "--scale",
        "2",
        "--out",
        str(out),
    ]
    size = (2 * (2 + 3 * 34), 2 * (2 + 2 * 18))
    if suffix == "mp4":
        av = pytest.importorskip("av")
        assert interpolate.main(words) == 0
        with av.open(str(out)) as found:
            frames = [frame.to_ndarray(format="rgb24") for frame in found.decode(video=0)]
    else:
        assert interpolate.main(words) == 0
        frames, shown, loop = opened(out)
        assert sum(shown) == 1000 and loop == 0
    assert len(frames) == 10 and frames[0].shape == (size[1], size[0], 3)


def test_a_strip_shows_the_way(runs: Path, tmp_path: Path) -> None:
    """A row a walk, from the first seed to the last."""
    out = tmp_path / "strip.png"
    flags = ["--seeds", "3,17", "--grid", "1x2", "--steps", "5", "--scale", "1", "--out", str(out)]
    assert interpolate.main([str(runs / "plain"), *flags]) == 0
    pixels = np.asarray(Image.open(out).convert("L")).astype(int)
    assert pixels.shape == (2 + 2 * 18, 2 + 5 * 18)
    for seed, column in ((3, 0), (17, 4)):
        drawn = draw(runs / "plain", tmp_path / str(seed), "--seed", seed, "--n", 2)
        for row in range(2):
            top, left = 2 + 18 * row, 2 + 18 * column
            assert close(pixels[top : top + 16, left : left + 16], drawn[row])


class ByNumber(torch.nn.Module):
    """A user's own G, whose classes are rows of a table."""

    z_dim = 9

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(10, 9)

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (z + self.table(y))[:, None, None]


def test_classes_that_are_numbers_alone_are_told() -> None:
    way = through_labels(torch.tensor([[3], [7]]), 10, True)
    motion = through_latents(lambda t: torch.zeros(len(t), 1, 9), way)
    with pytest.raises(UserError, match="ByNumber takes no weights of several classes"):
        check_between_classes(ByNumber(), motion)
    still = through_latents(
        lambda t: torch.zeros(len(t), 1, 9), through_labels(torch.tensor([[3]]), 10, True)
    )
    check_between_classes(ByNumber(), still)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of points of the plane."""
    folder = tmp_path_factory.mktemp("ring")
    ring8(f"{QUICK} --log_name ring", folder)
    return folder / "ring"


@pytest.mark.parametrize("flags", [(), ("--walk", "random"), ("--seeds", "3,17")])
def test_points_move_in_a_scatter_plot(flags: tuple[str, ...], ring: Path, tmp_path: Path) -> None:
    seen = walk(ring, tmp_path / "a", "--seconds", 1, "--fps", 4, *flags)
    assert len(seen) == 4 and seen[0].shape == (320, 320)
    assert len({frame.tobytes() for frame in seen}) == (
        3 if flags[:1] == ("--seeds",) else 4
    )  # there and back
    if not flags:
        assert sample.main([str(ring), "--n", "1000", "--out", str(tmp_path / "first.png")]) == 0
        assert close(seen[0], np.asarray(Image.open(tmp_path / "first.png").convert("L")).astype(int))
    out = tmp_path / "strip.jpg"
    assert interpolate.main([str(ring), "--steps", "3", "--out", str(out), *flags]) == 0
    assert Image.open(out).width > 3 * 320


def test_refused(runs: Path, ring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(*flags: object, run: Path = runs / "plain", out: object = tmp_path / "x.webp") -> str:
        return refused(capsys, interpolate.main, run, "--out", out, *flags)

    assert "NAME.webp, NAME.gif, NAME.mp4" in line(out=tmp_path / "x.avi")
    assert "needs two seeds" in line("--seeds", 3)
    assert "--seed and --seeds" in line("--seeds", "3,4", "--seed", 5)
    assert "has no styles" in line("--space", "w")
    assert "straight lines" in line("--between", "slerp", run=runs / "styled")
    assert "--walk seeds" in line("--walk", "random", "--seeds", "3,4")
    assert "--walk seeds" in line("--walk", "circle", "--space", "z")
    assert "a circle ends where it starts" in line("--walk", "circle", "--no-loop")
    assert "without --conditional" in line("--class", 3)
    assert "0, 1, 2" in line("--class", 3, "x", run=runs / "labelled")
    assert "Bald, Smiling, Young" in line("--to_attributes", "-Smile", run=runs / "faces")
    assert "as many seeds as labels" in line("--class", 3, 4, 5, "--seeds", "1,2", run=runs / "labelled")
    assert "one scatter plot" in line("--grid", "2x2", run=ring)
    assert "0.1 to 120" in line("--fps", 0)
    assert "finite" in line("--fps", "nan")
    assert "0 frames" in line("--seconds", -3)
    assert "frames, and 1 to 20,000" in line("--seconds", 1e12)
    assert "give more --seconds" in line("--seconds", 0)
    assert "fewer --seconds" in line("--seconds", 1e12)
    assert "frames for 100 seeds" in line("--seeds", "1-100", "--seconds", 1)
    assert "4,096 a side" in line("--scale", 1000)
    assert "4,096 a side" in line("--grid", "9999x9999")
    assert "do not fit in memory" in line(
        "--grid", "30x30", "--seconds", 500, "--scale", 4, out=tmp_path / "x.gif"
    )
    assert "can be opened" in line("--steps", 10**6, out=tmp_path / "x.png")
    assert "can be opened" in line("--steps", 10**6, out=tmp_path / "x.png", run=ring)
    assert "leaves its threshold" in line("--walk", "random", "--truncation", 0.5)
    assert "more than 20,000 images" in line("--grid", "200x200", "--scale", 1)
    assert "does not exist" in line(run=tmp_path / "none")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "000000.png").write_bytes(b"")
    assert "holds frames already" in line(out=f"{tmp_path / 'f'}/")
    assert "--out" in line(out=tmp_path / "f" / "000000.png" / "x.webp")
    assert [file.name for file in tmp_path.iterdir()] == ["f"]
