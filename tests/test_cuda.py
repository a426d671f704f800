"""What only CUDA can show: fp16 with its scaler, skipped steps without waiting, resume, compiled speed paths."""

import json
import os
import signal

import pytest
import torch

from errors import UserError
from signals import Stopped
from tests.running import differing, run, small, state
from tests.test_divergence import command
from tests.test_processes import JOINT
from tests.test_training import finite, lines, poison
from training.loop import Loop

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(
    "method",
    [
        "gan --r1_weight 1",
        "wgan-gp",
        "ragan",
        "gan --model veegan",
        f"gan --model infogan --img_size 32 --r1_weight 10 {JOINT}",
    ],
)
def test_half_precision_stays_finite(tmp_path, precision, method):
    loop = run(f"--log_name a --method {method} --mixed_precision {precision} --n_steps 60 --ema", tmp_path)
    assert finite(loop)
    assert lines(tmp_path)[-1]["skipped_steps"] < 20  # the scaler's first few
    assert ("fp16_scale" in lines(tmp_path)[-1]) == (precision == "fp16")


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "RMSprop"])
def test_a_nan_batch_leaves_weights_and_moments(tmp_path, monkeypatch, optimizer):
    poison(monkeypatch, lambda step: step == 3)
    loop = run(f"--log_name a --n_steps 6 --ema --log_interval 1 --optimizer {optimizer}", tmp_path)
    assert finite(loop) and lines(tmp_path)[-1]["skipped_steps"] == 1
    moments = [v for s in loop.networks["D"].optimizer.state.values() for v in s.values()]
    assert all(bool(torch.isfinite(torch.as_tensor(m)).all()) for m in moments)


@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_deterministic_resume_is_bit_equal(tmp_path, precision):
    command = f"--log_name a --method wgan-gp --ema --deterministic --mixed_precision {precision}"
    run(f"{command} --n_steps 20 --checkpoint_interval 10", tmp_path)
    whole = state(tmp_path, "a", 20)
    (tmp_path / "a" / "checkpoints" / "step-00000020.pt").unlink()
    run("--log_name a --resume", tmp_path)
    assert differing(whole, state(tmp_path, "a", 20)) == []


@pytest.mark.parametrize("place", ["cpu", "device"])
def test_resident_data_changes_nothing(tmp_path, place):
    loop = run(f"--log_name {place} --data_device {place} --n_steps 3 --deterministic", tmp_path)
    assert loop.task.batches.images.device.type == ("cuda" if place == "device" else "cpu")
    reference = run("--log_name auto --n_steps 3 --deterministic", tmp_path)
    assert differing(reference.state_dict(), loop.state_dict(), ("networks",)) == []


def test_draws_do_not_depend_on_the_device(tmp_path):
    """The first step's fakes come from the CPU's generator: d/real agrees with a CPU run to float rounding."""
    rows = []
    for device in ("cpu", "cuda"):
        run(f"--log_name {device} --device {device} --n_steps 1 --no-tf32", tmp_path)
        rows.append(json.loads((tmp_path / device / "metrics.jsonl").read_text().splitlines()[-1]))
    assert rows[0]["d/real"] == pytest.approx(rows[1]["d/real"], rel=1e-3)
    assert rows[0]["d/fake"] == pytest.approx(rows[1]["d/fake"], rel=1e-3)


# What a step does for its guards, penalties and averages is left to the device.
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize(
    "method",
    [
        *("gan --spectral_norm_d", "wgan-gp", "gan --r1_weight 1 --augment ada", "wgan"),
        "gan --penalty bcr zcr_d zcr_g lecam --augment ada --ada_pipe bgcfnc --ada_p 0.5",
    ],
)
def test_a_step_waits_for_nothing(tmp_path, monkeypatch, method, precision):
    plain = Loop.run_step

    def watched(loop):
        torch.cuda.set_sync_debug_mode("error" if loop.step > 2 else "default")
        try:
            plain(loop)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Loop, "run_step", watched)
    words = f"--method {method} --mixed_precision {precision} --ema --train_g_interval 2 --n_steps 12"
    assert run(f"--log_name a {words}", tmp_path).step == 12


def test_a_run_that_diverges_ends_in_a_line_and_code_3(tmp_path, capsys):
    assert command(f"--log_name a {small('mlp')} --lr 1e6 --optimizer SGD --n_steps 100", tmp_path) == 3
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: training diverged at step")


def test_a_run_goes_back_and_on(tmp_path, monkeypatch, capsys):
    """Twenty bad steps in a row are noticed when values are logged; then an older checkpoint is taken."""
    playing = []
    poison(monkeypatch, lambda step: 12 <= step < 35 and playing[0].attempt == 0)
    plain = Loop.run_step
    monkeypatch.setattr(Loop, "run_step", lambda loop: (playing.append(loop), plain(loop)))
    loop = run("--log_name a --n_steps 45 --checkpoint_interval 10 --log_interval 5 --ema", tmp_path)
    assert (loop.step, loop.attempt) == (45, 1) and finite(loop)
    assert "back to step 10 with new noise" in capsys.readouterr().err


def test_memory_that_ends_is_a_line(tmp_path, monkeypatch):
    plain = Loop.run_step

    def greedy(loop):
        plain(loop)
        if loop.step == 3:
            torch.empty(1 << 50, dtype=torch.uint8, device=loop.device)

    monkeypatch.setattr(Loop, "run_step", greedy)
    with pytest.raises(UserError, match="out of memory at step 3: go on with resume from step 2"):
        run("--log_name a --n_steps 4 --checkpoint_interval 2", tmp_path)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_stopped_run_goes_on_as_the_whole_one(tmp_path, precision):
    words = f"--method gan --r1_weight 1 --ema --deterministic --mixed_precision {precision} --n_steps 20"
    run(f"--log_name whole {words}", tmp_path)

    def stop(step, stats):
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        run(f"--log_name a {words}", tmp_path, stop)
    run("--log_name a --resume", tmp_path)
    assert differing(state(tmp_path, "whole", 20), state(tmp_path, "a", 20)) == []
