"""Foreign weights for tests: small networks under the names of others, their files, and forwards from the papers."""

import math
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
SOURCE = "class Generator: pass  # as official pickles carry their own source\n" * 20
FIR = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8


def drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> Weights:
    """Weights of these shapes; biases and strengths are no zeros either."""
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=source) for name, shape in shapes.items()}


# -- files as others write them ----------------------------------------------------------------------------------------


@contextmanager
def made_up(*names: str) -> Iterator[list[Any]]:
    """Classes and functions of these dotted names, which can be pickled within the block and are gone after it."""
    modules: dict[str, types.ModuleType] = {}
    made = []
    for full in names:
        path, _, name = full.rpartition(".")
        parts = path.split(".")
        for i in range(len(parts)):
            modules.setdefault(".".join(parts[: i + 1]), types.ModuleType(".".join(parts[: i + 1])))
        thing = (
            (lambda *args: None)
            if name.startswith("_")
            else type(name, (dict,) if name == "EasyDict" else (), {})
        )
        thing.__module__, thing.__qualname__ = path, name
        setattr(modules[path], name, thing)
        made.append(thing)
    with patch.dict(sys.modules, modules):
        yield made


def module_tree(weights: Weights, buffers: tuple[str, ...], attributes: dict[str, dict]) -> dict[str, Any]:
    """What a torch module keeps of itself, as nested dictionaries: `_parameters`, `_buffers`, `_modules`."""

    def state(path: str) -> dict[str, Any]:
        inside = {name: x for name, x in weights.items() if name.startswith(path)}
        own = {name[len(path) :]: x for name, x in inside.items() if "." not in name[len(path) :]}
        children = dict.fromkeys(
            name[len(path) :].split(".")[0] for name in inside if "." in name[len(path) :]
        )
        return {
            "training": False,
            "_parameters": OrderedDict(
                (n, torch.nn.Parameter(x, requires_grad=x.is_floating_point()))
                for n, x in own.items()
                if n not in buffers
            ),
            "_buffers": OrderedDict((n, x) for n, x in own.items() if n in buffers),
            "_modules": OrderedDict((child, state(f"{path}{child}.")) for child in children),
            **attributes.get(path.rstrip("."), {}),
        }

    return state("")


BUFFERS = ("w_avg", "noise_const", "resample_filter")


def write_snapshot(
    path: Path, networks: dict[str, tuple[Weights, dict[str, dict]]], protocol: int = 4
) -> None:
    """A network-snapshot.pkl of official StyleGAN2: networks by name with the attributes of their modules."""
    with made_up("torch_utils.persistence._reconstruct_persistent_obj", "dnnlib.util.EasyDict") as (
        rebuild,
        easy,
    ):

        class Persistent:
            def __init__(self, state: dict) -> None:
                children = state["_modules"].items()
                self.state = state | {
                    "_modules": OrderedDict((name, Persistent(child)) for name, child in children)
                }

            def __reduce__(self) -> tuple:
                about = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": "Generator"}
                return rebuild, (easy(about | {"state": self.state}),)

        content = {name: Persistent(module_tree(w, BUFFERS, a)) for name, (w, a) in networks.items()}
        content |= {"augment_pipe": None, "training_set_kwargs": easy(path="x.zip", use_labels=False)}
        path.write_bytes(pickle.dumps(content, protocol))


def write_tensorflow(
    path: Path, networks: list[tuple[Weights, dict[str, Weights], dict]], protocol: int = 4
) -> None:
    """(G, D, Gs) as dnnlib's and tfutil's networks pickle themselves: own variables, components, arguments."""
    with made_up("dnnlib.tflib.network.Network", "dnnlib.util.EasyDict") as (network, easy):

        def record(weights: Weights, components: dict[str, Weights], kwargs: dict) -> Any:
            made = network()
            variables = [(name, x.numpy().astype(np.float32)) for name, x in weights.items()]
            parts = easy({name: record(part, {}, kwargs) for name, part in components.items()})
            made.__dict__ |= {
                "version": 4, "name": "G", "static_kwargs": easy(kwargs), "components": parts,
                "build_module_src": SOURCE, "build_func_name": "G_style", "variables": variables,
            }  # fmt: skip
            return made

        path.write_bytes(pickle.dumps(tuple(record(*given) for given in networks), protocol))


# -- StyleGAN2: arXiv:1912.04958, arXiv:2006.06676 ---------------------------------------------------------------------


def stylegan2_g(
    n_labels: int = 0, sizes: tuple[int, ...] = (4, 8, 16), seed: int = 0, colours: int = 3
) -> Weights:
    """Weights of a G under official names: channels 12, 12, 6, w of 7, z of 5."""
    c = {4: 12, 8: 12, 16: 6, 32: 3}
    first = 5 + (7 if n_labels else 0)
    shapes: dict[str, tuple[int, ...]] = {"mapping.w_avg": (7,)}
    if n_labels:
        shapes |= {"mapping.embed.weight": (7, n_labels), "mapping.embed.bias": (7,)}
    for i, n_in in enumerate((first, 7, 7)):
        shapes |= {f"mapping.fc{i}.weight": (7, n_in), f"mapping.fc{i}.bias": (7,)}
    shapes["synthesis.b4.const"] = (c[4], 4, 4)
    for size in sizes:
        block = f"synthesis.b{size}"
        for conv, n_in in (("conv0", c[max(size // 2, 4)]), ("conv1", c[size])):
            if size > 4 or conv == "conv1":
                shapes |= {
                    f"{block}.{conv}.weight": (c[size], n_in, 3, 3), f"{block}.{conv}.bias": (c[size],),
                    f"{block}.{conv}.noise_const": (size, size), f"{block}.{conv}.noise_strength": (),
                    f"{block}.{conv}.affine.weight": (n_in, 7), f"{block}.{conv}.affine.bias": (n_in,),
                }  # fmt: skip
        shapes |= {
            f"{block}.torgb.weight": (colours, c[size], 1, 1), f"{block}.torgb.bias": (colours,),
            f"{block}.torgb.affine.weight": (c[size], 7), f"{block}.torgb.affine.bias": (c[size],),
        }  # fmt: skip
    weights = drawn(shapes, seed)
    for name in weights:
        if ".fc" in name:
            weights[name] = weights[name] * 100  # as a layer is drawn that learns at a hundredth
        if "noise_strength" in name:
            weights[name] = weights[name] * 0.1
    return weights | {
        f"synthesis.b{size}.resample_filter": torch.outer(FIR, FIR).float() for size in sizes[1:]
    }


def stylegan2_d(
    n_labels: int = 0, sizes: tuple[int, ...] = (4, 8, 16), seed: int = 1, colours: int = 3
) -> Weights:
    """Weights of a D under official names."""
    c = {4: 12, 8: 12, 16: 6, 32: 3}
    shapes: dict[str, tuple[int, ...]] = {}
    for size in sizes[1:]:
        below = c[size // 2]
        if size == sizes[-1]:
            shapes |= {
                f"b{size}.fromrgb.weight": (c[size], colours, 1, 1),
                f"b{size}.fromrgb.bias": (c[size],),
            }
        shapes |= {
            f"b{size}.conv0.weight": (c[size], c[size], 3, 3), f"b{size}.conv0.bias": (c[size],),
            f"b{size}.conv1.weight": (below, c[size], 3, 3), f"b{size}.conv1.bias": (below,),
            f"b{size}.skip.weight": (below, c[size], 1, 1),
        }  # fmt: skip
    shapes |= {
        "b4.conv.weight": (12, 13, 3, 3), "b4.conv.bias": (12,), "b4.fc.weight": (12, 192), "b4.fc.bias": (12,),
        "b4.out.weight": (12 if n_labels else 1, 12), "b4.out.bias": (12 if n_labels else 1,),
    }  # fmt: skip
    if n_labels:
        shapes |= {"mapping.embed.weight": (12, n_labels), "mapping.embed.bias": (12,)}
        for i in range(2):
            shapes |= {f"mapping.fc{i}.weight": (12, 12), f"mapping.fc{i}.bias": (12,)}
    weights = drawn(shapes, seed)
    for name in weights:
        if "mapping.fc" in name:
            weights[name] = weights[name] * 100
    return weights


def lrelu(x: Tensor, gain: float = math.sqrt(2)) -> Tensor:
    return F.leaky_relu(x, 0.2) * gain


def unit(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Each row to unit mean square."""
    return x / (x.square().mean(1, keepdim=True) + eps).sqrt()


def dense(w: Weights, name: str, x: Tensor, lr: float = 1.0) -> Tensor:
    weight = w[f"{name}.weight"]
    return x @ (weight * lr / math.sqrt(weight.shape[1])).t() + w[f"{name}.bias"] * lr


def filtered(x: Tensor, taps: Tensor) -> Tensor:
    kernel = torch.outer(taps, taps).to(x).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, kernel, groups=x.shape[1])


def spread(x: Tensor) -> Tensor:
    """Zeros after each row and column."""
    out = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    out[:, :, ::2, ::2] = x
    return out


def mapped(w: Weights, z: Tensor | None, y: Tensor | None, n: int) -> Tensor:
    """w of latents and class indices."""
    parts = [] if z is None else [unit(z)]
    if y is not None:
        rows = F.one_hot(y, w["mapping.embed.weight"].shape[1]).to(w["mapping.embed.weight"])
        parts.append(unit(dense(w, "mapping.embed", rows)))
    x = torch.cat(parts, 1)
    for i in range(n):
        x = lrelu(dense(w, f"mapping.fc{i}", x, 0.01))
    return x


def modulated(w: Weights, name: str, x: Tensor, style: Tensor, *, up: bool = False) -> Tensor:
    """Weights scaled by the style, each output's to length 1, one convolution a sample: eqs. 1 and 3."""
    scales, outs = dense(w, f"{name}.affine", style), []
    for sample, scale in zip(x, scales, strict=True):
        weight = w[f"{name}.weight"] * scale[:, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        one = sample[None]
        if up:  # a filter of gain 4 over the zeros; the kernel is that of a convolution in the strict sense
            one = filtered(F.pad(spread(one), (3, 2, 3, 2)), FIR) * 4
            outs.append(F.conv2d(one, weight.flip(2, 3)))
        else:
            outs.append(F.conv2d(one, weight, padding=1))
    x = torch.cat(outs) + w[f"{name}.noise_const"] * w[f"{name}.noise_strength"]
    return lrelu(x + w[f"{name}.bias"][:, None, None])


def to_rgb(w: Weights, name: str, x: Tensor, style: Tensor) -> Tensor:
    scale = dense(w, f"{name}.affine", style) / math.sqrt(x.shape[1])
    return F.conv2d(x * scale[:, :, None, None], w[f"{name}.weight"]) + w[f"{name}.bias"][:, None, None]


def stylegan2_images(w: Weights, z: Tensor, y: Tensor | None = None, psi: float = 1.0) -> Tensor:
    """What a G of official weights makes, with its constant noise, in double precision."""
    w = {name: x.double() for name, x in w.items()}
    style = mapped(w, z.double(), y, 3)
    style = w["mapping.w_avg"] + psi * (style - w["mapping.w_avg"])
    x = w["synthesis.b4.const"].expand(len(z), -1, -1, -1)
    image: Tensor | None = None
    size = 4
    while f"synthesis.b{size}.conv1.weight" in w:
        block = f"synthesis.b{size}"
        if size > 4:
            x = modulated(w, f"{block}.conv0", x, style, up=True)
            image = filtered(F.pad(spread(image), (2, 1, 2, 1)), FIR) * 4
        x = modulated(w, f"{block}.conv1", x, style)
        rgb = to_rgb(w, f"{block}.torgb", x, style)
        image = rgb if image is None else image + rgb
        size *= 2
    return image


def with_spread(x: Tensor) -> Tensor:
    """A map of the standard deviation over the whole batch, which is one group of 4 here."""
    std = (x.var(0, correction=0) + 1e-8).sqrt().mean()
    return torch.cat([x, std.expand(len(x), 1, *x.shape[2:])], 1)


def conv(w: Weights, name: str, x: Tensor, gain: float = 1.0) -> Tensor:
    """Equalised convolution; its bias too, where it has one."""
    weight = w[f"{name}.weight"]
    weight = weight * gain / math.sqrt(weight[0].numel())
    return F.conv2d(x, weight, w.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def stylegan2_logits(w: Weights, x: Tensor, y: Tensor | None = None) -> Tensor:
    """What a D of official weights says of four images."""
    w = {name: x.double() for name, x in w.items()}
    x, size = x.double(), x.shape[-1]
    x = lrelu(conv(w, f"b{size}.fromrgb", x))
    while size > 4:
        h = lrelu(conv(w, f"b{size}.conv0", x))
        h = filtered(F.pad(h, (2, 2, 2, 2)), FIR)
        weight = w[f"b{size}.conv1.weight"]
        h = F.conv2d(h, weight / math.sqrt(weight[0].numel()), w[f"b{size}.conv1.bias"], stride=2)
        small = filtered(F.pad(x, (1, 1, 1, 1)), FIR)[:, :, ::2, ::2]
        x = (lrelu(h) + conv(w, f"b{size}.skip", small)) * math.sqrt(0.5)
        size //= 2
    x = lrelu(conv(w, "b4.conv", with_spread(x)))
    x = dense(w, "b4.out", lrelu(dense(w, "b4.fc", x.flatten(1))))
    if y is None:
        return x.squeeze(1)
    return (x * mapped(w, None, y, 2)).sum(1) / math.sqrt(x.shape[1])


def rosinality_of(g: Weights, d: Weights) -> tuple[Weights, Weights]:
    """The same networks under rosinality's names and in its shapes."""
    sizes = sorted({int(name.split(".")[1][1:]) for name in g if name.startswith("synthesis.b")})
    named: Weights = {"input.input": g["synthesis.b4.const"][None]}
    for i in range(3):
        named |= {f"style.{i + 1}.{part}": g[f"mapping.fc{i}.{part}"] for part in ("weight", "bias")}
    for i, size in enumerate(sizes):
        pairs = (
            [("conv1", "conv1")]
            if i == 0
            else [("conv0", f"convs.{2 * i - 2}"), ("conv1", f"convs.{2 * i - 1}")]
        )
        for k, (old, new) in enumerate(pairs):
            block = f"synthesis.b{size}.{old}"
            named |= {
                f"{new}.conv.weight": g[f"{block}.weight"][None], f"{new}.activate.bias": g[f"{block}.bias"],
                f"{new}.conv.modulation.weight": g[f"{block}.affine.weight"],
                f"{new}.conv.modulation.bias": g[f"{block}.affine.bias"],
                f"{new}.noise.weight": g[f"{block}.noise_strength"].reshape(1),
                f"noises.noise_{0 if i == 0 else 2 * i - 1 + k}": g[f"{block}.noise_const"][None, None],
            }  # fmt: skip
        rgb, block = "to_rgb1" if i == 0 else f"to_rgbs.{i - 1}", f"synthesis.b{size}.torgb"
        named |= {
            f"{rgb}.conv.weight": g[f"{block}.weight"][None], f"{rgb}.bias": g[f"{block}.bias"].view(1, -1, 1, 1),
            f"{rgb}.conv.modulation.weight": g[f"{block}.affine.weight"],
            f"{rgb}.conv.modulation.bias": g[f"{block}.affine.bias"],
        }  # fmt: skip
        if i:
            kernel = torch.outer(FIR, FIR).float() * 4
            named |= {f"convs.{2 * i - 2}.conv.blur.kernel": kernel, f"{rgb}.upsample.kernel": kernel}
    top = sizes[-1]
    judge = {"convs.0.0.weight": d[f"b{top}.fromrgb.weight"], "convs.0.1.bias": d[f"b{top}.fromrgb.bias"]}
    for i, size in enumerate(reversed(sizes[1:])):
        new, old = f"convs.{i + 1}", f"b{size}"
        judge |= {
            f"{new}.conv1.0.weight": d[f"{old}.conv0.weight"], f"{new}.conv1.1.bias": d[f"{old}.conv0.bias"],
            f"{new}.conv2.1.weight": d[f"{old}.conv1.weight"], f"{new}.conv2.2.bias": d[f"{old}.conv1.bias"],
            f"{new}.skip.1.weight": d[f"{old}.skip.weight"], f"{new}.conv2.0.kernel": torch.outer(FIR, FIR).float(),
        }  # fmt: skip
    judge |= {"final_conv.0.weight": d["b4.conv.weight"], "final_conv.1.bias": d["b4.conv.bias"]}
    for i, old in enumerate(("fc", "out")):
        judge |= {f"final_linear.{i}.{part}": d[f"b4.{old}.{part}"] for part in ("weight", "bias")}
    return named, judge


Forward = Callable[..., Tensor]
