"""A trained generator: `from generation import load_generator, sample, compare`; and what a run keeps on disk."""

from generation.comparison import compare
from generation.drawing import sample
from generation.generator import load_generator

__all__ = ["compare", "load_generator", "sample"]
