"""Trained image-to-image networks from Python: any size, tiles, seeds, directions, and folders that are spoilt."""

import itertools
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import modelling
from errors import UserError
from generation import load_generator, load_translator
from generation.checkpoint import CheckpointStore
from generation.translator import (
    MEASURED,
    RUNNING,
    Cut,
    cut,
    export_translator,
    faded,
    mirrored_index,
    translate,
    translated,
    translating_copy,
)
from modelling.model import Model
from modelling.sizes import Sides
from modelling.unet import Dropout
from ops.spectral_norm import apply_spectral_norm
from tests.test_tools import export, refused
from tools import translate as tool


class Tiny(nn.Module):
    """Two 3 x 3 convolutions, between them what is asked for; sides are multiples of 4."""

    def __init__(
        self,
        *,
        img_size: int,
        img_channels: int,
        source_channels: int | None = None,
        width: int = 4,
        factor: int = 1,
        norm: bool = False,
        dropout: float = 0,
    ) -> None:
        super().__init__()
        if width < 1:
            raise UserError(f"--width {width} must be a whole number, at least 1")
        self.img_size, self.img_channels, self.factor = img_size, img_channels, factor
        self.source_channels = img_channels if source_channels is None else source_channels
        self.sides = Sides(4, 8)
        self.first = nn.Conv2d(self.source_channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.last = nn.Conv2d(width, img_channels, 3, padding=1)
        self.dropout = Dropout(dropout, sampling=dropout > 0)

    def forward(self, a: Tensor) -> Tensor:
        """Images of `factor` times the size."""
        assert a.shape[2] % 4 == a.shape[3] % 4 == 0 and min(a.shape[2:]) >= 8
        h = self.dropout(F.relu(self.norm(self.first(a))))
        return torch.tanh(self.last(F.interpolate(h, scale_factor=self.factor, mode="nearest")))


def tiny(seed: int = 0, **settings: object) -> Tiny:
    """One in eval mode."""
    torch.manual_seed(seed)
    return Tiny(**{"img_size": 16, "img_channels": 3} | settings).eval()


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> Tensor:
    """uint8 noise (C, h, w)."""
    source = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), generator=source, dtype=torch.uint8)


# -- one picture -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 5])
def test_axes_go_on_by_reflection(length: int) -> None:
    x = torch.arange(length).float()
    found = x[mirrored_index(0, 17, length)]
    expected = x
    while len(expected) < 17:  # torch reflects by less than a length at a time
        room = min(length - 1, 17 - len(expected)) if length > 1 else 0
        if not room:
            expected = x.expand(17)
            break
        expected = F.pad(expected[None, None], (0, min(room, 17 - len(expected))), "reflect")[0, 0]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((300, 512, 256, 256), (512, (0,), 0)),  # continued to what the network takes
        ((5, 512, 4, 8), (8, (0,), 0)),
        ((512, 512, 1, 1), (512, (0,), 0)),
        ((513, 512, 1, 1), (512, (0, 1), 64)),
        ((1280, 512, 1, 1), (512, (0, 384, 768), 64)),
        ((1180, 512, 8, 8), (512, (0, 336, 672), 64)),
        ((700, 512, 256, 256), (512, (0, 256), 128)),  # on the grid of 256
        ((600, 256, 256, 256), (256, (0, 170, 341, 512), 32)),  # which would leave no overlap
        ((640, 300, 4, 12), (300, (0, 168, 340), 38)),
        ((3, 1, 1, 1), (1, (0, 1, 2), 0)),
    ],
)
def test_axes_are_cut_into_tiles(given: tuple[int, ...], expected: tuple) -> None:
    assert cut(*given) == expected


@pytest.mark.parametrize("multiple", [1, 3, 8, 32])
def test_tiles_reach_over_the_axis_and_over_each_other(multiple: int) -> None:
    for tile in (1, 2, 3, 5, 8, 31, 64, 100):
        for length in range(1, 400, 7):
            side, starts, fade = cut(length, tile, multiple, 2 * multiple)
            assert side % multiple == 0 and starts[0] == 0 and length <= starts[-1] + side
            assert starts[-1] + side < length + max(multiple, 2 * multiple - length + 1)
            fades = [(a + side + b - fade) // 2 for a, b in itertools.pairwise(starts)]
            assert all(0 < b - a <= side - 2 * fade for a, b in itertools.pairwise(starts))
            assert all(a + fade <= b for a, b in itertools.pairwise(fades))


def test_overlaps_fade_along_a_line() -> None:
    """Zeros, then ones: tiles of 32, 16 apart: 4 of the first, 8 that rise by eighths, 4 of the second."""
    tiles = [torch.zeros(1, 32), torch.ones(1, 32), torch.zeros(1, 32)]
    found = torch.cat([*faded(tiles, Cut(32, (0, 16, 40), 8), 1)], 1)[0]
    rise = [(i + 0.5) / 8 for i in range(8)]
    assert found.tolist() == [0.0] * 20 + rise + [1.0] * 12 + rise[::-1] + [0.0] * 24


@pytest.mark.parametrize("size", [(16, 24), (13, 9), (1, 1), (3, 30)])
@pytest.mark.parametrize("factor", [1, 2])
def test_pictures_of_any_size(size: tuple[int, int], factor: int) -> None:
    """Those that fit are what the network makes of them; others are continued and cut back."""
    G, x = tiny(factor=factor, source_channels=1), picture(*size, channels=1)
    found = translated(G, x)
    assert found.dtype == torch.uint8 and found.shape == (3, size[0] * factor, size[1] * factor)
    down, right = (max(8, -(-side // 4) * 4) for side in size)
    whole = x[:, mirrored_index(0, down, size[0])][:, :, mirrored_index(0, right, size[1])]
    with torch.no_grad():
        expected = (G(whole[None] / 127.5 - 1)[0].double() * 127.5 + 127.5).round()
    assert torch.equal(found.double(), expected[:, : size[0] * factor, : size[1] * factor])
    torch.testing.assert_close(translated(G, x / 127.5 - 1), found, rtol=0, atol=0)  # as training feeds it


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("size", [(100, 70), (33, 200)])
def test_tiles_leave_no_seam(size: tuple[int, int], factor: int) -> None:
    """A network that sees few neighbours, here and there the same: equal to the whole in one piece, borders too."""
    G, x = tiny(factor=factor), picture(*size)
    whole, parts = translated(G, x, 512), translated(G, x, 32)
    assert torch.equal(whole, parts)


def test_tiles_meet_in_the_mean() -> None:
    """A network that sees the whole tile, its mean: a constant stays one, other pictures change along lines."""

    class Mean(Tiny):
        def forward(self, a: Tensor) -> Tensor:
            return a.mean((2, 3), keepdim=True).expand_as(a)

    G = Mean(img_size=16, img_channels=1).eval()
    x = torch.full((1, 70, 90), 77, dtype=torch.uint8)
    assert torch.equal(translated(G, x, 32), x)
    x = torch.zeros(1, 32, 56, dtype=torch.uint8)
    x[..., 32:] = 200  # tiles 0 .. 31 and 24 .. 55: of means 0 and 150, fading in 26 .. 29
    row = translated(G, x, 32)[0, 5].tolist()
    assert row == [0] * 26 + [19, 56, 94, 131] + [150] * 26


def test_a_translation_is_of_its_picture_seed_and_number_alone() -> None:
    G = tiny(dropout=0.5)
    pictures = [picture(20, 12, seed=i) for i in range(3)]
    before = torch.random.get_rng_state()
    found = translate(G, pictures, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    for i, x in enumerate(pictures):
        assert torch.equal(translate(G, [x], seed=1, first=i)[0], found[i])
    assert not torch.equal(translate(G, pictures[:1], seed=2)[0], found[0])
    assert not torch.equal(translate(G, pictures[:1], seed=1, first=1)[0], found[0])
    found[0][:] = 0  # a tensor like any other


# -- copies ----------------------------------------------------------------------------------------


def test_pictures_that_fit_go_in_batches() -> None:
    """Alike to a level of 255, whatever their number, and in as many calls as batches of 16 take."""
    G, seen = tiny(norm=True), []
    G.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    x = torch.stack([picture(16, 24, 3, seed=i) for i in range(18)])
    together, alone = torch.stack(translate(G, x)), torch.stack(translate(G, list(x)))
    assert seen == [16, 2] + [1] * 18
    assert (together.int() - alone.int()).abs().max() <= 1
    seen.clear()
    translate(G, x, tile=20), translate(tiny(dropout=0.5), x)
    assert max(seen) == 1


def test_copies_have_the_statistics_of_their_sources() -> None:
    G = tiny(norm=True).train()
    batches = [torch.rand(4, 3, 8, 8) * 2 - 1 for _ in range(3)]
    copied = translating_copy(G, {"G": batches})
    h = [G.first(batch) for batch in batches]
    means = torch.stack([x.mean((0, 2, 3)) for x in h]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in h]).mean(0)
    torch.testing.assert_close(copied.norm.running_mean, means)
    torch.testing.assert_close(copied.norm.running_var, variances)
    assert not copied.training and G.training and not any(p.requires_grad for p in copied.parameters())
    assert bool((G.norm.running_mean == 0).all())
    both = nn.ModuleDict({"G_AB": tiny(norm=True), "G_BA": tiny(1, norm=True)})
    copied = translating_copy(both, {"G_AB": batches, "G_BA": batches[:1]})
    torch.testing.assert_close(copied["G_AB"].norm.running_mean, means)
    assert int(copied["G_BA"].norm.num_batches_tracked) == 1
    with pytest.raises(ValueError, match="at least one batch"):
        translating_copy(G)


def test_copies_without_batch_norm_read_nothing_and_iterate_spectral_norms() -> None:
    G = apply_spectral_norm(tiny())
    with torch.no_grad():
        G.first.parametrizations.weight.original.mul_(torch.linspace(1, 3, 4).view(-1, 1, 1, 1))

    def unread() -> object:
        raise AssertionError("read")
        yield

    copied = translating_copy(G.to(memory_format=torch.channels_last), {"G": unread()})
    sigma = torch.linalg.matrix_norm(copied.first.weight.flatten(1), 2)
    torch.testing.assert_close(sigma, torch.ones(()), rtol=1e-3, atol=0)
    assert copied.last.weight.is_contiguous()


# -- runs ------------------------------------------------------------------------------------------


ONE = {"AtoB": {"network": "G", "build": {"img_size": 16, "img_channels": 3, "source_channels": 1}}}
TWO = {
    "AtoB": {"network": "G_AB", "build": {"img_size": 16, "img_channels": 3, "source_channels": 1}},
    "BtoA": {"network": "G_BA", "build": {"img_size": 16, "img_channels": 1, "source_channels": 3}},
}


def networks_of(translates: dict, seed: int) -> nn.Module:
    """What a weight set is of."""
    built = {row["network"]: tiny(seed + i, **row["build"]) for i, row in enumerate(translates.values())}
    return next(iter(built.values())) if len(built) == 1 else nn.ModuleDict(built)


def write_run(run: Path, translates: dict, **about: object) -> Path:
    """A run folder with weights of untrained networks, ema and raw, and a checkpoint of others, of step 3."""
    config = {"model": "pix2pix", "translates": translates, "dataset": "maps", "img_size": 16, "seed": 0}
    sets = {name: networks_of(translates, seed) for seed, name in enumerate(("ema", "raw"))}
    export_translator(run / "generator", config | about, sets, step=7)
    (run / "config.json").write_text("{}")
    held = {name: networks_of(translates, 10 * (seed + 1)) for seed, name in enumerate(sets)}
    raw = held["raw"]
    networks = dict(raw) if isinstance(raw, nn.ModuleDict) else {"G": raw}
    state = {
        "step": 3, "attempt": 0, "optimizers": {}, "task": {}, "loop": {"updates": 1, "last_update": 1, "skipped": 0.0},
        "networks": {name: network.state_dict() for name, network in networks.items()},
        "ema": {"ema": held["ema"].state_dict()}, "data": {"name": "a", "fingerprint": "b"}, "processes": 1,
    }  # fmt: skip
    CheckpointStore(run / "checkpoints").save(state, 3)
    return run


@pytest.fixture(scope="module", autouse=True)
def _known() -> object:
    """A row of MODELS of the networks above."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(modelling.MODELS, "pix2pix", Model(Tiny, Tiny, (), (), latents=False))
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one direction, one of two, and one that makes pictures of noise."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "one", ONE)
    write_run(folder / "two", TWO)
    export(folder / "noise")
    return folder


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize(
    ("weights", "checkpoint", "seed"), [(None, None, 0), ("raw", None, 1), ("ema", 3, 10), ("raw", "3", 20)]
)
def test_networks_of_a_run_are_those_that_it_wrote(
    runs: Path, name: str, weights: str | None, checkpoint: int | str | None, seed: int
) -> None:
    translator = load_translator(runs / name, weights, checkpoint=checkpoint)
    written = networks_of(ONE if name == "one" else TWO, seed)
    assert translator.directions == (("AtoB",) if name == "one" else ("AtoB", "BtoA"))
    assert translator.about["step"] == (7 if checkpoint is None else 3)
    assert translator.about["chosen"] == (weights or "ema") and translator.about["batch_norm"] == "none"
    x = torch.stack([picture(10, 14, 1, seed=i) for i in range(2)])
    found = translator.translate(x)
    expected = translate(written["G_AB"] if name == "two" else written, x)
    assert torch.equal(found, torch.stack(expected))
    as_list = translator.translate([x[0], x[1, :, :5]], "AtoB")
    assert torch.equal(as_list[0], found[0]) and as_list[1].shape == (3, 5, 14)
    if name == "two":
        back = translator.translate(found, "BtoA")
        assert torch.equal(back, torch.stack(translate(written["G_BA"], found)))
    else:
        with pytest.raises(UserError, match="^direction BtoA: this run translates AtoB$"):
            translator.translate(x, "BtoA")
    assert translator.translate(x[:0]).shape == (0, 3, 10, 14)


def test_batch_norm_is_told(tmp_path: Path) -> None:
    with_norm = {"AtoB": {"network": "G", "build": {"img_size": 16, "img_channels": 3, "norm": True}}}
    write_run(tmp_path, with_norm)
    assert load_translator(tmp_path).about["batch_norm"] == MEASURED
    assert load_translator(tmp_path, checkpoint=3).about["batch_norm"] == RUNNING


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(1, 3, 8, 8), r"pictures are uint8 \(C, h, w\), not torch.float32 \(3, 8, 8\)"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), r"not torch.uint8 \(8, 8\)"),
        ([torch.zeros(3, 0, 8, dtype=torch.uint8)], r"not torch.uint8 \(3, 0, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "pictures have 3 channels, G takes 1"),
    ],
)
def test_what_is_no_picture_is_refused(runs: Path, x: Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_translator(runs / "one").translate(x)


def test_loaders_name_each_other(runs: Path) -> None:
    with pytest.raises(UserError) as raised:
        load_generator(runs / "one")
    assert str(raised.value) == (
        f"{runs}/one translates pictures: python -m tools.translate {runs}/one --data FOLDER --out DIR"
    )
    with pytest.raises(UserError) as raised:
        load_translator(runs / "noise")
    assert str(raised.value) == (
        f"{runs}/noise makes pictures of noise: python -m tools.sample {runs}/noise --out grid.png"
    )


BUILD = ONE["AtoB"]["build"]


def built(**build: object) -> dict:
    """A config's entry of one network with these arguments."""
    return {"translates": {"AtoB": {"network": "G", "build": build}}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"translates": {}}, "translates"),
        ({"translates": {"CtoD": ONE["AtoB"]}}, "is damaged .*translates"),
        ({"translates": {"AtoB": {"network": "keys", "build": {}}}}, "network"),
        ({"translates": {"AtoB": {"network": "G"}}}, "build"),
        ({"translates": TWO}, "ema.safetensors is damaged .*G_AB"),
        (built(a={"b": 1}), "build"),
        (built(colour=1), "AtoB.build: no pix2pix can be built: .*"),
        (built(**BUILD | {"width": 0}), "AtoB.build: .*width 0 must be"),
        (built(**BUILD | {"width": 5}), "ema.safetensors is damaged .*shape"),
        (built(**BUILD | {"img_channels": 10**12}), "is damaged|built"),
        ({"model": None}, "is of the model None, which is none of dcgan, "),
        ({"model": "x.py"}, "is of the model x.py, which is none of dcgan, "),
        (
            {"model": "dcgan", **built(img_size=16, img_channels=1, z_dim=8)},
            "networks of dcgan translate no pictures",
        ),
        ({"format": 2}, "newer version"),
    ],
)
def test_spoilt_folders_are_one_line(runs: Path, tmp_path: Path, change: dict, words: str) -> None:
    shutil.copytree(runs / "one" / "generator", tmp_path / "generator")
    file = tmp_path / "generator" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=words) as raised:
        load_translator(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_checkpoint_without_a_network_is_refused(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "one", tmp_path / "run")
    shutil.copytree(runs / "two" / "generator", tmp_path / "run" / "generator", dirs_exist_ok=True)
    with pytest.raises(UserError, match="has no raw weights"):
        load_translator(tmp_path / "run", "raw", checkpoint=3)
    with pytest.raises(UserError, match="is damaged .*G_AB"):
        load_translator(tmp_path / "run", "ema", checkpoint=3)


# -- tools.translate -------------------------------------------------------------------------------


def write_pictures(folder: Path) -> Path:
    """Pictures of several kinds in folders, and two that are none."""
    (folder / "cats" / "old").mkdir(parents=True)
    (folder / "empty.png").write_bytes(b"")
    grey = Image.fromarray(picture(9, 13, 1)[0].numpy())
    grey.save(folder / "a.png")
    grey.save(folder / "a.tif")
    grey.convert("RGB").save(folder / "cats" / "a.BMP")
    Image.fromarray(picture(30, 40).permute(1, 2, 0).numpy()).save(folder / "cats" / "old" / "x.y.png")
    Image.new("LA", (8, 8), (0, 0)).save(folder / "clear.png")
    turned = Image.new("L", (16, 8))
    turned.getexif()[0x0112] = 6  # a quarter turn
    turned.save(folder / "turned.jpg", exif=turned.getexif())
    (folder / "web.jpg").write_bytes(b"<html>")
    (folder / "phone.heic").write_bytes(b"x")
    return folder


def files_in(folder: Path) -> list[str]:
    """Their places, sorted."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def pixels(file: Path) -> Tensor:
    """uint8 (C, h, w) of a picture."""
    values = torch.from_numpy(np.array(Image.open(file)))
    return values[None] if values.dim() == 2 else values.permute(2, 0, 1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder as above."""
    return write_pictures(tmp_path / "photos")


WRITTEN = ["a.png", "a.tif.png", "cats/a.png", "cats/old/x.y.png", "clear.png", "turned.png"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_all_pictures_of_a_path_are_translated(
    runs: Path, photos: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As translate has them, each of its number in the order of names; those that are none are told."""
    data = photos
    if kind == "zip":
        data = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", photos))
    out = tmp_path / "out"
    assert tool.main([str(runs / "one"), "--data", str(data), "--out", str(out), "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "pix2pix, step 7, ema weights, batch norm: none" in said.out
    assert f"wrote 6 pictures to {out}/" in said.out
    unread, *others = said.err.splitlines()
    assert unread.startswith("warning: 1 files in .heic are not read here: ")
    assert others == [
        "warning: empty.png: empty file",
        "warning: web.jpg: a web page saved as an image",
        "warning: 2 of 8 pictures could not be read",
    ]
    assert files_in(out) == WRITTEN
    translator = load_translator(runs / "one")
    sources = {  # in grey, as the network takes them
        "a.png": (0, picture(9, 13, 1)),
        "a.tif.png": (1, picture(9, 13, 1)),
        "cats/a.png": (2, picture(9, 13, 1)),
        "clear.png": (4, torch.full((1, 8, 8), 255, dtype=torch.uint8)),
        "turned.png": (6, torch.zeros(1, 16, 8, dtype=torch.uint8)),
    }
    for name, (number, source) in sources.items():
        expected = translator.translate([source], first=number)[0]
        assert torch.equal(pixels(out / name), expected), name
    assert pixels(out / "cats/old/x.y.png").shape == (3, 30, 40)


def test_names_that_are_taken_are_told_apart() -> None:
    stems = tool.Stems()
    names = ["a.png", "A.jpg", "a.tif", "b/a.png", "a.tif", "a.tif", "no"]
    assert [stems.of(name) for name in names] == ["a", "A.jpg", "a.tif", "b/a", "a.tif_2", "a.tif_3", "no"]


def test_flags_of_the_command(runs: Path, tmp_path: Path) -> None:
    x = picture(24, 40)
    Image.fromarray(x.permute(1, 2, 0).numpy()).save(tmp_path / "x.png")
    translator = load_translator(runs / "two", "raw", checkpoint=3)

    def written(*flags: object) -> Tensor:
        argv = [runs / "two", "--data", tmp_path / "x.png", "--out", tmp_path / "out", "--overwrite"]
        argv += ["--weights", "raw", "--checkpoint", "3", "--direction", "BtoA", "--device", "cpu", *flags]
        assert tool.main([str(word) for word in argv]) == 0
        return pixels(tmp_path / "out" / "x.png")

    found = written()
    assert torch.equal(found, translator.translate([x], "BtoA")[0]) and found.shape == (1, 24, 40)
    tiled = written("--tile", "16")
    assert torch.equal(tiled, translator.translate([x], "BtoA", tile=16)[0])
    both = written("--side_by_side")
    assert torch.equal(both[:, :, :40], x) and torch.equal(both[:, :, 40:], found.expand(3, -1, -1))
    assert written("--scale_to", "12").shape == (1, 12, 20)
    assert not list((tmp_path / "out").glob("tmp-*"))


def test_larger_pictures_and_arrays(tmp_path: Path) -> None:
    """A network of factor 2 whose pictures have 5 channels, which no PNG holds."""
    write_run(
        tmp_path / "run", {"AtoB": {"network": "G", "build": {**BUILD, "factor": 2, "img_channels": 5}}}
    )
    x = picture(9, 13, 1)
    Image.fromarray(x[0].numpy()).save(tmp_path / "x.png")
    argv = [str(tmp_path / "run"), "--data", str(tmp_path / "x.png"), "--out", str(tmp_path / "out")]
    assert tool.main([*argv, "--device", "cpu"]) == 0
    found = np.load(tmp_path / "out" / "x.npy")
    assert np.array_equal(found, load_translator(tmp_path / "run").translate([x])[0].permute(1, 2, 0).numpy())
    pair = tool.beside(x, torch.zeros(3, 18, 26, dtype=torch.uint8))
    assert pair.shape == (3, 18, 52) and bool((pair[:, :, 26:] == 0).all()) and bool(pair[:, :, :26].any())


@pytest.mark.parametrize("half", ["left", "right"])
def test_halves_of_pairs(runs: Path, tmp_path: Path, half: str) -> None:
    """The right one of an odd width begins after the middle column."""
    x = picture(9, 27, 1)
    Image.fromarray(x[0].numpy()).save(tmp_path / "x.png")
    argv = [
        str(runs / "one"),
        "--data",
        str(tmp_path / "x.png"),
        "--out",
        str(tmp_path / "out"),
        "--half",
        half,
    ]
    assert tool.main([*argv, "--device", "cpu"]) == 0
    part = {"left": x[:, :, :13], "right": x[:, :, 14:]}[half]
    (found,) = load_translator(runs / "one").translate([part])
    with Image.open(tmp_path / "out" / "x.png") as written:
        assert np.array_equal(np.asarray(written), found.permute(1, 2, 0).numpy())


def test_what_cannot_be_translated_is_one_line(
    runs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.txt").write_text("x")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"<html>")
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "cut.zip", "w") as archive:
        archive.write(photos / "a.png", "a.png")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "cut.zip").read_bytes()[:-30])
    one, out = runs / "one", tmp_path / "out"
    for argv, words in (
        ((runs / "noise", "--data", photos, "--out", out), "makes pictures of noise: python -m tools.sample"),
        ((one, "--data", photos, "--out", "x.png"), "--out x.png: name a folder"),
        ((one, "--data", photos, "--out", tmp_path / "full"), "full is not empty: choose another folder, or"),
        ((one, "--data", photos, "--out", photos / "out"), "lies in --data"),
        ((one, "--data", photos / "a.png", "--out", photos, "--overwrite"), "a.png stands: choose another folder"),
        ((one, "--data", photos, "--out", out, "--direction", "BtoA"), "--direction BtoA: this run translates AtoB"),
        ((one, "--data", photos, "--out", out, "--tile", "0"), "must be a whole number of at least 1"),
        ((one, "--data", photos, "--out", out, "--weights", "x"), "--weights x: this run has ema, raw"),
        ((one, "--data", tmp_path / "bad", "--out", out), "its picture cannot be read: a.png: a web page"),
        ((one, "--data", tmp_path / "empty", "--out", out), "holds no images"),
        ((one, "--data", tmp_path / "nowhere", "--out", out), "no such file or folder"),
        ((one, "--data", tmp_path / "cut.zip", "--out", out), "cut.zip is damaged"),
        ((tmp_path, "--data", photos, "--out", out), "is no run"),
    ):  # fmt: skip
        assert words in refused(capsys, tool.main, *argv, "--device", "cpu")
    capsys.readouterr()


def test_pictures_too_large_are_named(
    runs: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert (
        tool.main([str(runs / "one"), "--data", str(photos), "--out", str(tmp_path / "o"), "--device", "cpu"])
        == 0
    )
    said = capsys.readouterr().err
    assert "warning: cats/old/x.y.png: a decompression bomb" in said
    argv = [
        str(runs / "one"),
        "--data",
        str(photos / "a.png"),
        "--out",
        str(tmp_path / "p"),
        "--device",
        "cpu",
    ]
    assert "of a picture of 100 x 144 px, has too many pixels" in refused(
        capsys, tool.main, *argv, "--scale_to", "100"
    )


@pytest.mark.gpu
def test_a_gpu_translates_as_the_cpu_does(runs: Path) -> None:
    x = [picture(40, 70, 1)]
    there, here = (
        load_translator(runs / "two", device=device).translate(x, tile=32)[0] for device in ("cuda", "cpu")
    )
    assert there.device == here.device and int((there.int() - here.int()).abs().max()) <= 1


def test_double_precision_goes_through_tiles() -> None:
    G, x = tiny().double(), picture(70, 40)
    assert torch.equal(translated(G, x, 32), translated(G, x))
