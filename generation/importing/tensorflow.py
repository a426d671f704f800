"""StyleGAN and Progressive GAN as their authors published them: (G, D, Gs) of TensorFlow's variables by name.

Kernels lie there as (height, width, in, out), dense weights as (in, out). Where doubling and convolving are fused into
a transposed convolution, which scatters where the other gathers, the kernel acts mirrored.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

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
    with_discriminator,
)
from generation.importing.parts import Array

FUSED_FROM = 128  # px: in StyleGAN, where not told otherwise
HWIO = (3, 2, 0, 1)  # -> (out, in, height, width)


def stylegan(networks: dict[str, Network]) -> Imported | None:
    """StyleGAN. None for another layout; NotThis."""
    if any("4x4/Conv/mod_weight" in _unscoped(net).tensors for net in networks.values()):
        raise NotThis(
            "it is a StyleGAN2 of TensorFlow: legacy.py of StyleGAN2-ADA's PyTorch code makes a .pkl of it that is "
            "read here"
        )
    return _imported(networks, "4x4/Const/const", "official StyleGAN", "stylegan", _stylegan_g, first=8)


def progressive_gan(networks: dict[str, Network]) -> Imported | None:
    """Progressive GAN. None for another layout; NotThis."""
    title, model = "official Progressive GAN", "progressive_gan"
    return _imported(networks, "4x4/Dense/weight", title, model, _progressive_g, first=4)


def _imported(
    networks: dict[str, Network], mark: str, title: str, model: str, make: Any, first: int
) -> Imported | None:
    """make: network, taker -> (settings, tensors) of G; first: the smallest size that has an image."""
    unscoped = {name: _unscoped(net) for name, net in networks.items()}
    found = {name: net for name, net in unscoped.items() if mark in net.tensors}
    if not found:
        return None
    result = imported(title, model, found, ("Gs", "G"), make)
    D = next((net for net in unscoped.values() if "4x4/Dense1/weight" in net.tensors), None)
    if D is not None and model == "progressive_gan" and "8x8/Conv1_down/weight" in D.tensors:
        result.notes.append(
            "its D halves maps before LeakyReLU, ours after it: a start, not the same function"
        )
    return with_discriminator(result, D, partial(_discriminator, first=first))


def _unscoped(network: Network) -> Network:
    """The variables without the scope of the network that makes images, and without what only training needs."""
    tensors = {}
    for name, x in network.tensors.items():
        for scope in ("G_synthesis/", "G_paper/", "D_basic/", "D_paper/", "G_style/"):
            name = name.removeprefix(scope)
        tensors[name] = x
    return Network(tensors, network.attributes)


def _sizes(take: Taker) -> list[int]:
    """4, 8, 16, ... up to the image."""
    sizes = [4]
    while (
        f"{2 * sizes[-1]}x{2 * sizes[-1]}/Conv1/weight" in take
        or f"{2 * sizes[-1]}x{2 * sizes[-1]}/Conv0/weight" in take
    ):
        sizes.append(2 * sizes[-1])
    if not 2 <= len(sizes) <= 9:
        raise NotThis(f"maps of {', '.join(map(str, sizes))} px")
    lod = take.network.tensors.get("lod")
    if isinstance(lod, Array) and math.prod(lod.shape) != 1:
        raise NotThis(f"a level of detail of shape {lod.shape}")
    if isinstance(lod, Array) and (at := take("lod").item()) != 0:
        raise NotThis(
            f"a network that has not grown up to {sizes[-1]} px: its level of detail is {at:g}, not 0"
        )
    return sizes


def _conv(take: Taker, theirs: str, ours: str) -> Tensors:
    return {f"{ours}.weight": take(f"{theirs}/weight", *HWIO), f"{ours}.bias": take(f"{theirs}/bias")}


def _dense(take: Taker, theirs: str, ours: str) -> Tensors:
    return {f"{ours}.weight": take(f"{theirs}/weight", 1, 0), f"{ours}.bias": take(f"{theirs}/bias")}


def _stage(size: int) -> Tensor:
    """What modelling/growing.py keeps of a network that has grown up."""
    return torch.tensor([size, 1.0], dtype=torch.float64)


def _images(take: Taker, sizes: list[int], theirs: str, ours: str, first: int) -> Tensors:
    """The layers that make images, or read them, of each size from `first` on."""
    found, names = {}, [f"{theirs}_lod{i}" for i in reversed(range(len(sizes)))]
    skipped = sizes.index(first)
    for name in names[:skipped]:  # of 4 px, at which ours never works
        take.drop(f"{name}/weight", f"{name}/bias")
    for j, name in enumerate(names[skipped:]):
        found |= _conv(take, name, f"{ours}.{j}")
    return found


def _stylegan_g(take: Taker) -> tuple[dict[str, Any], Tensors]:
    network, sizes = take.network, _sizes(take)
    settings = network.attributes.get("", {}) | network.attributes.get("synthesis", {})
    if "G_mapping/LabelConcat/weight" in take:
        raise NotThis(
            "a StyleGAN with labels, whose mapping normalises latents and labels together, which ours does not"
        )
    fused, taps = settings.get("fused_scale", "auto"), settings.get("blur_filter", [1, 2, 1])
    if not (taps is None or (isinstance(taps, list | tuple) and list(taps) in ([], [1, 2, 1]))):
        raise NotThis("another blur than [1, 2, 1]")
    n = counted(network, "G_mapping/Dense{}/weight")
    lr = settings.get("mapping_lrmul", MAPPING_LR)
    if n == 0 or not (isinstance(lr, int | float) and 0 < lr <= 1):
        raise NotThis("no mapping network, or one without a rate")
    z_dim = take.shape("G_mapping/Dense0/weight", 2)[0]
    w_dim, two_c = take.shape("4x4/Const/StyleMod/weight", 2)
    dense = (f"G_mapping/Dense{i}" for i in range(n))
    layers = [(take(f"{name}/weight", 1, 0), take(f"{name}/bias")) for name in dense]
    found = prefixed("mapping.", mapping(layers, lr, 1.0))  # their gain is in the weights, as ours is
    found |= {"mapping.w_avg": take("dlatent_avg"), "stage._extra_state": _stage(sizes[-1])}
    widths = []
    for i, size in enumerate(sizes):
        names = ("Const", "Conv") if i == 0 else ("Conv0_up", "Conv1")
        for k, name in enumerate(names):
            theirs, ours = f"{size}x{size}/{name}", f"blocks.{i}.layer{k}"
            if name == "Const":
                # the noise comes between the two, and adds up with both
                found["blocks.0.constant"] = (
                    take(f"{theirs}/const") + take(f"{theirs}/bias")[:, None, None]
                )[0]
            else:
                found |= _conv(take, theirs, f"{ours}.conv")
            found |= _dense(take, f"{theirs}/StyleMod", f"{ours}.to_style")
            found[f"{ours}.noise.strength"] = take(f"{theirs}/Noise/weight")
            found[f"{ours}.noise.constant"] = take(f"noise{2 * i + k}").flatten(0, 2)
        if i and (size >= FUSED_FROM if fused == "auto" else bool(fused)):
            found[f"blocks.{i}.layer0.conv.weight"] = found[f"blocks.{i}.layer0.conv.weight"].flip(2, 3)
        widths.append(len(found[f"blocks.{i}.layer1.conv.bias"]))
    found |= _images(take, sizes, "ToRGB", "to_image", 8)
    return channel_settings(sizes, widths) | {
        "img_size": sizes[-1],
        "img_channels": take.shape("ToRGB_lod0/weight", 4)[3],
        "z_dim": z_dim,
        "w_dim": w_dim,
        "mapping_layers": n,
        "blur": bool(taps),
    }, found  # fmt: skip


def _progressive_g(take: Taker) -> tuple[dict[str, Any], Tensors]:
    sizes = _sizes(take)
    z_dim, first = take.shape("4x4/Dense/weight", 2)
    found = {
        "stage._extra_state": _stage(sizes[-1]),
        "first.dense.weight": take("4x4/Dense/weight", 1, 0),
        "first.bias": take("4x4/Dense/bias"),
    } | _conv(take, "4x4/Conv", "first.conv")  # fmt: skip
    widths = [first // 16]
    for i, size in enumerate(sizes[1:]):
        theirs, ours = f"{size}x{size}", f"blocks.{i}"
        if f"{theirs}/Conv0_up/weight" in take:
            # (height, width, out, in) there
            kernel = take(f"{theirs}/Conv0_up/weight", 2, 3, 0, 1).flip(2, 3)
            found |= {f"{ours}.conv0.weight": kernel, f"{ours}.conv0.bias": take(f"{theirs}/Conv0_up/bias")}
        else:
            found |= _conv(take, f"{theirs}/Conv0", f"{ours}.conv0")
        found |= _conv(take, f"{theirs}/Conv1", f"{ours}.conv1")
        widths.append(len(found[f"{ours}.conv1.bias"]))
    found |= _images(take, sizes, "ToRGB", "to_image", 4)
    return channel_settings(sizes, widths) | {
        "img_size": sizes[-1],
        "img_channels": take.shape("ToRGB_lod0/weight", 4)[3],
        "z_dim": z_dim,
    }, found  # fmt: skip


def _discriminator(take: Taker, first: int) -> tuple[dict[str, Any], Tensors]:
    sizes = _sizes(take)
    found, widths = {"trunk.stage._extra_state": _stage(sizes[-1])}, []
    for i, size in enumerate(sizes[1:]):
        theirs, ours = f"{size}x{size}", f"trunk.blocks.{i}"
        found |= _conv(take, f"{theirs}/Conv0", f"{ours}.conv0")
        down = f"{theirs}/Conv1_down"
        found |= _conv(take, down if f"{down}/weight" in take else f"{theirs}/Conv1", f"{ours}.conv1")
        widths.append(len(found[f"{ours}.conv0.bias"]))
    found |= _images(take, sizes, "FromRGB", "trunk.from_image", first)
    found |= _conv(take, "4x4/Conv", "trunk.last.conv") | _dense(take, "4x4/Dense0", "trunk.last.dense")
    found |= _dense(take, "4x4/Dense1", "trunk.last.to_logits")
    if len(found["trunk.last.to_logits.bias"]) != 1:
        raise NotThis("a D with labels")
    return channel_settings(sizes, [len(found["trunk.last.conv.bias"]), *widths]) | {
        "img_size": sizes[-1],
        "img_channels": take.shape("FromRGB_lod0/weight", 4)[2],
    }, found  # fmt: skip
