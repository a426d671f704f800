"""A page of HTML that loads nothing: text, tables, sections, pictures and the document around them."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from errors import shown

CSS = Path(__file__).resolve().parent.parent / "assets" / "report.css"
GRID_SIDE, GRID_BYTES = 1056, 250_000  # of an embedded picture at most
SMALL = 400  # px of a picture that is enlarged as squares


def text(value: object, limit: int = 300) -> str:
    """Anything as text of a page."""
    return escape(shown(str(value), limit))


def marked(value: str) -> str:
    """A line of advice: what stands before its first colon is code."""
    flag, colon, why = value.partition(": ")
    return f"<code>{text(flag)}</code>: {text(why)}" if colon and flag.startswith("-") else text(value)


def section(title: str, name: str, *parts: str) -> str:
    """A part of the page with its heading; "" without content."""
    content = "".join(parts)
    head = f'<h2 id="{name}-title">{text(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{head}{content}</section>' if content else ""


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Cells, already escaped; numbers: from which column on they stand at the right, 0 for none."""

    def cell(tag: str, i: int, content: str) -> str:
        return f"<{tag}{' class=n' if numbers and i >= numbers else ''}>{content}</{tag}>"

    head = "".join(cell("th", i, title) for i, title in enumerate(titles))
    body = "".join(f"<tr>{''.join(cell('td', i, c) for i, c in enumerate(row))}</tr>" for row in rows)
    return (
        f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        if body
        else ""
    )


def embedded(picture: Image.Image) -> str:
    """A picture as a WebP inside the page, coarser and then smaller until it is light enough; small ones exactly."""
    picture = picture.convert("RGB")
    exact = max(picture.size) <= SMALL
    for side, quality in (
        (GRID_SIDE, 90),
        (GRID_SIDE, 75),
        (GRID_SIDE, 50),
        (GRID_SIDE // 2, 50),
        (GRID_SIDE // 2, 20),
    ):
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=quality, method=2, lossless=exact and quality == 90)
        if file.tell() <= GRID_BYTES:
            break
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def page(title: str, heading: str, parts: Mapping[str, tuple[str, str]], foot: str) -> str:
    """The whole document; parts: id -> (title, content of a section), left out where that is empty."""
    made = {name: (title_of, section(title_of, name, content)) for name, (title_of, content) in parts.items()}
    made = {name: one for name, one in made.items() if one[1]}
    links = "".join(f'<li><a href="#{name}">{text(of)}</a></li>' for name, (of, _) in made.items())
    sections = "".join(content for _, content in made.values())
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<style>{CSS.read_text(encoding='utf-8')}</style></head><body>"
        f'<a class="skip" href="#content">To the content</a><header>{heading}</header>'
        f'<nav aria-label="Contents"><ul>{links}</ul></nav><main id="content">{sections}</main>'
        f"<footer class=soft>{foot}</footer></body></html>\n"
    )
