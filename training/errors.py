"""Mistakes of the user, and how a command line reports them: one line on stderr, exit code 2."""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """What was given, what is allowed, and which flag or file to change; never a traceback."""


@contextmanager
def blaming_user() -> Iterator[None]:
    """Turn ValueErrors of set-up code (networks, tables, settings) into UserErrors."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
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
            if os.environ.get("RANK", "0") == "0":
                print("error:", " ".join(str(error).split()), file=sys.stderr)
            return 2

    return wrapped
