"""Commands beside training: `python -m tools.<name> --help`."""

import sys

import signals

if sys.argv[0] == "-m":  # one of them is being started: before its imports, which take seconds
    signals.as_command()
