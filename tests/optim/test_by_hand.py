"""Tests of `first_step`, `second_step` and `restore`, with which a hand-written loop takes a step."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sam_bench import SAM, frozen_statistics
from sam_bench.optim.registry import METHODS
from tests.optim.problem import (
    AHEAD,
    BY_HAND,
    PERTURBING,
    TWICE,
    UnnormalisedNetwork,
    assert_equal,
    batch,
    closure_for,
    flat_weights,
    network,
    state,
    step_by_hand,
    train,
    wrap,
)


@pytest.mark.parametrize(
    ("name", "start", "zero_grad"),
    [*((name, 3, True) for name in TWICE if name in BY_HAND), ("sgd", 0, False), ("sam", 0, False), ("esam", 0, True)],
)
def test_steps_by_hand_equal_closure_steps(name, start, zero_grad):
    a, b = network(), network()
    first, second = wrap(a, name, start=start), wrap(b, name, start=start)
    for t in range(6):
        first.step(closure_for(a, first, t))
        step_by_hand(b, second, t, zero_grad=zero_grad)
        assert_equal(state(a, first), state(b, second))

    if name != "esam":  # a hand-written loop's passes count as whole ones
        assert first.passes == second.passes


@pytest.mark.parametrize("name", BY_HAND)
def test_step_without_closure_finishes_first_step(name):
    model, other = network(), network()
    optimizer, twin = wrap(model, name), wrap(other, name)
    for t in range(3):
        step_by_hand(model, optimizer, t)
        step_by_hand(other, twin, t, zero_grad=False, finish=twin.step)
    assert_equal(state(model, optimizer), state(other, twin))


def test_msam_ignores_gradients_before_first_step():
    a, b = network(), network()
    first, second = wrap(a, "msam"), wrap(b, "msam", watched=False)
    for t in range(4):
        first.step(closure_for(a, first, t))

        with frozen_statistics(b):
            closure_for(b, second, t)()
        second.first_step(zero_grad=True)
        images, labels = batch(t)
        F.cross_entropy(b(images), labels).backward()
        second.second_step(zero_grad=True)

    assert_equal(state(a, first), state(b, second))


def test_one_pass_step_ignores_later_gradients():
    model = network()
    extra = nn.Parameter(torch.ones(2).double())
    optimizer = wrap(model, "sam_every_k", params=[*model.named_parameters(), ("extra", extra)], k=2)
    train(model, optimizer, 1)

    closure_for(model, optimizer, 1)()
    assert not optimizer.first_step(zero_grad=True)
    extra.sum().backward()
    optimizer.second_step()

    assert torch.equal(extra.detach(), torch.ones(2).double())


class SumOfAbsolutes(SAM):
    """A method that keeps |g| of each part."""

    keeps_gradient = True

    def of_part(self, g):
        return torch._foreach_abs(g)

    def combine(self, g, h, **memory):
        return torch._foreach_add(g, h)


def test_half_steps_use_of_part():
    model, other = network(), network()
    optimizer, twin = (SumOfAbsolutes(m.parameters(), torch.optim.SGD, lr=0.1) for m in (model, other))
    for t in range(2):
        optimizer.step(closure_for(model, optimizer, t))
        step_by_hand(other, twin, t)
    torch.testing.assert_close(flat_weights(model), flat_weights(other), rtol=0, atol=1e-12)


# Running statistics


@pytest.mark.parametrize("name", [name for name in BY_HAND if name not in ("msam", "esam", "sam_on")])
def test_frozen_statistics_equals_watched_model(name):
    a, b = network(), network()
    first, second = wrap(a, name), wrap(b, name, watched=False)
    for t in range(4):
        first.step(closure_for(a, first, t))
        step_by_hand(b, second, t, freeze=True)
    assert_equal(state(a, first), state(b, second))


def test_frozen_statistics_nests_and_survives_errors():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="out of memory"), frozen_statistics(model), frozen_statistics(model):
        model(batch()[0])
        raise RuntimeError("out of memory")
    assert_equal(before, dict(model.state_dict()))

    # The layer still normalises by the batch's own statistics.
    with frozen_statistics(model):
        output = model(batch()[0])
    torch.testing.assert_close(output, model(batch()[0]))


@pytest.mark.parametrize("way", ["skip", "restore"])
def test_statistics_loaded_late_survive_skipped_step(way):
    model, trained = network(), network()
    optimizer = wrap(model, "sam")
    trained[1].running_mean.fill_(7.0)
    model.load_state_dict(trained.state_dict())
    closure_for(model, optimizer)()
    expected = model[1].running_mean.clone()  # the pass above began before the optimizer could know of the step

    model[4].weight.grad[0, 0] = float("nan")
    optimizer.first_step(zero_grad=True)
    if way == "skip":
        closure_for(model, optimizer)()
        optimizer.second_step()
    else:
        optimizer.restore()

    assert torch.equal(model[1].running_mean, expected)
    assert 6 < expected.mean() < 7


# Calls in a wrong order


def test_calls_between_half_steps_are_refused():
    model = network()
    optimizer = wrap(model, "sam")
    closure_for(model, optimizer)()
    optimizer.first_step(zero_grad=True)
    closure_for(model, optimizer)()
    for call in (optimizer.first_step, lambda: optimizer.step(closure_for(model, optimizer)), optimizer.state_dict):
        with pytest.raises(RuntimeError, match="came between"):
            call()
    optimizer.second_step()


@pytest.mark.parametrize("name", METHODS)
def test_second_step_alone_is_refused(name):
    with pytest.raises(RuntimeError, match=r"second_step\(\) came first"):
        wrap(network(), name).second_step()


def test_step_without_closure_alone_is_refused():
    with pytest.raises(ValueError, match="first_step"):
        wrap(network(), "sam").step()


@pytest.mark.parametrize("name", AHEAD)
def test_first_step_is_refused_if_both_passes_perturb(name):
    model = network()
    optimizer = wrap(model, name)
    closure_for(model, optimizer)()
    with pytest.raises(RuntimeError, match=r"step\(closure\)"):
        optimizer.first_step()
    optimizer.zero_grad()
    train(model, optimizer, 1)


# Steps that are given up or skipped


@pytest.mark.parametrize("name", [name for name in PERTURBING if name in BY_HAND])
def test_restore_gives_up_step(name):
    model = network()
    optimizer = wrap(model, name)
    for t in range(2):
        step_by_hand(model, optimizer, t)
    before = state(model, optimizer)

    closure_for(model, optimizer)()
    optimizer.first_step(zero_grad=True)
    model(batch()[0])
    optimizer.restore()

    assert_equal(before, state(model, optimizer))


@pytest.mark.parametrize("failing_pass", [1, 2])
@pytest.mark.parametrize("name", [name for name in TWICE if name in BY_HAND])
def test_nan_gradient_skips_step_by_hand(name, failing_pass):
    model = network()
    optimizer = wrap(model, name)
    for t in range(2):
        step_by_hand(model, optimizer, t)
    before = state(model, optimizer)

    images, labels = batch(2)
    for number, half_step in enumerate((optimizer.first_step, optimizer.second_step), start=1):
        F.cross_entropy(model(images), labels).backward()
        if number == failing_pass:
            model[4].weight.grad[0, 0] = float("nan")
        half_step(zero_grad=True)

    assert_equal(before, state(model, optimizer))
    assert optimizer.skipped.item() == 1


def test_second_step_without_gradients_gives_up_step():
    model = network()
    optimizer = wrap(model, "sam")
    train(model, optimizer, 1)
    before = state(model, optimizer)
    with frozen_statistics(model):
        closure_for(model, optimizer)()
    optimizer.first_step(zero_grad=True)
    with pytest.raises(ValueError, match="backward"):
        optimizer.second_step()
    assert_equal(before, state(model, optimizer))
    step_by_hand(model, optimizer, 0)


def test_load_state_dict_gives_up_half_step():
    model = network()
    optimizer = wrap(model, "sam")
    train(model, optimizer, 2)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, 2)

    closure_for(model, optimizer)()
    optimizer.first_step(zero_grad=True)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])

    assert_equal(saved[0], dict(model.state_dict()))
    train(model, optimizer, 1)


def test_refused_state_dict_keeps_half_step():
    model, other = network(), UnnormalisedNetwork()
    optimizer = wrap(model, "sam")
    before = flat_weights(model)
    closure_for(model, optimizer)()
    optimizer.first_step()
    with pytest.raises(ValueError, match="group"):
        optimizer.load_state_dict(wrap(other, "sam", params=[next(other.parameters())]).state_dict())
    optimizer.restore()
    assert torch.equal(flat_weights(model), before)
