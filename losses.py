"""Adversarial losses and gradient penalties as pure functions, and the two tables that name them.

d_real and d_fake are raw logits in full precision, (N,) or any other shape such as a patch map; losses are
means over all elements. Penalties come unweighted, their customary weight stands in the table.

All can be called alone, in anyone's loop:

    loss_d = gan_d(d_real, d_fake) + 10 * r1(D, x_real)

A penalty takes D as a callable, images -> logits: of a conditional one `lambda x: D(x, y)`, of one that gives a DOutput
`lambda x: D(x).logit`.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus
from torch.nn.utils import parametrize

from ops.distributed import global_mean
from ops.precision import twice_differentiable

LSGAN_FAKE, LSGAN_REAL, LSGAN_GENERATOR = 0.0, 1.0, 1.0  # a, b, c of arXiv:1611.04076
DRAGAN_SPREAD = 0.5  # of a batch's standard deviation
PATH_LENGTH_DECAY = 0.99  # of the running mean a path's length is held to


# Losses


def gan_d(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """Cross entropy of real against fake. arXiv:1406.2661 eq. 1."""
    return softplus(-d_real).mean() + softplus(d_fake).mean()


def gan_d_smooth(d_real: Tensor, d_fake: Tensor, smoothing: float) -> Tensor:
    """Cross entropy with target 1 - smoothing for reals and 0 for fakes. arXiv:1606.03498 section 3.4."""
    on_real = (1 - smoothing) * softplus(-d_real) + smoothing * softplus(d_real)
    return on_real.mean() + softplus(d_fake).mean()


def gan_g(d_real: Tensor | None, d_fake: Tensor) -> Tensor:
    """Non-saturating: -log D(fake), so that a losing G has a gradient. arXiv:1406.2661 section 3."""
    return softplus(-d_fake).mean()


def gan_saturating_g(d_real: Tensor | None, d_fake: Tensor) -> Tensor:
    """The minimax game itself: log(1 - D(fake)), flat where D is sure. arXiv:1406.2661 eq. 1."""
    return -softplus(d_fake).mean()


def wgan_d(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """Negative of the critic's estimate of the Wasserstein distance. arXiv:1701.07875."""
    return d_fake.mean() - d_real.mean()


def wgan_g(d_real: Tensor | None, d_fake: Tensor) -> Tensor:
    """Negative mean critic output of the fakes. arXiv:1701.07875 algorithm 1."""
    return -d_fake.mean()


def hinge_d(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """Distance to the margins 1 for reals and -1 for fakes. arXiv:1705.02894, arXiv:1802.05957."""
    return relu(1 - d_real).mean() + relu(1 + d_fake).mean()


def lsgan_d(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """Half the squared distances of reals to b and of fakes to a. arXiv:1611.04076, (a, b, c) = (0, 1, 1)."""
    on_real, on_fake = (d_real - LSGAN_REAL).square().mean(), (d_fake - LSGAN_FAKE).square().mean()
    return 0.5 * on_real + 0.5 * on_fake


def lsgan_g(d_real: Tensor | None, d_fake: Tensor) -> Tensor:
    """Half the squared distance of fakes to c. arXiv:1611.04076."""
    return 0.5 * (d_fake - LSGAN_GENERATOR).square().mean()


def ragan_d(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """Reals above the mean fake, fakes below the mean real; half the sum. arXiv:1807.00734.

    The means are over all processes and carry gradients.
    """
    real_above, fake_above = d_real - global_mean(d_fake), d_fake - global_mean(d_real)
    return (softplus(-real_above).mean() + softplus(fake_above).mean()) / 2


def ragan_g(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """D's loss with reals and fakes in exchanged roles. arXiv:1807.00734."""
    return ragan_d(d_fake, d_real)


def rpgan_d(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """Each real above the fake of the same index. arXiv:1807.00734.

    ValueError for unequal shapes, which would otherwise broadcast.
    """
    if d_real.shape != d_fake.shape:
        raise ValueError(
            f"pairs need equal shapes: d_real {tuple(d_real.shape)}, d_fake {tuple(d_fake.shape)}"
        )
    return softplus(-(d_real - d_fake)).mean()


def rpgan_g(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """Each fake above the real of the same index. arXiv:1807.00734."""
    return rpgan_d(d_fake, d_real)


@dataclass(frozen=True)
class Method:
    """A pair of losses (d_real, d_fake) -> scalar and what belongs to it.

    `penalties` are names added to D's loss by default; `weight_clip` bounds every weight of D after its
    step; g's d_real is None unless `g_needs_real`; `d_smooth` (d_real, d_fake, smoothing) is D's loss with
    the real target 1 - smoothing, None where label smoothing means nothing; ac_weight_g is the customary weight of
    AC-GAN's classes in G's loss.
    """

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor | None, Tensor], Tensor] | Callable[[Tensor, Tensor], Tensor]
    penalties: tuple[str, ...] = ()
    weight_clip: float | None = None
    g_needs_real: bool = False
    d_smooth: Callable[[Tensor, Tensor, float], Tensor] | None = None
    ac_weight_g: float = 1.0


METHODS = {
    "gan": Method(gan_d, gan_g, d_smooth=gan_d_smooth),
    "gan-saturating": Method(gan_d, gan_saturating_g, d_smooth=gan_d_smooth),
    "wgan": Method(wgan_d, wgan_g, weight_clip=0.01),
    "wgan-gp": Method(wgan_d, wgan_g, penalties=("gp",), ac_weight_g=0.1),  # the authors' AC-GAN
    "hinge": Method(hinge_d, wgan_g),
    "lsgan": Method(lsgan_d, lsgan_g),
    "ragan": Method(ragan_d, ragan_g, g_needs_real=True),
    "rpgan": Method(rpgan_d, rpgan_g, g_needs_real=True),
}


# Penalties

Draw = Callable[[str, tuple[int, ...]], Tensor]


@dataclass
class StyleContext:
    """What a penalty on the way from styles to images may ask for by name; all in full precision.

    `ws` (N, n_layers, w_dim) are styles with their graph, `x` (N, C, H, W) the images made of them. `normal(purpose,
    shape)` gives (N, *shape) from N(0, 1): this process's slice of a draw for the global batch. `mean` is a running
    mean, 0 at first, constant over the micro-batches of a step; `follow(value)` takes what it moves by after them.
    """

    ws: Tensor
    x: Tensor
    normal: Draw
    mean: Tensor
    follow: Callable[[Tensor], None]


@dataclass
class PenaltyContext:
    """What any other penalty may ask for by name.

    `D` is a plain callable, x (N, C, H, W) -> logits, already bound to the labels, which reals and fakes
    share, in full precision and not compiled.
    x_fake is detached, None for a lazy penalty that does not ask for it. d_real and d_fake are the logits of
    the main loss where they may be reused, otherwise None. `uniform(purpose, shape)` gives (N, *shape) in
    [0, 1): this process's slice of a draw for the global batch.
    """

    D: Callable[[Tensor], Tensor]
    G: nn.Module | None
    x_real: Tensor
    x_fake: Tensor | None
    uniform: Draw
    y: Tensor | None = None
    d_real: Tensor | None = None
    d_fake: Tensor | None = None


# What a penalty's parameters may be called
OF_STYLES = tuple(field.name for field in fields(StyleContext))
OF_IMAGES = tuple(field.name for field in fields(PenaltyContext))


def _input_gradient(d_out: Tensor, x: Tensor) -> Tensor:
    """Gradient of the summed logits by the images, (N, C, H, W) -> (N, C*H*W), differentiable again."""
    (grad,) = torch.autograd.grad(d_out.sum(), x, create_graph=True)
    return grad.flatten(1)


def _gradient_at(D: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Input gradient of D at x, (N, C*H*W), from a forward of its own."""
    x = x.detach().requires_grad_()
    with twice_differentiable():
        d_out = D(x)
    return _input_gradient(d_out, x)


def _between(x: Tensor, end: Tensor, uniform: Draw | None, purpose: str) -> Tensor:
    """A point on each sample's line from x to `end`, one uniform part of the way a sample."""
    way = _drawn(uniform, torch.rand, purpose, x, (1,) * (x.dim() - 1))
    return x.detach() + way * (end.detach() - x.detach())


def _drawn(draw: Draw | None, alone: Callable, purpose: str, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draws (N, *shape) in x's type, of torch's own generator where none are given."""
    if draw is None:
        return alone(len(x), *shape, dtype=x.dtype, device=x.device)
    return draw(purpose, shape).to(x)


def _norm_from_one(grad: Tensor) -> Tensor:
    """Mean of (norm - 1)^2 over samples; vector_norm, since a root of a sum has no gradient at 0."""
    return (torch.linalg.vector_norm(grad, dim=1) - 1).square().mean()


def _squared_norm(grad: Tensor) -> Tensor:
    """Mean squared norm over samples."""
    return grad.square().sum(1).mean()


def gp(
    D: Callable[[Tensor], Tensor], x_real: Tensor, x_fake: Tensor, *, uniform: Draw | None = None
) -> Tensor:
    """Mean of (|grad D(x_hat)| - 1)^2, x_hat uniform between pairs. arXiv:1704.00028 eq. 3."""
    return _norm_from_one(_gradient_at(D, _between(x_fake, x_real, uniform, "gp")))


def gp0(
    D: Callable[[Tensor], Tensor], x_real: Tensor, x_fake: Tensor, *, uniform: Draw | None = None
) -> Tensor:
    """Mean of |grad D(x_hat)|^2, x_hat uniform between pairs. arXiv:1902.03984."""
    return _squared_norm(_gradient_at(D, _between(x_fake, x_real, uniform, "gp0")))


def r1(D: Callable[[Tensor], Tensor], x_real: Tensor, *, d_real: Tensor | None = None) -> Tensor:
    """Half the mean of |grad D(x_real)|^2, so that the weight is gamma. arXiv:1801.04406 eq. 9.

    Shares the main loss's forward where d_real, the logits of x_real, is given and x_real requires a gradient.
    """
    if d_real is not None and x_real.requires_grad:
        return 0.5 * _squared_norm(_input_gradient(d_real, x_real))
    return 0.5 * _squared_norm(_gradient_at(D, x_real))


def r2(D: Callable[[Tensor], Tensor], x_fake: Tensor) -> Tensor:
    """Half the mean of |grad D(x_fake)|^2, so that the weight is gamma. arXiv:1801.04406 eq. 10."""
    return 0.5 * _squared_norm(_gradient_at(D, x_fake))


def drift(D: Callable[[Tensor], Tensor], x_real: Tensor, *, d_real: Tensor | None = None) -> Tensor:
    """Mean of D(x_real)^2, which keeps a critic's outputs near 0. arXiv:1710.10196 appendix A.1.

    d_real: D(x_real) where it is known already.
    """
    d_real = D(x_real) if d_real is None else d_real
    return d_real.square().mean()


def dragan(D: Callable[[Tensor], Tensor], x_real: Tensor, *, uniform: Draw | None = None) -> Tensor:
    """Mean of (|grad D(x_hat)| - 1)^2, x_hat between a real image and a noisy copy. arXiv:1705.07215.

    The noise is U[0, 1) times half the standard deviation of all the pixels of the batch on all processes.
    """
    x = x_real.detach()
    std = global_mean((x - global_mean(x)).square()).sqrt()
    noise = _drawn(uniform, torch.rand, "dragan-noise", x, tuple(x.shape[1:]))
    return _norm_from_one(_gradient_at(D, _between(x, x + DRAGAN_SPREAD * std * noise, uniform, "dragan")))


def path_lengths(ws: Tensor, x: Tensor, *, normal: Draw | None = None) -> Tensor:
    """|J_w^T y| of each sample (N,), y ~ N(0, 1) / sqrt(HW): how far images x (N, C, H, W) move with styles ws.

    J_w^T y is the gradient of <x, y> by ws (N, n_layers, w_dim), of which x has the graph, differentiable twice; its
    length is the root of the mean over layers of the squared norms. arXiv:1912.04958 section 3.2.
    """
    y = _drawn(normal, torch.randn, "path-length", x, tuple(x.shape[1:])) / math.sqrt(x.shape[2] * x.shape[3])
    (grad,) = torch.autograd.grad((x * y).sum(), ws, create_graph=True)
    return torch.linalg.vector_norm(grad.flatten(1), dim=1) / math.sqrt(ws.shape[1])


def path_length(
    ws: Tensor,
    x: Tensor,
    mean: Tensor | float,
    *,
    normal: Draw | None = None,
    follow: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Mean of (path_lengths - mean)^2, `mean` the running mean of the lengths, 0 at first. arXiv:1912.04958 eq. 4.

    `mean` is the mean over earlier steps and all processes, and no path of the gradient. It is the caller's to move:
    follow(value) is given this batch's, towards which it goes by 1 - PATH_LENGTH_DECAY.
    """
    lengths = path_lengths(ws, x, normal=normal)
    penalty = (lengths - mean).square().mean()
    if follow is not None:
        follow(global_mean(lengths.detach()))
    return penalty


def weight_matrices(net: nn.Module) -> list[Tensor]:
    """Weights of convolutions and linear layers as matrices (out, rest), a row a filter; before spectral norm."""
    matrices = []
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            normed = parametrize.is_parametrized(module, "weight")
            weight = module.parametrizations.weight.original if normed else module.weight
            weight = weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else weight
            matrices.append(weight.flatten(1))
    return matrices


def ortho(G: nn.Module) -> Tensor:
    """Sum over G's layers of |W W^T|_F^2 off the diagonal: how alike filters are. arXiv:1809.11096 eq. 3.

    Filters are the rows of W; embeddings and norms' tables are left out.
    """
    device = next((p.device for p in G.parameters()), None)
    total = torch.zeros((), device=device)
    for w in weight_matrices(G):
        # |W W^T| = |W^T W|: the smaller one, since a first layer can have 30,000 filters
        products = w @ w.t() if len(w) <= w.shape[1] else w.t() @ w
        total = total + products.square().sum() - w.square().sum(1).square().sum()
    return total


@dataclass(frozen=True)
class Penalty:
    """An unweighted term of the loss of `side` ("d" or "g"): fn(...) -> scalar.

    fn's parameters are named after the fields of PenaltyContext, or of StyleContext, and are given these in training:
    `def r1(D, x_real)`. In anyone's own loop it is called as it is: `r1(D, x)`. So every parameter but those that such
    a caller has at hand, images and networks, takes a default. ValueError for names that neither context has.
    `weight` and `interval` (in steps) are the customary ones. `gradient` says that it differentiates D with
    respect to its input, where batch norm in D would mix the samples' gradients.
    """

    fn: Callable[..., Tensor]
    side: str
    weight: float
    interval: int = 1
    gradient: bool = False

    def __post_init__(self) -> None:
        if not any(set(self.asks) <= set(names) for names in (OF_IMAGES, OF_STYLES)):
            raise ValueError(
                f"penalty {self.fn.__name__}({', '.join(self.asks)}): its parameters can be {', '.join(OF_IMAGES)}; "
                f"or of a generator with styles {', '.join(OF_STYLES)}"
            )

    @property
    def asks(self) -> tuple[str, ...]:
        """Names of what fn looks at."""
        return tuple(inspect.signature(self.fn).parameters)

    @property
    def fakes(self) -> bool:
        """Whether it looks at fakes."""
        return "x_fake" in self.asks

    @property
    def styles(self) -> bool:
        """Whether it takes a StyleContext, of half a batch, and a generator with styles."""
        return "ws" in self.asks

    def __call__(self, ctx: PenaltyContext | StyleContext) -> Tensor:
        """fn of what it asks for."""
        return self.fn(**{name: getattr(ctx, name) for name in self.asks})


PENALTIES = {
    "gp": Penalty(gp, side="d", weight=10.0, gradient=True),
    "gp0": Penalty(gp0, side="d", weight=10.0, gradient=True),
    "r1": Penalty(r1, side="d", weight=10.0, gradient=True),
    "r2": Penalty(r2, side="d", weight=10.0, gradient=True),
    "drift": Penalty(drift, side="d", weight=0.001),
    "dragan": Penalty(dragan, side="d", weight=10.0, gradient=True),
    "ortho": Penalty(ortho, side="g", weight=1e-4),
    "path_length": Penalty(path_length, side="g", weight=2.0, interval=4),
}
