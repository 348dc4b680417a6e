"""A tiny network in float64, its images, its loss as a plain function, and its dense Hessian."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sam_bench.analysis.objective import Objective

IMAGES, CLASSES, BATCH = 40, 3, 20


def make_network() -> nn.Module:
    """Return a network with all that needs care: running statistics, dropout and a frozen parameter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5),
            nn.Linear(4, CLASSES),
        ).double()  # fmt: skip
        layers[1].running_mean.normal_()
        layers[1].running_var.uniform_(0.5, 2)
        nn.init.normal_(layers[1].bias)
        layers[0].bias.requires_grad_(False)
    return layers


def examples() -> tuple[Tensor, Tensor]:
    """Draw inputs and labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(IMAGES, 3, 6, 6, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, CLASSES, (IMAGES,), generator=generator)


def make_objective(batchnorm: str = "stored") -> Objective:
    return Objective(make_network(), *examples(), BATCH, batchnorm)


def plain_loss(w: Tensor, batchnorm: str = "stored", only: int | None = None) -> Tensor:
    """Compute L(w) without the package's code.

    Args:
        w: the parameters that are not frozen, as one vector.
        only: the half of the images, 0 or 1; else both.
    """
    model = make_network().eval()
    if batchnorm == "batch":
        model[1].train()

    parameters, start = {}, 0
    for name, p in model.named_parameters():
        if p.requires_grad:
            parameters[name] = w[start : start + p.numel()].reshape(p.shape)
            start += p.numel()

    x, y = examples()
    halves = zip(x.split(BATCH), y.split(BATCH), strict=True)
    losses = torch.stack([F.cross_entropy(functional_call(model, parameters, a), b) for a, b in halves])
    return losses.mean() if only is None else losses[only]


def dense_hessian(w: Tensor, batchnorm: str = "stored") -> Tensor:
    return torch.autograd.functional.hessian(lambda at: plain_loss(at, batchnorm), w)
