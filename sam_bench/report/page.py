"""The results page: one HTML file with the tables, their runs and the curves, that fetches nothing and has no date."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

SYMBOLS = {"better": "▼", "worse": "▲", "not separated": "○"}
"""What stands for a verdict in a table, beside its colour; the word is there too, for screen readers."""

SCRIPTS = ("dom.js", "table.js", "curves.js", "details.js", "page.js")
"""Our own, in the order in which they make one module."""

FONT = "DejaVuSans"
"""How the ids of the glyphs begin that the figures write with."""

DIGITS = 3
"""To how many decimals histories are kept: curves need no more."""


@dataclass(frozen=True)
class Library:
    """Foreign code that is in the page, with its licence.

    Args:
        file: the stem of its files among the assets.
    """

    name: str
    version: str
    licence: str
    home: str
    file: str


LIBRARIES = (
    Library("uPlot", "1.6.32", "MIT", "https://github.com/leeoniya/uPlot", "uplot"),
    Library("sortable-tablesort", "4.1.7", "Unlicense", "https://github.com/tofsjonas/sortable", "sortable"),
)


def page(payload: Mapping[str, Any]) -> str:
    """Return the results as an HTML document, the same bytes for the same payload.

    Its tables can be read without JavaScript, which adds sorting, filters, curves and the details of rows.

    Args:
        payload: `title`, `finding` (a sentence), `version` (texts by name), `across` (lines with a cell for each
            regime) and `regimes`; tests/report/page_payload.py has an example of everything.
    """
    regimes = payload["regimes"]
    sections, glyphs = with_shared_glyphs("\n".join(_regime(regime) for regime in regimes))
    scripts = [
        *(_script(_asset(f"{library.file}.min.js")) for library in LIBRARIES),
        _script("\n".join(map(_asset, SCRIPTS)), "module"),
    ]
    return Template(_asset("page.html")).substitute(
        policy=_policy([hashed for _, hashed in scripts]),
        title=escape(payload["title"]),
        finding=_prose(payload["finding"]),
        styles=_asset("uplot.min.css") + "\n" + _asset("page.css"),
        across=_across(payload["across"], regimes) if len(regimes) > 1 else "",
        tabs="\n".join(_tab(regime) for regime in regimes) if len(regimes) > 1 else "",
        glyphs=glyphs,
        regimes=sections,
        versions=_definitions(payload["version"]),
        libraries=", ".join(_library(library) for library in LIBRARIES),
        licences="\n".join(_licence(library) for library in LIBRARIES),
        data=embedded({"regimes": [_data(regime) for regime in regimes]}),
        scripts="\n".join(element for element, _ in scripts),
    )


def embedded(data: Any) -> str:
    """Return JSON that can stand in a script element: no text of it can end the element, or begin another."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def inlined(svg: str, name: str, alt: str) -> str:
    """Return an SVG document as an element of the page: its ids and styles its own, its size that of its place.

    Paths have two decimals, a hundredth of a point, so that the page is smaller. Glyphs keep their ids, which mean the
    same in every figure: `with_shared_glyphs`.

    Args:
        name: what its ids begin with from here on.
    """
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r">\s+<", "><", svg)
    svg = re.sub(r'(?<=\sd=")[^"]*', lambda path: " ".join(re.sub(r"(\.\d\d)\d+", r"\1", path[0]).split()), svg)
    svg = re.sub(rf'(\sid=")(?!{FONT})', rf"\g<1>{name}-", svg)
    svg = re.sub(rf"""(href=["']#(?!{FONT})|url\(['"]?#)""", rf"\g<1>{name}-", svg)
    svg = re.sub(r"(<style[^>]*>\s*)\*", rf"\g<1>#figure-{name} *", svg)
    root = re.search(r"<svg\b[^>]*>", svg)
    if root is None:
        raise ValueError(f"the figure {name} is no SVG document")
    attributes = re.sub(r'\s(id|width|height|role|aria-label)="[^"]*"', "", root[0].removesuffix(">"))
    opened = f'{attributes} id="figure-{name}" role="img" aria-label="{escape(alt)}">'
    return (svg[: root.start()] + opened + svg[root.end() :]).strip()


def with_shared_glyphs(figures: str) -> tuple[str, str]:
    """Return figures without the outlines of their glyphs, and each of these outlines once: half a megabyte less.

    Raises:
        ValueError: two figures draw a glyph of one name in two ways.
    """
    outlines: dict[str, str] = {}

    def move(path: re.Match[str]) -> str:
        if outlines.setdefault(path[1], path[0]) != path[0]:
            raise ValueError(f"two figures draw the glyph {path[1]} in two ways")
        return ""

    figures = re.sub(rf'<path id="({FONT}[^"]*)"[^>]*/>', move, figures).replace("<defs></defs>", "")
    return figures, "".join(outlines[name] for name in sorted(outlines))


def _prose(text: str) -> str:
    """A text in which no line begins with the percent sign."""
    return escape(text.replace(" %", "\N{NO-BREAK SPACE}%"))


def _asset(name: str) -> str:
    return (resources.files("sam_bench.report") / "assets" / name).read_text(encoding="utf-8").rstrip()


def _script(source: str, kind: str = "text/javascript") -> tuple[str, str]:
    """An inline script, and the hash by which the page's policy lets it run, and no other."""
    body = f"\n{source}\n"
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    return f'<script type="{kind}">{body}</script>', f"'sha256-{digest}'"


def _policy(hashes: Iterable[str]) -> str:
    scripts = " ".join(hashes)
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _across(lines: Sequence[Mapping[str, Any]], regimes: Sequence[Mapping[str, Any]]) -> str:
    """What all regimes find, side by side."""
    headings = "".join(f'<th scope="col">{escape(regime["title"])}</th>' for regime in regimes)
    body = "\n".join(
        f'<tr><th scope="row">{escape(line["title"])}</th>{"".join(map(_cell_across, line["cells"]))}</tr>'
        for line in lines
    )
    return "\n".join(
        [
            '<div class="scroll" tabindex="0" role="region" aria-label="All comparisons: table">',
            f'<table class="across"><thead><tr><th scope="col">points of test error</th>{headings}</tr></thead>',
            f"<tbody>\n{body}\n</tbody></table></div>",
        ]
    )


def _cell_across(cell: Mapping[str, str] | None) -> str:
    return f"<td>{_prose(cell['text'])} {_verdict(cell['verdict'])}</td>" if cell else "<td>–</td>"


def _tab(regime: Mapping[str, Any]) -> str:
    return f'<a href="#{_identifier(regime["name"])}">{escape(regime["title"])}</a>'


def _regime(regime: Mapping[str, Any]) -> str:
    name = _identifier(regime["name"])
    notes = "".join(f"<li>{_prose(note)}</li>" for note in regime["notes"])
    parts = [
        f'<section class="regime" id="{name}" aria-labelledby="{name}-title">',
        f'<h2 id="{name}-title">{escape(regime["title"])}</h2>',
        f'<p class="about">{_prose(regime["about"])}</p>',
        _statements(regime["statements"]),
        _table(regime),
        f'<ol class="notes">{notes}</ol>' if notes else "",
        _help(regime["columns"]),
        _commands(regime["rows"]),
        '<div class="curves"></div>',
        _sharpness(regime["sharpness"]),
        _figures(regime),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _sharpness(text: str) -> str:
    return f"<h3>Does flatness go with the test error?</h3>\n<p>{_prose(text)}</p>" if text else ""


def _statements(statements: Sequence[Mapping[str, str]]) -> str:
    items = "\n".join(
        f"<li>{_verdict(each['verdict'], shown=True)} <span>{_prose(each['text'])}</span></li>" for each in statements
    )
    return f'<ul class="statements">\n{items}\n</ul>' if items else ""


def _verdict(verdict: str, shown: bool = False) -> str:
    """Its symbol, and its word, to be seen or only heard."""
    word = f"<span{'' if shown else ' class=heard'}>{verdict}</span>"
    return (
        f'<span class="verdict {verdict.replace(" ", "-")}" title="{verdict}">'
        f'<span aria-hidden="true">{SYMBOLS[verdict]}</span> {word}</span>'
    )


def _table(regime: Mapping[str, Any]) -> str:
    """Rows that were measured, then those that were not, which no sorting moves up."""
    columns = regime["columns"]
    headings = "".join(
        f'<th scope="col" title="{escape(column["help"])}">{_prose(column["title"])}</th>' for column in columns
    )
    measured, others = [], []
    for i, row in enumerate(regime["rows"]):
        name = f'<th scope="row" data-sort="{escape(row["title"])}">{escape(row["title"])}</th>'
        if row["status"] == "measured":
            cells = "".join(_cell(row["cells"].get(column["key"]), column["digits"]) for column in columns)
            measured.append(f'<tr data-row="{i}">{name}{cells}</tr>')
        else:
            others.append(f'<tr data-row="{i}">{name}{_not_run(row, len(columns))}</tr>')
    return "\n".join(
        [
            '<p class="key">Against what the column compares with: '
            f"{' '.join(_verdict(verdict, shown=True) for verdict in SYMBOLS)}</p>",
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(regime["title"])}: table">',
            '<table class="sortable asc n-last results">',
            f'<thead><tr><th scope="col">method</th>{headings}</tr></thead>',
            *["<tbody>", *measured, "</tbody>"],
            *(['<tbody class="not-run">', *others, "</tbody>"] if others else []),
            "</table>",
            "</div>",
        ]
    )


def _cell(cell: Mapping[str, Any] | None, digits: int | None) -> str:
    """A number, sorted by its value; the interval behind it, in brackets, is set back."""
    value = None if cell is None else _finite(cell["value"])
    if cell is None or (value is None and not cell["text"]):
        return '<td data-sort="">–</td>'
    text = cell["text"] or f"{value:.{digits or 0}f}"
    number, bracket, rest = text.partition(" (")
    shown = escape(number) + (f' <span class="interval">({escape(rest)}</span>' if bracket else "")
    verdict = f" {_verdict(cell['verdict'])}" if cell.get("verdict") else ""
    return f'<td data-sort="{"" if value is None else repr(float(value))}">{shown}{verdict}</td>'


def _not_run(row: Mapping[str, Any], width: int) -> str:
    command = f'<code class="command">{escape(row["command"])}</code>'
    return f'<td colspan="{width}"><div><span>not run</span>{command}</div></td>'


def _help(columns: Sequence[Mapping[str, Any]]) -> str:
    return (
        "<details><summary>What the columns are</summary>"
        f"{_definitions({column['title']: column['help'] for column in columns})}</details>"
    )


def _commands(rows: Sequence[Mapping[str, Any]]) -> str:
    items = "\n".join(
        f'<dt>{escape(row["title"])}</dt><dd><code class="command">{escape(row["command"])}</code></dd>'
        for row in rows
        if row["status"] == "measured"
    )
    return f"<details><summary>The command that makes each row</summary>\n<dl>\n{items}\n</dl></details>"


def _definitions(entries: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in entries.items())}</dl>"


def _width(svg: str) -> float:
    """How wide a figure is, in rem, so that letters of 7 points in it are nearly as large as the page's."""
    width = re.search(r'<svg\b[^>]*\swidth="([\d.]+)', svg)
    return float(width[1]) * 0.105 if width else 34


def _figures(regime: Mapping[str, Any]) -> str:
    figures = "\n".join(
        f'<figure style="--width: {_width(figure["svg"]):.1f}rem"><figcaption>{escape(figure["title"])}</figcaption>'
        f'<div class="drawing">'
        f"{inlined(figure['svg'], _identifier(regime['name'], figure['name']), figure['alt'])}</div></figure>"
        for figure in regime["figures"]
    )
    return f'<h3>Figures</h3>\n<div class="figures">\n{figures}\n</div>' if figures else ""


def _identifier(*names: str) -> str:
    return re.sub(r"[^\w-]", "_", "-".join(names))


def _library(library: Library) -> str:
    return f'<a href="{library.home}">{library.name}</a> {library.version} ({library.licence})'


def _licence(library: Library) -> str:
    return f"<h3>{library.name} {library.version}</h3>\n<pre>{escape(_asset(f'{library.file}.LICENSE'))}</pre>"


def _data(regime: Mapping[str, Any]) -> dict[str, Any]:
    """What the scripts need: settings and versions that runs share are said once."""
    seeds = [seed for row in regime["rows"] for seed in row["seeds"]]
    shared = {key: _shared(seed[key] for seed in seeds) for key in ("settings", "versions")}
    return {
        "id": _identifier(regime["name"]),
        "title": regime["title"],
        **shared,
        "rows": [_row(row, shared) for row in regime["rows"]],
    }


def _row(row: Mapping[str, Any], of_all: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    own = {key: _shared(seed[key] for seed in row["seeds"]) for key in of_all}
    kept = ("id", "title", "optimizer", "status", "command", "settings")
    return {
        **{key: row[key] for key in kept},
        "common": {key: _less(own[key], of_all[key]) for key in of_all},
        "seeds": [
            {
                **seed,
                **{key: _less(seed[key], own[key]) for key in of_all},
                "error": _finite(seed["error"]),
                "history": {name: [_rounded(value) for value in values] for name, values in seed["history"].items()},
            }
            for seed in row["seeds"]
        ],
    }


def _shared(settings: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The entries that all have."""
    found: dict[str, str] | None = None
    for each in settings:
        found = dict(each) if found is None else {k: v for k, v in found.items() if each.get(k) == v}
    return found or {}


def _less(settings: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in settings.items() if key not in known}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rounded(value: float | None) -> float | None:
    return None if _finite(value) is None else round(value, DIGITS)
