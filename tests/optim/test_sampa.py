"""Tests of SAMPa, which calls the closure of the previous step again."""

import contextlib
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F

from tests.optim.problem import assert_equal, batch, closure_for, finish_closure, network, state, wrap

#: Read by a closure below, as a script's closure reads the script's globals.
labels = batch(0)[1]


def test_sampa_second_gradient_is_of_previous_batch():
    model = network()
    optimizer = wrap(model, "sampa")
    batches = []
    for t in range(3):
        closure = closure_for(model, optimizer, t)
        optimizer.step(lambda t=t, closure=closure: batches.append(t) or closure())
    assert batches == [0, 0, 1, 0, 2, 1]


def test_sampa_refuses_parts():
    model = network()
    optimizer = wrap(model, "sampa")
    with pytest.raises(ValueError, match="SAMPa repeats a whole batch"):
        optimizer.step([closure_for(model, optimizer), closure_for(model, optimizer)])


def test_sampa_refuses_reassigned_variable():
    model = network()
    optimizer = wrap(model, "sampa")
    images, labels = batch(0)

    def closure():
        optimizer.zero_grad()
        return finish_closure(optimizer, F.cross_entropy(model(images), labels, reduction="none"))

    optimizer.step(closure)
    optimizer.step(closure)  # the same batch again is no error
    before = state(model, optimizer)

    images, labels = batch(1)
    with pytest.raises(RuntimeError, match="'images' was reassigned"):
        optimizer.step(closure)
    assert_equal(before, state(model, optimizer))

    optimizer.remember(closure)
    optimizer.step(closure)


def test_sampa_checks_globals_and_decorated_closures(monkeypatch):
    model = network()
    optimizer = wrap(model, "sampa")

    def make_closure(t):
        images = batch(t)[0]

        @torch.enable_grad()
        def closure():
            optimizer.zero_grad()
            return finish_closure(optimizer, F.cross_entropy(model(images), labels, reduction="none"))

        return closure

    for t in range(3):  # each closure has images of its own, which is no error
        assert optimizer.step(make_closure(t)).isfinite()
    monkeypatch.setitem(globals(), "labels", labels.clone())
    with pytest.raises(RuntimeError, match="'labels' was reassigned"):
        optimizer.step(make_closure(3))


@pytest.mark.parametrize("first_step", [True, False], ids=["first step", "later step"])
@pytest.mark.parametrize("failure", ["not finite", "exception"])
def test_sampa_failure_in_second_pass_changes_nothing(failure, first_step):
    model = network()
    optimizer = wrap(model, "sampa")
    passes = itertools.count(1)
    steps = 1 if first_step else 2

    def make_closure(t):
        closure = closure_for(model, optimizer, t)

        def failing():
            loss = closure()
            if next(passes) == 2 * steps:  # the second pass of the last step
                if failure == "exception":
                    raise MemoryError
                model[4].weight.grad[0, 0] = float("nan")
            return loss

        return failing

    for t in range(steps):
        before = state(model, optimizer)
        fails = failure == "exception" and t == steps - 1
        with pytest.raises(MemoryError) if fails else contextlib.nullcontext():
            optimizer.step(make_closure(t))

    after = state(model, optimizer)
    assert_equal({key: after[key] for key in before}, before)
    assert optimizer.skipped.item() == (failure == "not finite")


def test_pickled_sampa_continues_without_closure():
    model = network()
    optimizer = wrap(model, "sampa")
    closure_of_first_step = closure_for(model, optimizer)
    optimizer.step(lambda: closure_of_first_step())  # a lambda cannot be pickled
    other, copied = pickle.loads(pickle.dumps((model, optimizer)))
    assert copied.step(closure_for(other, copied, 1)).isfinite()
