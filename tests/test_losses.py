"""Every loss and penalty against numbers worked by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from losses import (
    METHODS,
    PENALTIES,
    STEP,
    Penalty,
    PenaltyContext,
    StyleContext,
    bcr,
    centre,
    cr,
    dragan,
    drift,
    gan_d,
    gp,
    gp0,
    lecam,
    mirrored_and_shifted,
    ortho,
    path_length,
    path_lengths,
    r1,
    r1_approx,
    r2,
    r2_approx,
    ragan_d,
    rpgan_d,
    zcr_d,
    zcr_g,
)
from modelling.conditioning import ConditionalNorm
from ops.spectral_norm import apply_spectral_norm

ln = math.log
L = ln(3)  # softplus(L) = ln 4, softplus(-L) = ln 4/3, softplus(2L) = ln 10, softplus(-2L) = ln 10/9


def row(*values: float) -> Tensor:
    """A float64 vector."""
    return torch.tensor(values, dtype=torch.float64)


# name: (d_real, d_fake, D's loss, G's loss)
EXPECTED = {
    # D: (ln 10/9 + ln 2)/2 + (ln 4/3 + ln 2)/2; G: (ln 4 + ln 2)/2
    "gan": (row(2 * L, 0), row(-L, 0), ln(160 / 27) / 2, ln(8) / 2),
    # G: -(ln 4/3 + ln 2)/2
    "gan-saturating": (row(2 * L, 0), row(-L, 0), ln(160 / 27) / 2, -ln(8 / 3) / 2),
    # D: -1.25 - 0.75; G: 1.25
    "wgan": (row(2, -0.5), row(-3, 0.5), -2.0, 1.25),
    "wgan-gp": (row(2, -0.5), row(-3, 0.5), -2.0, 1.25),
    # D: (0 + 1.5)/2 + (0 + 1.5)/2; G: 1.25
    "hinge": (row(2, -0.5), row(-3, 0.5), 1.5, 1.25),
    # D: (1 + 2.25)/4 + (9 + 0.25)/4; G: (16 + 0.25)/4
    "lsgan": (row(2, -0.5), row(-3, 0.5), 3.125, 4.0625),
    # Means L and 0. D: [(ln 10/9 + ln 2)/2 + ln 4/3]/2; G: [(ln 10 + ln 2)/2 + ln 4]/2
    "ragan": (row(2 * L, 0), row(0, 0), ln(320 / 81) / 4, ln(320) / 4),
    # Differences 2L and -L. D: (ln 10/9 + ln 4)/2; G: (ln 10 + ln 4/3)/2
    "rpgan": (row(2 * L, 0), row(0, L), ln(40 / 9) / 2, ln(40 / 3) / 2),
}


@pytest.mark.parametrize("name", METHODS)
def test_values(name: str) -> None:
    method = METHODS[name]
    assert name in EXPECTED, f"add values of {name!r}, worked by hand, to EXPECTED in {__file__}"
    d_real, d_fake, expected_d, expected_g = EXPECTED[name]
    assert method.d(d_real, d_fake).item() == pytest.approx(expected_d, abs=1e-12)
    seen_by_g = d_real if method.g_needs_real else None
    assert method.g(seen_by_g, d_fake).item() == pytest.approx(expected_g, abs=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_direction_of_the_gradients(name: str) -> None:
    """D raises reals and lowers fakes, G raises fakes, and lowers reals where it looks at them."""
    method = METHODS[name]
    d_real, d_fake = row(0.2, 0.7, 0.4).requires_grad_(), row(0.3, 0.1, 0.6).requires_grad_()
    to_real, to_fake = torch.autograd.grad(method.d(d_real, d_fake), (d_real, d_fake))
    assert (to_real < 0).all() and (to_fake > 0).all()
    if method.g_needs_real:
        to_real, to_fake = torch.autograd.grad(method.g(d_real, d_fake), (d_real, d_fake))
        assert (to_real > 0).all() and (to_fake < 0).all()
    else:
        assert (torch.autograd.grad(method.g(None, d_fake), d_fake)[0] < 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_mean_over_all_elements_of_a_patch_map(name: str) -> None:
    method = METHODS[name]
    d_real, d_fake = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64).unbind()
    assert_close(method.d(d_real, d_fake), method.d(d_real.flatten(), d_fake.flatten()))
    assert_close(method.g(d_real, d_fake), method.g(d_real.flatten(), d_fake.flatten()))
    assert method.d(d_real, d_fake).shape == ()


@pytest.mark.parametrize("name", METHODS)
def test_extreme_logits_stay_finite(name: str) -> None:
    method = METHODS[name]
    for sign in (1, -1):
        d_real, d_fake = row(1e3, 1e3) * sign, row(-1e3, -1e3) * sign
        assert method.d(d_real, d_fake).isfinite() and method.g(d_real, d_fake).isfinite()


def test_one_sided_label_smoothing() -> None:
    """Target 0.9 for reals alone: best at logit ln 9, and no smoothing is the plain loss."""
    d_real, d_fake = row(2 * L, 0), row(-L, 0)
    # 0.9 (ln 10/9 + ln 2)/2 + 0.1 (ln 10 + ln 2)/2 + (ln 4/3 + ln 2)/2
    expected = 0.45 * ln(20 / 9) + 0.05 * ln(20) + 0.5 * ln(8 / 3)
    for name in ("gan", "gan-saturating"):
        smooth = METHODS[name].d_smooth
        assert smooth(d_real, d_fake, 0.1).item() == pytest.approx(expected, abs=1e-12)
        assert_close(smooth(d_real, d_fake, 0.0), gan_d(d_real, d_fake))
        optimum = row(ln(9)).requires_grad_()
        assert torch.autograd.grad(smooth(optimum, d_fake, 0.1), optimum)[0].item() == pytest.approx(
            0, abs=1e-15
        )
    assert {name for name, method in METHODS.items() if method.d_smooth} == {"gan", "gan-saturating"}


@pytest.mark.parametrize("name", METHODS)
def test_saturation_is_where_the_loss_of_d_is_flat(name: str) -> None:
    """By hand: logits about ln 99 = 4.595; of ragan against the means 1 and -1, of rpgan against the partner."""
    d_real, d_fake = torch.tensor([5.0, -5.6, 4.1, 0.5]), torch.tensor([0.0, -4.7, 0.0, 0.7])
    expected = {"gan": (0.5, 0.25), "ragan": (0.75, 0.25), "rpgan": (0.25, 0.25)}
    expected["gan-saturating"] = expected["gan"]
    found = METHODS[name].saturated(d_real.double(), d_fake.double())
    assert (None if found is None else tuple(map(float, found))) == expected.get(name)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.sigmoid_of])
def test_a_saturated_d_learns_little(name: str) -> None:
    """Its gradient by what the sigmoid is of is sigmoid(-x), below 0.01 of the largest one where x is beyond ln 99."""
    logits = [torch.tensor([sign * 10.0], dtype=torch.float64, requires_grad=True) for sign in (1, -1)]
    METHODS[name].d(*logits).backward()
    assert METHODS[name].saturated(*logits) == (1, 1)
    assert all(float(x.grad.abs()) < 0.01 for x in logits)
    assert METHODS[name].saturated(*(x / 10 for x in logits)) == (0, 0)


def test_ragan_gradient_passes_through_the_means() -> None:
    """At logits 0 half of each gradient comes through the mean: 0.5 / N / 2 twice."""
    d_real, d_fake = torch.zeros(2, 2, dtype=torch.float64).unbind()
    d_real.requires_grad_(), d_fake.requires_grad_()
    to_real, to_fake = torch.autograd.grad(ragan_d(d_real, d_fake), (d_real, d_fake))
    assert_close(to_real, row(-0.25, -0.25))
    assert_close(to_fake, row(0.25, 0.25))


# Weights of the papers' penalties.
CUSTOMARY = {
    "gp": 10,
    "gp0": 10,
    "r1": 10,
    "r2": 10,
    "drift": 0.001,
    "dragan": 10,
    "cr": 10,
    "bcr": 10,
    "zcr_d": 5,
    "zcr_g": 0.5,
    "lecam": 0.3,
    "ortho": 1e-4,
    "path_length": 2,
}


def test_pairs_of_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"d_real \(2,\), d_fake \(2, 1\)"):
        rpgan_d(torch.zeros(2), torch.zeros(2, 1))


def test_what_belongs_to_a_method() -> None:
    assert METHODS["wgan"].weight_clip == 0.01
    assert METHODS["wgan-gp"].penalties == ("gp",)
    assert {name for name, method in METHODS.items() if method.g_needs_real} == {"ragan", "rpgan"}
    assert all(penalty in PENALTIES for method in METHODS.values() for penalty in method.penalties)
    assert {name: PENALTIES[name].weight for name in CUSTOMARY} == CUSTOMARY
    rows = {name: PENALTIES[name] for name in CUSTOMARY}
    consistent = ["cr", "bcr", "zcr_d", "zcr_g"]
    plain = ["drift", *consistent, "lecam", "ortho", "path_length"]
    assert [name for name, row in rows.items() if not row.gradient] == plain
    assert [name for name, row in rows.items() if row.moves] == consistent[:2]
    assert {name: row.means for name, row in rows.items() if row.means} == {
        "lecam": ("mean_real", "mean_fake"),
        "path_length": ("mean",),
    }
    assert [name for name, row in rows.items() if row.styles] == ["path_length"]
    assert [name for name, row in rows.items() if row.side == "g"] == ["zcr_g", "ortho", "path_length"]
    without_fakes = ["r1", "drift", "dragan", "cr", "zcr_d", "zcr_g", "ortho", "path_length"]
    assert [name for name, row in rows.items() if not row.fakes] == without_fakes
    assert {name: row.interval for name, row in rows.items() if row.interval > 1} == {"path_length": 4}


# Penalties

OF_D = [name for name, penalty in PENALTIES.items() if penalty.side == "d"]
GRADIENT_PENALTIES = [name for name, penalty in PENALTIES.items() if penalty.gradient]


def context(
    D: Callable[[Tensor], Tensor], x_real: Tensor, x_fake: Tensor, **uniform: Tensor
) -> PenaltyContext:
    """Context whose draws are given by purpose, with "_" for "-"; 0.5 for those not given."""

    def draw(purpose: str, shape: tuple[int, ...]) -> Tensor:
        value = uniform.get(purpose.replace("-", "_"), torch.tensor(0.5, dtype=torch.float64))
        return value.reshape(-1, *[1] * len(shape)).expand(len(x_real), *shape)

    return PenaltyContext(
        D=D,
        G=None,
        x_real=x_real,
        x_fake=x_fake,
        uniform=draw,
        normal=draw,
        z=x_fake.flatten(1),
        generate=lambda z: z.view_as(x_fake),
        mean_real=torch.tensor(2.0, dtype=torch.float64),
        mean_fake=torch.tensor(-1.0, dtype=torch.float64),
        follow=lambda *values: None,
    )


def images(*rows: list[float]) -> Tensor:
    """(N, C, 1, 1) float64."""
    return torch.tensor(rows, dtype=torch.float64)[:, :, None, None]


def linear(x: Tensor) -> Tensor:
    """3 x_0 + 4 x_1: its gradient has norm 5 everywhere."""
    return (x * images([3.0, 4.0])).flatten(1).sum(1)


def quadratic(x: Tensor) -> Tensor:
    """|x|^2 / 2: its gradient is x."""
    return x.square().flatten(1).sum(1) / 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gp", 16.0),  # (5 - 1)^2
        ("gp0", 25.0),
        ("r1", 12.5),  # 25 / 2
        ("r2", 12.5),
        ("dragan", 16.0),
        ("r1_approx", 6.125),  # noise of .5 on both pixels: (3.5)^2 / 2, whatever the step
        ("r2_approx", 6.125),
        ("centre", 173.0),  # reals 5, 7 and fakes 6, 8: (11^2 + 15^2) / 2
        ("drift", 37.0),  # (5^2 + 7^2) / 2
        ("lecam", 76.0),  # reals 5, 7 from -1: (6^2 + 8^2) / 2; fakes 6, 8 from 2: (4^2 + 6^2) / 2
    ],
)
def test_linear_discriminator(name: str, expected: float) -> None:
    ctx = context(linear, x_real=images([3.0, -1.0], [1.0, 1.0]), x_fake=images([2.0, 0.0], [0.0, 2.0]))
    assert PENALTIES[name](ctx).item() == pytest.approx(expected, abs=1e-12)


def test_quadratic_discriminator() -> None:
    """Norms at x_hat are 5 alpha for the first sample and 10 alpha for the second."""
    ctx = context(quadratic, images([3.0, 4.0], [6.0, 8.0]), images([0.0, 0.0], [0.0, 0.0]), gp=row(0.4, 0.3))
    assert PENALTIES["gp"](ctx).item() == pytest.approx((1.0 + 4.0) / 2)  # norms 2 and 3
    ctx = context(
        quadratic, images([3.0, 4.0], [6.0, 8.0]), images([0.0, 0.0], [0.0, 0.0]), gp0=row(0.4, 0.3)
    )
    assert PENALTIES["gp0"](ctx).item() == pytest.approx((4.0 + 9.0) / 2)
    ctx = context(quadratic, images([3.0, 4.0], [6.0, 8.0]), images([1.0, 1.0], [0.0, 2.0]))
    assert PENALTIES["r1"](ctx).item() == pytest.approx((25.0 + 100.0) / 2 / 2)
    assert PENALTIES["r2"](ctx).item() == pytest.approx((2.0 + 4.0) / 2 / 2)


def test_dragan_with_known_draws() -> None:
    """Standard deviation 1, noise 0.5 * 0.8, a quarter and all of the way: 0.1 and 0.4 onto each pixel."""
    draws = {"dragan_noise": row(0.8), "dragan": row(0.25, 1.0)}
    ctx = context(quadratic, images([0.0, 0.0], [2.0, 2.0]), images([9.0, 9.0], [9.0, 9.0]), **draws)
    norms = 0.1 * math.sqrt(2), 2.4 * math.sqrt(2)
    expected = sum((norm - 1) ** 2 for norm in norms) / 2
    assert PENALTIES["dragan"](ctx).item() == pytest.approx(expected, abs=1e-12)


def test_shapes_of_the_draws() -> None:
    asked = []

    def draw(purpose: str, shape: tuple[int, ...]) -> Tensor:
        asked.append((purpose, shape))
        return torch.zeros(2, *shape)

    for name in [name for name in OF_D if name in CUSTOMARY]:
        x = torch.randn(2, 3, 4, 5)
        ctx = replace(context(quadratic, x, x), uniform=draw, normal=draw)
        PENALTIES[name](ctx)
    one = (1, 1, 1)
    asked_for = [("gp", one), ("gp0", one), ("dragan-noise", (3, 4, 5)), ("dragan", one)]
    asked_for += [("cr", (3,)), ("bcr-real", (3,)), ("bcr-fake", (3,)), ("zcr_d", (60,))]
    assert asked == asked_for


def test_a_gradient_of_zero_does_not_poison() -> None:
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    zero = images([0.0, 0.0])
    for name in GRADIENT_PENALTIES:
        PENALTIES[name](context(lambda x: scale * quadratic(x), zero, zero)).backward()
    assert scale.grad.isfinite()


@pytest.mark.parametrize("name", OF_D)
def test_gradient_by_finite_differences(name: str) -> None:
    """The penalty's gradient with respect to D's weights is right, a second derivative of D."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.SiLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        net[3].weight.mul_(50)  # steep, for penalties of what is steep alone
    x_real, x_fake = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64).unbind()
    names, weights = zip(*net.named_parameters(), strict=True)

    def penalty(*weights: Tensor) -> Tensor:
        def D(x: Tensor) -> Tensor:
            return torch.func.functional_call(net, dict(zip(names, weights, strict=True)), (x,))

        return PENALTIES[name](context(D, x_real, x_fake))

    assert torch.autograd.gradcheck(penalty, weights)
    if name != "drift":  # no penalty may leave the first layer without a gradient
        assert torch.autograd.grad(penalty(*weights), weights[0])[0].abs().sum() > 0


def test_r1_shares_the_forward_where_it_may() -> None:
    x_real = images([3.0, 4.0], [6.0, 8.0]).requires_grad_()
    ctx = context(quadratic, x_real, x_real.detach())
    expected = PENALTIES["r1"](ctx)
    ctx.d_real, ctx.D = quadratic(x_real), None
    assert_close(PENALTIES["r1"](ctx), expected)
    ctx.D, ctx.x_real = quadratic, x_real.detach()  # no gradient: a forward of its own
    assert_close(PENALTIES["r1"](ctx), expected)


def test_reuse_of_logits_by_the_others() -> None:
    x = images([3.0, 4.0])
    ctx = context(quadratic, x, x)
    ctx.d_real, ctx.d_fake = row(7.0), row(9.0)
    assert PENALTIES["drift"](ctx).item() == 49.0
    assert PENALTIES["r2"](ctx).item() == 12.5  # from its own forward at the fakes


@pytest.mark.parametrize("name", GRADIENT_PENALTIES)
def test_inputs_are_left_alone(name: str) -> None:
    x_real, x_fake = images([3.0, 4.0]), images([1.0, 2.0])
    PENALTIES[name](context(quadratic, x_real, x_fake))
    assert not x_real.requires_grad and not x_fake.requires_grad
    assert torch.equal(x_real, images([3.0, 4.0])) and torch.equal(x_fake, images([1.0, 2.0]))


# Alone, in anyone's loop


def test_alone_on_a_quadratic_discriminator() -> None:
    """Plain arguments, reals before fakes; the weight s of D = s |x|^2 / 2 gets the gradient by hand."""
    s = torch.ones((), dtype=torch.float64, requires_grad=True)
    x_real, x_fake = images([3.0, 4.0], [6.0, 8.0]), images([1.0, 1.0], [0.0, 2.0])

    def D(x: Tensor) -> Tensor:
        return s * quadratic(x)

    # norms of the gradients at reals: 5 s, 10 s; at fakes: sqrt(2) s, 2 s; logits of reals: 12.5 s, 50 s
    expected = {
        r1: ((D, x_real), (25 + 100) / 4, 2),
        r2: ((D, x_fake), (2 + 4) / 4, 2),
        drift: ((D, x_real), (12.5**2 + 50**2) / 2, 2),
        # one end of the line on the other: no draw matters
        gp0: ((D, x_real, x_real), (25 + 100) / 2, 2),
    }
    for penalty, (given, value, power) in expected.items():
        found = penalty(*given)
        assert found.item() == pytest.approx(value, abs=1e-12)
        assert torch.autograd.grad(found, s)[0].item() == pytest.approx(power * value, abs=1e-12)
    found = gp(D, x_real, x_real)
    assert found.item() == pytest.approx((4**2 + 9**2) / 2)
    assert torch.autograd.grad(found, s)[0].item() == pytest.approx((2 * 4 * 5 + 2 * 9 * 10) / 2)


def test_alone_they_draw_for_themselves() -> None:
    """Seeded by torch's own generator, one number a sample; given draws win."""
    x_real, x_fake = images([6.0, 8.0], [6.0, 8.0]), images([0.0, 0.0], [0.0, 0.0])
    values = []
    for seed in (0, 0, 1):
        torch.default_generator.manual_seed(seed)
        values.append([penalty(quadratic, x_real, x_fake).item() for penalty in (gp, gp0)])
        values[-1].append(dragan(quadratic, images([0.0, 0.0], [2.0, 2.0])).item())
    assert values[0] == values[1] and all(a != b for a, b in zip(values[0], values[2], strict=True))
    torch.default_generator.manual_seed(0)
    way = torch.rand(2, 1, 1, 1, dtype=torch.float64)
    assert values[0][0] == pytest.approx((10 * way - 1).square().mean().item())
    given = gp0(quadratic, x_real, x_fake, uniform=lambda purpose, shape: torch.full((2, *shape), 0.5))
    assert given.item() == pytest.approx(25.0)


# r1 and r2 by differences


@pytest.mark.parametrize(("penalty", "exact"), [(r1_approx, r1), (r2_approx, r2)])
def test_differences_are_the_squared_gradient_in_the_mean(penalty: Callable, exact: Callable) -> None:
    """Of D = x^T A x / 2, whose gradient is A x, by quadrature, then by many draws.

    In the mean over n the square of (e n^T A x + e^2 n^T A n / 2) / e is |A x|^2 + e^2 (tr(A)^2 + 2 tr(A^2)) / 4.
    """
    A = torch.tensor([[2.0, 0.5], [0.5, -1.0]], dtype=torch.float64)
    x = images([3.0, -1.0])

    def D(x: Tensor) -> Tensor:
        return torch.einsum("ni,ij,nj->n", x.flatten(1), A, x.flatten(1)) / 2

    # Gauss-Hermite with 3 nodes a pixel is exact for the 4th powers of n
    nodes, weights = (-math.sqrt(3), 0.0, math.sqrt(3)), (1 / 6, 2 / 3, 1 / 6)
    mean = 0.0
    for n0, w0 in zip(nodes, weights, strict=True):
        for n1, w1 in zip(nodes, weights, strict=True):
            mean += w0 * w1 * penalty(D, x, normal=lambda *_, n=(n0, n1): images(list(n))).item()
    over = STEP**2 * (A.trace() ** 2 + 2 * (A @ A).trace()) / 8
    assert mean == pytest.approx((exact(D, x) + over).item(), rel=1e-9)
    assert mean == pytest.approx(exact(D, x).item(), rel=1e-3)  # so close is close enough
    torch.default_generator.manual_seed(0)
    drawn = penalty(D, x.expand(20_000, 2, 1, 1))
    assert drawn.item() == pytest.approx(exact(D, x).item(), rel=0.05)


def test_differences_take_known_logits() -> None:
    """Both forwards are plain: a logit that is known spares one, and has its gradient too."""
    s = torch.ones((), dtype=torch.float64, requires_grad=True)
    x, calls = images([3.0, -1.0]), []

    def D(x: Tensor) -> Tensor:
        calls.append(len(x))
        return s * linear(x)

    draw = lambda *_: images([1.0, 1.0])  # noqa: E731
    values = [r1_approx(D, x, normal=draw), r1_approx(D, x, d_real=D(x), normal=draw)]
    values += [r2_approx(D, x, normal=draw), r2_approx(D, x, d_fake=D(x), normal=draw)]
    assert len(calls) == 8
    for value in values:
        assert value.item() == pytest.approx(24.5)  # (3 + 4)^2 / 2
        assert torch.autograd.grad(value, s, retain_graph=True)[0].item() == pytest.approx(49.0)


def test_differences_of_a_patch_map_are_those_of_its_sum() -> None:
    x = images([3.0, -1.0])
    draw = lambda *_: images([1.0, 1.0])  # noqa: E731
    found = r1_approx(lambda x: x * images([3.0, 4.0]), x, normal=draw)
    assert found.item() == pytest.approx(r1_approx(linear, x, normal=draw).item()) == pytest.approx(24.5)


def test_a_centre_of_unequal_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="pairs need equal shapes"):
        centre(linear, images([1.0, 1.0], [1.0, 1.0]), images([1.0, 1.0]))


# Consistency. D weighs pixels by their place, so that what is moved shows in its logits.

PLACES = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)


def placed(x: Tensor) -> Tensor:
    """x_0 + 10 x_1 + 100 x_2 of images (N, 1, 1, 3)."""
    return (x * PLACES).flatten(1).sum(1)


def wide(*rows: list[float]) -> Tensor:
    """(N, 1, 1, W) float64."""
    return torch.tensor(rows, dtype=torch.float64)[:, None, None]


def test_consistency_by_hand() -> None:
    """Three pixels are too few to be moved; the first image is mirrored, 321 - 123, the second is not."""
    x, fakes = wide([3.0, 2.0, 1.0], [4.0, 5.0, 6.0]), wide([0.0, 0.0, 1.0], [0.0, 0.0, 2.0])
    draws = {"cr": torch.tensor([[0.5, 0.9, 0.0], [0.4, 0.0, 0.9]]), "bcr-fake": torch.full((2, 3), 0.7)}
    draws["bcr-real"] = draws["cr"]

    def uniform(purpose: str, shape: tuple[int, ...]) -> Tensor:
        assert shape == (3,)
        return draws[purpose]

    on_real, on_fake = 198**2 / 2, (99**2 + 198**2) / 2
    assert cr(placed, x, uniform=uniform).item() == pytest.approx(on_real)
    assert bcr(placed, x, fakes, uniform=uniform).item() == pytest.approx(on_real + on_fake)
    # known logits take the place of a forward: 321 from 0, 654 from 0
    assert cr(placed, x, d_real=row(0, 654), uniform=uniform).item() == pytest.approx(321**2 / 2)
    torch.default_generator.manual_seed(1)
    alone = [cr(placed, x.expand(64, 2, 1, 1, 3)[:, 0]).item() for _ in range(2)]
    assert alone[0] != alone[1]


@pytest.mark.parametrize("size", [(32, 32), (16, 40), (5, 9), (1, 3)])
def test_mirrored_and_shifted_sample_by_sample(size: tuple[int, int]) -> None:
    """An eighth to every side, 4 px of 32; reflected at the edges without repeating them; then mirrored."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, *size, generator=generator, dtype=torch.float64)
    u = torch.rand(40, 3, generator=generator, dtype=torch.float64)
    u[0], u[1] = 0, 1 - 2**-53
    most = [round(side / 8) for side in size]
    assert most == {(32, 32): [4, 4], (16, 40): [2, 5], (5, 9): [1, 1], (1, 3): [0, 0]}[size]
    expected = torch.empty_like(x)
    for image, target, (flip, along, down) in zip(x, expected, u.tolist(), strict=True):
        right, below = (int(v * (2 * m + 1)) - m for v, m in ((along, most[1]), (down, most[0])))
        for i in range(size[0]):
            for j in range(size[1]):
                row, column = abs(i - below), abs(j - right)
                row = 2 * (size[0] - 1) - row if row >= size[0] else row
                column = 2 * (size[1] - 1) - column if column >= size[1] else column
                target[:, i, size[1] - 1 - j if flip >= 0.5 else j] = image[:, row, column]
    assert torch.equal(mirrored_and_shifted(x, u), expected)


def test_latent_consistency_by_hand() -> None:
    """G(z) = (3 z_0, 4 z_1), D = 10 x_0 + x_1; latents move by 0.03 n."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    z, n = row(1, 2, 5, 6).view(2, 2), row(1, 0, 0, 2).view(2, 2)

    def generate(z: Tensor) -> Tensor:
        return scale * (z * row(3, 4))[:, :, None, None]

    def D(x: Tensor) -> Tensor:
        return scale * (x * images([10.0, 1.0])).flatten(1).sum(1)

    def normal(purpose: str, shape: tuple[int, ...]) -> Tensor:
        assert shape == (2,)
        return n

    # images move by (0.09, 0) and (0, 0.24), logits by 0.9 and 0.24
    on_g = zcr_g(generate, z, normal=normal)
    assert on_g.item() == pytest.approx(-(0.09**2 + 0.24**2) / 4, abs=1e-15)
    assert torch.autograd.grad(on_g, scale)[0].item() == pytest.approx(2 * on_g.item())  # G is paid to move
    on_d = zcr_d(D, generate, z, normal=normal)
    assert on_d.item() == pytest.approx((0.9**2 + 0.24**2) / 2, abs=1e-15)
    # of D's scale alone: G's images are cut off
    assert torch.autograd.grad(on_d, scale)[0].item() == pytest.approx(2 * on_d.item())
    torch.default_generator.manual_seed(0)
    assert zcr_d(D, generate, z).item() > 0 > zcr_g(generate, z).item()


def test_lecam_alone() -> None:
    """Reals 1, 3 from -2: (9 + 25) / 2; fakes 0, -4 from 1: (1 + 25) / 2. What the means follow has no graph."""
    s = torch.ones((), dtype=torch.float64, requires_grad=True)
    x_real, x_fake = images([1.0, 0.0], [3.0, 0.0]), images([0.0, 0.0], [-4.0, 0.0])

    def D(x: Tensor) -> Tensor:
        return s * x.flatten(1).sum(1)

    seen: list[float] = []
    value = lecam(D, x_real, x_fake, 1.0, -2.0, follow=lambda *means: seen.extend(means))
    assert value.item() == pytest.approx(17 + 13)
    assert [(mean.item(), mean.requires_grad) for mean in seen] == [(2.0, False), (-2.0, False)]
    # d/ds: mean 2 (s x - a) x, the means held constant
    assert torch.autograd.grad(value, s)[0].item() == pytest.approx((6 + 30) / 2 + (0 + 40) / 2)
    assert lecam(D, x_real, x_fake, 0.0, 0.0).item() == pytest.approx(5 + 8)
    assert lecam(None, x_real, x_fake, 0.0, 0.0, d_real=row(3), d_fake=row(4)).item() == pytest.approx(25)


def test_path_length_alone() -> None:
    """Lengths 2.5 and 5 as below; without `follow` nothing is moved, with it the caller moves the mean."""
    ws, mean = STYLES, torch.zeros((), dtype=torch.float64)
    x = (ws[:, :, 0] * row(1.0, 2.0))[:, None, None, :]  # (N, 2, 1) -> (N, 1, 1, 2)
    noise = {"normal": lambda purpose, shape: TWO_NOISES}
    assert_close(path_lengths(ws, x, **noise).detach(), row(2.5, 5.0))
    assert path_length(ws, x, mean, **noise).item() == pytest.approx((2.5**2 + 5**2) / 2)
    path_length(ws, x, mean, **noise, follow=lambda lengths: mean.lerp_(lengths, 0.5))
    assert mean.item() == pytest.approx(3.75 / 2)
    torch.default_generator.manual_seed(0)
    assert path_length(ws, x, 0.0).item() > 0


def test_a_penalty_that_asks_for_what_there_is_not_is_refused() -> None:
    """When the table is made, with what can be asked for."""

    def odd(D: Callable, x_reel: Tensor) -> Tensor:
        return D(x_reel).sum()

    with pytest.raises(ValueError, match=r"odd\(D, x_reel\): .* D, G, x_real, x_fake, .* ws, x, normal"):
        Penalty(odd, side="d", weight=1.0)

    def both(ws: Tensor, x_real: Tensor) -> Tensor:
        return ws.sum()

    with pytest.raises(ValueError, match=r"both\(ws, x_real\)"):
        Penalty(both, side="g", weight=1.0)


# Orthogonality. In rows of filters: what is alike between two of them, squared, counted for each of the two.


def of_weights(net: nn.Module) -> Tensor:
    """The orthogonal penalty of a network."""
    x = images([0.0])
    value = PENALTIES["ortho"](PenaltyContext(D=quadratic, G=net, x_real=x, x_fake=None, uniform=None))
    assert torch.equal(value, ortho(net))
    return value


def with_weight(layer: nn.Module, *rows: list[float]) -> nn.Module:
    """The layer in float64 with its weight set to numbers in the weight's own order."""
    layer = layer.double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows, dtype=torch.float64).view_as(layer.weight))
    return layer


BY_HAND = {
    # rows (1, 2), (3, 4): <,> = 11
    "linear": (lambda: with_weight(nn.Linear(2, 2), [1, 2], [3, 4]), 2 * 11**2),
    # rows (1, 0, 2), (0, 1, 1), (1, 1, 0): 2, 1 and 1
    "three": (lambda: with_weight(nn.Linear(3, 3), [1, 0, 2], [0, 1, 1], [1, 1, 0]), 2 * (4 + 1 + 1)),
    # filters of two channels of 1x2 pixels: (1, 0 | 0, 2), (3, 1 | 1, 1): 3 + 2
    "convolution": (lambda: with_weight(nn.Conv2d(2, 2, (1, 2)), [1, 0, 0, 2], [3, 1, 1, 1]), 2 * 5**2),
    # its weight is (in, out): channel 0 gives (1, 2) to the outputs, channel 1 gives (3, 0); filters (1, 3), (2, 0)
    "transposed": (lambda: with_weight(nn.ConvTranspose2d(2, 2, 1), [1, 2], [3, 0]), 2 * 2**2),
    # one filter is like no other, orthogonal ones of any length are not alike
    "one filter": (lambda: with_weight(nn.Linear(2, 1), [5, 7]), 0),
    "orthogonal": (lambda: with_weight(nn.Linear(2, 2), [3, 4], [-8, 6]), 0),
}


@pytest.mark.parametrize("layer", BY_HAND)
def test_ortho_by_hand(layer: str) -> None:
    """arXiv:1809.11096 eq. 3: |W W^T (1 - I)|^2, biases left out."""
    build, expected = BY_HAND[layer]
    assert of_weights(build()).item() == pytest.approx(expected, abs=1e-12)


def test_ortho_of_more_filters_than_inputs() -> None:
    """Computed through the smaller product, equal to that of the filters."""
    for shape in ((7, 3), (3, 7)):
        net = nn.Linear(*reversed(shape), dtype=torch.float64)
        w = net.weight.detach()
        off = (w @ w.t()).fill_diagonal_(0)
        assert_close(of_weights(net).detach(), off.square().sum())


def test_ortho_sums_over_layers_but_not_over_tables() -> None:
    """Embeddings and the gains and shifts of norms are no filters."""
    layers = [build() for build, _ in BY_HAND.values()]
    tables = [nn.Embedding(4, 3), ConditionalNorm("cbn", 3, 4), nn.BatchNorm2d(3), nn.GroupNorm(1, 3)]
    for table in tables:
        for p in table.double().parameters():
            nn.init.normal_(p)
    total = sum(expected for _, expected in BY_HAND.values())
    assert of_weights(nn.Sequential(*layers, *tables)).item() == pytest.approx(total, abs=1e-10)
    nested = nn.Sequential(nn.Sequential(*layers[:2]), nn.ModuleList(layers[2:]))
    assert of_weights(nested).item() == pytest.approx(total, abs=1e-10)
    assert of_weights(nn.Sequential(*tables)).item() == 0


def test_ortho_takes_weights_before_spectral_norm() -> None:
    net = nn.Sequential(*(build() for build, _ in BY_HAND.values()), nn.Embedding(4, 3).double())
    before = of_weights(net).item()
    apply_spectral_norm(net)
    assert of_weights(net).item() == pytest.approx(before, abs=1e-10)
    assert not torch.allclose(net[0].weight, net[0].parametrizations.weight.original)
    gradient = torch.autograd.grad(of_weights(net), net[0].parametrizations.weight.original)[0]
    # rows (1, 2), (3, 4): 4 * 11 times the other row
    assert_close(gradient, torch.tensor([[132.0, 176.0], [44.0, 88.0]], dtype=torch.float64))


@pytest.mark.parametrize("normed", [False, True])
def test_ortho_by_finite_differences(normed: bool) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ConvTranspose2d(2, 3, 2), nn.Conv2d(3, 2, 2)).double()
    if normed:
        apply_spectral_norm(net)

    class Penalty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self) -> Tensor:
            return of_weights(self.net)

    named = {name: p.detach().clone() for name, p in Penalty().named_parameters() if "bias" not in name}
    names, weights = zip(*named.items(), strict=True)
    assert len(names) == 3

    def penalty(*weights: Tensor) -> Tensor:
        return torch.func.functional_call(Penalty(), dict(zip(names, weights, strict=True)), ())

    assert torch.autograd.gradcheck(penalty, tuple(w.requires_grad_() for w in weights))


# Path length. The synthesis is linear: images of two pixels, x = s (w_0 + 2 w_1), from two layers of one style each.
# With noise y the images' inner product with it, y / sqrt(2), has the gradient s (y_0, 2 y_0, ...): worked out below.


def style_context(
    ws: Tensor, noise: Tensor, mean: float, scale: Tensor | float = 1.0, seen: list[Tensor] | None = None
) -> StyleContext:
    """Of ws (N, 2, 1) and noise (N, 1, 1, 2): pixel 0 is scale * w_0, pixel 1 is scale * 2 w_1."""

    def synthesis(ws: Tensor) -> Tensor:
        return scale * (ws[:, :, 0] * row(1.0, 2.0))[:, None, None, :]  # (N, 2, 1) -> (N, 1, 1, 2)

    def normal(purpose: str, shape: tuple[int, ...]) -> Tensor:
        assert (purpose, shape) == ("path-length", (1, 1, 2))
        return noise

    follow = ([] if seen is None else seen).append
    a = torch.tensor(mean, dtype=torch.float64)
    return StyleContext(ws=ws, x=synthesis(ws), normal=normal, mean=a, follow=follow)


STYLES = torch.zeros(2, 2, 1, dtype=torch.float64).requires_grad_()
# J^T y = (3, 2 * 2) / sqrt(2) and (6, 2 * 4) / sqrt(2); over two layers the lengths are 5 / 2 and 10 / 2
TWO_NOISES = torch.tensor([[3.0, 2.0], [6.0, 4.0]], dtype=torch.float64)[:, None, None, :]


@pytest.mark.parametrize("a", [0.0, 3.0])
def test_path_length_by_hand(a: float) -> None:
    """Lengths 2.5 and 5: held to the mean of earlier steps, which then follows their own mean 3.75."""
    seen: list[Tensor] = []
    value = PENALTIES["path_length"](style_context(STYLES, TWO_NOISES, a, seen=seen))
    assert value.item() == pytest.approx(((2.5 - a) ** 2 + (5 - a) ** 2) / 2, abs=1e-12)
    assert [mean.item() for mean in seen] == [pytest.approx(3.75)]


def test_path_length_holds_its_mean_constant() -> None:
    """d/ds of mean (s l - a)^2 at s = 1 is mean 2 (l - a) l; what the mean follows has no graph."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    seen: list[Tensor] = []
    PENALTIES["path_length"](style_context(STYLES, TWO_NOISES, 3.0, scale, seen)).backward()
    assert not seen[0].requires_grad
    assert scale.grad.item() == pytest.approx((2 * -0.5 * 2.5 + 2 * 2 * 5) / 2, abs=1e-12)


def test_path_length_is_held_to_the_mean_of_earlier_steps_where_that_moves_in_place() -> None:
    context = style_context(STYLES, TWO_NOISES, 3.0)
    value = PENALTIES["path_length"](replace(context, follow=context.mean.copy_))
    assert value.item() == pytest.approx(((2.5 - 3) ** 2 + (5 - 3) ** 2) / 2, abs=1e-12)
    assert context.mean.item() == pytest.approx(3.75)


def test_path_length_by_finite_differences() -> None:
    """Of a synthesis that is not linear, in which both layers matter."""
    first, second = torch.randn(2, 3, 4, dtype=torch.float64).unbind()
    ws, noise = torch.randn(2, 2, 3, dtype=torch.float64), torch.randn(2, 1, 2, 2, dtype=torch.float64)

    def penalty(first: Tensor, second: Tensor) -> Tensor:
        def synthesis(ws: Tensor) -> Tensor:
            return (ws[:, 0] @ first + (ws[:, 1] @ second).tanh()).tanh().view(2, 1, 2, 2)

        styles = ws.clone().requires_grad_()
        return path_length(styles, synthesis(styles), 0.7, normal=lambda *_: noise)

    assert torch.autograd.gradcheck(penalty, (first.requires_grad_(), second.requires_grad_()))
