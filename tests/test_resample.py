"""Blurring and resampling: shapes, constants, and the fused convolutions against their parts."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from ops.resample import TAPS_121, TAPS_1331, blur, conv_down, conv_up, downsample, upsample

TAPS = (TAPS_1331, TAPS_121, (0.5, 0.5), (0.1, 0.2, 0.4, 0.2, 0.1))


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("taps", TAPS)
def test_shapes(taps: tuple[float, ...]) -> None:
    x = torch.randn(2, 3, 10, 7)
    assert blur(x, taps).shape == x.shape
    assert upsample(x, taps).shape == (2, 3, 20, 14)
    assert downsample(x, taps).shape == (2, 3, 5, 3)


@pytest.mark.parametrize("taps", TAPS[:3])
def test_a_constant_stays_one_inside(taps: tuple[float, ...]) -> None:
    ones = torch.ones(1, 1, 8, 8)
    for image in (
        blur(ones, taps),
        upsample(ones, taps),
        downsample(ones, taps),
        downsample(upsample(ones, taps), taps),
    ):
        inner = image[:, :, 2:-2, 2:-2] if image.shape[2] > 4 else image[:, :, 1:-1, 1:-1]
        assert_close(inner, torch.ones_like(inner))


def test_up_and_down_are_transposes_of_each_other() -> None:
    x, y = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 10, 8)
    assert_close((upsample(x, TAPS_1331) * y).sum(), 4 * (x * downsample(y, TAPS_1331)).sum())


def test_upsampling_by_hand() -> None:
    x = torch.tensor([[[[4.0, 8.0]]]]).expand(1, 1, 4, 2)
    # 3/4 and 1/4, zeros outside
    assert_close(upsample(x, TAPS_1331)[0, 0, 4], torch.tensor([3.0, 5.0, 7.0, 6.0]))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("taps", TAPS)
def test_fused_convolutions_equal_their_parts(taps: tuple[float, ...], k: int, groups: int) -> None:
    x, weight = torch.randn(2, 4, 12, 14), torch.randn(6, 4 // groups, k, k)
    up = conv_up(x, weight, taps, groups)
    parts = F.conv2d(upsample(x, taps), weight.flip(2, 3), padding=k // 2, groups=groups)
    assert up.shape == (2, 6, 24, 28)
    assert_close(up[:, :, 6:-6, 6:-6], parts[:, :, 6:-6, 6:-6])
    down = conv_down(x, weight, taps, groups)
    assert down.shape == (2, 6, 6, 7)
    if k == 1:
        assert_close(down, F.conv2d(downsample(x, taps), weight, groups=groups))


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("taps", TAPS)
def test_down_convolution_is_blur_then_stride(taps: tuple[float, ...], k: int) -> None:
    x, weight = torch.randn(2, 4, 12, 14), torch.randn(6, 4, k, k)
    # downsample keeps the pixels (len - 1) // 2 before blur's: shift by one where the filter is even.
    blurred = F.pad(blur(F.pad(x, (4, 4, 4, 4)), taps), (-4, -4, -4, -4))
    shift = (len(taps) - 1) // 2 - len(taps) // 2
    blurred = torch.roll(blurred, (shift, shift), (2, 3))
    parts = F.conv2d(blurred, weight, stride=2, padding=k // 2)
    assert_close(conv_down(x, weight, taps)[:, :, 2:-2, 2:-2], parts[:, :, 2:-2, 2:-2])


@pytest.mark.parametrize("shape", [(6, 4, 2, 2), (6, 4, 3, 1), (6, 3, 3, 3), (6, 4, 3)])
def test_unfit_kernels_are_refused(shape: tuple[int, ...]) -> None:
    for op in (conv_up, conv_down):
        with pytest.raises(
            ValueError, match=r"on an input of \(2, 4, 8, 8\): expected \(O, C / groups, k, k\)"
        ):
            op(torch.zeros(2, 4, 8, 8), torch.zeros(shape), TAPS_1331)


@pytest.mark.parametrize("op", [conv_up, conv_down])
def test_mixed_dtypes_need_autocast(op: Callable[..., torch.Tensor]) -> None:
    x, weight = torch.zeros(2, 4, 8, 8, dtype=torch.bfloat16), torch.zeros(6, 4, 3, 3, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"torch.float32 and torch.bfloat16, give one dtype or use autocast"):
        op(x, weight, TAPS_1331)
    with torch.autocast("cpu", torch.bfloat16):
        assert op(x, weight, TAPS_1331).dtype == torch.bfloat16


def test_compiled_convolutions() -> None:
    torch._dynamo.reset()
    x, weight = torch.randn(2, 4, 8, 8), torch.randn(6, 4, 3, 3)

    def both(x: torch.Tensor) -> torch.Tensor:
        return conv_down(conv_up(x, weight, TAPS_1331), weight.transpose(0, 1), TAPS_121)

    assert_close(torch.compile(both, backend="aot_eager", fullgraph=True)(x), both(x))
