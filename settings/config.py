"""TrainConfig: every shared setting once, as a frozen dataclass; argparse, config files and presets come from it."""

import argparse
import ast
import contextlib
import dataclasses
import json
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from augmentation import AUGMENTATIONS
from errors import Parser, UserError, blaming_user, tell
from generation.checkpoint import difference
from images.sources import DATASETS, parse_size
from losses import METHODS, PENALTIES
from metrics.features import EXTRACTORS
from metrics.inception import NAME as INCEPTION
from metrics.score import METRICS
from modelling import (
    CONDITIONS,
    MODELS,
    STYLED,
    check_condition,
    check_sees_labels,
    network_classes,
    own_settings,
)
from modelling.conditioning import CLASS_HEADS, CONDITIONAL_NORMS, ClassHead
from modelling.layers import NORMS, Size, image_shape, size_text
from settings.presets import PRESETS

OPTIMIZERS = ("Adam", "AdamW", "RMSprop", "SGD")
ACCELERATORS = {
    "gpu": "cuda",
    "cuda": "cuda",
    "cpu": "cpu",
    "mps": "mps",
    "auto": "auto",
}  # the oldest command's
EXTRACTOR_NAMES = (INCEPTION, *EXTRACTORS)
LOGGERS = {"tensorboard": "tensorboard", "wandb": "wandb"}  # name: module that must be importable


def flag(group: str, default: Any, help: str, **options: Any) -> Any:
    """A dataclass field that is also a command line flag; options go to add_argument."""
    how = {"default_factory": dict} if default is dict else {"default": default}
    return field(metadata={"group": group, "help": help, "options": options}, **how)


def size_flag(text: str) -> Size:
    """argparse type of --img_size."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def auto_or(kind: type) -> Callable[[str], Any]:
    """argparse type: a number, or `auto` for what AUTO makes of image size and processes."""

    def parse(text: str) -> Any:
        try:
            return text if text == "auto" else kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} must be {kind.__name__} or auto") from None

    return parse


# StyleGAN2-ADA's own choices (arXiv:2006.06676 appendix C and its code's `auto`), in this order; side in px.
AUTO: dict[str, Callable[[int, int, int], Any]] = {
    # in whole groups of 4 a process, which minibatch standard deviation and half batches need
    "batch_size": lambda side, processes, _: (
        max(min(processes * min(4096 // side, 32), 64) // (4 * processes), 1) * 4 * processes
    ),
    "n_steps": lambda side, processes, batch_size: 25_000_000 // batch_size,
    "lr": lambda side, processes, batch_size: 0.0025 if side < 1024 else 0.002,
    "r1_weight": lambda side, processes, batch_size: 0.0002 * side**2 / batch_size,
    "ema_halflife": lambda side, processes, batch_size: batch_size * 10_000 / 32,
}


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run. None means: derived, see the help text. Flags equal the field names."""

    log_name: str | None = flag(
        "run", None, "name of the folder runs/NAME (default: dataset-model-method-NNN)"
    )
    runs_dir: str = flag("run", "runs", "where runs stand")
    overwrite: bool = flag("run", False, "delete what stands in the named run folder and start anew")
    seed: int = flag("run", 0, "all weights, batches and noise are functions of it")
    deterministic: bool = flag("run", False, "bit-equal repeats on CUDA too (slower)")
    device: str = flag("run", "auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    n_steps: int = flag("run", 20_000, "main updates of D, each on a fresh batch, or auto", type=auto_or(int))

    dataset: str = flag("data", "mnist", "which images")
    data: str | None = flag(
        "data", None, "folder, .zip, .tar or .tar.gz of images in place of the dataset's own"
    )
    split: str = flag("data", "train", "which part to train on", choices=("train", "val", "test", "all"))
    data_root: str = flag("data", "data", "where the dataset's own files stand or are downloaded to")
    cache_dir: str | None = flag(
        "data", None, "where decoded images are kept (default: the user's cache folder)"
    )
    data_device: str = flag(
        "data", "auto", "where images stay in training", choices=("auto", "cpu", "device")
    )
    img_size: int | tuple[int, int] | None = flag(
        "data", None, "pixels: 64, or HEIGHTxWIDTH (default: the dataset's)", type=size_flag, metavar="SIZE"
    )
    flip: bool = flag("data", False, "mirror each image with probability one half")

    augment: tuple[str, ...] = flag(
        "augmentation", (), "what D sees of reals and fakes alike", choices=tuple(AUGMENTATIONS)
    )
    ada_p: float = flag("augmentation", 0.0, "ada's strength at the start, in [0, 1]")
    ada_target: float = flag(
        "augmentation", 0.6, "mean sign of D's logits for reals that ada's strength is steered to"
    )
    ada_interval: int = flag("augmentation", 4, "steps between moves of ada's strength")
    ada_kimg: float = flag("augmentation", 500.0, "thousands of images in which it can go from 0 to 1")

    model: str = flag("model", "dcgan", "architecture", choices=tuple(MODELS))
    z_dim: int = flag("model", 128, "length of the latent vector, drawn from N(0, 1)")
    conditional: bool = flag("model", False, "give G and D the labels")
    condition_g: str | None = flag(
        "model", None, "how G sees the labels (default: the model's way)", choices=CONDITIONS["g"]
    )
    condition_d: str | None = flag(
        "model", None, "how D sees the labels (default: the model's way)", choices=CONDITIONS["d"]
    )
    norm_g: str | None = flag(
        "model", None, "normalisation in G (default: the model's)", choices=tuple(NORMS)
    )
    norm_d: str | None = flag(
        "model", None, "normalisation in D (default: right for the method)", choices=tuple(NORMS)
    )
    spectral_norm_g: bool | None = flag(
        "model", None, "spectral norm on every layer of G (default: the model's)"
    )
    spectral_norm_d: bool | None = flag(
        "model", None, "spectral norm on every layer of D (default: the model's)"
    )
    instance_noise_steps: int | None = flag(
        "model", None, "noise in D falls linearly to 0 over so many steps"
    )
    g_kwargs: dict[str, Any] = flag("model", dict, "settings of G's own, KEY=VALUE ..., e.g. width=96")
    d_kwargs: dict[str, Any] = flag(
        "model", dict, "settings of D's own, e.g. dropout=0.3 noise_std=0.1 activation=selu"
    )

    no_grow: bool = flag("growing", False, "train a growing model at its full size from the start")
    stable_kimg: float | None = flag(
        "growing", None, "thousands of images for which each size is trained as it is (default: 600)"
    )
    fade_kimg: float | None = flag(
        "growing", None, "thousands of images in which each larger size is faded in (default: 600)"
    )

    method: str = flag("loss", "gan", "loss of the game", choices=tuple(METHODS))
    penalty: tuple[str, ...] = flag("loss", (), "penalties to add", choices=tuple(PENALTIES))
    gp_weight: float | None = flag("loss", None, "weight of gp; a weight given enables its penalty")
    gp0_weight: float | None = flag("loss", None, "weight of gp0 (zero-centred on interpolates)")
    r1_weight: float | None = flag(
        "loss",
        None,
        "gamma of r1 (half the mean squared gradient norm on reals), or auto",
        type=auto_or(float),
        also="--gamma",
    )
    r2_weight: float | None = flag("loss", None, "gamma of r2 (the same on fakes)")
    dragan_weight: float | None = flag("loss", None, "weight of dragan")
    path_length_weight: float | None = flag(
        "loss", None, "weight of path_length (models with styles; each 4th step on half a batch)"
    )
    ortho_weight: float | None = flag("loss", None, "weight of ortho (likeness of G's filters)")
    drift_penalty: float | None = flag("loss", None, "weight of drift (mean of D(real)^2)")
    penalty_interval: dict[str, int] = flag("loss", dict, "lazy penalties, NAME=STEPS ..., e.g. r1=16")
    ac_weight_d: float | None = flag(
        "loss", None, "weight of the classes of reals in D's loss (--condition_d ac, k_plus_1; default: 1)"
    )
    ac_weight_fake: float | None = flag(
        "loss",
        None,
        "weight of the classes of fakes in D's loss (default: 0; 1 as in the paper lets G's classes drift)",
    )
    ac_weight_g: float | None = flag(
        "loss", None, "weight of the classes of fakes in G's loss (default: 1, with wgan-gp 0.1)"
    )
    label_smoothing: float = flag("loss", 0.0, "one-sided: the target of reals is 1 minus this")
    weight_clip: float | None = flag("loss", None, "clamp D's weights to +- this (default: the method's)")
    train_g_interval: int = flag("loss", 1, "G is updated every so many steps")
    critic_warmup: bool = flag(
        "loss", False, "100 steps of D per update of G for its first 25 and each 500th"
    )

    batch_size: int = flag(
        "optimisation", 64, "global batch over all processes and micro-batches, or auto", type=auto_or(int)
    )
    accumulate: int = flag("optimisation", 1, "micro-batches a global batch is cut into")
    optimizer: str = flag("optimisation", "Adam", "of both networks", choices=OPTIMIZERS)
    lr: float = flag("optimisation", 2e-4, "learning rate of both networks, or auto", type=auto_or(float))
    lr_d: float | None = flag("optimisation", None, "learning rate of D (default: --lr)")
    lr_g: float | None = flag("optimisation", None, "learning rate of G (default: --lr)")
    beta1: float = flag("optimisation", 0.5, "Adam and AdamW; momentum of SGD")
    beta2: float = flag("optimisation", 0.999, "Adam and AdamW")
    weight_decay: float = flag("optimisation", 0.0, "decoupled for AdamW")
    lr_decay_from: int | None = flag(
        "optimisation", None, "learning rates fall linearly from this step to 0 at the end"
    )

    ema: bool = flag("ema", False, "keep an averaged copy of G and sample from it")
    ema_decay: tuple[float, ...] = flag("ema", (0.999,), "per update of G; several make several copies")
    ema_halflife: tuple[float, ...] = flag(
        "ema", (), "half-life in images, or auto, in place of --ema_decay", type=auto_or(float)
    )
    ema_rampup: float | None = flag(
        "ema", None, "the half-life is at most this share of the images seen so far"
    )
    ema_warmup: int = flag("ema", 0, "updates of G during which the copy is plain")

    mixed_precision: str | None = flag(
        "speed", None, "of the forwards (default: the launcher's)", choices=("no", "fp16", "bf16")
    )
    channels_last: bool = flag("speed", True, "memory layout of images and weights")
    tf32: bool = flag("speed", True, "TF32 matrix products on CUDA")
    sync_bn: bool = flag("speed", False, "batch statistics over all processes (CUDA)")

    eval_interval: int | None = flag(
        "evaluation", None, "steps between scores of the samples (default: none are taken)"
    )
    eval_n: int = flag("evaluation", 10_000, "number of fakes, and of reals they are compared with")
    extractor: str | None = flag(
        "evaluation",
        None,
        "network that reads images for scores (default: inception)",
        choices=EXTRACTOR_NAMES,
    )
    metric_weights: str | None = flag(
        "evaluation", None, "file of its weights (default: where tools.train_classifier or a download put it)"
    )
    metrics: tuple[str, ...] = flag(
        "evaluation",
        ("fid",),
        "scores to take; by the first the best checkpoint is kept",
        choices=tuple(METRICS),
    )
    eval_patience: int | None = flag(
        "evaluation", None, "training ends after so many scores in a row without a better one"
    )

    loggers: tuple[str, ...] = flag(
        "output", ("tensorboard",), "trackers; give none to switch off", choices=tuple(LOGGERS)
    )
    log_interval: int = flag("output", 50, "steps between logged scalars")
    sample_interval: int = flag("output", 500, "steps between sample grids")
    checkpoint_interval: int = flag("output", 1000, "steps between checkpoints")
    keep_checkpoints: int = flag("output", 3, "checkpoints kept beside the best, at least 2")

    def class_head(self) -> ClassHead | None:
        """How class logits enter D's output; None where D has none."""
        condition = self.condition_d
        if condition is None and self.conditional:
            condition = MODELS[self.model].conditions_d[0]
        return CLASS_HEADS.get(condition) if self.conditional else None

    def penalties(self) -> dict[str, tuple[float, int]]:
        """Name -> (weight, interval) of every active penalty, in the table's order."""
        wanted = set(self.penalty) | set(METHODS[self.method].penalties)
        wanted |= {name for name in PENALTIES if getattr(self, weight_flag(name)) is not None}
        active = {}
        for name, row in PENALTIES.items():
            if name in wanted:
                weight = getattr(self, weight_flag(name))
                interval = self.penalty_interval.get(name, row.interval)
                active[name] = (row.weight if weight is None else weight, interval)
        return active


FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig)}
HINTS = typing.get_type_hints(TrainConfig)
# What a resumed run may change, silently or with a notice; anything else would be another run.
FREE_ON_RESUME = {
    "log_name", "runs_dir", "overwrite", "device", "n_steps", "data", "data_root", "cache_dir", "data_device",
    "loggers", "log_interval", "sample_interval", "checkpoint_interval", "keep_checkpoints",
    "eval_interval", "eval_n", "extractor", "metric_weights", "metrics", "eval_patience",
}  # fmt: skip
NOTICED_ON_RESUME = {"lr", "lr_d", "lr_g"}


_SPECTRAL = ("spectral_norm_g", "spectral_norm_d")
_AC_WEIGHTS = ("ac_weight_d", "ac_weight_fake", "ac_weight_g")
_WAYS = ("condition_g", "condition_d")
_LABELS = (*_WAYS, *_AC_WEIGHTS)  # what --conditional settles


def weight_flag(penalty: str) -> str:
    """Name of the flag that holds a penalty's weight."""
    return "drift_penalty" if penalty == "drift" else f"{penalty}_weight"


def _scalar_type(hint: Any) -> type:
    """int for `int | None`, float for `tuple[float, ...]`, and so on."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union, tuple):
        return typing.get_args(hint)[0]
    return hint


def _key_value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    named = {"true": True, "false": False, "none": None}
    if value.lower() in named:
        return key, named[value.lower()]
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _help(f: dataclasses.Field) -> str:
    shown = " ".join(map(str, f.default)) if isinstance(f.default, tuple) else f.default
    silent = f.default in (None, (), False, dataclasses.MISSING)
    return f.metadata["help"] + ("" if silent else f" [{shown}]")


def make_parser(script: str, description: str | None, datasets: Sequence[str]) -> Parser:
    """argparse of a script, from the dataclass; nothing has a default, so that only what was typed comes out."""
    parser = Parser(
        prog=f"{script}.py",
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups: dict[str, Any] = {}
    for name, f in FIELDS.items():
        group = groups.setdefault(f.metadata["group"], parser.add_argument_group(f.metadata["group"]))
        options = dict(f.metadata["options"], help=_help(f).replace("%", "%%"))
        names = [f"--{name}", *filter(None, [options.pop("also", None)])]
        hint = HINTS[name]
        if name == "dataset":
            options["choices"] = tuple(datasets)
        if _scalar_type(hint) is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(hint) is dict:
            options.update(type=_key_value, nargs="+", metavar="KEY=VALUE")
        else:
            options.setdefault("type", _scalar_type(hint))
            if typing.get_origin(hint) is tuple:
                options["nargs"] = "*"
        group.add_argument(*names, dest=name, **options)
    run = groups["run"]
    of_images = not any(DATASETS[name].points for name in datasets)
    names = tuple(n for n, row in PRESETS.items() if row.script == script or row.script is None and of_images)
    run.add_argument("--preset", choices=names, help="a paper's or source's settings; flags win over it")
    run.add_argument(
        "--config", help="YAML or JSON file of settings, e.g. a run's config.json; flags win over it"
    )
    for name in ("max_steps", "devices"):
        run.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    run.add_argument("--accelerator", choices=tuple(ACCELERATORS), help=argparse.SUPPRESS)
    run.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="PATH",
        help="go on from the latest checkpoint, or PATH",
    )
    return parser


def read_config_file(path: str) -> dict[str, Any]:
    """Settings of a YAML or JSON file; UserError for a missing file, no mapping, or unknown names."""
    try:
        loaded = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"--config {path} must hold `name: value` lines")
    return without_derived(typed(loaded, f"--config {path}"))


def without_derived(settings: dict[str, Any]) -> dict[str, Any]:
    """A run's saved settings less those that `settled` derives: another method or model derives its own."""
    if not {"dataset", "model", "method"} <= settings.keys():
        return settings  # written by hand: each value is meant
    rest = ("img_size", "norm_g", "norm_d", "stable_kimg", "fade_kimg", *_WAYS, *_SPECTRAL)
    for names in (rest, _AC_WEIGHTS):  # weights follow from the ways that remain
        bare = settled(TrainConfig(**{k: v for k, v in settings.items() if k not in names}))
        settings = {k: v for k, v in settings.items() if k not in names or v != getattr(bare, k)}
    return settings


def typed(settings: dict[str, Any], source: str) -> dict[str, Any]:
    """Check names, types and choices of settings that did not come through argparse."""
    result = {}
    for name, value in settings.items():
        if name not in FIELDS:
            raise UserError(f"{source}: unknown setting {name!r}; known: {', '.join(FIELDS)}")
        result[name] = _coerce(name, value, source)
    return result


def _coerce(name: str, value: Any, source: str) -> Any:
    hint, f = HINTS[name], FIELDS[name]
    if value is None and types.NoneType in typing.get_args(hint):
        return None
    kind = typing.get_origin(hint)
    if name == "img_size":
        return _read_size(value, source)
    items = list(value) if isinstance(value, list | tuple) else [value]
    if kind is dict:
        if not isinstance(value, dict):
            raise UserError(f"{source}: {name} must be a mapping, not {value!r}")
        return value
    if kind is not tuple and isinstance(value, list | tuple):
        raise UserError(f"{source}: {name} takes one value, not {value!r}")
    base = bool if hint is bool else _scalar_type(hint)
    for i, item in enumerate(items):
        if item == "auto" and name in AUTO:
            continue
        if base is float and isinstance(item, int | str) and not isinstance(item, bool):
            with contextlib.suppress(ValueError):  # refused below
                items[i] = item = float(item)  # YAML reads 2e-4 as a string
        if not isinstance(item, base) or (base is int and isinstance(item, bool)):
            raise UserError(f"{source}: {name} must be {base.__name__}, not {item!r}")
        choices = f.metadata["options"].get("choices")
        if choices and item not in choices:
            raise UserError(f"{source}: {name} {item!r} is not one of {', '.join(map(str, choices))}")
    return tuple(items) if kind is tuple else items[0]


def _read_size(value: Any, source: str) -> Size:
    """64, "160x128" or [160, 128]."""
    try:
        return parse_size("x".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
    except ValueError as error:
        raise UserError(f"{source}: img_size {value!r}: {error}") from None


def without_auto(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the numbers that `auto` stands for."""
    settings = dict(settings)
    dataset = settings.get("dataset", TrainConfig.dataset)
    side = max(image_shape(settings.get("img_size") or DATASETS[dataset].img_size))
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    for name, rule in AUTO.items():
        value = settings.get(name)
        if value == "auto" or isinstance(value, tuple) and "auto" in value:
            batch_size = settings.get("batch_size", TrainConfig.batch_size)
            known = 1 if batch_size in ("auto", 0) else batch_size  # 0 is refused later
            number = rule(side, processes, known)
            settings[name] = tuple(number if v == "auto" else v for v in value) if value != "auto" else number
    return settings


@dataclass(frozen=True)
class Request:
    """What the command line asked for: the settings given, by precedence, and where to resume from."""

    script: str
    given: dict[str, Any]  # flags > --config > --preset
    typed: frozenset[str]  # names of the flags alone
    defaults: dict[str, Any]  # the script's
    resume: str | None

    def config(self, base: dict[str, Any] | None = None) -> TrainConfig:
        """The resolved, validated config; `base` (a resumed run's own config) replaces the script's defaults."""
        merged = layered(self.defaults if base is None else base, self.given)
        config = TrainConfig(**without_auto(translate_legacy(merged, self.typed, self.script)))
        validate(config, self.typed)
        return settled(config)


def parse_config(
    script: str,
    datasets: Sequence[str],
    defaults: dict[str, Any],
    argv: Sequence[str] | None = None,
    description: str | None = None,
) -> Request:
    """Read a command line. argparse exits with code 2 on unknown flags or values; UserError for the rest."""
    parser = make_parser(script, description, datasets)
    flags = vars(parser.parse_args(sys.argv[1:] if argv is None else argv))
    for name, hint in HINTS.items():
        if name in flags and typing.get_origin(hint) is dict:
            flags[name] = dict(flags[name])
        elif name in flags and typing.get_origin(hint) is tuple:
            flags[name] = tuple(flags[name])
    preset, file, resume = (flags.pop(name, None) for name in ("preset", "config", "resume"))
    from_preset = typed(PRESETS[preset].settings, f"preset {preset}") if preset else {}
    from_file = read_config_file(file) if file else {}
    if from_file.get("dataset", datasets[0]) not in datasets:
        raise UserError(
            f"--config {file}: dataset {from_file['dataset']!r}; {script}.py has {', '.join(datasets)}"
        )
    for name in ("log_name", "overwrite"):  # a run's saved config describes the run, not a wish to replace it
        from_file.pop(name, None)
    if flags.get("conditional") is False:
        from_preset, from_file = without(_LABELS, from_preset), without(_LABELS, from_file)
    if "condition_d" in flags:  # weights of another way to see labels mean nothing
        from_preset, from_file = without(_AC_WEIGHTS, from_preset), without(_AC_WEIGHTS, from_file)
    given = layered(from_preset, from_file, flags)
    return Request(script, given, frozenset(flags), {"dataset": datasets[0], **defaults}, resume)


def without(names: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Settings less those of the names."""
    return {name: value for name, value in settings.items() if name not in names}


def layered(*layers: dict[str, Any]) -> dict[str, Any]:
    """Settings of all layers, the later one wins; KEY=VALUE settings are joined key by key."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            joins = isinstance(value, dict) and isinstance(merged.get(name), dict)
            merged[name] = merged[name] | value if joins else value
    return merged


def translate_legacy(given: dict[str, Any], flags: frozenset[str], script: str) -> dict[str, Any]:
    """The oldest command's --max_steps, --accelerator and --devices in today's words, with a printed notice."""
    for old, new in (("max_steps", "n_steps"), ("accelerator", "device")):
        if {old, new} <= flags:
            raise UserError(f"--{old} is the old form of --{new}: give one")

    given = dict(given)
    if (max_steps := given.pop("max_steps", None)) is not None:
        n = given.get("train_g_interval", 1)
        if max_steps < 2:
            raise UserError(
                f"--max_steps {max_steps} must be at least 2; it counted the updates of both networks"
            )
        given["n_steps"] = round(max_steps * n / (n + 1))
        tell(
            f"note: --max_steps {max_steps} counted the updates of both networks: --n_steps {given['n_steps']}"
        )
    if (accelerator := given.pop("accelerator", None)) is not None:
        given["device"] = ACCELERATORS[accelerator]
        tell(f"note: --accelerator {accelerator} is now --device {given['device']}")
    if (devices := given.pop("devices", None)) is not None:
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if devices != launched:
            raise UserError(
                f"--devices {devices} but {launched} process(es) were launched; start with "
                f"accelerate launch --num_processes {devices} {script}.py ..."
            )
        tell(f"note: --devices {devices} is now the launcher's --num_processes")
    return given


def settled(config: TrainConfig) -> TrainConfig:
    """The config with the values that follow from others in place of None: image size and norms.

    D has no norm under a penalty on its gradients, which are per sample, nor under spectral norm.
    """
    values: dict[str, Any] = {}
    if config.img_size is None:
        values["img_size"] = DATASETS[config.dataset].img_size
    if MODELS[config.model].grows_from is not None and not config.no_grow:
        for name in ("stable_kimg", "fade_kimg"):
            if getattr(config, name) is None:
                values[name] = 600.0  # arXiv:1710.10196 appendix A.1: CelebA-HQ's 800 for LSUN
    model = MODELS[config.model]
    for side in ("g", "d"):
        if getattr(config, f"spectral_norm_{side}") is None:
            values[f"spectral_norm_{side}"] = side in model.spectral_norm
    config = _with_labels(dataclasses.replace(config, **values))
    values = {}
    penalised = any(PENALTIES[name].gradient for name in config.penalties())
    bare = {"g": False, "d": config.spectral_norm_d or penalised}
    for side, network in network_classes(config.model).items():
        known = own_settings(network)
        said = getattr(config, f"norm_{side}") is not None or "norm" in getattr(config, f"{side}_kwargs")
        by_label = side == "g" and config.condition_g in CONDITIONAL_NORMS
        if "norm" in known and not said and not by_label:
            values[f"norm_{side}"] = "none" if bare[side] else known["norm"].default
    config = dataclasses.replace(config, **values)
    if config.sync_bn and penalised and "batch" in (config.norm_d, config.d_kwargs.get("norm")):
        raise UserError("--sync_bn has no second derivative: no batch norm in D under a gradient penalty")
    return config


def _with_labels(config: TrainConfig) -> TrainConfig:
    """How the networks of a conditional run see labels, and the weights of their classification."""
    if not config.conditional:
        return config
    model = MODELS[config.model]
    first = {"condition_g": model.conditions_g[0], "condition_d": model.conditions_d[0]}
    config = dataclasses.replace(config, **{k: v for k, v in first.items() if getattr(config, k) is None})
    if (head := config.class_head()) is None or not head.classifies:
        return config
    usual = dict(zip(_AC_WEIGHTS, (1.0, 0.0, METHODS[config.method].ac_weight_g), strict=True))
    return dataclasses.replace(config, **{k: v for k, v in usual.items() if getattr(config, k) is None})


def validate(config: TrainConfig, flags: frozenset[str]) -> None:
    """Refuse settings that cannot work, before any data is read or device touched."""
    for name in (
        "n_steps", "batch_size", "accumulate", "z_dim", "train_g_interval",
        "log_interval", "sample_interval", "checkpoint_interval",
    ):  # fmt: skip
        if getattr(config, name) < 1:
            raise UserError(f"--{name} {getattr(config, name)} must be at least 1")
    if config.n_steps < (first := 100 if config.critic_warmup else config.train_g_interval):
        raise UserError(
            f"--n_steps {config.n_steps}: G is updated at step {first} for the first time: give more"
        )
    _validate_numbers(config)
    _validate_loss(config)
    if config.keep_checkpoints < 2:
        raise UserError(
            f"--keep_checkpoints {config.keep_checkpoints}: at least 2, the newest may be the damaged one"
        )
    if config.batch_size % config.accumulate:
        raise UserError(
            f"--batch_size {config.batch_size} is not divisible by --accumulate {config.accumulate}"
        )
    _validate_ema(config, flags)
    _validate_model(config)
    _validate_augmentation(config, flags)
    _validate_evaluation(config, flags)
    _validate_points(config)
    if (
        config.log_name is not None
        and Path(config.log_name).name != config.log_name
        or config.log_name in ("", "..")
    ):
        raise UserError(
            f"--log_name {config.log_name!r} must be a plain folder name; --runs_dir says where runs stand"
        )


def _validate_model(config: TrainConfig) -> None:
    model = MODELS[config.model]
    for name in ("stable_kimg", "fade_kimg"):
        if getattr(config, name) is not None and (model.grows_from is None or config.no_grow):
            growing = ", ".join(n for n, row in MODELS.items() if row.grows_from is not None)
            why = (
                "--no_grow"
                if model.grows_from is not None
                else f"{config.model} does not grow ({growing} do)"
            )
            raise UserError(f"--{name} {getattr(config, name)}: {why}; leave the flag out")
    if config.no_grow and model.grows_from is None:
        raise UserError(f"--no_grow: {config.model} never grows; leave the flag out")
    _validate_labels(config)
    for name in config.penalties():
        if PENALTIES[name].styles and not model.styles:
            raise UserError(
                f"--penalty {name} measures the way from styles to images: {STYLED} have styles, not {config.model}"
            )


def _validate_labels(config: TrainConfig) -> None:
    for name in _LABELS:
        if getattr(config, name) is not None and not config.conditional:
            raise UserError(f"--{name} {getattr(config, name)} needs --conditional")
    with blaming_user():
        if config.conditional:
            check_sees_labels(config.model)
        for side in ("g", "d"):
            if (condition := getattr(config, f"condition_{side}")) is not None:
                check_condition(config.model, side, condition)
    head = config.class_head()
    for name in _AC_WEIGHTS:
        if getattr(config, name) is not None and (head is None or not head.classifies):
            able = ", ".join(n for n, row in CLASS_HEADS.items() if row.classifies)
            raise UserError(f"--{name}: only --condition_d {able} classify")
    condition = _with_labels(config).condition_g
    if condition in CONDITIONAL_NORMS and (config.norm_g is not None or "norm" in config.g_kwargs):
        raise UserError(f"--condition_g {condition} is the norm of G: leave out --norm_g")


def _validate_evaluation(config: TrainConfig, flags: frozenset[str]) -> None:
    given = sorted({"eval_n", "extractor", "metric_weights", "metrics", "eval_patience"} & flags)
    if given and config.eval_interval is None:
        raise UserError(f"--{given[0]} needs --eval_interval")
    for name, least in (("eval_interval", 1), ("eval_n", 2), ("eval_patience", 1)):
        if (value := getattr(config, name)) is not None and value < least:
            raise UserError(f"--{name} {value} must be at least {least}")
    if not config.metrics or len(set(config.metrics)) < len(config.metrics):
        raise UserError(f"--metrics {' '.join(config.metrics)}: at least one, each once")
    if DATASETS[config.dataset].points and (reader := {"extractor", "metric_weights", "metrics"} & flags):
        raise UserError(
            f"--{min(reader)}: the points of {config.dataset} are held against its mixture; leave the flag out"
        )


def _validate_points(config: TrainConfig) -> None:
    if DATASETS[config.dataset].points and (config.flip or config.augment):
        what = "--flip" if config.flip else f"--augment {' '.join(config.augment)}"
        raise UserError(f"{what}: {config.dataset} is of points, not of images; leave the flag out")


def _validate_augmentation(config: TrainConfig, flags: frozenset[str]) -> None:
    if len(set(config.augment)) < len(config.augment):
        raise UserError(f"--augment {' '.join(config.augment)}: each once")
    given = sorted(name for name in flags if name.startswith("ada_"))
    if given and "ada" not in config.augment:
        raise UserError(f"--{given[0]} needs --augment ada")
    if config.ada_interval < 1 or not config.ada_kimg or config.ada_target > 1 or config.ada_p > 1:
        raise UserError(
            "--ada_interval must be at least 1, --ada_kimg above 0, --ada_target and --ada_p at most 1"
        )


def _validate_ema(config: TrainConfig, flags: frozenset[str]) -> None:
    ema_given = {"ema_decay", "ema_halflife", "ema_warmup", "ema_rampup"} & flags
    if ema_given and not config.ema:
        raise UserError(f"--{min(ema_given)} needs --ema")
    if {"ema_decay", "ema_halflife"} <= flags:
        raise UserError("--ema_decay and --ema_halflife are two ways to say the same: give one")
    if config.ema_rampup is not None and not config.ema_halflife:
        raise UserError("--ema_rampup limits a half-life: add --ema_halflife")
    values = config.ema_halflife or config.ema_decay
    if config.ema and len(set(values)) != max(len(values), 1):
        raise UserError(f"--ema_decay {' '.join(map(str, values))}: at least one value, each once")


def _validate_numbers(config: TrainConfig) -> None:
    for name, hint in HINTS.items():
        if _scalar_type(hint) is float:
            value = getattr(config, name)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not (math.isfinite(number) and number >= 0):
                    raise UserError(f"--{name} {number} must be a number of at least 0")
    for name in ("beta1", "beta2"):
        if getattr(config, name) >= 1:
            raise UserError(f"--{name} {getattr(config, name)} must be below 1")
    if any(decay >= 1 for decay in config.ema_decay):
        raise UserError(f"--ema_decay {' '.join(map(str, config.ema_decay))} must be below 1")
    if any(halflife == 0 for halflife in config.ema_halflife):
        raise UserError("--ema_halflife must be above 0 images")
    for name, least in (("lr_decay_from", 0), ("instance_noise_steps", 1), ("ema_warmup", 0)):
        if getattr(config, name) is not None and getattr(config, name) < least:
            raise UserError(f"--{name} {getattr(config, name)} must be at least {least}")
    if config.instance_noise_steps is not None and not config.d_kwargs.get("noise_std"):
        raise UserError("--instance_noise_steps anneals nothing: add --d_kwargs noise_std=0.1")
    if config.lr_decay_from is not None and config.lr_decay_from >= config.n_steps:
        raise UserError(f"--lr_decay_from {config.lr_decay_from} must be below --n_steps {config.n_steps}")


def _validate_loss(config: TrainConfig) -> None:
    if config.weight_clip == 0:
        raise UserError("--weight_clip 0 would set every weight of D to 0")
    for name in ("g", "d"):
        if "norm" in getattr(config, f"{name}_kwargs") and getattr(config, f"norm_{name}") is not None:
            raise UserError(f"--norm_{name} and --{name}_kwargs norm= are the same setting: give one")
    if config.label_smoothing:
        able = [name for name, row in METHODS.items() if row.d_smooth is not None]
        if config.method not in able:
            raise UserError(f"--label_smoothing works with --method {', '.join(able)}, not {config.method}")
        if config.label_smoothing >= 0.5:
            raise UserError(f"--label_smoothing {config.label_smoothing} must be below 0.5 (0.1 is usual)")
    active = config.penalties()
    for name, interval in config.penalty_interval.items():
        if name not in PENALTIES:
            raise UserError(f"--penalty_interval {name}: known penalties are {', '.join(PENALTIES)}")
        if not isinstance(interval, int) or isinstance(interval, bool) or interval < 1:
            raise UserError(f"--penalty_interval {name}={interval}: a whole number of steps, at least 1")
        if name not in active:
            raise UserError(
                f"--penalty_interval {name}={interval}, but {name} is not active; add --penalty {name}"
            )


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain containers only, as saved in config.json and in checkpoints."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def readable(name: str, value: Any) -> Any:
    """A saved setting as people write it: a size as 160x128."""
    return size_text(value) if name == "img_size" and value is not None else value


def settings_text(config: TrainConfig) -> list[str]:
    """The resolved settings for people, a line a group."""
    groups: dict[str, list[str]] = {}
    for name, value in as_dict(config).items():
        value = readable(name, value)
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        groups.setdefault(FIELDS[name].metadata["group"], []).append(f"{name}={shown}")
    return [f"{group}: {'  '.join(items)}" for group, items in groups.items()]


def from_dict(settings: dict[str, Any]) -> dict[str, Any]:
    """The inverse of as_dict, as settings for Request.config."""
    return typed({k: v for k, v in settings.items() if k in FIELDS}, "config.json")


def resume_differences(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(refused, noticed) lines `name: old -> new` between a run's saved config and what is asked for now."""
    refused, noticed = [], []
    old = as_dict(
        settled(TrainConfig(**from_dict(old)))
    )  # a setting younger than the run stands at its default
    for name in FIELDS:
        if name in FREE_ON_RESUME or old[name] == new[name]:
            continue
        lines = difference({name: readable(name, old[name])}, {name: readable(name, new[name])})
        (noticed if name in NOTICED_ON_RESUME else refused).extend(lines)
    return refused, noticed
