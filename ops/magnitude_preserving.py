"""Layers and operations that keep the magnitude of what passes through them. arXiv:2312.02696.

Of inputs of mean 0 and variance 1 that are independent of each other, outputs have a mean square of 1: weights are
normalised where they act, activations, sums and concatenations are scaled by constants. So no norm of activations is
needed, and none of a network's maps can grow along training. Weights grow all the same, since a gradient is orthogonal
to them, and learn the slower; `renormalise` brings them back in place after a step, which changes no output. There are
no biases: a constant channel beside the input is one whose weights are normalised with the others.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-4
SILU = 0.596  # root of the mean square of silu(x), x ~ N(0, 1)


def normalised(w: Tensor) -> Tensor:
    """w (out, ...) over EPS + the root mean square of each of its rows; a row of zeros stays."""
    norm = torch.linalg.vector_norm(w.flatten(1), dim=1) / math.sqrt(w[0].numel())
    return w / (EPS + norm).view(-1, *[1] * (w.dim() - 1))


class Normalised(nn.Module):
    """A weight (out, fan-in ...) that acts with rows of length 1; drawn from N(0, 1).

    centred: rows have a mean of 0 too, as in R3GAN2, so that a constant input gives nothing. ValueError for rows of one
    number then, which would be 0.
    """

    def __init__(self, shape: tuple[int, ...], *, centred: bool = False) -> None:
        super().__init__()
        self.fan_in, self.centred = math.prod(shape[1:]), centred
        if centred and self.fan_in == 1:
            raise ValueError(f"a centred weight of shape {shape} would be 0: rows need two numbers or more")
        self.weight = nn.Parameter(torch.randn(shape))

    def _unit(self) -> Tensor:
        """The weight, centred if so, with a mean square of 1 a row."""
        w = self.weight
        return normalised(w - w.flatten(1).mean(1).view(-1, *[1] * (w.dim() - 1)) if self.centred else w)

    def unit_weight(self, x: Tensor, gain: Tensor | float) -> Tensor:
        """Rows of length `gain`, in x's type."""
        return (self._unit() * (gain / math.sqrt(self.fan_in))).to(x.dtype)

    @torch.no_grad()
    def renormalise(self) -> None:
        """Overwrite the weight with what acts, up to its length: outputs stay as they are."""
        self.weight.copy_(self._unit())


class MPLinear(Normalised):
    """x (N, n_in) -> (N, n_out)."""

    def __init__(self, n_in: int, n_out: int, *, centred: bool = False) -> None:
        super().__init__((n_out, n_in), centred=centred)

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """(N, n_in) -> (N, n_out), times gain."""
        return F.linear(x, self.unit_weight(x, gain))


class MPConv2d(Normalised):
    """x (N, c_in, H, W) -> (N, c_out, H, W) for odd kernels, in groups; beyond the edges there is 0."""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, groups: int = 1, centred: bool = False) -> None:
        super().__init__((c_out, c_in // groups, kernel, kernel), centred=centred)
        self.groups = groups

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H, W), times gain."""
        w = self.unit_weight(x, gain)
        return F.conv2d(x, w, padding=w.shape[-1] // 2, groups=self.groups)


def renormalise(net: nn.Module) -> None:
    """Bring all weights of `net` that are normalised, and trained, back to their length; nothing to do without any."""
    for module in net.modules():
        if isinstance(module, Normalised) and module.weight.requires_grad:
            module.renormalise()


def mp_silu(x: Tensor) -> Tensor:
    """silu over the root of its mean square."""
    return F.silu(x) / SILU


def mp_lrelu(x: Tensor, slope: float = 0.2, *, centred: bool = False) -> Tensor:
    """Leaky ReLU over the root of its mean square (1 + a^2) / 2, of N(0, 1).

    centred: over its standard deviation, for what is followed by centred weights, which do not see the mean
    (1 - a) / sqrt(2 pi).
    """
    mean_square = (1 + slope**2) / 2
    return F.leaky_relu(x, slope) / math.sqrt(mean_square - centred * (1 - slope) ** 2 / (2 * math.pi))


def mp_sum(a: Tensor, b: Tensor, t: float = 0.3) -> Tensor:
    """(1 - t) a + t b, over the root of (1 - t)^2 + t^2."""
    return torch.lerp(a, b, t) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float = 0.5, dim: int = 1) -> Tensor:
    """a beside b, which takes the share t of what a layer behind it sees however many channels each has."""
    n_a, n_b = a.shape[dim], b.shape[dim]
    scale = math.sqrt(n_a + n_b) / math.hypot(1 - t, t)
    return torch.cat([a * (scale * (1 - t) / math.sqrt(n_a)), b * (scale * t / math.sqrt(n_b))], dim)


class MPFourier(nn.Module):
    """Numbers (N,) -> (N, n): sqrt(2) cos(2 pi (f x + phase)), f from N(0, 1), phases from U[0, 1)."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(n))
        self.register_buffer("phases", torch.rand(n))

    def forward(self, x: Tensor) -> Tensor:
        """(N,) -> (N, n)."""
        turns = torch.outer(x.to(self.frequencies.dtype), self.frequencies) + self.phases
        return math.sqrt(2) * torch.cos(2 * math.pi * turns)
