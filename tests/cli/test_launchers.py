"""Tests of sweeps on Hydra's launchers: runs side by side, and workers that are asked to end or are killed."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sam_bench.cli import compose, main
from sam_bench.cli.request import read_request
from sam_bench.errors import ConfigError
from sam_bench.runs.lock import RunLock
from tests.cli.conftest import SWEEP, python_environment
from tests.conftest import TINY, everything_below, execute, has_ended, lasting, options
from tests.forked import Forked, command_line

#: The beginning of a sweep that prints its progress.
VERBOSE_SWEEP = ["-m", "experiment=smoke", "trainer.progress=plain"]

#: Overrides of a run that takes seconds, and saves a checkpoint several times a second.
LONG = ["data.train_subset=200", "trainer.batch_size=50", "trainer.epochs=8", "trainer.checkpoint_minutes=0.005"]

#: Overrides of a run that takes long, and saves a checkpoint after each epoch.
LONGER = [*LONG, "trainer.epochs=60", "trainer.checkpoint_minutes=null", "trainer.checkpoint_every=1"]

RAY_ON_CPU = ["hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=0", "trainer.device=cpu"]
SLURM_ON_CPU = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0", "trainer.device=cpu",
                "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2"]  # fmt: skip

TWELVE_SEEDS = f"seed={','.join(map(str, range(12)))}"


def start_sweep(folder: Path, *arguments: str, **options) -> subprocess.Popen:
    """Start a sweep in a Python of its own."""
    command = [sys.executable, "-m", "sam_bench", *VERBOSE_SWEEP, *arguments]
    environment = python_environment() | {"PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def fork_sweep(folder: Path, *arguments: str, **options) -> Forked:
    """Start a sweep in a process that has imported everything; its workers are Pythons of their own."""
    return Forked(command_line, *VERBOSE_SWEEP, *arguments, cwd=folder, **options)


def worker_of(folder: Path, seed: int, seconds: float = 120) -> int:
    """Wait for a run's first checkpoint; return the process that works on the run."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for path in (folder / "runs" / "smoke").glob(f"*seed{seed}-*/checkpoint-*.pt"):
            lock = path.parent.with_name(f"{path.parent.name}.lock")
            if owner := re.match(r"process (\d+) on", lock.read_text()):  # else the process has just ended
                return int(owner[1])
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint of seed {seed} in {seconds} seconds")


@pytest.mark.parametrize("launcher", options("hydra/launcher"))
def test_launcher_is_chosen_or_its_package_named(command, folder, launcher):
    plugin = {"slurm": "submitit"}.get(launcher, launcher)
    arguments = main.get_args_parser().parse_args([*SWEEP, f"hydra/launcher={launcher}", "seed=0,1"])
    if importlib.util.find_spec(f"hydra_plugins.hydra_{plugin}_launcher") is None:
        with pytest.raises(ConfigError, match=rf"hydra/launcher={launcher}.*pip install -e '\.\[{launcher}\]'"):
            read_request(arguments)
    else:
        request = read_request(arguments)
        assert (request.launcher, len(request.configs)) == (launcher, 2)
    assert everything_below(folder) == []


# joblib


def test_joblib_sweep_with_bad_run_starts_nothing(command, folder):
    grid = ["seed=0,1,2", "+optimizer.m=3,null", "trainer.batch_size=2,5"]
    code, _, error = command(*SWEEP, "hydra/launcher=joblib", *grid)
    assert code == main.EXIT_CONFIG
    assert "optimizer.m=3" in error
    assert everything_below(folder) == []


def test_joblib_sweep_makes_all_records(folder, records):
    sweep = start_sweep(folder, *TINY, "hydra/launcher=joblib", "seed=0,1,2,3")
    out, _ = sweep.communicate(timeout=300)
    assert (sweep.returncode, len(records("smoke"))) == (0, 4), out
    assert "4 runs: 4 finished, 0 skipped, 0 diverged, 0 failed" in out


@pytest.mark.parametrize(
    ("start", "ended_by", "seeds", "started_runs"),
    [(start_sweep, "Ctrl-C", "0,1,2", 2), (fork_sweep, "SIGTERM", "0", 1)],
    ids=["by Ctrl-C while a run waits", "by SIGTERM while a worker is idle"],
)
def test_ended_joblib_sweep_saves_its_runs(command, folder, records, start, ended_by, seeds, started_runs):
    sweep = start(folder, *LONGER, "hydra/launcher=joblib", f"seed={seeds}", start_new_session=True)
    for seed in range(started_runs):
        worker_of(folder, seed)
    if ended_by == "Ctrl-C":
        os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does, which sends it to the workers too
    else:
        sweep.send_signal(signal.SIGTERM)
    out, _ = sweep.communicate(timeout=120)

    assert sweep.returncode == main.EXIT_RESUMABLE, out
    assert "Traceback" not in out
    assert f"0 failed, {started_runs} interrupted" in out
    assert out.count("the same command continues from there") == started_runs
    assert records("smoke") == {}

    # Each run can be resumed.
    for seed in range(started_runs):
        code, out, _ = command(*VERBOSE_SWEEP[1:], *LONGER, f"seed={seed}", "trainer.max_minutes=1e-9")
        assert code == main.EXIT_RESUMABLE
        assert ", continues from epoch" in out


def test_workers_of_killed_joblib_sweep_save_and_end(folder, records):
    sweep = fork_sweep(folder, *LONG, "hydra/launcher=joblib", "trainer.epochs=200", "seed=0,1,2")
    workers = [worker_of(folder, seed) for seed in (0, 1)]
    sweep.kill()
    sweep.wait()

    still_running = [pid for pid in workers if not has_ended(pid, within=30)]
    for pid in still_running:  # else they would train on after the test
        os.kill(pid, signal.SIGKILL)
    assert still_running == []

    assert records("smoke") == {}
    for path in (folder / "runs" / "smoke").glob("*.lock"):
        RunLock(path).release()


# Ray and SLURM


def check_twelve_records(out: str, records: dict[str, dict], overrides: list[str]) -> None:
    """Check that a sweep of twelve seeds has finished, and that seed 1 has the record of an undisturbed run."""
    assert "12 runs: 12 finished, 0 skipped, 0 diverged, 0 failed" in out
    by_seed = {record["seed"]: record for record in records.values()}
    assert len(records) == 12
    assert sorted(by_seed) == list(range(12))

    undisturbed = ["experiment=smoke", "trainer.progress=none", *overrides, "trainer.device=cpu", "seed=1"]
    alone = execute(compose.compose([*undisturbed, "paths.runs=alone", "paths.results=alone"]))
    assert lasting(by_seed[1]) == lasting(alone)


@pytest.mark.ray
def test_ray_without_gpu_is_refused(command, folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, error = command(*SWEEP, "hydra/launcher=ray", "seed=0,1")
    assert code == main.EXIT_CONFIG
    assert "hydra.launcher.ray.remote.num_gpus=0" in error
    assert everything_below(folder) == []


@pytest.mark.ray
def test_ended_ray_sweep_saves_its_runs(folder, records):
    sweep = start_sweep(folder, *LONGER, *RAY_ON_CPU, "seed=0,1,2", start_new_session=True)
    for seed in range(3):
        if any((folder / "runs" / "smoke").glob(f"*seed{seed}-*")) or seed < 1:
            worker_of(folder, seed)
    os.killpg(sweep.pid, signal.SIGINT)
    out, _ = sweep.communicate(timeout=120)

    assert sweep.returncode == main.EXIT_RESUMABLE, out
    assert "interrupted" in out
    assert records("smoke") == {}


@pytest.mark.ray
def test_ray_sweep_survives_killed_workers(folder, records):
    sweep = start_sweep(folder, *LONG, *RAY_ON_CPU, TWELVE_SEEDS)
    os.kill(worker_of(folder, 1), signal.SIGKILL)
    os.kill(worker_of(folder, 5), signal.SIGTERM)
    out, _ = sweep.communicate(timeout=600)

    assert sweep.returncode == 0, out
    assert out.count("continues from epoch") >= 2 or "repeated" in out
    check_twelve_records(out, records("smoke"), LONG)


def slurm(*arguments: str) -> str:
    """Run a command of SLURM; return its output."""
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0 or arguments[0] == "scancel", done.stderr  # scancel fails if a job has just ended
    return done.stdout


@pytest.mark.slurm
def test_slurm_sweep_survives_requeue_and_preemption(folder, records):
    overrides = [*LONG, "trainer.epochs=16"]
    sweep = start_sweep(folder, *overrides, *SLURM_ON_CPU, TWELVE_SEEDS)

    # Seed 0 is requeued, and seed 1 preempted.
    worker_of(folder, 0)
    array = slurm("squeue", "-h", "-t", "R", "-o", "%F").split()[0]
    slurm("scontrol", "requeue", f"{array}_0")
    worker_of(folder, 1)
    slurm("scancel", "--signal=USR2", f"{array}_1")

    # SLURM lets a requeued job wait for two minutes, unless it is told otherwise.
    deadline = time.monotonic() + 400
    while sweep.poll() is None and time.monotonic() < deadline:
        for job, reason in (line.split() for line in slurm("squeue", "-h", "-o", "%i %r").splitlines()):
            if reason == "BeginTime":
                slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
        time.sleep(1)
    out, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 0, out

    logs = {path.parent.name.rpartition("_")[2]: path for path in (folder / "runs" / "sweeps").rglob("*_log.out")}
    for number in ("0", "1"):
        text = logs[number].read_text() + logs[number].with_suffix(".err").read_text()
        assert "the same command continues from there" in text or "Requeued job" in text
        assert text.count("continues from epoch") == 1, text
    check_twelve_records(out, records("smoke"), overrides)
