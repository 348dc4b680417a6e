"""Elements of the results page: verdicts, figures and lists as HTML."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from sam_bench.report.differences import BETTER, UNDECIDED, WITHIN, WORSE

#: The symbol of each verdict in a table, in addition to its colour. Screen readers get the word instead.
SYMBOLS = {BETTER: "▼", WORSE: "▲", WITHIN: "≈", UNDECIDED: "○"}

#: The prefix of the ids that Matplotlib gives to glyphs in SVG figures.
FONT = "DejaVuSans"


def prose(text: str) -> str:
    """Return a text as HTML in which no line break can come before a percent sign."""
    return escape(text.replace(" %", "\N{NO-BREAK SPACE}%"))


def verdict(word: str, shown: bool = False) -> str:
    """Return a verdict's symbol and word; unless `shown`, the word is for screen readers only."""
    return (
        f'<span class="verdict {word.replace(" ", "-")}" title="{word}">'
        f'<span aria-hidden="true">{SYMBOLS[word]}</span> <span{"" if shown else " class=heard"}>{word}</span></span>'
    )


def table(headings: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a plain table, for which headings and names of rows are text, and the other cells HTML."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = [
        f'<tr><th scope="row">{prose(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, cells in rows
    ]
    lines = [f'<table class="comparisons"><thead><tr>{head}</tr></thead>', "<tbody>", *body, "</tbody>", "</table>"]
    return "\n".join(lines)


def definitions(entries: Mapping[str, str]) -> str:
    """Return a list of names with what each stands for."""
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in entries.items())}</dl>"


def inlined(svg: str, name: str, alt: str) -> str:
    """Return an SVG document as an element of the page, which takes its size from its place there.

    Its ids and styles are made unique, so that figures do not affect each other. Glyphs keep their ids, since
    `with_shared_glyphs` merges them across figures. Paths are cut to two decimals (0.01 point) to make the page
    smaller.

    Args:
        name: the prefix that its ids get.
        alt: the description for screen readers.

    Raises:
        ValueError: the text has no `<svg>` element.
    """
    # The page needs no declarations, comments, metadata or white space, and fewer digits.
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r">\s+<", "><", svg)
    svg = re.sub(r'(?<=\sd=")[^"]*', lambda path: " ".join(re.sub(r"(\.\d\d)\d+", r"\1", path[0]).split()), svg)

    # Figures share one page: ids, references to them and the style rule for all elements get the figure's name.
    svg = re.sub(rf'(\sid=")(?!{FONT})', rf"\g<1>{name}-", svg)
    svg = re.sub(rf"""(href=["']#(?!{FONT})|url\(['"]?#)""", rf"\g<1>{name}-", svg)
    svg = re.sub(r"(<style[^>]*>\s*)\*", rf"\g<1>#figure-{name} *", svg)

    root = re.search(r"<svg\b[^>]*>", svg)
    if root is None:
        raise ValueError(f"figure {name} is not an SVG document: it has no <svg> element")
    attributes = re.sub(r'\s(id|width|height|role|aria-label)="[^"]*"', "", root[0].removesuffix(">"))
    opened = f'{attributes} id="figure-{name}" role="img" aria-label="{escape(alt)}">'
    return (svg[: root.start()] + opened + svg[root.end() :]).strip()


def with_shared_glyphs(parts: Sequence[str]) -> tuple[list[str], str]:
    """Return parts of the page without their glyphs' outlines, and each outline once, which saves half a megabyte.

    Raises:
        ValueError: two figures have different outlines for the same glyph.
    """
    outlines: dict[str, str] = {}

    def move(path: re.Match[str]) -> str:
        if outlines.setdefault(path[1], path[0]) != path[0]:
            raise ValueError(f"two figures draw the glyph {path[1]} in two ways")
        return ""

    glyph = re.compile(rf'<path id="({FONT}[^"]*)"[^>]*/>')
    without = [glyph.sub(move, part).replace("<defs></defs>", "") for part in parts]
    return without, "".join(outlines[name] for name in sorted(outlines))


def _width(svg: str) -> float:
    """Return a figure's width in rem that makes its letters of 7 points nearly as large as the page's."""
    width = re.search(r'<svg\b[^>]*\swidth="([\d.]+)', svg)
    return float(width[1]) * 0.105 if width else 34


def figure(svg: str, name: str, alt: str, caption: str = "") -> str:
    """Return a figure, with a caption above it if there is one; `name` and `alt` are those of `inlined`."""
    shown = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    drawing = f'<div class="drawing" tabindex="0">{inlined(svg, name, alt)}</div>'
    return f'<figure style="--width: {_width(svg):.1f}rem">{shown}{drawing}</figure>'


def identifier(*names: str) -> str:
    """Return an id of the page from names that may have any characters."""
    return re.sub(r"[^\w-]", "_", "-".join(names))
