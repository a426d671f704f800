"""Feature extractors: networks that read uint8 images; the weights they load are part of every score."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

import disk
from disk import decode_json
from errors import NotFinite, UserError, shown
from metrics.classifiers import ColourCNN, DigitCNN, StackedDigitCNN
from metrics.frechet import gaussian_statistics
from metrics.modes import class_shares
from pretrained.weights import built, named_for
from tensorfile import fault_of, read_safetensors

# Images go through an extractor so many at a time, so that no other setting can move a score.
READ_AT_ONCE = 256
# Part of the key of cached statistics: raise it when the same weights would read an image differently.
VERSION = 3
ASSETS = Path(__file__).resolve().parent.parent / "assets"
ROUNDING = 1e-12  # of a covariance, relative to its largest variance
MAX_FEATURES = 2**14
MAX_SIDE = 1024  # of what a classifier reads


@dataclass(frozen=True)
class ExtractorRow:
    """How an extractor is built from the metadata of its file, and the command that makes that file.

    mode_share: share of the images from which a class counts as shown, 0: from one image on; classes: names of
    its logits in order, None where the metadata has them as a JSON list; owner: the extractor whose file it
    reads, None for one of its own; dataset: whose usual reader it is; shipped: checksum of the weights that stand in
    assets/, None for an extractor that everyone trains.
    """

    build: Callable[[Mapping[str, str]], nn.Module]
    make: str
    mode_share: float = 0.01
    classes: tuple[str, ...] | None = None
    owner: str | None = None
    dataset: str | None = None
    shipped: str | None = None

    def classes_in(self, metadata: Mapping[str, str]) -> tuple[str, ...]:
        """Names of the logits in order; ValueError where metadata that should have them have not."""
        return class_names(metadata) if self.classes is None else self.classes


def class_names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The names of classes saved beside weights; ValueError if there are none."""
    if "classes" not in metadata:
        raise ValueError("its metadata names no classes")
    return tuple(decode_json(metadata["classes"], list[str], "its metadata's classes"))


def _side(metadata: Mapping[str, str]) -> int:
    """The size that a network reads, of the metadata saved beside its weights; ValueError for none."""
    side = metadata.get("img_size", "")
    if not (side.isascii() and side.isdecimal() and 1 <= len(side) <= 4 and 1 <= int(side) <= MAX_SIDE):
        raise ValueError(f"its metadata says img_size {side[:20]!r}, not 1 to {MAX_SIDE}")
    return int(side)


_DIGITS = tuple("0123456789")
# Checksums of the weights in assets/, whose README.md says how they were made.
_MNIST_SHA256 = "89b560a864c1bb3653f2b7cdec44146a1aa15aaad102810ede9d8f652bb3086a"
_DIGITS_SHA256 = "de1a3c844911c48a7e2e1f733065954ac3d0d1b24197217358028d099c28e1fb"
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

EXTRACTORS: dict[str, ExtractorRow] = {
    "mnist-cnn": ExtractorRow(
        lambda _: DigitCNN(), "python -m tools.train_classifier --dataset mnist", classes=_DIGITS,
        dataset="mnist", shipped=_MNIST_SHA256,
    ),
    "digits-cnn": ExtractorRow(
        lambda _: DigitCNN(), "python -m tools.train_classifier --dataset digits", classes=_DIGITS,
        dataset="digits", shipped=_DIGITS_SHA256,
    ),
    "stacked-mnist-cnn": ExtractorRow(
        lambda _: StackedDigitCNN(), "python -m tools.train_classifier --dataset mnist",
        mode_share=0, classes=tuple(f"{i:03d}" for i in range(1000)), owner="mnist-cnn",
        dataset="stacked-mnist", shipped=_MNIST_SHA256,
    ),
    "cifar10-cnn": ExtractorRow(
        lambda _: ColourCNN(len(_CIFAR10)), "python -m tools.train_classifier --dataset cifar10", classes=_CIFAR10
    ),
    "folder-cnn": ExtractorRow(
        lambda saved: ColourCNN(len(class_names(saved)), _side(saved)),
        "python -m tools.train_classifier --dataset folder --data PATH",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Extractor:
    """A loaded extractor: module (uint8 images -> features, logits), content checksum, what its file says.

    classes: names of its logits in order, none for logits that name nothing to look for; mode_share: a class counts
    as shown from this share of the images on, 0: from one image on; distance: what the field calls the Frechet distance
    of its features; has_logits: whether it tells classes at all, named or not.
    """

    name: str
    module: nn.Module
    checksum: str
    metadata: dict[str, str]
    classes: tuple[str, ...] = ()
    mode_share: float = 0.01
    distance: str = "fid"
    has_logits: bool = True

    @property
    def device(self) -> torch.device:
        """Where it reads."""
        return next(self.module.parameters()).device


@dataclass(frozen=True)
class Statistics:
    """What a score needs of n images: mean (d,), covariance (d, d), class shares (K,) on the CPU, in float64."""

    n: int
    mean: Tensor
    covariance: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Reading:
    """What an extractor has read in one set of images.

    features (N, d), logits (N, K): None where only statistics are kept; y: the class (N,) of each image, or that it
    was asked for, None without.
    """

    statistics: Statistics
    features: Tensor | None = None
    logits: Tensor | None = None
    y: Tensor | None = None


def weights_owner(name: str) -> str:
    """The extractor whose file of weights the named one reads: itself, unless it has a row that says otherwise."""
    row = EXTRACTORS.get(name)
    return name if row is None or row.owner is None else row.owner


def weights_file(cache_dir: str | Path, name: str) -> Path:
    """Where the weights of an extractor stand inside the cache folder."""
    return Path(cache_dir) / "classifiers" / f"{weights_owner(name)}.safetensors"


def shipped_file(name: str) -> Path | None:
    """Where the weights of an extractor stand that are part of the toolkit; None for one of which none are."""
    if name not in EXTRACTORS or EXTRACTORS[name].shipped is None:
        return None
    return ASSETS / f"{weights_owner(name)}.safetensors"


def checksum(state: dict[str, Tensor]) -> str:
    """sha256 over names, shapes and bytes of the tensors: the same for equal weights in any file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def save_extractor(file: Path, module: nn.Module, metadata: dict[str, str]) -> str:
    """Write weights and metadata (strings) as safetensors in one move; return the checksum of the weights."""
    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    content = checksum(state)
    save_tensors(file, state, {**metadata, "checksum": content})
    return content


def load_extractor(name: str, file: Path, device: str | torch.device = "cpu") -> Extractor:
    """The named extractor in eval mode, float32, with weights from `file`.

    With other weights than the shipped ones it is named for them, `mnist-cnn:3f2a1b9c`.
    ValueError: unknown name, no such file (names the command that makes it), a file of another network, or
    weights that differ from the checksum written beside them.
    """
    if name not in EXTRACTORS:
        raise ValueError(f"unknown extractor {name}; known: {', '.join(EXTRACTORS)}")
    row = EXTRACTORS[name]
    if not file.is_file():
        raise UserError(f"no weights of {name} at {file}: run `{row.make}` or give --metric_weights")
    try:
        state, metadata = read_safetensors(file)
        module = built(lambda: row.build(metadata), state)
        classes = row.classes_in(metadata)
    except (ValueError, RuntimeError) as error:  # RuntimeError: sizes that no layer can have
        reason = shown(str(error).split("\n")[0])
        raise ValueError(
            f"{file} does not hold the weights of {name}: {reason}; `{row.make}` makes them anew"
        ) from None
    content = checksum(state)
    if metadata.get("checksum", content) != content:
        raise ValueError(f"{file} is damaged (its checksum differs); make it anew: `{row.make}`")
    owner = weights_owner(name)
    if metadata.get("extractor", owner) != owner:
        raise UserError(f"{file} holds {metadata['extractor']}, not {owner}; check --metric_weights")
    module = module.requires_grad_(False).eval().to(device)
    named = named_for(name, content, row.shipped)
    return Extractor(named, module, content, metadata, classes, row.mode_share)


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8, rounded and clamped as in an image file; NotFinite."""
    if not torch.isfinite(x).all():
        raise NotFinite("the generator's images are not finite")
    return (x.double() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def rechunk(batches: Iterable[Tensor], size: int = READ_AT_ONCE) -> Iterable[Tensor]:
    """The same rows in the same order in chunks of `size`, the last one shorter."""
    held: list[Tensor] = []
    n_held = 0
    for batch in batches:
        while n_held + len(batch) >= size:
            split = size - n_held
            yield torch.cat([*held, batch[:split]])
            held, n_held, batch = [], 0, batch[split:]
        if len(batch):
            held.append(batch)
            n_held += len(batch)
    if held:
        yield torch.cat(held)


def scoring_device(extractor: Extractor) -> torch.device:
    """Where scores are computed, in float64: on CUDA where the extractor is there, else on the CPU."""
    return extractor.device if extractor.device.type == "cuda" else torch.device("cpu")


@torch.inference_mode()
def extract(extractor: Extractor, images: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Features (N, d) and logits (N, K), on `scoring_device`, of uint8 batches (n, C, H, W) read in fixed chunks."""
    pairs = [extractor.module(chunk.to(extractor.device)) for chunk in rechunk(images)]
    if not pairs:
        raise ValueError("no images to score")
    features, logits = zip(*pairs, strict=True)
    device = scoring_device(extractor)
    return torch.cat(features).to(device), torch.cat(logits).to(device)


def read(features: Tensor, logits: Tensor, y: Tensor | None = None) -> Reading:
    """A set of images by its features (N, d) and logits (N, K), with statistics.

    ValueError: fewer than 2 images, or how many of them have features or logits that are not finite.
    """
    bad = int((~torch.isfinite(features).all(dim=1) | ~torch.isfinite(logits).all(dim=1)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(features)} images have features that are not finite")
    statistics = Statistics(len(features), *gaussian_statistics(features), class_shares(logits))
    return Reading(statistics, features, logits, y)


def reading_file(extractor: Extractor, identity: dict, cache_dir: str | Path) -> Path:
    """Where the reading of one set of real images is kept.

    identity: all that decides which pixels those are (data fingerprint, N, size, ...), plain values.
    """
    kind = extractor.device.type
    key = repr((VERSION, extractor.name, extractor.checksum, kind, sorted(identity.items())))
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    return Path(cache_dir) / "statistics" / f"{extractor.name.replace(':', '-')}-{digest}.safetensors"


def _features_file(file: Path) -> Path:
    return file.with_name(f"features-{file.name}")


def load_reading(file: Path, with_features: bool, device: str | torch.device = "cpu") -> Reading | None:
    """What save_reading kept there, on a device, without logits; None for a file that is absent, damaged or foreign."""
    try:
        held = _checked(file, ("n", "mean", "covariance", "shares"))
        statistics = Statistics(int(held["n"]), held["mean"], held["covariance"], held["shares"])
        _check_statistics(statistics)
        features = None
        if with_features:
            features = _checked(_features_file(file), ("features",))["features"]
            wanted = torch.empty(statistics.n, len(statistics.mean), device="meta")
            if fault := fault_of(features, wanted):
                raise ValueError(fault)
    except (ValueError, RuntimeError):  # whatever is wrong with it, computing is the answer
        return None
    placed = {name: getattr(statistics, name).to(device) for name in ("mean", "covariance")}
    return Reading(replace(statistics, **placed), None if features is None else features.to(device))


def _checked(file: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of a file, whose metadata has their checksum; ValueError for other ones."""
    held, metadata = read_safetensors(file)
    if held.keys() != set(names) or metadata.get("checksum") != checksum(held):
        raise ValueError(f"{file} is not as it was written")
    return held


def _check_statistics(found: Statistics) -> None:
    """ValueError for what no set of images gives: a checksum says nothing of where a file comes from."""
    d, k = found.mean.numel(), found.shares.numel()
    wanted = {"mean": (d,), "covariance": (d, d), "shares": (k,)}
    for name, shape in wanted.items():
        if fault := fault_of(getattr(found, name), torch.empty(shape, dtype=torch.float64, device="meta")):
            raise ValueError(f"{name} {fault}")
    covariance, scale = found.covariance.double(), float(found.covariance.diagonal().max()) if d else 0.0
    if found.n < 2 or not 0 < d <= MAX_FEATURES or scale < 0:
        raise ValueError(f"{found.n} images, {d} features, a variance of {scale}")
    if not torch.allclose(covariance, covariance.T, rtol=0, atol=ROUNDING * scale):
        raise ValueError("the covariance is not symmetric")
    # with as much on its diagonal as rounding takes away it has a root, unless an eigenvalue is negative
    lifted = covariance + torch.eye(d, dtype=torch.float64) * (ROUNDING * scale * d + 1e-300)
    if scale > 0 and int(torch.linalg.cholesky_ex(lifted).info):
        raise ValueError("the covariance has a negative eigenvalue")
    if k and not (float(found.shares.min()) >= 0 and float(found.shares.sum()) <= 1 + 1e-6):
        raise ValueError("the shares of classes are no shares")


def save_reading(file: Path, reading: Reading, with_features: bool) -> None:
    """Keep statistics, and features if wished, for the next evaluation; OSError where that cannot be written."""
    found = reading.statistics
    tensors = {"n": torch.tensor(found.n), "mean": found.mean, "shares": found.shares}
    tensors["covariance"] = found.covariance
    if with_features:
        _keep(_features_file(file), {"features": reading.features})
    _keep(file, tensors)


def _keep(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors with their checksum, as _checked reads them."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    save_tensors(file, tensors, {"checksum": checksum(tensors)})


def save_tensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors in one move, into a folder that is made; OSError where that cannot be written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    disk.remove_stale(file.parent)
    with disk.replacing(file) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # its own form of a full disk
            raise OSError(str(error)) from None
