"""What a checkpoint costs: CheckpointStore.save beside plain torch.save + fsync + sha256 of the same bytes.

    python -m benchmarks.checkpoint [--folder DIR] [--repeats 7]

Prints one JSON line a size: medians over interleaved repeats in one process. Ours includes everything a run
pays: the check for NaN, the free-space check, hashing while writing, both fsyncs and removing an old one.
"""

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from generation.checkpoint import CheckpointStore
from generation.state import tensor_bytes

# Width of a DCGAN for 64 px: 48 gives about 50 MB of state, 96 about 200 MB.
WIDTHS = (48, 96)
KEPT = 2


def network(width: int, ends: tuple[int, int]) -> dict[str, Tensor]:
    """Tensors shaped like a 64 px DCGAN network: five 4x4 convolutions with batch norm."""
    channels = [ends[0], 8 * width, 4 * width, 2 * width, width, ends[1]]
    weights = {}
    for i, (n_in, n_out) in enumerate(zip(channels, channels[1:], strict=False)):
        weights[f"{i}.weight"] = torch.randn(n_in, n_out, 4, 4)
        for name in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{i}.norm.{name}"] = torch.randn(n_out)
    return weights


def training_state(width: int) -> dict:
    """G, D, an average of G and Adam's two moments for both."""
    networks = {"G": network(width, (100, 3)), "D": network(width, (1, 3))}
    moments = {
        name: {"state": {i: {"exp_avg": t.clone(), "exp_avg_sq": t**2} for i, t in enumerate(net.values())}}
        for name, net in networks.items()
    }
    ema = {"0.999": {name: t.clone() for name, t in networks["G"].items()}}
    return {"networks": networks, "ema": ema, "optimizers": moments, "step": 0}


def plain_save(state: dict, path: Path) -> None:
    """torch.save, fsync, sha256 of the file."""
    torch.save(state, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        hashlib.file_digest(file, "sha256").digest()


def seconds(function, *args: object) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def compare_writes(width: int, folder: Path, repeats: int) -> dict[str, object]:
    """Medians of both ways for a state of that width; every repeat writes new files."""
    state = training_state(width)
    store = CheckpointStore(folder / "ours", KEPT)
    plain_folder = folder / "plain"
    plain_folder.mkdir()
    ours, plain = [], []
    for step in range(KEPT + 1 + repeats):
        # Each goes first in turn: the second one finds the disk busier.
        for side in ("plain", "ours") if step % 2 else ("ours", "plain"):
            if side == "ours":
                ours.append(seconds(store.save, state, step))
            else:
                plain.append(seconds(plain_save, state, plain_folder / f"{step}.pt"))
                # As many files stay as ours keeps, else the baseline alone recycles warm pages of the cache.
                (plain_folder / f"{step - KEPT}.pt").unlink(missing_ok=True)
    # The first saves prune nothing and warm up allocator and disk.
    ours, plain = ours[-repeats:], plain[-repeats:]
    ratios = [a / b for a, b in zip(ours, plain, strict=True)]
    return {
        "case": f"checkpoint of {tensor_bytes(state) / 1e6:.0f} MB",
        "device": f"cpu, {torch.get_num_threads()} threads",
        "seconds": round(statistics.median(ours), 4),
        "baseline_seconds": round(statistics.median(plain), 4),
        "baseline": "torch.save + fsync + sha256",
        "ratio": round(statistics.median(ours) / statistics.median(plain), 3),
        "pair_ratios": [round(r, 2) for r in sorted(ratios)],
    }


def main(argv: list[str] | None = None) -> None:
    """Measure every size and print a JSON line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", default=".", help="where to write: measures the disk of this folder")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of saves per size")
    args = parser.parse_args(argv)
    for width in WIDTHS:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            print(json.dumps(compare_writes(width, Path(folder), args.repeats)), flush=True)


if __name__ == "__main__":
    main()
