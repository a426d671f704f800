"""Directions in which a generator's images change most, found in its weights, and directions towards a label.

The first by the closed form of arXiv:2007.06600 (SeFa): if the first layers that read a code c compute A c + b, then a
step n changes what they give by A n, and the steps of length 1 that change it most are the eigenvectors of A^T A.

The code is what those layers read: the styles w of models that have them, latents z of all others. The layers are found
by a pass in which the code alone has a gradient: those whose input has one, with nothing that is learnt in between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from errors import NotFinite, UserError, shown
from generation.codes import Codes, seeded_codes, with_styles
from generation.labels import label_rows
from modelling import STYLED
from modelling.conditioning import label_vectors

N_MEASURED = 1024  # latents that distances between styles and directions towards labels are measured with
MEASURED_SEED = 0


@dataclass(frozen=True)
class Directions:
    """n directions, the strongest first.

    vectors: (n, dim), of length 1, of styles, latents or labels, as `space` says: "w", "z" or "y". units: (n,) how far
    a strength of 1 goes along each. shares: (n,) of the change that all dim directions together make (of A's squared
    Frobenius norm), None for those towards labels. names: "1", "2", ..., or the labels. layers: (first, end), of the
    styles that move.
    """

    vectors: Tensor
    units: Tensor
    names: tuple[str, ...]
    space: str
    shares: Tensor | None = None
    layers: tuple[int, int] | None = None


# -- the layers that read the code -----------------------------------------------------------------------------------


def first_layers(G: nn.Module, about: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """(A, J) of each layer that reads the code: A (n_in, n_out), its response to a unit of each input; J (n_in, *code),
    how its input follows the code at 0.

    *code: (n_layers, w_dim) with styles, (z_dim,) without. J selects a part of the code (BigGAN's chunks) or a style's
    layer, and drops what is no direction (a category). UserError for a network whose layers are not to be found.
    """
    param = next(G.parameters())
    shape = (G.n_layers, G.w_dim) if about["styles"] else (G.z_dim,)
    y = label_rows(dict(about), 1, MEASURED_SEED)
    y = None if y is None else y.to(param.device)
    readers: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, given: tuple) -> tuple | None:
        if not (given and isinstance(given[0], Tensor) and given[0].requires_grad):
            return None
        readers.append((module, given[0]))
        return (given[0].detach(), *given[1:])  # what comes of it is read by later layers

    weighted = [m for m in G.modules() if m is not G and getattr(getattr(m, "weight", None), "ndim", 0) > 1]
    hooks = [module.register_forward_pre_hook(note) for module in weighted]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            code = torch.zeros(1, *shape, dtype=param.dtype, device=param.device, requires_grad=True)
            G.synthesis(code) if about["styles"] else G(code, y)
    finally:
        for hook in hooks:
            hook.remove()
    if not readers:
        raise UserError(
            f"{about['model']}: no layer of its own weights reads the code, which directions need"
        )
    return [(_response(module, x), _slope(x, code)) for module, x in readers]


@torch.no_grad()
def _response(module: nn.Module, like: Tensor) -> Tensor:
    """(n_in, n_out) of an affine module: what a unit of each input adds to what it gives for zeros."""
    n_in = like.numel()
    units = torch.eye(n_in, dtype=like.dtype, device=like.device).view(n_in, *like.shape[1:])
    return (module(units) - module(torch.zeros_like(units[:1]))).flatten(1).double()


@torch.inference_mode(False)
def _slope(x: Tensor, code: Tensor) -> Tensor:
    """(n_in, *code): how x (1, ...) follows the code."""
    units = torch.eye(x.numel(), dtype=x.dtype, device=x.device).view(-1, *x.shape)
    (found,) = torch.autograd.grad(x, code, units, is_grads_batched=True)
    return found[:, 0].double()


def check_layers(G: nn.Module, about: Mapping[str, Any], layers: tuple[int, int] | None) -> tuple[int, int]:
    """Which styles move, [first, end); None: all. UserError for others, and without styles."""
    if not about["styles"]:
        if layers is not None:
            raise UserError(f"--layers: {about['model']} has no styles; {STYLED} have")
        return 0, 1
    first, end = (0, G.n_layers) if layers is None else layers
    if not 0 <= first < end <= G.n_layers:
        raise UserError(f"--layers {first} {end}: this generator has the layers 0 to {G.n_layers}")
    return first, end


# -- directions ------------------------------------------------------------------------------------------------------


def factorise(gram: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The first n eigenvectors (n, dim) of A^T A (dim, dim), and each one's share of its trace, (n,).

    In float64. An eigenvector has two signs: the one by which its largest entry is positive is taken.
    """
    values, vectors = torch.linalg.eigh(gram.double())  # in ascending order
    rows = vectors.T.flip(0)[:n]
    signs = rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    return rows * signs, (values.clamp(min=0) / values.clamp(min=0).sum().clamp(min=1e-300)).flip(0)[:n]


def find_directions(
    G: nn.Module, about: Mapping[str, Any], n: int = 5, layers: tuple[int, int] | None = None
) -> Directions:
    """The n steps of length 1 that change most what the first layers give; arXiv:2007.06600 eq. 4.

    G, about: of load_generator. layers: (first, end) of the styles that are looked at and will move, None for all. A
    strength of 1 is a standard deviation: 1 of latents; of styles the root of their mean variance over entries.
    UserError for layers that are not there, more directions than the code has entries, and points of a plane.
    """
    first, end = check_layers(G, about, layers)
    dim = G.w_dim if about["styles"] else G.z_dim
    if not 1 <= n <= dim:
        raise UserError(f"--n_directions {n}: this generator has 1 to {dim}, as many as its code has entries")
    gram = 0
    for response, slope in first_layers(G, about):
        if about["styles"]:
            slope = slope[:, first:end].sum(1)  # (n_in, n_layers, w_dim) -> (n_in, w_dim): they move as one
        a = slope.T @ response  # (dim, n_out)
        gram = gram + a @ a.T
    if not torch.isfinite(gram).all():
        raise NotFinite("the generator's weights are not finite")
    vectors, shares = factorise(gram.cpu(), n)
    unit = spread(G, about) if about["styles"] else 1.0
    return Directions(
        vectors.float(),
        torch.full((n,), unit),
        tuple(str(i + 1) for i in range(n)),
        "w" if about["styles"] else "z",
        shares.float(),
        (first, end) if about["styles"] else None,
    )


@torch.no_grad()
def sampled_styles(G: nn.Module, about: Mapping[str, Any], y: Tensor | None = None) -> Tensor:
    """Styles w (1024, w_dim) on the CPU of latents that no seed moves; y: their labels, None for those of samples."""
    y = label_rows(dict(about), N_MEASURED, MEASURED_SEED) if y is None else y
    parts = seeded_codes(G, N_MEASURED, MEASURED_SEED, y)
    return torch.cat([with_styles(G, part).w[:, 0] for part in parts])


def spread(G: nn.Module, about: Mapping[str, Any]) -> float:
    """The standard deviation of styles, root of the mean over their entries of the variance."""
    return float(sampled_styles(G, about).double().var(0).mean().sqrt())


def label_directions(
    G: nn.Module, about: Mapping[str, Any], names: Sequence[str], layers: tuple[int, int] | None = None
) -> Directions:
    """Directions towards attributes or classes, a strength of 1 all the way.

    With styles: the mean difference of w with the label and without, of the same latents: an attribute set and not set,
    a class and all classes in turn. Without: of the labels themselves, which the network takes as weights; from an
    image's own class to another, or an attribute's weight, from 0 to 1. UserError for labels that are unknown.
    """
    if not about["n_labels"]:
        raise UserError("--toward: this generator was trained without --conditional, so it knows no labels")
    moving = check_layers(G, about, layers)
    indices = [_label_index(about, name) for name in names]
    if not about["styles"]:
        eye = torch.eye(about["n_labels"])[indices]
        return Directions(eye, torch.ones(len(eye)), tuple(names), "y")
    steps = torch.stack([_towards(G, about, i) for i in indices])
    lengths = steps.norm(dim=1)
    return Directions(steps / lengths[:, None].clamp(min=1e-12), lengths, tuple(names), "w", None, moving)


def _label_index(about: Mapping[str, Any], name: str) -> int:
    """Of an attribute by name, of a class by name or number."""
    known, n = list(about["label_names"]), about["n_labels"]
    if name in known:
        return known.index(name)
    if not about["multi_hot"] and name.isdecimal() and int(name) < n:
        return int(name)
    what = "attributes" if about["multi_hot"] else "classes"
    raise UserError(
        f"--toward {shown(name, 50)}: not one of {n} {what}: {', '.join(known) or f'0 to {n - 1}'}"
    )


def _towards(G: nn.Module, about: Mapping[str, Any], label: int) -> Tensor:
    """Mean over latents of w with the label minus w without, (w_dim,)."""
    y = label_rows(dict(about), N_MEASURED, MEASURED_SEED)
    has, lacks = y.clone(), y.clone()
    if about["multi_hot"]:
        has[:, label], lacks[:, label] = 1, 0
    else:
        has[:] = label
    return (sampled_styles(G, about, has) - sampled_styles(G, about, lacks)).mean(0)


# -- moving ----------------------------------------------------------------------------------------------------------


def moved(
    G: nn.Module, about: Mapping[str, Any], codes: Codes, directions: Directions, strengths: Tensor
) -> Codes:
    """Codes of N images moved along all n directions at once, for codes.images_from.

    strengths: (N, n), or (n,) for all alike, in units of each direction; 0 leaves an image as it is.
    """
    steps = strengths.expand(len(codes), -1).float() * directions.units @ directions.vectors  # (N, dim)
    if directions.space == "z":
        return replace(codes, z=codes.z + steps)
    if directions.space == "y":
        return replace(codes, y=_moved_labels(about, codes.y, steps))
    with torch.inference_mode():
        codes = with_styles(G, codes)
        first, end = directions.layers
        moves = torch.zeros(codes.w.shape[1])
        moves[first:end] = 1
        return replace(codes, w=codes.w + moves[:, None] * steps[:, None])  # (N, n_layers, w_dim)


def _moved_labels(about: Mapping[str, Any], y: Tensor, step: Tensor) -> Tensor:
    """Weights (N, n_labels) of labels after a step (N, n_labels): attributes add it, a class gives way to it."""
    if about["multi_hot"]:
        return y + step
    own = label_vectors(y, len(y), about["n_labels"])
    return own * (1 - step.sum(1, keepdim=True)) + step
