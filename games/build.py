"""Networks of a noise-to-image game from the settings of a run: rehearsed on the meta device, built, described."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from errors import UserError, shown
from games.growing import growth_of
from games.schedule import schedule_of
from games.task import Place
from generation.generator import file_sha256
from generation.labels import label_examples
from images.batches import ImageData, Shard
from images.layout import why_unlabelled
from images.sources import DATASETS
from losses import PENALTIES, weight_matrices
from modelling import (
    Model,
    build_discriminator,
    build_generator,
    check_contract,
    check_settings,
    check_spectral_norm,
    find_model,
    is_file_name,
    model_of,
    model_title,
    network_classes,
)
from modelling.contract import Labels, check_values, network_title
from modelling.freezing import check_freezable, freeze
from modelling.growing import Stage
from modelling.layers import Size, adds_noise, image_shape
from modelling.san import find_head
from ops.memory import memory_of, size_in_words
from ops.rng import key
from settings import TrainConfig

COPIES = {"Adam": 4, "AdamW": 4, "RMSprop": 3, "SGD": 2}  # weights, gradients and what the optimiser keeps
REHEARSED_LABELS = 2  # how many the data has is not known yet
# Of a growing network: 9 sizes, fading or not, with and without gradients of weights and input.
COMPILED_FORMS = 128
WAYS_TO_LABEL = (
    "two class folders or more, dataset.json, metadata.csv or .jsonl with a column label, a .cls or .json beside each "
    "image, or list_attr_celeba.txt"
)


def network_settings(
    config: TrainConfig, img_size: Size, img_channels: int, n_labels: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of build_generator and build_discriminator beside the model's name."""
    image = {"img_size": img_size, "img_channels": img_channels, "n_labels": n_labels, "z_dim": config.z_dim}
    settings = {side: dict(image) for side in ("g", "d")}
    for side, network in network_classes(config.model).items():
        settings[side]["spectral_norm"] = getattr(config, f"spectral_norm_{side}")
        if n_labels:
            settings[side]["condition"] = getattr(config, f"condition_{side}")
        own = getattr(config, f"{side}_kwargs")
        check_settings(config.model, network, own, f"--{side}_kwargs")
        norm = getattr(config, f"norm_{side}")
        settings[side] |= own | ({} if norm is None else {"norm": norm})
    return settings["g"], settings["d"]


def check_own_settings(config: TrainConfig, own: dict[str, nn.Module]) -> None:
    """UserError for settings of networks that are given as they are; that D tells classes is one of the game."""
    for name in own:
        side = name.lower()
        of_built = ("norm", "spectral_norm", "condition")
        asked = {f"{setting}_{side}" for setting in of_built} | {f"{side}_kwargs"}
        for setting in sorted(asked - {"condition_d"} if config.classifies() else asked):
            if config.asked.get(setting):
                raise UserError(
                    f"--{setting} is for a network that is built here, and {name} was given: leave it out"
                )


def check_own(config: TrainConfig, own: dict[str, nn.Module], G: nn.Module, D: nn.Module, row: Model) -> None:
    """UserError for networks of which some were given, and that lack what the settings ask of them."""
    for name in config.penalties():
        if PENALTIES[name].styles and not row.styles:
            raise UserError(
                f"--penalty {name} is of a G with styles, and {network_title(G)} has none: leave it out"
            )
    growth = growth_of(config)
    for network in () if growth is None else (G, D):
        stages = [module for module in network.modules() if isinstance(module, Stage)]
        if not stages or any(set(growth.sizes) - set(stage.sizes) for stage in stages):
            raise UserError(
                f"--model {model_title(config.model)} grows, and {network_title(network)} has no "
                f"modelling.growing.Stage of {', '.join(map(str, growth.sizes))} px: give --no_grow, or no --model"
            )


def check_of_model(config: TrainConfig, G: nn.Module, D: nn.Module) -> None:
    """UserError unless both networks are the model's own: its game asks more of them than the contract does."""
    row = find_model(config.model)
    for name, network, wanted in (("G", G, row.Generator), ("D", D, row.Discriminator)):
        if not isinstance(network, wanted):
            raise UserError(
                f"--model {config.model} plays a game of its own, with its own networks, and the {name} given is a "
                f"{network_title(network)}: leave {name} out, or the model"
            )


def rehearsed(
    config: TrainConfig,
    shard: Shard,
    own: dict[str, nn.Module],
    img_channels: int,
    images: ImageData | None = None,
) -> tuple[nn.Module, nn.Module]:
    """(G, D) on the meta device, which computes nothing, after one micro-batch; ValueError for what does not fit.

    own: networks given as instances, which are checked, and returned, as they are; images: None where they are not read
    yet. Networks that are given for labels are run once these are known, by build_networks.
    """
    check_own_settings(config, own)
    schedule = schedule_of(config)
    n, *others = (share_of(shard, batch_size).n for batch_size in reversed(schedule.batch_sizes))
    labels = {"n_labels": 0, "condition_d": config.condition_d}
    if config.conditional and images is None:
        labels |= {"n_labels": REHEARSED_LABELS, "passes": not own}
    elif config.conditional:
        check_data_has_labels(config, images)
        labels |= {"n_labels": images.n_labels, "multi_hot": images.multi_hot}
    for name in config.penalties():
        for share in (n, *others):
            if PENALTIES[name].styles and share % 2:
                raise UserError(
                    f"--penalty {name} takes half a batch: the share of {share} of a process must be even"
                )
    image = {"img_size": config.img_size, "img_channels": img_channels}
    g, d = network_settings(config, **image, n_labels=labels["n_labels"])
    with torch.device("meta"):
        G = own["G"] if "G" in own else build_generator(config.model, **g | {"spectral_norm": False})
        D = own["D"] if "D" in own else build_discriminator(config.model, **d | {"spectral_norm": False})
    row = model_of(G, D) if own else find_model(config.model)
    if not own:  # given ones have found room
        check_fits(config, G, D, n, img_channels)
    for share in dict.fromkeys((n, *others)):
        check_contract(G, D, n=share, z_dim=config.z_dim, row=row, **image, **labels)
    check_freezable(D, config.freeze_d)
    if config.san and labels.get("passes", True):
        head_of(D, n, labels["n_labels"], bool(labels.get("multi_hot")))
    if own:
        check_own(config, own, G, D, row)
    check_penalties(config, G, D)
    for side, network, wanted in (("g", G, config.spectral_norm_g), ("d", D, config.spectral_norm_d)):
        if wanted and side.upper() not in own:
            check_spectral_norm(network, config.model, side)
    return G, D


def check_penalties(config: TrainConfig, G: nn.Module, D: nn.Module) -> None:
    """UserError for penalties that cannot be taken of these networks."""
    for name in config.penalties():
        if PENALTIES[name].approximates is not None and adds_noise(D):
            raise UserError(
                f"--penalty {name} takes the differences of D's logits over a little noise, and {network_title(D)} "
                "adds more of its own: leave dropout and noise_std out of --d_kwargs"
            )
    if config.sync_bn and config.penalised() and any(isinstance(m, _BatchNorm) for m in D.modules()):
        raise UserError(
            f"--sync_bn has no second derivative, which a gradient penalty takes, and {network_title(D)} has batch "
            "norm: leave one of both out"
        )
    if "ortho" in config.penalties() and not weight_matrices(G):
        raise UserError(f"--penalty ortho: {network_title(G)} has no layers that it knows; leave it out")


def head_of(D: nn.Module, n: int, n_labels: int, multi_hot: bool) -> str | None:
    """The name of the last layer of a D that is given n images and labels, see find_head; UserError for --san."""
    with torch.device("meta"):
        x = torch.zeros(n, D.img_channels, *image_shape(D.img_size))
        return find_head(D, x, Labels(n_labels, multi_hot, False).rows(n, x.device))


def share_of(shard: Shard, batch_size: int) -> Shard:
    """The shard of a batch of another size; UserError that names --batch_by_size where it cannot be shared out."""
    if batch_size == shard.batch_size:
        return shard
    try:
        return shard.of(batch_size)
    except UserError as error:
        raise UserError(f"--batch_by_size {batch_size}: {error}") from None


def check_fits(config: TrainConfig, G: nn.Module, D: nn.Module, n: int, img_channels: int) -> None:
    """UserError for networks and a micro-batch of n that cannot find room on the device, whatever else is there.

    Counted is the least that a step needs: weights, gradients, the optimisers' moments, averages, reals and latents.
    """
    n_emas = max(len(config.ema_halflife), len(config.ema_decay)) if config.ema else 0
    n_emas += len(config.ema_power)
    of_g, of_d = (sum(p.numel() * p.element_size() for p in network.parameters()) for network in (G, D))
    weights = (COPIES[config.optimizer] + len(config.lookahead)) * (of_g + of_d) + n_emas * of_g
    height, width = image_shape(config.img_size)
    batch = 4 * n * (config.z_dim + img_channels * height * width)
    room = memory_of(config.device)
    if room is not None and weights + batch > room:
        raise UserError(
            f"the networks need at least {size_in_words(weights)} with their optimisers and a batch of {n:,} "
            f"{size_in_words(batch)}, and there are {size_in_words(room)} of memory: lower --z_dim, --img_size, "
            "--batch_size, or the widths in --g_kwargs and --d_kwargs"
        )


def check_data_has_labels(config: TrainConfig, data: ImageData) -> None:
    """UserError unless the data has the labels that a conditional run needs."""
    if not config.conditional:
        return
    if data.labels is None:
        name = data.name if config.data is None else shown(config.data)
        why = why_unlabelled(data.files) or WAYS_TO_LABEL
        raise UserError(f"--conditional needs labels, and {name} has none ({why}): leave the flag out")
    head = config.class_head()
    if data.multi_hot and head is not None and head.one_class:
        raise UserError(
            f"--condition_d {config.condition_d} needs images of one class each, and {data.name} has attributes: "
            "--condition_d ac takes them"
        )


def build_networks(
    config: TrainConfig, place: Place, data: ImageData, own: dict[str, nn.Module]
) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """(G, D, the arguments that rebuild G), both on the device; own: networks given as instances.

    One of those that is in eval mode and frozen, as load_generator gives it, is trained all the same; modules of one in
    train mode, and parameters of one that is frozen in part, stay as they are.
    """
    check_data_has_labels(config, data)
    n_labels = data.n_labels if config.conditional else 0
    g, d = network_settings(config, data.img_size, data.img_channels, n_labels)
    torch.manual_seed(key(config.seed, "weights"))
    G = own["G"] if "G" in own else build_generator(config.model, **g)
    D = own["D"] if "D" in own else build_discriminator(config.model, **d)
    for network in own.values():
        if not network.training:
            network.train()
        if not any(p.requires_grad for p in network.parameters()):
            network.requires_grad_(True)
    if own or is_file_name(config.model):  # for these images, and what the rehearsal could not run
        image = {"img_size": data.img_size, "img_channels": data.img_channels}
        labels = {"n_labels": n_labels, "condition_d": config.condition_d, "multi_hot": data.multi_hot}
        check_contract(G, D, n=place.shard.n, z_dim=config.z_dim, **image, **labels)
    # a graph for each size, fade and frozen set
    if growth_of(config) is not None and place.compiled is not None:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_FORMS)
    G, D = place.settle(G, config), place.settle(D, config)
    if own or is_file_name(config.model):
        with place.autocast():
            check_values(G, D, n=place.shard.n, n_labels=n_labels, multi_hot=data.multi_hot)
    freeze(D, config.freeze_d)
    return G, D, g


def generator_config(
    config: TrainConfig, data: ImageData, build: dict[str, Any], own: dict[str, nn.Module]
) -> dict[str, Any]:
    """generator/config.json: how to rebuild G, and on what it was trained.

    A model of a user's file is named by that and its checksum; one that was given as an instance has no name.
    """
    is_file = is_file_name(config.model) and "G" not in own
    labelled = config.conditional
    row: dict[str, Any] = {
        "model": None if "G" in own else model_title(config.model),
        "build": {} if "G" in own else build,
        "dataset": data.name,
        "img_size": data.img_size,
        "z_dim": config.z_dim,
        "n_labels": data.n_labels if labelled else 0,
        "multi_hot": bool(labelled and data.multi_hot),
        "label_names": list(data.label_names) if labelled else [],
        "seed": config.seed,
        # what is shared says nothing of where they stand: the run's own config.json does
        "data": {
            "name": data.name,
            "files": None if config.data is None else Path(config.data).name,
            "fingerprint": data.fingerprint,
            "split": config.split,
            "n_images": len(data),
        },
    }
    if config.data is not None or DATASETS[config.dataset].of_pictures:
        asked = list(config.value_range) or None
        row["data"] |= {"crop": config.crop, "value_range": asked, "scale": data.scale}
    if is_file:
        row["model_file"] = {"name": row["model"], "sha256": file_sha256(Path(config.model).expanduser())}
    if row["multi_hot"]:
        row["label_examples"] = label_examples(data.labels, config.seed)
    return row
