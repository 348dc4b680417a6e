"""Tests that an interrupted run, once resumed, ends bit for bit as an uninterrupted one."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from importlib import metadata

import pytest
import torch

from sam_bench.cli import compose, main
from sam_bench.data.batches import Batches
from sam_bench.errors import Interrupted, UserError
from sam_bench.runs import run
from sam_bench.runs.checkpoint import Checkpoints
from sam_bench.training import loop
from sam_bench.training.averages import Averages
from sam_bench.training.step import Step
from tests.conftest import FP16, ROOT, TINY, differences, execute, last_checkpoint, lasting, options
from tests.forked import side_by_side

#: Three epochs of four steps; the fourth step's batch is smaller.
BASE = ["model=resnet8", "data.train_subset=20", "trainer.batch_size=6", "trainer.epochs=3"]

AVERAGING = {"gsam": "swa", "wasam": "swa", "looksam": "ema", "fsam": "ema", "sgd": "ema", "vasso": "swa"}
BF16 = ["trainer.precision=bf16"]
PRECISION = {"looksam": FP16, "gsam": FP16, "sgd": FP16, "esam": BF16, "wsam": BF16, "msam": BF16}


def overrides_for(optimizer: str) -> list[str]:
    """Return the settings of a short run with this optimizer, its averaging and its precision."""
    starts = ["averaging.starts=[0.0,0.5]"] if AVERAGING.get(optimizer) == "swa" else []
    precision = PRECISION.get(optimizer, ["trainer.precision=fp32"])
    return [*BASE, *precision, f"optimizer={optimizer}", f"averaging={AVERAGING.get(optimizer, 'none')}", *starts]


def set_aside(folder) -> None:
    """Rename the folders of a run, so that the same run starts afresh."""
    for name in ("results", "runs"):
        (folder / name).rename(folder / f"{name}_whole")


def run_until_finished(tiny_run, *overrides: str) -> tuple[dict, int]:
    """Start a run again after each interruption; return its record and the number of restarts."""
    for restarts in range(100):
        try:
            return tiny_run(*overrides), restarts
        except Interrupted:
            torch.manual_seed(restarts)  # a new process would have another state of the generator too
    raise AssertionError("the run never ends")


@pytest.fixture
def check_resume(tiny_run, folder, interrupted):
    """Return a function that checks that a run interrupted after some of its steps ends as an uninterrupted one."""

    def check(*overrides: str, after: Collection[int] = range(12), experiment: str = "default") -> dict:
        whole = tiny_run(*overrides)
        expected = last_checkpoint(folder, whole["run_id"], experiment)
        set_aside(folder)

        interrupted(after)
        record, restarts = run_until_finished(tiny_run, *overrides)

        assert restarts == len(after)
        assert lasting(record) == lasting(whole)
        assert differences(lasting(last_checkpoint(folder, record["run_id"], experiment)), lasting(expected)) == []
        return whole

    return check


@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_resume_after_every_step_is_bit_for_bit(check_resume, optimizer):
    whole = check_resume(*overrides_for(optimizer))
    assert whole["status"] == "finished" and whole["skipped_steps"] < 6  # of twelve, also in half precision


def test_resume_with_analysis_is_bit_for_bit(check_resume):
    little = ["analysis.images=10", "analysis.eigenvalues=0", "analysis.trace_vectors=2", "analysis.sigmas=[0.01]"]
    whole = check_resume(*overrides_for("sam"), "analysis=sharpness", "analysis.every=1", *little, after=(3, 4, 9))
    assert None not in whole["history"]["analysis_trace"]


@pytest.mark.parametrize("optimizer", ["fsam", "looksam", "sampa", "bsam"])
def test_resume_with_late_start_is_bit_for_bit(check_resume, optimizer):
    check_resume(*BASE, f"optimizer={optimizer}", "optimizer.start_at=0.5")


@pytest.mark.parametrize("base", ["muon", "schedule_free"])
@pytest.mark.parametrize("optimizer", ["sgd", "gsam"])
def test_resume_with_other_base_is_bit_for_bit(check_resume, optimizer, base):
    check_resume(*BASE, "model=resnet8", f"optimizer={optimizer}", f"optimizer/base={base}", after={0, 3, 4, 7, 8})


@pytest.mark.parametrize("optimizer", ["sgd", "sam"])
def test_resume_of_airbench94_is_bit_for_bit(check_resume, optimizer):
    overrides = ["experiment=airbench94", "trainer.batch_size=6", "trainer.epochs=4", "trainer.freeze_after=2"]
    steps = ["data.train_subset=20", "trainer.eval_batch_size=20", f"optimizer={optimizer}"]
    whole = check_resume(*overrides, *steps, after={0, 3, 4, 5, 8, 11}, experiment="airbench94")
    assert whole["steps"] == 12 and whole["test_error_tta"] is not None


@pytest.mark.parametrize("averaging", ["none", "swa", "ema"])
def test_resume_with_dropout_is_bit_for_bit(check_resume, averaging):
    # MobileNet has dropout, which draws from torch's own generator.
    overrides = [*BASE, "model=torchvision", "model.arch=mobilenet_v3_small", f"averaging={averaging}"]
    check_resume(*overrides, after={0, 5, 9})


def test_resume_keeps_count_of_skipped_steps(check_resume, monkeypatch):
    epoch = Batches.epoch

    def epoch_with_nan(batches, number, first=0):
        for position, batch in enumerate(epoch(batches, number, first), start=first):
            yield replace(batch, images=batch.images * float("nan")) if position in (1, 2) else batch

    monkeypatch.setattr(Batches, "epoch", epoch_with_nan)
    whole = check_resume(*BASE, "optimizer=looksam", "averaging=ema")
    assert whole["history"]["skipped_steps"] == [2, 2, 2]


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [(Step, "read", 2), (Averages, "after_epoch", 2), (loop, "evaluate", 2), (Averages, "evaluate", 1)],
    ids=["reading the totals", "averaging", "evaluating", "evaluating an average"],
)
def test_resume_after_failure_outside_a_step(tiny_run, folder, monkeypatch, owner, name, call):
    overrides = [*BASE, "averaging=ema", "trainer.checkpoint_every=1"]
    whole = tiny_run(*overrides)
    set_aside(folder)
    function, calls = getattr(owner, name), itertools.count(1)

    def fail_once(*arguments):
        if next(calls) == call:
            raise RuntimeError("the machine is gone")
        return function(*arguments)

    monkeypatch.setattr(owner, name, fail_once)
    with pytest.raises(RuntimeError, match="gone"):
        tiny_run(*overrides)
    failure = folder / "runs" / "default" / whole["run_id"] / "failure.txt"
    assert "the machine is gone" in failure.read_text()

    assert lasting(tiny_run(*overrides)) == lasting(whole)
    assert not failure.exists()


def test_checkpoints_follow_epochs_and_minutes(tiny_run, folder, monkeypatch):
    save, saved = Checkpoints.save, []
    monkeypatch.setattr(Checkpoints, "save", lambda self, *at: saved.append(at[:2]) or save(self, *at))
    never = "trainer.checkpoint_minutes=null"

    tiny_run(*BASE, "trainer.checkpoint_every=2", never)
    assert saved == [(2, 0), (3, 0)]

    saved.clear()
    tiny_run(*BASE, "seed=1", "trainer.checkpoint_every=null", never)
    assert saved == [(3, 0)]

    saved.clear()
    record = tiny_run(*BASE, "seed=2", "trainer.checkpoint_every=null", "trainer.checkpoint_minutes=1e-9")
    assert saved == sorted([(e, p) for e in range(3) for p in (1, 2, 3, 4)] + [(1, 0), (2, 0), (3, 0)])
    kept = sorted(path.name[:23] for path in (folder / "runs" / "default" / record["run_id"]).glob("*.pt"))
    assert kept == ["checkpoint-00002-000004", "checkpoint-00003-000000"]


def test_users_file_among_checkpoints_is_kept(tiny_run, folder, interrupted):
    interrupted({5})
    with pytest.raises(Interrupted):
        tiny_run(*BASE, "trainer.checkpoint_every=1")
    (checkpoints,) = {path.parent for path in folder.rglob("checkpoint-*.pt")}
    users_file = checkpoints / "checkpoint-best.pt"
    users_file.write_text("the user's")

    run_until_finished(tiny_run, *BASE, "trainer.checkpoint_every=1")
    assert users_file.read_text() == "the user's"
    assert len(list(checkpoints.glob("*.pt"))) == 3


def test_saving_does_not_count_as_training(tiny_run, monkeypatch):
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda *arguments: time.sleep(0.2) or save(*arguments))
    record = tiny_run(*BASE, "optimizer=sgd", "trainer.checkpoint_minutes=1e-9")
    assert record["train_seconds"] < 12 * 0.2


def test_train_seconds_of_attempts_add_up(tiny_run, interrupted, monkeypatch):
    call = Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda *arguments: time.sleep(0.05) or call(*arguments))
    interrupted({1, 4, 8})
    record, restarts = run_until_finished(tiny_run, *BASE)
    assert restarts == 3
    assert all(seconds > 4 * 0.05 for seconds in record["history"]["train_seconds"])


def test_interrupted_rerun_resumes(tiny_run, folder, interrupted):
    overrides = [*BASE, "trainer.rerun=true"]
    first = tiny_run(*overrides)

    interrupted({5})
    record, restarts = run_until_finished(tiny_run, *overrides)
    assert restarts == 1

    assert lasting(record) == lasting(first)
    assert len(list((folder / "results" / "default" / "records" / "superseded").iterdir())) == 1


@pytest.mark.parametrize(
    "changed", [{"versions": {"torch": "0.1"}, "git_commit": None}, None], ids=["other code", "same code"]
)
def test_record_names_code_of_all_attempts(tiny_run, interrupted, monkeypatch, changed, capsys):
    interrupted({5})
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        if changed:
            patch.setattr(run, "code_versions", lambda *_: changed)
        tiny_run(*BASE)

    record = tiny_run(*BASE)
    assert record["earlier_code"] == ([changed] if changed else [])
    assert record["versions"]["torch"] == metadata.version("torch")
    assert ("have changed" in capsys.readouterr().err) == bool(changed)


def test_changed_thread_count_is_warned_of(tiny_run, interrupted, capsys):
    interrupted({5})
    with pytest.raises(Interrupted):
        tiny_run(*BASE)

    torch.set_num_threads(2)
    tiny_run(*BASE)
    assert "rounding errors" in capsys.readouterr().err


def test_resume_takes_only_missing_steps(tiny_run, interrupted, monkeypatch):
    interrupted({10})
    with pytest.raises(Interrupted):
        tiny_run(*BASE)

    call, steps = Step.__call__, []
    monkeypatch.setattr(Step, "__call__", lambda *arguments: steps.append(None) or call(*arguments))
    tiny_run(*BASE)
    assert len(steps) == 1


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


SHARED = ["experiment=smoke", "optimizer=looksam", "averaging=swa", "data.train_subset=60", "trainer.batch_size=20",
          "trainer.device=cpu", "trainer.progress=none"]  # fmt: skip


def overrides_in(name: str) -> list[str]:
    """Return the settings of the shared run, with its files in a folder of this name."""
    return [*SHARED, f"paths.runs={name}/runs", f"paths.results={name}/results"]


def torchrun(folder, fault: str, signal_step: int, *overrides: str) -> str:
    """Train in two processes of torchrun; return what they print."""
    program = "import sys; from tests.runs.test_resume import train_in_group; "
    (folder / "program.py").write_text(program + "train_in_group(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "program.py"]
    done = subprocess.run(
        [*command, fault, str(signal_step), *overrides],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert "Connection closed" not in done.stderr, done.stderr
    return done.stdout


def test_processes_stop_and_resume_together(tmp_path):
    assert side_by_side(train_in_group, "", -1, *overrides_in("whole"), cwd=tmp_path) == [(0, ""), (0, "")]

    # Both have saved, but when one has ended, torchrun ends the other, which may not have printed yet.
    output = torchrun(tmp_path, "slow disk", 1, *overrides_in("resumed"))
    assert output.count("stopped:") >= 1
    assert len(list((tmp_path / "resumed").rglob("checkpoint-*.pt"))) >= 1

    # Without torchrun both print that they have stopped.
    ends = side_by_side(train_in_group, "", 2, *overrides_in("resumed"), cwd=tmp_path)
    assert [(code, output.count("stopped:")) for code, output in ends] == [(main.EXIT_RESUMABLE, 1)] * 2

    assert side_by_side(train_in_group, "", -1, *overrides_in("resumed"), cwd=tmp_path) == [(0, ""), (0, "")]
    name = next((tmp_path / "whole" / "runs" / "smoke").glob("*.lock")).stem
    whole, resumed = (last_checkpoint(tmp_path / folder, name, "smoke") for folder in ("whole", "resumed"))
    assert differences(lasting(resumed), lasting(whole)) == []


def test_processes_fail_together(tmp_path):
    ends = side_by_side(train_in_group, "full disk", -1, *overrides_in("full"), cwd=tmp_path)
    assert ends == [
        (0, "failed: UserError the disk is full\n"),
        (0, "failed: MainProcessFailed UserError: the disk is full\n"),
    ]


def test_processes_agree_on_late_signal(tmp_path):
    ends = side_by_side(train_in_group, "late signal", -1, *overrides_in("late"), cwd=tmp_path)
    assert all(code == main.EXIT_RESUMABLE and "is finished" in output for code, output in ends)
    assert len(list((tmp_path / "late").rglob("records/*.json"))) == 1


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_deterministic_resume_on_gpu_is_bit_for_bit(
    request, folder, small_synthetic, interrupted, optimizer, precision
):
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    overrides = [*TINY, *overrides_for(optimizer), "trainer.device=cuda", "trainer.deterministic=true"]
    overrides += [f"trainer.precision={precision}"]

    whole = execute(compose.compose(overrides))
    expected = last_checkpoint(folder, whole["run_id"])
    set_aside(folder)

    interrupted({0, 3, 7})
    record, _ = run_until_finished(lambda *chosen: execute(compose.compose(list(chosen))), *overrides)

    assert lasting(record) == lasting(whole)
    assert differences(lasting(last_checkpoint(folder, record["run_id"])), lasting(expected)) == []
