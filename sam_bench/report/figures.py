"""Figures of a study, as wide as a column of a paper and readable without telling red from green.

The same records and the same matplotlib give the same bytes.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sam_bench.report.comparison import EPOCHS, PASSES, REFERENCE
from sam_bench.report.rows import Record, Row, distinct, memorised, memorised_by_epoch, rows_of, title_of
from sam_bench.report.stats import ranks
from sam_bench.report.table import Findings
from sam_bench.runs.files import write_atomically

#: The width of a column of a two-column page, in inches.
WIDTH = 3.4

INK, FAINT = "#222222", "#999999"
#: Okabe and Ito's colors, which differ in lightness too. A single series has the first.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")

#: Settings that may differ along a line of errors against radii. GSAM has two radii, which change together.
RADIUS = ("optimizer.rho", "optimizer.rho_min", "dataset_sha256")

LOOK = {
    "figure.dpi": 100, "savefig.dpi": 300, "figure.constrained_layout.use": True, "font.family": "DejaVu Sans",
    "font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "lines.linewidth": 1.0,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.prop_cycle": mpl.cycler(color=COLORS), "svg.hashsalt": "sam_bench", "svg.fonttype": "path",
}  # fmt: skip


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
        "cost": lambda: cost(findings),
        "ranks": lambda: ranking(findings),
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
    """Draw each row's errors: every seed as a point, the mean as a line, Student's interval as a bar."""
    rows = findings.rows
    figure, axes = _figure(height_for(len(rows)))
    for place, row in enumerate(rows):
        low, high = row.interval
        axes.plot([low, high], [place, place], color=FAINT, linewidth=3, solid_capstyle="butt", alpha=0.5)
        axes.plot([row.mean, row.mean], [place - 0.3, place + 0.3], color=INK, linewidth=1)
        points = list(row.errors.values())
        axes.plot(points, [place] * len(points), "o", color=COLORS[0], markersize=2.5, alpha=0.8, markeredgewidth=0)
    name_places(axes, [row.title for row in rows])
    axes.set_xlabel("test error %")
    return figure


def differences(findings: Findings) -> Figure | None:
    """Draw differences with their corrected intervals, filled where they exclude 0 and hollow where they do not.

    None if no row has a verdict.
    """
    comparison = findings.comparison
    kinds = [kind for kind in (EPOCHS, PASSES, REFERENCE) if kind in comparison.kinds]
    rows = [
        row for row in findings.rows if any((paired := comparison.at(kind, row)) and paired.verdict for kind in kinds)
    ]
    if not rows:
        return None

    figure = Figure(figsize=(WIDTH * (1 if len(kinds) == 1 else 2), height_for(len(rows))))
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        axes.axvline(0, color=FAINT, linewidth=0.6)
        for place, row in enumerate(rows):
            paired = comparison.at(kind, row)
            if paired is None or paired.verdict is None:
                continue
            color = COLORS[0] if paired.mean < 0 else COLORS[1]
            plot_interval(axes, place, paired.mean, paired.corrected_interval, color if paired.separated else None)
        axes.set_xlabel(f"{comparison.heading(kind)} (points)")

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

    figure, axes = _figure(2.2)
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


def cost(findings: Findings) -> Figure | None:
    """Draw the error against passes, and against training time, with the Pareto front as a line.

    Costs within 5 % count as equal. None for fewer than two rows with errors.
    """
    rows = [row for row in findings.rows if row.errors]
    if len(rows) < 2:
        return None

    measures: list[tuple[str, Callable[[Row], float]]] = [
        ("forward-backward passes, thousands", lambda row: row.means["passes"] / 1000),
        ("training time, SGD = 1", findings.relative_cost),
    ]
    figure = Figure(figsize=(2 * WIDTH, 2.4))
    for axes, (name, measure) in zip(figure.subplots(1, 2, sharey=True), measures, strict=True):
        points = {row: (measure(row), row.mean) for row in rows}
        front = _pareto_front(points)
        line = [points[row] for row in front]
        axes.step([x for x, _ in line], [y for _, y in line], where="post", color=FAINT, linewidth=0.8)

        # Only rows on the front have names: with all of them the names would overlap.
        for row, (x, y) in points.items():
            on_front = row in front
            axes.plot(x, y, "o", markersize=3.5, color=COLORS[0] if on_front else FAINT, markeredgewidth=0)
            if on_front:
                axes.annotate(row.title, (x, y), xytext=(3, -7), textcoords="offset points", fontsize=6)
        axes.margins(x=0.12, y=0.12)
        axes.set_xlabel(name)

    figure.axes[0].set_ylabel("test error %")
    return figure


def ranking(findings: Findings) -> Figure | None:
    """Draw ranks by the mean error, with intervals of a bootstrap over the seeds.

    Only rows with all the seeds of the row that has the most take part. None for fewer than three rows or two seeds.
    """
    seeds = max((row.errors.keys() for row in findings.rows), key=len, default=())
    rows = [row for row in findings.rows if row.errors.keys() >= set(seeds)]
    if len(rows) < 3 or len(seeds) < 2:
        return None

    row_ranks = ranks({row: row.errors for row in rows})
    ordered = sorted(rows, key=lambda row: row_ranks[row][0])
    figure, axes = _figure(height_for(len(rows)))
    for place, row in enumerate(ordered):
        rank, low, high = row_ranks[row]
        axes.plot([low, high], [place, place], color=FAINT)
        axes.plot(rank, place, "o", color=COLORS[0], markersize=3.5)

    name_places(axes, [row.title for row in ordered])
    axes.set_xlabel("rank by mean test error, 1 the best")
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def legend_above(figure: Figure, axes: Axes, columns: int) -> None:
    """Put a legend above the figure, and make the figure higher by the legend's height."""
    handles, labels = axes.get_legend_handles_labels()
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.14 * math.ceil(len(labels) / columns))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, handlelength=2.6)


def plot_interval(axes: Axes, place: float, value: float, ends: tuple[float, float], color: str | None) -> None:
    """Draw a value with its interval: filled in a color, or hollow and faint if `color` is None (not separated)."""
    axes.plot(ends, [place, place], color=color or FAINT)
    face = color or "white"
    axes.plot(value, place, "o", color=color or FAINT, markersize=3.5, markerfacecolor=face, markeredgewidth=0.8)


def height_for(rows: int) -> float:
    """Return the height, in inches, of a figure with so many rows."""
    return 0.6 + 0.17 * rows


def name_places(axes: Axes, titles: Sequence[str]) -> None:
    """Label the rows of the y axis, the first at the top."""
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.4)


def _rows_with_curves(findings: Findings, most: int) -> list[Row]:
    """Return up to `most` rows to draw curves of: the best one, then the planned ones, or all if none was planned."""
    planned = distinct(row for pair in findings.comparison.planned for row in pair)
    best = [findings.comparison.best[0]] if findings.comparison.best else []
    wanted = [row for row in distinct([*best, *planned, *([] if planned else findings.rows)]) if row.finished]

    # Averages of weights have no curves: histories are those of the last weights.
    wanted = [row for row in wanted if not row.is_average][:most]
    return [row for row in findings.rows if row in wanted]


def _test_errors(run: Record) -> list[float | None]:
    return run["history"]["test_error"]


def _memorised(run: Record) -> list[float | None]:
    return memorised_by_epoch(run) or [None] * run["epochs"]


def _pareto_front(points: Mapping[Row, tuple[float, float]]) -> list[Row]:
    """Return, by cost, the rows that no row at up to 1.05 times their cost beats in error.

    Args:
        points: cost and error of each row.
    """
    return [
        row
        for row, (cost, error) in sorted(points.items(), key=lambda item: item[1])
        if not any(c <= 1.05 * cost and (e, c) < (error, cost) for c, e in points.values())
    ]
