"""Runs for tests: tiny networks on the embedded digits or on pairs of pictures, in this process or in new ones."""

import functools
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from games.noise_to_image import NoiseToImage
from games.translation import Translation
from images.sources import DATASETS, load_digits
from modelling import MODELS, own_settings
from settings.command_line import Request, parse_config
from training.folder import planned
from training.loop import Loop
from training.pictures import Pictures
from training.processes import leave_group, peers
from training.run import run_plan

ROOT = Path(__file__).resolve().parent.parent
SELDOM = "--loggers --log_interval 5 --sample_interval 1000 --checkpoint_interval 1000 "
TINY = (
    f"--dataset digits --img_size 16 --z_dim 8 --batch_size 8 --g_kwargs width=4 --d_kwargs width=4 {SELDOM}"
)
# Of models that make pictures of pictures, which the command names with --data.
TINY_PAIRS = f"--img_size 16 --batch_size 8 {SELDOM}"
# What makes a network narrow, where it has a setting of that name.
NARROW = {
    "width": 4,
    "channel_base": 128,
    "channel_max": 8,
    "w_dim": 8,
    "mapping_layers": 2,
    "n_categories": 3,
    "n_blocks": 1,
    "n_layers": 1,
    "resolution": 32,
}


def narrow_settings(network: type) -> dict[str, int]:
    """Those of NARROW that a network takes; none for one that has no such setting, which is taken as it is."""
    return {name: value for name, value in NARROW.items() if name in own_settings(network)}


# A narrow one of each model: the settings of G and of D.
SMALL = {
    name: (narrow_settings(row.Generator), narrow_settings(row.Discriminator)) for name, row in MODELS.items()
}
# The digits of each size are enlarged once a process.
ENLARGED = replace(DATASETS["digits"], make=functools.cache(load_digits))


def small(model: str, **of_g: object) -> str:
    """Flags of a narrow one of `model`, with further settings of G."""
    g, d = (
        " ".join(f"{k}={v}" for k, v in given.items()) for given in (SMALL[model][0] | of_g, SMALL[model][1])
    )
    return f"--model {model} --g_kwargs {g} --d_kwargs {d}"


@contextmanager
def cheap(*, sampled: bool = True) -> Iterator[None]:
    """Within it a run neither measures batch norm over 512 latents nor enlarges the digits once more.

    Either would take longer than the few steps of a test. sampled: whether pictures and generator/ are made, which
    take half the time of two steps; tests that look at checkpoints and logged lines alone can do without.
    """
    with ExitStack() as patches:
        patches.enter_context(patch("generation.generator.STANDING_LATENTS", 64))
        patches.enter_context(patch.dict(DATASETS, digits=ENLARGED))
        if not sampled:
            patches.enter_context(patch.object(Pictures, "previews", lambda *_: None))
            for game in (NoiseToImage, Translation):
                patches.enter_context(patch.object(game, "export", lambda *_: None))
        yield


@contextmanager
def full_disk(room: int = 0) -> Iterator[None]:
    """Within it no file of this process can grow beyond so many bytes; for POSIX alone."""
    import resource

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def request(command: str) -> Request:
    """The parsed command of gan_mnist.py."""
    return parse_config("gan_mnist", ("mnist", "digits", "stacked-mnist"), {}, shlex.split(command))


def write_pairs(place: Path, n: int = 10, size: int = 24, n_val: int = 2) -> Path:
    """A folder of n pairs to train on and some to validate: B is noise in colour, A its negative."""
    for split, count in (("train", n), ("val", n_val)):
        for i in range(count):
            pixels = np.random.default_rng([len(split), i]).integers(0, 256, (size, size, 3), dtype=np.uint8)
            for side, shown in (("A", 255 - pixels), ("B", pixels)):
                (place / f"{split}{side}").mkdir(parents=True, exist_ok=True)
                Image.fromarray(shown).save(place / f"{split}{side}" / f"{i:03d}.png")
    return place


def tiny(command: str) -> str:
    """The flags of a tiny run of the command's model; a resumed run has its own."""
    words = command.split()
    model = words[words.index("--model") + 1] if "--model" in words else None
    of_pictures = model in MODELS and not MODELS[model].latents
    return "" if "--resume" in words else TINY_PAIRS if of_pictures else TINY


def full(command: str, folder: Path) -> str:
    """The command with the flags of a tiny run before it."""
    return f"{tiny(command)} --runs_dir {folder} {command}"


def run(
    command: str,
    folder: Path,
    on_step: Callable | None = None,
    *,
    dtype: torch.dtype | None = None,
    sampled: bool = True,
) -> Loop:
    """Train in this process; dtype: torch's default meanwhile, None for what it is; sampled: see cheap."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        with cheap(sampled=sampled):
            return run_plan(planned(request(full(command, folder))), on_step=on_step).loop
    finally:
        torch.set_default_dtype(before)


def drive(
    commands: list[str], folder: Path, *, processes: int = 1, dtype: str = "float32", sampled: bool = True
) -> str:
    """Train each command in one new process, or in `processes` of them under torchrun; its output.

    dtype: torch's default there; sampled: see cheap.
    """
    file = folder / "commands.json"
    about = {"commands": [full(command, folder) for command in commands], "dtype": dtype, "sampled": sampled}
    file.write_text(json.dumps(about))
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launcher, str(ROOT / "tests" / "running.py"), str(file)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    first = done.stderr[max(done.stderr.find("Traceback"), 0) :][:3000]  # the others may only follow from it
    assert done.returncode == 0, f"{done.stdout[-3000:]}{first}\n[...]\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def state(folder: Path, name: str, step: int) -> dict:
    """The checkpoint of a run at a step."""
    return torch.load(folder / name / "checkpoints" / f"step-{step:08d}.pt", weights_only=True)


def leaves(value: object, path: str = "") -> dict[str, object]:
    """Every leaf of nested containers by its path."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {path: value}
    return {k: v for key, child in items for k, v in leaves(child, f"{path}/{key}").items()}


def differing(
    a: dict, b: dict, parts: tuple[str, ...] = ("networks", "ema", "optimizers", "task", "loop")
) -> list[str]:
    """Paths of the leaves in which two states are not equal to the last bit."""
    left, right = ({k: v for p in parts for k, v in leaves(s[p], p).items()} for s in (a, b))
    assert left.keys() == right.keys()
    return [
        k for k, v in left.items()
        if not (torch.equal(v, right[k]) if isinstance(v, torch.Tensor) else v == right[k])
    ]  # fmt: skip


if __name__ == "__main__":
    about = json.loads(Path(sys.argv[1]).read_text())
    torch.set_default_dtype(getattr(torch, about["dtype"]))
    with cheap(sampled=about["sampled"]):
        for command in about["commands"]:
            with (others := peers()).turns():
                run_plan(others.from_main(lambda command=command: planned(request(command))))
    leave_group()
    # a thread of gloo's that ends late aborts the interpreter's own end now and then
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
