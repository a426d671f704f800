"""The loop: every method and penalty, precision, accumulation, guards, signals, EMA, folders, refusals."""

import copy
import dataclasses
import functools
import inspect
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

import disk
import gan_mnist
from augmentation import AUGMENTATIONS, PIPES
from ema import EMA
from errors import UserError
from games.augment import Augmenter
from games.noise_to_image import NoiseToImage
from games.penalties import Penalties
from games.task import every, warm_schedule
from generation.checkpoint import CheckpointStore
from generation.generator import load_generator
from images.batches import DATA_DEVICES, Batches
from images.sources import DIGITS
from losses import METHODS, PENALTIES
from modelling import MODELS, stylegan2
from modelling.layers import GaussianNoise
from modelling.styles import Mapping
from ops.rng import generator
from settings import TrainConfig
from settings.sections.optimisation import OPTIMIZERS
from settings.sections.run import LOGGERS
from tests.running import ROOT, differing, full, leaves, run, small, state
from tests.test_losses import CUSTOMARY
from training.guards import MAX_BAD_STEPS, MAX_ROLLBACKS
from training.logs import RunLog


def lines(folder, name="a"):
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def finite(loop) -> bool:
    return all(bool(torch.isfinite(p).all()) for n in loop.task.networks.values() for p in n.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_of_every_method(tmp_path, method):
    loop = run(f"--log_name a --method {method} --n_steps 2 --ema --log_interval 1", tmp_path)
    assert loop.step == 2 and finite(loop)
    logged = lines(tmp_path)[-1]
    assert {
        "loss/d",
        "loss/g",
        "d/real",
        "d/fake",
        "grad_norm/d",
        "grad_norm/g",
        "lr/d",
        "lr/g",
    } <= logged.keys()
    assert {"skipped_steps", "img_per_s"} <= logged.keys()
    if METHODS[method].weight_clip:
        assert (
            max(float(p.detach().abs().max()) for p in loop.task.networks["D"].parameters())
            <= METHODS[method].weight_clip
        )


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_two_steps_of_every_penalty(tmp_path, penalty, interval):
    command = f"--log_name a --penalty {penalty} --penalty_interval {penalty}={interval} --n_steps 2 --log_interval 1"
    if PENALTIES[penalty].styles:
        command += " " + small("stylegan2")
    loop = run(command, tmp_path)
    assert finite(loop)
    value = lines(tmp_path)[-1][f"penalty/{penalty}"]
    assert value or penalty not in CUSTOMARY  # another may ask nothing of a D so young
    assert value >= 0 or penalty == "zcr_g"


@pytest.mark.parametrize("model", [name for name, row in MODELS.items() if row.latents])
def test_two_steps_of_every_model(tmp_path, model):
    penalty = "" if model == "veegan" else "--penalty r1"  # whose losses are its own
    for name, labels in (("a", ""), ("b", "--conditional"))[: 1 + bool(MODELS[model].conditions_g)]:
        command = f"--log_name {name} --img_size 32 {small(model)} --n_steps 2 {labels}"
        assert finite(run(f"{command} --ema {penalty}", tmp_path))


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "RMSprop", "SGD"])
def test_every_optimizer_moves_both_networks(tmp_path, optimizer):
    first = run(f"--log_name a --optimizer {optimizer} --n_steps 1 --lr_d 1e-3 --lr_g 1e-4", tmp_path)
    assert lines(tmp_path)[-1]["lr/d"] == 1e-3 and lines(tmp_path)[-1]["lr/g"] == 1e-4
    second = run(f"--log_name b --optimizer {optimizer} --n_steps 2 --lr_d 1e-3 --lr_g 1e-4", tmp_path)
    changed = differing(first.state_dict(), second.state_dict(), ("networks",))
    assert {path.split("/")[1] for path in changed} == {"D", "G"}


def test_drift_is_logged_when_only_its_weight_is_given(tmp_path):
    run("--log_name a --drift_penalty 0.001 --n_steps 5", tmp_path)
    assert lines(tmp_path)[-1]["penalty/drift"] > 0


def test_penalty_changes_the_gradient_by_its_weight(tmp_path):
    """d's loss is method + weight * penalty: read off two runs of one step that differ in the weight alone."""
    rows = []
    for weight in (0, 10):
        run(f"--log_name w{weight} --r1_weight {weight} --n_steps 1", tmp_path)
        rows.append(lines(tmp_path, f"w{weight}")[-1])
    assert rows[0]["penalty/r1"] == rows[1]["penalty/r1"] > 0
    assert rows[0]["grad_norm/d"] != rows[1]["grad_norm/d"]


@pytest.mark.parametrize(
    "flags", ["--method wgan-gp --spectral_norm_d", "--method rpgan --penalty r1 r2 --fresh_reals"]
)
def test_accumulation_changes_nothing_without_batch_statistics(tmp_path, flags):
    common = f"--norm_g none --norm_d none --n_steps 3 --ema {flags}"
    torch.set_default_dtype(torch.float64)
    try:
        states = [run(f"--log_name k{k} --accumulate {k} {common}", tmp_path).state_dict() for k in (1, 4)]
    finally:
        torch.set_default_dtype(torch.float32)
    one, four = (leaves(s["networks"]) for s in states)
    for key, value in one.items():
        torch.testing.assert_close(four[key], value, rtol=0, atol=1e-12, msg=key)


def test_lazy_penalty_scales_loss_and_corrects_adam(tmp_path):
    loop = run("--log_name a --r1_weight 10 --penalty_interval r1=4 --n_steps 1", tmp_path)
    group = loop.networks["D"].optimizer.param_groups[0]
    c = 4 / 5
    assert group["lr"] == pytest.approx(2e-4 * c)
    assert group["betas"] == pytest.approx((0.5**c, 0.999**c))
    assert loop.networks["G"].optimizer.param_groups[0]["betas"] == (0.5, 0.999)
    phase = next(p for p in loop.task.phases if p.name == "r1")
    assert phase.interval == 4 and [phase.due(s) for s in range(8)] == [False, False, False, True] * 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_decays_the_weights_of_both_networks(tmp_path, optimizer):
    run(f"--log_name a --optimizer {optimizer} --weight_decay 0.125 --n_steps 1", tmp_path)
    groups = {k: saved["param_groups"] for k, saved in state(tmp_path, "a", 1)["optimizers"].items()}
    assert set(groups) == {"D", "G"}
    assert {group["weight_decay"] for held in groups.values() for group in held} == {0.125}


@pytest.mark.parametrize("optimizer", ["RMSprop", "SGD"])
def test_lazy_correction_is_adams_alone(tmp_path, optimizer):
    command = f"--log_name a --optimizer {optimizer} --r1_weight 1 --penalty_interval r1=4 --n_steps 1"
    assert run(command, tmp_path).networks["D"].optimizer.param_groups[0]["lr"] == 2e-4


def test_generator_interval(tmp_path):
    loop = run("--log_name a --train_g_interval 3 --n_steps 7 --ema", tmp_path)
    assert loop.updates == 2
    assert [every(3)(s) for s in range(6)] == [False, False, True] * 2


def test_a_warm_critic_takes_a_hundred_steps_before_g_moves(tmp_path):
    run("--log_name a --critic_warmup --n_steps 100 --log_interval 1", tmp_path)
    rows = lines(tmp_path)
    assert len(rows) == 100 and [row["step"] for row in rows if "loss/g" in row] == [100]


def test_warm_schedule_of_the_critic():
    """Worked by hand: 25 updates after 100 steps each, then one each n, and the 500th after 100 again."""
    due = warm_schedule(5)
    steps = [s + 1 for s in range(12_000) if due(s)]
    assert steps[:3] == [100, 200, 300] and steps[24] == 2500 and steps[25] == 2505
    assert steps[499] == 2500 + 475 * 5
    assert steps[500] - steps[499] == 100 and steps[501] - steps[500] == 5
    assert steps[1000] - steps[999] == 100


def test_ema_follows_the_weights(tmp_path):
    loop = run("--log_name a --n_steps 3 --ema --ema_decay 0 0.5", tmp_path)
    G = loop.task.networks["G"]
    copy, lagging = (ema.module for ema, _ in loop.emas.values())
    assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), G.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(lagging.parameters(), G.parameters(), strict=True))
    assert list(loop.emas) == ["ema-0.0", "ema-0.5"]


@pytest.mark.parametrize("kind", ["--ema_decay 0.05 0.5", "--ema_halflife 10 100"])
def test_averages_are_plain_copies_until_their_warmup_ends(tmp_path, kind):
    """The third update is the first one that averages."""
    for n_steps in (2, 3):
        run(f"--log_name {n_steps} --n_steps {n_steps} --ema {kind} --ema_warmup 2", tmp_path)
        saved = state(tmp_path, str(n_steps), n_steps)
        assert len(saved["ema"]) == 2
        for average in saved["ema"].values():
            equal = [torch.equal(average[k], v) for k, v in saved["networks"]["G"].items() if "weight" in k]
            assert all(equal) if n_steps == 2 else not any(equal)


def test_ema_halflife_counts_images(tmp_path):
    loop = run("--log_name a --n_steps 4 --ema --ema_halflife 16 --train_g_interval 2", tmp_path)
    (_, decay) = loop.emas["ema"]
    loop.step = loop.last_update + 1  # two steps of 8 images since the last update
    assert decay() == pytest.approx(0.5)


def norms(network) -> dict[str, float]:
    """The largest singular value of each weight under spectral norm, by its layer's name."""
    found = {}
    for name, module in network.named_modules():
        if is_parametrized(module, "weight"):
            weight = module.weight.detach()
            weight = weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else weight
            found[name] = float(torch.linalg.matrix_norm(weight.flatten(1), 2))
    return found


def test_spectral_norms_follow_the_weights_through_training(tmp_path):
    """u and v move by an iteration a step: sigma is that of weights which a high rate has changed altogether."""
    spectral = "--spectral_norm_g --spectral_norm_d --lr 1e-2"
    first, last = (run(f"--log_name {n} {spectral} --n_steps {n}", tmp_path).task.networks for n in (1, 20))
    for name, network in last.items():
        assert len(norms(network)) > 1
        assert all(0.8 < norm < 1.25 for norm in norms(network).values()), norms(network)
        before, after = (dict(networks[name].named_buffers()) for networks in (first, last))
        vectors = [key for key in after if key.endswith((".u", ".v")) and after[key].numel() > 1]
        assert vectors and not any(torch.equal(before[key], after[key]) for key in vectors)


@pytest.mark.parametrize("n_steps", [1, 3, 4, 6])
def test_instance_noise_fades_out_linearly(tmp_path, n_steps):
    """1 in the first step and 0 from the fifth on, in every noisy layer of D."""
    noisy = "--d_kwargs width=4 noise_std=0.1 noise_layers=[0,1] --instance_noise_steps 4"
    D = run(f"--log_name a {noisy} --n_steps {n_steps}", tmp_path).task.networks["D"]
    scales = [float(layer.scale) for layer in D.modules() if isinstance(layer, GaussianNoise)]
    assert scales == [max(0, 1 - (n_steps - 1) / 4)] * 2


def test_learning_rates_fall_linearly(tmp_path):
    run("--log_name a --n_steps 10 --lr 1e-3 --lr_decay_from 5 --log_interval 1", tmp_path)
    rates = [line["lr/d"] for line in lines(tmp_path)]
    assert rates == pytest.approx([1e-3] * 6 + [8e-4, 6e-4, 4e-4, 2e-4])


@pytest.mark.parametrize("penalty", ["r1", "r1_approx", "cr", "zcr_d", "zcr_g"])
def test_bf16_penalties_are_full_precision(tmp_path, penalty):
    """In bf16 a penalty equals that of an fp32 run at the same weights to float rounding."""
    rows = []
    for precision in ("no", "bf16"):
        run(f"--log_name {precision} --mixed_precision {precision} --penalty {penalty} --n_steps 1", tmp_path)
        rows.append(lines(tmp_path, precision)[-1])
    assert rows[0][f"penalty/{penalty}"] == pytest.approx(rows[1][f"penalty/{penalty}"], rel=1e-6)
    assert rows[0][f"penalty/{penalty}"] != 0
    assert rows[0]["loss/d"] != rows[1]["loss/d"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        "--model progressive_gan --method wgan-gp --drift_penalty 0.001 --stable_kimg 0.2 --fade_kimg 0.2",
        "--model stylegan --r1_weight 1 --augment ada --ada_p 0.3 --stable_kimg 0.4 --fade_kimg 0.4",
        "--model stylegan2 --r1_weight 1 --penalty_interval r1=4 --penalty path_length --augment ada --ada_p 0.3",
    ],
)
def test_two_hundred_steps_in_bf16(tmp_path, flags):
    """Growing, penalties and augmentation included: not one value that is not finite."""
    command = (
        f"{small(flags.split()[1])} {flags} --mixed_precision bf16 --lr 1e-3 --beta1 0 --beta2 0.99 --ema"
    )
    loop = run(f"--log_name a {command} --n_steps 200", tmp_path)
    assert finite(loop) and lines(tmp_path)[-1]["skipped_steps"] == 0


def test_fp16_on_the_cpu_warns_and_runs_in_fp32(tmp_path, capsys):
    loop = run("--log_name a --mixed_precision fp16 --n_steps 1", tmp_path)
    assert "fp16 does not exist on the CPU" in capsys.readouterr().err
    assert loop.accelerator.mixed_precision == "no"


def compiled(command, folder, environment=None):
    """Train in a new process as `accelerate launch --dynamo_backend inductor` starts it."""
    launched = {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / "gan_mnist.py"), *shlex.split(full(command, folder))],
        env=os.environ | launched | (environment or {}), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled_forwards_train_as_eager_ones(tmp_path):
    """Plain names in the checkpoint, penalties included, the same weights to float rounding."""
    command = "--n_steps 2 --r1_weight 1 --ema --log_interval 1"
    done = compiled(f"--log_name compiled {command}", tmp_path)
    assert done.returncode == 0, done.stderr
    run(f"--log_name eager {command}", tmp_path)
    fast, slow = (leaves(state(tmp_path, name, 2)["networks"]) for name in ("compiled", "eager"))
    assert fast.keys() == slow.keys()
    for key in fast:
        torch.testing.assert_close(fast[key], slow[key], rtol=0, atol=1e-3, msg=key)


def test_compiling_without_a_compiler_is_refused(tmp_path):
    done = compiled("--log_name a --n_steps 1", tmp_path, {"CXX": "/nowhere/g++", "PATH": "/nowhere"})
    assert done.returncode == 2 and "C++ compiler" in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )


def test_layout_and_sharing_leave_the_result(tmp_path):
    """channels_last against contiguous in float64: the same numbers to rounding."""
    torch.set_default_dtype(torch.float64)
    try:
        common = "--n_steps 3 --method gan"
        states = [
            run(f"--log_name {n} {common} --{n}", tmp_path).state_dict()
            for n in ("channels_last", "no-channels_last")
        ]
    finally:
        torch.set_default_dtype(torch.float32)
    for (key, a), b in zip(
        leaves(states[0]["networks"]).items(), leaves(states[1]["networks"]).values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10, msg=key)


# -- styles, path length, learning rates of their own ------------------------------------------------------------


def spy_on_draws(monkeypatch):
    """What DCGAN's networks see in training, in order: (side, input, labels, what a layer of theirs would draw)."""
    calls = []
    for side in ("Generator", "Discriminator"):
        network = getattr(MODELS["dcgan"], side)

        def spy(self, x, y=None, *, side=side[0], forward=network.forward):
            if self.training and not x.is_meta and len(x) <= 8:  # sampling copies take more at once
                calls.append((side, x.detach().clone(), y, torch.rand(4)))
            return forward(self, x, y)

        monkeypatch.setattr(network, "forward", spy)
    return calls


def different(tensors) -> bool:
    """Whether no two of them are equal."""
    tensors = list(tensors)
    return not any(torch.equal(a, b) for i, a in enumerate(tensors) for b in tensors[:i])


def test_latents_and_layer_noise_differ_by_step_phase_and_seed(tmp_path, monkeypatch):
    calls = spy_on_draws(monkeypatch)
    for seed in (0, 1):
        run(f"--log_name {seed} --seed {seed} --n_steps 3 --train_g_interval 1", tmp_path)
    latents = [x for side, x, *_ in calls if side == "G"]
    assert len(latents) == 2 * 3 and different(latents)
    assert len(calls) == 2 * 3 * 4 and different(noise for *_, noise in calls)


@pytest.mark.parametrize("network", ["G", "D"])
def test_initial_weights_follow_the_seed(tmp_path, network):
    """Learnt with a rate of 0, they are the first ones; what is not drawn stands at 0 or 1."""
    one, other = (
        run(f"--log_name {seed} --seed {seed} --lr 0 --n_steps 1", tmp_path).task.networks[network]
        for seed in (0, 1)
    )
    equal = [a for a, b in zip(one.parameters(), other.parameters(), strict=True) if torch.equal(a, b)]
    assert len(equal) < len(list(one.parameters()))
    assert all(bool(((p == 0) | (p == 1)).all()) for p in equal)


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("way", [way for way in MODELS["dcgan"].conditions_d if way != "concat"])
def test_every_image_is_judged_under_its_own_label(tmp_path, monkeypatch, way, interval):
    """Reals and fakes in D's turn, in G's and in penalties alike; and G was asked for the same labels."""
    calls = spy_on_draws(monkeypatch)
    command = f"--method ragan --conditional --condition_g cbn --condition_d {way} --penalty r1 gp"
    loop = run(f"--log_name a {command} --penalty_interval r1={interval} gp={interval} --n_steps 2", tmp_path)
    (x_first, first), (x_second, second) = (loop.task.batches.micro(8 * step) for step in (0, 1))
    turn = next(i for i, (_, x, *_) in enumerate(calls) if torch.equal(x, x_second)) - 1  # G comes first
    assert turn > 4 and torch.equal(calls[1][1], x_first) and not torch.equal(first, second)
    for expected, step in ((first, calls[:turn]), (second, calls[turn:])):
        assert step[0][0] == "G" and all(torch.equal(y, expected) for _, _, y, _ in step)


def spy_on_styles(monkeypatch):
    """(z, y, z_mix, u, training) of every call of StyleGAN2's styles with numbers."""
    calls = []
    styles = stylegan2.Generator.styles

    def spy(self, z, y=None, z_mix=None, u=None):
        if not z.is_meta and self.training:
            calls.append((z, y, z_mix, u))
        return styles(self, z, y, z_mix, u)

    monkeypatch.setattr(stylegan2.Generator, "styles", spy)
    return calls


def test_styles_are_mixed(tmp_path, monkeypatch):
    """Second latents and crossovers are draws of the step, and change what is learnt."""
    calls = spy_on_styles(monkeypatch)
    mixed = run(f"--log_name a {small('stylegan2')} --n_steps 1", tmp_path)
    ((z, _, z_mix, u),) = calls  # one forward serves D and G
    for given, draw, purpose in (
        (z, torch.randn, "z"),
        (z_mix, torch.randn, "z-mix"),
        (u, torch.rand, "mixing"),
    ):
        shape = (8, 2) if purpose == "mixing" else (8, 8)
        assert torch.equal(given, draw(shape, generator=generator(0, 0, 0, purpose)))
    calls.clear()
    plain = run(f"--log_name b {small('stylegan2', mixing=0)} --n_steps 1", tmp_path)
    assert [call[2:] for call in calls] == [(None, None)]
    changed = differing(mixed.state_dict(), plain.state_dict(), ("networks",))
    assert {path.split("/")[1] for path in changed} == {"D", "G"}


def test_the_mapping_learns_a_hundred_times_slower(tmp_path):
    command = f"--log_name a {small('stylegan2')} --conditional --n_steps 10 --lr 1e-3 --lr_decay_from 5"
    loop = run(f"{command} --log_interval 1", tmp_path)
    for name, network in loop.networks.items():
        groups = network.optimizer.param_groups
        last = 1e-3 / 5  # at the tenth step
        assert [group["lr"] for group in groups] == pytest.approx([last, 0.01 * last, 0.01 * 2**0.5 * last])
        mapping = loop.task.networks[name].mapping
        fast = {id(p) for p in groups[0]["params"]}
        slow = {id(p) for group in groups[1:] for p in group["params"]}
        assert slow == {id(p) for p in mapping.layers.parameters()}
        assert {id(p) for p in mapping.embedding.parameters()} <= fast
        assert len(slow) + len(fast) == len(list(loop.task.networks[name].parameters()))
    assert lines(tmp_path)[0]["lr/g"] == 1e-3 and lines(tmp_path)[-1]["lr/g"] == pytest.approx(2e-4)


PATH = f"--log_name a {small('stylegan2')} --path_length_weight 2 --log_interval 1"


def test_what_moves_the_mean_style(tmp_path, monkeypatch):
    """Every pass of G: the one that D's and G's phases share, or one each where the batch is cut, and path length's."""
    follow, moved = Mapping._follow, []

    def spy(self: Mapping, w: Tensor) -> None:
        if not w.is_meta:
            moved.append(len(w))
        follow(self, w)

    monkeypatch.setattr(Mapping, "_follow", spy)
    run(f"{PATH} --penalty_interval path_length=2 --n_steps 2", tmp_path)
    assert moved == [8, 8, 4]
    moved.clear()
    run(f"--log_name b {small('stylegan2')} --accumulate 2 --n_steps 1", tmp_path)
    assert moved == [4, 4, 4, 4]
    moved.clear()
    run(f"--log_name c {small('stylegan')} --no_grow --train_g_interval 2 --n_steps 3", tmp_path)
    assert moved == [8, 8, 8]  # G is due at the second step


def test_path_length_is_a_phase_of_half_a_batch(tmp_path, monkeypatch):
    """Due at each fourth step, on latents, mixing and labels of its own; the average is moved by G's phase alone."""
    calls, averaged = spy_on_styles(monkeypatch), []
    update = EMA.update
    monkeypatch.setattr(EMA, "update", lambda *args: averaged.append(1) or update(*args))
    loop = run(f"{PATH} --conditional --n_steps 8 --ema", tmp_path)
    assert loop.updates == len(averaged) == 8
    phase = next(p for p in loop.task.phases if p.name == "path_length")
    assert phase.trains == ("G",) and phase.interval == 4
    assert [phase.due(s) for s in range(8)] == [False, False, False, True] * 2
    assert [len(z) for z, *_ in calls] == [8, 8, 8, 8, 4] * 2
    for whole, (z, y, z_mix, u) in ((calls[3], calls[4]), (calls[8], calls[9])):
        assert [len(part) for part in (z, y, z_mix, u)] == [4] * 4
        assert torch.equal(y, whole[1][:4])
        assert not torch.equal(z, whole[0][:4]) and not torch.equal(z_mix, whole[2][:4])
    rows = lines(tmp_path)
    assert ["penalty/path_length" in row for row in rows] == [False] * 3 + [True] * 5
    assert rows[2]["state/path_length"] == 0 < rows[3]["state/path_length"] < rows[7]["state/path_length"]
    assert float(state(tmp_path, "a", 8)["task"]["penalties"]["path_length"]) == pytest.approx(
        rows[7]["state/path_length"]
    )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_path_length_mean_moves_once_a_step(tmp_path, monkeypatch, accumulate):
    """By a hundredth of the lengths' mean over the micro-batches, however many."""
    lengths, follow = [], Penalties._follow

    def spy(self, name, value, micro):
        lengths.append(float(value))
        follow(self, name, value, micro)

    monkeypatch.setattr(Penalties, "_follow", spy)
    loop = run(f"{PATH} --n_steps 4 --accumulate {accumulate}", tmp_path)
    assert len(lengths) == accumulate and lengths[0] > 0
    expected = 0.01 * sum(lengths) / accumulate
    assert float(loop.task.penalties.means["path_length"]) == pytest.approx(expected)
    assert float(loop.task.penalties.seen["path_length"]) == 0


def test_a_skipped_step_leaves_the_path_length_mean(tmp_path, monkeypatch):
    """Lengths may be finite where their gradient is not."""
    penalty = PENALTIES["path_length"]

    def broken(ws, x, mean, normal, follow):
        value = penalty.fn(ws, x, mean, normal=normal, follow=follow)
        return value + value.detach() * math.inf * (value - value.detach())  # nan, after the mean has moved

    monkeypatch.setitem(PENALTIES, "path_length", replace(penalty, fn=broken))
    loop = run(f"{PATH} --n_steps 4", tmp_path)
    assert lines(tmp_path)[-1]["skipped_steps"] == 1
    assert (
        float(loop.task.penalties.means["path_length"]) == 0 == float(loop.task.penalties.seen["path_length"])
    )


def test_path_length_is_due_every_fourth_update_of_g(tmp_path):
    loop = run(f"{PATH} --n_steps 3 --train_g_interval 3", tmp_path)
    phase = next(p for p in loop.task.phases if p.name == "path_length")
    assert phase.interval == 4 and [s for s in range(30) if phase.due(s)] == [11, 23]
    assert all(loop.task.g_due(s) for s in (11, 23))


def test_lazy_r1_makes_no_fakes(tmp_path, monkeypatch):
    calls = []
    generate = NoiseToImage.generate
    monkeypatch.setattr(
        "games.noise_to_image.NoiseToImage.generate",
        lambda self, batch: calls.append(1) or generate(self, batch),
    )
    run("--log_name a --r1_weight 1 --penalty_interval r1=2 --n_steps 4 --accumulate 2", tmp_path)
    assert len(calls) == 4 * 2 * 2  # for D and for G


def test_a_run_from_before_a_state_existed_resumes(tmp_path):
    """A setting younger than the run stands at its default; so does a state."""
    run("--log_name a --n_steps 2", tmp_path)
    file = tmp_path / "a" / "checkpoints" / "step-00000002.pt"
    saved = state(tmp_path, "a", 2)
    saved["task"] = {}
    file.unlink()
    CheckpointStore(tmp_path / "a" / "checkpoints", 3).save(saved, 2)
    config = tmp_path / "a" / "config.json"
    old = {
        k: v for k, v in json.loads(config.read_text()).items() if k not in ("augment", "ada_p", "no_grow")
    }
    config.write_text(json.dumps(old))
    assert run("--log_name a --resume --n_steps 3", tmp_path).step == 3


def test_resume_may_repeat_the_runs_own_flags(tmp_path):
    flags = "--stable_kimg 0.016 --fade_kimg 0.016"
    run(f"--log_name a {small('progressive_gan')} {flags} --n_steps 2", tmp_path)
    assert run(f"--log_name a --resume --n_steps 3 {flags}", tmp_path).step == 3
    with pytest.raises(UserError, match=r"fade_kimg: 0.016 -> 1.0"):
        run("--log_name a --resume --n_steps 4 --fade_kimg 1", tmp_path)


def test_a_compiled_run_grows(tmp_path):
    """Each stage is another graph: none of them falls back to eager, and the weights are the eager ones."""
    growing = f"{small('progressive_gan')} --method wgan-gp --stable_kimg 0.016 --fade_kimg 0.016"
    command = f"{growing} --n_steps 10 --lr 1e-4"
    done = compiled(f"--log_name compiled {command}", tmp_path, {"ACCELERATE_DYNAMO_BACKEND": "AOT_EAGER"})
    assert done.returncode == 0 and "recompile_limit" not in done.stderr, done.stderr
    run(f"--log_name eager {command}", tmp_path)
    fast, slow = (leaves(state(tmp_path, name, 10)["networks"]) for name in ("compiled", "eager"))
    for key in fast:
        torch.testing.assert_close(fast[key], slow[key], rtol=0, atol=1e-3, msg=key)


def test_path_length_corrects_adam_of_g(tmp_path):
    loop = run(f"{PATH} --n_steps 1 --r1_weight 1 --penalty_interval r1=16", tmp_path)
    for name, c in (("G", 1 / (1 + 1 / 4)), ("D", 1 / (1 + 1 / 16))):
        group = loop.networks[name].optimizer.param_groups[0]
        assert group["lr"] == pytest.approx(2e-4 * c)
        assert group["betas"] == pytest.approx((0.5**c, 0.999**c))
    assert loop.networks["G"].optimizer.param_groups[1]["lr"] == pytest.approx(2e-6 * 0.8)


def test_g_has_a_beta2_of_its_own(tmp_path):
    """Corrected for lazy penalties as --beta2 is."""
    loop = run(
        "--log_name a --beta2 0.9 --beta2_g 0.8 --r1_weight 1 --penalty_interval r1=4 --n_steps 1", tmp_path
    )
    betas = {name: network.optimizer.param_groups[0]["betas"][1] for name, network in loop.networks.items()}
    assert betas == {"D": pytest.approx(0.9**0.8), "G": pytest.approx(0.8)}


@pytest.mark.parametrize("penalty, model", [("r1", "dcgan"), ("path_length", "stylegan2")])
def test_lazy_gradients_are_scaled_by_weight_and_interval(tmp_path, monkeypatch, penalty, model):
    """At the fourth step, weights standing still: thrice the weight or twice the interval, as many times the norm."""
    monkeypatch.setattr("games.penalties.MEAN_DECAY", 1.0)  # the mean stands still too
    norms = {}
    for weight, interval in ((1, 2), (1, 4), (3, 4)):
        name = f"{weight}-{interval}"
        flags = f"--{penalty}_weight {weight} --penalty_interval {penalty}={interval} --lr 0 --n_steps 4"
        run(f"--log_name {name} {small(model)} {flags}", tmp_path)
        norms[name] = lines(tmp_path, name)[-1][f"grad_norm/{penalty}"]
    assert norms["1-4"] == pytest.approx(2 * norms["1-2"], rel=1e-5) and norms["1-2"] > 0
    assert norms["3-4"] == pytest.approx(3 * norms["1-4"], rel=1e-5)


@pytest.mark.parametrize("options", ["", "--augment ada --ada_p 0.5 --ada_kimg 0.2"])
def test_styles_and_their_state_resume(tmp_path, options):
    """Running means of styles and path length, p and its signs: bit for bit what they would have been."""
    command = f"{PATH} --n_steps 10 --ema --checkpoint_interval 1 --keep_checkpoints 10 {options}"
    run(command, tmp_path)
    run(f"--resume {tmp_path}/a/checkpoints/step-00000005.pt --log_name b", tmp_path)
    for step in range(6, 11):
        assert differing(state(tmp_path, "a", step), state(tmp_path, "b", step)) == []
    whole = state(tmp_path, "a", 10)
    at_five = state(tmp_path, "a", 5)["task"]
    assert float(at_five["penalties"]["path_length"]) > 0
    assert bool(at_five["augmentation"]) == bool(options)
    if options:
        p = [0.5, *(float(task["augmentation"]["p"]) for task in (at_five, whole["task"]))]
        assert p[0] > p[1] > p[2] > 0 and float(at_five["augmentation"]["signs"]) != 0


def test_rampup_of_the_average(tmp_path):
    """Half-life at most a twentieth of the images seen: after 32 images 1.6, so five half-lives in a batch of 8."""
    loop = run("--log_name a --n_steps 4 --ema --ema_halflife 1000 --ema_rampup 0.05", tmp_path)
    (_, decay) = loop.emas["ema"]
    assert decay() == pytest.approx(0.5**5)
    loop.step = loop.last_update = 10_000  # 80,000 images: the half-life itself
    assert decay() == pytest.approx(0.5 ** (8 / 1000))
    loop.step = loop.last_update = 0
    assert decay() == 0


# -- augmentation --------------------------------------------------------------------------------------------------


def replace_augmentation(monkeypatch, name, fn):
    monkeypatch.setitem(AUGMENTATIONS, name, dataclasses.replace(AUGMENTATIONS[name], fn=fn))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("method", ["gan", "rpgan"])
def test_all_that_d_sees_is_augmented(tmp_path, monkeypatch, name, method):
    """Where nothing is left of any image D cannot tell them apart, and G and R1 have no gradient."""
    replace_augmentation(monkeypatch, name, lambda x, *draws: 0 * x)
    run(f"--log_name a --augment {name} --method {method} --r1_weight 1 --n_steps 1", tmp_path)
    row = lines(tmp_path)[-1]
    assert row["d/real"] == row["d/fake"] and row["grad_norm/g"] == row["penalty/r1"] == 0


def test_augmentations_draw_for_each_use_anew(tmp_path, monkeypatch):
    """In the table's two parts of a step: reals and fakes of D, reals and fakes of G; one row a sample, in order."""
    seen = []

    def spy(x, u, n, *p):
        seen.append((u, n, p))
        return x

    for name in ("ada", "cutout"):
        replace_augmentation(monkeypatch, name, spy)
    run("--log_name a --augment cutout ada --method ragan --n_steps 1", tmp_path)
    cutout, ada = seen[::2], seen[1::2]  # in the order that was asked for
    assert len(cutout) == len(ada) == 4
    for rows, row, n_extra in ((cutout, AUGMENTATIONS["cutout"], 0), (ada, AUGMENTATIONS["ada"], 1)):
        for u, n, p in rows:
            assert u.shape == (8, row.n_uniform) and n.shape == (8, row.n_normal) and len(p) == n_extra
            assert u.min() >= 0 and u.max() < 1
        draws = [u for u, _, _ in rows]
        assert not any(torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
        assert all(len(set(u[:, 0].tolist())) == 8 for u in draws)


@pytest.mark.parametrize("interval", [1, 2])
def test_r1_differentiates_with_respect_to_plain_reals(tmp_path, monkeypatch, interval):
    """Through an augmentation by 3 the gradient of D(3 x) is three times that at 3 x."""
    replace_augmentation(monkeypatch, "color", lambda x, u, n: 3 * x)
    command = (
        f"--log_name a --augment color --r1_weight 1 --penalty_interval r1={interval} --lr 0 --log_interval 1"
    )
    loop = run(f"{command} --n_steps {interval}", tmp_path)
    x = loop.task.batches.micro((interval - 1) * 8)[0].requires_grad_()
    (gradient,) = torch.autograd.grad(loop.task.networks["D"](3 * x).sum(), x)
    expected = gradient.square().sum((1, 2, 3)).mean() / 2
    assert lines(tmp_path)[-1]["penalty/r1"] == pytest.approx(float(expected), rel=1e-4)


def adaptive(folder, target):
    """p after each move in 100 steps with 64 images: up and down by 32 of 2000 images."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for i, picture in enumerate(np.load(DIGITS)["images"][:64]):
        Image.fromarray((picture * (255 / picture.max())).astype(np.uint8)).save(images / f"{i}.png")
    networks = "--g_kwargs width=8 --d_kwargs width=16 --norm_d none --lr 2e-3"
    command = f"--augment ada --ada_kimg 2 --ada_target {target} --n_steps 100 --log_interval 1"
    run(f"--log_name a --data {images} {networks} {command}", folder)
    p = [0.0, *(row["augment/p"] for row in lines(folder))]
    assert all(p[i] == p[i - 1] for i in range(1, 101) if i % 4)
    moves = {round(p[i] - p[i - 4], 6) for i in range(4, 101, 4)}
    assert moves <= {0.016, -0.016, 0.0}
    return p


def test_ada_rises_where_d_knows_its_images(tmp_path):
    assert max(adaptive(tmp_path, 0.6)) > 0.1


def test_ada_rests_below_its_target(tmp_path):
    assert max(adaptive(tmp_path, 1)) < 0.02


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ada_follows_the_signs_of_whole_batches(tmp_path, monkeypatch, accumulate):
    """The mean over the interval's steps, micro-batches counted as one; it starts anew after each move."""
    seen = []
    monkeypatch.setattr(
        "games.augment.next_p", lambda p, sign, **rest: seen.append((float(sign), rest)) or p + 0.125
    )
    command = (
        f"--log_name a --augment ada --ada_interval 3 --norm_d none --norm_g none --accumulate {accumulate}"
    )
    loop = run(f"{command} --n_steps 7 --log_interval 1", tmp_path)
    signs = [row["d/real_sign"] for row in lines(tmp_path)]
    assert [sign for sign, _ in seen] == pytest.approx([sum(signs[:3]) / 3, sum(signs[3:6]) / 3], abs=1e-6)
    assert seen[0][1] == {"target": 0.6, "images": 24, "kimg": 500.0}
    saved = loop.state_dict()["task"]["augmentation"]
    assert float(saved["p"]) == 0.25 and float(saved["signs"]) == pytest.approx(signs[6], abs=1e-6)


@pytest.mark.parametrize("pipe", PIPES)
def test_ada_stays_as_strong_as_it_is_told(tmp_path, pipe):
    """--ada_interval 0: whatever the signs say; each pipe acts on what D sees, and at 0 it would not."""
    command = f"--augment ada --ada_pipe {pipe} --ada_interval 0 --log_interval 1 --norm_g none --norm_d none"
    for name, p in (("a", 0.9), ("b", 1e-9)):
        loop = run(f"--log_name {name} {command} --ada_p {p} --n_steps 3", tmp_path)
        assert [row["augment/p"] for row in lines(tmp_path, name)] == [pytest.approx(p)] * 3
        assert float(loop.state_dict()["task"]["augmentation"]["signs"]) == 0
    told = [[row["d/real"] for row in lines(tmp_path, name)] for name in "ab"]
    assert all(a != b for a, b in zip(*told, strict=True))


def test_colours_that_are_left_out_are_told():
    of = {pipe: Augmenter(TrainConfig(augment="ada", ada_pipe=pipe), "cpu", None) for pipe in ("bgc", "bg")}
    assert "leave out images of 4" in of["bgc"].left_out(4)[0]
    assert of["bgc"].left_out(3) == of["bgc"].left_out(1) == of["bg"].left_out(4) == []


@pytest.mark.parametrize("penalty", ["cr", "r1_approx"])
def test_what_is_compared_sees_one_augmentation(tmp_path, monkeypatch, penalty):
    """With an augmentation both logits are made anew, of the same draws; without one the loss's is taken."""
    seen, fn = [], PENALTIES[penalty].fn

    @functools.wraps(fn)
    def spy(D, x_real, *, d_real=None, **draws):
        seen.append(d_real is None and torch.equal(D(x_real), D(x_real)))
        return fn(D, x_real, d_real=d_real, **draws)

    monkeypatch.setitem(PENALTIES, penalty, replace(PENALTIES[penalty], fn=spy))
    for name, more in (("a", ""), ("b", "--augment color translation"), ("c", "--train_g_interval 1")):
        run(f"--log_name {name} --penalty {penalty} --norm_d none --n_steps 1 {more}", tmp_path)
    assert seen == [False, True, False]


@pytest.mark.parametrize("noise", ["dropout=0.1", "noise_std=0.1"])
def test_differences_of_a_noisy_d_are_refused(tmp_path, noise):
    with pytest.raises(
        UserError, match=r"r1_approx takes the differences .* leave dropout and noise_std out"
    ):
        run(f"--log_name a --penalty r1_approx --n_steps 1 --d_kwargs width=4 {noise}", tmp_path)
    run("--log_name b --penalty r1_approx --n_steps 1 --d_kwargs width=4 dropout=0", tmp_path)


def test_lecam_follows_the_logits_of_earlier_steps(tmp_path):
    """Each mean goes a hundredth of the way to its logits' mean, and is what the other kind is held to at the next."""
    run("--log_name a --penalty lecam --n_steps 3 --log_interval 1 --accumulate 2", tmp_path)
    means = {"real": 0.0, "fake": 0.0}
    for row in lines(tmp_path):
        for kind in means:
            means[kind] += 0.01 * (row[f"d/{kind}"] - means[kind])
            assert row[f"state/lecam_{kind}"] == pytest.approx(means[kind], rel=1e-4)


# -- guards --------------------------------------------------------------------------------------------------------


def poison(monkeypatch, bad_steps):
    """Reals of these steps hold a NaN."""
    from images.sources import Batches

    plain = Batches.micro

    def micro(self, start, j=0, shard=None):
        x, y = plain(self, start, j, shard)
        if bad_steps(start // self.shard.batch_size):
            x = x.clone()
            x[0, 0, 0, 0] = float("nan")
        return x, y

    monkeypatch.setattr(Batches, "micro", micro)


def test_a_nan_batch_is_skipped(tmp_path, monkeypatch):
    poison(monkeypatch, lambda step: step == 1)
    loop = run("--log_name a --n_steps 4 --ema --log_interval 1", tmp_path)
    assert lines(tmp_path)[-1]["skipped_steps"] == 1  # D's; G's fakes were not touched
    assert finite(loop) and all(bool(torch.isfinite(b).all()) for b in loop.task.networks["D"].buffers())
    assert lines(tmp_path)[1]["loss/d"] is None


@pytest.mark.parametrize("scaled", [False, True])
def test_networks_trained_together_step_together(tmp_path, scaled):
    """One norm over all; where one network's gradient is not finite, none steps and both count it."""
    loop = run("--log_name a --n_steps 1", tmp_path)
    loop.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0) if scaled else None
    networks = list(loop.networks.values())

    def apply(value: float, skips: bool) -> float:
        before = [n.params[0].detach().clone() for n in networks]
        if scaled:  # unscaling begins with a scale on the device
            loop.accelerator.scaler.scale(torch.zeros(()))
        for n in networks:
            for p in n.params:
                p.grad = torch.zeros_like(p)
        networks[0].params[0].grad[0, 0, 0, 0] = 3 * (4 if scaled else 1)
        networks[1].params[0].grad[0, 0, 0, 0] = value * (4 if scaled else 1)
        grads = [p.grad for n in networks for p in n.params]
        loop._unscale(networks, grads, torch.zeros(()))
        norm, _ = loop._apply(networks, grads, torch.zeros(()))
        stayed = [torch.equal(n.params[0], old) for n, old in zip(networks, before, strict=True)]
        assert stayed == [skips, skips]
        return norm.item()

    assert apply(4, skips=False) == 5
    assert not math.isfinite(apply(math.inf, skips=True))
    assert [float(n.bad_run) for n in networks] == [1, 1] and loop.skipped == 1
    apply(4, skips=False)
    assert [float(n.bad_run) for n in networks] == [0, 0]


def test_the_scale_of_fp16_is_saved_and_restored(tmp_path):
    """A scaler of the CPU, since fp16 itself does not run there."""
    loop = run("--log_name a --n_steps 1", tmp_path)
    loop.accelerator.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.zeros(()))  # which brings the scale to the device
    assert loop.save()
    saved = state(tmp_path, "a", 1)
    assert saved["scaler"]["scale"] == 4
    loop.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    loop.load_state_dict(saved)
    assert loop.accelerator.scaler.get_scale() == 4


def test_skipped_steps_are_counted_on_after_a_resume(tmp_path, monkeypatch):
    poison(monkeypatch, lambda step: step in (1, 4))
    counted = []
    for command in ("--n_steps 3", "--resume --n_steps 4", "--resume --n_steps 5"):
        run(f"--log_name a {command} --log_interval 1", tmp_path)
        counted.append(lines(tmp_path)[-1]["skipped_steps"])
    assert counted == [1, 1, 2]


def test_many_bad_steps_roll_back_with_new_noise(tmp_path, monkeypatch, capsys):
    passed = []

    def bad(step):
        passed.append(step)
        return 4 <= step < 4 + MAX_BAD_STEPS and len(passed) < 40

    poison(monkeypatch, bad)
    calls = spy_on_draws(monkeypatch)
    loop = run("--log_name a --n_steps 30 --checkpoint_interval 4 --log_interval 1", tmp_path)
    assert loop.step == 30 and loop.attempt == 1 and finite(loop)
    latents = [x for side, x, *_ in calls if side == "G"]
    assert len(latents) == len(passed) > len(set(passed)) == 30  # some steps were taken twice
    assert different(latents) and different(noise for *_, noise in calls)
    assert f"(1 of {MAX_ROLLBACKS})" in capsys.readouterr().err
    steps = [line["step"] for line in lines(tmp_path)]
    assert steps == list(range(1, 31))


def test_endless_divergence_stops_and_says_why(tmp_path, monkeypatch):
    poison(monkeypatch, lambda step: step >= 4)
    with pytest.raises(UserError, match=f"after {MAX_ROLLBACKS} rollbacks.*lr"):
        run("--log_name a --n_steps 200 --checkpoint_interval 4", tmp_path)


def test_divergence_before_the_first_checkpoint(tmp_path, monkeypatch):
    poison(monkeypatch, lambda step: True)
    with pytest.raises(UserError, match="before the first checkpoint"):
        run("--log_name a --n_steps 200", tmp_path)


# -- folders, resume, refusals -------------------------------------------------------------------------------------


def test_run_folder(tmp_path):
    run(
        "--log_name a --n_steps 4 --checkpoint_interval 1 --sample_interval 2 --ema --keep_checkpoints 2",
        tmp_path,
    )
    names = {str(p.relative_to(tmp_path / "a")) for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert names == {
        "config.json", "metrics.jsonl", "samples/real.png",
        *(f"samples/step-{s:08d}-{k}.png" for s in (0, 2, 4) for k in ("ema", "raw")),
        "checkpoints/step-00000003.pt", "checkpoints/step-00000004.pt",
        "generator/config.json", "generator/ema.safetensors", "generator/raw.safetensors",
    }  # fmt: skip


def test_the_best_checkpoint_stays(tmp_path):
    (tmp_path / "a").mkdir()
    loop = run("--log_name a --n_steps 1 --overwrite", tmp_path)
    # as tools.evaluate writes
    rows = [{"step": 1, "fid[digits-cnn]": 3.0}, {"step": 2, "fid[digits-cnn]": 9.0}]
    (loop.log.folder / "scores.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    run("--log_name a --resume --n_steps 6 --checkpoint_interval 1 --keep_checkpoints 2", tmp_path)
    assert sorted(p.name for p in (tmp_path / "a" / "checkpoints").iterdir()) == [
        f"step-{s:08d}.pt" for s in (1, 5, 6)
    ]  # fmt: skip


def test_generator_folder_alone_gives_the_average(tmp_path):
    loop = run("--log_name a --n_steps 2 --ema --conditional", tmp_path)
    (tmp_path / "a" / "generator").rename(tmp_path / "shared")
    G, config = load_generator(tmp_path / "shared")
    assert config["chosen"] == "ema" and config["step"] == 2 and config["n_labels"] == 10
    ema = loop.emas["ema"][0].module
    assert all(torch.equal(a, b) for a, b in zip(G.parameters(), ema.parameters(), strict=True))
    z, y = torch.randn(3, 8), torch.tensor([0, 1, 2])
    torch.testing.assert_close(G(z, y)[1:2], G(z[1:2], y[1:2]))  # batch size does not matter


def test_tf32_is_switched_for_products_and_convolutions_alike(tmp_path):
    """Inside the run; after it the process has its own switches again."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before, seen = [place.allow_tf32 for place in places], []
    for flag in ("no-tf32", "tf32"):
        look = lambda step, values: seen.append([place.allow_tf32 for place in places])  # noqa: E731
        run(f"--log_name {flag} --{flag} --n_steps 1", tmp_path, look)
        assert [place.allow_tf32 for place in places] == before
    assert seen == [[False, False], [True, True]]


@pytest.mark.parametrize("place", DATA_DEVICES)
def test_where_images_stay_is_what_the_flag_says(tmp_path, monkeypatch, place):
    given, init = [], Batches.__init__

    def spy(self, *args, **how):
        bound = inspect.signature(init).bind(self, *args, **how)
        bound.apply_defaults()
        given.append(bound.arguments["data_device"])
        init(self, *args, **how)

    monkeypatch.setattr(Batches, "__init__", spy)
    run(f"--log_name a --data_device {place} --n_steps 1", tmp_path)
    assert given == [place]


def test_split_is_trained_on_and_remembered(tmp_path):
    loop = run("--log_name a --split test --n_steps 1", tmp_path)
    assert loop.task.batches.n_images == 300
    assert load_generator(tmp_path / "a")[1]["data"]["split"] == "test"


def test_overwrite_deletes_runs_only(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "precious.jpg").touch()
    assert "is no run" in refused("--log_name photos --overwrite --n_steps 1", tmp_path, capsys)
    assert (tmp_path / "photos" / "precious.jpg").exists()
    (tmp_path / "photos" / "config.json").write_text('{"a": 1}')
    assert "is no run" in refused("--log_name photos --overwrite --n_steps 1", tmp_path, capsys)
    (tmp_path / "file").touch()
    assert "is not empty" in refused("--log_name file", tmp_path, capsys)
    run("--log_name a --n_steps 1", tmp_path)
    assert run("--log_name a --n_steps 2 --overwrite", tmp_path).step == 2
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert "is a link" in refused("--log_name link --overwrite", tmp_path, capsys)


def test_a_moved_run_keeps_its_events_together(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = "--loggers tensorboard --log_interval 2 --checkpoint_interval 4"
    run(f"--log_name a {steps} --n_steps 4", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a").rename(tmp_path / "elsewhere" / "a")
    run(f"--resume {tmp_path}/elsewhere/a --n_steps 8", tmp_path)
    assert not (tmp_path / "a").exists()
    events = EventAccumulator(str(tmp_path / "elsewhere" / "a")).Reload()
    assert [e.step for e in events.Scalars("loss/d")] == [2, 4, 6, 8]


def test_a_logger_that_is_not_installed_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(LOGGERS, "wandb", "not_installed_here")
    assert "pip install not_installed_here" in refused("--loggers wandb", tmp_path, capsys)


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")  # an extra: not in requirements
    monkeypatch.setenv("WANDB_MODE", "offline")
    run("--log_name a --loggers tensorboard wandb --log_interval 2 --sample_interval 2 --n_steps 4", tmp_path)
    assert list((tmp_path / "a" / "wandb").glob("offline-run-*")) and list((tmp_path / "a").glob("events.*"))


def test_precision_of_a_run_outlives_its_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    run("--log_name a --n_steps 2", tmp_path)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    assert run("--log_name a --resume --n_steps 3", tmp_path).accelerator.mixed_precision == "bf16"


def test_settled_values_are_saved_and_may_be_repeated(tmp_path):
    run("--log_name a --n_steps 1", tmp_path)
    saved = json.loads((tmp_path / "a" / "config.json").read_text())
    assert saved["norm_d"] == "batch" and saved["norm_g"] == "batch" and saved["img_size"] == 16
    run("--log_name a --resume --n_steps 2 --norm_d batch", tmp_path)


def test_a_full_disk_stops_no_picture_nor_line(tmp_path, monkeypatch, capsys):
    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    monkeypatch.setattr("disk.append_line", full_disk)
    assert run("--log_name a --n_steps 4 --sample_interval 2", tmp_path).step == 4
    error = capsys.readouterr().err
    assert "sample grid" in error and "metrics.jsonl" in error and "No space left" in error
    assert error.count("sample grid") == 1  # not once a grid


def test_a_picture_that_cannot_be_written_takes_no_other_with_it(tmp_path, monkeypatch, capsys):
    """Numbers of samples are of the run, not of the file: they stand in the lines of an uninterrupted twin."""
    replacing = disk.replacing

    def full_for_one(path, **how):
        if path.name == "step-00000002-ema.png":
            raise OSError(28, "No space left on device")
        return replacing(path, **how)

    def full_at_first(self, take, step):
        if step == 2:
            raise OSError(28, "No space left on device")

    command = "--n_steps 4 --sample_interval 2 --log_interval 2 --ema"
    run(f"--log_name twin {command}", tmp_path)
    monkeypatch.setattr("disk.replacing", full_for_one)
    monkeypatch.setattr(RunLog, "histograms", full_at_first)
    run(f"--log_name a {command}", tmp_path)
    printed = capsys.readouterr()
    assert printed.err.count("sample grid") == printed.out.count("note: sample grid") == 1
    pictures = {
        folder: {p.name for p in (tmp_path / folder / "samples").iterdir()} for folder in ("twin", "a")
    }
    assert pictures["twin"] - pictures["a"] == {"step-00000002-ema.png"}
    lines = {
        folder: [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        for folder in ("twin", "a")
    }
    assert [line.keys() for line in lines["a"]] == [line.keys() for line in lines["twin"]]
    assert "samples/ema/diversity" in lines["a"][0] and "samples/raw/diversity" in lines["a"][0]


def test_unnamed_runs_are_numbered(tmp_path):
    for _ in range(2):
        run("--n_steps 1", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["digits-dcgan-gan-001", "digits-dcgan-gan-002"]


def test_resume_from_a_path_sets_later_ones_aside(tmp_path):
    run("--log_name a --n_steps 6 --checkpoint_interval 2 --log_interval 1", tmp_path)
    whole = state(tmp_path, "a", 6)
    run(f"--resume {tmp_path}/a/checkpoints/step-00000002.pt --n_steps 4", tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert not (tmp_path / "a" / "checkpoints" / "step-00000006.pt").exists()
    loop = run("--log_name a --resume --n_steps 6", tmp_path)
    assert differing(whole, loop.state_dict()) == []


def test_resume_into_a_new_folder_leaves_the_old_one(tmp_path):
    run("--log_name a --n_steps 4 --checkpoint_interval 2", tmp_path)
    loop = run(f"--resume {tmp_path}/a/checkpoints/step-00000002.pt --log_name b --lr 1e-3", tmp_path)
    assert loop.step == 4 and (tmp_path / "a" / "checkpoints" / "step-00000004.pt").exists()
    assert (tmp_path / "b" / "config.json").exists()


def test_an_older_checkpoint_becomes_a_generator(tmp_path):
    run("--log_name a --n_steps 4 --checkpoint_interval 2", tmp_path)
    run(f"--resume {tmp_path}/a/checkpoints/step-00000002.pt --log_name old --n_steps 2", tmp_path)
    assert load_generator(tmp_path / "old")[1]["step"] == 2
    assert load_generator(tmp_path / "a")[1]["step"] == 4


def test_damaged_newest_checkpoint_falls_back(tmp_path, capsys):
    run("--log_name a --n_steps 4 --checkpoint_interval 2", tmp_path)
    whole = state(tmp_path, "a", 4)
    newest = tmp_path / "a" / "checkpoints" / "step-00000004.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    loop = run("--log_name a --resume", tmp_path)
    captured = capsys.readouterr()
    assert "passed over" in captured.err and "resumed at step 2" in captured.out
    assert differing(whole, loop.state_dict()) == []


def refused(command, folder, capsys) -> str:
    """The last line on stderr of a refused command: its only error, and no traceback."""
    assert gan_mnist.main(shlex.split(full(command, folder))) == 2
    text = capsys.readouterr().err.strip()
    assert text.count("error: ") == 1 and "Traceback" not in text, text
    assert text.splitlines()[-1].startswith("error: "), text
    return text.splitlines()[-1]


def test_only_the_first_process_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert gan_mnist.main(["--batch_size", "0"]) == 2
        said.append(capsys.readouterr().err.count("error: "))
    assert said == [1, 0]


@pytest.mark.parametrize(
    "command, words",
    [
        ("--log_name taken", "--resume goes on with it, --overwrite"),
        ("--log_name nowhere --resume", "holds no run"),
        ("--resume /nowhere.pt", "there is nothing"),
        ("--resume", "--log_name"),
        ("--batch_size 5000", "larger than the data"),
        ("--img_size 24", "16, 32"),
        ("--model simple_cnn", "32"),
        ("--g_kwargs depth=3", "width"),
        ("--d_kwargs noise_layers=[9] noise_std=0.1", "noise_layers"),
        ("--d_kwargs minibatch_stddev=True --batch_size 6", "6"),
        ("--dataset mnist --img_size 32 --data_root /nowhere", "By hand"),
        ("--data /nowhere", "/nowhere"),
        ("--split val", "train, test, all"),
        ("--d_kwargs noise_layers=0.5 noise_std=0.1", "noise_layers"),
        ("--d_kwargs activation=[1]", "activation"),
        ("--d_kwargs minibatch_stddev=3", "minibatch_stddev"),
        ("--g_kwargs name=3", "name"),
        ("--g_kwargs z_dim=16", "z_dim"),
        ("--img_size 30", "nearest"),
        ("--speed 3", "--speed"),
        ("--method vae", "wgan-gp"),
        ("--penalty path_length", "stylegan, stylegan2, projected_stylegan2 have styles, not dcgan"),
        (f"{small('stylegan')} --spectral_norm_d", "--spectral_norm_d: stylegan scales its weights"),
        ("--gamma auto --batch_size 0", "--batch_size 0 must be at least 1"),
        ("--ada_p 0.5", "--ada_p needs --augment ada"),
        ("--augment ada ada", "each once"),
        (f"{small('stylegan2')} --penalty path_length --batch_size 9", "must be even"),
        (f"{small('stylegan2')} --spectral_norm_d", "--spectral_norm_d: stylegan2"),
        (f"{small('stylegan')} --img_size 24", "nearest"),
        (f"{small('stylegan2')} --img_size 16x6 --data /", "nearest is --img_size 16x8"),
        ("--img_size 21x16 --data /", "nearest is --img_size 20x16"),
        ("--no_grow", "never grows"),
        ("--device cuda", "--device cuda"),
        ("--device mps", "--device mps"),
    ],
)
def test_refused_with_one_line(tmp_path, capsys, command, words):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    if command.split()[-1] == torch.cuda.is_available() * "cuda":
        pytest.skip("there is one")
    before = sorted(tmp_path.rglob("*"))
    assert words in refused(command, tmp_path, capsys)
    assert [p for p in sorted(tmp_path.rglob("*")) if p not in before] == []  # nothing was written


@pytest.mark.parametrize("model", ["stylegan2", "stylegan", "progressive_gan", "dcgan", "rect_dcgan", "mlp"])
def test_images_that_are_not_square(tmp_path, capsys, model):
    """Trained, saved, sampled and resumed at 20x16; refused at another size."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(16):
        pixels = np.random.default_rng(i).integers(0, 255, (24, 18), np.uint8)
        Image.fromarray(pixels).save(images / f"{i}.png")
    command = f"--log_name a --data {images} --img_size 20x16 {small(model)} --n_steps 2"
    loop = run(command, tmp_path)
    assert "img_size=20x16" in capsys.readouterr().out
    assert loop.task.networks["G"].eval()(torch.randn(2, 8)).shape == (2, 1, 20, 16)
    assert json.loads((tmp_path / "a" / "config.json").read_text())["img_size"] == [20, 16]
    with Image.open(tmp_path / "a" / "samples" / "real.png") as sheet:
        assert sheet.size == (8 * 18 + 2, 8 * 22 + 2)
    assert run("--log_name a --resume --n_steps 3", tmp_path).step == 3
    assert load_generator(tmp_path / "a")[0].img_size == (20, 16)
    capsys.readouterr()
    assert "img_size: 20x16 -> 16" in refused("--log_name a --resume --img_size 16", tmp_path, capsys)


def test_resume_refuses_another_architecture(tmp_path, capsys):
    run("--log_name a --n_steps 1", tmp_path)
    capsys.readouterr()
    error = refused("--log_name a --resume --g_kwargs width=8 --model mlp", tmp_path, capsys)
    assert "model: dcgan -> mlp" in error and "width" in error


def test_resume_refuses_other_images(tmp_path, capsys):
    run("--log_name a --n_steps 1", tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    for i in range(8):
        Image.fromarray(np.full((20, 20), 20 * i, np.uint8)).save(images / f"{i}.png")
    capsys.readouterr()
    before = (tmp_path / "a" / "config.json").read_bytes()
    assert "not those of the run" in refused(
        f"--log_name a --resume --data {images} --n_steps 2", tmp_path, capsys
    )
    assert (tmp_path / "a" / "config.json").read_bytes() == before


def start(command, folder, **popen):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "gan_mnist.py"), *shlex.split(full(command, folder))],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **popen,
    )  # fmt: skip


def wait_for(path, process, seconds=60):
    until = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "too slow"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_exit(tmp_path, number):
    process = start("--log_name a --n_steps 100000 --checkpoint_interval 5", tmp_path)
    wait_for(tmp_path / "a" / "checkpoints" / "step-00000005.pt", process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert f"stopped by {number.name}" in output and "--resume" in output and "Traceback" not in output
    saved = max((tmp_path / "a" / "checkpoints").glob("step-*.pt"))
    assert f"at step {int(saved.stem[5:])};" in output


def kill_and_resume(folder, rounds, rng):
    """SIGKILL at random moments of a run that saves every 2 steps; each resume must find a good checkpoint."""
    command, reached = "--log_name a --n_steps 1000000 --checkpoint_interval 2 --log_interval 100", -1
    for i in range(rounds):
        process = start(command if i == 0 else "--log_name a --resume", folder)
        output = []
        for line in process.stdout:  # until training has begun
            output.append(line)
            if line.startswith("device:"):
                break
        if i == 0:
            wait_for(folder / "a" / "checkpoints" / "step-00000002.pt", process)
        else:
            resumed = [line for line in output if line.startswith("resumed at step")]
            assert resumed, "".join(output)
            step = int(resumed[0].split()[3])
            assert step >= reached, "a checkpoint was lost"
            reached = step
        time.sleep(rng.uniform(0.0, 0.7))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return reached


def test_killed_runs_resume(tmp_path):
    assert kill_and_resume(tmp_path, 3, np.random.default_rng(0)) > 0


@pytest.mark.slow
def test_thirty_kills(tmp_path):
    assert kill_and_resume(tmp_path, 31, np.random.default_rng(1)) > 0


def test_full_disk_keeps_the_old_checkpoint_and_goes_on(tmp_path):
    """Files may not grow beyond a limit that lies between a small and a larger checkpoint's size."""
    limit = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000));"
        "import gan_mnist; sys.exit(gan_mnist.main())"
    )
    run("--log_name a --n_steps 2", tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = full("--log_name a --resume --n_steps 6 --checkpoint_interval 2", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", limit, *shlex.split(command)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "not written" in done.stderr and "resumed at step 2" in done.stdout, done.stderr
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert run("--log_name a --resume --n_steps 3", tmp_path).step == 3


def test_moments_take_the_layout_of_their_parameters(tmp_path):
    """Values say all of a checkpoint: the fused kernel would add moments of another layout to the wrong weights."""
    loop = run("--log_name a --n_steps 3 --channels_last --d_kwargs width=8 --g_kwargs width=8", tmp_path)
    moments = [v for n in loop.networks.values() for s in n.optimizer.state.values() for v in s.values()]
    assert any(m.dim() == 4 and not m.is_contiguous() for m in moments)
    kept = copy.deepcopy(loop.state_dict())
    flat = copy.deepcopy(kept)
    for saved in flat["optimizers"].values():
        for values in saved["state"].values():
            values.update({k: v.contiguous() for k, v in values.items()})
    ends = []
    for given in (kept, flat):
        loop.load_state_dict(copy.deepcopy(given))
        loop.run_step()
        ends.append(copy.deepcopy(loop.state_dict()))
    assert differing(*ends) == []
