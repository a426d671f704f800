"""The Inception network of the published FID, KID and Inception Score, as torch-fidelity reads images with it.

Weights: 2015-12-05, converted from TensorFlow's by torch-fidelity's authors, Apache-2.0. They are verified by their
sha256 and read with weights_only=True, before torch-fidelity's own loader, which would run what a file tells it to,
sees a copy of the tensors.
"""

import http.client
import io
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import disk
from errors import UserError
from metrics.features import EXTRACTORS, Extractor
from metrics.fidelity import library
from metrics.score import PLAIN
from pretrained.lite0 import NAME as LITE0
from pretrained.weights import BLOCK, foreign, named_for, read_state, sha256_of

NAME = PLAIN
FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
N_BYTES = 95_628_359
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
TIMEOUT = 30.0  # seconds without an answer
N_IMAGES = 64  # at a time: at 299 px the first layers hold 17 MB an image


class InceptionReader(nn.Module):
    """torch-fidelity's "inception-v3-compat" as an extractor: 2048 features, 1008 logits without bias."""

    resize = "torch-fidelity: bilinear as in TensorFlow 1 to 299 x 299, grey repeated to 3 channels"

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        network = library("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
        copy = io.BytesIO()
        torch.save(state, copy)
        copy.seek(0)
        # The weights that its layers draw before they load these must not move torch's global generator.
        with torch.random.fork_rng(devices=[]):
            self.network = network("inception-v3-compat", ["2048", "logits_unbiased"], copy)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, 1 or 3, H, W) -> features (N, 2048), logits (N, 1008)."""
        colour = images.expand(-1, 3, -1, -1)
        features, logits = zip(*map(self.network, colour.split(N_IMAGES)), strict=True)
        return torch.cat(features), torch.cat(logits)


def hub_folder() -> Path:
    """Where torch.hub, and torch-fidelity with it, keeps what it downloads."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _blocks(tick: Callable[[int], object]) -> Iterator[bytes]:
    """The bytes of the published file as they arrive."""
    with urllib.request.urlopen(URL, timeout=TIMEOUT) as answer:
        while block := answer.read(BLOCK):
            tick(len(block))
            yield block


def download(folder: Path, tick: Callable[[int], object]) -> Path:
    """Fetch the published weights into a folder, where they appear only once verified; tick(bytes) on the way.

    ValueError that says what to do by hand: no network, no space, other bytes than the published.
    """
    file = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        disk.remove_stale(folder)
        with disk.replacing(file) as temporary:
            with temporary.open("wb") as opened:
                opened.writelines(_blocks(tick))
            if (found := sha256_of(temporary)) != SHA256:
                raise ValueError(f"{URL} gave other bytes: sha256 {found}")
    except (OSError, http.client.HTTPException, ValueError) as error:  # no network is an OSError
        at_hand = (LITE0, *(name for name, row in EXTRACTORS.items() if row.shipped is not None))
        raise UserError(
            f"no Inception weights and no way to get them ({' '.join(str(error).split())}): download {URL} "
            f"({N_BYTES:,} bytes, sha256 {SHA256}) and put it into {folder} as {FILE}, or name it with "
            f"--metric_weights; or choose a network that is here with --extractor: {', '.join(at_hand)}"
        ) from None
    return file


def find_inception(folders: Sequence[Path]) -> Path | None:
    """The published weights in the first of these folders, or in torch.hub's, that has them."""
    files = [folder / FILE for folder in (*folders, hub_folder())]
    return next((file for file in files if file.is_file()), None)


def load_inception(file: Path, *, trusted: bool, device: str | torch.device = "cpu") -> Extractor:
    """The network with the weights of `file`, in eval mode; its checksum is that of the file.

    trusted: the user named this very file, so that other weights of the same shapes are theirs to use; the extractor
    is then named for them, `inception:3f2a1b9c`. ValueError: no such file, other shapes, or, where the file was only
    found, other bytes than the published.
    """
    found = sha256_of(file)
    if found != SHA256 and not trusted:
        raise ValueError(
            f"{file} is not the published file: sha256 {found}, {file.stat().st_size:,} bytes, not {SHA256}, "
            f"{N_BYTES:,} bytes; delete it to have it downloaded again"
        )
    try:
        module = InceptionReader(read_state(file, NAME, found == SHA256))
    except RuntimeError as error:  # load_state_dict: names or shapes
        raise foreign(file, NAME, " ".join(str(error).split())[:300]) from None
    return Extractor(
        named_for(NAME, found, SHA256), module.requires_grad_(False).eval().to(device), found, {}
    )
