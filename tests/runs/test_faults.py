"""What can go wrong in a night, one test each: nothing that was computed is lost, and nothing false is recorded."""

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

RUN = ["model=resnet8", "data.train_subset=20", "trainer.batch_size=6", "trainer.epochs=3"]
"""Three epochs of four steps."""

COMMAND = ["data=synthetic", *RUN, "experiment=smoke", "trainer.progress=plain"]


# A request to end: by a signal, twice, or by the clock


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_saves_after_the_step_and_ends_with_a_code_that_says_so(
    command, folder, small_synthetic, interrupted, number, records
):
    interrupted({5}, number)
    code, out, error = command(*COMMAND)
    assert code == main.EXIT_RESUMABLE == 75
    assert f"{number.name}: " in error
    assert "is saved after 6 of 12 steps; the same command goes on from there" in error
    assert "epoch 2/3" not in out
    assert records("smoke") == {}
    code, out, _ = command(*COMMAND)
    assert code == 0
    assert "on from epoch 1, step 2" in out
    assert len(records("smoke")) == 1


def test_a_handler_from_before_is_called_once_all_is_saved(tiny_run, folder, interrupted):
    found = []

    def of_a_scheduler(number, frame):
        found.append((number, sorted(path.name[:10] for path in folder.rglob("*.pt"))))

    before = signal.signal(signal.SIGUSR2, of_a_scheduler)
    try:
        interrupted({5}, signal.SIGUSR2)
        with pytest.raises(Interrupted):
            tiny_run(*RUN)
        assert found == [(signal.SIGUSR2, ["checkpoint"])]
        assert signal.getsignal(signal.SIGUSR2) is of_a_scheduler
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize(("pause", "ends"), [(1.1, True), (0.0, False)], ids=["later", "an echo of the first"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(pause, ends, second):
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


def test_handlers_are_as_before_when_nothing_came():
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption(None) as interruption:
        assert interruption.reason is None
    interruption.hand_on()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_clock_ends_a_run_as_a_signal_does(command, folder, small_synthetic, records):
    for _ in range(20):
        code, _, error = command(*COMMAND, "trainer.max_minutes=1e-9")
        if code == 0:
            break
        assert code == main.EXIT_RESUMABLE
        assert "trainer.max_minutes=1e-09: " in error
    assert code == 0
    assert len(records("smoke")) == 1


def test_a_signal_in_the_last_moment_leaves_a_finished_run(command, folder, small_synthetic, monkeypatch, records):
    finish = RunFiles.finish
    monkeypatch.setattr(RunFiles, "finish", lambda *of: os.kill(os.getpid(), signal.SIGTERM) or finish(*of))
    code, _, error = command(*COMMAND)
    assert code == main.EXIT_RESUMABLE
    assert "is finished" in error
    assert len(records("smoke")) == 1
    assert command(*COMMAND)[0] == 0


# Checkpoints that cannot be used


def damage(path, kind: str, folder) -> None:
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
        moment = path.name.rpartition("-")[0]
        path.with_name(f"{moment}-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)


class Payload:
    """Executes a command when it is unpickled carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


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
def test_the_newest_checkpoint_that_is_sound_is_used_and_the_bad_one_is_named(
    tiny_run, folder, interrupted, capsys, kind
):
    whole = tiny_run(*RUN, "paths.runs=whole", "paths.results=whole")
    interrupted({2, 5})
    for _ in range(2):
        with pytest.raises(Interrupted):
            tiny_run(*RUN)
    older, newest = sorted((folder / "runs").rglob("*.pt"))
    damage(newest, kind, folder)
    bad = sorted((folder / "runs").rglob("*.pt"))[-1]
    record = tiny_run(*RUN, "trainer.progress=plain")
    captured = capsys.readouterr()
    assert f"{bad.name} " in captured.err
    assert DAMAGES[kind] in captured.err
    assert f"resumes from {older.name}" in captured.err
    assert "on from epoch 0, step 3" in captured.out
    assert bad.with_name(f"{bad.name}.unusable").exists()
    assert not (folder / "executed").exists()
    assert lasting(record) == lasting(whole)


@pytest.mark.parametrize("kind", DAMAGES)
def test_without_any_sound_checkpoint_it_is_an_error_never_a_fresh_start(tiny_run, folder, interrupted, kind):
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


def test_a_checkpoint_of_other_data_is_an_error(tiny_run, folder, interrupted, monkeypatch):
    interrupted({5})
    with pytest.raises(Interrupted):
        tiny_run(*RUN)
    load = run.load_data
    monkeypatch.setattr(run, "load_data", lambda config: dataclasses.replace(load(config), sha256="other"))
    with pytest.raises(StateError, match="made with other data"):
        tiny_run(*RUN)


# A process that is killed, in the midst of saving too


WRITING = {"os.fsync": (os, "fsync"), "sync_folder": (files, "sync_folder"), "Path.replace": (Path, "replace")}
"""What saving calls, and where it is to be found."""


def run_until_killed(writing: str, *overrides: str) -> None:
    """Train until saving calls something for the seventh time, and die of SIGKILL."""
    owner, name = WRITING[writing]
    work, calls = getattr(owner, name), itertools.count(1)

    def killed(*of):
        if next(calls) == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*of)

    torch.set_num_threads(1)
    synthetic.TRAIN, synthetic.TEST = 200, 20
    setattr(owner, name, killed)
    execute(compose.compose(["data=synthetic", "trainer.progress=none", "trainer.device=cpu", *overrides]))


@pytest.mark.parametrize("writing", ["os.fsync", "sync_folder", "Path.replace"])
def test_a_kill_in_the_midst_of_saving_costs_nothing_but_that_checkpoint(tiny_run, folder, writing):
    whole = tiny_run(*RUN, "paths.runs=whole", "paths.results=whole")
    process = Forked(run_until_killed, writing, *RUN, "trainer.checkpoint_minutes=1e-9", cwd=folder)
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    left = [path for path in (folder / "runs").rglob(".checkpoint-*") if path.is_file()]
    assert len(left) == (writing != "sync_folder")
    record = tiny_run(*RUN)
    assert lasting(record) == lasting(whole)
    assert not [path for path in (folder / "runs").rglob(".*") if path.is_file()]


# Disks


def failing_disk(monkeypatch, number: int, after: int) -> None:
    fsync, calls = os.fsync, []

    def failing(descriptor):
        calls.append(None)
        if len(calls) > after:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_a_full_or_failing_disk_is_one_line_and_leaves_the_old_checkpoint(
    command, folder, small_synthetic, records, monkeypatch, number
):
    with monkeypatch.context() as patch:
        failing_disk(patch, number, after=4)
        code, _, error = command(*COMMAND, "trainer.checkpoint_minutes=1e-9")
    assert code == main.EXIT_RUN
    assert len(error.splitlines()) == 1
    assert os.strerror(number) in error
    kept = [name for name in everything_below(folder) if "checkpoint" in name]
    assert [name.rpartition("/")[2][:23] for name in kept] == ["checkpoint-00000-000001", "checkpoint-00000-000002"]
    assert not [name for name in everything_below(folder) if name.rpartition("/")[2].startswith(".")]
    code, out, _ = command(*COMMAND)
    assert code == 0
    assert "on from epoch 0, step 2" in out
    assert len(records("smoke")) == 1


def test_a_limit_on_file_sizes_does_so_too(command, folder, small_synthetic, monkeypatch):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        code, _, error = command(*COMMAND)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == main.EXIT_RUN
    assert [line for line in error.splitlines() if line] == [error.strip()]
    assert os.strerror(errno.EFBIG) in error
    assert [name for name in everything_below(folder) if "checkpoint" in name] == []


def test_a_folder_that_takes_no_more_files_does_so_too(command, folder, small_synthetic, monkeypatch):
    save = Checkpoints.save

    def gone(self, *of):
        path = save(self, *of)
        if len(list(self.folder.glob("*.pt"))) == 2:
            shutil.move(self.folder, self.folder.with_name("kept"))
            self.folder.write_text("a file where the folder was")
        return path

    monkeypatch.setattr(Checkpoints, "save", gone)
    code, _, error = command(*COMMAND, "trainer.checkpoint_minutes=1e-9")
    assert code == main.EXIT_RUN
    assert len(error.splitlines()) == 1
    assert "cannot be written" in error
    assert len(list((folder / "runs" / "smoke" / "kept").glob("*.pt"))) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_refused_before_anything_is_begun(command, folder, small_synthetic):
    (folder / "runs").mkdir(mode=0o555)
    code, _, error = command(*COMMAND)
    assert code == main.EXIT_CONFIG
    assert "no file can be created in" in error


# Numbers that are none


def with_nan(monkeypatch, where: str, steps) -> None:
    """Lets a pass of the steps with these numbers come to a NaN."""
    loss, epoch = step.batch_loss, Batches.epoch
    at = {"step": -1, "pass": 0}

    def counted(batches, number, first=0):
        for position, batch in enumerate(epoch(batches, number, first), start=first):
            at.update({"step": number * len(batches) + position, "pass": 0})
            yield batch

    def broken(logits, *of):
        at["pass"] += 1
        value = loss(logits, *of)
        hit = logits.requires_grad and at["step"] in steps and at["pass"] == (1 if where == "first pass" else 2)
        return value * (float("inf") if where == "overflow" else float("nan")) if hit else value

    monkeypatch.setattr(Batches, "epoch", counted)
    monkeypatch.setattr(step, "batch_loss", broken)


@pytest.mark.parametrize("where", ["first pass", "second pass", "overflow"])
def test_a_gradient_that_is_no_number_skips_the_step_and_too_many_end_the_run(tiny_run, monkeypatch, capsys, where):
    with_nan(monkeypatch, where, {1, 5, 6})
    record = tiny_run(*RUN, "trainer.max_skipped=3")
    assert (record["status"], record["history"]["skipped_steps"]) == ("finished", [1, 2, 0])
    ended = tiny_run(*RUN, "trainer.max_skipped=2")
    assert (ended["status"], ended["diverged_epoch"], ended["epochs"]) == ("diverged", 2, 2)
    assert (ended["steps"], ended["passes"]) == (8, 16)
    assert (ended["skipped_steps"], record["diverged_epoch"]) == (3, None)
    assert "diverged in epoch 2" in capsys.readouterr().err
    row = Findings.of([ended | {"config": record["config"], "seed": 1}, record]).as_frame().iloc[0]
    assert (row["seeds"], row["diverged"], row["test_error_mean"]) == (1, 1, record["test_error"])


@pytest.mark.parametrize("steps_for_one", [4, 5])
def test_how_many_steps_may_be_skipped_grows_with_those_of_the_run(tiny_run, monkeypatch, steps_for_one):
    monkeypatch.setattr("sam_bench.training.loop.MAX_SKIPPED", 1)
    monkeypatch.setattr("sam_bench.training.loop.SKIPPED_OF", steps_for_one)  # of twelve
    with_nan(monkeypatch, "second pass", {1, 5, 6})
    assert tiny_run(*RUN)["status"] == ("finished" if steps_for_one == 4 else "diverged")


def test_a_loss_that_explodes_ends_the_run_as_diverged(tiny_run):
    record = tiny_run(*RUN, "optimizer=sgd", "optimizer.base.lr=1e4", "averaging=swa")
    assert (record["status"], record["diverged_epoch"]) == ("diverged", 1)
    assert record["skipped_steps"] == 0
    assert len(record["history"]["test_error"]) == record["epochs"] == 1
    assert record["averaged"] == {}  # it was to begin later


# Memory


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["cuda", "cpu"],
)
def test_no_memory_in_the_second_pass_restores_the_weights_and_says_what_to_change(
    command, folder, small_synthetic, monkeypatch, error
):
    calls, seen, loss, take = [], [], step.batch_loss, SharpnessAware.step

    def hungry(logits, *of):
        calls.append(None)
        if len(calls) == 6:  # the second of the third step
            raise error
        return loss(logits, *of)

    def watched(optimizer, *of, **named):
        w = [p for group in optimizer.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in w]
        try:
            return take(optimizer, *of, **named)
        finally:
            seen[:] = [torch.equal(p, b) for p, b in zip(w, before, strict=True)]

    monkeypatch.setattr(step, "batch_loss", hungry)
    monkeypatch.setattr(SharpnessAware, "step", watched)
    code, _, said = command(*COMMAND, "trainer.checkpoint_minutes=1e-9")
    assert code == main.EXIT_RUN
    assert len(said.splitlines()) == 1
    assert "not enough memory for trainer.batch_size=6" in said
    assert "trainer.micro_batch_size=3" in said
    assert all(seen)


def test_no_memory_with_esam_offers_no_micro_batches(command, folder, small_synthetic, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step, "batch_loss", fail)
    code, _, said = command(*COMMAND, "optimizer=esam")
    assert code == main.EXIT_RUN
    assert "not enough memory for trainer.batch_size=6" in said
    assert "micro_batch_size" not in said


def test_no_memory_to_evaluate_names_what_can_be_changed_there(command, folder, small_synthetic, monkeypatch):
    def hungry(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "evaluate", hungry)
    code, _, said = command(*COMMAND)
    assert code == main.EXIT_RUN
    assert "not enough memory to evaluate trainer.eval_batch_size=1000 images at once" in said


# Two processes, many processes


def test_of_two_processes_on_one_run_the_second_says_whose_it_is(command, folder, small_synthetic, tiny_run):
    run_id = RunSpec.resolve(compose.compose([*COMMAND])).run_id
    with SERVER.Pool(1) as other:
        pid = other.apply(_hold, (str(folder / "runs" / "smoke" / f"{run_id}.lock"),))
        code, _, error = command(*COMMAND)
        assert code == main.EXIT_RUN
        assert f"Error: {run_id} is being run by process {pid} on {os.uname().nodename}" in error
        assert not (folder / "results").exists()
    code, _, _ = command(*COMMAND)  # the owner was killed
    assert code == 0


_held = []


def _hold(path: str) -> int:
    _held.append(RunLock(Path(path)))
    return os.getpid()


def test_a_lock_is_free_again_when_its_owner_is_killed(tmp_path):
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


def test_a_lock_that_cannot_be_written_is_one_line_and_is_given_up(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StateError, match="No space left"):
            RunLock(tmp_path / "a.lock")
    RunLock(tmp_path / "a.lock").release()
    assert (tmp_path / "a.lock").read_text() == ""


def _finish(arguments) -> None:
    folder, number = arguments
    record = {"schema_version": 1, "config": {}, "seed": number, "padding": "x" * 10**5}
    for name in (f"run-{number}", "the-same"):
        RunFiles(folder / "runs", folder / "results", name).finish(record)


def test_many_processes_that_finish_at_once_lose_no_record(tmp_path):
    with multiprocessing.get_context("fork").Pool(8) as pool:
        pool.map(_finish, [(tmp_path, number) for number in range(40)], chunksize=1)
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "records").glob("run-*.json")]
    assert sorted(record["seed"] for record in records) == list(range(40))
    assert len(everything_below(tmp_path / "results" / "records")) == 41


def test_a_record_that_is_there_already_stays(tmp_path):
    record = {"schema_version": 1, "config": {}}
    of_run = RunFiles(tmp_path / "runs", tmp_path / "results", "a-run")
    of_run.finish(record | {"by": "the faster one"})
    of_run.finish(record | {"by": "the slower one"})
    assert of_run.finished()["by"] == "the faster one"


# Weights & Biases: a package that does as told stands in for it

FAKE_WANDB = """
import json, os, sys, time
class Settings:
    def __init__(self, **named): pass
def note(*what):
    with open("told.jsonl", "a") as file:
        file.write(json.dumps(what) + "\\n")
    kind, _, place = os.environ.get("WANDB_FAULT", "").partition(" ")
    if place == what[0]:
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
def wandb(folder, monkeypatch):
    """What W&B was told, once a run is over."""
    (folder / "fake").mkdir()
    (folder / "fake" / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.setenv("PYTHONPATH", f"{folder / 'fake'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def told() -> list:
        return [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]

    return told


MIRRORED = [*RUN, "logger=wandb", "optimizer=sgd"]


def test_a_run_is_mirrored_in_its_experiments_group(tiny_run, wandb):
    record = tiny_run(*MIRRORED, "experiment=smoke", "model=resnet8")
    (_, settings), *logged, (_, summary), (_, exit_code) = wandb()
    assert (settings["group"], settings["name"]) == ("smoke", record["run_id"])
    assert settings["id"] == f"smoke-{record['run_id']}"
    assert (settings["resume"], settings["mode"]) == ("allow", "offline")
    assert [values["epoch"] for _, values in logged] == [1, 2, 3]
    assert [values["test_error"] for _, values in logged] == record["history"]["test_error"]
    assert summary["test_error"] == record["test_error"]
    assert exit_code == 0


@pytest.mark.parametrize("place", ["init", "log", "finish"])
@pytest.mark.parametrize("kind", ["refuses", "dies", "hangs"])
def test_wandb_costs_a_warning_and_seconds_never_the_run(tiny_run, wandb, monkeypatch, capfd, kind, place):
    monkeypatch.setattr(wandb_logger, "PATIENCE", 3.0)
    monkeypatch.setenv("WANDB_FAULT", f"{kind} {place}")
    alone = tiny_run(*RUN, "optimizer=sgd", "paths.runs=alone", "paths.results=alone")
    began = time.monotonic()
    record = tiny_run(*MIRRORED)
    assert time.monotonic() - began < 3.0 + 3.0
    assert lasting(record) == lasting(alone)
    assert "W&B failed" in capfd.readouterr().err


def test_a_wandb_that_is_not_installed_costs_a_warning(tiny_run, wandb, folder, capfd):
    (folder / "fake" / "wandb.py").write_text("raise ModuleNotFoundError(\"No module named 'wandb'\")")
    assert tiny_run(*MIRRORED)["status"] == "finished"
    assert "No module named 'wandb'" in capfd.readouterr().err


def test_a_wandb_without_a_key_costs_a_warning(tiny_run, monkeypatch, capfd, folder):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    assert tiny_run(*MIRRORED, "logger.wandb.mode=online")["status"] == "finished"
    assert time.monotonic() - began < wandb_logger.PATIENCE + 5
    assert "W&B failed" in capfd.readouterr().err


def test_the_real_wandb_keeps_a_run_offline(tiny_run, folder, capfd):
    assert tiny_run(*MIRRORED)["status"] == "finished"
    assert "W&B failed" not in capfd.readouterr().err
    assert list(folder.rglob("offline-run-*/*.wandb"))


def test_a_run_that_fails_is_marked_as_failed_there(tiny_run, wandb, monkeypatch):
    monkeypatch.setattr(loop, "evaluate", lambda *of: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiny_run(*MIRRORED)
    assert wandb()[-1] == ["finish", 1]


def test_without_a_logger_nothing_is_mirrored(tiny_run, wandb, folder):
    assert tiny_run(*RUN)["status"] == "finished"
    assert not (folder / "told.jsonl").exists()


def test_it_all_ends_in_the_same_weights(tiny_run, folder, interrupted):
    """The faults above, one after another, on one run."""
    whole = tiny_run(*RUN, "paths.runs=whole", "paths.results=whole")
    expected = torch.load(max((folder / "whole").rglob("*.pt")), weights_only=True)
    with pytest.MonkeyPatch.context() as patch:
        failing_disk(patch, errno.ENOSPC, after=4)
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
    assert lasting(tiny_run(*RUN)) == lasting(whole)
    assert differences(lasting(last_checkpoint(folder, whole["run_id"])), lasting(expected)) == []
