"""SA-GAN: the attention block, values, counts, shapes by size and place, labels, both derivatives, types, refusals."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from losses import r1
from modelling import sagan
from modelling.conditioning import ConditionalNorm, as_output
from modelling.resnet import ResidualUpBlock
from modelling.sagan import SelfAttention
from ops.attention import attention_reference
from ops.precision import twice_differentiable
from ops.spectral_norm import SpectralNorm, apply_spectral_norm, iterate_spectral_norm

Z_DIM, N_LABELS, WIDTH = 6, 3, 4
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


@pytest.fixture
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def generator(**settings: object) -> nn.Module:
    """A narrow one, of 32 px by default."""
    return sagan.Generator(**{"img_size": 32, "img_channels": 3, "z_dim": Z_DIM, "width": WIDTH, **settings})


def discriminator(**settings: object) -> nn.Module:
    """A narrow one, of 32 px by default."""
    return sagan.Discriminator(**{"img_size": 32, "img_channels": 3, "width": WIDTH, **settings})


def draw_parameters(net: nn.Module, std: float = 0.5) -> nn.Module:
    """The network in float64, no parameter at a special value."""
    for p in net.double().parameters():
        nn.init.normal_(p, std=std)
    return net


def open_gates(net: nn.Module) -> nn.Module:
    """Let attention speak, which is silent at the start."""
    for module in net.modules():
        if isinstance(module, SelfAttention):
            nn.init.constant_(module.gamma, 0.5)
    return net


def labels_of(n: int) -> Tensor:
    return torch.arange(n) % N_LABELS


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def places(net: nn.Module, x: Tensor) -> list[tuple[int, int]]:
    """(channels, px) of the maps that get attention on the way of x."""
    found = []
    hooks = [
        module.register_forward_hook(lambda _, given, out: found.append((out.shape[1], out.shape[2])))
        for module in net.modules()
        if isinstance(module, SelfAttention)
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    return found


# The block


def as_a_loop(block: SelfAttention, x: Tensor) -> Tensor:
    """One position after the other, from the weights as matrices."""
    theta, phi, g, o = (m.weight.detach()[:, :, 0, 0] for m in (block.theta, block.phi, block.g, block.o))
    n, _, height, width = x.shape
    out = x.clone()
    for i in range(n):
        keys, values = [], []
        for row, column in itertools.product(range(0, height - 1, 2), range(0, width - 1, 2)):
            square = x[i, :, row : row + 2, column : column + 2].flatten(1)  # (C, 4)
            keys.append((phi @ square).amax(1))
            values.append((g @ square).amax(1))
        for row, column in itertools.product(range(height), range(width)):
            query = theta @ x[i, :, row, column]
            weights = torch.stack([query @ key for key in keys]).exp()
            gathered = sum(w * value for w, value in zip(weights / weights.sum(), values, strict=True))
            out[i, :, row, column] += block.gamma.detach() * (o @ gathered)
    return out


@pytest.mark.parametrize(
    ("channels", "height", "width"), [(16, 4, 4), (8, 4, 6), (20, 2, 8), (5, 6, 2), (1, 2, 2), (9, 5, 7)]
)
def test_attention_is_its_formula(channels: int, height: int, width: int) -> None:
    block = draw_parameters(SelfAttention(channels))
    x = torch.randn(2, channels, height, width).double()
    as_it_came = x.clone()
    assert_close(block(x), as_a_loop(block, x), **EXACT)
    assert torch.equal(x, as_it_came)


def test_channels_of_attention() -> None:
    """256 * 32 + 256 * 32 + 256 * 128 + 128 * 256 weights, no biases, and gamma: 81,921."""
    block = SelfAttention(256)
    assert (block.theta.out_channels, block.phi.out_channels, block.g.out_channels) == (32, 32, 128)
    assert n_parameters(block) == 81_921
    assert block.gamma.shape == ()
    assert n_parameters(SelfAttention(4)) == 4 + 4 + 8 + 8 + 1  # at least one channel


def test_attention_is_the_identity_at_first_but_for_its_gradient() -> None:
    block = SelfAttention(16)
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(block(x), x)
    (block(x) * torch.randn(2, 16, 4, 4)).sum().backward()
    assert float(block.gamma.grad.abs()) > 1e-3
    assert not block.theta.weight.grad.any()  # learns once gamma has moved


def test_gradient_reaches_all_of_attention_once_gamma_has_moved() -> None:
    block = open_gates(SelfAttention(16))
    (block(torch.randn(2, 16, 4, 4)) * torch.randn(2, 16, 4, 4)).sum().backward()
    assert all(float(p.grad.abs().max()) > 1e-5 for p in block.parameters())


def test_attention_knows_no_positions() -> None:
    """Squares of 2x2 pixels may change places, since keys and values are their maxima; the outcome moves along."""

    def move(maps: Tensor, order: Tensor) -> Tensor:
        squares = maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(2, 4, 0, 1, 3, 5).flatten(0, 1)
        squares = squares[order].unflatten(0, (4, 3))  # (H/2, W/2, N, C, 2, 2)
        return squares.permute(2, 3, 0, 4, 1, 5).flatten(4, 5).flatten(2, 3)

    block = draw_parameters(SelfAttention(8))
    x, order = torch.randn(2, 8, 8, 6).double(), torch.randperm(12)
    assert_close(move(x, torch.arange(12)), x)
    assert_close(block(move(x, order)), move(block(x), order), **EXACT)
    assert_close(block(x.flip(2, 3)), block(x).flip(2, 3), **EXACT)
    shifted = x.roll(1, 3)  # across the squares
    assert float((block(shifted) - block(x).roll(1, 3)).detach().abs().max()) > 1e-3


def test_one_position_reaches_all() -> None:
    block = draw_parameters(SelfAttention(8))
    x = torch.randn(1, 8, 8, 8).double().requires_grad_()
    (grad,) = torch.autograd.grad(block(x)[0, :, 7, 7].sum(), x)
    assert bool(grad.abs().sum(1).bool().unflatten(2, (4, 2)).unflatten(1, (4, 2)).any(4).any(2).all())


# Networks: counts, shapes, places


@pytest.mark.parametrize("n_labels", [0, 1000])
def test_parameters_at_128_px(n_labels: int) -> None:
    """By hand, width 64.

    G: 128 * 16384 + 16384 of the linear layer; up block a -> b: 9 ab + 9 bb + ab weights, 3 b biases, norms 2 a + 2 b;
    last norm 2 * 64, last convolution 64 * 27 + 3. D: down block a -> b: 9 ab + 9 bb + ab and 3 b; last block
    2 * (9 * 1024^2 + 1024); linear layer 1025. Labels: each norm of the blocks has 2 tables of n_labels rows, and the
    projection one of 1024 columns.
    """
    ups = [19_930_112, 7_606_784, 1_902_848, 476_288, 119_360]  # 1024, 1024, 512, 256, 128, 64
    of_g = 2_113_536 + sum(ups) + 81_921 + 128 + 1_731
    downs = [38_976, 229_760, 918_272, 3_671_552, 14_683_136]  # 3, 64, 128, 256, 512, 1024
    of_d = sum(downs) + 18_876_416 + 20_481 + 1_025
    assert (of_g, of_d) == (32_232_708, 38_439_618)
    if n_labels:
        channels = (1024 + 1024) + (1024 + 512) + (512 + 256) + (256 + 128) + (128 + 64)  # of the norms
        of_g += 2 * channels * (n_labels - 1)
        of_d += 1024 * n_labels
    with torch.device("meta"):
        G = sagan.Generator(img_size=128, img_channels=3, z_dim=128, n_labels=n_labels)
        D = sagan.Discriminator(img_size=128, img_channels=3, n_labels=n_labels)
    assert (n_parameters(G), n_parameters(D)) == (of_g, of_d)


def test_parameters_at_32_px() -> None:
    """By hand, width 64: G 128 * 4096 + 4096, 3 * (19 * 256^2 + 7 * 256), attention of 256, 512, 256 * 27 + 3.

    D: 3 -> 128: 10 * 3 * 128 + 9 * 128^2 + 3 * 128; 128 -> 128: 19 * 128^2 + 3 * 128, twice 18 * 128^2 + 2 * 128;
    attention of 128; 129.
    """
    with torch.device("meta"):
        G = sagan.Generator(img_size=32, img_channels=3, z_dim=128)
        D = sagan.Discriminator(img_size=32, img_channels=3)
    assert n_parameters(G) == 528_384 + 3 * 1_246_976 + 81_921 + 512 + 6_915 == 4_358_660
    assert n_parameters(D) == 151_680 + 311_680 + 2 * 295_168 + 20_481 + 129 == 1_074_306


@pytest.mark.parametrize(
    ("size", "of_g", "of_d"),
    # width 64: (channels, px) after each block
    [
        (32, [(256, 8), (256, 16), (256, 32)], [(128, 16), (128, 8), (128, 8), (128, 8)]),
        (
            64,
            [(512, 8), (256, 16), (128, 32), (64, 64)],
            [(64, 32), (128, 16), (256, 8), (512, 4), (1024, 4)],
        ),
        (
            128,
            [(1024, 8), (512, 16), (256, 32), (128, 64), (64, 128)],
            [(64, 64), (128, 32), (256, 16), (512, 8), (1024, 4), (1024, 4)],
        ),
        (
            256,
            [(1024, 8), (512, 16), (512, 32), (256, 64), (128, 128), (64, 256)],
            [(64, 128), (128, 64), (256, 32), (512, 16), (512, 8), (1024, 4), (1024, 4)],
        ),
    ],
)
def test_maps_and_the_place_of_attention(size: int, of_g: list, of_d: list) -> None:
    with torch.device("meta"):
        G = sagan.Generator(img_size=size, img_channels=3, z_dim=128)
        D = sagan.Discriminator(img_size=size, img_channels=3)
        z, x = torch.empty(2, 128), torch.empty(2, 3, size, size)
        for net, given, maps in ((G, z, of_g), (D, x, of_d)):
            h = G.start(given).unflatten(1, (-1, 4, 4)) if net is G else given
            found = []
            for block in net.blocks:
                h = block(h)
                if not isinstance(block, SelfAttention):
                    found.append((h.shape[1], h.shape[2]))
            assert found == maps
            place = 16 if size == 32 else 32
            assert places(net, given) == [next(m for m in maps if m[1] == place)]
        assert G.start.out_features == (4096 if size == 32 else 16_384)
    blocks = [block for block in D.blocks if not isinstance(block, SelfAttention)]
    assert [block.first for block in blocks] == [True] + [False] * (len(blocks) - 1)
    assert all(block.conv1.out_channels == block.conv2.out_channels for block in blocks)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("attention", [None, 8, 16, [16, 8], (8, 16, 8), 0, []])
def test_shapes_by_size_and_place(size: int, attention: object) -> None:
    G, D = (make(img_size=size, width=1, attention=attention) for make in (generator, discriminator))
    chosen = (16 if size == 32 else 32) if attention is None else attention
    chosen = chosen if isinstance(chosen, list | tuple) else [chosen] if chosen else []
    z = torch.randn(2, Z_DIM)
    assert [px for _, px in places(G, z)] == sorted(set(chosen))
    x = G(z)
    assert x.shape == (2, 3, size, size)
    assert [px for _, px in places(D, x)] == sorted(set(chosen), reverse=True)
    assert D(x).shape == (2,)


def test_every_place_there_is() -> None:
    for size in sagan.G_CHANNELS:
        with torch.device("meta"):
            of_g = [8 << i for i in range((size // 8).bit_length())]
            of_d = [px // 2 for px in reversed(of_g) if size > 32 or px > 8]
            G = generator(img_size=size, attention=of_g)
            D = discriminator(img_size=size, attention=of_d)
            assert [px for _, px in places(G, torch.empty(2, Z_DIM))] == of_g
            assert [px for _, px in places(D, torch.empty(2, 3, size, size))] == of_d


@pytest.mark.parametrize("img_channels", [1, 3])
def test_images(img_channels: int) -> None:
    G, D = (draw_parameters(make(img_channels=img_channels)) for make in (generator, discriminator))
    x = G(torch.randn(3, Z_DIM).double())
    assert x.shape == (3, img_channels, 32, 32)
    assert 0.9 < float(x.detach().abs().max()) <= 1
    assert D(x).shape == (3,)


# Values


def test_generator_is_its_formula(in_float64: None) -> None:
    G = draw_parameters(generator(width=2, n_labels=N_LABELS, attention=[8, 32])).eval()
    z, rows = torch.randn(3, Z_DIM), torch.eye(3)
    h = (z @ G.start.weight.T + G.start.bias).reshape(3, 8, 4, 4)
    up8, see8, up16, up32, see32 = G.blocks
    h = see32(up32(up16(see8(up8(h, rows)), rows), rows))
    expected = torch.tanh(G.to_image(G.norm(h).clamp(min=0)))
    assert_close(G(z, torch.arange(3)), expected, **EXACT)


def test_discriminator_is_its_formula() -> None:
    """psi(h) + <V y, h>, h summed over positions of the last ReLU."""
    D = draw_parameters(discriminator(n_labels=N_LABELS, width=2), std=0.3)
    x, y = torch.rand(4, 3, 32, 32).double(), torch.tensor([2, 0, 1, 2])
    down16, see16, down8, plain, last = D.blocks
    h = last(plain(down8(see16(down16(x))))).clamp(min=0).sum((2, 3))
    psi, b, V = D.heads.to_logit.weight, D.heads.to_logit.bias, D.heads.to_classes.weight
    expected = torch.stack([psi[0] @ h[i] + b[0] + V[y[i]] @ h[i] for i in range(4)])
    assert_close(D(x, y), expected)


def test_initial_weights() -> None:
    """Glorot's uniform ones, +-sqrt(6 / (fan in + fan out)); no bias, gamma 0."""
    for net in (generator(width=16, n_labels=N_LABELS), discriminator(width=16, n_labels=N_LABELS)):
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                weight = layer.weight.detach()
                fans = (weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()
                bound = (6 / fans) ** 0.5
                assert float(weight.abs().max()) <= bound
                if weight.numel() > 500:
                    assert float(weight.abs().max()) > 0.95 * bound
                    assert_close(float(weight.std()), bound / 3**0.5, rtol=0.06, atol=0)
        zero = [p for name, p in net.named_parameters() if name.endswith(("bias", "gamma"))]
        assert zero and not any(p.any() for p in zero)


# Labels and gradients


@pytest.mark.parametrize("condition_g", [None, "cbn", "cin"])
@pytest.mark.parametrize("condition_d", [None, "projection", "ac", "k_plus_1"])
def test_gradient_reaches_every_parameter(condition_g: str | None, condition_d: str | None) -> None:
    G = generator(**({"n_labels": N_LABELS, "condition": condition_g} if condition_g else {}))
    D = discriminator(**({"n_labels": N_LABELS, "condition": condition_d} if condition_d else {}))
    for net in (G, D):
        apply_spectral_norm(open_gates(net))
    y = labels_of(6)
    out = as_output(D(G(torch.randn(6, Z_DIM), y), y))
    assert out.logit.shape == (6,)
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
            assert name.endswith("bias") or float(least) > 1e-8, name


@pytest.mark.parametrize("condition", ["cbn", "cin"])
@pytest.mark.parametrize("attributes", [False, True])
def test_labels_of_g_act_on_their_own_sample(condition: str, attributes: bool) -> None:
    G = open_gates(generator(n_labels=N_LABELS, condition=condition)).eval()
    norms = [module for module in G.modules() if isinstance(module, ConditionalNorm)]
    assert len(norms) == 2 * sum(isinstance(block, ResidualUpBlock) for block in G.blocks) == 6
    assert isinstance(G.norm, nn.BatchNorm2d if condition == "cbn" else nn.InstanceNorm2d)
    for norm in norms:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    z, y = torch.randn(3, Z_DIM), torch.tensor([0, 1, 2])
    other = torch.tensor([0, 2, 2])
    if attributes:
        y, other = (F.one_hot(v, N_LABELS).float() for v in (y, other))
    x, moved = G(z, y), G(z, other)
    assert_close(x[[0, 2]], moved[[0, 2]])
    assert float((x[1] - moved[1]).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("condition", ["projection", "ac", "k_plus_1"])
def test_labels_of_d_act_on_their_own_sample(condition: str) -> None:
    D = draw_parameters(discriminator(n_labels=N_LABELS, condition=condition), std=0.3)
    x = torch.rand(3, 3, 32, 32).double()
    out, moved = (as_output(D(x, torch.tensor(y))) for y in ([0, 1, 2], [0, 2, 2]))
    if condition == "projection":
        assert_close(out.logit[[0, 2]], moved.logit[[0, 2]])
        assert float((out.logit[1] - moved.logit[1]).detach().abs()) > 1e-3
    else:  # what it reads off an image does not depend on what it is told
        assert_close(out, moved)
        assert out.classes.shape == (3, N_LABELS)


def test_samples_keep_to_themselves() -> None:
    """Attention looks at the positions of one image."""
    G, D = (draw_parameters(make(), std=0.3).eval() for make in (generator, discriminator))
    z = torch.randn(3, Z_DIM).double()
    x = G(z)
    assert_close(G(z[1:2]), x[1:2])
    assert_close(D(x[1:2]), D(x)[1:2])


def test_instance_norm_keeps_samples_apart_in_training() -> None:
    """The last norm too, which labels do not reach."""
    G = open_gates(generator(n_labels=N_LABELS, condition="cin"))
    z, y = torch.randn(4, Z_DIM), labels_of(4)
    assert_close(G(z, y)[:2], G(z[:2], y[:2]))


def test_networks_without_labels_ignore_them() -> None:
    G, D = generator().eval(), discriminator()
    z, y = torch.randn(3, Z_DIM), torch.tensor([0, 1, 2])
    assert torch.equal(G(z, y), G(z)) and torch.equal(D(G(z), y), D(G(z)))


@pytest.mark.parametrize("norm", ["none", "layer", "instance"])
def test_norm_of_g(norm: str) -> None:
    G = generator(norm=norm)
    z = torch.randn(4, Z_DIM)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in G.modules())
    assert_close(G(z)[:2], G(z[:2]))  # no batch statistics


@pytest.mark.parametrize("condition", [None, "projection", "ac"])
def test_second_derivatives_of_d(condition: str | None) -> None:
    """With respect to images and parameters together, as R1 takes them."""
    settings = {"n_labels": N_LABELS, "condition": condition} if condition else {}
    D = draw_parameters(discriminator(width=2, img_channels=1, **settings), std=0.2)
    names, parameters = zip(*((n, p.detach()) for n, p in D.named_parameters()), strict=True)
    y = torch.tensor([1, 2])

    def logits_and_classes(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        out = as_output(torch.func.functional_call(D, dict(zip(names, given, strict=True)), (x, y)))
        return tuple(part for part in out if part is not None)

    inputs = tuple(v.requires_grad_() for v in (torch.rand(2, 1, 32, 32).double(), *parameters))
    with twice_differentiable():
        assert torch.autograd.gradcheck(logits_and_classes, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(logits_and_classes, inputs, fast_mode=True)


@pytest.mark.parametrize("condition", [None, "projection"])
def test_r1_is_that_of_attention_written_out(condition: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"n_labels": N_LABELS, "condition": condition} if condition else {}
    D = draw_parameters(discriminator(width=8, **settings), std=0.2)
    x, y = torch.rand(4, 3, 32, 32).double(), labels_of(4)

    def value_and_gradients() -> list[Tensor]:
        value = r1(lambda given: D(given, y), x)
        return [value, *torch.autograd.grad(value, list(D.parameters()), materialize_grads=True)]

    actual = value_and_gradients()
    monkeypatch.setattr(sagan, "attend", attention_reference)
    expected = value_and_gradients()
    assert float(expected[0].detach()) > 1e-3
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)
    of_attention = dict(zip([name for name, _ in D.named_parameters()], actual[1:], strict=True))
    for name in ("gamma", "theta.weight", "phi.weight", "g.weight", "o.weight"):
        assert float(of_attention[f"blocks.1.{name}"].abs().max()) > 0.1


# Types, layouts, spectral norm, refusals


@pytest.mark.parametrize("n_labels", [0, N_LABELS])
def test_bf16(n_labels: int) -> None:
    G, D = (open_gates(make(n_labels=n_labels)) for make in (generator, discriminator))
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
    assert all(p.grad is not None and p.grad.isfinite().all() for p in D.parameters())


def test_float64_by_default(in_float64: None) -> None:
    G, D = (make(n_labels=N_LABELS) for make in (generator, discriminator))
    y = labels_of(3)
    assert D(G(torch.randn(3, Z_DIM), y), y).dtype == torch.float64


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_formats(layout: torch.memory_format) -> None:
    G, D = (open_gates(make().double()) for make in (generator, discriminator))
    z = torch.randn(3, Z_DIM).double()
    expected = D(G(z))
    G, D = (net.to(memory_format=layout) for net in (G, D))
    x = G(z)
    assert x.is_contiguous(memory_format=layout)
    assert_close(D(x), expected)
    block = open_gates(SelfAttention(16)).to(memory_format=layout)
    assert block(torch.randn(2, 16, 4, 4).to(memory_format=layout)).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("n_labels", [0, N_LABELS])
@pytest.mark.parametrize("size", sagan.G_CHANNELS)
def test_on_the_meta_device(size: int, n_labels: int) -> None:
    with torch.device("meta"):
        G, D = (make(img_size=size, n_labels=n_labels) for make in (generator, discriminator))
        y = torch.empty(3, N_LABELS)
        assert D(G(torch.empty(3, Z_DIM), y), y).shape == (3,)


@pytest.mark.parametrize("n_labels", [0, N_LABELS])
def test_spectral_norm_of_every_layer(n_labels: int, in_float64: None) -> None:
    nets = [open_gates(make(n_labels=n_labels)) for make in (generator, discriminator)]
    for net in nets:
        layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        apply_spectral_norm(net)
        assert sum(isinstance(m, SpectralNorm) for m in net.modules()) == len(layers)
        iterate_spectral_norm(net, 500)
        for layer in layers:
            sigma = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
            assert_close(sigma, torch.ones_like(sigma), rtol=0.01, atol=0)
    G, D = nets
    y = labels_of(3)
    x = G(torch.randn(3, Z_DIM), y)
    d = D(x, y)
    assert x.shape == (3, 3, 32, 32) and d.shape == (3,) and d.isfinite().all()
    d.sum().backward()
    assert all(p.grad is not None for net in nets for p in net.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"img_size": 512}, "not 512: the nearest is img_size 448"),
        ({"img_size": (32, 62)}, "k from 3 to 6, not 32x62: the nearest is img_size 32x64"),
        ({"width": 0}, "width 0 must be a whole number, at least 1"),
        ({"img_channels": 0}, "img_channels 0 must be a whole number"),
        ({"n_labels": 3, "condition": "nothing"}, "unknown condition.*'nothing': choose from"),
        ({"attention": 64}, "attention 64: . of 32 px has maps of .*; give one of them, .* or 0 for none"),
        ({"attention": [16, 12]}, "attention 12: "),
        ({"attention": "16"}, "attention '16': "),
        ({"attention": True}, "attention True: "),
        ({"attention": [[16]]}, r"attention \[16\]: "),
        ({"attention": 4}, "attention 4: "),
    ],
)
def test_settings_are_refused(settings: dict[str, object], message: str) -> None:
    for make in (generator, discriminator):
        with pytest.raises(ValueError, match=message) as refused:
            make(**settings)
        assert "\n" not in str(refused.value)


def test_refusals_name_the_maps_there_are() -> None:
    """D makes no maps as large as the image."""
    assert [px for _, px in places(generator(attention=32), torch.randn(2, Z_DIM))] == [32]
    with pytest.raises(ValueError, match="^attention 32: D of 32 px has maps of 16, 8 px; give"):
        discriminator(attention=32)
    with pytest.raises(ValueError, match="^attention 4: G of 64 px has maps of 8, 16, 32, 64 px; give"):
        generator(img_size=64, attention=4)
    with pytest.raises(ValueError, match="^attention 64: D of 64 px has maps of 32, 16, 8, 4 px; give"):
        discriminator(img_size=64, attention=[32, 64])


def test_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, 6\), not \(2, 7\)"):
        generator()(torch.zeros(2, 7))
    with pytest.raises(ValueError, match=r"\(N, 3, 32, 32\), not \(2, 3, 64, 64\)"):
        discriminator()(torch.zeros(2, 3, 64, 64))
    for net, given in ((generator(n_labels=3), (2, Z_DIM)), (discriminator(n_labels=3), (2, 3, 32, 32))):
        with pytest.raises(ValueError, match="needs labels"):
            net(torch.zeros(given))
