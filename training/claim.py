"""A run's folder while one process owns it: taken in the moment of choosing, written, kept whole, and freed."""

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import disk
from errors import UserError, tell
from generation.checkpoint import CheckpointStore
from generation.generator import MODEL_FILE
from modelling import is_file_name
from modelling.files import MAX_SOURCE
from ops.distributed import from_main
from settings import TrainConfig, as_dict
from training.folder import Plan, is_occupied, refuse_occupied


class Outdated(UserError):
    """The plan was to begin anew, and by now there is a run to go on with: to be planned again (run.run_planned)."""


class RunFolder:
    """The folder that a run writes; the main process alone owns it. `begin` and `free` are of all processes."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.path = Path()
        self._made = False
        self._files: dict[str, bytes] = {}  # what no run can be resumed without, by name
        self._lock, self._stands = ExitStack(), lambda: True

    def take(self, data: str) -> Path:
        """Make the folder, or take the one that the plan names, and lock it; UserError, Busy where another run has it.

        data: what the name of an unnamed run begins with. Outdated where the plan is.
        """
        config, root = self.plan.config, Path(self.plan.config.runs_dir)
        try:
            if self.plan.folder is None:
                stem = f"{data}-{Path(config.model).stem}-{config.method}"
                self.path, self._made = make_next(root, stem), True
                self._own()
            else:
                root = self.path = self.plan.folder
                refuse_occupied(self.plan)
                self._make_and_own()
                refuse_occupied(self.plan)  # another run may have ended here since
                if self.plan.anew and CheckpointStore(self.path / "checkpoints").newest_whole() is not None:
                    raise Outdated(
                        f"--resume auto: another run was in {self.path} until now: start this one again"
                    )
            self._remove_leftovers()
        except OSError as error:
            raise unwritable(root, error) from None
        return self.path

    def _own(self) -> None:
        self._stands = self._lock.enter_context(disk.locked(self.path))

    def _make_and_own(self) -> None:
        while True:
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            # a refused run removes the folder that it has made
            with suppress(FileNotFoundError):
                self._own()
                return

    def _remove_leftovers(self) -> None:
        """What killed runs of this name left: unfinished files, and folders on their way to be deleted."""
        for entry in list(os.scandir(self.path.parent)):
            if re.fullmatch(rf"\.{re.escape(self.path.name)}\.removed-\d+", entry.name):
                shutil.rmtree(entry.path, ignore_errors=True)
        for folder in (self.path, *(entry.path for entry in os.scandir(self.path) if entry.is_dir())):
            disk.remove_stale(folder, owned=True)

    def begin(self, config: TrainConfig) -> None:
        """Delete the run that is replaced, write config.json, and keep a copy of the user's file that the networks are
        from; when nothing can be refused any more. What fails on the main process fails on all: UserError."""

        def write() -> None:
            self._files = {"config.json": (json.dumps(as_dict(config), indent=2) + "\n").encode()}
            if is_file_name(config.model):
                copy = self.path / MODEL_FILE
                kept = self.plan.source is not None and copy.exists()
                # read now: it may stand in the folder that goes
                source = copy if kept else Path(config.model).expanduser()
                self._files[MODEL_FILE] = disk.read_bytes(source, MAX_SOURCE)
            if self.plan.replaces and is_occupied(self.path):
                self._renew()
            self._write_files()

        try:
            from_main(write)
        except OSError as error:
            raise unwritable(self.path, error) from None

    def _renew(self) -> None:
        """Rename the old run aside, own a new folder of its name, then delete the old one, so that after a kill at any
        moment the same command works again. Checkpoints that cannot be read are nothing to go on with, but are kept."""
        name = self.path.name
        if self.plan.anew and CheckpointStore(self.path / "checkpoints").steps():
            aside = next(
                p for i in itertools.count(1) if not (p := self.path.with_name(f"{name}.old-{i}")).exists()
            )
            tell(
                f"warning: none of the checkpoints in {self.path} can be read: it is now {aside}, the run starts anew"
            )
        else:
            aside = self.path.with_name(f".{name}.removed-{os.getpid()}")
        if os.name == "nt":
            self._lock.close()  # an open file holds its folder there
        os.rename(self.path, aside)
        self._lock.close()
        self.path.mkdir()
        self._own()
        if aside.name.startswith("."):
            shutil.rmtree(aside, ignore_errors=True)

    def _write_files(self) -> None:
        """Those that are not there as they should be; config.json first: it says that the folder is a run's."""
        for name, content in self._files.items():
            file = self.path / name
            if not file.is_file() or file.read_bytes() != content:
                disk.put(file, content)

    def mend(self) -> None:
        """Before a checkpoint: make the folder whole where it was removed meanwhile, saying so; UserError where another
        run has taken its place, OSError from the disk."""
        if self._stands() and all((self.path / name).is_file() for name in self._files):
            return
        tell(f"warning: {self.path}, or a part of it, was removed during the run: it is made anew")
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._stands():
            self._lock.close()
            self._own()
        self._write_files()

    def free(self, *, refused: bool) -> None:
        """Give the folder up; refused: remove it where this run has made it and left it empty."""
        if refused and self._made and not is_occupied(self.path):
            with suppress(OSError):
                (self.path / disk.LOCK).unlink(missing_ok=True)
                self.path.rmdir()
        self._lock.close()


@contextmanager
def claimed(plan: Plan, data: str) -> Iterator[RunFolder]:
    """The plan's folder, or the next free runs/data-model-method-NNN, owned by the main process inside; a refusal is
    one of all processes."""
    folder = RunFolder(plan)
    try:
        folder.path = Path(from_main(lambda: str(folder.take(data))))
        yield folder
    except BaseException:
        folder.free(refused=True)
        raise
    folder.free(refused=False)


def make_next(root: Path, stem: str) -> Path:
    """Make root/stem-NNN with the first number that nothing has; OSError where nothing can be made."""
    root.mkdir(parents=True, exist_ok=True)
    for i in itertools.count(1):
        folder = root / f"{stem}-{i:03d}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("numbers never end")


def unwritable(folder: Path, error: OSError) -> UserError:
    """What cannot be written, and the flag that names another place."""
    return UserError(f"cannot write to {folder}: {error.strerror or error}; --runs_dir says where runs stand")
