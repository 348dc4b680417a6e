"""A study's rows: which records are theirs, and what is not put into one table."""

import copy
from dataclasses import replace

import pytest

from sam_bench.cli.compose import compose, compose_seeds
from sam_bench.cli.conf_folder import choices
from sam_bench.errors import ConfigError, StateError
from sam_bench.report.cost import Cost
from sam_bench.report.rows import rows_of
from sam_bench.report.study import Study, remarks_on_mixtures
from sam_bench.report.table import Findings
from sam_bench.runs.spec import RunSpec
from sam_bench.runtime.device import Hardware

OURS = {name: Study.read(path) for name, path in choices("study").items()}


def settings(study: Study) -> dict[str, dict]:
    return {
        title: {seed: config.identity() for seed, config in compose_seeds(study.overrides(title), study.seeds).items()}
        for title in study.rows
    }


def record(overrides: list[str], error: float = 50.0, precision: str = "bf16", **changes) -> dict:
    """What a run on the CPU would leave behind."""
    config = compose(overrides)
    spec = RunSpec.on(config, Hardware.choose("cpu", precision))
    made = {"seed": config.seed, "method": config.optimizer.name, "status": "finished", "test_error": error}
    made |= {"config": spec.identity, "dataset_sha256": "0" * 64, "precision": precision, "m": spec.m}
    made |= {"batchnorm": spec.batchnorm, "device": "here", "history": {}, "versions": {"torch": "2"}, "passes": 1}
    average = config.averaging.name
    if average in ("swa", "ema"):
        made["averaged"] = {average: {"test_error": error - 1}}
    return copy.deepcopy(made | changes)


@pytest.mark.parametrize("name", OURS)
def test_every_row_of_our_studies_has_its_own_records_and_no_others(name):
    study = OURS[name]
    made = {title: record([*study.overrides(title), f"seed={study.seeds[0]}"]) for title in study.rows}
    rows = study.rows_of(made.values(), settings(study))
    assert [row.title for row in rows] == list(study.rows)
    for row in rows:
        assert [run["config"] for run in row.runs] == [made[row.title]["config"]]
        assert row.is_average == ("averaged" in made[row.title])


def some(*titles: str, study: str = "noisy40", **changes) -> list[dict]:
    return [
        record([*OURS[study].overrides(title), f"seed={seed}"], error=50 + seed, **changes)
        for title in titles
        for seed in (0, 1)
    ]


def test_other_seeds_and_other_settings_are_rows_beside():
    study = OURS["noisy40"]
    beside = [
        record([*study.overrides("SGD"), "seed=42"]),
        record([*study.overrides("SGD"), "seed=0", "data.mixup=1"]),
        record([*study.overrides("SAM"), "seed=0", "optimizer.m=16"]),
    ]
    found = Findings.of_study(study, [*some("SAM", "SGD"), *beside], settings(study))
    assert [row.title for row in found.rows] == ["SGD", "SAM"]
    assert {(row.method, tuple(row.errors)) for row in found.others} == {("sgd", (42,)), ("sgd", (0,)), ("sam", (0,))}
    frame = found.as_frame()
    assert list(frame["row"]) == ["SGD", "SAM", "", "", ""]
    assert list(frame["seeds"]) == [2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset_sha256": "1" * 64}, "runs of SGD differ in dataset_sha256"),
        ({"precision": "fp32"}, r"runs of SGD differ in precision \(bf16, fp32\)"),
        ({"m": 3}, "runs of SGD differ in m"),
        ({"batchnorm": "both"}, "runs of SGD differ in batchnorm"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(changes, said):
    study = OURS["noisy40"]
    made = some("SGD")
    made[1] |= changes
    with pytest.raises(StateError, match=said):
        study.rows_of(made, settings(study))


def test_rows_on_other_data_are_refused_and_of_another_precision_or_version_said():
    study = OURS["noisy40"]
    with pytest.raises(StateError, match=r"rows of .* differ in dataset_sha256"):
        study.rows_of([*some("SGD"), *some("SAM", dataset_sha256="1" * 64)], settings(study))
    other = some("SAM", precision="fp32", versions={"torch": "3"}, device="there")
    rows = study.rows_of([*some("SGD", "ASAM"), *other], settings(study))
    assert remarks_on_mixtures(rows) == [
        "Not alike in all rows: precision, bf16, but fp32 in SAM.",
        "Not alike in all rows: PyTorch, 2, but 3 in SAM.",
        "Not alike in all rows: machine, here, but there in SAM.",
    ]
    assert remarks_on_mixtures(study.rows_of(some("SGD", "ASAM"), settings(study))) == []


def drawn(*titles: str, seeds=(0, 1), **changes) -> list[dict]:
    """Return runs of noisy40_draws, each seed on data of its own."""
    return [
        record([*OURS["noisy40_draws"].overrides(title), f"seed={seed}"], 50 + seed, dataset_sha256=str(seed) * 64)
        | changes
        for title in titles
        for seed in seeds
    ]


def test_study_of_draws_has_rows_over_all_draws():
    study = OURS["noisy40_draws"]
    found = Findings.of_study(study, drawn("SGD", "SAM"), settings(study))
    assert [(row.title, tuple(row.errors)) for row in found.rows] == [("SGD", (0, 1)), ("SAM", (0, 1))]
    assert found.others == ()
    assert all(row.is_of_draws and "data.subset_seed" not in row.settings for row in found.rows)
    assert "Draws of images and labels: 2. Draws of the tuning: 1." in found.remarks()


def test_study_of_draws_refuses_a_seed_on_other_data():
    study = OURS["noisy40_draws"]
    other = drawn("SAM", seeds=[1], dataset_sha256="2" * 64)
    with pytest.raises(StateError, match=r"rows of .* differ in dataset_sha256"):
        study.rows_of([*drawn("SGD"), *other], settings(study))


def test_study_refuses_a_seed_where_one_row_is_on_a_fixed_draw():
    overrides = OURS["noisy40_draws"].rows["SAM"]
    study = replace(OURS["noisy40_draws"], rows={"SGD": ["optimizer=sgd"], "SAM": [*overrides, "data.subset_seed=0"]})
    fixed = [
        record([*study.overrides("SAM"), f"seed={seed}"], dataset_sha256=digest * 64)
        for seed, digest in enumerate("03")
    ]
    with pytest.raises(StateError, match=r"rows of .* differ in dataset_sha256"):
        study.rows_of([*drawn("SGD"), *fixed], settings(study))


def test_rows_of_draws_are_one_row_for_each_configuration():
    rows = rows_of(drawn("SGD", "SAM", seeds=(0, 1, 2)))
    assert [(row.method, tuple(row.errors)) for row in rows] == [("sgd", (0, 1, 2)), ("sam", (0, 1, 2))]
    assert not {"data.subset_seed", "data.noise_seed", "dataset_sha256"} & rows[0].settings.keys()
    found = Findings.of(drawn("SGD", "SAM"))
    assert [found.comparison.at("equal epochs", row) is not None for row in found.rows] == [False, True]


def test_rows_on_a_fixed_draw_stay_apart():
    study = OURS["noisy40_draws"]
    fixed = [
        record([*study.overrides("SGD"), f"data.subset_seed={draw}", f"data.noise_seed={draw}", f"seed={seed}"])
        | {"dataset_sha256": str(draw) * 64}
        for draw in (0, 1)
        for seed in (0, 1, 2)
    ]
    rows = rows_of(fixed)
    assert [(row.settings["data.subset_seed"], tuple(row.errors)) for row in rows] == [(0, (0, 1, 2)), (1, (0, 1, 2))]
    assert not any(row.is_of_draws for row in rows)


def test_rows_of_one_noise_seed_are_of_no_draws():
    for seeds in ((0,), (0, 1)):
        made = [record([*OURS["noisy40"].overrides("SGD"), f"seed={seed}"]) for seed in seeds]
        (row,) = rows_of(made)
        assert not row.is_of_draws and row.settings["data.noise_seed"] == 0


def test_a_cost_is_the_benchmarks_or_the_passes():
    def turns(*seconds: float, passes: float) -> list[dict]:
        return [{"seconds": each, "passes": passes} for each in seconds]

    def result(method: str | None, taken: list[dict]) -> dict:
        return {"case": {"method": method}, "turns": taken}

    measured = {
        "question": "method",
        "model": "resnet8",
        "results": [
            result(None, turns(9.0, 9.0, 9.0, passes=0)),
            result("sgd", turns(1.0, 2.0, 1.0, passes=1)),
            result("sam", turns(2.2, 4.4, 9.0, passes=2)),
        ],
    }
    cost = Cost([{"comparisons": [measured, {"question": "lower bound"}]}])
    study = OURS["noisy40"]
    made = [
        record([*study.overrides(title), "seed=0"], passes=passes) for title, passes in (("SGD", 100), ("SAM", 200))
    ]
    made.append(record([*study.overrides("ASAM"), "seed=0"], passes=200))
    found = Findings.of_study(study, made, settings(study), cost)
    assert [found.relative_cost(row) for row in found.rows] == pytest.approx([1.0, 2.2, 2.0])
    assert [cost.is_measured(row) for row in found.rows] == [True, True, False]
    remarks = found.remarks()
    assert "Cost from passes alone, as no benchmark here has it: ASAM." in remarks
    assert f"So far: 3 of the {5 * len(study.rows)} runs of this study." in remarks
    others = [title for title in study.rows if title not in ("SGD", "SAM", "ASAM")]
    assert f"Not run: {', '.join(others)}." in remarks and study.note in remarks


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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_study_keeps_names_as_they_are_written(tmp_path, encoding):
    (tmp_path / "a.yaml").write_text(STUDY.format(seeds="[0, 3]", overrides="optimizer=asam"), encoding=encoding)
    study = Study.read(tmp_path / "a.yaml")
    assert study.rows == {"SGD": ["optimizer=sgd"], "No": ["optimizer=sam"], "on": ["optimizer=asam"], "1.0": []}
    assert (study.reference, study.planned, study.seeds) == ("on", (("No", "SGD"),), (0, 3))
    assert study.margin == 0


def test_margin_of_our_studies_is_fixed():
    assert {study.margin for name, study in OURS.items() if name != "airbench94"} == {1}
    assert OURS["airbench94"].margin == 0.2


@pytest.mark.parametrize("margin", ["-1", "none", "[1]"])
def test_study_refuses_what_is_no_margin(tmp_path, margin):
    text = STUDY.format(seeds="[0]", overrides="optimizer=asam") + f"margin: {margin}\n"
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="margin"):
        Study.read(tmp_path / "a.yaml")


@pytest.mark.parametrize(("seeds", "overrides"), [("[one]", "optimizer=asam"), ("[0]", "[optimizer=asam]")])
def test_study_refuses_what_is_no_seed_or_override(tmp_path, seeds, overrides):
    (tmp_path / "a.yaml").write_text(STUDY.format(seeds=seeds, overrides=overrides), encoding="utf-8")
    with pytest.raises(ConfigError):
        Study.read(tmp_path / "a.yaml")
