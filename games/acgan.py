"""AC-GAN: D also tells classes, and G is paid for images whose class it tells. arXiv:1610.09585.

Deviations: several labels at once (attributes) are as many yes-or-no questions. By default D does not learn the classes
of fakes (--ac_weight_fake 1 is the paper's loss): what G draws for class 0 would be class 0 to D whatever it shows, and
on MNIST G settled on wrong digits, one image a class (docs/results.md). With D's K + 1 classes
(`--condition_d k_plus_1`, arXiv:1606.03498 section 5) the game is the same: the logit is the log of the K classes'
sum, so that cross entropy over K + 1 is the GAN loss on that logit plus cross entropy over the K. That holds for
`--method gan`; other losses of that logit are games of their own.
"""

from torch import Tensor
from torch.nn import functional as F

from games.noise_to_image import Inputs, NoiseToImage
from games.task import Terms
from modelling.conditioning import DOutput


def class_loss(classes: Tensor, y: Tensor) -> Tensor:
    """Cross entropy of class logits (N, K) and classes (N,), or the mean binary one of attributes (N, K)."""
    if y.dim() == 1:
        return F.cross_entropy(classes, y)
    return F.binary_cross_entropy_with_logits(classes, y.to(classes.dtype))


def share_told(classes: Tensor, y: Tensor) -> Tensor:
    """Share of samples whose class, or of attributes that, the logits (N, K) tell."""
    said = classes.argmax(1) == y if y.dim() == 1 else (classes > 0) == (y > 0.5)
    return said.to(classes.dtype).mean()


class ACGAN(NoiseToImage):
    """The ordinary game with classification terms, weights --ac_weight_d, --ac_weight_fake and --ac_weight_g."""

    def d_terms(self, batch: Inputs, real: DOutput, fake: DOutput) -> Terms:
        """Classes of reals and, unless its weight is 0, of fakes."""
        terms = {
            "class/d_real": (self.config.ac_weight_d, class_loss(real.classes, batch.y)),
            "class/accuracy_real": (0.0, share_told(real.classes.detach(), batch.y)),
        }
        if self.config.ac_weight_fake:
            terms["class/d_fake"] = (self.config.ac_weight_fake, class_loss(fake.classes, batch.y))
        return terms

    def g_terms(self, batch: Inputs, fake: DOutput) -> Terms:
        """Classes that were asked of G, as D tells them."""
        return {
            "class/g": (self.config.ac_weight_g, class_loss(fake.classes, batch.y)),
            "class/accuracy_fake": (0.0, share_told(fake.classes.detach(), batch.y)),
        }
