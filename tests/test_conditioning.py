"""Labels as rows, conditional norms and class heads against loops over classes and explicit sums, in float64."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from losses import gan_d, gan_g
from modelling.conditioning import (
    CLASS_HEADS,
    CONDITIONAL_NORMS,
    ConditionalNorm,
    Conditioned,
    DOutput,
    Heads,
    as_output,
    call,
    label_vectors,
    norm_factory,
    rows_of,
    up_blocks,
    without_zero_rows,
)
from modelling.layers import PixelNorm

N, C, K = 6, 4, 3
Y = torch.tensor([0, 2, 1, 1, 0, 2])
SEVERAL = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0]])


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """References are in full double precision."""
    torch.default_generator.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def conditional_norm(name: str) -> ConditionalNorm:
    """Of maps of C channels and K labels, whose classes have different gains and shifts."""
    norm = ConditionalNorm(name, C, K)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    return norm


def maps() -> Tensor:
    """(N, C, 3, 5), no two samples nor channels alike."""
    return torch.randn(N, C, 3, 5) * torch.rand(N, C, 1, 1) + torch.randn(N, C, 1, 1)


def standardised(name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """Each channel, over the batch for cbn and in every sample for cin, with mean 0 and variance 1."""
    axes = {"cbn": (0, 2, 3), "cin": (2, 3)}[name]
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / (((x - mean) ** 2).mean(axes, keepdim=True) + eps).sqrt()


def by_class(norm: ConditionalNorm, name: str, x: Tensor, y: Tensor) -> Tensor:
    """What norm(x, y) must be for classes: one class, one channel after the other."""
    h, out = standardised(name, x), torch.zeros_like(x)
    for k in range(K):
        for c in range(C):
            of_class = torch.zeros(N, C, 1, 1)
            of_class[y == k, c] = 1
            out = out + of_class * (h * (1 + norm.weight[k, c]) + norm.bias[k, c])
    return out


# Labels


def test_classes_are_one_hot_and_attributes_of_length_one() -> None:
    assert_close(label_vectors(Y, N, K), torch.eye(K)[Y], rtol=0, atol=0)
    half, third = 2**-0.5, 3**-0.5
    expected = torch.tensor(
        [[half, 0, half], [0, 0, 0], [third, third, third], [0, 1, 0], [0, half, half], [1, 0, 0]]
    )
    for dtype in (torch.float32, torch.uint8, torch.int64, torch.bool):  # whole numbers as tables hold them
        rows = label_vectors(SEVERAL.to(dtype), N, K)
        assert rows.dtype == torch.float64
        assert_close(rows, expected)
    assert_close(label_vectors(torch.tensor([[3.0, -4, 0]]), 1, K), torch.tensor([[0.6, -0.8, 0]]))


def test_a_sum_of_embeddings_is_as_large_for_ten_attributes_as_for_one() -> None:
    """The reason for length 1: of independent embeddings of unit variance."""
    table = torch.randn(10, 200_000)
    for n in (1, 3, 10):
        y = (torch.arange(10) < n).to(torch.float32)[None]
        assert (label_vectors(y, 1, 10) @ table).std().item() == pytest.approx(1, rel=0.02)


def test_rows_of_zeros_can_stand_for_something() -> None:
    rows = torch.tensor([[0.0, 0, 0], [0, 1, 0]])
    assert_close(without_zero_rows(rows, -0.5), torch.tensor([[-0.5, -0.5, -0.5], [0, 1, 0]]))


def test_networks_without_labels_have_no_rows() -> None:
    assert rows_of(None, N, 0) is None and rows_of(Y, N, 0) is None
    assert_close(rows_of(Y, N, K), torch.eye(K)[Y])


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (None, "conditional: it needs labels y"),
        (
            torch.zeros(5, dtype=torch.long),
            r"\(6,\) of whole numbers or \(6, 3\) are needed, not \(5,\) of torch.int64",
        ),
        (torch.zeros(6), r"not \(6,\) of torch.float"),
        (torch.zeros(6, 4), r"not \(6, 4\)"),
        (torch.zeros(3, 3), r"not \(3, 3\)"),
        (torch.zeros(6, 3, 1), r"not \(6, 3, 1\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(y: Tensor | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        label_vectors(y, N, K)
    with pytest.raises(ValueError, match=words):
        rows_of(y, N, K)
    for condition in CLASS_HEADS:
        heads = Heads(lambda n, bias: nn.Linear(5, n, bias=bias), K, condition, bias=True)
        with pytest.raises(ValueError, match=words):
            heads(torch.randn(N, 5), y)


# Norms


@pytest.mark.parametrize("name", CONDITIONAL_NORMS)
def test_conditional_norm_equals_a_loop_over_classes(name: str) -> None:
    """In value, gradient and second gradient, by the maps and by both tables."""
    norm, x = conditional_norm(name), maps().requires_grad_()
    leaves = (x, norm.weight, norm.bias)
    probe = torch.randn_like(x)
    found = []
    for out in (norm(x, label_vectors(Y, N, K)), by_class(norm, name, x, Y)):
        first = torch.autograd.grad((out.sin() * probe).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        found.append([out.detach(), *(g.detach() for g in first), *second])
    for ours, reference in zip(*found, strict=True):
        assert reference.abs().max() > 1e-3  # the comparison says something
        assert_close(ours, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CONDITIONAL_NORMS)
def test_attributes_add_up(name: str) -> None:
    """A sample's gain is 1 plus, its shift is, the sum of its attributes' over the root of their number."""
    norm, x = conditional_norm(name), maps()
    h = standardised(name, x)
    expected = []
    for i, attributes in enumerate(SEVERAL.bool()):
        scale = max(int(attributes.sum()), 1) ** -0.5
        gain = 1 + scale * sum((norm.weight[k] for k in range(K) if attributes[k]), torch.zeros(C))
        shift = scale * sum((norm.bias[k] for k in range(K) if attributes[k]), torch.zeros(C))
        expected.append(gain[:, None, None] * h[i] + shift[:, None, None])
    assert_close(norm(x, label_vectors(SEVERAL, N, K)), torch.stack(expected))


@pytest.mark.parametrize("name", CONDITIONAL_NORMS)
def test_conditional_norm_starts_as_the_plain_one(name: str) -> None:
    """Gain 1 and shift 0 for every class, and the gradient reaches both tables at once, a row a class."""
    norm, x = ConditionalNorm(name, C, K), maps()
    assert norm.weight.shape == norm.bias.shape == (K, C)
    assert {p for p, _ in norm.named_parameters()} == {"weight", "bias"}
    out = norm(x, label_vectors(Y, N, K))
    assert_close(out, standardised(name, x))
    out.square().mul(torch.randn_like(out)).sum().backward()
    assert (norm.weight.grad != 0).all() and (norm.bias.grad != 0).all()
    norm.zero_grad()
    norm(x, label_vectors(torch.zeros(N, dtype=torch.long), N, K)).square().sum().backward()
    assert norm.weight.grad[0].any() and not norm.weight.grad[1:].any() and not norm.bias.grad[1:].any()


def test_running_statistics_of_cbn_are_of_all_classes() -> None:
    """A tenth of the batch's mean and unbiased variance a forward, used in eval mode; cin keeps none."""
    norm, x, rows = conditional_norm("cbn"), maps(), label_vectors(Y, N, K)
    norm(x, rows)
    of_channel = x.transpose(0, 1).flatten(1)
    mean, var = 0.1 * of_channel.mean(1), 0.9 + 0.1 * of_channel.var(1)
    assert_close(norm.norm.running_mean, mean)
    assert_close(norm.norm.running_var, var)
    h = (x - mean[:, None, None]) / (var + 1e-5)[:, None, None].sqrt()
    norm.eval()
    expected = h * (1 + norm.weight[Y])[:, :, None, None] + norm.bias[Y][:, :, None, None]
    assert_close(norm(x, rows), expected)
    assert_close(norm(x[2:3], rows[2:3]), expected[2:3])  # whatever else is in the batch
    assert_close(norm.norm.running_mean, mean)
    cin = conditional_norm("cin")
    whole = cin(x, rows)
    assert not list(cin.buffers())
    assert_close(cin.eval()(x, rows), whole)
    assert_close(cin.train()(x[2:3], rows[2:3]), whole[2:3])


@pytest.mark.parametrize("name", CONDITIONAL_NORMS)
def test_second_gradient_by_finite_differences(name: str) -> None:
    norm = conditional_norm(name)
    rows = label_vectors(SEVERAL[:3], 3, K)

    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        tables = {"weight": weight, "bias": bias, **{k: b.clone() for k, b in norm.named_buffers()}}
        return torch.func.functional_call(norm, tables, (x, rows))

    leaves = (torch.randn(3, C, 1, 2), norm.weight.detach().clone(), norm.bias.detach().clone())
    leaves = tuple(leaf.requires_grad_() for leaf in leaves)
    assert torch.autograd.gradcheck(forward, leaves)
    assert torch.autograd.gradgradcheck(forward, leaves)


@pytest.mark.parametrize("name", CONDITIONAL_NORMS)
def test_layout_and_type_of_the_maps_are_kept(name: str) -> None:
    """But for instance norm, which torch computes in another layout: the numbers are the same."""
    norm, rows, x = conditional_norm(name), label_vectors(Y, N, K), maps()
    last = norm(x.to(memory_format=torch.channels_last), rows)
    assert norm(x, rows).is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last) or name == "cin"
    assert_close(last, norm(x, rows))
    assert norm.float()(x.bfloat16(), rows.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", CONDITIONAL_NORMS)
def test_gains_are_full_precision_under_autocast(name: str) -> None:
    """Products of rows and tables would lose five digits in bf16; maps of full precision show them."""
    torch.set_default_dtype(torch.float32)
    norm, x = conditional_norm(name), maps()
    for y in (Y, SEVERAL):
        rows = label_vectors(y, N, K)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lifted, half = norm(x, rows), norm(x.bfloat16(), rows)
        assert lifted.dtype == torch.float32 and half.dtype == torch.bfloat16
        assert_close(lifted, norm(x, rows), rtol=0, atol=0)
        assert_close(half.float(), norm(x.bfloat16().float(), rows), rtol=0.05, atol=0.05)


def test_meta_device() -> None:
    with torch.device("meta"):
        for name in CONDITIONAL_NORMS:
            norm = ConditionalNorm(name, C, K)
            for y in (torch.empty(N, dtype=torch.long), torch.empty(N, K)):
                rows = label_vectors(y, N, K)
                assert rows.is_meta and norm(torch.empty(N, C, 3, 5), rows).shape == (N, C, 3, 5)
        for condition in CLASS_HEADS:
            heads = Heads(lambda n, bias: nn.Conv2d(C, n, 4, bias=bias), K, condition, bias=False)
            given = as_output(heads(torch.empty(N, C, 4, 4), torch.empty(N, K)))
            assert given.logit.is_meta and given.logit.shape == (N,)


def test_factory_of_norms() -> None:
    """Without labels the norm named, with them the conditional one; unknown names list the known."""
    assert isinstance(norm_factory("batch", "cbn", 0)(C), nn.BatchNorm2d)
    assert isinstance(norm_factory("pixel", None, 0)(C), PixelNorm)
    assert norm_factory("none", "cbn", 0)(C) is None
    norm = norm_factory("none", "cin", K)(C)
    assert isinstance(norm, ConditionalNorm) and isinstance(norm.norm, nn.InstanceNorm2d)
    assert norm.weight.shape == (K, C)
    with pytest.raises(ValueError, match="unknown conditional norm 'cln': choose from cbn, cin"):
        norm_factory("batch", "cln", K)(C)
    with pytest.raises(ValueError, match="unknown norm 'bach'"):
        norm_factory("bach", "cbn", 0)(C)


def test_sequences_hand_rows_to_those_that_take_them() -> None:
    norm, rows, x = conditional_norm("cbn"), label_vectors(Y, N, K), maps()
    inner = Conditioned(nn.ReLU(), norm)
    expected = norm(x.relu(), rows)
    assert_close(Conditioned(inner, nn.Tanh())(x, rows), expected.tanh())
    assert_close(call(norm, x.relu(), rows), expected)
    assert_close(call(nn.ReLU(), x, rows), x.relu())
    assert_close(Conditioned(nn.ReLU(), nn.Tanh())(x), x.relu().tanh())


def test_up_blocks_with_conditional_norms() -> None:
    """4 px, then twice 8, each with a norm that sees the labels, and no bias beside the norm's shift."""
    blocks = up_blocks([5, 8, C], norm_factory("batch", "cbn", K), (4, 4))
    z = torch.randn(N, 5, 1, 1)
    x = blocks(z, label_vectors(Y, N, K))
    assert x.shape == (N, C, 8, 8)
    assert [isinstance(block.norm, ConditionalNorm) for block in blocks] == [True, True]
    assert all(block.layer.bias is None for block in blocks)
    nn.init.normal_(blocks[0].norm.bias)
    assert not torch.allclose(blocks(z, label_vectors((Y + 1) % K, N, K)), x)
    assert all(
        block.layer.bias is not None for block in up_blocks([5, 8], norm_factory("none", None, 0), (4, 4))
    )


# Heads


HEADS = {
    "linear": (lambda n, bias: nn.Linear(5, n, bias=bias), (5,)),
    "convolution": (lambda n, bias: nn.Conv2d(5, n, 4, bias=bias), (5, 4, 4)),
}


def heads_of(kind: str, condition: str) -> tuple[Heads, Tensor]:
    """(heads over features of one kind, features of N samples)."""
    layer, shape = HEADS[kind]
    return Heads(layer, K, condition, bias=True), torch.randn(N, *shape)


def products(layer: nn.Module, h: Tensor) -> list[list[Tensor]]:
    """<w_k, h_i> plus the bias of k, by samples i and outputs k, as sums over all features."""
    bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias
    return [[(w * features).sum() + b for w, b in zip(layer.weight, bias, strict=True)] for features in h]


@pytest.mark.parametrize("kind", HEADS)
def test_projection_is_an_inner_product(kind: str) -> None:
    """psi(h) + <v_y, h>; for attributes the sum of <v_k, h> over the root of their number. arXiv:1802.05637."""
    heads, h = heads_of(kind, "projection")
    assert heads.to_classes.bias is None and heads.to_logit.bias is not None
    psi = [values[0] for values in products(heads.to_logit, h)]
    inner = products(heads.to_classes, h)
    expected = torch.stack([psi[i] + inner[i][k] for i, k in enumerate(Y.tolist())])
    given = heads(h, Y)
    assert isinstance(given, Tensor) and given.shape == (N,)
    assert_close(given, expected)
    expected = [
        psi[i]
        + sum((inner[i][k] for k in range(K) if row[k]), torch.zeros(())) / math.sqrt(max(row.sum(), 1))
        for i, row in enumerate(SEVERAL)
    ]
    assert_close(heads(h, SEVERAL), torch.stack(expected))
    gradient = torch.autograd.grad(given[0], heads.to_classes.weight)[0]
    assert_close(gradient[Y[0]], h[0])
    assert not gradient[[k for k in range(K) if k != Y[0]]].any()


@pytest.mark.parametrize("kind", HEADS)
def test_classifier_beside_the_logit(kind: str) -> None:
    heads, h = heads_of(kind, "ac")
    given = heads(h, Y)
    assert isinstance(given, DOutput) and heads.to_classes.bias is not None
    assert_close(given.logit, torch.stack([values[0] for values in products(heads.to_logit, h)]))
    assert_close(given.classes, torch.stack([torch.stack(v) for v in products(heads.to_classes, h)]))
    other = heads(h, (Y + 1) % K)
    assert torch.equal(other.logit, given.logit) and torch.equal(other.classes, given.classes)


@pytest.mark.parametrize("kind", HEADS)
def test_k_plus_1_is_cross_entropy_over_one_class_more(kind: str) -> None:
    """The GAN loss of the logit plus cross entropy over K is that over K + 1, the fake's logit 0. arXiv:1606.03498."""
    heads, h = heads_of(kind, "k_plus_1")
    assert heads.to_logit is None
    logit, classes = heads(h, Y)
    assert logit.shape == (N,) and classes.shape == (N, K)
    assert_close(classes, torch.stack([torch.stack(v) for v in products(heads.to_classes, h)]))
    explicit = torch.cat([classes, torch.zeros(N, 1)], 1)
    shares = explicit.softmax(1)
    assert_close(logit.sigmoid(), 1 - shares[:, K])
    far = torch.full((N,), -1e9)  # the fakes of gan_d, of which none is told wrongly
    real = gan_d(logit, far) + F.cross_entropy(classes, Y)
    assert_close(real, F.cross_entropy(explicit, Y))
    fake = gan_d(-far, logit)
    assert_close(fake, F.cross_entropy(explicit, torch.full((N,), K)))
    assert_close(fake, F.softplus(classes.logsumexp(1)).mean())
    assert_close(gan_g(None, logit), -(1 - shares[:, K]).log().mean())


def test_k_plus_1_takes_its_sum_in_full_precision() -> None:
    torch.set_default_dtype(torch.float32)
    heads, h = heads_of("linear", "k_plus_1")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logit, classes = heads(h, Y)
    assert classes.dtype == torch.bfloat16 and logit.dtype == torch.float32
    assert_close(logit, classes.float().logsumexp(1), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        projected = heads_of("linear", "projection")[0](h, Y)
    assert projected.shape == (N,) and projected.isfinite().all()


def test_heads_without_labels() -> None:
    for bias in (True, False):
        heads = Heads(HEADS["linear"][0], 0, "projection", bias=bias)
        h = torch.randn(N, 5)
        assert heads.to_classes is None and (heads.to_logit.bias is not None) == bias
        assert_close(heads(h), heads.to_logit(h)[:, 0])
        assert torch.equal(heads(h, Y), heads(h))


def test_unknown_conditions_list_the_known() -> None:
    with pytest.raises(ValueError, match="condition of D 'proj': choose from projection, ac, k_plus_1"):
        Heads(HEADS["linear"][0], K, "proj", bias=True)
    with pytest.raises(ValueError, match="condition of D None"):
        Heads(HEADS["linear"][0], K, bias=True)


def test_outputs_in_one_form() -> None:
    bare, whole = torch.zeros(N), DOutput(torch.zeros(N), torch.zeros(N, K))
    assert as_output(whole) is whole
    assert as_output(bare).logit is bare and as_output(bare).classes is None


def test_what_belongs_to_a_head() -> None:
    assert [name for name, head in CLASS_HEADS.items() if head.classifies] == ["ac", "k_plus_1"]
    assert [name for name, head in CLASS_HEADS.items() if head.one_class] == ["k_plus_1"]
