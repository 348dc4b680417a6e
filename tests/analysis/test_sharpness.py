"""Tests of sharpness against closed forms on quadratics, and on a tiny network."""

import functools
import math

import pytest
import torch
from torch import nn

from sam_bench.analysis.objective import Objective
from sam_bench.analysis.sharpness import average_case, m_sharpness, worst_case
from sam_bench.optim import registry
from tests.analysis.problem import BATCH, IMAGES, examples, make_network, make_objective, plain_loss

#: The Hessian of the quadratic, and the weights at which its sharpness is measured.
A = torch.tensor([[4.0, 1, 0], [1, 3, 0.5], [0, 0.5, 0.2]], dtype=torch.float64)
W = torch.tensor([0.3, -2.0, 1.5], dtype=torch.float64)


class Weights(nn.Module):
    """A network whose output is its weights."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w.clone())

    def forward(self, x):
        return self.w


def quadratic(linear=0.0):
    """Return the loss ½ wᵀ A w + linear · Σ w."""
    x = torch.zeros(1, dtype=torch.float64)
    return Objective(Weights(W), x, x, criterion=lambda w, _: w @ A @ w / 2 + linear * w.sum())


def maximum_in_ball(gradient, hessian, rho):
    """Return the maximum of gᵀe + ½ eᵀHe over ‖e‖ ≤ ρ, where H has a positive eigenvalue.

    It is at e = (μ − H)⁻¹ g with ‖e‖ = ρ; bisection finds μ.
    """
    values, vectors = torch.linalg.eigh(hessian)
    g = vectors.T @ gradient

    low, high = values[-1].item(), values[-1].item() + gradient.norm().item() / rho + 1
    for _ in range(200):
        mu = (low + high) / 2
        low, high = (mu, high) if (g / (mu - values)).norm() > rho else (low, mu)

    e = g / (high - values)
    return (g @ e + (values * e**2).sum() / 2).item()


@pytest.mark.parametrize("rho", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("adaptive", [False, True])
def test_worst_case_of_quadratic_is_exact(rho, adaptive):
    scale = W.abs() if adaptive else torch.ones(3, dtype=torch.float64)
    gradient = A @ W

    worst = worst_case(quadratic(), W, rho, steps=200, adaptive=adaptive)

    e = rho * scale**2 * gradient / (scale * gradient).norm()
    assert worst.one_step == pytest.approx((gradient @ e + e @ A @ e / 2).item(), rel=1e-9)
    exact = maximum_in_ball(scale * gradient, scale[:, None] * A * scale, rho)
    assert worst.ascent == pytest.approx(exact, rel=1e-6)
    assert worst.ascent >= worst.one_step


def test_worst_case_rises_with_ascent_steps():
    objective = make_objective()
    rises = [worst_case(objective, objective.weights, 0.5, steps) for steps in range(6)]
    assert rises[0].ascent == rises[0].one_step > 0
    assert all(each.one_step == pytest.approx(rises[0].one_step, rel=1e-12) for each in rises)
    assert sorted(each.ascent for each in rises) == [each.ascent for each in rises]
    assert rises[-1].ascent > 1.01 * rises[0].ascent


@pytest.mark.parametrize(("method", "adaptive"), [("sam", False), ("asam", True)])
def test_one_step_is_the_optimizers_perturbation(method, adaptive):
    network = make_network().eval()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = registry.method(method)(parameters, torch.optim.SGD, rho=0.3, lr=0.1)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(examples()[0]), examples()[1])
        loss.backward()
        losses.append(loss.item())
        return loss

    optimizer.step(closure)

    objective = make_objective()
    worst = worst_case(objective, objective.weights, 0.3, 0, adaptive)
    assert worst.one_step == pytest.approx(losses[1] - losses[0], rel=1e-9)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("batchnorm", ["stored", "batch"])
def test_m_sharpness_is_mean_over_batches(adaptive, batchnorm):
    objective = make_objective(batchnorm)
    w = objective.weights

    # The rise of the plain loss of each half of the images, for its own perturbation.
    rises = []
    for half in range(IMAGES // BATCH):
        loss = functools.partial(plain_loss, batchnorm=batchnorm, only=half)
        gradient = torch.autograd.functional.jacobian(loss, w)
        scale = w.abs() if adaptive else torch.ones_like(w)
        e = 0.3 * scale**2 * gradient / (scale * gradient).norm()
        rises.append((loss(w + e) - loss(w)).item())
    assert len(rises) == 2 and rises[0] != pytest.approx(rises[1], rel=0.01)

    sharpness = m_sharpness(objective, w, 0.3, adaptive)
    assert sharpness == pytest.approx(sum(rises) / 2, rel=1e-9)
    assert sharpness != pytest.approx(worst_case(objective, w, 0.3, 0, adaptive).one_step)

    one_batch = Objective(make_network(), *examples(), IMAGES, batchnorm)
    assert m_sharpness(one_batch, w, 0.3, adaptive) == worst_case(one_batch, w, 0.3, 0, adaptive).one_step


def test_worst_case_of_nonfinite_loss_is_infinite():
    def criterion(w, _):
        return (w.norm() - 2.6).clamp(max=0) + torch.log(3 - w.norm())  # finite only where ‖w‖ < 3

    x = torch.zeros(1, dtype=torch.float64)
    assert worst_case(Objective(Weights(W), x, x, criterion=criterion), W, 2.0, 2).ascent == math.inf


@pytest.mark.parametrize("adaptive", [False, True])
def test_average_case_of_quadratic_is_half_the_trace(adaptive):
    objective = quadratic(linear=100.0)  # the slope makes no difference
    scale = W.abs() if adaptive else torch.ones(3, dtype=torch.float64)
    exact = 0.1**2 * (scale**2 * A.diagonal()).sum().item() / 2

    average = average_case(objective, W, 0.1, draws=4000, adaptive=adaptive)

    assert average.mean == pytest.approx(exact, abs=4 * average.standard_error)
    assert average.standard_error < 0.05 * exact
    assert average_case(objective, W, 0.1, 3, adaptive) == average_case(objective, W, 0.1, 3, adaptive)
    assert math.isnan(average_case(objective, W, 0.1, 1).standard_error)


def test_only_adaptive_measures_ignore_rescaling():
    """Rescaling layers without changing the function changes the other measures (Dinh et al., 2017)."""
    torch.manual_seed(0)
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randint(0, 3, (30,))

    plain = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    rescaled = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    with torch.no_grad():
        rescaled[0].weight.copy_(5 * plain[0].weight)
        rescaled[2].weight.copy_(plain[2].weight / 5)

    objectives = Objective(plain, x, y), Objective(rescaled, x, y)
    for adaptive in (True, False):
        for measure in (worst_case, average_case):
            before, after = (measure(each, each.weights, 0.2, 3, adaptive) for each in objectives)
            assert (after == pytest.approx(before, rel=1e-6)) is adaptive


@pytest.mark.parametrize("rho", [0.0, -1.0, math.nan])
def test_radius_not_above_0_is_refused(rho):
    objective = quadratic()
    with pytest.raises(ValueError, match="above 0"):
        worst_case(objective, W, rho, 1)
    with pytest.raises(ValueError, match="above 0"):
        m_sharpness(objective, W, rho)
    with pytest.raises(ValueError, match="above 0"):
        average_case(objective, W, rho, 1)


def test_bad_numbers_of_steps_and_draws_are_refused():
    with pytest.raises(ValueError, match="steps=-1"):
        worst_case(quadratic(), W, 0.1, -1)
    with pytest.raises(ValueError, match="draws=0"):
        average_case(quadratic(), W, 0.1, 0)
