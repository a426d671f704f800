"""A trained generator: `from generation import load_generator, load_translator, sample, compare`; files of a run."""

from generation.comparison import compare
from generation.drawing import sample
from generation.generator import load_generator
from generation.translator import load_translator

__all__ = ["compare", "load_generator", "load_translator", "sample"]
