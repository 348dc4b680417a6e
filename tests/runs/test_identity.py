"""Tests that the runs of committed records keep their ids, even where new settings have been added."""

import json

import pytest
import torch

from sam_bench.cli.compose import compose, compose_seeds
from sam_bench.cli.conf_folder import choices
from sam_bench.config.data import DataConfig
from sam_bench.report.study import Study
from sam_bench.runs.spec import RunSpec, digest
from sam_bench.runtime.device import Hardware
from tests.conftest import ROOT

RECORDS = {
    folder.parent.name: [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    for folder in sorted((ROOT / "results" / "measured").glob("*/records"))
}
STUDIES = [name for name in choices("study") if name in RECORDS]


@pytest.mark.parametrize("experiment", RECORDS)
def test_run_id_is_digest_of_config(experiment):
    for record in RECORDS[experiment]:
        assert record["run_id"].endswith(f"-{digest(record['config'])}")


@pytest.mark.parametrize("experiment", RECORDS)
def test_data_settings_read_back_are_unchanged(experiment):
    defaults = dict(compose(["data=cifar10"]).data)
    for record in RECORDS[experiment]:
        recorded = record["config"]["data"]
        assert DataConfig.build(defaults | recorded).identity() == recorded


@pytest.mark.parametrize("name", STUDIES)
def test_study_has_committed_run_ids(name):
    study = Study.read(choices("study")[name])
    seed = study.seeds[0]
    configs = {title: compose_seeds(study.overrides(title), [seed])[seed] for title in study.rows}

    committed = [
        record for record in RECORDS[name] if record["seed"] == seed and record["config"]["data"]["split"] == "test"
    ]
    rows = study.rows_of(committed, {title: {seed: config.identity()} for title, config in configs.items()})

    # Without this check, a new setting in every identity would leave no row to compare.
    assert sum(len(row.runs) for row in rows) > min(len(committed), len(study.rows)) / 2
    for row in rows:
        for run in row.runs:
            spec = RunSpec.on(configs[row.title], Hardware.choose("cpu", run["precision"]))
            assert spec.run_id == run["run_id"]


@pytest.mark.parametrize("name", ["usam-resnet8-seed0-c4e2c1054f", "vasso-resnet8-seed0-a5f831d064"])
def test_later_settings_keep_earlier_run_ids(name):
    # Both runs were made before some of the settings existed.
    overrides = ["experiment=quick", f"optimizer={name.partition('-')[0]}", "data.split=val", "seed=0"]
    config = compose(overrides)
    assert RunSpec.on(config, Hardware(torch.device("cpu"), "bf16")).run_id == name
