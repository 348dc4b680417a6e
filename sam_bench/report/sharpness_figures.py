"""Figures of the loss around solutions: its sharpness, the test error against it, and slices through the loss."""

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sam_bench.report.drawing import (
    COLORS,
    FAINT,
    INK,
    LOOK,
    STYLES,
    WIDTH,
    height_for,
    legend_above,
    name_places,
    upper_fence,
)
from sam_bench.report.rows import Record, distinct, rank, title_of
from sam_bench.report.sharpness import Landscape, Sharpness, measure_title

#: The loss at which slices are cut off, in nats.
HIGHEST = 8.0

#: The rises of the loss at which contours are drawn, in nats. Values beyond an end have the colour of that end.
RISES = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


def draw_sharpness(sharpness: Sharpness) -> dict[str, Figure]:
    """Return the figures for which something was measured, by name."""
    planes = [each for each in sharpness.landscapes if each.kind == "plane"]
    drawers: Mapping[str, Callable[[], Figure | None]] = {
        "sharpness": lambda: measures(sharpness),
        "explains": lambda: scatter(sharpness),
        "landscape": lambda: contours(planes),
        "slices": lambda: slices(sharpness.landscapes),
        "sharpening": lambda: curves(sharpness.probed),
    }
    with mpl.rc_context(LOOK):
        return {name: figure for name, drawn in drawers.items() if (figure := drawn()) is not None}


def measures(sharpness: Sharpness) -> Figure | None:
    """Draw each row's measures: every solution as a point, the median of several as a line.

    Infinite values are an arrow at the edge. None if nothing was measured.
    """
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

            # The arrow's x is a fraction of the axis, so that it stays at the edge on any scale.
            if len(finite) < len(values):
                edge = axes.get_yaxis_transform()
                axes.plot(1, place, ">", color=COLORS[0], markersize=4, mew=0, transform=edge, clip_on=False)
            if len(values) > 1 and math.isfinite(median := float(np.median(values))):
                axes.plot([median, median], [place - 0.3, place + 0.3], color=INK)

        _set_scale(axes, name, sharpness)
        axes.set_xlabel(measure_title(name))
        name_places(axes, titles)
    return figure


def scatter(sharpness: Sharpness) -> Figure | None:
    """Draw the test error against sharpness: a point for each solution, coloured for the best known methods.

    A solution whose error is far above the others' is an arrow at the edge. None for fewer than three solutions.
    """
    names = sharpness.shown_names()
    if not names or len(sharpness.solutions) < 3:
        return None

    limit = upper_fence([solution.error for solution in sharpness.solutions])
    coloured = [title for title in ("SGD", "SAM", "ASAM", "GSAM", "WSAM") if title in sharpness.titles()]
    figure, panels = _panels(len(names), 1.9)
    for axes, name in zip(panels, names, strict=True):
        # The coloured rows are drawn last, over the others.
        for title in [*(t for t in sharpness.titles() if t not in coloured), *coloured]:
            known = [s for s in sharpness.solutions if s.title == title and math.isfinite(s.measures[name])]
            solutions = [s for s in known if s.error <= limit]
            points = [s.measures[name] for s in solutions], [s.error for s in solutions]
            if title in coloured:
                axes.plot(*points, "o", color=COLORS[coloured.index(title)], markersize=3.5, mew=0, label=title)
            else:
                axes.plot(*points, "o", color=FAINT, markersize=2.5, mew=0, alpha=0.7)

            beyond = [s.measures[name] for s in known if s.error > limit]
            edge = axes.get_xaxis_transform()
            axes.plot(beyond, [0.97] * len(beyond), "^", color=FAINT, markersize=4, mew=0, transform=edge)

        _set_scale(axes, name, sharpness)
        axes.set_xlabel(measure_title(name))
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("test error %")

    if coloured:
        legend_above(figure, panels[0], len(coloured))
    return figure


def contours(planes: Sequence[Landscape]) -> Figure | None:
    """Draw the rise of the training loss over a plane through each solution, all on one scale."""
    if not planes:
        return None

    columns = min(len(planes), 4)
    rows = math.ceil(len(planes) / columns)
    figure = Figure(figsize=(2 * WIDTH, 1.75 * rows + 0.2))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    norm = mpl.colors.LogNorm(RISES[0], RISES[-1])
    for axes, plane in zip(grid.flat, planes, strict=False):
        shown = np.clip(rises(plane), RISES[0], RISES[-1])
        filled = axes.contourf(plane.steps, plane.steps, shown, RISES, norm=norm, cmap="cividis")
        axes.contour(plane.steps, plane.steps, shown, RISES, norm=norm, colors="white", linewidths=0.3)
        axes.plot(0, 0, "o", color=COLORS[1], markersize=2.5, mew=0)
        axes.set_title(f"{plane.titles[0]}, seed {plane.seeds[0]}: {_own_loss(plane):.2f}")
        axes.set_aspect("equal")
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("second direction")
        axes.set_xlabel("first direction")

    for axes in grid.flat[len(planes) :]:
        axes.set_visible(False)
    bar = figure.colorbar(filled, ax=grid, shrink=0.9, format="%g", ticks=RISES)
    bar.set_label("rise of the training loss")
    return figure


def slices(landscapes: Sequence[Landscape]) -> Figure | None:
    """Draw the training loss along a random direction through each solution, and between pairs of solutions."""
    groups = [
        (label, of_kind)
        for kind, label in (("line", "along a random direction"), ("between", "from one solution to another"))
        if (of_kind := [landscape for landscape in landscapes if landscape.kind == kind])
    ]
    if not groups:
        return None

    figure = Figure(figsize=(WIDTH * len(groups), 2.4))
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    all_names: list[str] = []  # a name's place in it gives its colour, in all panels
    for axes, (label, of_kind) in zip(panels, groups, strict=True):
        named = [(each.titles[0] if each.kind == "line" else way(each), each) for each in of_kind]
        names = distinct(name for name, _ in named)
        all_names += names
        for name, each in named:
            number = all_names.index(name)
            losses = np.array(each.losses, dtype=float)
            axes.plot(each.steps, losses, STYLES[number // 2 % len(STYLES)], color=COLORS[number % len(COLORS)], lw=0.8)
        axes.set_ylim(0, min(HIGHEST, 1.1 * max(np.nanmax(np.array(each.losses, dtype=float)) for each in of_kind)))

        # Several lines may have one name: the legend has the first of them.
        handles = [next(line for line, (of, _) in zip(axes.lines, named, strict=True) if of == name) for name in names]
        columns = 2 if len(names) <= 4 else 3
        axes.legend(handles, names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, handlelength=2.6)
        axes.set_xlabel(label)
        axes.set_ylabel("training loss")
    return figure


def way(landscape: Landscape) -> str:
    """Return the name, for a legend, of the line from one solution to another."""
    titles, seeds = distinct(landscape.titles), distinct(map(str, landscape.seeds))
    return f"{' – '.join(titles)}, seed{'s' if len(seeds) > 1 else ''} {' – '.join(seeds)}"


def curves(probed: Sequence[Record], most: int = 3) -> Figure | None:
    """Draw test error and sharpness by epoch, for runs whose sharpness was measured while they trained.

    Args:
        most: the largest number of panels, the test error's included.
    """
    if not probed:
        return None

    # In order of preference; of the radii of the one-step measure the last by name.
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
            axes.set_ylabel(f"{measure_title(name.removeprefix('analysis_'))}\n{' or '.join(images)} images")
            axes.set_yscale("log")

    legend_above(figure, panels[0], len(methods))
    return figure


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of two columns' width and its panels, at most four in a line.

    Args:
        height: the height of a line of panels, in inches.
    """
    lines = math.ceil(count / 4)
    columns = math.ceil(count / lines)
    figure = Figure(figsize=(2 * WIDTH, lines * height))
    grid = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def _own_loss(plane: Landscape) -> float:
    """Return the training loss of the solution itself, which is in the middle of the plane."""
    middle = len(plane.steps) // 2
    return float(plane.losses[middle][middle])


def rises(plane: Landscape) -> np.ndarray:
    """Return the loss minus that of the solution, infinite where the loss is not finite."""
    return np.nan_to_num(np.array(plane.losses, dtype=float) - _own_loss(plane), nan=math.inf, posinf=math.inf)


def _set_scale(axes: Axes, name: str, sharpness: Sharpness) -> None:
    """Set a logarithmic x axis for a measure, linear around 0 if not all of its values are above 0."""
    values = [solution.measures[name] for solution in sharpness.solutions if math.isfinite(solution.measures[name])]
    if not values:
        return

    if all(value > 0 for value in values):
        axes.set_xscale("log")
        # The fewer decades there are, the more ticks each has.
        decades = math.log10(max(values) / min(values))
        ticks = (1, 1.5, 2, 3, 4, 6, 8) if decades < 0.6 else (1, 2, 5) if decades < 1.5 else (1,)
        axes.xaxis.set_major_locator(LogLocator(subs=ticks))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xscale("symlog", linthresh=float(np.median(np.abs(values))) / 10)
