"""Mistakes of the user, and how a command line reports them: one line on stderr, exit code 2 (3: nothing learned)."""

import argparse
import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import signals

# A command to be typed, which stays as it is, or a flag: `--no-ema` is the argument ema=False.
_FLAG = re.compile(
    r"(?P<command>\b(?:python|accelerate launch|torchrun|pip install)\b[^;,:()]*)"
    r"|(?<![\w-])--(?P<no>no-)?(?P<name>[a-z]\w*)"
)


def first_process() -> bool:
    """Whether this is the first of the launched processes; for what comes before they have met."""
    return os.environ.get("RANK", "0") == "0"


def tell(text: str) -> None:
    """One line on stderr, from the first process alone."""
    if first_process():
        print(printable(text), file=sys.stderr)


def shown(text: str, limit: int = 300) -> str:
    """A name or text from outside as part of one line: what a terminal would obey, and line ends, are escaped."""
    safe = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text[:limit]
    )
    return safe + ("..." if len(text) > limit else "")


def printable(text: str) -> str:
    """A message that may hold names from outside: what a terminal would obey is escaped, but for line ends."""
    return "\n".join(shown(line, len(line)) for line in text.split("\n"))


def need_packages() -> None:
    """End with one line where this Python has no torch: a terminal in which the environment is not activated."""
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        environment = ".venv\\Scripts\\activate" if os.name == "nt" else "source .venv/bin/activate"
        print(
            f"error: {shown(sys.executable)} has no torch: {environment} (make demo sets .venv up), or pip install -r "
            "requirements.txt",
            file=sys.stderr,
        )
        sys.exit(2)


class UserError(ValueError):
    """What was given, what is allowed, and which flag or file to change; never a traceback.

    The message is written once, with flags (`--lr 0 must be ...`). A command line prints `for_command_line`; Python
    callers, who gave arguments, read `lr 0 must be ...`.
    """

    exit_code = 2
    alone = False  # of this process and of no other: it says so, whatever its rank

    @property
    def for_command_line(self) -> str:
        """The message with its flags."""
        return printable(" ".join(map(str, self.args)))

    def __str__(self) -> str:
        return _FLAG.sub(_as_argument, self.for_command_line)


def of_one_process(text: str) -> UserError:
    """A mistake that is this process's alone, which says so whatever its rank."""
    error = UserError(text)
    error.alone = True
    return error


class Unlearned(UserError):
    """Training ended without learning: what was seen, and what to try."""

    exit_code = 3


class NotFinite(ValueError):
    """NaN or infinity in what a generator makes or is made of: training has diverged."""


def _as_argument(found: re.Match[str]) -> str:
    """A flag as an argument; a whole command unchanged."""
    if found["command"]:
        return found["command"]
    return found["name"] + ("=False" if found["no"] else "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` with the known word that is most like the given one, or nothing."""
    import difflib

    known = list(known)
    spelt = {_plain(name): name for name in reversed(known)}
    close = spelt.get(_plain(word)) or next(iter(difflib.get_close_matches(word, known, 1)), None)
    return f"; did you mean {close}?" if close and close != word else ""


def _plain(word: str) -> str:
    """A word without what people mistype most: case, hyphens and underscores."""
    return re.sub("[-_]", "", word.lower())


class Parser(argparse.ArgumentParser):
    """argparse whose refusals are one line, like every other, and say what may have been meant."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> argparse.Namespace:
        """As argparse's; UserError for words that nobody knows, and for empty ones, which name the working folder."""
        words = list(sys.argv[1:] if args is None else args)
        for before, word in zip(["", *words], words, strict=False):
            if word == "" or word.startswith("--") and word.endswith("="):
                flag = word[:-1] or (before if before.startswith("-") else "an argument")
                self.error(
                    f"{flag} is empty, as from a variable that is not set: give a value, or leave it out"
                )
        found, extra = self.parse_known_args(words, namespace)
        if extra:
            self.error(f"unrecognized arguments: {' '.join(extra)}{self._meant(extra[0], words)}")
        return found

    def error(self, message: str) -> NoReturn:
        """Raise UserError in place of printing the whole usage."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            message += did_you_mean(choice[1], re.findall(r"[^', ]+", choice[2]))
        if "ignored explicit argument" in message:
            message += ": the flag takes no value"
        raise UserError(f"{message}; --help lists the flags")

    def _meant(self, word: str, words: list[str]) -> str:
        """What an unknown flag, or a word behind a flag that takes none, may have meant."""
        if word.startswith("-"):
            shown = [name for a in self._actions if a.help != argparse.SUPPRESS for name in a.option_strings]
            return did_you_mean(word.partition("=")[0], shown)
        before = words[words.index(word) - 1] if words.index(word) else ""
        action = self._option_string_actions.get(before)
        if action is None or action.nargs != 0:
            return ""
        return f"; {before} takes no value: give {' or '.join(action.option_strings)} alone"


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
    """Wrap a command's main(argv): a UserError becomes one line on stderr and its exit code.

    With several processes only the first one prints what is wrong with all. Without argv this process is the command,
    and obeys stop signals.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        if argv is None:
            signals.as_command()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is no reason to fail
                stream.reconfigure(errors="backslashreplace")
        try:
            return main(argv) or 0
        except UserError as error:
            say_refused(error)
            return error.exit_code

    return wrapped


def say_refused(error: UserError) -> None:
    """The error as one line on stderr: from the first process alone, but for one that is of this process alone."""
    if error.alone or first_process():
        print(f"error: {' '.join(error.for_command_line.split())}", file=sys.stderr)
