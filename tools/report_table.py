"""The table of several runs in a report: what sets them apart, scores over seeds, speed, hours."""

from collections.abc import Sequence

from errors import UserError
from generation.findings import Finding
from generation.record import Record
from tools import report_html as html
from tools.table import (
    DASH,
    Clock,
    Row,
    Run,
    generated_lines,
    images_before,
    line_at,
    rows_of,
    score_names,
    setting_of,
    titles_of,
)


def clock_of(record: Record) -> list[tuple[int, float]]:
    """(step, seconds of training) along a run, [] where its settings or its speed cannot be read."""
    try:
        counted = images_before(record.settings)
        return [] if counted is None else Clock(record.path, counted).read()
    except (UserError, TypeError, ValueError, OSError):
        return []


def hours_of(record: Record) -> float | None:
    """Hours of training, None where they are not known."""
    clock = clock_of(record)
    return clock[-1][1] / 3600 if clock else None


def speed_of(record: Record) -> float | None:
    """Images of the data a second of training, None where that is not known."""
    return as_run(record).img_per_s if clock_of(record) else None


def as_run(record: Record, *, scored: bool = True) -> Run:
    """A record as tools.table has it; one without a score has an empty line of its last step."""
    try:
        line = line_at(generated_lines(record.path), "last") if scored and record.scores else None
    except UserError:
        line = None
    return Run(
        record.path,
        record.settings,
        record.asked,
        line or {"step": record.step, "protocol": {}},
        clock_of(record),
    )


def grouped(records: Sequence[Record]) -> tuple[list[list[Run]], list[str], str]:
    """(runs by setting, names of scores, why there are none); scores of one protocol alone stand beside each other."""
    runs = [as_run(record) for record in records]
    scored = [run for run in runs if run.line["protocol"]]
    reason = ""
    try:
        groups = rows_of(scored, "last") if scored else []
    except UserError as error:
        reason, groups, scored = str(error), [], []
        runs = [as_run(record, scored=False) for record in records]
    names = score_names([run for group in groups for run in group], None) if groups else []
    others: dict[str, list[Run]] = {}
    for run in runs:
        if not any(run is one for one in scored):
            others.setdefault(setting_of(run), []).append(run)
    return groups + list(others.values()), names, reason


def comparison(records: Sequence[Record], findings: Sequence[Sequence[Finding]], price: float | None) -> str:
    """The table as HTML, a row a setting."""
    groups, names, reason = grouped(records)
    said = {
        record.path: found[0].title.partition(":")[0] for record, found in zip(records, findings, strict=True)
    }
    titles = titles_of([group[0] for group in groups])
    rows = []
    for group, title in zip(groups, titles, strict=True):
        row = Row.of(group, title, names)
        setting, n, step, *cells = row.cells()
        found = dict.fromkeys(said[run.path] for run in group if run.path in said)
        hours = sum(row.hours)
        cost = [f"{hours * price:,.2f}" if hours else DASH] if price is not None else []
        runs = ", ".join(run.path.resolve().name for run in group)
        head = [
            html.text(runs, 400),
            f"<code>{' '.join(f'<span>{html.text(word)}</span>' for word in setting.strip('`').split())}</code>",
            html.text(", ".join(found), 400),
        ]
        rows.append([*head, n, step, *map(html.text, cells), *cost])
    heads = [
        "run",
        "settings that differ",
        "diagnosis",
        "n",
        "step",
        *map(html.text, names),
        "steps",
        "hours",
        "img/s",
    ]
    heads += ["price of all n"] if price is not None else []
    notes = (
        ["Mean ± the sample's deviation over n seeds, a dash for one; of the last scored step of each."]
        if names
        else []
    )
    notes += [f"No scores: {reason}"] if reason else []
    return html.table(heads, rows, 3) + "".join(
        f"<p class=soft>{html.text(note, 1000)}</p>" for note in notes
    )
