"""The README's table of methods, made from the registry and conf/: python scripts/method_table.py"""

import json

from sam_bench.cli.compose import compose
from sam_bench.optim.registry import METHODS, MethodEntry
from scripts import markdown
from scripts.arguments import parser

HEADINGS = ("`optimizer=`", "class", "what it does", "passes a step", "own settings", "paper")


def table() -> str:
    """Return a row for each method, in Markdown."""
    return "\n".join(markdown.table(HEADINGS, map(_cells, METHODS.values())))


def _cells(entry: MethodEntry) -> tuple[str, ...]:
    own_class = f"`{entry.class_name}`" if entry.perturbs else "–"
    summary = entry.summary.replace("|", r"\|")
    return f"`{entry.name}`", own_class, summary, entry.passes, _settings(entry), entry.paper


def _settings(entry: MethodEntry) -> str:
    """Radius and own settings with their preset values, and with their ranges."""
    config = compose([f"optimizer={entry.name}"]).optimizer
    values = [f"`rho={_written(config.rho)}`"] if entry.perturbs else []
    for option in entry.options:
        bounds = f" ({option.bounds})" if option.bounds else ""
        values.append(f"`{option.name}={_written(config.options()[option.name])}`{bounds}")
    return ", ".join(values) or "–"


def _written(value: object) -> str:
    """Return a value as the command line takes it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else f"{value:g}"


if __name__ == "__main__":
    parser(__doc__).parse_args()
    print(table())
