"""Tables as text, in Markdown and in LaTeX with booktabs, and the generated parts of pages."""

from collections.abc import Iterable, Sequence

from sam_bench.errors import StateError

#: Replacements of the characters that LaTeX does not take as they are.
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "{}%_&#$"}
    | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}
    | {"–": "--", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "≈": r"$\approx$"}
    | {"Δ": r"$\Delta$", "ρ": r"$\rho$", "γ": r"$\gamma$", "α": r"$\alpha$", "“": "``", "”": "''"}
)


def row(*cells: str) -> str:
    """Return one line of a Markdown table. A bar in a cell is escaped."""
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in escaped)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]] = ()) -> list[str]:
    """Return the lines of a Markdown table: the headings, the rule below them, and the rows, if given."""
    return [row(*headings), row(*["---"] * len(headings)), *(row(*cells) for cells in rows)]


def markdown(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are as wide as their widest cell."""
    widths = [max(len(line[i]) for line in [headings, *cells]) for i in range(len(headings))]
    lines = [headings, ["-" * width for width in widths], *cells]
    return "\n".join("| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def latex(headings: Sequence[str], cells: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    """Return a LaTeX tabular with booktabs rules and a left-aligned first column; remarks precede it as comments."""
    comments = [f"% {line}" for remark in remarks for line in remark.splitlines()]
    heading, *body = (" & ".join(cell.translate(LATEX) for cell in line) + r" \\" for line in [headings, *cells])
    begin = f"\\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}"
    end = [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(["% \\usepackage{booktabs}", *comments, begin, r"\toprule", heading, r"\midrule", *body, *end])


def replace_generated(text: str, content: str, command: str) -> str:
    """Return a Markdown text with this content in place of what a command has generated before.

    That stands between two comments, `<!-- made by COMMAND -->` and `<!-- so far made by COMMAND -->`.

    Raises:
        StateError: the text does not have each of the two comments exactly once.
    """
    begin, end = f"<!-- made by {command} -->", f"<!-- so far made by {command} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise StateError(f"the text must have {begin} and {end} once each, so that what is between can be replaced")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"
