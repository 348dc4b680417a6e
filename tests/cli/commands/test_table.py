"""The command table: the files that it makes of records, without torch, and what it says where there are none."""

import copy
import os
import subprocess
import sys

import pytest

from sam_bench.cli.conf_folder import describe_preset
from tests.conftest import ROOT
from tests.report.test_table import GOLDEN, records, write


def run_table(cwd, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sam_bench", "table", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_it_makes_all_tables_and_passes_over_what_has_none(tmp_path):
    tuning = [copy.deepcopy(item) for item in records()]
    for item in tuning:
        item["config"]["data"]["split"] = "val"
    write(tmp_path / "results" / "a_study" / "part", tuning)
    write(tmp_path / "results" / "sam_example", records())
    write(tmp_path / "results" / "measured" / "quick", records())
    done = run_table(tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.parent for path in tmp_path.rglob("*.md")} == {tmp_path / "results" / "sam_example"}
    assert run_table(tmp_path, "--split", "val").returncode == 0
    assert (tmp_path / "results" / "a_study" / "part" / "table-val.md").is_file()


@pytest.mark.parametrize("arguments", ["", "--experiment nothing", "--experiment a --split val"])
def test_it_without_records_is_one_message(tmp_path, arguments):
    done = run_table(tmp_path, *arguments.split())
    assert done.returncode == 1
    assert done.stderr.startswith("Error: there are no records") and done.stderr.count("\n") == 1


def test_it_makes_the_files_without_torch(tmp_path):
    write(tmp_path / "results" / "sam_example", records())
    program = (
        "import sys; sys.argv = ['sam_bench', 'table', '--experiment', 'sam_example'];"
        "from sam_bench.cli.main import main; main(); sys.exit('torch' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    title, rest = GOLDEN.split("\n\n", 1)
    assert "\n\n".join((title, describe_preset("sam_example"), rest)) in done.stdout
    assert (tmp_path / "results" / "sam_example" / "table.tex").is_file()
