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
from disk import decode_json as decode
from losses import PENALTIES
from metrics.lines import best_step
from modelling import MODELS
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
    assert table.main([*map(str, runs), "--csv", str(out)]) == 0 and f"wrote {out}" in capsys.readouterr().err
    assert cells[0] == ["setting", "n", "step", "`fid[lite0]`", "`kid[lite0]`", "steps", "hours", "img/s"]
    assert cells[1] == ["`as the script does`", "3", "100", "13 ± 3.6", "0.5 ± 0", "100", "0.00417", "133"]
    assert cells[2] == ["`--ema`", "1", "90", "8.5 ± –", "0.5 ± –", "100", "0.00417", "133"]
    assert cells[4] == ["`as the script does`", "0, 1, 2", "`python gan_cifar10.py --batch_size 20`"]
    assert cells[5] == ["`--ema`", "0", "`python gan_cifar10.py --batch_size 20 --ema`"]
    with open(out, newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["fid[lite0]"]) == 13 and float(first["fid[lite0] deviation"]) == pytest.approx(13**0.5)
    assert second["fid[lite0] deviation"] == "" and float(first["hours"]) == pytest.approx(15 / 3600)


def test_a_row_alone_says_its_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its penalties as well, and none that it has not."""
    plain = make_run(tmp_path / "a", 0, [score(100, 10)], penalty=[], penalty_weights={})
    held = make_run(tmp_path / "b", 0, [score(100, 10)], penalty=["r2"], penalty_weights={"r1": 1.0})
    assert printed(capsys, plain)[1][0] == "`--model dcgan --method gan`"
    assert printed(capsys, held)[1][0] == "`--model dcgan --method gan --penalty r2 --r1_weight 1.0`"


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


def test_of_a_step_the_line_counts_that_holds_what_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step is scored anew by other metrics: neither line hides the other's, at whichever step is asked for."""
    copies = {
        "step": 20,
        "duplicates[lite0]": 0.25,
        "protocol": ABOUT | {"best_by": ["duplicates[lite0]", "high"]},
    }
    lines = [score(10, 9.0), score(20, 3.0), score(20, 2.5), copies, score(30, 4.0), copies | {"step": 30}]
    run = make_run(tmp_path / "a", 0, lines)
    for at, fid, step in (("last", "4", "30"), ("best", "2.5", "20"), (20, "2.5", "20")):
        for wanted, value in (("fid", fid), ("fid[lite0]", fid), ("duplicates", "0.25")):
            found = printed(capsys, run, "--at", at, "--metrics", wanted)[1][2:4]
            assert found == [step, f"{value} ± –"], (at, wanted)
    # without a wish the newest
    assert printed(capsys, run)[0][3] == "`duplicates[lite0]`"
    assert "--metrics fie: the runs have duplicates[lite0]" in refused(capsys, run, "--metrics", "fie")


def test_seeds_of_unequal_length_are_not_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One seed scored at 20,000 and one at 1,000: the latter is left out and said; the best steps may differ."""
    far = make_run(tmp_path / "far", 0, [score(10_000, 5.0), score(20_000, 6.0)])
    near = make_run(tmp_path / "near", 1, [score(1000, 9.0)])
    other = make_run(tmp_path / "other", 1, [score(1000, 9.0)], {"ema": True})
    rows = printed(capsys, near, far, other, "--metrics", "fid")
    assert rows[1][1:4] == ["1", "20,000", "6 ± –"] and rows[2][1:4] == ["1", "1,000", "9 ± –"]
    table.main([str(near), str(far)])
    said = capsys.readouterr().err
    assert (
        "near is left out: its last score is of step 1,000, others of its setting have one of step 20,000"
        in said
    )
    assert printed(capsys, near, far, "--at", "best", "--metrics", "fid")[1][1:4] == [
        "2",
        "1,000–10,000",
        "7 ± 2.8",
    ]
    assert printed(capsys, near, far, "--at", "1000", "--metrics", "fid")[1][1:4] == ["1", "1,000", "9 ± –"]


def test_numbers_that_sums_cannot_hold_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / f"{i}", i, [score(10, 1.7e308)]) for i in range(2)]
    for run in runs:
        with open(run / "metrics.jsonl", "w") as file:
            file.write('{"step": 1, "img_per_s": 1e-320}\n{"step": 1' + "0" * 400 + ', "img_per_s": 1}\n')
            file.write('{"step": 9, "img_per_s": 1.7e308}\n{"step": 9, "img_per_s": -5}\n')
        with open(run / "scores.jsonl", "a") as file:
            file.write(json.dumps(score(10**400, 1.0)) + "\n")
    assert printed(capsys, *runs)[0][3] == "`kid[lite0]`"
    assert printed(capsys, *runs)[1][1:] == ["2", "10", "0.5 ± 0", "10", "–", "–"]


def test_what_is_printed_is_plain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of scores and settings, seeds and protocols of strangers: no escape, no new line, no new column."""
    bad = "a\x1b[2J\nb|c"
    line = score(10, 5.0, reference=bad, code=bad) | {bad: 3.0}
    run = make_run(tmp_path / f"r{bad}", 0, [line], {bad: bad})
    (tmp_path / "config.json").write_text("{}")
    twin = make_run(tmp_path / f"t{bad}", 0, [line], {bad: bad})
    other = make_run(tmp_path / f"o{bad}", bad, [line], {bad: "x", "lr": 1})
    assert table.main([str(run), str(twin), str(other), str(tmp_path / f"n{bad}")]) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err and len(said.err.splitlines()) == 2
    head, rule, *rows = [text for text in said.out.splitlines() if text.startswith("|")][:4]
    assert len({len(text.replace(r"\|", "").split("|")) for text in (head, rule, *rows)}) == 1
    assert r"`a\x1b[2J\nb\|c`" in head
    wrong = make_run(tmp_path / "w", 7, [score(10, 5.0, reference=bad, code=bad, **{bad: 3})])
    assert "\x1b" not in refused(capsys, run, wrong) + refused(capsys, run, "--metrics", bad + "d")


def test_older_runs_have_no_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody wrote down what was asked of them: their settings tell them apart, and no command is made up."""
    old = [make_run(tmp_path / f"{lr}", 0, [score(10, 5.0)], lr=lr) for lr in (1, 2)]
    for run in old:
        config = json.loads((run / "config.json").read_text())
        del config["asked"]
        (run / "config.json").write_text(json.dumps(config))
    new = make_run(tmp_path / "new", 0, [score(10, 5.0)], {"lr": 3})
    cells = printed(capsys, *old, new)
    assert [row[0] for row in cells[1:4]] == ["`--lr 1`", "`--lr 2`", "`--lr 3`"]
    commands = [row[-1] for row in cells[5:]]
    assert commands == ["–", "–", "`python gan_cifar10.py --batch_size 20 --lr 3`"]


def test_the_best_is_what_the_toolkit_calls_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores of several versions of the code and machines compare, as for --checkpoint best; of other fakes not."""
    lines = [
        score(10, 5.0),
        score(20, 3.0, code="v2", torch="2.1"),
        score(30, 4.0, settings={"kid": "other"}),
    ]
    run = make_run(tmp_path / "a", 0, [*lines, score(40, 1.0, n_fake=5), score(50, 2.0, n_fake=5)])
    assert best_step(run / "scores.jsonl") == 20
    assert printed(capsys, run, "--at", "best", "--metrics", "fid")[1][2:4] == ["20", "3 ± –"]


def test_a_clock_reads_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is new; a line that is being written waits; a file that is cut, and has grown again, is read anew."""
    file, clock = tmp_path / "metrics.jsonl", table.Clock(tmp_path, lambda step: 20 * step)
    decoded: list[bytes] = []
    monkeypatch.setattr(table.disk, "decode_json", lambda data, *a: decoded.append(data) or decode(data, *a))
    assert clock.read() == []

    def tick(step: int, speed: float = 10.0) -> str:
        return json.dumps({"step": step, "img_per_s": speed}) + "\n"

    file.write_text("".join(map(tick, range(1, 6))) + "{half\n")
    assert clock.read()[-1] == (5, 10.0) and len(decoded) == 6
    with open(file, "a") as more:
        more.write(tick(7)[:-4])
    assert clock.read()[-1] == (5, 10.0) and len(decoded) == 6
    with open(file, "a") as more:
        more.write(tick(7)[-4:])
    assert clock.read()[-1] == (7, 14.0) and len(decoded) == 7
    text = "".join(map(tick, range(1, 4)))
    file.write_text(text)
    assert clock.read() == [(1, 2.0), (2, 4.0), (3, 6.0)]
    file.write_text("".join(tick(step, 20.0) for step in range(1, 90)))
    assert (
        clock.read()[-1] == (89, 89.0)
        and clock.read() == table.Clock(tmp_path, lambda step: 20 * step).read()
    )
    monkeypatch.setattr(table.disk, "JSON_LIMIT", 10)
    assert table.Clock(tmp_path, lambda step: 20 * step).read()[-1] == (89, 89.0)  # however long it is
    file.unlink()
    assert clock.read() == []


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
    (
        "gan_folder",
        "--data my/pictures --crop top --value_range -1000 3000 --img_channels 4 --img_size 32x48 --no-ema",
    ),
    ("gan_mnist", "--dataset digits --seed 4 --label_smoothing 0.1 --loggers"),
    ("gan_ring8", "--dataset grid25 --penalty r1 r2 --critic_warmup --n_steps 5000"),
    ("gan_mnist", "--model progressive_gan --method wgan-gp --no_grow --optimizer RMSprop"),
    ("gan_mnist", "--eval_interval 500 --eval_patience 3 --eval_n 400 --metrics kid fid --extractor lite0"),
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
        del sys.modules[file.stem]  # not by monkeypatch, which would put it back in the end
    assert seen == table.scripts() and len(seen) >= 4


def test_files_of_that_name_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any Python, broken Python, a folder: only what has the form of a script is one."""
    script = 'from training.launch import script_main\nmain = script_main("gan_mine", ("mine",), {"lr": 1}, None)\n'
    others = [
        "print(1)\n", "def main(): pass\n", "main = 3\n", "main = script_main()\n", "main = other(1, ('a',), {})\n",
        "main = script_main('a', read(), {})\n", "main = script_main('a', 5, {})\n", "def (:\n", "\0",
        "main = script_main('a', (), {})\n", "main = script_main('a', ('b',), {[]: 1})\n", "x = " + "(" * 10_000,
    ]  # fmt: skip
    for i, text in enumerate(others):
        (tmp_path / f"gan_{i}.py").write_text(text)
    (tmp_path / "gan_latin.py").write_bytes(b"name = '\xff'\n")
    (tmp_path / "gan_folder.py").mkdir()
    (tmp_path / "gan_mine.py").write_text("import os\nos.sep = a, b = '/', 1\na.b[0] = c = 2\n" + script)
    monkeypatch.setattr(table, "ROOT", tmp_path)
    assert table.scripts.__wrapped__() == {"gan_mine.py": (("mine",), {"lr": 1})}


def test_patience_is_a_setting_and_so_is_what_it_looks_at(tmp_path: Path) -> None:
    def key(**settings: Any) -> str:
        about = {"lr": 1, "eval_interval": 5, "eval_patience": None} | settings
        return table.setting_of(table.Run(tmp_path, about, {}, score(1, 1.0), []))

    assert key() == key(eval_interval=9) == key(metrics=["kid"])
    assert (
        len({key(), key(eval_patience=2), key(eval_patience=3), key(eval_patience=3, eval_interval=9)}) == 4
    )


def test_every_setting_is_one_or_none() -> None:
    """What a resumed run may change is none of a row's settings, but for its length."""
    assert FIELDS.keys() >= table.NO_SETTING
    assert FREE_ON_RESUME - {"n_steps", "eval_patience"} | {"seed", "data_device"} == table.NO_SETTING
    assert table.NO_SETTING > table.OF_PATIENCE
    assert "data_device" in NOTICED_ON_RESUME


def test_pictures_of_pictures_have_a_script() -> None:
    """Of one data set with those of latents."""
    assert {name for name, row in MODELS.items() if not row.latents} == table.OF_PICTURES
    asked = {"dataset": "folder", "data": "x", "img_size": 64, "batch_size": 1, "ema": True}
    assert table.command_of(asked | {"model": "cyclegan"}).startswith("python gan_pairs.py --")
    assert table.command_of(asked | {"model": "stylegan2"}).startswith("python gan_folder.py --")


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
