"""The sections of settings by owner, and the fields of all."""

from dataclasses import fields

from settings.sections.data import AugmentationSettings, DataSettings
from settings.sections.evaluation import EvaluationSettings
from settings.sections.loss import LossSettings
from settings.sections.model import GrowingSettings, ModelSettings
from settings.sections.optimisation import EmaSettings, OptimisationSettings, PrecisionSettings
from settings.sections.pairs import PairSettings
from settings.sections.run import OutputSettings, RunSettings

SECTIONS = (
    RunSettings, DataSettings, PairSettings, AugmentationSettings, ModelSettings, GrowingSettings, LossSettings,
    OptimisationSettings, EmaSettings, PrecisionSettings, EvaluationSettings, OutputSettings,
)  # fmt: skip
FIELDS = {f.name: f for section in SECTIONS for f in fields(section)}
