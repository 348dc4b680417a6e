"""Studies: seeds are the outer loop, what is finished stays, and rows are what their file says."""

import json
import time

import numpy as np
import pandas as pd
import pytest

from sam_bench.cli.commands import study
from sam_bench.cli.compose import compose
from sam_bench.cli.conf_folder import choices
from sam_bench.report.study import Study
from sam_bench.runs.spec import RunSpec
from tests.conftest import everything_below

TINY = ["data.train_subset=20", "trainer.batch_size=10", "trainer.epochs=1", "schedule.warmup_epochs=0"]
TINY += ["trainer.device=cpu"]
ROWS = """
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


@pytest.fixture
def mine(folder):
    """A study in the current folder."""
    (folder / "mine.yaml").write_text(ROWS)


def records(folder) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in (folder / "results/smoke/records").glob("*.json")]
    return {record["run_id"]: record for record in found}


def test_the_rows_are_trained_seed_by_seed_and_what_is_finished_stays(forked, mine, folder, capsys):
    study.main(["mine.yaml", "--seeds", "4", "--jobs", "1", *TINY])
    first = records(folder)
    assert {record["seed"] for record in first.values()} == {4} and len(first) == 3
    assert "3/3  SAM  seed 4  " in capsys.readouterr().out
    forked.clear()
    time.sleep(0.01)
    study.main(["mine.yaml", "--seeds", "3,4,5", "--jobs", "1", *TINY])
    both = records(folder)
    assert len(both) == 9 and first.items() <= both.items()
    told = capsys.readouterr().out
    assert "9 runs, 3 of them done, 1 at once" in told
    shown = [line.split("  ")[1:3] for line in told.splitlines() if line.partition("/")[2].startswith("9  ")]
    assert shown == [[title, f"seed {seed}"] for seed in (3, 5) for title in ("SGD", "SGD, smoothed", "SAM")]
    assert [word for words in forked for word in words if word.startswith("seed=")] == ["seed=3"] * 3 + ["seed=5"] * 3
    assert (folder / "results/smoke/table.md").read_text() in told
    assert "Written: results/smoke/comparison.csv and .md" in told
    compared = pd.read_csv(folder / "results/smoke/comparison.csv")
    means = {
        (method, smoothing): np.mean(
            [
                record["test_error"]
                for record in both.values()
                if (record["method"], record["config"]["trainer"]["label_smoothing"]) == (method, smoothing)
            ]
        )
        for method, smoothing in (("sgd", 0.1), ("sgd", 0.2), ("sam", 0.1))
    }
    sgd = means["sgd", 0.1]
    assert list(zip(compared["row"], compared["baseline"], strict=True)) == [
        ("SAM", "SGD"), ("SGD, smoothed", "SGD"), ("SGD, smoothed", "SAM")
    ]  # fmt: skip
    smoothed, sam = means["sgd", 0.2], means["sam", 0.1]
    assert list(compared["difference"]) == pytest.approx([sam - sgd, smoothed - sgd, smoothed - sam])
    assert list(compared["planned"]) == [True, False, False]
    assert set(compared["seeds"]) == {3}
    assert {record["config"]["optimizer"].get("rho") for record in both.values()} == {None, 0.2}


@pytest.mark.parametrize(
    ("rows", "arguments", "said"),
    [
        (ROWS, ["noisy4"], "did you mean noisy40"),
        (ROWS, ["other.yaml"], "other.yaml is not a file"),
        ("experiment: smoke\n", ["mine.yaml"], "must have title (text), experiment (text), seeds (a list)"),
        (ROWS.replace("[SAM, SGD]", "SAM"), ["mine.yaml"], "planned must be pairs"),
        (ROWS.replace("[SAM, SGD]", "[SAM, SGDD]"), ["mine.yaml"], "did you mean SGD"),
        ("title: {", ["mine.yaml"], "is not valid YAML"),
        (ROWS.replace("rho=0.2", "rho=x"), ["mine.yaml"], "optimizer.rho"),
        (ROWS.replace("[3, 4]", "3"), ["mine.yaml"], "seeds (a list)"),
        (ROWS.replace("[SGD]", "[SAMM]"), ["mine.yaml"], "did you mean SAM"),
        (ROWS.replace("optimizer.rho=0.2", "") + "  SAM once more: optimizer=sam\n", ["mine.yaml"], "are the same run"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_run(folder, rows, arguments, said):
    (folder / "mine.yaml").write_text(rows)
    with pytest.raises(SystemExit) as ended:
        study.main(arguments)
    assert said in str(ended.value)
    assert everything_below(folder) == ["mine.yaml"]


@pytest.mark.parametrize("name", choices("study"))
def test_the_rows_of_our_studies_are_runs_of_their_presets_and_all_different(name):
    ours = Study.read(study.path_of(name))
    assert len(ours.seeds) == len(set(ours.seeds)) >= 5
    assert {compose(overrides).experiment for _, overrides in ours.runs(ours.seeds[:1])} == {ours.experiment}
    names = {RunSpec.resolve(compose(overrides)).files.run_id for _, overrides in ours.runs(ours.seeds)}
    assert len(names) == len(ours.rows) * len(ours.seeds)
