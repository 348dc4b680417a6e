"""Tests of runs that take several attempts: their times, their code and their missing steps."""

import time
from importlib import metadata

import pytest
import torch

from sam_bench.errors import Interrupted
from sam_bench.runs import run
from sam_bench.runs.checkpoint import Checkpoints
from sam_bench.training.step import Step
from tests.conftest import lasting
from tests.runs.faults import SHORT, run_until_finished


def test_saving_does_not_count_as_training(tiny_run, monkeypatch):
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda *arguments: time.sleep(0.2) or save(*arguments))
    record = tiny_run(*SHORT, "optimizer=sgd", "trainer.checkpoint_minutes=1e-9")
    assert record["train_seconds"] < 12 * 0.2


def test_train_seconds_of_attempts_add_up(tiny_run, interrupted, monkeypatch):
    take_step = Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda *arguments: time.sleep(0.05) or take_step(*arguments))
    interrupted({1, 4, 8})
    record, restarts = run_until_finished(tiny_run, *SHORT)
    assert restarts == 3
    assert all(seconds > 4 * 0.05 for seconds in record["history"]["train_seconds"])


def test_interrupted_rerun_resumes(tiny_run, folder, interrupted):
    overrides = [*SHORT, "trainer.rerun=true"]
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
        tiny_run(*SHORT)

    record = tiny_run(*SHORT)
    assert record["earlier_code"] == ([changed] if changed else [])
    assert record["versions"]["torch"] == metadata.version("torch")
    assert ("have changed" in capsys.readouterr().err) == bool(changed)


def test_changed_thread_count_warns(tiny_run, interrupted, capsys):
    interrupted({5})
    with pytest.raises(Interrupted):
        tiny_run(*SHORT)

    torch.set_num_threads(2)
    tiny_run(*SHORT)
    assert "rounding errors" in capsys.readouterr().err


def test_resume_takes_only_missing_steps(tiny_run, interrupted, monkeypatch):
    interrupted({10})
    with pytest.raises(Interrupted):
        tiny_run(*SHORT)

    take_step, steps = Step.__call__, []
    monkeypatch.setattr(Step, "__call__", lambda *arguments: steps.append(None) or take_step(*arguments))
    tiny_run(*SHORT)
    assert len(steps) == 1
