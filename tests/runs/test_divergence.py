"""Tests of losses and gradients that are not finite: their steps are skipped, until the run counts as diverged."""

import pytest

from sam_bench.data.batches import Batches
from sam_bench.report.table import Findings
from sam_bench.training import step
from tests.runs.faults import SHORT, put_nan_in_batches


def break_loss(monkeypatch, where: str, steps: set[int]) -> None:
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
    finished = tiny_run(*SHORT, "trainer.max_skipped=3")
    assert (finished["status"], finished["history"]["skipped_steps"]) == ("finished", [1, 2, 0])
    assert finished["diverged_epoch"] is None

    diverged = tiny_run(*SHORT, "trainer.max_skipped=2")
    assert (diverged["status"], diverged["diverged_epoch"], diverged["epochs"]) == ("diverged", 2, 2)
    assert (diverged["steps"], diverged["passes"], diverged["skipped_steps"]) == (8, 16, 3)
    assert "diverged in epoch 2" in capsys.readouterr().err

    # A table counts the diverged run, and leaves its error out of the mean.
    other_seed = diverged | {"config": finished["config"], "seed": 1}
    row = Findings.of([other_seed, finished]).as_frame().iloc[0]
    assert (row["seeds"], row["diverged"], row["test_error_mean"]) == (1, 1, finished["test_error"])


@pytest.mark.parametrize("steps_for_one", [4, 5])
def test_skip_limit_grows_with_steps(tiny_run, monkeypatch, steps_for_one):
    monkeypatch.setattr("sam_bench.training.loop.MAX_SKIPPED", 1)
    monkeypatch.setattr("sam_bench.training.loop.SKIPPED_OF", steps_for_one)  # of twelve steps
    break_loss(monkeypatch, "second pass", {1, 5, 6})
    assert tiny_run(*SHORT)["status"] == ("finished" if steps_for_one == 4 else "diverged")


def test_nan_batch_is_skipped_and_counted(tiny_run, monkeypatch):
    put_nan_in_batches(monkeypatch, {1})
    record = tiny_run("model=resnet8", "trainer.epochs=2", "trainer.batch_size=3")
    assert record["status"] == "finished"
    assert record["history"]["skipped_steps"] == [1, 1]
    assert 0 < record["train_loss"] < 10


@pytest.mark.parametrize(
    "overrides", [["optimizer=sgd", "optimizer.base.lr=1e30"], ["optimizer=sam", "optimizer.rho=1e38"]]
)
def test_diverged_run_is_recorded(tiny_run, overrides, capsys):
    record = tiny_run("model=resnet8", "trainer.epochs=3", *overrides, "trainer.progress=plain")
    assert record["status"] == "diverged"
    assert "diverged" in capsys.readouterr().err
    assert record["skipped_steps"] == sum(record["history"]["skipped_steps"]) > 0


def test_exploding_loss_ends_run_as_diverged(tiny_run):
    record = tiny_run(*SHORT, "optimizer=sgd", "optimizer.base.lr=1e4", "averaging=swa")
    assert (record["status"], record["diverged_epoch"]) == ("diverged", 1)
    assert record["skipped_steps"] == 0
    assert len(record["history"]["test_error"]) == record["epochs"] == 1
    assert record["averaged"] == {}  # averaging would have begun later
