"""Operations against what torch computes by slower means."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing import assert_close

from ops.distributed import global_mean, n_processes
from ops.precision import repeatable, upcast
from ops.spectral_norm import SpectralNorm, apply_spectral_norm, iterate_spectral_norm

# Precision


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_upcast_lifts_half_precision_only(given: torch.dtype, expected: torch.dtype) -> None:
    assert upcast(torch.ones(2, dtype=given)).dtype == expected


@pytest.mark.parametrize("before", [False, True])
def test_repeatable_sets_every_switch_and_puts_it_back(before: bool) -> None:
    switches = {
        (torch.backends.cuda.matmul, "allow_tf32"): False,
        (torch.backends.cudnn, "allow_tf32"): False,
        (torch.backends.cudnn, "benchmark"): False,
        (torch.backends.cudnn, "deterministic"): True,
    }
    held = {place: getattr(*place) for place in switches}
    try:
        for place in switches:
            setattr(*place, before)
        with repeatable():
            assert {place: getattr(*place) for place in switches} == switches
        assert all(getattr(*place) is before for place in switches)
    finally:
        for place, value in held.items():
            setattr(*place, value)


# Means over processes


@pytest.mark.parametrize("dim", [None, 0])
def test_global_mean_of_one_process(dim: int | None) -> None:
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert n_processes() == 1
    assert_close(global_mean(x, dim), x.mean() if dim is None else x.mean(dim))

    def cubes(x: Tensor) -> Tensor:
        return global_mean(x.pow(3), dim)

    assert torch.autograd.gradcheck(cubes, x)
    assert torch.autograd.gradgradcheck(cubes, x)


def relative_loss(net: nn.Module, x: Tensor) -> Tensor:
    """A loss that needs the batch's mean twice: outputs against their mean, and a penalty through it."""
    x = x.detach().requires_grad_()
    out = net(x)
    out = out - global_mean(out) + 0.3 * out * global_mean(out.square(), dim=0)
    (grad,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    return torch.nn.functional.softplus(-out).mean() + grad.square().sum(1).mean()


def gradients(net: nn.Module, loss: Tensor) -> list[Tensor]:
    """Of every parameter, averaged over processes."""
    grads = [g.contiguous() for g in torch.autograd.grad(loss, list(net.parameters()))]
    if n_processes() > 1:
        for g in grads:
            dist.all_reduce(g)
            g /= n_processes()
    return grads


def small_net() -> nn.Module:
    """The same on every process."""
    torch.default_generator.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.SiLU(), nn.Linear(7, 1)).double()
    return net


def global_batch() -> Tensor:
    """(8, 5), the same on every process."""
    return torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def process_of_two(rank: int, folder: str) -> None:
    """Save the averaged gradients of half of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    net = small_net()
    x = global_batch()[rank * 4 : rank * 4 + 4]
    torch.save(
        [gradients(net, relative_loss(net, x)), global_mean(x), global_mean(x, 0)], f"{folder}/{rank}.pt"
    )
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(process_of_two, args=(str(tmp_path),), nprocs=2)
    net, x = small_net(), global_batch()
    expected = [gradients(net, relative_loss(net, x)), x.mean(), x.mean(0)]
    for rank in range(2):
        assert_close(torch.load(tmp_path / f"{rank}.pt"), expected, rtol=1e-12, atol=1e-13)


# Spectral norm

LAYERS = {
    "conv": lambda: nn.Conv2d(3, 6, 4, stride=2, padding=1),
    "conv transposed": lambda: nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1),
    "linear": lambda: nn.Linear(7, 4),
    "embedding": lambda: nn.Embedding(6, 3),
}


def matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """The weight as (out, rest), spelt out."""
    if isinstance(layer, nn.ConvTranspose2d):
        return weight.permute(1, 0, 2, 3).reshape(weight.shape[1], -1)
    return weight.reshape(weight.shape[0], -1)


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> nn.Module:
    torch.default_generator.manual_seed(3)
    return LAYERS[request.param]().double()


def test_largest_singular_value_becomes_one(layer: nn.Module) -> None:
    plain = layer.weight.detach().clone()
    apply_spectral_norm(layer)
    iterate_spectral_norm(layer, 1000)
    largest = torch.linalg.svdvals(matrix(layer, plain))[0]
    assert_close(layer.weight.detach(), plain / largest)
    assert_close(
        torch.linalg.svdvals(matrix(layer, layer.weight.detach()))[0], torch.ones((), dtype=torch.float64)
    )


def test_construction_already_comes_close(layer: nn.Module) -> None:
    apply_spectral_norm(layer)
    largest = torch.linalg.svdvals(matrix(layer, layer.weight.detach()))[0]
    assert 1 - 1e-12 <= largest < 1.1


def test_reading_the_weight_changes_nothing(layer: nn.Module) -> None:
    apply_spectral_norm(layer).train()
    before = copy.deepcopy(layer.state_dict())
    first, second = layer.weight, layer.weight
    assert torch.equal(first, second)
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())
    iterate_spectral_norm(layer)
    assert not torch.equal(layer.weight, first)


def test_gradient_passes_through_sigma() -> None:
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    norm = SpectralNorm(weight)
    assert torch.autograd.gradcheck(norm, weight)
    assert torch.autograd.gradgradcheck(norm, weight)


def test_state_dict_and_deepcopy(layer: nn.Module) -> None:
    apply_spectral_norm(layer)
    iterate_spectral_norm(layer)
    twin = copy.deepcopy(layer)
    assert torch.equal(twin.weight, layer.weight)
    with torch.no_grad():
        twin.parametrizations.weight.original.mul_(2).add_(1)
    iterate_spectral_norm(twin, 5)
    assert not torch.equal(twin.weight, layer.weight)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin.weight, layer.weight)


def test_every_layer_once_and_nothing_else() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Linear(4, 1)))
    assert apply_spectral_norm(apply_spectral_norm(net)) is net
    assert len([m for m in net.modules() if isinstance(m, SpectralNorm)]) == 2
    iterate_spectral_norm(nn.Linear(2, 2))  # nothing to do


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_sigma_in_full_precision_under_autocast(device: str) -> None:
    layer = apply_spectral_norm(nn.Linear(64, 64).to(device))
    expected = layer.weight.detach()
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(layer.weight, expected)


def test_zero_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="all zero"):
        SpectralNorm(torch.zeros(2, 2))


def test_penalty_through_spectral_norm() -> None:
    net = apply_spectral_norm(nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1)).double())
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(net, x)
    (grad,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    grad.square().sum().backward()
    reached = net[0].parametrizations.weight.original.grad
    assert reached.isfinite().all() and reached.abs().sum() > 0
