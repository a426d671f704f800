"""SNGAN's residual blocks and its two families: values, counts, shapes, labels, gradients of both orders."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from modelling import sndcgan, sngan
from modelling.conditioning import ConditionalNorm, as_output, norm_factory
from modelling.resnet import (
    ResidualDownBlock,
    ResidualUpBlock,
    activate,
    init_glorot,
    repeat_pixels,
    sum_pool,
)
from ops.spectral_norm import apply_spectral_norm, iterate_spectral_norm


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


# Blocks


def norms_of(kind: str) -> object:
    """Norms as G gives them to its blocks: plain ones, none, or those of three labels."""
    return norm_factory("none" if kind == "none" else "batch", "cbn", 3 if kind == "cbn" else 0)


def normed(norm: nn.Module | None, x: Tensor, rows: Tensor) -> Tensor:
    """The norm of a block written out, by its kind."""
    if norm is None:
        return x
    return norm(x, rows) if isinstance(norm, ConditionalNorm) else norm(x)


def draw_parameters(net: nn.Module) -> nn.Module:
    """The network in float64, no parameter at a special value."""
    for p in net.double().parameters():
        nn.init.normal_(p, std=0.5)
    return net


@pytest.mark.parametrize("kind", ["none", "batch", "cbn"])
def test_up_block_is_its_formula(kind: str) -> None:
    block = draw_parameters(ResidualUpBlock(3, 5, norms_of(kind)))
    x, rows = torch.randn(4, 3, 4, 6).double(), F.one_hot(torch.tensor([0, 2, 1, 2]), 3).double()
    as_it_came = x.clone()

    def repeat(maps: Tensor) -> Tensor:
        return maps.repeat_interleave(2, 2).repeat_interleave(2, 3)

    h = block.conv1(repeat(normed(block.norm1, x, rows).clamp(min=0)))
    h = block.conv2(normed(block.norm2, h, rows).clamp(min=0))
    expected = h + block.shortcut(repeat(x))
    assert expected.shape == (4, 5, 8, 12)
    assert_close(block(x, rows), expected)
    assert torch.equal(x, as_it_came)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("c_out", "down", "c_hidden"), [(3, False, None), (5, False, 4), (3, True, 3), (5, True, None)]
)
def test_down_block_is_its_formula(first: bool, c_out: int, down: bool, c_hidden: int | None) -> None:
    block = draw_parameters(ResidualDownBlock(3, c_out, down=down, first=first, c_hidden=c_hidden))
    assert block.conv1.out_channels == (c_out if c_hidden is None else c_hidden)
    x = torch.randn(2, 3, 4, 6).double()
    as_it_came = x.clone()

    def pool(maps: Tensor) -> Tensor:
        return maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5)) if down else maps

    h = block.conv2(block.conv1(x if first else x.clamp(min=0)).clamp(min=0))
    shortcut = x if (c_out, down) == (3, False) else block.shortcut(x)
    assert_close(block(x), pool(h + shortcut))
    assert torch.equal(x, as_it_came)


def test_odd_sides_are_halved_upwards() -> None:
    """No pixel is left out: the last row of five is averaged alone, over two columns."""
    block = ResidualDownBlock(2, 3, down=True).double()
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert_close(block.pool(x)[:, :, 2], x[:, :, 4].unflatten(2, (2, 2)).mean(3))
    out = block(x)
    assert out.shape == (1, 3, 3, 2)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert bool((grad != 0).all())


def test_a_plain_shortcut_has_no_parameters() -> None:
    assert list(ResidualDownBlock(3, 3, down=False).shortcut.parameters()) == []


@pytest.mark.parametrize(
    "block", [ResidualUpBlock(2, 2, lambda channels: None), ResidualDownBlock(2, 2, down=True)]
)
def test_shortcuts_see_negatives(block: nn.Module) -> None:
    """With silent 3x3 convolutions a block passes on what a ReLU in place would have cut."""
    for conv in (block.conv1, block.conv2):
        nn.init.zeros_(conv.weight), nn.init.zeros_(conv.bias)
    nn.init.dirac_(block.shortcut.weight), nn.init.zeros_(block.shortcut.bias)
    out = block(torch.full((1, 2, 4, 4), -1.0))
    assert_close(out, torch.full_like(out, -1.0))


def test_activation_changes_only_what_is_new() -> None:
    x = torch.tensor([[[[-1.0]], [[2.0]]]])
    assert_close(activate(None, x, None), x.clamp(min=0))
    assert_close(activate(nn.Identity(), x, None), x.clamp(min=0))
    assert float(x.min()) == -1
    assert_close(activate(nn.InstanceNorm2d(2).eval(), x.expand(1, 2, 1, 3), None), torch.zeros(1, 2, 1, 3))


def test_pools() -> None:
    x = torch.arange(8.0).view(1, 2, 2, 2)
    assert_close(sum_pool(x), torch.tensor([[6.0, 22.0]]))
    many = sum_pool(torch.ones(1, 1, 17, 241, dtype=torch.bfloat16))  # 4097, which bf16 does not have
    assert (many.dtype, many.item()) == (torch.float32, 4097)
    assert repeat_pixels(x)[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


def test_initial_weights() -> None:
    """Uniform of variance gain^2 2 / (fan_in + fan_out)."""
    net = nn.ModuleList([ResidualUpBlock(32, 64, norms_of("batch")), ResidualDownBlock(64, 32, down=True)])
    net.extend([nn.Linear(64, 96), nn.Conv2d(32, 64, 3)])
    init_glorot(net, 2**0.5)
    up, down, linear, output = net
    fans = {
        **{conv.weight: (9 * 96, 2) for conv in (up.conv1, down.conv1)},
        **{conv.weight: (9 * n, 2) for conv, n in ((up.conv2, 128), (down.conv2, 64))},
        **{conv.weight: (96, 1) for conv in (up.shortcut, down.shortcut)},
        linear.weight: (160, 1),
        output.weight: (9 * 96, 1),
    }
    for weight, (fans_in_and_out, gain_squared) in fans.items():
        weight = weight.detach()
        bound = (6 * gain_squared / fans_in_and_out) ** 0.5
        assert 0.99 * bound < float(weight.abs().max()) <= bound
        assert_close(float(weight.std()), bound / 3**0.5, rtol=0.05, atol=0)
    assert not any(p.any() for name, p in net.named_parameters() if "bias" in name)


# Networks

FAMILIES = {"sngan": sngan, "sndcgan": sndcgan}
NARROW = {"sngan": 4, "sndcgan": 8}
SIZES = {"sngan": (32, 64, 128), "sndcgan": (32, 48, 64)}  # squares
Z_DIM, N_LABELS = 6, 3

each_family = pytest.mark.parametrize("family", FAMILIES)
each_size = pytest.mark.parametrize(
    ("family", "size"), [(family, size) for family, sizes in SIZES.items() for size in sizes]
)


def generator(family: str, **settings: object) -> nn.Module:
    """A narrow one, of 32 px by default."""
    shared = {"img_size": 32, "img_channels": 3, "z_dim": Z_DIM, "width": NARROW[family]}
    return FAMILIES[family].Generator(**{**shared, **settings})


def discriminator(family: str, **settings: object) -> nn.Module:
    """A narrow one, of 32 px by default."""
    shared = {"img_size": 32, "img_channels": 3, "width": NARROW[family]}
    return FAMILIES[family].Discriminator(**{**shared, **settings})


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def labels_of(n: int) -> Tensor:
    """All classes in turn."""
    return torch.arange(n) % N_LABELS


def test_parameter_counts() -> None:
    """At 32 px the published ones, D of sngan without the last bias; its D of more px by the published layers."""
    with torch.device("meta"):
        counts = {
            (family, size): (
                n_parameters(module.Generator(img_size=size, img_channels=3, z_dim=128)),
                n_parameters(module.Discriminator(img_size=size, img_channels=3)),
            )
            for family, module in FAMILIES.items()
            for size in SIZES[family]
        }

    def block(c_in: int, c_out: int, hidden: int | None = None, dense: bool = True) -> int:
        """Two 3x3 with biases, and a 1x1 where the size or the channels change."""
        hidden = c_in if hidden is None else hidden
        return 9 * hidden * (c_in + c_out) + hidden + c_out + dense * (c_in + 1) * c_out

    halvings = itertools.pairwise([64, 128, 256, 512, 1024])
    of_d_64 = block(3, 64, 64) + sum(block(*pair) for pair in halvings) + 1024 + 1
    assert counts == {
        ("sngan", 32): (4_276_739, 1_053_824),
        ("sngan", 64): (12_220_675, of_d_64),
        ("sngan", 128): (32_150_787, of_d_64 + block(1024, 1024, dense=False)),
        ("sndcgan", 32): (3_811_907, 2_935_873),
        ("sndcgan", 48): (5_132_867, 2_946_113),
        ("sndcgan", 64): (6_982_211, 2_960_449),
    }


def maps_of(blocks: nn.Module, x: Tensor) -> list[tuple[int, int]]:
    """(channels, size) before the first block and after each."""
    seen = [(x.shape[1], x.shape[3])]
    for block in blocks:
        x = block(x)
        seen.append((x.shape[1], x.shape[3]))
    return seen


@pytest.mark.parametrize(
    ("size", "of_g", "of_d"),
    [
        (
            32,
            [(256, 4), (256, 8), (256, 16), (256, 32)],
            [(3, 32), (128, 16), (128, 8), (128, 8), (128, 8)],
        ),
        (
            64,
            [(1024, 4), (512, 8), (256, 16), (128, 32), (64, 64)],
            [(3, 64), (64, 32), (128, 16), (256, 8), (512, 4), (1024, 2)],
        ),
        (
            128,
            [(1024, 4), (1024, 8), (512, 16), (256, 32), (128, 64), (64, 128)],
            [(3, 128), (64, 64), (128, 32), (256, 16), (512, 8), (1024, 4), (1024, 4)],
        ),
    ],
)
def test_maps_of_the_residual_networks(
    size: int, of_g: list[tuple[int, int]], of_d: list[tuple[int, int]]
) -> None:
    with torch.device("meta"):
        G = sngan.Generator(img_size=size, img_channels=3, z_dim=128)
        D = sngan.Discriminator(img_size=size, img_channels=3)
        assert maps_of(G.blocks, torch.empty(2, of_g[0][0], 4, 4)) == of_g
        assert maps_of(D.blocks, torch.empty(2, 3, size, size)) == of_d
        assert G.start.out_features == 16 * of_g[0][0]
    assert [block.first for block in D.blocks] == [True] + [False] * (len(D.blocks) - 1)
    assert [block.conv1.out_channels for block in D.blocks] == [of_d[1][0], *(c for c, _ in of_d[1:-1])]


def test_layers_of_the_standard_networks() -> None:
    """As in table 3: (channels, size) after each of D's seven convolutions, kernels 3 and 4 in turn."""
    with torch.device("meta"):
        D = sndcgan.Discriminator(img_size=48, img_channels=3)
        G = sndcgan.Generator(img_size=48, img_channels=3, z_dim=128)
        of_d = maps_of(D.blocks, torch.empty(2, 3, 48, 48))
        of_g = maps_of(G.blocks, torch.empty(2, 512, 6, 6))
    assert of_d == [(3, 48), (64, 48), (64, 24), (128, 24), (128, 12), (256, 12), (256, 6), (512, 6)]
    assert of_g == [(512, 6), (256, 12), (128, 24), (64, 48)]
    assert [block[0].kernel_size[0] for block in D.blocks] == [3, 4, 3, 4, 3, 4, 3]
    assert all(block[1].negative_slope == 0.1 for block in D.blocks)


@each_size
@pytest.mark.parametrize("img_channels", [1, 3])
def test_shapes(family: str, size: int, img_channels: int) -> None:
    G, D = (
        draw_parameters(make(family, img_size=size, img_channels=img_channels))
        for make in (generator, discriminator)
    )
    x = G(torch.randn(3, Z_DIM).double())
    assert x.shape == (3, img_channels, size, size)
    assert 0.9 < float(x.detach().abs().max()) <= 1
    assert D(x).shape == (3,)


@each_size
@pytest.mark.parametrize("n_labels", [0, N_LABELS])
def test_on_the_meta_device(family: str, size: int, n_labels: int) -> None:
    with torch.device("meta"):
        G, D = (make(family, img_size=size, n_labels=n_labels) for make in (generator, discriminator))
        y = torch.empty(3, N_LABELS)
        assert D(G(torch.empty(3, Z_DIM), y), y).shape == (3,)


@each_family
def test_initial_weights_of_the_networks(family: str) -> None:
    """Glorot's in the residual networks, N(0, 0.02) in the others; biases 0."""
    for net in (generator(family, width=16), discriminator(family, width=16)):
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and layer.weight.numel() > 500:
                weight = layer.weight.detach()
                fans = (weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()
                expected = 0.02 if family == "sndcgan" else (2 / fans) ** 0.5
                doubled = (
                    family == "sngan" and weight.dim() == 4 and layer is not getattr(net, "to_image", None)
                )
                gain = 2**0.5 if doubled and weight.shape[2] == 3 else 1
                assert_close(float(weight.std()), gain * expected, rtol=0.1, atol=0)
        assert not any(p.any() for name, p in net.named_parameters() if name.endswith("bias"))


def test_residual_discriminator_is_its_formula() -> None:
    """psi(h) + <V y, h>, h summed over positions of the last ReLU; arXiv:1802.05637 eq. 3."""
    D = draw_parameters(discriminator("sngan", n_labels=N_LABELS, width=1))
    x, y = torch.rand(4, 3, 32, 32).double(), torch.tensor([2, 0, 1, 2])
    h = D.blocks(x).clamp(min=0).sum((2, 3))
    psi, V = D.heads.to_logit.weight, D.heads.to_classes.weight
    assert D.heads.to_logit.bias is D.heads.to_classes.bias is None
    expected = torch.stack([psi[0] @ h[i] + V[y[i]] @ h[i] for i in range(4)])
    assert_close(D(x, y), expected)


def test_residual_generator_is_its_formula() -> None:
    G = draw_parameters(generator("sngan", width=1)).eval()
    z = torch.randn(4, Z_DIM).double()
    h = (z @ G.start.weight.T + G.start.bias).reshape(4, 4, 4, 4)
    for block in G.blocks:
        h = block(h)
    assert_close(G(z), torch.tanh(G.to_image(G.norm(h).clamp(min=0))))


@each_family
@pytest.mark.parametrize("norm", ["none", "layer", "pixel"])
def test_norm_of_g(family: str, norm: str) -> None:
    G = generator(family, norm=norm)
    z = torch.randn(4, Z_DIM)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in G.modules())
    assert_close(G(z)[:2], G(z[:2]))  # no batch statistics


# Labels and gradients


@each_family
@pytest.mark.parametrize("condition_g", [None, "cbn", "cin"])
@pytest.mark.parametrize("condition_d", [None, "projection", "ac", "k_plus_1"])
def test_gradient_reaches_every_parameter(
    family: str, condition_g: str | None, condition_d: str | None
) -> None:
    G = generator(family, **({"n_labels": N_LABELS, "condition": condition_g} if condition_g else {}))
    D = discriminator(family, **({"n_labels": N_LABELS, "condition": condition_d} if condition_d else {}))
    apply_spectral_norm(D)  # sums over positions would saturate the losses without
    y = labels_of(6)
    out = as_output(D(G(torch.randn(6, Z_DIM), y), y))
    loss = -out.logit.sum()
    if condition_d in ("ac", "k_plus_1"):
        assert out.classes.shape == (6, N_LABELS)
        loss = loss + F.cross_entropy(out.classes, y)
    loss.backward()
    for net in (G, D):
        for name, p in net.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all(), name
            # Biases that a norm takes away again get rounding noise alone; every row of a table must get more.
            least = p.grad.flatten(1).abs().amax(1).min() if p.dim() == 2 else p.grad.abs().max()
            assert "weight" not in name or float(least) > 1e-8, name


@each_family
@pytest.mark.parametrize("condition", ["cbn", "cin"])
@pytest.mark.parametrize("attributes", [False, True])
def test_labels_of_g_act_on_their_own_sample(family: str, condition: str, attributes: bool) -> None:
    G = generator(family, n_labels=N_LABELS, condition=condition).eval()
    for module in G.modules():
        if isinstance(module, ConditionalNorm):
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    z, y = torch.randn(3, Z_DIM), torch.tensor([0, 1, 2])
    other = torch.tensor([0, 2, 2])
    if attributes:
        y, other = (F.one_hot(v, N_LABELS).float() for v in (y, other))
    x, moved = G(z, y), G(z, other)
    assert_close(x[[0, 2]], moved[[0, 2]])
    assert float((x[1] - moved[1]).detach().abs().max()) > 1e-3


@each_family
@pytest.mark.parametrize("condition", ["projection", "ac", "k_plus_1"])
def test_labels_of_d_act_on_their_own_sample(family: str, condition: str) -> None:
    D = draw_parameters(discriminator(family, n_labels=N_LABELS, condition=condition))
    x = torch.rand(3, 3, 32, 32).double()
    out, moved = (as_output(D(x, torch.tensor(y))) for y in ([0, 1, 2], [0, 2, 2]))
    if condition == "projection":
        assert_close(out.logit[[0, 2]], moved.logit[[0, 2]])
        assert float((out.logit[1] - moved.logit[1]).detach().abs()) > 1
    else:  # what it reads off an image does not depend on what it is told
        assert_close(out, moved)
        assert out.classes.shape == (3, N_LABELS)


@each_family
def test_networks_without_labels_ignore_them(family: str) -> None:
    G, D = generator(family).eval(), discriminator(family)
    z, y = torch.randn(3, Z_DIM), torch.tensor([0, 1, 2])
    assert torch.equal(G(z, y), G(z)) and torch.equal(D(G(z), y), D(G(z)))


@each_family
@pytest.mark.parametrize("condition", [None, "projection", "ac"])
def test_second_derivatives_of_d(family: str, condition: str | None) -> None:
    """With respect to images and parameters together, as R1 takes them."""
    settings = {"n_labels": N_LABELS, "condition": condition} if condition else {}
    D = draw_parameters(discriminator(family, width=1, img_channels=1, **settings))
    names, parameters = zip(*((n, 0.5 * p.detach()) for n, p in D.named_parameters()), strict=True)
    y = torch.tensor([1, 2])

    def logits_and_classes(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        out = as_output(torch.func.functional_call(D, dict(zip(names, given, strict=True)), (x, y)))
        return tuple(part for part in out if part is not None)

    x = torch.rand(2, 1, 32, 32).double()
    inputs = tuple(v.requires_grad_() for v in (x, *parameters))
    assert torch.autograd.gradcheck(logits_and_classes, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(logits_and_classes, inputs, fast_mode=True)


# Types, layouts, spectral norm, refusals


@each_family
@pytest.mark.parametrize("n_labels", [0, N_LABELS])
def test_bf16(family: str, n_labels: int) -> None:
    G, D = (make(family, n_labels=n_labels) for make in (generator, discriminator))
    z, y = torch.randn(6, Z_DIM), labels_of(6)
    x = G(z, y)
    with torch.autocast("cpu", torch.bfloat16):
        x_half, d_half = G(z, y), D(x, y)
        maps = D.blocks(x)
        d_half.float().sum().backward()
    assert x_half.dtype == maps.dtype == torch.bfloat16
    assert_close(x_half.float(), x, rtol=0, atol=0.1)
    assert float((x_half - x).detach().abs().mean()) < 0.01
    d = D(x, y)
    assert_close(d_half.float(), d, rtol=0, atol=0.03 * float(d.detach().abs().max()))


@each_family
def test_float64_by_default(family: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        G, D = (make(family, n_labels=N_LABELS) for make in (generator, discriminator))
        y = labels_of(3)
        assert D(G(torch.randn(3, Z_DIM), y), y).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@each_family
def test_channels_last(family: str) -> None:
    G, D = generator(family).double(), discriminator(family).double()
    z = torch.randn(3, Z_DIM).double()
    expected = D(G(z))
    G, D = (net.to(memory_format=torch.channels_last) for net in (G, D))
    x = G(z)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert_close(D(x), expected)


@each_family
@pytest.mark.parametrize("n_labels", [0, N_LABELS])
def test_spectral_norm_of_every_layer(family: str, n_labels: int) -> None:
    for net in (generator(family, n_labels=n_labels), discriminator(family, n_labels=n_labels)):
        layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
        apply_spectral_norm(net.double())
        iterate_spectral_norm(net, 500)
        for layer in layers:
            weight = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
            sigma = torch.linalg.svdvals(weight.detach().flatten(1))[0]
            assert_close(sigma, torch.ones_like(sigma), rtol=0.01, atol=0)
    x, y = torch.rand(3, 3, 32, 32).double(), labels_of(3)
    net(x, y).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@each_family
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"img_size": 256}, "not 256: the nearest is img_size"),
        ({"img_size": (32, 62)}, "not 32x62: the nearest is img_size 32x64"),
        ({"width": 0}, "width 0 must be a whole number, at least 1"),
        ({"img_channels": 0}, "img_channels 0 must be a whole number"),
        ({"n_labels": 3, "condition": "nothing"}, "unknown condition.*'nothing': choose from"),
    ],
)
def test_settings_are_refused(family: str, settings: dict[str, object], message: str) -> None:
    for make in (generator, discriminator):
        with pytest.raises(ValueError, match=message) as refused:
            make(family, **settings)
        assert "\n" not in str(refused.value)


@each_family
def test_inputs_are_refused(family: str) -> None:
    with pytest.raises(ValueError, match=r"\(N, 6\), not \(2, 7\)"):
        generator(family)(torch.zeros(2, 7))
    with pytest.raises(ValueError, match=r"\(N, 3, 32, 32\), not \(2, 3, 64, 64\)"):
        discriminator(family)(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match="needs labels"):
        generator(family, n_labels=N_LABELS)(torch.zeros(2, Z_DIM))
    with pytest.raises(ValueError, match="needs labels"):
        discriminator(family, n_labels=N_LABELS)(torch.zeros(2, 3, 32, 32))
