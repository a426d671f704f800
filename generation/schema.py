"""What a checkpoint and a generator's config.json must look like, whoever wrote them."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from errors import UserError, shown
from generation.checkpoint import Misfit

FORMAT = 1  # of generator/config.json: the newest that this version reads
MAX_COUNT = 2**53  # up to here floats count exactly, and no run gets there

Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Some = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
# What is printed holds nothing that a terminal would obey: controls, and marks that turn a text around.
PRINTED = r"\A[^\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]*\Z"
Word = Annotated[str, Meta(min_length=1, max_length=1000, pattern=PRINTED)]


def converted(content: Any, kind: type, name: str) -> Any:
    """Content as what it should be; Misfit says at which place it is not."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        reason = re.sub(r"`?\$\.?([\w.\[\]]*)`?", rf"{name}.\1", str(error)).replace("`", "")
        raise Misfit(shown(reason)) from None
    # what msgspec makes of objects that are no plain content, or that are nested deeply
    except Exception as error:
        raise Misfit(f"{name} is not plain content: {shown(str(error), 100)}") from None


# -- checkpoints ---------------------------------------------------------------------------------------------------


class LoopState(Struct):
    """Counts of the loop; scores: [step, value, protocol] of each evaluation; values: last logged ones, NaN too."""

    updates: Count
    last_update: Count
    skipped: Annotated[float, Meta(ge=0, le=MAX_COUNT)]
    scores: list[tuple[Count, float, str]] = []
    values: dict[str, float] = {}


class OptimizerState(Struct):
    """What torch's optimisers save."""

    state: dict[int, dict[str, Any]]
    param_groups: list[dict[str, Any]]


class Origin(Struct):
    """The data of a run."""

    name: str
    fingerprint: str
    n_labels: Count | None = None
    revisions: dict[str, Count] = {}
    readers: dict[str, str] = {}


class CheckpointState(Struct):
    """A checkpoint, up to its tensors; what older versions did not write has a default, what newer add is left."""

    step: Count
    attempt: Count
    networks: dict[str, dict[str, Any]]
    ema: dict[str, dict[str, Any]]
    optimizers: dict[str, OptimizerState]
    task: dict[str, Any]
    loop: LoopState
    data: Origin
    processes: Some
    scaler: dict[str, Any] | None = None
    compiled: str = "no"


class Revised(Struct):
    """What weights say of the networks that they are of."""

    revisions: dict[str, Count] = {}


class SampledState(Struct):
    """What sampling and starting read of a checkpoint."""

    step: Count
    networks: dict[str, dict[str, Any]]
    ema: dict[str, dict[str, Any]]
    data: Revised = field(default_factory=Revised)


# -- generator/config.json -----------------------------------------------------------------------------------------


class ModelFile(Struct):
    """The user's file that a generator is built from."""

    name: Word
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


Scalar = bool | int | float | str | None


class Translation(Struct):
    """How pictures are translated in one direction: the name of the network, and its keyword arguments."""

    network: Annotated[str, Meta(pattern=r"^G\w{0,99}$")]
    build: dict[str, Scalar | list[Scalar]]


class GeneratorConfig(Struct):
    """generator/config.json. What newer versions add is left as it is, unless `format` says that it matters."""

    model: Word | None
    build: dict[str, Scalar | list[Scalar]]
    weights: Annotated[
        list[Annotated[str, Meta(pattern=r"^\w[\w.+-]{0,99}$")]], Meta(min_length=1, max_length=100)
    ]
    multi_hot: bool
    n_labels: Annotated[int, Meta(ge=0, le=10**6)] = 0
    dataset: Word = "images"
    img_size: int | list[int] | None = None
    z_dim: Some | None = None
    label_names: Annotated[list[str], Meta(max_length=10**6)] = []
    label_examples: list[str] | str | None = None
    seed: int = 0
    step: Count = 0
    batch_norm: Word = "unknown"
    model_file: ModelFile | None = None
    revision: Count = 0
    readers_of_d: dict[str, str] = {}
    translates: Annotated[dict[Literal["AtoB", "BtoA"], Translation], Meta(min_length=1)] | None = None
    data: dict[str, Any] = {}
    format: int = FORMAT


def read_generator_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a generator/ with its defaults in place; UserError for a newer format, Misfit for another form."""
    newest = content.get("format", FORMAT)
    if type(newest) is int and newest > FORMAT:
        raise UserError(
            f"written by a newer version (format {newest}, this one reads up to {FORMAT}): update this toolkit"
        )
    found = converted(content, GeneratorConfig, "config")
    if len(found.label_names) not in (0, found.n_labels):
        raise Misfit(f"config.label_names are {len(found.label_names)}, n_labels is {found.n_labels}")
    if type(newest) is not int or newest < 1:
        raise Misfit(f"config.format is {newest!r:.20}")
    return msgspec.to_builtins(found) | dict(content)
