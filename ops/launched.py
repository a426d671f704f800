"""What a launcher, or a person by hand, says in the environment of processes that belong together."""

import os
import re
from dataclasses import dataclass

from errors import of_one_process, shown

USUAL_PORT = 29500  # torch's own, where MASTER_PORT is not set


@dataclass(frozen=True)
class Launched:
    """One of several processes, and where they meet.

    rank: 0 for the main process; local_rank: its number on its host, None where nobody said; address, port: of the main
    process's host; by_agent: torchrun holds the meeting place; attempt: how often torchrun has started them anew.
    """

    rank: int
    world_size: int
    local_rank: int | None
    address: str
    port: int
    by_agent: bool
    attempt: str

    @property
    def place(self) -> str:
        """ADDR:PORT, where all meet."""
        return f"{self.address}:{self.port}"


def world_size() -> int:
    """How many processes were launched together, 1 for one alone; UserError."""
    return _number("WORLD_SIZE", 1, "1")


def launched() -> Launched | None:
    """This process among those that were launched together, None for one alone; UserError names the variable."""
    n = world_size()
    if n == 1:
        return None
    local = os.environ.get("LOCAL_RANK")
    address = os.environ.get("MASTER_ADDR")
    if address is None:
        raise of_one_process(
            f"WORLD_SIZE is {n} but MASTER_ADDR is not set: the host of rank 0, 127.0.0.1 for this one"
        )
    if not re.fullmatch(r"[\w.:%-]{1,253}", address):
        raise of_one_process(
            f"MASTER_ADDR {shown(address, 99)} must be the name or address of the host of rank 0"
        )
    rank = _number("RANK", 0)
    if rank >= n:
        raise of_one_process(f"RANK {rank} must be less than WORLD_SIZE {n}: the processes count from 0")
    port = _number("MASTER_PORT", 1, str(USUAL_PORT))
    if port > 65535:
        raise of_one_process(f"MASTER_PORT {port} must be at most 65535")
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Launched(
        rank, n, None if local is None else _number("LOCAL_RANK", 0), address, port, by_agent, attempt
    )


def _number(name: str, least: int, usual: str | None = None) -> int:
    """A whole number of the environment; usual: where it is not set."""
    text = os.environ.get(name, usual)
    if text is None:
        raise of_one_process(
            f"WORLD_SIZE is set but {name} is not: torchrun sets both, or give each process its own"
        )
    if not re.fullmatch(r"\s*\d{1,9}\s*", text, re.ASCII) or int(text) < least:
        raise of_one_process(
            f"{name} {shown(text, 99)} must be a whole number of at least {least}: launchers set it"
        )
    return int(text)
