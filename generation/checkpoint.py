"""Checkpoints that survive kills, full disks and damaged bytes: one verified file a step.

A file is what torch.save writes, followed by a footer of 8 magic bytes and the sha256 of all before it;
torch.load reads it as it is. A state holds plain containers and tensors only (weights_only=True).
"""

import contextlib
import errno
import hashlib
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch

import disk
from disk import Unreadable
from errors import UserError
from generation.state import SHOWN_DIFFERENCES, non_finite, plain, tensor_bytes
from ops.memory import size_in_words
from tensorfile import read_torch, size_of

MAGIC = b"GANCKPT1"
FOOTER_BYTES = len(MAGIC) + hashlib.sha256().digest_size
BYTES_AT_ONCE = 1 << 20
# Names, zip headers and the pickle come on top of the tensors; a disk filled to the brim helps nobody.
SPACE_FACTOR = 1.2


class CheckpointError(UserError):
    """A file that is no whole checkpoint: absent, truncated, altered, or not written by this toolkit."""


class Misfit(UserError):
    """A state that is read but cannot be used: of another form, or with values that no run writes."""


class NonFiniteError(ValueError):
    """A state refused because weights or averages hold NaN or infinity; `names` lists the tensors."""

    def __init__(self, step: int, names: list[str]) -> None:
        self.names = names
        more = f" and {len(names) - SHOWN_DIFFERENCES} more" if len(names) > SHOWN_DIFFERENCES else ""
        shown = ", ".join(names[:SHOWN_DIFFERENCES])
        super().__init__(f"no checkpoint of step {step}: NaN or infinity in {shown}{more}")


class _HashingWriter:
    """A binary file for torch.save that computes sha256 as the bytes pass, so nothing is read back."""

    def __init__(self, file: BinaryIO, pool: Executor) -> None:
        self.file = file
        self.pool = pool
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        """Write all of data, or raise OSError."""
        if len(data) < BYTES_AT_ONCE:
            self.sha256.update(data)
            return self.file.write(data)
        # Hashing costs more than handing the bytes to the system; both leave the GIL to the other.
        hashed = self.pool.submit(self.sha256.update, data)
        try:
            return self.file.write(data)
        finally:
            hashed.result()  # data is torch's own memory, which it reuses after this call

    def flush(self) -> None:
        """Hand what is buffered to the system; torch.save calls it."""
        self.file.flush()


def _write(state: dict[str, Any], path: Path) -> None:
    """Write state and footer; OSError or torch's RuntimeError where the disk does not take them."""
    with ThreadPoolExecutor(max_workers=1) as pool, open(path, "wb", buffering=BYTES_AT_ONCE) as file:
        writer = _HashingWriter(file, pool)
        torch.save(state, writer)
        file.write(MAGIC + writer.sha256.digest())


def _verify(path: Path) -> None:
    """Raise CheckpointError unless the file ends in the footer that its other bytes call for."""
    with open(path, "rb") as file:
        n_payload = os.fstat(file.fileno()).st_size - FOOTER_BYTES
        start = file.read(2)
        file.seek(max(n_payload, 0))
        footer = file.read(FOOTER_BYTES)
        if n_payload <= 0 or not footer.startswith(MAGIC):
            if start == b"PK":  # torch.save's zip
                raise CheckpointError(f"{path}: no checksum at its end: truncated, or another program's file")
            raise CheckpointError(f"{path}: not a checkpoint")
        file.seek(0)
        sha256, n_left = hashlib.sha256(), n_payload
        while n_left and (chunk := file.read(min(BYTES_AT_ONCE, n_left))):
            sha256.update(chunk)
            n_left -= len(chunk)
    if sha256.digest() != footer[len(MAGIC) :]:
        raise CheckpointError(f"{path}: damaged, its bytes do not match its checksum")


def load_checkpoint(
    path: str | os.PathLike[str],
    check: Callable[[dict[str, Any]], object] | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """The verified state of one file, tensors on the CPU; raises CheckpointError saying what is wrong.

    check: raises Misfit, which becomes a CheckpointError, for a state that cannot be used, since a checksum says
    nothing of where a file comes from; another UserError of its stays what it is. limit: bytes beyond which the file is
    not read, None for any number.
    """
    path = Path(path)
    try:
        if size_of(path) > (math.inf if limit is None else limit):
            raise CheckpointError(f"{path}: larger than {limit:,} bytes, no checkpoint of this run")
        with ThreadPoolExecutor(max_workers=1) as pool:
            # meanwhile: both wait for the disk, and hashing leaves the GIL
            verified = pool.submit(_verify, path)
            try:
                state = read_torch(path, FOOTER_BYTES)
            finally:
                verified.result()  # its word goes first
        if not isinstance(state, dict):
            raise CheckpointError(f"{path}: holds a {type(state).__name__}, not the state of a run")
        if check is not None:
            check(state)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Unreadable as error:
        raise CheckpointError(error.for_command_line) from None
    except Misfit as error:
        raise CheckpointError(f"{path}: {error.for_command_line}") from None
    return state


class CheckpointStore:
    """The checkpoints of one run: `step-00000020.pt` files in a folder, of which the last `keep` stay.

    One process saves; every process may read. prepare: called before each is written. Raises ValueError for keep < 2:
    the newest may be a damaged one.
    """

    def __init__(
        self, folder: str | os.PathLike[str], keep: int = 3, *, prepare: Callable[[], None] = lambda: None
    ) -> None:
        if keep < 2:
            raise ValueError(f"keep={keep} checkpoints: at least 2, so that a damaged newest is not the last")
        self.folder = Path(folder)
        self.keep, self.prepare = keep, prepare
        self._failed = False  # whether the last one was not written

    def path(self, step: int) -> Path:
        """The file of a step, whether it exists or not."""
        return self.folder / f"step-{step:08d}.pt"

    def steps(self) -> list[int]:
        """Steps that have a file, ascending; whether it is whole shows on load."""
        if not self.folder.is_dir():
            return []
        matches = (re.fullmatch(r"step-(\d{8,})\.pt", name) for name in os.listdir(self.folder))
        return sorted(int(match[1]) for match in matches if match)

    def save(self, state: Mapping[str, Any], step: int, protect: Collection[int] = ()) -> Path | None:
        """Write the state of a step, then prune to the last `keep` and the steps in protect; its path.

        None, after a warning on stderr, where the disk did not take it: older checkpoints are untouched.
        Raises NonFiniteError for weights or averages that are not finite, TypeError for a state that is
        not made of plain containers (see `plain`), UserError where `prepare` does. Checkpoints later than step
        are given up as well.
        """
        names = non_finite(state)
        if names:
            raise NonFiniteError(step, names)
        content = plain(state)
        path = self.path(step)
        try:
            self.prepare()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_space(content)
            with disk.replacing(path) as temporary:
                _write(content, temporary)
        except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
            self._warn_not_written(step, error)
            self._failed = True
            return None
        if self._failed:
            print(f"note: checkpoints are written to {self.folder} again, as of step {step}", file=sys.stderr)
            self._failed = False
        self._prune(step, protect)
        return path

    def newest_whole(self) -> Path | None:
        """The newest checkpoint whose bytes match its checksum, None without one; nothing of it is loaded."""
        for step in reversed(self.steps()):
            path = self.path(step)
            with contextlib.suppress(CheckpointError, OSError):
                if path.is_file():  # a pipe would be waited for
                    _verify(path)
                    return path
        return None

    def latest(
        self,
        check: Callable[[dict[str, Any]], object] | None = None,
        limit: int | None = None,
        *,
        before: int | None = None,
    ) -> tuple[dict[str, Any], Path] | None:
        """State and path of the newest good checkpoint, of a step before that one if given; None without one.

        check, limit: of load_checkpoint. Damaged ones that were passed over are named on stderr; what check raises
        beside Misfit is raised.
        """
        for step in reversed([s for s in self.steps() if before is None or s < before]):
            try:
                return load_checkpoint(self.path(step), check, limit), self.path(step)
            except CheckpointError as error:
                print(f"warning: checkpoint passed over: {error}", file=sys.stderr)
        return None

    def _check_space(self, content: dict[str, Any]) -> None:
        """Raise OSError if the disk has less than 1.2 times the bytes of the tensors to write."""
        needed = SPACE_FACTOR * tensor_bytes(content)
        if shutil.disk_usage(self.folder).free < needed:
            raise OSError(errno.ENOSPC, f"{size_in_words(needed)} needed")

    def _warn_not_written(self, step: int, error: Exception) -> None:
        """One line on stderr: what failed, how much is free, what stays, what to do."""
        try:
            free = f"{size_in_words(shutil.disk_usage(self.folder).free)} free"
        except OSError:
            free = "free space unknown"
        # torch reports its own confusion ("unexpected pos") and keeps the system's error as the context.
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) else str(error).split("\n", 1)[0]
        print(
            f"warning: checkpoint of step {step} not written to {self.folder}: {reason} ({free})."
            " Training goes on, older checkpoints are kept: free some space or lift the limit.",
            file=sys.stderr,
        )

    def supersede(self, step: int) -> None:
        """Set aside the checkpoints later than step: the run went back behind them, `latest` must not return.

        They are renamed to `superseded-*.pt`, and removed once the next checkpoint is in place. Call it on
        resume from an older file; save does so by itself.
        """
        later = [s for s in self.steps() if s > step]
        if not later:
            return
        for s in later:
            try:
                os.replace(self.path(s), self.folder / f"superseded-{s:08d}.pt")
            except OSError as error:
                print(f"warning: {self.path(s)} could not be set aside: {error.strerror}", file=sys.stderr)
        listed = ", ".join(str(s) for s in later)
        print(f"note: checkpoints after step {step} given up, the run went back: {listed}", file=sys.stderr)

    def _prune(self, step: int, protect: Collection[int]) -> None:
        """Remove what is neither among the last `keep` up to step nor protected, and what was set aside."""
        self.supersede(step)
        steps = self.steps()
        kept = {*steps[-self.keep :], *protect}
        for old in (self.path(s) for s in steps if s not in kept):
            self._unlink(old)
        for given_up in self.folder.glob("superseded-*.pt"):
            self._unlink(given_up)

    @staticmethod
    def _unlink(path: Path) -> None:
        """Remove a file; one that cannot be removed is a warning, no reason to stop a run."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            print(f"warning: {path} could not be removed: {error.strerror or error}", file=sys.stderr)
