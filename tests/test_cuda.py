"""What only CUDA can show: fp16 with its scaler, skipped steps without waiting, resume, compiled speed paths."""

import json

import pytest
import torch

from tests.running import differing, run, state
from tests.test_processes import JOINT
from tests.test_training import finite, lines, poison

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
