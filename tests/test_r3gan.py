"""R3GAN: counts, initial weights, forwards written out, precision; its penalties' gradients, and reals of G's own."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from games.noise_to_image import Inputs, NoiseToImage
from games.task import Draws, Micro
from images.batches import Batches, ImageData, Shard
from losses import r1, r2
from modelling import build_discriminator, build_generator
from modelling.r3gan import Bottleneck
from tests.running import TINY, request, run, small

CLASSES = 3


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


def generator(img_size: int | tuple[int, int] = 16, n_labels: int = 0, **settings: int) -> nn.Module:
    """A narrow one."""
    narrow = {"channel_base": 128, "channel_max": 16, "n_labels": n_labels}
    return build_generator("r3gan", img_size=img_size, img_channels=3, z_dim=8, **narrow | settings)


def discriminator(img_size: int | tuple[int, int] = 16, n_labels: int = 0, **settings: int) -> nn.Module:
    """A narrow one."""
    narrow = {"channel_base": 128, "channel_max": 16, "n_labels": n_labels}
    return build_discriminator("r3gan", img_size=img_size, img_channels=3, **narrow | settings)


def blocks_of(net: nn.Module) -> list[Bottleneck]:
    return [module for module in net.modules() if isinstance(module, Bottleneck)]


def trained(net: nn.Module) -> nn.Module:
    """With weights that no branch has 0 among."""
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net


# Networks


def width(channels: int, until: int = 32) -> dict[str, int]:
    return {"channel_base": channels * until, "channel_max": channels}


@pytest.mark.parametrize(
    ("img_size", "n_labels", "settings", "of_g", "of_d"),
    [
        (32, 10, {}, 20_781_952, 21_280_512),
        (32, 0, {}, 20_732_160, 20_683_776),
        (64, 0, {}, 22_429_824, 22_381_440),
        (256, 0, {}, 23_057_952, 23_009_568),
        (32, 1000, width(1536) | {"group_size": 32}, 82_914_304, 86_548_992),
        (64, 1000, width(1536, 64) | {"group_size": 32}, 103_570_432, 107_205_120),
        (32, 0, width(96), 527_136, 521_088),
    ],
)
def test_published_counts(
    img_size: int, n_labels: int, settings: dict[str, int], of_g: int, of_d: int
) -> None:
    """CIFAR-10 with and without labels, FFHQ at 64 and 256 px, ImageNet at 32 and 64 px, and the tiny preset."""
    sizes = {"img_size": img_size, "img_channels": 3, "n_labels": n_labels, "z_dim": 64}
    with torch.device("meta"):
        nets = (
            build_generator("r3gan", **sizes, **settings),
            build_discriminator("r3gan", **sizes, **settings),
        )
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [of_g, of_d]


def test_initial_weights() -> None:
    """By Fixup of 8 branches, inside them; of unit gain outside; D's labels so that their product with features is as
    large as one of these."""
    wide = {"channel_base": 96 * 32, "channel_max": 96, "n_labels": 50}
    G, D = generator(32, **wide), discriminator(32, **wide)
    gain = math.sqrt(2 / 1.04) / 8**0.25
    deviations = [
        (G.start, (8 + 64) ** -0.5), (G.embedding, 50**-0.5), (G.to_image, 96**-0.5), (D.pool, 1 / 4),
        (D.head, 96**-0.5), (D.embedding, (96 * 50) ** -0.5), (D.levels[0].from_image, 3**-0.5),
    ]  # fmt: skip
    for net in (G, D):
        assert len(blocks_of(net)) == 8
        for block in blocks_of(net):
            deviations += [(block.widen, gain * 96**-0.5), (block.mix, gain / 12)]
            assert not any(p.any() for p in (block.narrow.weight, block.widen.bias, block.mix.bias))
            x = torch.randn(2, 96, 5, 5)
            assert torch.equal(block(x), x)
    for layer, std in deviations:
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.12)
    assert float(G.basis.detach().std()) == pytest.approx(1, rel=0.05)
    assert all(p.abs().sum() > 0 for net in (G, D) for name, p in net.named_parameters() if "basis" in name)


def filtered(x: Tensor, up: bool) -> Tensor:
    """The filter [1, 3, 3, 1] at every second pixel, or spread from every pixel, by torch's own convolutions."""
    taps = torch.tensor([1.0, 3, 3, 1], dtype=x.dtype)
    kernel = (taps[:, None] * taps / (16 if up else 64)).expand(x.shape[1], 1, 4, 4)
    turn = F.conv_transpose2d if up else F.conv2d
    return turn(x, kernel, stride=2, padding=1, groups=x.shape[1])


def branch(x: Tensor, block: Bottleneck) -> Tensor:
    """x + C(lrelu(B(lrelu(A x + p)) + q)) by sums over groups."""
    a, b, c = (getattr(block, name).weight for name in ("widen", "mix", "narrow"))
    h = torch.einsum("oi,nihw->nohw", a[:, :, 0, 0], x) + block.widen.bias[:, None, None]
    h = torch.where(h > 0, h, 0.2 * h)
    parts = [F.conv2d(part, w, padding=1) for part, w in zip(h.split(16, 1), b.split(16), strict=True)]
    h = torch.cat(parts, 1) + block.mix.bias[:, None, None]
    return x + torch.einsum("oi,nihw->nohw", c[:, :, 0, 0], torch.where(h > 0, h, 0.2 * h))


@pytest.fixture
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("n_labels", [0, CLASSES])
@pytest.mark.parametrize("shape", [(16, 16), (20, 24)])
def test_forwards_written_out(n_labels: int, shape: tuple[int, int], in_float64: None) -> None:
    """Widths 16, 16, 8: the last level has a 1x1, in G before it is doubled, in D after it is halved."""
    G, D = (trained(make(shape, n_labels)) for make in (generator, discriminator))
    z, y = torch.randn(4, 8), (torch.arange(4) % CLASSES if n_labels else None)
    given = torch.cat([z, G.embedding.weight.t()[y]], 1) if n_labels else z
    x = (given @ G.start.weight.t())[:, :, None, None] * G.basis
    for k, level in enumerate(G.levels):
        if k == 2:
            x = torch.einsum("oi,nihw->nohw", level.change.weight[:, :, 0, 0], x)
        x = filtered(x, up=True) if k else x
        for block in level.blocks:
            x = branch(x, block)
    x = torch.einsum("oi,nihw->nohw", G.to_image.weight[:, :, 0, 0], x)
    assert x.shape == (4, 3, *shape)
    assert_close(G(z, y), x)
    h = torch.einsum("oi,nihw->nohw", D.levels[0].from_image.weight[:, :, 0, 0], x)
    for k, level in enumerate(D.levels):
        for block in level.blocks:
            h = branch(h, block)
        h = filtered(h, up=False) if k < 2 else h
        if k == 0:
            h = torch.einsum("oi,nihw->nohw", level.change.weight[:, :, 0, 0], h)
    features = (h * D.pool.weight[:, 0]).sum((2, 3)) @ D.head.weight.t()
    logit = (features * D.embedding.weight.t()[y]).sum(1) if n_labels else features[:, 0]
    assert_close(D(x, y), logit)


def types_of(net: nn.Module, given: Tensor) -> list[set[torch.dtype]]:
    """What the convolutions of each level compute in, the smallest first, under autocast."""
    levels = sorted(net.levels, key=lambda level: level.half)
    found: list[set[torch.dtype]] = [set() for _ in levels]
    for level, types in zip(levels, found, strict=True):
        for conv in level.modules():
            if isinstance(conv, nn.Conv2d):
                conv.register_forward_hook(
                    lambda _, given, out, types=types: types.update({given[0].dtype, out.dtype})
                )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(given).dtype == torch.float32
    return found


@pytest.mark.parametrize("n_half", [0, 2, 9])
def test_the_highest_resolutions_alone_compute_in_half_precision(n_half: int) -> None:
    """The smallest never does, and the rest gives what it gives without autocast."""
    for net, given in (
        (generator(32, n_half=n_half), torch.randn(2, 8)),
        (discriminator(32, n_half=n_half), torch.rand(2, 3, 32, 32)),
    ):
        trained(net)
        plain = net(given)
        n = min(n_half, 3)
        assert types_of(net, given) == [{torch.float32}] * (4 - n) + [{torch.bfloat16}] * n
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(net(given), plain) == (n_half == 0)
            assert_close(net(given), plain, rtol=0.1, atol=0.05 * float(plain.detach().abs().max()))


def test_maps_keep_the_networks_memory_layout() -> None:
    """Of convolutions with few channels a group channels_last takes three quarters of the time."""
    for net, given in ((generator(), torch.randn(2, 8)), (discriminator(), torch.rand(2, 3, 16, 16))):
        net.to(memory_format=torch.channels_last)
        seen = []
        for block in blocks_of(net):
            block.register_forward_hook(
                lambda _, given, out, seen=seen: seen.append(
                    out.is_contiguous(memory_format=torch.channels_last)
                )
            )
        net(given.to(memory_format=torch.channels_last) if given.dim() == 4 else given)
        assert len(seen) == 6 and all(seen)


def test_groups_that_do_not_come_out_even_are_refused() -> None:
    with pytest.raises(ValueError, match="make 24 channels inside a block, .* groups of 16"):
        generator(channel_max=12)
    assert generator(channel_max=4).levels[0].blocks[0].mix.groups == 1  # fewer channels than a group has


# Penalties


@pytest.mark.parametrize("n_labels", [0, CLASSES])
@pytest.mark.parametrize("penalty", [r1, r2])
def test_gradients_of_r1_and_r2_by_finite_differences(penalty, n_labels: int, in_float64: None) -> None:
    """Half the mean squared norm of D's slope at its images, and how D's weights move it, both by differences."""
    D = trained(discriminator(8, n_labels, channel_max=8))
    x, y = torch.rand(3, 3, 8, 8) * 2 - 1, torch.arange(3) if n_labels else None
    params, eps = list(D.parameters()), 1e-6

    def value() -> Tensor:
        return penalty(lambda images: D(images, y), x)

    with torch.no_grad():
        corners = torch.eye(x[0].numel()).view(-1, 1, 3, 8, 8) * eps
        slopes = torch.stack([(D(x + c, y) - D(x - c, y)) / (2 * eps) for c in corners])
    assert_close(value(), 0.5 * slopes.square().sum(0).mean(), rtol=1e-6, atol=0)
    found = torch.autograd.grad(value(), params, allow_unused=True)
    x_asking = x.clone().requires_grad_()
    key = {r1: "d_real", r2: "d_fake"}[penalty]
    shared = penalty(lambda images: D(images, y), x_asking, **{key: D(x_asking, y)})
    for one, other in zip(found, torch.autograd.grad(shared, params, allow_unused=True), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    for p, grad in zip(params, found, strict=True):
        way = torch.randn_like(p)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(way, alpha=sign * eps)
            ends.append(value().detach())
            with torch.no_grad():
                p.sub_(way, alpha=sign * eps)
        by_differences = (ends[0] - ends[1]) / (2 * eps)
        expected = torch.zeros(()) if grad is None else (grad * way).sum()
        assert_close(by_differences, expected, rtol=1e-5, atol=1e-6)


AUGMENTED = "--augment ada color translation cutout --ada_p 0.8 --ada_pipe r3gan --ada_interval 0"
GAME = f"{small('r3gan')} --method rpgan --penalty r1 r2"


@pytest.mark.parametrize("flags", ["", "--mixed_precision bf16"])
def test_slopes_are_by_images_before_the_augmentation(flags: str, tmp_path) -> None:
    """Under the draws of D's loss for the same images, whether its forward is shared or, in bf16, made anew."""
    task = run(f"--log_name a {GAME} {AUGMENTED} --n_steps 1 {flags}", tmp_path, sampled=False).task
    inputs = given(task)
    stats = task.d_loss(inputs)[1]
    for name, purpose, x in (
        ("r1", "d-real", task.reals_of(inputs)),
        ("r2", "d-fake", task.fakes_for_d(inputs)),
    ):
        x = x.detach().requires_grad_()
        seen = task.augmenter(x, inputs, purpose)
        assert not torch.equal(seen, x)
        (slope,) = torch.autograd.grad(task.D(seen).sum(), x)
        assert_close(stats[f"penalty/{name}"], 0.5 * slope.square().sum((1, 2, 3)).mean())


def given(task: NoiseToImage) -> Inputs:
    """What the game is given in the first step."""
    shard = task.place.shard
    return task.inputs(Micro(Draws(shard, task.device, 0, 0, 0, first=0), 0, 0))


# Reals of G's own


def numbered(n: int = 12) -> ImageData:
    """Images that each show their number, of as many classes."""
    images = np.arange(n, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2)
    return ImageData(images, np.arange(n), tuple(map(str, range(n))), "f", "numbers")


def test_another_order_is_one_of_the_same_images() -> None:
    """Each epoch once, as for D, elsewhere and by the same seed anew; in one copy, with labels of their own."""
    batches = Batches(numbered(), Shard(4), seed=0, flip=True, device="cpu")
    fresh = batches.another("fresh")
    assert fresh.images is batches.images
    orders = [[b.indices(4 * i, 4).tolist() for i in range(6)] for b in (batches, fresh)]
    for order in orders:
        assert sorted(sum(order[:3], [])) == sorted(sum(order[3:], [])) == list(range(12))
    assert orders[0] != orders[1]
    assert not torch.equal(batches.flips(0, 64), fresh.flips(0, 64))
    again = Batches(numbered(), Shard(4), seed=0, flip=True, device="cpu").another("fresh")
    assert [again.indices(4 * i, 4).tolist() for i in range(6)] == orders[1]
    x, y = fresh.micro(0)
    assert_close((x[:, 0, 0, 0] + 1) * 127.5, y.float())


@pytest.mark.parametrize("labels", ["", "--conditional"])
def test_g_sees_other_reals_than_d(labels: str, tmp_path) -> None:
    """With their labels; D's first step is the same, G's is not."""
    seen = {}
    command = f"{GAME} {labels} --n_steps 1"
    for name, flags in (("own", ""), ("fresh", "--fresh_reals")):
        loop = run(f"--log_name {name} {command} {flags}", tmp_path, sampled=False)
        seen[name] = loop.task, loop.state_dict()["networks"]
    before, after = (networks for _, networks in seen.values())
    assert all(torch.equal(before["D"][key], after["D"][key]) for key in before["D"])
    assert not all(torch.equal(before["G"][key], after["G"][key]) for key in before["G"])
    task = seen["fresh"][0]
    inputs = given(task)
    x_fake = task.fakes_for_d(inputs)
    of_g = task.inputs_of_g(inputs)
    expected = task.batches.another("fresh").micro(0)
    assert torch.equal(of_g.real[0], expected[0]) and not torch.equal(of_g.real[0], inputs.real[0])
    assert torch.equal(of_g.z, inputs.z)
    if labels:
        assert torch.equal(of_g.y, expected[1]) and not torch.equal(of_g.y, inputs.y)
        assert not torch.equal(task.fakes_for_g(of_g), x_fake)
    else:  # one forward of G serves both
        assert task.fakes_for_g(of_g).requires_grad and inputs.x_fake is None


def test_reals_that_no_loss_sees_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"fresh_reals: the loss of G by method gan sees no reals \(ragan, rpgan do\)"
    ):
        request(f"{TINY} --fresh_reals").config()
