"""Time of ops.upfirdn2d and of its first and second backward, beside two slower forms and a copy, interleaved.

python -m benchmarks.upfirdn2d --threads 1
python -m benchmarks.upfirdn2d --device cuda --dtype fp32 bf16 fp16 --layout contiguous channels_last

One JSON line a case, shape, type, layout and pass. `ms` are medians over rounds in which every variant takes its
turn; `ratio` is a variant's time over ours, the median of the rounds' ratios, above 1 where ours is faster.

custom_backward       a padded, zero-inserted tensor under a grouped convolution, the forward reused as the backward,
                      written out here from the description of the source system; on contiguous tensors, as that ran
custom_backward_here  the same in our case's memory format
autograd              our convolutions, both backwards left to autograd
copy                  of the pass's larger tensor: `share_of_copy_bandwidth` is our bytes, read and written once, a
                      second over the copy's

The shape is that of the larger image: `up` ends there, `down` starts there, and `blur` crops to it from one row and
column more, as after a transposed convolution. The passes are forward; backward: the gradient for x alone; double: the
gradient of the backward's result for the upstream gradient, which is what a gradient penalty adds.
"""

import argparse
import ctypes
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.step import describe
from errors import cli
from ops.resample import TAPS_1331
from ops.upfirdn2d import convolve, upfirdn2d

SHAPES = {"8x512x32x32": (8, 512, 32, 32), "8x256x64x64": (8, 256, 64, 64), "4x64x256x256": (4, 64, 256, 256)}
CASES: dict[str, dict[str, Any]] = {
    "blur": {"up": 1, "down": 1, "pad": (1, 1, 1, 1)},
    "down": {"up": 1, "down": 2, "pad": (1, 1, 1, 1)},
    "up": {"up": 2, "down": 1, "pad": (2, 1, 2, 1)},
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Op = Callable[[Tensor], Tensor]


class CustomBackward(torch.autograd.Function):
    """The form of the source system: what this repository's operator is measured against."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, up: int, down: int, pad: tuple[int, ...]) -> Tensor:
        """Zeros written out, padded in a copy, one grouped convolution with the 2-D filter."""
        n, c, h, w = x.shape
        if up > 1:
            x = F.pad(x.view(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).view(n, c, h * up, w * up)
        out = F.conv2d(F.pad(x, pad), taps.expand(c, 1, *taps.shape), stride=down, groups=c)
        ctx.save_for_backward(taps)
        ctx.arguments = up, down, pad, (w, h), (out.shape[3], out.shape[2])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The forward again, with pads that fit the true size."""
        (taps,) = ctx.saved_tensors
        up, down, pad, sizes, outs = ctx.arguments
        pads = []
        for axis, (size, out, k) in enumerate(zip(sizes, outs, taps.shape, strict=True)):
            pads += [k - 1 - pad[2 * axis], size * up - out * down + pad[2 * axis] - up + 1]
        gx = CustomBackward.apply(grad.contiguous(), taps.flip(0, 1), down, up, tuple(pads))
        return gx, None, None, None, None


def variants(case: str, x: Tensor) -> dict[str, tuple[Op, torch.memory_format]]:
    """The forms of one case by name, ours first, each with the layout it is run in."""
    settings = CASES[case]
    up, down, pad = settings["up"], settings["down"], settings["pad"]
    row = torch.tensor(TAPS_1331, dtype=x.dtype, device=x.device)
    here = torch.channels_last if not x.is_contiguous() else torch.contiguous_format

    def custom(x: Tensor) -> Tensor:
        return CustomBackward.apply(x, torch.outer(row, row), up, down, pad)

    def plain(x: Tensor) -> Tensor:
        return convolve(x, TAPS_1331, TAPS_1331, (up, up), (down, down), pad)

    forms = {"ours": (lambda x: upfirdn2d(x, TAPS_1331, TAPS_1331, **settings), here)}
    forms |= {"custom_backward": (custom, torch.contiguous_format), "autograd": (plain, here)}
    return forms | ({} if x.is_contiguous() else {"custom_backward_here": (custom, here)})


def passes(op: Op, x: Tensor) -> dict[str, Callable[[], Any]]:
    """The three passes of one form on x: each call does one and nothing before it."""
    inner = x.detach().requires_grad_()
    out = op(inner)
    upstream = torch.ones_like(out).requires_grad_()
    (grad,) = torch.autograd.grad(out, inner, upstream, create_graph=True)
    v = torch.ones_like(grad)

    def forward() -> Tensor:
        with torch.no_grad():
            return op(x)

    def backward() -> Tensor:
        return torch.autograd.grad(out, inner, upstream.detach(), retain_graph=True)[0]

    def double() -> Tensor:
        return torch.autograd.grad(grad, upstream, v, retain_graph=True)[0]

    return {"forward": forward, "backward": backward, "double": double}


def seconds(call: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Time of one call, of `repeats` in a row; the results are freed as they come."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000 / repeats
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def keep_freed_memory() -> None:
    """glibc gives freed blocks above 32 MB back and faults them in anew, 5 to 9 times the cost of a copy: forbid it."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def run_case(case: str, shape: str, dtype: str, layout: str, args: argparse.Namespace) -> None:
    """Print the three lines of one case."""
    n, c, h, w = SHAPES[shape]
    size = {"blur": (h + 1, w + 1), "down": (h, w), "up": (h // 2, w // 2)}[case]
    device = torch.device(args.device)
    x = torch.randn(n, c, *size, device=device).to(DTYPES[dtype], memory_format=LAYOUTS[layout])
    calls = {
        name: passes(op, x.contiguous(memory_format=memory_format))
        for name, (op, memory_format) in variants(case, x).items()
    }
    y = calls["ours"]["forward"]()
    larger = max(x, y, key=Tensor.numel)
    traffic = (x.numel() + y.numel()) / (2 * larger.numel())
    for which in ("forward", "backward", "double"):
        timed = {name: forms[which] for name, forms in calls.items()} | {"copy": larger.clone}
        times = measure(timed, args.rounds, args.repeats if device.type == "cuda" else 1, device)
        line = {
            "case": case, "shape": shape, "dtype": dtype, "layout": layout, "pass": which,
            "device": describe(device), "threads": torch.get_num_threads(), "torch": torch.__version__,
        }  # fmt: skip
        print(json.dumps(line | figures(times, traffic)), flush=True)


def measure(
    timed: dict[str, Callable[[], Any]], rounds: int, repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each call in each round, after two calls to warm up; who follows whom changes from round to round."""
    for call in timed.values():
        seconds(call, 2, device)
    times: dict[str, list[float]] = {name: [] for name in timed}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(timed), len(timed)):
            times[name].append(seconds(timed[name], repeats, device))
    return times


def figures(times: dict[str, list[float]], traffic: float) -> dict[str, Any]:
    """Medians and ratios of one line; traffic: the operation's bytes over the copy's."""
    ratios = {
        name: statistics.median(t / ours for t, ours in zip(values, times["ours"], strict=True))
        for name, values in times.items()
        if name != "ours"
    }
    return {
        "ms": {name: round(1000 * statistics.median(values), 3) for name, values in times.items()},
        "ratio": {name: round(value, 2) for name, value in ratios.items()},
        "share_of_copy_bandwidth": round(ratios["copy"] * traffic, 3),
    }


@cli
def main(argv: list[str] | None = None) -> int:
    """Run the asked cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--rounds", type=int, default=11, help="interleaved measurements a variant")
    parser.add_argument("--repeats", type=int, default=20, help="calls a measurement on a GPU; 1 on a CPU")
    parser.add_argument("--case", nargs="*", default=tuple(CASES), choices=tuple(CASES))
    parser.add_argument("--shape", nargs="*", default=tuple(SHAPES), choices=tuple(SHAPES))
    parser.add_argument("--dtype", nargs="*", default=("fp32",), choices=tuple(DTYPES))
    parser.add_argument("--layout", nargs="*", default=("channels_last",), choices=tuple(LAYOUTS))
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    for dtype in args.dtype:
        for layout in args.layout:
            for case in args.case:
                for shape in args.shape:
                    run_case(case, shape, dtype, layout, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
