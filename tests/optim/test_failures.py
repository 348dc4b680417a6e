"""Tests of steps in which something fails: gradients that are not finite, exceptions and interrupts."""

import itertools

import pytest
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sam_bench import frozen_statistics
from tests.optim.problem import (
    PASSES,
    PERTURBING,
    TWICE,
    assert_equal,
    closure_for,
    network,
    state,
    step_by_hand,
    train,
    wrap,
)
from tests.training.stand_in import written_by


class FailingWrite(TorchDispatchMode):
    """A context in which one of the operations that write into the weights fails.

    Args:
        number: which of them fails, counted from 1.
        after_write: fail after the operation, not before it.
    """

    def __init__(self, model: nn.Module, number: int, error: type[BaseException], after_write: bool = False):
        super().__init__()
        self.weights = {p.data_ptr() for p in model.parameters()}
        self.number = number
        self.error = error
        self.after_write = after_write

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        writes = any(tensor.data_ptr() in self.weights for tensor in written_by(operation, arguments, options))
        self.number -= writes
        fails = writes and self.number == 0
        if fails and not self.after_write:
            raise self.error
        result = operation(*arguments, **options)
        if fails:
            raise self.error
        return result


@pytest.mark.parametrize("name", [name for name in PERTURBING if name != "msam"])
def test_restore_survives_interrupt(name):
    model = network()
    optimizer = wrap(model, name)
    train(model, optimizer, 2)
    before = state(model, optimizer)

    # The first write perturbs the weights, and the second one restores them.
    with pytest.raises(KeyboardInterrupt), FailingWrite(model, 2, KeyboardInterrupt):
        optimizer.step(closure_for(model, optimizer, 2))

    assert_equal(before, state(model, optimizer))


@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after it"])
def test_failed_first_step_leaves_no_half_step(after_write):
    model = network()
    optimizer = wrap(model, "sam")
    before = state(model, optimizer)
    with frozen_statistics(model):
        closure_for(model, optimizer)()
    with pytest.raises(MemoryError), FailingWrite(model, 1, MemoryError, after_write):
        optimizer.first_step()
    assert_equal(before, state(model, optimizer))
    step_by_hand(model, optimizer, 0)


@pytest.mark.parametrize("name", TWICE)
def test_second_pass_never_sees_nan_weights(name):
    model = network()
    optimizer = wrap(model, name)
    closure, are_finite = closure_for(model, optimizer), []

    def poisoned(*examples):
        are_finite.append(all(p.isfinite().all() for p in model.parameters()))
        loss = closure(*examples)
        if len(are_finite) == 1:
            model[4].weight.grad[0, 0] = float("nan")
        return loss

    optimizer.step(poisoned)

    assert all(are_finite)
    assert optimizer.skipped.item() == 1


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("first_step", [True, False], ids=["first step", "later step"])
@pytest.mark.parametrize(
    ("name", "failing_pass"), [each for each in PASSES if each[0] in ("sgd", "sam", "wsam", "msam")]
)
def test_nan_gradient_skips_step(name, first_step, failing_pass, fused):
    model, untouched = network(), network()
    optimizer, other = wrap(model, name, rho=0.5, fused=fused), wrap(untouched, name, rho=0.5, fused=fused)
    if not first_step:
        train(model, optimizer, 2)
        train(untouched, other, 2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    calls, closure = itertools.count(1), closure_for(model, optimizer, 2)

    def poisoned():
        loss = closure()
        if next(calls) == failing_pass:
            model[4].weight.grad[3, 5] = float("nan")
        return loss

    optimizer.step(poisoned)
    assert optimizer.skipped.item() == 1
    assert_equal(before, dict(model.state_dict()))

    # Later steps are as if the skipped one had never been, except that it counts as a step.
    other.steps += 1
    train(model, optimizer, 3, first=3)
    train(untouched, other, 3, first=3)
    assert_equal(state(untouched, other), state(model, optimizer))
