"""Tests of methods on torch's optimizers."""

import copy

import pytest
import torch

from sam_bench import SAM
from tests.optim.problem import assert_equal, closure_for, network, state, train, wrap

BASES = ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Rprop", "ASGD", "Adafactor"]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ["sam", "wsam"])
def test_base_trains_skips_and_resumes(name, base):
    model = network()
    optimizer = wrap(model, name, 0.05, getattr(torch.optim, base), fused=None, lr=0.01)
    before = state(model, optimizer)

    def poisoned():
        loss = closure_for(model, optimizer, 0)()
        model[4].weight.grad[0, 0] = float("nan")
        return loss

    # A skipped first step leaves no trace, whatever state the base creates in it.
    optimizer.step(poisoned)
    assert_equal(before, state(model, optimizer))

    train(model, optimizer, 3)
    saved, weights = copy.deepcopy((optimizer.state_dict(), model.state_dict()))
    losses = train(model, optimizer, 3, first=3)
    other = network(seed=3)
    resumed = wrap(other, name, 0.05, getattr(torch.optim, base), fused=None, lr=0.01)
    other.load_state_dict(weights)
    resumed.load_state_dict(saved)
    assert train(other, resumed, 3, first=3) == losses
    assert losses[-1] < 5


def test_base_is_class_or_instance():
    a, b = network(), network()
    first = SAM(a.parameters(), torch.optim.SGD, rho=0.1, model=a, lr=0.1, momentum=0.9)
    second = SAM(b.parameters(), torch.optim.SGD(b.parameters(), lr=0.1, momentum=0.9), rho=0.1, model=b)
    assert train(a, first, 3) == train(b, second, 3)
