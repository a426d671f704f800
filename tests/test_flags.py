"""Every flag changes a run: a value unlike its default, and a witness that differs from the run without it."""

import contextlib
import io
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from metrics.classifiers import DigitCNN
from metrics.features import save_extractor
from settings.section import of
from settings.sections import FIELDS
from settings.sections.loss import weight_name
from tests.running import ROOT, TINY, leaves, request, small, tiny, write_pairs
from tests.test_data import write_idx, write_mnist
from tests.test_labels import write_images
from tests.test_losses import CUSTOMARY
from training.folder import planned
from training.run import run_plan

STEPS = 3
BARE = "--norm_g none --norm_d none"  # which follow from some flags and would be a difference by themselves
CLASSES = "--conditional --condition_d ac"
ADA = "--augment ada --ada_p 0.5 --ada_kimg 0.2 --n_steps 8 --log_interval 1"
GROWING = f"{small('progressive_gan')} --stable_kimg 0.016 --fade_kimg 0.016 --n_steps 6 --log_interval 1"
HALFLIFE = "--ema --ema_halflife 100"
SCORES = (
    "--eval_interval 1 --eval_n 8 --extractor digits-cnn --metric_weights {files}/a.safetensors --n_steps 4"
)
FOUND = "--eval_interval 3 --eval_n 8 --extractor digits-cnn"
PAIRS = "--data {files}/pairs --batch_size 2"
MNIST = "--dataset mnist --data_root {files}/mnist --img_size 32 --batch_size 2"


# Witnesses: what of a run is looked at


def weights(run: SimpleNamespace) -> dict:
    return run.state["networks"]


def average(run: SimpleNamespace) -> dict:
    return run.state["ema"]


def reals(run: SimpleNamespace) -> bytes:
    return (run.folder / "samples" / "real.png").read_bytes()


def files(run: SimpleNamespace) -> list[str]:
    names = (str(file.relative_to(run.folder)) for file in run.folder.rglob("*") if file.is_file())
    return sorted(re.sub(r"events\.out.*", "events", name) for name in names)


def name(run: SimpleNamespace) -> str:
    return run.folder.name


def where(run: SimpleNamespace) -> str:
    return run.folder.parent.name.rstrip("0123456789")


def scores(run: SimpleNamespace) -> list[dict]:
    lines = run.folder / "scores.jsonl"
    found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    return [{k: v for k, v in line.items() if k != "date"} for line in found]


def decoded(run: SimpleNamespace) -> list[str]:
    return [name for name in run.cached if name.endswith(".npy")]


def layout(run: SimpleNamespace) -> list[bool]:
    held = [p for n in run.loop.task.networks.values() for p in n.parameters() if p.dim() == 4]
    return [p.is_contiguous(memory_format=torch.channels_last) for p in held]


def warned(run: SimpleNamespace) -> bool:
    return "--sync_bn works on CUDA only" in run.printed


def logged(*names: str) -> Callable[[SimpleNamespace], list]:
    """These values of every line of metrics.jsonl."""
    return lambda run: [[row.get(name) for name in ("step", *names)] for row in run.rows]


def of_layers(run: SimpleNamespace) -> list[int]:
    """The steps at which gradients of layers were logged."""
    return [row["step"] for row in run.rows if any(name.startswith("layer_grad") for name in row)]


def switch(name: str) -> Callable[[SimpleNamespace], bool]:
    """A switch of the process as the run left it."""
    return lambda run: run.switches[name]


class Case(NamedTuple):
    """The flag with its value, what both runs say beside it, and where the two differ."""

    given: str
    both: str = ""
    witness: Callable[[SimpleNamespace], object] = weights


CASES = {
    "log_name": Case("--log_name another", witness=name),
    "runs_dir": Case("--runs_dir {files}/elsewhere", witness=where),
    "seed": Case("--seed 1"),
    "deterministic": Case("--deterministic", witness=switch("deterministic")),
    "n_steps": Case("--n_steps 4", witness=logged()),
    "dataset": Case("--dataset mnist", MNIST.replace("mnist ", "digits ", 1), reals),
    "data": Case("--data {files}/images", witness=reals),
    "data_b": Case("--data_b {files}/pairs", f"{small('cyclegan')} {PAIRS}", reals),
    "pairing": Case("--pairing grey", f"{small('pix2pix')} {PAIRS}", reals),
    "direction": Case("--direction BtoA", f"{small('pix2pix')} {PAIRS}", reals),
    "load_size": Case("--load_size 20", f"{small('pix2pix')} {PAIRS}", reals),
    "source_channels": Case("--source_channels 1", f"{small('pix2pix')} {PAIRS}", reals),
    "factor": Case("--factor 2", f"{small('srgan')} {PAIRS} --img_size 32", reals),
    "term_weights": Case("--term_weights l1=10", f"{small('pix2pix')} {PAIRS}"),
    # full after a step, of two pictures
    "pool_size": Case("--pool_size 2", f"{small('cyclegan')} {PAIRS}"),
    "split": Case("--split test", witness=reals),
    "data_root": Case("--data_root {files}/other", MNIST, reals),
    "cache_dir": Case("--cache_dir {files}/decoded", "--data {files}/images", decoded),
    "img_size": Case("--img_size 32"),
    "img_channels": Case("--img_channels 3"),
    "crop": Case("--crop stretch", "--data {files}/wide", reals),
    "value_range": Case("--value_range 0 9000", "--data {files}/deep", reals),
    "flip": Case("--flip"),
    "augment": Case("--augment color"),
    "ada_pipe": Case("--ada_pipe bgcfnc", f"--flip {ADA}"),
    "ada_p": Case("--ada_p 0.3", ADA, logged("augment/p")),
    "ada_target": Case("--ada_target 0", ADA, logged("augment/p")),
    "ada_interval": Case("--ada_interval 2", ADA, logged("augment/p")),
    "ada_kimg": Case("--ada_kimg 0.4", ADA, logged("augment/p")),
    "model": Case("--model mlp", BARE),
    "z_dim": Case("--z_dim 9"),
    "conditional": Case("--conditional"),
    "condition_g": Case("--condition_g cbn", CLASSES),
    "condition_d": Case("--condition_d projection", "--conditional"),
    "norm_g": Case("--norm_g layer"),
    "norm_d": Case("--norm_d layer"),
    "spectral_norm_g": Case("--spectral_norm_g"),
    "spectral_norm_d": Case("--spectral_norm_d", BARE),
    "instance_noise_steps": Case("--instance_noise_steps 2", "--d_kwargs width=4 noise_std=0.5"),
    "g_kwargs": Case("--g_kwargs width=8"),
    "d_kwargs": Case("--d_kwargs width=4 dropout=0.3"),
    "init_from": Case("--init_from {files}/start"),
    "freeze_d": Case("--freeze_d 1", "--init_from {files}/start"),
    "no_grow": Case("--no_grow", f"{small('progressive_gan')}", logged("growing/size")),
    "stable_kimg": Case("--stable_kimg 0.032", GROWING, logged("growing/size", "growing/alpha")),
    "fade_kimg": Case("--fade_kimg 0.032", GROWING, logged("growing/size", "growing/alpha")),
    "method": Case("--method hinge", witness=logged("loss/d", "loss/g")),
    "penalty": Case("--penalty r1", BARE),
    "gp_weight": Case("--gp_weight 1", "--penalty gp"),
    "gp0_weight": Case("--gp0_weight 1", "--penalty gp0"),
    "r1_weight": Case("--r1_weight 1", "--penalty r1"),
    "r2_weight": Case("--r2_weight 1", "--penalty r2"),
    "dragan_weight": Case("--dragan_weight 1", "--penalty dragan"),
    "cr_weight": Case("--cr_weight 1", "--penalty cr"),
    "bcr_weight": Case("--bcr_weight 1", "--penalty bcr"),
    "zcr_d_weight": Case("--zcr_d_weight 1", "--penalty zcr_d"),
    "zcr_g_weight": Case("--zcr_g_weight 1", "--penalty zcr_g"),
    "lecam_weight": Case("--lecam_weight 1", "--penalty lecam"),
    "path_length_weight": Case(
        "--path_length_weight 1", f"{small('stylegan2')} --penalty path_length --n_steps 4"
    ),
    "ortho_weight": Case("--ortho_weight 1", "--penalty ortho"),
    "drift_penalty": Case("--drift_penalty 1", "--penalty drift"),
    "penalty_interval": Case("--penalty_interval r1=2", "--penalty r1"),
    "ac_weight_d": Case("--ac_weight_d 2", CLASSES),
    "ac_weight_fake": Case("--ac_weight_fake 1", CLASSES),
    "ac_weight_g": Case("--ac_weight_g 2", CLASSES),
    "san": Case("--san", "--method hinge"),
    "label_smoothing": Case("--label_smoothing 0.1", witness=logged("loss/d")),
    "weight_clip": Case("--weight_clip 0.01"),
    "fresh_reals": Case("--fresh_reals", "--method rpgan"),
    "train_g_interval": Case("--train_g_interval 2"),
    "critic_warmup": Case("--critic_warmup", "--n_steps 100", logged("grad_norm/g")),
    "batch_by_size": Case("--batch_by_size 4=4", GROWING, logged("growing/size")),
    "lr_by_size": Case("--lr_by_size 8=1e-3", GROWING, logged("lr/d", "lr/g")),
    "batch_size": Case("--batch_size 4"),
    "accumulate": Case("--accumulate 2"),
    "optimizer": Case("--optimizer RMSprop"),
    "lr": Case("--lr 1e-3", witness=logged("lr/d", "lr/g")),
    "lr_d": Case("--lr_d 1e-3", witness=logged("lr/d")),
    "lr_g": Case("--lr_g 1e-3", witness=logged("lr/g")),
    "beta1": Case("--beta1 0.9"),
    "beta2": Case("--beta2 0.9"),
    "beta2_g": Case("--beta2_g 0.9"),
    "lookahead": Case("--lookahead 2"),
    "weight_decay": Case("--weight_decay 0.1"),
    "lr_decay_from": Case("--lr_decay_from 1", "--log_interval 1", logged("lr/d", "lr/g")),
    "schedule": Case("--schedule lr=1e-3:0:0.1", "--log_interval 1", logged("lr/d", "lr/g")),
    "ema": Case("--ema", witness=files),
    "ema_decay": Case("--ema_decay 0.05", "--ema", average),
    "ema_halflife": Case("--ema_halflife 100", "--ema", average),
    "ema_rampup": Case("--ema_rampup 0.05", HALFLIFE, average),
    "ema_warmup": Case("--ema_warmup 2", "--ema", average),
    "ema_power": Case("--ema_power 0.1", witness=files),
    "ema_snapshot_kimg": Case("--ema_snapshot_kimg 0.016", "--ema_power 0.1", files),
    "mixed_precision": Case("--mixed_precision bf16"),
    "channels_last": Case("--no-channels_last", witness=layout),
    "tf32": Case("--no-tf32", witness=switch("tf32")),
    "sync_bn": Case("--sync_bn", witness=warned),
    "eval_interval": Case("--eval_interval 2", SCORES, scores),
    "eval_n": Case("--eval_n 9", SCORES, scores),
    "extractor": Case("--extractor mnist-cnn", SCORES, scores),
    "metric_weights": Case("--metric_weights {files}/a.safetensors", FOUND, scores),
    "metrics": Case("--metrics kid", SCORES, scores),
    # A generator that stands still gets no better.
    "eval_patience": Case("--eval_patience 1", f"{SCORES} --lr 0", scores),
    "loggers": Case("--loggers tensorboard", witness=files),
    "log_interval": Case("--log_interval 2", witness=logged()),
    "health_interval": Case("--health_interval 2", witness=of_layers),
    "sample_interval": Case("--sample_interval 2", witness=files),
    "checkpoint_interval": Case("--checkpoint_interval 2", witness=files),
    "keep_checkpoints": Case("--keep_checkpoints 2", "--checkpoint_interval 1", files),
}
# flag: (why a run is no witness here, the test that has one)
ELSEWHERE = {
    "overwrite": ("without it the run is refused", "test_overwrite_deletes_runs_only"),
    "device": ("needs another device", "test_refused_with_one_line"),
    "dry_run": ("it leaves nothing to look at", "test_a_dry_run_measures_and_leaves_nothing"),
    "data_device": ("needs another device", "test_where_images_stay_is_what_the_flag_says"),
}


def test_every_flag_has_its_witness() -> None:
    """A weight of a penalty beyond the papers' has it in the tests of every penalty."""
    weights = {weight_name(penalty) for penalty in CUSTOMARY}
    flags = {name for name, field in FIELDS.items() if of(field).shown} | weights
    assert CASES.keys() | ELSEWHERE.keys() == flags and not CASES.keys() & ELSEWHERE.keys()
    written = "".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    assert all(f"def {test}(" in written for _, test in ELSEWHERE.values())


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What flags name: images, pairs, two small MNISTs, an extractor's weights."""
    folder = tmp_path_factory.mktemp("given")
    write_pairs(folder / "pairs")
    write_images(folder / "images", [f"{i}.png" for i in range(16)])
    for i in range(8):
        values = np.random.default_rng(i).integers(0, 4096, (16, 24), dtype=np.uint16)
        for name, pixels in (("deep", values), ("wide", values.astype(np.uint8))):
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    write_mnist(folder / "mnist")
    write_mnist(folder / "other")
    train_images = folder / "other" / "MNIST" / "raw" / "train-images-idx3-ubyte"
    write_idx(train_images, np.zeros((6, 28, 28)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_extractor(folder / "a.safetensors", DigitCNN(), {})
    run_plan(planned(request(f"{TINY} --runs_dir {folder} --log_name start --n_steps 1 --seed 5")))
    return folder


@pytest.fixture(scope="module")
def look(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable]:
    """(command, which repeat of it) -> what there is to see of the run; each is made once."""
    made: dict[tuple[str, int], SimpleNamespace] = {}
    latents = pytest.MonkeyPatch()  # pictures of three steps need no good statistics
    latents.setattr("generation.generator.STANDING_LATENTS", 8)

    def looked(command: str, repeat: int = 0) -> SimpleNamespace:
        if (command, repeat) not in made:
            made[command, repeat] = observed(command.format(files=given), tmp_path_factory.mktemp("runs"))
        return made[command, repeat]

    yield looked
    latents.undo()


def observed(command: str, folder: Path) -> SimpleNamespace:
    """One run in this process and whatever can be seen of it."""
    printed, switches = io.StringIO(), {}
    own = "" if "--runs_dir" in command else f"--runs_dir {folder}"
    before = set(cached(command))

    def look(step: int, values: dict) -> None:
        """Process-wide switches stand inside the run and are put back after it."""
        switches["deterministic"] = torch.are_deterministic_algorithms_enabled()
        switches["tf32"] = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)

    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        plan = planned(request(f"{tiny(command)} {own} --n_steps {STEPS} {command}"))
        loop = run_plan(plan, on_step=look).loop
    run = loop.log.folder
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return SimpleNamespace(
        loop=loop,
        state=loop.state_dict(),
        folder=run,
        rows=[json.loads(line) for line in lines],
        printed=printed.getvalue(),
        switches=switches,
        cached=sorted(set(cached(command)) - before),
    )


def cached(command: str) -> list[str]:
    """Files of the cache that a command names."""
    words = shlex.split(command)
    if "--cache_dir" not in words:
        return []
    return [file.name for file in Path(words[words.index("--cache_dir") + 1]).glob("*")]


def same(a: object, b: object) -> bool:
    left, right = leaves(a), leaves(b)
    return left.keys() == right.keys() and all(
        torch.equal(v, right[k]) if isinstance(v, torch.Tensor) else v == right[k] for k, v in left.items()
    )


@pytest.mark.parametrize("flag", CASES)
def test_every_flag_changes_a_run(flag: str, look: Callable) -> None:
    case = CASES[flag]
    without = case.witness(look(case.both))
    assert same(without, case.witness(look(case.both, repeat=1)))
    assert not same(without, case.witness(look(f"{case.both} {case.given}")))
