"""How networks see labels: class indices or attributes as one kind of vector, norms for G, last layers for D.

How G sees y and how D sees y are two choices; CONDITIONAL_NORMS and CLASS_HEADS are those that act inside a network,
and cgan.py has the one that wraps any network: `concat`. Labels y are (N,) class indices, int64, or (N, n_labels)
weights of attributes that may be there together.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelling.layers import check_choice, has_shift, hidden_block, norm_layer
from ops.precision import upcast, without_autocast

# Labels


def check_labels(y: Tensor | None, n: int, n_labels: int) -> None:
    """ValueError unless y is of the shape of class indices (n,) or attribute weights (n, n_labels).

    Whether an index is below n_labels is not looked at: a device would have to be waited for.
    """
    if y is None:
        raise ValueError("this network is conditional: it needs labels y")
    of_classes = tuple(y.shape) == (n,) and not y.is_floating_point()
    if not of_classes and tuple(y.shape) != (n, n_labels):
        wanted = f"({n},) of whole numbers or ({n}, {n_labels})"
        raise ValueError(f"labels of shape {wanted} are needed, not {tuple(y.shape)} of {y.dtype}")


def label_vectors(y: Tensor | None, n: int, n_labels: int) -> Tensor:
    """Labels as rows (n, n_labels) of length 1: one-hot for class indices (n,), else attribute weights over their norm.

    So the sum of independent embeddings that a row picks is as large for ten attributes as for one class. A row of
    zeros, a sample without any attribute, stays as it is. ValueError as check_labels.
    """
    check_labels(y, n, n_labels)
    if y.dim() == 1:
        return F.one_hot(y, n_labels).to(torch.get_default_dtype())
    y = y.to(torch.get_default_dtype())
    length = torch.linalg.vector_norm(y, dim=1, keepdim=True)
    return y / torch.where(length == 0, 1, length)


def without_zero_rows(rows: Tensor, weight: float) -> Tensor:
    """label_vectors (n, n_labels) with `weight` in all places of a row of zeros, from which nothing could be learnt."""
    return torch.where(rows.any(1, keepdim=True), rows, weight)


# G: norms whose gain and shift follow the labels


CONDITIONAL_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "cbn": lambda channels: nn.BatchNorm2d(channels, affine=False),  # arXiv:1610.07629, arXiv:1707.00683
    "cin": lambda channels: nn.InstanceNorm2d(channels),  # arXiv:1610.07629
}


PLAIN_NORMS = {"cbn": "batch", "cin": "instance"}  # the same for a layer that labels do not reach


class TakesRows:
    """Marks modules whose forward takes label vectors beside the maps."""


def call(module: nn.Module, x: Tensor, rows: Tensor | None) -> Tensor:
    """module(x), with the rows for a module that takes them."""
    return module(x, rows) if isinstance(module, TakesRows) else module(x)


def scale_and_shift(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """x (N, C, H, W) times 1 + gain (N, C), plus shift (N, C)."""
    gain, shift = (v.to(x.dtype)[:, :, None, None] for v in (1 + gain, shift))
    return x * gain + shift


class ConditionalNorm(TakesRows, nn.Module):
    """A norm of CONDITIONAL_NORMS, then times 1 + rows @ weight, plus rows @ bias; rows (N, n_labels) label_vectors.

    A class has a gain, 1 at the start, and a shift, 0 at the start, a channel; attributes add up.
    """

    def __init__(self, name: str, channels: int, n_labels: int) -> None:
        super().__init__()
        check_choice("conditional norm", name, CONDITIONAL_NORMS)
        self.norm = CONDITIONAL_NORMS[name](channels)
        self.weight = nn.Parameter(torch.zeros(n_labels, channels))
        self.bias = nn.Parameter(torch.zeros(n_labels, channels))

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """(N, C, H, W), (N, n_labels) -> the same shape and type as x."""
        with without_autocast(rows):
            gain, shift = rows @ self.weight, rows @ self.bias
        return scale_and_shift(self.norm(x), gain, shift)


def norm_factory(norm: str, condition: str | None, n_labels: int) -> Callable[[int], nn.Module | None]:
    """channels -> a norm of G: the one named `norm`, or with labels the conditional one named `condition`."""
    if n_labels:
        return lambda channels: ConditionalNorm(condition, channels, n_labels)
    return lambda channels: norm_layer(norm, channels)


class Conditioned(TakesRows, nn.Sequential):
    """A sequence that hands the label rows on to those of its modules that take them."""

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """rows (N, n_labels), None without labels."""
        for module in self:
            x = call(module, x, rows)
        return x


def up_blocks(
    channels: Sequence[int],
    norms: Callable[[int], nn.Module | None],
    start: tuple[int, int],
    *,
    bias: bool = False,
) -> Conditioned:
    """Latent maps 1x1 -> start (H, W) -> twice that ...: transposed convolutions, norm and ReLU, through `channels`.

    norms: see norm_factory; bias: also where the norm has one of its own.
    """
    blocks = []
    for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
        after = norms(c_out)
        kernel, stride, padding = (4, 2, 1) if i else (start, 1, 0)
        up = nn.ConvTranspose2d(c_in, c_out, kernel, stride, padding, bias=bias or not has_shift(after))
        blocks.append(hidden_block(up, after, "relu", sequence=Conditioned))
    return Conditioned(*blocks)


def rows_of(y: Tensor | None, n: int, n_labels: int) -> Tensor | None:
    """label_vectors (n, n_labels), None for a network without labels."""
    return label_vectors(y, n, n_labels) if n_labels else None


# D: last layers that know the labels


class DOutput(NamedTuple):
    """What D gives: the logit (N,) or a map of them, and class logits (N, n_labels) where it has any."""

    logit: Tensor
    classes: Tensor | None = None


def as_output(given: Tensor | DOutput) -> DOutput:
    """A bare logit as a DOutput too."""
    return given if isinstance(given, DOutput) else DOutput(given)


@dataclass(frozen=True)
class ClassHead:
    """How class logits enter D's output: fn(logit (N,), class logits (N, n_labels), rows (N, n_labels)).

    classifies: the class logits have a loss of their own; one_class: an image has just one of the labels.
    """

    fn: Callable[[Tensor | None, Tensor, Tensor], Tensor | DOutput]
    classifies: bool = False
    one_class: bool = False


CLASS_HEADS = {
    # psi(h) + <V y, h>: the class logits are the inner products of h with V's columns; arXiv:1802.05637 eq. 3
    "projection": ClassHead(lambda logit, classes, rows: logit + (rows.to(classes.dtype) * classes).sum(1)),
    # a classifier beside the logit; arXiv:1610.09585
    "ac": ClassHead(lambda logit, classes, rows: DOutput(logit, classes), classifies=True),
    # real as one of K classes or fake as another, whose logit is held at 0; arXiv:1606.03498 section 5
    "k_plus_1": ClassHead(
        lambda logit, classes, rows: DOutput(upcast(classes).logsumexp(1), classes),
        classifies=True,
        one_class=True,
    ),
}


class Heads(nn.Module):
    """D's last layers: features h -> logit (N,), and with labels what CLASS_HEADS[condition] makes of it."""

    def __init__(
        self,
        layer: Callable[[int, bool], nn.Module],
        n_labels: int = 0,
        condition: str | None = None,
        *,
        bias: bool,
    ) -> None:
        """layer(n, bias) maps h to n outputs a sample, (N, n) or (N, n, 1, 1); bias: of the logit."""
        super().__init__()
        self.n_labels, self.condition = n_labels, condition if n_labels else None
        if n_labels:
            check_choice("condition of D", condition, CLASS_HEADS)
        self.to_logit = None if self.condition == "k_plus_1" else layer(1, bias)
        # A projection takes no bias: it would be a second table beside V y.
        self.to_classes = layer(n_labels, condition != "projection") if n_labels else None

    def forward(self, h: Tensor, y: Tensor | None = None) -> Tensor | DOutput:
        """ValueError for labels that are missing or do not fit."""
        logit = None if self.to_logit is None else self.to_logit(h).flatten()  # (N, 1[, 1, 1]) -> (N,)
        if self.to_classes is None:
            return logit
        rows = label_vectors(y, len(h), self.n_labels)
        return CLASS_HEADS[self.condition].fn(logit, self.to_classes(h).flatten(1), rows)
