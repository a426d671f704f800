"""The floors of the house: a module imports only from its own floor or from lower ones."""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the ground up; what stands on one floor does not know its neighbours.
FLOORS = (
    ("errors", "disk", "signals", "tensorfile", "ops"),
    ("losses", "ema", "pretrained"),
    ("modelling", "augmentation", "metrics"),
    ("images",),
    ("settings", "generation"),
    ("games",),
    ("training",),
    ("tools", "benchmarks", "studies", "assets", "gan_*"),
)
# Floors that know torch alone, and floors without trackers, devices and files of runs.
N_TORCH_ONLY, N_PURE = 2, 3
PURE = {"torch", "torchvision", "torch_fidelity", "timm", "numpy", "PIL", "safetensors", "networkx"}
LIBRARIES_OF = {"disk": {"msgspec"}, "tensorfile": {"numpy", "safetensors"}}


def floor_of(top: str) -> int | None:
    """The floor of a top-level module or folder, None for what is not of this repository."""
    name = "gan_*" if top.startswith("gan_") else top
    return next((i for i, floor in enumerate(FLOORS) if name in floor), None)


def imported(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import, those inside functions and names after `from a import` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*module, alias.name])) for alias in node.names)


def culprits(text: str, path: str) -> list[str]:
    """What breaks the floors in the module `text` that stands at `path` relative to the root."""
    parts = list(Path(path).with_suffix("").parts)
    own = floor_of(parts[0])
    if own is None:
        return [f"{path} stands on no floor: name its folder in FLOORS"]
    allowed = {"torch", "triton"} if own < N_TORCH_ONLY else PURE
    allowed = allowed | LIBRARIES_OF.get(parts[0], set())
    found = []
    for line, name in imported(ast.parse(text), parts[:-1]):
        top = name.split(".")[0]
        floor = floor_of(top)
        if floor is None:
            if own < N_PURE and top not in allowed | sys.stdlib_module_names:
                found.append(f"{path}:{line} imports {top}: this floor knows only {sorted(allowed)}")
        elif top != parts[0] and (floor > own or floor == own and own not in (0, len(FLOORS) - 1)):
            what = "a higher floor" if floor > own else "a neighbour on its own floor"
            found.append(f"{path}:{line} imports {top}, {what}")
    return list(dict.fromkeys(found))


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules of one circle of imports, the first one again at its end; [] where there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        found = next(filter(None, (walk(other, [*way, name]) for other in sorted(graph[name]))), [])
        done.add(name)
        return found

    return next(filter(None, (walk(name, []) for name in sorted(graph))), [])


def graph_of(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> the modules that it imports, of sources by their paths; a package is its __init__."""
    names = {path: ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__") for path in texts}
    known = set(names.values())
    graph: dict[str, set[str]] = {}
    for path, text in texts.items():
        package = list(Path(path).parent.parts)
        graph[names[path]] = set()
        for _, name in imported(ast.parse(text), package):
            # `from a import b`: the module a.b where there is one, else a
            target = name if name in known else name.rpartition(".")[0]
            if target in known and target != names[path]:
                graph[names[path]].add(target)
    return graph


def sources() -> dict[str, str]:
    """Text of every module of the toolkit by its path; tests are none."""
    tops = [top for floor in FLOORS for top in floor]
    files = [*ROOT.glob("*.py"), *(file for top in tops for file in (ROOT / top).rglob("*.py"))]
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}


def test_every_module_imports_only_from_lower_floors() -> None:
    assert [c for path, text in sources().items() for c in culprits(text, path)] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert " -> ".join(circle(graph_of(sources()))) == ""


def test_a_circle_is_named() -> None:
    texts = {
        "a/__init__.py": "",
        "a/b.py": "from a import c\n",
        "a/c.py": "def f():\n    from d import x\n",
        "d.py": "import a.b\n",
        "e.py": "from a.b import y\n",
    }
    assert circle(graph_of(texts)) == ["a.b", "a.c", "d", "a.b"]
    assert circle(graph_of(texts | {"d.py": "from a import z\n"})) == []


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        (
            "ops/a.py",
            "\ndef f():\n    import training.loop\n",
            "ops/a.py:3 imports training, a higher floor",
        ),
        ("losses.py", "from modelling import dcgan\n", "losses.py:1 imports modelling, a higher floor"),
        (
            "metrics/a.py",
            "from gan_mnist import main\n",
            "metrics/a.py:1 imports gan_mnist, a higher floor",
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
        (
            "settings/a.py",
            "from generation.checkpoint import difference\n",
            "settings/a.py:1 imports generation, a neighbour on its own floor",
        ),
        ("tools/a.py", "from studies.mode_collapse import main\nfrom tools.common import words\n", None),
    ],
)
def test_culprits_are_named(path: str, text: str, expected: str | None) -> None:
    found = culprits(text, path)
    assert len(found) == (0 if expected is None else 1)
    assert expected is None or found[0].startswith(expected)
