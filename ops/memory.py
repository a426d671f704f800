"""How much memory a device has, and numbers of bytes for people."""

import os

import torch


def memory_of(device: str) -> int | None:
    """Bytes of memory of "cpu", "cuda" or, for "auto", of the GPU where there is one; None where that is not known."""
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no such call
        return None


def size_in_words(n_bytes: float) -> str:
    """0.3 MB, 52.1 MB, 3.4 GB, 1,200.0 TB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes / 1e6:.1f} MB"
