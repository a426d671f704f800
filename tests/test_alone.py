"""Losses, penalties, augmentation, averages and operations in a loop that knows nothing else of this project."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from augmentation import AUGMENTATIONS
from augmentation.ada import N_NORMAL, N_UNIFORM, ada, next_p
from ema import EMA
from losses import METHODS, PENALTIES, gan_d, gan_g, path_length, r1
from ops.spectral_norm import apply_spectral_norm
from ops.upfirdn2d import upfirdn2d
from tests.running import ROOT


def generator() -> nn.Module:
    """z (N, 8) -> grey images of 16 px, by hand."""
    return nn.Sequential(
        nn.Linear(8, 16 * 16), nn.Unflatten(1, (16, 4, 4)), nn.BatchNorm2d(16), nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def discriminator() -> nn.Module:
    """Grey images of 16 px -> logits (N,), by hand."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 16, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(16 * 16, 1), nn.Flatten(0),
    )  # fmt: skip


def squares(n: int) -> Tensor:
    """White squares on black, somewhere."""
    at = torch.arange(16)
    corner = torch.randint(1, 9, (n, 2))
    inside = [(at >= corner[:, i, None]) & (at < corner[:, i, None] + 6) for i in range(2)]
    return (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float() * 2 - 1


def test_a_loop_by_hand_learns() -> None:
    """Twenty lines: cross entropy, R1, ADA, an average of G. Fakes get as bright as the squares are."""
    torch.default_generator.manual_seed(0)
    G, D = generator(), discriminator()
    averaged, p = EMA(G), torch.tensor(0.0)
    of_g, of_d = (torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.5, 0.99)) for net in (G, D))
    before = G(torch.randn(64, 8)).mean().item()

    def seen(x: Tensor) -> Tensor:
        return D(ada(x, torch.rand(len(x), N_UNIFORM), torch.randn(len(x), N_NORMAL), p))

    for _ in range(40):
        x_real, z = squares(16), torch.randn(16, 8)
        d_real, d_fake = seen(x_real), seen(G(z).detach())
        loss_d = gan_d(d_real, d_fake) + 0.5 * r1(seen, x_real)
        of_d.zero_grad()
        loss_d.backward()
        of_d.step()
        p.copy_(next_p(p, d_real.detach().sign().mean(), target=0.6, images=16, kimg=1))
        loss_g = gan_g(None, seen(G(z)))
        of_g.zero_grad()
        loss_g.backward()
        of_g.step()
        averaged.update(G, decay=0.9)
    bright, found = squares(256).mean().item(), averaged.module.eval()(torch.randn(64, 8))
    assert loss_d.isfinite() and loss_g.isfinite() and p > 0
    assert abs(found.mean().item() - bright) < abs(before - bright) / 2


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_functions_of_logits(method: str) -> None:
    row, D = METHODS[method], discriminator()
    x_real, x_fake = squares(4), torch.rand(4, 1, 16, 16)
    (row.d(D(x_real), D(x_fake)) + row.g(D(x_real), D(x_fake))).backward()
    assert all(weight.grad is not None for weight in D.parameters())


@pytest.mark.parametrize("penalty", [name for name, row in PENALTIES.items() if not row.styles])
def test_penalties_are_functions_of_networks_and_images(penalty: str) -> None:
    """Each takes what a loop has at hand by name; the rest has defaults. What it penalises gets a gradient."""
    at_hand = {
        "G": generator(),
        "D": discriminator(),
        "x_real": squares(4),
        "x_fake": torch.rand(4, 1, 16, 16),
        "z": torch.randn(4, 8),
        "mean_real": 0.5,
        "mean_fake": -0.5,
    }
    at_hand["generate"] = at_hand["G"]
    row = PENALTIES[penalty]
    with torch.no_grad():
        at_hand["D"][5].weight.mul_(50)  # steep, for penalties of what is steep alone
    row.fn(**{name: at_hand[name] for name in row.asks if name in at_hand}).backward()
    net = at_hand[row.side.upper()]
    assert any(w.grad is not None and w.grad.abs().sum() > 0 for w in net.parameters())


def test_path_length_of_any_generator() -> None:
    """Of a G that makes styles of latents and images of styles."""
    mapping, synthesis = nn.Linear(8, 2 * 8), nn.Sequential(nn.Flatten(), nn.Linear(2 * 8, 16), nn.Tanh())
    mean = torch.zeros(())
    ws = mapping(torch.randn(4, 8)).unflatten(1, (2, 8))
    path_length(
        ws, synthesis(ws).view(4, 1, 4, 4), mean, follow=lambda lengths: mean.lerp_(lengths, 0.01)
    ).backward()
    assert mean > 0 and synthesis[1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_are_functions_of_images_and_draws(name: str) -> None:
    row = AUGMENTATIONS[name]
    x = squares(4).requires_grad_()
    draws = [torch.rand(4, row.n_uniform), torch.randn(4, row.n_normal)]
    y = row.fn(x, *draws, *([torch.tensor(0.9)] if row.adaptive else []))
    assert y.shape == x.shape and torch.autograd.grad(y.sum(), x)[0].isfinite().all()


def test_operations_on_ones_own_layers() -> None:
    D = apply_spectral_norm(discriminator())
    with torch.no_grad():
        assert torch.linalg.matrix_norm(D[5].weight, 2) < 1.5
    blurred = upfirdn2d(squares(2), (0.25,) * 4, (0.25,) * 4, down=2, pad=1)
    assert blurred.shape == (2, 1, 8, 8)


def test_the_floor_needs_nothing_above_it() -> None:
    """No accelerate, no torchvision, no settings: torch alone."""
    code = (
        "import sys, losses, ema, augmentation, ops.upfirdn2d, ops.spectral_norm, modelling\n"
        "above = {'accelerate', 'torchvision', 'settings', 'training', 'games', 'images', 'generation', 'metrics'}\n"
        "sys.exit(str(above & set(sys.modules)) if above & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
