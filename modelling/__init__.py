"""Networks by name: MODELS, and the two functions that build them from plain arguments."""

import inspect
from types import ModuleType

from torch import nn

from modelling import dcgan, mlp, simple_cnn
from modelling.cgan import ConditionalDiscriminator, ConditionalGenerator
from modelling.layers import check_choice, check_number
from ops.spectral_norm import apply_spectral_norm

MODELS: dict[str, ModuleType] = {"dcgan": dcgan, "simple_cnn": simple_cnn, "mlp": mlp}

_SHARED = ("self", "img_size", "img_channels", "z_dim")  # not a network's own settings


def own_settings(network: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """The settings a network takes beyond its sizes, by name, with their defaults."""
    parameters = inspect.signature(network).parameters
    return {name: parameter for name, parameter in parameters.items() if name not in _SHARED}


def network_classes(model: str) -> dict[str, type[nn.Module]]:
    """The model's Generator as "g" and Discriminator as "d"."""
    return {"g": MODELS[model].Generator, "d": MODELS[model].Discriminator}


def embed_dim(n_labels: int) -> int:
    """Length of the label embedding: 64 for up to ten classes, as for digits, 128 for more."""
    return 64 if n_labels <= 10 else 128


def check_settings(model: str, network: type[nn.Module], given: dict[str, object], flag: str) -> None:
    """ValueError that lists a network's settings if one of `given` is none of them."""
    known = own_settings(network)
    for name in given:
        if name not in known:
            raise ValueError(
                f"{model}'s {network.__name__} has no setting {name!r}; {flag} takes {', '.join(known)}"
            )


def build_generator(
    name: str,
    *,
    img_size: int,
    img_channels: int,
    z_dim: int,
    n_labels: int = 0,
    spectral_norm: bool = False,
    **kwargs: object,
) -> nn.Module:
    """The generator of MODELS[name]: G(z (N, z_dim), y) -> (N, img_channels, img_size, img_size) in [-1, 1].

    n_labels > 0 makes it conditional. kwargs are the network's own settings. ValueError for an unknown name
    or setting, a size the model does not make, or a setting out of range.
    """
    check_choice("model", name, MODELS)
    network = MODELS[name].Generator
    check_settings(name, network, kwargs, "--g_kwargs")
    check_number("n_labels", n_labels, 0, whole=True)
    check_number("z_dim", z_dim, 1, whole=True)
    extra = embed_dim(n_labels) if n_labels else 0
    G = network(img_size=img_size, img_channels=img_channels, z_dim=z_dim + extra, **kwargs)
    if n_labels:
        G = ConditionalGenerator(G, n_labels, extra)
    return apply_spectral_norm(G) if spectral_norm else G


def build_discriminator(
    name: str,
    *,
    img_size: int,
    img_channels: int,
    n_labels: int = 0,
    spectral_norm: bool = False,
    **kwargs: object,
) -> nn.Module:
    """The discriminator of MODELS[name]: D(x (N, img_channels, img_size, img_size), y) -> logits (N,).

    Arguments and errors as for build_generator.
    """
    check_choice("model", name, MODELS)
    network = MODELS[name].Discriminator
    check_settings(name, network, kwargs, "--d_kwargs")
    check_number("n_labels", n_labels, 0, whole=True)
    check_number("img_channels", img_channels, 1, whole=True)
    extra = embed_dim(n_labels) if n_labels else 0
    D = network(img_size=img_size, img_channels=img_channels + extra, **kwargs)
    if n_labels:
        D = ConditionalDiscriminator(D, n_labels, extra)
    return apply_spectral_norm(D) if spectral_norm else D
