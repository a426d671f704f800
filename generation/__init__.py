"""A trained generator: `from generation import load_generator, sample, compare`; and what a run keeps on disk."""

from generation.comparison import compare
from generation.generator import load_generator
from generation.sampling import sample

__all__ = ["compare", "load_generator", "sample"]
