"""Figures of a study, as wide as a column of a paper and readable without telling red from green.

The same records and the same matplotlib give the same bytes.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from sam_bench.report.comparison import EPOCHS, PASSES, REFERENCE
from sam_bench.report.drawing import (
    COLORS,
    DIRECTION,
    FAINT,
    INK,
    LOOK,
    MARKERS,
    STYLES,
    VERDICT_COLORS,
    WIDTH,
    draw_grid,
    height_for,
    legend_above,
    name_places,
    one_panel,
    plot_interval,
    upper_fence,
)
from sam_bench.report.rows import Record, Row, distinct, memorised, memorised_by_epoch, rows_of, title_of
from sam_bench.report.table import Findings
from sam_bench.runs.files import write_atomically

#: Settings that may differ along a line of errors against radii. GSAM has two radii, which change together.
RADIUS = ("optimizer.rho", "optimizer.rho_min", "dataset_sha256")


def draw(findings: Findings, tuning: Sequence[Record] = ()) -> dict[str, Figure]:
    """Return the figures for which there are enough runs, by name.

    Args:
        tuning: records of runs on held-out images, for the figure of the error against the radius.
    """
    drawers: dict[str, Callable[[], Figure | None]] = {
        "errors": lambda: errors(findings),
        "differences": lambda: differences(findings),
        "curves": lambda: curves(findings),
        "radius": lambda: radius(tuning),
    }
    with mpl.rc_context(LOOK):
        return {name: figure for name, drawn in drawers.items() if (figure := drawn()) is not None}


def write_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write each figure to `folder` as SVG and PNG, remove all other SVG and PNG files there, and return the paths."""
    written = []
    for old in (*folder.glob("*.svg"), *folder.glob("*.png")):
        if old.stem not in figures:
            old.unlink()

    for name, figure in figures.items():
        for kind in ("svg", "png"):
            path = folder / f"{name}.{kind}"
            write_atomically(path, as_bytes(figure, kind))
            written.append(path)
    return written


def as_bytes(figure: Figure, kind: str) -> bytes:
    """Return the bytes of a figure's file: an SVG without background and date, or a PNG on white."""
    content = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    with mpl.rc_context(LOOK):
        figure.savefig(content, format=kind, metadata=metadata, transparent=kind == "svg")
    return content.getvalue()


def errors(findings: Findings) -> Figure:
    """Draw each row's errors, and beside them its training time, if it is known.

    Every seed is a point, the mean a line, and Student's interval a bar. A row whose error is far above the others' has
    its mean as a number at the edge.
    """
    rows = findings.rows
    costs = [findings.relative_cost(row) for row in rows]
    has_costs = any(math.isfinite(cost) for cost in costs)
    figure = Figure(figsize=((1.5 if has_costs else 1) * WIDTH, height_for(len(rows))))
    panels = figure.subplots(1, 1 + has_costs, sharey=True, squeeze=False, width_ratios=[2, 1][: 1 + has_costs])[0]

    axes = panels[0]
    limit = upper_fence([row.mean for row in rows])
    for place, row in enumerate(rows):
        if row.mean > limit:
            edge = axes.get_yaxis_transform()
            axes.text(1, place, f"{row.mean:.1f} →", transform=edge, ha="right", va="center", color=FAINT)
            continue
        low, high = row.interval
        axes.plot([low, high], [place, place], color=FAINT, linewidth=3, solid_capstyle="butt", alpha=0.5)
        axes.plot([row.mean, row.mean], [place - 0.3, place + 0.3], color=INK, linewidth=1)
        points = list(row.errors.values())
        axes.plot(points, [place] * len(points), "o", color=COLORS[0], markersize=2.5, alpha=0.8, markeredgewidth=0)
    axes.set_xlabel("test error %")

    if has_costs:
        panels[1].barh(range(len(rows)), costs, height=0.5, color=FAINT, alpha=0.5)
        panels[1].set_xlabel("training time, SGD = 1")
        draw_grid(panels[1])
    name_places(axes, [row.title for row in rows])
    return figure


def differences(findings: Findings) -> Figure | None:
    """Draw differences with their simultaneous intervals in the colour of the verdict, and the margin as a band.

    None if no row has a verdict.
    """
    comparison = findings.comparison
    kinds = [kind for kind in (EPOCHS, PASSES, REFERENCE) if kind in comparison.kinds]
    rows = [row for row in findings.rows if any((each := comparison.at(kind, row)) and each.verdict for kind in kinds)]
    if not rows:
        return None

    figure = Figure(figsize=(WIDTH * (1 if len(kinds) == 1 else 2), height_for(len(rows))))
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        axes.axvspan(-comparison.margin, comparison.margin, color=FAINT, alpha=0.15, linewidth=0)
        axes.axvline(0, color=FAINT, linewidth=0.6)
        for place, row in enumerate(rows):
            each = comparison.at(kind, row)
            if each is None or each.verdict is None:
                continue
            plot_interval(axes, place, each.mean, each.simultaneous, VERDICT_COLORS[each.verdict])
        axes.set_title(comparison.heading(kind))
        axes.set_xlabel(DIRECTION)

    name_places(panels[0], [row.title for row in rows])
    return figure


def curves(findings: Findings, most: int = 7) -> Figure | None:
    """Draw the test error by epoch, and the memorised share if labels are wrong: means, and bands over the seeds.

    None if there is nothing to draw.

    Args:
        most: the largest number of rows to draw.
    """
    rows = _rows_with_curves(findings, most)
    noisy = any(memorised(run) is not None for row in rows for run in row.finished)
    quantities: list[tuple[str, Callable[[Record], list[float | None]]]] = [("test error %", _test_errors)]
    if noisy:
        quantities.append(("wrong labels memorised %", _memorised))

    figure = Figure(figsize=(WIDTH * len(quantities), 2.2))
    panels = figure.subplots(1, len(quantities), squeeze=False)[0]
    for axes, (name, values) in zip(panels, quantities, strict=True):
        for number, row in enumerate(rows):
            # Only epochs that were evaluated in all seeds have a mean and a band.
            by_seed = [values(run) for run in row.finished]
            epochs = [e for e, at_epoch in enumerate(zip(*by_seed, strict=True)) if None not in at_epoch]
            if not epochs:
                continue

            by_epoch = [[history[epoch] for history in by_seed] for epoch in epochs]
            x = [epoch + 1 for epoch in epochs]
            color = COLORS[number % len(COLORS)]
            axes.fill_between(x, [min(v) for v in by_epoch], [max(v) for v in by_epoch], color=color, alpha=0.15, lw=0)
            means = [sum(v) / len(v) for v in by_epoch]
            style = STYLES[number // 2 % len(STYLES)]
            axes.plot(x, means, style, color=color, label=row.title)

        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.set_xlim(left=0)

    if not panels[0].lines:
        return None
    legend_above(figure, panels[0], 4 * len(quantities) // 2)
    return figure


def radius(tuning: Sequence[Record]) -> Figure | None:
    """Draw the held-out error against the radius: a line for each method, and for SGD a horizontal one.

    A line needs at least three radii with all other settings alike. None without such a line.
    """
    rows_with_errors = [row for row in rows_of(tuning) if row.errors and not row.is_average]
    series: dict[str, list[Row]] = {}
    for row in rows_with_errors:
        if row.rho:
            other_settings = {key: value for key, value in row.settings.items() if key not in RADIUS}
            series.setdefault(f"{row.method} {sorted(other_settings.items())}", []).append(row)
    series = {key: rows for key, rows in series.items() if len(rows) >= 3}
    if not series:
        return None

    figure, axes = one_panel(2.2)
    for number, rows in enumerate(series.values()):
        rows.sort(key=lambda row: row.rho)
        style = STYLES[number // 2 % len(STYLES)]
        marker = MARKERS[number // len(COLORS) % len(MARKERS)]
        errors_at = [row.mean for row in rows]
        label = title_of(rows[0].method)
        axes.plot([row.rho for row in rows], errors_at, style, marker=marker, markersize=3, label=label)

    # SGD is drawn only if it ran with the settings of one of the lines.
    shared_settings = [_without_method(rows[0]) for rows in series.values()]
    for row in rows_with_errors:
        if row.method == "sgd" and _without_method(row) in shared_settings:
            axes.axhline(row.mean, color=FAINT, linewidth=0.8, label=title_of(row.method), zorder=0)

    axes.set_xscale("log")
    axes.set_xlabel("radius ρ")
    axes.set_ylabel("held-out error %")
    legend_above(figure, axes, 3)
    return figure


def _without_method(row: Row) -> dict[str, Any]:
    """Return the settings that SGD has as well: all but the method's own and the radius."""
    return {
        key: value
        for key, value in row.settings.items()
        if key not in RADIUS and (key.startswith("optimizer.base.") or not key.startswith("optimizer."))
    }


def _rows_with_curves(findings: Findings, most: int) -> list[Row]:
    """Return up to `most` rows to draw curves of: the planned ones, or all if none was planned.

    Averages of weights have no curves: histories are those of the last weights.
    """
    planned = distinct(row for pair in findings.comparison.planned for row in pair)
    wanted = [row for row in planned or findings.rows if row.finished and not row.is_average][:most]
    return [row for row in findings.rows if row in wanted]


def _test_errors(run: Record) -> list[float | None]:
    return run["history"]["test_error"]


def _memorised(run: Record) -> list[float | None]:
    return memorised_by_epoch(run) or [None] * run["epochs"]
