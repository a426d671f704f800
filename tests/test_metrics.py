"""Scores against closed forms and numbers worked by hand."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metrics.features import (
    EXTRACTORS,
    Extractor,
    cached_statistics,
    checksum,
    extract,
    load_extractor,
    rechunk,
    save_extractor,
    statistics,
    to_uint8,
    weights_file,
    weights_owner,
)
from metrics.frechet import frechet_distance, gaussian_statistics
from metrics.modes import class_shares, kl_divergence, kl_to_uniform, mean_confidence, n_modes
from metrics.score import class_accuracy, score


def random_covariance(dim: int, rank: int, seed: int) -> Tensor:
    """A positive semi-definite matrix (dim, dim) of the given rank."""
    root = torch.randn(dim, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / rank


def random_images(n: int, seed: int, shape: tuple[int, ...] = (1, 32, 32)) -> Tensor:
    """uint8 noise (n, C, H, W)."""
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(seed)).byte()


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    """digits-cnn with random weights, written and read as any other."""
    file = tmp_path_factory.mktemp("extractor") / "digits-cnn.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_extractor(
            file, EXTRACTORS["digits-cnn"].build({}), {"extractor": "digits-cnn", "accuracy": "0.1"}
        )
    return load_extractor("digits-cnn", file)


# -- Frechet distance ------------------------------------------------------------------------------


def test_statistics_divide_by_n_minus_1_in_float64() -> None:
    mean, covariance = gaussian_statistics(torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 8.0]]))
    assert_close(mean, torch.tensor([3.0, 4.0], dtype=torch.float64))
    assert_close(covariance, torch.tensor([[4.0, 6.0], [6.0, 12.0]], dtype=torch.float64))


def test_distance_of_diagonal_gaussians_is_the_sum_over_axes() -> None:
    means = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]], dtype=torch.float64)
    deviations = torch.tensor([[1.0, 2.0, 3.0], [4.0, 2.0, 0.0]], dtype=torch.float64)
    found = frechet_distance(means[0], deviations[0].square().diag(), means[1], deviations[1].square().diag())
    # (3^2 + 0 + 2^2) + (3^2 + 0 + 3^2)
    assert found == pytest.approx(31, abs=1e-12)


def test_distance_of_commuting_covariances_is_the_norm_of_the_roots_difference() -> None:
    axes = torch.linalg.qr(random_covariance(6, 6, 0)).Q
    roots = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first, second = (axes @ root.square().diag() @ axes.T for root in roots)
    zero = torch.zeros(6, dtype=torch.float64)
    expected = float((roots[0] - roots[1]).square().sum())
    assert frechet_distance(zero, first, zero, second) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_distance_is_zero_for_equal_and_symmetric_also_for_singular_covariances(rank: int) -> None:
    first, second = random_covariance(20, rank, 0), random_covariance(20, 20, 1)
    means = torch.randn(2, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert abs(frechet_distance(means[0], first, means[0], first)) < 1e-12
    there = frechet_distance(means[0], first, means[1], second)
    assert there == pytest.approx(frechet_distance(means[1], second, means[0], first), rel=1e-12)
    assert there > float((means[0] - means[1]).square().sum())


def test_distance_does_not_change_when_both_sets_are_rotated() -> None:
    source = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 50, 8, generator=source, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=source, dtype=torch.float64)).Q
    plain = frechet_distance(*gaussian_statistics(first), *gaussian_statistics(second * 2 + 1))
    turned = frechet_distance(
        *gaussian_statistics(first @ turn), *gaussian_statistics((second * 2 + 1) @ turn)
    )
    assert turned == pytest.approx(plain, rel=1e-10)


def test_distance_agrees_with_eigenvalues_of_the_product() -> None:
    first, second = random_covariance(10, 10, 0), random_covariance(10, 10, 1)
    zero = torch.zeros(10, dtype=torch.float64)
    cross = torch.linalg.eigvals(first @ second).sqrt().real.sum()
    expected = float(first.trace() + second.trace() - 2 * cross)
    assert frechet_distance(zero, first, zero, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(1, 4), "at least 2"),
        (torch.zeros(4), "matrix"),
        (torch.tensor([[0.0, 1.0], [math.nan, 1.0], [0.0, math.inf]]), "2 of 3 images"),
    ],
)
def test_statistics_refuse_what_has_none(features: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gaussian_statistics(features)


def test_distance_refuses_other_dimensions_and_nan() -> None:
    mean, covariance = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match="cannot be compared"):
        frechet_distance(mean, covariance, torch.zeros(3), torch.eye(3))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(mean * math.nan, covariance, mean, covariance)


# -- classes ---------------------------------------------------------------------------------------


def test_shares_and_modes_by_hand() -> None:
    logits = torch.tensor([[5.0, 0.0, 0.0], [0.0, 1.0, 0.0], [3.0, 2.0, 1.0], [9.0, 9.5, 0.0]])
    share = class_shares(logits)
    assert_close(share, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    assert n_modes(share) == 2
    few = torch.tensor([0.98, 0.01, 0.0099, 0.0001, 0.0])
    assert n_modes(few) == 2 and n_modes(few, 0) == 4


def test_divergences_by_hand() -> None:
    share = torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=torch.float64)
    # log 4 minus the entropy 1.5 log 2
    assert kl_to_uniform(share) == pytest.approx(0.5 * math.log(2), abs=1e-15)
    assert kl_to_uniform(torch.eye(10, dtype=torch.float64)[0]) == pytest.approx(math.log(10), abs=1e-15)
    assert kl_divergence(share, share) == 0
    reference = torch.tensor([0.25, 0.5, 0.25, 0.0], dtype=torch.float64)
    assert kl_divergence(share, reference) == pytest.approx(0.25 * math.log(2), abs=1e-15)
    assert kl_divergence(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])) == math.inf


def test_confidence_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    assert mean_confidence(logits) == pytest.approx((0.5 + 0.75) / 2, rel=1e-6)


@pytest.mark.parametrize("logits", [torch.zeros(0, 3), torch.zeros(3), torch.full((2, 3), math.nan)])
def test_classes_refuse_what_cannot_be_read(logits: Tensor) -> None:
    for read in (class_shares, mean_confidence):
        with pytest.raises(ValueError, match="logits"):
            read(logits)


def test_class_accuracy_by_hand() -> None:
    logits = torch.tensor([[5.0, 0, 0, 0], [0, 1, 0, 0], [3, 2, 1, 0], [9, 9.5, 0, 0], [0, 0, 0, 1]])
    accuracy, each = class_accuracy(logits, torch.tensor([0, 1, 1, 1, 2]))
    assert accuracy == pytest.approx(3 / 5, abs=1e-15)
    assert each == [1.0, pytest.approx(2 / 3, abs=1e-15), 0.0, None]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            torch.zeros(3, dtype=torch.int64),
            r"\(2,\) classes, one an image, are needed, not torch.int64 \(3,\)",
        ),
        (torch.zeros(2, 4), "one an image"),
        (torch.zeros(2), "not torch.float32"),
        (torch.tensor([0, 4]), "classes 0 to 4: the extractor knows 0 to 3"),
        (torch.tensor([-1, 3]), "classes -1 to 3"),
    ],
)
def test_class_accuracy_refuses(asked: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_accuracy(torch.zeros(2, 4), asked)


# -- features --------------------------------------------------------------------------------------


def test_images_are_rounded_and_clamped() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 0.5 / 127.5, 0.6 / 127.5, 1.0, 3.0])
    assert to_uint8(x).tolist() == [0, 0, 128, 128, 128, 255, 255]
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(levels / 127.5 - 1), levels)
    with pytest.raises(ValueError, match="not finite"):
        to_uint8(torch.tensor([math.nan]))


@pytest.mark.parametrize("sizes", [(7,), (3, 3, 1), (10, 1), (1, 5, 9, 2), (4, 4)])
def test_rechunk_keeps_rows_in_order(sizes: tuple[int, ...]) -> None:
    rows = torch.arange(sum(sizes))
    chunks = list(rechunk(rows.split(list(sizes)), 4))
    assert torch.equal(torch.cat(chunks), rows)
    assert [len(chunk) for chunk in chunks[:-1]] == [4] * (len(chunks) - 1)


def test_features_do_not_depend_on_how_images_arrive(extractor: Extractor) -> None:
    images = random_images(300, 0)
    whole, parts = extract(extractor, [images]), extract(extractor, images.split(7))
    assert whole[0].shape == (300, 128) and whole[1].shape == (300, 10)
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])


def test_any_size_and_colour_is_read_as_grey_32(extractor: Extractor) -> None:
    grey = random_images(4, 0)
    same = extract(extractor, [grey.expand(-1, 3, -1, -1)])
    assert_close(same[0], extract(extractor, [grey])[0], atol=1e-4, rtol=1e-4)
    assert extract(extractor, [random_images(2, 0, (3, 20, 48))])[0].shape == (2, 128)
    for wrong in (torch.zeros(2, 1, 32, 32), random_images(2, 0, (2, 32, 32)), random_images(2, 0, (32, 32))):
        with pytest.raises(ValueError, match="uint8 images"):
            extract(extractor, [wrong])


# What a file of weights may say of itself, for extractors that are built from it.
METADATA = {"classes": json.dumps(["cat", "dog", "emu"]), "img_size": "16"}


@pytest.mark.parametrize("name", EXTRACTORS)
def test_every_extractor_can_be_learned_and_read_again(name: str, tmp_path: Path) -> None:
    module = EXTRACTORS[name].build(METADATA)
    module.train()
    features, logits = module(random_images(4, 0, (3, 32, 32)))
    (features.sum() + logits.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    file = tmp_path / "deep" / f"{name}.safetensors"
    content = save_extractor(file, module, METADATA | {"extractor": weights_owner(name), "seconds": "1"})
    assert content == save_extractor(
        file, module, METADATA | {"extractor": weights_owner(name), "seconds": "2"}
    )
    loaded = load_extractor(name, file)
    assert loaded.checksum == content == checksum(module.state_dict())
    assert loaded.metadata["seconds"] == "2" and not loaded.module.training
    assert len(loaded.classes) == logits.shape[1] == len(set(loaded.classes))
    assert not list(file.parent.glob("tmp-*"))


def test_stacked_digits_are_read_channel_by_channel(tmp_path: Path) -> None:
    """Joint logits against a loop over the 1000 classes; one file of weights, one checksum."""
    file = weights_file(tmp_path, "mnist-cnn")
    save_extractor(file, EXTRACTORS["mnist-cnn"].build({}), {"extractor": "mnist-cnn"})
    assert weights_file(tmp_path, "stacked-mnist-cnn") == file
    digit, stacked = (load_extractor(name, file) for name in ("mnist-cnn", "stacked-mnist-cnn"))
    assert digit.checksum == stacked.checksum and stacked.mode_share == 0
    images = random_images(5, 0, (3, 28, 28))
    features, logits = extract(stacked, [images])
    alone = [extract(digit, [images[:, i : i + 1]]) for i in range(3)]
    assert_close(features, torch.cat([f for f, _ in alone], 1))
    red, green, blue = (read.double().softmax(1).log() for _, read in alone)
    expected = torch.tensor(
        [
            [red[n, a] + green[n, b] + blue[n, c] for a in range(10) for b in range(10) for c in range(10)]
            for n in range(5)
        ]
    )
    assert_close(logits.double(), expected, atol=1e-5, rtol=1e-5)
    assert_close(logits.exp().sum(1), torch.ones(5))
    names = [stacked.classes[i] for i in logits.argmax(1)]
    assert names == ["".join(str(int(read[n].argmax())) for _, read in alone) for n in range(5)]
    with pytest.raises(ValueError, match="3 channels"):
        extract(stacked, [random_images(2, 0)])


def test_wrong_weight_files_are_refused(tmp_path: Path, extractor: Extractor) -> None:
    file = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="tools.train_classifier --dataset mnist"):
        load_extractor("mnist-cnn", file)
    with pytest.raises(ValueError, match="known: mnist-cnn"):
        load_extractor("vgg", file)
    file.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="does not hold"):
        load_extractor("mnist-cnn", file)
    save_extractor(file, extractor.module, {"extractor": "digits-cnn"})
    with pytest.raises(ValueError, match="holds digits-cnn"):
        load_extractor("mnist-cnn", file)
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged"):
        load_extractor("digits-cnn", file)


def test_statistics_are_cached_and_a_damaged_file_is_made_anew(tmp_path: Path, extractor: Extractor) -> None:
    calls = []

    def images() -> Iterator[Tensor]:
        calls.append(1)
        yield random_images(40, 0)

    identity = {"data": "abc", "n": 40}
    first = cached_statistics(extractor, images, identity, tmp_path)
    again = cached_statistics(extractor, images, identity, tmp_path)
    assert len(calls) == 1 and again.n == 40
    assert torch.equal(first.covariance, again.covariance) and torch.equal(first.shares, again.shares)
    cached_statistics(extractor, images, identity | {"n": 41}, tmp_path)
    assert len(calls) == 2
    for file in (tmp_path / "statistics").iterdir():
        file.write_bytes(file.read_bytes()[:-5])
    healed = cached_statistics(extractor, images, identity, tmp_path)
    assert len(calls) == 3 and torch.equal(first.mean, healed.mean)


def test_score_is_zero_for_the_reference_itself_and_large_for_others(extractor: Extractor) -> None:
    images = random_images(300, 0)
    reference = statistics(*extract(extractor, [images]))
    same = score(extractor, images.split(64), reference)
    other = score(extractor, [random_images(300, 1) // 2], reference)
    assert abs(same["fid[digits-cnn]"]) < 1e-9 and same["kl_data"] == 0
    assert other["fid[digits-cnn]"] > 100 * abs(same["fid[digits-cnn]"]) + 1e-3
    assert same["shares"] == reference.shares.tolist() and same["classes"] == n_modes(reference.shares)
    assert same["class_accuracy"] is None and same["class_accuracies"] is None
    with pytest.raises(ValueError, match="no images"):
        score(extractor, [], reference)


def test_score_reads_fakes_as_asked_in_their_order(extractor: Extractor) -> None:
    images = random_images(300, 0)
    images[::2] //= 8  # two kinds, which even an untrained network tells apart
    features, logits = extract(extractor, [images])
    read = logits.argmax(1)
    reference = statistics(features, logits)
    right, wrong = (score(extractor, images.split(64), reference, y) for y in (read, (read + 1) % 10))
    assert right["class_accuracy"] == 1 and wrong["class_accuracy"] == 0
    half = torch.where(torch.arange(300) < 75, read, (read + 1) % 10)
    assert score(extractor, images.split(64), reference, half)["class_accuracy"] == pytest.approx(0.25)
    assert {k: v for k, v in right.items() if "class_" not in k} == {
        k: v for k, v in score(extractor, [images], reference).items() if "class_" not in k
    }
