"""The networks that read images, by name: where their weights are found, how they are loaded, and which is usual."""

from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import torch
from tqdm import tqdm

from errors import UserError, tell
from images.cache import cache_dirs, cache_folder
from metrics.dinov2 import DINOV2, load_dinov2
from metrics.features import EXTRACTORS, Extractor, checksum, load_extractor, shipped_file, weights_file
from metrics.inception import N_BYTES, download, find_inception, load_inception
from metrics.inception import NAME as INCEPTION
from metrics.lite0 import load_lite0
from ops.distributed import agree, from_main, process
from pretrained.lite0 import NAME as LITE0
from tensorfile import read_safetensors


def _found_inception(cache_dir: str | None) -> Path | None:
    return find_inception([weights_file(folder, INCEPTION).parent for folder in cache_dirs(cache_dir)])


def _open_inception(given: Path | None, cache_dir: str | None, device: str | torch.device) -> Extractor:
    def find() -> Path:
        if (found := _found_inception(cache_dir)) is not None:
            return found
        with tqdm(desc=INCEPTION, total=N_BYTES, unit="B", unit_scale=True, leave=False, disable=None) as bar:
            return download(weights_file(cache_folder(cache_dir), INCEPTION).parent, bar.update)

    file = from_main(find) if given is None else given
    return agree(lambda: load_inception(file, trusted=given is not None, device=device))


def _open_lite0(given: Path | None, cache_dir: str | None, device: str | torch.device) -> Extractor:
    return agree(lambda: load_lite0(given, device))


def _open_dinov2(
    name: str, given: Path | None, cache_dir: str | None, device: str | torch.device
) -> Extractor:
    return agree(lambda: load_dinov2(name, given, device))


def _open_classifier(
    name: str, given: Path | None, cache_dir: str | None, device: str | torch.device
) -> Extractor:
    own = [weights_file(folder, name) for folder in cache_dirs(cache_dir)]
    if given is None and (shipped := shipped_file(name)) is not None:
        if process() == 0:
            _say_unread(name, tuple(own))
        return agree(lambda: _load_shipped(name, shipped, device))
    files = own if given is None else [given]
    file = next((file for file in files if file.is_file()), files[0])
    return agree(lambda: load_extractor(name, file, device))


def _load_shipped(name: str, file: Path, device: str | torch.device) -> Extractor:
    extractor = None
    with suppress(ValueError):
        extractor = load_extractor(name, file, device)
    if extractor is None or extractor.name != name:
        fault = "is not as it was shipped" if file.is_file() else "is missing"
        raise UserError(
            f"{file} {fault}, which is part of the toolkit: get the checkout again, or give --metric_weights FILE"
        )
    return extractor


@cache
def _say_unread(name: str, files: tuple[Path, ...]) -> None:
    """Once a command: which file of weights is passed over that was read before any were shipped."""
    for file in files:
        if not file.is_file():
            continue
        found = None
        with suppress(ValueError):
            found = checksum(read_safetensors(file)[0])
        if found != EXTRACTORS[name].shipped:
            tell(
                f"note: {file} is not read any more, {name} is shipped: --metric_weights {file} reads with it"
            )


# Name -> (the file that the user gave or None, cache folder, device) -> the loaded network.
OPENERS: dict[str, Callable[[Path | None, str | None, str | torch.device], Extractor]] = {
    INCEPTION: _open_inception,
    LITE0: _open_lite0,
    **{name: partial(_open_classifier, name) for name in EXTRACTORS},
    **{name: partial(_open_dinov2, name) for name in DINOV2},
}


def usual_extractor(
    dataset: str | None, weights: str | Path | None = None, cache_dir: str | None = None
) -> str:
    """The name of the network that reads where none was asked for; what is chosen in Inception's place is said.

    Inception where its weights are on this machine, or named by `weights`; else the reader shipped for that data set
    (None: images of any other kind), else Lite0. All processes of a group call it together.
    """
    if weights is not None or from_main(lambda: _found_inception(cache_dir) is not None):
        return INCEPTION
    shipped = {row.dataset: name for name, row in EXTRACTORS.items() if row.shipped is not None}
    name = LITE0 if dataset is None else shipped.get(dataset, LITE0)
    tell(
        f"note: images are read by {name}, since the weights of {INCEPTION} are not on this machine; --extractor "
        f"{INCEPTION} downloads them ({N_BYTES / 1e6:.0f} MB), --extractor {name} chooses without this note"
    )
    return name


def open_extractor(
    name: str | None,
    weights: Path | None = None,
    cache_dir: str | None = None,
    device: str | torch.device = "cpu",
    *,
    dataset: str | None = None,
) -> Extractor:
    """The network of that name on a device, None for the usual one of that data set.

    weights: its file, None to look where it is shipped, in the cache folder and, once, to fetch it. All processes of a
    group call it together. ValueError: an unknown name, or weights that cannot be had.
    """
    if name is None:
        name = usual_extractor(dataset, weights, cache_dir)
    if name not in OPENERS:
        raise UserError(f"--extractor {name}: choose one of {', '.join(OPENERS)}")
    extractor = OPENERS[name](weights, cache_dir, device)
    if extractor.name != name:
        tell(
            f"warning: {weights} does not hold the published weights of {name} (its checksum is {extractor.checksum}): "
            f"its scores are named [{extractor.name}] and cannot be compared with those of others"
        )
    return extractor
