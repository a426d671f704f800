"""From a foreign file to a generator/ folder: which layout it is of, whether all of it fits, and writing it."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import disk
from disk import AnyPath
from errors import UserError, shown
from generation.generator import D_FILE, batch_norm_of
from generation.importing.biggan import biggan
from generation.importing.files import Content, read_foreign
from generation.importing.layout import (
    Imported,
    Network,
    NotThis,
    Tensors,
    as_float,
    keys_seen,
    networks_of,
    refuse_bombs,
    refuse_much,
)
from generation.importing.parts import Array, Stored
from generation.importing.stylegan2 import official, rosinality
from generation.importing.tensorflow import progressive_gan, stylegan
from generation.schema import FORMAT
from metrics.features import save_tensors
from modelling import build_discriminator, build_generator, revisions_of
from ops.rng import generator
from tensorfile import faults_of, in_one_line

LAYOUTS: tuple[Callable[[dict[str, Network]], Imported | None], ...] = (
    official, rosinality, biggan, stylegan, progressive_gan,
)  # fmt: skip
KNOWN = (
    "official StyleGAN2-ADA, StyleGAN2 of StyleGAN3's repository, StyleGAN and Progressive GAN (.pkl), rosinality's "
    "StyleGAN2 (.pt), BigGAN-PyTorch (.pth)"
)
MEAN_LATENTS = 10_000
MAX_LATENT = 2**12  # numbers of one
W_AVG = "mapping.w_avg"


def import_weights(paths: Sequence[AnyPath]) -> Imported:
    """The networks of a file, or of several that belong together, as one of our models. UserError in one line for
    what is of no layout that is known, or has other tensors than its layout."""
    contents = [read_foreign(path) for path in paths]
    where = ", ".join(shown(str(content.path)) for content in contents)
    try:
        networks = _networks(contents)
        result = next(filter(None, (layout(networks) for layout in LAYOUTS)), None)
        if result is None:
            raise NotThis(_unknown(contents))
        _complete(result, contents)
    except NotThis as error:
        raise UserError(f"{where}: {shown(str(error), 900)}") from None
    except UserError:
        raise
    except Exception as error:  # whatever damaged or hostile tensors and settings make of a layout
        reason = shown(str(error) or type(error).__name__, 200)
        raise UserError(f"{where}: networks that cannot be read: {reason}") from None
    inert = [name for content in contents for name in content.inert]
    if inert:
        result.notes.append(f"not called, only named in the file: {_few(inert)}")
    return result


def _networks(contents: list[Content]) -> dict[str, Network]:
    networks: dict[str, Network] = {}
    every: list[Network] = []
    for content in contents:
        found = networks_of(content.value)
        refuse_bombs(content, list(found.values()))
        every += found.values()
        # of several files with one network each, their names say which it is
        own = content.path.stem if len(contents) > 1 else ""
        networks |= {name or own: network for name, network in found.items()}
    refuse_much(every)
    return networks


def _few(names: list[str]) -> str:
    return ", ".join(shown(name, 80) for name in names[:5]) + (", ..." if len(names) > 5 else "")


def _unknown(contents: list[Content]) -> str:
    seen = "; ".join(keys_seen(content.value) for content in contents)
    inert = [name for content in contents for name in content.inert]
    named = f" (not called: {_few(inert)})" if inert else ""
    return f"no layout that is known: {KNOWN}. It holds {shown(seen, 500)}{named}"


def _complete(result: Imported, contents: list[Content]) -> None:
    """Check each network against the one that is built here, and find what files leave out: the mean style, counts of
    batch norm. NotThis."""
    for name, tensors in result.sets.items():
        G = _built(result, "g", result.build_g, name, tensors)
        wanted = dict(G.state_dict())
        if W_AVG in wanted and W_AVG not in tensors:
            mean = wanted.pop(W_AVG)
            # all else first: what is measured is as large as the file says
            _refuse_faults(name, tensors, wanted)
            tensors[W_AVG] = _given_mean(contents, len(mean))
            if tensors[W_AVG] is None:
                tensors[W_AVG] = _measured_mean(G.mapping, tensors)
                result.notes.append(
                    f"{name}: the mean style, for truncation, is that of {MEAN_LATENTS:,} latents"
                )
        _refuse_faults(name, tensors, G.state_dict())
    if result.D is not None:
        for key in ("img_size", "img_channels", "n_labels"):
            if result.build_d.get(key, 0) != result.build_g.get(key, 0):
                raise NotThis(
                    f"G and D of another {key}: {result.build_g.get(key, 0)}, {result.build_d.get(key, 0)}"
                )
        _refuse_faults("D", result.D, _built(result, "d", result.build_d, "D", result.D).state_dict())


def _built(result: Imported, side: str, build: dict[str, Any], name: str, tensors: Tensors) -> nn.Module:
    """The network without memory, whose state dict is what is wanted; counts of batch norm join the tensors."""
    make = build_generator if side == "g" else build_discriminator
    try:
        with torch.device("meta"):
            network = make(result.model, **build)
    except ValueError as error:  # sizes and settings that the model does not have
        text = error.for_command_line if isinstance(error, UserError) else str(error)
        raise NotThis(f"{name} is no {result.model} that can be built: {text}") from None
    for key in network.state_dict():
        if key.endswith("num_batches_tracked"):
            tensors[key] = torch.zeros((), dtype=torch.int64)
    return network


def _refuse_faults(name: str, tensors: Tensors, wanted: Tensors) -> None:
    if reason := in_one_line(faults_of(tensors, wanted, name)):
        raise NotThis(f"not the tensors of its layout: {reason}")


def _given_mean(contents: list[Content], w_dim: int) -> torch.Tensor | None:
    """rosinality's latent_avg beside the networks, which not every file has."""
    for content in contents:
        found = content.value.get("latent_avg") if isinstance(content.value, dict) else None
        if isinstance(found, Stored | Array) and found.shape in ((w_dim,), (1, w_dim)):
            return as_float(found, "latent_avg").flatten()
    return None


@torch.no_grad()
def _measured_mean(mapping: nn.Module, tensors: Tensors) -> torch.Tensor:
    """Mean style over latents of a fixed seed; mapping: without memory, which it gets."""
    if max(mapping.z_dim, mapping.w_dim) > MAX_LATENT:
        raise NotThis(f"latents of {mapping.z_dim:,} numbers, styles of {mapping.w_dim:,}")
    own = {name.removeprefix("mapping."): x for name, x in tensors.items() if name.startswith("mapping.")}
    mapping = mapping.to_empty(device="cpu").eval()
    mapping.load_state_dict(own | {"w_avg": torch.zeros(mapping.w_dim)})
    z = torch.randn(MEAN_LATENTS, mapping.z_dim, generator=generator(0, "mean style"))
    return torch.stack([mapping(part).sum(0) for part in z.split(500)]).sum(0) / MEAN_LATENTS


# -- writing -----------------------------------------------------------------------------------------------------------


def write_generator(result: Imported, folder: AnyPath, names: Sequence[str]) -> None:
    """A generator/ folder of its own, with D in a file beside G's. UserError where something stands there already, or
    nothing can be written. names: of the files it comes from."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(os.scandir(folder))):
        raise UserError(f"--out {shown(str(folder))} is not empty: choose a new folder")
    build = result.build_g
    about = {
        "format": FORMAT,
        "model": result.model,
        "build": build,
        "dataset": "imported",
        "img_size": build["img_size"],
        "z_dim": build["z_dim"],
        "n_labels": build.get("n_labels", 0),
        "multi_hot": False,
        "label_names": [],
        "seed": 0,
        "data": {"files": "images of its authors"},
        "weights": list(result.sets),
        "step": 0,
        "imported": {"layout": result.title, "files": list(names)},
    }
    with torch.device("meta"):
        G = build_generator(result.model, **build)
    about["batch_norm"] = batch_norm_of(G)
    # the layouts are of what the newest of our networks makes of them
    about["revision"] = len(revisions_of(G))
    if about["batch_norm"] != "none":
        about["batch_norm"] = "statistics of the file"
    try:
        for name, tensors in result.sets.items():
            save_tensors(folder / f"{name}.safetensors", _dense(tensors), {"step": "0"})
        if result.D is not None:
            save_tensors(folder / D_FILE, _dense(result.D), {"step": "0"})
            about["discriminator"] = result.build_d
        disk.put(folder / "config.json", json.dumps(about, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--out {shown(str(folder))}: {error.strerror or error}") from None


def _dense(tensors: Tensors) -> Tensors:
    return {name: x.contiguous().clone() for name, x in tensors.items()}
