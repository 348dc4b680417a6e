"""Tests of runs in several processes, which train, stop and fail together."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sam_bench.cli import compose, main
from sam_bench.errors import ConfigError, Interrupted, UserError
from sam_bench.runs import run
from sam_bench.runs.checkpoint import Checkpoints
from sam_bench.training.step import Step
from tests.conftest import ROOT, differences, everything_below, execute, last_checkpoint, lasting
from tests.forked import command_line, side_by_side


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run a program, or a module after `-m`, in two processes of torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [sys.executable, *launcher, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


# Training together


def test_two_processes_equal_one_with_parts(folder, records):
    overrides = ["experiment=smoke", "optimizer=gsam", "averaging=swa", "data.train_subset=60", "trainer.batch_size=20",
                 "trainer.precision=fp32", "trainer.device=cpu"]  # fmt: skip
    done = torchrun(folder, "-m", "sam_bench", *overrides, "trainer.progress=plain")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2") == done.stdout.count("written: ") == 1
    ((name, together),) = records("smoke").items()
    assert (together["m"], together["processes"], together["passes"]) == (10, 2, 12)

    # The same run started again is not repeated, and one process says so.
    again = side_by_side(command_line, *overrides, "trainer.progress=plain", cwd=folder)
    assert [code for code, _ in again] == [0, 0]
    assert sorted(output.count("finished before") for _, output in again) == [0, 1]

    # One process with parts of half a batch takes the same steps.
    alone = execute(compose.compose([*overrides, "optimizer.m=10", "trainer.progress=none"]))
    assert (alone["m"], alone["processes"]) == (10, 1)
    assert together["history"]["train_loss"] == pytest.approx(alone["history"]["train_loss"], rel=1e-4)
    states = [last_checkpoint(folder, run_id, "smoke")["training"]["model"] for run_id in (name, alone["run_id"])]
    for key in states[0]:
        if "running" not in key and "num_batches" not in key:  # statistics of the main process's halves
            torch.testing.assert_close(states[0][key], states[1][key], rtol=1e-3, atol=1e-5)


def test_indivisible_batch_is_refused(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"trainer\.batch_size=128 .* 3 processes"):
        run.check([compose.compose(["experiment=smoke"])])
    with pytest.raises(ConfigError, match=r"last batch.*20"):
        run.check([compose.compose(["experiment=smoke", "trainer.batch_size=120"])])

    overrides = ["experiment=smoke", "trainer.batch_size=150", "data.train_subset=450", "optimizer.m=65"]
    with pytest.raises(ConfigError, match=r"optimizer\.m=65 .* 50 examples"):
        run.check([compose.compose(overrides)])
    assert everything_below(folder) == []


# Stopping and failing together

SMALL = ["experiment=smoke", "optimizer=looksam", "averaging=swa", "data.train_subset=60", "trainer.batch_size=20",
         "trainer.device=cpu", "trainer.progress=none"]  # fmt: skip


def small_run_in(name: str) -> list[str]:
    """Return the settings of the small run, with its files in a folder of this name."""
    return [*SMALL, f"paths.runs={name}/runs", f"paths.results={name}/results"]


def train_in_group(fault: str, signal_step: int, *overrides: str) -> None:
    """Train as one of several processes, with a fault.

    Args:
        fault: "slow disk", "full disk", "late signal" or "".
        signal_step: number of the step in which all but the main process receive a signal; -1 for none.
    """
    take_step, save, make_record = Step.__call__, Checkpoints.save, run.make_record
    is_main = os.environ["RANK"] == "0"
    steps = itertools.count()

    def step_with_signal(*arguments):
        if next(steps) == signal_step and not is_main:
            os.kill(os.getpid(), signal.SIGUSR2)
        take_step(*arguments)

    def save_slowly(*arguments):
        time.sleep(3)
        return save(*arguments)

    def fail_to_save(*_):
        raise UserError("the disk is full")

    def make_record_with_signal(*arguments):
        if not is_main:
            os.kill(os.getpid(), signal.SIGTERM)
        return make_record(*arguments)

    Step.__call__ = step_with_signal
    if fault == "slow disk":
        Checkpoints.save = save_slowly
    if fault == "full disk":
        Checkpoints.save = fail_to_save
    if fault == "late signal":
        run.make_record = make_record_with_signal

    try:
        execute(compose.compose(list(overrides)))
    except Interrupted as error:
        print("stopped:", error)
        sys.exit(main.EXIT_RESUMABLE)
    except UserError as error:
        print("failed:", type(error).__name__, error)


def stop_torchrun(folder: Path, *overrides: str) -> str:
    """Train on a slow disk in two processes of torchrun, one of which gets a signal; return what they print."""
    program = "import sys; from tests.runs.test_processes import train_in_group; "
    (folder / "program.py").write_text(program + "train_in_group('slow disk', 1, *sys.argv[1:])")
    done = torchrun(folder, "program.py", *overrides)
    assert "Connection closed" not in done.stderr, done.stderr
    return done.stdout


def test_processes_stop_and_resume_together(tmp_path):
    assert side_by_side(train_in_group, "", -1, *small_run_in("whole"), cwd=tmp_path) == [(0, ""), (0, "")]

    # Both have saved, but when one has ended, torchrun ends the other, which may not have printed yet.
    output = stop_torchrun(tmp_path, *small_run_in("resumed"))
    assert output.count("stopped:") >= 1
    assert len(list((tmp_path / "resumed").rglob("checkpoint-*.pt"))) >= 1

    # Without torchrun both print that they have stopped.
    ends = side_by_side(train_in_group, "", 2, *small_run_in("resumed"), cwd=tmp_path)
    assert [(code, output.count("stopped:")) for code, output in ends] == [(main.EXIT_RESUMABLE, 1)] * 2

    assert side_by_side(train_in_group, "", -1, *small_run_in("resumed"), cwd=tmp_path) == [(0, ""), (0, "")]
    name = next((tmp_path / "whole" / "runs" / "smoke").glob("*.lock")).stem
    whole, resumed = (last_checkpoint(tmp_path / folder, name, "smoke") for folder in ("whole", "resumed"))
    assert differences(lasting(resumed), lasting(whole)) == []


def test_processes_fail_together(tmp_path):
    ends = side_by_side(train_in_group, "full disk", -1, *small_run_in("full"), cwd=tmp_path)
    assert ends == [
        (0, "failed: UserError the disk is full\n"),
        (0, "failed: MainProcessFailed UserError: the disk is full\n"),
    ]


def test_processes_agree_on_late_signal(tmp_path):
    ends = side_by_side(train_in_group, "late signal", -1, *small_run_in("late"), cwd=tmp_path)
    assert all(code == main.EXIT_RESUMABLE and "is finished" in output for code, output in ends)
    assert len(list((tmp_path / "late").rglob("records/*.json"))) == 1
