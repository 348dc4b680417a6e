"""Tests of sweeps in one process: no run is done twice, a failed run stops no other, and a summary counts them."""

import os
import re
import signal
from pathlib import Path

import pytest

from sam_bench.cli import compose, launchers, main
from sam_bench.cli.sweep import Outcome, Sweep, summary
from sam_bench.errors import ConfigError, StateError
from sam_bench.runs import run
from sam_bench.runs.lock import RunLock
from sam_bench.runs.record import RunFiles
from sam_bench.runs.spec import RunSpec
from sam_bench.training import build
from tests.cli.conftest import SWEEP
from tests.conftest import FP16, TINY, lasting

# Outcomes and the summary


def test_summary_counts_and_names_runs():
    outcomes = [Outcome("a", "finished"), Outcome("b", "failed", "ValueError: no"), Outcome("c", "unfinished")]
    assert summary(outcomes).splitlines() == [
        "3 runs: 1 finished, 0 skipped, 0 diverged, 1 failed, 1 unfinished",
        "  failed      b: ValueError: no",
        "  unfinished  c",
    ]


def test_failed_run_stops_no_other(command, folder, small_synthetic, monkeypatch, records):
    prepare = build.prepare

    def prepare_or_fail(config, *arguments):
        if config.seed == 1:
            raise RuntimeError("the device is on fire")
        return prepare(config, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run, "prepare", prepare_or_fail)
        code, out, error = command(*SWEEP, "seed=0,1,2")
    assert code == main.EXIT_RUN
    assert sorted(record["seed"] for record in records("smoke").values()) == [0, 2]

    # The error is in the summary, on standard error, and in the run's folder.
    *_, counts, failed_line = out.splitlines()
    assert counts == "3 runs: 2 finished, 0 skipped, 0 diverged, 1 failed"
    assert re.fullmatch(r"  failed      sam-resnet8-seed1-\w{10}: RuntimeError: the device is on fire", failed_line)
    assert "Traceback" in error
    (failure,) = (folder / "runs" / "smoke").rglob("failure.txt")
    assert failure.parent.name in failed_line
    assert "Traceback" in failure.read_text()
    assert "on fire" in failure.read_text()

    # The same command runs what failed.
    code, out, _ = command(*SWEEP, "seed=0,1,2")
    assert (code, out.splitlines()[-1]) == (0, "3 runs: 1 finished, 2 skipped, 0 diverged, 0 failed")
    assert not list((folder / "runs" / "smoke").rglob("failure.txt"))


def test_run_without_name_is_titled_by_overrides(folder, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = main.attempt(compose.compose(["trainer.device=cuda"]), "seed=1 trainer.device=cuda")
    assert (outcome.title, outcome.status) == ("seed=1 trainer.device=cuda", "failed")
    assert "no CUDA device" in outcome.message
    assert capsys.readouterr().err.startswith("Error: ")


def test_diverged_run_is_recorded(command, small_synthetic, records):
    code, out, _ = command(*SWEEP, "trainer.epochs=3", "optimizer=sgd", "optimizer.base.lr=0.01,1e30")
    assert code == 0
    assert "2 runs: 1 finished, 0 skipped, 1 diverged, 0 failed" in out
    assert sorted(record["status"] for record in records("smoke").values()) == ["diverged", "finished"]


def test_run_of_another_process_is_busy(command, folder, small_synthetic):
    files = RunSpec.resolve(compose.compose([*TINY, "experiment=smoke", "seed=1"])).files
    lock = RunLock(files.lock)
    code, out, _ = command(*SWEEP, "seed=0,1,2")
    lock.release()

    assert code == main.EXIT_RUN
    assert "2 finished, 0 skipped, 0 diverged, 0 failed, 1 busy" in out
    assert f"Busy: {files.run_id} is being run by process {os.getpid()}" in out


def test_outcome_that_cannot_be_written_stops_no_run(command, folder, small_synthetic, monkeypatch, records):
    def write_to_full_disk(*_):
        raise StateError("outcome-0.json cannot be written (No space left on device)")

    monkeypatch.setattr(Sweep, "write_outcome", write_to_full_disk)
    code, out, error = command(*SWEEP, "seed=0,1")

    assert (code, len(records("smoke"))) == (main.EXIT_RUN, 2)
    assert "2 unfinished" in out
    assert error.count("No space left on device") == 2


# Repetition


def test_finished_run_is_not_repeated_in_sweep(command, folder, small_synthetic, records):
    command(*TINY, "experiment=smoke", "optimizer=sam", "optimizer.rho=0.1")
    seconds_before = {name: record["train_seconds"] for name, record in records("smoke").items()}
    code, _, _ = command(*SWEEP, "optimizer=sam", "optimizer.rho=0.05,0.1,0.2")

    assert code == 0
    after = records("smoke")
    assert sorted(record["config"]["optimizer"]["rho"] for record in after.values()) == [0.05, 0.1, 0.2]
    assert all(after[name]["train_seconds"] == seconds for name, seconds in seconds_before.items())


def test_interrupted_sweep_is_resumed(command, folder, small_synthetic, interrupted, records):
    arguments = [*SWEEP, "trainer.epochs=2", "seed=0,1,2", "trainer.progress=plain"]
    interrupted({6})  # the third step of the second run
    code, out, error = command(*arguments)
    assert code == main.EXIT_RESUMABLE
    assert "3 runs: 1 finished, 0 skipped, 0 diverged, 0 failed, 1 interrupted, 1 unfinished" in out
    assert "saved after 3 of 4 steps" in error

    code, out, _ = command(*arguments)
    assert code == 0
    assert "3 runs: 2 finished, 1 skipped, 0 diverged, 0 failed" in out
    assert out.count("continues from epoch 1, step 1") == 1
    assert len(records("smoke")) == 3


def test_signal_at_end_of_run_lets_it_finish(command, folder, small_synthetic, monkeypatch):
    finish = RunFiles.finish

    def finish_after_signal(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(*arguments)

    monkeypatch.setattr(RunFiles, "finish", finish_after_signal)
    code, out, _ = command(*SWEEP, "seed=0,1")

    assert code == main.EXIT_RESUMABLE
    assert "1 finished" in out
    assert "1 unfinished" in out


@pytest.mark.parametrize(("ended_by", "statuses"), [("signal", []), ("clock", ["interrupted"])])
def test_job_that_launcher_requeues_has_no_outcome(
    command, folder, small_synthetic, interrupted, monkeypatch, ended_by, statuses
):
    monkeypatch.setitem(launchers.LAUNCHERS, "basic", launchers.Launcher(local=True, requeues=True))
    interrupted({0} if ended_by == "signal" else ())
    limit = ["trainer.max_minutes=1e-9"] if ended_by == "clock" else []
    code, _, error = command(*SWEEP, "seed=0,1", *limit)

    assert code == main.EXIT_RESUMABLE
    assert "is saved after 1 of 2 steps" in error
    assert [outcome.status for outcome in outcomes_of_newest_sweep(folder)] == statuses


def outcomes_of_newest_sweep(folder: Path) -> list[Outcome]:
    """Return the outcomes that the newest sweep below a folder has written."""
    newest = max((folder / "runs" / "sweeps").glob("*/*"), key=lambda path: path.stat().st_mtime)
    return Sweep(newest).outcomes(None)


def test_sweep_in_used_folder_starts_anew(command, folder, small_synthetic, records):
    Sweep(folder / "mine").stop()
    Sweep(folder / "mine").write_outcome(1, Outcome("another", "failed"))
    code, out, _ = command(*SWEEP, "hydra.sweep.dir=mine", "seed=0,1")

    assert code == 0
    assert "2 runs: 2 finished, 0 skipped, 0 diverged, 0 failed" in out
    assert len(records("smoke")) == 2


# Runs after one another


#: Runs that change global state of torch: precision, determinism, streams of random numbers.
RUNS_BEFORE = [
    [*FP16, "optimizer=gsam", "averaging=swa", "seed=3"],
    ["model=torchvision", "model.arch=efficientnet_b0", "averaging=ema", "trainer.deterministic=true"],
    ["optimizer=esam", "trainer.precision=bf16", "optimizer/base=adamw", "optimizer.base.lr=0.001"],
]


def test_run_does_not_depend_on_runs_before(tiny_run, folder):
    overrides = ["model=resnet8", "optimizer=vasso", "trainer.epochs=2"]
    alone = tiny_run(*overrides)
    (folder / "results").rename(folder / "results_alone")
    (folder / "runs").rename(folder / "runs_alone")

    for others in RUNS_BEFORE:
        tiny_run("model=resnet8", *others)
    with pytest.raises(ConfigError):
        tiny_run("model=resnet8", "optimizer.m=6")
    assert lasting(tiny_run(*overrides)) == lasting(alone)
