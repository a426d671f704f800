"""Commands beside training: `python -m tools.<name> --help`."""

import sys

import signals
from errors import need_packages

if sys.argv[0] == "-m":  # one of them is being started: before its imports, which take seconds
    signals.as_command()
need_packages()
