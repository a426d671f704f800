"""The device a command computes on."""

from datetime import timedelta

import torch

from errors import UserError

# How long processes wait for one that decodes, downloads or computes scores for all.
PATIENCE = timedelta(hours=6)


def choose_device(asked: str) -> str:
    """cuda, mps or cpu; UserError for one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked == "auto":
        return next(name for name, available in there.items() if available)
    if not there[asked]:
        raise UserError(
            f"--device {asked} is not available here; there is {', '.join(n for n, a in there.items() if a)}"
        )
    return asked
