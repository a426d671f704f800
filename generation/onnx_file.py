"""A trained network as an ONNX file, held against the network itself.

    from generation.onnx_file import sampling_graph, write_onnx
    difference = write_onnx(sampling_graph(*load_generator("runs/faces")), Path("faces.onnx"))

Inputs are float32. Of a generator: `z` (N, z_dim); with labels `y` (N, n_labels), a 1 for the class or for each
attribute, 0 elsewhere; with styles `truncation` (1,), psi, 1 for no change. Of a network that translates: `x`
(N, C, H, W) in [-1, 1]. The output `image` (N, C, H, W) is clamped to [-1, 1]; points of the plane are (N, 2, 1, 1) as
they are. The file's metadata say what it is of (`Graph.card`).
"""

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

import disk
from errors import UserError, shown
from generation.translator import Translator
from generation.views import view_of
from modelling.layers import as_size, image_shape, size_text
from modelling.sizes import Sides
from ops.memory import size_in_words

OPSET = 18
TOLERANCE = 1e-4
CHECKED = (1, 5)  # batch sizes
TRACED = 3  # of the batch that the graph is made with: torch takes 1 for a size that never changes
LARGEST = 2**31 - 2**24  # bytes: protobuf holds no more than 2 GiB in one file
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
SIDE_LIMIT = 2**16  # px


def need_onnx() -> None:
    """UserError where one of the packages that write ONNX, or check it, is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs {' and '.join(missing)}, which this Python lacks: pip install -r requirements-extras.txt"
        )


# -- what is written -------------------------------------------------------------------------------------------------


class Sampler(nn.Module):
    """(z, y, truncation) -> images of a generator, whatever its labels are and whether it has styles."""

    def __init__(self, G: nn.Module, *, of_classes: bool, n_truncated: int | None, clamped: bool) -> None:
        """of_classes: G takes class indices alone; n_truncated: layers that truncation acts on, None without styles."""
        super().__init__()
        self.G, self.of_classes, self.n_truncated, self.clamped = G, of_classes, n_truncated, clamped

    def forward(self, z: Tensor, y: Tensor | None = None, truncation: Tensor | None = None) -> Tensor:
        """(N, z_dim), (N, n_labels), (1,) -> (N, C, H, W)."""
        labels = y.argmax(1) if self.of_classes and y is not None else y
        if truncation is None:
            x = self.G(z, labels)
        else:
            ws, n = self.G.styles(z, labels), self.n_truncated
            drawn = torch.lerp(self.G.mapping.w_avg.to(ws.dtype), ws[:, :n], truncation)
            x = self.G.synthesis(torch.cat([drawn, ws[:, n:]], 1), noise="constant")
        return x.clamp(-1, 1) if self.clamped else x


class Translating(nn.Module):
    """x -> images of a network that translates; what its dropout would draw is left out."""

    def __init__(self, G: nn.Module) -> None:
        super().__init__()
        self.G = G

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H * factor, W * factor)."""
        return self.G(x).clamp(-1, 1)


@dataclass(frozen=True)
class Graph:
    """A network as it is written.

    network: in eval mode; shapes: of one sample of each input by its name; fixed: inputs that have no batch; sides:
    those that pictures may have, None without pictures; card: what the file's metadata say.
    """

    network: nn.Module
    shapes: Mapping[str, tuple[int, ...]]
    fixed: tuple[str, ...]
    sides: Sides | None
    card: dict[str, Any]

    def example(self, n: int, seed: int = 0, *, other_size: bool = False) -> dict[str, Tensor]:
        """Inputs of n samples, pictures of their usual size or of another one, small and not square."""
        source = torch.Generator().manual_seed(seed)
        found = {}
        for name, shape in self.shapes.items():
            if other_size:
                least = -(-self.sides.least // self.sides.multiple)
                shape = (shape[0], *(self.sides.multiple * (least + more) for more in (1, 2)))
            found[name] = torch.randn(shape if name in self.fixed else (n, *shape), generator=source)
        if "y" in found:
            n_labels = self.shapes["y"][0]
            bits = torch.rand(n, n_labels, generator=source) < 0.5
            found["y"] = (
                bits.float() if self.card["multi_hot"] else torch.eye(n_labels)[torch.arange(n) % n_labels]
            )
        if "x" in found:
            found["x"] = found["x"].clamp(-1, 1)
        return found


def sampling_graph(
    G: nn.Module,
    about: Mapping[str, Any],
    *,
    truncation: float | None = None,
    truncation_layers: int | None = None,
    license: str | None = None,
) -> Graph:
    """What load_generator gives, for write_onnx.

    truncation: of models with styles the psi to begin with, which the card only tells; of others the threshold of the
    latents that G's batch norm was measured with, see with_truncation, to which its users keep. truncation_layers: how
    many layers psi acts on, None for all. UserError for more than there are.
    """
    n_layers, kind = None, "images" if view_of(about["dataset"]).single else "points"
    if about["styles"] and G.mapping.w_avg is not None:
        n_layers = G.n_layers if truncation_layers is None else truncation_layers
        if not 1 <= n_layers <= G.n_layers:
            raise UserError(f"--truncation_layers {n_layers}: this generator has {G.n_layers} layers")
    own = about.get("model_file") is not None
    network = Sampler(
        G,
        of_classes=own and not about["multi_hot"],
        n_truncated=n_layers,
        clamped=kind == "images",
    )
    shapes = {"z": (G.z_dim,)}
    if about["n_labels"]:
        shapes["y"] = (about["n_labels"],)
    if n_layers is not None:
        shapes["truncation"] = (1,)
    card = _card(about, kind, G, license) | {
        "z_dim": G.z_dim,
        "n_labels": about["n_labels"],
        "multi_hot": about["multi_hot"],
        "label_names": list(about["label_names"]),
        "truncation": truncation,
        "noise": "constant" if about["styles"] and getattr(G, "layer_noise", True) else "none",
    }
    return Graph(network.eval(), shapes, ("truncation",), None, card)


def translating_graph(
    translator: Translator, direction: str | None = None, *, license: str | None = None
) -> Graph:
    """One direction of what load_translator gives, None for the first, for write_onnx. UserError for an unknown one."""
    G = translator.network(direction)
    dropped = [module for module in G.modules() if getattr(module, "sampling", False)]
    for module in dropped:
        module.sampling = False
    height, width = (side // G.factor for side in image_shape(G.img_size))
    card = _card(translator.about, "pictures", G, license) | {
        "direction": translator.directions[0] if direction is None else direction,
        "source_channels": G.source_channels,
        "factor": G.factor,
        "sides": {"multiple": G.sides.multiple, "least": G.sides.least},
        "noise": "none" if dropped else None,
    }
    shapes = {"x": (G.source_channels, height, width)}
    return Graph(Translating(G).eval(), shapes, (), G.sides, card)


def _card(about: Mapping[str, Any], kind: str, G: nn.Module, license: str | None) -> dict[str, Any]:
    """What every file says of itself."""
    return {
        "model": about["model"],
        "step": about["step"],
        "weights": about["chosen"],
        "batch_norm": about["batch_norm"],
        "dataset": about["dataset"],
        "kind": kind,
        "img_size": size_text(as_size(G.img_size)),
        "img_channels": G.img_channels,
        "license": license,
    }


# -- writing and checking --------------------------------------------------------------------------------------------


def write_onnx(graph: Graph, file: Path) -> float:
    """Write a graph, and return the largest difference of its images from the network's, in units of [-1, 1].

    Pictures have any sides that the network takes, or one size where torch cannot tell the graph for all
    (`card["dynamic"]` says which). UserError where packages are missing, for a network that cannot be written so, for
    one of 2 GiB, and, with nothing written, where the difference is above TOLERANCE. OSError from the disk.
    """
    need_onnx()
    held = sum(t.numel() * t.element_size() for t in graph.network.state_dict().values())
    if held > LARGEST:
        raise UserError(
            f"the network has {size_in_words(held)} of weights: ONNX holds less than 2 GiB in a file"
        )
    with torch.no_grad(), _quiet():
        model = _exported(graph)
        graph.card["opset"] = OPSET
        _describe(model, graph.card)
        with disk.replacing(file) as place:
            place.write_bytes(model.SerializeToString())
            found = largest_difference(graph, place)
            if not found <= TOLERANCE:
                raise UserError(
                    f"{file} is not written: its images differ from the generator's by {found:.2g}, which is more than "
                    f"{TOLERANCE:g}"
                )
    return found


def largest_difference(graph: Graph, file: Path) -> float:
    """Between what onnxruntime makes of a file and what the network makes, over batches of 1 and 5; NaN for NaN.

    UserError where onnxruntime cannot run it."""
    import onnxruntime

    found = []
    for n in CHECKED:
        given = graph.example(n, seed=n, other_size=n > 1 and graph.card.get("dynamic", False))
        try:
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            image = session.run(None, {name: x.numpy() for name, x in given.items()})[0]
        except Exception as error:  # of a class of its own for each reason
            raise UserError(f"onnxruntime cannot run {graph.card['model']}: {_reason(error)}") from error
        found.append(np.abs(image - graph.network(**given).numpy()).max())
    return float(np.max(found))


def _exported(graph: Graph) -> Any:
    """The onnx.ModelProto of a graph, whose card then says whether sides are `dynamic`; UserError."""
    if graph.sides is None:
        return _traced(graph)
    try:
        model, graph.card["dynamic"] = _traced(graph, any_size=True), True
    except UserError:
        model, graph.card["dynamic"] = _traced(graph), False
    return model


def _traced(graph: Graph, any_size: bool = False) -> Any:
    """The onnx.ModelProto of a graph, of pictures of any size or of their usual one; UserError."""
    batch = Dim("n", min=1)
    axes: dict[str, Any] = {name: None if name in graph.fixed else {0: batch} for name in graph.shapes}
    given = graph.example(TRACED, other_size=any_size)
    if any_size:
        multiple = graph.sides.multiple
        for axis, side in ((2, "h"), (3, "w")):
            dim = Dim(side, min=-(-graph.sides.least // multiple), max=SIDE_LIMIT // multiple)
            axes["x"][axis] = dim if multiple == 1 else multiple * dim
    try:
        # by itself, which says what is wrong: the exporter would go on to other ways, which fix the batch
        program = torch.export.export(graph.network, (), given, dynamic_shapes=axes, strict=False)
        return torch.onnx.export(
            program, output_names=["image"], opset_version=OPSET, verbose=False
        ).model_proto
    except Exception as error:  # whatever torch finds in a network, a user's own too
        raise UserError(f"{graph.card['model']} cannot be written as ONNX: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The first line of what an error comes from."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return shown(f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}", 200)


def _describe(model: Any, card: Mapping[str, Any]) -> None:
    """Put what a card says into a model's metadata, as text or as json; names for the axes that may have any length."""
    model.producer_name = "gan-toolkit"
    # of what stands in between, under the exporter's names for the same axes
    del model.graph.value_info[:]
    factor = "" if card.get("factor", 1) == 1 else f"{card['factor']}*"
    for values, times in ((model.graph.input, ""), (model.graph.output, factor)):
        for value in values:
            dims = value.type.tensor_type.shape.dim
            for dim, name in zip(dims, ("N", "C", f"{times}H", f"{times}W"), strict=False):
                if dim.dim_param:
                    dim.dim_param = name
    for key, value in card.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            model.metadata_props.add(key=key, value=text)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells of itself."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
