"""Figures of a study, as wide as a column of a paper, for eyes that tell no red from green.

Of the same records, and the same matplotlib, they are the same to the byte.
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

WIDTH = 3.4
"""Inches; a column of a two-column page."""

INK, FAINT = "#222222", "#999999"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which differ in lightness too; the first for a single series."""
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")

RADIUS = ("optimizer.rho", "optimizer.rho_min", "dataset_sha256")
"""Settings that may differ along a line of errors against radii; GSAM's least radius goes with its greatest."""

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
        tuning: records of runs on held-out images, for the error against the radius.
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
    """Write each figure to `folder` as SVG and as PNG, and return the files; other such files there are removed."""
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
    """Return a figure as the content of a file: an SVG without a background, or a PNG on white, without a date."""
    content = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    with mpl.rc_context(LOOK):
        figure.savefig(content, format=kind, metadata=metadata, transparent=kind == "svg")
    return content.getvalue()


def errors(findings: Findings) -> Figure:
    """Each row's errors: every seed a point, the mean a line, Student's interval a bar."""
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
    """Differences with their corrected intervals: filled where they exclude 0, hollow where they do not."""
    comparison = findings.comparison
    kinds = [kind for kind in (EPOCHS, PASSES, REFERENCE) if kind in comparison.kinds]
    rows = [row for row in findings.rows if any((each := comparison.at(kind, row)) and each.verdict for kind in kinds)]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH * (1 if len(kinds) == 1 else 2), height_for(len(rows))))
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        axes.axvline(0, color=FAINT, linewidth=0.6)
        for place, row in enumerate(rows):
            each = comparison.at(kind, row)
            if each is None or each.verdict is None:
                continue
            color = COLORS[0] if each.mean < 0 else COLORS[1]
            plot_interval(axes, place, each.mean, each.corrected_interval, color if each.separated else None)
        axes.set_xlabel(f"{comparison.heading(kind)} (points)")
    name_places(panels[0], [row.title for row in rows])
    return figure


def curves(findings: Findings, most: int = 7) -> Figure | None:
    """Test error over the epochs, and the memorised share where labels are wrong: means, and bands over the seeds."""
    rows = _leading(findings, most)
    noisy = any(memorised(run) is not None for row in rows for run in row.finished)
    quantities: list[tuple[str, Callable[[Record], list[float | None]]]] = [("test error %", _test_errors)]
    if noisy:
        quantities.append(("wrong labels memorised %", _memorised))
    figure = Figure(figsize=(WIDTH * len(quantities), 2.2))
    panels = figure.subplots(1, len(quantities), squeeze=False)[0]
    for axes, (name, values) in zip(panels, quantities, strict=True):
        for number, row in enumerate(rows):
            of_seeds = [values(run) for run in row.finished]
            epochs = [e for e, at in enumerate(zip(*of_seeds, strict=True)) if None not in at]
            if not epochs:
                continue
            at = [[of_seed[epoch] for of_seed in of_seeds] for epoch in epochs]
            x = [epoch + 1 for epoch in epochs]
            color = COLORS[number % len(COLORS)]
            axes.fill_between(x, [min(each) for each in at], [max(each) for each in at], color=color, alpha=0.15, lw=0)
            means = [sum(each) / len(each) for each in at]
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
    """Held-out error against the radius, of methods that were run with three or more, all else alike; SGD as a line."""
    found = [row for row in rows_of(tuning) if row.errors and not row.is_average]
    series: dict[str, list[Row]] = {}
    for row in found:
        if row.rho:
            alike = {key: value for key, value in row.settings.items() if key not in RADIUS}
            series.setdefault(f"{row.method} {sorted(alike.items())}", []).append(row)
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
    beside = [_without_method(rows[0]) for rows in series.values()]
    for row in found:
        if row.method == "sgd" and _without_method(row) in beside:
            axes.axhline(row.mean, color=FAINT, linewidth=0.8, label=title_of(row.method), zorder=0)
    axes.set_xscale("log")
    axes.set_xlabel("radius ρ")
    axes.set_ylabel("held-out error %")
    legend_above(figure, axes, 3)
    return figure


def _without_method(row: Row) -> dict[str, Any]:
    """The settings that SGD beside a method has too."""
    return {
        key: value
        for key, value in row.settings.items()
        if key not in RADIUS and (key.startswith("optimizer.base.") or not key.startswith("optimizer."))
    }


def cost(findings: Findings) -> Figure | None:
    """Error against passes, and against training time; the line is the Pareto front, of the least error for a cost.

    Costs within 5 % count as equal.
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
        places = {row: (measure(row), row.mean) for row in rows}
        front = _front(places)
        line = [places[row] for row in front]
        axes.step([x for x, _ in line], [y for _, y in line], where="post", color=FAINT, linewidth=0.8)
        for row, (x, y) in places.items():
            on = row in front
            axes.plot(x, y, "o", markersize=3.5, color=COLORS[0] if on else FAINT, markeredgewidth=0)
            if on:
                axes.annotate(row.title, (x, y), xytext=(3, -7), textcoords="offset points", fontsize=6)
        axes.margins(x=0.12, y=0.12)
        axes.set_xlabel(name)
    figure.axes[0].set_ylabel("test error %")
    return figure


def ranking(findings: Findings) -> Figure | None:
    """Ranks by the mean error, with the intervals of a bootstrap over the seeds, of rows that have all of them."""
    most = max((row.errors.keys() for row in findings.rows), key=len, default=())
    rows = [row for row in findings.rows if row.errors.keys() >= set(most)]
    if len(rows) < 3 or len(most) < 2:
        return None
    found = ranks({row: row.errors for row in rows})
    ordered = sorted(rows, key=lambda row: found[row][0])
    figure, axes = _figure(height_for(len(rows)))
    for place, row in enumerate(ordered):
        rank, low, high = found[row]
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
    """What the lines are, above the figure, which grows by it."""
    handles, labels = axes.get_legend_handles_labels()
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.14 * math.ceil(len(labels) / columns))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, handlelength=2.6)


def plot_interval(axes: Axes, place: float, value: float, ends: tuple[float, float], color: str | None) -> None:
    """A value with its interval: filled, or hollow and faint where there is no color, as nothing is separated."""
    axes.plot(ends, [place, place], color=color or FAINT)
    face = color or "white"
    axes.plot(value, place, "o", color=color or FAINT, markersize=3.5, markerfacecolor=face, markeredgewidth=0.8)


def height_for(rows: int) -> float:
    return 0.6 + 0.17 * rows


def name_places(axes: Axes, titles: Sequence[str]) -> None:
    """Name the places of an axis that goes down."""
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.4)


def _leading(findings: Findings, most: int) -> list[Row]:
    """Those that the planned comparisons are of, and the best; else the first."""
    named = distinct(row for pair in findings.comparison.planned for row in pair)
    best = [findings.comparison.best[0]] if findings.comparison.best else []
    wanted = [row for row in distinct([*best, *named, *([] if named else findings.rows)]) if row.finished]
    wanted = [row for row in wanted if not row.is_average][:most]  # histories are of the last weights
    return [row for row in findings.rows if row in wanted]


def _test_errors(run: Record) -> list[float | None]:
    return run["history"]["test_error"]


def _memorised(run: Record) -> list[float | None]:
    return memorised_by_epoch(run) or [None] * run["epochs"]


def _front(places: Mapping[Row, tuple[float, float]]) -> list[Row]:
    """The rows of which no other has a lower error for as little cost, or 5 % more, by cost."""
    return [
        row
        for row, (cost, error) in sorted(places.items(), key=lambda each: each[1])
        if not any(c <= 1.05 * cost and (e, c) < (error, cost) for c, e in places.values())
    ]
