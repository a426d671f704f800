"""The published networks before StyleGAN2, for tests: small weights under their names, and forwards from the papers."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.foreign import Weights, drawn, lrelu, unit, with_spread

# -- StyleGAN, Progressive GAN: TensorFlow's layout: (height, width, in, out), (in, out) -------------------------------

WIDTHS = {4: 8, 8: 8, 16: 4}


def stylegan_g(seed: int = 0) -> tuple[Weights, dict[str, Weights]]:
    """(own variables, those of its components) of a G of 16 px, z of 5, w of 6, one mapping layer of each kind."""
    shapes: dict[str, tuple[int, ...]] = {"4x4/Const/const": (1, 8, 4, 4), "lod": ()}
    for i, size in enumerate(WIDTHS):
        below, c = WIDTHS[max(size // 2, 4)], WIDTHS[size]
        for k, name in enumerate(("Const", "Conv") if size == 4 else ("Conv0_up", "Conv1")):
            layer = f"{size}x{size}/{name}"
            shapes |= {
                f"{layer}/bias": (c,), f"{layer}/Noise/weight": (c,), f"{layer}/StyleMod/weight": (6, 2 * c),
                f"{layer}/StyleMod/bias": (2 * c,), f"noise{2 * i + k}": (1, 1, size, size),
            }  # fmt: skip
            if name != "Const":
                shapes[f"{layer}/weight"] = (3, 3, below if k == 0 else c, c)
        shapes |= {f"ToRGB_lod{2 - i}/weight": (1, 1, c, 3), f"ToRGB_lod{2 - i}/bias": (3,)}
    synthesis = drawn(shapes, seed) | {"lod": torch.zeros(())}
    names = {"Dense0/weight": (5, 6), "Dense0/bias": (6,), "Dense1/weight": (6, 6), "Dense1/bias": (6,)}
    mapping = {name: 100 * x for name, x in drawn(names, seed + 1).items()}
    own = {"dlatent_avg": torch.linspace(-1, 1, 6), "lod": torch.zeros(())}
    return own, {"mapping": mapping, "synthesis": synthesis}


def discriminator(fused: bool = True, seed: int = 2) -> Weights:
    """A D of 16 px; fused: convolving and halving are one."""
    down = "Conv1_down" if fused else "Conv1"
    shapes: dict[str, tuple[int, ...]] = {"lod": ()}
    for i, size in enumerate(WIDTHS):
        c = WIDTHS[size]
        shapes |= {f"FromRGB_lod{2 - i}/weight": (1, 1, 3, c), f"FromRGB_lod{2 - i}/bias": (c,)}
        if size > 4:
            below = WIDTHS[size // 2]
            shapes |= {f"{size}x{size}/Conv0/weight": (3, 3, c, c), f"{size}x{size}/Conv0/bias": (c,)}
            shapes |= {
                f"{size}x{size}/{down}/weight": (3, 3, c, below),
                f"{size}x{size}/{down}/bias": (below,),
            }
    shapes |= {
        "4x4/Conv/weight": (3, 3, 9, 8), "4x4/Conv/bias": (8,), "4x4/Dense0/weight": (128, 8), "4x4/Dense0/bias": (8,),
        "4x4/Dense1/weight": (8, 1), "4x4/Dense1/bias": (1,),
    }  # fmt: skip
    return drawn(shapes, seed) | {"lod": torch.zeros(())}


def progressive_g(seed: int = 0, fused: bool = True) -> Weights:
    """A G of 16 px, z of 5; fused: doubling and convolving are one, with kernels (height, width, out, in)."""
    shapes: dict[str, tuple[int, ...]] = {
        "lod": (), "4x4/Dense/weight": (5, 128), "4x4/Dense/bias": (8,), "4x4/Conv/weight": (3, 3, 8, 8),
        "4x4/Conv/bias": (8,),
    }  # fmt: skip
    for i, size in enumerate(WIDTHS):
        c, below = WIDTHS[size], WIDTHS[max(size // 2, 4)]
        shapes |= {f"ToRGB_lod{2 - i}/weight": (1, 1, c, 3), f"ToRGB_lod{2 - i}/bias": (3,)}
        if size > 4:
            up = "Conv0_up" if fused else "Conv0"
            shapes |= {f"{size}x{size}/{up}/weight": (3, 3, c, below) if fused else (3, 3, below, c)}
            shapes |= {f"{size}x{size}/{up}/bias": (c,), f"{size}x{size}/Conv1/weight": (3, 3, c, c)}
            shapes |= {f"{size}x{size}/Conv1/bias": (c,)}
    return drawn(shapes, seed) | {"lod": torch.zeros(())}


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def blurred(x: Tensor) -> Tensor:
    """[1, 2, 1] / 4 in both directions, zeros around."""
    taps = torch.tensor([1.0, 2.0, 1.0]).to(x) / 4
    return F.conv2d(x, torch.outer(taps, taps).expand(x.shape[1], 1, -1, -1), padding=1, groups=x.shape[1])


def conv(w: Weights, name: str, x: Tensor, gain: float = math.sqrt(2)) -> Tensor:
    """Equalised convolution with zeros around, without its bias."""
    kernel = w[f"{name}/weight"]
    std = gain / math.sqrt(math.prod(kernel.shape[:3]))
    return F.conv2d(x, kernel.permute(3, 2, 0, 1) * std, padding=kernel.shape[0] // 2)


def conv_up(x: Tensor, kernel: Tensor) -> Tensor:
    """The fused form: sums of a kernel (out, in, 3, 3), at the four shifts, scattered with stride 2."""
    std = math.sqrt(2) / math.sqrt(kernel[0].numel())
    k = F.pad(kernel * std, (1, 1, 1, 1))
    k = k[:, :, 1:, 1:] + k[:, :, :-1, 1:] + k[:, :, 1:, :-1] + k[:, :, :-1, :-1]
    return F.conv_transpose2d(x, k.transpose(0, 1), stride=2, padding=1)


def bias(w: Weights, name: str, x: Tensor) -> Tensor:
    return x + w[f"{name}/bias"].view(1, -1, *[1] * (x.dim() - 2))


def dense(w: Weights, name: str, x: Tensor, gain: float, lr: float = 1.0) -> Tensor:
    weight = w[f"{name}/weight"]
    return x @ (weight * (gain * lr / math.sqrt(len(weight)))) + w[f"{name}/bias"] * lr


def stylegan_images(
    own: Weights, parts: dict[str, Weights], z: Tensor, psi: float = 1.0, fused: bool = False
) -> Tensor:
    """What a G makes with its constant noise; fused: its kernels act in the transposed form. arXiv:1812.04948."""
    m, w = ({name: x.double() for name, x in parts[part].items()} for part in ("mapping", "synthesis"))
    style = unit(z.double())
    for i in range(2):
        style = lrelu(dense(m, f"Dense{i}", style, math.sqrt(2), 0.01), 1)
    mean = own["dlatent_avg"].double()
    style = mean + psi * (style - mean)
    x = w["4x4/Const/const"].expand(len(z), -1, -1, -1)
    for i, size in enumerate(WIDTHS):
        for k, name in enumerate(("Const", "Conv") if size == 4 else ("Conv0_up", "Conv1")):
            layer = f"{size}x{size}/{name}"
            if name == "Conv0_up":
                kernel = w[f"{layer}/weight"].permute(3, 2, 0, 1)
                x = blurred(conv_up(x, kernel) if fused else conv(w, layer, doubled(x)))
            elif name != "Const":
                x = conv(w, layer, x)
            x = x + w[f"noise{2 * i + k}"] * w[f"{layer}/Noise/weight"].view(1, -1, 1, 1)
            x = lrelu(bias(w, layer, x), 1)
            x = x - x.mean((2, 3), keepdim=True)
            x = x / (x.square().mean((2, 3), keepdim=True) + 1e-8).sqrt()
            scale, shift = dense(w, f"{layer}/StyleMod", style, 1).view(len(z), 2, -1, 1, 1).unbind(1)
            x = x * (scale + 1) + shift
    return bias(w, "ToRGB_lod0", conv(w, "ToRGB_lod0", x, 1))


def logits(w: Weights, x: Tensor) -> Tensor:
    """What a D says of four images: StyleGAN's with its blur, which halves before LeakyReLU, or Progressive GAN's
    without fused layers, which halves after it."""
    w = {name: v.double() for name, v in w.items()}
    x, size = x.double(), x.shape[-1]
    x = lrelu(bias(w, "FromRGB_lod0", conv(w, "FromRGB_lod0", x)), 1)
    while size > 4:
        block = f"{size}x{size}"
        x = lrelu(bias(w, f"{block}/Conv0", conv(w, f"{block}/Conv0", x)), 1)
        if f"{block}/Conv1_down/weight" in w:
            x = F.avg_pool2d(conv(w, f"{block}/Conv1_down", blurred(x)), 2)
            x = lrelu(bias(w, f"{block}/Conv1_down", x), 1)
        else:
            x = F.avg_pool2d(lrelu(bias(w, f"{block}/Conv1", conv(w, f"{block}/Conv1", x)), 1), 2)
        size //= 2
    x = lrelu(bias(w, "4x4/Conv", conv(w, "4x4/Conv", with_spread(x))), 1)
    x = lrelu(dense(w, "4x4/Dense0", x.flatten(1), math.sqrt(2)), 1)
    return dense(w, "4x4/Dense1", x, 1).squeeze(1)


def progressive_images(w: Weights, z: Tensor) -> Tensor:
    """What a full-grown G makes. arXiv:1710.10196."""
    w = {name: x.double() for name, x in w.items()}
    x = unit(z.double()) @ (w["4x4/Dense/weight"] * (math.sqrt(2) / 4 / math.sqrt(5)))
    x = unit(lrelu(bias(w, "4x4/Dense", x.view(len(z), -1, 4, 4)), 1))
    x = unit(lrelu(bias(w, "4x4/Conv", conv(w, "4x4/Conv", x)), 1))
    for size in (8, 16):
        layer = f"{size}x{size}/Conv0_up"
        if f"{layer}/weight" in w:
            x = conv_up(x, w[f"{layer}/weight"].permute(2, 3, 0, 1))
        else:
            layer = f"{size}x{size}/Conv0"
            x = conv(w, layer, doubled(x))
        x = unit(lrelu(bias(w, layer, x), 1))
        x = unit(lrelu(bias(w, f"{size}x{size}/Conv1", conv(w, f"{size}x{size}/Conv1", x)), 1))
    return bias(w, "ToRGB_lod0", conv(w, "ToRGB_lod0", x, 1))


# -- BigGAN-PyTorch: arXiv:1809.11096 ----------------------------------------------------------------------------------


def normed(
    shapes: dict[str, tuple[int, ...]], name: str, shape: tuple[int, ...], with_bias: bool = True
) -> None:
    """Add a layer under their spectral norm."""
    shapes |= {f"{name}.weight": shape, f"{name}.u0": (1, shape[0]), f"{name}.sv0": (1,)}
    if with_bias:
        shapes[f"{name}.bias"] = (shape[0],)


def biggan_g(kind: str, seed: int = 0) -> Weights:
    """A G of 2 channels a unit and 5 classes: "tables" (32 px, a table a norm), "shared" (32 px, one embedding),
    "hierarchical" (64 px, attention at 16 px, each block its part of z) or "deep" (64 px)."""
    large = kind in ("hierarchical", "deep")
    units = (16, 16, 8, 4, 2) if large else (4, 4, 4, 4)
    c = [2 * n for n in units]
    shapes: dict[str, tuple[int, ...]] = {} if kind == "tables" else {"shared.weight": (5, 6)}
    z_part, seen = {"hierarchical": (3, 9), "deep": (9, 9)}.get(kind, (3, 6))
    normed(shapes, "linear", (16 * c[0], z_part))

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.stored_mean": (channels,), f"{name}.stored_var": (channels,)})
        for part in ("gain", "bias"):
            if kind == "tables":
                shapes[f"{name}.{part}.weight"] = (5, channels)
            else:
                normed(shapes, f"{name}.{part}", (channels, seen), False)

    for i, (n_in, n_out) in enumerate(zip(c, c[1:], strict=False)):
        if kind == "deep":
            for j, to in enumerate((n_in, n_out)):
                block, hidden = f"blocks.{i}.{j}", n_in // 4
                kernels = ((hidden, n_in, 1), (hidden, hidden, 3), (hidden, hidden, 3), (to, hidden, 1))
                for k, (a, b, size) in enumerate(kernels, 1):
                    normed(shapes, f"{block}.conv{k}", (a, b, size, size))
                    norm(f"{block}.bn{k}", b)
        else:
            block = f"blocks.{i}.0"
            normed(shapes, f"{block}.conv1", (n_out, n_in, 3, 3))
            normed(shapes, f"{block}.conv2", (n_out, n_out, 3, 3))
            normed(shapes, f"{block}.conv_sc", (n_out, n_in, 1, 1))
            norm(f"{block}.bn1", n_in), norm(f"{block}.bn2", n_out)
        if large and i == 1:
            attended(shapes, f"blocks.{i}.{2 if kind == 'deep' else 1}", n_out)
    last = "output_layer.0"
    shapes |= {f"{last}.{part}": (c[-1],) for part in ("gain", "bias", "stored_mean", "stored_var")}
    normed(shapes, "output_layer.2", (3, c[-1], 3, 3))
    return positive(drawn(shapes, seed))


def attended(shapes: dict[str, tuple[int, ...]], name: str, c: int) -> None:
    """Add self-attention."""
    shapes[f"{name}.gamma"] = ()
    for part, (a, b) in {
        "theta": (c // 8, c),
        "phi": (c // 8, c),
        "g": (c // 2, c),
        "o": (c, c // 2),
    }.items():
        normed(shapes, f"{name}.{part}", (a, b, 1, 1), False)


def positive(weights: Weights) -> Weights:
    """Variances are none below zero."""
    return {name: x.abs() + 0.5 if name.endswith("stored_var") else x for name, x in weights.items()}


def biggan_d(large: bool, deep: bool = False, seed: int = 1) -> Weights:
    """A D of as many units; deep or not."""
    units, n_down = ((1, 2, 4, 8, 16), 4) if large else ((4, 4, 4, 4), 2)
    c = [4 * n for n in units]
    shapes: dict[str, tuple[int, ...]] = {}
    if deep:
        normed(shapes, "input_conv", (c[0], 3, 3, 3))
    pairs = list(zip(c if deep else [3, *c], c[1:] if deep else c, strict=False))
    for i, (n_in, n_out) in enumerate(pairs):
        for j in range(2 if deep else 1):
            block, a = f"blocks.{i}.{j}", n_in if j == 0 else n_out
            if deep:
                hidden = n_out // 4
                kernels = ((hidden, a, 1), (hidden, hidden, 3), (hidden, hidden, 3), (n_out, hidden, 1))
                for k, (to, of, size) in enumerate(kernels, 1):
                    normed(shapes, f"{block}.conv{k}", (to, of, size, size))
                if a != n_out:
                    normed(shapes, f"{block}.conv_sc", (n_out - a, a, 1, 1))
            else:
                (
                    normed(shapes, f"{block}.conv1", (n_out, a, 3, 3)),
                    normed(shapes, f"{block}.conv2", (n_out, n_out, 3, 3)),
                )
                if a != n_out or i < n_down:
                    normed(shapes, f"{block}.conv_sc", (n_out, a, 1, 1))
        if large and i == 1:
            attended(shapes, f"blocks.{i}.{2 if deep else 1}", n_out)
    normed(shapes, "linear", (1, c[-1]))
    normed(shapes, "embed", (5, c[-1]), False)
    return drawn(shapes, seed)


def layer(w: Weights, name: str) -> Tensor:
    """A weight over its spectral norm, as one step of the power method from their u finds it."""
    weight = w[f"{name}.weight"]
    matrix, u = weight.flatten(1), w[f"{name}.u0"].flatten()
    v = F.normalize(matrix.t() @ u, dim=0)
    return weight / (matrix @ v).norm()


def convolved(w: Weights, name: str, x: Tensor) -> Tensor:
    weight = layer(w, name)
    return F.conv2d(x, weight, w.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def attention(w: Weights, name: str, x: Tensor) -> Tensor:
    n, c, h, width = x.shape
    query, key, value = (convolved(w, f"{name}.{part}", x) for part in ("theta", "phi", "g"))
    key, value = (F.max_pool2d(v, 2).flatten(2) for v in (key, value))
    weights = torch.softmax(torch.einsum("nci,ncj->nij", query.flatten(2), key), 2)
    gathered = torch.einsum("nij,ncj->nci", weights, value).reshape(n, c // 2, h, width)
    return x + w[f"{name}.gamma"] * convolved(w, f"{name}.o", gathered)


def biggan_images(w: Weights, z: Tensor, y: Tensor) -> Tensor:
    """What a G makes with the statistics of its file."""
    w, z = {name: x.double() for name, x in w.items()}, z.double()
    classes = w["shared.weight"][y] if "shared.weight" in w else None
    deep = "blocks.0.0.conv4.weight" in w
    parts = z.split(3, 1) if z.shape[1] > 9 else [z]
    first = torch.cat([classes, z], 1) if deep else parts[0]
    x = (first @ layer(w, "linear").t() + w["linear.bias"]).view(len(z), -1, 4, 4)

    def norm(name: str, x: Tensor, seen: Tensor | None) -> Tensor:
        mean, var = (w[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("stored_mean", "stored_var"))
        if seen is None:
            gain, shift = 1 + w[f"{name}.gain.weight"][y], w[f"{name}.bias.weight"][y]
        else:
            gain, shift = 1 + seen @ layer(w, f"{name}.gain").t(), seen @ layer(w, f"{name}.bias").t()
        return torch.relu((x - mean) / (var + 1e-5).sqrt() * gain[:, :, None, None] + shift[:, :, None, None])

    i = 0
    while f"blocks.{i}.0.conv1.weight" in w:
        seen = classes
        if deep:
            seen = first
        elif len(parts) > 1:
            seen = torch.cat([classes, parts[i + 1]], 1)
        if deep:
            for j in range(2):
                block = f"blocks.{i}.{j}"
                h = convolved(w, f"{block}.conv1", norm(f"{block}.bn1", x, seen))
                h = norm(f"{block}.bn2", h, seen)
                x = x[:, : len(w[f"{block}.conv4.weight"])]
                h, x = (doubled(h), doubled(x)) if j else (h, x)
                h = convolved(w, f"{block}.conv2", h)
                h = convolved(w, f"{block}.conv3", norm(f"{block}.bn3", h, seen))
                x = x + convolved(w, f"{block}.conv4", norm(f"{block}.bn4", h, seen))
        else:
            block = f"blocks.{i}.0"
            h = convolved(w, f"{block}.conv1", doubled(norm(f"{block}.bn1", x, seen)))
            h = convolved(w, f"{block}.conv2", norm(f"{block}.bn2", h, seen))
            x = h + convolved(w, f"{block}.conv_sc", doubled(x))
        here = f"blocks.{i}.{2 if deep else 1}"
        x = attention(w, here, x) if f"{here}.gamma" in w else x
        i += 1
    mean, var, gain, shift = (
        w[f"output_layer.0.{part}"].view(1, -1, 1, 1)
        for part in ("stored_mean", "stored_var", "gain", "bias")
    )
    x = torch.relu((x - mean) / (var + 1e-5).sqrt() * gain + shift)
    return torch.tanh(convolved(w, "output_layer.2", x))


def biggan_logits(w: Weights, x: Tensor, y: Tensor, n_down: int) -> Tensor:
    """What a D says of images of classes."""
    w, x = {name: v.double() for name, v in w.items()}, x.double()
    deep = "input_conv.weight" in w
    x = convolved(w, "input_conv", x) if deep else x
    i = 0
    while f"blocks.{i}.0.conv1.weight" in w:
        down = (lambda v: F.avg_pool2d(v, 2)) if i < n_down else (lambda v: v)
        if deep:
            for j in range(2):
                block, pool = f"blocks.{i}.{j}", down if j == 0 else (lambda v: v)
                h = convolved(w, f"{block}.conv1", torch.relu(x))
                h = convolved(w, f"{block}.conv2", torch.relu(h))
                h = convolved(w, f"{block}.conv3", torch.relu(h))
                h = convolved(w, f"{block}.conv4", pool(torch.relu(h)))
                x = pool(x)
                if f"{block}.conv_sc.weight" in w:
                    x = torch.cat([x, convolved(w, f"{block}.conv_sc", x)], 1)
                x = h + x
        else:
            block = f"blocks.{i}.0"
            h = convolved(w, f"{block}.conv1", torch.relu(x) if i else x)
            h = down(convolved(w, f"{block}.conv2", torch.relu(h)))
            x = h + down(convolved(w, f"{block}.conv_sc", x) if f"{block}.conv_sc.weight" in w else x)
        here = f"blocks.{i}.{2 if deep else 1}"
        x = attention(w, here, x) if f"{here}.gamma" in w else x
        i += 1
    h = torch.relu(x).sum((2, 3))
    logit = h @ layer(w, "linear").t() + w["linear.bias"]
    return logit.squeeze(1) + (layer(w, "embed")[y] * h).sum(1)
