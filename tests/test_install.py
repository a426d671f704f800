"""`pip install -e .`: pyproject.toml names every module that there is, and what they need."""

import tomllib

from tests.running import ROOT

NO_PART = {"assets", "benchmarks", "docs", "studies", "tests"}  # used from the checkout alone


def project() -> dict:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_module_and_package_is_installed() -> None:
    named = project()["tool"]["setuptools"]
    assert named["py-modules"] == sorted(file.stem for file in ROOT.glob("*.py"))
    tops = [top for top in ROOT.iterdir() if top.name not in NO_PART and any(top.glob("*.py"))]
    folders = {file.parent.relative_to(ROOT) for top in tops for file in top.rglob("*.py")}
    packages = sorted(".".join(folder.parts) for folder in folders)
    assert named["packages"] == packages
    assert [name for name in packages if not (ROOT / name.replace(".", "/") / "__init__.py").is_file()] == []


def test_what_make_installs_is_what_pip_installs() -> None:
    found = project()
    assert found["project"]["dynamic"] == ["dependencies"]
    assert found["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    # a flag or another file would be none of a package's requirements
    assert lines and not [line for line in lines if not line or line[0] in "-#"]
    python = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert found["project"]["requires-python"] == ">=3.11" and "(3, 11)" in python
