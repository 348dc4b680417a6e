"""Tests that steps keep no needless memory."""

import gc
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from sam_bench.data.batches import Batch
from sam_bench.optim.registry import METHODS, method
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training.step import Step
from tests.optim.problem import ARGUMENTS


def resident_bytes() -> int:
    """Return this process's bytes in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def build_step(name: str, model: nn.Module) -> Step:
    """Return a step of this method on the CPU."""
    extra = {"k": 2} if "k" in METHODS[name].option_names else {}
    base = torch.optim.SGD(model.named_parameters(), lr=1e-3, momentum=0.9, fused=True)
    optimizer = method(name)(model.named_parameters(), base, model=model, **extra, **ARGUMENTS.get(name, {}))
    return Step(model, optimizer, Hardware(torch.device("cpu"), "fp32"), Processes("cpu"), 0.1)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system has no /proc")
@pytest.mark.parametrize("name", METHODS)
def test_steps_do_not_leak_memory(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 9, stride=8), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 9, 10))
    step = build_step(name, model)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)

    def measure_after(count: int) -> tuple[int, int]:
        for _ in range(count):
            step(Batch(images, labels))
        gc.collect()
        return sum(type(item) is torch.Tensor for item in gc.get_objects()), resident_bytes()

    tensors, memory = measure_after(100)

    # The allocator may take memory from the system once, but a leak grows with every thousand steps.
    growths = []
    while not growths or (growths[-1] >= 2**20 and len(growths) < 3):
        later_tensors, later_memory = measure_after(1000)
        assert later_tensors <= tensors
        growths.append(later_memory - memory)
        memory = later_memory
    assert growths[-1] < 2**20


#: Number of inputs, and of outputs, of the layer whose weights are counted.
SIZE = 400


def addresses_of_copies() -> set[int]:
    """Return the addresses of all tensors as large as the layer's weights."""
    gc.collect()
    return {x.data_ptr() for x in gc.get_objects() if type(x) in (torch.Tensor, nn.Parameter) and x.numel() == SIZE**2}


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("esam", "sam_on")])
def test_last_pass_holds_only_needed_copies(name):
    torch.manual_seed(0)
    counts, before = [], len(addresses_of_copies())

    class CountingLinear(nn.Linear):
        def forward(self, x):
            counts.append(len(addresses_of_copies()) - before)
            return super().forward(x)

    model = nn.Sequential(
        nn.Flatten(), nn.Linear(3072, SIZE), CountingLinear(SIZE, SIZE, bias=False), nn.Linear(SIZE, 10)
    )
    step = build_step(name, model)
    for _ in range(3):  # the third step has two passes, also of methods that sometimes take one
        step(Batch(torch.randn(4, 3, 32, 32), torch.arange(4)))

    # Weights and momentum; a copy of the weights if they are perturbed, the gradient if needed, the method's state.
    entry, optimizer = METHODS[name], step.optimizer
    copies = 2 + entry.perturbs + (entry.two_passes and optimizer.keeps_gradient)
    copies += sum(x.numel() == SIZE**2 for memory in optimizer.memory.values() for x in memory.values())
    assert counts[-1] == copies
