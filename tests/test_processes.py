"""Bit-equal resume in new processes, and two processes equal to one."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from errors import UserError
from generation.version import code_version
from settings import TrainConfig
from tests.running import differing, drive, leaves, run, state
from tests.test_scores import lines_of, scored
from training.machine import make_accelerator

NOISY = (
    "--flip --d_kwargs width=4 dropout=0.3 noise_std=0.1 noise_layers=[0,1] --instance_noise_steps 15 --ema"
)
STYLED = "--g_kwargs channel_base=128 w_dim=8 mapping_layers=2 --d_kwargs channel_base=128"
# 4 px for 5 steps, then 8 in a fade, 5 as it is: the checkpoint at step 10 stands in the middle of a fade
GROWN = "--stable_kimg 0.04 --fade_kimg 0.064"
NARROW = "--g_kwargs channel_base=128 --d_kwargs channel_base=128"
LABELLED = "--conditional --method hinge --img_size 32 --ema"
CODES = "--g_kwargs width=4 n_categories=3 --d_kwargs width=4 n_categories=3"
JOINT = (
    "--g_kwargs width=4 n_categories=3 prior=normal architecture=conv "
    "--d_kwargs width=4 n_categories=3 architecture=conv joint=true"
)
RUNS = {
    "progressive_gan": f"--model progressive_gan --img_size 32x16 --method wgan-gp --drift_penalty 1 {GROWN} {NARROW} "
    "--ema",
    "stylegan": f"--model stylegan --img_size 16x32 --r1_weight 1 --augment ada --ada_p 0.5 --ada_kimg 1 {STYLED} "
    f"{GROWN}",
    "stylegan2": f"--model stylegan2 --r1_weight 1 --penalty path_length --penalty_interval r1=3 path_length=3 {STYLED}"
    " --augment ada color --ada_p 0.5 --ada_kimg 1 --ada_interval 3 --ema --ema_halflife 100 --ema_rampup 0.5",
    # batches of 8 at 4 px, of 4 at 8 px and of 2 at 16 px, in fades at steps 10 and 20
    "by-size": f"--model progressive_gan --batch_size 2 --batch_by_size 4=8 8=4 --lr_by_size 8=1e-3 16=5e-4 {GROWN} "
    f"{NARROW} --ema --ema_halflife 50 --ema_rampup 0.5 --augment ada --ada_p 0.5 --ada_kimg 1 --ada_pipe bgcfnc "
    "--beta2_g 0.9",
    "gan": f"--method gan {NOISY}",
    "wgan-gp": f"--method wgan-gp {NOISY} --accumulate 2 --train_g_interval 2",
    "ac": f"--conditional --condition_g cbn --condition_d ac {NOISY}",
    "projection": "--conditional --condition_g cin --condition_d projection --method hinge --spectral_norm_d --ema "
    "--d_kwargs width=4 dropout=0.3 --ortho_weight 1 --penalty_interval ortho=3",
    "sngan": f"--model sngan {LABELLED} --train_g_interval 2 --lr_decay_from 0",
    "sagan": f"--model sagan {LABELLED} --lr_d 4e-4 --r1_weight 1 --penalty_interval r1=3",
    "biggan": f"--model biggan {LABELLED} --accumulate 2 --ortho_weight 1 --ema_warmup 5 "
    "--g_kwargs width=4 hierarchical=true",
    "rect_dcgan": "--model rect_dcgan --img_size 32x16 --d_kwargs width=4 dropout=0.3 noise_std=0.1 "
    "--label_smoothing 0.1 --optimizer AdamW",
    "veegan": "--model veegan --train_g_interval 2 --ema",
    "infogan": f"--model infogan {CODES} --ema",
    "infogan-joint": f"--model infogan --img_size 32 --r1_weight 10 --train_g_interval 2 --ema {JOINT}",
    "consistent": f"--penalty bcr zcr_d zcr_g lecam --accumulate 2 {NOISY}",
    "consistent-lazy": "--penalty cr zcr_d zcr_g lecam --penalty_interval cr=3 zcr_d=4 zcr_g=2 lecam=4 "
    f"--augment color translation --model stylegan2 {STYLED}",
    "lazy-r1": f"--method gan --r1_weight 10 --penalty_interval r1=4 {NOISY} --lr_decay_from 5",
}


@pytest.mark.parametrize("processes", [1, 2])
def test_resume_is_bit_equal(tmp_path, processes):
    """20 steps against 10, a new process, and 10 more: all of G, D, EMA, optimisers."""
    commands = [f"--log_name {n} {c} --n_steps 20 --checkpoint_interval 10" for n, c in RUNS.items()]
    if processes == 1:
        for command in commands:
            run(command, tmp_path)
    else:
        drive(commands, tmp_path, processes=processes)
    whole = {name: state(tmp_path, name, 20) for name in RUNS}
    for name in RUNS:
        (tmp_path / name / "checkpoints" / "step-00000020.pt").unlink()
    output = drive([f"--log_name {name} --resume" for name in RUNS], tmp_path, processes=processes)
    assert output.count("resumed at step 10") == len(RUNS)
    for name in RUNS:
        assert differing(whole[name], state(tmp_path, name, 20)) == []
    faded = {name: state(tmp_path, name, 10)["networks"]["G"] for name in ("progressive_gan", "stylegan")}
    assert all(0 < float(G["stage._extra_state"][1]) < 1 for G in faded.values())
    p = [float(whole[name]["task"]["augmentation"]["p"]) for name in ("stylegan", "stylegan2")]
    assert all(0 < value != 0.5 for value in p)
    assert float(whole["stylegan2"]["task"]["penalties"]["path_length"]) > 0
    for name in ("consistent", "consistent-lazy"):
        means = whole[name]["task"]["penalties"]
        assert set(means) == {"lecam_real", "lecam_fake"} and all(map(float, means.values()))


EQUAL = {
    "wgan-gp": "--method wgan-gp --accumulate 2 --img_size 32x16",
    "r1": "--method gan --r1_weight 10 --flip",
    "r1-lazy": "--method gan --r1_weight 10 --penalty_interval r1=4",
    "ragan": "--method ragan --accumulate 2",
    "rpgan-r1-r2": "--method rpgan --penalty r1 r2",
    "dragan": "--method gan --penalty dragan",
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
    "rect_dcgan": "--model rect_dcgan --img_size 16x32 --optimizer AdamW --label_smoothing 0.1",
    "infogan": f"--model infogan {CODES} --accumulate 2 --r1_weight 10",
    "infogan-joint": f"--model infogan --img_size 32 --train_g_interval 2 {JOINT}",
    "progressive_gan": f"--model progressive_gan --img_size 16x32 --method wgan-gp --stable_kimg 0.024 "
    f"--fade_kimg 0.032 {NARROW}",
    # D compares groups of 4 samples, which no process may cut
    "by-size": "--model progressive_gan --batch_by_size 4=16 8=24 --lr_by_size 8=1e-3 16=5e-4 "
    f"--stable_kimg 0.024 --fade_kimg 0.008 {NARROW} --augment ada --ada_p 0.5 --ada_kimg 1 --ada_pipe bgcfnc",
    "stylegan2": "--model stylegan2 --conditional --r1_weight 10 --penalty path_length --penalty_interval r1=3 "
    "path_length=2 --augment ada --ada_p 0.5 --ada_kimg 1 --ada_interval 2 --accumulate 2",
}
PLAIN = "--norm_g none --norm_d none"
# Without batch statistics; cin is a norm of G that has none.
BARE = {
    "stylegan2": STYLED.replace("w_dim", "noise=False w_dim") + " group_size=2",
    **dict.fromkeys(("progressive_gan", "by-size", "sngan", "sagan", "biggan"), ""),
    "ac": "--norm_d none",
    "rect_dcgan": "--norm_g none",
    "projection": "--norm_d none",
}


def test_two_processes_equal_one(tmp_path: Path, weights: Path) -> None:
    """Same global batch, float64, no batch statistics: parameters after 10 steps, and scores.

    Scores are of the same weights apart from rounding, in the same chunks, and one process writes one line.
    """
    common = "--n_steps 10 --ema"
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    commands = [
        f"--log_name {name} {command} {common} {BARE.get(name, PLAIN)}" for name, command in EQUAL.items()
    ]
    commands.append(f"--log_name scored --n_steps 2 {PLAIN} {scored(weights)}")
    code_version.cache_clear()  # this process may be older than the last change of the code
    for command in commands:
        run(command, tmp_path / "one", dtype=torch.float64)
    output = drive(commands, tmp_path / "two", processes=2, dtype="float64")
    assert output.count("processes: 2, global batch: 8") == len(commands)
    for name in EQUAL:
        one, two = (leaves(state(tmp_path / p, name, 10)["networks"]) for p in ("one", "two"))
        moved = 0.0
        for key, value in one.items():
            assert value.dtype == torch.float64
            torch.testing.assert_close(two[key], value, rtol=0, atol=1e-10, msg=f"{name} {key}")
            moved = max(moved, float(value.abs().max()))
        assert moved > 0

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
