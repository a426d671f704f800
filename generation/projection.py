"""The codes by which a generator comes nearest to given pictures, by gradient descent: projection, or inversion.

After arXiv:1912.04958 appendix D, with these deviations. Styles are sought in coordinates in which those that the
mapping makes have mean 0 and the unit matrix as covariance, and are held near 0 there; the paper holds them by noise
that it adds to w. Pictures are compared over an image pyramid and by maps of EfficientNet-Lite0, where the paper has
LPIPS with VGG. Descent begins at the best of many random codes and goes on from the best of a few, not from the mean
alone. Latents of models without styles are sought likewise, and held to the length that latents have.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from errors import NotFinite, UserError
from generation.codes import Codes, joined, seeded_codes, with_styles
from generation.labels import label_rows
from generation.likeness import as_written, noise_loss, perceptual_loss, perceptual_maps, pyramid_loss
from metrics.features import to_uint8
from metrics.pairwise import psnr
from modelling import STYLED
from modelling.layers import image_shape
from ops.precision import repeatable
from ops.rng import key
from pretrained.lite0 import Lite0

N_MEASURED = 2048  # styles that their mean and covariance are measured with
N_CANDIDATES, N_STARTS = 256, 4  # random codes; those of them from which descent begins
EXPLORED = 0.2  # steps from each start, as a share of those from the best of them
N_STEPS = 300
RATE = 0.1  # of Adam, in coordinates of unit variance
RAMP_UP, RAMP_DOWN = 0.05, 0.5  # shares of the steps; the rate falls to 0 as a cosine
PERCEPTUAL = 0.1  # weight of what Lite0 sees
# Weights, falling with the rate: of styles' distance from their mean, of layers' from each other, of latents' length.
PULL_W, PULL_LAYERS, PULL_Z = 1e-3, 3e-3, 0.1
NOISE_WEIGHT = 0.1  # of the noise's correlation with itself
LEAST_VARIANCE = 1e-4  # of a direction of styles, as a share of the largest
PIXELS_AT_ONCE = 2**19  # of the images of one pass

SPACES = ("w", "w+")  # one style for all layers, one for each
Watch = Callable[[int, Tensor, Tensor], None]  # (step, uint8 images (n, C, H, W), PSNR (n,))


@dataclass(frozen=True)
class Projection:
    """What was found for n pictures: codes, the noise of each layer (n, 1, h, w) where it was sought, the images
    uint8 (n, C, H, W) and their PSNR (n,) in dB."""

    codes: Codes
    noises: tuple[Tensor, ...]
    images: Tensor
    psnr: Tensor


# -- where it is sought ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unknowns:
    """A point (n, dim) of the space for each of n pictures, what each layer's style has beside (n, n_layers, dim), and
    noise; None and () for what is not sought. y: labels, which move where they are weights that have a gradient."""

    point: Tensor
    layers: Tensor | None = None
    y: Tensor | None = None
    noises: tuple[Tensor, ...] = ()

    def rows(self, index: Tensor | slice) -> "Unknowns":
        """Those of some of the pictures."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        noises = tuple(maps[index] for maps in held.pop("noises"))
        return Unknowns(noises=noises, **{k: None if v is None else v[index] for k, v in held.items()})

    def leaves(self, seek_labels: bool) -> "Unknowns":
        """A copy of what moves, each with a gradient."""
        point, *noises = (leaf(x) for x in (self.point, *self.noises))
        layers = None if self.layers is None else leaf(self.layers)
        return Unknowns(point, layers, leaf(self.y) if seek_labels else self.y, tuple(noises))

    def moving(self) -> list[Tensor]:
        """What is sought."""
        return [
            x for x in (self.point, self.layers, self.y, *self.noises) if x is not None and x.requires_grad
        ]

    @torch.no_grad()
    def confine(self) -> None:
        """Labels to weights from 0 to 1; noise to mean 0 and variance 1, as the paper has it."""
        if self.y is not None and self.y.requires_grad:
            self.y.clamp_(0, 1)
        for maps in self.noises:
            maps -= maps.mean((2, 3), keepdim=True)
            maps /= maps.square().mean((2, 3), keepdim=True).sqrt()

    def detached(self) -> "Unknowns":
        """The same without gradients."""
        point, layers, y, *noises = (
            None if x is None else x.detach() for x in (self.point, self.layers, self.y, *self.noises)
        )
        return Unknowns(point, layers, y, tuple(noises))


def leaf(x: Tensor) -> Tensor:
    """A copy that has a gradient."""
    return x.detach().clone().requires_grad_()


class LatentSpace:
    """Latents z of a model without styles."""

    def __init__(self, G: nn.Module, candidates: Codes) -> None:
        self.G = G
        self.candidates = Unknowns(candidates.z, None, candidates.y)

    def images(self, at: Unknowns) -> Tensor:
        """(n, C, H, W)."""
        return self.G(at.point, at.y)

    def pull(self, at: Unknowns) -> Tensor:
        """How far z is from the length that latents have, (n,)."""
        return PULL_Z * (at.point.square().mean(1) - 1).square()

    def codes(self, at: Unknowns) -> Codes:
        """What images are drawn from."""
        return Codes(at.point.cpu(), None if at.y is None else at.y.cpu())


class StyleSpace:
    """Styles w = mean + point root, where root^T root is the covariance of the styles that the mapping makes."""

    def __init__(self, G: nn.Module, about: Mapping[str, Any], candidates: Codes, seed: int) -> None:
        self.G = G
        parts = seeded_codes(G, N_MEASURED, seed, label_rows(dict(about), N_MEASURED, seed))
        w = torch.cat([with_styles(G, part).w[:, 0] for part in parts]).to(candidates.z)
        if not torch.isfinite(w).all():
            raise NotFinite("the generator's styles are not finite")
        self.mean = w.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(w.double().T).reshape(w.shape[1], -1))
        scales = values.clamp(min=max(LEAST_VARIANCE * float(values.max()), 1e-12)).sqrt()
        self.root = (vectors * scales).T.to(w)
        given = with_styles(G, candidates).w[:, 0].to(w) - self.mean
        point = given @ (vectors / scales).to(w)
        self.candidates = Unknowns(torch.cat([torch.zeros_like(point[:1]), point]))  # the mean first

    def styles(self, at: Unknowns) -> Tensor:
        """ws (n, n_layers, w_dim)."""
        point = at.point[:, None].expand(-1, self.G.n_layers, -1)
        return self.mean + (point if at.layers is None else point + at.layers) @ self.root

    def images(self, at: Unknowns) -> Tensor:
        """(n, C, H, W)."""
        return self.G.synthesis(self.styles(at), **({"noise": at.noises} if at.noises else {}))

    def pull(self, at: Unknowns) -> Tensor:
        """How far the styles are from their mean, in standard deviations, and the layers from each other, (n,)."""
        loss = PULL_W * at.point.square().mean(1)
        return loss if at.layers is None else loss + PULL_LAYERS * at.layers.square().mean((1, 2))

    def codes(self, at: Unknowns) -> Codes:
        """What images are drawn from."""
        return Codes(None, None, self.styles(at).detach().cpu())


# -- how it is found -------------------------------------------------------------------------------------------------


def n_explored(steps: int) -> int:
    """Steps from each start, before so many from the best."""
    return max(1, round(EXPLORED * steps))


def n_told(steps: int) -> int:
    """How often `watch` is told."""
    return n_explored(steps) + steps


def rate_at(share: float) -> float:
    """The rate, as a share of its largest, when `share` of the steps are done: up in a line, at the end down to 0."""
    fall = min(1.0, (1 - share) / RAMP_DOWN)
    return min(1.0, share / RAMP_UP) * 0.5 * (1 - math.cos(math.pi * fall))


class Descent:
    """Adam on unknowns towards targets, (n, C, H, W) in [-1, 1] each; lite0: None to compare pixels alone.

    seek_labels: whether labels, weights of attributes, move too.
    """

    def __init__(
        self, space: LatentSpace | StyleSpace, targets: Tensor, lite0: Lite0 | None, seek_labels: bool
    ) -> None:
        self.space, self.targets, self.lite0, self.seek_labels = space, targets, lite0, seek_labels
        self.at_once = max(1, PIXELS_AT_ONCE // math.prod(image_shape(space.G.img_size)))
        with torch.no_grad():
            self.wanted = [] if lite0 is None else perceptual_maps(lite0, targets)

    def losses(self, at: Unknowns, index: Tensor, pull: float) -> tuple[Tensor, Tensor]:
        """(images, losses (n,)) of unknowns whose targets are those of an index (n,)."""
        x, target = self.space.images(at), self.targets[index]
        seen = as_written(x, target)
        loss = pyramid_loss(seen, target) + pull * self.space.pull(at)
        if self.lite0 is not None:
            wanted = [maps[index] for maps in self.wanted]
            loss = loss + PERCEPTUAL * perceptual_loss(perceptual_maps(self.lite0, seen), wanted)
        if at.noises:
            loss = loss + NOISE_WEIGHT * noise_loss(list(at.noises))
        return x, loss

    @torch.no_grad()
    def images(self, at: Unknowns) -> Tensor:
        """(n, C, H, W), as many at once as memory bears."""
        starts = range(0, len(at.point), self.at_once)
        return torch.cat([self.space.images(at.rows(slice(i, i + self.at_once))) for i in starts])

    def run(
        self,
        at: Unknowns,
        index: Tensor,
        steps: int,
        rate: Callable[[float], float],
        seen: Callable[[Tensor, Tensor], None],
    ) -> Unknowns:
        """Unknowns after so many steps; seen: called with images and losses before each."""
        at = at.leaves(self.seek_labels)
        adam = torch.optim.Adam(at.moving(), lr=RATE, betas=(0.9, 0.99))
        for i in range(steps):
            adam.param_groups[0]["lr"] = RATE * (now := rate((i + 0.5) / steps))
            adam.zero_grad()
            parts = []
            for start in range(0, len(index), self.at_once):  # one after the other: memory
                rows = slice(start, start + self.at_once)
                x, loss = self.losses(at.rows(rows), index[rows], now)
                loss.sum().backward()
                parts.append((x.detach(), loss.detach()))
            seen(*map(torch.cat, zip(*parts, strict=True)))
            adam.step()
            at.confine()
        return at.detached()


@torch.no_grad()
def best_candidates(descent: Descent, n: int) -> Tensor:
    """Index (targets, n) of the candidates that come nearest to each target, over the pyramid."""
    all_, found = descent.space.candidates, []
    for start in range(0, len(all_.point), descent.at_once):
        x = descent.space.images(all_.rows(slice(start, start + descent.at_once))).clamp(-1, 1)
        found.append(torch.stack([pyramid_loss(x, target.expand_as(x)) for target in descent.targets]))
    return torch.cat(found, 1).topk(min(n, len(all_.point)), 1, largest=False).indices


def space_of(G: nn.Module, about: Mapping[str, Any], y: Tensor | None, seed: int) -> LatentSpace | StyleSpace:
    """Where G's codes are sought, with candidates of labels y."""
    param = next(G.parameters())
    drawn = joined(list(seeded_codes(G, N_CANDIDATES, seed, y)))
    candidates = Codes(drawn.z.to(param), None if y is None else y.to(param.device))
    return StyleSpace(G, about, candidates, seed) if about["styles"] else LatentSpace(G, candidates)


def check_space(G: nn.Module, about: Mapping[str, Any], space: str | None, noise: bool) -> None:
    """UserError for what the generator does not have."""
    if math.prod(image_shape(G.img_size)) == 1:
        raise UserError(f"{about['model']} of {about['dataset']} makes points of a plane, not pictures")
    if space is not None and not about["styles"]:
        raise UserError(f"--space {space}: {about['model']} has no styles; {STYLED} have")
    if space is not None and space not in SPACES:
        raise UserError(f"--space {space}: choose one of {', '.join(SPACES)}")
    if noise and not getattr(G, "constant_noises", ()):
        raise UserError(f"--noise: this {about['model']} adds no noise that could be sought")


def project(
    G: nn.Module,
    about: Mapping[str, Any],
    targets: Tensor,
    *,
    lite0: Lite0 | None = None,
    space: str | None = None,
    noise: bool = False,
    y: Tensor | None = None,
    steps: int = N_STEPS,
    seed: int = 0,
    watch: Watch = lambda *_: None,
) -> Projection:
    """The codes that come nearest to pictures, uint8 (n, C, H, W) of G's size and channels.

    G, about: of load_generator. lite0: what pictures are compared by beside pixels, None for pixels alone. space: one
    of SPACES, None for "w+" with styles; without styles latents are sought. noise: seek the layers' noise too. y:
    labels of the 256 random codes to begin with, None for all in turn. Descent keeps those of the best start, but seeks
    the weights of attributes where y is None; styles hold labels in themselves. steps: from the best start; each of
    four starts has a fifth of them before. seed: of the starts. watch: told after each step. UserError for what the
    generator does not have.
    """
    check_space(G, about, space, noise)
    param = next(G.parameters())
    x = targets.to(param) / 127.5 - 1
    seek_labels = y is None and about["multi_hot"] and not about["styles"]
    y = label_rows(dict(about), N_CANDIDATES, seed) if y is None else y
    n, done = len(x), 0
    each = torch.arange(n, device=param.device)

    def tell(images: Tensor, losses: Tensor) -> None:
        nonlocal done
        done += 1
        best = losses.view(n, -1).argmin(1)
        shown = to_uint8(images.unflatten(0, (n, -1))[each, best]).cpu()
        watch(done, shown, psnr(shown, targets))

    with torch.random.fork_rng([param.device] if param.is_cuda else []), repeatable():
        torch.manual_seed(key(seed, "sample"))
        found = space_of(G, about, y, seed)
        descent = Descent(found, x, lite0, seek_labels)
        starts = best_candidates(descent, N_STARTS)
        index, k = each.repeat_interleave(starts.shape[1]), starts.shape[1]
        at = found.candidates.rows(starts.flatten())
        losses: list[Tensor] = []

        def explored(images: Tensor, loss: Tensor) -> None:
            losses[:] = [loss]
            tell(images, loss)

        at = descent.run(at, index, n_explored(steps), lambda share: 1.0, explored)
        at = at.rows(losses[0].view(n, k).argmin(1) + k * each)
        if about["styles"] and space != "w":
            at = replace(at, layers=at.point.new_zeros(n, G.n_layers, at.point.shape[1]))
        if noise:
            at = replace(at, noises=tuple(maps.repeat(n, 1, 1, 1) for maps in G.constant_noises))
        at = descent.run(at, each, steps, rate_at, tell)
        images = to_uint8(descent.images(at)).cpu()
    return Projection(found.codes(at), tuple(m.cpu() for m in at.noises), images, psnr(images, targets))
