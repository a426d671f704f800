"""What a stranger reads first: --help of a page, --list_presets, what a mistyped word may have meant, and soon."""

import importlib
import subprocess
import sys

import pytest

from settings.presets import PRESETS
from tests.running import ROOT
from tests.test_config import SCRIPTS, refusal


def shown(script: str, flag: str, capsys: pytest.CaptureFixture) -> str:
    """What a script prints for a flag that ends it."""
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(script).main([flag])
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_a_page_with_examples_first(script: str, capsys: pytest.CaptureFixture) -> None:
    lines = shown(script, "--help", capsys).splitlines()
    assert 50 <= len(lines) <= 66
    assert lines[0].startswith("Train a GAN") and lines[2].startswith(f"python {script}.py --")
    ours = lines[next(i for i, line in enumerate(lines) if line.startswith("The flags used most")) :]
    assert max(map(len, ours)) <= 110
    assert "--help_all" in lines[-1] and "--list_presets" in lines[-1]
    assert sum(line.startswith("  --") for line in ours) < 40


@pytest.mark.parametrize(
    ("script", "parts"),
    [
        ("gan_celeba", ("[celeba]", "(default: the dataset's) [64]", "or auto [128]", "probability one half [on]")),
        ("gan_mnist", ("[mnist]", "dataset's) [32]", "or auto [64]", "probability one half\n", "of it [0]")),
        ("gan_ring8", ("which images: ring8, grid25 [ring8]", "[mlp]", "N(0, 1) [32]", "or auto [0.0003]")),
    ],
)  # fmt: skip
def test_help_shows_the_scripts_own_defaults(script: str, parts: tuple[str, ...], capsys) -> None:
    text = shown(script, "--help", capsys)
    assert [part for part in parts if part not in text] == []


def test_presets_are_listed_with_all_there_is_to_know(capsys: pytest.CaptureFixture) -> None:
    text = " ".join(shown("gan_cifar10", "--list_presets", capsys).split())
    for name, row in PRESETS.items():
        if row.script in ("gan_cifar10", None):
            assert f"{name} {row.source}" in text and row.score in text
    assert "200,000 steps of 512: 102 million images" in text
    assert "--penalty_interval r1=16" in text and "--ema_halflife 500000.0" in text and "--no-flip" in text
    assert "path_length_weight None" not in text
    assert "mnist-dcgan, " in text.split("Of other scripts: ")[1]
    points = shown("gan_ring8", "--list_presets", capsys)
    assert "\nring8-gan\n" in points and "\nstylegan2\n" not in points


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("--meth gan", "did you mean --method?"),
        ("--batch-size 64", "did you mean --batch_size?"),
        ("--batchsize=64", "did you mean --batch_size?"),
        ("--no_flip", "did you mean --no-flip?"),
        ("--no-no_grow", "did you mean --no_grow?"),
        ("--r1_weigth 3", "did you mean --r1_weight?"),
        ("--max-steps 3", "--help lists the flags"),
        ("--ema True", "--ema takes no value: give --ema or --no-ema alone"),
        ("--no_grow true", "--no_grow takes no value: give --no_grow alone"),
        ("--ema=1", "the flag takes no value"),
        ("--method wgangp", "did you mean wgan-gp?"),
        ("--model DCGAN", "did you mean dcgan?"),
        ("--preset mnist-dcgn", "did you mean mnist-dcgan?"),
        ("--dataset digit", "did you mean digits?"),
        ("--penalty r1 dift", "did you mean drift?"),
        ("--condition_g cbm --conditional", "did you mean cbn?"),
    ],
)
def test_a_mistyped_word_may_have_meant_another(command: str, meant: str) -> None:
    assert meant in refusal(command)


def test_a_script_names_the_data_sets_that_it_takes() -> None:
    error = refusal("--dataset celebaa")
    assert "did you mean celeba?" in error and "stacked-mnist, digits" not in error
    assert "digits" in error and "ring8" not in error and "grid25" not in error


def test_nothing_heavy_is_imported_before_a_command_is_read() -> None:
    """Neither a typo nor --help waits for what training needs."""
    code = (
        "import sys, gan_mnist\n"
        "assert gan_mnist.main(['--methd', 'gan']) == gan_mnist.main(['--eval_n', '5']) == 2\n"
        "heavy = {'accelerate', 'tensorboard', 'torchvision', 'torch_fidelity', 'yaml', 'scipy', 'torch._dynamo', "
        "'training.run', 'wandb'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert "did you mean --method?" in done.stderr and "--eval_n needs --eval_interval" in done.stderr
