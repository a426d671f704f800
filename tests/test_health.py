"""What a run says of its samples beside the data's, and how often D's sigmoid is flat."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gan_ring8
from losses import METHODS
from metrics.health import (
    brightness,
    colourfulness,
    contrast,
    mean_distance,
    mean_distance_within,
    sample_health,
)
from tests.running import run, small, write_pairs


def images(*colours: tuple[float, ...]) -> torch.Tensor:
    """Plain images of 2 x 2 px, one of each colour."""
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, 2, 2)


def test_distances_by_hand() -> None:
    # 3-4-5: root mean squares of (3, 4), (3, 0) and (0, 4) over two elements
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])
    assert mean_distance(points) == pytest.approx((5 + 3 + 4) / 3 / math.sqrt(2))
    assert mean_distance(points[:1]) is None
    assert mean_distance(points[:1].expand(5, -1)) == pytest.approx(0, abs=1e-7)


def test_distances_of_large_images_are_those_of_all_their_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randint(0, 256, (6, 3, 7, 5), dtype=torch.uint8)
    pairs = itertools.combinations(x.double() / 127.5 - 1, 2)
    expected = sum(math.sqrt((a - b).square().mean()) for a, b in pairs) / 15
    monkeypatch.setattr("metrics.health.COLUMNS", 11)
    assert mean_distance(x) == pytest.approx(expected, rel=1e-12)
    assert mean_distance(x.float() / 127.5 - 1) == pytest.approx(expected, rel=1e-6)


def test_distances_within_classes_leave_out_those_between_them() -> None:
    x, y = torch.tensor([[0.0], [1.0], [10.0], [13.0], [99.0]]), torch.tensor([0, 0, 1, 1, 2])
    assert mean_distance_within(x, y) == pytest.approx((1 + 3) / 2)
    assert mean_distance_within(x[[0, 2]], y[[0, 2]]) is None


def test_colours_by_hand() -> None:
    x = images((1.0, -0.5, -0.5), (0.2, 0.2, 0.2))
    assert brightness(x) == pytest.approx(0.1)
    assert colourfulness(x) == pytest.approx(math.sqrt((1 + 0.25 + 0.25) / 3) / 2)
    assert contrast(x) == pytest.approx(0, abs=1e-12)
    halves = torch.cat([torch.full((1, 1, 2, 1), -0.3), torch.full((1, 1, 2, 1), 0.5)], 3)
    assert contrast(halves) == pytest.approx(0.4)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_without_colours_have_no_colourfulness(channels: int) -> None:
    real, fake = torch.rand(2, 4, channels, 3, 3)
    assert colourfulness(fake) is None
    assert sample_health(real, fake).keys() == {"diversity", "brightness", "contrast"}


def test_transparency_is_no_colour() -> None:
    x = torch.rand(3, 4, 5, 5)
    opaque = torch.cat([x[:, :3], torch.ones(3, 1, 5, 5)], 1)
    for measure in (brightness, contrast, colourfulness):
        assert measure(x) == measure(opaque) == measure(x[:, :3])
    assert mean_distance(x) != mean_distance(opaque)


def test_reals_compare_with_themselves() -> None:
    x = torch.randint(0, 256, (8, 3, 4, 6), dtype=torch.uint8)
    found = sample_health(x, x.flip(0))
    expected = {"diversity": 1.0, "brightness": 0.0, "contrast": 1.0, "colourfulness": 1.0}
    assert found == pytest.approx(expected)


def test_what_is_washed_out_darker_or_all_the_same_is_seen() -> None:
    real = 2 * torch.rand(6, 3, 4, 4, dtype=torch.float64) - 1
    grey = real.mean(1, keepdim=True)
    washed = sample_health(real, grey + 0.4 * (real - grey))
    assert washed["colourfulness"] == pytest.approx(0.4) and washed["contrast"] == pytest.approx(1)
    flat = sample_health(real, 0.5 * real - 0.25)
    assert flat["contrast"] == pytest.approx(0.5) and flat["diversity"] == pytest.approx(0.5)
    assert flat["brightness"] == pytest.approx(-0.5 * float(real.mean()) - 0.25)
    assert sample_health(real, real[:1].expand(6, -1, -1, -1))["diversity"] == pytest.approx(0, abs=1e-7)


def test_collapse_within_classes_is_not_hidden_by_their_differences() -> None:
    real = torch.randn(12, 1, 4, 4)
    y = torch.arange(3).repeat_interleave(4)
    found = sample_health(real, real[::4].repeat_interleave(4, 0), y, y)
    assert found["diversity"] > 0.5 and found["diversity_within"] == pytest.approx(0, abs=1e-7)


def test_ratios_to_nothing_are_left_out() -> None:
    grey = images((0.1, 0.1, 0.1), (0.3, 0.3, 0.3))
    assert sample_health(grey, torch.rand(4, 3, 2, 2)).keys() == {"diversity", "brightness"}
    assert sample_health(grey[:1], grey).keys() == {"brightness"}


def test_points_have_diversity_alone() -> None:
    points = torch.randn(9, 2)
    assert sample_health(points, 0.5 * points) == pytest.approx({"diversity": 0.5})


@pytest.mark.parametrize(("real", "fake"), [((4, 3, 2, 2), (4, 1, 2, 2)), ((0, 2), (4, 2)), ((4, 2), (0, 2))])
def test_other_shapes_are_refused(real: tuple[int, ...], fake: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="of one shape"):
        sample_health(torch.zeros(real), torch.zeros(fake))


# -- along a run -----------------------------------------------------------------------------------------------------


def rows(folder: Path, name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def numbers(row: dict[str, float], weights: str = "raw") -> dict[str, float]:
    """What a line says of the samples of a weight set."""
    start = f"samples/{weights}/"
    return {name.removeprefix(start): value for name, value in row.items() if name.startswith(start)}


def tiles(file: Path, side: int) -> torch.Tensor:
    """The images (n, 1, side, side) of a grid of grey ones."""
    grid = torch.from_numpy(np.array(Image.open(file).convert("L")))[2:, 2:]
    cut = grid.unfold(0, side, side + 2).unfold(1, side, side + 2)
    return cut.flatten(0, 1)[:, None]


def test_a_run_logs_what_its_grids_show(tmp_path: Path) -> None:
    run("--log_name a --n_steps 4 --sample_interval 2 --ema --ema_decay 0.5 --lr 1e-2", tmp_path)
    real, found = tiles(tmp_path / "a" / "samples" / "real.png", 16), rows(tmp_path, "a")
    assert [row["step"] for row in found] == [2, 4] and "loss/d" not in found[0]
    for row, weights in itertools.product(found, ("raw", "ema")):
        fake = tiles(tmp_path / "a" / "samples" / f"step-{row['step']:08d}-{weights}.png", 16)
        assert real.shape == fake.shape == (64, 1, 16, 16)
        assert numbers(row, weights) == pytest.approx(sample_health(real, fake), rel=1e-9)
    assert numbers(found[1]) != numbers(found[0]) and numbers(found[1]) != numbers(found[1], "ema")


def test_classes_are_held_against_as_many_reals_of_each(tmp_path: Path) -> None:
    """Of a G that has collapsed to one picture a class."""
    loop = run("--log_name a --conditional --n_steps 1", tmp_path, sampled=False)
    preview = loop.task._preview
    data = loop.task.data
    means = torch.stack(
        [torch.from_numpy(data.images[data.labels == c]).float().mean(0).permute(2, 0, 1) for c in range(10)]
    )
    fake = means.round().to(torch.uint8).repeat_interleave(8, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(preview.view), "made", lambda *_: fake)
        found = preview.sheet(loop.task.G).health
    assert found["diversity_within"] == pytest.approx(0, abs=1e-6) and 0.3 < found["diversity"] < 1
    assert abs(found["brightness"]) < 0.1
    order = loop.task.batches.permutation(0).numpy()
    first = np.concatenate([order[data.labels[order] == c][:8] for c in range(10)])
    real = torch.from_numpy(data.images[first]).permute(0, 3, 1, 2)
    y = torch.arange(10).repeat_interleave(8)
    assert found == sample_health(real, fake, y, y)


def test_pairs_are_held_against_what_is_wanted(tmp_path: Path) -> None:
    """B is noise, A its negative: what comes out is grey at first."""
    data = write_pairs(tmp_path / "pairs", n_val=3)
    run(f"--log_name a {small('cyclegan')} --data {data} --batch_size 2 --n_steps 1", tmp_path)
    (row,) = rows(tmp_path, "a")
    names = ("diversity", "brightness", "contrast", "colourfulness")
    assert numbers(row).keys() == {f"{name}_{way}" for name in names for way in ("g_ab", "g_ba")}
    assert all(0 <= numbers(row)[f"{name}_g_ab"] < 1.5 for name in names if name != "brightness")
    run(f"--log_name b {small('pix2pix')} --data {data} --n_steps 1", tmp_path)
    (row,) = rows(tmp_path, "b")
    assert numbers(row).keys() == set(names)


def test_points_are_told_apart(tmp_path: Path) -> None:
    command = "--n_steps 2 --batch_size 16 --loggers --log_interval 1 --device cpu --log_name a"
    assert gan_ring8.main([*command.split(), "--runs_dir", str(tmp_path)]) == 0
    *_, last = rows(tmp_path, "a")
    assert numbers(last).keys() == {"diversity"} and last["samples/raw/diversity"] > 0


@pytest.mark.parametrize("name", METHODS)
def test_saturation_is_logged_of_losses_with_a_sigmoid(name: str, tmp_path: Path) -> None:
    """Also of a step whose values are not logged every time."""
    run(f"--log_name a --method {name} --n_steps 3 --log_interval 2 --accumulate 2", tmp_path, sampled=False)
    sigmoid = {"gan", "gan-saturating", "ragan", "rpgan"}
    for row in rows(tmp_path, "a"):
        found = {key: value for key, value in row.items() if key.endswith("_saturated")}
        assert found.keys() == ({"d/real_saturated", "d/fake_saturated"} if name in sigmoid else set())
        assert all(0 <= value <= 1 for value in found.values())
