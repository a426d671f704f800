"""Random draws as a function of the seed and of what they are for, so that resume is arithmetic."""

from hashlib import blake2b

import torch


def key(seed: int, *parts: int | str) -> int:
    """64-bit key of (seed, *parts), equal on every machine and in every process."""
    digest = blake2b(repr((seed, *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def generator(seed: int, *parts: int | str) -> torch.Generator:
    """A fresh CPU generator for (seed, *parts).

    Draws are made on the CPU and copied over, so that they do not depend on the GPU. torch's CPU generator
    keeps 32 bits of its seed: two purposes of one run share a stream with odds of 1 in 4e9.
    """
    return torch.Generator().manual_seed(key(seed, *parts))
