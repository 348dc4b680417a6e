"""Tests of figures: which are drawn, what they show, and that equal records give equal bytes."""

import math

import pytest

pytest.importorskip("matplotlib")

from sam_bench.report.comparison import Comparison
from sam_bench.report.cost import Cost
from sam_bench.report.drawing import COLORS
from sam_bench.report.figures import as_bytes, draw, errors, radius, write_figures
from sam_bench.report.rows import Row
from sam_bench.report.table import Findings

#: The test errors of each row's runs.
ERRORS = {"SGD": [60.0, 61.0, 62.0], "SAM": [58.0, 59.1, 59.9], "ASAM": [59.0, 62.0, 61.5], "Worse": [70.0, 71.5, 72.0]}


def run(method: str, seed: int, error: float, rho: float | None = None, noisy: bool = True) -> dict:
    """Return the record of a finished run.

    Args:
        noisy: training labels are wrong.
    """
    history = {"test_error": [None, error + 10, None, error]}
    if noisy:
        history["wrong_label_error"] = [90.0, 90.0, 80.0, 60.0 + seed]
    passes = 100 if method in ("sgd", "worse") else 200

    return {
        "method": method, "seed": seed, "status": "finished", "test_error": error, "epochs": 4, "history": history,
        "passes": passes, "device": "cpu", "precision": "fp32", "dataset_sha256": "0" * 64,
        "config": {
            "optimizer": {"name": method, "rho": rho}, "trainer": {"epochs": 4}, "model": {"name": "resnet8"},
            "data": {"split": "test"},
        },
    }  # fmt: skip


def findings(titles=tuple(ERRORS), seeds: int = 3, **changes) -> Findings:
    """Return the findings of some rows, each compared with the first, and all with the second."""
    rows = tuple(
        Row(title, tuple(run(title.lower(), seed, ERRORS[title][seed], **changes) for seed in range(seeds)))
        for title in titles
    )
    sgd, sam = rows[0], rows[1] if len(rows) > 1 else None
    comparison = Comparison.of(rows, dict.fromkeys(rows, (sgd,)), Cost(), sam, [(sam, sgd)] if sam else [])
    return Findings(rows, (), comparison, Cost(), sgd)


def trials(rhos: list[float]) -> list[dict]:
    """Return a tuning run of SAM at each radius, the best at 1."""
    return [run("sam", 42, 60 + abs(math.log(rho)), rho) for rho in rhos]


def test_figures_are_those_that_runs_allow():
    figures = draw(findings(), trials([0.05, 0.1, 0.2]))
    assert list(figures) == ["errors", "differences", "curves", "radius"]
    assert len(figures["curves"].axes) == 2 and len(draw(findings(noisy=False))["curves"].axes) == 1


def test_written_figures_are_reproducible(tmp_path):
    first, second = (draw(findings(), trials([0.05, 0.1, 0.2])) for _ in range(2))
    paths = write_figures(first, tmp_path / "figures")
    assert {path.name: path.read_bytes() for path in paths} == {
        f"{name}.{kind}": as_bytes(figure, kind) for name, figure in second.items() for kind in ("svg", "png")
    }


def test_few_runs_have_fewer_figures():
    assert list(draw(findings(("SGD",)))) == ["errors", "curves"]
    assert "differences" not in draw(findings(seeds=1))
    assert radius(trials([0.05, 0.1])) is None


def test_errors_figure_has_a_point_per_seed():
    axes = errors(findings()).axes[0]
    points = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    *others, worse = ERRORS.values()
    assert points == others
    assert [text.get_text() for text in axes.texts] == [f"{sum(worse) / 3:.1f} →"]  # far above the others
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ERRORS)


def test_differences_figure_colours_verdicts():
    axes = draw(findings())["differences"].axes[0]
    colors = {line.get_ydata()[0]: line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"}
    assert colors == {0: COLORS[0], 1: "white", 2: COLORS[1]}  # SAM better, ASAM undecided, the last one worse


def test_errors_figure_has_costs_beside():
    costs = errors(findings()).axes[1]
    assert [bar.get_width() for bar in costs.patches] == [1.0, 2.0, 2.0, 1.0]


def test_radius_figure_has_a_line_per_base_settings():
    with_other_rate = trials([0.05, 0.1, 0.2])
    for trial in with_other_rate:
        trial["config"]["optimizer"] |= {"base": {"lr": 0.3}, "rho_min": trial["config"]["optimizer"]["rho"]}
    figure = radius([*trials([0.2, 0.05, 0.1]), *with_other_rate])
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[0.05, 0.1, 0.2]] * 2


def test_radius_figure_shows_sgd_of_same_settings():
    sgd, longer_sgd = run("sgd", 42, 64.0), run("sgd", 42, 65.0)
    longer_sgd["config"]["trainer"] = {"epochs": 8}
    lines = radius([*trials([0.2, 0.05, 0.1]), sgd, longer_sgd]).axes[0].lines
    assert [(line.get_label(), line.get_ydata()[0]) for line in lines[1:]] == [("SGD", 64.0)]
