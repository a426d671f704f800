"""`make demo`: its commands are legal, what it writes is told, ignored and removed, and its digits are good."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch

from generation.drawing import sample
from generation.extractors import open_extractor
from generation.generator import load_generator
from images.sources import load_digits
from metrics.features import extract
from metrics.health import mean_distance_within
from metrics.score import class_accuracy
from settings.command_line import parse_config
from tests.running import ROOT
from tests.test_config import SCRIPTS

SCORED = 1000  # fakes, with classes in turn


def recipe(target: str) -> list[str]:
    """The lines of a target of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)[1].replace("\t", "").splitlines()


def test_commands_of_the_demo_are_legal() -> None:
    python = "OMP_NUM_THREADS=1 .venv/bin/python "
    lines = [line.removeprefix(python) for line in recipe("demo") if line.startswith(python)]
    run, *tools = map(shlex.split, lines)
    script, *flags = run
    config = parse_config(Path(script).stem, SCRIPTS[Path(script).stem], {}, flags).config()
    assert config.dataset == "digits" and config.conditional
    for of_module, name, *flags in tools:
        args = importlib.import_module(name).parser().parse_args(flags)
        assert of_module == "-m" and args.out and f"runs/{config.log_name}" in flags
    assert f"runs/{config.log_name}" in " ".join(recipe("clean"))


def test_what_the_demo_writes_is_told_ignored_and_removed() -> None:
    lines = recipe("demo")
    written = re.findall(r"--out (\S+)", "\n".join(lines))
    assert len(written) == 3
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    removed = shlex.split(recipe("clean")[0])
    for file in written:
        assert f"/{file}" in ignored and file in removed
        assert [line for line in lines if line.startswith("@echo") and f"$(OPEN) '$(CURDIR)/{file}'" in line]


@pytest.mark.slow
def test_the_demo_draws_sharp_and_varied_digits(tmp_path: Path) -> None:
    """Read as asked by digits-cnn, and as far from each other within a class as at least 60 % of the data's are."""
    command = f"--preset digits --runs_dir {tmp_path} --log_name demo --device cpu --loggers"
    assert importlib.import_module("gan_mnist").main(command.split()) == 0
    fakes, asked = sample(*load_generator(tmp_path / "demo"), SCORED), torch.arange(SCORED) % 10
    data = load_digits((*fakes.shape[2:], 1), "train")
    reals, y = torch.from_numpy(data.images).permute(0, 3, 1, 2), torch.from_numpy(data.labels)
    reader = open_extractor("digits-cnn", None, None, "cpu")
    (features, logits), (of_reals, _) = (extract(reader, [x]) for x in (fakes, reals))
    assert class_accuracy(logits, asked)[0] >= 0.95
    assert mean_distance_within(fakes, asked) >= 0.6 * mean_distance_within(reals, y)
    assert mean_distance_within(features, asked) >= 0.6 * mean_distance_within(of_reals, y)
