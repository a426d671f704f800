"""What the sections of a report hold: findings, grids, charts, tables; everything from outside is escaped."""

import json
import math
from collections.abc import Mapping
from html import escape

from torch import Tensor

from errors import shown
from generation.charts import curves, histograms, svg
from generation.findings import Finding
from generation.record import Record, Series
from tools.report_html import SMALL, embedded, marked, table, text

SIZE, WIDE = (400, 225), (400, 260)  # px of a chart
N_LAYERS = 7  # lines of a chart of layers: as many as there are colours
N_HISTOGRAMS = 16
N_OTHERS = 24  # charts of what has no place of its own
LARGE = 1e100  # no score is
WINDOW = 50  # parts of a curve of which one is a running median's window


# -- findings and pictures -----------------------------------------------------------------------------------------


def finding_card(finding: Finding) -> str:
    """What was found, why, and what to do."""
    kind = "ill" if finding.is_ill else "ok" if finding.name == "healthy" else "open"
    parts = [
        f"<h3>{text(finding.title)} <span class=sure>({finding.sure})</span></h3><p>{text(finding.meaning)}</p>"
    ]
    parts.append(f"<ul>{''.join(f'<li>{text(line)}</li>' for line in finding.evidence)}</ul>")
    if finding.advice:
        tries = "".join(f"<li>{marked(line)}</li>" for line in finding.advice)
        parts.append(f"<p>Try next, one at a time:</p><ul>{tries}</ul>")
    parts.append(f"<p class=soft>{text(finding.stop, 500)}</p>" if finding.stop else "")
    return f'<article class="finding {kind}">{"".join(parts)}</article>'


def grid_figure(record: Record, weights: str, step: int, caption: str) -> str:
    """A run's own picture of a step; "" where it cannot be read."""
    picture = record.picture(record.samples[weights][step])
    if picture is None:
        return ""
    label = f"{caption}: step {step:,}, {weights}"
    small = ' class="small"' if max(picture.size) <= SMALL else ""
    size = f'width="{picture.width}" height="{picture.height}"'
    return (
        f'<figure><img{small} {size} alt="Samples, {text(label)}" src="{embedded(picture)}">'
        f"<figcaption>{text(label)}</figcaption></figure>"
    )


# -- charts --------------------------------------------------------------------------------------------------------


def chart(
    title: str, series: Mapping[str, Series], about: str = "", *, log: bool = False, wide: bool = False,
    levels: Mapping[str, float] | None = None,
) -> str:  # fmt: skip
    """Series by name over steps, with a caption; "" where nothing is finite."""
    lines = {name: (one.steps, one.values) for name, one in series.items() if one.finite}
    if not lines:
        return ""
    drawn = svg(curves(lines, "step", "", WIDE if len(lines) > 3 else SIZE, log=log, levels=levels), title)
    kind = ' class="wide"' if wide else ""
    about = f" {text(about, 500)}" if about else ""
    return f"<figure{kind}>{drawn}<figcaption><b>{text(title)}.</b>{about}</figcaption></figure>"


def charts(*drawn: str) -> str:
    """Charts beside each other."""
    found = "".join(drawn)
    return f'<div class="charts">{found}</div>' if found else ""


def picked(record: Record, *names: str) -> dict[str, Series]:
    """Those of a record's series that there are."""
    return {name: record.series[name] for name in names if name in record.series}


def starting(record: Record, start: str) -> dict[str, Series]:
    """Those whose names begin so, by the rest."""
    return {name.removeprefix(start): one for name, one in record.series.items() if name.startswith(start)}


def scaled(series: Series) -> Series:
    """Its running median, the fifth to the ninety-fifth percentile of it from 0 to 1: shapes can be compared then."""
    finite = [(s, v) for s, v in zip(series.steps, series.values, strict=True) if math.isfinite(v)]
    half = max(len(finite) // WINDOW, 1) // 2
    values = [v for _, v in finite]
    smooth = [sorted(values[max(i - half, 0) : i + half + 1])[(min(i + half + 1, len(values)) - max(i - half, 0)) // 2]
              for i in range(len(values))]  # fmt: skip
    ordered = sorted(smooth) or [0.0]
    low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    span = high - low or 1
    # what leaves the range, as the first steps do, is cut off: the rest would be a line
    return Series([s for s, _ in finite], [min(max((v - low) / span, -0.25), 1.25) for v in smooth])


def loss_charts(record: Record, levels: Mapping[str, float]) -> str:
    """Losses as they are, and scaled."""
    losses = starting(record, "loss/")
    raw = chart("Losses", {f"loss/{k}": v for k, v in losses.items()},
                "They say how the game stands, not how good the pictures are.", levels=levels)  # fmt: skip
    shapes = {f"loss/{name}": scaled(one) for name, one in losses.items() if len(one.finite) > 1}
    return charts(
        raw,
        chart(
            "Losses, each by its own range", shapes, "Running medians, 5th to 95th percentile from 0 to 1."
        ),
    )


def d_charts(record: Record) -> str:
    """What D thinks of reals and fakes, and how sure it is."""
    heads = [name.removesuffix("/real") for name in record.series if name.endswith("/real")]
    logits = [
        chart(f"{head.upper()} on reals and fakes", picked(record, f"{head}/real", f"{head}/fake"),
              "Mean logit: apart for good means that D has won, one line means that it cannot tell.")
        for head in heads
    ]  # fmt: skip
    sign = {name: one for name, one in record.series.items() if name.endswith("/real_sign")}
    saturated = {name: one for name, one in record.series.items() if name.endswith("_saturated")}
    return charts(
        *logits,
        chart(
            "Sign of D on reals",
            sign,
            "The share called real less the share called fake; near 1, D may know them by heart.",
        ),
        chart(
            "Saturated sigmoids",
            saturated,
            "Share of D's logits beyond 99 % or below 1 %, where a sigmoid is flat.",
        ),
    )


def spread_layers(layers: Mapping[str, Series]) -> dict[str, Series]:
    """At most N_LAYERS of them, the first and the last too."""
    names = list(layers)
    if len(names) > N_LAYERS:
        names = [names[round(i * (len(names) - 1) / (N_LAYERS - 1))] for i in range(N_LAYERS)]
    return {name: layers[name] for name in names}


def gradient_charts(record: Record) -> str:
    """Whole gradients, and those of layers."""
    drawn = [
        chart(
            "Length of the gradients",
            starting(record, "grad_norm/"),
            "Of a whole network; in one order of magnitude when well.",
            log=True,
        )
    ]
    nets = dict.fromkeys(
        n.split("/")[1] for n in record.series if n.startswith("layer_grad_mean/") and n.count("/") > 1
    )
    for net in sorted(nets):
        for kind, word in (("mean", "Mean"), ("max", "Greatest")):
            layers = spread_layers(starting(record, f"layer_grad_{kind}/{net}/"))
            drawn.append(
                chart(
                    f"{word} gradient of {net.upper()}'s layers",
                    layers,
                    "Absolute values, a line a layer.",
                    log=True,
                )
            )
    return charts(*drawn)


def sample_charts(record: Record) -> str:
    """How samples compare with data along the run."""
    about = {
        "diversity": "Distance of two samples by that of two images of the data; 1 is as varied.",
        "diversity_within": "The same within classes.", "contrast": "Of a sample by that of the data's; 1 is equal.",
        "brightness": "Mean of the samples less that of the data, of [-1, 1].",
        "colourfulness": "Of a pixel by that of the data's; 1 is equal.",
        "roughness": "Of neighbouring pixels by that of the data's: noise is high, blurs are low.",
        "modes": "Share of the mixture's modes that have samples.", "near": "Share of the samples' ink near a mode.",
    }  # fmt: skip
    sets = record.sample_series
    drawn = []
    for name, said in about.items():
        lines = {weights: of_set[name] for weights, of_set in sets.items() if name in of_set}
        drawn.append(chart(name.replace("_", " ").capitalize(), lines, said))
    return charts(*drawn)


def sample_table(record: Record) -> str:
    """The last numbers of the samples, a row a weight set."""
    names = list(dict.fromkeys(name for of in record.sample_series.values() for name in of))
    rows = [
        [
            text(weights),
            *(f"{of[name].finite[-1]:.3g}" if name in of and of[name].finite else "–" for name in names),
        ]
        for weights, of in record.sample_series.items()
    ]
    return table(["weights", *(text(name.replace("_", " ")) for name in names)], rows, 1) if names else ""


def weight_charts(layers: Mapping[str, Mapping[str, Tensor]], origin: str) -> str:
    """Small histograms of each network's weights."""
    drawn = []
    for net, of_net in layers.items():
        names = list(of_net)
        if len(names) > N_HISTOGRAMS:
            names = [names[round(i * (len(names) - 1) / (N_HISTOGRAMS - 1))] for i in range(N_HISTOGRAMS)]
        if names:
            title = f"Weights of {net}"
            picture = svg(histograms({shown(name, 60): of_net[name] for name in names}), title)
            said = f"{text(origin)}, a layer each, to the 99.9th percentile."
            drawn.append(f"<figure>{picture}<figcaption><b>{text(title)}.</b> {said}</figcaption></figure>")
    return charts(*drawn)


def stability_charts(record: Record) -> str:
    """Skipped updates, penalties, rates, precision."""
    return charts(
        chart(
            "Updates left out", picked(record, "skipped_steps"), "Gradients or losses that were not finite."
        ),
        chart("Loss scale", picked(record, "fp16_scale"), "fp16 alone.", log=True),
        chart("Penalties", starting(record, "penalty/"), "Before their weights.", log=True),
        chart("Learning rates", starting(record, "lr/"), log=False),
        *(chart(f"{name}, as scheduled", {name: one}) for name, one in starting(record, "schedule/").items()),
    )


OWN_PLACE = (
    "loss/",
    "d/",
    "grad_norm/",
    "layer_grad_",
    "samples/",
    "skipped_steps",
    "fp16_scale",
    "penalty/",
    "lr/",
    "schedule/",
    "img_per_s",
)


def other_charts(record: Record) -> str:
    """What is logged beside, in charts by the first part of its name."""
    groups: dict[str, dict[str, Series]] = {}
    for name, one in record.series.items():
        if not name.startswith(OWN_PLACE) and not name.endswith(
            ("/real", "/fake", "/real_sign", "_saturated")
        ):
            groups.setdefault(name.partition("/")[0], {})[name] = one
    drawn = [chart(head, of_head) for head, of_head in list(groups.items())[:N_OTHERS]]
    return charts(*drawn)


def is_number(value: object) -> bool:
    """Whether a value of a line is a number of a usual size."""
    return type(value) in (int, float) and abs(value) < LARGE


def score_series(record: Record, name: str) -> Series | None:
    """A score along a run, None without any."""
    at = {line["step"]: float(line[name]) for line in record.scores if is_number(line.get(name))}
    return Series(*map(list, zip(*sorted(at.items()), strict=True))) if at else None


def score_parts(record: Record, best: Mapping[str, object] | None) -> str:
    """Scores along the run, and of the last and the best step, with how they were taken."""
    names = dict.fromkeys(
        name for line in record.scores for name, value in line.items()
        if name != "step" and "_std" not in name and is_number(value)
    )  # fmt: skip
    along = {name: score_series(record, name) for name in names}
    rows = []
    for title, line in (("best", best), ("last", record.scores[-1] if record.scores else None)):
        if line is not None:
            numbers = (f"{float(line[n]):.5g}" if is_number(line.get(n)) else "–" for n in names)
            rows.append([title, f"{line['step']:,}", *numbers])
    protocol = json.dumps(record.scores[-1].get("protocol", {}), indent=1) if rows else ""
    how = f"<h3>How they were taken</h3><pre>{escape(protocol)}</pre>" if rows else ""
    drawn = [chart(name, {name: one}) for name, one in list(along.items())[:N_OTHERS] if len(one) > 1]
    return table(["", "step", *map(text, names)], rows, 1) + charts(*drawn) + how
