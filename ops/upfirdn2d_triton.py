"""upfirdn2d on a GPU: one Triton kernel for both memory formats, any factors, pads, crops and taps.

A program makes ROWS output rows of BLOCK neighbours along q = (plane, column, channel), the order of the memory:
contiguous tensors have N C planes of one channel, channels_last ones N planes of C. Since q crosses planes, small maps
fill their blocks too. Each input row is read once, filtered along the row and added to the output rows that it
touches, so that a blur of 4 x 4 reads 7 values an output where a 2-D filter reads 16. Inserted zeros are never
visited. Sums are in float32, of float64 in float64.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_MAX_ROWS = 4
_MAX_TAPS = 64  # of one axis: the loops over taps are unrolled


@triton.jit
def _add_row(acc, row, FY: tl.constexpr, k: tl.constexpr):
    """acc plus the row times tap k of a window, where there is one."""
    if k >= 0 and k < len(FY):
        acc += row * FY[len(FY) - 1 - k]
    return acc


@triton.jit
def _filtered_row(x, first, live, ix, phase, w, ci, FX: tl.constexpr, UX: tl.constexpr, ACC: tl.constexpr):
    """One input row under the filter, at every output column of the block."""
    row = tl.zeros(ix.shape, ACC)
    for i in tl.static_range((len(FX) + UX - 1) // UX):
        inside = live & (ix + i >= 0) & (ix + i < w)
        value = tl.load(x + first + i * ci, mask=inside, other=0.0).to(ACC)
        if UX == 1:
            row += value * FX[len(FX) - 1 - i]
        else:
            for p in tl.static_range(UX):  # which taps meet pixels, and which zeros, depends on the column
                if p + i * UX < len(FX):
                    row += tl.where(phase == p, value * FX[len(FX) - 1 - p - i * UX], 0.0)
    return row


@triton.jit
def _store_row(y, acc, first, live, oy, oh, stride):
    """Write row oy, if the image has it."""
    oy += tl.zeros(acc.shape, tl.int32)  # a block, since Triton's interpreter mixes no scalar into a mask
    tl.store(y + first + oy * stride, acc.to(y.dtype.element_ty), mask=live & (oy < oh))


@triton.jit
def upfirdn2d_kernel(
    x, y, h, w, oh, ow, ci, size,
    FX: tl.constexpr, FY: tl.constexpr, UX: tl.constexpr, UY: tl.constexpr, DX: tl.constexpr, DY: tl.constexpr,
    PX: tl.constexpr, PY: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Rows ROWS * program_id(1) and following, at BLOCK of the `size` places of a row of all planes."""
    ACC: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    q = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    q = q * BLOCK + tl.arange(0, BLOCK)
    live = q < size
    column = q // ci
    plane = column // ow
    # Window of the upsampled row: from u, whose first pixel that is not an inserted zero is ix, `phase` further on.
    # Triton's division truncates: the bias keeps it above zero.
    BIAS: tl.constexpr = max(PX, 0) // UX + 1
    u = (column - plane * ow) * DX - PX
    ix = (u + UX - 1 + BIAS * UX) // UX - BIAS
    phase = ix * UX - u
    oy = tl.program_id(1) * ROWS
    # ROWS * DY is a multiple of UY, so that every program begins at the same phase.
    PHASE: tl.constexpr = PY % UY
    iy = oy * DY // UY - (PY - PHASE) // UY
    from_plane = plane * h * w * ci + ix * ci + (q - column * ci)
    acc0 = tl.zeros([BLOCK], ACC)
    acc1 = tl.zeros([BLOCK], ACC)
    acc2 = tl.zeros([BLOCK], ACC)
    acc3 = tl.zeros([BLOCK], ACC)
    for j in tl.static_range(((ROWS - 1) * DY + len(FY) - PHASE + UY - 1) // UY):
        rows = iy + j + tl.zeros([BLOCK], tl.int32)
        row = _filtered_row(
            x,
            from_plane + rows.to(q.dtype) * w * ci,
            live & (rows >= 0) & (rows < h),
            ix,
            phase,
            w,
            ci,
            FX,
            UX,
            ACC,
        )
        acc0 = _add_row(acc0, row, FY, PHASE + j * UY)
        acc1 = _add_row(acc1, row, FY, PHASE + j * UY - DY)
        acc2 = _add_row(acc2, row, FY, PHASE + j * UY - 2 * DY)
        acc3 = _add_row(acc3, row, FY, PHASE + j * UY - 3 * DY)
    stride = (ow * ci).to(tl.int64) if WIDE else ow * ci
    to = q + plane * (oh - 1) * stride
    _store_row(y, acc0, to, live, oy, oh, stride)
    if ROWS > 1:
        _store_row(y, acc1, to, live, oy + 1, oh, stride)
    if ROWS > 2:
        _store_row(y, acc2, to, live, oy + 2, oh, stride)
    if ROWS > 3:
        _store_row(y, acc3, to, live, oy + 3, oh, stride)


def kernel_constants(
    x: Tensor,
    fx: Sequence[float],
    fy: Sequence[float],
    up: Sequence[int],
    down: Sequence[int],
    pad: Sequence[int],
) -> dict[str, object]:
    """What one case fixes in the kernel; x in one of the two memory formats."""
    # Neighbours in q share a window: 16 bytes a load.
    wide_loads = not x.is_contiguous() and x.shape[1] % 16 == 0
    return {
        "FX": tuple(fx), "FY": tuple(fy), "UX": up[0], "UY": up[1], "DX": down[0], "DY": down[1],
        "PX": pad[0], "PY": pad[2], "ROWS": _MAX_ROWS // up[1] * up[1],
        "BLOCK": 128 * 16 // x.element_size() if wide_loads else 256,
    }  # fmt: skip


def supports(fx: Sequence[float], fy: Sequence[float], up: Sequence[int]) -> bool:
    """Whether the kernel has this case: short filters, upsampling along y by no more than its rows."""
    return max(len(fx), len(fy)) <= _MAX_TAPS and up[1] <= _MAX_ROWS


def upfirdn2d_triton(
    x: Tensor,
    fx: Sequence[float],
    fy: Sequence[float],
    up: Sequence[int],
    down: Sequence[int],
    pad: Sequence[int],
    out: Tensor,
) -> Tensor:
    """Compute ops.upfirdn2d.upfirdn2d of a supported case into `out`, of x's memory format; returns it."""
    n, c, h, w = x.shape
    oh, ow = out.shape[2:]
    last = not out.is_contiguous()
    x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    if out.numel() == 0:
        return out
    ci = c if last else 1
    size = n * c * ow
    constants = kernel_constants(out, fx, fy, up, down, pad)
    # Less than the range of 32 bits, since a window may begin before or behind the tensor.
    constants["WIDE"] = max(x.numel(), out.numel()) >= 2**31 - 2**20
    grid = (triton.cdiv(size, constants["BLOCK"]), triton.cdiv(oh, constants["ROWS"]))
    with torch.cuda.device_of(x):
        upfirdn2d_kernel[grid](x, out, h, w, oh, ow, ci, size, **constants)
    return out
