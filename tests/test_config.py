"""The command line: precedence, refusals, presets, the promised and the oldest commands."""

import dataclasses
import json
import shlex
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from errors import UserError
from games.growing import growth_of
from games.schedule import schedule_of
from games.task import network_beta2, network_rates
from losses import METHODS, PENALTIES
from modelling import build_discriminator, build_generator, check_settings, network_classes
from modelling.layers import image_shape
from settings import PRESETS, TrainConfig, as_dict
from settings.command_line import make_parser, parse_config
from settings.curves import read_schedule
from settings.derive import CHANNEL_BASES, kept_batch
from settings.files import base_of, from_dict, settings_text
from settings.resume import resume_differences
from settings.sections import FIELDS
from settings.sections.loss import unfold_weights, weight_name, weight_names
from tests.test_losses import CUSTOMARY
from training.averages import make_averages

SCRIPTS = {
    "gan_mnist": ("mnist", "digits", "stacked-mnist"),
    "gan_cifar10": ("cifar10",),
    "gan_celeba": ("celeba",),
    "gan_ring8": ("ring8", "grid25"),
    "gan_folder": ("folder",),
    "gan_pairs": ("folder",),
}


def resolve(command: str, script: str = "gan_mnist", **defaults) -> TrainConfig:
    return parse_config(script, SCRIPTS[script], defaults, shlex.split(command)).config()


def refusal(command: str, script: str = "gan_mnist") -> str:
    with pytest.raises(UserError) as caught:
        resolve(command, script)
    assert "\n" not in caught.value.for_command_line
    return caught.value.for_command_line


def flat(config: TrainConfig) -> dict:
    """Every setting by the name of its flag."""
    return unfold_weights({name: getattr(config, name) for name in FIELDS})


# In people's notes: these must go on working to the letter (the launcher's part is not ours to parse).
PROMISED = [
    (
        "gan_mnist",
        "--model dcgan --method gan --log_name mnist_dcgan --batch_size 32 --n_steps 100000 --lr 2e-4 --beta1 0.5 --beta2 0.999",
        {
            "batch_size": 32,
            "n_steps": 100_000,
            "lr": 2e-4,
            "beta1": 0.5,
            "beta2": 0.999,
            "conditional": False,
        },
    ),
    (
        "gan_mnist",
        "--model dcgan --method gan --log_name mnist_dcgan --batch_size 32 --n_steps 100000 --lr 2e-4 --beta1 0.5 --beta2 0.999 --conditional",
        {"conditional": True},
    ),
    (
        "gan_celeba",
        "--model dcgan --method gan --img_size 64 --log_name celeba_dcgan --batch_size 128 --n_steps 100000 --lr 2e-4 --beta1 0.5 --beta2 0.999 --ema",
        {"img_size": 64, "ema": True, "ema_decay": (0.999,)},
    ),
    (
        "gan_celeba",
        "--model dcgan --method wgan --img_size 64 --log_name celeba_dcgan_wgan --batch_size 64 --n_steps 100000 --optimizer RMSprop --lr 5e-5 --train_g_interval 5",
        {"optimizer": "RMSprop", "train_g_interval": 5, "lr": 5e-5},
    ),
    ("gan_celeba", "--model dcgan --method wgan", {"method": "wgan", "train_g_interval": 1}),
    (
        "gan_celeba",
        "--log_name celeba --accelerator gpu --devices 1 --method wgan --train_g_interval 5 --max_steps 200000 --optimizer RMSprop --lr 5e-5 --batch_size 64",
        {"n_steps": 166_667, "device": "cuda", "train_g_interval": 5},
    ),
]


@pytest.mark.parametrize("script, command, expected", PROMISED)
def test_promised_commands_resolve(script, command, expected):
    config = resolve(command, script)
    assert {name: getattr(config, name) for name in expected} == expected


def test_legacy_flags_are_announced(capsys):
    resolve("--max_steps 200000 --train_g_interval 5 --accelerator cpu --devices 1")
    notices = capsys.readouterr().err
    assert "--n_steps 166667" in notices and "--device cpu" in notices and "--num_processes" in notices


def test_a_request_settles_and_tells_once(capsys):
    """The launcher asks early to refuse what cannot work, the run asks again."""
    asked = parse_config("gan_mnist", SCRIPTS["gan_mnist"], {}, ["--max_steps", "200"])
    assert asked.config() is asked.config() and asked.config().n_steps == 100
    assert capsys.readouterr().err.count("note:") == 1


@pytest.mark.parametrize("interval", ["--train_g_interval=5", "--train_g_interval 5", "--preset cifar10-gan"])
def test_legacy_steps_know_the_interval(interval):
    script = "gan_cifar10" if "cifar10" in interval else "gan_mnist"
    assert resolve(f"--max_steps 600 {interval}", script).n_steps == 500


def test_legacy_steps_and_todays_together():
    assert "give one" in refusal("--max_steps 600 --n_steps 9")
    assert "at least 2" in refusal("--max_steps 1")


@pytest.mark.parametrize("ema", ["", "--ema", "--ema --ema_decay 0.9 0.99", "--ema --ema_halflife 100"])
def test_a_runs_config_serves_another(tmp_path, ema):
    """Every run's saved config is a legal --config, and what it derived is derived anew."""
    first = resolve(f"--method gan {ema}")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(as_dict(first)))
    assert resolve(f"--config {file}") == first
    assert resolve(f"--config {file} --method wgan-gp").norm_d == "none"
    assert resolve(f"--config {file} --d_kwargs norm=layer").norm_d is None


def test_words_of_truth_in_settings():
    given = resolve(
        "--d_kwargs minibatch_stddev=false dropout=0.5 noise_layers=[0,1] activation=selu"
    ).d_kwargs
    assert given == {"minibatch_stddev": False, "dropout": 0.5, "noise_layers": [0, 1], "activation": "selu"}


def test_legacy_devices_name_the_launcher():
    assert "accelerate launch --num_processes 4" in refusal("--devices 4")


# Every flag of gan_*.py, to the letter: a renamed or dropped one breaks somebody's notes, a new one is a decision.
FLAGS = [
    "--ac_weight_d",
    "--ac_weight_fake",
    "--ac_weight_g",
    "--accelerator",
    "--accumulate",
    "--ada_interval",
    "--ada_kimg",
    "--ada_p",
    "--ada_pipe",
    "--ada_target",
    "--augment",
    "--batch_by_size",
    "--batch_size",
    "--beta1",
    "--bcr_weight",
    "--beta2",
    "--beta2_g",
    "--cache_dir",
    "--channels_last",
    "--checkpoint_interval",
    "--condition_d",
    "--condition_g",
    "--conditional",
    "--config",
    "--cr_weight",
    "--critic_warmup",
    "--crop",
    "--d_kwargs",
    "--data",
    "--data_b",
    "--data_device",
    "--data_root",
    "--dataset",
    "--deterministic",
    "--device",
    "--devices",
    "--direction",
    "--dragan_weight",
    "--drift_penalty",
    "--dry_run",
    "--ema",
    "--ema_decay",
    "--ema_halflife",
    "--ema_power",
    "--ema_rampup",
    "--ema_snapshot_kimg",
    "--ema_warmup",
    "--eval_interval",
    "--eval_n",
    "--eval_patience",
    "--extractor",
    "--factor",
    "--fade_kimg",
    "--flip",
    "--freeze_d",
    "--fresh_reals",
    "--g_kwargs",
    "--gamma",
    "--gp0_weight",
    "--gp_weight",
    "--health_interval",
    "--help",
    "--help_all",
    "--img_channels",
    "--img_size",
    "--init_from",
    "--instance_noise_steps",
    "--keep_checkpoints",
    "--label_smoothing",
    "--lecam_weight",
    "--list_presets",
    "--load_size",
    "--log_interval",
    "--log_name",
    "--loggers",
    "--lookahead",
    "--lr",
    "--lr_by_size",
    "--lr_d",
    "--lr_decay_from",
    "--lr_g",
    "--max_steps",
    "--method",
    "--metric_weights",
    "--metrics",
    "--mixed_precision",
    "--model",
    "--n_steps",
    "--no-channels_last",
    "--no-conditional",
    "--no-critic_warmup",
    "--no-deterministic",
    "--no-dry_run",
    "--no-ema",
    "--no-flip",
    "--no-fresh_reals",
    "--no-overwrite",
    "--no-san",
    "--no-spectral_norm_d",
    "--no-spectral_norm_g",
    "--no-sync_bn",
    "--no-tf32",
    "--no_grow",
    "--norm_d",
    "--norm_g",
    "--optimizer",
    "--ortho_weight",
    "--overwrite",
    "--pairing",
    "--path_length_weight",
    "--penalty",
    "--penalty_interval",
    "--pool_size",
    "--preset",
    "--r1_weight",
    "--r2_weight",
    "--resume",
    "--runs_dir",
    "--sample_interval",
    "--san",
    "--schedule",
    "--seed",
    "--source_channels",
    "--spectral_norm_d",
    "--spectral_norm_g",
    "--split",
    "--stable_kimg",
    "--sync_bn",
    "--tf32",
    "--term_weights",
    "--train_g_interval",
    "--value_range",
    "--weight_clip",
    "--weight_decay",
    "--z_dim",
    "--zcr_d_weight",
    "--zcr_g_weight",
    "-h",
]


def of_new_penalties() -> list[str]:
    """Flags that rows of PENALTIES bring with them, beyond those of the papers: no edit is asked for these."""
    rows = {name: row for name, row in PENALTIES.items() if name not in CUSTOMARY}
    return [f"--{flag}" for name, row in rows.items() for flag in (weight_name(name), row.also) if flag]


def test_flags_are_frozen():
    """A new one is a deliberate edit: of FLAGS here, and of the cases in tests/test_flags.py."""
    flags = make_parser("gan_mnist", None, ("mnist",))._option_string_actions
    assert sorted(flags) == sorted([*FLAGS, *of_new_penalties()])
    promised = {word for _, command, _ in PROMISED for word in command.split() if word.startswith("--")}
    assert promised <= set(FLAGS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_the_same_flags(script):
    assert sorted(make_parser(script, None, SCRIPTS[script])._option_string_actions) == sorted(
        [*FLAGS, *of_new_penalties()]
    )


def test_precedence_flag_config_preset_script_field(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("lr: 3e-4\nbeta1: 0.25\n")
    config = resolve(f"--preset mnist-dcgan --config {file} --beta1 0.1", batch_size=7, z_dim=9)
    assert config.beta1 == 0.1  # flag over file
    assert config.lr == 3e-4  # file over preset
    assert config.batch_size == 32  # preset over script
    assert config.z_dim == 9  # script over field
    assert config.seed == 0  # field


def test_saved_config_is_a_config_file(tmp_path):
    first = resolve("--model mlp --method wgan-gp --g_kwargs width=8 --loggers --ema --ema_decay 0.9 0.99")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(as_dict(first)))
    assert resolve(f"--config {file}") == first
    assert TrainConfig(**from_dict(as_dict(first))) == first


def test_a_config_file_neither_names_nor_replaces_a_run(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(as_dict(resolve("--log_name a --overwrite --lr 1e-3"))))
    config = resolve(f"--config {file}")
    assert (config.log_name, config.overwrite, config.lr) == (None, False, 1e-3)
    config = resolve(f"--config {file} --log_name b --overwrite")
    assert (config.log_name, config.overwrite) == ("b", True)


OF_THEIR_OWN = ("gan_ring8", "gan_pairs")  # whose data no recipe for images of latents is for
OFFERED = [
    (name, script)
    for name, row in PRESETS.items()
    for script in SCRIPTS
    if row.script == script or (row.script is None and script not in OF_THEIR_OWN)
]


def test_recipes_of_images_are_not_for_points():
    assert "invalid choice: 'stylegan2'" in refusal("--preset stylegan2", "gan_ring8")


@pytest.mark.parametrize("name, script", OFFERED)
def test_presets_resolve(name, script):
    config = resolve(f"--preset {name}", script)
    of_own = {"flip": False} if SCRIPTS[script] == ("folder",) else {}  # mirrored where their owner says so
    for key, value in (PRESETS[name].settings | of_own).items():
        if isinstance(value, dict) and isinstance(word := value.get("channel_base"), str):
            assert flat(config)[key] == value | {
                "channel_base": CHANNEL_BASES[word](max(image_shape(config.img_size)))
            }
        elif key == "schedule":
            assert flat(config)[key] == read_schedule(value) != {}
        elif value in ("auto", ("auto",)):
            assert isinstance(flat(config)[key], int | float | tuple) and value != flat(config)[key]
        else:
            assert flat(config)[key] == value
    assert PRESETS[name].source
    check_settings_of_networks(config)


def check_settings_of_networks(config):
    """Each network knows the settings that a preset has for it."""
    for side, network in network_classes(config.model).items():
        check_settings(config.model, network, getattr(config, f"{side}_kwargs"), "")


def test_rates_fall_for_the_same_share_of_a_shorter_run():
    """Of a preset; a start that is asked for, or that is 0, stays."""
    assert resolve("--preset pix2pix --data x --n_steps 100", "gan_pairs").lr_decay_from == 50
    assert (
        resolve("--preset pix2pix --data x --n_steps 100 --lr_decay_from 7", "gan_pairs").lr_decay_from == 7
    )
    assert resolve("--preset pix2pix --data x", "gan_pairs").lr_decay_from == 40_000
    assert resolve("--preset sngan --n_steps 100").lr_decay_from == 0


def test_presets_belong_to_their_scripts():
    assert {script for name, script in OFFERED if name == "stylegan2"} == set(SCRIPTS) - set(OF_THEIR_OWN)
    assert [script for name, script in OFFERED if name == "cifar10-stylegan2-ada"] == ["gan_cifar10"]
    assert "invalid choice" in refusal("--preset cifar10-stylegan2-ada", "gan_mnist")
    assert {PRESETS[name].settings["model"] for name in PRESETS if PRESETS[name].script is None} == {
        *("sngan", "sagan", "biggan"),
        *("progressive_gan", "stylegan", "stylegan2", "r3gan", "projected", "projected_stylegan2"),
    }


@pytest.mark.parametrize(
    ("name", "of_g", "of_d", "ends"),
    [
        ("cifar10", 20_781_952, 21_280_512, {"r1": 0.005, "ema_halflife": 5e6, "ada_p": 0.55}),
        ("ffhq64", 22_429_824, 22_381_440, {"r1": 0.2, "ema_halflife": 5e5, "ada_p": 0.3}),
        ("half", 5_647_488, 5_623_296, {"r1": 0.005, "ema_halflife": 5e5, "ada_p": 0.55}),
        ("quarter", 1_644_096, 1_632_000, {"r1": 0.005, "ema_halflife": 2e5, "ada_p": 0.3}),
        ("tiny", 135_536, 129_488, {"r1": 0.1, "ema_halflife": 1e4}),
    ],
)
def test_presets_of_r3gan(name, of_g, of_d, ends):
    """Sizes of the networks, and where the schedules end; those of half, quarter and tiny as early as the paper's."""
    config = resolve(f"--preset r3gan-{name}", "gan_cifar10")
    found = {key: config.curve(key)(1e12) for key in config.schedule}
    rates = {"lr": 2e-4, "beta2": 0.99} if name == "tiny" else {"lr": 5e-5, "beta2": 0.99}
    assert found == pytest.approx(ends | rates | {"r2": ends["r1"]})
    whole = config.n_steps * config.batch_size
    assert config.curve("lr").images / whole == pytest.approx(0.08, rel=0.03)
    assert config.penalties().keys() == {"r1", "r2"} and config.fresh_reals and config.method == "rpgan"
    sizes = {"img_size": config.img_size, "img_channels": 3, "n_labels": 10 if config.conditional else 0}
    with torch.device("meta"):
        G = build_generator("r3gan", z_dim=config.z_dim, **sizes, **config.g_kwargs)
        D = build_discriminator("r3gan", **sizes, **config.d_kwargs)
    assert [sum(p.numel() for p in net.parameters()) for net in (G, D)] == [of_g, of_d]


def test_presets_of_the_nvidia_family():
    """What the papers say of each, where they differ."""
    row = {
        name: resolve(f"--preset {name} --img_size 64", "gan_celeba")
        for name, s in OFFERED
        if s == "gan_celeba"
    }
    progan, stylegan, stylegan2 = row["progressive-gan"], row["stylegan"], row["stylegan2"]
    assert progan.penalties() == {"gp": (10.0, 1), "drift": (0.001, 1)}
    assert stylegan.penalties() == {"r1": (10.0, 1)} and growth_of(stylegan) is not None
    assert (
        stylegan2.penalties() == {"r1": (10.0, 16), "path_length": (2.0, 4)} and growth_of(stylegan2) is None
    )
    for config in (progan, stylegan, stylegan2):
        assert (config.beta1, config.beta2, config.z_dim, config.ema) == (0.0, 0.99, 512, True)
        assert config.ema_halflife == (10_000.0,)
    assert row["stylegan2-paper256"].augment == row["stylegan2-auto"].augment == ("ada",)
    cifar = resolve("--preset cifar10-stylegan2-ada", "gan_cifar10")
    assert cifar.penalties() == {"r1": (0.01, 16)} and cifar.augment == ("ada",)
    assert cifar.g_kwargs == {"mapping_layers": 2, "mixing": 0.0} and cifar.d_kwargs["architecture"] == "orig"
    # G's lazy correction for a 4th step, 4/5, stays on in the code without its penalty
    assert network_rates(cifar, ("D", "G")) == {"D": 0.0025, "G": pytest.approx(0.0025 * 4 / 5)}
    assert network_beta2(cifar, ("D", "G")) == {"D": 0.99, "G": pytest.approx(0.99199, abs=1e-5)}
    assert progan.lr_by_size == {"1024": 0.0015}
    assert stylegan.lr_by_size == {"128": 0.0015, "256": 0.002, "512": 0.003, "1024": 0.003}
    small = row["small-data"]
    assert small.penalties() == {"r1": (pytest.approx(0.0002 * 64**2 / 32), 16)} and not small.flip
    assert (small.batch_size, small.ema_halflife, small.augment) == (32, (10_000.0,), ("ada",))
    assert small.d_kwargs == {"channel_base": 32 * 64, "channel_max": 256}
    big = resolve("--preset small-data --img_size 1024x512", "gan_celeba")
    assert (big.batch_size, big.g_kwargs["channel_base"], big.lr) == (4, 32768, 0.002)


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("--preset sagan", (None, 1e-4, 4e-4)),
        ("--preset sagan --lr 3e-4", (3e-4, None, None)),
        ("--preset sagan --lr 3e-4 --lr_d 1e-3", (3e-4, None, 1e-3)),
        ("--preset sagan --lr_d 1e-3", (None, 1e-4, 1e-3)),
    ],
)
def test_a_rate_of_both_takes_the_place_of_a_presets_two(
    command: str, wanted: tuple[float | None, ...]
) -> None:
    """Of which a preset's --lr_d and --lr_g would leave nothing."""
    config = resolve(command)
    assert (config.lr if wanted[0] else None, config.lr_g, config.lr_d) == wanted


def test_a_beta2_of_both_takes_the_place_of_a_presets_for_g() -> None:
    preset = "--preset cifar10-stylegan2-ada"
    assert resolve(preset, "gan_cifar10").beta2_g is not None
    assert resolve(f"{preset} --beta2 .9", "gan_cifar10").beta2_g is None


def test_averages_that_begin_late_are_not_ramped():
    """BigGAN's: a copy before update 1000, .9999 at each update from then on; of 4 x 50 images, or of one batch."""
    for name, script, images in (
        ("biggan-cifar10", "gan_cifar10", 200),
        ("biggan", "gan_celeba", 2048),
        ("biggan-deep", "gan_celeba", 2048),
        ("sagan", "gan_celeba", 256),
    ):
        config = resolve(f"--preset {name}", script)
        steps = config.train_g_interval
        assert steps * config.batch_size == images
        for updates in (0, config.ema_warmup - 1, config.ema_warmup, 10**6):
            clock = partial(tuple, (updates, updates * steps, (updates + 1) * steps - 1))
            (_, decay) = make_averages(config, nn.Linear(1, 1), clock, schedule_of(config).images)["ema"]
            expected = 0 if updates < config.ema_warmup else 0.9999
            assert decay() == pytest.approx(expected, abs=1e-9)


def test_cifar_study_rows():
    """The seven unconditional rows of the CIFAR-10 study differ as its table says, and so do the four with labels."""
    study = {
        name: resolve(f"--preset {name}", "gan_cifar10")
        for name in PRESETS
        if name.startswith("cifar10-") and PRESETS[name].source == "xyfJASON/GANs-Implementations"
    }
    assert all(
        c.train_g_interval == 5 and c.n_steps == 200_000 and c.batch_size == 512 for c in study.values()
    )
    assert all(c.norm_d == "batch" and c.model == "simple_cnn" for c in study.values())
    rows = {name: c for name, c in study.items() if not c.conditional}
    assert len(rows) == 7
    assert rows["cifar10-gan-r1"].penalties() == {"r1": (10.0, 1)}
    assert rows["cifar10-wgan-gp"].penalties() == {"gp": (10.0, 1)} and rows["cifar10-wgan-gp"].beta2 == 0.9
    assert rows["cifar10-wgan"].optimizer == "RMSprop" and rows["cifar10-wgan"].lr == 2e-4
    assert rows["cifar10-sngan"].spectral_norm_d and rows["cifar10-sngan-hinge"].method == "hinge"
    assert rows["cifar10-lsgan"].method == "lsgan"
    labelled = {name: c for name, c in study.items() if c.conditional}
    assert {name: (c.condition_g, c.condition_d, c.lr, c.norm_g) for name, c in labelled.items()} == {
        "cifar10-cgan": ("concat", "concat", 2e-4, "batch"),
        "cifar10-cgan-cbn": ("cbn", "concat", 2e-4, None),
        "cifar10-acgan": ("cbn", "ac", 8e-4, None),
        "cifar10-sngan-projection": ("cbn", "projection", 8e-4, None),
    }
    acgan, projection = labelled["cifar10-acgan"], labelled["cifar10-sngan-projection"]
    # no classes of fakes for D
    assert [acgan.ac_weight_d, acgan.ac_weight_fake, acgan.ac_weight_g] == [1, 0, 1]
    assert projection.method == "hinge" and projection.spectral_norm_d and not projection.spectral_norm_g


def test_presets_of_the_hinge_family():
    """SNGAN, SA-GAN and BigGAN: what their papers say, and the model's own pair where there are labels."""
    rows = {
        name: resolve(f"--preset {name}", row.script or "gan_cifar10")
        for name, row in PRESETS.items()
        if row.settings["model"] in ("sngan", "sagan", "biggan")
    }
    assert len(rows) == 7
    for config in rows.values():
        assert config.method == "hinge" and config.beta1 == 0 and config.spectral_norm_d
        assert config.spectral_norm_g == (config.model != "sngan")
        if config.conditional:
            assert (
                config.condition_g == "cbn" and config.condition_d == "projection" and config.norm_g is None
            )
    assert [name for name, config in rows.items() if not config.conditional] == ["sngan", "celeba-sagan"]
    assert (rows["sngan"].train_g_interval, rows["sngan"].lr_decay_from, rows["sngan"].batch_size) == (
        5,
        0,
        64,
    )
    assert (
        network_rates(rows["sagan"], ("D", "G")) == {"D": 4e-4, "G": 1e-4} and rows["sagan"].img_size == 128
    )
    assert rows["biggan"].penalties() == {"ortho": (1e-4, 1)} and rows["biggan"].ema_warmup == 20_000
    assert rows["biggan-cifar10"].penalties() == {} and rows["biggan-cifar10"].train_g_interval == 4


def test_a_weight_alone_enables_its_penalty():
    assert resolve("--drift_penalty 0.001").penalties() == {"drift": (0.001, 1)}
    assert resolve("--penalty r1 drift --penalty_interval r1=16").penalties() == {
        "r1": (10.0, 16),
        "drift": (0.001, 1),
    }
    assert resolve("--method wgan-gp --gp_weight 0.1").penalties() == {"gp": (0.1, 1)}


def test_every_penalty_has_its_weight_flag():
    flags = make_parser("gan_mnist", None, ("mnist",))._option_string_actions
    assert all(f"--{weight_name(name)}" in flags for name in PENALTIES)


@pytest.mark.parametrize(
    "command, norm",
    [
        ("--method gan", "batch"),
        ("--method gan --model mlp", "none"),
        ("--method wgan-gp", "none"),
        ("--r1_weight 10", "none"),
        ("--penalty drift", "batch"),
        ("--spectral_norm_d", "none"),
        ("--method wgan-gp --norm_d layer", "layer"),
        ("--method wgan-gp --d_kwargs norm=layer", None),  # the network's own setting says it
    ],
)
def test_default_norm_of_d(command, norm):
    assert resolve(command).norm_d == norm


@pytest.mark.parametrize(
    "command, words",
    [
        ("--batch_size 0", "--batch_size 0"),
        ("--lr -1", "--lr -1"),
        ("--lr_d nan", "--lr_d nan"),
        ("--beta1 1", "--beta1"),
        ("--ema_decay 0.9", "--ema"),
        ("--ema --ema_decay 1", "below 1"),
        ("--label_smoothing 0.1 --method wgan", "gan"),
        ("--label_smoothing 0.6", "below 0.5"),
        ("--penalty_interval r1=16", "--penalty r1"),
        ("--penalty r1 --penalty_interval r1=0", "at least 1"),
        ("--keep_checkpoints 1", "at least 2"),
        ("--batch_size 10 --accumulate 3", "--accumulate 3"),
        ("--log_name a/b", "plain folder name"),
        ("--lr_decay_from 20000", "below --n_steps"),
        ("--config /nowhere.yaml", "No such file"),
        ("--n_steps 0", "--n_steps 0"),
        ("--instance_noise_steps 0 --d_kwargs noise_std=0.1", "at least 1"),
        ("--instance_noise_steps 10", "noise_std"),
        ("--log_name ..", "plain folder name"),
        ("--log_name '' --overwrite", "--log_name is empty"),
        ("--ema --ema_decay 0.9 --ema_halflife 10", "give one"),
        ("--ema --ema_decay", "at least one"),
        ("--ema --ema_decay 0.9 0.9", "each once"),
        ("--ema_power 0.05 0.05", "each width once"),
        ("--ema_power 0.3", "at most 0.28"),
        ("--ema_power 1e-4", "at least 0.001"),
        ("--ema_power 0.1 --ema_snapshot_kimg 0", "at least 0.001"),
        ("--ema --ema_snapshot_kimg 10", "needs --ema_power"),
        ("--weight_clip 0", "--weight_clip 0"),
        ("--norm_d none --d_kwargs norm=layer", "give one"),
        ("--penalty cr bcr", "bcr holds cr"),
        ("--cr_weight 1 --penalty bcr", "bcr holds cr"),
        ("--penalty r1 r1_approx", "one term"),
        ("--r2_approx_weight 1 --penalty r2", "one term"),
        ("--san --method wgan-gp", "give --method hinge"),
        ("--lookahead 1", "at least 2"),
        ("--lookahead 5 12", "a multiple of it, e.g. 5 5000"),
        ("--lookahead 5 5", "a multiple of it"),
        ("--lookahead 2 4 8", "one number of steps, or a second"),
        ("--lookahead 5 --train_g_interval 2", "a multiple of that"),
        ("--lookahead 5 5000 --n_steps 4999", "--lookahead 5000 must be at most --n_steps 4999"),
        ("--lookahead 5 --critic_warmup --train_g_interval 5", "leave one out"),
        ("--sync_bn --method wgan-gp --norm_d batch", "second derivative"),
        ("--path_length_weight 2", "stylegan, stylegan2, projected_stylegan2 have styles, not dcgan"),
        ("--model progressive_gan --penalty path_length", "not progressive_gan"),
        ("--no_grow", "dcgan never grows"),
        ("--no_grow --model stylegan2", "stylegan2 never grows"),
        ("--stable_kimg 1", "dcgan does not grow (progressive_gan, stylegan do)"),
        ("--fade_kimg 1 --model stylegan2", "stylegan2 does not grow"),
        ("--fade_kimg 1 --model stylegan --no_grow", "--fade_kimg 1.0: nothing grows with --no_grow; leave"),
        ("--model stylegan --stable_kimg -1", "at least 0"),
        ("--augment ada --ada_interval 0", "--ada_interval 0 keeps ada's strength at 0"),
        ("--augment ada --ada_interval 0 --ada_p 0.2 --ada_kimg 9", "--ada_kimg: nothing steers"),
        ("--augment ada --ada_pipe bgd", "bgcfn"),
        ("--augment color --ada_pipe bg", "--ada_pipe needs --augment ada"),
        ("--batch_by_size 4=8", "dcgan does not grow"),
        ("--augment ada --ada_kimg 0", "--ada_kimg"),
        ("--augment ada --ada_target 1.5", "--ada_target"),
        ("--augment blur", "translation"),
        ("--ema --ema_rampup 0.05", "--ema_halflife"),
        ("--ema_rampup 0.05", "needs --ema"),
        ("--gamma much", "float or auto"),
        ("--g_kwargs foo=1", "dcgan's Generator has no setting 'foo'; --g_kwargs takes norm, width"),
        ("--batch_size auto2", "int or auto"),
        ("--img_size 0", "img_size"),
        ("--img_size 64x", "img_size"),
        ("--img_size 4x5x6", "img_size"),
        ("--beta1 auto", "--beta1"),
    ],
)
def test_refused(command, words):
    assert words in refusal(command)


@pytest.mark.parametrize(
    "text, words",
    [
        ("speed: 3", "unknown setting 'speed'"),
        ("lr: fast", "lr must be float"),
        ("method: vae", "is not one of"),
        ("[1]", "must hold"),
        ("z_dim: 1.5", "must be int"),
        ("{", "not YAML"),
    ],
)
def test_bad_config_files(tmp_path, text, words):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert words in refusal(f"--config {file}")


@pytest.mark.parametrize(
    "command",
    ["--speed 3", "--method vae", "--batch_size many", "--meth gan", "--g_kwargs width", "--img_size wide"]
    + ["--lr soon"],
)
def test_unknown_flags_and_values_are_one_line(command):
    error = refusal(command)
    if "vae" in command:
        assert all(method in error for method in METHODS)


def printed(command: str, capsys, script: str = "gan_mnist", **defaults) -> list[str]:
    """Lines that a flag like --help prints before it ends."""
    with pytest.raises(SystemExit) as caught:
        resolve(command, script, **defaults)
    assert caught.value.code == 0
    return capsys.readouterr().out.splitlines()


def test_help_prints(capsys):
    """All flags but the oldest three, with their choices and weights, and no longer than a line is wide."""
    lines = printed("--help_all", capsys)
    hidden = {"--help", "-h", "--help_all", "--list_presets", "--max_steps", "--devices", "--accelerator"}
    shown = {name for name in FLAGS if not name.startswith("--no-")} - hidden
    heads = " ".join(line for line in lines if line.startswith("  --")).replace(",", " ").split()
    assert shown <= set(heads) and not {"--max_steps", "--accelerator"} & set(heads)
    assert all(name in " ".join(lines) for name in (*METHODS, *PENALTIES))
    assert max(map(len, lines)) <= 110


def test_resume_differences():
    old = as_dict(resolve("--n_steps 10"))
    new = as_dict(resolve("--n_steps 20 --lr 1e-3 --model mlp --log_interval 3"))
    refused, noticed = resume_differences(old, new)
    norms = ["norm_d: batch -> none", "norm_g: batch -> none"]  # the models' own
    assert sorted(refused) == ["model: dcgan -> mlp", *norms] and noticed == ["lr: 0.0002 -> 0.001"]
    del old["split"]  # a run older than the setting
    assert resume_differences(old, as_dict(resolve("--n_steps 20"))) == ([], [])


MAY_CHANGE = {
    "log_name", "runs_dir", "overwrite", "device", "n_steps", "data", "data_b", "data_root", "cache_dir",
    "data_name", "loggers", "log_interval", "health_interval", "sample_interval", "checkpoint_interval",
    "keep_checkpoints", "dry_run", "eval_interval", "eval_n", "extractor", "metric_weights", "metrics", "eval_patience",
    "ema_snapshot_kimg",
}  # fmt: skip


NOTICED = {"lr", "lr_by_size", "lr_d", "lr_g", "accumulate", "data_device", "mixed_precision"}


@pytest.mark.parametrize("name", [*(name for name in FIELDS if name != "penalty_weights"), *weight_names()])
def test_resume_refuses_every_change_that_makes_another_run(name):
    old = as_dict(resolve("--n_steps 10"))
    other = {name: 99} if name in FIELDS else {"penalty_weights": {weight_names()[name]: 99}}
    refused, noticed = resume_differences(old, old | other)
    assert bool(noticed) == (name in NOTICED)
    assert bool(refused) == (name not in MAY_CHANGE and not noticed)
    assert all(line.startswith(name) for line in refused + noticed)


# -- sizes, `auto`, growing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, size", [("64", 64), ("64x64", 64), ("160x128", (160, 128)), ("128X160", (128, 160))]
)
def test_sizes_on_the_command_line(text, size):
    assert resolve(f"--model mlp --img_size {text}").img_size == size


@pytest.mark.parametrize("text", ["img_size: 160x128", "img_size: [160, 128]", '{"img_size": [160, 128]}'])
def test_sizes_in_config_files(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert resolve(f"--config {file}").img_size == (160, 128)
    file.write_text("img_size: [160, 128, 3]")
    assert "img_size" in refusal(f"--config {file}")


def test_sizes_are_shown_as_they_are_typed():
    config = resolve("--model mlp --img_size 160x128")
    assert "img_size=160x128" in "\n".join(settings_text(config))
    assert TrainConfig(**from_dict(as_dict(config))) == config
    refused, _ = resume_differences(as_dict(config), as_dict(resolve("--model mlp --img_size 64")))
    assert refused == ["img_size: 160x128 -> 64"]
    assert resume_differences(as_dict(config), as_dict(config)) == ([], [])


ALL_AUTO = "--batch_size auto --lr auto --gamma auto --ema --ema_halflife auto"


@pytest.mark.parametrize(
    "size, processes, batch_size, lr, gamma, halflife",
    [
        ("256", 1, 16, 0.0025, 0.0002 * 65536 / 16, 5000),  # 4096 / 256 a process; 0.8192
        ("256", 8, 64, 0.0025, 0.0002 * 65536 / 64, 20_000),  # 8 * 16, at most 64; 0.2048
        ("32", 1, 32, 0.0025, 0.0064, 10_000),  # 128, at most 32 a process
        ("1024", 2, 8, 0.002, 26.2144, 2500),
        ("1024", 100, 400, 0.002, 0.524288, 125_000),  # a group of four a process
        ("160x128", 1, 24, 0.0025, 0.0002 * 160**2 / 24, 7500),  # 25, in groups of four
        ("64x256", 1, 16, 0.0025, 0.8192, 5000),  # the longer side
    ],
)
def test_auto_by_hand(monkeypatch, size, processes, batch_size, lr, gamma, halflife):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    config = resolve(f"--img_size {size} {ALL_AUTO}")
    assert (config.batch_size, config.lr) == (batch_size, lr)
    assert config.penalty_weights["r1"] == pytest.approx(gamma, rel=1e-12)
    assert config.ema_halflife == pytest.approx((halflife,))


def test_auto_length_is_25_million_images():
    assert resolve("--img_size 256 --batch_size auto --n_steps auto").n_steps == 25_000_000 // 16


def test_auto_knows_the_datasets_size_and_keeps_to_its_own_batch():
    """Gamma and half-life are of the batch that auto would take, as in the code, and a given one is warned of."""
    config = resolve("--gamma auto --batch_size 50")
    assert config.penalty_weights["r1"] == pytest.approx(0.0002 * 32**2 / 32)
    assert "--r1_weight auto are for auto's own batch of 32: --batch_size 50 is kept" in kept_batch(config)
    given = resolve("--img_size 256 --gamma auto --ema --ema_halflife auto --batch_size 4 --n_steps auto")
    own = resolve("--img_size 256 --gamma auto --ema --ema_halflife auto --batch_size auto --n_steps auto")
    assert (given.penalty_weights, given.ema_halflife) == (own.penalty_weights, own.ema_halflife)
    assert (given.n_steps, own.n_steps) == (25_000_000 // 4, 25_000_000 // 16)
    assert kept_batch(given).startswith("warning: --r1_weight auto and --ema_halflife auto")
    for quiet in (
        "--gamma auto --batch_size 32",
        "--gamma auto --batch_size auto",
        "--batch_size 50",
        "--lr auto",
    ):
        assert kept_batch(resolve(quiet)) is None


@pytest.mark.parametrize(
    "size, channel_base", [("64", 16384), ("256", 16384), ("512", 32768), ("512x640", 32768)]
)
def test_auto_is_half_as_wide_below_512_px(size, channel_base):
    config = resolve(f"--preset stylegan2-auto --img_size {size}")
    assert config.g_kwargs == {"channel_base": channel_base, "mapping_layers": 2}
    assert config.d_kwargs == {"channel_base": channel_base}
    assert config.asked["g_kwargs"]["channel_base"] == "auto"  # and a resumed run keeps the number
    assert base_of(as_dict(config))["g_kwargs"]["channel_base"] == channel_base
    assert (
        resolve(f"--preset stylegan2-auto --img_size {size} --g_kwargs channel_base=99").g_kwargs[
            "channel_base"
        ]
        == 99
    )


def test_gamma_is_another_name_of_r1_weight():
    assert resolve("--gamma 3").penalties() == resolve("--r1_weight 3").penalties() == {"r1": (3.0, 1)}
    assert resolve("--gamma auto") == resolve("--r1_weight auto")


def test_auto_in_a_file_and_settled_in_the_saved_config(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("batch_size: auto\nr1_weight: auto\nema: true\nema_halflife: [auto]\nimg_size: 256\n")
    config = resolve(f"--config {file}")
    assert (config.batch_size, config.ema_halflife) == (16, (5000.0,))
    saved = as_dict(config)
    assert "auto" not in (saved["batch_size"], saved["penalty_weights"]["r1"], *saved["ema_halflife"])
    file.write_text("beta1: auto")
    assert "beta1 must be float" in refusal(f"--config {file}")
    file.write_text("batch_size: 48\nema: true\nema_halflife: auto")
    assert resolve(f"--config {file}").ema_halflife == (10_000.0,)
    assert resolve(f"--config {file} --ema_halflife 5 auto").ema_halflife == (5.0, 10_000.0)


def test_growth_of_the_config():
    growth = growth_of(resolve("--model progressive_gan --img_size 64 --stable_kimg 2 --fade_kimg 1.5"))
    assert (growth.first, growth.last, growth.stable, growth.fade) == (4, 64, 2000, 1500)
    growth = growth_of(resolve("--model stylegan --img_size 64"))
    assert (growth.first, growth.stable, growth.fade) == (8, 600_000, 600_000)
    assert growth_of(resolve("--model stylegan --img_size 64 --no_grow")) is None
    assert (
        growth_of(resolve("--model stylegan2 --img_size 64")) is growth_of(resolve("--model dcgan")) is None
    )


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().lr = 1
    assert as_dict(TrainConfig())["g_kwargs"] == {}


def test_key_value_settings_join_the_presets() -> None:
    config = resolve("--preset biggan-deep --g_kwargs width=32")
    assert config.g_kwargs == {"deep": True, "width": 32} and config.d_kwargs == {"deep": True}
    assert resolve("--preset biggan-deep --g_kwargs deep=false").g_kwargs == {"deep": False}


@pytest.mark.parametrize(
    ("flags", "norm_d", "d_kwargs"),
    [
        ("--d_kwargs norm=none", None, {"norm": "none"}),
        ("--config FILE", "batch", {}),
        ("--config FILE --d_kwargs norm=layer", None, {"norm": "layer"}),
        ("--config FILE --norm_d instance", "instance", {}),
    ],
)
def test_a_flag_wins_over_the_other_way_to_say_a_norm(
    tmp_path: Path, flags: str, norm_d: str | None, d_kwargs: dict
) -> None:
    (tmp_path / "a.yaml").write_text("norm_d: batch\n")
    flags = flags.replace("FILE", str(tmp_path / "a.yaml"))
    config = resolve(f"--preset cifar10-gan {flags}", "gan_cifar10")
    assert (config.norm_d, config.d_kwargs) == (norm_d, d_kwargs)
    (tmp_path / "a.yaml").write_text("norm_d:\nd_kwargs: {norm: layer}\n")
    assert resolve(f"--config {tmp_path / 'a.yaml'} --norm_d batch").d_kwargs == {}
    assert "give one" in refusal("--norm_d none --d_kwargs norm=layer")


@pytest.mark.parametrize(
    ("script", "defaults", "flags", "expected"),
    [
        ("gan_celeba", {"img_size": 64, "flip": True}, "--dataset digits", (32, False)),
        ("gan_celeba", {"img_size": 64, "flip": True}, "--dataset digits --img_size 16 --flip", (16, True)),
        ("gan_celeba", {"img_size": 64, "flip": True}, "--config FILE", (32, False)),
        ("gan_celeba", {"img_size": 64, "flip": True}, "--dataset celeba", (64, True)),
        ("gan_cifar10", {"img_size": 32, "flip": True}, "--dataset digits", (32, False)),
        ("gan_cifar10", {"img_size": 32, "flip": True}, "--data a.zip", (32, True)),
        ("gan_mnist", {"img_size": 28}, "--dataset digits", (28, False)),
        ("gan_mnist", {"img_size": 28}, "--dataset celeba", (64, False)),
    ],
)
def test_another_scripts_images_leave_the_defaults_of_its_own(
    tmp_path: Path, script: str, defaults: dict, flags: str, expected: tuple
) -> None:
    (tmp_path / "a.yaml").write_text("dataset: digits\n")
    config = resolve(flags.replace("FILE", str(tmp_path / "a.yaml")), script, batch_size=128, **defaults)
    assert (config.img_size, config.flip) == expected and config.batch_size == 128


def test_flags_undo_a_presets_way_to_see_labels() -> None:
    config = resolve("--preset cifar10-acgan --condition_d projection", "gan_cifar10")
    assert (config.condition_d, config.ac_weight_fake) == ("projection", None)
    config = resolve("--preset cifar10-cgan-cbn --no-conditional", "gan_cifar10")
    assert (config.conditional, config.condition_g) == (False, None)


def test_a_generator_that_would_never_learn_is_refused() -> None:
    with pytest.raises(UserError, match="^n_steps 3: G is updated at step 4"):
        resolve("--n_steps 3 --train_g_interval 4")
    with pytest.raises(UserError, match="step 100"):
        resolve("--n_steps 99 --critic_warmup")
    assert resolve("--n_steps 4 --train_g_interval 4").n_steps == 4


def test_weight_of_classes_follows_the_method() -> None:
    classes = "--conditional --condition_d ac"
    assert resolve(f"{classes} --method wgan-gp").ac_weight_g == 0.1
    assert resolve(f"{classes} --method hinge").ac_weight_g == 1.0
    assert resolve(f"{classes} --method wgan-gp --ac_weight_g 2").ac_weight_g == 2.0
