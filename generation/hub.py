"""Generators that were shared: hf:user/name of the Hugging Face Hub, hf:user/name@revision for one state of it.

Only configuration and weights are fetched, never code: a generator whose networks are of a user's own file needs that
file from its author, see load_generator's model_file.
"""

import functools
import glob
import os
import re
from pathlib import Path
from typing import Any

from disk import read_json
from errors import UserError, shown
from generation.schema import read_generator_config

PREFIX = "hf:"
CONFIG = "config.json"
REPOSITORY = r"\w[\w.-]{0,95}/\w[\w.-]{0,95}"
_NAME = re.compile(rf"hf:(?P<repository>{REPOSITORY})(?:@(?P<revision>[\w./-]{{1,255}}))?", re.ASCII)


def is_hub_name(path: str | os.PathLike[str]) -> bool:
    """Whether hf:... is meant."""
    return isinstance(path, str) and path.startswith(PREFIX)


def hub() -> Any:
    """The package huggingface_hub; UserError where it is missing."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("hf: needs huggingface_hub: pip install huggingface_hub") from None
    return huggingface_hub


@functools.cache
def downloaded(name: str) -> Path:
    """The folder of hf:user/name in the user's cache, fetched or, without network, as it was fetched before. UserError
    in one line for a name that is none, that is not there or not to be had."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise UserError(f"{shown(name, 100)}: give hf:user/name, or hf:user/name@revision")
    folder = _fetched(found, [CONFIG])
    try:
        weights = read_generator_config(read_json(folder / CONFIG, dict[str, Any]))["weights"]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name} holds no generator of this toolkit: {shown(str(reason), 200)}") from None
    return _fetched(found, [CONFIG, *(f"{glob.escape(each)}.safetensors" for each in weights)])


def _fetched(name: re.Match[str], patterns: list[str]) -> Path:
    """The folder of a repository with these files of it, and no others: it may hold a hundred gigabytes."""
    library = hub()
    try:
        return Path(
            library.snapshot_download(name["repository"], revision=name["revision"], allow_patterns=patterns)
        )
    except Exception as error:  # of the package, of whichever client it uses, of the disk
        raise UserError(f"{name[0]} {reason_of(error, name[0])}") from None


def reason_of(error: Exception, name: str) -> str:
    """What went wrong with a repository of the hub, in one line."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return "is for those alone whom its author lets in: ask there, then hf auth login"
    if "RevisionNotFoundError" in kinds:
        return "has no such revision"
    if "RepositoryNotFoundError" in kinds:
        return "is not there, or private: check the name, or hf auth login"
    if kinds & {"LocalTokenNotFoundError"}:
        return "needs you to be logged in: hf auth login"
    if kinds & {
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
        "ConnectionError",
        "ConnectError",
        "Timeout",
    }:
        return "cannot be reached: is there a network?"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 409:
        return "is taken: choose another name, or give --overwrite to replace yours"
    if status in (401, 403):
        return "is not yours to write to, or you are not logged in: hf auth login"
    return f"failed: {shown(' '.join(str(error).split()) or type(error).__name__, 200)}"
