"""Tests of AE-SAM, whose gradient decides whether a step has a second pass."""

import pytest
import torch
from torch import nn

from sam_bench import AESAM
from tests.optim.problem import SGD, closure_for, flat_weights, network, train, wrap


def test_ae_sam_takes_second_pass_if_gradient_is_long():
    model = nn.Linear(1, 1, bias=False).double()
    optimizer = wrap(model, "ae_sam", lambda_1=1.0, lambda_2=1.0, lr=0.0)
    took_second_pass = []
    for length in (1.0, 1.0, 0.1, 5.0, 1.0):
        passes = optimizer.passes

        def closure(length=length):
            optimizer.zero_grad()
            loss = length * model.weight.sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        took_second_pass.append(optimizer.passes - passes == 2)

    assert took_second_pass == [True, False, False, True, False]


def test_ae_sam_forgets_decision_of_failed_step():
    model = network()
    optimizer = wrap(model, "ae_sam", lambda_1=1e9, lambda_2=1e9)
    scaler = torch.amp.GradScaler("cpu")
    closure = closure_for(model, optimizer, 0, backward=lambda loss: scaler.scale(loss).backward())

    # The step decides against a second pass, and fails because its gradients were unscaled.
    closure()
    assert not optimizer.first_step(zero_grad=True, scaler=scaler)
    closure()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="update"):
        optimizer.second_step(scaler=scaler)
    assert optimizer.next_has_second_pass

    optimizer.lambda_1 = optimizer.lambda_2 = -1e9
    passes = optimizer.passes
    train(model, optimizer, 1)
    assert optimizer.passes - passes == 2


def test_ae_sam_averages_change_if_step_decides():
    class EverySecondStep(AESAM):
        def has_second_pass(self, t):
            return t % 2 == 0

    model = network()
    optimizer = EverySecondStep(model.named_parameters(), torch.optim.SGD, total_steps=9, model=model, **SGD)
    averages = []
    for t in range(3):
        train(model, optimizer, 1, first=t)
        averages.append(optimizer.averages.clone())
    assert torch.equal(averages[0], averages[1])
    assert not torch.equal(averages[1], averages[2])


def test_ae_sam_refuses_parts():
    model = network()
    optimizer = wrap(model, "ae_sam")
    with pytest.raises(ValueError, match="AESAM decides for a whole batch"):
        optimizer.step([closure_for(model, optimizer), closure_for(model, optimizer)])


def test_ae_sam_decides_through_copying_wrapper():
    model, other = network(), network()
    optimizer, twin = wrap(model, "ae_sam"), wrap(other, "ae_sam")
    wrapper = object.__new__(type(optimizer))
    wrapper.__dict__ = dict(optimizer.__dict__)
    for t in range(3):
        # The wrapper takes the first half of each step, the optimizer itself the second one.
        for trained, first, second in ((model, wrapper, optimizer), (other, twin, twin)):
            closure = closure_for(trained, first, t)
            closure()
            if first.first_step(zero_grad=True):
                closure()
            second.second_step(zero_grad=True)
    assert optimizer.averages.tolist() == twin.averages.tolist() != [0, 0]
    assert torch.equal(flat_weights(model), flat_weights(other))
