"""Networks of one's own: a file or instances in the place of a row, and one line for all that breaks the contract."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from errors import UserError
from games import game_of
from games.build import build_networks, rehearsed
from games.noise_to_image import NoiseToImage
from games.task import Place
from images.batches import Shard
from images.own import as_image_data
from modelling import (
    MODELS,
    Model,
    build_discriminator,
    build_generator,
    check_contract,
    check_settings,
    find_model,
    load_model_file,
    model_of,
)
from modelling.conditioning import DOutput
from modelling.growing import Stage
from settings import TrainConfig, settled
from tests.running import SMALL, TINY, request
from training import train

IMAGE = {"img_size": 16, "img_channels": 1}
CONTRACT = IMAGE | {"n": 4, "z_dim": 8}

OWN = """
import torch
from torch import nn


class Generator(nn.Module):
    def __init__(self, *, img_size, img_channels, z_dim, width=8):
        super().__init__()
        self.img_size, self.img_channels, self.z_dim = img_size, img_channels, z_dim
        self.layers = nn.Sequential(nn.Linear(z_dim, width), nn.ReLU(), nn.Linear(width, img_channels * img_size**2))

    def forward(self, z, y=None):
        return torch.tanh(self.layers(z)).unflatten(1, (self.img_channels, self.img_size, self.img_size))


class Discriminator(nn.Module):
    def __init__(self, *, img_size, img_channels, width=8):
        super().__init__()
        self.img_size, self.img_channels = img_size, img_channels
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(img_channels * img_size**2, width), nn.Linear(width, 1))

    def forward(self, x, y=None):
        return self.layers(x).squeeze(1)
"""


def line_of(text: str, word: str) -> int:
    """The first line of `text` that has the word."""
    return next(i for i, line in enumerate(text.splitlines(), 1) if word in line)


@pytest.fixture
def write(tmp_path: Path):
    """Writes a file of a model, OWN with (old, new) replaced, and returns its path."""

    def written(*changes: tuple[str, str], name: str = "own.py", text: str = OWN) -> str:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return written


def pair(name: str, **settings: object) -> tuple[nn.Module, nn.Module]:
    """(G, D) on the meta device."""
    with torch.device("meta"):
        return (
            build_generator(name, z_dim=8, **IMAGE, **settings),
            build_discriminator(name, **IMAGE, **settings),
        )


def check(name: str, n_labels: int = 0, **settings: object) -> None:
    """The contract of a named model's networks, as the rehearsal asks for it."""
    check_contract(
        *pair(name, n_labels=n_labels, **settings), **CONTRACT, n_labels=n_labels, row=find_model(name)
    )


def refusal(name: str, **settings: object) -> str:
    """What is said of a model that cannot be used: one line."""
    with pytest.raises(UserError) as caught:
        check(name, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# A file


def test_a_file_is_a_model(write) -> None:
    path = write()
    row = find_model(path)
    assert row == Model(row.Generator, row.Discriminator) and row.conditions_g == ("concat",)
    G = build_generator(path, z_dim=8, width=5, **IMAGE)
    D = build_discriminator(path, **IMAGE)
    assert D(G(torch.randn(3, 8))).shape == (3,) and G.layers[0].out_features == 5
    assert build_discriminator(path, spectral_norm=True, **IMAGE)(torch.zeros(2, 1, 16, 16)).shape == (2,)
    check(path)
    check(path, n_labels=3)  # wrapped
    labelled = build_generator(path, z_dim=8, n_labels=3, **IMAGE)
    assert labelled(torch.randn(3, 8), torch.arange(3)).shape == (3, 1, 16, 16)
    with pytest.raises(
        ValueError, match=r"^own.py's Generator has no setting 'wdth'; .*g_kwargs takes width$"
    ):
        check_settings(path, row.Generator, {"wdth": 3}, "--g_kwargs")
    with pytest.raises(ValueError, match="own.py's G sees labels by concat"):
        build_generator(path, z_dim=8, n_labels=3, condition="cbn", **IMAGE)


def test_a_file_is_loaded_once_for_the_same_contents(write) -> None:
    first = write()
    row = load_model_file(first)
    assert load_model_file(Path(first)) is row
    write(
        (
            "self.img_channels = img_size, img_channels\n",
            "self.img_channels = img_size, img_channels  # new\n",
        )
    )
    again = load_model_file(first)
    assert again is not row and again.Generator is not row.Generator
    other = load_model_file(write(name="other.py"))
    assert other.Generator.__module__ not in (row.Generator.__module__, again.Generator.__module__)
    assert all(row.Generator.__module__ in sys.modules for row in (row, again, other))


def test_a_file_named_like_a_module_replaces_none(write) -> None:
    for name in ("torch.py", "modelling.py", "json.py"):
        before = sys.modules.get(name.removesuffix(".py"))
        check(write(name=name))
        assert sys.modules.get(name.removesuffix(".py")) is before


def test_a_file_can_say_more_with_a_row(write) -> None:
    """MODEL, with classes of any name, norms and heads of this project, a dataclass of its own."""
    more = """
from dataclasses import dataclass
from modelling import Model
from modelling.conditioning import Heads, label_vectors

@dataclass
class Sizes:
    width: "int" = 3

class G(Generator):
    def __init__(self, *, n_labels=0, **how):
        super().__init__(**how)
        self.n_labels = n_labels
        self.table = nn.Linear(max(n_labels, 1), how["z_dim"])
    def forward(self, z, y=None):
        return super().forward(z if y is None else z + self.table(label_vectors(y, len(z), self.n_labels)))

class D(Discriminator):
    def __init__(self, *, n_labels=0, condition="ac", **how):
        super().__init__(**how)
        self.heads = Heads(lambda n, bias: nn.Linear(8, n, bias=bias), n_labels, condition, bias=True)
    def forward(self, x, y=None):
        return self.heads(self.layers[:2](x), y)

MODEL = Model(G, D, ("film",), ("ac", "projection"), spectral_norm="d")
"""
    path = write(text=OWN + more)
    assert find_model(path).spectral_norm == "d"
    for condition in ("ac", "projection"):
        networks = (
            build_generator(path, z_dim=8, n_labels=3, **IMAGE),
            build_discriminator(path, n_labels=3, condition=condition, **IMAGE),
        )
        check_contract(*networks, **CONTRACT, n_labels=3, condition_d=condition, row=find_model(path))
    with pytest.raises(UserError, match=r"class logits \(4, 3\) in a DOutput, not none$"):
        check_contract(*networks, **CONTRACT, n_labels=3, condition_d="ac")
    less = "\nfrom modelling import Model\nMODEL = Model(Generator, Discriminator, ('film',), ('ac',))\n"
    path = write(name="less.py", text=OWN + less)
    with pytest.raises(UserError, match="^less.py: Generator sees labels by film and takes no n_labels$"):
        build_generator(path, z_dim=8, n_labels=3, **IMAGE)


def test_files_that_are_no_models(write, tmp_path: Path) -> None:
    """One line with the file, and the line where there is one; nothing of a broken file stays in sys.modules."""
    before = set(sys.modules)
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "zero.py").symlink_to("/dev/zero")
    cases = {
        "absent.py": (None, "there is no such file"),
        "folder.py": (None, "it is no regular file"),
        "zero.py": (None, "it is no regular file"),
        "syntax.py": ("x = 1\ndef f(:\n", r"syntax.py:2: invalid syntax"),
        "import.py": ("import torch\nimport no_such_thing\n", r"import.py:2: ModuleNotFoundError: No module named"),
        "deep.py": ("def f():\n    return 1 / 0\n\nf()\n", r"deep.py:2: ZeroDivisionError: division by zero"),
        "exit.py": ("import sys\nsys.exit('usage')\n", r"exit.py:2: SystemExit: usage"),
        "null.py": ("x = 1\0\n", "null.py"),
        "empty.py": ("", "empty.py: it has no class Generator and no class Discriminator"),
        "half.py": (OWN.replace("class Discriminator", "class Critic"), "half.py: it has no class Discriminator"),
        "instance.py": (OWN + "\nGenerator = 3\n", "Generator is a int; it must be a class derived from"),
        "plain.py": ("class Generator: pass\nclass Discriminator: pass\n", "Generator is no torch.nn.Module; it"),
        "model.py": (OWN + "\nMODEL = {}\n", r"model.py: MODEL is a dict, not a modelling.Model\(...\)"),
        "size.py": (OWN.replace("img_size, img_channels, z_dim, w", "size, w"), r"size.py:7: Generator\(...\) "),
    }  # fmt: skip
    for name, (text, words) in cases.items():
        path = write(name=name, text=text) if text is not None else str(tmp_path / name)
        with pytest.raises(UserError, match=words) as caught:
            load_model_file(path)
        assert "\n" not in str(caught.value) and name in str(caught.value)
    made = {name for name in set(sys.modules) - before if name.startswith("model_")}
    assert not any(name.endswith(("_import", "_deep", "_exit")) for name in made)
    assert "does not take img_size, img_channels, z_dim" in str(caught.value)


# The contract


@pytest.mark.parametrize("model", [name for name, row in MODELS.items() if row.latents])
def test_every_model_of_the_table_keeps_it(model: str) -> None:
    row, (of_g, of_d) = MODELS[model], SMALL[model]
    image = {"img_size": 32, "img_channels": 3}
    for n_labels in (0, 3) if row.conditions_g else (0,):
        for way in row.conditions_d if n_labels else (None,):
            G = build_generator(model, z_dim=16, n_labels=n_labels, **image, **of_g)
            D = build_discriminator(model, z_dim=16, n_labels=n_labels, condition=way, **image, **of_d)
            state = {k: v.clone() for net in (G, D) for k, v in net.state_dict().items()}
            check_contract(G, D, n=4, z_dim=16, n_labels=n_labels, condition_d=way, row=row, **image)
            after = {k: v for net in (G, D) for k, v in net.state_dict().items()}
            assert all(torch.equal(v, after[k]) for k, v in state.items())  # nor a running statistic
            assert all(p.grad is None for net in (G, D) for p in net.parameters())


BROKEN = {
    "no z_dim": (", self.z_dim = img_size, img_channels, z_dim", " = img_size, img_channels",
                 "Generator (own.py) has no attribute z_dim: its constructor must set self.z_dim"),
    "other z_dim": ("img_channels, z_dim\n", "img_channels, 3\n",
                    "Generator (own.py) has z_dim 3, and 8 was asked for"),
    "no img_size of D": ("        self.img_size, self.img_channels = img_size, img_channels\n", "",
                         "Discriminator (own.py) has no attribute img_size: its constructor must set self.img_size"),
    "no y": ("def forward(self, z, y=None)", "def forward(self, z)",
             "Generator (own.py): forward(z) must be forward(self, z, y=None): too many positional arguments"),
    "more arguments": ("def forward(self, x, y=None)", "def forward(self, x, y, sigma)",
                       "forward(x, y, sigma) must be forward(self, x, y=None): missing a required argument: 'sigma'"),
    "another shape": ("(self.img_channels, self.img_size, self.img_size)", "(self.img_size, self.img_size, 1)",
                      "Generator (own.py): G(z, y) must give images of shape (4, 1, 16, 16), not (4, 16, 16, 1)"),
    "no tensor": ("return torch.tanh", "return [z] or torch.tanh", "G(z, y) must give a tensor, not list"),
    "another batch": ("squeeze(1)", "mean()",
                      "D(x, y) of 4 images must give logits (4,) or (4, ...), not ()"),
    "joined batch": ("squeeze(1)", "view(2, 2)", "must give logits (4,) or (4, ...), not (2, 2)"),
    "nothing": ("return self.layers(x)", "return None and self.layers(x)",
                "Discriminator (own.py): D(x, y) must give logits or a DOutput, not NoneType"),
    "images without gradient": ("def forward(self, z, y=None)", "@torch.no_grad()\n    def forward(self, z, y=None)",
                                "Generator (own.py): the images of G(z, y) have no gradient"),
    "no gradient": ("squeeze(1)", "squeeze(1).detach()",
                    "Discriminator (own.py): the logits of D(x, y) have no gradient"),
    "no forward": ("def forward(self, z, y=None)", "def call(self, z, y=None)",
                   "Generator (own.py) has no forward: write forward(self, z, y=None)"),
    "shapes inside": ("nn.Linear(img_channels * img_size**2, width)", "nn.Linear(100, width)",
                      "Discriminator (own.py): D(x, y) fails at own.py:23: RuntimeError: "),
    "names inside": ("return torch.tanh(self.layers(z))", "return torch.tanh(self.layer(z))",
                     "G(z, y) fails at own.py:13: AttributeError: 'Generator' object has no attribute 'layer'"),
    "constructor": ("width), nn.ReLU()", "widht), nn.ReLU()",
                    "Generator (own.py): its constructor fails at own.py:10: NameError: name 'widht'"),
    "refusal": ("        self.layers = nn.Sequential(nn.F", "        raise ValueError('no such size')\n        (nn.F",
                "Discriminator (own.py): its constructor fails at own.py:20: no such size"),
    "another type": ("nn.Linear(width, 1)", "nn.Linear(width, 1, dtype=torch.float64)",
                     "Discriminator (own.py): layers.2.weight is of torch.float64, and training computes in torch."),
    "images of another type": ("return torch.tanh(self.layers(z))", "return torch.tanh(self.layers(z)).double()",
                               "Generator (own.py): G(z, y) must give images of torch.float32, not torch.float64"),
    "no size yet": ("nn.Linear(z_dim, width)", "nn.LazyLinear(width)",
                    "Generator (own.py): layers.0.weight has no shape yet: run a batch through the network first"),
    "a setting without default": ("img_channels, width=8", "img_channels, width",
                                  "missing 1 required keyword-only argument: 'width'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_it_is_one_line(
    write, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old, new, words = BROKEN[case]
    assert words in refusal(write((old, new)))


def test_labels_of_a_wrapped_network_that_breaks_it(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own class is named, not the wrapping."""
    monkeypatch.chdir(tmp_path)
    said = refusal(write(("squeeze(1)", "view(2, 2)")), n_labels=3)
    assert said.startswith("Discriminator (own.py): D(x, y) of 4 images")
    said = refusal(write(("return self.layers(x)", "return self.layer(x)")), n_labels=3)
    assert f"at own.py:{line_of(OWN, 'self.layers(x)')}" in said


def test_rows_promise_styles_and_growing() -> None:
    networks = build_generator("mlp", z_dim=8, **IMAGE), build_discriminator("mlp", **IMAGE)
    with pytest.raises(UserError, match=r"forward\(self, z, y=None, z_mix=None, u=None\)"):
        check_contract(*networks, **CONTRACT, row=Model(*map(type, networks), styles=True))
    with pytest.raises(UserError, match="is said to grow and has no modelling.growing.Stage"):
        check_contract(*networks, **CONTRACT, row=Model(*map(type, networks), grows_from=4))
    networks[0].stage = Stage((8, 16))
    with pytest.raises(UserError, match=r"Discriminator \(.*mlp.py\) is said to grow"):
        check_contract(*networks, **CONTRACT, row=Model(*map(type, networks), grows_from=4))


def test_networks_that_call_for_values(write) -> None:
    """They cannot be looked at on the meta device; on a real one they can, and the generators there stay put."""
    path = write(
        (
            "return self.layers(x).squeeze(1)",
            "h = self.layers(x).squeeze(1)\n        return h if h.sum() > 1e9 else h[:1]",
        )
    )
    check(path)
    networks = build_generator(path, z_dim=8, **IMAGE), build_discriminator(path, **IMAGE)
    before = torch.random.get_rng_state()
    with pytest.raises(UserError, match=r"must give logits \(4,\)"):
        check_contract(*networks, **CONTRACT)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_the_rehearsal_could_not_see_is_refused_when_built(write) -> None:
    """Of a file whose D calls for values, and for images of another size than an instance makes."""
    path = write(
        (
            "return self.layers(x).squeeze(1)",
            "h = self.layers(x)\n        return h if h.sum() > 1e9 else h[:1]",
        )
    )
    plain = request(f"{TINY} --log_name a --n_steps 1 --no-spectral_norm_d").config()
    config = replace(plain, model=path, norm_g=None, norm_d=None)
    place, data = (
        Place(torch.device("cpu"), Shard(8)),
        as_image_data(torch.zeros(9, 1, 16, 16, dtype=torch.uint8)),
    )
    rehearsed(config, place.shard, {}, 1)
    with pytest.raises(UserError, match=r"must give logits \(8,\)"):
        build_networks(config, place, data, {})
    config, G = replace(config, model=write(name="sound.py")), build_generator("mlp", z_dim=8, **IMAGE)
    networks = build_networks(config, place, data, {"G": G})
    assert networks[0] is G and type(networks[1]).__module__.endswith("sound")
    larger = as_image_data(torch.zeros(9, 1, 32, 32, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"has img_size 16, and 32 was asked for"):
        build_networks(config, place, larger, {"G": G})


# Instances


class Patches(nn.Sequential):
    """D of a map of logits, without a forward of its own."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4, 2, 1))
        self.img_size, self.img_channels = 16, 1

    def forward(self, x: Tensor, y: Tensor | None = None) -> DOutput:
        return DOutput(super().forward(x))


def test_instances() -> None:
    G, D = build_generator("mlp", z_dim=8, **IMAGE), build_discriminator("mlp", **IMAGE)
    assert model_of(G, D) is MODELS["mlp"]
    own = Patches()
    assert model_of(G, own) == Model(type(G), Patches, (), ())
    check_contract(G.requires_grad_(False), own, **CONTRACT)
    assert not any(p.requires_grad for p in G.parameters())
    del own.img_size
    with pytest.raises(UserError, match=r"Patches \(tests.test_own_model.py\) has no attribute img_size"):
        check_contract(G, own, **CONTRACT)
    for wrong in (nn.Sequential(nn.Flatten()), "mlp"):
        with pytest.raises(UserError, match="forward|no torch.nn.Module"):
            check_contract(G, wrong, **CONTRACT)
    with pytest.raises(UserError, match=r"has z_dim 8, and 9 was asked for"):
        check_contract(G, D, **CONTRACT | {"z_dim": 9})


SHARED = nn.Linear(8, 8)


class OfG(nn.Module):
    """Flat images of a linear map; with Stage it is said to grow."""

    img_size, img_channels, z_dim = 16, 1, 8

    def __init__(self, inner: nn.Module | None = None, stage: Stage | None = None) -> None:
        super().__init__()
        self.inner, self.outer, self.stage = inner or nn.Identity(), nn.Linear(8, 256), stage

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.outer(self.inner(z)).tanh().view(-1, 1, 16, 16)


class OfD(nn.Module):
    """A logit of a linear map, and class logits where there are classes."""

    img_size, img_channels = 16, 1

    def __init__(self, inner: nn.Module | None = None, n_labels: int = 0) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(256, 8), inner or nn.Identity()
        self.outer, self.n_labels = nn.Linear(8, 1 + n_labels), n_labels

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | DOutput:
        logit, classes = self.outer(self.inner(self.first(x.flatten(1)))).split([1, self.n_labels], 1)
        return DOutput(logit.squeeze(1), classes) if self.n_labels else logit.squeeze(1)


class NoWeights(nn.Module):
    """G without anything to learn."""

    img_size, img_channels, z_dim = 16, 1, 8

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z[:, :1, None, None].expand(-1, 1, 16, 16)


def of_digits(**settings: object) -> TrainConfig:
    """Settings of a run on small digits."""
    return settled(
        TrainConfig(dataset="digits", img_size=16, z_dim=8, batch_size=8, n_steps=2, loggers=(), **settings)
    )


def rehearse(config: TrainConfig, **own: nn.Module) -> None:
    """What is checked before a run of given networks."""
    game_of(config).rehearse(config, Shard(8), own)


OF_GIVEN = {
    "infogan": ({"model": "infogan"}, lambda: {"G": OfG(), "D": OfD()},
                r"^model infogan plays a game of its own, .* the G given is a OfG \(.*\): leave G out, or the model$"),
    "infogan's D": ({"model": "infogan", "g_kwargs": {"n_categories": 3}}, lambda: {"D": OfD()},
                    "the D given is a OfD .*: leave D out, or the model"),
    "veegan": ({"model": "veegan"}, lambda: {"G": OfG(), "D": OfD()}, "^model veegan plays a game of its own"),
    "growing": ({"model": "progressive_gan"}, lambda: {"G": OfG(), "D": OfD()},
                r"^model progressive_gan grows, and OfG \(.*\) has no .*Stage of 4, 8, 16 px: give no_grow, .*$"),
    "growing's D": ({"model": "progressive_gan"}, lambda: {"D": OfD()}, "grows, and OfD .* has no .*Stage"),
    "other stages": ({"model": "progressive_gan"}, lambda: {"G": OfG(stage=Stage((8, 16)))}, "no .*Stage of 4"),
    "path length": ({"model": "stylegan2", "penalty_weights": {"path_length": 2}}, lambda: {"G": OfG(), "D": OfD()},
                    r"^penalty path_length is of a G with styles, and OfG \(.*\) has none: leave it out$"),
    "ortho": ({"penalty_weights": {"ortho": 1}}, lambda: {"G": "dcgan"}, "no torch.nn.Module"),
    "shared": ({}, lambda: {"G": OfG(SHARED), "D": OfD(SHARED)},
               r"^OfD \(.*\): inner.weight is G's inner.weight too, .* a copy \(copy.deepcopy\)$"),
    "no parameters": ({}, lambda: {"G": NoWeights()}, r"^NoWeights \(.*\) has no parameters: there is nothing"),
    "half": ({}, lambda: {"G": OfG().half()}, "outer.weight is of torch.float16, and .* in torch.float32"),
    "norm": ({"norm_d": "none"}, lambda: {"D": OfD()}, "^norm_d is for a network that is built here, and D was given"),
    "condition": ({"conditional": True, "condition_d": "projection"}, lambda: {"D": OfD()}, "^condition_d is for"),
}  # fmt: skip


@pytest.mark.parametrize("case", OF_GIVEN)
def test_given_networks_that_the_settings_do_not_fit(case: str) -> None:
    settings, own, words = OF_GIVEN[case]
    with pytest.raises(UserError, match=words) as caught:
        rehearse(of_digits(**settings), **own())
    assert "\n" not in str(caught.value)


class Doubling(OfD):
    """D whose table is of another type than its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(256, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.outer(self.first(x.flatten(1) * self.table)).squeeze(1)


def test_types_that_do_not_mix_are_refused_before_training() -> None:
    """Of what is no parameter the meta device does not tell."""
    config, place = of_digits(), Place(torch.device("cpu"), Shard(8))
    data, D = as_image_data(torch.zeros(9, 1, 16, 16, dtype=torch.uint8)), Doubling()
    rehearse(config, D=D)
    with pytest.raises(
        UserError, match=r"^Doubling \(.*\): D\(x, y\) fails at .*py:\d+: RuntimeError: mat1 and mat2 must"
    ):
        build_networks(config, place, data, {"G": OfG(), "D": D})


def test_spectral_norm_of_torch() -> None:
    """The old one leaves in a module what cannot be copied: D need not be, G has to be."""
    old, new = nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm
    D = OfD(old(nn.Linear(8, 8)))
    D(torch.zeros(2, 1, 16, 16))
    rehearse(of_digits(), G=OfG(new(nn.Linear(8, 8))), D=D)
    with pytest.raises(
        UserError, match=r"^OfG \(.*\): a copy after a pass, .* fails: RuntimeError: Only Tensors"
    ):
        rehearse(of_digits(), G=OfG(old(nn.Linear(8, 8))))


@pytest.mark.parametrize("model", ["infogan", "veegan", "progressive_gan", "stylegan2"])
def test_networks_of_a_model_are_taken_as_instances(model: str) -> None:
    """Those of the games of their own, of growing, of styles: a penalty of these too, and a subclass."""
    G = build_generator(model, z_dim=8, **IMAGE, **SMALL[model][0])
    D = build_discriminator(model, z_dim=8, **IMAGE, **SMALL[model][1])
    if model == "stylegan2":
        rehearse(of_digits(model=model, penalty_weights={"path_length": 2}), G=G, D=OfD())
        G.__class__ = type("Mine", (type(G),), {})
        rehearse(of_digits(model=model, penalty_weights={"path_length": 2}), G=G, D=D)
    rehearse(of_digits(model=model), G=G, D=D)
    assert model_of(G, OfD()).styles == (model == "stylegan2")


def test_growing_networks_need_not_grow() -> None:
    rehearse(of_digits(model="progressive_gan", no_grow=True), G=OfG(), D=OfD())
    wrapped = build_generator("progressive_gan", z_dim=8, n_labels=2, **IMAGE, **SMALL["progressive_gan"][0])
    D = build_discriminator("progressive_gan", n_labels=2, **IMAGE, **SMALL["progressive_gan"][1])
    assert model_of(wrapped, D) is MODELS["progressive_gan"]


def test_given_networks_go_into_train_mode() -> None:
    """One from load_generator is in eval mode and frozen; modules of one in train mode are its owner's business."""
    config, place = of_digits(), Place(torch.device("cpu"), Shard(8))
    data = as_image_data(torch.zeros(9, 1, 16, 16, dtype=torch.uint8))
    G, D = OfG(nn.BatchNorm1d(8)).requires_grad_(False).eval(), OfD(nn.BatchNorm1d(8))
    D.inner.eval()
    rehearse(config, G=G, D=D)
    assert not G.training and not G.inner.training
    build_networks(config, place, data, {"G": G, "D": D})
    assert G.training and G.inner.training and D.training and not D.inner.training


class Embedded(OfG):
    """G that takes classes alone, as most do that are written for one data set."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return super().forward(z + self.table(y))


class Weighed(OfG):
    """G that takes attributes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(3, 8)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return super().forward(z + self.table(y))


def test_given_networks_meet_the_labels_of_the_data() -> None:
    """Not two labels of either kind, as networks that are built here before the data are read."""
    config, place = of_digits(conditional=True), Place(torch.device("cpu"), Shard(8))
    pixels = torch.zeros(9, 1, 16, 16, dtype=torch.uint8)
    classes = as_image_data(pixels, list(range(9)))
    rows = as_image_data(pixels, torch.eye(3, dtype=torch.uint8).repeat(3, 1))
    for G, fit, misfit in ((Embedded(), classes, rows), (Weighed(), rows, classes)):
        own = {"G": G, "D": OfD()}
        rehearse(config, **own)
        game_of(config).rehearse(config, Shard(8), own, fit)
        build_networks(config, place, fit, own)
        with pytest.raises(UserError, match=r"^(Embedded|Weighed) \(.*\): G\(z, y\) "):
            game_of(config).rehearse(config, Shard(8), own, misfit)
        with pytest.raises(UserError, match=r"^(Embedded|Weighed) \(.*\): G\(z, y\) "):
            build_networks(config, place, misfit, own)
    with pytest.raises(UserError, match="^conditional needs labels, and own has none"):
        game_of(config).rehearse(config, Shard(8), own, as_image_data(pixels))
    told = of_digits(conditional=True, condition_d="ac")
    game_of(told).rehearse(told, Shard(8), {"D": OfD(n_labels=9)}, classes)
    with pytest.raises(UserError, match=r"OfD .* must give class logits \(8, 9\) in a DOutput, not none"):
        game_of(told).rehearse(told, Shard(8), {"D": OfD()}, classes)


@pytest.mark.parametrize("head", ["concat", "ac", "k_plus_1"])
def test_a_given_d_may_tell_classes(head: str, tmp_path: Path) -> None:
    """What it says of them counts where the game is asked for; else it is left aside."""
    asked = {} if head == "concat" else {"condition_d": head}
    config = of_digits(conditional=True, runs_dir=str(tmp_path), log_interval=1, **asked)
    done = train(config, D=OfD(n_labels=10), G=OfG().requires_grad_(False).eval())
    assert ("class/d_real" in done.metrics[-1]) == (head != "concat") and done.step == 2


def test_given_images_keep_their_name_and_given_networks_grow(tmp_path: Path) -> None:
    """ImageData of another name than the setting of the data set, which is not what was trained on."""
    data = as_image_data(torch.zeros(9, 1, 16, 16, dtype=torch.uint8), name="mine")
    growing = {"model": "progressive_gan", "stable_kimg": 0.008, "fade_kimg": 0.008}
    config = of_digits(runs_dir=str(tmp_path), log_interval=1, **growing)
    networks = pair("progressive_gan", **SMALL["progressive_gan"][0])
    G, D = (network.to_empty(device="cpu") for network in networks)
    for p in (*G.parameters(), *D.parameters()):
        nn.init.normal_(p, std=0.1)
    done = train(config, images=data, G=G, D=D)
    assert done.generator()[1]["dataset"] == "mine"
    assert [line["growing/size"] for line in done.metrics] == [4, 8]


# The rehearsal of a run


def test_the_rehearsal_checks_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a new row that says nothing of z_dim: before data are read."""

    class Forgetful(MODELS["mlp"].Generator):
        def __init__(self, **how: object) -> None:
            super().__init__(**how)
            del self.z_dim

    monkeypatch.setitem(MODELS, "mlp", Model(Forgetful, MODELS["mlp"].Discriminator))
    config = request(f"{TINY} --model mlp --log_name a --n_steps 1").config()
    with pytest.raises(UserError, match=r"Forgetful \(.*\) has no attribute z_dim"):
        NoiseToImage.rehearse(config, Shard(8), {})


def test_instances_are_rehearsed_and_stay_as_they_are() -> None:
    config = request("--dataset digits --img_size 16 --z_dim 8 --batch_size 8").config()
    G, D = build_generator("mlp", z_dim=8, **IMAGE), build_discriminator("mlp", **IMAGE)
    NoiseToImage.rehearse(config, Shard(8), {"G": G, "D": D})
    assert not any(p.is_meta for net in (G, D) for p in net.parameters())
    NoiseToImage.rehearse(config, Shard(8), {"D": D})  # with the model's own G
    G.z_dim = 9
    with pytest.raises(UserError, match=r"Generator \(.*mlp.py\) has z_dim 9, and 8 was asked for"):
        NoiseToImage.rehearse(config, Shard(8), {"G": G, "D": D})


def test_classes_of_a_notebook_are_called_by_their_name() -> None:
    """Their code says that it is of a file that is nowhere."""
    namespace: dict = {}
    exec(compile(OWN, "/nowhere/4133524498.py", "exec"), namespace)
    with pytest.raises(ValueError, match="^Generator has z_dim 9, and 8 was asked for"):
        check_contract(
            namespace["Generator"](**IMAGE, z_dim=9), namespace["Discriminator"](**IMAGE), **CONTRACT
        )
