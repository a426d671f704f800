"""SAN: D's last layer as a direction and a scale, against gradients worked out by hand."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from errors import UserError
from games.task import direction_terms
from losses import METHODS
from modelling import MODELS, build_discriminator
from modelling.conditioning import Heads
from modelling.equalised import EqualisedConv2d, EqualisedLinear
from modelling.san import SplitHead, find_head
from ops.spectral_norm import apply_spectral_norm
from tests.running import SMALL

FEATURES = 5


@pytest.fixture(autouse=True)
def float64() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Net(nn.Module):
    """Features tanh(A x) of (N, 4), then a last layer."""

    def __init__(self, last: nn.Module, shape: tuple[int, ...] = (FEATURES,)) -> None:
        super().__init__()
        self.A, self.last, self.shape = nn.Linear(4, math.prod(shape)), last, shape

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """(N, 4), labels of heads -> logits."""
        h = torch.tanh(self.A(x)).unflatten(1, self.shape)
        return self.last(h, y) if isinstance(self.last, Heads) else self.last(h).squeeze(1)


def gradients(
    D: nn.Module, x: tuple[Tensor, Tensor], method: str, y: Tensor | None = None
) -> dict[str, Tensor]:
    """Of D's loss with SAN, by parameter."""
    head = SplitHead(D, find_head(D, *(None if t is None else t.to("meta") for t in (x[0], y))))
    with head.splitting() as directed:
        d_real, d_fake = D(x[0], y), D(x[1], y)
    assert_close(d_real, D(x[0], y))  # the values are those of D without it
    (weight, term) = direction_terms(directed)["san/direction"]
    (METHODS[method].d(d_real, d_fake) + weight * term).backward()
    return {name: p.grad for name, p in D.named_parameters()}


def given(n: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 4) + 0.5, torch.randn(n, 4)


@pytest.mark.parametrize("method", ["hinge", "gan", "lsgan", "ragan", "rpgan"])
def test_gradients_by_hand(method: str) -> None:
    """With c the slopes of the usual loss by the logits: h gets c w; s gets sum c <d, h>, and d, across itself, the
    mean of fakes' features less that of reals', times s."""
    torch.manual_seed(0)
    D, x = Net(nn.Linear(FEATURES, 1)), given()
    found = gradients(D, x, method)
    w, b = D.last.weight.detach()[0], D.last.bias.detach()
    with torch.no_grad():
        h = [torch.tanh(D.A(part)) for part in x]
    logits = [(part @ w + b).requires_grad_() for part in h]
    c = torch.autograd.grad(METHODS[method].d(*logits), logits)
    d = w / w.norm()
    along = sum((slope * (part @ d)).sum() for slope, part in zip(c, h, strict=True)) * d
    apart = h[1].mean(0) - h[0].mean(0)
    assert_close(found["last.weight"][0], along + apart - (apart @ d) * d)
    assert_close(found["last.bias"], sum(slope.sum() for slope in c).reshape(1))
    # tanh' = 1 - h^2
    inside = [slope[:, None] * w * (1 - part**2) for slope, part in zip(c, h, strict=True)]
    assert_close(found["A.weight"], sum(part.T @ seen for part, seen in zip(inside, x, strict=True)))


LASTS = {
    "linear": lambda: Net(nn.Linear(FEATURES, 1)),
    "several": lambda: Net(nn.Sequential(nn.Identity(), nn.Linear(FEATURES, 3, bias=False))),
    "patches": lambda: Net(nn.Conv2d(2, 1, 3, padding=1), (2, 4, 3)),
    "equalised": lambda: Net(EqualisedLinear(FEATURES, 1)),
    "equalised patches": lambda: Net(EqualisedConv2d(2, 1, 3), (2, 3, 3)),
    "spectral norm": lambda: apply_spectral_norm(Net(nn.Linear(FEATURES, 1))),
    "projection": lambda: Net(
        Heads(lambda n, bias: nn.Linear(FEATURES, n, bias=bias), 3, "projection", bias=True)
    ),
    "projection of maps": lambda: Net(
        Heads(lambda n, bias: nn.Conv2d(2, n, (3, 2), bias=bias), 3, "projection", bias=False), (2, 3, 2)
    ),
}


@pytest.mark.parametrize("last", LASTS)
def test_a_loss_that_is_a_direction_s_already_stays_as_it_is(last: str) -> None:
    """Wasserstein's: what SAN takes from the scale's part and adds to the direction's is the gradient of D without."""
    torch.manual_seed(0)
    D, x = LASTS[last](), given()
    y = torch.tensor([0, 1, 2, 0, 1, 1]) if "projection" in last else None
    METHODS["wgan"].d(D(x[0], y), D(x[1], y)).backward()
    plain = {name: p.grad for name, p in D.named_parameters()}
    D.zero_grad()
    found = gradients(D, x, "wgan", y)
    assert plain.keys() == found.keys()
    for name, grad in plain.items():
        assert_close(found[name], grad, msg=name)


@pytest.mark.parametrize("last", ["linear", "patches", "projection"])
def test_features_never_see_the_direction_s_loss(last: str) -> None:
    torch.manual_seed(0)
    D, x = LASTS[last](), given()
    y = torch.tensor([0, 1, 2, 0, 1, 1]) if last == "projection" else None
    head = SplitHead(D, find_head(D, *(None if t is None else t.to("meta") for t in (x[0], y))))
    with head.splitting() as directed:
        D(x[0], y), D(x[1], y)
    direction_terms(directed)["san/direction"][1].backward()
    assert D.A.weight.grad is None
    D.zero_grad()
    with head.splitting():
        logit = D(x[0], y)
    logit.square().sum().backward()
    for p in D.last.parameters():  # rows of weights move along themselves alone
        if p.dim() > 1 and last != "projection":
            rows, moved = p.detach().flatten(1), p.grad.flatten(1)
            assert_close(
                moved, (moved * rows).sum(1, keepdim=True) / rows.square().sum(1, keepdim=True) * rows
            )


def test_outside_a_split_d_is_plain() -> None:
    torch.manual_seed(0)
    D, (x, _) = Net(nn.Linear(FEATURES, 1)), given()
    expected = torch.autograd.grad(D(x).sum(), D.last.weight)[0]
    SplitHead(D, find_head(D, x.to("meta")))
    assert torch.equal(torch.autograd.grad(D(x).sum(), D.last.weight)[0], expected)


# layers whose output is D's logit, of the models whose D is called with images alone
FOUND = {
    "dcgan": "heads.to_logit", "rect_dcgan": "to_logit", "simple_cnn": "heads.to_logit", "sngan": "heads.to_logit",
    "sndcgan": "heads.to_logit", "sagan": "heads.to_logit", "biggan": "heads.to_logit", "mlp": "to_logit",
    "veegan": "to_logit", "progressive_gan": "trunk.last.to_logits", "stylegan": "trunk.last.to_logits",
    "stylegan2": "out", "cyclegan": "to_logits", "srgan": "to_logit",
}  # fmt: skip


@pytest.mark.parametrize("model", FOUND)
def test_the_last_layer_of_every_model(model: str) -> None:
    with torch.device("meta"):
        D = MODELS[model].Discriminator(
            img_size=32, img_channels=1, **({"z_dim": 4} if model == "veegan" else {}), **SMALL[model][1]
        )
        assert find_head(D, torch.zeros(4, 1, 32, 32)) == FOUND[model]


@pytest.mark.parametrize(
    ("model", "condition", "found"),
    [
        ("sngan", "projection", "heads"),
        ("sngan", "ac", "heads.to_logit"),
        ("sngan", "concat", "D.heads.to_logit"),
        ("sngan", "k_plus_1", None),
        ("stylegan2", "projection", None),
        ("stylegan", "projection", None),
    ],
)
def test_the_last_layer_beside_labels(model: str, condition: str, found: str | None) -> None:
    with torch.device("meta"):
        D = build_discriminator(
            model, img_size=32, img_channels=1, n_labels=3, condition=condition, **SMALL[model][1]
        )
        x, y = torch.zeros(4, 1, 32, 32), torch.zeros(4, dtype=torch.int64)
        if found is None:
            with pytest.raises(UserError, match="san: the logits of Discriminator .* no single last layer"):
                find_head(D, x, y)
        else:
            assert find_head(D, x, y) == found


class Peculiar(nn.Linear):
    """A linear layer that does something else."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, n) -> (N, 1)."""
        return F.linear(x, self.weight.exp(), self.bias)


def test_what_only_looks_like_a_last_layer_is_refused() -> None:
    for last in (Peculiar(FEATURES, 1), nn.Sequential(nn.Linear(FEATURES, 1), nn.Tanh())):
        with pytest.raises(UserError, match="no single last layer"):
            find_head(Net(last), torch.zeros(2, 4, device="meta"))
