"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def row(*cells: str) -> str:
    """Return one line of a table."""
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]] = ()) -> list[str]:
    """Return the lines of a table: the headings, the rule below them, and the rows, if given."""
    return [row(*headings), row(*["---"] * len(headings)), *(row(*cells) for cells in rows)]
