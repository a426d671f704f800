"""The folder of a run: where it stands, whether it may be written, what a resumed run starts from."""

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UserError, first_process, tell
from generation.generator import MODEL_FILE, file_sha256
from modelling import is_file_name
from ops.distributed import from_main
from settings import TrainConfig, as_dict, settled
from settings.command_line import Request
from settings.files import base_of, read_saved
from settings.resume import as_first_asked, resume_differences
from settings.values import layered


@dataclass(frozen=True)
class Plan:
    """What is to be trained: settings, run folder (None: the next free one), checkpoint or run to start from, and the
    name of the preset that was asked for."""

    config: TrainConfig
    folder: Path | None = None
    source: Path | None = None
    preset: str | None = None


def planned(request: Request) -> Plan:
    """What a command line asks for; UserError for a folder or run that does not fit."""
    if request.resume is None:
        config = request.config()
        return Plan(config, new_folder(config), preset=request.preset)
    given = request.given
    root = Path(given.get("runs_dir", TrainConfig.runs_dir))
    if request.resume == "latest":
        if given.get("log_name") is None:
            raise UserError(
                "--resume needs --log_name NAME of the run, or the PATH of a checkpoint or run folder"
            )
        source = root / given["log_name"]
    else:
        source = existing(request.resume)
    run, old, base = saved_run(source)
    return resumed(source, run, old, request.config(base), given, request.preset)


def continued(config: TrainConfig, resume: str | Path) -> Plan:
    """A run or checkpoint taken up with its own settings but for those asked for now."""
    source = existing(resume)
    run, old, base = saved_run(source)
    return resumed(source, run, old, settled(TrainConfig(**layered(base, config.asked))), config.asked)


def resumed(
    source: Path,
    run: Path,
    old: dict,
    config: TrainConfig,
    given: Mapping[str, Any],
    preset: str | None = None,
) -> Plan:
    """The plan to go on from `source` in its own folder, or in another one that was named; UserError."""
    config = as_first_asked(config, old)
    refuse_differences(run, old, config)
    root = Path(given.get("runs_dir", TrainConfig.runs_dir))
    folder = root / given["log_name"] if given.get("log_name") is not None else run
    if first_process() and folder.resolve() != run.resolve() and is_occupied(folder):
        raise UserError(f"{folder} is not empty: a run that starts from {source} needs a new --log_name")
    return Plan(config, folder, source, preset)


def existing(path: str | Path) -> Path:
    """The absolute path of a run or checkpoint; UserError where nothing stands."""
    source = Path(path).resolve()
    if not source.exists():
        raise UserError(f"--resume {source}: there is nothing")
    return source


def saved_run(source: Path) -> tuple[Path, dict, dict]:
    """(run folder, its saved settings, those to start from) of a run or of one of its checkpoints."""
    run = source.parent.parent if source.is_file() else source
    saved = run / "config.json"
    if not saved.is_file():
        raise UserError(f"--resume: {run} holds no run (no config.json); leave --resume out to start one")
    try:
        old = read_saved(saved)
        if is_file_name(old["model"]) and (run / MODEL_FILE).is_file():
            # the networks are those of the training, wherever the file was and whatever became of it
            old["model"] = str(run / MODEL_FILE)
        return run, old, base_of(old)
    except UserError:
        raise
    except (ValueError, AttributeError, KeyError, TypeError):
        raise UserError(f"--resume: {saved} is damaged") from None


def refuse_differences(run: Path, old: dict, config: TrainConfig) -> None:
    """UserError for settings that would make it another run; a notice for learning rates."""
    if is_file_name(config.model) and is_file_name(old["model"]):
        now, before = (Path(name).expanduser() for name in (config.model, old["model"]))
        if before.is_file() and file_sha256(now) == file_sha256(before):
            old = old | {"model": config.model}
    refused, noticed = resume_differences(old, as_dict(config))
    if refused:
        raise UserError(
            f"--resume {run}: another run's settings ({'; '.join(refused)}); use a new --log_name"
        )
    for line in noticed:
        tell(f"note: changed at resume: {line}")


def new_folder(config: TrainConfig) -> Path | None:
    """The folder of a new run; a named one must be empty unless --overwrite, an unnamed one is found later.

    The first process looks for all: a late one would meet what the first has written by then.
    """
    if config.log_name is None:
        return None
    folder = Path(config.runs_dir) / config.log_name
    if not first_process():
        return folder
    if is_occupied(folder) and not config.overwrite:
        raise UserError(
            f"{folder} is not empty: --resume goes on with it, --overwrite deletes it, or choose a new --log_name"
        )
    if is_occupied(folder) and not is_run(folder):
        raise UserError(f"--overwrite: {folder} is no run and is left alone; choose another --log_name")
    return folder


def is_occupied(folder: Path) -> bool:
    """Whether something stands there already: a file, a link, or a folder that is not empty."""
    return folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir()))


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: nothing else may be deleted."""
    try:
        saved = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return (
        not folder.is_symlink() and isinstance(saved, dict) and {"method", "model", "n_steps"} <= saved.keys()
    )


@contextmanager
def claimed_folder(plan: Plan, data: str) -> Iterator[Path]:
    """The named folder, or the next free runs/data-model-method-NNN, made by the main process in that moment, so that
    runs that start together take different ones; one that was made and stays empty is removed when the run is refused.
    """
    if plan.folder is not None:
        yield plan.folder
        return
    config = plan.config
    stem = f"{data}-{Path(config.model).stem}-{config.method}"
    folder = Path(from_main(lambda: str(make_next(Path(config.runs_dir), stem))))
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


def make_next(root: Path, stem: str) -> Path:
    """Make root/stem-NNN with the first number that nothing has; UserError where nothing can be made."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        for i in itertools.count(1):
            folder = root / f"{stem}-{i:03d}"
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise unwritable(root, error) from None
    raise AssertionError("numbers never end")


def unwritable(folder: Path, error: OSError) -> UserError:
    """What cannot be written, and the flag that names another place."""
    return UserError(f"cannot write to {folder}: {error.strerror or error}; --runs_dir says where runs stand")


def prepare_folder(config: TrainConfig, folder: Path, resumed: bool) -> None:
    """Make the run folder, write config.json, and keep a copy of the user's file that the networks are from.

    By the main process; what fails there fails on all.
    """

    def write() -> None:
        is_file = is_file_name(config.model)
        source = (
            Path(config.model).expanduser().read_bytes() if is_file else b""
        )  # it may stand in the folder itself
        if not resumed and config.overwrite and is_occupied(folder):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if is_file and not (resumed and (folder / MODEL_FILE).exists()):
            (folder / MODEL_FILE).write_bytes(source)
        (folder / "config.json").write_text(json.dumps(as_dict(config), indent=2) + "\n")

    try:
        from_main(write)
    except OSError as error:
        raise unwritable(folder, error) from None
