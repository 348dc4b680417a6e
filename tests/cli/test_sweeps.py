"""Sweeps: nothing twice, one failure for itself, a summary; in this process and on Hydra's launchers."""

import importlib.util
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sam_bench.cli import compose, launchers, main
from sam_bench.cli.request import read_request
from sam_bench.cli.sweep import Outcome, Sweep, summary
from sam_bench.errors import ConfigError, StateError
from sam_bench.runs import run
from sam_bench.runs.lock import RunLock
from sam_bench.runs.record import RunFiles, objective_of
from sam_bench.runs.spec import RunSpec
from sam_bench.training import build
from tests.conftest import FP16, ROOT, TINY, everything_below, execute, has_ended, lasting, options
from tests.forked import Forked, command_line

SWEEP = ["-m", *TINY, "experiment=smoke"]


def outcomes(folder: Path) -> list[Outcome]:
    """Of the newest sweep below a folder."""
    newest = max((folder / "runs" / "sweeps").glob("*/*"), key=lambda path: path.stat().st_mtime)
    return Sweep(newest).outcomes(None)


def failing(monkeypatch, seed: int) -> None:
    prepare = build.prepare

    def on_fire(config, *rest):
        if config.seed == seed:
            raise RuntimeError("the device is on fire")
        return prepare(config, *rest)

    monkeypatch.setattr(run, "prepare", on_fire)


def test_one_failure_stops_no_other_and_is_told_at_the_end(command, folder, small_synthetic, monkeypatch, records):
    with monkeypatch.context() as patch:
        failing(patch, 1)
        code, out, error = command(*SWEEP, "seed=0,1,2")
    assert code == main.EXIT_RUN
    assert sorted(record["seed"] for record in records("smoke").values()) == [0, 2]
    assert "Traceback" in error
    lines = out.splitlines()
    assert lines[-2] == "3 runs: 2 finished, 0 skipped, 0 diverged, 1 failed"
    assert re.fullmatch(r"  failed      sam-resnet8-seed1-\w{10}: RuntimeError: the device is on fire", lines[-1])
    (failure,) = (folder / "runs" / "smoke").rglob("failure.txt")
    assert failure.parent.name in lines[-1]
    assert "Traceback" in failure.read_text()
    assert "on fire" in failure.read_text()
    code, out, _ = command(*SWEEP, "seed=0,1,2")
    assert (code, out.splitlines()[-1]) == (0, "3 runs: 1 finished, 2 skipped, 0 diverged, 0 failed")
    assert not list((folder / "runs" / "smoke").rglob("failure.txt"))


def test_a_repeated_sweep_runs_what_is_missing_and_resumes_what_is_broken(
    command, folder, small_synthetic, interrupted, records
):
    arguments = [*SWEEP, "trainer.epochs=2", "seed=0,1,2", "trainer.progress=plain"]
    interrupted({6})  # the third step of the second run
    code, out, error = command(*arguments)
    assert code == main.EXIT_RESUMABLE
    assert "3 runs: 1 finished, 0 skipped, 0 diverged, 0 failed, 1 interrupted, 1 unfinished" in out
    assert "saved after 3 of 4 steps" in error
    code, out, _ = command(*arguments)
    assert code == 0
    assert "3 runs: 2 finished, 1 skipped, 0 diverged, 0 failed" in out
    assert out.count("on from epoch 1, step 1") == 1
    assert len(records("smoke")) == 3


def test_a_diverged_run_is_a_record_and_no_failure(command, small_synthetic, records):
    code, out, _ = command(*SWEEP, "trainer.epochs=3", "optimizer=sgd", "optimizer.base.lr=0.01,1e30")
    assert code == 0
    assert "2 runs: 1 finished, 0 skipped, 1 diverged, 0 failed" in out
    assert sorted(record["status"] for record in records("smoke").values()) == ["diverged", "finished"]


def test_a_run_that_another_process_has_is_left_to_it(command, folder, small_synthetic, records):
    files = RunSpec.resolve(compose.compose([*TINY, "experiment=smoke", "seed=1"])).files
    lock = RunLock(files.lock)
    code, out, _ = command(*SWEEP, "seed=0,1,2")
    lock.release()
    assert code == main.EXIT_RUN
    assert "2 finished, 0 skipped, 0 diverged, 0 failed, 1 busy" in out
    assert f"Busy: {files.run_id} is being run by process {os.getpid()}" in out


LEAKING = [
    [*FP16, "optimizer=gsam", "averaging=swa", "seed=3"],
    ["model=torchvision", "model.arch=efficientnet_b0", "averaging=ema", "trainer.deterministic=true"],
    ["optimizer=esam", "trainer.precision=bf16", "optimizer/base=adamw", "optimizer.base.lr=0.001"],
]


def test_nothing_of_one_run_reaches_the_next_in_the_same_process(tiny_run, folder):
    base = ["model=resnet8", "optimizer=vasso", "trainer.epochs=2"]
    alone = tiny_run(*base)
    (folder / "results").rename(folder / "before")
    (folder / "runs").rename(folder / "runs_before")
    for overrides in LEAKING:
        tiny_run("model=resnet8", *overrides)
    with pytest.raises(ConfigError):
        tiny_run("model=resnet8", "optimizer.m=6")
    assert lasting(tiny_run(*base)) == lasting(alone)


def test_a_summary_counts_and_names():
    made = [Outcome("a", "finished"), Outcome("b", "failed", "ValueError: no"), Outcome("c", "unfinished")]
    assert summary(made).splitlines() == [
        "3 runs: 1 finished, 0 skipped, 0 diverged, 1 failed, 1 unfinished",
        "  failed      b: ValueError: no",
        "  unfinished  c",
    ]


# Launchers


LAUNCHERS = options("hydra/launcher")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_is_chosen_or_its_package_is_named(command, folder, launcher, monkeypatch):
    plugin = {"slurm": "submitit"}.get(launcher, launcher)
    arguments = main.get_args_parser().parse_args([*SWEEP, f"hydra/launcher={launcher}", "seed=0,1"])
    if importlib.util.find_spec(f"hydra_plugins.hydra_{plugin}_launcher") is None:
        with pytest.raises(ConfigError, match=rf"hydra/launcher={launcher}.*pip install -e '\.\[{launcher}\]'"):
            read_request(arguments)
    else:
        asked = read_request(arguments)
        assert (asked.launcher, len(asked.configs)) == (launcher, 2)
    assert everything_below(folder) == []


def started(folder: Path, *arguments: str, **named) -> subprocess.Popen:
    """A sweep in a Python of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "sam_bench", *SMOKE, *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **named
    )


def forked(folder: Path, *arguments: str, **named) -> Forked:
    """A sweep in a process that has imported everything; its workers are Pythons of their own."""
    return Forked(command_line, *SMOKE, *arguments, cwd=folder, **named)


def owner(folder: Path, seed: int, seconds: float = 120) -> int:
    """The process that works on a run, once there is a checkpoint of it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for path in (folder / "runs" / "smoke").glob(f"*seed{seed}-*/checkpoint-*.pt"):
            lock = path.parent.with_name(f"{path.parent.name}.lock")
            if found := re.match(r"process (\d+) on", lock.read_text()):  # else it has just ended
                return int(found[1])
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint of seed {seed} in {seconds} seconds")


SMOKE = ["-m", "experiment=smoke", "trainer.progress=plain"]
LONG = ["data.train_subset=200", "trainer.batch_size=50", "trainer.epochs=8", "trainer.checkpoint_minutes=0.005"]


def test_joblib_begins_nothing_where_one_run_is_refused(command, folder):
    grid = ["seed=0,1,2", "+optimizer.m=3,null", "trainer.batch_size=2,5"]
    code, _, error = command(*SMOKE, *TINY, "hydra/launcher=joblib", *grid)
    assert code == main.EXIT_CONFIG
    assert "optimizer.m=3" in error
    assert everything_below(folder) == []


def test_joblib_runs_side_by_side(folder, records):
    done = started(folder, *TINY, "hydra/launcher=joblib", "seed=0,1,2,3")
    out, _ = done.communicate(timeout=300)
    assert (done.returncode, len(records("smoke"))) == (0, 4), out
    assert "4 runs: 4 finished, 0 skipped, 0 diverged, 0 failed" in out


@pytest.mark.parametrize(
    ("start", "how", "seeds", "count"),
    [(started, "Ctrl-C", "0,1,2", 2), (forked, "SIGTERM", "0", 1)],
    ids=["by Ctrl-C while a run waits", "while a worker has nothing to do"],
)
def test_a_joblib_sweep_that_is_asked_to_end_saves_what_trains(command, folder, records, start, how, seeds, count):
    training = [*LONG, "trainer.epochs=60", "trainer.checkpoint_minutes=null", "trainer.checkpoint_every=1"]
    going = start(folder, *training, "hydra/launcher=joblib", f"seed={seeds}", start_new_session=True)
    for seed in range(count):
        owner(folder, seed)
    if how == "Ctrl-C":
        os.killpg(going.pid, signal.SIGINT)
    else:
        going.send_signal(getattr(signal, how))
    out, _ = going.communicate(timeout=120)
    assert going.returncode == main.EXIT_RESUMABLE, out
    assert "Traceback" not in out
    assert f"0 failed, {count} interrupted" in out
    assert out.count("the same command goes on from there") == count
    assert records("smoke") == {}
    for seed in range(count):
        code, out, _ = command(*SMOKE[1:], *training, f"seed={seed}", "trainer.max_minutes=1e-9")
        assert code == main.EXIT_RESUMABLE
        assert ", on from epoch" in out


def test_workers_of_a_joblib_sweep_that_was_killed_save_and_end(folder, records):
    going = forked(folder, *LONG, "hydra/launcher=joblib", "trainer.epochs=200", "seed=0,1,2")
    workers = [owner(folder, seed) for seed in (0, 1)]
    going.kill()
    going.wait()
    ended = [has_ended(pid, within=30) for pid in workers]
    for pid, gone in zip(workers, ended, strict=True):
        if not gone:  # it would train on
            os.kill(pid, signal.SIGKILL)
    assert all(ended)
    assert records("smoke") == {}
    for path in (folder / "runs" / "smoke").glob("*.lock"):
        RunLock(path).release()


@pytest.mark.ray
def test_ray_without_a_gpu_is_refused_before_it_waits_for_one(command, folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, error = command(*SWEEP, "hydra/launcher=ray", "seed=0,1")
    assert code == main.EXIT_CONFIG
    assert "hydra.launcher.ray.remote.num_gpus=0" in error
    assert everything_below(folder) == []


@pytest.mark.ray
def test_a_ray_sweep_that_is_asked_to_end_saves_what_trains(folder, records):
    arguments = [*LONG, "hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=0", "trainer.device=cpu",
                 "trainer.epochs=60", "trainer.checkpoint_minutes=null", "trainer.checkpoint_every=1",
                 "seed=0,1,2"]  # fmt: skip
    going = started(folder, *arguments, start_new_session=True)
    for seed in range(3):
        if any((folder / "runs" / "smoke").glob(f"*seed{seed}-*")) or seed < 1:
            owner(folder, seed)
    os.killpg(going.pid, signal.SIGINT)
    out, _ = going.communicate(timeout=120)
    assert going.returncode == main.EXIT_RESUMABLE, out
    assert "interrupted" in out
    assert records("smoke") == {}


@pytest.mark.parametrize(("by_signal", "known"), [(True, []), (False, ["interrupted"])], ids=["signal", "clock"])
def test_a_launcher_that_begins_jobs_again_gets_no_result_from_one_that_a_signal_ended(
    command, folder, small_synthetic, interrupted, monkeypatch, by_signal, known
):
    monkeypatch.setitem(launchers.LAUNCHERS, "basic", launchers.Launcher(local=True, requeues=True))
    interrupted({0} if by_signal else ())
    code, _, error = command(*SWEEP, "seed=0,1", *([] if by_signal else ["trainer.max_minutes=1e-9"]))
    assert code == main.EXIT_RESUMABLE
    assert "is saved after 1 of 2 steps" in error
    assert [outcome.status for outcome in outcomes(folder)] == known


def test_a_run_that_cannot_even_be_named_is_a_failure_of_its_own(folder, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = main.attempt(compose.compose(["trainer.device=cuda"]), "seed=1 trainer.device=cuda")
    assert (outcome.title, outcome.status) == ("seed=1 trainer.device=cuda", "failed")
    assert "no CUDA device" in outcome.message
    assert capsys.readouterr().err.startswith("Error: ")


def test_a_sweep_whose_folder_is_full_goes_on(command, folder, small_synthetic, monkeypatch, records):
    def full(*_):
        raise StateError("outcome-0.json cannot be written (No space left on device)")

    monkeypatch.setattr(Sweep, "write_outcome", full)
    code, out, error = command(*SWEEP, "seed=0,1")
    assert (code, len(records("smoke"))) == (main.EXIT_RUN, 2)
    assert "2 unfinished" in out
    assert error.count("No space left on device") == 2


def test_a_run_that_was_just_finished_when_a_signal_came_counts_as_finished(
    command, folder, small_synthetic, monkeypatch
):
    finish = RunFiles.finish
    monkeypatch.setattr(RunFiles, "finish", lambda *of: os.kill(os.getpid(), signal.SIGTERM) or finish(*of))
    code, out, _ = command(*SWEEP, "seed=0,1")
    assert code == main.EXIT_RESUMABLE
    assert "1 finished" in out
    assert "1 unfinished" in out


def test_a_folder_chosen_for_sweeps_keeps_nothing_of_the_last_one(command, folder, small_synthetic, records):
    Sweep(folder / "mine").stop()
    Sweep(folder / "mine").write_outcome(1, Outcome("another", "failed"))
    code, out, _ = command(*SWEEP, "hydra.sweep.dir=mine", "seed=0,1")
    assert code == 0
    assert "2 runs: 2 finished, 0 skipped, 0 diverged, 0 failed" in out
    assert len(records("smoke")) == 2


def test_a_sweep_under_torchrun_is_refused(command, folder, monkeypatch):
    place = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    code, _, error = command(*SWEEP, "seed=0,1")
    assert code == main.EXIT_CONFIG
    assert "without -m" in error
    assert everything_below(folder) == []


@pytest.mark.ray
def test_a_ray_sweep_of_twelve_whose_worker_is_killed_leaves_twelve_records(folder, records):
    going = started(folder, *LONG, "hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=0",
                  "trainer.device=cpu", f"seed={','.join(map(str, range(12)))}")  # fmt: skip
    os.kill(owner(folder, 1), signal.SIGKILL)
    os.kill(owner(folder, 5), signal.SIGTERM)
    out, _ = going.communicate(timeout=600)
    assert going.returncode == 0, out
    assert "12 runs: 12 finished, 0 skipped, 0 diverged, 0 failed" in out
    assert sorted(record["seed"] for record in records("smoke").values()) == list(range(12))
    assert out.count("on from epoch") >= 2 or "repeated" in out
    alone = execute(compose.compose(["experiment=smoke", "trainer.progress=none", *LONG, "trainer.device=cpu",
                                     "seed=1", "paths.runs=alone", "paths.results=alone"]))  # fmt: skip
    assert lasting(next(r for r in records("smoke").values() if r["seed"] == 1)) == lasting(alone)
    print(out[-2000:])


def slurm(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0 or arguments[0] == "scancel", done.stderr  # which complains of what it signals in vain
    return done.stdout


@pytest.mark.slurm
def test_a_slurm_sweep_of_twelve_that_is_requeued_and_preempted_leaves_twelve_records(folder, records):
    longer = [*LONG, "trainer.epochs=16"]
    going = started(folder, *longer, "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0", "trainer.device=cpu",
                  "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2",
                  f"seed={','.join(map(str, range(12)))}")  # fmt: skip
    owner(folder, 0)
    array = slurm("squeue", "-h", "-t", "R", "-o", "%F").split()[0]
    slurm("scontrol", "requeue", f"{array}_0")
    owner(folder, 1)
    slurm("scancel", "--signal=USR2", f"{array}_1")
    until = time.monotonic() + 400
    while going.poll() is None and time.monotonic() < until:
        for job, reason in (line.split() for line in slurm("squeue", "-h", "-o", "%i %r").splitlines()):
            if reason == "BeginTime":  # SLURM lets a requeued job wait for two minutes
                slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
        time.sleep(1)
    out, _ = going.communicate(timeout=60)
    assert going.returncode == 0, out
    assert "12 runs: 12 finished, 0 skipped, 0 diverged, 0 failed" in out
    assert sorted(record["seed"] for record in records("smoke").values()) == list(range(12))
    logs = {path.parent.name.rpartition("_")[2]: path for path in (folder / "runs" / "sweeps").rglob("*_log.out")}
    for number in ("0", "1"):
        text = logs[number].read_text() + logs[number].with_suffix(".err").read_text()
        assert "the same command goes on from there" in text or "Requeued job" in text
        assert text.count("on from epoch") == 1, text
    alone = execute(compose.compose(["experiment=smoke", "trainer.progress=none", *longer, "trainer.device=cpu",
                                     "seed=1", "paths.runs=alone", "paths.results=alone"]))  # fmt: skip
    assert lasting(next(r for r in records("smoke").values() if r["seed"] == 1)) == lasting(alone)
    print(out[-500:], *(path.read_text() for path in sorted(logs.values())[:2]), sep="\n")


SWEEPER = '''
"""A sweeper that tries two radii, and writes down what it is to minimise."""
import pathlib
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

class TwoSweeper(Sweeper):
    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        runs = [[*arguments, f"optimizer.rho={rho}"] for rho in (0.01, 0.5)]
        results = self.launcher.launch(runs, initial_job_idx=0)
        pathlib.Path("values.txt").write_text(" ".join(str(float(each.return_value)) for each in results))

target = f"{__name__}.TwoSweeper"
ConfigStore.instance().store("two", {"_target_": target}, "hydra/sweeper", provider="tests")
'''


def test_sweeper_is_given_the_held_out_error(folder, records):
    package = folder / "plugins" / "hydra_plugins" / "hydra_two_sweeper"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "two.py").write_text(SWEEPER, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder / "plugins"), str(ROOT)])}
    words = ["-m", *TINY, "experiment=smoke", "data=synthetic", "data.train_subset=100", "hydra/sweeper=two"]

    def sweep(*more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "sam_bench", *words, *more]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    refused = sweep()
    assert refused.returncode == main.EXIT_CONFIG and "data.split=val" in refused.stderr
    for status in ("finished", "skipped"):
        done = sweep("data.split=val")
        assert done.returncode == 0, done.stderr
        assert f"2 {status}" in done.stdout
        found = [float(value) for value in (folder / "values.txt").read_text(encoding="utf-8").split()]
        errors = {record["config"]["optimizer"]["rho"]: record["test_error"] for record in records("smoke").values()}
        assert found == [errors[0.01], errors[0.5]]


@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs the extra optuna")
def test_optuna_minimises_the_held_out_error(command, folder, small_synthetic, records):
    words = ["-m", *TINY, "experiment=smoke", "data.split=val", "hydra/sweeper=optuna_tpe", "hydra.sweeper.n_trials=3"]
    for _ in range(2):  # the second time all trials are the same, and are skipped
        code, out, error = command(*words, "optimizer.rho=interval(0.01,0.3)")
        assert code == 0, error
    assert len(records("smoke")) == 3 and "3 skipped" in out
    (*_, newest) = sorted((folder / "runs" / "sweeps").rglob("optimization_results.yaml"))
    best = min(record["test_error"] for record in records("smoke").values())
    assert f"best_value: {best}" in newest.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("status", "averaged", "objective"),
    [
        ("finished", {}, 10.0),
        ("finished", {"swa": {"test_error": 8.0}}, 8.0),
        ("finished", {"a": {"test_error": 8.0}, "b": {"test_error": 7.0}}, 10.0),
        ("diverged", {}, math.inf),
    ],
)
def test_objective_is_the_error_that_a_table_shows(status, averaged, objective):
    assert objective_of({"status": status, "averaged": averaged, "test_error": 10.0}) == objective


def test_sweepers_ranges_as_a_whole_are_refused(command):
    code, _, error = command(*SWEEP, "+hydra.sweeper.params={optimizer.rho:'0.1,0.2'}")
    assert code == main.EXIT_CONFIG and error.startswith("Error: +hydra.sweeper.params") and "Traceback" not in error
