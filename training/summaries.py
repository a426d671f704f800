"""What TensorBoard is told beside scalars and images: charts of several curves, a run's settings, histograms."""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from training.layers import BINS, Histogram

# Of the page Custom Scalars: pattern of the curves that stand in one chart, by page and title
CHARTS = {
    "game": {
        "D of reals and of fakes": r"d(_\w+)?/(real|fake)$",
        "losses": r"loss/[dg]$",
        "saturated sigmoids": r"d(_\w+)?/(real|fake)_saturated$",
    },
    "gradients by layer": {
        "D: mean": r"layer_grad_mean/d",
        "D: maximum": r"layer_grad_max/d",
        "G: mean": r"layer_grad_mean/g",
        "G: maximum": r"layer_grad_max/g",
    },
    "samples against data": {
        "diversity": r"samples/\w+/diversity",
        "brightness": r"samples/\w+/brightness",
        "contrast": r"samples/\w+/contrast",
        "colourfulness": r"samples/\w+/colourfulness",
    },
}
LOSSES = ("loss/d", "loss/g")


def charts() -> Any:
    """The page Custom Scalars, a Summary."""
    from torch.utils.tensorboard import summary

    return summary.custom_scalars(
        {
            page: {title: ("Multiline", [tags]) for title, tags in of_page.items()}
            for page, of_page in CHARTS.items()
        }
    )


def plain_settings(settings: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """Settings as the page HParams takes them: lists and tables as JSON; what is None or empty is absent."""
    return {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in settings.items()
        if isinstance(value, bool | int | float) or value
    }


def session(settings: Mapping[str, Any]) -> Any:
    """A run of the page HParams with its settings, a Summary."""
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    about = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in plain_settings(settings).items():
        kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
        setattr(about.hparams[name], f"{kind}_value", value)
    return _of_hparams(metadata.SESSION_START_INFO_TAG, session_start_info=about)


def experiment(settings: Mapping[str, Any], scores: Iterable[str]) -> Any:
    """What the page HParams compares runs by: their settings, scores of these names and losses, a Summary."""
    from tensorboard.plugins.hparams import api_pb2, metadata

    kinds = {bool: "DATA_TYPE_BOOL", str: "DATA_TYPE_STRING"}
    about = api_pb2.Experiment(
        hparam_infos=[
            api_pb2.HParamInfo(name=name, type=kinds.get(type(value), "DATA_TYPE_FLOAT64"))
            for name, value in plain_settings(settings).items()
        ],
        metric_infos=[
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in (*sorted(scores), *LOSSES)
        ],
    )
    return _of_hparams(metadata.EXPERIMENT_TAG, experiment=about)


def _of_hparams(tag: str, **content: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **content)
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString())
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))])


def histogram(name: str, values: Histogram) -> Any:
    """How values are spread, a Summary."""
    from torch.utils.tensorboard import summary

    width = (values.high - values.low) / BINS
    limits = [values.low + width * (i + 1) for i in range(BINS)]
    n = sum(values.counts)
    return summary.histogram_raw(
        name, values.low, values.high, n, values.total, values.squares, limits, values.counts
    )
