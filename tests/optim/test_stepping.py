"""Tests of `step(closure)`: what it asks of closures, what it returns and counts, and what works around it."""

import contextlib
import copy
import warnings

import pytest
import torch
import torch.nn.functional as F

from sam_bench.optim.registry import METHODS
from tests.optim.problem import (
    AHEAD,
    PERTURBING,
    RADII,
    assert_equal,
    batch,
    closure_for,
    finish_closure,
    flat_weights,
    network,
    state,
    step_by_hand,
    train,
    wrap,
)

# Closures


@pytest.mark.parametrize("name", ["sgd", "sam", "esam", "sampa", "msam", "ae_sam"])
@pytest.mark.parametrize("earlier_steps", [0, 2])
def test_closure_adding_to_old_gradients_is_refused(name, earlier_steps):
    model = network()
    optimizer = wrap(model, name)
    train(model, optimizer, earlier_steps)
    images, labels = batch(7)

    def accumulating(examples=slice(None)) -> torch.Tensor:
        return finish_closure(optimizer, F.cross_entropy(model(images[examples]), labels[examples], reduction="none"))

    accumulating()
    before = state(model, optimizer)
    with pytest.raises(ValueError, match="accumulate inside it"):
        optimizer.step(accumulating)
    after = state(model, optimizer)
    assert_equal(before, {name: after[name] for name in before})

    # The refused step has left no gradients, so the closure adds to nothing. It may also add to zeros.
    optimizer.step(accumulating)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(accumulating)


@pytest.mark.parametrize("name", PERTURBING)
def test_closure_need_not_clear_gradients(name):
    a, b = network(), network()
    first, second = wrap(a, name, rho=0.5), wrap(b, name, rho=0.5)
    train(a, first, 3)
    for t in range(3):
        images, labels = batch(t)

        def closure(examples=slice(None), images=images, labels=labels):
            return finish_closure(second, F.cross_entropy(b(images[examples]), labels[examples], reduction="none"))

        second.step(closure)
    assert_equal(state(a, first), state(b, second))


def test_gradients_left_by_other_code_are_no_error():
    model = network()
    first = wrap(model, "sam", params=model[:1].parameters())
    second = wrap(model, "gsam", params=model[1:].parameters())
    for t in range(3):
        # Each optimizer leaves gradients of the other's parameters behind, clipping changes them, and the last
        # backward pass adds to them.
        first.step(closure_for(model, first, t))
        second.step(closure_for(model, second, t))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        F.cross_entropy(model(batch(t)[0].requires_grad_()), batch(t)[1]).backward()
    assert (first.steps, second.steps) == (3, 3)


@pytest.mark.parametrize("returned", [None, 0.5])
def test_closure_without_loss_is_refused(returned):
    model = network()
    optimizer = wrap(model, "sam")
    closure = closure_for(model, optimizer)
    with pytest.raises(TypeError, match="must return the loss"):
        optimizer.step(lambda: closure() and returned)


def test_esam_closure_with_one_loss_is_refused():
    model = network()
    optimizer = wrap(model, "esam")
    images, labels = batch()

    def closure():
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    with pytest.raises(ValueError, match="one loss for each example"):
        optimizer.step(closure)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("returned", ["loss", "None"])
def test_closure_without_gradients_changes_nothing(name, returned):
    model = network()
    optimizer = wrap(model, name)
    train(model, optimizer, 1)
    weights, saved = copy.deepcopy((flat_weights(model), optimizer.state_dict()["sharpness_aware"]))

    def without_backward(*_):
        optimizer.zero_grad()
        loss = model(batch()[0]).sum()
        return loss if returned == "loss" else None

    with pytest.warns(UserWarning, match="backward"):
        loss = optimizer.step(without_backward)
    assert (loss is None) == (returned == "None")
    assert torch.equal(weights, flat_weights(model))
    assert saved["steps"] == optimizer.steps == 1
    assert saved["passes"] == optimizer.passes

    # The second time there is no warning.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(without_backward)


@pytest.mark.parametrize("name", METHODS)
def test_closure_without_gradients_leaves_no_trace(name):
    model, other = network(), network()
    optimizer, twin = wrap(model, name), wrap(other, name)
    for t in range(3):
        train(model, optimizer, 1, first=t)
        train(other, twin, 1, first=t)
        if t == 0:
            with warnings.catch_warnings(action="ignore"):
                optimizer.step(lambda *_: None)
    assert torch.equal(flat_weights(model), flat_weights(other))


def test_second_pass_without_gradients_is_refused():
    model = network()
    optimizer = wrap(model, "sam")
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = model(batch()[0]).sum()
        calls.append(None)
        if len(calls) == 1:
            loss.backward()
        return loss

    before = flat_weights(model)
    with pytest.raises(ValueError, match="backward"):
        optimizer.step(closure)
    assert torch.equal(before, flat_weights(model))


# Results


def test_step_returns_unperturbed_loss_without_graph():
    model = network()
    optimizer = wrap(model, "sam", rho=0.5)
    expected = closure_for(model, optimizer)().item()
    loss = optimizer.step(closure_for(model, optimizer))
    assert loss.item() == expected
    assert not loss.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_passes_are_counted(name):
    expected = {"sgd": 6, "msam": 6, "looksam": 9, "sam_every_k": 9, "ss_sam": 10, "ae_sam": 11}
    expected = (expected | {"esam": 6 * (4 / 3 + 1 / 2)}).get(name, 12)
    model = network()
    optimizer, calls = wrap(model, name), []
    for t in range(6):
        closure = closure_for(model, optimizer, t)
        optimizer.step(lambda *examples, closure=closure: calls.append(None) or closure(*examples))

    assert optimizer.passes == pytest.approx(expected)
    assert len(calls) == (18 if name == "esam" else expected)


@pytest.mark.parametrize("name", METHODS)
def test_clip_norm_clips_the_direction(name):
    model = network()
    optimizer = wrap(model, name, clip_norm=0.01, lr=1.0, momentum=0.9, weight_decay=0.0)
    if name == "wsam":
        optimizer.correction = lambda g, h: None  # it is not part of the direction
    before = flat_weights(model)
    train(model, optimizer, 1)

    assert (flat_weights(model) - before).norm().item() == pytest.approx(0.01, rel=1e-3)
    assert RADII.get(name, 0.05) > 0.01 or name == "usam"  # the perturbation is longer


@pytest.mark.parametrize(
    ("name", "batchnorm", "times"),
    [
        ("sam", "both", 2),
        ("esam", "both", 3),  # its second pass begins with a forward pass over the whole batch
        ("sampa", "both", 2),
        ("sampa", "clean", 1),
        ("bsam", "clean", 1),
        ("msam", "clean", 1),
    ],
)
def test_running_statistics_change_once_per_pass(name, batchnorm, times):
    model = network()
    optimizer = wrap(model, name, rho=0.5, batchnorm=batchnorm)
    once = copy.deepcopy(model)
    once(batch()[0])
    train(model, optimizer, 1)

    assert model[1].num_batches_tracked.item() == times
    are_unperturbed = torch.equal(model[1].running_mean, once[1].running_mean)
    assert are_unperturbed == (times == 1 and name not in AHEAD)


# Around a step


@pytest.mark.parametrize("way", ["closure", "by hand"])
def test_schedulers_reach_base_without_warning(way, recwarn):
    model = network()
    optimizer = wrap(model, "sam")
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    rates = []
    for t in range(4):
        step_by_hand(model, optimizer, t) if way == "by hand" else train(model, optimizer, 1, first=t)
        scheduler.step()
        rates.append(optimizer.base_optimizer.param_groups[0]["lr"])

    assert rates == pytest.approx([0.0853553, 0.05, 0.0146447, 0.0], abs=1e-6)
    assert not [str(w.message) for w in recwarn if "lr_scheduler" in str(w.message)]


@pytest.mark.parametrize("name", METHODS)
def test_autocast_around_step_sees_present_weights(name):
    # Autocast keeps copies of weights in half precision until it ends, so around a step it may use old ones.
    def pass_losses(around_step: bool) -> list[float]:
        model, losses_of_passes = network(dtype=torch.float32), []
        autocast, nothing = torch.autocast("cpu", torch.bfloat16), contextlib.nullcontext()
        optimizer = wrap(model, name, rho=1.0 if name == "sam" else None)
        images, labels = batch(dtype=torch.float32)

        def closure(examples=slice(None)):
            with nothing if around_step else autocast:
                losses = F.cross_entropy(model(images[examples]), labels[examples], reduction="none")
            losses_of_passes.append(losses.mean().item())
            if losses.requires_grad:
                optimizer.zero_grad()
            return finish_closure(optimizer, losses)

        with autocast if around_step else nothing:
            for _ in range(4):
                optimizer.step(closure)
        return losses_of_passes

    expected = pass_losses(around_step=False)
    assert len(set(expected)) == len(expected)
    assert pass_losses(around_step=True) == expected
