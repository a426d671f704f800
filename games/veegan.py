"""VEEGAN: a third network R reads latents back from images, and D judges pairs of both. arXiv:1705.07761.

Losses are those of xyfJASON's study: cross entropy of D halved, the mean square of z - R(G(z)) over all its elements,
R trained by G's loss alone. In the paper R also learns from D's pairs (x, R(x)).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError
from games.build import check_of_model
from games.noise_to_image import Inputs, NoiseToImage
from games.task import Phase, Place, Stats, every, is_logged, network_beta2, network_rates, saturation
from images.batches import ImageData
from losses import gan_d
from ops.precision import upcast
from settings import TrainConfig


class VEEGAN(NoiseToImage):
    """D tells (G(z), z) from (x, R(x) + N(0, 1)); G and R together fool it and make R(G(z)) equal z."""

    def __init__(self, config: TrainConfig, place: Place, data: ImageData, own: dict[str, nn.Module]) -> None:
        super().__init__(config, place, data, own)
        self.R = self.G.reconstructor().to(self.device)
        self.networks["R"] = self.R
        self.rates = network_rates(config, self.networks)
        self.beta2 = network_beta2(config, self.networks)

    def _list_phases(self) -> None:
        super()._list_phases()
        self.phases = [
            Phase("d", ("D",), self.d_loss, every(1)),
            Phase("g", ("G", "R"), self.g_loss, self.g_due),
        ]

    @classmethod
    def check(cls, config: TrainConfig, G: nn.Module, D: nn.Module) -> None:
        """Its losses are its own, D sees pairs, and R's batch norm is not synchronised."""
        check_of_model(config, G, D)
        others = {
            f"--method {config.method}": config.method != "gan",
            f"--penalty {' '.join(config.penalties())}": config.penalties(),
            "--label_smoothing": config.label_smoothing,
            "--augment": config.augment,
            "--san": config.san,
            "--sync_bn": config.sync_bn,
        }
        if refused := [flag for flag, given in others.items() if given]:
            raise UserError(f"{refused[0]} is not for --model veegan, whose game is its own: leave it out")

    def pairs(self, x: Tensor, z: Tensor) -> Tensor:
        """D's logits (n,) of images and latents."""
        with self.place.autocast():
            return upcast(self.forward_d(x, z=z))

    def d_loss(self, batch: Inputs) -> tuple[Tensor, Stats]:
        """Half the cross entropy of (G(z), z) against (x, R(x) + noise)."""
        x_fake, x_real = self.fakes_for_d(batch), self.reals_of(batch)
        with torch.no_grad(), self.place.autocast():
            z_real = upcast(self.R(x_real))
        z_real = z_real + batch.normal("z-noise", (batch.z_dim,))
        d_real, d_fake = self.pairs(x_real, z_real), self.pairs(x_fake, batch.z)
        loss = gan_d(d_fake, d_real) / 2  # the fakes' pairs are those called 1
        stats = {"loss/d": loss.detach(), "d/real": d_real.detach().mean(), "d/fake": d_fake.detach().mean()}
        if is_logged(self.config, batch.micro.step):
            stats |= saturation(self.method, d_real, d_fake)
        return loss, stats

    def g_loss(self, batch: Inputs) -> tuple[Tensor, Stats]:
        """D's mean logit of (G(z), z), which is high for fakes, and the error of R(G(z))."""
        x_fake = self.fakes_for_g(batch)
        with self.place.autocast():
            z_again = upcast(self.R(x_fake))
        error = F.mse_loss(z_again, batch.z)
        loss = self.pairs(x_fake, batch.z).mean() + error
        return loss, {"loss/g": loss.detach(), "reconstruction": error.detach()}
