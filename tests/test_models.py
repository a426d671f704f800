"""Every model of the table: shapes, gradients, repeats, state, sizes, options; and the layers they share."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import modelling
from augmentation.instance_noise import noise_scale
from images.sources import parse_size
from modelling import CONDITIONS, build_discriminator, build_generator, layers, own_settings
from modelling.cgan import ConditionalDiscriminator, ConditionalGenerator
from modelling.conditioning import CLASS_HEADS, CONDITIONAL_NORMS, as_output
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
from ops.spectral_norm import SpectralNorm
from tests.running import SMALL, differing

IMAGE = {"img_size": 32, "img_channels": 1}


@dataclass(frozen=True)
class Family:
    """What the tests must know of a model.

    options: settings of D, each of which must change its output or its training; wrong: settings of D out of range;
    tanh: images end in [-1, 1]; equalised: sides, of "gd", whose weights are scaled by their fan-in, and take no
    spectral norm; logits: shape of those of an image, where they are several. A model that is not in FAMILIES has these
    defaults: nothing more is known of its settings.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    wrong: Sequence[dict[str, object]] = ()
    tanh: bool = True
    equalised: str = ""
    logits: tuple[int, ...] = ()


_WIDTHS = [{"width": 0}, {"width": 1.5}, {"width": "wide"}]
_BASES = [{"channel_base": 0}, {"channel_base": 99.5}, {"channel_base": "wide"}, {"channel_max": 0}]
_PLAIN = Family(
    {
        "activation": "selu",
        "dropout": 0.5,
        "noise_std": 0.5,
        "minibatch_stddev": True,
        "minibatch_discrimination": 3,
    },
    [
        *_WIDTHS, {"dropout": 1.0}, {"dropout": "x"}, {"noise_std": -1}, {"activation": "gelu"}, {"norm": "batchnorm"},
        {"minibatch_discrimination": -1},
    ],
)  # fmt: skip
_PROJECTED = Family(
    {"separable": True, "resolution": 64},
    [*_WIDTHS, {"resolution": 48}, {"resolution": 0}, {"separable": 2}, {"img_channels": 2}],
    tanh=False,
    logits=(4,),
)
_EQUALISED = partial(Family, tanh=False, equalised="gd")
PLAIN = ("dcgan", "simple_cnn", "mlp")  # of hidden blocks alike
# Those of a game of their own keep its contract, not that of latents and images.
MODELS = {name: row for name, row in modelling.MODELS.items() if row.latents}
FAMILIES = dict.fromkeys(MODELS, Family()) | {
    **dict.fromkeys(PLAIN, _PLAIN),
    "rect_dcgan": Family({"dropout": 0.5, "noise_std": 0.5}, [*_WIDTHS, {"dropout": 1.0}, {"noise_std": -1}]),
    "veegan": Family({}, [*_WIDTHS, {"norm": "instance"}, {"z_dim": 0}, {"z_dim": None}]),
    "infogan": Family(
        {"architecture": "conv"},
        [
            *_WIDTHS,
            {"architecture": "fc"},
            {"norm": "instance"},
            {"n_categories": 1},
            {"n_continuous": -1},
            {"joint": 2},
            {"category_weight": -1},
            {"continuous_weight": "x"},
        ],
    ),
    "sngan": Family({}, _WIDTHS),
    "sndcgan": Family({}, _WIDTHS),
    "sagan": Family({}, [*_WIDTHS, {"attention": 5}]),
    "biggan": Family({"deep": True}, [*_WIDTHS, {"attention": 5}, {"init": "zeros"}, {"deep": "very"}]),
    "fastgan": Family({}, _WIDTHS, tanh=False, logits=(1, 5, 5)),
    "projected": _PROJECTED,
    "projected_stylegan2": replace(_PROJECTED, equalised="g"),
    "progressive_gan": _EQUALISED(
        {"minibatch_stddev": False, "equalised": False},
        [*_BASES, {"equalised": "no"}, {"minibatch_stddev": 4}],
    ),
    "stylegan": _EQUALISED(
        {"minibatch_stddev": False, "blur": False}, [*_BASES, {"blur": 2}, {"minibatch_stddev": "no"}]
    ),
    "stylegan2": _EQUALISED(
        {"group_size": 2, "architecture": "orig", "conv_clamp": 0.01},
        [
            *_BASES,
            {"group_size": 0},
            {"architecture": "skip"},
            {"conv_clamp": 0},
            {"n_half": -1},
            {"mapping_layers": 0},
        ],
    ),
    "r3gan": Family(
        {"n_blocks": 2, "expansion": 4},
        [*_BASES, {"group_size": 0}, {"n_blocks": 10**9}, {"expansion": 0}, {"n_half": -1}],
        tanh=False,
    ),
}
EQUALISED = [model for model, family in FAMILIES.items() if family.equalised == "gd"]
SEEING = [model for model, row in MODELS.items() if row.conditions_g]  # labels
# (model, condition) of each side
WAYS = {
    side: [(model, way) for model, row in MODELS.items() for way in getattr(row, f"conditions_{side}")]
    for side in ("g", "d")
}


def test_every_model_is_in_the_tables() -> None:
    """Narrow by settings of its own, where it has some."""
    assert SMALL.keys() == modelling.MODELS.keys() and FAMILIES.keys() == MODELS.keys()
    of_stylegan2 = {"channel_base": 128, "channel_max": 8, "mapping_layers": 2}
    assert SMALL["dcgan"] == ({"width": 4}, {"width": 4})
    assert SMALL["infogan"] == ({"width": 4, "n_categories": 3},) * 2
    assert SMALL["stylegan2"] == (of_stylegan2 | {"w_dim": 8}, of_stylegan2)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


def generator(model: str, **settings: object) -> nn.Module:
    """A narrow one of 32 px and one channel."""
    return build_generator(model, **IMAGE | SMALL[model][0] | {"z_dim": 6} | settings)


def discriminator(model: str, **settings: object) -> nn.Module:
    """A narrow one of 32 px and one channel."""
    return build_discriminator(model, **IMAGE | SMALL[model][1] | {"z_dim": 6} | settings)


def of_d(model: str, **settings: object) -> dict[str, object]:
    """Those of the settings that the model's D takes."""
    known = own_settings(MODELS[model].Discriminator)
    return {name: value for name, value in settings.items() if name in known}


def open_gates(net: nn.Module) -> None:
    """Branches whose only, or last, weights start at 0 let nothing behind them learn at the first step."""
    for p in net.parameters():
        if p.dim() == 0 and not p:
            nn.init.ones_(p)
        elif p.dim() == 4 and not p.any():
            nn.init.normal_(p, std=0.1)


def said(D: nn.Module, x: Tensor, y: Tensor | None = None) -> Tensor:
    """All that D says of each image, (N, n): the logit, and what else there is."""
    logit, further = as_output(D(x, y))
    return logit[:, None] if further is None else torch.cat([logit[:, None], further], 1)


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def shapes(net: nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in net.named_parameters()}


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
    bounded = bool(G(z).abs().max() <= 1)
    assert bounded == FAMILIES[model].tanh, (
        f"say Family(tanh={bounded}) of {model!r} in FAMILIES of {__file__}"
    )
    assert as_output(D(x)).logit.shape == (8, *FAMILIES[model].logits)
    assert (G.z_dim, G.img_size, G.img_channels) == (6, 32, channels)
    assert (D.img_size, D.img_channels) == (32, channels)


@pytest.mark.parametrize(
    ("model", "spectral_norm"),
    [(m, False) for m in MODELS] + [(m, True) for m in MODELS if m not in EQUALISED],
)
@pytest.mark.parametrize("labels", [0, 3])
def test_gradient_reaches_every_parameter(model: str, labels: int, spectral_norm: bool) -> None:
    """In the course of growing, for networks that grow: each size has image layers of its own."""
    labels = labels if model in SEEING else 0
    of_g = spectral_norm and "g" not in FAMILIES[model].equalised
    G = generator(model, n_labels=labels, spectral_norm=of_g)
    options = of_d(model, minibatch_stddev=True, minibatch_discrimination=2)
    D = discriminator(model, n_labels=labels, spectral_norm=spectral_norm, **options)
    open_gates(G), open_gates(D)
    y = torch.arange(8) % 3
    first = MODELS[model].grows_from
    for size in [32] if first is None else [s for s in (4, 8, 16, 32) if s >= first]:
        for net in (G, D):
            set_stage(net, size, 0.5)
        said(D, G(torch.randn(8, 6), y), y).square().sum().backward()
    for net in (G, D):
        for name, p in net.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("model", MODELS)
def test_seeded_repeat_and_state_dict(model: str) -> None:
    def pair() -> tuple[nn.Module, nn.Module]:
        options = of_d(model, noise_std=0.1, minibatch_discrimination=2)
        options["spectral_norm"] = model not in EQUALISED
        labels = 3 if model in SEEING else 0
        return generator(model, n_labels=labels), discriminator(model, n_labels=labels, **options)

    z, y = torch.randn(4, 6), torch.arange(4) % 3
    torch.default_generator.manual_seed(1)
    G, D = (net.eval() for net in pair())
    x = G(z, y)
    torch.default_generator.manual_seed(1)
    G2, D2 = (net.eval() for net in pair())
    assert torch.equal(G2(z, y), x) and torch.equal(said(D2, x, y), said(D, x, y))
    G3, D3 = (net.eval() for net in pair())
    assert not torch.equal(G3(z, y), x) and not torch.equal(said(D3, x, y), said(D, x, y))
    G3.load_state_dict(G.state_dict()), D3.load_state_dict(D.state_dict())
    assert torch.equal(G3(z, y), x) and torch.equal(said(D3, x, y), said(D, x, y))


@pytest.mark.parametrize("model", MODELS)
def test_default_floating_type_is_followed(model: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        options = of_d(model, minibatch_stddev=True, noise_std=0.1)
        G, D = generator(model), discriminator(model, **options)
        assert said(D, G(torch.randn(4, 6))).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("model", MODELS)
def test_half_precision_under_autocast(model: str) -> None:
    G = generator(model)
    options = of_d(model, noise_std=0.1, minibatch_stddev=True, minibatch_discrimination=2)
    D = discriminator(model, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert said(D, G(torch.randn(4, 6))).isfinite().all()


@pytest.mark.parametrize("model", MODELS)
def test_wrong_shapes_are_refused(model: str) -> None:
    with pytest.raises(ValueError, match=r"\(N, 6\), not \(2, 7\)"):
        generator(model)(torch.randn(2, 7))
    with pytest.raises(ValueError, match=r"\(N, 1, 32, 32\), not \(2, 1, 16, 16\)"):
        discriminator(model)(images(2, size=16))


@pytest.mark.parametrize("model", MODELS)
def test_unknown_settings_name_the_legal_ones(model: str) -> None:
    row, sides = MODELS[model], {}
    for side, network in (("g", row.Generator), ("d", row.Discriminator)):
        listed = ", ".join(own_settings(network))
        build = partial(build_generator, z_dim=4) if side == "g" else build_discriminator
        with pytest.raises(ValueError, match=f"no setting 'wdth'; {side}_kwargs takes {listed}$"):
            build(model, **IMAGE, wdth=3)
        sides[side] = set(listed.split(", "))
        assert sides[side].isdisjoint({"self", "img_size", "img_channels", "z_dim", "n_labels", "condition"})
    assert SMALL[model][0].keys() <= sides["g"]
    assert SMALL[model][1].keys() | FAMILIES[model].options.keys() <= sides["d"]


@pytest.mark.parametrize(
    ("model", "settings"),
    [(model, settings) for model in FAMILIES for settings in [*FAMILIES[model].wrong, {"img_channels": 0}]],
)
def test_settings_out_of_range_are_refused(model: str, settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        discriminator(model, **settings)


def test_unknown_model_names_the_known() -> None:
    with pytest.raises(ValueError, match=f"unknown model 'dcgn': choose from {', '.join(modelling.MODELS)}$"):
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
        ("rect_dcgan", (157, 128), 9_516_672, 6_958_080),
    ],
)
def test_parameter_counts(model: str, img_size: int | tuple[int, int], of_g: int, of_d: int) -> None:
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
    [("dcgan", 30, 32), ("dcgan", 8, 16), ("dcgan", 100, 96), ("dcgan", 512, 448), ("simple_cnn", 64, 56)]
    + [("progressive_gan", 29, 28), ("progressive_gan", 4, 8), ("stylegan", 100, 96), ("stylegan2", 4, 8)]
    + [("sndcgan", 72, 64), ("infogan", 30, 32), ("rect_dcgan", 30, 29)],
)
def test_sizes_refused_with_the_nearest(model: str, img_size: int, nearest: int) -> None:
    for build in (generator, discriminator):
        with pytest.raises(ValueError, match=f"not {img_size}: the nearest is img_size {nearest}$"):
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
        "plain_instance": nn.InstanceNorm2d,
        "pixel": PixelNorm,
    }
    for net, expected in ((G, [True] * 3), (D, [False, True, True])):
        expected = [norm != "none" and has for has in expected]
        assert [hasattr(block, "norm") for block in net.blocks] == expected
        assert all(isinstance(block.norm, kinds[norm]) for block in net.blocks if hasattr(block, "norm"))
    # A bias replaces the shift of a norm; D's first layer and both last layers never have one.
    biased = norm in ("none", "plain_instance", "pixel")
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
    ("model", "option"), [(model, option) for model in FAMILIES for option in FAMILIES[model].options]
)
def test_each_option_acts(model: str, option: str) -> None:
    plain = discriminator(model)
    open_gates(plain)  # before they are shared: gates opened by other draws would differ by these
    D = discriminator(model, **{option: FAMILIES[model].options[option]})
    own = {k: getattr(v, "shape", None) for k, v in D.state_dict().items()}
    shared = {k: v for k, v in plain.state_dict().items() if k in own and v.shape == own[k]}
    D.load_state_dict(shared, strict=False)
    open_gates(D)
    x = images()
    torch.default_generator.manual_seed(5)
    assert as_output(D(x)).logit.shape == (8, *FAMILIES[model].logits)
    assert not torch.allclose(said(D, x), said(plain, x))


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


Y = torch.arange(8) % 3
OTHER = torch.where(torch.arange(8) == 2, (Y + 1) % 3, Y)  # of sample 2 alone


def conditional(side: str, model: str, way: str, **settings: object) -> nn.Module:
    """G or D of 3 labels in eval mode, with weights that let its signals through: tables that start at 0 too."""
    build = generator if side == "g" else discriminator
    net = build(model, n_labels=3, condition=way, **settings).eval()
    for module in net.modules():
        if isinstance(module, MinibatchStdDev):  # it would let the others see the label planes of one
            module.group_size = 1
    for p in net.parameters():
        if p.dim() > 1 and not FAMILIES[model].equalised:
            nn.init.kaiming_normal_(p)
    return net


def as_labels(y: Tensor, multi_hot: bool) -> Tensor:
    return nn.functional.one_hot(y, 3).float() if multi_hot else y


def differences(before: Tensor, after: Tensor) -> Tensor:
    """Largest difference of each sample (N,)."""
    return (before - after).reshape(len(before), -1).abs().amax(1)


def only_the_third_differs(before: Tensor, after: Tensor) -> None:
    differs = differences(before, after)
    assert differs[2] > 1e-7
    assert_close(differs[[0, 1, 3, 4, 5, 6, 7]], torch.zeros(7), atol=1e-7, rtol=0)


@pytest.mark.parametrize(("model", "way"), WAYS["g"])
@pytest.mark.parametrize("multi_hot", [False, True])
def test_labels_of_g_act_on_their_own_sample_alone(model: str, way: str, multi_hot: bool) -> None:
    G, z = conditional("g", model, way), torch.randn(8, 6)
    only_the_third_differs(G(z, as_labels(Y, multi_hot)), G(z, as_labels(OTHER, multi_hot)))


@pytest.mark.parametrize(("model", "way"), WAYS["d"])
@pytest.mark.parametrize("multi_hot", [False, True])
def test_labels_of_d_act_on_their_own_sample_alone(model: str, way: str, multi_hot: bool) -> None:
    """Where D classifies they act in its loss alone, and the class logits are what it says without being told."""
    D, x = conditional("d", model, way), images()
    before, after = (as_output(D(x, as_labels(y, multi_hot))) for y in (Y, OTHER))
    assert before.logit.shape == (8, *FAMILIES[model].logits)
    head = CLASS_HEADS.get(way)
    if head is None or not head.classifies:
        assert before.classes is after.classes is None
        only_the_third_differs(before.logit, after.logit)
        return
    assert before.classes.shape == (8, 3)
    assert torch.equal(before.logit, after.logit) and torch.equal(before.classes, after.classes)
    moved = x.clone()
    moved[2] = -x[2]
    seen = as_output(D(moved, as_labels(Y, multi_hot)))
    only_the_third_differs(before.logit, seen.logit)
    only_the_third_differs(before.classes, seen.classes)


@pytest.mark.parametrize(
    ("side", "model", "way"), [(side, *way) for side, ways in WAYS.items() for way in ways]
)
def test_gradient_reaches_every_parameter_in_every_way(side: str, model: str, way: str) -> None:
    """In training mode, of classes of which the batch has all; at the end of growing."""
    net = conditional(side, model, way).train()
    open_gates(net)
    set_stage(net, 32, 0.5)
    if side == "g":
        out = [net(torch.randn(8, 6), Y)]
    else:
        out = [part for part in as_output(net(images(), Y)) if part is not None]
    sum((part * torch.randn_like(part)).square().sum() for part in out).backward()
    grown = {"to_image", "from_image"}  # of the sizes that are passed
    for name, p in net.named_parameters():
        if MODELS[model].grows_from is None or grown.isdisjoint(name.split(".")):
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("side", ["g", "d"])
@pytest.mark.parametrize("model", SEEING)
def test_the_first_way_is_the_one_without_a_word(model: str, side: str) -> None:
    build = generator if side == "g" else discriminator
    first = getattr(MODELS[model], f"conditions_{side}")[0]
    nets = []
    for settings in ({}, {"condition": first}, {"condition": None}):
        torch.default_generator.manual_seed(3)
        nets.append(build(model, n_labels=3, **settings))
    for other in nets[1:]:
        assert differing({"net": nets[0].state_dict()}, {"net": other.state_dict()}, ("net",)) == []
    bare, told = build(model), build(model, condition=first)  # without labels it says nothing
    assert shapes(bare) == shapes(told) != shapes(nets[0])


@pytest.mark.parametrize("model", [m for m in MODELS if m not in SEEING])
def test_models_that_see_no_labels_say_so(model: str) -> None:
    for build in (generator, discriminator):
        with pytest.raises(ValueError, match=f"{model} sees no labels: leave conditional out$"):
            build(model, n_labels=3)


@pytest.mark.parametrize("model", SEEING)
def test_refused_ways_list_what_the_model_knows(model: str) -> None:
    for side, build in (("g", generator), ("d", discriminator)):
        known = getattr(MODELS[model], f"conditions_{side}")
        for wrong in {*CONDITIONS[side], "film"} - set(known):
            words = f"condition_{side} {wrong}: {model}'s {side.upper()} sees labels by {', '.join(known)}$"
            with pytest.raises(ValueError, match=words):
                build(model, n_labels=3, condition=wrong)


def test_ways_of_all_models() -> None:
    """What can be typed is what some model knows, and every norm and head is of use to some model."""
    for side, table in (("g", CONDITIONAL_NORMS), ("d", CLASS_HEADS)):
        assert set(CONDITIONS[side]) == {way for _, way in WAYS[side]} >= table.keys() | {"concat"}
        assert len(CONDITIONS[side]) == len(set(CONDITIONS[side]))


def test_attributes_are_rows_of_length_one() -> None:
    """Of concatenated embeddings too: a sum over the root of their number."""
    G = generator("dcgan", n_labels=3, norm="none")
    embedding = G.embedding
    y = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    table = embedding.table.weight
    expected = torch.stack([table[0], (table[0] + table[1]) / 2**0.5, torch.zeros_like(table[0])])
    assert_close(embedding(y, 3), expected)
    assert_close(embedding(y.to(torch.uint8), 3), expected)
    assert_close(embedding(torch.tensor([0, 2, 1]), 3), table[[0, 2, 1]])


@pytest.mark.parametrize(
    ("side", "model", "way"), [(side, *way) for side, ways in WAYS.items() for way in ways]
)
def test_one_attribute_is_the_class(side: str, model: str, way: str) -> None:
    net = conditional(side, model, way)
    given = torch.randn(8, 6) if side == "g" else images()
    of_class, of_attribute = (as_output(net(given, as_labels(Y, kind))) for kind in (False, True))
    assert_close(of_attribute, of_class, atol=1e-6, rtol=1e-5)


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
    with pytest.raises(ValueError, match=f"spectral_norm_g: {model} scales its weights"):
        generator(model, spectral_norm=True)
    with pytest.raises(ValueError, match=f"spectral_norm_d: {model} scales its weights"):
        discriminator(model, spectral_norm=True)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(40, 32), (32, 56), (48, 48)])
def test_sizes_that_are_not_powers_of_two(model: str, shape: tuple[int, int]) -> None:
    """All parameters learn; of networks that grow at every stage, in a fade."""
    first = MODELS[model].grows_from
    G, D = generator(model, img_size=list(shape)), discriminator(model, img_size=shape)  # JSON has lists
    assert G.img_size == D.img_size == (shape if shape[0] != shape[1] else shape[0])
    open_gates(G), open_gates(D)
    for k in [0] if first is None else reversed(range(4 if first == 4 else 3)):
        h, w = shape[0] >> k, shape[1] >> k
        for net in (G, D):
            set_stage(net, h, 0.5)
        x = G(torch.randn(8, 6))
        assert x.shape == (8, 1, h, w)
        said(D, x).square().sum().backward()
    for net in (G, D):
        for name, p in net.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name
    assert G.eval()(torch.randn(2, 6)).shape == (2, 1, *shape)
    with pytest.raises(ValueError, match=rf"\(N, 1, {shape[0]}, {shape[1]}\), not"):
        D(torch.zeros(2, 1, shape[0], shape[1] + 8))


@pytest.mark.parametrize("model", MODELS)
def test_the_same_parameters_whatever_the_longer_side(model: str) -> None:
    """All but the layers next to the smallest maps, at most five, depends on the number of doublings alone."""
    square, longer = (
        {**shapes(generator(model, img_size=s)), **shapes(discriminator(model, img_size=s))}
        for s in (32, (32, 48))
    )
    assert square.keys() == longer.keys()
    assert sum(square[name] != longer[name] for name in square) <= 5


@pytest.mark.parametrize("model", MODELS)
def test_what_is_no_size_is_refused(model: str) -> None:
    assert generator(model, img_size=(32, 32)).img_size == 32
    for wrong in ((16,), (16, 0), 1.5, "16"):
        with pytest.raises(ValueError, match="img_size"):
            generator(model, img_size=wrong)


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("shape", [(80, 64), (64, 112), (160, 128), (48, 32)])
@pytest.mark.parametrize(
    "model", ["dcgan", "sngan", "sagan", "biggan", "stylegan", "progressive_gan", "fastgan", "projected"]
)
def test_rectangles_of_every_depth(model: str, shape: tuple[int, int], labels: int) -> None:
    """With labels where the model sees them; attention is on maps of 8 h0 x 8 w0."""
    labels = labels if model in SEEING else 0
    z_dim = {"z_dim": 30 if min(shape) != 128 else 36} if model == "biggan" else {}
    with torch.device("meta"):
        G = generator(model, img_size=shape, n_labels=labels, **z_dim)
        D = discriminator(model, img_size=shape, n_labels=labels)
        y = torch.zeros(4, dtype=torch.int64) if labels else None
        x = G(torch.empty(4, G.z_dim), y)
        assert x.shape == (4, 1, *shape) and as_output(D(x, y)).logit.shape[0] == 4


POSSIBLE = [
    # model, asked for, nearest
    ("dcgan", (157, 128), "160x128"), ("dcgan", (16, 41), "16x40"), ("dcgan", (500, 500), "448"),
    ("dcgan", (9, 12), "16"),
    ("sngan", (20, 130), "32x128"), ("sngan", (250, 250), "224"), ("sagan", (130, 100), "128x96"),
    ("biggan", (200, 150), "192x160"), ("progressive_gan", (218, 178), "224x192"), ("stylegan", (100, 75), "96x80"),
    ("stylegan2", (157, 128), "160x128"), ("simple_cnn", (32, 60), "32x64"), ("sndcgan", (31, 90), "32x88"),
    ("infogan", (29, 33), "28x32"), ("rect_dcgan", (157, 130), "157x128"), ("rect_dcgan", (158, 128), "157x128"),
    ("fastgan", (157, 128), "160x128"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "asked", "nearest"), POSSIBLE)
def test_the_nearest_rectangle_is_named_and_possible(
    model: str, asked: tuple[int, int], nearest: str
) -> None:
    for build in (generator, discriminator):
        with pytest.raises(ValueError, match=f"nearest is img_size {nearest}$") as error:
            build(model, img_size=asked)
        assert str(error.value).count("\n") == 0
        build(model, img_size=parse_size(nearest))


def test_number_checks() -> None:
    with pytest.raises(ValueError, match="width True must be a whole number, at least 1"):
        layers.check_number("width", True, 1, whole=True)
    layers.check_number("dropout", 0, 0, 1)
