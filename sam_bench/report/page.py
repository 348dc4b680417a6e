"""The results page: one HTML file with tables, runs and curves, which fetches nothing and contains no date."""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

from sam_bench.report.answers import answers
from sam_bench.report.elements import (
    SYMBOLS,
    definitions,
    figure,
    identifier,
    prose,
    table,
    verdict,
    with_shared_glyphs,
)

#: The page's own scripts, in the order in which they are joined into one module.
SCRIPTS = ("dom.js", "table.js", "curves.js", "details.js", "page.js")

#: The decimals that histories keep: curves need no more.
DIGITS = 3


@dataclass(frozen=True)
class Library:
    """A third-party library that the page includes, with its licence.

    Args:
        file: the stem of its files in `assets`.
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

    The tables can be read without JavaScript, which adds sorting, filters, curves and the details of rows.

    Args:
        payload: `title`, `answers` (the text of `sam_bench.report.answers`) and its `figures`, `version` (texts by
            name), `across` (lines with a cell for each regime and their average), `false_claims` and `regimes`;
            tests/report/page_payload.py has a full example.
    """
    regimes = payload["regimes"]
    parts = answers(payload["answers"], payload["across"], regimes, payload["figures"])
    drawn = [f'<section class="answer" id="{part.anchor}">\n{part.html}</section>' for part in parts]
    sections, glyphs = with_shared_glyphs([*drawn, *map(_regime, regimes)])
    scripts = [
        *(_script(_asset(f"{library.file}.min.js")) for library in LIBRARIES),
        _script("\n".join(map(_asset, SCRIPTS)), "module"),
    ]

    return Template(_asset("page.html")).substitute(
        policy=_policy([hashed for _, hashed in scripts]),
        title=escape(payload["title"]),
        answer=sections[0],
        questions="\n".join(f'<li><a href="#{part.anchor}">{escape(part.question)}</a></li>' for part in parts[1:]),
        answers="\n".join(sections[1 : len(parts)]),
        false_claims=escape(payload["false_claims"]),
        styles=_asset("uplot.min.css") + "\n" + _asset("page.css"),
        tabs="\n".join(_tab(regime) for regime in regimes) if len(regimes) > 1 else "",
        glyphs=glyphs,
        regimes="\n".join(sections[len(parts) :]),
        versions=definitions(payload["version"]),
        libraries=", ".join(_library(library) for library in LIBRARIES),
        licences="\n".join(_licence(library) for library in LIBRARIES),
        data=embedded({"regimes": [_data(regime) for regime in regimes]}),
        scripts="\n".join(element for element, _ in scripts),
    )


def embedded(data: Any) -> str:
    """Return data as JSON that is safe in a script element: no text in it can close or open an element."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (resources.files("sam_bench.report") / "assets" / name).read_text(encoding="utf-8").rstrip()


def _script(source: str, kind: str = "text/javascript") -> tuple[str, str]:
    """Return an inline script, and its hash for the page's policy, which lets no other script run."""
    body = f"\n{source}\n"
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    return f'<script type="{kind}">{body}</script>', f"'sha256-{digest}'"


def _policy(hashes: Iterable[str]) -> str:
    scripts = " ".join(hashes)
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _tab(regime: Mapping[str, Any]) -> str:
    return f'<a href="#{identifier(regime["name"])}">{escape(regime["title"])}</a>'


def _regime(regime: Mapping[str, Any]) -> str:
    name = identifier(regime["name"])
    notes = "".join(f"<li>{prose(note)}</li>" for note in regime["notes"])

    parts = [
        f'<section class="regime" id="{name}" aria-labelledby="{name}-title">',
        f'<h2 id="{name}-title">{escape(regime["title"])}</h2>',
        f'<p class="about">{prose(regime["about"])}</p>',
        _statements(regime["statements"]),
        _table(regime),
        f'<ol class="notes">{notes}</ol>' if notes else "",
        _help(regime["columns"]),
        _commands(regime["rows"]),
        '<div class="curves"></div>',
        _sharpness(regime),
        _figures(regime),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _figures(regime: Mapping[str, Any]) -> str:
    drawn = "\n".join(
        figure(each["svg"], identifier(regime["name"], each["name"]), each["alt"], each["title"])
        for each in regime["figures"]
    )
    return f'<h3>Figures</h3>\n<div class="figures">\n{drawn}\n</div>' if drawn else ""


def _sharpness(regime: Mapping[str, Any]) -> str:
    """Return the table of the correlations of sharpness with the test error."""
    if not regime["sharpness"]:
        return ""
    rows = [(name, [prose(value) for value in values]) for name, *values in regime["sharpness"]["cells"]]
    return (
        "<h3>Does flatness go with the test error?</h3>\n"
        '<p class="small">Rank correlations with the test error, each with its own 95 % interval.</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(regime["title"])}: sharpness">'
        f"{table(regime['sharpness']['headings'], rows)}</div>"
    )


def _statements(statements: Sequence[Mapping[str, str]]) -> str:
    items = "\n".join(
        f"<li>{verdict(each['verdict'], shown=True)} <span>{prose(each['text'])}</span></li>" for each in statements
    )
    return f'<ul class="statements">\n{items}\n</ul>' if items else ""


def _table(regime: Mapping[str, Any]) -> str:
    """Return a regime's table: measured rows, then the others in a second body, so that sorting keeps them last."""
    columns = regime["columns"]
    headings = "".join(
        f'<th scope="col" title="{escape(column["help"])}">{prose(column["title"])}</th>' for column in columns
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
            f"{' '.join(verdict(word, shown=True) for word in SYMBOLS)}</p>",
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
    """Return a cell that sorts by its value, with the interval in brackets, if any, less prominent."""
    value = None if cell is None else _finite(cell["value"])
    if cell is None or (value is None and not cell["text"]):
        return '<td data-sort="">–</td>'
    text = cell["text"] or f"{value:.{digits or 0}f}"
    number, bracket, rest = text.partition(" (")
    shown = escape(number) + (f' <span class="interval">({escape(rest)}</span>' if bracket else "")
    symbol = f" {verdict(cell['verdict'])}" if cell.get("verdict") else ""
    return f'<td data-sort="{"" if value is None else repr(float(value))}">{shown}{symbol}</td>'


def _not_run(row: Mapping[str, Any], width: int) -> str:
    command = f'<code class="command">{escape(row["command"])}</code>'
    return f'<td colspan="{width}"><div><span>not run</span>{command}</div></td>'


def _help(columns: Sequence[Mapping[str, Any]]) -> str:
    return (
        "<details><summary>What the columns are</summary>"
        f"{definitions({column['title']: column['help'] for column in columns})}</details>"
    )


def _commands(rows: Sequence[Mapping[str, Any]]) -> str:
    items = "\n".join(
        f'<dt>{escape(row["title"])}</dt><dd><code class="command">{escape(row["command"])}</code></dd>'
        for row in rows
        if row["status"] == "measured"
    )
    return f"<details><summary>The command that makes each row</summary>\n<dl>\n{items}\n</dl></details>"


def _library(library: Library) -> str:
    return f'<a href="{library.home}">{library.name}</a> {library.version} ({library.licence})'


def _licence(library: Library) -> str:
    return f"<h3>{library.name} {library.version}</h3>\n<pre>{escape(_asset(f'{library.file}.LICENSE'))}</pre>"


def _data(regime: Mapping[str, Any]) -> dict[str, Any]:
    """Return a regime's data for the scripts; settings and versions that all runs share appear once."""
    seeds = [seed for row in regime["rows"] for seed in row["seeds"]]
    shared = {key: _shared(seed[key] for seed in seeds) for key in ("settings", "versions")}
    return {
        "id": identifier(regime["name"]),
        "title": regime["title"],
        **shared,
        "rows": [_row(row, shared) for row in regime["rows"]],
    }


def _row(row: Mapping[str, Any], of_regime: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return a row's data for the scripts, without what all runs of the regime share."""
    of_row = {key: _shared(seed[key] for seed in row["seeds"]) for key in of_regime}
    kept = ("id", "title", "optimizer", "status", "command", "settings", "prominent")

    return {
        **{key: row[key] for key in kept},
        "common": {key: _without(of_row[key], of_regime[key]) for key in of_regime},
        "seeds": [
            {
                **seed,
                **{key: _without(seed[key], of_row[key]) for key in of_regime},
                "error": _finite(seed["error"]),
                "history": {name: [_rounded(value) for value in values] for name, values in seed["history"].items()},
            }
            for seed in row["seeds"]
        ],
    }


def _shared(settings: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the entries that are the same in all of several dictionaries."""
    shared: dict[str, str] | None = None
    for each in settings:
        shared = dict(each) if shared is None else {k: v for k, v in shared.items() if each.get(k) == v}
    return shared or {}


def _without(settings: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in settings.items() if key not in known}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rounded(value: float | None) -> float | None:
    return None if _finite(value) is None else round(value, DIGITS)
