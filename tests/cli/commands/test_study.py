"""Tests of the command `study`."""

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pytest

from sam_bench.cli.commands import study
from sam_bench.cli.compose import compose
from sam_bench.cli.conf_folder import choices
from sam_bench.report.study import Study
from sam_bench.runs.spec import RunSpec
from tests.cli.commands.conftest import TWO_STEPS
from tests.conftest import everything_below

STUDY = """
title: whether it runs
experiment: smoke
seeds: [3, 4]
baselines: [SGD]
reference: SAM
planned:
  - [SAM, SGD]
note: ""
rows:
  SGD: optimizer=sgd
  SGD, smoothed: optimizer=sgd trainer.label_smoothing=0.2
  SAM: optimizer=sam optimizer.rho=0.2
"""


def mean_error(records: Iterable[dict], method: str, label_smoothing: float) -> float:
    """Return the mean test error over the runs of a row."""
    return np.mean(
        [
            record["test_error"]
            for record in records
            if record["method"] == method and record["config"]["trainer"]["label_smoothing"] == label_smoothing
        ]
    )


def test_study_trains_missing_runs_and_compares_rows(forked, folder, records, capsys):
    (folder / "mine.yaml").write_text(STUDY)
    study.main(["mine.yaml", "--seeds", "4", "--jobs", "1", *TWO_STEPS])
    first = records("smoke")
    assert [record["seed"] for record in first.values()] == [4, 4, 4]
    assert "3/3  SAM  seed 4  " in capsys.readouterr().out

    # The second command trains the other seeds, one after the other, and changes no record.
    forked.clear()
    study.main(["mine.yaml", "--seeds", "3,4,5", "--jobs", "1", *TWO_STEPS])
    out = capsys.readouterr().out
    after = records("smoke")
    assert len(after) == 9
    assert first.items() <= after.items()
    assert {record["config"]["optimizer"].get("rho") for record in after.values()} == {None, 0.2}
    assert "9 runs, 3 of them done, 1 at once" in out
    trained = [line.split("  ")[1:3] for line in out.splitlines() if re.match(r"\d/9  ", line)]
    assert trained == [[title, f"seed {seed}"] for seed in (3, 5) for title in ("SGD", "SGD, smoothed", "SAM")]
    seeds = [argument for arguments in forked for argument in arguments if argument.startswith("seed=")]
    assert seeds == ["seed=3"] * 3 + ["seed=5"] * 3

    # The table and the comparison are over all seeds.
    assert (folder / "results/smoke/table.md").read_text() in out
    assert "Written: results/smoke/comparison.csv and .md" in out
    comparison = pd.read_csv(folder / "results/smoke/comparison.csv")
    pairs = [("SAM", "SGD"), ("SGD, smoothed", "SGD"), ("SGD, smoothed", "SAM")]
    assert list(zip(comparison["row"], comparison["baseline"], strict=True)) == pairs
    assert list(comparison["planned"]) == [True, False, False]
    assert set(comparison["seeds"]) == {3}

    sgd, smoothed, sam = (mean_error(after.values(), *row) for row in (("sgd", 0.1), ("sgd", 0.2), ("sam", 0.1)))
    assert list(comparison["difference"]) == pytest.approx([sam - sgd, smoothed - sgd, smoothed - sam])


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (STUDY, "noisy4", "did you mean noisy40"),
        (STUDY, "other.yaml", "other.yaml is not a file"),
        ("title: {", "mine.yaml", "is not valid YAML"),
        ("experiment: smoke\n", "mine.yaml", "must have title (text), experiment (text), seeds (a list)"),
        (STUDY.replace("[3, 4]", "3"), "mine.yaml", "seeds (a list)"),
        (STUDY.replace("[SGD]", "[SAMM]"), "mine.yaml", "did you mean SAM"),
        (STUDY.replace("[SAM, SGD]", "SAM"), "mine.yaml", "planned must be pairs"),
        (STUDY.replace("[SAM, SGD]", "[SAM, SGDD]"), "mine.yaml", "did you mean SGD"),
        (STUDY.replace("rho=0.2", "rho=x"), "mine.yaml", "optimizer.rho"),
        (STUDY.replace("optimizer.rho=0.2", "") + "  SAM again: optimizer=sam\n", "mine.yaml", "are the same run"),
    ],
)
def test_invalid_study_is_refused(folder, text, name, reason):
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(SystemExit, match=re.escape(reason)):
        study.main([name])
    assert everything_below(folder) == ["mine.yaml"]


@pytest.mark.parametrize("name", choices("study"))
def test_rows_of_our_study_are_different_runs(name):
    ours = Study.read(study.path_of(name))
    assert len(ours.seeds) == len(set(ours.seeds)) >= 5
    assert {compose(overrides).experiment for _, overrides in ours.runs(ours.seeds[:1])} == {ours.experiment}
    run_ids = {RunSpec.resolve(compose(overrides)).files.run_id for _, overrides in ours.runs(ours.seeds)}
    assert len(run_ids) == len(ours.rows) * len(ours.seeds)
