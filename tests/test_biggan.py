"""BigGAN and BigGAN-deep: the papers' counts, where z and y act, blocks against explicit slicing, weights, errors."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.testing import assert_close

from modelling.biggan import (
    DeepDownBlock,
    DeepUpBlock,
    Discriminator,
    Generator,
    SharedEmbedding,
    VectorNorm,
    chunk_dim,
)
from modelling.conditioning import CLASS_HEADS, ConditionalNorm, as_output
from modelling.layers import standing_statistics
from modelling.sagan import SelfAttention
from ops.spectral_norm import apply_spectral_norm, iterate_spectral_norm

# name -> size, z_dim, settings of G, settings of D: narrow networks of every kind
VARIANTS = {
    "plain": (32, 6, {"width": 2}, {"width": 2}),
    "plain-attention": (32, 6, {"width": 2, "attention": 16}, {"width": 2, "attention": 8}),
    "shared": (
        32,
        6,
        {"width": 2, "shared_dim": 5, "init": "orthogonal"},
        {"width": 2, "init": "orthogonal"},
    ),
    "hierarchical": (32, 8, {"width": 2, "hierarchical": True, "shared_dim": 5}, {"width": 2}),
    "hierarchical-64": (64, 10, {"width": 2, "attention": 16}, {"width": 4, "attention": 16}),
    "deep": (32, 6, {"width": 4, "deep": True, "attention": 16}, {"width": 4, "deep": True, "attention": 8}),
    "deep-64": (
        64,
        6,
        {"width": 4, "deep": True, "attention": 0},
        {"width": 8, "deep": True, "attention": 0},
    ),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(autouse=True)
def seeded_float64() -> Iterator[None]:
    torch.default_generator.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pair(variant: str, n_labels: int = 3, **g_settings: object) -> tuple[nn.Module, nn.Module]:
    """G and D of a variant, no parameter at a special value."""
    size, z_dim, g, d = VARIANTS[variant]
    shape = {"img_size": size, "img_channels": 3, "n_labels": n_labels}
    nets = Generator(**shape, z_dim=z_dim, **g, **g_settings), Discriminator(**shape, **d)
    return drawn(nets[0]), drawn(nets[1])


@torch.no_grad()
def drawn(net: nn.Module) -> nn.Module:
    """The network with each parameter off its initial value; biases above 0, so that no narrow layer is dead."""
    for p in net.parameters():
        p.add_(torch.randn_like(p) if p.dim() > 1 else torch.rand_like(p), alpha=0.1)
    return net


def latents(G: nn.Module, n: int = 4) -> Tensor:
    return torch.randn(n, G.z_dim)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# Counts


def block_32(c_in: int, c_out: int) -> int:
    """Parameters of a block without norms: two 3x3 and the 1x1 of the shortcut, each with a bias."""
    return (9 * c_in * c_out + c_out) + (9 * c_out * c_out + c_out) + (c_in * c_out + c_out)


def test_counts_at_32_px_are_those_of_the_tables_by_hand() -> None:
    with torch.device("meta"):
        G = Generator(img_size=32, img_channels=3, z_dim=128, n_labels=10)
        D = Discriminator(img_size=32, img_channels=3, n_labels=10)
        unconditional = Generator(img_size=32, img_channels=3, z_dim=128)
    linear = 128 * 4 * 4 * 256 + 4 * 4 * 256
    tables = 2 * 10 * 256  # of one conditional norm
    end = 2 * 256 + 9 * 256 * 3 + 3  # batch norm, 3x3 convolution
    assert count(G) == linear + 3 * (block_32(256, 256) + 2 * tables) + end == 4_304_387
    assert count(unconditional) == linear + 3 * (block_32(256, 256) + 4 * 256) + end
    plain = block_32(256, 256) - (256 * 256 + 256)  # no 1x1 where neither size nor channels change
    assert count(D) == block_32(3, 256) + block_32(256, 256) + 2 * plain + (256 + 1) + 10 * 256 == 4_207_361


@pytest.mark.parametrize(
    ("deep", "z_dim", "exact"),
    [(False, 120, (70_433_988, 87_982_370)), (True, 128, (50_244_484, 34_590_210))],
)
def test_counts_at_128_px(deep: bool, z_dim: int, exact: tuple[int, int]) -> None:
    """Appendix B's text says 70.4 and 88.0 M, deep 50.4 and 34.6 M; its table 7 of the deep G has 50.24 M.

    That figure by hand: a bottleneck of c_in, c_out channels with h = c_in / 4 has c_in h + 18 h^2 + h c_out weights,
    3 h + c_out biases and four norms of 2 (128 + 128) (c_in + 3 h) weights.
    """
    shape = {"img_size": 128, "img_channels": 3, "n_labels": 1000, "deep": deep}
    with torch.device("meta"):
        G, D = Generator(**shape, z_dim=z_dim), Discriminator(**shape)
    assert (count(G), count(D)) == exact
    if deep:
        channels = [2048, 2048, 1024, 512, 256, 128]
        total = 1000 * 128 + 16 * 2048 * (128 + 128 + 1)  # embedding, first layer
        for c, after in itertools.pairwise(channels):
            for c_out, h in ((c, c // 4), (after, c // 4)):
                total += c * h + 18 * h * h + h * c_out + 3 * h + c_out + 512 * (c + 3 * h)
        total += 2 * 256 * 32 + 2 * 256 * 128 + 1  # attention
        assert count(G) == total + 2 * 128 + 9 * 128 * 3 + 3


@pytest.mark.parametrize(
    ("millions", "width", "z_dim", "shared_dim", "hierarchical"),
    [
        (81.5, 64, 128, 0, False),
        (173.5, 96, 128, 0, False),
        (160.6, 96, 128, 128, False),
        (158.3, 96, 120, 128, True),
    ],
)
def test_counts_of_the_papers_ablation(
    millions: float, width: int, z_dim: int, shared_dim: int, hierarchical: bool
) -> None:
    """G and D together, as table 1 has them; it leaves out the table of the shared embedding."""
    shape = {"img_size": 128, "img_channels": 3, "n_labels": 1000, "width": width}
    with torch.device("meta"):
        G = Generator(**shape, z_dim=z_dim, shared_dim=shared_dim, hierarchical=hierarchical)
        D = Discriminator(**shape)
    assert round((count(G) + count(D) - 1000 * shared_dim) / 1e6, 1) == millions


# Shapes


@every_variant
@pytest.mark.parametrize("n_labels", [0, 3])
@pytest.mark.parametrize("img_channels", [1, 3])
def test_shapes(variant: str, n_labels: int, img_channels: int) -> None:
    size, z_dim, g, d = VARIANTS[variant]
    shape = {"img_size": size, "img_channels": img_channels, "n_labels": n_labels}
    G, D = Generator(**shape, z_dim=z_dim, **g), Discriminator(**shape, **d)
    y = torch.tensor([0, 2]) if n_labels else None
    x = G(torch.randn(2, z_dim), y)
    assert x.shape == (2, img_channels, size, size)
    assert x.abs().max() <= 1
    assert D(x, y).shape == (2,)
    attributes = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    if n_labels:
        assert D(G(torch.randn(2, z_dim), attributes), attributes).shape == (2,)
    for net in (G, D):
        wanted = (g if net is G else d).get("attention", 32 if size == 64 else 0)
        assert sum(isinstance(m, SelfAttention) for m in net.modules()) == bool(wanted)


@pytest.mark.parametrize("img_size", [32, 64, 128, 256])
@pytest.mark.parametrize("deep", [False, True])
def test_every_size_by_its_defaults_on_the_meta_device(img_size: int, deep: bool) -> None:
    """So also: attention's maps are as large as the setting says."""
    shape = {"img_size": img_size, "img_channels": 3, "n_labels": 5, "deep": deep}
    seen = []

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].shape[2:])

    with torch.device("meta"):
        G, D = Generator(**shape, z_dim=420), Discriminator(**shape)
        for net in (G, D):
            for module in net.modules():
                if isinstance(module, SelfAttention):
                    module.register_forward_pre_hook(note)
        z, y = torch.empty(2, 420), torch.empty(2, 5)
        x = G(z, y)
        assert x.shape == (2, 3, img_size, img_size)
        assert D(x, y).shape == (2,)
    attention = {32: [], 64: [32], 128: [64], 256: [64]}[img_size]
    assert seen == [(size, size) for size in attention] * 2


@pytest.mark.parametrize("deep", [False, True])
def test_d_at_32_px_keeps_8x8_maps(deep: bool) -> None:
    D = Discriminator(img_size=32, img_channels=3, width=2, deep=deep)
    assert D.blocks(torch.randn(1, 3, 32, 32)).shape == (1, 8, 8, 8)


def test_d_sees_the_image_before_any_relu() -> None:
    blocks = Discriminator(img_size=64, img_channels=3, width=2, attention=0).blocks
    assert [block.first for block in blocks] == [True, False, False, False, False]
    blocks = Discriminator(img_size=64, img_channels=3, width=2, attention=0, deep=True).blocks
    assert [type(block) for block in blocks] == [nn.Conv2d] + [DeepDownBlock] * 8


@every_variant
def test_ends_are_their_formulas(variant: str) -> None:
    """tanh(conv(relu(norm))) of G's last maps; psi h + b + <V y, h> of D's, h the sum over positions of the relu."""
    G, D = pair(variant)
    y, last = torch.tensor([0, 1, 2, 0]), []
    for module in (G.blocks[-1], D.blocks):
        module.register_forward_hook(lambda module, args, out: last.append(out.clone()))
    x = G(latents(G), y)
    logit = D(x, y)
    assert_close(x, torch.tanh(G.to_image(G.norm(last[0]).clamp(min=0))))
    psi, table = D.heads.to_logit, D.heads.to_classes.weight
    for i in range(4):
        h = torch.zeros(last[1].shape[1])
        for row, column in itertools.product(*map(range, last[1].shape[2:])):
            h = h + last[1][i, :, row, column].clamp(min=0)
        assert_close(logit[i], psi.weight[0] @ h + psi.bias[0] + table[y[i]] @ h)


def test_attention_at_several_sizes() -> None:
    shape = {"img_size": 64, "img_channels": 3, "width": 2, "attention": [16, 32]}
    for net in (Generator(**shape, z_dim=5), Discriminator(**shape)):
        assert sum(isinstance(module, SelfAttention) for module in net.modules()) == 2


# Blocks


def with_vectors(channels: int) -> VectorNorm:
    return VectorNorm("cbn", channels, 5)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("c_out", [8, 3])
def test_deep_up_block_is_its_formula(c_out: int, up: bool) -> None:
    block = drawn(DeepUpBlock(8, c_out, with_vectors, up=up))
    x, v = torch.randn(4, 8, 4, 6), torch.randn(4, 5)
    as_it_came = x.clone()

    def repeat(maps: Tensor) -> Tensor:
        return maps.repeat_interleave(2, 2).repeat_interleave(2, 3) if up else maps

    assert [conv.weight.shape for conv in (block.conv1, block.conv2, block.conv3, block.conv4)] == [
        (2, 8, 1, 1), (2, 2, 3, 3), (2, 2, 3, 3), (c_out, 2, 1, 1)
    ]  # fmt: skip
    h = block.conv1(block.norm1(x, v).clamp(min=0))
    h = block.conv2(repeat(block.norm2(h, v).clamp(min=0)))
    h = block.conv3(block.norm3(h, v).clamp(min=0))
    h = block.conv4(block.norm4(h, v).clamp(min=0))
    kept = torch.stack([x[:, channel] for channel in range(c_out)], 1)
    assert_close(block(x, v), h + repeat(kept))
    assert torch.equal(x, as_it_came)


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("c_out", [3, 8])
def test_deep_down_block_is_its_formula(c_out: int, down: bool) -> None:
    block = drawn(DeepDownBlock(3, max(c_out, 4), down=down) if c_out > 3 else DeepDownBlock(4, 4, down=down))
    c_in, c_out = block.conv1.in_channels, block.conv4.out_channels
    x = torch.randn(2, c_in, 4, 6)
    as_it_came = x.clone()

    def pool(maps: Tensor) -> Tensor:
        return maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5)) if down else maps

    h = block.conv1(x.clamp(min=0))
    h = block.conv3(block.conv2(h.clamp(min=0)).clamp(min=0))
    expected = block.conv4(pool(h.clamp(min=0)))
    expected[:, :c_in] += pool(x)
    if c_out > c_in:
        assert block.missing.weight.shape == (c_out - c_in, c_in, 1, 1)
        expected[:, c_in:] += block.missing(pool(x))
    assert_close(block(x), expected)
    assert torch.equal(x, as_it_came)


@pytest.mark.parametrize("name", ["cbn", "cin"])
def test_vector_norm_against_a_loop(name: str) -> None:
    norm = drawn(VectorNorm(name, 3, 4))
    x, v = torch.randn(5, 3, 4, 6), torch.randn(5, 4)
    dims = {"cbn": (0, 2, 3), "cin": (2, 3)}[name]
    centred = x - x.mean(dims, keepdim=True)
    normed = centred / (centred.square().mean(dims, keepdim=True) + 1e-5).sqrt()
    expected = torch.empty_like(x)
    for i, channel in itertools.product(range(5), range(3)):
        gain = 1 + sum(norm.gain.weight[channel, j] * v[i, j] for j in range(4))
        shift = sum(norm.shift.weight[channel, j] * v[i, j] for j in range(4))
        expected[i, channel] = gain * normed[i, channel] + shift
    assert_close(norm(x, v), expected)


# Where z and y act


def outputs_of_stages(G: nn.Module, z: Tensor, y: Tensor) -> list[Tensor]:
    """What the first layer and each block give."""
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, args, out: seen.append(out.detach()))
        for module in (G.from_z, *G.blocks)
    ]
    G(z, y)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("variant", ["hierarchical", "hierarchical-64"])
@pytest.mark.parametrize("n_labels", [0, 3])
def test_each_chunk_of_z_acts_from_its_own_stage_on(variant: str, n_labels: int) -> None:
    G = pair(variant, n_labels)[0].eval()
    n_chunks = len(G.blocks) + 1
    z, y = latents(G, 2), torch.tensor([1, 2])
    size = G.z_dim // n_chunks
    before = outputs_of_stages(G, z, y)
    for chunk in range(n_chunks):
        changed = z.clone()
        changed[:, chunk * size : (chunk + 1) * size] += 1
        same = [torch.equal(a, b) for a, b in zip(before, outputs_of_stages(G, changed, y), strict=True)]
        assert same == [stage < chunk for stage in range(n_chunks)]


def test_hierarchical_norms_see_their_chunk_and_the_shared_vector() -> None:
    G = pair("hierarchical")[0]
    vectors = []
    for module in G.modules():
        if isinstance(module, VectorNorm):
            module.register_forward_pre_hook(lambda module, args: vectors.append(args[1]))
    z, y = latents(G, 2), torch.tensor([2, 0])
    G(z, y)
    chunks = [z[:, :2], z[:, 2:4], z[:, 4:6], z[:, 6:]]
    assert G.from_z.in_features == 2
    expected = [torch.cat([chunk, G.shared.weight[y]], 1) for chunk in chunks[1:] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(vectors, expected, strict=True))


@pytest.mark.parametrize("n_labels", [0, 3])
def test_deep_norms_and_the_first_layer_see_the_whole_z(n_labels: int) -> None:
    G = pair("deep", n_labels)[0]
    vectors = []
    for module in G.modules():
        if isinstance(module, VectorNorm):
            module.register_forward_pre_hook(lambda module, args: vectors.append(args[1]))
    G.from_z.register_forward_pre_hook(lambda module, args: vectors.append(args[0]))
    z, y = latents(G, 2), torch.tensor([2, 0])
    G(z, y)
    assert len(vectors) == 1 + 3 * 2 * 4
    expected = torch.cat([z, G.shared.weight[y]], 1) if n_labels else z
    assert all(torch.equal(v, expected) for v in vectors)


@every_variant
def test_the_shared_embedding_is_one_table(variant: str) -> None:
    G = pair(variant)[0]
    tables = [(name, p) for name, p in G.named_parameters() if p.dim() == 2 and p.shape[0] == 3]
    tables = [(name, p) for name, p in tables if name != "to_image.weight"]
    if variant.startswith("plain"):
        assert G.shared is None
        assert len(tables) == 3 * 2 * 2
    else:
        assert [name for name, _ in tables] == ["shared.weight"]
        assert not any(isinstance(module, ConditionalNorm) for module in G.modules())


def test_shared_embedding_of_classes_and_attributes() -> None:
    shared = drawn(SharedEmbedding(3, 4))
    a, b = shared.weight[0], shared.weight[2]
    rows = torch.tensor([[1.0, 0, 0], [0.5, 0, 2], [0, 0, 0]])
    assert_close(shared(rows), torch.stack([a, 0.5 * a + 2 * b, 0 * a]))


@every_variant
@pytest.mark.parametrize("condition", ["cbn", "cin"])
def test_labels_act_on_their_own_sample_alone(variant: str, condition: str) -> None:
    G, D = (net.eval() for net in pair(variant, condition=condition))
    z, y, other = latents(G), torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2, 1])
    x = G(z, y)
    assert_close(x[:3], G(z, other)[:3])
    assert (x[3] - G(z, other)[3]).abs().max() > 1e-6
    logit = D(x, y)
    assert_close(logit[:3], D(x, other)[:3])
    assert (logit[3] - D(x, other)[3]).abs() > 1e-6
    weights = torch.nn.functional.one_hot(y, 3)
    assert_close(G(z, 2 * weights), x)  # attributes of one label each


@every_variant
@pytest.mark.parametrize("n_labels", [0, 3])
def test_instance_norms_leave_no_statistics_of_the_batch(variant: str, n_labels: int) -> None:
    settings = {"condition": "cin"} if n_labels else {"norm": "instance"}
    G = pair(variant, n_labels, **settings)[0].train()
    assert not any(isinstance(module, _BatchNorm) for module in G.modules())
    z, y = latents(G), torch.tensor([0, 1, 2, 0]) if n_labels else None
    assert_close(G(z[:2], None if y is None else y[:2]), G(z, y)[:2])


@every_variant
def test_without_labels_norms_are_plain_or_driven_by_z(variant: str) -> None:
    G = pair(variant, n_labels=0)[0]
    driven = variant.startswith(("hierarchical", "deep"))
    assert any(isinstance(module, VectorNorm) for module in G.modules()) == driven
    assert G.shared is None
    assert not any(isinstance(module, ConditionalNorm) for module in G.modules())


def test_norm_is_for_networks_without_labels() -> None:
    shape = {"img_size": 32, "img_channels": 3, "z_dim": 4, "width": 1}
    assert str(Generator(**shape, n_labels=2, norm="none")) == str(Generator(**shape, n_labels=2))
    assert not any(isinstance(m, _BatchNorm) for m in Generator(**shape, norm="none").modules())


def test_standing_statistics_find_the_norms() -> None:
    G = pair("hierarchical")[0]
    z, y = latents(G, 6), torch.tensor([0, 1, 2, 0, 1, 2])
    standing_statistics(G, [(z, y)])
    first = next(module for module in G.modules() if isinstance(module, VectorNorm))
    maps = G.from_z(z[:, :2]).unflatten(1, (-1, 4, 4))
    assert_close(first.norm.running_mean, maps.mean((0, 2, 3)))


# Weights and gradients


@every_variant
@pytest.mark.parametrize("n_labels", [0, 3])
@pytest.mark.parametrize("condition", list(CLASS_HEADS))
def test_gradient_reaches_every_parameter(variant: str, n_labels: int, condition: str) -> None:
    """In eval mode: in training batch norm takes away the biases before it."""
    size, _, _, d = VARIANTS[variant]
    G = pair(variant, n_labels)[0].eval()
    D = drawn(Discriminator(img_size=size, img_channels=3, n_labels=n_labels, condition=condition, **d))
    z, y = latents(G, 8), torch.arange(8) % 3 if n_labels else None
    output = as_output(D(G(z, y), y))
    loss = (output.logit * torch.randn(8)).sum()
    if output.classes is not None:
        loss = loss + (output.classes * torch.randn(8, 3)).sum()
    loss.backward()
    for net in (G, D):
        for name, p in net.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().max() > 1e-9, name


@every_variant
def test_penalties_on_gradients_reach_every_weight(variant: str) -> None:
    """R1 and the like: the second derivatives of D are there."""
    D = pair(variant)[1]
    x = torch.randn(4, 3, D.img_size, D.img_size).requires_grad_()
    (grad,) = torch.autograd.grad(D(x, torch.tensor([0, 1, 2, 0])).sum(), x, create_graph=True)
    grad.square().sum().backward()
    for name, p in D.named_parameters():
        if name.endswith("weight"):
            assert p.grad is not None, name


def test_weights_are_normal_as_asked() -> None:
    G = Generator(img_size=32, img_channels=3, z_dim=64, n_labels=10, width=16)
    D = Discriminator(img_size=32, img_channels=3, n_labels=10, width=16)
    for net in (G, D):
        for name, p in net.named_parameters():
            if name.endswith("bias") and "norm" not in name:
                assert not p.any(), name
            elif p.numel() > 500:
                assert 0.018 < p.std() < 0.022, name
                assert abs(p.mean()) < 0.005, name
    assert torch.equal(G.norm.weight, torch.ones(64))
    norm = next(module for module in G.modules() if isinstance(module, ConditionalNorm))
    assert 0 < norm.weight.std() < 0.03
    assert 0 < norm.bias.std() < 0.03


@pytest.mark.parametrize("deep", [False, True])
def test_weights_are_orthogonal_as_asked(deep: bool) -> None:
    shape = {"img_size": 64, "img_channels": 3, "n_labels": 10, "width": 2, "deep": deep, "attention": 0}
    for net in (Generator(**shape, z_dim=10), Discriminator(**shape)):
        for name, p in net.named_parameters():
            if p.dim() > 1:
                matrix = p.flatten(1)
                short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()
                assert_close(short @ short.t(), torch.eye(len(short)), atol=1e-5, rtol=0, msg=name)


@every_variant
def test_spectral_norm_from_outside_takes_every_layer_and_no_table_of_g(variant: str) -> None:
    for net in pair(variant):
        tables = {
            id(p)
            for m in net.modules()
            if isinstance(m, SharedEmbedding | ConditionalNorm)
            for p in m.parameters()
        }
        assert bool(tables) == isinstance(net, Generator)
        apply_spectral_norm(net)
        free = {id(p) for name, p in net.named_parameters() if p.dim() > 1 and ".original" not in name}
        assert free == tables
        iterate_spectral_norm(net)
    D = pair(variant)[1]
    assert parametrize.is_parametrized(apply_spectral_norm(D).heads.to_classes, "weight")


# Precision, layout, types


@every_variant
def test_bf16_autocast(variant: str) -> None:
    torch.set_default_dtype(torch.float32)
    G, D = pair(variant)
    y = torch.tensor([0, 1, 2, 0])
    for net, given in ((G, latents(G)), (D, torch.rand(4, 3, D.img_size, D.img_size) * 2 - 1)):
        full = net(given, y)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(given, y)
        assert half.isfinite().all()
        assert (half - full).abs().mean() < 0.05 * full.abs().mean()


@every_variant
def test_channels_last_changes_nothing(variant: str) -> None:
    G, D = (net.eval() for net in pair(variant))
    z, y = latents(G), torch.tensor([0, 1, 2, 0])
    x = G(z, y)
    logit = D(x, y)
    G, D = (net.to(memory_format=torch.channels_last) for net in (G, D))
    assert_close(G(z, y), x)
    assert_close(D(x.to(memory_format=torch.channels_last), y), logit)


@every_variant
def test_state_dict_round_trip(variant: str) -> None:
    for net, other in zip(pair(variant), pair(variant), strict=True):
        other.load_state_dict(net.state_dict())
        given = latents(net) if isinstance(net, Generator) else torch.randn(4, 3, net.img_size, net.img_size)
        y = torch.tensor([0, 1, 2, 0])
        assert torch.equal(net.eval()(given, y), other.eval()(given, y))


# Errors


def test_a_z_dim_that_fits_is_named() -> None:
    assert [chunk_dim(120, 6), chunk_dim(7, 1)] == [20, 7]
    with pytest.raises(ValueError, match=r"z_dim 102\b"):
        chunk_dim(100, 6)
    with pytest.raises(ValueError, match=r"z_dim 6\b"):
        chunk_dim(1, 6)


G_ERRORS: dict[str, tuple[dict[str, object], str]] = {
    "size": ({"img_size": 100}, "k from 3 to 6, not 100: the nearest is img_size 96"),
    "channels": ({"img_channels": 0}, "img_channels"),
    "z": ({"z_dim": 0}, "z_dim"),
    "chunks": ({"img_size": 128, "z_dim": 128}, "6 equal chunks.*z_dim 126"),
    "width": ({"width": 0}, "width"),
    "width of a deep one": ({"width": 1, "deep": True}, "width"),
    "shared_dim": ({"shared_dim": -1}, "shared_dim"),
    "no shared embedding": ({"shared_dim": 0, "hierarchical": True}, "shared_dim 0"),
    "no shared embedding in a deep one": ({"shared_dim": 0, "deep": True}, "shared_dim 0"),
    "hierarchical": ({"hierarchical": "yes"}, "hierarchical"),
    "deep": ({"deep": 2}, "deep"),
    "both": ({"deep": True, "hierarchical": True}, "leave out hierarchical"),
    "attention": ({"attention": 4}, "attention 4: G of 32 px has maps of 8, 16, 32 px"),
    "attention beyond": ({"attention": [16, 64]}, "attention 64: G"),
    "init": ({"init": "xavier"}, "normal, orthogonal"),
    "condition": ({"condition": "concat"}, "cbn, cin"),
    "norm": ({"n_labels": 0, "hierarchical": True, "norm": "layer"}, "batch, instance"),
    "plain norm": ({"n_labels": 0, "norm": "group"}, "batch"),
}


@pytest.mark.parametrize("case", G_ERRORS)
def test_g_refuses(case: str) -> None:
    settings, message = G_ERRORS[case]
    with pytest.raises(ValueError, match=message):
        Generator(**{"img_size": 32, "img_channels": 3, "z_dim": 4, "n_labels": 2, "width": 2} | settings)


D_ERRORS: dict[str, tuple[dict[str, object], str]] = {
    "size": ({"img_size": 16}, "k from 3 to 6, not 16: the nearest is img_size 32"),
    "channels": ({"img_channels": 0}, "img_channels"),
    "width": ({"width": 0}, "width"),
    "attention": ({"attention": 32}, "attention 32: D of 32 px has maps of 16, 8 px"),
    "init": ({"init": "xavier"}, "normal, orthogonal"),
    "condition": ({"condition": "cbn"}, "projection, ac"),
    "deep": ({"deep": None}, "deep"),
}


@pytest.mark.parametrize("case", D_ERRORS)
def test_d_refuses(case: str) -> None:
    settings, message = D_ERRORS[case]
    with pytest.raises(ValueError, match=message):
        Discriminator(**{"img_size": 32, "img_channels": 3, "n_labels": 2, "width": 2} | settings)


def test_inputs_that_do_not_fit_are_refused() -> None:
    G, D = pair("plain")
    with pytest.raises(ValueError, match="latents"):
        G(torch.randn(2, 5), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels"):
        G(latents(G))
    with pytest.raises(ValueError, match="labels"):
        G(latents(G), torch.tensor([0]))
    with pytest.raises(ValueError, match="images"):
        D(torch.randn(2, 3, 16, 16), torch.tensor([0, 1]))
