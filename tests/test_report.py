"""The report: what it says on the terminal, that its page is whole, loads nothing and obeys nobody."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from generation.pictures import scatter
from metrics.mixture import MIXTURES
from tests.running import run, small, write_pairs
from tests.test_record import images, write_run
from tools.report import main
from tools.report_html import embedded, marked
from tools.report_page import scaled

EVIL = '<script>alert("x")</script>'
VOID = {"meta", "link", "img", "br", "path", "use", "rect"}


class Whole(HTMLParser):
    """Opens and closes; what is fetched, what runs, and the ids that are there."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.fetched, self.scripts, self.ids, self.links = [], [], 0, set(), []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        self.scripts += tag in ("script", "iframe", "object") or any(name.startswith("on") for name in given)
        for name in ("src", "href", "xlink:href", "action"):
            if (value := given.get(name)) is not None and not value.startswith(("#", "data:")):
                self.fetched.append(value)
        self.links += [given["href"][1:]] if given.get("href", "").startswith("#") else []
        self.ids |= {given["id"]} if "id" in given else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def page_of(*argv: object, out: Path) -> str:
    """The page of a command."""
    assert main([*map(str, argv), "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    found = Whole(text)
    assert found.open == [] and found.fetched == [] and found.scripts == 0
    assert set(found.links) <= found.ids and "@import" not in text and "url(http" not in text
    return text


def lines(n: int = 40, step: int = 50, **more: float) -> list[dict]:
    """Lines of a healthy run, with gradients by layer."""
    usual = {
        "loss/d": 1.2, "loss/g": 0.8, "d/real": 0.4, "d/fake": -0.4, "d/real_sign": 0.3, "d/real_saturated": 0.1,
        "d/fake_saturated": 0.2, "grad_norm/d": 1.0, "grad_norm/g": 1.0, "layer_grad_mean/d/blocks.0": 1e-3,
        "layer_grad_max/d/blocks.0": 1e-1, "skipped_steps": 0.0, "lr/d": 2e-4, "lr/g": 2e-4, "penalty/r1": 0.1,
        "img_per_s": 100.0, "augment/p": 0.2,
    } | more  # fmt: skip
    return [
        {"step": step * (i + 1), **{k: v * (1 + 0.1 * (i % 3)) for k, v in usual.items()}} for i in range(n)
    ]


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    """A run without faults."""
    folder = write_run(
        tmp_path / "healthy", lines(), {"dataset": "digits", "seed": 0},
        reals=images(8), step_0_raw=images(7), step_2000_raw=images(8),
    )  # fmt: skip
    score = {"step": 1000, "fid": 12.5, "protocol": {"fakes": "generator", "n_fake": 100, "code": EVIL}}
    (folder / "scores.jsonl").write_text(
        json.dumps(score) + "\n" + json.dumps(score | {"step": 2000, "fid": 11.0}) + "\n"
    )
    return folder


def test_without_a_page_the_diagnosis_is_told(healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(healthy)]) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith("healthy, step 2,000\n  Healthy (likely)\n") and "100% as varied as the data" in said
    )
    assert sorted(path.name for path in healthy.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "samples",
        "scores.jsonl",
    ]


def test_a_page_has_every_part(healthy: Path, tmp_path: Path) -> None:
    text = page_of(healthy, "--price_per_hour", 3, out=tmp_path / "r.html")
    for title in ("Diagnosis", "Samples", "Losses", "What D thinks", "Gradients", "Samples beside the data", "Scores",
                  "Stability", "Other curves", "Speed and cost", "Settings", "What could not be read"):  # fmt: skip
        assert f">{title}</h2>" in text, title
    for shown in ("Saturated sigmoids", "Mean gradient of D", "Greatest gradient of D", "Updates left out", "fid",
                  "augment/p", "at 3 an hour", "12.5", "All 7 settings"):  # fmt: skip
        assert shown in text, shown
    assert EVIL not in text and "&lt;script&gt;" in text
    # the first and the last grid, and the last one again beside the diagnosis
    assert text.count("data:image/webp;base64,") == 3
    assert text == page_of(healthy, "--price_per_hour", 3, out=tmp_path / "again.html")


def test_what_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    evil = {
        "model": EVIL,
        "method": EVIL,
        "dataset": EVIL,
        EVIL: EVIL,
        "asked": {"model": EVIL, "data": EVIL},
    }
    folder = write_run(
        tmp_path / "a<b>&", lines(**{EVIL: 1.0, f"loss/{EVIL}": 1.0, f"d/{EVIL}/real": 1.0}), evil
    )
    (folder / "scores.jsonl").write_text(json.dumps({"step": 1, EVIL: 1.0, "protocol": {EVIL: EVIL}}) + "\n")
    text = page_of(folder, out=tmp_path / "r.html")
    assert "<script" not in text and "<b>&<" not in text


def test_several_runs_stand_in_a_table(tmp_path: Path) -> None:
    """Two seeds of one setting are a row with n = 2; another method is another row; a run without scores has dashes."""
    protocol = {"fakes": "generator", "best_by": ["fid", "low"]}
    for name, method, seed, fid in (("a", "gan", 0, 10.0), ("b", "gan", 1, 12.0), ("c", "hinge", 0, None)):
        folder = write_run(
            tmp_path / name,
            lines(),
            {"method": method, "seed": seed},
            reals=images(8),
            step_2000_raw=images(8),
        )
        if fid is not None:
            (folder / "scores.jsonl").write_text(
                json.dumps({"step": 2000, "fid": fid, "protocol": protocol}) + "\n"
            )
    text = page_of(
        tmp_path / "a", tmp_path / "b", tmp_path / "c", "--price_per_hour", 1, out=tmp_path / "r.html"
    )
    (table,) = re.findall(r"<table>.*?</table>", text)
    rows = [
        [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td.*?</td>", row)]
        for row in re.findall(r"<tr>.*?</tr>", table)
    ]
    assert [row[:2] for row in rows[1:]] == [["a, b", "--method gan"], ["c", "--method hinge"]]
    assert rows[1][2:6] == ["Healthy", "2", "2,000", "11 ± 1.4"] and rows[2][3] == "1" and rows[2][5] == "–"
    assert "Curves over each other" in text and text.count("data:image/webp") == 3


def test_scores_of_two_protocols_are_not_compared(tmp_path: Path) -> None:
    for name, n_fake in (("a", 10), ("b", 20)):
        folder = write_run(tmp_path / name, lines(), {"seed": n_fake})
        protocol = {"fakes": "generator", "n_fake": n_fake, "best_by": ["fid", "low"]}
        (folder / "scores.jsonl").write_text(
            json.dumps({"step": 2000, "fid": 1.0, "protocol": protocol}) + "\n"
        )
    text = page_of(tmp_path / "a", tmp_path / "b", out=tmp_path / "r.html")
    assert "No scores: n_fake is 10 of" in text and "±" not in text


def test_a_damaged_run_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "a", lines(), reals=images(8), step_2000_raw=images(8))
    (folder / "config.json").unlink()
    (folder / "samples" / "step-00002000-raw.png").write_bytes(b"\x89PNG")
    (folder / "samples" / "real.png").write_bytes(b"")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-00000010.pt").write_bytes(b"PK")
    text = page_of(folder, out=tmp_path / "r.html")
    said = capsys.readouterr().out
    for part in ("config.json", "step-00002000-raw.png", "step-00000010.pt"):
        assert part in text
    assert "could not be read: config.json" in said


def test_points(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "ring", lines(), {"dataset": "ring8"})
    points, which = MIXTURES["ring8"].sample(50, torch.Generator().manual_seed(0))
    scatter(MIXTURES["ring8"], points, points[which == 3]).save(folder / "samples" / "step-00002000-raw.png")
    text = page_of(folder, out=tmp_path / "r.html")
    assert "Mode collapse" in text and "1 of 8 modes" in text and "--penalty r1" in text


def test_pairs_and_a_generator_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real run that translates, and its generator/: weights, and too few steps for a verdict."""
    data = write_pairs(tmp_path / "data", n=8)
    run(f"{small('pix2pix')} --data {data} --n_steps 5 --log_name p", tmp_path)
    text = page_of(tmp_path / "p", out=tmp_path / "r.html")
    assert "Too early to say" in text and "Weights of" in text and "data:image/webp" in text
    alone = page_of(tmp_path / "p" / "generator", out=tmp_path / "g.html")
    assert "Weights of G" in alone and "Nothing to judge by" in alone


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "r.pdf"], "the page is a NAME.html"),
        (["--price_per_hour", "2"], "--price_per_hour 2 needs --out"),
        (["--out", "r.html", "--price_per_hour", "-1"], "must be at least 0"),
        (["--out", "r.html", "--price_per_hour", "nan"], "finite number"),
        (["--out", "{file}/r.html"], "cannot be written"),
        (["{none}"], "does not exist"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    words: list[str], said: str, healthy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"file": healthy / "config.json", "none": healthy / "none"}
    assert main([str(healthy), *(word.format(**places) for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and error.startswith("error: ")


def test_scaled_curves_by_hand() -> None:
    """0 to 100 in steps of 1: the fifth percentile at 0, the ninety-fifth at 1."""
    from generation.record import Series

    series = scaled(Series(list(range(101)), [float(i) for i in range(101)]))
    assert series.values[5] == pytest.approx(0, abs=0.02) and series.values[95] == pytest.approx(1, abs=0.02)
    assert scaled(Series([1, 2], [5.0, 5.0])).values == [0, 0]


def test_pictures_are_small_and_advice_is_marked() -> None:
    from PIL import Image

    noise = torch.randint(
        0, 256, (1500, 1500, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    assert len(embedded(Image.fromarray(noise.numpy()))) < 400_000
    assert marked("--lr 1: <why>") == "<code>--lr 1</code>: &lt;why&gt;" and marked("a: b") == "a: b"
