"""Mistakes of the user, and how a command line reports them: one line on stderr, exit code 2."""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn


def tell(text: str) -> None:
    """One line on stderr, from the first process alone; for what comes before there is an Accelerator."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)


class UserError(ValueError):
    """What was given, what is allowed, and which flag or file to change; never a traceback."""


class Parser(argparse.ArgumentParser):
    """argparse whose refusals are one line, like every other."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError in place of printing the whole usage."""
        raise UserError(f"{message}; --help lists the flags")


@contextmanager
def blaming_user() -> Iterator[None]:
    """Turn the ValueErrors and TypeErrors that settings cause in set-up code into UserErrors."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error


def cli(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap a command's main(argv): a UserError becomes one line on stderr and exit code 2.

    With several processes only the first one prints.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        try:
            return main(argv) or 0
        except UserError as error:
            tell(f"error: {' '.join(str(error).split())}")
            return 2

    return wrapped
