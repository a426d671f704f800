"""Attention: against the written-out form to the second derivative, its properties, half precision, second backends."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ops.attention import attention, attention_reference
from ops.precision import twice_differentiable

# N, L, M, d, c
SHAPES = [
    (2, 7, 5, 3, 4),
    (3, 16, 4, 2, 8),
    (1, 1, 6, 4, 4),
    (2, 5, 1, 1, 3),
    (2, 4, 9, 6, 2),
]
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


def inputs(n: int, n_q: int, n_k: int, d: int, c: int, std: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v in float64, their positions last in memory as those of maps are."""
    shapes = ((n, d, n_q), (n, d, n_k), (n, c, n_k))
    drawn = (std * torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return tuple(x.transpose(1, 2).requires_grad_() for x in drawn)


def first_order(y: Tensor, leaves: tuple[Tensor, ...], again: bool = False) -> list[Tensor]:
    """The value and the gradients of a curved loss; `again` keeps the graph of these."""
    return [y, *torch.autograd.grad((y.sin() * (1 + y)).sum(), leaves, create_graph=again)]


def second_order(y: Tensor, leaves: tuple[Tensor, ...]) -> list[Tensor]:
    """The same and the gradients of these gradients' squares."""
    y, *first = first_order(y, leaves, again=True)
    return [y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)]


@pytest.mark.parametrize("form", [attention, attention_reference])
def test_value_is_a_loop_over_queries_and_keys(form: object) -> None:
    q, k, v = (x.detach() for x in inputs(2, 4, 3, 2, 5))
    expected = torch.zeros(2, 4, 5, dtype=torch.float64)
    for n in range(2):
        for i in range(4):
            likeness = [math.exp(sum(float(q[n, i, a] * k[n, j, a]) for a in range(2))) for j in range(3)]
            for j in range(3):
                expected[n, i] += likeness[j] / sum(likeness) * v[n, j]
    assert_close(form(q, k, v), expected, **EXACT)


def test_value_by_hand() -> None:
    """Likenesses ln 3 and 0 are weights 3/4 and 1/4; divided by sqrt(d) = 2 they were not."""
    q = torch.tensor([[[math.log(3), 0.0, 0.0, 0.0]]])
    k = torch.eye(4)[None, :2]
    v = torch.tensor([[[8.0], [4.0]]])
    assert_close(attention(q, k, v), torch.tensor([[[7.0]]]))


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_written_out_form_to_second_order(shape: tuple[int, ...]) -> None:
    leaves = inputs(*shape)
    expected = second_order(attention_reference(*leaves), leaves)
    with twice_differentiable():
        y = attention(*leaves)
    for a, b in zip(second_order(y, leaves), expected, strict=True):  # the backwards need no context
        assert_close(a, b, **EXACT)
    for a, b in zip(first_order(attention(*leaves), leaves), expected, strict=False):
        assert_close(a, b, **EXACT)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_gradients_against_finite_differences(shape: tuple[int, ...]) -> None:
    leaves = inputs(*shape, std=0.5)
    with twice_differentiable():
        assert torch.autograd.gradcheck(attention, leaves)
        assert torch.autograd.gradgradcheck(attention, leaves)


def test_context_replaces_a_form_without_second_derivative() -> None:
    """Equally long queries and values, contiguous: torch takes its fused form."""

    def second(y: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(y.square().sum(), q, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), q)[0]

    q, k, v = (torch.randn(2, 64, 16, requires_grad=True) for _ in range(3))
    with pytest.raises(RuntimeError, match="derivative"):
        second(attention(q, k, v))
    with twice_differentiable():
        y = attention(q, k, v)
    assert_close(second(y), second(attention_reference(q, k, v)), rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="derivative"):  # the context ends
        second(attention(q, k, v))


def test_order_of_keys_does_not_matter_and_that_of_queries_is_kept() -> None:
    q, k, v = inputs(3, 8, 6, 4, 5)
    y = attention(q, k, v)
    order = torch.randperm(6)
    assert_close(attention(q, k[:, order], v[:, order]), y, **EXACT)
    assert float((attention(q, k[:, order], v) - y).detach().abs().max()) > 0.1
    order = torch.randperm(8)
    assert_close(attention(q[:, order], k, v), y[:, order], **EXACT)


def test_weights_of_a_query_sum_to_one() -> None:
    q, k, v = inputs(2, 9, 4, 3, 2, std=3)
    assert_close(attention(q, k, torch.ones_like(v)), torch.ones(2, 9, 2).double(), **EXACT)
    weights = attention(q, k, torch.eye(4).double().expand(2, 4, 4))  # the weights themselves
    assert_close(weights.sum(2), torch.ones(2, 9).double(), **EXACT)
    assert float(weights.detach().min()) >= 0
    y = attention(q, k, v).detach()
    assert bool((y <= v.amax(1, keepdim=True) + 1e-12).all() and (y >= v.amin(1, keepdim=True) - 1e-12).all())


def test_samples_keep_to_themselves() -> None:
    q, k, v = inputs(3, 4, 5, 2, 3)
    for n in range(3):
        alone = attention(*(x[n : n + 1] for x in (q, k, v)))
        assert_close(alone[0], attention(q, k, v)[n], **EXACT)


def test_large_likenesses_do_not_overflow() -> None:
    q, k, v = (x.detach().float() for x in inputs(2, 6, 5, 4, 3, std=100))
    y = attention(q, k, v)
    assert y.isfinite().all()
    assert_close(y, attention_reference(q.double(), k.double(), v.double()).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("in_context", [False, True])
def test_half_precision(dtype: torch.dtype, in_context: bool) -> None:
    """Rounded inputs apart, only the result is rounded and what stands between it and the sum."""
    leaves = tuple(x.detach().to(dtype).requires_grad_() for x in inputs(2, 64, 16, 8, 32))
    wide = tuple(x.detach().double().requires_grad_() for x in leaves)
    if in_context:
        with twice_differentiable():
            y = attention(*leaves)
    else:
        y = attention(*leaves)
    assert y.dtype == dtype
    y_expected, *grads_expected = first_order(attention_reference(*wide), wide)
    tolerance = 2 ** (-7 if dtype == torch.bfloat16 else -10)
    assert_close(y.double(), y_expected, rtol=tolerance, atol=tolerance)
    for grad, of in zip(first_order(y, leaves)[1:], grads_expected, strict=True):
        error = torch.linalg.vector_norm(grad.double() - of) / torch.linalg.vector_norm(of)
        assert float(error) < 2 * tolerance


def test_autocast_takes_half_precision() -> None:
    q, k, v = (x.detach().float() for x in inputs(2, 16, 4, 2, 8))
    with torch.autocast("cpu", torch.bfloat16):
        y = attention(q, k, v)
    assert y.dtype == torch.bfloat16
    assert_close(y.float(), attention_reference(q, k, v), rtol=0.05, atol=0.05)


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        y = attention(torch.empty(2, 9, 4), torch.empty(2, 5, 4), torch.empty(2, 5, 7))
    assert (y.shape, y.device.type) == ((2, 9, 7), "meta")


@pytest.mark.parametrize("form", [attention, attention_reference])
@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 4, 3), (2, 5, 2), (2, 5, 6)),
        ((2, 4, 3), (2, 5, 3), (2, 4, 6)),
        ((1, 4, 3), (2, 5, 3), (2, 5, 6)),
        ((2, 4, 3), (2, 5, 3), (1, 5, 6)),
        ((4, 3), (5, 3), (5, 6)),
        ((2, 4, 3), (2, 5, 3), (2, 5, 1, 6)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(form: object, shapes: tuple[tuple[int, ...], ...]) -> None:
    q, k, v = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"q \(N, L, d\).* do not fit: .*" + str(shapes[2][-1])) as refused:
        form(q, k, v)
    assert str(tuple(k.shape)) in str(refused.value)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_second_derivative_on_cuda(dtype: torch.dtype) -> None:
    leaves = tuple(x.detach().cuda().to(dtype).requires_grad_() for x in inputs(2, 64, 16, 8, 32, std=0.5))
    wide = tuple(x.detach().double().requires_grad_() for x in leaves)
    with twice_differentiable():
        y = attention(*leaves)
    for a, b in zip(second_order(y, leaves), second_order(attention_reference(*wide), wide), strict=True):
        error = torch.linalg.vector_norm(a.double() - b) / torch.linalg.vector_norm(b)
        assert float(error) < (1e-4 if dtype == torch.float32 else 0.05)
