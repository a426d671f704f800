"""Have an extractor read images, by all processes together."""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from generation.indexed import IndexedImages
from metrics.features import READ_AT_ONCE, Extractor, extract, scoring_device
from ops.distributed import agree, from_main, gather_rows, n_processes, process


class Interrupted(ValueError):
    """A score given up because the run is to stop."""


def read_rows(
    n: int, read: Callable[[int, int], Tensor], what: str, interrupted: Callable[[], bool]
) -> Tensor | None:
    """Rows (n, d) of what `read` gives of images start .. stop - 1, (stop - start, d), in the order of the images on
    the CPU of the main process, where scores are computed; None on the others.

    Chunk c is computed whole by process c % W, so that no number depends on W. Failures are those of all processes;
    Interrupted once interrupted() says so.
    """
    world = n_processes()
    starts = range(0, n, READ_AT_ONCE)

    def own() -> Tensor:
        rows = []
        quiet = None if process() == 0 else True  # None: where stderr is no terminal
        with tqdm(total=n, desc=what, unit="img", leave=False, disable=quiet) as bar:
            for start in starts[process() :: world]:
                if interrupted():
                    raise Interrupted("a signal came")
                stop = min(start + READ_AT_ONCE, n)
                rows.append(read(start, stop))
                bar.update((stop - start) * world)
        return torch.cat(rows) if rows else torch.empty(0)  # fewer chunks than processes

    rows = agree(own)
    sizes = [min(READ_AT_ONCE, n - start) for start in starts]
    width, dtype = from_main(lambda: (rows.shape[1], rows.dtype))  # a process without a chunk knows neither
    counts = [sum(sizes[i::world]) for i in range(world)]
    parts = gather_rows(rows.reshape(len(rows), width).to(dtype), counts)
    if parts is None:
        return None
    chunks = [iter(part.split(sizes[i::world])) for i, part in enumerate(parts)]
    return torch.cat([next(chunks[c % world]) for c in range(len(sizes))])


def read_images(
    extractor: Extractor, images: IndexedImages, what: str, interrupted: Callable[[], bool]
) -> tuple[Tensor, Tensor] | None:
    """Features (n, d) and logits (n, K) in the order of the images on the main process; None on the others. See
    read_rows."""
    n_features = 0

    def read(start: int, stop: int) -> Tensor:
        nonlocal n_features
        features, logits = extract(extractor, [images.chunk(start, stop)])
        n_features = features.shape[1]
        return torch.cat([features, logits], dim=1)

    rows = read_rows(images.n, read, what, interrupted)
    if rows is None:
        return None
    rows = rows.to(scoring_device(extractor))
    return rows[:, :n_features].contiguous(), rows[:, n_features:].contiguous()
