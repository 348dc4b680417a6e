"""Tests of batches in parts, with one perturbation for all parts or with one for each."""

import pytest
import torch
import torch.nn.functional as F

from sam_bench.optim.gradients import add
from sam_bench.optim.registry import METHODS
from tests.optim.problem import (
    AHEAD,
    CUT,
    TWICE,
    UnnormalisedNetwork,
    assert_equal,
    batch,
    closure_for,
    network,
    state,
    wrap,
)

#: Methods that train a network without normalisation, on the mean loss.
ON_MEAN_LOSS = [name for name in METHODS if name not in ("sam_on", "esam")]


def assert_close(a: torch.nn.Module, b: torch.nn.Module) -> None:
    """Check that two models have the same weights."""
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ON_MEAN_LOSS)
def test_accumulation_in_closure_equals_whole_batch(name):
    a, b = UnnormalisedNetwork(), UnnormalisedNetwork()
    first, second = wrap(a, name), wrap(b, name)
    for t in range(5):
        first.step(closure_for(a, first, t))
        images, labels = batch(t)

        def closure(images=images, labels=labels):
            second.zero_grad()
            total = 0.0
            for part in (slice(0, 5), slice(5, 12)):
                loss = F.cross_entropy(b(images[part]), labels[part]) * len(labels[part]) / len(labels)
                loss.backward()
                total += loss.detach()
            return total

        second.step(closure)

    assert_close(a, b)


@pytest.mark.parametrize("name", [name for name in ON_MEAN_LOSS if name in CUT and name not in AHEAD])
def test_equal_parts_equal_whole_batch(name):
    a, b = UnnormalisedNetwork(), UnnormalisedNetwork()
    first, second = wrap(a, name), wrap(b, name)
    for t in range(5):
        first.step(closure_for(a, first, t))
        second.step([closure_for(b, second, t) for _ in range(3)])

    # Each part holds the whole batch, so its perturbation is the whole batch's.
    assert_close(a, b)
    assert second.passes == pytest.approx(first.passes)


@pytest.mark.parametrize("name", [name for name in TWICE if name in CUT])
def test_single_part_is_the_method_itself(name):
    a, b = network(), network()
    first, second = wrap(a, name), wrap(b, name)
    for t in range(5):
        first.step([closure_for(a, first, t)], [1.0])
        second.step(closure_for(b, second, t))
    assert_equal(state(a, first), state(b, second))


@pytest.mark.parametrize("weights", [[0.5], [0.5, 0.6], [], [2.0, -1.0]])
def test_weights_that_do_not_fit_parts_are_refused(weights):
    model = network()
    optimizer = wrap(model, "sam")
    with pytest.raises(ValueError, match="2 closures"):
        optimizer.step([closure_for(model, optimizer), closure_for(model, optimizer)], weights)


def test_add_is_exact_for_weight_one():
    p = torch.zeros(2, dtype=torch.float64)
    total = add({p: torch.full_like(p, 1e-12)}, {p: torch.ones_like(p)}, 1.0)
    assert total[p].tolist() == [1 + 1e-12] * 2
    assert add({}, {p: torch.ones_like(p)}, 1.0)[p].tolist() == [1.0, 1.0]
