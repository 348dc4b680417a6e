"""Tests of the loss as a function of the weights, against a plain function of one vector in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sam_bench.analysis.objective import Objective
from sam_bench.models.registry import MODELS, model
from tests.analysis.problem import dense_hessian, examples, make_network, make_objective, plain_loss

BATCHNORM = ["stored", "batch"]

#: Settings of a small network of each family.
SMALL = {
    "wide_resnet": {"depth": 10, "width": 1},
    "resnet": {"depth": 8},
    "resnet_imagenet": {"depth": 18},
    "resnext": {"depth": 11, "groups": 2, "group_width": 4},
    "pyramidnet": {"depth": 8, "alpha": 6},
    "pyramidnet_bottleneck": {"depth": 11, "alpha": 6},
    "torchvision": {"arch": "resnet18"},
    "airbench": {"accuracy": 94},
}


def moved(w):
    """Return other weights than the network's own."""
    return w + 0.3 * torch.randn(w.numel(), generator=torch.Generator().manual_seed(3), dtype=w.dtype)


@pytest.mark.parametrize("batchnorm", BATCHNORM)
@pytest.mark.parametrize("at", [lambda w: w, moved])
def test_value_gradient_and_hessian_equal_plain(batchnorm, at):
    objective = make_objective(batchnorm)
    w = at(objective.weights)
    variable = w.clone().requires_grad_()
    expected_loss = plain_loss(variable, batchnorm)
    (expected_gradient,) = torch.autograd.grad(expected_loss, variable)

    assert objective.value(w).loss == pytest.approx(expected_loss.item(), rel=1e-12)

    loss, gradient = objective.gradient(w)
    assert loss == pytest.approx(expected_loss.item(), rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)

    columns = torch.stack([objective.hessian_product(w, v) for v in torch.eye(objective.size, dtype=w.dtype)], 1)
    torch.testing.assert_close(columns, dense_hessian(w, batchnorm), rtol=1e-9, atol=1e-12)


def test_value_has_error_in_percent_without_dropout():
    objective = make_objective()
    x, y = examples()
    wrong = (make_network().eval()(x).argmax(1) != y).double().mean()
    assert objective.value(objective.weights).error == pytest.approx(100 * wrong.item())
    assert objective.value(objective.weights) == objective.value(objective.weights)


@pytest.mark.parametrize("batchnorm", [*BATCHNORM, "reestimated"])
def test_objective_leaves_network_unchanged(batchnorm):
    network = make_network().train()
    before = copy.deepcopy(network.state_dict())
    objective = Objective(network, *examples(), batchnorm=batchnorm)
    rng_state = torch.get_rng_state()

    objective.value(moved(objective.weights))
    if batchnorm != "reestimated":
        objective.gradient(moved(objective.weights))
        objective.hessian_product(objective.weights, objective.weights)

    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.training and all(p.grad is None for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), rng_state)


def test_reestimated_value_uses_new_statistics():
    objective = make_objective("reestimated")
    w = moved(objective.weights)
    network = make_network()
    network.load_state_dict(objective.split(w), strict=False)

    x, y = examples()
    with torch.no_grad():
        hidden = network[0](x)
    network[1].running_mean.copy_(hidden.mean((0, 2, 3)))
    network[1].running_var.copy_(torch.stack([half.var((0, 2, 3)) for half in hidden.split(20)]).mean(0))

    expected = F.cross_entropy(network.eval()(x), y)
    assert objective.value(w).loss == pytest.approx(expected.item(), rel=1e-9)


def test_reestimated_derivatives_are_refused():
    objective = make_objective("reestimated")
    w = objective.weights
    with pytest.raises(ValueError, match="derivatives"):
        objective.gradient(w)
    with pytest.raises(ValueError, match="derivatives"):
        objective.hessian_product(w, w)


def test_stored_value_does_not_depend_on_batch_size():
    x, y = examples()
    small, large = (Objective(make_network(), x, y, size) for size in (7, 40))
    assert small.value(small.weights).loss == pytest.approx(large.value(large.weights).loss, rel=1e-12)
    v = moved(small.weights)
    torch.testing.assert_close(small.hessian_product(v, v), large.hessian_product(v, v), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batchnorm", BATCHNORM)
@pytest.mark.parametrize("family", MODELS)
def test_every_network_has_hessian_products(family, batchnorm):
    """Some operations of torch have no forward mode over the backward pass, which a product needs."""
    torch.manual_seed(0)
    network = model(family, 10, **SMALL[family]).double()
    x, y = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.arange(4)
    objective = Objective(network, x, y, 4, batchnorm)

    w = objective.weights + 1e-2 * torch.randn_like(objective.weights)
    u, v = torch.randn(2, objective.size, dtype=torch.float64)
    hu, hv = objective.hessian_product(w, u), objective.hessian_product(w, v)

    # The Hessian is symmetric.
    assert torch.isfinite(hv).all() and hv.any()
    assert torch.dot(u, hv).item() == pytest.approx(torch.dot(v, hu).item(), rel=1e-6)


def test_unused_parameter_has_no_curvature():
    class PartlyUsed(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Parameter(torch.ones(2, dtype=torch.float64))
            self.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x):
            return x @ self.used

    x, y = torch.eye(2, dtype=torch.float64), torch.zeros(2)
    objective = Objective(PartlyUsed(), x, y, criterion=lambda out, _: (out**2).sum())
    expected = torch.tensor([2.0, 2, 0, 0, 0], dtype=torch.float64)

    torch.testing.assert_close(objective.gradient(objective.weights)[1], expected)
    product = objective.hessian_product(objective.weights, torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(product, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batchnorm": "none"}, "stored, batch, reestimated"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"images": torch.zeros(0, 3, 6, 6), "labels": torch.zeros(0)}, "0 images"),
        ({"model": nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double())}, "one dtype"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    x, y = examples()
    with pytest.raises(ValueError, match=message):
        Objective(**{"model": make_network(), "images": x, "labels": y} | change)
