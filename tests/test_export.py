"""A generator as an ONNX file and as a page in the browser: equal to the network, whole, and asking nobody else."""

import functools
import http.server
import io
import json
import math
import os
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from errors import UserError
from generation import load_generator
from generation.onnx_file import TOLERANCE, Graph, sampling_graph, translating_graph, write_onnx
from generation.translator import Translator
from images.cache import APP, default_cache_dir
from modelling import MODELS, build_generator
from tests.browser import Browser, find_chromium
from tests.running import SMALL
from tests.test_tools import export, refused
from tools import export as tool
from tools import static_page
from tools.static_page import ASSETS, ORT_FILES, PAGE, cached_ort, ort_files

Z_DIM = 12
# One of each mechanism in the quick suite; an export takes seconds.
QUICK = {("simple_cnn", 3), ("sagan", 0), ("stylegan2", 3), ("pix2pix", 0), ("srgan", 0)}
CASES = [(name, n) for name, row in MODELS.items() for n in ((0, 3) if row.conditions_g else (0,))]


def about_of(model: str, n_labels: int = 0, multi_hot: bool = False) -> dict[str, Any]:
    """What load_generator tells of an untrained one."""
    names = [f"label {i}" for i in range(n_labels)]
    told = {"model": model, "step": 7, "chosen": "ema", "batch_norm": "none", "dataset": "images"}
    return told | {
        "n_labels": n_labels,
        "multi_hot": multi_hot,
        "label_names": names,
        "styles": model in MODELS and MODELS[model].styles,
    }


def perturbed(G: nn.Module) -> nn.Module:
    """In eval mode, with parameters and running means that are none of the initial ones."""
    torch.manual_seed(1)
    for tensor in (
        *G.parameters(),
        *(b for name, b in G.named_buffers() if name.endswith(("mean", "w_avg"))),
    ):
        tensor.data.add_(0.1 * torch.randn_like(tensor))
    return G.requires_grad_(False).eval()


def run(file: Path, **given: Tensor) -> np.ndarray:
    """The image of a file."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(["image"], {name: x.numpy() for name, x in given.items()})[0]


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "n_labels"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_files_make_what_networks_make(model: str, n_labels: int, tmp_path: Path) -> None:
    """Of any batch: classes given as rows, truncation as a number, pictures of other sizes."""
    row, file, settings = MODELS[model], tmp_path / "G.onnx", SMALL[model][0]
    if not row.latents:
        G = perturbed(row.Generator(img_size=32, img_channels=3, **settings))
        graph = translating_graph(Translator({"AtoB": G}, about_of(model)))
        assert write_onnx(graph, file) <= TOLERANCE
        assert graph.card["dynamic"] is True
        x = torch.rand(2, 3, 64, 96) * 2 - 1
        expected = G(x).clamp(-1, 1)
        np.testing.assert_allclose(run(file, x=x), expected, atol=TOLERANCE)
        return
    size = {"img_size": 16 if row.styles else 32, "img_channels": 3}
    G = perturbed(build_generator(model, **size, z_dim=Z_DIM, n_labels=n_labels, **settings))
    assert write_onnx(sampling_graph(G, about_of(model, n_labels)), file) <= TOLERANCE
    z, y = torch.randn(7, Z_DIM), torch.arange(7) % 3
    given = {"z": z} | ({"y": torch.eye(3)[y]} if n_labels else {})
    how = {}
    if row.styles:
        how, given["truncation"] = {"truncation": 0.4}, torch.tensor([0.4])
    expected = G(z, y if n_labels else None, **how).clamp(-1, 1)
    np.testing.assert_allclose(run(file, **given), expected, atol=TOLERANCE)
    assert expected.std() > 0.01  # else anything would be equal


def test_files_say_what_they_are_of(tmp_path: Path) -> None:
    G = perturbed(build_generator("mlp", img_size=(4, 8), img_channels=5, z_dim=3, width=4))
    about = about_of("mlp") | {"label_names": []}
    write_onnx(sampling_graph(G, about, license="CC0-1.0", truncation=0.5), tmp_path / "G.onnx")
    model = onnx.load(tmp_path / "G.onnx")
    found = {entry.key: entry.value for entry in model.metadata_props}
    told = {
        "model": "mlp",
        "step": "7",
        "weights": "ema",
        "img_size": "4x8",
        "img_channels": "5",
        "z_dim": "3",
    }
    assert found.items() >= (told | {"license": "CC0-1.0", "truncation": "0.5", "kind": "images"}).items()
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input]
    assert shapes == [["N", 3]] and [v.name for v in model.graph.output] == ["image"]
    assert model.opset_import[0].version == int(found["opset"]) == 18


class Reads(nn.Module):
    """A user's own: its way depends on the latents."""

    img_size, img_channels, z_dim = 2, 1, 3

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """(N, 1, 2, 2)."""
        x = self.layer(z)
        return (x if x.sum().item() > 0 else -x).view(-1, 1, 2, 2)


def test_a_network_that_cannot_be_traced_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="own.py cannot be written as ONNX: ") as caught:
        write_onnx(sampling_graph(Reads(), about_of("own.py")), tmp_path / "G.onnx")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


class Classes(nn.Module):
    """A user's own that takes class indices alone."""

    img_size, img_channels, z_dim = 2, 1, 3

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 4)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """(N, 1, 2, 2)."""
        assert y is not None and y.dim() == 1
        return (self.table(y) + z.sum(1, keepdim=True)).view(-1, 1, 2, 2)


def test_own_networks_of_classes_get_indices() -> None:
    G = Classes()
    about = about_of("own.py", 4) | {"model_file": {"name": "own.py", "sha256": "0" * 64}}
    graph, z = sampling_graph(G, about), torch.zeros(3, 3)
    y = torch.tensor([2, 0, 3])
    torch.testing.assert_close(graph.network(z, torch.eye(4)[y]), G(z, y).clamp(-1, 1))


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it replace the one that stands there."""
    G = perturbed(build_generator("mlp", img_size=4, img_channels=1, z_dim=3, width=4))
    graph = sampling_graph(G, about_of("mlp"))
    file = tmp_path / "G.onnx"
    file.write_bytes(b"before")
    monkeypatch.setattr(Graph, "example", lambda graph, n, *_, **__: {"z": torch.full((n, 3), math.nan)})
    with pytest.raises(UserError, match="differ from the generator's by nan"):
        write_onnx(graph, file)
    assert file.read_bytes() == b"before" and list(tmp_path.iterdir()) == [file]


def test_what_no_file_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    G = build_generator("mlp", img_size=4, img_channels=1, z_dim=3, width=4)
    monkeypatch.setattr("generation.onnx_file.LARGEST", 100)
    with pytest.raises(UserError, match="less than 2 GiB"):
        write_onnx(sampling_graph(G, about_of("mlp")), tmp_path / "G.onnx")


def test_points_are_not_clamped() -> None:
    G = build_generator("mlp", img_size=1, img_channels=2, z_dim=2, width=2)
    G.forward = lambda z, y: 3 * z
    for dataset, kind, expected in (("ring8", "points", [3, 3]), ("images", "images", [1, 1])):
        graph = sampling_graph(G, about_of("mlp") | {"dataset": dataset})
        assert graph.card["kind"] == kind and graph.network(torch.ones(1, 2)).tolist() == [expected]


# -- the command -----------------------------------------------------------------------------------


def package(folder: Path) -> Path:
    """What stands for onnxruntime-web, unpacked."""
    (folder / "dist").mkdir(parents=True)
    for name in (*ORT_FILES, "ort.webgpu.js"):
        (folder / "dist" / name).write_text(f"// {name}")
    return folder


def packed(folder: Path) -> Path:
    """The same as npm has it."""
    file = folder / "onnxruntime-web.tgz"
    with tarfile.open(file, "w:gz") as archive:
        archive.add(package(folder / "unpacked"), "package")
    return file


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of classes, one of attributes, one of a model without either."""
    folder = tmp_path_factory.mktemp("runs")
    export(folder / "classes", 10, tuple("0123456789"))
    export(folder / "attributes", 3, ("Bald", "Smiling", "Young"), multi_hot=True, model="mlp")
    export(folder / "plain", model="mlp")
    return folder


@pytest.fixture(scope="module")
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the run of classes, and its file beside it."""
    folder = tmp_path_factory.mktemp("page")
    argv = [str(runs / "classes"), "--page", str(folder / "site"), "--ort", str(packed(folder))]
    assert tool.main([*argv, "--license", "mit"]) == 0
    return folder / "site"


def test_a_page_is_whole_and_asks_nobody_else(page: Path) -> None:
    names = {file.relative_to(page).as_posix() for file in page.rglob("*") if file.is_file()}
    assert names == {*PAGE, "model.json", "model.onnx", *(f"ort/{name}" for name in (*ORT_FILES, "LICENSE"))}
    html, style, script = ((page / name).read_text(encoding="utf-8") for name in PAGE)
    named = set(re.findall(r'\$\("([\w-]+)"\)', script)) | set(re.findall(r'seedOf\("([\w-]+)"\)', script))
    assert len(named) > 20 and named <= set(re.findall(r'id="([\w-]+)"', html))
    for found in re.findall(r'(?:src|href)="([^"]+)"', html):
        assert found.startswith("data:") or found in names
    assert "default-src 'self'" in html
    for text in (html, script, style):
        assert not re.findall(r"https?://(?!localhost)", text)
    assert "Microsoft" in (page / "ort" / "LICENSE").read_text()


def test_a_page_knows_its_model(page: Path) -> None:
    about = json.loads((page / "model.json").read_text(encoding="utf-8"))
    assert about["size"] == [16, 16] and about["inputs"] == {"z": [9], "y": [10]}
    assert about["label_names"] == list("0123456789") and about["kind"] == "images"
    assert [(m["file"], m["bytes"]) for m in about["models"]] == [
        ("model.onnx", (page / "model.onnx").stat().st_size)
    ]
    assert "weights: mit" in about["footer"]


def test_pages_of_attributes_have_their_examples(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def written(graph: Graph, file: Path) -> float:
        graph.card["opset"] = 18
        file.write_bytes(b"onnx")
        return 1e-7

    monkeypatch.setattr(static_page, "write_onnx", written)
    site = tmp_path / "site"
    argv = [runs / "attributes", "--page", site, "--ort", package(tmp_path / "ort"), "--truncation", "0.5"]
    assert tool.main([str(word) for word in argv]) == 0
    about = json.loads((site / "model.json").read_text(encoding="utf-8"))
    assert about["truncation"] == 0.5 and about["multi_hot"] and about["label_names"][1] == "Smiling"
    assert len(about["label_examples"]) == 200 and {len(row) for row in about["label_examples"]} == {3}
    assert "z (N, 9), y (N, 3)" in capsys.readouterr().out
    assert "not empty" in refused(capsys, tool.main, *argv)
    assert tool.main([*map(str, argv), "--overwrite"]) == 0


def test_mistakes_are_told_in_one_line(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there.onnx"
    there.write_bytes(b"")
    plain, ok = runs / "plain", tmp_path / "G.onnx"
    for argv, expected in (
        ((plain,), "give --onnx FILE.onnx or --page DIR"),
        ((plain, "--onnx", tmp_path / "G.pt"), "ends in .onnx"),
        ((plain, "--onnx", there), "exists"),
        ((plain, "--page", there), "is no folder"),
        ((plain, "--onnx", ok, "--ort", tmp_path), "are for --page"),
        ((plain, "--page", tmp_path / "p", "--ort", tmp_path / "none"), "does not exist"),
        ((plain, "--page", tmp_path / "p", "--ort", runs), "does not hold ort.wasm.min.js"),
        ((plain, "--onnx", ok, "--direction", "AtoB"), "makes pictures of noise"),
        ((plain, "--onnx", ok, "--truncation", "0.001"), "at least 0.01"),
        ((plain, "--onnx", ok, "--truncation_layers", "2"), "needs --truncation"),
        ((plain, "--onnx", ok, "--license", "none"), "invalid choice"),
        ((tmp_path, "--onnx", ok), "is no run"),
        ((plain, "--onnx", there / "G.onnx"), "File exists"),
    ):
        assert expected in refused(capsys, tool.main, *argv), argv
    monkeypatch.setattr("generation.onnx_file.PACKAGES", ("onnx", "no_such_package"))
    line = refused(capsys, tool.main, plain, "--onnx", ok)
    assert "needs no_such_package" in line and "pip install -r requirements-extras.txt" in line
    assert list(tmp_path.iterdir()) == [there]


# -- onnxruntime-web -------------------------------------------------------------------------------


def test_the_runtime_is_downloaded_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(tmp_path).read_bytes()
    asked = []

    def answer(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(data)

    monkeypatch.setattr(static_page, "urllib", SimpleNamespace(request=SimpleNamespace(urlopen=answer)))
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match="its sha512 is not.*ort FILE"):
        ort_files(None, str(cache))
    assert not list(cache.iterdir())  # nor anything unfinished
    monkeypatch.setattr(static_page, "ORT_SHA512", static_page._sha512(data))
    assert (
        ort_files(None, str(cache))
        == ort_files(None, str(cache))
        == ort_files(str(tmp_path / "unpacked"), None)
    )
    assert len(asked) == 2 and asked[0].endswith(f"/onnxruntime-web-{static_page.ORT_VERSION}.tgz")
    cached_ort(cache).write_bytes(b"spoilt")
    assert ort_files(None, str(cache))[ORT_FILES[0]] == b"// ort.wasm.min.js" and len(asked) == 3


def test_without_a_network_it_says_what_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str, timeout: float) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(static_page, "urllib", SimpleNamespace(request=SimpleNamespace(urlopen=offline)))
    with pytest.raises(
        UserError, match=r"no route to host\): get https://registry.npmjs.org/.*with ort FILE"
    ) as caught:
        ort_files(None, str(tmp_path))
    assert "\n" not in str(caught.value)


# -- in the browser --------------------------------------------------------------------------------


def bits(seed: int) -> Iterator[int]:
    """The page's generator of 32 random bits, in whole numbers."""
    mask = 2**32 - 1
    a, b, c, count = seed & mask, 0, 0x9E3779B9, 1
    for i in range(10**9):
        total = (a + b + count) & mask
        count = (count + 1) & mask
        a, b, c = b ^ b >> 9, (c + (c << 3)) & mask, ((c << 21 | c >> 11) + total) & mask
        if i >= 15:
            yield total


def normals(seed: int, n: int) -> list[float]:
    """What the page draws, but for its logarithm."""
    source, found = bits(seed), []
    while len(found) < n:
        u, v = ((next(source) + 0.5) / 2**31 - 1 for _ in range(2))
        if (s := u * u + v * v) < 1:
            scale = math.sqrt(-2 * math.log(s) / s)
            found += [u * scale, v * scale]
    return found[:n]


def test_draws_of_the_page_are_normal() -> None:
    x = np.sort(np.concatenate([normals(seed, 256) for seed in range(200)]))
    expected = torch.special.ndtr(torch.from_numpy(x)).numpy()
    distance = np.abs(expected - (np.arange(len(x)) + 0.5) / len(x)).max()  # Kolmogorov-Smirnov
    assert distance < 1.63 / math.sqrt(len(x))  # at 1 %
    neighbours = np.corrcoef([normals(seed, 256) for seed in range(60)])
    assert np.abs(neighbours - np.eye(60)).max() < 0.3


def runtime_at_hand() -> str | None:
    """onnxruntime-web as the environment names it, or as a page has cached it for the user."""
    file = cached_ort(Path.home() / ".cache" / APP)
    return os.environ.get("ONNXRUNTIME_WEB") or (str(file) if file.is_file() else None)


@pytest.mark.skipif(
    find_chromium() is None or runtime_at_hand() is None, reason="no Chromium, or no onnxruntime-web"
)
def test_the_page_makes_the_generators_images(page: Path, runs: Path, tmp_path: Path) -> None:
    """In a browser: the latents of a seed, the images of latents and class, and no request but to its own server."""
    for name, data in ort_files(runtime_at_hand(), None).items():
        (page / "ort" / name).write_bytes(data)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=page))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    try:
        with Browser(390, 844) as browser:
            browser.go(address)
            browser.wait(
                "document.body && (document.body.dataset.ready || document.querySelector('.failed'))"
            )
            assert "16 images in" in browser.run("document.getElementById('status').textContent")
            assert all(url.startswith((address, "data:", "blob:")) for url in browser.requested())
            z = browser.run("Array.from(latent(4294967295))")
            browser.run("document.getElementById('class').value = '3'")
            image = browser.run("images([latent(5)], [labelRow(5)]).then(([x]) => Array.from(x.data))")
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    finally:
        server.shutdown()
        server.server_close()
    assert z == np.float32(normals(2**32 - 1, 9)).tolist()
    G, _ = load_generator(runs / "classes")
    expected = G(torch.tensor([normals(5, 9)]), torch.tensor([3]))
    np.testing.assert_allclose(image, expected.flatten(), atol=TOLERANCE)


def test_the_page_is_the_toolkits_own() -> None:
    assert (
        all((ASSETS / name).is_file() for name in (*PAGE, static_page.LICENSE))
        and default_cache_dir().name == APP
    )
