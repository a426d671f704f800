"""Train a small network that reads images: what `tools.evaluate --extractor cifar10-cnn` sees through.

    python -m tools.train_classifier --dataset digits
    python -m tools.train_classifier --dataset mnist --data_root DIR
    python -m tools.train_classifier --dataset cifar10 --data cifar10-jpeg.tar.gz
    python -m tools.train_classifier --dataset folder --data FOLDER_OR_ARCHIVE --img_size 64

A folder or archive has a folder of images a class, below train/ and test/ if it has them; without test/ a tenth of
each class is held out. Equal commands on equal machines give equal weights; the checksum printed at the end names
them, and scores can be compared only where it is the same. Share the file to share the instrument. Those of digits and
of mnist are shipped in assets/: weights of your own take their place by --metric_weights FILE, and name their scores.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError, blaming_user, cli
from images.batches import ImageData, images_of
from images.cache import Progress, cache_folder
from images.sources import load_dataset, set_name
from metrics.features import EXTRACTORS, READ_AT_ONCE, save_extractor, weights_file
from ops.rng import generator, key
from pretrained.weights import named_for
from tools import tool_parser
from tools.common import add_machine_flags, positive, warn, whole
from training.device import choose_device

LEAST = 10  # images of each class to learn from
LEGAL_SIZES = range(16, 257)


@dataclass(frozen=True)
class Recipe:
    """Settings of one data set: epochs, batch, peak lr of the one-cycle schedule, random shifts in pixels, ...

    expected: test accuracy below which the extractor should not be trusted; min_steps: epochs are added until there
    are as many steps; channels_last: the memory order in which float32 is faster, too.
    """

    extractor: str
    epochs: int
    expected: float
    batch_size: int = 128
    lr: float = 3e-3
    shift: int = 1
    mirror: bool = False
    weight_decay: float = 0.01
    smoothing: float = 0.0
    img_size: int = 32
    img_channels: int = 1
    min_steps: int = 0
    channels_last: bool = False


_COLOUR = {
    "lr": 5e-3, "shift": 2, "weight_decay": 0.05, "smoothing": 0.1, "img_channels": 3, "channels_last": True
}  # fmt: skip
RECIPES = {
    "mnist": Recipe("mnist-cnn", epochs=10, expected=0.99),
    "digits": Recipe("digits-cnn", epochs=60, expected=0.97, batch_size=64, shift=2),
    "cifar10": Recipe("cifar10-cnn", epochs=8, expected=0.8, mirror=True, **_COLOUR),
    # not mirrored: letters and left hands would change
    "folder": Recipe("folder-cnn", epochs=10, expected=0.8, min_steps=500, **_COLOUR),
}


@dataclass(frozen=True)
class Examples:
    """uint8 images (N, C, H, W) and their classes (N,)."""

    images: Tensor
    labels: Tensor


def half_precision(device: torch.device) -> bool:
    """Whether bf16 is computed by the hardware: twice as fast there, and far slower where it is emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)
    return device.type == "cpu" and bool(capabilities().get("avx512_bf16"))


def shifted(images: Tensor, pixels: int) -> Tensor:
    """View (N, 2p + 1, 2p + 1, C, H, W) of images (N, C, H, W) moved by up to p pixels, black coming in."""
    height, width = images.shape[2:]
    padded = F.pad(images, (pixels,) * 4)
    # (N, C, H + 2p, W + 2p) -> (N, C, dy, dx, H, W) -> (N, dy, dx, C, H, W)
    return padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)


def varied(windows: Tensor, index: Tensor, mirror: bool, source: torch.Generator) -> Tensor:
    """Images (n, C, H, W) of an index from views as of `shifted`, each moved and maybe turned at random."""
    dy, dx = torch.randint(windows.shape[1], (2, len(index)), generator=source)
    images = windows[index, dy, dx]
    if not mirror:
        return images
    turned = torch.rand(len(index), generator=source) < 0.5
    return torch.where(turned.view(-1, 1, 1, 1), images.flip(3), images)


def fit(
    module: nn.Module, examples: Examples, recipe: Recipe, seed: int, tick: Callable[[int], object]
) -> None:
    """Train on examples: AdamW, one-cycle rate; tick(images) after each step."""
    device = next(module.parameters()).device
    bf16 = half_precision(device)
    # Measured on a CPU: channels_last doubles bf16; it slows float32 down in DigitCNN alone.
    memory = torch.channels_last if bf16 or recipe.channels_last else torch.contiguous_format
    module.train().to(memory_format=memory)
    optimizer = torch.optim.AdamW(
        module.parameters(), recipe.lr, weight_decay=recipe.weight_decay, fused=device.type in ("cpu", "cuda")
    )
    n, batch = len(examples.images), min(recipe.batch_size, len(examples.images))
    n_steps = recipe.epochs * (n // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=n_steps)
    windows = shifted(examples.images, recipe.shift)
    source = generator(seed, "classifier")
    for _ in range(recipe.epochs):
        order = torch.randperm(n, generator=source)
        for i in range(0, n - batch + 1, batch):
            index = order[i : i + batch]
            x = module.prepare(varied(windows, index, recipe.mirror, source).to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = module.read(x)[1]
            labels = examples.labels[index].to(device)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            tick(batch)
    module.eval().to(memory_format=torch.contiguous_format)


@torch.inference_mode()
def accuracy(module: nn.Module, examples: Examples) -> float:
    """Share of the examples whose class is read right, in float32."""
    device = next(module.parameters()).device
    chunks = examples.images.split(READ_AT_ONCE)
    read = torch.cat([module(chunk.to(device))[1].argmax(1).cpu() for chunk in chunks])
    return float((read == examples.labels).double().mean())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.train_classifier", __doc__)
    p.add_argument("--dataset", required=True, choices=tuple(RECIPES), help="which images to read")
    p.add_argument("--data_root", default="data", help="where its files stand or are downloaded to [data]")
    p.add_argument("--data", help="folder or archive of class folders in place of them")
    p.add_argument(
        "--img_size", type=positive, help="side in pixels at which a folder's images are read [32]"
    )
    add_machine_flags(p)
    p.add_argument("--epochs", type=positive, help="passes over the data (default: the data set's recipe)")
    p.add_argument("--seed", type=whole, default=0, help="weights, order, shifts, dropout follow from it [0]")
    about = (
        "NAME.safetensors (default: in the cache folder, where tools.evaluate finds those of cifar10 and folder; "
        "those of digits and mnist it takes by --metric_weights alone)"
    )
    p.add_argument("--out", type=Path, help=about)
    return p


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The data set's recipe with the flags' changes; UserError for flags that do not fit it."""
    recipe = RECIPES[args.dataset]
    is_folder = args.dataset == "folder"
    if is_folder and args.data is None:
        raise UserError("--dataset folder: name the folder or archive with --data")
    if args.img_size is not None:
        if not is_folder:
            raise UserError(f"--img_size: {recipe.extractor} reads {recipe.img_size} px; leave the flag out")
        if args.img_size not in LEGAL_SIZES:
            raise UserError(
                f"--img_size {args.img_size}: choose {LEGAL_SIZES[0]} to {LEGAL_SIZES[-1]} pixels"
            )
        shift = recipe.shift * args.img_size // recipe.img_size
        recipe = replace(recipe, img_size=args.img_size, shift=shift)
    return recipe if args.epochs is None else replace(recipe, epochs=args.epochs, min_steps=0)


def check_teachable(data: ImageData, where: str, extractor: str) -> None:
    """UserError unless every image is of one class of several, all of them known to the extractor and shown."""
    if data.labels is None:
        raise UserError(f"{where} has no classes: give at least two folders of images, one a class")
    if data.multi_hot:
        raise UserError(
            f"{where} has attributes, of which an image has several: a classifier needs folders, one a class"
        )
    known = EXTRACTORS[extractor].classes
    if known is not None and data.label_names != known:
        given = ", ".join(data.label_names[:20])
        raise UserError(
            f"the classes of {where} ({given}) are not those of {extractor}: take --dataset folder"
        )
    counts = torch.bincount(torch.from_numpy(data.labels).long(), minlength=data.n_labels).tolist()
    few = [f"{name} {n}" for name, n in zip(data.label_names, counts, strict=True) if n < LEAST]
    if few:
        raise UserError(
            f"{where} has too few images to train on of: {', '.join(few[:20])}; {LEAST} of each class are needed"
        )


def examples_of(data: ImageData, index: Tensor | slice = slice(None)) -> Examples:
    """The images of an index, all by default, in memory."""
    return Examples(images_of(data, index), torch.from_numpy(data.labels).long()[index])


def hold_out(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Indices to train on and to test on: a tenth of each class of labels (N,), at least one, drawn by the seed."""
    order = torch.randperm(len(labels), generator=generator(seed, "held out"))
    tested = torch.zeros(len(labels), dtype=torch.bool)
    for k in range(int(labels.max()) + 1):
        members = order[labels[order] == k]
        tested[members[: max(1, len(members) // 10)]] = True
    return (~tested).nonzero().flatten(), tested.nonzero().flatten()


def load_examples(args: argparse.Namespace, recipe: Recipe) -> tuple[ImageData, Examples, Examples]:
    """The train split as it is, and what to train and to test on; says where a part of it is held out."""

    name = args.dataset if args.data is None else set_name(args.data)

    def load(split: str) -> ImageData:
        with blaming_user():
            return load_dataset(
                name, img_size=recipe.img_size, img_channels=recipe.img_channels, split=split,
                data_root=args.data_root, data=args.data, cache_dir=args.cache_dir,
            )  # fmt: skip

    data = load("train")
    where = args.dataset if args.data is None else args.data
    check_teachable(data, where, recipe.extractor)
    try:
        return data, examples_of(data), examples_of(load("test"))
    except UserError:  # the train split could be read: of images of one's own the other one can be missing
        if args.data is None:
            raise
        train, test = hold_out(torch.from_numpy(data.labels), args.seed)
        print(f"{where} has no test split: {len(test)} images, a tenth of each class, are held out")
        return data, examples_of(data, train), examples_of(data, test)


def with_enough_steps(recipe: Recipe, n: int) -> Recipe:
    """The recipe with epochs added until n images give its least number of steps."""
    steps = n // min(recipe.batch_size, n)
    return replace(recipe, epochs=max(recipe.epochs, -(-recipe.min_steps // steps)))


def train_classifier(
    recipe: Recipe, examples: Examples, about: dict[str, str], seed: int, device: torch.device
) -> nn.Module:
    """A fresh extractor, built from what its file will say, fitted, in eval mode; shows its progress."""
    # Initialisation and dropout draw from torch's global generators: seeded here, given back afterwards.
    with torch.random.fork_rng():
        torch.manual_seed(key(seed, "classifier layers"))
        module = EXTRACTORS[recipe.extractor].build(about).to(torch.float32).to(device)
        progress = Progress(recipe.extractor, recipe.epochs * len(examples.images))
        try:
            fit(module, examples, recipe, seed, progress.update)
        finally:
            progress.close()
    return module


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure on the test split, save."""
    args = parser().parse_args(argv)
    recipe = recipe_of(args)
    file = weights_file(cache_folder(args.cache_dir), recipe.extractor) if args.out is None else args.out
    if file.suffix != ".safetensors":
        raise UserError(f"--out {file} must end in .safetensors")
    device = torch.device(choose_device(args.device))
    data, learned, tested = load_examples(args, recipe)
    recipe = with_enough_steps(recipe, len(learned.images))
    n_train, n_test = len(learned.images), len(tested.images)
    print(f"{recipe.extractor}: {n_train} images, {n_test} to test, {recipe.epochs} epochs on {device}")
    about = {"classes": json.dumps(data.label_names), "img_size": str(recipe.img_size)}
    started = time.perf_counter()
    module = train_classifier(recipe, learned, about, args.seed, device)
    seconds = time.perf_counter() - started
    reached = accuracy(module, tested)
    metadata = about | {
        "extractor": recipe.extractor,
        "accuracy": f"{reached:.4f}",
        "n_test": str(n_test),
        "data_fingerprint": data.fingerprint,
        "epochs": str(recipe.epochs),
        "seed": str(args.seed),
        "seconds": f"{seconds:.1f}",
        "precision": "bf16" if half_precision(device) else "fp32",
        "torch": str(torch.__version__),
    }
    try:
        content = save_extractor(file, module, metadata)
    except OSError as error:
        raise UserError(f"--out {file}: {error.strerror}") from None
    print(f"test accuracy {reached:.2%} after {seconds:.0f} s, sha256 of the weights {content}")
    print(f"wrote {file}")
    if (shipped := EXTRACTORS[recipe.extractor].shipped) is not None:
        name = named_for(recipe.extractor, content, shipped)
        print(
            f"--extractor {recipe.extractor} --metric_weights {file} reads with it; its scores are named [{name}]"
        )
    if reached < recipe.expected:
        warn(f"an accuracy below {recipe.expected:.0%} makes its scores doubtful")
    return 0


if __name__ == "__main__":
    sys.exit(main())
