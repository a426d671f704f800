"""What a run's numbers of its own health cost, as shares of a training step.

python -m benchmarks.health
python -m benchmarks.health --device cuda --rounds 21

One JSON line a case: medians over rounds of a plain step, of what is added to one whose layers are measured (their
gradients, reading them, a line of metrics.jsonl and TensorBoard's), and of what is added to one whose saturation is;
each also as the share of all steps that it is at the default intervals. Beside them what the numbers of samples and
the histograms of weights add to a picture. Both kinds of steps take turns in one process.
"""

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.step import CLOCKS, NARROW, WIDE, describe, ours, synchronise, synthetic
from errors import cli
from metrics.health import sample_numbers
from settings import TrainConfig
from training.events import TensorBoard
from training.layers import layers_of, weight_histograms
from training.logs import RunLog
from training.loop import Loop

NEVER = 10**9
CASES = {
    "cpu": {
        "dcgan 64x64x3 b64": ("dcgan", "gan", (64, 3, 64, {})),
        "stylegan2 64x64x3 b32 narrow": ("stylegan2", "gan", (64, 3, 32, NARROW)),
    },
    "cuda": {
        "dcgan 64x64x3 b64": ("dcgan", "gan", (64, 3, 64, {})),
        "stylegan2 64x64x3 b32": ("stylegan2", "gan", (64, 3, 32, WIDE)),
    },
}


def step(loop: Loop, **intervals: int) -> None:
    """A step with other intervals, and what is written of it."""
    loop.config = loop.task.config = replace(loop.config, **intervals)
    loop.run_step()
    loop._log(whole=False)


def milliseconds(call: object, clock: str, device: torch.device) -> float:
    """Of one call, its end waited for."""
    synchronise(device)
    began = CLOCKS[clock]()
    call()
    synchronise(device)
    return 1000 * (CLOCKS[clock]() - began)


def measure(loop: Loop, clock: str, rounds: int) -> dict[str, float]:
    """The medians of a case."""
    off = {"log_interval": NEVER, "health_interval": 0}
    calls = {
        "step": partial(step, loop, **off),
        "layers": partial(step, loop, **off | {"health_interval": 1}),
        "saturation": partial(step, loop, **off | {"log_interval": 1}),
    }
    for call in calls.values():
        for _ in range(3):
            call()
    taken = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(milliseconds(call, clock, loop.device))
    found = {name: statistics.median(values) for name, values in taken.items()}
    extra = {
        name: statistics.median(a - b for a, b in zip(taken[name], taken["step"], strict=True))
        for name in ("layers", "saturation")
    }
    usual = {"layers": TrainConfig.health_interval, "saturation": TrainConfig.log_interval}
    return {
        "step_ms": round(found["step"], 3),
        **{f"{name}_ms": round(value, 3) for name, value in extra.items()},
        **{f"{name}_share": f"{value / found['step'] / usual[name]:.4%}" for name, value in extra.items()},
    }


def of_pictures(loop: Loop, clock: str) -> dict[str, float]:
    """Milliseconds of a picture with its numbers, of these alone, and of the histograms."""
    preview, sampler = loop.task._preview, loop.samplers()["raw"]
    drawn = preview.view.made(sampler, preview.z, preview.y)
    networks = {f"{name}/{k}": w for name, n in loop.task.networks.items() for k, w in layers_of(n).items()}
    calls = {
        "picture": partial(preview.sheet, sampler),
        "numbers": partial(sample_numbers, drawn, preview.classes),
        "histograms": partial(weight_histograms, networks),
    }
    for call in calls.values():
        call()
    return {
        f"{name}_ms": round(statistics.median(milliseconds(call, clock, loop.device) for _ in range(3)), 2)
        for name, call in calls.items()
    }


@cli
def main(argv: list[str] | None = None) -> int:
    """Run the cases of the device."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=tuple(CASES))
    parser.add_argument("--rounds", type=int, default=15, help="interleaved steps of each kind")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=tuple(CLOCKS),
        help="processor: of this program alone, beside other ones",
    )
    args = parser.parse_args(argv)
    for name, (model, loss, case) in CASES[args.device].items():
        with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
            loop = ours(stack, model, synthetic(*case[:2]), case, loss, "fp32 channels_last", args.device)
            loop.log = RunLog(Path(folder), loop.accelerator, NEVER, loop.schedule.images)
            loop.accelerator.trackers = [TensorBoard(Path(folder))]
            line = {"case": name, "device": describe(loop.device), "clock": args.clock}
            print(
                json.dumps(line | measure(loop, args.clock, args.rounds) | of_pictures(loop, args.clock)),
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
