"""Tests of the lock that keeps two processes from the same run."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sam_bench.cli import compose, main
from sam_bench.errors import StateError
from sam_bench.runs.lock import Busy, RunLock
from sam_bench.runs.spec import RunSpec
from tests.conftest import ROOT
from tests.forked import SERVER
from tests.runs.faults import COMMAND

_locks = []  # keeps them from being released


def _hold_lock(path: str) -> int:
    """Hold a lock until this process ends; return the process's id."""
    _locks.append(RunLock(Path(path)))
    return os.getpid()


def test_busy_run_names_its_process(command, folder, small_synthetic):
    run_id = RunSpec.resolve(compose.compose(COMMAND)).run_id
    with SERVER.Pool(1) as other_process:
        pid = other_process.apply(_hold_lock, (str(folder / "runs" / "smoke" / f"{run_id}.lock"),))
        code, _, error = command(*COMMAND)
        assert code == main.EXIT_RUN
        assert run_id in error
        assert f"process {pid} on {os.uname().nodename}" in error
        assert not (folder / "results").exists()

    # The pool has killed the owner, so the run is free.
    code, _, _ = command(*COMMAND)
    assert code == 0


def test_lock_is_free_after_owner_is_killed(tmp_path):
    program = f"""
import time
from pathlib import Path
from sam_bench.runs.lock import RunLock
lock = RunLock(Path({str(tmp_path / "a.lock")!r}))
print("held", flush=True)
time.sleep(100)
"""
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(Busy, match=f"process {owner.pid}"):
        RunLock(tmp_path / "a.lock")

    owner.kill()
    owner.wait()
    RunLock(tmp_path / "a.lock").release()


def test_lock_on_full_disk_is_released(tmp_path, monkeypatch):
    def fail_on_full_disk(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail_on_full_disk)
        with pytest.raises(StateError, match="No space left"):
            RunLock(tmp_path / "a.lock")

    RunLock(tmp_path / "a.lock").release()
    assert (tmp_path / "a.lock").read_text() == ""
