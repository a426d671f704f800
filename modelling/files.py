"""A model from a user's own file: `--model path/to/file.py`."""

import hashlib
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

import disk
from errors import UserError, shown
from modelling.contract import at_line, code_file, short_path
from modelling.model import Model

NEEDED = {"Generator": ("img_size", "img_channels", "z_dim"), "Discriminator": ("img_size", "img_channels")}
MAX_SOURCE = 16 * 2**20  # bytes
_LOADED: dict[str, tuple[str, Model]] = {}  # by path: a hash of the contents, and what they hold


def is_file_name(model: str) -> bool:
    """Whether a model's name is the path of a file."""
    return str(model).endswith(".py")


def model_title(model: str) -> str:
    """How messages call a model: by the name of its row, or of its file."""
    return Path(model).name if is_file_name(model) else model


def load_model_file(path: str | Path) -> Model:
    """The model of a Python file: its classes `Generator` and `Discriminator`, or its `MODEL`, a `Model` of its own.

    The file runs, once for the same contents, as a module of its own name, so that none is replaced; it can import what
    is installed and what this project has, but not its neighbours. UserError with file and line for whatever is wrong.
    """
    file = Path(path).expanduser()
    try:
        source = disk.read_bytes(file, MAX_SOURCE)
    except disk.Unreadable as error:
        reason = "it" + error.for_command_line.removeprefix(shown(str(file)))
        if not os.path.lexists(file):
            reason = "there is no such file"
        raise UserError(f"--model {path}: {reason}") from None
    where = str(file.resolve())
    digest = hashlib.sha256(where.encode() + b"\0" + source).hexdigest()
    if where in _LOADED and _LOADED[where][0] == digest:
        return _LOADED[where][1]
    model = _model_of(_run(where, source, f"model_{digest[:16]}_{file.stem}"), where)
    _LOADED[where] = digest, model
    return model


def _run(file: str, source: bytes, name: str) -> ModuleType:
    """The module that a file's contents make, under a name that no other has."""
    try:
        code = compile(source, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if getattr(error, "lineno", None) else ""
        raise UserError(f"--model {short_path(file)}{line}: {getattr(error, 'msg', error)}") from None
    module = ModuleType(name)
    module.__file__ = file
    sys.modules[name] = module  # dataclasses and pickle look a class's module up
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        place = at_line(error, {file}).removeprefix(" at ") or short_path(file)
        raise UserError(f"--model {place}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _model_of(module: ModuleType, file: str) -> Model:
    """MODEL of the module, or its two classes; UserError for what is missing or of another kind."""
    model = getattr(module, "MODEL", None)
    if model is None:
        missing = [name for name in NEEDED if not hasattr(module, name)]
        if missing:
            raise UserError(f"--model {short_path(file)}: it has no class {' and no class '.join(missing)}")
        model = Model(module.Generator, module.Discriminator)
    elif not isinstance(model, Model):
        raise UserError(
            f"--model {short_path(file)}: MODEL is a {type(model).__name__}, not a modelling.Model(...)"
        )
    for name, keywords in NEEDED.items():
        _check_class(name, getattr(model, name), keywords, file)
    return model


def _check_class(name: str, network: object, keywords: tuple[str, ...], file: str) -> None:
    """UserError unless it is a class of networks whose constructor takes the keywords."""
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        kind = f"a {type(network).__name__}" if not isinstance(network, type) else "no torch.nn.Module"
        raise UserError(
            f"--model {short_path(file)}: {name} is {kind}; it must be a class derived from torch.nn.Module"
        )
    parameters = inspect.signature(network).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    taken = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    if missing := [keyword for keyword in keywords if keyword not in taken]:
        line = f":{network.__init__.__code__.co_firstlineno}" if code_file(network.__init__) == file else ""
        raise UserError(f"--model {short_path(file)}{line}: {name}(...) does not take {', '.join(missing)}")
