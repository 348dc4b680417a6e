"""Tests of the table of all records."""

import json

import pandas as pd
import pytest

from sam_bench.errors import StateError
from sam_bench.report.record_table import COLUMNS, record_table
from tests.conftest import ROOT

MEASURED = ROOT / "results" / "measured"


def test_record_table_has_every_committed_record():
    table = record_table(MEASURED)
    paths = list(MEASURED.glob("*/records/*.json"))
    assert len(table) == len(paths) > 500
    assert not table.duplicated(["experiment", "run_id"]).any()
    assert set(table.columns) == {*COLUMNS, *(name for name in table.columns if name.startswith("config."))}
    assert not [name for name in table.columns if table[name].isna().all()]


@pytest.mark.parametrize("seed", [0, 1])
def test_record_table_equals_records(seed):
    (path,) = MEASURED.glob(f"airbench94/records/sgd-airbench94-seed{seed}-*.json")
    record = json.loads(path.read_text())
    line = record_table(MEASURED).set_index("run_id").loc[record["run_id"]]
    for name in ("test_error", "test_error_tta", "passes", "device", "seed", "git_commit"):
        assert line[name] == record[name]
    assert line["train_error"] == record["history"]["train_error"][-1]
    assert line["config.optimizer.base.lr"] == record["config"]["optimizer"]["base"]["lr"]
    assert json.loads(line["config.trainer.freeze"]) == record["config"]["trainer"]["freeze"]


def test_committed_record_table_is_fresh(tmp_path):
    record_table(MEASURED).to_csv(tmp_path / "records.csv", index=False)
    assert (MEASURED / "records.csv").read_bytes() == (tmp_path / "records.csv").read_bytes()
    assert len(pd.read_csv(MEASURED / "records.csv")) > 500


def test_broken_record_is_refused(tmp_path):
    (tmp_path / "quick" / "records").mkdir(parents=True)
    (tmp_path / "quick" / "records" / "run.json").write_text("{}")
    with pytest.raises(StateError, match=r"run\.json"):
        record_table(tmp_path)
