"""Bit-equal resume in new processes, and two processes equal to one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from errors import UserError
from generation.version import code_version
from settings import TrainConfig
from tests.running import differing, drive, leaves, run, small, state, write_pairs
from tests.test_scores import lines_of, scored
from training.machine import make_accelerator

# A run is resumed in the middle of the cadences of its penalties: 5 is no multiple of 2, 3 or 4, and each is due after
# it, so that one counted anew from there would give other weights.
STEPS, HALF = 10, 5
NOISY = (
    "--flip --d_kwargs width=4 dropout=0.3 noise_std=0.1 noise_layers=[0,1] --instance_noise_steps 8 --ema"
)
STYLED = "--g_kwargs channel_base=128 w_dim=8 mapping_layers=2 --d_kwargs channel_base=128"
# The smallest size for 2 steps, the next for 4 in a fade and 2 as it is, and so on: step 5 stands in a fade
GROWN = "--stable_kimg 0.016 --fade_kimg 0.032"
NARROW = "--g_kwargs channel_base=128 --d_kwargs channel_base=128"
LABELLED = "--conditional --method hinge --img_size 32 --ema"
CODES = "--g_kwargs width=4 n_categories=3 --d_kwargs width=4 n_categories=3"
JOINT = (
    "--g_kwargs width=4 n_categories=3 prior=normal architecture=conv "
    "--d_kwargs width=4 n_categories=3 architecture=conv joint=true"
)
FRESH = f"{small('r3gan')} --conditional --method rpgan --penalty r1 r2 --fresh_reals --flip"
# Pictures of pictures: at 64 px pix2pix's G has dropout; CycleGAN's pool is full after 3 steps
PICTURES = {
    "pix2pix": "--model pix2pix --data {pairs} --img_size 64 --load_size 72 --flip --batch_size 4 --accumulate 2 "
    "--g_kwargs width=2 --d_kwargs width=2 n_layers=1 --r1_weight 1 --penalty_interval r1=3 --augment ada translation "
    "--ada_p 0.5 --ada_kimg 1 --ada_interval 3 --ema",
    "pix2pix-batch": f"{small('pix2pix')} --data {{pairs}} --pairing grey --norm_g batch --norm_d batch --ema "
    "--train_g_interval 2 --lr_decay_from 3",
    "cyclegan": f"{small('cyclegan')} --data {{pairs}} --batch_size 2 --pool_size 6 --method lsgan --penalty lecam "
    "--load_size 20 --flip --ema",
    "srgan": f"{small('srgan')} --data {{pairs}} --img_size 32 --factor 2 --batch_size 4 --ema",
}
# Of batches of 8: some still move at the end, some have come to theirs
MOVING = (
    "--penalty r1 r2 --penalty_interval r1=3 --augment ada --ada_interval 0 "
    "--schedule lr_g=1e-3:1e-4:.06 lr_d=2e-3:.016:.032:inverse_sqrt beta2=.9:.99:.06 r1=2:.2:.06 r2=1:.1:.02:linear "
    "ema_halflife=0:200:.06 ada_p=0:.5:.06"
)
# What another run has learnt, to start from.
SOURCE = f"--log_name source {small('stylegan2')} --ema --ema_decay 0.5 --n_steps 4 --seed 3"
RUNS = {
    "progressive_gan": f"--model progressive_gan --img_size 32x16 --method wgan-gp --drift_penalty 1 {GROWN} {NARROW} "
    "--ema",
    "stylegan": f"--model stylegan --img_size 16x32 --r1_weight 1 --augment ada --ada_p 0.5 --ada_kimg 1 "
    f"--ada_interval 3 {STYLED} {GROWN}",
    "stylegan2": f"--model stylegan2 --r1_weight 1 --penalty path_length --penalty_interval r1=3 path_length=3 {STYLED}"
    " --augment ada color --ada_p 0.5 --ada_kimg 1 --ada_interval 3 --ema --ema_halflife 100 --ema_rampup 0.5",
    # a batch of 8 at 4 px, 7 of 4 at 8 px and 2 of 2 at 16 px, in fades at steps 5 and 10
    "by-size": "--model progressive_gan --batch_size 2 --batch_by_size 4=8 8=4 --lr_by_size 8=1e-3 16=5e-4 "
    f"--stable_kimg 0.008 --fade_kimg 0.02 {NARROW} --ema --ema_halflife 50 --ema_rampup 0.5 --augment ada --ada_p 0.5 "
    "--ada_kimg 1 --ada_pipe bgcfnc --beta2_g 0.9 --ema_power 0.1",
    "gan": f"--method gan {NOISY}",
    "wgan-gp": f"--method wgan-gp {NOISY} --accumulate 2 --train_g_interval 2 --ema_power 0.05 0.1",
    "ac": f"--conditional --condition_g cbn --condition_d ac {NOISY}",
    "projection": "--conditional --condition_g cin --condition_d projection --method hinge --spectral_norm_d --ema "
    "--d_kwargs width=4 dropout=0.3 --ortho_weight 1 --penalty_interval ortho=3",
    "sngan": f"--model sngan {LABELLED} --train_g_interval 2 --lr_decay_from 0",
    "sagan": f"--model sagan {LABELLED} --lr_d 4e-4 --r1_weight 1 --penalty_interval r1=3",
    "biggan": f"--model biggan {LABELLED} --accumulate 2 --ortho_weight 1 --ema_warmup 3 "
    "--g_kwargs width=4 hierarchical=true",
    "r3gan": f"{FRESH} --accumulate 2 --ema --augment ada --ada_pipe r3gan --ada_p 0.5 --ada_interval 0",
    "rect_dcgan": "--model rect_dcgan --img_size 32x16 --d_kwargs width=4 dropout=0.3 noise_std=0.1 "
    "--label_smoothing 0.1 --optimizer AdamW",
    "veegan": "--model veegan --train_g_interval 2 --ema",
    "infogan": f"--model infogan {CODES} --ema",
    "infogan-joint": f"--model infogan --img_size 32 --r1_weight 10 --train_g_interval 2 --ema {JOINT}",
    "consistent": f"--penalty bcr zcr_d zcr_g lecam --accumulate 2 {NOISY}",
    "consistent-lazy": "--penalty cr zcr_d zcr_g lecam --penalty_interval cr=3 zcr_d=4 zcr_g=2 lecam=4 "
    f"--augment color translation --model stylegan2 {STYLED}",
    # slow weights of both levels have moved before the cut
    "slow": "--method rpgan --san --penalty r1_approx r2_approx centre --penalty_interval r1_approx=3 --lookahead 2 4 "
    "--augment translation --spectral_norm_g --ema",
    "lazy-r1": f"--method gan --r1_weight 10 --penalty_interval r1=4 {NOISY} --lr_decay_from 3",
    "scheduled": f"--method rpgan --ema {MOVING}",
    "started": f"{small('stylegan2')} --ema --freeze_d 2 --init_from {{source}}",
    **PICTURES,
}


def fill(command: str, folder: Path) -> str:
    """The command with the places of the run that it starts from and of the pairs."""
    return command.replace("{source}", str(folder / "source")).replace("{pairs}", str(folder / "pairs"))


GROWING = ("progressive_gan", "stylegan", "by-size")


@pytest.mark.parametrize("processes", [1, 2])
def test_resume_is_bit_equal(tmp_path, processes):
    """10 steps against 5, a new process, and 5 more: all of G, D, EMA, optimisers. Pictures leave no trace in them."""
    run(SOURCE, tmp_path)
    write_pairs(tmp_path / "pairs")
    cadence = f"--n_steps {STEPS} --checkpoint_interval {HALF}"
    commands = [f"--log_name {name} {fill(command, tmp_path)} {cadence}" for name, command in RUNS.items()]
    if processes == 1:
        for command in commands:
            run(command, tmp_path)
    else:
        drive(commands, tmp_path, processes=processes, sampled=False)
    whole = {name: state(tmp_path, name, STEPS) for name in RUNS}
    for name in RUNS:
        (tmp_path / name / "checkpoints" / f"step-{STEPS:08d}.pt").unlink()
    shutil.rmtree(tmp_path / "source")
    again = [f"--log_name {name} --resume" for name in RUNS]
    output = drive(again, tmp_path, processes=processes, sampled=False)
    assert output.count(f"resumed at step {HALF}") == len(RUNS)
    for name in RUNS:
        assert differing(whole[name], state(tmp_path, name, STEPS)) == []
    for step, heights in ((HALF, [16, 16, 8]), (STEPS, [32, 16, 16])):
        stages = [state(tmp_path, name, step)["networks"]["G"]["stage._extra_state"] for name in GROWING]
        assert [int(stage[0]) for stage in stages] == heights
        assert step == STEPS or all(0 < float(stage[1]) < 1 for stage in stages)
    p = [float(whole[name]["task"]["augmentation"]["p"]) for name in ("stylegan", "stylegan2")]
    assert all(0 < value != 0.5 for value in p)
    assert float(whole["stylegan2"]["task"]["penalties"]["path_length"]) > 0
    half, end = (state(tmp_path, "cyclegan", step)["task"]["pool"] for step in (HALF, STEPS))
    for name in ("D_A", "D_B"):  # full before the cut, and exchanged after it
        assert half[name]["n"] == end[name]["n"] == len(end[name]["images"]) == 6
        assert half[name]["images"].flatten(1).any(1).all()
        assert not torch.equal(half[name]["images"], end[name]["images"])
    means = whole["cyclegan"]["task"]["penalties"]
    assert all(map(float, (*means["D_A"].values(), *means["D_B"].values())))
    p = whole["pix2pix"]["task"]["augmentation"]["D"]["p"]
    assert 0 < float(p) != 0.5
    for name in ("consistent", "consistent-lazy"):
        means = whole[name]["task"]["penalties"]
        assert set(means) == {"lecam_real", "lecam_fake"} and all(map(float, means.values()))


EQUAL = {
    "wgan-gp": "--method wgan-gp --accumulate 2 --img_size 32x16",
    "r1": "--method gan --r1_weight 10 --flip",
    "r1-lazy": "--method gan --r1_weight 10 --penalty_interval r1=4",
    "ragan": "--method ragan --accumulate 2",
    "rpgan-r1-r2": "--method rpgan --penalty r1 r2",
    "scheduled": f"--method rpgan {MOVING}",
    "dragan": "--method gan --penalty dragan",
    "slow": "--method rpgan --san --penalty r1_approx r2_approx centre --penalty_interval r1_approx=3 --lookahead 2 4 "
    "--augment translation --accumulate 2",
    "san": "--model sngan --img_size 32 --method hinge --san --conditional --condition_g cin --g_kwargs width=4 "
    "--d_kwargs width=4",
    "consistent": "--penalty bcr zcr_d zcr_g lecam --accumulate 2",
    "consistent-lazy": "--penalty cr zcr_d zcr_g lecam --penalty_interval cr=3 zcr_d=4 zcr_g=2 lecam=2 "
    "--augment color cutout --r1_weight 1",
    "spectral": "--method hinge --spectral_norm_d --spectral_norm_g",
    "conditional": "--method lsgan --conditional",
    "ac": "--conditional --condition_g cin --condition_d ac --r1_weight 10 --accumulate 2",
    "k_plus_1": "--conditional --condition_g concat --condition_d k_plus_1",
    "projection": "--method hinge --conditional --condition_g cin --condition_d projection --spectral_norm_d "
    "--ortho_weight 1",
    "sngan": f"--model sngan {LABELLED} --condition_g cin --condition_d ac",
    "sagan": f"--model sagan {LABELLED} --condition_g cin --r1_weight 1 --accumulate 2",
    "biggan": f"--model biggan {LABELLED} --condition_g cin --ortho_weight 1 --g_kwargs width=4 hierarchical=true",
    "veegan": "--model veegan --accumulate 2",
    "r3gan": f"{FRESH} --accumulate 2",
    "fresh": "--method rpgan --fresh_reals --flip",
    "rect_dcgan": "--model rect_dcgan --img_size 16x32 --optimizer AdamW --label_smoothing 0.1",
    "infogan": f"--model infogan {CODES} --accumulate 2 --r1_weight 10",
    "infogan-joint": f"--model infogan --img_size 32 --train_g_interval 2 {JOINT}",
    "progressive_gan": f"--model progressive_gan --img_size 16x32 --method wgan-gp --stable_kimg 0.016 "
    f"--fade_kimg 0.016 {NARROW}",
    # D compares groups of 4 samples, which no process may cut
    "by-size": "--model progressive_gan --batch_by_size 4=16 8=24 --lr_by_size 8=1e-3 16=5e-4 "
    f"--stable_kimg 0.024 --fade_kimg 0.008 {NARROW} --augment ada --ada_p 0.5 --ada_kimg 1 --ada_pipe bgcfnc",
    "stylegan2": "--model stylegan2 --conditional --r1_weight 10 --penalty path_length --penalty_interval r1=3 "
    "path_length=2 --augment ada --ada_p 0.5 --ada_kimg 1 --ada_interval 2 --accumulate 2",
    "started": f"{small('stylegan2', noise=False)} group_size=2 --freeze_d 1 --init_from {{source}}",
    "pix2pix": f"{small('pix2pix')} --data {{pairs}} --load_size 20 --flip --accumulate 2 --r1_weight 1 "
    "--augment ada translation --ada_p 0.5 --ada_kimg 1 --ada_interval 2",
    # full after two steps, of which the second fills it and exchanges
    "cyclegan": f"{small('cyclegan')} --data {{pairs}} --pool_size 12 --accumulate 2 --method lsgan --penalty lecam",
    "srgan": f"{small('srgan')} --data {{pairs}} --img_size 32 --factor 2 --batch_size 4",
}
# Each size for long: a dry run has all of them to measure.
SPREAD = "--stable_kimg 0.2 --fade_kimg 0.2"
PLAIN = "--norm_g none --norm_d none"
# Without batch statistics; cin is a norm of G that has none.
BARE = {
    "stylegan2": STYLED.replace("w_dim", "noise=False w_dim") + " group_size=2",
    **dict.fromkeys(
        (
            "progressive_gan",
            "by-size",
            "sngan",
            "san",
            "sagan",
            "biggan",
            "r3gan",
            "started",
            "pix2pix",
            "cyclegan",
        ),
        "",
    ),
    "ac": "--norm_d none",
    "rect_dcgan": "--norm_g none",
    "projection": "--norm_d none",
}


def test_two_processes_equal_one(tmp_path: Path, weights: Path) -> None:
    """Same global batch, float64, no batch statistics: parameters after 6 steps, and scores.

    Scores are of the same weights apart from rounding, in the same chunks, and one process writes one line. All share
    one launch, with a dry run, which both measure and one tells of.
    """
    common = "--n_steps 6 --ema --health_interval 3"
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    run(SOURCE, tmp_path)
    write_pairs(tmp_path / "pairs")
    commands = [
        f"--log_name {name} {fill(command, tmp_path)} {common} {BARE.get(name, PLAIN)}"
        for name, command in EQUAL.items()
    ]
    commands.append(f"--log_name scored --n_steps 2 {PLAIN} {scored(weights)}")
    code_version.cache_clear()  # this process may be older than the last change of the code
    for command in commands:
        run(command, tmp_path / "one", dtype=torch.float64)
    commands.append(f"--log_name measured --n_steps 400 --dry_run {small('progressive_gan')} {SPREAD}")
    output = drive(commands, tmp_path / "two", processes=2, dtype="float64")
    assert output.count("processes: 2, global batch: ") == len(commands)
    for name in EQUAL:
        one, two = (state(tmp_path / p, name, 6) for p in ("one", "two"))
        held = (
            {part: s[part] for part in ("networks", "ema")} | s["task"].get("pool", {}) for s in (one, two)
        )
        one, two = ({k: v for k, v in leaves(s).items() if isinstance(v, torch.Tensor)} for s in held)
        assert one.keys() == two.keys()
        moved = 0.0
        for key, value in one.items():
            assert value.dtype == torch.float64
            torch.testing.assert_close(two[key], value, rtol=0, atol=1e-10, msg=f"{name} {key}")
            moved = max(moved, float(value.abs().max()))
        assert moved > 0
        one, two = (
            [json.loads(line) for line in (tmp_path / p / name / "metrics.jsonl").open()]
            for p in ("one", "two")
        )
        assert [row["step"] for row in one] == [row["step"] for row in two]
        for row, other in zip(one, two, strict=True):
            assert any(key.startswith("layer_grad") for key in row) == (row["step"] != 5)
            row, other = ({k: v for k, v in r.items() if k != "img_per_s"} for r in (row, other))
            # a pixel may be rounded the other way
            assert row == pytest.approx(other, rel=1e-4, abs=1e-7)

    assert output.count("dry run: nothing was kept") == 1 and "for 400 steps" in output
    assert not (tmp_path / "two" / "measured").exists()
    (one,), (two,) = (lines_of(tmp_path / p / "scored") for p in ("one", "two"))
    assert one["protocol"] == two["protocol"]
    assert one["fid[digits-cnn]"] == pytest.approx(two["fid[digits-cnn]"], rel=1e-5)


def test_batch_not_divisible_by_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before there is a folder, by a process that is told of another."""

    def one_of_two(config: TrainConfig) -> Accelerator:
        accelerator = make_accelerator(config)
        monkeypatch.setattr(Accelerator, "num_processes", 2)
        return accelerator

    monkeypatch.setattr("training.machine.make_accelerator", one_of_two)
    with pytest.raises(UserError, match="not divisible by 2 processes"):
        run("--log_name a --batch_size 9 --n_steps 1", tmp_path)
    assert not (tmp_path / "a").exists()


def test_gan_and_its_twin_differ(tmp_path):
    """The comparison itself can fail: another seed gives other weights, averages and moments, all of them."""
    for name, seed in (("a", 0), ("b", 1)):
        run(f"--log_name {name} --n_steps 2 --ema --seed {seed}", tmp_path)
    one, other = (state(tmp_path, name, 2) for name in "ab")
    held = {k: v for part in ("networks", "ema", "optimizers") for k, v in leaves(one[part], part).items()}
    drawn = {k for k, v in held.items() if isinstance(v, torch.Tensor) and v.dim() > 1}
    assert len(drawn) > 20 and drawn <= set(differing(one, other))
