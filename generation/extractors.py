"""The networks that read images, by name: where their weights are found, and how they are loaded."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from errors import UserError, tell
from images.cache import cache_dirs, cache_folder
from metrics.features import EXTRACTORS, Extractor, load_extractor, weights_file
from metrics.inception import N_BYTES, NAME, SHA256, download, find_inception, load_inception
from ops.distributed import agree, from_main


def _open_inception(given: Path | None, cache_dir: str | None, device: str | torch.device) -> Extractor:
    def find() -> Path:
        folders = [weights_file(folder, NAME).parent for folder in cache_dirs(cache_dir)]
        if (found := find_inception(folders)) is not None:
            return found
        with tqdm(desc=NAME, total=N_BYTES, unit="B", unit_scale=True, leave=False, disable=None) as bar:
            return download(weights_file(cache_folder(cache_dir), NAME).parent, bar.update)

    file = from_main(find) if given is None else given
    extractor = agree(lambda: load_inception(file, trusted=given is not None, device=device))
    if extractor.name != NAME:
        tell(
            f"warning: {file} is not the published network (sha256 {extractor.checksum}, that one has {SHA256}): "
            f"its scores are named [{extractor.name}] and cannot be compared with published ones"
        )
    return extractor


def _open_classifier(
    name: str, given: Path | None, cache_dir: str | None, device: str | torch.device
) -> Extractor:
    files = [weights_file(folder, name) for folder in cache_dirs(cache_dir)] if given is None else [given]
    file = next((file for file in files if file.is_file()), files[0])
    return agree(lambda: load_extractor(name, file, device))


# Name -> (the file that the user gave or None, cache folder, device) -> the loaded network.
OPENERS: dict[str, Callable[[Path | None, str | None, str | torch.device], Extractor]] = {
    NAME: _open_inception,
    **{name: partial(_open_classifier, name) for name in EXTRACTORS},
}


def open_extractor(
    name: str, weights: Path | None = None, cache_dir: str | None = None, device: str | torch.device = "cpu"
) -> Extractor:
    """The network of that name on a device; weights: its file, None to look in the cache folder and, once, to fetch it.

    All processes of a group call it together. ValueError: an unknown name, or weights that cannot be had.
    """
    if name not in OPENERS:
        raise UserError(f"--extractor {name}: choose one of {', '.join(OPENERS)}")
    return OPENERS[name](weights, cache_dir, device)
