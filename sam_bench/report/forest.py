"""The forest plot: every planned comparison in every study, and its average over the studies."""

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sam_bench.report.across import AVERAGE, Line, in_words
from sam_bench.report.drawing import (
    DIRECTION,
    FAINT,
    INK,
    LOOK,
    VERDICT_COLORS,
    WIDTH,
    draw_grid,
    height_for,
    name_places,
    plot_interval,
)
from sam_bench.report.pooling import Pooled

#: The number of panels side by side.
COLUMNS = 4


def forest(lines: Sequence[Line], titles: Mapping[str, str]) -> Figure | None:
    """Draw a panel for each comparison that has an average, with a line for each study and a diamond for the average.

    None without an average.

    Args:
        titles: the title of each study, by its name.
    """
    shown = [(line, line.pooled) for line in lines if line.pooled is not None]
    if not shown:
        return None

    # Studies without any of these comparisons have no line.
    names = [name for name in titles if any(_has_verdict(line, name) for line, _ in shown)]
    with mpl.rc_context(LOOK):
        rows = math.ceil(len(shown) / COLUMNS)
        columns = min(COLUMNS, len(shown))
        figure = Figure(figsize=((0.6 + 0.6 * columns) * WIDTH, rows * (height_for(len(names) + 1) + 0.55)))
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
        for axes, (line, pooled) in zip(panels, shown, strict=False):
            _draw_panel(axes, line, pooled, names)
        for axes in panels[len(shown) :]:
            axes.remove()
        name_places(panels[0], [*(titles[name] for name in names), AVERAGE])
    return figure


def _has_verdict(line: Line, name: str) -> bool:
    each = line.cells[name]
    return each is not None and each.verdict is not None


def _draw_panel(axes: Axes, line: Line, pooled: Pooled, names: Sequence[str]) -> None:
    """Draw one comparison: the margin as a band, the studies' intervals, and the average with its own."""
    axes.axvspan(-pooled.margin, pooled.margin, color=FAINT, alpha=0.15, linewidth=0)
    axes.axvline(0, color=FAINT, linewidth=0.6)

    for place, name in enumerate(names):
        if _has_verdict(line, name):
            each = line.cells[name]
            plot_interval(axes, place, each.mean, each.simultaneous, VERDICT_COLORS[each.verdict])

    low, high = pooled.interval
    place = len(names)
    axes.axhline(place - 0.5, color=FAINT, linewidth=0.4)
    axes.fill([low, pooled.mean, high, pooled.mean], [place, place - 0.3, place, place + 0.3], color=INK, linewidth=0)
    draw_grid(axes)
    title = line.title.replace(" at equal", "\nat equal")  # a panel is too narrow for both in a line
    axes.set_title(f"{title}\n{in_words(pooled)}\n{pooled.verdict} on average", loc="left")
    axes.set_xlabel(DIRECTION)
