"""From a command line to a trained run: settings, device, folder, data, networks, loop."""

import ctypes
import importlib.util
import itertools
import json
import os
import platform
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from torch import nn

from errors import UserError, blaming_user, cli, tell
from games.acgan import ACGAN
from games.infogan import InfoGAN
from games.task import NoiseToImage
from games.veegan import VEEGAN
from generation.checkpoint import CheckpointStore
from generation.evaluation import Evaluator, PointEvaluator
from generation.extractors import OPENERS
from generation.labels import label_examples
from generation.state import check_shapes
from images.batches import check_batch_size
from images.cache import cache_folder
from images.sources import DATASETS, Batches, ImageData, load_dataset
from losses import PENALTIES, weight_matrices
from modelling import (
    build_discriminator,
    build_generator,
    check_contract,
    check_settings,
    check_spectral_norm,
    find_model,
    network_classes,
)
from modelling.layers import Size
from ops.rng import key
from settings.config import (
    INCEPTION,
    LOGGERS,
    Request,
    TrainConfig,
    as_dict,
    from_dict,
    parse_config,
    resume_differences,
    settings_text,
)
from training.device import PATIENCE, choose_device
from training.hooks import Previews
from training.logs import RunLog
from training.loop import Loop
from training.scores import Scores

# By model; all others play the ordinary one.
GAMES: dict[str, type[NoiseToImage]] = {"veegan": VEEGAN, "infogan": InfoGAN}
REHEARSED_LABELS = 2  # how many the data has is not known yet
COMPILED_FORMS = (
    128  # of one growing network: 9 sizes, fading or not, with and without gradients of weights and input
)


def script_main(script: str, datasets: Sequence[str], defaults: dict[str, Any], doc: str | None) -> Callable:
    """main(argv) of a gan_*.py."""

    @cli
    def main(argv: Sequence[str] | None = None) -> int:
        try:
            train(parse_config(script, datasets, defaults, argv, doc))
        finally:
            if PartialState._shared_state:
                PartialState().destroy_process_group()
        return 0

    return main


def train(request: Request) -> Loop:
    """Train as asked and return the finished loop; UserError for what the user can mend."""
    follow_launcher()
    config, folder, resumed = resolve(request)
    accelerator = make_accelerator(config)
    config = replace(config, mixed_precision=accelerator.mixed_precision)
    folder = folder or next_free_folder(config, accelerator)
    accelerator.project_configuration.logging_dir = str(folder.parent)  # a resumed run may have been moved
    say = accelerator.print
    set_backends(config, accelerator)
    with blaming_user():
        rehearse(config, accelerator.num_processes)
    data = load_images(config, accelerator)
    with blaming_user():
        loop, about = build_loop(config, accelerator, data, folder)
        loop.scores = make_scores(config, loop, data, about)
    if resumed is not None:
        restore(loop, resumed, config, data)  # before config.json: a refused resume changes nothing
    prepare_folder(config, folder, resumed, accelerator)
    for line in settings_text(config):
        say(line)
    for name, network in loop.task.networks.items():
        say(f"{name}: {sum(p.numel() for p in network.parameters()):,} parameters")
    say(f"data: {data.name}, {len(data.images):,} images of {'x'.join(map(str, data.images.shape[1:]))}")
    say(f"processes: {accelerator.num_processes}, global batch: {config.batch_size}")
    if (growth := config.growth()) is not None:
        say(
            f"growing: {growth.first} to {growth.last} px, at full size from step {growth.steps(config.batch_size)}"
        )
    say(f"device: {accelerator.device}, mixed precision: {accelerator.mixed_precision}, run: {folder}")
    loop.log.attempt("tracker", partial(start_trackers, config, accelerator, folder, loop.step))
    previews = Previews(loop, about)
    loop.log.export = previews.export
    loop.hooks.append((config.sample_interval, previews.grids))
    loop.log.attempt("samples/real.png", previews.reals)
    loop.log.start(loop.step)
    try:
        loop.run()
    finally:
        loop.log.close(loop.step)
    return loop


def build_loop(
    config: TrainConfig, accelerator: Accelerator, data: ImageData, folder: Path
) -> tuple[Loop, dict[str, Any]]:
    """(the loop at step 0, what generator/config.json will say); writes nothing."""
    batches = make_batches(config, accelerator, data)
    (G, D), build = make_networks(config, accelerator, data)
    task = make_task(config, accelerator, G, D)
    store = CheckpointStore(
        folder / "checkpoints", config.keep_checkpoints, remove_stale=accelerator.is_main_process
    )
    log = RunLog(folder, accelerator, config.n_steps, config.batch_size)
    loop = Loop(config, accelerator, task, batches, store, log, extra_state(config, data, accelerator))
    return loop, generator_config(config, data, build)


def follow_launcher() -> None:
    """Die with the launcher: accelerate's dies of SIGTERM without telling the process it started."""
    launched = (
        any(name.startswith("ACCELERATE_") for name in os.environ) or "TORCHELASTIC_RUN_ID" in os.environ
    )
    if launched and sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


# -- settings and folder -------------------------------------------------------------------------------------------


def resolve(request: Request) -> tuple[TrainConfig, Path | None, Path | None]:
    """(config, run folder or None for the next free one, checkpoint file or run to resume from or None)."""
    if request.resume is None:
        config = request.config()
        check_loggers(config)
        return config, new_folder(config), None
    given = request.given
    root = Path(given.get("runs_dir", TrainConfig.runs_dir))
    if request.resume == "latest":
        if given.get("log_name") is None:
            raise UserError(
                "--resume needs --log_name NAME of the run, or the PATH of a checkpoint or run folder"
            )
        source = root / given["log_name"]
    else:
        source = Path(request.resume).resolve()
        if not source.exists():
            raise UserError(f"--resume {source}: there is nothing")
    run = source.parent.parent if source.is_file() else source
    saved = run / "config.json"
    if not saved.is_file():
        raise UserError(f"--resume: {run} holds no run (no config.json); leave --resume out to start one")
    try:
        old = json.loads(saved.read_text())
        base = from_dict(old)
    except (ValueError, AttributeError):
        raise UserError(f"--resume: {saved} is damaged") from None
    config = request.config(base)
    check_loggers(config)
    refused, noticed = resume_differences(old, as_dict(config))
    if refused:
        raise UserError(
            f"--resume {run}: another run's settings ({'; '.join(refused)}); use a new --log_name"
        )
    for line in noticed:
        tell(f"note: changed at resume: {line}")
    folder = root / given["log_name"] if "log_name" in given else run
    if folder.resolve() != run.resolve() and is_occupied(folder):
        raise UserError(f"{folder} is not empty: a run that starts from {source} needs a new --log_name")
    return config, folder, source


def new_folder(config: TrainConfig) -> Path | None:
    """The folder of a new run; a named one must be empty unless --overwrite, an unnamed one is found later."""
    if config.log_name is None:
        return None
    folder = Path(config.runs_dir) / config.log_name
    if is_occupied(folder) and not config.overwrite:
        raise UserError(
            f"{folder} is not empty: --resume goes on with it, --overwrite deletes it, or choose a new --log_name"
        )
    if is_occupied(folder) and not is_run(folder):
        raise UserError(f"--overwrite: {folder} is no run and is left alone; choose another --log_name")
    return folder


def is_occupied(folder: Path) -> bool:
    """Whether something stands there already: a file, a link, or a folder that is not empty."""
    return folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir()))


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: nothing else may be deleted."""
    try:
        saved = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return (
        not folder.is_symlink() and isinstance(saved, dict) and {"method", "model", "n_steps"} <= saved.keys()
    )


def next_free_folder(config: TrainConfig, accelerator: Accelerator) -> Path:
    """runs/dataset-model-method-NNN, chosen by the main process for all."""
    stem = Path(config.runs_dir) / f"{config.dataset}-{config.model}-{config.method}"
    name = [None]
    if accelerator.is_main_process:
        name = [next(f"{stem}-{i:03d}" for i in itertools.count(1) if not Path(f"{stem}-{i:03d}").exists())]
    return Path(broadcast_object_list(name)[0])


def prepare_folder(config: TrainConfig, folder: Path, resumed: Path | None, accelerator: Accelerator) -> None:
    """Make the run folder and write config.json."""
    if accelerator.is_main_process:
        try:
            if resumed is None and config.overwrite and is_occupied(folder):
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").write_text(json.dumps(as_dict(config), indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write to {folder}: {error.strerror or error}; --runs_dir says where runs stand"
            ) from None
    accelerator.wait_for_everyone()


def check_loggers(config: TrainConfig) -> None:
    """Accelerate drops an absent tracker without a word: refuse it here."""
    for name in config.loggers:
        if importlib.util.find_spec(LOGGERS[name]) is None:
            raise UserError(
                f"--loggers {name}: not installed; pip install {LOGGERS[name]}, or --loggers tensorboard"
            )


# -- device --------------------------------------------------------------------------------------------------------


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Accelerate for device, precision, reduction and trackers; neither networks nor optimisers go through it."""
    device = choose_device(config.device)
    launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    precision = config.mixed_precision or launcher
    if launcher not in ("no", precision):
        tell(f"note: --mixed_precision {precision} of the run wins over the launcher's {launcher}")
    if precision == "fp16" and device == "cpu":
        tell("warning: fp16 does not exist on the CPU: computing in fp32 (bf16 does: --mixed_precision bf16)")
        precision = "no"
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        # cpu=True must be said: without it torchrun's processes never meet
        accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision=precision,
            log_with=list(config.loggers) or None,
            project_dir=config.runs_dir,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:
        raise UserError(f"--mixed_precision {precision}: {error}") from None
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise UserError(
            f"{launched} processes were launched but only {accelerator.num_processes} joined; use "
            f"torchrun --standalone --nproc_per_node {launched}"
        )
    return accelerator


def set_backends(config: TrainConfig, accelerator: Accelerator) -> None:
    """Process-wide switches, set inside the run and after Accelerate has set its own."""
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.use_deterministic_algorithms(config.deterministic)
    if config.sync_bn and accelerator.device.type != "cuda":
        accelerator.print(
            "warning: --sync_bn works on CUDA only: batch statistics are per process", file=sys.stderr
        )


def plugin_backend(accelerator: Accelerator) -> str:
    """The launcher's --dynamo_backend in lower case, "no" without one."""
    return str(accelerator.state.dynamo_plugin.backend).rpartition(".")[2].lower()


def compile_options(accelerator: Accelerator) -> dict[str, Any] | None:
    """Arguments of torch.compile from the launcher's --dynamo_backend; None without one."""
    if plugin_backend(accelerator) == "no":
        return None
    options = accelerator.state.dynamo_plugin.to_kwargs()
    if options.get("backend") == "inductor":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise UserError(
                "--dynamo_backend inductor needs a C++ compiler: install g++ (or set CXX), or leave the flag out"
            ) from None
    return options | {"dynamic": False}


# -- parts ---------------------------------------------------------------------------------------------------------


def load_images(config: TrainConfig, accelerator: Accelerator) -> ImageData:
    """The data set at the run's size; the main process decodes, the others wait for its cache."""
    with blaming_user():
        return load_dataset(
            config.dataset,
            img_size=config.img_size,
            img_channels=DATASETS[config.dataset].img_channels,
            split=config.split,
            data_root=config.data_root,
            data=config.data,
            cache_dir=config.cache_dir,
            is_main=accelerator.is_local_main_process,
        )


def make_batches(config: TrainConfig, accelerator: Accelerator, data: ImageData) -> Batches:
    """Batches as a function of the step, for this process."""
    if not config.conditional:
        data = replace(data, labels=None)
    return Batches(
        data,
        config.batch_size,
        config.seed,
        flip=config.flip,
        device=accelerator.device,
        data_device=config.data_device,
        channels_last=config.channels_last,
        n_processes=accelerator.num_processes,
        process=accelerator.process_index,
        accumulate=config.accumulate,
    )


def network_settings(
    config: TrainConfig, img_size: Size, img_channels: int, n_labels: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of build_generator and build_discriminator beside the model's name."""
    image = {"img_size": img_size, "img_channels": img_channels, "n_labels": n_labels}
    settings = {
        "g": image | {"z_dim": config.z_dim, "spectral_norm": config.spectral_norm_g},
        "d": image | {"z_dim": config.z_dim, "spectral_norm": config.spectral_norm_d},
    }
    if n_labels:
        settings["g"]["condition"] = config.condition_g
        settings["d"]["condition"] = config.condition_d
    for side, network in network_classes(config.model).items():
        own = getattr(config, f"{side}_kwargs")
        check_settings(config.model, network, own, f"--{side}_kwargs")
        norm = getattr(config, f"norm_{side}")
        settings[side] |= own | ({} if norm is None else {"norm": norm})
    return settings["g"], settings["d"]


def rehearse(config: TrainConfig, n_processes: int) -> None:
    """Build both networks and run one micro-batch on the meta device, which computes nothing.

    What does not fit is refused here, before images are decoded. Raises ValueError.
    """
    check_batch_size(config.batch_size, config.batch_size, n_processes, config.accumulate)
    n = config.batch_size // (config.accumulate * n_processes)
    for name in config.penalties():
        if PENALTIES[name].styles and n % 2:
            raise UserError(
                f"--penalty {name} takes half a batch: the share of {n} of a process must be even"
            )
    n_labels = REHEARSED_LABELS if config.conditional else 0
    g, d = network_settings(config, config.img_size, DATASETS[config.dataset].img_channels, n_labels)
    with torch.device("meta"):
        G = build_generator(config.model, **g | {"spectral_norm": False})
        D = build_discriminator(config.model, **d | {"spectral_norm": False})
        if "ortho" in config.penalties() and not weight_matrices(G):
            raise UserError(f"--penalty ortho: {config.model}'s G has no layers that it knows; leave it out")
        game_of(config).check(config, G, D)
        check_contract(
            G,
            D,
            n=n,
            img_size=config.img_size,
            img_channels=DATASETS[config.dataset].img_channels,
            z_dim=config.z_dim,
            n_labels=n_labels,
            condition_d=config.condition_d,
            row=find_model(config.model),
        )
    for side, network, wanted in (("g", G, config.spectral_norm_g), ("d", D, config.spectral_norm_d)):
        if wanted:
            check_spectral_norm(network, config.model, side)


def check_labels_of(config: TrainConfig, data: ImageData) -> None:
    """UserError unless the data has the labels that a conditional run needs."""
    if not config.conditional:
        return
    if data.labels is None:
        raise UserError(
            f"--conditional needs labels, and {data.name} has none (two class folders or more, or "
            "list_attr_celeba.txt): leave the flag out"
        )
    head = config.class_head()
    if data.multi_hot and head is not None and head.one_class:
        raise UserError(
            f"--condition_d {config.condition_d} needs images of one class each, and {data.name} has attributes: "
            "--condition_d ac takes them"
        )


def make_networks(
    config: TrainConfig, accelerator: Accelerator, data: ImageData
) -> tuple[tuple[nn.Module, nn.Module], dict[str, Any]]:
    """((G, D) on the device, the arguments that rebuild G)."""
    check_labels_of(config, data)
    n_labels = data.n_labels if config.conditional else 0
    g, d = network_settings(config, data.img_size, data.img_channels, n_labels)
    torch.manual_seed(key(config.seed, "weights"))
    networks = []
    for network in (build_generator(config.model, **g), build_discriminator(config.model, **d)):
        if config.sync_bn and accelerator.device.type == "cuda" and accelerator.num_processes > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        networks.append(network.to(accelerator.device, memory_format=layout))
    return (networks[0], networks[1]), g


def game_of(config: TrainConfig) -> type[NoiseToImage]:
    """The game that the model plays; the ordinary one has a variant for a D that tells classes."""
    head = config.class_head()
    return GAMES.get(config.model, ACGAN if head is not None and head.classifies else NoiseToImage)


def make_task(config: TrainConfig, accelerator: Accelerator, G: nn.Module, D: nn.Module) -> NoiseToImage:
    """The game, with compiled forwards where the launcher asked for them."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision)
    autocast = nullcontext if dtype is None else partial(torch.autocast, accelerator.device.type, dtype)
    options = compile_options(accelerator)
    if config.growth() is not None:  # a graph for each size, fade and set of frozen weights
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_FORMS)
    fast = [None, None] if options is None else [torch.compile(network, **options) for network in (G, D)]
    game = game_of(config)
    return game(config, G, D, forward_g=fast[0], forward_d=fast[1], autocast=autocast, half=dtype is not None)


def extra_state(config: TrainConfig, data: ImageData, accelerator: Accelerator) -> dict[str, Any]:
    """What a checkpoint says of its surroundings."""
    return {
        "config": as_dict(config),
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "n_labels": data.n_labels if config.conditional else 0,
        },
        "processes": accelerator.num_processes,
        "compiled": plugin_backend(accelerator),
        "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
    }


def generator_config(config: TrainConfig, data: ImageData, build: dict[str, Any]) -> dict[str, Any]:
    """generator/config.json: how to rebuild G, and on what it was trained."""
    labelled = config.conditional
    row: dict[str, Any] = {
        "model": config.model,
        "build": build,
        "dataset": config.dataset,
        "img_size": build["img_size"],
        "z_dim": config.z_dim,
        "n_labels": build["n_labels"],
        "multi_hot": bool(labelled and data.multi_hot),
        "label_names": list(data.label_names) if labelled else [],
        "seed": config.seed,
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "split": config.split,
            "data": config.data,
            "data_root": config.data_root,
        },
    }
    if row["multi_hot"]:
        row["label_examples"] = label_examples(data.labels, config.seed)
    return row


def start_trackers(config: TrainConfig, accelerator: Accelerator, folder: Path, step: int) -> None:
    """TensorBoard, W&B, ... inside the run folder; points after a resumed step are dropped."""
    if not config.loggers:
        return
    accelerator.init_trackers(
        folder.name,
        init_kwargs={
            "tensorboard": {"purge_step": step + 1 if step else None},
            "wandb": {"dir": str(folder)},
        },
    )
    text = json.dumps(as_dict(config), indent=2)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.writer.add_text("config", f"```json\n{text}\n```", step)
        else:
            tracker.store_init_configuration(as_dict(config))


def make_scores(config: TrainConfig, loop: Loop, data: ImageData, about: dict[str, Any]) -> Scores | None:
    """The evaluations that the run asks for, with everything checked that can be; ValueError for what is missing."""
    if config.eval_interval is None:
        return None
    if DATASETS[config.dataset].points:
        evaluator = PointEvaluator(data, about, n_fake=config.eval_n)
    else:
        given = None if config.metric_weights is None else Path(config.metric_weights)
        opener = OPENERS[config.extractor or INCEPTION]
        evaluator = Evaluator(
            opener(given, config.cache_dir, loop.device),
            data,
            about,
            n_fake=config.eval_n,
            split=config.split,
            metrics=config.metrics,
            cache_dir=cache_folder(config.cache_dir),
        )
        evaluator.interrupted = lambda: loop.signal is not None
    return Scores(evaluator, loop.log, about, interval=config.eval_interval, patience=config.eval_patience)


# -- resume --------------------------------------------------------------------------------------------------------


def restore(loop: Loop, source: Path, config: TrainConfig, data: ImageData) -> None:
    """Load the checkpoint into the loop, refusing another architecture before any weight is touched."""
    if source.is_file():
        state = loop.store.load(source)
    else:
        store = CheckpointStore(source / "checkpoints", config.keep_checkpoints)
        found = store.latest(quiet=not loop.log.main)
        if found is None:
            raise UserError(
                f"--resume: {source} has no checkpoint that can be read; start anew with --overwrite"
            )
        state = found[0]
    if config.conditional and data.multi_hot and "n_labels" not in state["data"]:
        loop.log.say(
            "warning: the run is from before attributes were rows of length 1: its networks knew another scale"
        )
    now = loop.extra_state["data"]["n_labels"]
    if (before := state["data"].get("n_labels", now)) != now:
        raise UserError(
            f"--resume: the checkpoint knows {before} labels and {data.name} has {now}: give its own data"
        )
    lines = check_shapes(state["networks"], {name: n.module for name, n in loop.networks.items()})
    if lines:
        raise UserError(f"--resume: another architecture: {'; '.join(lines)}")
    if state["data"]["fingerprint"] != data.fingerprint:
        raise UserError(
            f"--resume: the images are not those of the run ({state['data']['name']} {state['data']['fingerprint']}, "
            f"now {data.name} {data.fingerprint})"
        )
    if state["processes"] != loop.n_processes:
        loop.log.say(
            f"note: the checkpoint is of {state['processes']} process(es), now {loop.n_processes}: "
            "equal up to rounding, not bit for bit"
        )
    before, now = state.get("compiled", "no"), loop.extra_state["compiled"]
    if before != now:
        loop.log.say(f"note: --dynamo_backend was {before}, now {now}: equal up to rounding, not bit for bit")
    if state["step"] > config.n_steps:
        raise UserError(f"--resume: the checkpoint is at step {state['step']}, --n_steps is {config.n_steps}")
    loop.load_state_dict(state)
    loop.log.cut(loop.step)
    if loop.log.main:
        loop.store.supersede(loop.step)
    loop.log.say(f"resumed at step {loop.step} of {config.n_steps}")
