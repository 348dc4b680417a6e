"""The look and the colours of all figures, and the parts that several of them have."""

import math
from collections.abc import Sequence
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sam_bench.report.differences import BETTER, UNDECIDED, WITHIN, WORSE

#: The width of a column of a two-column page, in inches.
WIDTH = 3.4

INK, FAINT = "#222222", "#999999"
#: Okabe and Ito's colors, which differ in lightness too. A single series has the first.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")

#: The colour of each verdict; without a colour a mark is hollow.
VERDICT_COLORS = {BETTER: COLORS[0], WORSE: COLORS[1], WITHIN: COLORS[2], UNDECIDED: None}
#: The label of an axis of differences.
DIRECTION = "better ← points → worse"

LOOK = {
    "figure.dpi": 100, "savefig.dpi": 300, "figure.constrained_layout.use": True, "font.family": "DejaVu Sans",
    "font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "lines.linewidth": 1.0,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.prop_cycle": mpl.cycler(color=COLORS), "svg.hashsalt": "sam_bench", "svg.fonttype": "path",
}  # fmt: skip


def one_panel(height: float) -> tuple[Figure, Axes]:
    """Return a figure as wide as a column, and its only panel."""
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
    """Draw a value with its interval: filled in a color, or hollow and faint if `color` is None."""
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
    draw_grid(axes)


def draw_grid(axes: Axes) -> None:
    """Draw the vertical lines of a figure whose rows have names, and leave out the marks of the rows."""
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.4)


def upper_fence(errors: Sequence[float]) -> float:
    """Return the error above which a row is left out of an axis, so that one row does not press the others together.

    It is as far above the median as five times the least error is below it.
    """
    known = [error for error in errors if math.isfinite(error)]
    return median(known) + 5 * (median(known) - min(known)) if len(known) > 2 else math.inf
