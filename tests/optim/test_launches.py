"""What a step launches beside the network's passes does not grow with the number of parameters."""

import contextlib
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sam_bench.optim.registry import METHODS
from tests.conftest import network
from tests.optim.problem import end, wrap
from tests.training.tape import is_view, name_of

ALLOCATIONS = {"aten.empty", "aten.new_empty", "aten.empty_like"}


class Launches(TorchDispatchMode):
    """Counts the operations that compute something, while it is not paused."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()
        self.paused = False

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if not self.paused and not is_view(operation) and name_of(operation) not in ALLOCATIONS:
            self.counts[name_of(operation)] += launches_of(operation, arguments)
        return operation(*arguments, **(options or {}))

    @contextlib.contextmanager
    def pause(self):
        self.paused = True
        yield
        self.paused = False


def launches_of(operation, arguments) -> int:
    """How many launches an operation on lists is on CUDA: one for each tensor where their dtypes differ."""
    if not name_of(operation).startswith("aten._foreach"):
        return 1
    lists = [each for each in arguments if isinstance(each, list) and isinstance(each[0], torch.Tensor)]
    return len(lists[0]) if len({x.dtype for each in lists for x in each}) > 1 else 1


def beside_the_passes(name: str, layers: int, base, fused: bool | None) -> Counter:
    """What a step launches after the first two, closures apart."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(layers)]
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(12, 2)).to(memory_format=torch.channels_last)
    optimizer = wrap(model, name, base=base, fused=fused)
    images = torch.randn(4, 3, 2, 2)
    with Launches() as launches:

        def closure(examples=slice(None)):
            with launches.pause():
                losses = model(images[examples]).square().mean(1)
                if losses.requires_grad:
                    optimizer.zero_grad()
                return end(optimizer, losses)

        for _ in range(2):
            optimizer.step(closure)
        launches.counts.clear()
        optimizer.step(closure)
    return launches.counts


BY_TENSOR = ("esam", "fsam", "zsharp")
"""Methods that look at tensors one by one: for a mask of each, for the first step of each, for a quantile of each."""


@pytest.mark.parametrize("name", [name for name in METHODS if name not in BY_TENSOR])
def test_launches_beside_the_passes_do_not_grow_with_the_network(name):
    few, many = (beside_the_passes(name, layers, torch.optim.SGD, fused=True) for layers in (2, 7))
    assert few == many


def test_a_base_that_is_not_fused_is_undone_without_looking_at_tensors_one_by_one():
    few, many = (beside_the_passes("sam", layers, torch.optim.NAdam, fused=None) for layers in (2, 7))
    for operation in ("aten.where", "aten.clone", "aten.copy_"):
        assert few[operation] == many[operation]


@pytest.mark.parametrize("name", ["resnet8", "wrn16_8", "pyramidnet110"])
def test_a_networks_batch_norm_launches_nothing_to_count(name):
    with torch.device("meta"):
        built = network(name)
    with Launches() as launches:
        built(torch.empty(2, 3, 32, 32, device="meta"))
    layers = [module for module in built.modules() if isinstance(module, nn.BatchNorm2d)]
    assert launches.counts["aten.native_batch_norm"] + launches.counts["aten._native_batch_norm_legit"] >= len(layers)
    assert launches.counts["aten.add_"] == 0
