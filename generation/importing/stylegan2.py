"""StyleGAN2 as others write it: the official pickles (StyleGAN2-ADA, StyleGAN3's repository), and rosinality's .pt."""

import math
from typing import Any

import torch

from generation.importing.layout import (
    MAPPING_LR,
    Imported,
    Network,
    NotThis,
    Taker,
    Tensors,
    channel_settings,
    counted,
    imported,
    mapping,
    prefixed,
    told,
    with_discriminator,
)
from ops.rng import generator

GAIN = math.sqrt(2)  # of LeakyReLU, which ours has in the mapping's weights: biases meet it here


# -- official ----------------------------------------------------------------------------------------------------------


def official(networks: dict[str, Network]) -> Imported | None:
    """A network-snapshot: G, D and G_ema, of which one G is needed. None for another layout; NotThis."""
    found = {name: net for name, net in networks.items() if "synthesis.b4.const" in net.tensors}
    if not found:
        if any(name.startswith("synthesis.L0_") for net in networks.values() for name in net.tensors):
            raise NotThis("it is a StyleGAN3, which is not made here; StyleGAN2 of the same repository is")
        return None
    result = imported("official StyleGAN2", "stylegan2", found, ("G_ema", "G"), _official_g)
    D = next((net for net in networks.values() if "b4.out.weight" in net.tensors), None)
    return with_discriminator(result, D, _official_d)


def _levels(network: Network, name: str) -> list[int]:
    """4, 8, 16, ... as long as a network has `name` with the size for {}."""
    sizes = [4]
    while name.format(2 * sizes[-1]) in network.tensors:
        sizes.append(2 * sizes[-1])
    if len(sizes) < 2 or len(sizes) > 10:
        raise NotThis(f"maps of {', '.join(map(str, sizes))} px")
    return sizes


def _check_filters(take: Taker) -> None:
    """NotThis unless all filters are [1, 3, 3, 1]; they are made anew."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    for name in [name for name in take.left if name.endswith("resample_filter")]:
        x = take(name)
        wanted = torch.outer(taps, taps) if x.dim() == 2 else taps
        if x.shape != wanted.shape or not torch.allclose(x, wanted, atol=1e-6):
            raise NotThis(f"{take.title} {name} is another filter than [1, 3, 3, 1]")


def _clamp(network: Network, path: str) -> float | None:
    """The limit of a layer's outputs; that of the published configurations where the file does not say."""
    clamp = network.attribute(path, "conv_clamp", 256.0)
    if clamp is not None and not (isinstance(clamp, int | float) and 1e-3 <= clamp < 1e9):
        raise NotThis(f"conv_clamp {told(clamp)}")
    return clamp


def _n_half(network: Network, paths: list[str]) -> int:
    """How many levels computed in half precision; 4 where the file does not say."""
    return sum(bool(network.attribute(path, "use_fp16", i < 4)) for i, path in enumerate(reversed(paths)))


def _official_mapping(take: Taker) -> tuple[dict[str, Any], Tensors]:
    """(z_dim, n_labels, mapping_layers), and the tensors; w_avg only where there is one."""
    network, embed = take.network, "mapping.embed.weight"
    n = counted(network, "mapping.fc{}.weight")
    if n == 0:
        raise NotThis(f"{take.title} has no mapping network")
    lr = network.attribute("mapping.fc0", "bias_gain", MAPPING_LR)
    if not isinstance(lr, float) or not 0 < lr <= 1:
        raise NotThis(f"a mapping that learns at {told(lr)} of the rate")
    found, width, n_labels = {}, take.shape("mapping.fc0.weight", 2)[1], 0
    if embed in take:
        features, n_labels = take.shape(embed, 2)
        width -= features
        found = {"embedding.weight": take(embed), "embedding.bias": take("mapping.embed.bias")}
    found |= mapping(
        [(take(f"mapping.fc{i}.weight"), take(f"mapping.fc{i}.bias")) for i in range(n)], lr, GAIN
    )
    if "mapping.w_avg" in take:
        found["w_avg"] = take("mapping.w_avg")
    return {"z_dim": width, "n_labels": n_labels, "mapping_layers": n}, prefixed("mapping.", found)


def _official_g(take: Taker) -> tuple[dict[str, Any], Tensors]:
    network = take.network
    sizes = _levels(network, "synthesis.b{}.conv1.weight")
    _check_filters(take)
    build, found = _official_mapping(take)
    widths, images = [], []
    for i, size in enumerate(sizes):
        block, ours = f"synthesis.b{size}", f"blocks.{i}"
        widths.append(take.shape(f"{block}.conv1.weight", 4)[0])
        if network.attribute(block, "architecture", "skip") not in ("skip", "orig"):
            raise NotThis(
                "its G has residual paths, and ours sums images of all sizes (skip) or makes one (orig)"
            )
        if i == 0:
            found[f"{ours}.const"] = take(f"{block}.const")
        else:
            # as the transposed convolution reads it
            found[f"{ours}.convs.0.weight"] = take(f"{block}.conv0.weight", 1, 0, 2, 3)
            found |= _official_layer(take, f"{block}.conv0", f"{ours}.convs.0")
        last = f"{ours}.convs.{min(i, 1)}"
        found[f"{last}.weight"] = take(f"{block}.conv1.weight")
        found |= _official_layer(take, f"{block}.conv1", last)
        images.append(f"{block}.torgb.weight" in take)
        for part in ("weight", "bias", "affine.weight", "affine.bias") if images[-1] else ():
            found[f"{ours}.to_image.{part}"] = take(f"{block}.torgb.{part}")
    if not images[-1] or len(set(images[:-1])) > 1:
        raise NotThis("images at some sizes only")
    build |= channel_settings(sizes, widths) | {
        "img_size": sizes[-1],
        "img_channels": take.shape(f"synthesis.b{sizes[-1]}.torgb.weight", 4)[0],
        "w_dim": take.shape("synthesis.b4.conv1.affine.weight", 2)[1],
        "noise": "blocks.0.convs.0.noise" in found,
        "architecture": "skip" if images[0] else "orig",
        "conv_clamp": _clamp(network, "synthesis.b4.conv1"),
        "n_half": _n_half(network, [f"synthesis.b{size}" for size in sizes]),
    }
    return build, found


def _official_layer(take: Taker, theirs: str, ours: str) -> Tensors:
    """What a styled convolution has beside its weight."""
    names = {"bias": "bias", "affine.weight": "affine.weight", "affine.bias": "affine.bias"}
    if f"{theirs}.noise_const" in take:
        names |= {"noise_const": "noise", "noise_strength": "strength"}
    found = {f"{ours}.{new}": take(f"{theirs}.{old}") for old, new in names.items()}
    if f"{ours}.strength" in found:
        found[f"{ours}.strength"] = found[f"{ours}.strength"].reshape(())
    return found


def _official_d(take: Taker) -> tuple[dict[str, Any], Tensors]:
    network, found = take.network, {}
    sizes = _levels(network, "b{}.conv0.weight")
    _check_filters(take)
    residual = f"b{sizes[-1]}.skip.weight" in take
    for i, size in enumerate(reversed(sizes[1:])):
        block = f"b{size}"
        if network.attribute(block, "architecture", "resnet") == "skip":
            raise NotThis("its D reads images at all sizes (skip), which is not made here")
        parts = {"fromrgb": "from_image"} if i == 0 else {}
        for old, new in (parts | {"conv0": "conv0", "conv1": "conv1"}).items():
            found |= {f"blocks.{i}.{new}.{x}": take(f"{block}.{old}.{x}") for x in ("weight", "bias")}
        if residual:
            found[f"blocks.{i}.shortcut.weight"] = take(f"{block}.skip.weight")
    for old, new in (("conv", "conv"), ("fc", "hidden"), ("out", "out")):
        found |= {f"{new}.{x}": take(f"b4.{old}.{x}") for x in ("weight", "bias")}
    build: dict[str, Any] = {}
    if counted(network, "mapping.fc{}.weight"):
        build, labels = _official_mapping(take)
        found |= labels
        del build["z_dim"]
    group = network.attribute("b4.mbstd", "group_size", 4)
    widths = [
        take.shape("b4.conv.weight", 4)[0],
        *(take.shape(f"b{s}.conv0.weight", 4)[0] for s in sizes[1:]),
    ]
    return build | channel_settings(sizes, widths) | {
        "img_size": sizes[-1],
        "img_channels": take.shape(f"b{sizes[-1]}.fromrgb.weight", 4)[1],
        "group_size": group if isinstance(group, int) and 1 <= group <= 4096 else 4,
        "architecture": "resnet" if residual else "orig",
        "conv_clamp": _clamp(network, "b4.conv"),
        "n_half": _n_half(network, [f"b{size}" for size in sizes]),
    }, found  # fmt: skip


# -- rosinality --------------------------------------------------------------------------------------------------------


def rosinality(networks: dict[str, Network]) -> Imported | None:
    """g, d and g_ema of a .pt, of which one G is needed; the mean style is measured where the file has none."""
    found = {name: net for name, net in networks.items() if "conv1.conv.modulation.weight" in net.tensors}
    if not found:
        return None
    result = imported("rosinality's StyleGAN2", "stylegan2", found, ("g_ema", "g"), _rosinality_g)
    D = next((net for net in networks.values() if "final_linear.1.weight" in net.tensors), None)
    return with_discriminator(result, D, _rosinality_d, "d")


def _rosinality_g(take: Taker) -> tuple[dict[str, Any], Tensors]:
    network = take.network
    n = counted(network, "style.{}.weight", first=1)
    n_levels = 1 + counted(network, "to_rgbs.{}.bias")
    take.drop(".kernel")
    sizes = [4 << i for i in range(n_levels)]
    # the first of the sequence, style.0, normalises latents
    layers = [(take(f"style.{i}.weight"), take(f"style.{i}.bias")) for i in range(1, n + 1)]
    found = prefixed("mapping.", mapping(layers, MAPPING_LR, GAIN))
    found["blocks.0.const"] = take("input.input").squeeze(0)
    widths = []
    for i in range(n_levels):
        theirs = ["conv1"] if i == 0 else [f"convs.{2 * i - 2}", f"convs.{2 * i - 1}"]
        for k, layer in enumerate(theirs):
            number = max(2 * i - 1 + k, 0)
            found |= _rosinality_layer(take, layer, f"blocks.{i}.convs.{k}", number, sizes[i])
        if i:
            name = f"blocks.{i}.convs.0.weight"
            found[name] = found[name].transpose(0, 1).contiguous()
        widths.append(len(found[f"blocks.{i}.convs.0.bias"]))
        image, ours = "to_rgb1" if i == 0 else f"to_rgbs.{i - 1}", f"blocks.{i}.to_image"
        found[f"{ours}.weight"] = take(f"{image}.conv.weight").squeeze(0)
        found[f"{ours}.bias"] = take(f"{image}.bias").flatten()
        for part in ("weight", "bias"):
            found[f"{ours}.affine.{part}"] = take(f"{image}.conv.modulation.{part}")
    return channel_settings(sizes, widths) | {
        "img_size": sizes[-1],
        "img_channels": len(found["blocks.0.to_image.bias"]),
        "z_dim": take.shape("style.1.weight", 2)[1],
        "n_labels": 0,
        "w_dim": take.shape("conv1.conv.modulation.weight", 2)[1],
        "mapping_layers": n,
        "conv_clamp": None,
    }, found  # fmt: skip


def _rosinality_layer(take: Taker, theirs: str, ours: str, number: int, size: int) -> Tensors:
    """A styled convolution; older files have no constant noise, and get some."""
    noise = f"noises.noise_{number}"
    drawn = torch.randn(1, 1, size, size, generator=generator(0, noise))
    return {
        f"{ours}.weight": take(f"{theirs}.conv.weight").squeeze(0),
        f"{ours}.affine.weight": take(f"{theirs}.conv.modulation.weight"),
        f"{ours}.affine.bias": take(f"{theirs}.conv.modulation.bias"),
        f"{ours}.strength": take(f"{theirs}.noise.weight").reshape(()),
        f"{ours}.bias": take(f"{theirs}.activate.bias"),
        f"{ours}.noise": (take(noise) if noise in take else drawn).flatten(0, 2),
    }


def _rosinality_d(take: Taker) -> tuple[dict[str, Any], Tensors]:
    take.drop(".kernel")
    n = counted(take.network, "convs.{}.skip.1.weight", first=1)
    found = {
        "blocks.0.from_image.weight": take("convs.0.0.weight"),
        "blocks.0.from_image.bias": take("convs.0.1.bias"),
        "conv.weight": take("final_conv.0.weight"),
        "conv.bias": take("final_conv.1.bias"),
    }
    for i in range(n):
        theirs, ours = f"convs.{i + 1}", f"blocks.{i}"
        found |= {
            f"{ours}.conv0.weight": take(f"{theirs}.conv1.0.weight"),
            f"{ours}.conv0.bias": take(f"{theirs}.conv1.1.bias"),
            f"{ours}.conv1.weight": take(f"{theirs}.conv2.1.weight"),
            f"{ours}.conv1.bias": take(f"{theirs}.conv2.2.bias"),
            f"{ours}.shortcut.weight": take(f"{theirs}.skip.1.weight"),
        }
    for old, new in (("0", "hidden"), ("1", "out")):
        found |= {f"{new}.{part}": take(f"final_linear.{old}.{part}") for part in ("weight", "bias")}
    sizes = [4 << i for i in range(n + 1)]
    inner = [len(found[f"blocks.{i}.conv0.bias"]) for i in reversed(range(n))]
    return channel_settings(sizes, [len(found["conv.bias"]), *inner]) | {
        "img_size": sizes[-1],
        "img_channels": found["blocks.0.from_image.weight"].shape[1],
        "n_labels": 0,
        "conv_clamp": None,
    }, found  # fmt: skip
