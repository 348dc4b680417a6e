"""The answers at the head of the results page, from a Markdown text that takes its numbers and figures from results."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from sam_bench.errors import ConfigError
from sam_bench.lookup import lookup
from sam_bench.report.across import AVERAGE, HETEROGENEITY
from sam_bench.report.differences import UNDECIDED
from sam_bench.report.elements import figure, identifier, prose, table, verdict

#: The language of a code block that stands for a table of comparisons.
COMPARISONS = "comparisons"


@dataclass(frozen=True)
class Answer:
    """A part of the text as HTML: a heading of level two with what follows, or, without a question, the beginning."""

    question: str
    html: str

    @property
    def anchor(self) -> str:
        """Return the id of its section."""
        return re.sub(r"\W+", "-", self.question.lower()).strip("-") or "answer"


def answers(
    text: str, lines: Sequence[Mapping[str, Any]], studies: Sequence[Mapping[str, Any]], figures: Mapping[str, str]
) -> list[Answer]:
    """Return the parts of a text with its numbers, tables and figures from the results.

    Three things in it stand for results:

    - Code such as `noisy40: SAM − SGD at equal epochs` becomes the difference in that study, with its verdict;
      `average: …` becomes the average over studies.
    - A code block in the language `comparisons`, with a comparison in each line, becomes a folded table of all studies.
    - An image becomes the figure of that path.

    Args:
        lines: the comparisons in all studies, as in the page's payload.
        studies: `name` and `title` of each study, in the order of the lines' cells.
        figures: SVG documents, by the paths that images have in the text.

    Raises:
        ConfigError: a comparison or a figure is not among the results.
    """
    by_title = {line["title"]: line for line in lines}
    cells = _cells(lines, ["average", *(study["name"] for study in studies)])
    names = {name for name, _ in cells}

    def code(self: RendererHTML, tokens: Sequence[Token], i: int, *_: Any) -> str:
        content = tokens[i].content
        study, separator, title = content.partition(": ")
        if not separator or study not in names:
            return f"<code>{escape(content)}</code>"
        if (study, title) not in cells:
            raise ConfigError(f"{study} has no comparison {title}")
        return f'<span class="number">{_difference(cells[study, title], shown=True)}</span>'

    def block(self: RendererHTML, tokens: Sequence[Token], i: int, *_: Any) -> str:
        if tokens[i].info != COMPARISONS:
            return f"<pre>{escape(tokens[i].content)}</pre>"
        titles = tokens[i].content.splitlines()
        return _table([lookup(by_title, title, "comparison") for title in titles], studies)

    def image(self: RendererHTML, tokens: Sequence[Token], i: int, *_: Any) -> str:
        path = str(tokens[i].attrs["src"])
        return figure(lookup(figures, path, "figure"), identifier("answers", path), tokens[i].content)

    markdown = MarkdownIt("commonmark", {"html": False})
    for name, rule in (("code_inline", code), ("fence", block), ("image", image)):
        markdown.add_render_rule(name, rule)

    tokens = markdown.parse(text.replace(" %", "\N{NO-BREAK SPACE}%"))
    for before, inline, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if inline.children and [child.type for child in inline.children] == ["image"]:
            before.hidden = after.hidden = True  # HTML has no figures within paragraphs

    parts: list[tuple[str, list[Token]]] = [("", [])]
    for token, inline in zip(tokens, [*tokens[1:], None], strict=True):
        if inline is not None and token.type == "heading_open" and token.tag == "h2":
            parts.append((inline.content, []))
        parts[-1][1].append(token)
    return [Answer(question, markdown.renderer.render(of, markdown.options, {})) for question, of in parts]


def _cells(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return the cells of all comparisons by name and title; the names are those of the average and the studies."""
    return {
        (name, line["title"]): cell
        for line in lines
        for name, cell in zip(names, [line["average"], *line["cells"]], strict=True)
        if cell is not None
    }


def _table(lines: Sequence[Mapping[str, Any]], studies: Sequence[Mapping[str, Any]]) -> str:
    """Return a folded table with a row for each study and the average, and a column for each comparison."""
    rows = [
        (study["title"], cells) for i, study in enumerate(studies) if any(cells := [line["cells"][i] for line in lines])
    ]
    rows.append((AVERAGE, [line["average"] for line in lines]))
    shown = [(title, [_cell(cell) for cell in cells]) for title, cells in rows]
    shown.append((HETEROGENEITY, [escape(line["heterogeneity"]) for line in lines]))
    return (
        '<details><summary>All studies, in points of test error</summary><div class="scroll" tabindex="0">\n'
        f"{table(['study', *(line['title'] for line in lines)], shown)}</div></details>\n"
    )


def _cell(cell: Mapping[str, Any] | None) -> str:
    return _difference(cell) if cell else "–"


def _difference(cell: Mapping[str, Any], shown: bool = False) -> str:
    """Return a difference with its verdict; `shown` adds its unit, and the verdict's word for everybody to see."""
    unit = " points," if shown else ""
    return f"{prose(cell['text'])}{unit} {verdict(cell['verdict'] or UNDECIDED, shown)}"
