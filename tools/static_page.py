"""A folder that any web server can serve, whose page samples from ONNX files in the browser.

The page is assets/page/: index.html, page.css and page.js. What runs the network is onnxruntime-web, whose files are
copied beside it, so that the page asks nobody else for anything.
"""

import base64
import hashlib
import json
import tarfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

import disk
from errors import UserError, shown, tell
from generation.labels import read_label_examples
from generation.onnx_file import Graph, write_onnx
from images.cache import cache_folder
from tools.common import make_folder

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "page"
PAGE = ("index.html", "page.css", "page.js")
ORT_VERSION = "1.30.0"
ORT_URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{ORT_VERSION}.tgz"
# The registry's own, in base64.
ORT_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
ORT_LIMIT = 64 * 2**20  # bytes of the archive, and of a file in it
ORT_FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")  # of its dist/
LICENSE = "onnxruntime-LICENSE"
TIMEOUT = 30  # s without an answer


# -- onnxruntime-web -------------------------------------------------------------------------------------------------


def cached_ort(folder: Path) -> Path:
    """Where the archive of onnxruntime-web is kept in a cache folder."""
    return folder / f"onnxruntime-web-{ORT_VERSION}.tgz"


def ort_files(given: str | None, cache_dir: str | None) -> dict[str, bytes]:
    """The files of onnxruntime-web that a page needs, by name.

    given: its npm package as a folder or .tgz of any version, None for the pinned one of the user's cache, downloaded
    into it where it is not there yet. UserError that says what to get where that fails.
    """
    if given is not None:
        path = Path(given).expanduser()
        return _of_folder(path) if path.is_dir() else _of_archive(path)
    file = cached_ort(cache_folder(cache_dir))
    if not file.is_file() or _sha512(disk.read_bytes(file, ORT_LIMIT)) != ORT_SHA512:
        _download(file)
    return _of_archive(file)


def _sha512(data: bytes) -> str:
    return base64.b64encode(hashlib.sha512(data).digest()).decode()


def _download(file: Path) -> None:
    """Get the pinned archive; UserError where it is not to be had, or is not the one that was pinned."""
    tell(f"downloading onnxruntime-web {ORT_VERSION} (33 MB, once) to {file.parent}")
    try:
        with urllib.request.urlopen(ORT_URL, timeout=TIMEOUT) as answer, disk.replacing(file) as place:
            data = b""
            with tqdm(unit="B", unit_scale=True, leave=False, disable=None) as bar:
                while len(data) <= ORT_LIMIT and (part := answer.read(2**20)):
                    data += part
                    bar.update(len(part))
            if _sha512(data) != ORT_SHA512:
                raise ValueError(f"its sha512 is not {ORT_SHA512[:16]}...")
            place.write_bytes(data)
    except (OSError, ValueError) as error:
        reason = shown(" ".join(str(error).split()) or type(error).__name__, 200)
        raise UserError(
            f"onnxruntime-web {ORT_VERSION}, which the page runs by, could not be downloaded ({reason}): get {ORT_URL} "
            "and name it with --ort FILE"
        ) from None


def _of_folder(folder: Path) -> dict[str, bytes]:
    """Of an unpacked package, or its dist/."""
    for place in (folder / "dist", folder):
        if all((place / name).is_file() for name in ORT_FILES):
            return {name: disk.read_bytes(place / name, ORT_LIMIT) for name in ORT_FILES}
    raise _no_ort(folder)


def _of_archive(file: Path) -> dict[str, bytes]:
    """Of a package as npm has it."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(file, "r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("package/dist/")
                if name in ORT_FILES and member.isfile() and member.size <= ORT_LIMIT:
                    found[name] = archive.extractfile(member).read()
                if len(found) == len(ORT_FILES):
                    return found
    except (OSError, tarfile.TarError, EOFError):
        pass
    raise _no_ort(file)


def _no_ort(path: Path) -> UserError:
    what = "does not hold" if path.exists() else "does not exist: it should hold"
    return UserError(
        f"--ort {path} {what} {', '.join(ORT_FILES)} of onnxruntime-web: give its npm package, {ORT_URL}, or leave the "
        "flag out to have it downloaded"
    )


# -- the page --------------------------------------------------------------------------------------------------------


def write_page(
    folder: Path, graphs: Mapping[str, Graph], about: Mapping[str, Any], ort: Mapping[str, bytes]
) -> float:
    """Write the page of graphs by their files' names, see ort_files; the largest difference that write_onnx found.

    about: of the generator. UserError as of write_onnx, OSError from the disk.
    """
    make_folder(folder / "ort")
    disk.remove_stale(folder)
    found = [write_onnx(graph, folder / name) for name, graph in graphs.items()]
    for name, data in ort.items():
        disk.put(folder / "ort" / name, data)
    disk.put(folder / "ort" / "LICENSE", (ASSETS / LICENSE).read_bytes())
    disk.put(folder / "model.json", json.dumps(_told(folder, graphs, about), ensure_ascii=False) + "\n")
    for name in PAGE:
        disk.put(folder / name, (ASSETS / name).read_bytes())
    return max(found)


def _told(folder: Path, graphs: Mapping[str, Graph], about: Mapping[str, Any]) -> dict[str, Any]:
    """model.json: what the page must know of the files, and what it tells of them."""
    first = next(iter(graphs.values()))
    card, size = first.card, _shape(first.card["img_size"])
    made = "points" if card["kind"] == "points" else f"images of {card['img_size']} px"
    text = f"Translates pictures, trained to give {made}." if card["kind"] == "pictures" else f"Makes {made}."
    latents = (
        "Latents are this page's own draws: the same everywhere for a seed, other than those of tools.sample."
    )
    examples = None
    if about["multi_hot"]:
        rows = read_label_examples(about["label_examples"], about["n_labels"]).int().tolist()
        examples = ["".join(map(str, row)) for row in rows]
    license = "" if card["license"] is None else f"License of the weights: {card['license']}. "
    models = [
        {"file": name, "bytes": (folder / name).stat().st_size}
        | {key: graph.card.get(key) for key in ("direction", "source_channels", "factor", "sides", "dynamic")}
        | {"size": list(graph.shapes.get("x", (0, *size))[1:])}
        for name, graph in graphs.items()
    ]
    return {
        "title": f"{card['model'] or 'Generator'}: {card['dataset']}",
        "text": f"{text} Step {card['step']:,}, {card['weights']} weights. All of it is computed in this browser.",
        "footer": f"{license}Run by onnxruntime-web (MIT, ort/LICENSE). {latents if 'z' in first.shapes else ''}",
        "kind": card["kind"],
        "size": size,
        "inputs": {name: list(shape) for name, shape in first.shapes.items()},
        "models": models,
        "label_examples": examples,
    } | {key: card.get(key) for key in ("z_dim", "n_labels", "multi_hot", "label_names", "truncation")}


def _shape(text: str) -> list[int]:
    """[height, width] of a size as the card has it."""
    sides = [int(side) for side in text.split("x")]
    return [sides[0], sides[-1]]
