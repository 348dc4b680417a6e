"""Worst-case and average-case sharpness, on quadratics that have them in closed form, and on a tiny network."""

import functools
import math

import pytest
import torch
from torch import nn

from sam_bench.analysis.objective import Objective
from sam_bench.analysis.sharpness import average_case, m_sharpness, worst_case
from sam_bench.optim import registry
from tests.analysis.problem import BATCH, IMAGES, examples, network, objective, plain_loss

A = torch.tensor([[4.0, 1, 0], [1, 3, 0.5], [0, 0.5, 0.2]], dtype=torch.float64)
W = torch.tensor([0.3, -2.0, 1.5], dtype=torch.float64)


class Point(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w.clone())

    def forward(self, x):
        return self.w


def quadratic(linear=0.0):
    """½ wᵀ A w + linear · Σ w."""
    x = torch.zeros(1, dtype=torch.float64)
    return Objective(Point(W), x, x, criterion=lambda w, _: w @ A @ w / 2 + linear * w.sum())


def farthest(gradient, hessian, rho):
    """The maximum of gᵀe + ½ eᵀHe over a ball, where H has a positive eigenvalue: e = (μ − H)⁻¹ g, ‖e‖ = ρ."""
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
def test_the_worst_case_of_a_quadratic_is_met(rho, adaptive):
    ours = quadratic()
    scale = W.abs() if adaptive else torch.ones(3, dtype=torch.float64)
    gradient = A @ W
    e = rho * scale**2 * gradient / (scale * gradient).norm()
    found = worst_case(ours, W, rho, steps=200, adaptive=adaptive)
    assert found.one_step == pytest.approx((gradient @ e + e @ A @ e / 2).item(), rel=1e-9)
    exact = farthest(scale * gradient, scale[:, None] * A * scale, rho)
    assert found.ascent == pytest.approx(exact, rel=1e-6)
    assert found.ascent >= found.one_step


def test_steps_of_ascent_never_find_less():
    ours = objective()
    rises = [worst_case(ours, ours.weights, 0.5, steps) for steps in range(6)]
    assert rises[0].ascent == rises[0].one_step > 0
    assert all(each.one_step == pytest.approx(rises[0].one_step, rel=1e-12) for each in rises)
    assert sorted(each.ascent for each in rises) == [each.ascent for each in rises]
    assert rises[-1].ascent > 1.01 * rises[0].ascent


@pytest.mark.parametrize(("method", "adaptive"), [("sam", False), ("asam", True)])
def test_one_step_is_what_the_optimizer_goes_to(method, adaptive):
    ours = objective()
    its = network().eval()
    parameters = [p for p in its.parameters() if p.requires_grad]
    optimizer = registry.method(method)(parameters, torch.optim.SGD, rho=0.3, lr=0.1)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(its(examples()[0]), examples()[1])
        loss.backward()
        losses.append(loss.item())
        return loss

    optimizer.step(closure)
    found = worst_case(ours, ours.weights, 0.3, 0, adaptive)
    assert found.one_step == pytest.approx(losses[1] - losses[0], rel=1e-9)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("batchnorm", ["stored", "batch"])
def test_m_sharpness_is_the_mean_of_the_batches_own_rises(adaptive, batchnorm):
    """Against a plain loss with a step for each half of the images."""
    ours = objective(batchnorm)
    w = ours.weights
    found = []
    for half in range(IMAGES // BATCH):
        its = functools.partial(plain_loss, batchnorm=batchnorm, only=half)
        gradient = torch.autograd.functional.jacobian(its, w)
        scale = w.abs() if adaptive else torch.ones_like(w)
        e = 0.3 * scale**2 * gradient / (scale * gradient).norm()
        found.append((its(w + e) - its(w)).item())
    assert len(found) == 2 and found[0] != pytest.approx(found[1], rel=0.01)
    assert m_sharpness(ours, w, 0.3, adaptive) == pytest.approx(sum(found) / 2, rel=1e-9)
    assert m_sharpness(ours, w, 0.3, adaptive) != pytest.approx(worst_case(ours, w, 0.3, 0, adaptive).one_step)
    whole = Objective(network(), *examples(), IMAGES, batchnorm)
    assert m_sharpness(whole, w, 0.3, adaptive) == worst_case(whole, w, 0.3, 0, adaptive).one_step


def test_a_loss_that_is_not_finite_is_infinitely_sharp():
    x = torch.zeros(1, dtype=torch.float64)
    ours = Objective(Point(W), x, x, criterion=lambda w, _: (w.norm() - 2.6).clamp(max=0) + torch.log(3 - w.norm()))
    found = worst_case(ours, W, 2.0, 2)
    assert found.ascent == math.inf


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_average_case_of_a_quadratic_is_half_the_trace(adaptive):
    ours = quadratic(linear=100.0)  # the slope has no part in it
    scale = W.abs() if adaptive else torch.ones(3, dtype=torch.float64)
    exact = 0.1**2 * (scale**2 * A.diagonal()).sum().item() / 2
    found = average_case(ours, W, 0.1, draws=4000, adaptive=adaptive)
    assert found.mean == pytest.approx(exact, abs=4 * found.standard_error)
    assert found.standard_error < 0.05 * exact
    assert average_case(ours, W, 0.1, 3, adaptive) == average_case(ours, W, 0.1, 3, adaptive)
    assert math.isnan(average_case(ours, W, 0.1, 1).standard_error)


def test_adaptive_measures_do_not_see_a_rescaling_that_leaves_the_function():
    """The others do: that is Dinh et al.'s (2017) objection to flatness."""
    torch.manual_seed(0)
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randint(0, 3, (30,))
    plain = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    rescaled = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    with torch.no_grad():
        rescaled[0].weight.copy_(5 * plain[0].weight)
        rescaled[2].weight.copy_(plain[2].weight / 5)
    one, other = Objective(plain, x, y), Objective(rescaled, x, y)
    for adaptive in (True, False):
        same = pytest.approx(worst_case(one, one.weights, 0.2, 3, adaptive), rel=1e-6)
        assert (worst_case(other, other.weights, 0.2, 3, adaptive) == same) is adaptive
        same = pytest.approx(average_case(one, one.weights, 0.2, 3, adaptive), rel=1e-6)
        assert (average_case(other, other.weights, 0.2, 3, adaptive) == same) is adaptive


@pytest.mark.parametrize("rho", [0.0, -1.0, math.nan])
def test_radii_and_numbers_out_of_range_are_refused(rho):
    ours = quadratic()
    with pytest.raises(ValueError, match="above 0"):
        worst_case(ours, W, rho, 1)
    with pytest.raises(ValueError, match="above 0"):
        m_sharpness(ours, W, rho)
    with pytest.raises(ValueError, match="above 0"):
        average_case(ours, W, rho, 1)
    with pytest.raises(ValueError, match="steps=-1 must be at least 0"):
        worst_case(ours, W, 0.1, -1)
    with pytest.raises(ValueError, match="at least 1"):
        average_case(ours, W, 0.1, 0)
