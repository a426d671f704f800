"""The oldest command's --max_steps, --accelerator and --devices, which still run: a promise."""

import argparse
from collections.abc import Mapping
from typing import Any

from errors import UserError, tell
from ops.launched import world_size

ACCELERATORS = {"gpu": "cuda", "cuda": "cuda", "cpu": "cpu", "mps": "mps", "auto": "auto"}
FLAGS = ("max_steps", "devices", "accelerator")


def add_legacy_flags(parser: argparse.ArgumentParser) -> None:
    """The three flags, shown by no help."""
    for name in ("max_steps", "devices"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--accelerator", choices=tuple(ACCELERATORS), help=argparse.SUPPRESS)


def translated(
    old: Mapping[str, Any], settings: Mapping[str, Any], flags: frozenset[str], script: str
) -> dict[str, Any]:
    """What the old flags say, in today's words, with a printed notice.

    settings: those they are laid over; flags: names of today's flags that were typed; UserError.
    """
    for name, new in (("max_steps", "n_steps"), ("accelerator", "device")):
        if name in old and new in flags:
            raise UserError(f"--{name} is the old form of --{new}: give one")
    found: dict[str, Any] = {}
    if (max_steps := old.get("max_steps")) is not None:
        n = settings.get("train_g_interval", 1)
        if max_steps < 2:
            raise UserError(
                f"--max_steps {max_steps} must be at least 2; it counted the updates of both networks"
            )
        found["n_steps"] = round(max_steps * n / (n + 1))
        tell(
            f"note: --max_steps {max_steps} counted the updates of both networks: --n_steps {found['n_steps']}"
        )
    if (accelerator := old.get("accelerator")) is not None:
        found["device"] = ACCELERATORS[accelerator]
        tell(f"note: --accelerator {accelerator} is now --device {found['device']}")
    if (devices := old.get("devices")) is not None:
        launched = world_size()
        if devices != launched:
            raise UserError(
                f"--devices {devices} but {launched} process(es) were launched; start with "
                f"accelerate launch --num_processes {devices} {script}.py ..."
            )
        tell(f"note: --devices {devices} is now the launcher's --num_processes")
    return found
