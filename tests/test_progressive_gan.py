"""Progressive GAN: sizes, stages and fades, equalised learning rate, gradients of all orders that training takes."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from modelling.equalised import Equalised
from modelling.growing import Stage, set_stage
from modelling.layers import MinibatchStdDev
from modelling.progressive_gan import (
    DOUBLINGS,
    Discriminator,
    DoublingConv2d,
    Generator,
    doubling_kernel,
)
from modelling.sizes import image_levels, level_channels, squares

SIZES = (4, 8, 16, 32)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


def generator(**settings: object) -> Generator:
    """A narrow one of 32 px."""
    return Generator(
        **{"img_size": 32, "img_channels": 3, "z_dim": 6, "channel_base": 128, "channel_max": 16, **settings}
    )


def discriminator(**settings: object) -> Discriminator:
    """A narrow one of 32 px."""
    return Discriminator(
        **{"img_size": 32, "img_channels": 3, "channel_base": 128, "channel_max": 16, **settings}
    )


def at(net: nn.Module, size: int, alpha: float = 1.0) -> nn.Module:
    """The network, moved to a stage."""
    set_stage(net, size, alpha)
    return net


def fade_fully_in(net: nn.Module) -> None:
    """alpha = 1 in the graph of a fade, which a stage would not choose for it."""
    (stage,) = [module for module in net.modules() if isinstance(module, Stage)]
    assert stage.fading
    stage.alpha.fill_(1)


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# Sizes


def test_parameter_counts() -> None:
    """The paper's table 2 gives 23.1 M each at 1024 px."""
    with torch.device("meta"):
        counts = {
            size: (
                n_parameters(Generator(img_size=size, img_channels=3, z_dim=512)),
                n_parameters(Discriminator(img_size=size, img_channels=3)),
            )
            for size in (256, 1024)
        }
    assert counts == {256: (23_044_309, 23_052_353), 1024: (23_079_115, 23_087_249)}


def test_channels() -> None:
    """Of squares and longer images alike."""
    for shape in (1024, (1024, 1536), 1792):
        levels = image_levels("progressive_gan", shape, DOUBLINGS)
        assert squares(levels) == [4, 8, 16, 32, 64, 128, 256, 512, 1024]
        assert level_channels(levels, 16384, 512) == [512, 512, 512, 512, 256, 128, 64, 32, 16]


def test_full_networks_on_the_meta_device() -> None:
    with torch.device("meta"):
        G, D = Generator(img_size=256, img_channels=3, z_dim=512), Discriminator(img_size=256, img_channels=3)
        assert D(G(torch.empty(2, 512))).shape == (2,)
        assert G.state_dict()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_shapes_at_every_stage(size: int, alpha: float) -> None:
    G, D = at(generator(), size, alpha), at(discriminator(), size, alpha)
    z = torch.randn(4, 6)
    x = G(z)
    assert x.shape == (4, 3, size, size)
    assert D(x).shape == (4,)
    sheet = G.eval()(z)
    assert sheet.shape == (4, 3, 32, 32)
    assert torch.equal(sheet[:, :, :: 32 // size, :: 32 // size], x)
    assert torch.equal(sheet.amax((2, 3)), x.amax((2, 3)))  # each pixel repeated


def test_output_is_not_bounded() -> None:
    assert generator()(torch.randn(64, 6)).abs().max() > 1


def test_wrong_shapes_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, 6\), not \(2, 7\)"):
        generator()(torch.zeros(2, 7))
    with pytest.raises(ValueError, match=r"\(N, 3, 8, 8\), not \(2, 3, 32, 32\)"):
        at(discriminator(), 8)(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match="not 50: the nearest is img_size 48"):
        generator(img_size=50)
    with pytest.raises(ValueError, match="channel_base 16 must be a whole number, at least 32"):
        discriminator(channel_base=16)
    with pytest.raises(ValueError, match="unknown size 64: choose from 4, 8, 16, 32"):
        at(generator(), 64)
    with pytest.raises(ValueError, match="groups of 4 samples.* batch of 6"):
        discriminator()(torch.zeros(6, 3, 32, 32))


# Stages and fades


def test_a_complete_fade_is_the_grown_network() -> None:
    G, D = at(generator(), 16, 0.5), at(discriminator(), 16, 0.5)
    z, x = torch.randn(4, 6), torch.randn(4, 3, 16, 16)
    half = G(z), D(x)
    fade_fully_in(G), fade_fully_in(D)
    full_in = G(z), D(x)
    at(G, 16), at(D, 16)
    assert torch.equal(G(z), full_in[0]) and torch.equal(D(x), full_in[1])
    assert not torch.equal(half[0], full_in[0]) and not torch.equal(half[1], full_in[1])


def test_a_fade_starts_at_the_smaller_network() -> None:
    G, D = generator(), discriminator()
    z, x = torch.randn(4, 6), torch.randn(4, 3, 16, 16)
    small, small_d = at(G, 8)(z), at(D, 8)(F.avg_pool2d(x, 2))
    assert torch.equal(at(G, 16, 0.0)(z), F.interpolate(small, scale_factor=2))
    assert torch.equal(at(D, 16, 0.0)(x), small_d)


def test_a_fade_is_linear_in_the_images() -> None:
    G, z = generator(), torch.randn(4, 6)
    start, end = at(G, 16, 0.0)(z), at(G, 16)(z)
    assert_close(at(G, 16, 0.3)(z), 0.7 * start + 0.3 * end)


def test_nothing_fades_at_the_smallest_size() -> None:
    G, D, z = generator(), discriminator(), torch.randn(4, 6)
    x = at(G, 4)(z)
    d = at(D, 4)(x)
    assert torch.equal(at(G, 4, 0.2)(z), x) and torch.equal(at(D, 4, 0.2)(x), d)


def parameters_in_use(size: int, alpha: float) -> tuple[set[str], set[str]]:
    """Names in G and in D: blocks up to the stage, its image layer, in a fade also the one before."""
    k = SIZES.index(size)
    images = [k - 1, k] if alpha < 1 and k else [k]
    pairs = [f"blocks.{i}.{conv}" for i in range(k) for conv in ("conv0", "conv1")]
    g = ["first.dense", "first.conv", *pairs, *(f"to_image.{i}" for i in images)]
    d = [*pairs, *(f"from_image.{i}" for i in images), "last.conv", "last.dense", "last.to_logits"]
    names_g = {f"{layer}.{kind}" for layer in g for kind in ("weight", "bias")} - {"first.dense.bias"}
    return names_g | {"first.bias"}, {f"trunk.{layer}.{kind}" for layer in d for kind in ("weight", "bias")}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_gradient_reaches_the_parameters_of_the_stage_alone(size: int, alpha: float) -> None:
    G, D = at(generator(), size, alpha), at(discriminator(), size, alpha)
    D(G(torch.randn(8, 6))).square().sum().backward()
    for net, expected in zip((G, D), parameters_in_use(size, alpha), strict=True):
        found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        assert set(found) == expected
        for name, grad in found.items():
            assert grad.isfinite().all() and grad.abs().sum() > 0, name


def test_state_dict_carries_the_stage() -> None:
    G, D = at(generator(), 16, 0.3), at(discriminator(), 16, 0.3)
    z, x = torch.randn(4, 6), torch.randn(4, 3, 16, 16)
    G2, D2 = generator(), discriminator()
    assert not torch.equal(G2(z), at(G, 32)(z))
    at(G, 16, 0.3)
    G2.load_state_dict(G.state_dict()), D2.load_state_dict(D.state_dict())
    assert (G2.stage.size, G2.stage.fading, D2.stage.size, D2.stage.fading) == (16, True, 16, True)
    assert torch.equal(G2(z), G(z)) and torch.equal(D2(x), D(x))
    assert torch.equal(G2.stage.get_extra_state(), G.stage.get_extra_state())


def test_seeded_repeat() -> None:
    z = torch.randn(4, 6)

    def run(seed: int) -> tuple[Tensor, Tensor]:
        torch.default_generator.manual_seed(seed)
        G, D = generator(), discriminator()
        return G(z), D(G(z))

    (x, d), (x2, d2), (x3, _) = run(1), run(1), run(2)
    assert torch.equal(x, x2) and torch.equal(d, d2) and not torch.equal(x, x3)


# Layers


def test_weights_are_scaled_to_their_fan_in() -> None:
    """sqrt(2 / fan_in) before a leaky ReLU, 1 / sqrt(fan_in) before the image and the logit; all start at N(0, 1)."""
    G, D = generator(channel_base=512), discriminator(channel_base=512)
    scales = {
        name: module.scale
        for net in (G, D)
        for name, module in net.named_modules()
        if isinstance(module, Equalised)
    }
    assert_close(scales["first.dense"], (2 / (6 * 16)) ** 0.5)
    assert_close(scales["blocks.0.conv0"], (2 / (16 * 9)) ** 0.5)
    assert_close(scales["to_image.3"], (1 / 16) ** 0.5)
    assert_close(scales["trunk.from_image.3"], (2 / 3) ** 0.5)
    assert_close(scales["trunk.last.conv"], (2 / (17 * 9)) ** 0.5)
    assert_close(scales["trunk.last.dense"], (2 / (16 * 16)) ** 0.5)
    assert_close(scales["trunk.last.to_logits"], (1 / 16) ** 0.5)
    weights = torch.cat([p.flatten() for n, p in G.named_parameters() if n.endswith("weight")])
    assert_close(weights.std(), torch.tensor(1.0), atol=0.02, rtol=0)
    conv = G.blocks[0].conv1
    x = torch.randn(2, 16, 8, 8)
    assert_close(conv(x), F.conv2d(x, conv.weight * (2 / 144) ** 0.5, conv.bias, padding=1))


def mean_squares(G: Generator) -> Tensor:
    """Of the maps after each block, (n_blocks,)."""
    found = []
    for layer in (G.first, *G.blocks):
        layer.register_forward_hook(lambda module, args, out: found.append(out.square().mean()))
    G(torch.randn(16, G.z_dim))
    return torch.stack(found)


def test_activations_keep_their_size() -> None:
    """What the scales are for: mean squares neither grow nor vanish with depth. Pixel norm makes them 1 exactly."""
    wide = {"channel_base": 4096, "channel_max": 128, "z_dim": 128}
    sizes = mean_squares(generator(**wide, pixel_norm=False))
    assert ((sizes / sizes[0] - 1).abs() < 0.5).all(), sizes
    assert_close(mean_squares(generator(**wide)), torch.ones(4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("network", [generator, discriminator])
def test_plain_weights_start_as_the_same_function(network: type[nn.Module]) -> None:
    """In distribution: each layer's acting weights have the same spread, and nothing is left to scale."""
    wide = {"channel_base": 2048, "channel_max": 64}
    nets = [network(**wide), network(**wide, equalised=False)]
    layers = [[m for m in net.modules() if isinstance(m, Equalised)] for net in nets]
    for equalised, plain in zip(*layers, strict=True):
        assert plain.scale == 1 != equalised.scale
        assert plain.scaled_weight() is plain.weight
        if plain.weight.numel() > 500:
            assert_close(plain.weight.std(), equalised.scaled_weight().std(), rtol=0.1, atol=0)
    inputs = torch.randn(64, 6) if network is generator else torch.randn(64, 3, 32, 32)
    spreads = [net(inputs).std() for net in nets]
    assert 0.5 < spreads[0] / spreads[1] < 2, spreads


def test_networks_are_the_papers_layers() -> None:
    """Table 2 written out in plain operations, at 8 px: the activation, then pixel norm, after every convolution."""
    G, D = at(generator(), 8), at(discriminator(), 8)
    for p in [*G.parameters(), *D.parameters()]:
        nn.init.normal_(p)  # biases too

    def conv(x: Tensor, layer: Equalised) -> Tensor:
        return F.conv2d(x, layer.weight * layer.scale, layer.bias, padding=layer.weight.shape[-1] // 2)

    def act(x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.2)

    def norm(x: Tensor) -> Tensor:
        return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()

    z, x = torch.randn(4, 6), torch.randn(4, 3, 8, 8)
    first, block = G.first, G.blocks[0]
    h = (norm(z) @ (first.dense.weight * first.dense.scale).T).view(4, -1, 4, 4) + first.bias.view(-1, 1, 1)
    h = norm(act(conv(norm(act(h)), first.conv)))
    h = norm(act(conv(F.interpolate(h, scale_factor=2), block.conv0)))
    h = norm(act(conv(h, block.conv1)))
    assert_close(G(z), conv(h, G.to_image[1]), atol=1e-4, rtol=1e-4)
    last, block = D.trunk.last, D.trunk.blocks[0]
    h = act(conv(x, D.trunk.from_image[1]))
    h = F.avg_pool2d(act(conv(act(conv(h, block.conv0)), block.conv1)), 2)
    stddev = (h.var(0, correction=0) + 1e-8).sqrt().mean().expand(4, 1, 4, 4)
    h = act(conv(torch.cat([h, stddev], 1), last.conv)).flatten(1)
    h = act(F.linear(h, last.dense.weight * last.dense.scale, last.dense.bias))
    d = F.linear(h, last.to_logits.weight * last.to_logits.scale, last.to_logits.bias)
    assert_close(D(x), d[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("height", [4, 16])
def test_doubling_convolution_is_repeating_pixels_then_convolving(height: int) -> None:
    """Either form, in value and in gradient."""
    conv = DoublingConv2d(5, 7).double()
    x = torch.randn(2, 5, height, 16, dtype=torch.float64, requires_grad=True)
    slow = F.conv2d(F.interpolate(x, scale_factor=2), conv.scaled_weight(), conv.bias, padding=1)
    folded = F.conv_transpose2d(x, doubling_kernel(conv.scaled_weight()), conv.bias, stride=2, padding=1)
    probe = torch.randn_like(slow)
    wanted = [slow, *torch.autograd.grad((slow * probe).sum(), (x, conv.weight))]
    for out in (folded, conv(x)):
        assert_close([out, *torch.autograd.grad((out * probe).sum(), (x, conv.weight))], wanted)


def test_minibatch_stddev_is_wired() -> None:
    """A logit depends on the other samples of its group, and on none of another group; not at all without."""
    D, x = discriminator(), torch.randn(8, 3, 32, 32)
    changed = x.clone()
    changed[3] += 1
    moved = (D(x) - D(changed)).abs() > 1e-6
    assert moved.tolist() == [True] * 4 + [False] * 4
    D = discriminator(minibatch_stddev=False)
    assert not any(isinstance(m, MinibatchStdDev) for m in D.modules())
    assert ((D(x) - D(changed)).abs() > 1e-6).tolist() == [False] * 3 + [True] + [False] * 4
    assert discriminator()(x[:2]).shape == (2,)  # a batch below a group


@pytest.mark.parametrize("pixel_norm", [True, False])
def test_only_the_direction_of_a_latent_counts(pixel_norm: bool) -> None:
    G, z = generator(pixel_norm=pixel_norm), torch.randn(4, 6)
    assert_close(G(z), G(3 * z), atol=1e-4, rtol=1e-4)


# Gradients and precision


@pytest.mark.parametrize(("size", "alpha"), [(32, 1.0), (16, 0.3)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_penalty_on_the_gradient_trains_every_active_parameter(
    size: int, alpha: float, memory_format: torch.memory_format
) -> None:
    D = at(discriminator(), size, alpha).to(memory_format=memory_format)
    x = torch.randn(8, 3, size, size).contiguous(memory_format=memory_format).requires_grad_()
    (grad,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    grad.square().sum().backward()
    _, active = parameters_in_use(size, alpha)
    found = {name: p.grad for name, p in D.named_parameters() if p.grad is not None}
    weights = {name for name in active if name.endswith("weight")}
    assert weights <= set(found) <= active
    assert all(found[name].isfinite().all() and found[name].abs().sum() > 0 for name in weights)


def test_gradients_of_first_and_second_order_are_right() -> None:
    """Away from the leaky ReLUs' kinks, along random directions."""
    D = at(discriminator(channel_base=32, channel_max=4), 8, 0.3).double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(D, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(D, x, fast_mode=True)


@pytest.mark.parametrize(("size", "alpha"), [(32, 1.0), (16, 0.3)])
def test_half_precision_under_autocast(size: int, alpha: float) -> None:
    G, D = at(generator(), size, alpha), at(discriminator(), size, alpha)
    z = torch.randn(8, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = G(z)
        d = D(x)
        d.sum().backward()
    assert x.isfinite().all() and d.isfinite().all()
    assert (x.float() - G(z)).abs().mean() < 0.05
    assert all(p.grad.isfinite().all() for p in G.parameters() if p.grad is not None)


def test_default_floating_type_is_followed() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        G, D = at(generator(), 16, 0.3), at(discriminator(), 16, 0.3)
        assert D(G(torch.randn(4, 6))).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_all_settings_run() -> None:
    z = torch.randn(4, 6)
    for equalised, other in itertools.product([True, False], repeat=2):
        G = generator(equalised=equalised, pixel_norm=other)
        D = discriminator(equalised=equalised, minibatch_stddev=other)
        assert D(G(z)).isfinite().all()
