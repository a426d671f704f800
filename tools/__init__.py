"""Commands beside training: `python -m tools.<name> --help`."""

from errors import need_packages

need_packages()
