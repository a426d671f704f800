"""The floors of the house: a module imports only from its own floor or from lower ones."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {"ops": 0, "losses": 0, "ema": 0, "errors": 0, "modelling": 1, "augmentation": 1, "metrics": 1}
FLOORS |= {"images": 2, "settings": 2, "generation": 2, "games": 2, "training": 2}
FLOORS |= {"tools": 3, "benchmarks": 3, "studies": 3, "assets": 3}
KNOWN_BELOW_TRAINING = {"torch", "torchvision", "torch_fidelity", "numpy", "PIL", "safetensors", "networkx"}


def floor_of(top: str) -> int | None:
    """The floor of a top-level module or folder, None for what is not of this repository."""
    return 3 if top.startswith("gan_") else FLOORS.get(top)


def imported(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = [node.module] if node.module else [alias.name for alias in node.names if not base]
            yield node.lineno, ".".join(base + module)


def culprits(text: str, path: str) -> list[str]:
    """What breaks the floors in the module `text` that stands at `path` relative to the root."""
    parts = list(Path(path).with_suffix("").parts)
    own = floor_of(parts[0])
    if own is None:
        return [f"{path} stands on no floor: name its folder in FLOORS"]
    allowed = {"torch", "triton"} if own == 0 else KNOWN_BELOW_TRAINING
    found = []
    for line, name in imported(ast.parse(text), parts[:-1]):
        top = name.split(".")[0]
        floor = floor_of(top)
        if floor is not None and floor > own:
            found.append(f"{path}:{line} imports {name} of a higher floor")
        elif floor is None and own < 2 and top not in allowed | sys.stdlib_module_names:
            found.append(f"{path}:{line} imports {name}: this floor knows only {sorted(allowed)}")
    return found


def test_every_module_imports_only_from_its_floor_or_below() -> None:
    files = [*ROOT.glob("*.py"), *(file for top in FLOORS for file in (ROOT / top).rglob("*.py"))]
    names = [file.relative_to(ROOT).as_posix() for file in files]
    assert [c for name in names for c in culprits((ROOT / name).read_text(encoding="utf-8"), name)] == []


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        (
            "ops/a.py",
            "\ndef f():\n    import training.loop\n",
            "ops/a.py:3 imports training.loop of a higher floor",
        ),
        ("losses.py", "from modelling import dcgan\n", "losses.py:1 imports modelling of a higher floor"),
        (
            "metrics/a.py",
            "from gan_mnist import main\n",
            "metrics/a.py:1 imports gan_mnist of a higher floor",
        ),
        ("ema.py", "import numpy\n", "ema.py:1 imports numpy: this floor knows only ['torch', 'triton']"),
        ("helpers.py", "import os\n", "helpers.py stands on no floor: name its folder in FLOORS"),
        (
            "modelling/a.py",
            "import accelerate\n",
            "modelling/a.py:1 imports accelerate: this floor knows only",
        ),
        (
            "modelling/a.py",
            "import math\nimport torch\nfrom . import layers\nfrom ops import precision\n",
            None,
        ),
        ("training/a.py", "import accelerate\nimport losses\nimport metrics.frechet\n", None),
    ],
)
def test_culprits_are_named(path: str, text: str, expected: str | None) -> None:
    found = culprits(text, path)
    assert len(found) == (0 if expected is None else 1)
    assert expected is None or found[0].startswith(expected)
