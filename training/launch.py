"""The light door of a training script: the command line is read before anything of training is imported."""

from collections.abc import Callable, Sequence
from typing import Any

from errors import Unlearned, cli, need_packages

need_packages()  # before anything that imports one

from settings.command_line import AUTO, Request, parse_config  # noqa: E402
from training.processes import asked_by_main, leave_group, peers  # noqa: E402


def script_main(script: str, datasets: Sequence[str], defaults: dict[str, Any], doc: str | None) -> Callable:
    """main(argv) of a gan_*.py; datasets: its own, the default first."""

    @cli
    def main(argv: Sequence[str] | None = None) -> int:
        def asked() -> Request:
            request = parse_config(script, datasets, defaults, argv, doc)
            if request.resume in (None, AUTO):
                request.config()  # refuse what cannot work before seconds are spent on imports
            return request

        request = asked_by_main(asked)

        from training import folder, run

        try:
            with (others := peers()).turns():
                ended = run.run_planned(lambda: others.from_main(lambda: folder.planned(request)))
        finally:
            leave_group()
        return Unlearned.exit_code if ended.unlearned else 0

    return main
