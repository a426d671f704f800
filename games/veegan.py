"""VEEGAN: a third network R reads latents back from images, and D judges pairs of both. arXiv:1705.07761.

Losses are those of xyfJASON's study: cross entropy of D halved, the mean square of z - R(G(z)) over all its elements,
R trained by G's loss alone. In the paper R also learns from D's pairs (x, R(x)).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError
from games.task import Micro, NoiseToImage, Phase, Stats, every
from losses import gan_d
from ops.precision import full
from settings import TrainConfig


class VEEGAN(NoiseToImage):
    """D tells (G(z), z) from (x, R(x) + N(0, 1)); G and R together fool it and make R(G(z)) equal z."""

    def __init__(self, config: TrainConfig, G: nn.Module, D: nn.Module, **how: Any) -> None:
        super().__init__(config, G, D, **how)
        self.R = G.reconstructor().to(self.device)
        self.networks["R"] = self.R
        self.phases = [
            Phase("d", ("D",), self.d_loss, every(1)),
            Phase("g", ("G", "R"), self.g_loss, self.g_due),
        ]

    @classmethod
    def check(cls, config: TrainConfig, G: nn.Module, D: nn.Module) -> None:
        """Its losses are its own, D sees pairs, and R's batch norm is not synchronised."""
        others = {
            f"--method {config.method}": config.method != "gan",
            f"--penalty {' '.join(config.penalties())}": config.penalties(),
            "--label_smoothing": config.label_smoothing,
            "--augment": config.augment,
            "--sync_bn": config.sync_bn,
        }
        if refused := [flag for flag, given in others.items() if given]:
            raise UserError(f"{refused[0]} is not for --model veegan, whose game is its own: leave it out")

    def _pairs(self, x: Tensor, z: Tensor) -> Tensor:
        """D's logits (n,) of images and latents."""
        with self.autocast():
            return full(self.forward_d(x, z=z))

    def d_loss(self, micro: Micro) -> tuple[Tensor, Stats]:
        """Half the cross entropy of (G(z), z) against (x, R(x) + noise)."""
        x_fake, x_real = self._fake_for_d(micro), self._real(micro)
        with torch.no_grad(), self.autocast():
            z_real = full(self.R(x_real))
        z_real = z_real + micro.normal("z-noise", (micro.z_dim,))
        d_real, d_fake = self._pairs(x_real, z_real), self._pairs(x_fake, micro.z)
        loss = gan_d(d_fake, d_real) / 2  # the fakes' pairs are those called 1
        means = {"d/real": d_real.detach().mean(), "d/fake": d_fake.detach().mean()}
        return loss, {"loss/d": loss.detach()} | means

    def g_loss(self, micro: Micro) -> tuple[Tensor, Stats]:
        """D's mean logit of (G(z), z), which is high for fakes, and the error of R(G(z))."""
        x_fake = self._generate(micro) if micro.x_fake is None else micro.x_fake
        micro.x_fake = None
        with self.autocast():
            z_again = full(self.R(x_fake))
        error = F.mse_loss(z_again, micro.z)
        loss = self._pairs(x_fake, micro.z).mean() + error
        return loss, {"loss/g": loss.detach(), "reconstruction": error.detach()}
