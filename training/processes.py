"""What one process does with the others that were launched with it: nothing where there are none."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from errors import UserError, say_refused
from ops.launched import launched, world_size
from training.device import PATIENCE
from training.peers import Failure, Peers

T = TypeVar("T")

TELL = 10.0  # seconds in which others can come to hear that the main process has refused


class Alone:
    """In place of Peers where there are none."""

    @staticmethod
    def turns() -> AbstractContextManager[None]:
        """What one process does alone."""
        return nullcontext()

    @staticmethod
    def from_main(action: Callable[[], T]) -> T:
        """What the only process finds."""
        return action()


_peers: Peers | None = None  # processes that have met stay together


def peers() -> Peers | Alone:
    """The processes that were launched with this one, once all are here; UserError."""
    global _peers
    mine = launched()
    if mine is None:
        return Alone()
    if _peers is None:
        met = Peers(mine)
        met.meet()
        _peers = met
    return _peers


def asked_by_main(ask: Callable[[], T]) -> T | None:
    """What ask() makes of the command line; on processes that were launched beside the main one None for a mistake.

    The main one, whose command line counts, says what is wrong, and waits a moment for the others to hear of it.
    """
    mine = launched()
    try:
        return ask()
    except UserError as error:
        if mine is None:
            raise
        if mine.rank != 0:
            return None
        say_refused(error)
        telling = Peers(mine)
        telling.first = Failure(0, 2, None, None)
        telling.meet(TELL)
        raise SystemExit(2) from None


def join_group(device: str) -> str:
    """Make the process group of the launched processes, or find it made; the kind of device that this one has in it.

    device: cuda, mps or cpu. UserError where they do not find together.
    """
    from accelerate import PartialState  # where it is needed: it takes a second to import

    n = world_size()
    try:
        # cpu=True must be said: without it torchrun's processes never meet
        state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        if n == 1:
            raise
        raise UserError(f"the processes do not find together: {str(error).splitlines()[0]}") from None
    if n != state.num_processes:
        raise UserError(
            f"{n} processes were launched but only {state.num_processes} joined; use "
            f"torchrun --standalone --nproc_per_node {n}"
        )
    return state.device.type


def leave_group() -> None:
    """End the process group, where there is one; after a failure nobody answers on a GPU, and the end of the process
    ends it."""
    from accelerate import PartialState
    from torch import distributed

    failed = _peers is not None and _peers.first is not None
    if PartialState._shared_state and not (
        failed and distributed.is_initialized() and distributed.get_backend() == "nccl"
    ):
        PartialState().destroy_process_group()
