"""Commands beside training: `python -m tools.<name> --help`."""
