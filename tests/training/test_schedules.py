"""Tests of the schedules of learning rate and radius, against a plain reference and known values."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from sam_bench.training import schedules
from tests.optim import reference

EPOCHS, STEPS_PER_EPOCH = 20, 7
STEPS = EPOCHS * STEPS_PER_EPOCH


def build_rate(
    name: str,
    warmup: float = 0,
    every: str = "step",
    lr_min: float = 0.001,
    start: float = 0.0,
    steps_per_epoch: int = STEPS_PER_EPOCH,
) -> schedules.Schedule:
    """Return the learning rate at each step of these tests' epochs.

    Args:
        warmup: number of epochs.
        start: the part of the full rate with which the warm-up begins.
    """
    return schedules.learning_rate(
        name,
        lr=0.1,
        steps_per_epoch=steps_per_epoch,
        epochs=EPOCHS,
        warmup_epochs=warmup,
        warmup_start=start,
        lr_min=lr_min,
        milestones=(0.3, 0.6, 0.8),
        gamma=0.2,
        every=every,
    )


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("name", ["step", "cosine", "linear", "constant"])
def test_learning_rate_equals_reference(name, warmup):
    eta = build_rate(name, warmup)
    for t in range(STEPS):
        expected = reference.lr_at(name, t, STEPS, warmup * STEPS_PER_EPOCH, 0.1, 0.001)
        assert eta(t) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("rho_name", ["constant", "linear", "cosine", "proportional"])
@pytest.mark.parametrize("name", ["step", "cosine", "linear", "constant"])
def test_radius_equals_reference(name, rho_name, warmup):
    eta = build_rate(name, warmup, lr_min=0.0)
    rho = schedules.radius(rho_name, rho=2.0, rho_min=0.5, steps=STEPS, eta=eta, lr=0.1, lr_min=0.0)
    for t in range(STEPS):
        expected = reference.rho_at(rho_name, t, STEPS, 2.0, 0.5, eta(t), 0.1, 0.0)
        assert rho(t) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["step", "cosine", "linear", "constant"])
def test_first_rate_is_full_or_first_of_warmup(name):
    assert build_rate(name)(0) == pytest.approx(0.1)
    assert build_rate(name, warmup=2)(0) == pytest.approx(0.1 / (2 * STEPS_PER_EPOCH))


def test_step_schedule_equals_sam_example():
    eta = schedules.learning_rate(
        "step", lr=0.1, steps_per_epoch=391, epochs=200, milestones=(0.3, 0.6, 0.8), gamma=0.2
    )
    values = [eta(epoch * 391) for epoch in range(200)]
    expected = [0.1] * 60 + [0.02] * 60 + [0.004] * 40 + [0.0008] * 40
    assert values == pytest.approx(expected)
    assert eta(60 * 391 - 1) == pytest.approx(0.1)


@pytest.mark.parametrize(("warmup", "start"), [(0, 0.0), (4, 0.0), (4, 0.25), (4, 1.0)])
@pytest.mark.parametrize("name", ["step", "cosine", "linear", "constant"])
def test_learning_rate_by_epoch_is_constant_in_epoch(name, warmup, start):
    eta = build_rate(name, warmup, "epoch", start=start)
    by_epoch = build_rate(name, warmup, start=start, steps_per_epoch=1)
    for epoch, t in itertools.product(range(EPOCHS), range(STEPS_PER_EPOCH)):
        assert eta(epoch * STEPS_PER_EPOCH + t) == pytest.approx(by_epoch(epoch), rel=1e-12)


def test_warmup_ending_in_epoch_gives_full_rate():
    eta = build_rate("constant", warmup=18 / STEPS_PER_EPOCH, every="epoch")
    expected = [0.1 * 7 / 18, 0.1 * 14 / 18, 0.1, 0.1]  # by epoch
    for t in range(4 * STEPS_PER_EPOCH):
        assert eta(t) == pytest.approx(expected[t // STEPS_PER_EPOCH])


@pytest.mark.parametrize("start", [0.25, 0.5, 1.0])
def test_warmup_from_fraction_equals_torch(start):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    warmup = 2 * STEPS_PER_EPOCH
    rising = lr_scheduler.LinearLR(optimizer, start_factor=start, total_iters=warmup)
    falling = lr_scheduler.CosineAnnealingLR(optimizer, STEPS - warmup, eta_min=0.001)
    scheduler = lr_scheduler.SequentialLR(optimizer, [rising, falling], [warmup])

    eta = build_rate("cosine", warmup=2, start=start)
    for t in range(STEPS):
        assert eta(t) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_warmup_equals_closure_example():
    eta = schedules.learning_rate(
        "cosine", lr=0.1, steps_per_epoch=391, epochs=200, warmup_epochs=5, warmup_start=0.25, every="epoch"
    )
    values = [eta(epoch * 391) for epoch in range(200)]

    assert values[:6] == pytest.approx([0.025, 0.04, 0.055, 0.07, 0.085, 0.1])
    assert values[5:] == pytest.approx([0.05 * (1 + math.cos(math.pi * epoch / 195)) for epoch in range(195)])
    assert eta(390) == values[0]


def test_proportional_radius_has_minimum():
    eta = build_rate("cosine", warmup=5, lr_min=0.05)
    rho = schedules.radius("proportional", rho=2.0, rho_min=0.5, steps=STEPS, eta=eta, lr=0.1, lr_min=0.05)
    values = [rho(t) for t in range(STEPS)]
    assert min(values) == 0.5 == values[0]
    assert max(values) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("start", "peak", "end"), [(0.2, 0.23, 0.07), (0.2, 0.1, 0.0), (1.0, 0.5, 0.5), (0.5, 0.001, 0.0)]
)
def test_triangular_schedule_equals_interpolation(start, peak, end):
    eta = schedules.learning_rate("triangular", lr=0.3, steps_per_epoch=48, epochs=10, start=start, peak=peak, end=end)
    top = int(peak * 480)
    expected = 0.3 * np.interp(range(480), [0, top, 480] if top else [0, 480], [start, 1, end] if top else [1, end])
    np.testing.assert_allclose([eta(t) for t in range(480)], expected, rtol=1e-12)
