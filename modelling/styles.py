"""From latents to styles: the mapping network, style mixing and truncation. arXiv:1812.04948, arXiv:2006.06676.

Deviations: the gain of sqrt(2) that makes up for LeakyReLU is in the mapping's weights, and reaches its biases by the
rate at which these learn; the papers condition on one class a sample, here several labels at once (attributes) are
averaged.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelling.conditioning import label_vectors, without_zero_rows
from modelling.equalised import EqualisedLinear
from modelling.layers import PixelNorm, check_choice, check_latents, check_number
from ops.precision import upcast, without_autocast

MAX_LAYERS = 64  # of a mapping network


class Mapping(nn.Module):
    """z (N, z_dim), y -> w (N, w_dim): latents brought to unit mean square, then n_layers of LeakyReLU.

    With n_labels the embedded labels, of unit mean square too, are joined to the latents; z_dim 0 maps labels alone.
    A row of zeros stands for the opposite of all labels at once: its own embedding would be 0 at the start, where the
    normalisation has a slope of 10^4.
    Works in full precision. The layers learn at lr_scale times the rate of the rest, their biases at bias_gain times
    that: StyleGAN2 has a gain of sqrt(2) behind them, StyleGAN none. The embedding learns at the full rate.
    `w_avg` is the running mean of w, the centre of truncation: w_avg <- beta w_avg + (1 - beta) mean w, moved by every
    pass of G in training mode: the one whose images D sees, which G's update shares unless the batch is cut or G is not
    due, and that of the path length; style mixing's second latents do not move it. Each process moves it by its own
    batch and the trainer averages it over processes. None with w_avg_beta None.
    """

    lr_scale = 0.01
    w_avg: Tensor | None

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        n_layers: int,
        *,
        n_labels: int = 0,
        w_avg_beta: float | None = 0.995,
        bias_gain: float = 1.0,
    ) -> None:
        super().__init__()
        check_number("mapping_layers", n_layers, 0, MAX_LAYERS + 1, whole=True)
        self.z_dim, self.w_dim, self.n_labels, self.w_avg_beta = z_dim, w_dim, n_labels, w_avg_beta
        self.embedding = EqualisedLinear(n_labels, w_dim) if n_labels else None
        if self.embedding is not None:
            self.embedding.lr_scale = 1.0
        self.normalise = PixelNorm()
        widths = [z_dim + (w_dim if n_labels else 0)] + [w_dim] * n_layers
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList(EqualisedLinear(n_in, n_out, gain=math.sqrt(2)) for n_in, n_out in pairs)
        for layer in self.layers:
            layer.bias_lr_scale = self.lr_scale * bias_gain
        self.register_buffer("w_avg", None if w_avg_beta is None else torch.zeros(w_dim))

    def forward(self, z: Tensor | None, y: Tensor | None = None, *, follow: bool = True) -> Tensor:
        """ValueError for latents and labels that do not fit. follow: let w_avg move, which it does in training only."""
        parts = []
        if self.z_dim:
            check_latents(z, self.z_dim)
            parts.append(self.normalise(upcast(z)))
        if self.embedding is not None:
            n = z.shape[0] if self.z_dim else 0 if y is None else y.shape[0]
            rows = without_zero_rows(label_vectors(y, n, self.n_labels), -(self.n_labels**-0.5))  # |row| 1
            with without_autocast(rows):
                parts.append(self.normalise(self.embedding(rows)))
        w = torch.cat([part.to(parts[0].dtype) for part in parts], 1)
        with without_autocast(w):
            for layer in self.layers:
                w = F.leaky_relu(layer(w), 0.2)
        if self.training and follow and self.w_avg is not None:
            self._follow(w)
        return w

    @torch.no_grad()
    def _follow(self, w: Tensor) -> None:
        self.w_avg.lerp_(w.detach().to(self.w_avg.dtype).mean(0), 1 - self.w_avg_beta)


# Generators with styles: what StyleGAN and StyleGAN2 have in common


# The noise for maps x (N, C, H, W) in a type, given the layer's constant noise (H, W); None for nothing.
NOISES: dict[str, Callable[[Tensor, Tensor, torch.dtype], Tensor | None]] = {
    "none": lambda x, constant, dtype: None,
    "random": lambda x, constant, dtype: torch.randn(len(x), 1, *x.shape[2:], dtype=dtype, device=x.device),
    # the same on every device
    "repeatable": lambda x, constant, dtype: torch.randn(len(x), 1, *x.shape[2:], dtype=dtype).to(x.device),
    "constant": lambda x, constant, dtype: constant.to(dtype),
}


def check_mixing(mixing: float) -> None:
    """ValueError unless `mixing` is a probability."""
    if isinstance(mixing, bool) or not isinstance(mixing, int | float) or not 0 <= mixing <= 1:
        raise ValueError(f"mixing {mixing!r} must be a probability, 0 to 1")


def crossovers(u: Tensor, probability: float, n_layers: int) -> Tensor:
    """First layer of the second style, int64 (N,): uniform in [1, n_layers) with `probability`, else n_layers.

    u (N, 2) in [0, 1): whether to mix, and where. arXiv:1812.04948 section 3.1.
    """
    where = 1 + (u[:, 1] * (n_layers - 1)).long()
    return torch.where(u[:, 0] < probability, where, n_layers)


def broadcast_styles(w: Tensor, n_layers: int, w_mix: Tensor | None, crossover: Tensor | None) -> Tensor:
    """w (N, w_dim) for each layer, (N, n_layers, w_dim); w_mix (N, w_dim) from layer crossover (N,) on."""
    ws = w[:, None].expand(-1, n_layers, -1)
    if w_mix is None:
        return ws
    second = torch.arange(n_layers, device=w.device) >= crossover[:, None]  # (N, n_layers)
    return torch.where(second[:, :, None], w_mix[:, None], ws)


def styles_of(G: nn.Module, z: Tensor, y: Tensor | None, z_mix: Tensor | None, u: Tensor | None) -> Tensor:
    """ws (N, G.n_layers, w_dim): w of z and, from a random layer on, of z_mix, under the same labels.

    u (N, 2), uniform in [0, 1), decides where (see crossovers), None for the style of z alone. The mean style follows z
    only. ValueError for shapes that do not fit.
    """
    if u is None:
        return broadcast_styles(G.mapping(z, y), G.n_layers, None, None)
    if z_mix is None or z_mix.shape != z.shape or tuple(u.shape) != (len(z), 2):
        given = None if z_mix is None else tuple(z_mix.shape)
        wanted = f"z_mix {tuple(z.shape)} and u {(len(z), 2)}"
        raise ValueError(f"mixing needs {wanted}, not {given} and {tuple(u.shape)}")
    w, w_mix = G.mapping(z, y), G.mapping(z_mix, y, follow=False)
    return broadcast_styles(w, G.n_layers, w_mix, crossovers(u, G.mixing, G.n_layers))


def check_synthesis(
    G: nn.Module, ws: Tensor, noise: str | Sequence[Tensor] | None, n_noises: int
) -> Sequence[str | Tensor]:
    """The noise of each of n_noises layers: a kind, or maps. None is "random" in training, "constant" in eval mode.

    ValueError unless it is one of NOISES, or maps (N or 1, 1, h, w) of G.constant_noises, and ws is (N, G.n_layers,
    G.w_dim).
    """
    if ws.dim() != 3 or tuple(ws.shape[1:]) != (G.n_layers, G.w_dim):
        wanted = f"(N, {G.n_layers}, {G.w_dim})"
        raise ValueError(f"G takes styles of shape {wanted} as it is now, not {tuple(ws.shape)}")
    if not isinstance(noise, list | tuple):
        kind = ("random" if G.training else "constant") if noise is None else noise
        check_choice("noise", kind, NOISES)
        return [kind] * n_noises
    shapes, own = [tuple(maps.shape) for maps in noise], [tuple(maps.shape) for maps in G.constant_noises]
    if not any(shapes == [(n, 1, *shape) for shape in own] for n in (1, len(ws))):
        raise ValueError(f"G takes noise of shapes (N or 1, 1, h, w), h and w {own}, not {shapes}")
    return noise if G.layer_noise else ["none"] * n_noises


def noise_maps(x: Tensor, noise: str | Tensor, constant: Tensor, dtype: torch.dtype) -> Tensor | None:
    """What is added to maps x (N, C, H, W), of a type: given maps, or of a kind of NOISES; None for nothing."""
    return noise.to(dtype) if isinstance(noise, Tensor) else NOISES[noise](x, constant, dtype)


def styled_images(
    G: nn.Module,
    z: Tensor,
    y: Tensor | None,
    z_mix: Tensor | None,
    u: Tensor | None,
    *,
    truncation: float,
    truncation_layers: int | None,
    noise: str | None,
) -> Tensor:
    """Images of latents, truncated if so asked. ValueError for a truncation other than 1 in training mode."""
    if truncation != 1 and G.training:
        raise ValueError(f"truncation {truncation} is for samples: put G in eval mode, or leave it at 1")
    ws = G.styles(z, y, z_mix, u)
    return G.synthesis(truncated_styles(ws, G.mapping.w_avg, truncation, truncation_layers), noise=noise)


def truncated_styles(ws: Tensor, w_avg: Tensor, psi: float, n_layers: int | None) -> Tensor:
    """Styles drawn towards the mean by psi in the first n_layers layers, None for all. arXiv:1812.04948 appendix B.

    ValueError for numbers out of range.
    """
    n = ws.shape[1] if n_layers is None else n_layers
    if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= ws.shape[1]:
        raise ValueError(f"truncation_layers {n!r} must be a whole number, 0 to {ws.shape[1]}")
    if not math.isfinite(psi):
        raise ValueError(f"truncation {psi} must be a finite number: 0 for the mean style, 1 for no change")
    if psi == 1:
        return ws
    return torch.cat([torch.lerp(w_avg.to(ws.dtype), ws[:, :n], psi), ws[:, n:]], 1)
