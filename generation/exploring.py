"""What a page asks of a trained generator or translator: bounded requests in, pictures out.

    explorer = Explorer(*load_generator("runs/faces"))
    explorer.picture(explorer.samples(n=16, seed=0))

Whoever asks may send anything: every request is checked here, against the bounds below, and no file is named in any.
Requests are served one at a time, in whatever threads they come.
"""

import math
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from errors import UserError, blaming_user, shown
from generation.animation import write_animation
from generation.codes import Codes, seeded_codes, write_codes
from generation.directions import Directions, find_directions
from generation.drawing import draw_chunks
from generation.labels import sample_labels
from generation.latents import latents
from generation.pictures import square_columns, to_picture
from generation.sampling import undisturbed, with_truncation
from generation.translator import Translator
from generation.views import N_POINTS, view_of
from generation.walks import lerp, slerp
from images.decoding import to_plain
from modelling.styles import truncated_styles

MAX_N = 64  # images at once
MAX_SEED = 2**31 - 1  # a browser's numbers hold it
MAX_PSI, MAX_THRESHOLD = 2.0, 4.0
MAX_STRENGTH = 10.0  # of a direction, in its units
N_DIRECTIONS = 5
N_FRAMES, FPS = 48, 24.0  # of a walk
MAX_SIDE = 1024  # px of a translation
KEPT = 4  # copies of G for as many thresholds


def whole_between(name: str, value: Any, least: int, most: int) -> int:
    """A whole number from outside, between bounds; UserError."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value != int(value) or not least <= value <= most:
        raise UserError(f"{name} {shown(str(value), 30)}: give a whole number from {least} to {most}")
    return int(value)


def number_between(name: str, value: Any, least: float, most: float) -> float:
    """A number from outside, between bounds; UserError."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise UserError(f"{name} {shown(str(value), 30)}: give a number from {least:g} to {most:g}")
    return float(value)


def names_of(name: str, value: Any) -> list[str]:
    """A list of names from outside; None is an empty one. UserError."""
    value = [] if value is None else value
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise UserError(f"{name} {shown(str(value), 30)}: give a list of names")
    return list(value)


class Explorer:
    """A generator and what is known of it (G, about: of load_generator), and what can be asked of it.

    label: the class by name or number, None for all in turn; present, absent: attributes that all images have or have
    not; truncation: psi of models with styles, a threshold of latents for others, None for none. UserError for what
    is out of bounds and for what the generator does not know.
    """

    def __init__(self, G: nn.Module, about: Mapping[str, Any]) -> None:
        self.G, self.about = G, about
        self.view = view_of(about["dataset"])
        self._lock = threading.Lock()
        self._truncated: OrderedDict[float, tuple[nn.Module, dict[str, Any]]] = OrderedDict()
        self._directions: Directions | None = None

    # -- what is asked ------------------------------------------------------------------------------------------

    def samples(
        self,
        n: int = 16,
        seed: int = 0,
        label: str | None = None,
        present: Sequence[str] = (),
        absent: Sequence[str] = (),
        truncation: float | None = None,
    ) -> Tensor:
        """uint8 images (n, C, H, W) of indices 0 .. n - 1 of a seed, as `tools.sample` writes them; points (n, 2)."""
        n, seed = self._n(n), whole_between("seed", seed, 0, MAX_SEED)
        with self._asked(truncation) as (G, how):
            y = self._labels(n, seed, label, present, absent)
            codes = seeded_codes(G, n, seed, y, how.pop("threshold", None))
            return self._drawn(G, codes, seed, **how)

    def between(
        self, seeds: tuple[int, int], shares: Sequence[float], truncation: float | None = None, **labels: Any
    ) -> list[Tensor]:
        """What stands on the way from the first image of one seed to that of another, one for each share of the way:
        straight in w where there are styles, else along the sphere in z. label, present, absent: of all of them."""
        shares = [number_between("share", share, 0, 1) for share in shares[: N_FRAMES + 1]]
        with self._asked(truncation) as (G, how):
            y = self._labels(self._n_codes, seeds[0], **labels)
            a, b = (self._codes(G, seed, y, how) for seed in seeds)
            return self._each(G, [self._way(a, b, share) for share in shares], y)

    def mixed(
        self, seeds: tuple[int, int], first: int, end: int, truncation: float | None = None, **labels: Any
    ) -> Tensor:
        """The first image of one seed with the styles of another's in the layers first .. end - 1."""
        if not self.about["styles"]:
            raise UserError(f"{self.about['model']} has no styles to mix")
        with self._asked(truncation) as (G, how):
            first = whole_between("first layer", first, 0, G.n_layers)
            end = whole_between("end of the layers", end, first, G.n_layers)
            y = self._labels(1, seeds[0], **labels)
            ws, lent = (self._codes(G, seed, y, how) for seed in seeds)
            ws = torch.cat([ws[:, :first], lent[:, first:end], ws[:, end:]], 1)
            return self._each(G, [ws], y)[0]

    def moved(
        self, seed: int, strengths: Sequence[float], truncation: float | None = None, **labels: Any
    ) -> Tensor:
        """The first image of a seed moved along the directions of `directions`, by these strengths."""
        along = self.directions()
        if len(strengths) != len(along.vectors):
            raise UserError(f"{len(strengths)} strengths: give {len(along.vectors)}, one a direction")
        strengths = [number_between("strength", s, -MAX_STRENGTH, MAX_STRENGTH) for s in strengths]
        with self._asked(truncation) as (G, how):
            y = self._labels(self._n_codes, seed, **labels)
            codes = self._codes(G, seed, y, how)
            step = (torch.tensor(strengths) * along.units) @ along.vectors  # (dim,)
            return self._each(G, [codes + step.to(codes)], y)[0]

    def walk(self, seeds: tuple[int, int], truncation: float | None = None, **labels: Any) -> bytes:
        """An animated WebP that goes from one seed to another and back, slowly at both ends."""
        shares = [(1 - math.cos(2 * math.pi * i / N_FRAMES)) / 2 for i in range(N_FRAMES)]
        frames = map(self.picture, self.between(seeds, shares, truncation, **labels))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "walk.webp"
            write_animation(frames, file, FPS)
            return file.read_bytes()

    def codes(
        self, n: int, seed: int, label: str | None = None, present: Sequence[str] = (),
        absent: Sequence[str] = (), truncation: float | None = None,
    ) -> bytes:  # fmt: skip
        """What `samples` of the same arguments is made of, as an .npz that `tools.sample --latents` draws from; its
        styles are truncated."""
        n = self._n(n)
        with self._asked(truncation) as (G, how):
            y = self._labels(n, seed, label, present, absent)
            z = latents(whole_between("seed", seed, 0, MAX_SEED), 0, n, G.z_dim, how.get("threshold"))
            w = self._codes(G, seed, y, how, n).cpu() if self.about["styles"] else None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "codes.npz"
            write_codes(file, [Codes(z, y, w)])
            return file.read_bytes()

    def directions(self) -> Directions:
        """The first few directions in which images change most, see find_directions."""
        if self._directions is None:
            with self._lock, undisturbed(self.G, next(self.G.parameters()).device):
                self._directions = find_directions(self.G, self.about, self.n_directions)
        return self._directions

    @property
    def n_directions(self) -> int:
        """How many there are to move along."""
        return min(N_DIRECTIONS, self.G.w_dim if self.about["styles"] else self.G.z_dim)

    def picture(self, drawn: Tensor, label: str | None = None) -> Image.Image:
        """Images as a grid, a column a class without a label, as then all take turns; points as a scatter plot."""
        turns = label is None and not self.about["multi_hot"]
        return self.view.sheet(drawn, square_columns(len(drawn), self.about["n_labels"] if turns else 0))

    # -- how ----------------------------------------------------------------------------------------------------

    @property
    def _n_codes(self) -> int:
        """Codes that make up one picture."""
        return 1 if self.view.single else N_POINTS

    def _n(self, n: Any) -> int:
        return whole_between("n", n, 1, MAX_N if self.view.single else N_POINTS)

    @contextmanager
    def _asked(self, truncation: Any) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
        """(G, how) for a truncation, within which no other request is served; mistakes are the asker's."""
        with self._lock, blaming_user():
            yield self._with_truncation(truncation)

    def _with_truncation(self, truncation: Any) -> tuple[nn.Module, dict[str, Any]]:
        """As with_truncation; copies whose batch norm was measured for a threshold, to a hundredth, are kept."""
        if truncation is None:
            return self.G, {}
        most = MAX_PSI if self.about["styles"] else MAX_THRESHOLD
        value = round(number_between("truncation", truncation, -most, most), 2)
        if self.about["styles"]:
            return with_truncation(self.G, self.about, value)
        if value not in self._truncated:
            self._truncated[value] = with_truncation(self.G, self.about, value)
        self._truncated.move_to_end(value)
        while len(self._truncated) > KEPT:
            self._truncated.popitem(last=False)
        G, how = self._truncated[value]
        return G, dict(how)

    def _labels(
        self, n: int, seed: Any, label: Any = None, present: Any = (), absent: Any = ()
    ) -> Tensor | None:
        if label is not None and not isinstance(label, str):
            raise UserError(f"class {shown(str(label), 30)}: give its name")
        attributes = names_of("attributes", present) + ["-" + name for name in names_of("attributes", absent)]
        seed = whole_between("seed", seed, 0, MAX_SEED)
        return sample_labels(self.about, n, seed, None if label is None else [label], attributes)

    def _codes(
        self, G: nn.Module, seed: Any, y: Tensor | None, how: Mapping[str, Any], n: int | None = None
    ) -> Tensor:
        """What pictures of a seed are made of: ws (n, n_layers, w_dim), truncated, or z (n, z_dim)."""
        param = next(G.parameters())
        n = self._n_codes if n is None else n
        z = latents(whole_between("seed", seed, 0, MAX_SEED), 0, n, G.z_dim, how.get("threshold")).to(param)
        if not self.about["styles"]:
            return z
        with undisturbed(G, param.device):
            ws = G.styles(z, None if y is None else y.to(param.device))
            return truncated_styles(ws, G.mapping.w_avg, how.get("truncation", 1.0), None).clone()

    def _way(self, a: Tensor, b: Tensor, share: float) -> Tensor:
        return lerp(a, b, share) if self.about["styles"] else slerp(a, b, share)

    def _each(self, G: nn.Module, codes: Iterable[Tensor], y: Tensor | None) -> list[Tensor]:
        """What G makes of each of the codes, with the same labels: images uint8 (1, C, H, W), or points (n, 2)."""
        styled = self.about["styles"]
        return [self._drawn(G, [Codes(None, None, x) if styled else Codes(x, y)], 0) for x in codes]

    def _drawn(self, G: nn.Module, codes: Iterable[Codes], seed: int, **how: Any) -> Tensor:
        """Images or points of codes; seed: of what a generator draws by itself."""
        with undisturbed(G, next(G.parameters()).device):
            found = torch.cat(list(draw_chunks(G, self.about, codes, seed, **how)))
        return found.clone()  # torch lets nobody write into what was made in inference mode


class TranslatorExplorer:
    """A translator (of load_translator), and what can be asked of it; UserError for what is out of bounds."""

    def __init__(self, translator: Translator) -> None:
        self.translator, self.about = translator, translator.about
        self._lock = threading.Lock()
        for G in translator.networks.values():
            if not 1 <= G.source_channels <= 4:
                raise UserError(
                    f"{self.about['model']} takes pictures of {G.source_channels} channels, which no picture file "
                    "holds: tools.translate takes arrays"
                )

    def most(self, direction: str | None = None) -> int:
        """px of the longer side of a picture that is translated, at most."""
        return max(1, MAX_SIDE // self.translator.network(direction).factor)

    def translated(
        self, picture: Image.Image, direction: str | None = None, side: int | None = None, seed: int = 0
    ) -> Image.Image:
        """A picture's translation; side: px that its longer side is brought to first, None to leave it as it is where
        that is allowed."""
        if not isinstance(picture, Image.Image):
            raise UserError("choose a picture first")
        if direction not in (None, *self.translator.directions):
            raise UserError(f"direction {shown(str(direction), 30)}: give {self.translator.directions}")
        most = self.most(direction)
        longer = max(picture.size)
        side = min(longer, most) if side is None else whole_between("side", side, 1, most)
        size = [max(1, round(length * side / longer)) for length in picture.size]
        seed = whole_between("seed", seed, 0, MAX_SEED)
        plain = to_plain(picture, self.translator.network(direction).source_channels)
        if plain.size != tuple(size):
            plain = plain.resize(size, Image.Resampling.LANCZOS)
        x = torch.from_numpy(np.array(plain).reshape(plain.height, plain.width, -1)).permute(2, 0, 1)
        with self._lock, blaming_user():
            return to_picture(self.translator.translate([x], direction, seed)[0])
