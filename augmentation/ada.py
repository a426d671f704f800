"""Adaptive discriminator augmentation: the pipeline of pixel blits, geometry and colour. arXiv:2006.06676 appendix B.

A sample's geometric transforms become one inverse matrix and are carried out at once: 2x upsampling by the wavelet
sym6, bilinear look-up, 2x downsampling. Deviations from the paper: where a sample's matrix moves whole pixels only
(flip, quarter turn, whole shift) they are copied without filtering; the image is reflected without end, instead of as
far as its own size; the phase of sym6, which is not quite symmetric, is accounted for.
"""

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from augmentation.draws import check_draws, take
from ops.precision import upcast, without_autocast
from ops.upfirdn2d import upfirdn2d

# Columns of u: whether each transform is applied, then what is drawn evenly; columns of n: what is drawn normally.
GROUPS = {
    "blit": ("flip", "turn", "jump"),
    "geom": ("scale", "turn_before", "stretch", "turn_after", "shift"),
    "color": ("brightness", "contrast", "luma_flip", "hue", "saturation"),
}
SWITCHES = tuple(name for names in GROUPS.values() for name in names)
UNIFORM = ("flip", "turn", "jump_x", "jump_y", "turn_before", "turn_after", "luma_flip", "hue")
NORMAL = ("scale", "stretch", "shift_x", "shift_y", "brightness", "contrast", "saturation")
N_UNIFORM, N_NORMAL = len(SWITCHES) + len(UNIFORM), len(NORMAL)

COLOURED = (1, 3)  # numbers of channels that are colours
MAX_JUMP = 0.125  # of the image's width and height
SHIFT_STD = 0.125  # likewise
SCALE_STD, STRETCH_STD, CONTRAST_STD, SATURATION_STD = 0.2, 0.2, 0.5, 1.0  # in powers of two
BRIGHTNESS_STD = 0.2  # images span [-1, 1]

# The wavelet of 12 taps, 6 vanishing moments and the least asymmetry (Daubechies, Ten Lectures, table 6.3), sum 1.
SYM6 = (
    *(0.01089235016329234, 0.002468306185923317, -0.08343160770607298, -0.03416156079328599),
    *(0.3472289864792177, 0.5569463919628689, 0.2389521856664346, -0.05136248493083922),
    *(-0.01489187564926969, 0.03162528133002174, 0.001249961046397922, -0.00551593375468875),
)
_CENTRE = sum(i * tap for i, tap in enumerate(SYM6))
_REACH = len(SYM6) // 4  # pixels that the filter looks out of an image
_APRON = 6  # mirrored pixels around the image that are upsampled with it


# Matrices: (N, 3, 3) act on (x, y, 1) in pixels, (N, 4, 4) on (r, g, b, 1)


def compose(*matrices: Tensor) -> Tensor:
    """Product of matrices (N, k, k), the last one acts first; not matmul, which TF32 would round to 10 bits."""
    product = matrices[0]
    for matrix in matrices[1:]:
        product = (product[:, :, :, None] * matrix[:, None]).sum(2)
    return product


def _matrix(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    """(N, k, k) of entries (N,) or numbers."""
    entries = [e if isinstance(e, Tensor) else torch.full_like(like, e) for row in rows for e in row]
    return torch.stack(entries, 1).unflatten(1, (len(rows), len(rows[0])))


def translate(tx: Tensor, ty: Tensor) -> Tensor:
    """Shift by (tx, ty) pixels; tx, ty (N,)."""
    return _matrix([[1.0, 0.0, tx], [0.0, 1.0, ty], [0.0, 0.0, 1.0]], tx)


def scale(sx: Tensor, sy: Tensor) -> Tensor:
    """Scale about the origin; sx, sy (N,)."""
    return _matrix([[sx, 0.0, 0.0], [0.0, sy, 0.0], [0.0, 0.0, 1.0]], sx)


def rotate(cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate about the origin, x towards y for a positive sine; cos, sin (N,)."""
    return _matrix([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]], cos)


def quarter_turns(i: Tensor) -> Tensor:
    """Rotate by i (N,) quarters, x towards y, with entries of exactly -1, 0 and 1."""
    cos = (i == 0).to(i.dtype) - (i == 2).to(i.dtype)
    sin = (i == 1).to(i.dtype) - (i == 3).to(i.dtype)
    return rotate(cos, sin)


def _about_luma(along: Tensor, across: Tensor, turn: Tensor) -> Tensor:
    """along v v^T + across (I - v v^T) + turn [v]x as (N, 4, 4), v = (1, 1, 1) / sqrt(3) the axis of grey; all (N,).

    Written across I + (along - across) v v^T + turn [v]x: with 1, 1, 0 it is the identity to the last bit.
    """
    luma, turn = (along - across) / 3, turn / math.sqrt(3)
    rows: list[list[Tensor | float]] = [
        [across + luma, luma - turn, luma + turn, 0.0],
        [luma + turn, across + luma, luma - turn, 0.0],
        [luma - turn, luma + turn, across + luma, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
    return _matrix(rows, along)


def brighten(b: Tensor) -> Tensor:
    """Add b (N,) to every channel."""
    return _matrix([[1.0, 0.0, 0.0, b], [0.0, 1.0, 0.0, b], [0.0, 0.0, 1.0, b], [0.0, 0.0, 0.0, 1.0]], b)


def contrast(c: Tensor) -> Tensor:
    """Scale every channel by c (N,)."""
    return _about_luma(c, c, torch.zeros_like(c))


def luma_flip(i: Tensor) -> Tensor:
    """Turn light into dark and keep the hue, I - 2 i v v^T; i (N,) is 0 or 1."""
    return _about_luma(1 - 2 * i, torch.ones_like(i), torch.zeros_like(i))


def rotate_hue(theta: Tensor) -> Tensor:
    """Rotate the hue by theta (N,) about the axis of grey, red towards green; Rodrigues' formula."""
    return _about_luma(torch.ones_like(theta), theta.cos(), theta.sin())


def saturate(s: Tensor) -> Tensor:
    """Scale what differs from grey by s (N,)."""
    return _about_luma(torch.ones_like(s), s, torch.zeros_like(s))


# From draws to one matrix a sample


def name_draws(u: Tensor, n: Tensor, p: Tensor | float) -> tuple[Callable[..., Tensor], dict[str, Tensor]]:
    """(applied(name, value, neutral, p): value where the draw switches the transform on; the draws by name)."""
    switches = dict(zip(SWITCHES, u[:, : len(SWITCHES)].unbind(1), strict=True))
    names = [f"u_{name}" for name in UNIFORM] + [f"n_{name}" for name in NORMAL]
    draws = dict(zip(names, [*u[:, len(SWITCHES) :].unbind(1), *n.unbind(1)], strict=True))

    def applied(name: str, value: Tensor, neutral: float, p: Tensor | float = p) -> Tensor:
        return torch.where(switches[name] < p, value, neutral)

    return applied, draws


def geometry(u: Tensor, n: Tensor, p: Tensor | float, size: tuple[int, int]) -> Tensor:
    """Inverse matrices (N, 3, 3), pixel (x, y) of the result -> where to look in the image of size (H, W).

    Transforms are drawn as in the paper, in its order, about the image's centre.
    """
    applied, draws = name_draws(u, n, p)
    height, width = size
    p_turn = 1 - (1 - p) ** 0.5  # two turns, of which at least one is applied with probability p

    def inverse_turn(name: str) -> Tensor:
        theta = applied(name, (2 * draws[f"u_{name}"] - 1) * math.pi, 0.0, p_turn)
        return rotate(theta.cos(), theta.sin())

    flip = applied("flip", torch.where(draws["u_flip"] < 0.5, 1.0, -1.0).to(u), 1.0)
    jump_x = applied("jump", ((2 * draws["u_jump_x"] - 1) * MAX_JUMP * width).round(), 0.0)
    jump_y = applied("jump", ((2 * draws["u_jump_y"] - 1) * MAX_JUMP * height).round(), 0.0)
    size_up = applied("scale", (SCALE_STD * draws["n_scale"]).exp2(), 1.0)
    stretch = applied("stretch", (STRETCH_STD * draws["n_stretch"]).exp2(), 1.0)
    shift_x = applied("shift", SHIFT_STD * width * draws["n_shift_x"], 0.0)
    shift_y = applied("shift", SHIFT_STD * height * draws["n_shift_y"], 0.0)
    middle_x = torch.full_like(flip, (width - 1) / 2)
    middle_y = torch.full_like(flip, (height - 1) / 2)
    return compose(
        translate(middle_x, middle_y),
        scale(flip, torch.ones_like(flip)),
        quarter_turns(applied("turn", (4 * draws["u_turn"]).floor().remainder(4), 0.0)),
        translate(-jump_x, -jump_y),
        scale(1 / size_up, 1 / size_up),
        inverse_turn("turn_before"),
        scale(1 / stretch, stretch),
        inverse_turn("turn_after"),
        translate(-shift_x, -shift_y),
        translate(-middle_x, -middle_y),
    )


def colour(u: Tensor, n: Tensor, p: Tensor | float) -> Tensor:
    """Matrices (N, 4, 4) of the colour transforms, drawn as in the paper; brightness acts first."""
    applied, draws = name_draws(u, n, p)
    return compose(
        saturate(applied("saturation", (SATURATION_STD * draws["n_saturation"]).exp2(), 1.0)),
        rotate_hue(applied("hue", (2 * draws["u_hue"] - 1) * math.pi, 0.0)),
        luma_flip(applied("luma_flip", (draws["u_luma_flip"] >= 0.5).to(u), 0.0)),
        contrast(applied("contrast", (CONTRAST_STD * draws["n_contrast"]).exp2(), 1.0)),
        brighten(applied("brightness", BRIGHTNESS_STD * draws["n_brightness"], 0.0)),
    )


# From matrices to images


def reflect(i: Tensor, size: int) -> Tensor:
    """Positions brought into [0, size - 1] by mirrors at the first and the last pixel's centre, without end."""
    period = max(2 * (size - 1), 1)
    i = i.remainder(period)
    return torch.minimum(i, period - i)


def bring_in(i: Tensor, size: int) -> Tensor:
    """Positions as they are on the image and its apron of mirrored pixels, reflected into the image elsewhere."""
    middle = (size - 1) / 2
    return torch.where((i - middle).abs() <= middle + _APRON, i, reflect(i, size))


def look_up(inverse: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(x, y), each (N, H, W): where `inverse` (N, 3, 3) sends the pixels of a result of `size`."""
    ys = torch.arange(size[0], device=inverse.device, dtype=inverse.dtype)[:, None]
    xs = torch.arange(size[1], device=inverse.device, dtype=inverse.dtype)
    x, y, _ = (
        m[:, 0, None, None] * xs + m[:, 1, None, None] * ys + m[:, 2, None, None] for m in inverse.unbind(1)
    )
    return x, y


def blit(x: Tensor, inverse: Tensor) -> Tensor:
    """Copy the pixels nearest to where `inverse` looks: exact where it sends whole pixels to whole pixels."""
    height, width = x.shape[2:]
    px, py = (position.round().long() for position in look_up(inverse, (height, width)))
    return take(x, reflect(py, height) * width + reflect(px, width))


def bilinear(x: Tensor, px: Tensor, py: Tensor) -> Tensor:
    """Values of x (N, C, H, W) at positions px, py (N, H', W') in pixels, with 0 <= px < W - 1, 0 <= py < H - 1."""
    left, top = px.floor(), py.floor()
    width = x.shape[3]
    index = top.long() * width + left.long()
    along, down = (px - left)[:, None], (py - top)[:, None]
    upper = torch.lerp(take(x, index), take(x, index + 1), along)
    lower = torch.lerp(take(x, index + width), take(x, index + width + 1), along)
    return torch.lerp(upper, lower, down)


def resample(x: Tensor, inverse: Tensor) -> Tensor:
    """Carry out `inverse` (N, 3, 3) on x (N, C, H, W) between 2x up- and downsampling by sym6.

    Upsampled, pixel i lies at 2 i + origin; downsampling puts what lies at 2 i + _CENTRE into pixel i. With these the
    identity gives x back (the wavelet is orthogonal), and a ramp stays a ramp under every affine map.
    """
    height, width = x.shape[2:]
    margin = _APRON + _REACH
    rows, columns = (reflect(torch.arange(-margin, s + margin, device=x.device), s) for s in (height, width))
    double = tuple(2 * tap for tap in SYM6)
    fine = upfirdn2d(x.index_select(2, rows).index_select(3, columns), double, double, up=2)
    origin = 2 * margin + _CENTRE - (len(SYM6) - 1)
    half, centre = torch.full_like(inverse[:, 0, 0], 0.5), torch.full_like(inverse[:, 0, 0], -_CENTRE)
    on_fine = compose(inverse, scale(half, half), translate(centre, centre))
    reach = len(SYM6) - 2
    px, py = look_up(on_fine, (2 * height + reach, 2 * width + reach))
    moved = bilinear(fine, 2 * bring_in(px, width) + origin, 2 * bring_in(py, height) + origin)
    return upfirdn2d(moved, SYM6[::-1], SYM6[::-1], down=2)


def transform(x: Tensor, inverse: Tensor) -> Tensor:
    """x (N, C, H, W) under inverse matrices (N, 3, 3); matrices of whole numbers copy pixels, the identity all."""
    inverse = inverse.to(x.dtype)
    whole = (inverse == inverse.round()).all(2).all(1)[:, None, None, None]
    return torch.where(whole, blit(x, inverse), resample(x, inverse))


def recolour(x: Tensor, matrix: Tensor) -> Tensor:
    """x (N, C, H, W), C 3 or 1, under colour matrices (N, 4, 4); a grey image is taken as three equal channels."""
    matrix = matrix.to(x.dtype)[:, :3]
    if x.shape[1] == 1:
        matrix = torch.stack([matrix[:, :, :3].sum(2), matrix[:, :, 3]], 2).mean(1, keepdim=True)
    columns = matrix[:, :, :, None, None].unbind(2)  # C + 1 of (N, C, 1, 1)
    result = columns[-1] + sum(x[:, i : i + 1] * column for i, column in enumerate(columns[:-1]))
    neutral = torch.eye(*matrix.shape[1:], device=x.device, dtype=x.dtype)
    unchanged = (matrix == neutral).all(2).all(1)[:, None, None, None]
    return torch.where(unchanged, x, result)


# The augmentation and its strength


def ada(
    x: Tensor,
    u: Tensor,
    n: Tensor,
    p: Tensor,
    groups: Collection[str] = tuple(GROUPS),
    colour_share: float = 1.0,
) -> Tensor:
    """x (N, C, H, W), each transform of the groups applied with probability p (); in x's dtype, computed in full
    precision; colours with colour_share of p.

    u (N, N_UNIFORM) even in [0, 1), n (N, N_NORMAL) normal, one row a sample. Samples to which nothing happens come
    back to the last bit. Colours are those of 3 channels, or of 1 taken as three; images of others keep theirs.
    Differentiable in x to any order. ValueError for other shapes.
    """
    check_draws(x, u, n, N_UNIFORM, N_NORMAL)
    if x.device.type == "cpu" and not p > 0:  # elsewhere the question would wait for the device
        return x
    u, n = upcast(u), upcast(n)
    for group, names in GROUPS.items():
        if group not in groups:
            u = u.clone()
            first = SWITCHES.index(names[0])
            u[:, first : first + len(names)] = 1.0  # never below p
    with without_autocast(x):
        out = upcast(x)
        if {"blit", "geom"} & set(groups):
            out = transform(out, geometry(u, n, p, (x.shape[2], x.shape[3])))
        if "color" in groups and x.shape[1] in COLOURED:
            out = recolour(out, colour(u, n, p * colour_share))
        return out.to(x.dtype)


def next_p(p: Tensor, sign_mean: Tensor, *, target: float, images: int, kimg: float) -> Tensor:
    """p after `images` more reals: up where the mean sign of D(real) lies over the target, else down, in [0, 1].

    From 0 to 1 takes kimg thousand images. ValueError unless kimg is positive. arXiv:2006.06676 section 3.1.
    """
    if not kimg > 0:
        raise ValueError(f"p needs a positive number of thousand images to rise from 0 to 1, not {kimg}")
    return (p + (sign_mean - target).sign() * (images / (kimg * 1000))).clamp(0, 1)
