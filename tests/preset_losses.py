"""The first steps of every preset, to the last digit: what a change that should change no number is held against.

python -m tests.preset_losses before.json          # on the code before
python -m tests.preset_losses after.json           # on the code after
python -m tests.preset_losses --differences before.json after.json

Each preset trains five steps through its own script, on the CPU with one thread, narrow, at 32 px, in batches of 8 (64
points), on pictures made of noise; a lazy penalty falls due within the five steps. What is written is every value of
metrics.jsonl but the speed, and a hash of all weights and averages after the last step.
"""

import argparse
import hashlib
import importlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.running import SMALL

N_STEPS = 5
N_CLASSES, N_EACH = 10, 2
DATASETS = {"gan_mnist": "mnist", "gan_cifar10": "cifar10", "gan_celeba": "celeba"}


# What no preset asks for, in the words of the command line, after those of a preset.
BESIDE = {
    "mnist-dcgan+dragan-gp0": ("mnist-dcgan", "--norm_d none --penalty dragan gp0 r2 --accumulate 2"),
    "mnist-dcgan+lazy": (
        "mnist-dcgan",
        "--penalty r1 ortho drift --penalty_interval r1=2 ortho=2 --norm_d none",
    ),
    "mnist-dcgan+smoothing": (
        "mnist-dcgan",
        "--label_smoothing 0.1 --ema --ema_decay 0.9 0.99 --ema_warmup 2",
    ),
    "mnist-dcgan+ragan": (
        "mnist-dcgan",
        "--method ragan --augment color cutout --optimizer SGD --weight_clip 0.1",
    ),
    "mnist-dcgan+noise": (
        "mnist-dcgan",
        "--d_kwargs noise_std=0.1 --instance_noise_steps 4 --optimizer RMSprop",
    ),
    "mnist-dcgan+bf16": ("mnist-dcgan", "--mixed_precision bf16 --r1_weight 1 --norm_d none"),
    "stylegan2+accumulate": ("stylegan2", "--accumulate 2 --conditional --d_kwargs group_size=2 --seed 3"),
    "cifar10-acgan+fakes": (
        "cifar10-acgan",
        "--ac_weight_fake 1 --sync_bn --optimizer AdamW --weight_decay 0.1",
    ),
    "cifar10-gan+k_plus_1": ("cifar10-cgan", "--condition_d k_plus_1 --train_g_interval 2"),
}


def all_presets() -> dict[str, "object"]:
    """Name -> row, wherever the table stands."""
    for module in ("settings.presets", "training.presets"):
        try:
            return importlib.import_module(module).PRESETS
        except ModuleNotFoundError as error:
            if error.name not in (module, module.split(".")[0]):
                raise
    raise AssertionError("no table of presets")


def write_images(folder: Path) -> None:
    """Pictures of noise in class folders: 34 x 34 colour PNGs, the same at every call."""
    random = np.random.default_rng(0)
    for label in range(N_CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
        for i in range(N_EACH):
            pixels = random.integers(0, 256, (34, 34, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{i}.png")


def command(name: str, row: "object", images: Path, runs: Path) -> tuple[str, list[str]]:
    """(script, arguments) of the preset's five narrow steps."""
    script = row.script or "gan_cifar10"
    model = row.settings.get("model", "dcgan")
    points = script == "gan_ring8"
    g, d = ([f"{k}={v}" for k, v in side.items()] for side in SMALL[model])
    given = ["--preset", name, "--log_name", name, "--runs_dir", str(runs), "--device", "cpu", "--loggers"]
    given += ["--n_steps", str(N_STEPS), "--log_interval", "1", "--sample_interval", "1000"]
    given += ["--batch_size", "64" if points else "8", "--g_kwargs", *g, "--d_kwargs", *d]
    if not points:
        given += ["--data", str(images), "--cache_dir", str(runs / "cache")]
        if row.settings.get("img_size") not in (28, 32):
            given += ["--img_size", "32"]
    if script == "gan_pairs":
        given += {"pix2pix": ["--pairing", "grey"], "cyclegan": ["--data_b", str(images)]}.get(model, [])
        given += ["--load_size", "34"] if "load_size" in row.settings else []
        if "depth" in row.settings.get("g_kwargs", {}):
            given += ["--g_kwargs", *g, "depth=5"]
    if "penalty_interval" in row.settings:
        given += ["--penalty_interval", *(f"{n}=2" for n in row.settings["penalty_interval"])]
    if "ada" in row.settings.get("augment", ()):
        given += ["--ada_p", "0.5"]
    if model in ("progressive_gan", "stylegan"):
        given += ["--stable_kimg", "0.008", "--fade_kimg", "0.016"]
    if row.settings.get("lr_decay_from") is not None:
        given += ["--lr_decay_from", "1"]
    if "group_size" in row.settings.get("d_kwargs", {}):
        given += (
            ["group_size=4"] if given[-1].startswith("group_size") else ["--d_kwargs", *d, "group_size=4"]
        )
    return script, given


def weights_digest(run: Path) -> str:
    """SHA-256 of all weights and averages of the newest checkpoint."""
    state = torch.load(run / "checkpoints" / f"step-{N_STEPS:08d}.pt", weights_only=True)
    digest = hashlib.sha256()
    for part in ("networks", "ema"):
        for network in sorted(state[part]):
            for key in sorted(state[part][network]):
                digest.update(f"{part}/{network}/{key}".encode())
                digest.update(state[part][network][key].contiguous().numpy().tobytes())
    return digest.hexdigest()


def first_steps(name: str, rows: dict[str, "object"], images: Path, runs: Path) -> dict:
    """{"steps": [values of each step], "weights": digest} of one preset, or of one of BESIDE."""
    preset, further = BESIDE.get(name, (name, ""))
    script, given = command(preset, rows[preset], images, runs)
    given += ["--log_name", name, *further.split()]
    code = importlib.import_module(script).main(given)
    assert code == 0, f"{name}: {script}.py {' '.join(given)} ended with {code}"
    lines = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
    steps = [{k: v for k, v in line.items() if k != "img_per_s"} for line in lines]
    return {"steps": steps, "weights": weights_digest(runs / name)}


def differences(before: dict, after: dict) -> list[str]:
    """A line for each preset: equal, or the first values that are not."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            lines.append(f"{name}: only {'before' if name in before else 'after'}")
            continue
        old, new = before[name], after[name]
        off = [
            f"step {a['step']} {key}: {a.get(key)} -> {b.get(key)}"
            for a, b in zip(old["steps"], new["steps"], strict=False)
            for key in sorted(a.keys() | b.keys())
            if a.get(key) != b.get(key)
        ]
        if len(old["steps"]) != len(new["steps"]):
            off.append(f"{len(old['steps'])} steps -> {len(new['steps'])}")
        if old["weights"] != new["weights"]:
            off.append("weights after the last step")
        n = sum(len(step) - 1 for step in old["steps"])
        lines.append(f"{name}: {'; '.join(off[:4]) if off else f'{n} values and all weights equal'}")
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--presets", nargs="+", help="only these")
    parser.add_argument("--differences", nargs=2, type=Path, metavar=("BEFORE", "AFTER"))
    args = parser.parse_args(argv)
    if args.differences:
        lines = differences(*(json.loads(file.read_text()) for file in args.differences))
        print("\n".join(lines))
        return any(not line.endswith("equal") for line in lines)
    torch.set_num_threads(1)
    rows = all_presets()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        write_images(Path(scratch) / "images")
        for name in args.presets or (*rows, *BESIDE):
            found[name] = first_steps(name, rows, Path(scratch) / "images", Path(scratch) / "runs")
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
