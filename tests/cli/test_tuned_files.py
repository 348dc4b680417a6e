"""Tests of the files with tuned values: which may be overwritten, what they change, and those in `conf/tuned`."""

import json

import pandas as pd
import pytest

from sam_bench.cli.search_space import search_space
from sam_bench.cli.tuned_files import Search, check_replaceable, searches, tuned_file
from sam_bench.errors import StateError
from sam_bench.report.tuning import Trial
from tests.conftest import CONF, ROOT

TABLES = sorted((ROOT / "results/measured").rglob("tuning.csv"))


@pytest.mark.parametrize(
    ("trials", "overrides", "only", "allowed"),
    [
        (3, "a=1", "b,c", True),
        (4, "a=1", "b,c", True),
        (2, "a=1", "b,c", False),
        (3, "", "b,c", False),
        (3, "a=1", "", False),
    ],
)
def test_only_equal_or_larger_search_replaces_values(tmp_path, trials, overrides, only, allowed):
    path = tmp_path / "smoke_sam.yaml"
    path.write_text(f"# @package _global_\n# {Search(3, 'a=1', 'b,c').header()}\n")
    earlier = searches(tmp_path, "smoke")
    assert earlier == {"sam": Search(3, "a=1", "b,c")}

    request = Search(trials, overrides, only)
    if allowed:
        check_replaceable(path, earlier["sam"], request)
    else:
        with pytest.raises(StateError, match="has the best of 3 trials of b,c alone with a=1"):
            check_replaceable(path, earlier["sam"], request)


def test_preset_takes_tuned_values_unless_removed(folder, command):
    (folder / "experiment").mkdir()
    (folder / "experiment/mine.yaml").write_text("# @package _global_\ndefaults: [smoke]\n")
    (folder / "tuned").mkdir()
    (folder / "tuned/mine_sam.yaml").write_text("# @package _global_\noptimizer: {rho: 0.2, base: {lr: 0.3}}\n")

    arguments = ["--config-dir", ".", "--cfg", "job", "--package", "optimizer", "experiment=mine", "optimizer=sam"]
    _, tuned, _ = command(*arguments)
    _, usual, _ = command(*arguments, "~tuned")
    assert "lr: 0.3\n" in tuned
    assert "rho: 0.2\n" in tuned
    assert "lr: 0.1\n" in usual
    assert "rho: 0.05\n" in usual


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.parent.name)
def test_committed_values_are_best_of_committed_trials(table):
    frame = pd.read_csv(table)
    counts = frame.groupby("method").size()
    assert counts.nunique() == 1

    only = "" if "optimizer.base.lr" in frame else "optimizer.rho"
    for method, rows in frame.groupby("method"):
        keys = [key for key in search_space(method) if key == (only or key)]
        records = [json.loads((table.parent / "records" / f"{run_id}.json").read_text()) for run_id in rows["run_id"]]
        assert [record["test_error"] for record in records] == list(rows["test_error"])
        assert {record["config"]["data"]["split"] for record in records} == {"val"}

        settings = rows[keys].to_dict("records")
        trials = [Trial(method, values, record) for values, record in zip(settings, records, strict=True)]
        values_file = CONF / "tuned" / f"{table.parent.name}_{method}.yaml"
        assert values_file.read_text() == tuned_file(trials, Search(len(trials), "", only))
