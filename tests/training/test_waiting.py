"""The host does not wait for the device within an epoch, and a step needs no more memory than it must."""

import gc
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from sam_bench.cli.compose import compose
from sam_bench.data.batches import Batch
from sam_bench.optim.registry import METHODS, method
from sam_bench.runs.spec import RunSpec
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.testing import Watching
from sam_bench.training.build import load_data, prepare
from sam_bench.training.step import Step
from tests.optim.problem import ARGUMENTS

RUN = ["data=synthetic", "data.train_subset=50", "trainer.batch_size=8", "model=resnet8", "trainer.progress=none"]


def steps_of_an_epoch(*overrides: str):
    """A generator that pauses after each step of a run's first epoch."""
    config = compose([*RUN, *overrides])
    spec = RunSpec.resolve(config)
    processes = Processes(spec.hardware.device.type)
    training = prepare(config, load_data(config.data), spec.hardware, spec.engine, processes)
    return training.run(), training


@pytest.mark.parametrize(("name", "averaging"), [*((name, "none") for name in METHODS), ("sam", "ema")])
def test_within_an_epoch_nothing_waits_for_the_device(small_synthetic, monkeypatch, name, averaging):
    own = [f"optimizer={name}", f"averaging={'swa' if METHODS[name].averages else averaging}"]
    pauses, training = steps_of_an_epoch(*own, "trainer.device=cpu")
    with Watching() as counting:
        for reading in ("tolist", "numpy", "cpu"):
            monkeypatch.setattr(torch.Tensor, reading, lambda self, *_, reading=reading: counting.waits.append(reading))
        next(pauses)  # creates the base optimizer's state
        counting.waits.clear()
        for _ in range(len(training.train) - 1):
            next(pauses)
        assert training.position == len(training.train)
        steps = len(training.train) - 1
        assert len(counting.waits) == (steps if METHODS[name].gradient_decides else 0)


def test_waiting_would_be_found(monkeypatch):
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
        *((name, "eager") for name in METHODS if not METHODS[name].gradient_decides),
        *((name, "graph") for name in ("sgd", "wsam", "looksam")),
    ],
)
def test_on_a_gpu_nothing_waits_for_the_device(small_synthetic, name, engine):
    own = [f"optimizer={name}", "averaging=swa" if METHODS[name].averages else "averaging=none"]
    pauses, training = steps_of_an_epoch(*own, "trainer.device=cuda", f"trainer.engine={engine}")
    for _ in range(len(training.train)):  # creates state, compiles
        next(pauses)
    next(pauses)
    training.step.captures = False  # a capture itself may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(len(training.train)):
            next(pauses)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert training.step.compiled == (engine == "graph")  # else a wait was taken for a failure to compile


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def small_step(name: str, model: nn.Module) -> Step:
    extra = {"k": 2} if "k" in METHODS[name].option_names else {}
    base = torch.optim.SGD(model.named_parameters(), lr=1e-3, momentum=0.9, fused=True)
    optimizer = method(name)(model.named_parameters(), base, model=model, **extra, **ARGUMENTS.get(name, {}))
    return Step(model, optimizer, Hardware(torch.device("cpu"), "fp32"), Processes("cpu"), 0.1)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell a process's memory")
@pytest.mark.parametrize("name", METHODS)
def test_a_thousand_steps_need_no_more_memory_than_a_hundred(name):
    """The allocator may take more from the system once; what is not given back grows with every thousand."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 9, stride=8), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 9, 10))
    step = small_step(name, model)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)

    def after(count: int) -> tuple[int, int]:
        for _ in range(count):
            step(Batch(images, labels))
        gc.collect()
        return sum(type(item) is torch.Tensor for item in gc.get_objects()), resident()

    tensors, memory = after(100)
    grown = []
    while not grown or (grown[-1] >= 2**20 and len(grown) < 3):
        more_tensors, more_memory = after(1000)
        assert more_tensors <= tensors
        grown.append(more_memory - memory)
        memory = more_memory
    assert grown[-1] < 2**20


SIZE = 400


def of_its_size() -> set[int]:
    """The memory of all tensors that are as large as the layer's weights."""
    gc.collect()
    return {x.data_ptr() for x in gc.get_objects() if type(x) in (torch.Tensor, nn.Parameter) and x.numel() == SIZE**2}


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("esam", "sam_on")])
def test_copies_of_the_weights_in_the_last_pass(name):
    """Weights and momentum; one copy where the weights are perturbed, `g` where it is needed, what is remembered."""
    torch.manual_seed(0)
    counted, before = [], len(of_its_size())

    class Watched(nn.Linear):
        def forward(self, x):
            counted.append(len(of_its_size()) - before)
            return super().forward(x)

    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, SIZE), Watched(SIZE, SIZE, bias=False), nn.Linear(SIZE, 10))
    step = small_step(name, model)
    for _ in range(3):  # of the methods that sometimes take one pass, the last step has two
        step(Batch(torch.randn(4, 3, 32, 32), torch.arange(4)))
    entry, optimizer = METHODS[name], step.optimizer
    copies = 2 + entry.perturbs + (entry.has_second_pass and optimizer.keeps_gradient)
    copies += sum(len([x for x in memory.values() if x.numel() == SIZE**2]) for memory in optimizer.memory.values())
    assert counted[-1] == copies
