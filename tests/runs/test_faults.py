"""Tests of faults during a run: nothing computed is lost, and nothing false is recorded."""

import dataclasses
import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sam_bench.cli import compose, main
from sam_bench.data import synthetic
from sam_bench.data.batches import Batches
from sam_bench.errors import Interrupted, StateError
from sam_bench.loggers import wandb as wandb_logger
from sam_bench.optim.sharpness_aware import SharpnessAware
from sam_bench.report.table import Findings
from sam_bench.runs import checkpoint, files, run
from sam_bench.runs.checkpoint import Checkpoints
from sam_bench.runs.lock import Busy, RunLock
from sam_bench.runs.record import RunFiles
from sam_bench.runs.spec import RunSpec
from sam_bench.runtime.signals import SIGNALS, Interruption
from sam_bench.training import loop, step
from tests.conftest import ROOT, differences, everything_below, execute, last_checkpoint, lasting
from tests.forked import SERVER, Forked

#: Three epochs of four steps.
RUN = ["model=resnet8", "data.train_subset=20", "trainer.batch_size=6", "trainer.epochs=3"]

COMMAND = ["data=synthetic", *RUN, "experiment=smoke", "trainer.progress=plain"]


# Requests to end: a signal, a second one, the time limit


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_signal_saves_and_exits_resumable(command, folder, small_synthetic, interrupted, number, records):
    interrupted({5}, number)
    code, out, error = command(*COMMAND)
    assert code == main.EXIT_RESUMABLE == 75
    assert f"{number.name}: " in error
    assert "after 6 of 12 steps" in error
    assert "epoch 2/3" not in out
    assert records("smoke") == {}

    code, out, _ = command(*COMMAND)
    assert code == 0
    assert "on from epoch 1, step 2" in out
    assert len(records("smoke")) == 1


def test_earlier_handler_is_called_after_saving(tiny_run, folder, interrupted):
    calls = []

    def scheduler_handler(number, frame):
        calls.append((number, sorted(path.name[:10] for path in folder.rglob("*.pt"))))

    before = signal.signal(signal.SIGUSR2, scheduler_handler)
    try:
        interrupted({5}, signal.SIGUSR2)
        with pytest.raises(Interrupted):
            tiny_run(*RUN)
        assert calls == [(signal.SIGUSR2, ["checkpoint"])]
        assert signal.getsignal(signal.SIGUSR2) is scheduler_handler
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize(("pause", "ends"), [(1.1, True), (0.0, False)], ids=["later", "echo of the first"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_at_once(pause, ends, second):
    program = f"""
import os, signal, time
from sam_bench.runtime.signals import Interruption
with Interruption(None) as interruption:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({pause})
    os.kill(os.getpid(), {int(second)})
    print(interruption.reason)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == ((-second, "") if ends else (0, "SIGTERM\n"))


def test_handlers_without_signal_are_restored():
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption(None) as interruption:
        assert interruption.reason is None
    interruption.hand_on()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_max_minutes_exits_resumable(command, folder, small_synthetic, records):
    for _ in range(20):  # each attempt takes at least one of twelve steps
        code, _, error = command(*COMMAND, "trainer.max_minutes=1e-9")
        if code == 0:
            break
        assert code == main.EXIT_RESUMABLE
        assert "trainer.max_minutes=1e-09: " in error

    assert code == 0
    assert len(records("smoke")) == 1


def test_signal_during_finish_keeps_record(command, folder, small_synthetic, monkeypatch, records):
    finish = RunFiles.finish
    monkeypatch.setattr(
        RunFiles, "finish", lambda *arguments: os.kill(os.getpid(), signal.SIGTERM) or finish(*arguments)
    )
    code, _, error = command(*COMMAND)
    assert code == main.EXIT_RESUMABLE
    assert "is finished" in error
    assert len(records("smoke")) == 1
    assert command(*COMMAND)[0] == 0


# Checkpoints that cannot be used


def damage(path, kind: str, folder) -> None:
    """Damage a checkpoint, or put another file in its place."""
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "emptied":
        path.write_bytes(b"")
    elif kind == "one flipped bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
        if kind == "foreign":
            content = b"not a checkpoint"
        elif kind == "malicious":
            content = pickle.dumps(Payload(folder / "executed"))
        else:
            state = {"format": checkpoint.FORMAT + (kind == "future"), "run_id": "another"}
            torch.save(state, path)
            content = path.read_bytes()
            path.unlink()

        # The name holds the checksum of the new content, so another check must refuse it.
        moment = path.name.rpartition("-")[0]
        path.with_name(f"{moment}-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)


class Payload:
    """Object that creates a folder when it is unpickled carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


#: Kinds of damage, and key words of the message about each.
DAMAGES = {
    "truncated": "damaged",
    "emptied": "damaged",
    "one flipped bit": "damaged",
    "foreign": "is no checkpoint",
    "malicious": "is no checkpoint",
    "future": "newer sam_bench",
    "of another run": "belongs to the run another",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_checkpoint_falls_back_to_older(tiny_run, folder, interrupted, capsys, kind):
    undisturbed = tiny_run(*RUN, "paths.runs=undisturbed", "paths.results=undisturbed")

    interrupted({2, 5})
    for _ in range(2):
        with pytest.raises(Interrupted):
            tiny_run(*RUN)
    older, newest = sorted((folder / "runs").rglob("*.pt"))
    damage(newest, kind, folder)
    bad = sorted((folder / "runs").rglob("*.pt"))[-1]  # renamed, if the content was replaced

    record = tiny_run(*RUN, "trainer.progress=plain")
    captured = capsys.readouterr()

    assert f"{bad.name} " in captured.err
    assert DAMAGES[kind] in captured.err
    assert f"resumes from {older.name}" in captured.err
    assert "on from epoch 0, step 3" in captured.out
    assert bad.with_name(f"{bad.name}.unusable").exists()
    assert not (folder / "executed").exists()
    assert lasting(record) == lasting(undisturbed)


@pytest.mark.parametrize("kind", DAMAGES)
def test_only_checkpoint_damaged_is_refused(tiny_run, folder, interrupted, kind):
    interrupted({5})
    with pytest.raises(Interrupted):
        tiny_run(*RUN)
    (only,) = (folder / "runs").rglob("*.pt")
    damage(only, kind, folder)
    before = [name for name in everything_below(folder) if name.endswith(".pt")]

    with pytest.raises(StateError, match=f"{DAMAGES[kind]}.*No other checkpoint is left"):
        tiny_run(*RUN)
    assert [name for name in everything_below(folder) if name.endswith(".pt")] == before
    assert not (folder / "results").exists()
    assert not (folder / "executed").exists()


def test_checkpoint_of_other_data_is_refused(tiny_run, folder, interrupted, monkeypatch):
    interrupted({5})
    with pytest.raises(Interrupted):
        tiny_run(*RUN)

    load = run.load_data
    monkeypatch.setattr(run, "load_data", lambda config: dataclasses.replace(load(config), sha256="other"))
    with pytest.raises(StateError, match="other data"):
        tiny_run(*RUN)


# Kills while a checkpoint is saved

#: Functions that saving calls, and their owners.
WRITING = {"os.fsync": (os, "fsync"), "sync_folder": (files, "sync_folder"), "Path.replace": (Path, "replace")}


def run_until_killed(writing: str, *overrides: str) -> None:
    """Train until saving calls this function for the seventh time, then die of SIGKILL."""
    owner, name = WRITING[writing]
    function, calls = getattr(owner, name), itertools.count(1)

    def call_or_die(*arguments):
        if next(calls) == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    torch.set_num_threads(1)
    synthetic.TRAIN, synthetic.TEST = 200, 20
    setattr(owner, name, call_or_die)
    execute(compose.compose(["data=synthetic", "trainer.progress=none", "trainer.device=cpu", *overrides]))


@pytest.mark.parametrize("writing", WRITING)
def test_kill_while_saving_resumes_bit_for_bit(tiny_run, folder, writing):
    undisturbed = tiny_run(*RUN, "paths.runs=undisturbed", "paths.results=undisturbed")

    process = Forked(run_until_killed, writing, *RUN, "trainer.checkpoint_minutes=1e-9", cwd=folder)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    partial_files = [path for path in (folder / "runs").rglob(".checkpoint-*") if path.is_file()]
    assert len(partial_files) == (writing != "sync_folder")

    record = tiny_run(*RUN)
    assert lasting(record) == lasting(undisturbed)
    assert not [path for path in (folder / "runs").rglob(".*") if path.is_file()]


# Disks


def fail_fsync(monkeypatch, number: int, after: int) -> None:
    """Let every call of `os.fsync` after the first few fail with this error number."""
    fsync, calls = os.fsync, itertools.count(1)

    def failing_fsync(descriptor):
        if next(calls) > after:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing_fsync)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_disk_error_keeps_old_checkpoints(command, folder, small_synthetic, records, monkeypatch, number):
    with monkeypatch.context() as patch:
        fail_fsync(patch, number, after=4)
        code, _, error = command(*COMMAND, "trainer.checkpoint_minutes=1e-9")

    assert code == main.EXIT_RUN
    assert len(error.splitlines()) == 1
    assert os.strerror(number) in error

    names = [name.rpartition("/")[2] for name in everything_below(folder)]
    kept = [name[:23] for name in names if "checkpoint" in name]
    assert kept == ["checkpoint-00000-000001", "checkpoint-00000-000002"]
    assert not [name for name in names if name.startswith(".")]  # no partly written file

    code, out, _ = command(*COMMAND)
    assert code == 0
    assert "on from epoch 0, step 2" in out
    assert len(records("smoke")) == 1


def test_file_size_limit_is_one_error_line(command, folder, small_synthetic, monkeypatch):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        code, _, error = command(*COMMAND)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert code == main.EXIT_RUN
    assert len(error.strip().splitlines()) == 1
    assert os.strerror(errno.EFBIG) in error
    assert [name for name in everything_below(folder) if "checkpoint" in name] == []


def test_lost_folder_is_one_error_line(command, folder, small_synthetic, monkeypatch):
    save = Checkpoints.save

    def save_then_replace_folder(self, *arguments):
        path = save(self, *arguments)
        if len(list(self.folder.glob("*.pt"))) == 2:
            shutil.move(self.folder, self.folder.with_name("kept"))
            self.folder.write_text("a file where the folder was")
        return path

    monkeypatch.setattr(Checkpoints, "save", save_then_replace_folder)
    code, _, error = command(*COMMAND, "trainer.checkpoint_minutes=1e-9")

    assert code == main.EXIT_RUN
    assert len(error.splitlines()) == 1
    assert "cannot be written" in error
    assert len(list((folder / "runs" / "smoke" / "kept").glob("*.pt"))) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_read_only_folder_is_refused(command, folder, small_synthetic):
    (folder / "runs").mkdir(mode=0o555)
    code, _, error = command(*COMMAND)
    assert code == main.EXIT_CONFIG
    assert "no file can be created in" in error


# Losses and gradients that are not finite


def break_loss(monkeypatch, where: str, steps) -> None:
    """Make the loss of one pass of the given steps NaN, or infinite for "overflow"."""
    loss, epoch = step.batch_loss, Batches.epoch
    current = {"step": -1, "pass": 0}

    def counting_epoch(batches, number, first=0):
        for position, batch in enumerate(epoch(batches, number, first), start=first):
            current.update({"step": number * len(batches) + position, "pass": 0})
            yield batch

    def breaking_loss(logits, *arguments):
        current["pass"] += 1
        value = loss(logits, *arguments)
        is_broken_pass = current["pass"] == (1 if where == "first pass" else 2)
        if logits.requires_grad and current["step"] in steps and is_broken_pass:
            return value * (float("inf") if where == "overflow" else float("nan"))
        return value

    monkeypatch.setattr(Batches, "epoch", counting_epoch)
    monkeypatch.setattr(step, "batch_loss", breaking_loss)


@pytest.mark.parametrize("where", ["first pass", "second pass", "overflow"])
def test_non_finite_steps_are_skipped_up_to_limit(tiny_run, monkeypatch, capsys, where):
    break_loss(monkeypatch, where, {1, 5, 6})
    record = tiny_run(*RUN, "trainer.max_skipped=3")
    assert (record["status"], record["history"]["skipped_steps"]) == ("finished", [1, 2, 0])

    ended = tiny_run(*RUN, "trainer.max_skipped=2")
    assert (ended["status"], ended["diverged_epoch"], ended["epochs"]) == ("diverged", 2, 2)
    assert (ended["steps"], ended["passes"]) == (8, 16)
    assert (ended["skipped_steps"], record["diverged_epoch"]) == (3, None)
    assert "diverged in epoch 2" in capsys.readouterr().err

    # A table counts the diverged run, and leaves its error out of the mean.
    row = Findings.of([ended | {"config": record["config"], "seed": 1}, record]).as_frame().iloc[0]
    assert (row["seeds"], row["diverged"], row["test_error_mean"]) == (1, 1, record["test_error"])


@pytest.mark.parametrize("steps_for_one", [4, 5])
def test_skip_limit_grows_with_steps(tiny_run, monkeypatch, steps_for_one):
    monkeypatch.setattr("sam_bench.training.loop.MAX_SKIPPED", 1)
    monkeypatch.setattr("sam_bench.training.loop.SKIPPED_OF", steps_for_one)  # of twelve steps
    break_loss(monkeypatch, "second pass", {1, 5, 6})
    assert tiny_run(*RUN)["status"] == ("finished" if steps_for_one == 4 else "diverged")


def test_exploding_loss_ends_run_as_diverged(tiny_run):
    record = tiny_run(*RUN, "optimizer=sgd", "optimizer.base.lr=1e4", "averaging=swa")
    assert (record["status"], record["diverged_epoch"]) == ("diverged", 1)
    assert record["skipped_steps"] == 0
    assert len(record["history"]["test_error"]) == record["epochs"] == 1
    assert record["averaged"] == {}  # averaging would have begun later


# Memory


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["cuda", "cpu"],
)
def test_out_of_memory_restores_weights(command, folder, small_synthetic, monkeypatch, error):
    calls, restored, loss, take_step = itertools.count(1), [], step.batch_loss, SharpnessAware.step

    def loss_without_memory(logits, *arguments):
        if next(calls) == 6:  # the second pass of the third step
            raise error
        return loss(logits, *arguments)

    def step_and_compare_weights(optimizer, *arguments, **options):
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in weights]
        try:
            return take_step(optimizer, *arguments, **options)
        finally:
            restored[:] = [torch.equal(p, b) for p, b in zip(weights, before, strict=True)]

    monkeypatch.setattr(step, "batch_loss", loss_without_memory)
    monkeypatch.setattr(SharpnessAware, "step", step_and_compare_weights)
    code, _, message = command(*COMMAND, "trainer.checkpoint_minutes=1e-9")

    assert code == main.EXIT_RUN
    assert len(message.splitlines()) == 1
    assert "not enough memory for trainer.batch_size=6" in message
    assert "trainer.micro_batch_size=3" in message
    assert all(restored)


def test_out_of_memory_esam_has_no_micro_batches(command, folder, small_synthetic, monkeypatch):
    def run_out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step, "batch_loss", run_out_of_memory)
    code, _, error = command(*COMMAND, "optimizer=esam")

    assert code == main.EXIT_RUN
    assert "not enough memory for trainer.batch_size=6" in error
    assert "micro_batch_size" not in error


def test_out_of_memory_in_evaluation_names_setting(command, folder, small_synthetic, monkeypatch):
    def run_out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "evaluate", run_out_of_memory)
    code, _, error = command(*COMMAND)
    assert code == main.EXIT_RUN
    assert "not enough memory" in error
    assert "trainer.eval_batch_size=1000" in error


# Several processes


def test_busy_run_names_its_process(command, folder, small_synthetic, tiny_run):
    run_id = RunSpec.resolve(compose.compose(COMMAND)).run_id
    with SERVER.Pool(1) as other:
        pid = other.apply(_hold_lock, (str(folder / "runs" / "smoke" / f"{run_id}.lock"),))
        code, _, error = command(*COMMAND)
        assert code == main.EXIT_RUN
        assert run_id in error
        assert f"process {pid} on {os.uname().nodename}" in error
        assert not (folder / "results").exists()

    # The pool has killed the owner, so the run is free.
    code, _, _ = command(*COMMAND)
    assert code == 0


_locks = []  # keeps them from being released


def _hold_lock(path: str) -> int:
    """Hold a lock until this process ends; return the process's id."""
    _locks.append(RunLock(Path(path)))
    return os.getpid()


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


def _write_records(arguments) -> None:
    """Write a record with this number, and one that all processes write."""
    folder, number = arguments
    record = {"schema_version": 1, "config": {}, "seed": number, "padding": "x" * 10**5}
    for name in (f"run-{number}", "the-same"):
        RunFiles(folder / "runs", folder / "results", name).finish(record)


def test_parallel_finishes_keep_every_record(tmp_path):
    with multiprocessing.get_context("fork").Pool(8) as pool:
        pool.map(_write_records, [(tmp_path, number) for number in range(40)], chunksize=1)
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "records").glob("run-*.json")]
    assert sorted(record["seed"] for record in records) == list(range(40))
    assert len(everything_below(tmp_path / "results" / "records")) == 41  # and the one that all wrote


def test_existing_record_is_kept(tmp_path):
    record = {"schema_version": 1, "config": {}}
    run_files = RunFiles(tmp_path / "runs", tmp_path / "results", "a-run")
    run_files.finish(record | {"by": "the faster one"})
    run_files.finish(record | {"by": "the slower one"})
    assert run_files.finished()["by"] == "the faster one"


# Weights & Biases

#: A stand-in for the package: it writes its calls to a file, and fails as WANDB_FAULT ("dies log") says.
FAKE_WANDB = """
import json, os, sys, time
class Settings:
    def __init__(self, **named): pass
def note(name, value):
    with open("calls.jsonl", "a") as file:
        file.write(json.dumps((name, value)) + "\\n")
    kind, _, place = os.environ.get("WANDB_FAULT", "").partition(" ")
    if place == name:
        if kind == "refuses":
            raise ConnectionError("the server says no")
        if kind == "hangs":
            time.sleep(1000)
        if kind == "dies":
            os._exit(9)
class Run:
    starting_step = 0
    summary = type("Summary", (), {"update": lambda self, values: note("summary", values)})()
    def define_metric(self, name, **named): pass
    def log(self, values, step): note("log", values)
    def finish(self, exit_code): note("finish", exit_code)
def init(settings, **named):
    note("init", named)
    return Run()
"""


@pytest.fixture
def wandb_calls(folder, monkeypatch):
    """Install the stand-in for W&B; return a function that reads the calls it received."""
    (folder / "fake").mkdir()
    (folder / "fake" / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.setenv("PYTHONPATH", f"{folder / 'fake'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def read_calls() -> list:
        return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]

    return read_calls


MIRRORED = [*RUN, "logger=wandb", "optimizer=sgd"]


def test_wandb_receives_settings_and_results(tiny_run, wandb_calls):
    record = tiny_run(*MIRRORED, "experiment=smoke", "model=resnet8")
    (_, settings), *logged, (_, summary), (_, exit_code) = wandb_calls()

    assert (settings["group"], settings["name"]) == ("smoke", record["run_id"])
    assert settings["id"] == f"smoke-{record['run_id']}"
    assert (settings["resume"], settings["mode"]) == ("allow", "offline")
    assert [values["epoch"] for _, values in logged] == [1, 2, 3]
    assert [values["test_error"] for _, values in logged] == record["history"]["test_error"]
    assert summary["test_error"] == record["test_error"]
    assert exit_code == 0


@pytest.mark.parametrize("place", ["init", "log", "finish"])
@pytest.mark.parametrize("kind", ["refuses", "dies", "hangs"])
def test_wandb_fault_costs_only_a_warning(tiny_run, wandb_calls, monkeypatch, capfd, kind, place):
    monkeypatch.setattr(wandb_logger, "PATIENCE", 3.0)
    monkeypatch.setenv("WANDB_FAULT", f"{kind} {place}")

    alone = tiny_run(*RUN, "optimizer=sgd", "paths.runs=alone", "paths.results=alone")

    began = time.monotonic()
    record = tiny_run(*MIRRORED)
    assert time.monotonic() - began < 3.0 + 3.0

    assert lasting(record) == lasting(alone)
    assert "W&B failed" in capfd.readouterr().err


def test_missing_wandb_costs_only_a_warning(tiny_run, wandb_calls, folder, capfd):
    (folder / "fake" / "wandb.py").write_text("raise ModuleNotFoundError(\"No module named 'wandb'\")")
    assert tiny_run(*MIRRORED)["status"] == "finished"
    assert "No module named 'wandb'" in capfd.readouterr().err


def test_wandb_without_key_costs_only_a_warning(tiny_run, monkeypatch, capfd, folder):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    assert tiny_run(*MIRRORED, "logger.wandb.mode=online")["status"] == "finished"
    assert time.monotonic() - began < wandb_logger.PATIENCE + 5
    assert "W&B failed" in capfd.readouterr().err


def test_real_wandb_writes_offline_run(tiny_run, folder, capfd):
    assert tiny_run(*MIRRORED)["status"] == "finished"
    assert "W&B failed" not in capfd.readouterr().err
    assert list(folder.rglob("offline-run-*/*.wandb"))


def test_failed_run_is_marked_in_wandb(tiny_run, wandb_calls, monkeypatch):
    monkeypatch.setattr(loop, "evaluate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiny_run(*MIRRORED)
    assert wandb_calls()[-1] == ["finish", 1]


def test_run_without_logger_calls_no_wandb(tiny_run, wandb_calls, folder):
    assert tiny_run(*RUN)["status"] == "finished"
    assert not (folder / "calls.jsonl").exists()


def test_several_faults_resume_bit_for_bit(tiny_run, folder, interrupted):
    undisturbed = tiny_run(*RUN, "paths.runs=undisturbed", "paths.results=undisturbed")
    expected = torch.load(max((folder / "undisturbed").rglob("*.pt")), weights_only=True)

    with pytest.MonkeyPatch.context() as patch:
        fail_fsync(patch, errno.ENOSPC, after=4)
        with pytest.raises(StateError):
            tiny_run(*RUN, "trainer.checkpoint_minutes=1e-9")

    damage(max((folder / "runs").rglob("*.pt")), "truncated", folder)
    interrupted({1})
    with pytest.raises(Interrupted):
        tiny_run(*RUN)

    program = "import sys; from tests.runs.test_faults import run_until_killed; run_until_killed(*sys.argv[1:])"
    killed = subprocess.run(
        [sys.executable, "-c", program, "os.fsync", *RUN, "trainer.checkpoint_minutes=1e-9"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -signal.SIGKILL

    assert lasting(tiny_run(*RUN)) == lasting(undisturbed)
    assert differences(lasting(last_checkpoint(folder, undisturbed["run_id"])), lasting(expected)) == []
