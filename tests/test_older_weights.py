"""Weights of before a network changed: gone on with where they mean the same, refused in one line where they do not."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from errors import UserError
from generation.generator import load_generator
from modelling import build_discriminator, build_generator, check_revision, revisions_of
from tests.running import differing, run, small, state
from tests.test_schemas import write_checkpoint
from tools import sample
from training.optimizers import merged_biases, regrouped

STYLEGAN2 = f"--log_name a {small('stylegan2')} --conditional --checkpoint_interval 2 --ema"


def of_one_rate(optimizer: dict[str, Any], order: list[int]) -> dict[str, Any]:
    """A saved optimiser as it was with one group for weights and biases of the mapping, whose parameters stand in
    `order`."""
    full, weights, _ = optimizer["param_groups"]
    place = {now: then for then, now in enumerate(order)}
    groups = [full, weights | {"params": list(range(len(full["params"]), len(order)))}]
    return {"state": {place[i]: moments for i, moments in optimizer["state"].items()}, "param_groups": groups}


def older(saved: dict[str, Any], networks: dict[str, torch.nn.Module]) -> dict[str, Any]:
    """A checkpoint as the version before wrote it."""
    optimizers = {}
    for name, network in networks.items():
        full, weights, biases = (group["params"] for group in saved["optimizers"][name]["param_groups"])
        # of each layer the weight, then the bias
        order = [*full, *itertools.chain.from_iterable(zip(weights, biases, strict=True))]
        assert len(network.mapping.layers) == len(weights) == len(biases)
        optimizers[name] = of_one_rate(saved["optimizers"][name], order)
    data = {name: value for name, value in saved["data"].items() if name != "revisions"}
    return saved | {"optimizers": optimizers, "data": data}


def test_an_older_stylegan2_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With every moment at its own parameter: the same as from the newer form of the checkpoint."""
    loop = run(f"{STYLEGAN2} --n_steps 4", tmp_path)
    whole, half = state(tmp_path, "a", 4), state(tmp_path, "a", 2)
    file = tmp_path / "a" / "checkpoints" / "step-00000002.pt"
    before = older(half, loop.task.networks)
    for name, network in loop.networks.items():
        assert merged_biases(before["optimizers"][name], network.optimizer)
        assert not merged_biases(half["optimizers"][name], network.optimizer)
        found = regrouped(before["optimizers"][name], network.optimizer)
        assert differing({"o": half["optimizers"][name]["state"]}, {"o": found["state"]}, ("o",)) == []
    write_checkpoint(before, file)
    capsys.readouterr()
    again = run(f"--resume {file} --log_name b --n_steps 4", tmp_path)
    told = capsys.readouterr().out
    assert "note: the run is from before StyleGAN2's mapping learned as published" in told
    assert differing(whole, again.state_dict()) == []


def test_other_groups_than_those_are_refused(tmp_path: Path) -> None:
    """A group too few that is not the older form is a fault as ever."""
    loop = run(f"{STYLEGAN2} --n_steps 2", tmp_path)
    saved = state(tmp_path, "a", 2)
    before = older(saved, loop.task.networks)
    before["optimizers"]["G"]["param_groups"][1]["params"].reverse()
    file = tmp_path / "a" / "checkpoints" / "step-00000002.pt"
    write_checkpoint(before, file)
    with pytest.raises(UserError, match="optimizers.G.param_groups are 2, not 3"):
        run(f"--resume {file} --log_name b --n_steps 4", tmp_path)


def test_an_older_stylegan_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its weights would make other images without a word."""
    run(f"--log_name a {small('stylegan')} --no_grow --n_steps 2", tmp_path)
    about = tmp_path / "a" / "generator" / "config.json"
    written = json.loads(about.read_text())
    assert written["revision"] == 1
    G, _ = load_generator(tmp_path / "a")
    assert G(torch.randn(1, 8)).shape == (1, 1, 16, 16)
    del written["revision"]
    about.write_text(json.dumps(written))
    words = "from before a change of Generator .*zeros around the maps.* with the version that wrote it"
    with pytest.raises(UserError, match=words):
        load_generator(tmp_path / "a")
    assert sample.main([str(tmp_path / "a"), "--n", "1", "--out", str(tmp_path / "x.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    about.write_text(json.dumps(written | {"revision": 2}))
    with pytest.raises(UserError, match="of a newer version"):
        load_generator(tmp_path / "a")

    file = tmp_path / "a" / "checkpoints" / "step-00000002.pt"
    saved = state(tmp_path, "a", 2)
    assert saved["data"].pop("revisions") == {"D": 1, "G": 1}
    write_checkpoint(saved, file)
    with pytest.raises(UserError, match="the checkpoint is from before a change of (Gen|Discrim)") as refused:
        run("--resume --log_name a --n_steps 4", tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("img_size", "known"), [(32, 0), (64, 1), (128, 1), ((80, 64), 1)])
def test_which_sngan_has_changed(img_size: int | tuple[int, int], known: int) -> None:
    image = {"img_size": img_size, "img_channels": 3}
    with torch.device("meta"):
        D, G = build_discriminator("sngan", **image), build_generator("sngan", **image, z_dim=4)
    assert (len(revisions_of(D)), len(revisions_of(G))) == (known, 0)
    check_revision(D, known, "x")
    if known:
        with pytest.raises(
            UserError, match="x is from before a change of Discriminator .*a bias in its last layer"
        ):
            check_revision(D, 0, "x")
