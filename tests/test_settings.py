"""Settings by owner: construction, penalties of their table, switches and dependents, what a run writes down."""

import copy
import dataclasses
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from augmentation import AUGMENTATIONS
from errors import UserError, cli
from games.task import network_beta2, network_rates
from images.sources import DATASETS
from losses import METHODS, PENALTIES, Penalty
from metrics.features import EXTRACTORS
from metrics.score import METRICS
from modelling import MODELS
from settings import PRESETS, TrainConfig, as_dict, settled
from settings.command_line import make_parser, parse_config
from settings.files import asked_of, base_of, from_dict, settings_text
from settings.resume import as_first_asked, less_same_auto, resume_differences
from settings.section import default_of
from settings.sections import FIELDS, SECTIONS
from settings.sections.loss import LossSettings, unfold_weights
from settings.sections.model import ModelSettings
from tests.running import ROOT, run
from tests.test_config import SCRIPTS, refusal, resolve
from tests.test_own_model import OWN
from training.run import train

# Construction


def test_sections_share_no_field_and_make_all_of_the_config() -> None:
    names = [f.name for section in SECTIONS for f in dataclasses.fields(section)]
    assert len(names) == len(set(names)) == len(FIELDS)
    assert {f.name for f in dataclasses.fields(TrainConfig)} == {*names, "asked", "derived"}
    assert issubclass(TrainConfig, SECTIONS) and len({section.title for section in SECTIONS}) == len(SECTIONS)


def test_flat_names_and_their_types() -> None:
    config = TrainConfig(
        lr=1, ema=True, ema_decay=[0.9, 0.99], r1_weight=10, data=Path("a.zip"), img_size="32x64"
    )
    assert (config.lr, config.ema_decay, config.data) == (1.0, (0.9, 0.99), "a.zip")
    assert isinstance(config.lr, float) and config.img_size == (32, 64)
    assert config.penalty_weights == {"r1": 10.0} and config.penalties() == {"r1": (10.0, 1)}
    assert TrainConfig(penalty_weights={"r1": 10}, gp_weight=None) == TrainConfig(r1_weight=10.0)
    assert repr(TrainConfig(lr=1e-3, r1_weight=1)) == "TrainConfig(penalty_weights={'r1': 1.0}, lr=0.001)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bath_size": 3}, "unknown setting 'bath_size'; did you mean batch_size?"),
        ({"r1_weigth": 3}, "unknown setting 'r1_weigth'; did you mean r1_weight?"),
        ({"lr": "fast"}, "lr must be float or auto, not 'fast'"),
        ({"n_steps": 1.5}, "n_steps must be int or auto, not 1.5"),
        ({"ema": 1}, "ema must be bool, not 1"),
        ({"g_kwargs": 3}, "g_kwargs must be a mapping, not 3"),
        ({"lr": (1.0, 2.0)}, "lr takes one value, not (1.0, 2.0)"),
        ({"method": "wgn"}, "method: invalid choice: 'wgn' is not one of gan, "),
        ({"model": "dcgn"}, "did you mean dcgan?"),
        ({"penalty_weights": {"r3": 1}}, "penalty_weights: invalid choice: 'r3' is not one of gp, gp0, r1"),
        ({"penalty_weights": 3}, "penalty_weights must be a mapping of penalties to numbers, not 3"),
        ({"r1_weight": "much"}, "r1_weight must be float or auto, not 'much'"),
        ({"gp_weight": "auto"}, "gp_weight must be float, not 'auto'"),
        ({"r1_weight": -1}, "r1_weight -1.0 must be a number of at least 0"),
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
        ({"ada_kimg": 0.0, "augment": ["ada"]}, "ada_kimg 0.0 must be above 0"),
        ({"ada_p": 2, "augment": ["ada"]}, "ada_p 2.0 must be at most 1"),
        ({"beta2": 1}, "beta2 1.0 must be below 1"),
        ({"eval_n": 5}, "eval_n 5 must be at least 2|eval_n needs eval_interval"),
        ({"ema_decay": 0.9}, "ema_decay needs ema"),
        ({"condition_g": "cbn"}, "condition_g cbn needs conditional"),
        ({"ema": True, "ema_decay": 0.9, "ema_halflife": 9}, "two ways to say the same: give one"),
        ({"dataset": "ring8", "model": "mlp", "flip": True}, "flip: ring8 is of points"),
        ({"dataset": "ring8", "model": "mlp", "eval_interval": 9, "metrics": "kid"}, "metrics: the points of ring8"),
        ({"model": "a/file.py"}, "a/file.py"),
        ({"d_kwargs": {"foo": 1}}, "dcgan's Discriminator has no setting 'foo'; d_kwargs takes norm, width, "),
    ],
)  # fmt: skip
def test_construction_refuses_with_the_arguments_name(settings: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        TrainConfig(**settings)
    text = str(caught.value)
    assert any(part in text for part in message.split("|")) and "--" not in text and "\n" not in text


def test_replace_copies_and_checks_anew() -> None:
    config = TrainConfig(r1_weight=10, lr=1e-3)
    other = dataclasses.replace(config, r1_weight=3, gp_weight=1.0, batch_size=8)
    assert other.penalties() == {"gp": (1.0, 1), "r1": (3.0, 1)} and (other.lr, other.batch_size) == (1e-3, 8)
    assert other.asked == {"penalty_weights": {"r1": 3.0, "gp": 1.0}, "lr": 1e-3, "batch_size": 8}
    assert config.penalties() == {"r1": (10.0, 1)}
    with pytest.raises(ValueError, match="^batch_size 0 must"):
        dataclasses.replace(config, batch_size=0)
    for copied in (copy.deepcopy(settled(config)), pickle.loads(pickle.dumps(settled(config)))):
        assert copied == settled(config) and copied.asked == config.asked


@pytest.mark.parametrize(
    ("first", "change"),
    [
        ({"conditional": True}, {"conditional": False}),
        ({"conditional": True}, {"model": "stylegan"}),
        ({"model": "stylegan"}, {"no_grow": True}),
        ({"model": "progressive_gan"}, {"model": "dcgan"}),
        ({"model": "dcgan"}, {"d_kwargs": {"norm": "layer"}}),
        ({"sync_bn": True}, {"r1_weight": 1.0}),
        ({"n_steps": "auto", "batch_size": "auto"}, {"lr_decay_from": 10**9, "n_steps": 2 * 10**9}),
    ],
    ids=str,
)
def test_replace_takes_a_settled_config(first: dict, change: dict) -> None:
    """What was derived from the old values does not speak against new ones, and is derived anew."""
    changed = dataclasses.replace(settled(TrainConfig(**first)), **change)
    assert changed.asked == TrainConfig(**first | change).asked
    assert settled(changed) == settled(TrainConfig(**first | change))
    with pytest.raises(ValueError, match="condition_g concat needs conditional"):
        dataclasses.replace(settled(TrainConfig(conditional=True, condition_g="concat")), conditional=False)


def test_what_follows_is_checked_when_it_is_settled() -> None:
    asked = TrainConfig(batch_size="auto", accumulate=5)
    with pytest.raises(ValueError, match="^batch_size 32 is not divisible by accumulate 5"):
        settled(asked)


def test_configs_are_keys() -> None:
    """Equal ones are one key, in whatever order their mappings were given, settled or not."""
    kwargs = {"width": 8, "norm": "batch"}
    a, b = TrainConfig(g_kwargs=kwargs), TrainConfig(g_kwargs=dict(reversed(kwargs.items())))
    assert a == b and hash(a) == hash(b) and len({a, b, TrainConfig(), TrainConfig(r1_weight=1)}) == 3
    assert hash(settled(a)) == hash(settled(b))


def test_gamma_is_r1_weight_in_python_and_in_files_too(tmp_path: Path) -> None:
    assert TrainConfig(gamma=10) == TrainConfig(r1_weight=10) and TrainConfig(gamma=10).asked == {
        "penalty_weights": {"r1": 10.0}
    }
    (tmp_path / "a.yaml").write_text("gamma: auto\n")
    assert resolve(f"--config {tmp_path / 'a.yaml'}") == resolve("--gamma auto")
    with pytest.raises(ValueError, match="^gamma and r1_weight are the same setting: give one"):
        TrainConfig(gamma=10, r1_weight=10)


def test_a_section_works_alone() -> None:
    assert LossSettings(method="wgan-gp").penalties() == {"gp": (10.0, 1)}
    assert ModelSettings(conditional=True, condition_d="ac").class_head().classifies
    with pytest.raises(ValueError, match="^label_smoothing 0.6 must be below 0.5"):
        LossSettings(label_smoothing=0.6)
    with pytest.raises(ValueError, match="^z_dim 0 must be at least 1"):
        ModelSettings(z_dim=0)


# Two readers of one message


def test_a_command_line_reads_flags_and_python_reads_arguments(capsys: pytest.CaptureFixture) -> None:
    text = "--lr 0: leave --no-ema out (see accelerate launch --num_processes 2 a.py; or --batch_size a--b)"
    error = UserError(text)
    assert error.for_command_line == text
    assert str(error) == (
        "lr 0: leave ema=False out (see accelerate launch --num_processes 2 a.py; or batch_size a--b)"
    )

    @cli
    def main(argv: list[str]) -> int:
        raise error

    assert main([]) == 2 and capsys.readouterr().err == f"error: {text}\n"


def test_python_reads_arguments_where_the_command_line_reads_flags() -> None:
    with pytest.raises(UserError) as caught:
        resolve("--keep_checkpoints 1")
    assert str(caught.value).startswith("keep_checkpoints 1: at least 2")
    assert caught.value.for_command_line.startswith("--keep_checkpoints 1: at least 2")


# Tables are looked up when a command is read


@pytest.mark.parametrize(
    ("table", "row", "command"),
    [
        (METHODS, "gan", "--method mine"),
        (MODELS, "dcgan", "--model mine"),
        (DATASETS, "digits", "--dataset mine"),
        (METRICS, "fid", "--metrics fid mine --eval_interval 9"),
        (EXTRACTORS, "mnist-cnn", "--extractor mine --eval_interval 9"),
        (AUGMENTATIONS, "color", "--augment mine"),
        (PENALTIES, "drift", "--penalty mine"),
    ],
    ids=["method", "model", "dataset", "metric", "extractor", "augmentation", "penalty"],
)  # fmt: skip
def test_a_row_added_at_run_time_is_a_choice(
    monkeypatch: pytest.MonkeyPatch, table: dict, row: str, command: str
) -> None:
    assert "invalid choice: 'mine'" in refusal(command)
    new = dataclasses.replace(table[row], weight_name=None) if table is PENALTIES else table[row]
    monkeypatch.setitem(table, "mine", new)
    name = command.split()[0][2:]
    assert "mine" in str(getattr(resolve(command), name))
    assert TrainConfig(**from_dict(as_dict(resolve(command)))) == resolve(command)


def test_a_penalty_is_its_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    """A row makes its flag, its help, its name in files, and its place in a run's config."""
    row = Penalty(PENALTIES["drift"].fn, side="d", weight=0.5, help="a text of mine", also="mu")
    monkeypatch.setitem(PENALTIES, "mine", row)
    assert resolve("--mine_weight 2").penalties() == resolve("--mu 2").penalties() == {"mine": (2.0, 1)}
    assert resolve("--penalty mine --penalty_interval mine=4").penalties() == {"mine": (0.5, 4)}
    assert TrainConfig(mine_weight=2).penalties() == {"mine": (2.0, 1)}
    (tmp_path / "a.yaml").write_text("mine_weight: 2e0\n")
    config = resolve(f"--config {tmp_path / 'a.yaml'}")
    assert config.penalties() == {"mine": (2.0, 1)}
    (tmp_path / "config.json").write_text(json.dumps(as_dict(config)))
    assert resolve(f"--config {tmp_path / 'config.json'}") == config
    assert "--mine_weight -1.0 must be a number of at least 0" in refusal("--mine_weight -1")
    assert resume_differences(as_dict(config), as_dict(resolve("--mine_weight 3")))[0] == [
        "mine_weight: 2.0 -> 3.0"
    ]
    with pytest.raises(SystemExit):
        resolve("--help_all")
    assert "--mine_weight, --mu X" in (text := capsys.readouterr().out) and "a text of mine" in text


# Switches and their dependents


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--eval_n 10000", "--eval_n needs --eval_interval"),
        ("--metrics fid", "--metrics needs --eval_interval"),
        ("--ema_decay 0.999", "--ema_decay needs --ema"),
        ("--ema_warmup 0", "--ema_warmup needs --ema"),
        ("--ada_p 0", "--ada_p needs --augment ada"),
        ("--augment color --ada_target 0.6", "--ada_target needs --augment ada"),
        ("--ema --ema_halflife 10 --ema_decay 0.999", "give one"),
    ],
)
def test_a_typed_dependent_needs_its_switch_at_its_default_too(command: str, message: str) -> None:
    assert message in refusal(command)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--preset stylegan2-auto --no-ema", {"ema": False, "ema_halflife": (), "ema_rampup": None}),
        ("--preset stylegan2-auto --ema_decay 0.99", {"ema_decay": (0.99,), "ema_halflife": (), "ema_rampup": None}),
        ("--preset sagan --no-ema", {"ema": False, "ema_decay": (0.999,), "ema_warmup": 0}),
        ("--preset sagan --ema_halflife 9", {"ema_halflife": (9.0,), "ema_decay": (0.999,)}),
        ("--preset biggan --no-conditional", {"conditional": False, "condition_g": None}),
        ("--config FILE", {"ada_target": 0.5, "stable_kimg": 2.0, "augment": ("ada",)}),
        ("--config FILE --augment color", {"ada_target": 0.6, "augment": ("color",)}),
        ("--config FILE --no_grow", {"stable_kimg": None, "fade_kimg": None, "no_grow": True}),
        ("--config FILE --model stylegan2", {"stable_kimg": None, "model": "stylegan2"}),
    ],
)  # fmt: skip
def test_a_flag_that_switches_off_takes_the_dependents_with_it(
    tmp_path: Path, flags: str, expected: dict
) -> None:
    (tmp_path / "a.yaml").write_text("model: stylegan\naugment: [ada]\nada_target: 0.5\nstable_kimg: 2\n")
    config = resolve(f"{flags.replace('FILE', str(tmp_path / 'a.yaml'))} --img_size 64", "gan_celeba")
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_file_whose_switch_is_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("eval_n: 500\n")
    assert "--eval_n needs --eval_interval" in refusal(f"--config {tmp_path / 'a.yaml'}")


# What is written down


def old_form(config: TrainConfig) -> dict:
    """config.json as it was before: every setting by its flag's name, nothing about what was asked."""
    saved = as_dict(config)
    del saved["asked"]
    return unfold_weights(saved)


def test_asked_and_settled_are_written_side_by_side() -> None:
    config = resolve("--gamma auto --no-flip --model mlp", flip=True)
    saved = as_dict(config)
    assert saved["asked"] == {
        "dataset": "mnist", "flip": False, "model": "mlp", "penalty_weights": {"r1": "auto"},
    }  # fmt: skip
    assert saved["penalty_weights"] == {"r1": 0.0002 * 32**2 / 32}
    assert (saved["img_size"], saved["norm_d"], saved["spectral_norm_g"]) == (32, "none", False)
    assert json.loads(json.dumps(saved)) == saved
    assert asked_of(saved) == config.asked and TrainConfig(**from_dict(saved)) == config
    assert base_of(saved)["penalty_weights"] == {"r1": 0.0002 * 32**2 / 32}


def test_settling_starts_from_what_was_asked() -> None:
    config = settled(TrainConfig(method="gan"))
    assert config.norm_d == "batch" and settled(config) == config
    assert settled(dataclasses.replace(config, method="wgan-gp")).norm_d == "none"
    assert settled(dataclasses.replace(config, norm_d="layer", method="wgan-gp")).norm_d == "layer"
    precise = dataclasses.replace(config, mixed_precision="bf16")
    assert precise.asked == {"method": "gan", "mixed_precision": "bf16"} and settled(precise) == precise


def test_another_run_settles_what_was_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve("--gamma auto --batch_size auto --model dcgan")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(as_dict(first)))
    smaller = resolve(f"--config {file} --model mlp --img_size 28")
    assert smaller.penalty_weights == {"r1": 0.0002 * 28**2 / 32}
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert resolve(f"--config {file}").batch_size == 2 * first.batch_size
    # ... but a resumed run goes on with its own numbers
    again = resolve_resumed(as_dict(first), "--n_steps 30000")
    assert resume_differences(as_dict(first), as_dict(again)) == ([], [])


def resolve_resumed(saved: dict, command: str) -> TrainConfig:
    """What --resume makes of a run's config.json."""
    request = parse_config("gan_mnist", ("mnist",), {}, command.split())
    return replace(request, flags=less_same_auto(request.flags, saved)).config(base_of(saved))


@pytest.mark.parametrize(
    "preset", ["mnist-dcgan", "stylegan2", "biggan", "progressive-gan", "mnist-modes-wgan-gp"]
)
def test_a_config_of_before_resumes_and_serves_another(tmp_path: Path, capsys, preset: str) -> None:
    """Its values all count as asked, which one line says."""
    first = resolve(f"--preset {preset} --img_size 32")
    old = old_form(first)
    assert old["r1_weight"] == first.penalty_weights.get("r1") and "penalty_weights" not in old
    again = resolve_resumed(old, "--n_steps 2000000")
    assert resume_differences(old, as_dict(again)) == ([], [])
    assert dataclasses.replace(again, n_steps=first.n_steps) == first
    file = tmp_path / "config.json"
    file.write_text(json.dumps(old))
    capsys.readouterr()
    assert resolve(f"--config {file}") == first
    assert capsys.readouterr().err.count("all its values count as asked") == 1
    assert resolve(f"--config {file} --seed 3") == dataclasses.replace(first, seed=3)


def test_idle_settings_of_a_config_of_before_are_passed_over() -> None:
    old = old_form(resolve("")) | {"eval_n": 64, "ema_halflife": [5.0], "ada_p": 0.5}
    again = resolve_resumed(old, "--lr 1e-3")
    assert (again.eval_n, again.ema_halflife, again.ada_p) == (10_000, (), 0.0)
    assert resume_differences(old, as_dict(again)) == ([], ["lr: 0.0002 -> 0.001"])


# Asked at first, and at a resume


def saved_of(folder: Path, name: str) -> dict:
    """config.json of a run."""
    return json.loads((folder / name / "config.json").read_text())


def test_a_resumed_run_was_asked_what_it_was_asked_at_first(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    auto = "--batch_size auto --lr auto --gamma auto --norm_d none"
    loop = run(f"--log_name a {auto} --n_steps 1", tmp_path)
    assert "is kept" not in capsys.readouterr().err
    run("--log_name b --gamma auto --n_steps 1", tmp_path)
    assert "auto's own batch of 32: --batch_size 8 is kept" in capsys.readouterr().err
    run("--log_name b --resume --n_steps 2", tmp_path)
    assert "is kept" not in capsys.readouterr().err
    first = saved_of(tmp_path, "a")
    assert (first["mixed_precision"], first["batch_size"], first["lr"]) == ("no", 32, 0.0025)
    assert "mixed_precision" not in first["asked"] and asked_of(first) == loop.config.asked
    assert (first["asked"]["batch_size"], first["asked"]["penalty_weights"]) == ("auto", {"r1": "auto"})
    for n_steps in (2, 3):
        run(f"--log_name a --resume --n_steps {n_steps} --log_interval 1", tmp_path)
        expected = {"n_steps": n_steps, "log_interval": 1}
        assert saved_of(tmp_path, "a") == first | expected | {"asked": first["asked"] | expected}
    again = train(TrainConfig(n_steps=4), resume=tmp_path / "a").loop.config
    assert again.asked == asked_of(first) | {"n_steps": 4, "log_interval": 1}
    assert again.derived.keys() >= {"batch_size", "lr", "penalty_weights", "mixed_precision"}


def test_a_precision_that_nobody_asked_for_is_the_launchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run of the same config.json takes its own; a resumed one keeps its first."""
    run("--log_name a --n_steps 1", tmp_path)
    run("--log_name b --n_steps 1 --mixed_precision fp16", tmp_path)
    assert saved_of(tmp_path, "b")["mixed_precision"] == "no"  # there is none on the CPU ...
    assert saved_of(tmp_path, "b")["asked"]["mixed_precision"] == "fp16"  # ... but elsewhere
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    loop = run(f"--config {tmp_path}/a/config.json --log_name c", tmp_path)
    assert loop.accelerator.mixed_precision == saved_of(tmp_path, "c")["mixed_precision"] == "bf16"
    for name in "ab":
        assert run(f"--log_name {name} --resume --n_steps 2", tmp_path).accelerator.mixed_precision == "no"


def test_a_resumed_runs_own_model_is_asked_by_its_first_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    run(f"--log_name a --model {file} --n_steps 1", tmp_path)
    file.unlink()
    for n_steps in (2, 3):
        config = run(f"--log_name a --resume --n_steps {n_steps}", tmp_path).config
        assert (config.model, config.asked["model"]) == (str(tmp_path / "a" / "model.py"), str(file))
        assert dataclasses.replace(config, lr=1.0).lr == 1.0
    assert saved_of(tmp_path, "a")["asked"]["model"] == str(file)


def test_a_mapping_asked_for_at_a_resume_joins_the_first(tmp_path: Path) -> None:
    old = as_dict(resolve("--gamma auto --ema --ema_halflife auto 5"))
    config = as_first_asked(resolve_resumed(old, "--gp_weight 2 --batch_size 64"), old)
    assert config.asked["penalty_weights"] == {"r1": "auto", "gp": 2.0}
    assert config.asked["ema_halflife"] == ("auto", 5.0) and config.asked["batch_size"] == 64
    assert config.penalty_weights == old["penalty_weights"] | {"gp": 2.0}


@pytest.mark.parametrize(
    ("first", "again", "kept"),
    [
        ("--preset mnist-dcgan --batch_size 8", "--preset mnist-dcgan", "batch_size"),
        ("--preset mnist-dcgan --batch_size 8", "--preset mnist-dcgan --batch_size 8", ""),
        ("--model progressive_gan --no_grow", "--preset mnist-dcgan --n_steps 9 --batch_size 64 --lr 2e-4", "model"),
        ("--preset stylegan2-auto --no-ema", "--preset stylegan2-auto", "ema"),
        ("--preset stylegan2-auto --ema_decay 0.9", "--preset stylegan2-auto", ""),
        ("--config FILE --lr 1e-3", "--config FILE", "lr"),
        ("--config FILE", "--config FILE --batch_size 50 --lr 1e-4", ""),
    ],
)  # fmt: skip
def test_a_preset_or_file_does_not_overrule_what_a_resumed_run_was_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture, first: str, again: str, kept: str
) -> None:
    (tmp_path / "a.yaml").write_text("lr: 2e-4\nbatch_size: 50\n")
    first, again = (words.replace("FILE", str(tmp_path / "a.yaml")) for words in (first, again))
    old = as_dict(resolve(first))
    capsys.readouterr()
    config = resolve_resumed(old, again)
    assert resume_differences(old, as_dict(config))[0] == []
    notes = capsys.readouterr().err
    assert f"the run keeps its own {kept}: at --resume flags alone win" in notes if kept else notes == ""


# What presets said before: batches, rates and averages of today's are others, and some settings did not exist.
EARLIER = {
    "progressive-gan": {"batch_size": 16, "n_steps": 1_187_500, "batch_by_size": None, "lr_by_size": None},
    "stylegan": {"n_steps": 781_250, "batch_by_size": None, "lr_by_size": None},
    "cifar10-stylegan2-ada": {"lr": 2.5e-3, "lr_d": None, "beta2_g": None},
    "biggan-cifar10": {"ema_halflife": None, "ema_decay": (0.9999,)},
    "sagan": {"ema_halflife": None, "ema_decay": (0.9999,)},
}
YOUNG = {"batch_by_size", "lr_by_size", "beta2_g", "ada_pipe"}


@pytest.mark.parametrize("name", EARLIER)
def test_a_run_of_a_preset_as_it_was_goes_on_with_its_own(name: str) -> None:
    """The same command with --resume: nothing that moves weights is another, and nothing is refused."""
    script = PRESETS[name].script or "gan_celeba"
    settings = {k: v for k, v in (PRESETS[name].settings | EARLIER[name]).items() if v is not None}
    config = settled(TrainConfig(dataset="celeba", split="train", **{"img_size": 64} | settings))
    old = {k: v for k, v in as_dict(config).items() if k not in YOUNG}
    request = parse_config(script, SCRIPTS[script], {}, ["--preset", name, "--resume"])
    again = request.config(base_of(old))
    refused, noticed = resume_differences(old, as_dict(again))
    assert refused == [] and noticed in ([], ["lr_d: None -> 0.0025"])
    for of in (network_rates, network_beta2):
        assert of(again, ("D", "G")) == of(config, ("D", "G"))


def test_auto_stays_what_it_was_at_first() -> None:
    """The whole command once more, on a run from a time or a number of processes for which auto stood for others."""
    command = "--model stylegan2 --batch_size 8 --lr auto --r1_weight auto --ema --ema_halflife auto"
    command += " --g_kwargs channel_base=auto"
    then = {
        "lr": 0.125,
        "penalty_weights": {"r1": 7.0},
        "ema_halflife": (321.0,),
        "g_kwargs": {"channel_base": 96},
    }
    old = as_dict(resolve(command)) | then
    again = resolve_resumed(old, command)
    assert {name: getattr(again, name) for name in then} == then
    assert resume_differences(old, as_dict(again)) == ([], [])
    # what the run had not left to auto is another setting
    for other in ("--batch_size auto", "--z_dim 7"):
        refused, _ = resume_differences(old, as_dict(resolve_resumed(old, f"{command} {other}")))
        assert len(refused) == 1


def test_what_a_resumed_run_was_not_asked_still_differs() -> None:
    """A preset that the run had not been started with is another run's."""
    old = as_dict(resolve("--batch_size 8"))
    refused, _ = resume_differences(old, as_dict(resolve_resumed(old, "--preset mnist-modes-wgan-gp")))
    assert refused and not any(line.startswith("batch_size") for line in refused)


def test_differences_are_of_settled_values() -> None:
    old = as_dict(resolve("--model dcgan --penalty_interval r1=4 --r1_weight 1"))
    new = as_dict(resolve_resumed(old, "--penalty_interval r1=8 --g_kwargs width=3 --norm_d none"))
    refused, noticed = resume_differences(old, new)
    assert refused == ["g_kwargs.width: (absent) -> 3", "penalty_interval.r1: 4 -> 8"] and noticed == []


def test_what_is_shown_is_what_differs() -> None:
    config = resolve("--preset stylegan2 --no-flip --channels_last --g_kwargs mixing=0.5")
    lines = settings_text(config, "stylegan2")
    assert lines[0] == "preset: stylegan2" and len(lines) < 8
    text = "\n".join(lines)
    assert "r1_weight=10.0" in text and "g_kwargs=mixing=0.5" in text and "ema_halflife=10000.0" in text
    assert not any(word in text for word in ("None", "False", "channels_last", "gp_weight", "runs_dir"))
    assert settings_text(TrainConfig()) == []
    for line in lines[1:]:
        for word in line.partition(": ")[2].split("  "):
            name = word.partition("=")[0]
            assert name not in FIELDS or getattr(config, name) != default_of(FIELDS[name])


def test_presets_are_arguments() -> None:
    for row in PRESETS.values():
        settled(TrainConfig(**row.settings, **({"img_size": 32} if "img_size" not in row.settings else {})))


# The files of settings


def test_files_are_short() -> None:
    for file in (ROOT / "settings").rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) < 250, file


def test_every_flag_of_a_penalty_has_one_place() -> None:
    flags = make_parser("gan_mnist", None, ("mnist",))._option_string_actions
    for name in PENALTIES:
        assert name not in FIELDS and f"{name}_weight" not in FIELDS
    assert flags["--gamma"] is flags["--r1_weight"]
