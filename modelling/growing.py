"""Where a growing network stands: the size it works at now, and how far its newest layers are faded in.

Which size and which alpha belong to a step is the trainer's business; a network holds one Stage and obeys it.
arXiv:1710.10196 section 2.
"""

import torch
from torch import Tensor, nn

from modelling.layers import check_choice


class Stage(nn.Module):
    """The present size in pixels, a height, and the weight alpha of the newest layers (1: faded in).

    sizes: all sizes of the network, smallest first; it starts at the largest, full grown. alpha is a tensor, so that
    a compiled network is not compiled anew at each step of a fade. Both are in the state dict. `fading` says whether
    there are newest layers to fade: never at the smallest size.
    """

    alpha: Tensor

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.size, self.fading = sizes[-1], False
        self._alpha = 1.0  # as given: the tensor may hold fewer digits, and none on the meta device
        self.register_buffer("alpha", torch.ones(()), persistent=False)

    def set(self, size: int, alpha: float) -> None:
        """Move to a size; ValueError for one that the network does not have."""
        check_choice("size", size, self.sizes)
        self.size, self.fading = size, alpha < 1 and size != self.sizes[0]
        self._alpha = alpha
        self.alpha.fill_(alpha)

    def get_extra_state(self) -> Tensor:
        """(size, alpha), for the state dict."""
        return torch.tensor([self.size, self._alpha], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what get_extra_state gave."""
        size, alpha = state.tolist()
        self.set(int(size), alpha)


def set_stage(net: nn.Module, size: int, alpha: float) -> None:
    """Move every Stage of `net`; nothing to do without any."""
    for module in net.modules():
        if isinstance(module, Stage):
            module.set(size, alpha)
