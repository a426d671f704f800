"""Spectral normalisation whose forward is a pure function; the loop says when to iterate. arXiv:1802.05957.

torch's own parametrisation iterates on every training forward, so that the number of forwards in a step
(accumulation, penalties, a second look at the fakes) would change the result.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from ops.precision import without_autocast

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED, nn.Linear, nn.Embedding)
_INITIAL_ITERATIONS = 15


class SpectralNorm(nn.Module):
    """Parametrisation w -> w / sigma(w), sigma = u^T W v with W the weight as a matrix (out, rest).

    `transposed` says that dim 1 of the weight is the output's, as in transposed convolutions. u (out,) and
    v (rest,) are buffers, moved only by `iterate`; `frozen` keeps iterate_spectral_norm from it. Raises ValueError for
    a weight that is all zero.
    """

    frozen = False

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, *, transposed: bool = False, eps: float = 1e-12) -> None:
        """Draw u from the default generator and run the first power iterations on `weight`."""
        super().__init__()
        if not weight.is_meta and not bool(weight.detach().any()):
            raise ValueError("spectral normalisation of a weight that is all zero: its norm is 0")
        self.transposed = transposed
        self.eps = eps
        matrix = self._matrix(weight.detach())
        self.register_buffer("u", F.normalize(matrix.new_empty(matrix.shape[0]).normal_(), dim=0))
        self.register_buffer("v", matrix.new_zeros(matrix.shape[1]))
        self.iterate(weight, _INITIAL_ITERATIONS)

    def _matrix(self, weight: Tensor) -> Tensor:
        """View of the weight as (out, rest)."""
        weight = weight.transpose(0, 1) if self.transposed else weight
        return weight.flatten(1)  # (out, in, *kernel) -> (out, rest)

    def forward(self, weight: Tensor) -> Tensor:
        """weight / (u^T W v), same shape; the gradient passes through sigma but not through u and v."""
        # Autocast would take the two products in half precision, three digits of sigma.
        with without_autocast(weight):
            sigma = torch.dot(self.u, torch.mv(self._matrix(weight), self.v))
        return weight / sigma

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Assigning to the layer's weight sets the unnormalised one."""
        return weight

    @torch.no_grad()
    def iterate(self, weight: Tensor, n: int = 1) -> None:
        """Advance u and v by n power iterations on `weight`, the unnormalised one."""
        if weight.is_meta:  # there is nothing to compute, which takes seconds for a network
            return
        matrix = self._matrix(weight.detach())
        with without_autocast(weight):
            for _ in range(n):
                self.v.copy_(F.normalize(torch.mv(matrix.t(), self.u), dim=0, eps=self.eps))
                self.u.copy_(F.normalize(torch.mv(matrix, self.v), dim=0, eps=self.eps))


def _is_normalised(module: nn.Module) -> bool:
    """Whether the module's weight is spectrally normalised."""
    if not parametrize.is_parametrized(module, "weight"):
        return False
    return any(isinstance(p, SpectralNorm) for p in module.parametrizations["weight"])


def apply_spectral_norm(net: nn.Module) -> nn.Module:
    """Normalise every convolution, linear and embedding layer of `net`, in place, and return it.

    A layer whose attribute `spectral_norm` is False stays as it is.
    """
    for module in list(net.modules()):
        wanted = isinstance(module, _LAYERS) and getattr(module, "spectral_norm", True)
        if wanted and not _is_normalised(module):
            norm = SpectralNorm(module.weight, transposed=isinstance(module, _TRANSPOSED))
            parametrize.register_parametrization(module, "weight", norm)
    return net


def has_spectral_norm(net: nn.Module) -> bool:
    """Whether any layer of `net` is spectrally normalised."""
    return any(_is_normalised(module) for module in net.modules())


def iterate_spectral_norm(net: nn.Module, n: int = 1) -> None:
    """Advance every spectral norm of `net` that is not frozen by n power iterations; nothing to do without any."""
    for module in net.modules():
        if isinstance(module, parametrize.ParametrizationList):
            for parametrisation in module:
                if isinstance(parametrisation, SpectralNorm) and not parametrisation.frozen:
                    parametrisation.iterate(module.original, n)
