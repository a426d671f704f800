"""The study of mode collapse: what is run, what is not run again, and what its report says."""

import json
from pathlib import Path

import pytest
from PIL import Image

import gan_ring8
from generation.pictures import picture_table, stack
from generation.version import code_version
from settings.presets import PRESETS
from studies import mode_collapse
from studies.mode_collapse import PARTS, MethodRun, Scored
from studies.runs import score_all, train_all

STEPS = 10


def score_line(**scores: float) -> dict:
    """A line of scores.jsonl of a run's last step."""
    return {"step": STEPS, "modes": 8, "high_quality": 0.5, "kl_uniform": 0.1, "jsd": 0.2} | scores


def test_every_preset_of_the_study_has_its_twin() -> None:
    """Both parts have the same methods, five updates of D for one of G, and differ where the source says."""
    for name in mode_collapse.METHODS:
        ring8, mnist = (PRESETS[f"{part.stem}{name}"].settings for part in PARTS.values())
        assert ring8["train_g_interval"] == mnist["train_g_interval"] == 5
        assert ring8["n_steps"] == 5 * 5000 and mnist["n_steps"] == 5 * 10_000
        differing = {k for k in ring8.keys() | mnist.keys() if ring8.get(k) != mnist.get(k)}
        own = {"wgan-gp": {"gp_weight"}, "lsgan": {"norm_g", "norm_d"}}.get(name, set())
        assert differing - {"n_steps", "img_size", "z_dim", "sample_interval"} == own


def test_seeds_come_after_methods() -> None:
    args = mode_collapse.parser().parse_args(["--methods", "gan", "wgan"])
    runs = mode_collapse.planned(args, args.part, args.methods, args.seeds)
    names = [(run.training.name, run.n_steps) for run in runs]
    assert names[:3] == [("ring8-gan-0", 25_000), ("ring8-wgan-0", 25_000), ("ring8-gan-1", 25_000)]
    assert names[-1] == ("mnist-wgan-1", 5 * 2000) and len(names) == 2 * (3 + 2)
    args = mode_collapse.parser().parse_args(["--mnist_steps", "2000", "--seeds", "7"])
    runs = mode_collapse.planned(args, ["mnist"], ["gan"], args.seeds)
    assert [(run.training.name, run.n_steps) for run in runs] == [("mnist-gan-7", 2000)]


def test_row_and_groups_by_hand(tmp_path: Path) -> None:
    """Mean and the sample's deviation over seeds, a dash for one; which methods are complete in how many seeds."""
    given = {
        "gan": [score_line(modes_1pct=1), score_line(modes_1pct=3)],
        "wgan": [score_line(modes_1pct=8), score_line(modes_1pct=7)],
        "hinge": [score_line(modes_1pct=8), score_line(modes_1pct=8, high_quality=0.7)],
        "sngan": [score_line(modes_1pct=5)],
    }
    runs = [
        Scored(MethodRun("ring8", method, seed, STEPS, tmp_path), line)
        for method, lines in given.items()
        for seed, line in enumerate(lines)
    ]
    lines = mode_collapse.table_of("ring8", runs)
    cells = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in lines[2:6]}
    assert cells["gan"][:3] == ["0 of 2", "8.0 ± 0.0", "2.0 ± 1.4"]
    assert cells["wgan"][0] == "1 of 2" and cells["hinge"][0] == "2 of 2"
    assert cells["hinge"][3] == "60.0% ± 14.1%" and cells["sngan"][2] == "5.0 ± –"
    assert "optimizer=RMSprop" in cells["wgan"][-1] and "lr" not in cells["gan"][-1]
    assert lines[-1].endswith("In every seed: hinge. In some: wgan (1 of 2). In none: gan, sngan.")


def test_runs_are_trained_once_scored_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run in a process of its own, one here; a second call trains nothing; the report has table and pictures."""
    monkeypatch.setattr("studies.runs.POLL", 0.1)
    runs = [MethodRun("ring8", method, 0, STEPS, tmp_path / "runs") for method in ("wgan", "wgan-gp")]
    trainings = [run.training for run in runs]
    trainings[0].runs_dir.mkdir()
    assert gan_ring8.main([*trainings[1].command()[2:], "--loggers"]) == 0
    assert train_all(trainings, 2, ["--loggers"]) == []
    said = trainings[0].log.read_text()
    assert f"step {STEPS} of {STEPS}" in said and not trainings[1].log.exists()
    assert train_all(trainings, 2, ["--loggers"]) == []
    assert trainings[0].log.read_text() == said
    assert score_all(trainings) == score_all(trainings) == []
    for run in trainings:
        lines = (run.folder / "scores.jsonl").read_text().splitlines()
        assert len(lines) == 1 and json.loads(lines[0])["protocol"]["n_fake"] == 10_000
    out = tmp_path / "docs" / "report.md"
    mode_collapse.report(runs, out)
    text = out.read_text()
    assert "2 updates of G, shortened from 5,000; seeds 0." in text
    assert f"Trained by version {code_version()}; scored by version " in text
    assert "| wgan | " in text and "| wgan-gp | " in text and "beyond the picture" in text
    for name in ("mode_collapse_ring8", "mode_collapse_weights"):
        assert f"images/{name}.png" in text
        with Image.open(out.parent / "images" / f"{name}.png") as picture:
            assert len(picture.convert("RGB").getcolors(1 << 16)) > 2


def test_tables_keep_their_pictures() -> None:
    red, green = (Image.new("RGB", (20, 10), colour) for colour in ("red", "green"))
    whole = picture_table(["a", "b"], [("x", [red, green]), ("y", [green, red])], margin=30)
    assert whole.size == (30 + 2 * 24, 16 + 2 * 14)
    assert whole.getpixel((30, 16)) == (255, 0, 0) and whole.getpixel((54, 30)) == (255, 0, 0)
    assert whole.getpixel((54, 16)) == whole.getpixel((30, 30)) == (0, 128, 0)
    both = stack([whole, red])
    assert both.size == (78, 54) and both.getpixel((0, 44)) == (255, 0, 0)
