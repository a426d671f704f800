"""Networks by name: MODELS, and the two functions that build them from plain arguments."""

import inspect

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from errors import UserError
from modelling import (
    biggan,
    dcgan,
    fastgan,
    infogan,
    mlp,
    patchgan,
    progressive_gan,
    projected,
    r3gan,
    rect_dcgan,
    resnet_translator,
    sagan,
    simple_cnn,
    sndcgan,
    sngan,
    srgan,
    stylegan,
    stylegan2,
    unet,
    veegan,
)
from modelling.cgan import ConditionalDiscriminator, ConditionalGenerator
from modelling.conditioning import CLASS_HEADS, CONDITIONAL_NORMS
from modelling.contract import (
    STYLES,
    bare,
    blaming,
    check_attributes,
    check_contract,
    check_revision,
    revisions_of,
)
from modelling.equalised import Equalised
from modelling.files import is_file_name, load_model_file, model_title
from modelling.layers import Size, as_size, check_choice, check_number
from modelling.model import Model
from modelling.styles import Mapping
from ops.spectral_norm import apply_spectral_norm

__all__ = [
    "MODELS",
    "Model",
    "build_discriminator",
    "build_generator",
    "check_contract",
    "check_revision",
    "find_model",
    "is_file_name",
    "load_model_file",
    "model_of",
    "revisions_of",
]


_NORMS, _HEADS = tuple(CONDITIONAL_NORMS), tuple(CLASS_HEADS)
_SNGAN = {
    "conditions_g": (*_NORMS, "concat"),
    "conditions_d": (*_HEADS, "concat"),
    "spectral_norm": "d",
}
_OF_PICTURES = {"conditions_g": (), "conditions_d": (), "latents": False}
_STYLED = {"conditions_g": ("mapping",), "conditions_d": ("projection",), "styles": True}

MODELS = {
    "dcgan": Model(dcgan.Generator, dcgan.Discriminator, ("concat", *_NORMS), ("concat", *_HEADS)),
    "rect_dcgan": Model(rect_dcgan.Generator, rect_dcgan.Discriminator, spectral_norm="gd"),
    "simple_cnn": Model(
        simple_cnn.Generator, simple_cnn.Discriminator, ("concat", *_NORMS), ("concat", *_HEADS)
    ),
    "sngan": Model(sngan.Generator, sngan.Discriminator, **_SNGAN),
    "sndcgan": Model(sndcgan.Generator, sndcgan.Discriminator, **_SNGAN),
    "sagan": Model(sagan.Generator, sagan.Discriminator, **_SNGAN | {"spectral_norm": "gd"}),
    "biggan": Model(biggan.Generator, biggan.Discriminator, _NORMS, _HEADS, spectral_norm="gd"),
    "mlp": Model(mlp.Generator, mlp.Discriminator),
    "veegan": Model(veegan.Generator, veegan.Discriminator, (), ()),
    "infogan": Model(infogan.Generator, infogan.Discriminator, (), ()),
    "progressive_gan": Model(progressive_gan.Generator, progressive_gan.Discriminator, grows_from=4),
    "stylegan": Model(stylegan.Generator, stylegan.Discriminator, grows_from=8, **_STYLED),
    "stylegan2": Model(stylegan2.Generator, stylegan2.Discriminator, **_STYLED),
    "r3gan": Model(r3gan.Generator, r3gan.Discriminator, ("embedding",), ("projection",)),
    "fastgan": Model(fastgan.Generator, fastgan.Discriminator, _NORMS, spectral_norm="gd"),
    "projected": Model(
        fastgan.Generator, projected.Discriminator, _NORMS, ("projection",), spectral_norm="gd"
    ),
    "projected_stylegan2": Model(stylegan2.Generator, projected.Discriminator, **_STYLED, spectral_norm="d"),
    "pix2pix": Model(unet.Generator, patchgan.Discriminator, **_OF_PICTURES),
    "cyclegan": Model(resnet_translator.Generator, resnet_translator.Discriminator, **_OF_PICTURES),
    "srgan": Model(srgan.Generator, srgan.Discriminator, **_OF_PICTURES),
}

STYLED = ", ".join(name for name, row in MODELS.items() if row.styles)  # for messages

# All that any model of the table knows, by side.
CONDITIONS = {
    side: tuple(dict.fromkeys(c for row in MODELS.values() for c in row.conditions(side)))
    for side in ("g", "d")
}

# What the builders give a network: no settings of its own.
_GIVEN = ("self", "img_size", "img_channels", "source_channels", "z_dim", "n_labels", "condition")


def find_model(name: str) -> Model:
    """The row of MODELS, or the model of a user's file where the name is a path that ends in .py.

    ValueError that lists the known, or says what the file lacks.
    """
    if is_file_name(name):
        return load_model_file(name)
    check_choice("model", name, MODELS)
    return MODELS[name]


def model_of(G: nn.Module, D: nn.Module) -> Model:
    """What the trainer must know of two networks that were built elsewhere: their row of MODELS, or one of their own.

    They see labels, if they do, in the way they were built for: no condition is chosen for them. A G with all that
    styles need has styles, whatever D is.
    """
    for row in MODELS.values():
        if type(bare(G)) is row.Generator and type(bare(D)) is row.Discriminator:
            return row
    return Model(type(G), type(D), (), (), styles=all(hasattr(G, name) for name in STYLES))


def own_settings(network: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """The settings a network takes beyond its sizes, by name, with their defaults."""
    parameters = inspect.signature(network).parameters
    return {name: p for name, p in parameters.items() if name not in _GIVEN and p.kind is not p.VAR_KEYWORD}


def network_classes(model: str) -> dict[str, type[nn.Module]]:
    """The model's Generator as "g" and Discriminator as "d"."""
    return {side: find_model(model).network(side) for side in ("g", "d")}


def check_sees_labels(model: str) -> None:
    """ValueError for a model that cannot be conditional."""
    if not find_model(model).conditions_g:
        raise UserError(f"{model_title(model)} sees no labels: leave --conditional out")


def check_condition(model: str, side: str, given: str) -> None:
    """ValueError that lists how the model's side, "g" or "d", can see labels unless `given` is among them."""
    known = find_model(model).conditions(side)
    if given not in known:
        raise UserError(
            f"--condition_{side} {given}: {model_title(model)}'s {side.upper()} sees labels by {', '.join(known)}"
        )


def embed_dim(n_labels: int) -> int:
    """Length of the label embedding: 64 for up to ten classes, as for digits, 128 for more."""
    return 64 if n_labels <= 10 else 128


def check_settings(model: str, network: type[nn.Module], given: dict[str, object], flag: str) -> None:
    """ValueError that lists a network's settings if one of `given` is none of them."""
    known = own_settings(network)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(network).parameters.values())
    for name in given:
        if name in _GIVEN or (name not in known and not takes_all):
            listed = f"{flag} takes {', '.join(known)}" if known else "it has none"
            raise UserError(f"{model_title(model)}'s {network.__name__} has no setting {name!r}; {listed}")


def build_generator(
    name: str,
    *,
    img_size: Size,
    img_channels: int,
    z_dim: int,
    n_labels: int = 0,
    condition: str | None = None,
    spectral_norm: bool = False,
    **kwargs: object,
) -> nn.Module:
    """The generator of find_model(name): G(z (N, z_dim), y) -> images (N, img_channels, H, W), about [-1, 1].

    img_size: side or (H, W). n_labels > 0 makes it conditional, in the way `condition` says, None for the model's
    first. kwargs are the network's own settings. ValueError for an unknown name or setting, a size the model does not
    make, or a setting out of range.
    """
    network = find_model(name).Generator
    check_settings(name, network, kwargs, "--g_kwargs")
    check_number("z_dim", z_dim, 1, whole=True)
    sizes = {"img_size": as_size(img_size), "img_channels": img_channels}
    labels = _label_arguments(name, "g", n_labels, condition)
    extra = embed_dim(n_labels) if labels is None else 0
    with blaming("its constructor", network):
        G = network(**sizes, z_dim=z_dim + extra, **(labels or {}), **kwargs)
    check_attributes(G, **sizes, z_dim=z_dim + extra)
    if extra:
        G = ConditionalGenerator(G, n_labels, extra)
    return _with_spectral_norm(G, name, "g") if spectral_norm else G


def build_discriminator(
    name: str,
    *,
    img_size: Size,
    img_channels: int,
    z_dim: int | None = None,
    n_labels: int = 0,
    condition: str | None = None,
    spectral_norm: bool = False,
    **kwargs: object,
) -> nn.Module:
    """The discriminator of find_model(name): D(x (N, img_channels, H, W), y) -> logits (N,), or a DOutput.

    z_dim: of the latents that a D of pairs (veegan's) sees, of no use to the others. Further arguments and errors as
    for build_generator.
    """
    network = find_model(name).Discriminator
    check_settings(name, network, kwargs, "--d_kwargs")
    check_number("img_channels", img_channels, 1, whole=True)
    sizes = {"img_size": as_size(img_size)}
    if "z_dim" in inspect.signature(network).parameters:
        sizes["z_dim"] = z_dim
    labels = _label_arguments(name, "d", n_labels, condition)
    extra = embed_dim(n_labels) if labels is None else 0
    with blaming("its constructor", network):
        D = network(img_channels=img_channels + extra, **sizes, **(labels or {}), **kwargs)
    check_attributes(D, img_size=sizes["img_size"], img_channels=img_channels + extra)
    if extra:
        D = ConditionalDiscriminator(D, n_labels, extra)
    return _with_spectral_norm(D, name, "d") if spectral_norm else D


def _label_arguments(name: str, side: str, n_labels: int, condition: str | None) -> dict[str, object] | None:
    """What a network is told of the labels; None for one that has to be wrapped for them."""
    check_number("n_labels", n_labels, 0, whole=True)
    if not n_labels:
        return {}
    check_sees_labels(name)
    row = find_model(name)
    condition = row.conditions(side)[0] if condition is None else condition
    check_condition(name, side, condition)
    if condition == "concat":
        return None
    choices = {"n_labels": n_labels, "condition": condition}
    taken = inspect.signature(row.network(side)).parameters
    if "n_labels" not in taken:
        raise UserError(
            f"{model_title(name)}: {row.network(side).__name__} sees labels by {condition} and takes no n_labels"
        )
    return {key: value for key, value in choices.items() if key in taken}


def check_spectral_norm(network: nn.Module, name: str, side: str) -> None:
    """ValueError for a network whose weights are scaled by their fan-in."""
    if any(isinstance(module, Equalised) for module in network.modules()):
        raise UserError(
            f"--spectral_norm_{side}: {model_title(name)} scales its weights by their fan-in; leave the flag out"
        )


def _with_spectral_norm(network: nn.Module, name: str, side: str) -> nn.Module:
    check_spectral_norm(network, name, side)
    return apply_spectral_norm(network)


# What the trainer asks of any network


def param_groups(network: nn.Module) -> list[dict[str, object]]:
    """The network's parameters for an optimiser, by the factor `lr_scale` on the learning rate that they want.

    A module says so in `lr_scale` (StyleGAN's mapping: 0.01), and in `bias_lr_scale` where its bias has another; 1
    comes first, if only once.
    """
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    scales: dict[int, float] = {}
    for module in network.modules():
        if hasattr(module, "lr_scale"):
            scales |= {id(p): module.lr_scale for p in module.parameters()}
        if hasattr(module, "bias_lr_scale"):
            scales[id(module.bias)] = module.bias_lr_scale
    for p in network.parameters():
        groups.setdefault(scales.get(id(p), 1.0), []).append(p)
    return [{"params": params, "lr_scale": scale} for scale, params in groups.items() if params]


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Buffers that move in training forwards as averages over the batch: batch norm's, and the mean style."""
    found = []
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            found += [b for b in module.buffers() if b.is_floating_point()]
        elif isinstance(module, Mapping) and module.w_avg is not None:
            found.append(module.w_avg)
    return found
