"""Images of a trained generator, each a function of the seed and its index alone."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError
from generation.generator import sampling_copy
from generation.latents import DRAWN_AT_ONCE, MIN_THRESHOLD, latents
from metrics.features import to_uint8
from modelling import STYLED
from modelling.contract import STYLES
from ops.precision import repeatable


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


def draws_noise(G: nn.Module) -> bool:
    """Whether G's layers add noise, which grids keep constant and scores draw anew for each image."""
    return all(hasattr(G, name) for name in STYLES) and getattr(G, "layer_noise", True)


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
