"""Files of weights that others have published: told by their checksum, read without trust, loaded by name."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from disk import Unreadable
from errors import UserError
from tensorfile import faults_of, in_one_line, read_torch

BLOCK = 1 << 20  # bytes


def sha256_of(file: Path) -> str:
    """sha256 of the bytes of a file that --metric_weights names; ValueError for one that cannot be read."""
    if not file.is_file():
        raise UserError(f"--metric_weights {file}: there is no such file")
    digest = hashlib.sha256()
    try:
        with file.open("rb") as opened:
            while block := opened.read(BLOCK):
                digest.update(block)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def named_for(name: str, found: str, published: str | None) -> str:
    """An extractor's name by the checksum of its weights: plain for the published ones, `lite0:3f2a1b9c` for others.

    published: None for a network of which none are published: always plain.
    """
    return name if published in (found, None) else f"{name}:{found[:8]}"


def read_state(file: Path, name: str, published: bool = False) -> dict[str, Tensor]:
    """Tensors by name from a .pth file that is not trusted; ValueError, which names the network, for anything else.

    published: it is the published file byte for byte, in whatever form of torch's that may be.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True) if published else read_torch(file)
    except Unreadable as error:
        raise foreign(file, name, error.for_command_line) from None
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and torch.is_tensor(v) for k, v in state.items()
    ):
        raise foreign(file, name, "it is no dict of tensors")
    if faults := in_one_line(faults_of(state, state)):
        raise foreign(file, name, faults)
    return state


def built(build: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    """The network that build() makes, with these weights; ValueError that says which names or shapes differ."""
    # On the meta device nothing is drawn: loading leaves torch's global generator alone.
    with torch.device("meta"):
        network = build()
    if faults := in_one_line(faults_of(state, network.state_dict())):
        raise ValueError(faults)
    network.load_state_dict(state, assign=True)
    return network


def filled(build: Callable[[], nn.Module], state: dict[str, Tensor], file: Path, name: str) -> nn.Module:
    """The same; ValueError that names the network and the file of its weights."""
    try:
        return built(build, state)
    except ValueError as error:
        raise foreign(file, name, str(error)) from None


def foreign(file: Path, name: str, reason: str) -> ValueError:
    """What is raised for a file of something else."""
    return ValueError(f"{file} does not hold the weights of {name}: {reason}")
