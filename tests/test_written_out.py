"""Translators' steps are the papers' loops as benchmarks/written_out.py has them, and what makes them fast is exact."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from benchmarks import step, written_out
from modelling.layers import NORMS
from training.optimizers import MAKERS, as_stored


@pytest.fixture
def doubles() -> Iterator[None]:
    """float64 for what has no type of its own."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("model", written_out.STEPS)
def test_our_steps_are_those_of_the_papers(model: str, channels_last: bool, doubles: None) -> None:
    """Weights after three steps on a batch of all pictures there are; G of 32 px has no dropout."""
    case, loss = (32, 3, 2, {"width": 2}), next(iter(step.LOSSES[model]))
    a, b = (step.synthetic(32, 3, 2, seed) for seed in (0, 1))
    with ExitStack() as stack:
        variant = "fp32 channels_last" if channels_last else "fp32"
        loop = step.ours(stack, model, step.pairs_of(model, a, b), case, loss, variant, "cpu")
        nets = written_out.networks(model, *case[:2], case[3])
        for name, net in nets.items():
            net.load_state_dict(loop.task.networks[name].state_dict())
        # a batch's order is ours to choose: theirs is the same where the two sides' partners are
        theirs = written_out.STEPS[model](
            nets, step.floats(a, "cpu").double(), step.floats(b, "cpu").double(), 2
        )
        for _ in range(3):
            loop.run_step()
            theirs()
        for name, net in nets.items():
            assert_close(loop.task.networks[name].state_dict(), net.state_dict(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["instance", "plain_instance"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_is_torchs(name: str, n: int, layout: torch.memory_format) -> None:
    """Value, gradients and second gradients, in training and not, and in the layout that it is given."""
    norm = NORMS[name](5).double()
    theirs = nn.InstanceNorm2d(5, affine=norm.affine).double()
    for p in norm.parameters():
        nn.init.normal_(p)
    theirs.load_state_dict(norm.state_dict())
    given = torch.randn(n, 5, 3, 7, dtype=torch.float64).to(memory_format=layout)

    def looked_at(module: nn.Module) -> list[Tensor]:
        x = given.clone().requires_grad_()
        y = module(x)
        inputs = [x, *module.parameters()]
        first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        return [y, *first, *second]

    for training in (True, False):
        assert_close(looked_at(norm.train(training)), looked_at(theirs), rtol=0, atol=1e-12)
    assert norm(given).is_contiguous(memory_format=layout)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        norm.train()(given[:, :, :1, :1])


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_takes_weights_as_they_are_stored(name: str) -> None:
    """torch's own steps, moments in the parameters' shapes, and nothing copied."""
    given = [torch.randn(4, 3, 2, 5), torch.randn(4, 1, 2, 2), torch.randn(4, 3, 1, 1), torch.randn(6)]
    nets = []
    for kind in (MAKERS[name].args[0], getattr(torch.optim, name)):
        layouts = [torch.channels_last if x.dim() == 4 else torch.preserve_format for x in given]
        params = [nn.Parameter(x.clone(memory_format=f)) for x, f in zip(given, layouts, strict=True)]
        optimizer = kind(params, 0.1, fused=True)
        for _ in range(3):
            for p in params:
                p.grad = p.detach().sin()
            optimizer.step()
        nets.append((params, optimizer))
    (ours, own), (theirs, other) = nets
    assert_close(ours, theirs, rtol=0, atol=0)
    assert_close(own.state_dict()["state"], other.state_dict()["state"], rtol=0, atol=0)
    assert all(own.state[p]["exp_avg"].stride() == p.stride() for p in ours)
    assert all(as_stored(p).is_contiguous() for p in ours)
    with torch.profiler.profile() as profile:
        own.step()
    assert "aten::clone" not in {event.key for event in profile.key_averages()}
