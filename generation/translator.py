"""Pictures of any size through a trained image-to-image network, and the generator/ folder of one.

    from generation import load_translator
    translator = load_translator("runs/facades")
    pictures = translator.translate(uint8)      # (n, C, h, w), or a list of (C, h, w)

A picture is continued by reflection to sides that the network takes, and what comes of that is cut off. One that is
larger than a tile goes through in tiles that overlap; in the middle of an overlap one fades into the next, so that
what is near to a tile's end, where its network saw no neighbours, is left out.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from errors import UserError
from generation.generator import (
    batch_norm_of,
    building,
    check_device,
    export_generator,
    filled,
    known_model,
    measured_copy,
    opened,
    trained_weights,
)
from generation.sampling import undisturbed
from metrics.features import to_uint8
from modelling.layers import standing_statistics
from ops.rng import key

TILE = 512  # px a side
TOGETHER = 16  # pictures of one size that a network takes as they are
# Of a network whose statistics were measured by translating_copy, and of one with those that its training left.
MEASURED, RUNNING = "standing statistics over training inputs", "running statistics of the training"


# -- one picture -----------------------------------------------------------------------------------------------------


class Cut(NamedTuple):
    """An axis of a picture in pieces of `side` px from `starts` on, which fade into each other over `fade` px."""

    side: int
    starts: tuple[int, ...]
    fade: int

    def times(self, factor: int) -> "Cut":
        """Of what is made of the pieces, at so many times their size."""
        return Cut(self.side * factor, tuple(start * factor for start in self.starts), self.fade * factor)


def cut(length: int, tile: int, multiple: int, least: int) -> Cut:
    """An axis of so many px in one piece, or in tiles of about `tile` where it is longer.

    Sides are what a network takes: multiples of a number, from a least one on. The axis goes on to the next of them,
    where the last tile ends. Tiles stand by a quarter or more over each other, and on multiples of that number where
    they have more than one of it; half of that quarter fades.
    """
    least = -(-least // multiple) * multiple
    side = max(tile // multiple * multiple, least)
    whole = max(-(-length // multiple) * multiple, least)
    if length <= max(side, tile):
        return Cut(whole, (0,), 0)
    unit = multiple if side > multiple else 1
    step = max(1, 3 * side // 4 // unit)
    room = (whole - side) // unit
    n = -(-room // step)
    return Cut(side, tuple(i * room // n * unit for i in range(n + 1)), (side - step * unit) // 2)


def mirrored_index(start: int, stop: int, length: int) -> Tensor:
    """Which of `length` px stand at start .. stop - 1 where an axis goes on by reflection, its last px once; int64."""
    period = max(1, 2 * (length - 1))
    at = torch.arange(start, stop) % period
    return torch.minimum(at, period - at)


def faded(pieces: Iterable[Tensor], cut: Cut, dim: int) -> Iterator[Tensor]:
    """The pieces of an axis as parts that follow each other along dim: in the middle of each overlap one fades into the
    next, along a straight line."""
    share = (torch.arange(cut.fade, dtype=torch.float32) + 0.5) / cut.fade
    before, done = None, 0
    for start, piece in zip(cut.starts, pieces, strict=True):
        if before is not None:
            last, ahead = before
            low = (last + cut.side + start - cut.fade) // 2
            yield ahead.narrow(dim, done - last, low - done)
            ends = ahead.narrow(dim, low - last, cut.fade), piece.narrow(dim, low - start, cut.fade)
            yield torch.lerp(
                *ends, share.to(piece.dtype).view([-1 if d == dim else 1 for d in range(piece.dim())])
            )
            done = low + cut.fade
        before = start, piece
    yield piece.narrow(dim, done - start, cut.side - (done - start))


def translated(G: nn.Module, x: Tensor, tile: int = TILE) -> Tensor:
    """What G makes of one picture (C, h, w), uint8 or in [-1, 1]: uint8 (C', h * factor, w * factor) on the CPU.

    Its memory is that of the picture, and of a row of tiles. NotFinite.
    """
    height, width = x.shape[1:]
    rows, columns = (cut(n, tile, G.sides.multiple, G.sides.least) for n in (height, width))
    factor = G.factor

    def piece(top: int, left: int) -> Tensor:
        down = mirrored_index(top, top + rows.side, height).to(x.device)
        right = mirrored_index(left, left + columns.side, width).to(x.device)
        return G(as_input(x[:, down][:, :, right], G)[None])[0].float().cpu()

    def strip(top: int) -> Tensor:
        tiles = (piece(top, left) for left in columns.starts)
        return torch.cat([*faded(tiles, columns.times(factor), 2)], dim=2)[:, :, : width * factor]

    whole = torch.empty(G.img_channels, height * factor, width * factor, dtype=torch.uint8)
    done = 0
    for part in faded(map(strip, rows.starts), rows.times(factor), 1):
        part = part[:, : len(whole[0]) - done]
        whole[:, done : done + part.shape[1]] = to_uint8(part)
        done += part.shape[1]
    return whole


def translate(
    G: nn.Module, pictures: Iterable[Tensor], *, seed: int = 0, first: int = 0, tile: int = TILE
) -> list[Tensor]:
    """Each of the pictures (C, h, w), uint8 or in [-1, 1], as `translated`; G is on the device.

    What G draws follows the seed and the picture's number, counted from `first`: a translation depends on these and on
    the picture, its neighbours move it by no more than float rounding. Modes, switches and torch's generators are
    afterwards as before.
    """
    found: list[Tensor] = []
    with undisturbed(G, next(G.parameters()).device):
        if as_they_are(G, pictures, tile):
            for part in pictures.split(TOGETHER):
                found.extend(to_uint8(G(as_input(part, G)).float()).cpu())
        else:
            for number, x in enumerate(pictures, start=first):
                torch.manual_seed(key(seed, "translation", number))
                found.append(translated(G, x, tile))
    return [x.clone() for x in found]  # torch lets nobody write into what was made in inference mode


def as_they_are(G: nn.Module, pictures: Iterable[Tensor], tile: int) -> bool:
    """Whether a network takes pictures (n, C, h, w) in batches: they fit it, whole, and it draws no dropout then."""
    if not isinstance(pictures, Tensor) or any(getattr(module, "sampling", False) for module in G.modules()):
        return False
    sides = pictures.shape[2:]
    return max(sides) <= tile and G.sides.fits(*sides)


def as_input(x: Tensor, G: nn.Module) -> Tensor:
    """Pictures, uint8 or in [-1, 1], as a network takes them."""
    part = x.to(next(G.parameters()))
    return part if x.is_floating_point() else part / 127.5 - 1


# -- a run's networks ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Translator:
    """The networks of a run by direction, AtoB and perhaps BtoA, and what is known of it, see load_translator."""

    networks: Mapping[str, nn.Module] = field(repr=False)
    about: dict[str, Any] = field(repr=False)

    @property
    def directions(self) -> tuple[str, ...]:
        """Those that the run knows, its own first."""
        return tuple(self.networks)

    def network(self, direction: str | None = None) -> nn.Module:
        """G of a direction, None for the first; UserError for one that the run does not know."""
        if direction is None:
            direction = self.directions[0]
        if direction not in self.networks:
            raise UserError(f"--direction {direction}: this run translates {' and '.join(self.directions)}")
        return self.networks[direction]

    def translate(
        self,
        x: Tensor | Sequence[Tensor],
        direction: str | None = None,
        seed: int = 0,
        *,
        first: int = 0,
        tile: int = TILE,
    ) -> Tensor | list[Tensor]:
        """uint8 pictures of any size (n, C, h, w) -> (n, C', h * factor, w * factor) on the CPU; a list of (C, h, w)
        -> a list.

        direction: AtoB or BtoA, None for the run's own. Picture i depends on itself, the seed and first + i alone.
        tile: px a side, above which pictures go through in parts. UserError for others.
        """
        G = self.network(direction)
        if tile < 1:
            raise UserError(f"--tile {tile}: give at least 1")
        for picture in x:
            if not isinstance(picture, Tensor):
                raise UserError(
                    f"x: pictures are torch tensors (C, h, w) of uint8, not {type(picture).__name__}"
                )
            if picture.dtype != torch.uint8 or picture.dim() != 3 or 0 in picture.shape:
                raise UserError(
                    f"x: pictures are uint8 (C, h, w), not {picture.dtype} {tuple(picture.shape)}"
                )
            if len(picture) != G.source_channels:
                raise UserError(f"x: pictures have {len(picture)} channels, G takes {G.source_channels}")
        found = translate(G, x, seed=seed, first=first, tile=tile)
        if not isinstance(x, Tensor):
            return found
        if not found:
            return x.new_empty(0, G.img_channels, *(side * G.factor for side in x.shape[2:]))
        return torch.stack(found)


def rebuilt_translator(folder: Path, about: Mapping[str, Any], names: Sequence[str]) -> nn.Module:
    """The network of a run, or a ModuleDict of its networks, without weights; UserError."""
    row = known_model(folder, about)
    networks = {}
    for direction, found in about["translates"].items():
        whose = f"{folder / 'config.json'}, translates.{direction}.build"
        built = building(about["model"], partial(row.Generator, **found["build"]), whose)
        if any(not hasattr(built, name) for name in ("source_channels", "factor", "sides")):
            raise UserError(
                f"{folder / 'config.json'}: the networks of {about['model']} translate no pictures"
            )
        networks[found["network"]] = built
    return networks[names[0]] if len(names) == 1 else nn.ModuleDict(networks)


def network_names(about: Mapping[str, Any]) -> list[str]:
    """The networks that a run translates by, each once."""
    return list(dict.fromkeys(found["network"] for found in about["translates"].values()))


def as_trained(networks: nn.Module, about: dict[str, Any]) -> nn.Module:
    """A copy of a network, or several, whose batch norm has the statistics of the training, which `about` then says."""
    networks = measured_copy(networks, lambda network: network.eval(), about["seed"])
    about["batch_norm"] = batch_norm_of(networks, RUNNING)
    return networks


def load_translator(
    path: str | os.PathLike[str],
    weights: str | None = None,
    device: str | torch.device = "cpu",
    checkpoint: str | int | None = None,
) -> Translator:
    """The networks of a run of pix2pix, CycleGAN, SRGAN or their generator/, in eval mode without gradients.

    weights, checkpoint: as of load_generator; with a checkpoint batch norm has the statistics of the training. `about`
    of what is given is config.json with the `step` and `chosen` name of these weights. UserError as of load_generator,
    and for a run that makes pictures of noise.
    """
    check_device(device)
    folder, about = opened(path, weights)
    if about["translates"] is None:
        raise UserError(f"{path} makes pictures of noise: python -m tools.sample {path} --out grid.png")
    names = network_names(about)
    build = partial(rebuilt_translator, folder, about, names)
    networks = filled(build, trained_weights(folder, about, checkpoint, names), folder, about["revision"])
    if checkpoint is not None:
        networks = as_trained(networks, about)
    networks = networks.requires_grad_(False).eval().to(device)
    named = {names[0]: networks} if len(names) == 1 else dict(networks)
    return Translator({d: named[found["network"]] for d, found in about["translates"].items()}, about)


# -- what a run writes -----------------------------------------------------------------------------------------------


def translating_copy(
    networks: nn.Module, sources: Mapping[str, Iterable[Tensor]] | None = None, seed: int = 0
) -> nn.Module:
    """A copy of G, or of a ModuleDict of several, in eval mode: what generation.generator.sampling_copy is for noise.

    sources: batches of training inputs (n, C, H, W) in [-1, 1] by the network's name, of a single G by any: statistics
    of batch norm are measured anew over them. Nothing is measured, nor read, without batch norm. ValueError for batch
    norm without sources.
    """

    def measured(copied: nn.Module) -> nn.Module:
        each = copied if isinstance(copied, nn.ModuleDict) else {next(iter(sources or {}), "G"): copied}
        for name, G in each.items():
            param = next(G.parameters())
            standing_statistics(G, (batch.to(param) for batch in (sources or {}).get(name, ())))
        return copied.eval()

    return measured_copy(networks, measured, seed)


def translator_batch_norm(networks: nn.Module) -> str:
    """What a protocol says of the batch norm of a translating copy."""
    return batch_norm_of(networks, MEASURED)


def export_translator(
    folder: Path, config: dict[str, Any], networks: Mapping[str, nn.Module], step: int
) -> None:
    """As export_generator. config: with `translates`, {direction: {"network": its name, "build": its arguments}};
    networks: translating copies by weight set, each G or a ModuleDict by those names."""
    about = {"batch_norm": translator_batch_norm(next(iter(networks.values())))}
    export_generator(folder, {"build": {}, "multi_hot": False} | config | about, networks, step)
