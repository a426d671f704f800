"""Whole evaluations: equal to torch-fidelity's own, equal on any number of processes, and refusals in one line."""

import copy
import io
import json
import os
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from generation.evaluation import Evaluator
from generation.generator import batch_norm_of, export_generator, load_generator, sampling_copy
from generation.indexed import (
    IndexedImages,
    generated,
    labels_for,
    noise_images,
    opposite_index,
    real_images,
    reference_index,
)
from generation.pictures import GAP, LINE_HEIGHT, to_picture
from generation.protocol import append_score
from generation.reading import read_images
from generation.sampling import sample_chunks, undisturbed
from generation.version import code_version
from images.batches import ImageData, images_of
from images.own import as_image_data
from images.sources import load_dataset
from metrics import inception
from metrics.classifiers import DigitCNN
from metrics.features import READ_AT_ONCE, Extractor, extract, load_extractor
from metrics.fidelity import library
from metrics.lines import best_scores, best_step
from metrics.score import METRICS
from modelling import build_generator
from pretrained.weights import sha256_of
from tests.running import ROOT, cheap, small
from tests.running import run as train
from tests.test_tools import export, refused
from tests.test_training import different
from tests.test_translator import picture
from tests.test_validation import small_run, write_pictures
from tools import evaluate

N = 801  # four chunks, the last one short: two processes read two each, in turn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Room for a run, weights and caches."""
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run with ten classes."""
    return export(folder / "run", 10, tuple("0123456789"))


@pytest.fixture(scope="module")
def noisy(folder: Path) -> Path:
    """A run whose layers add noise, with strengths that are not 0."""
    return export(folder / "noisy", model="stylegan2")


@pytest.fixture(scope="module")
def extractor(weights: Path) -> Extractor:
    """digits-cnn as it is shipped."""
    return load_extractor("digits-cnn", weights)


@pytest.fixture(scope="module")
def data() -> ImageData:
    """What the run was trained on."""
    return load_dataset("digits", img_size=16, img_channels=1)


def flags(weights: Path, *more: object) -> list[str]:
    """Of an evaluation with the local network."""
    given = ("--extractor", "digits-cnn", "--metric_weights", weights, "--device", "cpu", *more)
    return [str(word) for word in given]


def every_metric(cache: Path) -> list[object]:
    """Flags of four chunks and all metrics."""
    return ["--n_fake", N, "--cache_dir", cache, "--metrics", *METRICS]


def lines_of(run: Path) -> list[dict]:
    """All scores, but for their dates."""
    texts = (run / "scores.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(text).items() if k != "date"} for text in texts]


def last_line(run: Path) -> dict:
    """The newest score, but for its date."""
    return lines_of(run)[-1]


def break_generator(run: Path) -> Path:
    """The run with weights, finite ones, whose images are not: what is not finite would not be loaded."""
    state = load_file(run / "generator" / "ema.safetensors")
    for name in (k for k in state if k.endswith("weight")):
        state[name].fill_(torch.finfo(torch.float32).max)
    config = json.loads((run / "generator" / "config.json").read_text())
    G = build_generator(config["model"], **config["build"])
    G.load_state_dict(state)
    export_generator(run / "generator", config, {"ema": G.eval()}, step=7)
    return run


FEW_NOISY = ["--n_fake", 300, "--n_real", 200, "--metrics", "fid"]

IN_ONE_GROUP = """
import json, sys
from unittest.mock import patch
from accelerate import PartialState
from tools import evaluate
with patch.object(PartialState, "destroy_process_group"):
    codes = [evaluate.main(argv) for argv in json.loads(sys.argv[1])]
PartialState().destroy_process_group()
sys.stdout.write(f"exit codes {codes}\\n")
sys.exit(max(codes))
"""


@dataclass
class Pair:
    """What two processes made of six evaluations: all metrics with the strip of neighbours, less than a chunk for
    each, a generator with layer noise, a broken one, two folders, a run that translates pictures."""

    done: subprocess.CompletedProcess
    lines: list[dict]
    noisy: dict
    translations: dict
    strip: bytes
    n_statistics: int  # files that the first one left


def two_folders(folder: Path, weights: Path, cache: Path) -> list[str]:
    """Flags that hold 40 digits against 270 others, in files."""
    data = load_dataset("digits", img_size=16, img_channels=1)
    parts = {"reals": torch.arange(270), "fakes": torch.arange(270, 310)}
    for name in [name for name in parts if not (folder / name).exists()]:
        (folder / name).mkdir()
        for i, image in enumerate(images_of(data, parts[name])):
            to_picture(image).save(folder / name / f"{i:03d}.png")
    names = ["--reals", folder / "reals", "--fakes", folder / "fakes"]
    return flags(weights, *names, "--n_real", 270, "--cache_dir", cache)


OF_PAIRS = ["--metrics", "ssim", "fid", "l1"]


@pytest.fixture(scope="module")
def translating(folder: Path) -> Path:
    """A run that makes small pictures larger, with more of them to validate than are read at once."""
    images = torch.stack([picture(32, 32, 1, seed=i) for i in range(READ_AT_ONCE + 4)])
    for split, part in (("train", images[:4]), ("val", images)):
        write_pictures(folder / "pictures" / split, part)
    return small_run("srgan", folder / "pictures", folder).folder


@pytest.fixture(scope="module")
def pair(run: Path, noisy: Path, translating: Path, weights: Path, folder: Path) -> Pair:
    """All under one launch: each start costs seconds."""
    (script := folder / "in_one_group.py").write_text(IN_ONE_GROUP)
    caches = [folder / "cache-2", folder / "cache-few"]
    broken = break_generator(export(folder / "broken"))
    few = ["--n_fake", 40, "--n_real", 200, "--metrics", "fid", "intra_fid", "--balanced"]
    commands = [
        [str(run), *flags(weights, *every_metric(caches[0]), "--neighbours", folder / "two.png")],
        [str(run), *flags(weights, *few, "--cache_dir", caches[1])],
        [str(noisy), *flags(weights, *FEW_NOISY, "--cache_dir", caches[1])],
        [str(broken), *flags(weights, "--n_fake", 200, "--cache_dir", caches[1])],
        two_folders(folder, weights, folder / "cache-two"),
        [str(translating), *flags(weights, *OF_PAIRS, "--cache_dir", caches[1])],
    ]
    before = len(lines_of(run)) if (run / "scores.jsonl").exists() else 0
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(script), json.dumps(commands)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.count("exit codes [0, 0, 0, 2, 0, 0]") == 2, done.stdout[-3000:] + done.stderr[-3000:]
    n_statistics = len(list((caches[0] / "statistics").iterdir()))
    return Pair(
        done,
        lines_of(run)[before:],
        last_line(noisy),
        last_line(translating),
        (folder / "two.png").read_bytes(),
        n_statistics,
    )


class Pixels(torch.utils.data.Dataset):
    """Images (N, C, H, W) one by one, as calculate_metrics takes them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def of_the_library(real: Tensor, fake: Tensor, weights: Path) -> dict[str, float]:
    """What torch-fidelity's own loop makes of the images with the same network."""
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Tiny(FeatureExtractorBase):
        def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str, **_: object):
            super().__init__(name, features)
            self.network = DigitCNN().eval()
            self.network.load_state_dict(load_file(feature_extractor_weights_path))

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "128", "logits_unbiased"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits_unbiased" if metric == "isc" else "128"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            both = dict(zip(("128", "logits_unbiased"), self.network(images), strict=True))
            return tuple(both[name] for name in self.features_list)

    torch_fidelity.register_feature_extractor("tiny", Tiny)
    return torch_fidelity.calculate_metrics(
        input1=Pixels(fake), input2=Pixels(real), fid=True, kid=True, isc=True, prc=True,
        feature_extractor="tiny", feature_extractor_weights_path=str(weights), kid_subset_size=len(real) // 2,
        batch_size=READ_AT_ONCE, cuda=False, save_cpu_ram=True, cache=False, verbose=False,
    )  # fmt: skip


def test_two_processes_equal_one_to_the_last_digit_and_the_library(
    run: Path, weights: Path, data: ImageData, folder: Path, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    """All metrics, the reals read anew by both."""
    cache = folder / "cache-1"
    code_version.cache_clear()  # this process may be older than the last change of the code
    strip = folder / "one.png"
    assert evaluate.main([str(run), *flags(weights, *every_metric(cache), "--neighbours", strip)]) == 0
    one, two = last_line(run), pair.lines[0]
    assert capsys.readouterr().out.count("fid[digits-cnn]") == 2  # and intra_fid
    # of as many reals as fakes, and of all, whose copies the fakes may be
    assert len(list((cache / "statistics").iterdir())) == pair.n_statistics == 4
    assert one == two and strip.read_bytes() == pair.strip
    G, config = load_generator(run)
    y = labels_for(data, N, config, balanced=False)
    fakes = generated(G, N, 0, y)
    fake = torch.cat([fakes.chunk(i, min(i + READ_AT_ONCE, N)) for i in range(0, N, READ_AT_ONCE)])
    reals = images_of(data, reference_index(data, N))
    expected = of_the_library(reals, fake, weights)
    # its kernel distance is of the features' precision: of single ones it is 1e-5 off its own value in double
    network = load_extractor("digits-cnn", weights)
    features = [extract(network, [images])[0].double() for images in (fake, reals)]
    expected |= library("metric_kid").kid_features_to_metric(*features, kid_subset_size=N // 2, verbose=False)
    for ours, theirs in {
        "fid": "frechet_inception_distance",
        "kid": "kernel_inception_distance_mean",
        "kid_std": "kernel_inception_distance_std",
        "is": "inception_score_mean",
        "is_std": "inception_score_std",
        "precision": "precision",
        "recall": "recall",
    }.items():
        assert two[f"{ours}[digits-cnn]"] == pytest.approx(expected[theirs], rel=1e-6), ours
    assert two["fid[digits-cnn]"] > 0 and two["protocol"]["n_fake"] == N


def test_two_processes_share_less_than_a_chunk(pair: Pair) -> None:
    assert len(pair.lines) == 2 and pair.lines[1]["protocol"]["n_real"] == 200
    # and intra_fid, the two folders and the translations: the main process alone prints
    assert pair.done.stdout.count("fid[digits-cnn]") == 2 * 2 + 3


def test_two_processes_draw_the_layer_noise_of_one(
    noisy: Path, weights: Path, folder: Path, pair: Pair
) -> None:
    argv = [str(noisy), *flags(weights, *FEW_NOISY, "--cache_dir", folder / "cache-1")]
    assert evaluate.main(argv) == 0
    assert last_line(noisy) == pair.noisy and pair.noisy["protocol"]["layer_noise"] == "random"


def test_two_processes_score_translations_as_one(
    translating: Path, weights: Path, folder: Path, pair: Pair
) -> None:
    argv = [str(translating), *flags(weights, *OF_PAIRS, "--cache_dir", folder / "cache-1")]
    assert evaluate.main(argv) == 0
    one = last_line(translating)
    assert one["protocol"]["n_fake"] > READ_AT_ONCE and one == pair.translations


def test_two_processes_compare_folders_as_one_does(
    folder: Path, weights: Path, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(two_folders(folder, weights, folder / "cache-alone")) == 0
    table = capsys.readouterr().out.strip()
    assert "40 fakes, 270 reals of reals" in table and table in pair.done.stdout


def test_two_processes_fail_together_where_one_does(pair: Pair) -> None:
    ours = [line for line in pair.done.stderr.splitlines() if line.startswith("error: ")]
    assert pair.done.returncode != 0 and ours == ["error: the generator's images are not finite"]


@pytest.mark.parametrize("n", [3, READ_AT_ONCE, READ_AT_ONCE + 1])
def test_a_process_may_have_nothing_to_read(extractor: Extractor, data: ImageData, n: int) -> None:
    index = reference_index(data, n)
    features, logits = read_images(extractor, real_images(data, index, ""), "", lambda: False)
    expected = extractor.module(images_of(data, index))
    assert features.shape == (n, 128) and logits.shape == (n, 10)
    assert_close(features, expected[0], rtol=1e-5, atol=1e-5)


# -- what an evaluation leaves alone ----------------------------------------------------------------


class Restless(nn.Module):
    """A generator with layers of both modes, which draws from torch's global generator and says how it was called."""

    z_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.frozen = nn.Linear(3, 256), nn.Dropout(0.5)
        self.seen: list[tuple[bool, bool, torch.dtype]] = []

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Images of noise and latents."""
        x = self.layer(z)
        self.seen.append((self.training or self.frozen.training, torch.is_grad_enabled(), x.dtype))
        return (x + torch.randn_like(x)).tanh().view(-1, 1, 16, 16)


PLAIN = {"n_labels": 0, "multi_hot": False, "label_names": []}


@pytest.mark.parametrize("kind", ["noise", "layers"])
def test_what_is_scored_follows_the_seed_and_the_chunk(data: ImageData, kind: str) -> None:
    """Uniform noise, and the noise that a generator draws by itself whatever its latents."""
    G = Restless().eval()
    nn.init.zeros_(G.layer.weight)
    n = 2 * READ_AT_ONCE
    seen = []
    for seed in (0, 1, 0):
        images = noise_images(data, n, seed) if kind == "noise" else generated(G, n, seed, None)
        seen += [images.chunk(start, start + 2) for start in (0, READ_AT_ONCE)]
    assert different(seen[:4]) and all(torch.equal(a, b) for a, b in zip(seen[:2], seen[4:], strict=True))


@pytest.mark.parametrize("model", ["stylegan", "stylegan2"])
def test_layer_noise_is_random_in_scores_and_constant_in_pictures(
    model: str, extractor: Extractor, data: ImageData, tmp_path: Path
) -> None:
    """A function of seed and chunk: the same again, another for equal latents elsewhere; grids know none of it."""
    G, _ = load_generator(export(tmp_path / "run", model=model))
    scored = [generated(G, 600, seed, None).chunk(0, READ_AT_ONCE) for seed in (0, 0)]
    constant = torch.cat(list(sample_chunks(G, READ_AT_ONCE, 0)))
    assert torch.equal(*scored) and different([scored[0], constant])
    assert torch.equal(generated(G, 600, 0, None, noise="constant").chunk(0, READ_AT_ONCE), constant)
    same = torch.ones(1, G.z_dim).expand(READ_AT_ONCE, -1)
    with pytest.MonkeyPatch.context() as patch:  # latents that tell images apart no more
        patch.setattr("generation.indexed.latents", lambda *_: same)
        images = [generated(G, 600, 0, None).chunk(start, start + 2) for start in (0, READ_AT_ONCE)]
    assert different([*images[0], *images[1]])
    line = Evaluator(extractor, data, PLAIN, n_fake=9, metrics=["fid"], cache_dir=tmp_path).score(G, step=0)
    assert line["protocol"]["layer_noise"] == "random"


def test_without_layer_noise_none_is_named(extractor: Extractor, data: ImageData, tmp_path: Path) -> None:
    silent = build_generator(
        "stylegan2", img_size=16, img_channels=1, z_dim=4, noise=False, channel_base=64
    ).eval()
    for G in (silent, Restless()):
        line = Evaluator(extractor, data, PLAIN, n_fake=9, metrics=["fid"], cache_dir=tmp_path).score(
            G, step=0
        )
        assert line["protocol"]["layer_noise"] is None


def test_modes_and_global_randomness_are_as_before(
    extractor: Extractor, data: ImageData, tmp_path: Path
) -> None:
    G = Restless()
    G.train()
    G.frozen.eval()
    evaluator = Evaluator(extractor, data, PLAIN, n_fake=300, metrics=["fid"], cache_dir=tmp_path)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        first = evaluator.score(G, step=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert G.training and G.layer.training and not G.frozen.training and torch.is_grad_enabled()
    assert set(G.seen) == {(False, False, torch.float32)}
    torch.manual_seed(6)  # what stands there must not matter
    again = evaluator.score(G, step=1)
    assert first["fid[digits-cnn]"] == again["fid[digits-cnn]"]


def test_modes_are_as_before_after_a_failure(extractor: Extractor, data: ImageData, tmp_path: Path) -> None:
    G = Restless().train()
    with torch.no_grad():
        G.layer.bias.fill_(float("nan"))
    evaluator = Evaluator(extractor, data, PLAIN, n_fake=300, metrics=["fid"], cache_dir=tmp_path)
    before = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="not finite"):
        evaluator.score(G, step=1)
    assert G.training and torch.equal(before, torch.random.get_rng_state())


def test_reals_are_read_once(extractor: Extractor, data: ImageData, tmp_path: Path) -> None:
    read = []
    handle = extractor.module.register_forward_pre_hook(lambda _module, args: read.append(len(args[0])))
    try:
        evaluator = Evaluator(
            extractor, data, PLAIN, n_fake=40, n_real=60, metrics=["fid"], cache_dir=tmp_path
        )
        for _ in range(2):
            evaluator.score(Restless(), step=0)
        assert read == [60, 40, 40]
        another = Evaluator(extractor, data, PLAIN, n_fake=40, n_real=60, metrics=["fid"], cache_dir=tmp_path)
        another.score(Restless(), step=0)
        assert read == [60, 40, 40, 40]
        features = Evaluator(
            extractor, data, PLAIN, n_fake=40, n_real=60, metrics=["kid"], cache_dir=tmp_path
        )
        features.score(Restless(), step=0)
        features.score(Restless(), step=0)
        assert read == [60, 40, 40, 40, 60, 40, 40]
    finally:
        handle.remove()


def test_training_images_that_could_not_be_read_are_read_the_next_time(
    extractor: Extractor, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reals, which were read before them, do not stand for them."""
    how = {"n_fake": 40, "metrics": ["memorisation"], "cache_dir": tmp_path}
    evaluator = Evaluator(extractor, data, PLAIN, **how)

    def failing(extractor: Extractor, images: IndexedImages, *more: object) -> object:
        if images.n == len(data):
            raise ValueError("out of memory")
        return read_images(extractor, images, *more)

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="out of memory"):
        patch.setattr("generation.evaluation.read_images", failing)
        evaluator.score(Restless(), step=0)
    line = evaluator.score(Restless(), step=1)
    assert evaluator.known.statistics.n == len(data) and evaluator.real.statistics.n == 40
    fresh = Evaluator(extractor, data, PLAIN, **how).score(Restless(), step=1)
    assert {k: v for k, v in line.items() if k != "date"} == {k: v for k, v in fresh.items() if k != "date"}


def test_what_was_not_asked_for_is_left_out_of_few_images(
    extractor: Extractor, data: ImageData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = Evaluator(extractor, data, PLAIN, n_fake=3, cache_dir=tmp_path).score(Restless(), step=0)
    assert "note: 3 images are too few for kid, pr, dc: left out\n" in capsys.readouterr().err
    assert "fid[digits-cnn]" in line and not {"kid[digits-cnn]", "density[digits-cnn]"} & line.keys()
    assert line["protocol"]["best_by_settings"] is None


@pytest.mark.parametrize(
    ("metric", "words"),
    [("kid", "100 subsets of 20;"), ("memorisation", "against 1497 training images"), ("fid", None)],
)
def test_the_settings_of_the_score_that_decides_are_said(
    extractor: Extractor, data: ImageData, tmp_path: Path, metric: str, words: str | None
) -> None:
    how = {"n_fake": 40, "metrics": [metric, "pr"], "cache_dir": tmp_path}
    said = Evaluator(extractor, data, PLAIN, **how).score(Restless(), step=0)["protocol"]["best_by_settings"]
    assert said is None if words is None else said.startswith(words)


@pytest.mark.parametrize("metric", ["fid", "kid"])
def test_other_reals_or_another_extractor_are_read_anew(
    extractor: Extractor, data: ImageData, tmp_path: Path, metric: str
) -> None:
    """Whatever decides what is read is part of the cache's key: else a score is wrong and nobody sees it."""
    test = load_dataset("digits", img_size=16, img_channels=1, split="test")
    settings = {"data": data, "extractor": extractor, "n_real": 60}
    changes = [
        {},
        {"n_real": 61},
        {"data": test},
        {"extractor": replace(extractor, checksum="0" * 64)},
        {"extractor": replace(extractor, name="mnist-cnn")},
    ]
    read: list[int] = []
    handle = extractor.module.register_forward_pre_hook(lambda _module, args: read.append(len(args[0])))
    try:
        for change in changes + changes:
            how = settings | change
            evaluator = Evaluator(
                how["extractor"], how["data"], PLAIN,
                n_fake=40, n_real=how["n_real"], metrics=[metric], cache_dir=tmp_path,
            )  # fmt: skip
            evaluator.score(Restless(), step=0)
    finally:
        handle.remove()
    anew = [size for n in (60, 61, 60, 60, 60) for size in (n, 40)]
    assert read == anew + [40] * len(changes)


def test_a_copy_from_training_and_one_from_disk_draw_the_same(tmp_path: Path) -> None:
    """Training holds weights in channels_last, by which convolutions round; bytes must not depend on that."""
    torch.manual_seed(0)
    labels = {"n_labels": 0, "multi_hot": False, "label_names": [], "model": "dcgan"}
    build = {"img_size": 32, "img_channels": 3, "z_dim": 16, "width": 16}
    G = build_generator("dcgan", **build).to(memory_format=torch.channels_last)
    copy = sampling_copy(G, labels)
    export_generator(tmp_path, labels | {"build": build}, {"raw": copy}, step=1)
    loaded, _ = load_generator(tmp_path)
    z = torch.randn(64, 16)
    assert all(p.is_contiguous() for p in copy.parameters())
    assert any(not p.is_contiguous() for p in G.parameters())
    with torch.inference_mode():
        assert torch.equal(copy(z), loaded(z))


@pytest.mark.parametrize("flags_of_run", ["--conditional", small("stylegan2")], ids=["dcgan", "stylegan2"])
def test_a_score_in_training_is_that_from_disk(
    weights: Path, extractor: Extractor, data: ImageData, tmp_path: Path, flags_of_run: str
) -> None:
    """To the last digit, protocol included: the network of the loop, in its layout, against generator/."""
    loop = train(f"--log_name a {flags_of_run} --ema --n_steps 3", tmp_path)
    if "stylegan2" in flags_of_run:  # three steps leave the strengths about where they began, at 0
        for network in (loop.emas["ema"][0].module, loop.task.networks["G"]):
            for name, weight in network.named_parameters():
                nn.init.constant_(weight, 0.5) if name.endswith("strength") else None
        export = {"ema": loop.emas["ema"][0].module, "raw": loop.task.networks["G"]}
        loop.task.export(
            tmp_path / "a" / "generator", {k: loop.task.for_sampling(v) for k, v in export.items()}, 3
        )
    _, config = load_generator(tmp_path / "a")
    evaluator = Evaluator(extractor, data, config, n_fake=300, cache_dir=tmp_path)
    with cheap():  # as the run measured its batch norm
        for name, network in (("ema", loop.emas["ema"][0].module), ("raw", loop.task.networks["G"])):
            G = sampling_copy(network, config, config["seed"])
            line = evaluator.score(G, step=3, weights=name, batch_norm=batch_norm_of(G))
            append_score(loop.log.folder / "scores.jsonl", line)
            in_training = last_line(loop.log.folder)
            assert in_training["protocol"]["layer_noise"] == (
                "random" if "stylegan2" in flags_of_run else None
            )
            assert evaluate.main([str(tmp_path / "a"), *flags(weights, "--n", 300, "--weights", name)]) == 0
            assert line["fid[digits-cnn]"] > 0 and in_training == last_line(loop.log.folder)


# -- what is scored ---------------------------------------------------------------------------------


def test_floor_and_ceiling(
    run: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Test against train lies near 0, noise far away; the protocol says which is which, and neither is a best step."""
    for kind in ("test", "noise"):
        assert (
            evaluate.main([str(run), *flags(weights, "--n", 300, "--fakes", kind, "--cache_dir", tmp_path)])
            == 0
        )
    floor, ceiling = (json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()[-2:])
    assert floor["fid[digits-cnn]"] < 0.2 * ceiling["fid[digits-cnn]"]
    assert floor["protocol"]["fakes"].startswith("reals: digits test")
    assert ceiling["protocol"]["fakes"] == "uniform noise" and ceiling["protocol"]["weights"] is None
    assert "class_accuracy" in floor and "class_accuracy" not in ceiling
    assert "uniform noise" in capsys.readouterr().out


def test_real_fakes_are_not_the_reference(
    run: Path, weights: Path, data: ImageData, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not set(reference_index(data, 700).tolist()) & set(opposite_index(data, 700).tolist())
    evaluate.main([str(run), *flags(weights, "--n", 900, "--fakes", "train", "--metrics", "fid")])
    assert "warning: 303 fakes are among the reference" in capsys.readouterr().err


def test_a_folder_is_scored(run: Path, weights: Path, data: ImageData, tmp_path: Path) -> None:
    from generation.pictures import to_picture

    (tmp_path / "images").mkdir()
    for i, image in enumerate(images_of(data, opposite_index(data, 30))):
        to_picture(image).save(tmp_path / "images" / f"{i}.png")
    words = ["--n", 30, "--n_real", 60, "--cache_dir", tmp_path, "--metrics", "fid", "--fakes"]
    fids = []
    for kind in (tmp_path / "images", "train"):
        assert evaluate.main([str(run), *flags(weights, *words, kind)]) == 0
        fids.append(last_line(run)["fid[digits-cnn]"])
    assert fids[0] == pytest.approx(fids[1], rel=1e-9)
    assert last_line(run)["protocol"]["n_real"] == 60


def test_a_floor_of_what_was_trained_on_is_said(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run on all splits has seen the test images, whether or not --split is typed."""
    trained = export(tmp_path / "run")
    about = json.loads((trained / "generator" / "config.json").read_text())
    about["data"]["split"] = "all"
    (trained / "generator" / "config.json").write_text(json.dumps(about))
    words = ["--n", 20, "--metrics", "fid", "--cache_dir", tmp_path, "--fakes", "test"]
    for more, said in (([], 1), (["--split", "all"], 1), (["--split", "train"], 0)):
        capsys.readouterr()
        assert evaluate.main([str(trained), *flags(weights, *words, *more)]) == 0
        assert capsys.readouterr().err.count("--split all, holds test too: some fakes are among it") == said


def test_given_fakes_are_all_unless_a_number_is_typed(run: Path, weights: Path, tmp_path: Path) -> None:
    words = ["--metrics", "fid", "--cache_dir", tmp_path, "--fakes"]
    for more, n in (([], 300), (["--n", 40], 40)):
        assert evaluate.main([str(run), *flags(weights, *words, "test", *more)]) == 0
        assert last_line(run)["protocol"]["n_fake"] == n


def test_colour_read_in_grey_is_said(
    run: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And grey held against colour; not grey stored in colour."""
    draws = np.random.default_rng(0)
    for name in ("colour", "grey", "stored"):
        (tmp_path / name).mkdir()
        for i in range(6):
            pixels = draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels if name == "colour" else pixels[..., 0])
            picture = picture.convert("RGB") if name == "stored" else picture
            picture.save(tmp_path / name / f"{i}.png")
    np.save(tmp_path / "colour.npy", draws.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8))
    np.save(tmp_path / "grey.npy", draws.integers(0, 256, (6, 16, 16), dtype=np.uint8))
    for name in ("colour", "grey", "stored", "colour.npy", "grey.npy"):
        words = ["--n", 6, "--metrics", "fid", "--cache_dir", tmp_path / "c", "--fakes", tmp_path / name]
        capsys.readouterr()
        assert evaluate.main([str(run), *flags(weights, *words)]) == 0
        told = f"warning: {tmp_path / name} is in colour and read in grey, as the reference is"
        assert (told in capsys.readouterr().err) == name.startswith("colour")
    coloured = as_image_data(torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8), name="a")
    for name in ("colour", "grey", "stored"):
        evaluate.warn_of_colour(tmp_path / name, coloured)
        assert ("is grey, the reference is in colour" in capsys.readouterr().err) == (name != "colour")


def test_noise_does_not_depend_on_chunks(data: ImageData) -> None:
    noise = noise_images(data, 600, seed=3)
    assert torch.equal(noise.chunk(256, 512), noise_images(data, 512, seed=3).chunk(256, 512))
    assert not torch.equal(noise.chunk(0, 256), noise.chunk(256, 512))
    assert noise.chunk(512, 600).shape == (88, 1, 16, 16)


def test_truncation_is_scored_and_said(run: Path, weights: Path) -> None:
    plain = ["--n", 60, "--metrics", "fid"]
    fids = []
    for more in ([], ["--truncation", 0.5]):
        assert evaluate.main([str(run), *flags(weights, *plain, *more)]) == 0
        line = last_line(run)
        assert line["protocol"]["truncation"] == (more[1] if more else None)
        fids.append(line["fid[digits-cnn]"])
    assert fids[0] != fids[1]


def test_labels_of_more_fakes_than_reals_go_round(data: ImageData) -> None:
    config = {"n_labels": 10, "multi_hot": False, "label_names": list("0123456789")}
    y = labels_for(data, len(data) + 5, config, balanced=False)
    assert torch.equal(y[: len(data)], torch.from_numpy(data.labels)) and torch.equal(y[len(data) :], y[:5])


def test_all_reals_up_to_the_number_of_fakes(run: Path, weights: Path, tmp_path: Path) -> None:
    words = ["--metrics", "fid", "--cache_dir", tmp_path, "--split", "test"]
    for n, n_real in ((310, 300), (290, 290)):
        assert evaluate.main([str(run), *flags(weights, *words, "--n", n)]) == 0
        about = last_line(run)["protocol"]
        assert (about["n_fake"], about["n_real"]) == (n, n_real)


def test_copies_are_looked_for_among_all_images(
    run: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training images themselves are all copies, which is said; other scores keep their number of reals."""
    words = ["--n", 200, "--metrics", "fid", "memorisation", "--cache_dir", tmp_path, "--fakes"]
    assert evaluate.main([str(run), *flags(weights, *words, "train")]) == 0
    line, said = last_line(run), capsys.readouterr()
    assert line["duplicates[digits-cnn]"] == 1 and line["authpct[digits-cnn]"] == 0
    assert (
        line["protocol"]["n_real"] == 200
        and "against 1497 training" in line["protocol"]["settings"]["memorisation"]
    )
    assert said.err.count("100% of the fakes are as near to one training image as copies are") == 1
    assert "--neighbours FILE.png shows them" in said.err
    assert evaluate.main([str(run), *flags(weights, *words, "noise", "--n_real", 300)]) == 0
    line, said = last_line(run), capsys.readouterr()
    assert line["duplicates[digits-cnn]"] == 0 and "as copies are" not in said.err
    assert "against 300 training" in line["protocol"]["settings"]["memorisation"]


def test_few_fakes_are_looked_up_among_all_training_images(
    run: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its least number is of the training images; the second time the reals are in the cache."""
    file, words = tmp_path / "near.png", ["--cache_dir", tmp_path / "cache"]
    for _ in range(2):
        assert evaluate.main([str(run), *flags(weights, *words, "--n", 3, "--neighbours", file)]) == 0
        assert "3 images are too few for kid, pr, dc: left out" in capsys.readouterr().err
        line = last_line(run)
        assert line["authpct[digits-cnn]"] >= 0 and line["fid[digits-cnn]"] > 0 and file.is_file()
        assert "against 1497 training" in line["protocol"]["settings"]["memorisation"]
        file.unlink()
    assert evaluate.main([str(run), *flags(weights, *words, "--n", 5, "--metrics", "memorisation")]) == 0
    for more in (["--neighbours", file], ["--metrics", "memorisation"]):
        few = flags(weights, "--cache_dir", tmp_path / "none", "--n", 9, "--n_real", 5, *more)
        line = refused(capsys, evaluate.main, run, *few)
        assert "memorisation needs at least 6 training images, there are 5: raise --n_real" in line
    assert not (tmp_path / "none" / "statistics").exists()


def test_the_strip_shows_copies_above_their_originals(
    run: Path, weights: Path, data: ImageData, tmp_path: Path
) -> None:
    """Fakes that are training images: both rows are equal, no training image comes twice."""
    file = tmp_path / "new" / "strip.png"
    words = [
        "--n",
        300,
        "--metrics",
        "fid",
        "--cache_dir",
        tmp_path,
        "--fakes",
        "train",
        "--neighbours",
        file,
    ]
    assert evaluate.main([str(run), *flags(weights, *words)]) == 0
    strip = torch.from_numpy(np.array(Image.open(file)))  # (H, W, 3)
    side, top, gap = 64, LINE_HEIGHT, GAP
    left = strip.shape[1] - 16 * (side + gap)
    columns = [strip[:, left + i * (side + gap) :][:, :side] for i in range(16)]
    upper, lower = ([column[start : start + side] for column in columns] for start in (top, top + side + gap))
    assert all(torch.equal(a, b) for a, b in zip(upper, lower, strict=True)) and different(upper)
    known = images_of(data)[:, 0]
    for fake in upper:  # each pixel as a square of 4
        assert (fake[::4, ::4, 0] == known).flatten(1).all(1).any()


# -- the best step ----------------------------------------------------------------------------------


def test_best_step_compares_like_with_like(tmp_path: Path) -> None:
    def line(step: int, fid: float, **about: object) -> str:
        return json.dumps({"step": step, "fid[a]": fid, "intra_fid[a]": 0.0, "protocol": about}) + "\n"

    file = tmp_path / "scores.jsonl"
    file.write_text(
        line(1, 9.0, n_fake=100) + line(2, 1.0, n_fake=10_000) + line(3, 8.0, n_fake=100)
        + line(4, 0.1, n_fake=100, fakes="uniform noise") + line(5, 10.0, n_fake=100, fakes="generator")
        + '[1]\n{"step": 6, "protocol": 3}\n{"half'
    )  # fmt: skip
    assert best_scores(file) == [(1, 2), (3, 3)] and best_step(file) == 3
    file.write_text(file.read_text() + "\n" + line(7, 2.0, n_fake=10_000))
    assert best_scores(file) == [(3, 3), (2, 2)] and best_step(file) == 3  # a score by hand moves nothing
    file.write_text(file.read_text() + line(8, 3.0, n_fake=10_000))
    assert best_step(file) == 2  # as often, and later
    accurate = {"step": 8, "is[a]": 3.0, "fid[a]": 0.0, "protocol": {"best_by": ["is[a]", "high"]}}
    worse = accurate | {"step": 9, "is[a]": 2.0}
    file.write_text(file.read_text() + json.dumps(accurate) + "\n" + json.dumps(worse) + "\n")
    assert best_scores(file)[-1] == (2, 8)
    assert best_scores(tmp_path / "none") == [] and best_step(tmp_path / "none") is None


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["stylegan", "stylegan2"])
def test_on_cuda_the_layer_noise_of_scores_is_that_of_a_cpu(model: str, tmp_path: Path) -> None:
    G, _ = load_generator(export(tmp_path / "run", model=model))
    for name, weight in G.named_parameters():
        nn.init.constant_(weight, 0.5) if name.endswith("strength") else None
    images = []
    for device, seed in (("cpu", 0), ("cpu", 1), ("cuda", 0)):
        with undisturbed(G.to(device), torch.device(device)):
            images.append(generated(G, READ_AT_ONCE, seed, None).chunk(0, READ_AT_ONCE).int())
    here, other, there = images
    unlike, alike = ((x - here).abs().double().mean() for x in (other, there))
    assert alike < 0.1 and alike < 0.1 * unlike


@pytest.mark.gpu
def test_features_on_cuda_stay_there(extractor: Extractor, data: ImageData, tmp_path: Path) -> None:
    """Read anew and from the cache; about what the CPU reads and scores."""
    there = replace(extractor, module=copy.deepcopy(extractor.module).cuda())
    scores = []
    for reader in (extractor, there, there):
        evaluator = Evaluator(
            reader, data, PLAIN, n_fake=300, metrics=["fid", "kid", "pr", "dc", "mind", "memorisation"],
            fakes=noise_images(data, 300, 0), cache_dir=tmp_path,
        )  # fmt: skip
        scores.append(evaluator.score(step=0))
        held = (evaluator.real.features, evaluator.real.statistics.covariance, evaluator.known.features)
        assert {x.device.type for x in held} == {reader.device.type}
    names = [name for name in scores[0] if "[" in name]
    assert len(names) == 10 and all(scores[1][name] == scores[2][name] for name in names)
    assert [scores[1][name] for name in names] == pytest.approx(
        [scores[0][name] for name in names], rel=1e-3, abs=0.02
    )


# -- refusals ---------------------------------------------------------------------------------------


def test_refusals_before_anything_is_computed(
    run: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(*more: object, where: Path = run) -> str:
        return refused(capsys, evaluate.main, where, *flags(weights, "--cache_dir", tmp_path, *more))

    plain = export(tmp_path / "plain")
    assert "1498 reals are asked for" in line("--n", 60, "--n_real", 1498)
    for n in (10_000_001, 4 * 10**15):
        assert f"{n} fakes: at most 10000000 are scored; lower --n" in line("--n", n)
    assert "kid needs at least 4 reals and 4 fakes, there are 3 and 3" in line(
        "--n", 3, "--metrics", "fid", "kid"
    )
    assert "dc needs at least 6 reals" in line("--n", 60, "--n_real", 5, "--metrics", "dc")
    assert "fid needs at least 2 reals" in line("--n", 1)
    assert "give FILE.png" in line("--n", 60, "--neighbours", "strip.jpg")
    copies = line("--n", 60, "--split", "test", "--neighbours", "strip.png")
    assert (
        "memorisation: it looks for copies of the images of the training, train: leave --split out" in copies
    )
    assert "--metrics intra_fid: it needs one class" in line("--n", 60, "--metrics", "intra_fid", where=plain)
    few = ("--n", 18, "--n_real", 300, "--balanced", "--metrics", "intra_fid")
    assert "of the fakes there are: 8 1, 9 1;" in line(*few)
    assert "for a generator's" in line("--fakes", "noise", "--balanced", "--n", 60)
    assert "has 300 images" in line("--fakes", "test", "--n", 400)
    assert "no split 'val'" in line("--fakes", "val", "--n", 60)
    assert "invalid choice: 'vgg'" in line("--metrics", "vgg")
    assert f"no weights of digits-cnn at {tmp_path / 'x'}" in line("--metric_weights", tmp_path / "x")
    assert not (tmp_path / "statistics").exists()


def test_points_are_no_images(extractor: Extractor, tmp_path: Path) -> None:
    points = load_dataset("ring8", img_size=1, img_channels=2)
    with pytest.raises(ValueError, match="ring8: its samples are points"):
        Evaluator(extractor, points, PLAIN, n_fake=40, cache_dir=tmp_path)


def test_features_that_are_not_finite_are_counted(data: ImageData, tmp_path: Path) -> None:
    class Dim(nn.Module):
        resize = "none"

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            features = images.float().flatten(1)[:, :2].clone()
            features[:3] = float("inf")
            return features, features[:, :1] * 0

    dim = Extractor("dim", Dim(), "0" * 64, {})
    evaluator = Evaluator(dim, data, PLAIN, n_fake=40, metrics=["fid"], cache_dir=tmp_path)
    with pytest.raises(ValueError, match="3 of 40 images have features that are not finite"):
        evaluator.score(Restless(), step=0)


# -- Inception --------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and torch.hub's folder elsewhere."""
    monkeypatch.setattr(inception, "URL", "http://127.0.0.1:9/weights.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


def test_inception_weights_that_are_nowhere(
    run: Path, offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--extractor", "inception", "--n", 20, "--cache_dir", offline, "--device", "cpu")
    line = refused(capsys, evaluate.main, run, *given)
    for said in (
        "no Inception weights", "refused", inception.FILE, "95,628,359 bytes", inception.SHA256, inception.URL,
        str(offline / "classifiers"), "--metric_weights", "--extractor", "lite0", "mnist-cnn", "digits-cnn",
    ):  # fmt: skip
        assert said in line
    assert not list((offline / "classifiers").iterdir())


@pytest.mark.parametrize("place", ["classifiers", "hub/checkpoints"])
def test_found_weights_of_another_checksum_are_refused(
    run: Path, offline: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    file = offline / place / inception.FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half a download")
    line = refused(capsys, evaluate.main, run, "--n", 20, "--cache_dir", offline, "--device", "cpu")
    assert f"{file} is not the published file" in line and "15 bytes" in line and inception.SHA256 in line


def test_a_download_is_verified_before_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served = io.BytesIO(b"as published")
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: served)
    with pytest.raises(ValueError, match="gave other bytes: sha256"):
        inception.download(tmp_path, lambda n: None)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"as published"))
    other = tmp_path / "x"
    other.write_bytes(b"as published")
    monkeypatch.setattr(inception, "SHA256", sha256_of(other))
    ticks: list[int] = []
    assert inception.download(tmp_path, ticks.append).read_bytes() == b"as published" and sum(ticks) == 12
    assert inception.find_inception([tmp_path / "no", tmp_path]) == tmp_path / inception.FILE


def test_given_weights_must_be_tensors_of_the_network(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(file: Path) -> str:
        return refused(capsys, evaluate.main, run, "--n", 20, "--metric_weights", file, "--device", "cpu")

    file = tmp_path / "weights.pth"
    assert f"--metric_weights {file}: there is no such file" in line(file)
    file.write_bytes(b"<html>")
    assert "does not hold the weights of inception" in line(file)
    torch.save({"a": [1]}, file)
    assert "no dict of tensors" in line(file)
    torch.save({"a": torch.zeros(1)}, file)
    assert "does not hold the weights of inception" in line(file) and len(line(file)) < 600


def test_random_inception_weights_by_path_work_and_are_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network's own random weights: the way from file to scores, with the warning and the name."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    state = {}
    with pytest.MonkeyPatch.context() as patch:  # its constructor loads a file: take what it has drawn
        patch.setattr(
            FeatureExtractorInceptionV3, "load_state_dict", lambda self, _: state.update(self.state_dict())
        )
        patch.setattr(torch, "load", lambda *_, **__: {})
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], "x")
    for weight in network.parameters():
        if weight.dim() == 4:  # in place, so in `state`; torch's own would fade out before the last layer
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
    file = tmp_path / "random.pth"
    torch.save(state, file)
    short = sha256_of(file)[:8]
    argv = ["--n", "6", "--metric_weights", str(file), "--cache_dir", str(tmp_path), "--device", "cpu"]
    assert evaluate.main([str(run), *argv]) == 0
    said = capsys.readouterr().err
    assert f"{file} does not hold the published weights of inception" in said and sha256_of(file) in said
    line = last_line(run)
    assert f"fid[inception:{short}]" in line and "fid" not in line and "classes" not in line
    assert line["protocol"]["extractor_sha256"] == sha256_of(file)
    assert line[f"fid[inception:{short}]"] > 1e-3 and line[f"is[inception:{short}]"] >= 1
    assert line[f"precision[inception:{short}]"] >= 0 and line[f"kid[inception:{short}]"] is not None


def test_a_run_without_a_generator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "has no generator" in refused(capsys, evaluate.main, tmp_path, "--device", "cpu")


def test_other_deep_pictures_are_read_by_the_scale_of_the_run(tmp_path: Path) -> None:
    """Not by their own, which would make a darker set as bright."""
    for name, top in (("own", 60000), ("other", 4000)):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(np.full((8, 8), top - i, np.uint16)).save(tmp_path / name / f"{i}.png")
    held = {"data": str(tmp_path / "own"), "value_range": None, "scale": [0, 65535]}
    config = {"dataset": "folder", "data": held, "build": {"img_size": 8, "img_channels": 1}}
    generator_folder = tmp_path / "run" / "generator"
    generator_folder.mkdir(parents=True)
    (generator_folder / "config.json").write_text("{}")
    (generator_folder / "ema.safetensors").touch()
    args = ["--data_root", str(tmp_path), "--cache_dir", str(tmp_path / "cache")]
    other = ["--data", str(tmp_path / "other")]
    for more, value in (([], 233), (other, 16)):
        given = evaluate.parser().parse_args([str(tmp_path / "run"), *args, *more])
        assert evaluate.run_images(given, config, "all").images[0].max() == value
