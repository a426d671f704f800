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


def read_images(
    extractor: Extractor, images: IndexedImages, what: str, interrupted: Callable[[], bool]
) -> tuple[Tensor, Tensor] | None:
    """Features (n, d) and logits (n, K) in the order of the images on the main process, where scores are computed; None
    on the others.

    Chunk c is computed whole by process c % W, so that no number depends on W. Failures are those of all processes;
    Interrupted once interrupted() says so.
    """
    world = n_processes()
    starts = range(0, images.n, READ_AT_ONCE)

    def own() -> tuple[Tensor, int]:
        pairs = []
        quiet = None if process() == 0 else True  # None: where stderr is no terminal
        with tqdm(total=images.n, desc=what, unit="img", leave=False, disable=quiet) as bar:
            for start in starts[process() :: world]:
                if interrupted():
                    raise Interrupted("a signal came")
                stop = min(start + READ_AT_ONCE, images.n)
                pairs.append(extract(extractor, [images.chunk(start, stop)]))
                bar.update((stop - start) * world)
        if not pairs:  # fewer chunks than processes
            return torch.empty(0), 0
        features, logits = (torch.cat(part) for part in zip(*pairs, strict=True))
        return torch.cat([features, logits], dim=1), features.shape[1]

    rows, n_features = agree(own)
    sizes = [min(READ_AT_ONCE, images.n - start) for start in starts]
    width, dtype = from_main(lambda: (rows.shape[1], rows.dtype))  # a process without a chunk knows neither
    counts = [sum(sizes[i::world]) for i in range(world)]
    parts = gather_rows(rows.reshape(len(rows), width).to(dtype), counts)
    if parts is None:
        return None
    chunks = [iter(part.split(sizes[i::world])) for i, part in enumerate(parts)]
    ordered = torch.cat([next(chunks[c % world]) for c in range(len(sizes))])
    ordered = ordered.to(scoring_device(extractor))
    return ordered[:, :n_features].contiguous(), ordered[:, n_features:].contiguous()
