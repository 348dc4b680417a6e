"""Tests of the command `reproduce`."""

import pandas as pd
import pytest
import torch

from sam_bench.cli.commands import reproduce
from sam_bench.cli.compose import compose
from sam_bench.cli.conf_folder import describe_preset
from sam_bench.cli.exit_codes import EXIT_RESUMABLE, EXIT_RUN
from sam_bench.errors import ConfigError
from sam_bench.runs.lock import RunLock
from sam_bench.runs.spec import RunSpec
from tests.cli.commands.conftest import has_record
from tests.cli.conftest import run_python, sigterm_when
from tests.conftest import ROOT, everything_below

SMOKE = ["--experiment", "smoke", "--methods", "sgd,sam", "--seeds", "0"]
SAM_ONLY = ["--experiment", "smoke", "--methods", "sam", "--seeds", "0"]


def seeds_in_table(folder) -> list[tuple[str, int]]:
    """Return each method in the table with its number of seeds."""
    table = pd.read_csv(folder / "results" / "smoke" / "table.csv")
    return list(zip(table["method"], table["seeds"], strict=True))


def test_script_trains_runs_and_makes_their_table(tmp_path):
    done = run_python(str(ROOT / "scripts" / "reproduce_table.py"), *SAM_ONLY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{describe_preset('smoke')}\nThe smoke protocol: resnet8, synthetic")
    assert "sam-resnet8-seed0" in done.stdout
    assert "epoch 1/2  " in done.stdout
    assert (tmp_path / "results" / "smoke" / "table.md").read_text() in done.stdout


def test_finished_runs_are_not_repeated(forked, folder, capsys):
    records = folder / "results" / "smoke" / "records"
    reproduce.main(SAM_ONLY)
    before = {path.name: path.read_bytes() for path in records.iterdir()}
    forked.clear()
    reproduce.main([*SMOKE, "--jobs", "1"])

    assert [arguments[:3] for arguments in forked] == [["experiment=smoke", "optimizer=sgd", "seed=0"]]
    after = {path.name: path.read_bytes() for path in records.iterdir()}
    assert (len(before), len(after)) == (1, 2)
    assert before.items() <= after.items()
    assert seeds_in_table(folder) == [("sgd", 1), ("sam", 1)]
    assert (folder / "results" / "smoke" / "table.md").read_text() in capsys.readouterr().out


def test_busy_run_leaves_the_table_of_the_others(forked, folder, capsys):
    spec = RunSpec.resolve(compose(["experiment=smoke", "optimizer=sam", "seed=0"]))
    lock = RunLock(folder / "runs" / "smoke" / f"{spec.run_id}.lock")

    with pytest.raises(SystemExit) as ended:
        reproduce.main(SMOKE)
    lock.release()

    assert ended.value.code == EXIT_RUN
    assert seeds_in_table(folder) == [("sgd", 1)]
    assert "sam  seed 0 has no result: its process ended with exit code 1" in capsys.readouterr().err


def test_interrupted_command_continues_where_it_stopped(forked, folder):
    with sigterm_when(lambda: has_record(folder)), pytest.raises(SystemExit) as ended:
        reproduce.main([*SMOKE, "--jobs", "1"])
    assert ended.value.code == EXIT_RESUMABLE
    assert len(list((folder / "results").rglob("records/*.json"))) == 1
    assert not (folder / "results" / "smoke" / "table.csv").exists()

    reproduce.main(SMOKE)
    assert seeds_in_table(folder) == [("sgd", 1), ("sam", 1)]


@pytest.mark.parametrize(("has_gpu", "experiment", "seeds"), [(False, "noisy40", 2), (True, "sam_example", 3)])
def test_defaults_depend_on_the_device(folder, monkeypatch, has_gpu, experiment, seeds):
    planned = []

    def plan_and_stop(runs):
        planned.extend(runs)
        raise ConfigError("stopped by the test")

    monkeypatch.setattr(reproduce, "plan", plan_and_stop)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    with pytest.raises(SystemExit, match="stopped by the test"):
        reproduce.main([])

    titles = [title for title, _ in planned]
    assert titles[:5] == ["sgd  seed 0", "sam  seed 0", "asam  seed 0", "gsam  seed 0", "sgd  seed 1"]
    assert len(titles) == 4 * seeds
    assert planned[0][1][0] == f"experiment={experiment}"
    assert everything_below(folder) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [("--methods sgd,sma", "did you mean sam"), ("--seeds 0,x", "--seeds"), ("--jobs 0", "less than 1")],
)
def test_wrong_option_is_refused(refused, arguments, reason):
    refused(reproduce.main, arguments, reason)
