"""Commands beside training: `python -m tools.<name> --help`."""

import argparse
import sys

import signals
from errors import Parser, need_packages

if sys.argv[0] == "-m":  # one of them is being started: before its imports, which take seconds
    signals.as_command()
need_packages()


def tool_parser(module: str, doc: str | None) -> Parser:
    """A parser that refuses abbreviations and prints the module's own text as its help."""
    return Parser(
        prog=f"python -m {module}",
        description=doc,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
