"""Augmentations against what is worked by hand, sample by sample."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from augmentation import AUGMENTATIONS, PIPES, ada, corruption, pipe_rows
from augmentation.ada import GROUPS, NORMAL, SWITCHES, SYM6, UNIFORM, next_p

HALF = torch.tensor(0.5, dtype=torch.float64)
ROWS = AUGMENTATIONS | pipe_rows("bgcfnc")


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded_draws(
    name: str, n_images: int, seed: int = 1, image: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """u, n for images (C, H, W) of a shape, which those of noise depend on."""
    generator = torch.Generator().manual_seed(seed)
    row = ROWS[name]
    u = torch.rand(n_images, row.n_uniform, generator=generator, dtype=torch.float64)
    return u, torch.randn(n_images, row.n_normals(image), generator=generator, dtype=torch.float64)


def draws_for(name: str, x: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
    return seeded_draws(name, len(x), seed, tuple(x.shape[1:]))


def apply(name: str, x: Tensor, u: Tensor, n: Tensor, p: Tensor = HALF) -> Tensor:
    row = ROWS[name]
    return row.fn(x, u, n, p) if row.adaptive else row.fn(x, u, n)


def ada_draws(*on: str, n_images: int = 1, **values: float) -> tuple[Tensor, Tensor]:
    """Draws for p = .5 that switch on the named transforms alone; values by name: u_flip=.7, n_scale=1."""
    u = torch.full((n_images, len(SWITCHES) + len(UNIFORM)), 0.75, dtype=torch.float64)
    n = torch.zeros(n_images, len(NORMAL), dtype=torch.float64)
    for name in on:
        u[:, SWITCHES.index(name)] = 0.1
    for name, value in values.items():
        kind, name = name.split("_", 1)
        if kind == "u":
            u[:, len(SWITCHES) + UNIFORM.index(name)] = value
        else:
            n[:, NORMAL.index(name)] = value
    return u, n


# ADA: where nothing is to happen


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3])
def test_ada_at_p_0_is_the_identity_to_the_last_bit(dtype: torch.dtype, channels: int) -> None:
    x = seeded(4, channels, 9, 6).to(dtype)
    x[0, 0, 0, 0] = -0.0
    u, n = seeded_draws("ada", 4)
    u[0] = 0
    zero = torch.tensor(0.0)
    on_cpu = ada.ada(x, u, n, zero)
    full_way = ada.recolour(
        ada.transform(x.float(), ada.geometry(u, n, zero, (9, 6))), ada.colour(u, n, zero)
    )
    for result in (on_cpu, full_way.to(dtype) if dtype != torch.float64 else on_cpu):
        assert_close(result, x, rtol=0, atol=0)
        assert torch.equal(result.signbit(), x.signbit())


def test_ada_leaves_samples_alone_to_which_nothing_is_applied() -> None:
    x = seeded(3, 3, 8, 8)
    x[1, 0, 0, 0] = -0.0
    u, n = seeded_draws("ada", 3)
    u[1, : len(SWITCHES)] = 0.5  # drawn at p: not applied
    u[(0, 2), 0], u[(0, 2), len(SWITCHES)] = 0.0, 0.9  # flipped
    result = ada.ada(x, u, n, HALF)
    assert torch.equal(result[1], x[1]) and torch.equal(result[1].signbit(), x[1].signbit())
    assert not torch.equal(result[0], x[0]) and not torch.equal(result[2], x[2])


def test_a_differentiated_identity_has_the_gradient_of_one() -> None:
    x = seeded(2, 3, 8, 8).requires_grad_()
    result = ada.ada(x, *ada_draws(n_images=2), HALF)
    weight = seeded(2, 3, 8, 8, seed=5)
    (gradient,) = torch.autograd.grad((result * weight).sum(), x)
    assert_close(gradient, weight, rtol=0, atol=0)


# ADA: pixels moved as they are


def test_flip() -> None:
    x = seeded(2, 3, 7, 6)
    assert torch.equal(ada.ada(x, *ada_draws("flip", n_images=2, u_flip=0.6), HALF), x.flip(3))
    assert torch.equal(ada.ada(x, *ada_draws("flip", n_images=2, u_flip=0.4), HALF), x)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_turn(quarters: int) -> None:
    x = seeded(2, 3, 6, 6)
    draws = ada_draws("turn", n_images=2, u_turn=(quarters + 0.5) / 4)
    assert torch.equal(ada.ada(x, *draws, HALF), x.rot90(quarters, (2, 3)))


def test_turn_of_a_rectangle_mirrors_what_is_missing() -> None:
    x = seeded(1, 1, 4, 8)
    turned = F.pad(x, (0, 0, 2, 2), mode="reflect").rot90(1, (2, 3))[:, :, :, :]  # 8 x 8
    result = ada.ada(x, *ada_draws("turn", u_turn=0.3), HALF)
    assert torch.equal(result, turned[:, :, 2:6])


@pytest.mark.parametrize(("right", "down"), [(0, 0), (2, -1), (-2, 1), (1, 1)])
def test_jump(right: int, down: int) -> None:
    x = seeded(1, 3, 8, 16)
    draws = ada_draws("jump", u_jump_x=0.5 + right / 2 / 2, u_jump_y=0.5 + down / 1 / 2 * 0.99)
    padded = F.pad(x, (2, 2, 1, 1), mode="reflect")
    expected = padded[:, :, 1 - down : 9 - down, 2 - right : 18 - right]
    assert torch.equal(ada.ada(x, *draws, HALF), expected)


def test_flip_then_turn_then_jump_in_this_order() -> None:
    x = seeded(1, 3, 16, 16)
    draws = ada_draws("flip", "turn", "jump", u_flip=0.9, u_turn=0.3, u_jump_x=0.75, u_jump_y=0.5)
    expected = F.pad(x.flip(3).rot90(1, (2, 3)), (2, 2, 2, 2), mode="reflect")[:, :, 2:18, 1:17]
    assert torch.equal(ada.ada(x, *draws, HALF), expected)


# ADA: geometry


def smooth_image(px: Tensor, py: Tensor, size: tuple[int, int]) -> Tensor:
    """Cosines that are even about the first and the last pixel: a mirrored image is the function itself."""
    along, down = math.pi * px / (size[1] - 1), math.pi * py / (size[0] - 1)
    red = (2 * along).cos() * down.cos() - 0.5 * (3 * down).cos()
    green = 0.8 * (3 * along).cos() + 0.3 * (along + 0.0).cos() * (2 * down).cos()
    return torch.stack([red, green, 0.5 * red * green])


def pixels(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(x, y) of every pixel."""
    y, x = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in size), indexing="ij")
    return x, y


def forward_matrix(u: Tensor, n: Tensor, size: tuple[int, int]) -> Tensor:
    """G of one sample (3, 3) about the centre, written out from the paper's pseudocode for everything switched on."""
    h, w = size
    flip, turn, jump_x, jump_y, before, after = u[len(SWITCHES) :].tolist()[:6]
    scale, stretch, shift_x, shift_y = n.tolist()[:4]

    def shift(x: float, y: float) -> Tensor:
        return torch.tensor([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=torch.float64)

    def stretched(x: float, y: float) -> Tensor:
        return torch.tensor([x, y, 1], dtype=torch.float64).diag()

    def turned(theta: float) -> Tensor:
        c, s = math.cos(theta), math.sin(theta)
        return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)

    g = stretched(1 - 2 * int(flip > 0.5), 1)
    g = turned(-math.pi / 2 * int(4 * turn)) @ g
    g = shift(round((2 * jump_x - 1) / 8 * w), round((2 * jump_y - 1) / 8 * h)) @ g
    g = stretched(2 ** (0.2 * scale), 2 ** (0.2 * scale)) @ g
    g = turned(-math.pi * (2 * before - 1)) @ g
    g = stretched(2 ** (0.2 * stretch), 2 ** (-0.2 * stretch)) @ g
    g = turned(-math.pi * (2 * after - 1)) @ g
    g = shift(0.125 * w * shift_x, 0.125 * h * shift_y) @ g
    centre = shift((w - 1) / 2, (h - 1) / 2)
    return centre @ g @ centre.inverse()


def expected_geometry(u: Tensor, n: Tensor, size: tuple[int, int]) -> Tensor:
    """The smooth image looked up where the inverse of the forward matrix points, one sample after the other."""
    x, y = pixels(size)
    result = []
    for row_u, row_n in zip(u, n, strict=True):
        inverse = forward_matrix(row_u, row_n, size).inverse()
        px = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
        py = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
        result.append(smooth_image(px, py, size))
    return torch.stack(result)


NEUTRAL = {
    "u_flip": 0.0,
    "u_turn": 0.0,
    "u_jump_x": 0.5,
    "u_jump_y": 0.5,
    "u_turn_before": 0.5,
    "u_turn_after": 0.5,
}
SINGLE = {
    "scale": {"n_scale": 1.5},
    "turn_before": {"u_turn_before": 0.6},
    "stretch": {"n_stretch": -1.2},
    "turn_after": {"u_turn_after": 0.1},
    "shift": {"n_shift_x": 0.4, "n_shift_y": -0.7},
    "turn": {"u_turn": 0.3},  # of a rectangle whose sides differ by an odd number
}


@pytest.mark.parametrize("name", SINGLE)
def test_geometry_one_by_one(name: str) -> None:
    size = (44, 55)
    u, n = ada_draws(name, **NEUTRAL | SINGLE[name])
    x = smooth_image(*pixels(size), size)[None]
    assert_close(ada.ada(x, u, n, HALF), expected_geometry(u, n, size), rtol=0, atol=0.02)


@pytest.mark.parametrize("size", [(48, 48), (40, 64), (51, 38)])
def test_geometry_all_at_once(size: tuple[int, int]) -> None:
    u, n = seeded_draws("ada", 16)
    n = n.clamp(-1.5, 1.5)
    inverse = ada.geometry(u, n, 1.0, size)
    matrices = torch.stack([forward_matrix(*rows, size) for rows in zip(u, n, strict=True)])
    assert_close(inverse, matrices.inverse())
    x = smooth_image(*pixels(size), size).expand(16, -1, -1, -1)
    assert_close(ada.transform(x, inverse), expected_geometry(u, n, size), rtol=0, atol=0.05)


def test_a_ramp_stays_a_ramp_under_every_affine_map() -> None:
    size = (40, 48)
    x, y = pixels(size)
    ramp = (3 + 0.2 * x - 0.1 * y)[None, None]
    inverse = ada.geometry(*ada_draws("turn_before", "stretch", u_turn_before=0.6, n_stretch=0.5), 0.5, size)
    px, py = ada.look_up(inverse, size)
    result, expected = ada.transform(ramp, inverse)[0], 3 + 0.2 * px - 0.1 * py
    inner = (slice(None), slice(14, 26), slice(18, 30))  # what lies outside is looked up in the mirrored part
    assert_close(result[inner], expected[inner], rtol=0, atol=1e-12)


def test_sym6_is_an_orthogonal_filter_of_six_vanishing_moments() -> None:
    h = torch.tensor(SYM6, dtype=torch.float64)
    assert len(h) == 12
    assert_close(h.sum().item(), 1.0)
    for lag in range(6):
        assert_close(
            (h[: 12 - 2 * lag] * h[2 * lag :]).sum().item(), 0.5 if lag == 0 else 0.0, rtol=0, atol=1e-15
        )
    at, signs = torch.linspace(-1, 1, 12, dtype=torch.float64), torch.tensor([1.0, -1.0] * 6)
    for moment in range(6):
        assert_close((signs * at**moment * h).sum().item(), 0.0, rtol=0, atol=1e-15)


@pytest.mark.parametrize("size", [(8, 8), (5, 12), (2, 3), (1, 4)])
def test_resampling_by_the_identity_gives_the_image_back(size: tuple[int, int]) -> None:
    x = seeded(2, 3, *size)
    identity = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    assert_close(ada.resample(x, identity), x, rtol=0, atol=1e-13)
    assert torch.equal(ada.blit(x, identity), x)


def test_reflect() -> None:
    position = torch.tensor([-7, -4, -3, -1, 0, 2, 3, 4, 6, 7])
    assert ada.reflect(position, 4).tolist() == [1, 2, 3, 1, 0, 2, 3, 2, 0, 1]
    assert ada.reflect(torch.tensor([-2, 0, 3]), 1).tolist() == [0, 0, 0]
    assert_close(ada.reflect(torch.tensor([-0.25, 3.25]), 4), torch.tensor([0.25, 2.75]))


# ADA: matrices


def one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (ada.translate(one(2), one(-3)), [[1, 0, 2], [0, 1, -3], [0, 0, 1]]),
        (ada.scale(one(2), one(0.5)), [[2, 0, 0], [0, 0.5, 0], [0, 0, 1]]),
        (ada.rotate(one(0.6), one(0.8)), [[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]),
        (ada.quarter_turns(one(1)), [[0, -1, 0], [1, 0, 0], [0, 0, 1]]),
        (ada.quarter_turns(one(2)), [[-1, 0, 0], [0, -1, 0], [0, 0, 1]]),
        (ada.quarter_turns(one(3)), [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
        (
            ada.compose(ada.scale(one(2), one(3)), ada.translate(one(5), one(7))),
            [[2, 0, 10], [0, 3, 21], [0, 0, 1]],
        ),
        (ada.brighten(one(0.3)), [[1, 0, 0, 0.3], [0, 1, 0, 0.3], [0, 0, 1, 0.3], [0, 0, 0, 1]]),
        (ada.contrast(one(3)), [[3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]),
        (
            ada.luma_flip(one(1)),
            [
                [1 / 3, -2 / 3, -2 / 3, 0],
                [-2 / 3, 1 / 3, -2 / 3, 0],
                [-2 / 3, -2 / 3, 1 / 3, 0],
                [0, 0, 0, 1],
            ],
        ),
        (ada.rotate_hue(one(2 * math.pi / 3)), [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
        (
            ada.saturate(one(0)),
            [[1 / 3, 1 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3, 0], [0, 0, 0, 1]],
        ),
    ],
)
def test_matrices(matrix: Tensor, expected: list[list[float]]) -> None:
    assert_close(matrix, torch.tensor([expected], dtype=torch.float64))


# ADA: colour


def turned_about_grey(pixel: Tensor, theta: float) -> Tensor:
    """Rodrigues' rotation of one pixel (3,) about (1, 1, 1) / sqrt(3)."""
    axis = torch.full((3,), 3**-0.5, dtype=torch.float64)
    along = axis * pixel.dot(axis)
    across = pixel - along
    return along + across * math.cos(theta) + torch.linalg.cross(axis, across) * math.sin(theta)


def per_pixel(x: Tensor, function) -> Tensor:
    """One image (3, H, W) through a function of one pixel (3,)."""
    return torch.stack([function(pixel) for pixel in x.flatten(1).T], 1).view_as(x)


COLOURS = {
    "brightness": ({"n_brightness": 1.5}, lambda x: x + 0.3),
    "contrast": ({"n_contrast": -2.0}, lambda x: x / 2),
    "luma_flip": ({"u_luma_flip": 0.6}, lambda x: x - 2 * x.mean(0)),
    "hue": ({"u_hue": 0.9}, lambda x: per_pixel(x, lambda pixel: turned_about_grey(pixel, 0.8 * math.pi))),
    "saturation": ({"n_saturation": 1.0}, lambda x: x.mean(0) + 2 * (x - x.mean(0))),
}


@pytest.mark.parametrize("name", COLOURS)
def test_colours_one_by_one(name: str) -> None:
    values, expected = COLOURS[name]
    x = seeded(2, 3, 4, 5)
    result = ada.ada(x, *ada_draws(name, n_images=2, **values), HALF)
    assert_close(result, torch.stack([expected(image) for image in x]))


def test_colours_follow_each_other_in_the_papers_order() -> None:
    x = seeded(1, 3, 4, 5)
    values = {key: value for draws, _ in COLOURS.values() for key, value in draws.items()}
    result = ada.ada(x, *ada_draws(*COLOURS, **values), HALF)
    expected = x[0]
    for _, function in COLOURS.values():
        expected = function(expected)
    assert_close(result[0], expected)


def test_luma_flip_drawn_below_a_half_changes_nothing() -> None:
    x = seeded(1, 3, 4, 5)
    assert torch.equal(ada.ada(x, *ada_draws("luma_flip", u_luma_flip=0.4), HALF), x)


def test_a_grey_image_is_treated_as_three_equal_channels() -> None:
    x = seeded(8, 1, 8, 8)
    u, n = seeded_draws("ada", 8)
    one = torch.tensor(1.0)
    wide = ada.ada(x.expand(-1, 3, -1, -1), u, n, one)
    assert_close(wide, wide[:, :1].expand_as(wide))
    assert_close(ada.ada(x, u, n, one), wide[:, :1])


# ADA: how often


@pytest.mark.parametrize(
    ("name", "share"),
    [
        *(("flip", 0.15), ("turn", 0.225), ("scale", 0.3), ("stretch", 0.3), ("shift", 0.3)),
        *(
            ("turn_before", 1 - 0.7**0.5),
            ("turn_after", 1 - 0.7**0.5),
            ("brightness", 0.3),
            ("contrast", 0.3),
        ),
        *(("luma_flip", 0.15), ("hue", 0.3), ("saturation", 0.3)),
    ],
)
def test_share_of_samples_that_a_transform_changes(name: str, share: float) -> None:
    u, n = seeded_draws("ada", 40000)
    u[:, [i for i, other in enumerate(SWITCHES) if other != name]] = 0.99
    p = torch.tensor(0.3)
    changed = torch.zeros(len(u), dtype=torch.bool)
    for matrix in (ada.geometry(u, n, p, (8, 8)), ada.colour(u, n, p)):
        changed |= (matrix != torch.eye(matrix.shape[1])).flatten(1).any(1)
    assert abs(changed.double().mean().item() - share) < 4 * (share * (1 - share) / len(u)) ** 0.5


def test_draws_cover_their_ranges_evenly() -> None:
    u, n = seeded_draws("ada", 40000)
    u[:, : len(SWITCHES)] = 0.99
    u[:, SWITCHES.index("jump")] = 0
    moved = ada.geometry(u, n, HALF, (16, 32))
    assert moved[:, 0, 2].unique().tolist() == list(range(-4, 5))
    assert moved[:, 1, 2].unique().tolist() == list(range(-2, 3))
    u[:, SWITCHES.index("jump")], u[:, SWITCHES.index("shift")] = 0.99, 0
    moved = ada.geometry(u, n, HALF, (16, 32))
    assert_close(moved[:, :2, 2].std(0), torch.tensor([4.0, 2.0], dtype=torch.float64), rtol=0.02, atol=0)


# ADA: its strength


@pytest.mark.parametrize(
    ("p", "sign_mean", "expected"),
    [
        (0.5, 0.7, 0.502),
        (0.5, 0.5, 0.498),
        (0.5, 0.6, 0.5),
        (0.001, -1.0, 0.0),
        (0.999, 1.0, 1.0),
        (0.0, 0.61, 0.002),
    ],
)
def test_next_p(p: float, sign_mean: float, expected: float) -> None:
    result = next_p(one(p)[0], one(sign_mean)[0], target=0.6, images=1000, kimg=500)
    assert_close(result, one(expected)[0])


def test_p_rises_from_0_to_1_in_kimg_thousand_images() -> None:
    p = torch.tensor(0.0, dtype=torch.float64)
    for _ in range(500):
        p = next_p(p, torch.tensor(1.0), target=0.6, images=4 * 64, kimg=128)
    assert_close(p.item(), 1.0)


def test_next_p_refuses_a_rise_over_no_images() -> None:
    with pytest.raises(ValueError, match="positive number of thousand images.*not 0"):
        next_p(torch.tensor(0.0), torch.tensor(1.0), target=0.6, images=4, kimg=0)


# DiffAugment


def test_color_sample_by_sample() -> None:
    x = seeded(4, 3, 5, 6)
    u, n = seeded_draws("color", 4)
    expected = []
    for image, (b, s, c) in zip(x, u.tolist(), strict=True):
        image = image + b - 0.5
        image = image.mean(0) + 2 * s * (image - image.mean(0))
        expected.append(image.mean() + (c + 0.5) * (image - image.mean()))
    assert_close(apply("color", x, u, n), torch.stack(expected))


@pytest.mark.parametrize("size", [(16, 16), (12, 24), (9, 7)])
def test_translation_sample_by_sample(size: tuple[int, int]) -> None:
    x = seeded(32, 2, *size)
    u, n = seeded_draws("translation", 32)
    expected = torch.zeros_like(x)
    for sample, (ux, uy) in enumerate(u.tolist()):
        most_x, most_y = round(size[1] / 8), round(size[0] / 8)
        right, down = int(ux * (2 * most_x + 1)) - most_x, int(uy * (2 * most_y + 1)) - most_y
        for row in range(max(0, down), min(size[0], size[0] + down)):
            for column in range(max(0, right), min(size[1], size[1] + right)):
                expected[sample, :, row, column] = x[sample, :, row - down, column - right]
    assert torch.equal(apply("translation", x, u, n), expected)


def test_translation_reaches_an_eighth_to_every_side() -> None:
    x = torch.zeros(2, 1, 16, 16)
    x[:, :, 8, 8] = 1
    u = torch.tensor([[0.0, 1 - 2**-24], [1 - 2**-24, 0.0]])
    result = apply("translation", x, u, torch.zeros(2, 0))
    assert result.nonzero().tolist() == [[0, 0, 10, 6], [1, 0, 6, 10]]


@pytest.mark.parametrize(
    ("size", "patch"), [((8, 8), (4, 4)), ((7, 7), (4, 4)), ((6, 10), (3, 5)), ((5, 5), (3, 3))]
)
def test_cutout(size: tuple[int, int], patch: tuple[int, int]) -> None:
    u, n = seeded_draws("cutout", 4000)
    kept = apply("cutout", torch.ones(4000, 2, *size, dtype=torch.float64), u, n)
    assert set(kept.unique().tolist()) == {0.0, 1.0} and torch.equal(kept[:, 0], kept[:, 1])
    cut = kept[:, 0] == 0
    areas = cut.flatten(1).sum(1)
    assert areas.max() == patch[0] * patch[1]  # where the patch lies inside
    rows, columns = cut.any(2).sum(1), cut.any(1).sum(1)
    assert torch.equal(rows * columns, areas)  # a rectangle
    assert rows.max() == patch[0] and columns.max() == patch[1]
    # no side is favoured
    assert_close(cut.double().mean(0), cut.double().mean(0).flip(0, 1), rtol=0, atol=0.05)


def test_cutout_by_hand() -> None:
    x = torch.ones(3, 1, 4, 4)  # patches of 2 x 2 around one of 5 x 5 corners
    result = apply("cutout", x, torch.tensor([[0.0, 0.0], [0.5, 0.3], [0.9, 0.5]]), torch.zeros(3, 0))
    expected = torch.ones_like(x)
    expected[0, :, :1, :1] = 0
    expected[1, :, 0:2, 1:3] = 0
    expected[2, :, 1:3, 3:] = 0
    assert torch.equal(result, expected)


# ADA's pipes


def test_the_colours_of_r3gans_pipe_change_half_as_often() -> None:
    """A draw of .4 is below p = .5, and not below a half of it; geometry is as ever."""
    x, (u, n) = seeded(4, 3, 8, 8), seeded_draws("ada", 4)
    u[:, : len(SWITCHES)] = torch.tensor([0.4, 0.4, 0.2, 0.9])[:, None]
    for name in ("flip", "turn", "jump"):
        u[:2, SWITCHES.index(name)] = 0.9
    for name in GROUPS["geom"]:
        u[:, SWITCHES.index(name)] = 0.9
    found = pipe_rows("r3gan")["ada"].fn(x, u, n, HALF)
    assert torch.equal(found[[0, 1, 3]], x[[0, 1, 3]])
    assert torch.equal(found[2], ada.ada(x, u, n, HALF)[2]) and not torch.equal(found[2], x[2])


def test_pipes_have_the_papers_names_and_order() -> None:
    kinds = ("blit", "geom", "color", "filter", "noise", "cutout")
    assert {name: PIPES[name] for name in kinds} == {name: (name,) for name in kinds}
    letters = {"bg": 2, "bgc": 3, "bgcf": 4, "bgcfn": 5, "bgcfnc": 6}
    assert {name: PIPES[name] for name in letters} == {name: kinds[:n] for name, n in letters.items()}
    assert len(PIPES) == 12 and PIPES["r3gan"] == (*GROUPS, "cutout")
    assert list(pipe_rows("r3gan")) == ["ada", "ada-cutout"]
    assert list(pipe_rows("bgcfnc")) == ["ada", "ada-filter", "ada-noise", "ada-cutout"]
    assert list(pipe_rows("filter")) == ["ada-filter"] and list(pipe_rows("geom")) == ["ada"]


@pytest.mark.parametrize("pipe", ["blit", "geom", "color", "bg", "bgc"])
def test_a_pipe_is_the_whole_with_the_others_switched_off(pipe: str) -> None:
    x = seeded(16, 3, 8, 12)
    u, n = seeded_draws("ada", 16)
    given = u.clone()
    found = pipe_rows(pipe)["ada"].fn(x, u, n, HALF)
    assert torch.equal(u, given)
    for group in GROUPS.keys() - set(PIPES[pipe]):
        for name in GROUPS[group]:
            u[:, SWITCHES.index(name)] = 0.9
    assert torch.equal(found, ada.ada(x, u, n, HALF)) and not torch.equal(found, x)
    # whatever p, even 1
    always = pipe_rows(pipe)["ada"].fn(x, *seeded_draws("ada", 16), torch.tensor(1.0))
    if pipe == "blit":
        assert all(torch.isin(image, of).all() for image, of in zip(always, x, strict=True))
    if pipe == "color":
        assert_close(
            always[:, :, 0, 0], ada.recolour(x, ada.colour(*seeded_draws("ada", 16), 1.0))[:, :, 0, 0]
        )


@pytest.mark.parametrize("name", ["ada-filter", "ada-noise", "ada-cutout"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_corruptions_at_p_0_are_the_identity_to_the_last_bit(name: str, dtype: torch.dtype) -> None:
    """On the CPU at once; and by the full way where a draw lies at p, as it does elsewhere."""
    x = seeded(3, 4, 9, 6).to(dtype)
    x[:, 0, 0, 0] = -0.0
    u, n = draws_for(name, x)
    for p, switches in ((torch.tensor(0.0), 0.0), (HALF, 0.5)):
        u[:, : 4 if name == "ada-filter" else 1] = switches
        result = apply(name, x, u, n, p)
        assert torch.equal(result, x) and torch.equal(result.signbit(), x.signbit())
        if name != "ada-noise":
            assert result.dtype == dtype


def response(taps: tuple[float, ...], at: Tensor) -> Tensor:
    """Of a symmetric filter at angular frequencies."""
    middle = len(taps) // 2
    return sum(tap * (at * (i - middle)).cos() for i, tap in enumerate(taps))


def test_bands_are_octaves_of_sym2() -> None:
    """|H|^2 / 2 of sym2 is cos^4(w/2) (1 + 2 sin^2(w/2)): its product over octaves, and what each leaves."""
    at = torch.linspace(0, math.pi, 201, dtype=torch.float64)

    def low(w: Tensor) -> Tensor:
        return (w / 2).cos() ** 4 * (1 + 2 * (w / 2).sin() ** 2)

    expected = [
        low(at) * low(2 * at) * low(4 * at),
        low(at) * low(2 * at) * (1 - low(4 * at)),
        low(at) * (1 - low(2 * at)),
        1 - low(at),
    ]
    assert [len(band) for band in corruption.BANDS] == [43] * 4
    for band, wanted in zip(corruption.BANDS, expected, strict=True):
        assert band == band[::-1]
        assert_close(response(band, at), wanted, rtol=0, atol=1e-14)
    assert sum(map(sum, corruption.BANDS)) == pytest.approx(1)


def filtered_by_hand(image: Tensor, u: list[float], n: list[float], p: float) -> Tensor:
    """One image (C, H, W), written from the paper: gains, one filter, two passes over a mirrored image."""
    power, gain = [10 / 13, 1 / 13, 1 / 13, 1 / 13], [1.0] * 4
    for band in range(4):
        own = [1.0] * 4
        if u[band] < p:
            own[band] = 2 ** n[band]
        norm = math.sqrt(sum(w * g * g for w, g in zip(power, own, strict=True)))
        gain = [g * o / norm for g, o in zip(gain, own, strict=True)]
    taps = [sum(g * band[i] for g, band in zip(gain, corruption.BANDS, strict=True)) for i in range(43)]

    def at(i: int, size: int) -> int:
        while not 0 <= i < size:
            i = -i if i < 0 else 2 * (size - 1) - i
            if size == 1:
                return 0
        return i

    for axis in (1, 2):
        size = image.shape[axis]
        slices = image.unbind(axis)
        image = torch.stack(
            [sum(taps[k] * slices[at(i + k - 21, size)] for k in range(43)) for i in range(size)], axis
        )
    return image


@pytest.mark.parametrize("size", [(12, 12), (7, 30), (1, 5)])
@pytest.mark.parametrize("channels", [1, 4])
def test_filter_sample_by_sample(size: tuple[int, int], channels: int) -> None:
    x = seeded(6, channels, *size)
    u, n = seeded_draws("ada-filter", 6)
    expected = [
        filtered_by_hand(image, a, b, 0.5) for image, a, b in zip(x, u.tolist(), n.tolist(), strict=True)
    ]
    assert (u < 0.5).any() and not (u < 0.5).all()
    assert_close(apply("ada-filter", x, u, n), torch.stack(expected), rtol=0, atol=1e-12)


def test_filter_scales_what_has_one_frequency() -> None:
    """A constant image by the gain of the lowest band: 1 / sqrt((10 + 3 * 4) / 13), the others doubled, and so on."""
    x = torch.full((2, 1, 6, 6), 3.0, dtype=torch.float64)
    u = torch.tensor([[0.9, 0.9, 0.9, 0.1], [0.1, 0.9, 0.9, 0.9]], dtype=torch.float64)
    n = torch.ones(2, 4, dtype=torch.float64)
    found = apply("ada-filter", x, u, n)
    power = torch.tensor([(12 + 4) / 13, (40 + 3) / 13], dtype=torch.float64)
    gain = torch.tensor([1.0, 2.0], dtype=torch.float64) / power.sqrt()
    assert_close(found, x * gain.square()[:, None, None, None])  # along both axes


def test_noise_sample_by_sample() -> None:
    x = seeded(5, 2, 3, 4)
    u, n = draws_for("ada-noise", x)
    u[0], u[1] = 0.4, 0.6
    expected = []
    for image, (switch,), draws in zip(x, u.tolist(), n.tolist(), strict=True):
        field = torch.tensor(draws[1:], dtype=torch.float64).view(2, 3, 4)
        expected.append(image + 0.1 * abs(draws[0]) * field if switch < 0.5 else image)
    assert torch.equal(apply("ada-noise", x, u, n)[1], x[1])
    assert_close(apply("ada-noise", x, u, n), torch.stack(expected))


@pytest.mark.parametrize("size", [(8, 8), (5, 12)])
def test_cutout_of_ada_sample_by_sample(size: tuple[int, int]) -> None:
    x = seeded(40, 2, *size)
    u, n = seeded_draws("ada-cutout", 40)
    expected = x.clone()
    for image, (switch, across, down) in zip(expected, u.tolist(), strict=True):
        for i in range(size[0]):
            for j in range(size[1]):
                near = abs((i + 0.5) / size[0] - down) < 0.25 and abs((j + 0.5) / size[1] - across) < 0.25
                if switch < 0.5 and near:
                    image[:, i, j] = 0
    found = apply("ada-cutout", x, u, n)
    assert torch.equal(found, expected) and 0 < (found == 0).double().mean() < 0.25


# All of them


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("size", [(8, 8), (5, 9), (4, 4), (3, 1)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shape_and_purity(name: str, size: tuple[int, int], channels: int) -> None:
    x = seeded(5, channels, *size)
    u, n = draws_for(name, x)
    given = [t.clone() for t in (x, u, n)]
    result = apply(name, x, u, n)
    assert result.shape == x.shape and result.isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip((x, u, n), given, strict=True))
    assert torch.equal(result, apply(name, x, u, n))


@pytest.mark.parametrize("name", ROWS)
def test_samples_do_not_see_each_other(name: str) -> None:
    x = seeded(6, 3, 8, 8)
    u, n = draws_for(name, x)
    result = apply(name, x, u, n)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(apply(name, x[order], u[order], n[order]), result[order])
    others = torch.cat([seeded(5, 3, 8, 8, seed=7), x[5:]])
    other_u, other_n = draws_for(name, x, seed=9)
    other_u[5], other_n[5] = u[5], n[5]
    assert torch.equal(apply(name, others, other_u, other_n)[5], result[5])
    assert_close(apply(name, x[4:], u[4:], n[4:]), result[4:], rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_of_two_orders(name: str, channels: int) -> None:
    x = seeded(2, channels, 4, 3).requires_grad_()
    u, n = draws_for(name, x)

    def bent(x: Tensor) -> Tensor:
        """Curved, so that the second derivative does not vanish."""
        return apply(name, x.sin(), u, n).square()

    assert torch.autograd.gradcheck(bent, x)
    assert torch.autograd.gradgradcheck(bent, x, fast_mode=True)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_computes_in_full(name: str, dtype: torch.dtype, autocast: bool) -> None:
    x = seeded(16, 3, 8, 12).to(dtype)
    u, n = (t.float() for t in draws_for(name, x))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = apply(name, x, u, n, torch.tensor(0.8))
    assert result.dtype == dtype and result.isfinite().all()
    expected = apply(name, x.double(), u, n, torch.tensor(0.8)).to(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    assert_close(result, expected, rtol=tolerance, atol=tolerance)


def test_draws_that_rounding_took_to_1_stay_in_range() -> None:
    x = seeded(2, 3, 8, 8)
    below, nothing = torch.full((2, 2), 1 - 1e-9, dtype=torch.float64), torch.zeros(2, 0)
    for name in ("translation", "cutout"):
        assert torch.equal(apply(name, x, below.bfloat16(), nothing), apply(name, x, below, nothing))
    assert torch.equal(ada.ada(x, *ada_draws("flip", n_images=2, u_flip=1), HALF), x.flip(3))
    assert torch.equal(ada.ada(x, *ada_draws("turn", n_images=2, u_turn=1), HALF), x)
    dark = ada.ada(x, *ada_draws("luma_flip", n_images=2, u_luma_flip=1), HALF)
    assert_close(dark, x - 2 * x.mean(1, keepdim=True))


@pytest.mark.parametrize("name", ROWS)
def test_memory_format_and_device(name: str) -> None:
    x = seeded(4, 3, 8, 8)
    u, n = draws_for(name, x)
    assert_close(apply(name, x.to(memory_format=torch.channels_last), u, n), apply(name, x, u, n))
    meta = apply(name, *(t.to("meta") for t in (x, u, n, HALF)))
    assert meta.shape == x.shape and meta.is_meta


@pytest.mark.parametrize("name", ROWS)
def test_draws_that_do_not_fit_are_refused(name: str) -> None:
    x = seeded(4, 3, 8, 8)
    u, n = draws_for(name, x)
    more = u.shape[1] + 1
    with pytest.raises(ValueError, match=rf"\(4, 3, 8, 8\).*\(4, {u.shape[1]}\).*not \(4, {more}\)"):
        apply(name, x, torch.rand(4, more), n)
    with pytest.raises(ValueError, match=r"not .* and \(3, "):
        apply(name, x, u, n[:3])
    with pytest.raises(ValueError, match=r"\(N, C, H, W\) of floats.*\(3, 8, 8\)"):
        apply(name, x[0], u, n)
    with pytest.raises(ValueError, match=r"torch.uint8"):
        apply(name, x.byte(), u, n)


def test_images_without_colours_keep_theirs() -> None:
    """Two, four or five channels are moved as one, and not recoloured."""
    x = seeded(8, 5, 8, 12)
    u, n = seeded_draws("ada", 8)
    moved = ada.ada(x, u, n, HALF)
    assert torch.equal(moved, ada.ada(x, u, n, HALF, ("blit", "geom"))) and not torch.equal(moved, x)
    for channels in (2, 4):
        assert torch.equal(ada.ada(x[:, :channels], u, n, HALF), moved[:, :channels])
    three = ada.ada(x[:, :3], u, n, HALF)
    assert not torch.equal(three, moved[:, :3])  # colours


@pytest.mark.gpu
@pytest.mark.parametrize("name", ROWS)
def test_the_same_on_a_gpu(name: str) -> None:
    x = seeded(8, 3, 16, 12).requires_grad_()
    u, n = draws_for(name, x)
    results = []
    for device in ("cpu", "cuda"):
        value = apply(name, *(t.to(device) for t in (x, u, n, HALF)))
        (first,) = torch.autograd.grad(value.pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        results.append([t.detach().cpu() for t in (value, first, second)])
    assert_close(*results)
