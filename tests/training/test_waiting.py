"""Tests that the host does not wait for the device within an epoch."""

import pytest
import torch

from sam_bench.cli.compose import compose
from sam_bench.optim.registry import METHODS
from sam_bench.runs.spec import RunSpec
from sam_bench.runtime.distributed import Processes
from sam_bench.testing import Watching
from sam_bench.training.build import load_data, prepare

RUN = ["data=synthetic", "data.train_subset=50", "trainer.batch_size=8", "model=resnet8", "trainer.progress=none"]


def pause_after_steps(*overrides: str):
    """Return a generator that pauses after each step of a run, and the run's training."""
    config = compose([*RUN, *overrides])
    spec = RunSpec.resolve(config)
    processes = Processes(spec.hardware.device.type)
    training = prepare(config, load_data(config.data), spec.hardware, spec.engine, processes)
    return training.run(), training


@pytest.mark.parametrize(("name", "averaging"), [*((name, "none") for name in METHODS), ("sam", "ema")])
def test_epoch_does_not_wait_for_device(small_synthetic, monkeypatch, name, averaging):
    overrides = [f"optimizer={name}", f"averaging={'swa' if METHODS[name].averages else averaging}"]
    pauses, training = pause_after_steps(*overrides, "trainer.device=cpu")

    with Watching() as counting:
        for reading in ("tolist", "numpy", "cpu"):
            monkeypatch.setattr(torch.Tensor, reading, lambda self, *_, reading=reading: counting.waits.append(reading))

        # The first step creates the base optimizer's state, and may wait.
        next(pauses)
        counting.waits.clear()

        steps = len(training.train) - 1
        for _ in range(steps):
            next(pauses)
        assert training.position == len(training.train)
        assert len(counting.waits) == (steps if METHODS[name].cls.gradient_decides else 0)


def test_watching_counts_waits():
    with Watching() as counting:
        x = torch.ones(3)
        x.sum().item()
        bool(x.sum() > 0)
        x[x > 0].nonzero()
    assert len(counting.waits) >= 3


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("name", "engine"),
    [
        *((name, "eager") for name in METHODS if not METHODS[name].cls.gradient_decides),
        *((name, "graph") for name in ("sgd", "wsam", "looksam")),
    ],
)
def test_epoch_on_gpu_does_not_wait_for_device(small_synthetic, name, engine):
    overrides = [f"optimizer={name}", "averaging=swa" if METHODS[name].averages else "averaging=none"]
    pauses, training = pause_after_steps(*overrides, "trainer.device=cuda", f"trainer.engine={engine}")

    # The first epoch creates state, compiles and captures, all of which may wait.
    for _ in range(len(training.train) + 1):
        next(pauses)
    training.step.captures = False

    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(len(training.train)):
            next(pauses)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert training.step.compiled == (engine == "graph")  # if not, a wait was taken for a failed compilation
