"""The rectangular DCGAN: its source's layers and counts, its other sizes, its recipe."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import gan_celeba
from modelling import build_discriminator, build_generator
from modelling.layers import GaussianNoise
from modelling.rect_dcgan import Discriminator, Generator, plan
from ops.spectral_norm import SpectralNorm
from settings.presets import PRESETS

SOURCE = {"img_size": (157, 128), "img_channels": 3}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def shapes_of(blocks: nn.Sequential, x: torch.Tensor) -> list[tuple[int, ...]]:
    """(channels, H, W) after each block."""
    found = []
    for block in blocks:
        x = block(x)
        found.append(tuple(x.shape[1:]))
    return found


def test_layers_of_the_source() -> None:
    with torch.device("meta"):
        G, D = Generator(**SOURCE, z_dim=100), Discriminator(**SOURCE)
        assert (n_parameters(G), n_parameters(D)) == (9_516_672, 6_958_080)
        assert (G.start.out_features, G.start.bias is not None) == (512 * 4 * 4, True)
        of_g = shapes_of(G.blocks, torch.empty(2, 512, 4, 4))
        assert of_g == [(512, 9, 8), (256, 19, 16), (128, 39, 32), (64, 79, 64)]
        x = G(torch.empty(2, 100))
        assert x.shape == (2, 3, 157, 128)
        of_d = shapes_of(D.blocks, x)
        assert of_d == [(64, 78, 64), (128, 39, 32), (256, 19, 16), (512, 9, 8), (512, 4, 4)]
        assert D(x).shape == (2,)
    ups = [m for m in G.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [m.kernel_size for m in ups] == [(5, 4)] * 5 and not any(m.bias is not None for m in ups)
    assert [m.padding for m in ups] == [(1, 1)] * 4 + [(2, 1)]
    downs = [m for m in D.modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size for m in downs] == [(4, 4)] * 6 and not any(m.bias is not None for m in downs)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in G.modules()) == 4
    assert not any(isinstance(m, nn.BatchNorm2d) for m in D.modules())


def test_spectral_norm_stands_where_the_source_has_it() -> None:
    """On every convolution but D's last."""
    settings = {"img_channels": 3, "img_size": (37, 32), "spectral_norm": True, "width": 2}
    G, D = build_generator("rect_dcgan", z_dim=4, **settings), build_discriminator("rect_dcgan", **settings)
    for net, bare in ((G, {"start"}), (D, {"to_logit"})):
        kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
        layers = {name for name, m in net.named_modules() if isinstance(m, kinds)}
        normed = {
            name.partition(".parametrizations")[0]
            for name, m in net.named_modules()
            if isinstance(m, SpectralNorm)
        }
        assert normed <= layers and layers - normed == bare


def test_the_logit_is_no_activation() -> None:
    """Nor is there dropout or noise next to it; noise is on the image alone, dropout after every hidden layer."""
    D = Discriminator(**SOURCE, width=2, dropout=0.3, noise_std=0.1)
    assert [isinstance(block[0], GaussianNoise) for block in D.blocks] == [True] + [False] * 4
    assert [block[-1].p for block in D.blocks] == [0.3] * 5
    assert all(isinstance(block.activation, nn.LeakyReLU) for block in D.blocks)
    D.eval()
    x = torch.randn(3, 3, 157, 128)
    h = D.blocks(x)
    weight = D.to_logit.weight
    assert_close(D(x), (h * weight).sum((1, 2, 3)))
    nn.init.constant_(D.to_logit.weight, -1.0)
    assert_close(D(x), -h.sum((1, 2, 3)))


def test_all_layers_have_initial_weights() -> None:
    G, D = Generator(**SOURCE, z_dim=16, width=16), Discriminator(**SOURCE, width=16)
    layers = [
        m
        for net in (G, D)
        for m in net.modules()
        if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    ]
    assert len(layers) == 1 + 5 + 6
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not G.start.bias.any()


@pytest.mark.parametrize(
    ("size", "start", "kernel", "k"),
    [
        ((157, 128), (4, 4), (5, 4), 5),
        ((128, 157), (4, 4), (4, 5), 5),
        (157, (4, 4), (5, 5), 5),
        (64, (4, 4), (4, 4), 4),
        ((189, 160), (5, 5), (5, 4), 5),
        ((17, 16), (4, 4), (5, 4), 2),
    ],
)
def test_kernels_follow_the_size(size: object, start: object, kernel: object, k: int) -> None:
    """Any size of them comes out of G, and goes into D down to the map that G started from."""
    assert plan(size) == (start, kernel, k)
    image = {"img_size": size, "img_channels": 1, "width": 1}
    G, D = Generator(**image, z_dim=3), Discriminator(**image)
    x = G(torch.randn(2, 3))
    assert x.shape[2:] == (size if isinstance(size, tuple) else (size, size))
    assert D.blocks(x).shape[2:] == G.first == start and D(x).shape == (2,)


def pictures(folder: Path, n: int) -> Path:
    """Portraits of noise."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(random.integers(0, 256, (157, 128, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_two_steps_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow, in batches of 8. G's target is 1 whatever reals are smoothed to, and reals lie in [-1, 1]."""
    seen: list[tuple[torch.Tensor, torch.Tensor, bool]] = []
    forward = Discriminator.forward

    def spy(self: Discriminator, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        d = forward(self, x, y)
        if not x.is_meta:
            seen.append((x.detach(), d.detach(), x.requires_grad))
        return d

    monkeypatch.setattr(Discriminator, "forward", spy)
    given = [
        "--preset",
        "rect-dcgan",
        "--data",
        str(pictures(tmp_path / "p", 16)),
        "--cache_dir",
        str(tmp_path),
    ]
    given += [
        "--log_name",
        "a",
        "--runs_dir",
        str(tmp_path),
        "--device",
        "cpu",
        "--loggers",
        "--batch_size",
        "8",
    ]
    given += ["--n_steps", "2", "--log_interval", "1", "--sample_interval", "100", "--g_kwargs", "width=2"]
    assert gan_celeba.main([*given, "--d_kwargs", "width=2"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert (rows[0]["lr/d"], rows[0]["lr/g"]) == (2e-3, 2e-4)
    for row, ((real, d_real, _), (_, d_fake, _), (_, g_fake, of_g)) in zip(
        rows, (seen[:3], seen[3:]), strict=True
    ):
        assert real.shape[1:] == (3, 157, 128) and real.abs().max() <= 1 and of_g
        smoothed = 0.9 * F.softplus(-d_real) + 0.1 * F.softplus(d_real)
        assert row["loss/d"] == pytest.approx(float(smoothed.mean() + F.softplus(d_fake).mean()), rel=1e-4)
        assert row["loss/g"] == pytest.approx(float(F.softplus(-g_fake).mean()), rel=1e-4)
    saved = json.loads((tmp_path / "a" / "config.json").read_text())
    assert saved["img_size"] == [157, 128] and saved["d_kwargs"] == {
        "dropout": 0.3,
        "noise_std": 0.1,
        "width": 2,
    }
    assert saved["spectral_norm_g"] and saved["spectral_norm_d"] and saved["norm_g"] == "batch"
    with Image.open(tmp_path / "a" / "samples" / "step-00000002-raw.png") as sheet:
        assert sheet.size[0] < sheet.size[1]


def test_the_recipe_is_of_the_source() -> None:
    settings = PRESETS["rect-dcgan"].settings
    assert {name: settings[name] for name in ("batch_size", "optimizer", "lr_d", "lr_g", "beta1", "beta2")} == {
        "batch_size": 32, "optimizer": "AdamW", "lr_d": 2e-3, "lr_g": 2e-4, "beta1": 0.5, "beta2": 0.999
    }  # fmt: skip
    assert (
        settings["label_smoothing"] == 0.1 and settings["z_dim"] == 100 and settings["weight_decay"] == 0.01
    )
    # 25 epochs of the 162,770 images of CelebA's training part
    assert settings["n_steps"] == -(-25 * 162_770 // 32)
