"""What is to be trained and where: a new run, or one that is gone on with; whether its folder may be written."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import disk
from errors import UserError, tell
from generation.checkpoint import CheckpointError, CheckpointStore, load_checkpoint
from generation.generator import MODEL_FILE, file_sha256
from modelling import is_file_name
from settings import TrainConfig, as_dict, settled
from settings.command_line import AUTO, LATEST, Request
from settings.files import base_of, read_saved
from settings.resume import as_first_asked, less_same_auto, resume_differences
from settings.values import layered

NEEDED = {"method", "model", "n_steps"}  # by which config.json is known as a run's


@dataclass(frozen=True)
class Plan:
    """What is to be trained: settings, run folder (None: the next free one), checkpoint or run to start from, and the
    name of the preset that was asked for; anew: what a run has left there that cannot be gone on with may go. Made by
    the main process alone, for all: the files need only be there."""

    config: TrainConfig
    folder: Path | None = None
    source: Path | None = None
    preset: str | None = None
    anew: bool = False

    @property
    def replaces(self) -> bool:
        """Whether a run that stands in the folder is deleted."""
        return self.source is None and (self.anew or self.config.overwrite)


def planned(request: Request) -> Plan:
    """What a command line asks for; UserError for a folder or run that does not fit."""
    source = source_of(request.resume, request.given)
    if source is None:
        return begun(request.config(), request.preset, anew=request.resume == AUTO)
    run, old, base = saved_run(source)
    config = replace(request, flags=less_same_auto(request.flags, old)).config(base)
    return resumed(source, run, old, config, request.given, request.preset)


def plan_of(config: TrainConfig, resume: str | Path | None) -> Plan:
    """What Python asks for: a new run, or one taken up with its own settings but for those asked for now."""
    source = source_of(resume, config.asked)
    if source is None:
        return begun(settled(config), anew=resume == AUTO)
    run, old, base = saved_run(source)
    anew = settled(TrainConfig(**layered(base, less_same_auto(config.asked, old))))
    return resumed(source, run, old, anew, config.asked)


def source_of(resume: str | Path | None, given: Mapping[str, Any]) -> Path | None:
    """The run or checkpoint to go on from, None to start anew; given: settings. UserError."""
    if resume is None:
        return None
    if resume not in (LATEST, AUTO):
        return existing(resume)
    if given.get("log_name") is None:
        what = "--resume auto" if resume == AUTO else "--resume"
        raise UserError(f"{what} needs --log_name NAME of the run, or the PATH of a checkpoint or run folder")
    folder = Path(given.get("runs_dir", TrainConfig.runs_dir)) / given["log_name"]
    if resume == AUTO and given.get("overwrite"):
        raise UserError("--overwrite starts anew each time: leave it out with --resume auto")
    resumable = resume == LATEST or CheckpointStore(folder / "checkpoints").newest_whole() is not None
    return folder if resumable else None


def begun(config: TrainConfig, preset: str | None = None, *, anew: bool) -> Plan:
    """The plan of a new run; a named folder must be empty, or hold a run that may go. UserError."""
    folder = None if config.log_name is None else Path(config.runs_dir) / config.log_name
    plan = Plan(config, folder, preset=preset, anew=anew)
    refuse_occupied(plan)
    return plan


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
    plan = Plan(config, folder, source, preset)
    refuse_occupied(plan)
    return plan


def existing(path: str | Path) -> Path:
    """The absolute path of a run or checkpoint; UserError where nothing stands."""
    source = Path(path).resolve()
    if not source.exists():
        raise UserError(f"--resume {source}: there is nothing")
    if source.is_dir() and not is_run(source) and is_run(source.parent):
        raise UserError(
            f"--resume {source}: a folder inside of a run; --resume {source.parent} goes on with it"
        )
    return source


def run_of(source: Path) -> Path:
    """The folder of a run, or of the run that a checkpoint is of."""
    return source.parent.parent if source.is_file() else source


def saved_run(source: Path) -> tuple[Path, dict, dict]:
    """(run folder, its saved settings, those to start from) of a run or of one of its checkpoints."""
    run = run_of(source)
    try:
        old = saved_settings(run / "config.json", source)
        if is_file_name(old["model"]) and (run / MODEL_FILE).is_file():
            # the networks are those of the training, wherever the file was and whatever became of it
            old["model"] = str(run / MODEL_FILE)
        return run, old, base_of(old)
    except UserError:
        raise
    except (ValueError, AttributeError, KeyError, TypeError):
        raise UserError(f"--resume: {run / 'config.json'} is damaged") from None


def saved_settings(file: Path, source: Path) -> dict:
    """What config.json says, or where it is gone or damaged, what the newest good checkpoint does; UserError."""
    try:
        return written_settings(file)
    except disk.Unreadable as error:
        reason = error
    store = CheckpointStore(run_of(source) / "checkpoints")
    checkpoint = source if source.is_file() else store.newest_whole()
    try:
        settings = load_checkpoint(checkpoint)["config"] if checkpoint is not None else None
    except CheckpointError:
        settings = None
    if isinstance(settings, dict):
        tell(f"warning: {reason.for_command_line}; settings are those of {checkpoint}")
        return settings
    if not file.is_file():
        raise UserError(
            f"--resume: {file.parent} holds no run (no config.json); leave --resume out to start one"
        )
    raise UserError(
        f"--resume: {reason.for_command_line}, and no checkpoint has the settings; give a new --log_name"
    )


def written_settings(file: Path) -> dict:
    """The settings in a run's config.json; Unreadable."""
    settings = read_saved(file)
    if missing := NEEDED - settings.keys():
        raise disk.Unreadable(f"{file} is damaged: it does not say {', '.join(sorted(missing))}")
    return settings


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


def refuse_occupied(plan: Plan) -> None:
    """UserError where something stands in the plan's folder that it neither goes on with nor may delete."""
    folder = plan.folder
    if folder is None or not is_occupied(folder):
        return
    if plan.source is not None:
        if folder.resolve() != run_of(plan.source).resolve():
            raise UserError(
                f"{folder} is not empty: a run that starts from {plan.source} needs a new --log_name"
            )
    elif not plan.replaces:
        disk.refuse_owned(folder)
        raise UserError(
            f"{folder} is not empty: --resume goes on with it, --overwrite deletes it, or choose a new --log_name"
        )
    elif not is_run(folder):
        what = "--resume auto" if plan.anew else "--overwrite"
        if folder.is_symlink():
            raise UserError(
                f"{what}: {folder} is a link, behind which nothing is deleted: empty what it leads to"
            )
        raise UserError(f"{what}: {folder} is no run and is left alone; choose another --log_name")


def is_occupied(folder: Path) -> bool:
    """Whether something stands there already: a file, a dangling link, or a folder with more than what owning one
    leaves; a link to a folder is that folder."""
    try:  # looked at once: another process may make it at this moment
        return any(file.name != disk.LOCK and not disk.is_temporary(file.name) for file in folder.iterdir())
    except FileNotFoundError:
        return folder.is_symlink()
    except NotADirectoryError:
        return True


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, by its settings or a checkpoint: nothing else may be deleted."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        written_settings(folder / "config.json")
    except disk.Unreadable:
        return CheckpointStore(folder / "checkpoints").newest_whole() is not None
    return True
