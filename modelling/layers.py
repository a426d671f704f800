"""Layers and small helpers that several families of networks share."""

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from errors import UserError, shown
from ops.precision import upcast

Size = int | tuple[int, int]  # of an image: a number for a square, else (height, width)

# Checks


def check_choice(what: str, given: object, known: Iterable[object]) -> None:
    """ValueError that lists what is known unless `given` is."""
    if not any(given == choice for choice in known):
        raise UserError(f"unknown {what} {given!r}: choose from {', '.join(map(str, known))}")


def check_number(name: str, given: float, low: float, high: float = math.inf, whole: bool = False) -> None:
    """ValueError unless `given` is a number in [low, high), and a whole one if so asked."""
    kinds = int if whole else (int, float)
    if isinstance(given, bool) or not isinstance(given, kinds) or not low <= given < high:
        kind = "a whole number" if whole else "a number"
        limits = f"at least {low}" + (f" and below {high}" if high < math.inf else "")
        raise UserError(f"--{name} {shown(repr(given), 80)} must be {kind}, {limits}")


def as_size(given: int | Sequence[int]) -> Size:
    """A size in its one form: int for a square, else (H, W); a list is taken too, as JSON holds it.

    ValueError unless it is one or two whole numbers of at least 1.
    """
    sides = tuple(given) if isinstance(given, list | tuple) else (given, given)
    if len(sides) != 2:
        raise UserError(f"--img_size {given!r}: give one number, or height and width")
    for side in sides:
        check_number("img_size", side, 1, whole=True)
    return sides[0] if sides[0] == sides[1] else sides


def image_shape(img_size: Size) -> tuple[int, int]:
    """(H, W) of a size. ValueError for what is none."""
    size = as_size(img_size)
    return (size, size) if isinstance(size, int) else size


def size_text(img_size: Size) -> str:
    """A size as --img_size takes it: 64, or 160x128 for a height of 160 and a width of 128."""
    return str(img_size) if isinstance(img_size, int) else "x".join(map(str, img_size))


def check_latents(z: Tensor, z_dim: int) -> None:
    """ValueError unless z is (N, z_dim)."""
    if z.dim() != 2 or z.shape[1] != z_dim:
        raise ValueError(f"G takes latents of shape (N, {z_dim}), not {tuple(z.shape)}")


def check_images(x: Tensor, img_channels: int, img_size: Size) -> None:
    """ValueError unless x is (N, img_channels, H, W) of that size."""
    height, width = image_shape(img_size)
    if x.dim() != 4 or tuple(x.shape[1:]) != (img_channels, height, width):
        raise ValueError(
            f"D takes images of shape (N, {img_channels}, {height}, {width}), not {tuple(x.shape)}"
        )


# Normalisation and activation


class PixelNorm(nn.Module):
    """Divide each position's features by their root mean square, in full precision. arXiv:1710.10196 4.2."""

    def __init__(self, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape and type."""
        lifted = upcast(x)
        return (lifted * (lifted.square().mean(1, keepdim=True) + self.eps).rsqrt()).to(x.dtype)


class InstanceNorm(nn.InstanceNorm2d):
    """torch's instance norm, on a CPU by what has faster kernels: batch norm of one sample, or groups of one channel.

    torch's turns maps whose channels stand last in memory round and back, at ten times the cost.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape and memory layout; ValueError for maps of one position."""
        if x.device.type != "cpu" or x.dim() != 4 or x.shape[2] * x.shape[3] == 1:
            return super().forward(x)
        if x.is_contiguous():
            return F.group_norm(x, self.num_features, self.weight, self.bias, self.eps)
        if len(x) > 1:
            return torch.cat([self(one) for one in x.split(1)])
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "instance": lambda channels: InstanceNorm(channels, affine=True),
    "plain_instance": lambda channels: InstanceNorm(channels),  # without gain and shift
    "pixel": lambda channels: PixelNorm(),
}

# In place, 5 % of a DCGAN step on a CPU: neither convolutions nor norms look at their output again.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(0.2, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "selu": nn.SELU,
}


def norm_layer(name: str, channels: int) -> nn.Module | None:
    """The norm `name` of NORMS for maps of `channels`, None for "none"; ValueError lists the known."""
    check_choice("norm", name, NORMS)
    factory = NORMS[name]
    return None if factory is None else factory(channels)


def activation_layer(name: str) -> nn.Module:
    """The activation `name` of ACTIVATIONS; ValueError lists the known."""
    check_choice("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def has_shift(norm: nn.Module | None) -> bool:
    """Whether the normalisation adds a bias of its own, so that the layer before needs none."""
    return norm is not None and getattr(norm, "bias", None) is not None


# Noise and batch statistics in D


class GaussianNoise(nn.Module):
    """Add N(0, (std * scale)^2) in training. arXiv:1610.04490.

    `scale` is annealed from outside (`set_noise_scale`); it is a function of the step and no part of the
    state dict.
    """

    scale: Tensor

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type; the identity in eval mode."""
        return x + (self.std * self.scale).to(x.dtype) * torch.randn_like(x) if self.training else x


def set_noise_scale(net: nn.Module, scale: float) -> None:
    """Set the factor of every GaussianNoise of `net`; nothing to do without any."""
    for module in net.modules():
        if isinstance(module, GaussianNoise):
            module.scale.fill_(scale)


def adds_noise(net: nn.Module) -> bool:
    """Whether layers of `net`, as far as they are known, draw in training: dropout, GaussianNoise."""
    return any(
        module.p > 0 if isinstance(module, _DropoutNd) else isinstance(module, GaussianNoise)
        for module in net.modules()
    )


class MinibatchStdDev(nn.Module):
    """Append one map: the standard deviation over groups of consecutive samples. arXiv:1710.10196 section 3.

    It is averaged over channels and positions, in full precision, and equal for all samples of a group. A batch
    below group_size is one group.
    """

    n_maps = 1

    def __init__(self, group_size: int = 4, eps: float = 1e-8) -> None:
        super().__init__()
        self.group_size = group_size
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C + 1, ...). ValueError unless group_size divides N or N is smaller."""
        n, g = len(x), min(self.group_size, len(x))
        if n % g:
            raise UserError(
                f"minibatch_stddev compares groups of {g} samples, which do not divide a batch of {n}: "
                f"choose a --batch_size whose share of one process and micro-batch is a multiple of {g}"
            )
        groups = upcast(x).unflatten(0, (n // g, g))  # (N, C, ...) -> (N/g, g, C, ...)
        variance = groups.var(1, correction=0)
        std = (variance + self.eps).sqrt().flatten(1).mean(1)  # eps inside: no infinite slope at 0; (N/g,)
        maps = std.repeat_interleave(g).to(x.dtype).view(n, 1, *[1] * (x.dim() - 2))
        return torch.cat([x, maps.expand(n, 1, *x.shape[2:])], 1)


class MinibatchDiscrimination(nn.Module):
    """Append n_kernels maps that say how close a sample is to the others of its batch. arXiv:1606.03498 3.2.

    o_b(x_i) = sum over j of exp(-|M_ib - M_jb|_1), M = T f(x), over the samples of this forward pass and
    process; j = i, a constant 1, is left out. n_features is the length of the flattened f(x).
    """

    def __init__(self, n_features: int, n_kernels: int, kernel_dim: int = 5) -> None:
        super().__init__()
        self.n_maps = n_kernels
        self.T = nn.Linear(n_features, n_kernels * kernel_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C + n_kernels, ...)."""
        projected = upcast(self.T(x.flatten(1))).unflatten(1, (self.n_maps, -1))  # (N, B, kernel_dim)
        distance = (projected[:, None] - projected[None]).abs().sum(3)  # (N, N, B)
        closeness = (-distance).exp().sum(1) - 1  # (N, B)
        maps = closeness.to(x.dtype).view(*closeness.shape, *[1] * (x.dim() - 2))
        return torch.cat([x, maps.expand(*closeness.shape, *x.shape[2:])], 1)


def batch_statistics(
    channels: int, n_positions: int, minibatch_stddev: bool, minibatch_discrimination: int
) -> tuple[nn.Sequential, int]:
    """(the layers asked for before D's last layer, the channels that come out of them).

    minibatch_discrimination counts kernels, 0 for none.
    """
    check_number("minibatch_discrimination", minibatch_discrimination, 0, whole=True)
    check_choice("minibatch_stddev", minibatch_stddev, (True, False))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if minibatch_discrimination:
        layers["discrimination"] = MinibatchDiscrimination(channels * n_positions, minibatch_discrimination)
    if minibatch_stddev:
        layers["stddev"] = MinibatchStdDev()
    return nn.Sequential(layers), channels + sum(layer.n_maps for layer in layers.values())


# Blocks


def widths(width: int, n: int) -> list[int]:
    """Channels of n levels, the image's end first: twice as many a level, at most 8 times the width."""
    return [width * min(1 << i, 8) for i in range(n)]


def hidden_block(
    layer: nn.Module,
    norm: nn.Module | None,
    activation: str | None,
    *,
    dropout: float = 0.0,
    noise_std: float = 0.0,
    sequence: type[nn.Sequential] = nn.Sequential,
) -> nn.Sequential:
    """noise, layer, norm, activation, dropout, by these names; those that are off are left out."""
    check_number("dropout", dropout, 0, 1)
    parts = {
        "noise": GaussianNoise(noise_std) if noise_std else None,
        "layer": layer,
        "norm": norm,
        "activation": None if activation is None else activation_layer(activation),
        "dropout": nn.Dropout(dropout) if dropout else None,
    }
    return sequence(OrderedDict((name, part) for name, part in parts.items() if part is not None))


def down_blocks(
    channels: Sequence[int],
    norms: Sequence[str],
    activation: str,
    *,
    dropout: float,
    noise_std: float,
    noise_layers: int | Sequence[int],
    bias: bool = False,
) -> nn.Sequential:
    """Convolutions that halve the size, through `channels`, one of `norms` after each.

    bias: in every layer; otherwise not in the first and not where the norm has one of its own.
    """
    stds = noise_stds(noise_std, noise_layers, len(norms))
    blocks = []
    for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
        after = norm_layer(norms[i], c_out)
        down = nn.Conv2d(c_in, c_out, 4, 2, 1, bias=bias or (i > 0 and not has_shift(after)))
        blocks.append(hidden_block(down, after, activation, dropout=dropout, noise_std=stds[i]))
    return nn.Sequential(*blocks)


def noise_stds(noise_std: float, noise_layers: int | Sequence[int], n_hidden: int) -> list[float]:
    """Standard deviation of the noise at the input of each of n_hidden hidden layers.

    ValueError for a layer that does not exist and for the last one, n_hidden, which never gets noise.
    """
    check_number("noise_std", noise_std, 0)
    chosen = list(noise_layers) if isinstance(noise_layers, (list, tuple)) else [noise_layers]
    for i in chosen:
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < n_hidden:
            known = ", ".join(map(str, range(n_hidden)))
            last = ", the last layer never gets noise" if i == n_hidden else ""
            raise ValueError(f"noise_layers {i!r}: choose from {known} (0 is the image){last}")
    return [noise_std if i in chosen else 0.0 for i in range(n_hidden)]


@torch.no_grad()
def init_normal(net: nn.Module, std: float = 0.02) -> None:
    """DCGAN's initial weights: layers N(0, std), norms' gains N(1, std), biases 0. arXiv:1511.06434."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.weight.normal_(0, std)
        elif isinstance(module, _BatchNorm | nn.GroupNorm | nn.InstanceNorm2d) and module.weight is not None:
            module.weight.normal_(1, std)
        else:
            continue
        if module.bias is not None:
            module.bias.zero_()


# Sampling


@torch.no_grad()
def standing_statistics(
    G: nn.Module, z_batches: Iterable[Tensor | tuple[Tensor, Tensor | None]]
) -> nn.Module:
    """Measure batch norm's running statistics anew as plain averages over `z_batches`, in place.

    z_batches holds z (N, z_dim) or (z, y). Returns G in eval mode. Nothing is measured without batch norm;
    ValueError for an empty z_batches with it. arXiv:1809.11096.
    """
    norms = [m for m in G.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return G.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's name for a cumulative average
    G.train()
    try:
        for batch in z_batches:
            G(*batch) if isinstance(batch, tuple) else G(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    if int(norms[0].num_batches_tracked) == 0:
        raise ValueError("standing statistics need at least one batch of latents")
    return G.eval()
