"""Tests of the command `table`."""

import copy
import json
import subprocess
from pathlib import Path

import pytest

from sam_bench.cli.commands import table
from sam_bench.cli.conf_folder import describe_preset
from tests.cli.conftest import run_python
from tests.report.table_records import records, write
from tests.report.test_study import record
from tests.report.test_table import GOLDEN


def run_table(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a Python of its own."""
    return run_python("-m", "sam_bench", "table", *arguments, cwd=folder)


def test_table_of_all_experiments_has_one_split(tmp_path):
    held_out = [copy.deepcopy(item) for item in records()]
    for item in held_out:
        item["config"]["data"]["split"] = "val"
    write(tmp_path / "results" / "a_study" / "part", held_out)
    write(tmp_path / "results" / "sam_example", records())
    write(tmp_path / "results" / "measured" / "quick", records())

    done = run_table(tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.parent for path in tmp_path.rglob("*.md")} == {tmp_path / "results" / "sam_example"}

    assert run_table(tmp_path, "--split", "val").returncode == 0
    assert (tmp_path / "results" / "a_study" / "part" / "table-val.md").is_file()


@pytest.mark.parametrize("arguments", ["", "--experiment nothing", "--experiment a --split val"])
def test_table_without_records_is_refused(tmp_path, arguments):
    done = run_table(tmp_path, *arguments.split())
    assert done.returncode == 1
    assert done.stderr.startswith("Error: there are no records")
    assert done.stderr.count("\n") == 1


def test_table_does_not_import_torch(tmp_path):
    write(tmp_path / "results" / "sam_example", records())
    program = """
import sys
from sam_bench.cli.main import main
sys.argv = ["sam_bench", "table", "--experiment", "sam_example"]
main()
sys.exit("torch" in sys.modules)
"""
    done = run_python("-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    title, rest = GOLDEN.split("\n\n", 1)
    assert "\n\n".join((title, describe_preset("sam_example"), rest)) in done.stdout
    assert (tmp_path / "results" / "sam_example" / "table.tex").is_file()


def test_published_figure_is_shown_beside_table(tmp_path, capsys):
    folder = tmp_path / "sam_example"
    (folder / "records").mkdir(parents=True)
    for method in ("sgd", "vasso"):
        content = record(["experiment=sam_example", f"optimizer={method}", "seed=0"], 3.0) | {"schema_version": 1}
        (folder / "records" / f"{method}.json").write_text(json.dumps(content))
    table.main(["--results", str(tmp_path), "--experiment", "sam_example"])

    text = (folder / "published.md").read_text()
    assert text in capsys.readouterr().out
    (row,) = text.splitlines()[2:]
    assert "| 3.20 " in row
    assert row.endswith("| 3.00 (1 seed) |")
    assert "3.20" not in (folder / "table.md").read_text()
