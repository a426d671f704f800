"""Labels and latents of samples: functions of the seed and the index, with the attributes of real images."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from errors import UserError
from games.build import generator_config
from generation.generator import load_generator, sampling_copy
from generation.labels import label_examples, label_rows, read_label_examples, sample_labels
from generation.latents import latents, truncate_latents
from generation.sampling import sample_chunks
from generation.views import COLUMNS, view_of
from images.batches import ImageData
from modelling import build_generator
from tests.running import SMALL, TINY, request
from tests.test_training import different, norms


def attributes(n: int, n_labels: int) -> np.ndarray:
    """Rows (n, n_labels) of which each spells its own number in bits."""
    return ((np.arange(n)[:, None] >> np.arange(n_labels)) & 1).astype(np.uint8)


def numbers(rows: torch.Tensor) -> list[int]:
    """What `attributes` spelt."""
    return (rows.long() << torch.arange(rows.shape[1])).sum(1).tolist()


def labels_of(n: int = 5000, n_labels: int = 13) -> dict:
    """The part of a generator's config that labels are drawn from."""
    examples = label_examples(attributes(n, n_labels), seed=3)
    return {"n_labels": n_labels, "multi_hot": True, "label_examples": examples}


@pytest.mark.parametrize("n", [1, 7, 512, 513, 5000])
def test_label_examples_are_rows_of_the_data_spread_evenly(n: int) -> None:
    examples = label_examples(attributes(n, 13), seed=3)
    kept = numbers(read_label_examples(examples, 13))
    assert len(kept) == min(n, 512) and len(set(kept)) == len(kept)
    assert examples == ["".join(str(k >> i & 1) for i in range(13)) for k in kept]
    stretch = n / len(kept)
    assert all(i * stretch - 1 < number < (i + 1) * stretch for i, number in enumerate(kept))
    assert examples == label_examples(attributes(n, 13), seed=3)


def test_label_examples_follow_the_seed_and_are_short() -> None:
    faces = np.random.default_rng(0).integers(0, 2, (5000, 40), dtype=np.uint8)
    assert label_examples(faces, seed=3) != label_examples(faces, seed=4)
    assert len(json.dumps(label_examples(faces, seed=3))) == 512 * 44


def test_label_examples_of_older_folders_are_read() -> None:
    """Bits packed into bytes, in hex: as this toolkit wrote them once."""
    faces = np.random.default_rng(0).integers(0, 2, (600, 13), dtype=np.uint8)
    kept = read_label_examples(label_examples(faces, seed=3), 13)
    packed = np.packbits(kept.numpy().astype(bool), axis=1)
    assert torch.equal(read_label_examples(" ".join(row.tobytes().hex() for row in packed), 13), kept)
    assert read_label_examples("a0 c0 60", 3).tolist() == [[1, 0, 1], [1, 1, 0], [0, 1, 1]]


def test_attributes_of_samples_are_those_of_real_images() -> None:
    """5 bits of which just one is set: drawn one by one they would seldom come out so."""
    labels = {
        "n_labels": 5, "multi_hot": True,
        "label_examples": label_examples(np.eye(5, dtype=np.uint8)[np.arange(900) % 5], seed=0),
    }  # fmt: skip
    rows = label_rows(labels, 1000, seed=1)
    assert rows.shape == (1000, 5) and rows.dtype == torch.get_default_dtype() and (rows.sum(1) == 1).all()
    assert (rows.mean(0) > 0.1).all()


def test_attributes_of_an_index_depend_on_the_seed_alone() -> None:
    labels = labels_of()
    rows = label_rows(labels, 600, seed=1)
    assert torch.equal(label_rows(labels, 3, seed=1), rows[:3])
    assert len(set(numbers(rows[:512]))) == 512 and torch.equal(rows[512:], rows[:88])
    assert numbers(rows[:5]) != sorted(numbers(rows[:5]))
    assert not torch.equal(label_rows(labels, 600, seed=2), rows)


@pytest.mark.parametrize("text", ["", "zz", "00 11 22", 5, [], ["01"], ["012" + "0" * 10], [13 * [0]]])
def test_damaged_label_examples_are_refused_in_one_line(text: object, tmp_path: Path) -> None:
    config = {"weights": ["raw"], "build": {}, "multi_hot": True, "n_labels": 13, "label_examples": text}
    (tmp_path / "raw.safetensors").write_bytes(b"")
    for held in (config, {k: v for k, v in config.items() if k != "label_examples"}):
        (tmp_path / "config.json").write_text(json.dumps(held))
        with pytest.raises(UserError, match="config.json is damaged .*resume the run"):
            load_generator(tmp_path)


def test_a_run_keeps_examples_of_the_labels_it_was_trained_with() -> None:
    images = np.zeros((600, 16, 16, 1), np.uint8)
    kinds = {"faces": attributes(600, 10), "digits": np.arange(600) % 10}
    names = tuple("abcdefghij")
    flags = f"{TINY} --conditional --seed 4"
    for kind, labels in kinds.items():
        data = ImageData(images, labels, names, "fingerprint", kind)
        found = generator_config(request(flags).config(), data, {}, {})
        expected = label_examples(labels, seed=4) if kind == "faces" else None
        assert found.get("label_examples") == expected and found["multi_hot"] == (kind == "faces")
        assert len(label_rows(json.loads(json.dumps(found)), 20, seed=0)) == 20


# -- attributes by name ----------------------------------------------------------------------------


FACES = {
    "dataset": "celeba",
    "n_labels": 4,
    "multi_hot": True,
    "label_names": ["Bald", "Male", "Smiling", "Young"],
    "label_examples": label_examples(attributes(16, 4), seed=0),
}


def test_named_attributes_are_set_and_the_others_stay_as_drawn() -> None:
    plain = sample_labels(FACES, 40, 5)
    there = sample_labels(FACES, 40, 5, attributes=["Smiling"])
    gone = sample_labels(FACES, 40, 5, attributes=["-Smiling"])
    both = sample_labels(FACES, 40, 5, attributes=["-Bald", "Young"])
    assert (there[:, 2] == 1).all() and (gone[:, 2] == 0).all() and 0 < plain[:, 2].mean() < 1
    others = [0, 1, 3]
    assert torch.equal(there[:, others], gone[:, others]) and torch.equal(there[:, others], plain[:, others])
    assert (both[:, 0] == 0).all() and (both[:, 3] == 1).all() and torch.equal(both[:, 1:3], plain[:, 1:3])
    assert torch.equal(sample_labels(FACES, 3, 5, attributes=["Smiling"]), there[:3])
    assert not torch.equal(sample_labels(FACES, 40, 6, attributes=["Smiling"]), there)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["Smile"], "'Smile' is not one of 4 attributes: Bald, Male, Smiling, Young"),
        (["-smiling"], "^attributes -smiling: 'smiling' is not one of"),
        (["Young", ""], "'' is not one of 4"),
        (["--Male"], "'-Male' is not one of 4"),
        (["2"], "'2' is not one of 4"),
        (["Male", "Bald", "Male"], "Male,Bald,Male: Male is given twice"),
        (["Male", "-Male"], "Male,-Male: Male is given twice"),
    ],
)
def test_attributes_that_cannot_be_set_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sample_labels(FACES, 2, 0, attributes=given)


def test_classes_and_attributes_are_not_mixed_up() -> None:
    digits = {"n_labels": 3, "multi_hot": False, "label_names": ["0", "1", "2"]}
    nothing = {"n_labels": 0, "multi_hot": False, "label_names": []}
    assert sample_labels(digits, 5, 0).tolist() == [0, 1, 2, 0, 1]
    assert sample_labels(digits, 2, 0, classes=["2"]).tolist() == [2, 2]
    assert sample_labels(nothing, 5, 0) is None
    for config, words, message in (
        (FACES, {"classes": ["Male"]}, "knows attributes.* attributes"),
        (digits, {"attributes": ["1"]}, "knows classes.* class"),
        (nothing, {"attributes": ["-Male"]}, "^attributes -Male: .* without conditional"),
        (nothing, {"classes": ["1"]}, "^class 1: .* without conditional"),
    ):
        with pytest.raises(UserError, match=message):
            sample_labels(config, 2, 0, **words)


class Shown(nn.Module):
    """A generator whose images are as light as the class they show."""

    z_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (y / 127.5 - 1).view(-1, 1, 1, 1).expand(-1, 1, 2, 2) + self.weight


def test_labels_go_on_from_one_chunk_of_images_to_the_next() -> None:
    """Image 64 of classes in turn has class 4, not class 0 again."""
    config = {"n_labels": 10, "multi_hot": False, "label_names": list("0123456789")}
    chunks = list(sample_chunks(Shown(), 150, 0, sample_labels(config, 150, 0)))
    assert len(chunks) > 1
    assert torch.cat(chunks)[:, 0, 0, 0].tolist() == [i % 10 for i in range(150)]


SPECTRAL = ("dcgan", "simple_cnn", "sngan", "sndcgan", "sagan", "biggan", "mlp")


@pytest.mark.parametrize("model", SPECTRAL)
def test_copies_measure_sigma_of_their_own_weights(model: str) -> None:
    """u and v of the trained network belong to other weights than the average's: each norm is 1 in the copy."""
    torch.manual_seed(0)
    settings, labels = SMALL[model][0], {"n_labels": 0}
    G = build_generator(model, img_size=32, img_channels=1, z_dim=9, spectral_norm=True, **settings)
    for p in G.parameters():
        p.data = torch.randn_like(p)
    copied = sampling_copy(G, labels)
    found = norms(copied)
    assert len(found) > 1 and all(0.9 < norm < 1.1 for norm in found.values()), found
    assert any(norm > 1.2 for norm in norms(G).values())


# -- truncated latents -----------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.01, 0.5, 1.0, 2.0])
def test_truncated_latents_follow_the_normal_between_the_thresholds(threshold: float) -> None:
    z = latents(0, 0, 400, 500)
    cut = latents(0, 0, 400, 500, threshold)
    inside = z.abs() <= threshold
    assert torch.equal(cut[inside], z[inside]) and (cut.abs() <= threshold).all() and cut.dtype == z.dtype
    # Its quantiles: Phi^-1 of the share q of what lies between Phi(-t) and Phi(t).
    normal = torch.distributions.Normal(0, 1)
    low, high = (normal.cdf(torch.tensor(t)).item() for t in (-threshold, threshold))
    shares = torch.linspace(0.1, 0.9, 9)
    expected = normal.icdf(low + shares * (high - low))
    for entries in (cut.flatten(), cut[~inside]):  # those drawn anew, too
        found = entries.quantile(shares)
        torch.testing.assert_close(found, expected, atol=4 * threshold / math.sqrt(len(entries)), rtol=0)


def test_truncated_latents_of_an_index_depend_on_the_seed_alone() -> None:
    """And on the threshold by no more than they must: an entry drawn anew keeps its rank."""
    many = latents(5, 0, 70, 9, 0.5)
    assert torch.equal(latents(5, 33, 7, 9, 0.5), many[33:40])
    assert not torch.equal(latents(6, 0, 70, 9, 0.5), many)
    z, closer = latents(5, 0, 70, 9), latents(5, 0, 70, 9, 0.25)
    new = z.abs() > 0.5
    ranks = [torch.special.ndtr(x[new].double()) for x in (many, closer)]
    for threshold, rank in zip((0.5, 0.25), ranks, strict=True):
        low = torch.special.ndtr(torch.tensor(-threshold, dtype=torch.float64))
        rank.sub_(low).div_(1 - 2 * low)
    torch.testing.assert_close(*ranks, atol=1e-5, rtol=0)


def test_latents_drawn_anew_do_not_copy_the_old_ones() -> None:
    z, u = torch.full((100_000,), 3.0), torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    cut = truncate_latents(z, u, 1.0)
    assert abs(float(cut.mean())) < 0.01 and len(cut.unique()) > 90_000
    extremes = truncate_latents(torch.full((2,), 9.0), torch.tensor([0.0, 1 - 2**-24]), 8.5)
    assert extremes.isfinite().all() and (extremes.abs() <= 8.5).all()


def test_standing_statistics_are_of_truncated_latents() -> None:
    torch.manual_seed(0)
    G = build_generator("dcgan", img_size=16, img_channels=1, z_dim=9, width=4)
    seen: list[torch.Tensor] = []
    G.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    labels = {"n_labels": 0}
    plain, cut, wide = (sampling_copy(G, labels, 3, t) for t in (None, 0.5, 10.0))
    z = torch.cat(seen)
    assert z.shape == (3 * 512, 9)
    assert torch.equal(z[:512], z[1024:]) and z[:512].abs().max() > 2 and z[512:1024].abs().max() <= 0.5
    inside = z[:512].abs() <= 0.5
    assert torch.equal(z[512:1024][inside], z[:512][inside])
    buffers = [dict(network.named_buffers()) for network in (plain, cut, wide)]
    assert all(torch.equal(buffers[0][k], buffers[2][k]) for k in buffers[0])
    assert any(not torch.equal(buffers[0][k], buffers[1][k]) for k in buffers[0])
    assert all(not p.requires_grad for p in cut.parameters()) and not cut.training and G.training


def test_standing_statistics_follow_the_seed() -> None:
    """Their latents and what layers draw by themselves meanwhile; torch's own generator is left alone."""
    G = build_generator("dcgan", img_size=16, img_channels=1, z_dim=9, width=4)
    drawn: list[tuple[torch.Tensor, torch.Tensor]] = []
    G.register_forward_pre_hook(lambda _module, args: drawn.append((args[0][0], torch.rand(4))))
    before = torch.random.get_rng_state()
    for seed in (3, 4, 3):
        sampling_copy(G, {"n_labels": 0}, seed)
    assert torch.equal(before, torch.random.get_rng_state())
    third = len(drawn) // 3
    for values in zip(*drawn, strict=True):
        assert different(values[: 2 * third])
        torch.testing.assert_close(values[:third], values[2 * third :], rtol=0, atol=0)


# -- grids of training -----------------------------------------------------------------------------


@pytest.mark.parametrize(("n_labels", "rows"), [(2, 2), (10, 10), (12, 10), (200, 10)])
def test_training_grids_have_a_row_a_class(n_labels: int, rows: int) -> None:
    """The first ten of more; the latents are the same down each column."""
    z, y = view_of("mnist").latents(5, {"dataset": "mnist", "n_labels": n_labels, "multi_hot": False}, seed=1)
    assert z.shape == (rows * COLUMNS, 5) and y.dtype == torch.int64
    assert torch.equal(y.view(rows, COLUMNS), torch.arange(rows)[:, None].expand(rows, COLUMNS))
    assert (z.view(rows, COLUMNS, 5) == z[:COLUMNS]).all() and len(z.unique(dim=0)) == COLUMNS


def test_training_grids_without_classes_have_64_latents() -> None:
    z, y = view_of("mnist").latents(5, {"dataset": "mnist", "n_labels": 0, "multi_hot": False}, seed=1)
    faces, attribute_rows = view_of("mnist").latents(5, FACES, seed=1)
    assert z.shape == (64, 5) and y is None and len(z.unique(dim=0)) == 64
    assert torch.equal(faces, z) and torch.equal(attribute_rows, label_rows(FACES, 64, 1))
    assert not torch.equal(
        view_of("mnist").latents(5, {"dataset": "mnist", "n_labels": 0, "multi_hot": False}, seed=2)[0], z
    )
