"""The parts of the page of tools.app, each with its handlers: pure functions of what a browser sends.

gr: the package gradio, which is optional. Handlers check nothing themselves: all goes through generation.exploring.
"""

import base64
import functools
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from errors import NotFinite, UserError
from generation.exploring import (
    MAX_N,
    MAX_SEED,
    MAX_THRESHOLD,
    N_POINTS,
    Explorer,
    TranslatorExplorer,
)

MAX_LISTED = 1000  # classes in a list; of more the number is typed
N_SHOWN = 16  # samples at first
SQUARE = 32  # px: up to here pixels are shown as squares
MAX_SLIDE = 5  # of a direction's slider
# Bytes that came as text become a file of the browser's.
SAVE = """(name, data) => {if (data) {const a = document.createElement('a');
a.href = 'data:application/octet-stream;base64,' + data; a.download = name; a.click();} return [name, ''];}"""
NEW_SEED = f"() => Math.floor(Math.random() * {MAX_SEED})"


def gradio() -> Any:
    """The package; UserError where it is missing."""
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs Gradio: pip install -r requirements-extras.txt") from None
    return gradio


def answering(serve: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose refusals are shown on the page, each in one line."""
    gr = gradio()

    @functools.wraps(serve)
    def answer(*asked: Any) -> Any:
        try:
            return serve(*asked)
        except (UserError, NotFinite) as error:
            raise gr.Error(str(error), print_exception=False, title="Not possible") from None

    return answer


# -- what the tabs share ---------------------------------------------------------------------------------------------


def _picture(gr: Any, source: Explorer | TranslatorExplorer, label: str, **how: Any) -> Any:
    """Where a picture is shown: small ones with square pixels."""
    size = source.about.get("img_size") or 0
    small = max(size if isinstance(size, list) else [size]) <= SQUARE and not _is_scatter(source)
    how = {"buttons": ["download", "fullscreen"], "show_label": False} | how
    classes = ["picture", "pixels"] if small else ["picture"]
    return gr.Image(label=label, alt_text=label, format="png", interactive=False, elem_classes=classes, **how)


def _is_scatter(source: Explorer | TranslatorExplorer) -> bool:
    return isinstance(source, Explorer) and not source.view.single


def _seed(gr: Any, label: str, value: int) -> Any:
    """A seed and the button beside it that draws another."""
    with gr.Row():
        seed = gr.Number(value, label=label, precision=0, minimum=0, maximum=MAX_SEED, min_width=120, scale=3)
        another = gr.Button("New seed", min_width=90, scale=1, size="md")
    another.click(None, None, seed, js=NEW_SEED, api_visibility="private")
    return seed


class _Conditions:
    """Labels and truncation, as far as the generator has them; `of` makes arguments of Explorer of their values."""

    def __init__(self, gr: Any, source: Explorer, *, turns: bool) -> None:
        """turns: whether all classes in turn is a choice, of several images."""
        about, self.parts = source.about, []
        names = list(about["label_names"]) or [str(i) for i in range(about["n_labels"])]
        if about["n_labels"] and about["multi_hot"]:
            for name, label in (("present", "With"), ("absent", "Without")):
                self.parts.append((name, gr.Dropdown(names, value=[], multiselect=True, label=label)))
        elif about["n_labels"] > MAX_LISTED:
            self.parts.append(("label", gr.Textbox("0", label="Class, by name or number", max_length=1000)))
        elif about["n_labels"]:
            choices = [*([("all in turn", "")] if turns else []), *((name, name) for name in names)]
            self.parts.append(("label", gr.Dropdown(choices, value=choices[0][1], label="Class")))
        if about["styles"]:
            part = gr.Slider(0, 1.5, 1, step=0.05, label="Truncation psi (1: none)")
        else:
            part = gr.Slider(
                0.5, MAX_THRESHOLD, MAX_THRESHOLD, step=0.5, label="Truncation threshold (4: none)"
            )
        self.parts.append(("truncation", part))

    @property
    def inputs(self) -> list[Any]:
        """The components."""
        return [part for _, part in self.parts]

    def of(self, values: Sequence[Any]) -> dict[str, Any]:
        """label, present, absent, truncation by name."""
        found = dict(zip((name for name, _ in self.parts), values, strict=True))
        if found.get("label") == "":
            found["label"] = None
        if found["truncation"] == MAX_THRESHOLD:
            found["truncation"] = None
        return found


def _first(source: Explorer) -> dict[str, Any]:
    """The labels with which tabs begin."""
    about = source.about
    names = list(about["label_names"]) or ["0"]
    return {"label": names[0]} if about["n_labels"] and not about["multi_hot"] else {}


def _follow(
    gr: Any,
    triggers: Sequence[Any],
    serve: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Any,
    name: str,
) -> None:
    """Serve whenever one of the triggers changes; of several changes while one is served, the last."""
    gr.on(
        [part.change for part in triggers], answering(serve), list(inputs), outputs, api_name=name,
        trigger_mode="always_last", show_progress="hidden", concurrency_id="G",
    )  # fmt: skip


# -- tabs ------------------------------------------------------------------------------------------------------------


def sampling_tab(gr: Any, source: Explorer) -> None:
    """Samples of a seed, and their latents."""
    most, usual = (MAX_N, N_SHOWN) if source.view.single else (N_POINTS, N_POINTS)
    n_labels = source.about["n_labels"]
    if 4 < n_labels <= N_SHOWN and not source.about["multi_hot"]:
        usual = 2 * n_labels  # two rows of all
    with gr.Tab("Samples"), gr.Row():
        with gr.Column(scale=3, min_width=300):
            shown = _picture(gr, source, "Samples", value=source.picture(source.samples(usual, 0)))
        with gr.Column(scale=2, min_width=300):
            seed = _seed(gr, "Seed", 0)
            n = gr.Slider(1, most, usual, step=1, label="Number of samples")
            conditions = _Conditions(gr, source, turns=True)
            latents = gr.Button("Download latents (.npz)")
            name, data = (gr.Textbox(visible="hidden") for _ in range(2))
    inputs = [n, seed, *conditions.inputs]

    def sample(n: int, seed: int, *values: Any) -> Image.Image:
        asked = conditions.of(values)
        return source.picture(source.samples(n, seed, **asked), asked.get("label"))

    def codes(n: int, seed: int, *values: Any) -> tuple[str, str]:
        found = source.codes(n, seed, **conditions.of(values))
        return f"latents-seed{int(seed)}.npz", base64.b64encode(found).decode()

    _follow(gr, inputs, sample, inputs, shown, "sample")
    asked = latents.click(answering(codes), inputs, [name, data], api_name="latents", concurrency_id="G")
    asked.success(None, [name, data], [name, data], js=SAVE, api_visibility="private")


def _pair(gr: Any, source: Explorer, middle: str, drawn: Sequence[Tensor]) -> list[Any]:
    """The pictures of seeds A and B, and what is between."""
    values = [source.picture(x) for x in drawn]
    found = []
    with gr.Row():
        for label, value in zip(("A", middle, "B"), values, strict=True):
            with gr.Column(min_width=90):
                buttons = ["download"] if label == middle else []
                found.append(_picture(gr, source, label, value=value, buttons=buttons))
                gr.HTML(f'<div class="caption">{label}</div>')
    return found


def mixing_tab(gr: Any, source: Explorer) -> None:
    """Between two seeds."""
    first = source.between((0, 1), (0, 0.5, 1), **_first(source))
    with gr.Tab("Mix"):
        shown = _pair(gr, source, "Between", first)
        share = gr.Slider(0, 1, 0.5, step=0.01, label="From A to B")
        with gr.Row():
            with gr.Column(min_width=280):
                seeds = [_seed(gr, "Seed A", 0), _seed(gr, "Seed B", 1)]
            with gr.Column(min_width=280):
                conditions = _Conditions(gr, source, turns=False)
                button = gr.Button("Animate from A to B and back (WebP)")
        walked = gr.HTML(elem_classes=["walk", *shown[0].elem_classes[1:]])
    inputs = [*seeds, share, *conditions.inputs]

    def mix(a: int, b: int, share: float, *values: Any) -> list[Image.Image]:
        drawn = source.between((a, b), (0, share, 1), **conditions.of(values))
        return [source.picture(x) for x in drawn]

    def between(a: int, b: int, share: float, *values: Any) -> Image.Image:
        return source.picture(source.between((a, b), (share,), **conditions.of(values))[0])

    def animate(a: int, b: int, *values: Any) -> str:
        data = base64.b64encode(source.walk((a, b), **conditions.of(values))).decode()
        link = f"data:image/webp;base64,{data}"
        return (
            f'<img alt="from A to B and back" src="{link}"><a download="walk.webp" href="{link}">Save it</a>'
        )

    _follow(gr, [*seeds, *conditions.inputs], mix, inputs, shown, "mix")
    _follow(gr, [share], between, inputs, shown[1], "between")
    asked = [*seeds, *conditions.inputs]
    button.click(answering(animate), asked, walked, api_name="animate", concurrency_id="G")


def style_mixing_tab(gr: Any, source: Explorer) -> None:
    """Layers of one seed in another."""
    n_layers = source.G.n_layers
    coarse = max(1, n_layers // 3)
    a, b = source.between((0, 1), (0, 1), **_first(source))
    with gr.Tab("Styles"):
        drawn = [a, source.mixed((0, 1), 0, coarse, **_first(source)), b]
        shown = _pair(gr, source, "A with layers of B", drawn)
        with gr.Row():
            with gr.Column(min_width=280):
                seeds = [_seed(gr, "Seed A", 0), _seed(gr, "Seed B", 1)]
            with gr.Column(min_width=280):
                first = gr.Slider(0, n_layers, 0, step=1, label="Layers of B: from (0 is the coarsest)")
                end = gr.Slider(0, n_layers, coarse, step=1, label="Layers of B: to before")
                conditions = _Conditions(gr, source, turns=False)
    inputs = [*seeds, first, end, *conditions.inputs]

    def mix_styles(a: int, b: int, first: int, end: int, *values: Any) -> list[Image.Image]:
        asked = conditions.of(values)
        mixed = source.mixed((a, b), first, max(first, end), **asked)  # sliders that have passed each other
        ends = source.between((a, b), (0, 1), **asked)
        return [source.picture(x) for x in (ends[0], mixed, ends[1])]

    _follow(gr, inputs, mix_styles, inputs, shown, "mix_styles")


def directions_tab(gr: Any, source: Explorer) -> None:
    """One seed moved along the directions in which images change most; no tab where none are found."""
    try:
        found = source.directions()
    except UserError:
        return
    n = len(found.vectors)
    with gr.Tab("Directions"), gr.Row():
        with gr.Column(scale=3, min_width=300):
            drawn = source.moved(0, [0.0] * n, **_first(source))
            shown = _picture(gr, source, "Moved", value=source.picture(drawn))
        with gr.Column(scale=2, min_width=300):
            seed = _seed(gr, "Seed", 0)
            sliders = [
                gr.Slider(-MAX_SLIDE, MAX_SLIDE, 0, step=0.1, label=f"Direction {name}")
                for name in found.names
            ]
            back = gr.Button("All to 0")
            conditions = _Conditions(gr, source, turns=False)
    inputs = [seed, *sliders, *conditions.inputs]

    def move(seed: int, *values: Any) -> Image.Image:
        return source.picture(source.moved(seed, values[:n], **conditions.of(values[n:])))

    back.click(None, None, sliders, js=f"() => Array({n}).fill(0)", api_visibility="private")
    _follow(gr, inputs, move, inputs, shown, "move")


def translating_part(gr: Any, source: TranslatorExplorer) -> None:
    """A chosen picture and its translation."""
    directions, most = source.translator.directions, source.most()
    with gr.Row():
        with gr.Column(min_width=280):
            given = gr.Image(
                label="Picture", type="pil", image_mode=None, sources=["upload", "clipboard"], height=360
            )
        with gr.Column(min_width=280):
            shown = _picture(gr, source, "Translation")
    with gr.Row():
        way = gr.Radio(list(directions), value=directions[0], label="Direction", visible=len(directions) > 1)
        side = gr.Slider(16, most, min(256, most), step=16, label="Longer side, px")
        seed = _seed(gr, "Seed", 0)
    go = gr.Button("Translate", variant="primary")
    inputs = [given, way, side, seed]

    def translate(picture: Image.Image | None, way: str, side: int, seed: int) -> Image.Image:
        return source.translated(picture, way, side, seed)

    for event, name in ((go.click, "translate"), (given.upload, None)):
        visible = "public" if name else "private"
        event(answering(translate), inputs, shown, api_name=name, api_visibility=visible, concurrency_id="G")
