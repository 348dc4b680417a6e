"""Tests of runs that need more memory than there is, and of the peak that a record names."""

import itertools
import sys

import pytest
import torch

from sam_bench import SAM
from sam_bench.cli import main
from sam_bench.runtime.device import Hardware
from sam_bench.training import loop, step
from tests.runs.faults import COMMAND


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["cuda", "cpu"],
)
def test_out_of_memory_restores_weights(command, folder, small_synthetic, monkeypatch, error):
    loss, take_step = step.batch_loss, SAM.step
    calls, restored = itertools.count(1), []

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
    monkeypatch.setattr(SAM, "step", step_and_compare_weights)  # torch gives each class a `step` of its own
    code, _, message = command(*COMMAND, "trainer.checkpoint_minutes=1e-9")

    assert code == main.EXIT_RUN
    assert len(message.splitlines()) == 1
    assert "trainer.batch_size=6" in message
    assert "trainer.micro_batch_size=3" in message
    assert restored and all(restored)


def run_out_of_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_out_of_memory_esam_has_no_micro_batches(command, folder, small_synthetic, monkeypatch):
    monkeypatch.setattr(step, "batch_loss", run_out_of_memory)
    code, _, error = command(*COMMAND, "optimizer=esam")
    assert code == main.EXIT_RUN
    assert "not enough memory for trainer.batch_size=6" in error
    assert "micro_batch_size" not in error


def test_out_of_memory_in_evaluation_names_setting(command, folder, small_synthetic, monkeypatch):
    monkeypatch.setattr(loop, "evaluate", run_out_of_memory)
    code, _, error = command(*COMMAND)
    assert code == main.EXIT_RUN
    assert "not enough memory" in error
    assert "trainer.eval_batch_size=1000" in error


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the peak of a process")
def test_peak_memory_excludes_earlier_peaks():
    hardware = Hardware(torch.device("cpu"), "fp32")
    block = torch.ones(2**27)
    with_block = hardware.peak_memory()
    del block
    hardware.forget_peak_memory()
    assert 2**20 < hardware.peak_memory() < with_block - 2**28
