"""Disks that are full for a moment, folders that cannot be written to or are gone: the run goes on."""

import ctypes
import mmap
import os
import random
import resource
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from generation.checkpoint import CheckpointError, load_checkpoint
from studies.attacks.interruptions import RESUME, finish
from studies.attacks.runs import N_STEPS, Case, Lab, leavings, lines_of, state_differences

DISK_MB = 96
LONGEST_S = 2.0  # that a disk stays full
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAPABILITY_VERSION = 1, 2, 0x20080522


def own_mounts() -> bool:
    """Let what this process mounts be seen by it and its children alone, and vanish with them; whether that works."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or libc.unshare(CLONE_NEWNS) != 0:
        return False
    return libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0


def small_disk(folder: Path) -> bool:
    """A file system of its own at the folder; whether this process may make one."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(folder)], capture_output=True
    )
    return made.returncode == 0


def obey_modes() -> None:
    """Have root's process be held to the modes of files as everybody is."""
    if os.geteuid() != 0:
        return
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    held = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    libc.capget(header, held)
    held[0] &= ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    libc.capset(header, held)


class Trouble:
    """A watcher that begins some trouble before one file operation and ends it before a later one.

    The paths of the operations in between stand in memory that parent and child share.
    """

    def __init__(self, first: int, last: int, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self.first, self.last, self.begin, self.end = first, last, begin, end
        self.since: float | None = None
        self.over = False
        self.shared = mmap.mmap(-1, 1 << 16)

    def __call__(self, count: int, path: str) -> None:
        if self.over or count < self.first:
            return
        if self.since is None:
            self.since = time.monotonic()
            self.begin()
        elif count >= self.last or time.monotonic() - self.since > LONGEST_S:
            self.end()
            self.over = True
            return
        self.shared.write(f"{path}\n".encode())

    def touched(self) -> list[str]:
        """The paths of the operations in the trouble; for the parent."""
        return self.shared[:].rstrip(b"\0").decode().splitlines()


def filled(folder: Path, spare: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """(fill the small disk but for some bytes, free it again)."""
    file = folder / "filler"

    def begin() -> None:
        with open(file, "wb") as opened:
            status = os.statvfs(folder)
            os.posix_fallocate(opened.fileno(), 0, max(status.f_bavail * status.f_bsize - spare, 1))

    return begin, lambda: file.unlink(missing_ok=True)


def limited(spare: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """(let no file grow beyond some bytes, let them grow again): half-written ones included, as on a full disk."""
    free = resource.RLIM_INFINITY

    def limit(size: int) -> Callable[[], None]:
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, free))

    return limit(spare), limit(free)


def unwritable(folder: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """(take the right to write from every folder below, give it back)."""

    def each(change: Callable[[int], int]) -> Callable[[], None]:
        def all_folders() -> None:
            for base, _, _ in os.walk(folder):
                os.chmod(base, change(stat.S_IMODE(os.stat(base).st_mode)))

        return all_folders

    return each(lambda mode: mode & ~0o222), each(lambda mode: mode | 0o200)


def trouble(lab: Lab, case: Case, rng: random.Random, kind: str) -> None:
    """One trouble for a moment; the run goes on, loses at most what it wrote meanwhile, and can be resumed."""
    twin = lab.twin(1)
    first = rng.randint(1, int(0.85 * len(twin.operations)))
    last = first + rng.randint(1, 40)
    spare = rng.choice([0, 1, rng.randint(2, 200), rng.randint(200, 20_000)])
    mounted = kind == "full" and small_disk(case.scratch)
    if kind == "unwritable":
        begin, end = unwritable(case.scratch)
    else:
        begin, end = filled(case.scratch, spare) if mounted else limited(spare)
    how = "a small disk" if mounted else kind
    case.notes.append(f"{how}, {spare} bytes spare, operations {first} to {last}")
    try:
        watcher = Trouble(first, last, begin, end)
        children = case.run(case.command(), watcher=watcher, prepare=obey_modes)
        case.check_mild(children[0])
        (case.scratch / "filler").unlink(missing_ok=True)
        if kind == "unwritable":
            end()
        if children[0].code == 0:
            check_gaps(case, twin.folder, watcher.touched())
        finish(case, case.command(*RESUME), 1)
        check_final(case, twin.folder, n_steps=N_STEPS)
        for text in leavings(case.scratch, twin.folder.parent.parent):
            case.fail(text)
    finally:
        if mounted:
            _take_off(case)


def _take_off(case: Case) -> None:
    """Unmount the small disk; what stands on it stays in the folder where it is evidence."""
    kept = case.scratch.with_name(f"{case.scratch.name}-kept")
    if case.problems:
        shutil.copytree(case.scratch, kept, symlinks=True)
    subprocess.run(["umount", "-l", str(case.scratch)], check=True)
    if case.problems:
        shutil.copytree(kept, case.scratch, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(kept)


def full(lab: Lab, case: Case, rng: random.Random) -> None:
    """A full disk."""
    trouble(lab, case, rng, rng.choice(["full", "limit"]))


def not_writable(lab: Lab, case: Case, rng: random.Random) -> None:
    """Folders that cannot be written to."""
    trouble(lab, case, rng, "unwritable")


def deleted(lab: Lab, case: Case, rng: random.Random) -> None:
    """The run's folder is deleted while it trains: whole again at the next checkpoint."""
    twin = lab.twin(1)
    there = next(i for i, path in enumerate(twin.operations) if path.startswith("runs/run/"))
    saves = [i for i, path in enumerate(twin.operations) if "checkpoints/" in path]
    number = rng.randint(there + 1, max(i for i in saves if i < 0.85 * len(twin.operations)))
    case.notes.append(f"before operation {number}, {twin.operations[number - 1]}")

    def watch(count: int, path: str) -> None:
        if count == number:
            shutil.rmtree(case.folder, ignore_errors=True)

    children = case.run(case.command(), watcher=watch)
    case.check_mild(children[0])
    if children[0].code == 0 and not (case.folder / "config.json").is_file():
        case.fail("no config.json afterwards")
    finish(case, case.command(*RESUME), 1)
    check_final(case, twin.folder, n_steps=N_STEPS)
    for text in leavings(case.scratch, twin.folder.parent.parent):
        case.fail(text)


def check_final(case: Case, twin: Path, n_steps: int) -> None:
    """The last checkpoint and the generator equal the uninterrupted run's; all lines and pictures that are there do."""
    name = f"checkpoints/step-{n_steps:08d}.pt"
    try:
        names = state_differences(load_checkpoint(case.folder / name), load_checkpoint(twin / name))
        if names:
            case.fail(f"{name} differs in {len(names)} places, {names[0]}")
    except CheckpointError as error:
        case.fail(str(error))
    for name in ("metrics.jsonl", "scores.jsonl"):
        try:
            wanted = lines_of(twin / name)
            found = lines_of(case.folder / name) if (case.folder / name).exists() else []
            if [line for line in found if line not in wanted] or found != sorted(
                found, key=lambda line: line["step"]
            ):
                case.fail(f"{name} has other lines than the uninterrupted run")
        except (OSError, ValueError) as error:
            case.fail(f"{name}: {error}")
    for file in (twin / "generator").iterdir():
        own = case.folder / "generator" / file.name
        if not own.is_file() or own.read_bytes() != file.read_bytes():
            case.fail(f"generator/{file.name} is missing or differs")
    for own in (case.folder / "samples").glob("step-*"):
        if own.read_bytes() != (twin / "samples" / own.name).read_bytes():
            case.fail(f"samples/{own.name} differs")


def check_gaps(case: Case, twin: Path, touched: list[str]) -> None:
    """Of a run that went on: what is missing was to be written during the trouble."""
    for name in ("metrics.jsonl", "scores.jsonl"):
        try:
            found = lines_of(case.folder / name) if (case.folder / name).exists() else []
        except ValueError as error:
            case.fail(f"{name}: {error}")
            continue
        missing = len(lines_of(twin / name)) - len(found)
        tries = sum(path.endswith(name) for path in touched)
        if missing > tries:
            case.fail(f"{missing} lines of {name} are missing, {tries} were due in the trouble")
    pictures = {file.name for file in (twin / "samples").iterdir()}
    missing = len(pictures - {file.name for file in (case.folder / "samples").glob("*")})
    tries = sum("/samples" in path for path in touched)
    if missing > tries:
        case.fail(f"{missing} pictures are missing, {tries} operations in samples/ were due in the trouble")
    if touched and (steps := event_steps(case.folder)) is not None:
        missing = len(event_steps(twin) - steps)
        tries = sum("tfevents" in path for path in touched)
        if missing > tries:
            case.fail(
                f"{missing} steps of TensorBoard's events are missing, {tries} operations were due in the trouble"
            )


def event_steps(folder: Path) -> set[int] | None:
    """The steps that TensorBoard reads of a run's scalars; None where it is not installed."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return None
    events = EventAccumulator(str(folder))
    events.Reload()
    return {event.step for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
