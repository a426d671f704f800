"""Whether networks keep the contract of `Model`, said in one line before data are read."""

import copy
import inspect
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from errors import UserError
from modelling.cgan import ConditionalDiscriminator, ConditionalGenerator
from modelling.conditioning import CLASS_HEADS, as_output
from modelling.growing import Stage
from modelling.layers import Size, as_size, image_shape
from modelling.model import Model
from ops.precision import upcast

HERE = Path(__file__).parent
TORCH = Path(torch.__file__).parent
STYLES = ("styles", "synthesis", "mapping", "n_layers", "w_dim", "mixing")
MIXED = ("z_mix", "u")  # what a G with styles is also called with


# Whose code it is


def code_file(function: object) -> str | None:
    """The file, as tracebacks name it, that a Python function or method stands in."""
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    return None if code is None else code.co_filename


def is_ours(network: type[nn.Module]) -> bool:
    """Whether a class is of this package, whose errors are worded already."""
    file = code_file(network.__init__)
    return file is not None and Path(file).parent == HERE


def short_path(file: str) -> str:
    """A file's path, from the current folder where it is below it."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def title(network: type[nn.Module]) -> str:
    """How messages call a class: by its name, and its file unless it is one of torch's, or none, as of a notebook."""
    found = map(code_file, (getattr(network, "forward", None), network.__init__))
    file = next((file for file in found if file and not Path(file).is_relative_to(TORCH)), None)
    known = file is not None and Path(file).is_file()
    return f"{network.__name__} ({short_path(file)})" if known else network.__name__


def bare(network: nn.Module) -> nn.Module:
    """The network itself, without the wrapping that `concat` gives it."""
    if isinstance(network, ConditionalGenerator):
        return network.G
    return network.D if isinstance(network, ConditionalDiscriminator) else network


def network_title(network: nn.Module) -> str:
    """How messages call a network: by the class that its user knows."""
    return title(type(bare(network)))


def revisions_of(network: nn.Module) -> tuple[str, ...]:
    """What has changed, oldest first, in what a network makes of the same weights."""
    return getattr(bare(network), "revisions", ())


def check_revision(network: nn.Module, saved: int, whose: str) -> None:
    """UserError unless weights are of the network's own revision; saved: the number of changes that they know."""
    changes = revisions_of(network)
    if saved > len(changes):
        raise UserError(
            f"{whose} is of a newer version, whose {network_title(network)} has changed: update this toolkit"
        )
    if saved < len(changes):
        raise UserError(
            f"{whose} is from before a change of {network_title(network)} ({'; '.join(changes[saved:])}), which makes "
            "something else of its weights: go on with the version that wrote it, or train anew"
        )


def at_line(error: BaseException, files: set[str]) -> str:
    """ " at file:line" of the innermost frame that stands in one of the files, "" without any."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    return f" at {short_path(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def in_words(error: BaseException) -> str:
    """An error as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


@contextmanager
def blaming(doing: str, network: type[nn.Module], *parts: nn.Module) -> Iterator[None]:
    """Turn errors of a user's network into UserErrors with file and line; those of this package stay as they are.

    parts: modules in whose files the error may have come about beside the class's own.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_ours(network) and isinstance(error, ValueError | TypeError):
            raise
        functions = [network.__init__, network.forward, *(type(part).forward for part in parts)]
        files = {file for file in map(code_file, functions) if file and not Path(file).is_relative_to(TORCH)}
        if not is_ours(network):
            files = {file for file in files if Path(file).parent != HERE}
        place = at_line(error, files)
        raise UserError(f"{title(network)}: {doing} fails{place}: {in_words(error)}") from error


# The contract


def check_attributes(network: nn.Module, **wanted: object) -> None:
    """UserError unless the network's attributes say what it was built for."""
    for name, value in wanted.items():
        who = title(type(network))
        if not hasattr(network, name):
            raise UserError(f"{who} has no attribute {name}: its constructor must set self.{name}")
        found = getattr(network, name)
        if name == "img_size" and isinstance(found, int | list | tuple):
            found, value = as_size(found), as_size(value)
        if found != value:
            raise UserError(f"{who} has {name} {found!r}, and {value!r} was asked for")


def check_calls(network: nn.Module, *names: str, keywords: tuple[str, ...] = ()) -> None:
    """UserError unless forward can be called with arguments of these names, the last optional."""
    who = title(type(network))
    if not isinstance(network, nn.Module):
        raise UserError(f"{who} is no torch.nn.Module")
    if type(network).forward is nn.Module.forward:
        raise UserError(f"{who} has no forward: write forward(self, {names[0]}, {names[1]}=None)")
    signature = inspect.signature(network.forward)
    try:
        signature.bind(*names, **dict.fromkeys(keywords))
    except TypeError as error:
        wanted = ", ".join(["self", names[0], *(f"{name}=None" for name in (*names[1:], *keywords))])
        raise UserError(f"{who}: forward{signature} must be forward({wanted}): {error}") from None


def check_owned(G: nn.Module, D: nn.Module, row: Model) -> None:
    """UserError unless the networks have what their row says of styles and growing."""
    if row.styles and (missing := [name for name in STYLES if not hasattr(G, name)]):
        raise UserError(f"{title(type(G))} is said to have styles and has no {', '.join(missing)}")
    for network in (G, D):
        if row.grows_from is not None and not any(isinstance(m, Stage) for m in network.modules()):
            raise UserError(f"{network_title(network)} is said to grow and has no modelling.growing.Stage")


def check_parameters(G: nn.Module, D: nn.Module) -> None:
    """UserError unless each network has parameters, none of them the other's, in the type that training computes in."""
    wanted = torch.get_default_dtype()
    for network in (G, D):
        who, named = network_title(network), dict(network.named_parameters())
        if not named:
            raise UserError(f"{who} has no parameters: there is nothing to train")
        for name, p in named.items():
            if isinstance(p, UninitializedParameter):
                raise UserError(f"{who}: {name} has no shape yet: run a batch through the network first")
            if p.is_floating_point() and p.dtype != wanted:
                raise UserError(
                    f"{who}: {name} is of {p.dtype}, and training computes in {wanted}: use .to({wanted})"
                )
    of_g = {id(p): name for name, p in G.named_parameters()}
    for name, p in D.named_parameters():
        if id(p) in of_g:
            raise UserError(
                f"{network_title(D)}: {name} is G's {of_g[id(p)]} too, and each network is trained by its own loss: "
                "give one of both a copy (copy.deepcopy)"
            )


def check_images_of(G: nn.Module, x: object, shape: tuple[int, ...]) -> None:
    """UserError unless G gave floating-point images of this shape that it can learn from."""
    who = network_title(G)
    if not isinstance(x, Tensor):
        raise UserError(f"{who}: G(z, y) must give a tensor, not {type(x).__name__}")
    if tuple(x.shape) != shape:
        raise UserError(f"{who}: G(z, y) must give images of shape {shape}, not {tuple(x.shape)}")
    if not x.is_floating_point():
        raise UserError(f"{who}: G(z, y) must give floating-point numbers, not {x.dtype}")
    if upcast(x).dtype not in (torch.float32, torch.get_default_dtype()):
        raise UserError(f"{who}: G(z, y) must give images of {torch.get_default_dtype()}, not {x.dtype}")
    if torch.is_grad_enabled() and not x.requires_grad:
        raise UserError(f"{who}: the images of G(z, y) have no gradient")


def check_logits_of(D: nn.Module, given: object, n: int, n_labels: int, classifies: bool) -> None:
    """UserError unless D gave a logit a sample, or several, and class logits where its condition needs them."""
    who = network_title(D)
    logit, classes = as_output(given)
    if not isinstance(logit, Tensor):
        raise UserError(f"{who}: D(x, y) must give logits or a DOutput, not {type(logit).__name__}")
    if logit.dim() == 0 or len(logit) != n:
        wanted = f"({n},) or ({n}, ...)"
        raise UserError(f"{who}: D(x, y) of {n} images must give logits {wanted}, not {tuple(logit.shape)}")
    if not logit.requires_grad:
        raise UserError(f"{who}: the logits of D(x, y) have no gradient")
    if classifies and (not isinstance(classes, Tensor) or tuple(classes.shape) != (n, n_labels)):
        found = "none" if classes is None else tuple(classes.shape)
        raise UserError(f"{who}: D(x, y) must give class logits {(n, n_labels)} in a DOutput, not {found}")


def computed(network: nn.Module) -> list[Tensor]:
    """Tensors with a graph that torch's old spectral_norm and weight_norm leave in modules: deepcopy refuses them."""
    held = (value for module in network.modules() for value in vars(module).values())
    return [value for value in held if isinstance(value, Tensor) and not value.is_leaf]


def copied(network: nn.Module) -> nn.Module:
    """A copy with values, on the same device."""
    return copy.deepcopy(network, {id(t): t.detach() for t in computed(network)})


def on_meta(network: nn.Module) -> nn.Module:
    """A copy on the meta device, which computes shapes alone, made without copying weights."""
    memo: dict[int, Tensor] = {}
    for t in (*network.parameters(), *network.buffers(), *computed(network)):
        empty = t.detach().to("meta")
        memo[id(t)] = nn.Parameter(empty, t.requires_grad) if isinstance(t, nn.Parameter) else empty
    return copy.deepcopy(network, memo)


def needs_values(error: BaseException) -> bool:
    """Whether an error's cause only says that the meta device holds no values."""
    return re.search(r"\bmeta\b", str(error.__cause__)) is not None


def check_contract(
    G: nn.Module,
    D: nn.Module,
    *,
    n: int,
    img_size: Size,
    img_channels: int,
    z_dim: int,
    n_labels: int = 0,
    condition_d: str | None = None,
    multi_hot: bool | None = None,
    row: Model | None = None,
    passes: bool = True,
) -> None:
    """UserError in one line for what two networks owe the contract of `Model`; they stay as they are.

    Copies run one micro-batch of n on the meta device, where nothing is computed, whatever device the networks are on.
    Networks that call for values run on their own device; if that is the meta device, their passes stay unchecked.
    condition_d: the way in which D sees n_labels labels; multi_hot: whether they are attributes, not classes, None
    where that is not known and either will do; row: what is said of the networks, None for nothing; passes: whether to
    run them.
    """
    keywords = MIXED if row is not None and row.styles else ()
    for network, names, extra in ((G, ("z", "y"), keywords), (D, ("x", "y"), ())):
        check_calls(network, *names, keywords=extra)
    check_attributes(G, z_dim=z_dim, img_size=img_size, img_channels=img_channels)
    check_attributes(D, img_size=img_size, img_channels=img_channels)
    check_parameters(G, D)
    if row is not None:
        check_owned(G, D, row)
    if not passes:
        return
    head = CLASS_HEADS.get(condition_d) if n_labels else None
    labels = Labels(n_labels, bool(multi_hot), head is not None and head.classifies)
    shape = (n, img_channels, *image_shape(img_size))
    try:
        _check_passes(G, D, shape, z_dim, labels)
    except UserError as error:
        if multi_hot is not None or not n_labels:
            raise
        try:
            _check_passes(G, D, shape, z_dim, labels._replace(multi_hot=True))
        except UserError:
            raise error from error.__cause__


class Labels(NamedTuple):
    """What a pass is told of labels; classifies: whether D has to tell them."""

    n: int
    multi_hot: bool
    classifies: bool

    def rows(self, n: int, device: torch.device) -> Tensor | None:
        """y of n samples: int64 (n,) or float (n, n_labels), None without labels."""
        if not self.n:
            return None
        classes = torch.zeros(n, dtype=torch.int64, device=device)
        return torch.zeros(n, self.n, device=device) if self.multi_hot else classes


def _check_passes(G: nn.Module, D: nn.Module, shape: tuple[int, ...], z_dim: int, labels: Labels) -> None:
    """A pass of copies on the meta device, on their own where they call for values."""
    try:
        _rehearse(on_meta(G), on_meta(D), shape, z_dim, labels)
    except UserError as error:
        if not needs_values(error):
            raise
        device = next(G.parameters()).device
        if device.type != "meta":
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                _rehearse(copied(G), copied(D), shape, z_dim, labels)


def _rehearse(G: nn.Module, D: nn.Module, shape: tuple[int, ...], z_dim: int, labels: Labels) -> None:
    """One pass of latents through both networks, on their device; UserError for what does not fit."""
    n, device = shape[0], next(G.parameters()).device
    y = labels.rows(n, device)
    with torch.enable_grad():
        with blaming("G(z, y)", type(bare(G)), *G.modules()):
            x = G.requires_grad_()(torch.zeros(n, z_dim, device=device), y)
        check_images_of(G, x, shape)
        with blaming("a copy after a pass, of which averages and samples are made,", type(bare(G))):
            copy.deepcopy(G)
        with blaming("D(x, y)", type(bare(D)), *D.modules()):
            output = D.requires_grad_()(x, y)
        check_logits_of(D, output, n, labels.n, labels.classifies)


@torch.no_grad()
def check_values(G: nn.Module, D: nn.Module, *, n: int, n_labels: int, multi_hot: bool) -> None:
    """UserError where copies fail to run a micro-batch on their device: on the meta device numbers of all types mix."""
    device = next(G.parameters()).device
    y = Labels(n_labels, multi_hot, False).rows(n, device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        with blaming("G(z, y)", type(bare(G)), *G.modules()):
            x = upcast(copied(G)(torch.zeros(n, G.z_dim, device=device), y))
        with blaming("D(x, y)", type(bare(D)), *D.modules()):
            copied(D)(x, y)
