"""Upsample with zeros, filter, downsample: the resampling of StyleGAN, whose gradient of any order costs one forward.

The backward of this operation is the operation itself: up and down swapped, taps reversed, pads computed from the
true input size. It is registered as an operator of its own and is never a torch.autograd.Function: a compiled gradient
penalty drops the second-order gradient of one without a word (torch 2.15). arXiv:1912.04958 appendix B.
"""

import importlib.util
import math
from collections.abc import Sequence

import torch
from torch import Tensor, library
from torch.nn import functional as F

from ops.precision import without_autocast

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_MAX_TAPS_2D = 36  # of a filter applied in one pass; a longer one costs less as a row and a column
_FEW_CHANNELS = 8  # contiguous on a CPU, up to so many cost 2 to 8 times what they do as channels_last

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]


def upfirdn2d(
    x: Tensor,
    fx: tuple[float, ...],
    fy: tuple[float, ...],
    *,
    up: int | Pair = 1,
    down: int | Pair = 1,
    pad: int | Pads = 0,
) -> Tensor:
    """Insert zeros, pad, convolve with the filter outer(fy, fx), keep every `down`-th pixel; no gain.

    x (N, C, H, W) -> (N, C, (H up + top + bottom - len(fy)) // down + 1, likewise in x), in x's dtype and memory
    format; half precision accumulates in float32. up and down: one factor, or (x, y). pad: one width, or (left, right,
    top, bottom) of the upsampled image, negative widths crop. A true convolution: the taps are reversed. Raises
    ValueError for another number of dimensions, integers, a filter longer than the padded input and a crop that leaves
    nothing.
    """
    (ux, uy), (dx, dy) = _pair("up", up), _pair("down", down)
    pads = (pad,) * 4 if isinstance(pad, int) else tuple(pad)
    _check(x, fx, fy, (ux, uy), pads)
    if _must_be_traceable(x):
        return convolve(x, fx, fy, (ux, uy), (dx, dy), pads)
    return _operator(x, fx, fy, (ux, uy), (dx, dy), pads)


def upfirdn2d_reference(
    x: Tensor,
    fx: tuple[float, ...],
    fy: tuple[float, ...],
    *,
    up: int | Pair = 1,
    down: int | Pair = 1,
    pad: int | Pads = 0,
) -> Tensor:
    """What upfirdn2d computes, step by step: zeros, pads, one product a tap, strides. Slow; for tests."""
    (ux, uy), (dx, dy) = _pair("up", up), _pair("down", down)
    left, right, top, bottom = (pad,) * 4 if isinstance(pad, int) else pad
    n, c, h, w = x.shape
    grid = F.pad(x.reshape(n, c, h, 1, w, 1), (0, ux - 1, 0, 0, 0, uy - 1)).reshape(n, c, h * uy, w * ux)
    grid = F.pad(grid, (left, right, top, bottom))
    height, width = grid.shape[2] - len(fy) + 1, grid.shape[3] - len(fx) + 1
    rows = sum(f * grid[:, :, i : i + height] for i, f in enumerate(reversed(fy)))
    out = sum(f * rows[:, :, :, i : i + width] for i, f in enumerate(reversed(fx)))
    return out[:, :, ::dy, ::dx]


def _pair(name: str, factor: int | Pair) -> Pair:
    """(x, y) of a factor given once or per axis; ValueError below 1."""
    pair = (factor, factor) if isinstance(factor, int) else tuple(factor)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name} {factor}: give one factor or (x, y), each 1 or more")
    return pair


def _check(x: Tensor, fx: Sequence[float], fy: Sequence[float], up: Pair, pads: Sequence[int]) -> None:
    """ValueError for what upfirdn2d cannot compute."""
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"upfirdn2d of {x.dtype} {tuple(x.shape)}: expected floating point (N, C, H, W)")
    if len(pads) != 4:
        raise ValueError(f"pad {pads}: give one width or (left, right, top, bottom)")
    (height, width), (left, right, top, bottom) = (x.shape[2] * up[1], x.shape[3] * up[0]), pads
    padded = (height + top + bottom, width + left + right)
    if not fx or not fy or padded[0] < len(fy) or padded[1] < len(fx):
        raise ValueError(
            f"a filter of (H, W) {(len(fy), len(fx))} does not fit in the padded input of {padded}: "
            f"input {tuple(x.shape)}, up (x, y) {up}, pad {tuple(pads)}"
        )
    if min(left, right) <= -width or min(top, bottom) <= -height:
        raise ValueError(f"pad {tuple(pads)} crops all of the upsampled input of (H, W) {(height, width)}")


def _must_be_traceable(x: Tensor) -> bool:
    """Whether torch must see through the operation, as it does through plain convolutions.

    Always inside torch.func, which cannot enter a custom operator, and when compiled for a CPU.
    """
    inside_func = torch._C._functorch.peek_interpreter_stack() is not None
    return inside_func or (torch.compiler.is_compiling() and not x.is_cuda)


# The operator


@library.custom_op("gan::upfirdn2d", mutates_args=())
def _operator(
    x: Tensor,
    fx: Sequence[float],
    fy: Sequence[float],
    up: Sequence[int],
    down: Sequence[int],
    pad: Sequence[int],
) -> Tensor:
    """upfirdn2d with every argument per axis and without checks."""
    out = convolve(x, fx, fy, up, down, pad)
    return out.clone() if out._is_view() else out  # of an operator's view, autograd forbids changes in place


@_operator.register_kernel("cuda")
def _(
    x: Tensor,
    fx: Sequence[float],
    fy: Sequence[float],
    up: Sequence[int],
    down: Sequence[int],
    pad: Sequence[int],
) -> Tensor:
    """By one Triton kernel, by native convolutions where Triton is missing."""
    if _HAS_TRITON:
        from ops.upfirdn2d_triton import supports, upfirdn2d_triton

        if supports(fx, fy, up):
            return upfirdn2d_triton(x, fx, fy, up, down, pad, _empty_result(x, fx, fy, up, down, pad))
    return convolve(x, fx, fy, up, down, pad)


@_operator.register_fake
def _empty_result(
    x: Tensor,
    fx: Sequence[float],
    fy: Sequence[float],
    up: Sequence[int],
    down: Sequence[int],
    pad: Sequence[int],
) -> Tensor:
    """A tensor of the result's shape and memory format."""
    width = (x.shape[3] * up[0] + pad[0] + pad[1] - len(fx)) // down[0] + 1
    height = (x.shape[2] * up[1] + pad[2] + pad[3] - len(fy)) // down[1] + 1
    return torch.empty(
        (x.shape[0], x.shape[1], height, width), dtype=x.dtype, device=x.device, memory_format=_format(x)
    )


def _remember(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    """Keep the arguments and sizes: the backward needs no tensor."""
    x, *ctx.arguments = inputs
    ctx.sizes = x.shape[3], x.shape[2], output.shape[3], output.shape[2]


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The transposed operation: the same one, spread where it gathered."""
    fx, fy, up, down, pad = ctx.arguments
    w, h, ow, oh = ctx.sizes
    pads = []
    for n_taps, u, d, size, out, before in (
        (len(fx), up[0], down[0], w, ow, pad[0]),
        (len(fy), up[1], down[1], h, oh, pad[2]),
    ):
        # From the true size: with down 2 an odd size has a last pixel that no output saw.
        pads += [n_taps - 1 - before, size * u - out * d + before - u + 1]
    return _operator(grad, fx[::-1], fy[::-1], down, up, pads), None, None, None, None, None


_operator.register_autograd(_backward, setup_context=_remember)


# By native convolutions


def _format(x: Tensor) -> torch.memory_format:
    """channels_last for what is laid out so, contiguous for everything else."""
    last = x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    """x in this memory format; by permutations, since torch.func.vmap knows no memory formats."""
    if layout == torch.contiguous_format:
        return x.contiguous()
    last = x.permute(0, 2, 3, 1)
    return x if last.is_contiguous() else last.contiguous().permute(0, 3, 1, 2)


def _exact_in_bfloat16(fx: Sequence[float], fy: Sequence[float]) -> bool:
    """Whether every product of taps is a number of 8 significant bits, so that the filter is not rounded."""
    return all((math.frexp(a * b)[0] * 2.0**8).is_integer() for a in fx for b in fy)


def convolve(
    x: Tensor,
    fx: Sequence[float],
    fy: Sequence[float],
    up: Sequence[int],
    down: Sequence[int],
    pad: Sequence[int],
) -> Tensor:
    """upfirdn2d by depthwise convolutions, in plain operations that torch can differentiate, compile and map."""
    up_taken, down_taken = max(up) > 1, max(down) > 1
    native = x.dtype == torch.bfloat16 and not up_taken and _exact_in_bfloat16(fx, fy)
    if x.dtype in (torch.float16, torch.bfloat16) and not native:
        # On CPUs depthwise convolution is slow in float16, up to 100 times, and in bfloat16 where it is transposed.
        return convolve(x.float(), fx, fy, up, down, pad).to(x.dtype)
    layout = _format(x)
    if not x.is_cuda and 1 < x.shape[1] <= _FEW_CHANNELS:
        x = _laid_out(x, torch.channels_last)
    if (up_taken and down_taken) or (min(len(fx), len(fy)) > 1 and len(fx) * len(fy) > _MAX_TAPS_2D):
        x = _convolve_once(x, fx, (1.0,), (up[0], 1), (down[0], 1), (*pad[:2], 0, 0))
        out = _convolve_once(x, (1.0,), fy, (1, up[1]), (1, down[1]), (0, 0, *pad[2:]))
    else:
        out = _convolve_once(x, fx, fy, up, down, pad)
    return _laid_out(out, layout)


def _convolve_once(
    x: Tensor,
    fx: Sequence[float],
    fy: Sequence[float],
    up: Sequence[int],
    down: Sequence[int],
    pad: Sequence[int],
) -> Tensor:
    """One depthwise convolution; where it upsamples, strides are taken from its result."""
    if max(up) > 1:
        out = _spread(x, fx, fy, up, pad)
        return out if max(down) == 1 else out[:, :, :: down[1], :: down[0]]
    return _gather(x, fx, fy, down, pad)


def _weight(x: Tensor, fx: Sequence[float], fy: Sequence[float]) -> Tensor:
    """outer(fy, fx) for each channel, (C, 1, len(fy), len(fx))."""
    taps = torch.tensor([[a * b for a in fx] for b in fy], dtype=x.dtype, device=x.device)
    return taps.expand(x.shape[1], 1, len(fy), len(fx))


def _gather(
    x: Tensor, fx: Sequence[float], fy: Sequence[float], down: Sequence[int], pad: Sequence[int]
) -> Tensor:
    """Convolution with strides. Pads that are alike on both sides are the convolution's own, others a copy."""
    native, rest = [0, 0], list(pad)
    for axis, (size, n_taps) in enumerate(((x.shape[3], len(fx)), (x.shape[2], len(fy)))):
        before, after = pad[2 * axis : 2 * axis + 2]
        count = (size + before + after - n_taps) // down[axis] + 1
        # What the last window leaves over may be added or left out freely.
        if before >= 0 and (size + 2 * before - n_taps) // down[axis] + 1 == count:
            native[axis], rest[2 * axis : 2 * axis + 2] = before, [0, 0]
    x = _fit(x, rest)
    weight = _weight(x, fx[::-1], fy[::-1])
    with without_autocast(x):
        return F.conv2d(
            x, weight, stride=(down[1], down[0]), padding=(native[1], native[0]), groups=x.shape[1]
        )


def _spread(
    x: Tensor, fx: Sequence[float], fy: Sequence[float], up: Sequence[int], pad: Sequence[int]
) -> Tensor:
    """Transposed convolution with strides; pads are what it crops from its full result."""
    native, extra, rest = [0, 0], [0, 0], [0, 0, 0, 0]
    for axis, n_taps in enumerate((len(fx), len(fy))):
        before, after = n_taps - 1 - pad[2 * axis], n_taps - up[axis] - pad[2 * axis + 1]  # to crop
        extra[axis] = before - after if 0 <= before - after < up[axis] else 0
        native[axis] = max(min(before, after + extra[axis]), 0)
        rest[2 * axis : 2 * axis + 2] = [native[axis] - before, native[axis] - extra[axis] - after]
    with without_autocast(x):
        out = F.conv_transpose2d(
            x, _weight(x, fx, fy), stride=(up[1], up[0]), padding=(native[1], native[0]),
            output_padding=(extra[1], extra[0]), groups=x.shape[1],
        )  # fmt: skip
    return _fit(out, rest)


def _fit(x: Tensor, pad: Sequence[int]) -> Tensor:
    """Pad, then crop: a crop on one side may take more than there was before the other was padded."""
    for part in ([max(p, 0) for p in pad], [min(p, 0) for p in pad]):
        x = F.pad(x, part) if any(part) else x
    return x
