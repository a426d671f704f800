"""A Hugging Face Space: the page of tools.app in a folder that runs by itself."""

import re
from pathlib import Path

from disk import put

ROOT = Path(__file__).resolve().parent.parent
# Of this toolkit, for a Space: what tools.app stands on.
FLOORS = (
    "errors.py", "disk.py", "signals.py", "tensorfile.py", "ops", "pretrained", "modelling", "metrics", "images",
    "generation", "tools/__init__.py", "tools/app.py", "tools/tabs.py", "LICENSE",
)  # fmt: skip
TOOLKIT, PARTS = "toolkit", ("app.py", "requirements.txt")  # of its folder: the toolkit, and what runs it
NEEDED = ("torch", "numpy", "pillow", "msgspec", "safetensors", "tqdm")
APP = '''"""The page of a generator, for a Hugging Face Space: python app.py."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "toolkit"))

from tools.app import MAX_UPLOAD, build, look, opened_for_page  # noqa: E402

page = build(opened_for_page(str(HERE)), {title!r})

if __name__ == "__main__":
    page.launch(max_file_size=MAX_UPLOAD, ssr_mode=False, **look())
'''


def write_space(folder: Path, title: str) -> None:
    """app.py, requirements.txt and the part of this toolkit that they need, in toolkit/."""
    toolkit = folder / TOOLKIT
    for name in FLOORS:
        source, target = ROOT / name, toolkit / name
        files = [source] if source.is_file() else sorted(source.rglob("*.py"))
        for file in files:
            place = target if source.is_file() else target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            put(place, file.read_bytes())
    put(folder / "app.py", APP.format(title=title))
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = [line for line in lines if re.split(r"[<>=~!\[]", line)[0] in NEEDED]
    put(folder / "requirements.txt", "\n".join(needed) + "\n")
