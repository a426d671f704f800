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
SURE = math.log(99)  # the logit beyond which a sigmoid is above 0.99, or below 0.01
MEAN_DECAY = 0.99  # of the running means that a path's length, and LeCam's logits, are held to
MAX_SHIFT = 0.125  # of an image's height and width: 4 px of 32, of consistency regularisation
ZCR_STD = 0.03  # of what is added to latents, arXiv:2002.04724's for its smaller networks
STEP = 0.01  # standard deviation of the noise over which r1_approx and r2_approx take differences, arXiv:2501.08316's


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
    real_above, fake_above = above_means(d_real, d_fake)
    return (softplus(-real_above).mean() + softplus(fake_above).mean()) / 2


def ragan_g(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """D's loss with reals and fakes in exchanged roles. arXiv:1807.00734."""
    return ragan_d(d_fake, d_real)


def _check_pairs(d_real: Tensor, d_fake: Tensor) -> None:
    """ValueError for unequal shapes, which would otherwise broadcast."""
    if d_real.shape != d_fake.shape:
        raise ValueError(
            f"pairs need equal shapes: d_real {tuple(d_real.shape)}, d_fake {tuple(d_fake.shape)}"
        )


def rpgan_d(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """Each real above the fake of the same index. arXiv:1807.00734.

    ValueError for unequal shapes.
    """
    _check_pairs(d_real, d_fake)
    return softplus(-(d_real - d_fake)).mean()


def rpgan_g(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """Each fake above the real of the same index. arXiv:1807.00734."""
    return rpgan_d(d_fake, d_real)


# What a loss takes the sigmoid of: (d_real, d_fake) -> one for each real, one for each fake


def themselves(d_real: Tensor, d_fake: Tensor) -> tuple[Tensor, Tensor]:
    """The logits."""
    return d_real, d_fake


def above_means(d_real: Tensor, d_fake: Tensor) -> tuple[Tensor, Tensor]:
    """Each real above the mean fake of all processes, each fake above the mean real."""
    return d_real - global_mean(d_fake), d_fake - global_mean(d_real)


def above_partners(d_real: Tensor, d_fake: Tensor) -> tuple[Tensor, Tensor]:
    """Each real above the fake of the same index, and each fake above the real."""
    return d_real - d_fake, d_fake - d_real


@dataclass(frozen=True)
class Method:
    """A pair of losses (d_real, d_fake) -> scalar and what belongs to it.

    `penalties` are names added to D's loss by default; `weight_clip` bounds every weight of D after its
    step; g's d_real is None unless `g_needs_real`; `d_smooth` (d_real, d_fake, smoothing) is D's loss with
    the real target 1 - smoothing, None where label smoothing means nothing; ac_weight_g is the customary weight of
    AC-GAN's classes in G's loss; halved: both are half the sum of their terms, which others take whole;
    sigmoid_of: what D's loss is the cross entropy of a sigmoid of, None where there is no sigmoid.
    """

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor | None, Tensor], Tensor] | Callable[[Tensor, Tensor], Tensor]
    penalties: tuple[str, ...] = ()
    weight_clip: float | None = None
    g_needs_real: bool = False
    d_smooth: Callable[[Tensor, Tensor, float], Tensor] | None = None
    ac_weight_g: float = 1.0
    halved: bool = False
    sigmoid_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    @torch.no_grad()
    def saturated(self, d_real: Tensor, d_fake: Tensor) -> tuple[Tensor, Tensor] | None:
        """Shares of reals, and of fakes, whose sigmoid is beyond 0.99 or 0.01, where it is flat; None without one."""
        if self.sigmoid_of is None:
            return None
        real, fake = ((x.abs() > SURE).to(x.dtype).mean() for x in self.sigmoid_of(d_real, d_fake))
        return real, fake

    def of_d(self, d_real: Tensor, d_fake: Tensor, smoothing: float) -> Tensor:
        """D's loss with the real target 1 - smoothing, 0 for none."""
        return self.d_smooth(d_real, d_fake, smoothing) if smoothing else self.d(d_real, d_fake)


METHODS = {
    "gan": Method(gan_d, gan_g, d_smooth=gan_d_smooth, sigmoid_of=themselves),
    "gan-saturating": Method(gan_d, gan_saturating_g, d_smooth=gan_d_smooth, sigmoid_of=themselves),
    "wgan": Method(wgan_d, wgan_g, weight_clip=0.01),
    "wgan-gp": Method(wgan_d, wgan_g, penalties=("gp",), ac_weight_g=0.1),  # the authors' AC-GAN
    "hinge": Method(hinge_d, wgan_g),
    "lsgan": Method(lsgan_d, lsgan_g, halved=True),
    "ragan": Method(ragan_d, ragan_g, g_needs_real=True, halved=True, sigmoid_of=above_means),
    "rpgan": Method(rpgan_d, rpgan_g, g_needs_real=True, sigmoid_of=above_partners),
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
    [0, 1), `normal` from N(0, 1): this process's slice of a draw for the global batch. `z` (N, z_dim) are the latents
    of the fakes, `generate` is G bound to the labels, z -> images, in full precision and with the same layer noise at
    each call. `mean_real` and `mean_fake` are running means, 0 at first, constant over the micro-batches of a step;
    `follow(real, fake)` takes what they move by after them.
    """

    D: Callable[[Tensor], Tensor]
    G: nn.Module | None
    x_real: Tensor
    x_fake: Tensor | None
    uniform: Draw
    y: Tensor | None = None
    d_real: Tensor | None = None
    d_fake: Tensor | None = None
    normal: Draw | None = None
    z: Tensor | None = None
    generate: Callable[[Tensor], Tensor] | None = None
    mean_real: Tensor | None = None
    mean_fake: Tensor | None = None
    follow: Callable[..., None] | None = None


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


def r2(D: Callable[[Tensor], Tensor], x_fake: Tensor, *, d_fake: Tensor | None = None) -> Tensor:
    """Half the mean of |grad D(x_fake)|^2, so that the weight is gamma. arXiv:1801.04406 eq. 10.

    d_fake: as r1's d_real.
    """
    return r1(D, x_fake, d_real=d_fake)


def _squared_slope(
    D: Callable[[Tensor], Tensor], x: Tensor, d_x: Tensor | None, normal: Draw | None, purpose: str
) -> Tensor:
    """Mean of ((D(x + STEP n) - D(x)) / STEP)^2, n ~ N(0, 1): |grad D(x)|^2 in the mean over n, up to STEP^2.

    d_x: D(x) where it is known already.
    """
    x = x.detach()
    near = x + STEP * _drawn(normal, torch.randn, purpose, x, tuple(x.shape[1:]))
    slope = (D(near) - (D(x) if d_x is None else d_x)) / STEP
    return slope.reshape(len(x), -1).sum(1).square().mean()  # of a patch map the sum, as in _input_gradient


def r1_approx(
    D: Callable[[Tensor], Tensor],
    x_real: Tensor,
    *,
    d_real: Tensor | None = None,
    normal: Draw | None = None,
) -> Tensor:
    """Half the mean of ((D(x + e n) - D(x)) / e)^2 over reals: r1 of one more forward, no second derivative.

    e = STEP, n ~ N(0, 1) of the image's shape; the weight is gamma as r1's. d_real: D(x_real) where it is known
    already. D must see both alike: no dropout, no noise in its layers. arXiv:2501.08316.
    """
    return 0.5 * _squared_slope(D, x_real, d_real, normal, "r1_approx")


def r2_approx(
    D: Callable[[Tensor], Tensor],
    x_fake: Tensor,
    *,
    d_fake: Tensor | None = None,
    normal: Draw | None = None,
) -> Tensor:
    """r1_approx of fakes: r2 without a second derivative. arXiv:2509.24935."""
    return 0.5 * _squared_slope(D, x_fake, d_fake, normal, "r2_approx")


def centre(
    D: Callable[[Tensor], Tensor],
    x_real: Tensor,
    x_fake: Tensor,
    *,
    d_real: Tensor | None = None,
    d_fake: Tensor | None = None,
) -> Tensor:
    """Mean of (D(x_real) + D(x_fake))^2 over pairs of an index: holds logits about 0, of which relativistic losses see
    differences alone. arXiv:2511.22475.

    d_real, d_fake: the logits where they are known already. ValueError for unequal shapes.
    """
    d_real = D(x_real) if d_real is None else d_real
    d_fake = D(x_fake) if d_fake is None else d_fake
    _check_pairs(d_real, d_fake)
    return (d_real + d_fake).square().mean()


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


def mirrored_and_shifted(x: Tensor, u: Tensor) -> Tensor:
    """x (N, C, H, W), mirrored where u[:, 0] >= 0.5, moved by whole pixels, up to MAX_SHIFT of its size to every side.

    What comes in at the edges is reflected. u (N, 3) in [0, 1): mirror, along x, along y.
    """
    wheres = []
    for draw, size in ((u[:, 1], x.shape[3]), (u[:, 2], x.shape[2])):
        most = int(size * MAX_SHIFT + 0.5)
        shift = (draw * (2 * most + 1)).long().clamp(max=2 * most) - most
        where = (torch.arange(size, device=x.device) - shift[:, None]).abs()  # (N, size)
        wheres.append(size - 1 - (size - 1 - where).abs())
    columns = torch.where(u[:, :1] < 0.5, wheres[0], wheres[0].flip(1))
    index = wheres[1][:, :, None] * x.shape[3] + columns[:, None]  # (N, H, W)
    return x.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view_as(x)


def _inconsistency(
    D: Callable[[Tensor], Tensor], x: Tensor, d_x: Tensor | None, uniform: Draw | None, purpose: str
) -> Tensor:
    """Mean of (D(T(x)) - D(x))^2, T mirroring and shifting; d_x: D(x) where it is known already."""
    x = x.detach()
    moved = mirrored_and_shifted(x, _drawn(uniform, torch.rand, purpose, x, (3,)))
    return (D(moved) - (D(x) if d_x is None else d_x)).square().mean()


def cr(
    D: Callable[[Tensor], Tensor],
    x_real: Tensor,
    *,
    d_real: Tensor | None = None,
    uniform: Draw | None = None,
) -> Tensor:
    """Mean of (D(T(x)) - D(x))^2 over reals, T mirroring and shifting by up to 4 px of 32. arXiv:1910.12027 eq. 3.

    d_real: D(x_real) where it is known already.
    """
    return _inconsistency(D, x_real, d_real, uniform, "cr")


def bcr(
    D: Callable[[Tensor], Tensor],
    x_real: Tensor,
    x_fake: Tensor,
    *,
    d_real: Tensor | None = None,
    d_fake: Tensor | None = None,
    uniform: Draw | None = None,
) -> Tensor:
    """cr of reals and of fakes alike, summed: G cannot gain by drawing what T leaves. arXiv:2002.04724 section 2.1."""
    on_real = _inconsistency(D, x_real, d_real, uniform, "bcr-real")
    return on_real + _inconsistency(D, x_fake, d_fake, uniform, "bcr-fake")


def _near(z: Tensor, normal: Draw | None, purpose: str) -> Tensor:
    """Latents (N, z_dim) moved by N(0, ZCR_STD^2)."""
    return z + ZCR_STD * _drawn(normal, torch.randn, purpose, z, tuple(z.shape[1:]))


def zcr_d(
    D: Callable[[Tensor], Tensor],
    generate: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    normal: Draw | None = None,
) -> Tensor:
    """Mean of (D(G(z')) - D(G(z)))^2, z' = z + N(0, ZCR_STD^2): D's side of zCR. arXiv:2002.04724 section 2.2."""
    with torch.no_grad():
        x, near = generate(z), generate(_near(z, normal, "zcr_d"))
    return (D(near) - D(x)).square().mean()


def zcr_g(generate: Callable[[Tensor], Tensor], z: Tensor, *, normal: Draw | None = None) -> Tensor:
    """Negative mean square of G(z') - G(z) over pixels: G's side of zCR, which keeps images apart. As zcr_d."""
    return -(generate(_near(z, normal, "zcr_g")) - generate(z)).square().mean()


def lecam(
    D: Callable[[Tensor], Tensor],
    x_real: Tensor,
    x_fake: Tensor,
    mean_real: Tensor | float,
    mean_fake: Tensor | float,
    *,
    d_real: Tensor | None = None,
    d_fake: Tensor | None = None,
    follow: Callable[..., None] | None = None,
) -> Tensor:
    """Mean of (D(x) - mean_fake)^2 over reals plus that of (D(x) - mean_real)^2 over fakes. arXiv:2104.03310 eq. 3, 4.

    mean_real and mean_fake are the running means of D's logits over earlier steps and all processes, 0 at first. They
    are the caller's to move: follow(real, fake) is given this batch's, towards which they go by 1 - MEAN_DECAY. The
    authors' code leaves out reals that lie below mean_fake and fakes above mean_real, and begins after 1000 steps.
    """
    d_real = D(x_real) if d_real is None else d_real
    d_fake = D(x_fake) if d_fake is None else d_fake
    penalty = (d_real - mean_fake).square().mean() + (d_fake - mean_real).square().mean()
    if follow is not None:
        follow(global_mean(d_real.detach()), global_mean(d_fake.detach()))
    return penalty


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
    follow(value) is given this batch's, towards which it goes by 1 - MEAN_DECAY.
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

    Filters are the rows of W; embeddings and norms' tables are left out. BigGAN-PyTorch adds half of this gradient: its
    1e-4 is 5e-5 here.
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
    respect to its input, or takes differences, where batch norm in D would mix the samples' gradients. `moves` says
    that it compares images with mirrored and shifted ones, which points of the plane cannot be. `approximates` names
    the penalty that it stands for, by the differences of nearby images, which D must see alike. It and what moves
    images make both logits themselves under an augmentation, of the same draws. Parameters whose names begin with
    `mean` are running means. `help` says what is weighed; `weight_name` is the setting that holds the weight,
    NAME_weight where it is None, and `also` another name of it; `auto(side in px, processes, batch size)` is the weight
    that `auto` stands for, where that is known.
    """

    fn: Callable[..., Tensor]
    side: str
    weight: float
    interval: int = 1
    gradient: bool = False
    moves: bool = False
    approximates: str | None = None
    help: str = ""
    weight_name: str | None = None
    also: str | None = None
    auto: Callable[[int, int, int], float] | None = None

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
    def means(self) -> tuple[str, ...]:
        """Its running means, in the order in which follow takes their values."""
        return tuple(name for name in self.asks if name.startswith("mean"))

    @property
    def fakes(self) -> bool:
        """Whether it looks at fakes."""
        return "x_fake" in self.asks

    @property
    def compares(self) -> bool:
        """Whether it compares logits of images with those of others made of them, which one augmentation meets."""
        return self.moves or self.approximates is not None

    @property
    def styles(self) -> bool:
        """Whether it takes a StyleContext, of half a batch, and a generator with styles."""
        return "ws" in self.asks

    def __call__(self, ctx: PenaltyContext | StyleContext) -> Tensor:
        """fn of what it asks for."""
        return self.fn(**{name: getattr(ctx, name) for name in self.asks})


def auto_r1_weight(side: int, processes: int, batch_size: int) -> float:
    """StyleGAN2-ADA's gamma for the image size and the batch. arXiv:2006.06676 appendix C and its code."""
    return 0.0002 * side**2 / batch_size


PENALTIES = {
    "gp": Penalty(
        gp, side="d", weight=10.0, gradient=True, help="gradient norms of 1 between reals and fakes"
    ),
    "gp0": Penalty(gp0, side="d", weight=10.0, gradient=True, help="zero-centred on interpolates"),
    "r1": Penalty(
        r1, side="d", weight=10.0, gradient=True,
        help="gamma: half the mean squared gradient norm on reals", also="gamma", auto=auto_r1_weight,
    ),
    "r2": Penalty(r2, side="d", weight=10.0, gradient=True, help="gamma: the same on fakes"),
    "r1_approx": Penalty(
        r1_approx, side="d", weight=10.0, gradient=True, approximates="r1", auto=auto_r1_weight,
        help="gamma: r1 by differences of D over a little noise, without a second derivative",
    ),
    "r2_approx": Penalty(
        r2_approx, side="d", weight=10.0, gradient=True, approximates="r2", help="gamma: the same on fakes"
    ),
    "centre": Penalty(
        centre, side="d", weight=0.01, help="mean of (D(real) + D(fake))^2, for relativistic losses"
    ),
    "drift": Penalty(
        drift, side="d", weight=0.001, help="mean of D(real)^2", weight_name="drift_penalty"
    ),
    "dragan": Penalty(dragan, side="d", weight=10.0, gradient=True, help="gradient norms of 1 around reals"),
    "cr": Penalty(cr, side="d", weight=10.0, moves=True, help="D's change as reals are mirrored and shifted"),
    "bcr": Penalty(bcr, side="d", weight=10.0, moves=True, help="the same of reals and fakes"),
    "zcr_d": Penalty(zcr_d, side="d", weight=5.0, help="D's change as latents move a little"),
    "zcr_g": Penalty(
        zcr_g, side="g", weight=0.5, help="minus the change of G's images as latents move a little"
    ),
    "lecam": Penalty(
        lecam, side="d", weight=0.3,
        help="D's distance on reals from its mean on fakes, and the other way; 0.3 is BigGAN's on CIFAR-10",
    ),
    "ortho": Penalty(
        ortho, side="g", weight=1e-4, help="likeness of G's filters; BigGAN's code has half of it at this weight"
    ),
    "path_length": Penalty(
        path_length, side="g", weight=2.0, interval=4,
        help="models with styles; each 4th step on half a batch",
    ),
}  # fmt: skip
