"""Scores against closed forms and numbers worked by hand."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metrics.features import (
    EXTRACTORS,
    Extractor,
    Reading,
    checksum,
    extract,
    load_extractor,
    load_reading,
    read,
    reading_file,
    rechunk,
    save_extractor,
    save_reading,
    to_uint8,
    weights_file,
    weights_owner,
)
from metrics.fidelity import inception_score, library
from metrics.frechet import frechet_distance, gaussian_statistics
from metrics.kernel import kernel_distance
from metrics.mind import projected_distance
from metrics.modes import class_shares, kl_divergence, kl_to_uniform, mean_confidence, n_modes
from metrics.neighbours import COPY_RATIO, density_coverage, nearest, originals, precision_recall
from metrics.score import METRICS, Sets, check_classes, check_sizes, class_accuracy, score


def random_covariance(dim: int, rank: int, seed: int) -> Tensor:
    """A positive semi-definite matrix (dim, dim) of the given rank."""
    root = torch.randn(dim, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / rank


def random_images(n: int, seed: int, shape: tuple[int, ...] = (1, 32, 32)) -> Tensor:
    """uint8 noise (n, C, H, W)."""
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(seed)).byte()


@pytest.fixture(scope="module")
def extractor(weights: Path) -> Extractor:
    """digits-cnn as it is shipped."""
    return load_extractor("digits-cnn", weights)


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
    assert 0 <= frechet_distance(means[0], first, means[0], first) < 1e-12
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
    for reader in (class_shares, mean_confidence):
        with pytest.raises(ValueError, match="logits"):
            reader(logits)


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


def test_readings_are_kept_and_a_damaged_file_is_none(tmp_path: Path, extractor: Extractor) -> None:
    found = read(*extract(extractor, [random_images(40, 0)]))
    file = reading_file(extractor, {"data": "abc", "n": 40}, tmp_path)
    assert file != reading_file(extractor, {"data": "abc", "n": 41}, tmp_path)
    assert load_reading(file, False) is None
    save_reading(file, found, with_features=False)
    held = load_reading(file, False)
    assert held.statistics.n == 40 and torch.equal(held.statistics.covariance, found.statistics.covariance)
    assert torch.equal(held.statistics.shares, found.statistics.shares) and held.features is None
    assert load_reading(file, True) is None
    save_reading(file, found, with_features=True)
    assert torch.equal(load_reading(file, True).features, found.features)
    for damaged in (tmp_path / "statistics").iterdir():
        damaged.write_bytes(damaged.read_bytes()[:-5])
    assert load_reading(file, False) is None and load_reading(file, True) is None
    assert not list((tmp_path / "statistics").glob("tmp-*"))


@pytest.mark.parametrize("which", [0, 1], ids=["features", "logits"])
def test_images_that_cannot_be_read_are_counted(which: int) -> None:
    rows = [torch.zeros(5, 3), torch.zeros(5, 2)]
    rows[which][1, 0], rows[which][4, 1] = math.nan, math.inf
    with pytest.raises(ValueError, match="2 of 5 images have features that are not finite"):
        read(*rows)


# -- kernel distance, Inception Score ---------------------------------------------------------------


def gaussian_features(n: int, dim: int, seed: int, shift: float = 0.0) -> Tensor:
    """Normal features (n, dim) around `shift`."""
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) + shift


def test_fid_of_samples_nears_the_closed_form_of_their_gaussians() -> None:
    """|shift|^2 d between equal covariances, up to the bias of N samples, d (d + 1) / N or so."""
    real, fake = (
        gaussian_statistics(gaussian_features(40_000, 4, i, shift)) for i, shift in ((0, 0), (1, 2))
    )
    assert frechet_distance(*real, *fake) == pytest.approx(16, rel=0.02)


def test_fast_and_careful_ways_to_the_trace_agree() -> None:
    """Well-conditioned covariances take eigenvalues, others singular values; nearby ones give nearby numbers."""
    zero, first, second = torch.zeros(30), random_covariance(30, 30, 0), random_covariance(30, 300, 1)
    fast = frechet_distance(zero, second, zero, second + torch.eye(30).double())
    values = torch.linalg.eigvalsh(second)
    assert fast == pytest.approx(float((values.sqrt() - (values + 1).sqrt()).square().sum()), rel=1e-10)
    careful = frechet_distance(zero, first, zero, second)
    cross = torch.linalg.eigvals(first @ second).sqrt().real.sum()
    assert careful == pytest.approx(float(first.trace() + second.trace() - 2 * cross), rel=1e-8)


def test_kernel_distance_by_its_formula() -> None:
    """Of 4 images a subset has two: the one product of different ones, twice, less the mean of all four between."""
    real, fake = (gaussian_features(4, 3, i, i / 2).double() for i in (0, 1))
    draw, values = np.random.RandomState(2020), []
    for _ in range(100):
        x, y = fake[draw.choice(4, 2, replace=False)], real[draw.choice(4, 2, replace=False)]
        within = sum((float(pair[0] @ pair[1]) / 3 + 1) ** 3 for pair in (x, y))
        between = sum((float(a @ b) / 3 + 1) ** 3 for a in x for b in y) / 4
        values.append(within - 2 * between)
    mean, deviation = kernel_distance(real, fake)
    assert mean == pytest.approx(np.mean(values), rel=1e-12)
    assert deviation == pytest.approx(np.std(values), rel=1e-12) and deviation > 0
    with pytest.raises(ValueError, match="needs 4 images of each kind, got 3 and 9"):
        kernel_distance(real[:3], torch.zeros(9, 3))


def test_kernel_distance_nears_the_whole_sets() -> None:
    """Halves of 400: the mean over subsets is about the estimate of all, their deviation is none of rounding."""
    real, fake = (gaussian_features(400, 3, i, i / 4).double() for i in (0, 1))
    kernels = [(x @ y.T / 3 + 1) ** 3 for x, y in ((real, real), (fake, fake), (real, fake))]
    off = ~torch.eye(400, dtype=torch.bool)
    expected = float(kernels[0][off].mean() + kernels[1][off].mean() - 2 * kernels[2].mean())
    mean, deviation = kernel_distance(real, fake)
    assert mean == pytest.approx(expected, abs=3 * deviation / 10) and 0.05 * mean < deviation < mean


@pytest.mark.parametrize("n", [2000, 2300])
def test_kernel_distance_is_torch_fidelity_s(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its own default, 1000, in the first 10 of the same draws."""
    real, fake = gaussian_features(2000, 16, 0).double(), gaussian_features(n, 16, 1, 0.1).double()
    monkeypatch.setattr("metrics.kernel.SUBSETS", 10)
    expected = library("metric_kid").kid_features_to_metric(fake, real, verbose=False, kid_subsets=10)
    found = kernel_distance(real, fake)
    names = [f"kernel_inception_distance_{name}" for name in ("mean", "std")]
    assert found == pytest.approx([expected[name] for name in names], rel=1e-9, abs=1e-12)
    single = kernel_distance(real.float(), fake.float())
    assert single == pytest.approx(found, rel=1e-5)


def test_inception_score_by_hand() -> None:
    """Sure and of k classes alike: k. Sure of one class, or unsure of all: 1."""
    sure = torch.eye(4).repeat(50, 1) * 100
    assert inception_score(sure)[0] == pytest.approx(4, rel=0.15)  # ten splits of 20 are not quite even
    assert inception_score(torch.eye(4)[:1].repeat(30, 1) * 100) == pytest.approx((1, 0), abs=1e-12)
    assert inception_score(torch.zeros(30, 4)) == pytest.approx((1, 0), abs=1e-12)
    # Two images are one split, which has no deviation; four are two of two.
    mean, deviation = inception_score(torch.tensor([[50.0, 0.0], [0.0, 50.0]]))
    assert mean == pytest.approx(2, abs=1e-12) and deviation is None
    assert inception_score(torch.eye(4) * 100) == pytest.approx((2, 0), abs=1e-12)
    with pytest.raises(ValueError, match="needs 2 images, got 1"):
        inception_score(torch.zeros(1, 4))


def test_inception_score_of_worked_logits() -> None:
    """p(y|x) = (3/4, 1/4) for a half, (1/4, 3/4) for the other: exp(3/4 log 3/2 + 1/4 log 1/2) in even splits."""
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]]).repeat(5000, 1)
    mean, deviation = inception_score(logits)
    expected = math.exp(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert mean == pytest.approx(expected, rel=1e-3) and deviation < 1e-3


# -- neighbours ------------------------------------------------------------------------------------


def brute(real: Tensor, fake: Tensor) -> tuple[float, float, float, float]:
    """Precision, recall, density, coverage by all distances, in float64."""
    real, fake = real.double(), fake.double()
    to_fake = (real[:, None] - fake).norm(dim=2)
    of_real, of_fake = (
        (x[:, None] - x).norm(dim=2).sort(1).values for x in (real, fake)
    )  # the first is itself
    precision = (to_fake <= of_real[:, 3:4]).any(0).double().mean()
    recall = (to_fake <= of_fake[:, 3]).any(1).double().mean()
    inside = to_fake < of_real[:, 5:6]
    return (
        float(precision),
        float(recall),
        int(inside.sum()) / (5 * len(fake)),
        float(inside.any(1).double().mean()),
    )


def close_sets(offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Reals (300, 12) and fakes (400, 12), float64, of which precision and the others are far from 0 and from 1."""
    real, fake = gaussian_features(300, 12, 0).double(), gaussian_features(400, 12, 1).double()
    return real + offset, fake * 0.9 + 0.45 + offset


@pytest.mark.parametrize("cells", [2**24, 2000], ids=["whole", "in pieces"])
@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8])
def test_density_and_coverage_by_brute_force(
    offset: float, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Precision, recall and copies too, whatever the offset of the features and however many are held at a time."""
    monkeypatch.setattr("metrics.neighbours.CELLS", cells)
    expected = brute(*close_sets())
    assert all(0.05 < value < 0.95 for value in (*expected[:2], expected[3])), expected
    real, fake = close_sets(offset)
    assert (*precision_recall(real, fake), *density_coverage(real, fake)) == expected
    copies = [originals(*close_sets(shift)) for shift in (0.0, offset)]
    assert torch.equal(copies[0].index, copies[1].index)
    assert copies[0].authentic == copies[1].authentic and copies[0].duplicates == copies[1].duplicates


def test_precision_and_recall_are_torch_fidelity_s() -> None:
    real, fake = close_sets()
    expected = library("metric_prc").prc_features_to_metric(fake, real, verbose=False)
    assert precision_recall(real, fake) == pytest.approx(
        (expected["precision"], expected["recall"]), abs=1e-7
    )


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e18])
def test_neighbours_of_any_scale_are_exact(scale: float) -> None:
    """Also among near copies, which products in single precision cannot order."""
    points = gaussian_features(200, 40, 0).double() * scale
    near = points[:50] * (1 + 1e-9 * gaussian_features(50, 40, 2).double())
    rows, points = torch.cat([near, gaussian_features(30, 40, 1).double() * scale]), torch.cat([points, near])
    distances = (rows[:, None] - points).square().sum(2)
    squared, index = nearest(rows, points, 3)
    expected = distances.topk(3, largest=False)
    assert torch.equal(index, expected.indices)
    assert_close(squared, expected.values, rtol=1e-12, atol=0.0)
    own = torch.arange(len(points))
    squared, index = nearest(points, points, 1, own)
    distances = (points[:, None] - points).square().sum(2).fill_diagonal_(torch.inf)
    assert torch.equal(index[:, 0], distances.argmin(1))
    assert_close(squared[:, 0], distances.amin(1), rtol=1e-12, atol=0.0)


def test_equal_images_are_at_distance_0() -> None:
    """A generator of one image, and sets of one image alone, have scores, by balls of radius 0."""
    real = gaussian_features(60, 5, 0)
    one = real[:1].repeat(70, 1)
    assert precision_recall(real, one) == (1, 1 / 60)
    assert precision_recall(one, one) == (1, 1)
    assert density_coverage(one, one) == (0, 0)  # open balls of radius 0 are empty
    assert originals(real, one).distance.tolist() == [0] * 70
    assert originals(one, real).limit == COPY_RATIO


def test_closed_and_open_balls_on_their_border() -> None:
    """Reals 1 apart on a line: their third neighbours at 2 or 3, their fifth at 3, 4 or 5."""
    real = torch.arange(8.0)[:, None]
    beyond = torch.tensor(
        [[-3.0], [-2.0], [9.0], [10.5]]
    )  # on the balls around 0 and 7 of radius 3, but the last
    assert precision_recall(real, beyond)[0] == 0.75
    edge = torch.tensor([[-5.0]])
    assert density_coverage(real, edge) == (0, 0)
    assert density_coverage(real, edge + 0.5)[1] == 1 / 8


def test_precision_and_recall_are_1_on_identical_sets_and_0_on_far_ones() -> None:
    real = gaussian_features(60, 5, 0)
    assert precision_recall(real, real.clone()) == (1, 1)
    assert precision_recall(real, real + 1000) == (0, 0)
    with pytest.raises(ValueError, match="more than 3 images of each kind, got 3"):
        precision_recall(real, real[:3])


def test_density_and_coverage_by_hand() -> None:
    """Reals at 0, 1, 3, 7 on a line, k = 1: balls of radius 1, 1, 2, 4."""
    real = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    fake = torch.tensor([[0.5], [4.0], [100.0]])
    # 0.5 lies in the balls around 0, 1; 4 in those around 3 and 7; 100 in none.
    assert density_coverage(real, fake, k=1) == pytest.approx((4 / 3, 1.0))
    assert density_coverage(real, fake[:1], k=1) == pytest.approx((2.0, 0.5))
    assert density_coverage(real, fake[2:], k=1) == (0, 0)
    with pytest.raises(ValueError, match="more than 4 reals, got 4"):
        density_coverage(real, fake, k=4)


def test_identical_sets_have_density_and_coverage_1() -> None:
    real = gaussian_features(60, 5, 0)
    assert density_coverage(real, real.clone()) == (1, 1)


# -- copies of training images -----------------------------------------------------------------------


def test_copies_by_hand() -> None:
    """Training images at 0, 1, 3, 7, 15, 31: the nearest other one over the fifth is 1 in 31, 1 in 30, 1 in 14, ..."""
    known = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0], [31.0]])
    found = originals(known, torch.tensor([[0.0], [-1.0], [7.125], [12.0], [39.0], [-17.0]]))
    assert found.index.tolist() == [0, 0, 3, 4, 5, 0]
    assert found.distance.tolist() == [0, 1, 0.125, 3, 8, 17] and found.own.tolist() == [1, 1, 4, 8, 16, 1]
    assert found.ratio.tolist() == pytest.approx([0, 1 / 16, 0.125 / 7.875, 3 / 12, 8 / 38, 17 / 32])
    # a twentieth of the way from the first to the second of six, the hundredth part of five steps
    assert found.limit == pytest.approx(1 / 31 + 0.05 * (1 / 30 - 1 / 31))
    assert found.duplicates == pytest.approx(2 / 6) and found.authentic == pytest.approx(1 / 6)
    with pytest.raises(ValueError, match="6 are needed, got 5"):
        originals(known[:5], known)


@pytest.mark.parametrize("d", [6, 200])
def test_copies_are_told_from_new_images(d: int) -> None:
    """Of the same Gaussian 1 % where the training images set the limit, less where they are all far from each other."""
    known, new = gaussian_features(4000, d, 0), gaussian_features(3000, d, 1)
    found = originals(known, new)
    assert (found.limit == COPY_RATIO) == (d == 200)
    assert 0.004 < found.duplicates < 0.02 if d == 6 else found.duplicates == 0
    assert (0.45 if d == 6 else 0.8) < found.authentic < (0.55 if d == 6 else 1)
    quantised = (known[:3000] * 20).round() / 20 + 0.002 * new  # far less than the way to a neighbour
    found = originals(known, quantised)
    assert found.duplicates > 0.5 and found.authentic < 0.02
    found = originals(known, known[:3000])
    assert found.duplicates == 1 and found.authentic == 0 and float(found.ratio.max()) == 0


@pytest.mark.parametrize("n", [20, 2000])
def test_what_lies_among_all_training_images_is_no_copy(n: int) -> None:
    """A generator collapsed to their mean is nearer to each than they are to each other, and copies none."""
    known = gaussian_features(n, 64, 0)
    found = originals(known, 0.1 * gaussian_features(500, 64, 1))
    assert found.authentic == 0 and found.duplicates == 0


@pytest.mark.parametrize("times", [2, 4])
def test_copies_among_equal_training_images(times: int) -> None:
    """A set that holds images several times: copies are found all the same."""
    known = gaussian_features(100, 16, 0).repeat(times, 1)
    copies = known[:50] + 0.01 * gaussian_features(50, 16, 1)
    found = originals(known, torch.cat([known[:50], copies, gaussian_features(100, 16, 2)]))
    assert found.limit > 0 and found.duplicates == pytest.approx(0.5, abs=0.02)


# -- MIND ------------------------------------------------------------------------------------------


def test_mind_on_a_line_by_quantiles() -> None:
    """In one dimension every direction is 1 or -1: three times the mean of the squared steps between sorted values."""
    real, fake = torch.tensor([[4.0], [0.0], [1.0]]), torch.tensor([[2.0], [9.0], [0.0]])
    # 0, 1, 4 and 0, 2, 9
    assert projected_distance(real, fake) == pytest.approx(3 * (0 + 1 + 25) / 3, rel=1e-12)


def test_mind_of_shifted_sets() -> None:
    """3 d E[(u.mu)^2] = 3 |mu|^2 for any shift of a set, and nothing for none; in any pieces."""
    real, mu = gaussian_features(500, 8, 0), torch.zeros(8)
    mu[3] = 0.7
    found = projected_distance(real, real + mu)
    assert found == pytest.approx(3 * 0.49, rel=0.1) and found != pytest.approx(3 * 0.49, rel=1e-6)
    assert projected_distance(real, real.flip(0)) < 1e-30  # projections of one row round by its place
    many = projected_distance(real, real + mu, n_directions=40_000)
    assert many == pytest.approx(3 * 0.49, rel=0.02)


def test_mind_of_samples_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two Gaussians apart by mu; of the larger set a fixed draw; no piece of the directions moves it."""
    real, fake = gaussian_features(5_000, 5, 0), gaussian_features(3_000, 5, 1)
    fake[:, 0] += 1
    found = projected_distance(real, fake)
    assert found == pytest.approx(3, rel=0.1) and found == projected_distance(real, fake)
    assert projected_distance(real, fake + 1e4) == pytest.approx(
        projected_distance(real - 1e4, fake), rel=1e-6
    )
    monkeypatch.setattr("metrics.mind.CELLS", 7 * len(fake))
    assert projected_distance(real, fake) == pytest.approx(found, rel=1e-12)


# -- on CUDA ---------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_scores_on_cuda_are_the_cpu_s() -> None:
    def scores(device: str) -> list[float]:
        real, fake = (x.float().to(device) for x in close_sets(3.0))
        statistics = [gaussian_statistics(x) for x in (real, fake)]
        assert statistics[0][1].device.type == device
        copies = originals(real, fake)
        few = [gaussian_statistics(x[:8]) for x in (real, fake)]  # singular covariances
        return [
            frechet_distance(*statistics[0], *statistics[1]), frechet_distance(*few[0], *few[1]),
            *kernel_distance(real, fake), *precision_recall(real, fake), *density_coverage(real, fake),
            projected_distance(real, fake), copies.authentic, copies.duplicates, copies.limit,
        ]  # fmt: skip

    allowed = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True  # as training leaves it
        assert scores("cuda") == pytest.approx(scores("cpu"), rel=1e-6)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


# -- the table -------------------------------------------------------------------------------------


def sets_of(extractor: Extractor, real: Tensor, fake: Tensor, y: Tensor | None = None) -> Sets:
    """Sets of uint8 images, all with the classes y."""
    real, fake = (read(*extract(extractor, [images]), y) for images in (real, fake))
    return Sets(extractor, real, fake, tuple("0123456789"), known=real)


def test_copies_are_sought_among_images_that_were_read(extractor: Extractor) -> None:
    images = random_images(20, 0)
    sets = sets_of(extractor, images, images)
    with pytest.raises(AssertionError):
        score(["memorisation"], replace(sets, known=None))
    with pytest.raises(AssertionError):
        score(["memorisation"], replace(sets, known=replace(sets.real, features=None)))


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_tells_the_reference_from_noise(name: str, extractor: Extractor) -> None:
    """In the direction that its row says, under the extractor's name where it has none of its own."""
    images, y = random_images(300, 0), torch.arange(300) % 10
    images[::2] //= 8
    same = score(
        [name],
        sets_of(
            extractor, images, images, extract(extractor, [images])[1].argmax(1) if name == "accuracy" else y
        ),
    )
    other = score([name], sets_of(extractor, images, random_images(300, 1) // 2, y))
    assert same.keys() == other.keys() and METRICS[name].better in ("low", "high")
    assert all(("[digits-cnn]" in key) != METRICS[name].own_name for key in same)
    first = next(iter(same))
    if name == "memorisation":  # to it the reference itself is what is worst
        assert same[first] < 1 < other[first] and same["duplicates[digits-cnn]"] == 1
    elif name not in ("is", "modes"):  # these look at the fakes alone
        assert (same[first] < other[first]) == (METRICS[name].better == "low")


def test_scores_of_the_published_network_have_plain_names(extractor: Extractor) -> None:
    images = random_images(20, 0)
    for name, expected in (("inception", "fid"), ("inception:3f2a1b9c", "fid[inception:3f2a1b9c]")):
        found = score(["fid"], sets_of(replace(extractor, name=name), images, images))
        assert list(found) == [expected] and abs(found[expected]) < 1e-9


def test_score_is_zero_for_the_reference_itself_and_large_for_others(extractor: Extractor) -> None:
    images = random_images(300, 0)
    same = score(["fid", "modes"], sets_of(extractor, images, images))
    other = score(["fid"], sets_of(extractor, images, random_images(300, 1) // 2))
    assert abs(same["fid[digits-cnn]"]) < 1e-9 and same["kl_data"] == 0
    assert other["fid[digits-cnn]"] > 100 * abs(same["fid[digits-cnn]"]) + 1e-3
    share = class_shares(extract(extractor, [images])[1])
    assert same["shares"] == share.tolist() and same["classes"] == n_modes(share)


def test_a_mode_may_be_a_single_image(extractor: Extractor) -> None:
    logits = torch.zeros(1000, 10)
    logits[:, 0], logits[7, 3] = 1, 2
    reading = Reading(read(torch.zeros(1000, 2), logits).statistics, None, logits)
    for share, expected in ((0.01, 1), (0.0, 2)):
        sets = Sets(replace(extractor, mode_share=share), reading, reading)
        assert score(["modes"], sets)["classes"] == expected


def test_intra_fid_is_the_mean_over_separate_classes(extractor: Extractor) -> None:
    real, fake, y = random_images(200, 0), random_images(200, 1) // 2, torch.arange(200) % 10
    found = score(["intra_fid"], sets_of(extractor, real, fake, y))
    each = [
        score(["fid"], sets_of(extractor, real[y == i], fake[y == i]))["fid[digits-cnn]"] for i in range(10)
    ]
    assert found["intra_fids[digits-cnn]"] == pytest.approx(each, rel=1e-9)
    assert found["intra_fid[digits-cnn]"] == pytest.approx(sum(each) / 10, rel=1e-9)


def test_empty_classes_are_named() -> None:
    whole, lacking = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 0, 0, 0])
    check_classes(whole, whole, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"of the fakes there are: b 1, c 0;"):
        check_classes(whole, lacking, ("a", "b", "c"))
    with pytest.raises(ValueError, match="of the reals there are: b 1, c 0;"):
        check_classes(lacking, whole, ("a", "b", "c"))


def test_reading_as_asked_keeps_the_order(extractor: Extractor) -> None:
    images = random_images(300, 0)
    images[::2] //= 8  # two kinds, which even an untrained network tells apart
    seen = extract(extractor, [images])[1].argmax(1)
    half = torch.where(torch.arange(300) < 75, seen, (seen + 1) % 10)
    found = score(["accuracy"], sets_of(extractor, images, images, half))
    assert found["class_accuracy"] == pytest.approx(0.25)


def test_without_torch_fidelity_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch_fidelity", "torch_fidelity.metric_isc"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="pip install 'torch-fidelity>=0.4,<0.5'"):
        inception_score(torch.zeros(5, 2))
    features = gaussian_features(9, 2, 0)
    assert density_coverage(features, features) == (1, 1) and kernel_distance(features, features)[1] > 0


@pytest.mark.parametrize(
    ("name", "least"), [("fid", 2), ("kid", 4), ("is", 2), ("pr", 4), ("dc", 6), ("mind", 2)]
)
def test_every_metric_says_how_many_images_it_needs(name: str, least: int, extractor: Extractor) -> None:
    """And with so many it is a number."""
    images = random_images(least, 0)
    check_sizes(["modes", name], least, least, 0)
    for sizes in ((least - 1, 9), (9, least - 1)):
        with pytest.raises(
            ValueError, match=f"{name} needs at least {least} reals and {least} fakes, there are {sizes[0]} "
        ):
            check_sizes([name], *sizes, 9)
    found = score([name], sets_of(extractor, images, 255 - images))
    assert math.isfinite(next(iter(found.values())))


def test_copies_need_training_images_and_few_others(extractor: Extractor) -> None:
    check_sizes(["memorisation"], 2, 2, 6)
    with pytest.raises(ValueError, match="memorisation needs at least 6 training images, there are 5: raise"):
        check_sizes(["memorisation"], 9, 9, 5)
    known = read(*extract(extractor, [random_images(6, 0)]))
    fakes = read(*extract(extractor, [random_images(2, 1)]))
    assert score(["memorisation"], Sets(extractor, fakes, fakes, known=known))["authpct[digits-cnn]"] >= 0


def test_settings_say_what_was_done() -> None:
    kid = [METRICS["kid"].settings(*sizes) for sizes in ((10_000, 10_000), (300, 10_000), (10_000, 9))]
    assert [text.split(";")[0] for text in kid] == [f"100 subsets of {n}" for n in (1000, 150, 4)]
    assert (
        METRICS["is"].settings(5, 10_000).startswith("10 splits") and METRICS["is"].settings(99, 9)[0] == "4"
    )
    assert "closed" in METRICS["pr"].settings(9, 9) and "open" in METRICS["dc"].settings(9, 9)
    assert "50000" in METRICS["memorisation"].settings(50_000, 10)
