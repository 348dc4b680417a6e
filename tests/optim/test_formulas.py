"""Tests of what the methods' formulas imply: lengths of perturbations, projections and thresholds."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sam_bench import GSAM
from sam_bench.optim.norms import global_norm, inner_product
from tests.optim.problem import closure_for, network, wrap

#: Methods with a perturbation as long as the radius.
NORMALISED = ["sam", "wasam", "wsam", "gnp", "fsam", "vasso", "looksam", "sam_every_k", "sam_on", "stable_sam", "saner"]
NORMALISED += ["ss_sam", "ae_sam"]


def perturbation(name: str, rho: float) -> tuple[nn.Module, list[torch.Tensor], list[torch.Tensor]]:
    """Take a step; return the model, its weights before the step, and their perturbation in the second pass."""
    model = network()
    optimizer = wrap(model, name, rho)
    closure, weights_of_passes = closure_for(model, optimizer), []

    def recording():
        weights_of_passes.append([p.detach().clone() for p in model.parameters()])
        return closure()

    optimizer.step(recording)
    before, perturbed = weights_of_passes
    return model, before, [x - w for x, w in zip(perturbed, before, strict=True)]


def random_gradients(*sizes: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return g and h, each with tensors of the given sizes."""
    generator = torch.Generator().manual_seed(0)
    g, h = ([torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes] for _ in range(2))
    return g, h


@pytest.mark.parametrize("name", NORMALISED)
@pytest.mark.parametrize("rho", [0.01, 0.05, 2.0])
def test_perturbation_is_as_long_as_radius(name, rho):
    _, _, e = perturbation(name, rho)
    assert global_norm(e).item() == pytest.approx(rho, rel=1e-9)


@pytest.mark.parametrize("rho", [0.01, 0.5, 2.0])
def test_asam_perturbation_has_radius_in_units_of_w(rho):
    _, w, e = perturbation("asam", rho)
    scaled = [torch.where(x != 0, y / x.abs(), 0.0) for x, y in zip(w, e, strict=True)]
    assert global_norm(scaled).item() == pytest.approx(rho, rel=1e-9)
    assert all((y[x == 0] == 0).all() for x, y in zip(w, e, strict=True))


@pytest.mark.parametrize("rho", [0.01, 0.5])
def test_official_asam_scales_weight_tensors_only(rho):
    model, w, e = perturbation("asam_official", rho)
    names = [name for name, _ in model.named_parameters()]
    scaled = [y / (x.abs() + 0.01) if "weight" in name else y for name, x, y in zip(names, w, e, strict=True)]
    assert global_norm(scaled).item() == pytest.approx(rho, rel=1e-9)


def test_asam_perturbed_loss_ignores_layer_scales():
    def perturbed_loss(scale: float) -> float:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
        with torch.no_grad():
            model[0].weight.mul_(scale)
            model[2].weight.div_(scale)
        x, y = torch.randn(20, 5).double(), torch.randint(0, 3, (20,))
        optimizer, losses = wrap(model, "asam", rho=0.3), []

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            losses.append(loss.item())
            return loss

        optimizer.step(closure)
        return losses[1]

    assert perturbed_loss(1.0) == pytest.approx(perturbed_loss(7.0), rel=1e-10)


def test_gsam_keeps_projection_on_h():
    g, h = random_gradients(7, 11)
    v = GSAM([torch.zeros(1)], torch.optim.SGD, lr=0.1, alpha=0.4).combine(g, [x.clone() for x in h])
    assert inner_product(v, h).item() == pytest.approx(inner_product(h, h).item(), rel=1e-12)


def test_stable_sam_gives_h_the_length_of_g():
    optimizer = wrap(network(), "stable_sam")
    g, h = random_gradients(3, 40)
    v = optimizer.combine(g, h)
    assert global_norm(v).item() == pytest.approx(global_norm(g).item(), rel=1e-9)
    assert inner_product(v, h).item() == pytest.approx((global_norm(v) * global_norm(h)).item(), rel=1e-9)
    assert all((x == 0).all() for x in optimizer.combine(g, [torch.zeros_like(x) for x in h]))


def test_saner_reduces_elements_that_shrank():
    optimizer = wrap(network(), "saner", alpha=0.25)
    g = [torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0]), torch.tensor([[-2.0, -2.0, 0.0, 0.0, -2.0]])]
    h = [torch.tensor([1.0, 3.0, 2.0, -1.0, 0.0]), torch.tensor([[-1.0, -3.0, 1.0, 0.0, 1.0]])]
    first, second = optimizer.combine(g, h)
    assert first.tolist() == [0.75, 3.0, 2.0, -1.0, 0.0]
    assert second.tolist() == [[-0.75, -3.0, 1.0, 0.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 30), (6, 5, 3, 3), (1, 1), (3, 1)])
def test_zsharp_keeps_elements_with_great_z_score(shape, dtype):
    optimizer = wrap(network(), "zsharp", quantile=0.9)
    g = [torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype) + 0.3, torch.randn(7).to(dtype)]
    first, second = optimizer.direction(g, g)

    # Where no element stands out, the direction is SAM's, with the norm over all tensors.
    z = ((g[0].double() - g[0].double().mean()) / g[0].double().std(correction=0)).abs().nan_to_num()
    kept = torch.where(z > torch.quantile(z, 0.9), g[0], 0.0)
    expected = kept / kept.norm() if kept.any() else g[0] / global_norm(g)
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype is torch.float64 else {"rtol": 0.02, "atol": 1e-3}
    torch.testing.assert_close(first, expected, **tolerance)
    torch.testing.assert_close(second, (g[1] / global_norm(g)).to(dtype), check_dtype=False, **tolerance)


# The radius of the class GSAM, which can follow the learning rate


def test_gsam_radius_follows_rate():
    model = network()
    optimizer = GSAM(model.parameters(), torch.optim.SGD, rho=0.4, rho_min=0.1, model=model, lr=0.2, lr_min=0.1)
    group = optimizer.param_groups[0]
    radii = []
    for rate in (0.2, 0.15, 0.1, 0.05, 0.3):
        group["lr"] = rate
        radii.append(optimizer.radius(group))
    assert radii == pytest.approx([0.4, 0.25, 0.1, 0.1, 0.4])


def test_gsam_radius_follows_tensor_rate():
    model = network()
    rate = torch.tensor(0.2)
    optimizer = GSAM(model.parameters(), torch.optim.SGD, rho=0.4, rho_min=0.0, model=model, lr=rate)
    rate.fill_(0.1)  # as torch's schedulers do
    assert optimizer.radius(optimizer.param_groups[0]) == pytest.approx(0.2)


def test_gsam_radius_is_relative_to_lr_max():
    model = network()
    optimizer = GSAM(model.parameters(), torch.optim.SGD, rho=0.4, rho_min=0.0, model=model, lr=0.1, lr_max=0.4)
    assert optimizer.radius(optimizer.param_groups[0]) == pytest.approx(0.1)
