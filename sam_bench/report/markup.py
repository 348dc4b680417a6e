"""Tables as text: Markdown, and LaTeX with booktabs."""

from collections.abc import Sequence

LATEX = str.maketrans(
    {character: f"\\{character}" for character in "{}%_&#$"}
    | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}
    | {"–": "--", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "≈": r"$\approx$"}
    | {"Δ": r"$\Delta$", "ρ": r"$\rho$", "γ": r"$\gamma$", "α": r"$\alpha$", "“": "``", "”": "''"}
)


def markdown(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, its columns as wide as their cells."""
    widths = [max(len(line[i]) for line in [headings, *cells]) for i in range(len(headings))]
    lines = [headings, ["-" * width for width in widths], *cells]
    return "\n".join("| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def latex(headings: Sequence[str], cells: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    """Return a tabular with the rules of booktabs, its first column to the left, and remarks as comments before it."""
    comments = [f"% {line}" for remark in remarks for line in remark.splitlines()]
    heading, *body = (" & ".join(cell.translate(LATEX) for cell in line) + r" \\" for line in [headings, *cells])
    begin = f"\\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}"
    end = [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(["% \\usepackage{booktabs}", *comments, begin, r"\toprule", heading, r"\midrule", *body, *end])
