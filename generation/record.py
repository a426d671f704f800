"""What a run has left in its folder, as far as it can be read: for reports and diagnoses, never for training.

Nothing here refuses a damaged run: what cannot be read is a line in `problems`, and the rest is there.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import disk
from errors import UserError, shown
from generation.checkpoint import CheckpointError, CheckpointStore, load_checkpoint
from generation.generator import CONFIG_LIMIT
from generation.pictures import FAKE, REAL, from_grid, place_in_scatter
from metrics.health import compared, sample_numbers
from metrics.lines import read_lines
from metrics.mixture import MIXTURES, NEAR
from tensorfile import read_safetensors

LARGEST = 1e100  # beyond, a value counts as infinite: no chart has such an axis
MAX_NAMES = 2000  # of series: beyond, a file is no run's
WEIGHTS_LIMIT = 2 * 2**30  # bytes of a checkpoint that is read for its weights
MAX_SIDE = 20_000  # px of a picture that is opened
MAX_LOOKED_AT = 40  # pictures of a weight set whose numbers are taken where the run has not logged them
_PICTURE = re.compile(r"step-(\d{8,12})-(\w[\w.+-]{0,99})\.png")


@dataclass(frozen=True)
class Series:
    """Values at steps, ascending; NaN for one that was not finite."""

    steps: list[int]
    values: list[float]

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def finite(self) -> list[float]:
        """The finite values."""
        return [value for value in self.values if math.isfinite(value)]

    def last_part(self, share: float = 0.25, least: int = 5) -> list[float]:
        """The finite values of the last part, at least so many where there are."""
        return self.finite[-max(math.ceil(share * len(self.finite)), least) :]


@dataclass
class Record:
    """A run's settings (its config.json), what its generator/ says, logged series by name, lines of scores, pictures.

    samples: by weight set and step; asked: what was asked of it; problems: what could not be read, a line each.
    """

    path: Path
    settings: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[str, dict[int, Path]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    weights_alone: bool = False  # whether it is a generator/ folder

    @property
    def name(self) -> str:
        """For people."""
        return shown(self.path.resolve().name, 80)

    @property
    def step(self) -> int:
        """The last step that anything is known of."""
        steps = [series.steps[-1] for series in self.series.values()]
        steps += [step for of_set in self.samples.values() for step in of_set]
        exported = self.about.get("step")
        return max([*steps, exported if type(exported) is int else 0])

    @property
    def n_images(self) -> int | None:
        """Of the data, None where nothing says so."""
        data = self.about.get("data")
        n = data.get("n_images") if isinstance(data, dict) else None
        return n if isinstance(n, int) and n > 0 else None

    @property
    def weight_set(self) -> str | None:
        """The one that is looked at first: the average where there is one."""
        return min(self.samples, key=lambda name: (name == "raw", name), default=None)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) of an image, None where nothing says so, and of points."""
        for place in (self.about, self.settings):
            match place.get("img_size"):
                case int() as side if side > 0:
                    return side, side
                case [int() as height, int() as width] if min(height, width) > 0:
                    return height, width
        return None

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return str(self.about.get("dataset") or self.settings.get("dataset") or "")

    @property
    def translates(self) -> bool:
        """Whether it makes pictures of pictures."""
        return bool(self.about.get("translates")) or self.settings.get("model") in (
            "pix2pix",
            "cyclegan",
            "srgan",
        )

    def picture(self, file: Path) -> Image.Image | None:
        """One of its pictures, None, and a problem, where it cannot be read."""
        try:
            with Image.open(file) as picture:
                if max(picture.size) > MAX_SIDE:
                    raise OSError(f"{picture.width} x {picture.height} px")
                return picture.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = getattr(error, "strerror", None) or "it is no whole picture"
            self.note(f"samples/{shown(file.name)} cannot be read: {reason}")
            return None

    def note(self, problem: str) -> None:
        """Say once what could not be read."""
        if problem not in self.problems:
            self.problems.append(problem)

    @cached_property
    def reals(self) -> Tensor | None:
        """The first real images, uint8 (n, 3, H, W), as samples/real.png shows them; None without."""
        file = self.path / "samples" / "real.png"
        if self.dataset in MIXTURES or self.translates or self.image_size is None or not file.is_file():
            return None
        return self._images(file)

    @cached_property
    def _of_reals(self) -> dict[str, float | None] | None:
        return (
            None if self.reals is None else sample_numbers(self.reals) | {"roughness": roughness(self.reals)}
        )

    def _images(self, file: Path) -> Tensor | None:
        picture = self.picture(file)
        try:
            return None if picture is None else from_grid(picture, self.image_size)
        except ValueError as error:
            self.note(f"samples/{shown(file.name)}: {error}")
            return None

    @cached_property
    def sample_series(self) -> dict[str, dict[str, Series]]:
        """Weight set -> name -> Series of how its samples compare with data, as metrics.health has it, roughness, and,
        of points, modes: those that are logged, the others of the pictures."""
        return {name: self._of_set(name) for name in self.samples}

    def _of_set(self, name: str) -> dict[str, Series]:
        start = f"samples/{name}/"
        logged = {key.removeprefix(start): one for key, one in self.series.items() if key.startswith(start)}
        steps = spread(sorted(self.samples[name]), MAX_LOOKED_AT)
        found: dict[str, list[tuple[int, float]]] = {}
        for step in steps:
            for key, value in self._numbers_of(self.samples[name][step]).items():
                found.setdefault(key, []).append((step, value))
        seen = {key: Series(*map(list, zip(*points, strict=True))) for key, points in found.items()}
        return seen | logged

    def _numbers_of(self, file: Path) -> dict[str, float]:
        """What a picture of samples says."""
        if self.dataset in MIXTURES:
            picture = self.picture(file)
            return {} if picture is None else modes_shown(picture, self.dataset)
        if self._of_reals is None or (fakes := self._images(file)) is None:
            return {}
        return compared(self._of_reals, sample_numbers(fakes) | {"roughness": roughness(fakes)})


def spread(items: list[int], n: int) -> list[int]:
    """At most n of them, the first and the last too, the later half the denser: what a run has become counts."""
    if len(items) <= n:
        return items
    last = items[-n // 2 :]
    before = items[: -n // 2]
    stride = len(before) / (n - len(last))
    return [before[int(i * stride)] for i in range(n - len(last))] + last


def roughness(x: Tensor) -> float | None:
    """Mean absolute difference of neighbouring pixels over the standard deviation of an image's, x uint8 (n, C, H, W):
    high for noise, low for what is smooth. None for images of one tone or one pixel."""
    grey = x.float().mean(1)
    spread_of_image = float(grey.flatten(1).std(1, correction=0).mean())
    if spread_of_image < 1 or min(grey.shape[1:]) < 2:
        return None
    steps = [(grey[:, 1:] - grey[:, :-1]).abs().mean(), (grey[:, :, 1:] - grey[:, :, :-1]).abs().mean()]
    return float(sum(steps)) / 2 / spread_of_image


def modes_shown(picture: Image.Image, dataset: str) -> dict[str, float]:
    """Of a scatter plot of a mixture: modes, those with at least a tenth of an equal share of the fakes' ink that is
    near any; near: the share of all their ink that is near one. Nothing without any ink."""
    mixture = MIXTURES[dataset]
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).float()  # (H, W, 3)
    to_fake, to_real = ((pixels - torch.tensor(colour)).norm(dim=2) for colour in (FAKE, REAL))
    ink = (to_fake < 60) & (to_fake < to_real)
    rows, columns = torch.where(ink)
    if not len(rows):
        return {}
    at, radius = place_in_scatter(mixture.centres, mixture.std * NEAR)
    distance = torch.cdist(torch.stack([columns, rows], dim=1).float() + 0.5, torch.as_tensor(at).float())
    nearest, which = distance.min(1)
    is_near = nearest <= radius + 1
    counts = torch.bincount(which[is_near], minlength=len(at))
    modes = int((counts > 0.1 * counts.sum() / len(at)).sum())
    return {"modes": modes / len(at), "near": float(is_near.float().mean())}


# -- reading -------------------------------------------------------------------------------------------------------


def read_record(path: Path) -> Record:
    """All that can be read of a run's folder or of a generator/ alone; UserError for what is neither."""
    if not path.is_dir():
        raise UserError(
            f"{shown(str(path))} {'is no folder' if path.exists() else 'does not exist'}: name runs/NAME"
        )
    record = Record(path)
    alone = record.weights_alone = not (path / "generator").is_dir() and any(path.glob("*.safetensors"))
    generator = path if alone else path / "generator"
    record.about = _json(record, generator / "config.json", "generator/config.json")
    if not alone:
        settings = _json(record, path / "config.json", "config.json")
        asked = settings.pop("asked", None)
        record.settings, record.asked = settings, asked if isinstance(asked, dict) else None
        _read_series(record)
        _read_scores(record)
        _find_pictures(record)
    if not (record.about or record.settings or record.series or record.samples):
        raise UserError(f"{shown(str(path))} is no run: nothing of one can be read there; name runs/NAME")
    return record


def _json(record: Record, file: Path, name: str) -> dict[str, Any]:
    """A config.json, {} and a problem where there is none."""
    try:
        return disk.read_json(file, dict[str, Any], CONFIG_LIMIT)
    except disk.Unreadable as error:
        record.note(f"{name}: {_reason(error, file)}")
        return {}


def _reason(error: disk.Unreadable, file: Path) -> str:
    """What is wrong, without the place, which the report has."""
    return error.for_command_line.removeprefix(shown(str(file))).strip()


def _read_series(record: Record) -> None:
    """metrics.jsonl, line by line; halves of lines are counted."""
    file, points, bad = record.path / "metrics.jsonl", {}, 0
    try:
        with disk.open_regular(file) as lines:
            for text in lines:
                try:
                    line = disk.decode_json(text, dict[str, Any], "metrics.jsonl")
                    _add_line(points, line)
                except (disk.Unreadable, KeyError):
                    bad += bool(text.strip())
    except (disk.Unreadable, OSError) as error:
        reason = _reason(error, file) if isinstance(error, disk.Unreadable) else str(error)
        record.note(f"metrics.jsonl: {reason}")
    if bad:
        record.note(f"metrics.jsonl: {bad:,} lines are damaged and passed over")
    ordered = {shown(name, 100): sorted(at.items()) for name, at in points.items()}
    record.series = {name: Series([s for s, _ in at], [v for _, v in at]) for name, at in ordered.items()}


def _add_line(points: dict[str, dict[int, float]], line: Mapping[str, Any]) -> None:
    """The numbers of a line, of a step the newest; KeyError for one without a step."""
    step = line["step"]
    if type(step) is not int or not 0 <= step < 2**53:
        raise KeyError("step")
    for name, value in line.items():
        if name == "step" or not (value is None or type(value) in (int, float)):
            continue
        if name in points or len(points) < MAX_NAMES:
            at = points.setdefault(name, {})
            try:
                number = math.nan if value is None else float(value)
            except OverflowError:
                number = math.inf
            at[step] = math.copysign(math.inf, number) if abs(number) > LARGEST else number


def _read_scores(record: Record) -> None:
    """scores.jsonl, which a run without scores has not."""
    file = record.path / "scores.jsonl"
    if not file.exists():
        return
    try:
        record.scores = [line for line in read_lines(file) if type(line.get("step")) is int]
    except disk.Unreadable as error:
        record.note(f"scores.jsonl: {_reason(error, file)}")


def pictures_in(folder: Path) -> dict[str, dict[int, Path]]:
    """The pictures that training left in samples/, weight set -> step -> file; OSError."""
    found: dict[str, dict[int, Path]] = {}
    for file in sorted(folder.iterdir()):
        if match := _PICTURE.fullmatch(file.name):
            found.setdefault(match[2], {})[int(match[1])] = file
    return found


def _find_pictures(record: Record) -> None:
    """samples/ by weight set and step."""
    try:
        record.samples = pictures_in(record.path / "samples")
    except OSError as error:
        record.note(f"samples: {error.strerror}")
        return
    if not record.samples:
        record.note("samples: no pictures of a step")


# -- weights -------------------------------------------------------------------------------------------------------


def read_weights(record: Record) -> tuple[str, dict[str, dict[str, Tensor]]]:
    """(where they are from, network -> layer -> weight of more than one dimension): of the newest whole checkpoint, or
    where there is none of generator/, which has G alone; ("", {}) where nothing can be read."""
    store = CheckpointStore(record.path / "checkpoints")
    for step in reversed(store.steps()):
        try:
            state = load_checkpoint(store.path(step), limit=WEIGHTS_LIMIT)
            return f"checkpoint of step {step:,}", {n: _layers(w) for n, w in state["networks"].items()}
        except (CheckpointError, KeyError, AttributeError) as error:
            record.note(f"checkpoints/{store.path(step).name}: {_short(error)}")
    folder = record.path if record.weights_alone else record.path / "generator"
    for file in sorted(folder.glob("*.safetensors"), key=lambda file: (file.stem == "raw", file.name)):
        try:
            if file.stat().st_size <= WEIGHTS_LIMIT:
                return f"generator/{file.name}", {"G": _layers(read_safetensors(file)[0])}
        except (UserError, OSError) as error:
            record.note(f"generator/{file.name}: {_short(error)}")
    return "", {}


def _layers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of layers, by the layers' names."""
    found = {}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.dim() > 1 and value.is_floating_point() and value.numel() > 1:
            layer = re.sub(r"\.parametrizations\.weight\.original\d*$|\.weight$", "", name)
            found[layer if layer not in found else name] = value.detach().float()
    return found


def _short(error: Exception) -> str:
    """What is wrong with a file, without the place."""
    text = error.for_command_line if isinstance(error, UserError) else str(error)
    return shown(text.rpartition(": ")[2] if ": " in text else text, 120)
