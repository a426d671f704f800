"""DINOv2 against its formulas in float64, and what is said without its package or weights."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from errors import UserError
from generation.comparison import compare
from generation.extractors import open_extractor
from metrics import dinov2
from metrics.dinov2 import DINOV2, load_dinov2, resized_positions
from metrics.features import extract
from pretrained.weights import sha256_of

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None,
    reason="timm is not installed: requirements-dev.txt has it, and make test installs that",
)
DIM, DEPTH, HEADS = 24, 2, 3


def published_state(dim: int = DIM, depth: int = DEPTH) -> dict[str, Tensor]:
    """Random tensors under the names and in the shapes of Meta's files."""
    shapes = {
        "cls_token": (1, 1, dim), "pos_embed": (1, 1370, dim), "mask_token": (1, dim),
        "patch_embed.proj.weight": (dim, 3, 14, 14), "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,), "norm.bias": (dim,),
    }  # fmt: skip
    for i in range(depth):
        shapes |= {
            f"blocks.{i}.{norm}.{part}": (dim,) for norm in ("norm1", "norm2") for part in ("weight", "bias")
        }
        for name, n_out, n_in in (
            ("attn.qkv", 3 * dim, dim), ("attn.proj", dim, dim), ("mlp.fc1", 4 * dim, dim), ("mlp.fc2", dim, 4 * dim),
        ):  # fmt: skip
            shapes |= {f"blocks.{i}.{name}.weight": (n_out, n_in), f"blocks.{i}.{name}.bias": (n_out,)}
        shapes |= {f"blocks.{i}.{name}.gamma": (dim,) for name in ("ls1", "ls2")}
    source = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=source) for name, shape in shapes.items()}


def cubic(t: float) -> float:
    """Keys' kernel with a = -0.75, torch's."""
    a, t = -0.75, abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def enlarged(scale: float, n: int, n_out: int) -> Tensor:
    """The matrix (n_out, n) that resamples a row at a scale: output i looks at (i + 0.5) / scale - 0.5, edges held."""
    matrix = torch.zeros(n_out, n, dtype=torch.float64)
    for i in range(n_out):
        at = (i + 0.5) / scale - 0.5
        for k in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            matrix[i, min(max(k, 0), n - 1)] += cubic(at - k)
    return matrix


def transformer(state: dict[str, Tensor], x: Tensor, depth: int = DEPTH, heads: int = HEADS) -> Tensor:
    """The class token (N, d) of images (N, 3, 224, 224), in float64, formula by formula. arXiv:2010.11929."""
    p = {name: tensor.double() for name, tensor in state.items()}

    def linear(h: Tensor, name: str) -> Tensor:
        return h @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(h: Tensor, name: str) -> Tensor:
        h = h - h.mean(-1, keepdim=True)
        h = h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return h * p[f"{name}.weight"] + p[f"{name}.bias"]

    # (N, 3, 16, 14, 16, 14) -> (N, 256, 3 * 14 * 14)
    patches = (
        x.double()
        .unflatten(3, (16, 14))
        .unflatten(2, (16, 14))
        .permute(0, 2, 4, 1, 3, 5)
        .flatten(3)
        .flatten(1, 2)
    )
    h = patches @ p["patch_embed.proj.weight"].flatten(1).T + p["patch_embed.proj.bias"]
    matrix = enlarged(16.1 / 37, 37, 16)
    grid = torch.einsum("ia,jb,abd->ijd", matrix, matrix, p["pos_embed"][0, 1:].unflatten(0, (37, 37)))
    h = torch.cat(
        [(p["cls_token"] + p["pos_embed"][:, :1]).expand(len(h), -1, -1), h + grid.flatten(0, 1)], 1
    )
    for i in range(depth):
        # (N, L, 3 d) -> three times (N, heads, L, d / heads)
        q, k, v = (
            linear(norm(h, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
            .unflatten(2, (3, heads, -1))
            .unbind(2)
        )
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        h = h + p[f"blocks.{i}.ls1.gamma"] * linear(mixed.transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj")
        wide = linear(norm(h, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        wide = wide * 0.5 * (1 + torch.erf(wide / 2**0.5))
        h = h + p[f"blocks.{i}.ls2.gamma"] * linear(wide, f"blocks.{i}.mlp.fc2")
    return norm(h, "norm")[:, 0]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the published form for a network of two narrow blocks, which stands for dinov2-b."""
    how = {"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS}
    monkeypatch.setitem(DINOV2, "dinov2-b", replace(DINOV2["dinov2-b"], how=how))
    torch.save(published_state(), tmp_path / "small.pth")
    return tmp_path / "small.pth"


def pictures(n: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """uint8 noise (n, *shape)."""
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(seed)).byte()


def test_positions_are_resampled_at_the_published_scale() -> None:
    """Against a matrix of Keys' cubic; the scale is 16.1 / 37, not 16 / 37, and the class token's stays."""
    positions = torch.randn(1, 1370, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, grid = resized_positions(positions), positions[0, 1:].unflatten(0, (37, 37))
    ours, other = (enlarged(scale / 37, 37, 16) for scale in (16.1, 16.0))
    assert_close(found[:, :1], positions[:, :1])
    assert_close(found[0, 1:], torch.einsum("ia,jb,abd->ijd", ours, ours, grid).flatten(0, 1))
    assert (found[0, 1:] - torch.einsum("ia,jb,abd->ijd", other, other, grid).flatten(0, 1)).abs().max() > 0.1


@needs_timm
def test_features_are_the_formulas(small: Path) -> None:
    """The whole way: 8 bits, ImageNet's mean and deviation, patches, positions, blocks, the last norm, class token."""
    extractor = load_dinov2("dinov2-b", small)
    images = pictures(3, (3, 224, 224), 1)  # of the size that is read: no resampling
    features, logits = extract(extractor, [images])
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    wanted = transformer(published_state(), (images / 255 - mean) / deviation)
    assert_close(features.double(), wanted, rtol=1e-4, atol=1e-4)
    assert logits.shape == (3, 0) and features.shape == (3, DIM)


@needs_timm
def test_the_networks_are_the_published_ones() -> None:
    """Names, shapes and parameters of Meta's files: 86,580,480 and 304,368,640 of them."""
    for name, dim, depth, published in (
        ("dinov2-b", 768, 12, 86_580_480),
        ("dinov2-l", 1024, 24, 304_368_640),
    ):
        with torch.device("meta"):
            held = {k: v.shape for k, v in DINOV2[name].build().state_dict().items()}
        assert sum(s.numel() for s in held.values()) + dim * (1370 - 257 + 1) == published
        names = set(published_state(8, depth)) - {"mask_token"}
        assert set(held) == names and held["pos_embed"] == (1, 257, dim)


@needs_timm
def test_scores_are_called_fd_and_lack_what_needs_classes(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    real, fake = pictures(40, (3, 16, 16), 2), pictures(40, (1, 16, 16), 3).expand(-1, 3, -1, -1)
    how = {"metric_weights": small, "cache_dir": str(tmp_path)}
    found = compare(real, fake, "dinov2-b", **how)
    short = sha256_of(small)[:8]
    assert found[f"fd[dinov2-b:{short}]"] > 0 and f"precision[dinov2-b:{short}]" in found
    assert not {name for name in found if name.split("[")[0] in ("fid", "is", "classes", "class_accuracy")}
    assert "224 x 224" in found["protocol"]["resize"] and f"[dinov2-b:{short}]" in capsys.readouterr().err
    with pytest.raises(UserError, match="metrics is: dinov2-b:.* reads no classes"):
        compare(real, fake, "dinov2-b", metrics=["is"], **how)
    # the published file has the plain name
    row = DINOV2["dinov2-b"]
    monkeypatch.setitem(DINOV2, "dinov2-b", replace(row, sha256=sha256_of(small)))
    again = compare(real, fake, "dinov2-b", metrics=["fid"], **how)
    assert again["fd[dinov2-b]"] == pytest.approx(found[f"fd[dinov2-b:{short}]"], rel=1e-9)


@needs_timm
def test_files_of_something_else_are_refused_in_one_line(small: Path, tmp_path: Path) -> None:
    state, file = published_state(), tmp_path / "x.pth"
    for change, reason in (
        (
            {"pos_embed": torch.zeros(1, 257, DIM)},
            r"pos_embed should be \(1, 1370, ...\), not \(1, 257, 24\)",
        ),
        ({"norm.bias": torch.zeros(3)}, r"norm.bias has shape \(3,\), not \(24,\)"),
        ({"register_tokens": torch.zeros(1, 4, DIM)}, "register_tokens is not expected"),
        ({"cls_token": torch.full((1, 1, DIM), torch.nan)}, "cls_token holds NaN"),
    ):
        torch.save(state | change, file)
        with pytest.raises(ValueError, match=f"does not hold the weights of dinov2-b: .*{reason}"):
            load_dinov2("dinov2-b", file)
    with pytest.raises(
        UserError, match="download https://.*dinov2_vitl14_pretrain.pth and name it with .*metric_weights"
    ):
        open_extractor("dinov2-l")
    with pytest.raises(UserError, match="there is no such file"):
        open_extractor("dinov2-l", tmp_path / "no.pth")


def test_without_its_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dinov2.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="dinov2-l needs .*not installed: pip install timm;"):
        open_extractor("dinov2-l")
