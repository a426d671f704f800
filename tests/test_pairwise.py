"""l1, PSNR and SSIM against numbers worked by hand and those of scikit-image."""

import math

import pytest
import torch
from torch import Tensor

from errors import UserError
from metrics.pairwise import PAIRWISE, PSNR_CAP, l1, pair_scores, psnr, ssim


def pair(seed: int, height: int, width: int, channels: int) -> tuple[Tensor, Tensor]:
    """Two images (1, C, H, W) by a formula that anyone can repeat, a quarter of the second its own."""
    i = torch.arange(channels * height * width).view(1, channels, height, width)
    x = (i * i * 7 + i * 13 + seed) % 251
    y = (x * 3 + (i * i * 3 + i * 29 + seed * 5) % 256) // 4
    return x.to(torch.uint8), y.to(torch.uint8)


# (seed, H, W, C): SSIM as skimage.metrics.structural_similarity 0.26 has it (gaussian_weights, sigma 1.5,
# use_sample_covariance=False, data_range 255, the mean over channels), PSNR as its peak_signal_noise_ratio.
SKIMAGE = {
    (1, 11, 11, 1): (0.9084628920968775, 20.21250572500369, 0.07982498784637823),
    (2, 16, 23, 3): (0.9226516531745904, 19.91264335772003, 0.08218243819266836),
    (3, 32, 17, 1): (0.9202052393697012, 19.65972890453797, 0.08428489042675893),
}


@pytest.mark.parametrize("case", SKIMAGE)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_scores_are_those_of_scikit_image(case: tuple[int, ...], dtype: torch.dtype) -> None:
    x, y = (image.to(dtype) for image in pair(*case))
    found = [float(row.compute(x, y)) for row in (PAIRWISE["ssim"], PAIRWISE["psnr"], PAIRWISE["l1"])]
    assert found == pytest.approx(SKIMAGE[case], rel=1e-12)


def test_scores_by_hand() -> None:
    black, white = (torch.full((1, 3, 12, 12), v, dtype=torch.uint8) for v in (0, 255))
    assert float(l1(black, white)) == 1 and float(psnr(black, white)) == 0
    # two flat images: (2 a b + c1) / (a^2 + b^2 + c1), c1 = 2.55^2
    x, y = torch.full((1, 1, 12, 12), 100.0), torch.full((1, 1, 12, 12), 50.0)
    assert float(ssim(x, y)) == pytest.approx((10_000 + 6.5025) / (12_500 + 6.5025), rel=1e-12)
    assert float(l1(x, y)) == pytest.approx(50 / 255, rel=1e-14)
    assert float(psnr(x, y)) == pytest.approx(20 * math.log10(255 / 50), rel=1e-12)


@pytest.mark.parametrize("name", PAIRWISE)
def test_scores_are_of_each_image_alone(name: str) -> None:
    pairs = [pair(seed, 16, 12, 2) for seed in range(3)]
    x, y = (torch.cat(side) for side in zip(*pairs, strict=True))
    row = PAIRWISE[name]
    each = torch.cat([row.compute(*p) for p in pairs])
    whole = pair_scores([name], x, y)[name]
    assert whole.shape == (3,) and whole.dtype == torch.float64 and len(set(whole.tolist())) == 3
    torch.testing.assert_close(whole, each, rtol=1e-14, atol=0)
    torch.testing.assert_close(row.compute(y, x), whole, rtol=1e-12, atol=0)  # real or fake first
    assert float(row.compute(x[:1], x[:1])) == {"l1": 0, "psnr": PSNR_CAP, "ssim": 1}[name]
    near = (y.double() * 0.1 + x.double() * 0.9, x)
    better = {"low": torch.lt, "high": torch.gt}[row.better]
    assert bool(better(row.compute(*near), whole).all())


def test_what_cannot_be_compared() -> None:
    x = torch.zeros(2, 3, 10, 40, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"ssim: its window has 11 px a side, and the images are 10 x 40"):
        ssim(x, x)
    assert float(l1(x, x).sum()) == 0
    for other in (x[:1], x[:, :1], x[0]):
        with pytest.raises(ValueError, match=r"not \(2, 3, 10, 40\) with \("):
            l1(x, other)
