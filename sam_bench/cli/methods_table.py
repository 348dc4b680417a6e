"""The documentation's table of methods, made from the registry and `conf/`."""

import json

from sam_bench.cli.compose import compose
from sam_bench.optim.registry import METHODS, MethodEntry
from sam_bench.report.markup import table

HEADINGS = ("`optimizer=`", "class", "what it does", "passes a step", "own settings", "paper")


def methods_table() -> str:
    """Return the table of methods in Markdown, one row per method."""
    return "\n".join(table(HEADINGS, map(_row_cells, METHODS.values())))


def _row_cells(entry: MethodEntry) -> tuple[str, ...]:
    own_class = f"`{entry.class_name}`" if entry.perturbs else "–"
    summary = entry.summary.replace("|", r"\|")
    return f"`{entry.name}`", own_class, summary, entry.passes, _settings_cell(entry), entry.paper


def _settings_cell(entry: MethodEntry) -> str:
    """Return the method's radius and own settings, with their preset values and ranges."""
    config = compose([f"optimizer={entry.name}"]).optimizer
    values = [f"`rho={_format_value(config.rho)}`"] if entry.perturbs else []
    for option in entry.options:
        bounds = f" ({option.bounds})" if option.bounds else ""
        values.append(f"`{option.name}={_format_value(config.options()[option.name])}`{bounds}")
    return ", ".join(values) or "–"


def _format_value(value: object) -> str:
    """Return a value in the form that the command line takes."""
    return json.dumps(value) if value is None or isinstance(value, bool) else f"{value:g}"
