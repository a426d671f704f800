"""TensorBoard's files beside scalars: charts, settings and scores, histograms; as TensorBoard reads them."""

import re
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata
from torch import nn

from tests.running import run
from training.events import TensorBoard
from training.layers import weight_histograms

SETTINGS = {
    "lr": 2e-4, "batch_size": 64, "ema": True, "method": "gan", "lr_d": None, "augment": ("color", "ada"),
    "penalty_weights": {"r1": 10}, "metrics": (),
}  # fmt: skip


@pytest.fixture
def tracker(tmp_path: Path) -> TensorBoard:
    made = TensorBoard(tmp_path)
    made.store_init_configuration(SETTINGS)
    return made


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"histograms": 0}).Reload()


def hparams(events: EventAccumulator, tag: str) -> bytes:
    return events.summary_metadata[tag].plugin_data.content


def test_settings_are_compared(tracker: TensorBoard, tmp_path: Path) -> None:
    tracker.log({"loss/d": 1.0}, step=1)
    start = metadata.parse_session_start_info_plugin_data(
        hparams(read(tmp_path), metadata.SESSION_START_INFO_TAG)
    )
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert found == {
        "lr": 2e-4, "batch_size": 64, "ema": True, "method": "gan", "augment": '["color", "ada"]',
        "penalty_weights": '{"r1": 10}',
    }  # fmt: skip
    assert found["ema"] is True
    # another run's scores may be what is compared
    assert metadata.EXPERIMENT_TAG not in read(tmp_path).summary_metadata


def test_runs_with_scores_are_compared_by_them_and_by_losses(tracker: TensorBoard, tmp_path: Path) -> None:
    for step in (1, 2):
        tracker.log({"loss/d": 1.0}, step=step)
        tracker.log({"score/kid": 0.1, "score/fid": 3.0}, step=step)
    events = read(tmp_path)
    found = metadata.parse_experiment_plugin_data(hparams(events, metadata.EXPERIMENT_TAG))
    assert [metric.name.tag for metric in found.metric_infos] == [
        "score/fid",
        "score/kid",
        "loss/d",
        "loss/g",
    ]
    assert {info.name for info in found.hparam_infos} == {
        k for k, v in SETTINGS.items() if v not in (None, ())
    }
    assert [event.step for event in events.Scalars("score/fid")] == [1, 2]


def test_reals_and_fakes_stand_in_one_chart(tracker: TensorBoard, tmp_path: Path) -> None:
    tracker.log({"loss/d": 1.0}, step=1)
    (event,) = read(tmp_path).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: chart.multiline.tag for page in layout.category for chart in page.chart}

    def shown(title: str, *names: str) -> list[str]:
        return [name for name in names if any(re.match(tag, name) for tag in charts[title])]

    names = ("d/real", "d/fake", "d_a/real", "d_b/fake", "loss/d", "grad_norm/d", "score/kid")
    names = (*names, "d/real_sign", "d/real_saturated")
    assert shown("D of reals and of fakes", *names) == ["d/real", "d/fake", "d_a/real", "d_b/fake"]
    assert shown("saturated sigmoids", *names) == ["d/real_saturated"]
    layers = [f"layer_grad_{how}/{net}/a.b" for how in ("mean", "max") for net in ("d", "g_ab")]
    assert shown("D: mean", *layers) == layers[:1] and shown("G: maximum", *layers) == layers[3:]
    samples = ["samples/raw/diversity", "samples/ema_0.99/diversity_g_ab", "samples/raw/contrast"]
    assert shown("diversity", *samples)[:1] == samples[:1]


def test_histograms_are_read_back(tracker: TensorBoard, tmp_path: Path) -> None:
    weight = torch.linspace(-1, 2, 31)[:, None]
    tracker.log_histograms(weight_histograms({"weights/d/a": nn.Parameter(weight)}), step=3)
    (event,) = read(tmp_path).Histograms("weights/d/a")
    found = event.histogram_value
    assert event.step == 3 and (found.min, found.max, found.num) == (-1, 2, 31)
    assert found.sum == pytest.approx(15.5) and sum(found.bucket) == 31
    assert found.bucket_limit[-1] == pytest.approx(2) and max(found.bucket) == 2


def test_a_run_shows_reals_once_and_weights_with_each_grid(tmp_path: Path) -> None:
    command = (
        "--log_name a --loggers tensorboard --sample_interval 2 --checkpoint_interval 2 --log_interval 1"
    )
    run(f"{command} --n_steps 2", tmp_path)
    run("--log_name a --resume --n_steps 4", tmp_path)
    events = read(tmp_path / "a")
    assert [event.step for event in events.Images("samples/real")] == [0]
    assert [event.step for event in events.Images("samples/raw")] == [0, 2, 4]
    names = events.Tags()["histograms"]
    assert {name.rpartition("/")[0] for name in names} == {"weights/d", "weights/g"}
    for name in names:
        assert [event.step for event in events.Histograms(name)] == [0, 2, 4]
    assert [event.step for event in events.Scalars("samples/raw/diversity")] == [2, 4]
    assert [event.step for event in events.Scalars("d/real")] == [1, 2, 3, 4]
