"""pix2pix: a picture from a picture of the same place, judged by its patches beside its source. arXiv:1611.07004."""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from games.one_way import OneWay


class Pix2Pix(OneWay):
    """D sees source and picture together; G is held to the target by L1, 100 times (section 3.1, eq. 4)."""

    pairings: ClassVar = ("paired", "grey")
    usual_terms: ClassVar = {"adversarial": 1.0, "l1": 100.0}
    conditions: ClassVar = True
    unfit: ClassVar = (*OneWay.unfit, "factor")

    def content(self, x_fake: Tensor, x_real: Tensor) -> dict[str, Tensor]:
        """L1."""
        return {"l1": F.l1_loss(x_fake, x_real)}
