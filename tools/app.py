"""The page to explore a generator, as tools.demo serves it and as a Hugging Face Space runs it.

It stands on generation/ and what that stands on, so that a Space needs no more of this toolkit. Gradio is optional
and imported inside functions. Everything that a browser sends goes through generation.exploring, which checks it.
"""

import html
from collections.abc import Mapping
from typing import Any

from generation.exploring import Explorer, TranslatorExplorer
from generation.generator import load_generator, opened
from generation.translator import load_translator
from modelling.layers import size_text
from tools.tabs import (
    directions_tab,
    gradio,
    mixing_tab,
    sampling_tab,
    style_mixing_tab,
    translating_part,
)

# Something to read until the page's scripts have run.
HEAD = """<style>gradio-app:not(:has(.gradio-container))::before
{content: 'Loading the page'; display: block; padding: 32px; text-align: center}</style>"""
WAITING = 20  # requests; more are refused
MAX_UPLOAD = 20 * 2**20  # bytes
CSS = """
.gradio-container {width: 100% !important; max-width: 1100px !important; margin: 0 auto !important}
.gradio-container main {padding: 0 !important; min-width: 0 !important}
.picture button, .picture .image-frame, .picture .image-container {width: 100% !important; height: auto !important}
.picture img {width: 100% !important; height: auto !important; max-height: 78vh !important;
  object-fit: contain !important; display: block}
.pixels img {image-rendering: pixelated}
.caption {text-align: center; font-size: 14px; opacity: 0.75}
.walk img {width: 100%; max-width: 384px; display: block; margin: 8px auto}
.walk a {display: block; text-align: center}
footer {display: none !important}
@media (max-width: 640px) {.gradio-container .app {padding: 12px !important} .tab-container button {padding: 0 10px}}
"""


def opened_for_page(
    run: str, weights: str | None = None, device: str = "cpu", checkpoint: str | None = None
) -> Explorer | TranslatorExplorer:
    """What can be asked of a run of either kind; UserError as of load_generator."""
    if opened(run, weights)[1]["translates"] is not None:
        return TranslatorExplorer(load_translator(run, weights, device, checkpoint))
    return Explorer(*load_generator(run, weights, device, checkpoint))


def look() -> dict[str, Any]:
    """Theme and style, of launch and mount_gradio_app: fonts are the system's, nothing is loaded from elsewhere."""
    gr = gradio()
    fonts = {"font": ["ui-sans-serif", "system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(primary_hue="indigo", secondary_hue="indigo", neutral_hue="slate", **fonts)
    return {"theme": theme, "css": CSS, "head": HEAD, "footer_links": []}


def build(source: Explorer | TranslatorExplorer, title: str | None = None) -> Any:
    """The page, a gradio.Blocks; title: what the generator is called, None for its model's name."""
    gr = gradio()
    about = source.about
    title = about["model"] or "Generator" if title is None else title
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# {_plain(title)}\n{_plain(described(about))}")
        if isinstance(source, TranslatorExplorer):
            translating_part(gr, source)
        else:
            with gr.Tabs():
                sampling_tab(gr, source)
                mixing_tab(gr, source)
                if about["styles"]:
                    style_mixing_tab(gr, source)
                directions_tab(gr, source)
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def described(about: Mapping[str, Any]) -> str:
    """What is known of a generator, in one line."""
    size = about.get("img_size")
    parts = [f"{about['model']}", f"trained on {about['dataset']}", f"step {about['step']:,}"]
    if size not in (None, 1):
        parts.insert(1, f"{size_text(tuple(size) if isinstance(size, list) else size)} px")
    return " · ".join([*parts, f"{about.get('taken_from') or about['chosen']} weights"])


def _plain(text: str) -> str:
    """Text from outside in Markdown, of which nothing is markup."""
    return "".join("\\" + c if c in "\\`*_{}[]()#+-.!|~$" else c for c in html.escape(text, quote=False))
