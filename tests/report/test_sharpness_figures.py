"""Tests of the figures of sharpness: which are drawn, their axes, landscapes, and equal bytes for equal files."""

import itertools
import math

import pytest

pytest.importorskip("matplotlib")

from sam_bench.report.figures import as_bytes
from sam_bench.report.sharpness_figures import draw_sharpness, rises
from tests.report.sharpness_records import read, record, runs, write_batch_measures, write_landscape, write_measures


@pytest.fixture
def full_folder(tmp_path):
    """Return a folder with measures of all runs, and landscapes of each kind."""
    entries = runs()
    write_measures(tmp_path, entries)
    by_id = {run["run_id"]: run for run in entries}

    steps = [-1.0, 0.0, 1.0]
    plane = [[2.0, 1.0, None], [1.0, 0.1, 3.0], [9.0, 2.0, 20.0]]
    for run_id in ("sgd-None-0-test", "sam-0.1-0-test", "sam-0.2-1-test"):
        write_landscape(tmp_path, "plane", [by_id[run_id]], steps, losses=plane, errors=plane)
        write_landscape(tmp_path, "line", [by_id[run_id]], steps, losses=[2.0, 0.1, None], errors=plane)

    ends = [by_id["sgd-None-0-test"], by_id["sam-0.1-0-test"]]
    write_landscape(tmp_path, "between", ends, [0.0, 0.5, 1.0], losses=[0.1, 3.0, 0.2], errors=[0.0, 50.0, 0.0])
    return tmp_path


def probed_run(method: str, rho: float | None) -> dict:
    """Return the record of a run whose sharpness was measured while it trained."""
    run = record(method, rho, 9) | {"analysis": {"every": 1, "images": 500}}
    run["history"] |= {"analysis_eigenvalue_1": [3.0], "analysis_one_step_0.1": [0.1], "analysis_gradient_norm": [1]}
    return run


def legend_texts(axes) -> list[str]:
    """Return the texts of a panel's legend."""
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_figures_are_those_of_the_measures(full_folder):
    figures = draw_sharpness(read(full_folder, [*runs(), probed_run("sam", 0.1)]))
    assert list(figures) == ["sharpness", "explains", "landscape", "slices", "sharpening"]


def test_figures_are_reproducible(full_folder):
    entries = [*runs(), probed_run("sam", 0.1)]
    first, second = (draw_sharpness(read(full_folder, entries)) for _ in range(2))
    for name, figure in first.items():
        assert as_bytes(figure, "svg") == as_bytes(second[name], "svg"), name


def test_few_measures_have_fewer_figures(tmp_path):
    entries = runs()
    assert draw_sharpness(read(tmp_path, entries)) == {}
    write_measures(tmp_path, entries[:2])
    assert list(draw_sharpness(read(tmp_path, entries))) == ["sharpness"]


def test_error_far_above_the_others_is_an_arrow(tmp_path):
    entries = runs()
    entries[0]["test_error"] = 99.0
    write_measures(tmp_path, entries)
    axes = draw_sharpness(read(tmp_path, entries))["explains"].axes[0]
    arrows = [line for line in axes.lines if line.get_marker() == "^" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in arrows] == [[99.0]]  # the measure equals the error
    assert max(max(line.get_ydata()) for line in axes.lines if line.get_marker() == "o") < 80


def test_slices_name_their_solutions(full_folder):
    lines, between = draw_sharpness(read(full_folder, runs()))["slices"].axes
    assert legend_texts(lines) == ["SGD", "SAM", "SAM, ρ 0.2"]
    assert legend_texts(between) == ["SGD – SAM, seed 0"]
    assert between.lines[0].get_color() not in [line.get_color() for line in lines.lines]


def test_contours_share_one_scale(full_folder):
    contours = [axes for axes in draw_sharpness(read(full_folder, runs()))["landscape"].axes if axes.get_title()]
    assert [axes.get_title() for axes in contours] == [
        "SGD, seed 0: 0.10", "SAM, seed 0: 0.10", "SAM, ρ 0.2, seed 1: 0.10"]  # fmt: skip
    assert len({tuple(axes.collections[0].get_clim()) for axes in contours}) == 1


def test_sharpening_has_lines_and_measures(full_folder):
    entries = [*runs(), probed_run("sam", 0.1), probed_run("sgd", None)]
    axes = draw_sharpness(read(full_folder, entries))["sharpening"].axes
    assert [line.get_label() for line in axes[0].lines] == ["SGD", "SAM"]
    assert [panel.get_ylabel() for panel in axes] == [
        "test error %", "λ₁\n500 images", "worst case (one step), ρ 0.1\n500 images"]  # fmt: skip


def test_landscape_that_is_not_finite_is_highest(tmp_path):
    entries = runs()[:1]
    plane = [[3.0, 2.0, None], [1.5, 1.0, 4.0], [1.01, 1.02, 100.0]]
    write_landscape(tmp_path, "plane", entries, [-1.0, 0.0, 1.0], losses=plane, errors=plane)
    sharpness = read(tmp_path, entries)
    (landscape,) = sharpness.landscapes
    assert rises(landscape).tolist() == [[2, 1, math.inf], [0.5, 0, 3], pytest.approx([0.01, 0.02, 99])]

    axes = draw_sharpness(sharpness)["landscape"].axes[0]
    assert axes.get_title() == "SGD, seed 0: 1.00"
    assert axes.collections[0].get_array() is not None


def test_infinite_measures_are_arrows(tmp_path):
    entries = runs()
    write_measures(tmp_path, entries, lambda run, name: run["test_error"] if run["test_error"] < 54 else "inf")
    sharpness = read(tmp_path, entries)
    axes = next(axes for axes in draw_sharpness(sharpness)["sharpness"].axes if "ascent" in axes.get_xlabel())
    places = [line.get_ydata()[0] for line in axes.lines if line.get_marker() == ">"]

    titles = sharpness.titles()
    infinite = {solution.title for solution in sharpness.solutions if solution.measures["ascent_0.1"] == math.inf}
    assert 0 < len(infinite) < len(titles)
    assert {titles[place] for place in places} == infinite


def test_batch_measures_are_the_last_panels(tmp_path):
    entries = runs()[:8]
    write_measures(tmp_path, entries)
    write_batch_measures(tmp_path, entries)
    figure = draw_sharpness(read(tmp_path, entries))["sharpness"]
    assert [axes.get_xlabel() for axes in figure.axes if axes.get_visible()][-2:] == [
        "λ₁, batch statistics", "m-sharpness, ρ 0.2, batch statistics"]  # fmt: skip


@pytest.mark.parametrize("greatest", [2.0, 7.0, 9.0, 20.0, 3e4])
def test_ticks_of_log_axis_do_not_overlap(tmp_path, greatest):
    entries = runs()[:8]
    write_measures(tmp_path, entries, lambda run, name: 1 + (greatest - 1) * entries.index(run) / 7)
    figure = draw_sharpness(read(tmp_path, entries))["sharpness"]
    figure.draw_without_rendering()

    for axes in figure.axes:
        low, high = axes.get_xlim()
        labels = [label for label in axes.get_xticklabels(which="both") if label.get_text()]
        boxes = [label.get_window_extent() for label in labels if low <= label.get_position()[0] <= high]
        extents = sorted((box.x0, box.x1) for box in boxes)
        assert len(extents) >= 2
        assert all(a[1] < b[0] for a, b in itertools.pairwise(extents))
