"""StyleGAN2: sizes and counts of the papers, styles, noise, labels, precision, and gradients of gradients."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from modelling import param_groups, stylegan2
from modelling.conditioning import label_vectors
from modelling.sizes import image_levels
from modelling.stylegan2 import DOUBLINGS, Discriminator, Generator, ToImage
from modelling.styles import NOISES, Mapping, crossovers, truncated_styles
from ops.modulated_conv import modulated_conv2d
from ops.resample import TAPS_1331, conv_down, downsample, upsample
from tests.test_stylegan import check_given_noise

SMALL = {"img_size": 32, "img_channels": 3, "channel_base": 128, "mapping_layers": 2}
WIDTHS = {"z_dim": 6, "w_dim": 8}


def levels_of(img_size: int | tuple[int, int]) -> list[tuple[int, int]]:
    return image_levels("stylegan2", img_size, DOUBLINGS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def generator(**settings: object) -> Generator:
    return Generator(**{**SMALL, **WIDTHS, **settings})


def discriminator(**settings: object) -> Discriminator:
    return Discriminator(**{**SMALL, **settings})


def wake_noise(G: Generator) -> Generator:
    """Strengths of 1 in place of the initial 0, so that noise is seen."""
    for name, p in G.named_parameters():
        if name.endswith("strength"):
            p.data.fill_(1)
    return G


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# Sizes


@pytest.mark.parametrize(
    ("shared", "g", "d", "expected"),
    [
        ({"img_size": 1024}, {}, {}, (30_370_060, 2_101_248, 29_012_513)),
        ({"img_size": 256, "channel_base": 16384}, {}, {}, (24_767_458, 2_101_248, 24_001_089)),
        (
            {"img_size": 32},
            {"mapping_layers": 2},
            {"architecture": "orig"},
            (19_947_539, 525_312, 20_720_641),
        ),
        (
            {"img_size": 32, "n_labels": 10},
            {"mapping_layers": 2},
            {"architecture": "orig"},
            (20_215_315, 793_088, 23_089_664),
        ),
    ],
)
def test_parameter_counts_are_those_of_the_papers(shared: dict, g: dict, d: dict, expected: tuple) -> None:
    with torch.device("meta"):
        G = Generator(img_channels=3, z_dim=512, **shared, **g)
        D = Discriminator(img_channels=3, **shared, **d)
    assert (n_parameters(G), n_parameters(G.mapping), n_parameters(D)) == expected
    y = torch.zeros(4, dtype=torch.long, device="meta")
    assert D(G(torch.empty(4, 512, device="meta"), y), y).shape == (4,)


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (160, 128), (12, 40), (28, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(shape: tuple[int, int], channels: int) -> None:
    settings = {"img_size": shape, "img_channels": channels, "channel_base": 256}
    G, D = generator(**settings), discriminator(**settings)
    x = G(torch.randn(4, 6))
    assert x.shape == (4, channels, *shape) and D(x).shape == (4,)
    expected = shape[0] if shape[0] == shape[1] else shape
    assert (G.z_dim, G.img_size, G.img_channels) == (6, expected, channels)
    assert (D.img_size, D.img_channels) == (expected, channels)
    assert G.n_layers == 2 * len(levels_of(shape))


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        (33, "32"),
        (100, "96"),
        (157, "160"),
        (7, "8"),
        (1023, "1024"),
        ((157, 128), "160x128"),
        ((100, 4), "100x8"),
        ((37, 64), "40x64"),
        ((39, 60), "40x64"),
        ((9, 1000), "10x1000"),  # as near: 8x1000
        (30, "32"),  # as near: 32x28
        (60, "64"),
        (120, "128"),
    ],
)
def test_impossible_sizes_name_the_nearest(given: int | tuple[int, int], nearest: str) -> None:
    for build in (generator, discriminator):
        with pytest.raises(ValueError, match=f"nearest is img_size {nearest}$"):
            build(img_size=given)
    possible = tuple(map(int, nearest.split("x")))
    levels_of(possible if len(possible) == 2 else possible[0])


def test_levels_of_the_source_format() -> None:
    assert levels_of((160, 128)) == [(5, 4), (10, 8), (20, 16), (40, 32), (80, 64), (160, 128)]
    assert levels_of(16) == [(4, 4), (8, 8), (16, 16)]
    assert levels_of((10, 32)) == [(5, 16), (10, 32)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channel_base": 31}, "channel_base 31 .* at least 32"),
        ({"channel_max": 0}, "channel_max"),
        ({"conv_clamp": 0}, "conv_clamp"),
        ({"n_half": -1}, "n_half"),
        ({"architecture": "deep"}, "architecture 'deep'"),
        ({"mapping_layers": 0}, "mapping_layers"),
        ({"img_channels": 0}, "img_channels"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    for build in (generator, discriminator):
        with pytest.raises(ValueError, match=message):
            build(**settings)


@pytest.mark.parametrize(
    "settings", [{"n_labels": -1}, {"mixing": 1.1}, {"mixing": -0.1}, {"w_dim": 0}, {"noise": 2}]
)
def test_settings_of_g_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        generator(**settings)


def test_wrong_shapes_are_refused() -> None:
    G, D = generator(), discriminator(n_labels=3)
    with pytest.raises(ValueError, match=r"\(N, 6\), not \(2, 7\)"):
        G(torch.randn(2, 7))
    with pytest.raises(ValueError, match=r"\(N, 8, 8\) as it is now, not \(2, 7, 8\)"):
        G.synthesis(torch.randn(2, 7, 8))
    with pytest.raises(ValueError, match=r"z_mix \(2, 6\) and u \(2, 2\), not None and \(2, 2\)"):
        G(torch.randn(2, 6), u=torch.rand(2, 2))
    with pytest.raises(ValueError, match="noise 'loud': choose from none, random, repeatable, constant"):
        G(torch.randn(2, 6), noise="loud")
    x = torch.randn(4, 3, 32, 32)
    with pytest.raises(ValueError, match=r"\(N, 3, 32, 32\), not \(4, 3, 16, 16\)"):
        D(x[:, :, ::2, ::2], torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="needs labels"):
        D(x)
    with pytest.raises(ValueError, match=r"\(4,\) of whole numbers"):
        D(x, torch.zeros(2, dtype=torch.long))


# Learning


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("architectures", [("skip", "resnet"), ("orig", "orig")])
def test_gradient_reaches_every_parameter(labels: int, architectures: tuple[str, str]) -> None:
    G = generator(n_labels=labels, architecture=architectures[0])
    D = discriminator(n_labels=labels, architecture=architectures[1])
    y = torch.arange(8) % 3
    D(G(torch.randn(8, 6), y), y).square().sum().backward()
    for net in (G, D):
        for name, p in net.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name
    assert sum(name.endswith("strength") for name, _ in G.named_parameters()) == 7


def test_architectures_differ_in_images_and_residual_paths() -> None:
    skip, orig = generator(), generator(architecture="orig")
    assert [block.to_image is not None for block in skip.blocks] == [True] * 4
    assert [block.to_image is not None for block in orig.blocks] == [False] * 3 + [True]
    assert n_parameters(discriminator()) > n_parameters(discriminator(architecture="orig"))


def test_activations_keep_their_scale_at_the_start() -> None:
    G, D = generator(channel_base=2048), discriminator(channel_base=2048)
    seen: list[float] = []
    for block in [*G.blocks, *D.blocks]:
        block.register_forward_hook(
            lambda _m, _i, out: seen.append(
                float((out[0] if isinstance(out, tuple) else out).square().mean())
            )
        )
    with torch.no_grad():
        G(torch.randn(8, 6))
        D(torch.randn(8, 3, 32, 32))
    assert len(seen) == 7
    assert all(0.1 < mean_square < 2 for mean_square in seen), seen


def test_seeded_repeat_and_state_dict() -> None:
    def pair() -> tuple[nn.Module, nn.Module]:
        return wake_noise(generator(n_labels=3)).eval(), discriminator(n_labels=3).eval()

    z, y = torch.randn(4, 6), torch.arange(4) % 3
    torch.default_generator.manual_seed(1)
    G, D = pair()
    x = G(z, y)
    torch.default_generator.manual_seed(1)
    G2, D2 = pair()
    assert torch.equal(G2(z, y), x) and torch.equal(D2(x, y), D(x, y))
    G3, D3 = pair()
    assert not torch.equal(G3(z, y), x) and not torch.equal(D3(x, y), D(x, y))
    G3.load_state_dict(G.state_dict()), D3.load_state_dict(D.state_dict())
    assert torch.equal(G3(z, y), x) and torch.equal(D3(x, y), D(x, y))


def test_channels_last_gives_the_same_and_stays() -> None:
    G, D = generator().eval(), discriminator()
    z = torch.randn(4, 6)
    x = G(z)
    d = D(x)
    for net in (G, D):
        net.to(memory_format=torch.channels_last)
    layouts: list[bool] = []
    for module in [*G.blocks[-1].convs, D.blocks[0].conv0]:
        module.register_forward_hook(
            lambda _m, _i, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last))
        )
    assert_close(G(z), x, rtol=1e-4, atol=1e-5)
    assert_close(D(x.to(memory_format=torch.channels_last)), d, rtol=1e-4, atol=1e-5)
    assert layouts == [True, True, True]


# Layers against their formulas


def test_layers_are_what_the_paper_writes(double: None) -> None:
    G, D = wake_noise(generator(conv_clamp=None)), discriminator(conv_clamp=None)
    for net in (G, D):
        for name, p in net.named_parameters():
            if name.endswith("bias"):
                p.data.normal_()
    styled, w = G.blocks[2].convs[1], torch.randn(2, 8)
    x = torch.randn(2, 16, 16, 16)[:, : styled.weight.shape[1]]
    y = modulated_conv2d(x, styled.weight, styled.affine(w)) + styled.noise + styled.bias[:, None, None]
    assert_close(styled(x, w, "constant", False), activation(y))
    for conv, gain in ((D.blocks[1].conv0, 1.0), (D.blocks[1].conv1, math.sqrt(0.5))):
        weight = conv.weight / math.sqrt(conv.weight[0].numel())
        x = torch.randn(2, weight.shape[1], 8, 8)
        y = conv_down(x, weight, TAPS_1331) if conv.down else F.conv2d(x, weight, padding=1)
        assert_close(conv(x), activation(y + conv.bias[:, None, None]) * gain)
    x = torch.randn(4, 32, 4, 4)
    hidden = D.conv(D.stddev(x)).flatten(1) @ D.hidden.weight.t() / math.sqrt(512) + D.hidden.bias
    expected = activation(hidden) @ D.out.weight.t() / math.sqrt(32) + D.out.bias
    assert_close(D._features(x), expected)


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_to_image_modulates_without_demodulating(double: None, clamp: float | None) -> None:
    to_image = ToImage(5, 3, 8, clamp)
    to_image.bias.data.normal_()
    x, w = torch.randn(2, 5, 4, 6), torch.randn(2, 8)
    s = w @ to_image.affine.weight.t() / math.sqrt(8) + 1  # (N, C)
    weight = to_image.weight[:, :, 0, 0] / math.sqrt(5)  # (O, C)
    y = torch.einsum("nc,oc,nchw->nohw", s, weight, x) + to_image.bias[:, None, None]
    limit = math.inf if clamp is None else clamp
    assert_close(to_image(x, w), y.clamp(-limit, limit))


def activation(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def test_residual_block_halves_both_paths() -> None:
    block = discriminator().blocks[1]
    x = torch.randn(2, block.conv0.weight.shape[1], 8, 8)
    weight = block.shortcut.weight / math.sqrt(block.shortcut.weight.shape[1])
    shortcut = F.conv2d(downsample(x, TAPS_1331), weight) * math.sqrt(0.5)
    assert_close(block(x, None), block.conv1(block.conv0(x)) + shortcut, rtol=1e-4, atol=1e-5)


def test_image_is_the_sum_of_all_levels_upsampled() -> None:
    G = generator().eval()
    levels: list[Tensor] = []
    for block in G.blocks:
        block.to_image.register_forward_hook(lambda _m, _i, out: levels.append(out))
    image = G(torch.randn(2, 6))
    expected = levels[0]
    for level in levels[1:]:
        expected = upsample(expected, TAPS_1331) + level
    assert_close(image, expected)


# Styles


def test_mixed_styles_change_layers_from_the_crossover_on() -> None:
    G = generator(mixing=0.5).eval()
    z, z_mix = torch.randn(3, 6), torch.randn(3, 6)
    u = torch.tensor([[0.1, 0.0], [0.1, 0.99], [0.7, 0.0]])  # at layer 1, at layer 7, not at all
    ws, first, second = G.styles(z, None, z_mix, u), G.styles(z), G.styles(z_mix)
    assert ws.shape == (3, 8, 8)
    for n, layer in enumerate((1, 7, 8)):
        assert torch.equal(ws[n, :layer], first[n, :layer]) and torch.equal(ws[n, layer:], second[n, layer:])
    assert torch.equal(G(z, None, z_mix, u), G.synthesis(ws))
    assert not torch.equal(G(z, None, z_mix, u)[:2], G(z)[:2])
    off = generator(mixing=0.0)
    assert torch.equal(off.styles(z, None, z_mix, u), off.styles(z))


def test_crossovers_are_uniform_over_the_layers() -> None:
    u = torch.rand(20000, 2)
    where = crossovers(u, 0.9, 8)
    share = torch.bincount(where, minlength=9).double() / len(u)
    assert_close(share[1:8], torch.full((7,), 0.9 / 7, dtype=torch.float64), rtol=0, atol=0.01)
    assert abs(float(share[8]) - 0.1) < 0.01 and share[0] == 0


def test_each_style_reaches_its_own_level() -> None:
    G = generator().eval()
    ws = G.styles(torch.randn(1, 6)).detach().clone()
    outputs: list[Tensor] = []
    for block in G.blocks:
        block.register_forward_hook(lambda _m, _i, out: outputs.append(out[0]))
    image = G.synthesis(ws)
    reference = outputs[:]
    for layer in range(G.n_layers):
        changed = ws.clone()
        changed[:, layer] += 1
        outputs.clear()
        assert not torch.equal(G.synthesis(changed), image)
        same = [torch.equal(a, b) for a, b in zip(outputs, reference, strict=True)]
        assert same == [k < (layer + 1) // 2 for k in range(4)]


def test_truncation_draws_to_the_mean_style() -> None:
    G = generator()
    for _ in range(20):
        G(torch.randn(16, 6))
    G.eval()
    z = torch.randn(4, 6)
    assert_close(G(z, truncation=0.0), G(z, truncation=0.0)[:1].expand(4, -1, -1, -1))
    spread = [G(z, truncation=psi).std(0).mean() for psi in (0.0, 0.3, 0.7, 1.0)]
    assert spread == sorted(spread) and spread[1] > 0
    ws = G.styles(z)
    half = truncated_styles(ws, G.mapping.w_avg, 0.5, 3)
    assert_close(half[:, :3], (ws[:, :3] + G.mapping.w_avg) / 2)
    assert torch.equal(half[:, 3:], ws[:, 3:])
    assert torch.equal(G(z, truncation=0.5, truncation_layers=3), G.synthesis(half))
    assert torch.equal(G(z, truncation=1.0), G(z))
    G.train()
    with pytest.raises(ValueError, match="truncation 0.5 is for samples"):
        G(z, truncation=0.5)


@pytest.mark.parametrize("psi", [math.nan, math.inf])
def test_truncation_out_of_range_is_refused(psi: float) -> None:
    G, z = generator().eval(), torch.randn(2, 6)
    with pytest.raises(ValueError, match=f"truncation {psi} must be a finite number"):
        G(z, truncation=psi)
    for n in (9, -1, 2.0, True):
        with pytest.raises(ValueError, match=f"truncation_layers {n} must be a whole number, 0 to 8"):
            G(z, truncation=0.5, truncation_layers=n)
    assert torch.equal(G(z, truncation=0.5, truncation_layers=8), G(z, truncation=0.5))
    assert torch.equal(G(z, truncation=0.5, truncation_layers=0), G(z))


def test_mean_style_follows_training_batches_by_0_995() -> None:
    """Each pass in training moves it, by the first latents."""
    G = generator()
    z, z_mix = torch.randn(16, 6), torch.randn(16, 6)
    w = G.styles(z)[:, 0]
    assert_close(G.mapping.w_avg, 0.005 * w.mean(0))
    before = G.mapping.w_avg.clone()
    G.styles(z, None, z_mix, torch.rand(16, 2))
    assert_close(G.mapping.w_avg, 0.995 * before + 0.005 * w.mean(0))
    before = G.mapping.w_avg.clone()
    G.eval()(z)
    assert torch.equal(G.mapping.w_avg, before)


def test_mapping_normalises_its_inputs_and_learns_slowly() -> None:
    G = generator(n_labels=3).eval()
    z, y = torch.randn(4, 6), torch.arange(4) % 3
    assert_close(G.styles(100 * z, y), G.styles(z, y))
    with torch.no_grad():
        before = G.styles(z, y)
        G.mapping.embedding.weight.mul_(50), G.mapping.embedding.bias.mul_(50)
    assert_close(G.styles(z, y), before)
    scales = {name: module.lr_scale for name, module in G.named_modules() if hasattr(module, "lr_scale")}
    assert scales == {"mapping": 0.01, "mapping.embedding": 1.0}
    for net in (G, discriminator(n_labels=3)):
        full, weights, biases = param_groups(net)
        assert (full["lr_scale"], weights["lr_scale"]) == (1.0, 0.01)
        assert biases["lr_scale"] == pytest.approx(0.01 * 2**0.5)
        assert [id(p) for p in weights["params"]] == [id(layer.weight) for layer in net.mapping.layers]
        assert [id(p) for p in biases["params"]] == [id(layer.bias) for layer in net.mapping.layers]


def test_mapping_biases_act_as_fast_as_published() -> None:
    """There a bias counts 0.01 before LeakyReLU's gain of sqrt(2): a step of Adam, of the rate, moves what comes out by
    0.01 sqrt(2) of the rate."""
    G = generator(mapping_layers=1)
    optimizer = torch.optim.Adam([g | {"lr": 1e-3 * g["lr_scale"]} for g in param_groups(G)])
    layer, z = G.mapping.layers[0], torch.randn(4, 6)
    nn.init.constant_(layer.bias, 100.0)  # beyond the kink
    nn.init.zeros_(layer.weight)
    before = G.mapping(z)
    layer.bias.grad = torch.ones_like(layer.bias)  # whatever its size, the first step is the rate
    optimizer.step()
    published = 0.01 * 1e-3 * math.sqrt(2)
    assert_close(before - G.mapping(z), torch.full_like(before, published), rtol=1e-2, atol=1e-5)


def test_mapping_is_what_the_paper_writes() -> None:
    G = generator(n_labels=3, mapping_layers=3).eval()
    mapping = G.mapping
    z, y = torch.randn(4, 6), torch.tensor([2, 0, 1, 1])
    labels = mapping.embedding.weight[:, y].t() / math.sqrt(3) + mapping.embedding.bias
    h = torch.cat([part / part.square().mean(1, keepdim=True).sqrt() for part in (z, labels)], 1)
    for layer in mapping.layers:
        h = F.leaky_relu(h @ layer.weight.t() * math.sqrt(2 / h.shape[1]) + layer.bias, 0.2)
    assert_close(mapping(z, y), h)


# Noise


def test_noise_of_scores_is_drawn_on_the_cpu_whatever_the_device() -> None:
    """As "random" is on a CPU, from its generator; where x is elsewhere it is moved there."""
    x, before = torch.empty(2, 3, 4, 5), torch.random.get_rng_state()
    here = NOISES["repeatable"](x, None, torch.float32)
    after = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    assert torch.equal(here, NOISES["random"](x, None, torch.float32))
    torch.random.set_rng_state(before)
    there = NOISES["repeatable"](x.to("meta"), None, torch.float32)
    assert there.device.type == "meta" and there.shape == (2, 1, 4, 5)
    assert torch.equal(torch.random.get_rng_state(), after)


def test_noise_modes() -> None:
    G = wake_noise(generator())
    ws = G.styles(torch.randn(2, 6)).detach()
    images = {
        mode: [G.synthesis(ws, noise=mode) for _ in range(2)] for mode in ("none", "random", "constant")
    }
    assert torch.equal(*images["none"]) and torch.equal(*images["constant"])
    assert not torch.equal(*images["random"])
    assert not torch.equal(images["none"][0], images["constant"][0])
    assert not torch.equal(images["constant"][0], images["random"][0])
    assert not torch.equal(G.synthesis(ws), G.synthesis(ws))  # random in training
    G.eval()
    assert torch.equal(G.synthesis(ws), images["constant"][0])
    assert [tuple(buffer.shape) for name, buffer in G.named_buffers() if name.endswith("noise")] == [
        (4, 4),
        *[(size, size) for size in (8, 16, 32) for _ in range(2)],
    ]


def test_noise_differs_between_samples_and_not_between_channels() -> None:
    G = wake_noise(generator())
    conv = G.blocks[1].convs[1]
    seen: list[Tensor] = []
    conv.register_forward_hook(lambda _m, _i, out: seen.append(out))
    ws = G.styles(torch.randn(1, 6)).detach().expand(2, -1, -1)
    for p in (conv.weight, conv.bias):
        p.data.fill_(0)
    G.synthesis(ws)
    (out,) = seen
    assert torch.equal(out[:, :1].expand_as(out), out)
    assert not torch.equal(out[0], out[1])
    linear = torch.where(out > 0, out, 5 * out)[:, 0] / math.sqrt(2)  # LeakyReLU undone
    assert 0.8 < float(linear.detach().std()) < 1.2


def test_noise_may_be_given_as_maps() -> None:
    check_given_noise(wake_noise(generator()).eval(), generator(noise=False).eval())


def test_without_noise_there_is_none() -> None:
    G = generator(noise=False)
    ws = G.styles(torch.randn(2, 6)).detach()
    assert torch.equal(G.synthesis(ws, noise="random"), G.synthesis(ws, noise="none"))
    assert not any("strength" in name or "noise" in name for name in G.state_dict())


# Labels


def test_labels_reach_images_and_logits() -> None:
    G, D = generator(n_labels=3).eval(), discriminator(n_labels=3)
    z, one, two = torch.randn(4, 6), torch.ones(4, dtype=torch.long), torch.full((4,), 2)
    x = G(z, one)
    assert not torch.equal(G(z, two), x) and not torch.equal(D(x, two), D(x, one))
    assert torch.equal(D(x, F.one_hot(one, 3).float()), D(x, one))


def test_mapping_tells_no_attribute_from_all_of_them() -> None:
    D, y = discriminator(n_labels=3), torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 1], [2, 0, 2]])
    inputs: list[Tensor] = []
    D.mapping.layers[0].register_forward_hook(lambda _m, args, _out: inputs.append(args[0]))
    labels = D.mapping(None, y)
    (embedded,) = inputs
    assert_close(embedded.square().mean(1), torch.ones(4), rtol=1e-3, atol=0)
    assert_close(embedded[0], -embedded[1])
    assert torch.equal(labels[2], labels[3]) and labels[0].abs().max() > 0.01


def test_projection_logit_is_the_inner_product_over_the_root_of_its_length() -> None:
    D = discriminator(n_labels=3)
    seen: dict[str, Tensor] = {}
    D.out.register_forward_hook(lambda _m, _i, out: seen.update(features=out))
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 1])
    logits = D(x, y)
    labels = D.mapping(None, label_vectors(y, 4, 3))
    n = seen["features"].shape[1]
    expected = [(seen["features"][i] @ labels[i]).item() / math.sqrt(n) for i in range(4)]
    assert_close(logits, torch.tensor(expected))
    assert isinstance(D.mapping, Mapping) and D.mapping.w_avg is None


def test_minibatch_deviation_compares_groups() -> None:
    D = discriminator(group_size=2)
    x = torch.randn(4, 3, 32, 32)
    d = D(x)
    assert_close(D(x.flip(0)), d.flip(0), rtol=1e-4, atol=1e-5)
    swapped = D(x[[0, 2, 1, 3]])
    assert not torch.allclose(swapped[0], d[0], rtol=1e-5, atol=1e-6)


# Gradients of gradients


def r1(D: Discriminator, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(D(x, y).sum(), x, create_graph=True)
    return grad.square().sum((1, 2, 3)).mean()


def path_length(G: Generator, z: Tensor, direction: Tensor, double_backward: bool) -> Tensor:
    ws = G.styles(z)
    image = G.synthesis(ws, double_backward=double_backward, noise="constant")
    (grad,) = torch.autograd.grad((image * direction).sum(), ws, create_graph=True)
    return (grad.square().sum(2).mean(1).sqrt() - 0.5).square().mean()


def gradients(loss: Tensor, net: nn.Module) -> list[Tensor]:
    grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, net.parameters(), strict=True)]


@pytest.mark.parametrize("architecture", ["resnet", "orig"])
def test_r1_differentiates_against_finite_differences(double: None, architecture: str) -> None:
    D = discriminator(n_labels=3, architecture=architecture)
    x, y = torch.randn(4, 3, 32, 32), torch.arange(4) % 3
    check_directional(lambda: r1(D, x, y), D)


def check_directional(loss: Callable[[], Tensor], net: nn.Module) -> None:
    """The gradient along one random direction against a central difference.

    The step is so short that no activation passes LeakyReLU's corner, where gradients jump.
    """
    step = 1e-8
    grads = gradients(loss(), net)
    assert all(g.isfinite().all() for g in grads)
    directions = [torch.randn_like(p) for p in net.parameters()]
    slope = sum((g * d).sum() for g, d in zip(grads, directions, strict=True))
    values = []
    for move in (step, -2 * step):
        for p, d in zip(net.parameters(), directions, strict=True):
            p.data.add_(d, alpha=move)
        values.append(loss().detach())
    assert abs(float(slope)) > 1e-8
    assert_close((values[0] - values[1]) / (2 * step), slope.detach(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("architecture", ["skip", "orig"])
def test_path_length_is_equal_in_both_forms(
    double: None, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    G = generator(architecture=architecture)
    z, direction = torch.randn(4, 6), torch.randn(4, 3, 32, 32) / 32
    usual = path_length(G, z, direction, double_backward=False)
    expected = gradients(usual, G)
    forms: list[bool] = []

    def watched(x: Tensor, weight: Tensor, s: Tensor, **settings: object) -> Tensor:
        forms.append(settings["grouped"])
        return modulated_conv2d(x, weight, s, **settings)

    monkeypatch.setattr(stylegan2, "modulated_conv2d", watched)
    monkeypatch.setattr(stylegan2, "grouped_pays", lambda x, weight, up: True)
    grouped = path_length(G, z, direction, double_backward=True)
    assert all(forms)
    assert_close(grouped, usual, rtol=1e-10, atol=1e-12)
    for got, want in zip(gradients(grouped, G), expected, strict=True):
        assert got.isfinite().all()
        assert_close(got, want, rtol=1e-9, atol=1e-10)
    assert sum(float(g.abs().sum()) for g in expected) > 0


def test_path_length_differentiates_against_finite_differences(double: None) -> None:
    G = wake_noise(generator()).eval()
    z, direction = torch.randn(4, 6), torch.randn(4, 3, 32, 32) / 32
    check_directional(lambda: path_length(G, z, direction, double_backward=True), G)


# Precision


@pytest.mark.parametrize("n_half", [0, 2, 4])
def test_autocast_reaches_the_highest_resolutions_only(n_half: int) -> None:
    G, D = generator(n_half=n_half), discriminator(n_half=n_half)
    types: dict[str, list[torch.dtype]] = {"G": [], "D": []}
    for block in G.blocks:
        for conv in block.convs:
            conv.register_forward_hook(lambda _m, _i, out: types["G"].append(out.dtype))
    for block in D.blocks:
        block.conv0.register_forward_hook(lambda _m, _i, out: types["D"].append(out.dtype))
    D.conv.register_forward_hook(lambda _m, _i, out: types["D"].append(out.dtype))
    z = torch.randn(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ws = G.styles(z)
        x = G.synthesis(ws, noise="none")
        logits = D(x)
    low, wide = torch.bfloat16, torch.float32
    n_low = min(n_half, 3)  # the 4 x 4 maps never
    assert types["G"] == [wide] + [wide] * 2 * (3 - n_low) + [low] * 2 * n_low
    assert types["D"] == [low] * n_low + [wide] * (3 - n_low) + [wide]
    assert (ws.dtype, x.dtype, logits.dtype) == (wide, wide, wide)
    assert logits.isfinite().all()
    exact = G.eval().synthesis(ws, noise="none")
    assert_close(x, exact, rtol=0.1, atol=0.1)
    logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in D.parameters())


def test_clamp_limits_the_maps() -> None:
    """At the limit itself after LeakyReLU's gain, times the gain of a residual path."""
    limit = 0.1
    G, D = generator(conv_clamp=limit), discriminator(conv_clamp=limit)

    def largest(conv: nn.Module, *others: object) -> float:
        up = getattr(conv, "up_taps", None) is not None  # then the weight lies the other way round
        x = 100 * torch.randn(2, conv.weight.shape[0 if up else 1], 8, 8)
        return float(conv(x, *others).detach().abs().max())

    w = torch.randn(2, 8)
    for block in G.blocks:
        for conv in block.convs:
            assert largest(conv, w, "none", False) == pytest.approx(limit)
        assert largest(block.to_image, w) == pytest.approx(limit)
    for block in D.blocks:
        assert largest(block.conv0) == pytest.approx(limit)
        assert largest(block.conv1) == pytest.approx(limit * math.sqrt(0.5))
    orig = discriminator(architecture="orig", conv_clamp=limit)
    for conv in (D.blocks[0].from_image, D.conv, orig.blocks[0].conv1):
        assert largest(conv) == pytest.approx(limit)
    free = generator(conv_clamp=None)
    free.load_state_dict(G.state_dict())
    z = torch.randn(4, 6)
    assert not torch.equal(free.eval()(z), G.eval()(z))
    loose = generator(conv_clamp=256.0)
    loose.load_state_dict(G.state_dict())
    assert torch.equal(loose.eval()(z), free(z))


def test_default_floating_type_is_followed(double: None) -> None:
    G, D = generator(n_labels=3), discriminator(n_labels=3)
    y = torch.arange(4) % 3
    assert D(G(torch.randn(4, 6), y), y).dtype == torch.float64
