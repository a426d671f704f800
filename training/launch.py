"""main(argv) of the gan_*.py scripts."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import PartialState

from errors import cli
from settings.config import parse_config
from training.folder import planned
from training.run import run_plan


def script_main(script: str, datasets: Sequence[str], defaults: dict[str, Any], doc: str | None) -> Callable:
    """main(argv) of a gan_*.py."""

    @cli
    def main(argv: Sequence[str] | None = None) -> int:
        request = parse_config(script, datasets, defaults, argv, doc)
        follow_launcher()
        try:
            run_plan(planned(request))
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
