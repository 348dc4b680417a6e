"""Sharpness in tables, in words and in figures, from what was measured of runs."""

import itertools
import json
import math

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from sam_bench.errors import StateError
from sam_bench.report.figures import as_bytes
from sam_bench.report.rows import rows_of
from sam_bench.report.sharpness import as_frame, called, explanation, read_sharpness, tables
from sam_bench.report.sharpness_figures import draw_sharpness, rises

METHODS = ("sgd", "sam", "asam", "gsam", "wsam", "msam")
RADII = (0.1, 0.2, 0.3, 0.4)
MEASURES = ("loss", "error", "gradient_norm", "eigenvalue_1", "trace", "trace_se", "one_step_0.1", "ascent_0.1",
            "average_0.01", "average_0.01_se")  # fmt: skip


def record(method: str, rho: float | None, seed: int, split: str = "test") -> dict:
    """A run whose error grows with its method's place, falls with its radius, and goes with its seed."""
    error = 50 + METHODS.index(method) - 10 * (rho or 0) + 0.1 * seed
    optimizer = {"name": method, "base": {"name": "sgd"}} | ({} if rho is None else {"rho": rho})
    return {
        "run_id": f"{method}-{rho}-{seed}-{split}", "method": method, "seed": seed, "status": "finished",
        "test_error": error, "dataset_sha256": "0" * 64, "history": {"test_error": [error]}, "averaged": {},
        "config": {"optimizer": optimizer, "trainer": {"epochs": 1}, "data": {"split": split}, "seed": seed},
    }  # fmt: skip


def runs():
    found = [record("sgd", None, seed) for seed in range(4)]
    return found + [record(method, rho, seed) for method in METHODS[1:] for rho in RADII for seed in range(4)]


def write(folder, kind, name, **content):
    (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / kind / f"{name}.json").write_text(json.dumps(content))


def measured(folder, records, value=lambda record, name: record["test_error"], **changes):
    for each in records:
        measures = {name: value(each, name) for name in MEASURES}
        found = {"run_ids": [each["run_id"]], "test_errors": [each["test_error"]], "settings": {"images": 10}}
        found |= {"images_sha256": "1", "measures": measures}
        write(folder, "analysis", each["run_id"], **found | changes)


def read(folder, records):
    return read_sharpness(folder, records, rows_of(records))


def test_each_solution_has_its_row_its_error_and_its_measures(tmp_path):
    records = runs()
    measured(tmp_path, records[:6])
    found = read(tmp_path, records)
    assert [(each.title, each.seed) for each in found.solutions] == [("SGD", 0), ("SGD", 1), ("SGD", 2), ("SGD", 3),
                                                                     ("SAM", 0), ("SAM", 1)]  # fmt: skip
    frame = as_frame(found)
    assert frame["test_error"].tolist() == [each["test_error"] for each in records[:6]]
    assert frame["eigenvalue_1"].tolist() == frame["test_error"].tolist()
    assert "trace_se" in frame and "trace_se" not in found.names


def test_what_goes_with_the_error_is_told_from_what_does_not(tmp_path):
    """A measure that goes with the error everywhere; one that goes against it within methods only; chance."""
    generator = np.random.default_rng(0)

    def value(run, name):
        place = METHODS.index(run["method"])
        within = run["test_error"] - place
        return {"trace": 100 * place - within, "gradient_norm": generator.random()}.get(name, run["test_error"])

    records = runs()
    measured(tmp_path, records, value)
    found = read(tmp_path, records).correlations
    across, radii, seeds = found["eigenvalue_1"]
    assert across.value == pytest.approx(1) and (across.groups, across.runs) == (21, 84)
    assert radii.value == pytest.approx(1) and (radii.groups, radii.runs) == (5, 20)  # SGD has no radius
    assert seeds.value == pytest.approx(1) and (seeds.groups, seeds.runs) == (21, 84)
    assert all(math.isnan(end) for each in (across, radii, seeds) for end in (each.low, each.high))
    across, radii, seeds = found["trace"]
    assert across.value > 0.3 and radii.value == seeds.value == pytest.approx(-1)
    across, radii, seeds = found["gradient_norm"]
    assert all(each.low < 0 < each.high for each in (across, radii, seeds))
    text = explanation(read(tmp_path, records))
    assert "(21 rows, 84 solutions)" in text
    perfect = "+1.00 (in perfect order)"
    assert f"λ₁ across rows {perfect}, over radii {perfect}, over seeds {perfect}" in text
    means = sorted(
        {each["run_id"][:-7]: each["test_error"] for each in records if each["run_id"].endswith("-0-test")}.values()
    )
    thirds = [np.mean(means[start : start + 7]) + 0.15 for start in (0, 7, 14)]
    assert f"the least λ₁ has a mean error of {thirds[0]:.1f} %, the next {thirds[1]:.1f} %" in text
    page = tables(read(tmp_path, records), "noisy40", "About.")
    assert "| ‖∇L‖" in page and "| trace" in page and "−1.00 (in perfect order)" in page


def test_runs_on_held_out_images_count_over_radii_and_nowhere_else(tmp_path):
    """A tuning has methods at many radii, with other training images and errors of others than the test set."""
    tested = [each for each in runs() if each["config"]["optimizer"].get("rho") in (None, 0.1)]
    held_out = [record(method, rho, 42, "val") for method in ("sam", "asam") for rho in RADII]
    held_out.append(record("sgd", None, 42, "val"))
    measured(tmp_path, tested)
    measured(tmp_path, held_out, lambda run, name: -run["test_error"], images_sha256="2")
    without = read(tmp_path, tested)
    found = read_sharpness(tmp_path, tested, rows_of(tested), rows_of(held_out))
    assert found.solutions == without.solutions and len(found.held_out) == len(held_out)
    assert math.isnan(without.correlations["trace"].radii.value)  # a radius a method
    across, radii, seeds = found.correlations["trace"]
    assert (across, seeds) == without.correlations["trace"][::2]
    assert radii.value == pytest.approx(-1) and (radii.groups, radii.runs) == (2, 8)
    frame = as_frame(found)
    assert frame["split"].tolist() == ["test"] * len(tested) + ["val"] * len(held_out)
    page = tables(found, "noisy40", "About.")
    assert "8 runs of SAM, ASAM count with their errors on held-out images" in page
    assert "held-out images" not in tables(without, "noisy40", "About.")
    measured(tmp_path, held_out[:1], settings={"images": 20})
    with pytest.raises(StateError, match="2 kinds of settings"):
        read_sharpness(tmp_path, tested, rows_of(tested), rows_of(held_out))


def test_an_infinite_rise_is_the_greatest_and_an_unknown_one_is_none(tmp_path):
    records = runs()

    def value(run, name):
        known = run["test_error"] if run["test_error"] < 54 else "inf"
        return {"ascent_0.1": known, "trace": None if run["seed"] == 0 else run["test_error"]}.get(name, 1.0)

    measured(tmp_path, records, value)
    found = read(tmp_path, records)
    assert math.inf in as_frame(found)["ascent_0.1"].tolist() and found.correlations["ascent_0.1"].across.value > 0.95
    assert found.correlations["trace"].across.runs == 63
    assert math.isnan(found.correlations["eigenvalue_1"].across.value)  # constant
    page = tables(found, "noisy40", "About.")
    msam = next(line for line in page.splitlines() if line.startswith("| MSAM "))
    assert " inf (inf – inf) " in msam and "| – " in msam  # the trace is not known of all its seeds
    axes = next(axes for axes in draw_sharpness(found)["sharpness"].axes if "ascent" in axes.get_xlabel())
    arrows = [line.get_ydata()[0] for line in axes.lines if line.get_marker() == ">"]
    infinite = {each.title for each in found.solutions if each.measures["ascent_0.1"] == math.inf}
    assert 0 < len(infinite) < len(found.titles())
    assert {found.titles()[place] for place in arrows} == infinite


def test_a_landscape_that_is_not_finite_is_drawn_as_the_highest(tmp_path):
    records = runs()[:1]
    plane = [[3.0, 2.0, None], [1.5, 1.0, 4.0], [1.01, 1.02, 100.0]]
    of_it = {"run_ids": [records[0]["run_id"]], "test_errors": [records[0]["test_error"]]}
    write(tmp_path, "landscape", "plane", settings={"kind": "plane"}, steps=[-1.0, 0.0, 1.0], losses=plane,
          errors=plane, **of_it)  # fmt: skip
    (found,) = read(tmp_path, records).landscapes
    assert rises(found).tolist() == [[2, 1, math.inf], [0.5, 0, 3], pytest.approx([0.01, 0.02, 99])]
    axes = draw_sharpness(read(tmp_path, records))["landscape"].axes[0]
    assert axes.get_title() == "SGD, seed 0: 1.00"
    assert axes.collections[0].get_array() is not None


def test_measures_with_the_statistics_of_each_batch_stand_beside_the_others(tmp_path):
    records = runs()[:8]
    measured(tmp_path, records)
    without = read(tmp_path, records)
    for each in records[:7]:  # of the last it is not known
        content = {"eigenvalue_1": 2.0 + each["seed"], "m_sharpness_0.05": 0.1, "m_sharpness_0.2": 0.5, "loss": 0.3}
        write(tmp_path, "analysis", f"{each['run_id']}-batch", run_ids=[each["run_id"]], images_sha256="1",
              test_errors=[each["test_error"]], settings={"images": 10, "batchnorm": "batch"},
              measures=content)  # fmt: skip
    found = read(tmp_path, records)
    assert found.names == [*without.names, "batch_eigenvalue_1", "batch_m_sharpness_0.05", "batch_m_sharpness_0.2",
                           "batch_loss"]  # fmt: skip
    assert [each.measures["eigenvalue_1"] for each in found.solutions] == [each["test_error"] for each in records]
    assert math.isnan(found.solutions[-1].measures["batch_eigenvalue_1"])
    assert called("batch_eigenvalue_1") == "λ₁, batch statistics"
    page = tables(found, "noisy40", "About.")
    assert tables(without, "noisy40", "About.").splitlines()[:9] == page.splitlines()[:9]
    _, _, rest = page.partition("## With the BatchNorm statistics of each batch")
    heading, _, sgd, sam = (line for line in rest.partition("## Does")[0].splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in heading.split("|")[4:-1]] == ["λ₁", "m-sharpness, ρ 0.2", "training loss"]
    assert "| 3.5 (2 – 5) " in sgd and "| 0.5 (0.5 – 0.5) " in sgd
    assert "3.5" not in sam and sam.count("| – ") == 3
    figure = draw_sharpness(found)["sharpness"]
    assert [axes.get_xlabel() for axes in figure.axes if axes.get_visible()][-2:] == [
        "λ₁, batch statistics", "m-sharpness, ρ 0.2, batch statistics"]  # fmt: skip
    measured(tmp_path, records[:1], schema_version=0)
    with pytest.raises(StateError, match="2 kinds of settings"):
        read(tmp_path, records)


def test_averaged_weights_are_left_out_and_an_earlier_run_is_refused(tmp_path):
    records = runs()[:8]
    records[0]["averaged"] = {"swa 0.75": {"test_error": 49.0}}
    measured(tmp_path, records)
    assert len(read(tmp_path, records).solutions) == 7
    records[1]["test_error"] += 1
    with pytest.raises(StateError, match="of an earlier run of the same name"):
        read(tmp_path, records)


def test_with_few_solutions_nothing_is_claimed(tmp_path):
    records = runs()
    measured(tmp_path, [each for each in records if each["seed"] == 0 and each["method"] in ("sgd", "sam")])
    found = read(tmp_path, records)
    assert explanation(found) == ""
    assert "correlations" not in draw_sharpness(found)
    measured(tmp_path / "six", [each for each in records if each["config"]["optimizer"].get("rho") in (None, 0.1)])
    text = explanation(read(tmp_path / "six", records))  # six rows: too few to go across them
    assert "λ₁ over seeds +1.00" in text and "across" not in text and "third" not in text
    assert read(tmp_path / "nothing", records).solutions == ()
    assert draw_sharpness(read(tmp_path / "nothing", records)) == {}
    assert explanation(read(tmp_path / "nothing", records)) == ""


def test_measures_that_cannot_be_compared_are_refused(tmp_path):
    records = runs()
    measured(tmp_path, records[:2])
    measured(tmp_path, records[2:3], settings={"images": 20})
    with pytest.raises(StateError, match="2 kinds of settings"):
        read(tmp_path, records)
    (tmp_path / "analysis" / "other.json").write_text("{}")
    with pytest.raises(StateError, match=r"other\.json is not an analysis"):
        read(tmp_path, records)


@pytest.mark.parametrize("greatest", [2.0, 7.0, 9.0, 20.0, 3e4])
def test_places_on_a_logarithmic_axis_have_names_that_do_not_meet(tmp_path, greatest):
    records = runs()[:8]
    measured(tmp_path, records, lambda run, name: 1 + (greatest - 1) * records.index(run) / 7)
    figure = draw_sharpness(read(tmp_path, records))["sharpness"]
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        shown = [each for each in axes.get_xticklabels(which="both") if each.get_text()]
        shown = [each.get_window_extent() for each in shown if low <= each.get_position()[0] <= high]
        places = sorted((extent.x0, extent.x1) for extent in shown)
        assert len(places) >= 2
        assert all(left[1] < right[0] for left, right in itertools.pairwise(places))


def test_medians_have_no_exponents(tmp_path):
    records = runs()[:2]
    measured(tmp_path, records, lambda run, name: 1300.0 + 20 * run["seed"])
    assert "| 1,310 (1,300 – 1,320) " in tables(read(tmp_path, records), "noisy40", "About.")


@pytest.mark.parametrize(("preset", "some"), [
    ("full", {"λ₁", "adaptive worst case (ascent), ρ 0.5", "average case, σ 0.005"}),
    ("batch_statistics", {"λ₁", "m-sharpness, ρ 0.2", "adaptive m-sharpness, ρ 1", "average case, σ 0.01"}),
])  # fmt: skip
def test_every_measure_has_a_name(preset, some):
    from sam_bench.analysis.measure import names
    from sam_bench.cli.compose import compose

    told = [called(name) for name in names(compose([f"analysis={preset}"]).analysis) if not name.endswith("_se")]
    assert len(set(told)) == len(told)
    assert some <= set(told)


def test_there_is_a_figure_for_whatever_was_measured_and_its_bytes_are_the_same(tmp_path):
    records = runs()
    measured(tmp_path, records)
    steps = [-1.0, 0.0, 1.0]
    for run_id in ("sgd-None-0-test", "sam-0.1-0-test", "sam-0.2-1-test"):
        plane = [[2.0, 1.0, None], [1.0, 0.1, 3.0], [9.0, 2.0, 20.0]]
        error = next(each["test_error"] for each in records if each["run_id"] == run_id)
        common = {"run_ids": [run_id], "test_errors": [error], "steps": steps, "errors": plane}
        write(tmp_path, "landscape", f"plane-{run_id}", settings={"kind": "plane"}, losses=plane, **common)
        write(tmp_path, "landscape", f"line-{run_id}", settings={"kind": "line"}, losses=[2.0, 0.1, None], **common)
    between = {"run_ids": ["sgd-None-0-test", "sam-0.1-0-test"], "steps": [0.0, 0.5, 1.0], "errors": [0.0, 50.0, 0.0]}
    between |= {"test_errors": [records[0]["test_error"], records[4]["test_error"]], "losses": [0.1, 3.0, 0.2]}
    write(tmp_path, "landscape", "between-a", settings={"kind": "between"}, **between)
    probed = record("sam", 0.1, 9)
    probed["analysis"] = {"every": 1, "images": 500}
    probed["history"] |= {"analysis_eigenvalue_1": [3.0], "analysis_one_step_0.1": [0.1], "analysis_gradient_norm": [1]}
    found = read(tmp_path, [*records, probed])
    drawn = draw_sharpness(found)
    assert list(drawn) == ["sharpness", "explains", "correlations", "landscape", "surface", "slices", "sharpening"]
    legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in drawn["slices"].axes]
    assert legends == [["SGD", "SAM", "SAM, ρ 0.2"], ["SGD – SAM, seed 0"]]
    assert drawn["slices"].axes[1].lines[0].get_color() not in [x.get_color() for x in drawn["slices"].axes[0].lines]
    contours = [axes for axes in drawn["landscape"].axes if axes.get_title()]
    assert [axes.get_title() for axes in contours] == [
        "SGD, seed 0: 0.10", "SAM, seed 0: 0.10", "SAM, ρ 0.2, seed 1: 0.10"]  # fmt: skip
    assert len({tuple(axes.collections[0].get_clim()) for axes in contours}) == 1  # the same scale
    of_sgd = record("sgd", None, 9) | {"analysis": {"images": 500}, "history": probed["history"]}
    two = draw_sharpness(read(tmp_path, [*records, probed, of_sgd]))["sharpening"]
    assert [line.get_label() for line in two.axes[0].lines] == ["SGD", "SAM"]
    shown = [axes.get_ylabel() for axes in drawn["sharpening"].axes]
    assert shown == ["test error %", "λ₁\n500 images", "worst case (one step), ρ 0.1\n500 images"]
    for name, figure in draw_sharpness(found).items():
        assert as_bytes(figure, "svg") == as_bytes(drawn[name], "svg"), name
