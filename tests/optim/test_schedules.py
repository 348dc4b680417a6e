"""Learning rate and radius over time, against the plain reference and in their known values."""

import itertools

import pytest

from sam_bench.optim import schedules
from tests.optim import reference

EPOCHS, STEPS_PER_EPOCH = 20, 7
STEPS = EPOCHS * STEPS_PER_EPOCH


def rate(name: str, warmup: float = 0, every: str = "step", lr_min: float = 0.001) -> schedules.Schedule:
    return schedules.learning_rate(
        name,
        lr=0.1,
        steps_per_epoch=STEPS_PER_EPOCH,
        epochs=EPOCHS,
        warmup_epochs=warmup,
        lr_min=lr_min,
        milestones=(0.3, 0.6, 0.8),
        factor=0.2,
        every=every,
    )


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("name", ["step", "cosine", "linear", "constant"])
def test_the_learning_rate_equals_the_reference_at_every_step(name, warmup):
    eta = rate(name, warmup)
    for t in range(STEPS):
        expected = reference.lr_at(name, t, STEPS, warmup * STEPS_PER_EPOCH, 0.1, 0.001)
        assert eta(t) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("rho_name", ["constant", "linear", "cosine", "proportional"])
@pytest.mark.parametrize("name", ["step", "cosine", "linear", "constant"])
def test_the_radius_equals_the_reference_at_every_step(name, rho_name, warmup):
    eta = rate(name, warmup, lr_min=0.0)
    rho = schedules.radius(rho_name, rho=2.0, rho_min=0.5, steps=STEPS, eta=eta, lr=0.1, lr_min=0.0)
    for t in range(STEPS):
        expected = reference.rho_at(rho_name, t, STEPS, 2.0, 0.5, eta(t), 0.1, 0.0)
        assert rho(t) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["step", "cosine", "linear", "constant"])
def test_the_first_step_is_at_the_first_value(name):
    assert rate(name)(0) == pytest.approx(0.1)
    assert rate(name, warmup=2)(0) == pytest.approx(0.1 / (2 * STEPS_PER_EPOCH))


def test_the_step_schedule_is_the_sam_examples():
    eta = schedules.learning_rate(
        "step", lr=0.1, steps_per_epoch=391, epochs=200, milestones=(0.3, 0.6, 0.8), factor=0.2
    )
    values = [eta(epoch * 391) for epoch in range(200)]
    expected = [0.1] * 60 + [0.02] * 60 + [0.004] * 40 + [0.0008] * 40
    assert values == pytest.approx(expected)
    assert eta(60 * 391 - 1) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_by_the_epoch_the_rate_holds_within_each(name):
    eta, by_step = rate(name, every="epoch"), rate(name)
    for epoch, t in itertools.product(range(EPOCHS), range(STEPS_PER_EPOCH)):
        assert eta(epoch * STEPS_PER_EPOCH + t) == by_step(epoch * STEPS_PER_EPOCH)


def test_a_proportional_radius_is_never_under_its_least():
    eta = rate("cosine", warmup=5, lr_min=0.05)
    rho = schedules.radius("proportional", rho=2.0, rho_min=0.5, steps=STEPS, eta=eta, lr=0.1, lr_min=0.05)
    values = [rho(t) for t in range(STEPS)]
    assert min(values) == 0.5 == values[0]
    assert max(values) == pytest.approx(2.0)
