"""BigGAN and BigGAN-deep for 32 to 448 px, from the tables of appendix B. arXiv:1809.11096.

Images are of h0 2^k x w0 2^k px, 4 <= min(h0, w0) < 8, and k alone, 3 to 6, decides which of the tables for 32, 64, 128
and 256 px is taken. 32 px is the smaller net the authors train on CIFAR-10, deep at 32 and 64 px continues their
tables. Deviations: z has as many chunks as there are blocks plus one, with the z_dim that is asked for; all biases
start at 0; without labels, hierarchical and deep networks have the same norms, driven by z alone. Spectral norm, in G
and D alike, comes from outside (modelling/__init__.py); the class embedding of G and the tables of its norms go
without, as published.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError
from modelling.conditioning import (
    CONDITIONAL_NORMS,
    PLAIN_NORMS,
    ConditionalNorm,
    Conditioned,
    DOutput,
    Heads,
    TakesRows,
    norm_factory,
    rows_of,
    scale_and_shift,
)
from modelling.layers import (
    Size,
    as_size,
    check_choice,
    check_images,
    check_latents,
    check_number,
    norm_layer,
)
from modelling.resnet import ResidualDownBlock, ResidualUpBlock, activate, repeat_pixels, sum_pool
from modelling.sagan import SelfAttention, attention_sizes
from modelling.sizes import Shape, image_levels, squares
from ops.precision import without_autocast


@dataclass(frozen=True)
class Architecture:
    """The networks of one number of doublings, channels counted in widths.

    g: of G's maps at 4, 8, ... px; d: of D's maps after each block, the first n_down of which halve the size. The
    others are the settings of the same names: here what they are by default, for a square of 4 * 2^k px.
    """

    g: tuple[int, ...]
    d: tuple[int, ...]
    n_down: int
    width: int = 96
    shared_dim: int = 128
    hierarchical: bool = True
    attention: int | Sequence[int] = 64
    init: str = "orthogonal"


PLANS = {
    32: Architecture(
        (4, 4, 4, 4), (4, 4, 4, 4), 2, 64, shared_dim=0, hierarchical=False, attention=0, init="normal"
    ),
    64: Architecture((16, 16, 8, 4, 2), (1, 2, 4, 8, 16), 4, 64, attention=32),
    128: Architecture((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),
    256: Architecture((16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6),
}
DOUBLINGS = range(3, 7)
DEEP_WIDTH = 128  # above 64 px
SHARED_DIM = 128

INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": partial(nn.init.normal_, std=0.02),
    "orthogonal": nn.init.orthogonal_,
}


def architecture_of(
    levels: Sequence[Shape], deep: bool, **settings: int | Sequence[int] | str | None
) -> Architecture:
    """The architecture of an image's levels with the settings that are not None. ValueError for those out of range."""
    sides = squares(levels)
    check_choice("deep", deep, (True, False))
    architecture = PLANS[sides[-1]]
    if architecture.attention:
        attended = min(levels[sides.index(architecture.attention)])
        architecture = replace(architecture, attention=attended)
    if deep:
        architecture = replace(
            architecture, hierarchical=False, width=DEEP_WIDTH if sides[-1] > 64 else architecture.width
        )
    if deep or settings.get("hierarchical"):
        architecture = replace(architecture, shared_dim=SHARED_DIM)
    architecture = replace(
        architecture, **{name: value for name, value in settings.items() if value is not None}
    )
    # a deep block halves it at the most
    check_number("width", architecture.width, 2 if deep else 1, whole=True)
    check_number("shared_dim", architecture.shared_dim, 0, whole=True)
    check_choice("hierarchical", architecture.hierarchical, (True, False))
    check_choice("init", architecture.init, INITS)
    return architecture


@torch.no_grad()
def init_weights(net: nn.Module, init: str) -> None:
    """Draw every weight, class tables included, by INITS[init]; biases 0."""
    for module in net.modules():
        if isinstance(module, ConditionalNorm):
            INITS[init](module.weight)
            INITS[init](module.bias)
        elif isinstance(module, nn.Linear | nn.Conv2d | SharedEmbedding):
            INITS[init](module.weight)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()


# How z and the labels reach the norms


class SharedEmbedding(nn.Module):
    """One vector a label for all norms of G: rows @ weight, where attributes add up. arXiv:1809.11096 section 3.1.

    A plain table, so that neither spectral norm nor orthogonal regularisation takes it for a layer.
    """

    def __init__(self, n_labels: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_labels, dim))

    def forward(self, rows: Tensor) -> Tensor:
        """label_vectors (N, n_labels) -> (N, dim)."""
        with without_autocast(rows):
            return rows @ self.weight


class VectorNorm(TakesRows, nn.Module):
    """A norm of CONDITIONAL_NORMS, then a gain 1 + linear(vector) and a shift linear(vector) for each channel."""

    def __init__(self, name: str, channels: int, vector_dim: int) -> None:
        super().__init__()
        self.norm = CONDITIONAL_NORMS[name](channels)
        self.gain = nn.Linear(vector_dim, channels, bias=False)
        self.shift = nn.Linear(vector_dim, channels, bias=False)

    def forward(self, x: Tensor, vectors: Tensor) -> Tensor:
        """(N, C, H, W), (N, vector_dim) -> the same shape and type as x."""
        with without_autocast(vectors):
            gain, shift = self.gain(vectors), self.shift(vectors)
        return scale_and_shift(self.norm(x), gain, shift)


def chunk_dim(z_dim: int, n_chunks: int) -> int:
    """Length of each of n_chunks equal parts of z. ValueError that names a z_dim which has them."""
    if z_dim % n_chunks:
        fits = max(round(z_dim / n_chunks), 1) * n_chunks
        raise UserError(
            f"--z_dim {z_dim} is not {n_chunks} equal chunks, one for each block and one for the first layer: "
            f"choose --z_dim {fits}, or hierarchical=false"
        )
    return z_dim // n_chunks


# Blocks of BigGAN-deep


class DeepUpBlock(TakesRows, nn.Module):
    """(norm, ReLU, 1x1, norm, ReLU, upsampling, 3x3, norm, ReLU, 3x3, norm, ReLU, 1x1) + x's first c_out channels.

    A quarter of c_in between the 1x1; both branches are upsampled if `up`. Figure 16b.
    """

    def __init__(self, c_in: int, c_out: int, norms: Callable[[int], nn.Module | None], *, up: bool) -> None:
        super().__init__()
        hidden = c_in // 4
        self.c_out = c_out
        self.upsample = repeat_pixels if up else nn.Identity()
        self.norm1, self.conv1 = norms(c_in), nn.Conv2d(c_in, hidden, 1)
        self.norm2, self.conv2 = norms(hidden), nn.Conv2d(hidden, hidden, 3, padding=1)
        self.norm3, self.conv3 = norms(hidden), nn.Conv2d(hidden, hidden, 3, padding=1)
        self.norm4, self.conv4 = norms(hidden), nn.Conv2d(hidden, c_out, 1)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """(N, c_in, H, W), (N, vector_dim) -> (N, c_out, H, W), or twice that size."""
        h = self.conv1(activate(self.norm1, x, rows))
        h = self.conv2(self.upsample(activate(self.norm2, h, rows)))
        h = self.conv3(activate(self.norm3, h, rows))
        h = self.conv4(activate(self.norm4, h, rows))
        return h + self.upsample(x[:, : self.c_out])


class DeepDownBlock(nn.Module):
    """(ReLU, 1x1, ReLU, 3x3, ReLU, 3x3, ReLU, pooling, 1x1) + (x beside a 1x1 of x that gives the missing channels).

    A quarter of c_out between the 1x1; both branches average 2x2 pixels if `down`. Figure 16c.
    """

    def __init__(self, c_in: int, c_out: int, *, down: bool) -> None:
        super().__init__()
        hidden = c_out // 4
        self.conv1 = nn.Conv2d(c_in, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv3 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv4 = nn.Conv2d(hidden, c_out, 1)
        self.pool = nn.AvgPool2d(2) if down else nn.Identity()
        self.missing = nn.Conv2d(c_in, c_out - c_in, 1) if c_out > c_in else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H, W), or half that size."""
        h = self.conv1(F.relu(x))
        for conv in (self.conv2, self.conv3):
            h = conv(F.relu(h, inplace=True))
        h = self.conv4(self.pool(F.relu(h, inplace=True)))
        x = self.pool(x)
        return h + (x if self.missing is None else torch.cat([x, self.missing(x)], 1))


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, img_channels, H, W) in [-1, 1].

    Settings that are None depend on img_size. width: the paper's ch, 64 up to 64 px, then 96, or 128 if deep.
    hierarchical, by default if not deep and above 32 px: the first layer and the norms of each block see a chunk of z
    of their own. shared_dim: length of one embedding of y that every norm sees through linear layers; 0, by default for
    a plain network of 32 px, for class tables in every norm, otherwise 128. attention: size in px, of the shorter side,
    of the maps that get it, a list for several, 0 for none; by default none at 32 px, 32 at 64 px, then 64. deep: two
    bottlenecks in the place of each block, whose norms all see the whole of z. init: a name of INITS, orthogonal above
    32 px. Without labels `norm` is that of the maps, batch or instance where z acts on it. ValueError for sizes that it
    does not make, which names the nearest, and for settings out of range or at odds with each other.
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
        width: int | None = None,
        shared_dim: int | None = None,
        hierarchical: bool | None = None,
        attention: int | Sequence[int] | None = None,
        deep: bool = False,
        init: str | None = None,
    ) -> None:
        super().__init__()
        levels = image_levels("biggan", img_size, DOUBLINGS)
        architecture = architecture_of(
            levels,
            deep,
            width=width,
            shared_dim=shared_dim,
            hierarchical=hierarchical,
            attention=attention,
            init=init,
        )
        for name, value in (("img_channels", img_channels), ("z_dim", z_dim)):
            check_number(name, value, 1, whole=True)
        check_choice("condition of G", condition, CONDITIONAL_NORMS)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.z_dim, self.n_labels, self.first = z_dim, n_labels, levels[0]
        self.deep, self.hierarchical = deep, architecture.hierarchical
        channels = [architecture.width * n for n in architecture.g]
        self.n_chunks = len(channels) if architecture.hierarchical else 1
        self.shared = (
            SharedEmbedding(n_labels, architecture.shared_dim)
            if n_labels and architecture.shared_dim
            else None
        )
        first_dim, norms = self._first_dim_and_norms(
            norm, condition, architecture.shared_dim if n_labels else 0
        )
        self.from_z = nn.Linear(first_dim, math.prod(self.first) * channels[0])
        sizes = [min(level) for level in levels[1:]]
        attended = attention_sizes("G", architecture.attention, levels, sizes)
        self.blocks = nn.ModuleList()
        for size, (c_in, c_out) in zip(sizes, itertools.pairwise(channels), strict=True):
            if deep:
                stage = [DeepUpBlock(c_in, c_in, norms, up=False), DeepUpBlock(c_in, c_out, norms, up=True)]
            else:
                stage = [ResidualUpBlock(c_in, c_out, norms)]
            here = [SelfAttention(c_out)] if size in attended else []
            self.blocks.append(Conditioned(*stage, *here))
        self.norm = norm_layer(PLAIN_NORMS[condition] if n_labels else norm, channels[-1])
        self.to_image = nn.Conv2d(channels[-1], img_channels, 3, padding=1)
        init_weights(self, architecture.init)

    def _first_dim_and_norms(
        self, norm: str, condition: str, class_dim: int
    ) -> tuple[int, Callable[[int], nn.Module | None]]:
        """(length of what the first layer sees, channels -> norm) with class vectors of class_dim, 0 for none."""
        if self.hierarchical and self.deep:
            raise ValueError("deep hands the whole of z to every block: leave out hierarchical")
        z_acts = self.hierarchical or self.deep  # on the norms
        if z_acts and self.n_labels and not class_dim:
            raise ValueError(
                "shared_dim 0: hierarchical and deep networks see labels by a shared embedding only"
            )
        chunk = chunk_dim(self.z_dim, self.n_chunks)
        vector_dim = class_dim + (chunk if z_acts else 0)
        first_dim = vector_dim if self.deep else chunk
        if not vector_dim:
            return first_dim, norm_factory(norm, condition, self.n_labels)
        if not self.n_labels:
            conditional = {plain: name for name, plain in PLAIN_NORMS.items()}
            check_choice("norm for latents to act on", norm, conditional)
            condition = conditional[norm]
        return first_dim, lambda channels: VectorNorm(condition, channels, vector_dim)

    def _vectors(self, z: Tensor, y: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        """What the first layer sees (N, first_dim), and what the norms of each block see."""
        rows = rows_of(y, z.shape[0], self.n_labels)
        classes = rows if self.shared is None else self.shared(rows)
        n = len(self.blocks)
        if not (self.hierarchical or self.deep):
            return z, [classes] * n
        chunks = z.chunk(self.n_chunks, 1)
        vectors = [chunk if classes is None else torch.cat([chunk, classes], 1) for chunk in chunks]
        return (vectors[0], vectors * n) if self.deep else (chunks[0], vectors[1:])

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """ValueError unless z is (N, z_dim) and, with n_labels, y fits."""
        check_latents(z, self.z_dim)
        first, vectors = self._vectors(z, y)
        x = self.from_z(first).unflatten(1, (-1, *self.first))  # (N, h0 * w0 * C) -> (N, C, h0, w0)
        for block, vector in zip(self.blocks, vectors, strict=True):
            x = block(x, vector)
        return torch.tanh(self.to_image(activate(self.norm, x, None)))


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) -> logits (N,).

    width, attention, deep and init as in G; here deep puts a 3x3 convolution in the place of the first block and two
    bottlenecks in that of each other. n_labels and condition: see conditioning.py. ValueError as in G.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        n_labels: int = 0,
        condition: str = "projection",
        width: int | None = None,
        attention: int | Sequence[int] | None = None,
        deep: bool = False,
        init: str | None = None,
    ) -> None:
        super().__init__()
        levels = image_levels("biggan", img_size, DOUBLINGS)
        architecture = architecture_of(levels, deep, width=width, attention=attention, init=init)
        check_number("img_channels", img_channels, 1, whole=True)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        channels = [architecture.width * n for n in architecture.d]
        sizes = [min(level) for level in reversed(levels[:-1])][: architecture.n_down]
        attended = attention_sizes("D", architecture.attention, levels, sizes)
        blocks: list[nn.Module] = []
        if deep:
            blocks.append(nn.Conv2d(img_channels, channels[0], 3, padding=1))
        else:
            channels = [img_channels, *channels]
        for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
            down = i < architecture.n_down
            if deep:
                blocks += [DeepDownBlock(c_in, c_out, down=down), DeepDownBlock(c_out, c_out, down=False)]
            else:
                blocks.append(ResidualDownBlock(c_in, c_out, down=down, first=i == 0))
            if down and sizes[i] in attended:
                blocks.append(SelfAttention(c_out))
        self.blocks = nn.Sequential(*blocks)
        self.heads = Heads(
            lambda n, bias: nn.Linear(channels[-1], n, bias=bias), n_labels, condition, bias=True
        )
        init_weights(self, architecture.init)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | DOutput:
        """ValueError unless x has the network's shape and, with n_labels, y fits."""
        check_images(x, self.img_channels, self.img_size)
        return self.heads(sum_pool(F.relu(self.blocks(x), inplace=True)), y)
