"""The `generator/` folder of a run: what a user samples from and shares (safetensors + json)."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor, nn

from errors import UserError
from generation.checkpoint import CheckpointStore, load_checkpoint
from modelling import build_generator
from modelling.layers import standing_statistics
from ops.precision import repeatable
from ops.rng import generator as seeded
from ops.rng import key
from ops.spectral_norm import iterate_spectral_norm
from training.logs import best_step

FORMAT = 1
STANDING_LATENTS = 512
LABEL_EXAMPLES = 512
CHUNK = 64


def label_examples(labels: np.ndarray, seed: int) -> str:
    """Attributes (N, K) of up to 512 images, one drawn from each of as many equal stretches: packed bits in hex.

    Whole rows, since attributes drawn one by one make faces that do not exist: bald, with bangs.
    """
    n = min(LABEL_EXAMPLES, len(labels))
    edges = np.arange(n + 1) * len(labels) // n
    within = torch.rand(n, generator=seeded(seed, "label examples"), dtype=torch.float64).numpy()
    index = edges[:-1] + (within * np.diff(edges)).astype(np.int64)
    return " ".join(row.tobytes().hex() for row in np.packbits(np.asarray(labels[index]) > 0, axis=1))


def read_label_examples(text: str, n_labels: int) -> Tensor:
    """What label_examples wrote, as zeros and ones (n, n_labels); ValueError for any other text."""
    rows = np.frombuffer(bytes.fromhex(text), np.uint8)
    width = (n_labels + 7) // 8
    if len(rows) == 0 or len(rows) % width:
        raise ValueError(f"label_examples are no rows of {n_labels} labels")
    bits = np.unpackbits(rows.reshape(-1, width), axis=1, count=n_labels)
    return torch.from_numpy(bits).to(torch.get_default_dtype())


def label_rows(labels: dict, n: int, seed: int) -> Tensor | None:
    """(n,) class indices 0, 1, 2, ... round robin, or (n, K) attributes of training images; None without labels.

    Attributes go through label_examples in an order drawn by the seed: those of an index depend on nothing else.
    """
    if not labels["n_labels"]:
        return None
    if not labels["multi_hot"]:
        return torch.arange(n) % labels["n_labels"]
    examples = read_label_examples(labels["label_examples"], labels["n_labels"])
    order = torch.randperm(len(examples), generator=seeded(seed, "attributes"))
    return examples[order[torch.arange(n) % len(examples)]]


def truncate_latents(z: Tensor, u: Tensor, threshold: float) -> Tensor:
    """z with entries beyond +-threshold drawn anew from N(0, 1) between them, by u uniform in [0, 1) of the same shape.

    So all entries follow N(0, 1) between the thresholds, and those that do already stay. arXiv:1809.11096 3.1.
    """
    below = torch.special.ndtr(torch.tensor(-threshold, dtype=torch.float64))
    anew = torch.special.ndtri(below + u.double() * (1 - 2 * below)).to(z.dtype).clamp(-threshold, threshold)
    return torch.where(z.abs() > threshold, anew, z)


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


@torch.no_grad()
def sampling_copy(G: nn.Module, labels: dict, seed: int = 0, truncation: float | None = None) -> nn.Module:
    """A copy of G in eval mode that is right for any batch size, one image included.

    Running statistics of batch norm lag behind the weights and never belong to averaged ones, so they are
    measured anew over 512 latents (standing statistics, arXiv:1809.11096); sigma of spectral norm likewise.
    truncation: threshold of these latents as of those that the copy is for, None for none. Whatever memory layout G
    trains in, the copy has the plain one: convolutions round by it, and a copy that is loaded from a file has that.
    """
    G = without_sync(copy.deepcopy(G)).requires_grad_(False)
    for tensor in (*G.parameters(), *G.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    param = next(G.parameters())
    with torch.random.fork_rng([param.device] if param.is_cuda else []), repeatable():
        torch.manual_seed(key(seed, "standing noise"))
        return _measured(G, labels, seed, truncation)


def _measured(G: nn.Module, labels: dict, seed: int, truncation: float | None) -> nn.Module:
    """G with sigma of its spectral norms and statistics of its batch norms measured anew, in eval mode."""
    param = next(G.parameters())
    iterate_spectral_norm(G, 15)
    source = seeded(seed, "standing")
    z = torch.randn(STANDING_LATENTS, G.z_dim, generator=source)
    if truncation is not None:
        z = truncate_latents(z, torch.rand(z.shape, generator=source), truncation)
    z = z.to(param)
    y = label_rows(labels, STANDING_LATENTS, seed)
    if y is not None and y.dim() == 1 and labels["n_labels"] > STANDING_LATENTS:  # all over the classes
        y = torch.arange(STANDING_LATENTS) * labels["n_labels"] // STANDING_LATENTS
    batches = [
        (z[i : i + CHUNK], None if y is None else y[i : i + CHUNK].to(z.device))
        for i in range(0, STANDING_LATENTS, CHUNK)
    ]
    return standing_statistics(G, batches)


def batch_norm_of(network: nn.Module) -> str:
    """What a protocol says of the batch norm of a sampling copy."""
    has = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    return f"standing statistics over {STANDING_LATENTS} latents" if has else "none"


def export_generator(folder: Path, config: dict, networks: dict[str, nn.Module], step: int) -> None:
    """Write config.json and one safetensors file a weight set; the first of `networks` is the default.

    config: what load_generator and the tools read (model, build, dataset, labels); networks: sampling copies.
    Each file is replaced in one move, so a reader never sees half of one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in networks.items():
        tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
        temporary = folder / f"tmp-{name}.safetensors"
        save_file(tensors, temporary, metadata={"step": str(step)})
        os.replace(temporary, folder / f"{name}.safetensors")
    full = {"format": FORMAT, **config, "weights": list(networks), "step": step}
    full["batch_norm"] = batch_norm_of(network)
    temporary = folder / "tmp-config.json"
    temporary.write_text(json.dumps(full, indent=2) + "\n")
    os.replace(temporary, folder / "config.json")


def find_generator(path: str | Path) -> Path:
    """The generator/ folder for a run folder or for itself; UserError where there is none."""
    path = Path(path)
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


def load_generator(
    path: str | Path, weights: str | None = None, device: str = "cpu", checkpoint: str | None = None
) -> tuple[nn.Module, dict]:
    """(G in eval mode, its config with `step` and `chosen` weights) from a run or a generator/ folder.

    weights: "ema", "raw", "ema-0.999", ...; None takes the first that the run wrote (EMA where there is one).
    checkpoint: "best" or a step, None for the newest exported weights.
    Raises UserError for a folder that is no run, unknown weights or checkpoint, or a damaged file.
    """
    folder = find_generator(path)
    try:
        config = json.loads((folder / "config.json").read_text())
        known = config["weights"]
        build = config["build"]
        if config["multi_hot"]:
            read_label_examples(config["label_examples"], config["n_labels"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'config.json'} is damaged or of an older version ({error}): resume the run to write it anew"
        ) from None
    chosen = known[0] if weights is None else weights
    if chosen not in known:
        raise UserError(f"--weights {chosen}: this run has {', '.join(known)}")
    config["chosen"] = chosen
    G = build_generator(config["model"], **build)
    if checkpoint is not None:
        state = load_checkpoint(find_checkpoint(folder, checkpoint))
        G.load_state_dict((state["ema"] | {"raw": state["networks"]["G"]})[chosen])
        config["step"] = state["step"]
        return sampling_copy(G.to(device), config, config["seed"]), config
    file = folder / f"{chosen}.safetensors"
    try:
        G.load_state_dict(load_file(file))
        with safe_open(file, "pt") as opened:
            config["step"] = int(opened.metadata()["step"])
    except Exception as error:
        raise UserError(f"{file} is damaged ({error}); resume the run to write it anew") from None
    return G.requires_grad_(False).eval().to(device), config
