"""The `generator/` folder of a run: what a user samples from and shares (safetensors + json)."""

import copy
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import disk
from disk import Unreadable, read_bytes, read_json
from errors import UserError, shown, tell
from generation.checkpoint import CheckpointStore, Misfit, load_checkpoint
from generation.hub import downloaded, is_hub_name
from generation.labels import label_rows, read_label_examples
from generation.latents import DRAWN_AT_ONCE, truncate_latents
from generation.schema import FORMAT, Count, SampledState, Word, converted, read_generator_config
from metrics.features import save_tensors
from metrics.lines import best_step
from modelling import MODELS, Model, build_generator, check_revision, find_model
from modelling.layers import standing_statistics
from ops.precision import repeatable
from ops.rng import generator as seeded
from ops.rng import key
from ops.spectral_norm import iterate_spectral_norm
from tensorfile import faults_of, in_one_line, read_safetensors

CONFIG_LIMIT = 16 * 2**20  # bytes of config.json
FILE_LIMIT = 64 * 2**20  # bytes of a model's file
STANDING_LATENTS = 512
D_FILE = "D.safetensors"  # in a generator/ that was imported: the weights of D, with which training goes on
MODEL_FILE = "model.py"  # beside generator/: the copy of the user's file that its networks come from


class _BatchNormOfAnyShape(nn.modules.batchnorm._BatchNorm):
    """SyncBatchNorm keeps no trace of the shape it was made for."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Nothing to check: it has trained on such inputs."""


def without_sync(network: nn.Module) -> nn.Module:
    """Ordinary batch norm in place of synchronised: a process that samples alone must not wait for the others."""
    for name, child in network.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            plain = _BatchNormOfAnyShape(child.num_features, child.eps, child.momentum, child.affine)
            plain.to(child.running_mean.device).load_state_dict(child.state_dict())
            setattr(network, name, plain)
        else:
            without_sync(child)
    return network


def sampling_copy(G: nn.Module, labels: dict, seed: int = 0, truncation: float | None = None) -> nn.Module:
    """A copy of G in eval mode that is right for any batch size, one image included.

    Running statistics of batch norm lag behind the weights and never belong to averaged ones, so they are
    measured anew over 512 latents (standing statistics, arXiv:1809.11096); sigma of spectral norm likewise.
    truncation: threshold of these latents as of those that the copy is for, None for none. Whatever memory layout G
    trains in, the copy has the plain one: convolutions round by it, and a copy that is loaded from a file has that.
    """
    return measured_copy(
        G, lambda G: standing_statistics(G, _standing_batches(G, labels, seed, truncation)), seed
    )


@torch.no_grad()
def measured_copy(G: nn.Module, measure: Callable[[nn.Module], nn.Module], seed: int) -> nn.Module:
    """What `measure` makes of a copy of G without gradients, in the plain memory layout, its spectral norms iterated;
    what is drawn meanwhile follows the seed."""
    G = without_sync(copy.deepcopy(G)).requires_grad_(False)
    for tensor in (*G.parameters(), *G.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    param = next(G.parameters())
    with torch.random.fork_rng([param.device] if param.is_cuda else []), repeatable():
        torch.manual_seed(key(seed, "standing noise"))
        iterate_spectral_norm(G, 15)
        return measure(G)


def _standing_batches(
    G: nn.Module, labels: dict, seed: int, truncation: float | None
) -> list[tuple[Tensor, Tensor | None]]:
    """The latents, with labels, that batch norm's statistics are measured over."""
    param = next(G.parameters())
    source = seeded(seed, "standing")
    z = torch.randn(STANDING_LATENTS, G.z_dim, generator=source)
    if truncation is not None:
        z = truncate_latents(z, torch.rand(z.shape, generator=source), truncation)
    z = z.to(param)
    y = label_rows(labels, STANDING_LATENTS, seed)
    if y is not None and y.dim() == 1 and labels["n_labels"] > STANDING_LATENTS:  # all over the classes
        y = torch.arange(STANDING_LATENTS) * labels["n_labels"] // STANDING_LATENTS
    return [
        (z[i : i + DRAWN_AT_ONCE], None if y is None else y[i : i + DRAWN_AT_ONCE].to(z.device))
        for i in range(0, STANDING_LATENTS, DRAWN_AT_ONCE)
    ]


def batch_norm_of(
    network: nn.Module, measured: str = f"standing statistics over {STANDING_LATENTS} latents"
) -> str:
    """What a protocol says of the batch norm of a sampling copy; measured: of one that has any."""
    has = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    return measured if has else "none"


def export_generator(folder: Path, config: dict, networks: Mapping[str, nn.Module], step: int) -> None:
    """Write config.json and one safetensors file a weight set; the first of `networks` is the default.

    config: what load_generator and the tools read (model, build, dataset, labels); networks: sampling copies.
    Each file is replaced in one move, so a reader never sees half of one.
    """
    for name, network in networks.items():
        _save_weights(folder / f"{name}.safetensors", network, {"step": str(step)})
    full = {
        "format": FORMAT,
        "batch_norm": batch_norm_of(network),
        **config,
        "weights": list(networks),
        "step": step,
    }
    disk.put(folder / "config.json", json.dumps(full, indent=2) + "\n")


def _save_weights(file: Path, network: nn.Module, about: dict[str, str]) -> None:
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    save_tensors(file, tensors, about)


def add_weights(folder: Path, name: str, network: nn.Module, about: Mapping[str, Any]) -> None:
    """Add a weight set to an exported generator, or write it anew there: its file says its own step and batch norm.

    What exports the generator next lists its own weight sets alone. UserError for more sets than are read, OSError.
    """
    saved = read_json(folder / "config.json", dict[str, Any], CONFIG_LIMIT)
    sets = list(dict.fromkeys([*saved["weights"], name]))
    read_generator_config(saved | {"weights": sets})
    said = {"step": str(about["step"]), "batch_norm": about["batch_norm"]}
    _save_weights(folder / f"{name}.safetensors", network, said)
    disk.put(folder / "config.json", json.dumps(saved | {"weights": sets}, indent=2) + "\n")


def file_sha256(file: Path) -> str:
    """sha256 of a file's bytes, as generator/config.json holds that of a user's model file."""
    return hashlib.sha256(read_bytes(file, FILE_LIMIT)).hexdigest()


def check_device(device: str | torch.device) -> None:
    """UserError for a device that torch does not know or that is not there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"--device {device} is not available: {reason}") from None


def find_generator(path: str | os.PathLike[str]) -> Path:
    """The generator/ folder for a run folder or for itself, or of hf:user/name; UserError where there is none."""
    path = downloaded(path) if is_hub_name(path) else Path(path)
    for folder in (path, path / "generator"):
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return folder
    what = "does not exist" if not path.exists() else "is no run: it has no generator/config.json"
    raise UserError(
        f"{path} {what}; give runs/NAME of a run that has written a checkpoint, or its generator/"
    )


def find_checkpoint(folder: Path, which: str) -> Path:
    """The file of a run's checkpoint by its step or, for "best", by its scores; UserError that says what there is."""
    run = folder.parent if folder.name == "generator" else folder
    store = CheckpointStore(run / "checkpoints")
    steps = store.steps()
    if which == "best":
        best = best_step(run / "scores.jsonl")
        if best is None:
            raise UserError(
                f"--checkpoint best: {run} has no scores yet; tools.evaluate or --eval_interval take some"
            )
        if best not in steps:
            raise UserError(
                f"--checkpoint best: the best score of {run} is of step {best}, which has no checkpoint"
            )
        which = str(best)
    if not which.isdecimal() or int(which) not in steps:
        there = f"steps {', '.join(map(str, steps))}" if steps else "none"
        raise UserError(f"--checkpoint {which}: {run} has checkpoints of {there}")
    return store.path(int(which))


def find_model_file(
    folder: Path, about: Mapping[str, Any], given: str | os.PathLike[str] | None = None
) -> Path | None:
    """The user's file that a generator's networks come from, None for a model of this toolkit's own.

    Looked for as model.py in the run's folder and in generator/, where it must be the one of the training, or taken as
    given, with a warning where it is another. UserError where there is none.
    """
    trained = about.get("model_file")
    if trained is None:
        if given is not None:
            raise UserError(
                f"--model_file {given}: {folder} is of the model {about['model']}, which needs no file"
            )
        return None
    if given is not None:
        if not Path(given).is_file():
            raise UserError(f"--model_file {given}: there is no such file")
        if file_sha256(Path(given)) != trained["sha256"]:
            tell(f"warning: {given} is not the {trained['name']} that {folder} was trained with")
        return Path(given)
    places = [folder.resolve().parent / MODEL_FILE, folder / MODEL_FILE]
    there = [place for place in places if place.is_file()]
    for place in there:
        if file_sha256(place) == trained["sha256"]:
            return place
    what = f"{there[0]} is another file than" if there else f"there is no {places[0]}:"
    raise UserError(
        f"{what} the {trained['name']} that {folder} was trained with (sha256 {trained['sha256'][:16]}); put that one "
        f"to {places[0]}, or name it in Python: load_generator(..., model_file=PATH)"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a generator/ folder, checked for all that is read of it; UserError for a damaged or newer one."""
    file = folder / "config.json"
    try:
        about = read_generator_config(read_json(file, dict[str, Any], CONFIG_LIMIT))
        if about["multi_hot"]:
            read_label_examples(about["label_examples"], about["n_labels"])
    except Unreadable:
        raise
    except Misfit as error:
        raise UserError(
            f"{file} is damaged or of an older version ({error}): resume the run to write it anew"
        ) from None
    except UserError as error:
        raise UserError(f"{file}: {error.for_command_line}") from None
    return about


def known_model(folder: Path, about: Mapping[str, Any]) -> Model:
    """The row of MODELS that a generator/ is of, which holds no user's networks; UserError."""
    if about["model"] not in MODELS:
        raise UserError(
            f"{folder} is of the model {shown(str(about['model']))}, which is none of {', '.join(MODELS)}"
        )
    return MODELS[about["model"]]


def building(what: str, build: Callable[[], nn.Module], whose: str) -> nn.Module:
    """build(), of the settings of a config.json; UserError in one line for those that no network can be built with.

    what: the network's name; whose: the place of the settings.
    """
    try:
        return build()
    except UserError as error:
        raise UserError(f"{whose}: {error.for_command_line}") from None
    except Exception as error:  # sizes and types that no layer takes, whatever torch says of them
        reason = shown(str(error).split("\n")[0], 200)
        raise UserError(f"{whose}: no {what} can be built: {reason}") from None


def rebuilt(
    folder: Path, about: dict[str, Any], model_file: str | os.PathLike[str] | None
) -> Callable[[], nn.Module]:
    """What builds G without its weights, by name or from a user's file; says in `about` whether it has styles."""
    if about["model"] is None:
        raise UserError(
            f"the networks of {folder} were given as objects in Python: load_generator(..., G=) needs one of the same "
            "class and sizes, into which the weights are loaded"
        )
    file = find_model_file(folder, about, model_file)
    row = known_model(folder, about) if file is None else find_model(str(file))
    about["styles"] = row.styles
    network = about["model"] if file is None else str(file)
    whose = f"{folder / 'config.json'}, build"
    return lambda: building(network, lambda: build_generator(network, **about["build"]), whose)


def trained_weights(
    folder: Path, about: dict[str, Any], checkpoint: str | int | None, names: Sequence[str] = ("G",)
) -> tuple[Path, dict[str, Tensor]]:
    """(file, the chosen weights in it), exported or of a checkpoint; says in `about` of which step they are.

    names: of the networks that a weight set is of: where there are several, each one's begin with its name.
    """
    if checkpoint is not None:
        file = find_checkpoint(folder, str(checkpoint))
        state = load_checkpoint(file, lambda state: converted(state, SampledState, "state"))
        found = state["ema"] | {"raw": _several(state["networks"], names)}
        if found.get(about["chosen"]) is None:
            raise UserError(f"{file} has no {about['chosen']} weights")
        about["step"] = state["step"]
        return file, found[about["chosen"]]
    file = folder / f"{about['chosen']}.safetensors"
    try:
        state, metadata = read_safetensors(file)
        about["step"] = converted(int(metadata["step"]), Count, "step")
        about["batch_norm"] = converted(metadata.get("batch_norm", about["batch_norm"]), Word, "batch_norm")
    except (KeyError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}); resume the run to write it anew") from None
    return file, state


def _several(networks: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> Mapping[str, Any] | None:
    """The state of one network, or of several as a ModuleDict of them has it; None where one is missing."""
    if any(name not in networks for name in names):
        return None
    if len(names) == 1:
        return networks[names[0]]
    return {f"{name}.{key}": value for name in names for key, value in networks[name].items()}


def opened(path: str | os.PathLike[str], weights: str | None) -> tuple[Path, dict[str, Any]]:
    """(generator/ folder of a run, its config.json with the `chosen` name of the weights); UserError."""
    folder = find_generator(path)
    about = read_config(folder)
    known = about["weights"]
    chosen = known[0] if weights is None else weights
    if chosen not in known:
        raise UserError(f"--weights {chosen}: this run has {', '.join(known)}")
    return folder, about | {"chosen": chosen}


def filled(
    build: Callable[[], nn.Module],
    weights: tuple[Path, dict[str, Tensor]],
    folder: Path,
    revision: int,
    own: bool = False,
) -> nn.Module:
    """What is built, with the weights of a file; UserError where they do not fit. own: whether it is the user's."""
    file, state = weights
    with torch.device("meta"):  # sizes are those of the file before any memory is taken for them
        like = build()
        wanted = like.state_dict()
    check_revision(like, revision, str(folder))
    if reason := in_one_line(faults_of(state, wanted)):
        what = "does not fit G" if own else "is damaged"
        advice = "give the networks of the training" if own else "resume the run to write it anew"
        raise UserError(f"{file} {what} ({shown(reason)}); {advice}")
    network = build()
    network.load_state_dict(state)
    return network


def load_generator(
    path: str | os.PathLike[str],
    weights: str | None = None,
    device: str | torch.device = "cpu",
    checkpoint: str | int | None = None,
    *,
    model_file: str | os.PathLike[str] | None = None,
    G: nn.Module | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """(G in eval mode without gradients, what is known of it) from a run, a generator/ folder or "hf:user/name".

    What is known: config.json with the `step` and `chosen` name of these weights, and whether G has `styles`.
    weights: "ema", "raw", "ema-0.999", ...; None takes the first that the run wrote (EMA where there is one).
    checkpoint: "best" or a step, None for the newest exported weights.
    A generator from a user's file needs that file, which is run: the copy in the run's folder, or model_file. One that
    was given as an object needs another such G, into which the weights are loaded.
    Raises UserError for a folder that is no run, unknown weights or checkpoint, a damaged file, networks that are not
    to be had, or that translate pictures: translator.load_translator is for those.
    """
    check_device(device)
    folder, about = opened(path, weights)
    if about["translates"] is not None:
        raise UserError(
            f"{path} translates pictures: python -m tools.translate {path} --data FOLDER --out DIR"
        )
    about["styles"] = isinstance(G, tuple(row.Generator for row in MODELS.values() if row.styles))
    own = G is not None or about.get("model_file") is not None
    build = rebuilt(folder, about, model_file) if G is None else lambda: G
    found = trained_weights(folder, about, checkpoint)
    G = filled(build, found, folder, about["revision"], own)
    if checkpoint is not None:
        return sampling_copy(G.to(device), about, about["seed"]), about
    return G.requires_grad_(False).eval().to(device), about
