"""The layers of D from the image on, and freezing the first of them: FreezeD. arXiv:2002.10964."""

from torch import nn

from errors import UserError
from modelling.cgan import ConditionalDiscriminator
from modelling.contract import bare, network_title
from modelling.progressive_gan import Trunk
from modelling.projected import readers_of
from ops.spectral_norm import SpectralNorm

Layer = list[nn.Module]  # what is frozen together


def layers_of(D: nn.Module) -> list[Layer]:
    """D's layers with parameters, the one nearest the image first.

    These are D's parts in the order in which it holds them, those of a list or sequence one by one: blocks where it has
    blocks. A growing D has one for each size, with what reads images of that size; the planes of `concat` belong to the
    first.
    """
    net = bare(D)
    trunk = next((part for part in net.children() if isinstance(part, Trunk)), None)
    layers = [[part] for part in _parts(net)] if trunk is None else _grown(trunk)
    layers = [layer for layer in layers if any(True for part in layer for _ in part.parameters())]
    if isinstance(D, ConditionalDiscriminator) and layers:
        layers[0] = [D.embedding, *layers[0]]
    return layers


def _parts(net: nn.Module) -> list[nn.Module]:
    """The parts of a network, lists and sequences opened once."""
    parts = []
    for part in net.children():
        parts += part.children() if isinstance(part, nn.Sequential | nn.ModuleList) else [part]
    return parts


def _grown(trunk: Trunk) -> list[Layer]:
    """The layers of a growing D, which holds them from the smallest size on."""
    blocks, readers = list(trunk.blocks)[::-1], list(trunk.from_image)[::-1]
    layers = [list(pair) for pair in zip(blocks, readers, strict=False)]
    # one that grows from 4 px has one reader more than blocks
    return [*layers, [*readers[len(blocks) :], trunk.last]]


def check_freezable(D: nn.Module, n: int) -> None:
    """UserError unless n layers of D can be frozen, of which one must be left to train."""
    if n and (readers := readers_of(D)):
        raise UserError(
            f"--freeze_d {n}: D sees by {', '.join(readers)}, which is never trained, and its heads stand side by "
            "side: leave the flag out"
        )
    layers = layers_of(D) if n else []
    if n and n >= len(layers):
        raise UserError(
            f"--freeze_d {n}: {network_title(D)} has {len(layers)} layers from the image on, of which the last is "
            f"trained in any case: give at most {max(len(layers) - 1, 0)}"
        )


def freeze(D: nn.Module, n: int) -> None:
    """Let the first n layers of D stand still for good: their weights, and the vectors of their spectral norms."""
    for layer in layers_of(D)[:n]:
        for part in layer:
            part.requires_grad_(False)
            for module in part.modules():
                if isinstance(module, SpectralNorm):
                    module.frozen = True
