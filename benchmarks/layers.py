"""Parts of a step on a CPU in the form that training takes, beside torch's own, float32, one thread, interleaved.

python -m benchmarks.layers

One JSON line a case: milliseconds of forward and backward, or of an optimiser's step, and how often torch's time holds
ours. Times are of the processor, medians over rounds, ratios medians of neighbours in time.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import cli
from modelling.layers import NORMS
from ops.few_positions import doubled, halved
from training.optimizers import MAKERS

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
MAPS = ((1, 256, 32, 32), (1, 64, 128, 128), (1, 512, 8, 8), (8, 128, 32, 32))
HALVED, DOUBLED = (
    ((512, 8), (512, 4), (512, 2)),
    ((512, 1), (1024, 2), (1024, 4), (1024, 8)),
)  # (C, side) of x
WEIGHTS = ((512, 512, 4, 4), (1024, 512, 4, 4), (256, 256, 3, 3))
Case = tuple[str, Callable[[], None], Callable[[], None]]  # name, ours, torch's


def forward_and_backward(form: Callable[..., Tensor], x: Tensor, *weights: Tensor) -> Callable[[], None]:
    """Gradients of the input and the weights."""
    inputs = [x.requires_grad_(), *(weight.requires_grad_() for weight in weights)]
    grad = torch.randn_like(form(*inputs))

    def both() -> None:
        torch.autograd.grad(form(*inputs), inputs, grad)

    return both


def norms(layout: str) -> Iterator[Case]:
    """Instance norm without gain and shift."""
    for shape in MAPS:
        x = torch.randn(shape).to(memory_format=LAYOUTS[layout])
        forms = (NORMS["plain_instance"](shape[1]), nn.InstanceNorm2d(shape[1]))
        yield f"instance norm {shape}", *(forward_and_backward(form, x) for form in forms)


def convolutions(layout: str) -> Iterator[Case]:
    """Of few positions, as in a U-Net at 256 px."""
    pairs = (
        ("halved", HALVED, halved, lambda x, w, b: F.conv2d(x, w, b, 2, 1)),
        ("doubled", DOUBLED, doubled, lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1)),
    )
    for name, cases, *forms in pairs:
        for channels, side in cases:
            x = torch.randn(1, channels, side, side).to(memory_format=LAYOUTS[layout])
            shape = (512, channels, 4, 4) if name == "halved" else (channels, 512, 4, 4)
            w, b = torch.randn(shape).to(memory_format=LAYOUTS[layout]), torch.randn(512)
            yield f"{name} {tuple(x.shape)}", *(forward_and_backward(form, x, w, b) for form in forms)


def optimisers(layout: str) -> Iterator[Case]:
    """A fused step of Adam."""
    for shape in WEIGHTS:
        steps = []
        for kind in (MAKERS["Adam"].args[0], torch.optim.Adam):
            weight = nn.Parameter(torch.randn(shape).to(memory_format=LAYOUTS[layout]))
            weight.grad = torch.randn_like(weight)
            steps.append(kind([weight], 1e-4, fused=True).step)
        yield f"Adam {shape}", *steps


def milliseconds(call: Callable[[], None]) -> float:
    """Of the processor, of one call."""
    start = time.process_time()
    call()
    return 1000 * (time.process_time() - start)


@cli
def main(argv: list[str] | None = None) -> int:
    """All cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for layout in LAYOUTS:
        for cases in (norms, convolutions, optimisers):
            for name, *calls in cases(layout):
                rounds = [[milliseconds(call) for call in calls] for _ in range(args.rounds + 2)][2:]
                ours, theirs = (statistics.median(times) for times in zip(*rounds, strict=True))
                ratio = statistics.median(other / own for own, other in rounds)
                line = {"case": name, "layout": layout, "torch": torch.__version__}
                line |= {"ms": round(ours, 2), "torch_ms": round(theirs, 2), "ratio": round(ratio, 2)}
                print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
