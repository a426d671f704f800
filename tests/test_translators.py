"""Networks of image to image: published counts, twins in the papers' order of layers, patches, sizes, refusals."""

import inspect
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from errors import UserError
from modelling import own_settings, patchgan, resnet_translator, srgan, unet
from modelling.layers import NORMS
from modelling.resnet_translator import Reflect, reflected_axis
from modelling.sizes import Sides
from ops.spectral_norm import apply_spectral_norm

# Narrow ones, by the names of their modules; G's with the least size that has all of its parts.
GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "unet": lambda **kw: unet.Generator(**{"width": 2, "img_size": 64, "img_channels": 3} | kw),
    "resnet_translator": lambda **kw: resnet_translator.Generator(
        **{"width": 2, "n_blocks": 2, "img_size": 16, "img_channels": 3} | kw
    ),
    "srgan": lambda **kw: srgan.Generator(
        **{"width": 2, "n_blocks": 2, "img_size": 32, "img_channels": 3} | kw
    ),
}
DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {
    "patchgan": lambda **kw: patchgan.Discriminator(
        **{"width": 2, "img_size": 32, "img_channels": 3, "source_channels": 3} | kw
    ),
    "pixelgan": lambda **kw: patchgan.Discriminator(
        **{"width": 2, "img_size": 32, "img_channels": 3, "n_layers": 0} | kw
    ),
    "resnet_translator": lambda **kw: resnet_translator.Discriminator(
        **{"width": 2, "img_size": 32, "img_channels": 3} | kw
    ),
    "srgan": lambda **kw: srgan.Discriminator(**{"width": 2, "img_size": 32, "img_channels": 3} | kw),
}
NETWORKS = {f"G of {name}": make for name, make in GENERATORS.items()} | {
    f"D of {name}": make for name, make in DISCRIMINATORS.items()
}
IMAGE_256 = {"img_size": 256, "img_channels": 3}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def shape_of(img_size: int | tuple[int, int]) -> tuple[int, int]:
    return (img_size, img_size) if isinstance(img_size, int) else img_size


def inputs(net: nn.Module, n: int = 2, **kind: object) -> tuple[Tensor, ...]:
    """What a network is called with."""
    height, width = shape_of(net.img_size)
    if hasattr(net, "sides"):
        return (torch.randn(n, net.source_channels, height // net.factor, width // net.factor, **kind),)
    x = torch.randn(n, net.img_channels, height, width, **kind)
    if not getattr(net, "source_channels", 0):
        return (x,)
    return x, torch.randn(n, net.source_channels, height, width, **kind)


# Published layers


@pytest.mark.parametrize(
    ("network", "settings", "n"),
    [
        (unet.Generator, IMAGE_256, 54_413_955),
        (patchgan.Discriminator, IMAGE_256 | {"source_channels": 3}, 2_768_705),
        (resnet_translator.Generator, IMAGE_256, 11_378_179),
        (resnet_translator.Discriminator, IMAGE_256, 2_764_737),
        (srgan.Generator, IMAGE_256, 1_547_350),
        # By hand: convolutions 1792 + 36992 + 73984 + 147712 + 295424 + 590336 + 1180672 + 2360320, then
        # 512 * 6 * 6 * 1024 + 1024, then 1025.
        (srgan.Discriminator, {"img_size": 96, "img_channels": 3}, 23_563_649),
    ],
)
def test_counts(network: type[nn.Module], settings: dict, n: int) -> None:
    with torch.device("meta"):
        net = network(**settings)
        out = net(*inputs(net))
    assert n_parameters(net) == n
    assert out.shape == ((2, 3, 256, 256) if hasattr(net, "sides") else (2, *out.shape[1:]))


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({"n_layers": 0}, 1),
        ({"n_layers": 1}, 16),
        ({"n_layers": 2}, 34),
        ({"n_layers": 3}, 70),
        ({"n_layers": 4}, 142),
        ({"n_layers": 5}, 286),
        ({"n_layers": 3, "last_kernel": 3}, 54),
        ({"n_layers": 2, "last_kernel": 5}, 42),  # 1 + 4 + 4 = 9, then 2 s + 2 twice
    ],
)
def test_receptive_fields(settings: dict, side: int) -> None:
    """What the centre's logit has a gradient of, and what the property says."""
    D = patchgan.Discriminator(img_size=384, img_channels=1, width=1, norm="none", **settings).double()
    x = torch.randn(1, 1, 384, 384, dtype=torch.float64, requires_grad=True)
    logits = D(x)
    h, w = logits.shape[2:]
    (grad,) = torch.autograd.grad(logits[0, 0, h // 2, w // 2], x)
    seen = grad[0, 0] != 0
    assert [int(seen.any(dim).sum()) for dim in (0, 1)] == [side, side]
    assert D.receptive_field == side
    assert apply_spectral_norm(D).receptive_field == side


def test_maps_of_logits() -> None:
    """30x30 at 256 px, as published; floor(side / 2^n) less one for each kernel of 4 at the end."""
    with torch.device("meta"):
        for img_size, settings, shape in (
            (256, {}, (30, 30)), (256, {"n_layers": 0}, (256, 256)), (256, {"last_kernel": 3}, (32, 32)),
            ((24, 100), {}, (1, 10)), ((17, 50), {"n_layers": 1, "last_kernel": 5}, (8, 25)),
        ):  # fmt: skip
            D = patchgan.Discriminator(img_size=img_size, img_channels=1, width=2, **settings)
            assert D(*inputs(D, 3)).shape == (3, 1, *shape)


def test_channels() -> None:
    """Doubled up to 8 times the width."""
    with torch.device("meta"):
        G, D = unet.Generator(**IMAGE_256), patchgan.Discriminator(**IMAGE_256, n_layers=5)
    assert [down.layer.out_channels for down in G.downs] == [64, 128, 256, *[512] * 5]
    assert [up.layer.out_channels for up in G.ups] == [512, 512, 512, 512, 256, 128, 64]
    assert [up.layer.in_channels for up in G.ups] == [512, 1024, 1024, 1024, 1024, 512, 256]
    assert [block.layer.out_channels for block in D.blocks] == [64, 128, 256, 512, 512, 512]
    assert [block.layer.stride[0] for block in D.blocks] == [2] * 5 + [1]
    assert [hasattr(block, "norm") for block in D.blocks] == [False] + [True] * 5
    pixels = patchgan.Discriminator(**IMAGE_256, n_layers=0)
    assert [tuple(m.weight.shape) for m in pixels.modules() if isinstance(m, nn.Conv2d)] == [
        (64, 3, 1, 1), (128, 64, 1, 1), (1, 128, 1, 1),
    ]  # fmt: skip


# Twins: the same weights in the papers' order of layers


def moved(net: nn.Module) -> nn.Module:
    """In float64, with every parameter away from where it starts, so that each tells."""
    with torch.no_grad():
        for p in net.double().parameters():
            p.add_(0.3 * torch.randn_like(p))
    return net


def batch_normed(x: Tensor, norm: nn.Module) -> Tensor:
    """By the formula, over this batch."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


def instance_normed(x: Tensor) -> Tensor:
    mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt()


def test_unet_of_the_paper() -> None:
    """Activations stand before the layers there, and skips are taken before them."""
    G = moved(
        unet.Generator(img_size=(8, 16), img_channels=2, source_channels=3, depth=3, width=2, norm="batch")
    )
    a = torch.randn(2, 3, 8, 16, dtype=torch.float64)
    (d1, d2, d3), (u3, u2) = G.downs, G.ups
    x1 = F.conv2d(a, d1.layer.weight, None, 2, 1)
    x2 = batch_normed(F.conv2d(F.leaky_relu(x1, 0.2), d2.layer.weight, None, 2, 1), d2.norm)
    x3 = F.conv2d(F.leaky_relu(x2, 0.2), d3.layer.weight, None, 2, 1)
    y2 = batch_normed(F.conv_transpose2d(F.relu(x3), u3.layer.weight, None, 2, 1), u3.norm)
    joined = F.relu(torch.cat([x2, y2], 1))
    y1 = batch_normed(F.conv_transpose2d(joined, u2.layer.weight, None, 2, 1), u2.norm)
    joined = F.relu(torch.cat([x1, y1], 1))
    assert_close(G(a), torch.tanh(F.conv_transpose2d(joined, G.to_image.weight, G.to_image.bias, 2, 1)))


def test_resnet_of_the_paper() -> None:
    G = moved(GENERATORS["resnet_translator"](n_blocks=1, img_size=(8, 12), img_channels=2))
    a = torch.randn(2, 2, 8, 12, dtype=torch.float64)
    c = [m for m in G.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(c) == 8 and all(m.bias is not None for m in c)

    def reflected(x: Tensor, n: int, i: int) -> Tensor:
        return F.conv2d(nn.ReflectionPad2d(n)(x), c[i].weight, c[i].bias)

    h = F.relu(instance_normed(reflected(a, 3, 0)))
    for i in (1, 2):
        h = F.relu(instance_normed(F.conv2d(h, c[i].weight, c[i].bias, 2, 1)))
    h = h + instance_normed(reflected(F.relu(instance_normed(reflected(h, 1, 3))), 1, 4))
    for i in (5, 6):
        h = F.relu(instance_normed(F.conv_transpose2d(h, c[i].weight, c[i].bias, 2, 1, 1)))
    assert_close(G(a), torch.tanh(reflected(h, 3, 7)))


def test_srgan_of_the_paper() -> None:
    G = moved(GENERATORS["srgan"](n_blocks=1, img_size=(12, 20), skip=False))
    a = torch.randn(2, 3, 3, 5, dtype=torch.float64)
    c = [m for m in G.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in G.modules() if isinstance(m, nn.BatchNorm2d)]
    slopes = [m.weight for m in G.modules() if isinstance(m, nn.PReLU)]
    assert [m.bias is None for m in c] == [False, True, True, True, False, False, False]
    assert [m.numel() for m in slopes] == [1] * 4

    def conv(x: Tensor, i: int) -> Tensor:
        return F.conv2d(x, c[i].weight, c[i].bias, padding="same")

    def prelu(x: Tensor, i: int) -> Tensor:
        return torch.where(x > 0, x, slopes[i] * x)

    first = prelu(conv(a, 0), 0)
    h = first + batch_normed(conv(prelu(batch_normed(conv(first, 1), norms[0]), 1), 2), norms[1])
    h = first + batch_normed(conv(h, 3), norms[2])
    for i in (0, 1):
        h = prelu(F.pixel_shuffle(conv(h, 4 + i), 2), 2 + i)
    assert_close(G(a), torch.tanh(conv(h, 6)))


def test_patchgan_of_the_paper() -> None:
    """The source comes first."""
    D = moved(DISCRIMINATORS["patchgan"](n_layers=2, img_size=(14, 12), img_channels=1, norm="batch"))
    x, source = torch.randn(2, 1, 14, 12).double(), torch.randn(2, 3, 14, 12).double()
    first, second, third = D.blocks
    h = F.leaky_relu(F.conv2d(torch.cat([source, x], 1), first.layer.weight, first.layer.bias, 2, 1), 0.2)
    for block, stride in ((second, 2), (third, 1)):
        h = F.leaky_relu(batch_normed(F.conv2d(h, block.layer.weight, None, stride, 1), block.norm), 0.2)
    assert_close(D(x, source), F.conv2d(h, D.to_logits.weight, D.to_logits.bias, 1, 1))


def test_srgan_discriminator_of_the_paper() -> None:
    D = moved(DISCRIMINATORS["srgan"](img_size=(17, 33)))
    h = x = torch.randn(2, 3, 17, 33).double()
    for i, block in enumerate(D.blocks):
        assert block.layer.out_channels == 2 * 2 ** (i // 2)
        h = F.conv2d(h, block.layer.weight, block.layer.bias, 1 + i % 2, 1)
        h = F.leaky_relu(batch_normed(h, block.norm) if i else h, 0.2)
    assert h.shape[2:] == (2, 3)
    h = F.leaky_relu(F.linear(h.flatten(1), D.hidden.layer.weight, D.hidden.layer.bias), 0.2)
    assert h.shape[1] == 32
    assert_close(D(x), F.linear(h, D.to_logit.weight, D.to_logit.bias)[:, 0])


@pytest.mark.parametrize("name", NETWORKS)
def test_initial_weights(name: str) -> None:
    net = NETWORKS[name](width=8)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    drawn = torch.cat([m.weight.flatten() for m in layers])
    assert abs(drawn.std().item() - 0.02) < 0.02 * 4 / len(drawn) ** 0.5
    assert abs(drawn.mean().item()) < 0.02 * 5 / len(drawn) ** 0.5
    assert all(m.bias is None or m.bias.count_nonzero() == 0 for m in layers)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_bias_stands_where_the_norm_has_none(name: str, norm: str) -> None:
    """And in a layer without a norm, but for the first and the innermost of a U-Net, as published."""
    net = NETWORKS[name](norm=norm)
    biases = {n for n, m in net.named_modules() if getattr(m, "bias", None) is not None and "norm" not in n}
    layers = {n for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)}
    kinds = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, type(NORMS["pixel"](1)))
    normed = {n.removesuffix("norm") + "layer" for n, m in net.named_modules() if isinstance(m, kinds)}
    assert normed <= layers and (norm != "none") == bool(normed)
    without = normed if norm in ("batch", "layer", "instance") else set()
    if name == "G of unet" and without:
        without |= {"downs.0.layer", "downs.5.layer"}
    assert biases == layers - without


# Dropout


def test_where_dropout_stands() -> None:
    """In the three blocks up of the most channels after the innermost; fewer halvings have fewer of them."""
    for depth, wanted in ((9, [1, 2, 3]), (8, [1, 2, 3]), (7, [1, 2]), (6, [1]), (5, []), (1, [])):
        with torch.device("meta"):
            G = unet.Generator(img_size=512, img_channels=1, depth=depth, width=1)
        assert [i for i, up in enumerate(G.ups) if hasattr(up, "dropout")] == wanted
        assert all(list(G.ups[i]._modules) == ["layer", "norm", "dropout"] for i in wanted)
    assert not any(isinstance(m, nn.Dropout) for m in GENERATORS["unet"](dropout=0.0).modules())


@pytest.mark.parametrize("sampling", [True, False])
def test_dropout_in_sampling(sampling: bool) -> None:
    G = GENERATORS["unet"](sampling_dropout=sampling, dropout=0.4)
    (a,) = inputs(G)
    dropped = {}
    (layer,) = (m for m in G.modules() if isinstance(m, nn.Dropout))
    layer.register_forward_hook(lambda module, args, out: dropped.update({G.training: (args[0], out)}))
    for training in (True, False):
        G.train(training)
        assert torch.equal(G(a), G(a)) == (not training and not sampling)
    for training in (True, False):
        before, after = dropped[training]
        kept = after != 0
        assert_close(after[kept], before[kept] / (0.6 if training or sampling else 1))
        share = (~kept).double().mean().item()
        assert abs(share - 0.4) < 0.15 if training or sampling else share == 0


# Sizes


def test_sides() -> None:
    """Against all sizes of a neighbourhood."""
    for sides in (Sides(4, 8), Sides(3, 7), Sides(1, 2), Sides(16, 16)):
        takes = [s for s in range(100) if s % sides.multiple == 0 and s >= sides.least]
        for h, w in itertools.product(range(1, 41, 3), (1, 6, 37)):
            assert sides.fits(h, w) == (h in takes and w in takes)
            nearest = tuple(min(takes, key=lambda s, side=side: (abs(s - side), -s)) for side in (h, w))
            assert sides.nearest(h, w) == nearest
    with pytest.raises(AttributeError):
        sides.least = 3


@pytest.mark.parametrize(
    ("name", "img_size", "sides"),
    [
        ("unet", 16, Sides(16, 16)),
        ("unet", (32, 96), Sides(32, 32)),
        ("unet", (96, 64), Sides(32, 32)),
        ("unet", 2, Sides(2, 2)),
        ("unet", 10, Sides(2, 2)),
        ("resnet_translator", 8, Sides(4, 8)),
        ("resnet_translator", (12, 28), Sides(4, 8)),
        ("srgan", 8, Sides(1, 2)),
        ("srgan", (12, 20), Sides(1, 2)),
    ],
)
@pytest.mark.parametrize("channels", [(1, 1), (3, 1), (2, 4)])
def test_shapes(name: str, img_size: int | tuple[int, int], sides: Sides, channels: tuple[int, int]) -> None:
    """At the size, and at another one that it takes."""
    source, made = channels
    if name == "srgan":
        G = GENERATORS[name](width=8, img_size=img_size, img_channels=made, skip=False)
        source = made
    else:
        G = GENERATORS[name](width=8, img_size=img_size, img_channels=made, source_channels=source)
    assert (G.img_size, G.img_channels, G.source_channels, G.sides) == (img_size, made, source, sides)
    (a,) = inputs(G)
    other = torch.randn(1, source, sides.least, 3 * sides.least + sides.multiple)
    height, width = shape_of(img_size)
    assert a.shape == (2, source, height // G.factor, width // G.factor)
    for x in (a, other):
        out = G(x)
        assert out.shape == (len(x), made, G.factor * x.shape[2], G.factor * x.shape[3])
        assert out.abs().max() <= 1 and out.std() > 0


def test_factors() -> None:
    for factor in (2, 4, 8):
        G = GENERATORS["srgan"](factor=factor, img_size=(16, 32))
        assert G.factor == factor and G(torch.zeros(1, 3, 5, 4)).shape == (1, 3, 5 * factor, 4 * factor)
    assert [GENERATORS[name]().factor for name in GENERATORS] == [1, 1, 4]


def test_srgan_begins_as_bicubic_interpolation() -> None:
    """And what it makes is added to that."""
    G = GENERATORS["srgan"](factor=4, img_size=(16, 32))
    a = torch.rand(2, 3, 4, 8)
    large = F.interpolate(a, scale_factor=4, mode="bicubic", align_corners=False)
    with torch.no_grad():
        before = G(a)
        G.to_image.weight.zero_()
        assert_close(G(a), large)
        G.to_image.bias.fill_(0.5)
        assert_close(G(a), large + 0.5)
    assert 0 < (before - large).std() < 0.2 * large.std()


def test_usual_depth() -> None:
    wanted = {256: 8, 512: 8, 2048: 8, 128: 7, 384: 7, 96: 5, 2: 1, 4: 2, 6: 1, (256, 320): 6, (256, 736): 5}
    assert {img_size: unet.usual_depth(img_size) for img_size in wanted} == wanted
    with pytest.raises(UserError):
        unet.usual_depth(1600)  # 25 px at the end
    assert [resnet_translator.usual_blocks(s) for s in (128, 252, 256, 512, (512, 128))] == [6, 6, 9, 9, 6]
    blocks = GENERATORS["resnet_translator"](n_blocks=None).layers
    assert sum(isinstance(m, resnet_translator.ResidualBlock) for m in blocks) == 6


@pytest.mark.parametrize("side", [1, 3, 5, 9, 17, 23, 99, 100, 250, 286, 1600, 2047, 5000])
def test_the_nearest_size_that_a_refusal_names_is_taken(side: int) -> None:
    for img_size in (side, (side, 3 * side + 1)):
        try:
            unet.usual_depth(img_size)
        except UserError as error:
            words = str(error).split("img_size ")[1].split(",")[0].split("x")
            nearest = tuple(map(int, words * 2 if len(words) == 1 else words))
            assert unet.usual_depth(nearest) >= 1
            assert all(
                abs(a - b) <= max(b // 8 + 1, 2) for a, b in zip(nearest, shape_of(img_size), strict=True)
            )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((f"G of {name}", {"img_size": side}) for name, side in (("unet", 2), ("unet", 8), ("srgan", 8))),
        ("G of resnet_translator", {"img_size": 8}),
        ("D of patchgan", {"img_size": 24}),
        ("D of patchgan", {"img_size": 8, "n_layers": 2, "last_kernel": 3}),
        ("D of pixelgan", {"img_size": 2}),
        ("D of srgan", {"img_size": 17}),
    ],
)
def test_every_norm_trains_on_one_image_of_the_least_size(name: str, settings: dict, norm: str) -> None:
    """torch refuses norms over a single number."""
    net = NETWORKS[name](**settings, norm=norm).train()
    out = net(*inputs(net, 1))
    out.sum().backward()
    assert out.isfinite().all() and all(p.grad.isfinite().all() for p in net.parameters())


# Refusals


REFUSALS = {
    "unet size": (
        lambda: unet.Generator(img_size=(100, 90), img_channels=3),
        "unet halves the sides 1 to 8 times, until the shorter is at most 8 px, which 100x90 does not allow: the "
        "nearest is img_size 96, or give g_kwargs depth=",
    ),
    "unet depth": (
        lambda: unet.Generator(img_size=(100, 64), img_channels=3, depth=4),
        "unet of depth 4 takes sides of multiples of 16, from 16 on, not 100x64: the nearest is img_size 96x64",
    ),
    "unet too small": (
        lambda: unet.Generator(img_size=8, img_channels=3, depth=4),
        "unet of depth 4 takes sides of multiples of 16, from 16 on, not 8: the nearest is img_size 16",
    ),
    "resnet size": (
        lambda: resnet_translator.Generator(img_size=(4, 30), img_channels=3),
        "resnet_translator takes sides of multiples of 4, from 8 on, not 4x30: the nearest is img_size 8x32",
    ),
    "srgan size": (
        lambda: srgan.Generator(img_size=50, img_channels=3, factor=4),
        "srgan of factor 4 takes sides of multiples of 4, from 8 on, not 50: the nearest is img_size 52",
    ),
    "srgan factor": (
        lambda: srgan.Generator(img_size=48, img_channels=3, factor=3),
        "unknown factor of srgan 3: choose from 2, 4, 8",
    ),
    "srgan D": (
        lambda: srgan.Discriminator(img_size=(16, 32), img_channels=3),
        "srgan's D takes sides of at least 17 px, not 16x32: give a larger img_size",
    ),
    "patchgan size": (
        lambda: patchgan.Discriminator(img_size=(23, 64), img_channels=3),
        "patchgan of n_layers 3 and last_kernel 4 takes sides of at least 24 px, not 23x64: give a larger img_size or "
        "fewer n_layers",
    ),
    "patchgan kernel": (
        lambda: patchgan.Discriminator(img_size=15, img_channels=3, last_kernel=3),
        "patchgan of n_layers 3 and last_kernel 3 takes sides of at least 16 px, not 15: give a larger img_size or "
        "fewer n_layers",
    ),
    "pixelgan size": (
        lambda: patchgan.Discriminator(img_size=1, img_channels=3, n_layers=0),
        "patchgan of n_layers 0 and last_kernel 4 takes sides of at least 2 px, not 1: give a larger img_size",
    ),
    "choice": (
        lambda: unet.Generator(img_size=8, img_channels=3, sampling_dropout="no"),
        "unknown sampling_dropout 'no': choose from True, False",
    ),
    "dropout": (
        lambda: unet.Generator(img_size=8, img_channels=3, dropout=1.0),
        "dropout 1.0 must be a number, at least 0 and below 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str) -> None:
    make, words = REFUSALS[case]
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == words


@pytest.mark.parametrize("name", NETWORKS)
def test_settings_out_of_range(name: str) -> None:
    """Each whole number among the settings, the norm, and names that are none."""
    make = NETWORKS[name]
    known = inspect.signature(type(make()).__init__).parameters
    wholes = (
        "width",
        "img_channels",
        "source_channels",
        "depth",
        "n_blocks",
        "n_layers",
        "last_kernel",
        "factor",
    )
    for setting in (s for s in wholes if s in known):
        for wrong in (-1, 1.5, "x", True, 10**9 if setting in ("depth", "n_layers", "last_kernel") else -2):
            with pytest.raises(UserError, match=f"^{setting} .* must be a whole number, at least"):
                make(**{setting: wrong})
    with pytest.raises(UserError, match="unknown norm 'batchnorm': choose from none, batch"):
        make(norm="batchnorm")
    with pytest.raises(UserError, match="give one number, or height and width"):
        make(img_size=(8, 8, 8))
    with pytest.raises(TypeError):
        make(widht=3)


@pytest.mark.parametrize("name", GENERATORS)
def test_images_that_do_not_fit_a_generator(name: str) -> None:
    G = GENERATORS[name]()
    (a,) = inputs(G)
    for wrong in (
        a[0],
        a[:, :2],
        a[..., :1],
        torch.cat([a, a[..., :1]], 3) if G.sides.multiple > 1 else a[:, :, :1],
    ):
        with pytest.raises(ValueError) as caught:
            G(wrong)
        assert str(caught.value) == (
            f"G takes images of shape (N, 3, H, W), H and W multiples of {G.sides.multiple}, from {G.sides.least} on, "
            f"not {tuple(wrong.shape)}"
        )


def test_images_that_do_not_fit_a_discriminator() -> None:
    D, alone = DISCRIMINATORS["patchgan"](), DISCRIMINATORS["resnet_translator"]()
    x, source = inputs(D)
    beside = "beside images of shape (2, 3, 32, 32), and was given"
    for call, words in (
        (lambda: D(x), f"D takes a source of shape (2, 3, 32, 32) {beside} none"),
        (lambda: D(x, source[:1]), f"D takes a source of shape (2, 3, 32, 32) {beside} (1, 3, 32, 32)"),
        (lambda: D(x, source[:, :1]), f"D takes a source of shape (2, 3, 32, 32) {beside} (2, 1, 32, 32)"),
        (lambda: alone(x, source), f"D takes no source {beside} (2, 3, 32, 32)"),
        (lambda: alone(x[..., :-1]), "D takes images of shape (N, 3, 32, 32), not (2, 3, 32, 31)"),
        (lambda: DISCRIMINATORS["srgan"]()(x[:, :1]), "D takes images of shape (N, 3, 32, 32), not (2, 1, 32, 32)"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == words


def test_a_game_gives_the_channels_of_the_source() -> None:
    """They are no setting of a network's own."""
    assert list(own_settings(unet.Generator)) == ["depth", "norm", "width", "dropout", "sampling_dropout"]
    assert list(own_settings(patchgan.Discriminator)) == ["n_layers", "norm", "width", "last_kernel"]
    assert list(own_settings(resnet_translator.Generator)) == ["n_blocks", "norm", "width"]
    assert list(own_settings(srgan.Generator)) == ["factor", "n_blocks", "norm", "width", "skip"]


# What any network of the toolkit does


@pytest.mark.parametrize("norm", ["none", "batch", "plain_instance"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_reaches_every_parameter(name: str, norm: str) -> None:
    """But for the biases that a norm of each map takes away again."""
    net = NETWORKS[name](norm=norm, **({"dropout": 0.0} if name == "G of unet" else {}))
    given = inputs(net)
    given[0].requires_grad_()
    net(*given).square().sum().backward()
    assert given[0].grad.abs().sum() > 0
    for key, p in net.named_parameters():
        assert p.grad is not None
        if norm != "plain_instance" or not key.endswith("bias"):
            assert p.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", NETWORKS)
def test_repeat_and_round_trip(name: str) -> None:
    """The same seed makes the same network, and the state says all of it."""
    nets = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        nets.append(NETWORKS[name]())
    first, again, other = nets
    given = inputs(first)

    def out(net: nn.Module) -> Tensor:
        torch.manual_seed(3)  # of dropout
        return net(*given)

    made = out(first)
    assert torch.equal(made, out(again)) and not torch.equal(made, out(other))
    other.load_state_dict(first.state_dict())
    assert torch.equal(out(first.eval()), out(other.eval()))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_second_derivatives(name: str, norm: str) -> None:
    """The gradient of a penalty is what finite differences say."""
    D = moved(DISCRIMINATORS[name](norm=norm))
    x, *source = inputs(D, dtype=torch.float64)
    x.requires_grad_()

    def penalty() -> Tensor:
        (grad,) = torch.autograd.grad(D(x, *source).square().sum(), x, create_graph=True)
        return grad.square().mean()

    weights = next(p for p in D.parameters() if p.dim() == 4)
    (slope,) = torch.autograd.grad(penalty(), weights)
    direction, step = torch.randn_like(weights), 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weights.add_(sign * step * direction)
        values.append(penalty().detach())
        with torch.no_grad():
            weights.sub_(sign * step * direction)
    assert_close((slope * direction).sum(), (values[0] - values[1]) / (2 * step), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_types_and_layouts(name: str) -> None:
    """float64 from the default type on, bfloat16 by autocast, channels_last, the meta device."""
    settings = {"dropout": 0.0} if name == "G of unet" else {}
    net = NETWORKS[name](**settings).eval()
    given = inputs(net)
    out = net(*given)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(net(*given).float(), out, rtol=0.1, atol=0.1)
    net.to(memory_format=torch.channels_last)
    last = [x.contiguous(memory_format=torch.channels_last) for x in given]
    assert_close(net(*last), out)
    torch.set_default_dtype(torch.float64)
    try:
        double = NETWORKS[name](**settings).eval()
        double.load_state_dict(net.state_dict())
        exact = double(*(x.double() for x in given))
    finally:
        torch.set_default_dtype(torch.float32)
    assert exact.dtype == torch.float64
    assert_close(exact.float(), out)
    with torch.device("meta"):
        bare = NETWORKS[name](**settings)
        assert bare(*inputs(bare)).shape == out.shape


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_is_convolutional(name: str) -> None:
    """What lies far away does not tell, and a shift of its input by a multiple shifts its output."""
    settings = {"depth": 2} if name == "unet" else {"n_blocks": 1}
    G = GENERATORS[name](norm="none", img_channels=1, **settings).double().eval()
    a = torch.randn(1, 1, 96, 32, dtype=torch.float64)
    step = 8  # rows of the input
    moved_by = G(a.roll(step, 2))
    inner = slice(G.factor * 40, G.factor * 60)
    assert_close(moved_by[:, :, inner], G(a).roll(G.factor * step, 2)[:, :, inner])
    assert not torch.equal(moved_by, G(a))


def test_mirrored_by_hand() -> None:
    x = torch.arange(4.0).view(1, 1, 1, 4)
    assert reflected_axis(x, 2, 3).flatten().tolist() == [2, 1, 0, 1, 2, 3, 2, 1]


@pytest.mark.parametrize("n", [1, 3])
def test_both_ways_to_mirror(n: int) -> None:
    """In value, gradient and second gradient."""
    found = []
    for way in (Reflect(n), lambda x: reflected_axis(reflected_axis(x, n, 2), n, 3)):
        x = torch.linspace(-1, 1, 2 * 5 * 4).double().view(1, 2, 5, 4).requires_grad_()
        out = way(x)
        weights = torch.arange(out.numel()).double().sin().view_as(out)
        (grad,) = torch.autograd.grad((weights * out.pow(3)).sum(), x, create_graph=True)
        found.append((out, grad, *torch.autograd.grad(grad.square().sum(), x)))
    assert_close(*found)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_cuda_agrees_and_repeats(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the CPU in float64, and with itself bit for bit where that is asked for."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings = {"dropout": 0.0} if name == "G of unet" else {}
    net = NETWORKS[name](**settings).double()
    given = inputs(net, dtype=torch.float64)
    wanted = net(*given).detach()
    net.cuda()
    given = [x.cuda() for x in given]
    found = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            net.zero_grad()
            out = net(*given)
            out.square().sum().backward()
            found.append([out.detach(), *(p.grad.clone() for p in net.parameters())])
    finally:
        torch.use_deterministic_algorithms(False)
    assert_close(found[0][0].cpu(), wanted)
    assert all(map(torch.equal, *found))
