"""Tests that an interrupted run, once resumed, ends bit for bit as an uninterrupted one."""

import itertools
from collections.abc import Collection
from pathlib import Path

import pytest
import torch

from sam_bench.cli import compose
from sam_bench.training import loop
from sam_bench.training.averages import Averages
from sam_bench.training.step import Step
from tests.conftest import FP16, TINY, differences, execute, last_checkpoint, lasting, options
from tests.runs.faults import SHORT, put_nan_in_batches, run_until_finished

#: Averaging and precision by method, where they are not "none" and fp32.
AVERAGING = {"gsam": "swa", "wasam": "swa", "looksam": "ema", "fsam": "ema", "sgd": "ema", "vasso": "swa"}
BF16 = ["trainer.precision=bf16"]
PRECISION = {"looksam": FP16, "gsam": FP16, "sgd": FP16, "esam": BF16, "wsam": BF16, "msam": BF16}


def overrides_for(optimizer: str) -> list[str]:
    """Return the settings of a short run with this optimizer, its averaging and its precision."""
    starts = ["averaging.starts=[0.0,0.5]"] if AVERAGING.get(optimizer) == "swa" else []
    precision = PRECISION.get(optimizer, ["trainer.precision=fp32"])
    return [*SHORT, *precision, f"optimizer={optimizer}", f"averaging={AVERAGING.get(optimizer, 'none')}", *starts]


def rename_folders(folder: Path) -> None:
    """Rename the folders of a run, so that the same run starts afresh."""
    for name in ("results", "runs"):
        (folder / name).rename(folder / f"{name}_whole")


@pytest.fixture
def check_resume(tiny_run, folder, interrupted):
    """Return a function that checks that a run interrupted after some of its steps ends as an uninterrupted one."""

    def check(*overrides: str, after: Collection[int] = range(12), experiment: str = "default") -> dict:
        whole = tiny_run(*overrides)
        expected = last_checkpoint(folder, whole["run_id"], experiment)
        rename_folders(folder)

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
    assert whole["status"] == "finished"
    assert whole["skipped_steps"] < 6  # of twelve, also in half precision


def test_resume_with_analysis_is_bit_for_bit(check_resume):
    little = ["analysis.images=10", "analysis.eigenvalues=0", "analysis.trace_vectors=2", "analysis.sigmas=[0.01]"]
    whole = check_resume(*overrides_for("sam"), "analysis=sharpness", "analysis.every=1", *little, after=(3, 4, 9))
    assert None not in whole["history"]["analysis_trace"]


@pytest.mark.parametrize("optimizer", ["fsam", "looksam", "sampa", "bsam"])
def test_resume_with_late_start_is_bit_for_bit(check_resume, optimizer):
    check_resume(*SHORT, f"optimizer={optimizer}", "optimizer.start_at=0.5")


@pytest.mark.parametrize("base", ["muon", "schedule_free"])
@pytest.mark.parametrize("optimizer", ["sgd", "gsam"])
def test_resume_with_other_base_is_bit_for_bit(check_resume, optimizer, base):
    check_resume(*SHORT, f"optimizer={optimizer}", f"optimizer/base={base}", after={0, 3, 4, 7, 8})


@pytest.mark.parametrize("optimizer", ["sgd", "sam"])
def test_resume_of_airbench94_is_bit_for_bit(check_resume, optimizer):
    overrides = ["experiment=airbench94", "trainer.batch_size=6", "trainer.epochs=4", "trainer.freeze_after=2"]
    steps = ["data.train_subset=20", "trainer.eval_batch_size=20", f"optimizer={optimizer}"]
    whole = check_resume(*overrides, *steps, after={0, 3, 4, 5, 8, 11}, experiment="airbench94")
    assert whole["steps"] == 12 and whole["test_error_tta"] is not None


@pytest.mark.parametrize("averaging", ["none", "swa", "ema"])
def test_resume_with_dropout_is_bit_for_bit(check_resume, averaging):
    # MobileNet has dropout, which draws from torch's own generator.
    overrides = [*SHORT, "model=torchvision", "model.arch=mobilenet_v3_small", f"averaging={averaging}"]
    check_resume(*overrides, after={0, 5, 9})


def test_resume_keeps_count_of_skipped_steps(check_resume, monkeypatch):
    put_nan_in_batches(monkeypatch, {1, 2})
    whole = check_resume(*SHORT, "optimizer=looksam", "averaging=ema")
    assert whole["history"]["skipped_steps"] == [2, 2, 2]


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [(Step, "read", 2), (Averages, "after_epoch", 2), (loop, "evaluate", 2), (Averages, "evaluate", 1)],
    ids=["reading the totals", "averaging", "evaluating", "evaluating an average"],
)
def test_resume_after_failure_outside_step(tiny_run, folder, monkeypatch, owner, name, call):
    overrides = [*SHORT, "averaging=ema", "trainer.checkpoint_every=1"]
    whole = tiny_run(*overrides)
    rename_folders(folder)
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
    rename_folders(folder)

    interrupted({0, 3, 7})
    record, _ = run_until_finished(lambda *chosen: execute(compose.compose(list(chosen))), *overrides)

    assert lasting(record) == lasting(whole)
    assert differences(lasting(last_checkpoint(folder, record["run_id"])), lasting(expected)) == []
