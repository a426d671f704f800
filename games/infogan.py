"""InfoGAN: the ordinary game, and G and D's head Q learn that images tell the code they were made of. arXiv:1606.03657.

Cross entropy of the category and the Gaussian of standard deviation 1 of the continuous codes, without its constant:
for two codes that is their mean squared error. As in the authors' code both terms stand in D's loss and in G's; D's
setting `joint` gives them a phase of their own for G and D together, as in xyfJASON's.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError
from games.build import check_of_model
from games.noise_to_image import Inputs, NoiseToImage
from games.task import Phase, Stats, Terms, total
from modelling.conditioning import DOutput
from settings import TrainConfig


def continuous_loss(mean: Tensor, code: Tensor) -> Tensor:
    """-log N(code; mean, 1) less its constant, summed over the codes (N, n), mean over samples."""
    return 0.5 * (mean - code).square().sum(1).mean()


def information(category_loss: Tensor, n_categories: int) -> Tensor:
    """Nats that images are known to tell of a uniform category: H(c) less the cross entropy. arXiv:1606.03657 eq. 5."""
    return math.log(n_categories) - category_loss


class InfoGAN(NoiseToImage):
    """The ordinary game with the two terms of Q, weights D's category_weight and continuous_weight."""

    def _list_phases(self) -> None:
        super()._list_phases()
        if self.D.joint:
            self.phases.append(Phase("info", ("G", "D"), self.info_loss, self.g_due))

    @classmethod
    def check(cls, config: TrainConfig, G: nn.Module, D: nn.Module) -> None:
        """Q must read the codes that G draws, and no penalty may blur them."""
        check_of_model(config, G, D)
        names = ("n_categories", "n_continuous")
        of_g, of_d = (" ".join(f"{name}={getattr(net, name)}" for name in names) for net in (G, D))
        if of_g != of_d:
            raise UserError(f"--g_kwargs {of_g} but --d_kwargs {of_d}: both networks need the same codes")
        if moving := [name for name in config.penalties() if name.startswith("zcr_")]:
            raise UserError(
                f"--penalty {moving[0]} moves latents, and some of {config.model}'s are codes: leave it out"
            )

    def terms(self, side: str, batch: Inputs, fake: DOutput) -> Terms:
        """Q's errors on the codes of the micro-batch's latents, and what they say of the category."""
        _, category, continuous = self.G.codes(batch.z)
        said, mean = fake.classes.split([self.D.n_categories, self.D.n_continuous], 1)
        error = F.cross_entropy(said, category)
        right = (said.detach().argmax(1) == category).to(said.dtype).mean()
        return {
            f"category/{side}": (self.D.category_weight, error),
            f"continuous/{side}": (self.D.continuous_weight, continuous_loss(mean, continuous)),
            f"category/information_{side}": (0.0, information(error.detach(), self.D.n_categories)),
            f"category/accuracy_{side}": (0.0, right),
        }

    def d_terms(self, batch: Inputs, real: DOutput, fake: DOutput) -> Terms:
        """Q's part in D's loss."""
        return {} if self.D.joint else self.terms("d", batch, fake)

    def g_terms(self, batch: Inputs, fake: DOutput) -> Terms:
        """Q's part in G's loss."""
        return {} if self.D.joint else self.terms("g", batch, fake)

    def info_loss(self, batch: Inputs) -> tuple[Tensor, Stats]:
        """Q's errors alone, for G and D together."""
        fake = self.judge(batch, "info", self.generate(batch))
        stats: Stats = {}
        return total(self._zero(), self.terms("info", batch, fake), stats), stats
