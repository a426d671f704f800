"""Snapshots of a run's power-function averages, ema/step-00001000.safetensors, and averages of any width made of them.

    for width, G, about in reconstructed("runs/NAME", [0.07, 0.15]):    # as load_generator's (G, about)

A file holds every average of its step, a tensor WIDTH/NAME each, and says its step, images and widths: what ema.py
needs for the average that would have been kept at another width. Buffers, which no average has, are those of the step
itself; batch norm's statistics are measured anew, as of every averaged generator.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from disk import Unreadable
from ema import LEAST_WIDTH, MOST_WIDTH, exponent_of, reconstruct
from errors import UserError, shown, tell
from generation.generator import batch_norm_of, check_device, filled, opened, rebuilt, sampling_copy
from generation.schema import MAX_COUNT
from generation.translator import as_trained, network_names, rebuilt_translator
from metrics.features import save_tensors
from tensorfile import faults_of, in_one_line, read_metadata, read_safetensors

FOLDER = "ema"
MOST_USED = 256  # snapshots of one average; of more, as many at equal distances
SOME_OFF, MOST_OFF = 0.05, 0.5  # of a profile, relative, from where that is said, and from where it is none
ADVICE = "remove it, and the others are used"

Found = tuple[float, nn.Module, dict[str, Any]]  # width, network, what is known of it


def power_name(width: float) -> str:
    """How the weight set of an average of this width is called."""
    return f"ema-power-{width}"


def made_name(width: float) -> str:
    """How the weight set of an average that is made of snapshots is called."""
    return f"ema-std-{width:g}"


# -- files -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """The averages of one step: after how many images, and of which widths."""

    file: Path
    step: int
    images: int
    widths: tuple[float, ...]


def snapshot_files(run: Path) -> dict[int, Path]:
    """Step -> file, ascending."""
    folder = run / FOLDER
    if not folder.is_dir():
        return {}
    matches = (re.fullmatch(r"step-(\d{8,15})\.safetensors", name) for name in os.listdir(folder))
    return {
        int(match[1]): folder / match[0] for match in sorted(filter(None, matches), key=lambda m: int(m[1]))
    }


def write_snapshot(run: Path, step: int, images: int, averages: Mapping[float, nn.Module]) -> None:
    """Keep the averages of a step by their widths, after so many images; OSError, also where the run is gone."""
    (run / FOLDER).mkdir(exist_ok=True)
    tensors = {
        f"{width}/{name}": x.detach().cpu().contiguous()
        for width, module in averages.items()
        for name, x in module.state_dict().items()
    }
    about = {"step": str(step), "images": str(images), "widths": " ".join(map(str, averages))}
    save_tensors(run / FOLDER / f"step-{step:08d}.safetensors", tensors, about)


def drop_snapshots(run: Path, step: int) -> None:
    """Remove those of later steps, the last one first; OSError."""
    for at, file in reversed(snapshot_files(run).items()):
        if at > step:
            file.unlink(missing_ok=True)


def read_snapshot(step: int, file: Path) -> Snapshot:
    """What a file says of itself; UserError."""
    try:
        about = read_metadata(file)
        images, widths = int(about["images"]), tuple(map(float, about["widths"].split()))
        if int(about["step"]) != step or not 0 < images <= MAX_COUNT or not widths:
            raise ValueError("it does not say its step, images and widths")
        if len(set(widths)) < len(widths) or not all(LEAST_WIDTH <= w <= MOST_WIDTH for w in widths):
            raise ValueError("its widths are none")
    except Unreadable as error:
        raise UserError(f"{error.for_command_line}; {ADVICE}") from None
    except (KeyError, ValueError) as error:
        raise UserError(f"{file} is damaged ({shown(str(error), 80)}); {ADVICE}") from None
    return Snapshot(file, step, images, widths)


def read_snapshots(run: Path, step: int | None = None) -> list[Snapshot]:
    """The snapshots up to a step, None for the last one, which comes last; UserError where that step has none."""
    files = snapshot_files(run)
    if not files:
        raise UserError(
            f"{run} has no snapshots of averages ({FOLDER}/): train with --ema_power 0.05 0.1, and other widths can be "
            "made of its folder afterwards"
        )
    steps = list(files)
    last = steps[-1] if step is None else step
    if last not in files:
        listed = ", ".join(map(str, steps if len(steps) < 9 else [*steps[:3], "...", *steps[-3:]]))
        raise UserError(f"--step {last}: {run} has snapshots of steps {listed}")
    found: dict[int, Snapshot] = {}  # by images: G may stand still between two of them
    for snapshot in (read_snapshot(at, files[at]) for at in steps if at <= last):
        if found and snapshot.images < max(found):
            raise UserError(f"{snapshot.file} is damaged (fewer images than before it); {ADVICE}")
        found[snapshot.images] = snapshot
    kept = list(found.values())[::-1]
    return kept[:: -(-len(kept) // MOST_USED)][::-1]


# -- averages made of them ---------------------------------------------------------------------------------------------


def shares_of(snapshots: Sequence[Snapshot], width: float) -> tuple[list[float], float]:
    """(what each average of each snapshot counts in one of another width at the last of them, how far off its profile
    is): see ema.reconstruct."""
    places = [(s.images, exponent_of(w)) for s in snapshots for w in s.widths]
    return reconstruct(places, (snapshots[-1].images, exponent_of(width)))


def combined(
    snapshots: Sequence[Snapshot], shares: Sequence[Sequence[float]], like: nn.Module
) -> list[dict[str, Tensor]]:
    """The state of `like` for each of the shares: parameters summed in float64, all else as the last snapshot has it.

    Each file is read once. UserError for one that is damaged, or of another network.
    """
    wanted, parameters = like.state_dict(), dict(like.named_parameters(remove_duplicate=False))
    sums = [{n: torch.zeros(p.shape, dtype=torch.float64) for n, p in parameters.items()} for _ in shares]
    at, rest = 0, {}
    for snapshot in snapshots:
        tensors = read_safetensors(snapshot.file)[0]
        for width in snapshot.widths:
            prefix = f"{width}/"
            state = {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}
            if reason := in_one_line(faults_of(state, wanted)):
                raise UserError(f"{snapshot.file} is damaged ({shown(reason)}); {ADVICE}")
            for total, share in zip(sums, shares, strict=True):
                for name in parameters:
                    total[name].add_(state[name], alpha=share[at])
            rest, at = state, at + 1
    return [rest | {name: x.to(rest[name].dtype) for name, x in total.items()} for total in sums]


def fitting_shares(snapshots: Sequence[Snapshot], width: float) -> list[float]:
    """shares_of; says where the profile is off, UserError where it is of another average altogether."""
    shares, off = shares_of(snapshots, width)
    last, kept = snapshots[-1], sorted({w for s in snapshots for w in s.widths})
    what = f"width {width:g} at step {last.step} of {len(snapshots)} snapshots of {', '.join(map(str, kept))}"
    if off > MOST_OFF:
        raise UserError(
            f"{what}: its profile would be off by {off:.0%}: choose a width nearer to those, or a later step"
        )
    if off > SOME_OFF:
        tell(f"warning: {what}: its profile is off by {off:.0%}")
    return shares


def run_of(folder: Path) -> Path:
    """The run of a generator/ folder; the folder itself where it stands alone."""
    folder = folder.resolve()
    return folder.parent if folder.name == "generator" else folder


def reconstructed(
    path: str | os.PathLike[str],
    widths: Sequence[float],
    step: int | None = None,
    device: str | torch.device = "cpu",
    *,
    model_file: str | os.PathLike[str] | None = None,
    G: nn.Module | None = None,
) -> Iterator[Found]:
    """(width, network in eval mode without gradients, what is known of it) of a run that kept snapshots: what
    load_generator gives, with the average of each width at the step of a snapshot, None for the last.

    Networks that translate pictures come as load_translator's own, several as a ModuleDict. model_file, G: as of
    load_generator. UserError for snapshots that are missing or damaged, and widths that there are none of.
    """
    check_device(device)
    folder, about = opened(path, None)
    snapshots = read_snapshots(run_of(folder), step)
    shares = [fitting_shares(snapshots, width) for width in widths]
    translates = about["translates"] is not None
    if translates:
        build = partial(rebuilt_translator, folder, about, network_names(about))
    else:
        build = rebuilt(folder, about, model_file) if G is None else lambda: G
    with torch.device("meta"):
        like = build()
    states = combined(snapshots, shares, like)
    own = G is not None or about.get("model_file") is not None
    for width, state in zip(widths, states, strict=True):
        network = filled(build, (snapshots[-1].file, state), folder, about["revision"], own)
        known = about | {"chosen": made_name(width), "step": snapshots[-1].step}
        if translates:
            network = as_trained(network.to(device), known)
        else:
            network = sampling_copy(network.to(device), about, about["seed"])
            known["batch_norm"] = batch_norm_of(network)
        yield width, network, known
