"""One run: from its settings to its end. `train` does from Python what the gan_*.py scripts do."""

from typing import Any

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    """`train`, imported when it is asked for: scripts read their command line before accelerate is imported."""
    if name == "train":
        from training.run import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
