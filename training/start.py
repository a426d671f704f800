"""Starting from weights that another run has trained: --init_from. What fits is taken over, the rest stays fresh."""

import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from errors import UserError, shown
from games.growing import growth_of
from generation.checkpoint import CheckpointError, CheckpointStore, load_checkpoint
from generation.generator import D_FILE, find_generator, read_config
from generation.hub import is_hub_name
from generation.schema import SampledState, converted
from modelling import MODELS, check_revision, model_title, revisions_of
from modelling.contract import bare
from modelling.growing import Stage
from ops.distributed import tensors_from_main
from ops.spectral_norm import SpectralNorm
from settings import TrainConfig
from tensorfile import is_finite, is_plain, read_safetensors, same_kind
from training.loop import Loop

Tensors = dict[str, Tensor]
SHOWN = 3  # names of tensors of each network
STAGE = "_extra_state"  # of a growing network: it follows from the step
ORIGINAL, U, V = (f".parametrizations.weight.{part}" for part in ("original", "0.u", "0.v"))
LEAST = 0.5  # of the weights that G could have, by number
MAPPING = "mapping."
_NOT_KWARGS = {
    "img_size", "img_channels", "source_channels", "n_labels", "z_dim", "condition", "spectral_norm", "norm",
}  # fmt: skip
_NUMBERED = re.compile(r"(?P<list>[^.]+(?:\.[^.\d]+)*)\.(?P<i>\d+)\.(?P<rest>.+)")


# What a run, a generator/ or a checkpoint holds


def start_of(config: TrainConfig, own: Mapping[str, nn.Module]) -> dict[str, Any] | None:
    """What --init_from names, read by the main process for all; None without it. UserError, also for --freeze_d of a D
    that begins at random.

    A dict of `where`, `step`, `networks` and `ema` (tensors by name, by network and by average), `revisions` by
    network, `settings` as far as they are known, and `stage`, the (size, alpha) of what grows, else None.
    """
    if config.init_from is None:
        if config.freeze_d and "D" not in own:
            raise UserError(
                f"--freeze_d {config.freeze_d} needs --init_from: frozen random layers learn nothing"
            )
        return None

    def read() -> dict[str, Any]:
        start = read_start(config.init_from)
        refuse_family(start, config, own)
        return start

    return tensors_from_main(read)


def read_start(given: str) -> dict[str, Any]:
    """The weights that stand at a path, with the `model` they are of, None where that is not known. UserError."""
    path = Path(given)
    if is_hub_name(given):
        return _of_generator(find_generator(given))
    if path.is_file():
        try:
            return _of_checkpoint(load_checkpoint(path, _check), path)
        except CheckpointError as error:
            raise UserError(
                f"--init_from {error.for_command_line}; weights of another program become a generator/ folder by "
                f"python -m tools.import_weights {shown(given)} --out generator/"
            ) from None
    if not path.exists():
        raise UserError(
            f"--init_from {shown(given)}: there is nothing; name a run, its generator/ folder or a checkpoint"
        )
    found = CheckpointStore(path / "checkpoints").latest(_check)
    if found is not None:
        return _of_checkpoint(*found)
    try:
        return _of_generator(find_generator(path))
    except UserError as error:
        raise UserError(f"--init_from: {error.for_command_line}") from None


def _check(state: Mapping[str, Any]) -> None:
    converted(state, SampledState, "state")


def _of_checkpoint(state: dict[str, Any], path: Path) -> dict[str, Any]:
    settings = state.get("config")
    settings = settings if isinstance(settings, dict) else {}
    model = settings.get("model")
    return {
        "where": shown(str(path)),
        "model": model if isinstance(model, str) else None,
        "step": state["step"],
        "revisions": converted(state, SampledState, "state").data.revisions,
        "settings": {
            n: settings[n]
            for n in ("z_dim", "g_kwargs", "d_kwargs", "img_size", "conditional")
            if n in settings
        },
        "stage": _stage_of(state["networks"].get("G", {})),
        "networks": {name: _tensors(found, f"{path}: {name}") for name, found in state["networks"].items()},
        "ema": {name: _tensors(found, f"{path}: {name}") for name, found in state["ema"].items()},
    }


def _of_generator(folder: Path) -> dict[str, Any]:
    """Averages are the weight sets of generator/ beside `raw`; D is there where other weights were imported."""
    about = read_config(folder)
    sets, stage = {}, None
    for name in about["weights"]:
        file = folder / f"{name}.safetensors"
        tensors = read_safetensors(file)[0]
        sets[name], stage = _tensors(tensors, str(file)), _stage_of(tensors)
    raw = sets["raw"] if "raw" in sets else sets[about["weights"][0]]
    several = list(dict.fromkeys(way["network"] for way in (about["translates"] or {}).values()))
    networks = {several[0] if several else "G": raw}
    if len(several) > 1:
        networks = {
            name: {key.removeprefix(f"{name}."): x for key, x in raw.items() if key.startswith(f"{name}.")}
            for name in several
        }
    if (file := folder / D_FILE).is_file():
        networks["D"] = _tensors(read_safetensors(file)[0], str(file))
    return {
        "where": shown(str(folder)),
        "model": about["model"],
        "step": about["step"],
        "revisions": dict.fromkeys("GD", about["revision"]),  # a D that is there was imported with its G
        "settings": {
            "img_size": about["img_size"],
            "conditional": bool(about["n_labels"]),
            "z_dim": about["z_dim"],
            "g_kwargs": _own_settings(next(iter((about["translates"] or {}).values()), about)["build"]),
            "d_kwargs": _own_settings(about["discriminator"]) if "discriminator" in about else None,
        },
        "stage": stage,
        "networks": networks,
        "ema": {name: tensors for name, tensors in sets.items() if name != "raw"},
    }


def _own_settings(build: Any) -> dict[str, Any]:
    """What a network was built with beside the settings that have flags of their own."""
    build = build if isinstance(build, dict) else {}
    return {name: value for name, value in build.items() if name not in _NOT_KWARGS and value is not None}


def _stage_of(found: Mapping[Any, Any]) -> tuple[float, float] | None:
    """(size, alpha) of a growing network, None where there is none."""
    stages = [value for name, value in found.items() if isinstance(name, str) and name.endswith(STAGE)]
    if not stages or not isinstance(stages[0], Tensor) or not is_plain(stages[0]) or stages[0].shape != (2,):
        return None
    size, alpha = stages[0].tolist()
    return size, alpha


def _tensors(found: Mapping[Any, Any], where: str) -> Tensors:
    """The plain tensors by name, but for stages of growth, which follow from the step; UserError for what is none."""
    tensors = {}
    for name, value in found.items():
        if not isinstance(name, str) or name.endswith(STAGE):
            continue
        if not isinstance(value, Tensor) or not is_plain(value) or not is_finite(value):
            raise UserError(f"--init_from {shown(where)}.{shown(name)} is no plain finite tensor")
        tensors[name] = value
    return tensors


def refuse_family(start: Mapping[str, Any], config: TrainConfig, own: Mapping[str, nn.Module]) -> None:
    """UserError for the weights of another family, by the name of what they are of."""
    model = start["model"]
    if own or model is None or config.model not in MODELS or model == config.model:
        return
    raise UserError(
        f"--init_from {start['where']}: these are weights of {shown(model_title(model))}, and this run trains "
        f"{config.model}: give --model {shown(model)} or another start"
    )


def refuse_revisions(start: Mapping[str, Any], loop: Loop) -> None:
    """UserError for weights of which a network of the run makes something else than the one they are of."""
    ours = tuple(row.network(side) for row in MODELS.values() for side in "gd")
    same_size = _sides(start["settings"].get("img_size")) == _sides(loop.config.img_size)
    for name, network in loop.networks.items():
        plain = bare(network.module)
        # an own network without any says nothing, and changes of some sizes alone say nothing of another size
        known = isinstance(plain, ours) or revisions_of(plain)
        of_all_sizes = hasattr(type(plain), "revisions")
        if name in start["networks"] and known and (of_all_sizes or same_size):
            check_revision(plain, start["revisions"].get(name, 0), f"--init_from: {start['where']}")


def _sides(size: Any) -> list[Any]:
    return list(size) if isinstance(size, list | tuple) else [size, size]


# Into the networks of a run


def take_over(loop: Loop, start: Mapping[str, Any], own: Container[str] = ()) -> None:
    """Bring what fits into the networks and averages of a loop at step 0, and say what does not. UserError for weights
    of another revision, where too little of G fits, and for frozen layers that would begin at random; then nothing is
    changed.

    own: the names of networks that were given, of which what is fresh may be trained all the same. An average that the
    start does not have begins as the weights that it averages.
    """
    refuse_revisions(start, loop)
    networks, averages, averaged = start["networks"], start["ema"], loop.task.averaged
    raw = networks.get(averaged[0], {})
    if len(averaged) > 1:
        raw = {f"{name}.{key}": x for name in averaged for key, x in networks.get(name, {}).items()}
    parts = {name: (network.module, networks.get(name, {})) for name, network in loop.networks.items()}
    for name, (ema, _) in loop.emas.items():
        parts[name] = (ema.module, averages.get(name, next(iter(averages.values()), raw)))
    fits = {name: fitted(found, module, at_end=name == "D") for name, (module, found) in parts.items()}
    refuse_useless(start, loop, {name: taken for name, (taken, _, _) in fits.items()})
    if loop.config.freeze_d and "D" not in own:
        refuse_frozen_noise(start, loop, fits["D"][0])
    counts, lines, said = {}, [], None
    for name, (module, found) in parts.items():
        taken, fresh, left = fits[name]
        module.load_state_dict(module.state_dict() | taken)
        _settle_norms(module, taken)
        counts[name] = (len(taken), len(taken) + len(fresh))
        if not found:
            lines.append(f"  {name}: there is none, it is fresh")
        elif name == "D" or (fresh, left) != said:  # an average lacks what its network does
            said = (fresh, left)
            listed = _listed("fresh", fresh), _listed("left there", left)
            lines += [f"  {name}, {what}" for what in listed if what]
    listed = ", ".join(f"{name} {n} of {of}" for name, (n, of) in counts.items())
    for line in (f"starts from {start['where']}, step {start['step']}: tensors of {listed}", *lines):
        loop.log.say(line)
    growth = growth_of(loop.config)
    if growth is not None and growth.faded_in and start["stage"] is not None:
        size, alpha = start["stage"]
        if size >= growth.last and alpha == 1:
            loop.log.say(
                f"warning: what --init_from brings has grown to {size:g} px, and this run grows from {growth.first} px "
                "anew: give --no_grow to go on at the full size"
            )


def refuse_useless(start: Mapping[str, Any], loop: Loop, taken: Mapping[str, Tensors]) -> None:
    """UserError where nothing fits, or less than half of the weights that both G have room for.

    Counted are numbers, not tensors: biases and gains of another width are many and small. A larger G has layers that
    the start cannot have, so the smaller of both counts.
    """
    where, networks = start["where"], start["networks"]
    if not any(taken[name] for name in loop.networks):
        raise UserError(
            f"--init_from {where}: not one of its tensors fits these networks: another architecture"
        )
    came = wanted = there = 0
    for name in loop.task.averaged:
        sizes = {key: p.numel() for key, p in loop.networks[name].module.named_parameters()}
        wanted += sum(sizes.values())
        came += sum(n for key, n in sizes.items() if key in taken[name])
        there += sum(x.numel() for x in networks.get(name, {}).values())
    could = min(wanted, there)
    if came < LEAST * could:
        raise UserError(
            f"--init_from {where}: only {came / could:.0%} of G's weights fit: {_differences(start, loop.config)}"
        )


def refuse_frozen_noise(start: Mapping[str, Any], loop: Loop, taken: Tensors) -> None:
    """UserError for parameters of D that are frozen and begin at random: the start has none that fit, or they are of a
    size that it has not grown to."""
    D = loop.networks["D"].module
    way = f"--freeze_d {loop.config.freeze_d} lets layers of D stand still that would begin at random"
    mend = "lower --freeze_d, or leave it out"
    frozen = [name for name, p in D.named_parameters() if not p.requires_grad and name not in taken]
    if frozen:
        raise UserError(f"{way}, since --init_from {start['where']} has nothing for {_first(frozen)}: {mend}")
    full = max((size for part in D.modules() if isinstance(part, Stage) for size in part.sizes), default=0)
    if start["stage"] is not None and start["stage"][0] < full:
        size = start["stage"][0]
        raise UserError(
            f"{way}: what --init_from {start['where']} brings has grown to {size:g} px of {full}: {mend}"
        )


def _differences(start: Mapping[str, Any], config: TrainConfig) -> str:
    """How to give the settings of the start that the run has not."""
    flags = []
    for name in ("z_dim", "g_kwargs", "d_kwargs"):
        there, here = start["settings"].get(name), getattr(config, name)
        if isinstance(there, Mapping):
            differ = (
                any(here.get(key, None) != value for key, value in there.items())
                or here.keys() - there.keys()
            )
            pairs = " ".join(f"{key}={value}" for key, value in there.items()).replace(", ", ",")
            if differ:
                flags.append(f"--{name} {shown(pairs)}" if pairs else f"no --{name}")
        elif there is not None and there != here:
            flags.append(f"--{name} {shown(str(there))}")
    labelled = start["settings"].get("conditional")
    if labelled is not None and bool(labelled) != config.conditional:
        flags.append("--conditional" if labelled else "no --conditional")
    size = start["settings"].get("img_size")
    if not flags and size is not None and _sides(size) != _sides(config.img_size):
        flags.append(
            f"--img_size {shown('x'.join(map(str, size)) if isinstance(size, list | tuple) else str(size))}"
        )
    if not flags:
        return "another architecture; train with the --preset and the settings of the start"
    return f"give the settings of the start, {', '.join(flags)}, or the --preset that it was trained with"


def _listed(what: str, names: list[str]) -> str:
    """The first few names in a line, "" for none."""
    return f"{what}: {_first(names)}" if names else ""


def _first(names: list[str]) -> str:
    more = f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return "; ".join(shown(name) for name in names[:SHOWN]) + more


def fitted(
    found: Tensors, network: nn.Module, *, at_end: bool = False
) -> tuple[Tensors, list[str], list[str]]:
    """(what of `found` takes the place of tensors of the network, by its names; what stays fresh; what is left there).

    Names are compared without the wrapping of `concat`, weights with spectral norm or without. Entries of a list of
    another length, such as blocks, are counted from the end from which more of them fit; at_end: from the last where
    both do, as those of a D, whose last are of the smallest maps, unless it grows. Layers of a mapping have the
    same index, and its mean style comes along with the whole of it alone.
    """
    wanted = {name: x for name, x in network.state_dict().items() if isinstance(x, Tensor)}
    wanted = {name: x for name, x in wanted.items() if not name.endswith(STAGE)}
    names = dict(zip(_unwrapped(wanted), wanted, strict=True))
    there = _normalised(dict(zip(_unwrapped(found), found.values(), strict=True)), names, network)
    at_end = at_end and not any(isinstance(module, Stage) for module in network.modules())
    moved = _aligned(there, {name: wanted[full] for name, full in names.items()}, at_end)
    taken, fresh = {}, []
    for name, full in names.items():
        x = there.get(moved.get(name, ""))
        if x is None:
            fresh.append(full)
        elif not _fits(x, wanted[full]):
            fresh.append(f"{full} {tuple(wanted[full].shape)}, there {tuple(x.shape)}")
        else:
            taken[full] = x
    mean = names.get(f"{MAPPING}w_avg")
    mapping = {name for name in (*names, *there) if name.startswith(MAPPING)}
    if mean in taken and not all(names.get(name) in taken for name in mapping):
        del taken[mean]
        fresh.append(f"{mean}, the mean of another mapping")
    return taken, fresh, [name for name in there if name not in moved.values()]


def _unwrapped(names: Iterable[str]) -> list[str]:
    """Names of tensors without what `concat` wraps around its network."""
    names = list(names)
    wrapped = "embedding.table.weight" in names
    return [re.sub(r"\A[GD]\.", "", name) if wrapped else name for name in names]


def _fits(x: Tensor, wanted: Tensor) -> bool:
    return x.shape == wanted.shape and same_kind(x.dtype, wanted.dtype)


def _normalised(found: Tensors, names: Mapping[str, str], network: nn.Module) -> Tensors:
    """Tensors with weights as they act where the network has no spectral norm there, and under its names where it has
    one and they have not."""
    tensors = {}
    for name, x in found.items():
        layer = name.removesuffix(ORIGINAL)
        plain = f"{layer}.weight"
        if layer != name and name not in names and plain in names:
            module = network.get_submodule(names[plain].removesuffix(".weight"))
            matrix = (x.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else x).flatten(1)
            u, v = found.get(layer + U, x), found.get(layer + V, x)
            if matrix.shape == (u.numel(), v.numel()):
                tensors[plain] = x / torch.dot(u, matrix @ v)
        elif name not in names and (normed := name.removesuffix(".weight") + ORIGINAL) in names:
            tensors[normed] = x
        elif not (name.endswith((U, V)) and name not in names):
            tensors[name] = x
    return tensors


def _aligned(found: Tensors, wanted: Tensors, at_end: bool) -> dict[str, str]:
    """Name that is wanted -> name there, for all names that both have."""
    shifts, lengths = {}, _lengths(found)
    for prefix, n in _lengths(wanted).items():
        shift = 0 if prefix.startswith(MAPPING) else n - lengths.get(prefix, n)
        ways = (shift, 0) if at_end else (0, shift)
        shifts[prefix] = max(ways, key=lambda way, prefix=prefix: _n_fitting(found, wanted, prefix, way))
    moved = {}
    for name in found:
        match = _NUMBERED.fullmatch(name)
        new = name if match is None else _shifted(match, shifts.get(match["list"], 0))
        if new in wanted:
            moved[new] = name
    return moved


def _lengths(tensors: Tensors) -> dict[str, int]:
    """List -> how many entries it has."""
    lengths: dict[str, int] = {}
    for match in filter(None, map(_NUMBERED.fullmatch, tensors)):
        lengths[match["list"]] = max(lengths.get(match["list"], 0), int(match["i"]) + 1)
    return lengths


def _shifted(match: re.Match[str], shift: int) -> str:
    return f"{match['list']}.{int(match['i']) + shift}.{match['rest']}"


def _n_fitting(found: Tensors, wanted: Tensors, prefix: str, shift: int) -> int:
    """How many entries of a list fit, in all tensors that both have, where they are moved by `shift`."""
    fits: dict[str, bool] = {}
    for match in map(_NUMBERED.fullmatch, found):
        if match and match["list"] == prefix and (new := _shifted(match, shift)) in wanted:
            fits[match["i"]] = fits.get(match["i"], True) and _fits(found[match[0]], wanted[new])
    return sum(fits.values())


def _settle_norms(network: nn.Module, taken: Tensors) -> None:
    """Find the vectors of spectral norms anew whose weights were taken over without them, frozen ones too."""
    for name, module in network.named_modules():
        if isinstance(module, parametrize.ParametrizationList) and f"{name}.original" in taken:
            for i, part in enumerate(module):
                if isinstance(part, SpectralNorm) and f"{name}.{i}.u" not in taken:
                    part.iterate(module.original, 15)
