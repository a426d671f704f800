"""Every model of the table: shapes, gradients, repeats, state, sizes, options; and the layers they share."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from augmentation.instance_noise import noise_scale
from modelling import MODELS, build_discriminator, build_generator, layers, own_settings
from modelling.cgan import ConditionalDiscriminator, ConditionalGenerator
from modelling.growing import set_stage
from modelling.layers import (
    NORMS,
    GaussianNoise,
    MinibatchDiscrimination,
    MinibatchStdDev,
    PixelNorm,
    set_noise_scale,
    standing_statistics,
)
from modelling.progressive_gan import stage_sizes
from ops.spectral_norm import SpectralNorm
from tests.running import SMALL

IMAGE = {"img_size": 32, "img_channels": 1}
PLAIN = ("dcgan", "simple_cnn", "mlp")  # they share their options, and their images end in tanh
EQUALISED = ("progressive_gan", "stylegan", "stylegan2")  # their images are unbounded
_SHARED = {
    "activation": "selu",
    "dropout": 0.5,
    "noise_std": 0.5,
    "minibatch_stddev": True,
    "minibatch_discrimination": 3,
}
OPTIONS = {  # of D, each of which must change its output or its training
    "dcgan": _SHARED,
    "simple_cnn": _SHARED,
    "mlp": _SHARED,
    "progressive_gan": {"minibatch_stddev": False, "equalised": False},
    "stylegan": {"minibatch_stddev": False, "blur": False},
    "stylegan2": {"group_size": 2, "architecture": "orig", "conv_clamp": 0.01},
}
_WIDTHS = [{"width": 0}, {"width": 1.5}, {"width": "wide"}]
_WRONG = _WIDTHS + [{"dropout": 1.0}, {"dropout": "x"}, {"noise_std": -1}, {"activation": "gelu"}]
_WRONG += [{"norm": "batchnorm"}, {"minibatch_discrimination": -1}]
_BASES = [{"channel_base": 0}, {"channel_base": 99.5}, {"channel_base": "wide"}, {"channel_max": 0}]
OUT_OF_RANGE = {  # settings of D
    "dcgan": _WRONG,
    "simple_cnn": _WRONG,
    "mlp": _WRONG,
    "progressive_gan": [*_BASES, {"equalised": "no"}, {"minibatch_stddev": 4}],
    "stylegan": [*_BASES, {"blur": 2}, {"minibatch_stddev": "no"}],
    "stylegan2": [
        *_BASES, {"group_size": 0}, {"architecture": "skip"}, {"conv_clamp": 0}, {"n_half": -1},
        {"mapping_layers": 0},
    ],
}  # fmt: skip


def test_every_model_is_in_the_tables() -> None:
    assert (
        set(PLAIN) | set(EQUALISED) == SMALL.keys() == OPTIONS.keys() == OUT_OF_RANGE.keys() == MODELS.keys()
    )


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


def generator(model: str, **settings: object) -> nn.Module:
    """A narrow one of 32 px and one channel."""
    return build_generator(model, **IMAGE | SMALL[model][0] | {"z_dim": 6} | settings)


def discriminator(model: str, **settings: object) -> nn.Module:
    """A narrow one of 32 px and one channel."""
    return build_discriminator(model, **IMAGE | SMALL[model][1] | settings)


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def images(n: int = 8, channels: int = 1, size: int = 32) -> Tensor:
    return torch.rand(n, channels, size, size) * 2 - 1


# Every model


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_range(model: str, channels: int) -> None:
    G, D = generator(model, img_channels=channels), discriminator(model, img_channels=channels)
    z = 5 * torch.randn(8, 6)
    x = G(z)
    assert x.shape == (8, channels, 32, 32)
    with torch.no_grad():
        for p in G.parameters():
            p.mul_(10)
    assert (G(z).abs().max() <= 1) == (model in PLAIN)
    assert D(x).shape == (8,)
    assert (G.z_dim, G.img_size, G.img_channels) == (6, 32, channels)
    assert (D.img_size, D.img_channels) == (32, channels)


@pytest.mark.parametrize(
    ("model", "spectral_norm"), [(m, False) for m in MODELS] + [(m, True) for m in PLAIN]
)
@pytest.mark.parametrize("labels", [0, 3])
def test_gradient_reaches_every_parameter(model: str, labels: int, spectral_norm: bool) -> None:
    """In the course of growing, for networks that grow: each size has image layers of its own."""
    G = generator(model, n_labels=labels, spectral_norm=spectral_norm)
    options = {"minibatch_stddev": True, "minibatch_discrimination": 2} if model in PLAIN else {}
    D = discriminator(model, n_labels=labels, spectral_norm=spectral_norm, **options)
    y = torch.arange(8) % 3
    first = MODELS[model].grows_from
    for size in [32] if first is None else stage_sizes(first, 32):
        for net in (G, D):
            set_stage(net, size, 0.5)
        D(G(torch.randn(8, 6), y), y).square().sum().backward()
    for net in (G, D):
        for name, p in net.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("model", MODELS)
def test_seeded_repeat_and_state_dict(model: str) -> None:
    def pair() -> tuple[nn.Module, nn.Module]:
        options = {"noise_std": 0.1, "minibatch_discrimination": 2, "spectral_norm": True}
        options = options if model in PLAIN else {}
        return generator(model, n_labels=3), discriminator(model, n_labels=3, **options)

    z, y = torch.randn(4, 6), torch.arange(4) % 3
    torch.default_generator.manual_seed(1)
    G, D = (net.eval() for net in pair())
    x = G(z, y)
    torch.default_generator.manual_seed(1)
    G2, D2 = (net.eval() for net in pair())
    assert torch.equal(G2(z, y), x) and torch.equal(D2(x, y), D(x, y))
    G3, D3 = (net.eval() for net in pair())
    assert not torch.equal(G3(z, y), x) and not torch.equal(D3(x, y), D(x, y))
    G3.load_state_dict(G.state_dict()), D3.load_state_dict(D.state_dict())
    assert torch.equal(G3(z, y), x) and torch.equal(D3(x, y), D(x, y))


@pytest.mark.parametrize("model", MODELS)
def test_default_floating_type_is_followed(model: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        options = {"minibatch_stddev": True, "noise_std": 0.1} if model in PLAIN else {}
        G, D = generator(model), discriminator(model, **options)
        assert D(G(torch.randn(4, 6))).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("model", MODELS)
def test_half_precision_under_autocast(model: str) -> None:
    G = generator(model)
    options = {"noise_std": 0.1, "minibatch_stddev": True, "minibatch_discrimination": 2}
    D = discriminator(model, **options if model in PLAIN else {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert D(G(torch.randn(4, 6))).isfinite().all()


@pytest.mark.parametrize("model", MODELS)
def test_wrong_shapes_are_refused(model: str) -> None:
    with pytest.raises(ValueError, match=r"\(N, 6\), not \(2, 7\)"):
        generator(model)(torch.randn(2, 7))
    with pytest.raises(ValueError, match=r"\(N, 1, 32, 32\), not \(2, 1, 16, 16\)"):
        discriminator(model)(images(2, size=16))


@pytest.mark.parametrize("model", MODELS)
def test_unknown_settings_name_the_legal_ones(model: str) -> None:
    of_g = "norm, width" if model in PLAIN else ".*channel_base"
    of_d = "group_size" if model == "stylegan2" else "minibatch_stddev"
    with pytest.raises(ValueError, match=f"no setting 'wdth'; --g_kwargs takes {of_g}"):
        build_generator(model, img_size=32, img_channels=1, z_dim=4, wdth=3)
    with pytest.raises(ValueError, match=f"no setting 'depth'; --d_kwargs takes .*{of_d}"):
        discriminator(model, depth=3)
    assert OPTIONS[model].keys() <= own_settings(MODELS[model].Discriminator).keys()


@pytest.mark.parametrize(
    ("model", "settings"),
    [(model, settings) for model in MODELS for settings in [*OUT_OF_RANGE[model], {"img_channels": 0}]],
)
def test_settings_out_of_range_are_refused(model: str, settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        discriminator(model, **settings)


def test_unknown_model_names_the_known() -> None:
    with pytest.raises(ValueError, match="unknown model 'dcgn': choose from dcgan, simple_cnn, mlp"):
        build_generator("dcgn", img_size=32, img_channels=1, z_dim=4)
    with pytest.raises(ValueError, match="unknown model"):
        build_discriminator("dcgn", img_size=32, img_channels=1)


# Parameter counts and sizes


@pytest.mark.parametrize(
    ("model", "img_size", "of_g", "of_d"),
    [
        ("dcgan", 32, 1_068_928, 663_296),
        ("dcgan", 64, 3_576_704, 2_765_568),
        ("dcgan", 128, 12_786_560, 11_164_416),
        ("simple_cnn", 32, 12_141_827, 10_519_297),
    ],
)
def test_parameter_counts(model: str, img_size: int, of_g: int, of_d: int) -> None:
    image = {"img_size": img_size, "img_channels": 3}
    with torch.device("meta"):  # counts need no memory
        assert n_parameters(build_generator(model, z_dim=100, **image)) == of_g
        assert n_parameters(build_discriminator(model, **image)) == of_d


@pytest.mark.parametrize("img_size", [16, 64, 128, 256])
def test_sizes_of_dcgan(img_size: int) -> None:
    G = generator("dcgan", img_size=img_size, width=2)
    D = discriminator("dcgan", img_size=img_size, width=2)
    x = G(torch.randn(2, 6))
    assert x.shape == (2, 1, img_size, img_size)
    assert D(x).shape == (2,)


@pytest.mark.parametrize(
    ("model", "img_size", "nearest"),
    [("dcgan", 28, 32), ("dcgan", 8, 16), ("dcgan", 100, 128), ("dcgan", 512, 256), ("simple_cnn", 64, 32)]
    + [("progressive_gan", 28, 32), ("progressive_gan", 4, 8), ("stylegan", 100, 128), ("stylegan2", 4, 8)],
)
def test_sizes_refused_with_the_nearest(model: str, img_size: int, nearest: int) -> None:
    for build in (generator, discriminator):
        with pytest.raises(ValueError, match=f"not {img_size}: the nearest is --img_size {nearest}$"):
            build(model, img_size=img_size)


def test_mlp_makes_any_size() -> None:
    G, D = generator("mlp", img_size=7), discriminator("mlp", img_size=7)
    assert D(G(torch.randn(3, 6))).shape == (3,)


def test_simple_cnn_keeps_biases_and_norms_where_its_source_has_them() -> None:
    G, D = generator("simple_cnn"), discriminator("simple_cnn")
    norms = [
        [any("norm" in name for name, _ in block.named_children()) for block in net.blocks] for net in (G, D)
    ]
    assert norms == [[True, True, True], [False, True, True]]
    convolutions = [
        m for net in (G, D) for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
    ]
    assert len(convolutions) == 8 and all(m.bias is not None for m in convolutions)


# Norms, initial weights


@pytest.mark.parametrize("norm", NORMS)
def test_norms_of_dcgan(norm: str) -> None:
    G, D = generator("dcgan", norm=norm), discriminator("dcgan", norm=norm)
    kinds = {
        "batch": nn.BatchNorm2d,
        "layer": nn.GroupNorm,
        "instance": nn.InstanceNorm2d,
        "pixel": PixelNorm,
    }
    for net, expected in ((G, [True] * 3), (D, [False, True, True])):
        expected = [norm != "none" and has for has in expected]
        assert [hasattr(block, "norm") for block in net.blocks] == expected
        assert all(isinstance(block.norm, kinds[norm]) for block in net.blocks if hasattr(block, "norm"))
    # A bias replaces the shift of a norm; D's first layer and both last layers never have one.
    biased = norm in ("none", "pixel")
    assert [block.layer.bias is not None for block in G.blocks] == [biased] * 3
    assert [block.layer.bias is not None for block in D.blocks] == [False, biased, biased]
    assert G.to_image.bias is None and D.heads.to_logit.bias is None
    x = G(torch.randn(4, 6))
    assert x.shape == (4, 1, 32, 32) and D(x).isfinite().all()


def test_norms_of_mlp() -> None:
    assert not any(isinstance(m, nn.BatchNorm1d) for m in generator("mlp").modules())
    G, D = generator("mlp", norm="batch"), discriminator("mlp", norm="batch")
    assert [hasattr(block, "norm") for block in G.blocks] == [True] * 3
    assert [hasattr(block, "norm") for block in D.blocks] == [False, True, True]
    with pytest.raises(ValueError, match="choose from none, batch"):
        generator("mlp", norm="instance")


@pytest.mark.parametrize("model", ["dcgan", "simple_cnn"])
def test_initial_weights(model: str) -> None:
    G, D = generator(model, width=32), discriminator(model, width=32)
    for net in (G, D):
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.15)
            elif isinstance(module, nn.BatchNorm2d):
                assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.5)
            if getattr(module, "bias", None) is not None:
                assert not module.bias.any()


def test_initial_weights_of_mlp() -> None:
    G = generator("mlp", width=64)
    for module in G.modules():
        if isinstance(module, nn.Linear):
            assert not module.bias.any()
            bound = module.in_features**-0.5  # torch's default: uniform up to it
            assert 0.9 * bound < module.weight.abs().max() <= bound


# Options of D


@pytest.mark.parametrize(
    ("model", "option"), [(model, option) for model in MODELS for option in OPTIONS[model]]
)
def test_each_option_acts(model: str, option: str) -> None:
    plain = discriminator(model)
    D = discriminator(model, **{option: OPTIONS[model][option]})
    own = {k: getattr(v, "shape", None) for k, v in D.state_dict().items()}
    shared = {k: v for k, v in plain.state_dict().items() if k in own and v.shape == own[k]}
    D.load_state_dict(shared, strict=False)
    x = images()
    torch.default_generator.manual_seed(5)
    assert D(x).shape == (8,)
    assert not torch.allclose(D(x), plain(x))


@pytest.mark.parametrize("model", PLAIN)
def test_dropout_after_every_hidden_layer_only(model: str) -> None:
    D = discriminator(model, dropout=0.3)
    for block in D.blocks:
        name, last = list(block.named_children())[-1]
        assert name == "dropout" and last.p == 0.3
    assert sum(isinstance(m, nn.Dropout) for m in D.modules()) == len(D.blocks)
    assert not any(isinstance(m, nn.Dropout) for m in discriminator(model).modules())
    x = images()
    assert not torch.equal(D(x), D(x))
    D.eval()
    assert torch.equal(D(x), D(x))


@pytest.mark.parametrize("model", PLAIN)
def test_noise_stands_where_asked_and_never_on_the_last(model: str) -> None:
    D = discriminator(model, noise_std=0.1, noise_layers=[0, 2])
    assert [hasattr(block, "noise") for block in D.blocks] == [True, False, True]
    assert next(name for name, _ in D.blocks[2].named_children()) == "noise"
    assert [hasattr(block, "noise") for block in discriminator(model, noise_std=0.1).blocks] == [
        True,
        False,
        False,
    ]
    assert hasattr(discriminator(model, noise_std=0.1, noise_layers=1).blocks[1], "noise")
    assert not any(isinstance(m, GaussianNoise) for m in discriminator(model).modules())
    with pytest.raises(ValueError, match="noise_layers 3: choose from 0, 1, 2 .*the last layer never"):
        discriminator(model, noise_std=0.1, noise_layers=(0, 3))
    for wrong in (-1, 4, "first"):
        with pytest.raises(ValueError, match="noise_layers"):
            discriminator(model, noise_std=0.1, noise_layers=(wrong,))


def test_noise_is_annealed_and_off_in_eval_mode() -> None:
    D = discriminator("dcgan", noise_std=0.5, norm="none")
    x = images()
    assert not torch.equal(D(x), D(x))
    set_noise_scale(D, 0.0)
    clean = D(x)
    assert torch.equal(D(x), clean)
    set_noise_scale(D, 1.0)
    assert torch.equal(D.eval()(x), clean)
    assert not any("scale" in name for name in D.state_dict())
    set_noise_scale(discriminator("dcgan"), 0.5)  # nothing to do


def test_noise_is_additive_with_its_deviation() -> None:
    noise = GaussianNoise(0.2)
    set_noise_scale(noise, 0.5)
    for level in (0.0, 3.0):  # the same at black and at white: it does not scale with the image
        added = noise(torch.full((200_000,), level)) - level
        assert added.mean().item() == pytest.approx(0, abs=1e-3)
        assert added.std().item() == pytest.approx(0.1, rel=0.02)


def test_noise_schedule() -> None:
    assert [noise_scale(step, 10) for step in (0, 5, 10, 11)] == [1.0, 0.5, 0.0, 0.0]
    assert noise_scale(10**6, None) == 1.0
    with pytest.raises(ValueError, match="0 steps"):
        noise_scale(0, 0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_second_order_gradient_with_activations_in_place(norm: str, spectral_norm: bool) -> None:
    """A gradient penalty has the gradients that it has without anything in place."""
    D = discriminator("dcgan", norm=norm, spectral_norm=spectral_norm, minibatch_stddev=True).double()
    twin = copy.deepcopy(D)
    for module in twin.modules():
        if isinstance(module, nn.LeakyReLU):
            module.inplace = False
    gradients = []
    for net in (D, twin):
        x = (
            torch.linspace(-1, 1, 4 * 32 * 32, dtype=torch.float64)
            .sin()
            .reshape(4, 1, 32, 32)
            .requires_grad_()
        )
        (grad,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        penalty = grad.square().sum()
        gradients.append(torch.autograd.grad(penalty, list(net.parameters()), materialize_grads=True))
    assert_close(gradients[0], gradients[1])
    assert all(g.abs().sum() > 0 for g in gradients[0][:1])


# Layers


def test_minibatch_stddev_by_hand() -> None:
    """Two groups of two: features (1, 3) and (5, 5) deviate by 1 and 0; (0, 4) and (2, 2) by 2 and 0."""
    x = torch.tensor([[1.0, 5.0], [3.0, 5.0], [0.0, 2.0], [4.0, 2.0]])[:, :, None, None].expand(4, 2, 3, 3)
    out = MinibatchStdDev(group_size=2)(x)
    assert out.shape == (4, 3, 3, 3)
    assert torch.equal(out[:, :2], x)
    expected = torch.tensor([0.5, 0.5, 1.0, 1.0])[:, None, None].expand(4, 3, 3)
    assert_close(out[:, 2], expected, atol=1e-4, rtol=0)


def test_minibatch_stddev_of_equal_samples_has_a_finite_gradient() -> None:
    x = torch.ones(4, 2, 3, 3, requires_grad=True)
    MinibatchStdDev()(x)[:, 2:].sum().backward()
    assert x.grad.isfinite().all()


def test_minibatch_stddev_keeps_full_precision() -> None:
    """Squares of 1e-4 vanish in half precision."""
    x = torch.tensor([1e-4, -1e-4], dtype=torch.float16).repeat(2)[:, None, None, None]
    out = MinibatchStdDev(eps=0.0)(x)
    assert out.dtype == torch.float16
    assert_close(out[:, 1].float(), torch.full((4, 1, 1), 1e-4), rtol=1e-2, atol=0)


def test_minibatch_stddev_names_both_numbers() -> None:
    with pytest.raises(ValueError, match="groups of 4 .* batch of 6"):
        MinibatchStdDev()(torch.zeros(6, 1, 2, 2))


def test_minibatch_discrimination_by_hand() -> None:
    """One kernel of one dimension, T = 1: o = exp(-1) + exp(-3), exp(-1) + exp(-2), exp(-3) + exp(-2)."""
    layer = MinibatchDiscrimination(1, n_kernels=1, kernel_dim=1)
    nn.init.ones_(layer.T.weight)
    x = torch.tensor([[0.0], [1.0], [3.0]])
    out = layer(x)
    assert torch.equal(out[:, :1], x)
    e = [torch.exp(torch.tensor(-float(d))) for d in (1, 2, 3)]
    assert_close(out[:, 1], torch.stack([e[0] + e[2], e[0] + e[1], e[2] + e[1]]))
    assert MinibatchDiscrimination(2 * 9, 4)(torch.randn(5, 2, 3, 3)).shape == (5, 6, 3, 3)


def test_pixel_norm() -> None:
    x = torch.randn(2, 5, 3, 3)
    assert_close(PixelNorm()(x).square().mean(1), torch.ones(2, 3, 3), atol=1e-4, rtol=0)
    half = PixelNorm()(torch.full((1, 2, 1, 1), 300.0, dtype=torch.float16))  # 300^2 overflows
    assert half.dtype == torch.float16
    assert_close(half.float(), torch.ones(1, 2, 1, 1))


# Standing statistics


def test_standing_statistics_are_the_plain_average() -> None:
    G = generator("dcgan")
    batches = [torch.randn(8, 6) for _ in range(3)]
    seen: list[Tensor] = []
    G.blocks[0].norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert standing_statistics(G, batches) is G
    norm = G.blocks[0].norm
    assert not G.training and norm.momentum == 0.1
    assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0))
    assert_close(norm.running_var, torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in seen]).mean(0))
    assert all(p.grad is None for p in G.parameters())


def test_standing_statistics_forget_the_past_and_make_batch_size_irrelevant() -> None:
    G = generator("dcgan")
    z = torch.randn(8, 6)
    with torch.no_grad():
        G.blocks[0].norm.running_mean.fill_(100.0)
    standing_statistics(G, [z, z])
    first = G(z)
    assert_close(torch.cat([G(z[i : i + 1]) for i in range(8)]), first)
    standing_statistics(G, iter([z, z]))
    assert_close(G(z), first)


def test_standing_statistics_of_other_networks() -> None:
    G = generator("dcgan", n_labels=3)
    y = torch.arange(8) % 3
    assert standing_statistics(G, [(torch.randn(8, 6), y)]).G.blocks[0].norm.num_batches_tracked == 1
    plain = generator("dcgan", norm="none")
    before = copy.deepcopy(plain.state_dict())
    assert not standing_statistics(plain, []).training
    assert all(torch.equal(before[k], v) for k, v in plain.state_dict().items())
    with pytest.raises(ValueError, match="at least one batch"):
        standing_statistics(G, [])


# Labels


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("multi_hot", [False, True])
def test_labels_act_on_their_own_sample_alone(model: str, multi_hot: bool) -> None:
    settings = {"norm": "none"} if model in PLAIN else {}
    G, D = generator(model, n_labels=3, **settings), discriminator(model, n_labels=3, **settings)
    for module in D.modules():
        if isinstance(module, MinibatchStdDev):  # it would let the others see the label planes of one
            module.group_size = 1
    y = torch.arange(8) % 3
    other = y.clone()
    other[2] = (y[2] + 1) % 3
    if multi_hot:
        y, other = (nn.functional.one_hot(labels, 3).float() for labels in (y, other))
    z, x = torch.randn(8, 6), images()
    for before, after in ((G(z, y), G(z, other)), (D(x, y), D(x, other))):
        differs = (before - after).flatten(1 if before.dim() > 1 else 0).reshape(8, -1).abs().amax(1)
        assert differs[2] > 1e-7
        assert_close(differs[[0, 1, 3, 4, 5, 6, 7]], torch.zeros(7), atol=1e-7, rtol=0)


def test_multi_hot_labels_are_averaged() -> None:
    G = generator("dcgan", n_labels=3, norm="none")
    embedding = G.embedding
    y = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    table = embedding.table.weight
    expected = torch.stack([table[0], (table[0] + table[1]) / 2, torch.zeros_like(table[0])])
    assert_close(embedding(y, 3), expected)
    assert_close(embedding(y.to(torch.uint8), 3), expected)
    assert_close(embedding(torch.tensor([0, 2, 1]), 3), table[[0, 2, 1]])
    z = torch.randn(2, 6)
    one_hot = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert_close(G(z, one_hot), G(z, torch.tensor([1, 2])))


@pytest.mark.parametrize("model", EQUALISED)
def test_attributes_give_gradients_of_the_size_of_classes(model: str) -> None:
    """Several labels, all, and none, where an embedding of zeros would meet the slope that a norm has at 0."""
    G, D = generator(model, n_labels=4), discriminator(model, n_labels=4)
    z = torch.randn(4, 6)
    named = {f"{i}.{name}": p for i, net in enumerate((G, D)) for name, p in net.named_parameters()}
    for name, p in named.items():
        if name.endswith("strength"):  # StyleGAN's constant of ones is flat without noise: a slope of its own
            nn.init.ones_(p)

    def gradients(y: Tensor) -> dict[str, Tensor]:
        x = G(z, y)
        logits = D(x, y)
        assert x.isfinite().all() and logits.isfinite().all() and logits.abs().min() > 0
        found = torch.autograd.grad(logits.sum(), list(named.values()), allow_unused=True)
        return {name: g for name, g in zip(named, found, strict=True) if g is not None}

    largest = max(g.abs().max() for g in gradients(torch.arange(4)).values())
    several = torch.tensor([[0.0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]])
    for y in (several, torch.zeros(4, 4)):
        found = gradients(y)
        assert all(g.isfinite().all() and g.abs().max() < 5 * largest for g in found.values())
    if MODELS[model].styles:
        assert found["0.mapping.embedding.bias"].abs().max() > 0


def test_conditional_networks_keep_their_outer_sizes() -> None:
    G, D = generator("dcgan", n_labels=10), discriminator("dcgan", n_labels=40)
    assert (G.z_dim, G.G.z_dim, G.img_size, G.img_channels) == (6, 6 + 64, 32, 1)
    assert (D.img_channels, D.D.img_channels, D.img_size) == (1, 1 + 128, 32)


def test_labels_that_do_not_fit_are_refused() -> None:
    G, D = generator("dcgan", n_labels=3), discriminator("dcgan", n_labels=3)
    z, x = torch.randn(4, 6), images(4)
    for net, given in ((G, z), (D, x)):
        with pytest.raises(ValueError, match="conditional"):
            net(given)
        for wrong in (torch.zeros(3, dtype=torch.long), torch.zeros(4), torch.zeros(4, 5)):
            with pytest.raises(ValueError, match=r"\(4,\) of whole numbers or \(4, 3\)"):
                net(given, wrong)
    with pytest.raises(ValueError, match=r"\(N, 6\), not \(4, 7\)"):
        G(torch.randn(4, 7), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="images of 1 channels"):
        D(images(4, channels=2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="more than embed_dim"):
        ConditionalGenerator(generator("dcgan"), 3, 6)
    with pytest.raises(ValueError, match="more than embed_dim"):
        ConditionalDiscriminator(discriminator("dcgan"), 3, 1)


def test_spectral_norm_of_every_layer() -> None:
    D = discriminator("dcgan", n_labels=3, spectral_norm=True)
    assert sum(isinstance(m, SpectralNorm) for m in D.modules()) == 3 + 1 + 1  # hidden, last, embedding
    assert not any(isinstance(m, SpectralNorm) for m in discriminator("dcgan").modules())
    G = generator("dcgan", spectral_norm=True)
    assert sum(isinstance(m, SpectralNorm) for m in G.modules()) == 4


@pytest.mark.parametrize("model", EQUALISED)
def test_spectral_norm_of_equalised_layers_is_refused(model: str) -> None:
    with pytest.raises(ValueError, match=f"--spectral_norm_g: {model} scales its weights"):
        generator(model, spectral_norm=True)
    with pytest.raises(ValueError, match=f"--spectral_norm_d: {model} scales its weights"):
        discriminator(model, spectral_norm=True)


@pytest.mark.parametrize("model", ["mlp", "stylegan2"])
def test_sizes_that_are_not_square(model: str) -> None:
    for img_size in ((20, 16), [20, 16]):  # a list as JSON holds it
        G, D = generator(model, img_size=img_size), discriminator(model, img_size=img_size)
        x = G(torch.randn(4, 6))
        assert x.shape == (4, 1, 20, 16) and D(x).shape == (4,)
        assert G.img_size == D.img_size == (20, 16)
    assert generator(model, img_size=(16, 16)).img_size == 16
    for wrong in ((16,), (16, 0), 1.5, "16"):
        with pytest.raises(ValueError, match="img_size"):
            generator(model, img_size=wrong)


def test_number_checks() -> None:
    with pytest.raises(ValueError, match="width True must be a whole number, at least 1"):
        layers.check_number("width", True, 1, whole=True)
    layers.check_number("dropout", 0, 0, 1)
