"""The README: its recipe for an own optimizer works, and its commands ask for what exists."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from sam_bench import app
from sam_bench.report.table import read_records, write_table
from tests.conftest import ROOT, TINY

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)
COMMANDS = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS
    for line in block.splitlines()
    if not language and line.startswith("python -m sam_bench")
]


def test_the_own_optimizer_of_the_readme_trains(tmp_path):
    preset, method, entry, values = (block for language, block in BLOCKS if language)
    assert "@package _global_" in preset
    assert len(method.splitlines() + entry.splitlines() + values.splitlines()) <= 28
    for name in ("sam_bench", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "sam_bench" / "optim" / "methods" / "sign_sam.py").write_text(method)
    (tmp_path / "conf" / "optimizer" / "sign_sam.yaml").write_text(values)
    registry = tmp_path / "sam_bench" / "optim" / "registry.py"
    registry.write_text(registry.read_text().replace("_ENTRIES = (\n", f"_ENTRIES = (\n{entry}", 1))
    done = subprocess.run(
        [sys.executable, "-m", "sam_bench", *TINY, "optimizer=sign_sam", "experiment=smoke"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "results" / "smoke" / "records").glob("sign_sam-*.json"))


def test_the_table_is_made_from_the_committed_records(tmp_path):
    records = read_records(ROOT / "results" / "measured" / "quick" / "records")
    _, protocol, comparability, table, *_ = write_table(records, "quick", tmp_path).split("\n\n")
    assert table in README
    assert f"{protocol} {comparability}" in " ".join(README.split("\n"))
    assert {record["dataset"] for record in records} == {"cifar10"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_asks_for_runs_that_are_valid(command, folder):
    arguments = app.get_args_parser().parse_args(shlex.split(command)[3:])
    configs, _ = app.requested(arguments)
    assert configs


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 6
