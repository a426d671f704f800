"""Images per second of a training step, ours beside the loop every tutorial shows, interleaved in one run.

python -m benchmarks.step
python -m benchmarks.step --device cuda --rounds 11

One JSON line a case: medians over rounds of `steps` steps each, the ratio ours / naive, and where our time
goes (data, D, G, optimiser, EMA). The naive loop has its images in memory as floats, a sigmoid and
binary cross entropy, two passes of D, the default optimiser and .item() on its losses at each step; both
train the same networks on the same number of images, with an averaged copy of G.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modelling import build_discriminator, build_generator
from training.config import parse_config
from training.data import ImageData
from training.errors import cli
from training.loop import Loop
from training.run import build_loop, make_accelerator, set_backends

CASES = {"32x32x1 b32": (32, 1, 32), "64x64x3 b64": (64, 3, 64)}
LOSSES = {"gan": "--method gan", "wgan-gp": "--method wgan-gp", "r1": "--method gan --r1_weight 10"}
N_IMAGES = 2048


def synthetic(img_size: int, channels: int) -> ImageData:
    """Random uint8 images in memory."""
    pixels = np.random.default_rng(0).integers(
        0, 256, (N_IMAGES, img_size, img_size, channels), dtype=np.uint8
    )
    return ImageData(images=pixels, labels=None, label_names=(), fingerprint="synthetic", name="synthetic")


class TimedLoop:
    """Seconds of one loop's parts, measured by wrapping its methods; each part waits for the device."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.seconds = dict.fromkeys(("data", "d", "g", "optimiser", "ema"), 0.0)
        self.inner = 0.0

    def _timed(self, name: str, call: Callable) -> Callable:
        def wrapped(*args: Any) -> Any:
            synchronise(self.loop.device)
            outer, self.inner = self.inner, 0.0
            start = time.perf_counter()
            result = call(*args)
            synchronise(self.loop.device)
            took = time.perf_counter() - start
            self.seconds[name] += took - self.inner  # without the parts that were timed inside this one
            self.inner = outer + took
            return result

        return wrapped

    def measure(self, steps: int) -> dict[str, float]:
        """Milliseconds a step of each part, over `steps` steps; the parts of D and G hold none of the others."""
        loop = self.loop
        plain = loop.batches.micro, loop._apply, loop._average, loop._run_phase
        loop.batches.micro = self._timed("data", plain[0])
        loop._apply = self._timed("optimiser", plain[1])
        loop._average = self._timed("ema", plain[2])
        loop._run_phase = lambda phase, *rest: self._timed(phase.trains.lower(), plain[3])(phase, *rest)
        for _ in range(steps):
            loop.run_step()
        loop.batches.micro, loop._apply, loop._average, loop._run_phase = plain
        return {name: round(1000 * value / steps, 3) for name, value in self.seconds.items()}


def synchronise(device: torch.device) -> None:
    """Wait for the device's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def ours(data: ImageData, batch: int, loss: str, precision: str, channels_last: bool, device: str) -> Loop:
    """Our loop on these images, writing nothing."""
    layout = "--channels_last" if channels_last else "--no-channels_last"
    words = (
        f"--model dcgan {loss} --batch_size {batch} --z_dim 100 --ema --loggers --device {device} {layout}"
    )
    words += f" --mixed_precision {precision}"
    config = parse_config("gan_mnist", ("mnist",), {}, words.split()).config()
    accelerator = make_accelerator(config)
    set_backends(config, accelerator)
    return build_loop(config, accelerator, data, Path("nowhere"))[0]  # nothing is written before a checkpoint


def naive(data: ImageData, batch: int, loss: str, device: str) -> Callable[[], None]:
    """One step of the loop of the tutorials, in full precision."""
    size, channels = data.images.shape[1], data.images.shape[3]
    norm = {} if loss == "gan" else {"norm": "none"}
    G = build_generator("dcgan", img_size=size, img_channels=channels, z_dim=100).to(device)
    D = build_discriminator("dcgan", img_size=size, img_channels=channels, **norm).to(device)
    images = (
        torch.from_numpy(data.images).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous().to(device)
    )
    optimizer_d = torch.optim.Adam(D.parameters(), 2e-4, (0.5, 0.999))
    optimizer_g = torch.optim.Adam(G.parameters(), 2e-4, (0.5, 0.999))
    bce = nn.BCELoss()
    average = [p.detach().clone() for p in G.parameters()]
    position = 0

    def d_part(x_real: Tensor, x_fake: Tensor) -> list[Tensor]:
        if loss == "wgan-gp":
            t = torch.rand(batch, 1, 1, 1, device=device)
            x = (t * x_real + (1 - t) * x_fake).requires_grad_()
            (grad,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
            return [
                D(x_fake).mean() - D(x_real).mean() + 10 * ((grad.flatten(1).norm(dim=1) - 1) ** 2).mean()
            ]
        on_real = bce(torch.sigmoid(D(x_real)), torch.ones(batch, device=device))
        losses = [on_real, bce(torch.sigmoid(D(x_fake)), torch.zeros(batch, device=device))]
        if loss == "r1":
            x = x_real.clone().requires_grad_()
            (grad,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
            losses.append(5 * grad.flatten(1).square().sum(1).mean())
        return losses

    def step() -> None:
        nonlocal position
        x_real = images[position : position + batch]
        position = (position + batch) % (N_IMAGES - batch)
        x_fake = G(torch.randn(batch, 100, device=device))
        D.zero_grad()
        total = 0.0
        for part in d_part(x_real, x_fake.detach()):
            part.backward()
            total += part.item()
        optimizer_d.step()
        G.zero_grad()
        on_fake = D(x_fake)
        loss_g = (
            -on_fake.mean()
            if loss == "wgan-gp"
            else bce(torch.sigmoid(on_fake), torch.ones(batch, device=device))
        )
        loss_g.backward()
        total += loss_g.item()
        optimizer_g.step()
        for a, p in zip(average, G.parameters(), strict=True):
            a.mul_(0.999).add_(p.detach(), alpha=0.001)

    return step


def seconds_of(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Wall time of so many steps."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronise(device)
    return time.perf_counter() - start


def run_case(case: str, loss: str, args: argparse.Namespace) -> None:
    """Print the lines of one size and loss."""
    size, channels, batch = CASES[case]
    torch.manual_seed(0)
    data = synthetic(size, channels)
    precisions = ("no", "bf16") if args.device == "cpu" else ("no", "bf16", "fp16")
    variants: dict[str, Callable[[], None]] = {"naive": naive(data, batch, loss, args.device)}
    loops: dict[str, Loop] = {}
    for precision in precisions:
        for channels_last in (False, True):
            name = ("fp32" if precision == "no" else precision) + (" channels_last" if channels_last else "")
            loops[name] = reset(
                lambda p=precision, c=channels_last: ours(data, batch, LOSSES[loss], p, c, args.device)
            )
            variants[name] = loops[name].run_step
    device = torch.device(args.device)
    for step in variants.values():
        seconds_of(step, 3, device)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.rounds):
        for name, step in variants.items():
            times[name].append(seconds_of(step, args.steps, device))
    base = statistics.median(times["naive"])
    for name, values in times.items():
        median = statistics.median(values)
        line = {
            "case": f"dcgan {case}", "loss": loss, "variant": name, "device": describe(device),
            "threads": torch.get_num_threads(), "torch": torch.__version__,
            "img_per_s": round(batch * args.steps / median, 1), "ratio": round(base / median, 3),
        }  # fmt: skip
        if name in loops:
            line["ms"] = TimedLoop(loops[name]).measure(args.steps)
        print(json.dumps(line), flush=True)


def reset(build: Callable[[], Loop]) -> Loop:
    """Accelerate keeps one state a process: forget it, so that each variant gets its own precision."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    return build()


def describe(device: torch.device) -> str:
    """Name of the device the figures are of."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return "cpu"


@cli
def main(argv: list[str] | None = None) -> int:
    """Run the asked cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=7, help="interleaved measurements a variant")
    parser.add_argument("--steps", type=int, default=10, help="steps a measurement")
    parser.add_argument("--case", nargs="*", default=tuple(CASES), choices=tuple(CASES))
    parser.add_argument("--loss", nargs="*", default=tuple(LOSSES), choices=tuple(LOSSES))
    args = parser.parse_args(argv)
    for case in args.case:
        for loss in args.loss:
            run_case(case, loss, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
