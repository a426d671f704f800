"""What a run has left is read as far as it goes: numbers, scores, pictures, weights; the rest is said."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from errors import UserError
from generation.pictures import from_grid, scatter, to_grid
from generation.record import modes_shown, read_record, read_weights, roughness, spread
from metrics.mixture import MIXTURES

SIDE = 6


def write_run(
    folder: Path, lines: list[dict], settings: dict | None = None, **pictures: torch.Tensor
) -> Path:
    """A run's folder of these lines; pictures: uint8 images (n, C, H, W) by name, reals or step_100_raw."""
    (folder / "samples").mkdir(parents=True)
    about = {"model": "dcgan", "method": "gan", "img_size": SIDE, "n_steps": 1000, "batch_size": 8}
    (folder / "config.json").write_text(json.dumps(about | (settings or {})))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, images in pictures.items():
        file = "real.png" if name == "reals" else "step-{1:08d}-{2}.png".format(*_parts(name))
        to_grid(images, 4).save(folder / "samples" / file)
    return folder


def _parts(name: str) -> tuple[str, int, str]:
    word, step, weights = name.split("_")
    return word, int(step), weights


def images(n: int, channels: int = 1, low: int = 1, high: int = 256) -> torch.Tensor:
    """Seeded uint8 noise."""
    return torch.randint(
        low, high, (n, channels, SIDE, SIDE), generator=torch.Generator().manual_seed(n)
    ).byte()


@pytest.mark.parametrize("n", [1, 3, 4, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_comes_apart_as_it_was_put_together(n: int, channels: int) -> None:
    x = images(n, channels)
    back = from_grid(to_grid(x, 4), (SIDE, SIDE))
    assert torch.equal(back, x.expand(-1, 3, -1, -1))


def test_a_picture_of_another_size_is_no_grid() -> None:
    with pytest.raises(ValueError, match="30 x 17 px is no grid of images of 6 x 6"):
        from_grid(Image.new("RGB", (30, 17)), (SIDE, SIDE))


def test_roughness_by_hand() -> None:
    """A chequerboard of 0 and 2: every neighbour differs by 2, the deviation is 1; stripes: half of them do."""
    board = (torch.arange(4)[:, None] + torch.arange(4)) % 2 * 200
    assert roughness(board[None, None].byte()) == pytest.approx(2.0)
    stripes = (torch.arange(4) % 2 * 200).expand(4, 4)
    assert roughness(stripes[None, None].byte()) == pytest.approx(1.0)
    assert roughness(torch.full((1, 1, 4, 4), 9).byte()) is None


@pytest.mark.parametrize(("kept", "modes"), [(range(8), 1.0), ([0], 1 / 8), ([1, 5, 6], 3 / 8)])
def test_modes_are_counted_in_a_scatter_plot(kept: list[int], modes: float) -> None:
    mixture = MIXTURES["ring8"]
    points, which = mixture.sample(60, torch.Generator().manual_seed(0))
    fake = points[torch.isin(which, torch.tensor(list(kept)))]
    found = modes_shown(scatter(mixture, points, fake), "ring8")
    assert found["modes"] == modes and found["near"] > 0.9
    assert modes_shown(scatter(mixture, points, None), "ring8") == {}
    assert modes_shown(scatter(mixture, points, torch.zeros(9, 2)), "ring8")["near"] == 0


def test_the_later_half_of_many_is_denser() -> None:
    kept = spread(list(range(0, 1000, 5)), 40)
    assert (
        len(kept) == 40
        and kept[0] == 0
        and kept[-20:] == list(range(900, 1000, 5))
        and kept == sorted(set(kept))
    )
    assert spread([1, 2, 3], 40) == [1, 2, 3]


def test_a_run_is_read(tmp_path: Path) -> None:
    lines = [{"step": 10, "loss/d": 1.0}, {"step": 20, "loss/d": None, "note": "no number"}]
    record = read_record(
        write_run(tmp_path / "a", lines, reals=images(8), step_100_raw=images(8), step_0_ema=images(4))
    )
    series = record.series["loss/d"]
    assert series.steps == [10, 20] and series.finite == [1.0] and math.isnan(series.values[1])
    assert set(record.series) == {"loss/d"} and record.step == 100 and record.weight_set == "ema"
    assert (
        set(record.samples) == {"raw", "ema"}
        and not record.problems[1:]
        and "generator" in record.problems[0]
    )
    # the same images on both sides
    assert {k: v.values for k, v in record.sample_series["raw"].items()} == {
        "brightness": [0], "contrast": [pytest.approx(1)], "diversity": [pytest.approx(1)],
        "roughness": [pytest.approx(1)],
    }  # fmt: skip


def test_logged_numbers_of_samples_go_before_those_of_pictures(tmp_path: Path) -> None:
    lines = [{"step": 100, "samples/raw/diversity": 0.25}]
    record = read_record(write_run(tmp_path / "a", lines, reals=images(8), step_100_raw=images(8)))
    assert (
        record.sample_series["raw"]["diversity"].values == [0.25]
        and "contrast" in record.sample_series["raw"]
    )


def test_a_damaged_run_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [{"step": 1, "loss/d": 1.0}], reals=images(8), step_5_raw=images(8))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(
            '{"step": 2, "loss/d": 2.0}\n[1]\n{"step": "x"}\n{"step": 3, "loss/d": 1e999, "big": ' + "9" * 400
        )
    (folder / "config.json").write_text("{")
    (folder / "samples" / "step-00000006-raw.png").write_bytes(b"no picture")
    (folder / "scores.jsonl").mkdir()
    record = read_record(folder)
    assert record.series["loss/d"].steps == [1, 2]
    assert record.picture(record.samples["raw"][6]) is None
    said = " | ".join(record.problems)
    for part in (
        "config.json",
        "metrics.jsonl: 3 lines are damaged",
        "scores.jsonl",
        "step-00000006-raw.png cannot be",
    ):
        assert part in said
    assert str(tmp_path) not in said


@pytest.mark.parametrize("step", ["x", None, [1], 1.5])
def test_a_step_that_is_none_is_not_counted(tmp_path: Path, step: object) -> None:
    folder = write_run(tmp_path / "a", [{"step": 3, "loss/d": 1.0}], reals=images(8))
    (folder / "generator").mkdir()
    (folder / "generator" / "config.json").write_text(json.dumps({"step": step}))
    assert read_record(folder).step == 3


def test_values_that_no_axis_holds_are_infinite(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "a", [{"step": 1, "x": 1e300}, {"step": 2, "x": -1e300}, {"step": 3, "x": 1e38}]
    )
    assert read_record(folder).series["x"].values == [math.inf, -math.inf, 1e38]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_record(tmp_path / "none")
    with pytest.raises(UserError, match="is no run"):
        read_record(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is no folder"):
        read_record(tmp_path / "file")


def test_weights_of_a_generator_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model": "dcgan", "step": 7}')
    state = {
        "a.weight": torch.ones(2, 2),
        "a.bias": torch.ones(2),
        "b.parametrizations.weight.original": torch.ones(1, 3),
    }
    save_file(state, tmp_path / "raw.safetensors")
    record = read_record(tmp_path)
    origin, layers = read_weights(record)
    assert record.step == 7 and origin == "generator/raw.safetensors" and set(layers["G"]) == {"a", "b"}
    (tmp_path / "raw.safetensors").write_bytes(b"x")
    assert read_weights(record) == ("", {}) and "raw.safetensors" in record.problems[-1]
