"""The documents keep their promises: rows, commands, tests and links exist, a run shows what the guide explains."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from games import game_of
from images.batches import Shard
from settings.command_line import make_parser
from settings.presets import PRESETS
from settings.reference import page
from tests.running import ROOT, TINY, run, small
from tests.test_config import SCRIPTS

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
# parsed by others, or translated before argparse sees it
LAUNCHERS = {"--num_processes", "--nproc_per_node", "--standalone", "--dynamo_backend", "--logdir"}
LEGACY = {"--accelerator", "--devices", "--max_steps"}


def numbered_rows(text: str) -> list[list[str]]:
    """The cells of every table row that begins with a number."""
    return [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if re.match(r"\| \d+ \|", line)
    ]


def feature_rows() -> list[list[str]]:
    """The cells (number, feature, command, state, source) of every row of docs/features.md, and its tests."""
    features, _, tests = (ROOT / "docs" / "features.md").read_text(encoding="utf-8").partition("\n## Tests\n")
    named = dict(numbered_rows(tests))
    return [[*row, named.pop(row[0])] for row in numbered_rows(features)]


def test_every_feature_has_its_row_a_state_and_its_tests() -> None:
    rows = feature_rows()
    assert [int(row[0]) for row in rows] == list(range(1, 191))
    assert {len(row) for row in rows} == {6}
    assert {row[3] for row in rows} <= {"owed", "done", "explained"}


def test_done_features_name_tests_that_exist() -> None:
    for number, _, command, state, _, test in feature_rows():
        named = re.findall(r"(test_\w+\.py)(?:::(test_\w+))?", test)
        if state == "done":
            assert command and named, f"row {number} is done but names no command or no test"
        for file, name in named:
            assert (ROOT / "tests" / file).is_file(), f"row {number} names {file}"
            text = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert f"def {name}(" in text if name else state == "owed", f"row {number} names {file}::{name}"


def known_flags(command: str) -> set[str]:
    """The flags of the program that a command starts; of a training script for bare flags."""
    tool = re.search(r"(tools|studies)\.(\w+)", command)
    own = set(importlib.import_module(tool[0]).parser()._option_string_actions) if tool else set()
    if tool and tool[0] != "tools.schedules":  # which takes the flags of training too
        return own
    script = re.search(r"(gan_\w+)\.py", command)
    name = script[1] if script else "gan_mnist"
    return set(make_parser(name, None, SCRIPTS[name])._option_string_actions) | LEGACY | own


def test_commands_of_done_features_are_legal() -> None:
    for number, _, cell, state, *_ in feature_rows():
        if state != "done":
            continue
        for command in re.findall(r"`([^`]+)`", cell):
            flags = set(re.findall(r"--\w+", command)) - LAUNCHERS
            if command != "--out dir/":  # goes on with the command before it
                assert flags <= known_flags(command), f"row {number}: {sorted(flags - known_flags(command))}"
            for preset in re.findall(r"--preset (\S+)", command):
                assert preset in PRESETS, f"row {number}: {preset}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_tools_have_the_flags_that_they_are_given(page: Path) -> None:
    lines = re.findall(r"python -m (?:tools|studies)\.\w+[^#`\n]*", page.read_text(encoding="utf-8"))
    strange = {line: set(re.findall(r"--\w+", line)) - known_flags(line) for line in lines}
    assert {line: flags for line, flags in strange.items() if flags} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_local_links_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'<img src="([^"]+)"', text)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def as_explained(name: str) -> str:
    """A logged name without what differs between runs."""
    for pattern, general in (
        (r"^(grad_norm|penalty)/(r1|path_length)", r"\1/NAME"),
        (r"^samples/(raw|ema)/", "samples/NAME/"),
        (r"^schedule/.+", "schedule/NAME"),
        (r"^(layer_grad_\w+/[dg])/.+", r"\1/LAYER"),
    ):
        name = re.sub(pattern, general, name)
    return name


def test_every_curve_of_a_run_is_explained(tmp_path: Path) -> None:
    """docs/reading_a_run.md's table against TensorBoard and metrics.jsonl of a run that has all there is."""
    table = (ROOT / "docs" / "reading_a_run.md").read_text(encoding="utf-8").split("What each curve is")[1]
    cells = [line.split("|")[1] for line in table.split("\n## ")[0].splitlines() if line.startswith("| `")]
    explained = set(re.findall(r"`([^`]+)`", " ".join(cells)))
    command = f"--log_name a {small('stylegan')} --n_steps 2 --ema --log_interval 1 --health_interval 1 --augment ada"
    penalties = (
        "--penalty r1 path_length --penalty_interval r1=2 path_length=2 --schedule lr=1e-3 r1=2:1:9 beta2=.9"
    )
    run(f"{command} {penalties} --loggers tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "a"))
    events.Reload()
    shown = set(events.Tags()["scalars"])
    last = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1])
    assert shown == last.keys() - {"step"}
    assert set(events.Tags()["images"]) == {"samples/raw", "samples/ema", "samples/real"}
    run(
        "--log_name ac --n_steps 1 --log_interval 1 --conditional --condition_d ac --ac_weight_fake 1 --san",
        tmp_path,
    )
    of_classes = json.loads((tmp_path / "ac" / "metrics.jsonl").read_text()).keys()
    named = {as_explained(name) for name in shown | of_classes - {"step"}}
    assert named == explained - {"fp16_scale", "samples/NAME/colourfulness"}  # digits are grey
    run("--log_name b --n_steps 1", tmp_path)
    plain = json.loads((tmp_path / "b" / "metrics.jsonl").read_text())
    assert plain.keys() < last.keys() and not [
        k for k in plain if re.match("growing|augment|state|penalty|class|san|schedule", k)
    ]


def test_grids_show_the_same_latents_all_along(tmp_path: Path) -> None:
    """G stands still at a learning rate of 0, so equal grids mean equal latents."""
    run("--log_name a --n_steps 2 --lr 0 --sample_interval 1", tmp_path)
    start, first, second = sorted((tmp_path / "a" / "samples").glob("step-*-raw.png"))
    assert start.read_bytes() == first.read_bytes() == second.read_bytes()


def test_the_launcher_of_accelerate_starts_a_run(tmp_path: Path) -> None:
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "1",
        "--mixed_precision",
        "bf16",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path)}  # nobody's own settings
    done = subprocess.run(
        [*launcher, "gan_mnist.py", *TINY.split(), "--runs_dir", str(tmp_path), "--log_name", "a", "--n_steps", "1"],
        env=environment, capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mixed precision: bf16" in done.stdout
    assert (tmp_path / "a" / "checkpoints" / "step-00000001.pt").is_file()


def training_commands() -> list[str]:
    """The training commands of the README's blocks and of docs/training.md's, launchers left out."""
    pages = ROOT / "README.md", ROOT / "docs" / "training.md"
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    blocks = "\n".join(re.findall(r"```\n(.*?)```", text, flags=re.DOTALL))
    commands = re.findall(r"^python (gan_\w+\.py [^#\n]*)", blocks, flags=re.MULTILINE)
    return list(dict.fromkeys(command.strip() for command in commands))


def test_lines_of_the_readme_fit_a_screen() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize(
    "command",
    [*training_commands(), *(f"{row.script or 'gan_celeba'}.py --preset {n}" for n, row in PRESETS.items())],
)
def test_commands_and_presets_fit_together(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, networks and batch go together, at full width: run on the device that computes nothing."""
    script, *words = shlex.split(command)
    name = script.removesuffix(".py")
    plans = []
    ended = SimpleNamespace(unlearned=None)
    monkeypatch.setattr("training.run.run_plan", lambda plan: plans.append(plan) or ended)
    assert importlib.import_module(name).main(words) == 0
    config = plans[0].config
    game_of(config).rehearse(config, Shard(config.batch_size, accumulate=config.accumulate), {})


def test_the_page_of_flags_is_that_of_the_settings() -> None:
    """Written by `python -m settings.reference > docs/flags.md`; each flag of a script once."""
    text = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
    assert text == page()
    told = re.findall(
        r"`(--\w+)`", "\n".join(line.split("|")[1] for line in text.splitlines() if line[:3] == "| `")
    )
    asked = set(make_parser("gan_mnist", None, SCRIPTS["gan_mnist"])._option_string_actions)
    printed = {"-h", "--help", "--help_all", "--list_presets"}
    assert sorted(told) == sorted(
        name for name in asked - printed if not name.startswith("--no-") and name not in LEGACY
    )
