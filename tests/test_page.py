"""The page: what can be asked of a generator and what is refused, the server, and how it looks to a browser."""

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from errors import UserError
from generation import load_generator, sample
from generation.codes import images_from, read_codes
from generation.exploring import FPS, MAX_SIDE, N_FRAMES, N_POINTS, Explorer, TranslatorExplorer
from generation.latents import latents
from generation.translator import Translator
from tests.browser import Browser, find_chromium
from tests.running import ROOT, cheap
from tests.test_tools import export, refused
from tests.test_translator import Tiny
from tools import demo
from tools.app import _plain, described, opened_for_page
from tools.tabs import gradio


class Plane(nn.Module):
    """Points that are their latents, twice as far along the first axis."""

    z_dim, img_size, img_channels = 2, 1, 2

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False).requires_grad_(False)
        self.layer.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (n, 2) -> (n, 2, 1, 1)."""
        return self.layer(z)[:, :, None, None]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain generator, one of classes, one of attributes, one with styles."""
    folder = tmp_path_factory.mktemp("runs")
    with cheap():
        export(folder / "plain")
        export(folder / "classes", 10, tuple("abcdefghij"))
        export(folder / "attributes", 3, ("Bald", "Smiling", "Young"), multi_hot=True)
        export(folder / "styles", model="stylegan2")
    return folder


@pytest.fixture(scope="module")
def explorers(runs: Path) -> dict[str, Explorer]:
    """One of each, and one of points."""
    about = {"model": "plane", "dataset": "ring8", "n_labels": 0, "multi_hot": False, "label_names": [],
             "styles": False, "seed": 0, "step": 1, "chosen": "raw", "img_size": 1}  # fmt: skip
    found = {
        name: Explorer(*load_generator(runs / name)) for name in ("plain", "classes", "attributes", "styles")
    }
    return found | {"points": Explorer(Plane().eval(), about)}


def translator(**settings: Any) -> TranslatorExplorer:
    """Of one direction."""
    torch.manual_seed(0)
    G = Tiny(img_size=16, img_channels=3, **settings).eval()
    return TranslatorExplorer(Translator({"AtoB": G}, {"model": "tiny"}))


def to_bytes(x: Tensor) -> Tensor:
    """[-1, 1] -> 0 .. 255, not rounded."""
    return ((x + 1) * 127.5).clamp(0, 255)


# -- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "page", "python"),
    [
        ("plain", {}, {}),
        ("plain", {"truncation": 0.5}, {"truncation": 0.5}),
        ("classes", {}, {}),
        ("classes", {"label": "c"}, {"label": "c"}),
        ("attributes", {"present": ["Bald"], "absent": ["Young"]}, {"attributes": ["Bald", "-Young"]}),
        ("styles", {"truncation": 0.3}, {"truncation": 0.3}),
    ],
)
def test_samples_are_those_of_python_and_the_commands(explorers, name: str, page: dict, python: dict) -> None:
    source = explorers[name]
    wanted = sample(source.G, source.about, 5, 3, **python)
    assert torch.equal(source.samples(5, 3, **page), wanted)


@pytest.mark.parametrize("name", ["plain", "classes", "attributes", "styles"])
def test_ways_begin_and_end_at_the_first_images_of_their_seeds(explorers, name: str) -> None:
    source = explorers[name]
    labels = {"label": "b"} if name == "classes" else {"present": ["Bald", "Young"], "absent": ["Smiling"]}
    labels = labels if source.about["n_labels"] else {}
    ends = [source.samples(1, seed, **labels) for seed in (4, 5)]
    found = source.between((4, 5), (0, 0.5, 1), **labels)
    assert torch.equal(found[0], ends[0]) and torch.equal(found[2], ends[1])
    assert not torch.equal(found[1], ends[0]) and not torch.equal(found[1], ends[1])


def test_ways_of_latents_are_arcs(explorers) -> None:
    """Halfway along the arc from a to b (a + b) / (2 cos(angle / 2)) stands."""
    a, b = (latents(seed, 0, N_POINTS, 2).double() for seed in (0, 1))
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    (found,) = explorers["points"].between((0, 1), (0.5,))
    wanted = (a + b) / (2 * ((1 + cosine) / 2).sqrt())[:, None]
    near = cosine.abs() < 0.99
    wanted = wanted * torch.tensor([2.0, 1.0])
    torch.testing.assert_close(found[near].double(), wanted[near], rtol=1e-4, atol=1e-4)


def test_ways_of_styles_are_straight(explorers) -> None:
    source = explorers["styles"]
    with torch.inference_mode():
        a, b = (source.G.styles(latents(seed, 0, 1, source.G.z_dim)) for seed in (4, 5))
        wanted = source.G.synthesis(0.75 * a + 0.25 * b)
    (found,) = source.between((4, 5), (0.25,))
    assert (to_bytes(wanted) - found).abs().max() <= 0.51


def test_styles_are_mixed_by_layers(explorers) -> None:
    source, n = explorers["styles"], explorers["styles"].G.n_layers
    own, other = source.samples(1, 4), source.samples(1, 5)
    assert torch.equal(source.mixed((4, 5), 2, 2), own)
    assert torch.equal(source.mixed((4, 5), 0, n), other)
    assert not torch.equal(source.mixed((4, 5), 0, 2), own)
    with pytest.raises(UserError, match="no styles"):
        explorers["plain"].mixed((4, 5), 0, 1)


def test_moving_goes_along_the_directions_by_their_strengths(explorers) -> None:
    source = explorers["points"]
    assert torch.equal(source.moved(3, [0, 0]), source.between((3, 4), (0,))[0])
    # the first axis is the one along which points move most
    wanted = torch.tensor([2.0, 1.0]) * (latents(3, 0, N_POINTS, 2) + torch.tensor([1.5, -2.0]))
    torch.testing.assert_close(source.moved(3, [1.5, -2]), wanted)
    styled = explorers["styles"]
    assert torch.equal(styled.moved(3, [0.0] * 5), styled.samples(1, 3))
    assert not torch.equal(styled.moved(3, [3.0, 0, 0, 0, 0]), styled.samples(1, 3))


@pytest.mark.parametrize("name", ["plain", "classes", "attributes", "styles"])
def test_saved_latents_draw_the_same_images(explorers, tmp_path: Path, name: str) -> None:
    source = explorers[name]
    asked = {"truncation": 0.6} if name == "styles" else {}
    (tmp_path / "codes.npz").write_bytes(source.codes(3, 7, **asked))
    read = read_codes(tmp_path / "codes.npz", source.G, source.about)
    with torch.inference_mode():
        found = images_from(source.G, read)
    assert (to_bytes(found) - source.samples(3, 7, **asked)).abs().max() <= 0.51


def test_a_walk_is_an_animation_from_a_to_b_and_back(explorers) -> None:
    source = explorers["plain"]
    frames, ends = [], []
    with Image.open(io.BytesIO(source.walk((4, 5)))) as found:
        assert found.format == "WEBP" and found.info["loop"] == 0
        for i in range(found.n_frames):  # equal neighbours are one
            found.seek(i)
            frames.append(np.asarray(found.convert("L"), float))
            ends.append(found.info["timestamp"] + found.info["duration"])
    assert ends[-1] == 1000 * N_FRAMES / FPS
    middle = next(i for i, end in enumerate(ends) if end > ends[-1] / 2)
    a, b = (np.asarray(source.picture(source.samples(1, seed)).convert("L"), float) for seed in (4, 5))
    for i, wanted in ((0, a), (middle, b), (-1, a)):  # WebP loses a little
        assert np.abs(frames[i] - wanted).mean() < np.abs(a - b).mean() / 3


def test_pictures_are_grids_or_scatter_plots(explorers) -> None:
    assert explorers["plain"].picture(torch.zeros(9, 1, 4, 4, dtype=torch.uint8)).size == (20, 20)
    turns = torch.zeros(20, 1, 4, 4, dtype=torch.uint8)
    assert explorers["classes"].picture(turns).size == (2 + 10 * 6, 2 + 2 * 6)
    assert explorers["classes"].picture(turns, "c").size == (2 + 5 * 6, 2 + 4 * 6)
    assert explorers["points"].picture(torch.zeros(5, 2)).size == (320, 320)


def test_copies_for_thresholds_are_few(explorers) -> None:
    source = explorers["plain"]
    for threshold in (0.5, 1, 1.5, 2, 2.5, 3):
        source.samples(1, 0, truncation=threshold)
    assert len(source._truncated) == 4


def test_translations_are_of_bounded_size() -> None:
    source = translator(factor=2)
    picture = Image.effect_noise((60, 30), 80)
    found = source.translated(picture, side=20)
    assert found.size == (40, 20) and found.mode == "RGB"
    assert source.translated(picture.convert("RGBA")).size == (120, 60)
    assert source.most() == MAX_SIDE // 2
    x = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    assert (
        np.asarray(source.translated(picture)) == source.translator.translate([x])[0].permute(1, 2, 0).numpy()
    ).all()


# -- what is refused -------------------------------------------------------------------------------------------------

BAD_SEEDS = (-1, 2**31, 0.5, float("nan"), float("inf"), "0", None, True, [0], {})


@pytest.mark.parametrize("seed", BAD_SEEDS)
def test_seeds_that_are_none_are_refused(explorers, seed: object) -> None:
    source = explorers["styles"]
    for ask in (
        lambda: source.samples(1, seed),
        lambda: source.codes(1, seed),
        lambda: source.between((0, seed), (0.5,)),
        lambda: source.mixed((seed, 0), 0, 1),
        lambda: source.moved(seed, [0.0] * 5),
        lambda: source.walk((seed, 0)),
        lambda: translator().translated(Image.new("L", (16, 16)), seed=seed),
    ):
        with pytest.raises(UserError, match="seed"):
            ask()


@pytest.mark.parametrize(
    ("name", "ask", "reason"),
    [
        ("plain", lambda s: s.samples(65), "n 65: give a whole number from 1 to 64"),
        ("plain", lambda s: s.samples(0), "n 0"),
        ("plain", lambda s: s.samples(10**30), "n 1000"),
        ("plain", lambda s: s.samples("/etc/passwd"), "n /etc/passwd"),
        ("plain", lambda s: s.samples(1, 0, truncation=float("nan")), "truncation nan"),
        ("plain", lambda s: s.samples(1, 0, truncation=0.001), "at least 0.01"),
        ("plain", lambda s: s.samples(1, 0, truncation=1e9), "truncation"),
        ("plain", lambda s: s.samples(1, 0, label="3"), "without --?conditional|without conditional"),
        ("classes", lambda s: s.samples(1, 0, label="zebra"), "class zebra"),
        ("classes", lambda s: s.samples(1, 0, label=["a"]), "class"),
        ("attributes", lambda s: s.samples(1, 0, present="Bald"), "list of names"),
        ("attributes", lambda s: s.samples(1, 0, present=["Beard"]), "Beard"),
        ("attributes", lambda s: s.samples(1, 0, present=["Bald"], absent=["Bald"]), "twice"),
        ("plain", lambda s: s.between((0, 1), (1.5,)), "share 1.5"),
        ("styles", lambda s: s.mixed((0, 1), 3, 1), "end of the layers"),
        ("styles", lambda s: s.mixed((0, 1), 0, 99), "end of the layers"),
        ("styles", lambda s: s.moved(0, [11.0, 0, 0, 0, 0]), "strength 11"),
        ("styles", lambda s: s.moved(0, [0.0] * 1000), "1000 strengths"),
        ("points", lambda s: s.samples(N_POINTS + 1), "n 1001"),
    ],
)
def test_requests_out_of_bounds_are_refused(explorers, name: str, ask: Callable, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        ask(explorers[name])


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"side": MAX_SIDE + 1}, "side"),
        ({"side": 0}, "side"),
        ({"direction": "../../x"}, "direction"),
        ({"picture": None}, "choose a picture"),
        ({"picture": "/etc/passwd"}, "choose a picture"),
    ],
)
def test_translations_out_of_bounds_are_refused(asked: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        translator().translated(**{"picture": Image.new("L", (16, 16))} | asked)


def test_pictures_of_more_channels_than_files_hold_are_refused() -> None:
    with pytest.raises(UserError, match="5 channels"):
        translator(source_channels=5)


def test_a_missing_gradio_is_one_line(runs: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install -r requirements-extras.txt" in refused(capsys, demo.main, runs / "plain")
    with pytest.raises(UserError, match="pip install"):
        gradio()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--port", "65536"], "--port 65536"),
        (["--port", "0"], "--port"),
        (["--host", "no such host"], "--host no such host"),
        (["--weights", "best"], "--weights best"),
    ],
)
def test_bad_places_are_one_line(runs: Path, capsys, monkeypatch, flags: list[str], reason: str) -> None:
    monkeypatch.setitem(sys.modules, "gradio", sys)  # whatever it is, it is not reached
    assert reason in refused(capsys, demo.main, runs / "plain", *flags)


def test_a_port_in_use_gives_way_to_the_next(capsys) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        with demo.listening("127.0.0.1", port) as found:
            taken = found.getsockname()[1]
            assert port < taken <= port + 20
            assert f"port {port} is in use: taking {taken}" in capsys.readouterr().out
            assert demo.address(found) == f"http://127.0.0.1:{taken}"


def test_what_is_known_of_a_generator_is_said(explorers) -> None:
    about = explorers["styles"].about | {"img_size": [16, 24], "step": 12000}
    assert described(about) == "stylegan2 · 16x24 px · trained on digits · step 12,000 · ema weights"
    assert _plain('Anna\'s <b> *A* & "B"') == 'Anna\'s &lt;b&gt; \\*A\\* &amp; "B"'


@pytest.mark.parametrize("uploads", [False, True])
def test_files_are_taken_only_where_they_are_wanted(uploads: bool) -> None:
    sent: list[dict] = []

    async def app(scope: dict, receive: object, send: Callable) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(demo.Guarded(app, uploads)({"type": "http", "path": "/gradio_api/upload"}, None, send))
    assert sent[0]["status"] == (200 if uploads else 404)
    assert "default-src 'self'" in dict(sent[0]["headers"])[b"content-security-policy"].decode()


# -- the server ------------------------------------------------------------------------------------------------------


class Served(NamedTuple):
    """A running tools.demo."""

    url: str
    process: subprocess.Popen
    folder: Path  # of its temporary files


@pytest.fixture(scope="module")
def served(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page of the generator with styles, at a free port; it ends as by Ctrl-C, cleanly."""
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("temporary")
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.demo", str(runs / "styles"), "--port", str(port), "--device", "cpu"],
        cwd=ROOT, env=os.environ | {"TMPDIR": str(folder)}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        found = re.match(r"open (http://127\.0\.0\.1:\d+) ", line)
        assert found, line + process.communicate()[1]
        yield Served(found[1], process, folder)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
        # before it, Gradio's own complaints of requests that were none
        assert process.returncode == 130 and errors.endswith("stopped by SIGINT\n")
        assert not list(folder.glob("gan-page-*"))
    finally:
        process.kill()
        process.wait()


def fetched(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    """Status and body."""
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def called(url: str, name: str, *asked: object) -> tuple[str, Any]:
    """("complete" or "error", what a handler gave) through the server."""
    _, body = fetched(f"{url}/gradio_api/call/{name}", json.dumps({"data": asked}).encode())
    _, stream = fetched(f"{url}/gradio_api/call/{name}/{json.loads(body)['event_id']}")
    *_, event, data = stream.decode().strip().split("\n")
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_samples_come_through_the_server(served: Served, explorers) -> None:
    kind, found = called(served.url, "sample", 4, 9, 0.5)
    assert kind == "complete"
    source = explorers["styles"]
    wanted = source.picture(source.samples(4, 9, truncation=0.5))
    with Image.open(io.BytesIO(fetched(found[0]["url"])[1])) as picture:
        assert picture.format == "PNG" and (np.asarray(picture) == np.asarray(wanted)).all()


@pytest.mark.parametrize("asked", [(65, 0, 1), (4, -1, 1), (4, 0, 99), ("/etc/passwd", 0, 1), (4, {}, 1)])
def test_bad_requests_draw_nothing(served: Served, asked: tuple) -> None:
    assert called(served.url, "sample", *asked)[0] == "error"


def test_no_file_is_served_or_taken(served: Served) -> None:
    for path in ("/etc/passwd", "README.md", str(ROOT / "README.md"), "..%2f..%2fetc%2fpasswd"):
        for place in ("gradio_api/file=", "file=", "gradio_api/file/", "static/"):
            status, body = fetched(f"{served.url}/{place}{path}")
            assert status >= 400 and b"root:" not in body
    assert fetched(f"{served.url}/gradio_api/upload", b"x")[0] == 404
    kind, _ = called(served.url, "sample", {"path": "/etc/passwd"}, 0, 1)
    assert kind == "error"


@pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_from_this_machine_alone(served: Served, width: int) -> None:
    with Browser(width, 900) as browser:
        browser.go(served.url)
        browser.wait("document.querySelector('.picture img')?.naturalWidth > 0", 120)
        assert browser.run("document.documentElement.scrollWidth") == width
        before = browser.run("document.querySelector('.picture img').src")
        browser.run(
            "[...document.querySelectorAll('button')].find(b => b.textContent.trim() == 'New seed').click()"
        )
        browser.wait(f"document.querySelector('.picture img').src != {json.dumps(before)}", 120)
        local = (served.url, "data:", "blob:")
        assert [url for url in browser.requested() if not url.startswith(local)] == []
        entries = [e["params"]["entry"] for e in browser.events if e["method"] == "Log.entryAdded"]
        assert [entry["text"] for entry in entries if entry["level"] == "error"] == []


def test_runs_of_both_kinds_are_opened(runs: Path) -> None:
    assert isinstance(opened_for_page(str(runs / "plain")), Explorer)
