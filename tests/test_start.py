"""Starting from what others trained: --init_from, and --freeze_d."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from errors import UserError
from modelling import MODELS, build_discriminator, build_generator
from modelling.freezing import freeze, layers_of
from ops.spectral_norm import apply_spectral_norm, iterate_spectral_norm
from settings import TrainConfig
from tests.running import SMALL, differing, run, small, state
from tests.test_schemas import write_checkpoint
from training import train
from training.loop import Loop
from training.start import fitted

STYLED = small("stylegan2")


def begun(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    """The loop of a run as it stands before its first step."""
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", lambda self: None)
        return run(command, folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs to start from: a StyleGAN2 with averages, a DCGAN without spectral norm."""
    folder = tmp_path_factory.mktemp("runs")
    run(f"--log_name styled {STYLED} --ema --ema_decay 0.5 --n_steps 4 --seed 3", folder)
    run("--log_name plain --n_steps 4 --seed 3", folder)
    return folder


# What is taken over


def test_networks_averages_and_mean_style_come_along(runs, tmp_path, monkeypatch, capsys) -> None:
    """All tensors of G, D and the average, at step 0, with optimisers that know nothing."""
    before = state(runs, "styled", 4)
    loop = begun(f"--log_name a {STYLED} --ema --init_from {runs / 'styled'}", tmp_path, monkeypatch)
    now = loop.state_dict()
    assert (loop.step, loop.updates) == (0, 0)
    assert differing(before, now, ("networks", "ema")) == []
    assert now["networks"]["G"]["mapping.w_avg"].abs().sum() > 0
    assert not any(found["state"] for found in now["optimizers"].values())
    assert "tensors of D 18 of 18, G 48 of 48, ema 48 of 48" in capsys.readouterr().out


def test_samples_of_step_0_are_of_the_averages(runs, tmp_path, monkeypatch) -> None:
    loop = begun(f"--log_name a {STYLED} --ema --init_from {runs / 'styled'}", tmp_path, monkeypatch)
    sets, name = loop.samplers(), "blocks.0.const"
    assert torch.equal(sets["ema"].state_dict()[name], state(runs, "styled", 4)["ema"]["ema"][name])
    assert not torch.equal(sets["ema"].state_dict()[name], sets["raw"].state_dict()[name])


@pytest.mark.parametrize("rule", ["--ema_decay 0.9", "--ema_halflife 64 --ema_rampup 0.01"])
def test_averages_that_come_along_are_not_ramped_up(runs, tmp_path, rule) -> None:
    """A ramp is for weights that start at random: it would forget what was averaged within a few steps."""
    source = state(runs, "styled", 4)["ema"]["ema"]
    command = f"{STYLED} --ema {rule} --ema_warmup 9 --n_steps 1 --init_from {runs / 'styled'}"
    loop = run(f"--log_name a {command}", tmp_path)
    now, raw = loop.emas["ema"][0].module.state_dict(), loop.task.networks["G"].state_dict()
    decay = 0.9 if "decay" in rule else 0.5 ** (8 / 64)
    name = "blocks.1.convs.0.weight"
    torch.testing.assert_close(now[name], decay * source[name] + (1 - decay) * raw[name])


def test_every_kind_of_place_is_a_start(runs, tmp_path, monkeypatch) -> None:
    """A run that stands elsewhere by now, one of its checkpoints, its generator/ alone, which has no D."""
    moved = shutil.copytree(runs / "styled", tmp_path / "moved")
    wanted = state(runs, "styled", 4)["networks"]
    places = (moved, moved / "checkpoints" / "step-00000004.pt", moved / "generator")
    for i, place in enumerate(places):
        loop = begun(f"--log_name a{i} {STYLED} --ema --init_from {place}", tmp_path, monkeypatch)
        G, D = (loop.task.networks[name].state_dict() for name in "GD")
        assert all(torch.equal(x, G[name]) for name, x in wanted["G"].items())
        same = [torch.equal(x, D[name]) for name, x in wanted["D"].items() if x.dim() > 1]
        assert all(same) if i < 2 else not any(same)


def test_other_labels_sizes_and_channels_are_listed(runs, tmp_path, capsys) -> None:
    command = f"{STYLED} --ema --conditional --img_size 32 --n_steps 1 --init_from {runs / 'styled'}"
    run(f"--log_name a {command}", tmp_path)
    lines = capsys.readouterr().out.splitlines()
    (first,) = [i for i, line in enumerate(lines) if line.startswith("starts from")]
    assert "tensors of D 14 of 29, G 46 of 66, ema 46 of 66" in lines[first]
    told = [line for line in lines[first + 1 :] if line.startswith("  ")][:3]
    assert told[0].startswith("  D, fresh: blocks.0.from_image.weight; ") and told[0].endswith("and 12 more")
    assert told[1] == "  D, left there: blocks.0.from_image.weight; blocks.0.from_image.bias"
    assert "mapping.layers.0.weight (8, 16), there (8, 8)" in told[2]


def test_blocks_are_those_of_the_same_maps() -> None:
    """StyleGAN2's D counts from the image, its G from 4 px; DCGAN's channels follow the distance from the image, and
    what grows counts from the smallest size."""

    def pair(build, model: str, **how) -> tuple[nn.Module, nn.Module]:
        return tuple(build(model, img_size=n, img_channels=3, z_dim=8, **how) for n in (16, 32))

    one, two = pair(build_discriminator, "stylegan2", channel_base=2**14, channel_max=8)
    taken, _, left = fitted(one.state_dict(), two, at_end=True)
    assert torch.equal(taken["blocks.1.conv0.weight"], one.state_dict()["blocks.0.conv0.weight"])
    assert not any(name.startswith("blocks.0.") for name in taken) and len(left) == 2
    one, two = pair(build_generator, "stylegan2", channel_base=2**14, channel_max=8)
    taken, _, left = fitted(one.state_dict(), two)
    assert len(taken) == len(one.state_dict()) and not left
    one, two = pair(build_discriminator, "dcgan", width=4)
    taken, name = fitted(one.state_dict(), two, at_end=True)[0], "blocks.0.layer.weight"
    assert torch.equal(taken[name], one.state_dict()[name])
    one, two = pair(build_discriminator, "progressive_gan", channel_base=2**14, channel_max=8)
    taken, name = fitted(one.state_dict(), two, at_end=True)[0], "trunk.blocks.0.conv0.weight"
    assert torch.equal(taken[name], one.state_dict()[name])


def test_concat_wraps_and_unwraps() -> None:
    plain = build_discriminator("mlp", img_size=8, img_channels=1)
    wrapped = build_discriminator("mlp", img_size=8, img_channels=1, n_labels=3)
    name = "to_logit.weight"
    assert torch.equal(fitted(plain.state_dict(), wrapped)[0][f"D.{name}"], plain.state_dict()[name])
    assert torch.equal(fitted(wrapped.state_dict(), plain)[0][name], wrapped.state_dict()[f"D.{name}"])


@pytest.mark.parametrize("model", ["dcgan", "sngan"])
@pytest.mark.parametrize("build", [build_generator, build_discriminator])
def test_spectral_norm_on_one_side_alone(model, build) -> None:
    """Without it in the new run: the same function. With it: the same weights, under their norm."""
    how = {"img_size": 32, "img_channels": 1, "z_dim": 8}
    plain, normed = build(model, **how), apply_spectral_norm(build(model, **how))
    taken, fresh, left = fitted(normed.state_dict(), plain)
    assert not fresh and not left
    for layer, module in normed.named_modules():
        if hasattr(module, "parametrizations"):
            torch.testing.assert_close(taken[f"{layer}.weight"], module.weight)
    taken, fresh, left = fitted(plain.state_dict(), normed)
    assert not left and fresh and all(name.endswith((".u", ".v")) for name in fresh)


def test_spectral_norms_that_are_new_are_measured(runs, tmp_path, monkeypatch) -> None:
    """From weights without them: sigma is that of the weights taken over, of frozen layers too."""
    command = f"--spectral_norm_d --spectral_norm_g --freeze_d 1 --init_from {runs / 'plain'}"
    loop = begun(f"--log_name a {command}", tmp_path, monkeypatch)
    for network in loop.task.networks.values():
        for module in network.modules():
            if hasattr(module, "parametrizations"):
                weight = (
                    module.weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else module.weight
                )
                norm = torch.linalg.matrix_norm(weight.detach().flatten(1), 2)
                assert float(norm) == pytest.approx(1, abs=0.1)


def test_a_mapping_is_not_shifted_and_its_mean_needs_the_whole() -> None:
    """A shorter one gives layers of the same index and no mean style; the same one gives both."""

    def mapped(mapping_layers: int) -> nn.Module:
        how = {
            "img_size": 16,
            "img_channels": 1,
            "z_dim": 8,
            "w_dim": 8,
            "channel_base": 128,
            "channel_max": 8,
        }
        return build_generator("stylegan2", **how, mapping_layers=mapping_layers)

    one, four = mapped(2), mapped(4)
    taken, fresh, _ = fitted(one.state_dict(), four)
    layers = {name for name in taken if name.startswith("mapping.")}
    assert layers == {f"mapping.layers.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")}
    assert torch.equal(taken["mapping.layers.0.weight"], one.mapping.layers[0].weight)
    assert "mapping.w_avg, the mean of another mapping" in fresh
    assert "mapping.w_avg" not in fitted(four.state_dict(), one)[0]
    assert "mapping.w_avg" in fitted(one.state_dict(), mapped(2))[0]


def sized(folder: Path, model: str, sizes: tuple[int, int]) -> None:
    """A run, and one of another size from it."""
    settings = {
        "model": model,
        "z_dim": 8,
        "batch_size": 2,
        "n_steps": 1,
        "loggers": (),
        "runs_dir": str(folder),
    }
    settings |= {"g_kwargs": {"width": 4}, "d_kwargs": {"width": 4}}
    for i, size in enumerate(sizes):
        start = str(folder / "0") if i else None
        config = TrainConfig(log_name=str(i), img_size=size, init_from=start, **settings)
        train(config, images=torch.rand(4, 1, size, size) * 2 - 1)


@pytest.mark.parametrize("sizes", [(32, 64), (64, 32)])
def test_another_size_of_the_same_widths_is_a_start(tmp_path, capsys, sizes) -> None:
    """DCGAN's first layers are of its size, and hold most of a larger one's weights."""
    sized(tmp_path, "dcgan", sizes)
    assert "starts from" in capsys.readouterr().out


def test_a_size_of_other_widths_is_named(tmp_path) -> None:
    """SNGAN's: D's change at 64 px says nothing of 32 px, and is not what is refused."""
    with pytest.raises(UserError, match="only .*% of G's weights fit: give .* the start, img_size 32,"):
        sized(tmp_path, "sngan", (32, 64))


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("place", ["", "generator"])
def test_labels_of_a_start_of_which_too_little_fits_are_named(tmp_path, labelled, place) -> None:
    """Narrow networks are half of learnt labels, so that G with and without them have little in common."""
    first, second = ("--conditional", "") if labelled else ("", "--conditional")
    run(f"--log_name start --n_steps 1 {first}", tmp_path)
    with pytest.raises(UserError, match="of G's weights fit") as caught:
        run(f"--log_name a --n_steps 1 {second} --init_from {tmp_path / 'start' / place}", tmp_path)
    line = caught.value.for_command_line
    assert f"{'' if labelled else 'no '}--conditional, or the --preset" in line and "d_kwargs" not in line


GROWN = f"{small('progressive_gan')} --stable_kimg 0.016 --fade_kimg 0.016"


def test_growing_anew_is_warned_of(tmp_path, monkeypatch, capsys) -> None:
    """From weights of the full size; not with --no_grow, nor from those that are still small."""
    run(f"--log_name whole {small('progressive_gan')} --no_grow --n_steps 1", tmp_path)
    run(f"--log_name part {GROWN} --n_steps 3", tmp_path)
    capsys.readouterr()
    full = tmp_path / "whole"
    rows = [(full, "", True), (full / "generator", "", True), (full, "--no_grow", False)]
    rows.append((tmp_path / "part", "", False))
    for i, (start, more, warned) in enumerate(rows):
        flags = GROWN if not more else small("progressive_gan")
        begun(f"--log_name a{i} {flags} {more} --init_from {start}", tmp_path, monkeypatch)
        lines = capsys.readouterr().err.splitlines()
        told = [line for line in lines if line.startswith("warning: what --init_from")]
        assert len(told) == warned and all("16 px" in line and "--no_grow" in line for line in told)


# What is refused


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StyleGAN's run whose checkpoint and generator/ say nothing of revisions, as they were before one."""
    folder = tmp_path_factory.mktemp("older")
    run(f"--log_name a {small('stylegan')} --no_grow --n_steps 1", folder)
    saved = state(folder, "a", 1)
    del saved["data"]["revisions"]
    write_checkpoint(saved, folder / "a" / "checkpoints" / "step-00000001.pt")
    about = folder / "a" / "generator" / "config.json"
    about.write_text(json.dumps({k: v for k, v in json.loads(about.read_text()).items() if k != "revision"}))
    return folder / "a"


@pytest.mark.parametrize("place", ["", "checkpoints/step-00000001.pt", "generator"])
def test_weights_of_before_a_change_are_refused(older, tmp_path, place) -> None:
    with pytest.raises(UserError, match=r"init_from: .* is from before a change of .*zeros around the maps"):
        run(f"--log_name b {small('stylegan')} --no_grow --init_from {older / place}", tmp_path)


def test_revisions_of_a_newer_version_are_refused(runs, tmp_path) -> None:
    folder = shutil.copytree(runs / "styled" / "generator", tmp_path / "generator")
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"revision": 9}))
    with pytest.raises(UserError, match="is of a newer version"):
        run(f"--log_name a {STYLED} --init_from {folder}", tmp_path)


@pytest.mark.parametrize("place", ["", "generator"])
def test_a_start_of_other_widths_is_refused(runs, tmp_path, place) -> None:
    """Biases and small layers fit, the weights do not: the settings that would bring them along are named."""
    wider = STYLED.replace("channel_max=8", "channel_max=16").replace("channel_base=128", "channel_base=256")
    with pytest.raises(UserError, match="only .*% of G's weights fit") as caught:
        run(f"--log_name a {wider} --z_dim 4 --init_from {runs / 'styled' / place}", tmp_path)
    line = caught.value.for_command_line
    assert "\n" not in line and "--z_dim 8" in line and "--preset" in line
    assert "--g_kwargs channel_base=128 channel_max=8 w_dim=8 mapping_layers=2" in line
    assert ("--d_kwargs channel_base=128 channel_max=8" in line) == (place == "")


def test_frozen_layers_need_a_start(tmp_path) -> None:
    """But for a D that is given, which may be trained."""
    with pytest.raises(UserError, match="freeze_d 1 needs init_from"):
        run("--log_name a --freeze_d 1", tmp_path)
    assert not (tmp_path / "a").exists()
    settings = {"z_dim": 4, "batch_size": 8, "n_steps": 1, "loggers": (), "runs_dir": str(tmp_path)}
    D = OwnD()
    first = D[1].weight.detach().clone()
    images = torch.rand(16, 1, 4, 4) * 2 - 1
    train(TrainConfig(log_name="b", freeze_d=1, **settings), images=images, G=OwnG(), D=D)
    assert torch.equal(D[1].weight, first)


FROZEN_NOISE = [
    ("", "--img_size 32 --freeze_d 1", r"has nothing for blocks\.0\."),
    ("generator", "--freeze_d 2", r"has nothing for .*blocks\.0\."),
]


@pytest.mark.parametrize("place, flags, words", FROZEN_NOISE)
def test_frozen_layers_that_the_start_lacks_are_refused(runs, tmp_path, place, flags, words) -> None:
    """Those of a larger size, and those of a start without a D."""
    with pytest.raises(UserError, match=f"{words}.*: lower freeze_d, or leave it out"):
        run(f"--log_name a {STYLED} {flags} --init_from {runs / 'styled' / place}", tmp_path)
    assert not (tmp_path / "a").exists()


def test_frozen_layers_of_sizes_that_never_worked_are_refused(tmp_path) -> None:
    """A growing start has them, as they began."""
    run(f"--log_name short {GROWN} --n_steps 1", tmp_path)
    with pytest.raises(UserError, match=r"has grown to 4 px of 16: lower freeze_d, or leave it out"):
        run(f"--log_name a {GROWN} --freeze_d 1 --n_steps 1 --init_from {tmp_path / 'short'}", tmp_path)
    assert not (tmp_path / "a").exists()


def test_another_family_is_named(runs, tmp_path) -> None:
    with pytest.raises(UserError, match="weights of stylegan2, and this run trains dcgan: give model styleg"):
        run(f"--log_name a --init_from {runs / 'styled'}", tmp_path)
    assert not (tmp_path / "a").exists()


def empty(at: Path) -> Path:
    (at / "empty").mkdir()
    return at / "empty"


def foreign(at: Path) -> Path:
    (at / "a.pkl").write_bytes(b"\x80\x04N.")
    return at / "a.pkl"


@pytest.mark.parametrize(
    "make, words",
    [(lambda at: at / "none", "there is nothing"), (empty, "is no run"), (foreign, "tools.import_weights")],
)
def test_what_is_no_start_is_one_line(tmp_path, make, words) -> None:
    with pytest.raises(UserError, match=words) as caught:
        run(f"--log_name a --init_from {make(tmp_path)}", tmp_path)
    assert "\n" not in caught.value.for_command_line and "--init_from" in caught.value.for_command_line
    assert not (tmp_path / "a").exists()


def test_weights_that_are_not_finite_are_refused(runs, tmp_path) -> None:
    folder = shutil.copytree(runs / "styled" / "generator", tmp_path / "generator")
    tensors = load_file(folder / "ema.safetensors")
    tensors["blocks.0.const"][0, 0, 0] = float("nan")
    save_file(tensors, folder / "ema.safetensors", {"step": "4"})
    with pytest.raises(UserError, match="blocks.0.const is no plain finite tensor"):
        run(f"--log_name a {STYLED} --init_from {folder}", tmp_path)


# Networks of one's own


class OwnG(nn.Sequential):
    img_size, img_channels, z_dim = 4, 1, 4

    def __init__(self) -> None:
        layers = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 16), nn.Tanh(), nn.Unflatten(1, (1, 4, 4))
        super().__init__(*layers)

    def forward(self, x, y=None):
        return super().forward(x)


class OwnD(OwnG):
    def __init__(self) -> None:
        layers = nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0)
        nn.Sequential.__init__(self, *layers)


def test_own_networks_start_from_their_like_and_refuse_others(tmp_path, runs) -> None:
    images = torch.rand(16, 1, 4, 4) * 2 - 1
    settings = {"z_dim": 4, "batch_size": 8, "n_steps": 2, "loggers": (), "runs_dir": str(tmp_path)}
    first = train(TrainConfig(log_name="a", **settings), images=images, G=OwnG(), D=OwnD())
    trained = {name: dict(net.state_dict()) for name, net in first.networks.items()}
    D = OwnD()
    last = D[3].weight.detach().clone()
    config = TrainConfig(log_name="b", init_from=first.folder, freeze_d=1, lr_g=0, **settings)
    second = train(config, images=images, G=OwnG(), D=D)
    assert all(torch.equal(x, trained["G"][name]) for name, x in second.networks["G"].state_dict().items())
    assert torch.equal(D[1].weight, trained["D"]["1.weight"]) and not torch.equal(D[3].weight, last)
    config = TrainConfig(log_name="c", init_from=str(runs / "styled"), **settings)
    with pytest.raises(UserError, match="not one of its tensors fits"):
        train(config, images=images, G=OwnG(), D=OwnD())


# Going on, and several processes


def test_it_goes_on_without_its_start(runs, tmp_path) -> None:
    """Where it is gone (bit for bit: test_processes.py); another start is another run."""
    source = shutil.copytree(runs / "styled", tmp_path / "source")
    run(f"--log_name a {STYLED} --ema --n_steps 2 --freeze_d 2 --init_from {source}", tmp_path)
    shutil.rmtree(source)
    assert run("--log_name a --resume --n_steps 3", tmp_path).step == 3
    with pytest.raises(UserError, match="init_from: .*source -> elsewhere"):
        run("--log_name a --resume --init_from elsewhere", tmp_path)


# Freezing

# D of pairs, and heads side by side behind a network that is frozen as it is
WITHOUT_ORDER = ("veegan", "projected", "projected_stylegan2")


@pytest.mark.parametrize("model", [name for name in MODELS if name not in WITHOUT_ORDER])
def test_layers_are_those_from_the_image_on(model) -> None:
    """They part D's parameters; what reads the image is in the first, what gives the logit in the last ones."""
    D = build_discriminator(model, img_size=32, img_channels=2, **SMALL[model][1])
    layers = [{id(p) for part in layer for p in part.parameters()} for layer in layers_of(D)]
    assert sum(map(len, layers)) == len({id(p) for p in D.parameters()}) == len(set().union(*layers))
    first = [p for p in D.parameters() if id(p) in layers[0]]
    assert any(p.dim() > 1 and p.shape[1] == (2 if p.dim() == 4 else 2 * 32 * 32) for p in first)
    beyond = [p for p in D.parameters() if id(p) not in layers[0]]
    x = torch.randn(4, 2, 32, 32, requires_grad=True)
    logit = D(x)[0] if isinstance(D(x), tuple) else D(x)
    assert all(g is not None for g in torch.autograd.grad(logit.sum(), beyond[:1]))
    assert len(layers) > 2


def test_a_growing_discriminator_counts_from_its_largest_size() -> None:
    for model, reader in (("progressive_gan", "trunk.from_image.3"), ("stylegan", "trunk.from_image.2")):
        D = build_discriminator(model, img_size=32, img_channels=3, channel_base=128)
        freeze(D, 1)
        frozen = {name.rsplit(".", 1)[0] for name, p in D.named_parameters() if not p.requires_grad}
        assert frozen == {"trunk.blocks.2.conv0", "trunk.blocks.2.conv1", reader}
        assert len(layers_of(D)) == 4


def test_planes_of_concat_belong_to_the_first_layer() -> None:
    D = build_discriminator("dcgan", img_size=32, img_channels=3, n_labels=4, condition="concat", width=4)
    freeze(D, 1)
    frozen = {name for name, p in D.named_parameters() if not p.requires_grad}
    assert {"embedding.table.weight", "D.blocks.0.layer.weight"} <= frozen
    assert not any("blocks.1" in name or "heads" in name for name in frozen)


@pytest.mark.parametrize("optimizer", ["AdamW --weight_decay 0.1", "SGD --weight_decay 0.1", "RMSprop"])
def test_frozen_layers_stand_still(tmp_path, optimizer) -> None:
    """Not moved by the optimiser, weight decay, clipping, or spectral norm's iterations; all the rest is."""
    command = f"{small('sngan')} --img_size 32 --spectral_norm_d --weight_clip 0.5 --optimizer {optimizer}"
    run(f"--log_name a --n_steps 1 {command}", tmp_path)
    command += " --n_steps 3 --checkpoint_interval 1"
    run(f"--log_name b --init_from {tmp_path / 'a'} --freeze_d 2 {command}", tmp_path)
    one, three = (state(tmp_path, "b", step)["networks"]["D"] for step in (1, 3))
    frozen = [name for name in one if name.startswith(("blocks.0.", "blocks.1."))]
    assert len(frozen) == 24  # three convolutions each: weight, bias, u, v
    assert all(torch.equal(one[name], three[name]) for name in frozen)
    moved = [name for name in one if name not in frozen and (one[name].dim() > 1 or name.endswith(".u"))]
    assert len(moved) == 10
    assert [name for name in moved if torch.equal(one[name], three[name]) and one[name].numel() > 1] == []


def test_iterations_pass_over_frozen_norms() -> None:
    D = apply_spectral_norm(build_discriminator("dcgan", img_size=32, img_channels=3, width=4))
    freeze(D, 1)
    before = {name: x.clone() for name, x in D.named_buffers() if name.endswith(".u")}
    with torch.no_grad():
        for p in D.parameters():
            p += torch.randn_like(p)
    iterate_spectral_norm(D, 1)
    moved = {name for name, x in D.named_buffers() if name in before and not torch.equal(x, before[name])}
    assert {name for name in before if name.startswith("blocks.0.")} == before.keys() - moved - {
        name for name in before if before[name].numel() == 1
    }


def test_more_layers_than_there_are(tmp_path) -> None:
    with pytest.raises(UserError, match=r"freeze_d 3: .* has 3 layers .* give at most 2"):
        run("--log_name a --freeze_d 3", tmp_path)
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="at least 0"):
        run("--log_name a --freeze_d -1", tmp_path)
