"""Train the small network that reads digits: what `tools.evaluate --extractor mnist-cnn` sees through.

    python -m tools.train_classifier --dataset digits
    python -m tools.train_classifier --dataset mnist --data_root DIR

Equal commands on equal machines give equal weights; the checksum printed at the end names them, and scores
can be compared only where it is the same. Share the file to share the instrument.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from metrics.features import CHUNK, EXTRACTORS, save_extractor, weights_file
from tools.common import add_machine_flags, cache_folder, images_of, make_parser, positive, warn
from training.data import ImageData, load_dataset
from training.device import choose_device
from training.errors import UserError, blaming_user, cli
from training.rng import generator, key


@dataclass(frozen=True)
class Recipe:
    """Settings of one data set: epochs, batch, peak lr of the one-cycle schedule, random shifts in pixels."""

    extractor: str
    epochs: int
    expected: float  # test accuracy below which the extractor should not be trusted
    batch_size: int = 128
    lr: float = 3e-3
    shift: int = 1
    img_size: int = 32


RECIPES = {
    "mnist": Recipe("mnist-cnn", epochs=3, expected=0.99),
    "digits": Recipe("digits-cnn", epochs=30, expected=0.97, batch_size=64, shift=2),
}


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


def fit(
    module: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, seed: int, tick: Callable[[], object]
) -> None:
    """Train on uint8 images (N, C, H, W) and classes (N,): AdamW, one-cycle rate; tick() after each step."""
    device = next(module.parameters()).device
    bf16 = half_precision(device)
    # Measured on a CPU: channels_last doubles bf16 and slows float32 down.
    module.train().to(memory_format=torch.channels_last if bf16 else torch.contiguous_format)
    optimizer = torch.optim.AdamW(module.parameters(), lr=recipe.lr, fused=device.type in ("cpu", "cuda"))
    n, batch = len(images), min(recipe.batch_size, len(images))
    n_steps = recipe.epochs * (n // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=n_steps)
    windows = shifted(images, recipe.shift)
    source = generator(seed, "classifier")
    for _ in range(recipe.epochs):
        order = torch.randperm(n, generator=source)
        for i in range(0, n - batch + 1, batch):
            index = order[i : i + batch]
            dy, dx = torch.randint(windows.shape[1], (2, batch), generator=source)
            x = module.prepare(windows[index, dy, dx].to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = module.read(x)[1]
            loss = F.cross_entropy(logits.float(), labels[index].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            tick()
    module.eval().to(memory_format=torch.contiguous_format)


@torch.inference_mode()
def accuracy(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of uint8 images (N, C, H, W) whose class is read right, in float32."""
    device = next(module.parameters()).device
    read = [module(images[i : i + CHUNK].to(device))[1].argmax(1).cpu() for i in range(0, len(images), CHUNK)]
    return float((torch.cat(read) == labels).double().mean())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = make_parser("tools.train_classifier", __doc__)
    p.add_argument("--dataset", required=True, choices=tuple(RECIPES), help="which digits to read")
    p.add_argument("--data_root", default="data", help="where its files stand or are downloaded to [data]")
    add_machine_flags(p)
    p.add_argument("--epochs", type=positive, help="passes over the data (default: the data set's recipe)")
    p.add_argument("--seed", type=int, default=0, help="weights, order, shifts, dropout follow from it [0]")
    p.add_argument("--out", type=Path, help="NAME.safetensors (default: where tools.evaluate looks for it)")
    return p


def load_splits(args: argparse.Namespace, size: int) -> dict[str, ImageData]:
    """The train and test split at the extractor's size, grey."""
    with blaming_user():
        return {
            split: load_dataset(
                args.dataset, img_size=size, img_channels=1, split=split,
                data_root=args.data_root, cache_dir=args.cache_dir,
            )
            for split in ("train", "test")
        }  # fmt: skip


def train(recipe: Recipe, data: ImageData, seed: int, device: torch.device) -> nn.Module:
    """A fresh extractor fitted to a labelled data set, in eval mode; shows its progress."""
    # Initialisation and dropout draw from torch's global generators: seeded here, given back afterwards.
    with torch.random.fork_rng():
        torch.manual_seed(key(seed, "classifier layers"))
        module = EXTRACTORS[recipe.extractor].build({}).to(torch.float32).to(device)
        steps = recipe.epochs * max(1, len(data.images) // recipe.batch_size)
        with tqdm(total=steps, desc=recipe.extractor, unit="step", disable=None, leave=False) as bar:
            fit(module, images_of(data), torch.from_numpy(data.labels).long(), recipe, seed, bar.update)
    return module


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure on the test split, save."""
    args = parser().parse_args(argv)
    recipe = RECIPES[args.dataset]
    if args.epochs is not None:
        recipe = replace(recipe, epochs=args.epochs)
    file = weights_file(cache_folder(args.cache_dir), recipe.extractor) if args.out is None else args.out
    if file.suffix != ".safetensors":
        raise UserError(f"--out {file} must end in .safetensors")
    device = torch.device(choose_device(args.device))
    splits = load_splits(args, recipe.img_size)
    n_train, n_test = (len(splits[split].images) for split in ("train", "test"))
    print(f"{recipe.extractor}: {n_train} images, {n_test} to test, {recipe.epochs} epochs on {device}")
    started = time.perf_counter()
    module = train(recipe, splits["train"], args.seed, device)
    seconds = time.perf_counter() - started
    reached = accuracy(module, images_of(splits["test"]), torch.from_numpy(splits["test"].labels).long())
    metadata = {
        "extractor": recipe.extractor,
        "accuracy": f"{reached:.4f}",
        "data_fingerprint": splits["train"].fingerprint,
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
    if reached < recipe.expected:
        warn(f"an accuracy below {recipe.expected:.0%} makes its scores doubtful")
    return 0


if __name__ == "__main__":
    sys.exit(main())
