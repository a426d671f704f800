"""BigGAN-PyTorch's state dicts: G.pth or G_ema.pth, and D.pth, plain and deep."""

from typing import Any

from torch.nn import functional as F

from generation.importing.layout import (
    Imported,
    Network,
    NotThis,
    Taker,
    Tensors,
    counted,
    imported,
    with_discriminator,
)
from modelling.biggan import PLANS


def biggan(networks: dict[str, Network]) -> Imported | None:
    """The G of a file, or of several that were given, with D if it is there. None for another layout; NotThis."""
    found = {name: net for name, net in networks.items() if "output_layer.2.weight" in net.tensors}
    if not found or any("blocks.0.0.conv1.weight" not in net.tensors for net in found.values()):
        return None
    averaged = next((name for name in found if "ema" in name.lower()), "G_ema")
    raw = next((name for name in found if name not in ("", averaged)), "G")
    result = imported("BigGAN-PyTorch", "biggan", found, (averaged, raw), _generator)
    D = next(
        (
            net
            for net in networks.values()
            if {"embed.weight", "blocks.0.0.conv1.weight"} <= net.tensors.keys()
        ),
        None,
    )
    return with_discriminator(result, D, lambda take: _discriminator(take, result.build_g))


def layer(take: Taker, theirs: str, ours: str, columns: list[int] | None = None) -> Tensors:
    """A convolution or dense layer, under spectral norm where the file has its vectors; columns: the order of inputs.

    Their u is moved by one iteration before it is used, which gives sigma = |W^T u|; ours are as they are used.
    """
    weight = take(f"{theirs}.weight")
    weight = weight if columns is None else weight[:, columns]
    found = {f"{ours}.bias": take(f"{theirs}.bias")} if f"{theirs}.bias" in take else {}
    if f"{theirs}.u0" not in take:
        return found | {f"{ours}.weight": weight}
    matrix, u = weight.flatten(1), take(f"{theirs}.u0").flatten()
    if len(u) != len(matrix):
        raise NotThis(f"{take.title} {theirs}.u0 has {len(u)} numbers for {len(matrix)} outputs")
    v = F.normalize(matrix.t() @ u, dim=0)
    u = F.normalize(matrix @ v, dim=0)
    take.drop(f"{theirs}.sv0")  # for their logs
    norm = f"{ours}.parametrizations.weight"
    return found | {f"{norm}.original": weight, f"{norm}.0.u": u, f"{norm}.0.v": v}


def statistics(take: Taker, theirs: str, ours: str) -> Tensors:
    """The running statistics of a batch norm."""
    return {
        f"{ours}.running_mean": take(f"{theirs}.stored_mean"),
        f"{ours}.running_var": take(f"{theirs}.stored_var"),
    }


def attention(take: Taker, theirs: str, ours: str) -> Tensors:
    """Self-attention."""
    found = {f"{ours}.gamma": take(f"{theirs}.gamma").reshape(())}
    for part in ("theta", "phi", "g", "o"):
        found |= layer(take, f"{theirs}.{part}", f"{ours}.{part}")
    return found


def sizes_attended(sizes: list[int]) -> int | list[int]:
    """As the setting `attention` says it."""
    return sizes[0] if len(sizes) == 1 else sizes or 0


def width_of(channels: int, of: int) -> int:
    """The unit of channels; NotThis for a part of one."""
    if channels % of or not channels:
        raise NotThis(f"{channels} channels, which are not {of} times a number")
    return channels // of


def _generator(take: Taker) -> tuple[dict[str, Any], Tensors]:
    network = take.network
    n_blocks, deep = counted(network, "blocks.{}.0.conv1.weight"), "blocks.0.0.conv4.weight" in take
    size = 4 << n_blocks
    if size not in PLANS:
        raise NotThis(
            f"a G of {n_blocks} blocks, which makes {size} px: ours makes {', '.join(map(str, PLANS))}"
        )
    shared = take.shape("shared.weight", 2) if "shared.weight" in take else None
    gain = take.shape("blocks.0.0.bn1.gain.weight", 2)
    channels, first = take.shape("linear.weight", 2)
    n_labels, shared_dim = shared or (gain[0], 0)
    hierarchical = shared is not None and gain[1] != shared_dim and not deep
    z_dim = first * (n_blocks + 1) if hierarchical else first - (shared_dim if deep else 0)
    # theirs see [y, z], ours [z, y]
    columns = None
    if hierarchical or deep:
        columns = [*range(shared_dim, gain[1]), *range(shared_dim)]
    found = {} if shared is None else {"shared.weight": take("shared.weight")}
    found |= layer(take, "linear", "from_z", columns if deep else None)
    attended = []
    for i in range(n_blocks):
        parts = counted(network, f"blocks.{i}.{{}}.conv1.weight")
        for j in range(parts):
            found |= _up_block(take, f"blocks.{i}.{j}", columns, tables=shared is None)
        if f"blocks.{i}.{parts}.gamma" in take:
            found |= attention(take, f"blocks.{i}.{parts}", f"blocks.{i}.{parts}")
            attended.append(8 << i)
    found |= {"norm.weight": take("output_layer.0.gain"), "norm.bias": take("output_layer.0.bias")}
    found |= statistics(take, "output_layer.0", "norm") | layer(take, "output_layer.2", "to_image")
    return {
        "img_size": size,
        "img_channels": take.shape("output_layer.2.weight", 4)[0],
        "z_dim": z_dim,
        "n_labels": n_labels,
        "condition": "cbn",
        "spectral_norm": "linear.u0" in network.tensors,
        "width": width_of(channels, 16 * PLANS[size].g[0]),
        "shared_dim": shared_dim,
        "hierarchical": hierarchical,
        "attention": sizes_attended(attended),
        "deep": deep,
    }, found  # fmt: skip


def _up_block(take: Taker, name: str, columns: list[int] | None, *, tables: bool) -> Tensors:
    """A block of G, with the norms before each of its convolutions."""
    found: Tensors = {}
    for k in range(1, 5 if f"{name}.conv4.weight" in take else 3):
        found |= layer(take, f"{name}.conv{k}", f"{name}.conv{k}")
        norm, ours = f"{name}.bn{k}", f"{name}.norm{k}"
        found |= statistics(take, norm, f"{ours}.norm")
        if tables:
            found |= {
                f"{ours}.weight": take(f"{norm}.gain.weight"),
                f"{ours}.bias": take(f"{norm}.bias.weight"),
            }
        else:
            found |= layer(take, f"{norm}.gain", f"{ours}.gain", columns)
            found |= layer(take, f"{norm}.bias", f"{ours}.shift", columns)
    if f"{name}.conv_sc.weight" in take:
        found |= layer(take, f"{name}.conv_sc", f"{name}.shortcut")
    return found


def _discriminator(take: Taker, of_g: dict[str, Any]) -> tuple[dict[str, Any], Tensors]:
    network, deep, size = take.network, "input_conv.weight" in take, of_g["img_size"]
    found = layer(take, "input_conv", "blocks.0") if deep else {}
    ours, attended = int(deep), []
    for i in range(counted(network, "blocks.{}.0.conv1.weight")):
        parts = counted(network, f"blocks.{i}.{{}}.conv1.weight")
        for j in range(parts):
            theirs = f"blocks.{i}.{j}"
            for k in range(1, 5 if deep else 3):
                found |= layer(take, f"{theirs}.conv{k}", f"blocks.{ours}.conv{k}")
            if f"{theirs}.conv_sc.weight" in take:
                found |= layer(
                    take, f"{theirs}.conv_sc", f"blocks.{ours}.{'missing' if deep else 'shortcut'}"
                )
            ours += 1
        if f"blocks.{i}.{parts}.gamma" in take:
            found |= attention(take, f"blocks.{i}.{parts}", f"blocks.{ours}")
            attended.append(size >> (i + 1))
            ours += 1
    entry = "input_conv.weight" if deep else "blocks.0.0.conv1.weight"
    found |= layer(take, "linear", "heads.to_logit") | layer(take, "embed", "heads.to_classes")
    return {
        "img_size": size,
        "img_channels": take.shape(entry, 4)[1],
        "n_labels": take.shape("embed.weight", 2)[0],
        "condition": "projection",
        "spectral_norm": "linear.u0" in network.tensors,
        "width": width_of(take.shape(entry, 4)[0], PLANS[size].d[0]),
        "attention": sizes_attended(attended),
        "deep": deep,
    }, found  # fmt: skip
