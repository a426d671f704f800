"""What was asked of a run: TrainConfig of sections by owner, presets, files, and the command line."""

from settings.derive import settled
from settings.files import as_dict
from settings.presets import PRESETS
from settings.train_config import TrainConfig

__all__ = ["PRESETS", "TrainConfig", "as_dict", "settled"]
