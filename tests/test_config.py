"""The command line: precedence, refusals, presets, the promised and the oldest commands."""

import dataclasses
import json
import shlex

import pytest

from losses import METHODS, PENALTIES
from training import config as config_module
from training.config import (
    FIELDS,
    TrainConfig,
    as_dict,
    from_dict,
    make_parser,
    parse_config,
    resume_differences,
    weight_flag,
)
from training.errors import UserError
from training.presets import PRESETS

SCRIPTS = {"gan_mnist": ("mnist", "digits"), "gan_cifar10": ("cifar10",), "gan_celeba": ("celeba",)}


def resolve(command: str, script: str = "gan_mnist", **defaults) -> TrainConfig:
    return parse_config(script, SCRIPTS[script], defaults, shlex.split(command)).config()


def refusal(command: str, script: str = "gan_mnist") -> str:
    with pytest.raises(UserError) as caught:
        resolve(command, script)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_flags_are_frozen():
    """A renamed or dropped flag breaks somebody's notes."""
    flags = set(make_parser("gan_mnist", None, ("mnist",))._option_string_actions)
    assert {"--" + name for name in FIELDS} <= flags
    promised = {word for _, command, _ in PROMISED for word in command.split() if word.startswith("--")}
    assert promised <= flags


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


@pytest.mark.parametrize("name", PRESETS)
def test_presets_resolve(name):
    script = PRESETS[name].script
    config = resolve(f"--preset {name}", script)
    for key, value in PRESETS[name].settings.items():
        assert getattr(config, key) == value
    assert PRESETS[name].source


def test_cifar_study_rows():
    """The seven unconditional rows of the CIFAR-10 study differ as its table says."""
    rows = {
        name: resolve(f"--preset {name}", "gan_cifar10") for name in PRESETS if name.startswith("cifar10")
    }
    assert len(rows) == 7
    assert all(
        c.train_g_interval == 5 and c.n_steps == 200_000 and c.batch_size == 512 for c in rows.values()
    )
    assert all(c.norm_d == "batch" for c in rows.values())
    assert rows["cifar10-gan-r1"].penalties() == {"r1": (10.0, 1)}
    assert rows["cifar10-wgan-gp"].penalties() == {"gp": (10.0, 1)} and rows["cifar10-wgan-gp"].beta2 == 0.9
    assert rows["cifar10-wgan"].optimizer == "RMSprop" and rows["cifar10-wgan"].lr == 2e-4
    assert rows["cifar10-sngan"].spectral_norm_d and rows["cifar10-sngan-hinge"].method == "hinge"
    assert rows["cifar10-lsgan"].method == "lsgan"


def test_a_weight_alone_enables_its_penalty():
    assert resolve("--drift_penalty 0.001").penalties() == {"drift": (0.001, 1)}
    assert resolve("--penalty r1 drift --penalty_interval r1=16").penalties() == {
        "r1": (10.0, 16),
        "drift": (0.001, 1),
    }
    assert resolve("--method wgan-gp --gp_weight 0.1").penalties() == {"gp": (0.1, 1)}


def test_every_penalty_has_its_weight_flag():
    assert all(weight_flag(name) in FIELDS for name in PENALTIES)


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
        ("--log_name '' --overwrite", "plain folder name"),
        ("--ema --ema_decay 0.9 --ema_halflife 10", "give one"),
        ("--ema --ema_decay", "at least one"),
        ("--ema --ema_decay 0.9 0.9", "each once"),
        ("--weight_clip 0", "--weight_clip 0"),
        ("--norm_d none --d_kwargs norm=layer", "give one"),
        ("--sync_bn --method wgan-gp --norm_d batch", "second derivative"),
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
    "command", ["--speed 3", "--method vae", "--batch_size many", "--meth gan", "--g_kwargs width"]
)
def test_unknown_flags_and_values_are_one_line(command):
    error = refusal(command)
    if "vae" in command:
        assert all(method in error for method in METHODS)


def test_help_prints(capsys):
    with pytest.raises(SystemExit) as caught:
        resolve("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in FIELDS)


def test_resume_differences():
    old = as_dict(resolve("--n_steps 10"))
    new = as_dict(resolve("--n_steps 20 --lr 1e-3 --model mlp --log_interval 3"))
    refused, noticed = resume_differences(old, new)
    norms = ["norm_d: batch -> none", "norm_g: batch -> none"]  # the models' own
    assert sorted(refused) == ["model: dcgan -> mlp", *norms] and noticed == ["lr: 0.0002 -> 0.001"]
    del old["split"]  # a run older than the setting
    assert resume_differences(old, as_dict(resolve("--n_steps 20"))) == ([], [])


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().lr = 1
    assert config_module.as_dict(TrainConfig())["g_kwargs"] == {}
