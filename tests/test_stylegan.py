"""StyleGAN: styles, mixing, truncation and noise; sizes, stages and fades; labels; gradients."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from modelling import param_groups, running_statistics
from modelling.growing import Stage, set_stage
from modelling.progressive_gan import DownBlock, UpBlock
from modelling.stylegan import (
    BlurredDoublingConv2d,
    BlurredDownBlock,
    Discriminator,
    Generator,
    StyledLayer,
    adain,
)
from modelling.styles import NOISES

SIZES = (8, 16, 32)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


def generator(**settings: object) -> Generator:
    """A narrow one of 32 px."""
    sizes = {"img_size": 32, "img_channels": 3, "z_dim": 6, "w_dim": 8, "mapping_layers": 3}
    return Generator(**{**sizes, "channel_base": 128, "channel_max": 16, **settings})


def discriminator(**settings: object) -> Discriminator:
    """A narrow one of 32 px."""
    sizes = {"img_size": 32, "img_channels": 3, "channel_base": 128, "channel_max": 16}
    return Discriminator(**{**sizes, **settings})


def at(net: nn.Module, size: int, alpha: float = 1.0) -> nn.Module:
    """The network, moved to a stage."""
    set_stage(net, size, alpha)
    return net


def noisy(G: Generator) -> Generator:
    """The same network with noise that can be seen: its strengths start at 0."""
    for name, p in G.named_parameters():
        if name.endswith("strength"):
            nn.init.ones_(p)
    return G


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# Sizes


def test_parameter_counts() -> None:
    """The paper gives G 26.2 M at 1024 px, 26,219,627 in its published code.

    That has an image layer at 4 px (1,539) and a bias on the constant (512), both left out here.
    """
    with torch.device("meta"):
        G = Generator(img_size=1024, img_channels=3, z_dim=512)
        D = Discriminator(img_size=1024, img_channels=3)
    assert n_parameters(G) == 26_217_576 == 26_219_627 - 1_539 - 512
    assert (n_parameters(G.mapping), n_parameters(D)) == (2_101_248, 23_085_201)
    assert G.n_layers == 18


def test_full_networks_on_the_meta_device() -> None:
    with torch.device("meta"):
        G = Generator(img_size=256, img_channels=3, z_dim=512)
        x = G(torch.empty(2, 512), None, torch.empty(2, 512), torch.empty(2, 2))
        assert Discriminator(img_size=256, img_channels=3)(x).shape == (2,)
        assert G.state_dict()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_shapes_at_every_stage(size: int, alpha: float) -> None:
    G, D = at(generator(), size, alpha), at(discriminator(), size, alpha)
    z = torch.randn(4, 6)
    x = G(z)
    assert x.shape == (4, 3, size, size)
    assert D(x).shape == (4,)
    assert G.n_layers == 2 * size.bit_length() - 4
    assert G.styles(z).shape == (4, G.n_layers, 8)
    sheet = G.eval()(z)
    assert sheet.shape == (4, 3, 32, 32)
    assert_close(sheet[:, :, :: 32 // size, :: 32 // size], x)  # noise has no strength yet


def test_the_smallest_is_8_px() -> None:
    G, D = generator(img_size=8), discriminator(img_size=8)
    assert G.n_layers == 4
    assert D(G(torch.randn(4, 6))).shape == (4,)


def test_wrong_shapes_and_settings_are_refused() -> None:
    G = generator()
    with pytest.raises(ValueError, match=r"\(N, 6\), not \(2, 7\)"):
        G(torch.zeros(2, 7))
    with pytest.raises(ValueError, match=r"\(N, 3, 8, 8\), not \(2, 3, 32, 32\)"):
        at(discriminator(), 8)(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"\(N, 8, 8\) as it is now, not \(2, 6, 8\)"):
        G.synthesis(torch.zeros(2, 6, 8))
    with pytest.raises(
        ValueError, match="unknown noise 'loud': choose from none, random, repeatable, constant"
    ):
        G(torch.zeros(2, 6), noise="loud")
    with pytest.raises(ValueError, match=r"z_mix \(2, 6\) and u \(2, 2\), not None and \(2, 2\)"):
        G(torch.zeros(2, 6), u=torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"not \(2, 6\) and \(2,\)"):
        G(torch.zeros(2, 6), None, torch.zeros(2, 6), torch.zeros(2))
    with pytest.raises(ValueError, match="mixing 1.5 must be a probability"):
        generator(mixing=1.5)
    with pytest.raises(ValueError, match="nearest is img_size 40"):
        generator(img_size=42)
    with pytest.raises(ValueError, match="mapping_layers 0 must be"):
        generator(mapping_layers=0)
    with pytest.raises(ValueError, match="unknown blur 'no': choose from True, False"):
        discriminator(blur="no")


# Layers


def test_adain_by_hand() -> None:
    """Maps (1, 3) and (0, 8): -1, 1 each; scales 1 + 1 and 1 - 1, shifts 5 and 7."""
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 8.0]]]])
    assert_close(
        adain(x, torch.tensor([[1.0, -1.0, 5.0, 7.0]])), torch.tensor([[[[3.0, 7.0]], [[7.0, 7.0]]]])
    )


def test_adain_is_each_samples_instance_norm() -> None:
    x, style = torch.randn(3, 4, 5, 6) * 3 + 1, torch.randn(3, 8)
    expected = F.instance_norm(x, eps=1e-8) * (style[:, :4, None, None] + 1) + style[:, 4:, None, None]
    assert_close(adain(x, style), expected)
    half = adain(x.bfloat16(), style.bfloat16())
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), expected, atol=0.1, rtol=0.05)


def test_layer_is_conv_noise_activation_style_in_this_order() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    layer = StyledLayer(conv, 4, 5, 6, noise=True)
    nn.init.normal_(layer.noise.strength)
    x, w = torch.randn(2, 3, 5, 5), torch.randn(2, 6)
    h = conv(x) + layer.noise.strength[:, None, None] * layer.noise.constant
    expected = adain(F.leaky_relu(h, 0.2), layer.to_style(w))
    assert_close(layer(x, w, "constant"), expected)


def test_images_come_from_a_constant() -> None:
    """Ones at the start; equal styles make equal images whatever the batch, unequal ones do not."""
    G = generator().eval()
    assert torch.equal(G.blocks[0].constant, torch.ones(16, 4, 4))
    ws = G.styles(torch.randn(2, 6))
    x = G.synthesis(ws[[0, 0, 1]])
    assert_close(x[0], x[1])
    assert not torch.allclose(x[0], x[2], atol=1e-3)
    before = G.blocks[0].constant.clone()
    G.train().synthesis(ws)
    assert torch.equal(G.blocks[0].constant, before)  # not changed in place


def test_each_style_acts_on_its_own_layer() -> None:
    """A change of style i moves the image, and the maps of layer i and later ones only."""
    G = generator().eval()
    ws = G.styles(torch.randn(2, 6))
    layers = [layer for block in G.blocks for layer in (block.layer0, block.layer1)]
    maps: list[Tensor] = []
    for layer in layers:
        layer.register_forward_hook(lambda module, args, out: maps.append(out))

    def maps_of(styles: Tensor) -> list[Tensor]:
        maps.clear()
        G.synthesis(styles)
        return list(maps)

    plain = maps_of(ws)
    for i in range(G.n_layers):
        moved = ws.clone()
        moved[:, i] += 1
        changed = [not torch.equal(a, b) for a, b in zip(plain, maps_of(moved), strict=True)]
        assert changed == [j >= i for j in range(G.n_layers)]


def blurred(x: Tensor) -> Tensor:
    """[1, 2, 1] / 4 along both axes, zeros around, tap by tap."""
    x = F.pad(x, (1, 1, 1, 1))
    x = (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
    return (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4


def repeated(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(x: Tensor) -> Tensor:
    return (x[:, :, ::2] + x[:, :, 1::2])[..., ::2] / 4 + (x[:, :, ::2] + x[:, :, 1::2])[..., 1::2] / 4


def convolved(x: Tensor, layer: nn.Module) -> Tensor:
    """Zeros around, without the bias: the sum over the nine taps."""
    weight, (h, w) = layer.scaled_weight(), x.shape[2:]
    x = F.pad(x, (1, 1, 1, 1))
    taps = [(i, j) for i in range(3) for j in range(3)]
    return sum(
        torch.einsum("oc,nchw->nohw", weight[:, :, i, j], x[:, :, i : i + h, j : j + w]) for i, j in taps
    )


def with_drawn_parameters(net: nn.Module) -> nn.Module:
    """In float64, no parameter at a special value."""
    for p in net.double().parameters():
        nn.init.normal_(p)
    return net


# either form of the fused layers
@pytest.mark.parametrize("shape", [(4, 4), (6, 10), (16, 16), (34, 40)])
def test_blurred_doubling_is_the_papers_sequence(shape: tuple[int, int]) -> None:
    """Repeat pixels, convolve, filter with [1, 2, 1], bias: up to the border."""
    conv = with_drawn_parameters(BlurredDoublingConv2d(3, 5))
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    assert_close(conv(x), blurred(convolved(repeated(x), conv)) + conv.bias[:, None, None])


@pytest.mark.parametrize("shape", [(4, 4), (6, 10), (16, 16), (34, 40)])
def test_blurred_halving_is_the_papers_sequence(shape: tuple[int, int]) -> None:
    """Convolve, activate, filter with [1, 2, 1], convolve, average, bias, activate: up to the border."""
    block = with_drawn_parameters(BlurredDownBlock(3, 5))
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    h = F.leaky_relu(convolved(x, block.conv0) + block.conv0.bias[:, None, None], 0.2)
    h = halved(convolved(blurred(h), block.conv1)) + block.conv1.bias[:, None, None]
    assert_close(block(x), F.leaky_relu(h, 0.2))


@pytest.mark.parametrize("img_size", [32, (40, 64)])
def test_networks_are_the_papers_layers(img_size: int | tuple[int, int]) -> None:
    """Both written out in plain sums, in float64, at full size."""
    G = with_drawn_parameters(generator(img_size=img_size)).eval()
    D = with_drawn_parameters(discriminator(img_size=img_size, minibatch_stddev=False))
    z = torch.randn(2, 6, dtype=torch.float64)

    def styled(h: Tensor, layer: StyledLayer, w: Tensor) -> Tensor:
        """Noise, activation, instance norm, style."""
        h = F.leaky_relu(h + layer.noise.strength[:, None, None] * layer.noise.constant, 0.2)
        h = h - h.mean((2, 3), keepdim=True)
        h = h / (h.square().mean((2, 3), keepdim=True) + 1e-8).sqrt()
        style = w @ layer.to_style.scaled_weight().T + layer.to_style.bias
        scale, shift = style[:, : h.shape[1], None, None], style[:, h.shape[1] :, None, None]
        return h * (scale + 1) + shift

    w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for (
        layer
    ) in G.mapping.layers:  # He's scale, 0.01 of the rate for weight and bias alike: no gain behind them
        w = F.leaky_relu(w @ (layer.weight * (2 / layer.weight.shape[1]) ** 0.5).T + layer.bias, 0.2)
    first, *others = G.blocks
    h = first.constant.expand(2, -1, -1, -1)
    h = styled(h, first.layer0, w)
    h = styled(convolved(h, first.layer1.conv) + first.layer1.conv.bias[:, None, None], first.layer1, w)
    for block in others:
        up = block.layer0.conv
        h = styled(blurred(convolved(repeated(h), up)) + up.bias[:, None, None], block.layer0, w)
        conv = block.layer1.conv
        h = styled(convolved(h, conv) + conv.bias[:, None, None], block.layer1, w)
    x = G.to_image[-1](h)
    assert_close(G(z), x)

    h = F.leaky_relu(D.trunk.from_image[-1](x), 0.2)
    for block in reversed(D.trunk.blocks):
        h = F.leaky_relu(convolved(h, block.conv0) + block.conv0.bias[:, None, None], 0.2)
        h = halved(convolved(blurred(h), block.conv1)) + block.conv1.bias[:, None, None]
        h = F.leaky_relu(h, 0.2)
    last = D.trunk.last
    h = F.leaky_relu(convolved(h, last.conv) + last.conv.bias[:, None, None], 0.2).flatten(1)
    h = F.leaky_relu(h @ last.dense.scaled_weight().T + last.dense.bias, 0.2)
    assert_close(D(x), (h @ last.to_logits.scaled_weight().T + last.to_logits.bias)[:, 0])


def test_blur_can_be_left_out() -> None:
    G, D = generator(blur=False), discriminator(blur=False)
    assert not any(
        isinstance(m, BlurredDoublingConv2d | BlurredDownBlock) for m in [*G.modules(), *D.modules()]
    )
    assert sum(isinstance(m, DownBlock) for m in D.modules()) == 3
    assert not any(isinstance(m, UpBlock) for m in G.modules())
    assert D(G(torch.randn(4, 6))).isfinite().all()


# Noise


def test_noise_has_no_strength_at_the_start() -> None:
    G, z = generator().eval(), torch.randn(2, 6)
    assert all(p.count_nonzero() == 0 for name, p in G.named_parameters() if name.endswith("strength"))
    assert_close(G(z, noise="constant"), G(z, noise="none"))
    G.train()(z).square().sum().backward()
    grads = [p.grad for name, p in G.named_parameters() if name.endswith("strength")]
    assert len(grads) == 8 and all(grad.abs().sum() > 0 for grad in grads)


def test_kinds_of_noise() -> None:
    """none and constant repeat themselves, random does not; training takes random, eval mode constant."""
    G, z = noisy(generator()).eval(), torch.randn(2, 6)
    x = {kind: G(z, noise=kind) for kind in NOISES}
    assert torch.equal(G(z, noise="none"), x["none"]) and torch.equal(G(z, noise="constant"), x["constant"])
    assert not torch.allclose(G(z, noise="random"), x["random"], atol=1e-3)
    assert not torch.allclose(x["none"], x["constant"], atol=1e-3)
    assert torch.equal(G(z), x["constant"])
    G.train()
    assert not torch.allclose(G(z), G(z), atol=1e-3)
    same = G.styles(z[:1]).expand(2, -1, -1)
    alike = G.synthesis(same, noise="constant")
    assert_close(alike[0], alike[1])
    unlike = G.synthesis(same)
    assert not torch.allclose(unlike[0], unlike[1], atol=1e-3)  # every sample has its own


def test_constant_noise_is_in_the_state_dict() -> None:
    G, G2, z = noisy(generator()).eval(), noisy(generator()).eval(), torch.randn(2, 6)
    assert not torch.allclose(G2(z), G(z), atol=1e-3)
    G2.load_state_dict(G.state_dict())
    assert torch.equal(G2(z), G(z))


def check_given_noise(G: nn.Module, silent: nn.Module) -> None:
    """The constant maps are "constant", zeros are "none"; others are each sample's own, and learn."""
    ws, maps = G.styles(torch.randn(2, 6)), [m[None, None] for m in G.constant_noises]
    assert_close(G.synthesis(ws, noise=maps), G.synthesis(ws, noise="constant"))
    assert_close(G.synthesis(ws, noise=[0 * m for m in maps]), G.synthesis(ws, noise="none"))
    own = [torch.cat([m, 0 * m]).requires_grad_() for m in maps]
    x = G.synthesis(ws, noise=own)
    assert_close(x[0], G.synthesis(ws, noise="constant")[0], atol=1e-4, rtol=1e-4)
    assert_close(x[1], G.synthesis(ws, noise="none")[1], atol=1e-4, rtol=1e-4)
    x.square().sum().backward()
    assert all(m.grad.abs().sum() > 0 for m in own)
    with pytest.raises(ValueError, match=r"noise of shapes \(N or 1, 1, h, w\)"):
        G.synthesis(ws, noise=own[1:])
    assert not silent.constant_noises
    assert torch.equal(silent.synthesis(silent.styles(torch.ones(1, 6)), noise=[]), silent(torch.ones(1, 6)))


def test_noise_may_be_given_as_maps() -> None:
    check_given_noise(noisy(generator()).eval(), generator(noise=False).eval())


def test_without_noise_there_is_none() -> None:
    G, z = generator(noise=False), torch.randn(2, 6)
    assert not any("noise" in name for name in G.state_dict())
    state = torch.get_rng_state()
    assert torch.equal(G(z), G(z, noise="random"))
    assert torch.equal(torch.get_rng_state(), state)


# Styles


def test_mixing_changes_the_layers_from_the_crossover_on() -> None:
    G = generator(mixing=0.9)
    z, z_mix = torch.randn(4, 6), torch.randn(4, 6)
    u = torch.tensor([[0.95, 0.5], [0.1, 0.0], [0.1, 0.5], [0.1, 0.999]])
    ws, first, second = G.styles(z, None, z_mix, u), G.styles(z), G.styles(z_mix)
    for i, crossover in enumerate([8, 1, 4, 7]):  # 8 layers: not mixed; 1 + floor(7 u)
        assert_close(ws[i, :crossover], first[i, :crossover])
        assert_close(ws[i, crossover:], second[i, crossover:])
    assert_close(G(z, None, z_mix, u), G.synthesis(ws))
    assert_close(G.styles(z, None, z_mix), first)  # no u, no mixing


def test_mixing_can_be_switched_off_and_follows_the_stage() -> None:
    z, z_mix, u = torch.randn(2, 6), torch.randn(2, 6), torch.tensor([[0.0, 0.999], [0.0, 0.0]])
    G = generator(mixing=0)
    assert G.mixing == 0
    assert_close(G.styles(z, None, z_mix, u), G.styles(z))
    G = at(generator(mixing=1), 8)
    ws = G.styles(z, None, z_mix, u)
    assert ws.shape == (2, 4, 8)
    assert_close(ws[0, 3], G.styles(z_mix)[0, 3])  # the last of the layers in use
    assert_close(ws[0, :3], G.styles(z)[0, :3])


def test_truncation_is_for_inference() -> None:
    G, z = generator(), torch.randn(4, 6)
    G(z)
    with pytest.raises(ValueError, match=r"truncation 0.7 is for samples: put G in eval mode"):
        G(z, truncation=0.7)
    G.eval()
    x = G(z)
    assert torch.equal(G(z, truncation=1.0), x)
    centre = G(z, truncation=0.0)
    assert_close(centre, centre[:1].expand_as(centre))
    assert_close(centre, G.synthesis(G.mapping.w_avg.expand(4, 8, -1)))
    ws = G.styles(z).clone()
    ws[:, :2] = 0.7 * ws[:, :2] + 0.3 * G.mapping.w_avg
    assert_close(G(z, truncation=0.7, truncation_layers=2), G.synthesis(ws))
    assert not torch.allclose(G(z, truncation=0.7, truncation_layers=2), G(z, truncation=0.7), atol=1e-3)


def test_mean_style_follows_training_batches() -> None:
    """w_avg <- .995 w_avg + .005 mean w, in training alone."""
    G, z = generator(), torch.randn(16, 6)
    w = G.styles(z)[:, 0].detach()
    assert_close(G.mapping.w_avg, 0.005 * w.mean(0))
    G(z)
    assert_close(G.mapping.w_avg, 0.005 * w.mean(0) * 1.995)
    before = G.mapping.w_avg.clone()
    G.eval()(z)
    assert torch.equal(G.mapping.w_avg, before)
    assert [s is G.mapping.w_avg for s in running_statistics(G)] == [True]


def test_mean_style_does_not_follow_the_second_latents() -> None:
    G, z = generator(mixing=1), torch.randn(16, 6)
    w = G.styles(z, None, torch.randn(16, 6), torch.rand(16, 2))[:, 0].detach()  # a crossover is at least 1
    assert_close(G.mapping.w_avg, 0.005 * w.mean(0))


def test_mapping_learns_at_a_hundredth() -> None:
    """Biases too: the published code has no gain behind them."""
    G = generator(n_labels=3)
    full, slow = param_groups(G)
    assert (full["lr_scale"], slow["lr_scale"]) == (1.0, 0.01)
    assert {id(p) for p in slow["params"]} == {id(p) for p in G.mapping.layers.parameters()}
    assert len(full["params"]) + len(slow["params"]) == len(list(G.parameters()))


def test_latents_are_normalised() -> None:
    G, z = generator(), torch.randn(4, 6)
    assert_close(G(z), G(3 * z), atol=1e-4, rtol=1e-4)


# Labels


@pytest.mark.parametrize("attributes", [False, True])
def test_labels_act_on_their_own_sample(attributes: bool) -> None:
    G, D = generator(n_labels=3).eval(), discriminator(n_labels=3, minibatch_stddev=False)
    y, other = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 1, 0])
    if attributes:
        y, other = F.one_hot(y, 3).float(), F.one_hot(other, 3).float()
    z, x = torch.randn(4, 6), torch.randn(4, 3, 32, 32)
    moved = (G(z, y) - G(z, other)).abs().amax((1, 2, 3)) > 1e-3
    assert moved.tolist() == [False, False, True, False]
    moved = (D(x, y) - D(x, other)).abs() > 1e-6
    assert moved.tolist() == [False, False, True, False]


def test_each_label_has_its_logit() -> None:
    """Attributes sum the logits of those that apply, over the root of their number; where none does, all of them."""
    D, x = discriminator(n_labels=3), torch.randn(4, 3, 32, 32)
    logits = D.trunk(x)
    assert logits.shape == (4, 3)
    assert_close(D(x, torch.tensor([2, 0, 1, 1])), logits[range(4), [2, 0, 1, 1]])
    y = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    assert_close(D(x, y)[0], (logits[0, 0] + logits[0, 2]) / 2**0.5)
    assert_close(D(x, y)[1:3], logits[1:3].sum(1) / 3**0.5)


def test_mixed_styles_have_the_same_label() -> None:
    G, z = generator(n_labels=3, mixing=1), torch.randn(2, 6)
    y, u = torch.tensor([0, 2]), torch.zeros(2, 2)
    assert_close(G.styles(z, y, z, u), G.styles(z, y))


def test_missing_and_wrong_labels_are_refused() -> None:
    G, D = generator(n_labels=3), discriminator(n_labels=3)
    for call in (lambda y: G(torch.zeros(2, 6), y), lambda y: D(torch.zeros(2, 3, 32, 32), y)):
        with pytest.raises(ValueError, match="needs labels y"):
            call(None)
        with pytest.raises(ValueError, match=r"not \(3,\)"):
            call(torch.zeros(3, dtype=torch.int64))


# Stages and fades


def test_a_complete_fade_is_the_grown_network() -> None:
    G, D = at(generator(), 16, 0.5), at(discriminator(), 16, 0.5)
    z, x = torch.randn(4, 6), torch.randn(4, 3, 16, 16)
    half = G(z), D(x)
    for net in (G, D):
        (stage,) = [module for module in net.modules() if isinstance(module, Stage)]
        stage.alpha.fill_(1)
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


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("n_labels", [0, 3])
def test_gradient_reaches_the_parameters_of_the_stage_alone(size: int, alpha: float, n_labels: int) -> None:
    G, D = at(generator(n_labels=n_labels), size, alpha), at(discriminator(n_labels=n_labels), size, alpha)
    y = torch.arange(8) % 3 if n_labels else None
    D(G(torch.randn(8, 6), y), y).square().sum().backward()
    k = SIZES.index(size)
    images = [k - 1, k] if alpha < 1 and k else [k]
    late_g = [f"blocks.{i}." for i in range(k + 2, 4)] + [
        f"to_image.{i}." for i in range(3) if i not in images
    ]
    late_d = [f"trunk.blocks.{i}." for i in range(k + 1, 3)]
    late_d += [f"trunk.from_image.{i}." for i in range(3) if i not in images]
    for net, late in ((G, late_g), (D, late_d)):
        for name, p in net.named_parameters():
            if name.startswith(tuple(late)):
                assert p.grad is None, name
            else:
                assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_state_dict_carries_stage_and_mean_style() -> None:
    G, D = at(generator(), 16, 0.3), at(discriminator(), 16, 0.3)
    z, x = torch.randn(4, 6), torch.randn(4, 3, 16, 16)
    G(z)
    G2, D2 = generator(), discriminator()
    G2.load_state_dict(G.state_dict()), D2.load_state_dict(D.state_dict())
    G.eval(), G2.eval()
    assert G2.stage.size == D2.stage.size == 16 and G2.stage.fading and D2.stage.fading
    assert torch.equal(G2(z, truncation=0.5), G(z, truncation=0.5)) and torch.equal(D2(x), D(x))


def test_seeded_repeat() -> None:
    z = torch.randn(4, 6)

    def run(seed: int) -> tuple[Tensor, Tensor]:
        torch.default_generator.manual_seed(seed)
        G, D = noisy(generator()), discriminator()
        return G(z), D(G(z))

    (x, d), (x2, d2), (x3, _) = run(1), run(1), run(2)
    assert torch.equal(x, x2) and torch.equal(d, d2) and not torch.equal(x, x3)


# Gradients and precision


@pytest.mark.parametrize(("size", "alpha"), [(32, 1.0), (16, 0.3)])
def test_r1_trains_the_weights(size: int, alpha: float) -> None:
    D = at(discriminator(n_labels=3), size, alpha)
    x = torch.randn(8, 3, size, size, requires_grad=True)
    (grad,) = torch.autograd.grad(D(x, torch.arange(8) % 3).sum(), x, create_graph=True)
    grad.square().sum().backward()
    found = {
        name: p.grad for name, p in D.named_parameters() if p.grad is not None and name.endswith("weight")
    }
    assert len(found) == (10 if size == 32 else 9)  # 2 a block, 3 in the last, fromRGB: 2 of them in a fade
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in found.values())


def test_gradients_of_first_and_second_order_are_right() -> None:
    D = at(discriminator(channel_base=32, channel_max=4), 16, 0.3).double()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(D, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(D, x, fast_mode=True)


def test_styles_have_a_second_order_gradient() -> None:
    """Path length asks for it; both forms are one here."""
    G = noisy(generator()).double()
    ws = G.styles(torch.randn(4, 6, dtype=torch.float64))
    images = [
        G.synthesis(ws, noise="constant", double_backward=double_backward)
        for double_backward in (False, True)
    ]
    assert torch.equal(*images)
    (grad,) = torch.autograd.grad((images[0] * torch.randn_like(images[0])).sum(), ws, create_graph=True)
    grad.square().sum().sqrt().backward()
    grads = [
        p.grad for name, p in G.named_parameters() if name.endswith("weight") and "to_image.2" not in name
    ]
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in grads if g is not None)
    assert sum(g is not None for g in grads) >= 18


@pytest.mark.parametrize(("size", "alpha"), [(32, 1.0), (16, 0.3)])
def test_half_precision_under_autocast(size: int, alpha: float) -> None:
    G, D = at(noisy(generator(n_labels=3)), size, alpha), at(discriminator(n_labels=3), size, alpha)
    z, y = torch.randn(8, 6), torch.arange(8) % 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = G(z, y, noise="constant")
        d = D(x, y)
        d.sum().backward()
    assert x.isfinite().all() and d.isfinite().all()
    plain = G(z, y, noise="constant")
    assert (x.float() - plain).abs().mean() < 0.05 * plain.abs().mean()
    assert all(p.grad.isfinite().all() for p in G.parameters() if p.grad is not None)


def test_channels_last_goes_through() -> None:
    """The same images, and maps in the layout that the convolutions want."""
    G, z = generator().eval(), torch.randn(2, 6)
    x = G(z)
    layouts = []
    G = G.to(memory_format=torch.channels_last)
    for block in G.blocks[1:]:
        block.register_forward_hook(
            lambda module, args, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last))
        )
    assert_close(G(z), x, atol=1e-4, rtol=1e-4)
    assert layouts == [True] * 3


def test_default_floating_type_is_followed() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        G, D = at(generator(n_labels=3), 16, 0.3), at(discriminator(n_labels=3), 16, 0.3)
        y = torch.arange(4) % 3
        assert D(G(torch.randn(4, 6), y), y).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
