"""What a model is: two network classes, the contract they keep, and what the trainer must know of them."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Model:
    """A pair of network classes and what the trainer must know of them. Both keep this contract:

    Generator(*, img_size, img_channels, z_dim) and Discriminator(*, img_size, img_channels) are nn.Modules built by
    keywords: img_size is a side or (H, W). D is given z_dim too if it has a parameter of that name. All further
    parameters have defaults; they are the networks' own settings, and the constructor is their validation.

    `G.z_dim`, `G.img_size`, `G.img_channels`, `D.img_size`, `D.img_channels` are what they were built for.

    G(z, y=None) takes latents (N, z_dim) and gives images (N, img_channels, H, W), about [-1, 1]. D(x, y=None) takes
    such images and gives raw logits of any shape that begins with N, such as (N,) or a map of patches (N, 1, h, w); or
    a `DOutput` of logits and class logits (N, n_labels). They call for no values of tensors (`.item()`, `if x.sum()`).

    Each has parameters, of torch's default floating-point type and none of them the other's: all of them are trained.

    y is None without labels, else int64 (N,) classes or float (N, n_labels) weights of attributes. conditions_g and
    conditions_d are the ways in which G and D can see it, the first the model's own choice, none for networks that
    cannot. By `concat` they need do nothing: they are wrapped (cgan.py), built for longer latents and for more
    channels, and called without y. By any other way they take a keyword n_labels, and `condition`, the way, where they
    have several, and are called with y; conditioning.py has the parts: CONDITIONAL_NORMS for G, Heads for D.

    What a network may also have. `spectral_norm`: the sides, of "gd", that are wrapped so unless told otherwise; a
    layer whose attribute of that name is False goes without. `styles`: G maps latents to styles: `styles(z, y, z_mix,
    u)` -> ws (N, n_layers, w_dim), `synthesis(ws, *, noise=None, double_backward=False)` -> images, `n_layers`,
    `w_dim`, a `mapping` whose `w_avg` is the mean style, the probability `mixing`, and a call with z_mix, u,
    truncation, truncation_layers, noise; see styles.py. Where `layer_noise` is False no layer adds noise;
    `constant_noises`, the (h, w) of each layer, says that synthesis takes noise as maps too. `grows_from`, the px of
    the shorter side from which growing starts (from 4, 96 px grow by 6, 12, 24, 48), None without growing: both have a
    growing.Stage, work at `stage.size`, a height, and G's images have img_size again in eval mode. A module says in
    `lr_scale` how fast its parameters learn, in `bias_lr_scale` how fast its bias does. `revisions` are changes, in
    words, of what it makes of the same weights: older ones are refused. layers.GaussianNoise is annealed, batch norm's
    running statistics are averaged over processes.

    latents=False is a row of networks that keep another contract, that of a game of their own (games/): it builds and
    checks them, and the row is there for --model.
    """

    Generator: type[nn.Module]
    Discriminator: type[nn.Module]
    conditions_g: tuple[str, ...] = ("concat",)
    conditions_d: tuple[str, ...] = ("concat",)
    spectral_norm: str = ""
    styles: bool = False
    grows_from: int | None = None
    latents: bool = True

    def conditions(self, side: str) -> tuple[str, ...]:
        """Those of "g" or "d"."""
        return {"g": self.conditions_g, "d": self.conditions_d}[side]

    def network(self, side: str) -> type[nn.Module]:
        """Generator of "g", Discriminator of "d"."""
        return {"g": self.Generator, "d": self.Discriminator}[side]
