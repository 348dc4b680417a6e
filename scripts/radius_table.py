"""The README's table of published radii: python scripts/radius_table.py"""

from sam_bench.optim.registry import METHODS
from sam_bench.report.radii import DEFAULT, RADII
from scripts import markdown
from scripts.arguments import parser

HEADINGS = ("method", "ρ", "network, data", "where it was read", "here")


def table() -> str:
    """Return the table of published radii in Markdown, one row per radius."""
    rows = []
    for radius in RADII:
        used = ", ".join("the default" if name == DEFAULT else f"`experiment={name}`" for name in radius.used)
        rows.append((METHODS[radius.method].title, f"{radius.rho:g}", radius.setting, radius.source, used))
    return "\n".join(markdown.table(HEADINGS, rows))


if __name__ == "__main__":
    parser(__doc__).parse_args()
    print(table())
