"""Tests of the benchmark's report: its figures, what it leaves out, and the committed reports."""

import dataclasses
import json

import pytest

from scripts.benchmark.records import ComparisonResult
from scripts.benchmark.report import report
from tests.conftest import ROOT
from tests.scripts.benchmark_results import comparison_results


def report_lines(comparisons: list[ComparisonResult]) -> list[str]:
    """Return the lines of the report on comparisons, written as JSON and read back."""
    about = {"device": "A CPU (1 threads)", "precision": "bf16", "git_commit": None}
    about |= {"versions": {"torch": "2", "cuda": None, "python": "3"}, "not_measured": ["wrn16_8: lower bound"]}
    text = json.dumps(about | {"comparisons": [dataclasses.asdict(comparison) for comparison in comparisons]})
    return report(json.loads(text)).splitlines()


@pytest.mark.parametrize(
    "row",
    [
        "| ours, eager | 2500 ms (2500 – 2500) |",
        "| its two passes alone | 4000 ms (4000 – 4000) |",
        "| ours / the faster of these | 1.250 (1.250 – 1.250) |",
        "| a user's loop, fp32 / ours | 3.000 (2.000 – 3.000) |",
        "| 391 such steps (50,000 images) | 977.50 s |",
        "| ours, in FLOP/s | 0.800 T |",
        "| ours / the matrix product | 8.0% |",
        "| preparing a batch / the step | 1.00% (1.00% – 1.00%) |",
        "| evaluating every 5th of 200 epochs / training | SAM 0.20%, SGD 0.40% |",
        "| SAM | 2 | 3 | 2500 ms (2500 – 2500) | 51 | 1.000 (1.000 – 1.000) | 0.625 (0.625 – 0.625) |",
        "| LookSAM | 1.2 | 3 | 1800 ms (1800 – 1800) | 71 | 1.500 (1.500 – 1.500) | 0.750 (0.750 – 0.750) |",
        "| resnet20: batch 64 | 2200 ms (2200 – 2200) | 29 | 1.100 (1.100 – 1.100) |",
        "| eager | 1000 ms (1000 – 1000) | 391.00 s | 0.500 (0.500 – 0.500) |",
        "Not measured: wrn16_8: lower bound.",
        "| | resnet8 |",
        "| SAM's step / its two bare passes | 1.25 |",
        "| a user's loop, autocast / ours | 1.50 |",
        "| SAM's FLOP/s / a matrix product's | 8% |",
    ],
)
def test_report_has_ratios_of_the_same_round(row):
    assert row in report_lines(comparison_results())


def test_report_without_faster_bound_uses_the_other():
    bound, *others = comparison_results()
    bound.results.remove(bound.find(engine="compile"))
    assert "| ours / the faster of these | 0.625 (0.625 – 0.625) |" in report_lines([bound, *others])


def test_report_without_fp32_loop_has_autocast():
    bound, users_loop, *others = comparison_results()
    users_loop.results.remove(users_loop.find(precision="fp32"))
    lines = report_lines([bound, users_loop, *others])
    assert "| a user's loop, autocast / ours | 1.500 (1.500 – 1.500) |" in lines


def test_report_without_lower_bound_has_methods():
    rows, rows_without_bound = (
        [line for line in report_lines(comparisons) if line.startswith("| LookSAM")]
        for comparisons in (comparison_results(), comparison_results()[1:])
    )
    assert rows == rows_without_bound != []


def test_report_without_evaluation_has_the_rest():
    bound, *others = comparison_results()
    lines = report_lines([dataclasses.replace(bound, evaluation_seconds=None), *others])
    missing = [line for line in report_lines(comparison_results()) if line not in lines]
    assert [line.split()[1] for line in missing] == ["evaluating"] * 3


@pytest.mark.parametrize("question", ["engines", "batch size", "method", "user's loop"])
def test_report_without_results_of_comparison_has_the_rest(question):
    comparisons = [
        dataclasses.replace(comparison, results=[]) if comparison.question == question else comparison
        for comparison in comparison_results()
    ]
    assert "| ours, eager | 2500 ms (2500 – 2500) |" in report_lines(comparisons)


COMMITTED = [path for path in (ROOT / "results" / "benchmark").glob("*.json") if "-until-" not in path.name]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_report_is_fresh(path):
    assert path.with_suffix(".md").read_text() == report(json.loads(path.read_text())) + "\n"
