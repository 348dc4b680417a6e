"""A run that was interrupted, wherever and however often, ends as one that never was: bit for bit."""

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

BASE = ["model=resnet8", "data.train_subset=20", "trainer.batch_size=6", "trainer.epochs=3"]
"""Three epochs of four steps, the last of which is smaller."""

AVERAGING = {"gsam": "swa", "wasam": "swa", "looksam": "ema", "fsam": "ema", "sgd": "ema", "vasso": "swa"}
BF16 = ["trainer.precision=bf16"]
PRECISION = {"looksam": FP16, "gsam": FP16, "sgd": FP16, "esam": BF16, "wsam": BF16, "msam": BF16}


def overrides_for(optimizer: str) -> list[str]:
    starts = ["averaging.starts=[0.0,0.5]"] if AVERAGING.get(optimizer) == "swa" else []
    precision = PRECISION.get(optimizer, ["trainer.precision=fp32"])
    return [*BASE, *precision, f"optimizer={optimizer}", f"averaging={AVERAGING.get(optimizer, 'none')}", *starts]


def put_away(folder) -> None:
    """Let the run that was left alone be out of the way of the next."""
    for name in ("results", "runs"):
        (folder / name).rename(folder / f"{name}_whole")


def run_to_the_end(tiny_run, *overrides: str) -> tuple[dict, int]:
    """The record, and how often the run had to be started again."""
    for times in range(100):
        try:
            return tiny_run(*overrides), times
        except Interrupted:
            torch.manual_seed(times)  # whatever generator a new process would have
    raise AssertionError("it never ends")


@pytest.fixture
def ends_the_same(tiny_run, folder, interrupted):
    """Asserts that a run which is interrupted after some of its steps ends as if left alone; returns its record."""

    def check(*overrides: str, after: Collection[int] = range(12), experiment: str = "default") -> dict:
        whole = tiny_run(*overrides)
        expected = last_checkpoint(folder, whole["run_id"], experiment)
        put_away(folder)
        interrupted(after)
        record, times = run_to_the_end(tiny_run, *overrides)
        assert times == len(after)
        assert lasting(record) == lasting(whole)
        assert differences(lasting(last_checkpoint(folder, record["run_id"], experiment)), lasting(expected)) == []
        return whole

    return check


@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_a_run_interrupted_after_every_step_ends_as_one_that_never_was(ends_the_same, optimizer):
    whole = ends_the_same(*overrides_for(optimizer))
    assert whole["status"] == "finished" and whole["skipped_steps"] < 6  # most of the twelve, in half precision too


def test_a_run_interrupted_while_its_sharpness_is_measured_ends_as_one_that_never_was(ends_the_same):
    little = ["analysis.images=10", "analysis.eigenvalues=0", "analysis.trace_vectors=2", "analysis.sigmas=[0.01]"]
    whole = ends_the_same(*overrides_for("sam"), "analysis=sharpness", "analysis.every=1", *little, after=(3, 4, 9))
    assert None not in whole["history"]["analysis_trace"]


@pytest.mark.parametrize("optimizer", ["fsam", "looksam", "sampa", "bsam"])
def test_a_run_whose_method_begins_late_is_interrupted_anywhere_and_ends_the_same(ends_the_same, optimizer):
    ends_the_same(*BASE, f"optimizer={optimizer}", "optimizer.start_at=0.5")


@pytest.mark.parametrize("base", ["muon", "schedule_free"])
@pytest.mark.parametrize("optimizer", ["sgd", "gsam"])
def test_a_base_of_more_than_one_rule_is_interrupted_anywhere_and_ends_the_same(ends_the_same, optimizer, base):
    ends_the_same(*BASE, "model=resnet8", f"optimizer={optimizer}", f"optimizer/base={base}", after={0, 3, 4, 7, 8})


@pytest.mark.parametrize("optimizer", ["sgd", "sam"])
def test_resumed_airbench94_ends_bit_for_bit(ends_the_same, optimizer):
    overrides = ["experiment=airbench94", "trainer.batch_size=6", "trainer.epochs=4", "trainer.freeze_after=2"]
    steps = ["data.train_subset=20", "trainer.eval_batch_size=20", f"optimizer={optimizer}"]
    whole = ends_the_same(*overrides, *steps, after={0, 3, 4, 5, 8, 11}, experiment="airbench94")
    assert whole["steps"] == 12 and whole["test_error_tta"] is not None


@pytest.mark.parametrize("averaging", ["none", "swa", "ema"])
def test_a_network_that_draws_goes_on_with_the_same_draws(ends_the_same, averaging):
    # mobilenet drops features by chance, from torch's own generator
    overrides = [*BASE, "model=torchvision", "model.arch=mobilenet_v3_small", f"averaging={averaging}"]
    ends_the_same(*overrides, after={0, 5, 9})


def test_a_run_that_skips_steps_goes_on_counting(ends_the_same, monkeypatch):
    epoch = Batches.epoch

    def with_bad_ones(batches, number, first=0):
        for position, batch in enumerate(epoch(batches, number, first), start=first):
            yield replace(batch, images=batch.images * float("nan")) if position in (1, 2) else batch

    monkeypatch.setattr(Batches, "epoch", with_bad_ones)
    whole = ends_the_same(*BASE, "optimizer=looksam", "averaging=ema")
    assert whole["history"]["skipped_steps"] == [2, 2, 2]


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [(Step, "read", 2), (Averages, "after_epoch", 2), (loop, "evaluate", 2), (Averages, "evaluate", 1)],
    ids=["reading the totals", "averaging", "evaluating", "evaluating an average"],
)
def test_what_ends_outside_of_a_step_is_done_again(tiny_run, folder, monkeypatch, owner, name, call):
    overrides = [*BASE, "averaging=ema", "trainer.checkpoint_every=1"]
    whole = tiny_run(*overrides)
    put_away(folder)
    work, calls = getattr(owner, name), itertools.count(1)

    def breaking(*arguments):
        if next(calls) == call:
            raise RuntimeError("the machine is gone")
        return work(*arguments)

    monkeypatch.setattr(owner, name, breaking)
    with pytest.raises(RuntimeError, match="gone"):
        tiny_run(*overrides)
    assert "the machine is gone" in (folder / "runs" / "default" / whole["run_id"] / "failure.txt").read_text()
    assert lasting(tiny_run(*overrides)) == lasting(whole)
    assert not (folder / "runs" / "default" / whole["run_id"] / "failure.txt").exists()


def test_checkpoints_come_by_epochs_and_by_minutes_and_two_are_kept(tiny_run, folder, monkeypatch):
    save, saved = Checkpoints.save, []
    monkeypatch.setattr(Checkpoints, "save", lambda self, *of: saved.append(of[:2]) or save(self, *of))
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


def test_a_file_that_no_run_has_written_stays_where_it_is(tiny_run, folder, interrupted):
    interrupted({5})
    with pytest.raises(Interrupted):
        tiny_run(*BASE, "trainer.checkpoint_every=1")
    (checkpoints,) = {path.parent for path in folder.rglob("checkpoint-*.pt")}
    mine = checkpoints / "checkpoint-best.pt"
    mine.write_text("mine")
    run_to_the_end(tiny_run, *BASE, "trainer.checkpoint_every=1")
    assert mine.read_text() == "mine"
    assert len(list(checkpoints.glob("*.pt"))) == 3


def test_a_pause_to_save_does_not_count_as_training(tiny_run, monkeypatch):
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, *of: time.sleep(0.2) or save(self, *of))
    record = tiny_run(*BASE, "optimizer=sgd", "trainer.checkpoint_minutes=1e-9")
    assert record["train_seconds"] < 12 * 0.2


def test_the_time_of_interrupted_attempts_adds_up(tiny_run, interrupted, monkeypatch):
    call = Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda *of: time.sleep(0.05) or call(*of))
    interrupted({1, 4, 8})
    record, times = run_to_the_end(tiny_run, *BASE)
    assert times == 3
    assert all(seconds > 4 * 0.05 for seconds in record["history"]["train_seconds"])


def test_a_rerun_that_is_interrupted_goes_on_too(tiny_run, folder, interrupted):
    overrides = [*BASE, "trainer.rerun=true"]
    first = tiny_run(*overrides)
    interrupted({5})
    record, times = run_to_the_end(tiny_run, *overrides)
    assert times == 1
    assert lasting(record) == lasting(first)
    assert len(list((folder / "results" / "default" / "records" / "superseded").iterdir())) == 1


@pytest.mark.parametrize(
    "changed", [{"versions": {"torch": "0.1"}, "git_commit": None}, None], ids=["other code", "the same code"]
)
def test_a_record_names_all_code_that_it_was_made_with(tiny_run, interrupted, monkeypatch, changed, capsys):
    interrupted({5})
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        if changed:
            patch.setattr(run, "code_versions", lambda *_: changed)
        tiny_run(*BASE)
    record = tiny_run(*BASE)
    assert record["earlier_code"] == ([changed] if changed else [])
    assert record["versions"]["torch"] == metadata.version("torch")
    assert ("code or its libraries have changed" in capsys.readouterr().err) == bool(changed)


def test_another_number_of_threads_is_told(tiny_run, interrupted, capsys):
    interrupted({5})
    with pytest.raises(Interrupted):
        tiny_run(*BASE)
    torch.set_num_threads(2)
    tiny_run(*BASE)
    assert "OMP_NUM_THREADS=1 keeps them" in capsys.readouterr().err


def test_an_interruption_in_a_later_epoch_needs_no_replay(tiny_run, interrupted, monkeypatch):
    interrupted({10})
    with pytest.raises(Interrupted):
        tiny_run(*BASE)
    call, steps = Step.__call__, []
    monkeypatch.setattr(Step, "__call__", lambda *of: steps.append(None) or call(*of))
    tiny_run(*BASE)
    assert len(steps) == 1


def take_part(how: str, at: int, *overrides: str) -> None:
    """Do a run as one of several processes; all but the main one are sent a signal in a step.

    Args:
        how: what else happens.
        at: the step's number; -1 for none.
    """
    take, save, make_record = Step.__call__, Checkpoints.save, run.make_record
    leads = os.environ["RANK"] == "0"
    steps = itertools.count()

    def step(*of):
        if next(steps) == at and not leads:
            os.kill(os.getpid(), signal.SIGUSR2)
        take(*of)

    def slowly(*of):
        time.sleep(3)
        return save(*of)

    def full(*of):
        raise UserError("the disk is full")

    def at_the_end(*of):
        if not leads:
            os.kill(os.getpid(), signal.SIGTERM)
        return make_record(*of)

    Step.__call__ = step
    if how == "slow disk":
        Checkpoints.save = slowly
    if how == "full disk":
        Checkpoints.save = full
    if how == "last moment":
        run.make_record = at_the_end
    try:
        execute(compose.compose(list(overrides)))
    except Interrupted as error:
        print("stopped:", error)
        sys.exit(main.EXIT_RESUMABLE)
    except UserError as error:
        print("failed:", type(error).__name__, error)


SHARED = ["experiment=smoke", "optimizer=looksam", "averaging=swa", "data.train_subset=60", "trainer.batch_size=20",
          "trainer.device=cpu", "trainer.progress=none"]  # fmt: skip


def in_folder(name: str) -> list[str]:
    return [*SHARED, f"paths.runs={name}/runs", f"paths.results={name}/results"]


def by_torchrun(folder, how: str, at: int, *overrides: str) -> str:
    """What two processes print that torchrun starts."""
    program = "import sys; from tests.runs.test_resume import take_part; "
    (folder / "program.py").write_text(program + "take_part(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "program.py"]
    done = subprocess.run(
        [*command, how, str(at), *overrides],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert "Connection closed" not in done.stderr, done.stderr
    return done.stdout


def test_processes_that_share_a_run_stop_together_and_go_on_to_the_same_end(tmp_path):
    assert side_by_side(take_part, "", -1, *in_folder("whole"), cwd=tmp_path) == [(0, ""), (0, "")]
    said = by_torchrun(tmp_path, "slow disk", 1, *in_folder("broken"))
    assert said.count("stopped:") >= 1  # torchrun ends the other, which has saved
    assert len(list((tmp_path / "broken").rglob("checkpoint-*.pt"))) >= 1
    ends = side_by_side(take_part, "", 2, *in_folder("broken"), cwd=tmp_path)
    assert [(code, said.count("stopped:")) for code, said in ends] == [(main.EXIT_RESUMABLE, 1)] * 2
    assert side_by_side(take_part, "", -1, *in_folder("broken"), cwd=tmp_path) == [(0, ""), (0, "")]
    name = next((tmp_path / "whole" / "runs" / "smoke").glob("*.lock")).stem
    whole, broken = (last_checkpoint(tmp_path / where, name, "smoke") for where in ("whole", "broken"))
    assert differences(lasting(broken), lasting(whole)) == []


def test_processes_that_share_a_run_fail_together(tmp_path):
    ends = side_by_side(take_part, "full disk", -1, *in_folder("full"), cwd=tmp_path)
    assert ends == [
        (0, "failed: UserError the disk is full\n"),
        (0, "failed: MainProcessFailed UserError: the disk is full\n"),
    ]


def test_processes_that_share_a_run_agree_on_a_signal_in_the_last_moment(tmp_path):
    ends = side_by_side(take_part, "last moment", -1, *in_folder("late"), cwd=tmp_path)
    assert all(code == main.EXIT_RESUMABLE and "is finished" in said for code, said in ends)
    assert len(list((tmp_path / "late").rglob("records/*.json"))) == 1


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_a_deterministic_run_on_the_gpu_does_so_too(
    request, folder, small_synthetic, interrupted, optimizer, precision
):
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    overrides = [*TINY, *overrides_for(optimizer), "trainer.device=cuda", "trainer.deterministic=true"]
    overrides += [f"trainer.precision={precision}"]
    whole = execute(compose.compose(overrides))
    expected = last_checkpoint(folder, whole["run_id"])
    put_away(folder)
    interrupted({0, 3, 7})
    record, _ = run_to_the_end(lambda *of: execute(compose.compose(list(of))), *overrides)
    assert lasting(record) == lasting(whole)
    assert differences(lasting(last_checkpoint(folder, record["run_id"])), lasting(expected)) == []
