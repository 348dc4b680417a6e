"""The loss as a function of the weights, beside plain functions of a vector, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sam_bench.analysis.objective import Objective
from sam_bench.models.registry import MODELS, model
from tests.analysis.problem import dense_hessian, examples, network, objective, plain_loss

BATCHNORM = ["stored", "batch"]
MEMBERS = {
    "wide_resnet": {"depth": 10, "width": 1},
    "resnet": {"depth": 8},
    "resnet_imagenet": {"depth": 18},
    "resnext": {"depth": 11, "groups": 2, "group_width": 4},
    "pyramidnet": {"depth": 8, "alpha": 6},
    "pyramidnet_bottleneck": {"depth": 11, "alpha": 6},
    "torchvision": {"arch": "resnet18"},
    "airbench": {"accuracy": 94},
}
"""A small one of each family."""


def moved(w):
    """Weights other than the network's own."""
    return w + 0.3 * torch.randn(w.numel(), generator=torch.Generator().manual_seed(3), dtype=w.dtype)


@pytest.mark.parametrize("batchnorm", BATCHNORM)
@pytest.mark.parametrize("at", [lambda w: w, moved])
def test_value_gradient_and_hessian_are_those_of_the_plain_loss(batchnorm, at):
    ours = objective(batchnorm)
    w = at(ours.weights)
    variable = w.clone().requires_grad_()
    loss = plain_loss(variable, batchnorm)
    (gradient,) = torch.autograd.grad(loss, variable)
    assert ours.value(w).loss == pytest.approx(loss.item(), rel=1e-12)
    found, ours_gradient = ours.gradient(w)
    assert found == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(ours_gradient, gradient, rtol=1e-10, atol=1e-12)
    hessian = dense_hessian(w, batchnorm)
    columns = torch.stack([ours.hessian_product(w, v) for v in torch.eye(ours.size, dtype=w.dtype)], 1)
    torch.testing.assert_close(columns, hessian, rtol=1e-9, atol=1e-12)


def test_the_error_is_in_percent_and_dropout_is_off():
    ours = objective()
    x, y = examples()
    wrong = (network().eval()(x).argmax(1) != y).double().mean()
    assert ours.value(ours.weights).error == pytest.approx(100 * wrong.item())
    assert ours.value(ours.weights) == ours.value(ours.weights)


@pytest.mark.parametrize("batchnorm", [*BATCHNORM, "reestimated"])
def test_the_network_stays_as_it_is(batchnorm):
    its = network().train()
    before = copy.deepcopy(its.state_dict())
    ours = Objective(its, *examples(), batchnorm=batchnorm)
    state = torch.get_rng_state()
    ours.value(moved(ours.weights))
    if batchnorm != "reestimated":
        ours.gradient(moved(ours.weights))
        ours.hessian_product(ours.weights, ours.weights)
    assert all(torch.equal(before[name], value) for name, value in its.state_dict().items())
    assert its.training and all(p.grad is None for p in its.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_reestimated_statistics_are_those_of_the_images_at_the_weights():
    ours = objective("reestimated")
    w = moved(ours.weights)
    its = network()
    its.load_state_dict(ours.split(w), strict=False)
    x, y = examples()
    with torch.no_grad():
        hidden = its[0](x)
    its[1].running_mean.copy_(hidden.mean((0, 2, 3)))
    its[1].running_var.copy_(torch.stack([half.var((0, 2, 3)) for half in hidden.split(20)]).mean(0))
    expected = F.cross_entropy(its.eval()(x), y)
    assert ours.value(w).loss == pytest.approx(expected.item(), rel=1e-9)
    with pytest.raises(ValueError, match="no derivatives"):
        ours.gradient(w)
    with pytest.raises(ValueError, match="no derivatives"):
        ours.hessian_product(w, w)


def test_the_size_of_a_batch_changes_nothing_with_stored_statistics():
    x, y = examples()
    one, other = (Objective(network(), x, y, size) for size in (7, 40))
    assert one.value(one.weights).loss == pytest.approx(other.value(other.weights).loss, rel=1e-12)
    v = moved(one.weights)
    torch.testing.assert_close(one.hessian_product(v, v), other.hessian_product(v, v), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batchnorm", BATCHNORM)
@pytest.mark.parametrize("family", MODELS)
def test_every_network_has_hessian_products(family, batchnorm):
    """Forward mode over the backward pass is what some operations do not have."""
    torch.manual_seed(0)
    its = model(family, 10, **MEMBERS[family]).double()
    x, y = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.arange(4)
    ours = Objective(its, x, y, 4, batchnorm)
    w = ours.weights + 1e-2 * torch.randn_like(ours.weights)
    u, v = torch.randn(2, ours.size, dtype=torch.float64)
    hu, hv = ours.hessian_product(w, u), ours.hessian_product(w, v)
    assert torch.isfinite(hv).all() and hv.any()
    assert torch.dot(u, hv).item() == pytest.approx(torch.dot(v, hu).item(), rel=1e-6)


def test_a_parameter_without_part_in_the_loss_has_no_curvature():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Parameter(torch.ones(2, dtype=torch.float64))
            self.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x):
            return x @ self.used

    ours = Objective(
        Spare(), torch.eye(2, dtype=torch.float64), torch.zeros(2), criterion=lambda out, _: (out**2).sum()
    )
    torch.testing.assert_close(ours.gradient(ours.weights)[1], torch.tensor([2.0, 2, 0, 0, 0], dtype=torch.float64))
    product = ours.hessian_product(ours.weights, torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(product, torch.tensor([2.0, 2, 0, 0, 0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batchnorm": "none"}, "stored, batch, reestimated"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"images": torch.zeros(0, 3, 6, 6), "labels": torch.zeros(0)}, "0 images"),
        ({"model": nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double())}, "one dtype"),
    ],
)
def test_what_makes_no_sense_is_refused(change, words):
    x, y = examples()
    with pytest.raises(ValueError, match=words):
        Objective(**{"model": network(), "images": x, "labels": y} | change)
