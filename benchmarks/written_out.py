"""Steps of translators as their papers' texts and most of their followers write them: plain torch, full precision.

One Adam for G and one for D, each fake made once a step, batches that lie on the device already, torch's own instance
norm, contiguous memory. `benchmarks.step` runs ours beside them, with the same networks, losses and batch sizes.
"""

import itertools
import random
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from games.srgan import FACTOR, N_MAPS, low_resolution
from metrics.lite0 import load_lite0
from modelling import find_model, layers

POOL = 50  # fakes of earlier steps
TORCH_NORMS = {
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "plain_instance": lambda channels: nn.InstanceNorm2d(channels),
}


def networks(model: str, img_size: int, img_channels: int, widths: dict[str, int]) -> dict[str, nn.Module]:
    """The model's networks by name, with torch's own norms."""
    size = {"img_size": img_size, "img_channels": img_channels} | widths
    row, beside = find_model(model), {"source_channels": img_channels} if model == "pix2pix" else {}
    names = (
        {"g": ("G_AB", "G_BA"), "d": ("D_A", "D_B")} if model == "cyclegan" else {"g": ("G",), "d": ("D",)}
    )
    with mock.patch.dict(layers.NORMS, TORCH_NORMS):
        return {
            name: row.network(side)(**size, **beside) for side, of_side in names.items() for name in of_side
        }


def adam(nets: list[nn.Module], lr: float = 2e-4, beta1: float = 0.5) -> torch.optim.Adam:
    """One for all weights of some networks."""
    return torch.optim.Adam(itertools.chain(*(net.parameters() for net in nets)), lr, (beta1, 0.999))


def batches(images: Tensor, batch: int) -> Callable[[], Tensor]:
    """Gives the next images, again from the first after the last."""
    starts = itertools.cycle(range(0, len(images) - batch + 1, batch))

    def following() -> Tensor:
        start = next(starts)
        return images[start : start + batch]

    return following


def bce(logits: Tensor, real: bool) -> Tensor:
    """Binary cross entropy against one truth."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def mse(logits: Tensor, real: bool) -> Tensor:
    """Least squares against one truth."""
    return F.mse_loss(logits, torch.full_like(logits, float(real)))


def frozen(nets: list[nn.Module], yes: bool) -> None:
    """Whether networks get gradients."""
    for net in nets:
        net.requires_grad_(not yes)


def pix2pix(nets: dict[str, nn.Module], a: Tensor, b: Tensor, batch: int) -> Callable[[], None]:
    """arXiv:1611.07004: D on (source, picture), then G by D and 100 times L1."""
    G, D = nets["G"], nets["D"]
    optimizer_g, optimizer_d = adam([G]), adam([D])
    next_a, next_b = batches(a, batch), batches(b, batch)

    def step() -> None:
        x, y = next_a(), next_b()
        x_fake = G(x)
        frozen([D], False)
        optimizer_d.zero_grad()
        (0.5 * (bce(D(x_fake.detach(), x), False) + bce(D(y, x), True))).backward()
        optimizer_d.step()
        frozen([D], True)
        optimizer_g.zero_grad()
        (bce(D(x_fake, x), True) + 100 * F.l1_loss(x_fake, y)).backward()
        optimizer_g.step()

    return step


def from_pool(pool: list[Tensor], fakes: Tensor) -> Tensor:
    """Fakes of now, about half of them exchanged for earlier ones once the pool is full. arXiv:1612.07828."""
    shown = []
    for fake in fakes.split(1):
        if len(pool) < POOL:
            pool.append(fake)
        elif random.uniform(0, 1) > 0.5:
            at = random.randint(0, POOL - 1)
            pool[at], fake = fake, pool[at].clone()
        shown.append(fake)
    return torch.cat(shown)


def cyclegan(nets: dict[str, nn.Module], a: Tensor, b: Tensor, batch: int) -> Callable[[], None]:
    """arXiv:1703.10593: both G by least squares, ways back and identities; then each D on a pool's fakes."""
    G_AB, G_BA, D_A, D_B = (nets[name] for name in ("G_AB", "G_BA", "D_A", "D_B"))
    optimizer_g, optimizer_d = adam([G_AB, G_BA]), adam([D_A, D_B])
    next_a, next_b = batches(a, batch), batches(b, batch)
    pool_a, pool_b = [], []

    def step() -> None:
        x, y = next_a(), next_b()
        fake_b, fake_a = G_AB(x), G_BA(y)
        back_a, back_b = G_BA(fake_b), G_AB(fake_a)
        frozen([D_A, D_B], True)
        optimizer_g.zero_grad()
        same = F.l1_loss(G_AB(y), y) + F.l1_loss(G_BA(x), x)
        cycle = F.l1_loss(back_a, x) + F.l1_loss(back_b, y)
        (mse(D_B(fake_b), True) + mse(D_A(fake_a), True) + 10 * cycle + 5 * same).backward()
        optimizer_g.step()
        frozen([D_A, D_B], False)
        optimizer_d.zero_grad()
        for D, real, fake, pool in ((D_A, x, fake_a, pool_a), (D_B, y, fake_b, pool_b)):
            (0.5 * (mse(D(real), True) + mse(D(from_pool(pool, fake.detach())), False))).backward()
        optimizer_d.step()

    return step


def srgan(nets: dict[str, nn.Module], a: Tensor, b: Tensor, batch: int) -> Callable[[], None]:
    """arXiv:1609.04802 with this toolkit's losses: D, then G by L1, features and D. Small pictures are there."""
    G, D = nets["G"], nets["D"]
    optimizer_g, optimizer_d = adam([G], 1e-4, 0.9), adam([D], 1e-4, 0.9)
    next_small, next_b = batches(low_resolution(b, FACTOR), batch), batches(b, batch)
    lite0 = load_lite0(device=b.device).module.network.to(b.dtype)

    def step() -> None:
        x, y = next_small(), next_b()
        x_fake = G(x)
        frozen([D], False)
        optimizer_d.zero_grad()
        (0.5 * (bce(D(y), True) + bce(D(x_fake.detach()), False))).backward()
        optimizer_d.step()
        frozen([D], True)
        optimizer_g.zero_grad()
        with torch.no_grad():
            wanted = lite0.maps(y, N_MAPS)
        features = sum(map(F.l1_loss, lite0.maps(x_fake, N_MAPS), wanted)) / N_MAPS
        (F.l1_loss(x_fake, y) + 0.1 * features + 0.005 * bce(D(x_fake), True)).backward()
        optimizer_g.step()

    return step


STEPS = {"pix2pix": pix2pix, "cyclegan": cyclegan, "srgan": srgan}
