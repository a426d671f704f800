"""The light door of a training script: the command line is read before anything of training is imported."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from errors import cli, need_packages

need_packages()  # before anything that imports one

from settings.command_line import parse_config  # noqa: E402


def script_main(script: str, datasets: Sequence[str], defaults: dict[str, Any], doc: str | None) -> Callable:
    """main(argv) of a gan_*.py; datasets: its own, the default first."""

    @cli
    def main(argv: Sequence[str] | None = None) -> int:
        request = parse_config(script, datasets, defaults, argv, doc)
        if request.resume is None:
            request.config()  # refuse what cannot work before seconds are spent on imports
        follow_launcher()

        from accelerate import PartialState

        from training import folder, run

        try:
            run.run_plan(folder.planned(request))
        finally:
            if PartialState._shared_state:
                PartialState().destroy_process_group()
        return 0

    return main


def follow_launcher() -> None:
    """Die with the launcher: accelerate's dies of SIGTERM without telling the process it started."""
    launched = (
        any(name.startswith("ACCELERATE_") for name in os.environ) or "TORCHELASTIC_RUN_ID" in os.environ
    )
    if launched and sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
