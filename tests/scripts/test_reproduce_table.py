"""From nothing to a table with one command, which goes on where it was."""

import os
import subprocess
import sys

import pandas as pd
import torch

from sam_bench.cli.compose import compose
from sam_bench.cli.conf_folder import describe_preset
from sam_bench.runs.lock import RunLock
from sam_bench.runs.spec import RunSpec
from tests.conftest import ROOT


def reproduce(folder, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "reproduce_table.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_what_is_missing_is_trained_and_the_table_made(tmp_path):
    arguments = ("--experiment", "smoke", "--methods", "sgd,sam")
    records = tmp_path / "results" / "smoke" / "records"
    begun = reproduce(tmp_path, *arguments, "--seeds", "0")
    assert begun.returncode == 0, begun.stderr
    assert begun.stdout.startswith(f"{describe_preset('smoke')}\nThe smoke protocol: resnet8, synthetic")
    before = {path.name: path.read_bytes() for path in records.iterdir()}
    done = reproduce(tmp_path, *arguments, "--seeds", "0,1")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "results" / "smoke" / "table.csv")
    assert list(zip(table["method"], table["seeds"], strict=True)) == [("sgd", 2), ("sam", 2)]
    assert (tmp_path / "results" / "smoke" / "table.md").read_text() in done.stdout
    assert before.items() <= {path.name: path.read_bytes() for path in records.iterdir()}.items()
    assert len(before) == 2 and len(list(records.iterdir())) == 4


def test_busy_run_leaves_the_table_of_the_others(tmp_path):
    config = compose(["experiment=smoke", "optimizer=sam", "seed=0"])
    run_id = RunSpec.resolve(config).run_id
    held = RunLock(tmp_path / "runs" / "smoke" / f"{run_id}.lock")

    done = reproduce(tmp_path, "--experiment", "smoke", "--methods", "sgd,sam", "--seeds", "0")
    held.release()

    assert done.returncode == 1
    table = pd.read_csv(tmp_path / "results" / "smoke" / "table.csv")
    assert list(zip(table["method"], table["seeds"], strict=True)) == [("sgd", 1)]


def test_without_a_gpu_it_is_the_protocol_of_minutes(tmp_path):
    words = " ".join(reproduce(tmp_path, "--help").stdout.split())
    default = "sam_example" if torch.cuda.is_available() else "noisy40"
    assert f"sam_example with a CUDA device, else noisy40 (default: {default})" in words
    assert not list(tmp_path.iterdir())


def test_a_misspelt_method_is_refused_before_anything_is_created(tmp_path):
    done = reproduce(tmp_path, "--methods", "sgd,sma")
    assert done.returncode == 2
    assert "did you mean sam" in done.stderr
    assert not list(tmp_path.iterdir())
