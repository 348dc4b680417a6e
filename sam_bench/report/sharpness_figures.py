"""Figures of the loss around solutions: how sharp it is, what that goes with, and slices through it."""

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sam_bench.report.figures import (
    COLORS,
    FAINT,
    INK,
    LOOK,
    STYLES,
    WIDTH,
    height_for,
    legend_above,
    name_places,
    plot_interval,
)
from sam_bench.report.rows import Record, distinct, rank, title_of
from sam_bench.report.sharpness import Landscape, Sharpness, called

HIGHEST = 8.0
"""Nats: what is higher in a landscape is cut off."""

RISES = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
"""Nats: where contours are drawn; what is lower or higher has the colour of the end."""


def draw_sharpness(sharpness: Sharpness) -> dict[str, Figure]:
    """Return the figures for which something was measured, by name."""
    planes = [each for each in sharpness.landscapes if each.kind == "plane"]
    drawers: Mapping[str, Callable[[], Figure | None]] = {
        "sharpness": lambda: measures(sharpness),
        "explains": lambda: scatter(sharpness),
        "correlations": lambda: forest(sharpness),
        "landscape": lambda: contours(planes),
        "surface": lambda: surfaces(planes),
        "slices": lambda: slices(sharpness.landscapes),
        "sharpening": lambda: curves(sharpness.probed),
    }
    with mpl.rc_context(LOOK):
        return {name: figure for name, drawn in drawers.items() if (figure := drawn()) is not None}


def measures(sharpness: Sharpness) -> Figure | None:
    """Each row's measures, every solution a point, several have a median line; infinite ones are arrows at the edge."""
    names = sharpness.shown_names()
    titles = sharpness.titles()
    if not names:
        return None
    figure, panels = _panels(len(names), height_for(len(titles)))
    for axes, name in zip(panels, names, strict=True):
        for place, title in enumerate(titles):
            values = [s.measures[name] for s in sharpness.solutions if s.title == title]
            values = [value for value in values if not math.isnan(value)]
            finite = [value for value in values if math.isfinite(value)]
            axes.plot(finite, [place] * len(finite), "o", color=COLORS[0], markersize=2.5, alpha=0.8, mew=0)
            if len(finite) < len(values):
                edge = axes.get_yaxis_transform()
                axes.plot(1, place, ">", color=COLORS[0], markersize=4, mew=0, transform=edge, clip_on=False)
            if len(values) > 1 and math.isfinite(median := float(np.median(values))):
                axes.plot([median, median], [place - 0.3, place + 0.3], color=INK)
        _scale(axes, name, sharpness)
        axes.set_xlabel(called(name))
        name_places(axes, titles)
    return figure


def scatter(sharpness: Sharpness) -> Figure | None:
    """The test error against sharpness: a point for a solution, coloured for the best known methods."""
    names = sharpness.shown_names()
    if not names or len(sharpness.solutions) < 3:
        return None
    known = [title for title in ("SGD", "SAM", "ASAM", "GSAM", "WSAM") if title in sharpness.titles()]
    figure, panels = _panels(len(names), 1.9)
    for axes, name in zip(panels, names, strict=True):
        for title in [*(t for t in sharpness.titles() if t not in known), *known]:
            its = [s for s in sharpness.solutions if s.title == title and math.isfinite(s.measures[name])]
            points = [s.measures[name] for s in its], [s.error for s in its]
            if title in known:
                axes.plot(*points, "o", color=COLORS[known.index(title)], markersize=3.5, mew=0, label=title)
            else:
                axes.plot(*points, "o", color=FAINT, markersize=2.5, mew=0, alpha=0.7)
        _scale(axes, name, sharpness)
        axes.set_xlabel(called(name))
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("test error %")
    if known:
        legend_above(figure, panels[0], len(known))
    return figure


def forest(sharpness: Sharpness) -> Figure | None:
    """Rank correlations with the test error, with their intervals, which are not corrected for their number."""
    found = sharpness.correlations
    labels = ("across rows", "over the radii of a method", "over the seeds of a row")
    shown = [which for which in range(3) if not all(math.isnan(each[which].value) for each in found.values())]
    if not shown:
        return None
    figure = Figure(figsize=((0.6 + 0.5 * len(shown)) * WIDTH, height_for(len(found))))
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, which in zip(panels, shown, strict=True):
        axes.axvline(0, color=FAINT, linewidth=0.6)
        for place, of_measure in enumerate(found.values()):
            each = of_measure[which]
            if not math.isnan(each.value):
                color = COLORS[0] if each.low > 0 or each.high < 0 else None
                plot_interval(axes, place, each.value, (each.low, each.high), color)
        axes.set_xlim(-1.05, 1.05)
        axes.set_xticks((-1, 0, 1))
        axes.set_xlabel(labels[which])
        name_places(axes, [called(name) for name in found])
    return figure


def contours(planes: Sequence[Landscape]) -> Figure | None:
    """How far the training loss rises over a plane through each solution, on one scale."""
    if not planes:
        return None
    columns = min(len(planes), 4)
    rows = math.ceil(len(planes) / columns)
    figure = Figure(figsize=(2 * WIDTH, 1.75 * rows + 0.2))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    norm = mpl.colors.LogNorm(RISES[0], RISES[-1])
    for axes, each in zip(grid.flat, planes, strict=False):
        shown = np.clip(rises(each), RISES[0], RISES[-1])
        filled = axes.contourf(each.steps, each.steps, shown, RISES, norm=norm, cmap="cividis")
        axes.contour(each.steps, each.steps, shown, RISES, norm=norm, colors="white", linewidths=0.3)
        axes.plot(0, 0, "o", color=COLORS[1], markersize=2.5, mew=0)
        axes.set_title(f"{each.titles[0]}, seed {each.seeds[0]}: {_own_loss(each):.2f}")
        axes.set_aspect("equal")
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("second direction")
        axes.set_xlabel("first direction")
    for axes in grid.flat[len(planes) :]:
        axes.set_visible(False)
    bar = figure.colorbar(filled, ax=grid, shrink=0.9, format="%g", ticks=RISES)
    bar.set_label("rise of the training loss")
    return figure


def surfaces(planes: Sequence[Landscape]) -> Figure | None:
    """The same as surfaces, of the first two solutions."""
    if not planes:
        return None
    shown = planes[:2]
    figure = Figure(figsize=(WIDTH * len(shown), 2.6))
    for place, each in enumerate(shown, start=1):
        axes = figure.add_subplot(1, len(shown), place, projection="3d")
        x, y = np.meshgrid(each.steps, each.steps)
        heights = np.clip(rises(each), 0, HIGHEST)
        norm = mpl.colors.Normalize(0, HIGHEST)
        surface = axes.plot_surface(x, y, heights, cmap="cividis", norm=norm, rstride=1, cstride=1, linewidth=0.1)
        surface.set_rasterized(True)
        axes.set_zlim(0, HIGHEST)
        axes.set_title(f"{each.titles[0]}, seed {each.seeds[0]}: {_own_loss(each):.2f}")
        axes.set_zlabel("rise of the training loss")
        axes.tick_params(pad=-3)
    return figure


def slices(landscapes: Sequence[Landscape]) -> Figure | None:
    """The training loss along a random direction through each solution, and between pairs of them."""
    groups = [
        (label, its)
        for kind, label in (("line", "along a random direction"), ("between", "from one solution to another"))
        if (its := [each for each in landscapes if each.kind == kind])
    ]
    if not groups:
        return None
    figure = Figure(figsize=(WIDTH * len(groups), 2.4))
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    known: list[str] = []
    for axes, (label, its) in zip(panels, groups, strict=True):
        named = [(each.titles[0] if each.kind == "line" else way(each), each) for each in its]
        names = distinct(name for name, _ in named)
        known += names
        for name, each in named:
            number = known.index(name)
            losses = np.array(each.losses, dtype=float)
            axes.plot(each.steps, losses, STYLES[number // 2 % len(STYLES)], color=COLORS[number % len(COLORS)], lw=0.8)
        axes.set_ylim(0, min(HIGHEST, 1.1 * max(np.nanmax(np.array(each.losses, dtype=float)) for each in its)))
        handles = [next(line for line, (of, _) in zip(axes.lines, named, strict=True) if of == name) for name in names]
        columns = 2 if len(names) <= 4 else 3
        axes.legend(handles, names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, handlelength=2.6)
        axes.set_xlabel(label)
        axes.set_ylabel("training loss")
    return figure


def way(landscape: Landscape) -> str:
    """Return what a legend calls the way from one solution to another."""
    titles, seeds = distinct(landscape.titles), distinct(map(str, landscape.seeds))
    return f"{' – '.join(titles)}, seed{'s' if len(seeds) > 1 else ''} {' – '.join(seeds)}"


def curves(probed: Sequence[Record], most: int = 3) -> Figure | None:
    """Test error and sharpness over the epochs, of runs that were measured while they trained."""
    if not probed:
        return None
    histories = [record["history"] for record in probed]
    one_step = sorted({name for history in histories for name in history if name.startswith("analysis_one_step")})
    wanted = ["analysis_eigenvalue_1", *one_step[-1:], "analysis_gradient_norm"]
    names = [name for name in wanted if any(name in history for history in histories)][: most - 1]
    figure = Figure(figsize=(2 * WIDTH, 2.0))
    panels = figure.subplots(1, 1 + len(names), squeeze=False)[0]
    methods = sorted(distinct(record["method"] for record in probed), key=rank)
    for axes, name in zip(panels, ["test_error", *names], strict=True):
        for number, method in enumerate(methods):
            for i, record in enumerate(record for record in probed if record["method"] == method):
                values = record["history"].get(name, [])
                points = [(epoch, value) for epoch, value in enumerate(values, start=1) if value is not None]
                if not points:
                    continue
                label = title_of(method) if not i else None
                axes.plot(
                    *zip(*points, strict=True),
                    STYLES[number // 2 % len(STYLES)],
                    color=COLORS[number % len(COLORS)],
                    label=label,
                )
        axes.set_xlabel("epoch")
        axes.set_ylabel("test error %")
        if name != "test_error":
            images = distinct(f"{record['analysis']['images']:,}" for record in probed)
            axes.set_ylabel(f"{called(name.removeprefix('analysis_'))}\n{' or '.join(images)} images")
            axes.set_yscale("log")
    legend_above(figure, panels[0], len(methods))
    return figure


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of two columns' width with so many panels, at most four in a line.

    Args:
        height: of a line of panels.
    """
    lines = math.ceil(count / 4)
    columns = math.ceil(count / lines)
    figure = Figure(figsize=(2 * WIDTH, lines * height))
    grid = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def _own_loss(plane: Landscape) -> float:
    """The training loss of the solution, which is in the middle."""
    middle = len(plane.steps) // 2
    return float(plane.losses[middle][middle])


def rises(plane: Landscape) -> np.ndarray:
    """How much higher the loss is than that of the solution; what is not finite is infinitely higher."""
    return np.nan_to_num(np.array(plane.losses, dtype=float) - _own_loss(plane), nan=math.inf, posinf=math.inf)


def _scale(axes: Axes, name: str, sharpness: Sharpness) -> None:
    """A logarithmic axis for a measure, about 0 a linear one where it is not above 0 everywhere."""
    values = [solution.measures[name] for solution in sharpness.solutions if math.isfinite(solution.measures[name])]
    if not values:
        return
    if all(value > 0 for value in values):
        axes.set_xscale("log")
        decades = math.log10(max(values) / min(values))
        named = (1, 1.5, 2, 3, 4, 6, 8) if decades < 0.6 else (1, 2, 5) if decades < 1.5 else (1,)
        axes.xaxis.set_major_locator(LogLocator(subs=named))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xscale("symlog", linthresh=float(np.median(np.abs(values))) / 10)
