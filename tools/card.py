"""What a shared generator says of itself: its card, the licence, the command that trained it; nothing private in it."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from errors import UserError
from metrics.lines import Unreadable, best_lines, read_lines
from modelling import MODELS, is_file_name
from modelling.layers import size_text
from settings.files import asked_of, read_saved
from tools.table import flag_words

LIBRARY = "gan-toolkit"
SCRIPTS = {"mnist": "gan_mnist", "digits": "gan_mnist", "stacked-mnist": "gan_mnist", "cifar10": "gan_cifar10",
           "celeba": "gan_celeba", "folder": "gan_folder", "ring8": "gan_ring8"}  # fmt: skip
# Settings of one machine, which nobody else needs.
OF_MACHINE = {
    "runs_dir",
    "log_name",
    "overwrite",
    "data_root",
    "cache_dir",
    "device",
    "data_device",
    "data_name",
}


class Terms(NamedTuple):
    """A data set: who made it, on which terms, and the licence (an SPDX identifier) that weights trained on it can
    have by them, None where that is not to be known."""

    note: str
    licence: str | None


# By the beginning of a data set's name.
DATA = {
    "celeba": Terms(
        "CelebA (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html): faces of public figures, for non-commercial "
        "research alone; its authors do not own the pictures and permit no redistribution of them.",
        "cc-by-nc-4.0",
    ),
    "stacked-mnist": Terms("Stacked MNIST, made of MNIST's digits (CC BY-SA 3.0).", "cc-by-sa-3.0"),
    "mnist": Terms("MNIST by Y. LeCun, C. Cortes and C. Burges (CC BY-SA 3.0).", "cc-by-sa-3.0"),
    "digits": Terms(
        "Optical Recognition of Handwritten Digits by E. Alpaydin and C. Kaynak (CC BY 4.0, "
        "https://doi.org/10.24432/C50P49).",
        "cc-by-4.0",
    ),
    "cifar10": Terms("CIFAR-10 by A. Krizhevsky, whose authors state no licence.", None),
    "ring8": Terms("a mixture of 8 normal distributions, drawn by the toolkit.", "mit"),
}  # fmt: skip
UNKNOWN = Terms("whoever shares a generator must know on which terms its training pictures were had.", None)

MIT = """MIT License

Copyright (c) the authors of {title}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
# Where the whole text of a licence stands; what a hub calls it.
LICENCES = {
    "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0.txt",
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/legalcode",
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/legalcode",
    "cc-by-sa-3.0": "https://creativecommons.org/licenses/by-sa/3.0/legalcode",
    "cc-by-sa-4.0": "https://creativecommons.org/licenses/by-sa/4.0/legalcode",
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/legalcode",
    "cc-by-nc-sa-4.0": "https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode",
    "mit": "https://opensource.org/license/mit",
    "other": None,
}


def terms_of(about: Mapping[str, Any], settings: Mapping[str, Any]) -> Terms:
    """Of a generator's data set, by its own name or by that of the data set that it is a copy of."""
    names = [str(settings.get("dataset", "")), str(about["dataset"])]
    return next((row for start, row in DATA.items() for name in names if name.startswith(start)), UNKNOWN)


def licence_text(licence: str, title: str) -> str:
    """The file LICENSE."""
    if licence == "mit":
        return MIT.format(title=title)
    if licence == "other":
        return f"Whoever published the weights of {title} has stated no licence: ask them before you use these.\n"
    return f"The weights of {title} are licensed under {licence.upper()}: {LICENCES[licence]}\n"


# -- nothing private ---------------------------------------------------------------------------------------------------

# /home/me/x, ~/x, C:\x, \\host\x, file:///x: but neither 1 / 255 nor https://...
_PATH = re.compile(
    r"(?:file://|(?<![\w./)\]}|-])~?)(?:/(?=[\w.])|(?<!\w)[A-Za-z]:[\\/]+|\\\\)[^\s'\",;:<>|]*"
)


def without_paths(value: Any) -> Any:
    """Plain content whose texts hold no absolute path: of each the last part is left. A text that begins with one is
    one, spaces and all, but for a text of several lines."""
    if isinstance(value, Mapping):
        return {without_paths(k): without_paths(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(v) for v in value]
    if not isinstance(value, str):
        return value
    if "\n" not in value and _PATH.match(value):
        return last_part(value)
    return _PATH.sub(lambda found: last_part(found[0]), value)


def last_part(path: str) -> str:
    """The name of what stands at a path of any system."""
    return PurePosixPath(path.replace("\\", "/")).name


# -- what a run says ---------------------------------------------------------------------------------------------------


def settings_of(run: Path) -> dict[str, Any]:
    """What was asked of a run, by the config.json in its folder; nothing where there is none that can be read."""
    try:
        return asked_of(read_saved(run / "config.json"))
    except (UserError, KeyError, TypeError):
        return {}


def command_of(settings: Mapping[str, Any]) -> str:
    """The command that asks for settings, without what belongs to one machine; of a path its last part."""
    row = MODELS.get(settings.get("model", ""))
    script = SCRIPTS.get(settings.get("dataset", ""), "gan_folder")
    if row is not None and not row.latents:
        script = "gan_pairs"
    words = ["python", f"{script}.py"]
    for name, value in settings.items():
        if name not in OF_MACHINE:
            words += flag_words(name, named_only(value))
    return shlex.join(words)


def named_only(value: Any) -> Any:
    """A setting with the last part of each path."""
    if isinstance(value, Mapping):
        return {k: named_only(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [named_only(v) for v in value]
    if isinstance(value, str) and (is_file_name(value) or "/" in value or "\\" in value):
        return last_part(value)
    return value


def scores_of(file: Path) -> list[dict[str, Any]]:
    """The best line of each group of comparable scores in a scores.jsonl, without what is private."""
    try:
        return [without_paths(dict(line)) for _, line in best_lines(read_lines(file))]
    except Unreadable:
        return []


# -- the card ----------------------------------------------------------------------------------------------------------


def front_matter(fields: Mapping[str, Any]) -> str:
    """YAML between its lines; JSON's strings and lists are YAML's too."""
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---", ""])


def model_fields(about: Mapping[str, Any], licence: str) -> dict[str, Any]:
    """The head of a model's card, as the hub reads it."""
    translates = about["translates"] is not None
    kind = "image-to-image" if translates else "unconditional-image-generation"
    tags = ["gan", str(about["model"]), kind, "pytorch", about["dataset"]]
    return {
        "license": licence,
        "library_name": LIBRARY,
        "pipeline_tag": kind,
        "tags": list(dict.fromkeys(re.sub(r"[^\w.-]+", "-", tag.lower()) for tag in tags)),
    }


def space_fields(title: str, licence: str, gradio_version: str) -> dict[str, Any]:
    """The head of a Space's card."""
    return {
        "title": title, "emoji": "🎨", "colorFrom": "indigo", "colorTo": "gray", "sdk": "gradio",
        "sdk_version": gradio_version, "app_file": "app.py", "pinned": False, "license": licence,
    }  # fmt: skip


def score_tables(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """Each line's numbers, and the whole protocol by which they were taken."""
    found = []
    for line in lines:
        numbers = {k: v for k, v in line.items() if isinstance(v, int | float) and k != "step"}
        found += [
            f"Step {line['step']:,}:", "", "| " + " | ".join(numbers) + " |", "|" + " --- |" * len(numbers),
            "| " + " | ".join(f"{v:.4g}" for v in numbers.values()) + " |", "",
            "```json", json.dumps({"protocol": line["protocol"], "date": line.get("date")}, indent=1), "```", "",
        ]  # fmt: skip
    return found


def usage(about: Mapping[str, Any], place: str) -> list[str]:
    """How the generator is loaded, in Python and by commands."""
    if about["translates"] is not None:
        python = [
            f'translator = load_translator("{place}")',
            "pictures = translator.translate(uint8)  # (n, C, h, w)",
        ]
        return [
            "```python", "from generation import load_translator", *python, "```", "",
            f"`python -m tools.translate {place} --data photos/ --out translated/`",
        ]  # fmt: skip
    return [
        "```python", "from generation import load_generator, sample", f'G, about = load_generator("{place}")',
        "images = sample(G, about, n=16, seed=0)  # uint8 (n, C, H, W)", "```", "",
        f"`python -m tools.sample {place} --n 64 --out grid.png`",
    ]  # fmt: skip


def card(
    title: str,
    about: Mapping[str, Any],
    settings: Mapping[str, Any],
    scores: Iterable[Mapping[str, Any]],
    licence: str,
    place: str,
    *,
    walk: bool,
) -> str:
    """The text of README.md below its head; place: what load_generator is given; walk: whether there is a walk.webp."""
    terms, size = terms_of(about, settings), about.get("img_size")
    labels = ", ".join(about["label_names"][:50]) or (
        f"{about['n_labels']} classes" if about["n_labels"] else "none"
    )
    tables = score_tables(scores)
    size = "" if size is None else f", {size_text(tuple(size) if isinstance(size, list) else size)} px"
    known = [f"a {about['model']}{size}, step {about['step']:,}, {about['taken_from']} weights"]
    parts = [
        f"# {title}", "", f"![samples](samples.png){' ![a walk through latent space](walk.webp)' if walk else ''}", "",
        f"{known[0][0].upper()}{known[0][1:]}; batch norm: {about['batch_norm']}; labels: {labels}.", "",
        "## Use", "", *usage(about, place), "",
        "## Scores", "", *(tables or ["None were taken.", ""]),
        "## Training", "",
        *(["```", command_of(settings), "```"] if settings else ["The settings of its training are not known."]), "",
        "## Data", "", f"Trained on {about['dataset']}: {terms.note}", "",
        "## Intended use and limits", "",
        "For study, art and research on generative models. It knows what its training pictures show and no more, and "
        "repeats their biases; single samples may look like training pictures. Do not pass off what it makes as "
        "photographs, nor use it to deceive or to harm people.", "",
        "## Licence", "", f"`{licence}`, see LICENSE" + ("" if licence != "other" else ": none is stated") + ".", "",
    ]  # fmt: skip
    if about["model_file"] is not None:
        parts += ["Its networks are of a file of its author's, model.py: read it before you load this.", ""]
    return "\n".join(parts)
