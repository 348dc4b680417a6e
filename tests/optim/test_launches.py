"""Tests of the launches of a step besides the network's passes: they do not grow with the number of parameters."""

import contextlib
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sam_bench.optim.registry import METHODS
from tests.conftest import network
from tests.optim.problem import finish_closure, wrap
from tests.training.tape import is_view, name_of

ALLOCATIONS = {"aten.empty", "aten.new_empty", "aten.empty_like"}

#: Methods that look at tensors one by one: for a mask of each, for the first step of each, for a quantile of each.
BY_TENSOR = ("esam", "fsam", "zsharp")


class CountingLaunches(TorchDispatchMode):
    """A context that counts the operations that compute something, by name, while it is not paused."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()
        self.paused = False

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if not self.paused and not is_view(operation) and name_of(operation) not in ALLOCATIONS:
            self.counts[name_of(operation)] += count_launches(operation, arguments)
        return operation(*arguments, **(options or {}))

    @contextlib.contextmanager
    def pause(self):
        """Count nothing within this context."""
        self.paused = True
        yield
        self.paused = False


def count_launches(operation, arguments) -> int:
    """Return the launches of an operation on CUDA; one on lists of tensors of different dtypes has one per tensor."""
    if not name_of(operation).startswith("aten._foreach"):
        return 1
    lists = [each for each in arguments if isinstance(each, list) and isinstance(each[0], torch.Tensor)]
    return len(lists[0]) if len({x.dtype for each in lists for x in each}) > 1 else 1


def count_step_launches(name: str, layers: int, base, fused: bool | None) -> Counter:
    """Return the launches of the third step, without those in closures."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(layers)]
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(12, 2)).to(memory_format=torch.channels_last)
    optimizer = wrap(model, name, base=base, fused=fused)
    images = torch.randn(4, 3, 2, 2)
    with CountingLaunches() as launches:

        def closure(examples=slice(None)):
            with launches.pause():
                losses = model(images[examples]).square().mean(1)
                if losses.requires_grad:
                    optimizer.zero_grad()
                return finish_closure(optimizer, losses)

        for _ in range(2):
            optimizer.step(closure)
        launches.counts.clear()
        optimizer.step(closure)
    return launches.counts


@pytest.mark.parametrize("name", [name for name in METHODS if name not in BY_TENSOR])
def test_launches_do_not_grow_with_layers(name):
    few, many = (count_step_launches(name, layers, torch.optim.SGD, fused=True) for layers in (2, 7))
    assert few == many


def test_unfused_base_is_undone_in_few_launches():
    few, many = (count_step_launches("sam", layers, torch.optim.NAdam, fused=None) for layers in (2, 7))
    for operation in ("aten.where", "aten.clone", "aten.copy_"):
        assert few[operation] == many[operation]


@pytest.mark.parametrize("name", ["resnet8", "wrn16_8", "pyramidnet110"])
def test_batch_norm_launches_no_counter(name):
    with torch.device("meta"):
        model = network(name)
    with CountingLaunches() as launches:
        model(torch.empty(2, 3, 32, 32, device="meta"))
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert launches.counts["aten.native_batch_norm"] + launches.counts["aten._native_batch_norm_legit"] >= len(layers)
    assert launches.counts["aten.add_"] == 0
