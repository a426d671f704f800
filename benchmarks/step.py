"""Images per second of a training step, ours beside the loop every tutorial shows, interleaved in one run.

python -m benchmarks.step
python -m benchmarks.step --device cuda --rounds 11
python -m benchmarks.step --model stylegan2 --case "32x32x3 b8 narrow"
python -m benchmarks.step --model stylegan2 --device cuda --case "64x64x3 b32" "128x128x3 b32"
python -m benchmarks.step --model biggan --case "32x32x3 b50" --variant fp32
python -m benchmarks.step --model pix2pix --case "256x256x3 b1" --variant fp32 "fp32 channels_last"

One JSON line a case: medians over rounds of `steps` steps each, of the ratio ours / naive too, and where our time
goes (data, D, G, optimiser, EMA, the power iterations of spectral norm and their share of a step). The naive loop has
its images in memory as floats, a sigmoid and binary cross entropy, two passes of D, the default optimiser and .item()
on its losses at each step; both train the same networks on the same number of images, with an averaged copy of G. For
StyleGAN2 (R1 each 16th step, path length each 4th on half a batch) it has a weight for each sample in every
convolution, as the published code has, and makes the fakes anew for G; a measurement is 16 steps. For BigGAN (hinge,
10 classes) it is the same layers under torch's own spectral norm, which iterates at each forward in training, with one
pass of D over reals and fakes together; a measurement is 4 steps, of which `hinge-d4` updates G in one. For pix2pix,
CycleGAN and SRGAN it is the loop of their papers' texts, which waits for no loss and averages nothing
(benchmarks/written_out.py), and ours has no average either.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus
from torch.nn.utils import parametrizations

from benchmarks import written_out
from errors import cli
from games import game_of
from images.pairs import Pairs, PairSplit
from images.sources import ImageData
from modelling import biggan, build_discriminator, build_generator, stylegan2
from ops.spectral_norm import iterate_spectral_norm
from settings.command_line import parse_config
from training import loop as training_loop
from training.claim import RunFolder
from training.folder import Plan
from training.loop import Loop
from training.machine import make_accelerator, own_states, place_of, set_switches
from training.run import assemble

WIDE, NARROW = {"channel_base": 32768}, {"channel_base": 1024}
# model -> case -> size, channels, batch, settings of both networks
CASES = {
    "dcgan": {"32x32x1 b32": (32, 1, 32, {}), "64x64x3 b64": (64, 3, 64, {})},
    "stylegan2": {
        "32x32x3 b8 narrow": (32, 3, 8, NARROW),
        "64x64x3 b32": (64, 3, 32, WIDE),
        "128x128x3 b32": (128, 3, 32, WIDE),
    },
    "biggan": {"32x32x3 b50 narrow": (32, 3, 50, {"width": 8}), "32x32x3 b50": (32, 3, 50, {"width": 64})},
    "pix2pix": {"64x64x3 b1 narrow": (64, 3, 1, {"width": 16}), "256x256x3 b1": (256, 3, 1, {})},
    "cyclegan": {"64x64x3 b1 narrow": (64, 3, 1, {"width": 16}), "128x128x3 b1": (128, 3, 1, {})},
    "srgan": {"64x64x3 b4 narrow": (64, 3, 4, {"width": 16}), "96x96x3 b16": (96, 3, 16, {})},
}
TRANSLATORS = {"pix2pix": "paired", "cyclegan": "unpaired", "srgan": "alone"}  # and what their images are
LOSSES = {
    "dcgan": {"gan": "--method gan", "wgan-gp": "--method wgan-gp", "r1": "--method gan --r1_weight 10"},
    "stylegan2": {
        "gan": "--method gan",
        "r1+path_length": "--method gan --r1_weight 1 --penalty_interval r1=16 --penalty path_length",
    },
    "biggan": {
        "hinge": "--method hinge --conditional",
        "hinge-d4": "--method hinge --conditional --train_g_interval 4",
    },
    "pix2pix": {"gan": "--method gan"},
    "cyclegan": {"lsgan": "--method lsgan"},
    "srgan": {"gan": "--method gan --lr 1e-4 --beta1 0.9"},
}
# of a measurement: as often as the laziest phase, and few of steps that are long
STEPS = {"stylegan2": 16, "biggan": 4, "pix2pix": 2, "cyclegan": 1, "srgan": 1}
# Of our loop -> precision, channels_last.
VARIANTS = {
    "fp32": ("no", False),
    "fp32 channels_last": ("no", True),
    "bf16": ("bf16", False),
    "bf16 channels_last": ("bf16", True),
    "fp16": ("fp16", False),
    "fp16 channels_last": ("fp16", True),
}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Z_DIM = {"dcgan": 100, "stylegan2": 100, "biggan": 128}
N_IMAGES, N_PAIRS, N_CLASSES = 2048, 64, 10


def synthetic(img_size: int, channels: int, n: int = N_IMAGES, seed: int = 0) -> ImageData:
    """Random uint8 images in memory, of random classes."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, img_size, img_size, channels), dtype=np.uint8)
    names = tuple(f"class {i}" for i in range(N_CLASSES))
    return ImageData(pixels, rng.integers(0, N_CLASSES, n), names, "synthetic", "synthetic")


def pairs_of(model: str, a: ImageData, b: ImageData) -> Pairs:
    """Both sides as the model's game takes them."""
    pairing = TRANSLATORS[model]
    split = PairSplit("synthetic", pairing, None if pairing == "alone" else a, b)
    return Pairs(split, split)


def floats(data: ImageData, device: str) -> Tensor:
    """All images (N, C, H, W) in [-1, 1] on the device, as the loops beside ours hold them."""
    return torch.from_numpy(data.images).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous().to(device)


class TimedLoop:
    """Seconds of one loop's parts, measured by wrapping its methods; each part waits for the device."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.seconds = dict.fromkeys(("data", "d", "g", "optimiser", "ema", "power_iteration"), 0.0)
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
        batches = loop.task.batches
        plain = batches.micro, loop._apply, loop._average, loop._run_phase
        batches.micro = self._timed("data", plain[0])
        loop._apply = self._timed("optimiser", plain[1])
        loop._average = self._timed("ema", plain[2])
        side = {phase.name: phase.trains[0][0].lower() for phase in loop.task.phases}  # D_A is a D
        loop._run_phase = lambda phase, *rest: self._timed(side[phase.name], plain[3])(phase, *rest)
        power = self._timed("power_iteration", iterate_spectral_norm)
        with mock.patch.object(training_loop, "iterate_spectral_norm", power):
            for _ in range(steps):
                loop.run_step()
        batches.micro, loop._apply, loop._average, loop._run_phase = plain
        return {name: round(1000 * value / steps, 3) for name, value in self.seconds.items()}


def synchronise(device: torch.device) -> None:
    """Wait for the device's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def ours(
    stack: ExitStack, model: str, data: ImageData | Pairs, case: tuple, loss: str, variant: str, device: str
) -> Loop:
    """Our loop on these images, writing nothing; its place lasts as long as the stack."""
    precision, channels_last = VARIANTS[variant]
    layout = "--channels_last" if channels_last else "--no-channels_last"
    words = f"--model {model} {LOSSES[model][loss]} --batch_size {case[2]}"
    words += f" --loggers {layout} --device {device} --mixed_precision {precision}"
    for side in ("g", "d") if case[3] else ():
        words += f" --{side}_kwargs " + " ".join(f"{name}={value}" for name, value in case[3].items())
    if model in TRANSLATORS:
        words += f" --data synthetic --img_size {case[0]} --img_channels {case[1]} --no-flip --no-ema"
        config = parse_config("gan_pairs", ("folder",), {}, words.split()).config()
    else:
        words += f" --ema --z_dim {Z_DIM[model]}"
        config = parse_config("gan_mnist", ("mnist",), {}, words.split()).config()
    stack.enter_context(own_states())  # each variant has a precision of its own, and they take turns
    accelerator = make_accelerator(config)
    set_switches(config, accelerator)
    task = game_of(config)(config, place_of(config, accelerator), data, {})
    return assemble(
        config, accelerator, task, RunFolder(Plan(config))
    )  # nothing is written before a checkpoint


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One update."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def naive(data: ImageData, batch: int, loss: str, device: str) -> Callable[[], None]:
    """One step of the loop of the tutorials, in full precision."""
    size, channels = data.images.shape[1], data.images.shape[3]
    norm = {} if loss == "gan" else {"norm": "none"}
    G = build_generator("dcgan", img_size=size, img_channels=channels, z_dim=100).to(device)
    D = build_discriminator("dcgan", img_size=size, img_channels=channels, **norm).to(device)
    images = floats(data, device)
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


def published(data: ImageData, case: tuple, loss: str, device: str) -> Callable[[], None]:
    """One step of StyleGAN2 in the form of its published code, in full precision."""
    size, channels, batch, widths = case
    shape = {"img_size": size, "img_channels": channels}
    G = build_generator("stylegan2", **shape, z_dim=100, **widths).to(device)
    D = build_discriminator("stylegan2", **shape, **widths).to(device)
    images = floats(data, device)
    optimizer_d, optimizer_g = (torch.optim.Adam(net.parameters(), 2e-3, (0.0, 0.99)) for net in (D, G))
    average = [p.detach().clone() for p in G.parameters()]
    count, mean = 0, torch.zeros((), device=device)

    def fakes(n: int) -> tuple[Tensor, Tensor]:
        z, z_mix = torch.randn(2, n, 100, device=device)
        ws = G.styles(z, None, z_mix, torch.rand(n, 2, device=device))
        return G.synthesis(ws, double_backward=True), ws

    def path_length() -> Tensor:
        nonlocal mean
        x, ws = fakes(batch // 2)
        (grad,) = torch.autograd.grad((x * torch.randn_like(x) / size).sum(), ws, create_graph=True)
        lengths = grad.square().sum(2).mean(1).sqrt()
        mean = mean.lerp(lengths.mean().detach(), 0.01)
        return 8 * (lengths - mean).square().mean()

    def step() -> None:
        nonlocal count
        start = count * batch % (N_IMAGES - batch)
        x_real = images[start : start + batch]
        with torch.no_grad():
            x_fake = fakes(batch)[0]
        update(optimizer_d, softplus(D(x_fake)).mean() + softplus(-D(x_real)).mean())
        count += 1
        if loss != "gan" and count % 16 == 0:
            x = x_real.clone().requires_grad_()
            (grad,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
            update(optimizer_d, 8 * grad.flatten(1).square().sum(1).mean())
        update(optimizer_g, softplus(-D(fakes(batch)[0])).mean())
        if loss != "gan" and count % 4 == 0:
            update(optimizer_g, path_length())
        for a, p in zip(average, G.parameters(), strict=True):
            a.mul_(0.999).add_(p.detach(), alpha=0.001)

    def in_groups() -> None:
        with mock.patch.object(stylegan2, "grouped_pays", lambda *_: True):
            step()

    return in_groups


def with_torch_norm(data: ImageData, case: tuple, loss: str, device: str) -> Callable[[], None]:
    """One step of BigGAN under torch's spectral norm, in full precision."""
    size, channels, batch, widths = case
    shape = {"img_size": size, "img_channels": channels, "n_labels": N_CLASSES} | widths
    G, D = (
        biggan.Generator(**shape, z_dim=Z_DIM["biggan"]).to(device),
        biggan.Discriminator(**shape).to(device),
    )
    for module in [*G.modules(), *D.modules()]:
        if isinstance(module, nn.Conv2d | nn.Linear):
            parametrizations.spectral_norm(module)
    images, labels = floats(data, device), torch.from_numpy(data.labels).to(device)
    optimizer_d, optimizer_g = (torch.optim.Adam(net.parameters(), 2e-4, (0.0, 0.999)) for net in (D, G))
    average = [p.detach().clone() for p in G.parameters()]
    count, interval = 0, 4 if loss == "hinge-d4" else 1

    def step() -> None:
        nonlocal count
        start = count * batch % (N_IMAGES - batch)
        x_real, y = images[start : start + batch], labels[start : start + batch]
        count += 1
        due = count % interval == 0
        with torch.set_grad_enabled(due):  # the fakes of D's last update are G's
            x_fake = G(torch.randn(batch, Z_DIM["biggan"], device=device), y)
        d_real, d_fake = D(torch.cat([x_real, x_fake.detach()]), torch.cat([y, y])).chunk(2)
        update(optimizer_d, relu(1 - d_real).mean() + relu(1 + d_fake).mean())
        if due:
            D.requires_grad_(False)
            update(optimizer_g, -D(x_fake, y).mean())
            D.requires_grad_(True)
            for a, p in zip(average, G.parameters(), strict=True):
                a.mul_(0.999).add_(p.detach(), alpha=0.001)

    return step


def of_the_papers(model: str, a: ImageData, b: ImageData, case: tuple, device: str) -> Callable[[], None]:
    """One step of a translator, in full precision."""
    size, channels, batch, widths = case
    nets = {name: net.to(device) for name, net in written_out.networks(model, size, channels, widths).items()}
    return written_out.STEPS[model](nets, floats(a, device), floats(b, device), batch)


def seconds_of(step: Callable[[], None], steps: int, device: torch.device, clock: str = "wall") -> float:
    """Time of so many steps, by a row of CLOCKS."""
    synchronise(device)
    start = CLOCKS[clock]()
    for _ in range(steps):
        step()
    synchronise(device)
    return CLOCKS[clock]() - start


def run_case(model: str, name: str, loss: str, args: argparse.Namespace, stack: ExitStack) -> None:
    """Print the lines of one size and loss."""
    case = CASES[model][name]
    size, channels, batch, _ = case
    torch.manual_seed(0)
    if model in TRANSLATORS:
        a, b = (synthetic(size, channels, N_PAIRS, seed) for seed in (0, 1))
        data, sides = pairs_of(model, a, b), (a, b)
    else:
        data = synthetic(size, channels)
    makers = {
        "dcgan": lambda: naive(data, batch, loss, args.device),
        "stylegan2": lambda: published(data, case, loss, args.device),
        "biggan": lambda: with_torch_norm(data, case, loss, args.device),
    } | dict.fromkeys(TRANSLATORS, lambda: of_the_papers(model, *sides, case, args.device))
    variants: dict[str, Callable[[], None]] = {"naive": makers[model]()}
    loops: dict[str, Loop] = {}
    for variant in args.variant or VARIANTS:
        if args.device != "cpu" or VARIANTS[variant][0] != "fp16":
            loops[variant] = ours(stack, model, data, case, loss, variant, args.device)
            variants[variant] = loops[variant].run_step
    device = torch.device(args.device)
    steps = STEPS.get(model, 10) if args.steps is None else args.steps
    for step in variants.values():
        seconds_of(step, 3, device)
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(args.rounds):
        for variant, step in variants.items():
            times[variant].append(seconds_of(step, steps, device, args.clock))
    for variant, values in times.items():
        median = statistics.median(values)
        ratios = [
            base / own for base, own in zip(times["naive"], values, strict=True)
        ]  # of neighbours in time
        line = {
            "case": f"{model} {name}", "loss": loss, "variant": variant, "device": describe(device),
            "threads": torch.get_num_threads(), "clock": args.clock, "torch": torch.__version__,
            "img_per_s": round(batch * steps / median, 1), "ratio": round(statistics.median(ratios), 3),
        }  # fmt: skip
        if variant in loops:
            line["ms"] = TimedLoop(loops[variant]).measure(steps)
            line["power_share"] = round(line["ms"]["power_iteration"] * steps / (1000 * median), 4)
        print(json.dumps(line), flush=True)


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
    parser.add_argument("--model", default="dcgan", choices=tuple(CASES))
    parser.add_argument("--rounds", type=int, default=7, help="interleaved measurements a variant")
    parser.add_argument("--steps", type=int, help="steps a measurement (default: 10; of long steps fewer)")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=tuple(CLOCKS),
        help="processor: of this program alone, beside other ones",
    )
    parser.add_argument("--case", nargs="*", help="sizes (default: all of the model)")
    parser.add_argument("--loss", nargs="*", help="losses (default: all of the model)")
    parser.add_argument("--variant", nargs="*", help="ours (default: all; fp16 on a GPU only)")
    args = parser.parse_args(argv)
    tables = (CASES[args.model], LOSSES[args.model], VARIANTS)
    for given, known in zip((args.case, args.loss, args.variant), tables, strict=True):
        for name in given or ():
            if name not in known:
                parser.error(f"{name!r}: choose from {', '.join(map(repr, known))}")
    for case in args.case or CASES[args.model]:
        for loss in args.loss or LOSSES[args.model]:
            with ExitStack() as stack:
                run_case(args.model, case, loss, args, stack)
    return 0


if __name__ == "__main__":
    sys.exit(main())
