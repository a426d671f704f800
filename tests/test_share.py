"""What is shared of a generator: that it loads and draws alike, what its card says, that nothing private is in it."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

import generation.hub
from errors import UserError
from generation import load_generator, load_translator, sample
from generation.hub import downloaded
from settings import TrainConfig
from settings.command_line import parse_config
from settings.files import as_dict, asked_of
from tests.running import cheap
from tests.test_tools import export, refused
from tools import sample as sample_tool
from tools import share
from tools.card import command_of, last_part, licence_text, scores_of, terms_of, without_paths
from tools.common import scores_file, title_of
from tools.space import FLOORS, write_space

SECRET = "/home/bob-marley/secret place"
COMMAND = (
    "--dataset digits --data_root /home/bob-marley/secret --cache_dir /home/bob-marley/cache --log_name private "
    "--runs_dir /home/bob-marley --img_size 16 --model dcgan --method hinge --r1_weight 0.5 --penalty_interval r1=8 "
    "--lr_d 0.001 --ema --no-channels_last --g_kwargs width=8 --n_steps 20 --extractor mnist-cnn --eval_interval 10 "
    "--metric_weights /home/bob-marley/reader.safetensors --device cpu"
)
SCORE = {"step": 7, "fid": 12.3456, "date": "2026-01-01T00:00:00+00:00", "protocol": {
    "best_by": ["fid", "low"], "fakes": "generator", "n_fake": 96, "reference": f"{SECRET}/a.zip",
    "settings": {"l1": "mean of |x - y| / 255"}, "extractor": "C:\\Users\\bob-marley\\reader.safetensors"}}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of classes with settings and a score that name places of one machine, a plain one, one with styles."""
    folder = tmp_path_factory.mktemp("runs")
    with cheap():
        export(folder / "plain")
        export(folder / "styles", model="stylegan2")
        run = export(folder / "classes", 10, tuple("0123456789"))
    config = parse_config("gan_mnist", ("mnist", "digits"), {}, shlex.split(COMMAND)).config()
    (run / "config.json").write_text(json.dumps(as_dict(config)))
    (run / "scores.jsonl").write_text(json.dumps(SCORE) + "\n")
    file = run / "generator" / "config.json"
    about = json.loads(file.read_text())
    about["data"] |= {"data": f"{SECRET}/digits", "host": "bobs-laptop"}
    file.write_text(json.dumps(about | {"author": "bob-marley"}))
    return folder


@pytest.fixture(scope="module")
def shared(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is shared of the run of classes."""
    out = tmp_path_factory.mktemp("shared") / "classes"
    assert share.main([str(runs / "classes"), "--out", str(out), "--name", "Ten digits"]) == 0
    return out


def head_and_text(folder: Path) -> tuple[dict, str]:
    """Of README.md."""
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


# -- the folder ------------------------------------------------------------------------------------------------------


def test_what_is_shared_draws_the_same(runs: Path, shared: Path, tmp_path: Path) -> None:
    wanted, found = (sample(*load_generator(path), 4, 3, label="2") for path in (runs / "classes", shared))
    assert torch.equal(wanted, found)
    assert load_generator(shared)[1]["step"] == 7
    assert sample_tool.main([str(shared), "--n", "4", "--out", str(tmp_path / "grid.png")]) == 0


def test_the_card_says_what_is_known(shared: Path) -> None:
    head, text = head_and_text(shared)
    assert head["license"] == "cc-by-4.0" and head["library_name"] == "gan-toolkit"
    assert head["pipeline_tag"] == "unconditional-image-generation" and {"gan", "dcgan"} <= set(head["tags"])
    assert text.startswith("# Ten digits\n")
    for part in (
        "![samples](samples.png)", "step 7, ema weights", "load_generator(\"hf:USER/NAME\")", "| fid |", "12.35",
        '"n_fake": 96', "mean of |x - y| / 255", "Optical Recognition", "## Intended use and limits",
    ):  # fmt: skip
        assert part in text
    assert (
        "CC-BY-4.0: https://creativecommons.org/licenses/by/4.0/legalcode" in (shared / "LICENSE").read_text()
    )


def test_pictures_of_it_can_be_opened(shared: Path) -> None:
    for name, kind in (("samples.png", "PNG"), ("thumbnail.png", "PNG"), ("walk.webp", "WEBP")):
        with Image.open(shared / name) as picture:
            assert picture.format == kind
    with Image.open(shared / "thumbnail.png") as picture:
        assert max(picture.size) <= 256 and min(picture.size) >= 128


def test_nothing_private_is_in_it(shared: Path, runs: Path) -> None:
    words = (b"bob", b"marley", b"secret", b"laptop", b"private", os.fsencode(str(runs)), b"/home/")
    for file in filter(Path.is_file, shared.rglob("*")):
        data = file.read_bytes()
        assert [word for word in words if word in data] == [], file.name


def test_the_command_asks_for_the_same_settings(runs: Path, shared: Path) -> None:
    command = shlex.split(head_and_text(shared)[1].split("```\npython ")[1].split("\n```")[0])
    assert command[0] == "gan_mnist.py"
    found = parse_config("gan_mnist", ("mnist", "digits"), {}, command[1:]).config().asked
    asked = asked_of(json.loads((runs / "classes" / "config.json").read_text()))
    machine = {"data_root", "cache_dir", "runs_dir", "log_name", "device"}
    wanted = {k: v for k, v in asked.items() if k not in machine} | {"metric_weights": "reader.safetensors"}
    assert {k: found.get(k) for k in wanted} == wanted and not machine & found.keys()


def test_a_command_of_pairs_and_sizes() -> None:
    asked = {"dataset": "folder", "model": "pix2pix", "img_size": (16, 24), "data": f"{SECRET}/pairs.zip",
             "metrics": ["l1", "psnr"], "flip": False, "g_kwargs": {"width": 4, "norm": None}}  # fmt: skip
    assert command_of(asked) == (
        "python gan_pairs.py --dataset folder --model pix2pix --img_size 16x24 --data pairs.zip --metrics l1 psnr "
        "--no-flip --g_kwargs width=4 norm=none"
    )


def test_a_command_takes_each_setting_back_as_it_was() -> None:
    """Flags that say `no`, dictionaries that hold nothing, numbers below 0, weights of penalties."""
    asked = {"dataset": "folder", "data": "x.zip", "model": "progressive_gan", "no_grow": False, "g_kwargs": {},
             "img_size": 16, "value_range": [-1.0, 1.0],
             "penalty_weights": {"drift": 0.5, "r1": 2.0}}  # fmt: skip
    command = shlex.split(command_of(asked))
    found = parse_config("gan_folder", ("folder",), {}, command[2:]).config()
    assert {k: v for k, v in found.asked.items() if k != "no_grow"} == {
        k: v for k, v in asked.items() if k not in ("no_grow", "g_kwargs")
    } | {"value_range": (-1.0, 1.0)}
    assert not found.no_grow


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/home/bob/x.zip", "x.zip"),
        ("/home/bob/my photos/x.zip", "x.zip"),
        ("~/photos/cats", "cats"),
        ("C:\\Users\\bob\\x.npz", "x.npz"),
        ("\\\\server\\share\\x", "x"),
        ("file:///home/bob/x", "x"),
        ("reader:/home/bob/x.pt", "reader:x.pt"),
        ("of /home/bob/x, and /mnt/y.", "of x, and y."),
        ("mean of |x - y| / 255", "mean of |x - y| / 255"),
        ("https://a.org/b/c", "https://a.org/b/c"),
        ("hf:user/name", "hf:user/name"),
        ("`python -m tools.sample hf:u/n --out a/b.png`", "`python -m tools.sample hf:u/n --out a/b.png`"),
        ("1/255 and 3 / 4", "1/255 and 3 / 4"),
        ("cpu (x86_64)", "cpu (x86_64)"),
    ],
)
def test_absolute_paths_are_cut_to_their_last_part(text: str, wanted: str) -> None:
    assert without_paths({"a": [text, 1]}) == {"a": [wanted, 1]}


def test_scores_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    assert scores_of(tmp_path / "scores.jsonl") == []
    (tmp_path / "scores.jsonl").write_text('{"half')
    assert scores_of(tmp_path / "scores.jsonl") == []


@pytest.mark.parametrize(
    ("dataset", "asked", "licence"),
    [
        ("celeba", "celeba", "cc-by-nc-4.0"),
        ("celeba-10k-half", "celeba", "cc-by-nc-4.0"),
        ("digits", "digits", "cc-by-4.0"),
        ("my-cats", "folder", None),
        ("cifar10", "cifar10", None),
    ],
)
def test_terms_follow_the_data(dataset: str, asked: str, licence: str | None) -> None:
    assert terms_of({"dataset": dataset}, {"dataset": asked}).licence == licence


def test_licences_say_what_they_are() -> None:
    assert "Permission is hereby granted" in licence_text("mit", "X")
    assert "no licence" in licence_text("other", "X")
    assert last_part("/a/b\\c.txt") == "c.txt"


@pytest.mark.parametrize("model", ["styles", "plain"])
def test_every_kind_can_be_shared_and_shared_again(runs: Path, tmp_path: Path, model: str) -> None:
    assert share.main([str(runs / model), "--out", str(tmp_path / "a"), "--license", "mit"]) == 0
    assert share.main([str(tmp_path / "a"), "--out", str(tmp_path / "b"), "--name", "B"]) == 0
    wanted, found = (sample(*load_generator(path), 2) for path in (runs / model, tmp_path / "b"))
    assert torch.equal(wanted, found)
    text = head_and_text(tmp_path / "b")[1]
    assert "ema weights" in text and "settings of its training are not known" in text


def test_translators_can_be_shared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from generation.translator import export_translator, translating_copy
    from modelling import MODELS

    build = {"img_size": 16, "img_channels": 3, "source_channels": 1, "width": 4, "norm": "instance"}
    G = translating_copy(MODELS["pix2pix"].Generator(**build))
    config = {"model": "pix2pix", "dataset": "facades", "seed": 0, "img_size": 16, "data": {"files": "/mnt/facades"},
              "translates": {"AtoB": {"network": "G", "build": build}}}  # fmt: skip
    (tmp_path / "run" / "generator").mkdir(parents=True)
    export_translator(tmp_path / "run" / "generator", config, {"raw": G}, 3)
    assert share.main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "load_translator(" in said and "tools.translate" in said and "tools.sample" not in said
    x = torch.randint(256, (2, 1, 16, 16), dtype=torch.uint8)
    found, wanted = (load_translator(tmp_path / name).translate(x) for name in ("out", "run"))
    assert torch.equal(found, wanted)
    head, text = head_and_text(tmp_path / "out")
    assert head["pipeline_tag"] == "image-to-image" and head["license"] == "other"
    assert 'load_translator("hf:USER/NAME")' in text


# -- places ----------------------------------------------------------------------------------------------------------


def test_only_what_this_command_made_is_written_over(runs: Path, tmp_path: Path, capsys) -> None:
    run, out = str(runs / "plain"), tmp_path / "out"
    assert share.main([run, "--out", str(out)]) == 0
    assert "--overwrite" in refused(capsys, share.main, run, "--out", out)
    assert share.main([run, "--out", str(out), "--overwrite"]) == 0
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.jpg").write_bytes(b"x")
    assert "did not make" in refused(capsys, share.main, run, "--out", other, "--overwrite")
    generator = runs / "plain" / "generator"
    assert "did not make" in refused(capsys, share.main, run, "--out", generator, "--overwrite")
    assert [file.name for file in other.iterdir()] == ["a.jpg"]


def test_a_folder_written_over_holds_nothing_of_before(runs: Path, tmp_path: Path) -> None:
    argv = [str(runs / "plain"), "--out", str(tmp_path / "out")]
    assert share.main(argv) == 0
    before = {file.name for file in (tmp_path / "out").iterdir()}
    write_space(tmp_path / "out", "A space")
    for name in ("model.py", "notes.txt"):
        (tmp_path / "out" / name).write_text("mine")
    assert share.main([*argv, "--overwrite"]) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == before | {"notes.txt"}


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--push", "no-slash"], "--push no-slash"),
        (["--push", "a/b/c"], "--push"),
        (["--push", "../x"], "--push"),
        (["--name", "a\nb"], "--name"),
        (["--license", "proprietary"], "--license"),
    ],
)
def test_bad_names_are_one_line(runs: Path, tmp_path: Path, capsys, flags: list[str], reason: str) -> None:
    assert reason in refused(capsys, share.main, runs / "plain", "--out", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


# -- the hub ---------------------------------------------------------------------------------------------------------


class Refusal(OSError):
    """As the hub's package raises it."""

    def __init__(self, status: int) -> None:
        super().__init__("a long\nstory")
        self.response = SimpleNamespace(status_code=status)


LocalTokenNotFoundError = type("LocalTokenNotFoundError", (OSError,), {})
LocalEntryNotFoundError = type("LocalEntryNotFoundError", (OSError,), {})
RepositoryNotFoundError = type("RepositoryNotFoundError", (OSError,), {})


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In place of huggingface_hub; what is asked of it stands in `calls`, and `error` is what it raises."""
    fake = SimpleNamespace(calls=[], error=None, folder=None)

    class Api:
        def create_repo(self, *given: object, **how: object) -> None:
            if fake.error is not None:
                raise fake.error
            fake.calls.append(("create", given, how))

        def upload_folder(self, **how: object) -> None:
            fake.calls.append(("upload", sorted(p.name for p in Path(how["folder_path"]).iterdir()), how))

    def snapshot_download(repository: str, **how: object) -> str:
        fake.calls.append((repository, how))
        if fake.error is not None:
            raise fake.error
        return str(fake.folder)

    fake.HfApi, fake.snapshot_download = Api, snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    downloaded.cache_clear()
    return fake


def test_pushing_makes_a_repository_and_uploads_the_folder(runs, tmp_path, capsys, library) -> None:
    argv = [str(runs / "plain"), "--out", str(tmp_path / "out"), "--push", "user/name"]
    assert share.main(argv) == 0
    assert library.calls[0] == ("create", ("user/name",), {"repo_type": "model", "exist_ok": False})
    kind, names, how = library.calls[1]
    assert kind == "upload" and {"README.md", "LICENSE", "config.json", "model.safetensors"} <= set(names)
    assert how["repo_id"] == "user/name" and how["repo_type"] == "model"
    assert "https://huggingface.co/user/name" in capsys.readouterr().out
    assert 'load_generator("hf:user/name")' in head_and_text(tmp_path / "out")[1]


def test_nothing_is_pushed_unasked(runs, tmp_path, library) -> None:
    assert share.main([str(runs / "plain"), "--out", str(tmp_path / "out")]) == 0
    assert library.calls == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Refusal(409), "is taken"),
        (Refusal(403), "hf auth login"),
        (LocalTokenNotFoundError("none"), "hf auth login"),
        (ConnectionError("no route"), "is there a network?"),
        (RuntimeError("something\nelse"), "failed: something else"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    shared: Path, capsys, library, error: Exception, reason: str
) -> None:
    library.error = error
    with pytest.raises(
        UserError, match=f"(?s)push user/name .*{reason}".replace("?", r"\?").replace(r"(\?s)", "(?s)")
    ):
        share.push(shared, "user/name", space=False, overwrite=False)


def test_generators_are_loaded_from_the_hub(shared: Path, tmp_path: Path, monkeypatch, library) -> None:
    library.folder = shared
    G, about = load_generator("hf:user/name@v1")
    assert torch.equal(sample(G, about, 2), sample(*load_generator(shared), 2))
    repository, how = library.calls[0]
    assert (repository, how["revision"]) == ("user/name", "v1")
    assert how["allow_patterns"] == ["config.json"]  # looked at before anything large is fetched
    assert library.calls[1][1]["allow_patterns"] == ["config.json", "model.safetensors"]
    assert sample_tool.main(["hf:user/name", "--n", "2", "--out", str(tmp_path / "two.png")]) == 0
    assert (
        scores_file("hf:user/name") == Path("user-name-scores.jsonl")
        and title_of("hf:user/name@v1") == "user/name"
    )


@pytest.mark.parametrize("content", ["{", "[]", '{"architectures": ["Llama"]}'])
def test_of_another_repository_no_weights_are_fetched(content: str, library, tmp_path: Path) -> None:
    library.folder = tmp_path
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="hf:user/name holds no generator of this toolkit"):
        load_generator("hf:user/name")
    assert [how["allow_patterns"] for _, how in library.calls] == [["config.json"]]


@pytest.mark.parametrize(
    "name", ["hf:", "hf:name", "hf:a/b/c", "hf:../..", "hf:a/b@", "hf:a b/c", "hf:a/b@x y"]
)
def test_names_that_are_none_ask_nothing(name: str, library) -> None:
    with pytest.raises(UserError, match="give hf:user/name"):
        load_generator(name)
    assert library.calls == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RepositoryNotFoundError("404"), "is not there, or private"),
        (LocalEntryNotFoundError("none"), "is there a network"),
        (Refusal(500), "failed: a long story"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(tmp_path, capsys, library, error: Exception, reason: str) -> None:
    library.error = error
    assert reason in refused(
        capsys, sample_tool.main, "hf:user/name", "--n", "1", "--out", tmp_path / "a.png"
    )


def test_a_missing_package_is_one_line(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    downloaded.cache_clear()
    line = refused(capsys, sample_tool.main, "hf:user/name", "--n", "1", "--out", tmp_path / "a.png")
    assert "pip install huggingface_hub" in line
    assert generation.hub.is_hub_name("hf:a/b") and not generation.hub.is_hub_name(Path("hf:a/b"))


# -- Spaces ----------------------------------------------------------------------------------------------------------


def test_a_space_runs_from_its_folder_alone(runs: Path, tmp_path: Path) -> None:
    gradio = pytest.importorskip("gradio")
    out = tmp_path / "space"
    assert share.main([str(runs / "styles"), "--out", str(out), "--space"]) == 0
    head, _ = head_and_text(out)
    assert (
        head["sdk"] == "gradio" and head["sdk_version"] == gradio.__version__ and head["app_file"] == "app.py"
    )
    assert {line.split(">")[0] for line in (out / "requirements.txt").read_text().split()} >= {
        "torch",
        "pillow",
    }
    tops = [Path(name).stem for name in FLOORS if "/" not in name]
    script = (
        "import sys, app, pathlib; "
        f"files = [m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in {tops}]; "
        "here = str(pathlib.Path(app.__file__).parent); "
        "assert len(files) > 40 and all(f is None or f.startswith(here) for f in files), files; "
        "print(type(app.page).__name__)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=out, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "Blocks"), done.stderr[-2000:]


def test_settings_of_python_have_a_command_too() -> None:
    config = TrainConfig(dataset="digits", n_steps=7, lr=1e-4, ema=True)
    assert (
        command_of(asked_of(as_dict(config)))
        == "python gan_mnist.py --dataset digits --n_steps 7 --lr 0.0001 --ema"
    )
