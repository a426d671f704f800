"""Make a folder of a trained generator that others can use, and put it on the Hugging Face Hub if so asked.

    python -m tools.share RUN --out shared/
    python -m tools.share RUN --out shared/ --name "Faces at 64 px" --license cc-by-nc-4.0
    python -m tools.share RUN --out shared/ --push user/name
    python -m tools.share RUN --out space/ --space [--push user/name]

DIR gets model.safetensors and config.json, so that load_generator(DIR) and every command here take it, and README.md (a
model card: how to load it, scores with their protocol, the training's command, the data and its terms), LICENSE,
samples.png, thumbnail.png and, where that takes seconds, walk.webp. Nothing in it names your folders or this machine.
--space makes a Hugging Face Space instead: the same with app.py, the page of tools.demo, which runs from that folder
alone. Nothing leaves this machine without --push, which needs huggingface_hub and `hf auth login`.
"""

import argparse
import json
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from disk import put
from errors import UserError, blaming_user, cli, shown, tell
from generation.exploring import N_FRAMES, Explorer, TranslatorExplorer
from generation.generator import MODEL_FILE, export_generator, find_generator, find_model_file, read_config
from generation.hub import REPOSITORY, hub, is_hub_name, reason_of
from tools import tool_parser
from tools.app import opened_for_page
from tools.card import (
    LICENCES,
    card,
    front_matter,
    licence_text,
    model_fields,
    scores_of,
    settings_of,
    space_fields,
    terms_of,
    without_paths,
)
from tools.common import (
    add_device_flag,
    add_generator_flags,
    enlarged,
    make_folder,
    save_picture,
    scores_file,
    title_of,
)
from tools.space import PARTS, TOOLKIT, write_space
from tools.tabs import gradio
from training.device import choose_device

WEIGHTS = "model"  # how the one weight set is called
N_SAMPLES, THUMBNAIL = 36, 256
WALK_S = 30.0  # that an animation may take
# config.json as far as others need it, and of its `data` what says nothing of a machine.
KEPT = (
    "batch_norm", "model", "build", "dataset", "img_size", "z_dim", "n_labels", "multi_hot", "label_names",
    "label_examples", "seed", "model_file", "revision", "translates",
)  # fmt: skip
KEPT_OF_DATA = (
    "name", "files", "fingerprint", "split", "crop", "load_size", "value_range", "scale", "scales", "pairing",
    "direction",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.share", __doc__)
    add_generator_flags(p)
    p.add_argument("--out", required=True, metavar="DIR", help="the folder that is made")
    about = "write over what this command made there, and over the repository of --push"
    p.add_argument("--overwrite", action="store_true", help=about)
    p.add_argument("--name", help="what the generator is called (default: the run's name)")
    about = "of the weights (default: what their data's terms allow, other where that is not known)"
    p.add_argument("--license", choices=tuple(LICENCES), help=about)
    p.add_argument("--space", action="store_true", help="make a Space, a page that runs in the browser")
    p.add_argument("--push", metavar="USER/NAME", help="upload it to the Hugging Face Hub")
    add_device_flag(p)
    return p


def check_asked(args: argparse.Namespace) -> Path:
    """The folder to make; UserError for one that holds something else, and for names that are none."""
    out = Path(args.out).expanduser()
    if args.push is not None and not re.fullmatch(REPOSITORY, args.push, re.ASCII):
        raise UserError(f"--push {shown(args.push, 100)}: give USER/NAME, letters, digits, hyphens and dots")
    if args.name is not None and not (args.name.isprintable() and 0 < len(args.name.strip()) <= 100):
        raise UserError(f"--name {shown(args.name, 50)}: give 1 to 100 printable characters")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: name a folder")
    try:
        held = out.is_dir() and next(out.iterdir(), None)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None
    if held and not args.overwrite:
        raise UserError(f"--out {out} is not empty: choose another folder, or give --overwrite")
    if held and not is_shared(out):
        raise UserError(f"--out {out} holds something that this command did not make: choose another folder")
    if not is_hub_name(args.run) and out.resolve() == find_generator(args.run).resolve():
        raise UserError(f"--out {out} is where the generator stands: choose another folder")
    return out


def is_shared(folder: Path) -> bool:
    """Whether this command made a folder."""
    try:
        return read_config(folder)["weights"] == [WEIGHTS]
    except UserError:
        return False


# -- the parts ---------------------------------------------------------------------------------------------------------


def network_of(source: Explorer | TranslatorExplorer) -> nn.Module:
    """G, or what holds the networks of a translator, as its weights are written."""
    if isinstance(source, Explorer):
        return source.G
    named = {way["network"]: source.translator.networks[d] for d, way in source.about["translates"].items()}
    return next(iter(named.values())) if len(named) == 1 else nn.ModuleDict(named)


def taken_from(about: Mapping[str, Any]) -> str:
    """Which weights of the run these are: of one that was shared as its card says."""
    return str(about.get("taken_from") or about["chosen"])


def write_weights(folder: Path, source: Explorer | TranslatorExplorer) -> None:
    """model.safetensors and config.json."""
    about = {name: source.about[name] for name in KEPT if name in source.about}
    about["data"] = {k: v for k, v in source.about["data"].items() if k in KEPT_OF_DATA}
    about["taken_from"] = taken_from(source.about)
    export_generator(folder, without_paths(about), {WEIGHTS: network_of(source)}, source.about["step"])


def write_model_file(folder: Path, run: str, about: Mapping[str, Any]) -> None:
    """model.py, of networks that a user's own file builds."""
    file = find_model_file(find_generator(run), about)
    if file is not None:
        put(folder / MODEL_FILE, file.read_bytes())
        tell(
            f"note: {MODEL_FILE}, the file of your networks, is part of the folder: it is published as it is"
        )


def translated_pairs(source: TranslatorExplorer) -> Image.Image:
    """A test picture (a gradient with a disc) and what each direction makes of it."""
    side = source.about.get("img_size") or 64
    height, width = side if isinstance(side, list) else (side, side)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    inside = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.09
    pixels = np.stack([x, y, np.where(inside, 1.0, 0.2)], 2)
    given = Image.fromarray((255 * pixels).astype(np.uint8))
    found = [source.translated(given, way).convert("RGB") for way in source.translator.directions]
    shown_ = [given, *found]
    whole = Image.new("RGB", (sum(p.width for p in shown_), max(p.height for p in shown_)), "white")
    for i, picture in enumerate(shown_):
        whole.paste(picture, (sum(p.width for p in shown_[:i]), 0))
    return whole


def write_pictures(folder: Path, source: Explorer | TranslatorExplorer) -> bool:
    """samples.png, thumbnail.png and, where it is quick, walk.webp; whether there is one."""
    if isinstance(source, TranslatorExplorer):
        sheet = small = translated_pairs(source)
    else:
        n = N_SAMPLES if source.view.single else 1000
        sheet, small = (source.picture(source.samples(k, 0)) for k in (n, 4 if source.view.single else n))
    save_picture(enlarged(sheet, None), folder / "samples.png")
    small = small.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    if max(small.size) < THUMBNAIL:
        small = small.resize(
            [side * THUMBNAIL // max(small.size) for side in small.size], Image.Resampling.NEAREST
        )
    save_picture(small, folder / "thumbnail.png")
    if isinstance(source, TranslatorExplorer):
        return False
    label = first_label(source.about)
    begun = time.monotonic()
    source.between((0, 1), (0.0, 0.5), **label)
    if N_FRAMES * (time.monotonic() - begun) / 2 > WALK_S:
        return False
    put(folder / "walk.webp", source.walk((0, 1), **label))
    return True


def first_label(about: Mapping[str, Any]) -> dict[str, Any]:
    """Of a walk between two images of one class."""
    return {"label": "0"} if about["n_labels"] and not about["multi_hot"] else {}


# -- the whole ---------------------------------------------------------------------------------------------------------


def remove_parts(out: Path) -> None:
    """What an earlier time made there and this one may not, as a Space's page or a user's model.py; OSError."""
    for name in (MODEL_FILE, "walk.webp", *PARTS):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / TOOLKIT, ignore_errors=True)


def write_all(out: Path, args: argparse.Namespace, source: Explorer | TranslatorExplorer) -> None:
    """The folder; OSError from the disk."""
    make_folder(out)
    remove_parts(out)
    title = (args.name or title_of(args.run).rpartition("/")[2]).strip()
    scores = scores_file(args.run)
    settings = {} if is_hub_name(args.run) else settings_of(scores.parent)
    licence = args.license or terms_of(source.about, settings).licence or "other"
    write_weights(out, source)
    write_model_file(out, args.run, source.about)
    walk = write_pictures(out, source)
    about = source.about | {
        "taken_from": taken_from(source.about),
        "model_file": source.about.get("model_file"),
    }
    place = "hf:" + (args.push or "USER/NAME")
    text = card(title, about, settings, scores_of(scores), licence, place, walk=walk)
    if args.space:
        write_space(out, title)
        head = space_fields(title, licence, gradio().__version__)
    else:
        head = model_fields(about, licence)
    put(out / "README.md", front_matter(head) + without_paths(text))
    put(out / "LICENSE", licence_text(licence, title))
    print(
        f"licence: {licence}" + ("" if args.license else " (by what is known of its data; --license sets it)")
    )


def push(out: Path, repository: str, *, space: bool, overwrite: bool) -> str:
    """Upload a folder; its address. UserError."""
    library, kind = hub(), "space" if space else "model"
    api = library.HfApi()
    try:
        how = {"space_sdk": "gradio"} if space else {}
        api.create_repo(repository, repo_type=kind, exist_ok=overwrite, **how)
        api.upload_folder(repo_id=repository, folder_path=str(out), repo_type=kind, commit_message="Upload")
    except Exception as error:  # of the package, of whichever client it uses
        raise UserError(f"--push {repository} {reason_of(error, repository)}") from None
    return f"https://huggingface.co/{'spaces/' if space else ''}{repository}"


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Load the generator, write its folder, upload it if so asked."""
    args = parser().parse_args(argv)
    out = check_asked(args)
    if args.space:
        gradio()
    if args.push is not None:
        hub()  # a missing package is said before the work
    source = opened_for_page(args.run, args.weights, choose_device(args.device), args.checkpoint)
    try:
        with blaming_user():
            write_all(out, args, source)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None
    place = json.dumps(str(out))
    how = f"load_generator({place}), python -m tools.sample {out} --out grid.png"
    if isinstance(source, TranslatorExplorer):
        how = f"load_translator({place}), python -m tools.translate {out} --data photos/ --out translated/"
    print(f"wrote {out}/: {how}")
    if args.push is not None:
        print(f"uploaded to {push(out, args.push, space=args.space, overwrite=args.overwrite)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
