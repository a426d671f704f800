"""What is wrong with a run, in plain words, and a page that shows it.

    python -m tools.report runs/NAME                            the diagnosis, on the terminal
    python -m tools.report runs/NAME --out report.html          and a page of its own: grids, curves, weights, scores
    python -m tools.report runs/* --out report.html             several runs: a table, and curves over each other
    python -m tools.report runs/NAME --out report.html --price_per_hour 2.5

RUN is a run's folder, also one that is still training or damaged, of which what can be read is shown; or its generator/
alone, which has weights and no curves. The page is one file that loads nothing. The diagnosis goes by the logged
numbers and the samples alone; docs/reading_a_run.md explains each curve.
"""

import argparse
import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import disk
from errors import UserError, cli, printable, shown
from generation.diagnosis import diagnose
from generation.findings import Finding
from generation.look import levels_of
from generation.record import Record, read_record, read_weights
from metrics.lines import best_line
from metrics.mixture import MIXTURES
from tools import report_html as html
from tools import report_page as page
from tools import tool_parser
from tools.common import finite, make_folder
from tools.report_table import comparison, hours_of, speed_of
from tools.table import command_of, images_before

MAX_RUNS = 40
MAX_OVER = 12  # runs whose curves are drawn over each other


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.report", __doc__)
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or a generator/")
    p.add_argument(
        "--out", type=Path, metavar="FILE.html", help="the page (default: the diagnosis on the terminal)"
    )
    p.add_argument(
        "--price_per_hour",
        type=finite,
        metavar="PRICE",
        help="what an hour of training costs, in any currency",
    )
    return p


# -- on the terminal -----------------------------------------------------------------------------------------------


def told(record: Record, findings: Sequence[Finding]) -> str:
    """The diagnosis of a run for a terminal."""
    lines = [f"{record.name}, step {record.step:,}"]
    for finding in findings:
        lines += [f"  {finding.title} ({finding.sure})", *(f"    {line}" for line in finding.evidence)]
        lines += [f"    try {line}" for line in finding.advice]
        lines += [f"    {finding.stop}"] if finding.stop else []
    return "\n".join([*lines, *(f"  could not be read: {problem}" for problem in record.problems)])


# -- a page of one run ---------------------------------------------------------------------------------------------


def state_of(record: Record) -> str:
    """Whether it is done, or still trains."""
    try:
        disk.refuse_owned(record.path)
    except disk.Busy:
        return "still training"
    n_steps = record.settings.get("n_steps")
    whole = isinstance(n_steps, int) and record.step >= n_steps
    return "finished" if whole else "not finished" if isinstance(n_steps, int) else ""


def heading(record: Record) -> str:
    """Name and what it is."""
    names = (
        record.settings.get("model") or record.about.get("model"),
        record.settings.get("method"),
        record.dataset,
    )
    n_steps = record.settings.get("n_steps")
    size = record.image_size
    what = [str(name) for name in names if name]
    what += [f"{size[1]} x {size[0]} px"] if size and record.dataset not in MIXTURES else []
    what += [f"step {record.step:,}" + (f" of {n_steps:,}" if isinstance(n_steps, int) else "")]
    what = html.text(", ".join([*what, *filter(None, [state_of(record)])]))
    return f"<h1>{html.text(record.name)}</h1><p class=soft>{what}</p>"


def best_of(record: Record) -> Mapping[str, Any] | None:
    """The line of its best score, None without any."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # another program's lines
        return best_line(record.scores)
    return None


def grids(record: Record, best: Mapping[str, Any] | None) -> str:
    """The first, the best and the last grid of the weights that are looked at first."""
    weights = record.weight_set
    if weights is None:
        return ""
    steps = sorted(record.samples[weights])
    shown_at = {steps[0]: "first", steps[-1]: "last"}
    if best is not None:
        shown_at.setdefault(
            min(steps, key=lambda step: abs(step - best["step"])), "nearest to the best score"
        )
    figures = "".join(page.grid_figure(record, weights, step, shown_at[step]) for step in sorted(shown_at))
    note = "" if best is not None else "<p class=soft>Without scores no step is known to be the best one.</p>"
    return f'<div class="grids">{figures}</div>{note}' if figures else ""


def opening(record: Record, findings: Sequence[Finding]) -> str:
    """The diagnosis, and the last grid that can be read."""
    cards = "".join(map(page.finding_card, findings))
    weights, last = record.weight_set, ""
    if weights is not None:
        readable = (
            page.grid_figure(record, weights, step, "last samples")
            for step in sorted(record.samples[weights], reverse=True)[:5]
        )
        last = next(filter(None, readable), "")
    return f'<div class="opening"><div>{cards}</div>{last}</div>'


def cost(record: Record, price: float | None) -> str:
    """Speed, hours, and what they cost."""
    hours, speed = hours_of(record), speed_of(record)
    rows = [("steps", f"{record.step:,}")]
    with contextlib.suppress(UserError, TypeError):
        if (counted := images_before(record.settings)) is not None:
            rows.append(("images that D saw", f"{counted(record.step):,}"))
    rows += [("images of the data", f"{record.n_images:,}")] if record.n_images else []
    rows += [("hours of training", f"{hours:.3g}")] if hours else []
    rows += [("images a second", f"{speed:,.0f}")] if speed else []
    rows += [("price", f"{hours * price:,.2f} at {price:g} an hour")] if hours and price is not None else []
    drawn = page.chart(
        "Images a second", page.picked(record, "img_per_s"), "Grids and checkpoints in between count as time."
    )
    return html.table(["", ""], [[html.text(a), html.text(b)] for a, b in rows], 1) + page.charts(drawn)


def settings(record: Record) -> str:
    """The command, what was asked, and all settings."""
    parts = []
    if record.asked is not None:
        with contextlib.suppress(UserError, TypeError, AttributeError, ValueError):
            command = command_of({"dataset": record.settings.get("dataset")} | record.asked)
            seed = record.settings.get("seed")
            parts.append(f"<pre>{html.text(command, 5000)} --seed {html.text(seed)}</pre>")
    if record.settings:
        rows = [[f"<code>{html.text(k)}</code>", html.text(v)] for k, v in record.settings.items()]
        every = html.table(["setting", "value"], rows)
        parts.append(f"<details><summary>All {len(rows)} settings</summary>{every}</details>")
    return "".join(parts)


def of_one(record: Record, findings: Sequence[Finding], price: float | None) -> str:
    """The page of a run."""
    best = best_of(record)
    origin, layers = read_weights(record)
    levels = levels_of(record)
    parts = {
        "diagnosis": ("Diagnosis", opening(record, findings)),
        "grids": ("Samples", grids(record, best)),
        "losses": ("Losses", page.loss_charts(record, levels)),
        "d": ("What D thinks", page.d_charts(record)),
        "gradients": ("Gradients", page.gradient_charts(record)),
        "likeness": ("Samples beside the data", page.sample_table(record) + page.sample_charts(record)),
        "scores": ("Scores", page.score_parts(record, best)),
        "weights": ("Weights", page.weight_charts(layers, origin)),
        "stability": ("Stability", page.stability_charts(record)),
        "others": ("Other curves", page.other_charts(record)),
        "cost": ("Speed and cost", cost(record, price)),
        "settings": ("Settings", settings(record)),
        "problems": ("What could not be read", problems([record])),
    }
    return html.page(f"Report of {record.name}", heading(record), parts, foot())


def problems(records: Sequence[Record]) -> str:
    """A line each."""
    several = len(records) > 1
    lines = [(f"{r.name}: " if several else "") + problem for r in records for problem in r.problems]
    return f"<ul>{''.join(f'<li>{html.text(line)}</li>' for line in lines)}</ul>" if lines else ""


def foot() -> str:
    """What to do with it."""
    return (
        "One file that loads nothing. The diagnosis follows rules of thumb, from logged numbers and samples alone: "
        "look at the samples first."
    )


# -- a page of several ---------------------------------------------------------------------------------------------


def over_each_other(records: Sequence[Record]) -> str:
    """A chart a quantity, a line a run."""
    chosen = records[:MAX_OVER]
    names = {record.name: record for record in chosen}
    if len(names) < len(chosen):
        names = {f"{record.path.parent.name}/{record.name}": record for record in chosen}

    def over(title: str, series_of: Any, **how: Any) -> str:
        return page.chart(
            title,
            {name: one for name, record in names.items() if (one := series_of(record)) is not None},
            **how,
        )

    drawn = [
        over(name, lambda record, name=name: record.series.get(name), log=name.startswith("grad"))
        for name in (
            "loss/d",
            "loss/g",
            "d/real",
            "d/fake",
            "d/real_sign",
            "grad_norm/d",
            "grad_norm/g",
            "img_per_s",
        )
    ]
    for name in ("diversity", "contrast", "colourfulness", "modes"):
        drawn.append(
            over(
                f"{name} of samples",
                lambda record, name=name: record.sample_series.get(record.weight_set or "", {}).get(name),
            )
        )
    scores = dict.fromkeys(
        k for r in chosen for line in r.scores for k, v in line.items() if k != "step" and page.is_number(v)
    )
    for name in list(scores)[:6]:
        drawn.append(over(name, lambda record, name=name: page.score_series(record, name)))
    left = f"<p class=soft>Of the first {MAX_OVER} runs.</p>" if len(records) > MAX_OVER else ""
    return left + page.charts(*drawn)


def of_several(records: Sequence[Record], findings: Sequence[Sequence[Finding]], price: float | None) -> str:
    """The page of several runs."""
    cards = "".join(
        f"<h3>{html.text(record.name)}</h3>{opening(record, found)}"
        for record, found in zip(records, findings, strict=True)
    )
    parts = {
        "table": ("Runs", comparison(records, findings, price)),
        "diagnosis": ("Diagnosis", cards),
        "curves": ("Curves over each other", over_each_other(records)),
        "problems": ("What could not be read", problems(records)),
    }
    title = f"{len(records)} runs"
    return html.page(title, f"<h1>{title}</h1>", parts, foot())


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Read, diagnose, tell, write."""
    args = parser().parse_args(argv)
    if args.out is not None and args.out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {args.out}: the page is a NAME.html")
    if args.price_per_hour is not None and (args.out is None or args.price_per_hour < 0):
        what = "needs --out" if args.out is None else "must be at least 0"
        raise UserError(f"--price_per_hour {args.price_per_hour:g} {what}")
    paths = list({path.resolve(): path for path in args.runs}.values())
    if len(paths) > MAX_RUNS:
        raise UserError(f"{len(paths)} runs: at most {MAX_RUNS} at once")
    records = [read_record(path) for path in paths]
    findings = [diagnose(record) for record in records]
    made = None
    if args.out is not None:
        one = len(records) == 1
        made = (
            of_one(records[0], findings[0], args.price_per_hour)
            if one
            else of_several(records, findings, args.price_per_hour)
        )
    print(printable("\n".join(told(record, found) for record, found in zip(records, findings, strict=True))))
    if made is not None:
        try:
            make_folder(args.out.parent)
            disk.put(args.out, made)
        except OSError as error:
            raise UserError(
                f"--out {shown(str(args.out))} cannot be written: {error.strerror or error}"
            ) from None
        print(f"wrote {args.out} ({len(made.encode()) / 1e6:.1f} MB): open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
