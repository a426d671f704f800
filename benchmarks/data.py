"""Images per second of our data path beside a DataLoader with PIL transforms; one JSON line a case.

    python -m benchmarks.data --device cpu --img_size 64 --batch_size 128
    python -m benchmarks.data --device cuda --folder path/to/jpegs

Cases: gather (rows of the memmap), batches (gather, flip, normalise), the same channels_last, and host memory
for 200,000 images. The baseline decodes, resizes, crops, flips and normalises JPEGs of 178x218 at its best
number of workers. All are measured in turns in one process; the median of the turns counts.
On a machine that others use, set OMP_NUM_THREADS=1: the threads of small operations wait for each other.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from images.batches import Batches, ImageData, Shard
from images.cache import npy_header
from images.sources import load_dataset

WORKERS = (0, 1, 2, 4)


class JpegFolder(Dataset):
    """What every tutorial shows: open, resize, crop, flip, to float, normalise; image by image."""

    def __init__(self, folder: Path, img_size: int) -> None:
        self.files = sorted(folder.rglob("*.jpg"))
        self.transform = transforms.Compose(
            [
                transforms.Resize(img_size),
                transforms.CenterCrop(img_size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB"))


def write_jpegs(folder: Path, n: int) -> None:
    """n smooth random JPEGs of CelebA's 178x218, about 10 kB each."""
    rng = np.random.default_rng(0)
    for i in range(n):
        blocks = rng.integers(0, 256, (28, 23, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((178, 218), Image.Resampling.BICUBIC).save(
            folder / f"{i:06d}.jpg", quality=90
        )


def wait_for(device: torch.device) -> None:
    """Until the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def loader_rate(folder: Path, img_size: int, batch_size: int, workers: int, device: torch.device) -> float:
    """Images per second of the baseline over one pass, its workers' start not counted."""
    loader = DataLoader(
        JpegFolder(folder, img_size),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    batches: Iterator[torch.Tensor] = iter(loader)
    next(batches).to(device)
    start, n_images = time.perf_counter(), 0
    for x in batches:
        x.to(device, non_blocking=True)
        n_images += len(x)
    wait_for(device)
    return n_images / (time.perf_counter() - start)


def rate(serve: Callable[[int], object], batch_size: int, device: torch.device, seconds: float) -> float:
    """Images per second of serve(start_image), called for about so many seconds."""
    serve(0)
    wait_for(device)
    start, n_images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(10):
            n_images += batch_size
            serve(n_images)
        wait_for(device)
    return n_images / (time.perf_counter() - start)


def our_cases(data: ImageData, batch_size: int, device: torch.device) -> dict[str, Callable[[int], object]]:
    """serve(start_image) of each of our cases by name."""
    cpu = torch.device("cpu")
    raw = Batches(data, Shard(batch_size), 0, False, cpu, "cpu")
    cases: dict[str, Callable[[int], object]] = {
        "gather": lambda start: raw.gather(raw.indices(start, batch_size)),
    }
    places = ("cpu", "device") if device.type == "cuda" else ("cpu",)
    for data_device in places:
        for channels_last in (False, True):
            ours = Batches(data, Shard(batch_size), 0, True, device, data_device, channels_last)
            order = ", channels_last" if channels_last else ""
            cases[f"batches from {data_device}{order}"] = ours.micro
    return cases


def anonymous_bytes() -> int:
    """This process's memory that is no file's page."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("no RssAnon in /proc/self/status")


def memory_case(n: int, img_size: int, batch_size: int) -> dict[str, object]:
    """Host memory added by n images: a sparse file, 40 attributes each, 500 batches with flips."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        header = npy_header((n, img_size, img_size, 3))
        path.write_bytes(header)
        os.truncate(path, len(header) + n * img_size * img_size * 3)
        before = anonymous_bytes()
        images = np.load(path, mmap_mode="c")
        labels = np.zeros((n, 40), dtype=np.uint8)
        names = tuple(str(i) for i in range(40))
        data = ImageData(images, labels, names, "", "sparse", path=path, offset=len(header))
        batches = Batches(data, Shard(batch_size), 0, True, "cpu")
        for step in range(500):
            batches.announce((step + 1) * batch_size)
            batches.micro(step * batch_size)
        added = anonymous_bytes() - before
    return {
        "case": "host memory",
        "n_images": n,
        "img_size": img_size,
        "added_mib": round(added / 2**20, 1),
        "limit_mib": 1024,
    }


def device_name(device: torch.device) -> str:
    """The processor's name as far as it is known, with torch's threads on a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {os.cpu_count()} cores"


def measure(folder: Path, args: argparse.Namespace) -> None:
    """Print a JSON line for the baseline and for each of our cases."""
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as cache:
        data = load_dataset(
            "celeba", img_size=args.img_size, img_channels=3, data=folder, cache_dir=cache, split="all"
        )
        cases = our_cases(data, args.batch_size, device)
        turns: dict[str, list[float]] = {}
        for _ in range(args.turns):
            for workers in WORKERS:
                speed = loader_rate(folder, args.img_size, args.batch_size, workers, device)
                turns.setdefault(f"DataLoader, {workers} workers", []).append(speed)
            for name, serve in cases.items():
                turns.setdefault(name, []).append(rate(serve, args.batch_size, device, args.seconds))
    medians = {name: statistics.median(rates) for name, rates in turns.items()}
    best = max(medians[name] for name in medians if name.startswith("DataLoader"))
    for name, speed in medians.items():
        shape = [args.batch_size, 3, args.img_size, args.img_size]
        line = {
            "case": name,
            "img_per_s": round(speed),
            "ratio_to_best_loader": round(speed / best, 1),
            "shape": shape,
        }
        print(
            json.dumps(
                line | {"n_images": len(data), "device": device_name(device), "torch": torch.__version__}
            )
        )


def main() -> None:
    """Parse the command line and run every case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="where batches are wanted: cpu or cuda")
    parser.add_argument("--folder", type=Path, help="JPEGs to read (default: 4,096 made up, 178x218)")
    parser.add_argument("--img_size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--batch_size", type=int, default=128, help="images a batch")
    parser.add_argument("--turns", type=int, default=3, help="how often each case is measured")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn of our cases")
    parser.add_argument("--n_images", type=int, default=4096, help="number of made-up JPEGs")
    args = parser.parse_args()
    if args.folder:
        measure(args.folder, args)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_jpegs(Path(folder), args.n_images)
            measure(Path(folder), args)
    if sys.platform == "linux":
        print(json.dumps(memory_case(200_000, args.img_size, args.batch_size)))


if __name__ == "__main__":
    main()
