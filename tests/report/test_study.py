"""Tests of studies: their files, their rows, records that cannot be compared, and the cost of a row."""

from dataclasses import replace

import pytest

from sam_bench.errors import ConfigError, StateError
from sam_bench.report.cost import Cost
from sam_bench.report.rows import rows_of
from sam_bench.report.study import Study, remarks_on_mixtures
from sam_bench.report.table import Findings
from tests.report.study_records import OURS, record, run_settings, runs_of, runs_on_own_draws

NOISY40 = OURS["noisy40"]
DRAWS = OURS["noisy40_draws"]

# Rows


@pytest.mark.parametrize("name", OURS)
def test_row_has_its_own_records_only(name):
    study = OURS[name]
    records = {title: record([*study.overrides(title), f"seed={study.seeds[0]}"]) for title in study.rows}
    rows = study.rows_of(records.values(), run_settings(study))
    assert [row.title for row in rows] == list(study.rows)
    for row in rows:
        assert [run["config"] for run in row.runs] == [records[row.title]["config"]]
        assert row.is_average == ("averaged" in records[row.title])


def test_other_seeds_and_settings_are_other_rows():
    other = [
        record([*NOISY40.overrides("SGD"), "seed=42"]),
        record([*NOISY40.overrides("SGD"), "seed=0", "data.mixup=1"]),
        record([*NOISY40.overrides("SAM"), "seed=0", "optimizer.m=16"]),
    ]
    findings = Findings.of_study(NOISY40, [*runs_of("SAM", "SGD"), *other], run_settings(NOISY40))
    assert [row.title for row in findings.rows] == ["SGD", "SAM"]
    assert {(row.method, tuple(row.errors)) for row in findings.others} == {
        ("sgd", (42,)),
        ("sgd", (0,)),
        ("sam", (0,)),
    }

    frame = findings.as_frame()
    assert list(frame["row"]) == ["SGD", "SAM", "", "", ""]
    assert list(frame["seeds"]) == [2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_sha256": "1" * 64}, "runs of SGD differ in dataset_sha256"),
        ({"precision": "fp32"}, r"runs of SGD differ in precision \(bf16, fp32\).*: keep"),
        ({"m": 3}, "runs of SGD differ in m"),
        ({"batchnorm": "both"}, "runs of SGD differ in batchnorm"),
    ],
)
def test_different_runs_of_a_row_are_refused(changes, message):
    records = runs_of("SGD")
    records[1] |= changes
    with pytest.raises(StateError, match=message):
        NOISY40.rows_of(records, run_settings(NOISY40))


def test_rows_on_different_data_are_refused():
    records = [*runs_of("SGD"), *runs_of("SAM", dataset_sha256="1" * 64)]
    with pytest.raises(StateError, match=r"rows of .* differ in dataset_sha256"):
        NOISY40.rows_of(records, run_settings(NOISY40))


def test_rows_of_other_precision_or_version_are_named():
    other = runs_of("SAM", precision="fp32", versions={"torch": "3"}, device="there")
    mixed = NOISY40.rows_of([*runs_of("SGD", "ASAM"), *other], run_settings(NOISY40))
    assert [remark.partition(": ")[2] for remark in remarks_on_mixtures(mixed)] == [
        "precision, bf16, but fp32 in SAM.",
        "PyTorch, 2, but 3 in SAM.",
        "machine, here, but there in SAM.",
    ]
    alike = NOISY40.rows_of(runs_of("SGD", "ASAM"), run_settings(NOISY40))
    assert remarks_on_mixtures(alike) == []


# Rows whose data are drawn anew with each seed


def test_study_of_draws_has_rows_over_all_draws():
    findings = Findings.of_study(DRAWS, runs_on_own_draws("SGD", "SAM"), run_settings(DRAWS))
    assert [(row.title, tuple(row.errors)) for row in findings.rows] == [("SGD", (0, 1)), ("SAM", (0, 1))]
    assert findings.others == ()
    assert all(row.is_of_draws and "data.subset_seed" not in row.settings for row in findings.rows)
    assert "Draws of images and labels: 2. Draws of the tuning: 1." in findings.remarks()


def test_study_of_draws_refuses_a_seed_on_other_data():
    other = runs_on_own_draws("SAM", seeds=[1], dataset_sha256="2" * 64)
    with pytest.raises(StateError, match=r"rows of .* differ in dataset_sha256"):
        DRAWS.rows_of([*runs_on_own_draws("SGD"), *other], run_settings(DRAWS))


def test_study_of_draws_refuses_a_row_on_a_fixed_draw():
    rows = {"SGD": ["optimizer=sgd"], "SAM": [*DRAWS.rows["SAM"], "data.subset_seed=0"]}
    study = replace(DRAWS, rows=rows)
    fixed = [
        record([*study.overrides("SAM"), f"seed={seed}"], dataset_sha256=digest * 64)
        for seed, digest in enumerate("03")
    ]
    with pytest.raises(StateError, match=r"rows of .* differ in dataset_sha256"):
        study.rows_of([*runs_on_own_draws("SGD"), *fixed], run_settings(study))


def test_rows_of_draws_are_one_per_configuration():
    rows = rows_of(runs_on_own_draws("SGD", "SAM", seeds=(0, 1, 2)))
    assert [(row.method, tuple(row.errors)) for row in rows] == [("sgd", (0, 1, 2)), ("sam", (0, 1, 2))]
    assert not {"data.subset_seed", "data.noise_seed", "dataset_sha256"} & rows[0].settings.keys()

    findings = Findings.of(runs_on_own_draws("SGD", "SAM"))
    assert [findings.comparison.at("equal epochs", row) is not None for row in findings.rows] == [False, True]


def test_rows_on_fixed_draws_stay_apart():
    fixed = [
        record(
            [*DRAWS.overrides("SGD"), f"data.subset_seed={draw}", f"data.noise_seed={draw}", f"seed={seed}"],
            dataset_sha256=str(draw) * 64,
        )
        for draw in (0, 1)
        for seed in (0, 1, 2)
    ]
    rows = rows_of(fixed)
    assert [(row.settings["data.subset_seed"], tuple(row.errors)) for row in rows] == [(0, (0, 1, 2)), (1, (0, 1, 2))]
    assert not any(row.is_of_draws for row in rows)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_rows_with_fixed_noise_seed_are_not_of_draws(seeds):
    (row,) = rows_of(record([*NOISY40.overrides("SGD"), f"seed={seed}"]) for seed in seeds)
    assert not row.is_of_draws and row.settings["data.noise_seed"] == 0


# Costs


def test_cost_is_measured_or_from_passes():
    def result(method: str | None, *seconds: float, passes: float) -> dict:
        return {"case": {"method": method}, "turns": [{"seconds": s, "passes": passes} for s in seconds]}

    results = [
        result(None, 9.0, 9.0, 9.0, passes=0),
        result("sgd", 1.0, 2.0, 1.0, passes=1),
        result("sam", 2.2, 4.4, 9.0, passes=2),
    ]
    comparison = {"question": "method", "model": "resnet8", "results": results}
    cost = Cost([{"comparisons": [comparison, {"question": "lower bound"}]}])

    passes = {"SGD": 100, "SAM": 200, "ASAM": 200}
    records = [record([*NOISY40.overrides(title), "seed=0"], passes=count) for title, count in passes.items()]
    findings = Findings.of_study(NOISY40, records, run_settings(NOISY40), cost)
    assert [findings.relative_cost(row) for row in findings.rows] == pytest.approx([1.0, 2.2, 2.0])
    assert [cost.is_measured(row) for row in findings.rows] == [True, True, False]
    assert any(
        remark.startswith("Cost from passes alone") and remark.endswith(": ASAM.") for remark in findings.remarks()
    )


def test_remarks_name_rows_that_were_not_run():
    records = [record([*NOISY40.overrides(title), "seed=0"]) for title in ("SGD", "SAM", "ASAM")]
    remarks = Findings.of_study(NOISY40, records, run_settings(NOISY40)).remarks()
    assert f"So far: 3 of the {5 * len(NOISY40.rows)} runs of this study." in remarks
    missing = [title for title in NOISY40.rows if title not in ("SGD", "SAM", "ASAM")]
    assert f"Not run: {', '.join(missing)}." in remarks and NOISY40.note in remarks


# Files

STUDY = """\
title: A
experiment: smoke
seeds: {seeds}
baselines: [SGD]
reference: on
planned: [[No, SGD]]
note: x
rows:
  SGD: optimizer=sgd
  No: optimizer=sam
  on: {overrides}
  1.0:
"""


@pytest.fixture
def study_file(tmp_path):
    """Return a function that writes a study's file and returns its path."""

    def write(seeds: str = "[0]", overrides: str = "optimizer=asam", further: str = "", encoding: str = "utf-8"):
        path = tmp_path / "a.yaml"
        path.write_text(STUDY.format(seeds=seeds, overrides=overrides) + further, encoding=encoding)
        return path

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_study_keeps_names_as_written(study_file, encoding):
    study = Study.read(study_file(seeds="[0, 3]", encoding=encoding))
    assert study.rows == {"SGD": ["optimizer=sgd"], "No": ["optimizer=sam"], "on": ["optimizer=asam"], "1.0": []}
    assert (study.reference, study.planned, study.seeds) == ("on", (("No", "SGD"),), (0, 3))
    assert study.margin == 0


@pytest.mark.parametrize("name", OURS)
def test_margin_of_our_studies_is_fixed(name):
    assert OURS[name].margin == (0.2 if name == "airbench94" else 1)


@pytest.mark.parametrize("margin", ["-1", "none", "[1]"])
def test_study_refuses_bad_margin(study_file, margin):
    with pytest.raises(ConfigError, match="margin"):
        Study.read(study_file(further=f"margin: {margin}\n"))


@pytest.mark.parametrize(
    ("seeds", "overrides", "message"),
    [
        ("[one]", "optimizer=asam", r"seeds=\['one'\] must be whole numbers"),
        ("[0]", "[optimizer=asam]", "each row must be text .* such as optimizer=sam"),
    ],
)
def test_study_refuses_bad_seed_or_overrides(study_file, seeds, overrides, message):
    with pytest.raises(ConfigError, match=message):
        Study.read(study_file(seeds, overrides))
