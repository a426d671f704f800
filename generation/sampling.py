"""Images of a trained generator, each a function of the seed and its index alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError
from generation.generator import sampling_copy
from generation.labels import sample_labels
from generation.latents import DRAWN_AT_ONCE, MIN_THRESHOLD, latents
from metrics.features import to_uint8
from metrics.mixture import MIXTURES
from modelling import STYLED
from ops.precision import repeatable
from ops.rng import key


@contextmanager
def undisturbed(G: nn.Module | None, device: torch.device) -> Iterator[None]:
    """G in eval mode, float32 without TF32 and no gradients inside; afterwards modes, switches and torch's global
    generators are as before."""
    modes = [] if G is None else [(module, module.training) for module in G.modules()]
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.inference_mode(),
        torch.autocast(device.type, enabled=False),
        repeatable(),
    ):
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, training in modes:
                module.training = training


@torch.inference_mode()
def generate(G: nn.Module, z: Tensor, y: Tensor | None, **how: Any) -> Tensor:
    """What G makes of latents (n, z_dim), (n, C, H, W) on the CPU, computed in fixed chunks; G is in eval mode.

    how: what G's forward takes beside latents and labels, such as truncation.
    """
    param = next(G.parameters())
    images = []
    for start in range(0, len(z), DRAWN_AT_ONCE):
        part = slice(start, start + DRAWN_AT_ONCE)
        labels = None if y is None else y[part].to(param.device)
        images.append(G(z[part].to(param), labels, **how).cpu())
    return torch.cat(images)


def render(G: nn.Module, z: Tensor, y: Tensor | None, **how: Any) -> Tensor:
    """uint8 images (n, C, H, W) on the CPU of latents (n, z_dim); G and `how` as for generate."""
    return to_uint8(generate(G, z, y, **how))


def sample_chunks(
    G: nn.Module, n: int, seed: int, y: Tensor | None = None, *, threshold: float | None = None, **how: Any
) -> Iterator[Tensor]:
    """uint8 images (<= 64, C, H, W) of indices 0 .. n - 1 on the CPU; G is in eval mode.

    An image depends on (seed, its index, its label); n moves it by no more than float rounding. threshold: see
    latents; how: see render.
    """
    for start in range(0, n, DRAWN_AT_ONCE):
        z = latents(seed, start, min(DRAWN_AT_ONCE, n - start), G.z_dim, threshold)
        yield render(G, z, None if y is None else y[start : start + DRAWN_AT_ONCE], **how)


def with_truncation(
    G: nn.Module, about: Mapping[str, Any], truncation: float | None, truncation_layers: int | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """(G, what it adds to the arguments of sample_chunks) for a truncation, None for none.

    about: of load_generator. Models with styles take psi, of the first so many layers; of others G becomes a copy whose
    batch norm is measured with truncated latents. ValueError for what does not fit.
    """
    if truncation is None:
        if truncation_layers is not None:
            raise UserError("--truncation_layers needs --truncation")
        return G, {}
    if not math.isfinite(truncation):
        raise UserError(f"--truncation {truncation}: give a finite number")
    if about["styles"]:
        return G, {"truncation": truncation, "truncation_layers": truncation_layers}
    if truncation_layers is not None:
        raise UserError(f"--truncation_layers: {about['model']} has no styles; {STYLED} have")
    if truncation < MIN_THRESHOLD:
        raise UserError(
            f"--truncation {truncation:g}: for {about['model']} it is the threshold of latents, at least "
            f"{MIN_THRESHOLD}; psi is for models with styles: {STYLED}"
        )
    return sampling_copy(G, about, about["seed"], truncation), {"threshold": truncation}


def draw_samples(
    G: nn.Module, about: Mapping[str, Any], n: int, seed: int, y: Tensor | None, **how: Any
) -> Tensor:
    """uint8 images (n, C, H, W), or points (n, 2), of indices 0 .. n - 1 with the labels y; how: of with_truncation."""
    with undisturbed(G, next(G.parameters()).device):
        torch.manual_seed(key(seed, "sample"))  # of what a generator draws by itself
        if about["dataset"] in MIXTURES:
            found = generate(G, latents(seed, 0, n, G.z_dim, how.pop("threshold", None)), y, **how).flatten(1)
        else:
            found = torch.cat(list(sample_chunks(G, n, seed, y, **how)))
    return found.clone()  # torch lets nobody write into what was made in inference mode


def sample(
    G: nn.Module,
    about: Mapping[str, Any],
    n: int = 64,
    seed: int = 0,
    *,
    label: str | int | None = None,
    attributes: Sequence[str] | None = None,
    truncation: float | None = None,
    truncation_layers: int | None = None,
) -> Tensor:
    """n images of a generator: uint8 (n, C, H, W) on the CPU, as `tools.sample` writes them; points: float (n, 2).

    G, about: of load_generator. Image i depends on the seed, i and its labels alone. label: the class of all by name
    or number, None to go through all classes in turn. attributes: names of those that all have, or, with a minus, have
    not; the others are those of training images. truncation: psi of models with styles (of the first truncation_layers
    layers), a threshold of latents for others. ValueError for what the generator does not know.
    """
    if n < 1:
        raise UserError(f"--n {n}: give at least 1")
    y = sample_labels(about, n, seed, None if label is None else [str(label)], attributes)
    G, how = with_truncation(G, about, truncation, truncation_layers)
    return draw_samples(G, about, n, seed, y, **how)
