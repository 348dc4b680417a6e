"""The short form of `make torture`."""

import os
import subprocess
import sys

from tests.conftest import ROOT


def test_runs_that_are_killed_twenty_times_and_more_end_as_if_left_alone():
    done = subprocess.run(
        [sys.executable, "scripts/torture.py", "--kills", "24", "--seed", "1"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    *rounds, last = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert last.startswith("24 kills in ")
    assert all("the same, bit for bit" in line for line in rounds)
    assert sum(int(line.partition(" kills, ")[2].split()[0]) for line in rounds) >= 5  # within saving
