"""The table of many runs: numbers worked by hand, rows, commands that make the same run again, refusals."""

import csv
import importlib
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gan_ring8
from losses import PENALTIES
from settings import PRESETS, as_dict
from settings.command_line import parse_config
from settings.resume import FREE_ON_RESUME, NOTICED_ON_RESUME
from settings.sections import FIELDS
from tests.running import ROOT
from tests.test_config import SCRIPTS
from tools import evaluate, table

ABOUT = {
    "fakes": "generator", "n_fake": 10_000, "n_real": 10_000, "reference": "cifar10", "split": "train",
    "extractor": "lite0", "extractor_sha256": "ab" * 32, "settings": {"kid": "subsets"}, "code": "v1",
    "best_by": ["fid[lite0]", "low"], "weights": "raw", "torch": "2.0",
}  # fmt: skip


def score(step: int, fid: float | None, **about: Any) -> dict[str, Any]:
    """A line of scores.jsonl."""
    return {
        "step": step,
        "fid[lite0]": fid,
        "kid[lite0]": 0.5,
        "kid_std[lite0]": 0.1,
        "protocol": ABOUT | about,
    }


def make_run(
    folder: Path, seed: int, lines: list[dict[str, Any]], asked: dict[str, Any] | None = None, **settings: Any
) -> Path:
    """A run's folder with what the table reads: 100 steps of 20 images, 15 seconds of training."""
    folder.mkdir(parents=True)
    asked = {"dataset": "cifar10", "img_size": 32, "flip": True, "batch_size": 20, "seed": seed} | (
        asked or {}
    )
    config = {"log_name": folder.name, "model": "dcgan", "method": "gan", "lr": 2e-4} | asked | settings
    (folder / "config.json").write_text(json.dumps({"asked": asked, **config}))
    (folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ticks = [{"step": 50, "loss/d": 1.0, "img_per_s": 100.0}, {"step": 100, "img_per_s": 200.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(tick) + "\n" for tick in ticks) + '{"step": 1')
    return folder


def printed(capsys: pytest.CaptureFixture[str], *argv: object) -> list[list[str]]:
    """The cells of both tables that the command prints."""
    capsys.readouterr()
    assert table.main([str(word) for word in argv]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines]


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The line of a refusal."""
    capsys.readouterr()
    assert table.main([str(word) for word in argv]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("error: ")
    return said[-1]


def test_mean_and_deviation_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """10, 12, 17: mean 13, deviation the root of (9 + 1 + 16) / 2. 1000 / 100 + 1000 / 200 = 15 s for 2000 images."""
    runs = [make_run(tmp_path / f"a{i}", i, [score(100, fid)]) for i, fid in enumerate((10, 12, 17))]
    runs.append(make_run(tmp_path / "b", 0, [score(90, 8.5)], {"ema": True}, n_steps=5))
    out = tmp_path / "all.csv"
    cells = printed(capsys, *runs, "--csv", out)
    assert cells[0] == ["setting", "n", "step", "`fid[lite0]`", "`kid[lite0]`", "steps", "hours", "img/s"]
    assert cells[1] == ["`as the script does`", "3", "100", "13 ± 3.6", "0.5 ± 0", "100", "0.00417", "133"]
    assert cells[2] == ["`--ema`", "1", "90", "8.5 ± –", "0.5 ± –", "100", "0.00417", "133"]
    assert cells[4] == ["`as the script does`", "0, 1, 2", "`python gan_cifar10.py --batch_size 20`"]
    assert cells[5] == ["`--ema`", "0", "`python gan_cifar10.py --batch_size 20 --ema`"]
    with open(out, newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["fid[lite0]"]) == 13 and float(first["fid[lite0] deviation"]) == pytest.approx(13**0.5)
    assert second["fid[lite0] deviation"] == "" and float(first["hours"]) == pytest.approx(15 / 3600)


def test_which_score_stands_for_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest of the last step, the lowest of those taken alike, that of a step; other fakes and half lines none."""
    lines = [score(10, 5.0), score(20, 3.0), score(30, 4.0), score(30, 4.5)]
    lines += [score(40, 1.0, fakes="reals"), score(20, 2.0, n_fake=50)]
    run = make_run(tmp_path / "a", 0, lines)
    with open(run / "scores.jsonl", "a") as file:
        file.write('[1]\n{"step": "x", "protocol": {}}\n{"step": 50}\n{"half')
    row = {at: printed(capsys, run, "--at", at)[1][2:4] for at in ("last", "best", 10)}
    assert row == {"last": ["30", "4.5 ± –"], "best": ["20", "3 ± –"], 10: ["10", "5 ± –"]}
    assert "none of these is a run with such scores" in refused(capsys, run, "--at", 11)


def test_protocols_and_versions_do_not_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = make_run(tmp_path / "a", 0, [score(10, 5.0)])
    for name, about, words in (
        ("code", {"code": "v2"}, "code is v1 of"),
        ("n_fake", {"n_fake": 500}, "n_fake is 10000 of"),
        ("truncation", {"truncation": 0.7}, "truncation is none of"),
        ("kid", {"settings": {"kid": "half"}}, "settings of kid is subsets of"),
    ):
        b = make_run(tmp_path / name, 1, [score(10, 5.0, **about)])
        said = refused(capsys, a, b)
        assert words in said and str(a) in said and str(b) in said and "python -m tools.evaluate RUN" in said
    both = make_run(tmp_path / "both", 1, [score(10, 7.0), score(10, 6.0, extractor="inception")])
    assert "--extractor" in refused(capsys, a, both)
    assert printed(capsys, a, both, "--extractor", "lite0")[1][3] == "6 ± 1.4"
    # the model's own matters and the machine's may differ, but within a row only the latter
    other = make_run(tmp_path / "other", 0, [score(10, 5.0, weights="ema", torch="2.1")], {"ema": True})
    assert len(printed(capsys, a, other)) == 2 * 3
    ema = make_run(tmp_path / "averaged", 1, [score(10, 5.0, weights="ema")])
    assert "weights is raw of" in refused(capsys, a, ema)


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No run, no score, a broken config, a seed twice; a score that is not finite is a dash."""
    a = make_run(tmp_path / "a", 0, [score(10, None)])
    twin = make_run(tmp_path / "twin", 0, [score(10, 9.0)])
    (tmp_path / "none").mkdir()
    broken = make_run(tmp_path / "broken", 0, [])
    (broken / "config.json").write_text("[" * 100_000)
    unscored = make_run(tmp_path / "unscored", 3, [])
    cells = printed(capsys, a, twin, tmp_path / "none", broken, unscored, a)
    assert len(cells) == 2 * 2 and cells[1][3:5] == ["0.5 ± –", "100"]
    table.main([str(p) for p in (a, twin, tmp_path / "none", broken, unscored)])
    said = capsys.readouterr().err
    assert "twin is left out" in said and "none is left out" in said and "broken is left out" in said
    assert f"python -m tools.evaluate {unscored}" in said and said.count("warning") == 4
    assert "name folders of runs" in refused(capsys, tmp_path / "none")
    assert "--metrics fie: the runs have kid[lite0]" in refused(capsys, a, "--metrics", "fie")
    assert "--csv" in refused(capsys, a, "--csv", tmp_path / "no" / "t.csv")
    with_fid = make_run(tmp_path / "finite", 1, [score(10, 9.0)])
    assert printed(capsys, a, with_fid, "--metrics", "kid", "fid")[1][3:5] == ["0.5 ± 0", "–"]


@pytest.mark.parametrize(
    "text",
    [
        '{"asked": 5, "batch_size": -3}',
        '{"asked": {"penalty_weights": 7, "img_size": [1, "x|y\\u001b"]}, "seed": {}}',
        '{"asked": {"dataset": [], "lr": 1e300, "g_kwargs": {"a": {"b": []}}}, "batch_size": true}',
    ],
)  # fmt: skip
def test_configs_of_strangers(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever stands there, a table of plain text comes of it."""
    run = make_run(tmp_path / "a", 0, [score(10, 5.0)])
    (run / "config.json").write_text(text)
    (run / "metrics.jsonl").write_text('{"step": 1, "img_per_s": 0}\n{"step": 2, "img_per_s": "x"}\nnull\n')
    assert table.main([str(run)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_hundred_runs_in_rows_of_five_without_torch(tmp_path: Path) -> None:
    """The whole command in a process of its own, which loads nothing heavy."""
    values = {(lr, seed): 10 + 0.37 * ((lr * 7 + seed * 13) % 29) for lr in range(20) for seed in range(5)}
    for (lr, seed), fid in values.items():
        lines = [score(step, fid + 100 / step) for step in range(100, 1001, 100)] + [score(1100, fid)]
        make_run(tmp_path / "runs" / f"{lr:02d}-{seed}", seed, lines, {"lr": lr / 1000})
    code = (
        "import sys\nfrom tools import table\n"
        "end = table.main(sys.argv[1:])\n"
        "heavy = {'torch', 'numpy', 'PIL', 'settings', 'generation'} & sys.modules.keys()\n"
        "sys.exit(f'loaded: {heavy}' if heavy else end)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, sorted((tmp_path / "runs").iterdir())), "--metrics", "fid"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| `--lr")]
    assert len(rows) == 20 + 20
    for lr, row in enumerate(rows[:20]):
        fids = [values[lr, seed] for seed in range(5)]
        assert row[0] == f"| `--lr {lr / 1000}`" and row[1:3] == ["5", "1,100"]
        assert row[3] == f"{sum(fids) / 5:.4g} ± {statistics.stdev(fids):.2g}"


# -- commands ------------------------------------------------------------------------------------------------------

COMMANDS = [
    ("gan_cifar10", "--no-flip --lr 1e-3 --penalty_interval r1=16 --r1_weight 0.01 --drift_penalty 0.001"),
    ("gan_cifar10", "--method wgan-gp --gp_weight 5 --g_kwargs width=16 norm=none --norm_d none"),
    ("gan_celeba", "--img_size 160x128 --ema --ema_halflife 10000 --augment ada cutout"),
    ("gan_mnist", "--dataset cifar10 --img_size 32 --conditional --condition_d projection"),
    ("gan_mnist", "--dataset celeba --data my/pictures --flip"),
    ("gan_celeba", "--data my/pictures --batch_size 8 --no-flip"),
    ("gan_mnist", "--dataset digits --seed 4 --label_smoothing 0.1 --loggers"),
    ("gan_ring8", "--dataset grid25 --penalty r1 r2 --critic_warmup --n_steps 5000"),
    ("gan_mnist", "--model progressive_gan --method wgan-gp --no_grow --optimizer RMSprop"),
]
PRESET_COMMANDS = [(row.script or "gan_cifar10", f"--preset {name}") for name, row in PRESETS.items()]


@pytest.mark.parametrize(("script", "command"), [*COMMANDS, *PRESET_COMMANDS])
def test_the_command_makes_the_same_run(script: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked, as config.json holds it, as a command, is the same settings again but for seed and places."""
    defaults = table.scripts()[f"{script}.py"][1]
    saved = as_dict(parse_config(script, SCRIPTS[script], defaults, shlex.split(command)).config())
    python, file, *words = shlex.split(table.command_of(saved["asked"]))
    again = file.removesuffix(".py")
    assert python == "python"
    parsed = parse_config(again, SCRIPTS[again], table.scripts()[file][1], words)
    settings = as_dict(parsed.config())
    free = table.NO_SETTING - {"data"} | {"asked"}
    assert {k: v for k, v in settings.items() if k not in free} == {
        k: v for k, v in saved.items() if k not in free
    }
    usual = {"dataset": SCRIPTS[again][0], **table.scripts()[file][1]}
    said = parsed.flags
    assert not [
        name for name in said if name in usual and "dataset" not in said and said[name] == usual[name]
    ]


def test_scripts_are_read_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr("training.launch.script_main", lambda name, datasets, defaults, doc: seen.update(
        {f"{name}.py": (datasets, defaults)}))  # fmt: skip
    for file in ROOT.glob("gan_*.py"):
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
        importlib.import_module(file.stem)
        monkeypatch.delitem(sys.modules, file.stem)
    assert seen == table.scripts() and len(seen) >= 4


def test_every_setting_is_one_or_none() -> None:
    """What a resumed run may change is none of a row's settings, but for its length."""
    assert FIELDS.keys() >= table.NO_SETTING
    assert FREE_ON_RESUME - {"n_steps"} | {"seed", "data_device"} == table.NO_SETTING
    assert "data_device" in NOTICED_ON_RESUME


def test_every_penalty_has_its_flag() -> None:
    for name, row in PENALTIES.items():
        flag = f"--{row.weight_name or f'{name}_weight'}"
        assert table.flag_words("penalty_weights", {name: 0.5}) == [flag, "0.5"]


def test_runs_as_they_are_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two seeds of one setting and one of another, scored by tools.evaluate."""
    for seed, more in ((0, []), (1, []), (0, ["--r1_weight", "2"])):
        name = f"{'r1' if more else 'plain'}-{seed}"
        words = ["--n_steps", 20, "--log_interval", 5, "--loggers", "--device", "cpu", "--seed", seed, *more]
        assert gan_ring8.main([*map(str, words), "--log_name", name, "--runs_dir", str(tmp_path)]) == 0
        assert evaluate.main([str(tmp_path / name), "--n", "500", "--device", "cpu"]) == 0
    cells = printed(capsys, *sorted(tmp_path.iterdir()), "--metrics", "jsd")
    assert [row[:3] for row in cells[1:3]] == [
        ["`as the script does`", "2", "20"], ["`--r1_weight 2.0`", "1", "20"],
    ]  # fmt: skip
    jsd = [json.loads((tmp_path / f"plain-{i}" / "scores.jsonl").read_text())["jsd"] for i in (0, 1)]
    assert cells[1][3] == f"{sum(jsd) / 2:.4g} ± {statistics.stdev(jsd):.2g}"
    assert float(cells[1][-1].replace(",", "")) > 0
    assert cells[5][2] == "`python gan_ring8.py --n_steps 20 --r1_weight 2.0`"
