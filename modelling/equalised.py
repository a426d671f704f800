"""Layers with an equalised learning rate: weights of unit variance, scaled to their fan-in when they are used.

Adam moves every weight by about the same amount whatever its size, so that layers of unlike fan-in would learn at
unlike speeds if the scale were in the weights. arXiv:1710.10196 section 4.1.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Equalised(nn.Module):
    """Weight and bias. `equalised=False` stores the scaled weight instead: the same function at the start."""

    def __init__(self, shape: tuple[int, ...], gain: float, bias: float | None, equalised: bool) -> None:
        super().__init__()
        scale = gain / math.sqrt(math.prod(shape[1:]))  # shape: (out, in, *kernel)
        self.scale = scale if equalised else 1.0
        self.weight = nn.Parameter(torch.randn(shape) * (1.0 if equalised else scale))
        self.bias = None if bias is None else nn.Parameter(torch.full(shape[:1], bias))

    def scaled_weight(self) -> Tensor:
        """The weight as it acts."""
        return self.weight if self.scale == 1.0 else self.weight * self.scale


class EqualisedLinear(Equalised):
    """x (N, n_in) -> (N, n_out). gain: of the initial weights; bias: its initial value, None for none."""

    def __init__(
        self, n_in: int, n_out: int, *, gain: float = 1.0, bias: float | None = 0.0, equalised: bool = True
    ) -> None:
        super().__init__((n_out, n_in), gain, bias, equalised)

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in) -> (N, n_out). The scale meets the input, the smaller factor: 2 to 3 % of StyleGAN2's D step."""
        return F.linear(x if self.scale == 1.0 else x * self.scale, self.weight, self.bias)


class EqualisedConv2d(Equalised):
    """x (N, c_in, H, W) -> (N, c_out, H, W) for odd kernels. Arguments as for EqualisedLinear.

    padding: None keeps the size of the maps.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        gain: float = 1.0,
        bias: float | None = 0.0,
        equalised: bool = True,
        padding: int | None = None,
    ) -> None:
        super().__init__((c_out, c_in, kernel, kernel), gain, bias, equalised)
        self.padding = kernel // 2 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H', W')."""
        return F.conv2d(x, self.scaled_weight(), self.bias, padding=self.padding)
