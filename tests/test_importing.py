"""Weights of other programs: networks of their layouts make what a forward from the paper makes of the same tensors."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from generation.generator import load_generator
from generation.importing.weights import import_weights
from modelling import build_discriminator
from tensorfile import read_safetensors
from tests import foreign, foreign_older
from tests.running import run
from tests.test_labels import write_classes, write_images
from tools import evaluate
from tools import import_weights as tool
from tools import sample as sampling


def imported(files: list[Path], folder: Path) -> tuple[nn.Module, nn.Module | None, dict]:
    """(G, D, config) of a generator/ folder that was made of the files."""
    assert tool.main([*map(str, files), "--out", str(folder)]) == 0
    G, about = load_generator(folder)
    D = None
    if (folder / "D.safetensors").is_file():
        D = build_discriminator(about["model"], **about["discriminator"])
        D.load_state_dict(read_safetensors(folder / "D.safetensors")[0])
    return G, D, about


def close(ours: Tensor, theirs: Tensor) -> None:
    """Equal to 1e-5 of the largest value."""
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5 * max(1.0, float(theirs.abs().max())))


# StyleGAN2


@pytest.mark.parametrize("n_labels, colours, protocol", [(0, 3, 4), (3, 1, 2), (0, 3, 5)])
def test_official_stylegan2(tmp_path, n_labels, colours, protocol) -> None:
    """Images at psi .7 and logits, with labels and without; the averaged G is the one to sample from."""
    ema, raw = (foreign.stylegan2_g(n_labels, seed=seed, colours=colours) for seed in (0, 7))
    d = foreign.stylegan2_d(n_labels, colours=colours)
    path = tmp_path / "network-snapshot-000100.pkl"
    attributes = {"mapping.fc0": {"bias_gain": 0.01}, "synthesis.b4.conv1": {"conv_clamp": None}}
    foreign.write_snapshot(path, {"G": (raw, attributes), "D": (d, {}), "G_ema": (ema, attributes)}, protocol)
    G, D, about = imported([path], tmp_path / "generator")
    z, y = torch.randn(4, 5), torch.tensor([0, 2, 1, 1]) if n_labels else None
    with torch.no_grad():
        for psi in (1.0, 0.7):
            close(G(z, y, truncation=psi), foreign.stylegan2_images(ema, z, y, psi))
        other = load_generator(tmp_path / "generator", "raw")[0]
        close(other(z, y), foreign.stylegan2_images(raw, z, y))
        x = torch.randn(4, colours, 16, 16)
        close(D(x, y), foreign.stylegan2_logits(d, x, y))
    assert about["weights"] == ["ema", "raw"] and about["n_labels"] == n_labels
    assert about["build"]["conv_clamp"] is None and about["discriminator"]["conv_clamp"] == 256


def test_rosinality(tmp_path, capsys) -> None:
    """The zip and torch's older form; a mean style that the file has not is measured."""
    g, d = foreign.stylegan2_g(), foreign.stylegan2_d()
    named, judge = foreign.rosinality_of(g, d)
    z, x = torch.randn(4, 5), torch.randn(4, 3, 16, 16)
    for i, zipped in enumerate((True, False)):
        content = {"g": named, "d": judge, "g_ema": named, "g_optim": {"state": {0: {"step": 3}}}}
        torch.save(content, tmp_path / f"{i}.pt", _use_new_zipfile_serialization=zipped)
        G, D, about = imported([tmp_path / f"{i}.pt"], tmp_path / f"generator{i}")
        with torch.no_grad():
            close(G(z), foreign.stylegan2_images(g, z))
            close(D(x), foreign.stylegan2_logits(d, x))
            mean = G.mapping(torch.randn(4000, 5)).mean(0)
            assert (G.mapping.w_avg - mean).abs().max() < 0.2 * G.mapping(torch.randn(500, 5)).std()
    assert "the mean style, for truncation, is that of 10,000 latents" in capsys.readouterr().err
    torch.save({"g_ema": named, "latent_avg": g["mapping.w_avg"]}, tmp_path / "a.pt")
    G, D, _ = imported([tmp_path / "a.pt"], tmp_path / "given")
    with torch.no_grad():
        close(G(z, truncation=0.5), foreign.stylegan2_images(g, z, psi=0.5))
    assert D is None


# Before StyleGAN2


@pytest.mark.parametrize("fused", [False, True])
def test_official_stylegan(tmp_path, fused) -> None:
    """(G, D, Gs) of numpy arrays; kernels of fused layers act mirrored."""
    own, parts = foreign_older.stylegan_g()
    d = foreign_older.discriminator()
    kwargs = {"fused_scale": fused, "blur_filter": [1, 2, 1]}
    path = tmp_path / "karras2019stylegan.pkl"
    raw = foreign_older.stylegan_g(seed=9)
    foreign.write_tensorflow(path, [(*raw, kwargs), (d, {}, kwargs), (own, parts, kwargs)])
    G, D, about = imported([path], tmp_path / "generator")
    z, x = torch.randn(4, 5), torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        for psi in (1.0, 0.7):
            close(G(z, truncation=psi), foreign_older.stylegan_images(own, parts, z, psi, fused))
        close(D(x), foreign_older.logits(d, x))
    assert about["weights"] == ["ema", "raw"] and about["build"]["blur"] is True


@pytest.mark.parametrize("fused, protocol", [(True, 4), (False, 2)])
def test_official_progressive_gan(tmp_path, capsys, fused, protocol) -> None:
    g, d = foreign_older.progressive_g(fused=fused), foreign_older.discriminator(fused)
    path = tmp_path / "karras2018iclr.pkl"
    foreign.write_tensorflow(path, [(g, {}, {}), (d, {}, {}), (g, {}, {})], protocol)
    G, D, _ = imported([path], tmp_path / "generator")
    assert "--no_grow" in tool.training_flags(import_weights([path]), "generator").split()
    z, x = torch.randn(4, 5), torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        close(G(z), foreign_older.progressive_images(g, z))
        if not fused:
            close(D(x), foreign_older.logits(d, x))
    assert ("D halves maps before LeakyReLU" in capsys.readouterr().err) == fused


@pytest.mark.parametrize(
    "kind, zipped", [("tables", False), ("shared", True), ("hierarchical", False), ("deep", True)]
)
def test_biggan(tmp_path, kind, zipped) -> None:
    """A file a network; z before y in what norms see; spectral norms as their vectors give them."""
    g = foreign_older.biggan_g(kind)
    d = foreign_older.biggan_d(kind in ("hierarchical", "deep"), kind == "deep")
    for name, weights in (("G_ema", g), ("D", {f"module.{name}": x for name, x in d.items()})):
        torch.save(weights, tmp_path / f"{name}.pth", _use_new_zipfile_serialization=zipped)
    G, D, about = imported([tmp_path / "G_ema.pth", tmp_path / "D.pth"], tmp_path / "generator")
    z, y = torch.randn(4, {"hierarchical": 15, "deep": 3}.get(kind, 3)), torch.tensor([0, 4, 2, 2])
    x = torch.randn(4, 3, *[64 if kind in ("hierarchical", "deep") else 32] * 2)
    with torch.no_grad():
        close(G(z, y), foreign_older.biggan_images(g, z, y))
        close(D.eval()(x, y), foreign_older.biggan_logits(d, x, y, 4 if len(x[0, 0]) == 64 else 2))
    assert about["n_labels"] == 5 and about["batch_norm"] == "statistics of the file"


# Beside the networks


def test_training_sampling_and_scores_take_the_folder(tmp_path, capsys) -> None:
    """The flags that are printed train from it, with D; a grid of it is drawn."""
    path, folder = tmp_path / "network-snapshot.pkl", tmp_path / "generator"
    g, d = foreign.stylegan2_g(colours=1), foreign.stylegan2_d(colours=1)
    foreign.write_snapshot(path, {"G_ema": (g, {}), "D": (d, {})})
    assert tool.main([str(path), "--out", str(folder)]) == 0
    flags = capsys.readouterr().out.split("to train from it: ")[1].strip()
    assert (
        sampling.main([str(folder), "--n", "4", "--truncation", "0.7", "--out", str(tmp_path / "a.png")]) == 0
    )
    loop = run(f"--log_name a {flags} --ema --n_steps 1 --lr 0", tmp_path)
    counts = [len(net.state_dict()) for net in (loop.task.networks["D"], loop.task.networks["G"])]
    told = capsys.readouterr().out
    assert (
        f"tensors of D {counts[0]} of {counts[0]}, G {counts[1]} of {counts[1]}, ema {counts[1]} of" in told
    )
    z = torch.randn(4, 5)
    with torch.no_grad():
        close(loop.emas["ema"][0].module.eval()(z), foreign.stylegan2_images(g, z))
    (tmp_path / "reals").mkdir()
    for i in range(8):
        Image.new("L", (16, 16), 30 * i).save(tmp_path / "reals" / f"{i}.png")
    scored = [str(folder), "--n", "8", "--extractor", "digits-cnn", "--cache_dir", str(tmp_path / "cache")]
    assert evaluate.main([*scored, "--data", str(tmp_path / "reals")]) == 0
    assert "fid[digits-cnn]" in (folder / "scores.jsonl").read_text()
    assert evaluate.main(scored) == 2
    assert (
        "was trained on images of its authors: name a folder or archive with --data"
        in capsys.readouterr().err
    )


def test_an_imported_generator_of_classes_is_scored(tmp_path, capsys) -> None:
    """Its classes have no names: they are the folders' by number, or taken in turn against any reference."""
    foreign.write_snapshot(tmp_path / "a.pkl", {"G_ema": (foreign.stylegan2_g(3, colours=1), {})})
    imported([tmp_path / "a.pkl"], folder := tmp_path / "generator")
    for n in (2, 3):
        write_classes(tmp_path / f"{n} classes", n)
    write_images(tmp_path / "plain", [f"{i}.png" for i in range(18)])

    def said(reals: str, *more: str, code: int = 0) -> str:
        scored = [str(folder), "--n", "18", "--extractor", "digits-cnn", "--metrics", "fid", *more]
        capsys.readouterr()
        assert (
            evaluate.main([*scored, "--data", str(tmp_path / reals), "--cache_dir", str(tmp_path / "c")])
            == code
        )
        lines = capsys.readouterr().err.strip().splitlines()
        return lines[-1] if code else "\n".join(lines)

    def labels() -> list[str]:
        lines = (folder / "scores.jsonl").read_text().splitlines()
        return [json.loads(line)["protocol"]["labels"] for line in lines]

    assert "its k-th is taken for the k-th of the reference" in said("3 classes", "--metrics", "intra_fid")
    for reals in ("3 classes", "2 classes", "plain"):
        said(reals, "--balanced")
    assert labels() == ["of the reference images"] + ["balanced: the classes in turn"] * 3
    assert (
        said("plain", code=2)
        == "error: this generator knows 3 classes and the reference has none: --balanced"
    )
    assert "has 2 labels and this generator knows 3; check --data" in said("2 classes", code=2)
    assert "--metrics intra_fid: it needs one class an image" in said(
        "2 classes", "--balanced", "--metrics", "intra_fid", code=2
    )
    assert len(labels()) == 4


def test_what_is_left_over_is_named(tmp_path, capsys) -> None:
    path = tmp_path / "a.pkl"
    g = foreign.stylegan2_g() | {"synthesis.b4.extra": torch.zeros(3)}
    foreign.write_snapshot(path, {"G_ema": (g, {})})
    assert tool.main([str(path), "--out", str(tmp_path / "generator")]) == 0
    assert "1 tensors have no place here: G_ema synthesis.b4.extra" in capsys.readouterr().err


SPOILT = {
    "a tensor is missing": (lambda g: g.pop("mapping.fc1.bias"), "G_ema has no mapping.fc1.bias"),
    "a shape": (lambda g: g.update({"mapping.fc1.bias": torch.zeros(9)}), "has shape"),
    "not finite": (lambda g: g["synthesis.b8.conv0.weight"].fill_(float("nan")), "holds NaN or infinity"),
    "whole numbers": (
        lambda g: g.update({"synthesis.b4.const": torch.zeros(12, 4, 4).long()}),
        "is of int64",
    ),
    "another filter": (lambda g: g["synthesis.b8.resample_filter"].mul_(2), "another filter"),
    "channels": (
        lambda g: [
            g.update({n: torch.cat([x, x])}) for n, x in dict(g).items() if "b8.conv1" in n and x.dim()
        ],
        "channels that no channel_base gives|not the tensors of its layout",
    ),
    "one size": (
        lambda g: [g.pop(name) for name in list(g) if ".b8." in name or ".b16." in name],
        "maps of 4 px",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_networks_that_do_not_fit_their_layout(tmp_path, capsys, name) -> None:
    change, words = SPOILT[name]
    g = foreign.stylegan2_g()
    change(g)
    foreign.write_snapshot(tmp_path / "a.pkl", {"G_ema": (g, {})})
    assert tool.main([str(tmp_path / "a.pkl"), "--out", str(tmp_path / "generator")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line) and not (tmp_path / "generator").exists()


def test_a_stylegan2_of_tensorflow_is_named(tmp_path, capsys) -> None:
    """It has the constant that StyleGAN has, and modulated kernels in place of what makes styles."""
    own, parts = foreign_older.stylegan_g()
    parts["synthesis"] = {name: x for name, x in parts["synthesis"].items() if "StyleMod" not in name}
    parts["synthesis"]["4x4/Conv/mod_weight"] = torch.zeros(7, 8)
    path = tmp_path / "stylegan2-ffhq-config-f.pkl"
    foreign.write_tensorflow(
        path, [(own, parts, {}), (foreign_older.discriminator(), {}, {}), (own, parts, {})]
    )
    assert tool.main([str(path), "--out", str(tmp_path / "generator")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "it is a StyleGAN2 of TensorFlow: legacy.py" in line and not (tmp_path / "generator").exists()


def test_folders_with_spaces_are_quoted(tmp_path) -> None:
    """In the flags that are printed, as a shell reads them."""
    path, out = tmp_path / "network-snapshot.pkl", "my generators/a"
    foreign.write_snapshot(path, {"G_ema": (foreign.stylegan2_g(), {})})
    flags = shlex.split(tool.training_flags(import_weights([path]), out))
    assert flags[flags.index("--init_from") + 1] == out


def test_kinds_of_networks_that_are_not_made_here(tmp_path, capsys) -> None:
    def refused(weights: dict[str, Tensor], attributes: dict[str, dict]) -> str:
        foreign.write_snapshot(tmp_path / "a.pkl", {"G_ema": (weights, attributes)})
        assert tool.main([str(tmp_path / "a.pkl"), "--out", str(tmp_path / "generator")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "StyleGAN3" in refused({"synthesis.L0_36_512.weight": torch.zeros(2)}, {})
    assert "residual" in refused(foreign.stylegan2_g(), {"synthesis.b8": {"architecture": "resnet"}})
    grown = foreign_older.progressive_g() | {"lod": torch.tensor(1.0)}
    foreign.write_tensorflow(tmp_path / "b.pkl", [(grown, {}, {})] * 3)
    assert tool.main([str(tmp_path / "b.pkl"), "--out", str(tmp_path / "generator")]) == 2
    assert "level of detail is 1, not 0" in capsys.readouterr().err


def test_nothing_is_written_over(tmp_path, capsys) -> None:
    foreign.write_snapshot(tmp_path / "a.pkl", {"G_ema": (foreign.stylegan2_g(), {})})
    (tmp_path / "out").mkdir()
    assert tool.main([str(tmp_path / "a.pkl"), "--out", str(tmp_path / "out")]) == 0
    assert tool.main([str(tmp_path / "a.pkl"), "--out", str(tmp_path / "out")]) == 2
    assert "is not empty: choose a new folder" in capsys.readouterr().err
