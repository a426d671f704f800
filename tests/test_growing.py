"""Growing in the trainer: which stage belongs to a step, reals at a stage, and runs that pass through all of them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from errors import UserError
from games import game_of
from games.growing import Growth, at_stage, growth_of
from games.schedule import Part, Schedule, schedule_of
from generation.generator import load_generator
from images.batches import Batches, Shard
from modelling import build_discriminator, build_generator, progressive_gan
from settings import TrainConfig, as_dict
from settings.derive import settled
from tests.running import differing, request, run, small, state
from tests.test_config import resolve
from tools.table import images_before
from training.loop import Loop

# -- the schedule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "stage"),
    [
        (0, (4, 1.0)),
        (99, (4, 1.0)),
        (100, (8, 0.0)),  # the fade begins
        (105, (8, 0.25)),
        (119, (8, 0.95)),
        (120, (8, 1.0)),
        (219, (8, 1.0)),
        (220, (16, 0.0)),
        (230, (16, 0.5)),
        (240, (16, 1.0)),
        (339, (16, 1.0)),
        (340, (16, 1.0)),  # where a further size would come
        (10**12, (16, 1.0)),
    ],
)
def test_stages_by_hand(images: int, stage: tuple[int, float]) -> None:
    """100 images at 4 px; 20 to fade in 8 px, 100 at it; the same for 16 px, the last."""
    assert Growth(4, 16, fade=20, stable=100).stage(images) == pytest.approx(stage)


def test_stages_without_fades() -> None:
    growth = Growth(8, 32, fade=0, stable=10)
    assert [growth.stage(i) for i in (0, 9, 10, 19, 20, 500)] == [
        (8, 1.0), (8, 1.0), (16, 1.0), (16, 1.0), (32, 1.0), (32, 1.0)
    ]  # fmt: skip


def test_stages_without_rest() -> None:
    """The first size is left at once."""
    growth = Growth(8, 32, fade=10, stable=0)
    assert [growth.stage(i) for i in (0, 5, 10, 15, 20)] == [
        (16, 0.0), (16, 0.5), (32, 0.0), (32, 0.5), (32, 1.0)
    ]  # fmt: skip


def test_stages_of_no_growth() -> None:
    assert Growth(8, 32, fade=0, stable=0).stage(0) == (32, 1.0)
    assert [Growth(8, 8, fade=5, stable=5).stage(i) for i in (0, 5, 7, 99)] == [(8, 1.0)] * 4


def of_one_size(batch_size: int) -> Schedule:
    return Schedule((Part(0, 0, batch_size),))


def test_steps_until_grown() -> None:
    growth = Growth(4, 16, fade=20, stable=100)
    assert growth.doublings == 2 and growth.faded_in == 240
    steps = of_one_size(7).step(growth.faded_in)
    assert steps == 35 and of_one_size(1).step(growth.faded_in) == 240  # 34.3
    assert growth.stage(steps * 7) == (16, 1.0) and growth.stage((steps - 1) * 7)[1] < 1
    assert Growth(8, 8, fade=5, stable=5).faded_in == 0 == of_one_size(4).step(0)


# -- batches by size ---------------------------------------------------------------------------------------------

BY_SIZE = "--model progressive_gan --img_size 16 --batch_size 2 --batch_by_size 4=8 8=4"


def settings(command: str) -> TrainConfig:
    return request(f"--dataset digits {command}").config()


def test_batches_by_hand() -> None:
    """30 images at 4 px in batches of 8, 20 + 30 at 8 px in batches of 4, then batches of 2: 32, then 84 images."""
    schedule = schedule_of(settings(f"{BY_SIZE} --stable_kimg 0.03 --fade_kimg 0.02"))
    assert schedule.parts == (Part(0, 0, 8), Part(4, 32, 4), Part(16, 80, 2))
    assert schedule.batch_sizes == [8, 4, 2]
    assert [schedule.images(step) for step in (0, 1, 3, 4, 5, 15, 16, 17, 100)] == [
        0, 8, 24, 32, 36, 76, 80, 82, 248
    ]  # fmt: skip
    assert [schedule.batch_size(step) for step in (0, 3, 4, 15, 16, 10**6)] == [8, 8, 4, 4, 2, 2]
    assert [schedule.step(images) for images in (0, 1, 32, 33, 80, 81, 100)] == [0, 1, 4, 5, 16, 17, 26]
    assert schedule_of(settings("--batch_size 8")) == of_one_size(8)
    alike = schedule_of(settings(f"{BY_SIZE} 16=4"))
    assert [part.batch_size for part in alike.parts] == [8, 4] and alike.batch_sizes == [8, 4]


@pytest.mark.parametrize(
    ("stable", "fade"), [(0.03, 0.02), (0.007, 0.0), (0.0, 0.011), (0.0001, 0.0003), (0.1, 0.7)]
)
def test_a_steps_batch_is_that_of_its_size(stable: float, fade: float) -> None:
    """Step by step, as the run itself goes; sizes that a batch steps over have no step."""
    config = settings(f"{BY_SIZE} --img_size 32 --stable_kimg {stable} --fade_kimg {fade}")
    schedule, growth = schedule_of(config), growth_of(config)
    images = 0
    for step in range(1500):
        size, _ = growth.stage(images)
        expected = {4: 8, 8: 4}.get(size, 2)
        assert (schedule.images(step), schedule.batch_size(step)) == (images, expected)
        assert schedule.step(images) == step
        images += expected
    assert growth.stage(images) == (32, 1.0)


@pytest.mark.parametrize(
    ("name", "million", "parts"),
    [
        ("progressive-gan", 19, {4: 512, 8: 256, 16: 128, 32: 64, 64: 32, 1024: 32}),
        ("stylegan", 25, {8: 256, 16: 128, 32: 64, 64: 32, 1024: 32}),
    ],
)
@pytest.mark.parametrize("size", [64, 1024])
def test_presets_see_as_many_images_as_published(name: str, million: int, parts: dict, size: int) -> None:
    """Whatever their size: 600,000 images at the first one, 1,200,000 at each further one."""
    config = settings(f"--preset {name}").__class__(**settings(f"--preset {name} --img_size 16").asked)
    config = settled(replace(config, img_size=size))
    schedule, growth = schedule_of(config), growth_of(config)
    assert abs(schedule.images(config.n_steps) - 1e6 * million) < 2000
    for i, at in enumerate(growth.sizes):
        step = schedule.step(growth.end(i - 1)) if i else 0
        assert growth.stage(schedule.images(step))[0] == at
        assert schedule.batch_size(step) == parts.get(at, 32)


@pytest.mark.parametrize(
    ("model", "img_size", "heights"),
    [
        ("progressive_gan", 32, (4, 8, 16, 32)),
        ("progressive_gan", 96, (6, 12, 24, 48, 96)),
        ("progressive_gan", (160, 128), (5, 10, 20, 40, 80, 160)),
        ("progressive_gan", (128, 160), (4, 8, 16, 32, 64, 128)),
        ("stylegan", 8, (8,)),
        ("stylegan", (56, 80), (14, 28, 56)),
        ("stylegan", (24, 8), (24,)),
    ],
)
def test_rectangles_grow_from_their_own_smallest(
    model: str, img_size: int | tuple[int, int], heights: tuple[int, ...]
) -> None:
    """What the schedule passes through is what the networks have."""
    growth = growth_of(settled(TrainConfig(model=model, img_size=img_size)))
    assert growth.sizes == heights == tuple(growth.stage(i)[0] for i in (0, *(growth_ends(growth))))
    image = {"img_size": img_size, "img_channels": 1}
    with torch.device("meta"):
        G, D = build_generator(model, z_dim=4, **image), build_discriminator(model, **image)
    assert G.stage.sizes == D.stage.sizes == heights


def test_sizes_between_powers_of_two_are_named_by_the_one_below() -> None:
    """A preset's batches and rates hold for rectangles too."""
    command = f"{BY_SIZE} --img_size 40x32 --batch_by_size 4=8 8=4 --stable_kimg 0.04 --fade_kimg 0"
    config = settings(command)  # 5, 10, 20, 40 px
    assert schedule_of(config).parts == (Part(0, 0, 8), Part(5, 40, 4), Part(15, 80, 2))
    with pytest.raises(UserError, match="the run's sizes are 4, 8, 16, 32 px"):
        schedule_of(settings(f"{command} --lr_by_size 5=1e-3"))


def growth_ends(growth: Growth) -> list[int]:
    """Images seen when each further size is faded in."""
    each = int(growth.stable + growth.fade)
    return [each * n for n in range(1, growth.doublings + 1)]


# -- reals at a stage ------------------------------------------------------------------------------------------

IMAGE = torch.tensor(
    [[0.0, 2.0, 4.0, 4.0], [2.0, 4.0, 4.0, 4.0], [1.0, 1.0, 8.0, 0.0], [1.0, 1.0, 0.0, 8.0]]
)[None, None]
HALF = torch.tensor([[2.0, 4.0], [1.0, 4.0]])[None, None]


def test_reals_are_averaged_over_boxes() -> None:
    assert torch.equal(at_stage(IMAGE, 4, 1.0), IMAGE)
    wide = torch.cat([IMAGE, 2 * IMAGE], 3)  # a size is a height
    assert_close(at_stage(wide, 2, 1.0), torch.cat([HALF, 2 * HALF], 3))
    assert_close(at_stage(IMAGE, 2, 1.0), HALF)
    assert_close(at_stage(IMAGE, 1, 1.0), torch.full((1, 1, 1, 1), 2.75))


def test_reals_fade_as_the_images_of_g_do() -> None:
    """A quarter of themselves, three quarters of their next smaller size with its pixels repeated."""
    coarse = torch.tensor([[2.0, 2.0, 4.0, 4.0]] * 2 + [[1.0, 1.0, 4.0, 4.0]] * 2)[None, None]
    assert_close(at_stage(IMAGE, 4, 0.25), 0.25 * IMAGE + 0.75 * coarse)
    assert_close(at_stage(IMAGE, 4, 0.0), coarse)
    # of the smaller size, not of the whole image
    assert_close(at_stage(IMAGE, 2, 0.5), 0.5 * HALF + 0.5 * 2.75)


# -- runs: batches of 8; 4 steps at each size, 2 in each fade -----------------------------------------------------

GROWING = "--stable_kimg 0.032 --fade_kimg 0.016 --log_interval 1"
PRO = f"--log_name a {small('progressive_gan')} {GROWING}"
SIZES = [4] * 4 + [8] * 6 + [16] * 4
ALPHAS = [1.0] * 4 + [0.0, 0.5] + [1.0] * 4 + [0.0, 0.5] + [1.0] * 2


def logged(folder: Path, name: str) -> list[float | None]:
    rows = [json.loads(line) for line in (folder / "a" / "metrics.jsonl").read_text().splitlines()]
    return [row.get(name) for row in rows]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what Progressive GAN's D is given."""
    shapes: list[tuple[int, ...]] = []
    forward = progressive_gan.Discriminator.forward

    def spy(self: progressive_gan.Discriminator, x: Tensor, y: Tensor | None = None) -> Tensor:
        if not x.is_meta:
            shapes.append(tuple(x.shape))
        return forward(self, x, y)

    monkeypatch.setattr(progressive_gan.Discriminator, "forward", spy)
    return shapes


def test_a_run_passes_through_its_stages(
    tmp_path: Path, seen: list[tuple[int, ...]], capsys: pytest.CaptureFixture
) -> None:
    loop = run(f"{PRO} --n_steps 14 --ema --ema_decay 0", tmp_path)
    assert "growing: 4 to 16 px, at full size from step 12" in capsys.readouterr().out
    assert logged(tmp_path, "growing/size") == SIZES and logged(tmp_path, "growing/alpha") == ALPHAS
    assert seen == [(8, 1, s, s) for s in SIZES for _ in range(3)]  # a step's reals, fakes, and fakes for G
    assert all(p.isfinite().all() for n in loop.task.networks.values() for p in n.parameters())
    for name, size in (("raw", 16), ("ema", 16)):
        G, _ = load_generator(tmp_path / "a", name)
        assert G(torch.randn(2, 8)).shape == (2, 1, size, size)


def test_a_rectangle_grows(
    tmp_path: Path, seen: list[tuple[int, ...]], capsys: pytest.CaptureFixture
) -> None:
    """Reals and fakes of all stages have its shape, and so have samples."""
    run(f"{PRO} --img_size 32x16 --n_steps 14", tmp_path)
    assert "growing: 8x4 to 32x16 px, at full size from step 12" in capsys.readouterr().out
    assert seen == [(8, 1, 2 * s, s) for s in SIZES for _ in range(3)]
    G, _ = load_generator(tmp_path / "a")
    assert G(torch.randn(2, 8)).shape == (2, 1, 32, 16)


@pytest.mark.parametrize("steps", [1, 5, 7, 12])
def test_networks_and_averages_stand_at_the_stage(tmp_path: Path, steps: int) -> None:
    loop = run(f"{PRO} --n_steps {steps} --ema", tmp_path)
    expected = (SIZES[steps - 1], ALPHAS[steps - 1])
    (ema, _) = loop.emas["ema"]
    for module in (*loop.task.networks.values(), ema.module):
        assert (module.stage.size, float(module.stage.alpha)) == expected
        assert module.stage.fading == (expected[1] < 1)
    size = expected[0]
    assert loop.task.networks["G"].train()(torch.randn(3, 8)).shape == (3, 1, size, size)


def test_optimisers_start_afresh_with_each_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam counts its steps since: at the beginning and at the end of each fade, and nowhere else."""
    counts: dict[str, list[int]] = {"G": [], "D": []}
    run_step = Loop.run_step

    def spy(self: Loop) -> None:
        run_step(self)
        G, D = self.task.networks["G"], self.task.networks["D"]
        for name, p in (("G", G.first.conv.weight), ("D", D.trunk.last.conv.weight)):
            counts[name].append(int(self.networks[name].optimizer.state[p]["step"]))

    monkeypatch.setattr(Loop, "run_step", spy)
    run(f"{PRO} --n_steps 14", tmp_path)
    assert counts["G"] == counts["D"] == [1, 2, 3, 4] + [1, 2] + [1, 2, 3, 4] + [1, 2] + [1, 2]


def test_reals_are_faded_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reals that are sharp while the fakes fade would tell D which are which: another run."""
    faded = run(f"{PRO} --n_steps 6", tmp_path).state_dict()
    again = run(f"{PRO.replace('name a', 'name b')} --n_steps 6", tmp_path).state_dict()
    assert differing(faded, again) == []
    monkeypatch.setattr("games.noise_to_image.at_stage", lambda x, size, alpha: F.avg_pool2d(x, 16 // size))
    sharp = run(f"{PRO.replace('name a', 'name c')} --n_steps 6", tmp_path).state_dict()
    assert differing(faded, sharp, ("networks",)) != []


def test_sheets_are_of_the_full_size_from_the_first_step(tmp_path: Path) -> None:
    run(f"{PRO} --n_steps 5 --sample_interval 1", tmp_path)
    for step in range(1, 6):
        with Image.open(tmp_path / "a" / "samples" / f"step-{step:08d}-raw.png") as sheet:
            assert sheet.size == (8 * 18 + 2, 8 * 18 + 2)
            pixels = torch.from_numpy(np.array(sheet.convert("L")))
        first = pixels[2:18, 2:18]
        block = 4 if step < 5 else 2  # px of the sheet that one pixel of the stage covers
        assert torch.equal(
            first, first[::block, ::block].repeat_interleave(block, 0).repeat_interleave(block, 1)
        )


VARYING = "--batch_size 4 --batch_by_size 4=8 8=2 --lr 1e-3 --lr_by_size 8=2e-3 16=5e-4 --lr_d 2e-3"
# 4 steps of 8 at 4 px, 24 of 2 at 8 px of which 8 in the fade, then 4 at 16 px in the fade
VARIED = f"{PRO} {VARYING} --img_size 16 --n_steps 34"


def test_a_run_of_batches_and_rates_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What D sees, what G draws, which images, rates, averages and counts follow the size."""
    seen: list[tuple[int, ...]] = []
    forward = progressive_gan.Discriminator.forward

    def spy(self: progressive_gan.Discriminator, x: Tensor, y: Tensor | None = None) -> Tensor:
        if not x.is_meta:
            seen.append((len(x), x.shape[2]))
        return forward(self, x, y)

    monkeypatch.setattr(progressive_gan.Discriminator, "forward", spy)
    loop = run(f"{VARIED} --ema --ema_halflife 16", tmp_path)
    batches = [(8, 4)] * 4 + [(2, 8)] * 24 + [(4, 16)] * 6
    assert seen == [batch for batch in batches for _ in range(3)]
    assert logged(tmp_path, "growing/alpha") == (
        [1.0] * 4 + [i / 8 for i in range(8)] + [1.0] * 16 + [0, 0.25, 0.5, 0.75, 1.0, 1.0]
    )
    assert logged(tmp_path, "lr/g") == [1e-3] * 4 + [2e-3] * 24 + [5e-4] * 6
    assert logged(tmp_path, "lr/d") == [2e-3] * 4 + [4e-3] * 24 + [1e-3] * 6
    assert loop.schedule.images(34) == 32 + 48 + 24
    assert loop.emas["ema"][1]() == pytest.approx(0.5 ** (4 / 16))  # of the step that would follow


def test_images_of_smaller_batches_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No image is left out and none comes twice where the batch changes."""
    starts: list[tuple[int, int]] = []
    micro = Batches.micro

    def spy(self: Batches, start_image: int, j: int = 0, shard: Shard | None = None) -> tuple:
        starts.append((start_image, shard.batch_size))
        return micro(self, start_image, j, shard)

    monkeypatch.setattr(Batches, "micro", spy)
    run(VARIED, tmp_path)
    assert len(starts) == 34
    assert all(start + n == following for (start, n), (following, _) in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize("stop", [2, 7, 30])
def test_a_run_of_batches_by_size_resumes(tmp_path: Path, stop: int) -> None:
    more = f"--checkpoint_interval {stop} --keep_checkpoints 99 --ema --ema_halflife 16 --augment ada --ada_kimg 1"
    run(f"{VARIED} {more}", tmp_path)
    whole = state(tmp_path, "a", 34)
    loop = run(f"--resume {tmp_path}/a/checkpoints/step-{stop:08d}.pt --log_name b --n_steps 34", tmp_path)
    assert differing(whole, loop.state_dict()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--batch_by_size 4=2000", "a batch of 2000 is larger than the data .*--batch_size alone"),
        ("--batch_by_size 4=6", "groups of 4 samples"),
        ("--accumulate 2 --batch_by_size 4=9", "--batch_by_size 9: .*not divisible"),
        ("--batch_by_size 5=8", "--batch_by_size 5: the run's sizes are 4, 8, 16 px"),
        ("--lr_by_size 12=8", "--lr_by_size 12: the run's sizes are 4, 8, 16 px"),
        ("--batch_by_size 4=0", "--batch_by_size 4 0 must be above 0"),
        ("--batch_by_size 4=.5", "--batch_by_size 4 must be a whole number"),
        ("--batch_by_size four=5", "'four': a size in px"),
        ("--lr_by_size 8=fast", "--lr_by_size 8 must be float"),
        ("--lr_by_size 8=1 --lr 0", "must be above 0"),
        ("--no_grow --lr_by_size 8=1", "nothing grows with --no_grow"),
    ],
)
def test_batches_that_cannot_be_are_refused(tmp_path: Path, flags: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        run(f"--log_name a {small('progressive_gan')} --n_steps 1 {flags}", tmp_path)
    assert re.search(words, caught.value.for_command_line)
    assert not (tmp_path / "a").exists()


def test_the_table_counts_images_by_size() -> None:
    """Of a run's config.json; of one that does not say nothing is counted."""
    saved = as_dict(settings(f"{BY_SIZE} --stable_kimg 0.03 --fade_kimg 0.02"))
    assert [images_before(saved)(step) for step in (4, 16, 20)] == [32, 80, 88]
    assert images_before({"batch_size": 5})(3) == 15
    assert images_before({}) is images_before({"batch_size": "auto"}) is None


@pytest.mark.parametrize("size", ["16", "32", "64", "160x128", "256", "1024"])
def test_little_data_of_any_size(size: str) -> None:
    """The preset's networks are built for it, and 100 pictures fill its batch."""
    config = resolve(f"--preset small-data --img_size {size}", "gan_celeba")
    assert config.batch_size <= 100
    game_of(config).rehearse(config, Shard(config.batch_size), {})


def test_a_value_for_all_sizes_takes_those_of_a_preset_back() -> None:
    """A flag beats the preset: --batch_size all its batches, --lr all its rates; that of one size joins the others."""
    preset = settings("--preset stylegan --img_size 16")
    assert preset.batch_by_size["8"] == 256 and preset.lr_by_size["128"] == 1.5e-3
    config = settings("--preset stylegan --img_size 16 --batch_size 16")
    assert config.batch_by_size == {} and config.lr_by_size == preset.lr_by_size
    config = settings("--preset stylegan --img_size 16 --lr 1e-4")
    assert config.lr_by_size == {} and config.batch_by_size == preset.batch_by_size
    config = settings("--preset stylegan --img_size 16 --batch_by_size 8=64")
    assert config.batch_by_size == preset.batch_by_size | {"8": 64} and config.batch_size == 32
    config = settings("--preset stylegan --img_size 16 --no_grow")
    assert (config.batch_by_size, config.lr_by_size, config.batch_size) == ({}, {}, 32)


@pytest.mark.parametrize("stop", [3, 5, 6, 11])
def test_a_run_resumes_within_any_stage(tmp_path: Path, stop: int) -> None:
    run(f"{PRO} --n_steps 14 --checkpoint_interval {stop} --keep_checkpoints 9 --ema", tmp_path)
    whole = state(tmp_path, "a", 14)
    loop = run(f"--resume {tmp_path}/a/checkpoints/step-{stop:08d}.pt --log_name b --n_steps 14", tmp_path)
    assert differing(whole, loop.state_dict()) == []


def test_the_full_size_from_the_start(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    loop = run(f"--log_name a {small('progressive_gan')} --no_grow --n_steps 2", tmp_path)
    assert "at full size from" not in capsys.readouterr().out
    assert loop.task.networks["G"].train()(torch.randn(3, 8)).shape == (3, 1, 16, 16)
    assert "growing/size" not in json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1])


def test_styles_grow_too(tmp_path: Path) -> None:
    """StyleGAN from 8 px: the number of styles follows the stage, path length included."""
    penalty = "--path_length_weight 2 --penalty_interval path_length=2"
    run(f"--log_name a {small('stylegan')} {GROWING} {penalty} --n_steps 8", tmp_path)
    assert logged(tmp_path, "growing/size") == [8] * 4 + [16] * 4
    assert logged(tmp_path, "growing/alpha") == [1.0] * 4 + [0.0, 0.5, 1.0, 1.0]
    first, *rest = logged(tmp_path, "penalty/path_length")
    assert first is None and min(rest) > 0
