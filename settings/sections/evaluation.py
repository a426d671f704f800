"""Scores along the run."""

from dataclasses import dataclass
from typing import ClassVar

from errors import UserError
from metrics.dinov2 import DINOV2
from metrics.features import EXTRACTORS
from metrics.inception import NAME as INCEPTION
from metrics.pairwise import PAIRWISE
from metrics.score import METRICS
from pretrained.lite0 import NAME as LITE0
from settings.section import Section, flag


@dataclass(frozen=True)
class EvaluationSettings(Section):
    """Which scores, how often, read by what."""

    title: ClassVar[str] = "evaluation"

    eval_interval: int | None = flag(
        None,
        "steps between scores of the samples (default: none are taken)",
        least=1,
        usual=True,
        at_resume="free",
    )
    eval_n: int = flag(
        10_000,
        "number of fakes; they are compared with as many reals, or all where there are fewer",
        least=2,
        at_resume="free",
    )
    extractor: str | None = flag(
        None,
        f"network that reads images for scores (default: {INCEPTION} where its weights are, else the data set's own "
        f"reader, else {LITE0})",
        choices=lambda: (INCEPTION, LITE0, *EXTRACTORS, *DINOV2),
        usual=True,
        at_resume="free",
    )
    metric_weights: str | None = flag(
        None,
        "file of its weights (default: what is shipped, or where tools.train_classifier or a download put it)",
        at_resume="free",
    )
    metrics: tuple[str, ...] = flag(
        ("fid",),
        "scores to take; by the first the best checkpoint is kept (default of pairs: l1 psnr ssim fid)",
        choices=lambda: (*METRICS, *PAIRWISE),
        at_resume="free",
    )
    eval_patience: int | None = flag(
        None,
        "training ends after so many scores in a row without a better one",
        least=1,
        at_resume="free",
    )

    def check(self) -> None:
        """Some scores, each once."""
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise UserError(f"--metrics {' '.join(self.metrics)}: at least one, each once")
