"""Figures: which there are, what they show, and that the same records are the same bytes."""

import math

import pytest

pytest.importorskip("matplotlib")

from sam_bench.report.comparison import Comparison
from sam_bench.report.cost import Cost
from sam_bench.report.drawing import COLORS
from sam_bench.report.figures import as_bytes, cost, draw, errors, radius, write_figures
from sam_bench.report.rows import Row
from sam_bench.report.table import Findings

ERRORS = {"SGD": [60.0, 61.0, 62.0], "SAM": [58.0, 59.1, 59.9], "ASAM": [59.0, 62.0, 61.5], "Worse": [70.0, 71.5, 72.0]}


def run(method: str, seed: int, error: float, rho: float | None = None, noisy: bool = True) -> dict:
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


def found(titles=tuple(ERRORS), seeds: int = 3, **changes) -> Findings:
    rows = tuple(
        Row(title, tuple(run(title.lower(), seed, ERRORS[title][seed], **changes) for seed in range(seeds)))
        for title in titles
    )
    sgd, sam = rows[0], rows[1] if len(rows) > 1 else None
    comparison = Comparison.of(rows, dict.fromkeys(rows, (sgd,)), Cost(), sam, [(sam, sgd)] if sam else [])
    return Findings(rows, (), comparison, Cost(), sgd)


def trials(rhos) -> list[dict]:
    return [run("sam", 42, 60 + abs(math.log(rho)), rho) for rho in rhos]


def test_there_is_a_figure_for_each_question_that_the_runs_answer(tmp_path):
    drawn = draw(found(), trials([0.05, 0.1, 0.2]))
    assert list(drawn) == ["errors", "differences", "curves", "radius", "cost"]
    assert len(drawn["curves"].axes) == 2 and len(draw(found(noisy=False))["curves"].axes) == 1
    written = write_figures(drawn, tmp_path / "figures")
    assert sorted(path.name for path in written) == sorted(
        f"{name}.{kind}" for name in drawn for kind in ("png", "svg")
    )
    assert {path.name: path.read_bytes() for path in written} == {
        f"{name}.{kind}": as_bytes(figure, kind)
        for name, figure in draw(found(), trials([0.05, 0.1, 0.2])).items()
        for kind in ("svg", "png")
    }


def test_where_there_is_too_little_there_is_no_figure():
    assert list(draw(found(("SGD",)))) == ["errors", "curves"]
    assert "differences" not in draw(found(seeds=1))
    assert radius(trials([0.05, 0.1])) is None


def test_every_seed_is_a_point():
    axes = errors(found()).axes[0]
    points = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    assert points == list(ERRORS.values())
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ERRORS)


def test_differences_have_the_colour_of_the_verdict():
    axes = draw(found())["differences"].axes[0]
    markers = {line.get_ydata()[0]: line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"}
    assert markers == {0: COLORS[0], 1: "white", 2: COLORS[1]}  # SAM better, ASAM undecided, the last one worse


def test_on_the_pareto_front_are_those_that_no_other_beats():
    panel = cost(found()).axes[0]
    assert {text.get_text() for text in panel.texts} == {"SGD", "SAM"}


def test_methods_tuned_otherwise_are_other_lines():
    other = trials([0.05, 0.1, 0.2])
    for each in other:
        each["config"]["optimizer"] |= {"base": {"lr": 0.3}, "rho_min": each["config"]["optimizer"]["rho"]}
    figure = radius([*trials([0.2, 0.05, 0.1]), *other])
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[0.05, 0.1, 0.2]] * 2


def test_sgd_of_the_same_settings_is_a_line_beside():
    sgd, otherwise = run("sgd", 42, 64.0), run("sgd", 42, 65.0)
    otherwise["config"]["trainer"] = {"epochs": 8}
    lines = radius([*trials([0.2, 0.05, 0.1]), sgd, otherwise]).axes[0].lines
    assert [(line.get_label(), line.get_ydata()[0]) for line in lines[1:]] == [("SGD", 64.0)]
