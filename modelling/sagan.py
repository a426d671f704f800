"""SA-GAN for images of h0 2^k x w0 2^k px, 4 <= min(h0, w0) < 8, k from 3 to 6: 32 to 448. arXiv:1805.08318.

The spectral norm of G and D is applied from outside. Residual networks with self-attention. The paper has 128 px;
32 and 64 px take SNGAN's channels, 256 px BigGAN's, and k alone decides. D's last block, two at 32 px, does not halve
the size. Attention acts on maps of 32 px, as there, of 8 h0 x 8 w0 in general, but on half of that in images of that
size, since D makes no such maps of them. Its 1x1 convolutions have no bias. The last norm of G does not see labels.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelling import sngan
from modelling.conditioning import PLAIN_NORMS, Conditioned, DOutput, Heads, norm_factory, rows_of
from modelling.layers import Size, as_size, check_images, check_latents, check_number, norm_layer, size_text
from modelling.resnet import ResidualDownBlock, ResidualUpBlock, activate, init_glorot, sum_pool
from modelling.sizes import Shape, image_levels, squares
from ops.attention import attention as attend

# By the side of a square of 4 * 2^k px, in units of the width: channels of G's maps of 4, 8, ... px, and of the outputs
# of D's blocks.
G_CHANNELS = sngan.G_CHANNELS | {256: (16, 16, 8, 8, 4, 2, 1)}
D_CHANNELS = sngan.D_CHANNELS | {256: (1, 2, 4, 8, 8, 16, 16)}
D_HALVINGS = {32: 2, 64: 4, 128: 5, 256: 6}  # so many of D's blocks, the first ones, halve the size
DOUBLINGS = range(3, 7)


def attention_sizes(
    network: str, given: int | Sequence[int] | None, levels: Sequence[Shape], made: Sequence[int]
) -> set[int]:
    """The sizes in px, of the shorter sides, of a network's maps that get attention, out of those that its blocks make.

    levels: the network's. given: one or several sizes, none for 0 or an empty list; None for the default. ValueError
    for a size not in `made`.
    """
    if given is None:
        given = min(levels[min(3, len(levels) - 2)])
    chosen = given if isinstance(given, list | tuple) else [given] if given else []
    for size in chosen:
        if size not in made:
            known, image = ", ".join(map(str, made)), size_text(as_size(levels[-1]))
            raise ValueError(
                f"attention {size!r}: {network} of {image} px has maps of {known} px; give one of them, several "
                "as a list, or 0 for none"
            )
    return set(chosen)


class SelfAttention(nn.Module):
    """x + gamma * what each position gathers from all, gamma 0 at the start. arXiv:1805.08318 eq. 1 to 3.

    Queries theta and keys phi have an eighth of the channels, at least one, and values g half of them. Keys and values
    are the maxima of 2x2 pixels, which quarters the work, as the authors compute it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        c_key, c_value = max(channels // 8, 1), max(channels // 2, 1)
        self.theta = nn.Conv2d(channels, c_key, 1, bias=False)
        self.phi = nn.Conv2d(channels, c_key, 1, bias=False)
        self.g = nn.Conv2d(channels, c_value, 1, bias=False)
        self.o = nn.Conv2d(c_value, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape and type; H and W at least 2."""
        maps = self.theta(x), F.max_pool2d(self.phi(x), 2), F.max_pool2d(self.g(x), 2)
        h = attend(*(v.flatten(2).transpose(1, 2) for v in maps))  # each (N, c, H, W) -> (N, H W, c)
        h = h.transpose(1, 2).unflatten(2, x.shape[2:])  # (N, H W, c) -> (N, c, H, W)
        return x + self.gamma * self.o(h)


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, img_channels, H, W) in [-1, 1].

    width is the unit of channels: 4 of them everywhere at 32 px, else 16 at 4 px down to 1 next to the image. The
    paper's is 64. attention: size in px, of the shorter side, of the maps that get it, after the block that makes
    them; a list for several, 0 for none; None for 32, and 16 in images of 32 px. ValueError for sizes that it does not
    make, which names the nearest, and for settings out of range.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        z_dim: int,
        n_labels: int = 0,
        condition: str = "cbn",
        norm: str = "batch",
        width: int = 64,
        attention: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        levels = image_levels("sagan", img_size, DOUBLINGS)
        square = squares(levels)[-1]
        for name, value in (("img_channels", img_channels), ("z_dim", z_dim), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.z_dim, self.n_labels, self.first = z_dim, n_labels, levels[0]
        channels = [n * width for n in G_CHANNELS[square]]
        sizes = [min(level) for level in levels[1:]]
        attended = attention_sizes("G", attention, levels, sizes)
        norms = norm_factory(norm, condition, n_labels)
        self.start = nn.Linear(z_dim, channels[0] * math.prod(self.first))
        self.blocks = Conditioned()
        for size, (c_in, c_out) in zip(sizes, itertools.pairwise(channels), strict=True):
            self.blocks.append(ResidualUpBlock(c_in, c_out, norms))
            if size in attended:
                self.blocks.append(SelfAttention(c_out))
        self.norm = norm_layer(PLAIN_NORMS[condition] if n_labels else norm, channels[-1])
        self.to_image = nn.Conv2d(channels[-1], img_channels, 3, padding=1)
        init_glorot(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError unless z is (N, z_dim) and, with n_labels, y fits."""
        check_latents(z, self.z_dim)
        rows = rows_of(y, z.shape[0], self.n_labels)
        h = self.blocks(
            self.start(z).unflatten(1, (-1, *self.first)), rows
        )  # (N, C * h0 * w0) -> (N, C, h0, w0)
        return torch.tanh(self.to_image(activate(self.norm, h, None)))


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) -> logits (N,), or what the heads make of them.

    width is the unit of channels: 2 of them everywhere at 32 px, else 1 after the first block up to 16 after the
    last. The paper's is 64. attention: as in G. n_labels and condition: see conditioning.py. ValueError as
    in G.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        n_labels: int = 0,
        condition: str = "projection",
        width: int = 64,
        attention: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        levels = image_levels("sagan", img_size, DOUBLINGS)
        square = squares(levels)[-1]
        for name, value in (("img_channels", img_channels), ("width", width)):
            check_number(name, value, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        channels = [img_channels, *(n * width for n in D_CHANNELS[square])]
        n_down = D_HALVINGS[square]
        sizes = [min(level) for level in reversed(levels[:-1])]
        attended = attention_sizes("D", attention, levels, sizes[:n_down])
        self.blocks = nn.Sequential()
        for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
            self.blocks.append(ResidualDownBlock(c_in, c_out, down=i < n_down, first=i == 0))
            if i < n_down and sizes[i] in attended:
                self.blocks.append(SelfAttention(c_out))
        self.heads = Heads(lambda n, bias: nn.Linear(c_out, n, bias=bias), n_labels, condition, bias=True)
        init_glorot(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | DOutput:
        """ValueError unless x has the network's shape and, with n_labels, y fits."""
        check_images(x, self.img_channels, self.img_size)
        return self.heads(sum_pool(F.relu(self.blocks(x), inplace=True)), y)
