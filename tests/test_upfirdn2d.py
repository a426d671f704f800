"""upfirdn2d against its slow reference, in value and both gradients, eager, under torch.func and compiled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, library, nn
from torch.nn import functional as F
from torch.testing import assert_close

from ops.resample import TAPS_1331, blur, downsample
from ops.upfirdn2d import _operator, convolve, upfirdn2d, upfirdn2d_reference

SKEWED = (0.5, -0.3, 0.9)
LONG = (0.02, -0.03, -0.1, 0.2, 0.6, 0.7, 0.3, -0.05, -0.1, 0.02, 0.03, -0.01)
# name: size (H, W), taps along x and y, settings
CASES: dict[str, tuple[tuple[int, int], tuple[float, ...], tuple[float, ...], dict[str, Any]]] = {
    "blur": ((7, 9), TAPS_1331, TAPS_1331, {"pad": (2, 1, 2, 1)}),
    "blur, pads alike": ((9, 7), TAPS_1331, TAPS_1331, {"pad": 1}),
    "down": ((8, 6), TAPS_1331, TAPS_1331, {"down": 2, "pad": 1}),
    "down, odd": ((9, 7), TAPS_1331, TAPS_1331, {"down": 2, "pad": 1}),
    "down, odd taps": ((9, 8), SKEWED, SKEWED, {"down": 2, "pad": (1, 0, 1, 0)}),
    "up": ((5, 4), TAPS_1331, TAPS_1331, {"up": 2, "pad": (2, 1, 2, 1)}),
    "up, skewed": ((5, 3), SKEWED, TAPS_1331, {"up": 2, "pad": (0, 3, 2, 5)}),
    "crop": ((9, 8), SKEWED, TAPS_1331, {"pad": (-2, 1, 3, -3)}),
    "crop, up": ((5, 4), TAPS_1331, SKEWED, {"up": 2, "pad": (-3, 2, -1, -2)}),
    "crop, down": ((9, 11), TAPS_1331, SKEWED, {"down": 2, "pad": (-1, -2, 0, -1)}),
    "per axis": ((5, 7), TAPS_1331, SKEWED, {"up": (2, 1), "down": (1, 2), "pad": (2, 1, 1, 1)}),
    "up and down": ((5, 4), LONG[:5], SKEWED, {"up": (3, 2), "down": (2, 3), "pad": (3, 1, 2, 2)}),
    "thirds": ((10, 8), TAPS_1331, SKEWED, {"down": 3, "pad": (2, 0, 1, 3)}),
    "long": ((6, 7), LONG, LONG, {"up": 2, "pad": (6, 5, 6, 5)}),
    "far pads": ((2, 3), SKEWED, SKEWED, {"up": (1, 2), "pad": (7, 0, 0, 6)}),
    "one pixel": ((1, 1), TAPS_1331, (1.0,), {"up": (3, 1), "pad": (2, 14, 0, 1)}),
}
LAYOUTS = (torch.contiguous_format, torch.channels_last)
HALF = {torch.bfloat16: 2**-8, torch.float16: 2**-11}


def image(
    size: tuple[int, int], dtype: torch.dtype = torch.float64, layout: torch.memory_format = LAYOUTS[0]
) -> Tensor:
    """Noise of 2 x 3 channels."""
    torch.manual_seed(0)
    return torch.randn(2, 3, *size, dtype=torch.float64).to(dtype).contiguous(memory_format=layout)


def three_orders(op: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value of op(x), gradient of a function of it, and gradient of a function of that gradient."""
    x = x.detach().requires_grad_()
    out = op(x)
    (first,) = torch.autograd.grad(out.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), x)
    return out.detach(), first.detach(), second


# Against the reference


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_in_value_and_gradients(case: str, layout: torch.memory_format) -> None:
    size, fx, fy, settings = CASES[case]
    x = image(size, layout=layout)
    ours = three_orders(lambda x: upfirdn2d(x, fx, fy, **settings), x)
    reference = three_orders(lambda x: upfirdn2d_reference(x, fx, fy, **settings), x)
    assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    assert ours[0].is_contiguous(memory_format=layout) or x.is_contiguous()  # as one pixel is in both
    changed = upfirdn2d(x.requires_grad_(), fx, fy, **settings).add_(1)  # in place, as a bias is added
    assert_close(changed.detach(), ours[0] + 1)
    x32 = image(size, torch.float32, layout)
    assert_close(upfirdn2d(x32, fx, fy, **settings).double(), reference[0], rtol=1e-5, atol=1e-6)


def test_the_reference_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert upfirdn2d_reference(x, (1.0, 10.0), (1.0,), pad=(1, 0, 0, 0)).flatten().tolist() == [1, 12, 23]
    assert upfirdn2d_reference(x, (1.0,), (2.0,), up=(2, 1)).flatten().tolist() == [2, 0, 4, 0, 6, 0]
    assert upfirdn2d_reference(x, (1.0,), (1.0,), down=(2, 1)).flatten().tolist() == [1, 3]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("case", ["blur", "down, odd", "up", "up, skewed", "long"])
def test_half_precision_rounds_only_the_result(case: str, dtype: torch.dtype) -> None:
    size, fx, fy, settings = CASES[case]
    for layout in LAYOUTS:
        x = image(size, dtype, layout)
        out = upfirdn2d(x, fx, fy, **settings)
        exact = upfirdn2d_reference(x.double(), fx, fy, **settings)
        assert out.dtype == dtype and out.is_contiguous(memory_format=layout)
        assert_close(out.double(), exact, rtol=HALF[dtype], atol=1e-5)


@pytest.mark.parametrize("up", [1, 2])
def test_autocast_changes_nothing(up: int) -> None:
    x = image((7, 9), torch.float32)

    def op(x: Tensor) -> Tensor:
        return upfirdn2d(x, TAPS_1331, SKEWED, up=up)

    expected = op(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(op(x), expected)
        assert_close(torch.func.vmap(lambda x: op(x[None])[0])(x), expected)


# Gradients and registration


@pytest.mark.parametrize("case", ["blur", "down, odd", "up, skewed", "crop", "up and down"])
def test_gradients_by_differences(case: str) -> None:
    size, fx, fy, settings = CASES[case]
    x = image(size)[:1, :2].clone().requires_grad_()

    def op(x: Tensor) -> Tensor:
        return upfirdn2d(x, fx, fy, **settings)

    assert torch.autograd.gradcheck(op, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(op, x, fast_mode=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["blur", "down, odd", "up, skewed"])
def test_registration(case: str, layout: torch.memory_format) -> None:
    size, fx, fy, settings = CASES[case]
    factors = {name: (settings.get(name, 1),) * 2 for name in ("up", "down")}
    pad = settings["pad"] if isinstance(settings["pad"], tuple) else (settings["pad"],) * 4
    x = image(size, layout=layout).requires_grad_()
    library.opcheck(_operator, (x, fx, fy, factors["up"], factors["down"], pad))


def test_an_expanded_gradient_and_the_meta_device() -> None:
    x = image((8, 8), layout=torch.channels_last).requires_grad_()
    upfirdn2d(x, TAPS_1331, TAPS_1331, down=2, pad=1).sum().backward()  # its gradient has no strides
    ones = torch.ones(2, 3, 4, 4, dtype=torch.float64)
    assert_close(x.grad, upfirdn2d(ones, TAPS_1331, TAPS_1331, up=2, pad=(2, 1, 2, 1)))
    out = upfirdn2d(image((5, 4)).to("meta"), TAPS_1331, TAPS_1331, up=2, pad=(2, 1, 2, 1))
    assert out.shape == (2, 3, 10, 8) and out.is_meta


# Compiled


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(dynamic: bool) -> None:
    torch._dynamo.reset()

    def net(x: Tensor) -> Tensor:
        x = F.leaky_relu(upfirdn2d(x, TAPS_1331, SKEWED, down=2, pad=(1, 1, 2, 0)))
        return upfirdn2d(x, TAPS_1331, TAPS_1331, up=2, pad=(2, 1, 2, 1))

    compiled = torch.compile(net, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for size in ((9, 8), (10, 12), (6, 7)) if dynamic else ((9, 8),):
        x, same = (image(size).requires_grad_() for _ in range(2))
        compiled(x).pow(2).sum().backward()
        net(same).pow(2).sum().backward()
        assert_close(x.grad, same.grad)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile generates C++ for the CPU: no g++")
def test_compiles_to_code() -> None:
    torch._dynamo.reset()
    x = image((9, 8), torch.float32, torch.channels_last)
    compiled = torch.compile(lambda x: blur(x, TAPS_1331) * 2, fullgraph=True)
    assert_close(compiled(x), blur(x, TAPS_1331) * 2)


class Critic(nn.Module):
    """A small D whose input passes the operation before and after something that is not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64)
        self.last = nn.Conv2d(4, 1, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N,)."""
        x = blur(torch.tanh(self.first(x)), TAPS_1331)
        x = downsample(torch.tanh(x), TAPS_1331)
        return self.last(x).sum((1, 2, 3))


def penalty_gradient(D: Critic, x: Tensor, *, func: bool, compiled: bool) -> list[Tensor]:
    """Gradient for D's weights of |grad D(x)|^2 alone, the inner gradient by torch.func or by autograd."""

    def by_func(x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: D(x).sum())(x).square().sum()

    def by_autograd(x: Tensor) -> Tensor:
        return torch.autograd.grad(D(x).sum(), x, create_graph=True)[0].square().sum()

    penalty = by_func if func else by_autograd
    if compiled:
        torch._dynamo.reset()
        penalty = torch.compile(penalty, backend="aot_eager", fullgraph=True)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        value = penalty(x.detach() if func else x.detach().requires_grad_())
        D.zero_grad()
        value.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in D.parameters()]


@pytest.mark.parametrize("func", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_second_order_gradient_survives_every_mode(func: bool, compiled: bool) -> None:
    """torch 2.15 drops it in both compiled modes from an autograd.Function, with no error."""
    torch.manual_seed(0)
    D, x = Critic(), image((9, 8))
    got = penalty_gradient(D, x, func=func, compiled=compiled)
    op = lambda x, taps: upfirdn2d_reference(x, taps, taps, pad=(2, 1, 2, 1))  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "blur", op)
        patch.setattr(
            sys.modules[__name__],
            "downsample",
            lambda x, taps: upfirdn2d_reference(x, taps, taps, down=2, pad=1),
        )
        expected = penalty_gradient(D, x, func=False, compiled=False)
    assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert all(g.abs().max() > 1e-3 for g in expected[:3])  # the last bias has no part in the penalty


# Mistakes


@pytest.mark.parametrize(
    ("shape", "taps", "settings", "message"),
    [
        ((3, 8, 8), TAPS_1331, {}, r"\(3, 8, 8\): expected floating point \(N, C, H, W\)"),
        (
            (1, 1, 3, 8),
            TAPS_1331,
            {},
            r"\(4, 4\) does not fit in the padded input of \(3, 8\): input \(1, 1, 3, 8\)",
        ),
        ((1, 1, 8, 8), (), {}, r"filter of \(H, W\) \(0, 0\) does not fit"),
        ((1, 1, 8, 8), (1.0,), {"up": 0}, r"up 0: give one factor or \(x, y\), each 1 or more"),
        ((1, 1, 8, 8), (1.0,), {"down": (1, 1, 1)}, r"down \(1, 1, 1\): give one factor"),
        (
            (1, 1, 8, 8),
            (1.0,),
            {"pad": (1, 1)},
            r"pad \(1, 1\): give one width or \(left, right, top, bottom\)",
        ),
        (
            (1, 1, 8, 8),
            (1.0,),
            {"pad": (-8, 9, 0, 0)},
            r"crops all of the upsampled input of \(H, W\) \(8, 8\)",
        ),
    ],
)
def test_mistakes_are_named(shape: tuple[int, ...], taps: tuple, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        upfirdn2d(torch.zeros(shape), taps, taps, **settings)


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"upfirdn2d of torch.uint8 \(1, 1, 8, 8\): expected floating point"):
        upfirdn2d(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), TAPS_1331, TAPS_1331)


# The kernel for GPUs


def kernel_error(case: str, dtype: torch.dtype, layout: torch.memory_format, channels: int) -> float:
    """Largest difference of the kernel under Triton's interpreter from the reference, over the largest value."""
    from ops.upfirdn2d_triton import upfirdn2d_triton

    size, fx, fy, settings = CASES[case]
    factors = {name: settings.get(name, 1) for name in ("up", "down")}
    factors = {name: (value,) * 2 if isinstance(value, int) else value for name, value in factors.items()}
    pad = settings["pad"] if isinstance(settings["pad"], tuple) else (settings["pad"],) * 4
    x = torch.randn(2, channels, *size, dtype=torch.float64).to(dtype).contiguous(memory_format=layout)
    exact = upfirdn2d_reference(x.double(), fx, fy, **settings)
    out = torch.full_like(exact, float("nan"), dtype=dtype).contiguous(memory_format=layout)
    upfirdn2d_triton(x, fx, fy, factors["up"], factors["down"], pad, out)
    return ((out.double() - exact).abs().max() / exact.abs().max()).item()


def check_kernel() -> None:
    """Run in a process of its own, in which Triton interprets its kernels."""
    torch.manual_seed(0)
    # Triton's interpreter cuts bfloat16 where a GPU rounds.
    tolerances = {torch.float32: 1e-6, torch.float64: 1e-15, torch.float16: 2**-11, torch.bfloat16: 2**-7}
    for i, case in enumerate(CASES):
        for j, layout in enumerate(LAYOUTS):
            dtype = list(tolerances)[(i + 2 * j) % 4]
            error = kernel_error(case, dtype, layout, channels=16 if i % 3 == 0 else 3)
            print(f"{case}, {dtype}, {layout}: {error:.1e}")
            assert error <= tolerances[dtype]


def test_kernel_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    code = "from tests.test_upfirdn2d import check_kernel; check_kernel()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("capability", [80, 90])
def test_kernel_compiles_without_a_gpu(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ops.upfirdn2d_triton import kernel_constants, upfirdn2d_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    names = upfirdn2d_kernel.arg_names
    for dtype, layout, up, down, pad in (
        ("fp32", LAYOUTS[0], 1, 1, (1, 1, 1, 1)),
        ("bf16", LAYOUTS[1], 1, 2, (1, 1, 1, 1)),
        ("fp16", LAYOUTS[1], 2, 1, (2, 1, 2, 1)),
    ):
        x = torch.empty(
            2, 64, 8, 8, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}.get(dtype, torch.float16)
        )
        x = x.contiguous(memory_format=layout)
        fixed = kernel_constants(x, TAPS_1331, TAPS_1331, (up, up), (down, down), pad) | {"WIDE": False}
        aligned = ("x", "y", "size")
        if layout == LAYOUTS[0]:
            fixed["ci"] = 1  # as the launcher specialises it
        else:
            aligned += ("ci",)
        types = {n: "constexpr" if n in fixed else f"*{dtype}" if n in ("x", "y") else "i32" for n in names}
        attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned}
        source = ASTSource(
            upfirdn2d_kernel, types, {(names.index(n),): v for n, v in fixed.items()}, attributes
        )
        code = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm
        assert code["cubin"]
        assert ("ld.global.v4.b32" in code["ptx"]) == (layout == torch.channels_last)  # 16 bytes a load


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_kernel_on_a_gpu(case: str, dtype: torch.dtype) -> None:
    size, fx, fy, settings = CASES[case]
    for layout in LAYOUTS:
        x = image(size, dtype, layout).cuda()
        out = upfirdn2d(x, fx, fy, **settings)
        exact = upfirdn2d_reference(x.double(), fx, fy, **settings)
        assert out.dtype == dtype and (out.is_contiguous(memory_format=layout) or x.is_contiguous())
        assert_close(out.double(), exact, rtol=HALF.get(dtype, 1e-5), atol=1e-5)
        if dtype == torch.float64:
            ours = three_orders(lambda x: upfirdn2d(x, fx, fy, **settings), x)
            reference = three_orders(lambda x: upfirdn2d_reference(x, fx, fy, **settings), x)
            assert_close(ours, reference, rtol=1e-12, atol=1e-12)


def test_every_compared_form_computes_the_same() -> None:
    """What benchmarks/upfirdn2d.py compares in time is equal in value and gradients."""
    from benchmarks import upfirdn2d as benchmark

    x = image((6, 6), layout=torch.channels_last)
    for case in benchmark.CASES:
        forms = benchmark.variants(case, x)
        ours = three_orders(forms.pop("ours")[0], x)
        assert len(forms) == 3
        for op, layout in forms.values():
            assert_close(three_orders(op, x.contiguous(memory_format=layout)), ours)


def test_plain_convolutions_equal_the_operator() -> None:
    x = image((6, 7))
    plain = convolve(x, LONG, LONG, (2, 2), (1, 1), (6, 5, 6, 5))
    assert_close(plain, upfirdn2d(x, LONG, LONG, up=2, pad=(6, 5, 6, 5)))
