"""D's last layer as a direction and a scale, each trained by a loss of its own: SAN. arXiv:2301.12811.

A logit <w, h> is s <d, h> with the direction d = w / |w| and the scale s = |w|. The usual loss sees
s <stop(d), h>: it trains the features h and s. The direction maximises the distance of Wasserstein between the features
of reals and of fakes, of s <d, stop(h)>, so that G, which follows it, has a direction to follow. Values of
logits, parameters and whatever is saved are those of D without it. Under a spectral norm of the layer s is 1.

The layer is found by running D: it is the one whose output is the logit. A projection of labels has a direction a
label: that of w + V y.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError
from modelling.conditioning import Heads, as_output, label_vectors
from modelling.contract import bare, blaming, copied, needs_values, network_title, on_meta
from modelling.equalised import EqualisedConv2d, EqualisedLinear
from ops.precision import without_autocast

LEAST_NORM = 1e-12


class LastLayer(NamedTuple):
    """A last layer at work: apply(h, weight, bias or None) -> logits, linear in features and weight, (n, ...) rows."""

    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor
    bias: Tensor | None


def _projection(heads: Heads, h: Tensor, y: Tensor | None) -> LastLayer:
    """Rows w + V y of a sample's own; its bias is the logit's."""
    with without_autocast(h):
        rows = label_vectors(y, len(h), heads.n_labels)
        of_labels = heads.to_classes.weight.flatten(1)  # (n_labels, C, h, w) -> (n_labels, features)
        weight = heads.to_logit.weight.flatten(1) + rows.to(of_labels.dtype) @ of_labels

    def apply(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        logits = (h.flatten(1) * weight).sum(1)
        return logits if bias is None else logits + bias

    return LastLayer(apply, weight, heads.to_logit.bias)


# What a last layer can be: the layer and what it is called with -> how it works.
LAYERS: dict[type[nn.Module], Callable[..., LastLayer]] = {
    nn.Linear: lambda layer, h: LastLayer(F.linear, layer.weight, layer.bias),
    nn.Conv2d: lambda layer, h: LastLayer(layer._conv_forward, layer.weight, layer.bias),
    EqualisedLinear: lambda layer, h: LastLayer(F.linear, layer.scaled_weight(), layer.bias),
    EqualisedConv2d: lambda layer, h: LastLayer(
        lambda h, weight, bias: F.conv2d(h, weight, bias, padding=layer.padding),
        layer.scaled_weight(),
        layer.bias,
    ),
    Heads: _projection,
}


def split(layer: LastLayer, h: Tensor) -> tuple[Tensor, Tensor]:
    """Logits twice: s <stop(d), h> + bias, and s <d, h> of whose factors the direction alone has a gradient.

    Rows of the weight have a direction each.
    """
    norms = torch.linalg.vector_norm(layer.weight.flatten(1), dim=1)
    scale = norms.view(-1, *[1] * (layer.weight.dim() - 1))
    direction = layer.weight / scale.clamp_min(LEAST_NORM)
    logits = layer.apply(h, direction.detach() * scale, layer.bias)
    return logits, layer.apply(h.detach(), direction * scale.detach(), None)


class SplitHead:
    """The last layer of a D, found by find_head, that splits its logits where it is asked to."""

    def __init__(self, D: nn.Module, name: str) -> None:
        layer = D.get_submodule(name)
        self._kind, self._directed = _kind_of(layer), None
        layer.register_forward_hook(self._split)

    @contextmanager
    def splitting(self) -> Iterator[list[Tensor]]:
        """Within it D's logits train features and scale alone; the list gets those of the direction, call by call."""
        self._directed = found = []
        try:
            yield found
        finally:
            self._directed = None

    def _split(self, layer: nn.Module, given: tuple, output: Tensor) -> Tensor | None:
        if self._directed is None:
            return None
        logits, directed = split(LAYERS[self._kind](layer, *given), given[0])
        self._directed.append(directed)
        return logits.view_as(output)


def _kind_of(module: nn.Module) -> type[nn.Module] | None:
    """The row of LAYERS that a module is of, None for others: it must work as that does."""
    kinds = (kind for kind in LAYERS if isinstance(module, kind) and type(module).forward is kind.forward)
    kind = next(kinds, None)
    return None if kind is Heads and module.condition != "projection" else kind


def find_head(D: nn.Module, *given: Tensor | None) -> str | None:
    """The name within D of the layer that makes its logits; `given`: inputs of D on the meta device.

    A copy runs there, where nothing is computed, or on D's own device where it calls for values: None if that is the
    meta device. UserError where no layer of LAYERS makes the logits.
    """
    try:
        return _found(on_meta(D), given)
    except UserError as error:
        if not needs_values(error):
            raise
    device = next(D.parameters()).device
    if device.type == "meta":
        return None
    own = [None if x is None else torch.zeros_like(x, device=device) for x in given]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        return _found(copied(D), own)


@torch.no_grad()
def _found(D: nn.Module, given: tuple[Tensor | None, ...] | list[Tensor | None]) -> str:
    """find_head of a D that is run as it is."""
    outputs: dict[str, Tensor] = {}
    for name, module in D.named_modules():
        if _kind_of(module) is not None:
            module.register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output}))
    with blaming("D(x, y)", type(bare(D)), *D.modules()):
        logit = as_output(D(*given)).logit
    place = logit.untyped_storage()._cdata
    names = [name for name, output in outputs.items() if output.untyped_storage()._cdata == place]
    if not names:
        raise UserError(
            f"--san: the logits of {network_title(D)} come from no single last layer (linear, convolution or "
            "projection of labels), whose direction could be trained: leave it out"
        )
    return names[-1]
