"""What images are drawn from: latents z, labels y, styles w; listed, read from a file, written to one."""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import disk
from disk import open_regular
from errors import UserError, shown
from generation.labels import sample_labels
from generation.latents import DRAWN_AT_ONCE, latents
from generation.sampling import generate
from images.arrays import read_header
from images.headers import BadImage
from modelling.styles import truncated_styles

FILE_LIMIT = 2**31  # bytes of the arrays of a file
MAX_CODES = 1_000_000  # of a file


@dataclass(frozen=True)
class Codes:
    """Latents z (n, z_dim), labels y (n,) or (n, n_labels) and styles w (n, n_layers, w_dim); None for those not there.

    Where there are styles the images are drawn from them, and z and y tell where they came from.
    """

    z: Tensor | None
    y: Tensor | None = None
    w: Tensor | None = None

    def __len__(self) -> int:
        return len(self.z if self.w is None else self.w)

    def __getitem__(self, rows: slice) -> "Codes":
        return Codes(*(None if x is None else x[rows] for x in (self.z, self.y, self.w)))

    def chunks(self) -> "Iterator[Codes]":
        """Up to 64 at a time."""
        return (self[i : i + DRAWN_AT_ONCE] for i in range(0, len(self), DRAWN_AT_ONCE))


def joined(parts: Sequence[Codes]) -> Codes:
    """One after the other; all have the same of z, y and w."""
    columns = zip(*((part.z, part.y, part.w) for part in parts), strict=True)
    return Codes(*(None if column[0] is None else torch.cat(column) for column in columns))


def in_chunks(n: int, rows: Callable[[int, int], Tensor], y: Tensor | None = None) -> Iterator[Codes]:
    """Codes of up to 64 images each, of n in all; rows: (first, how many) -> z; y: labels of all."""
    for start in range(0, n, DRAWN_AT_ONCE):
        part = slice(start, min(n, start + DRAWN_AT_ONCE))
        yield Codes(rows(start, part.stop - start), None if y is None else y[part])


def seeded_codes(
    G: nn.Module, n: int, seed: int, y: Tensor | None = None, threshold: float | None = None
) -> Iterator[Codes]:
    """Of the indices 0 .. n - 1 of a seed; threshold: see latents."""
    return in_chunks(n, lambda first, count: latents(seed, first, count, G.z_dim, threshold), y)


def codes_of_seeds(
    G: nn.Module, seeds: Sequence[int], y: Tensor | None = None, threshold: float | None = None
) -> Iterator[Codes]:
    """Of index 0 of each seed: the first image that the seed gives."""

    def rows(first: int, count: int) -> Tensor:
        return torch.cat([latents(seed, 0, 1, G.z_dim, threshold) for seed in seeds[first : first + count]])

    return in_chunks(len(seeds), rows, y)


def labels_of_seeds(
    about: Mapping[str, Any],
    seeds: Sequence[int],
    classes: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
) -> Tensor | None:
    """Labels of index 0 of each seed, as sample_labels has them; None without labels. UserError as sample_labels."""
    found = [sample_labels(about, 1, seed, classes, attributes) for seed in seeds]
    return None if found[0] is None else torch.cat(found)


def with_styles(G: nn.Module, codes: Codes) -> Codes:
    """The same with the styles of z and y, untruncated, on the CPU; G has styles and is in eval mode."""
    if codes.w is not None:
        return codes
    param = next(G.parameters())
    y = None if codes.y is None else codes.y.to(param.device)
    return Codes(codes.z, codes.y, G.styles(codes.z.to(param), y).cpu())


def images_from(G: nn.Module, codes: Codes, **how: Any) -> Tensor:
    """What G makes of codes, (n, C, H, W) on the CPU, in chunks of 64; how: truncation of with_truncation."""
    if codes.w is None:
        return generate(G, codes.z, codes.y, **how)
    return torch.cat([synthesised(G, part.w, **how) for part in codes.chunks()])


@torch.inference_mode()
def synthesised(
    G: nn.Module, w: Tensor, *, truncation: float | None = None, truncation_layers: int | None = None
) -> Tensor:
    """What G makes of styles (n, n_layers, w_dim), (n, C, H, W) on the CPU. ValueError as truncated_styles."""
    ws = w.to(next(G.parameters()))
    if truncation is not None:
        ws = truncated_styles(ws, G.mapping.w_avg, truncation, truncation_layers)
    return G.synthesis(ws).cpu()


# -- files ---------------------------------------------------------------------------------------------------------


def write_codes(file: str | os.PathLike[str], parts: Iterable[Codes]) -> int:
    """Write codes as arrays z, y and w of a .npz, those that there are; how many. OSError."""
    codes = joined(list(parts))
    arrays = {name: getattr(codes, name) for name in ("z", "y", "w")}
    with disk.replacing(file) as temporary, open(temporary, "wb") as out:
        np.savez(out, **{name: x.numpy() for name, x in arrays.items() if x is not None})
    return len(codes)


def read_codes(file: str | os.PathLike[str], G: nn.Module, about: Mapping[str, Any]) -> Codes:
    """What write_codes wrote: z (n, z_dim), w (n, n_layers, w_dim) or (n, w_dim), or both, and y of G with labels.

    about: of load_generator. UserError for a file that cannot be read, or is of another generator.
    """
    arrays = _arrays(file)
    wanted = {"z": [(G.z_dim,)], "w": _style_shapes(G, about), "y": _label_shapes(about)}
    for name, x in arrays.items():
        if tuple(x.shape[1:]) not in wanted[name]:
            fits = " or ".join(str(("n", *shape)).replace("'", "") for shape in wanted[name])
            raise UserError(
                f"{file}: {name} of shape {tuple(x.shape)} does not fit {about['model']}, which "
                + (f"takes {fits}" if fits else f"has no {name}: the file is of another generator")
            )
    z, y, w = (arrays.get(name) for name in ("z", "y", "w"))
    if z is None and w is None:
        raise UserError(f"{file} holds neither latents z nor styles w")
    lengths = {len(x) for x in arrays.values()}
    if len(lengths) > 1 or not 0 < max(lengths) <= MAX_CODES:
        raise UserError(
            f"{file}: z, y and w of {sorted(lengths)} rows; they need as many each, 1 to {MAX_CODES:,}"
        )
    if w is not None and w.dim() == 2:  # (n, w_dim) -> (n, n_layers, w_dim)
        w = w[:, None].repeat(1, G.n_layers, 1)
    return Codes(z, None if y is None else _labels(file, y, about), w)


def _style_shapes(G: nn.Module, about: Mapping[str, Any]) -> list[tuple[int, ...]]:
    return [(G.n_layers, G.w_dim), (G.w_dim,)] if about["styles"] else []


def _label_shapes(about: Mapping[str, Any]) -> list[tuple[int, ...]]:
    n = about["n_labels"]
    return [] if not n else [(n,)] if about["multi_hot"] else [(), (n,)]


def _labels(file: str | os.PathLike[str], y: Tensor, about: Mapping[str, Any]) -> Tensor:
    """Class indices (n,) as int64, weights (n, n_labels) as they are; UserError for classes that there are not."""
    if y.dim() == 2:
        return y
    whole = y.long()
    if (whole != y).any() or whole.min() < 0 or whole.max() >= about["n_labels"]:
        raise UserError(
            f"{file}: y holds other classes than the {about['n_labels']} of this generator, from 0"
        )
    return whole


def _arrays(file: str | os.PathLike[str]) -> dict[str, Tensor]:
    """z, y and w of a .npz, those that there are, in float32; UserError for anything but finite numbers in bounds."""
    try:
        with open_regular(file) as opened, zipfile.ZipFile(opened) as archive:
            there = [info for info in archive.infolist() if info.filename in ("z.npy", "y.npy", "w.npy")]
            if sum(info.file_size for info in there) > FILE_LIMIT:
                raise UserError(f"{file} holds more than {FILE_LIMIT:,} bytes")
            return {info.filename[0]: _array(archive, info) for info in there}
    except UserError:
        raise
    except Exception as error:  # whatever zipfile and zlib raise for a damaged file
        reason = shown(" ".join(str(error).split()), 100)
        raise UserError(f"{file} is no .npz of latents ({reason or type(error).__name__})") from None


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor:
    """One array of it; ValueError."""
    with archive.open(info) as member:
        try:
            shape, kind, fortran = read_header(member)
        except BadImage as error:
            raise ValueError(f"{info.filename}: {error}") from None
        data = member.read()
    if len(data) != int(np.prod([int(side) for side in shape], dtype=object)) * kind.itemsize:
        raise ValueError(f"{info.filename} has other bytes than its shape {shape} says")
    values = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
    x = torch.from_numpy(values.astype(np.float32))
    if not x.isfinite().all():
        raise ValueError(f"{info.filename} holds NaN or infinite numbers")
    return x
