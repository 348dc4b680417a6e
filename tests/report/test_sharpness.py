"""Tests of sharpness: what is read of the measured runs, its correlation with the test error, and tables."""

import math

import numpy as np
import pytest

from sam_bench.errors import StateError
from sam_bench.report.sharpness import as_frame, correlation_table, measure_title, tables
from tests.report.sharpness_records import (
    METHODS,
    RADII,
    read,
    record,
    runs,
    write,
    write_batch_measures,
    write_measures,
)


def page_lines(page: str, start: str) -> list[str]:
    """Return the lines of a page that begin so."""
    return [line for line in page.splitlines() if line.startswith(start)]


# Solutions


def test_solution_has_row_error_and_measures(tmp_path):
    entries = runs()
    write_measures(tmp_path, entries[:6])
    sharpness = read(tmp_path, entries)
    assert [(solution.title, solution.seed) for solution in sharpness.solutions] == [
        ("SGD", 0), ("SGD", 1), ("SGD", 2), ("SGD", 3), ("SAM", 0), ("SAM", 1)]  # fmt: skip

    frame = as_frame(sharpness)
    assert frame["test_error"].tolist() == [run["test_error"] for run in entries[:6]]
    assert frame["eigenvalue_1"].tolist() == frame["test_error"].tolist()
    assert "trace_se" in frame and "trace_se" not in sharpness.names


def test_runs_with_averaged_weights_are_left_out(tmp_path):
    entries = runs()[:8]
    entries[0]["averaged"] = {"swa 0.75": {"test_error": 49.0}}
    write_measures(tmp_path, entries)
    assert len(read(tmp_path, entries).solutions) == 7


def test_analysis_of_an_earlier_run_is_refused(tmp_path):
    entries = runs()[:8]
    write_measures(tmp_path, entries)
    entries[1]["test_error"] += 1
    with pytest.raises(StateError, match="of an earlier run of the same name: move it away"):
        read(tmp_path, entries)


@pytest.mark.parametrize("changes", [{"settings": {"images": 20}}, {"schema_version": 0}])
def test_different_analysis_settings_are_refused(tmp_path, changes):
    entries = runs()
    write_measures(tmp_path, entries[:2])
    write_measures(tmp_path, entries[2:3], **changes)
    with pytest.raises(StateError, match=r"2 kinds of settings.* move all but one"):
        read(tmp_path, entries)


def test_file_that_is_no_analysis_is_refused(tmp_path):
    write(tmp_path, "analysis", "other")
    with pytest.raises(StateError, match=r"other\.json is not an analysis.*move it away"):
        read(tmp_path, runs())


def test_no_analysis_gives_no_solutions(tmp_path):
    sharpness = read(tmp_path, runs())
    assert sharpness.solutions == ()
    assert sharpness.names == []


# Correlations with the test error


def is_without_interval(correlation) -> bool:
    """Return True if a correlation has no interval."""
    return math.isnan(correlation.low) and math.isnan(correlation.high)


def test_measure_equal_to_error_is_in_perfect_order(tmp_path):
    entries = runs()
    write_measures(tmp_path, entries)
    across, radii, seeds = read(tmp_path, entries).correlations["eigenvalue_1"]
    assert across.value == pytest.approx(1) and (across.groups, across.runs) == (21, 84)
    assert radii.value == pytest.approx(1) and (radii.groups, radii.runs) == (5, 20)  # SGD has no radius
    assert seeds.value == pytest.approx(1) and (seeds.groups, seeds.runs) == (21, 84)
    assert is_without_interval(across) and is_without_interval(radii) and is_without_interval(seeds)


def test_correlations_differ_across_and_within_methods(tmp_path):
    entries = runs()

    def value(run, name):
        place = METHODS.index(run["method"])
        return 100 * place - (run["test_error"] - place)

    write_measures(tmp_path, entries, value)
    sharpness = read(tmp_path, entries)
    across, radii, seeds = sharpness.correlations["trace"]
    assert across.value > 0.3 and radii.value == seeds.value == pytest.approx(-1)

    page = tables(sharpness, "noisy40", "About.")
    assert "| ‖∇L‖" in page and "| trace" in page and "−1.00 (in perfect order)" in page


def test_random_measure_has_intervals_around_0(tmp_path):
    entries, generator = runs(), np.random.default_rng(0)
    write_measures(tmp_path, entries, lambda run, name: generator.random())
    for correlation in read(tmp_path, entries).correlations["gradient_norm"]:
        assert correlation.low < 0 < correlation.high


def test_constant_measure_has_no_correlation(tmp_path):
    entries = runs()
    write_measures(tmp_path, entries, lambda run, name: 1.0)
    assert math.isnan(read(tmp_path, entries).correlations["eigenvalue_1"].across.value)


def test_infinite_measure_ranks_highest(tmp_path):
    entries = runs()
    write_measures(tmp_path, entries, lambda run, name: run["test_error"] if run["test_error"] < 54 else "inf")
    sharpness = read(tmp_path, entries)
    assert math.inf in as_frame(sharpness)["ascent_0.1"].tolist()
    assert sharpness.correlations["ascent_0.1"].across.value > 0.95
    (msam,) = page_lines(tables(sharpness, "noisy40", "About."), "| MSAM ")
    assert " inf (inf – inf) " in msam


def test_unknown_measure_does_not_count(tmp_path):
    entries = runs()
    write_measures(tmp_path, entries, lambda run, name: None if run["seed"] == 0 else run["test_error"])
    sharpness = read(tmp_path, entries)
    assert sharpness.correlations["trace"].across.runs == 63
    (msam,) = page_lines(tables(sharpness, "noisy40", "About."), "| MSAM ")
    assert "| – " in msam


def test_held_out_runs_count_over_radii_only(tmp_path):
    tested = [run for run in runs() if run["config"]["optimizer"].get("rho") in (None, 0.1)]
    held_out = [record(method, rho, 42, "val") for method in ("sam", "asam") for rho in RADII]
    held_out.append(record("sgd", None, 42, "val"))
    write_measures(tmp_path, tested)
    write_measures(tmp_path, held_out, lambda run, name: -run["test_error"], images_sha256="2")

    without = read(tmp_path, tested)
    assert math.isnan(without.correlations["trace"].radii.value)  # each method has one radius
    sharpness = read(tmp_path, tested, held_out)
    assert sharpness.solutions == without.solutions and len(sharpness.held_out) == len(held_out)
    across, radii, seeds = sharpness.correlations["trace"]
    assert (across, seeds) == without.correlations["trace"][::2]
    assert radii.value == pytest.approx(-1) and (radii.groups, radii.runs) == (2, 8)

    assert as_frame(sharpness)["split"].tolist() == ["test"] * len(tested) + ["val"] * len(held_out)
    page = tables(sharpness, "noisy40", "About.")
    assert "8 runs of SAM, ASAM count with their errors on held-out images" in page
    assert "held-out images" not in tables(without, "noisy40", "About.")


def test_held_out_runs_need_equal_analysis_settings(tmp_path):
    held_out = [record("sam", rho, 42, "val") for rho in RADII]
    write_measures(tmp_path, held_out)
    write_measures(tmp_path, held_out[:1], settings={"images": 20})
    with pytest.raises(StateError, match="2 kinds of settings"):
        read(tmp_path, runs(), held_out)


# Tables


def test_correlation_table_has_thirds(tmp_path):
    entries = runs()
    write_measures(tmp_path, entries)
    headings, ((name, across, rows, radii, methods, seeds, _, in_thirds),) = correlation_table(
        read(tmp_path, entries), ["eigenvalue_1"]
    )
    assert len(headings) == 8
    assert (name, rows, methods) == ("λ₁", "21", "5")
    assert across == radii == seeds == "+1.00 (in perfect order)"

    # A row's mean error over its seeds is 0.15 above that of seed 0.
    means = sorted(run["test_error"] + 0.15 for run in entries if run["seed"] == 0)
    thirds = [np.mean(means[start : start + 7]) for start in (0, 7, 14)]
    assert in_thirds == ", ".join(f"{third:.1f}" for third in thirds)


def test_correlation_table_of_few_rows_claims_little(tmp_path):
    entries = runs()
    six_rows = [run for run in entries if run["config"]["optimizer"].get("rho") in (None, 0.1)]
    write_measures(tmp_path, six_rows)
    _, ((_, across, _, radii, _, seeds, _, in_thirds),) = correlation_table(read(tmp_path, entries), ["eigenvalue_1"])
    assert across == radii == in_thirds == "–"
    assert seeds.startswith("+1.00")


def test_medians_have_no_exponents(tmp_path):
    entries = runs()[:2]
    write_measures(tmp_path, entries, lambda run, name: 1300.0 + 20 * run["seed"])
    assert "| 1,310 (1,300 – 1,320) " in tables(read(tmp_path, entries), "noisy40", "About.")


def test_batch_measures_are_further_measures(tmp_path):
    entries = runs()[:8]
    write_measures(tmp_path, entries)
    without = read(tmp_path, entries)
    write_batch_measures(tmp_path, entries[:7])
    sharpness = read(tmp_path, entries)
    batch_names = ["batch_eigenvalue_1", "batch_m_sharpness_0.05", "batch_m_sharpness_0.2", "batch_loss"]
    assert sharpness.names == [*without.names, *batch_names]
    assert [solution.measures["eigenvalue_1"] for solution in sharpness.solutions] == [
        run["test_error"] for run in entries
    ]
    assert math.isnan(sharpness.solutions[-1].measures["batch_eigenvalue_1"])


def test_batch_measures_have_a_table_of_their_own(tmp_path):
    entries = runs()[:8]
    write_measures(tmp_path, entries)
    page_without = tables(read(tmp_path, entries), "noisy40", "About.")
    write_batch_measures(tmp_path, entries[:7])
    page = tables(read(tmp_path, entries), "noisy40", "About.")
    assert page.splitlines()[:9] == page_without.splitlines()[:9]

    _, _, rest = page.partition("## With the BatchNorm statistics of each batch")
    heading, _, sgd, sam = page_lines(rest.partition("## Does")[0], "|")
    assert [cell.strip() for cell in heading.split("|")[4:-1]] == ["λ₁", "m-sharpness, ρ 0.2", "training loss"]
    assert "| 3.5 (2 – 5) " in sgd and "| 0.5 (0.5 – 0.5) " in sgd
    assert "3.5" not in sam and sam.count("| – ") == 3


def test_measure_title_names_batch_statistics():
    assert measure_title("batch_eigenvalue_1") == "λ₁, batch statistics"


@pytest.mark.parametrize(("preset", "some"), [
    ("full", {"λ₁", "adaptive worst case (ascent), ρ 0.5", "average case, σ 0.005"}),
    ("batch_statistics", {"λ₁", "m-sharpness, ρ 0.2", "adaptive m-sharpness, ρ 1", "average case, σ 0.01"}),
])  # fmt: skip
def test_measure_title_names_every_measure_of_presets(preset, some):
    from sam_bench.analysis.measure import names
    from sam_bench.cli.compose import compose

    titles = [
        measure_title(name) for name in names(compose([f"analysis={preset}"]).analysis) if not name.endswith("_se")
    ]
    assert len(set(titles)) == len(titles)
    assert some <= set(titles)
