"""Scores of translations: against their targets, as a set, what the line says, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from errors import NotFinite, UserError
from generation.comparison import compare
from generation.extractors import open_extractor
from generation.protocol import append_score
from generation.reading import Interrupted
from generation.translation_scores import (
    TranslationEvaluator,
    both_ways,
    floors,
    mean_picture,
    unchanged,
)
from generation.translator import translate
from images.batches import ImageData
from images.own import as_image_data
from metrics.features import READ_AT_ONCE, Extractor
from metrics.lines import TRANSLATIONS, best_step, protocol_key
from metrics.pairwise import l1, psnr, ssim
from tests.test_translator import Tiny, picture, tiny

N = READ_AT_ONCE + 14


@pytest.fixture(scope="module")
def reader() -> Extractor:
    """A small network that comes with the toolkit."""
    return open_extractor("digits-cnn")


@pytest.fixture(scope="module")
def sources() -> Tensor:
    """Grey noise, uint8 (N, 1, 12, 16)."""
    return torch.stack([picture(12, 16, 1, seed=i) for i in range(N)])


@pytest.fixture(scope="module")
def targets(sources: Tensor) -> ImageData:
    """Other pictures that have something of the sources."""
    noise = torch.stack([picture(12, 16, 1, seed=N + i) for i in range(N)])
    return as_image_data(sources // 2 + noise // 2, name="maps")


def make(
    reader: Extractor | None, sources: Tensor, targets: ImageData, folder: Path, **how: object
) -> object:
    """An evaluator of pairs."""
    how = {"paired": True, "about": {"data": {"pairing": "paired"}}, "cache_dir": folder} | how
    return TranslationEvaluator(reader, sources=lambda a, b: sources[a:b], targets=targets, **how)


def test_a_line_has_the_scores_of_pairs_and_of_the_set(
    reader: Extractor, sources: Tensor, targets: ImageData, tmp_path: Path
) -> None:
    """Those of all pairs at once, and what compare says of the translations; floats in [-1, 1] are the same."""
    G = tiny(img_channels=1, dropout=0.3)
    names = ["ssim", "fid", "l1", "kid", "psnr"]
    evaluator = make(reader, sources, targets, tmp_path, metrics=names, source_fingerprint="f")
    before = torch.random.get_rng_state()
    line = evaluator.score(G, step=5, weights="ema", batch_norm="none")
    assert torch.equal(before, torch.random.get_rng_state()) and evaluator.better == "high"
    fakes = torch.stack(translate(G, sources))
    reals = torch.from_numpy(np.array(targets.images)).permute(0, 3, 1, 2)
    for name, metric in (("l1", l1), ("psnr", psnr), ("ssim", ssim)):
        assert line[name] == pytest.approx(float(metric(fakes, reals).mean()), rel=1e-12)
    whole = compare(targets, fakes, "digits-cnn", metrics=["fid", "kid"], cache_dir=str(tmp_path))
    for name in ("fid[digits-cnn]", "kid[digits-cnn]", "kid_std[digits-cnn]"):
        assert line[name] == pytest.approx(whole[name], rel=1e-6)
    about = line["protocol"]
    assert list(line)[:4] == ["step", "ssim", "l1", "psnr"] and about["best_by"] == ["ssim", "high"]
    assert about["fakes"] == TRANSLATIONS and about["split"] == "val" and about["reference"] == "maps"
    assert about["n_fake"] == about["n_real"] == N and about["data_fingerprint"] == targets.fingerprint
    assert about["size"] == [12, 16, 1] and about["extractor"] == "digits-cnn" and about["labels"] is None
    assert about["weights"] == "ema" and about["batch_norm"] == "none" and about["step"] == 5
    assert about["settings"].keys() == {"ssim", "l1", "psnr", "kid"}
    assert about["best_by_settings"] == about["settings"]["ssim"]
    assert about["pairing"] == "paired" and about["source_fingerprint"] == "f"
    again = make(reader, sources / 127.5 - 1, targets, tmp_path, metrics=names, source_fingerprint="f")
    same = again.score(G, step=5, weights="ema", batch_norm="none")
    assert same | {"date": None} == line | {"date": None}


def test_a_set_may_decide_and_pairs_need_no_reader(
    reader: Extractor, sources: Tensor, targets: ImageData, tmp_path: Path
) -> None:
    G = tiny(img_channels=1)
    by_set = make(reader, sources, targets, tmp_path, metrics=["fid", "l1"]).score(G, step=1)
    assert by_set["protocol"]["best_by"] == ["fid[digits-cnn]", "low"]
    assert list(by_set)[:3] == ["step", "fid[digits-cnn]", "l1"]
    alone = make(None, sources, targets, tmp_path, metrics=["l1"])
    by_pairs = alone.score(G, step=1, weights="raw", batch_norm="none")
    assert by_pairs["l1"] == by_set["l1"] and alone.better == "low"
    about = by_pairs["protocol"]
    assert "extractor" not in about and about["weights"] == "raw" and about["fakes"] == TRANSLATIONS
    first = make(None, sources, targets, tmp_path, metrics=["l1"], n=3).score(G, step=1)
    reals = torch.from_numpy(np.array(targets.images[:3])).permute(0, 3, 1, 2)
    assert first["l1"] == pytest.approx(
        float(l1(torch.stack(translate(G, sources[:3])), reals).mean()), rel=1e-12
    )
    assert first["protocol"]["n_fake"] == 3
    assert alone.seconds(G) > 0 and by_pairs | {"date": None} == alone.score(
        G, step=1, weights="raw", batch_norm="none"
    ) | {"date": None}


def test_sides_without_partners_are_scored_as_sets(
    reader: Extractor, sources: Tensor, targets: ImageData, tmp_path: Path
) -> None:
    evaluator = make(reader, sources, targets, tmp_path, paired=False, n=10_000, n_sources=20)
    line = evaluator.score(tiny(img_channels=1), step=1)
    assert line["fid[digits-cnn]"] > 0 and "l1" not in line
    assert (line["protocol"]["n_fake"], line["protocol"]["n_real"]) == (20, N)
    assert evaluator.seconds(tiny(img_channels=1)) > 0


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"metrics": []}, "metrics: name at least one of l1, psnr, ssim, fid, kid"),
        ({"metrics": ["lpips"]}, "metrics lpips: it is no score: choose among l1, "),
        ({"metrics": ["l1"], "paired": False}, "metrics l1: .* no partners: choose among fid, kid, "),
        ({"metrics": ["accuracy"]}, "metrics accuracy: translations have no classes"),
        ({"metrics": ["intra_fid"]}, "metrics intra_fid: translations have no classes"),
        ({"metrics": ["memorisation"]}, "metrics memorisation: it looks for copies of training images"),
        ({"metrics": ["l1"], "n": 0}, "n 0: give at least 1"),
        ({"metrics": ["fid"], "n": 1}, "fid needs at least 2 reals and 2 fakes"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_said(
    reader: Extractor, sources: Tensor, targets: ImageData, tmp_path: Path, how: dict, words: str
) -> None:
    with pytest.raises(UserError, match=f"^{words}"):
        make(reader, sources, targets, tmp_path, **how)


def test_what_the_pictures_do_not_bear_is_said(reader: Extractor, tmp_path: Path) -> None:
    small, deep = (as_image_data(torch.zeros(4, c, 10, 16, dtype=torch.uint8)) for c in (1, 2))
    with pytest.raises(UserError, match="metrics ssim: it needs 11 px a side, the images have 10 x 16"):
        make(reader, torch.zeros(4, 1, 10, 16), small, tmp_path, metrics=["ssim"])
    assert make(reader, torch.zeros(4, 1, 10, 16), small, tmp_path).metrics == ["l1", "psnr", "fid"]
    assert make(reader, torch.zeros(4, 2, 10, 16), deep, tmp_path).metrics == ["l1", "psnr"]
    one = as_image_data(torch.zeros(1, 1, 10, 16, dtype=torch.uint8))
    assert make(reader, torch.zeros(1, 1, 10, 16), one, tmp_path).metrics == ["l1", "psnr"]
    with pytest.raises(UserError, match="fid needs at least 2 reals and 2 fakes"):
        make(reader, torch.zeros(1, 1, 10, 16), one, tmp_path, paired=False)
    with pytest.raises(UserError, match="metrics fid: a network must read the pictures"):
        make(None, torch.zeros(4, 1, 10, 16), small, tmp_path, metrics=["fid"])
    with pytest.raises(UserError, match="metrics fid: pictures have 2 channels"):
        make(reader, torch.zeros(4, 2, 10, 16), deep, tmp_path, metrics=["fid"])
    evaluator = make(None, torch.zeros(4, 2, 10, 16), deep, tmp_path, metrics=["l1"])
    with pytest.raises(ValueError, match=r"translations are \(2, 20, 32\), targets \(2, 10, 16\)"):
        evaluator.score(tiny(img_channels=2, factor=2), step=1)
    assert evaluator.score(tiny(img_channels=2), step=1)["l1"] > 0


def test_a_score_may_fail_or_be_given_up(sources: Tensor, targets: ImageData, tmp_path: Path) -> None:
    asked = []
    evaluator = make(
        None,
        sources,
        targets,
        tmp_path,
        metrics=["l1"],
        interrupted=lambda: len(asked) > 1 or asked.append(1),
    )
    with pytest.raises(Interrupted):
        for _ in range(3):
            evaluator.score(tiny(img_channels=1), step=1)

    class Gone(Tiny):
        def forward(self, a: Tensor) -> Tensor:
            return a * float("nan")

    with pytest.raises(NotFinite):
        make(None, sources, targets, tmp_path, metrics=["l1"]).score(Gone(img_size=8, img_channels=1), step=1)


def test_lines_of_translations_have_a_best_step(sources: Tensor, targets: ImageData, tmp_path: Path) -> None:
    evaluator = make(None, sources, targets, tmp_path, metrics=["psnr"], n=4)
    lines = [evaluator.score(tiny(step, img_channels=1), step=step) for step in (1, 2, 3)]
    for line in lines:
        append_score(tmp_path / "scores.jsonl", line)
    assert best_step(tmp_path / "scores.jsonl") == max(lines, key=lambda line: line["psnr"])["step"]
    other = make(None, sources, targets, tmp_path, metrics=["psnr"], n=4, source_fingerprint="other")
    assert protocol_key(other.score(tiny(1, img_channels=1), step=1)) != protocol_key(lines[0])


def test_both_directions_stand_in_one_line(sources: Tensor, targets: ImageData, tmp_path: Path) -> None:
    there = make(None, sources, targets, tmp_path, metrics=["l1"], n=4).score(tiny(img_channels=1), step=2)
    back = make(None, sources, as_image_data(sources), tmp_path, metrics=["l1"], n=4)
    line = both_ways(there, back.score(tiny(img_channels=1), step=2))
    assert list(line) == ["step", "l1", "l1 BtoA", "protocol", "date"] and line["step"] == 2
    about = dict(line["protocol"])
    unlike = about.pop("BtoA")
    assert about == there["protocol"] and unlike["data_fingerprint"] == as_image_data(sources).fingerprint
    assert "n_fake" not in unlike
    json.dumps(line)


def test_floors_by_hand(sources: Tensor, targets: ImageData) -> None:
    reals = torch.from_numpy(np.array(targets.images)).permute(0, 3, 1, 2)
    mean = mean_picture(targets)
    assert torch.equal(mean, reals.double().mean(0).round().to(torch.uint8))
    found = floors(lambda a, b: sources[a:b] / 127.5 - 1, targets, mean)
    assert found["identity"]["psnr"] == pytest.approx(float(psnr(reals, sources).mean()), rel=1e-12)
    assert found["mean"]["l1"] == pytest.approx(float(l1(reals, mean.expand_as(reals)).mean()), rel=1e-12)
    assert found["mean"].keys() == found["identity"].keys() == {"l1", "psnr", "ssim"}
    small = sources[:, :, ::2, ::2]
    large = F.interpolate(small.double(), (12, 16), mode="bicubic").round().clamp(0, 255).to(torch.uint8)
    found = floors(lambda a, b: small[a:b], targets, mean, ["ssim"])
    assert found["identity"] == {"ssim": pytest.approx(float(ssim(reals, large).mean()), rel=1e-12)}
    colour = torch.zeros(2, 3, 12, 16, dtype=torch.uint8)
    assert unchanged(colour, 12, 16, 1) is None
    assert unchanged(sources[:2], 12, 16, 3).shape == (2, 3, 12, 16)
    assert "identity" not in floors(lambda a, b: colour[:1].expand(b - a, -1, -1, -1), targets, mean, ["l1"])
