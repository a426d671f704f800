"""The search of tools.ema: scores of averages of one width after another, their best, and the chart of them."""

import argparse
import math
import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from errors import UserError, shown
from generation.charts import curves, picture
from generation.extractors import OPENERS
from generation.protocol import append_score
from generation.snapshots import made_name, reconstructed
from generation.views import view_of
from metrics.lines import best_by, protocol_key, read_lines
from metrics.score import METRICS
from tools import evaluate
from tools.common import scores_file, warn


def asked_score(text: str, about: dict[str, Any]) -> list[str]:
    """The flags of tools.evaluate for METRIC or METRIC[NETWORK]; UserError."""
    known = re.fullmatch(r"(?P<metric>\w+)(\[(?P<network>[\w-]+)\])?", text)
    if known is None:
        raise UserError(f"--search {shown(text, 50)}: give METRIC or METRIC[NETWORK], as fid[lite0]")
    metric, network = known["metric"], known["network"]
    if not view_of(about["dataset"]).single:
        if (metric, network) != ("jsd", None):
            raise UserError(f"--search {shown(text, 50)}: points are held against their mixture: give jsd")
        return []
    for what, name, choices in (("metric", metric, METRICS), ("network", network, OPENERS)):
        if name is not None and name not in choices:
            raise UserError(
                f"--search {shown(text, 50)}: no {what} {shown(name, 50)}; known are {', '.join(choices)}"
            )
    return ["--metrics", metric, *([] if network is None else ["--extractor", network])]


class Search:
    """Scores of one width after another on equal latents and reals; each is a line of the run's scores.jsonl."""

    def __init__(self, args: argparse.Namespace, about: dict[str, Any], device: str) -> None:
        flags = ["--seed", str(args.seed), "--device", args.device, *asked_score(args.search, about)]
        for name in ("n", "metric_weights", "data", "data_root", "cache_dir"):
            if (value := getattr(args, name)) is not None:
                flags += [f"--{name}", str(value)]
        self.args, self.device = args, device
        asked = evaluate.parser().parse_args([args.run, *flags])
        self.evaluator = evaluate.make_evaluator(asked, about, device)
        self.file, self.name = scores_file(args.run), ""
        self.lines: dict[float, dict[str, Any]] = {}

    def score(self, widths: Sequence[float]) -> None:
        """Score those that have no score yet, and say it."""
        known = read_lines(self.file) if self.file.exists() else []
        missing = [w for w in widths if w not in self.lines]
        for at in missing:
            line = next((line for line in known if self._is_of(line, at)), None)
            if line is None:
                _, G, about = next(reconstructed(self.args.run, [at], self.args.step, self.device))
                line = self.evaluator.score(
                    G, step=about["step"], weights=about["chosen"], batch_norm=about["batch_norm"]
                )
                self._keep(line)
            self.name, _ = best_by(line)
            self.lines[at] = line
            print(f"std {at:<6g} {self.name} {line[self.name]:.4g}", flush=True)

    def _is_of(self, line: dict[str, Any], at: float) -> bool:
        """Whether a line of the file says what scoring a width would: as the first one that was scored does."""
        if not self.lines:
            return False
        first = next(iter(self.lines.values()))
        like = first | {"protocol": first["protocol"] | {"weights": made_name(at)}}
        return (
            line.get("step") == first["step"]
            and isinstance(line.get("protocol"), dict)
            and protocol_key(line) == protocol_key(like)
            and isinstance(line.get(self.name), float)
        )

    def _keep(self, line: dict[str, Any]) -> None:
        try:
            append_score(self.file, line, once=True)
        except OSError as error:
            warn(f"{self.file} cannot be written: {error.strerror}")

    def best(self) -> float:
        """The width of the best score, of equal ones the smaller."""
        sign = 1 if self.evaluator.better == "low" else -1
        return min(sorted(self.lines), key=lambda at: sign * self.lines[at][self.name])

    def beside_best(self) -> list[float]:
        """Widths between the best and its neighbours, at equal ratios."""
        widths, at = sorted(self.lines), self.best()
        i = widths.index(at)
        near = [widths[j] for j in (i - 1, i + 1) if 0 <= j < len(widths)]
        return [float(f"{math.sqrt(at * other):.3g}") for other in near]

    def chart(self) -> Image.Image:
        """Scores over widths."""
        widths = sorted(self.lines)
        line = widths, [self.lines[at][self.name] for at in widths]
        return picture(curves({"": line}, "width (std)", self.name), scale=2)
